"""Which cores each local node gets, and how many threads: pure functions of the cores and the nodes' speeds.

Every node has cores of its own; emulated slow ones may share them where their quotas fit. What no thread needs is
shared out as well, so that a second run on the machine finds its way around the first one's threads.
"""

from collections.abc import Sequence

Placement = tuple[tuple[int, ...], ...]

_ROUNDING = 1e-9  # quotas of 0.1 and 0.9 fill a core


def place(cores: Sequence[int], threads: int, speeds: Sequence[float]) -> Placement | None:
    """Return the cores of each node, whose `threads` are busy for a share of `speeds[j]` each.

    None where no core can be free for every thread. The fastest nodes choose first, empty cores if there are any.
    """
    for emptiest in (True, False):
        found = _fill(len(cores), threads, speeds, emptiest)
        if found is not None:
            _share_out(len(cores), found, speeds)
            return tuple(tuple(sorted(cores[place] for place in own)) for own in found)
    return None


def fitting_threads(cores: int, speeds: Sequence[float]) -> int:
    """Return the most threads of each node with which no core has two busy ones, at least 1."""
    for threads in range(cores, 1, -1):
        if any(_fill(cores, threads, speeds, emptiest) is not None for emptiest in (True, False)):
            return threads
    return 1


def free_cores(
    cores: Sequence[int], nodes: Sequence[tuple[Sequence[int], int, float]], speed: float
) -> tuple[int, ...]:
    """Return the cores that have room for a thread which is busy for a share of `speed`, beside `nodes` that run.

    Each of these has its cores (empty: any), threads, and the share that they are busy for. It uses the fullest of its
    cores that it fits on, as the system can have it.
    """
    loads = dict.fromkeys(cores, 0.0)
    for own, threads, share in sorted(nodes, key=lambda node: (len(node[0]) or len(cores), -node[2])):
        allowed = [core for core in own or cores if core in loads]
        fits = {core: loads[core] + share <= 1.0 + _ROUNDING for core in allowed}
        allowed.sort(key=lambda core: (not fits[core], -loads[core] if fits[core] else loads[core]))
        for core in allowed[:threads]:
            loads[core] += share
    return tuple(core for core in cores if loads[core] + speed <= 1.0 + _ROUNDING)


def _fill(cores: int, threads: int, speeds: Sequence[float], emptiest: bool) -> list[list[int]] | None:
    loads = [0.0] * cores
    found: list[list[int]] = [[] for _ in speeds]
    for node in sorted(range(len(speeds)), key=lambda node: (-speeds[node], node)):
        room = [core for core in range(cores) if loads[core] + speeds[node] <= 1.0 + _ROUNDING]
        room.sort(key=lambda core: (loads[core] if emptiest else -loads[core], core))
        if len(room) < threads:
            return None
        found[node] = room[:threads]
        for core in found[node]:
            loads[core] += speeds[node]
    return found


def _share_out(cores: int, found: list[list[int]], speeds: Sequence[float]) -> None:
    """Add the cores that nobody has, each to the node with the fewest for its speed."""
    taken = {core for own in found for core in own}
    for core in range(cores):
        if core not in taken:
            poorest = min(range(len(found)), key=lambda node: (len(found[node]) / speeds[node], node))
            found[poorest].append(core)

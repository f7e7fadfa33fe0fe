"""Who takes part in a run: the local nodes of `nodes`, and the hosts of a hosts file after a look at each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bptcnn.errors import UserError
from bptcnn.networks import Network
from bptcnn.nodes import Host, HostReport, Question, needs_same_python, read_hosts
from bptcnn.nodes.preflight import preflight
from bptcnn.outer import NodeProfile
from bptcnn.profiling import NodeSpeed, comparable_speeds, find_profile, node_speed, own_cores, usable_cores
from bptcnn.training.placement import Placement, fitting_threads, place
from bptcnn.training.progress import Observer
from bptcnn.training.settings import TrainSettings

UNKNOWN = NodeSpeed(None, 1.0)  # of a host that was not reached: replaced by the others' mean


@dataclass(frozen=True)
class Member:
    """One node of a run. `host` None: a local process, of `speed` and `threads`; threads 0: the host's usable cores.

    `cores`: those that a local process keeps to, empty: any. `absent`: why a host cannot be used at the start; it may
    come later if `may_return`. `bandwidth`: bytes/s to it. `options`: ssh's, that suit it.
    """

    name: str
    speed: float
    threads: int
    expected: NodeSpeed
    host: Host | None = None
    cores: tuple[int, ...] = ()
    absent: str | None = None
    may_return: bool = False
    bandwidth: float | None = None
    options: tuple[str, ...] = ()


def gather(network: Network, settings: TrainSettings, observer: Observer) -> tuple[Member, ...]:
    """Return the run's nodes; raise UserError where none can be used, or one cannot and `require_all` is set."""
    hosts = read_hosts(Path(settings.hosts), settings.host_timeout) if settings.hosts is not None else ()
    threads = settings.threads or fitting_threads(usable_cores(), settings.nodes)
    members = [
        Member(f"node{j}", speed, threads, local_speed(network, settings, threads), cores=cores)
        for j, (speed, cores) in enumerate(zip(settings.nodes, _placement(settings, threads, hosts), strict=True))
    ]
    if hosts:
        members += _from_hosts(hosts, network, settings, observer)
    names = [member.name for member in members]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UserError(f"two nodes are called {min(twice)}: give the host another name in {settings.hosts}")
    return tuple(members)


def profiles(members: Sequence[Member]) -> tuple[NodeProfile, ...]:
    """Return each node's expected speed, in units that compare."""
    known = [member.expected for member in members if member.expected is not UNKNOWN]
    mean = sum(speed.cores_times_clock for speed in known) / len(known) if known else 1.0
    expected = [NodeSpeed(None, mean) if member.expected is UNKNOWN else member.expected for member in members]
    speeds = comparable_speeds(expected)
    return tuple(
        NodeProfile(member.name, full * member.speed, trusted=member.host is None)
        for member, full in zip(members, speeds, strict=True)
    )


def joined_speed(members: Sequence[Member], known: Sequence[NodeProfile], joining: Member) -> float:
    """Return the expected speed of a node that joins, in the units that the members' profiles, `known`, are in."""
    *others, own = profiles([*members, joining])
    return own.speed * sum(profile.speed for profile in known) / sum(profile.speed for profile in others)


def obstacle(report: HostReport, same_python: bool) -> tuple[str | None, bool]:
    """Return why a host cannot train, and whether that may pass. `same_python`: the network is Python code."""
    hard = [problem for problem in report.problems if problem.hard]
    if hard:
        return f"{hard[0].what}: {hard[0].remedy}", all(problem.passing for problem in hard)
    if same_python and report.facts is not None and not report.facts.same_python:
        found = report.facts.python_version
        return f"it runs Python {found}, and this network is Python code: use the same minor version as here", False
    return None, False


def _placement(settings: TrainSettings, threads: int, hosts: tuple[Host, ...]) -> Placement:
    """Return the local nodes' cores: any for a node that has the machine for itself, or where they do not suffice."""
    anywhere: Placement = ((),) * len(settings.nodes)
    if len(settings.nodes) < 2 or any(host.local for host in hosts):
        return anywhere
    return place(own_cores(), threads, settings.nodes) or anywhere


def local_speed(network: Network, settings: TrainSettings, threads: int) -> NodeSpeed:
    """Return what is known of a node of so many threads on this machine."""
    return node_speed(network.name, settings.batch_size, threads, find_profile(), network.input_shape)


def _from_hosts(hosts: tuple[Host, ...], network: Network, settings: TrainSettings, observer: Observer) -> list[Member]:
    observer.setup(f"looking at {len(hosts)} host{'s' if len(hosts) > 1 else ''}")
    question = Question(network.name, settings.batch_size, network.input_shape, settings.threads, settings.precision)
    asked = [replace(host, threads=host.threads or settings.threads) for host in hosts]
    reports = preflight(asked, question)
    pickled = needs_same_python(network)
    members = []
    for report in reports:
        reason, may_return = obstacle(report, pickled)
        host = report.host
        if reason is not None and settings.require_all:
            raise UserError(f"{host.name} cannot train: {reason}")
        if reason is not None:
            observer.warning(
                f"{host.name} is left out for now: {reason}" if may_return else f"{host.name} is left out: {reason}"
            )
        facts = report.facts
        if host.local:
            threads = host.threads or usable_cores()
            members.append(Member(host.name, 1.0, threads, local_speed(network, settings, threads)))
            continue
        members.append(
            Member(
                name=host.name,
                speed=1.0,
                threads=host.threads or 0,
                expected=facts.speed if facts and facts.speed else UNKNOWN,
                host=host,
                absent=reason,
                may_return=may_return,
                bandwidth=min(facts.link.upload, facts.link.download) if facts and facts.link else None,
                options=report.options,
            )
        )
    if not settings.nodes and all(member.absent for member in members):
        raise UserError(f"no host of {settings.hosts} can train: {members[0].name}: {members[0].absent}")
    return members

"""A node's speed before it has trained: what the first allocation round divides the data by."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bptcnn.profiling.records import NetworkProfile, Profile

_UNKNOWN_CLOCK_GHZ = 2.5  # a server CPU's, where the system does not tell it


@dataclass(frozen=True)
class NodeSpeed:
    """What is known of a node before it trains: images/s where its profile has the network, and cores x GHz always."""

    images_per_second: float | None
    cores_times_clock: float


def node_speed(
    network_name: str,
    batch_size: int,
    threads: int,
    profile: Profile | None,
    input_shape: tuple[int, ...] | None = None,
) -> NodeSpeed:
    """Return the speed of a node of `threads` threads on the host of `profile` (`None`: this one).

    From the profile's entry for the network of this name (and for images of `input_shape`, if given): the one of the
    nearest batch size, then of the nearest number of threads, in proportion to the threads. Threads beyond the cores
    add nothing.
    """
    if profile is None:
        from bptcnn.profiling.cores import usable_cores
        from bptcnn.profiling.host import clock_ghz

        return NodeSpeed(None, estimated_speed(threads, usable_cores(), clock_ghz()))
    cores = profile.host.cores
    estimate = estimated_speed(threads, cores, profile.host.frequency_ghz)
    entries = [
        entry
        for entry in profile.network
        if entry.name == network_name and (input_shape is None or entry.input_shape == tuple(input_shape))
    ]
    if not entries:
        return NodeSpeed(None, estimate)

    def distance(entry: NetworkProfile) -> tuple[float, float]:
        return abs(math.log(entry.batch_size / batch_size)), abs(math.log(entry.threads / threads))

    nearest = min(entries, key=distance)
    return NodeSpeed(nearest.images_per_second * min(threads, cores) / min(nearest.threads, cores), estimate)


def profiled_speed(
    network_name: str,
    batch_size: int,
    threads: int,
    profile: Profile | None,
    input_shape: tuple[int, ...] | None = None,
) -> float:
    """Return `node_speed`'s images/s or, where the profile has none, cores x clock: a number for ratios only.

    The two do not compare: for nodes of which some have a profile, see `comparable_speeds`.
    """
    speed = node_speed(network_name, batch_size, threads, profile, input_shape)
    return speed.cores_times_clock if speed.images_per_second is None else speed.images_per_second


def comparable_speeds(speeds: Sequence[NodeSpeed]) -> list[float]:
    """Return one number per node, in proportion to its speed.

    Images/s; a node without gets cores x clock times the others' median of images/s over cores x clock.
    """
    ratios = [s.images_per_second / s.cores_times_clock for s in speeds if s.images_per_second is not None]
    scale = median(ratios) if ratios else 1.0
    return [scale * s.cores_times_clock if s.images_per_second is None else s.images_per_second for s in speeds]


def estimated_speed(threads: int, cores: int, frequency_ghz: float) -> float:
    """Return cores x clock, in GHz: cores are the threads that have one; a clock of 0 (unknown) counts as 2.5 GHz."""
    return max(1, min(threads, cores)) * (frequency_ghz or _UNKNOWN_CLOCK_GHZ)

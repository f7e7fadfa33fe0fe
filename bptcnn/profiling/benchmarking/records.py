"""What a benchmark finds out. The fields are the keys of the file that `bptcnn benchmark --output` writes."""

from dataclasses import dataclass, field

from bptcnn.precision import Precision
from bptcnn.profiling.records import Host, LayerProfile

VERSION = 1
"""Of the file: a change that old readers would misread counts it up."""


@dataclass(frozen=True)
class Memory:
    """Resident memory, 10^6 bytes, of a process that does nothing but train a few batches."""

    peak_mb: float
    libraries_mb: float  # once everything is imported, before there is a network


@dataclass(frozen=True)
class Side:
    """One side's training steps of a network. `variant`: the form that was fastest of several; "" for our own side."""

    variant: str
    images_per_second: float  # the median of the rounds
    rounds: tuple[float, ...]
    gflops: float  # counted by the direct algorithm, 2 operations per multiply-add, on both sides
    peak_share: float  # of float32 multiply-adds, whatever the precision
    memory: Memory


@dataclass(frozen=True)
class Scaling:
    """Training steps on one thread, on `threads`, and of as many one-thread copies at once; medians over rounds.

    Threads share clock, caches and memory, so independent copies do not reach as many times one's speed either: theirs
    is the ceiling.
    """

    threads: int
    one_images_per_second: float
    all_images_per_second: float
    copies_images_per_second: float  # summed
    speed_up: float  # of all threads over one
    ceiling: float  # of the copies over one


@dataclass(frozen=True)
class SimulatedStep:
    """A step on `threads` threads by the tasks' measured costs, as `inner.schedule` simulates it."""

    threads: int
    milliseconds: float
    speed_up: float  # over one thread
    idle_share: float
    steals: int


@dataclass(frozen=True)
class NetworkBenchmark:
    """A network's training steps at one batch size and number of threads; times and GFLOP/s as in `NetworkProfile`."""

    name: str
    input_shape: tuple[int, int, int]  # height, width, channels
    classes: int
    parameters: int
    batch_size: int
    precision: Precision
    threads: int
    gflop_per_image: float
    own: Side
    idle_share: float
    steals_per_step: float
    other_ms: float
    layer: tuple[LayerProfile, ...]
    tasks: int
    task_overhead_ns: float
    most_speed_up: float  # all tasks over the longest path: no number of threads passes it
    simulated: tuple[SimulatedStep, ...]
    scaling: Scaling | None
    peer: Side | None
    peer_variants: dict[str, tuple[float, ...]]  # images/s of each round
    ratio: float | None  # of our images/s over the peer's


@dataclass(frozen=True)
class Benchmark:
    """All that was measured; `peer` names it and its version, "" where there was none."""

    host: Host
    rounds: int
    seconds: float
    peer: str
    network: tuple[NetworkBenchmark, ...]
    notes: tuple[str, ...]  # what could not be measured, and why
    version: int = field(default=VERSION, kw_only=True)

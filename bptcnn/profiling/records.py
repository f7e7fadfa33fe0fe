"""What profiling finds out: a host, networks on it, their layers. The fields are the keys of a profile file."""

from dataclasses import dataclass, field

from bptcnn.inner.tuning import Tuning
from bptcnn.precision import Precision

VERSION = 1
"""Of profile and tuning files: a change that old readers would misread counts it up."""


@dataclass(frozen=True)
class Host:
    """A machine as measured. 0 stands for what the system does not tell: the clock, a quota, a cache size."""

    name: str
    cpu: str  # the name it gives itself
    microarchitecture: str  # LLVM's name: tells CPUs apart that give themselves the same
    architecture: str
    vector_unit: str
    cores: int  # usable ones: affinity and quota taken into account
    affinity_cores: int
    quota_cores: float  # CPU-seconds per second that the control group allows; 0: no limit
    logical_cores: int
    frequency_ghz: float  # highest clock if known, else the current one
    peak_gflops_per_core: float
    peak_gflops: float  # all usable cores together
    bandwidth_gbs_per_core: float
    bandwidth_gbs: float
    memory_gb: float  # 10^9 bytes
    memory_available_gb: float  # when measured
    l1_kb: float  # 1024 bytes; data cache
    l2_kb: float
    l3_kb: float

    def peak(self, threads: int) -> float:
        """Return the GFLOP/s that `threads` threads can reach together."""
        return min(threads * self.peak_gflops_per_core, self.peak_gflops)


@dataclass(frozen=True)
class LayerProfile:
    """One operation in a training step. Times are thread time, summed over threads; GFLOP/s are those of one thread.

    Floating-point operations are those of the direct algorithm, 2 per multiply-add: a faster algorithm may pass a share
    of 1. 0 GFLOP/s: no multiply-adds (pooling). The backward pass has both gradients, the first operation's only that
    by weight.
    """

    name: str
    forward_ms: float
    backward_ms: float
    forward_gflops: float
    backward_gflops: float
    forward_peak_share: float
    backward_peak_share: float


@dataclass(frozen=True)
class NetworkProfile:
    """A network's training steps at one batch size and number of threads."""

    name: str
    input_shape: tuple[int, int, int]  # height, width, channels
    batch_size: int
    threads: int
    images_per_second: float
    peak_share: float
    idle_share: float  # of the threads' time within a step: waiting for tasks
    other_ms: float  # thread time of what belongs to no layer: loading images, the loss
    layer: tuple[LayerProfile, ...]


@dataclass(frozen=True)
class Profile:
    """A host and the networks measured on it."""

    host: Host
    network: tuple[NetworkProfile, ...] = ()
    version: int = field(default=VERSION, kw_only=True)


@dataclass(frozen=True)
class Trial:
    """A candidate beside what the rules say, in steps that took turns; medians.

    Times are thread time a step, summed over the convolutions of a shape; those of `shape` "step" are a step's whole
    time.
    """

    shape: str
    candidate: str  # an algorithm, "8 parts", "32 ranges", "tasks over images"; "all that was chosen"
    rule_ms: float
    candidate_ms: float
    ratio: float  # of the candidate's time to the rules', a round's
    chosen: bool


@dataclass(frozen=True)
class TuningRecord:
    """A tuning, the machine and the network that it is for, and how it was found."""

    cpu: str
    vector_unit: str
    bptcnn: str  # version
    network: str  # name; what counts is `digest`
    digest: str  # of layers and input shape
    batch_size: int
    precision: Precision
    threads: int  # that measured
    seconds: float  # that it took
    tuning: Tuning
    trial: tuple[Trial, ...]
    version: int = field(default=VERSION, kw_only=True)

"""A benchmark from beginning to end: the rounds of all sides in turn, then what each is worth."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bptcnn.errors import UserError
from bptcnn.inner.tuning import BY_RULE
from bptcnn.profiling.benchmarking.cases import Case
from bptcnn.profiling.benchmarking.processes import SideFailed, TorchPeer, Variant, ask_own_side
from bptcnn.profiling.benchmarking.records import Benchmark, Memory, NetworkBenchmark, Scaling, Side, SimulatedStep
from bptcnn.profiling.records import Host, LayerProfile

Tell = Callable[[str], None]
Rounds = dict[Variant, list[float]]


@dataclass(frozen=True)
class Plan:
    """How to measure: rounds of `seconds` each, the numbers of threads to simulate, whether to compare all threads with
    one, whether to choose algorithms by measuring them first, and the peer, if any.
    """

    threads: int
    rounds: int = 5
    seconds: float = 2.0
    simulate: tuple[int, ...] = ()
    scaling: bool = False
    autotune: bool = False
    peer: TorchPeer | None = None


def run_benchmark(cases: Sequence[Case], plan: Plan, host: Host, tell: Tell = lambda _: None) -> Benchmark:
    """Measure each case on this machine, which is `host`; `tell` hears what is about to be measured.

    Sides take turns, every measurement in a process of its own; medians over the rounds count. Raises UserError where
    there is no peer, and where a side cannot train a network; a compiled form of the peer that does not run becomes a
    note.
    """
    peer = "" if plan.peer is None else f"PyTorch {plan.peer.version()}"
    notes: list[str] = []
    found = tuple(_Network(case, plan, host.peak(plan.threads), tell, notes).measure() for case in cases)
    return Benchmark(host, plan.rounds, plan.seconds, peer, found, tuple(notes))


class _Network:
    def __init__(self, case: Case, plan: Plan, peak: float, tell: Tell, notes: list[str]) -> None:
        self._case = case
        self._plan = plan
        self._peak = peak
        self._name = case.network.name
        self._tell = tell
        self._notes = notes
        self._tuning = dataclasses.asdict(BY_RULE)

    def measure(self) -> NetworkBenchmark:
        if self._plan.autotune:
            self._tell(f"{self._name}: tuning, where that was not done before")
            self._tuning = self._own("tuning")["tuning"]
        self._tell(f"{self._name}: layers and tasks")
        detail = self._own("detail", peak=self._peak, seconds=self._plan.seconds, simulate=self._plan.simulate)
        flops = detail.pop("flops_per_image")
        scaling = self._scaling() if self._plan.scaling else None
        own_rounds, peer_rounds = self._rounds()
        self._tell(f"{self._name}: memory")
        own = self._side("", own_rounds, flops, self._own("memory"))
        peer = None
        if self._plan.peer is not None:
            best = max(peer_rounds, key=lambda variant: median(peer_rounds[variant]))
            eager = max((v for v in peer_rounds if not v.compiled), key=lambda v: median(peer_rounds[v]))
            memory = self._peer(self._plan.peer, "memory", eager)  # a compiler's own memory is not training's
            peer = self._side(str(best), peer_rounds[best], flops, memory)
        network = self._case.network
        return NetworkBenchmark(
            name=self._name,
            input_shape=network.input_shape,
            classes=network.classes,
            parameters=network.size,
            batch_size=self._case.batch_size,
            precision=self._case.precision,
            threads=self._plan.threads,
            gflop_per_image=flops / 1e9,
            own=own,
            layer=tuple(LayerProfile(**layer) for layer in detail.pop("layer")),
            simulated=tuple(SimulatedStep(**step) for step in detail.pop("simulated")),
            scaling=scaling,
            peer=peer,
            peer_variants={str(variant): tuple(rounds) for variant, rounds in peer_rounds.items()},
            ratio=own.images_per_second / peer.images_per_second if peer else None,
            **detail,
        )

    def _scaling(self) -> Scaling:
        self._tell(f"{self._name}: {self._plan.threads} threads and one")
        return Scaling(**self._own("scaling", rounds=self._plan.rounds, seconds=self._plan.seconds))

    def _rounds(self) -> tuple[list[float], Rounds]:
        """Return images/s of each round: ours, and the peer's by form."""
        own: list[float] = []
        peer: Rounds = {variant: [] for variant in self._plan.peer.variants} if self._plan.peer else {}
        for turn in range(self._plan.rounds):
            self._tell(f"{self._name}: round {turn + 1} of {self._plan.rounds}")
            own.append(self._own("speed", seconds=self._plan.seconds)["images_per_second"])
            for variant in list(peer):
                assert self._plan.peer is not None
                try:
                    found = self._peer(self._plan.peer, "speed", variant, seconds=self._plan.seconds)
                except SideFailed as error:
                    self._notes.append(f"{self._name}: PyTorch, {variant}, left out: {error}")
                    del peer[variant]
                else:
                    peer[variant].append(found["images_per_second"])
        return own, peer

    def _own(self, measure: str, **more: Any) -> dict[str, Any]:
        return ask_own_side(self._case, self._plan.threads, measure, tuning=self._tuning, **more)

    def _peer(self, peer: TorchPeer, measure: str, variant: Variant, **more: Any) -> dict[str, Any]:
        """Ask the peer; only a compiled form may fail."""
        try:
            return peer.measure(self._case, self._plan.threads, measure, variant, **more)
        except SideFailed as error:
            if variant.compiled:
                raise
            raise UserError(f"PyTorch cannot train {self._name} ({variant}): {error}") from None

    def _side(self, variant: str, rounds: Sequence[float], flops: int, memory: dict[str, Any]) -> Side:
        speed = median(rounds)
        gflops = speed * flops / 1e9
        return Side(variant, speed, tuple(rounds), gflops, gflops / self._peak, Memory(**memory))

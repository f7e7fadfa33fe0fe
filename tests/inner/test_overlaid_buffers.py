"""Buffers that lie over one another in a step: used one after the other, no two tasks at once."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks.drawn import networks

from bptcnn.inner.arena import Span
from bptcnn.inner.lowering import lower
from bptcnn.inner.plan import Plan
from bptcnn.inner.step_settings import StepSettings
from bptcnn.inner.tasks import StepBuilder
from bptcnn.kernels.unit import MATRIX_UNIT
from bptcnn.networks import ZOO, Network
from bptcnn.precision import Precision

FEW = settings(max_examples=max(5, settings().max_examples // 4))


@dataclass(frozen=True)
class Use:
    """One access of a task, numbered in program order, of an operation."""

    task: int
    operation: str
    span: Span
    writes: bool


class WatchedBuilder(StepBuilder):
    """Keeps what every task reads and writes."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.uses: list[Use] = []

    def add(
        self,
        label: str,
        kernel: int,
        record: int,
        ranged: tuple[int, int],
        cost: float,
        reads: Sequence[Span],
        writes: Sequence[Span],
        part: int = 0,
    ) -> int:
        task = super().add(label, kernel, record, ranged, cost, reads, writes, part)
        accesses = [(span, False) for span in reads] + [(span, True) for span in writes]
        self.uses += [Use(task, label.split()[0], *access) for access in accesses]
        return task

    def reached(self) -> npt.NDArray[np.bool_]:
        """Return, for each task, which ones come before it on some path."""
        found = np.zeros((len(self._builder.tasks),) * 2, bool)
        for task, successors in enumerate(self._builder.successors):
            before = found[task].copy()
            before[task] = True
            for successor in successors:
                found[successor] |= before
        return found


def built(network: Network, batch: int, training: bool, precision: Precision = "float32") -> WatchedBuilder:
    """Build the step of a network."""
    lowered = lower(network, training, batch=batch, precision=precision)
    plan = Plan(lowered, batch, 2, training, StepSettings.create())
    plan.allocate()
    builder = WatchedBuilder(plan)
    builder.build()
    return builder


def check_order(builder: WatchedBuilder) -> None:
    """Two tasks with bytes in common, one of which writes them, are on a path.

    But for two of one operation that take different stripes of something that it divides.
    """
    reached = builder.reached()
    by_buffer: dict[Hashable, list[Use]] = {}
    for use in builder.uses:
        by_buffer.setdefault(use.span.buffer, []).append(use)
    for uses in by_buffer.values():
        names = {name: index for index, name in enumerate({use.span.name for use in uses})}
        divisions = {who: index for index, who in enumerate({(use.operation, use.span.divided) for use in uses})}
        task, begin, end, writes, stripe, divided, name = np.array(
            [
                (
                    use.task,
                    use.span.begin,
                    use.span.end,
                    use.writes,
                    use.span.stripe,
                    divisions[use.operation, use.span.divided],
                    names[use.span.name],
                )
                for use in uses
            ]
        ).T
        for index in range(len(uses)):
            meets = (begin < end[index]) & (begin[index] < end) & ((writes + writes[index]) > 0)
            apart = (divided == divided[index]) & (stripe != stripe[index]) & (name == name[index])
            earlier = task[meets & ~apart & (task < task[index])]
            assert reached[task[index], earlier].all()


def check_tenure(builder: WatchedBuilder) -> int:
    """Buffers over one another are used one after the other, each written first; return how many pairs there are."""
    named: dict[Hashable, list[Use]] = {}
    for use in builder.uses:
        if use.span.buffer != use.span.name and not isinstance(use.span.buffer, tuple):
            named.setdefault(use.span.name, []).append(use)
    sharing = 0
    bounds = {name: (min(u.span.begin for u in uses), max(u.span.end for u in uses)) for name, uses in named.items()}
    for one, uses in named.items():
        assert uses[0].writes or any(use.writes for use in uses if use.task == uses[0].task), one
        for other, later in named.items():
            if uses[0].task < later[0].task and bounds[one][0] < bounds[other][1] and bounds[other][0] < bounds[one][1]:
                assert uses[-1].task < later[0].task, (one, other)
                sharing += 1
    return sharing


@FEW
@given(network=networks(), batch=st.integers(1, 20), training=st.booleans())
def test_random_networks(network: Network, batch: int, training: bool) -> None:
    builder = built(network, batch, training)
    check_order(builder)
    check_tenure(builder)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", ["vgg11", "resnet18", "resnet50", "mobilenet"])
def test_the_zoo(name: str, precision: Precision) -> None:
    """Those of resnet50 that read one value divide its gradient differently."""
    if precision == "bf16" and not MATRIX_UNIT:
        pytest.skip("this CPU multiplies no bfloat16 numbers")
    builder = built(ZOO[name]((32, 32, 3), 10), 4, True, precision)
    check_order(builder)
    assert check_tenure(builder) > 50


@pytest.mark.parametrize("name", sorted(ZOO))
def test_evaluation_keeps_few_values_at_a_time(name: str) -> None:
    network = ZOO[name]((64, 64, 3), 10)
    sizes = [Plan(lower(network, t), 16, 1, t, StepSettings.create(), t).arena.size for t in (False, True)]
    assert sizes[0] < sizes[1] / 2

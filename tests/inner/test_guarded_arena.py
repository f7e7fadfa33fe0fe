"""Steps of random networks in guarded buffers: nothing is written outside a buffer, nothing read that nobody wrote."""

import ctypes
from collections import Counter
from collections.abc import Iterator
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernels.stepping import SEEDS, Case
from networks.drawn import ANY_ACTIVATION, any_layers, paddings, pairs

from bptcnn.errors import UserError
from bptcnn.inner.arena import Turns
from bptcnn.inner.bfloat16_convolution import Bfloat16Convolution
from bptcnn.inner.executor import Executor
from bptcnn.inner.guarded_arena import GUARD, BufferOverrunError, GuardedArena
from bptcnn.inner.lowering import lower
from bptcnn.inner.plan import Plan
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.inner.tuning import BY_RULE, Algorithm, Choice, TasksOver, Tuning
from bptcnn.kernels.tile import SLACK
from bptcnn.kernels.unit import MATRIX_UNIT
from bptcnn.networks import (
    BatchNorm,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool2D,
    Layer,
    MaxPool2D,
    Network,
    Residual,
)
from bptcnn.precision import Precision

PRECISIONS: list[Precision] = ["float32", "bf16"] if MATRIX_UNIT else ["float32"]
CHANNELS = st.sampled_from([1, 3, 8, 15, 16, 17, 32, 33, 64, 70])


@st.composite
def layers(draw: st.DrawFn, channels: int, dropout: bool) -> Layer:
    """Draw a layer on images of so many channels; those that algorithms differ for come more often."""
    block = [Conv2D(channels, 3, activation=draw(ANY_ACTIVATION)), BatchNorm()]
    return draw(
        st.one_of(
            st.builds(
                Conv2D,
                CHANNELS,
                st.one_of(st.sampled_from([1, 3, 3]), pairs(4)),
                strides=st.one_of(st.just(1), pairs(3)),
                padding=paddings(),
                activation=ANY_ACTIVATION,
                bias=st.booleans(),
            ),
            st.builds(Conv2D, CHANNELS, st.sampled_from([1, 3]), activation=st.just("relu")),
            any_layers(channels, dropout=dropout),
            st.builds(Residual, st.just(block), activation=ANY_ACTIVATION),
            st.builds(
                lambda units, kernel: Concatenate([[Conv2D(units, 1)], [Conv2D(units, kernel)], []]), CHANNELS, pairs(3)
            ),
            st.just(MaxPool2D(2)),
        )
    )


@st.composite
def wide_networks(draw: st.DrawFn, dropout: bool = True) -> Network:
    """Draw networks whose channels suit any algorithm."""
    shape = (draw(st.integers(1, 13)), draw(st.integers(1, 13)), draw(CHANNELS))
    found: list[Layer] = []
    for _ in range(draw(st.integers(1, 4))):
        channels = Network(shape, [*found, GlobalAveragePool2D(), Dense(1)]).shapes[-2][0]
        layer = draw(layers(channels, dropout))
        try:
            if Network(shape, [*found, layer, Flatten(), Dense(2)]).size < 200_000:
                found.append(layer)
        except UserError:  # does not fit any more
            continue
    tail: list[Layer] = [draw(st.sampled_from([Flatten(), GlobalAveragePool2D()]))]
    tail += draw(st.sampled_from([[], [Dense(19, "relu"), BatchNorm(), *([Dropout(0.3)] if dropout else [])]]))
    return Network(shape, [*found, *tail, Dense(draw(st.integers(2, 17)), bias=draw(st.booleans()))])


@pytest.fixture(scope="module")
def executors() -> Iterator[dict[int, Executor]]:
    made = {threads: Executor(threads) for threads in (1, 2, 3)}
    yield made
    for executor in made.values():
        executor.close()


def tunings(
    network: Network, batch: int, training: bool, precision: Precision, algorithm: Algorithm | None, over: TasksOver
) -> Tuning:
    """Return what has all convolutions that may go by `algorithm` do so; None: what the rules say."""
    decisions = lower(network, training, batch=batch, precision=precision).decisions
    able = [decision.choice.shape for decision in decisions if algorithm in decision.algorithms]
    if algorithm is None or not able:
        return BY_RULE
    return Tuning(choices=tuple(Choice(shape, algorithm, 0, over) for shape in able))


def halos_intact(plan: Plan) -> bool:
    """Tell whether all that lies around values' pixels still holds what it was filled with."""
    for value in [0, *(op.output for op in plan.operations)]:
        layout = plan.layout(value)
        if layout.halo.empty:
            continue
        flat = plan.arena.view(("value", value), plan.batch * layout.image + layout.behind)
        inside = np.zeros(len(flat), bool)
        steps = [layout.image, layout.row, 1]
        rows, columns, channels = layout.shape
        sizes = (plan.batch, rows, columns * channels)
        np.lib.stride_tricks.as_strided(inside[layout.inside :], sizes, steps)[...] = True
        if not (flat[~inside] == np.float32(layout.halo.fill)).all():
            return False
    return True


@given(
    network=wide_networks(),
    batch=st.sampled_from([1, 2, 3, 5, 8, 16, 33]),
    lacking=st.integers(0, 32),
    threads=st.integers(1, 3),
    precision=st.sampled_from(PRECISIONS),
    algorithm=st.sampled_from([None, *get_args(Algorithm)]),
    over=st.sampled_from(get_args(TasksOver)),
    training=st.sampled_from([True, True, False]),
    keeps_gradient=st.booleans(),
    seed=SEEDS,
)
def test_random_networks(
    executors: dict[int, Executor],
    network: Network,
    batch: int,
    lacking: int,
    threads: int,
    precision: Precision,
    algorithm: Algorithm | None,
    over: TasksOver,
    training: bool,
    keeps_gradient: bool,
    seed: int,
) -> None:
    """The same bits as in buffers that are not guarded, step after step, some of fewer images than the batch."""
    tuning = tunings(network, batch, training, precision, algorithm, over)
    case, found = Case.draw(network, batch, seed), []
    for arena in (None, GuardedArena()):
        made = Subnetwork(
            network,
            batch,
            executors[threads],
            training,
            tuning=tuning,
            precision=precision,
            keeps_gradient=keeps_gradient,
            arena=arena,
        )
        made.weights[:] = case.weights
        results: list[object] = []
        for images in (batch, max(1, batch - lacking), batch):
            samples, labels = case.samples[:images], case.labels[:images]
            if training:
                results.append(made.step(samples, labels, rate=1e-3, momentum=0.9))
                results.append((made.gradient.tobytes(), made.weights.tobytes(), made.velocity.tobytes()))
            else:
                results.append(made.forward(samples).tobytes())
        assert halos_intact(made._plan)
        found.append(repr(results))
    assert found[0] == found[1]


def test_every_algorithm_is_among_them() -> None:
    """All that a convolution may go by: else the test above says less than it seems to."""
    kinds = Counter[str]()
    layers: list[Layer] = [
        Conv2D(64, 3),
        Conv2D(64, 1),
        Conv2D(64, 3, strides=2, activation="relu"),
        Flatten(),
        Dense(2),
    ]
    for precision in PRECISIONS:
        for batch in (1, 16):
            for decision in lower(Network((8, 8, 64), layers), True, batch=batch, precision=precision).decisions:
                kinds.update(decision.algorithms)
    assert set(kinds) == set(get_args(Algorithm)) - (set() if MATRIX_UNIT else {"bfloat16"})


@pytest.mark.parametrize("distance", [0, 1, SLACK, GUARD + SLACK - 1])
@pytest.mark.parametrize("behind", [True, False])
def test_an_overrun_is_noticed_and_named(distance: int, behind: bool) -> None:
    arena = GuardedArena()
    for name, needed in (("first", Turns(0, 1)), ("second", Turns(3, 4)), ("third", None)):
        arena.reserve(name, 10, needed=needed)
    arena.overlay()
    arena.allocate()
    arena.after_step()
    arena.view("second", 10)[:] = 1
    arena.after_step()
    if not behind and distance >= GUARD:
        return
    place = arena.address("second") + (40 + distance if behind else -1 - distance)
    byte = ctypes.c_uint8.from_address(place)
    byte.value ^= 1
    side = "behind" if behind else "before"
    with pytest.raises(BufferOverrunError, match=f"1 bytes {side} second were written, the nearest {distance} bytes"):
        arena.after_step()


def test_what_is_not_kept_is_unwritten_again_before_each_step() -> None:
    arena = GuardedArena()
    arena.reserve("kept", 3, kept=True)
    arena.reserve("other", 3)
    arena.reserve("bytes", 7, 1, Turns(0, 1))
    arena.overlay()
    arena.allocate()
    assert (arena.view("kept", 3) == 0).all()
    for _ in range(2):
        assert np.isnan(arena.view("other", 3)).all()
        assert (arena.view("bytes", 6, np.uint8) > 1).all()
        for name in ("kept", "other"):
            arena.view(name, 3)[:] = 1
        arena.before_step()
        assert (arena.view("kept", 3) == 1).all()


@pytest.mark.skipif(not MATRIX_UNIT, reason="this CPU multiplies no bfloat16 numbers")
def test_ones_of_a_bfloat16_convolution_on_the_input_fill_their_buffer_only(executors: dict[int, Executor]) -> None:
    network = Network((12, 7, 64), [Conv2D(64, 3), Conv2D(15, 3), Flatten(), Dense(3)])
    made = Subnetwork(network, 33, executors[1], precision="bf16", arena=GuardedArena())
    (op,) = (op for op in made._plan.operations if isinstance(op, Bfloat16Convolution))
    ones = made._plan.arena.view((op.name, "ones"), 32 * 32, np.uint16)
    assert (ones == 0x3F80).all()
    made._plan.arena.after_step()

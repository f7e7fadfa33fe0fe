"""Joining along channels: several values fill one, nothing beside is touched; and the gradient comes back."""

from itertools import pairwise

import numpy as np
from calling import GUARD, Images, Numbers, assert_near, call, guards, normal
from hypothesis import given
from hypothesis import strategies as st
from stepping import SEEDS

from bptcnn.kernels.joining import JOINING, join, join_backward


@given(
    images=st.integers(1, 4),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    widths=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    gap=st.integers(0, 3),
    ring=st.integers(0, 2),
    batch=st.integers(1, 4),
    first=st.integers(0, 3),
    accumulate=st.booleans(),
    wanted=st.booleans(),
    seed=SEEDS,
)
def test_values_become_channels_of_one(
    images: int, size: tuple[int, int], widths: list[int], gap: int, ring: int, batch: int, first: int,
    accumulate: bool, wanted: bool, seed: int,
) -> None:  # fmt: skip
    """`gap` channels behind the last value belong to nobody: a value that comes later."""
    random = np.random.default_rng(seed)
    bounds = [0, *np.cumsum(widths).tolist()]
    around = ((ring, 0), (0, ring))
    covered = slice(first, max(first, min(batch, images)))
    output = Images(guards(images, *size, bounds[-1] + gap), around, around=float(GUARD))
    gradient, count = Numbers(normal(random, *output.view.shape)), Numbers([batch])
    expected = output.view.copy()
    for begin, end in pairwise(bounds):
        x, before = normal(random, images, *size, end - begin), normal(random, images, *size, end - begin)
        source, result = Images(x, around[::-1]), Numbers(before)
        record = source.fields("input") | output.fields("output")
        record |= {"batch": count.address, "channels": end - begin, "height": size[0], "width": size[1]}
        record |= {"out_channels": bounds[-1] + gap, "offset": begin, "output_gradient": gradient.address}
        record |= {"input_gradient": result.address if wanted else 0, "accumulate": int(accumulate)}
        call(join, JOINING, record, first, images)
        call(join_backward, JOINING, record, first, images)
        expected[covered, :, :, begin:end] = x[covered]
        np.testing.assert_array_equal(output.view, expected)
        wide = gradient.view[covered, :, :, begin:end].astype(np.float64)
        after = before.astype(np.float64)
        if wanted:
            after[covered] = wide + (before[covered] if accumulate else 0)
        assert_near("input gradient", result.view, after)
        assert result.intact()
    assert output.intact()


def test_as_many_channels_is_a_copy_between_layouts() -> None:
    x = normal(np.random.default_rng(0), 2, 3, 4, 5)
    source, output = Images(x, ((1, 1), (1, 1))), Images(guards(2, 3, 4, 5), ((0, 2), (3, 0)), around=float(GUARD))
    record = dict.fromkeys(JOINING.names or (), 0) | source.fields("input") | output.fields("output")
    count = Numbers([2])
    record |= {"batch": count.address, "channels": 5, "out_channels": 5, "height": 3, "width": 4}
    call(join, JOINING, record, 0, 2)
    np.testing.assert_array_equal(output.view, x)
    assert output.intact()

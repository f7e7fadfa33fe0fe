"""Images share their halos, but no pixel of one lies where an image's halo or another pixel is."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.inner.values import Halo, Layout

PADS = st.integers(0, 3)


@given(
    halo=st.builds(Halo, PADS, PADS, PADS, PADS),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 3, 16, 64])),
    images=st.integers(1, 3),
)
def test_a_pixel_has_its_place_alone_and_halos_lie_within_the_buffer(
    halo: Halo, shape: tuple[int, int, int], images: int
) -> None:
    layout = Layout(shape, halo)
    inside, around = set[int](), set[int]()
    for image in range(images):
        for row in range(-halo.top, shape[0] + halo.bottom):
            for column in range(-halo.left, shape[1] + halo.right):
                place = image * layout.image + layout.before((-row, -column))
                places = set(range(place, place + shape[2]))
                if 0 <= row < shape[0] and 0 <= column < shape[1]:
                    assert not inside & places
                    inside |= places
                else:
                    around |= places
    assert not inside & around
    assert min(inside | around) >= 0
    assert max(inside | around) < images * layout.image + layout.behind
    assert len(inside) == images * np.prod(shape)

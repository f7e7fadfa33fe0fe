"""Values: what operations read and make, images (or vectors, as one pixel) in buffers with a halo where one is read."""

from dataclasses import dataclass

from bptcnn.networks.layers import Pair, Shape


@dataclass(frozen=True)
class Halo:
    """Pixels around an image that an operation reads and nobody writes; they hold `fill`."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0
    fill: float = 0.0

    @property
    def empty(self) -> bool:
        """Whether there are none."""
        return not (self.top or self.bottom or self.left or self.right)


def window_halo(size: Pair, extent: Pair, stride: Pair, pads: tuple[Pair, Pair], outputs: Pair, fill: float) -> Halo:
    """Return what windows of `extent` read around an image of `size`; all are (rows, columns)."""
    (top, _), (left, _) = pads
    reach = [(outputs[axis] - 1) * stride[axis] + extent[axis] for axis in (0, 1)]
    return Halo(top, max(0, reach[0] - top - size[0]), left, max(0, reach[1] - left - size[1]), fill)


def window_sizes(
    in_shape: Shape, out_shape: Shape, kernel: Pair, stride: Pair, pads: tuple[Pair, Pair]
) -> dict[str, int]:
    """Return what records say of windows that slide over images: input, window, output pixels."""
    return {
        "channels": in_shape[2],
        "height": in_shape[0],
        "width": in_shape[1],
        "kernel_rows": kernel[0],
        "kernel_columns": kernel[1],
        "stride_rows": stride[0],
        "stride_columns": stride[1],
        "padding_top": pads[0][0],
        "padding_left": pads[1][0],
        "out_rows": out_shape[0],
        "out_columns": out_shape[1],
    }


@dataclass(frozen=True)
class Layout:
    """Where a value's elements lie: images of (rows, columns, channels) with a halo; all in elements.

    What lies right of a row is also left of the next one, and what lies below an image is also above the next one.
    """

    shape: tuple[int, int, int]
    halo: Halo
    packed: bool = False  # images lie one behind the other: only where there is no halo

    @property
    def row(self) -> int:
        """Elements from row to row."""
        return (max(self.halo.left, self.halo.right) + self.shape[1]) * self.shape[2]

    @property
    def image(self) -> int:
        """Elements from image to image."""
        size = (max(self.halo.top, self.halo.bottom) + self.shape[0]) * self.row
        return size if self.packed else skewed(size)

    @property
    def behind(self) -> int:
        """Elements of the last image's halo that lie behind all images."""
        halo = self.halo
        return min(halo.top, halo.bottom) * self.row + min(halo.left, halo.right) * self.shape[2]

    def before(self, pads: Pair) -> int:
        """Offset of the pixel that lies `pads` (rows, columns) before pixel (0, 0)."""
        return (self.halo.top - pads[0]) * self.row + (self.halo.left - pads[1]) * self.shape[2]

    @property
    def inside(self) -> int:
        """Offset of pixel (0, 0)."""
        return self.before((0, 0))

    @property
    def elements(self) -> int:
        """Elements of one image without halo."""
        return self.shape[0] * self.shape[1] * self.shape[2]


def skewed(size: int) -> int:
    """Return how many elements apart images of `size` should lie: not so that the same places share a set of the cache.

    The sets of a first-level cache repeat every 4096 bytes; a quarter of that already crowds a tile's rows.
    """
    return size + 16 if size * 4 % 1024 == 0 else size


def as_image(shape: Shape) -> tuple[int, int, int]:
    """Return a shape as (rows, columns, channels); a vector is one pixel."""
    return (shape[0], shape[1], shape[2]) if len(shape) == 3 else (1, 1, shape[0])


def layout_for(shape: Shape, halos: list[Halo], packed: bool) -> Layout:
    """Return the layout of a value whose readers want `halos`, all of one fill; `packed`: if there is no halo."""
    widest = Halo(
        max((halo.top for halo in halos), default=0),
        max((halo.bottom for halo in halos), default=0),
        max((halo.left for halo in halos), default=0),
        max((halo.right for halo in halos), default=0),
        next((halo.fill for halo in halos if not halo.empty), 0.0),
    )
    return Layout(as_image(shape), widest, packed and widest.empty)

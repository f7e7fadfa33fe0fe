"""Sizes for Winograd's kernels: tiles of a block, scratch of a worker, transformed filters. All in float32 elements."""

from dataclasses import dataclass

from bptcnn.kernels.unit import COLUMNS, LANES, ROWS

FILTER_BLOCK = LANES
"""Channels of rotated filters that are transposed in one go."""

CACHE = 1 << 20
"""Bytes of a second-level cache, where nobody knows better."""

_LEAST_BLOCK = 5  # register tiles: filters or sums are fetched from beyond the second-level cache, for each block
_LEAST_BLOCK_INSIDE = 2  # where the filters stay in there

CHANNEL_BLOCK = 64 // COLUMNS * COLUMNS
"""Channels of a block where tasks go over channels: 64 x 64 filters, transformed, take 576 KiB."""

_TILE_BLOCK = 5  # register tiles in a block of tasks over channels; inputs and products then take as much as filters
_SUMS_BLOCK = 3  # the same for sums over tiles, which with two transformed operands want the more room
_LARGE_SUMS_BLOCK = 6  # where sums do not stay in the second-level cache, and are to be fetched less often
_LEAST_SUMS = 4  # blocks of channels


def whole_vectors(channels: int) -> int:
    """Round a number of channels up to whole vectors."""
    return -(-channels // LANES) * LANES


def plane(elements: int) -> int:
    """Return the distance of the points' planes: an odd number of cache lines, so that sets of the cache differ."""
    lines = -(-elements // 16)
    return 16 * (lines + 1 - lines % 2)


def row(channels: int) -> int:
    """Return the distance of transformed tiles: whole vectors, no power of 2, which would crowd sets of a cache."""
    vectors = whole_vectors(channels)
    return vectors if vectors % 128 else vectors + 16


def block_for(points: int, channels: int, cache: int, least: int = _LEAST_BLOCK) -> int:
    """Return the tiles of a block, `channels` numbers at each point: what the cache holds, but enough to multiply."""
    return ROWS * max(least, cache // (4 * points * channels) // ROWS)


@dataclass(frozen=True)
class WinogradSizes:
    """A 3x3 convolution with stride 1 in tiles of size x size outputs; `pool_rows` 0 where nothing is pooled.

    For a gradient by input, channels are those of the output gradient and out_channels those of the input gradient.
    `blocked`: tasks go over blocks of output channels, too, and transform the filters themselves.
    """

    size: int
    channels: int
    out_rows: int
    out_columns: int
    out_channels: int
    pool_rows: int = 0
    cache: int = CACHE
    blocked: bool = False

    @property
    def channel_block(self) -> int:
        """Input channels that are multiplied in one go."""
        return min(self.channels, CHANNEL_BLOCK) if self.blocked else self.channels

    @property
    def out_block(self) -> int:
        """Output channels of a task."""
        return min(self.out_channels, CHANNEL_BLOCK) if self.blocked else self.out_channels

    @property
    def out_blocks(self) -> int:
        """Tasks per range of images."""
        return -(-self.out_channels // self.out_block)

    @property
    def points(self) -> int:
        """Points of the transform: multiplications per tile and pair of channels."""
        return (self.size + 2) ** 2

    @property
    def tile_rows(self) -> int:
        """Rows of tiles in an image."""
        return -(-self.out_rows // self.size)

    @property
    def tile_columns(self) -> int:
        """Columns of tiles in an image."""
        return -(-self.out_columns // self.size)

    @property
    def block(self) -> int:
        """Tiles in a block: as many as the cache holds transformed beside filters that fit, in whole register tiles."""
        channels = whole_vectors(self.channels) + whole_vectors(self.out_channels)
        if self.blocked:
            tiles = ROWS * _TILE_BLOCK
        elif 4 * self.filters <= self.cache:
            tiles = block_for(self.points, channels, self.cache - 4 * self.filters, _LEAST_BLOCK_INSIDE)
        else:
            tiles = block_for(self.points, channels, self.cache)
        return max(tiles, self.tile_columns if self.pool_rows else 1)

    @property
    def panels(self) -> int:
        """Panels of transformed filters."""
        return -(-self.out_channels // COLUMNS)

    @property
    def panels_point(self) -> int:
        """Transformed filters: from point to point."""
        return plane(-(-self.out_block // COLUMNS) * self.channel_block * COLUMNS)

    @property
    def filters(self) -> int:
        """Transformed filters, all or those of a block."""
        return self.points * self.panels_point

    @property
    def inputs_row(self) -> int:
        """Transformed inputs of a block: from tile to tile."""
        return row(self.channel_block)

    @property
    def inputs_point(self) -> int:
        """Transformed inputs of a block: from point to point."""
        return plane(self.block * self.inputs_row)

    @property
    def products_point(self) -> int:
        """Products of a block: from point to point."""
        return plane(self.block * whole_vectors(self.out_block))

    @property
    def products(self) -> int:
        """Where in a worker's scratch the products begin, behind the transformed inputs."""
        return self.points * self.inputs_point

    @property
    def edge(self) -> int:
        """Where in a worker's scratch rotated filters are transposed."""
        return self.products + self.points * self.products_point

    @property
    def band(self) -> int:
        """Where in a worker's scratch rows wait to be pooled."""
        return self.edge + 9 * FILTER_BLOCK * COLUMNS + LANES

    @property
    def own_panels(self) -> int:
        """Where in a worker's scratch the filters are that a task transforms itself."""
        rows = self.pool_rows - 1 + self.size if self.pool_rows else 0
        return plane(self.band + rows * self.tile_columns * self.size * self.out_block + COLUMNS)

    @property
    def scratch(self) -> int:
        """Scratch of a worker."""
        return plane(self.own_panels + (self.filters if self.blocked else 0) + COLUMNS)


@dataclass(frozen=True)
class FilterSumsSizes:
    """The gradient by filter of the convolution `layer`; `blocked`: tasks go over channels, not over images."""

    layer: WinogradSizes
    blocked: bool = False

    @property
    def _blocks(self) -> tuple[int, int]:
        """Input and output channels of a task over channels: larger ones transform less; but there should be a few."""
        given, made = self.layer.channels, self.layer.out_channels
        for large in ((2, 2), (1, 2), (2, 1)):
            ins, outs = (CHANNEL_BLOCK * times for times in large)
            if -(-given // ins) * -(-made // outs) >= _LEAST_SUMS:
                return min(given, ins), min(made, outs)
        return min(given, CHANNEL_BLOCK), min(made, CHANNEL_BLOCK)

    @property
    def channel_block(self) -> int:
        """Input channels of a task."""
        return self._blocks[0] if self.blocked else self.layer.channels

    @property
    def out_block(self) -> int:
        """Output channels of a task."""
        return self._blocks[1] if self.blocked else self.layer.out_channels

    @property
    def blocks(self) -> int:
        """Blocks of channels."""
        return -(-self.layer.channels // self.channel_block) * -(-self.layer.out_channels // self.out_block)

    @property
    def block(self) -> int:
        """Most tiles in a block."""
        if self.blocked:
            large = 4 * self.layer.points * self.sums_point > self.layer.cache
            return ROWS * (_LARGE_SUMS_BLOCK if large else _SUMS_BLOCK)
        return block_for(self.layer.points, self.inputs_row + self.gradients_row, self.layer.cache)

    @property
    def inputs_row(self) -> int:
        """Transformed inputs: from tile to tile."""
        return row(self.channel_block)

    @property
    def inputs_point(self) -> int:
        """Transformed inputs: from point to point."""
        return plane(self.block * self.inputs_row)

    @property
    def gradients(self) -> int:
        """Where in a worker's scratch the transformed output gradients begin."""
        return self.layer.points * self.inputs_point

    @property
    def gradients_row(self) -> int:
        """Transformed output gradients: from tile to tile."""
        return row(self.out_block)

    @property
    def gradients_point(self) -> int:
        """Transformed output gradients: from point to point."""
        return plane(self.block * self.gradients_row)

    @property
    def sums(self) -> int:
        """Where in a worker's scratch the sums begin."""
        return self.gradients + self.layer.points * self.gradients_point

    @property
    def sums_point(self) -> int:
        """Sums: from point to point."""
        return plane(-(-self.out_block // COLUMNS) * self.channel_block * COLUMNS)

    @property
    def scratch(self) -> int:
        """Scratch of a worker."""
        return plane(self.sums + self.layer.points * self.sums_point + COLUMNS)


@dataclass(frozen=True)
class BackwardSizes:
    """The images of output gradients that the backward pass of the convolution `layer` works on, zeros around them.

    The zeros are the padding of the gradient by input, and fill tiles that reach over the edge.
    """

    layer: WinogradSizes
    height: int  # of the input, without padding
    width: int
    top: int  # padding
    left: int
    sums_blocked: bool = False  # tasks of the gradient by filter go over channels; those of that by input as `layer`'s

    @property
    def by_input(self) -> WinogradSizes:
        """The gradient by input as a convolution of its own."""
        layer = self.layer
        channels, shape = (layer.out_channels, layer.channels), (self.height, self.width)
        return WinogradSizes(layer.size, channels[0], *shape, channels[1], 0, layer.cache, layer.blocked)

    @property
    def by_filter(self) -> "FilterSumsSizes":
        """The gradient by filter."""
        return FilterSumsSizes(self.layer, self.sums_blocked)

    @property
    def group(self) -> int:
        """Images at a time: at least a block of tiles."""
        block = FilterSumsSizes(self.layer).block
        return -(-block // (self.layer.tile_rows * self.layer.tile_columns))

    @property
    def rows(self) -> int:
        """Rows of an image with zeros."""
        window = max(0, self.top - 2) + self.by_input.tile_rows * self.layer.size + 2
        return max(window, max(0, 2 - self.top) + self.layer.tile_rows * self.layer.size)

    @property
    def columns(self) -> int:
        """Columns of an image with zeros."""
        window = max(0, self.left - 2) + self.by_input.tile_columns * self.layer.size + 2
        return max(window, max(0, 2 - self.left) + self.layer.tile_columns * self.layer.size)

    @property
    def row(self) -> int:
        """From row to row."""
        return self.columns * self.layer.out_channels

    @property
    def image(self) -> int:
        """From image to image."""
        return self.rows * self.row

    @property
    def inside(self) -> int:
        """Where pixel (0, 0) of the first image's output gradient is."""
        return max(0, 2 - self.top) * self.row + max(0, 2 - self.left) * self.layer.out_channels

    @property
    def window(self) -> int:
        """Where the window of the input gradient's pixel (0, 0) begins."""
        return max(0, self.top - 2) * self.row + max(0, self.left - 2) * self.layer.out_channels

    @property
    def scratch(self) -> int:
        """Scratch of a worker."""
        return plane(self.group * self.image + COLUMNS)

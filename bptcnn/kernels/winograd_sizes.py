"""Sizes for Winograd's kernels: tiles of a block, scratch of a worker, transformed filters. All in float32 elements."""

from dataclasses import dataclass

from bptcnn.kernels.unit import COLUMNS, LANES, ROWS

FILTER_BLOCK = LANES
"""Channels of rotated filters that are transposed in one go."""

CACHE = 1 << 20
"""Bytes of a second-level cache, where nobody knows better."""


def whole_vectors(channels: int) -> int:
    """Round a number of channels up to whole vectors."""
    return -(-channels // LANES) * LANES


def plane(elements: int) -> int:
    """Return the distance of the points' planes: an odd number of cache lines, so that sets of the cache differ."""
    lines = -(-elements // 16)
    return 16 * (lines + 1 - lines % 2)


@dataclass(frozen=True)
class WinogradSizes:
    """A 3x3 convolution with stride 1 in tiles of size x size outputs (2 or 4); `pool_rows` 0 where nothing is pooled.

    For a gradient by input, channels are those of the output gradient and out_channels those of the input gradient.
    """

    size: int
    channels: int
    out_rows: int
    out_columns: int
    out_channels: int
    pool_rows: int = 0
    cache: int = CACHE

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
        """Tiles in a block: as many as the cache holds transformed, in whole register tiles."""
        per_tile = 4 * self.points * (whole_vectors(self.channels) + whole_vectors(self.out_channels))
        return max(ROWS * max(4, self.cache // per_tile // ROWS), self.tile_columns if self.pool_rows else 1)

    @property
    def panels(self) -> int:
        """Panels of transformed filters."""
        return -(-self.out_channels // COLUMNS)

    @property
    def panels_point(self) -> int:
        """Transformed filters: from point to point."""
        return plane(self.panels * self.channels * COLUMNS)

    @property
    def filters(self) -> int:
        """Transformed filters."""
        return self.points * self.panels_point

    @property
    def inputs_point(self) -> int:
        """Transformed inputs of a block: from point to point."""
        return plane(self.block * whole_vectors(self.channels))

    @property
    def products_point(self) -> int:
        """Products of a block: from point to point."""
        return plane(self.block * whole_vectors(self.out_channels))

    @property
    def products(self) -> int:
        """Where in a worker's scratch the products begin, behind the transformed inputs."""
        return self.points * self.inputs_point

    @property
    def edge(self) -> int:
        """Where in a worker's scratch a tile at the edge is copied to; rotated filters are transposed there too."""
        return self.products + self.points * self.products_point

    @property
    def band(self) -> int:
        """Where in a worker's scratch rows wait to be pooled."""
        inputs = self.points * whole_vectors(self.channels)
        outputs = self.size**2 * whole_vectors(self.out_channels)
        return self.edge + max(inputs, outputs, 9 * FILTER_BLOCK * COLUMNS) + LANES

    @property
    def scratch(self) -> int:
        """Scratch of a worker."""
        rows = self.pool_rows - 1 + self.size if self.pool_rows else 0
        return plane(self.band + rows * self.tile_columns * self.size * self.out_channels + COLUMNS)

"""Which algorithm computes a convolution: by the tuning, else by rules of thumb on its shape."""

from dataclasses import replace

from bptcnn.inner.convolution import Convolution
from bptcnn.inner.gathered import GatheredConvolution, gathers
from bptcnn.inner.pointwise import PointwiseConvolution, is_pointwise
from bptcnn.inner.small_images import SmallImagesConvolution, crosses_images, may_cross_images
from bptcnn.inner.tuning import Algorithm, Choice, Tuning
from bptcnn.inner.winograd import WinogradConvolution, may_tile, tile_for
from bptcnn.kernels.unit import MATRIX_UNIT
from bptcnn.precision import Precision

_LEAST_PIXELS = 8  # of a side; measured on Zen 5: 0.73 to 0.88 of bfloat16's time, 1.15 on images of 4x4
_BY_TILE: dict[int, Algorithm] = {2: "winograd 2", 4: "winograd 4", 5: "winograd 5"}
WINOGRAD = tuple(_BY_TILE.values())


def choose(op: Convolution, tuning: Tuning, batch: int, precision: Precision, direct: bool = False) -> Choice:
    """Return how to compute a convolution of `batch` images, 0 for many; `direct`: not by Winograd's algorithm.

    What the tuning says and the convolution does not allow does not count.
    """
    shape = shape_of(op)
    for choice in tuning.choices:
        if choice.shape == shape and choice.algorithm in algorithms(op, batch, precision):
            found = choice
            break
    else:
        found = Choice(shape, rule(op, batch, precision))
    if direct and found.algorithm in WINOGRAD:
        return replace(found, algorithm=_rule_without_winograd(op))
    return found


def shape_of(op: Convolution) -> str:
    """Return what the speed of a convolution depends on, as text."""
    kernel, stride = "x".join(map(str, op.kernel)), "x".join(map(str, op.stride))
    sizes = ["x".join(map(str, shape)) for shape in (op.in_shape, op.conv_shape)]
    pads = " ".join(str(pad) for axis in op.pads for pad in axis)
    pooled = f", pooled {op.pool[0]}x{op.pool[1]}" if op.pool else ""
    return f"{kernel} stride {stride} pads {pads}, {sizes[0]} to {sizes[1]}{pooled}"


def algorithms(op: Convolution, batch: int, precision: Precision) -> tuple[Algorithm, ...]:
    """Return the algorithms that can compute a convolution of `batch` images, 0 for many, and might pay.

    Bfloat16 products are an offer, no duty.
    """
    found: list[Algorithm] = ["direct"]
    if may_tile(op):
        found += WINOGRAD
    if may_cross_images(op.in_shape, op.conv_shape):
        found.append("small images")
    if gathers(op, batch):
        found.append("gathered")
    if is_pointwise(op):
        found.append("pointwise")
    if _takes_bfloat16(op, precision):
        found.append("bfloat16")
    return tuple(found)


def rule(op: Convolution, batch: int, precision: Precision) -> Algorithm:
    """Return the algorithm that mostly pays for such a shape and batch."""
    if gathers(op, batch):
        return "gathered"
    tile = tile_for(op)
    if _takes_bfloat16(op, precision) and not (tile and _outruns_bfloat16(op)):
        return "bfloat16"
    return _BY_TILE[tile] if tile else _rule_without_winograd(op)


def _outruns_bfloat16(op: Convolution) -> bool:
    """Tell whether Winograd's algorithm mostly beats bfloat16 products, on vector registers twice float32's."""
    return MATRIX_UNIT != "amx" and min(op.conv_shape[:2]) >= _LEAST_PIXELS


def _rule_without_winograd(op: Convolution) -> Algorithm:
    if is_pointwise(op):
        return "pointwise"
    return "small images" if crosses_images(op.in_shape, op.conv_shape) else "direct"


def takes_pooling(algorithm: Algorithm) -> bool:
    """Tell whether pooling may ride in an algorithm's tasks."""
    return algorithm not in ("small images", "gathered", "bfloat16")


def computed(op: Convolution, choice: Choice) -> Convolution:
    """Return a convolution as chosen."""
    op = replace(op, parts=choice.parts)
    match choice.algorithm:
        case "gathered":
            return GatheredConvolution(**vars(op))
        case "small images":
            return SmallImagesConvolution(**vars(op))
        case "pointwise":
            return PointwiseConvolution(**vars(op))
        case algorithm if algorithm in WINOGRAD:
            return WinogradConvolution(**vars(op), tile=int(algorithm[-1]), over=choice.over)
        case "bfloat16":
            from bptcnn.inner.bfloat16_convolution import Bfloat16Convolution

            return Bfloat16Convolution(**vars(op))
    return op


def _takes_bfloat16(op: Convolution, precision: Precision) -> bool:
    if precision == "float32":
        return False
    from bptcnn.inner.bfloat16_convolution import suits_bfloat16  # compiles what other CPUs lack

    return suits_bfloat16(op.in_shape, op.conv_shape)

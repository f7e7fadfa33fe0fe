"""Which algorithm computes a convolution: by the tuning, else by rules of thumb on its shape."""

from dataclasses import replace

from bptcnn.inner.convolution import Convolution
from bptcnn.inner.small_images import SmallImagesConvolution, crosses_images, may_cross_images
from bptcnn.inner.tuning import Algorithm, Choice, Tuning
from bptcnn.inner.winograd import WinogradConvolution, may_tile, tile_for
from bptcnn.precision import Precision


def choose(op: Convolution, tuning: Tuning, precision: Precision) -> Choice:
    """Return how to compute a convolution. What the tuning says and the convolution does not allow does not count."""
    shape = shape_of(op)
    for choice in tuning.choices:
        if choice.shape == shape and choice.algorithm in algorithms(op, precision):
            return choice
    return Choice(shape, rule(op, precision))


def shape_of(op: Convolution) -> str:
    """Return what the speed of a convolution depends on, as text."""
    kernel, stride = "x".join(map(str, op.kernel)), "x".join(map(str, op.stride))
    sizes = ["x".join(map(str, shape)) for shape in (op.in_shape, op.conv_shape)]
    pads = " ".join(str(pad) for axis in op.pads for pad in axis)
    pooled = f", pooled {op.pool[0]}x{op.pool[1]}" if op.pool else ""
    return f"{kernel} stride {stride} pads {pads}, {sizes[0]} to {sizes[1]}{pooled}"


def algorithms(op: Convolution, precision: Precision) -> tuple[Algorithm, ...]:
    """Return the algorithms that can compute a convolution and might pay; bfloat16 products are an offer, no duty."""
    found: list[Algorithm] = ["direct"]
    if may_tile(op):
        found += ["winograd 2", "winograd 4"]
    if may_cross_images(op.in_shape, op.conv_shape):
        found.append("small images")
    if _takes_bfloat16(op, precision):
        found.append("bfloat16")
    return tuple(found)


def rule(op: Convolution, precision: Precision) -> Algorithm:
    """Return the algorithm that mostly pays for such a shape."""
    if _takes_bfloat16(op, precision):
        return "bfloat16"
    if crosses_images(op.in_shape, op.conv_shape):
        return "small images"
    return "winograd 4" if tile_for(op) else "direct"


def takes_pooling(algorithm: Algorithm) -> bool:
    """Tell whether pooling may ride in an algorithm's tasks."""
    return algorithm not in ("small images", "bfloat16")


def computed(op: Convolution, choice: Choice) -> Convolution:
    """Return a convolution as chosen."""
    op = replace(op, parts=choice.parts)
    match choice.algorithm:
        case "small images":
            return SmallImagesConvolution(**vars(op))
        case "winograd 2" | "winograd 4":
            return WinogradConvolution(**vars(op), tile=int(choice.algorithm[-1]))
        case "bfloat16":
            from bptcnn.inner.bfloat16_convolution import Bfloat16Convolution

            return Bfloat16Convolution(**vars(op))
    return op


def _takes_bfloat16(op: Convolution, precision: Precision) -> bool:
    if precision == "float32":
        return False
    from bptcnn.inner.bfloat16_convolution import suits_bfloat16  # compiles what other CPUs lack

    return suits_bfloat16(op.in_shape, op.conv_shape)

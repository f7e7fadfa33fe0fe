"""Dropout whose choices follow from counters alone, so that the backward pass repeats them, on any thread.

Whether element e of image n is kept in step t of a node by layer l is decided by a hash of (seed, node, t, l, n, e): a
64-bit key of the first five, mixed per image, then 32-bit multiplications and shifts per element, which vectorise.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from bptcnn.kernels.compilation import linked, task_kernel
from bptcnn.kernels.pointers import record_at, words
from bptcnn.kernels.unit import UNIT
from bptcnn.kernels.vectors import I32, VectorEmitter, word

DROPOUT = np.dtype(
    [
        (name, np.int64)
        for name in (
            "batch",  # address of the number of images in this step
            "input",  # address of pixel (0, 0) of image 0
            "input_image",  # strides: elements from image to image, row to row
            "input_row",
            "rows",
            "line",  # elements in a row: width * channels
            "output",
            "output_image",
            "output_row",
            "output_gradient",  # layout (images, rows, line)
            "input_gradient",  # the same, or 0 where nobody wants it
            "accumulate",  # 1: add to what is in the input gradient, 0: overwrite it
            "drawing",  # address of three words: seed, node and number of this step
            "layer",  # tells layers of a network apart
        )
    ]
    + [("rate", np.float32)],  # share of elements that are dropped, in [0, 1)
    align=True,
)
_at = record_at(DROPOUT)

_WORD, _HALF = 0xFFFFFFFFFFFFFFFF, 0xFFFFFFFF
_KEY_1, _KEY_2 = 0x6A09E667F3BCC909, 0xBB67AE8584CAA73B  # fractions of the square roots of 2 and 3, made odd,
_ELEMENT_1, _ELEMENT_2 = 0xA54FF53B, 0x510E527F  # of 7 and 11


def _key(*counters: int) -> int:
    """Mix counters into 64 bits, one after the other."""
    key = 0
    for counter in counters:
        key = (key ^ counter & _WORD) * _KEY_1 & _WORD
        key = (key ^ key >> 32) * _KEY_2 & _WORD
        key ^= key >> 29
    return key


def dropout_multipliers(
    seed: int, node: int, step: int, layer: int, images: int, elements: int, rate: float
) -> npt.NDArray[np.float32]:
    """Return what the kernels multiply with, (images, elements): 0 or 1 / (1 - rate)."""
    exact = float(np.float32(rate))
    found = np.empty((images, elements), np.float32)
    for image in range(images):
        key = _key(seed, node, step, layer, image)
        x = np.arange(elements, dtype=np.uint32) ^ np.uint32(key & _HALF)
        x = (x ^ x >> np.uint32(16)) * np.uint32(_ELEMENT_1)
        x = (x ^ x >> np.uint32(15)) + np.uint32(key >> 32)
        x = (x ^ x >> np.uint32(14)) * np.uint32(_ELEMENT_2)
        x ^= x >> np.uint32(16)
        found[image] = np.where(x >= exact * 2.0**32, np.float32(1 / (1 - exact)), np.float32(0))
    return found


_FIRST, _SECOND = np.uint64(_KEY_1), np.uint64(_KEY_2)


@intrinsic
def _emit_run(typing, source, target, count, first, low, high, threshold, scale, continued):
    def generate(context, builder, signature, args):
        source, target, count, first, low, high, threshold, scale, continued = args
        emit = VectorEmitter(builder, UNIT)
        low, high, threshold = (emit.splat(builder.trunc(value, I32)) for value in (low, high, threshold))
        indices = ir.Constant(emit.integers, list(range(emit.lanes)))
        factor, adds = emit.splat(scale), builder.icmp_signed("!=", continued, word(0))
        before = builder.select(adds, target, source)  # what is not needed is not fetched

        def shifted(x: Any, bits: int) -> Any:
            return builder.xor(x, builder.lshr(x, ir.Constant(emit.integers, [bits] * emit.lanes)))

        def hashed(element: Any) -> Any:
            """The hash of `dropout_multipliers`, line by line."""
            number = emit.splat(builder.trunc(builder.add(first, element), I32))
            x = builder.xor(builder.add(number, indices), low)
            x = builder.mul(shifted(x, 16), ir.Constant(emit.integers, [_ELEMENT_1] * emit.lanes))
            x = builder.add(shifted(x, 15), high)
            x = builder.mul(shifted(x, 14), ir.Constant(emit.integers, [_ELEMENT_2] * emit.lanes))
            return shifted(x, 16)

        def drop(index: Any, element: Any, mask: Any) -> None:
            given, there, result = (emit.pointer(emit.offset(base, element)) for base in (source, before, target))
            kept = builder.icmp_unsigned(">=", hashed(element), threshold)
            value = builder.fmul(emit.load(given), builder.select(kept, factor, emit.zero))
            sums = builder.select(emit.splat(adds), builder.fadd(value, emit.load(there)), value)
            emit.store_masked(sums, result, mask)

        emit.for_pixels(word(1), count, drop)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7, types.float32, types.int64), generate


@linked("void(" + "int64, " * 7 + "float32, int64)")
def _drop(source, target, count, first, low, high, threshold, scale, continued):
    """Write, or add where `continued` is 1, the elements from number `first` on times their multipliers."""
    _emit_run(source, target, count, first, low, high, threshold, scale, continued)


@njit(inline="always")
def _choices(o, image):
    """Return what decides about an image's elements: the key's halves, the threshold, the multiplier."""
    key, drawing = np.uint64(0), words(o.drawing, 3)
    for counter in (drawing[0], drawing[1], drawing[2], o.layer, image):  # see `_key`
        key = (key ^ np.uint64(counter)) * _FIRST
        key = (key ^ key >> np.uint64(32)) * _SECOND
        key = key ^ key >> np.uint64(29)
    rate = np.float64(o.rate)
    threshold = np.int64(np.ceil(rate * 4294967296.0))
    return np.int64(key & np.uint64(_HALF)), np.int64(key >> np.uint64(32)), threshold, np.float32(1.0 / (1.0 - rate))


@task_kernel
def dropout(operation, first, last, part, worker):
    """Forward of images [first, last). NaN stays NaN where it is dropped."""
    o = _at(operation)
    last = min(last, words(o.batch, 1)[0])
    for image in range(first, last):
        low, high, threshold, scale = _choices(o, image)
        for row in range(o.rows):
            source = o.input + 4 * (image * o.input_image + row * o.input_row)
            target = o.output + 4 * (image * o.output_image + row * o.output_row)
            _drop(source, target, o.line, row * o.line, low, high, threshold, scale, 0)
    return 0


@task_kernel
def dropout_backward(operation, first, last, part, worker):
    """Gradient by the input of images [first, last)."""
    o = _at(operation)
    if o.input_gradient == 0:
        return 0
    last = min(last, words(o.batch, 1)[0])
    size = o.rows * o.line
    for image in range(first, last):
        low, high, threshold, scale = _choices(o, image)
        given, target = o.output_gradient + 4 * image * size, o.input_gradient + 4 * image * size
        _drop(given, target, size, 0, low, high, threshold, scale, o.accumulate)
    return 0

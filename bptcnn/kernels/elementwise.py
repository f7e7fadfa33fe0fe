"""Activations of their own: rectifier, leaky rectifier and GELU, and their gradients by the stored input."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from bptcnn.kernels.compilation import task_kernel
from bptcnn.kernels.gaussian import constant, integral_and_density
from bptcnn.kernels.pointers import record_at, words
from bptcnn.kernels.switching import choose
from bptcnn.kernels.unit import UNIT
from bptcnn.kernels.vectors import VectorEmitter, word

FUNCTIONS = {"relu": 0, "leaky_relu": 1, "gelu": 2}
"""Values of the record's field `function`."""

LEAKY_SLOPE = 0.01
"""Slope of the leaky rectifier below 0."""

ACTIVATION = np.dtype(
    [
        (name, np.int64)
        for name in (
            "function",  # one of FUNCTIONS
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
        )
    ],
    align=True,
)
_at = record_at(ACTIVATION)


def _value(emit: VectorEmitter, function: int, x: Any) -> Any:
    builder = emit.builder
    if function == FUNCTIONS["relu"]:
        return builder.select(builder.fcmp_ordered("<", x, emit.zero), emit.zero, x)
    if function == FUNCTIONS["leaky_relu"]:
        below = builder.fmul(x, constant(emit, LEAKY_SLOPE))
        return builder.select(builder.fcmp_ordered("<", x, emit.zero), below, x)
    return builder.fmul(x, integral_and_density(emit, x)[0])


def _gradient(emit: VectorEmitter, function: int, x: Any, given: Any) -> Any:
    builder = emit.builder
    positive = builder.fcmp_ordered(">", x, emit.zero)
    if function == FUNCTIONS["relu"]:
        return builder.select(positive, given, emit.zero)
    if function == FUNCTIONS["leaky_relu"]:
        return builder.select(positive, given, builder.fmul(given, constant(emit, LEAKY_SLOPE)))
    integral, density = integral_and_density(emit, x)
    return builder.fmul(given, emit.multiply_add(x, density, integral))


def _per_function(emit: VectorEmitter, function: Any, count: Any, body: Callable[[int, Any, Any], None]) -> None:
    """Emit body(function, element, mask of the lanes in use) over `count` elements, behind a switch."""
    builder = emit.builder

    def loop(number: int) -> None:
        lanes = word(emit.lanes)
        with cgutils.for_range_slice(builder, word(0), count, lanes, inc=True) as (element, _):
            body(number, element, emit.first_lanes(builder.sub(count, element)))

    choose(builder, function, {number: partial(loop, number) for number in FUNCTIONS.values()}, lambda: None)


@intrinsic
def _activate_line(typing, function, source, target, count):
    def generate(context, builder, signature, args):
        function, source, target, count = args
        emit = VectorEmitter(builder, UNIT)

        def body(number: int, element: Any, mask: Any) -> None:
            x = emit.load(emit.pointer(emit.offset(source, element)))
            emit.store_masked(_value(emit, number, x), emit.pointer(emit.offset(target, element)), mask)

        _per_function(emit, function, count, body)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@intrinsic
def _differentiate_line(typing, function, source, gradient, target, count, accumulate):
    def generate(context, builder, signature, args):
        function, source, gradient, target, count, accumulate = args
        emit = VectorEmitter(builder, UNIT)
        adds = builder.icmp_signed("!=", accumulate, word(0))
        before = builder.select(adds, target, source)  # what is not needed is not fetched
        added = emit.splat(adds)

        def body(number: int, element: Any, mask: Any) -> None:
            x, given, there = (
                emit.load(emit.pointer(emit.offset(address, element))) for address in (source, gradient, before)
            )
            value = builder.fadd(_gradient(emit, number, x, given), builder.select(added, there, emit.zero))
            emit.store_masked(value, emit.pointer(emit.offset(target, element)), mask)

        _per_function(emit, function, count, body)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), generate


@task_kernel
def activate(operation, first, last, part, worker):
    """Forward of images [first, last)."""
    o = _at(operation)
    last = min(last, words(o.batch, 1)[0])
    for image in range(first, last):
        for row in range(o.rows):
            source = o.input + 4 * (image * o.input_image + row * o.input_row)
            target = o.output + 4 * (image * o.output_image + row * o.output_row)
            _activate_line(o.function, source, target, o.line)
    return 0


@task_kernel
def activate_backward(operation, first, last, part, worker):
    """Gradient by the input of images [first, last)."""
    o = _at(operation)
    if o.input_gradient == 0:
        return 0
    last = min(last, words(o.batch, 1)[0])
    for image in range(first, last):
        for row in range(o.rows):
            place = 4 * (image * o.rows + row) * o.line
            source = o.input + 4 * (image * o.input_image + row * o.input_row)
            target = o.input_gradient + place
            _differentiate_line(o.function, source, o.output_gradient + place, target, o.line, o.accumulate)
    return 0

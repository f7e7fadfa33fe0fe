"""Max pooling of NHWC images, and its undoing for the gradient.

Every window remembers its choice: the index (row by row) of its first largest element, or DEAD where a rectifier made
the output 0, so that the gradient needs neither the input nor the output. A NaN in a window wins.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from bptcnn.kernels.compilation import compiled, task_kernel
from bptcnn.kernels.pointers import floats, record_at, words
from bptcnn.kernels.runs import add_runs
from bptcnn.kernels.unit import UNIT
from bptcnn.kernels.vectors import I8, I32, VectorEmitter, word

DEAD = 255  # so a window holds at most 255 elements

POOLING = np.dtype(
    [
        (name, np.int64)
        for name in (
            "batch",
            "input",  # address of output pixel (0, 0)'s window in image 0, halo included
            "input_image",
            "input_row",
            "channels",
            "height",
            "width",
            "window_rows",
            "window_columns",
            "stride_rows",
            "stride_columns",
            "output",
            "output_image",
            "output_row",
            "out_rows",
            "out_columns",
            "choice",  # address (uint8, output layout without halo), or 0
            "output_gradient",  # layout (images, out_rows, out_columns, channels)
            "input_gradient",  # layout (images, height, width, channels)
            "accumulate",  # 1: add to the input gradient
            "scratch",  # where an image's gradient is put together if it is padded or added, per worker; or 0
            "scratch_worker",
            "padded_rows",  # of an image with its halo
            "padded_columns",
            "padding_top",
            "padding_left",
        )
    ],
    align=True,
)
_at = record_at(POOLING)


@intrinsic
def _choose_row(
    typing, source, source_row, step, channels, window_rows, window_columns, columns, target, target_column, choice,
    rectified,
):  # fmt: skip
    """Pool one row of windows that begin `step` elements apart; `choice` may be 0."""

    def generate(context, builder, signature, args):
        source, source_row, step, channels, window_rows, window_columns, columns = args[:7]
        target, target_column, choice, rectified = args[7:]
        emit = VectorEmitter(builder, UNIT)
        best, index = cgutils.alloca_once(builder, emit.vector), cgutils.alloca_once(builder, emit.integers)

        def window(pixel: Any, channel: Any, mask: Any) -> None:
            corner = emit.offset(source, builder.add(builder.mul(pixel, step), channel))
            builder.store(emit.load(emit.pointer(corner)), best)
            builder.store(ir.Constant(emit.integers, [0] * emit.lanes), index)
            with cgutils.for_range(builder, window_rows) as row, cgutils.for_range(builder, window_columns) as column:
                place = builder.add(builder.mul(row.index, source_row), builder.mul(column.index, channels))
                value = emit.load(emit.pointer(emit.offset(corner, place)))
                largest = builder.load(best)
                better = builder.or_(
                    builder.fcmp_ordered(">", value, largest), builder.fcmp_unordered("uno", value, value)
                )
                number = builder.trunc(builder.add(builder.mul(row.index, window_columns), column.index), I32)
                builder.store(builder.select(better, value, largest), best)
                builder.store(builder.select(better, emit.splat(number), builder.load(index)), index)
            largest = builder.load(best)
            place = builder.add(builder.mul(pixel, target_column), channel)
            emit.store_masked(largest, emit.pointer(emit.offset(target, place)), mask)
            with cgutils.if_likely(builder, builder.icmp_signed("!=", choice, word(0))):
                dead = builder.and_(
                    builder.fcmp_ordered("==", largest, emit.zero),
                    emit.splat(builder.icmp_signed("!=", rectified, word(0))),
                )
                chosen = builder.select(dead, ir.Constant(emit.integers, [DEAD] * emit.lanes), builder.load(index))
                octets = builder.trunc(chosen, ir.VectorType(I8, emit.lanes))
                emit.store_masked(octets, builder.inttoptr(builder.add(choice, place), I8.as_pointer()), mask)

        emit.for_pixels(columns, channels, window)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 11), generate


@intrinsic
def _spread_row(
    typing, gradient, choice, channels, window_rows, window_columns, step, columns, target, target_row, sums, add
):
    """Send one row of gradients to the elements that were chosen; `add` them to what is there; `sums` may be 0."""

    def generate(context, builder, signature, args):
        gradient, choice, channels, window_rows, window_columns, step, columns, target, target_row, sums, add = args
        emit = VectorEmitter(builder, UNIT)

        def window(pixel: Any, channel: Any, mask: Any) -> None:
            place = builder.add(builder.mul(pixel, channels), channel)
            given = emit.load(emit.pointer(emit.offset(gradient, place)))
            chosen = emit.load_octets(builder.add(choice, place))
            with cgutils.if_likely(builder, builder.icmp_signed("!=", sums, word(0))):
                total = emit.pointer(emit.offset(sums, channel))
                alive = builder.icmp_signed("!=", chosen, ir.Constant(emit.integers, [DEAD] * emit.lanes))
                more = builder.fadd(emit.load(total), builder.select(alive, given, emit.zero))
                emit.store_masked(more, total, mask)
            corner = emit.offset(target, builder.add(builder.mul(pixel, step), channel))
            with cgutils.for_range(builder, window_rows) as row, cgutils.for_range(builder, window_columns) as column:
                number = builder.trunc(builder.add(builder.mul(row.index, window_columns), column.index), I32)
                here = builder.select(builder.icmp_signed("==", chosen, emit.splat(number)), given, emit.zero)
                offset = builder.add(builder.mul(row.index, target_row), builder.mul(column.index, channels))
                pointer = emit.pointer(emit.offset(corner, offset))
                before = builder.select(
                    emit.splat(builder.icmp_signed("!=", add, word(0))), emit.load(pointer), emit.zero
                )
                emit.store_masked(builder.fadd(here, before), pointer, mask)

        emit.for_pixels(columns, channels, window)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 11), generate


@compiled("void(" + "int64, " * 13 + "int64)")
def pool_image(
    source, source_row, channels, window_rows, window_columns, stride_rows, stride_columns, out_rows, out_columns,
    target, target_row, target_column, choice, rectified,
):  # fmt: skip
    """Pool one image (or band of rows): addresses, strides in elements; `choice`, without gaps, may be 0."""
    step = stride_columns * channels
    for y in range(out_rows):
        corner = source + 4 * y * stride_rows * source_row
        line = target + 4 * y * target_row
        chosen = choice + y * out_columns * target_column if choice else 0
        if window_rows == 2 and window_columns == 2:  # constants, so that LLVM unrolls the window
            _choose_row(corner, source_row, step, channels, 2, 2, out_columns, line, target_column, chosen, rectified)
        else:
            _choose_row(
                corner, source_row, step, channels, window_rows, window_columns, out_columns, line, target_column,
                chosen, rectified,
            )  # fmt: skip


@compiled("void(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64)")
def unpool_image(
    gradient, choice, channels, window_rows, window_columns, stride_rows, stride_columns, pooled_rows, pooled_columns,
    target, target_row, rows, columns, sums,
):  # fmt: skip
    """Write the gradient before pooling (rows x columns pixels at `target`) of one image.

    `sums`, where not 0, is the address of channel sums to which what is passed on is added (the bias gradient).
    """
    disjoint = stride_rows == window_rows and stride_columns == window_columns
    for y in range(rows):  # zeros where the windows below do not write
        covered = pooled_columns * window_columns if disjoint and y < pooled_rows * window_rows else 0
        line = floats(target + 4 * (y * target_row + covered * channels), (columns - covered) * channels)
        for i in range(line.size):
            line[i] = np.float32(0)
    step = stride_columns * channels
    for y in range(pooled_rows):
        given = gradient + 4 * y * pooled_columns * channels
        chosen = choice + y * pooled_columns * channels
        line_address = target + 4 * y * stride_rows * target_row
        if disjoint and window_rows == 2 and window_columns == 2:
            _spread_row(given, chosen, channels, 2, 2, step, pooled_columns, line_address, target_row, sums, 0)
        else:
            _spread_row(
                given, chosen, channels, window_rows, window_columns, step, pooled_columns, line_address, target_row,
                sums, 0 if disjoint else 1,
            )  # fmt: skip


@task_kernel
def pool(operation, first, last, part, worker):
    """Max pooling of images [first, last)."""
    o = _at(operation)
    last = min(last, words(o.batch, 1)[0])
    size = o.out_rows * o.out_columns * o.channels
    for image in range(first, last):
        pool_image(
            o.input + 4 * image * o.input_image,
            o.input_row,
            o.channels,
            o.window_rows,
            o.window_columns,
            o.stride_rows,
            o.stride_columns,
            o.out_rows,
            o.out_columns,
            o.output + 4 * image * o.output_image,
            o.output_row,
            o.channels,
            o.choice + image * size if o.choice else 0,
            0,
        )
    return 0


@compiled("void(int64, int64, int64, int64, int64, int64)")
def _unpool(operation, image, target, target_row, rows, columns):
    o = _at(operation)
    size = o.out_rows * o.out_columns * o.channels
    unpool_image(
        o.output_gradient + 4 * image * size,
        o.choice + image * size,
        o.channels,
        o.window_rows,
        o.window_columns,
        o.stride_rows,
        o.stride_columns,
        o.out_rows,
        o.out_columns,
        target,
        target_row,
        rows,
        columns,
        0,
    )


@task_kernel
def pool_backward(operation, first, last, part, worker):
    """Gradient of max pooling by its input, images [first, last)."""
    o = _at(operation)
    last = min(last, words(o.batch, 1)[0])
    line = o.width * o.channels
    padded = o.padded_columns * o.channels
    scratch = o.scratch + 4 * worker * o.scratch_worker
    inside = scratch + 4 * (o.padding_top * padded + o.padding_left * o.channels)
    for image in range(first, last):
        target = o.input_gradient + 4 * image * o.height * line
        if not o.scratch:
            _unpool(operation, image, target, line, o.height, o.width)
            continue
        _unpool(operation, image, scratch, padded, o.padded_rows, o.padded_columns)
        add_runs(inside, padded, target, line, o.height, line, np.float32(1), o.accumulate)
    return 0

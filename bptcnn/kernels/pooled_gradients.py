"""Gradient by weight of a convolution that max pooling follows: it knows which outputs have a gradient.

Of the outputs under a pooling's window only the one that was chosen has a gradient, and only that one meets the
windows of the input. With few filters this beats the register tile, whose lanes, filters, would idle:

    per filter k, pooled pixel p:   sums[k][kernel row] += gradient[p, k] * input[window row of the choice at p]

The vectors are rows of the filter window (kernel columns x channels), the sums of all rows stay in registers for a
whole image. They lie in a scratch until the task's last image is done: per filter and kernel row a line of vectors.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from bptcnn.kernels.compilation import compiled
from bptcnn.kernels.convolution import convolution_at
from bptcnn.kernels.pointers import floats
from bptcnn.kernels.pooling import DEAD
from bptcnn.kernels.tile import TileEmitter
from bptcnn.kernels.unit import COLUMNS, LANES, ROWS, UNIT, VECTORS
from bptcnn.kernels.vectors import F32, I8, I64, word

CHOICES = 256
"""Entries of the table of places under a pooling's window: a choice is a byte."""

_MOST_SUMS = ROWS * VECTORS  # vectors in registers
_MOST_VECTORS = 4 if LANES > 4 else 6  # of a window row
_MOST_ROWS = 5
_HALF = LANES // 2  # a short window row takes half a vector: that crosses fewer cache lines
_HALVED = LANES > 4
_LOADS = 3  # beside those of window rows: gradient, choice, its place
_CROSSING = 2  # cache lines of a window row's vector, which lies anywhere


def window_line(row: int) -> int:
    """Return the elements that a window row of `row` elements takes in the scratch: whole vectors, or a half one."""
    return _HALF if _HALVED and row <= _HALF else -(-row // LANES) * LANES


def follows_choices(window_rows: int, window_row: int, filters: int, pixels: int, pooled: int) -> bool:
    """Tell whether this algorithm beats the tile, by the loads of an image that each needs.

    window_row: elements of a row of the filter window; pixels, pooled: output pixels before and after the pooling.
    """
    line = window_line(window_row)
    if line > _MOST_VECTORS * LANES:
        return False
    vectors = -(-filters // LANES)
    taps = window_rows * window_row
    of_tile = taps * pixels * max(vectors, 2 * -(-filters // COLUMNS))  # scattered rows: address and element
    return pooled * filters * (window_rows * max(1, line // LANES) * _CROSSING + _LOADS) < of_tile


class _Emitter(TileEmitter):
    """Emits the sums of one filter: `rows` window rows of `vectors` vectors each."""

    def emit(self, args: Any) -> None:
        source, row, step, line, choice, gradient, filters, rows, columns, places, sums, sums_row, total = args
        builder = self.builder
        places = builder.inttoptr(places, I64.as_pointer())
        choice, gradient = builder.inttoptr(choice, I8.as_pointer()), self.pointer(gradient)
        offsets = [builder.mul(row, word(m)) for m in range(self.rows)]

        def pixel(state: list[Any]) -> list[Any]:
            index, corner, total, *found = state
            chosen = builder.zext(builder.load(builder.gep(choice, [index])), I64)
            value = builder.load(builder.gep(gradient, [index]))
            alive = builder.icmp_signed("!=", chosen, word(DEAD))
            value = builder.select(alive, value, F32(0.0))
            window = self.advance(corner, builder.load(builder.gep(places, [chosen])))
            spread = self.splat(value)
            for m, offset in enumerate(offsets):
                start = self.advance(window, offset)
                for v in range(self.vectors):
                    place = m * self.vectors + v
                    element = self.load(self.advance(start, word(v * self.lanes)))
                    found[place] = self.multiply_add(spread, element, found[place])
            more = builder.fadd(total, value)
            return [builder.add(index, filters), self.advance(corner, step), more, *found]

        def pixels(state: list[Any]) -> list[Any]:
            index, corner, *others = state
            index, _, *others = self.loop(columns, [index, corner, *others], pixel)
            return [index, self.advance(corner, line), *others]

        kept, total = self.pointer(sums), self.pointer(total)
        start = [word(0), self.pointer(source), builder.load(total), *self.initial(sums, sums_row)]
        _, _, value, *found = self.loop(rows, start, pixels)
        builder.store(value, total)
        for m in range(self.rows):
            for v in range(self.vectors):
                target = self.advance(self.advance(kept, builder.mul(sums_row, word(m))), word(v * self.lanes))
                self.store(found[m * self.vectors + v], target)


@intrinsic
def _add_chosen(
    typing, rows, vectors, source, row, step, line, choice, gradient, filters, pooled_rows, pooled_columns, places,
    sums, sums_row, total,
):  # fmt: skip
    """Add one image's products to `rows` x `vectors` sums of one filter (vectors 0: half a vector).

    `source`: the first window's first row; `step`, `line`: elements from pooled pixel to pixel, and row to row, there;
    `places`: table of elements from a window's first output to a choice; `total`: address of the gradient's sum.
    """

    def generate(context, builder, signature, args):
        end = builder.append_basic_block("chosen_end")
        switch = builder.switch(builder.add(builder.mul(args[1], word(_MOST_ROWS + 1)), args[0]), end)
        for v in range(0 if _HALVED else 1, _MOST_VECTORS + 1):
            for m in range(1, _MOST_ROWS + 1):
                if m * v > _MOST_SUMS:
                    continue
                block = builder.append_basic_block(f"chosen_{m}x{v}")
                switch.add_case(word(v * (_MOST_ROWS + 1) + m), block)
                builder.position_at_end(block)
                unit = UNIT if v else replace(UNIT, lanes=_HALF)
                _Emitter(builder, unit, m, max(v, 1), False).emit(args[2:])
                builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 15), generate


@compiled("void(int64, int64, int64)")
def add_chosen(operation, image, sums):
    """Add one image's filter gradient to `sums`, lines of windows per filter, and behind them the bias gradient."""
    o = convolution_at(operation)
    lines = o.kernel_rows * o.window_line
    vectors = 0 if o.window_line < LANES else o.window_line // LANES
    at_once = min(_MOST_ROWS, _MOST_SUMS // max(1, vectors))
    pooled = image * o.pooled_rows * o.pooled_columns * o.out_channels
    source = o.input + 4 * image * o.input_image
    totals = sums + 4 * o.out_channels * lines
    for k in range(o.out_channels):
        for row in range(0, o.kernel_rows, at_once):
            _add_chosen(
                min(at_once, o.kernel_rows - row),
                vectors,
                source + 4 * row * o.input_row,
                o.input_row,
                o.pool_columns * o.stride_columns * o.channels,
                o.pool_rows * o.stride_rows * o.input_row,
                o.choice + pooled + k,
                o.output_gradient + 4 * (pooled + k),
                o.out_channels,
                o.pooled_rows,
                o.pooled_columns,
                o.places,
                sums + 4 * (k * lines + row * o.window_line),
                o.window_line,
                totals + 4 * (k if row == 0 else o.out_channels),  # the gradient's sum is wanted once
            )


@compiled("void(int64, int64, int64)")
def write_chosen(operation, sums, partial):
    """Write the filter gradient (HWIO) and the bias gradient that `sums` holds to `partial`."""
    o = convolution_at(operation)
    filters, row = o.out_channels, o.kernel_columns * o.channels
    lines = o.kernel_rows * o.window_line
    found = floats(sums, filters * lines + filters)
    wanted = floats(partial, o.kernel_rows * row * filters + filters)
    for r in range(o.kernel_rows):
        for k in range(filters):
            for e in range(row):
                wanted[(r * row + e) * filters + k] = found[k * lines + r * o.window_line + e]
    for k in range(filters):
        wanted[o.kernel_rows * row * filters + k] = found[filters * lines + k]


def sums_size(filters: int, window_rows: int, window_row: int) -> int:
    """Return the elements of `sums`: lines per filter, bias gradients, and one that nobody wants."""
    return filters * window_rows * window_line(window_row) + filters + 1


def choice_places(pool_columns: int, row: int, pixel: int, choices: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the table of elements in the input from a window's first output to each choice.

    row, pixel: elements in the input from output row to row, and pixel to pixel.
    """
    places = np.zeros(CHOICES, np.int64)
    numbers = np.arange(choices)
    places[:choices] = numbers // pool_columns * row + numbers % pool_columns * pixel
    return places

"""Rows of a depthwise convolution and of its gradients, in explicit vectors over the channels.

    correlate_row   target[x, c] = floor_at(init[x, c] + sum_r sum_k source[x, r, k, c] * filters[r, k, c], floor)
    weigh_row       sums[r, k, c] += sum_x gradient[x, c] * source[x, r, k, c]
    rectify_row     target[x, c] = gradient[x, c] where the layer's output is above 0; sums[c] += that

Each takes the channels a vector at a time and walks the row with it. A 3x3 window whose taps are as far apart as the
output pixels, or half as far (stride 2), has code of its own: its nine filter vectors (or sums) stay in registers, and
every input vector of a block of pixels is loaded once per window row. Other windows loop over their taps.
"""

from collections.abc import Callable
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from bptcnn.kernels.compilation import compiled
from bptcnn.kernels.unit import UNIT
from bptcnn.kernels.vectors import VectorEmitter, word

_PIXELS = 4  # output pixels in one pass: with nine filter vectors they fit 16 registers
_WINDOW = 3  # rows and columns of the window that has code of its own


class _RowEmitter(VectorEmitter):
    """Emits walks along a row of pixels."""

    def along(self, pixels: Any, body: Callable[[Any, int], None]) -> None:
        """Emit body(first pixel, count) for blocks of _PIXELS pixels, then once for those that are left."""
        builder = self.builder
        left = builder.srem(pixels, word(_PIXELS))
        whole = builder.sub(pixels, left)
        with cgutils.for_range_slice(builder, word(0), whole, word(_PIXELS), inc=True) as (first, _):
            body(first, _PIXELS)
        end = builder.append_basic_block("row_end")
        switch = builder.switch(left, end)
        for count in range(1, _PIXELS):
            block = builder.append_basic_block(f"last_{count}")
            switch.add_case(word(count), block)
            builder.position_at_end(block)
            body(whole, count)
            builder.branch(end)
        builder.position_at_end(end)

    def at(self, base: Any, *terms: tuple[Any, Any]) -> Any:
        """Return the float pointer `base` advanced by the sum of the products (index * stride)."""
        for index, stride in terms:
            base = self.builder.gep(base, [self.builder.mul(index, stride)])
        return base

    def vector_at(self, base: Any, *terms: tuple[Any, Any]) -> Any:
        """Load the vector there."""
        return self.load(self.at(base, *terms))

    def variables(self, count: int) -> list[Any]:
        """Return `count` vectors that loops may change; LLVM keeps them in registers."""
        return [cgutils.alloca_once(self.builder, self.vector) for _ in range(count)]

    def for_channels(self, channels: Any, body: Callable[[Any, Any], None]) -> None:
        """Emit body(first channel, mask of the lanes in use) for each vector of channels."""
        with cgutils.for_range_slice(self.builder, word(0), channels, word(self.lanes), inc=True) as (channel, _):
            body(channel, self.first_lanes(self.builder.sub(channels, channel)))


def _correlation(stride: int, name: str) -> Any:
    """Return the intrinsic of `correlate_row` for a 3x3 window with taps 1/stride pixels apart; 0: for any window."""

    def typed(
        typing, source, source_row, source_column, step, filters, filter_row, filter_column, rows, columns, init,
        init_pixel, target, target_pixel, pixels, channels, floor,
    ):  # fmt: skip
        def generate(context, builder, signature, args):
            (source, source_row, source_column, step, filters, filter_row, filter_column, rows, columns, init,
             init_pixel, target, target_pixel, pixels, channels, floor) = args  # fmt: skip
            emit = _RowEmitter(builder, UNIT)
            floors = emit.splat(floor)
            initialised = builder.icmp_signed("!=", init, word(0))
            start = builder.select(initialised, init, filters)  # an address that can be read
            init_step = builder.select(initialised, init_pixel, word(0))

            def vector(channel: Any, mask: Any) -> None:
                window, taps, base, result = (
                    emit.pointer(emit.offset(address, channel)) for address in (source, filters, start, target)
                )
                fixed = [
                    [emit.vector_at(taps, (word(r), filter_row), (word(k), filter_column)) for k in range(_WINDOW)]
                    for r in range(_WINDOW if stride else 0)
                ]

                def block(first: Any, count: int) -> None:
                    corner = emit.at(window, (first, step))
                    places = [builder.add(first, word(p)) for p in range(count)]
                    sums = [
                        builder.select(emit.splat(initialised), emit.vector_at(base, (place, init_step)), emit.zero)
                        for place in places
                    ]
                    if stride:
                        sums = _unrolled(emit, corner, (source_row, source_column), fixed, sums, stride)
                    else:
                        sums = _looped(
                            emit, corner, (source_row, source_column), step, taps, (filter_row, filter_column),
                            (rows, columns), sums,
                        )  # fmt: skip
                    for place, value in zip(places, sums, strict=True):
                        raised = builder.select(builder.fcmp_ordered("<", value, floors), floors, value)
                        emit.store_masked(raised, emit.at(result, (place, target_pixel)), mask)

                emit.along(pixels, block)

            emit.for_channels(channels, vector)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 15, types.float32), generate

    typed.__name__ = name
    return intrinsic(typed)


def _unrolled(
    emit: _RowEmitter, corner: Any, strides: tuple[Any, Any], fixed: list[list[Any]], sums: list[Any], stride: int
) -> list[Any]:
    """Add a 3x3 window at each of len(sums) pixels, `stride` taps apart."""
    sums = list(sums)
    for r, filters in enumerate(fixed):
        row = emit.at(corner, (word(r), strides[0]))
        for column in range((len(sums) - 1) * stride + _WINDOW):
            value = emit.vector_at(row, (word(column), strides[1]))
            for p in range(len(sums)):
                if 0 <= column - p * stride < _WINDOW:
                    sums[p] = emit.multiply_add(value, filters[column - p * stride], sums[p])
    return sums


def _looped(
    emit: _RowEmitter, corner: Any, strides: tuple[Any, Any], step: Any, taps: Any, filter_strides: tuple[Any, Any],
    window: tuple[Any, Any], sums: list[Any],
) -> list[Any]:  # fmt: skip
    """Add any window at each of len(sums) pixels."""
    builder = emit.builder
    totals = emit.variables(len(sums))
    for total, value in zip(totals, sums, strict=True):
        builder.store(value, total)
    with cgutils.for_range(builder, window[0]) as row, cgutils.for_range(builder, window[1]) as column:
        tap = emit.vector_at(taps, (row.index, filter_strides[0]), (column.index, filter_strides[1]))
        place = emit.at(corner, (row.index, strides[0]), (column.index, strides[1]))
        for p, total in enumerate(totals):
            value = emit.vector_at(place, (word(p), step))
            builder.store(emit.multiply_add(value, tap, builder.load(total)), total)
    return [builder.load(total) for total in totals]


_correlate_close = _correlation(1, "correlate_close")
_correlate_strided = _correlation(2, "correlate_strided")
_correlate_any = _correlation(0, "correlate_any")


@compiled("void(" + "int64, " * 15 + "float32)")
def correlate_row(
    source, source_row, source_column, step, filters, filter_row, filter_column, rows, columns, init, init_pixel,
    target, target_pixel, pixels, channels, floor,
):  # fmt: skip
    """Apply one window of rows x columns taps per channel to a row of pixels.

    Addresses, and strides in elements: window x begins `step` elements behind window x - 1, its taps lie source_row and
    source_column apart. `init` holds sums to continue or, with init_pixel 0, a bias; 0: zeros. Only target is written.
    """
    if rows == 3 and columns == 3 and step == source_column:
        _correlate_close(
            source, source_row, source_column, step, filters, filter_row, filter_column, rows, columns, init,
            init_pixel, target, target_pixel, pixels, channels, floor,
        )  # fmt: skip
    elif rows == 3 and columns == 3 and step == 2 * source_column:
        _correlate_strided(
            source, source_row, source_column, step, filters, filter_row, filter_column, rows, columns, init,
            init_pixel, target, target_pixel, pixels, channels, floor,
        )  # fmt: skip
    else:
        _correlate_any(
            source, source_row, source_column, step, filters, filter_row, filter_column, rows, columns, init,
            init_pixel, target, target_pixel, pixels, channels, floor,
        )  # fmt: skip


def _weighing(stride: int, name: str) -> Any:
    """Return the intrinsic of `weigh_row` for a 3x3 window with taps 1/stride pixels apart; 0: for any window."""

    def typed(typing, gradient, source, source_row, source_column, step, rows, columns, sums, pixels, channels):
        def generate(context, builder, signature, args):
            gradient, source, source_row, source_column, step, rows, columns, sums, pixels, channels = args
            emit = _RowEmitter(builder, UNIT)
            totals = emit.variables(_WINDOW * _WINDOW if stride else _PIXELS)

            def add(target: Any, value: Any, mask: Any) -> None:
                emit.store_masked(builder.fadd(emit.load(target), value), target, mask)

            def window(given: Any, corner: Any, result: Any, mask: Any) -> None:
                def block(first: Any, count: int) -> None:
                    weights = [emit.vector_at(given, (builder.add(first, word(p)), channels)) for p in range(count)]
                    start = emit.at(corner, (first, step))
                    _weigh_unrolled(emit, weights, start, (source_row, source_column), totals, stride)

                emit.along(pixels, block)
                for tap, total in enumerate(totals):
                    add(emit.at(result, (word(tap), channels)), builder.load(total), mask)

            def each_tap(given: Any, corner: Any, result: Any, mask: Any) -> None:
                with cgutils.for_range(builder, rows) as row, cgutils.for_range(builder, columns) as column:
                    place = emit.at(corner, (row.index, source_row), (column.index, source_column))
                    for total in totals:
                        builder.store(emit.zero, total)

                    def block(first: Any, count: int) -> None:
                        for p in range(count):
                            pixel = builder.add(first, word(p))
                            weight, value = (
                                emit.vector_at(given, (pixel, channels)),
                                emit.vector_at(place, (pixel, step)),
                            )
                            builder.store(emit.multiply_add(weight, value, builder.load(totals[p])), totals[p])

                    emit.along(pixels, block)
                    total = emit.zero
                    for part in totals:
                        total = builder.fadd(total, builder.load(part))
                    tap = builder.add(builder.mul(row.index, columns), column.index)
                    add(emit.at(result, (tap, channels)), total, mask)

            def vector(channel: Any, mask: Any) -> None:
                given, corner, result = (
                    emit.pointer(emit.offset(address, channel)) for address in (gradient, source, sums)
                )
                for total in totals:
                    builder.store(emit.zero, total)
                taps = window if stride else each_tap
                taps(given, corner, result, mask)

            emit.for_channels(channels, vector)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 10), generate

    typed.__name__ = name
    return intrinsic(typed)


def _weigh_unrolled(
    emit: _RowEmitter, weights: list[Any], corner: Any, strides: tuple[Any, Any], totals: list[Any], stride: int
) -> None:
    """Add the windows at len(weights) pixels, weighted, to the nine totals."""
    builder = emit.builder
    for r in range(_WINDOW):
        row = emit.at(corner, (word(r), strides[0]))
        for column in range((len(weights) - 1) * stride + _WINDOW):
            value = emit.vector_at(row, (word(column), strides[1]))
            for p, weight in enumerate(weights):
                k = column - p * stride
                if 0 <= k < _WINDOW:
                    total = totals[r * _WINDOW + k]
                    builder.store(emit.multiply_add(value, weight, builder.load(total)), total)


_weigh_close = _weighing(1, "weigh_close")
_weigh_strided = _weighing(2, "weigh_strided")
_weigh_any = _weighing(0, "weigh_any")


@compiled("void(" + ", ".join(["int64"] * 10) + ")")
def weigh_row(gradient, source, source_row, source_column, step, rows, columns, sums, pixels, channels):
    """Add one row's gradient by filter to `sums` (rows, columns, channels); see `correlate_row` for the strides."""
    if rows == 3 and columns == 3 and step == source_column:
        _weigh_close(gradient, source, source_row, source_column, step, rows, columns, sums, pixels, channels)
    elif rows == 3 and columns == 3 and step == 2 * source_column:
        _weigh_strided(gradient, source, source_row, source_column, step, rows, columns, sums, pixels, channels)
    else:
        _weigh_any(gradient, source, source_row, source_column, step, rows, columns, sums, pixels, channels)


@intrinsic
def _rectify(typing, gradient, output, channels, pixels, target, sums, rectified):
    def generate(context, builder, signature, args):
        gradient, output, channels, pixels, target, sums, rectified = args
        emit = _RowEmitter(builder, UNIT)
        total = emit.variables(1)[0]
        linear = builder.icmp_signed("==", rectified, word(0))
        decider = builder.select(linear, gradient, output)  # what is not needed is not fetched
        all_lanes = emit.splat(linear)

        def vector(channel: Any, mask: Any) -> None:
            given, above, result, channel_sum = (
                emit.pointer(emit.offset(address, channel)) for address in (gradient, decider, target, sums)
            )
            builder.store(emit.zero, total)

            def block(first: Any, count: int) -> None:
                for p in range(count):
                    place = (builder.add(first, word(p)), channels)
                    counts = builder.fcmp_ordered(">", emit.vector_at(above, place), emit.zero)
                    value = builder.select(builder.or_(counts, all_lanes), emit.vector_at(given, place), emit.zero)
                    emit.store_masked(value, emit.at(result, place), mask)
                    builder.store(builder.fadd(builder.load(total), value), total)

            emit.along(pixels, block)
            emit.store_masked(builder.fadd(emit.load(channel_sum), builder.load(total)), channel_sum, mask)

        emit.for_channels(channels, vector)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), generate


@compiled("void(" + ", ".join(["int64"] * 7) + ")")
def rectify_row(gradient, output, channels, pixels, target, sums, rectified):
    """Copy a row's output gradient to `target`, zeros where a rectifier put out 0 or less; add it to channel sums."""
    _rectify(gradient, output, channels, pixels, target, sums, rectified)

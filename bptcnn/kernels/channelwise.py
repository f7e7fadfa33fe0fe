"""Rows of a depthwise convolution and of its gradients, in explicit vectors over the channels.

    correlate_rows  target[x, c] = floor_at(start[x, c] + sum_r sum_k source[x, r, k, c] * filters[r, k, c], floor)
    weigh_rows      sums[r, k, c] += sum_x gradient[x, c] * source[x, r, k, c]
    rectify_row     target[x, c] = gradient[x, c] where the layer's output is above 0; sums[c] += that

A row is cut into blocks of a few pixels, and a block walks through its channels: all that it reads and writes are
contiguous streams, and each vector that it loads serves every window of the block that it lies in. The windows of
3x3 layers, and those that their gradients split into, are unrolled; others loop over their taps.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from bptcnn.kernels.compilation import linked
from bptcnn.kernels.switching import choose
from bptcnn.kernels.unit import UNIT
from bptcnn.kernels.vectors import FIRST_LEVEL, VectorEmitter, word

_PIXELS = 4  # of a row in one block
BAND = 2  # rows of windows that are taken at once: with _PIXELS of each, 8 sums keep the multiply-adders busy


class _Window(NamedTuple):
    """An unrolled window of rows x columns taps for a band of rows; neighbours in a row lie `step` taps apart."""

    rows: int
    columns: int
    step: int
    band: int


_CORRELATED = [
    _Window(3, 3, 1, 1),
    _Window(3, 3, 1, 2),
    _Window(3, 3, 2, 1),
    _Window(1, 1, 1, 1),  # the phases of the gradient by input of 3x3 with stride 2
    _Window(1, 2, 1, 1),
    _Window(2, 1, 1, 1),
    _Window(2, 2, 1, 1),
]
_WEIGHED = [_Window(3, 3, 1, 1), _Window(3, 3, 1, 2), _Window(3, 3, 2, 1), _Window(3, 3, 2, 2)]


class RowEmitter(VectorEmitter):
    """Emits walks along rows of pixels."""

    def along(self, pixels: Any, channels: Any, body: Callable[[Any, int, Any, Any], None]) -> None:
        """Emit body(first pixel, count, channel, mask of the lanes in use) for blocks of pixels and their channels."""
        builder = self.builder

        def block(first: Any, count: int) -> None:
            lanes = word(self.lanes)
            with cgutils.for_range_slice(builder, word(0), channels, lanes, inc=True) as (channel, _):
                body(first, count, channel, self.first_lanes(builder.sub(channels, channel)))

        left = builder.srem(pixels, word(_PIXELS))
        whole = builder.sub(pixels, left)
        with cgutils.for_range_slice(builder, word(0), whole, word(_PIXELS), inc=True) as (first, _):
            block(first, _PIXELS)
        cases = {count: partial(block, whole, count) for count in range(1, _PIXELS)}
        choose(builder, left, cases, lambda: None)

    def at(self, base: Any, *terms: tuple[Any, Any]) -> Any:
        """Return the float pointer `base` advanced by the sum of the products (index * stride)."""
        for index, stride in terms:
            base = self.builder.gep(base, [self.builder.mul(index, stride)])
        return base

    def vector_at(self, base: Any, *terms: tuple[Any, Any]) -> Any:
        """Load the vector there."""
        return self.load(self.at(base, *terms))

    def pointers(self, addresses: list[Any], channel: Any) -> list[Any]:
        """Return float pointers to that channel at each address."""
        return [self.pointer(self.offset(address, channel)) for address in addresses]

    def variables(self, values: list[Any]) -> list[Any]:
        """Return vectors that loops may change; LLVM keeps them in registers."""
        found = [cgutils.alloca_once(self.builder, self.vector) for _ in values]
        for variable, value in zip(found, values, strict=True):
            self.builder.store(value, variable)
        return found

    def add_at(self, target: Any, value: Any, mask: Any) -> None:
        """Add `value` to the lanes of `mask` in memory."""
        self.store_masked(self.builder.fadd(self.load(target), value), target, mask)


def _number(window: _Window) -> int:
    """Return the window's case, as `_case` does in compiled code."""
    return ((window.rows * 4 + window.columns) * 4 + window.step) * 4 + window.band


def _served(window: _Window, count: int) -> list[list[list[tuple[int, int, int, int]]]]:
    """List, by source row and column, the windows that an input vector of a block of `count` pixels lies in.

    As (row of the band, pixel, tap row, tap column): windows lie `step` taps apart in both directions.
    """
    rows, columns, step, band = window

    def at(row: int, column: int) -> list[tuple[int, int, int, int]]:
        found = [(q, p, row - q * step, column - p * step) for q in range(band) for p in range(count)]
        return [item for item in found if 0 <= item[2] < rows and 0 <= item[3] < columns]

    width = (count - 1) * step + columns
    return [[at(row, column) for column in range(width)] for row in range((band - 1) * step + rows)]


def _is_new(window: _Window, count: int, row: int, column: int) -> bool:
    """Tell whether neither an earlier band nor an earlier block of the row reads this source row and column."""
    return row >= window.rows - window.step and column < count * window.step


class _WindowEmitter(RowEmitter):
    """Emits windows over a source; `source_row` and `source_column` are its strides."""

    source_row: Any
    source_column: Any

    def loaded(self, window: _Window, corner: Any, count: int) -> Iterator[tuple[Any, list[tuple[int, int, int, int]]]]:
        """Load each source vector of a block, with the windows that it lies in; fetch what the next band reads below.

        `corner`: of the block's first window.
        """
        below = word(window.band * window.step)
        for r, row in enumerate(_served(window, count)):
            line = self.at(corner, (word(r), self.source_row))
            for k, items in enumerate(row):
                column = word(k), self.source_column
                value = self.vector_at(line, column)
                if _is_new(window, count, r, k):
                    self.prefetch(self.at(line, (below, self.source_row), column), FIRST_LEVEL)
                yield value, items


class _Correlation(_WindowEmitter):
    """Emits `correlate_rows` for one band of rows."""

    def __init__(self, builder: Any, arguments: Any) -> None:
        super().__init__(builder, UNIT)
        (
            self.source, self.source_row, self.source_column, self.step,
            self.filters, self.filter_row, self.filter_column, self.rows, self.columns, self.bias, self.continued,
            self.target, self.target_line, self.target_pixel, self.pixels, self.channels, self.floor,
        ) = arguments  # fmt: skip

    def emit(self, window: _Window | None) -> None:
        """Emit the code for an unrolled window, or for one row of any windows."""
        builder = self.builder
        floors = self.splat(self.floor)
        band = window.band if window else 1
        biased, continued = (builder.icmp_signed("!=", flag, word(0)) for flag in (self.bias, self.continued))
        bias = builder.select(biased, self.bias, self.filters)  # an address that can be read

        def block(first: Any, count: int, channel: Any, mask: Any) -> None:
            source, taps, base, target = self.pointers([self.source, self.filters, bias, self.target], channel)
            corner = self.at(source, (first, self.step))
            lines = [self.at(target, (word(q), self.target_line), (first, self.target_pixel)) for q in range(band)]
            results = [self.at(line, (word(p), self.target_pixel)) for line in lines for p in range(count)]
            start = builder.select(biased, self.load(base), self.zero)
            sums = self.variables([start] * len(results))
            with builder.if_then(continued):
                for total, result in zip(sums, results, strict=True):
                    builder.store(self.load(result), total)
            if window:
                self._unrolled(window, corner, taps, sums, count)
            else:
                self._looped(corner, taps, sums)
            for result in results:
                self.prefetch(self.at(result, (word(band), self.target_line)), FIRST_LEVEL, writing=True)
            for total, result in zip(sums, results, strict=True):
                value = builder.load(total)
                raised = builder.select(builder.fcmp_ordered("<", value, floors), floors, value)
                self.store_masked(raised, result, mask)

        self.along(self.pixels, self.channels, block)

    def _add(self, value: Any, tap: Any, total: Any) -> None:
        self.builder.store(self.multiply_add(value, tap, self.builder.load(total)), total)

    def _unrolled(self, window: _Window, corner: Any, taps: Any, sums: list[Any], count: int) -> None:
        filters = [
            [
                self.vector_at(taps, (word(r), self.filter_row), (word(k), self.filter_column))
                for k in range(window.columns)
            ]
            for r in range(window.rows)
        ]
        for value, items in self.loaded(window, corner, count):
            for q, p, tap_row, tap_column in items:
                self._add(value, filters[tap_row][tap_column], sums[q * count + p])

    def _looped(self, corner: Any, taps: Any, sums: list[Any]) -> None:
        builder = self.builder
        with cgutils.for_range(builder, self.rows) as row, cgutils.for_range(builder, self.columns) as column:
            tap = self.vector_at(taps, (row.index, self.filter_row), (column.index, self.filter_column))
            place = self.at(corner, (row.index, self.source_row), (column.index, self.source_column))
            for p, total in enumerate(sums):
                self._add(self.vector_at(place, (word(p), self.step)), tap, total)


@njit(inline="always")
def _case(rows, columns, ratio, band):
    """Number a window in the switch over the unrolled ones; others get a number that none of them has."""
    return ((rows * 4 + columns) * 4 + ratio) * 4 + band if max(rows, columns, ratio) < 4 else -1


@njit(inline="always")
def _ratio(step, source_column):
    """How many taps apart neighbouring windows begin; 0 where they begin between taps."""
    return step // source_column if source_column and step % source_column == 0 else 0


@intrinsic
def _emit_correlation(
    typing, case, source, source_row, source_column, step, filters, filter_row, filter_column, rows, columns, bias,
    continued, target, target_line, target_pixel, pixels, channels, floor,
):  # fmt: skip
    """One band of `correlate_rows`: the unrolled window of number `case`, or any."""

    def generate(context, builder, signature, args):
        emit = _Correlation(builder, args[1:])
        cases = {_number(window): partial(emit.emit, window) for window in _CORRELATED}
        choose(builder, args[0], cases, lambda: emit.emit(None))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 17, types.float32), generate


@linked("void(" + "int64, " * 18 + "float32)")
def correlate_rows(
    source, source_line, source_row, source_column, step, filters, filter_row, filter_column, rows, columns, bias,
    continued, target, target_line, target_pixel, lines, pixels, channels, floor,
):  # fmt: skip
    """Apply windows of rows x columns taps, one filter per channel, at `lines` rows of `pixels` pixels.

    Addresses, and strides in elements. Window (y, x) begins source_line * y + step * x behind `source`; its taps lie
    source_row and source_column apart. Sums start with what is in the target where `continued` is 1, else with the
    bias (0: none). Only the target's pixels are written.
    """
    ratio = _ratio(step, source_column)
    banded = rows == 3 and columns == 3 and ratio == 1 and source_line == source_row
    while lines > 0:
        band = BAND if banded and lines >= BAND else 1
        case = _case(rows, columns, ratio, band)
        _emit_correlation(
            case, source, source_row, source_column, step, filters, filter_row, filter_column, rows, columns, bias,
            continued, target, target_line, target_pixel, pixels, channels, floor,
        )  # fmt: skip
        source += 4 * band * source_line
        target += 4 * band * target_line
        lines -= band


class _Weighing(_WindowEmitter):
    """Emits `weigh_rows` for one band of rows."""

    def __init__(self, builder: Any, arguments: Any) -> None:
        super().__init__(builder, UNIT)
        (
            self.gradient, self.gradient_line, self.source, self.source_row, self.source_column, self.step,
            self.rows, self.columns, self.sums, self.pixels, self.channels,
        ) = arguments  # fmt: skip

    def emit(self, window: _Window | None) -> None:
        """Emit the code for an unrolled window, or for one row of any windows."""

        def block(first: Any, count: int, channel: Any, mask: Any) -> None:
            gradient, source, sums = self.pointers([self.gradient, self.source, self.sums], channel)
            given = self.at(gradient, (first, self.channels))
            corner = self.at(source, (first, self.step))
            if window:
                self._unrolled(window, given, corner, sums, count, mask)
            else:
                self._looped(given, corner, sums, count, mask)

        self.along(self.pixels, self.channels, block)

    def _unrolled(self, window: _Window, given: Any, corner: Any, sums: Any, count: int, mask: Any) -> None:
        weights = [
            self.vector_at(given, (word(q), self.gradient_line), (word(p), self.channels))
            for q in range(window.band)
            for p in range(count)
        ]
        targets = [self.at(sums, (word(tap), self.channels)) for tap in range(window.rows * window.columns)]
        totals = [self.load(target) for target in targets]
        for value, items in self.loaded(window, corner, count):
            for q, p, tap_row, tap_column in items:
                tap = tap_row * window.columns + tap_column
                totals[tap] = self.multiply_add(value, weights[q * count + p], totals[tap])
        for target, total in zip(targets, totals, strict=True):
            self.store_masked(total, target, mask)

    def _looped(self, given: Any, corner: Any, sums: Any, count: int, mask: Any) -> None:
        builder = self.builder
        weights = [self.vector_at(given, (word(p), self.channels)) for p in range(count)]
        with cgutils.for_range(builder, self.rows) as row, cgutils.for_range(builder, self.columns) as column:
            place = self.at(corner, (row.index, self.source_row), (column.index, self.source_column))
            tap = builder.add(builder.mul(row.index, self.columns), column.index)
            target = self.at(sums, (tap, self.channels))
            total = self.load(target)
            for p, weight in enumerate(weights):
                total = self.multiply_add(self.vector_at(place, (word(p), self.step)), weight, total)
            self.store_masked(total, target, mask)


@intrinsic
def _emit_weighing(
    typing, case, gradient, gradient_line, source, source_row, source_column, step, rows, columns, sums, pixels,
    channels,
):  # fmt: skip
    """One band of `weigh_rows`: the unrolled window of number `case`, or any."""

    def generate(context, builder, signature, args):
        emit = _Weighing(builder, args[1:])
        cases = {_number(window): partial(emit.emit, window) for window in _WEIGHED}
        choose(builder, args[0], cases, lambda: emit.emit(None))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 12), generate


@linked("void(" + ", ".join(["int64"] * 13) + ")")
def weigh_rows(
    gradient, gradient_line, source, source_line, source_row, source_column, step, rows, columns, sums, lines, pixels,
    channels,
):  # fmt: skip
    """Add the gradient by filter of `lines` rows of pixels to `sums` (rows, columns, channels).

    `gradient` lies dense but for its lines; see `correlate_rows` for the strides of the source.
    """
    ratio = _ratio(step, source_column)
    banded = rows == 3 and columns == 3 and 1 <= ratio <= 2 and source_line == ratio * source_row
    while lines > 0:
        band = BAND if banded and lines >= BAND else 1
        case = _case(rows, columns, ratio, band)
        _emit_weighing(
            case, gradient, gradient_line, source, source_row, source_column, step, rows, columns, sums, pixels,
            channels,
        )  # fmt: skip
        gradient += 4 * band * gradient_line
        source += 4 * band * source_line
        lines -= band


@intrinsic
def _emit_rectifying(typing, gradient, output, channels, pixels, target, sums, rectified):
    def generate(context, builder, signature, args):
        gradient, output, channels, pixels, target, sums, rectified = args
        emit = RowEmitter(builder, UNIT)
        linear = builder.icmp_signed("==", rectified, word(0))
        decider = builder.select(linear, gradient, output)  # what is not needed is not fetched
        all_lanes = emit.splat(linear)

        def block(first: Any, count: int, channel: Any, mask: Any) -> None:
            given, above, result, total = emit.pointers([gradient, decider, target, sums], channel)
            added = []
            for p in range(count):
                place = (builder.add(first, word(p)), channels)
                counts = builder.fcmp_ordered(">", emit.vector_at(above, place), emit.zero)
                added.append(builder.select(builder.or_(counts, all_lanes), emit.vector_at(given, place), emit.zero))
                emit.store_masked(added[-1], emit.at(result, place), mask)
            while len(added) > 1:
                added.append(builder.fadd(added.pop(0), added.pop(0)))
            emit.add_at(total, added[0], mask)

        emit.along(pixels, channels, block)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), generate


@linked("void(" + ", ".join(["int64"] * 7) + ")")
def rectify_row(gradient, output, channels, pixels, target, sums, rectified):
    """Copy a row's output gradient to `target`, zeros where a rectifier put out 0 or less; add it to channel sums."""
    _emit_rectifying(gradient, output, channels, pixels, target, sums, rectified)

"""Pixels of batch normalisation's backward sweeps, in explicit vectors over the channels.

    sum_pixels   total[c] += g[p, c]; products[c] += g[p, c] * (x[p, c] - mean[c])
    turn_pixels  target[p, c] = of_gradient[c] * g[p, c] + of_input[c] * (x[p, c] - mean[c]) + constant[c]

g is the output's gradient, the rectifier undone where the layer `rectifies`: what it let through is seen from the
input x, factor[c] * (x - mean[c]) + offset[c] > 0. (The compiler gives up vectors where this many arrays might
overlap.)
"""

from typing import Any

from numba import types
from numba.extending import intrinsic

from bptcnn.kernels.channelwise import RowEmitter
from bptcnn.kernels.compilation import linked
from bptcnn.kernels.unit import UNIT
from bptcnn.kernels.vectors import FIRST_LEVEL, word

_AHEAD = 1024  # elements from fetching to use in `sum_pixels`


class _Undoing(RowEmitter):
    """Emits what both sweeps begin with."""

    def __init__(self, builder: Any, rectifies: Any) -> None:
        super().__init__(builder, UNIT)
        self._linear = self.splat(builder.icmp_signed("==", rectifies, word(0)))

    def given(self, gradient: Any, distance: Any, factor: Any, offset: Any) -> Any:
        """Return the gradient where the rectifier let the value through, or there is none; `distance`: x - mean."""
        above = self.builder.fcmp_ordered(">", self.multiply_add(distance, factor, offset), self.zero)
        return self.builder.select(self.builder.or_(above, self._linear), gradient, self.zero)


@intrinsic
def _emit_sums(typing, gradient, source, channels, pixels, factor, offset, mean, total, products, rectifies):
    def generate(context, builder, signature, args):
        gradient, source, channels, pixels, *terms, total, products, rectifies = args
        emit = _Undoing(builder, rectifies)

        def block(first: Any, count: int, channel: Any, mask: Any) -> None:
            given_at, source_at, *sums = emit.pointers([gradient, source, total, products], channel)
            factor, offset, mean = (emit.load(at) for at in emit.pointers(terms, channel))
            totals = [emit.load(at) for at in sums]
            for p in range(count):
                place = (builder.add(first, word(p)), channels)
                for at in (given_at, source_at):
                    emit.prefetch(emit.at(at, place, (word(_AHEAD), word(1))), FIRST_LEVEL)
                distance = builder.fsub(emit.vector_at(source_at, place), mean)
                given = emit.given(emit.vector_at(given_at, place), distance, factor, offset)
                totals[0] = builder.fadd(totals[0], given)
                totals[1] = emit.multiply_add(given, distance, totals[1])
            for at, value in zip(sums, totals, strict=True):
                emit.store_masked(value, at, mask)

        emit.along(pixels, channels, block)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 10), generate


@linked("void(" + ", ".join(["int64"] * 10) + ")")
def sum_pixels(gradient, source, channels, pixels, factor, offset, mean, total, products, rectifies):
    """Add the sums of `pixels` pixels of `channels` elements, one behind the other on both sides; all are addresses."""
    _emit_sums(gradient, source, channels, pixels, factor, offset, mean, total, products, rectifies)


@intrinsic
def _emit_turning(
    typing, gradient, source, step, target, target_step, pixels, channels, factor, offset, mean, of_gradient,
    of_input, constant, rectifies, accumulate, ahead,
):  # fmt: skip
    def generate(context, builder, signature, args):
        gradient, source, step, target, target_step, pixels, channels, *terms, rectifies, accumulate, ahead = args
        emit = _Undoing(builder, rectifies)
        adds = builder.icmp_signed("!=", accumulate, word(0))
        before = builder.select(adds, target, gradient)  # what is not needed is not fetched
        before_step = builder.select(adds, target_step, step)
        added = emit.splat(adds)

        def block(first: Any, count: int, channel: Any, mask: Any) -> None:
            given_at, source_at, before_at, target_at = emit.pointers([gradient, source, before, target], channel)
            factor, offset, mean, of_gradient, of_input, constant = (
                emit.load(at) for at in emit.pointers(terms, channel)
            )
            for p in range(count):
                pixel = builder.add(first, word(p))
                later = builder.add(pixel, ahead)
                for at in (given_at, source_at):
                    emit.prefetch(emit.at(at, (later, step)), FIRST_LEVEL)
                distance = builder.fsub(emit.vector_at(source_at, (pixel, step)), mean)
                given = emit.given(emit.vector_at(given_at, (pixel, step)), distance, factor, offset)
                value = emit.multiply_add(of_gradient, given, emit.multiply_add(of_input, distance, constant))
                there = builder.select(added, emit.vector_at(before_at, (pixel, before_step)), emit.zero)
                emit.store_masked(builder.fadd(value, there), emit.at(target_at, (pixel, target_step)), mask)

        emit.along(pixels, channels, block)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 16), generate


@linked("void(" + ", ".join(["int64"] * 12) + ")")
def turn_pixels(
    gradient, source, step, target, target_step, pixels, channels, forward_terms, backward_terms, rectifies,
    accumulate, ahead,
):  # fmt: skip
    """Write, or add, the input's gradient of `channels` channels of `pixels` pixels.

    Addresses, and elements from pixel to pixel: `step`, all channels, in the output's gradient and the input. The
    terms of these channels lie in rows of all channels: factor, offset and mean; of_gradient, of_input and constant.
    The target may be the output's gradient. Pixels that lie `ahead` behind those are fetched meanwhile.
    """
    row = 4 * step
    _emit_turning(
        gradient, source, step, target, target_step, pixels, channels, forward_terms, forward_terms + row,
        forward_terms + 2 * row, backward_terms, backward_terms + row, backward_terms + 2 * row, rectifies,
        accumulate, ahead,
    )  # fmt: skip

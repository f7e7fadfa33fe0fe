"""Pixels of batch normalisation's forward sweeps, in explicit vectors over the channels.

    sum_distances     total[c] += x[p, c] - shift[c]; squares[c] += (x[p, c] - shift[c])^2
    normalise_pixels  target[p, c] = floor(factor[c] * (x[p, c] - mean[c]) + offset[c] + addend[p, c])

What the backward sweeps see of the rectifier is computed by the same operations (see normalisation_gradients).
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bptcnn.kernels.channelwise import RowEmitter
from bptcnn.kernels.compilation import linked
from bptcnn.kernels.unit import UNIT
from bptcnn.kernels.vectors import FIRST_LEVEL, word

_AHEAD = 1024  # elements from fetching to use in `sum_distances`


@intrinsic
def _emit_distances(typing, source, channels, pixels, shift, total, squares):
    def generate(context, builder, signature, args):
        source, channels, pixels, shift, total, squares = args
        emit = RowEmitter(builder, UNIT)

        def block(first: Any, count: int, channel: Any, mask: Any) -> None:
            source_at, shift_at, *sums = emit.pointers([source, shift, total, squares], channel)
            start, totals, products = (emit.load(at) for at in (shift_at, *sums))
            distances = []
            for p in range(count):
                place = (builder.add(first, word(p)), channels)
                emit.prefetch(emit.at(source_at, place, (word(_AHEAD), word(1))), FIRST_LEVEL)
                distances.append(builder.fsub(emit.vector_at(source_at, place), start))
                products = emit.multiply_add(distances[-1], distances[-1], products)
            while len(distances) > 1:
                distances.append(builder.fadd(distances.pop(0), distances.pop(0)))
            for at, value in zip(sums, (builder.fadd(totals, distances[0]), products), strict=True):
                emit.store_masked(value, at, mask)

        emit.along(pixels, channels, block)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), generate


@linked("void(" + ", ".join(["int64"] * 6) + ")")
def sum_distances(source, channels, pixels, shift, total, squares):
    """Add the sums of `pixels` pixels of `channels` elements, one behind the other; all are addresses."""
    _emit_distances(source, channels, pixels, shift, total, squares)


@intrinsic
def _emit_normalising(typing, source, channels, pixels, factor, offset, mean, addend, target, rectifies):
    def generate(context, builder, signature, args):
        source, channels, pixels, *terms, addend, target, rectifies = args
        emit = RowEmitter(builder, UNIT)
        adds = builder.icmp_signed("!=", addend, word(0))
        added = emit.splat(adds)
        addend = builder.select(adds, addend, source)  # what is not needed is not fetched
        linear = emit.splat(builder.icmp_signed("==", rectifies, word(0)))
        lowest = ir.Constant(emit.vector, [-np.inf] * emit.lanes)
        floors = builder.select(linear, lowest, emit.zero)

        def block(first: Any, count: int, channel: Any, mask: Any) -> None:
            source_at, addend_at, target_at = emit.pointers([source, addend, target], channel)
            factor, offset, mean = (emit.load(at) for at in emit.pointers(terms, channel))
            for p in range(count):
                place = (builder.add(first, word(p)), channels)
                value = emit.multiply_add(builder.fsub(emit.vector_at(source_at, place), mean), factor, offset)
                summed = builder.fadd(value, emit.vector_at(addend_at, place))
                value = builder.select(added, summed, value)
                value = builder.select(builder.fcmp_ordered("<", value, floors), floors, value)
                emit.store_masked(value, emit.at(target_at, place), mask)

        emit.along(pixels, channels, block)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 9), generate


@linked("void(" + ", ".join(["int64"] * 9) + ")")
def normalise_pixels(source, channels, pixels, factor, offset, mean, addend, target, rectifies):
    """Write `pixels` pixels of `channels` elements, one behind the other; all but the numbers are addresses.

    `addend` 0: nothing is added. NaN stays NaN.
    """
    _emit_normalising(source, channels, pixels, factor, offset, mean, addend, target, rectifies)

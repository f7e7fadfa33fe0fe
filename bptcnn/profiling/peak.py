"""The peak: multiply-adds on registers alone, as many independent ones as the vector unit has registers for.

No load, no store, no dependence within a latency: nothing that computes with this unit is faster.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bptcnn.kernels.compilation import compiled
from bptcnn.kernels.unit import UNIT
from bptcnn.kernels.vectors import F32, I32, I64, VectorEmitter, word
from bptcnn.profiling.rounds import count_for, together

SUMS = 24 if UNIT.name in ("avx512", "neon") else 14
"""Independent accumulators: with the two factors they fit in 32 or 16 registers, and they cover latency x ports."""

FLOPS_PER_ITERATION = 2 * SUMS * UNIT.lanes
_ROUND_NS = 4_000_000  # long enough to start threads together, short enough for other work not to hit every round
_ROUNDS = 40


def _typed_loop(typing, iterations, a, b):
    """Run `iterations` of SUMS multiply-adds; return a number that depends on each."""

    def generate(context, builder, signature, args):
        return _emit_loop(VectorEmitter(builder, UNIT), *args)

    return types.float32(types.int64, types.float32, types.float32), generate


_multiply_add_loop: Any = intrinsic(_typed_loop)


def _emit_loop(emitter: VectorEmitter, count: Any, a: Any, b: Any) -> Any:
    builder = emitter.builder
    a_vector, b_vector = emitter.splat(a), emitter.splat(b)
    # different starts, or the compiler might see that all sums are one
    starts = [emitter.splat(builder.fadd(b, ir.Constant(F32, float(n)))) for n in range(SUMS)]
    before = builder.block
    loop, done = builder.append_basic_block("peak"), builder.append_basic_block("peak_end")
    builder.branch(loop)

    builder.position_at_end(loop)
    index = builder.phi(I64)
    index.add_incoming(word(0), before)
    sums = [builder.phi(emitter.vector) for _ in starts]
    if UNIT.fused:
        updated = [emitter.multiply_add(a_vector, b_vector, total) for total in sums]
    else:  # a * b would be moved out of the loop
        updated = [emitter.multiply_add(total, a_vector, b_vector) for total in sums]
    following = builder.add(index, word(1))
    index.add_incoming(following, loop)
    for phi, start, value in zip(sums, starts, updated, strict=True):
        phi.add_incoming(start, before)
        phi.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, done)

    builder.position_at_end(done)
    total = updated[0]
    for value in updated[1:]:
        total = builder.fadd(total, value)
    return builder.extract_element(total, ir.Constant(I32, 0))


@compiled("float32(int64, float32, float32)")
def multiply_adds(iterations: int, a: float, b: float) -> float:
    """Run at least one iteration of FLOPS_PER_ITERATION operations."""
    return _multiply_add_loop(iterations, a, b)


def measure_peak(threads: int) -> float:
    """Return the GFLOP/s that `threads` threads reach together, the best of several rounds of 4 ms.

    Counted by CPU time: other processes' share of the cores does not lower the peak, what threads that share a core's
    units or its clock take from each other does.
    """

    def run(iterations: int) -> float:
        return multiply_adds(iterations, 0.5, 1.0)

    iterations = count_for(run, 1000, _ROUND_NS)
    rounds = together([lambda: run(iterations)] * threads, _ROUNDS)
    return max(sum(iterations * FLOPS_PER_ITERATION / seconds for seconds in turn.cpu) for turn in rounds) / 1e9

"""The vector unit of this CPU, and the register tile that fits it.

The accumulators of a tile (rows x vectors), one row of B and one broadcast must fit in the register file: 32 registers
with AVX-512 and NEON, 16 otherwise. At least latency x ports accumulators keep the multiply-adders busy.
"""

import os
import platform
from dataclasses import dataclass

import llvmlite.binding as llvm

from bptcnn.errors import UserError


@dataclass(frozen=True)
class VectorUnit:
    """A register tile of `rows` x (`vectors` x `lanes`) float32 numbers; `fused` where multiply-add is one step."""

    name: str
    lanes: int
    rows: int
    vectors: int
    fused: bool

    @property
    def columns(self) -> int:
        """Columns of a full tile."""
        return self.lanes * self.vectors


UNITS = {
    unit.name: unit
    for unit in (
        VectorUnit("avx512", lanes=16, rows=14, vectors=2, fused=True),
        VectorUnit("avx2", lanes=8, rows=6, vectors=2, fused=True),
        VectorUnit("neon", lanes=4, rows=8, vectors=3, fused=True),
        VectorUnit("generic", lanes=4, rows=4, vectors=2, fused=False),
    )
}


def available_units() -> list[str]:
    """Return the names of the units that this CPU can run, the best first."""
    features = llvm.get_host_cpu_features()
    found = []
    if features.get("avx512f"):
        found.append("avx512")
    if features.get("avx2") and features.get("fma"):
        found.append("avx2")
    if platform.machine() == "aarch64":
        found.append("neon")
    return [*found, "generic"]


def select_unit(name: str | None) -> VectorUnit:
    """Return the unit called `name`, or the best one of this CPU. Raise UserError where the CPU lacks it."""
    available = available_units()
    if name is None:
        return UNITS[available[0]]
    if name not in available:
        raise UserError(f"BPTCNN_VECTOR_UNIT={name}: this CPU runs {', '.join(available)}")
    return UNITS[name]


UNIT = select_unit(os.environ.get("BPTCNN_VECTOR_UNIT") or None)
LANES, ROWS, VECTORS, COLUMNS = UNIT.lanes, UNIT.rows, UNIT.vectors, UNIT.columns  # for compiled code

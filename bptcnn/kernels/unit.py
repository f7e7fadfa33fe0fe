"""The vector unit of this CPU, and the register tile that fits it.

The accumulators of a tile (rows x vectors), one row of B and one broadcast must fit in the register file: 32 registers
with AVX-512 and NEON, 16 otherwise. At least latency x ports accumulators keep the multiply-adders busy.
"""

import ctypes
import os
import platform
from dataclasses import dataclass

import llvmlite.binding as llvm

from bptcnn.errors import UserError
from bptcnn.precision import Precision


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

_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA = 158, 0x1023, 18  # of Linux on x86-64


def available_matrix_units() -> list[str]:
    """Return what multiplies bfloat16 numbers here, the best first; nothing beside vector units other than AVX-512.

    The kernel hands out AMX's tile registers on request: this process has them from here on, all its threads do.
    """
    features = llvm.get_host_cpu_features()
    if UNIT.name != "avx512" or not features.get("avx512bf16"):
        return []
    found = []
    if features.get("amx-tile") and features.get("amx-bf16"):
        refused = ctypes.CDLL(None).syscall(_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA)
        found = [] if refused else ["amx"]
    return [*found, "avx512_bf16"]


def select_matrix_unit(name: str | None) -> str:
    """Return the matrix unit called `name`, or the best one, "" where there is none. Raise UserError as above."""
    available = available_matrix_units()
    if name is None:
        return available[0] if available else ""
    if name not in available:
        raise UserError(f"BPTCNN_MATRIX_UNIT={name}: this CPU, on {UNIT.name}, has {', '.join(available) or 'none'}")
    return name


MATRIX_UNIT = select_matrix_unit(os.environ.get("BPTCNN_MATRIX_UNIT") or None)


def lacking(precision: Precision) -> str | None:
    """Return why this CPU cannot train at a precision, None where it can."""
    if precision == "float32" or MATRIX_UNIT:
        return None
    unit = "" if UNIT.name == available_units()[0] else f" (BPTCNN_VECTOR_UNIT={UNIT.name})"
    return f"this CPU has no AVX512-BF16 instructions{unit}"


def require_precision(precision: Precision) -> None:
    """Raise UserError where this CPU cannot train at a precision."""
    why = lacking(precision)
    if why is not None:
        raise UserError(f"precision bf16: {why}; use --precision float32")

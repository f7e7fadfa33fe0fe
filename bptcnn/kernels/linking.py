"""Functions that compiled code calls by name, so that they are compiled once and not into each of their callers.

numba compiles what a function calls into that function's own machine code. For a function of many unrolled variants
that costs every caller some half a second. An exported function is a symbol of this process instead: callers' cached
code refers to its name, which the loader resolves, so the module that exports must be imported before they are.
"""

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from bptcnn.kernels.compilation import _FASTMATH, _cached_here

_KEPT: list[object] = []  # the addresses stay valid as long as numba's objects live


def exported(signature: str) -> Callable[[Callable[..., None]], Any]:
    """Compile a function that returns nothing; return what compiled code calls it by, with exactly these types."""

    def decorate(function: Callable[..., None]) -> Any:
        with _cached_here():
            compiled = numba.cfunc(signature, cache=True, error_model="numpy", fastmath=_FASTMATH)(function)
        _KEPT.append(compiled)
        name = f"{function.__module__}.{function.__qualname__}"
        llvm.add_symbol(name, compiled.address)
        return _caller(name, numba.core.sigutils.normalize_signature(signature)[0])

    return decorate


def _caller(name: str, parameters: tuple[Any, ...]) -> Any:
    """Return an intrinsic that casts its arguments to `parameters` (numba types) and calls the symbol."""

    def typed(typing, *arguments):
        if len(arguments) != len(parameters):
            raise numba.TypingError(f"{name} takes {len(parameters)} arguments, not {len(arguments)}")

        def generate(context, builder, signature, args):
            values = [
                context.cast(builder, value, given, wanted)
                for value, given, wanted in zip(
                    cgutils.unpack_tuple(builder, args[0]), signature.args[0].types, parameters, strict=True
                )
            ]
            kind = ir.FunctionType(ir.VoidType(), [value.type for value in values])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)
            return context.get_dummy_value()

        return numba.types.void(numba.types.StarArgTuple.from_types(arguments)), generate

    typed.__name__ = name.rpartition(".")[2]
    return intrinsic(typed)

"""Arithmetic that users write as text, such as "0.1 * 0.5 ** (epoch // 10)": numbers, given names, and plain functions.

numexpr computes it, but numexpr hands text to Python's `eval`, and a text may come from somebody else's run folder. So
it never sees the user's: a text is parsed, each of its parts must be one of those below, and numexpr gets what is
written anew from them. Parts of numbers alone are computed here, within bounds: 9**9**9**9 is refused at once.
"""

import ast
import math
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bptcnn.own_settings import import_numexpr

numexpr = import_numexpr()

_MOST_CHARACTERS = 1000
_MOST_DEPTH = 50  # written with parentheses it must stay below Python's 200 of them
_LARGEST = 1e100  # of a number, whether written or computed from written ones

_Number = int | float

_BINARY: dict[type[ast.operator], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
    ast.FloorDiv: ("//", operator.floordiv),
    ast.Mod: ("%", operator.mod),
    ast.Pow: ("**", operator.pow),
}
_LOGICAL: dict[type[ast.operator], str] = {ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^"}
_COMPARED: dict[type[ast.cmpop], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}
_ARGUMENTS = {
    **dict.fromkeys(("abs", "ceil", "floor", "round", "sign", "trunc"), 1),
    **dict.fromkeys(("exp", "expm1", "log", "log10", "log1p", "log2", "sqrt"), 1),
    **dict.fromkeys(("arccos", "arcsin", "arctan", "cos", "sin", "tan"), 1),
    **dict.fromkeys(("arccosh", "arcsinh", "arctanh", "cosh", "sinh", "tanh"), 1),
    **dict.fromkeys(("arctan2", "copysign", "fmod", "hypot", "maximum", "minimum"), 2),
    "where": 3,
}
"""The functions, and how many arguments each takes."""


def parsed(text: str) -> ast.expr:
    """Return the syntax tree of a text of bounded length and depth; raise ValueError where it is no expression."""
    if len(text) > _MOST_CHARACTERS:
        raise ValueError(f"it is longer than {_MOST_CHARACTERS} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parser has opinions on style
            tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(error.msg) from None
    except (RecursionError, MemoryError):
        raise ValueError("it is nested too deep") from None
    level: list[ast.AST] = [tree]
    for _ in range(_MOST_DEPTH):
        level = [inner for outer in level for inner in ast.iter_child_nodes(outer)]
        if not level:
            return tree
    raise ValueError("it is nested too deep")


def computed(tree: ast.expr, names: Mapping[str, npt.NDArray[np.float64] | np.float64]) -> npt.NDArray[Any]:
    """Return what a tree from `parsed` comes to where `names` have these values, as numexpr computes it.

    Raises ValueError for whatever is no arithmetic.
    """
    written = _written(tree, names)
    with np.errstate(all="ignore"):  # NaN and infinity come out, and the caller sees them
        return np.asarray(numexpr.evaluate(written, local_dict=dict(names), global_dict={}, sanitize=True))


def _written(node: ast.expr, names: Mapping[str, Any]) -> str:
    """Return the expression as text made of our own parts: floats, operators, and names that stand here."""
    number = _number(node)
    if number is not None:
        return f"({float(number)!r})"
    match node:
        case ast.Name() if node.id in names:
            return node.id
        case ast.Name():
            raise ValueError(f"{node.id!r} is not known: names are {', '.join(names)}")
        case ast.BinOp() if type(node.op) in _BINARY or type(node.op) in _LOGICAL:
            sign = _LOGICAL.get(type(node.op)) or _BINARY[type(node.op)][0]
            return f"({_written(node.left, names)} {sign} {_written(node.right, names)})"
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() | ast.Invert()):
            sign = {ast.USub: "-", ast.UAdd: "+", ast.Invert: "~"}[type(node.op)]
            return f"({sign}{_written(node.operand, names)})"
        case ast.Compare(ops=[sign_node]) if type(sign_node) in _COMPARED:
            left, right = _written(node.left, names), _written(node.comparators[0], names)
            return f"({left} {_COMPARED[type(sign_node)]} {right})"
        case ast.Call(func=ast.Name(id=name), keywords=[]) if name in _ARGUMENTS:
            if len(node.args) != _ARGUMENTS[name]:
                raise ValueError(f"{name} takes {_ARGUMENTS[name]} argument{'s' if _ARGUMENTS[name] > 1 else ''}")
            return f"{name}({', '.join(_written(argument, names) for argument in node.args)})"
    raise ValueError(f"{_shown(node)} is no arithmetic")


def _number(node: ast.expr) -> _Number | None:
    """Return what a part of numbers alone comes to, as Python computes it; None for any other part."""
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            return _bounded(node.value)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
            value = _number(node.operand)
            return value if value is None or isinstance(node.op, ast.UAdd) else -value
        case ast.BinOp() if type(node.op) in _BINARY:
            left, right = _number(node.left), _number(node.right)
            return None if left is None or right is None else _combined(node.op, left, right)
    return None


def _combined(sign: ast.operator, left: _Number, right: _Number) -> _Number:
    name, function = _BINARY[type(sign)]
    try:
        if isinstance(sign, ast.Pow):
            _bounded(math.pow(left, right))  # whole numbers would be computed to the last digit
        return _bounded(function(left, right))
    except (ArithmeticError, ValueError):
        raise ValueError(f"{left:g} {name} {right:g} is no number, or too large") from None


def _bounded(number: Any) -> _Number:
    """Return a real number that is not too large; raise ValueError for any other."""
    if not isinstance(number, int | float) or not -_LARGEST <= number <= _LARGEST:  # NaN neither
        raise ValueError("a number is too large")
    return number


def _shown(node: ast.expr) -> str:
    text = ast.unparse(node)
    return repr(text if len(text) <= 50 else f"{text[:47]}...")

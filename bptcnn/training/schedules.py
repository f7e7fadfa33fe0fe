"""Learning rates, epoch by epoch: a number, an expression of the epoch, or a schedule by its name.

0.05                            the same in every epoch
0.05 * 0.8 ** epoch             as numexpr evaluates it, with epoch (1, 2, ...) and epochs: see `expressions`
step(0.1, every=10, factor=0.5)
cosine(0.1, floor=0.001)
warmup(cosine(0.1), 3)          3 epochs in which the rate grows, then any of these
"""

import ast
import math
from collections.abc import Callable
from inspect import signature

import numpy as np

from bptcnn.errors import UserError
from bptcnn.training.expressions import computed, parsed
from bptcnn.untrusted import printable

Rates = tuple[float, ...]

_SHOWN = 200  # characters of a wrong expression


def learning_rates(expression: str, epochs: int) -> Rates:
    """Return the rate of every epoch; raise UserError where it is none, or not above 0."""
    rates = _rates(expression, epochs)
    if not all(math.isfinite(rate) and rate > 0.0 for rate in rates):
        raise UserError(f"learning rate {_shown(expression)} must be above 0 in every epoch, not {min(rates)}")
    return rates


def step(epochs: int, rate: float, every: int, factor: float = 0.1) -> Rates:
    """`rate`, times `factor` after each `every` epochs."""
    _check_epochs("every", every)
    factor = float(factor)  # powers of whole numbers get a digit longer with each epoch
    return tuple(rate * factor ** (epoch // every) for epoch in range(epochs))


def cosine(epochs: int, rate: float, floor: float = 0.0) -> Rates:
    """From `rate` down half a wave of the cosine, which would reach `floor` after the last epoch."""
    return tuple(floor + (rate - floor) * (1.0 + math.cos(math.pi * epoch / epochs)) / 2.0 for epoch in range(epochs))


def _warm_up(epochs: int, schedule: float | str, count: int) -> Rates:
    """`count` epochs in which the rate grows evenly towards the first one of `schedule`, which has the rest."""
    _check_epochs("the epochs of warmup", count)
    if count >= epochs:
        raise ValueError(f"{count} epochs of warmup leave none of {epochs} for the schedule")
    rates = _rates(str(schedule), epochs - count)
    return *(rates[0] * (epoch + 1) / (count + 1) for epoch in range(count)), *rates


_SCHEDULES: dict[str, Callable[..., Rates]] = {"cosine": cosine, "step": step, "warmup": _warm_up}


def _rates(expression: str, epochs: int) -> Rates:
    schedule = False
    try:
        tree = parsed(expression)
        schedule = isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id in _SCHEDULES
        return _call(tree, epochs) if schedule else _evaluate(tree, epochs)  # type: ignore[arg-type]
    except UserError:
        raise
    except Exception as error:  # numexpr raises whatever Python does for a bad expression
        reason = printable(str(error).splitlines()[0] if str(error) else type(error).__name__, _SHOWN)
        what = "wrong" if schedule else f"no expression of epoch and epochs, nor one of {', '.join(_SCHEDULES)}"
        raise UserError(f"learning rate {_shown(expression)} is {what}: {reason}") from None


def _shown(expression: str) -> str:
    return repr(expression[:_SHOWN] + ("..." if len(expression) > _SHOWN else ""))


def _call(call: ast.Call, epochs: int) -> Rates:
    assert isinstance(call.func, ast.Name)
    name = call.func.id
    schedule = _SCHEDULES[name]
    if any(keyword.arg is None for keyword in call.keywords):
        raise ValueError("** cannot be read here")
    arguments = [_argument(name, argument) for argument in call.args]
    named = {str(keyword.arg): _argument(name, keyword.value) for keyword in call.keywords}
    try:
        signature(schedule).bind(epochs, *arguments, **named)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from None
    return schedule(epochs, *arguments, **named)


def _argument(name: str, node: ast.expr) -> float | str:
    """Return a number, or for the schedule that `warmup` leads to its text."""
    try:
        value = ast.literal_eval(node)
    except ValueError:
        if name == "warmup":
            return ast.unparse(node)
        raise ValueError(f"{ast.unparse(node)!r} is no number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{ast.unparse(node)!r} is no number")
    return value


def _check_epochs(name: str, value: object) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number from 1, not {value!r}")


def _evaluate(tree: ast.expr, epochs: int) -> Rates:
    rates = computed(tree, {"epoch": np.arange(1.0, epochs + 1), "epochs": np.float64(epochs)})
    return tuple(np.broadcast_to(rates.astype(np.float64), (epochs,)).tolist())

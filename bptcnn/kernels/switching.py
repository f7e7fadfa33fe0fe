"""Choosing among variants of emitted code by a number known only when it runs."""

from collections.abc import Callable, Mapping
from typing import Any

from bptcnn.kernels.vectors import word


def choose(builder: Any, value: Any, cases: Mapping[int, Callable[[], None]], default: Callable[[], None]) -> None:
    """Emit a switch over `value` (int64); each case emits its code, and all meet behind."""
    otherwise, end = builder.append_basic_block("otherwise"), builder.append_basic_block("chosen")
    switch = builder.switch(value, otherwise)
    for case, emit in cases.items():
        block = builder.append_basic_block(f"case_{case}")
        switch.add_case(word(case), block)
        builder.position_at_end(block)
        emit()
        builder.branch(end)
    builder.position_at_end(otherwise)
    default()
    builder.branch(end)
    builder.position_at_end(end)

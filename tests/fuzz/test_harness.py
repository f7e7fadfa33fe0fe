"""The harness itself: cases are the same each time, and every way to fail is noticed."""

import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from fuzz import harness
from fuzz.harness import Kind, Tally, Target, check_valid, drawn, line, run_case
from fuzz.mutation import mutated, scrambled
from fuzz.writing import deep, json_text, toml_text

VALUE = {"a": [1, 2.5, {"b": "text"}], "c": None, "d": True}


class Given(Target):
    """What it takes is decided by a function."""

    def __init__(self, take: Callable[[], str | None]) -> None:
        self._take = take

    def valid(self) -> Sequence[int]:
        return [0]

    def draw(self, draw: random.Random) -> int:
        return draw.randrange(10**9)

    def take(self, given: int) -> str | None:
        return self._take()


def tally_of(take: Callable[[], str | None]) -> Tally:
    """Run one case."""
    target, tally = Given(take), Tally()
    run_case(Kind("test", 1, lambda folder: nullcontext(target)), target, 7, tally)
    assert tally.cases == tally.accepted + tally.refused + len(tally.failures) == 1
    return tally


def failing(take: Callable[[], Any]) -> str:
    """Return what is said of a case that fails."""
    (failure,) = tally_of(take).failures
    assert failure.seed == 7
    assert failure.trace
    return failure.what


def test_cases_are_the_same_each_time() -> None:
    for mutate in (lambda d: json_text(mutated(VALUE, d), d), lambda d: toml_text(mutated(VALUE, d), d)):
        texts = [[mutate(random.Random(f"k {seed}")) for seed in range(50)] for _ in range(2)]
        assert texts[0] == texts[1]
        assert len(set(texts[0])) > 25
    kind, target = Kind("test", 1, lambda folder: nullcontext(target)), Given(lambda: None)
    assert drawn(kind, 3, target) == drawn(kind, 3, target) != drawn(kind, 4, target)


def test_mutations_change_and_spare_the_original() -> None:
    before = json_text(VALUE, None)
    changed = [json_text(mutated(VALUE, random.Random(seed)), None) for seed in range(200)]
    assert sum(text != before for text in changed) > 190
    assert json_text(VALUE, None) == before
    content = bytes(range(100))
    assert sum(scrambled(content, random.Random(seed)) != content for seed in range(200)) > 180
    assert json_text(deep(3), None) == "[[[]]]"


def test_what_is_taken_and_what_is_refused() -> None:
    assert tally_of(lambda: None).accepted == 1
    assert tally_of(lambda: "no packet").refused == 1
    with pytest.raises(AssertionError, match="what the product made is refused: no"):
        check_valid(Kind("test", 1, lambda folder: nullcontext(Given(lambda: "no"))), Given(lambda: "no"))


def test_other_exceptions_are_failures() -> None:
    def recurse() -> str:
        return recurse()

    assert failing(lambda: [][0]).startswith("IndexError")
    assert failing(recurse).startswith("RecursionError")


@pytest.mark.parametrize("text", ["", "a\x1b[2J", "a\x00", "x" * 10_001])
def test_refusals_are_one_printable_line(text: str) -> None:
    with pytest.raises(AssertionError):
        line(text)
    assert failing(lambda: text).startswith("AssertionError")
    assert line("a\nb") == "a b"


def test_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "CPU_SECONDS", 0.1)

    def spin() -> None:
        while True:
            try:
                sum(range(1000))
            except Exception:
                continue

    assert failing(spin).startswith("Overrun")


def test_waiting_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setattr(harness, "WALL_SECONDS", 0.1)
    assert failing(lambda: threading.Event().wait(60.0)).startswith("Overrun")


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "GROWTH_BYTES", 20 << 20)
    assert "MB" in failing(lambda: bytes(64 << 20) and bytearray(b"x") * (64 << 20) and None)
    assert failing(lambda: bytearray(8 << 30) and None).startswith("MemoryError")


def test_code_that_is_run_is_noticed() -> None:
    """In a process of its own: who listens to what Python runs does so for ever."""
    tests = Path(__file__).resolve().parent.parent
    code = """if 1:
        import os, sys
        sys.path.insert(0, sys.argv[1])
        from fuzz.harness import CodeRun, guarded, install_hook
        install_hook()
        import subprocess
        attempts = (lambda: os.system("true"), lambda: open("canary", "w"), lambda: subprocess.run(["true"]),
                    lambda: __import__("canary"), lambda: eval("open('canary')"))
        for attempt in attempts:
            try:
                with guarded("test"):
                    try:
                        attempt()
                    except BaseException:
                        pass  # the product's own except does not hide it
            except CodeRun:
                print("noticed")
        with guarded("test"):
            open(os.devnull).close()
        assert not os.path.exists("canary")
    """
    done = subprocess.run([sys.executable, "-c", code, str(tests)], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.split() == ["noticed"] * 5

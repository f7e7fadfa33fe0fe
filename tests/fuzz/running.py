"""The command: which cases are run, and what is printed of them."""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from fuzz import answers, checkpoints, data_sets, decoding, hostile, joining, messages, run_folders, settings_files
from fuzz.harness import Failure, Kind, Tally, check_valid, drawn, failure_of, install_hook, run_case
from left_behind import KINDS as LEFT_KINDS
from left_behind import left_over

KINDS: tuple[Kind, ...] = (
    *answers.KINDS,
    *checkpoints.KINDS,
    *data_sets.KINDS,
    *decoding.KINDS,
    *hostile.KINDS,
    *joining.KINDS,
    *messages.KINDS,
    *run_folders.KINDS,
    *settings_files.KINDS,
)
_SHOWN_FAILURES = 5  # of each cause


def main(arguments: Sequence[str]) -> int:
    """Run the cases; return 1 where one failed."""
    options = _options(arguments)
    if options.list:
        print("\n".join(f"{kind.name} {kind.share}" for kind in KINDS))
        return 0
    kinds = [kind for kind in KINDS if not options.kind or kind.name in options.kind]
    install_hook()
    if options.replay is not None:
        return _replay(kinds, options.replay)
    counts = _spread(kinds, options.cases)
    found: dict[str, Tally] = {}
    for kind in kinds:
        began = time.monotonic()
        found[kind.name] = run_kind(kind, range(options.seed, options.seed + counts[kind.name]))
        if not options.json:
            print(_row(kind.name, found[kind.name], time.monotonic() - began), flush=True)
            _print_failures(kind.name, found[kind.name])
    if options.json:
        print(json.dumps({name: asdict(tally) for name, tally in found.items()}))
    else:
        print(_row("all", _sum(found.values())))
    return int(any(tally.failures for tally in found.values()))


def run_kind(kind: Kind, seeds: Iterable[int]) -> Tally:
    """Run cases of one kind in a fresh folder; what they leave behind is a failure."""
    tally = Tally()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        with kind.open(folder) as target:
            check_valid(kind, target)
            before = {name: look() for name, look in LEFT_KINDS.items()}
            for seed in seeds:
                run_case(kind, target, seed, tally)
            left = left_over(before)
        if left:
            tally.failures.append(Failure(-1, f"left behind: {left}", "?", "all cases", ""))
    except Exception as error:  # what the product made is refused, say: nothing of this kind could be tested
        tally.failures.append(failure_of(-1, error, "the set-up"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return tally


def _replay(kinds: Sequence[Kind], seed: int) -> int:
    failed = 0
    for kind in kinds:
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        try:
            with kind.open(folder) as target:
                check_valid(kind, target)
                print(kind.name, seed, target.describe(drawn(kind, seed, target)))
                tally = Tally()
                run_case(kind, target, seed, tally)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print("".join(failure.trace for failure in tally.failures) or ("accepted" if tally.accepted else "refused"))
        failed += len(tally.failures)
    return int(failed > 0)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.fuzz")
    parser.add_argument("--cases", type=int, default=10_000, help="over all kinds chosen")
    parser.add_argument("--kind", action="append", choices=[kind.name for kind in KINDS], help="default: all")
    parser.add_argument("--seed", type=int, default=0, help="of each kind's first case")
    parser.add_argument("--replay", type=int, metavar="SEED", help="one case of each kind chosen, with its traceback")
    parser.add_argument("--json", action="store_true", help="print the tallies as JSON")
    parser.add_argument("--list", action="store_true", help="print the kinds and their shares")
    return parser.parse_args(arguments)


def _spread(kinds: Sequence[Kind], cases: int) -> dict[str, int]:
    """Return each kind's number of cases: by share, at least 1, together at least `cases`."""
    whole = sum(kind.share for kind in kinds)
    return {kind.name: -(-cases * kind.share // whole) for kind in kinds}


def _row(name: str, tally: Tally, seconds: float | None = None) -> str:
    taken = "" if seconds is None else f"{seconds:8.1f} s"
    counts = f"{tally.cases:6} cases {tally.accepted:6} accepted {tally.refused:6} refused"
    return f"{name:16} {counts} {len(tally.failures):5} failed {taken}"


def _sum(tallies: Iterable[Tally]) -> Tally:
    whole = Tally()
    for tally in tallies:
        whole.cases += tally.cases
        whole.accepted += tally.accepted
        whole.refused += tally.refused
        whole.failures += tally.failures
    return whole


def _print_failures(name: str, tally: Tally) -> None:
    causes: dict[tuple[str, str], list[int]] = {}
    for failure in tally.failures:
        cause = failure.where, failure.what.partition(":")[0]
        causes.setdefault(cause, []).append(failure.seed)
        if len(causes[cause]) == 1:
            print(f"  {name} {failure.seed}: {failure.what}\n    at {failure.where}, given {failure.given}")
    for (where, what), seeds in causes.items():
        print(f"  {what} at {where}: {len(seeds)} times, seeds {', '.join(map(str, seeds[:_SHOWN_FAILURES]))}")
    sys.stdout.flush()

"""Autotuning: what is tried, what is chosen of it, and when a record is measured anew."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bptcnn.errors import UserError
from bptcnn.inner.lowering import lower
from bptcnn.inner.tuning import BY_RULE, Choice, Tuning
from bptcnn.kernels.unit import MATRIX_UNIT
from bptcnn.networks import Conv2D, Dense, Flatten, MaxPool2D, Network
from bptcnn.profiling import Trial, TuningRecord, autotuning, tunings
from bptcnn.profiling.autotuning import _chosen, _trial, _variants, autotune, network_digest
from bptcnn.profiling.files import read_tuning, write_tuning
from bptcnn.profiling.tunings import fits, tuning_of, tuning_path, tuning_record

LAYERS = [Conv2D(64, 3), MaxPool2D(2), Conv2D(64, 3), Conv2D(64, 3), Flatten(), Dense(7)]
NETWORK = Network((9, 9, 3), LAYERS, "tuned")
BATCH = 20
FIRST, SECOND = (d.choice for d in lower(NETWORK, training=True).decisions[:2])


def trial(shape: str, candidate: str, ratio: float, chosen: bool = True) -> Trial:
    return Trial(shape, candidate, 1.0, ratio, ratio, chosen)


def record(tuning: Tuning = BY_RULE, **changes: object) -> TuningRecord:
    made = TuningRecord(
        autotuning.cpu_name(), autotuning.UNIT.name, autotuning.VERSION, NETWORK.name, network_digest(NETWORK), BATCH,
        precision="float32", threads=1, seconds=0.5, tuning=tuning, trial=(trial("step", "32 ranges", 0.9),),
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def path() -> Iterator[Path]:
    """Where the record of NETWORK lies: nowhere yet, and nowhere afterwards."""
    found = tuning_path(NETWORK, BATCH, "float32")
    found.unlink(missing_ok=True)
    yield found
    found.unlink(missing_ok=True)


def test_variants_try_each_candidate_wherever_it_fits() -> None:
    variants = {v.candidate: v for v in _variants(lower(NETWORK, training=True).decisions, BATCH, 1)}
    assert (FIRST.algorithm, SECOND.algorithm) == ("direct", "small images")
    others = {"direct", "winograd 5", "winograd 4", "winograd 2"}
    assert set(variants) == {*others, "8 ranges", "4 parts", "8 parts"}
    for algorithm in others:
        assert variants[algorithm].tuning == Tuning(choices=(Choice(SECOND.shape, algorithm),))  # type: ignore[arg-type]
    assert variants["8 ranges"].shapes == ("step",)
    assert [v.candidate for v in _variants((), 100, 8)] == ["8 ranges", "32 ranges", "64 ranges"]
    assert [v.candidate for v in _variants((), 40, 12)] == ["32 ranges"]
    assert [v.candidate for v in _variants((), 8, 4)] == []  # that is what the rule says
    assert variants["4 parts"].tuning == Tuning(choices=(Choice(FIRST.shape, "direct", 4),))


def test_variants_divide_winograds_tasks_in_each_way() -> None:
    network = Network((12, 12, 3), [Conv2D(64, 3), Conv2D(70, 3), Flatten(), Dense(7)])
    _, choice = (d.choice for d in lower(network, training=True).decisions)
    assert choice.algorithm == "winograd 4"
    variants = {v.candidate: v for v in _variants(lower(network, training=True).decisions, BATCH, 1)}
    for over in ("images", "channels by filter", "channels"):
        assert variants[f"tasks over {over}"].tuning == Tuning(choices=(replace(choice, over=over),))  # type: ignore[arg-type]


def test_the_best_candidate_of_each_shape_is_chosen() -> None:
    variants = _variants(lower(NETWORK, training=True).decisions, BATCH, 1)
    trials = [
        trial(SECOND.shape, "direct", 0.9),
        trial(SECOND.shape, "winograd 2", 0.8),
        trial(SECOND.shape, "winograd 4", 0.5, chosen=False),  # by luck in one round
        trial(FIRST.shape, "4 parts", 0.99, chosen=False),
    ]
    tuning, marked = _chosen(variants, trials)
    assert tuning == Tuning(choices=(Choice(SECOND.shape, "winograd 2"),))
    assert [t.chosen for t in marked] == [False, True, False, False]
    tuning, _ = _chosen(variants, [*trials, trial("step", "8 ranges", 0.9)])
    assert tuning == Tuning(8, (Choice(SECOND.shape, "winograd 2"),))
    assert _chosen(variants, trials[2:])[0] == BY_RULE


@pytest.mark.parametrize(
    ("times", "ratio", "gains"),
    [
        ([90, 91, 92, 90], 0.905, True),
        ([98, 98, 98, 98], 0.98, False),  # no more than noise
        ([90, 90, 110, 110], 1.0, False),
        ([80, 80, 80, 105, 105], 0.8, False),  # too often the other way round
        ([120, 120, 120], 1.2, False),
    ],
)
def test_gains_are_more_than_noise(times: list[float], ratio: float, gains: bool) -> None:
    found = _trial("direct", "a", [({"a": 1e8}, {"a": 1e6 * time}) for time in times])
    assert found.ratio == pytest.approx(ratio)
    assert found.chosen == gains
    assert found.rule_ms == 100


def test_a_network_is_tuned_and_what_was_tried_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotuning, "_LEAST_ROUNDS", 1)
    monkeypatch.setattr(autotuning, "_MOST_ROUNDS", 1)
    said: list[str] = []
    found = autotune(NETWORK, BATCH, 1, tell=said.append)
    assert said[:7] == [f"tuning tuned: {n} of 7" for n in range(1, 8)]
    assert fits(found, NETWORK, BATCH, "float32")
    assert (found.network, found.threads) == ("tuned", 1)
    tried = [t.candidate for t in found.trial if t.candidate != "all that was chosen"]
    algorithms = ["winograd 5", "winograd 4", "winograd 2", "direct"]
    assert list(dict.fromkeys(tried)) == ["8 ranges", "8 parts", "4 parts", *algorithms]
    assert all(t.rule_ms > 0 and t.candidate_ms > 0 for t in found.trial)
    chosen = {(t.shape, t.candidate) for t in found.trial if t.chosen}
    for choice in found.tuning.choices:
        assert {(choice.shape, choice.algorithm), (choice.shape, f"{choice.parts} parts")} & chosen
    if found.tuning == BY_RULE:
        assert ("step", "all that was chosen") not in chosen


def test_with_bf16_float32_algorithms_are_the_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    if not MATRIX_UNIT:
        pytest.skip("this CPU multiplies no bfloat16 numbers")
    monkeypatch.setattr(autotuning, "_LEAST_ROUNDS", 1)
    monkeypatch.setattr(autotuning, "_MOST_ROUNDS", 1)
    first, second, _ = lower(NETWORK, training=True, precision="bf16").decisions
    assert (first.choice.algorithm, second.choice.algorithm) == ("direct", "bfloat16")
    found = autotune(NETWORK, BATCH, 1, "bf16")
    assert fits(found, NETWORK, BATCH, "bf16")
    assert not fits(found, NETWORK, BATCH, "float32")
    tried = {t.candidate for t in found.trial if t.shape == second.choice.shape}
    assert tried == {"small images", "winograd 5", "winograd 4", "winograd 2", "direct"}


def test_without_a_choice_there_is_nothing_to_try() -> None:
    found = autotune(Network((4, 4, 1), [Flatten(), Dense(2)]), 2, 1)
    assert found.tuning == BY_RULE
    assert found.trial == ()


def test_a_record_is_measured_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = record(Tuning(12, (Choice(FIRST.shape, "direct", 3),)))
    monkeypatch.setattr(tunings, "autotune", lambda *_: tuned)
    said: list[str] = []
    assert tuning_record(NETWORK, BATCH, 1, tell=said.append) == tuned
    assert read_tuning(path) == tuned
    monkeypatch.setattr(tunings, "autotune", lambda *_: pytest.fail("measured again"))
    renamed = Network(NETWORK.input_shape, LAYERS, "another name")
    for network, threads in ((NETWORK, 1), (NETWORK, 4), (renamed, 1)):
        assert tuning_record(network, BATCH, threads, tell=said.append) == tuned
    assert said == []
    others = [(NETWORK, BATCH + 1, "float32"), (Network((9, 8, 3), LAYERS), BATCH, "float32"), (NETWORK, BATCH, "bf16")]
    assert path not in [tuning_path(*other) for other in others]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\x00",
        b"version = 2",
        b'version = 1\ncpu = "x"',
        "foreign cpu",
        "foreign version",
        "another precision",
        "an algorithm that is not there",
    ],
    ids=str,
)
def test_what_is_damaged_or_foreign_is_measured_again(
    path: Path, content: bytes | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "foreign cpu":
        write_tuning(path, record(cpu="another"))
    elif content == "foreign version":
        write_tuning(path, record(bptcnn="0.0.0"))
    elif content == "another precision":
        write_tuning(path, record(precision="bf16"))
    else:
        write_tuning(path, record(Tuning(choices=(Choice("a", "direct"),))))
        path.write_text(path.read_text().replace('"direct"', '"magic"'))
    monkeypatch.setattr(tunings, "autotune", lambda *_: record())
    said: list[str] = []
    assert tuning_record(NETWORK, BATCH, 1, tell=said.append) == record()
    (line,) = said
    assert line.startswith("tuning again: ")
    assert str(path) in line
    assert "\n" not in line
    assert read_tuning(path) == record()


def test_too_little_memory_means_rules(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> TuningRecord:
        raise UserError("too little memory")

    monkeypatch.setattr(tunings, "autotune", refuse)
    said: list[str] = []
    assert tuning_record(NETWORK, BATCH, 1, tell=said.append) is None
    assert said == ["not tuned: too little memory"]
    assert tuning_of(None) == BY_RULE
    assert not path.exists()

"""Settings: what is refused, in one line each; learning rates; node specifications; TOML and back."""

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.errors import UserError
from bptcnn.training import EpochRow, TrainSettings, parse_nodes, read_config, settings_from
from bptcnn.training.schedules import learning_rates
from bptcnn.training.stopping import reason_to_stop


def refused(values: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        settings_from(values)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


BAD = [
    ("epochs", 0),
    ("epochs", -1),
    ("epochs", 2.0),
    ("epochs", "3"),
    ("epochs", True),
    ("batch_size", 0),
    ("batch_size", 1.5),
    ("local_steps", 0),
    ("seed", -1),
    ("seed", 0.5),
    ("staleness", -1),
    ("staleness", 1.0),
    ("threads", 0),
    ("patience", 0),
    ("patience", 1.0),
    ("measure", 1),
    ("threads", "all"),
    ("momentum", 1.0),
    ("momentum", -0.1),
    ("momentum", math.nan),
    ("momentum", "0.9"),
    ("weight_decay", -1e-9),
    ("weight_decay", math.inf),
    ("weight_decay", math.nan),
    ("weight_decay", []),
    ("validation", 0.0),
    ("validation", 1.0),
    ("validation", math.nan),
    ("validation", "a tenth"),
    ("target_accuracy", 0.0),
    ("target_accuracy", 1.01),
    ("target_accuracy", math.nan),
    ("update", "sync"),
    ("update", ""),
    ("update", []),
    ("partition", "even"),
    ("partition", None),
    ("nodes", 0),
    ("nodes", [1.0, 1.5]),
    ("nodes", None),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_values_are_refused(name: str, value: Any) -> None:
    message = refused({name: value}).lower()
    assert name.replace("_", " ") in message or name in message or "wrong type" in message


def test_unknown_names_are_refused() -> None:
    assert "'epoch'" in refused({"epoch": 3})


def test_the_bounds_themselves_are_fine() -> None:
    TrainSettings(epochs=1, batch_size=1, local_steps=1, seed=0, staleness=0, threads=1, momentum=0.0)
    TrainSettings(target_accuracy=1.0, validation=0.5, nodes=256)  # type: ignore[arg-type]


# ---- learning rates --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "rates"),
    [
        ("0.05", [0.05] * 4),
        (0.05, [0.05] * 4),
        (1, [1.0] * 4),
        ("0.1 / epoch", [0.1, 0.05, 0.1 / 3, 0.025]),
        ("0.1 * 0.5 ** (epoch - 1)", [0.1, 0.05, 0.025, 0.0125]),
        ("where(epoch > 2, 0.01, 0.1)", [0.1, 0.1, 0.01, 0.01]),
        ("0.05 * (1 + cos(3.14159265358979 * (epoch - 1) / epochs))", [0.1, 0.08535534, 0.05, 0.01464466]),
        ("epochs", [4.0] * 4),
        ("step(0.1, every=2, factor=0.5)", [0.1, 0.1, 0.05, 0.05]),
        ("step(0.1, 3)", [0.1, 0.1, 0.1, 0.01]),
        ("cosine(0.1)", [0.1, 0.08535534, 0.05, 0.01464466]),
        (" cosine(0.3, floor=0.2) ", [0.3, 0.28535534, 0.25, 0.21464466]),
        ("warmup(0.1, 1)", [0.05, 0.1, 0.1, 0.1]),
        ("warmup(0.3 / epoch, 2)", [0.1, 0.2, 0.3, 0.15]),
        ("warmup(cosine(0.1), 2)", [0.1 / 3, 0.2 / 3, 0.1, 0.05]),
        ("warmup(schedule=step(0.1, every=1), count=2)", [0.1 / 3, 0.2 / 3, 0.1, 0.01]),
    ],
)
def test_learning_rates(expression: Any, rates: list[float]) -> None:
    assert TrainSettings(epochs=4, lr=expression).learning_rates() == pytest.approx(tuple(rates))


BAD_RATES = [
    "",
    " ",
    "0",
    "-0.1",
    "nan",
    "1/0",
    "1e400",
    "0.1 *",
    "rate",
    "0.3 - 0.1 * epoch",
    "epoch < 0",
    "0.1; 0.2",
    "__import__('os').system('false')",
    "epoch.__class__",
    "open",
    "'abc'",
    "epoch + 1j",
    "arange(4)",
    "lambda: 1",
    "0.1\n",
    "[0.1, 0.2]",
    None,
    "cosin(0.1)",
    "cosine()",
    "cosine(0.1, 0.2, 0.3)",
    "cosine(-0.1)",
    "cosine('0.1')",
    "cosine(epoch)",
    "cosine(True)",
    "cosine(*[0.1])",
    "cosine(**{'rate': 0.1})",
    "2 * cosine(0.1)",
    "step(0.1)",
    "step(0.1, every=0)",
    "step(0.1, every=1.5)",
    "step(0.1, every=1, factor=0)",
    "step(0.1, every=1, factor=1e300)",
    "step(0.1, eyery=1)",
    "step(0.1, 1, every=1)",
    "warmup(0.1, 4)",
    "warmup(0.1, 0)",
    "warmup(cosin(0.1), 1)",
    "warmup(nonsense, 1)",
    "warmup(cosine(0.1, 3)",
    "(" * 300,
]


@pytest.mark.parametrize("expression", BAD_RATES)
def test_bad_learning_rates_are_refused(expression: Any) -> None:
    if expression == "0.1\n":  # a trailing line end is no reason to refuse it
        assert TrainSettings(lr=expression, epochs=1).learning_rates() == (0.1,)
        return
    assert "learning rate" in refused({"lr": expression, "epochs": 4})


def test_a_wrong_schedule_is_told_what_is_wrong() -> None:
    for expression, told in (
        ("step(0.1)", "every"),
        ("step(0.1, every=0)", "every must be a whole number from 1, not 0"),
        ("cosine(epoch)", "'epoch' is no number"),
        ("warmup(0.1, 4)", "4 epochs of warmup leave none of 4"),
        ("cosin(0.1)", "cosine, step, warmup"),
    ):
        assert told in refused({"lr": expression, "epochs": 4})


@given(rate=st.floats(1e-6, 10.0), epochs=st.integers(2, 60), count=st.integers(1, 59))
def test_a_warm_up_grows_to_where_the_schedule_starts(rate: float, epochs: int, count: int) -> None:
    count = min(count, epochs - 1)
    rates = learning_rates(f"warmup(cosine({rate!r}), {count})", epochs)
    assert len(rates) == epochs
    assert list(rates[: count + 1]) == sorted(set(rates[: count + 1]))
    assert rates[count:] == learning_rates(f"cosine({rate!r})", epochs - count)


def row(epoch: int, accuracy: float) -> EpochRow:
    return EpochRow(epoch, 1.0, 1.0, 0.5, accuracy, 1.0)


@pytest.mark.parametrize(
    ("accuracies", "settings", "told"),
    [
        ([0.5, 0.4], {"patience": 2}, None),
        ([0.5, 0.4, 0.5], {"patience": 2}, "2 epochs in a row no better than epoch 1: 0.5000"),
        ([0.5, 0.6, 0.6], {"patience": 2}, None),
        ([0.5, 0.4], {"patience": 1}, "1 epoch in a row no better than epoch 1: 0.5000"),
        ([0.5, 0.4], {"patience": 1, "epochs": 2}, None),
        ([0.5, 0.4], {}, None),
        ([0.9], {"patience": 1, "target_accuracy": 0.9}, "target accuracy 0.9 reached in epoch 1: 0.9000"),
        ([0.9, 0.8], {"patience": 1, "target_accuracy": 0.8}, "target accuracy 0.8 reached in epoch 2: 0.8000"),
    ],
)
def test_when_a_run_stops_early(accuracies: list[float], settings: dict[str, Any], told: str | None) -> None:
    rows = [row(epoch, accuracy) for epoch, accuracy in enumerate(accuracies, 1)]
    assert reason_to_stop(rows, TrainSettings(**settings)) == told


def test_learning_rates_see_nothing_of_the_program() -> None:
    secret = 0.1
    assert "learning rate" in refused({"lr": "secret"})
    assert secret


# ---- nodes -----------------------------------------------------------------------------------------------------------

SPEEDS = st.lists(st.floats(0.001, 1.0), min_size=1, max_size=20)


@given(SPEEDS)
def test_speeds_round_trip_through_text(speeds: list[float]) -> None:
    text = ",".join(map(str, speeds))
    assert parse_nodes(speeds) == tuple(speeds)
    if "," in text or "." in text:
        assert parse_nodes(text) == tuple(speeds)
    assert parse_nodes(parse_nodes(speeds)) == tuple(speeds)


@given(st.integers(1, 256), st.sampled_from(["{}", " {} ", "{}\n"]))
def test_counts(count: int, form: str) -> None:
    assert parse_nodes(count) == parse_nodes(form.format(count)) == (1.0,) * count


@given(
    st.one_of(
        st.integers(max_value=0),
        st.integers(min_value=257),
        st.floats(),
        st.text(alphabet="0123456789.,-+e naif_", max_size=12).filter(lambda text: not _is_valid(text)),
        st.lists(st.floats().filter(lambda speed: not 0.001 <= speed <= 1.0), min_size=1, max_size=4),
        st.sampled_from(
            [(), [], "", True, False, b"2", {}, [None], ["a"], [[1.0]], "1.0,,0.5", "1.0,", ",", "2.0", "0.0"]
        ),
    )
)
def test_everything_else_is_refused_in_one_line(spec: Any) -> None:
    with pytest.raises(UserError) as caught:
        parse_nodes(spec)
    assert "nodes" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("speed", [1e-9, 0.0009, 0.0, -1.0, 1.001])
def test_a_speed_that_no_node_can_have_is_named(speed: float) -> None:
    with pytest.raises(UserError) as caught:
        parse_nodes(f"1,{speed}")
    assert str(caught.value) == f"the speed of each of the nodes must be at least 0.001, at most 1, not {speed}"


def _is_valid(text: str) -> bool:
    try:
        if "," not in text and "." not in text:
            return 1 <= int(text) <= 256
        return all(0.001 <= float(part) <= 1.0 for part in text.split(","))
    except ValueError:
        return False


# ---- TOML ------------------------------------------------------------------------------------------------------------


@given(
    st.builds(
        TrainSettings,
        nodes=SPEEDS.map(tuple),
        update=st.sampled_from(["agwu", "agwu-published", "sgwu"]),
        partition=st.sampled_from(["idpa", "static", "uniform"]),
        epochs=st.integers(1, 50),
        batch_size=st.integers(1, 512),
        lr=st.sampled_from(["0.05", "0.1 / epoch", "where(epoch > 2, 0.01, 0.1)"]),
        momentum=st.floats(0.0, 1.0, exclude_max=True),
        weight_decay=st.floats(0.0, 1.0),
        local_steps=st.none() | st.integers(1, 64),
        staleness=st.none() | st.integers(0, 100),
        threads=st.none() | st.integers(1, 64),
        seed=st.integers(0, 2**40),
        validation=st.none() | st.floats(0.0, 1.0, exclude_min=True, exclude_max=True),
        target_accuracy=st.none() | st.floats(0.0, 1.0, exclude_min=True),
    )
)
def test_settings_survive_toml(settings: TrainSettings) -> None:
    text = tomli_w.dumps(settings.to_dict())
    assert settings_from(tomllib.loads(text)) == settings


@pytest.mark.parametrize("content", [b"epochs = ", b"= 3", b"\xff\xfe\x00", b"a = 1\na = 2\n", b"[x\n", None])
def test_configurations_that_are_no_toml(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "config.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"config\.toml") as caught:
        read_config(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("told", "step_flops", "steps"),
    [({}, 10**9, 32), ({}, 10**10, 10), ({}, 10**12, 8), ({"local_steps": 3}, 10**9, 3), ({"hosts": "h"}, 10**12, 32)],
)
def test_a_node_alone_submits_small_networks_seldom(told: dict[str, Any], step_flops: int, steps: int) -> None:
    assert TrainSettings(**told).alone_local_steps(step_flops) == steps

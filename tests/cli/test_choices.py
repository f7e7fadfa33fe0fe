"""Command line over file over defaults, in process."""

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from bptcnn_cli.choices import choose, choose_resumed, data_of_run
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.errors import UserError
from bptcnn.training import TrainSettings

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "network": st.sampled_from(["cnn2", "lenet5"]),
    "data": st.sampled_from(["a", "b/c.npz"]),
    "nodes": st.sampled_from(["2", "1.0,0.5", "0.25"]),
    "epochs": st.integers(1, 9),
    "lr": st.sampled_from(["0.1", "0.2/epoch"]),
    "momentum": st.sampled_from([0.0, 0.5]),
    "update": st.sampled_from(["agwu", "sgwu"]),
    "staleness": st.integers(0, 5),
    "threads": st.integers(1, 4),
    "validation": st.sampled_from([0.1, 0.2]),
}


def some_values() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=VALUES)


def flat(values: dict[str, Any]) -> dict[str, Any]:
    """Choices as given, with defaults, from one dictionary."""
    found = choose(values, None)
    return {"network": found.network, "data": found.data, "settings": found.settings}


@given(some_values(), some_values())
def test_the_command_line_wins_over_the_file_over_the_defaults(
    tmp_path_factory: pytest.TempPathFactory, given_values: dict[str, Any], in_file: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("config") / "a.toml"
    path.write_text(tomli_w.dumps(in_file))
    found = choose({**dict.fromkeys(VALUES), **given_values}, path)
    assert {"network": found.network, "data": found.data, "settings": found.settings} == flat(
        {**in_file, **given_values}
    )
    path.write_text(found.to_toml())
    assert choose({}, path) == found


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("nodes", "0", "nodes 0"),
        ("nodes", "1.0,,0.5", "1.0,,0.5"),
        ("nodes", "fast", "fast"),
        ("nodes", "100000", "100000"),
        ("batch_size", -1, "batch size"),
        ("lr", "-1", "above 0"),
        ("momentum", 1.0, "momentum"),
        ("validation", float("nan"), "validation"),
        ("target_accuracy", 2.0, "target accuracy"),
        ("partition", "nonsense", "idpa"),
        ("threads", 0, "threads"),
        ("seed", -1, "seed"),
    ],
)
def test_wrong_values_are_named(name: str, value: Any, named: str) -> None:
    with pytest.raises(UserError, match=named) as caught:
        choose({name: value}, None)
    assert str(caught.value).isprintable()


def test_nothing_given_is_the_defaults() -> None:
    found = choose({}, None)
    assert (found.network, found.settings) == ("cnn2", TrainSettings())
    assert len(found.load_data().train) == 10_000


def test_errors_of_a_file_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    for text in ("epochs = 0", "nonsense = 1", "network = 3", "data = []", 'momentum = "x"', "epochs = [1]", "= ="):
        path.write_text(text)
        with pytest.raises(UserError, match=r"a\.toml") as caught:
            choose({}, path)
        assert str(caught.value).isprintable()


def write_run(folder: Path, **values: Any) -> Path:
    (folder / "config.toml").write_text(tomli_w.dumps({"data": "fashion-mnist-sample", "network": "cnn2", **values}))
    return folder


def test_a_resumed_run_keeps_its_settings_but_for_length_and_nodes(tmp_path: Path) -> None:
    run = write_run(tmp_path, epochs=3, lr="0.2", seed=5)
    found = choose_resumed({"epochs": 9, "nodes": "3", "lr": None}, run)
    assert found.settings == TrainSettings(epochs=9, nodes=(1.0, 1.0, 1.0), lr="0.2", seed=5)
    assert data_of_run(run) == "fashion-mnist-sample"
    assert len(found.load_data().test) == 2_000


@pytest.mark.parametrize("name", ["lr", "seed", "network", "update", "validation", "batch_size"])
def test_a_resumed_run_refuses_to_become_another(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path)
    option = f"--{name.replace('_', '-')}"
    with pytest.raises(UserError, match=f"{option} cannot change"):
        choose_resumed({name: "1"}, run)

"""Networks by name or file, and one line for whatever is wrong with them."""

from pathlib import Path

import pytest
import tomli_w

from bptcnn.errors import UserError
from bptcnn.networks import Network, cnn2, load_network

SHAPE = (12, 10, 2)
LAYERS = """
[[layers]]
layer = "Conv2D"
filters = 4
kernel_size = [3, 2]
padding = [[1, 1], [0, 1]]
activation = "relu"
[[layers]]
layer = "MaxPool2D"
pool_size = 2
[[layers]]
layer = "Flatten"
[[layers]]
layer = "Dense"
units = 5
"""
FUNCTION = """
from bptcnn.networks import Dense, Flatten, Network
def network(input_shape, classes):
    return Network(input_shape, [Flatten(), Dense(classes)], "mine")
"""


def refused(source: object, shape: tuple[int, int, int] = SHAPE, classes: int = 5) -> str:
    """Return the one line with which `source` is refused."""
    with pytest.raises(UserError) as caught:
        load_network(str(source), shape, classes)
    message = str(caught.value)
    assert message.strip()
    assert "\n" not in message
    return message


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_name_of_the_zoo() -> None:
    network = load_network("cnn2", (28, 28, 3), 7)
    assert network.to_dict() == cnn2((28, 28, 3), 7).to_dict()


def test_a_toml_file_without_input_shape_fits_the_data(tmp_path: Path) -> None:
    network = load_network(str(written(tmp_path / "small.toml", LAYERS)), SHAPE, 5)
    assert (network.name, network.input_shape, network.classes, len(network.layers)) == ("small", SHAPE, 5, 4)


def test_a_toml_file_of_a_whole_description(tmp_path: Path) -> None:
    wanted = cnn2(SHAPE, 9)
    network = load_network(str(written(tmp_path / "x.toml", tomli_w.dumps(wanted.to_dict()))), SHAPE, 5)
    assert network.to_dict() == wanted.to_dict()
    assert network.name == "cnn2"


def test_a_python_file_with_a_function_or_a_network(tmp_path: Path) -> None:
    network = load_network(str(written(tmp_path / "f.py", FUNCTION)), SHAPE, 5)
    assert (network.name, network.input_shape, network.classes) == ("mine", SHAPE, 5)
    fixed = load_network(str(written(tmp_path / "g.py", FUNCTION + f"network = network({SHAPE}, 6)\n")), SHAPE, 5)
    assert isinstance(fixed, Network)
    assert fixed.classes == 6


def test_a_toml_file_of_blocks(tmp_path: Path) -> None:
    blocks = LAYERS + "".join(
        f"[[layers]]\nlayer = {name!r}\n{rest}\n"
        for name, rest in (
            ("Residual", "layers = [{layer = 'BatchNorm'}, {layer = 'Dropout', rate = 0.5}]"),
            ("Concatenate", "branches = [[], [{layer = 'Activation', function = 'gelu'}]]"),
        )
    )
    network = load_network(str(written(tmp_path / "blocks.toml", blocks)), SHAPE, 5)
    assert network.classes == 10
    assert [a.name for a in network.applications][-5:] == ["norm1", "dropout1", "sum1", "activation1", "join1"]


def test_unknown_names_list_the_known_ones() -> None:
    message = refused("resnet999")
    assert "resnet999" in message
    assert "cnn2" in message


@pytest.mark.parametrize("name", ["missing.toml", "missing.py", "folder.toml", "folder.py"])
def test_missing_files_and_folders(tmp_path: Path, name: str) -> None:
    if name.startswith("folder"):
        (tmp_path / name).mkdir()
    assert name in refused(tmp_path / name)


@pytest.mark.parametrize(
    "text",
    [
        "layers = [",
        "",
        "layers = 3",
        'layers = ["Dense"]',
        "[[layers]]\nunits = 3",
        '[[layers]]\nlayer = "Dense"',
        LAYERS + "colour = 3",
        "input_shape = 28\n" + LAYERS,
        'input_shape = ["a", 1, 1]\n' + LAYERS,
        LAYERS.replace("units = 5", "units = 5.5"),
        LAYERS.replace("pool_size = 2", "pool_size = 2.5"),
        LAYERS.replace("[3, 2]", "[3, 2, 1]"),
        LAYERS.replace('"relu"', '"tanh"'),
        LAYERS.replace('"Dense"', '["Dense"]'),
        LAYERS.replace("pool_size = 2", "pool_size = 20"),
    ],
)
def test_a_bad_toml_file_is_named(tmp_path: Path, text: str) -> None:
    path = written(tmp_path / "bad.toml", text)
    assert str(path) in refused(path)


def test_a_toml_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(b"\xff\xfe\x00")
    assert str(path) in refused(path)


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("def network(:", "SyntaxError"),
        ("import no_such_module_anywhere", "no_such_module_anywhere"),
        ("raise ValueError('first line\\nsecond line')", "ValueError"),
        ("x = 1", "must define"),
        ("network = 3", "must define"),
        ("def network(input_shape, classes): pass", "must define"),
        ("def network(): pass", "TypeError"),
        ("def network(input_shape, classes): return 1 // 0", "ZeroDivisionError"),
        ("import sys\nsys.exit(3)", "SystemExit"),
        (FUNCTION.replace("Flatten(), ", ""), "Flatten"),
        (FUNCTION.replace("Dense(classes)", "Dense(0)"), "units"),
    ],
)
def test_a_bad_python_file_is_named(tmp_path: Path, text: str, about: str) -> None:
    path = written(tmp_path / "bad.py", text)
    message = refused(path)
    assert str(path) in message
    assert about in message


def test_a_network_that_does_not_fit_the_data(tmp_path: Path) -> None:
    fixed = written(tmp_path / "g.py", FUNCTION + "network = network((9, 9, 1), 4)\n")
    assert "(9, 9, 1)" in refused(fixed)
    assert "4 logits" in refused(fixed, (9, 9, 1), 5)
    assert load_network(str(fixed), (9, 9, 1), 4).classes == 4


def test_a_network_of_the_zoo_that_the_images_are_too_small_for() -> None:
    assert "layer" in refused("lenet5", (6, 6, 1))


def nested(blocks: int) -> str:
    inner = '{layer = "Activation", function = "relu"}'
    for _ in range(blocks):
        inner = f'{{layer = "Residual", layers = [{inner}]}}'
    return f'layers = [{inner}, {{layer = "Flatten"}}, {{layer = "Dense", units = 5}}]\n'


def convolution(**changes: object) -> str:
    values = {"layer": "Conv2D", "filters": 4, "kernel_size": 3, **changes}
    return tomli_w.dumps({"layers": [values, {"layer": "Flatten"}, {"layer": "Dense", "units": 5}]})


ABSURD = {
    "2**62 filters": convolution(filters=2**62),
    "negative filters": convolution(filters=-3),
    "no filters": convolution(filters=0),
    "a kernel of 2**40": convolution(kernel_size=2**40),
    "a stride of 2**62": convolution(strides=2**62),
    "a dilation of 2**62": convolution(dilation=[1, 2**62]),
    "padding of 2**62": convolution(padding=[[2**62, 0], [0, 0]]),
    "padding to 10**12 elements": convolution(padding=[[10**6, 0], [10**6, 0]]),
    "2**62 groups": convolution(groups=2**62),
    "more parameters than memory": convolution(filters=2**23, kernel_size=12),
    "2**62 units": 'layers = [{layer = "Flatten"}, {layer = "Dense", units = 4611686018427387904}]',
    "huge images": f"input_shape = [{10**6}, {10**6}, 3]\n" + nested(0),
    "a number of 400 digits": f'layers = [{{layer = "BatchNorm", epsilon = {"9" * 400}}}]',
    "nested deep": nested(9),
    "nested deeper than Python": nested(2000),
    "many layers": "layers = [" + '{layer = "Activation", function = "relu"},' * 20_000 + "]",
    "a name of 2000 characters": f'name = "{"x" * 2000}"\n' + nested(0),
    "a long key": "a." * 50_000 + "b = 1",
    "a table for layers": "[layers]\nx = 1\n",
    "lists for a key": f"layers = [{{layer = {'[' * 500}{']' * 500}}}]",
    "2 MB": "# " + "x" * (1 << 21),
}


@pytest.mark.parametrize("kind", ABSURD)
def test_absurd_sizes_and_depths_are_refused_in_one_short_line(tmp_path: Path, kind: str) -> None:
    message = refused(written(tmp_path / "absurd.toml", ABSURD[kind]))
    assert message.isprintable()
    assert len(message) < 600


def test_blocks_nested_as_deep_as_they_may_be_survive_a_file(tmp_path: Path) -> None:
    network = load_network(str(written(tmp_path / "deep.toml", nested(8))), SHAPE, 5)
    again = load_network(str(written(tmp_path / "again.toml", tomli_w.dumps(network.to_dict()))), SHAPE, 5)
    assert again.to_dict() == network.to_dict()


def test_a_name_that_would_move_a_terminals_cursor_is_made_printable(tmp_path: Path) -> None:
    network = load_network(str(written(tmp_path / "a.toml", 'name = "x\\u001b[2Jy"\n' + nested(0))), SHAPE, 5)
    assert network.name == "x [2Jy"


def test_no_text_to_read(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    refused(tmp_path / "bytes.toml")

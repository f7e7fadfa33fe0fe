"""Blocks laid out: which layer takes which values, in forward order."""

from hypothesis import given
from hypothesis import strategies as st
from networks.drawn import block_networks, networks

from bptcnn.networks import (
    Application,
    BatchNorm,
    Concatenate,
    Conv2D,
    Dense,
    Flatten,
    GlobalAveragePool2D,
    Join,
    Layer,
    MaxPool2D,
    Network,
    Residual,
    Sum,
)


def wiring(network: Network) -> list[tuple[str, tuple[int, ...]]]:
    return [(application.name, application.inputs) for application in network.applications]


@given(network=networks())
def test_a_chain_applies_each_layer_to_the_value_before(network: Network) -> None:
    assert [application.layer for application in network.applications] == list(network.layers)
    assert [application.inputs for application in network.applications] == [(i,) for i in range(len(network.layers))]


@given(network=st.one_of(networks(), block_networks()))
def test_values_have_the_shapes_that_layers_make(network: Network) -> None:
    assert network.shapes[0] == network.input_shape
    assert len(network.shapes) == len(network.applications) + 1
    used = set()
    for index, application in enumerate(network.applications):
        assert all(0 <= value <= index for value in application.inputs), "forward order"
        used.update(application.inputs)
        shapes = [network.shapes[value] for value in application.inputs]
        assert network.shapes[index + 1] == application.layer.output_shape(*shapes)
    assert used == set(range(len(network.applications))), "every value but the last goes somewhere"
    assert network.parameters == tuple(p for application in network.applications for p in application.parameters)


@given(network=block_networks())
def test_no_block_is_left_and_names_count_kinds(network: Network) -> None:
    counts: dict[str, int] = {}
    for application in network.applications:
        kind = application.layer.kind
        counts[kind] = counts.get(kind, 0) + 1
        assert application.name == f"{kind}{counts[kind]}"
        assert not isinstance(application.layer, Residual | Concatenate)
        assert all(p.name.startswith(f"{application.name}.") for p in application.parameters)


def test_a_residual_is_main_path_then_shortcut_then_sum() -> None:
    block = Residual([Conv2D(4, 3, bias=False), BatchNorm()], [Conv2D(4, 1)], "gelu")
    network = Network((4, 4, 2), [MaxPool2D(1), block, Residual([BatchNorm()], activation=None), Flatten(), Dense(2)])
    assert wiring(network) == [
        ("pool1", (0,)),
        ("conv1", (1,)),
        ("norm1", (2,)),
        ("conv2", (1,)),
        ("sum1", (3, 4)),
        ("norm2", (5,)),
        ("sum2", (6, 5)),
        ("flatten1", (7,)),
        ("dense1", (8,)),
    ]
    assert network.applications[4] == Application(Sum("gelu"), (3, 4), (), "sum1")
    assert network.applications[6].layer == Sum(None)


def test_a_concatenation_is_its_branches_in_order_then_the_join() -> None:
    inner = Residual([Conv2D(3, 3)])
    block = Concatenate([[Conv2D(2, 3), BatchNorm()], [], [inner, MaxPool2D(3, 1, "same")], []])
    network = Network((4, 5, 3), [block, GlobalAveragePool2D(), Concatenate([[], [Dense(2)]])])
    assert wiring(network) == [
        ("conv1", (0,)),
        ("norm1", (1,)),
        ("conv2", (0,)),
        ("sum1", (3, 0)),
        ("pool1", (4,)),
        ("join1", (2, 0, 5, 0)),
        ("mean1", (6,)),
        ("dense1", (7,)),
        ("join2", (7, 8)),
    ]
    assert network.applications[5].layer == Join()
    assert network.shapes[6:] == ((4, 5, 2 + 3 + 3 + 3), (11,), (2,), (13,))
    assert network.classes == 13


def test_a_block_given_as_lists_equals_one_of_tuples() -> None:
    layers: list[Layer] = [Conv2D(3, 3)]
    assert Residual(layers, []) == Residual(tuple(layers), ())
    assert Concatenate([layers, []]) == Concatenate(((Conv2D(3, 3),), ()))
    layers.append(BatchNorm())
    assert Residual([Conv2D(3, 3)]).layers == (Conv2D(3, 3),)
    assert hash(Concatenate([[], [Residual([BatchNorm()])]])) == hash(Concatenate(((), (Residual((BatchNorm(),)),))))

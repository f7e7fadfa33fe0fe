"""Output shapes of layers: "same" as TensorFlow defines it, floors elsewhere, and one-line refusals."""

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from networks.drawn import image_shapes, networks, padded_poolings, pairs

from bptcnn.errors import UserError
from bptcnn.networks import (
    Activation,
    AveragePool2D,
    BatchNorm,
    Concatenate,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePool2D,
    MaxPool2D,
    Network,
    Residual,
)


@given(shape=image_shapes(30), filters=st.integers(1, 99), kernel=pairs(7), stride=pairs(4), dilation=pairs(3))
def test_same_padding_gives_ceil_of_size_over_stride(
    shape: tuple[int, int, int],
    filters: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> None:
    size = (-(-shape[0] // stride[0]), -(-shape[1] // stride[1]))
    for layer, channels in (
        (Conv2D(filters, kernel, strides=stride, padding="same", dilation=dilation), filters),
        (DepthwiseConv2D(kernel, strides=stride, padding="same", dilation=dilation), shape[2]),
        (MaxPool2D(kernel, strides=stride, padding="same"), shape[2]),
        (AveragePool2D(kernel, strides=stride, padding="same"), shape[2]),
    ):
        assert layer.output_shape(shape) == (*size, channels)
        for before, after in layer.pads(shape):
            assert 0 <= before <= after <= before + 1, "the odd element goes to the end"


@given(shape=image_shapes(30), kernel=pairs(5), stride=pairs(3), dilation=pairs(4))
def test_a_dilated_kernel_takes_the_place_of_its_extent(
    shape: tuple[int, int, int], kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> None:
    dilated = Conv2D(4, kernel, stride, ((2, 1), (0, 3)), dilation=dilation)
    assert dilated.extent == ((kernel[0] - 1) * dilation[0] + 1, (kernel[1] - 1) * dilation[1] + 1)
    assume(dilated.extent[0] <= shape[0] + 3 and dilated.extent[1] <= shape[1] + 3)
    assert dilated.output_shape(shape) == Conv2D(4, dilated.extent, stride, ((2, 1), (0, 3))).output_shape(shape)
    assert dilated.parameter_shapes(shape)[0] == ("filter", (*kernel, shape[2], 4))


@given(shape=image_shapes(30), kernel=pairs(7), stride=pairs(4))
def test_valid_padding_counts_the_windows_inside(
    shape: tuple[int, int, int], kernel: tuple[int, int], stride: tuple[int, int]
) -> None:
    assume(kernel[0] <= shape[0] and kernel[1] <= shape[1])
    layer = Conv2D(5, kernel, strides=stride, padding="valid")
    counts = [len(range(0, shape[axis] - kernel[axis] + 1, stride[axis])) for axis in (0, 1)]
    assert layer.output_shape(shape) == (*counts, 5)
    assert layer.pads(shape) == ((0, 0), (0, 0))


@given(
    shape=image_shapes(12),
    kernel=pairs(5),
    stride=pairs(3),
    pads=st.tuples(*[st.tuples(st.integers(0, 6), st.integers(0, 6))] * 2),
)
def test_explicit_padding_is_valid_padding_of_the_larger_image(
    shape: tuple[int, int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pads: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    larger = (shape[0] + sum(pads[0]), shape[1] + sum(pads[1]), shape[2])
    assume(kernel[0] <= larger[0] and kernel[1] <= larger[1])
    explicit, valid = Conv2D(3, kernel, stride, pads), Conv2D(3, kernel, stride, "valid")
    assert explicit.pads(shape) == pads
    assert explicit.output_shape(shape) == valid.output_shape(larger)


@given(shape=image_shapes(30), window=pairs(5), stride=st.one_of(st.none(), pairs(6)))
def test_pooling_floors(shape: tuple[int, int, int], window: tuple[int, int], stride: tuple[int, int] | None) -> None:
    assume(window[0] <= shape[0] and window[1] <= shape[1])
    step = stride or window
    counts = [len(range(0, shape[axis] - window[axis] + 1, step[axis])) for axis in (0, 1)]
    assert MaxPool2D(window, stride).output_shape(shape) == (*counts, shape[2])


@given(shape=image_shapes(12), layer=padded_poolings(4))
def test_padded_pooling_is_pooling_of_the_larger_image(
    shape: tuple[int, int, int], layer: MaxPool2D | AveragePool2D
) -> None:
    pads = layer.pads(shape)
    larger = (shape[0] + sum(pads[0]), shape[1] + sum(pads[1]), shape[2])
    assume(layer.window[0] <= larger[0] and layer.window[1] <= larger[1])
    assert layer.output_shape(shape) == MaxPool2D(layer.window, layer.stride).output_shape(larger)
    assert all(side < size for sides, size in zip(pads, layer.window, strict=True) for side in sides)


def test_one_number_stands_for_both_directions() -> None:
    assert Conv2D(4, 3, strides=2) == Conv2D(4, (3, 3), strides=(2, 2))
    assert MaxPool2D(2) == MaxPool2D((2, 2))
    assert DepthwiseConv2D(3, 2, dilation=2) == DepthwiseConv2D((3, 3), (2, 2), dilation=(2, 2))
    assert AveragePool2D(3, 2) == AveragePool2D((3, 3), (2, 2))
    assert Conv2D(4, 3, padding=((1, 0), (2, 0))).output_shape((5, 5, 1)) == (4, 5, 4)


@given(network=networks())
def test_a_networks_shapes_chain(network: Network) -> None:
    assert network.shapes[0] == network.input_shape
    for layer, before, after in zip(network.layers, network.shapes[:-1], network.shapes[1:], strict=True):
        assert layer.output_shape(before) == after
    assert network.shapes[-1] == (network.classes,)


def test_a_pooling_window_as_large_as_a_choice_can_hold() -> None:
    assert MaxPool2D((15, 17)).output_shape((15, 17, 2)) == (1, 1, 2)
    with pytest.raises(UserError, match="255"):
        MaxPool2D((16, 16))


@pytest.mark.parametrize("wrong", [0, -1, True, 2.5, "3", None, (1,), (1, 2, 3), (0, 1), (1.0, 2), [3, None]])
def test_sizes_must_be_whole_positive_numbers(wrong: Any) -> None:
    makers = [
        lambda: Conv2D(3, wrong),
        lambda: Conv2D(3, 3, strides=wrong),
        lambda: Conv2D(3, 3, dilation=wrong),
        lambda: DepthwiseConv2D(wrong),
        lambda: DepthwiseConv2D(3, dilation=wrong),
        lambda: MaxPool2D(wrong),
        lambda: AveragePool2D(wrong),
    ]
    if wrong is not None:
        makers += [lambda: MaxPool2D(2, wrong), lambda: AveragePool2D(2, wrong)]
    for make in makers:
        with pytest.raises(UserError) as caught:
            make()
        assert "\n" not in str(caught.value)
        assert repr(wrong) in str(caught.value)


@pytest.mark.parametrize("wrong", [0, -3, True, 1.5, "8", None])
def test_counts_must_be_whole_positive_numbers(wrong: Any) -> None:
    for make in (lambda: Conv2D(wrong, 3), lambda: Dense(wrong), lambda: Conv2D(4, 3, groups=wrong)):
        with pytest.raises(UserError, match="whole number"):
            make()


@pytest.mark.parametrize("wrong", ["full", "", None, 1, ((1, 1),), ((1, 1), (1, -1)), ((1, 1), (1, "x")), (1, 1)])
def test_unknown_paddings_are_refused(wrong: Any) -> None:
    for make in (
        lambda: Conv2D(3, 3, padding=wrong),
        lambda: DepthwiseConv2D(3, padding=wrong),
        lambda: MaxPool2D(3, padding=wrong),
        lambda: AveragePool2D(3, padding=wrong),
    ):
        with pytest.raises(UserError, match="padding must be"):
            make()


@pytest.mark.parametrize("wrong", ["tanh", "", "ReLU", 1, []])
def test_unknown_activations_are_refused(wrong: Any) -> None:
    for make in (
        lambda: Conv2D(3, 3, activation=wrong),
        lambda: DepthwiseConv2D(3, activation=wrong),
        lambda: Dense(3, activation=wrong),
        lambda: BatchNorm(activation=wrong),
        lambda: Residual([BatchNorm()], activation=wrong),
    ):
        with pytest.raises(UserError, match=r"activation must be .*'leaky_relu'"):
            make()
    with pytest.raises(UserError, match="function must be"):
        Activation(wrong)


def test_an_activation_layer_wants_a_function() -> None:
    with pytest.raises(UserError, match="function must be"):
        Activation(None)


@pytest.mark.parametrize("pads", [((2, 0), (0, 0)), ((0, 2), (0, 0)), ((0, 0), (3, 0)), ((0, 0), (0, 4))])
def test_padding_of_a_pooling_is_smaller_than_its_window(pads: tuple[tuple[int, int], tuple[int, int]]) -> None:
    for make in (lambda: MaxPool2D((2, 3), padding=pads), lambda: AveragePool2D((2, 3), padding=pads)):
        with pytest.raises(UserError, match=r"smaller than the window \(2, 3\)"):
            make()
    assert MaxPool2D((2, 3), 1, ((1, 1), (2, 2))).output_shape((1, 1, 4)) == (2, 3, 4)


@pytest.mark.parametrize("wrong", [0, 1, -0.5, 2, float("nan"), "0.9", True, None])
def test_momentum_lies_between_0_and_1(wrong: Any) -> None:
    with pytest.raises(UserError, match="momentum"):
        BatchNorm(wrong)


@pytest.mark.parametrize("wrong", [0, -1e-5, float("inf"), float("nan"), "1e-5", True, None])
def test_epsilon_is_above_0(wrong: Any) -> None:
    with pytest.raises(UserError, match="epsilon"):
        BatchNorm(epsilon=wrong)


@pytest.mark.parametrize("wrong", [1, -0.1, 1.5, float("nan"), "0.5", False, None])
def test_rates_leave_something(wrong: Any) -> None:
    with pytest.raises(UserError, match="rate"):
        Dropout(wrong)


@pytest.mark.parametrize(
    ("make", "about"),
    [
        (lambda: Residual([]), "at least one layer"),
        (lambda: Residual(3), "Residual: layers must be a list"),
        (lambda: Residual([BatchNorm()], BatchNorm()), "Residual: shortcut must be a list"),
        (lambda: Residual([BatchNorm(), "conv"]), "layer 1 must be one of"),
        (lambda: Concatenate([]), "at least two"),
        (lambda: Concatenate([[]]), "at least two"),
        (lambda: Concatenate(BatchNorm()), "branches must be a list"),
        (lambda: Concatenate([[], BatchNorm()]), "branch 1 must be a list"),
        (lambda: Concatenate([[], [BatchNorm(), None]]), "branch 1: layer 1 must be one of"),
        (lambda: Conv2D(6, 3, groups=4), "4 groups do not divide 6 filters"),
    ],
)
def test_blocks_and_groups_that_cannot_be(make: Any, about: str) -> None:
    with pytest.raises(UserError, match=about) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "layers", "where"),
    [
        ((4, 4, 1), [Conv2D(2, 5, padding="valid"), Flatten(), Dense(2)], "layer 0: .*does not fit"),
        ((4, 4, 1), [Conv2D(2, 3), MaxPool2D(5), Flatten(), Dense(2)], "layer 1: .*does not fit"),
        ((4, 4, 1), [Conv2D(2, 3), Dense(2)], "layer 1: .*Flatten"),
        ((4, 4, 1), [Flatten(), Conv2D(2, 3)], "layer 1: .*before Flatten"),
        ((4, 4, 1), [Flatten(), MaxPool2D(2)], "layer 1: .*before Flatten"),
        ((4, 4, 1), [Flatten(), "dense"], "layer 1 must be one of"),
        ((4, 4, 1), [Flatten(), DepthwiseConv2D(2)], "layer 1: .*before Flatten"),
        ((4, 4, 1), [Flatten(), AveragePool2D(2)], "layer 1: .*before Flatten"),
        ((4, 4, 1), [Flatten(), GlobalAveragePool2D()], "layer 1: .*before Flatten"),
        ((4, 4, 1), [DepthwiseConv2D(5, padding="valid")], "layer 0: .*does not fit"),
        ((4, 4, 1), [Conv2D(2, 3, padding="valid", dilation=2)], r"layer 0: .*dilated to \(5, 5\), does not fit"),
        ((4, 4, 3), [Conv2D(4, 3, groups=2)], "layer 0: .*2 groups do not divide the 3 channels"),
        ((4, 4, 3), [Residual([Conv2D(4, 3)])], r"layer 0: .*\(4, 4, 4\) .*\(4, 4, 3\)"),
        ((4, 4, 3), [Residual([Flatten()])], r"layer 0: .*\(48,\) .*\(4, 4, 3\)"),
        ((4, 4, 3), [Residual([BatchNorm(), Dense(3)])], "layer 0, main, layer 1: .*Flatten"),
        ((4, 4, 3), [Residual([BatchNorm()], [Dense(3)])], "layer 0, shortcut, layer 0: .*Flatten"),
        ((4, 4, 3), [Concatenate([[], [MaxPool2D(2)]])], r"layer 0: .*\(4, 4, 3\), \(2, 2, 3\)"),
        ((4, 4, 3), [Concatenate([[], [Flatten()]])], r"layer 0: .*\(4, 4, 3\), \(48,\)"),
        (
            (4, 4, 3),
            [BatchNorm(), Residual([Concatenate([[], [BatchNorm(), MaxPool2D(5)]])])],
            "layer 1, main, layer 0, branch 1, layer 1: .*does not fit",
        ),
        ((4, 4, 1), [BatchNorm()], "must end in a vector"),
        ((4, 4, 1), [Conv2D(2, 3)], "must end in a vector"),
        ((4, 4, 1), [Flatten()], "must end in a vector"),
        ((4, 4, 1), [], "must end in a vector"),
        ((4, 4), [Flatten(), Dense(2)], "input_shape"),
        ((4, 0, 1), [Flatten(), Dense(2)], "input_shape"),
        ((4, 4, 1.5), [Flatten(), Dense(2)], "input_shape"),
        (28, [Flatten(), Dense(2)], "input_shape"),
    ],
)
def test_a_network_that_does_not_fit_names_the_layer(shape: Any, layers: list[Any], where: str) -> None:
    with pytest.raises(UserError, match=where) as caught:
        Network(shape, layers)
    assert "\n" not in str(caught.value)

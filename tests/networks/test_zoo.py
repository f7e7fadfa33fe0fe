"""The zoo: the sizes that its networks are known for, and images of any size."""

from math import prod

import pytest

from bptcnn.errors import UserError
from bptcnn.networks import ZOO, Conv2D, Dropout, MaxPool2D, Network, cnn2, lenet5

KNOWN = {
    # with PyTorch's layers, the CIFAR forms
    ("vgg11", (32, 32, 3), 10): 9_225_610,
    ("resnet18", (32, 32, 3), 10): 11_173_962,
    # torchvision's
    ("resnet18", (224, 224, 3), 1000): 11_689_512,
    ("resnet34", (224, 224, 3), 1000): 21_797_672,
    ("resnet50", (224, 224, 3), 1000): 25_557_032,
    ("alexnet", (224, 224, 3), 1000): 61_100_840,
    # by hand from the papers' tables
    ("vgg16", (32, 32, 3), 10): 14_714_688 + 512 * 10 + 10,
    ("mobilenet", (224, 224, 3), 1000): 4_231_976,
}
"""Trainable parameters."""

ANY = ("vgg11", "vgg16", "resnet18", "resnet34", "resnet50", "alexnet", "mobilenet")
"""Those that take images of any size."""


def trainable(network: Network) -> int:
    return sum(parameter.size for parameter in network.parameters if parameter.trainable)


@pytest.mark.parametrize(("name", "shape", "classes"), KNOWN)
def test_sizes_are_the_known_ones(name: str, shape: tuple[int, int, int], classes: int) -> None:
    assert trainable(ZOO[name](shape, classes)) == KNOWN[name, shape, classes]


def test_sizes_of_the_small_ones() -> None:
    assert cnn2().size == (9 * 32 + 32) + (9 * 32 * 64 + 64) + (7 * 7 * 64 * 128 + 128) + (128 * 10 + 10)
    assert lenet5().size == (25 * 6 + 6) + (25 * 6 * 16 + 16) + (400 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)


@pytest.mark.parametrize("name", sorted(ZOO))
def test_every_network_takes_shape_and_classes(name: str) -> None:
    network = ZOO[name]((32, 32, 3), 7)
    assert (network.name, network.input_shape, network.classes) == (name, (32, 32, 3), 7)


@pytest.mark.parametrize("name", ANY)
@pytest.mark.parametrize(
    "shape", [(28, 28, 1), (32, 32, 3), (224, 224, 3), (1, 1, 1), (17, 5, 2), (63, 65, 3), (64, 64, 1), (2, 300, 1)]
)
def test_images_of_any_size(name: str, shape: tuple[int, int, int]) -> None:
    network = ZOO[name](shape, 7)
    assert (network.input_shape, network.classes) == (shape, 7)
    assert all(prod(value) > 0 for value in network.shapes)


@pytest.mark.parametrize("name", sorted(ZOO))
@pytest.mark.parametrize(("shape", "classes"), [((4, 4), 3), (28, 3), ((0, 4, 1), 3), ((32, 32, 3), 0)])
def test_what_is_no_shape_or_number_of_classes(name: str, shape: tuple[int, int, int], classes: int) -> None:
    with pytest.raises(UserError, match=r"input_shape|units"):
        ZOO[name](shape, classes)


def sizes(network: Network) -> list[tuple[int, int]]:
    """Return height and width of all images, each change once."""
    found = [(shape[0], shape[1]) for shape in network.shapes if len(shape) == 3]
    return [size for index, size in enumerate(found) if index == 0 or found[index - 1] != size]


def squares(*sides: int) -> list[tuple[int, int]]:
    return [(side, side) for side in sides]


def test_stems_follow_the_size_of_the_images() -> None:
    assert sizes(ZOO["vgg11"]((32, 32, 3), 10)) == squares(32, 16, 8, 4, 2, 1)
    assert sizes(ZOO["vgg16"]((17, 5, 3), 10)) == [(17, 5), (8, 2), (4, 1)]
    assert sizes(ZOO["alexnet"]((224, 224, 3), 10)) == squares(224, 55, 27, 13, 6)
    assert sizes(ZOO["alexnet"]((32, 32, 3), 10)) == squares(32, 15, 7, 3)
    assert sizes(ZOO["alexnet"]((64, 64, 3), 10)) == squares(64, 15, 7, 3, 1)
    assert sizes(ZOO["alexnet"]((6, 2, 3), 10)) == [(6, 2)]
    for name in ("resnet18", "resnet34", "resnet50"):
        assert {size[0] for size in sizes(ZOO[name]((224, 224, 3), 10))} == {224, 112, 56, 28, 14, 7}
        assert {size[0] for size in sizes(ZOO[name]((64, 64, 3), 10))} == {64, 32, 16, 8}
    assert sizes(ZOO["mobilenet"]((224, 224, 3), 10)) == squares(224, 112, 56, 28, 14, 7)
    assert sizes(ZOO["mobilenet"]((64, 33, 3), 10)) == [(64, 33), (32, 17), (16, 9), (8, 5), (4, 3)]


def test_depths_are_those_in_the_names() -> None:
    for name, depth in (("vgg11", 9), ("vgg16", 14), ("resnet18", 18), ("resnet34", 34), ("resnet50", 50)):
        applications = ZOO[name]((32, 32, 3), 10).applications
        projections = sum(isinstance(a.layer, Conv2D) and a.layer.kernel == (1, 1) for a in applications)
        in_bottlenecks = 2 * 16 if name == "resnet50" else 0
        weighted = sum(a.layer.kind in ("conv", "dense") for a in applications)
        assert weighted - (projections - in_bottlenecks) == depth


def test_alexnet_drops_out_before_its_first_two_dense_layers() -> None:
    kinds = [a.layer.kind for a in ZOO["alexnet"]((224, 224, 3), 10).applications]
    assert kinds[-6:] == ["flatten", "dropout", "dense", "dropout", "dense", "dense"]
    assert all(a.layer == Dropout(0.5) for a in ZOO["alexnet"]((32, 32, 3), 10).applications if "drop" in a.name)


def test_large_images_are_pooled_in_the_stem_of_residual_networks() -> None:
    large, small = (ZOO["resnet18"](shape, 10).applications for shape in ((65, 20, 3), (64, 64, 3)))
    assert [a.layer for a in large if a.layer.kind == "pool"] == [MaxPool2D(3, 2, ((1, 1), (1, 1)))]
    assert not any(a.layer.kind == "pool" for a in small)

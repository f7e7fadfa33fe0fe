"""Model: its numbers against the float64 reference, its arguments, its end."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from kernels.stepping import SEEDS, Case
from networks.drawn import networks
from training.runs import data

import bptcnn as bpt
from bptcnn.data import Samples
from bptcnn.errors import UserError
from bptcnn.kernels.unit import MATRIX_UNIT
from bptcnn.networks import Conv2D, Dense, Flatten, MaxPool2D, Network

SHAPE, CLASSES = (12, 10, 2), 5
NETWORK = Network(
    SHAPE, [Conv2D(6, 3, activation="relu"), MaxPool2D(2), Flatten(), Dense(16, activation="relu"), Dense(CLASSES)]
)
BATCH = 8


def clear_case(network: Network, images: int) -> Case:
    """The first random case without near ties."""
    return next(case for seed in range(200) if (case := Case.draw(network, images, seed)).decides_clearly())


@pytest.fixture
def model() -> Iterator[bpt.Model]:
    with bpt.Model(NETWORK, batch_size=BATCH, threads=2) as made:
        yield made


CASE = clear_case(NETWORK, BATCH)
X, LABELS = CASE.samples, CASE.labels


@pytest.mark.parametrize("images", [1, 5, BATCH])
def test_loss_and_gradient_are_the_references(model: bpt.Model, images: int) -> None:
    model.weights[:] = CASE.weights
    loss, gradient = model.loss_and_gradient(X[:images], LABELS[:images])
    expected_loss, expected = reference.loss_and_gradient(NETWORK, CASE.weights, X[:images], LABELS[:images])
    assert loss == pytest.approx(expected_loss, rel=1e-4)
    assert gradient.shape == (NETWORK.size,)
    assert gradient.dtype == np.float32
    assert np.linalg.norm(gradient - expected) <= 1e-4 * np.linalg.norm(expected)
    assert model.weights.tobytes() == CASE.weights.tobytes(), "only train_step changes weights"


@given(network=networks(), images=st.integers(1, 6), seed=SEEDS)
def test_random_networks(network: Network, images: int, seed: int) -> None:
    case = Case.draw(network, images, seed)
    if not case.decides_clearly():
        return
    with bpt.Model(network, batch_size=6, threads=1) as model:
        model.weights[:] = case.weights
        loss, gradient = model.loss_and_gradient(case.samples, case.labels)
        expected_loss, expected = reference.loss_and_gradient(network, case.weights, case.samples, case.labels)
        assert abs(loss - expected_loss) <= 1e-4 * max(1.0, abs(expected_loss))
        assert np.linalg.norm(gradient - expected) <= 1e-4 * max(float(np.linalg.norm(expected)), 1e-30)


def test_the_gradient_is_a_copy(model: bpt.Model) -> None:
    _, first = model.loss_and_gradient(X, LABELS)
    kept = first.copy()
    model.loss_and_gradient(X[:3], LABELS[:3])
    assert np.array_equal(first, kept)


def test_a_step_is_momentum_sgd(model: bpt.Model) -> None:
    """v = m v + g + d w; w = w - lr v: over two steps."""
    weights, velocity = model.weights.astype(np.float64), np.zeros(NETWORK.size)
    for _ in range(2):
        loss, gradient = model.loss_and_gradient(X, LABELS)
        velocity = 0.5 * velocity + gradient + 0.01 * weights
        weights = weights - 0.1 * velocity
        assert model.train_step(X, LABELS, lr=0.1, momentum=0.5, weight_decay=0.01) == pytest.approx(loss, rel=1e-5)
        np.testing.assert_allclose(model.weights, weights, rtol=1e-4, atol=1e-6)
        weights = model.weights.astype(np.float64)


def test_training_lowers_the_loss(model: bpt.Model) -> None:
    losses = [model.train_step(X, LABELS, lr=0.05, momentum=0.5) for _ in range(40)]
    assert losses[-1] < losses[0] / 4


@pytest.mark.parametrize("images", [1, BATCH + 1, 255, 256, 257, 600])
def test_predict_takes_any_number(model: bpt.Model, images: int) -> None:
    x = np.random.default_rng(images).random((images, *SHAPE), np.float32)
    logits = model.predict(x)
    expected, _ = reference.forward(NETWORK, model.weights, x)
    assert logits.shape == (images, CLASSES)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_predict_takes_no_images_at_all(model: bpt.Model) -> None:
    assert model.predict(X[:0]).shape == (0, CLASSES)


def test_predict_follows_the_weights(model: bpt.Model) -> None:
    before = model.predict(X)
    model.weights[:] *= 2
    assert not np.allclose(before, model.predict(X))


def test_bytes_are_fractions_of_255(model: bpt.Model) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, *SHAPE), np.uint8)
    scaled = pixels.astype(np.float32) / np.float32(255)
    np.testing.assert_allclose(model.predict(pixels), model.predict(scaled), rtol=1e-4, atol=1e-5)  # type: ignore[arg-type]
    labels = np.zeros(7, np.int64)
    byte_loss, _ = model.loss_and_gradient(pixels, labels)  # type: ignore[arg-type]
    assert byte_loss == pytest.approx(model.loss_and_gradient(scaled, labels)[0], rel=1e-5)


def test_other_layouts_and_types_of_the_same_numbers(model: bpt.Model) -> None:
    loss, gradient = model.loss_and_gradient(X, LABELS)
    strided = np.asfortranarray(X.astype(np.float64))
    for kind in (np.int8, np.uint8, np.int64, np.uint64):
        other_loss, other = model.loss_and_gradient(strided, LABELS.astype(kind)[::-1][::-1])  # type: ignore[arg-type]
        assert (other_loss, other.tobytes()) == (loss, gradient.tobytes())


def test_evaluate_is_the_share_of_right_answers(model: bpt.Model) -> None:
    x = np.random.default_rng(1).random((300, *SHAPE), np.float32)
    labels = np.random.default_rng(2).integers(0, CLASSES, 300, np.int32)
    expected = np.mean(model.predict(x).argmax(1) == labels)
    assert model.evaluate(Samples(x, labels)) == expected


def test_evaluate_takes_a_datasets_test_images() -> None:
    with bpt.Model(bpt.networks.lenet5(), threads=1) as model:
        assert model.evaluate(data()) == model.evaluate(data().test)
        assert 0.0 <= model.evaluate(data()) <= 0.5


def trained(threads: int) -> bytes:
    with bpt.Model(NETWORK, batch_size=BATCH, threads=threads, seed=3) as model:
        random = np.random.default_rng(5)
        for _ in range(10):
            x = random.random((BATCH, *SHAPE), np.float32)
            model.train_step(x, random.integers(0, CLASSES, BATCH), lr=0.05, momentum=0.9, weight_decay=1e-3)
        return model.weights.tobytes() + model.predict(X).tobytes()


def test_threads_do_not_matter_to_the_last_bit() -> None:
    alone = trained(1)
    assert trained(2) == alone
    assert trained(3) == alone


def test_seeds() -> None:
    def start(seed: int) -> bytes:
        with bpt.Model(NETWORK, threads=1, seed=seed) as model:
            assert np.array_equal(model.weights, NETWORK.initial_weights(seed))
            return model.weights.tobytes()

    assert start(1) == start(1) != start(2)


# ---- what users get wrong --------------------------------------------------------------------------------------------

BAD_BATCHES = [
    (X[0], LABELS[:1]),
    (X[:, :-1], LABELS),
    (X[..., :1], LABELS),
    (X.transpose(0, 3, 1, 2), LABELS),
    (X[:0], LABELS[:0]),
    (np.concatenate([X, X]), np.concatenate([LABELS, LABELS])),
    (X, LABELS[:-1]),
    (X, LABELS[:, None]),
    (X, LABELS.astype(np.float32)),
    (X, np.eye(BATCH, CLASSES, dtype=np.float32)),
    (X, np.full(BATCH, CLASSES)),
    (X, np.full(BATCH, -1)),
    (X, np.full(BATCH, 2**32)),  # 0, once cut to 32 bits
    (X, np.full(BATCH, 2**63 + 1, np.uint64)),
]


@pytest.mark.parametrize("case", range(len(BAD_BATCHES)))
def test_wrong_batches_are_refused_and_change_nothing(model: bpt.Model, case: int) -> None:
    x, labels = BAD_BATCHES[case]
    before = model.weights.tobytes()
    for call in (
        lambda: model.loss_and_gradient(x, labels),
        lambda: model.train_step(x, labels, lr=0.1, momentum=0.9),
    ):
        with pytest.raises(UserError) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert model.weights.tobytes() == before
    model.train_step(X, LABELS, lr=0.01)


def test_predict_and_evaluate_refuse_other_shapes(model: bpt.Model) -> None:
    for x in (X[0], X[:, 1:], X[..., :1]):
        with pytest.raises(UserError):
            model.predict(x)
    with pytest.raises(UserError):
        model.evaluate(data())


def test_channels_first_is_told_with_its_remedy(model: bpt.Model) -> None:
    with pytest.raises(UserError, match=r"turn them with x\.transpose\(0, 2, 3, 1\)"):
        model.predict(X.transpose(0, 3, 1, 2))


def test_labels_that_are_no_class_of_the_network_are_refused(model: bpt.Model) -> None:
    """They would count as wrong answers, without a word."""
    labels = LABELS.astype(np.int32)
    labels[-1] = CLASSES
    with pytest.raises(UserError, match=f"1 of {len(X)} labels are no class of .* {CLASSES} classes apart"):
        model.evaluate(Samples(X, labels))


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"batch_size": -3}, {"threads": 0}, {"threads": -1}])
def test_wrong_sizes(arguments: dict[str, int]) -> None:
    with pytest.raises(UserError):
        bpt.Model(NETWORK, **arguments)


def test_a_closed_model_leaves_no_threads_and_says_so() -> None:
    before = threading.active_count()
    model = bpt.Model(NETWORK, batch_size=BATCH, threads=3)
    model.train_step(X, LABELS, lr=0.1)
    model.predict(X)
    assert threading.active_count() > before
    model.close()
    model.close()
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="closed"):
        model.train_step(X, LABELS, lr=0.1)
    with pytest.raises(RuntimeError, match="closed"):
        model.predict(X)
    assert np.isfinite(model.weights).all(), "the weights stay readable"


def test_a_forgotten_model_leaves_no_threads() -> None:
    """The fixture that every test has checks it."""
    bpt.Model(NETWORK, threads=3).predict(X)


def test_bf16_learns_as_float32_does() -> None:
    if not MATRIX_UNIT:
        with pytest.raises(UserError, match="AVX512-BF16"):
            bpt.Model(NETWORK, precision="bf16")
        pytest.skip("this CPU multiplies no bfloat16 numbers")
    dataset = bpt.data.load()
    reached = {}
    for precision in ("float32", "bf16"):
        order = np.random.default_rng(0)
        with bpt.Model(bpt.networks.cnn2(), precision=precision, threads=2) as model:
            for _ in range(3):
                for batch in np.array_split(order.permutation(len(dataset.train)), -(-len(dataset.train) // 64)):
                    model.train_step(dataset.train.images[batch], dataset.train.labels[batch], lr=0.05, momentum=0.9)
            reached[precision] = model.evaluate(dataset)
    assert reached["float32"] > 0.8
    assert abs(reached["bf16"] - reached["float32"]) < 0.02


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UserError, match="choose one of float32, bf16"):
        bpt.Model(NETWORK, precision="float16")  # type: ignore[arg-type]

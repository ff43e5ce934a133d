"""The networks in NumPy: the initial weights, and layers against other ways to compute them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import correlate

from hemspec_benchmark import network
from hemspec_benchmark.network import ARCHITECTURES, Forward, forward, initial_weights

RNG = np.random.default_rng(7)


@pytest.mark.parametrize(
    ("architecture", "shape", "classes", "expected"),
    [
        ("small", (8, 8, 1), 10, 80 + 1168 + 4640 + 112 + 1290),
        ("small-without-norm", (8, 8, 1), 10, 80 + 1168 + 4640 + 1290),
        # The number that others' ResNet-18 for CIFAR-10 have.
        ("resnet18", (32, 32, 3), 10, 11_173_962),
    ],
)
def test_the_number_of_weights(architecture: str, shape: tuple[int, ...], classes: int, expected: int) -> None:
    assert sum(array.size for array in initial_weights(architecture, shape, classes, 0).values()) == expected


def test_he_initialisation() -> None:
    weights = initial_weights("resnet18", (32, 32, 3), 100, 3)
    for name, array in weights.items():
        assert array.dtype == np.float32
        if name.endswith("/kernel"):
            gain = 1.0 if name == "head/kernel" else 2.0
            expected = np.sqrt(gain / np.prod(array.shape[:-1]))
            assert array.std() == pytest.approx(expected, rel=5 / np.sqrt(2 * array.size)), name
        else:
            assert np.all(array == (1.0 if name.endswith("/scale") else 0.0)), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_initial_weights_follow_from_the_seed(architecture: str) -> None:
    one, same, other = (initial_weights(architecture, (8, 8, 3), 4, seed) for seed in (1, 1, 2))
    for name, array in one.items():
        np.testing.assert_array_equal(array, same[name])
        assert not name.endswith("/kernel") or not np.array_equal(array, other[name])


@pytest.mark.parametrize(("architecture", "shape"), [("small", (6, 8, 1)), ("unet", (8, 10, 1))])
def test_images_that_cannot_be_halved_are_refused(architecture: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="cannot be halved"):
        initial_weights(architecture, shape, 10, 0)


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [("small", (5, 10)), ("small-without-norm", (5, 10)), ("unet", (5, 16, 12, 10)), ("resnet18", (5, 10))],
)
@pytest.mark.parametrize("training", [False, True])
def test_logits_have_the_shape_of_the_task(architecture: str, shape: tuple[int, ...], training: bool) -> None:
    images = RNG.random((5, 16, 12, 2), dtype=np.float32)
    logits = forward(architecture, initial_weights(architecture, (16, 12, 2), 10, 0), images, training=training)
    assert logits.shape == shape
    assert logits.dtype == np.float64


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("size", "height", "width"), [(3, 8, 6), (3, 7, 5), (1, 7, 6)])
def test_convolution_is_scipys(size: int, stride: int, height: int, width: int) -> None:
    x, kernel, bias = RNG.normal(size=(2, height, width, 3)), RNG.normal(size=(size, size, 3, 4)), RNG.normal(size=4)
    layers = Forward({"c/kernel": kernel, "c/bias": bias}, training=False)
    found = layers.convolution("c", x, 4, size=size, stride=stride)
    half = size // 2
    padded = np.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    for n in range(2):
        for c in range(4):
            expected = correlate(padded[n], kernel[..., c], mode="valid")[::stride, ::stride, 0] + bias[c]
            np.testing.assert_allclose(found[n, ..., c], expected, rtol=1e-12, atol=1e-12)


def test_norm_uses_the_batch_in_training_and_0_and_1_otherwise() -> None:
    x, weights = 3.0 + 2.0 * RNG.normal(size=(4, 3, 3, 2)), {"n/scale": np.array([1.0, 2.0]), "n/shift": np.zeros(2)}
    trained = Forward(weights, training=True).norm("n", x)
    np.testing.assert_allclose(trained.mean(axis=(0, 1, 2)), 0.0, atol=1e-12)
    np.testing.assert_allclose(trained.std(axis=(0, 1, 2)), [1.0, 2.0], rtol=1e-5)
    np.testing.assert_allclose(Forward(weights, training=False).norm("n", x), x * [1.0, 2.0], rtol=1e-5)


def test_halving_undoes_enlarging() -> None:
    x = RNG.normal(size=(2, 3, 4, 2))
    layers = Forward({}, training=False)
    np.testing.assert_allclose(layers.halve(layers.enlarge(x)), x)
    np.testing.assert_array_equal(layers.enlarge(x)[0, 4:6, 2:4, 1], np.full((2, 2), x[0, 2, 1, 1]))
    assert layers.halve(np.arange(16.0).reshape(1, 4, 4, 1))[0, 0, 1, 0] == np.mean([2, 3, 6, 7])


def test_every_weight_of_an_architecture_is_used() -> None:
    """Changing any of them changes the logits: no layer is left out, none shares another's weights."""
    for architecture in ARCHITECTURES:
        weights = initial_weights(architecture, (8, 8, 1), 3, 0)
        images = RNG.random((2, 8, 8, 1), dtype=np.float32)
        before = forward(architecture, weights, images, training=False)
        for name in weights if architecture != "resnet18" else ("stem/kernel", "stage 2 block 1 skip/kernel"):
            changed = weights | {name: weights[name] + np.float32(0.1)}
            assert not np.allclose(before, forward(architecture, changed, images, training=False)), name


def test_the_layers_of_a_block_come_in_order() -> None:
    """The small network once more, written out."""
    weights = initial_weights("small", (8, 8, 1), 10, 5)
    images = RNG.random((3, 8, 8, 1))
    layers = Forward(weights, training=True)
    x = layers.silu(layers.norm("first norm", layers.convolution("first", images, 8)))
    x = layers.halve(layers.silu(layers.norm("second norm", layers.convolution("second", x, 16))))
    x = layers.halve(layers.silu(layers.norm("third norm", layers.convolution("third", x, 32))))
    expected = x.reshape(3, 128) @ weights["head/kernel"] + weights["head/bias"]
    np.testing.assert_allclose(network.forward("small", weights, images, training=True), expected)

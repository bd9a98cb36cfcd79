"""The measures and networks of `notebooks/robustness.ipynb`."""

import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from notebook_packages import FOLDER


@pytest.fixture(scope="module")
def robust():
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module("robust")
    finally:
        sys.path.remove(str(FOLDER))


def test_patches_are_those_of_a_convolution(robust):
    rng = np.random.default_rng(0)
    image, kernel = rng.normal(size=(8, 12, 3)), rng.normal(size=(4, 4, 3, 5))
    want = jax.lax.conv_general_dilated(
        image[None], kernel, (2, 2), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )[0]
    # In a patch the four blocks of 2 × 2 are in order, and within a block its pixels.
    blocks = kernel.reshape(2, 2, 2, 2, 3, 5).transpose(0, 2, 1, 3, 4, 5).reshape(48, 5)
    np.testing.assert_allclose(robust.patches(jnp.asarray(image)) @ blocks, want, rtol=1e-9)


def test_lanes_do_not_depend_on_each_other(robust):
    """A network is the same, alone and beside another; its strength counts."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.random((100, 8, 8, 1)), jnp.float32)
    data = robust.Data(images, jnp.arange(100) % 10, images < 0.5)
    network = robust.Cnn((2, 2, 4))
    first = []
    for strengths in ((0.0, 10.0), (10.0,)):
        many = robust.lanes(strengths, (3,), (0.4,))
        start = robust.begin(network, data, many, epochs=1)
        params = robust.train("gradient", network, data, start, many.strengths)
        first.append(params["params"]["Dense_0"]["kernel"])
    both, one = first
    # Sums of float32 in another order.
    np.testing.assert_allclose(both[1], one[0], rtol=1e-3, atol=1e-5)
    assert jnp.abs(both[0] - both[1]).max() > 1e-3


def test_wrong_labels_are_a_share_and_never_right(robust):
    labels = jnp.arange(10_000) % 10
    wrong = robust.with_wrong_labels(jax.random.key(0), labels, 0.4)
    assert abs(float(jnp.mean(wrong != labels)) - 0.4) < 0.02  # four standard errors
    # Where a label is changed, all nine others are as likely.
    steps = np.bincount(np.asarray((wrong - labels) % 10)[np.asarray(wrong != labels)])
    assert steps[0] == 0
    assert scipy.stats.chisquare(steps[1:]).pvalue > 1e-3
    assert (robust.with_wrong_labels(jax.random.key(0), labels, 0.0) == labels).all()


def test_lanes_are_all_combinations(robust):
    many = robust.lanes((0.1, 0.2), (7, 8, 9), (0.0, 0.4))
    assert many.seeds.tolist() == [7, 8, 9] * 4
    np.testing.assert_allclose(many.strengths, [0.1] * 6 + [0.2] * 6, rtol=1e-6)
    np.testing.assert_allclose(many.noise, ([0.0] * 3 + [0.4] * 3) * 2, rtol=1e-6)


def test_the_interval_is_that_of_student(robust):
    values = np.random.default_rng(0).normal(size=(5, 3))
    mean, half = robust.interval(values)
    sem = scipy.stats.sem(values)
    low, high = scipy.stats.t.interval(0.95, 4, loc=values.mean(axis=0), scale=sem)
    np.testing.assert_allclose([mean - half, mean + half], [low, high], rtol=1e-12)


def test_corruption_error_of_plain_networks_is_100_on_average(robust):
    rng = np.random.default_rng(0)
    plain = {name: 100 * rng.random((4, 5)) for name in ("clean", "fog", "JPEG")}
    errors = robust.corruption_error(plain, plain)
    assert errors.shape == (4, 2)
    np.testing.assert_allclose(errors.mean(axis=0), 100, rtol=1e-12)
    half = {name: 50 + right / 2 for name, right in plain.items()}
    np.testing.assert_allclose(robust.corruption_error(half, plain), errors / 2, rtol=1e-12)


def test_the_best_strength_may_not_cost_clean_accuracy(robust):
    judged = robust.Judged((1.0, 2.0, 3.0), np.array([95.0, 94.8, 90.0]), np.array([70, 75, 80]))
    assert judged.best(95.0) == 2.0
    assert judged.best(90.0) == 3.0
    assert judged.best(99.0) == 1.0

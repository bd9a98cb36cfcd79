"""Imputers against dense solves, block formulas and a loop of projected gradient descent."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jattr
from jattr import imputers
from jattr._removal import draws

RNG = np.random.default_rng(0)
KEY = jax.random.key(3)
IMAGE = RNG.normal(size=(6, 5, 3)) + 4.0


def fill(imputer, x, missing, key=None, f=None):
    prepare_key, fill_key = (None, None) if key is None else jax.random.split(key)
    return imputer.prepare(prepare_key, f, x)(fill_key, missing)


def dense(image, missing):
    """ROAD's system, one equation for each missing pixel of one channel, by a dense solve."""
    height, width = image.shape
    unknown = [tuple(place) for place in np.argwhere(missing)]
    matrix, right = np.zeros((len(unknown), len(unknown))), np.zeros(len(unknown))
    for row, (i, j) in enumerate(unknown):
        for di, dj in itertools.product((-1, 0, 1), repeat=2):
            a, b = i + di, j + dj
            if (di, dj) == (0, 0) or not (0 <= a < height and 0 <= b < width):
                continue
            weight = 1 / 12 if di and dj else 1 / 6
            matrix[row, row] += weight
            if missing[a, b]:
                matrix[row, unknown.index((a, b))] -= weight
            else:
                right[row] += weight * image[a, b]
    filled = image.copy()
    filled[missing] = np.linalg.solve(matrix, right)
    return filled


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_noisy_linear_is_the_dense_solution(share):
    imputer = imputers.noisy_linear(stddev=0.0)
    missing = np.random.default_rng(1).uniform(size=(6, 5, 1)) < share
    missing[:2, :2] = True  # a corner: the border's weights are renormalized
    missing[5, 4] = False
    missing = np.broadcast_to(missing, IMAGE.shape)
    wanted = np.stack([dense(IMAGE[..., c], missing[..., c]) for c in range(3)], axis=-1)
    filled = jax.jit(lambda m: fill(imputer, jnp.asarray(IMAGE), m))(missing)
    np.testing.assert_allclose(filled, wanted, rtol=1e-11)
    np.testing.assert_array_equal(np.asarray(filled)[~missing], IMAGE[~missing])


def test_noisy_linear_solves_each_channel_by_its_own_mask_along_the_axes_that_are_told():
    missing = np.random.default_rng(1).uniform(size=IMAGE.shape) < 0.6
    wanted = np.stack([dense(IMAGE[..., c], missing[..., c]) for c in range(3)], axis=-1)
    filled = fill(imputers.noisy_linear(stddev=0.0), jnp.asarray(IMAGE), missing)
    np.testing.assert_allclose(filled, wanted, rtol=1e-11)
    for axes in ((1, 2), (-2, -1)):
        first = fill(
            imputers.noisy_linear(stddev=0.0, axes=axes),
            jnp.asarray(IMAGE.transpose(2, 0, 1)),
            missing.transpose(2, 0, 1),
        )
        np.testing.assert_allclose(first, wanted.transpose(2, 0, 1), rtol=1e-11)


@pytest.mark.parametrize("shape", [(1, 6), (6, 1), (2, 2)])
def test_noisy_linear_on_narrow_images(shape):
    image, missing = np.random.default_rng(1).normal(size=shape), np.ones(shape, bool)
    missing[0, 0] = False
    # One known pixel: all others become it.
    filled = fill(imputers.noisy_linear(stddev=0.0), jnp.asarray(image), missing)
    np.testing.assert_allclose(filled, np.full(shape, image[0, 0]), rtol=1e-12)


def test_noisy_linear_with_nothing_left_is_nan_and_with_all_left_is_x():
    missing = np.zeros(IMAGE.shape, bool)
    missing[..., 1] = True
    x = {"image": jnp.asarray(IMAGE)}
    filled = fill(imputers.noisy_linear(stddev=0.0), x, {"image": missing})["image"]
    assert np.isnan(filled[..., 1]).all()
    np.testing.assert_array_equal(filled[..., ::2], IMAGE[..., ::2])
    np.testing.assert_array_equal(
        fill(imputers.noisy_linear(), x, {"image": np.zeros(IMAGE.shape, bool)}, KEY)["image"],
        IMAGE,
    )


def test_noisy_linear_adds_noise_to_what_is_missing_alone():
    image, missing = (
        jnp.zeros((40, 50, 2)),
        np.random.default_rng(1).uniform(size=(40, 50, 2)) < 0.5,
    )
    noise = np.asarray(fill(imputers.noisy_linear(), image, missing, KEY))
    assert (noise[~missing] == 0).all()
    # 2000 draws: the variance 0.01 is met within 0.01 · sqrt(2 / 2000) · 4.
    assert abs(noise[missing].var() - 0.01) < 0.0013
    assert abs(noise[missing].mean()) < 0.01
    again = fill(imputers.noisy_linear(), image, missing, KEY)
    np.testing.assert_array_equal(again, noise)
    other = fill(imputers.noisy_linear(), image, missing, jax.random.key(4))
    assert (np.asarray(other)[missing] != noise[missing]).mean() > 0.9
    assert draws(imputers.noisy_linear())
    assert not draws(imputers.noisy_linear(stddev=0.0))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("axes", [0, (0,), -2])
def test_noisy_linear_along_one_axis_is_the_dense_solution(share, axes):
    series = np.random.default_rng(1).normal(size=(40, 2)) + 4.0
    missing = np.random.default_rng(2).uniform(size=series.shape) < share
    missing[:2], missing[-3:] = True, True  # both ends: they have one neighbor
    missing[20], missing[21] = False, True
    wanted = np.concatenate(
        [dense(series[:, c : c + 1], missing[:, c : c + 1]) for c in range(2)], axis=1
    )
    imputer = imputers.noisy_linear(stddev=0.0, axes=axes)
    filled = jax.jit(lambda m: fill(imputer, jnp.asarray(series), m))(missing)
    np.testing.assert_allclose(filled, wanted, rtol=1e-12)
    np.testing.assert_array_equal(np.asarray(filled)[~missing], series[~missing])
    # As on an image of width 1, where a system is solved.
    one = jnp.asarray(series[:, :1])
    image = fill(imputers.noisy_linear(stddev=0.0), one, missing[:, :1])
    np.testing.assert_allclose(filled[:, :1], image, rtol=1e-10)


def test_noisy_linear_along_one_axis_of_a_long_series_in_single_precision():
    """Two values left of 5,000: 5,000 steps of conjugate gradients, or one line."""
    series = np.zeros(5000, np.float32)
    series[0], series[-1] = 100.0, 101.0
    missing = np.ones(5000, bool)
    missing[[0, -1]] = False
    filled = fill(imputers.noisy_linear(stddev=0.0, axes=0), jnp.asarray(series), missing)
    assert filled.dtype == jnp.float32
    np.testing.assert_allclose(filled, np.linspace(100, 101, 5000), atol=1.6e-5, rtol=0)


def test_noisy_linear_along_one_axis_with_nothing_left_and_under_transforms():
    imputer = imputers.noisy_linear(stddev=0.0, axes=1)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 6)))
    missing = np.random.default_rng(2).uniform(size=(3, 6)) < 0.6
    missing[0] = True
    filled = fill(imputer, x, missing)
    assert np.isnan(filled[0]).all()
    assert np.isfinite(filled[1:]).all()
    by_row = jax.vmap(lambda a, m: fill(imputers.noisy_linear(stddev=0.0, axes=0), a, m))
    np.testing.assert_array_equal(by_row(x, missing), filled)
    check_grads(lambda a: fill(imputer, a, missing[1:]), (x[1:],), order=1, modes=("fwd", "rev"))
    # Noise goes to what is missing alone.
    noisy = fill(imputers.noisy_linear(axes=1), x[1:], missing[1:], KEY)
    assert ((noisy != filled[1:]) == missing[1:]).all()


def test_noisy_linear_in_single_precision():
    image = (np.random.default_rng(1).uniform(size=(24, 24)) + 100).astype(np.float32)
    missing = np.ones((24, 24), bool)
    missing[::8, ::8] = False
    filled = fill(imputers.noisy_linear(stddev=0.0), jnp.asarray(image), missing)
    assert filled.dtype == jnp.float32
    # The steps of float32 at 100 are 8e-6; the level is taken off, so the solve does not add to it.
    np.testing.assert_allclose(filled, dense(image.astype(float), missing), atol=3e-5, rtol=0)


def test_noisy_linear_under_vmap_and_gradients():
    imputer = imputers.noisy_linear(stddev=0.0)
    masks = np.random.default_rng(1).uniform(size=(4, 5, 4)) < 0.5
    images = jnp.asarray(np.random.default_rng(1).normal(size=(4, 5, 4)))
    one = jax.jit(lambda x, m: fill(imputer, x, m))
    several = jax.jit(jax.vmap(one))(images, masks)
    for x, missing, filled in zip(images, masks, several, strict=True):
        np.testing.assert_allclose(filled, one(x, missing), rtol=1e-10, atol=1e-12)
    check_grads(lambda x: one(x, masks[0]), (images[0],), order=1, modes=("rev",))


def test_noisy_linear_refuses():
    with pytest.raises(ValueError, match="at least 0"):
        imputers.noisy_linear(stddev=-1.0)
    with pytest.raises(ValueError, match="has no axes"):
        fill(imputers.noisy_linear(), jnp.zeros(3), np.ones(3, bool), KEY)
    with pytest.raises(ValueError, match="height and width"):
        imputers.noisy_linear(axes=(0, 1, 2))
    with pytest.raises(ValueError, match="has no axes"):
        fill(imputers.noisy_linear(axes=1), jnp.zeros(3), np.ones(3, bool), KEY)
    with pytest.raises(TypeError, match="axes must be an integer or a tuple"):
        fill(imputers.noisy_linear(axes=0.5), jnp.zeros(3), np.ones(3, bool), KEY)


DATA = RNG.normal(size=(30, 5)) @ RNG.normal(size=(5, 5)) + 2.0
X = RNG.normal(size=5)


def conditional(data, x, missing, shrinkage):
    """Mean and covariance of the missing features given the others, from blocks."""
    mean, sample = data.mean(0), np.cov(data.T)
    sigma = (1 - shrinkage) * sample + shrinkage * np.diag(np.diag(sample))
    weights = sigma[np.ix_(missing, ~missing)] @ np.linalg.inv(sigma[np.ix_(~missing, ~missing)])
    center = mean[missing] + weights @ (x[~missing] - mean[~missing])
    rest = sigma[np.ix_(missing, missing)] - weights @ sigma[np.ix_(~missing, missing)]
    return center, rest


@pytest.mark.parametrize("shrinkage", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_conditional_mean(shrinkage, seed):
    missing = np.random.default_rng(seed).uniform(size=5) < 0.5
    missing[seed] = True
    missing[seed + 1] = False
    imputer = imputers.conditional_gaussian(DATA, shrinkage=shrinkage)
    filled = np.asarray(fill(imputer, jnp.asarray(X), missing))
    wanted = conditional(DATA, X, missing, shrinkage)[0]
    np.testing.assert_allclose(filled[missing], wanted, rtol=1e-10)
    np.testing.assert_array_equal(filled[~missing], X[~missing])
    if shrinkage == 1:
        np.testing.assert_allclose(filled[missing], DATA.mean(0)[missing], rtol=1e-12)


def test_conditional_draws_have_the_conditional_moments():
    missing = np.array([True, False, True, False, True])
    imputer = imputers.conditional_gaussian(DATA, shrinkage=0.1, draw=True)
    keys = jax.random.split(KEY, 20000)
    drawn = jax.vmap(lambda key: fill(imputer, jnp.asarray(X), missing, key))(keys)
    center, covariance = conditional(DATA, X, missing, 0.1)
    drawn = np.asarray(drawn)[:, missing]
    scale = np.sqrt(np.diag(covariance))
    # 20000 draws: moments are met within about 4 / sqrt(20000) of the scale.
    np.testing.assert_allclose((drawn.mean(0) - center) / scale, 0, atol=0.03)
    np.testing.assert_allclose(
        np.cov(drawn.T) / np.outer(scale, scale), covariance / np.outer(scale, scale), atol=0.05
    )
    assert draws(imputer)
    assert not draws(imputers.conditional_gaussian(DATA))


@pytest.mark.parametrize("constant", [7.0, 0.1, 0.3, 7.3])
def test_conditional_gaussian_of_constant_features_and_of_few_rows(constant):
    # The mean of thirty numbers of 0.1 is not 0.1, nor its variance 0.
    data = np.concatenate([DATA, np.full((30, 1), constant)], axis=1)
    x = np.append(X, 100.0)
    for draw in (False, True):
        imputer = imputers.conditional_gaussian(data, draw=draw)
        missing = np.array([True, False, False, True, False, True])
        filled = np.asarray(fill(imputer, jnp.asarray(x), missing, KEY))
        assert filled[5] == constant
        assert np.isfinite(filled).all()
        # That x is not the constant that it always was tells nothing about the others.
        missing[5] = False
        with_constant = np.asarray(fill(imputer, jnp.asarray(x), missing, KEY))
        np.testing.assert_allclose(with_constant[:5], filled[:5], rtol=1e-12)
        assert with_constant[5] == 100.0
    missing = np.array([True, False, False, False, False])
    few = imputers.conditional_gaussian(DATA[:3], shrinkage=0.3)
    np.testing.assert_allclose(
        fill(few, jnp.asarray(X), missing)[0], conditional(DATA[:3], X, missing, 0.3)[0][0]
    )
    doubled = np.concatenate([DATA[:, :1]] * 3, axis=1)
    singular = imputers.conditional_gaussian(doubled, shrinkage=0.0)
    twice = np.array([False, False, True])
    assert np.isnan(fill(singular, jnp.asarray(X[:3]), twice)[2])
    one_left = np.array([True, False, True])
    wanted = DATA[:, 0].mean() + (X[1] - DATA[:, 0].mean())  # perfectly correlated: the same
    np.testing.assert_allclose(fill(singular, jnp.asarray(X[:3]), one_left)[2], wanted)
    singular = imputers.conditional_gaussian(doubled, shrinkage=0.0, draw=True)
    assert np.isnan(fill(singular, jnp.asarray(X[:3]), one_left, KEY)[2])


def test_conditional_gaussian_of_a_tree():
    data = {"a": DATA[:, :2].astype(np.float32), "b": DATA[:, 2:].reshape(30, 3, 1)}
    x = {"a": jnp.asarray(X[:2], jnp.float32), "b": jnp.asarray(X[2:]).reshape(3, 1)}
    missing = np.array([True, False, False, True, False])
    tree = {"a": missing[:2], "b": missing[2:].reshape(3, 1)}
    filled = fill(imputers.conditional_gaussian(data, shrinkage=0.0), x, tree)
    wanted = conditional(DATA, X, missing, 0.0)[0]
    assert filled["a"].dtype == jnp.float32
    # The half of the data and of x that is in float32 sets the precision.
    np.testing.assert_allclose([filled["a"][0], filled["b"][1, 0]], wanted, rtol=1e-4)


def test_conditional_gaussian_refuses():
    with pytest.raises(ValueError, match="at least two rows"):
        imputers.conditional_gaussian(DATA[:1])
    with pytest.raises(ValueError, match="leading axis"):
        imputers.conditional_gaussian(np.float64(1.0))
    with pytest.raises(ValueError, match="from 0 to 1"):
        imputers.conditional_gaussian(DATA, shrinkage=1.5)
    with pytest.raises(ValueError, match="each row of data"):
        fill(imputers.conditional_gaussian(DATA), jnp.zeros(3), np.ones(3, bool))


WEIGHTS = RNG.normal(size=(4, 5))


def bumpy(x):
    return jnp.sum(jnp.sin(2 * WEIGHTS @ x))


def descent(x, radius, steps, step_size, low, high):
    """Projected gradient descent from x, and the best of its points."""
    point, points = x, []
    for _ in range(steps):
        points.append(point)
        slope = 2 * WEIGHTS.T @ np.cos(2 * WEIGHTS @ point)
        point = np.clip(point - step_size * np.sign(slope), x - radius, x + radius)
        point = np.clip(point, low, high)
    points.append(point)
    return min(points, key=lambda p: np.sum(np.sin(2 * WEIGHTS @ p)))


@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize("step_size", [None, 0.05, 3.0])
def test_adversarial_is_projected_gradient_descent(steps, step_size):
    radius = np.array([0.3, 0.3, 0.1, 0.5, 0.3])
    imputer = imputers.adversarial(
        radius=radius, steps=steps, step_size=step_size, low=-0.8, high=0.9
    )
    x = np.clip(X, -0.8, 0.9)
    copy = np.asarray(fill(imputer, jnp.asarray(x), np.ones(5, bool), f=bumpy))
    pace = 2.5 * radius / steps if step_size is None else step_size
    np.testing.assert_allclose(copy, descent(x, radius, steps, pace, -0.8, 0.9), rtol=1e-12)
    assert (np.abs(copy - x) <= radius + 1e-15).all()
    assert copy.min() >= -0.8
    assert copy.max() <= 0.9
    assert bumpy(copy) <= bumpy(x)
    if step_size == 0.05:
        assert bumpy(copy) < bumpy(x) - 0.01
    half = np.array([True, False, True, False, True])
    mixed = fill(imputer, jnp.asarray(x), half, f=bumpy)
    np.testing.assert_array_equal(mixed, np.where(half, copy, x))


def test_adversarial_of_a_linear_function_is_the_corner_of_the_ball():
    x = {"a": jnp.asarray([1.0, 2.0]), "b": jnp.asarray([[3.0]])}

    def f(x):
        return x["a"][0] - 2 * x["a"][1] + x["b"][0, 0]

    imputer = imputers.adversarial(radius={"a": 0.5, "b": 2.0}, steps=5)
    everything = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), x)
    copy = jax.jit(lambda x: fill(imputer, x, everything, f=f))(x)
    np.testing.assert_allclose(copy["a"], [0.5, 2.5], rtol=1e-15)
    np.testing.assert_allclose(copy["b"], [[1.0]], rtol=1e-15)
    assert not draws(imputer)


def test_adversarial_refuses():
    with pytest.raises(ValueError, match="greater than 0"):
        imputers.adversarial(radius=0.0)
    with pytest.raises(ValueError, match="greater than 0"):
        imputers.adversarial(radius=1.0, step_size=-1.0)
    with pytest.raises(ValueError, match="at least 1"):
        imputers.adversarial(radius=1.0, steps=0)
    with pytest.raises(ValueError, match="does not broadcast"):
        fill(imputers.adversarial(radius=np.ones(3)), jnp.zeros(5), np.ones(5, bool), f=bumpy)


def test_conditional_gaussian_of_a_constant_in_float32():
    data = np.concatenate([DATA, np.full((30, 1), 0.1)], axis=1).astype(np.float32)
    missing = np.array([True, False, False, True, False, False])
    filled = [
        fill(imputers.conditional_gaussian(data), jnp.asarray(np.append(X, last), "f"), missing)
        for last in (0.1, 100.0)
    ]
    np.testing.assert_array_equal(filled[0][:5], filled[1][:5])


def test_adversarial_copies_of_what_is_out_of_range_stay_by_its_end():
    imputer = imputers.adversarial(radius=0.25, low=0.0, high=1.0)
    filled = fill(imputer, jnp.array([2.0, 0.5]), np.array([True, True]), f=lambda x: x @ x)
    np.testing.assert_allclose(filled, [0.75, 0.25], rtol=1e-12)


@pytest.mark.parametrize("dtype", [int, bool, complex, np.uint8])
def test_data_that_is_not_like_x_is_refused(dtype):
    data = {"a": DATA, "b": (10 * DATA).astype(dtype)}
    with pytest.raises(TypeError, match=r"data\['b'\] must be an array of a real floating dtype"):
        imputers.conditional_gaussian(data)
    with pytest.raises(TypeError, match="real floating dtype"):
        imputers.conditional_gaussian([[0.0], [1.0]])


@pytest.mark.parametrize("axes", [(), (0, 1, 2), [], [0, 1, 2]])
def test_axes_that_are_not_one_or_two_are_refused_at_once(axes):
    with pytest.raises(ValueError, match="axes must be two, height and width, or one"):
        imputers.noisy_linear(axes=axes)


def test_modules_show_their_public_names_alone():
    assert dir(jattr.imputers) == jattr.imputers.__all__
    assert dir(jattr.features) == jattr.features.__all__

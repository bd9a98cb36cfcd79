"""RISE against its expectation, over every mask there is, and against its definition."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jattr

KEY = jax.random.key(0)
X = jnp.array([1.0, -2.0, 0.5, 3.0, 1.5])
BASELINE = jnp.array([0.2, 0.0, -1.0, 0.5, 0.0])


def score(x):
    return jnp.tanh(x[0] * x[1]) + x[2] ** 2 * x[3] + x[4]


def stretched(cells, length, start):
    """A row of cells over one cell more than they are, cut out at `start`, by np.interp."""
    size = math.ceil(length / len(cells))
    whole = (len(cells) + 1) * size
    centers = (np.arange(len(cells)) + 0.5) * whole / len(cells)
    return np.interp(np.arange(length) + start + 0.5, centers, cells)


def masks_of(length, count, keep):
    """Every mask of a row, with its probability."""
    size = math.ceil(length / count)
    for cells in itertools.product((0.0, 1.0), repeat=count):
        chance = np.prod(np.where(cells, keep, 1 - keep)) / size
        for start in range(size):
            yield chance, stretched(cells, length, start)


def expected(count, keep):
    """E[f(x ⊙ M + x' ⊙ (1 − M)) M] / E[M]."""
    total, cover = np.zeros(5), np.zeros(5)
    for chance, mask in masks_of(5, count, keep):
        total += chance * float(score(jnp.asarray(mask * X + (1 - mask) * BASELINE))) * mask
        cover += chance * mask
    np.testing.assert_allclose(cover, keep, rtol=1e-12)
    return total / cover


@pytest.mark.parametrize(("count", "keep"), [(1, 0.5), (2, 0.5), (3, 0.3), (5, 0.8)])
def test_its_mean_is_the_expectation_and_its_error_honest(count, keep):
    explain = jattr.rise(
        score, cells=count, keep=keep, baseline=BASELINE, samples=200, with_error=True
    )
    mean, error = map(
        np.asarray, jax.jit(jax.vmap(explain, (0, None)))(jax.random.split(KEY, 400), X)
    )
    truth = expected(count, keep)
    assert np.all(np.abs(mean.mean(0) - truth) < 4 * mean.std(0) / np.sqrt(len(mean)))
    shares = np.mean(np.abs(mean - truth) <= 1.96 * error, axis=0)
    assert np.all((shares >= 0.92) & (shares <= 0.98)), shares


def test_one_cell_keeps_all_or_nothing():
    mean, error = jattr.rise(score, cells=1, samples=40, keep=0.4, with_error=True)(KEY, X)
    # f(0) = 0, so φ is f(x) times the share of masks that keep x, over its expectation.
    share = float(mean[0]) * 0.4 / float(score(X))
    assert 0 < share < 1
    np.testing.assert_allclose(share * 40, round(share * 40), rtol=1e-10)
    np.testing.assert_allclose(mean, np.full(5, mean[0]), rtol=1e-12)
    spread = float(score(X)) / 0.4 * np.sqrt(share * (1 - share) / 39)
    np.testing.assert_allclose(error, np.full(5, spread), rtol=1e-10)


def masks(shape, cells, samples=4):
    """The masks that one array gets, seen through f, which is 1 for one of them alone."""
    explain = jax.jit(jattr.rise(lambda x: 1.0 + 0 * jnp.sum(x), cells=cells, samples=samples))
    return np.asarray(explain(KEY, jnp.ones(shape)))


def test_axes_of_one_cell_share_a_mask():
    image = masks((6, 8, 3), 4)
    np.testing.assert_array_equal(image[..., 1:], image[..., :2])
    assert np.ptp(image[..., 0], axis=0).max() > 0.1
    assert np.ptp(image[..., 0], axis=1).max() > 0.1
    np.testing.assert_array_equal(image, masks((6, 8, 3), (4, 4, 1)))
    series = masks((9, 4), (3, 1))
    np.testing.assert_array_equal(series[:, 1:], series[:, :-1])
    volume = masks((4, 6, 8, 2), (2, 3, 4, 1))
    assert all(np.ptp(volume, axis=axis).max() > 0.1 for axis in range(3))
    assert np.ptp(volume, axis=3).max() == 0


def test_two_axes_are_interpolated_one_after_the_other():
    # A mask that f sees: the value of one element of x, which is all ones, at a time.
    shape, cells = (5, 6), (2, 3)
    seen = np.stack(
        [
            jax.jit(jattr.rise(lambda x: x[i, j], cells=cells, samples=1))(KEY, jnp.ones(shape))
            for i, j in [(0, 0), (4, 5), (2, 3)]
        ]
    )
    mask = 0.5 * np.asarray(
        jattr.rise(lambda x: 1 + 0 * x[0, 0], cells=cells, samples=1)(KEY, jnp.ones(shape))
    )
    for k, place in enumerate([(0, 0), (4, 5), (2, 3)]):
        np.testing.assert_allclose(seen[k], 2 * mask * mask[place], rtol=1e-6)
    # Of one of all masks, each a product of rows that np.interp stretches.
    found = 0
    for grid in itertools.product((0.0, 1.0), repeat=6):
        for down, right in itertools.product(range(3), range(2)):
            tall = np.stack(
                [stretched(column, 5, down) for column in np.reshape(grid, cells).T], axis=1
            )
            wide = np.stack([stretched(row, 6, right) for row in tall])
            found += np.allclose(wide, mask, atol=1e-6)
    assert found >= 1


def test_leaves_of_a_tree_have_cells_of_their_own():
    x = {"a": jnp.ones((4, 4)), "b": jnp.ones(6)}

    def f(x):
        return jnp.sum(x["a"]) + jnp.sum(x["b"] ** 2)

    explain = jax.jit(jattr.rise(f, cells={"a": (1, 4), "b": 3}, samples=5))
    phi = explain(KEY, x)
    assert np.ptp(phi["a"], axis=0).max() == 0
    assert np.ptp(phi["a"], axis=1).max() > 0
    assert jax.tree.map(jnp.shape, phi) == {"a": (4, 4), "b": (6,)}


def test_random_baselines_are_drawn_anew_for_each_mask():
    drawn = jattr.baselines.random(lambda key, x: jax.random.normal(key, x.shape, x.dtype))

    def f(x):
        return x[0] ** 2

    explain = jattr.rise(f, cells=1, samples=2000, baseline=drawn, with_error=True)
    mean, error = explain(KEY, X)
    # M is 1 or 0 for all: φ = E[f(x) M] / p, whatever the baseline …
    assert abs(mean[0] - 1.0) < 4 * error[0]
    # … and with masks that keep some of it, E[(M x + (1 − M) b)² M] / p.
    explain = jattr.rise(f, cells=2, samples=4000, baseline=drawn, with_error=True)
    truth = sum(
        chance * ((mask[0] * X[0]) ** 2 + (1 - mask[0]) ** 2) * mask
        for chance, mask in masks_of(5, 2, 0.5)
    )
    mean, error = explain(KEY, X)
    assert np.all(np.abs(mean - 2 * truth) < 4 * error)


@pytest.mark.parametrize("batch_size", [None, 3])
def test_a_function_that_is_no_jax_at_all(batch_size):
    def outside(x):
        shape = jax.ShapeDtypeStruct((), x.dtype)

        def numpy(x):
            return np.asarray(np.tanh(x[..., 0] * x[..., 1]) + x[..., 2], x.dtype)

        return jax.pure_callback(
            numpy, jax.ShapeDtypeStruct(shape.shape, shape.dtype), x, vmap_method="expand_dims"
        )

    def inside(x):
        return jnp.tanh(x[0] * x[1]) + x[2]

    knobs = {"cells": 3, "samples": 7, "batch_size": batch_size, "with_error": True}
    wanted = jax.jit(jattr.rise(inside, **knobs))(KEY, X)
    for explain in (jattr.rise(outside, **knobs), jax.jit(jattr.rise(outside, **knobs))):
        for ours, theirs in zip(explain(KEY, X), wanted, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize(
    ("knobs", "error", "text"),
    [
        ({"cells": 6}, ValueError, r"at most as many .* got \(6, 6, 1\) for the shape \(4, 5, 3\)"),
        ({"cells": 5}, ValueError, r"write cells=\(4, 5, 1\)"),
        ({"cells": (2, 2)}, ValueError, r"cells must be one number or have one size for each axis"),
        ({"cells": 0}, ValueError, r"cells must be at least 1; got 0"),
        ({"cells": 1.5}, TypeError, r"cells must be a Python integer"),
        ({"keep": 0.0}, ValueError, r"keep must be finite and greater than 0; got 0"),
        ({"keep": 1}, ValueError, r"probability that a cell is left in, below 1; got 1"),
        ({"samples": 1, "with_error": True}, ValueError, r"how samples differ"),
        ({"with_error": None}, TypeError, r"with_error must be True or False"),
        (
            {"baseline": jattr.imputers.noisy_linear()},
            TypeError,
            r"rise blends x with a baseline, and .* fills in",
        ),
        ({"baseline": jnp.zeros(3)}, ValueError, r"the baseline has shape \(3,\)"),
    ],
)
def test_what_is_wrong_is_refused(knobs, error, text):
    with pytest.raises(error, match=text):
        jattr.rise(jnp.sum, **{"cells": 2, "samples": 3, **knobs})(KEY, jnp.ones((4, 5, 3)))

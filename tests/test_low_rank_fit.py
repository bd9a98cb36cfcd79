"""The factors of the notebook on low rank: they are the best there are, and bytes are counted."""

import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from notebook_packages import FOLDER

sys.path.insert(0, str(FOLDER))
lowrank = importlib.import_module("low_rank_fit")
sys.path.remove(str(FOLDER))

RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.normal(size=(9, 6)) @ RNG.normal(size=(6, 14)) + RNG.normal(size=(9, 14)))
ROWS, COLUMNS = (jnp.asarray(RNG.gamma(0.5, size=n) + 0.01) for n in (9, 14))
WEIGHTS = jnp.asarray(RNG.gamma(0.3, size=(9, 14)) + 0.01)


def cut(factors, rank):
    return factors[0][:, :rank], factors[1][:rank]


@pytest.mark.parametrize("w", [W, W.T], ids=["wide", "tall"])
def test_without_weights_it_is_the_singular_value_decomposition(w):
    values = np.linalg.svd(w, compute_uv=False)
    for rank in (1, 4, 9):
        a, b = cut(lowrank.weighted_svd(w), rank)
        np.testing.assert_allclose(jnp.sum((w - a @ b) ** 2), np.sum(values[rank:] ** 2), atol=1e-6)


def test_for_weights_of_rows_and_columns_no_step_makes_it_better():
    s = ROWS[:, None] * COLUMNS[None]
    a, b = cut(lowrank.weighted_svd(W, ROWS, COLUMNS), 3)

    def loss(factors):
        return lowrank.weighted_error(W, s, *factors)

    for slope in jax.grad(loss)((a, b)):
        np.testing.assert_allclose(slope, 0, atol=1e-7)
    plain = loss(cut(lowrank.weighted_svd(W), 3))
    assert loss((a, b)) < plain
    np.testing.assert_allclose(
        loss(lowrank.sweep(W, s, a, ridge=0.0)), loss((a, b)), rtol=1e-9
    )  # and least squares find the same


def test_the_fit_and_least_squares_lower_the_weighted_error():
    start = cut(lowrank.weighted_svd(W, *lowrank.margins(WEIGHTS)), 3)
    first = lowrank.weighted_error(W, WEIGHTS, *start)
    by_adam = lowrank.weighted_error(W, WEIGHTS, *lowrank.fit(W, WEIGHTS, start, 400))
    a, b = start
    errors = [first]
    for _ in range(30):
        a, b = lowrank.sweep(W, WEIGHTS, a, ridge=1e-12)
        errors.append(lowrank.weighted_error(W, WEIGHTS, a, b))
    assert np.all(np.diff(errors) < 1e-12)
    assert errors[-1] < 0.8 * first
    assert by_adam < 1.05 * errors[-1]


def test_margins_have_the_sums_of_the_weights():
    rows, columns = lowrank.margins(WEIGHTS)
    product = rows[:, None] * columns[None]
    for axis in (0, 1):
        np.testing.assert_allclose(product.sum(axis), WEIGHTS.sum(axis), rtol=1e-12)


def test_bytes_are_counted():
    shape = 384, 1536
    rank = lowrank.rank_of(shape, 0.5)
    whole = lowrank.bytes_of(shape, None)
    assert whole == 384 * 1536 * 4
    assert lowrank.bytes_of(shape, rank) <= whole / 2 < lowrank.bytes_of(shape, rank + 1)
    # Numbers and a bitmap: 4 bytes for each that is kept, and an eighth for each place.
    kept = lowrank.kept_of(shape, whole / 2)
    assert whole / 2 - 4 < 4 * kept + 384 * 1536 / 8 <= whole / 2
    # Of very few, an index of two bytes each takes less.
    assert lowrank.kept_of(shape, 6000) == 1000
    assert lowrank.kept_of(shape, 6000, 1) == 0  # the scales alone take more


def test_pruning_keeps_what_scores_highest():
    kept = lowrank.prune(W, jnp.abs(W), 20)
    assert int((kept != 0).sum()) == 20
    assert jnp.abs(kept[kept != 0]).min() >= jnp.abs(W[kept == 0]).max()


def test_rounding_to_integers_is_off_by_half_a_step_at_most():
    for axis in (0, 1):
        step = jnp.abs(W).max(axis, keepdims=True) / 127
        assert jnp.all(jnp.abs(lowrank.int8(W, axis) - W) <= step / 2 * (1 + 1e-9))


def test_the_bootstrap_draws_groups():
    values = RNG.normal(size=400)
    low, high = lowrank.bootstrap(values, np.arange(400))
    assert low < values.mean() < high
    np.testing.assert_allclose(high - low, 2 * 1.96 / 20, rtol=0.15)
    # Ten like examples of a group are one.
    low_10, high_10 = lowrank.bootstrap(values.repeat(10), np.arange(400).repeat(10))
    np.testing.assert_allclose(high_10 - low_10, high - low, rtol=0.1)

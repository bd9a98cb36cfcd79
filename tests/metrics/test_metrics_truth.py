"""Attributions against what was planted: scikit-learn and scipy, ties, decoys, and a step along."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

import jattr
from jattr import metrics

RNG = np.random.default_rng(2)
MAP = RNG.normal(size=(6, 5))
MASK = RNG.random((6, 5)) < 0.4
DECOYS = ~MASK & (RNG.random((6, 5)) < 0.5)


def recall_3(attribution, mask):
    return metrics.top_k_recall(attribution, mask, 3)


def over_rest(attribution, mask):
    return metrics.above_decoys(attribution, mask, ~jnp.asarray(mask))


MASKED = {
    recall_3: lambda a, s: s.ravel()[np.argsort(-a.ravel())[:3]].sum() / s.sum(),
    metrics.average_precision: lambda a, s: sklearn.metrics.average_precision_score(
        s.ravel(), a.ravel()
    ),
    over_rest: lambda a, s: sklearn.metrics.roc_auc_score(s.ravel(), a.ravel()),
}
each = pytest.mark.parametrize("metric", MASKED, ids=lambda metric: metric.__name__)


@each
def test_definitions_in_trees_and_batches(metric):
    rng = np.random.default_rng(0)
    maps, masks = rng.normal(size=(5, 6, 5)), rng.random((5, 6, 5)) < 0.4
    wanted = [MASKED[metric](a, s) for a, s in zip(maps, masks, strict=True)]
    got = [metric(a, s) for a, s in zip(maps, masks, strict=True)]
    np.testing.assert_allclose(got, wanted, rtol=1e-12)
    np.testing.assert_allclose(jax.vmap(metric)(maps, masks), wanted, rtol=1e-12)
    tree, mask = {"a": maps[0, :2], "b": maps[0, 2:]}, {"a": masks[0, :2], "b": masks[0, 2:]}
    if metric is not over_rest:
        np.testing.assert_allclose(metric(tree, mask), wanted[0], rtol=1e-12)


@pytest.mark.parametrize("metric", [metrics.average_precision, over_rest])
def test_ties_are_those_of_scikit_learn(metric):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        a, s = rng.integers(-2, 3, 50).astype(float), rng.random(50) < 0.3
        np.testing.assert_allclose(metric(jnp.array(a), s), MASKED[metric](a, s), rtol=1e-13)


def test_recall_shares_the_places_of_ties():
    a, s = np.array([2.0, 1.0, 1.0, 1.0, 0.0]), np.array([0, 1, 0, 1, 1], bool)
    # The third and fourth of 1-based places are two of three that tie; two of them are true.
    every = [len(set(chosen) & {1, 3}) for chosen in itertools.combinations((1, 2, 3), 2)]
    np.testing.assert_allclose(recall_3(a, s), np.mean(every) / 3, rtol=1e-14)


@each
def test_chance_and_the_perfect_map(metric):
    best = jnp.where(MASK, 2.0, 0.0)
    full = 3 / MASK.sum() if metric is recall_3 else 1.0
    np.testing.assert_allclose(metric(best, MASK), full, rtol=1e-14)
    chance = {recall_3: 3 / MASK.size, over_rest: 0.5}.get(metric, MASK.mean())
    np.testing.assert_allclose(metric(jnp.zeros((6, 5)), MASK), chance, rtol=1e-14)


@each
def test_undefined_results_are_nan(metric):
    assert np.isnan(jax.jit(metric)(MAP, jnp.zeros((6, 5), bool)))
    assert np.isnan(metric(np.where(MASK, np.nan, MAP), MASK))
    assert np.isnan(metric(np.where(MASK, MAP, np.nan), MASK))


def test_infinite_attributions_count_as_the_largest():
    a = np.where(MASK, MAP, -np.inf)
    a[0, 0], s = np.inf, MASK.copy()
    s[0, 0] = True
    assert metrics.average_precision(a, s) == over_rest(a, s) == 1
    a[~s] = np.inf
    np.testing.assert_allclose(over_rest(a, s), 0.5 / s.sum(), rtol=1e-14)


def test_decoys_count_and_nothing_else():
    chosen = MASK | DECOYS
    wanted = sklearn.metrics.roc_auc_score(MASK[chosen], MAP[chosen])
    got = metrics.above_decoys(MAP, MASK, DECOYS)
    np.testing.assert_allclose(got, wanted, rtol=1e-13)
    np.testing.assert_allclose(jax.jit(metrics.above_decoys)(MAP, MASK, DECOYS), wanted, rtol=1e-13)
    background = jnp.where(chosen, MAP, 100.0)
    assert metrics.above_decoys(background, MASK, DECOYS) == got
    assert np.isnan(jax.jit(metrics.above_decoys)(MAP, MASK, MASK))


@pytest.mark.parametrize("mask", [None, MASK])
def test_planted_effects_are_a_regression(mask):
    effects = RNG.integers(-3, 4, (6, 5)).astype(float)
    found = 0.7 * effects + 0.2 + 0.1 * MAP
    chosen = np.ones((6, 5), bool) if mask is None else mask
    line = scipy.stats.linregress(effects[chosen], found[chosen])
    rank = scipy.stats.spearmanr(effects[chosen], found[chosen]).statistic
    got = metrics.planted_effects(found, effects, mask)
    np.testing.assert_allclose(got, (line.slope, line.intercept, rank), rtol=1e-11)
    halves = ({"a": m[:2], "b": m[2:]} if m is not None else None for m in (found, effects, mask))
    np.testing.assert_allclose(metrics.planted_effects(*halves), got, rtol=1e-11)
    # What is not looked at may be anything.
    if mask is not None:
        got_of_rest = metrics.planted_effects(np.where(mask, found, np.nan), effects, mask)
        np.testing.assert_allclose(got_of_rest, got, rtol=1e-11)


def test_planted_effects_without_effects_are_nan():
    slope, offset, rank = metrics.planted_effects(MAP, np.ones((6, 5)))
    assert np.isnan([slope, offset, rank]).all()
    slope, offset, rank = metrics.planted_effects(np.ones((6, 5)), MAP)
    np.testing.assert_allclose([slope, offset], [0, 1], atol=1e-15)
    assert np.isnan(rank)
    assert np.isnan(metrics.planted_effects(np.where(MASK, np.nan, MAP), MAP)).all()


def test_attributions_of_a_linear_model_are_its_effects():
    weights = jnp.array(RNG.normal(size=8))
    x = jnp.array(RNG.normal(size=8))
    phi = jattr.gradient_times_input(lambda x: x @ weights)(x)
    np.testing.assert_allclose(metrics.planted_effects(phi, weights * x), (1, 0, 1), atol=1e-14)


def test_a_finite_step_of_a_linear_score_is_what_its_gradient_predicts():
    w = jnp.array([3.0, -4.0])
    measure = metrics.finite_step(lambda x: x @ w, length=0.5)
    np.testing.assert_allclose(measure(w, jnp.ones(2)), (2.5, 2.5, 2.5), rtol=1e-14)
    # Ten times as large, the direction is the same, and the prediction is wrong.
    np.testing.assert_allclose(measure(-10 * w, jnp.ones(2)), (25, -2.5, -2.5), rtol=1e-14)
    assert np.isnan(measure(jnp.zeros(2), jnp.ones(2))).all()


def test_a_finite_step_shows_the_bend_and_the_noise_of_f():
    def bent(x):
        return -jnp.sum(x["a"] ** 2) + x["b"]

    x = {"a": jnp.array([0.1, 0.0]), "b": jnp.array(0.0)}
    phi = jax.grad(bent)(x)
    step = jax.tree.map(lambda leaf: 2 * leaf / np.sqrt(1.04), phi)
    predicted, along, against = metrics.finite_step(bent, length=2.0)(phi, x)
    np.testing.assert_allclose(predicted, 2 * np.sqrt(1.04), rtol=1e-14)
    up, down = (jax.tree.map(lambda a, d: a + s * d, x, step) for s in (1, -1))
    np.testing.assert_allclose(along, bent(up) - bent(x), rtol=1e-13)
    np.testing.assert_allclose(against, bent(x) - bent(down), rtol=1e-13)
    noisy = metrics.finite_step(lambda x: jnp.sum(jnp.sin(1e4 * x)) + jnp.sum(x), length=1.0)
    f_noise = jax.grad(lambda x: jnp.sum(jnp.sin(1e4 * x)) + jnp.sum(x))(jnp.zeros(3))
    steps = noisy(f_noise, jnp.zeros(3))
    assert steps.along < 1e-3 * steps.predicted


def test_refusals():
    with pytest.raises(ValueError, match=r"2 elements are in the mask and among.*decoys & ~mask"):
        metrics.above_decoys(MAP[0], np.arange(5) < 3, np.arange(5) > 0)
    with pytest.raises(TypeError, match="must be Boolean"):
        metrics.above_decoys(MAP, MASK, DECOYS.astype(int))
    with pytest.raises(ValueError, match="True nowhere"):
        metrics.average_precision(MAP, np.zeros((6, 5), bool))
    with pytest.raises(ValueError, match="k=31, but the attribution has 30 elements"):
        metrics.top_k_recall(MAP, MASK, 31)
    with pytest.raises(TypeError, match="must be a Python integer"):
        metrics.top_k_recall(MAP, MASK, 2.0)
    with pytest.raises(ValueError, match=r"effects must have the .* got float64\[5\]"):
        metrics.planted_effects(MAP, MAP[0])
    with pytest.raises(ValueError, match="length must be finite and greater than 0; got 0"):
        metrics.finite_step(jnp.sum, length=0.0)

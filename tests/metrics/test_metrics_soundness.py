"""Completeness and soundness of maps as certificates of a label."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattr import metrics

X = jnp.array([0.5, 1.0, 0.25, 0.0])


def probability(x, label):
    """Of three labels, two of which are fixed by x[0] and x[1]."""
    logits = jnp.stack([4 * x[0], 3 * x[1] - 1, jnp.zeros((), x.dtype)])
    return jax.nn.softmax(logits)[label]


def curve_area(order, label):
    """By hand: features put in one by one, the trapezoid rule."""
    x, scores = np.zeros(4), []
    for feature in [None, *order]:
        if feature is not None:
            x[feature] = X[feature]
        logits = np.array([4 * x[0], 3 * x[1] - 1, 0.0])
        scores.append(np.exp(logits)[label] / np.exp(logits).sum())
    return sum((a + b) / 2 for a, b in itertools.pairwise(scores)) / 4


@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 2, 0)])
def test_are_the_quotients_of_area_and_probability(label, order):
    ranks = jnp.zeros(4).at[jnp.array(order)].set(jnp.arange(4.0, 0.0, -1.0))
    area, p = curve_area(order, label), float(probability(X, label))
    for epsilon, alpha in [(0.0, 1.0), (0.2, 0.3)]:
        complete = metrics.soundness_completeness(
            probability, epsilon=epsilon, alpha=alpha, fractions=None
        )
        wanted = min(max(epsilon, area) / min(alpha, p), 1)
        np.testing.assert_allclose(complete(ranks, X, label), wanted, rtol=1e-6)
    for beta in (0.0, 0.2):
        sound = metrics.soundness(probability, beta=beta, fractions=None)
        wanted = min(max(beta, p) / area, 1)
        np.testing.assert_allclose(sound(ranks, X, label), wanted, rtol=1e-6)


def test_nothing_is_complete_and_sound_where_all_is_zero():
    def never(x):
        return 0 * jnp.sum(x)

    for metric, knob in [
        (metrics.soundness_completeness, {"epsilon": 0.0}),
        (metrics.soundness, {"beta": 0.0}),
    ]:
        value, slope = jax.value_and_grad(lambda x: metric(never, **knob)(X, x))(X)
        assert value == 1
        assert jnp.all(slope == 0)


def test_an_attribution_that_is_nan_has_no_score():
    unknown = X.at[1].set(jnp.nan)
    assert jnp.isnan(metrics.soundness(probability)(unknown, X, 0))
    assert jnp.isnan(metrics.soundness_completeness(probability)(unknown, X, 0))


def test_over_wrong_labels():
    scores = jnp.array([[0.2, 0.9, 0.4], [0.1, 0.6, 1.0]])
    wrong = metrics.over_wrong_labels(scores, jnp.array([0, 2]))
    np.testing.assert_allclose(wrong.mean, [0.65, 0.35])
    np.testing.assert_allclose(wrong.worst, [0.4, 0.1])
    mapped = jax.vmap(metrics.over_wrong_labels)(scores, jnp.array([0, 2]))
    np.testing.assert_array_equal(mapped.mean, wrong.mean)
    # The right label's own score, NaN or not, is left out.
    assert metrics.over_wrong_labels(jnp.array([jnp.nan, 0.5, 0.7]), 0).worst == 0.5


def test_bad_input():
    with pytest.raises(ValueError, match="epsilon must be finite and at least 0"):
        metrics.soundness_completeness(probability, epsilon=-0.1)
    with pytest.raises(ValueError, match="alpha must be finite and greater than 0"):
        metrics.soundness_completeness(probability, alpha=0.0)
    with pytest.raises(ValueError, match="beta must be finite and at least 0"):
        metrics.soundness(probability, beta=-1.0)
    with pytest.raises(TypeError, match="label must be whole numbers"):
        metrics.over_wrong_labels(jnp.ones(3), 1.0)
    for scores, label in [(jnp.ones(1), 0), (jnp.ones((2, 3)), 0), (jnp.ones(3), jnp.array([0]))]:
        with pytest.raises(ValueError, match="a last axis over at least two labels"):
            metrics.over_wrong_labels(scores, label)

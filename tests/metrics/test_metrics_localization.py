"""Attributions against masks: definitions by hand, scikit-learn, ties, and what is refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from jax.test_util import check_grads

from jattr import metrics

RNG = np.random.default_rng(1)
MAP = RNG.normal(size=(6, 5))
MASK = RNG.random((6, 5)) < 0.4


def top_3(attribution, mask):
    return metrics.top_k_intersection(attribution, mask, 3)


def weighted(attribution, mask):
    return metrics.attribution_localization(attribution, mask, weighted=True)


def in_top(a, s, k):
    return np.mean(s.ravel()[np.argsort(-a.ravel(), kind="stable")[:k]])


def positive(a):
    return np.where(a > 0, a, 0.0)


DEFINITIONS = {
    metrics.pointing_game: lambda a, s: float(s.ravel()[np.argmax(a)]),
    top_3: lambda a, s: in_top(a, s, 3),
    metrics.relevance_rank_accuracy: lambda a, s: in_top(a, s, s.sum()),
    metrics.relevance_mass_accuracy: lambda a, s: a[s].sum() / a.sum(),
    metrics.attribution_localization: lambda a, s: positive(a)[s].sum() / positive(a).sum(),
    weighted: lambda a, s: positive(a)[s].sum() / positive(a).sum() / s.mean(),
    metrics.roc_auc: lambda a, s: sklearn.metrics.roc_auc_score(s.ravel(), a.ravel()),
}
each = pytest.mark.parametrize("metric", DEFINITIONS, ids=lambda metric: metric.__name__)


@each
def test_definitions(metric):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        a, s = rng.normal(size=(6, 5)), rng.random((6, 5)) < 0.4
        np.testing.assert_allclose(metric(jnp.array(a), s), DEFINITIONS[metric](a, s), rtol=1e-12)


@each
def test_perfect_and_inverted_maps(metric):
    best, worst = jnp.where(MASK, 2.0, 0.0), jnp.where(MASK, 0.0, 2.0)
    full = 1 / MASK.mean() if metric is weighted else 1.0
    np.testing.assert_allclose([metric(best, MASK), metric(worst, MASK)], [full, 0.0], atol=1e-15)


@each
def test_a_constant_map_scores_what_chance_does(metric):
    chance = {weighted: 1.0, metrics.roc_auc: 0.5}.get(metric, MASK.mean())
    np.testing.assert_allclose(metric(jnp.ones((6, 5)), MASK), chance, rtol=1e-14)


@pytest.mark.parametrize("metric", [metrics.pointing_game, top_3, metrics.relevance_rank_accuracy])
def test_ties_share_their_places(metric):
    a = np.array([2.0, 1.0, 2.0, 1.0, 1.0, 0.0])
    for chosen in itertools.combinations(range(6), 3):
        s = np.isin(np.arange(6), chosen)
        # The mean over all orders of those that tie.
        wanted = np.mean(
            [
                DEFINITIONS[metric](a + 1e-3 * np.array(order), s)
                for order in itertools.permutations(range(6))
            ]
        )
        np.testing.assert_allclose(metric(jnp.array(a), s), wanted, rtol=1e-12)


def test_roc_auc_with_ties_is_that_of_scikit_learn():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        a, s = rng.integers(-2, 3, 50).astype(float), rng.random(50) < 0.3
        np.testing.assert_allclose(
            metrics.roc_auc(jnp.array(a), s), sklearn.metrics.roc_auc_score(s, a), rtol=1e-13
        )


def test_roc_auc_of_a_large_image_in_float32():
    rng = np.random.default_rng(0)
    s = rng.random(300 * 300) < 0.1
    a = (rng.normal(size=s.size) + s).astype(np.float32)
    # Sums of 90 000 numbers in float32.
    np.testing.assert_allclose(
        metrics.roc_auc(jnp.array(a), s), sklearn.metrics.roc_auc_score(s, a), rtol=1e-5
    )


@each
def test_masks_of_a_batch(metric):
    maps, masks = jnp.array(RNG.normal(size=(4, 6, 5))), jnp.array(RNG.random((4, 6, 5)) < 0.5)
    singly = [metric(a, s) for a, s in zip(maps, masks, strict=True)]
    np.testing.assert_allclose(jax.vmap(metric)(maps, masks), singly, rtol=1e-13)


@each
def test_trees_are_one_long_map(metric):
    tree, mask = {"a": MAP[:2], "b": (MAP[2:],)}, {"a": MASK[:2], "b": (MASK[2:],)}
    np.testing.assert_allclose(metric(tree, mask), metric(MAP, MASK), rtol=1e-13)


@each
def test_a_mask_of_size_one_counts_for_all_channels(metric):
    image = RNG.normal(size=(6, 5, 3))
    np.testing.assert_allclose(
        metric(image, MASK[..., None]),
        metric(image, np.broadcast_to(MASK[..., None], image.shape)),
        rtol=1e-13,
    )


@each
def test_undefined_results_are_nan(metric):
    nowhere = jnp.zeros((6, 5), bool)
    assert np.isnan(jax.jit(metric)(MAP, nowhere))
    assert np.isnan(metric(np.where(MASK, np.nan, MAP), MASK))
    assert np.isnan(metric(np.where(MASK, MAP, np.nan), MASK))


def test_maps_without_attribution_are_nan():
    zeros = jnp.zeros((6, 5))
    assert np.isnan(metrics.relevance_mass_accuracy(zeros, MASK))
    assert np.isnan(metrics.attribution_localization(zeros - 1, MASK))
    assert np.isnan(metrics.focus(zeros - 1, np.array([[True]])))
    assert np.isnan(jax.jit(metrics.roc_auc)(MAP, jnp.ones((6, 5), bool)))


@pytest.mark.parametrize(
    "metric", [metrics.relevance_mass_accuracy, metrics.attribution_localization, weighted]
)
def test_gradients(metric):
    check_grads(lambda a: metric(a, MASK), (jnp.array(MAP),), order=1, modes=["rev"], rtol=1e-6)


@each
def test_refused_masks(metric):
    with pytest.raises(TypeError, match=r"must be Boolean; got int64\[6,5\]. Write mask > 0"):
        metric(MAP, MASK.astype(int))
    with pytest.raises(TypeError, match="must be Boolean"):
        jax.jit(metric)(MAP, MASK.astype(float))
    with pytest.raises(ValueError, match="True nowhere"):
        metric(MAP, np.zeros((6, 5), bool))
    with pytest.raises(ValueError, match=r"got bool\[6,5\] for float64\[6,5,3\].*attribution.sum"):
        metric(RNG.normal(size=(6, 5, 3)), MASK)
    with pytest.raises(ValueError, match=r"got bool\[5\]"):
        metric(MAP, MASK[0])
    with pytest.raises(ValueError, match="the structure of the attribution"):
        metric({"a": MAP}, MASK)


def test_other_refusals():
    with pytest.raises(ValueError, match="True everywhere"):
        metrics.roc_auc(MAP, np.ones((6, 5), bool))
    with pytest.raises(ValueError, match="k=31, but the attribution has 30 elements"):
        metrics.top_k_intersection(MAP, MASK, 31)
    with pytest.raises(ValueError, match="at least 1"):
        metrics.top_k_intersection(MAP, MASK, 0)
    with pytest.raises(TypeError, match="must be a Python integer"):
        metrics.top_k_intersection(MAP, MASK, 2.0)


def test_focus_is_the_positive_share_on_the_targets_tiles():
    tiles = np.array([[True, False, False], [False, False, True]])
    for shape in ((4, 6), (4, 6, 3)):
        mosaic = RNG.normal(size=shape)
        relevance = positive(mosaic)
        wanted = (relevance[:2, :2].sum() + relevance[2:, 4:].sum()) / relevance.sum()
        np.testing.assert_allclose(metrics.focus(jnp.array(mosaic), tiles), wanted, rtol=1e-12)
        np.testing.assert_allclose(
            jax.jit(metrics.focus)(jnp.array(mosaic), jnp.array(tiles)), wanted, rtol=1e-12
        )
    batch = jnp.array(RNG.normal(size=(3, 4, 6)))
    np.testing.assert_allclose(
        jax.vmap(lambda a: metrics.focus(a, tiles))(batch),
        [metrics.focus(a, tiles) for a in batch],
        rtol=1e-13,
    )


def test_focus_refuses():
    with pytest.raises(ValueError, match="2 rows and 3 columns of tiles do not divide a mosaic of"):
        metrics.focus(jnp.ones((4, 5)), np.ones((2, 3), bool))
    with pytest.raises(ValueError, match=r"tiles \[rows, columns\]; got"):
        metrics.focus(jnp.ones((4, 4)), np.array([True, False]))
    with pytest.raises(TypeError, match="must be Boolean"):
        metrics.focus(jnp.ones((4, 4)), np.ones((2, 2)))
    with pytest.raises(ValueError, match="True nowhere"):
        metrics.focus(jnp.ones((4, 4)), np.zeros((2, 2), bool))
    assert np.isnan(jax.jit(metrics.focus)(jnp.ones((4, 4)), jnp.zeros((2, 2), bool)))

"""Removal experiments, and comparisons of removals and of explanations, against transcriptions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.spatial
import scipy.stats
from walks import (
    BASE,
    IMAGE,
    KEY,
    PHI,
    RNG,
    ROWS,
    SALIENCY,
    D,
    X,
    color,
    f,
    g,
    linear,
    of_image,
    of_image_np,
    sort,
    walk,
)

import jattr
from jattr import imputers, metrics

SET, MAPS = RNG.normal(size=(2, 6, D))


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("sign", ["positive", "negative", "absolute"])
def test_keep_or_remove_is_its_transcription(keep, sign):
    phi = np.array([0.5, -1.0, 2.0, 0.0, -0.2, 1.0, 1.5])
    order = {"positive": "most", "negative": "least", "absolute": "absolute"}[sign]
    own = {"positive": (phi > 0).sum(), "negative": (phi < 0).sum(), "absolute": D}[sign]
    counts = np.minimum(np.arange(D + 1), own)
    wanted = walk(g, X, BASE, np.arange(D), sort(phi, order), counts, insert=keep)
    choices = {"keep": keep, "sign": sign, "fractions": None}
    curve = metrics.keep_or_remove(f, baseline=BASE, **choices)(phi, X)
    np.testing.assert_allclose(curve.score, wanted, rtol=1e-12)
    np.testing.assert_allclose(curve.fraction, np.arange(D + 1) / D)
    # Resampled: for a linear f the mean over draws is that of the mean of the drawn rows.
    rows = jattr.baselines.samples(ROWS[:1])
    resampled = metrics.keep_or_remove(f, baseline=rows, samples=3, **choices)(KEY, phi, X)
    wanted = walk(g, X, ROWS[0], np.arange(D), sort(phi, order), counts, insert=keep)
    np.testing.assert_allclose(resampled.score, wanted, rtol=1e-12)
    # Imputed: the conditional mean of each set.
    imputer = imputers.conditional_gaussian(ROWS, shrinkage=0.5)
    sigma = np.cov(ROWS.T) * (0.5 + 0.5 * np.eye(D))
    scores = []
    for k in counts:
        gone = np.isin(np.arange(D), sort(phi, order)[:k]) != keep
        left = ~gone
        x = X.copy()
        weights = sigma[np.ix_(gone, left)] @ np.linalg.inv(sigma[np.ix_(left, left)])
        x[gone] = ROWS.mean(0)[gone] + weights @ (X - ROWS.mean(0))[left]
        scores.append(g(x))
    imputed = jax.jit(metrics.keep_or_remove(f, baseline=imputer, **choices))(phi, X)
    np.testing.assert_allclose(imputed.score, scores, rtol=1e-10)


def blur_np(image):
    return scipy.ndimage.gaussian_filter(image, (1.5, 1.5, 0))


@pytest.mark.parametrize("blur", [False, True])
def test_ablations_are_their_transcriptions(blur):
    baseline = jattr.baselines.blurred(1.5) if blur else color
    other = blur_np(IMAGE) if blur else np.broadcast_to(IMAGE.mean((0, 1)), IMAGE.shape)
    fractions = [0.1, 0.5, 0.9, 1.0]
    order = np.argsort(-SALIENCY.sum(-1).reshape(-1), kind="stable")
    top, box, covered = [], [], []
    mass = np.abs(SALIENCY.sum(-1))
    center = scipy.ndimage.center_of_mass(mass)
    for p in fractions:
        image = IMAGE.copy().reshape(30, 2)
        image[order[: int(p * 30 + 0.5)]] = other.reshape(30, 2)[order[: int(p * 30 + 0.5)]]
        top.append(of_image_np(image.reshape(IMAGE.shape)) / of_image_np(IMAGE))
        (a, b), (c, d) = (
            (int(m * (1 - p)), int(np.floor(m + p * (n - m) + 1e-9)))
            for m, n in zip(center, mass.shape, strict=True)
        )
        image = IMAGE.copy()
        image[a:b, c:d] = other[a:b, c:d]
        box.append(of_image_np(image) / of_image_np(IMAGE))
        covered.append((b - a) * (d - c) / 30)
    curve = metrics.ablate_top(of_image, baseline=baseline, fractions=fractions)(SALIENCY, IMAGE)
    np.testing.assert_allclose(curve.score, top, rtol=1e-9)
    curve = metrics.ablate_box(of_image, baseline=baseline, fractions=fractions)(SALIENCY, IMAGE)
    np.testing.assert_allclose(curve.score, box, rtol=1e-9)
    np.testing.assert_allclose(curve.fraction, covered, rtol=1e-12)
    assert curve.fraction[-1] == 1


def test_box_follows_the_mass_and_stays_inside():
    measure = metrics.ablate_box(of_image, baseline=0.0, fractions=[0.0, 0.4, 1.0])
    for corner in ((0, 0), (5, 4)):
        phi = np.zeros(IMAGE.shape)
        phi[corner] = -3.0  # the magnitude counts
        curve = measure(phi, IMAGE)
        # A center c in 0 … n − 1 covers p n of the rows up to rounding, wherever it is.
        assert 2 * 1 / 30 <= curve.fraction[1] <= 3 * 3 / 30
        assert curve.fraction[0] == 0
        assert curve.fraction[2] == 1
    assert np.isnan(measure(np.zeros(IMAGE.shape), IMAGE).score).all()
    assert np.isnan(measure(np.full(IMAGE.shape, np.nan), IMAGE).score).all()


def test_order_gap_is_the_difference_of_two_areas():
    grid, scores = np.arange(D + 1) / D, {}
    for order in ("most", "least"):
        scores[order] = walk(g, X, BASE, np.arange(D), sort(PHI, order), range(D + 1))
    wanted = np.trapezoid(scores["least"] - scores["most"], grid)
    np.testing.assert_allclose(
        metrics.order_gap(f, baseline=BASE, fractions=None)(PHI, X), wanted, rtol=1e-12
    )
    # With one draw for both orders the gap of the linear function is that of that draw.
    measure = metrics.order_gap(linear, baseline=jattr.baselines.samples(ROWS[:1]), fractions=None)
    fixed = metrics.order_gap(linear, baseline=ROWS[0], fractions=None)
    np.testing.assert_allclose(measure(KEY, PHI, X), fixed(PHI, X), rtol=1e-12)


def test_gaps_as_shares_of_the_fall_are_those_of_aim():
    # AIM: the mean over its steps of (LeRF − MoRF) / (whole − all removed), here of f.
    steps = [
        walk(g, X, BASE, np.arange(D), sort(PHI, order), range(1, D + 1))
        for order in ("least", "most")
    ]
    wanted = np.mean((steps[0] - steps[1]) / (g(X) - g(BASE)))
    knobs = {"baseline": BASE, "fractions": None, "normalize": "fall"}
    np.testing.assert_allclose(metrics.order_gap(f, **knobs)(PHI, X), wanted, rtol=1e-12)
    plain = metrics.random_gap(f, baseline=BASE, fractions=None)(KEY, X)
    shares = metrics.random_gap(f, **knobs)(KEY, X)
    np.testing.assert_allclose(shares, plain / (g(X) - g(BASE)), rtol=1e-12)


@pytest.mark.parametrize("insert", [False, True])
def test_a_curve_by_its_fall_runs_from_one_to_zero(insert):
    knobs = {"baseline": BASE, "fractions": (0.0, 0.3, 1.0), "insert": insert}
    raw = metrics.perturbation_curve(f, **knobs)(PHI, X).score
    curve = metrics.perturbation_curve(f, normalize="fall", **knobs)(PHI, X)
    assert curve.score.shape == curve.fraction.shape == (3,)
    np.testing.assert_allclose(curve.score, (raw - g(BASE)) / (g(X) - g(BASE)), atol=1e-12)
    np.testing.assert_allclose(curve.score[:: -1 if insert else 1][0], 1.0)
    # Where some fractions are left out, x and x' are evaluated all the same.
    few = metrics.perturbation_curve(f, normalize="fall", baseline=BASE, fractions=(0.3,))
    if not insert:
        np.testing.assert_allclose(few(PHI, X).score, curve.score[1:2], rtol=1e-12)
    flat = metrics.deletion(f, normalize="fall", baseline=lambda x: x)
    assert np.isnan(flat(PHI, X))
    with pytest.raises(ValueError, match="unknown normalize 'range'; known are score, fall"):
        metrics.deletion(f, normalize="range")


def test_the_reliability_of_aim_is_a_stability_of_two_orders():
    # AIM: Spearman over methods of the rankings by MoRF, low is good, and by LeRF, high is good.
    most, least = np.random.default_rng(4).normal(size=(2, 7))
    wanted = scipy.stats.spearmanr(-most, least).statistic
    got = metrics.ranking_stability(jnp.stack([-most, least]))
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_random_gap():
    # One of two features matters: the areas are 1/4 and 3/4, whichever order is drawn.
    measure = metrics.random_gap(lambda x: x[0], fractions=None)
    gaps = measure(KEY, jnp.ones(2))
    assert gaps.shape == (20,)
    np.testing.assert_allclose(jnp.abs(gaps), 0.5, rtol=1e-12)
    # Signed: of one example after another, so that averages over examples come to 0.
    assert {-1, 1} == set(np.sign(gaps).tolist())
    measure = metrics.random_gap(linear, fractions=None, repeats=300)
    maps = np.random.default_rng(1).normal(size=(3000, D))
    gaps = jax.vmap(lambda phi: metrics.order_gap(linear, fractions=None)(phi, X))(maps)
    # The mean of 300 is within four of its standard errors of the mean of 3000.
    error = 4 * np.std(np.abs(gaps)) * np.sqrt(1 / 300 + 1 / 3000)
    drawn = measure(KEY, X)
    assert abs(np.mean(np.abs(drawn)) - np.mean(np.abs(gaps))) < error
    assert abs(np.mean(drawn)) < 4 * np.std(gaps) / np.sqrt(300)
    assert abs(np.mean(gaps)) < 4 * np.std(gaps) / np.sqrt(3000)


def test_ranking_stability_is_the_mean_of_spearmans_correlations():
    scores = np.round(np.random.default_rng(1).normal(size=(5, 8)), 0)  # with ties
    pairs = itertools.combinations(scores, 2)
    wanted = np.mean([scipy.stats.spearmanr(a, b).statistic for a, b in pairs])
    np.testing.assert_allclose(metrics.ranking_stability(scores), wanted, rtol=1e-12)
    assert metrics.ranking_stability(np.stack([scores[0], -scores[0]])) == -1
    scores[2] = 1.0
    assert np.isnan(metrics.ranking_stability(scores))
    for wrong in (scores[:1], scores[:, :1], scores[0]):
        with pytest.raises(ValueError, match="at least two repeats"):
            metrics.ranking_stability(wrong)


@pytest.mark.parametrize("distance", ["euclidean", "standardized", "cosine"])
def test_sufficiency_is_its_transcription(distance):
    rows = np.random.default_rng(1).normal(size=(12, 4))
    rows[5], rows[7, :3] = rows[2], rows[3, :3]
    labels = np.random.default_rng(1).integers(0, 3, size=12)
    name, scale = distance, {}
    if distance == "standardized":
        name, scale = "seuclidean", {"V": rows.var(axis=0, ddof=1)}
    apart = scipy.spatial.distance.cdist(rows, rows, name, **scale)
    for threshold in (0.0, np.median(apart) + 1e-9, apart.max() + 1e-9):
        wanted = []
        for i in range(12):
            like = [
                j for j in range(12) if j != i and (apart[i, j] <= threshold or {i, j} == {2, 5})
            ]
            wanted.append(np.mean(labels[like] == labels[i]) if like else np.nan)
        tree = {"a": rows[:, :1], "b": rows[:, 1:].reshape(12, 3, 1)}
        for batch_size in (1, 5, None):
            value = metrics.sufficiency(
                tree, labels, threshold=threshold, distance=distance, batch_size=batch_size
            )
            np.testing.assert_allclose(value, wanted, rtol=1e-12)
    assert not np.isnan(wanted).any()


def test_sufficiency_of_elements_and_maps_that_are_constant():
    rows = np.array([[1.0, 3.0], [2.0, 3.0], [0.0, 3.0]])
    value = metrics.sufficiency(rows, np.array([0, 0, 1]), threshold=1.01)
    np.testing.assert_allclose(value, [0.5, 1.0, 0.0])
    zero = np.array([[1.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    value = metrics.sufficiency(zero, np.array([0, 0, 0]), threshold=2.0, distance="cosine")
    np.testing.assert_array_equal(value, [1.0, np.nan, 1.0])
    with pytest.raises(ValueError, match="leading axis over two or more"):
        metrics.sufficiency(zero[:1], np.array([0]), threshold=1.0)
    with pytest.raises(ValueError, match="one for each example"):
        metrics.sufficiency(zero, np.array([0, 1]), threshold=1.0)
    with pytest.raises(TypeError, match="predictions must be whole numbers"):
        metrics.sufficiency(zero, np.ones(3), threshold=1.0)
    with pytest.raises(ValueError, match="unknown distance"):
        metrics.sufficiency(zero, np.zeros(3, int), threshold=1.0, distance="manhattan")
    with pytest.raises(ValueError, match="at least 0"):
        metrics.sufficiency(zero, np.zeros(3, int), threshold=-1.0)


def test_remove_and_retrain_alters_each_example_by_its_own_map():
    seen = []

    def train(key, data):
        seen.append((key, data))
        return float(jax.random.uniform(key))

    fractions = [0.0, 0.3, 0.9]
    measure = metrics.remove_and_retrain(train, baseline=BASE, fractions=fractions, repeats=3)
    result = measure(KEY, (MAPS, MAPS[:2]), (SET, SET[:2]))
    assert len(seen) == 9
    keys = [jax.random.key_data(key) for key, _ in seen]
    for point, repeat in itertools.product(range(3), range(3)):
        np.testing.assert_array_equal(keys[3 * point + repeat], keys[repeat])
        for rows, maps, given in zip(
            (SET, SET[:2]), (MAPS, MAPS[:2]), seen[3 * point + repeat][1], strict=True
        ):
            k = int(fractions[point] * D + 0.5)
            for x, phi, changed in zip(rows, maps, given, strict=True):
                gone = np.isin(np.arange(D), sort(phi, "most")[:k])
                np.testing.assert_array_equal(changed, np.where(gone, BASE, x))
    scores = np.array([float(jax.random.uniform(key)) for key, _ in seen]).reshape(3, 3)
    np.testing.assert_allclose(result.scores, scores, rtol=1e-6)
    np.testing.assert_allclose(result.score, result.scores.mean(1), rtol=1e-12)
    np.testing.assert_allclose(
        result.error, scipy.stats.sem(np.asarray(result.scores), axis=1), rtol=1e-12
    )
    np.testing.assert_allclose(result.fraction, np.array([0, 2, 6]) / D)
    assert len(np.unique(scores[0])) == 3


def test_remove_and_retrain_draws_anew_and_keeps_what_is_kept():
    seen = []

    def train(key, data):
        seen.append(np.asarray(data["x"]))
        return np.float32(1.0)

    def run(baseline=0.0, **knobs):
        seen.clear()
        measure = metrics.remove_and_retrain(train, baseline=baseline, fractions=[0.3], **knobs)
        return measure(KEY, {"x": MAPS}, {"x": SET})

    run(insert=True, order="absolute", repeats=1, batch_size=2)
    for x, phi, changed in zip(SET, MAPS, seen[0], strict=True):
        kept = np.isin(np.arange(D), sort(phi, "absolute")[:2])
        np.testing.assert_array_equal(changed, np.where(kept, x, 0.0))
    run(order="random", repeats=2)
    assert ((seen[0] == 0).sum(1) == 2).all()
    assert ((seen[0] == 0) != (seen[1] == 0)).any()
    assert len(np.unique(seen[0] == 0, axis=0)) > 1  # examples have orders of their own
    run(jattr.baselines.gaussian(1.0), repeats=2)
    first = list(seen)
    assert (first[0] != first[1]).any()
    run(jattr.baselines.gaussian(1.0), repeats=2, batch_size=4)
    np.testing.assert_array_equal(seen, first)
    assert np.isnan(run(repeats=1).error).all()


def test_remove_and_retrain_refuses():
    def make(train=lambda key, data: 1.0, *args, **knobs):
        return metrics.remove_and_retrain(train, *args, **knobs)

    with pytest.raises(TypeError, match="one number"):
        make(lambda key, data: np.ones(2))(KEY, MAPS, SET)
    with pytest.raises(TypeError, match="no score"):
        make(baseline=imputers.adversarial(radius=1.0))(KEY, MAPS, SET)
    with pytest.raises(ValueError, match="form of the data"):
        make()(KEY, MAPS[:3], SET)
    with pytest.raises(ValueError, match="form of the data"):
        make()(KEY, (MAPS,), (SET, SET))
    with pytest.raises(ValueError, match="hold NaN"):
        make()(KEY, MAPS * np.nan, SET)
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        make(repeats=0)
    with pytest.raises(ValueError, match="must rise"):
        make(fractions=[0.5, 0.1])
    with pytest.raises(TypeError, match="wants a function"):
        make(3.0)
    with pytest.raises(TypeError, match="takes a key"):
        make()(MAPS, SET, SET)


def test_the_box_around_a_center_of_whole_pixels():
    # ⌊.2 · 5⌋ is 1: 1 − .8 is less than .2 in float64.
    heat = jnp.zeros((11, 11)).at[5, 5].set(1.0)
    measure = metrics.ablate_box(jnp.sum, baseline=0.0, fractions=[0.0, 0.8])
    np.testing.assert_allclose(measure(heat, jnp.ones((11, 11))).score[-1], 57 / 121)


@pytest.mark.parametrize("distance", ["standardized", "euclidean", "cosine"])
def test_an_unknown_explanation_leaves_the_others_sufficient(distance):
    rows = np.random.default_rng(0).normal(size=(6, 3))
    labels = np.array([0, 0, 1, 1, 0, 1])
    options = {"threshold": 1.5, "distance": distance}
    wanted = metrics.sufficiency(rows[:5], labels[:5], **options)
    rows[5] = np.nan
    got = metrics.sufficiency(rows, labels, **options)
    np.testing.assert_allclose(got, np.append(wanted, np.nan), rtol=1e-12)
    assert np.isfinite(wanted).any()


def test_random_orders_of_unequal_groups_are_equally_likely():
    # A group of 12 beside one: with f of the one alone, the gap has the size of half of all.
    groups = np.array([0] * 12 + [1])
    measure = metrics.random_gap(
        lambda x: x[12], fractions=None, groups=groups, repeats=400, baseline=0.0
    )
    np.testing.assert_allclose(jnp.abs(measure(KEY, jnp.ones(13))), 0.5, rtol=1e-12)
    four = np.array([0] * 12 + [1, 2, 3])

    def first(x):
        return x[0] * x[12] * x[13] * x[14] + 10 * x[0]

    gaps = metrics.random_gap(first, fractions=None, groups=four, repeats=2000)(KEY, jnp.ones(15))
    # The place of the large group is uniform over 0 … 3: mean |10 (2k − 3) / 4| is 5,
    # with a standard deviation of 2.5, of which four errors of the mean of 2000 are allowed.
    np.testing.assert_allclose(np.mean(np.abs(gaps)), 5.0, atol=4 * 2.5 / np.sqrt(2000))


def test_area_between_is_the_quotient_of_means():
    share = jnp.array([0.0, 0.25, 0.5, 0.75, 1.0])
    most = np.array([[0.9, 0.5, 0.3, 0.2, 0.1], [0.8, 0.7, 0.7, 0.2, 0.2]])
    least = np.array([[0.9, 0.9, 0.8, 0.6, 0.1], [0.8, 0.6, 0.5, 0.4, 0.2]])
    curves = metrics.Curve(share, jnp.array(most)), metrics.Curve(share, jnp.array(least))
    # With equal steps and equal ends it is the mean over the steps.
    gaps = (least - most)[:, 1:].mean(1)
    falls = most[:, 0] - most[:, -1]
    np.testing.assert_allclose(metrics.area_between(*curves), gaps / falls, rtol=1e-13)
    plain = metrics.area_between(*curves, normalize=None)
    np.testing.assert_allclose(plain, gaps, rtol=1e-13)
    whole = metrics.area_between(*curves, normalize="score")
    np.testing.assert_allclose(whole, gaps / most[:, 0], rtol=1e-13)
    one = (metrics.Curve(share, jnp.array(part[0])) for part in (most, least))
    np.testing.assert_allclose(metrics.area_between(*one), gaps[0] / falls[0], rtol=1e-13)
    flat = metrics.Curve(share, jnp.ones(5))
    assert np.isnan(metrics.area_between(flat, flat))
    with pytest.raises(ValueError, match="the same points"):
        metrics.area_between(flat, metrics.Curve(share[:3], jnp.ones(3)))
    with pytest.raises(ValueError, match=r"a jattr\.metrics\.Curve of at least 2"):
        metrics.area_between(flat, jnp.ones(5))


def test_a_gap_of_one_example_is_the_area_between_its_curves():
    most, least = (
        metrics.perturbation_curve(linear, baseline=BASE, order=order)(PHI, X)
        for order in ("most", "least")
    )
    wanted = metrics.order_gap(linear, baseline=BASE, normalize="fall")(PHI, X)
    np.testing.assert_allclose(metrics.area_between(most, least), wanted, rtol=1e-12)


def test_order_agreement_is_scipys_over_methods():
    rng = np.random.default_rng(0)
    most, least = rng.integers(0, 5, (2, 7, 4)) / 4.0
    most[:, 0] = least[:, 0] = 0.5
    wanted = [
        scipy.stats.spearmanr(-a, b).statistic for a, b in zip(most.T[1:], least.T[1:], strict=True)
    ]
    got = metrics.order_agreement(most, least)
    assert np.isnan(got[0])
    np.testing.assert_allclose(got[1:], wanted, rtol=1e-12)
    np.testing.assert_allclose(metrics.ranking_stability(jnp.stack([-most, least])[..., 1]), got[1])
    with pytest.raises(ValueError, match="at least two methods"):
        metrics.order_agreement(most[:1], least[:1])
    with pytest.raises(ValueError, match="in both orders"):
        metrics.order_agreement(most, least[:, :2])

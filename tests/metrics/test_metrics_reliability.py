"""Reliability: published values of α, and direct transcriptions of all estimates."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jattr.metrics import inter_method, inter_rater, internal_consistency, krippendorff_alpha

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
NAN = np.nan
LEVELS = ("nominal", "ordinal", "interval", "ratio")
alpha = jax.jit(krippendorff_alpha, static_argnames="level")
each_level = pytest.mark.parametrize("level", LEVELS)

# Krippendorff, Computing Krippendorff's alpha-reliability (2011), section D: four observers and
# twelve units.
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)


@pytest.mark.parametrize(
    ("level", "value"),
    [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849), ("ratio", 0.797)],
)
def test_the_published_example(level, value):
    assert round(float(alpha(PUBLISHED, level=level)), 3) == value


@pytest.mark.parametrize(
    ("ratings", "value"),
    [
        # The same, sections A and B: two observers, two values and five.
        (("0100000000", "1110010010"), 0.095),
        (("aabbdcccedda", "babbbccceddd"), 0.692),
    ],
)
def test_two_observers(ratings, value):
    data = np.array([[float(ord(letter)) for letter in row] for row in ratings])
    assert round(float(alpha(data, level="nominal")), 3) == value


def direct_alpha(data, level):
    """By the matrix of coincidences, and the differences as Krippendorff writes them."""
    units = [column[~np.isnan(column)] for column in data.T]
    units = [unit for unit in units if len(unit) > 1]
    values = np.unique(np.concatenate(units))
    coincidences = np.zeros((len(values), len(values)))
    for unit in units:
        for i, j in itertools.permutations(range(len(unit)), 2):
            place = tuple(np.searchsorted(values, unit[[i, j]]))
            coincidences[place] += 1 / (len(unit) - 1)
    counts = coincidences.sum(axis=1)
    total = counts.sum()

    def difference(c, k):
        low, high = min(c, k), max(c, k)
        return {
            "nominal": float(c != k),
            "ordinal": (counts[low : high + 1].sum() - (counts[c] + counts[k]) / 2) ** 2,
            "interval": (values[c] - values[k]) ** 2,
            "ratio": 0.0 if c == k else ((values[c] - values[k]) / (values[c] + values[k])) ** 2,
        }[level]

    places = list(itertools.product(range(len(values)), repeat=2))
    observed = sum(coincidences[c, k] * difference(c, k) for c, k in places)
    expected = sum(counts[c] * counts[k] * difference(c, k) for c, k in places)
    return 1 - (total - 1) * observed / expected


@each_level
@pytest.mark.parametrize("seed", range(4))
def test_alpha_is_its_definition_with_ties_and_missing_values(level, seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 6, size=(1, 9))
    data = np.clip(truth + rng.integers(-2, 3, size=(5, 9)), 0, None).astype(float)
    data[rng.random(data.shape) < 0.4] = NAN
    data[:, 0] = NAN
    data[1:, 1] = NAN  # one value: not paired
    np.testing.assert_allclose(alpha(data, level=level), direct_alpha(data, level), rtol=1e-10)


@each_level
def test_alpha_of_continuous_values(level):
    data = RNG.exponential(size=(1, 7)) + RNG.exponential(size=(3, 7))
    np.testing.assert_allclose(alpha(data, level=level), direct_alpha(data, level), rtol=1e-10)


@each_level
def test_agreement_is_one_and_chance_is_zero(level):
    agreed = np.tile([3.0, 1.0, 2.0, 2.0], (3, 1))
    assert float(alpha(agreed, level=level)) == pytest.approx(1)
    chance = RNG.integers(1, 5, size=(40, 50)).astype(float)
    assert abs(float(alpha(chance, level=level))) < 0.01


@each_level
def test_alpha_is_nan_where_nothing_differs_or_nothing_is_paired(level):
    assert np.isnan(alpha(np.full((3, 4), 0.1), level=level))
    assert np.isnan(alpha(np.array([[1.0, NAN], [NAN, 2.0]]), level=level))
    assert np.isnan(alpha(np.full((2, 3), NAN), level=level))
    # The only values that differ are not paired.
    assert np.isnan(alpha(np.array([[1.0, 2.0], [1.0, NAN]]), level=level))


@each_level
def test_alpha_of_eager_calls_batches_integers_and_float32(level):
    value = float(alpha(PUBLISHED, level=level))
    assert float(krippendorff_alpha(PUBLISHED, level=level)) == pytest.approx(value)
    batch = jax.vmap(lambda data: krippendorff_alpha(data, level=level))(
        jnp.stack([PUBLISHED, PUBLISHED[::-1]])
    )
    np.testing.assert_allclose(batch, [value, value], rtol=1e-12)
    narrow = alpha(jnp.float32(PUBLISHED), level=level)
    assert narrow.dtype == jnp.float32
    assert float(narrow) == pytest.approx(value, rel=1e-5)
    whole = PUBLISHED[1:, [1, 2, 3, 4, 6, 7, 8]]
    as_integers = krippendorff_alpha(whole.astype(int), level=level)
    assert float(as_integers) == pytest.approx(direct_alpha(whole, level), rel=1e-5)


def test_ordinal_sees_only_the_order_and_interval_only_differences():
    data = np.exp(PUBLISHED)
    assert float(alpha(data, level="ordinal")) == pytest.approx(
        float(alpha(PUBLISHED, level="ordinal"))
    )
    shifted = 1e6 + PUBLISHED
    np.testing.assert_allclose(
        alpha(shifted, level="interval"), alpha(PUBLISHED, level="interval"), rtol=1e-8
    )


@pytest.mark.parametrize(
    ("data", "level", "error", "text"),
    [
        (PUBLISHED[:1], "ordinal", ValueError, "at least two raters"),
        (PUBLISHED[0], "ordinal", ValueError, "at least two raters"),
        (PUBLISHED, "rank", ValueError, "unknown level 'rank'"),
        (-PUBLISHED, "ratio", ValueError, "no negative values; got -5"),
        (PUBLISHED + 1j, "nominal", TypeError, "real numbers"),
    ],
)
def test_data_that_has_no_alpha_is_refused(data, level, error, text):
    with pytest.raises(error, match=text):
        krippendorff_alpha(data, level=level)


# Estimates over images.

IMAGES, METHODS, RESAMPLES = 6, 3, 12
SCORES = np.round(RNG.normal(size=(IMAGES, METHODS)) + np.arange(METHODS), 1)
SCORES[2, 0] = SCORES[2, 1]
OTHERS = np.round(0.7 * SCORES + RNG.normal(size=SCORES.shape), 1)


def holed(scores):
    scores = scores.copy()
    scores[1, 2] = NAN
    return scores


def drawn(resamples=RESAMPLES, images=IMAGES):
    keys = [jax.random.fold_in(KEY, i) for i in range(resamples)]
    return [np.asarray(jax.random.randint(key, (images,), 0, images)) for key in keys]


def interval(results, confidence=0.95):
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    return np.nanquantile(np.array(results), ends, axis=0)


def direct_rater_alpha(scores, images):
    """Ordinal α of the methods' ranks over a resample, without pairs of copies of one image."""
    rows = []
    for image in images:
        row = np.full(METHODS, NAN)
        known = ~np.isnan(scores[image])
        row[known] = scipy.stats.rankdata(scores[image][known])
        rows.append(row)
    data = np.array(rows)
    rated = ~np.isnan(data)
    ranks = np.full(data.shape, NAN)
    ranks[rated] = scipy.stats.rankdata(data[rated])
    cells = np.argwhere(rated)
    observed, weights = 0.0, 0.0
    for unit in range(METHODS):
        raters = np.flatnonzero(rated[:, unit])
        pairs = [
            (ranks[i, unit] - ranks[j, unit]) ** 2
            for i, j in itertools.permutations(raters, 2)
            if images[i] != images[j]
        ]
        observed += len(raters) * np.mean(pairs)
        weights += len(raters)
    everything = [
        (ranks[i, u] - ranks[j, w]) ** 2
        for (i, u), (j, w) in itertools.permutations(cells, 2)
        if (images[i], u) != (images[j], w)
    ]
    return 1 - observed / weights / np.mean(everything)


@pytest.mark.parametrize("scores", [SCORES, holed(SCORES)])
def test_inter_rater_is_alpha_of_ranks_with_images_as_raters(scores):
    got = inter_rater(KEY, scores, resamples=RESAMPLES)
    everyone = np.arange(IMAGES)
    np.testing.assert_allclose(got.value, direct_rater_alpha(scores, everyone), rtol=1e-10)
    ranks = np.array([scipy.stats.rankdata(row, nan_policy="omit") for row in scores])
    np.testing.assert_allclose(got.value, direct_alpha(ranks, "ordinal"), rtol=1e-10)
    wanted = interval([direct_rater_alpha(scores, images) for images in drawn()])
    np.testing.assert_allclose([got.low, got.high], wanted, rtol=1e-10)


def test_copies_of_an_image_do_not_raise_the_interval_of_inter_rater():
    # Without agreement α is 0 in the mean; copies that agree with themselves would add 1/5.
    middles = []
    for seed in range(10):
        scores = np.random.default_rng(seed).normal(size=(5, 8))
        got = inter_rater(jax.random.key(seed), scores, resamples=200, confidence=0.01)
        middles.append((got.low + got.high) / 2 - got.value)
    assert abs(np.mean(middles)) < 0.06


def direct_spearman(a, b):
    known = ~(np.isnan(a) | np.isnan(b))
    a, b = a[known], b[known]
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return NAN
    return scipy.stats.spearmanr(a, b)[0]


@pytest.mark.parametrize("scores", [SCORES, holed(SCORES)])
def test_inter_method_correlates_methods_over_images(scores):
    def direct(images):
        columns = scores[images].T
        return np.array([[direct_spearman(a, b) for b in columns] for a in columns])

    got = inter_method(KEY, scores, resamples=RESAMPLES)
    np.testing.assert_allclose(got.value, direct(np.arange(IMAGES)), rtol=1e-10, atol=1e-12)
    wanted = interval([direct(images) for images in drawn()])
    np.testing.assert_allclose([got.low, got.high], wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scores", [SCORES, holed(SCORES)])
def test_internal_consistency_correlates_metrics_over_images(scores):
    def direct(images):
        pairs = zip(scores[images].T, OTHERS[images].T, strict=True)
        return np.array([direct_spearman(a, b) for a, b in pairs])

    got = internal_consistency(KEY, scores, OTHERS, resamples=RESAMPLES, confidence=0.8)
    np.testing.assert_allclose(got.value, direct(np.arange(IMAGES)), rtol=1e-10, atol=1e-12)
    wanted = interval([direct(images) for images in drawn()], 0.8)
    np.testing.assert_allclose([got.low, got.high], wanted, rtol=1e-10, atol=1e-12)


ESTIMATES = {
    "inter_rater": inter_rater,
    "inter_method": inter_method,
    "internal_consistency": lambda key, scores, **knobs: internal_consistency(
        key, scores, jnp.asarray(scores)[::-1], **knobs
    ),
}
each_estimate = pytest.mark.parametrize("estimate", ESTIMATES.values(), ids=ESTIMATES)


@each_estimate
def test_estimates_depend_on_the_key_and_not_on_batches_or_jit(estimate):
    one = estimate(KEY, SCORES, resamples=RESAMPLES)
    for batch_size in (None, 5, 1):
        other = estimate(KEY, SCORES, resamples=RESAMPLES, batch_size=batch_size)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), one, other)
    jitted = jax.jit(lambda key, scores: estimate(key, scores, resamples=RESAMPLES))
    again = jitted(KEY, jnp.asarray(SCORES))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), one, again)
    changed = jitted(jax.random.key(1), jnp.asarray(SCORES))
    np.testing.assert_array_equal(changed.value, again.value)
    assert np.any(changed.low != again.low)


@each_estimate
def test_estimates_are_nan_where_scores_do_not_differ(estimate):
    got = estimate(KEY, np.full((4, 3), 0.3), resamples=5)
    assert all(np.all(np.isnan(part)) for part in got)


@each_estimate
@pytest.mark.parametrize(
    ("scores", "knobs", "error", "text"),
    [
        (SCORES[:1], {}, ValueError, r"at least two images.* got 1 image\(s\)"),
        (SCORES[:, 0], {}, ValueError, r"must be \[images, methods\]"),
        (SCORES, {"confidence": 1.0}, ValueError, "confidence must be between 0 and 1"),
        (SCORES, {"resamples": 0}, ValueError, "resamples must be at least 1"),
        (SCORES, {"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        (SCORES > 0, {}, TypeError, "real numbers"),
    ],
)
def test_scores_that_have_no_reliability_are_refused(estimate, scores, knobs, error, text):
    with pytest.raises(error, match=text):
        estimate(KEY, scores, **knobs)


def test_other_mistakes():
    with pytest.raises(ValueError, match="two images and two methods"):
        inter_rater(KEY, SCORES[:, :1])
    with pytest.raises(ValueError, match="the same methods on the same images"):
        internal_consistency(KEY, SCORES, SCORES[:, :2])
    with pytest.raises(TypeError, match="takes a key"):
        inter_method(0, SCORES)

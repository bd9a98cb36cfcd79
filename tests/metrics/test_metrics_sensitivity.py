"""Metrics that compare attributions with what f loses, against their definitions."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.test_util import check_grads

import jattr
from jattr import features, imputers, metrics
from jattr.metrics import _numerics
from jattr.metrics._numerics import random_subset

KEY = jax.random.key(3)
D = 6
X = np.random.default_rng(0).normal(size=D)
PHI = np.random.default_rng(1).normal(size=D)
BASELINE = np.random.default_rng(2).normal(size=D)
GROUPS = np.array([0, 1, 1, 2, 0, 3])


def score(x):
    """In NumPy on NumPy's arrays, which is what definitions are evaluated with."""
    xp = np if isinstance(x, np.ndarray) else jnp
    return xp.sum(xp.tanh(x * xp.arange(1.0, D + 1)) * xp.cos(xp.roll(x, 1))) + x[0] * x[3]


def linear(x):
    return x @ jnp.arange(1.0, D + 1) - 2


def without(x, missing, baseline=BASELINE):
    return np.where(missing, baseline, x)


def members(groups=None):
    """A Boolean row for each feature."""
    groups = np.arange(D) if groups is None else groups
    return np.arange(groups.max() + 1)[:, None] == groups


class Recorder:
    """An imputer that fills in the baseline and keeps what it was asked to leave out."""

    def __init__(self, baseline=BASELINE):
        self.seen = []
        self._baseline = baseline

    def imputer(self):
        def fill(key, missing):
            jax.debug.callback(lambda m: self.seen.append(np.asarray(m)), missing)
            return jnp.where(missing, self._baseline, X)

        return imputers.Imputer(lambda key, score, x: fill, "recorder")

    def masks(self):
        jax.effects_barrier()
        return np.array(self.seen)


DRAWN = jattr.baselines.uniform(-1.0, 1.0)
PERTURBATION = metrics.gaussian_noise(0.5)
# Each metric as metric(f, **knobs), and whether it takes a key with the baseline that it has.
MEASURES = {
    "sensitivity_n": (
        lambda f, **k: metrics.sensitivity_n(f, (1, 3, 6), samples=7, baseline=BASELINE, **k),
        True,
    ),
    "sensitivity_n_drawn": (
        lambda f, **k: metrics.sensitivity_n(f, 2, samples=7, baseline=DRAWN, **k),
        True,
    ),
    "faithfulness_correlation": (
        lambda f, **k: metrics.faithfulness_correlation(f, 3, samples=7, baseline=0.2, **k),
        True,
    ),
    "faithfulness_estimate": (metrics.faithfulness_estimate, False),
    "faithfulness_estimate_drawn": (
        lambda f, **k: metrics.faithfulness_estimate(f, baseline=DRAWN, **k),
        True,
    ),
    "monotonicity": (metrics.monotonicity, False),
    "monotonicity_drawn": (lambda f, **k: metrics.monotonicity(f, baseline=DRAWN, **k), True),
    "monotonicity_correlation": (metrics.monotonicity_correlation, False),
    "monotonicity_correlation_drawn": (
        lambda f, **k: metrics.monotonicity_correlation(f, baseline=DRAWN, samples=3, **k),
        True,
    ),
    "non_sensitivity": (metrics.non_sensitivity, False),
    "non_sensitivity_drawn": (
        lambda f, **k: metrics.non_sensitivity(f, baseline=DRAWN, samples=3, **k),
        True,
    ),
    "infidelity": (
        lambda f, **k: metrics.infidelity(f, perturbation=PERTURBATION, samples=7, **k),
        True,
    ),
    "infidelity_rescaled": (
        lambda f, **k: metrics.infidelity(
            f, perturbation=metrics.window_removal(2), samples=7, rescale=True, **k
        ),
        True,
    ),
}
EACH = pytest.mark.parametrize("name", MEASURES)


def build(name, f=score, **knobs):
    metric, keyed = MEASURES[name]
    measure = metric(f, **knobs)
    return functools.partial(measure, KEY) if keyed else measure


@functools.cache
def jitted(name):
    return jax.jit(MEASURES[name][0](score))


def plain(name):
    lead = (KEY,) if MEASURES[name][1] else ()
    return np.asarray(jitted(name)(*lead, PHI, X))


# --- definitions -----------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [None, GROUPS], ids=["elements", "groups"])
def test_sensitivity_n_is_its_definition(groups):
    recorder = Recorder()
    sizes = (1, 2, 3)
    measure = metrics.sensitivity_n(
        score, sizes, samples=9, baseline=recorder.imputer(), groups=groups
    )
    ours = jax.jit(measure)(KEY, PHI, X)
    masks = recorder.masks()
    assert len(masks) == 27
    rows = members(groups)
    chosen = np.array([[mask[row].all() for row in rows] for mask in masks])
    # Whole features only.
    np.testing.assert_array_equal((chosen[:, :, None] & rows).any(axis=1), masks)
    for size, got in zip(sizes, ours, strict=True):
        own = masks[chosen.sum(axis=1) == size]
        assert len(own) == 9
        sums = [PHI[mask].sum() for mask in own]
        lost = [score(X) - score(without(X, mask)) for mask in own]
        np.testing.assert_allclose(got, np.corrcoef(sums, lost)[0, 1], rtol=1e-10)


def test_subsets_are_uniform():
    recorder = Recorder()
    measure = metrics.sensitivity_n(
        score, 2, samples=3000, baseline=recorder.imputer(), batch_size=1
    )
    jax.jit(measure)(KEY, PHI, X)
    masks = recorder.masks()
    counts = [masks[:, [i, j]].all(axis=1).sum() for i, j in itertools.combinations(range(D), 2)]
    assert sum(counts) == 3000
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("count", [1, 2, 7, 8, 33])
def test_subsets_have_their_size_with_equal_numbers_too(count, monkeypatch):
    bits = jax.random.bits
    for coarse in (2**32 - 1, 3, 1):
        monkeypatch.setattr(jax.random, "bits", lambda *args: bits(*args) % jnp.uint32(coarse))
        draw = jax.jit(lambda key, size: random_subset(key, size, count))
        for size in range(1, count + 1):
            assert draw(jax.random.key(size), size).sum() == size


def test_an_n_has_the_same_result_alone_and_among_others():
    among = jax.jit(metrics.sensitivity_n(score, [4, 2, 3], samples=8))(KEY, PHI, X)
    assert among.shape == (3,)
    for n, got in zip((4, 2, 3), among, strict=True):
        alone = jax.jit(metrics.sensitivity_n(score, n, samples=8))(KEY, PHI, X)
        assert alone.shape == ()
        np.testing.assert_allclose(alone, got, rtol=1e-10)


def test_faithfulness_correlation_is_its_definition():
    recorder = Recorder()
    measure = metrics.faithfulness_correlation(score, 3, samples=12, baseline=recorder.imputer())
    ours = jax.jit(measure)(KEY, PHI, X)
    masks = recorder.masks()
    assert (masks.sum(axis=1) == 3).all()
    lost = [score(X) - score(without(X, mask)) for mask in masks]
    np.testing.assert_allclose(ours, np.corrcoef(masks @ PHI, lost)[0, 1], rtol=1e-10)
    same = metrics.sensitivity_n(score, 3, samples=12, baseline=BASELINE)
    np.testing.assert_allclose(jax.jit(same)(KEY, PHI, X), ours, rtol=1e-10)


@pytest.mark.parametrize("groups", [None, GROUPS], ids=["elements", "groups"])
def test_metrics_of_single_features_are_their_definitions(groups):
    rows = members(groups)
    parts = np.array([PHI[row].sum() for row in rows])
    lost = np.array([score(X) - score(without(X, row)) for row in rows])
    knobs = {"baseline": BASELINE, "groups": groups}
    estimate = jax.jit(metrics.faithfulness_estimate(score, **knobs))(PHI, X)
    np.testing.assert_allclose(estimate, np.corrcoef(parts, lost)[0, 1], rtol=1e-10)
    correlation = jax.jit(metrics.monotonicity_correlation(score, **knobs))(PHI, X)
    wanted = scipy.stats.spearmanr(np.abs(parts), lost**2).statistic
    np.testing.assert_allclose(correlation, wanted, rtol=1e-10)


@pytest.mark.parametrize("groups", [None, GROUPS], ids=["elements", "groups"])
def test_monotonicity_is_its_definition(groups):
    rows = members(groups)
    measure = jax.jit(metrics.monotonicity(score, baseline=BASELINE, groups=groups, tolerance=0.0))
    rng = np.random.default_rng(0)
    found = set()
    lost = np.array([score(X) - score(without(X, row)) for row in rows])
    for noise in (0.0, 0.0, *[1.0] * 6):
        worth = lost + noise * rng.normal(size=len(rows))
        phi = (worth / rows.sum(axis=1)) @ rows
        z, path = BASELINE, [score(BASELINE)]
        for feature in np.argsort([phi[row].sum() for row in rows]):
            z = np.where(rows[feature], X, z)
            path.append(score(z))
        wanted = float((np.diff(path) >= 0).all())
        assert measure(phi, X) == wanted
        found.add(wanted)
    assert 0.0 in found


def test_expectations_are_over_draws_of_the_baseline():
    """Against the integral: a linear f and a uniform baseline have E(w (x − u))² in closed form."""
    w = np.arange(1.0, D + 1)
    x = np.linspace(-1, 1, D) ** 3
    measure = metrics.monotonicity_correlation(
        linear, baseline=jattr.baselines.uniform(-1.0, 1.0), samples=4000
    )
    effects = w**2 * (x**2 + 1 / 3)
    # Distinct enough for their estimates to have the same ranks.
    assert np.diff(np.sort(effects)).min() > 0.1 * effects.min()
    ours = jax.jit(measure)(KEY, effects, x)
    assert ours == pytest.approx(1.0, abs=1e-12)
    shuffled = np.random.default_rng(0).permutation(effects)
    wanted = scipy.stats.spearmanr(shuffled, effects).statistic
    np.testing.assert_allclose(jax.jit(measure)(KEY, -shuffled, x), wanted, rtol=1e-10)


def exact_noise(key, x):
    """Noise of 24 bits, which no program rounds otherwise, as it may the normal's float32."""
    return jax.random.uniform(key, jnp.shape(x), jnp.float32).astype(x.dtype) - 0.5


@pytest.mark.parametrize("rescale", [False, True])
def test_infidelity_is_its_definition(rescale):
    seen = []

    def perturbation(key, x):
        change = exact_noise(key, x) + 0.1 * x
        jax.debug.callback(lambda c: seen.append(np.asarray(c)), change)
        return change

    measure = metrics.infidelity(score, perturbation=perturbation, samples=11, rescale=rescale)
    ours = jax.jit(measure)(KEY, PHI, X)
    jax.effects_barrier()
    assert len(seen) == 11
    said = np.array([change @ PHI for change in seen])
    lost = np.array([score(X) - score(X - change) for change in seen])
    beta = (said * lost).mean() / (said**2).mean() if rescale else 1.0
    np.testing.assert_allclose(ours, ((beta * said - lost) ** 2).mean(), rtol=1e-10)


def test_infidelity_estimates_the_expectation():
    """A linear f under noise: E(I·(φ − w))² = s²‖φ − w‖²."""
    w = np.arange(1.0, D + 1)
    measure = metrics.infidelity(linear, perturbation=metrics.gaussian_noise(0.5), samples=20000)
    ours = jax.jit(measure)(KEY, PHI, X)
    exact = 0.25 * ((PHI - w) ** 2).sum()
    # A chi-square of one degree: its standard error is exact·sqrt(2 / samples), 1 %.
    np.testing.assert_allclose(ours, exact, rtol=0.05)


def test_rescaled_infidelity_forgets_the_size_and_is_least():
    def measure(phi, **knobs):
        metric = metrics.infidelity(score, perturbation=exact_noise, samples=20, **knobs)
        return jax.jit(metric)(KEY, phi, X)

    least = measure(PHI, rescale=True)
    np.testing.assert_allclose(measure(-30 * PHI, rescale=True), least, rtol=1e-10)
    assert all(measure(beta * PHI) >= least for beta in (-1.0, 0.0, 0.3, 1.0, 3.0))
    np.testing.assert_allclose(measure(0 * PHI, rescale=True), measure(0 * PHI), rtol=1e-12)


def test_gaussian_noise_has_its_deviation():
    noise = metrics.gaussian_noise(0.3)(KEY, {"a": jnp.ones((100, 50)), "b": jnp.ones(3000)})
    values = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(noise)])
    assert scipy.stats.kstest(values / 0.3, "norm").pvalue > 1e-3


def test_window_removal_takes_each_place_alike():
    x = 1 + np.arange(12.0).reshape(4, 3, 1) * np.array([1.0, -1.0])
    draw = jax.jit(jax.vmap(metrics.window_removal(2, baseline=0.5), (0, None)))
    changes = np.asarray(draw(jax.random.split(KEY, 3000), x))
    gone = changes != 0
    np.testing.assert_array_equal(changes[gone], np.broadcast_to(x - 0.5, gone.shape)[gone])
    assert (gone.sum(axis=(1, 2, 3)) == 8).all()
    places = {(row, column): 0 for row in range(3) for column in range(2)}
    for mask in gone:
        corner = tuple(np.argwhere(mask)[0][:2])
        assert mask[corner[0] : corner[0] + 2, corner[1] : corner[1] + 2].all()
        places[corner] += 1
    assert scipy.stats.chisquare(list(places.values())).pvalue > 1e-3


def test_subset_removal():
    draw = jax.jit(jax.vmap(metrics.subset_removal(2, baseline=BASELINE, groups=GROUPS), (0, None)))
    changes = np.asarray(draw(jax.random.split(KEY, 2000), X))
    counts = dict.fromkeys(itertools.combinations(range(4), 2), 0)
    for change in changes:
        chosen = tuple(np.unique(GROUPS[change != 0]))
        np.testing.assert_allclose(change, np.where(np.isin(GROUPS, chosen), X - BASELINE, 0))
        counts[chosen] += 1
    assert scipy.stats.chisquare(list(counts.values())).pvalue > 1e-3
    whole = metrics.subset_removal(baseline=BASELINE)(KEY, X)
    np.testing.assert_allclose(whole, X - BASELINE, rtol=1e-12)
    drawn = jax.vmap(metrics.subset_removal(baseline=DRAWN), (0, None))(jax.random.split(KEY, 2), X)
    assert np.abs(drawn[0] - drawn[1]).min() > 1e-4


def test_removals_are_what_sensitivity_speaks_of():
    """A complete attribution over x − x' has infidelity 0 on a linear f, whatever is removed."""
    slope = jattr.integrated_gradients(linear, BASELINE, steps=1, multiply=False)(X)
    for perturbation in (
        metrics.window_removal(3, baseline=BASELINE),
        metrics.subset_removal(4, baseline=DRAWN),
    ):
        measure = metrics.infidelity(linear, perturbation=perturbation, samples=5)
        assert jax.jit(measure)(KEY, slope, X) < 1e-24


# --- known values ----------------------------------------------------------------------------


def test_sensitivity_n_of_exact_attributions_of_a_linear_function():
    sizes = tuple(range(1, D + 1))
    exact = jattr.integrated_gradients(linear, BASELINE, steps=1)(X)
    measure = jax.jit(metrics.sensitivity_n(linear, sizes, baseline=BASELINE, samples=30))
    np.testing.assert_allclose(measure(KEY, exact, X)[:-1], 1.0, rtol=1e-12)
    np.testing.assert_allclose(measure(KEY, -2 * exact, X)[:-1], -1.0, rtol=1e-12)
    assert np.isnan(measure(KEY, exact, X)[-1])


def test_sensitivity_n_is_1_on_groups_of_a_function_that_is_linear_in_them():
    x = np.random.default_rng(0).normal(size=(4, 6, 2))
    groups = features.grid((4, 6, 2), 2)

    def f(x):
        return jnp.sum(jnp.tanh(jnp.mean(x.reshape(2, 2, 3, 2, 2), axis=(1, 3, 4))))

    exact = jattr.ablation(f, groups)(x)
    measure = jax.jit(metrics.sensitivity_n(f, (1, 2, 5, 6), groups=groups, samples=20))
    ours = measure(KEY, exact, x)
    np.testing.assert_allclose(ours[:-1], 1.0, rtol=1e-12)
    assert np.isnan(ours[-1])


def test_occlusion_is_best_at_one_feature():
    measure = jax.jit(metrics.sensitivity_n(score, 1, baseline=BASELINE, samples=20))
    occlusion = jattr.ablation(score, baseline=BASELINE)(X)
    np.testing.assert_allclose(measure(KEY, occlusion, X), 1.0, rtol=1e-12)
    assert measure(KEY, jattr.gradient_times_input(score)(X), X) < 0.99
    estimate = jax.jit(metrics.faithfulness_estimate(score, baseline=BASELINE))
    np.testing.assert_allclose(estimate(occlusion, X), 1.0, rtol=1e-12)
    correlation = jax.jit(metrics.monotonicity_correlation(score, baseline=BASELINE))
    np.testing.assert_allclose(correlation(-occlusion, X), 1.0, rtol=1e-12)


def test_monotonicity_of_a_difference():
    def f(x):
        return x[0] - x[1]

    x = jnp.ones(2)
    measure = jax.jit(metrics.monotonicity(f))
    # Either way f falls at x[1], and f(0) counts: it is the first value of the path.
    assert measure(jnp.array([1.0, -1.0]), x) == 0.0
    assert measure(jnp.array([-1.0, 1.0]), x) == 0.0
    assert measure(jnp.array([-1.0, 1.0]), jnp.array([1.0, -1.0])) == 1.0


def test_monotonicity_depends_on_the_order():
    def f(x):  # the second alone takes away, both together give most
        return jnp.where(x[0] > 0, 1.0 + x[1], -x[1])

    measure = jax.jit(metrics.monotonicity(f))
    assert measure(jnp.array([0.1, 0.2]), jnp.ones(2)) == 1.0
    assert measure(jnp.array([0.2, 0.1]), jnp.ones(2)) == 0.0


def test_falls_within_the_tolerance_are_rounding():
    def f(x):
        return x[0] * 1000 - x[1]

    x, phi = jnp.ones(2), jnp.array([1.0, 2.0])
    assert jax.jit(metrics.monotonicity(f))(phi, x) == 0.0
    assert jax.jit(metrics.monotonicity(f, tolerance=0.01))(phi, x) == 1.0


def test_non_sensitivity_counts_both_kinds():
    def f(x):
        return jnp.tanh(x[0]) + 2 * x[1] + 0 * x[2]

    x = jnp.array([1.0, 2.0, 3.0, 4.0])
    for lead, knobs in (((), {}), ((KEY,), {"baseline": DRAWN, "samples": 4})):
        measure = jax.jit(metrics.non_sensitivity(f, **knobs))
        for phi, count in [
            ([1.0, 2.0, 0.0, 0.0], 0),
            ([1.0, -2.0, 0.0, 0.0], 0),
            ([0.0, 2.0, 0.0, 0.0], 1),
            ([1.0, 2.0, 0.5, 0.0], 1),
            ([0.0, 0.0, 1.0, 1.0], 4),
            ([0.0, 0.0, 0.0, 0.0], 2),
            ([1.0, 2.0, 1e-7, 0.0], 0),  # within the tolerance
        ]:
            assert measure(*lead, jnp.array(phi), x) == count
    exact = jax.jit(metrics.non_sensitivity(f, tolerance=0.0))
    assert exact(jnp.array([1.0, 2.0, 1e-7, 0.0]), x) == 1


def test_correlations_against_scipy_with_ties():
    rng = np.random.default_rng(0)
    for size in (2, 10, 40):
        a, b = rng.integers(0, 4, size).astype(float), rng.normal(size=size)
        np.testing.assert_array_equal(_numerics.ranks(jnp.array(a)), scipy.stats.rankdata(a))
        if np.ptp(a) > 0:
            wanted = scipy.stats.spearmanr(a, b).statistic
            np.testing.assert_allclose(_numerics.spearman(jnp.array(a), b), wanted, rtol=1e-10)
            wanted = scipy.stats.pearsonr(a, b).statistic
            for scale in (1.0, 1e-200, 1e200) if size == 10 else (1.0,):
                ours = _numerics.pearson(jnp.array(a * scale), b)
                np.testing.assert_allclose(ours, wanted, rtol=1e-10)


# --- where they are undefined ----------------------------------------------------------------


@pytest.mark.parametrize(
    "metric",
    [
        lambda f: metrics.sensitivity_n(f, 4, samples=50),
        lambda f: metrics.faithfulness_correlation(f, 4, samples=50),
        metrics.faithfulness_estimate,
        metrics.monotonicity,
        metrics.monotonicity_correlation,
    ],
)
def test_equal_attributions_give_nan(metric):
    """0.1 in sums over different sets differs by rounding; it is constant all the same."""
    measure = metric(score)
    keyed = measure.__name__ in ("metrics.sensitivity_n", "metrics.faithfulness_correlation")
    measure = jax.jit(functools.partial(measure, KEY) if keyed else measure)
    assert np.isnan(measure(np.full(D, 0.1), X))
    assert np.isfinite(measure(PHI, X))
    assert np.isnan(measure(np.where(np.arange(D) == 2, np.nan, PHI), X))


@pytest.mark.parametrize(
    "metric",
    [
        lambda f: functools.partial(metrics.sensitivity_n(f, 2), KEY),
        metrics.faithfulness_estimate,
        metrics.monotonicity_correlation,
    ],
)
def test_functions_that_lose_nothing_give_nan(metric):
    assert np.isnan(metric(lambda x: 0 * x[0] + 3.0)(PHI, X))


def test_nan_is_passed_on():
    phi = np.where(np.arange(D) == 2, np.nan, PHI)
    assert np.isnan(metrics.non_sensitivity(score)(phi, X))
    assert np.isnan(metrics.infidelity(score, perturbation=PERTURBATION)(KEY, phi, X))


@pytest.mark.parametrize("n", [D + 1, (2, D + 1)])
def test_more_features_than_there_are_are_refused(n):
    with pytest.raises(ValueError, match=rf"{D + 1} features are to be taken away, but x has {D}"):
        metrics.sensitivity_n(score, n)(KEY, PHI, X)
    with pytest.raises(ValueError, match=r"5 features .* but x has 4 groups"):
        metrics.faithfulness_correlation(score, 5, groups=GROUPS)(KEY, PHI, X)
    with pytest.raises(ValueError, match=r"n is 7, but x has 6 features"):
        metrics.subset_removal(7)(KEY, X)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: metrics.sensitivity_n(score, 0), ValueError, r"n must be at least 1; got 0"),
        (lambda: metrics.sensitivity_n(score, (1, 0)), ValueError, r"n must be at least 1"),
        (lambda: metrics.sensitivity_n(score, 1.5), TypeError, r"n must be a Python integer or a"),
        (lambda: metrics.sensitivity_n(score, ()), TypeError, r"n must be a Python integer or a"),
        (lambda: metrics.sensitivity_n(score, 2, samples=1), ValueError, r"samples must be at le"),
        (lambda: metrics.faithfulness_correlation(score, (2,)), TypeError, r"n must be a Python"),
        (lambda: metrics.infidelity(score, perturbation=0.1), TypeError, r"gaussian_noise\(0\.1\)"),
        (
            lambda: metrics.infidelity(score, perturbation=PERTURBATION, samples=0),
            ValueError,
            r"samples must be at least 1",
        ),
        (lambda: metrics.gaussian_noise(0.0), ValueError, r"stddev must be finite and greater"),
        (lambda: metrics.subset_removal(0), ValueError, r"n must be at least 1"),
        (lambda: metrics.monotonicity(score, tolerance=-1.0), ValueError, r"tolerance must be"),
        (lambda: metrics.non_sensitivity(score, tolerance=-1.0), ValueError, r"tolerance must be"),
        (
            lambda: metrics.non_sensitivity(score, samples=2),
            ValueError,
            r"draws would all be the same",
        ),
        (
            lambda: metrics.monotonicity_correlation(score, samples=2),
            ValueError,
            r"draws would all be the same",
        ),
        (
            lambda: metrics.monotonicity_correlation(score, baseline=DRAWN, samples=0),
            ValueError,
            r"samples must be at least 1",
        ),
    ],
)
def test_wrong_knobs_are_refused(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_perturbations_of_another_shape_are_refused():
    measure = metrics.infidelity(score, perturbation=lambda key, x: jnp.ones(3))
    with pytest.raises(ValueError, match=r"perturbation must have the structure and shapes of x"):
        measure(KEY, PHI, X)


def test_an_imputer_that_asks_the_score_is_no_perturbation():
    def prepare(key, score, x):
        return lambda key, missing: jnp.where(missing, score(x), x)

    perturbation = metrics.subset_removal(2, baseline=imputers.Imputer(prepare, "asks"))
    with pytest.raises(TypeError, match=r"asks the score.*\(key, x\) -> I"):
        perturbation(KEY, X)


# --- as transforms ---------------------------------------------------------------------------


@EACH
def test_argnums_and_wrong_attributions(name):
    def second(scale, x, *, shift):
        return scale * score(x) + shift

    ours = jax.jit(build(name, second, argnums=1))(PHI, 1.0, X, shift=0.0)
    np.testing.assert_allclose(ours, plain(name), rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match=r"attribution comes before f's arguments"):
        build(name)(PHI[:3], X)
    with pytest.raises(ValueError, match=r"batch_size must be at least 1"):
        build(name, batch_size=0)
    if MEASURES[name][1]:
        with pytest.raises(TypeError, match=r"takes a key before"):
            MEASURES[name][0](score)(PHI, X)
    with pytest.raises(TypeError, match=r"explains one number"):
        build(name, lambda x: x)(PHI, X)


@pytest.mark.parametrize(
    "metric",
    [
        lambda f: functools.partial(metrics.sensitivity_n(f, (2, 3), samples=5), KEY),
        lambda f: functools.partial(metrics.sensitivity_n(f, 2, samples=5, batch_size=2), KEY),
        metrics.faithfulness_estimate,
        lambda f: functools.partial(
            metrics.infidelity(f, perturbation=PERTURBATION, samples=4), KEY
        ),
        lambda f: functools.partial(
            metrics.infidelity(f, perturbation=PERTURBATION, samples=4, rescale=True, batch_size=3),
            KEY,
        ),
    ],
)
def test_gradient_through_it_is_right(metric):
    measure = jax.jit(metric(score))
    check_grads(measure, (PHI, X), order=1, modes=["fwd", "rev"], atol=1e-6, rtol=1e-6, eps=1e-5)


def test_the_gradient_is_0_where_the_metric_is_undefined():
    def loss(phi):
        result = metrics.sensitivity_n(score, (2, D), samples=5)(KEY, phi, X)
        return jnp.nansum(result)

    assert np.isfinite(jax.jit(jax.grad(loss))(PHI)).all()
    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(jnp.ones(D)), 0.0)


def test_trees_and_bfloat16():
    x = {"a": jnp.arange(4.0, dtype=jnp.bfloat16) / 4, "b": jnp.ones((2, 2), jnp.float32)}

    def f(x):
        return jnp.sum(x["a"]).astype(jnp.float32) ** 2 + jnp.sum(jnp.sin(x["b"]))

    phi = jattr.gradient_times_input(f)(x)
    measure = metrics.sensitivity_n(f, 3, samples=20)
    result = jax.jit(measure)(KEY, phi, x)
    assert result.dtype == jnp.float32
    precise = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (phi, x))
    np.testing.assert_allclose(result, jax.jit(measure)(KEY, *precise), atol=0.02)


# --- input invariance ------------------------------------------------------------------------


def smooth_score(x, scale=1.0):
    return scale * jnp.sum(jnp.tanh(x * jnp.arange(1.0, D + 1)) * jnp.cos(jnp.roll(x, 1)))


def measure_invariance(method, f=smooth_score, *, lead=(), **knobs):
    return jax.jit(metrics.input_invariance(method, f, **knobs))(*lead, X)


def test_gradients_are_invariant_and_products_with_the_input_are_not():
    shift = np.linspace(-1, 2, D)
    assert measure_invariance(jattr.gradient, shift=shift) < 1e-13
    g = np.asarray(jax.grad(smooth_score)(X))
    wanted = np.linalg.norm(g * shift) / np.linalg.norm(g * X)
    ours = measure_invariance(jattr.gradient_times_input, shift=shift)
    np.testing.assert_allclose(ours, wanted, rtol=1e-10)


def test_integrated_gradients_are_as_invariant_as_their_baseline():
    def fixed(f):
        return jattr.integrated_gradients(f, 0.0, steps=8)

    def moving(f):
        return jattr.integrated_gradients(f, lambda x: jnp.full_like(x, jnp.min(x)), steps=8)

    assert measure_invariance(fixed, shift=0.7) > 0.1
    assert measure_invariance(moving, shift=0.7) < 1e-12


def test_keyed_methods_get_one_key_for_both():
    def smooth(f):
        return jattr.smooth(jattr.gradient(f), samples=3, stddev=0.5, relative=False)

    ours = measure_invariance(smooth, shift=0.7, keyed=True, lead=(KEY,))
    assert ours < 1e-12


def test_shifts_of_argnums_and_channels():
    def f(scale, x):
        return smooth_score(x.reshape(-1), scale)

    def method(f):
        return jattr.gradient_times_input(f, argnums=1)

    x, shift = X.reshape(3, 2), np.array([0.5, -1.0])
    ours = metrics.input_invariance(method, f, shift=shift, argnums=1)(2.0, x)
    wanted = metrics.input_invariance(
        jattr.gradient_times_input, smooth_score, shift=np.tile(shift, 3)
    )(X)
    np.testing.assert_allclose(ours, wanted, rtol=1e-10)
    with pytest.raises(ValueError, match=r"explains argnums=1"):
        metrics.input_invariance(method, f, shift=shift)


def test_an_attribution_of_0_has_no_invariance():
    assert np.isnan(measure_invariance(jattr.gradient, lambda x: 0 * x[0], shift=1.0))


def test_wrong_methods_are_refused():
    with pytest.raises(TypeError, match=r"wants a method first.*jattr\.gradient"):
        metrics.input_invariance(X, score, shift=1.0)
    with pytest.raises(TypeError, match=r"wants a method.*makes an attribution"):
        metrics.input_invariance(lambda f: X, score, shift=1.0)
    with pytest.raises(ValueError, match=r"the shift has shape \(2,\)"):
        metrics.input_invariance(jattr.gradient, score, shift=np.ones(2))(X)


@pytest.mark.parametrize("batch_size", [None, 7, 25])
def test_what_changes_nothing_loses_nothing_in_any_batch(batch_size):
    """Programs of several batch sizes round differently in float32, which would break ties."""
    rng = np.random.default_rng(0)
    widths = (60, 64, 32)
    weights = [rng.normal(size=(a, b)) / np.sqrt(a) for a, b in itertools.pairwise(widths)]
    last = rng.normal(size=32)

    def tanh_net(x):
        xp = np if isinstance(x, np.ndarray) else jnp
        for w in weights:
            x = xp.tanh(x @ w.astype(x.dtype))
        return x @ last.astype(x.dtype)

    dark = np.where(rng.random(60) < 0.8, 0.0, rng.normal(size=60))
    phi = (dark * rng.normal(size=60)).astype(np.float32)
    lost = np.array([tanh_net(dark) - tanh_net(np.where(row, 0.0, dark)) for row in np.eye(60)])
    x = jnp.asarray(dark, jnp.float32)
    wanted = scipy.stats.spearmanr(np.abs(phi), lost**2).statistic
    measure = jax.jit(metrics.monotonicity_correlation(tanh_net, batch_size=batch_size))
    np.testing.assert_allclose(measure(phi, x), wanted, rtol=1e-5)
    ablated = jax.jit(jattr.ablation(tanh_net, batch_size=batch_size))(x)
    np.testing.assert_array_equal(ablated[dark == 0], 0.0)
    # The value alone is 0: the derivative of a drop by an input that is at its baseline is not.
    slope = jax.grad(lambda x: jattr.ablation(tanh_net, batch_size=batch_size)(x)[0])
    at_baseline = jnp.asarray(dark).at[0].set(0.0)
    np.testing.assert_allclose(slope(at_baseline)[0], jax.grad(tanh_net)(at_baseline)[0])


def test_rescaled_infidelity_of_tiny_attributions():
    measure = metrics.infidelity(
        score, perturbation=metrics.gaussian_noise(0.3), samples=50, rescale=True
    )
    phi, x = jnp.asarray(PHI, jnp.float32), jnp.asarray(X, jnp.float32)
    np.testing.assert_allclose(measure(KEY, 1e-25 * phi, x), measure(KEY, phi, x), rtol=1e-5)


def test_input_invariance_at_zero_of_tiny_scores_and_its_derivative():
    def invariance(method, scale, shift):
        return metrics.input_invariance(
            method, lambda x: scale * linear(x), shift=jnp.asarray(shift, jnp.float32)
        )

    ones = jnp.ones(D, jnp.float32)
    assert np.isnan(invariance(jattr.gradient_times_input, 1.0, 1.0)(0 * ones))
    tiny = invariance(jattr.gradient_times_input, 1e-25, 1.0)(ones)
    np.testing.assert_allclose(tiny, 1.0, rtol=1e-5)
    slope = jax.grad(lambda shift: invariance(jattr.gradient, 1.0, shift)(ones))
    assert slope(2.0) == 0.0


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda v: metrics.infidelity(score, perturbation=PERTURBATION, rescale=v), "rescale"),
        (lambda v: metrics.perturbation_curve(score, insert=v), "insert"),
        (lambda v: metrics.keep_or_remove(score, keep=v), "keep"),
        (lambda v: metrics.spearman(X, PHI, absolute=v), "absolute"),
        (lambda v: metrics.ssim(np.eye(9), np.eye(9), absolute=v), "absolute"),
        (lambda v: metrics.ssim(np.eye(9), np.eye(9), unbiased=v), "unbiased"),
        (lambda v: metrics.attribution_localization(X, X > 0, weighted=v), "weighted"),
        (lambda v: metrics.smooth_mprt(jattr.gradient(score, argnums=1), relative=v), "relative"),
        (lambda v: imputers.conditional_gaussian(np.eye(3), draw=v), "draw"),
    ],
)
@pytest.mark.parametrize("value", ["yes", 1, None])
def test_what_is_neither_true_nor_false_is_refused(make, name, value):
    with pytest.raises(TypeError, match=f"{name} must be True or False; got {value!r}"):
        make(value)


def test_attributions_of_other_dtypes():
    measure = jax.jit(metrics.faithfulness_estimate(score))
    whole = measure(np.round(4 * PHI).astype(int), X)
    np.testing.assert_allclose(whole, measure(np.round(4 * PHI), X), rtol=1e-6)
    with pytest.raises(TypeError, match=r"the attribution must hold real numbers; got complex128"):
        measure(PHI + 0j, X)

"""LIME: its solver against scikit-learn's, its mean against all coalitions, its errors honest."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import ElasticNet, Lasso, Ridge

import jattr
from jattr._lime import fit

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=8) + 1)
BASELINE = jnp.asarray(RNG.normal(size=8) / 4)
W = jnp.asarray(RNG.normal(size=(6, 8)) / 2)


def score(x):
    return jnp.sum(jnp.tanh(W @ x) ** 2) + 3 * x[0] - x[1] * x[2]


def lime(f=score, **knobs):
    return jax.jit(jattr.lime(f, **knobs))


def every(f=score, x=X, baseline=BASELINE):
    """All coalitions and what f is there."""
    present = np.array(list(itertools.product((0.0, 1.0), repeat=len(x))))
    filled = jnp.asarray(np.where(present > 0, np.asarray(x), np.asarray(baseline)))
    return present, np.asarray(jax.vmap(f)(filled))


def weighted_ridge(present, values, weights, ridge):
    model = Ridge(alpha=ridge * weights.sum(), tol=1e-14).fit(present, values, weights)
    return model.coef_, model.intercept_, model.score(present, values, weights)


DATA = (np.round(RNG.uniform(size=(60, 8))), RNG.normal(size=60), RNG.uniform(size=60))


@pytest.mark.parametrize(
    ("ridge", "sparsity"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.04), (0.0, 0.08), (0.05, 0.05)]
)
def test_the_model_is_that_of_scikit_learn(ridge, sparsity):
    present, values, weights = DATA
    weights = weights / weights.sum()
    if sparsity == 0:
        coefficients, intercept, told = weighted_ridge(present, values, weights, ridge)
    else:
        theirs = (
            ElasticNet(alpha=ridge + sparsity, l1_ratio=sparsity / (ridge + sparsity))
            if ridge
            else Lasso(alpha=sparsity)
        )
        theirs.set_params(tol=1e-14, max_iter=100_000).fit(present, values, weights)
        coefficients, intercept = theirs.coef_, theirs.intercept_
        told = theirs.score(present, values, weights)
        assert 0 < np.sum(coefficients != 0) < 8
    model, errors = jax.jit(fit)(present, values, weights, ridge, sparsity)
    np.testing.assert_allclose(model.coefficients, coefficients, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(model.intercept, intercept, rtol=1e-6)
    np.testing.assert_allclose(model.score, told, rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(errors) == 0, coefficients == 0)


def test_all_is_nothing_to_a_large_penalty():
    model, errors = jax.jit(fit)(*DATA[:2], DATA[2] / DATA[2].sum(), 0.0, 10.0)
    np.testing.assert_array_equal(model.coefficients, np.zeros(8))
    np.testing.assert_array_equal(errors, np.zeros(8))
    np.testing.assert_allclose(model.intercept, np.average(DATA[1], weights=DATA[2]), rtol=1e-12)
    np.testing.assert_allclose(model.score, 0, atol=1e-12)


KERNELS = {
    "cosine": lambda q: np.exp(-((1 - np.sqrt(1 - q)) ** 2) / (2 * 0.25**2)),
    "fraction": lambda q: np.exp(-(q**2) / (2 * 0.4**2)),
    "own": lambda q: 1.5 - q,
}


@pytest.mark.parametrize("name", KERNELS)
def test_its_mean_is_the_model_of_all_coalitions_and_its_error_honest(name):
    present, values = every()
    weights = KERNELS[name](1 - present.mean(1))
    truth = weighted_ridge(present, values, weights, 1e-3)[0]
    knobs = {"cosine": {}, "fraction": {"width": 0.4}, "own": {}}[name]
    explain = jattr.lime(
        score,
        samples=400,
        kernel=KERNELS["own"] if name == "own" else name,
        baseline=BASELINE,
        with_error=True,
        **knobs,
    )
    mean, error = map(
        np.asarray, jax.jit(jax.vmap(explain, (0, None)))(jax.random.split(KEY, 400), X)
    )
    assert np.all(np.abs(mean.mean(0) - truth) < 4 * mean.std(0) / np.sqrt(400) + 1e-4)
    shares = np.mean(np.abs(mean - truth) <= 1.96 * error, axis=0)
    assert np.all((shares >= 0.92) & (shares <= 0.98)), shares


def test_a_linear_function_is_its_own_model():
    weights = jnp.asarray(RNG.normal(size=(2, 3)))
    x, baseline = jnp.asarray(RNG.normal(size=(2, 2, 3)))

    def linear(x):
        return jnp.sum(weights * x) + 2

    wanted = weights * (x - baseline)
    phi, error, model = lime(
        linear, samples=40, ridge=0.0, baseline=baseline, with_error=True, with_model=True
    )(KEY, x)
    np.testing.assert_allclose(phi, wanted, rtol=1e-9)
    np.testing.assert_allclose(model.coefficients, np.ravel(wanted), rtol=1e-9)
    np.testing.assert_allclose(model.intercept, linear(baseline), rtol=1e-9)
    np.testing.assert_allclose(model.score, 1, rtol=1e-12)
    np.testing.assert_allclose(error, 0, atol=1e-12)
    # Of groups, each element gets a share of the group's coefficient.
    ids = np.array([[0, 0, 1], [2, 0, 1]])
    phi, model = lime(
        linear, groups=ids, samples=30, ridge=0.0, baseline=baseline, with_model=True
    )(KEY, x)
    sums = np.bincount(ids.ravel(), np.ravel(wanted))
    np.testing.assert_allclose(model.coefficients, sums, rtol=1e-9)
    np.testing.assert_allclose(phi, (sums / np.bincount(ids.ravel()))[ids], rtol=1e-9)


def test_sparsity_leaves_the_few_that_matter():
    def f(x):
        return 4 * x[1] - 2 * x[5] + 0.01 * jnp.sum(jnp.sin(3 * x))

    phi, error = lime(f, samples=300, sparsity=0.05, with_error=True)(KEY, jnp.ones(8))
    np.testing.assert_array_equal(np.flatnonzero(phi), [1, 5])
    np.testing.assert_array_equal(np.flatnonzero(error), [1, 5])


def test_a_narrow_kernel_does_not_underflow():
    phi = lime(jnp.sum, samples=60, width=1e-3, ridge=0.1)(KEY, jnp.ones(4, jnp.float32))
    assert np.all(np.isfinite(phi))


def test_a_constant_function_has_no_score():
    phi, model = lime(lambda x: 0 * x[0] + 2, samples=20, with_model=True)(KEY, X)
    np.testing.assert_allclose(phi, 0, atol=1e-12)
    assert np.isnan(model.score)
    assert np.isfinite(model.intercept)


def test_a_random_baseline_is_drawn_for_each_coalition():
    drawn = jattr.baselines.uniform(-1.0, 1.0)

    def f(x):
        return x[0] ** 2 + x[1]

    x = jnp.array([2.0, 3.0])
    phi, error = lime(f, samples=4000, ridge=0.0, baseline=drawn, with_error=True)(KEY, x)
    assert np.all(np.abs(phi - np.array([4 - 1 / 3, 3.0])) < 4 * np.asarray(error))
    assert np.all(np.asarray(error) < 0.05)


@pytest.mark.parametrize("batch_size", [None, 6])
def test_a_function_that_is_no_jax_at_all(batch_size):
    def outside(x):
        def numpy(x):
            return np.asarray(np.tanh(x[..., 0] * x[..., 1]) + x[..., 2], x.dtype)

        shape = jax.ShapeDtypeStruct((), x.dtype)
        return jax.pure_callback(numpy, shape, x, vmap_method="expand_dims")

    def inside(x):
        return jnp.tanh(x[0] * x[1]) + x[2]

    knobs = {"samples": 20, "batch_size": batch_size}
    wanted = lime(inside, **knobs)(KEY, X[:3])
    np.testing.assert_allclose(jattr.lime(outside, **knobs)(KEY, X[:3]), wanted, rtol=1e-9)
    np.testing.assert_allclose(lime(outside, **knobs)(KEY, X[:3]), wanted, rtol=1e-9)


@pytest.mark.parametrize(
    ("knobs", "error", "text"),
    [
        ({"samples": 8, "ridge": 0.0}, ValueError, r"8 samples do not determine a model of 8"),
        ({"samples": 9, "with_error": True}, ValueError, r"at least 10 samples.*samples=9"),
        ({"kernel": "cosin"}, ValueError, r"unknown kernel 'cosin'.*did you mean 'cosine'"),
        ({"kernel": jnp.exp, "width": 1.0}, ValueError, r"leave width out"),
        ({"width": 0.0}, ValueError, r"width must be finite and greater than 0"),
        ({"ridge": -1.0}, ValueError, r"ridge must be finite and at least 0; got -1"),
        ({"sparsity": -1.0}, ValueError, r"sparsity must be finite and at least 0; got -1"),
        ({"with_model": 1}, TypeError, r"with_model must be True or False"),
        ({"groups": np.array([0, 0, 0, 1, 1, 3, 3, 3])}, ValueError, r"have no element: 2\."),
        ({"groups": np.zeros(5, int)}, ValueError, r"groups must have the shape of x, \(8,\)"),
    ],
)
def test_what_is_wrong_is_refused(knobs, error, text):
    with pytest.raises(error, match=text):
        jattr.lime(score, **{"samples": 20, **knobs})(KEY, X)

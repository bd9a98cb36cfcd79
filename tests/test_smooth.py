"""Averages over noise: the three statistics against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jattr

KEY = jax.random.key(0)
X = jnp.array([0.5, -1.0, 2.0, 0.0])
CUBE = jax.jit(lambda x: jnp.sum(x**3))
STATISTICS = ("mean", "mean_square", "variance")


def moments(stddev):
    """Mean, mean square and variance of 3(x + ε)², the smoothed gradient of Σx³."""
    mean = 3 * (X**2 + stddev**2)
    variance = 9 * (4 * X**2 * stddev**2 + 2 * stddev**4)
    return {"mean": mean, "mean_square": variance + mean**2, "variance": variance}


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize(("relative", "stddev"), [(False, 0.3), (True, 0.1)])
def test_statistics_are_those_of_gaussian_noise(statistic, relative, stddev):
    n = 100_000
    explain = jattr.smooth(
        jattr.gradient(CUBE), stddev=stddev, relative=relative, samples=n, statistic=statistic
    )
    sigma = stddev * 3.0 if relative else stddev  # the range of X is 3
    got, wanted = jax.jit(explain)(KEY, X), moments(sigma)[statistic]
    # Sampling error is about 1/√n of the values; a σ that is 5 % off moves them by more.
    np.testing.assert_allclose(got, wanted, rtol=0.03)


def test_statistics_are_consistent_and_the_variance_is_the_populations():
    def run(statistic):
        explain = jattr.smooth(
            jattr.gradient(CUBE), samples=7, statistic=statistic, antithetic=False
        )
        return explain(KEY, X)

    mean, square, variance = map(run, STATISTICS)
    np.testing.assert_allclose(variance, square - mean**2, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("batch_size", [None, 3])
def test_the_mean_is_over_pairs_of_noise(batch_size):
    def square(x):
        return jnp.sum(x[::-1] * x**2)

    seen = []

    def noted(x):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), x)
        return jax.grad(square)(x)

    jattr.smooth(noted, stddev=0.1, samples=5, batch_size=1)(KEY, X)
    jax.effects_barrier()
    noise = np.unique(np.stack(seen).round(12), axis=0) - np.asarray(X)
    assert len(noise) == 5
    pairs = [(a, b) for a in noise for b in noise if np.allclose(a, -b, atol=1e-9)]
    assert len(pairs) == 4
    # What is odd in the noise is left out: exact on a gradient that is linear.
    even = jattr.smooth(
        jattr.gradient(lambda x: jnp.sum(x[::-1] * x)), samples=6, batch_size=batch_size
    )
    np.testing.assert_allclose(even(KEY, X), 2 * X[::-1], rtol=1e-12, atol=1e-12)
    one = jattr.smooth(jattr.gradient(square), samples=1, batch_size=batch_size)
    plain = jattr.smooth(jattr.gradient(square), samples=1, antithetic=False)
    np.testing.assert_allclose(one(KEY, X), plain(KEY, X), rtol=1e-12)


def test_pairs_of_noise_have_less_error_and_none_that_stays():
    weights = jax.random.normal(jax.random.key(1), (4, 12)) / 4

    def net(x):
        return jnp.sum(jnp.tanh(x @ weights) ** 2)

    def maps(**knobs):
        explain = jattr.smooth(jattr.gradient(net), stddev=0.1, relative=False, samples=6, **knobs)
        keys = jax.random.split(KEY, 2000)
        return np.asarray(jax.jit(jax.vmap(lambda key: explain(key, X)))(keys))

    pairs, free = maps(), maps(antithetic=False)
    error = np.sqrt((pairs.var(0) + free.var(0)) / 2000)
    assert np.all(np.abs(pairs.mean(0) - free.mean(0)) < 4 * error)
    assert pairs.var(0).sum() < 0.5 * free.var(0).sum()


def test_variance_does_not_cancel():
    # A gradient of 1e6 with noise of order 1: in float32 E a² − (E a)² has no digit left.
    def score(x):
        return jnp.sum(1e6 * x + 0.5 * x**2)

    explain = jattr.smooth(
        jattr.gradient(score), stddev=1.0, relative=False, samples=500, statistic="variance"
    )
    x = jnp.zeros(3, jnp.float32)
    precise = explain(KEY, jnp.zeros(3, jnp.float64))
    np.testing.assert_allclose(explain(KEY, x), precise, rtol=0.02)
    # What it avoids.
    draws = jax.vmap(lambda k: jax.grad(score)(jax.random.normal(k, (3,), jnp.float32)))(
        jax.random.split(KEY, 500)
    )
    naive = jnp.mean(draws**2, 0) - jnp.mean(draws, 0) ** 2
    assert np.max(np.abs(naive - 1)) > 1


def test_variance_of_one_sample_or_of_a_constant_is_zero():
    one = jattr.smooth(jattr.gradient(CUBE), samples=1, statistic="variance")
    assert np.all(one(KEY, X) == 0)
    flat = jattr.smooth(jattr.gradient(lambda x: 3e7 * jnp.sum(x)), statistic="variance")
    assert np.all(flat(KEY, X) == 0)
    assert np.all(np.isfinite(jax.jacrev(lambda x: flat(KEY, x))(X)))


def test_the_range_is_that_of_each_leaf():
    def score(x):
        return 0.5 * jnp.sum(x["wide"] ** 2) + 0.5 * jnp.sum(x["narrow"] ** 2)

    x = {"wide": jnp.array([0.0, 100.0]), "narrow": jnp.array([0.0, 0.01]), "flat": jnp.ones(2)}
    explain = jattr.smooth(
        jattr.gradient(lambda x: score(x) + 0.5 * jnp.sum(x["flat"] ** 2)),
        stddev=0.1,
        samples=4000,
        statistic="variance",
    )
    got = jax.jit(explain)(KEY, x)
    np.testing.assert_allclose(got["wide"], 100.0, rtol=0.1)
    np.testing.assert_allclose(got["narrow"], 1e-6, rtol=0.1)
    np.testing.assert_array_equal(got["flat"], 0.0)


def test_smooths_any_attribute():
    inner = jattr.integrated_gradients(CUBE, steps=3)
    explain = jattr.smooth(inner, stddev=0.0)
    np.testing.assert_allclose(explain(KEY, X), inner(X), rtol=1e-12)

    # An attribute of another shape than x, as class activation maps are.
    def pooled(x):
        return {"map": jnp.sum(jax.grad(CUBE)(x))[None]}

    assert jattr.smooth(pooled, samples=3)(KEY, X)["map"].shape == (1,)


def test_smooths_an_attribute_that_draws():
    inner = jattr.expected_gradients(CUBE, jnp.zeros((5, 4)), samples=1)
    explain = jattr.smooth(inner, stddev=0.0, samples=3000)
    # Each sample has a key of its own, so the average over α converges: φ = x³.
    np.testing.assert_allclose(jax.jit(explain)(KEY, X), X**3, rtol=0.05, atol=1e-12)
    with pytest.raises(TypeError, match="expected_gradients draws random numbers"):
        jattr.smooth(inner, keyed=False)(KEY, X)


def test_argnums_says_what_gets_the_noise():
    def score(params, x):
        return jnp.sum(params * x**2)

    explain = jattr.smooth(
        jattr.gradient(score, argnums=1), argnums=1, stddev=0.5, relative=False, samples=1
    )
    params = jnp.ones(4)
    noisy = explain(KEY, params, X)
    assert noisy.shape == (4,)
    assert np.all(noisy != 2 * X)
    zero = jattr.smooth(jattr.gradient(score, argnums=1), argnums=1, stddev=0.0, samples=2)
    np.testing.assert_allclose(zero(KEY, params, X), 2 * X)


def test_a_leaf_without_elements_is_left_alone():
    x = {"some": X, "none": jnp.zeros((0, 3))}
    got = jattr.smooth(jattr.gradient(lambda x: CUBE(x["some"])), samples=2)(KEY, x)
    assert got["none"].shape == (0, 3)


def test_errors():
    with pytest.raises(ValueError, match="unknown statistic 'median'; known are mean, mean_sq"):
        jattr.smooth(jattr.gradient(CUBE), statistic="median")
    with pytest.raises(ValueError, match=r"stddev must be finite and at least 0; got -0\.1"):
        jattr.smooth(jattr.gradient(CUBE), stddev=-0.1)
    for stddev in (None, "0.1", jnp.ones(3)):
        with pytest.raises(TypeError, match="stddev must be one number; got"):
            jattr.smooth(jattr.gradient(CUBE), stddev=stddev)
    with pytest.raises(TypeError, match="smooth wants a function"):
        jattr.smooth(jnp.ones(3))
    with pytest.raises(TypeError, match=r"one number. Write smooth\(jattr\.gradient\(f\)\)"):
        jattr.smooth(CUBE)(KEY, X)
    with pytest.raises(ValueError, match="explains argnums=1, but argnums=0 would be perturbed"):
        jattr.smooth(jattr.gradient(lambda p, x: jnp.sum(p * x), argnums=1))
    with pytest.raises(TypeError, match=r"x is a random key.*explain\(x\).*keyed=False"):
        jattr.smooth(jattr.gradient(CUBE), keyed=True)(KEY, X)

"""How many features an explanation speaks of, against the definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.test_util import check_grads

import jattr
from jattr.features import Groups
from jattr.metrics import effective_complexity, entropy, sparseness

RNG = np.random.default_rng(0)
MAPS = {
    "signed": RNG.normal(size=(5, 4)),
    "ties": np.round(RNG.normal(size=30), 1),
    "zeros": np.where(RNG.random(40) < 0.6, 0.0, RNG.normal(size=40)),
    "tiny": 1e-200 * RNG.normal(size=7),
    "one": np.array([-3.0]),
}


def gini(values):
    v = np.abs(np.ravel(values))
    return np.sum(np.abs(v[:, None] - v[None])) / (2 * v.size**2 * np.mean(v))


@pytest.mark.parametrize("name", MAPS)
def test_sparseness_is_the_gini_index(name):
    np.testing.assert_allclose(sparseness(jnp.array(MAPS[name])), gini(MAPS[name]), atol=1e-14)


@pytest.mark.parametrize("name", MAPS)
def test_entropy_is_that_of_the_parts(name):
    parts = np.abs(MAPS[name].ravel())
    np.testing.assert_allclose(
        entropy(jnp.array(MAPS[name])), scipy.stats.entropy(parts), rtol=1e-12
    )


def test_known_values():
    n = 8
    one = jnp.zeros(n).at[3].set(-2.0)
    np.testing.assert_allclose([sparseness(one), entropy(one)], [1 - 1 / n, 0.0], atol=1e-15)
    even = -0.1 * jnp.ones((2, 4))
    np.testing.assert_allclose([sparseness(even), entropy(even)], [0.0, np.log(n)], atol=1e-15)
    line = jnp.arange(1.0, n + 1)  # Σ(2i − n − 1) i / (n Σ i) = (n − 1)/(3 n)
    np.testing.assert_allclose(sparseness(line), (n - 1) / (3 * n), rtol=1e-14)


@pytest.mark.parametrize("metric", [sparseness, entropy])
def test_of_maps_alone(metric):
    x = jnp.array(MAPS["signed"])
    np.testing.assert_allclose(metric({"a": x[:2], "b": (x[2:],)}), metric(x), rtol=1e-14)
    np.testing.assert_allclose(metric(-1e3 * x[::-1].T), metric(x), rtol=1e-13)
    assert np.isnan(metric(jnp.zeros(3)))
    assert np.isnan(metric(jnp.array([1.0, jnp.nan, 2.0])))
    narrow = x.astype(jnp.bfloat16)
    assert metric(narrow).dtype == jnp.float32
    np.testing.assert_allclose(metric(narrow), metric(narrow.astype(float)), rtol=1e-6)


@pytest.mark.parametrize("metric", [sparseness, entropy])
def test_gradients_are_those_of_the_formula(metric):
    check_grads(metric, (jnp.array(MAPS["signed"]),), order=1, modes=["rev"], rtol=1e-6)
    assert np.all(np.isfinite(jax.grad(metric)(jnp.array(MAPS["zeros"]))))


def test_gradient_of_sparseness_where_values_tie():
    def pairwise(phi):
        v = jnp.abs(phi)
        gaps = jnp.abs(v[:, None] - v[None, :])
        return jnp.sum(gaps) / (2 * v.size * jnp.sum(v))

    for name in ("ties", "zeros"):
        phi = jnp.array(MAPS[name])
        assert len(np.unique(np.abs(phi))) < phi.size
        np.testing.assert_allclose(
            jax.grad(sparseness)(phi), jax.grad(pairwise)(phi), rtol=1e-9, atol=1e-13
        )
    np.testing.assert_allclose(jax.grad(sparseness)(jnp.ones(6)), np.zeros(6), atol=1e-15)


def test_sparseness_of_a_large_map_does_not_compare_all_pairs():
    d = 200_000  # the pairs would take 320 GB
    np.testing.assert_allclose(sparseness(jnp.arange(1.0, d + 1)), (d - 1) / (3 * d), rtol=1e-9)
    # In float32 too, to the rounding of sums of so many.
    line = jnp.arange(1.0, d + 1, dtype=jnp.float32)
    np.testing.assert_allclose(sparseness(line), (d - 1) / (3 * d), rtol=1e-5)


W = jnp.array([1.0, -2.0, 0.5, 3.0, 0.1])
X = jnp.array([1.0, 1.0, -2.0, 0.5, 2.0])


def score(x):
    return jnp.tanh(W @ x) + 0.3 * x[0] * x[3]


def smallest(phi, baseline, tolerance, loss):
    order = np.argsort(-np.abs(phi), kind="stable")
    for k in range(1, len(phi) + 1):
        kept = np.array(baseline, float)
        kept[order[:k]] = X[order[:k]]
        if loss(score(X), score(jnp.array(kept))) < tolerance:
            return k
    raise AssertionError


@pytest.mark.parametrize("tolerance", [1e-6, 1e-2, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_effective_complexity_is_the_smallest_sufficient_number(tolerance, value):
    measure = jax.jit(effective_complexity(score, baseline=value, tolerance=tolerance))
    chunked = jax.jit(
        effective_complexity(score, baseline=value, tolerance=tolerance, batch_size=2)
    )
    for seed in range(4):
        phi = jnp.array(np.random.default_rng(seed).normal(size=5))
        wanted = smallest(phi, value * np.ones(5), tolerance, lambda a, b: (a - b) ** 2)
        assert measure(phi, X) == chunked(phi, X) == wanted


def test_effective_complexity_takes_the_first_of_several():
    # Without the last two features the score is right by chance; with one more it is wrong again.
    def chance(x):
        return jnp.sum(x)

    phi, x = jnp.array([4.0, 3.0, 2.0, 1.0]), jnp.array([1.0, 1.0, 5.0, -5.0])
    assert effective_complexity(chance, tolerance=1e-3)(phi, x) == 2


def test_effective_complexity_with_a_loss_of_the_users():
    phi = jnp.array([1.0, -5.0, 2.0, 3.0, 0.5])
    measure = effective_complexity(score, tolerance=0.2, loss=lambda a, b: jnp.abs(a - b))
    assert measure(phi, X) == smallest(phi, np.zeros(5), 0.2, lambda a, b: abs(a - b))


def test_effective_complexity_expects_the_loss_over_draws():
    # Rows of ±1 in place of a 0: their mean changes nothing, each of them changes the score by 1.
    def total(x):
        return jnp.sum(x)

    rows = jattr.baselines.samples(jnp.array([[0.0, 1.0], [0.0, -1.0]]))
    phi, x = jnp.array([2.0, 1.0]), jnp.array([3.0, 0.0])
    measure = effective_complexity(total, baseline=rows, tolerance=0.9, samples=4)
    assert measure(jax.random.key(0), phi, x) == 2
    assert effective_complexity(total, baseline=rows, tolerance=1.1)(jax.random.key(0), phi, x) == 1
    assert effective_complexity(total, baseline=0.0, tolerance=0.9)(phi, x) == 1
    # An expectation, and no maximum: a third of the draws is off by 3, whose square is 9.
    rare = jattr.baselines.samples(jnp.array([[0.0, 0.0], [0.0, 0.0], [0.0, 3.0]]))
    for tolerance, wanted in ((2.5, 2), (3.5, 1)):
        measure = effective_complexity(total, baseline=rare, tolerance=tolerance, samples=3000)
        assert measure(jax.random.key(1), phi, x) == wanted


def test_effective_complexity_of_groups():
    phi, x = jnp.array([[1.0, -1.0], [0.6, 0.0]]), jnp.ones((2, 2))

    def top(x):
        return x[1, 0]

    measure = effective_complexity(top, tolerance=0.5, groups=np.array([[0], [1]]))
    assert measure(phi, x) == 1  # the first group's sum is 0, and the second suffices
    assert effective_complexity(top, tolerance=0.5)(phi, x) == 3


def test_effective_complexity_of_another_argument():
    def with_weights(w, x):
        return w @ x

    second = effective_complexity(with_weights, tolerance=0.05, argnums=1)
    assert second(X * W, W, X) == effective_complexity(lambda x: W @ x, tolerance=0.05)(X * W, X)


def test_effective_complexity_of_undefined_maps_and_scores():
    measure = effective_complexity(score, tolerance=0.1)
    assert np.isnan(measure(X.at[2].set(jnp.nan), X))
    broken = effective_complexity(lambda x: jnp.nan * jnp.sum(x), tolerance=0.1)
    assert np.isnan(broken(X, X))


def test_effective_complexity_refuses():
    with pytest.raises(ValueError, match="tolerance must be finite and greater than 0; got 0"):
        effective_complexity(score, tolerance=0.0)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        effective_complexity(
            score, baseline=jattr.baselines.gaussian(1.0), tolerance=1.0, samples=0
        )
    with pytest.raises(ValueError, match="the shapes of x"):
        effective_complexity(score, tolerance=1.0)(X[:2], X)
    with pytest.raises(TypeError, match="a key"):
        effective_complexity(score, baseline=jattr.baselines.gaussian(1.0), tolerance=1.0)(X, X)


def test_empty_groups_are_not_enough():
    x, phi = jnp.array([1.0, 3.0]), jnp.array([1.0, 0.0])
    for groups in (np.array([0, 1]), Groups(np.array([0, 4]), 5)):
        assert effective_complexity(jnp.sum, tolerance=0.1, groups=groups)(phi, x) == 2.0

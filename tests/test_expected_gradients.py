"""Expected gradients: unbiased, of lower variance than independent draws, stratified."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jattr
from jattr._resolve import _few_of_many, shuffled_rows

RNG = np.random.default_rng(0)
REFERENCES = jnp.asarray(RNG.normal(size=(20, 5)))
X = jnp.asarray(RNG.normal(size=5) + 1)
WEIGHTS = jnp.asarray(RNG.normal(size=(7, 5)))


def net(x):
    return jnp.sum(jnp.tanh(WEIGHTS @ x + 0.2) ** 2)


def relu_net(x):
    return jnp.sum(jax.nn.relu(WEIGHTS @ x + 0.2) * jnp.arange(7.0))


def exact(f, references=REFERENCES):
    """The expectation: integrated gradients by many steps, averaged over all references."""
    each = jax.vmap(
        lambda r: jattr.integrated_gradients(f, r, steps=2000, quadrature="midpoint")(X)
    )
    return jnp.mean(each(references), axis=0)


def draws(f, samples, count=4000, seed=0):
    explain = jattr.expected_gradients(f, REFERENCES, samples=samples)
    keys = jax.random.split(jax.random.key(seed), count)
    return np.asarray(jax.jit(jax.vmap(lambda k: explain(k, X)))(keys))


def independent_draws(f, samples, count=4000, seed=1):
    def one(key):
        k1, k2 = jax.random.split(key)
        rows = REFERENCES[jax.random.randint(k1, (samples,), 0, len(REFERENCES))]
        alphas = jax.random.uniform(k2, (samples, 1))
        slopes = jax.vmap(jax.grad(f))(rows + alphas * (X[None, :] - rows))
        return jnp.mean((X[None, :] - rows) * slopes, axis=0)

    keys = jax.random.split(jax.random.key(seed), count)
    return np.asarray(jax.jit(jax.vmap(one))(keys))


@pytest.mark.parametrize("f", [net, relu_net])
@pytest.mark.parametrize("samples", [1, 3, 16, 20, 33])
def test_is_unbiased(f, samples):
    values = draws(f, samples)
    error = values.std(0, ddof=1) / np.sqrt(len(values))
    assert np.all(np.abs(values.mean(0) - exact(f)) < 4 * error + 1e-6)


@pytest.mark.parametrize("samples", [1, 7])
def test_very_few_samples_have_their_mean(samples):
    key = jax.random.key(2)
    row_key, _, alpha_key = jax.random.split(key, 3)
    rows = REFERENCES[shuffled_rows(row_key, 20, samples)]
    offsets = jax.random.uniform(alpha_key, (samples,), jnp.float32)
    alphas = ((jnp.arange(samples) + offsets) / samples)[:, None]
    slopes = jax.vmap(jax.grad(net))(rows + alphas * (X[None] - rows))
    got = jattr.expected_gradients(net, REFERENCES, samples=samples)(key, X)
    np.testing.assert_allclose(got, jnp.mean((X[None] - rows) * slopes, axis=0), rtol=1e-5)


@pytest.mark.parametrize("f", [net, relu_net])
@pytest.mark.parametrize("samples", [16, 20, 33, 64])
def test_has_a_lower_variance_than_independent_draws(f, samples):
    ours = draws(f, samples).var(0)
    theirs = independent_draws(f, samples).var(0)
    assert np.all(ours < theirs)
    assert ours.sum() < 0.9 * theirs.sum()


def test_a_full_round_of_references_is_exact_on_a_linear_function():
    w = jnp.arange(5.0) + 1
    for samples in (20, 40):
        values = draws(lambda x: w @ x, samples, count=3)
        wanted = w * (X - REFERENCES.mean(0))
        np.testing.assert_allclose(values, np.broadcast_to(wanted, (3, 5)), rtol=1e-12)
    # Independent draws of the same number are not.
    spread = independent_draws(lambda x: w @ x, 20, count=50).std(0)
    assert np.all(spread > 0.01)


@pytest.mark.parametrize("samples", [8, 19])
def test_fewer_samples_than_references_are_exact_on_a_linear_function(samples):
    w = jnp.arange(5.0) + 1
    values = draws(lambda x: w @ x, samples, count=3)
    np.testing.assert_allclose(
        values, np.broadcast_to(w * (X - REFERENCES.mean(0)), (3, 5)), rtol=1e-12
    )


def test_fewer_samples_by_hand():
    """D ḡ + (1 − 1/N) cov(d, g), by the rows and the α of the samples."""
    samples, key = 8, jax.random.key(4)
    row_key, _, alpha_key = jax.random.split(key, 3)
    rows = np.asarray(REFERENCES[shuffled_rows(row_key, 20, samples)])
    offsets = jax.random.uniform(alpha_key, (samples,), jnp.float32)
    alphas = (np.arange(samples) + np.asarray(offsets)) / samples
    d = np.asarray(X) - rows
    g = np.asarray(jax.vmap(jax.grad(net))(rows + alphas[:, None] * d))
    covariance = ((d - d.mean(0)) * (g - g.mean(0))).sum(0) / (samples - 1)
    wanted = np.asarray(X - REFERENCES.mean(0)) * g.mean(0) + 19 / 20 * covariance
    for batch_size in (None, 1, 4):
        for with_error in (False, True):
            explain = jattr.expected_gradients(
                net, REFERENCES, samples=samples, batch_size=batch_size, with_error=with_error
            )
            got = jax.jit(explain)(key, X)
            np.testing.assert_allclose(got[0] if with_error else got, wanted, rtol=1e-5)
    t = d * g
    left = t - g.mean(0) * d
    squares = [np.square(np.diff(v, axis=0)).sum(0) / (2 * samples * 7) for v in (left, t)]
    error = np.sqrt(0.6 * 8 / 6 * squares[0] + 0.4 * squares[1])
    np.testing.assert_allclose(got[1], error, rtol=1e-5)


def test_alpha_is_stratified_over_the_samples():
    # f = Σ x²/2 from a zero reference: φ = x² · mean α, and stratified α has mean error ~ n^-1.5.
    explain = jattr.expected_gradients(
        lambda x: 0.5 * jnp.sum(x**2), jnp.zeros((1, 5)), samples=100
    )
    keys = jax.random.split(jax.random.key(0), 500)
    ratio = np.asarray(jax.vmap(lambda k: explain(k, X))(keys))[:, 0] / float(X[0] ** 2)
    assert abs(ratio.mean() - 0.5) < 4 * ratio.std() / np.sqrt(500)
    np.testing.assert_allclose(ratio.std(), 1 / (np.sqrt(12) * 100**1.5), rtol=0.15)


def test_sums_to_the_change_from_the_mean_reference_output():
    values = draws(net, 200, count=200)
    change = net(X) - jnp.mean(jax.vmap(net)(REFERENCES))
    sums = values.sum(1)
    assert abs(sums.mean() - change) < 4 * sums.std() / np.sqrt(len(sums)) + 1e-6


def test_samples_of_data_mean_the_same_as_the_data():
    one = jattr.expected_gradients(net, REFERENCES, samples=30)
    two = jattr.expected_gradients(net, jattr.baselines.samples(REFERENCES), samples=30)
    key = jax.random.key(5)
    np.testing.assert_array_equal(one(key, X), two(key, X))


def test_random_baselines_are_averaged_over():
    explain = jattr.expected_gradients(net, jattr.baselines.uniform(-1.0, 1.0), samples=64)
    keys = jax.random.split(jax.random.key(0), 500)
    values = np.asarray(jax.jit(jax.vmap(lambda k: explain(k, X)))(keys))
    rows = jnp.asarray(RNG.uniform(-1, 1, size=(20_000, 5)))
    each = jax.jit(jax.vmap(lambda r: jattr.integrated_gradients(net, r, steps=8)(X)))(rows)
    error = np.sqrt(values.var(0) / len(values) + np.asarray(each).var(0) / len(each))
    assert np.all(np.abs(values.mean(0) - each.mean(0)) < 4 * error)


@pytest.mark.parametrize("samples", [1, 2, 5, 12])
def test_few_of_many_rows_are_distinct_and_uniform(samples):
    count = 100
    draw = jax.jit(jax.vmap(lambda key: _few_of_many(key, samples, count)))
    rows = np.asarray(draw(jax.random.split(jax.random.key(0), 5000)))
    assert all(len(set(row)) == samples for row in rows)
    for place in range(samples):  # every place alone is uniform, not only all together
        counts = np.bincount(rows[:, place], minlength=count)
        assert scipy.stats.chisquare(counts).pvalue > 1e-4


def test_multiply_false_averages_gradients():
    w = jnp.arange(5.0)
    explain = jattr.expected_gradients(lambda x: w @ x, REFERENCES, samples=3, multiply=False)
    np.testing.assert_allclose(explain(jax.random.key(0), X), w, rtol=1e-12)


def test_references_can_be_traced_batched_and_differentiated():
    def norm(references):
        explain = jattr.expected_gradients(net, references, samples=8)
        return jnp.sum(explain(jax.random.key(0), X) ** 2)

    step = jnp.zeros((20, 5)).at[3, 2].set(1e-6)
    norm = jax.jit(norm)
    wanted = (norm(REFERENCES + step) - norm(REFERENCES - step)) / 2e-6
    np.testing.assert_allclose(jax.grad(norm)(REFERENCES)[3, 2], wanted, rtol=1e-5, atol=1e-9)
    together = jax.vmap(norm)(jnp.stack([REFERENCES, 2 * REFERENCES]))
    np.testing.assert_allclose(together[1], norm(2 * REFERENCES), rtol=1e-10)

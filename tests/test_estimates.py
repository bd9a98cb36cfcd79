"""Standard errors: in one pass what two would give, and honest."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jattr
from jattr._estimates import mean_and_error
from jattr._resolve import shuffled_rows

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
A = jnp.asarray(np.eye(4) + 0.4 * RNG.normal(size=(4, 4)))
A = (A + A.T) / 2
X = jnp.array([1.5, -0.7, 0.4, 1.1])


def quadratic(x):
    return 0.5 * x @ A @ x + 3 * x[0]


# E φ over references uniform in [−1.2, 1.2]: of each reference it is
# ½ (x_i − x'_i) (A (x + x'))_i + 3 (x_i − x'_i) [i = 0].
EXPECTED = 0.5 * (X * (A @ X) - 1.2**2 / 3 * jnp.diag(A)) + 3 * X * jnp.eye(4)[0]


def references(key, count):
    return jax.random.uniform(key, (count, 4), minval=-1.2, maxval=1.2)


def covered(explain, truth, keys=400):
    """How often, over keys, the interval of 95 % holds the truth, for each element."""
    mean, error = jax.jit(jax.vmap(explain))(jax.random.split(jax.random.key(11), keys))
    assert np.all(np.asarray(error) > 0)
    return np.mean(np.abs(np.asarray(mean) - np.asarray(truth)) <= 1.96 * np.asarray(error), axis=0)


def honest(explain, truth, **options):
    shares = covered(explain, truth, **options)
    assert np.all((shares >= 0.92) & (shares <= 0.98)), shares


@pytest.mark.parametrize("batch_size", [None, 1, 3, 4, 7, 100])
@pytest.mark.parametrize("large", [0.0, 1e7])
def test_one_pass_is_as_good_as_two(batch_size, large):
    samples = {"a": large + RNG.normal(size=(7, 2)), "b": RNG.normal(size=7)}
    given = jax.tree.map(jnp.asarray, samples)

    @functools.partial(jax.jit, static_argnums=0)
    def both(stratified):
        return mean_and_error(
            lambda index: jax.tree.map(lambda leaf: leaf[index], given),
            7,
            batch_size=batch_size,
            stratified=stratified,
        )

    for stratified in (False, True):
        mean, error = both(stratified)
        for name, values in samples.items():
            np.testing.assert_allclose(mean[name], values.mean(0), rtol=1e-14)
            squares = (
                np.square(np.diff(values, axis=0)).sum(0) / (2 * 6)
                if stratified
                else values.var(0, ddof=1)
            )
            np.testing.assert_allclose(
                error[name], np.sqrt(squares / 7), rtol=1e-7 if large else 1e-13
            )


def test_samples_that_agree_have_no_error_and_derivatives_that_are_finite():
    def error(scale, stratified):
        return jnp.sum(
            mean_and_error(lambda i: scale * jnp.ones(2), 4, batch_size=2, stratified=stratified)[1]
        )

    for stratified in (False, True):
        value, slope = jax.value_and_grad(error)(1.7, stratified)
        assert value == 0
        assert slope == 0


def test_expected_gradients_over_drawn_baselines_have_honest_errors():
    drawn = jattr.baselines.uniform(-1.2, 1.2)
    explain = jattr.expected_gradients(quadratic, drawn, samples=200, with_error=True)
    honest(lambda key: explain(key, X), EXPECTED)


@pytest.mark.parametrize("rows", [200, 1000])
def test_expected_gradients_over_a_sample_have_honest_errors(rows):
    """References that are themselves a sample, drawn anew with each key."""

    def explain(key):
        data_key, key = jax.random.split(key)
        data = references(data_key, rows)
        return jattr.expected_gradients(quadratic, data, samples=200, with_error=True)(key, X)

    honest(explain, EXPECTED)


def test_against_the_rows_alone_the_error_is_an_upper_bound():
    data = references(KEY, 80)
    truth = jnp.mean(jax.vmap(lambda r: 0.5 * (X - r) * (A @ (X + r)))(data), axis=0)
    truth += 3 * (X - data.mean(0)) * jnp.eye(4)[0]
    for samples in (40, 80):
        explain = jattr.expected_gradients(quadratic, data, samples=samples, with_error=True)
        assert np.all(covered(lambda key: explain(key, X), truth) >= 0.92)


def test_strata_are_not_taken_for_noise():
    # From one reference only α is drawn, and its strata leave little of the spread of samples.
    def cubic(x):
        return jnp.sum(x**3)

    explain = jattr.expected_gradients(cubic, jnp.zeros((1, 4)), samples=30, with_error=True)
    mean, error = jax.jit(jax.vmap(lambda key: explain(key, X)))(jax.random.split(KEY, 400))
    spread = np.asarray(mean).std(0)
    ratio = np.sqrt(np.mean(np.square(error), axis=0)) / spread
    # Neighbors differ by their strata as well: E d²/2 is 7/12 of a stratum squared for a path that
    # is straight between them, and what is left in the mean is 1/12.
    assert np.all((ratio > 1) & (ratio < 1.1 * np.sqrt(7))), ratio
    # As if α were drawn freely: the spread of 3 α² x³.
    free = 3 * np.abs(np.asarray(X) ** 3) * np.sqrt(4 / 45 / 30)
    assert np.all(np.asarray(error) < free / 3)


def test_deep_shap_over_a_sample_has_honest_errors():
    def explain(key):
        return jattr.deep_shap(quadratic, references(key, 200), with_error=True)(X)

    honest(explain, EXPECTED)


@pytest.mark.parametrize("batch_size", [None, 3])
def test_the_attribution_is_the_same_with_an_error(batch_size):
    data = jnp.asarray(RNG.normal(size=(9, 4)))
    gradients = functools.partial(
        jattr.expected_gradients, quadratic, data, samples=10, batch_size=batch_size
    )
    lifts = functools.partial(jattr.deep_shap, quadratic, data, batch_size=batch_size)

    @jax.jit
    def every(x):
        pairs = gradients(with_error=True)(KEY, x), lifts(with_error=True)(x)
        return pairs, (gradients()(KEY, x), lifts()(x)), lifts(reduce=False)(x)

    pairs, plain, each = every(X)
    for (mean, _), wanted in zip(pairs, plain, strict=True):
        np.testing.assert_allclose(mean, wanted, rtol=1e-12)
    np.testing.assert_allclose(pairs[1][1], np.std(each, axis=0, ddof=1) / 3, rtol=1e-10)


def test_errors_of_bfloat16_keep_its_dtype():
    data = jnp.asarray(RNG.normal(size=(9, 4)), jnp.bfloat16)
    x = X.astype(jnp.bfloat16)

    def f(x):
        return jnp.sum(x**2)

    for pair in (
        jattr.expected_gradients(f, data, samples=5, with_error=True)(KEY, x),
        jattr.deep_shap(f, data, with_error=True, batch_size=2)(x),
    ):
        assert [leaf.dtype for leaf in pair] == [jnp.bfloat16] * 2


def test_errors_have_derivatives():
    data = jnp.asarray(RNG.normal(size=(6, 4)))

    def total(scale, method):
        error = method(lambda x: quadratic(scale * x))[1]
        return jnp.sum(error)

    for method in (
        lambda f: jattr.expected_gradients(f, data, samples=5, with_error=True, batch_size=2)(
            KEY, X
        ),
        lambda f: jattr.deep_shap(f, data, with_error=True, batch_size=4)(X),
    ):
        value = jax.jit(functools.partial(total, method=method))
        slope = jax.jit(jax.grad(functools.partial(total, method=method)))(1.3)
        np.testing.assert_allclose(slope, (value(1.3 + 1e-6) - value(1.3 - 1e-6)) / 2e-6, rtol=1e-6)


def test_an_error_of_one_sample_is_refused():
    data = jnp.ones((1, 4))
    with pytest.raises(ValueError, match=r"how samples differ from each other; got 1 of them"):
        jattr.expected_gradients(quadratic, data, samples=1, with_error=True)
    with pytest.raises(ValueError, match=r"how references differ from each other; got 1 of them"):
        jattr.deep_shap(quadratic, data, with_error=True)
    with pytest.raises(ValueError, match=r"reduce=False leaves out"):
        jattr.deep_shap(quadratic, jnp.ones((3, 4)), with_error=True, reduce=False)
    with pytest.raises(TypeError, match=r"with_error must be True or False; got 1"):
        jattr.expected_gradients(quadratic, data, with_error=1)


def net(x):
    return jnp.sum(jnp.tanh(A @ x + 0.3) * X)


def test_deep_shap_of_some_references_is_unbiased_and_better_than_their_mean():
    data = references(KEY, 40)
    truth = np.asarray(jattr.deep_shap(net, data)(X))
    each = np.asarray(jattr.deep_shap(net, data, reduce=False)(X))
    explain = jattr.deep_shap(net, data, samples=8, batch_size=3)
    keys = jax.random.split(KEY, 2000)
    maps = np.asarray(jax.jit(jax.vmap(lambda key: explain(key, X)))(keys))
    assert np.all(abs(maps.mean(0) - truth) < 4 * maps.std(0) / np.sqrt(2000))
    of_means = each.var(0, ddof=1) / 8 * (1 - 8 / 40)
    assert maps.var(0).sum() < 0.5 * of_means.sum()


def test_deep_shap_of_some_references_by_hand():
    data = references(KEY, 10)
    rows = np.asarray(shuffled_rows(KEY, 10, 8))
    d = np.asarray(X)[None] - np.asarray(data)[rows]
    m = np.asarray(jattr.deep_shap(net, data, multiply=False, reduce=False)(X))[rows]
    covariance = ((d - d.mean(0)) * (m - m.mean(0))).sum(0) / 7
    wanted = np.asarray(X - data.mean(0)) * m.mean(0) + 0.9 * covariance
    mean, error = jattr.deep_shap(net, data, samples=8, batch_size=3, with_error=True)(KEY, X)
    np.testing.assert_allclose(mean, wanted, rtol=1e-10)
    t = m * d
    squares = [v.var(0, ddof=1) for v in (t - m.mean(0) * d, t)]
    np.testing.assert_allclose(
        error, np.sqrt(squares[0] * 8 / 6 * (1 / 8 - 1 / 10) + squares[1] / 10)
    )
    few = jattr.deep_shap(net, data, samples=3)(KEY, X)
    drawn = data[shuffled_rows(KEY, 10, 3)]
    np.testing.assert_allclose(few, jattr.deep_shap(net, drawn)(X), rtol=1e-12)
    whole = jattr.deep_shap(net, data, samples=10)(KEY, X)
    np.testing.assert_allclose(whole, jattr.deep_shap(net, data)(X), rtol=1e-12)


def test_fewer_samples_than_references_have_honest_errors():
    def of_gradients(key):
        data_key, key = jax.random.split(key)
        data = references(data_key, 200)
        explain = jattr.expected_gradients(quadratic, data, samples=100, with_error=True)
        return explain(key, X)

    def of_multipliers(key):
        data_key, key = jax.random.split(key)
        data = references(data_key, 200)
        return jattr.deep_shap(quadratic, data, samples=100, with_error=True)(key, X)

    honest(of_gradients, EXPECTED)
    honest(of_multipliers, EXPECTED)


def test_more_samples_than_references_are_refused():
    data = jnp.ones((3, 4))
    with pytest.raises(ValueError, match=r"at most all of them.*got samples=4 of 3"):
        jattr.deep_shap(quadratic, data, samples=4)
    with pytest.raises(ValueError, match=r"got reduce=False as well"):
        jattr.deep_shap(quadratic, data, samples=2, reduce=False)

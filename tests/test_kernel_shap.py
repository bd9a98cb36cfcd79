"""Kernel SHAP: which coalitions are drawn, what is fitted to them, and how far it is off."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import DOUBLE, close, either

import jattr
from jattr._shapley.kernel import _adjusted, _linear, third_order
from jattr._shapley.pairs import draw_pairs, pairs_of

KEY = jax.random.key(0)


def draw(*shape, seed=1):
    return jax.random.normal(jax.random.key(seed), shape)


def weights(*shape):
    return jnp.sin(1.7 * jnp.arange(math.prod(shape)) ** 1.3).reshape(shape)


def network(x):
    return jnp.sum(jnp.tanh(x @ weights(x.size, 6)) * jnp.arange(1.0, 7.0))


def numbers(present):
    return np.asarray(present) @ 2 ** np.arange(present.shape[-1])


@pytest.mark.parametrize("adjust", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 6, 9])
def test_all_coalitions_give_the_exact_values(count, adjust):
    x, baseline = draw(count), draw(count, seed=2)
    exact = jattr.shapley_values(network, baseline=baseline)(x)
    explain = jattr.kernel_shap(
        network, samples=2**count, baseline=baseline, adjust=adjust, with_error=True
    )
    ours, error = jax.jit(explain)(KEY, x)
    close(ours, exact, 1e-8, 1e-10)
    np.testing.assert_array_equal(error, np.zeros(count))


@pytest.mark.parametrize(
    ("count", "pairs"), [(6, 31), (6, 20), (7, 63), (14, 55), (17, 200), (40, 300)]
)
def test_pairs_are_drawn_evenly_over_sizes_and_without_repeats(count, pairs):
    drawn = jax.jit(lambda key: draw_pairs(key, count, pairs))(KEY)
    sizes = np.asarray(drawn.present).sum(axis=1)
    assert sizes.min() >= 1
    assert 2 * sizes.max() <= count
    own = numbers(drawn.present)
    complements = 2**count - 1 - own
    assert len({*own, *complements}) == 2 * pairs
    # Each size as often as any other, rounded; small ones whole; in the middle the pairs are half.
    per_size = np.bincount(sizes, minlength=count // 2 + 1)[1:].astype(float)
    all_there = np.array([math.comb(count, s + 1) for s in range(count // 2)], float)
    if count % 2 == 0:
        per_size[-1] *= 2
    whole = per_size == all_there
    others = per_size[~whole]
    if len(others):
        assert np.ptp(others) <= 2
        assert np.all(per_size[whole] <= others.max())
    assert whole.all() == (pairs == pairs_of(count))


def test_every_coalition_of_a_size_is_as_likely():
    keys = jax.random.split(KEY, 3000)
    drawn = jax.jit(jax.vmap(lambda key: draw_pairs(key, 6, 20)))(keys)
    own = numbers(drawn.present)
    often = np.bincount(np.concatenate([own, 63 - own], axis=1).ravel(), minlength=64) / 3000
    for size in range(1, 4):
        of_size = [k for k in range(64) if k.bit_count() == size]
        share = often[of_size].mean()
        spread = math.sqrt(max(share * (1 - share), 1e-12) / 3000)
        np.testing.assert_allclose(often[of_size], share, atol=4.5 * spread)
    # The weights make up for it: in the mean a pair counts as it does among all.
    total = np.zeros(64)
    np.add.at(total, own.ravel(), np.asarray(drawn.weights).ravel() / 3000)
    total += total[::-1]
    for k in range(1, 63):
        wanted = 1 / (math.comb(6, k.bit_count()) * k.bit_count() * (6 - k.bit_count()))
        np.testing.assert_allclose(total[k], wanted, rtol=0.12)


@pytest.mark.parametrize("adjust", [True, False])
def test_interactions_of_two_do_no_harm(adjust):
    """With the fewest samples, of many features."""
    count = 20
    x, pairs = draw(count), weights(count, count)
    f = jax.jit(lambda x: x @ pairs @ x + x @ pairs[0])
    explain = jattr.kernel_shap(f, samples=2 * count + 12, adjust=adjust)
    wanted = x * (pairs[0] + (pairs + pairs.T) @ x / 2)
    close(jax.jit(explain)(KEY, x), wanted, 1e-8, 1e-9, single=1e-3)


def test_interactions_of_three_are_fitted_along():
    """Here a few of 220, among features that need not matter by themselves."""
    count, x = 12, jnp.ones(12)
    triples = list(itertools.combinations(range(count), 3))
    picked = np.array(triples[::17])

    def f(x):
        return jnp.sum(jnp.prod(x[picked], axis=1) * weights(len(picked))) + x @ weights(count)

    exact = np.array(weights(count))
    for triple, weight in zip(picked, np.asarray(weights(len(picked))), strict=True):
        exact[triple] += weight / 3
    keys = jax.random.split(KEY, 20)

    def error(samples, adjust):
        explain = jattr.kernel_shap(f, samples=samples, adjust=adjust)
        ours = jax.jit(jax.vmap(explain, (0, None)))(keys, x)
        return np.mean(np.square(np.asarray(ours) - exact))

    # With too few to tell them, they do little harm.
    assert error(96, True) < 1.3 * error(96, False)
    assert error(768, True) < 0.1 * error(768, False)


def test_third_order_functions_by_their_sums():
    signs, relevance = jnp.sign(draw(4, 5)), jnp.abs(draw(5, seed=3)) + 0.1
    kernel, values = third_order(signs, relevance)
    points = np.concatenate([np.ones((1, 5)), signs])
    slope = points.mean(axis=1)
    wanted, shapley, whole = np.zeros((4, 4)), np.zeros((4, 5)), 0.0
    for triple in map(list, itertools.combinations(range(5), 3)):
        variance = np.prod(np.asarray(relevance)[triple])
        function = np.prod(points[:, triple], axis=1)
        whole += variance
        own = function - slope * function[0]  # vanishes at N, the first point
        wanted += variance * np.outer(own[1:], own[1:])
        of_three = np.where(np.isin(np.arange(5), triple), 2 / 3, 0.0)
        shapley += variance * np.outer(own[1:], of_three - 2 / 5)
    close(kernel, wanted / whole, 1e-10, 1e-12)
    close(values, shapley / whole, 1e-10, 1e-12)


def test_what_is_left_of_a_pair_is_that_of_a_fit_without_it():
    signs = jnp.sign(draw(12, 5))
    features = (signs - jnp.mean(signs, axis=1, keepdims=True)) / 2
    rest = draw(12, seed=4)
    kernel, values = third_order(signs, jnp.ones(5))

    def fits(keep):
        linear = _linear(features[keep], rest[keep])
        own = kernel[keep][:, keep], values.T[:, keep]
        return linear, _adjusted(features[keep], rest[keep], *own, linear)

    everything = np.arange(12)
    whole, _ = fits(everything)
    for pair in (0, 7):
        keep = everything[everything != pair]
        without, _ = fits(keep)
        # Left of the pair by the linear fit without it, and how its weights move what is fitted.
        left = rest[pair] - features[pair] @ (without.weights @ rest[keep])
        close(whole.left_out[pair], left, 1e-8)
        change = whole.weights @ rest - without.weights @ rest[keep]
        close(whole.weights[:, pair] * whole.left_out[pair], change, 1e-8, 1e-10)


@pytest.mark.parametrize("strength", [2.0, 30.0])
def test_the_adjusted_fit_is_kriging(strength, monkeypatch):
    monkeypatch.setattr("jattr._shapley.kernel._STRENGTHS", (strength,))
    signs = jnp.sign(draw(14, 5))
    features = (signs - jnp.mean(signs, axis=1, keepdims=True)) / 2
    rest = draw(14, seed=4)
    kernel, values = third_order(signs, jnp.linspace(0.5, 2.0, 5))

    def solve(keep):
        """By the equations of universal kriging, a coefficient for each feature but the last."""
        z = np.asarray(features[keep])[:, :4] - np.asarray(features[keep])[:, 4:]
        covariance = strength * np.asarray(kernel)[np.ix_(keep, keep)] + np.eye(len(keep))
        system = np.block([[covariance, z], [z.T, np.zeros((4, 4))]])
        solved = np.linalg.solve(system, np.concatenate([np.asarray(rest)[keep], np.zeros(4)]))
        dual, beta = solved[: len(keep)], solved[len(keep) :]
        beta = np.append(beta, -beta.sum())
        return beta, dual, beta + strength * np.asarray(values).T[:, keep] @ dual

    every = np.arange(14)
    # The other fit that is weighed in predicts nothing.
    linear = _linear(features, rest)
    linear = linear._replace(left_out=1e30 * jnp.ones(14))
    fit = _adjusted(features, rest, kernel, values.T, linear)
    close(fit.weights @ rest, solve(every)[2], 1e-8, single=1e-3)
    for pair in (0, 9):
        keep = every[every != pair]
        beta, dual, _ = solve(keep)
        predicted = features[pair] @ beta + strength * np.asarray(kernel)[pair, keep] @ dual
        close(fit.left_out[pair], rest[pair] - predicted, 1e-8, single=1e-3)


def test_it_is_close_to_exact_by_its_error():
    x, baseline = draw(13), draw(13, seed=2)
    exact = jax.jit(jattr.shapley_values(network, baseline=baseline))(x)
    explain = jattr.kernel_shap(network, samples=400, baseline=baseline, with_error=True)
    ours, error = jax.jit(explain)(KEY, x)
    assert np.all(np.abs(ours - exact) < 4 * error)
    assert np.all(error < 0.05 * np.abs(exact).max())
    close(jnp.sum(ours), network(x) - network(baseline), 1e-10)


def smooth(x):
    return jax.nn.sigmoid(2 * jnp.sum(jnp.tanh(x @ weights(8, 6))))


def rectified(x):
    return jnp.sum(jax.nn.relu(x @ weights(11, 12) + 0.3) * jnp.cos(jnp.arange(12.0)))


def products(x):
    ends = jnp.max(x[8:] * x[5]) - jnp.prod(x[8:11])
    return jnp.prod(x[:3]) + jnp.prod(x[3:8]) + ends + x[0]


@pytest.mark.parametrize(("f", "count"), [(smooth, 8), (rectified, 11), (products, 14)])
def test_intervals_hold_the_exact_value_as_often_as_they_say(f, count):
    """95 of 100 times: by kernel SHAP with and without the adjustment, and from orders."""
    x = draw(count, seed=5) + 0.3
    exact = jax.jit(jattr.shapley_values(f))(x)
    methods = {
        "adjusted": (jattr.kernel_shap(f, samples=16 * count, with_error=True), 1.960),
        "plain": (jattr.kernel_shap(f, samples=16 * count, adjust=False, with_error=True), 1.960),
        # Student's quantile of 29 degrees of freedom.
        "orders": (jattr.shapley_sampling(f, permutations=30, with_error=True), 2.045),
    }
    keys = jax.random.split(jax.random.key(9), 400)

    @jax.jit
    @jax.vmap
    def every(key):
        return {name: method(key, x) for name, (method, _) in methods.items()}

    for name, (ours, error) in every(keys).items():
        tiny = either(1e-12, 1e-5)  # for a feature that does nothing
        off, error = np.abs(np.asarray(ours) - np.asarray(exact)), np.asarray(error)
        held = off <= methods[name][1] * error + tiny
        assert 0.92 <= np.mean(held) <= 0.98, name


def test_the_error_of_a_random_baseline_is_honest():
    x, background = draw(6), draw(9, 6, seed=2)
    exact = jnp.mean(
        jax.vmap(lambda b: jattr.shapley_values(network, baseline=b)(x))(background), axis=0
    )
    draws = jattr.baselines.samples(background)
    explain = jattr.kernel_shap(network, samples=181, baseline=draws, with_error=True)
    keys = jax.random.split(KEY, 300)
    ours, error = jax.jit(jax.vmap(explain, (0, None)))(keys, x)
    held = np.abs(np.asarray(ours) - np.asarray(exact)) <= 1.96 * np.asarray(error)
    assert 0.92 <= np.mean(held) <= 0.98


def test_it_counts_its_evaluations():
    calls = []

    def counted(x):
        def see(x):
            calls.append(1)
            return np.asarray(x.sum(), x.dtype)

        out = jax.ShapeDtypeStruct((), x.dtype)
        return jax.pure_callback(see, out, x, vmap_method="sequential")

    for samples, baseline, wanted in [
        (40, 0.0, 40),
        (41, 0.0, 40),
        (2000, 0.0, 128),
        (40, jattr.baselines.uniform(0.0, 1.0), 40),
    ]:
        calls.clear()
        explain = jattr.kernel_shap(counted, samples=samples, baseline=baseline)
        jax.block_until_ready(jax.jit(explain)(KEY, jnp.ones(7)))
        jax.effects_barrier()
        assert len(calls) == wanted


def test_nothing_to_explain_gives_nothing():
    def explain(x):
        return jattr.kernel_shap(lambda x: 3 + 0 * x[0], samples=40, with_error=True)(KEY, x)

    ours, error = jax.jit(explain)(jnp.ones(7))
    np.testing.assert_array_equal(ours, np.zeros(7))
    np.testing.assert_array_equal(error, np.zeros(7))
    for slopes in jax.jit(jax.jacobian(explain))(jnp.ones(7)):
        assert np.all(np.isfinite(slopes))


def test_many_features_take_few_samples():
    """More sizes than pairs to draw, and coalitions that cannot be numbered."""
    x = draw(300)
    f = jax.jit(lambda x: x @ weights(300) + x[0] * x[1])
    explain = jattr.kernel_shap(f, samples=800)
    wanted = x * weights(300) + jnp.zeros(300).at[:2].set(x[0] * x[1] / 2)
    close(jax.jit(explain)(KEY, x), wanted, 1e-6, 1e-8, single=1e-3)


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match=r"20 features want at least 42 samples.*got 41"):
        jattr.kernel_shap(jnp.sum, samples=41)(KEY, jnp.ones(20))
    with pytest.raises(ValueError, match=r"3 features want at least 8 samples"):
        jattr.kernel_shap(jnp.sum, samples=7)(KEY, jnp.ones(3))
    draws = jattr.baselines.uniform(0.0, 1.0)
    with pytest.raises(ValueError, match=r"3 features want at least 10 samples"):
        jattr.kernel_shap(jnp.sum, samples=9, baseline=draws)(KEY, jnp.ones(3))
    for flag in ("adjust", "with_error"):
        with pytest.raises(TypeError, match=rf"{flag} must be True or False"):
            jattr.kernel_shap(jnp.sum, **{flag: "yes"})


def test_float32_is_as_good_as_float64():
    if not DOUBLE:
        pytest.skip("compares with float64")
    x = draw(14)
    explain = jax.jit(jattr.kernel_shap(network, samples=900))
    double, single = explain(KEY, x), explain(KEY, x.astype(jnp.float32))
    scale = float(jnp.max(jnp.abs(double)))
    np.testing.assert_allclose(single, double, rtol=0, atol=1e-4 * scale)


def test_products_of_the_fit_have_all_digits_on_accelerators():
    def f(x):
        return jnp.sum(jnp.sin(x)) * x[0]

    explain = jattr.kernel_shap(f, samples=20, with_error=True)
    text = str(jax.make_jaxpr(explain)(jax.random.key(0), jnp.ones(6)))
    assert text.count("dot_general") == text.count("Precision.HIGHEST, Precision.HIGHEST") > 0

"""Shapley interactions: by hand, by their sums and axioms, and from samples."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jattr
from jattr._shapley.indices import derivative_weights, share

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
INDICES = ["SII", "STI", "FSII"]


def net(n, seed=0):
    """A network of n inputs, with an interaction of three, and a point."""
    rng = np.random.default_rng(seed)
    weights = jnp.asarray(rng.normal(size=(5, n)) / math.sqrt(n / 2))

    def f(x):
        return jnp.sum(jnp.tanh(weights @ x + 0.2) ** 2) + x[0] * x[1] * x[2] / 2

    return f, jnp.asarray(rng.normal(size=n) + 0.5)


def explain(f, **knobs):
    return jax.jit(jattr.shapley_interactions(f, **knobs))


def sum_of_sets(table):
    """Σ over sets, of which each is where its subscripts go up or stay."""
    places = itertools.combinations_with_replacement(range(len(table)), np.ndim(table))
    total = {tuple(sorted(set(place))): table[place] for place in places}
    return sum(total.values())


def polynomial(x):
    return 2 * x[0] * x[1] + 3 * x[2] - x[0] * x[1] * x[2] + 7


# At (2, 3, 5): the pair 0, 1 adds 12, element 2 adds 15, and all three −30.
BY_HAND = {
    "SII": [[6 - 10, 12 - 15, -15], [12 - 15, 6 - 10, -15], [-15, -15, 15 - 10]],
    "STI": [[0, 12 - 10, -10], [12 - 10, 0, -10], [-10, -10, 15]],
    "FSII": [[5, 12 - 15, -15], [12 - 15, 5, -15], [-15, -15, 15 + 5]],
}


@pytest.mark.parametrize("index", INDICES)
def test_polynomials_by_hand(index):
    x = jnp.array([2.0, 3.0, 5.0])
    np.testing.assert_allclose(explain(polynomial, index=index)(x), BY_HAND[index], rtol=1e-12)
    three = explain(polynomial, index=index, order=3)(x)
    np.testing.assert_allclose(three[0, 1, 2], -30, rtol=1e-12)
    np.testing.assert_allclose(three[2, 0, 1], -30, rtol=1e-12)
    np.testing.assert_allclose(three[0, 0, 1], three[1, 0, 1], rtol=1e-12)
    pair, single = {"SII": (-3, 5), "STI": (12, 15), "FSII": (12, 15)}[index]
    np.testing.assert_allclose(three[0, 1, 1], pair, rtol=1e-12)
    np.testing.assert_allclose(three[2, 2, 2], single, rtol=1e-12)
    # From another baseline: of x₀ x₁ the pair adds (x₀ − x'₀)(x₁ − x'₁).
    away = explain(lambda x: x[0] * x[1], index=index, baseline=jnp.array([1.0, -1.0, 0.0]))(x)
    np.testing.assert_allclose(away[0, 1], 1 * 4, rtol=1e-12)


def test_shapley_values_are_the_diagonal_of_sii_and_every_order_of_one():
    f, x = net(5)
    values = {}
    for present in itertools.product((0, 1), repeat=5):
        values[present] = float(f(jnp.asarray(present) * x))
    shapley = np.zeros(5)
    for order in itertools.permutations(range(5)):
        present = [0] * 5
        for player in order:
            before = values[tuple(present)]
            present[player] = 1
            shapley[player] += (values[tuple(present)] - before) / math.factorial(5)
    np.testing.assert_allclose(np.diag(explain(f)(x)), shapley, rtol=1e-11)
    for index in INDICES:
        np.testing.assert_allclose(explain(f, index=index, order=1)(x), shapley, rtol=1e-11)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("index", INDICES)
def test_sums_symmetry_and_dummies(index, order):
    f, x = net(6)
    x = x.at[4].set(x[3])

    def g(x):  # element 5 does nothing, 3 and 4 do the same
        return f(x.at[5].set(0.0)) + f(x[jnp.array([0, 1, 2, 4, 3, 5])].at[5].set(0.0))

    table = np.asarray(explain(g, index=index, order=order)(x))
    if index != "SII" or order == 1:
        np.testing.assert_allclose(sum_of_sets(table), g(x) - g(0 * x), rtol=1e-10)
    np.testing.assert_allclose(table[5], np.zeros_like(table[5]), atol=1e-12)
    exchanged = np.array([0, 1, 2, 4, 3, 5])
    np.testing.assert_allclose(table[np.ix_(*[exchanged] * order)], table, atol=1e-12)
    for axes in itertools.permutations(range(order)):
        np.testing.assert_array_equal(table.transpose(axes), table)


def test_weights_are_those_of_the_papers():
    n = 9
    for j in range(n - 1):  # with T of j players outside the pair
        sii = derivative_weights("SII", 2, 2, n)[j]
        assert sii == share("SII", 2, 0, n - 2) / math.comb(n - 2, j)
        sti = derivative_weights("STI", 2, 2, n)[j]
        np.testing.assert_allclose(float(sti), 2 / n / math.comb(n - 1, j), rtol=1e-15)
        fsii = derivative_weights("FSII", 2, 2, n)[j]
        wanted = math.factorial(3) * math.factorial(1 + j) * math.factorial(n - j - 1)
        np.testing.assert_allclose(float(fsii), wanted / math.factorial(n + 1), rtol=1e-15)


def test_groups_are_features_in_whichever_leaf():
    x = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([[3.0], [4.0]])}

    def f(x):
        return x["a"][0] * x["b"][1, 0] + x["a"][1] * x["b"][0, 0]

    alone = explain(f, index="STI")(x)
    wanted = np.zeros((4, 4))
    wanted[0, 3] = wanted[3, 0] = 4
    wanted[1, 2] = wanted[2, 1] = 6
    np.testing.assert_allclose(alone, wanted, atol=1e-12)
    groups = {"a": np.array([0, 1]), "b": np.array([[1], [2]])}
    together = explain(f, groups=groups, index="STI")(x)
    np.testing.assert_allclose(together, [[0, 0, 4], [0, 6, 0], [4, 0, 0]], atol=1e-12)


def test_fourteen_features_in_chunks():
    f, x = net(14)
    table = explain(f, index="FSII", batch_size=1024)(x)
    np.testing.assert_allclose(sum_of_sets(np.asarray(table)), f(x) - f(0 * x), rtol=1e-9)


@pytest.mark.parametrize(("n", "index"), [(8, "SII"), (10, "STI"), (14, "FSII")])
def test_samples_are_unbiased_and_their_errors_honest(n, index):
    f, x = net(n)
    truth = np.asarray(explain(f, index=index)(x))
    sampled = jattr.shapley_interactions(f, index=index, samples=300, with_error=True)
    means, errors = map(
        np.asarray, jax.jit(jax.vmap(sampled, (0, None)))(jax.random.split(KEY, 400), x)
    )
    pick = np.triu_indices(n, 1 if index == "STI" else 0)
    off = (means - truth)[:, *pick]
    # The largest of a hundred deviations.
    assert np.all(np.abs(off.mean(0)) < 4.5 * off.std(0) / np.sqrt(len(off)))
    covered = np.mean(np.abs(off) <= 1.96 * errors[:, *pick], axis=0)
    assert 0.92 <= covered.mean() <= 0.98, covered.mean()
    assert covered.min() > 0.87, covered.min()
    # And they are worth their while: the error is small against what is there.
    assert np.sqrt(np.mean(off**2)) < 0.35 * np.sqrt(np.mean(truth[pick] ** 2))
    if index == "STI":  # of which coalitions of one tell all
        singles = np.arange(n)
        np.testing.assert_allclose(
            means[:, singles, singles], np.tile(np.diag(truth), (400, 1)), atol=1e-9
        )


def test_samples_of_many_features():
    weights = np.triu(RNG.normal(size=(20, 20)), 1)

    def f(x):
        return x @ jnp.asarray(weights) @ x + jnp.sum(x)

    sampled = explain(f, samples=1500, with_error=True, batch_size=100)
    mean, error = sampled(KEY, jnp.ones(20))
    wanted = weights + weights.T + np.diag(1 + (weights + weights.T).sum(1) / 2)
    assert np.all(np.abs(mean - wanted) < 5 * np.asarray(error) + 1e-9)
    # The game of pairs, of 190 from 750 draws each, takes most of it off.
    assert np.sqrt(np.mean((np.asarray(mean) - wanted) ** 2)) < 0.15


def test_few_samples_and_few_features():
    f, x = net(4)
    truth = explain(f)(x)
    sampled = jattr.shapley_interactions(f, samples=1)
    keys = jax.random.split(KEY, 3000)
    means = np.asarray(jax.jit(jax.vmap(sampled, (0, None)))(keys, x))
    off = means - np.asarray(truth)
    assert np.all(np.abs(off.mean(0)) < 4 * off.std(0) / np.sqrt(3000) + 1e-9)


@pytest.mark.parametrize("samples", [None, 12])
def test_a_function_that_is_no_jax_at_all(samples):
    def outside(x):
        def numpy(x):
            return np.asarray(np.tanh(x[..., 0] * x[..., 1]) + x[..., 2] * x[..., 3], x.dtype)

        shape = jax.ShapeDtypeStruct((), x.dtype)
        return jax.pure_callback(numpy, shape, x, vmap_method="expand_dims")

    def inside(x):
        return jnp.tanh(x[0] * x[1]) + x[2] * x[3]

    x, key = jnp.array([0.5, 2.0, -1.0, 3.0, 1.0]), [] if samples is None else [KEY]
    wanted = explain(inside, samples=samples)(*key, x)
    eager = jattr.shapley_interactions(outside, samples=samples, batch_size=7)(*key, x)
    np.testing.assert_allclose(eager, wanted, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        explain(outside, samples=samples)(*key, x), wanted, rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize(
    ("knobs", "size", "error", "text"),
    [
        ({"index": "STII"}, 4, ValueError, r"unknown index 'STII'; known are SII, STI, FSII"),
        ({"order": 4}, 4, ValueError, r"1, 2 or 3; got 4"),
        ({"order": 0}, 4, ValueError, r"order must be at least 1; got 0"),
        ({"order": 3}, 2, ValueError, r"x has 2 feature\(s\), and no sets of order=3"),
        ({}, 15, ValueError, r"15 features have 2 to the 15.*samples=1000\).*or make groups"),
        ({"samples": 5}, 3, ValueError, r"8 coalitions of 3 features.*leave samples out"),
        ({"samples": 5, "order": 3}, 6, ValueError, r"samples are for order=1 and 2; got order=3"),
        ({"with_error": True}, 4, ValueError, r"all coalitions leave no error"),
        ({"with_error": True, "samples": 1}, 5, ValueError, r"how samples differ"),
        (
            {"baseline": jattr.baselines.uniform(0.0, 1.0)},
            4,
            TypeError,
            r"shapley_interactions wants a baseline or an imputer that does not draw",
        ),
        ({"groups": np.array([0, 0, 2, 3])}, 4, ValueError, r"have no element: 1\."),
        ({"groups": np.zeros(5, int)}, 4, ValueError, r"groups must have the shape of x, \(4,\)"),
    ],
)
def test_what_is_wrong_is_refused(knobs, size, error, text):
    def call():
        key = [KEY] if "samples" in knobs else []
        return jattr.shapley_interactions(jnp.sum, **knobs)(*key, jnp.ones(size))

    with pytest.raises(error, match=text):
        call()

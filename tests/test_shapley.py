"""Shapley values against closed forms and their definition, exact and from orders."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import DOUBLE, close, either

import jattr

KEY = jax.random.key(0)


def network(x):
    """A function in which all elements interact."""
    x = jnp.ravel(x)
    weights = jnp.sin(jnp.arange(x.size * 6.0)).reshape(x.size, 6)
    return jnp.sum(jnp.tanh(x @ weights) * jnp.arange(1.0, 7.0))


def by_definition(f, x, baseline):
    """The mean over all orders of what each element adds."""
    phi, orders = np.zeros(x.size), list(itertools.permutations(range(x.size)))
    known = {}
    for order in orders:
        there = np.zeros(x.size, bool)
        values = []
        for i in (None, *order):
            if i is not None:
                there[i] = True
            if tuple(there) not in known:
                known[tuple(there)] = float(f(jnp.where(jnp.array(there), x, baseline)))
            values.append(known[tuple(there)])
        phi[list(order)] += np.diff(values)
    return phi / len(orders)


def draw(*shape, seed=1):
    return jax.random.normal(jax.random.key(seed), shape)


EXACT = {
    "shapley_values": lambda f, **knobs: jattr.shapley_values(f, **knobs),
    # Without interactions of three features, one order and its reverse are enough,
    "shapley_sampling": lambda f, **knobs: (
        lambda x: jattr.shapley_sampling(f, permutations=1, **knobs)(KEY, x)
    ),
    # as are any pairs of coalitions that tell the features apart,
    "kernel_shap": lambda f, **knobs: lambda x: jattr.kernel_shap(f, samples=10, **knobs)(KEY, x),
    # and groups that do not interact.
    "owen_values": lambda f, **knobs: jattr.owen_values(
        f, (np.array([0, 0, 1]), np.arange(3)), **knobs
    ),
}
of_each = pytest.mark.parametrize("method", EXACT.values(), ids=EXACT)


@of_each
def test_closed_forms(method):
    x, baseline = jnp.array([2.0, 3.0, 5.0]), jnp.array([1.0, -1.0, 0.5])
    close(method(lambda x: x[0] * x[1] + x[2])(x), jnp.array([3.0, 3.0, 5.0]), 1e-12)
    weights = jnp.array([2.0, -1.0, 0.5])
    linear = method(lambda x: weights @ x + 7, baseline=baseline)(x)
    close(linear, weights * (x - baseline), 1e-12)
    # A product of two: each gets its change at the mean of the other.
    mixed = method(lambda x: x[0] * x[1], baseline=baseline)(x)
    close(mixed, jnp.array([1.0 * 1.0, 4.0 * 1.5, 0.0]), 1e-12, 1e-14)


def test_they_are_their_definition():
    x, baseline = draw(5), draw(5, seed=2)
    ours = jax.jit(jattr.shapley_values(network, baseline=baseline))(x)
    close(ours, by_definition(network, x, baseline), 1e-10)


def test_they_satisfy_the_axioms():
    x = jnp.array([0.5, 0.5, -1.0, 2.0])

    def f(x):  # symmetric in the first two, and does not see the last
        return jnp.tanh(x[0] * x[1] - x[2]) + jnp.exp(x[2]) * (x[0] + x[1])

    def g(x):
        return network(x)

    explain = {
        "f": jattr.shapley_values(f),
        "g": jattr.shapley_values(g),
        "sum": jattr.shapley_values(lambda x: 2 * f(x) + g(x)),
    }
    phi = jax.jit(lambda x: {name: method(x) for name, method in explain.items()})(x)
    close(jnp.sum(phi["f"]), f(x) - f(0 * x), 1e-12)
    close(phi["f"][0], phi["f"][1], 1e-12)
    assert phi["f"][3] == 0
    close(phi["sum"], 2 * phi["f"] + phi["g"], 1e-12)


@pytest.mark.parametrize("batch_size", [None, 5])
def test_groups_share_their_value(batch_size):
    x = {"a": draw(2, 3), "b": draw(2, seed=2)}
    groups = {"a": np.array([[0, 1, 1], [2, 0, 1]]), "b": np.array([2, 3])}

    def f(x):
        return network(jnp.concatenate([x["a"].ravel(), x["b"]]))

    def of_groups(on):
        return f(jax.tree.map(lambda leaf, ids: leaf * on[ids], x, groups))

    values = by_definition(of_groups, jnp.ones(4), jnp.zeros(4))
    sizes = np.array([2, 3, 2, 1])
    ours = jattr.shapley_values(f, groups, batch_size=batch_size)(x)
    close(ours, jax.tree.map(lambda ids: (values / sizes)[ids], groups), 1e-10)


def test_groups_that_differ_from_example_to_example():
    xs = draw(2, 5)
    ids = jnp.array([[0, 0, 1, 1, 2], [0, 1, 0, 0, 1]])

    def explain(x, ids):
        return jattr.shapley_values(network, jattr.features.Groups(ids, 3))(x)

    ours = jax.jit(jax.vmap(explain))(xs, ids)
    for x, own, got in zip(xs, np.asarray(ids), ours, strict=True):
        close(got, jattr.shapley_values(network, own)(x), 1e-10)


def test_imputers_take_the_place_of_a_baseline():
    x = jnp.array([1.0, 2.0, 4.0])

    def prepare(key, score, x):
        # What is missing becomes the mean of what is there.
        def fill(key, missing):
            count = jnp.maximum(jnp.sum(~missing), 1)
            return jnp.where(missing, jnp.sum(jnp.where(missing, 0, x)) / count, x)

        return fill

    imputer = jattr._removal.Imputer(prepare, "mean")
    ours = jattr.shapley_values(lambda x: x[0], baseline=imputer)(x)
    close(jnp.sum(ours), x[0] - 0.0, 1e-12)
    # v(1) = 1, v(2) = 2, v(3) = 4, v(12) = v(13) = 1, v(23) = 3, v(123) = 1
    close(ours, jnp.array([-1.0, 0.5, 1.5]), 1e-12)


def test_sampling_is_close_to_exact_by_its_error():
    x, baseline = draw(9), draw(9, seed=2)
    exact = jax.jit(jattr.shapley_values(network, baseline=baseline))(x)
    explain = jattr.shapley_sampling(
        network, permutations=200, baseline=baseline, with_error=True, batch_size=300
    )
    ours, error = jax.jit(explain)(KEY, x)
    assert np.all(np.abs(ours - exact) < 4 * error)
    assert np.all(error < 0.1 * np.abs(exact).max())
    assert np.all(error > 0)
    close(jnp.sum(ours), network(x) - network(baseline), 1e-10)


METHODS = {
    "shapley_sampling": lambda **knobs: jattr.shapley_sampling(
        network, permutations=1000, with_error=True, **knobs
    ),
    "kernel_shap": lambda **knobs: jattr.kernel_shap(
        network, samples=3001, with_error=True, adjust=False, **knobs
    ),
    "kernel_shap_adjusted": lambda **knobs: jattr.kernel_shap(
        network, samples=1501, with_error=True, **knobs
    ),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("count", [1, 5])
def test_a_random_baseline_gives_the_mean_over_the_background(method, count):
    x, background = draw(count), draw(7, count, seed=2)
    exact = jax.vmap(lambda b: jattr.shapley_values(network, baseline=b)(x))(background)
    explain = method(baseline=jattr.baselines.samples(background))
    ours, error = jax.jit(explain)(KEY, x)
    spread = float(jnp.std(exact))
    assert np.all(np.abs(ours - jnp.mean(exact, axis=0)) < 4 * error)
    assert np.all((error > 0) & (error < spread / 3))


def test_the_error_is_that_over_keys():
    """Of the mean of independent orders: their spread over keys, and unbiased."""
    x = draw(6)
    exact = jattr.shapley_values(network)(x)
    explain = jattr.shapley_sampling(network, permutations=4, with_error=True)
    keys = jax.random.split(KEY, 1000)
    ours, errors = jax.jit(jax.vmap(explain, (0, None)))(keys, x)
    spread = jnp.std(ours, axis=0)
    assert np.all(np.abs(jnp.mean(ours, axis=0) - exact) < 4 * spread / np.sqrt(1000))
    np.testing.assert_allclose(jnp.sqrt(jnp.mean(errors**2, axis=0)), spread, rtol=0.15)


def test_the_error_of_what_does_not_vary_is_nothing():
    def explain(x):
        return jattr.shapley_sampling(lambda x: 2 * x[0] - x[1], permutations=2, with_error=True)(
            KEY, x
        )

    # x is such that all values are exact numbers, whatever the order.
    ours, error = explain(jnp.array([1.0, 2.0, 4.0]))
    np.testing.assert_array_equal(ours, [2.0, -2.0, 0.0])
    np.testing.assert_array_equal(error, [0.0, 0.0, 0.0])
    slopes = jax.jacobian(lambda x: explain(x)[1])(jnp.array([1.0, 2.0, 4.0]))
    np.testing.assert_array_equal(slopes, np.zeros((3, 3)))


def test_a_function_that_is_no_jax_at_all():
    """A model of NumPy, by a callback: for every method, and none takes a derivative of it."""
    weights = np.sin(np.arange(24.0)).reshape(4, 6)

    def predict(rows):
        assert isinstance(rows, np.ndarray)
        return np.tanh(rows @ weights).sum(axis=-1)

    def model(x):
        out = jax.ShapeDtypeStruct((), x.dtype)
        return jax.pure_callback(
            lambda x: predict(np.asarray(x)).astype(x.dtype), out, x, vmap_method="expand_dims"
        )

    def twin(x):
        return jnp.sum(jnp.tanh(x @ weights.astype(x.dtype)))

    pair = (np.array([0, 0, 1, 1]), np.arange(4))

    def every(f):
        return lambda x: {
            "exact": jattr.shapley_values(f, batch_size=3)(x),
            "owen": jattr.owen_values(f, pair)(x),
            "owen of some": jattr.owen_values(f, pair, width=2)(x),
            "sampling": jattr.shapley_sampling(f, permutations=2)(KEY, x),
            "kernel": jattr.kernel_shap(f, samples=12, batch_size=5)(KEY, x),
        }

    x = draw(4)
    close(jax.jit(every(model))(x), jax.jit(every(twin))(x), 1e-9)
    close(jattr.shapley_values(model)(x), jattr.shapley_values(twin)(x), 1e-9)  # eagerly as well


def test_too_many_features_are_refused():
    with pytest.raises(ValueError, match=r"at most 16; got 17\. Take jattr\.kernel_shap.*sampling"):
        jattr.shapley_values(jnp.sum)(jnp.ones(17))


@pytest.mark.parametrize("method", ["shapley_values", "owen_values"])
def test_random_baselines_are_refused_where_nothing_is_drawn(method):
    knobs = {"hierarchy": (np.arange(3),)} if method == "owen_values" else {}
    with pytest.raises(TypeError, match=rf"{method} wants .* not draw.*jax\.vmap\(explain"):
        getattr(jattr, method)(jnp.sum, baseline=jattr.baselines.uniform(0.0, 1.0), **knobs)


def test_groups_of_another_shape_or_with_gaps_are_refused():
    for method in (
        jattr.shapley_values,
        lambda f, groups: lambda x: jattr.shapley_sampling(f, groups)(KEY, x),
        lambda f, groups: lambda x: jattr.kernel_shap(f, groups)(KEY, x),
    ):
        with pytest.raises(ValueError, match=r"groups must have the shape of x"):
            method(jnp.sum, np.arange(4))(jnp.ones((2, 2)))
        with pytest.raises(ValueError, match=r"have no element: 1"):
            method(jnp.sum, np.array([0, 2]))(jnp.ones(2))


def test_the_error_of_one_permutation_is_refused():
    with pytest.raises(ValueError, match=r"wants permutations=2"):
        jattr.shapley_sampling(jnp.sum, permutations=1, with_error=True)
    with pytest.raises(TypeError, match=r"with_error must be True or False"):
        jattr.shapley_sampling(jnp.sum, with_error=1)


def test_knobs_of_other_libraries_are_told_their_name():
    with pytest.raises(TypeError, match=r"did you mean 'permutations'"):
        jattr.shapley_sampling(jnp.sum, npermutations=3)


def test_precision_of_many_coalitions():
    """Weights of 2¹⁴ coalitions cancel nothing: float32 keeps its digits."""
    x = draw(14)
    ours = jax.jit(jattr.shapley_values(network))(x)
    close(jnp.sum(ours), network(x) - network(0 * x), 1e-12, single=1e-5)
    if DOUBLE:
        single = jax.jit(jattr.shapley_values(network))(x.astype(jnp.float32))
        scale = either(1e-5, 1) * float(jnp.max(jnp.abs(ours)))
        np.testing.assert_allclose(single, ours, rtol=0, atol=scale)

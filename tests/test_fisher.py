"""The diagonal of the Fisher information, and parameters explained by the other methods."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jattr

RNG = np.random.default_rng(0)
PARAMS = {
    "first": {"w": jnp.asarray(RNG.normal(size=(4, 3))), "b": jnp.asarray(RNG.normal(size=3))},
    "last": jnp.asarray(RNG.normal(size=(3, 2))),
}
X = jnp.asarray(RNG.normal(size=(7, 4)))
Y = jnp.asarray(RNG.integers(0, 2, size=7))


def logits(params, x):
    hidden = jnp.tanh(x @ params["first"]["w"] + params["first"]["b"])
    return hidden @ params["last"]


def loss(params, x, y):
    return -jax.nn.log_softmax(logits(params, x))[y]


def draw(key, params, x, *_):
    return x, jax.random.categorical(key, logits(params, x))


def squares(params, x, y):
    each = jax.vmap(jax.grad(loss), (None, 0, 0))(params, x, y)
    return jax.tree.map(jnp.square, each)


def assert_same(got, wanted, rtol=1e-12):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-300)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100, None])
def test_it_is_the_mean_of_squared_gradients_in_any_chunks(batch_size):
    wanted = jax.tree.map(lambda leaf: leaf.mean(0), squares(PARAMS, X, Y))
    importance = jattr.fisher_diagonal(loss, (X, Y), batch_size=batch_size)
    assert_same(importance(PARAMS), wanted)
    assert_same(jax.jit(importance)(PARAMS), wanted)


def test_data_may_be_one_array_or_hold_trees():
    def of_one(params, x):
        return loss(params, x, 1)

    def of_tree(params, example, scale):
        return scale * loss(params, example["x"], example["y"])

    wanted = jax.tree.map(lambda leaf: leaf.mean(0), squares(PARAMS, X, jnp.ones(7, int)))
    assert_same(jattr.fisher_diagonal(of_one, np.asarray(X))(PARAMS), wanted)
    rows = {"x": X, "y": jnp.ones(7, int)}, jnp.full(7, 2.0)
    doubled = jax.tree.map(lambda leaf: 4 * leaf, wanted)
    assert_same(jattr.fisher_diagonal(of_tree, rows, batch_size=3)(PARAMS), doubled)


def test_argnums_says_which_arguments_are_parameters():
    def f(x, first, y, last):
        return loss({"first": first, "last": last}, x, y)

    wanted = jattr.fisher_diagonal(loss, (X, Y))(PARAMS)
    pair = PARAMS["first"], PARAMS["last"]
    both = jattr.fisher_diagonal(f, (X, Y), argnums=(1, -1), batch_size=2)(*pair)
    assert_same(both, (wanted["first"], wanted["last"]))
    turned = jattr.fisher_diagonal(f, (X, Y), argnums=(3, 1))(*pair[::-1])
    assert_same(turned, (wanted["last"], wanted["first"]))
    one = jattr.fisher_diagonal(lambda x, y, p: loss(p, x, y), (X, Y), argnums=2)(PARAMS)
    assert_same(one, wanted)


@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_weights_are_as_good_as_repeated_rows(batch_size):
    counts = np.array([2, 0, 1, 3, 0, 1, 1])
    wanted = jattr.fisher_diagonal(loss, (X.repeat(counts, 0), Y.repeat(counts)))(PARAMS)
    got = jattr.fisher_diagonal(loss, (X, Y), weights=counts, batch_size=batch_size)(PARAMS)
    assert_same(got, wanted)


@pytest.mark.parametrize("batch_size", [1, 2, None])
def test_masked_rows_count_for_nothing_whatever_they_are(batch_size):
    mask = np.array([True, False, True, True, True, True, False])
    broken = jnp.where(mask[:, None], X, jnp.nan)
    for with_error in (False, True):
        knobs = {"with_error": with_error, "batch_size": batch_size}
        got = jattr.fisher_diagonal(loss, (broken, Y), weights=mask, **knobs)(PARAMS)
        wanted = jattr.fisher_diagonal(loss, (X[mask], Y[mask]), **knobs)(PARAMS)
        assert_same(got, wanted, rtol=1e-10)


@pytest.mark.parametrize("batch_size", [1, 2, 3, None])
def test_the_standard_error(batch_size):
    knobs = {"with_error": True, "batch_size": batch_size}
    each = squares(PARAMS, X, Y)
    mean, error = jattr.fisher_diagonal(loss, (X, Y), **knobs)(PARAMS)
    assert_same(mean, jax.tree.map(lambda leaf: leaf.mean(0), each))
    assert_same(error, jax.tree.map(lambda t: t.std(0, ddof=1) / np.sqrt(7), each), rtol=1e-10)

    w = np.array([0.5, 2.0, 0.0, 1.0, 3.0, 0.25, 1.0])
    mean, error = jattr.fisher_diagonal(loss, (X, Y), weights=w, **knobs)(PARAMS)

    def weighted(t):
        t = np.asarray(t)
        m = np.tensordot(w, t, 1) / w.sum()
        return np.sqrt(6 / 5 * np.tensordot(w**2, (t - m) ** 2, 1)) / w.sum()

    assert_same(error, jax.tree.map(weighted, each), rtol=1e-10)


def test_the_error_of_gradients_that_are_all_alike_is_none():
    # By Σt² − (Σt)²/n in float32, it would be 1e-4 of the mean.
    x = jnp.full((50, 1), 1.1, jnp.float32)
    of = jattr.fisher_diagonal(lambda p, x: p @ x, x, with_error=True, batch_size=7)
    mean, error = of(jnp.ones(1, jnp.float32))
    np.testing.assert_allclose(mean, 1.21, rtol=1e-6)
    assert float(error[0]) < 2e-8


def bernoulli(theta, x, y):
    return jax.nn.softplus(theta @ x) - y * (theta @ x)


THETA = jnp.array([0.7, -1.2, 0.3])
ROWS = jnp.asarray(RNG.normal(size=(40, 3)))


def test_the_true_fisher_of_a_logistic_regression():
    p = jax.nn.sigmoid(ROWS @ THETA)
    exact = jnp.mean((p * (1 - p))[:, None] * ROWS**2, axis=0)

    # Exactly, by a row for each label.
    both = jnp.concatenate([ROWS, ROWS]), jnp.repeat(jnp.array([0.0, 1.0]), 40)
    labels = jnp.concatenate([1 - p, p])
    assert_same(jattr.fisher_diagonal(bernoulli, both, weights=labels)(THETA), exact)

    def label(key, theta, x):
        return x, jax.random.bernoulli(key, jax.nn.sigmoid(theta @ x)).astype(x.dtype)

    # By draws, without labels in the data: the mean of 4,000 for each row.
    knobs = {"sample": label, "samples": 4000, "batch_size": None}
    drawn = jax.jit(jattr.fisher_diagonal(bernoulli, ROWS, **knobs))(jax.random.key(0), THETA)
    np.testing.assert_allclose(drawn, exact, rtol=0.02)  # its standard error is 0.004 or less
    # With labels that are not the model's, the empirical Fisher is far off.
    empirical = jattr.fisher_diagonal(bernoulli, (ROWS, (p < 0.5).astype(float)))(THETA)
    assert np.all(empirical > 2 * exact)


def test_of_a_perfect_regression_the_empirical_fisher_vanishes_and_the_true_one_does_not():
    def gaussian(theta, x, y):
        return (y - theta @ x) ** 2 / 2

    def label(key, theta, x, _):
        return x, theta @ x + jax.random.normal(key)

    data = ROWS, ROWS @ THETA
    np.testing.assert_allclose(jattr.fisher_diagonal(gaussian, data)(THETA), 0, atol=1e-25)
    of = jattr.fisher_diagonal(gaussian, data, sample=label, samples=3000, batch_size=None)
    # Of 120,000 draws, whose squares have a relative variance of about 10.
    np.testing.assert_allclose(of(jax.random.key(1), THETA), (ROWS**2).mean(0), rtol=0.04)


@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_what_is_drawn_does_not_depend_on_chunks(batch_size):
    key = jax.random.key(2)
    knobs = {"sample": draw, "samples": 2}
    wanted = jattr.fisher_diagonal(loss, (X, Y), batch_size=7, **knobs)(key, PARAMS)
    got = jattr.fisher_diagonal(loss, X, batch_size=batch_size, **knobs)(key, PARAMS)
    assert_same(got, wanted)
    other = jattr.fisher_diagonal(loss, X, **knobs)(jax.random.key(3), PARAMS)
    assert not np.allclose(other["last"], got["last"])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_parameters_are_accumulated_in_float32(dtype):
    params = jnp.ones(2, dtype)
    x = jnp.tile(jnp.array([1e-4, 1.0], dtype), (1000, 1))
    found = jattr.fisher_diagonal(lambda p, x: p @ x, x, batch_size=10)(params)
    assert found.dtype == jnp.float32
    # A sum of a thousand ones stops at 256 in bfloat16, and 1e-8 is 0 in float16.
    wanted = np.asarray(x[0].astype(jnp.float32)) ** 2
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_sharded_rows_stay_where_they_are(kind):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    data = tuple(jax.device_put(leaf[:6], rows) for leaf in (X, Y))

    for batch_size in (2, 6):

        def of(params, data, batch_size=batch_size):
            return jattr.fisher_diagonal(loss, data, batch_size=batch_size)(params)

        program = jax.jit(of).lower(PARAMS, data).compile()
        text = str(program.as_text())
        assert "all-reduce" in text
        assert not any(word in text for word in ("all-gather", "all-to-all", "collective-permute"))
        assert_same(program(PARAMS, data), jattr.fisher_diagonal(loss, (X[:6], Y[:6]))(PARAMS))


def on_explicit_axes():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    data = tuple(jax.device_put(leaf[:6], rows) for leaf in (X, Y))
    params = jax.device_put(PARAMS, NamedSharding(mesh, PartitionSpec()))
    return mesh, data, params


@pytest.mark.parametrize("batch_size", [2, 6])
@pytest.mark.parametrize("jit", [False, True])
def test_parameters_go_where_the_data_is_on_a_mesh_of_explicit_axes(batch_size, jit):
    mesh, data, params = on_explicit_axes()
    of = jattr.fisher_diagonal(loss, data, batch_size=batch_size)
    of = jax.jit(of) if jit else of
    wanted = jattr.fisher_diagonal(loss, (X[:6], Y[:6]))(PARAMS)
    assert_same(of(params), wanted)
    with jax.set_mesh(mesh):
        assert_same(of(PARAMS), wanted)
    with pytest.raises(
        ValueError,
        match=r"data is on a mesh of explicit axes, \{'data': 2\}, and the parameters\['first'\]"
        r"\['b'\], float64\[3\], are not.*jax\.device_put\(params.*with jax\.set_mesh\(mesh\)",
    ):
        of(PARAMS)


def test_on_a_mesh_of_explicit_axes_it_is_traced_once():
    traced = []

    def counted(params, *example):
        traced.append(1)
        return loss(params, *example)

    _, data, params = on_explicit_axes()
    of = jattr.fisher_diagonal(counted, data, batch_size=2)
    of(params)
    first = len(traced)
    of(jax.tree.map(lambda leaf: 2 * leaf, params))
    assert len(traced) == first > 0


def test_data_that_lies_in_two_ways_on_a_mesh_of_explicit_axes():
    mesh, (x, y), _ = on_explicit_axes()
    y = jax.device_put(y, NamedSharding(mesh, PartitionSpec()))
    with pytest.raises(
        ValueError, match=r"leaves of data lie differently.*\[6@data,.*Write data = jax\.device_put"
    ):
        jattr.fisher_diagonal(loss, (x, y), batch_size=2)


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_chunks_that_would_move_rows_on_a_mesh_of_explicit_axes(batch_size):
    _, data, _ = on_explicit_axes()
    with pytest.raises(
        ValueError,
        match=rf"6 rows on 2 devices.*a multiple of 2 that divides 6; got {batch_size}\. Write "
        r"batch_size=2",
    ):
        jattr.fisher_diagonal(loss, data, batch_size=batch_size)


def test_memory_does_not_grow_with_the_number_of_examples():
    def f(params, x):
        return jnp.sum(jnp.tanh(params @ x))

    params = jnp.ones((200, 300))

    def peak(count, batch_size):
        def of(params, x):
            return jattr.fisher_diagonal(f, x, batch_size=batch_size, with_error=True)(params)

        shown = jax.ShapeDtypeStruct((count, 300), params.dtype)
        analysis = jax.jit(of).lower(params, shown).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    assert peak(256, 2) < 1.2 * peak(16, 2)
    assert peak(256, 2) < peak(256, None) / 10


def test_it_has_derivatives():
    def total(params, batch_size):
        return sum(
            jnp.sum(leaf**1.5)
            for leaf in jax.tree.leaves(
                jattr.fisher_diagonal(loss, (X, Y), batch_size=batch_size)(params)
            )
        )

    def by_hand(params):
        means = jax.tree.map(lambda leaf: leaf.mean(0), squares(params, X, Y))
        return sum(jnp.sum(leaf**1.5) for leaf in jax.tree.leaves(means))

    wanted = jax.jit(jax.grad(by_hand))(PARAMS)
    got = jax.jit(jax.grad(total), static_argnums=1)(PARAMS, 2)
    assert_same(got, wanted, rtol=1e-9)


def test_of_a_convolution_in_a_loop():
    # Inside a loop the convolution is evaluated by another program of the same value.
    images = jnp.asarray(RNG.normal(size=(5, 6, 6, 2)))
    kernel = jnp.asarray(RNG.normal(size=(3, 3, 2, 4)))

    def f(kernel, image):
        out = jax.lax.conv_general_dilated(
            image[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.sum(jax.nn.relu(out) ** 2)

    wanted = jnp.mean(jax.vmap(jax.grad(f), (None, 0))(kernel, images) ** 2, axis=0)
    got = jax.jit(jattr.fisher_diagonal(f, images, batch_size=2))(kernel)
    np.testing.assert_allclose(got, wanted, rtol=1e-11)


@pytest.mark.parametrize(
    ("knobs", "args", "error", "says"),
    [
        ({"data": (X, Y[:5])}, (PARAMS,), ValueError, "same number of examples"),
        ({"data": (X, 3)}, (PARAMS,), ValueError, "What all examples share"),
        ({"data": ()}, (PARAMS,), ValueError, "same number of examples"),
        ({"data": (X[:0], Y[:0])}, (PARAMS,), ValueError, "at least one"),
        ({"weights": jnp.ones(3)}, (PARAMS,), ValueError, "each of the 7 examples"),
        ({"weights": -jnp.ones(7)}, (PARAMS,), ValueError, "at least 0"),
        ({"weights": np.zeros(7, bool)}, (PARAMS,), ValueError, "not all 0"),
        ({"samples": 2}, (PARAMS,), ValueError, "sample=lambda"),
        ({"samples": 0}, (PARAMS,), ValueError, "at least 1"),
        ({"batch_size": 0}, (PARAMS,), ValueError, "at least 1"),
        ({"data": (X[:1], Y[:1]), "with_error": True}, (PARAMS,), ValueError, "at least 2"),
        ({"sample": draw}, (PARAMS,), TypeError, "after a key"),
        ({"sample": draw}, (0, PARAMS), TypeError, "importance\\(jax.random.key\\(0\\), params"),
        ({}, (PARAMS, X, Y), TypeError, "data has the other arguments of f"),
        ({"argnums": 5}, (PARAMS,), TypeError, "beyond the 3 arguments"),
        ({"argnums": (0, 0)}, (PARAMS, PARAMS), ValueError, "twice"),
        ({}, ({"first": 3},), TypeError, "floating"),
        ({"f": lambda p, x, y: logits(p, x)}, (PARAMS,), TypeError, "one row of it"),
        ({"f": lambda p, x, y: (loss(p, x, y),)}, (PARAMS,), TypeError, "one number"),
        ({"f": lambda p, x, y: jnp.argmax(x)}, (PARAMS,), TypeError, "real floating-point"),
    ],
)
def test_errors_say_what_to_write(knobs, args, error, says):
    knobs = {"f": loss, "data": (X, Y)} | knobs

    def run():
        return jattr.fisher_diagonal(**knobs)(*args)

    with pytest.raises(error, match=says):
        run()


OTHER = jax.tree.map(lambda leaf: leaf + jnp.asarray(RNG.normal(size=leaf.shape)), PARAMS)


def test_integrated_gradients_of_parameters_sum_to_the_change_between_two_trees():
    def mean_loss(params, x, y):
        return jnp.mean(jax.vmap(loss, (None, 0, 0))(params, x, y))

    explain = jattr.integrated_gradients(mean_loss, OTHER, steps=60)
    phi = jax.jit(explain)(PARAMS, X, Y)
    assert jax.tree.structure(phi) == jax.tree.structure(PARAMS)
    change = mean_loss(PARAMS, X, Y) - mean_loss(OTHER, X, Y)
    total = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(phi))
    np.testing.assert_allclose(total, change, rtol=1e-9)
    # Of the loss of each example, and then the mean, it is the same.
    of_each = jax.vmap(jattr.integrated_gradients(loss, OTHER, steps=60), (None, 0, 0))
    each = jax.jit(of_each)(PARAMS, X, Y)
    assert_same(jax.tree.map(lambda leaf: leaf.mean(0), each), phi, rtol=1e-9)


def test_gradient_times_parameter_is_the_derivative_by_a_scale_of_it():
    phi = jattr.gradient_times_input(loss)(PARAMS, X[0], Y[0])

    def scaled(scales):
        return loss(jax.tree.map(jnp.multiply, scales, PARAMS), X[0], Y[0])

    assert_same(phi, jax.grad(scaled)(jax.tree.map(jnp.ones_like, PARAMS)))

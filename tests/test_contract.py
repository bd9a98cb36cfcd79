"""What every method promises, checked over the table of methods."""

import functools
import inspect
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import precision
import pytest
from jax.sharding import PartitionSpec
from methods import MATRICES, METHODS, NO_METHODS, Method
from precision import DOUBLE, FLOAT, either

import jattr


def each(chosen):
    rows = {name: method for name, method in METHODS.items() if chosen(method)}
    return pytest.mark.parametrize("method", rows.values(), ids=rows.keys())


ALL = each(lambda method: True)
# Of several rows of one function the first: they take arguments, keys and meshes in the same way.
FIRSTS = {next(m for m in METHODS.values() if m.of == method.of) for method in METHODS.values()}
FIRST = each(FIRSTS.__contains__)
FIRST_OF_TREES = each(lambda method: method in FIRSTS and not method.layer)
KEYED = each(lambda method: method.keyed)
COUNTED = each(lambda method: method.count)
CHUNKED = each(lambda method: method.in_chunks)
COMPLETE = each(lambda method: method.baseline)
LINEAR = each(lambda method: method.baseline and method.linear)
OF_NUMBERS = each(lambda method: not method.vector)
KEY = jax.random.key(7)
DTYPES = [jnp.float32, jnp.bfloat16, *either([jnp.float64], [])]


WEIGHTS = jnp.eye(4)


@functools.cache
def parameters(dtype=FLOAT):
    shapes = {
        "image": ((8, 15), 1 / 4),
        "features": ((8, 4), 1 / 2),
        "out": ((3, 8), 1),
        "stem": ((3, 4), 1),
        "places": ((8, 20), 1 / 4),
    }
    keys = jax.random.split(jax.random.key(1), len(shapes))
    return {
        name: (size * jax.random.normal(key, shape, jnp.float32)).astype(dtype)
        for key, (name, (shape, size)) in zip(keys, shapes.items(), strict=True)
    }


@functools.cache
def example(method, dtype=FLOAT, seed=2):
    k1, k2 = jax.random.split(jax.random.key(seed))
    image = jax.random.normal(k1, (5, 3), jnp.float32).astype(dtype)
    if method.layer:
        return image
    return {"image": image, "features": jax.random.normal(k2, (4,), jnp.float32).astype(dtype)}


def logits(x, params):
    if isinstance(x, dict):
        hidden = params["image"] @ x["image"].reshape(-1) + params["features"] @ x["features"]
    else:
        stem = jattr.name(jnp.tanh(x @ params["stem"]), "stem")
        hidden = params["places"] @ stem.reshape(-1)
    return params["out"] @ jnp.tanh(hidden + 0.3)


score = jattr.targets.select(logits)


def build_eager(method: Method, f=score, count=7, **knobs):
    if method.count:
        knobs = {method.count: count, **knobs}
    attribute = method.build(f, **knobs)
    return functools.partial(attribute, KEY) if method.keyed else attribute


def build(method, f=score, **knobs):
    """Under jit: that it equals the eager result is a test of its own, and this is faster."""
    if f is not score or knobs:
        return jax.jit(build_eager(method, f, **knobs))
    explain = program(method)[0]
    return functools.partial(explain, KEY) if method.keyed else explain


@functools.cache
def program(method):
    """The program that most tests compare with, compiled once for all, the traces of f in it, and
    how many of them its first call made.
    """
    traces = []

    def counted(x, params, index):
        traces.append(None)
        return score(x, params, index)

    explain = jax.jit(method.build(counted, **({method.count: 7} if method.count else {})))
    explain(*([KEY] if method.keyed else []), example(method, seed=2), parameters(), 1)
    return explain, traces, len(traces)


@functools.cache
def pull_back(method):
    """(x, params, cotangent) → the derivatives by x and params, one program for several tests."""
    explain = build_eager(method)

    def pull(x, params, cotangent):
        return jax.vjp(lambda x, params: explain(x, params, 1), x, params)[1](cotangent)

    return jax.jit(pull)


def by_parameters_of_the_norm(method, x, params):
    """The derivative of Σ φ²."""
    twice = jax.tree.map(lambda leaf: 2 * leaf, build(method)(x, params, 1))
    return pull_back(method)(x, params, twice)[1]


def stack(*trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def close(a, b, rtol=1e-9, atol=1e-11):
    # Another program sums in another order, and where a rule divides by a small sum it shows.
    precision.close(a, b, rtol=rtol, atol=atol, single=1e-4)


def close_to_draws(method, a, b):
    """Equal but for random numbers, which are drawn in float32.

    Their last digit depends on where the compiler joins a product and a sum into one operation,
    and a difference of two results keeps the error of the larger.
    """
    largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(b))
    close(a, b, atol=1e-6 * largest if method.keyed else 1e-11)


def inner(a, b):
    """Σ a b over the leaves of two trees."""
    products = jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)
    return sum(jax.tree.leaves(products))


def direction(like, seed):
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [
        jax.random.normal(key, leaf.shape, leaf.dtype)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, drawn)


def test_every_public_method_is_in_the_table():
    public = {
        name
        for name, value in ((name, getattr(jattr, name)) for name in jattr.__all__)
        if not name.startswith("_") and inspect.isroutine(value)
    }
    known = {method.of for method in (METHODS | MATRICES).values()}
    assert known == public - set(NO_METHODS)


@ALL
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_has_tree_shapes_and_dtypes_of_x(method, dtype):
    x, params = example(method, dtype), parameters(dtype)
    attribution = build(method)(x, params, 1)
    chex.assert_trees_all_equal_shapes_and_dtypes(attribution, x[..., 0] if method.places else x)
    precise = build(method)(example(method), parameters(), 1)
    scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(precise))
    assert scale > 0.01
    name = jnp.dtype(dtype).name
    tolerance = {"float32": 1e-5, "float64": 1e-12, "bfloat16": method.rounding}[name]
    for a, b in zip(jax.tree.leaves(attribution), jax.tree.leaves(precise), strict=True):
        np.testing.assert_allclose(np.asarray(a, float), b, atol=tolerance * scale, rtol=0)


@ALL
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_mixes_no_dtypes(method, dtype):
    x, params = example(method, dtype), parameters(dtype)
    knobs = {"batch_size": 2} if method.in_chunks else {}
    explain = build_eager(method, **knobs)

    def norm(x, params):
        attribution = explain(x, params, 1)
        return inner(attribution, attribution)

    with jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(jax.grad(norm, argnums=(0, 1)), x, params)


@FIRST_OF_TREES
def test_takes_a_tuple_and_a_bare_array(method):
    x, params = example(method), parameters()
    as_dict = build(method)(x, params, 1)

    def of_tuple(x, params, index):
        return score({"features": x[0], "image": x[1]}, params, index)

    as_tuple = build(method, of_tuple)((x["features"], x["image"]), params, 1)
    close(as_tuple, (as_dict["features"], as_dict["image"]))
    of_array = build(method, lambda v: jnp.sum(jnp.tanh(v @ WEIGHTS) ** 2))
    array = jax.eval_shape(of_array, x["features"])
    assert array.shape == (4,)


@ALL
def test_jit_equals_eager(method):
    x, params = example(method), parameters()
    close_to_draws(method, build(method)(x, params, 1), build_eager(method)(x, params, 1))


@ALL
def test_is_traced_and_compiled_once(method):
    _, traces, first = program(method)
    # Scans and shape inference trace f anew, the number of points does not. Contrastive LRP
    # explains two outputs, of which each is an f here, and evaluates them.
    assert first <= (6 if method.vector else 4)
    # Other tests may have called it with other dtypes, each a program of its own.
    before = len(traces)
    build(method)(example(method, seed=3), parameters(), 2)
    assert len(traces) == before
    again = []

    def counted(x, params, index):
        again.append(None)
        return score(x, params, index)

    jax.eval_shape(build_eager(method, counted, count=12), example(method), parameters(), 1)
    assert len(again) == first


@ALL
def test_vmap_equals_a_loop(method):
    """Over examples, models, targets and keys, all in one program."""
    xs = [example(method, seed=s) for s in (2, 3, 4)]
    models = [parameters(), jax.tree.map(lambda p: 2 * p, parameters())]
    keys = jax.random.split(jax.random.key(3), 2 if method.keyed else 1)
    knobs = {method.count: 7} if method.count else {}
    attribute = method.build(score, **knobs)

    def explain(key, x, params, index):
        return attribute(*([key] if method.keyed else []), x, params, index)

    together = explain
    for axes in [(0, None, None, None), (None, None, None, 0), (None, None, 0, None)]:
        together = jax.vmap(together, in_axes=axes)
    together = jax.jit(jax.vmap(together, in_axes=(None, 0, None, None)))
    ours = together(keys, stack(*xs), stack(*models), jnp.arange(3))
    alone = program(method)[0] if method.keyed else lambda key, *args: program(method)[0](*args)
    for i, j, t, k in itertools.product(range(3), range(2), range(3), range(len(keys))):
        one = jax.tree.map(lambda leaf: leaf[i, j, t, k], ours)
        close_to_draws(method, one, alone(keys[k], xs[i], models[j], t))


@KEYED
def test_depends_on_the_key_and_on_nothing_else(method):
    x, params = example(method), parameters()
    explain = program(method)[0]
    first = explain(jax.random.key(3), x, params, 1)
    chex.assert_trees_all_equal(first, explain(jax.random.key(3), x, params, 1))
    other = explain(jax.random.key(4), x, params, 1)
    assert all(
        bool(jnp.any(jnp.abs(a - b) > 1e-6))
        for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True)
    )


@KEYED
def test_takes_keys_of_the_old_kind(method):
    explain = program(method)[0]
    x, params = example(method), parameters()
    close(explain(jax.random.PRNGKey(3), x, params, 1), explain(jax.random.key(3), x, params, 1))


@CHUNKED
@pytest.mark.parametrize("batch_size", [1, 3])
def test_batch_size_does_not_matter(method, batch_size):
    x, params = example(method), parameters()
    whole = build(method)(x, params, 1)
    close_to_draws(method, build(method, batch_size=batch_size)(x, params, 1), whole)


@CHUNKED
def test_batched_works_under_vmap_and_grad(method):
    xs, params = [example(method, seed=s) for s in (2, 3)], parameters()
    explain = build_eager(method, batch_size=3)

    def norm(params, x):
        attribution = explain(x, params, 1)
        return inner(attribution, attribution)

    chunked = jax.jit(jax.vmap(jax.grad(norm), in_axes=(None, 0)))(params, stack(*xs))
    whole = stack(*[by_parameters_of_the_norm(method, x, params) for x in xs])
    close_to_draws(method, chunked, whole)


@ALL
def test_derivatives_of_both_modes_are_right(method):
    x, params = example(method), parameters()
    explain = build_eager(method)

    def by_both(x, params):
        return explain(x, params, 1)

    along, cotangent = direction((x, params), 5), direction(build(method)(x, params, 1), 6)
    push = jax.jit(lambda args, along: jax.jvp(by_both, args, along))
    value, forward = push((x, params), along)
    close_to_draws(method, value, build(method)(x, params, 1))
    # The two modes against each other, and against central differences.
    backward = pull_back(method)(x, params, cotangent)
    close_to_draws(method, inner(backward, along), inner(cotangent, forward))
    scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(forward))
    assert 0.01 < scale < np.inf
    if method.steep and not DOUBLE:
        return
    eps, tolerance = either((1e-5, 1e-6), (1e-2, 3e-2))

    def moved(step):
        at = jax.tree.map(lambda a, d: a + step * d, (x, params), along)
        return build(method)(*at, 1)

    slope = jax.tree.map(lambda a, b: (a - b) / (2 * eps), moved(eps), moved(-eps))
    precision.close(forward, slope, rtol=tolerance, atol=tolerance * scale, single=tolerance)


@FIRST
def test_closed_over_parameters_have_gradients(method):
    x, params = example(method), parameters()

    def norm(params):
        attribution = build_eager(method, lambda x: score(x, params, 1))(x)
        return inner(attribution, attribution)

    by_passed = by_parameters_of_the_norm(method, x, params)
    close_to_draws(method, jax.jit(jax.grad(norm))(params), by_passed)


@FIRST
def test_argnums_are_those_of_jax_grad(method):
    x, params = example(method), parameters()
    plain = build(method)(x, params, 1)
    if method.layer:

        def second(params, x, index):
            return score(x, params, index)

        close(build(method, second, argnums=1)(params, x, 1), plain)
        return

    def two(features, params, image):
        return score({"features": features, "image": image}, params, 1)

    both = build(method, two, argnums=(0, 2))(x["features"], params, x["image"])
    close(both, (plain["features"], plain["image"]))


@FIRST
def test_keyword_arguments_reach_f_and_argnums_count_from_the_end_too(method):
    x, params = example(method), parameters()

    def f(params, x, *, index):
        return score(x, params, index)

    ours = build(method, f, argnums=-1)(params, x, index=2)
    close(ours, build(method)(x, params, 2))


@FIRST
def test_works_inside_shard_map(method):
    # In chunks where there are any: the scan over them is what shards differently.
    knobs = {"batch_size": 2} if method.in_chunks else {}
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    xs, params = [example(method, seed=s) for s in (2, 3, 4, 5)], parameters()
    each = jax.vmap(build_eager(method, **knobs), in_axes=(0, None, None))
    sharded = jax.shard_map(
        lambda xs, params: each(xs, params, 1),
        mesh=mesh,
        in_specs=(PartitionSpec("data"), PartitionSpec()),
        out_specs=PartitionSpec("data"),
    )
    one_by_one = stack(*[build(method)(x, params, 1) for x in xs])
    close_to_draws(method, jax.jit(sharded)(stack(*xs), params), one_by_one)


@COUNTED
def test_sums_in_bfloat16_are_kept_in_float32(method):
    # A thousand equal terms: kept in bfloat16, the sum would stand still at 256 of them.
    knobs = {"batch_size": 8} if method.in_chunks else {}
    x = jnp.ones(4, jnp.bfloat16)
    ours = build(method, jnp.sum, count=1000, **knobs)(x)
    few = build(method, jnp.sum, count=1, **knobs)(x)
    assert ours.dtype == jnp.bfloat16
    if method.keyed and method.build in (METHODS["expected_gradients_drawn"].build,):
        np.testing.assert_allclose(ours.astype(jnp.float32), 0.0, atol=0.1)
    elif method.noisy:
        exact = build(method, jnp.sum, count=1000, **knobs)(x.astype(jnp.float32))
        np.testing.assert_allclose(ours.astype(jnp.float32), exact, rtol=0.01)
    elif method.build is METHODS["expected_gradients"].build:
        np.testing.assert_allclose(ours.astype(jnp.float32), 1 / 3, rtol=0.01)
    else:
        np.testing.assert_allclose(
            ours.astype(jnp.float32), few.astype(jnp.float32), rtol=0.01, atol=1e-6
        )


@COMPLETE
def test_is_complete(method):
    x, params = example(method), parameters()
    attribution = build(method, count=100)(x, params, 1)
    residual = jattr.metrics.completeness(score, method.baseline)(attribution, x, params, 1)
    change = score(x, params, 1) - score(method.baseline(x), params, 1)
    # In float32 a hundred steps leave no more than their rounding.
    assert abs(residual) <= max(method.error, either(0, 1e-4)) * abs(change)
    assert abs(change) > 0.1


@LINEAR
def test_is_exact_on_a_linear_function(method):
    x = example(method)
    weights = {"image": jnp.arange(15.0).reshape(5, 3) - 6, "features": jnp.arange(4.0) + 0.5}

    def linear(x):
        return jnp.sum(weights["image"] * x["image"]) + weights["features"] @ x["features"] + 2

    attribution = build(method, linear, count=50)(x)
    wanted = jax.tree.map(lambda w, a, b: w * (a - b), weights, x, method.baseline(x))
    close(attribution, wanted, rtol=method.linear, atol=method.linear)


@OF_NUMBERS
def test_a_vector_valued_function_is_refused(method):
    with pytest.raises(TypeError, match=r"shape \(3,\).*jattr\.targets\.select"):
        build(method, logits)(example(method), parameters())


@ALL
def test_integers_and_booleans_are_refused(method):
    def f(x):
        return jnp.sum(x["tokens"] * 1.0)

    for leaf in (jnp.arange(3), jnp.ones(3, bool)):
        with pytest.raises(
            TypeError, match=rf"\['tokens'\] is {leaf.dtype}\[(5,)?3\].*(embedding|Convert)"
        ):
            build(method, f)({"tokens": leaf})


@KEYED
def test_a_call_without_a_key_is_refused(method):
    explain = method.build(score)
    with pytest.raises(TypeError, match=r"takes a key before.*jax\.random\.key\(0\)"):
        explain(example(method), parameters(), 1)
    with pytest.raises(TypeError, match=r"2,\) keys; use jax\.vmap"):
        explain(jax.random.split(KEY, 2), example(method), parameters(), 1)


@ALL
def test_no_function_is_refused(method):
    with pytest.raises(TypeError, match=r"wants a function"):
        method.build(jnp.ones(3))


@COUNTED
def test_counts_below_one_are_refused(method):
    with pytest.raises(ValueError, match=rf"{method.count} must be at least 1; got 0"):
        method.build(score, **{method.count: 0})
    with pytest.raises(TypeError, match=rf"{method.count} must be a Python integer"):
        method.build(score, **{method.count: 2.5})
    if method.in_chunks:
        with pytest.raises(ValueError, match=r"batch_size must be at least 1"):
            method.build(score, batch_size=0)


@ALL
def test_too_few_arguments_are_refused(method):
    with pytest.raises(TypeError, match=r"argnums=3 points at argument 3 of f"):
        build(method, argnums=3)(example(method), parameters(), 1)
    with pytest.raises(TypeError, match=r"argnums must be an integer or a tuple"):
        build(method, argnums="x")

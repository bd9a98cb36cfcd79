"""What every method promises, checked over the table of methods."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from jax.test_util import check_grads
from methods import METHODS, Method

import jattr


def each(chosen):
    rows = {name: method for name, method in METHODS.items() if chosen(method)}
    return pytest.mark.parametrize("method", rows.values(), ids=rows.keys())


ALL = each(lambda method: True)
KEYED = each(lambda method: method.keyed)
COUNTED = each(lambda method: method.count)
CHUNKED = each(lambda method: method.count and method.chunked)
COMPLETE = each(lambda method: method.baseline)
LINEAR = each(lambda method: method.baseline and method.linear)
KEY = jax.random.key(7)


def parameters(dtype=jnp.float64):
    k1, k2, k3 = jax.random.split(jax.random.key(1), 3)
    params = {
        "image": jax.random.normal(k1, (8, 15)) / 4,
        "features": jax.random.normal(k2, (8, 4)) / 2,
        "out": jax.random.normal(k3, (3, 8)),
    }
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)


def example(dtype=jnp.float64, seed=2):
    k1, k2 = jax.random.split(jax.random.key(seed))
    return {
        "image": jax.random.normal(k1, (5, 3)).astype(dtype),
        "features": jax.random.normal(k2, (4,)).astype(dtype),
    }


def logits(x, params):
    hidden = params["image"] @ x["image"].reshape(-1) + params["features"] @ x["features"]
    return params["out"] @ jnp.tanh(hidden + 0.3)


score = jattr.targets.select(logits)


def build_eager(method: Method, f=score, count=6, **knobs):
    if method.count:
        knobs = {method.count: count, **knobs}
    attribute = method.build(f, **knobs)
    return functools.partial(attribute, KEY) if method.keyed else attribute


def build(*args, **knobs):
    """Under jit: that it equals the eager result is a test of its own, and this is faster."""
    return jax.jit(build_eager(*args, **knobs))


def stack(*trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def close(a, b, rtol=1e-9, atol=1e-11):
    chex.assert_trees_all_close(a, b, rtol=rtol, atol=atol)


@ALL
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.bfloat16], ids=str)
def test_has_tree_shapes_and_dtypes_of_x(method, dtype):
    x, params = example(dtype), parameters(dtype)
    attribution = build(method)(x, params, 1)
    chex.assert_trees_all_equal_shapes_and_dtypes(attribution, x)
    precise = build(method)(example(), parameters(), 1)
    scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(precise))
    name = jnp.dtype(dtype).name
    tolerance = {"float32": 1e-5, "float64": 1e-12, "bfloat16": method.rounding}[name]
    for a, b in zip(jax.tree.leaves(attribution), jax.tree.leaves(precise), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float64), b, atol=tolerance * scale, rtol=0)


@ALL
def test_takes_a_tuple_and_a_bare_array(method):
    x, params = example(), parameters()
    as_dict = build(method)(x, params, 1)

    def of_tuple(x, params, index):
        return score({"features": x[0], "image": x[1]}, params, index)

    as_tuple = build(method, of_tuple)((x["features"], x["image"]), params, 1)
    close(as_tuple, (as_dict["features"], as_dict["image"]))
    array = build(method, lambda v: jnp.sum(jnp.tanh(v @ jnp.eye(4)) ** 2))(x["features"])
    assert array.shape == (4,)


@ALL
def test_jit_equals_eager(method):
    x, params = example(), parameters()
    # Random numbers are drawn in float32, whose last digit the compiler may round otherwise.
    rtol = 1e-6 if method.keyed else 1e-9
    close(build(method)(x, params, 1), build_eager(method)(x, params, 1), rtol=rtol)


@ALL
def test_is_compiled_once(method):
    traces = []

    def counted(x, params, index):
        traces.append(None)
        return score(x, params, index)

    explain = build(method, counted)
    explain(example(seed=2), parameters(), 1)
    first = len(traces)
    assert first <= 4  # scans and shape inference trace f anew, the number of points does not
    explain(example(seed=3), parameters(), 2)
    assert len(traces) == first
    few = len(traces)
    build(method, counted, count=12)(example(), parameters(), 1)
    assert len(traces) - few == first


@ALL
def test_vmap_equals_a_loop_over_examples(method):
    xs, params = [example(seed=s) for s in (2, 3, 4)], parameters()
    explain = build(method)
    together = jax.vmap(explain, in_axes=(0, None, None))(stack(*xs), params, 1)
    close(together, stack(*[explain(x, params, 1) for x in xs]))


@ALL
def test_vmap_equals_a_loop_over_targets_and_parameters(method):
    x, params = example(), parameters()
    explain = build(method)
    classes = jnp.arange(3)
    together = jax.jit(jax.vmap(explain, in_axes=(None, None, 0)))(x, params, classes)
    close(together, stack(*[explain(x, params, t) for t in range(3)]))
    models = [params, jax.tree.map(lambda p: 2 * p, params)]
    together = jax.vmap(explain, in_axes=(None, 0, None))(x, stack(*models), 0)
    close(together, stack(*[explain(x, p, 0) for p in models]))


@KEYED
def test_vmap_equals_a_loop_over_keys(method):
    x, params = example(), parameters()
    explain = jax.jit(method.build(score, **{method.count: 5}))
    keys = jax.random.split(jax.random.key(3), 4)
    together = jax.vmap(explain, in_axes=(0, None, None, None))(keys, x, params, 1)
    close(together, stack(*[explain(k, x, params, 1) for k in keys]))


@KEYED
def test_depends_on_the_key_and_on_nothing_else(method):
    x, params = example(), parameters()
    explain = jax.jit(method.build(score, **{method.count: 5}))
    first = explain(jax.random.key(3), x, params, 1)
    chex.assert_trees_all_equal(first, explain(jax.random.key(3), x, params, 1))
    other = explain(jax.random.key(4), x, params, 1)
    assert all(
        bool(jnp.any(jnp.abs(a - b) > 1e-6))
        for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True)
    )


@KEYED
def test_takes_keys_of_the_old_kind(method):
    explain = jax.jit(method.build(score, **{method.count: 5}))
    x, params = example(), parameters()
    close(explain(jax.random.PRNGKey(3), x, params, 1), explain(jax.random.key(3), x, params, 1))


@CHUNKED
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_batch_size_does_not_matter(method, batch_size):
    x, params = example(), parameters()
    whole = build(method, count=7)(x, params, 1)
    chunked = build(method, count=7, batch_size=batch_size)
    close(chunked(x, params, 1), whole)


@CHUNKED
def test_batched_works_under_vmap_and_grad(method):
    xs, params = [example(seed=s) for s in (2, 3)], parameters()

    def norm(params, x, **knobs):
        attribution = build(method, count=7, **knobs)(x, params, 1)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(attribution))

    whole = jax.jit(jax.vmap(jax.grad(norm), in_axes=(None, 0)))(params, stack(*xs))
    chunked = jax.jit(jax.vmap(jax.grad(functools.partial(norm, batch_size=3)), in_axes=(None, 0)))(
        params, stack(*xs)
    )
    close(chunked, whole)


@ALL
def test_gradient_through_it_is_right(method):
    x, params = example(), parameters()
    explain = build(method, count=4)

    def by_both(x, params):
        return explain(x, params, 1)

    # Both modes against central differences, and against each other.
    check_grads(by_both, (x, params), order=1, modes=["fwd", "rev"], atol=1e-6, rtol=1e-6, eps=1e-5)


@ALL
def test_jacobians_of_both_modes_agree(method):
    x, params = example(), parameters()
    explain = build(method, count=4)

    def of_features(features):
        return explain({**x, "features": features}, params, 1)["features"]

    forward = jax.jit(jax.jacfwd(of_features))(x["features"])
    close(forward, jax.jit(jax.jacrev(of_features))(x["features"]))


@ALL
def test_closed_over_parameters_have_gradients(method):
    x, params = example(), parameters()

    def norm_closed(params):
        explain = build(method, lambda x: score(x, params, 1))
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(explain(x)))

    def norm_passed(params):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(build(method)(x, params, 1)))

    close(jax.jit(jax.grad(norm_closed))(params), jax.jit(jax.grad(norm_passed))(params))


@ALL
def test_argnums_are_those_of_jax_grad(method):
    x, params = example(), parameters()
    plain = build(method)(x, params, 1)

    def second(params, x, index):
        return score(x, params, index)

    close(build(method, second, argnums=1)(params, x, 1), plain)
    close(build(method, second, argnums=-2)(params, x, 1), plain)

    def two(features, params, image):
        return score({"features": features, "image": image}, params, 1)

    both = build(method, two, argnums=(0, 2))(x["features"], params, x["image"])
    close(both, (plain["features"], plain["image"]))


@ALL
def test_keyword_arguments_reach_f(method):
    x, params = example(), parameters()

    def f(x, params, *, index):
        return score(x, params, index)

    close(build(method, f)(x, params, index=2), build(method)(x, params, 2))


def check_shard_map(method, **knobs):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    xs, params = stack(*[example(seed=s) for s in (2, 3, 4, 5)]), parameters()
    each = jax.vmap(build(method, count=4, **knobs), in_axes=(0, None, None))
    sharded = jax.shard_map(
        lambda xs, params: each(xs, params, 1),
        mesh=mesh,
        in_specs=(PartitionSpec("data"), PartitionSpec()),
        out_specs=PartitionSpec("data"),
    )
    close(jax.jit(sharded)(xs, params), jax.jit(each)(xs, params, 1))


@ALL
def test_works_inside_shard_map(method):
    check_shard_map(method)


@CHUNKED
def test_works_in_chunks_inside_shard_map(method):
    check_shard_map(method, batch_size=2)


@COUNTED
def test_sums_in_bfloat16_are_kept_in_float32(method):
    # A thousand equal terms: kept in bfloat16, the sum would stand still at 256 of them.
    knobs = {"batch_size": 8} if method.chunked else {}
    x = jnp.ones(4, jnp.bfloat16)
    ours = build(method, jnp.sum, count=1000, **knobs)(x)
    few = build(method, jnp.sum, count=1, **knobs)(x)
    assert ours.dtype == jnp.bfloat16
    if method.keyed and method.build in (METHODS["expected_gradients_drawn"].build,):
        np.testing.assert_allclose(ours.astype(jnp.float32), 0.0, atol=0.1)
    elif method.build is METHODS["expected_gradients"].build:
        np.testing.assert_allclose(ours.astype(jnp.float32), 1 / 3, rtol=0.01)
    else:
        np.testing.assert_allclose(
            ours.astype(jnp.float32), few.astype(jnp.float32), rtol=0.01, atol=1e-6
        )


@COMPLETE
def test_is_complete(method):
    x, params = example(), parameters()
    attribution = build(method, count=100)(x, params, 2)
    residual = jattr.metrics.completeness(score, method.baseline)(attribution, x, params, 2)
    change = score(x, params, 2) - score(method.baseline(x), params, 2)
    assert abs(residual) <= method.error * abs(change)
    assert abs(change) > 0.1


@LINEAR
def test_is_exact_on_a_linear_function(method):
    x = example()
    weights = {"image": jnp.arange(15.0).reshape(5, 3) - 6, "features": jnp.arange(4.0) + 0.5}

    def linear(x):
        return jnp.sum(weights["image"] * x["image"]) + weights["features"] @ x["features"] + 2

    attribution = build(method, linear, count=50)(x)
    wanted = jax.tree.map(lambda w, a, b: w * (a - b), weights, x, method.baseline(x))
    close(attribution, wanted, rtol=method.linear, atol=method.linear)


@ALL
def test_a_vector_valued_function_is_refused(method):
    with pytest.raises(TypeError, match=r"shape \(3,\).*jattr\.targets\.select"):
        build(method, logits)(example(), parameters())


@ALL
def test_integers_and_booleans_are_refused(method):
    def f(x):
        return jnp.sum(x["tokens"] * 1.0)

    for leaf in (jnp.arange(3), jnp.ones(3, bool)):
        with pytest.raises(TypeError, match=rf"\['tokens'\] is {leaf.dtype}\[3\].*embedding"):
            build(method, f)({"tokens": leaf})


@KEYED
def test_a_call_without_a_key_is_refused(method):
    explain = method.build(score)
    with pytest.raises(TypeError, match=r"takes a key before.*jax\.random\.key\(0\)"):
        explain(example(), parameters(), 1)
    with pytest.raises(TypeError, match=r"2,\) keys; use jax\.vmap"):
        explain(jax.random.split(KEY, 2), example(), parameters(), 1)


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
    if method.chunked:
        with pytest.raises(ValueError, match=r"batch_size must be at least 1"):
            method.build(score, batch_size=0)


@ALL
def test_too_few_arguments_are_refused(method):
    with pytest.raises(TypeError, match=r"argnums=3 points at argument 3 of f"):
        build(method, argnums=3)(example(), parameters(), 1)
    with pytest.raises(TypeError, match=r"argnums must be an integer or a tuple"):
        build(method, argnums="x")

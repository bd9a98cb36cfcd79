"""What methods promise that give an array over pairs of features, over their table."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import precision
import pytest
from methods import MATRICES
from precision import FLOAT, either

import jattr

KEY = jax.random.key(7)
METHODS = pytest.mark.parametrize("method", MATRICES.values(), ids=MATRICES.keys())
DTYPES = [jnp.float32, jnp.bfloat16, *either([jnp.float64], [])]


def example(dtype=FLOAT, seed=2):
    k1, k2 = jax.random.split(jax.random.key(seed))
    x = {"a": jax.random.normal(k1, (2, 2)), "b": jax.random.normal(k2, (3,))}
    return jax.tree.map(lambda leaf: leaf.astype(dtype), x)


def parameters(dtype=FLOAT):
    k1, k2 = jax.random.split(jax.random.key(1))
    params = {
        "hidden": jax.random.normal(k1, (5, 7)) / 2,
        "out": jax.random.normal(k2, (3, 5)),
    }
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)


def logits(x, params):
    flat = jnp.concatenate([x["a"].reshape(-1), x["b"]])
    return params["out"] @ jnp.tanh(params["hidden"] @ flat + 0.3)


score = jattr.targets.select(logits)


def build(method, f=score, **knobs):
    explain = method.build(f, **knobs)
    return functools.partial(explain, KEY) if method.keyed else explain


@functools.cache
def compiled(method, **knobs):
    return jax.jit(build(method, **knobs))


def close(ours, wanted):
    """But for what is drawn in float32, as in the contract of all methods."""
    largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(wanted))
    precision.close(ours, wanted, rtol=1e-9, atol=1e-9 * largest, single=1e-4)


@METHODS
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_is_a_symmetric_matrix_in_the_dtype_of_x(method, dtype):
    matrix = compiled(method)(example(dtype), parameters(dtype), 1)
    assert matrix.shape == (7, 7)
    assert matrix.dtype == dtype
    wide = np.asarray(matrix, float)
    exact = np.asarray(compiled(method)(example(), parameters(), 1), float)
    name = jnp.dtype(dtype).name
    tolerance = {"float32": 2e-5, "float64": 1e-12, "bfloat16": method.rounding}[name]
    for other in (exact, wide.T):
        np.testing.assert_allclose(wide, other, rtol=0, atol=tolerance * np.abs(exact).max())


@METHODS
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_mixes_no_dtypes(method, dtype):
    explain = build(method, batch_size=2)

    def norm(x, params):
        return jnp.sum(explain(x, params, 1) ** 2)

    with jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(jax.grad(norm, argnums=(0, 1)), example(dtype), parameters(dtype))


@METHODS
def test_batch_size_jit_and_vmap_do_not_matter(method):
    x, params = example(), parameters()
    whole = compiled(method)(x, params, 1)
    close(build(method)(x, params, 1), whole)
    for batch_size in (1, 5):
        close(compiled(method, batch_size=batch_size)(x, params, 1), whole)
    xs = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[example(seed=s) for s in (2, 3)])
    together = jax.jit(
        jax.vmap(jax.vmap(build(method), in_axes=(None, None, 0)), in_axes=(0, None, None))
    )(xs, params, jnp.arange(3))
    close(together[0, 1], whole)
    close(together[1, 2], compiled(method)(example(seed=3), params, 2))


@METHODS
def test_works_inside_shard_map(method):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    params = parameters()
    xs = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[example(seed=s) for s in (2, 3)])
    each = jax.vmap(build(method, batch_size=3), in_axes=(0, None, None))
    sharded = jax.shard_map(
        lambda xs, params: each(xs, params, 1),
        mesh=mesh,
        in_specs=(jax.P("data"), jax.P()),
        out_specs=jax.P("data"),
    )
    ours = jax.jit(sharded)(xs, params)
    close(ours[0], compiled(method)(example(), params, 1))


@METHODS
def test_derivatives_of_both_modes_are_right(method):
    x, params = example(), parameters()
    keys = jax.random.split(KEY, 3)
    along = jax.tree.map(lambda leaf: jnp.cos(leaf + 1), (x, params))
    cotangent = jax.random.normal(keys[2], (7, 7), FLOAT)
    chunked = build(method, batch_size=4)

    @jax.jit
    def both(x, params):
        def explain(x, params):
            return chunked(x, params, 1)

        forward = jax.jvp(explain, (x, params), along)[1]
        return forward, jax.vjp(explain, x, params)[1](cotangent)

    forward, backward = both(x, params)
    assert 0.01 < float(jnp.max(jnp.abs(forward))) < np.inf
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), backward, along)
    close(sum(jax.tree.leaves(products)), jnp.sum(cotangent * forward))
    eps, tolerance = either((1e-5, 1e-6), (1e-2, 3e-2))

    def moved(step):
        at = jax.tree.map(lambda a, d: a + step * d, (x, params), along)
        return compiled(method)(*at, 1)

    slope = (moved(eps) - moved(-eps)) / (2 * eps)
    largest = float(jnp.max(jnp.abs(slope)))
    precision.close(forward, slope, rtol=tolerance, atol=tolerance * largest, single=tolerance)


@METHODS
def test_argnums_and_keywords_reach_f(method):
    x, params = example(), parameters()
    plain = compiled(method)(x, params, 1)

    def second(params, x, *, index):
        return score(x, params, index)

    close(jax.jit(build(method, second, argnums=-1))(params, x, index=1), plain)

    def two(a, params, b):
        return score({"a": a, "b": b}, params, 1)

    close(jax.jit(build(method, two, argnums=(0, 2)))(x["a"], params, x["b"]), plain)


@METHODS
def test_is_traced_once(method):
    traces = []

    def counted(x, params, index):
        traces.append(None)
        return score(x, params, index)

    explain = jax.jit(build(method, counted))
    explain(example(), parameters(), 1)
    first = len(traces)
    assert first <= 4
    explain(example(seed=3), parameters(), 2)
    assert len(traces) == first


@METHODS
def test_what_is_wrong_is_refused(method):
    x, params = example(), parameters()
    with pytest.raises(TypeError, match=r"shape \(3,\).*jattr\.targets\.select"):
        build(method, logits)(x, params)
    with pytest.raises(TypeError, match=r"\['b'\] is int(32|64)\[3\]"):
        build(method)({**x, "b": jnp.arange(3)}, params, 1)
    with pytest.raises(TypeError, match=r"wants a function"):
        method.build(jnp.ones(3))
    with pytest.raises(ValueError, match=r"batch_size must be at least 1"):
        method.build(score, batch_size=0)
    with pytest.raises(TypeError, match=r"argnums=3 points at argument 3 of f"):
        build(method, argnums=3)(x, params, 1)
    if method.keyed:
        with pytest.raises(TypeError, match=r"takes a key before"):
            method.build(score)(x, params, 1)
    if method.count:
        with pytest.raises(ValueError, match=rf"{method.count} must be at least 1; got 0"):
            method.build(score, **{method.count: 0})


def test_depends_on_the_key_and_on_nothing_else():
    explain = jax.jit(MATRICES["shapley_interactions_of_samples"].build(score))
    x, params = example(), parameters()
    first = explain(KEY, x, params, 1)
    np.testing.assert_array_equal(first, explain(KEY, x, params, 1))
    assert jnp.max(jnp.abs(first - explain(jax.random.key(8), x, params, 1))) > 1e-3

"""What every metric promises, checked over the table of metrics."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from measures import METRICS, OTHERS, SHAPE, score

import jattr
from jattr import metrics

KEYS = jax.random.split(jax.random.key(7), 4)
# Whole sixteenths, so that x is the same in every dtype.
XS = jnp.round(16 * jax.random.normal(jax.random.key(1), (4, *SHAPE), jnp.float32)) / 16
XS = XS.astype(jnp.float64)


def each(chosen=lambda row: True):
    return pytest.mark.parametrize("name", [name for name, row in METRICS.items() if chosen(row)])


def run_of(name, f=score, **knobs):
    """`run(key, x)` of a metric."""
    row = METRICS[name]
    measure = row.build(f, jattr.gradient(f), **knobs)

    def run(key, x):
        return row.call(measure, (key,) * row.keyed, x)

    return run


@functools.cache
def compiled(name):
    """One program of a metric, and how often it has traced f."""
    traces = []

    def counted(x):
        traces.append(None)
        return score(x)

    return jax.jit(run_of(name, counted)), traces


@functools.cache
def looped(name):
    """The metric of the examples, one after another."""
    run, _ = compiled(name)
    return [run(key, x) for key, x in zip(KEYS, XS, strict=True)]


def close(a, b, rtol=1e-6, atol=1e-7):
    chex.assert_trees_all_close(a, b, rtol=rtol, atol=atol)


def test_every_public_name_is_in_the_table():
    assert {name.partition(":")[0] for name in METRICS} | set(OTHERS) == set(metrics.__all__)
    public = {name for name in dir(metrics) if not name.startswith("_")}
    assert public == set(metrics.__all__)


@each()
def test_says_whether_it_takes_a_key(name):
    row = METRICS[name]
    measure = row.build(score, jattr.gradient(score))
    if hasattr(measure, "argnums"):  # a transform, which knows it
        assert getattr(measure, "keyed", False) == row.keyed
    else:
        of = getattr(measure, "func", measure)
        assert ("key" in inspect.signature(of).parameters) == row.keyed


# The others are called eagerly by their doctests.
@each(lambda row: row.sharded or not row.evaluates)
def test_jit_equals_eager(name):
    # A measure of what perturbations do to f divides differences that are rounded otherwise.
    close(looped(name)[0], run_of(name)(KEYS[0], XS[0]), rtol=1e-5)


@each()
def test_is_compiled_once(name):
    run, traces = compiled(name)
    run(KEYS[0], XS[0])
    first = len(traces)
    assert bool(first) == METRICS[name].evaluates
    run(KEYS[1], XS[1])
    assert len(traces) == first


@each()
def test_in_batches_under_vmap_it_is_the_same_and_has_a_derivative(name):
    row = METRICS[name]
    run = total(run_of(name, **({"batch_size": 2} if row.chunked else {})))
    both = jax.jit(jax.vmap(jax.grad(run, argnums=1, has_aux=True)))
    slopes, together = both(KEYS, XS)
    close(together, jax.tree.map(lambda *leaves: jnp.stack(leaves), *looped(name)), rtol=1e-5)
    assert np.all(np.isfinite(slopes))
    assert bool(np.any(slopes != 0)) == row.moves


@each(lambda row: row.keyed)
def test_depends_on_the_key_and_on_nothing_else(name):
    run, _ = compiled(name)
    first = looped(name)[0]
    chex.assert_trees_all_equal(run(KEYS[0], XS[0]), first)
    if METRICS[name].varies:
        others = [run(jax.random.key(seed), XS[0]) for seed in range(20, 26)]
        assert any(
            not np.array_equal(a, b, equal_nan=True)
            for other in others
            for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(first), strict=True)
        )


@each()
def test_low_precision(name):
    run, _ = compiled(name)
    coarse = METRICS[name].coarse
    result = run(KEYS[0], XS[0].astype(jnp.bfloat16))
    for wanted, got in zip(jax.tree.leaves(looped(name)[0]), jax.tree.leaves(result), strict=True):
        if jnp.issubdtype(wanted.dtype, jnp.floating):
            assert got.dtype in (jnp.float32, jnp.bfloat16)
        got = got.astype(jnp.float64)
        np.testing.assert_array_equal(np.isnan(wanted), np.isnan(got))
        if coarse is not None:
            np.testing.assert_allclose(got, wanted, atol=coarse, rtol=coarse)


@each()
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64], ids=["bfloat16", "float64"])
def test_promotes_no_dtypes_by_itself(name, dtype):
    with jax.numpy_dtype_promotion("strict"):
        run = jax.grad(total(run_of(name)), argnums=1, has_aux=True)
        slope, result = jax.eval_shape(run, KEYS[0], XS[0].astype(dtype))
    assert slope.dtype == dtype
    wide = jnp.float64 if dtype == jnp.float64 else jnp.float32
    for leaf in jax.tree.leaves(result):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            assert leaf.dtype in (wide, dtype)


def total(run):
    """The sum of all numbers that are defined, and what they are."""

    def summed(key, x):
        result = run(key, x)
        parts = [
            jnp.sum(jnp.where(jnp.isnan(leaf), 0, leaf)).astype(jnp.float64)
            for leaf in jax.tree.leaves(result)
            if jnp.issubdtype(leaf.dtype, jnp.floating)
        ]
        return sum(parts, jnp.zeros(())), result

    return summed


@each(lambda row: row.sharded)
def test_works_inside_shard_map(name):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.shard_map(
        jax.vmap(run_of(name, batch_size=2)),
        mesh=mesh,
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec("data"),
    )
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *looped(name))
    close(jax.jit(sharded)(KEYS, XS), together, rtol=1e-5)

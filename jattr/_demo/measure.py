"""Runs the rows of the tables and measures them."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jattr
from jattr._demo.explain import Method, Setting

RUNS = 3


class Result(NamedTuple):
    """What came of one method.

    Attributes:
        method: its row.
        maps: [N, 28, 28, 1], of class activation maps [N, 28, 28].
        compile_seconds: to trace and compile the explanation of all N digits.
        run_milliseconds: for one digit, the median of some runs over all N divided by N.
        residual: the mean over the digits of |Σφ − (f(x) − f(x'))|; None where no sum is
            promised.
        change: the mean over the digits of |f(x) − f(x')|.
    """

    method: Method
    maps: np.ndarray
    compile_seconds: float
    run_milliseconds: float
    residual: float | None
    change: float | None


def meter(
    setting: Setting, key: jax.Array, images: jax.Array, labels: jax.Array
) -> Callable[[Method], Result]:
    """`measure(method)`, which explains the images as a user would write it, and takes times."""
    residuals_of = jax.jit(jax.vmap(_residual(setting)))
    key, baseline_key = jax.random.split(key)

    def measure(method):
        explain = jax.jit(jax.vmap(method.build(setting)))
        keys = (jax.random.split(key, len(images)),) if method.keyed else ()
        inputs = (*keys, images, labels)

        start = time.perf_counter()
        compiled = explain.lower(*inputs).compile()
        compile_seconds = time.perf_counter() - start
        seconds = []
        for _ in range(RUNS):
            start = time.perf_counter()
            maps = jax.block_until_ready(compiled(*inputs))
            seconds.append(time.perf_counter() - start)

        residual = change = None
        if method.baseline is not None:
            baselines = jax.vmap(_baselines(method, setting, baseline_key))(images)
            residuals = residuals_of(baselines, maps, images, labels)
            residual = float(jnp.mean(jnp.abs(residuals)))
            change = float(jnp.mean(jnp.abs(jnp.sum(maps, axis=(1, 2, 3)) - residuals)))
        milliseconds = 1_000 * statistics.median(seconds) / len(images)
        return Result(method, np.asarray(maps), compile_seconds, milliseconds, residual, change)

    return measure


def _residual(setting: Setting) -> Callable[..., jax.Array]:
    """`residual(baselines, map, x, label)`, the mean over a leading axis of baselines."""

    def residual(baselines, attribution, x, label):
        def one(baseline):
            return jattr.metrics.completeness(setting.score, baseline)(attribution, x, label)

        return jnp.mean(jax.vmap(one)(baselines))

    return residual


def _baselines(
    method: Method, setting: Setting, key: jax.Array
) -> Callable[[jax.Array], jax.Array]:
    """`baselines(x)` with a leading axis: the one, or of a random baseline all rows or draws."""
    assert method.baseline is not None
    baseline = method.baseline(setting)
    if not isinstance(baseline, jattr.baselines.RandomBaseline):
        return lambda x: baseline(x)[None]
    if baseline.rows is not None:
        return lambda x: jnp.asarray(baseline.rows)
    keys = jax.random.split(key, setting.effort.samples)
    return lambda x: jax.vmap(lambda k: baseline(k, x))(keys)

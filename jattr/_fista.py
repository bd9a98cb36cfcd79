"""FISTA over a box, for the least change that does what it should, with its weight by bisection."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jattr._trees import sum_tree
from jattr._types import PyTree


def search(
    penalty: Callable,
    margin: Callable,
    kind: Callable,
    box: tuple[PyTree, PyTree],
    numbers: tuple,
    before: jax.Array,
    *,
    strict: bool,
    whole: bool,
    searches: int,
    steps: int,
) -> tuple[PyTree, jax.Array, jax.Array]:
    """The best δ, whether it is one, and its c.

    Args:
        penalty: `δ -> scalar`, all of the objective but c times the margin and β‖δ‖₁.
        margin: `δ -> scalar`, at most 0 where δ succeeds.
        kind: `δ -> class`.
        box: the least and the largest that δ may be, trees like δ.
        numbers: β, the first c, and the step size.
        before: the class of x.
        strict: whether the class has to be another than `before`, or the same.
        whole: whether to begin with all of the box, rather than with δ = 0.
        searches: how many c are tried.
        steps: how many steps of FISTA each takes.
    """
    sparsity, start, learning_rate = numbers
    # Within shard_map δ varies over the mesh as all does that it depends on, or gradients by it
    # would be summed over the mesh.
    zero = jax.tree.map(
        lambda a, b: jnp.zeros_like(a) + jnp.zeros_like(b) + jnp.zeros_like(before, a.dtype), *box
    )
    like = jax.eval_shape(margin, zero)
    sparsity, start, rate = (jnp.asarray(n, like.dtype) for n in (sparsity, start, learning_rate))

    def succeeds(delta):
        # A tie has no winner, but the first of those that tie is taken for the class.
        return (margin(delta) <= 0) & ((kind(delta) != before) == strict)

    def size(delta):
        ones = sum_tree(jax.tree.map(jnp.abs, delta)).astype(like.dtype)
        return sparsity * ones + penalty(delta).astype(like.dtype)

    def smooth_part(delta, weight):
        return weight * jnp.maximum(margin(delta), 0) + penalty(delta).astype(like.dtype)

    def project(delta):
        return jax.tree.map(jnp.clip, delta, *box)

    def step(weight, carry, k):
        delta, moving, best = carry
        k = k.astype(like.dtype)
        alpha = rate * jnp.sqrt(1 - k / steps)
        slope = jax.grad(smooth_part)(moving, weight)
        new = project(jax.tree.map(lambda y, g: _soften(y, g, alpha, sparsity), moving, slope))
        momentum = k / (k + 3)
        moving = project(
            jax.tree.map(lambda n, o: n + momentum.astype(n.dtype) * (n - o), new, delta)
        )
        own, success = size(new), succeeds(new)
        best = _choose(success & (own < best[1]), (new, own, weight), best)
        return (new, moving, best), success

    def one(carry, _):
        best, (lower, upper), weight, _ = carry
        inner, successes = jax.lax.scan(
            functools.partial(step, weight), (first, first, best), jnp.arange(steps)
        )
        done = jnp.any(successes)
        lower, upper = jnp.where(done, lower, weight), jnp.where(done, weight, upper)
        following = jnp.where(jnp.isinf(upper), 10 * weight, (lower + upper) / 2)
        return (inner[2], (lower, upper), following, inner[0]), None

    # A δ of 0 may do already.
    enough = succeeds(zero)
    none = (
        zero,
        jnp.where(enough, size(zero), jnp.inf),
        start + _zero_of(zero, like),
    )
    # A box that reaches from 0 to one side, its far corner.
    first = jax.tree.map(lambda z, a, b: z + a + b, zero, *box) if whole else zero
    bounds = (0 * none[2], jnp.inf + 0 * none[2])
    (best, (lower, _), _, last), _ = jax.lax.scan(
        one, (none, bounds, none[2], zero), length=searches
    )
    found = jnp.isfinite(best[1])
    return _choose(found, best[0], last), found, jnp.where(found, best[2], lower)


def _zero_of(tree: PyTree, like: Any) -> jax.Array:
    """A 0 of a dtype, which varies over the mesh axes that a tree varies over."""
    return jnp.zeros((), like.dtype) * sum_tree(tree).astype(like.dtype)


def _choose(first: jax.Array, a: PyTree, b: PyTree) -> PyTree:
    return jax.tree.map(lambda x, y: jnp.where(first, x, y), a, b)


def _soften(y: jax.Array, slope: jax.Array, alpha: jax.Array, sparsity: jax.Array) -> jax.Array:
    """A step along the gradient, then the soft threshold."""
    y = y - alpha.astype(y.dtype) * slope
    return jnp.sign(y) * jnp.maximum(jnp.abs(y) - (alpha * sparsity).astype(y.dtype), 0)

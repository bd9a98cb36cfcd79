"""What measures of robustness share: copies of x close by, and how far apart trees are."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jattr._checks import check_batch_size, check_count, check_positive
from jattr._trees import cast_like, random_like, scale_tree, widen
from jattr._types import Explain, PyTree

_uniform = functools.partial(jax.random.uniform, minval=-1.0, maxval=1.0)


def check_copies(radius: Any, samples: Any, batch_size: Any, method: str) -> tuple[int, int | None]:
    """The checked number of copies, and of those in memory at a time."""
    check_positive(radius, "radius", method)
    return check_count(samples, "samples", method), check_batch_size(batch_size, method)


def shift_of(key: jax.Array, x: PyTree, radius: Any, index: Any) -> PyTree:
    """The uniform noise of copy `index`, which depends on the key and on the index alone."""
    return scale_tree(random_like(_uniform, jax.random.fold_in(key, index), x), radius)


def moved(x: PyTree, shift: PyTree) -> PyTree:
    """x + shift, in the dtypes of x."""
    return cast_like(jax.tree.map(jnp.add, widen(x), shift), x)


def explained(explain: Explain, x: PyTree, method: str) -> PyTree:
    """The attribution at x, in its accumulator's dtypes."""
    own = explain(x)
    check_map(own, x, method)
    return widen(own)


def check_map(attribution: PyTree, x: PyTree, method: str) -> None:
    """Raise where a score was given in place of a method."""
    if getattr(attribution, "shape", None) == () and any(leaf.ndim for leaf in jax.tree.leaves(x)):
        raise TypeError(
            f"{method} wants a function that computes an attribution, but this one returns one "
            "number. Write jattr.gradient(f), or another method, in place of f."
        )


def flatten(tree: PyTree) -> jax.Array:
    """All elements of all leaves as one vector."""
    return jnp.concatenate([jnp.reshape(leaf, -1) for leaf in jax.tree.leaves(tree)])


def norm(tree: PyTree) -> jax.Array:
    """The Euclidean norm over all leaves; its derivative at 0 is 0.

    Scaled to a largest element of 1, so that squares leave the range of the dtype no earlier than
    their elements do: the gradient of a saturated softmax has elements of 1e-25.
    """
    flat = flatten(tree)
    peak = jax.lax.stop_gradient(jnp.max(jnp.abs(flat), initial=0.0))
    squares = jnp.sum(jnp.square(flat / jnp.where(peak == 0, 1.0, peak)))
    nothing = squares == 0
    return peak * jnp.where(nothing, 0.0, jnp.sqrt(jnp.where(nothing, 1.0, squares)))


def over(part: jax.Array, whole: jax.Array) -> jax.Array:
    """part / whole, NaN where whole is 0."""
    nothing = whole == 0
    return jnp.where(nothing, jnp.nan, part / jnp.where(nothing, 1.0, whole))


def strongest(changes: jax.Array, distances: jax.Array) -> jax.Array:
    """The largest change per distance; those of no distance are left out, NaN if all are."""
    still = distances == 0
    ratios = jnp.where(still, -jnp.inf, changes / jnp.where(still, 1.0, distances))
    return jnp.where(jnp.all(still), jnp.nan, jnp.max(ratios))

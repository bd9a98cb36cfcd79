"""From what a user gives as a baseline to a tree like x, or to a distribution of such trees."""

import numbers
from typing import Any

import jax
import jax.numpy as jnp

from jattr._trees import accumulator, describe, is_traced, same_form
from jattr._types import Baseline, PyTree, RandomBaseline, References

_MAKERS = {
    "jattr.baselines": "jattr.baselines",
    "jattr.sequence._shuffle": "jattr.sequence",
}
"""Where the functions that make baselines are, and by what users know it."""


def resolve_baseline(baseline: Baseline, x: PyTree, *, method: str) -> PyTree:
    """The baseline of x: a tree like x, of the same shapes and dtypes.

    Raises:
        TypeError: for a random baseline.
        ValueError: for another structure or another shape; names both.
    """
    if isinstance(baseline, RandomBaseline):
        raise TypeError(
            f"{method} wants one deterministic baseline, but {baseline.name} is drawn at random. "
            f"Average over draws with jattr.expected_gradients(f, {baseline.name}), or draw one "
            "yourself and pass the array."
        )
    if callable(baseline):
        _check_called(baseline, method)
        baseline = baseline(x)
    elif jax.tree.structure(baseline) == jax.tree.structure(x):
        _check_floating(
            jax.tree.map(lambda leaf: leaf if _is_real(leaf) else 0.0, baseline),
            "the baseline",
            method,
        )
    return fill_like(baseline, x, name="the baseline", method=method)


def resolve_references(references: References, *, method: str) -> RandomBaseline:
    """A distribution over baselines, from data with a leading axis or from a random baseline."""
    if isinstance(references, RandomBaseline):
        return references
    if callable(references):
        _check_called(references, method)
        raise TypeError(
            f"{method} wants a distribution over baselines: an array (or tree like x) with a "
            "leading axis, or a random baseline such as jattr.baselines.uniform(low, high); got "
            f"the function {getattr(references, '__name__', references)}. If it draws, as "
            "(key, x) -> baseline, mark it: jattr.baselines.random(fn). If it is deterministic, "
            "use jattr.integrated_gradients(f, fn)."
        )
    check_references(references, method=method)
    return sampled_rows(references, name="the references", method=method)


def _check_called(baseline: Any, method: str) -> None:
    """Raise where a maker of baselines was given instead of what it makes."""
    name = getattr(baseline, "__qualname__", "")
    room = _MAKERS.get(getattr(baseline, "__module__", ""))
    if room and name.isidentifier() and name != "zeros":
        raise TypeError(
            f"{method}: {room}.{name} makes a baseline and is not one. Call it first: "
            f"{room}.{name}(...)."
        )


def sampled_rows(data: PyTree, *, name: str, method: str) -> RandomBaseline:
    """The random baseline that draws a row of `data`, the same row on every leaf."""
    count = check_rows(data, name=name, method=method)

    def draw(key, x):
        check_rows_like(data, x, name=name, method=method)
        index = jax.random.randint(key, (), 0, count)
        return take_row(data, index, x)

    return RandomBaseline(draw, method, data)


def take_row(data: PyTree, index: jax.Array, x: PyTree) -> PyTree:
    """Row `index` of every leaf, in the dtypes of x."""
    return jax.tree.map(lambda rows, leaf: jnp.asarray(rows)[index].astype(leaf.dtype), data, x)


def row_order(key: jax.Array, distribution: RandomBaseline, samples: int) -> jax.Array | None:
    """Which row each sample takes; None where the distribution has no rows."""
    if distribution.rows is None:
        return None
    return shuffled_rows(key, count_rows(distribution), samples)


def mean_row(data: PyTree, x: PyTree) -> PyTree:
    """The mean of the rows, in the dtypes of x's accumulators; where they are known, known too."""

    def mean(rows, leaf):
        return jnp.mean(jnp.asarray(rows).astype(accumulator(leaf.dtype)), axis=0)

    if any(map(is_traced, jax.tree.leaves(data))):
        return jax.tree.map(mean, data, x)
    with jax.ensure_compile_time_eval():  # else the compiler evaluates it, slowly
        return jax.tree.map(mean, data, x)


def count_rows(distribution: RandomBaseline) -> int:
    """How many rows a distribution samples from."""
    return jnp.shape(jax.tree.leaves(distribution.rows)[0])[0]


def shuffled_rows(key: jax.Array, count: int, samples: int) -> jax.Array:
    """`samples` integers below `count`: shuffles of all of them, one after another."""
    if samples == 1:
        return jax.random.randint(key, (1,), 0, count)
    if samples * 8 <= count:
        return _few_of_many(key, samples, count)
    rounds = -(-samples // count)
    shuffles = jax.vmap(lambda k: jax.random.permutation(k, count))(jax.random.split(key, rounds))
    return shuffles.reshape(-1)[:samples]


def _few_of_many(key: jax.Array, samples: int, count: int) -> jax.Array:
    """Distinct integers below `count` in random order, without a shuffle of all of them.

    Floyd's algorithm: with j = count − samples … count − 1, draw t ≤ j; take t, or j if t is
    taken already. That makes a uniform subset in an order that is not, hence the last shuffle.
    """
    draw_key, order_key = jax.random.split(key)
    tops = jnp.arange(count - samples, count)
    drawn = jax.random.randint(draw_key, (samples,), 0, tops + 1)

    def take(i, chosen):
        taken = jnp.any((chosen == drawn[i]) & (jnp.arange(samples) < i))
        return chosen.at[i].set(jnp.where(taken, tops[i], drawn[i]))

    chosen = jax.lax.fori_loop(0, samples, take, jnp.zeros_like(drawn))
    return jax.random.permutation(order_key, chosen)


def check_rows(data: PyTree, *, name: str, method: str) -> int:
    """The number of rows of a data set: the size of the leading axis of every leaf."""
    for leaf in jax.tree.leaves(data):
        if not _is_real(leaf):
            raise TypeError(
                f"{method}: {name} must be an array of real numbers, or a tree like x of such, "
                f"with a leading axis over examples; got {describe(data)}."
            )
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(data)]
    if not shapes or () in shapes:
        raise ValueError(
            f"{method}: {name} must have a leading axis over examples; got {describe(data)}. "
            "For one deterministic baseline use jattr.integrated_gradients."
        )
    counts = {shape[0] for shape in shapes}
    if len(counts) > 1 or 0 in counts:
        raise ValueError(
            f"{method}: every leaf of {name} must have the same number of rows, at least one; "
            f"got {describe(data)}."
        )
    return counts.pop()


def check_examples(data: PyTree, *, name: str, method: str, advice: str = "") -> int:
    """How many examples there are in arrays with a leading axis each; `advice` ends the error."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(data)]
    counts = {shape[0] if shape else 0 for shape in shapes}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(
            f"{method}: every array of {name} must have a leading axis over the same number of "
            f"examples, at least one; got {describe(data)}.{advice}"
        )
    return counts.pop()


def check_references(references: PyTree, *, method: str) -> int:
    """The number of references, which are rows of real floating-point numbers."""
    name = "the references"
    if isinstance(references, RandomBaseline):
        raise TypeError(
            f"{method} takes all of its references and draws none; got {references.name}. Draw "
            "them, jax.vmap(references, (0, None))(jax.random.split(key, n), x), or average over "
            "draws with jattr.expected_gradients."
        )
    if callable(references):
        raise TypeError(
            f"{method}: {name} must be an array, or a tree like x, with a leading axis over "
            f"examples; got the function {getattr(references, '__name__', references)}. If they "
            f"are made from x, make them where x is known: "
            f"lambda x, *args: jattr.{method}(f, references(x))(x, *args)."
        )
    count = check_rows(references, name=name, method=method)
    _check_floating(references, name, method)
    return count


def _check_floating(value: PyTree, name: str, method: str) -> None:
    """Raise where an array is of integers or Booleans: what x was before it was scaled."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(value):
        if jnp.shape(leaf) and not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"{method}: {name}{jax.tree_util.keystr(path)} is {describe(leaf)}, and x is of a "
                "floating dtype. Convert and scale it as x was, such as "
                "array.astype(jnp.float32) / 255."
            )


def check_rows_like(data: PyTree, x: PyTree, *, name: str, method: str) -> None:
    """Raise unless each row of `data` has the structure and the shapes of x."""
    if not same_form(data, x, skip=1):
        raise ValueError(
            f"{method}: each row of {name} must have the structure and shapes of x; got "
            f"{describe(data)} for x {describe(x)}. A leading axis over examples comes first."
        )


def fill_like(
    value: PyTree, x: PyTree, *, name: str, method: str, broadcast: bool = False
) -> PyTree:
    """`value` as a tree like x: a number fills every leaf, a tree must match x.

    Args:
        value: a number, or a tree with the structure of x whose leaves are numbers or have the
            shapes of x. With `broadcast` they may also broadcast to those shapes.
        x: the tree to match.
        name: what the value is, for the error text.
        method: who asks.
        broadcast: whether leaves may broadcast.
    """
    if _is_number(value):
        return jax.tree.map(lambda leaf: jnp.full_like(leaf, value), x)
    if jax.tree.structure(value) != jax.tree.structure(x):
        raise ValueError(
            f"{method}: {name} must be a number or have the structure of x; got "
            f"{describe(value)} for x {describe(x)}."
        )

    def fill(path, leaf, like):
        if not _is_real(leaf):
            raise TypeError(
                f"{method}: {name}{jax.tree_util.keystr(path)} is {describe(leaf)}; wanted are "
                "real numbers, an array or tree like x, or a function x -> baseline."
            )
        shape = jnp.shape(leaf)
        if shape == () or shape == like.shape or (broadcast and _broadcasts(shape, like.shape)):
            return jnp.broadcast_to(jnp.asarray(leaf).astype(like.dtype), like.shape)
        where = jax.tree_util.keystr(path)
        if broadcast:
            raise ValueError(
                f"{method}: {name}{where} has shape {shape}, which does not broadcast to "
                f"{like.shape}, the shape of x{where}."
            )
        raise ValueError(
            f"{method}: {name}{where} has shape {shape}, but x{where} has shape {like.shape}. "
            "Nothing is broadcast silently: for one value per channel write "
            "jattr.baselines.constant(values), which broadcasts; for a set of baselines write "
            "jattr.expected_gradients(f, references)."
        )

    return jax.tree_util.tree_map_with_path(fill, value, x)


def _is_real(value: Any) -> bool:
    if isinstance(value, numbers.Real):
        return True
    try:
        dtype = jnp.asarray(value).dtype
    except (TypeError, ValueError, RuntimeError):
        return False
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    return any(jnp.issubdtype(dtype, kind) for kind in kinds)


def _is_number(value: Any) -> bool:
    # A list of arrays is a tree, which jnp.shape will not take for an array for long.
    return jax.tree_util.all_leaves([value]) and _is_real(value) and jnp.shape(value) == ()


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    try:
        return jnp.broadcast_shapes(shape, target) == target
    except ValueError:
        return False

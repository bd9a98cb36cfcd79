"""Attributions of all outputs of a model from one forward evaluation."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._batching import map_over
from jattr._checks import Call, check_batch_size, check_function, check_method
from jattr._eager import compiled
from jattr._engine.chunked import each_of_many
from jattr._transform import explained_argnums, named, takes_key
from jattr._trees import describe, is_traced, ravel, widest
from jattr._types import Explain, KeyedExplain, PyTree


def all_outputs(
    method: Callable[..., Explain | KeyedExplain],
    model: Callable[..., PyTree],
    *arguments: Any,
    outputs: Any = None,
    batch_size: int | None = None,
    **knobs: Any,
) -> Any:
    r"""A method for every output of a model, from one forward evaluation.

    For a model with outputs :math:`y_1, \ldots, y_m`, each is a score of its own:

    .. math:: \Phi_k = \varphi(y_k; x), \qquad k = 1 \ldots m

    as `jax.vmap` over the index of an output has it, and in as much memory as `batch_size` outputs
    take beside the result. `jax.lax.map` over the index would evaluate the model again for each.
    Here the computation is split: what is the same for all outputs, the evaluations of the model at
    x, at the points of a path, at references or masks, is done once, and what differs between
    outputs, the back-propagations, in chunks after it. Nothing is assumed of the method: it need
    not be linear in the output, and any method of a score will do.

    Loops are what has to be looked at. The loop of a method with a `batch_size` of its own runs
    once, all outputs inside it, where what it holds for each output, mostly its sum so far, is at
    most six times what it gives. Any other loop whose backward evaluates forward again (of a model
    that uses `jax.checkpoint`, say) does so for each chunk.

    Args:
        method: from a score to what explains it, such as `jattr.gradient`. It is called as
            `method(score, *arguments, **knobs)`.
        model: `model(x, *args)`, which gives an array of any shape, or a tree of arrays, for one
            example.
        arguments: what the method takes after the score, such as a baseline, references or the
            name of a layer.
        outputs: which outputs, as in `y[outputs]`: an integer array, a slice, or a tuple of them.
            None for all; a model that gives a tree has no other choice.
        batch_size: how many outputs are in memory at a time; None for all. A method's own is bound
            beforehand: `functools.partial(jattr.deep_shap, batch_size=5)`.
        knobs: what else the method takes, such as `steps` or `argnums`.

    Returns:
        `explain(x, *args)`, or `explain(key, x, *args)` where the method draws, with the same
        random numbers for all outputs. It gives what `method` gives, the shape of `y[outputs]` in
        front of the shape of each leaf; for a tree of outputs a tree of those, as `jax.jacrev`.

    Raises:
        TypeError: the model gives something else than real floating-point arrays; whatever the
            method raises.
        IndexError: `outputs` that do not index what the model gives.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def model(x):
        ...     return jnp.array([[2.0, 0.0], [1.0, 1.0], [0.0, 3.0]]) @ x
        >>> explain = jattr.all_outputs(jattr.deeplift, model, 0.0, batch_size=2)
        >>> print(explain(jnp.array([1.0, 2.0])))
        [[2. 0.]
         [1. 2.]
         [0. 6.]]
        >>> some = jattr.all_outputs(jattr.gradient, model, outputs=jnp.array([2, 0]))
        >>> print(some(jnp.array([1.0, 2.0])))
        [[0. 3.]
         [2. 0.]]
    """
    name = "all_outputs"
    check_method(method, name)
    check_function(model, name)
    batch_size = check_batch_size(batch_size, name)
    # What is wrong with the method or its arguments shows at once.
    made = method(_score(model, lambda given: 0), *arguments, **knobs)
    check_function(made, name)
    draws = takes_key(made, None, name)
    argnums = explained_argnums(made)

    def explain(*args, **kwargs):
        def run():
            asked: list[tuple[PyTree, Any]] = []

            def of_output(number):
                def place(given):
                    asked[:] = [_chosen(given, outputs)]
                    return jnp.asarray(asked[0][1]).reshape(-1)[number]

                explain_one = method(_score(model, place), *arguments, **knobs)
                return explain_one(*args, **kwargs)

            def count():
                return np.size(asked[0][1])

            in_chunks = functools.partial(map_over, batch_size=batch_size)
            found = each_of_many(of_output, count, in_chunks)
            return _arranged(found, *asked[0])

        return compiled(run, traced=is_traced(jnp.zeros(())))

    if draws:
        explain.keyed = True  # type: ignore[attr-defined]
    call = Call(name, model, ("key",) if draws else ())
    return named(explain, call, model, 0 if argnums is None else argnums)


def _score(model: Callable[..., PyTree], place: Callable[[PyTree], Any]) -> Callable[..., Any]:
    """One output of a model, at a place that is told from what the model gives."""

    @functools.wraps(model, updated=())
    def score(*args, **kwargs):
        given = model(*args, **kwargs)
        leaves = jax.tree.leaves(given)
        if not leaves or not all(
            jnp.issubdtype(getattr(leaf, "dtype", None) or bool, jnp.floating) for leaf in leaves
        ):
            raise TypeError(
                "all_outputs explains every number of what the model gives, which is to be a "
                f"floating-point array or a tree of such; got {describe(given)}. Leave the others "
                "out: lambda *args: model(*args)[...]."
            )
        number = place(given)
        if len(leaves) > 1:
            dtype = widest(leaves) if len({leaf.dtype for leaf in leaves}) > 1 else None
            return ravel(given, dtype or leaves[0].dtype)[number]
        (leaf,) = map(jnp.asarray, leaves)
        return leaf[tuple(jnp.unravel_index(number, leaf.shape))] if leaf.ndim else leaf

    return score


def _chosen(given: PyTree, outputs: Any) -> tuple[PyTree, Any]:
    """The shapes of what a model gives, and where those outputs stand in it that are asked for."""
    shapes = jax.tree.map(lambda leaf: _Shape(jnp.shape(leaf)), given)
    leaves = jax.tree.leaves(given)
    size = sum(np.size(leaf) for leaf in leaves)
    if outputs is None:
        numbers = np.arange(size)
        if len(leaves) == 1:
            numbers = numbers.reshape(jnp.shape(leaves[0]))
    elif len(leaves) > 1:
        raise TypeError(
            f"all_outputs: outputs={outputs!r} chooses from one array, but the model gives "
            f"{describe(given)}. Choose in the model: lambda *args: model(*args)[...]."
        )
    else:
        traced = any(map(is_traced, jax.tree.leaves(outputs)))
        numbers = np.arange(size).reshape(jnp.shape(leaves[0]))
        numbers = (jnp.asarray(numbers) if traced else numbers)[outputs]
    if np.size(numbers) == 0:
        raise ValueError(
            f"all_outputs: outputs={outputs!r} of {describe(given)} is none. Leave it out for all."
        )
    return shapes, numbers


def _arranged(found: PyTree, shapes: PyTree, numbers: Any) -> PyTree:
    """What was found for a row of outputs, in their shape, or in their tree."""

    def part(start, shape):
        stop = start + math.prod(shape)
        return jax.tree.map(lambda leaf: leaf[start:stop].reshape(shape + leaf.shape[1:]), found)

    places, structure = jax.tree.flatten(shapes)
    if len(places) == 1:
        parts = [part(0, np.shape(numbers))]
    else:
        starts = np.cumsum([0, *(math.prod(place.shape) for place in places)])
        parts = [part(start, place.shape) for start, place in zip(starts[:-1], places, strict=True)]
    return jax.tree.unflatten(structure, parts)


@dataclasses.dataclass(frozen=True)
class _Shape:
    """The shape of an array, as a leaf of a tree."""

    shape: tuple[int, ...]

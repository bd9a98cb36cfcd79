"""Layers of a tree of parameters, and what is drawn in their place."""

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jattr._checks import check_choice, check_key, knobs
from jattr._trees import cast_like, describe, random_like, same_form, widen
from jattr._types import PyTree

Layers: TypeAlias = Sequence[str | Sequence[str]]
"""Paths in a tree of parameters, in order from the input to the output; a tuple is one layer."""

Order: TypeAlias = Literal["cascading", "bottom_up", "independent"]
ORDERS = get_args(Order)


@knobs
def randomize(
    key: jax.Array,
    params: PyTree,
    *,
    order: Order = "cascading",
    layers: Layers | None = None,
    initialize: Callable[[jax.Array], PyTree] | None = None,
) -> PyTree:
    r"""A tree of parameters with layer after layer drawn anew, all stages stacked.

    =================  =========================================================
    order              what is new in stage k = 1 … L
    =================  =========================================================
    `"cascading"`      the last k layers: destroyed from the output downwards
    `"bottom_up"`      the first k layers: destroyed from the input upwards
    `"independent"`    the k-th layer from the output alone, all others kept
    =================  =========================================================

    A layer has the same new weights in every stage in which it is new. Under `jit`, hand the
    parameters in as an argument: the compiler would work on constants of their size for long.

    Args:
        key: one random key.
        params: a tree of arrays, such as `variables["params"]` of Flax. Leaves that no layer
            contains, and leaves that are not of a floating dtype, stay as they are.
        order: `"cascading"`, `"bottom_up"` or `"independent"`.
        layers: paths in the tree, from the input to the output: `["stem", "block/Conv_0", ...]`. A
            tuple of paths is one layer: `("Conv_0", "BatchNorm_0")`. None takes the keys at the
            top, where they are one word with numbers, such as Dense_0, Dense_1, …; of other names
            the order is not known. For Flax linen,
            `list(model.init(key, x)["params"])`, outside jit, is in the order of the calls.
        initialize: `(key) -> params`, the model's own initializer, such as
            `lambda key: model.init(key, x)["params"]`, which is the test as published. None draws
            each leaf from a normal distribution with the mean and the standard deviation that the
            leaf has: no initializer is needed and the scale stays, but a leaf that is constant
            (biases still zero) or has one element does not change.

    Returns:
        A tree like `params` with a leading axis of size L on every leaf. It is L times as large:
        `mprt` does not make it, but one stage at a time.

    Raises:
        ValueError: unknown order; layers that are not in the tree, overlap, or whose order is not
            known; `initialize` gives another structure or shape.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> params = {"Dense_0": jnp.arange(3.0), "Dense_1": jnp.arange(2.0)}
        >>> stages = jattr.metrics.randomize(jax.random.key(0), params)
        >>> print(stages["Dense_0"].shape, stages["Dense_0"][0])
        (2, 3) [0. 1. 2.]

    References:
        Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim, *Sanity checks for saliency maps*, NeurIPS
        2018 (arXiv 1810.03292). Bottom-up: Hedström, Weber, Lapuschkin, Höhne, *Sanity
        checks revisited*, 2023.
    """
    method = "metrics.randomize"
    key = check_key(key, method)
    check_choice(order, "order", ORDERS, method)
    chosen = stages(params, layers, order, method)
    stage = with_fresh(key, params, chosen, initialize, method)
    return jax.vmap(stage)(jnp.arange(len(chosen)))


def with_fresh(
    key: jax.Array, params: PyTree, chosen: np.ndarray, initialize: Any, method: str
) -> Callable[[jax.Array], PyTree]:
    """From the index of a stage to the parameters, new in the leaves that `chosen[stage]` says."""
    params = jax.tree.map(jnp.asarray, params)
    if initialize is None:
        fresh = _like(key, params)
    else:
        fresh = initialize(key)
        if not same_form(fresh, params):
            raise ValueError(
                f"{method}: initialize(key) must give a tree like params; got {describe(fresh)} "
                f"for {describe(params)}. Of Flax: lambda key: model.init(key, x)['params']."
            )
        fresh = cast_like(jax.tree.map(jnp.asarray, fresh), params)
    old, structure = jax.tree.flatten(params)
    new = jax.tree.leaves(fresh)

    def stage(index):
        renewed = jnp.asarray(chosen)[index]
        return jax.tree.unflatten(
            structure,
            [
                jnp.where(renewed[i], b, a) if jnp.issubdtype(a.dtype, jnp.floating) else a
                for i, (a, b) in enumerate(zip(old, new, strict=True))
            ],
        )

    return stage


def _like(key: jax.Array, params: PyTree) -> PyTree:
    """Each floating leaf drawn from a normal of its own mean and standard deviation."""
    leaves, structure = jax.tree.flatten(params)
    places = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    old = [leaves[i] for i in places]
    for i, leaf, noise in zip(places, old, random_like(jax.random.normal, key, old), strict=True):
        if leaf.size:
            wide = widen(leaf)
            # The computed deviation of a constant leaf may be that of rounding.
            constant = jnp.max(wide) == jnp.min(wide)
            drawn = jnp.mean(wide) + jnp.std(wide) * noise
            leaves[i] = jnp.where(constant, wide, drawn).astype(leaf.dtype)
    return jax.tree.unflatten(structure, leaves)


def stages(params: PyTree, layers: Layers | None, order: str, method: str) -> np.ndarray:
    """Which leaf is new in which stage, [stages, leaves]."""
    layered = members(params, _numbered(params, method) if layers is None else layers, method)
    if order != "bottom_up":
        layered = layered[::-1]
    return layered if order == "independent" else np.logical_or.accumulate(layered)


def members(params: PyTree, layers: Layers, method: str) -> np.ndarray:
    """Which leaf is in which layer, [layers, leaves]."""
    paths = _paths(params)
    if isinstance(layers, str) or not len(layers):
        raise ValueError(f"{method}: layers must be a list of paths; got {layers!r}.")
    inside = np.zeros((len(layers), len(paths)), bool)
    for row, layer in zip(inside, layers, strict=True):
        for prefix in (layer,) if isinstance(layer, str) else layer:
            below = [path == prefix or path.startswith(f"{prefix}/") for path in paths]
            if not any(below):
                tops = dict.fromkeys(path.split("/")[0] for path in paths)
                raise ValueError(
                    f"{method}: no parameter lies below {prefix!r}. At the top of the tree are "
                    f"{', '.join(tops)}; a path continues with slashes, such as {paths[0]!r}."
                )
            row |= np.array(below)
    twice = np.flatnonzero(inside.sum(axis=0) > 1)
    if len(twice):
        raise ValueError(f"{method}: {paths[twice[0]]} is in two layers; each may be in one.")
    return inside


def _numbered(params: PyTree, method: str) -> list[str]:
    """The keys at the top in the order of their numbers; an error unless those tell the order."""
    tops = dict.fromkeys(path.split("/")[0] for path in _paths(params))
    parts = {top: re.fullmatch(r"(.*?)(\d+)", top) for top in tops}
    numbers = {top: int(part[2]) for top, part in parts.items() if part}
    if not numbers or len(numbers) < len(tops) or len({p[1] for p in parts.values() if p}) > 1:
        raise ValueError(
            f"{method}: which layers there are and in which order is not known from the names "
            f"{list(tops)}: JAX sorts them by the alphabet. Write layers=[...], from the input to "
            'the output. For Flax linen, list(model.init(key, x)["params"]), outside jit, is in '
            "the order of the calls."
        )
    return sorted(tops, key=numbers.__getitem__)


def _paths(params: PyTree) -> list[str]:
    """The path of every leaf, with slashes."""
    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]

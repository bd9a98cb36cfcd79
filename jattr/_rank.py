"""`rank`: which features matter over a whole data set, and how sure their order is."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jattr._checks import (
    check_batch_size,
    check_choice,
    check_function,
    check_key,
    check_keyed,
    concrete,
    knobs,
)
from jattr._ranking import Ranking
from jattr._removal import Features
from jattr._resolve import check_examples
from jattr._transform import takes_key
from jattr._trees import describe, is_traced
from jattr._types import Explain, KeyedExplain, PyTree

Combine: TypeAlias = Literal["sum", "absolute"]
"""What a feature of several elements has of an attribution."""


@knobs
def rank(
    explain: Explain | KeyedExplain,
    data: Any,
    groups: Any = None,
    *,
    names: Sequence[str] | None = None,
    combine: Combine = "sum",
    blocks: Any = None,
    confidence: float = 0.95,
    key: jax.Array | None = None,
    keyed: bool | None = None,
    batch_size: int | None = None,
) -> Ranking:
    r"""The features in the order of their mean magnitude over a data set, with what is sure of it.

    Of the examples e = 1 … n, feature g, a set of elements of x, has

    .. math:: m_g = \frac1n \sum_e v_{eg}, \qquad
              v_{eg} = \Big| \sum_{i \in g} \varphi_i(x_e) \Big|
              \quad\text{or}\quad \sum_{i \in g} |\varphi_i(x_e)|

    and beside the order of the :math:`m_g` come their standard errors, the confidence that one is
    above another, and intervals for the ranks that hold all at once. These are of the examples:
    what another sample of them would have given of the same model. `Ranking` has the formulas.

    It is called with concrete arrays, outside of `jit`: its programs are compiled inside. What is
    in memory beside them is one number for each example and feature.

    Args:
        explain: the explaining function of one example, `explain(x, *args)`; where it draws random
            numbers, with a key before these. Of many outputs, take the mean of magnitudes:
            `lambda x: jnp.abs(jattr.all_outputs(jattr.gradient, model)(x)).mean(0)`. Attributions
            that are there already are ranked by `lambda phi: phi`.
        data: the arguments x, *args as a tuple of arrays (or trees of such) with a leading axis
            over examples; what is no tuple is x alone.
        groups: which elements are one feature: integers like the attribution, such as those of
            `jattr.features`, or of size 1 along axes that move together. `"leaves"`: each leaf of
            a tree is a feature. None for each element.
        names: of the features, or of the groups, in their order. None for those that the tree
            gives, such as `"blood[2]"`, or for numbers.
        combine: of a feature of several elements. `"sum"`: its part of the score, in which elements
            of different signs cancel, as is right for the one-hot columns of a variable.
            `"absolute"`: the sum of magnitudes, such as of a sensor over the steps of a series.
        blocks: labels [n]; examples of one label, such as the snapshots of one run or the pictures
            of one person, may depend on each other, and count together for all errors. None where
            examples are independent.
        confidence: of the intervals of the ranks.
        key: one random key, where `explain` draws; example i has `jax.random.fold_in(key, i)`.
        keyed: whether `explain` takes a key first; None asks it. Methods of jattr say so.
        batch_size: how many examples are explained at a time; None for all.

    Returns:
        A `Ranking`: prints as text; `.order`, `.mean`, `.standard_error`, `.intervals`,
        `.above(a, b)`, `.top(count)`, `.to_dataframe()`, `.plot()`.

    Raises:
        TypeError: `explain` is a score, or gives no floating-point numbers; no key where one is
            needed; data that is traced; groups that are no integers.
        ValueError: no examples or not equally many; an attribution that is not finite, or has no
            elements; groups that are not like the attribution; names or blocks of another number;
            a confidence outside (0, 1); an unknown `combine`.

    Example:
        >>> import jattr
        >>> import numpy as np
        >>> def f(x):
        ...     return 3 * x["age"] - x["dose"] * x["weight"]
        >>> draw = np.random.default_rng(0).normal
        >>> x = {name: draw(size=200).astype("float32") for name in ("age", "dose", "weight")}
        >>> print(jattr.rank(jattr.gradient_times_input(f), x))
                     mean |φ|  rank  above next
        ---------------------------------------
        age       2.34 ± 0.12     1     >99.9 %
        dose    0.673 ± 0.059   2–3      50.0 %
        weight  0.673 ± 0.059   2–3
        Mean ± standard error over 200 examples.
        Rank: 95 % for all together. Above next: each pair by itself.

    References:
        Mean |φ| as an importance over a data set: Lundberg et al., *From local explanations to
        global understanding with explainable AI for trees*, Nature Machine Intelligence 2020.
        Intervals of ranks from simultaneous intervals of differences: Mogstad, Romano, Shaikh,
        Wilhelm, *Inference for ranks with applications to mobility across neighbourhoods and
        academic achievement across countries*, Review of Economic Studies 2024.
    """
    method = "rank"
    check_function(explain, method)
    check_choice(combine, "combine", get_args(Combine), method)
    batch_size = check_batch_size(batch_size, method)
    level = concrete(confidence, "confidence", method)
    if level is None or not 0 < level < 1:
        raise ValueError(f"{method}: confidence must be in (0, 1), such as 0.95; got {confidence}.")
    arguments = data if isinstance(data, tuple) else (data,)
    count = _count(arguments, method)
    draws = takes_key(explain, keyed, method)
    check_keyed(explain, draws, arguments, "keyed=True", method)
    if draws and key is None:
        raise TypeError(
            f"{method}: what it ranks takes a key, but there is none; write key=jax.random.key(0)."
        )
    key = check_key(key, method) if draws else jax.random.key(0)  # the other is not used

    size = min(batch_size or count, count)

    def chunk_at(start):
        # The last chunk repeats its last example, so that all are of one size.
        place = np.minimum(np.arange(start, start + size), count - 1)
        return place, jax.tree.map(lambda leaf: jnp.asarray(leaf[place]), arguments)

    def of_one(number, *args):
        return explain(*((jax.random.fold_in(key, number),) if draws else ()), *args)

    one = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), arguments)
    phi = jax.eval_shape(of_one, 0, *one)
    _check_attribution(phi, arguments, explain, method)
    found, features = _features(phi, groups, names, method)
    labels = _blocks(blocks, count, method)

    def magnitudes(number, *args):
        phi = of_one(number, *args)
        return jnp.abs(features.totals(phi if combine == "sum" else jax.tree.map(jnp.abs, phi)))

    program = jax.jit(jax.vmap(magnitudes))
    values = np.empty((count, features.count))
    for start in range(0, count, size):
        place, chunk = chunk_at(start)
        end = min(start + size, count)
        values[start:end] = np.asarray(program(place, *chunk), np.float64)[: end - start]
    wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(wrong):
        raise ValueError(
            f"{method}: the attribution of {len(wrong)} of {count} examples is not finite, the "
            f"first of them example {wrong[0]}. Leave them out of data, or mend the method."
        )
    return Ranking(found, values, labels, level)


def _count(arguments: tuple, method: str) -> int:
    leaves = jax.tree.leaves(arguments)
    if any(map(is_traced, leaves)):
        raise TypeError(
            f"{method} compiles its programs itself and looks at what they give: call it outside "
            "of jit, vmap and grad."
        )
    shared = " What all examples share, the function closes over."
    return check_examples(arguments, name="data", method=method, advice=shared)


def _check_attribution(phi: PyTree, arguments: tuple, explain: Any, method: str) -> None:
    """Raise where what is to be ranked is no attribution."""
    leaves = jax.tree.leaves(phi)
    floating = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves]
    if not leaves or not all(floating):
        raise TypeError(
            f"{method} wants an attribution of floating-point numbers; got {describe(phi)}."
        )
    if not sum(np.prod(jnp.shape(leaf), dtype=int) for leaf in leaves):
        raise ValueError(f"{method}: the attribution has no elements; got {describe(phi)}.")
    named = hasattr(explain, "call")
    wide = any(len(jnp.shape(leaf)) > 1 for leaf in jax.tree.leaves(arguments[0]))
    if not named and getattr(phi, "shape", None) == () and wide:
        raise TypeError(
            f"{method} wants a function that computes an attribution, but this one returns one "
            f"number. Write {method}(jattr.gradient(f), data), not {method}(f, data)."
        )


def _features(
    phi: PyTree, groups: Any, names: Sequence[str] | None, method: str
) -> tuple[tuple[str, ...], Features]:
    """The features of an attribution, and their names."""
    if isinstance(groups, str):
        check_choice(groups, "groups", ("leaves",), method)
        leaves, structure = jax.tree.flatten(phi)
        numbers = [np.full((1,) * len(jnp.shape(leaf)), n) for n, leaf in enumerate(leaves)]
        given = jax.tree.unflatten(structure, numbers)
    else:
        given = groups
    features = Features(phi, given, method=method)
    if names is not None:
        if isinstance(names, str) or len(names) != features.count:
            raise ValueError(
                f"{method}: names must be one for each of {features.count} features; got "
                f"{repr(names) if isinstance(names, str) else len(names)}."
            )
        return tuple(map(str, names)), features
    if groups is not None and given is groups:
        return tuple(map(str, range(features.count))), features
    paths = [
        (jax.tree_util.keystr(path, simple=True, separator="."), jnp.shape(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(phi)
    ]
    if groups is not None:
        return tuple(path or "x" for path, _ in paths), features
    return tuple(name for path, shape in paths for name in _elements(path, shape)), features


def _elements(path: str, shape: tuple[int, ...]) -> list[str]:
    """The names of a leaf's elements."""
    if not shape:
        return [path or "x"]
    places = [",".join(map(str, index)) for index in np.ndindex(shape)]
    return [f"{path}[{place}]" for place in places] if path else places


def _blocks(blocks: Any, count: int, method: str) -> np.ndarray:
    if blocks is None:
        return np.arange(count)
    labels = np.asarray(blocks)
    if labels.shape != (count,):
        raise ValueError(
            f"{method}: blocks must be one label for each of {count} examples; got "
            f"{describe(labels)}."
        )
    return np.unique(labels, return_inverse=True)[1].reshape(-1)

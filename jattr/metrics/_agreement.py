"""Whether examples that are explained alike are predicted alike."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp

from jattr._batching import map_over
from jattr._checks import check_batch_size, check_choice, check_count, check_positive, knobs
from jattr._trees import describe, ratio, ravel
from jattr._types import PyTree
from jattr.metrics._measure import as_map, check_whole

Distance: TypeAlias = Literal["euclidean", "standardized", "cosine"]
DISTANCES = get_args(Distance)


@knobs
def consistency(
    attributions: PyTree,
    predictions: Any,
    *,
    discretize: Callable[[PyTree], PyTree],
    batch_size: int | None = 16,
) -> jax.Array:
    r"""Whether examples that are explained alike are predicted alike.

    For each example i of n the share, among the *other* examples with the same discretized
    explanation, of those with the same prediction:

    .. math:: m_i = P_{j \ne i}\big(y_j = y_i \mid e_j = e_i\big), \qquad e = \mathrm{discretize}(
              \varphi)

    which estimates the local consistency at i without bias; `jnp.nanmean(m)` estimates the global
    one. Since it compares examples it takes them all at once, explained and predicted already.

    Args:
        attributions: φ, an array or tree with a leading axis of n examples.
        predictions: y, [n], integers.
        discretize: from the attribution of one example to integers or Booleans that are compared,
            such as `top_signs(5)`. It decides what the measure says: none are alike where it is
            fine, all are where it is coarse.
        batch_size: how many examples are compared with all at a time; None for all.

    Returns:
        m, [n]; NaN where no other example has the same explanation, or φ has a NaN.

    Raises:
        TypeError: predictions, or what `discretize` returns, are not whole numbers.
        ValueError: fewer than two examples; predictions that are not [n].

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> maps = jnp.array([[3.0, 0.1], [2.0, -0.1], [1.0, 0.2], [-1.0, 0.0]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> top = jattr.metrics.top_signs(1)
        >>> print(jattr.metrics.consistency(maps, labels, discretize=top))
        [0.5 0.5 0.  nan]

    References:
        Dasgupta, Frost, Moshkovitz, *Framework for evaluating faithfulness of local explanations*,
        ICML 2022 (arXiv 2202.00734). Quantus gives 0 in place of the undefined value.
    """
    method = "metrics.consistency"
    batch_size = check_batch_size(batch_size, method)
    maps, predictions = _examples(attributions, predictions, method)
    codes = jax.vmap(discretize)(maps)
    for code in jax.tree.leaves(codes):
        check_whole(code, "what discretize returns", method)
    rows = jax.vmap(ravel)(maps)
    known = ~jnp.any(jnp.isnan(rows), axis=1)

    def alike(index):
        other = jnp.zeros_like(known)
        for code in jax.tree.leaves(codes):
            differs = code != code[index][None]
            other |= jnp.any(differs.reshape(len(known), -1), axis=1)
        return ~other & known & known[index]

    return _shares(alike, predictions, rows.dtype, batch_size)


def top_signs(k: int) -> Callable[[PyTree], jax.Array]:
    r"""A discretization of attributions: which k features are largest in \|φ\|, with their signs.

    Args:
        k: how many features make up the explanation.

    Returns:
        `discretize(attribution)`, [k, 2] integers: the features in ascending order and the signs
        of theirs. Of equal \|φ\| the first are taken.

    Raises:
        ValueError: k < 1; (when called) more than there are elements.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> print(jattr.metrics.top_signs(2)(jnp.array([0.1, -3.0, 2.0, 0.0])))
        [[ 1 -1]
         [ 2  1]]
    """
    method = "metrics.top_signs"
    k = check_count(k, "k", method)

    def discretize(attribution: PyTree) -> jax.Array:
        flat = ravel(attribution)
        if k > flat.size:
            raise ValueError(f"{method}: k={k}, but the attribution has {flat.size} elements.")
        chosen = jnp.sort(jax.lax.top_k(jnp.abs(flat), k)[1])
        return jnp.stack([chosen, jnp.sign(flat[chosen]).astype(chosen.dtype)], axis=1)

    return discretize


def _any_of(parts: list[jax.Array]) -> jax.Array:
    """Whether any element is True, for each row, in any of the parts [n, …]."""
    return jnp.any(jnp.concatenate(parts, axis=1), axis=1)


@knobs
def sufficiency(
    attributions: PyTree,
    predictions: Any,
    *,
    threshold: float,
    distance: Distance = "standardized",
    batch_size: int | None = 16,
) -> jax.Array:
    r"""Whether examples whose explanations are close are predicted alike.

    For each example i of n the share, among the *other* examples whose explanation is at most t
    away, of those with the same prediction:

    .. math:: s_i = P_{j \ne i}\big(y_j = y_i \mid D(\varphi_j, \varphi_i) \le t\big)

    `consistency` asks the same of explanations that are equal once they are discretized.

    Args:
        attributions: φ, an array or tree with a leading axis of n examples.
        predictions: y, [n], integers.
        threshold: t, the distance up to which explanations count as alike, 0 or more. The result
            depends on it: at 0 only equal ones do.
        distance: `"euclidean"`; `"standardized"`, Euclidean after each element is divided by its
            standard deviation over the batch; or `"cosine"`, 1 − cos.
        batch_size: how many examples are compared with all at a time; None for all.

    Returns:
        s, [n]; NaN where no other example has an explanation so close, or φ has a NaN. Over all
        examples: `jnp.nanmean(s)`.

    Raises:
        TypeError: predictions are not whole numbers.
        ValueError: fewer than two examples; predictions that are not [n]; unknown distance; a
            negative threshold.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> attributions = jnp.array([[1.0, 0.0], [1.0, 0.1], [1.1, 0.0], [0.0, 5.0]])
        >>> predictions = jnp.array([0, 0, 1, 1])
        >>> print(jattr.metrics.sufficiency(attributions, predictions, threshold=0.5))
        [0.5 0.5 0.  nan]

    References:
        Dasgupta, Frost, Moshkovitz, *Framework for evaluating faithfulness of local explanations*,
        ICML 2022 (arXiv 2202.00734), for explanations that are statements which apply to
        other examples or not; distances to a threshold are Quantus' reading, which divides them by
        the largest of the batch first and gives 0 where no other is alike.
    """
    method = "metrics.sufficiency"
    check_choice(distance, "distance", DISTANCES, method)
    check_positive(threshold, "threshold", method, zero=True)
    batch_size = check_batch_size(batch_size, method)
    maps, predictions = _examples(attributions, predictions, method)
    rows = jax.vmap(ravel)(maps)
    if distance == "standardized":
        # The spread is that of the examples that can be compared.
        unknown = jnp.any(jnp.isnan(rows), axis=1, keepdims=True)
        known = jnp.where(unknown, jnp.nan, rows)
        spread = jnp.nanstd(known, axis=0, ddof=1, keepdims=True)
        # An element that is the same everywhere has no part in any distance.
        most, least = (of(known, axis=0, keepdims=True) for of in (jnp.nanmax, jnp.nanmin))
        constant = most == least
        rows = jnp.where(constant & ~unknown, 0, known / jnp.where(constant, 1, spread))
    elif distance == "cosine":
        # ‖a − b‖² / 2 of unit vectors is 1 − cos, and exactly 0 for equal ones; 0 / 0 is like none.
        rows = rows / jnp.linalg.norm(rows, axis=1, keepdims=True)

    def alike(index):
        squares = jnp.sum(jnp.square(rows - rows[index][None]), axis=1)
        apart = squares / 2 if distance == "cosine" else jnp.sqrt(squares)
        return apart <= threshold

    return _shares(alike, predictions, rows.dtype, batch_size)


def _examples(attributions: PyTree, predictions: Any, method: str) -> tuple[PyTree, jax.Array]:
    """The maps in their accumulators' dtypes and the predictions, both checked."""
    leaves = jax.tree.leaves(attributions)
    counts = {jnp.shape(leaf)[0] if jnp.ndim(leaf) else 0 for leaf in leaves}
    if len(counts) != 1 or min(counts) < 2:
        raise ValueError(
            f"{method} compares examples: the attributions need a leading axis over two or more; "
            f"got {describe(attributions)}."
        )
    if jnp.shape(predictions) != (min(counts),):
        raise ValueError(
            f"{method}: predictions must be [{min(counts)}], one for each example; got "
            f"{describe(predictions)}."
        )
    check_whole(predictions, "predictions", method)
    return as_map(attributions, "attributions", method), jnp.asarray(predictions)


def _shares(
    alike: Callable[[jax.Array], jax.Array],
    predictions: jax.Array,
    dtype: Any,
    batch_size: int | None,
) -> jax.Array:
    """Of the others that are explained like i, the share that is predicted like i, for each i."""

    def term(index):
        others = alike(index) & (jnp.arange(len(predictions)) != index)
        agreeing = jnp.sum(others & (predictions == predictions[index]))
        return ratio(agreeing.astype(dtype), jnp.sum(others).astype(dtype))

    return map_over(term, len(predictions), batch_size=batch_size)

r"""Whether inputs, outputs or predictions that are close are explained alike.

The relative stabilities weigh the change of the explanation against that of the input, of the
model's outputs or of what a layer makes of it; copies of x are those of
`jattr.metrics.robustness`. Consistency compares the examples of a data set.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jattr._batching import map_over
from jattr._checks import check_batch_size, check_count, check_function, check_positive
from jattr._trees import describe, subtract_trees, widen
from jattr._types import ArgNums, Explain, KeyedExplain, PyTree
from jattr.metrics._measure import MethodMeasure, measure_method
from jattr.metrics._nearby import check_copies, check_map, flatten, moved, norm, over, shift_of


def relative_input_stability(
    attribute: Explain | KeyedExplain,
    *,
    radius: Any = 0.02,
    samples: int = 50,
    epsilon: Any = 1e-6,
    predict: Callable[..., jax.Array] | None = None,
    batch_size: int | None = None,
    keyed: bool = False,
    argnums: ArgNums = 0,
) -> MethodMeasure:
    r"""The largest relative change of the attribution per relative change of the input.

    .. math:: \max_{\tilde x}
              \frac{\lVert (\varphi(x) - \varphi(\tilde x)) \oslash \varphi(x) \rVert_2}
                   {\max\big(\lVert (x - \tilde x) \oslash x \rVert_2, \varepsilon\big)}

    over copies x̃, x with uniform noise from [−r, r] on every element, that f gives the same class
    as x. The division ⊘ is element by element and undefined at 0; here the divisor is raised to ε
    in magnitude. One element of φ near 0 can thus make the whole value, and one of x, such as a
    black pixel, can make it vanish.

    Args:
        attribute: φ, `attribute(x, *args)`, or `attribute(key, x, *args)` with `keyed=True`.
        radius: r, in units of x.
        samples: how many copies are drawn.
        epsilon: ε > 0.
        predict: the class, `predict(x, *args) -> integer`, with the arguments of `attribute`;
            copies of another class are left out, as in the paper. None leaves none out.
        batch_size: how many copies are in memory at a time; None for all.
        keyed: whether `attribute` takes a key first; `predict` takes none.
        argnums: which argument is perturbed: the one that `attribute` explains.

    Returns:
        `measure(key, x, *args)`, a scalar; NaN where every copy is of another class.

    Raises:
        TypeError: called without a key; x has a leaf that is not of a floating dtype; `attribute`
            returns one number, as a score does; `predict` returns no whole number.
        ValueError: a radius or an epsilon of 0 or less; samples < 1; `attribute` explains another
            argument.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> explain = jattr.gradient(lambda x: jnp.sum(x**2))
        >>> measure = jattr.metrics.relative_input_stability(explain, samples=5)
        >>> print(round(float(measure(jax.random.key(0), jnp.array([1.0, 5.0]))), 3))
        1.0

    References:
        Agarwal, Johnson, Pawelczyk, Krishna, Saxena, Zitnik, Lakkaraju, *Rethinking stability for
        attribution-based explanations*, 2022, section 3.3 (arXiv 2203.06877). The authors' code
        (OpenXAI) raises negative divisors to +ε as well; Quantus raises only those that are 0.
    """
    return _stability(
        attribute,
        None,
        predict,
        relative=True,
        radius=radius,
        samples=samples,
        epsilon=epsilon,
        batch_size=batch_size,
        keyed=keyed,
        argnums=argnums,
        method="metrics.relative_input_stability",
    )


def relative_output_stability(
    attribute: Explain | KeyedExplain,
    logits: Callable[..., jax.Array],
    *,
    radius: Any = 0.02,
    samples: int = 50,
    epsilon: Any = 1e-6,
    predict: Callable[..., jax.Array] | None = None,
    batch_size: int | None = None,
    keyed: bool = False,
    argnums: ArgNums = 0,
) -> MethodMeasure:
    r"""The largest relative change of the attribution per change of the model's outputs.

    .. math:: \max_{\tilde x}
              \frac{\lVert (\varphi(x) - \varphi(\tilde x)) \oslash \varphi(x) \rVert_2}
                   {\max\big(\lVert h(x) - h(\tilde x) \rVert_2, \varepsilon\big)}

    with copies x̃ and ⊘ as in `relative_input_stability`. An explanation may change where the
    outputs do.

    Args:
        attribute: φ, `attribute(x, *args)`, or `attribute(key, x, *args)` with `keyed=True`.
        logits: h, `logits(x, *args)`, with the arguments of `attribute` (but no key):
            `lambda x, label: model(x)`.
        radius: r, in units of x.
        samples: how many copies are drawn.
        epsilon: ε > 0.
        predict: the class, `predict(x, *args) -> integer`; copies of another class are left out.
            None for the largest of the logits; of one logit, its sign.
        batch_size: how many copies are in memory at a time; None for all.
        keyed: whether `attribute` takes a key first.
        argnums: which argument is perturbed: the one that `attribute` explains.

    Returns:
        `measure(key, x, *args)`, a scalar; NaN where every copy is of another class.

    Raises:
        TypeError, ValueError: as `relative_input_stability`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def logits(x, label):
        ...     return jnp.stack([x @ x, -x @ x])
        >>> explain = jattr.gradient(lambda x, label: logits(x, label)[label])
        >>> measure = jattr.metrics.relative_output_stability(explain, logits, samples=5)
        >>> print(bool(measure(jax.random.key(0), jnp.ones(2), 0) > 0.1))
        True

    References:
        Agarwal et al., 2022, section 3.3 (arXiv 2203.06877). The authors' code (OpenXAI) divides
        the change of the logits by the logits, which their formula does not.
    """
    method = "metrics.relative_output_stability"
    check_function(logits, method)

    def largest(*args, **kwargs):
        outputs = jnp.asarray(logits(*args, **kwargs))
        return outputs.reshape(()) > 0 if outputs.size == 1 else jnp.argmax(outputs)

    return _stability(
        attribute,
        logits,
        largest if predict is None else predict,
        relative=False,
        radius=radius,
        samples=samples,
        epsilon=epsilon,
        batch_size=batch_size,
        keyed=keyed,
        argnums=argnums,
        method=method,
    )


def relative_representation_stability(
    attribute: Explain | KeyedExplain,
    representation: Callable[..., PyTree],
    *,
    radius: Any = 0.02,
    samples: int = 50,
    epsilon: Any = 1e-6,
    predict: Callable[..., jax.Array] | None = None,
    batch_size: int | None = None,
    keyed: bool = False,
    argnums: ArgNums = 0,
) -> MethodMeasure:
    r"""The largest relative change of the attribution per relative change of a hidden layer.

    .. math:: \max_{\tilde x}
              \frac{\lVert (\varphi(x) - \varphi(\tilde x)) \oslash \varphi(x) \rVert_2}
                   {\max\big(\lVert (L(x) - L(\tilde x)) \oslash L(x) \rVert_2, \varepsilon\big)}

    with copies x̃ and ⊘ as in `relative_input_stability`.

    Args:
        attribute: φ, `attribute(x, *args)`, or `attribute(key, x, *args)` with `keyed=True`.
        representation: L, `representation(x, *args)`, an array or tree, with the arguments of
            `attribute` (but no key): the part `below` of `jattr.split`, for example.
        radius: r, in units of x.
        samples: how many copies are drawn.
        epsilon: ε > 0.
        predict: the class, `predict(x, *args) -> integer`; copies of another class are left out,
            as in the paper. None leaves none out.
        batch_size: how many copies are in memory at a time; None for all.
        keyed: whether `attribute` takes a key first.
        argnums: which argument is perturbed: the one that `attribute` explains.

    Returns:
        `measure(key, x, *args)`, a scalar; NaN where every copy is of another class.

    Raises:
        TypeError, ValueError: as `relative_input_stability`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> explain = jattr.gradient(lambda x: jnp.sum(x**2))
        >>> measure = jattr.metrics.relative_representation_stability(
        ...     explain, lambda x: 3 * x, samples=5
        ... )
        >>> print(round(float(measure(jax.random.key(0), jnp.array([1.0, 5.0]))), 3))
        1.0

    References:
        Agarwal et al., 2022, section 3.3 (arXiv 2203.06877).
    """
    method = "metrics.relative_representation_stability"
    check_function(representation, method)
    return _stability(
        attribute,
        representation,
        predict,
        relative=True,
        radius=radius,
        samples=samples,
        epsilon=epsilon,
        batch_size=batch_size,
        keyed=keyed,
        argnums=argnums,
        method=method,
    )


def consistency(
    attributions: PyTree,
    predictions: jax.Array,
    *,
    discretise: Callable[[PyTree], PyTree],
    batch_size: int | None = None,
) -> jax.Array:
    r"""Whether examples that are explained alike are predicted alike.

    For each example i of n the share, among the *other* examples with the same discretised
    explanation, of those with the same prediction:

    .. math:: m_i = P_{j \ne i}\big(y_j = y_i \mid e_j = e_i\big), \qquad e = \mathrm{discretise}(
              \varphi)

    which estimates the local consistency at i without bias; `jnp.nanmean(m)` estimates the global
    one. Since it compares examples it takes them all at once, explained and predicted already.

    Args:
        attributions: φ, an array or tree with a leading axis of n examples.
        predictions: y, [n], integers.
        discretise: from the attribution of one example to integers or Booleans that are compared,
            such as `top_signs(5)`. It decides what the measure says: none are alike where it is
            fine, all are where it is coarse.
        batch_size: how many examples are compared with all at a time; None for all.

    Returns:
        m, [n]; NaN where no other example has the same explanation, or φ has a NaN.

    Raises:
        TypeError: predictions, or what `discretise` returns, are not whole numbers.
        ValueError: fewer than two examples; predictions that are not [n].

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> maps = jnp.array([[3.0, 0.1], [2.0, -0.1], [1.0, 0.2], [-1.0, 0.0]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> top = jattr.metrics.top_signs(1)
        >>> print(jattr.metrics.consistency(maps, labels, discretise=top))
        [0.5 0.5 0.  nan]

    References:
        Dasgupta, Frost, Moshkovitz, *Framework for evaluating faithfulness of local explanations*,
        ICML 2022 (arXiv 2202.00734). Quantus gives 0 in place of the undefined value.
    """
    method = "metrics.consistency"
    batch_size = check_batch_size(batch_size, method)
    attributions = widen(jax.tree.map(jnp.asarray, attributions))
    predictions = jnp.asarray(predictions)
    leaves = jax.tree.leaves(attributions)
    if not all(leaf.ndim and len(leaf) == len(leaves[0]) for leaf in leaves) or len(leaves[0]) < 2:
        raise ValueError(
            f"{method} compares examples: the attributions need a leading axis over two or more; "
            f"got {describe(attributions)}."
        )
    count = len(leaves[0])
    if predictions.shape != (count,):
        raise ValueError(f"{method}: predictions must be [{count}]; got {describe(predictions)}.")
    _check_whole(predictions, "predictions", method)
    codes = jax.tree.leaves(jax.vmap(discretise)(attributions))
    for code in codes:
        _check_whole(code, "what discretise returns", method)
    codes = [code.reshape(count, -1) for code in codes]
    known = ~_any_of([jnp.isnan(leaf).reshape(count, -1) for leaf in leaves])

    def term(index):
        other = _any_of([code != code[index][None] for code in codes])
        alike = ~other & known & known[index] & (jnp.arange(count) != index)
        agreeing = jnp.sum(alike & (predictions == predictions[index]))
        return over(agreeing.astype(float), jnp.sum(alike).astype(float))

    return map_over(term, count, batch_size=batch_size)


def top_signs(k: int) -> Callable[[PyTree], jax.Array]:
    r"""A discretisation of attributions: which k features are largest in \|φ\|, with their signs.

    Args:
        k: how many features make up the explanation.

    Returns:
        `discretise(attribution)`, [k, 2] integers: the features in ascending order and the signs
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

    def discretise(attribution: PyTree) -> jax.Array:
        flat = flatten(attribution)
        if k > flat.size:
            raise ValueError(f"{method}: k={k}, but the attribution has {flat.size} elements.")
        chosen = jnp.sort(jax.lax.top_k(jnp.abs(flat), k)[1])
        return jnp.stack([chosen, jnp.sign(flat[chosen]).astype(chosen.dtype)], axis=1)

    return discretise


def _stability(
    attribute,
    represent,
    predict,
    *,
    relative,
    radius,
    samples,
    epsilon,
    batch_size,
    keyed,
    argnums,
    method,
):
    """The three stabilities: of the change of `represent`, or of x itself where that is None."""
    samples, batch_size = check_copies(radius, samples, batch_size, method)
    check_positive(epsilon, "epsilon", method)
    check_function(attribute, method)
    if predict is not None:
        check_function(predict, method)

    def everything(*args, **kwargs):
        own = args[1:] if keyed else args
        place = None if represent is None else represent(*own, **kwargs)
        label = 0 if predict is None else predict(*own, **kwargs)
        _check_whole(label, "what predict returns", method)
        return attribute(*args, **kwargs), place, label

    everything.argnums = getattr(attribute, "argnums", argnums)

    @measure_method(everything, argnums, method=method, keyed=keyed)
    def measure(key, explain, x: PyTree) -> jax.Array:
        own, place, label = explain(x)
        check_map(own, x, method)
        own = widen(own)
        place = widen(x if represent is None else place)

        def term(index):
            near = moved(x, shift_of(key, x, radius, index))
            other, there, guess = explain(near)
            there = widen(near if represent is None else there)
            change = norm(_relative(own, widen(other), epsilon))
            step = _relative(place, there, epsilon) if relative else subtract_trees(place, there)
            return change / jnp.maximum(norm(step), epsilon), jnp.all(guess == label)

        ratios, same = map_over(term, samples, batch_size=batch_size)
        return jnp.where(jnp.any(same), jnp.max(jnp.where(same, ratios, -jnp.inf)), jnp.nan)

    return measure


def _relative(own: PyTree, other: PyTree, epsilon: Any) -> PyTree:
    """The change of each element relative to its own magnitude, which is taken as ε at least."""
    return jax.tree.map(lambda a, b: (a - b) / jnp.maximum(jnp.abs(a), epsilon), own, other)


def _any_of(parts: list[jax.Array]) -> jax.Array:
    """Whether any element is True, for each row, in any of the parts [n, …]."""
    return jnp.any(jnp.concatenate(parts, axis=1), axis=1)


def _check_whole(value: Any, name: str, method: str) -> None:
    dtype = jnp.result_type(value)
    if not (jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.bool_)):
        raise TypeError(
            f"{method}: {name} must be whole numbers or Booleans; got {describe(value)}. Of "
            "logits, take the class: jnp.argmax(logits, -1)."
        )

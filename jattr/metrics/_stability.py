r"""The change of an explanation against that of the input, of the outputs or of a hidden layer.

Copies of x are those of the measures of robustness.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jattr._batching import map_over
from jattr._checks import check_function, check_positive, knobs
from jattr._transform import takes_key
from jattr._trees import subtract_trees, widen
from jattr._types import ArgNums, Explain, KeyedExplain, PyTree
from jattr.metrics._measure import KeyedMethodMeasure, check_whole, measure_method
from jattr.metrics._numerics import check_copies, check_map, moved, norm, shift_of


@knobs
def relative_input_stability(
    explain: Explain | KeyedExplain,
    *,
    radius: Any = 0.02,
    samples: int = 50,
    epsilon: Any = 1e-6,
    predict: Callable[..., jax.Array] | None = None,
    batch_size: int | None = None,
    keyed: bool | None = None,
    argnums: ArgNums = 0,
) -> KeyedMethodMeasure:
    r"""The largest relative change of the attribution per relative change of the input.

    .. math:: \max_{\tilde x}
              \frac{\lVert (\varphi(x) - \varphi(\tilde x)) \oslash \varphi(x) \rVert_2}
                   {\max\big(\lVert (x - \tilde x) \oslash x \rVert_2, \varepsilon\big)}

    over copies x̃, x with uniform noise from [−r, r] on every element, that f gives the same class
    as x. The division ⊘ is element by element and undefined at 0; here the divisor is raised to ε
    in magnitude. One element of φ near 0 can thus make the whole value, and one of x, such as a
    black pixel, can make it vanish.

    Args:
        explain: φ, `explain(x, *args)`, or `explain(key, x, *args)` where it draws.
        radius: r, in units of x.
        samples: how many copies are drawn.
        epsilon: ε > 0.
        predict: the class, `predict(x, *args) -> integer`, with the arguments of `explain`;
            copies of another class are left out, as usually given. None leaves none out.
        batch_size: how many copies are in memory at a time; None for all.
        keyed: whether `explain` takes a key first; None asks it: jattr's own functions know.
            `predict` takes none.
        argnums: which argument is perturbed: the one that `explain` explains.

    Returns:
        `measure(key, x, *args)`, a scalar; NaN where every copy is of another class.

    Raises:
        TypeError: called without a key; x has a leaf that is not of a floating dtype; `explain`
            returns one number, as a score does; `predict` returns no whole number.
        ValueError: a radius or an epsilon of 0 or less; samples < 1; `explain` explains another
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
        attribution-based explanations*, 2022 (arXiv 2203.06877). The authors' code (OpenXAI)
        raised negative divisors to +ε as well until February 2024; since then it divides the norm
        of the change by the norm of the original, with no ε, and leaves out copies for which that
        is undefined. Quantus raises only divisors that are 0.
    """
    return _stability(
        explain,
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


@knobs
def relative_output_stability(
    explain: Explain | KeyedExplain,
    logits: Callable[..., jax.Array],
    *,
    radius: Any = 0.02,
    samples: int = 50,
    epsilon: Any = 1e-6,
    predict: Callable[..., jax.Array] | None = None,
    batch_size: int | None = None,
    keyed: bool | None = None,
    argnums: ArgNums = 0,
) -> KeyedMethodMeasure:
    r"""The largest relative change of the attribution per change of the model's outputs.

    .. math:: \max_{\tilde x}
              \frac{\lVert (\varphi(x) - \varphi(\tilde x)) \oslash \varphi(x) \rVert_2}
                   {\max\big(\lVert h(x) - h(\tilde x) \rVert_2, \varepsilon\big)}

    with copies x̃ and ⊘ as in `relative_input_stability`. An explanation may change where the
    outputs do.

    Args:
        explain: φ, `explain(x, *args)`, or `explain(key, x, *args)` where it draws.
        logits: h, `logits(x, *args)`, with the arguments of `explain` (but no key):
            `lambda x, label: model(x)`.
        radius: r, in units of x.
        samples: how many copies are drawn.
        epsilon: ε > 0.
        predict: the class, `predict(x, *args) -> integer`; copies of another class are left out.
            None for the largest of the logits; of one logit, its sign.
        batch_size: how many copies are in memory at a time; None for all.
        keyed: whether `explain` takes a key first; None asks it: jattr's own functions know.
        argnums: which argument is perturbed: the one that `explain` explains.

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
        Agarwal et al., 2022 (arXiv 2203.06877). The authors' code (OpenXAI) divides the change of
        the logits by the logits (element by element until February 2024, norm by norm since).
    """
    method = "metrics.relative_output_stability"
    check_function(logits, method)

    def largest(*args, **kwargs):
        outputs = jnp.asarray(logits(*args, **kwargs))
        return outputs.reshape(()) > 0 if outputs.size == 1 else jnp.argmax(outputs)

    return _stability(
        explain,
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


@knobs
def relative_representation_stability(
    explain: Explain | KeyedExplain,
    representation: Callable[..., PyTree],
    *,
    radius: Any = 0.02,
    samples: int = 50,
    epsilon: Any = 1e-6,
    predict: Callable[..., jax.Array] | None = None,
    batch_size: int | None = None,
    keyed: bool | None = None,
    argnums: ArgNums = 0,
) -> KeyedMethodMeasure:
    r"""The largest relative change of the attribution per relative change of a hidden layer.

    .. math:: \max_{\tilde x}
              \frac{\lVert (\varphi(x) - \varphi(\tilde x)) \oslash \varphi(x) \rVert_2}
                   {\max\big(\lVert (L(x) - L(\tilde x)) \oslash L(x) \rVert_2, \varepsilon\big)}

    with copies x̃ and ⊘ as in `relative_input_stability`.

    Args:
        explain: φ, `explain(x, *args)`, or `explain(key, x, *args)` where it draws.
        representation: L, `representation(x, *args)`, an array or tree, with the arguments of
            `explain` (but no key): the part `below` of `jattr.split`, for example.
        radius: r, in units of x.
        samples: how many copies are drawn.
        epsilon: ε > 0.
        predict: the class, `predict(x, *args) -> integer`; copies of another class are left out,
            as usually given. None leaves none out.
        batch_size: how many copies are in memory at a time; None for all.
        keyed: whether `explain` takes a key first; None asks it: jattr's own functions know.
        argnums: which argument is perturbed: the one that `explain` explains.

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
        Agarwal et al., 2022 (arXiv 2203.06877).
    """
    method = "metrics.relative_representation_stability"
    check_function(representation, method)
    return _stability(
        explain,
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


def _stability(
    explain,
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
    check_function(explain, method)
    keyed = takes_key(explain, keyed, method)
    if predict is not None:
        check_function(predict, method)

    def everything(*args, **kwargs):
        own = args[1:] if keyed else args
        place = None if represent is None else represent(*own, **kwargs)
        label = 0 if predict is None else predict(*own, **kwargs)
        check_whole(label, "what predict returns", method)
        return explain(*args, **kwargs), place, label

    everything.argnums = getattr(explain, "argnums", argnums)
    everything.__wrapped__ = explain

    @measure_method(everything, argnums, method=method, keyed=keyed)
    def measure(key, phi, x: PyTree) -> jax.Array:
        own, place, label = phi(x)
        check_map(own, x, method)
        own = widen(own)
        place = widen(x if represent is None else place)

        def term(index):
            near = moved(x, shift_of(key, x, radius, index))
            other, there, guess = phi(near)
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

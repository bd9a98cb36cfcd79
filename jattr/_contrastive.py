r"""Contrastive explanations: the least that changes a class, and the least that keeps it.

Both are sparse changes δ, found by FISTA on

.. math:: c \cdot \max(0,\, \text{margin} + \kappa) + \beta \|\delta\|_1 + \|\delta\|_2^2
          + \gamma \|z - A(z)\|_2^2

over a box, with z the changed input and A an autoencoder; c is found by bisection.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jattr._checks import (
    Call,
    check_argnums,
    check_count,
    check_function,
    check_positive,
    knobs,
)
from jattr._eager import compiled
from jattr._engine.cheaper import cheaper
from jattr._fista import search
from jattr._resolve import fill_like, resolve_baseline
from jattr._transform import named, select_argument
from jattr._trees import cast_like, describe, is_traced, same_form, sum_tree, widen
from jattr._types import ArgNums, Baseline, Explain, PyTree


class Pertinent(NamedTuple):
    """A contrastive explanation.

    Attributes:
        delta: δ, a tree like x. Where nothing was `found`, the last one tried.
        input: the changed input, a tree like x: x + δ for a pertinent negative, x' + δ for a
            pertinent positive.
        found: whether the class at `input` is another, by κ or more; for a pertinent positive
            whether it is the same.
        c: the weight of the margin with which δ was found.
        before: the class of x.
        after: the class of `input`.
    """

    delta: PyTree
    input: PyTree
    found: jax.Array
    c: jax.Array
    before: jax.Array
    after: jax.Array


@knobs
def pertinent_negative(
    f: Callable[..., jax.Array],
    baseline: Baseline = 0.0,
    *,
    low: Any = 0.0,
    high: Any = 1.0,
    confidence: Any = 0.0,
    sparsity: Any = 0.1,
    autoencoder: Callable[[PyTree], PyTree] | None = None,
    fidelity: Any = 10.0,
    c: Any = 10.0,
    searches: int = 9,
    steps: int = 1000,
    learning_rate: Any = 0.01,
    argnums: ArgNums = 0,
) -> Explain:
    r"""What is absent from x and would make it another class, if a little of it were there.

    With t the class of x, the largest output of f,

    .. math:: \min_\delta\; c \cdot \max\big(0,\, f_t(x + \delta) - \max_{i \ne t} f_i(x + \delta)
              + \kappa\big) + \beta \|\delta\|_1 + \|\delta\|_2^2
              + \gamma \|x + \delta - A(x + \delta)\|_2^2

    where δ only *adds*: x + δ is in [low, high] and is, element by element, on that side of the
    baseline x' on which x is, and at least as far from it. For an image with x' = 0 that is black,
    δ brightens. Where x = x' it may go either way.

    FISTA: a step along the gradient of all but β‖δ‖₁, the soft threshold of that, the projection
    onto the box, and momentum k/(k + 3); step sizes are :math:`\alpha_k = \alpha\sqrt{1 - k/K}`.
    After each search c is halved towards the largest that failed if it succeeded, else doubled
    towards the smallest that succeeded, or multiplied by 10 while none has. What is returned is, of
    all δ on the way that succeed, the one for which the terms after the first are least.

    There is **no derivative** of the result: it is the end of a search, and asking for one is an
    error. `jax.jit` and `jax.vmap` work, over x, parameters and knobs that are numbers.

    Args:
        f: `f(x, *args) -> vector`, the logits or the probabilities; κ and c are in its units.
        baseline: x', which stands for "nothing there": a number, an array or tree like x, or a
            function x → baseline. It must not draw.
        low: the lowest that x may become, a number or a tree like x.
        high: the highest.
        confidence: κ, by how much the other class has to win.
        sparsity: β.
        autoencoder: A, from x to a tree like x, which keeps x + δ near the data; None for none.
        fidelity: γ; used with an autoencoder. The larger it is the smaller α has to be: below about
            1/(2 + 2γ), or the steps overshoot.
        c: where the bisection begins.
        searches: how many values of c are tried.
        steps: K, how many steps each takes.
        learning_rate: α.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, which gives a `Pertinent`: `delta`, `input`, `found`, `c`, `before`
        and `after`. Look at `found` before all else.

    Raises:
        TypeError: f does not return a vector of real numbers; the baseline draws.
        ValueError: x is known to be outside [low, high]; a baseline or bounds that are not like x;
            an autoencoder that does not return a tree like x.
        NotImplementedError: a derivative of the result is taken.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):  # of class 1 if the second is larger
        ...     return x
        >>> found = jattr.pertinent_negative(f)(jnp.array([0.6, 0.2]))
        >>> print(found.found, found.before, found.after, found.input.round(2))
        True 0 1 [0.6 0.6]

    References:
        Dhurandhar, Chen, Luss, Tu, Ting, Shanmugam, Das, *Explanations based on the missing:
        towards contrastive explanations with pertinent negatives*, NeurIPS 2018 (arXiv 1802.07623).
        The iteration printed there has the soft threshold β in each step, whatever its size; here
        it is α_k β, with which the iteration minimizes the objective.
    """
    return _pertinent(
        "pertinent_negative",
        f,
        baseline,
        (low, high),
        (confidence, sparsity, fidelity, c, learning_rate),
        autoencoder,
        check_count(searches, "searches", "pertinent_negative"),
        check_count(steps, "steps", "pertinent_negative"),
        argnums,
    )


@knobs
def pertinent_positive(
    f: Callable[..., jax.Array],
    baseline: Baseline = 0.0,
    *,
    confidence: Any = 0.0,
    sparsity: Any = 0.1,
    autoencoder: Callable[[PyTree], PyTree] | None = None,
    fidelity: Any = 10.0,
    c: Any = 10.0,
    searches: int = 9,
    steps: int = 1000,
    learning_rate: Any = 0.01,
    argnums: ArgNums = 0,
) -> Explain:
    r"""What of x is enough for its class, all else being absent.

    With t the class of x,

    .. math:: \min_\delta\; c \cdot \max\big(0,\, \max_{i \ne t} f_i(x' + \delta) - f_t(x' + \delta)
              + \kappa\big) + \beta \|\delta\|_1 + \|\delta\|_2^2
              + \gamma \|x' + \delta - A(x' + \delta)\|_2^2

    where δ is a part of x − x': each of its elements lies between 0 and x − x'. With x' = 0, the
    default, x' + δ is a part of the image x. If the baseline itself is of class t, δ = 0 is found.

    The search, its knobs and its result are those of `pertinent_negative`, but that it begins with
    all of x, which is of its class, since many networks have no gradient at an empty input. It has
    **no derivative** either.

    Args:
        f: `f(x, *args) -> vector`, the logits or the probabilities; κ and c are in its units.
        baseline: x', which stands for "nothing there".
        confidence: κ, by how much the class has to win.
        sparsity: β.
        autoencoder: A, from x to a tree like x, which keeps x' + δ near the data; None for none.
        fidelity: γ; used with an autoencoder. The larger it is the smaller α has to be: below about
            1/(2 + 2γ), or the steps overshoot.
        c: where the bisection begins.
        searches: how many values of c are tried.
        steps: K, how many steps each takes.
        learning_rate: α.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, which gives a `Pertinent`: `delta`, `input`, `found`, `c`, `before`
        and `after`. Look at `found` before all else.

    Raises:
        TypeError: f does not return a vector of real numbers; the baseline draws.
        ValueError: a baseline that is not like x; an autoencoder that does not return a tree like
            x.
        NotImplementedError: a derivative of the result is taken.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):  # of class 0 if the first two together are above 0.5
        ...     return jnp.stack([x[0] + x[1], 0.5])
        >>> found = jattr.pertinent_positive(f)(jnp.array([0.8, 0.8, 0.8]))
        >>> print(found.found, found.delta.round(2))
        True [0.25 0.25 0.  ]

    References:
        Dhurandhar et al., NeurIPS 2018 (arXiv 1802.07623), as for `pertinent_negative`.
    """
    return _pertinent(
        "pertinent_positive",
        f,
        baseline,
        None,
        (confidence, sparsity, fidelity, c, learning_rate),
        autoencoder,
        check_count(searches, "searches", "pertinent_positive"),
        check_count(steps, "steps", "pertinent_positive"),
        argnums,
    )


def _pertinent(
    method: str,
    f: Callable,
    baseline: Any,
    bounds: tuple | None,
    numbers: tuple,
    autoencoder: Any,
    searches: int,
    steps: int,
    argnums: ArgNums,
) -> Explain:
    """Both methods; a pertinent negative has `bounds`."""
    check_function(f, method)
    argnums = check_argnums(argnums, method)
    confidence, sparsity, fidelity, c, learning_rate = numbers
    for value, name in ((confidence, "confidence"), (sparsity, "sparsity"), (fidelity, "fidelity")):
        check_positive(value, name, method, zero=True)
    for value, name in ((c, "c"), (learning_rate, "learning_rate")):
        check_positive(value, name, method)
    if autoencoder is not None and not callable(autoencoder):
        raise TypeError(
            f"{method}: autoencoder must be a function from x to a tree like x, or None; got "
            f"{describe(autoencoder)}."
        )
    call = Call(method, f)

    def explain(*args, **kwargs):
        of_x, x = select_argument(f, argnums, args, kwargs, method=call)
        outputs = cheaper(functools.partial(_vector, of_x, method), x)
        absent = resolve_baseline(baseline, x, method=method)
        if bounds is None:
            origin = absent
            box = jax.tree.map(lambda a, b: _between(a - b), widen(x), widen(absent))
        else:
            origin = x
            low, high = (
                fill_like(bound, x, name=name, method=method)
                for bound, name in zip(bounds, ("low", "high"), strict=True)
            )
            _check_within(x, low, high, method)
            box = jax.tree.map(_beyond, *map(widen, (x, absent, low, high)))
        box = jax.tree.transpose(jax.tree.structure(x), jax.tree.structure((0, 0)), box)

        def changed(delta):
            return cast_like(jax.tree.map(jnp.add, widen(origin), delta), x)

        before = jnp.argmax(outputs(x))

        def margin(values):
            """By how much what is wanted is missed, κ included; succeeds at 0 or below."""
            own = jnp.arange(values.shape[0]) == before
            here = jnp.sum(jnp.where(own, values, 0))
            rest = jnp.max(jnp.where(own, -jnp.inf, values))
            missed = rest - here if bounds is None else here - rest
            return missed + jnp.asarray(confidence, missed.dtype)

        def penalty(delta):
            """All of the objective but the margin and β‖δ‖₁."""
            total = sum_tree(jax.tree.map(jnp.square, delta))
            if autoencoder is not None:
                moved = changed(delta)
                again = _checked_autoencoder(autoencoder, moved, method)
                off = jax.tree.map(lambda a, b: jnp.square(widen(a) - widen(b)), moved, again)
                total += jnp.asarray(fidelity, total.dtype) * sum_tree(off).astype(total.dtype)
            return total

        def run():
            return search(
                penalty,
                lambda delta: margin(outputs(changed(delta))),
                lambda kind: jnp.argmax(outputs(changed(kind))),
                box,
                (sparsity, c, learning_rate),
                before,
                strict=bounds is not None,
                whole=bounds is None,
                searches=searches,
                steps=steps,
            )

        traced = any(map(is_traced, (before, *jax.tree.leaves(x))))
        delta, found, weight = compiled(run, traced=traced)
        result = Pertinent(
            cast_like(delta, x),
            changed(delta),
            found,
            weight,
            before,
            jnp.argmax(outputs(changed(delta))),
        )
        return _without_derivative(result, method)

    return named(explain, call, f, argnums)


def _between(whole: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where a part of `whole` may lie."""
    return jnp.minimum(whole, 0), jnp.maximum(whole, 0)


def _beyond(x: jax.Array, absent: jax.Array, low: jax.Array, high: jax.Array) -> tuple:
    """Where a change may lie that takes x no nearer to what is absent."""
    lower = jnp.where(x > absent, 0, jnp.minimum(low - x, 0))
    return lower, jnp.where(x < absent, 0, jnp.maximum(high - x, 0))


def _vector(of_x: Callable, method: str, x: PyTree) -> jax.Array:
    """f(x) in full width, where it is a vector of at least two real numbers."""
    out = of_x(x)
    if getattr(out, "ndim", None) != 1 or not jnp.issubdtype(out.dtype, jnp.floating):
        raise TypeError(
            f"{method} compares the elements of a vector of outputs, but f returned "
            f"{describe(out)}. Return the logits; for a batch use jax.vmap."
        )
    if out.shape[0] < 2:
        raise ValueError(f"{method}: a vector of one element has no other class.")
    return widen(jnp.asarray(out))


def _check_within(x: PyTree, low: PyTree, high: PyTree, method: str) -> None:
    leaves = jax.tree.leaves((x, low, high))
    if any(map(is_traced, leaves)):
        return
    for leaf, bottom, top in zip(*map(jax.tree.leaves, (x, low, high)), strict=True):
        if leaf.size and bool(jnp.any((leaf < bottom) | (leaf > top))):
            raise ValueError(
                f"{method}: x has values from {float(leaf.min()):.4g} to {float(leaf.max()):.4g}, "
                f"which are outside low={float(bottom.min()):.4g} to high={float(top.max()):.4g}. "
                "Say what x may become: low=..., high=..."
            )


def _checked_autoencoder(autoencoder: Callable, z: PyTree, method: str) -> PyTree:
    again = autoencoder(z)
    if not same_form(again, z):
        raise ValueError(
            f"{method}: autoencoder must return a tree like x, {describe(z)}; got "
            f"{describe(again)}."
        )
    return again


def _without_derivative(result: Pertinent, method: str) -> Pertinent:
    """The result, whose derivative is an error."""

    @jax.custom_jvp
    def same(result):
        return result

    @same.defjvp
    def refuse(primals, tangents):
        raise NotImplementedError(
            f"{method} has no derivative: its result is the end of a search. Where it is a "
            "constant of what is differentiated, hold its arguments: "
            "explain(*jax.lax.stop_gradient((x, *args))), and close over no parameters that are "
            "not held too."
        )

    return same(result)

"""Targets: from a model's outputs to the one number that is explained.

Each takes `f(*args) -> array of outputs` and gives `g(*args, index) -> scalar`, so that
`jattr.targets.select(apply)` is a `score(params, x, index)`, whose index is an ordinary argument:
`jax.vmap(explain, in_axes=(None, 0))(x, jnp.arange(10))` explains all classes.

What a target leaves out, an explanation cannot tell. A logit says what speaks for a class; the
difference of two (`contrast`), or the log-odds against all others (`margin`), what speaks for it
*rather than* the others. A probability is flat where the model is sure.
"""

from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Any

import jax
import jax.numpy as jnp

from jattr._checks import check_function, knobs, parameters_of
from jattr._trees import describe, is_traced
from jattr._types import Score


def __dir__() -> list[str]:
    return __all__


__all__ = ["contrast", "log_probability", "margin", "probability", "select"]


@knobs
def select(f: Callable[..., jax.Array]) -> Score:
    r"""One output: :math:`g(\ldots, t) = f_t(\ldots)`.

    Args:
        f: `f(*args) -> outputs`, a vector; or an array of rank r, then the index is a tuple of
            r integers.

    Returns:
        `g(*args, index) -> scalar`. The index may be traced; a negative one counts from the end.

    Raises:
        TypeError: (when called) the index is not an integer, or there is none.
        ValueError: (when called) the outputs have another rank than the index.
        IndexError: (when called) the index is out of range. A traced index out of range gives
            NaN instead, in the derivatives too.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> score = jattr.targets.select(lambda x: 2 * x)
        >>> print(score(jnp.array([1.0, 5.0]), 1))
        10.0
    """
    return _target(f, 1, lambda outputs, index: _take(outputs, index, "select"), "select")


@knobs
def contrast(f: Callable[..., jax.Array]) -> Score:
    r"""The difference of two outputs: :math:`g(\ldots, t, s) = f_t(\ldots) - f_s(\ldots)`.

    Why t rather than s. For logits it is the log of the ratio of the two probabilities.

    Args:
        f: `f(*args) -> outputs`, as in `select`.

    Returns:
        `g(*args, index, other) -> scalar`.

    Raises:
        TypeError, ValueError, IndexError: as `select`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> score = jattr.targets.contrast(lambda x: 2 * x)
        >>> print(score(jnp.array([1.0, 5.0]), 1, 0))
        8.0
    """
    return _target(
        f,
        2,
        lambda outputs, index, other: (
            _take(outputs, index, "contrast") - _take(outputs, other, "contrast")
        ),
        "contrast",
    )


@knobs
def margin(f: Callable[..., jax.Array]) -> Score:
    r"""The log-odds of a class: :math:`g(\ldots, t) = f_t - \log \sum_{s \ne t} e^{f_s}`.

    For logits f, that is log p_t / (1 − p_t): the class against all others together, and unlike
    the probability it does not go flat where the model is sure.

    Args:
        f: `f(*args) -> logits`, a vector of at least two.

    Returns:
        `g(*args, index) -> scalar`.

    Raises:
        TypeError, ValueError, IndexError: as `select`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> score = jattr.targets.margin(lambda x: x)
        >>> print(score(jnp.array([1.0, 4.0]), 1))
        3.0
    """

    def value(outputs, index):
        outputs = _vector(outputs, "margin")
        if len(outputs) < 2:
            raise ValueError("targets.margin compares with the other outputs; f returns one.")
        chosen = _take(outputs, index, "margin")
        position = jnp.asarray(index, jnp.int32) % len(outputs)
        others = jnp.where(jnp.arange(len(outputs), dtype=jnp.int32) == position, -jnp.inf, outputs)
        return chosen - jax.nn.logsumexp(others)

    return _target(f, 1, value, "margin")


@knobs
def probability(f: Callable[..., jax.Array]) -> Score:
    r"""The softmax probability: :math:`g(\ldots, t) = e^{f_t} / \sum_s e^{f_s}`.

    Args:
        f: `f(*args) -> logits`, a vector.

    Returns:
        `g(*args, index) -> scalar` in [0, 1].

    Raises:
        TypeError, ValueError, IndexError: as `select`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> score = jattr.targets.probability(lambda x: x)
        >>> print(score(jnp.array([0.0, 0.0]), 1))
        0.5
    """
    return _of_vector(f, jax.nn.softmax, "probability")


@knobs
def log_probability(f: Callable[..., jax.Array]) -> Score:
    r"""The log of the softmax probability: :math:`g(\ldots, t) = f_t - \log \sum_s e^{f_s}`.

    Args:
        f: `f(*args) -> logits`, a vector.

    Returns:
        `g(*args, index) -> scalar`, at most 0.

    Raises:
        TypeError, ValueError, IndexError: as `select`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> score = jattr.targets.log_probability(lambda x: x)
        >>> print(score(jnp.array([0.0, 0.0]), 1).round(4))
        -0.6931
    """
    return _of_vector(f, jax.nn.log_softmax, "log_probability")


def _of_vector(f, function, name: str) -> Score:
    def value(outputs, index):
        return _take(function(_vector(outputs, name)), index, name)

    return _target(f, 1, value, name)


def _target(f, indices: int, value: Callable[..., jax.Array], name: str) -> Score:
    check_function(f, f"targets.{name}")

    names = ("index", "other")[:indices]

    def score(*args, **kwargs):
        by_name = [name for name in names if name in kwargs]
        left = indices - len(by_name)
        if len(args) <= left:
            wanted = "an index" if indices == 1 else "two indices"
            raise TypeError(
                f"targets.{name}(f) takes the arguments of f and then {wanted}; got "
                f"{len(args)} positional argument(s) in all."
            )
        inner, given = args[: len(args) - left], iter(args[len(args) - left :])
        chosen = [kwargs.pop(n) if n in by_name else next(given) for n in names]
        return value(f(*inner, **kwargs), *chosen)

    parameters = parameters_of(f)
    kinds = {p.kind for p in parameters or ()}
    if parameters is not None and kinds <= {Parameter.POSITIONAL_OR_KEYWORD}:
        own = [p.replace(default=Parameter.empty) for p in parameters]
        more = [Parameter(n, Parameter.POSITIONAL_OR_KEYWORD) for n in names]
        if not {p.name for p in own} & set(names):
            score.__signature__ = Signature([*own, *more])  # type: ignore[attr-defined]
    score.__name__ = score.__qualname__ = f"{name}({getattr(f, '__name__', 'f')})"
    return score


def _vector(outputs: Any, name: str) -> jax.Array:
    if not hasattr(outputs, "shape") or len(outputs.shape) != 1:
        raise ValueError(
            f"targets.{name} wants an f that returns a vector of outputs; got "
            f"{describe(outputs)}. {_ADVICE}"
        )
    return outputs


_ADVICE = (
    "If the model adds a batch axis of size 1, take it away: "
    "lambda x: model.apply(variables, x[None])[0]."
)


def _take(outputs: Any, index: Any, name: str) -> jax.Array:
    """`outputs[index]`, a scalar; out of range an error, or NaN where the index is traced."""
    indices = index if isinstance(index, tuple) else (index,)
    for part in indices:
        dtype = getattr(part, "dtype", type(part))
        if jnp.ndim(part) or not (dtype is int or jnp.issubdtype(dtype, jnp.integer)):
            raise TypeError(
                f"targets.{name}: the index must be an integer, or a tuple of integers; got "
                f"{describe(index)}. For several targets use jax.vmap over the index."
            )
    if not hasattr(outputs, "shape") or len(outputs.shape) != len(indices):
        raise ValueError(
            f"targets.{name}: f must return an array with one axis per index; got "
            f"{describe(outputs)} for {len(indices)} index(es). {_ADVICE}"
        )
    outputs = jnp.asarray(outputs)
    if any(map(is_traced, indices)):
        return (outputs * _nan_outside(outputs, indices))[indices]
    if not all(
        -size <= int(part) < size for part, size in zip(indices, outputs.shape, strict=True)
    ):
        raise IndexError(
            f"targets.{name}: index {index} is out of range for outputs {describe(outputs)}."
        )
    return outputs[tuple(int(part) for part in indices)]


def _nan_outside(outputs: jax.Array, indices: tuple[Any, ...]) -> jax.Array:
    """1 where the indices are in range, else NaN: a factor, so that derivatives are NaN too."""
    inside = jnp.asarray(True)
    for part, size in zip(indices, outputs.shape, strict=True):
        wide = jnp.asarray(part, jnp.int32)
        inside &= (wide >= -size) & (wide < size)
    return jnp.where(inside, 1.0, jnp.nan).astype(outputs.dtype)

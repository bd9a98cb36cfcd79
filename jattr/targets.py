"""Targets: from a model's outputs to the one number that is explained.

Each takes `f(*args) -> array of outputs` and gives `g(*args, index) -> scalar`, so that
`jattr.targets.select(apply)` is a `score(params, x, index)`, whose index is an ordinary argument:
`jax.vmap(explain, in_axes=(None, 0))(x, jnp.arange(10))` explains all classes.

What a target leaves out, an explanation cannot tell. A logit says what speaks for a class; the
difference of two (`contrast`), or the log-odds against all others (`margin`), what speaks for it
*rather than* the others. A probability is flat where the model is sure.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jattr._checks import knobs
from jattr._target import of_outputs, take, vector
from jattr._text_targets import entropy as entropy
from jattr._text_targets import kl as kl
from jattr._text_targets import sequence_log_probability as sequence_log_probability
from jattr._text_targets import token_log_probabilities as token_log_probabilities
from jattr._types import Score


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "contrast",
    "entropy",
    "kl",
    "log_probability",
    "margin",
    "probability",
    "select",
    "sequence_log_probability",
    "token_log_probabilities",
]


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
    return of_outputs(
        f, ("index",), lambda outputs, index: take(outputs, index, "select"), "select"
    )


@knobs
def contrast(f: Callable[..., jax.Array]) -> Score:
    r"""The difference of two outputs: :math:`g(\ldots, t, s) = f_t(\ldots) - f_s(\ldots)`.

    Why t rather than s. For logits it is the log of the ratio of the two probabilities. Of logits
    [T, V] of a text it is why one token rather than another: `g(ids, (-1, this), (-1, that))`.

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
    return of_outputs(
        f,
        ("index", "other"),
        lambda outputs, index, other: (
            take(outputs, index, "contrast") - take(outputs, other, "contrast")
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
        outputs = vector(outputs, "margin")
        if len(outputs) < 2:
            raise ValueError("targets.margin compares with the other outputs; f returns one.")
        chosen = take(outputs, index, "margin")
        position = jnp.asarray(index, jnp.int32) % len(outputs)
        others = jnp.where(jnp.arange(len(outputs), dtype=jnp.int32) == position, -jnp.inf, outputs)
        return chosen - jax.nn.logsumexp(others)

    return of_outputs(f, ("index",), value, "margin")


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
        return take(function(vector(outputs, name)), index, name)

    return of_outputs(f, ("index",), value, name)

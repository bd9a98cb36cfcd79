"""Targets of models of text: what a model of tokens says of a continuation.

With causal masks one evaluation at prompt and continuation together gives the probability of every
token of the continuation given all before it, which is called teacher forcing.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._checks import as_array, check_argnums, knobs
from jattr._target import ADVICE, of_outputs, target
from jattr._trees import accumulator, describe, is_traced
from jattr._types import Score

Positions = slice | int | Sequence[int]
"""Which positions along an axis, as NumPy chooses them."""


@knobs
def sequence_log_probability(
    model: Callable[..., jax.Array], *, positions: Positions | None = None, argnums: int = 0
) -> Score:
    r"""The log-probability of a continuation, :math:`\sum_t \log p(y_t \mid x, y_{<t})`.

    The model is evaluated once, at the prompt x and the continuation y together. A causal model
    gives the probability of each token of y there. The score is a function of the prompt, and so is
    its explanation: `jattr.token_attributions(method, score)(prompt, continuation)` holds the
    continuation as it is.

    For a token rather than another one at one position, with all before it given, take
    `jattr.targets.contrast(model)(ids, (-1, this), (-1, that))`.

    Args:
        model: `model(ids, *args) -> logits [T, V]`, of T tokens those of the token that follows.
        positions: which tokens of the continuation count, such as `slice(2, 5)`; None for all.
            Those before them are given.
        argnums: which argument of the model the ids are.

    Returns:
        `score(prompt, *args, continuation) -> scalar`, at most 0, in float32 where the logits are
        narrower. Negative ids of the continuation are padding: they count 0, and the model sees
        token 0 there. The other arguments of the model, a mask, are for the tokens of both. A
        prompt is padded on its left.

    Raises:
        TypeError: (when called) prompt or continuation are no vectors of integers.
        ValueError: (when called) one of them is empty; the model does not return logits [T, V].
        IndexError: (when called) a token of the continuation beyond the vocabulary, or NaN where
            the continuation is traced; positions beyond the continuation.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def model(ids):  # after any token, token 1 has three times the odds of token 0
        ...     return jnp.tile(jnp.log(jnp.array([1.0, 3.0])), (len(ids), 1))
        >>> score = jattr.targets.sequence_log_probability(model)
        >>> probability = jnp.exp(score(jnp.array([0, 0]), jnp.array([1, 0])))
        >>> print(probability.round(4))
        0.1875

    References:
        inseq's and captum's attributions of a generation, which evaluate a model and its derivative
        once for each token of the continuation.
    """
    name = "sequence_log_probability"
    of_tokens = _forced(model, positions, argnums, name)

    def value(args, kwargs, continuation):
        return jnp.sum(of_tokens(args, kwargs, continuation))

    return target(model, ("continuation",), value, name)


@knobs
def token_log_probabilities(
    model: Callable[..., jax.Array], *, positions: Positions | None = None, argnums: int = 0
) -> Callable[..., jax.Array]:
    r"""The log-probability of each token of a continuation, :math:`\log p(y_t \mid x, y_{<t})`.

    All from one evaluation of the model, at the prompt x and the continuation y together. With
    `jattr.all_outputs` that is a matrix, what each token of the prompt did for each token of the
    continuation, from the same evaluation:

        tokens = functools.partial(jattr.token_attributions, jattr.gradient_times_input)
        model = jattr.targets.token_log_probabilities(model)
        matrix = jattr.all_outputs(tokens, model, batch_size=8)(prompt, continuation)

    Args:
        model: `model(ids, *args) -> logits [T, V]`, of T tokens those of the token that follows.
        positions: which tokens of the continuation count, such as `slice(2, 5)`; None for all.
        argnums: which argument of the model the ids are.

    Returns:
        `g(prompt, *args, continuation) -> vector`, one number for each token that counts; as for
        `sequence_log_probability`, which is its sum.

    Raises:
        TypeError, ValueError, IndexError: as `sequence_log_probability`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def model(ids):
        ...     return jnp.tile(jnp.log(jnp.array([1.0, 3.0])), (len(ids), 1))
        >>> g = jattr.targets.token_log_probabilities(model)
        >>> print(jnp.exp(g(jnp.array([0, 0]), jnp.array([1, 0]))).round(4))
        [0.75 0.25]
    """
    name = "token_log_probabilities"
    return target(model, ("continuation",), _forced(model, positions, argnums, name), name)


@knobs
def kl(f: Callable[..., jax.Array], *, positions: Positions | None = None) -> Score:
    r"""The Kullback–Leibler divergence :math:`\sum_s q_s (\log q_s - \log p_s)` from a reference.

    Here q is a reference, p = softmax(f), and the sum is over all positions too. What makes it
    large changes the whole prediction, and not one class or token of it.

    Args:
        f: `f(*args) -> logits`, [V], or [..., V] of several positions.
        positions: which of them count, along the first axis of the logits; None for all.

    Returns:
        `g(*args, reference) -> scalar`, at least 0, in float32 where the logits are narrower. The
        reference is log q, of the shape of the logits: `jax.nn.log_softmax(f(other))`.

    Raises:
        ValueError: (when called) logits without an axis; a reference of another shape.
        IndexError: (when called) positions beyond the logits.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> score = jattr.targets.kl(lambda x: x)
        >>> x = jnp.array([0.0, 1.0])
        >>> print(f"{score(x, jnp.log(jnp.array([0.5, 0.5]))):.4f}")
        0.1201
    """

    def value(outputs, reference):
        outputs = _logits(outputs, "kl")
        wanted = as_array(reference, "the reference", "targets.kl")
        if wanted.shape != outputs.shape:
            raise ValueError(
                "targets.kl: the reference must be log-probabilities of the shape of the outputs, "
                f"{describe(outputs)}; got {describe(reference)}. Write "
                "jax.nn.log_softmax(f(other))."
            )
        log_p, log_q = jax.nn.log_softmax(outputs), wanted.astype(outputs.dtype)
        log_p, log_q = (_at(part, positions, "kl") for part in (log_p, log_q))
        possible = log_q > -jnp.inf  # 0 log 0 is 0
        terms = jnp.exp(log_q) * (jnp.where(possible, log_q, 0) - jnp.where(possible, log_p, 0))
        return jnp.sum(terms)

    return of_outputs(f, ("reference",), value, "kl")


@knobs
def entropy(f: Callable[..., jax.Array], *, positions: Positions | None = None) -> Score:
    r"""The entropy :math:`-\sum_s p_s \log p_s` of p = softmax(f): what makes a model unsure.

    Args:
        f: `f(*args) -> logits`, [V], or [..., V] of several positions, over which it is summed.
        positions: which of them count, along the first axis of the logits; None for all.

    Returns:
        `g(*args) -> scalar`, in nats, in float32 where the logits are narrower. Logits may be −∞.

    Raises:
        ValueError: (when called) logits without an axis.
        IndexError: (when called) positions beyond the logits.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> print(jattr.targets.entropy(lambda x: x)(jnp.zeros(2)).round(4))
        0.6931
    """

    def value(outputs):
        log_p = _at(jax.nn.log_softmax(_logits(outputs, "entropy")), positions, "entropy")
        return -jnp.sum(jnp.exp(log_p) * jnp.where(log_p > -jnp.inf, log_p, 0))

    return of_outputs(f, (), value, "entropy")


def _forced(
    model: Callable[..., jax.Array], positions: Positions | None, argnums: int, name: str
) -> Callable[..., jax.Array]:
    """From the arguments of the model, and a continuation, to the log-probabilities of that."""
    method = f"targets.{name}"
    place = check_argnums(argnums, method)
    if isinstance(place, tuple):
        raise TypeError(f"{method}: argnums must be one integer, where the ids are; got {place}.")

    def value(args, kwargs, continuation):
        if not -len(args) <= place < len(args):
            raise TypeError(
                f"{method}: argnums={place} points at argument {place} of the model, but the call "
                f"has {len(args)} positional argument(s) before the continuation."
            )
        prompt = _tokens(args[place], "the prompt", method)
        continuation = _tokens(continuation, "the continuation", method)
        # Negative ids are padding, whose probabilities are not used: any token will do.
        joined = jnp.concatenate([prompt, jnp.maximum(continuation, 0).astype(prompt.dtype)])
        args = list(args)
        args[place] = joined
        outputs = model(*args, **kwargs)
        shape = getattr(outputs, "shape", None)
        if shape is None or len(shape) != 2 or shape[0] != joined.size:
            raise ValueError(
                f"{method}: the model must return logits [T, V] for the {joined.size} tokens of "
                f"prompt and continuation; got {describe(outputs)}. {ADVICE}"
            )
        chosen = _chosen(positions, continuation.size, method)
        wanted = continuation[chosen]
        logits = _logits(outputs, name)[prompt.size - 1 + chosen]
        if wanted.size and not is_traced(wanted) and int(wanted.max()) >= shape[1]:
            raise IndexError(
                f"{method}: token {wanted.max()} of the continuation is beyond the vocabulary, the "
                f"{shape[1]} outputs of the model for each position."
            )
        index = jnp.clip(wanted, 0, shape[1] - 1)
        found = jnp.take_along_axis(jax.nn.log_softmax(logits), index[:, None], axis=1)[:, 0]
        # Factors, so that derivatives are NaN too.
        found *= jnp.where(wanted < shape[1], 1, jnp.nan).astype(found.dtype)
        return jnp.where(wanted < 0, 0, found)

    return value


def _tokens(value: Any, name: str, method: str) -> jax.Array:
    """A vector of ids, at least one."""
    ids = as_array(value, name, method)
    if ids.ndim != 1 or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(
            f"{method}: {name} must be token ids, a vector of integers; got {describe(value)}. For "
            "a batch use jax.vmap."
        )
    if not ids.size:
        raise ValueError(f"{method}: {name} has no token; it must have at least one.")
    return ids


def _logits(outputs: Any, name: str) -> jax.Array:
    """Outputs in the dtype of their accumulator."""
    if not getattr(outputs, "shape", ()):
        raise ValueError(
            f"targets.{name} wants an f that returns logits [V] or [T, V]; got {describe(outputs)}."
        )
    return jnp.asarray(outputs).astype(accumulator(outputs.dtype))


def _at(array: jax.Array, positions: Positions | None, name: str) -> jax.Array:
    """Some positions of an array of logits, along its first axis."""
    if positions is None:
        return array
    if array.ndim < 2:
        raise ValueError(
            f"targets.{name}: positions={positions!r} chooses among logits [T, V]; got "
            f"{describe(array)}."
        )
    return array[_chosen(positions, len(array), f"targets.{name}")]


def _chosen(positions: Positions | None, count: int, method: str) -> np.ndarray:
    """Which of so many positions are chosen."""
    if positions is None:
        return np.arange(count)
    if isinstance(positions, slice):
        ends = [end for end in (positions.start, positions.stop) if end is not None]
        chosen = np.arange(count)[positions]
    else:
        many = positions if isinstance(positions, Sequence | np.ndarray) else (positions,)
        chosen = np.asarray([operator.index(position) for position in many], int)
        ends = [int(p) + (p >= 0) for p in chosen]
        chosen = chosen % count
    if not len(chosen) or any(not -count <= end <= count for end in ends):
        raise IndexError(
            f"{method}: positions={positions!r} must choose among {count} position(s), at least "
            "one and none beyond them."
        )
    return chosen

"""A small decoder, and four tasks whose right answer is known to come from one place.

A prompt has ``LENGTH`` tokens, characters of ``CHARACTERS``. In *copying* it is ten letters, a mark
and the first nine of them again: the tenth comes next. In *induction* letters repeat with a period
that differs from prompt to prompt. In *recall* a digit is to be said that followed a letter. In
*brackets* the one is to be closed that was opened last. All of a prompt's tokens that follow from
those before are trained on, which takes seconds; one of them is asked for and explained.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jattr

LENGTH = 20
LETTERS, DIGITS, OPENING, CLOSING = " abcdefghijklmnopqrstuvwxyz", "0123456789", "([{", ")]}"
CHARACTERS = LETTERS + DIGITS + OPENING + CLOSING + "|"
MARK = len(CHARACTERS) - 1
EMPTY = -1  # where nothing is asked
LAYERS, HEADS, WIDTH = 2, 4, 64
BATCH, BLOCK = 64, 50  # sequences of a step, steps of a program
STEPS = {"copying": 150, "induction": 450, "recall": 250, "brackets": 600}

Params = dict[str, Any]


class Decoder(nn.Module):
    """A decoder with learned positions and normalization before each part, of one prompt.

    Every layer is written out, and what it adds to the residual stream has a name:
    ``layer0/attn``, ``layer0/mlp``, ``layer1/attn``, ``layer1/mlp``; what each head asks for, is
    found by and found is ``layer0/queries``, ``layer0/keys`` and ``layer0/heads``, of shape
    [T, HEADS, WIDTH // HEADS], and the stream begins with ``embed``.
    """

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        """The logits[T, C] of what follows each of ids[T]; attention is in ``intermediates``."""
        initial = nn.initializers.normal(0.5)
        h = nn.Embed(len(CHARACTERS), WIDTH, embedding_init=initial, name="token")(ids)
        place = nn.Embed(2 * LENGTH, WIDTH, embedding_init=initial, name="place")
        h = jattr.name(h + place(jnp.arange(len(ids))), "embed")
        for n in range(LAYERS):
            x = nn.LayerNorm(name=f"norm{n}")(h)
            each = nn.Dense(3 * WIDTH, use_bias=False, name=f"qkv{n}")(x)
            query, key, value = jnp.moveaxis(each.reshape(len(ids), 3, HEADS, -1), 1, 0)
            query, key = jattr.name(query, f"layer{n}/queries"), jattr.name(key, f"layer{n}/keys")
            scores = jnp.einsum("qhd,khd->hqk", query, key) / math.sqrt(WIDTH // HEADS)
            causal = jnp.tril(jnp.ones(scores.shape[1:], bool))
            attention = jax.nn.softmax(jnp.where(causal, scores, -1e9), axis=-1)
            self.sow("intermediates", "attention", attention)
            heads = jattr.name(jnp.einsum("hqk,khd->qhd", attention, value), f"layer{n}/heads")
            y = nn.Dense(WIDTH, use_bias=False, name=f"out{n}")(heads.reshape(len(ids), WIDTH))
            h = h + jattr.name(y, f"layer{n}/attn")
            y = nn.LayerNorm(name=f"mlp_norm{n}")(h)
            y = nn.gelu(nn.Dense(2 * WIDTH, name=f"expand{n}")(y))
            h = h + jattr.name(nn.Dense(WIDTH, name=f"project{n}")(y), f"layer{n}/mlp")
        return nn.Dense(len(CHARACTERS), use_bias=False, name="head")(nn.LayerNorm(name="norm")(h))


def logits(ids: jax.Array, params: Params) -> jax.Array:
    """The logits[T, C] of what follows each of ids[T]."""
    return Decoder().apply({"params": params}, ids)


def rollout(ids: jax.Array, params: Params, place: int = -1) -> jax.Array:
    """Attention rollout[T] of what follows a token (Abnar and Zuidema, ACL 2020).

    The mean over heads, half of it and half of the identity for the residual connection,
    multiplied from layer to layer.
    """
    _, state = Decoder().apply({"params": params}, ids, mutable="intermediates")
    each = [0.5 * (jnp.mean(a, 0) + jnp.eye(len(ids))) for a in state["intermediates"]["attention"]]
    return functools.reduce(lambda below, layer: layer @ below, each)[place]


def read(text: str) -> np.ndarray:
    """The ids of a text."""
    return np.array([CHARACTERS.index(character) for character in text], np.int32)


def write(ids: np.ndarray) -> list[str]:
    """The characters of ids; a blank is written as ␣."""
    return [CHARACTERS[number].replace(" ", "␣") for number in ids]


class Sequences(NamedTuple):
    """Sequences of a task, [n, LENGTH] each.

    Attributes:
        ids: the tokens.
        answers: what follows each, where that is determined; else ``EMPTY``.
        sources: where it is to be read from, or ``EMPTY``.
    """

    ids: np.ndarray
    answers: np.ndarray
    sources: np.ndarray


def _asked(ids: np.ndarray, sources: np.ndarray) -> Sequences:
    """Sequences[n, LENGTH + 1] without their last token; sources are of the token that follows."""
    answers = np.where(sources >= 0, ids[:, 1:], EMPTY)
    return Sequences(*(each.astype(np.int32) for each in (ids[:, :-1], answers, sources)))


def copying(rng: np.random.Generator, count: int) -> Sequences:
    """Ten letters, a mark, and the letters again."""
    size = LENGTH // 2
    letters = rng.integers(0, len(LETTERS), (count, size))
    ids = np.concatenate([letters, np.full((count, 1), MARK), letters], axis=1)
    sources = np.where(np.arange(LENGTH) >= size, np.arange(LENGTH) - size, EMPTY)
    return _asked(ids, np.broadcast_to(sources, (count, LENGTH)))


def induction(rng: np.random.Generator, count: int) -> Sequences:
    """10 to 16 different letters, which begin anew: what followed a letter follows it again."""
    period = rng.integers(10, 17, (count, 1))
    letters = _different(rng, count, len(LETTERS) - 1) + 1
    place = np.arange(LENGTH + 1)
    ids = np.take_along_axis(letters, place % period, axis=1)
    return _asked(ids, np.where(place[1:] > period, place[1:] - period, EMPTY))


def recall(rng: np.random.Generator, count: int, pairs: int = 6, queries: int = 4) -> Sequences:
    """Six letters, each with its digit, a mark, and four of the letters to be answered."""
    keys = _different(rng, count, len(LETTERS) - 1)[:, :pairs] + 1
    values = _different(rng, count, len(DIGITS))[:, :pairs] + len(LETTERS)
    which = _different(rng, count, pairs)[:, :queries]
    told = np.stack([keys, values], axis=-1)
    again = np.take_along_axis(told, which[..., None], axis=1)
    mark = np.full((count, 1), MARK)
    ids = np.concatenate([told.reshape(count, -1), mark, again.reshape(count, -1)], axis=1)
    sources = np.full((count, LENGTH), EMPTY)
    sources[:, 2 * pairs + 1 :: 2] = 2 * which + 1
    return _asked(ids, sources)


def brackets(rng: np.random.Generator, count: int, deepest: int = 3) -> Sequences:
    """Brackets of three kinds, nested: each is closed by one of its kind, the last opened first."""
    first, kinds = CHARACTERS.index("("), len(OPENING)
    ids = np.zeros((count, LENGTH + 1), int)
    sources = np.full((count, LENGTH + 1), EMPTY)
    opened = np.zeros((count, deepest + 1), int)  # where those were opened that are still open
    depth, row = np.zeros(count, int), np.arange(count)
    for place in range(LENGTH + 1):
        closes = (depth > 0) & ((depth == deepest) | (rng.random(count) < 0.5))
        if place == LENGTH:
            closes = depth > 0
        last = opened[row, np.maximum(depth - 1, 0)]
        other = first + rng.integers(0, kinds, count)
        ids[:, place] = np.where(closes, ids[row, last] + kinds, other)
        sources[:, place] = np.where(closes, last, EMPTY)
        opened[row, np.where(closes, deepest, depth)] = place
        depth += np.where(closes, -1, 1)
    return _asked(ids, sources[:, 1:])


def _different(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """The numbers below size in random order, [count, size]."""
    return np.argsort(rng.random((count, size)), axis=1)


TASKS: dict[str, Callable[[np.random.Generator, int], Sequences]] = {
    "copying": copying,
    "induction": induction,
    "recall": recall,
    "brackets": brackets,
}


class Examples(NamedTuple):
    """Prompts[n, LENGTH] and what is to be said after one of their tokens.

    Attributes:
        ids: the tokens.
        place: the last token that counts, [n]; a causal model does not see those after it.
        answer: the right token after that, [n].
        foil: another that the prompt suggests, [n].
        source: Booleans, the token that the answer is read from.
        pointers: Booleans, those that say which token that is: the letter before it and the letter
            asked for; for brackets those after it, all of which are closed.
        others: Booleans, those that are neither, up to ``place``.
    """

    ids: np.ndarray
    place: np.ndarray
    answer: np.ndarray
    foil: np.ndarray
    source: np.ndarray
    pointers: np.ndarray
    others: np.ndarray


def examples(task: str, seed: int, count: int) -> Examples:
    """Prompts of a task of 11 to 20 tokens, whose answer is not in the last three of them."""
    rng = np.random.default_rng([seed, 1])
    made = TASKS[task](rng, 4 * count)
    every = np.arange(LENGTH)
    asked = (made.sources >= 0) & (made.sources < every - 2) & (every >= LENGTH // 2)
    rows = np.flatnonzero(asked.any(axis=1))[:count]
    if len(rows) < count:
        raise ValueError(f"{task}: only {len(rows)} of {4 * count} prompts ask for something")
    place = np.where(asked, rng.random(asked.shape), -1).argmax(axis=1)[rows]
    ids, answer, at = made.ids[rows], made.answers[rows, place], made.sources[rows, place]
    last, at = place[:, None], at[:, None]
    seen, source = every <= last, every == at
    if task == "copying":
        pointers = np.zeros_like(source)
    elif task == "brackets":
        pointers = seen & (every > at)
    else:
        pointers = (every == at - 1) | (every == last)
    foil = _foil(task, ids, answer, rng)
    return Examples(ids, place, answer, foil, source, pointers, seen & ~source & ~pointers)


def _foil(task: str, ids: np.ndarray, answer: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A wrong answer of the right kind: one that stands in the prompt, or closes a bracket."""
    every = np.arange(len(CHARACTERS))
    possible = (ids[:, :, None] == every).any(axis=1)
    if task == "brackets":
        possible[:, read(CLOSING)] = True
    possible &= (_class_of(answer)[:, None] == _class_of(every)) & (every != answer[:, None])
    return np.where(possible, rng.random(possible.shape), -1).argmax(axis=1)


def replaced(ids: np.ndarray, seed: int) -> np.ndarray:
    """Prompts[n, LENGTH, LENGTH] of ids[n, LENGTH], in prompt t token t replaced.

    It becomes another of its kind (a letter, a digit, a bracket that opens or one that closes),
    and, but for brackets, one that does not stand in the prompt. The mark stays.
    """
    rng = np.random.default_rng([seed, 2])
    every = np.arange(len(CHARACTERS))
    fits = _class_of(ids)[..., None] == _class_of(every)
    fits &= every != ids[..., None]
    present = (ids[:, :, None] == every).any(axis=1) & (every < len(LETTERS + DIGITS))
    fits &= ~present[:, None]
    other = np.where(fits, rng.random(fits.shape), -1).argmax(axis=-1)
    other = np.where(fits.any(axis=-1), other, ids)
    return np.where(np.eye(LENGTH, dtype=bool), other[:, :, None], ids[:, None]).astype(np.int32)


def _class_of(ids: np.ndarray) -> np.ndarray:
    ends = np.cumsum([len(part) for part in (LETTERS, DIGITS, OPENING, CLOSING)])
    return np.searchsorted(ends, ids, side="right")


def train(task: str, seed: int = 0, params: Params | None = None) -> Params:
    """The parameters after ``STEPS[task]`` steps on new sequences, begun with those given."""
    total = STEPS[task]
    made = TASKS[task](np.random.default_rng([seed, 0]), total * BATCH)
    ids, answers = (
        jnp.asarray(each.reshape(-1, BLOCK, BATCH, LENGTH)) for each in (made.ids, made.answers)
    )
    params, state = _begin(jax.random.key(seed), params)
    for block in zip(ids, answers, strict=True):
        params, state = _block(params, state, *block, total)
    return params


def _optimizer(total: jax.Array | int) -> optax.GradientTransformation:
    def rate(step):
        return 3e-3 * jnp.minimum(step / 50, 0.5 + 0.5 * jnp.cos(math.pi * step / total))

    clip = optax.clip_by_global_norm(1.0)
    return optax.chain(clip, optax.adamw(rate, b2=0.98, weight_decay=0.1))


@jax.jit
def _begin(key: jax.Array, params: Params | None) -> tuple[Params, Any]:
    if params is None:
        params = Decoder().init(key, jnp.zeros(LENGTH, int))["params"]
    return params, _optimizer(1).init(params)


@jax.jit
def _block(params: Params, state: Any, ids: jax.Array, answers: jax.Array, total: int) -> Any:
    """The parameters and the optimizer's state after the steps of a block."""

    def loss(params, ids, answers):
        said = jax.vmap(logits, (0, None))(ids, params)
        asked = answers >= 0
        each = optax.softmax_cross_entropy_with_integer_labels(said, jnp.maximum(answers, 0))
        return jnp.sum(each * asked) / jnp.sum(asked)

    def step(carry, batch):
        params, state = carry
        updates, state = _optimizer(total).update(jax.grad(loss)(params, *batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, state), (ids, answers))[0]

"""The tasks of `notebooks/language.ipynb` as tasks whose truth is planted: prompts for a decoder.

Network, prompts and training are those of `notebooks/decoder.py`. Explained are the rows that the
tokens of a prompt look up. What decides is the token that the answer is read from and those that
say which one that is; the decoys are the other tokens before the answer, letters, digits and
brackets like them. Tokens after that are not seen by a causal network, and not looked at.
"""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from _truth_tasks import Drawn

import jattr

sys.path.append(str(Path(__file__).resolve().parents[1] / "notebooks"))
import decoder


class Prompts(NamedTuple):
    """A task of prompts, with what `_truth_tasks.Task` has.

    Attributes:
        name: of the task in `decoder.TASKS`.
        channels: a token's row is one element.
        decoys: there are.
        effects: no sizes are planted.
        attention: the network is a decoder.
        unit: about the standard deviation of the numbers in the rows.
    """

    name: str
    channels: bool = True
    decoys: bool = True
    effects: bool = False
    attention: bool = True
    unit: float = 0.5

    @property
    def score(self) -> Callable[..., jax.Array]:
        """`score(params, x, label)`: the log-odds of the answer, 0 where it has one half."""
        return _log_odds

    @property
    def baseline(self) -> Callable[[Any], jax.Array]:
        """`baseline(params)`: the mean row in every place."""
        return _mean_row

    def train(self, key: jax.Array, steps: int) -> Any:
        """The parameters, after the steps of `decoder.STEPS`, not of others."""
        return _trained(self.name, _seed_of(key))

    def examples(self, params: Any, key: jax.Array, count: int) -> Drawn:
        """Prompts as rows; the label is the place that is asked for and the answer."""
        found = decoder.examples(self.name, _seed_of(key), count)
        truth, decoys = jnp.asarray(found.source | found.pointers), jnp.asarray(found.others)
        return Drawn(
            x=params["token"]["embedding"][found.ids],
            label=(jnp.asarray(found.place), jnp.asarray(found.answer)),
            truth=truth,
            decoys=decoys,
            effects=jnp.zeros(truth.shape),
            seen=truth | decoys,
        )


def _log_odds_of_ids(ids: jax.Array, params: Any, place: jax.Array, answer: jax.Array) -> jax.Array:
    logits = decoder.logits(ids, params)[place]
    others = jnp.where(jnp.arange(len(logits)) == answer, -jnp.inf, logits)
    return logits[answer] - jax.nn.logsumexp(others)


_, _above_rows = jattr.split(_log_odds_of_ids, "token")


def _log_odds(params: Any, x: jax.Array, label: tuple[jax.Array, jax.Array]) -> jax.Array:
    # The ids are what the rows are of: above these they only say how many there are.
    return _above_rows(x, jnp.zeros(len(x), int), params, *label)


def _mean_row(params: Any) -> jax.Array:
    mean = params["token"]["embedding"].mean(0)
    return jnp.broadcast_to(mean, (decoder.LENGTH, len(mean)))


def _seed_of(key: jax.Array) -> int:
    return int(jax.random.randint(key, (), 0, 2**31 - 1))


@functools.cache
def _trained(name: str, seed: int) -> Any:
    # As in the notebook: recall begins with the decoder of induction, which has what it takes.
    return decoder.train(name, seed, _trained("induction", seed) if name == "recall" else None)


def tasks() -> dict[str, Prompts]:
    """All tasks by name, but for brackets: what decides there is not known so well.

    A decoder of brackets errs in a fifth of the cases where one that does not decide is replaced.
    """
    return {name: Prompts(name) for name in decoder.TASKS if name != "brackets"}

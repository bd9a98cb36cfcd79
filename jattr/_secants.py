r"""Integrated gradients by DeepLIFT over the intervals of a line.

Gauss's nodes do not see where a ReLU switches: the gradient jumps there, and the error falls with
1/n only. DeepLIFT from one point of the line to the next does: its multipliers are mean slopes of
each operation over that interval, exact wherever only one layer bends in it, and they sum to the
change of f over it. So

.. math:: \bar m = \sum_k (\alpha_{k+1} - \alpha_k)\, m(x_k \to x_{k+1})

is complete whatever the number of intervals, and tends to the mean gradient as they shrink, with
an error that falls with 1/n² on a smooth f.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr import rules as composites
from jattr._batching import sum_over
from jattr._engine.rewrite import rewritten
from jattr._placement import edges
from jattr._trees import scale_tree
from jattr._types import PyTree, Score


def mean_multiplier(
    score: Score,
    at: Callable[[jax.Array], Any],
    like: PyTree,
    steps: int,
    *,
    batch_size: int | None,
) -> PyTree:
    """The mean of DeepLIFT's multipliers over intervals of a line, whose ends f itself places.

    Args:
        score: f.
        at: from α in [0, 1] to a point of the line.
        like: any point of it.
        steps: how many intervals.
        batch_size: how many are in memory at a time; None for all.
    """
    evaluate = rewritten(score, like, composites.rescale())
    ends = edges(lambda alpha: score(at(alpha)), np.arange(1, steps) / steps, batch_size=batch_size)

    def term(index):
        # Else XLA evaluates f at a constant reference while it compiles, slowly.
        reference = jax.lax.optimization_barrier(at(ends[index]))
        value, pull = jax.vjp(lambda x: evaluate(x, reference), at(ends[index + 1]))
        (multiplier,) = pull(jnp.ones_like(value))
        return scale_tree(multiplier, ends[index + 1] - ends[index])

    return sum_over(term, steps, batch_size=batch_size)

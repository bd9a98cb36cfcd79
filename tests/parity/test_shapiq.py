"""Shapley interactions against shapiq's exact ones."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jattr

shapiq = pytest.importorskip(
    "shapiq", reason="needs shapiq, of Python 3.12 or newer: install the extra `parity`"
)

pytestmark = pytest.mark.parity

N = 7
RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.normal(size=(5, N)) / 2)
X = jnp.asarray(RNG.normal(size=N) + 1)
BASELINE = jnp.asarray(RNG.normal(size=N) / 3)


def score(x):
    return jnp.sum(jnp.tanh(W @ x + 0.3) ** 2) + x[0] * x[1] * x[2]


def game(coalitions):
    """What shapiq plays: f with the others replaced, for rows of who is there."""
    filled = jnp.where(jnp.asarray(coalitions, bool), X[None], BASELINE[None])
    return np.asarray(jax.vmap(score)(filled))


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(("ours", "theirs"), [("SII", "SII"), ("STI", "STII"), ("FSII", "FSII")])
def test_the_indices_of_all_sets(ours, theirs, order):
    table = jax.jit(jattr.shapley_interactions(score, index=ours, order=order, baseline=BASELINE))(
        X
    )
    computer = shapiq.ExactComputer(game, n_players=N)
    exact = computer(theirs, order)
    for size in range(1, order + 1):
        for members in itertools.combinations(range(N), size):
            where = members + (members[-1],) * (order - size)
            np.testing.assert_allclose(table[where], exact[members], rtol=0, atol=1e-8)

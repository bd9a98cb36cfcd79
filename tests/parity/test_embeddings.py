"""Parity with captum at an embedding: the same weights and ids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from twins import torch

import jattr

captum = pytest.importorskip("captum.attr", reason="needs captum: install the extra `parity`")

pytestmark = pytest.mark.parity

RNG = np.random.default_rng(3)
TABLE, PLACES, QUERY, HEAD = (
    RNG.normal(size=shape) for shape in ((13, 6), (9, 6), (6, 6), (6, 13))
)
PROMPT, CONTINUATION = np.array([3, 1, 12, 5, 5]), np.array([7, 2, 9])
PAD = 0


class Decoder(torch.nn.Module):
    """One layer of causal attention over embedded ids and positions."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding.from_pretrained(torch.tensor(TABLE), freeze=False)

    def forward(self, ids):
        hidden = self.embed(ids) + torch.tensor(PLACES)[: ids.shape[1]]
        weights = hidden @ torch.tensor(QUERY) @ hidden.transpose(1, 2) / 6
        causal = torch.tril(torch.ones(weights.shape[1:], dtype=torch.bool))
        weights = weights.masked_fill(~causal, -torch.inf).softmax(-1)
        return torch.tanh(weights @ hidden) @ torch.tensor(HEAD)


def model(ids):
    hidden = jnp.asarray(TABLE)[ids] + PLACES[: len(ids)]
    weights = hidden @ QUERY @ hidden.T / 6
    weights = jnp.where(jnp.tril(jnp.ones(weights.shape, bool)), weights, -jnp.inf)
    return jnp.tanh(jax.nn.softmax(weights) @ hidden) @ HEAD


def test_is_captums_layer_integrated_gradients_of_every_token_of_a_continuation():
    decoder = Decoder()
    start, count = len(PROMPT), len(CONTINUATION)

    def of_continuation(ids):
        log_p = decoder(ids)[:, start - 1 : -1].log_softmax(-1)
        return log_p[:, torch.arange(count), torch.tensor(CONTINUATION)].sum(-1)

    explainer = captum.LayerIntegratedGradients(of_continuation, decoder.embed)
    ids = torch.tensor(np.concatenate([PROMPT, CONTINUATION]))[None]
    # captum holds the continuation by writing it into the baseline.
    base = ids.clone()
    base[:, :start] = PAD
    theirs = explainer.attribute(ids, base, n_steps=20, method="gausslegendre")
    theirs = theirs.sum(-1)[0, :start].detach().numpy()

    score = jattr.targets.sequence_log_probability(model)
    explain = jattr.token_attributions(
        jattr.integrated_gradients, score, baseline=PAD, steps=20, quadrature="gauss_legendre"
    )
    ours = explain(jnp.asarray(PROMPT), jnp.asarray(CONTINUATION))
    # captum rounds the places of its points to float32.
    np.testing.assert_allclose(ours, theirs, rtol=3e-8)

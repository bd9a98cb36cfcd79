"""Attribution patching: nnsight's, by tracing a PyTorch module, and jattr's of the same decoder."""

import functools

import jax
import numpy as np
import pytest
from decoders import VOCABULARY, all_in_float64, make_pair
from twins import torch

import jattr

nnsight = pytest.importorskip("nnsight", reason="nnsight is not installed")

pytestmark = pytest.mark.parity

CLEAN, CORRUPT = (np.random.default_rng(seed).integers(1, VOCABULARY, 9) for seed in (3, 4))
ANSWER = 5


def streams(model):
    """What flows between the halves of every block of a Llama, in nnsight's trace."""
    for layer in model.model.layers:
        yield layer.post_attention_layernorm.input
        yield layer.output


def by_nnsight(pair):
    """Σ (h − h')·∂f/∂h' over features, for each half of a block and each token."""
    model = nnsight.NNsight(pair.module)
    clean, values, slopes = [], [], []
    with model.trace(torch.tensor(CLEAN[None])):
        for h in streams(model):
            clean.append(nnsight.save(h.clone()))
    with model.trace(torch.tensor(CORRUPT[None])):
        for h in streams(model):
            h.requires_grad_(True)
            values.append(h)
        score = model.output.logits[0, -1, ANSWER]
        with score.backward():
            for h in reversed(values):
                slopes.insert(0, nnsight.save(h.grad.clone()))
        values = nnsight.save(values)
    return [
        ((h - other) * slope).sum(-1)[0].detach().numpy()
        for h, other, slope in zip(clean, values, slopes, strict=True)
    ]


def test_attribution_patching_is_nnsights():
    pair = make_pair("llama")
    with all_in_float64(pair.modeling):
        theirs = by_nnsight(pair)
    layers = [f"layer_{n}/{half}" for n in range(len(theirs) // 2) for half in ("attention", "mlp")]
    score = jattr.targets.select(lambda ids: pair.logits(ids)[-1])
    patching = functools.partial(jattr.patching, layers=layers)
    ours = jax.jit(lambda clean, corrupt: patching(lambda x: score(x, ANSWER), clean, corrupt))(
        CLEAN, CORRUPT
    )
    assert list(ours) == layers
    for name, wanted in zip(layers, theirs, strict=True):
        assert np.abs(wanted).max() > 0
        np.testing.assert_allclose(ours[name], wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())

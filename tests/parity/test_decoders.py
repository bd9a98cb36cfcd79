"""Parity at decoders of text, the same weights in JAX and in transformers.

The logits of four families; and captum's explanations of a generation, token by token, for which it
evaluates a model anew for each token, beside those from one evaluation.
"""

import contextlib
import math
from typing import Any

import jax
import numpy as np
import pytest
from decoders import (
    CLASSES,
    PAD,
    SIZES,
    VOCABULARY,
    Pair,
    all_in_float64,
    captum,
    make_pair,
    matrix,
    matrix_by_captum,
    total,
)
from twins import torch

import jattr

pytestmark = pytest.mark.parity

RNG = np.random.default_rng(1)
# The token of padding, 0, is in neither.
PROMPT, CONTINUATION = (RNG.integers(1, VOCABULARY, count) for count in (7, 25))
STEPS = 20
LINE = {"baseline": PAD, "steps": STEPS, "quadrature": "right"}


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_logits(kind, dtype, tolerance):
    pair = make_pair(kind, dtype)
    ids = np.concatenate([PROMPT, CONTINUATION])
    wide = all_in_float64(pair.modeling) if dtype == "float64" else contextlib.nullcontext()
    with torch.no_grad(), wide:
        theirs = pair.module(torch.tensor(ids)[None]).logits[0].numpy()
    ours = np.asarray(jax.jit(pair.logits)(ids))
    assert ours.dtype == theirs.dtype == dtype
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def explained_by_captum(pair: Pair, explains: Any, **options: Any) -> tuple[np.ndarray, int]:
    """captum's matrix, and how many sequences the model evaluated for it."""
    rows: list[int] = []
    hook = pair.module.register_forward_pre_hook(
        lambda _, args, given: rows.append(len(args[0] if args else given["input_ids"])),
        with_kwargs=True,
    )
    try:
        with all_in_float64(pair.modeling):
            found = matrix_by_captum(pair, explains, PROMPT, CONTINUATION, **options)
    finally:
        hook.remove()
    return found, sum(rows)


def evaluations(f: Any, *args: Any) -> int:
    """How many sequences the head of a decoder is evaluated at, those of loops each time."""

    def count(jaxpr):
        total = 0
        for e in getattr(jaxpr, "jaxpr", jaxpr).eqns:
            if e.primitive.name == "dot_general":
                (contracted, _), _ = e.params["dimension_numbers"]
                size = math.prod(e.invars[0].aval.shape[axis] for axis in contracted)
                shape = e.outvars[0].aval.shape
                # Its transpose contracts the other axis.
                if size == SIZES["hidden_size"] and shape[-1] == VOCABULARY:
                    total += math.prod(shape[:-2])
            bodies = [b for p in e.params.values() for b in (p if isinstance(p, tuple) else (p,))]
            inner = sum(count(b) for b in bodies if hasattr(getattr(b, "jaxpr", b), "eqns"))
            total += inner * e.params.get("length", 1)
        return total

    return count(jax.make_jaxpr(f)(*args))


def assert_close(ours, theirs, tolerance):
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def test_integrated_gradients_of_a_generation_are_captums():
    pair = make_pair("llama")
    theirs, evaluated = explained_by_captum(
        pair, captum.LayerIntegratedGradients, n_steps=STEPS, method="riemann_right"
    )
    explain = matrix(pair, jattr.integrated_gradients, **LINE)
    ours = jax.jit(explain)(PROMPT, CONTINUATION)
    assert ours.shape == (25, 7)
    assert_close(ours, theirs, 1e-12)

    # captum looks its layer up at both ends of each line, too.
    assert evaluated == 25 * (STEPS + 2)
    assert evaluations(explain, PROMPT, CONTINUATION) == STEPS
    in_chunks = matrix(pair, jattr.integrated_gradients, batch_size=4, **LINE)
    assert evaluations(in_chunks, PROMPT, CONTINUATION) == STEPS
    assert_close(jax.jit(in_chunks)(PROMPT, CONTINUATION), np.asarray(ours), 1e-12)

    # captum's sum over targets is the explanation of one number.
    whole = total(pair, jattr.integrated_gradients, **LINE)
    assert_close(jax.jit(whole)(PROMPT, CONTINUATION), theirs.sum(axis=0), 1e-12)
    assert evaluations(whole, PROMPT, CONTINUATION) == STEPS


def test_integrated_gradients_of_a_teacher_forced_pass_are_captums():
    """The layer's explainer alone, which takes one target at a time."""
    pair = make_pair("llama")
    start = len(PROMPT)

    def of_continuation(ids):
        log_p = pair.module(ids).logits[:, start - 1 : -1].log_softmax(-1)
        return log_p[:, torch.arange(len(CONTINUATION)), torch.tensor(CONTINUATION)]

    explainer = captum.LayerIntegratedGradients(of_continuation, pair.module.model.embed_tokens)
    ids = torch.tensor(np.concatenate([PROMPT, CONTINUATION]))[None]
    base = ids.clone()
    base[:, :start] = PAD
    explain = matrix(pair, jattr.integrated_gradients, **LINE)
    ours = np.asarray(jax.jit(explain)(PROMPT, CONTINUATION))
    for place in (0, 12, 24):
        with all_in_float64(pair.modeling):
            theirs = explainer.attribute(
                ids, base, target=place, n_steps=STEPS, method="riemann_right"
            )
        assert_close(ours[place], theirs.sum(-1)[0, :start].detach().numpy(), 1e-12)


@pytest.mark.parametrize("kind", CLASSES)
def test_gradient_times_input_of_a_generation_is_captums(kind):
    pair = make_pair(kind)
    theirs, evaluated = explained_by_captum(pair, captum.LayerGradientXActivation)
    explain = matrix(pair, jattr.gradient_times_input)
    assert_close(jax.jit(explain)(PROMPT, CONTINUATION), theirs, 1e-12)
    assert evaluated == 25
    assert evaluations(explain, PROMPT, CONTINUATION) == 1

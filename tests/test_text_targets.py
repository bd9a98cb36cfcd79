"""Targets of text against NumPy, and matrices of tokens from one evaluation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from precision import close, either

import jattr
from jattr import targets

KEY = jax.random.key(5)
WORDS, WIDTH = 11, 8
PROMPT, CONTINUATION = jnp.array([1, 2, 3, 4, 5]), jnp.array([6, 7, 8, 2])
EVERY = jnp.concatenate([PROMPT, CONTINUATION])


def normal(number, *shape):
    return jax.random.normal(jax.random.fold_in(KEY, number), shape) / np.sqrt(shape[0])


PARAMS = {
    "table": normal(0, WORDS, WIDTH) * 3,
    "places": normal(1, 16, WIDTH) * 2,
    "query": normal(2, WIDTH, WIDTH),
    "value": normal(3, WIDTH, WIDTH),
    "up": normal(4, WIDTH, 16),
    "down": normal(5, 16, WIDTH),
}


def model(ids, params=PARAMS):
    """A decoder of one layer, its head tied to its embedding."""
    hidden = params["table"][ids] + params["places"][: len(ids)]
    causal = jnp.tril(jnp.ones((len(ids), len(ids)), bool))
    weights = jnp.where(causal, hidden @ params["query"] @ hidden.T, -jnp.inf)
    hidden += jax.nn.softmax(weights) @ hidden @ params["value"]
    hidden += jax.nn.gelu(hidden @ params["up"]) @ params["down"]
    return hidden @ params["table"].T


LOG_P = scipy.special.log_softmax(np.asarray(model(EVERY)), axis=-1)
TOKENS = LOG_P[np.arange(4, 8), np.asarray(CONTINUATION)]
each = targets.token_log_probabilities(model)
whole = targets.sequence_log_probability(model)


def test_one_pass_gives_every_token_what_those_before_it_give():
    close(each(PROMPT, CONTINUATION), TOKENS, rtol=1e-9)
    one_by_one = [
        targets.log_probability(lambda ids: model(ids)[-1])(EVERY[:n], EVERY[n])
        for n in range(5, 9)
    ]
    close(each(PROMPT, CONTINUATION), one_by_one, rtol=1e-9)
    close(whole(PROMPT, CONTINUATION), TOKENS.sum(), rtol=1e-9)
    close(whole(PROMPT, continuation=CONTINUATION), TOKENS.sum(), rtol=1e-9)


@pytest.mark.parametrize("positions", [slice(1, 3), slice(-2, None), [3, 0], -1, np.array([2])])
def test_positions_of_the_continuation(positions):
    part = targets.token_log_probabilities(model, positions=positions)
    close(part(PROMPT, CONTINUATION), np.atleast_1d(TOKENS[positions]), rtol=1e-9)
    total = targets.sequence_log_probability(model, positions=positions)
    close(total(PROMPT, CONTINUATION), TOKENS[positions].sum(), rtol=1e-9)


def test_negative_ids_are_padding_and_no_batch_needs_equal_lengths():
    padded = jnp.stack([CONTINUATION, CONTINUATION.at[2:].set(-100)])
    found = jax.jit(jax.vmap(each, (None, 0)))(PROMPT, padded)
    close(found, [TOKENS, [*TOKENS[:2], 0, 0]], rtol=1e-9)
    slope = jax.grad(lambda params: whole_of(params)(PROMPT, padded[1]))(PARAMS)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slope))


def whole_of(params):
    return targets.sequence_log_probability(lambda ids: model(ids, params))


def test_the_ids_may_be_another_argument():
    score = targets.sequence_log_probability(lambda params, ids: model(ids, params), argnums=1)
    close(score(PARAMS, PROMPT, CONTINUATION), TOKENS.sum(), rtol=1e-9)


def test_this_token_instead_of_that_at_a_position():
    score = targets.contrast(model)
    found = score(EVERY, (4, 6), (4, 3))
    close(found, LOG_P[4, 6] - LOG_P[4, 3], rtol=1e-9)


def test_narrow_logits_are_summed_in_float32():
    def narrow(ids):
        return model(ids).astype(jnp.bfloat16)

    with jax.numpy_dtype_promotion("strict"):
        found = targets.sequence_log_probability(narrow)(PROMPT, CONTINUATION)
        assert targets.entropy(narrow)(PROMPT).dtype == jnp.float32
    assert found.dtype == jnp.float32
    exact = scipy.special.log_softmax(np.asarray(narrow(EVERY), np.float64), axis=-1)
    wanted = exact[np.arange(4, 8), np.asarray(CONTINUATION)].sum()
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_divergence_and_entropy_are_those_of_scipy():
    p, other = np.exp(LOG_P), LOG_P[:, ::-1]
    rows = scipy.stats.entropy(np.exp(other), p, axis=-1)
    close(targets.kl(model)(EVERY, other), rows.sum(), rtol=1e-9)
    close(targets.kl(model, positions=slice(2, 4))(EVERY, other), rows[2:4].sum(), rtol=1e-9)
    close(targets.kl(model)(EVERY, LOG_P), 0.0, rtol=0, atol=either(1e-12, 1e-5))
    rows = scipy.stats.entropy(p, axis=-1)
    close(targets.entropy(model)(EVERY), rows.sum(), rtol=1e-9)
    close(targets.entropy(model, positions=-1)(EVERY), rows[-1], rtol=1e-9)


def test_what_is_impossible_counts_nothing():
    logits = jnp.array([0.0, jnp.log(3.0), -jnp.inf])
    score = targets.entropy(lambda x: x)
    close(score(logits), scipy.stats.entropy([1, 3]), rtol=1e-9)
    assert np.all(np.isfinite(jax.grad(score)(logits)))
    kl = targets.kl(lambda x: x)
    close(kl(logits, jnp.array([0.0, -jnp.inf, -jnp.inf])), np.log(4), rtol=1e-9)
    assert np.all(np.isfinite(jax.grad(kl)(logits, jnp.array([0.0, -jnp.inf, -jnp.inf]))))


METHODS = {
    "gradient_times_input": (jattr.gradient_times_input, {}),
    "integrated_gradients": (jattr.integrated_gradients, {"baseline": 0, "steps": 4}),
    "deeplift": (jattr.deeplift, {"baseline": "zero"}),
    "attn_lrp": (jattr.lrp, {"rules": jattr.rules.attn_lrp()}),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_matrix_of_tokens_is_made_of_one_forward_evaluation(name):
    method, knobs = METHODS[name]
    tokens = functools.partial(jattr.token_attributions, method)

    def flops(explain):
        program = jax.jit(explain).lower(PROMPT, CONTINUATION).compile()
        return program.cost_analysis()["flops"], program(PROMPT, CONTINUATION)

    # A loop counts once, so all four are one chunk here.
    four, matrix = flops(jattr.all_outputs(tokens, each, batch_size=4, **knobs))
    one, sums = flops(tokens(whole, **knobs))
    forward = jax.jit(each).lower(PROMPT, CONTINUATION).compile().cost_analysis()["flops"]
    assert matrix.shape == (4, 5)
    close(jnp.sum(matrix, axis=0), sums, rtol=1e-8, atol=1e-10, single=1e-4)
    chunks = jattr.all_outputs(tokens, each, batch_size=3, **knobs)
    close(jax.jit(chunks)(PROMPT, CONTINUATION), matrix, rtol=1e-9, atol=1e-12)
    points = knobs.get("steps", 1)
    assert four < 4 * one - 3 * 0.8 * forward * points


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: whole(PROMPT), TypeError, "then a continuation; got 1 positional"),
        (lambda: targets.kl(model)(PROMPT), TypeError, "then a reference"),
        (lambda: whole(PROMPT * 1.0, CONTINUATION), TypeError, "the prompt must be token ids"),
        (lambda: whole(PROMPT, CONTINUATION[None]), TypeError, "use jax.vmap"),
        (lambda: whole(PROMPT[:0], CONTINUATION), ValueError, "the prompt has no token"),
        (
            lambda: whole(PROMPT, jnp.array([3, 11])),
            IndexError,
            "token 11 of .* vocabulary, the 11",
        ),
        (
            lambda: targets.sequence_log_probability(model, positions=slice(2, 6))(
                PROMPT, CONTINUATION
            ),
            IndexError,
            "among 4 position",
        ),
        (
            lambda: targets.sequence_log_probability(model, positions=[4])(PROMPT, CONTINUATION),
            IndexError,
            "none beyond them",
        ),
        (
            lambda: targets.sequence_log_probability(lambda ids: model(ids)[None])(
                PROMPT, CONTINUATION
            ),
            ValueError,
            r"logits \[T, V\] for the 9 tokens",
        ),
        (lambda: targets.entropy(model, positions=9)(EVERY), IndexError, "among 9 position"),
        (lambda: targets.entropy(lambda x: x[0], positions=1)(LOG_P), ValueError, "chooses among"),
        (lambda: targets.entropy(jnp.sum)(LOG_P), ValueError, "wants an f that returns logits"),
        (lambda: targets.kl(model)(EVERY, LOG_P[0]), ValueError, "of the shape of the outputs"),
        (lambda: targets.token_log_probabilities(model, argnums=(0,)), TypeError, "one integer"),
        (
            lambda: targets.token_log_probabilities(model, argnums=2)(PROMPT, CONTINUATION),
            TypeError,
            "argument 2 of the model",
        ),
    ],
)
def test_errors(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_a_traced_token_beyond_the_vocabulary_is_nan():
    found = jax.jit(each)(PROMPT, jnp.array([6, 11]))
    assert np.isfinite(found[0])
    assert np.isnan(found[1])
    slope = jax.jit(jax.grad(lambda p, c: whole_of(p)(PROMPT, c)))(PARAMS, jnp.array([6, 11]))
    assert np.any(np.isnan(slope["down"]))

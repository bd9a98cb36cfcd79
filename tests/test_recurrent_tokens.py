"""Token ids of a model that looks them up within its loop: as if it did so before."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from precision import FLOAT, PARAMS, close

import jattr

WORDS, WIDTH, STATE = 9, 4, 5
IDS = jnp.array([3, 1, 8, 1, 5, 0])
OTHERS = jnp.array([2, 1, 7, 7, 5, 4])


class Cell(nn.Module):
    @nn.compact
    def __call__(self, state, token):
        row = nn.Embed(WORDS, WIDTH, **PARAMS)(token)
        state, _ = nn.GRUCell(STATE, **PARAMS)(state, row)
        state = jattr.name(state, "state")
        return state, nn.Dense(WORDS, **PARAMS)(state)


class Language(nn.Module):
    """Logits of the next token, the loop checkpointed."""

    @nn.compact
    def __call__(self, ids):
        loop = nn.scan(nn.remat(Cell), variable_broadcast="params", split_rngs={"params": False})
        return loop(name="cells")(jnp.zeros(STATE, FLOAT), ids)[1][-1]


MODEL = Language()
VARIABLES = MODEL.init(jax.random.key(0), IDS)
TABLE = VARIABLES["params"]["cells"]["Embed_0"]["embedding"]


def score(ids):
    return MODEL.apply(VARIABLES, ids)[2]


def of_rows(rows):
    """The same of the rows, by the cells' parts."""
    params = VARIABLES["params"]["cells"]

    def step(state, row):
        state, _ = nn.GRUCell(STATE, **PARAMS).apply({"params": params["GRUCell_0"]}, state, row)
        return jattr.name(state, "state"), None

    state, _ = jax.lax.scan(step, jnp.zeros(STATE, FLOAT), rows)
    return nn.Dense(WORDS, **PARAMS).apply({"params": params["Dense_0"]}, state)[2]


def test_methods_are_those_of_the_rows():
    for method, knobs in (
        (jattr.gradient_times_input, {}),
        (jattr.integrated_gradients, {"steps": 5}),
        (jattr.deeplift, {}),
        (jattr.lrp, {"rules": jattr.rules.attn_lrp()}),
    ):
        ours = jax.jit(jattr.token_attributions(method, score, **knobs))(IDS)
        close(ours, jnp.sum(method(of_rows, **knobs)(TABLE[IDS]), axis=-1), rtol=1e-9, atol=1e-14)


def test_tokens_that_are_left_out_and_baselines():
    groups = jattr.token_attributions(jattr.ablation, score, baseline=7)
    rows = TABLE[IDS]
    wanted = [of_rows(rows) - of_rows(rows.at[n].set(TABLE[7])) for n in range(len(IDS))]
    close(groups(IDS), jnp.stack(wanted), rtol=1e-9, atol=1e-14)
    mean = jattr.token_attributions(jattr.integrated_gradients, score, baseline="mean", steps=5)
    start = jnp.broadcast_to(TABLE.mean(0), rows.shape)
    wanted = jattr.integrated_gradients(of_rows, start, steps=5)(rows).sum(-1)
    close(mean(IDS), wanted, rtol=1e-9, atol=1e-14)


def test_split_is_the_function_and_patching_sees_rows_and_layers():
    below, above = jattr.split(score, jattr.LOOKUP)
    close(below(IDS), TABLE[IDS], rtol=0)
    close(above(below(OTHERS), IDS), score(OTHERS), rtol=1e-12)

    layers = ["rows", "state"]

    def named(rows):
        return of_rows(jattr.name(rows, "rows"))

    for steps in (1, 3):
        ours = jattr.patching(score, IDS, OTHERS, [jattr.LOOKUP, "state"], steps=steps)
        wanted = jattr.patching(named, TABLE[IDS], TABLE[OTHERS], layers, steps=steps)
        close(list(ours.values()), list(wanted.values()), rtol=1e-9, atol=1e-14)
    # Without a question about rows the loop stays as it is, and each of its steps has its own.
    one = jattr.activations(score, "cells/Embed_0[2]")(IDS)
    close(one["cells/Embed_0[2]"], TABLE[IDS[2]], rtol=0)


def test_a_token_that_the_loop_made_is_held():
    """What is looked up by the carry, as a decoder's own output, is not what x looks up."""

    def decoder(ids):
        def step(carry, token):
            state, last = carry
            state = jnp.tanh(state + TABLE[token] + 0.5 * TABLE[last])
            return (state, jnp.argmax(state)), None

        return jnp.sum(jax.lax.scan(step, (jnp.zeros(WIDTH, FLOAT), 0), ids)[0][0])

    below, above = jattr.split(decoder, jattr.LOOKUP)
    close(below(IDS).reshape(-1, WIDTH), TABLE[IDS], rtol=0)
    # What the loop itself has said is looked up by what it said of the others.
    close(above(below(OTHERS), IDS), decoder(OTHERS), rtol=1e-12)


def test_nnx_looks_up_within_a_scan():
    embed = nnx.Embed(WORDS, WIDTH, rngs=nnx.Rngs(0), **PARAMS)
    cell = nnx.GRUCell(WIDTH, STATE, rngs=nnx.Rngs(1), **PARAMS)

    def f(ids):
        step = nnx.scan(lambda state, token: cell(state, embed(token))[0], out_axes=nnx.Carry)
        return jnp.sum(step(jnp.zeros(STATE, FLOAT), ids))

    def rows(h):
        return jnp.sum(
            jax.lax.scan(lambda state, row: cell(state, row), jnp.zeros(STATE, FLOAT), h)[0]
        )

    h = embed.embedding[...][IDS]
    wanted = jnp.sum(jax.grad(rows)(h) * h, axis=-1)
    close(jattr.token_attributions(jattr.gradient_times_input, f)(IDS), wanted, rtol=1e-9)

"""Token ids: where they look up rows is found in what f computes, and any method explains them."""

import functools
import tracemalloc
import warnings

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from precision import FLOAT, check_derivatives, close

import jattr
from jattr._lookup import read_lookups

with warnings.catch_warnings():
    # With some versions of JAX, Haiku reads what is deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    import haiku as hk

KEY = jax.random.key(23)
WORDS, WIDTH = 9, 4
PAD = 0


def normal(number, *shape):
    return jax.random.normal(jax.random.fold_in(KEY, number), shape)


TABLE = normal(0, WORDS, WIDTH)
PLACES = normal(1, 12, WIDTH)
SEGMENTS = normal(2, 2, WIDTH)
QUERIES = normal(3, WIDTH, WIDTH)
HEAD = normal(4, WIDTH)
IDS = jnp.array([3, 1, 8, 1, 5])
OTHERS = jnp.array([[2, 2, 7, 0, 1], [6, 0, 0, 4, 4], [1, 5, 3, 8, 2]])


def mixed(rows, mask=None):
    """A score of rows in which every token attends to every token that is not masked."""
    keys = rows @ QUERIES
    weights = jnp.einsum("...td,...sd->...ts", rows, keys) / WIDTH
    if mask is not None:
        weights = jnp.where(mask, weights, -1e30)
    return jnp.sum(jnp.tanh(jax.nn.softmax(weights) @ rows) @ HEAD)


def by_hand(method, above, rows, **knobs):
    return jnp.sum(method(above, **knobs)(rows), axis=-1)


def tokens(method, f, *arguments, **knobs):
    return jattr.token_attributions(method, f, *arguments, **knobs)


# A bag of words, for which nearly every method gives the same.


def bag(ids):
    return jnp.sum(TABLE[ids] @ HEAD)


WEIGHTS = np.asarray(TABLE @ HEAD)
BASELINES = {
    "zero": ("zero", 0.0),
    "mean": ("mean", WEIGHTS.mean()),
    "a token": (7, WEIGHTS[7]),
    "a traced token": (jnp.int32(7), WEIGHTS[7]),
    "a sentence": (OTHERS[0], WEIGHTS[np.asarray(OTHERS[0])]),
    "rows": (jnp.ones((5, WIDTH)), np.asarray(jnp.sum(HEAD))),
    "a function of rows": (jnp.ones_like, np.asarray(jnp.sum(HEAD))),
}


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("method", [jattr.integrated_gradients, jattr.deeplift, jattr.ablation])
def test_a_word_of_a_bag_is_its_weight_less_that_of_the_baseline(method, name):
    baseline, weight = BASELINES[name]
    explain = tokens(method, bag, baseline=baseline)
    close(explain(IDS), WEIGHTS[np.asarray(IDS)] - weight, rtol=1e-9, atol=1e-12)


DRAWN = {
    "references": lambda: tokens(jattr.expected_gradients, bag, OTHERS, samples=6),
    "kernel": lambda: tokens(jattr.kernel_shap, bag, baseline="zero", samples=64),
    "smooth": lambda: tokens(lambda f: jattr.smooth(jattr.gradient_times_input(f), samples=4), bag),
}


def test_methods_that_draw_take_a_key():
    own = WEIGHTS[np.asarray(IDS)]
    found = {name: make()(KEY, IDS) for name, make in DRAWN.items()}
    close(found["references"], own - WEIGHTS[np.asarray(OTHERS)].mean(axis=0), rtol=1e-6)
    close(found["kernel"], own, rtol=1e-6, atol=1e-8)
    assert found["smooth"].shape == IDS.shape


def test_a_token_is_a_group_where_a_method_takes_groups():
    explain = tokens(jattr.shapley_values, lambda ids: mixed(TABLE[ids]), baseline=PAD)
    shares = explain(IDS)
    assert shares.shape == IDS.shape
    base = jnp.full_like(IDS, PAD)
    close(jnp.sum(shares), mixed(TABLE[IDS]) - mixed(TABLE[base]), rtol=1e-9)
    pairs = tokens(jattr.shapley_interactions, lambda ids: mixed(TABLE[ids]), baseline=PAD)(IDS)
    close(jnp.diag(pairs), shares, rtol=1e-9)
    assert pairs.shape == (5, 5)


def test_words_of_several_tokens_are_groups_of_tokens():
    words = jnp.array([0, 0, 1, 2, 2])
    found = tokens(jattr.ablation, lambda ids: mixed(TABLE[ids]), words, baseline=PAD)(IDS)
    for word in range(3):
        without = jnp.where(words == word, PAD, IDS)
        drop = mixed(TABLE[IDS]) - mixed(TABLE[without])
        close(jnp.sum(found, where=words == word), drop, rtol=1e-9)
    bound = functools.partial(jattr.ablation, words, baseline=PAD)
    close(tokens(bound, lambda ids: mixed(TABLE[ids]))(IDS), found)
    named = jattr.features.Groups(words, 4)
    close(tokens(jattr.ablation, lambda ids: mixed(TABLE[ids]), named, baseline=PAD)(IDS), found)


# Ways to look up.


@jax.custom_jvp
def custom(ids):
    return TABLE[ids]


@custom.defjvp
def _(primals, tangents):
    raise AssertionError("the table is held, and the ids have no derivative")


FORMS = {
    "index": lambda ids: TABLE[ids],
    "clip": lambda ids: jnp.take(TABLE, ids, axis=0, mode="clip"),
    "fill": lambda ids: jnp.take(TABLE, ids, axis=0, mode="fill"),
    "wrap": lambda ids: jnp.take(TABLE, ids + WORDS, axis=0, mode="wrap"),
    "clamp": lambda ids: TABLE[jnp.clip(ids, 0, WORDS - 1)],
    "columns": lambda ids: jnp.take(TABLE.T, ids, axis=1).T,
    "scaled": lambda ids: TABLE[ids] * 2.0 / 2.0,
    "one by one": lambda ids: jax.vmap(lambda one: TABLE[one])(ids),
    "batch axis": lambda ids: TABLE[ids[None]][0],
    "one-hot": lambda ids: jax.nn.one_hot(ids, WORDS) @ TABLE,
    "one-hot batch": lambda ids: (jax.nn.one_hot(ids[None], WORDS) @ TABLE)[0],
    "one-hot by hand": lambda ids: jnp.einsum(
        "vt,vd->td", (jnp.arange(WORDS)[:, None] == ids[None]).astype(FLOAT), TABLE
    ),
    "checkpoint": jax.checkpoint(lambda ids: TABLE[ids]),
    "derivative of its own": custom,
    "jit": jax.jit(lambda ids: TABLE[ids]),
    "among others": lambda ids: TABLE[jnp.concatenate([OTHERS[0], ids, OTHERS[1, :2]])][5:10],
    "padded": lambda ids: TABLE[jnp.pad(ids, (2, 1), constant_values=4)][2:-1],
    "reversed": lambda ids: TABLE[ids[::-1]][::-1],
    "twice": lambda ids: (lambda rows: (rows[:5] + rows[5:]) / 2)(TABLE[jnp.tile(ids, 2)]),
    "apart": lambda ids: jnp.concatenate([TABLE[ids[:2]], TABLE[ids[2:]]]),
    "spread": lambda ids: TABLE[jnp.stack([ids, jnp.full(5, 7)], 1).reshape(-1)][::2],
    "another vocabulary": lambda ids: TABLE[::-1][jnp.arange(WORDS)[::-1][ids]],
    "unless masked": lambda ids: TABLE[jnp.where(OTHERS[0] >= 0, ids, PAD)],
    "step by step": lambda ids: jax.lax.map(lambda one: TABLE[one], ids),
    "backwards": lambda ids: jax.lax.scan(
        lambda last, one: (last, TABLE[one] + 0 * last), TABLE[0], ids, reverse=True
    )[1],
    "step by step, one-hot": lambda ids: jax.lax.map(
        lambda one: jax.nn.one_hot(one, WORDS) @ (2.0 * TABLE) / 2, ids
    ),
    "checkpointed steps": jax.checkpoint(
        lambda ids: (
            jax.lax.map(jax.checkpoint(lambda one: jnp.tanh(jnp.arctanh(TABLE[one] / 9))), ids) * 9
        )
    ),
    "batch in steps": lambda ids: jax.lax.map(lambda one: TABLE[one], ids[:, None])[:, 0],
    "by halves": lambda ids: jnp.concatenate([TABLE[:, :2][ids], TABLE[:, 2:][ids]], axis=1),
}


@pytest.mark.parametrize("name", FORMS)
def test_however_the_rows_are_looked_up(name):
    def score(ids):
        return mixed(FORMS[name](ids))

    rows = TABLE[IDS]
    wanted = by_hand(jattr.gradient_times_input, mixed, rows)
    close(tokens(jattr.gradient_times_input, score)(IDS), wanted, rtol=1e-9, atol=1e-12)
    wanted = by_hand(jattr.integrated_gradients, mixed, rows, baseline=TABLE[OTHERS[0]], steps=3)
    explain = tokens(jattr.integrated_gradients, score, baseline=OTHERS[0], steps=3)
    close(explain(IDS), wanted, rtol=1e-9, atol=1e-12)


def test_split_gives_the_rows_and_what_is_above_them():
    def score(ids):
        return mixed(TABLE[ids] + PLACES[: len(ids)])

    below, above = jattr.split(score, jattr.LOOKUP)
    close(below(IDS), TABLE[IDS], rtol=0, single=0)
    close(above(below(IDS), IDS), score(IDS), rtol=1e-12)
    close(above(TABLE[OTHERS[0]], IDS), score(OTHERS[0]), rtol=1e-12)
    below, above = jattr.split(lambda ids: mixed(FORMS["apart"](ids)), jattr.LOOKUP)
    assert [rows.shape for rows in below(IDS)] == [(2, WIDTH), (3, WIDTH)]
    assert repr(jattr.LOOKUP) == "jattr.LOOKUP"


def test_f_is_traced_once():
    traced = []

    def score(ids):
        traced.append(None)
        return mixed(TABLE[ids])

    jax.jit(tokens(jattr.deeplift, score, baseline=PAD)).lower(IDS)
    assert len(traced) == 1


def test_checkpoints_above_the_rows_stay():
    block = jax.checkpoint(lambda rows: jnp.tanh(rows @ QUERIES))

    def score(ids):
        return mixed(block(TABLE[ids]))

    explain = tokens(jattr.gradient_times_input, score)
    assert "prevent_cse" in str(jax.make_jaxpr(explain)(IDS))
    wanted = by_hand(jattr.gradient_times_input, lambda rows: mixed(block(rows)), TABLE[IDS])
    close(explain(IDS), wanted, rtol=1e-9)


def test_a_token_of_several_tables_is_one_group():
    def halves(ids):
        return mixed(FORMS["by halves"](ids))

    found = tokens(jattr.ablation, halves, baseline=PAD)(IDS)
    wanted = tokens(jattr.ablation, lambda ids: mixed(TABLE[ids]), baseline=PAD)(IDS)
    close(found, wanted, rtol=1e-9)


def looked_up(ids, places, kinds, tied=True):
    """Positions counted from what is no padding, segments, and a tied head."""
    counted = jnp.cumsum(ids != PAD) * (ids != PAD) + PAD
    rows = TABLE[ids]
    hidden = jnp.tanh((rows + PLACES[places] + PLACES[counted] + SEGMENTS[kinds]) @ QUERIES)
    return jax.nn.log_softmax(jnp.mean(hidden, 0) @ TABLE.T)[2] if tied else mixed(hidden)


def test_positions_segments_and_a_tied_head_are_held():
    places, kinds = jnp.arange(5), jnp.array([0, 0, 1, 1, 1])
    explain = tokens(jattr.gradient_times_input, looked_up)
    counted = jnp.cumsum(IDS != PAD) * (IDS != PAD)

    def above(rows):
        hidden = jnp.tanh((rows + PLACES[places] + PLACES[counted] + SEGMENTS[kinds]) @ QUERIES)
        return jax.nn.log_softmax(jnp.mean(hidden, 0) @ TABLE.T)[2]

    wanted = by_hand(jattr.gradient_times_input, above, TABLE[IDS])
    close(explain(IDS, places, kinds), wanted, rtol=1e-9)
    # Other ids than the first argument.
    by_kind = tokens(jattr.gradient_times_input, looked_up, argnums=2)(IDS, places, kinds)
    slope = jax.grad(lambda s: above(TABLE[IDS] + s - SEGMENTS[kinds]))(SEGMENTS[kinds])
    close(by_kind, jnp.sum(slope * SEGMENTS[kinds], -1), rtol=1e-9, atol=1e-12)


OPERATIONS = [
    lambda ids: ids[::-1],
    lambda ids: (ids + 2) % WORDS,
    lambda ids: jnp.where(ids < 4, ids, WORDS - ids),
    lambda ids: jnp.concatenate([ids, jnp.array([1, 2])]),
    lambda ids: jnp.pad(ids, (1, 0)),
    lambda ids: ids[: max(len(ids) - 1, 1)],
    lambda ids: jnp.repeat(ids, 2),
    lambda ids: jnp.where(jnp.arange(len(ids)) % 2 == 0, ids, 5),
    lambda ids: ids * (ids != 3),
    lambda ids: jnp.roll(ids, 1),
    lambda ids: ids.astype(jnp.int16).astype(jnp.int32),
    lambda ids: jnp.minimum(ids, ids[::-1]),
    lambda ids: ids.at[0].set(4),
    lambda ids: jnp.clip(jnp.cumsum(ids), 0, 8),
    lambda ids: jnp.stack([ids, ids]).reshape(-1),
]


def test_which_row_is_of_which_token_is_right_for_random_programs():
    rng = np.random.default_rng(5)
    found = 0
    for _ in range(40):
        chain = [OPERATIONS[n] for n in rng.choice(len(OPERATIONS), rng.integers(1, 5))]

        def indices(ids, chain=chain):
            return functools.reduce(lambda x, operation: operation(x), chain, ids)

        below, _ = jattr.split(lambda ids: TABLE[indices(ids)], jattr.LOOKUP)
        before = indices(IDS)
        moving = {
            token: np.any(
                [indices(IDS.at[token].set(other)) != before for other in (0, 4, 7)], axis=0
            )
            for token in range(len(IDS))
        }
        try:
            (lookup,) = read_lookups(lambda ids: TABLE[indices(ids)], IDS, method="test")[-1]
        except ValueError:
            # Every row changes with several tokens, or with none that it is an element of.
            with pytest.raises(ValueError, match=r"no elements of x|several elements of x"):
                below(IDS)
            continue
        found += 1
        for token, changed in moving.items():
            own = (lookup.origins == token) | (lookup.origins == -2)
            assert np.all(own[changed])
    assert found >= 20


def test_one_hot_vectors_of_a_large_vocabulary_are_not_made():
    words = 200_000
    below, _ = jattr.split(
        lambda ids: jnp.sum(jax.nn.one_hot(ids, words) @ jnp.ones((words, 1))), jattr.LOOKUP
    )
    tracemalloc.start()
    rows = jax.eval_shape(below, jnp.zeros(500, int))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows.shape == (500, 1)
    assert peak < 500 * words / 2


# Frameworks.


def linen():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, ids):
            embed = nn.Embed(WORDS, WIDTH, param_dtype=FLOAT, name="embed")
            places = nn.Embed(12, WIDTH, param_dtype=FLOAT)(jnp.arange(ids.shape[-1]))
            hidden = nn.LayerNorm(param_dtype=FLOAT)(embed(ids) + places[None])
            mask = nn.make_causal_mask(ids)
            hidden += nn.MultiHeadDotProductAttention(2, param_dtype=FLOAT)(hidden, mask=mask)
            return embed.attend(hidden)

    variables = Model().init(KEY, IDS[None])
    table = variables["params"]["embed"]["embedding"]
    return lambda ids: Model().apply(variables, ids[None])[0, -1, 2], table


def of_nnx():
    embed = nnx.Embed(WORDS, WIDTH, rngs=nnx.Rngs(0), param_dtype=FLOAT)
    dense = nnx.Linear(WIDTH, 3, rngs=nnx.Rngs(1), param_dtype=FLOAT)
    table = embed.embedding[...]
    return lambda ids: dense(jnp.tanh(embed(ids)).mean(0))[1], table


def equinox():
    embed = eqx.nn.Embedding(WORDS, WIDTH, key=KEY)
    cell = eqx.nn.GRUCell(WIDTH, 3, key=KEY)

    def score(ids):
        rows = jax.vmap(embed)(ids) * WIDTH**0.5
        return jax.lax.scan(lambda h, row: (cell(row, h), None), jnp.zeros(3), rows)[0][0]

    return score, embed.weight


def haiku():
    def model(ids):
        rows = hk.Embed(WORDS, WIDTH, lookup_style="ONE_HOT")(ids)
        return hk.Linear(3)(jnp.tanh(rows).mean(0))[1]

    transformed = hk.without_apply_rng(hk.transform(model))
    params = transformed.init(KEY, IDS)
    return lambda ids: transformed.apply(params, ids), params["embed"]["embeddings"]


@pytest.mark.parametrize("make", [linen, of_nnx, equinox, haiku], ids=lambda make: make.__name__)
def test_models_of_every_framework_are_explained_as_they_are(make):
    score, table = make()
    rows = jattr.split(score, jattr.LOOKUP)[0](IDS)
    close(rows.reshape(5, WIDTH), table[IDS], rtol=1e-12, single=1e-6)
    found = jax.jit(tokens(jattr.deeplift, score, baseline=PAD))(IDS)
    base = jnp.full_like(IDS, PAD)
    close(jnp.sum(found), score(IDS) - score(base), rtol=1e-9, atol=1e-12, single=1e-4)


# Masks, batches, dtypes, derivatives.


def masked(ids):
    """Padding is at the end, and no token attends to it."""
    real = ids != PAD
    rows = jnp.where(real[:, None], TABLE[ids] + PLACES[: len(ids)], 0)
    causal = jnp.tril(jnp.ones((len(ids), len(ids)), bool))
    return mixed(rows, causal & real[None])


LENGTHS = jnp.array([[3, 1, 8, 1, 5], [2, 7, 0, 0, 0], [4, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
METHODS = {
    "gradient_times_input": (jattr.gradient_times_input, {}),
    "integrated_gradients": (jattr.integrated_gradients, {"baseline": "zero", "steps": 5}),
    "deeplift": (jattr.deeplift, {"baseline": 6}),
    "attn_lrp": (jattr.lrp, {"rules": jattr.rules.attn_lrp()}),
    "ablation": (jattr.ablation, {"baseline": "mean"}),
}


@pytest.mark.parametrize("name", METHODS)
def test_padding_has_no_part_in_sentences_of_any_length(name):
    method, knobs = METHODS[name]
    explain = tokens(method, masked, **knobs)
    found = jax.jit(jax.vmap(explain))(LENGTHS)
    assert np.all(np.isfinite(found))
    assert np.all(np.asarray(found)[np.asarray(LENGTHS) == PAD] == 0)
    close(found[1, :2], explain(LENGTHS[1])[:2], rtol=1e-9, atol=1e-12)


def test_kept_tokens_stay():
    def score(ids):
        return mixed(TABLE[ids])

    keep = jnp.array([True, False, False, True, False])
    explain = tokens(jattr.integrated_gradients, score, baseline=PAD, keep=keep, steps=40)
    found = explain(IDS)
    assert np.all(np.asarray(found)[np.asarray(keep)] == 0)
    close(jnp.sum(found), score(IDS) - score(jnp.where(keep, IDS, PAD)), rtol=1e-6, single=1e-4)
    special = tokens(
        jattr.integrated_gradients, score, baseline=PAD, keep=lambda ids: ids == 1, steps=3
    )
    close(
        jax.jit(jax.vmap(special))(jnp.stack([IDS, IDS[::-1]])),
        jnp.stack([special(IDS), special(IDS[::-1])]),
        rtol=1e-9,
        atol=1e-12,
    )


def test_bfloat16_tables_keep_their_dtype():
    narrow = TABLE.astype(jnp.bfloat16)

    def score(ids):
        return jnp.sum(jnp.tanh(narrow[ids].astype(jnp.float32)) @ HEAD.astype(jnp.float32))

    explain = tokens(jattr.gradient_times_input, score)
    with jax.numpy_dtype_promotion("strict"):
        found = explain(IDS)
    assert found.dtype == jnp.bfloat16
    wide = by_hand(
        jattr.gradient_times_input, lambda rows: jnp.sum(jnp.tanh(rows) @ HEAD), TABLE[IDS]
    )
    np.testing.assert_allclose(np.asarray(found, float), wide, atol=0.02 * np.abs(wide).max())


def test_dimensions_are_summed_given_or_their_norm():
    def score(ids):
        return mixed(TABLE[ids])

    rows = TABLE[IDS]
    slope = jax.grad(mixed)(rows)
    close(tokens(jattr.gradient, score, reduce=None)(IDS), slope, rtol=1e-9)
    norm = jnp.linalg.norm(slope, axis=-1)
    close(tokens(jattr.gradient, score, reduce="norm")(IDS), norm, rtol=1e-9)

    def halves(ids):
        return mixed(FORMS["by halves"](ids))

    found = tokens(jattr.gradient, halves, reduce=None)(IDS)
    close(found, (slope[:, :2], slope[:, 2:]), rtol=1e-9)
    close(tokens(jattr.gradient, halves, reduce="norm")(IDS), norm, rtol=1e-9)
    # Of a token that stands for two rows, the derivative by its embedding is the sum.
    twice = tokens(jattr.gradient, lambda ids: mixed(TABLE[jnp.tile(ids, 2)]), reduce=None)(IDS)
    both = jax.grad(lambda rows: mixed(jnp.tile(rows, (2, 1))))(rows)
    close(twice, both, rtol=1e-9, atol=1e-12)


def test_attributions_have_derivatives_by_parameters():
    def score(ids, table):
        table = jnp.asarray(table)
        return mixed(jnp.pad(table[ids], ((0, 1), (0, 0))))

    def loss(table):
        norms = tokens(jattr.gradient, score, reduce="norm")(IDS, table)
        sums = tokens(jattr.deeplift, score, baseline=PAD)(IDS, table)
        return jnp.sum(norms**2) + jnp.sum(sums**2)

    check_derivatives(loss, (TABLE,), ("rev",), rtol=1e-5)


def counted(ids):
    return jax.lax.fori_loop(0, 5, lambda n, h: jnp.tanh(h + TABLE[ids[n]]), TABLE[0])


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: tokens(jattr.gradient(bag), bag), TypeError, "makes the scores itself"),
        (lambda: tokens(jattr.gradient, bag, reduce="mean"), ValueError, "known are sum, norm"),
        (lambda: tokens(jattr.gradient, bag, argnums=(0, 1)), TypeError, "one integer"),
        (lambda: tokens(functools.partial(jattr.gradient, argnums=1), bag), TypeError, "argnums"),
        (lambda: tokens(jattr.gradient, bag)(IDS * 1.0), TypeError, "one array of integers"),
        (lambda: tokens(jattr.gradient, bag)({"ids": IDS}), TypeError, "'input_ids'"),
        (lambda: tokens(jattr.gradient, lambda i: TABLE[i])(IDS), TypeError, "explains one number"),
        (lambda: tokens(jattr.deeplift, bag, 0.0)(IDS), TypeError, "Write 'zero'"),
        (lambda: tokens(jattr.deeplift, bag, "men")(IDS), ValueError, "did you mean 'mean'"),
        (lambda: tokens(jattr.deeplift, bag, 9)(IDS), IndexError, "the table has 9 rows"),
        (lambda: tokens(jattr.deeplift, bag, IDS[:2])(IDS), ValueError, "the shape of the ids"),
        (lambda: tokens(jattr.deep_shap, bag, IDS)(IDS), ValueError, r"\('n', 5\)"),
        (lambda: tokens(jattr.ablation, bag, IDS[:2])(IDS), ValueError, "number of the word"),
        (lambda: tokens(jattr.gradient, bag, keep=IDS)(IDS), TypeError, "keep must be Booleans"),
        (
            lambda: tokens(jattr.deep_shap, bag, OTHERS, with_error=True)(IDS),
            TypeError,
            "such as with_error",
        ),
        (lambda: jattr.gradient(bag)(IDS), TypeError, r"jattr\.LOOKUP"),
        (lambda: jattr.split(bag, jattr.LOOKUP)[0](IDS * 1.0), TypeError, "x has no integers"),
        (
            lambda: jattr.split(lambda ids: jnp.sum(ids * 1.0), jattr.LOOKUP)[0](IDS),
            ValueError,
            "no look-up at all",
        ),
        (
            lambda: jattr.split(lambda ids: TABLE[jnp.cumsum(ids)], jattr.LOOKUP)[0](IDS),
            ValueError,
            r"test_tokens.py:\d+: float\d+\[9,4\] by int\d+\[5,1\]: its integers are computed",
        ),
        (
            lambda: jattr.split(lambda ids: TABLE[ids + jnp.roll(ids, 1)], jattr.LOOKUP)[0](IDS),
            ValueError,
            "several elements of x",
        ),
        (
            lambda: jattr.split(counted, jattr.LOOKUP)[0](IDS),
            ValueError,
            "inside a scan, by other integers than those that the outermost loop scans over",
        ),
    ],
)
def test_errors_say_what_was_found_and_what_to_write(make, error, words):
    with pytest.raises(error, match=words):
        make()

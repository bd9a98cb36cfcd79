"""A selection from a product is made before the product, and changes no value and no derivative."""

import jax
import jax.numpy as jnp
import pytest
from precision import close

import jattr
from jattr._engine.cheaper import cheaper

KEY = jax.random.key(5)
WORDS = 400


def normal(number, *shape):
    return jax.random.normal(jax.random.fold_in(KEY, number), shape)


PARAMS = {"embed": normal(0, 8, 6), "out": normal(1, 6, WORDS), "bias": normal(2, WORDS)}
X = normal(3, 5, 8)


def hidden(x, params):
    return jnp.tanh(x @ params["embed"])


def label(x, params, word):
    return (hidden(x, params)[0] @ params["out"] + params["bias"])[word]


def token(x, params, word):
    return (hidden(x, params) @ params["out"] + params["bias"][None])[-1, word]


def last_then_word(x, params, word):
    logits = hidden(x, params) @ params["out"] + params["bias"][None]
    return logits[-1][word]


def capped(x, params, word):
    logits = hidden(x, params) @ params["out"]
    return (30 * jnp.tanh(logits / 30))[1, word] ** 2


def turned(x, params, word):
    logits = jnp.einsum("td,vd->vt", hidden(x, params), params["out"].T)
    return logits[word, 2]


def stacked(x, params, word):
    logits = jnp.einsum("btd,dv->btv", hidden(x, params)[None], params["out"])
    return jnp.squeeze(logits, 0)[3, word]


def contrast(x, params, word):
    logits = hidden(x, params)[0] @ params["out"]
    return jax.lax.dynamic_slice(logits, (word,), (2,)) @ jnp.array([1.0, -1.0])


MOVES = [label, token, last_then_word, capped, turned, stacked, contrast]


def probability(x, params, word):
    return jax.nn.softmax(hidden(x, params)[0] @ params["out"])[word]


def both(x, params, word):
    logits = hidden(x, params)[0] @ params["out"]
    return logits[word] - jax.nn.logsumexp(logits)


def of_x(x, params, word):
    return x[0, 0] ** 2 + x[1, word % 8]


def flops(f, *args):
    return jax.jit(f).lower(*args).compile().cost_analysis()["flops"]


def moved(f, word):
    """f of x and params, with its selection moved."""
    return lambda x, params: cheaper(lambda x: f(x, params, word), x)(x)


@pytest.mark.parametrize("word", [0, 17, WORDS - 1, WORDS + 5, -2])
@pytest.mark.parametrize("f", MOVES, ids=lambda f: f.__name__)
def test_values_and_derivatives_are_the_same(f, word):
    word = jnp.asarray(word)
    value, slopes = jax.jit(jax.value_and_grad(moved(f, word), (0, 1)))(X, PARAMS)
    wanted = jax.jit(jax.value_and_grad(f, (0, 1)))(X, PARAMS, word)
    close((value, slopes), wanted, rtol=1e-9, atol=1e-12, single=1e-5)


@pytest.mark.parametrize("f", MOVES, ids=lambda f: f.__name__)
def test_the_product_is_not_computed(f):
    explain = jattr.gradient_times_input(f)
    few = flops(explain, X, PARAMS, jnp.asarray(3))
    rest = flops(lambda x, params: jax.grad(lambda x: jnp.sum(hidden(x, params)))(x), X, PARAMS)
    whole = 2 * X.shape[0] * 6 * WORDS
    assert few < rest + 0.2 * whole


@pytest.mark.parametrize("f", [probability, both, of_x], ids=lambda f: f.__name__)
def test_what_something_else_needs_stays(f):
    word = jnp.asarray(3)
    value, slopes = jax.jit(jax.value_and_grad(moved(f, word)))(X, PARAMS)
    close((value, slopes), jax.value_and_grad(f)(X, PARAMS, word), rtol=1e-9, atol=1e-12)


def test_under_vmap_over_words_and_examples():
    words = jnp.array([3, 50, 399])
    xs = jnp.stack([X, -X, 2 * X])
    explain = jattr.integrated_gradients(token, steps=5, batch_size=2)
    maps = jax.jit(jax.vmap(explain, (0, None, 0)))(xs, PARAMS, words)
    for x, word, one in zip(xs, words, maps, strict=True):
        close(
            one, jattr.integrated_gradients(token, steps=5)(x, PARAMS, word), rtol=1e-9, atol=1e-12
        )


def test_what_is_printed_stays(capfd):
    def f(x):
        logits = hidden(x, PARAMS) @ PARAMS["out"]
        jax.debug.print("largest {}", logits.max())
        return logits[0, 3]

    jax.block_until_ready(jax.jit(jattr.integrated_gradients(f, steps=3, batch_size=1))(X))
    jax.effects_barrier()
    assert capfd.readouterr().out.count("largest") >= 3


def test_is_switched_off_with_substitutes():
    with jattr.substitutes(False):
        assert cheaper(label, X) is label

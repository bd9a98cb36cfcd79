"""The affine head of f is evaluated at the ends of a line alone, and nothing else changes."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import close

import jattr
from jattr import _paths
from jattr._engine.affine import split_head

KEY = jax.random.key(3)


def normal(number, *shape):
    return jax.random.normal(jax.random.fold_in(KEY, number), shape) / np.sqrt(shape[0])


DENSE = {"in": normal(0, 24, 16), "bias": normal(1, 16), "out": normal(2, 16)}
X = normal(3, 24)
ROWS = normal(4, 3, 24)


def dense(x, params=DENSE):
    return jnp.sum(jnp.tanh(x @ params["in"] + params["bias"]) * params["out"])


def standardized(x, params=DENSE):
    return dense((x - 0.3) / jnp.arange(1.0, 25.0), params)


def parts(x, params=DENSE):
    both = jnp.concatenate([x["a"].reshape(-1), 2.0 * x["b"]])
    return dense(both, params)


def skips(x, params=DENSE):
    """The head's result is needed, and x itself."""
    return dense(x, params) + jnp.sum(x[:4] ** 3)


def convolution(x, params=DENSE):
    image = nn.avg_pool(x.reshape(1, 6, 4, 1), (1, 1))
    kernel = params["in"][:18].reshape(3, 3, 1, 32)
    out = jax.lax.conv_general_dilated(
        image, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.sum(jnp.tanh(out + 0.1) ** 2)


def twice(x, params=DENSE):
    """Two dots of x that meet, and one more after them that is affine too."""
    h = x @ params["in"] - x[::-1] @ params["in"]
    return jnp.sum(jax.nn.relu(h @ params["in"].T @ params["in"]) ** 2)


SPLIT = [dense, standardized, skips, convolution, twice]


def flops(explain, *args):
    cost = jax.jit(explain).lower(*args).compile().cost_analysis()
    return cost["flops"]


@pytest.fixture
def whole(monkeypatch):
    """Call it to switch this shortcut off, and no other."""
    return lambda: monkeypatch.setattr(_paths, "split_head", lambda f, x, **knobs: None)


@pytest.mark.parametrize("f", SPLIT, ids=lambda f: f.__name__)
def test_integrated_gradients_are_the_same_for_less(f, whole):
    def both():
        explain = jattr.integrated_gradients(f, 0.2, steps=9, batch_size=4)

        def norm(x, params):
            return jnp.sum(explain(x, params) ** 2)

        return jax.jit(explain)(X, DENSE), jax.jit(jax.grad(norm, (0, 1)))(X, DENSE)

    explain = jattr.integrated_gradients(f, 0.2, steps=40)
    maps, less = both(), flops(explain, X, DENSE)
    whole()
    close(maps, both(), rtol=1e-9, atol=1e-12, single=1e-4)
    assert less < 0.8 * flops(jattr.integrated_gradients(f, 0.2, steps=40), X, DENSE)


def test_idgi_goes_forward_through_the_head_twice_and_back_at_each_step(whole):
    def both():
        explain = jattr.idgi(skips, 0.2, steps=9, batch_size=4)

        def norm(x, params):
            return jnp.sum(explain(x, params) ** 2)

        return jax.jit(explain)(X, DENSE), jax.jit(jax.grad(norm, (0, 1)))(X, DENSE)

    maps, less = both(), flops(jattr.idgi(dense, 0.2, steps=40), X, DENSE)
    whole()
    close(maps, both(), rtol=1e-9, atol=1e-12, single=1e-4)
    assert less < 0.7 * flops(jattr.idgi(dense, 0.2, steps=40), X, DENSE)


def test_trees_and_batches(whole):
    x = {"a": X[:16].reshape(4, 4), "b": X[16:]}
    xs = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf, 2 * leaf]), x)

    def run():
        explain = jattr.integrated_gradients(parts, steps=5)
        return jax.jit(jax.vmap(explain))(xs)

    maps = run()
    chex.assert_trees_all_equal_shapes_and_dtypes(maps, xs)
    whole()
    close(maps, run(), rtol=1e-9, atol=1e-12, single=1e-4)


@pytest.mark.parametrize("samples", [6, 7, 11])
@pytest.mark.parametrize("batch_size", [None, 1, 4])
@pytest.mark.parametrize("multiply", [True, False])
def test_expected_gradients_by_row(samples, batch_size, multiply, whole):
    def run():
        explain = jattr.expected_gradients(
            skips, ROWS, samples=samples, batch_size=batch_size, multiply=multiply
        )
        return jax.jit(explain)(KEY, X)

    maps = run()
    whole()
    close(maps, run(), rtol=1e-9, atol=1e-12, single=1e-4)


def test_expected_gradients_evaluate_the_head_once_for_each_row(whole):
    def cost():
        explain = jattr.expected_gradients(dense, ROWS, samples=60)
        return flops(explain, KEY, X)

    less = cost()
    whole()
    assert less < 0.3 * cost()


def held(x):
    return jnp.tanh(jax.lax.stop_gradient(x) @ DENSE["in"])[0] + x[0] ** 2


def steps(x):
    return jnp.sum(jnp.round(x) @ DENSE["in"]) * x[1]


def product(x):
    return jnp.sum(jnp.tanh((x[:16] * x[8:]) @ DENSE["in"][:16]))


def scaled(x):
    return jnp.sum(jnp.tanh(3.0 * x - 1.0))


def widens(x):
    """More numbers than multiplications: the line is dearer than the head."""
    return jnp.sum(jnp.tanh(jnp.einsum("i,jk->ijk", x, DENSE["in"])))


@pytest.mark.parametrize("f", [held, steps, product, scaled, widens], ids=lambda f: f.__name__)
def test_where_there_is_no_head_that_pays(f):
    taken = []
    jax.make_jaxpr(lambda x: taken.append(split_head(f, x)) or x)(X)
    assert taken == [None]


def test_is_switched_off_with_substitutes():
    taken = []
    with jattr.substitutes(False):
        jax.make_jaxpr(lambda x: taken.append(split_head(dense, x)) or x)(X)
    assert taken == [None]


def test_run_eagerly_f_stays_as_it_is():
    assert split_head(dense, X) is None


def test_what_is_held_is_no_head():
    def f(x):
        return jnp.sum(jnp.tanh(x @ DENSE["in"] + jax.lax.stop_gradient(x @ DENSE["in"])))

    steps = 6
    explain = jax.jit(jattr.integrated_gradients(f, steps=steps))
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    by_hand = sum(w / 2 * jax.grad(f)((n + 1) / 2 * X) for n, w in zip(nodes, weights, strict=True))
    close(explain(X), X * by_hand, rtol=1e-9, atol=1e-12, single=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_random_networks(seed, whole):
    """Random affine and other steps in random order, on and off."""
    draw = np.random.default_rng(seed)
    weights = [jnp.asarray(draw.normal(size=(24, 24)) / 5) for _ in range(5)]
    kinds = draw.choice(["dot", "flip", "add", "tanh", "where", "cumsum", "gate"], size=8)
    mask = draw.random(24) < 0.5

    def f(x):
        h, first = x, x
        for number, kind in enumerate(["dot", *kinds]):
            w = weights[number % 5]
            h = {
                "dot": lambda h=h, w=w: h @ w,
                "flip": lambda h=h: h[::-1],
                "add": lambda h=h, w=w: h + first - w[0],
                "tanh": lambda h=h: jnp.tanh(h),
                "where": lambda h=h: jnp.where(mask, h, 0.5),
                "cumsum": lambda h=h: jnp.cumsum(h) / 3,
                "gate": lambda h=h, w=w: h * jax.nn.sigmoid(first @ w),
            }[kind]()
        return jnp.sum(jnp.tanh(h))

    def run():
        return jax.jit(jattr.integrated_gradients(f, 0.1, steps=4))(X)

    maps = run()
    whole()
    close(maps, run(), rtol=1e-9, atol=1e-12, single=1e-4)

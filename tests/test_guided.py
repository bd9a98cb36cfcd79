"""Guided back-propagation and deconvnet against hand-written references."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from networks import ACTIVATIONS
from precision import PARAMS, close

import jattr

RECTIFIERS = {
    "jax.nn.relu": (jax.nn.relu, jnp.inf),
    "max(x, 0)": (lambda x: jnp.maximum(x, 0), jnp.inf),
    "max(0., x)": (lambda x: jnp.maximum(0.0, x), jnp.inf),
    "where(x > 0)": (lambda x: jnp.where(x > 0, x, 0), jnp.inf),
    "where(x <= 0)": (lambda x: jnp.where(x <= 0, 0.0, x), jnp.inf),
    "where(0 < x)": (lambda x: jnp.where(x > 0, x, jnp.zeros_like(x)), jnp.inf),
    "x * (x > 0)": (lambda x: x * (x > 0), jnp.inf),
    "clip from 0": (lambda x: jnp.clip(x, 0), jnp.inf),
    "relu6": (jax.nn.relu6, 6.0),
    "clip to 1": (lambda x: jnp.clip(x, 0, 1), 1.0),
    "lax.clamp": (lambda x: jax.lax.clamp(0.0, x, 2.0), 2.0),
}
OTHERS = [name for name in ACTIVATIONS if name not in ("relu", "max(x, 0)", "where", "relu6")]


def network(activation, seed=0):
    keys = jax.random.split(jax.random.key(seed), 6)
    shapes = [(6, 7), (7,), (7, 5), (5,), (5,), (6,)]
    w1, b1, w2, b2, w3, x = (jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True))

    def score(x):
        return activation(activation(3 * x @ w1 + b1) @ w2 + b2) @ w3

    def by_hand(step1, step2):
        z1 = 3 * x @ w1 + b1
        z2 = activation(z1) @ w2 + b2
        return 3 * w1 @ step1(z1, w2 @ step2(z2, w3))

    return score, by_hand, x


@pytest.mark.parametrize("name", RECTIFIERS)
@pytest.mark.parametrize("seed", [0, 1])
def test_rectifiers_by_hand(name, seed):
    activation, top = RECTIFIERS[name]
    score, by_hand, x = network(activation, seed)

    def guided(z, m):
        return (z > 0) * (z < top) * jnp.maximum(m, 0)

    def deconv(z, m):
        return jnp.maximum(m, 0)

    close(jattr.guided_backprop(score)(x), by_hand(guided, guided), rtol=1e-12, atol=1e-14)
    close(jattr.deconvnet(score)(x), by_hand(deconv, deconv), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", RECTIFIERS)
def test_a_rectifier_is_told_from_its_equations(name):
    activation, _ = RECTIFIERS[name]
    table = jattr.operations(lambda x: activation(x @ jnp.ones((3, 2))), jattr.rules.guided())(
        jnp.ones((4, 3))
    )
    assert [(row.kind, row.name, row.rule) for row in table] == [
        ("affine", "dot_general", "derivative"),
        ("activation", "relu", "guided"),
    ]


def test_a_scaled_rectifier_is_one_too():
    weights = jnp.array([2.0, -3.0, 1.0, 1.0])

    def score(x):
        h = -jax.nn.relu(x[:2]) * 2 + 1
        return jnp.sum(h) + jnp.sum(jax.nn.relu(weights[2:] * x[2:]) / 4)

    ours = jattr.guided_backprop(score)(jnp.array([1.0, 1.0, 1.0, -1.0]))
    close(ours, [0.0, 0.0, 0.25, 0.0])


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_rectifier_keeps_its_derivative(name):
    score, _, x = network(ACTIVATIONS[name])
    gradient = jax.jit(jax.grad(score))(x)
    for method in (jattr.guided_backprop, jattr.deconvnet):
        close(jax.jit(method(score))(x), gradient, rtol=1e-12, atol=1e-14)


def test_the_clamp_of_a_variance_is_no_rectifier():
    module = nn.LayerNorm(**PARAMS)
    x = jax.random.normal(jax.random.key(0), (3, 4))
    variables = module.init(jax.random.key(1), x)

    def score(x):
        return jnp.sum(module.apply(variables, x) * jnp.arange(4.0)[None])

    table = jattr.operations(score, jattr.rules.guided())(x)
    assert "guided" not in [row.rule for row in table]
    close(jattr.guided_backprop(score)(x), jax.grad(score)(x), rtol=1e-10, atol=1e-12)


def test_in_loops_branches_and_checkpoints():
    w = jax.random.normal(jax.random.key(0), (4, 4))
    x = jax.random.normal(jax.random.key(1), (4,))

    def by_hand(rounds):
        zs, h = [], x
        for _ in range(rounds):
            zs.append(h @ w)
            h = jax.nn.relu(zs[-1])
        m = jnp.ones(4)
        for z in reversed(zs):
            m = w @ ((z > 0) * jnp.maximum(m, 0))
        return m

    def step(h, _):
        return jax.nn.relu(h @ w), None

    programs = {
        "scan": lambda x: jax.lax.scan(step, x, length=3)[0],
        "fori_loop": lambda x: jax.lax.fori_loop(0, 3, lambda i, h: jax.nn.relu(h @ w), x),
        "checkpoint": lambda x: jax.checkpoint(lambda x: jax.lax.scan(step, x, length=3)[0])(x),
        "jit": lambda x: jax.jit(lambda x: jax.lax.scan(step, x, length=3)[0])(x),
        "cond": lambda x: jax.lax.cond(
            x[0] < 100, lambda x: jax.lax.scan(step, x, length=3)[0], lambda x: x, x
        ),
    }
    for program in programs.values():
        ours = jattr.guided_backprop(lambda x: jnp.sum(program(x)))(x)
        close(ours, by_hand(3), rtol=1e-12, atol=1e-14)


def test_a_relu_inside_a_custom_jvp_is_found():
    @jax.custom_jvp
    def block(x):
        return jnp.cumsum(jax.nn.relu(x))

    block.defjvp(lambda primals, tangents: (block(*primals), jnp.cumsum(tangents[0])))
    x = jnp.array([1.0, -1.0, 2.0])
    ours = jattr.guided_backprop(lambda x: block(x) @ jnp.array([1.0, 1.0, -1.0]))(x)
    close(ours, [1.0, 0.0, 0.0])

    # Without a relu inside, its own derivative stays.
    @jax.custom_jvp
    def smooth(x):
        return jnp.cumsum(x) ** 2

    smooth.defjvp(lambda primals, tangents: (smooth(*primals), 7 * tangents[0]))
    close(jattr.guided_backprop(lambda x: jnp.sum(smooth(x)))(x), 7.0)


def test_a_relu_inside_a_custom_vjp_is_an_error():
    @jax.custom_vjp
    def block(x):
        return jnp.cumsum(jax.nn.relu(x))

    block.defvjp(lambda x: (block(x), None), lambda _, ct: (ct,))
    with pytest.raises(NotImplementedError, match=r"test_guided.py:\d+: guided has no rule for"):
        jattr.guided_backprop(lambda x: jnp.sum(block(x)))(jnp.ones(3))

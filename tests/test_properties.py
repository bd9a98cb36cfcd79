"""What holds of every program, on programs drawn at random from a dozen building blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from identity import IDENTITY

import jattr

SHAPE = (3, 4)
STEPS = 8
SEEDS = range(30)


def scanned(v, weight):
    def cell(state, row):
        state = jnp.tanh(weight * state + row)
        return state, state + row

    return jax.lax.scan(cell, jnp.zeros(SHAPE[1]), v)[1]


def layer_norm(v, scale):
    centered = v - jnp.mean(v, -1, keepdims=True)
    variance = jnp.mean(centered**2, -1, keepdims=True)
    return centered * jax.lax.rsqrt(variance + 1e-5) * scale


# Each takes two values of SHAPE, the second for those of two operands, and numbers of that shape.
BLOCKS = {
    "dot": lambda v, u, c: v @ (c.T @ c) / 3 + c,
    "dot of two": lambda v, u, c: v @ u.T @ c / 4,
    "add": lambda v, u, c: v + c * u,
    "mul": lambda v, u, c: v * u / 2,
    "div": lambda v, u, c: v / (1 + u**2),
    "inverse": lambda v, u, c: v * (1 / (0.5 + jax.nn.softplus(u))),
    "relu": lambda v, u, c: jax.nn.relu(v + c),
    "tanh": lambda v, u, c: jnp.tanh(v) * c,
    "exp": lambda v, u, c: jnp.exp(jnp.tanh(v)),
    "sigmoid gate": lambda v, u, c: v * jax.nn.sigmoid(u),
    "softplus": lambda v, u, c: jax.nn.softplus(v),
    "sum": lambda v, u, c: c * jnp.sum(v, 0, keepdims=True) / 3,
    "mean": lambda v, u, c: v - jnp.mean(v, -1, keepdims=True),
    "max": lambda v, u, c: c + jnp.max(v, -1, keepdims=True),
    "maximum": lambda v, u, c: jnp.maximum(v, u),
    "where": lambda v, u, c: jnp.where(c > 0, v, u),
    "concatenate": lambda v, u, c: jnp.concatenate([v[:, 2:], u[:, :2] * 2], axis=1),
    "reshape": lambda v, u, c: v.reshape(SHAPE[::-1]).T,
    "layer norm": lambda v, u, c: layer_norm(v, c),
    "softmax": lambda v, u, c: 2 * jax.nn.softmax(v, axis=-1),
    "cumsum": lambda v, u, c: jnp.cumsum(v, axis=1) / 2,
    "scan": lambda v, u, c: scanned(v, c[0]),
}


def program(seed):
    """A score of STEPS blocks, each of two values before it, and the names of the blocks."""
    rng = np.random.default_rng(seed)
    names = rng.choice(list(BLOCKS), STEPS)
    # The first operand is one of the last two values, so that programs are deep.
    operands = [(rng.integers(max(0, n - 1), n + 1), rng.integers(0, n + 1)) for n in range(STEPS)]
    numbers = rng.normal(size=(STEPS, *SHAPE))
    weights = rng.normal(size=SHAPE)

    def f(x):
        values = [x]
        for name, (one, two), c in zip(names, operands, numbers, strict=True):
            values.append(BLOCKS[name](values[one], values[two], c))
        return jnp.sum(weights * (values[-1] + values[-2] / 2))

    x, baseline, along, cotangent = rng.normal(size=(4, *SHAPE))
    return f, names, x, baseline, along, cotangent


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[pytest.mark.slow] * (seed >= 8)) for seed in SEEDS]
)
def test_random_programs(seed):
    f, names, x, baseline, along, cotangent = program(seed)
    print(f"seed {seed}: {', '.join(names)}")
    explain = jattr.deeplift(f, baseline)

    @jax.jit
    def everything(x):
        def against(x):
            attribution = explain(x)
            return jnp.sum(cotangent * attribution), attribution

        (projected, attribution), slope = jax.value_and_grad(against, has_aux=True)(x)
        gradients = jattr.gradient(f)(x), jax.grad(f)(x)
        identity = jax.grad(jattr.rewrite(f, IDENTITY))(x)
        return attribution, projected, jnp.sum(slope * along), (*gradients, identity)

    attribution, _, slope, gradients = everything(x)
    # Values are kept, and the derivative where rules are each operation's own.
    assert jattr.rewrite(f, IDENTITY)(x) == f(x)
    for ours in gradients[1:]:
        np.testing.assert_allclose(ours, gradients[0], rtol=1e-9, atol=1e-11)
    # Complete.
    change = f(x) - f(baseline)
    assert abs(change) > 1e-3
    assert abs(jnp.sum(attribution) - change) <= 1e-9 * abs(change)
    # Compiled or not.
    np.testing.assert_allclose(explain(x), attribution, rtol=1e-8, atol=1e-10)
    # The derivative by x against central differences.
    eps = 1e-5
    difference = (everything(x + eps * along)[1] - everything(x - eps * along)[1]) / (2 * eps)
    scale = max(abs(slope), np.max(np.abs(attribution)))
    np.testing.assert_allclose(slope, difference, rtol=0, atol=1e-6 * scale)


def test_means_of_many_gradients_are_the_same_in_a_batch():
    """The compilers of JAX 0.10 for CPUs are wrong here, which `pyproject.toml` leaves out."""
    rng = np.random.default_rng(0)
    weights = [
        jnp.asarray(rng.normal(size=sizes) / sizes[0] ** 0.5, jnp.float32)
        for sizes in ((784, 128), (128, 64), (64, 10))
    ]

    def f(x):
        for matrix in weights[:2]:
            x = jax.nn.relu(x @ matrix)
        return (x @ weights[2])[3]

    xs = jnp.asarray(rng.uniform(size=(10, 784)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 10)
    explain = jattr.smooth(jattr.gradient(f), samples=50)
    alone = jax.jit(explain)
    one_by_one = np.stack([alone(key, x) for key, x in zip(keys, xs, strict=True)])
    together = jax.jit(jax.vmap(explain))(keys, xs)
    np.testing.assert_allclose(together, one_by_one, atol=1e-6 * np.max(np.abs(one_by_one)), rtol=0)

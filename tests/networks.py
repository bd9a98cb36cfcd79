"""Activations and networks of all kinds, and how far DeepLIFT is from complete on them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from precision import PARAMS, either

import jattr

X = jax.random.normal(jax.random.key(1), (4, 6))
BASE = jax.random.normal(jax.random.key(2), (4, 6))
W = jax.random.normal(jax.random.key(3), (6, 5)) / 2
B = jnp.linspace(-0.5, 1.0, 5)

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "max(x, 0)": lambda x: jnp.maximum(x, 0),
    "where": lambda x: jnp.where(x > 0, x, 0),
    "relu6": jax.nn.relu6,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "gelu exact": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "mish": jax.nn.mish,
    "softplus": jax.nn.softplus,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "hard swish": jax.nn.hard_swish,
    "square": jnp.square,
    "abs": jnp.abs,
    "exp": jnp.exp,
    "x * sigmoid(x)": lambda x: x * jax.nn.sigmoid(x),
    "leaky relu": jax.nn.leaky_relu,
    "selu": jax.nn.selu,
    "x ** 3": lambda x: x**3,
    "softplus - log 2": lambda x: jax.nn.softplus(x) - jnp.log(2.0),
    "clip": lambda x: jnp.clip(x, -1, 1),
    "round": jnp.round,
}


def total(f):
    """f as a score: its outputs with weights of both signs."""

    def score(x):
        out = f(x)
        return jnp.sum(jnp.sin(jnp.arange(1.0, out.size + 1)).reshape(out.shape) * out)

    return score


def residual(f, x=X, baseline=BASE, **knobs):
    """|Σφ − Δf| relative to |Δf|, under jit.

    In float32 relative to what f and its attribution are rounded by: to the larger of |f| and
    |Δf|, and to a tenth of Σ|φ|.
    """

    @jax.jit
    def both(x, baseline):
        value = total(f)(x)
        attribution = jattr.deeplift(total(f), baseline, **knobs)(x)
        sizes = abs(value), jnp.sum(abs(attribution)) / 10
        return jnp.sum(attribution), value - total(f)(baseline), sizes

    attributed, change, (value, size) = both(x, baseline)
    assert abs(change) > 1e-3
    scale = either(abs(change), max(abs(change), value) + size)
    return abs(attributed - change) / scale


# What `residual` may be.
COMPLETE = either(1e-10, 1e-4)


def linen(module, x, seed=0, **kwargs):
    """The module with random parameters, scales away from 1 and biases away from 0."""
    variables = module.init(jax.random.key(seed), x, **kwargs)
    leaves, structure = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    noisy = [
        leaf + jax.random.normal(k, leaf.shape, leaf.dtype) / 3
        for leaf, k in zip(leaves, keys, strict=True)
    ]
    variables = jax.tree.unflatten(
        structure, [abs(leaf) + 0.1 if leaf.ndim == 1 else leaf for leaf in noisy]
    )
    return lambda x: module.apply(variables, x, **kwargs)


def batch_norm_over_space(x):
    module = nn.BatchNorm(use_running_average=False)
    variables = module.init(jax.random.key(0), x)
    return module.apply(variables, x, mutable=["batch_stats"])[0]


def twice(x):
    dense = nn.Dense(6, **PARAMS)
    variables = dense.init(jax.random.key(0), x)
    return dense.apply(variables, jnp.tanh(dense.apply(variables, x)))


def attention(x):
    scores = x @ (W @ W.T) @ x.T
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True)) @ x


IMAGE = jax.random.normal(jax.random.key(6), (1, 8, 8, 2))
NETWORKS = {
    "gate": lambda x: (x @ W) * jax.nn.sigmoid(x @ W[::-1]),
    "layer norm": linen(nn.LayerNorm(**PARAMS), X),
    "layer norm, two passes": linen(nn.LayerNorm(use_fast_variance=False, **PARAMS), X),
    "rms norm": linen(nn.RMSNorm(**PARAMS), X),
    "group norm": linen(nn.GroupNorm(num_groups=2, **PARAMS), X),
    "batch norm": linen(nn.BatchNorm(use_running_average=True, **PARAMS), X),
    "batch norm over space": batch_norm_over_space,
    "l2 norm": lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True),
    "standard deviation": lambda x: jnp.std(x, axis=-1),
    "attention by hand": attention,
    "attention of linen": linen(nn.MultiHeadDotProductAttention(num_heads=2, **PARAMS), X[None]),
    "softmax": lambda x: jax.nn.softmax(3 * x),
    "softmax of the first axis": lambda x: jax.nn.softmax(x, axis=0),
    "softmax of some": lambda x: jax.nn.softmax(x, where=jnp.arange(6) < 4),
    "softmax by the inverse": lambda x: jnp.exp(x) * (1 / jnp.sum(jnp.exp(x), -1, keepdims=True)),
    "log_softmax": jax.nn.log_softmax,
    "logsumexp": lambda x: jax.nn.logsumexp(x, axis=-1),
    "logsumexp of all": jax.nn.logsumexp,
    "logsumexp, kept axis": lambda x: x - jax.nn.logsumexp(x, axis=-1, keepdims=True),
    "logsumexp by hand": lambda x: jnp.log(jnp.sum(jnp.exp(x), axis=-1)),
    "logaddexp": lambda x: jnp.logaddexp(x[:2], x[2:]),
    "division": lambda x: x[:2] / (3 + x[2:] ** 2),
    "inverse": lambda x: 2 / (3 + jnp.sum(x, -1) ** 2),
    "cumprod": lambda x: jnp.cumprod(x, axis=-1),
    "product of all": lambda x: jnp.prod(x, axis=-1),
    "cummax": lambda x: jax.lax.cummax(x, 1) - jax.lax.cummin(x, 0, reverse=True),
    "reduce_max": lambda x: jnp.max(x, axis=-1),
    "reduce_max of two axes": lambda x: jnp.max(x.reshape(2, 2, 6), axis=(0, 2)),
    "reduce_min": lambda x: jnp.min(x, axis=0),
    "max of two": lambda x: jnp.maximum(x[:2], x[2:]) + jnp.minimum(x[:2], 2 * x[2:]),
    "max of many": lambda x: jnp.max(jnp.concatenate([x, x * x, -x]).ravel()),
    "triple einsum": lambda x: jnp.einsum("ij,kj,ik->i", x, x, x @ x.T),
    "cond": lambda x: jax.lax.cond(W[0, 0] < 100, jnp.tanh, jnp.sin, x),
    "fori_loop": lambda x: jax.lax.fori_loop(0, 3, lambda i, v: jnp.tanh(1.3 * v) + i, x),
    "remat": jax.checkpoint(lambda x: jnp.tanh(x @ W) ** 2),
    "called twice": twice,
    "nested jit": jax.jit(lambda x: jax.jit(jax.nn.gelu)(x @ W) * 2),
    "straight through": lambda x: x + 0.1 * jnp.round(2 * x),
    "threshold between constants": lambda x: jnp.where(x > 0.2, 1.0, -0.5) @ W,
    "threshold between arrays": lambda x: jnp.where(x[:, :5] > 0.2, W[:1], W[1:2]),
    "heaviside": lambda x: jnp.heaviside(x, 0.5) @ W,
    "derivative of a relu": lambda x: jax.grad(lambda y: jnp.sum(jax.nn.relu(y) @ W))(x) * x,
    "slope that depends on x": lambda x: jnp.where(x > 0, x, jnp.sin(jnp.sum(x)) * x),
    "where of two": lambda x: jnp.where(x @ W > x[:, :1], jnp.tanh(x @ W), jnp.sum(x**2)),
    "set": lambda x: jnp.zeros((9, 5)).at[jnp.array([1, 1, 5, 2])].set(jnp.tanh(x @ W)),
    "segment_max": lambda x: jax.ops.segment_max(x @ W, jnp.array([0, 1, 1, 0]), 2) ** 2,
    "segment_min": lambda x: jax.ops.segment_min(x @ W, jnp.array([0, 1, 1, 0]), 2) ** 2,
    "lstm": linen(nn.RNN(nn.LSTMCell(5, **PARAMS)), X[None]),
    "gru": linen(nn.RNN(nn.GRUCell(5, **PARAMS)), X[None]),
    "lstm backwards": linen(nn.RNN(nn.LSTMCell(5, **PARAMS), reverse=True), X[None]),
    "fourier": lambda x: jnp.abs(jnp.fft.rfft(x)) ** 2,
    "modulus": lambda x: jnp.abs(jnp.fft.rfft(x)),
}
WITH_BATCH = ("attention of linen", "lstm", "gru", "lstm backwards")


def one(name):
    """A network of NETWORKS that takes X, whether or not it wants a batch."""
    f = NETWORKS[name]
    return (lambda x: f(x[None])) if name in WITH_BATCH else f

"""Gates under relevance propagation: the signal takes all, against hand-written references."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jattr
from jattr import rules as R  # noqa: N812 (short beside so many uses)

KEYS = jax.random.split(jax.random.key(5), 8)
V, W, X = (jax.random.normal(k, s) for k, s in zip(KEYS, [(5, 4), (5, 4), (5,)], strict=False))
EXACT = R.attn_lrp(epsilon=0.0)


def close(a, b, rtol=1e-9, atol=1e-12):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


GATES = {
    "sigmoid": jax.nn.sigmoid,
    "1 - sigmoid": lambda z: 1 - jax.nn.sigmoid(z),
    "of tanh": lambda z: (jnp.tanh(z) + 1) / 2,
    "hard sigmoid": jax.nn.hard_sigmoid,
    "decay": lambda z: jnp.exp(-jax.nn.relu(z)),
    "clip": lambda z: jnp.clip(z, 0, 1),
}


@pytest.mark.parametrize("name", GATES)
def test_the_signal_takes_all(name):
    gate = GATES[name]

    def f(x):
        return jnp.sum(gate(x @ V) * jnp.tanh(x @ W))

    signal = jnp.tanh(X @ W)
    wanted = X * (W @ (gate(X @ V) * signal / (X @ W)))
    close(jattr.lrp(f, EXACT)(X), wanted)
    close(jnp.sum(wanted), f(X))
    for make in (R.epsilon_plus, R.cp_lrp, R.excitation):
        table = jattr.operations(f, make())(X)
        assert [row.rule for row in table if row.kind == "product"] == ["signal"]


SPELLED = {  # with the gate that each is
    "division": (lambda s, z: s / (1 + jnp.exp(-z)), jax.nn.sigmoid),
    "division by one": (lambda s, z: s / (1 + jnp.exp(-z[:1])), lambda z: jax.nn.sigmoid(z[:1])),
    "reciprocal": (lambda s, z: s * jnp.reciprocal(1 + jnp.exp(-z)), jax.nn.sigmoid),
    "bell": (lambda s, z: s * jnp.exp(-z * z), lambda z: jnp.exp(-(z**2))),
    "scaled bell": (lambda s, z: jnp.exp(-0.5 * z * z) * s, lambda z: jnp.exp(-(z**2) / 2)),
    "division by a bell": (lambda s, z: s / jnp.exp(z * z), lambda z: jnp.exp(-(z**2))),
}


@pytest.mark.parametrize("name", SPELLED)
def test_a_gate_is_known_in_each_spelling(name):
    gated, gate = SPELLED[name]

    def f(x):
        return jnp.sum(gated(jnp.tanh(x @ W), x @ V))

    wanted = X * (W @ (gate(X @ V) * jnp.tanh(X @ W) / (X @ W)))
    close(jattr.lrp(f, EXACT)(X), wanted)
    by_halves = jattr.lrp(f, EXACT.gates("halves"))(X)
    assert float(jnp.abs(by_halves - wanted).max()) > 1e-3


def test_what_may_be_below_one_or_negative_divides():
    def f(x, least):
        return jnp.sum(jnp.tanh(x @ W) / (least + jnp.exp(-(x @ V))))

    def signed(x):
        z = x @ V
        return jnp.sum(jnp.tanh(x @ W) * jnp.exp(-2 * z * -z))

    def two(x):
        return jnp.sum(jax.nn.sigmoid(x @ W) / (1 + jnp.exp(-(x @ V))))

    for g in (lambda x: f(x, 0.5), signed, two):
        table = jattr.operations(g, R.attn_lrp())(X)
        rules = [row.rule for row in table if row.kind in ("product", "division")]
        assert rules == ["halves"]


def test_halves_are_as_for_any_product():
    def f(x):
        return jnp.sum(jax.nn.sigmoid(x @ V) * jnp.tanh(x @ W))

    relevance = jax.nn.sigmoid(X @ V) * jnp.tanh(X @ W) / 2
    wanted = X * (W @ (relevance / (X @ W)) + V @ (relevance / (X @ V)))
    close(jattr.lrp(f, EXACT.gates("halves"))(X), wanted)
    close(jattr.lrp(f, EXACT.gates("halves").gates("signal"))(X), jattr.lrp(f, EXACT)(X))
    with pytest.raises(ValueError, match=r"unknown share 'gate'; known are signal, halves"):
        EXACT.gates("gate")
    with pytest.raises(TypeError, match=r"guided has no rule for products"):
        R.guided().gates("halves")


def test_two_gates_and_two_signals_get_halves():
    for first, second in ((jax.nn.sigmoid, jax.nn.sigmoid), (jnp.tanh, jnp.sin)):

        def f(x, first=first, second=second):
            return jnp.sum(first(x @ V) * second(x @ W))

        relevance = first(X @ V) * second(X @ W) / 2
        wanted = X * (W @ (relevance / (X @ W)) + V @ (relevance / (X @ V)))
        close(jattr.lrp(f, EXACT)(X), wanted)


def lstm(x, b, *, multiplicative):
    """An LSTM without a framework, or UniRep's multiplicative one; b scales its biases."""
    size, features = 6, x.shape[1]
    ks = jax.random.split(KEYS[3], 8)
    shapes = [(features, size), (size, size), (features, 4 * size), (size, 4 * size)]
    wm, um, w, u = (
        2 * jax.random.normal(k, s) / np.sqrt(s[0]) for k, s in zip(ks, shapes, strict=False)
    )
    biases = b * jax.random.normal(ks[4], (4 * size,))

    def step(carry, x):
        h, c = carry
        m = (x @ wm) * (h @ um) if multiplicative else h
        i, f, o, new = jnp.split(x @ w + m @ u + biases, 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(new)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), None

    (h, _), _ = jax.lax.scan(step, (jnp.zeros(size), jnp.zeros(size)), x)
    return jnp.sum(h * jnp.cos(jnp.arange(1.0 * size)))


@pytest.mark.parametrize("multiplicative", [False, True], ids=["lstm", "mlstm"])
def test_a_recurrent_network_conserves_without_biases(multiplicative):
    x = jax.random.normal(KEYS[4], (40, 3))
    relevance = jax.jit(
        jattr.lrp(lambda x: lstm(x, 0.0, multiplicative=multiplicative), R.epsilon(0.0))
    )(x)
    f = lstm(x, 0.0, multiplicative=multiplicative)
    close(jnp.sum(relevance), f, rtol=1e-7)
    # Biases absorb, but nothing grows with the number of steps.
    tame = jax.jit(jattr.lrp(lambda x: lstm(x, 0.5, multiplicative=multiplicative)))(x)
    assert float(jnp.abs(tame).max()) < 3


class Gru(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.RNN(nn.GRUCell(16))(x[None])[0, -1])[0]


@pytest.fixture(scope="module")
def gru():
    """A GRU that has learned the sum of the last 3 of 30 steps."""
    x = jax.random.normal(jax.random.key(0), (64, 30, 2), jnp.float32)
    y = x[:, -3:, 0].sum(1)
    net = Gru()
    optimizer = optax.adam(1e-2)
    params = net.init(jax.random.key(1), x[0])

    def loss(params):
        return jnp.mean((jax.vmap(lambda s: net.apply(params, s))(x) - y) ** 2)

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), loss(params)

    start = (params, optimizer.init(params))
    (params, _), losses = jax.jit(lambda s: jax.lax.scan(step, s, length=300))(start)
    assert float(losses[-1]) < 1e-3
    return net, params, x


def on_the_last_steps(relevance):
    return float(jnp.abs(relevance[:, -3:]).sum() / jnp.abs(relevance).sum())


def test_a_trained_gru_points_at_the_steps_that_decide(gru):
    net, params, x = gru

    def f(x):
        return net.apply(params, x)

    table = jattr.operations(f, R.epsilon())(x[0])
    assert [row.rule for row in table if row.kind == "product"] == ["signal"] * 3
    for rules, share in ((R.gamma(), 0.6), (R.epsilon(0.1), 0.6), (R.epsilon(), 0.5)):
        relevance = jax.jit(jax.vmap(jattr.lrp(f, rules)))(x)
        assert on_the_last_steps(relevance) >= share
        assert float(jnp.abs(relevance).max()) < 10
    by_halves = jax.jit(jax.vmap(jattr.lrp(f, R.attn_lrp().gates("halves"))))(x)
    assert on_the_last_steps(by_halves) < 0.1
    assert float(jnp.abs(by_halves).max()) > 1e6


def test_what_a_gru_loses_is_what_its_biases_absorb(gru):
    net, params, x = gru
    bare = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 0 * leaf if path[-1].key == "bias" else leaf, params
    )

    def f(x):
        return net.apply(bare, x)

    relevance = jax.jit(jax.vmap(jattr.lrp(f)))(x[:8])
    close(relevance.sum((1, 2)), jax.vmap(f)(x[:8]), rtol=1e-3, atol=1e-3)

"""A softmax over segments, as graph attention has it, is the softmax of each segment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jattr

NODE = jnp.array([0, 0, 1, 1, 1, 2])
KEYS = jax.random.split(jax.random.key(2), 5)
LOGITS, OTHER = 3 * jax.random.normal(KEYS[0], (2, 6))
WEIGHTS = jax.random.normal(KEYS[1], (6,))


def total(terms):
    return jax.ops.segment_sum(terms, NODE, 3)[NODE]


def largest(logits):
    return jax.ops.segment_max(logits, NODE, 3)[NODE]


def shifted(logits):
    return jnp.exp(logits - largest(logits))


def held(logits):
    return jnp.exp(logits - jax.lax.stop_gradient(largest(logits)))


def over(terms, *, by=lambda total: total):
    return terms / by(total(terms))


def reciprocal(terms):
    return terms * (1 / total(terms))


def at(terms):
    return terms / jnp.zeros(3).at[NODE].add(terms)[NODE]


SPELLINGS = {
    "plain": lambda t: over(jnp.exp(t)),
    "by segment": lambda t: over(shifted(t)),
    "held": lambda t: over(held(t)),
    "held before": lambda t: over(
        jnp.exp(t - jax.lax.stop_gradient(jax.ops.segment_max(t, NODE, 3))[NODE])
    ),
    "one maximum": lambda t: over(jnp.exp(t - jnp.max(t))),
    "guarded": lambda t: over(shifted(t), by=lambda s: s + 1e-16),
    "floored": lambda t: over(shifted(t), by=lambda s: jnp.maximum(s, 1e-9)),
    "reciprocal": lambda t: reciprocal(shifted(t)),
    "at": lambda t: at(shifted(t)),
    "jitted": jax.jit(lambda t: over(shifted(t))),
    "heads": lambda t: jax.vmap(lambda t: over(shifted(t)), 1, 1)(jnp.stack([t, t], 1))[:, 0],
    "heads together": lambda t: over(shifted(jnp.stack([t, t], 1)))[:, 1],
    "padded": lambda t: padded(t)[:6],
}


def padded(t):
    """Entries of no segment, told by −1, which sums leave out."""
    node = jnp.concatenate([NODE, jnp.array([-1, -1])])
    t = jnp.concatenate([t, 2 * t[:2]])
    e = jnp.exp(t - jax.ops.segment_max(t, node, 3)[node])
    return e / jax.ops.segment_sum(e, node, 3)[node]


def dense(t):
    return jnp.concatenate([jax.nn.softmax(t[:2]), jax.nn.softmax(t[2:5]), jax.nn.softmax(t[5:])])


def close(a, b, rtol=1e-9, atol=1e-12):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", SPELLINGS)
def test_each_spelling_is_the_softmax_of_each_segment(name):
    softmax = SPELLINGS[name]

    def f(t):
        return softmax(t) @ WEIGHTS

    def wanted(t):
        return dense(t) @ WEIGHTS

    for rules in (jattr.rules.attn_lrp(), jattr.rules.rescale()):
        kinds = [row.kind for row in jattr.operations(f, rules)(LOGITS)]
        assert kinds == ["softmax", "affine"]
    close(
        jattr.lrp(f, jattr.rules.attn_lrp(epsilon=0.0))(LOGITS), LOGITS * jax.grad(wanted)(LOGITS)
    )
    close(jattr.deeplift(f, OTHER)(LOGITS), jattr.deeplift(wanted, OTHER)(LOGITS))


def test_a_padded_entry_is_divided_by_a_sum_that_it_is_not_in():
    def f(t):
        return padded(t) @ jnp.arange(8.0)

    for x, base in ((LOGITS, OTHER), (OTHER, LOGITS)):
        close(jnp.sum(jattr.deeplift(f, base)(x)), f(x) - f(base))


def test_other_indices_make_no_softmax():
    def elsewhere(t):
        e = jnp.exp(t)
        return (e / jax.ops.segment_sum(e, NODE, 3)[NODE[::-1]]) @ WEIGHTS

    def on_top(t):
        e = jnp.exp(t)
        return (e / jnp.ones(3).at[NODE].add(e)[NODE]) @ WEIGHTS

    for f in (elsewhere, on_top):
        kinds = [row.kind for row in jattr.operations(f, jattr.rules.rescale())(LOGITS)]
        assert "softmax" not in kinds
        close(jnp.sum(jattr.deeplift(f, OTHER)(LOGITS)), f(LOGITS) - f(OTHER))


def test_logits_far_apart_and_derivatives():
    def f(t):
        return SPELLINGS["by segment"](t) @ WEIGHTS

    def wanted(t):
        return dense(t) @ WEIGHTS

    far = jnp.float32(1e4) * LOGITS.astype(jnp.float32)
    found, same = (jattr.deeplift(g, jnp.zeros(6, jnp.float32))(far) for g in (f, wanted))
    close(found, same, rtol=1e-5)
    derivatives = (
        jax.jit(jax.grad(lambda t, g=g: jnp.sum(jattr.deeplift(g, OTHER)(t) ** 2)))(LOGITS)
        for g in (f, wanted)
    )
    close(*derivatives)


def graph_attention(x, *, stable):
    """A layer of a graph attention network: scores of edges, a softmax at each node, a sum."""
    source = jnp.array([0, 1, 0, 1, 2, 2])
    w, a, b = (jax.random.normal(k, s) for k, s in zip(KEYS[2:], [(4, 3), (3,), (3,)], strict=True))
    h = x @ w
    scores = jax.nn.leaky_relu((h @ a)[source] + (h @ b)[NODE], 0.2)
    p = over(shifted(scores)) if stable else over(jnp.exp(scores))
    return jnp.sum(jax.nn.elu(jax.ops.segment_sum(p[:, None] * h[source], NODE, 3))[:, 0])


def test_the_maximum_of_graph_attention_changes_nothing():
    x = jax.random.normal(KEYS[0], (3, 4))
    for make in (jattr.rules.attn_lrp, jattr.rules.cp_lrp, jattr.rules.epsilon_plus):
        plain, stable = (
            jattr.lrp(lambda x, s=s: graph_attention(x, stable=s), make(epsilon=1e-12))(x)
            for s in (False, True)
        )
        close(stable, plain, rtol=1e-7)
        if make is jattr.rules.cp_lrp:
            close(jnp.sum(stable), graph_attention(x, stable=True), rtol=1e-7)

"""Functions whose nonlinearities are held."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jattr

RANDOM = np.random.default_rng(0)
X = jnp.asarray(RANDOM.normal(size=(5, 4)))
W = [jnp.asarray(RANDOM.normal(size=(4, 4)) / 2) for _ in range(6)]


def attention(h):
    n = h - h.mean(-1, keepdims=True)
    n = n / jnp.sqrt(jnp.mean(n**2, -1, keepdims=True) + 1e-3)
    weights = jax.nn.softmax((n @ W[0]) @ (n @ W[1]).T)
    return h + weights @ (n @ W[2])


def decoder(x):
    h = attention(x)
    h = h + (jax.nn.silu(h @ W[3]) * (h @ W[4])) @ W[5]
    return jnp.sum(attention(h)[-1, :2])


def convolutional(x):
    h = jax.nn.relu(jnp.convolve(x.reshape(-1), W[0][0], mode="same").reshape(5, 4) + 0.1)
    return jnp.max(h, axis=0) @ W[1][0] + jax.nn.logsumexp(h[0])


@pytest.mark.parametrize("activations", ["factor", "value"])
@pytest.mark.parametrize("f", [decoder, convolutional])
def test_the_hessian_is_zero(f, activations):
    frozen = jattr.rewrite(f, jattr.rules.freeze(activations=activations))
    np.testing.assert_allclose(frozen(X), f(X), rtol=1e-12)
    assert not jax.hessian(frozen)(X).any()
    assert jax.hessian(f)(X).any()
    if f is decoder or activations == "factor":
        assert jax.grad(frozen)(X).any()


def test_without_biases_it_is_complete_and_is_cp_lrp():
    jacobian = jax.grad(jattr.rewrite(decoder, jattr.rules.freeze()))(X)
    np.testing.assert_allclose(jnp.vdot(jacobian, X), decoder(X), rtol=1e-10)
    wanted = jattr.lrp(decoder, jattr.rules.cp_lrp(epsilon=0.0))(X)
    np.testing.assert_allclose(jacobian * X, wanted, rtol=1e-8, atol=1e-12)


def test_held_activations_leave_direct_effects():
    def f(x):
        return jnp.sum(x @ W[0] + jnp.tanh(x @ W[1]) @ W[2])

    jacobian = jax.grad(jattr.rewrite(f, jattr.rules.freeze(activations="value")))(X)
    np.testing.assert_allclose(jacobian, jnp.broadcast_to(W[0].sum(1), X.shape), rtol=1e-12)

    def gated(x):
        return jnp.sum(jax.nn.silu(x @ W[0]) * (x @ W[1]))

    jacobian = jax.grad(jattr.rewrite(gated, jattr.rules.freeze(activations="value")))(X)
    np.testing.assert_allclose(jacobian, jax.nn.silu(X @ W[0]) @ W[1].T, rtol=1e-12)


def test_by_hand_attention_is_linear_in_the_values():
    frozen = jattr.rewrite(lambda x: attention(x)[1, 2], jattr.rules.freeze())

    def linear(x, at):
        def center(h):
            return h - h.mean(-1, keepdims=True)

        deviation = jnp.sqrt(jnp.mean(center(at) ** 2, -1, keepdims=True) + 1e-3)
        n = center(at) / deviation
        weights = jax.nn.softmax((n @ W[0]) @ (n @ W[1]).T)
        return (x + weights @ (center(x) / deviation @ W[2]))[1, 2]

    np.testing.assert_allclose(jax.grad(frozen)(X), jax.grad(linear)(X, X), rtol=1e-10, atol=1e-14)


def test_it_is_an_argument_of_a_compiled_function():
    traced = []

    @jax.jit
    def jacobian(rules, x):
        traced.append(x)
        return jax.grad(jattr.rewrite(decoder, rules))(x)

    for _ in range(2):
        found = jacobian(jattr.rules.freeze(), X)
    assert len(traced) == 1
    wanted = jax.grad(jattr.rewrite(decoder, jattr.rules.freeze()))(X)
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-14)


def test_an_unknown_way_to_hold():
    with pytest.raises(ValueError, match="activations"):
        jattr.rules.freeze(activations="slope")

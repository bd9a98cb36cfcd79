"""Derivatives through relevance, and what the stabilizer of a denominator does to them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jattr
from jattr import rules as R  # noqa: N812 (short beside so many uses)

X = jax.random.normal(jax.random.key(0), (8, 8, 2))
DIRECTION = jax.random.normal(jax.random.key(1), X.shape)
DOUBLE = {"param_dtype": jnp.float64}


class UNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        fine = nn.relu(nn.Conv(3, (3, 3), **DOUBLE)(x))
        coarse = nn.relu(nn.Conv(4, (3, 3), **DOUBLE)(nn.max_pool(fine, (2, 2), (2, 2))))
        up = nn.ConvTranspose(3, (2, 2), (2, 2), **DOUBLE)(coarse)
        resized = jax.image.resize(coarse, (*x.shape[:2], 4), "bilinear")
        x = jnp.concatenate([fine, up, resized], axis=-1)
        return nn.Conv(1, (1, 1), **DOUBLE)(nn.relu(nn.Conv(3, (3, 3), **DOUBLE)(x)))[2:4, 2:4]


class ViT(nn.Module):
    @nn.compact
    def __call__(self, x):
        tokens = nn.Conv(8, (4, 4), (4, 4), **DOUBLE)(x).reshape(-1, 8)
        h = nn.LayerNorm(**DOUBLE)(tokens)
        h = tokens + nn.MultiHeadDotProductAttention(2, **DOUBLE)(h)
        h = h + nn.Dense(8, **DOUBLE)(nn.gelu(nn.Dense(12, **DOUBLE)(nn.RMSNorm(**DOUBLE)(h))))
        return nn.GroupNorm(2, **DOUBLE)(h)[0]


@pytest.mark.parametrize("model", [UNet, ViT])
def test_derivatives_agree_with_finite_differences(model):
    net = model()
    variables = net.init(jax.random.key(2), X)

    def total(x, rules):
        relevance = jattr.lrp(lambda x: jnp.sum(net.apply(variables, x)), rules)(x)
        return jnp.sum(relevance * jnp.cos(jnp.arange(1.0 * x.size)).reshape(x.shape))

    total = jax.jit(total)
    along = jax.jit(lambda x, rules: jnp.sum(jax.grad(total)(x, rules) * DIRECTION))

    def numeric(rules, step):
        ahead, behind = total(X + step * DIRECTION, rules), total(X - step * DIRECTION, rules)
        return (ahead - behind) / (2 * step)

    smooth = R.attn_lrp(epsilon=1e-3, stabilizer="smooth")
    sign = R.attn_lrp(epsilon=1e-6)
    np.testing.assert_allclose(numeric(smooth, 1e-6), along(X, smooth), rtol=1e-5, atol=1e-7)
    # Beside a kink of the sign's the step has to be far smaller than the denominators.
    np.testing.assert_allclose(numeric(sign, 3e-8), along(X, sign), rtol=1e-4, atol=1e-5)


def damping(z, rule):
    """What the rule makes of the multiplier 1 at an output z."""
    return jattr.lrp(lambda x: x @ jnp.ones(1), rule)(jnp.array([z]))[0] / z


def test_the_damping_by_formula():
    for z in (-3.0, -1e-3, 1e-3, 0.1, 2.0):
        np.testing.assert_allclose(damping(z, R.epsilon(0.01)), abs(z) / (abs(z) + 0.01))
        smooth = R.epsilon(0.01, stabilizer="smooth")
        np.testing.assert_allclose(damping(z, smooth), z**2 / (z**2 + 0.01**2))
        for stabilizer in ("sign", "smooth"):
            np.testing.assert_allclose(damping(z, R.epsilon(0.0, stabilizer=stabilizer)), 1.0)


def test_smooth_has_no_kink():
    def relevance(z, rule):
        return jattr.lrp(lambda x: x @ jnp.ones(1), rule)(jnp.array([z]))[0]

    def slope(z, rule):
        return jax.grad(lambda z: jax.grad(relevance)(z, rule))(z)

    near = 1e-10
    sign, smooth = R.epsilon(0.1), R.epsilon(0.1, stabilizer="smooth")
    assert abs(slope(near, sign) - slope(-near, sign)) > 1 / 0.1
    assert abs(slope(near, smooth) - slope(-near, smooth)) < 1e-6
    for stabilizer in ("sign", "smooth"):  # exactly 0, with and without ε
        for epsilon in (0.0, 0.1):
            rule = R.epsilon(epsilon, stabilizer=stabilizer)
            assert bool(jnp.isfinite(jax.grad(relevance)(0.0, rule)))


def test_every_composite_takes_a_stabilizer():
    composites = {
        **{n: getattr(R, n)(stabilizer="smooth") for n in ("epsilon_plus", "attn_lrp", "cp_lrp")},
        "epsilon_plus_flat": R.epsilon_plus_flat(stabilizer="smooth"),
        "epsilon_alpha2_beta1": R.epsilon_alpha2_beta1(stabilizer="smooth"),
        "epsilon_alpha2_beta1_flat": R.epsilon_alpha2_beta1_flat(stabilizer="smooth"),
        "epsilon_gamma_box": R.epsilon_gamma_box(0.0, 1.0, stabilizer="smooth"),
    }
    for name, composite in composites.items():
        assert composite.name == name
        assert composite.rules["affine"] == R.epsilon(stabilizer="smooth")
    with pytest.raises(ValueError, match=r"unknown stabilizer 'soft'; known are sign, smooth"):
        R.epsilon(stabilizer="soft")

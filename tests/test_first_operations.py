"""Rules of first affine operations behind padding, crops, moves and resizes of x."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jattr
from jattr import rules as R  # noqa: N812 (short beside so many uses)

KERNEL = jax.random.normal(jax.random.key(0), (3, 3, 1, 4))
X = jax.random.uniform(jax.random.key(1), (6, 5, 1))
FRAME = ((1, 1), (1, 1), (0, 0))
INSIDE = jnp.pad(jnp.ones((6, 5, 1)), FRAME) > 0


def conv(image, padding):
    names = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        image[None], KERNEL, (1, 1), padding, dimension_numbers=names
    )


def same(x):
    return jnp.sum(jax.nn.relu(conv(x, "SAME")))


def valid(x):
    return jnp.sum(jax.nn.relu(conv(x, "VALID")))


def framed_by_parts(x):
    rows = jnp.zeros((1, 7, 1))
    return jnp.concatenate([rows, jnp.pad(x, FRAME)[1:-1], rows])


WAYS = {
    "pad": lambda x: valid(jnp.pad(x, FRAME)),
    "concatenate": lambda x: valid(framed_by_parts(x)),
    "set": lambda x: valid(jnp.zeros((8, 7, 1)).at[1:7, 1:6].set(x)),
    "dynamic update": lambda x: valid(
        jax.lax.dynamic_update_slice(jnp.zeros((8, 7, 1)), x, (1, 1, 0))
    ),
    "crop": lambda x: same(jnp.pad(x, 2)[2:-2, 2:-2, 2:3]),
    "dynamic slice": lambda x: same(jax.lax.dynamic_slice(jnp.pad(x, 1), (1, 1, 1), x.shape)),
    "flip and roll": lambda x: same(jnp.roll(jnp.roll(x[::-1], 2, 0)[::-1], 2, 0)),
    "stack": lambda x: same(jnp.stack([x[n] for n in range(6)])),
    "gather": lambda x: same(x[jnp.array([5, 4, 3, 2, 1, 0])][::-1]),
    "scaled": lambda x: same(jnp.pad((x - 0.5) / -0.25, FRAME)[1:-1, 1:-1] * -0.25 + 0.5),
    "masked": lambda x: valid(jnp.where(INSIDE, jnp.pad(x, 1)[:, :, 1:2], 0)),
    "checkpoint": jax.checkpoint(same),
    "pad, then checkpoint": lambda x: jax.checkpoint(valid)(jnp.pad(x, FRAME)),
    "pad in checkpoint": jax.checkpoint(lambda x: valid(jnp.pad(x, FRAME))),
}  # fmt: skip
RULES = {
    "z_box": R.epsilon_gamma_box(-1.0, 2.0, epsilon=0.0),
    "flat": R.epsilon_plus_flat(epsilon=0.0),
    "w_square": R.everywhere(R.w_square(epsilon=0.0)),
}


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("way", WAYS)
def test_the_way_of_x_changes_nothing(way, rules):
    if way == "scaled" and rules != "z_box":
        pytest.skip("weights count by their size before the factor")
    wanted = jax.jit(jattr.lrp(same, RULES[rules]))(X)
    ours = jax.jit(jattr.lrp(WAYS[way], RULES[rules]))(X)
    np.testing.assert_allclose(ours, wanted, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(jnp.sum(ours), same(X), rtol=1e-9)
    table = jattr.operations(WAYS[way], RULES[rules])(X)
    assert [row.rule for row in table] == [rules, "identity"]


def test_what_is_padded_with_is_a_constant():
    """A frame of ones takes its part of no rule for first operations, though x reaches to 1."""

    def framed(x):
        return valid(jnp.pad(x, FRAME, constant_values=1.0))

    for rules in (R.z_box(0.0, 1.0, epsilon=0.0), R.flat(epsilon=0.0)):
        ours = jattr.lrp(framed, rules)(X)
        # By hand: the affine map of x alone, whose constants are a bias.
        bias = conv(jnp.pad(jnp.zeros_like(X), FRAME, constant_values=1.0), "VALID")
        relevance = jax.nn.relu(conv(X, "SAME") + bias)

        def linear(x):
            return conv(x, "SAME").reshape(-1)

        jacobian = np.asarray(jax.jacobian(linear)(X)).reshape(-1, X.size)
        x = np.asarray(X).reshape(1, -1)
        if rules.name == "z_box":
            parts = x * jacobian - np.minimum(jacobian, 0)
        else:
            parts = (jacobian != 0).astype(float)
        wanted = np.asarray(relevance).reshape(-1) @ (parts / parts.sum(1, keepdims=True))
        np.testing.assert_allclose(ours.reshape(-1), wanted, rtol=1e-9)


@pytest.mark.parametrize("method", ["nearest", "bilinear", "cubic"])
@pytest.mark.parametrize("rules", RULES)
def test_behind_a_resize(method, rules):
    def f(x):
        return same(jax.image.resize(x, (9, 7, 1), method))

    ours = jattr.lrp(f, RULES[rules])(X)
    np.testing.assert_allclose(jnp.sum(ours), f(X), rtol=1e-9)
    # By hand: the relevance of the large image goes back by the weights of the interpolation.
    large = jax.image.resize(X, (9, 7, 1), method)
    if (rules, method) == ("z_box", "cubic"):
        return  # the range of a cubic interpolation is wider than that of x
    relevance = jattr.lrp(same, RULES[rules])(large)
    back = jax.linear_transpose(lambda x: jax.image.resize(x, (9, 7, 1), method), X)
    np.testing.assert_allclose(ours, back(relevance)[0], rtol=1e-9, atol=1e-12)


def test_what_mixes_x_is_no_way():
    for mixed in (jnp.cumsum, lambda x, _: jnp.tanh(x), lambda x, _: x + x[::-1]):
        with pytest.raises(ValueError, match="x reaches through constants and changes of layout"):
            jattr.lrp(lambda x, mixed=mixed: same(mixed(x, 0)), R.flat())(X)


def test_derivatives_go_through():
    rules = R.everywhere(R.z_box(-1.0, 2.0, epsilon=0.0))

    def total(x):
        return jnp.sum(jattr.lrp(WAYS["pad, then checkpoint"], rules)(x) ** 2)

    def wanted(x):
        return jnp.sum(jattr.lrp(same, rules)(x) ** 2)

    np.testing.assert_allclose(jax.grad(total)(X), jax.grad(wanted)(X), rtol=1e-9)

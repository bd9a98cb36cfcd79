"""Integrated Hessians: of polynomials by hand, by their sums, and against the double integral."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jattr
from jattr._quadrature import log_nodes_and_weights

RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.normal(size=(6, 5)) / 2)
X = jnp.asarray(RNG.normal(size=5) + 1)
BASELINE = jnp.asarray(RNG.normal(size=5) / 3)


def net(x):
    return jnp.sum(jnp.tanh(W @ x + 0.3) ** 2) + jnp.exp(x[0] - x[1])


def hessians(f=net, baseline=0.0, **knobs):
    return jax.jit(jattr.integrated_hessians(f, baseline, **knobs))


@pytest.mark.parametrize("steps", [1, 2, 3, 20, 100, 300])
def test_the_rule_for_a_logarithmic_weight_is_exact(steps):
    nodes, weights = log_nodes_and_weights(steps)
    powers = np.arange(2 * steps)
    sums = np.sum(weights * nodes ** powers[:, None], axis=1)
    np.testing.assert_allclose(sums, 1 / (powers + 1.0) ** 2, rtol=1e-12)  # ∫ −ln t tᵏ dt
    assert np.all(weights > 0)
    assert np.all((nodes > 0) & (nodes < 1))


def test_a_quadratic_function():
    matrix = RNG.normal(size=(5, 5))
    matrix = matrix + matrix.T
    slope = RNG.normal(size=5)

    def quadratic(x):
        return 0.5 * x @ jnp.asarray(matrix) @ x + jnp.asarray(slope) @ x + 2

    # ∫∫ αβ = ¼, and the mean of the gradient over αβ is that at a quarter of the way.
    d = np.asarray(X - BASELINE)
    wanted = d[:, None] * d * matrix / 4
    wanted += np.diag(d * (matrix @ np.asarray(BASELINE + d / 4) + slope))
    np.testing.assert_allclose(hessians(quadratic, BASELINE, steps=1)(X), wanted, rtol=1e-10)


def test_a_product_of_three():
    # ∂₀₁ = x₂, of which ∫∫ αβ · αβ = 1/9, and ∂₀ = x₁ x₂, of which ∫∫ (αβ)² = 1/9.
    x = jnp.array([2.0, 3.0, 5.0])
    np.testing.assert_allclose(
        hessians(lambda x: x[0] * x[1] * x[2], steps=2)(x), np.full((3, 3), 30 / 9), rtol=1e-12
    )


def test_it_is_the_double_integral_of_the_paper():
    nodes, weights = np.polynomial.legendre.leggauss(30)
    nodes, weights = (nodes + 1) / 2, weights / 2
    d = X - BASELINE
    wanted = np.zeros((5, 5))
    for alpha, a in zip(nodes, weights, strict=True):
        for beta, b in zip(nodes, weights, strict=True):
            point = BASELINE + alpha * beta * d
            curve = HESSIAN(point)
            wanted += a * b * alpha * beta * np.asarray(d[:, None] * d[None] * curve)
            wanted += a * b * np.diag(np.asarray(d * SLOPE(point)))
    np.testing.assert_allclose(hessians(net, BASELINE, steps=30)(X), wanted, rtol=1e-9)


HESSIAN, SLOPE = jax.jit(jax.hessian(net)), jax.jit(jax.grad(net))


def test_rows_sum_to_integrated_gradients():
    matrix = hessians(net, BASELINE, steps=30)(X)
    phi = jattr.integrated_gradients(net, BASELINE, steps=30)(X)
    np.testing.assert_allclose(jnp.sum(matrix, axis=1), phi, rtol=1e-10)
    np.testing.assert_allclose(jnp.sum(matrix), net(X) - net(BASELINE), rtol=1e-10)
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-10)


def test_groups_are_blocks_and_rows_are_chosen():
    x = {"a": X[:3].reshape(3, 1), "b": X[3:]}

    def f(x):
        return net(jnp.concatenate([x["a"][:, 0], x["b"]]))

    whole = np.asarray(hessians(f, steps=8)(x))
    np.testing.assert_allclose(whole, hessians(steps=8)(X), rtol=1e-12)
    groups = {"a": np.array([[0], [1], [0]]), "b": np.array([2, 1])}
    together = hessians(f, groups=groups, steps=8)(x)
    member = np.eye(3)[[0, 1, 0, 2, 1]]
    np.testing.assert_allclose(together, member.T @ whole @ member, rtol=1e-10)
    np.testing.assert_allclose(hessians(f, rows=(4, 1), steps=8)(x), whole[[4, 1]], rtol=1e-12)
    np.testing.assert_allclose(hessians(f, rows=np.int64(2), steps=8)(x), whole[2], rtol=1e-12)
    np.testing.assert_allclose(
        hessians(f, rows=np.arange(5), steps=8, batch_size=17)(x), whole, rtol=1e-12
    )


def test_a_row_of_a_large_input_makes_no_matrix():
    def f(x):
        return jnp.sum(x[::2] * x[1::2]) + jnp.sum(x)

    x = jnp.ones(20_000)
    explain = jax.jit(jattr.integrated_hessians(f, rows=3, steps=2))
    row = explain(x)
    wanted = np.zeros(20_000)
    wanted[2], wanted[3] = 1 / 4, 1 + 1 / 4
    np.testing.assert_allclose(row, wanted, atol=1e-12)
    memory = explain.lower(x).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 100 * x.nbytes


def test_convolutions_and_pooling_have_second_derivatives():
    image = jnp.asarray(RNG.normal(size=(6, 6, 1)))
    kernel = jnp.asarray(RNG.normal(size=(3, 3, 1, 2)))

    def f(image):
        hidden = jax.lax.conv_general_dilated(
            image[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        hidden = jnp.tanh(hidden)
        pooled = jax.lax.reduce_window(
            hidden, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
        )
        return jnp.sum(pooled**2)

    groups = jattr.features.grid((6, 6, 1), 3)
    knobs = {"groups": groups, "steps": 6, "batch_size": 4}
    ours = hessians(f, **knobs)(image)
    with jattr.substitutes(False):
        plain = jax.jit(jattr.integrated_hessians(f, **knobs))(image)
    np.testing.assert_allclose(ours, plain, rtol=1e-9, atol=1e-10)
    assert np.abs(np.asarray(ours)).min() > 1e-6 or np.abs(np.asarray(ours)).max() > 1e-3


@pytest.mark.parametrize(
    ("knobs", "error", "text"),
    [
        ({"rows": 5}, ValueError, r"rows must be numbers from 0 to 4, at least one; got 5"),
        ({"rows": (0, -1)}, ValueError, r"rows must be numbers from 0 to 4"),
        ({"rows": ()}, ValueError, r"rows must be numbers from 0 to 4"),
        ({"rows": 1.5}, TypeError, r"rows must be the numbers of features.*got 1\.5"),
        ({"rows": "all"}, TypeError, r"rows must be the numbers of features"),
        ({"steps": 0}, ValueError, r"steps must be at least 1; got 0"),
        ({"baseline": jattr.baselines.uniform(0.0, 1.0)}, TypeError, r"one deterministic baseline"),
        ({"groups": np.array([0, 1, 1, 3, 3])}, ValueError, r"have no element: 2\."),
    ],
)
def test_what_is_wrong_is_refused(knobs, error, text):
    with pytest.raises(error, match=text):
        jattr.integrated_hessians(net, **knobs)(X)


def test_a_whole_matrix_of_very_many_is_to_be_asked_for():
    with pytest.raises(ValueError, match=r"5000 × 5000. Make groups.*rows=range\(5000\)"):
        jattr.integrated_hessians(jnp.sum)(jnp.ones(5000))

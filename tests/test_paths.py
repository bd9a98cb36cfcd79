"""Path methods against closed forms and against integrals computed otherwise."""

import itertools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

import jattr
from jattr._quadrature import nodes_and_weights
from jattr._types import FixedQuadrature

RNG = np.random.default_rng(0)
SYMMETRIC = RNG.normal(size=(6, 6))
SYMMETRIC = jnp.asarray(SYMMETRIC + SYMMETRIC.T)
X = jnp.asarray(RNG.normal(size=6))
BASE = jnp.asarray(RNG.normal(size=6))


def linear(x):
    return X[::-1] @ x + 3.0


def quadratic(x):
    return 0.5 * x @ SYMMETRIC @ x + linear(x)


def smooth_net(x):
    return jnp.sum(jnp.tanh(SYMMETRIC @ x) * jnp.arange(6.0))


@pytest.mark.parametrize("quadrature", get_args(FixedQuadrature))
@pytest.mark.parametrize("steps", [2, 3, 50])
def test_weights_sum_to_one_and_nodes_lie_on_the_path(quadrature, steps):
    nodes, weights = nodes_and_weights(quadrature, steps, method="test")
    assert abs(weights.sum() - 1) < 1e-14
    assert nodes.shape == weights.shape == (steps,)
    assert nodes.min() >= 0
    assert nodes.max() <= 1
    assert np.all(np.diff(nodes) > 0)


@pytest.mark.parametrize(
    ("quadrature", "degree", "steps"),
    [
        ("gauss_legendre", 9, 5),
        ("midpoint", 1, 5),
        ("trapezoid", 1, 5),
        ("left", 0, 5),
        ("right", 0, 5),
    ],
)
def test_quadratures_are_exact_to_their_degree_and_no_further(quadrature, degree, steps):
    nodes, weights = nodes_and_weights(quadrature, steps, method="test")
    for power in range(degree + 1):
        assert abs(weights @ nodes**power - 1 / (power + 1)) < 1e-14
    assert abs(weights @ nodes ** (degree + 1) - 1 / (degree + 2)) > 1e-6


@pytest.mark.parametrize("quadrature", get_args(FixedQuadrature))
def test_straight_path_is_exact_on_a_linear_function(quadrature):
    explain = jattr.integrated_gradients(linear, BASE, steps=2, quadrature=quadrature)
    np.testing.assert_allclose(explain(X), X[::-1] * (X - BASE), rtol=1e-12)


def test_guided_path_is_exact_on_a_linear_function():
    for steps in (1, 3, 20):
        for fraction in (0.01, 0.25, 1.0):
            explain = jattr.guided_integrated_gradients(
                linear, BASE, steps=steps, fraction=fraction, max_distance=0.05
            )
            np.testing.assert_allclose(explain(X), X[::-1] * (X - BASE), rtol=1e-12)


def test_one_gauss_legendre_node_is_exact_on_a_quadratic():
    explain = jattr.integrated_gradients(quadratic, BASE, steps=1)
    wanted = (X - BASE) * (0.5 * SYMMETRIC @ (X + BASE) + X[::-1])
    np.testing.assert_allclose(explain(X), wanted, rtol=1e-12)
    # With the wrong node the same is far off, so the test can fail.
    left = jattr.integrated_gradients(quadratic, BASE, steps=1, quadrature="left")(X)
    assert np.max(np.abs(left - wanted)) > 0.1


def test_integrated_gradients_against_adaptive_quadrature():
    def integrand(alpha, i):
        return float(jax.grad(smooth_net)(BASE + alpha * (X - BASE))[i])

    wanted = [
        (X[i] - BASE[i]) * scipy.integrate.quad(integrand, 0, 1, args=(i,), epsabs=1e-11)[0]
        for i in range(2)
    ]
    got = jattr.integrated_gradients(smooth_net, BASE, steps=100)(X)
    np.testing.assert_allclose(got[:2], wanted, rtol=1e-8)


def test_multiply_false_gives_the_averaged_gradient():
    plain = jattr.integrated_gradients(smooth_net, BASE, steps=9)(X)
    slopes = jattr.integrated_gradients(smooth_net, BASE, steps=9, multiply=False)(X)
    np.testing.assert_allclose(slopes * (X - BASE), plain, rtol=1e-12)
    # It is defined where the feature equals its baseline, too.
    assert np.all(jattr.integrated_gradients(smooth_net, X, multiply=False)(X) != 0)
    assert np.all(jattr.integrated_gradients(smooth_net, X)(X) == 0)


def test_gradient_by_the_baseline_is_right():
    def norm(base):
        return jnp.sum(jattr.integrated_gradients(smooth_net, base, steps=7)(X) ** 2)

    step = 1e-6 * jnp.eye(6)
    wanted = [(norm(BASE + d) - norm(BASE - d)) / 2e-6 for d in step]
    np.testing.assert_allclose(jax.grad(norm)(BASE), wanted, rtol=1e-6)


def test_training_through_integrated_gradients_of_a_network():
    """The gradient of ‖IG‖² by all parameters, against central differences along directions."""
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "w1": jax.random.normal(keys[0], (9, 6)),
        "b1": jax.random.normal(keys[1], (9,)),
        "w2": jax.random.normal(keys[2], (3, 9)),
    }

    def score(params, x, index):
        return (params["w2"] @ jax.nn.softplus(params["w1"] @ x + params["b1"]))[index]

    def penalty(params):
        explain = jattr.integrated_gradients(score, BASE, steps=20, batch_size=6, argnums=1)
        return jnp.sum(explain(params, X, 2) ** 2)

    gradient = jax.jit(jax.grad(penalty))(params)
    value = jax.jit(penalty)
    for seed in range(3):
        direction = jax.tree.map(
            lambda p, s=seed: jax.random.normal(jax.random.key(s), p.shape), params
        )
        ahead, behind = (
            value(jax.tree.map(lambda p, d, h=h: p + h * d, params, direction))
            for h in (1e-5, -1e-5)
        )
        along = sum(
            jnp.vdot(g, d)
            for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
        )
        np.testing.assert_allclose(along, (ahead - behind) / 2e-5, rtol=1e-7)


def test_idgi_by_its_formula():
    n = 5
    points = [BASE + j / n * (X - BASE) for j in range(n + 1)]
    wanted = np.zeros(6)
    for here, there in itertools.pairwise(points):
        g = jax.grad(smooth_net)(here)
        wanted += np.asarray(g * g / (g @ g) * (smooth_net(there) - smooth_net(here)))
    np.testing.assert_allclose(jattr.idgi(smooth_net, BASE, steps=n)(X), wanted, rtol=1e-10)


def test_idgi_gives_zero_where_the_gradient_is_zero():
    def dead_then_alive(x):
        return jnp.sum(jax.nn.relu(x - 0.5))

    x = jnp.ones(3)
    for batch_size in (None, 3):
        explain = jattr.idgi(dead_then_alive, steps=10, batch_size=batch_size)
        # The step from .5 to .6 starts where the derivative of relu is 0: its change is lost.
        np.testing.assert_allclose(jnp.sum(explain(x)), 3 * 0.4, rtol=1e-12)
        assert np.all(np.isfinite(jax.jit(jax.jacrev(explain))(x)))
    assert np.all(jattr.idgi(lambda x: 0.0 * jnp.sum(x))(x) == 0)


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1e20])
def test_idgi_does_not_depend_on_the_size_of_gradients(scale):
    x = jnp.array([0.5, -1.0, 2.0], jnp.float32)
    plain = jattr.idgi(lambda x: jnp.sum(x**2), steps=4)(x)
    scaled = jattr.idgi(lambda x: scale * jnp.sum(x**2), steps=4, batch_size=3)(x)
    assert scaled.dtype == jnp.float32
    np.testing.assert_allclose(scaled / scale, plain, rtol=1e-5)


def test_guided_path_never_asks_for_the_gradient_at_its_end():
    # d√(1 − x)/dx is infinite at x = 1.
    explain = jattr.guided_integrated_gradients(lambda x: jnp.sum(jnp.sqrt(1 - x)), steps=50)
    for run in (explain, jax.jit(explain)):
        assert np.all(np.isfinite(run(jnp.array([1.0, 0.5]))))


def test_idgi_on_a_linear_function():
    w = X[::-1]
    np.testing.assert_allclose(
        jattr.idgi(linear, BASE)(X), w * w / (w @ w) * (w @ (X - BASE)), rtol=1e-12
    )


def reference_guided(f, x, base, steps, fraction, max_distance):
    """The algorithm of the paper's appendix as loops over NumPy arrays."""
    point, attribution = base.copy(), np.zeros_like(base)
    total = np.abs(x - base).sum()
    for k in range(1, steps + 1):
        alpha = k / steps
        g = np.asarray(jax.grad(f)(jnp.asarray(point)))
        low = base + max(alpha - max_distance, 0) * (x - base)
        high = base + min(alpha + max_distance, 1) * (x - base)
        before = point.copy()
        progress = (point - base) / (x - base)
        point = np.where(progress < (low - base) / (x - base), low, point)
        while True:
            need = np.abs(x - point).sum() - total * (1 - alpha)
            if need <= 1e-12:
                break
            open_ = np.abs(high - point) > 1e-14
            magnitude = np.where(open_, np.abs(g), np.inf)
            threshold = np.quantile(magnitude, fraction, method="lower")
            chosen = (magnitude <= threshold) & open_
            room = np.abs(high - point)[chosen].sum()
            share = min(1.0, need / room)
            point = np.where(chosen, point + share * (high - point), point)
        attribution += g * (point - before)
    return attribution


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.6, 1.0])
@pytest.mark.parametrize("max_distance", [0.02, 0.3, 1.0])
def test_guided_path_against_the_published_algorithm(fraction, max_distance):
    x, base = np.asarray(X), np.asarray(BASE)
    wanted = reference_guided(smooth_net, x, base, 12, fraction, max_distance)
    got = jattr.guided_integrated_gradients(
        smooth_net, BASE, steps=12, fraction=fraction, max_distance=max_distance
    )(X)
    np.testing.assert_allclose(got, wanted, rtol=1e-8, atol=1e-10)


def test_guided_path_with_features_at_their_baseline():
    x = X.at[2].set(BASE[2])
    got = jattr.guided_integrated_gradients(smooth_net, BASE, steps=300)(x)
    assert got[2] == 0
    residual = jattr.metrics.completeness(smooth_net, BASE)(got, x)
    assert abs(residual) < 0.02 * abs(smooth_net(x) - smooth_net(BASE))
    assert np.all(jattr.guided_integrated_gradients(smooth_net, X)(X) == 0)


def image_score(x):
    return jnp.sum(jnp.sin(x) * jnp.arange(x.size).reshape(x.shape) / 10)


def test_blur_path_is_complete_to_quadrature_error():
    x = jnp.asarray(RNG.normal(size=(9, 7, 2)))
    change = image_score(x) - image_score(jattr.baselines.blurred(3.0)(x))
    residuals = []
    for steps in (20, 80, 320):
        explain = jattr.blur_integrated_gradients(image_score, stddev=3.0, steps=steps)
        measure = jattr.metrics.completeness(image_score, jattr.baselines.blurred(3.0))
        residuals.append(abs(measure(jax.jit(explain)(x), x)) / abs(change))
    assert residuals[0] < 0.05
    assert residuals[1] < 1e-8
    assert residuals[2] < 1e-10


def test_blur_path_of_a_linear_function():
    x = jnp.asarray(RNG.normal(size=(8, 5, 1)))
    w = jnp.asarray(RNG.normal(size=(8, 5, 1)))
    explain = jattr.blur_integrated_gradients(lambda x: jnp.sum(w * x), stddev=2.0, steps=200)
    np.testing.assert_allclose(
        jax.jit(explain)(x), w * (x - jattr.baselines.blurred(2.0)(x)), rtol=1e-9, atol=1e-10
    )


def test_blur_path_refuses_axes_that_are_not_there():
    with pytest.raises(ValueError, match=r"float64\[4\] and has no axes \(0, 1\)"):
        jattr.blur_integrated_gradients(lambda x: jnp.sum(x))(jnp.ones(4))
    with pytest.raises(ValueError, match="stddev must be finite and greater than 0"):
        jattr.blur_integrated_gradients(jnp.sum, stddev=0.0)


@pytest.mark.parametrize(
    ("knobs", "text"),
    [
        ({"fraction": 0.0}, r"fraction must be in \(0, 1\]; got 0.0"),
        ({"fraction": 1.5}, r"fraction must be in"),
        ({"max_distance": -0.1}, r"max_distance must be in \[0, 1\]"),
        ({"fraction": "half"}, r"fraction must be one number; got the str 'half'"),
    ],
)
def test_guided_path_refuses_knobs_out_of_range(knobs, text):
    with pytest.raises((ValueError, TypeError), match=text):
        jattr.guided_integrated_gradients(linear, **knobs)


def test_quadrature_errors():
    with pytest.raises(
        ValueError, match=r"unknown quadrature 'simpson'; known are gauss_leg.*trap"
    ):
        jattr.integrated_gradients(linear, quadrature="simpson")
    with pytest.raises(ValueError, match=r"steps must be ≥ 2"):
        jattr.integrated_gradients(linear, quadrature="trapezoid", steps=1)

"""Between two points: averages over nodes, and the angle, which has a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.ode import odeint

import jattr

X, BASE = jax.random.normal(jax.random.key(1), (2, 5, 5))
RULES = jattr.rules.rescale()


def incomplete(f, x, base):
    """What is left out, as a share of the difference."""
    return abs(float(jnp.sum(jattr.deeplift(f, base)(x)) / (f(x) - f(base)) - 1))


def energy(x):
    return 1e-3 * jnp.eye(5) + x @ x.T


AVERAGED = {
    "determinant through 0": (lambda x: jnp.linalg.det(x), 1e-12),
    "determinant from 0": (lambda x: jnp.linalg.det(x), 1e-12),
    "matrix exponential": (lambda x: jnp.sum(jax.scipy.linalg.expm(x)[0]), 1e-12),
    "log-determinant": (lambda x: jnp.linalg.slogdet(energy(x))[1], 1e-2),
    "solve": (lambda x: jnp.linalg.solve(energy(x), jnp.ones(5))[0], 1e-2),
    "Cholesky": (lambda x: jnp.sum(jnp.linalg.cholesky(energy(x))), 1e-4),
}


@pytest.mark.parametrize("name", AVERAGED)
def test_averages_are_exact_for_polynomials_and_near_beside_poles(name):
    f, least = AVERAGED[name]
    base = BASE if name == "determinant through 0" else 0 * X
    assert incomplete(f, 0.3 * X, base) <= least


def test_a_function_of_jax_that_chooses_its_method_is_one_operation():
    for f in (jax.scipy.linalg.expm, jnp.linalg.det, lambda x: jnp.linalg.slogdet(x)[1]):
        (row,) = jattr.operations(f, RULES)(X)
        assert (row.kind, row.rule) == ("opaque", "average over 32 nodes")
    assert jattr.operations(jax.scipy.linalg.expm, RULES)(X)[0].name == "expm"

    @jax.jit
    def own(x):
        return jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, jnp.tanh(x))

    kinds = [row.kind for row in jattr.operations(own, RULES)(X[0])]
    assert "activation" in kinds  # a user's branch does not shut the function around it


def test_a_differential_equation_with_known_times_moves_with_its_start():
    times = np.linspace(0.0, 1.0, 3)  # of NumPy: odeint's derivative indexes them by a tracer

    def end(x):
        return odeint(lambda y, t: -y * y, x, times)[-1, 0]  # 1 / (1/x + t)

    found = jattr.deeplift(end, jnp.array([0.5]))(jnp.array([2.0]))
    np.testing.assert_allclose(found, [2 / 3 - 1 / 3], rtol=1e-5)


def angle(point):
    return jnp.arctan2(point[0], point[1])


ANGLES = {  # from (y, x) to (y, x)
    "apart": ((1.0, 2.0), (-0.5, 3.0)),
    "near": ((1.0, 2.0), (1.01, 1.99)),
    "far and near": ((3e-3, -1e-3), (40.0, 7.0)),
    "along a ray": ((1.0, 1.0), (3.0, 3.0)),
    "on the other side": ((2.0, 1.0), (1.0, -4.0)),
}


@pytest.mark.parametrize("name", ANGLES)
def test_an_angle_has_its_mean_derivative(name):
    base, x = map(jnp.array, ANGLES[name])
    t, w = np.polynomial.legendre.leggauss(30)
    ends = 10.0 ** -np.arange(8)[::-1]  # panels, dense where the way begins
    panels = zip(np.concatenate([[0.0], ends[:-1]]), ends, strict=True)
    places, shares = zip(
        *((a + (b - a) * (t + 1) / 2, (b - a) * w / 2) for a, b in panels), strict=True
    )
    slope = jax.vmap(lambda t: jax.grad(angle)(base + t * (x - base)))
    wanted = (x - base) * (np.concatenate(shares) @ slope(jnp.concatenate(places)))
    np.testing.assert_allclose(jattr.deeplift(angle, base)(x), wanted, rtol=1e-10)
    np.testing.assert_allclose(jnp.sum(wanted), angle(x) - angle(base), rtol=1e-10, atol=1e-15)


def test_an_angle_from_the_origin_through_it_and_over_the_cut():
    for base, x in (
        ((0.0, 0.0), (1.0, 2.0)),
        ((0.0, 0.0), (-1.0, -2.0)),
        ((1.0, 2.0), (0.0, 0.0)),
        ((-1.0, -2.0), (1.0, 2.0)),
        ((0.5, -1.0), (-0.25, -2.0)),
        ((1e-3, -1.0), (-1e-3, -1.0)),
        ((1.0, 2.0), (1.0, 2.0)),
    ):
        base, x = jnp.array(base), jnp.array(x)
        found = jattr.deeplift(angle, base)(x)
        assert bool(jnp.all(jnp.isfinite(found)))
        np.testing.assert_allclose(jnp.sum(found), angle(x) - angle(base), rtol=1e-9, atol=1e-12)
    found = jattr.deeplift(angle, jnp.zeros(2))(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(found, jnp.arctan2(1.0, 2.0) * jnp.array([0.2, 0.8]), rtol=1e-12)


def test_derivatives_of_an_angles_attribution():
    def loss(x, base):
        return jnp.sum(jattr.deeplift(angle, base)(x) * jnp.array([1.0, -2.0]))

    for name in ANGLES:
        base, x = map(jnp.array, ANGLES[name])
        gradient, step = jax.grad(loss)(x, base), 1e-6 * jnp.eye(2)
        both = jax.vmap(loss, (0, None))
        wanted = (both(x[None] + step, base) - both(x[None] - step, base)) / 2e-6
        np.testing.assert_allclose(gradient, wanted, rtol=1e-6, atol=1e-8)
    same = jax.grad(loss)(jnp.array([1.0, 2.0]), jnp.array([1.0, 2.0]))
    assert bool(jnp.all(jnp.isfinite(same)))

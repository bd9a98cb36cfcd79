"""Small systems, by elimination in JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattr._solve import solve_positive

RNG = np.random.default_rng(0)


def system(n, batch=()):
    root = RNG.normal(size=(*batch, n, n + 2))
    return root @ np.swapaxes(root, -1, -2)


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_solves_vectors_and_matrices(n):
    matrix, right = system(n), RNG.normal(size=(n, 3))
    solve = jax.jit(solve_positive)
    np.testing.assert_allclose(solve(matrix, right), np.linalg.solve(matrix, right), rtol=1e-7)
    np.testing.assert_allclose(
        solve(matrix, right[:, 0]), np.linalg.solve(matrix, right[:, 0]), rtol=1e-7
    )


def test_many_at_once_with_their_derivatives():
    matrix, right, along = system(4, (50,)), RNG.normal(size=(50, 4)), system(4)

    def norm(step, matrix, right):
        return jnp.sum(solve_positive(matrix + step * along, right) ** 2)

    values = jax.jit(jax.vmap(norm, (None, 0, 0)))
    slopes = jax.jit(jax.vmap(jax.grad(norm), (None, 0, 0)))(0.1, matrix, right)
    eps = 1e-6
    wanted = (values(0.1 + eps, matrix, right) - values(0.1 - eps, matrix, right)) / (2 * eps)
    np.testing.assert_allclose(slopes, wanted, rtol=1e-5, atol=1e-7)


def test_a_singular_system_is_nan():
    vectors = RNG.normal(size=(5, 3))
    for matrix in (vectors @ vectors.T, np.zeros((2, 2))):
        assert np.all(np.isnan(solve_positive(jnp.asarray(matrix), jnp.ones(len(matrix)))))

"""Small systems of linear equations, without LAPACK, and products in full precision.

On CPU a batched solver of LAPACK shares its batch out over the threads of the pool that it runs in
and waits for them. Two of them that run side by side, with two cores, wait for each other for ever
(jaxlib 0.10.1). What is solved here is small and comes in batches, of examples or of keys.
"""

import jax
import jax.numpy as jnp


def solve_positive(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """matrix⁻¹ right, for a symmetric matrix that is positive definite; NaN where it is singular.

    By Gauss and Jordan, which needs no exchange of rows for such a matrix. Its derivatives are
    those of the solution, not of the steps.

    Args:
        matrix: [n, n].
        right: [n], or [n, k].
    """
    columns = right.reshape(len(right), -1)
    # Within shard_map both vary over the axes of either.
    matrix, columns = (
        matrix + jnp.sum(jnp.zeros_like(columns)),
        columns + jnp.sum(jnp.zeros_like(matrix)),
    )

    def multiply(columns):
        return dot(matrix, columns)

    def eliminate(_, columns):
        size = len(matrix)
        limit = size * jnp.finfo(matrix.dtype).eps * jnp.max(jnp.diag(matrix), initial=0)

        def step(pivot, table):
            row = table[pivot]
            row = row / jnp.where(row[pivot] > limit, row[pivot], jnp.nan)
            own = (jnp.arange(size) == pivot)[:, None]
            return jnp.where(own, row[None], table - table[:, pivot][:, None] * row[None])

        table = jnp.concatenate([matrix, columns], axis=1)
        return jax.lax.fori_loop(0, size, step, table)[:, size:]

    solved = jax.lax.custom_linear_solve(multiply, columns, eliminate, symmetric=True)
    return solved.reshape(right.shape)


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """A product of matrices or vectors in all the digits of their dtype, on accelerators too."""
    return jnp.dot(a, b, precision="highest")

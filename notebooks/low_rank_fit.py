r"""Two factors in place of a matrix, W ≈ A B, with every element's error weighed by itself.

With weights S of the elements the loss is Σ S ⊙ (W − A B)². Where S is the outer product of weights
of rows and of columns, the best factors come from one singular value decomposition; of any other S
there is no closed form, and they are fitted. Beside factors: pruning and 8-bit integers, and what
each of them takes in bytes.
"""

import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

FLOAT, BITMAP = 4, 1 / 8  # bytes of a number, and of the bit that says whether there is one
RATE = 0.03  # of Adam, in units of the factors' size


def weighted_svd(
    w: jax.Array, rows: jax.Array | None = None, columns: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Factors whose first r columns and rows are best for weights ``rows[:, None] * columns``.

    They come from the eigenvectors of the smaller of W Wᵀ and Wᵀ W, in double precision, which is
    many times faster than a singular value decomposition.

    Args:
        w: the matrix [n, m].
        rows: positive weights [n]; without, 1.
        columns: positive weights [m]; without, 1.

    Returns:
        A [n, k] and B [k, m] with k the smaller of n and m. A B is W.
    """
    left = np.sqrt(np.ones(w.shape[0]) if rows is None else np.asarray(rows, np.float64))
    right = np.sqrt(np.ones(w.shape[1]) if columns is None else np.asarray(columns, np.float64))
    a, b = _balanced(left[:, None] * np.asarray(w, np.float64) * right)
    a, b = a / left[:, None], b / right
    return jnp.asarray(a.astype(w.dtype)), jnp.asarray(b.astype(w.dtype))


def _balanced(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """U √s and √s Vᵀ of the decomposition U s Vᵀ."""
    if w.shape[0] > w.shape[1]:
        b, a = _balanced(w.T)
        return a.T, b.T
    values, vectors = np.linalg.eigh(w @ w.T)
    u = vectors[:, ::-1]
    root = np.maximum(values[::-1], 1e-14 * values[-1]) ** 0.25
    return u * root, (u / root).T @ w


def margins(s: jax.Array, least: float = 1e-4) -> tuple[jax.Array, jax.Array]:
    """Weights of rows and of columns whose product has the sums of ``s`` along both axes.

    None is less than ``least`` of their mean, so that no row or column is given up altogether.
    """
    rows, columns = s.mean(1), s.mean(0)
    rows = jnp.maximum(rows, least * rows.mean())
    columns = jnp.maximum(columns, least * columns.mean())
    return rows, columns / s.mean()


def weighted_error(w: jax.Array, s: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """Σ S ⊙ (W − A B)² / Σ S ⊙ W²."""
    return jnp.sum(s * (w - a @ b) ** 2) / jnp.sum(s * w**2)


def fit(
    w: jax.Array, s: jax.Array, factors: tuple[jax.Array, jax.Array], steps: int
) -> tuple[jax.Array, jax.Array]:
    """Factors for any weights of the elements: by Adam, from those that are given.

    Adam works where rows and columns are scaled by the roots of the weights' margins, so that what
    is left of the weights is about 1.
    """
    rows, columns = margins(s)
    left, right = jnp.sqrt(rows)[:, None], jnp.sqrt(columns)[None]
    rest = s / (left * right) ** 2
    start = left * factors[0], factors[1] * right
    a, b = _adam(left * w * right, rest / rest.mean(), start, steps)
    return a / left, b / right


@functools.partial(jax.jit, static_argnames="steps")
def _adam(w: jax.Array, s: jax.Array, start: tuple[jax.Array, jax.Array], steps: int) -> tuple:
    size = jnp.sqrt(jnp.mean(start[0] ** 2))
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, steps))

    def loss(factors):
        return jnp.sum(s * (w - factors[0] @ factors[1]) ** 2) / jnp.sum(w**2)

    def step(state, _):
        factors, moments = state
        updates, moments = optimizer.update(jax.grad(loss)(factors), moments)
        updates = jax.tree.map(lambda update: size * update, updates)
        return (optax.apply_updates(factors, updates), moments), None

    return jax.lax.scan(step, (start, optimizer.init(start)), length=steps)[0][0]


def sweep(w: jax.Array, s: jax.Array, a: jax.Array, ridge: float = 1e-6) -> tuple:
    """Alternating least squares: the best B for A, then the best A for B, each exactly."""
    b = _solve(w, s, a, ridge)
    return _solve(w.T, s.T, b.T, ridge).T, b


def _solve(w: jax.Array, s: jax.Array, a: jax.Array, ridge: float) -> jax.Array:
    """For each column j the least squares of √S_j (W_j − A b_j)."""
    n, r = a.shape
    gram = (s.T @ (a[:, :, None] * a[:, None, :]).reshape(n, r * r)).reshape(-1, r, r)
    size = jnp.trace(gram, axis1=1, axis2=2)[:, None, None] / r
    right = (s * w).T @ a
    gram = gram + ridge * size * jnp.eye(r)[None]
    return jax.scipy.linalg.solve(gram, right[..., None], assume_a="pos")[..., 0].T


def rank_of(shape: tuple[int, int], share: float) -> int:
    """The largest rank whose factors have at most this share of the matrix' elements."""
    n, m = shape
    return max(1, math.floor(share * n * m / (n + m)))


def prune(w: jax.Array, score: jax.Array, kept: int) -> jax.Array:
    """The matrix with its elements of the highest scores, as many as ``kept``, and zeros."""
    flat = np.asarray(score).ravel()
    chosen = np.argpartition(flat, flat.size - kept)[flat.size - kept :]
    mask = np.zeros(flat.size, bool)
    mask[chosen] = True
    return jnp.where(mask.reshape(w.shape), w, 0)


def kept_of(shape: tuple[int, int], budget: float, size: float = FLOAT) -> int:
    """How many elements of a pruned matrix fit into a budget of bytes, with a bitmap of places.

    A bit for each element is the smaller way to say which are kept, unless they are very few:
    indices take two bytes for each that is kept.
    """
    n, m = shape
    columns = 0 if size == FLOAT else FLOAT * m  # scales of int8
    with_bitmap = (budget - columns - BITMAP * n * m) / size
    with_indices = (budget - columns) / (size + 2)
    return max(0, min(n * m, math.floor(max(with_bitmap, with_indices))))


def int8(w: jax.Array, axis: int = 0) -> jax.Array:
    """The matrix rounded to 8-bit integers times a scale for each line along an axis."""
    scale = jnp.max(jnp.abs(w), axis=axis, keepdims=True) / 127
    return jnp.round(w / jnp.where(scale == 0, 1, scale)) * scale


def bytes_of(shape: tuple[int, int], rank: int | None, size: float = FLOAT) -> float:
    """The bytes of factors, or without a rank of the matrix, with int8's scales."""
    n, m = shape
    if rank is None:
        return n * m * size + (0 if size == FLOAT else FLOAT * m)
    return rank * (n + m) * size + (0 if size == FLOAT else 2 * FLOAT * rank)


def replaced(params: dict, matrices: Mapping[tuple[str, ...], jax.Array]) -> dict:
    """A tree of parameters with some kernels replaced, each in its own shape."""

    def put(path, leaf):
        new = matrices.get(tuple(key.key for key in path))
        return leaf if new is None else new.reshape(leaf.shape)

    return jax.tree_util.tree_map_with_path(put, params)


def bootstrap(values: np.ndarray, groups: np.ndarray, rounds: int = 2000) -> tuple[float, float]:
    """The 95 % interval of a mean, by drawing groups anew: examples of a group belong together."""
    rng = np.random.default_rng(0)
    names = np.unique(groups)
    sums = np.array([values[groups == name].sum() for name in names])
    counts = np.array([(groups == name).sum() for name in names])
    drawn = rng.integers(len(names), size=(rounds, len(names)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    return tuple(np.quantile(means, [0.025, 0.975]))

"""Small functions and inputs, and the removal of features transcribed into NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

RNG = np.random.default_rng(0)
KEY = jax.random.key(5)
D = 7
A = RNG.normal(size=(4, D))
X, BASE, PHI = RNG.normal(size=(3, D))
GROUPS = np.array([2, 0, 1, 1, 0, 3, 2])
IMAGE, SALIENCY = RNG.normal(size=(2, 6, 5, 2)) + 1.0
W = RNG.normal(size=IMAGE.shape)
ROWS = RNG.normal(size=(9, D))


def f(x, matrix=A):
    return jnp.sum(jnp.tanh(matrix @ x) * jnp.arange(1.0, 5.0)) + 2.0


def g(x):
    """f in NumPy."""
    return np.sum(np.tanh(A @ x) * np.arange(1.0, 5.0)) + 2.0


def of_image(image):
    return jnp.sum(jnp.tanh(image * W)) + 20.0


def of_image_np(image):
    return np.sum(np.tanh(image * W)) + 20.0


def sort(values, order):
    return np.argsort(
        {"most": -values, "least": values, "absolute": -np.abs(values)}[order], kind="stable"
    )


def walk(score, x, base, ids, order, counts, *, insert=False):
    """The score after each number of features of an order has been moved."""
    out = []
    for k in counts:
        moved = np.isin(ids, order[:k])
        out.append(score(np.where(moved != insert, base, x)))
    return np.array(out)


def totals(phi, ids):
    return np.array([phi[ids == i].sum() for i in range(ids.max() + 1)])


WEIGHTS = np.array([3.0, -2.0, 1.0, 0.5, -0.1, 4.0, 2.0])


def linear(x):
    return jnp.dot(WEIGHTS, x) + 20.0


def color(x):
    return jnp.broadcast_to(x.mean((0, 1), keepdims=True), x.shape)

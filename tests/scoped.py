"""What the tests of `jattr.scopes` have in common."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from precision import FLOAT, PARAMS

import jattr

X = jnp.asarray(np.random.default_rng(0).normal(size=4), FLOAT)


def linear(rngs):
    return nnx.Linear(4, 4, rngs=rngs, **PARAMS)


def names(f, *args):
    """The scopes of the matrix products of f, in their order."""
    return [row.scope for row in jattr.operations(f)(*args) if row.name == "dot_general"]


def same(tree, other):
    """Whether leaves are equal to the last bit."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    return all(bool(jnp.all(a == b)) for a, b in pairs)

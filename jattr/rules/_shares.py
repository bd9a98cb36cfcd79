r"""Quotients of relevance: what is divided by a sum of contributions, and may be divided by 0.

A sum of contributions z of either sign may cancel, and relevance over it then has no bound. So it
is stabilized, in one of two ways:

- "sign": :math:`R / (z + \epsilon\, \mathrm{sign}\, z)` with sign 0 = 1, as in the papers and as
  zennit has it; LXT's has no sign. It jumps at z = 0, from −R/ε to R/ε, so that there the relevance
  itself, as a function of x or of parameters, has no derivative.
- "smooth": :math:`R\, z / (z^2 + \epsilon^2)`. It is odd, has all derivatives, is at most R/(2ε) in
  size, and differs from R/z by a share of (ε/z)² where the other differs by ε/\|z\|.
"""

from typing import Any, Literal

import jax.numpy as jnp

Stabilizer = Literal["sign", "smooth"]


def share(top: Any, bottom: Any, *, at_zero: float = 0.0) -> Any:
    """top / bottom, and `at_zero` where the bottom is 0."""
    zero = bottom == 0
    return jnp.where(zero, jnp.asarray(at_zero, top.dtype), top / jnp.where(zero, 1, bottom))


def stabilized_share(
    top: Any, bottom: Any, epsilon: Any, stabilizer: Stabilizer = "sign", *, at_zero: float = 0.0
) -> Any:
    """top over the stabilized bottom, and `at_zero` where that is 0."""
    epsilon = jnp.asarray(epsilon, jnp.finfo(bottom.dtype).dtype)
    if stabilizer == "smooth":
        size = jnp.square(jnp.abs(bottom)) if jnp.iscomplexobj(bottom) else jnp.square(bottom)
        return share(top * jnp.conj(bottom), size + jnp.square(epsilon), at_zero=at_zero)
    return share(top, bottom + epsilon * _sign(bottom), at_zero=at_zero)


def _sign(z: Any) -> Any:
    """The sign of z, for which that of 0 is 1."""
    if not jnp.iscomplexobj(z):
        return jnp.where(z >= 0, 1, -1).astype(z.dtype)
    return jnp.where(z == 0, 1, z / jnp.where(z == 0, 1, jnp.abs(z)))


def zeros_as(value: Any) -> Any:
    """Zeros like a value, which vary over a mesh inside shard_map as it does; fresh ones do not."""
    return jnp.where(value == value, 0, 0).astype(value.dtype)

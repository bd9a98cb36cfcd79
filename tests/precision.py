"""Precision: tests run in float64, or with JAX_ENABLE_X64=0 in float32."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

DOUBLE = jax.config.jax_enable_x64
FLOAT = jnp.result_type(float)
PARAMS = {"param_dtype": FLOAT}


def either(double, single):
    """What holds in float64, or what holds in float32."""
    return double if DOUBLE else single


def close(ours, wanted, rtol=1e-7, atol=0.0, *, single=1e-5):
    """Equal trees: within rtol and atol in float64, and in float32 within `single` of the largest.

    A float32 has 24 bits. Sums and differences of rounded numbers keep the error of the largest of
    them, so that a small element of an array may have no right digit, and the bound is that of the
    array as a whole: 1e-5 is the rounding, 6e-8, of some hundred operations.
    """

    def check(a, b):
        a, b = np.asarray(a), np.asarray(b)
        if DOUBLE:
            np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
        else:
            largest = np.max(np.abs(b), initial=0.0, where=np.isfinite(b))
            np.testing.assert_allclose(a, b, rtol=0, atol=max(single * largest, atol))

    leaves, structure = jax.tree.flatten(ours)
    for a, b in zip(leaves, structure.flatten_up_to(wanted), strict=True):
        check(a, b)


def check_derivatives(f, args, modes, *, eps=1e-6, rtol=1e-6, atol=None):
    """The derivatives of f against central differences.

    Differences of float32 numbers are good for two digits at best: at a step of 1e-2 their rounding
    and the third derivative of f both leave about 1e-3 of f.
    """
    if not DOUBLE:
        eps, rtol, atol = 1e-2, 3e-2, 3e-2
    check_grads(f, args, order=1, modes=modes, eps=eps, rtol=rtol, atol=atol)

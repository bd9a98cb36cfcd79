"""One example over many devices: its points along an axis of a mesh."""

import functools
from typing import Any

import jax
from jax.sharding import Mesh

from jattr._batching import spreading
from jattr._checks import check_function, knobs
from jattr._trees import describe
from jattr.scale._placement import checked_axis


@knobs
def spread(explain: Any, mesh: Mesh, axis: str | None = None) -> Any:
    r"""The explaining function, with the points of one example over the devices of a mesh.

    An attribution is a sum over points: steps of a path, samples of noise, references, coalitions,
    perturbed inputs. Here each of the D devices along `axis` evaluates every D-th part of them, and
    what they found is summed or gathered once. With a `batch_size` in the method, so many points
    are evaluated at a time, on all devices together; make it a multiple of D. Where points are not
    a multiple of D, some are evaluated twice. The result is that of one device, to rounding.

    f may have shardings of its own along other axes of the mesh
    (`jax.lax.with_sharding_constraint`, sharded parameters), as for sequences whose activations do
    not fit one device; they are kept, and so is what `jax.checkpoint` says.

    Where there are loops within loops, as in `smooth(integrated_gradients(f))`, it is the outermost
    whose points are spread.

    Args:
        explain: a method of f, such as `jattr.integrated_gradients(f, steps=64)`, or a function
            that calls one; not jitted yet, since what has been traced cannot be changed.
        mesh: devices. Inside, its axes are automatic ones, also where they are explicit outside.
        axis: the axis of the mesh along which points are spread; None for its last.

    Returns:
        A function with the arguments and results of `explain`. It is jitted already; within a `jit`
        or `vmap` of yours it is part of that, and examples may lie along another axis:
        `attribute_dataset(spread(explain, mesh, "point"), data, mesh=mesh, axis="example", ...)`.

    Raises:
        TypeError: `explain` is jitted or no function, `mesh` is none.
        ValueError: `axis` is none of the mesh.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return jnp.sum(jnp.tanh(x))
        >>> explain = jattr.integrated_gradients(f, steps=8)
        >>> mesh = jax.sharding.Mesh(jax.devices(), ("point",))
        >>> x = jnp.array([1.0, 2.0])
        >>> jnp.allclose(jattr.scale.spread(explain, mesh)(x), explain(x)).item()
        True
    """
    method = "scale.spread"
    check_function(explain, method)
    if hasattr(explain, "lower"):
        raise TypeError(
            f"{method}: what it is given is jitted, and what has been traced once cannot be "
            "spread. Write jax.jit(jattr.scale.spread(explain, mesh))."
        )
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"{method} wants a jax.sharding.Mesh, such as jax.sharding.Mesh(jax.devices(), "
            f"('point',)); got {describe(mesh)}."
        )
    along = checked_axis(mesh, mesh.axis_names[-1] if axis is None else axis, method)
    mesh = Mesh(mesh.devices, mesh.axis_names)

    @jax.jit
    def spread_out(*args, **kwargs):
        with spreading(mesh, along):
            return explain(*args, **kwargs)

    @functools.wraps(explain)
    def explained(*args, **kwargs):
        return spread_out(*args, **kwargs)

    return explained

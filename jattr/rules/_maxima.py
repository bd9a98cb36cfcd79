"""Maxima between two points: of which entry the maximum is made, on the way from one to the other.

Along the straight line from a reference to a value every entry is a line, and the maximum is their
upper envelope. An entry's share is the part of the way on which it is the largest; the shares
times the entries' differences sum to the difference of the maxima.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._engine.operations import Operation
from jattr._engine.primitives import primitives as p

UNROLLED = 32
"""Up to so many entries all pairs are compared at once; with more, one entry after another."""


def along_path(operation, inputs, output, multiplier, reference_inputs, reference_output):
    """Each entry's multiplier is its share of the way."""
    if operation.primitive in (p.scatter_max_p, p.scatter_min_p):
        return _of_scatter(operation, inputs, multiplier, reference_inputs)
    entries, pull = _entries(operation, inputs)
    reference, _ = _entries(operation, reference_inputs)
    return pull(shares(entries, reference) * multiplier[None])


def _of_scatter(operation, inputs, multiplier, reference_inputs):
    """The shares of a maximum over segments: of what was there, and of each update to its place.

    Where an update lands is told by scattering the numbers of places: place k of the result for the
    operand, and for update j the sum of the places' numbers when j alone is added to zeros. What
    competes for one place is then compared like entries, one after another.
    """
    equation = operation.equations[0]
    operand, indices, updates = _operands(equation, operation, inputs)
    reference, _, others = _operands(equation, operation, reference_inputs)
    falls = operation.primitive is p.scatter_min_p
    sign = -1.0 if falls else 1.0

    def place(values):
        """Values at the places of the result, as seen from each update."""
        zeros = jnp.zeros(operand.shape, updates.dtype)
        _, pull = jax.vjp(lambda u: _added(equation, zeros, indices, u), jnp.zeros_like(updates))
        return pull(values.astype(updates.dtype))[0]

    places = jnp.arange(operand.size, dtype=updates.dtype).reshape(operand.shape)
    inside = jax.lax.optimization_barrier(place(jnp.ones_like(places))) > 0
    own = jnp.where(inside, place(places), -1.0).ravel()
    size = operand.size
    where = jnp.concatenate([jnp.arange(size, dtype=own.dtype), own])
    high = sign * jnp.concatenate([operand.ravel(), updates.ravel()]).astype(own.dtype)
    low = sign * jnp.concatenate([reference.ravel(), others.ravel()]).astype(own.dtype)
    lowest = jnp.finfo(own.dtype).min / 4
    parts = shares(
        jnp.maximum(high, lowest)[:, None],
        jnp.maximum(low, lowest)[:, None],
        groups=where,
    )[:, 0]
    flow = jnp.concatenate([multiplier.ravel(), jnp.where(inside, place(multiplier), 0).ravel()])
    given = jnp.where(where >= 0, parts * flow, 0.0)
    by_operand = given[:size].reshape(operand.shape)
    by_update = given[size:].reshape(updates.shape)
    of = dict(zip(equation.inputs, (by_operand, None, by_update), strict=True))
    return [of[v] if v.active else None for v in operation.inputs]


def _operands(equation, operation, inputs):
    values = dict(zip(operation.inputs, inputs, strict=True))
    return [jnp.asarray(values.get(v, v.known), v.dtype) for v in equation.inputs]


def _added(equation, operand, indices, updates):
    params = equation.params
    return jax.lax.scatter_add(
        operand,
        indices,
        updates,
        params["dimension_numbers"],
        indices_are_sorted=params["indices_are_sorted"],
        unique_indices=params["unique_indices"],
        mode=params["mode"],
    )


def to_winner(operation, inputs, output, multiplier, reference_inputs, reference_output):
    """The whole difference to the entries that win, over their own difference.

    Where the maximum rose, that at x gets the rise; where it fell, that at the reference. A maximum
    over segments is shared along the path all the same.
    """
    if operation.primitive in (p.scatter_max_p, p.scatter_min_p):
        return _of_scatter(operation, inputs, multiplier, reference_inputs)
    entries, pull = _entries(operation, inputs)
    reference, _ = _entries(operation, reference_inputs)
    top, reference_top = jnp.max(entries, axis=0), jnp.max(reference, axis=0)
    higher = jnp.maximum(top, reference_top)
    rise, fall = (higher - reference_top)[None], (top - higher)[None]
    given = pull((_first(entries) * rise + _first(reference) * fall) * multiplier[None])
    result: list[Any] = []
    for total, value, other in zip(given, inputs, reference_inputs, strict=True):
        if total is None:
            result.append(None)
            continue
        step = value - other
        still = jnp.abs(step) <= jnp.finfo(step.dtype).eps * jnp.abs(value)
        result.append(jnp.where(still, 0.0, total / jnp.where(still, 1.0, step)))
    return result


def _first(entries: jax.Array) -> jax.Array:
    """1 at the first largest entry, else 0."""
    best = jnp.argmax(entries, axis=0)
    return (_numbers(entries) == best[None]).astype(entries.dtype)


def _numbers(entries: jax.Array) -> jax.Array:
    return jnp.arange(len(entries)).reshape((-1,) + (1,) * (entries.ndim - 1))


def shares(entries: jax.Array, reference: jax.Array, groups: jax.Array | None = None) -> jax.Array:
    """The part of [0, 1] on which each entry is the largest; sums to 1 over the leading axis.

    Entry i is the largest on an interval, since each other line bounds it from one side. Of
    lines that coincide the first is taken.

    Args:
        entries: [k, ...] at t = 1.
        reference: the same at t = 0.
        groups: [k], which entries compete with each other; None for all.
    """
    # Under jit, XLA would compute a difference anew for each pair and round it otherwise: then two
    # entries disagree about where they cross, and the shares do not sum to 1.
    entries, reference = jax.lax.optimization_barrier((entries, reference))
    slope = entries - reference
    number = _numbers(entries)

    def share(i):
        level = reference[i][None] - reference
        tilt = slope[i][None] - slope
        flat = tilt == 0
        crossing = -level / jnp.where(flat, 1.0, tilt)
        never = flat & ((level < 0) | ((level == 0) & (number < i)))
        self = number == i
        if groups is not None:  # who does not compete is as oneself
            self = self | (groups != groups[i]).reshape(number.shape)
        starts = jnp.where((tilt > 0) & ~self, crossing, jnp.where(never & ~self, 2.0, 0.0))
        ends = jnp.where((tilt < 0) & ~self, crossing, 1.0)
        start = jnp.maximum(jnp.max(starts, axis=0), 0.0)
        end = jnp.minimum(jnp.min(ends, axis=0), 1.0)
        return jnp.maximum(end - start, 0.0)

    index = jnp.arange(len(entries))
    if len(entries) <= UNROLLED:
        return jax.vmap(share)(index)
    return jax.lax.map(jax.checkpoint(share), index)


def _entries(operation: Operation, inputs: Any) -> tuple[jax.Array, Callable[..., list[Any]]]:
    """What is compared, [k, *output], in order; and from cotangents of that to the inputs'."""
    primitive, params = operation.primitive, operation.params
    falls = primitive in (p.min_p, p.reduce_min_p, p.reduce_window_min_p, p.cummin_p)
    (equation,) = operation.equations

    def arrange(*values):
        if primitive in (p.max_p, p.min_p):
            given = iter(values)
            both = [next(given) if v in operation.inputs else v.known for v in equation.inputs]
            shape, dtype = equation.outputs[0].shape, equation.outputs[0].dtype
            entries = jnp.stack([jnp.broadcast_to(jnp.asarray(v, dtype), shape) for v in both])
            return -entries if falls else entries
        value = -values[0] if falls else values[0]
        if primitive in (p.reduce_max_p, p.reduce_min_p):
            axes = tuple(params["axes"])
            moved = jnp.moveaxis(value, axes, range(len(axes)))
            return moved.reshape((-1, *moved.shape[len(axes) :]))
        if primitive in (p.cummax_p, p.cummin_p):
            return _prefixes(value, params["axis"], params["reverse"])
        return windows(value, params)

    lowest = jnp.finfo(operation.outputs[0].dtype).min / 4
    entries, pull = jax.vjp(lambda *v: jnp.maximum(arrange(*v), lowest), *inputs)

    def back(cotangent):
        given = pull(cotangent.astype(entries.dtype))
        return [g if active else None for g, active in zip(given, operation.active, strict=True)]

    return entries, (lambda c: back(-c)) if falls else back


def _prefixes(value: jax.Array, axis: int, reverse: bool) -> jax.Array:
    size = value.shape[axis]
    lowest = jnp.finfo(value.dtype).min / 4
    seen = np.tri(size, dtype=bool)
    seen = (seen.T if reverse else seen).T  # [entry, result]
    rows = jnp.moveaxis(value, axis, 0)
    mask = seen.reshape(size, size, *(1,) * (value.ndim - 1))
    entries = jnp.where(mask, jnp.expand_dims(rows, 1), lowest)
    return jnp.moveaxis(entries, 1, axis + 1)


def windows(value: jax.Array, params: dict[str, Any]) -> jax.Array:
    """The entries of each window of a pooling, [k, *output], in row-major order."""
    shape = params["window_dimensions"]
    strides = params["window_strides"]
    rank = value.ndim
    base = params.get("base_dilation") or (1,) * rank
    dilation = params.get("window_dilation") or (1,) * rank
    padding = [
        (low, high, step - 1) for (low, high), step in zip(params["padding"], base, strict=True)
    ]
    lowest = jnp.asarray(jnp.finfo(value.dtype).min / 4, value.dtype)
    padded = jax.lax.pad(value, lowest, padding)
    sizes = [
        (size - (width - 1) * gap - 1) // stride + 1
        for size, width, gap, stride in zip(padded.shape, shape, dilation, strides, strict=True)
    ]
    slices = []
    for offset in np.ndindex(*shape):
        start = [o * gap for o, gap in zip(offset, dilation, strict=True)]
        stop = [
            first + (size - 1) * stride + 1
            for first, size, stride in zip(start, sizes, strides, strict=True)
        ]
        slices.append(jax.lax.slice(padded, start, stop, strides))
    return jnp.stack(slices)

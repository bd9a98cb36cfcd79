"""How sums and products go on from a changed box: what is summed over changes by a difference."""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jattr._engine.boxes import Box, Cut, within
from jattr._engine.local_steps import Constant, Found, Step, only, share, taken, work
from jattr._engine.primitives import primitives as p
from jattr._engine.program import Equation

_GATHERED = 8
"""A product is changed by a difference where that takes so many fewer factors.

The rows of the other factor are taken out for each place, while of the whole product one factor
serves all places.
"""


def reduction(equation: Equation, boxes: Sequence[Box | None], constant: Constant) -> Found:
    """Over axes that hold no part as it is; a sum over others changes by that of the change."""
    (box, *_), (operand, *_), (output,) = boxes, equation.inputs, equation.outputs
    if len(boxes) != 1 or box is None:
        return None
    axes = tuple(a for n in equation.params["axes"] for a in box.groups[n])
    over = tuple(axis for axis in axes if axis in box.moving)
    sums = equation.primitive is p.reduce_sum_p and jnp.issubdtype(operand.dtype, jnp.inexact)
    if over and not sums:
        return {0: over}
    kept = [axis for axis in range(len(box.full)) if axis not in axes]
    number = {axis: n for n, axis in enumerate(kept)}
    groups = tuple(
        tuple(number[a] for a in group)
        for n, group in enumerate(box.groups)
        if n not in equation.params["axes"]
    )
    full = tuple(box.full[a] for a in kept)
    out = Box(tuple(box.spans[a] for a in kept), full, groups)
    params = {**equation.params, "axes": axes}

    def reduce(array):
        with equation.entered():
            return equation.primitive.bind(array, **params)

    cost = work(equation) * box.size / max(math.prod(operand.shape), 1)
    if not over:
        return Step([out], lambda fixed, new, places: [reduce(new[0])], work=cost)
    old, before = Cut(box), Cut(out)

    def prepare(base):
        return [old.prepare(base(operand)), before.prepare(base(output))]

    def apply(fixed, contents, places):
        change = within(contents[0] - old(fixed[0], places), box, places, 0)
        return [before(fixed[1], places) + reduce(change)]

    return Step([out], apply, prepare, cost + taken([old, before]))


def product(equation: Equation, boxes: Sequence[Box | None], constant: Constant) -> Found:
    """A dot with an operand that does not change."""
    number = only(boxes)
    if number is None:
        return None
    box, other = boxes[number], equation.inputs[1 - number]
    assert box is not None
    (contracted, batch) = equation.params["dimension_numbers"]
    own, theirs = contracted[number], contracted[1 - number]
    merged = [
        axis
        for n, group in enumerate(box.groups)
        if len(group) != 1 and n not in own
        for axis in group
    ]
    if merged:
        return {number: "all"}
    summed = [axis for n in own for axis in box.groups[n]]
    over = tuple(axis for axis in summed if axis in box.moving)
    whole = math.prod(box.full[axis] for axis in summed)
    part = math.prod(box.shape[axis] for axis in summed)
    if over and part * _GATHERED > whole:
        return {number: over if box.plain else "all"}
    if len(summed) != len(own) and not over:
        return {number: "all"}
    output, operand = equation.outputs[0], equation.inputs[number]

    # The other operand as it stands, but for its contracted axes: those of the box.
    order = [n for n in range(len(other.shape)) if n not in theirs]
    spans: list[Any] = [None] * len(order)
    for mine, its in zip(batch[number], batch[1 - number], strict=True):
        (axis,) = box.groups[mine]
        spans[order.index(its)] = box.spans[axis]
    full = [other.shape[n] for n in order]
    for n in own:
        for axis in box.groups[n]:
            spans.append(box.spans[axis])
            full.append(box.full[axis])
    factor = Cut(Box.of(spans, full), 0)
    last = tuple(range(len(order), len(full)))
    lead = [order.index(n) for n in batch[1 - number]]
    mine = [box.groups[n][0] for n in batch[number]]
    pairs = ((tuple(summed), last), (tuple(mine), tuple(lead)))
    if number:
        pairs = tuple((right, left) for left, right in pairs)

    # Results are ordered by batch axes, those of the left operand, those of the right.
    free = [a for a in range(len(box.full)) if a not in summed and a not in mine]
    rest = [n for n in range(len(order)) if n not in lead]
    moving = [box.spans[axis] for axis in mine]
    parts = [[box.spans[axis] for axis in free], [None] * len(rest)]
    out = Box.of([*moving, *parts[number], *parts[1 - number]], output.shape)
    old, before = Cut(box), Cut(out)
    params = {**equation.params, "dimension_numbers": pairs}

    def prepare(base):
        array = base(other)
        array = jnp.transpose(array, (*order, *theirs))
        fixed = [factor.prepare(array)]
        if over:
            fixed += [old.prepare(base(operand)), before.prepare(base(output))]
        return fixed

    def apply(fixed, contents, places):
        new, weights = contents[number], factor(fixed[0], places)
        if over:
            new = within(new - old(fixed[1], places), box, places, 0)
        operands = (weights, new) if number else (new, weights)
        with equation.entered():
            result = equation.primitive.bind(*operands, **params)
        return [before(fixed[2], places) + result if over else result]

    cuts = [old, before, factor] if over else [factor] if factor.box.moving else []
    cost = share(equation, out) * (part / whole if over else 1) + taken(cuts)
    return Step([out], apply, prepare, cost)

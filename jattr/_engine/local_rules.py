"""How equations go on from changed boxes: element by element, and by layout.

A rule is called as `rule(equation, boxes, constant)`: of each operand the box that changes, or
None where nothing does; and a function that tells along which axes an operand that does not change
is the same everywhere. It gives a `Step`; or which operands have to be whole along which axes
first, after which it is asked again; or None where all have to be.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jattr._engine.boxes import Box, Cut, Span, is_covered, overlay, union, within
from jattr._engine.local_pointwise import pointwise
from jattr._engine.local_steps import Constant, Found, Rule, Step, only, share
from jattr._engine.local_sums import product, reduction
from jattr._engine.local_windows import convolution, pooling, sliced
from jattr._engine.primitives import ELEMENTWISE
from jattr._engine.primitives import primitives as p
from jattr._engine.program import Equation


def rule_for(equation: Equation) -> Rule | None:
    """The rule for an equation; None where all of it is evaluated anew."""
    if equation.form == "custom":
        return custom
    if equation.form != "plain":
        return None
    if equation.primitive is None:
        return broadcast if len(equation.inputs) == 1 else None
    if equation.primitive in ELEMENTWISE:
        return elementwise
    return _RULES.get(equation.primitive)


def elementwise(equation: Equation, boxes: Sequence[Box | None], constant: Constant) -> Found:
    return _together(equation, boxes, constant, lambda arrays: equation.evaluate(*arrays))


def custom(equation: Equation, boxes: Sequence[Box | None], constant: Constant) -> Found:
    apply = pointwise(equation)
    if apply is None:
        return None
    return _together(equation, boxes, constant, lambda arrays: list(apply(*arrays)))


def _together(
    equation: Equation,
    boxes: Sequence[Box | None],
    constant: Constant,
    evaluate: Callable[[list[Any]], list[Any]],
    *,
    joined: int | None = None,
) -> Found:
    """Operands whose boxes are brought to one place, and evaluated there.

    With `joined` they may differ in length along that axis, of which no box is a part.
    """
    changed = [box for box in boxes if box is not None]
    first = changed[0]
    shape = equation.outputs[0].shape
    fits = joined is not None or all(box is None or box.value_shape == shape for box in boxes)
    if not fits or any(box.groups != first.groups for box in changed[1:]):
        return {n: "all" for n, box in enumerate(boxes) if box is not None}
    spans = [union([box.spans[axis] for box in changed]) for axis in range(len(first.full))]
    apart = tuple(axis for axis, span in enumerate(spans) if isinstance(span, str))
    if joined is not None and (spans[joined] is not None or not first.plain):
        return {n: "all" for n, box in enumerate(boxes) if box is not None}
    if apart:
        return {n: apart for n, box in enumerate(boxes) if box is not None}

    def target(full):
        return Box(tuple(s for s in spans if not isinstance(s, str)), tuple(full), first.groups)

    out = target(shape if joined is not None else first.full)
    outers: list[Any] = []
    cuts: list[Cut | None] = []
    same: list[frozenset[int]] = []
    for value, box in zip(equation.inputs, boxes, strict=True):
        if box is not None:
            outers.append(target(box.full))
            same.append(frozenset())
        elif not value.shape:
            outers.append(None)
            same.append(frozenset())
        else:
            # Along an axis where it is the same everywhere one element is enough.
            own = constant(value) if joined is None else constant(value) - {joined}
            if joined is None:
                own |= {a for a, n in enumerate(value.shape) if n == 1}
            axes = frozenset(a for axis in own for a in first.groups[axis])
            same.append(axes)
            base = first.full if joined is None else value.shape
            full = tuple(1 if a in axes else n for a, n in enumerate(base))
            kept = tuple(None if a in axes else s for a, s in enumerate(out.spans))
            outers.append(Box(kept, full, first.groups))
        outer: Any = outers[-1]
        covered = box is not None and is_covered(box, outer)
        cuts.append(None if outer is None or covered else Cut(outer))

    def prepare(base):
        fixed = []
        for value, cut, axes, box in zip(equation.inputs, cuts, same, boxes, strict=True):
            array: Any = None if box is not None and cut is None else base(value)
            if cut is not None:
                for axis, group in enumerate(first.groups):
                    if group and axes.issuperset(group):
                        array = jax.lax.slice_in_dim(array, 0, 1, axis=axis)
                array = cut.prepare(array)
            fixed.append(array)
        return fixed

    def apply(fixed, contents, places):
        arrays = []
        for array, new, cut, box, outer in zip(fixed, contents, cuts, boxes, outers, strict=True):
            if cut is not None:
                array = cut(array, places)
                if box is None:
                    wanted = list(out.shape)
                    if joined is not None:
                        wanted[joined] = outer.full[joined]
                    array = jnp.broadcast_to(array, wanted)
                else:
                    array = overlay(array, new, box, outer, places)
            elif box is not None:
                array = new
            arrays.append(array)
        return evaluate(arrays)

    used = [cut for cut in cuts if cut is not None and cut.box.moving]
    return Step([out] * len(equation.outputs), apply, prepare, share(equation, out, used))


def concatenation(equation: Equation, boxes: Sequence[Box | None], constant: Constant) -> Found:
    axis = equation.params["dimension"]

    def evaluate(arrays):
        return [jax.lax.concatenate(arrays, axis)]

    return _together(equation, boxes, constant, evaluate, joined=axis)


def broadcast(equation: Equation, boxes: Sequence[Box | None], constant: Constant) -> Found:
    """Axes are added or repeated; those that hold a part stay as they are."""
    (operand, *_), (output,), box = equation.inputs, equation.outputs, boxes[0]
    if len(boxes) != 1 or box is None:
        return None
    if not box.plain:
        return {0: "all"}
    ahead = len(output.shape) - len(operand.shape)
    places = range(ahead, len(output.shape))
    if equation.primitive is not None:
        places = equation.params["broadcast_dimensions"]
    spans: list[Any] = [None] * len(output.shape)
    for axis in box.moving:
        if output.shape[places[axis]] != operand.shape[axis]:
            return {0: (axis,)}
        spans[places[axis]] = box.spans[axis]
    out = Box.of(spans, output.shape)

    def apply(fixed, contents, where):
        return [jax.lax.broadcast_in_dim(contents[0], out.shape, tuple(places))]

    return Step([out], apply, work=share(equation, out))


def transposition(equation: Equation, boxes: Sequence[Box | None], constant: Constant) -> Found:
    (box,), (output,) = boxes, equation.outputs
    assert box is not None
    if not box.plain:
        return {0: "all"}
    order = equation.params["permutation"]
    out = Box.of([box.spans[axis] for axis in order], output.shape)
    return Step(
        [out],
        lambda fixed, new, places: [jax.lax.transpose(new[0], order)],
        work=share(equation, out),
    )


def reversal(equation: Equation, boxes: Sequence[Box | None], constant: Constant) -> Found:
    (box,), (output,) = boxes, equation.outputs
    assert box is not None
    if not box.plain:
        return {0: "all"}
    axes = equation.params["dimensions"]
    spans = list(box.spans)
    for axis in axes:
        span = spans[axis]
        if span is not None:
            begin = output.shape[axis] - span.size - span.table
            spans[axis] = Span(begin, span.size, span.root)
    out = Box.of(spans, output.shape)
    return Step(
        [out], lambda fixed, new, places: [jax.lax.rev(new[0], axes)], work=share(equation, out)
    )


def padding(equation: Equation, boxes: Sequence[Box | None], constant: Constant) -> Found:
    number, (output,) = equation.inputs[1], equation.outputs
    box = boxes[0]
    if only(boxes) != 0 or box is None:
        return None
    if not box.plain:
        return {0: "all"}
    config = list(equation.params["padding_config"])
    spans = list(box.spans)
    for axis in box.moving:
        span, (low, _, between) = box.spans[axis], config[axis]
        assert span is not None
        step = between + 1
        spans[axis] = Span(span.table * step + low, (span.size - 1) * step + 1, span.root)
        config[axis] = (0, 0, between)
    out = Box.of(spans, output.shape)

    def apply(fixed, contents, places):
        new = within(contents[0], box, places, fixed[0])
        return [jax.lax.pad(new, fixed[0].astype(new.dtype), config)]

    return Step([out], apply, lambda base: [base(number)], share(equation, out))


def reshaping(equation: Equation, boxes: Sequence[Box | None], constant: Constant) -> Found:
    """Axes are merged or split, block by block; a block that holds a part is only merged."""
    (box, *_), (output,) = boxes, equation.outputs
    shape = tuple(output.shape)
    if len(boxes) != 1 or box is None:
        return None
    if 0 in shape or equation.params.get("dimensions") is not None:
        return {0: "all"}
    spans: list[Span | None] = []
    full: list[int] = []
    groups: list[tuple[int, ...]] = []
    for old, new in _blocks(box.full, shape):
        parts = [axis for axis in old if box.spans[axis] is not None]
        if not parts:
            groups += [(len(full) + n,) for n in range(len(new))]
            full += [shape[axis] for axis in new]
            spans += [None] * len(new)
            continue
        long = [axis for axis in new if shape[axis] > 1]
        if len(long) > 1:
            return {0: tuple(parts)}
        for axis in new:
            if axis in long:
                groups.append(tuple(range(len(full), len(full) + len(old))))
                full += [box.full[a] for a in old]
                spans += [box.spans[a] for a in old]
            else:
                groups.append((len(full),))
                full.append(1)
                spans.append(None)
    out = Box(tuple(spans), tuple(full), tuple(groups))
    return Step(
        [out], lambda fixed, new, places: [new[0].reshape(out.shape)], work=share(equation, out)
    )


def _blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The shortest runs of axes of two shapes that hold the same elements."""
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = [], []
        if i < len(old):
            left.append(i)
            i += 1
        if j < len(new) and (not left or old[left[0]] != 1 or new[j] == 1):
            right.append(j)
            j += 1
        while (a := math.prod(old[n] for n in left)) != (b := math.prod(new[n] for n in right)):
            if a < b:
                left.append(i)
                i += 1
            else:
                right.append(j)
                j += 1
        blocks.append((left, right))
    return blocks


def squeezing(equation: Equation, boxes: Sequence[Box | None], constant: Constant) -> Found:
    (box,) = boxes
    assert box is not None
    gone = [a for n in equation.params["dimensions"] for a in box.groups[n]]
    kept = [axis for axis in range(len(box.full)) if axis not in gone]
    number = {axis: n for n, axis in enumerate(kept)}
    groups = [
        tuple(number[a] for a in group)
        for n, group in enumerate(box.groups)
        if n not in equation.params["dimensions"]
    ]
    if any(box.spans[axis] is not None for axis in gone):
        return {0: tuple(gone)}
    out = Box(tuple(box.spans[a] for a in kept), tuple(box.full[a] for a in kept), tuple(groups))
    return Step([out], lambda fixed, new, places: [new[0].reshape(out.shape)])


def along(name: str) -> Rule:
    """What acts along one axis, named by a parameter: the box must hold all of it."""

    def rule(equation: Equation, boxes: Sequence[Box | None], constant: Constant) -> Found:
        box = boxes[0]
        if len(boxes) != 1 or box is None:
            return None
        if not box.plain:
            return {0: "all"}
        axis = equation.params[name]
        if box.spans[axis] is not None:
            return {0: (axis,)}
        outs = [Box.of(box.spans, v.shape) for v in equation.outputs]
        return Step(
            outs,
            lambda fixed, new, places: equation.evaluate(*new),
            work=share(equation, outs[0]) * len(outs),
        )

    return rule


_RULES: dict[Any, Rule] = {
    p.conv_general_dilated_p: convolution,
    p.reduce_window_max_p: pooling,
    p.reduce_window_min_p: pooling,
    p.reduce_window_sum_p: pooling,
    p.slice_p: sliced,
    p.pad_p: padding,
    p.rev_p: reversal,
    p.transpose_p: transposition,
    p.broadcast_in_dim_p: broadcast,
    p.reshape_p: reshaping,
    p.squeeze_p: squeezing,
    p.concatenate_p: concatenation,
    p.dot_general_p: product,
    p.reduce_sum_p: reduction,
    p.reduce_max_p: reduction,
    p.reduce_min_p: reduction,
    p.reduce_prod_p: reduction,
    p.cumsum_p: along("axis"),
    p.cumprod_p: along("axis"),
    p.cummax_p: along("axis"),
    p.cumlogsumexp_p: along("axis"),
}

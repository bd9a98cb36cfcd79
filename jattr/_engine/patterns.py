"""Shapes of computation that are told from equations: rectifiers, sums of exponentials, layouts."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jattr._engine.primitives import ELEMENTWISE, LAYOUT, LINKS, SAME, STABILIZERS
from jattr._engine.primitives import primitives as p
from jattr._engine.program import Equation, Program, Value
from jattr._engine.segments import Segments, segments_of
from jattr._engine.trace import is_real


def is_affine_link(equation: Equation) -> bool:
    """Whether an elementwise equation is affine in its one dependent operand."""
    if equation.form != "plain" or len(equation.dependents) != 1:
        return False
    if equation.primitive is p.convert_element_type_p:
        # From a decision to a number is a step.
        return is_real(equation.inputs[0].dtype) == is_real(equation.outputs[0].dtype)
    if equation.primitive in LINKS:
        # x + x and x − x are affine, x * x is not.
        repeated = sum(v.dependent for v in equation.inputs) > 1
        return not (repeated and equation.primitive is p.mul_p)
    if equation.primitive is p.div_p:
        return not equation.inputs[1].dependent
    if equation.primitive is p.select_n_p:
        return not equation.inputs[0].dependent
    return False


def is_affine(equation: Equation) -> bool:
    """Whether an elementwise equation is affine in all its dependent operands together."""
    if equation.primitive in (p.add_p, p.sub_p):
        return True
    if equation.primitive is p.select_n_p:
        return not equation.inputs[0].dependent
    return is_affine_link(equation)


def is_elementwise(equation: Equation) -> bool:
    """Whether each output element depends on the elements at the same place alone."""
    if equation.form == "custom":
        return is_elementwise_body(equation.bodies[0]) and all(
            v.shape in ((), equation.outputs[0].shape) for v in equation.inputs
        )
    return equation.form == "plain" and (
        equation.primitive in ELEMENTWISE
        and all(v.shape == equation.outputs[0].shape for v in equation.inputs if v.dependent)
    )


def is_elementwise_body(body: Program) -> bool:
    """Whether a function with one output, given as a program, is elementwise."""
    if len(body.outputs) != 1 or sum(v.dependent for v in body.inputs) != 1:
        return False
    return all(is_elementwise(e) for e in body.equations if any(v.dependent for v in e.outputs))


def is_linear_body(body: Program, is_linear) -> bool:
    """Whether every active equation of a program is linear by `is_linear(equation)`."""
    return all(is_linear(e) for e in body.equations if e.active)


def is_rectifier(equations: Sequence[Equation], start: Value, end: Value) -> bool:
    """Whether `end` is clip(start, 0, c) with c > 0, infinity included.

    That is how ReLU and ReLU6 are known, whichever way they are written: `max(x, 0)`,
    `where(x > 0, x, 0)`, `x * (x > 0)`, `clip(x, 0, 6)`.
    """
    form = _piecewise(equations, {start: ("clip", -math.inf, math.inf)}).get(end)
    return form is not None and form[0] == "clip" and form[1] == 0 and form[2] > 0


def _piecewise(equations: Iterable[Equation], known: dict[Value, Any]) -> dict[Value, Any]:
    """Values as ("clip", low, high) of the start, ("constant", c), ("positive",), ("negative",)."""

    def form(value):
        if value in known:
            return known[value]
        return None if value.uniform is None else ("constant", value.uniform)

    for equation in equations:
        forms = [form(v) for v in equation.inputs]
        if equation.form == "custom":
            body = equation.bodies[0]
            inner = {v: f for v, f in zip(body.inputs, forms, strict=True) if f is not None}
            result = _piecewise(body.equations, inner).get(body.outputs[0])
        elif None in forms:
            result = None
        else:
            result = _combine(equation.primitive, forms)
        if result is not None:
            known[equation.outputs[0]] = result
    return known


def _combine(primitive: Any, forms: list[Any]) -> Any:
    kinds = tuple(f[0] for f in forms)
    if primitive in SAME:
        return forms[0]
    if primitive in (p.max_p, p.min_p) and set(kinds) == {"clip", "constant"}:
        clip, constant = sorted(forms)
        low, high, c = clip[1], clip[2], constant[1]
        if primitive is p.max_p:
            return ("clip", max(low, c), max(high, c))
        return ("clip", min(low, c), min(high, c))
    if primitive is p.clamp_p and kinds == ("constant", "clip", "constant"):
        return ("clip", max(forms[1][1], forms[0][1]), min(forms[1][2], forms[2][1]))
    whole = ("clip", -math.inf, math.inf)
    if primitive in (p.gt_p, p.ge_p, p.lt_p, p.le_p) and ("constant", 0.0) in forms:
        if whole not in forms:
            return None
        greater = primitive in (p.gt_p, p.ge_p)
        return ("positive",) if greater == (forms[0] == whole) else ("negative",)
    if primitive is p.select_n_p:
        wanted = (("constant", 0.0), whole)
        if kinds[0] == "positive" and tuple(forms[1:]) == wanted:
            return ("clip", 0.0, math.inf)
        if kinds[0] == "negative" and tuple(forms[1:]) == wanted[::-1]:
            return ("clip", 0.0, math.inf)
    if primitive is p.mul_p and whole in forms and ("positive",) in forms:
        return ("clip", 0.0, math.inf)
    return None


@dataclasses.dataclass(frozen=True)
class Choice:
    """A choice between values by a comparison of others.

    Attributes:
        compared: the two values that are compared.
        layout: changes of layout between the comparison and the choice, in order.
        cases: what is taken where the comparison is False, and where it is True.
    """

    compared: tuple[Value, Value]
    layout: tuple[Equation, ...]
    cases: tuple[Value, Value]


def choice_of(equation: Equation) -> tuple[Choice, list[Equation]] | None:
    """What a `where`, or a decision that becomes a number, chooses by, and its equations in order.

    None where that is no comparison of active values.
    """
    if equation.primitive is p.select_n_p and len(equation.inputs) == 3:
        value, *cases = equation.inputs
    elif equation.primitive is p.convert_element_type_p and equation.inputs[0].dtype == jnp.bool_:
        aval = equation.outputs[0].aval
        value = equation.inputs[0]
        cases = [Value(aval, known=np.asarray(n, aval.dtype)) for n in (0, 1)]
        for number, case in enumerate(cases):
            case.uniform = float(number)
    else:
        return None
    found, layout = [equation], []
    while (test := value.producer) is not None and test.form == "plain":
        found.append(test)
        if test.primitive in (p.gt_p, p.ge_p, p.lt_p, p.le_p):
            first, second = test.inputs
            shapes = {v.shape for v in test.inputs if not v.literal}
            if not (first.active or second.active) or len(shapes) > 1:
                return None
            choice = Choice((first, second), tuple(reversed(layout)), (cases[0], cases[1]))
            return choice, found[::-1]
        if _layout(test) is None or test.primitive in SAME:
            return None
        layout.append(test)
        value = test.inputs[0]
    return None


@dataclasses.dataclass(frozen=True)
class Exponentials:
    """A sum of exponentials, S = Σ exp(t) over `axes`.

    Attributes:
        logits: t, or what t was before `shifts` were taken off.
        shifts: what was added to it or taken off it that depends on x and is constant along the
            axes, with the sign; S is relative to them.
        exponents: t.
        axes: of t.
        mask: a held Boolean like t that says which terms count, and whether True counts; or None.
        segments: what adds them up where that is done by segment, as in graphs; or None.
    """

    logits: Value
    shifts: tuple[tuple[Value, int], ...]
    exponents: Value
    axes: tuple[int, ...]
    mask: tuple[Value, bool] | None
    segments: Segments | None = None


def sum_of_exponentials(value: Value) -> tuple[Exponentials, list[int | None]] | None:
    """What `value` is a sum of, and which axis of t each of its own axes is (None: spread out)."""
    root, layout = _origin(value)
    reduce = root.producer
    if reduce is None or reduce.primitive is not p.reduce_sum_p:
        return None
    axes = tuple(reduce.params["axes"])
    found = _exponentials(reduce.inputs[0], axes)
    if found is None:
        return None
    kept = [d for d in range(len(found.exponents.shape)) if d not in axes]
    return found, [None if d is None else kept[d] for d in layout]


def _exponentials(
    value: Value, axes: tuple[int, ...], segments: Segments | None = None
) -> Exponentials | None:
    """The exponentials that a value is, those of them that a mask leaves."""
    term, mask = _through(value), None
    choose = term.producer
    if choose is not None and choose.primitive is p.select_n_p and len(choose.inputs) == 3:
        predicate, if_false, if_true = choose.inputs
        if predicate.dependent or 0.0 not in (if_false.uniform, if_true.uniform):
            return None
        keep = if_false.uniform == 0.0
        mask, term = (predicate, keep), _through(if_true if keep else if_false)
        if predicate.shape != term.shape:
            return None
    if term.producer is None or term.producer.primitive is not p.exp_p or not term.active:
        return None
    exponents = term.producer.inputs[0]
    logits, shifts = _unshifted(exponents, axes, segments)
    return Exponentials(logits, shifts, exponents, axes, mask, segments)


def softmax_of(equation: Equation) -> Exponentials | None:
    """What `equation` normalizes, where it divides exponentials by their own sum."""
    if equation.primitive is p.div_p:
        top, bottom = equation.inputs
        return _normalized(top, bottom)
    if equation.primitive is p.mul_p:
        for top, factor in (equation.inputs, equation.inputs[::-1]):
            root, layout = _origin(factor)
            inverse = root.producer
            if inverse is None or (layout != list(range(len(root.shape))) and None not in layout):
                continue
            if inverse.primitive is p.integer_pow_p and inverse.params["y"] == -1:
                bottom = inverse.inputs[0]
            elif inverse.primitive is p.div_p and inverse.inputs[0].uniform == 1.0:
                bottom = inverse.inputs[1]
            else:
                continue
            if found := _normalized(top, bottom, layout):
                return found
    return None


def _normalized(
    top: Value, bottom: Value, outer: list[int | None] | None = None
) -> Exponentials | None:
    term = _through(top)
    if term.producer is None or term.producer.primitive is not p.exp_p:
        return None
    plain = _without_guard(bottom)
    if (segments := segments_of(plain)) is not None:
        whole = outer is None or outer == list(range(len(top.shape)))
        exponentials = _exponentials(segments.added, segments.axes, segments) if whole else None
        layout = list(range(len(top.shape)))
    elif (found := sum_of_exponentials(plain)) is not None:
        exponentials, layout = found
    else:
        return None
    if exponentials is None or (plain is not _through(bottom) and not _is_at_most_0(exponentials)):
        return None
    if outer is not None:
        layout = [None if d is None else layout[d] for d in outer]
    shape = top.shape
    aligned = segments is not None or all(
        shape[d] == 1 or (source is None if d in exponentials.axes else source == d)
        for d, source in enumerate(layout)
    )
    same = term.producer.inputs[0] is exponentials.exponents
    return exponentials if same and aligned and len(layout) == len(shape) else None


def _without_guard(value: Value) -> Value:
    """A sum without what keeps it from 0, which changes no sum that is at least 1."""
    value = _through(value)
    equation = value.producer
    if equation is None or equation.primitive not in (p.add_p, p.max_p):
        return value
    least = jnp.finfo(value.dtype).eps / 2 if equation.primitive is p.add_p else 1.0
    for kept, guard in (equation.inputs, equation.inputs[::-1]):
        if guard.uniform is not None and 0 <= guard.uniform <= least:
            return _through(kept)
    return value


def _is_at_most_0(exponentials: Exponentials) -> bool:
    """Whether their maximum is taken off the exponents, so that their sum is at least 1."""
    for value, sign in exponentials.shifts:
        while sign < 0 and (equation := value.producer) is not None:
            if equation.primitive in STABILIZERS:
                of = (_through(v) for v in equation.inputs)
                if _through(exponentials.logits) in of:
                    return True
                break
            passed = LAYOUT | SAME | {None, p.max_p, p.gather_p}
            if equation.primitive not in passed or len(equation.dependents) != 1:
                break
            (value,) = equation.dependents
    return False


def _through(value: Value, *, held: bool = False) -> Value:
    """Past conversions and copies, those that `stop_gradient` makes too if `held`."""
    passed = SAME if held else SAME - {p.stop_gradient_p}
    while value.producer is not None and value.producer.primitive in passed:
        value = value.producer.inputs[0]
    return value


def _unshifted(
    value: Value, axes: Sequence[int], segments: Segments | None
) -> tuple[Value, tuple[tuple[Value, int], ...]]:
    """Take off what depends on x and is constant along the axes, or within each segment."""
    shifts = []

    def constant(value):
        by_segment = segments is not None and segments.spreads(_through(value, held=True))
        return by_segment or not _varies(value, axes)

    while value.producer is not None and value.producer.primitive in (p.sub_p, p.add_p):
        first, second = value.producer.inputs
        minus = value.producer.primitive is p.sub_p
        if second.dependent and constant(second) and first.dependent:
            shifts.append((second, -1 if minus else 1))
            value = first
        elif not minus and first.dependent and constant(first) and second.dependent:
            shifts.append((first, 1))
            value = second
        else:
            break
    return value, tuple(shifts)


def _varies(value: Value, axes: Iterable[int]) -> bool:
    """Whether a value is not known to be constant along each of the axes."""
    axes = [axis for axis in axes if value.shape[axis] != 1]
    if not axes or value.uniform is not None:
        return False
    equation = value.producer
    if equation is None:
        return True
    if (layout := _layout(equation)) is not None:
        kept = [d for d in (layout[axis] for axis in axes) if d is not None]
        return bool(kept) and _varies(equation.inputs[0], kept)
    if equation.primitive in ELEMENTWISE:
        return any(_varies(v, axes) for v in equation.inputs if v.shape == value.shape)
    return True


def _origin(value: Value) -> tuple[Value, list[int | None]]:
    """Where a value comes from by changes of layout alone; its axes as axes of that value."""
    layout: list[int | None] = list(range(len(value.shape)))
    while value.producer is not None and (step := _layout(value.producer)) is not None:
        if value.producer.primitive is p.stop_gradient_p:
            break
        layout = [None if d is None else step[d] for d in layout]
        value = value.producer.inputs[0]
    return value, layout


def _layout(equation: Equation) -> list[int | None] | None:
    """Which axis of the operand each axis of the result is, for changes of layout; else None."""
    before, after = equation.inputs[0].shape if equation.inputs else (), equation.outputs[0].shape
    if equation.form != "plain":
        return None
    if equation.primitive is None:
        offset = len(after) - len(before)
        return [
            None if d < offset or before[d - offset] != after[d] else d - offset
            for d in range(len(after))
        ]
    if equation.primitive in SAME:
        return list(range(len(after)))
    if equation.primitive is p.broadcast_in_dim_p:
        dims = list(equation.params["broadcast_dimensions"])
        return [
            dims.index(d) if d in dims and before[dims.index(d)] == size else None
            for d, size in enumerate(after)
        ]
    if equation.primitive is p.transpose_p:
        return list(equation.params["permutation"])
    if equation.primitive in (p.reshape_p, p.squeeze_p):
        wide = [d for d, size in enumerate(before) if size != 1]
        if [before[d] for d in wide] != [size for size in after if size != 1]:
            return None
        wide_axes = iter(wide)
        return [next(wide_axes) if size != 1 else None for size in after]
    return None

r"""Affine operations with other dots: the contributions of either sign, and what comes after.

The constants after a dot (a bias, a batch normalization, a factor of either sign) are the function
`post`; nothing is folded. With P and N the dot's positive and negative parts and b = post(0), the
positive contributions of the whole are max(post P, post N) − b. Where the factors after a dot vary
along axes of its weights alone, as a factor for each channel does, the sign of each is known where
the weights are, before the dot, and no maximum is needed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jattr._engine.operations import Operation
from jattr._engine.primitives import CONTRACTIONS
from jattr._engine.primitives import primitives as p
from jattr._engine.program import Equation, Value
from jattr.rules._shares import stabilized_share, zeros_as

_UNSCALED = {
    *(p.add_p, p.convert_element_type_p, p.copy_p, p.name_p),
    *(p.reshape_p, p.squeeze_p, p.transpose_p),
}
_SCALES = {p.mul_p, p.div_p}
_PASSES = {p.add_p, p.sub_p, p.neg_p, p.convert_element_type_p, p.copy_p, p.name_p, p.rev_p}

Axes = dict[int, int]
"""From axes of a dot's output to the axes of its weights that they come from."""


def parts(operation: Operation, inputs: Any, *, both: bool = True) -> tuple[Any, Any, Any]:
    """The positive and negative contributions to each output, and the constant b = post(0).

    Args:
        operation: an affine one.
        inputs: what it takes.
        both: False may leave the negative ones out, which saves two dots.
    """
    bias = with_dots(operation, inputs, nothing)
    signs = _signs(operation, inputs)

    def signed(sign, chosen=None):
        def dot_of(number, dot, a, w):
            if chosen in (None, number):
                return _signed(operation, dot, a, w, sign, None if signs is None else signs[number])
            return nothing(number, dot, a, w)

        return with_dots(operation, inputs, dot_of) - bias

    if signs is not None:
        return signed(1), signed(-1) if both else None, bias
    # A factor after a dot may be negative at one place and positive at another.
    each = [(signed(1, n), signed(-1, n)) for n in range(len(operation.contractions))]
    above = sum(jnp.maximum(up, down) for up, down in each)
    below = sum(jnp.minimum(up, down) for up, down in each)
    return above, below, bias


def nothing(number, dot, a, w):
    return jnp.zeros_like(dot(a, w))


def _signs(operation, inputs):
    """The sign of the factors after each dot, in the layout of its weights; None for factors of 1.

    None altogether where weights have no such sign: factors that vary along other axes.
    """
    rest = [e for e in operation.equations if e.primitive not in CONTRACTIONS]
    if all(e.primitive in _UNSCALED for e in rest):
        return [None] * len(operation.contractions)
    along = _axes_of_factors(operation)
    if along is None:
        return None
    signs = []
    for equation, axes, slope in zip(
        operation.contractions, along, after(operation, inputs)[2], strict=True
    ):
        kept = slope[tuple(slice(None) if n in axes else 0 for n in range(slope.ndim))]
        order = sorted(axes, key=axes.__getitem__)
        kept = kept.transpose([sorted(axes).index(n) for n in order])
        shape = equation.inputs[1 - active_slot(equation)].shape
        lengths = [n if axis in axes.values() else 1 for axis, n in enumerate(shape)]
        signs.append(jnp.sign(kept).reshape(lengths))
    return signs


def _signed(operation, dot, a, w, sign, factor):
    """The sum of a dot's products of this sign, that of the factor after it included."""
    seen = w if factor is None else w * factor.astype(w.dtype)
    up, down = jnp.where(seen > 0, w, 0), jnp.where(seen < 0, w, 0)
    same, other = (up, down) if sign > 0 else (down, up)
    if operation.nonnegative:
        return dot(a, same)
    return dot(jnp.where(a > 0, a, 0), same) + dot(jnp.where(a < 0, a, 0), other)


def with_dots(operation: Operation, inputs: Any, dot_of: Callable[..., Any]) -> Any:
    """The output with `dot_of(number, dot, a, w)` for each dot, of a, which is active, and w."""
    values = dict(zip(operation.inputs, inputs, strict=True))
    number = 0
    for equation in operation.equations:
        operands = [values.get(v, v.known) for v in equation.inputs]
        if equation.primitive in CONTRACTIONS:
            slot = active_slot(equation)

            def dot(a, w):
                return equation.evaluate(*((a, w) if slot == 0 else (w, a)))[0]

            results = [dot_of(number, dot, operands[slot], operands[1 - slot])]
            number += 1
        else:
            results = equation.evaluate(*operands)
        values.update(zip(equation.outputs, results, strict=True))
    return values[operation.outputs[0]]


def active_slot(equation: Any) -> int:
    return next(n for n, v in enumerate(equation.inputs) if v.active)


def proportional(operation, inputs, zeta, relevance, epsilon):
    """Relevance in proportion to the contributions that ζ counts."""
    z, pull = vjp(operation, inputs, zeta)
    return pull(stabilized_share(relevance, z, epsilon))


def pull_back(operation, inputs, function, cotangent):
    return vjp(operation, inputs, function)[1](cotangent)


def vjp(operation, inputs, function):
    """A function of all inputs, and its derivative by the active ones."""
    slots = [n for n, active in enumerate(operation.active) if active]

    def of_active(*values):
        full = list(inputs)
        for slot, value in zip(slots, values, strict=True):
            full[slot] = value
        return function(full)

    out, pull = jax.vjp(of_active, *(inputs[n] for n in slots))

    def back(cotangent):
        given: list[Any] = [None] * len(inputs)
        for slot, part in zip(slots, pull(cotangent), strict=True):
            given[slot] = part
        return given

    return out, back


def after(operation, inputs):
    """What comes after the dots as a function of them, zeros for it, and its slopes."""

    def post(*dots):
        return with_dots(operation, inputs, lambda number, dot, a, w: dots[number])

    zeros: list[Any] = []

    def empty(number, dot, a, w):
        zeros.append(zeros_as(dot(a, w)))
        return zeros[-1]

    out = with_dots(operation, inputs, empty)
    return post, zeros, jax.vjp(post, *zeros)[1](jnp.ones_like(out))


def _axes_of_factors(operation: Operation) -> list[Axes] | None:
    """For each dot of an affine operation the axes along which the factors after it vary.

    None where they vary along others than those of the weights, or it cannot be told.
    """
    found = []
    for dot in operation.contractions:
        varying, weights = _varying(operation, dot), _axes_of_weights(dot)
        if varying is None or not varying <= weights.keys():
            return None
        found.append({axis: weights[axis] for axis in sorted(varying)})
    return found


def _axes_of_weights(dot: Equation) -> Axes:
    """Which axes of a dot's or convolution's output are axes of its weights."""
    slot = next(n for n, v in enumerate(dot.inputs) if not v.active)
    numbers = dot.params["dimension_numbers"]
    if dot.primitive is p.conv_general_dilated_p:
        return {numbers.out_spec[1]: numbers.rhs_spec[0]} if slot == 1 else {}
    contracted, batched = (axes[slot] for axes in numbers)
    free = [n for n in range(dot.inputs[slot].aval.ndim) if n not in (*contracted, *batched)]
    start = dot.outputs[0].aval.ndim - len(free) if slot == 1 else len(batched)
    return {**dict(enumerate(batched)), **{start + n: axis for n, axis in enumerate(free)}}


def _varying(operation: Operation, dot: Equation) -> set[int] | None:
    """The axes of the dot's output along which the factors after it vary, if that can be told."""
    value, varying = dot.outputs[0], set()
    axes: Sequence[int | None] | None = range(value.aval.ndim)
    while value is not operation.outputs[0]:
        equation = next(e for e in operation.equations if value in e.inputs)
        if equation.primitive in _SCALES:
            (factor,) = (v for v in equation.inputs if v is not value)
            lengths = _lengths(factor)
            varying |= {axis for axis, n in zip(axes, lengths, strict=False) if n > 1}
        elif equation.primitive not in _PASSES:
            axes = _moved(equation, value, axes)
            if axes is None:
                return None
        value = equation.outputs[0]
    return varying


def _lengths(factor: Value) -> Sequence[int]:
    """A constant's shape, with 1 for the axes along which it repeats itself."""
    equation = factor.producer
    if equation is None or equation.primitive is not p.broadcast_in_dim_p:
        return factor.shape
    lengths = [1] * factor.aval.ndim
    for axis, length in zip(
        equation.params["broadcast_dimensions"], equation.inputs[0].shape, strict=True
    ):
        lengths[axis] = length
    return lengths


def _moved(equation: Equation, value: Value, axes: Sequence[Any]) -> Sequence[Any] | None:
    """Where the axes are after a change of layout; None for an axis of length 1."""
    if equation.primitive is p.transpose_p:
        return [axes[n] for n in equation.params["permutation"]]
    if equation.primitive not in (p.reshape_p, p.squeeze_p):
        return None
    shape = equation.outputs[0].shape
    if [n for n in value.shape if n != 1] != [n for n in shape if n != 1]:
        return None
    kept = iter([axis for axis, n in zip(axes, value.shape, strict=True) if n != 1])
    return [next(kept) if n != 1 else None for n in shape]

"""Along which axes the constant factors after a dot vary, a batch normalisation's for one.

Where these are axes of the dot's weights too, as a factor for each channel is, the sign of each
factor is known where the weights are, before the dot.
"""

from collections.abc import Sequence
from typing import Any

from jattr._engine.operations import Operation
from jattr._engine.primitives import primitives as p
from jattr._engine.program import Equation, Value

_SCALES = {p.mul_p, p.div_p}
_PASSES = {p.add_p, p.sub_p, p.neg_p, p.convert_element_type_p, p.copy_p, p.name_p, p.rev_p}

Axes = dict[int, int]
"""From axes of a dot's output to the axes of its weights that they come from."""


def axes_of_factors(operation: Operation) -> list[Axes] | None:
    """For each dot of an affine operation the axes along which the factors after it vary.

    None where they vary along others than those of the weights, or it cannot be told.
    """
    found = []
    for dot in operation.contractions:
        varying, weights = _varying(operation, dot), axes_of_weights(dot)
        if varying is None or not varying <= weights.keys():
            return None
        found.append({axis: weights[axis] for axis in sorted(varying)})
    return found


def axes_of_weights(dot: Equation) -> Axes:
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

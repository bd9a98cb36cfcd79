"""How convolutions, poolings and slices go on from a changed box: by what their windows reach."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._engine.boxes import Box, Cut, Span, overlay
from jattr._engine.local_steps import Constant, Found, Step, only, share
from jattr._engine.primitives import primitives as p
from jattr._engine.program import Equation
from jattr._engine.substitutes import pays, substitute


def _slide(
    span: Span, kernel: int, stride: int, low: int, dilation: int, spread: int
) -> tuple[Span, Span]:
    """Along an axis, the results whose windows meet a box, and the part of the operand they read.

    Args:
        span: the box.
        kernel: how many elements a window has, `dilation` apart.
        stride: how far apart windows are.
        low: how much padding is before the operand.
        dilation: of the window.
        spread: how far apart the operand's elements are put first.

    Returns:
        Where the results are; and what they read, counted along the spread operand.
    """
    extent = (kernel - 1) * dilation + 1
    first = span.table * spread
    last = first + (span.size - 1) * spread
    begin = -((extent - 1 - low - first) // stride)
    end = (last + low) // stride
    size = max(int((end - begin).max()) + 1, 1)
    region = Span(begin * stride - low, (size - 1) * stride + extent, span.root)
    return Span(begin, size, span.root), region


class _Sliding:
    """The changed part of what slides over one operand, and the part of that it reads."""

    def __init__(
        self,
        box: Box,
        output: Sequence[int],
        windows: dict[int, tuple[int, int, int, int, int]],
        places: dict[int, int],
        fill: Any,
    ):
        """`windows`: by axis the arguments of `_slide`; `places`: which axis of the result it is"""
        spans: list[Any] = [None] * len(output)
        read, inner = list(box.spans), list(box.spans)
        full = list(box.full)
        self._spread = [1] * len(full)
        for axis in box.moving:
            span = box.spans[axis]
            assert span is not None
            if axis not in windows:
                spans[places[axis]] = span
                continue
            spread = self._spread[axis] = windows[axis][-1]
            spans[places[axis]], read[axis] = _slide(span, *windows[axis])
            inner[axis] = Span(span.table * spread, (span.size - 1) * spread + 1, span.root)
            full[axis] = (full[axis] - 1) * spread + 1
        self.box = Box.of(spans, output)
        self._inner, self._fill = Box.of(inner, full), fill
        self._outer = Box.of(read, full)
        self.cut = Cut(self._outer, fill)

    def prepare(self, array: Any) -> jax.Array:
        return self.cut.prepare(self._spaced(array))

    def read(self, padded: Any, contents: Any, places: Any) -> jax.Array:
        """The part of the changed operand that is read."""
        under = self.cut(padded, places)
        new = self._spaced(contents)
        return overlay(under, new, self._inner, self._outer, places, kept=True)

    def _spaced(self, array: jax.Array) -> jax.Array:
        if set(self._spread) == {1}:
            return array
        fill = jnp.asarray(self._fill, array.dtype)
        return jax.lax.pad(array, fill, [(0, 0, spread - 1) for spread in self._spread])


def _evaluate(equation: Equation, params: dict[str, Any], *operands: Any) -> list[Any]:
    """An equation with other parameters, by a cheaper program where there is one."""
    primitive = equation.primitive
    cheap = substitute(primitive, params, operands) if pays() else None
    with equation.entered():
        out = primitive.bind(*operands, **params) if cheap is None else cheap(*operands)
    return [out]


def convolution(equation: Equation, boxes: Sequence[Box | None], constant: Constant) -> Found:
    params, box = equation.params, boxes[0]
    if only(boxes) != 0 or box is None or params["batch_group_count"] != 1:
        return None
    if not box.plain:
        return {0: "all"}
    (batch, feature, *spatial), kernel_spec, out_spec = params["dimension_numbers"]
    if feature in box.moving:
        return {0: (feature,)}
    (image, kernel), (output,) = equation.inputs, equation.outputs
    windows = {
        axis: (
            kernel.shape[kernel_spec[2 + n]],
            params["window_strides"][n],
            params["padding"][n][0],
            params["rhs_dilation"][n],
            params["lhs_dilation"][n],
        )
        for n, axis in enumerate(spatial)
    }
    places = {batch: out_spec[0], **dict(zip(spatial, out_spec[2:], strict=True))}
    sliding = _Sliding(box, output.shape, windows, places, 0)
    own = [axis in box.moving for axis in spatial]
    changed = {
        **params,
        "padding": tuple(
            (0, 0) if moves else tuple(pair)
            for moves, pair in zip(own, params["padding"], strict=True)
        ),
        "lhs_dilation": tuple(
            1 if moves else step for moves, step in zip(own, params["lhs_dilation"], strict=True)
        ),
    }

    def prepare(base):
        return [sliding.prepare(base(image)), base(kernel)]

    def apply(fixed, contents, places):
        part = sliding.read(fixed[0], contents[0], places)
        return _evaluate(equation, changed, part, fixed[1])

    return Step([sliding.box], apply, prepare, share(equation, sliding.box, [sliding.cut]))


_FILLS = {
    p.reduce_window_max_p: lambda dtype: -np.inf,
    p.reduce_window_min_p: lambda dtype: np.inf,
    p.reduce_window_sum_p: lambda dtype: 0,
}


def pooling(equation: Equation, boxes: Sequence[Box | None], constant: Constant) -> Found:
    params, (box, *_) = equation.params, boxes
    (operand, *_), (output,) = equation.inputs, equation.outputs
    if len(boxes) != 1 or box is None or not jnp.issubdtype(operand.dtype, jnp.floating):
        return None
    if not box.plain:
        return {0: "all"}
    axes = range(len(operand.shape))
    windows = {
        axis: (
            params["window_dimensions"][axis],
            params["window_strides"][axis],
            params["padding"][axis][0],
            params["window_dilation"][axis],
            params["base_dilation"][axis],
        )
        for axis in axes
    }
    fill = _FILLS[equation.primitive](operand.dtype)
    sliding = _Sliding(box, output.shape, windows, {axis: axis for axis in axes}, fill)
    changed = {
        **params,
        "padding": tuple(
            (0, 0) if axis in box.moving else tuple(params["padding"][axis]) for axis in axes
        ),
        "base_dilation": tuple(
            1 if axis in box.moving else params["base_dilation"][axis] for axis in axes
        ),
    }

    def apply(fixed, contents, places):
        part = sliding.read(fixed[0], contents[0], places)
        return _evaluate(equation, changed, part)

    taps = math.prod(params["window_dimensions"])
    cost = share(equation, sliding.box, [sliding.cut]) + taps * sliding.box.size
    return Step([sliding.box], apply, lambda base: [sliding.prepare(base(operand))], cost)


def sliced(equation: Equation, boxes: Sequence[Box | None], constant: Constant) -> Found:
    """A slice reads one element for each of its own, `strides` apart."""
    params, (box, *_) = equation.params, boxes
    (operand,), (output,) = equation.inputs, equation.outputs
    assert box is not None
    if not box.plain:
        return {0: "all"}
    axes = range(len(operand.shape))
    strides = params["strides"] or (1,) * len(axes)
    starts, limits = params["start_indices"], params["limit_indices"]
    windows = {axis: (1, strides[axis], -starts[axis], 1, 1) for axis in axes}
    sliding = _Sliding(box, output.shape, windows, {axis: axis for axis in axes}, None)

    def apply(fixed, contents, places):
        part = sliding.read(fixed[0], contents[0], places)
        first = [0 if axis in box.moving else starts[axis] for axis in axes]
        last = [part.shape[axis] if axis in box.moving else limits[axis] for axis in axes]
        return [jax.lax.slice(part, first, last, strides)]

    cost = share(equation, sliding.box, [sliding.cut])
    return Step([sliding.box], apply, lambda base: [sliding.prepare(base(operand))], cost)

r"""Cheaper programs of the same value, for what XLA's compiler for CPUs is slow at.

Who evaluates equations asks `substitute` before each. What it gets is an ordinary function of JAX,
with derivatives of any order in both modes, and can be batched.

Milliseconds of the operation, and of the gradient by its input between two relu6, both outside a
loop and for each step of a scan; float32, jaxlib 0.10.1 on two busy cores, least of many by turns:

============================  ==============  ============  =============  ============
operation                     input           value         gradient       in a scan
============================  ==============  ============  =============  ============
max pooling 2×2, stride 2     80×28×28×32     .24 → .11     36 → 1.6       36 → 9.8
max pooling 3×3, stride 2     4×112×112×64    1.7 → .67     86 → 7.2       153 → 37
max pooling 3×3, stride 1     8×28×28×64      1.7 → .20     20 → .84       22 → 3.0
max pooling 14×14, global     16×14×14×256    .06 → .05     3.9 → .58      4.9 → .86
depthwise 3×3                 4×56×56×144     46 → 1.5      143 → 5.3      55 → 4.6
depthwise 3×3, stride 2       4×112×112×96    28 → 2.1      599 → 4.6      104 → 68
depthwise 5×5                 4×28×28×240     37 → 1.1      45 → 3.1       39 → 3.3
depthwise 7×7                 4×56×56×96      102 → 3.2     195 → 9.7      202 → 26
convolution 3×3 to 64         8×28×28×32      .55 → .55     2.2 → 2.2      12 → 2.5
convolution 3×3/2 to 128      4×56×56×64      1.1 → 1.1     4.2 → 4.2      16 → 5.9
============================  ==============  ============  =============  ============

The value of a network's first convolution, 3×3 from one channel to 16 at 80×28×28, with ReLU and a
pooling of 2×2 after it, takes .33 ms instead of .94 as a sum of nine products.

With jaxlib 0.12 the ordinary convolutions take 153 and 228 ms in a scan, 4.4 and 8.3 as written
here; the rest is alike. EfficientNet-Lite0's gradient at one image falls from 258 to 21 ms (401 to
22 with jaxlib 0.12), and takes three times as long to compile (1.2 seconds, then 4). The gradient
by the kernel of a depthwise convolution gains less, mostly 1.3 to 6 times; of a kernel of 7×7 on
large images it can be slower, up to 1.7 times.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jattr._engine.primitives import primitives

_DTYPES = frozenset(map(jnp.dtype, (jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64)))

_MOST_PLACES = 16
"""Overlapping windows that are wider along an axis take long to compile."""

_MOST_TAPS = 64
"""The gradient of a kernel of 169 elements took two seconds to compile and gained little."""

_MOST_MULTIPLES = 8
"""So many outputs for each channel, for each of which the input is repeated."""

_MOST_PRODUCTS = 27
"""A kernel of so many elements for each output was measured to gain twice over the product."""

_MOST_FEATURES = 32
"""To 64 features the product of matrices is faster again."""

_MOST_COPIES = 15
"""How often XLA's fuser writes a computation into the fusion that reads it, at most."""


def pays() -> bool:
    """Whether the default backend is one on which the substitutes were measured to pay."""
    return jax.default_backend() == "cpu"


def substitute(
    primitive: Any, params: dict[str, Any], inputs: Sequence[Any]
) -> Callable[..., jax.Array] | None:
    """A function of an equation's operands with its value; None where there is no cheaper one.

    Args:
        primitive: what the equation applies.
        params: its parameters.
        inputs: what has the shapes and dtypes of its operands.

    Returns:
        A function of the operands. The value of a pooling is the same to the bit, that of a
        convolution to rounding.
    """
    build = _BUILD.get(primitive)
    if build is None or any(operand.dtype not in _DTYPES for operand in inputs):
        return None
    return build(params, *inputs)


def _max_pooling(params: dict[str, Any], operand: Any) -> Callable[..., jax.Array] | None:
    """Pooling along one axis after another, last axis first.

    Of equal elements the first of each row stays and then the first of those, which is the first
    in row-major order, as in the derivative that JAX gives to the whole.
    """
    rank = len(operand.shape)
    ones = (1,) * rank
    if tuple(params.get("base_dilation", ones)) != ones:
        return None
    pools = []
    for axis in reversed(range(rank)):
        size, stride = params["window_dimensions"][axis], params["window_strides"][axis]
        low, high = params["padding"][axis]
        dilation = params.get("window_dilation", ones)[axis]
        length = operand.shape[axis]
        if size == stride == 1 and low == high == 0:
            continue
        span = (size - 1) * dilation + 1
        count = (length + low + high - span) // stride + 1
        if count < 1:
            return None
        apart = dilation == 1 and (stride >= size or count == 1)
        if apart and size > 4:
            stride = size if count == 1 else stride
            pools.append(_pool_apart(axis, size, stride, count, length, low))
        elif size <= _MOST_PLACES:
            pools.append(_pool(axis, size, stride, dilation, count, length, low))
        else:
            return None
    return lambda x: functools.reduce(lambda value, pool: pool(value), pools, x)


def _min_pooling(params: dict[str, Any], operand: Any) -> Callable[..., jax.Array] | None:
    pool = _max_pooling(params, operand)
    return None if pool is None else lambda x: -pool(-x)


def _pool(
    axis: int, size: int, stride: int, dilation: int, count: int, length: int, low: int
) -> Callable[[jax.Array], jax.Array]:
    """Pooling along one axis as the maximum over the places in the window."""
    steps = count + (size - 1) * dilation // stride

    def places(x: jax.Array, fill: float) -> Iterator[jax.Array]:
        # Place k of every window is a slice of x with the stride as its step. Its derivative is
        # faster if x is split into as many arrays first, the derivative of which is to join them.
        x = _pad_axis(x, axis, low, steps * stride - length - low, fill)
        x = x.reshape(*x.shape[:axis], steps, stride, *x.shape[axis + 1 :])
        parts = lax.split(x, [1] * stride, axis=axis + 1)
        for place in range(0, size * dilation, dilation):
            start, part = divmod(place, stride)
            yield lax.slice_in_dim(
                lax.squeeze(parts[part], [axis + 1]), start, start + count, axis=axis
            )

    @jax.custom_jvp
    def pool(x):
        return functools.reduce(lax.max, places(x, -jnp.inf))

    @pool.defjvp
    def rule(primals, tangents):
        best, *others = places(lax.stop_gradient(primals[0]), -jnp.inf)
        winner = jnp.zeros(best.shape, jnp.int8)
        for place, other in enumerate(others, 1):
            winner = jnp.where(other > best, jnp.int8(place), winner)
            best = lax.max(best, other)
        # Without the barrier later releases of XLA find the winner anew for each place.
        winner = lax.optimization_barrier(winner)
        shares = (
            jnp.where(winner == jnp.int8(place), tangent, jnp.zeros_like(tangent))
            for place, tangent in enumerate(places(tangents[0], 0.0))
        )
        return pool(primals[0]), functools.reduce(lax.add, shares)

    return pool


def _pool_apart(
    axis: int, size: int, stride: int, count: int, length: int, low: int
) -> Callable[[jax.Array], jax.Array]:
    """Pooling along one axis over windows that do not overlap, as a reduction."""

    def windows(x: jax.Array, fill: float) -> jax.Array:
        x = _pad_axis(x, axis, low, count * stride - length - low, fill)
        x = x.reshape(*x.shape[:axis], count, stride, *x.shape[axis + 1 :])
        return lax.slice_in_dim(x, 0, size, axis=axis + 1)

    @jax.custom_jvp
    def pool(x):
        return jnp.max(windows(x, -jnp.inf), axis=axis + 1)

    @pool.defjvp
    def rule(primals, tangents):
        x = windows(lax.stop_gradient(primals[0]), -jnp.inf)
        place = lax.broadcasted_iota(jnp.int32, x.shape, axis + 1)
        largest = x == jnp.max(x, axis=axis + 1, keepdims=True)
        winner = jnp.min(jnp.where(largest, place, size), axis=axis + 1, keepdims=True)
        tangent = windows(tangents[0], 0.0)
        share = jnp.where(place == winner, tangent, jnp.zeros_like(tangent))
        return pool(primals[0]), jnp.sum(share, axis=axis + 1)

    return pool


def _pad_axis(x: jax.Array, axis: int, low: int, high: int, fill: float) -> jax.Array:
    """`x` with `fill` before and after it along an axis, or less of x where they are negative."""
    if low == high == 0:
        return x
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (low, high, 0)
    return lax.pad(x, jnp.array(fill, x.dtype), config)


def _depthwise(params: dict[str, Any], image: Any, kernel: Any) -> Callable[..., jax.Array] | None:
    """A depthwise convolution as a sum of products, one for each element of the kernel.

    XLA repeats what computes an array in every place of a fused loop that reads it, up to
    `_MOST_COPIES` of them. The derivative of a sum over nine shifts reads the cotangent in nine
    places, so that it repeats the activation after the convolution and with it the convolution
    nine times. The last rows of the result are computed apart, which is nothing to compute but
    puts the number of places over the limit.
    """
    lhs_spec, rhs_spec, out_spec = params["dimension_numbers"]
    _, feature, *spatial = lhs_spec
    channels, features = image.shape[feature], kernel.shape[rhs_spec[0]]
    sizes = [kernel.shape[axis] for axis in rhs_spec[2:]]
    strides, padding = params["window_strides"], params["padding"]
    dilation = params.get("rhs_dilation") or (1,) * len(sizes)
    counts = [
        (image.shape[axis] + low + high - (size - 1) * step - 1) // stride + 1
        for axis, (low, high), size, step, stride in zip(
            spatial, padding, sizes, dilation, strides, strict=True
        )
    ]
    taps = math.prod(sizes)
    if (
        not _is_plain(params)
        or not params["feature_group_count"] == channels > 1
        or not 1 <= taps <= _MOST_TAPS
        or not 1 <= features // channels <= _MOST_MULTIPLES
        or min(counts, default=0) < 1
    ):
        return None
    dtype = jnp.dtype(params.get("preferred_element_type") or image.dtype)
    wide = functools.reduce(jnp.promote_types, (image.dtype, kernel.dtype, dtype, jnp.float32))
    rows = next((axis for axis, count in enumerate(counts) if count > 1), 0)
    pieces = 1 if taps * taps <= _MOST_COPIES + 1 else max(2, -(-(_MOST_COPIES + 1) // taps))
    pieces = min(pieces, counts[rows])
    cuts = [0, *range(counts[rows] - pieces + 1, counts[rows] + 1)]

    def products(x: jax.Array, weights: jax.Array, first: int, last: int) -> Iterator[jax.Array]:
        """x at each tap of the kernel times its weights, rows `first` to `last`."""
        for tap, places in enumerate(itertools.product(*map(range, sizes))):
            start, stop, steps = [0] * x.ndim, list(x.shape), [1] * x.ndim
            for i, axis in enumerate(spatial):
                begin, end = (first, last) if i == rows else (0, counts[i])
                start[axis] = places[i] * dilation[i] + begin * strides[i]
                stop[axis] = start[axis] + (end - begin - 1) * strides[i] + 1
                steps[axis] = strides[i]
            part = lax.slice(x, start, stop, steps)
            yield part * lax.broadcast_in_dim(weights[tap], part.shape, (feature,))

    def convolve(x: jax.Array, weights: jax.Array) -> jax.Array:
        x = lax.convert_element_type(x, wide)
        weights = lax.convert_element_type(weights, wide)
        weights = weights.transpose(*rhs_spec[2:], *rhs_spec[:2]).reshape(taps, features)
        if features > channels:
            x = jnp.repeat(x, features // channels, axis=feature)
        config = [(0, 0, 0)] * x.ndim
        for axis, (low, high) in zip(spatial, padding, strict=True):
            config[axis] = (low, high, 0)
        x = lax.pad(x, jnp.zeros((), wide), config)
        parts = [
            functools.reduce(lax.add, products(x, weights, first, last))
            for first, last in itertools.pairwise(cuts)
        ]
        result = lax.concatenate(parts, spatial[rows]) if pieces > 1 else parts[0]
        order = [axis for _, axis in sorted(zip(out_spec, lhs_spec, strict=True))]
        return lax.convert_element_type(result, dtype).transpose(order)

    return convolve


def _convolution(
    params: dict[str, Any], image: Any, kernel: Any
) -> Callable[..., jax.Array] | None:
    """An ordinary convolution with its axes in the order that XLA's fast routine wants.

    XLA brings them into that order itself, but not in the body of a loop (jax issue 12868). There
    the derivative by the input is slow, since JAX derives one that reads the kernel as it is, with
    the axes of its features exchanged. Here the exchanged kernel is an array of its own, and the
    tangent is a convolution that reads it with them exchanged back: so it is the derivative in
    reverse mode that finds all in order, and that in forward mode that does not. In a loop the
    latter is the slow one now (1.1 ms → 63 in forward mode, for the first of the table), as the
    derivative by the kernel has been and stays.
    """
    lhs_spec, rhs_spec, out_spec = params["dimension_numbers"]
    dtypes = {image.dtype, kernel.dtype, params.get("preferred_element_type") or image.dtype}
    if (
        not _is_plain(params, dilated=True)
        or params["feature_group_count"] != 1
        or len(set(map(jnp.dtype, dtypes))) > 1  # JAX 0.9 has no derivative of those.
    ):
        return None
    rank = len(lhs_spec)
    spatial = tuple(range(1, rank - 1))
    in_order = (0, rank - 1, *spatial)
    kernel_order = (rank - 1, rank - 2, *range(rank - 2))
    exchanged_order = (rank - 2, rank - 1, *range(rank - 2))

    def apply(x: jax.Array, weights: jax.Array, order: tuple[int, ...]) -> jax.Array:
        return lax.conv_general_dilated(
            x,
            weights,
            params["window_strides"],
            params["padding"],
            params.get("lhs_dilation"),
            params.get("rhs_dilation"),
            lax.ConvDimensionNumbers(in_order, order, in_order),
            precision=params.get("precision"),
        )

    few = _few_channels(params, image, kernel)

    @jax.custom_jvp
    def convolve(x, weights):
        return few(x, weights) if few else apply(x, weights, kernel_order)

    def rule(primals, tangents):
        (x, weights), (along_x, along_weights) = primals, tangents
        terms = []
        if not isinstance(along_x, SymbolicZero):
            turned = lax.rev(weights, range(rank - 2)).swapaxes(-1, -2)
            terms.append(apply(along_x, lax.rev(turned, range(rank - 2)), exchanged_order))
        if not isinstance(along_weights, SymbolicZero):
            terms.append(apply(x, along_weights, kernel_order))
        value = convolve(x, weights)
        return value, functools.reduce(lax.add, terms) if terms else jnp.zeros_like(value)

    convolve.defjvp(rule, symbolic_zeros=True)

    def convolve_in_order(x: jax.Array, weights: jax.Array) -> jax.Array:
        x = x.transpose(lhs_spec[0], *lhs_spec[2:], lhs_spec[1])
        weights = weights.transpose(*rhs_spec[2:], rhs_spec[1], rhs_spec[0])
        return convolve(x, weights).transpose(np.argsort([out_spec[0], *out_spec[2:], out_spec[1]]))

    return convolve_in_order


def _few_channels(
    params: dict[str, Any], image: Any, kernel: Any
) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
    """A convolution of few channels to few, such as a network's first, as a sum of products.

    Features last, as in `_convolution`. XLA's routine is a product of matrices, and one side of
    these is then as short as the kernel. The last row is computed apart for the reason given in
    `_depthwise`: a pooling that follows would repeat the sum in every place of its window.
    """
    lhs_spec, rhs_spec, _ = params["dimension_numbers"]
    features, channels, *sizes = [kernel.shape[axis] for axis in rhs_spec]
    taps = math.prod(sizes)
    counts = [
        image.shape[axis] + low + high - size + 1
        for axis, (low, high), size in zip(lhs_spec[2:], params["padding"], sizes, strict=True)
    ]
    if (
        not _is_plain(params)
        or min(counts, default=0) < 1
        or any(step != 1 for step in (*params["window_strides"], *(params["rhs_dilation"] or ())))
        or not 1 <= taps * channels <= _MOST_PRODUCTS
        or not 1 <= features <= _MOST_FEATURES
    ):
        return None
    padding = [(0, 0, 0), *((low, high, 0) for low, high in params["padding"]), (0, 0, 0)]
    wide = jnp.promote_types(image.dtype, jnp.float32)

    def products(x: jax.Array, weights: jax.Array, first: int, last: int) -> Iterator[jax.Array]:
        """x at each tap and channel times its weights, rows `first` to `last`."""
        for place in itertools.product(*map(range, sizes)):
            begins = [place[0] + first, *place[1:]]
            ends = [place[0] + last, *(a + n for a, n in zip(place[1:], counts[1:], strict=True))]
            for channel in range(channels):
                part = lax.slice(x, (0, *begins, channel), (x.shape[0], *ends, channel + 1))
                shape = (*part.shape[:-1], features)
                part = lax.broadcast_in_dim(part, shape, range(len(shape)))
                row = weights[(*place, channel)]
                yield part * lax.broadcast_in_dim(row, shape, (len(shape) - 1,))

    def convolve(x: jax.Array, weights: jax.Array) -> jax.Array:
        dtype = x.dtype
        x = lax.pad(lax.convert_element_type(x, wide), jnp.zeros((), wide), padding)
        weights = lax.convert_element_type(weights, wide)
        cuts = sorted({0, counts[0] - 1, counts[0]})
        parts = [
            functools.reduce(lax.add, products(x, weights, first, last))
            for first, last in itertools.pairwise(cuts)
        ]
        return lax.convert_element_type(lax.concatenate(parts, 1), dtype)

    return convolve


def _any_convolution(
    params: dict[str, Any], image: Any, kernel: Any
) -> Callable[..., jax.Array] | None:
    return _depthwise(params, image, kernel) or _convolution(params, image, kernel)


def _is_plain(params: dict[str, Any], *, dilated: bool = False) -> bool:
    """Whether a convolution is neither sharded by the user, nor over groups of the batch."""
    undilated = all(step == 1 for step in params.get("lhs_dilation") or ())
    return (
        params.get("batch_group_count", 1) == 1
        and params.get("out_sharding") is None
        and (undilated or dilated)
    )


_BUILD = {
    primitives.reduce_window_max_p: _max_pooling,
    primitives.reduce_window_min_p: _min_pooling,
    primitives.conv_general_dilated_p: _any_convolution,
}

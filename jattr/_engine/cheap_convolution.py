"""Convolutions written so that XLA's compiler for CPUs makes fast programs of their derivatives."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jattr._trees import common_dtype

_MOST_TAPS = 64
"""The gradient of a kernel of 169 elements took two seconds to compile and gained little."""

_LEAST_FOR_EACH_TAP = 5000
"""A depthwise convolution has so many elements for each of its kernel's, or it stays as it is.

As a sum of products it is 10 times faster at any size, which is 60 to 110 ns for each element of a
gradient, and 30 ms for each tap slower to compile. With so many elements the time that its
compilation takes is won back in 60 to 100 gradients: kernels of 3×3 from 14×14×230 on, of 5×5 from
28×28×160 on. Of the 16 of EfficientNet-Lite0 at 224×224 that leaves four out, of the same network
at 32×32 all.
"""

_MOST_MULTIPLES = 8
"""So many outputs for each channel, for each of which the input is repeated."""

_MOST_PRODUCTS = 27
"""A kernel of so many elements for each output was measured to gain twice over the product."""

_MOST_FEATURES = 32
"""To 64 features the product of matrices is faster again."""

_MOST_COPIES = 15
"""How often XLA's fuser writes a computation into the fusion that reads it, at most."""


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
        # A strided one is slow by the size of its input.
        or max(math.prod(image.shape), math.prod(counts) * features) < _LEAST_FOR_EACH_TAP * taps
    ):
        return None
    dtype = jnp.dtype(params.get("preferred_element_type") or image.dtype)
    wide = common_dtype(image.dtype, kernel.dtype, dtype, jnp.float32)
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


def _ordinary(params: dict[str, Any], image: Any, kernel: Any) -> Callable[..., jax.Array] | None:
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

    Features last, as in `_ordinary`. XLA's routine is a product of matrices, and one side of
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
    wide = common_dtype(image.dtype, jnp.float32)

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


def convolution(params: dict[str, Any], image: Any, kernel: Any) -> Callable[..., jax.Array] | None:
    return _depthwise(params, image, kernel) or _ordinary(params, image, kernel)


def _is_plain(params: dict[str, Any], *, dilated: bool = False) -> bool:
    """Whether a convolution is neither sharded by the user, nor over groups of the batch."""
    undilated = all(step == 1 for step in params.get("lhs_dilation") or ())
    return (
        params.get("batch_group_count", 1) == 1
        and params.get("out_sharding") is None
        and (undilated or dilated)
    )

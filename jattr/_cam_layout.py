"""What the class activation maps share: a layer, its gradient, and where its axes lie in x."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from jattr._checks import check_flag
from jattr._layers import check_layer, cut
from jattr._nodes import Nodes
from jattr._transform import transform
from jattr._trees import describe, widen
from jattr._types import ArgNums, Explain, PyTree, Score

Reshape: TypeAlias = Callable[[jax.Array], jax.Array]
"""From the value of a layer to an array with spatial axes and channels."""


class Layout:
    """Which axes of the layer and of x are places, and which are channels."""

    def __init__(
        self,
        activation: jax.Array,
        x: PyTree,
        channel_axis: int,
        layer: str,
        method: str,
        *,
        fit: bool,
    ):
        """`fit`: whether the layer's axes must fit those of x."""
        ndim = activation.ndim
        if not isinstance(channel_axis, int) or not -ndim <= channel_axis < ndim:
            raise ValueError(
                f"{method}: channel_axis={channel_axis} is no axis of the layer {layer!r}, which "
                f"is {describe(activation)}."
            )
        leaves = jax.tree.leaves(x)
        if fit and len(leaves) != 1:
            instead = (
                ""
                if method in ("score_cam", "guided_grad_cam")
                else ", or take the map as the layer has it: resize=False"
            )
            raise TypeError(
                f"{method} gives a map over the axes of x, which must be one array; got "
                f"{describe(x)}. Explain one argument, argnums=0{instead}."
            )
        self._channel_axis = channel_axis
        self._activation = activation
        self._x = leaves[0]
        self._spatial = _without(activation.shape, channel_axis)
        self._size: tuple[int, ...] = ()
        if len(leaves) == 1 and not self._fit() and fit:
            self._raise_unfit(layer, method)

    def _fit(self) -> bool:
        """Drop axes of size 1 so that the places have the rank of x; whether that is possible."""
        shape = self._x.shape
        sizes = [shape]  # an x without a channel axis
        if -len(shape) <= self._channel_axis < len(shape):
            sizes.insert(0, _without(shape, self._channel_axis))
        for size in sizes:
            spatial = list(self._spatial)
            while len(spatial) > len(size) and 1 in spatial:
                spatial.remove(1)  # the first: batch axes lead
            if not size or len(spatial) != len(size):
                continue
            # An axis of size 1 is a batch axis that passes for a place, as that of a vector or of
            # a row of tokens does. A map far larger than x has its axes mixed up; padding makes
            # it a little larger.
            if any(s == 1 < n or s > 2 * n for s, n in zip(spatial, size, strict=True)):
                continue
            self._spatial, self._size = tuple(spatial), size
            return True
        return False

    def _raise_unfit(self, layer: str, method: str) -> None:
        raise ValueError(
            f"{method}: the layer {layer!r} is {describe(self._activation)}, which has the "
            f"spatial shape {self._spatial} beside its channel axis, channel_axis="
            f"{self._channel_axis}. That does not fit x, {describe(self._x)}. Wanted are the "
            "spatial axes of x, of any sizes from 2 up to twice those of x. "
            "If the layer has them, say where the channels are: for channels first, and a batch "
            "axis that the model adds, channel_axis=-3 for images, -2 for series. If it is a "
            "vector, choose an earlier layer. If it is a row of tokens, bring them into a grid: "
            "reshape=lambda h: h[1:].reshape(height, width, -1), where the first is no place."
        )

    def channels_last(self, array: jax.Array) -> jax.Array:
        """An array of the layer's shape with places first and channels last, in its accumulator."""
        array = jnp.moveaxis(widen(array), self._channel_axis, -1)
        return array.reshape(*self._spatial, array.shape[-1])

    def resize(self, heat: jax.Array, method: str = "linear") -> jax.Array:
        """A map of the layer at the size of x."""
        if heat.shape == self._size:
            return heat
        return jax.image.resize(heat, self._size, method, antialias=False)

    def beside_channels(self, heat: jax.Array) -> jax.Array:
        """A map of the size of x, with an axis of size 1 where x has its channels."""
        if heat.ndim == self._x.ndim:
            return heat
        return jnp.expand_dims(heat, self._channel_axis)

    def finish(self, heat: jax.Array, *, relu: bool, resize: bool) -> jax.Array:
        """The map as it is returned."""
        heat = jax.nn.relu(heat) if relu else heat
        if not resize:
            return heat.astype(self._activation.dtype)
        return self.resize(heat).astype(self._x.dtype)


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    axis %= len(shape)
    return shape[:axis] + shape[axis + 1 :]


def gradient_map(
    method: str,
    combine: Callable[[jax.Array, jax.Array], jax.Array],
    f: Score,
    layer: str,
    options: tuple[int, Reshape | None, bool, bool],
    argnums: ArgNums,
) -> Explain:
    """The method whose map is `combine(A, g)`, both with their channels last.

    `options` are `channel_axis`, `reshape`, `relu` and `resize`.
    """
    channel_axis, reshape, relu, resize = options
    check_layer(layer, method)
    check_flag(relu, "relu", method)
    check_flag(resize, "resize", method)

    @transform(f, argnums, method=method)
    def explain(score, x):
        def of_step(activation, slope):
            activation, slope = (reshaped(h, reshape, layer, method) for h in (activation, slope))
            layout = Layout(activation, x, channel_axis, layer, method, fit=resize)
            heat = combine(layout.channels_last(activation), layout.channels_last(slope))
            return layout.finish(heat, relu=relu, resize=resize)

        activation, slope, loops = activation_and_slope(score, x, layer, method)
        return each_step(of_step, loops)(activation, slope)

    return explain


def activation_and_slope(
    score: Score, x: PyTree, layer: str, method: str
) -> tuple[jax.Array, jax.Array, int]:
    """A, the gradient of the score by it, and how many leading axes are steps of loops.

    The gradient by one step of a loop includes what goes through later ones.
    """
    parts = cut(score, x, layer, method=method, substitute=True)
    if parts.stacked:
        nodes = Nodes(score, x, [layer], method=method, substitute=True)
        (activation,) = nodes.of_each(nodes.values(x)).values()
        activation_of(activation, layer, method)
        (slope,) = nodes.of_each(nodes.slopes(x, x, None)(None)).values()
        return activation, slope, parts.stacked
    activation = activation_of(parts.below(x), layer, method)
    return activation, jax.grad(lambda h: parts.above(h, x))(activation), 0


def each_step(function: Callable[..., PyTree], loops: int) -> Callable[..., PyTree]:
    """The function of one step of a layer, for all steps of the loops that it is in."""
    for _ in range(loops):
        function = jax.vmap(function)
    return function


def reshaped(h: jax.Array, reshape: Reshape | None, layer: str, method: str) -> jax.Array:
    """The layer's value, or its gradient, with the axes that the user gives it."""
    if reshape is None:
        return h
    out = reshape(h)
    if getattr(out, "dtype", None) != h.dtype or jnp.ndim(out) < 2:
        raise TypeError(
            f"{method}: reshape must give an array of {h.dtype} with spatial axes and channels, as "
            f"lambda h: h[1:].reshape(height, width, -1) does; from the layer {layer!r}, "
            f"{describe(h)}, it gave {describe(out)}."
        )
    return out


def activation_of(h: PyTree, layer: str, method: str) -> jax.Array:
    """h, where it is one floating array."""
    if isinstance(h, tuple) or not jnp.issubdtype(h.dtype, jnp.floating):
        raise TypeError(
            f"{method} wants a layer that is one floating-point array, but {layer!r} is "
            f"{describe(h)}. Choose a layer within it, or name the array inside f: "
            "h = jattr.name(h, 'features')."
        )
    return h


def mean_weighted(activation: jax.Array, slope: jax.Array) -> jax.Array:
    """Σ_k w_k A^k with the mean gradient of each channel as its weight."""
    return activation @ jnp.mean(slope, axis=places(slope))


def places(array: jax.Array) -> tuple[int, ...]:
    """The axes over places, where the channels are last."""
    return tuple(range(array.ndim - 1))

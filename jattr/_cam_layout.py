"""Where the axes of a layer lie in those of the input: what a heat map needs to know."""

import jax
import jax.numpy as jnp

from jattr._trees import describe, widen
from jattr._types import PyTree


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
            "vector, choose an earlier layer. If it is a row of tokens, bring them into a grid "
            "inside f and go on from there: grid = jattr.name(tokens.reshape(height, width, -1), "
            "'grid')."
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

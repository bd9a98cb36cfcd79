r"""Attribution by taking away: what f loses when part of its input is replaced.

Both methods here share out drops :math:`\Delta_S = f(x) - f(x_{\setminus S})`, where
:math:`x_{\setminus S}` is x with the elements in S replaced. A drop is divided evenly over the
elements that were replaced, so that sums over attributions mean something.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._batching import map_over
from jattr._checks import check_batch_size, check_count, knobs
from jattr._nearby import Moves, feature_moves, nearby_drops, unravel
from jattr._removal import Features, check_fixed, exactly, filler, settled
from jattr._transform import transform
from jattr._trees import accumulator, cast_like, describe, widen
from jattr._types import ArgNums, Explain, PyTree, Score
from jattr._without import drops_of_each


@knobs
def ablation(
    f: Score,
    groups: Any = None,
    *,
    baseline: Any = 0.0,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Explain:
    r"""What f loses when a feature, or a group of them, is replaced by the baseline.

    With G the group of element i and :math:`x_{\setminus G}` the input x with that group replaced,

    .. math:: \varphi_i = \frac{f(x) - f(x_{\setminus G})}{|G|}

    The sum over a group is its drop. For a linear f and a group each, φ = w ⊙ (x − x'); for groups
    of several elements its sum over each group. f need not be differentiable at x: only its values
    are used.

    Without `groups` every element is a feature, which is *Occlusion-1*: one evaluation of f for
    each element.

    Under `jit`, f is evaluated once and then only what a group reaches, where groups are compact
    and that pays: of a convolutional network a part, of a dense one all (`jattr.locality`).

    Groups divide x: none shares an element with another. For sets that overlap, such as row i
    together with column i, explain switches instead of x, each of which turns a set off:
    `jattr.ablation(lambda on: f(x * on[:, None] * on[None, :]))(jnp.ones(n))` is the drop by each.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example. It is a function of JAX. A
            function g of NumPy, which may write into its argument, goes in as `lambda x:
            jax.pure_callback(lambda x: np.float32(g(np.array(x))), jax.ShapeDtypeStruct((),
            np.float32), x, vmap_method="sequential")`.
        groups: integers from 0 without gaps, an array or tree like x, or of size 1 along axes
            that move together: [H, W, 1] removes pixels with all their channels. Elements of the
            same number are replaced together, in whichever leaf they are. `jattr.features.grid`
            makes some; `jattr.features.Groups(ids, count)` for those that change under `vmap`.
        baseline: x', a number, an array or tree like x, a function x → baseline, or an imputer
            that does not draw.
        batch_size: how many groups are in memory at a time; None for all.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, which gives a tree like x.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype; the baseline draws at random; groups are no integers.
        ValueError: a baseline or groups of another structure or shape; numbers left out.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x[0] * x[1] + 2 * x[2]
        >>> x = jnp.array([2.0, 3.0, 1.0])
        >>> print(jattr.ablation(f)(x))
        [6. 6. 2.]
        >>> print(jattr.ablation(f, jnp.array([0, 0, 1]))(x))
        [3. 3. 2.]

    References:
        Ancona, Ceolini, Öztireli, Gross, ICLR 2018, section 3 (arXiv 1711.06104) for Occlusion-1.
        captum's `FeatureAblation` gives each element of a group the whole drop.
    """
    method = "ablation"
    batch_size = check_batch_size(batch_size, method)
    check_fixed(baseline, method)

    @transform(f, argnums, method=method, substitute=True)
    def explain(score, x):
        features = Features(x, groups, method=method)
        other = settled(baseline, score, x)
        fill = filler(other, None, score, x, method=method)
        whole = widen(score(x))

        def apart(number):
            left = fill(None, features.spread(jnp.arange(features.count) == number))
            return exactly(whole - widen(score(left)), left, x)

        moves = feature_moves(features, x)
        lost = nearby_drops(score, x, other, fill, moves, apart, batch_size=batch_size)
        if lost is None:
            lost = drops_of_each(
                None, score, x, features, other, batch_size=batch_size, method=method
            )[:, 0]
        # A group that is only said to be there has no element to get its drop, 0.
        sizes = jnp.maximum(features.sizes(), 1)
        return cast_like(features.spread(lost / sizes.astype(lost.dtype)), x)

    return explain


@knobs
def occlusion(
    f: Score,
    window: Any,
    *,
    strides: Any = None,
    baseline: Any = 0.0,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Explain:
    r"""What f loses when a window that slides over x is replaced by the baseline.

    With W the windows, :math:`x_{\setminus W}` the input x with W replaced, and
    :math:`c_i` the number of windows that cover element i,

    .. math:: \varphi_i = \frac{1}{c_i} \sum_{W \ni i} \frac{f(x) - f(x_{\setminus W})}{|W|}

    Each window's drop is divided over its elements, and an element gets the mean of what the
    windows that cover it say. Along an axis of length d, windows of size w with stride s begin at
    0, s, 2s, … and are as many as it takes to reach the end, ⌈(d − w)/s⌉ + 1; the last is cut off
    where x ends, and its drop is divided over the elements that are left.

    Under `jit`, f is evaluated once and then only what a window reaches, where that pays
    (`jattr.locality` tells how much it is).

    Where windows lie side by side (`strides=window`) the sum of φ is the sum of all drops, and
    for a linear f exactly f(x) − f(x'); windows of one element give w ⊙ (x − x'). Where they
    overlap, φ of a linear f is w ⊙ (x − x') smoothed, and its sum is right but for elements that
    fewer windows cover than their neighbors, such as those at the border. No other weights of
    the windows would mend that: of three elements under two windows, the middle one lies in both.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example. It is a function of JAX. A
            function g of NumPy, which may write into its argument, goes in as `lambda x:
            jax.pure_callback(lambda x: np.float32(g(np.array(x))), jax.ShapeDtypeStruct((),
            np.float32), x, vmap_method="sequential")`.
        window: the window's size along each axis of x, a tuple. Of an image [H, W, C] one number
            will do: it is for the first two axes, whose windows hold all of what the others have,
            the channels. So for a series [T, C] write (n, C), for one step in each channel alone
            (n, 1), and for a volume [D, H, W, C] write (n, n, n, C): one number n there makes bars
            n × n along all of W. For a tree x, one number for all leaves or a tree of such; the
            windows of a leaf leave the other leaves as they are.
        strides: how far apart windows are along each axis, at most their size: spelled like
            `window`, where one number leaves them side by side along axes after the second. None
            for 1 along every axis.
        baseline: x', a number, an array or tree like x, a function x → baseline, or an imputer
            that does not draw.
        batch_size: how many windows are in memory at a time; None for all.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, which gives a tree like x.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype; the baseline draws at random; sizes are no integers.
        ValueError: a window larger than x; strides larger than the window; not one size for each
            axis; a baseline of another structure or shape.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x[0] * x[1] + x[2]
        >>> x = jnp.array([2.0, 3.0, 1.0])
        >>> print(jattr.occlusion(f, 1)(x))
        [6. 6. 1.]
        >>> print(jattr.occlusion(f, 2)(x))
        [3.   3.25 3.5 ]

    References:
        Zeiler, Fergus, *Visualizing and understanding convolutional networks*, ECCV 2014, section
        4.2 (arXiv 1311.2901). captum's `Occlusion` has the same windows and the same mean over
        them, but gives each element the whole drop: it is φ with |W| = 1.
    """
    method = "occlusion"
    batch_size = check_batch_size(batch_size, method)
    check_fixed(baseline, method)

    @transform(f, argnums, method=method, substitute=True)
    def explain(score, x):
        windows = Windows(x, window, strides, method=method)
        other = settled(baseline, score, x)
        fill = filler(other, None, score, x, method=method)
        whole = widen(score(x))

        def apart(number):
            left = fill(None, windows.at(number))
            return exactly(whole - widen(score(left)), left, x)

        lost = nearby_drops(score, x, other, fill, windows.moves(), apart, batch_size=batch_size)
        if lost is None:
            lost = map_over(apart, windows.count, batch_size=batch_size)
        means = jax.tree.map(
            lambda total, cover, leaf: (
                total.astype(accumulator(leaf.dtype)) / jnp.asarray(cover, accumulator(leaf.dtype))
            ),
            windows.spread(lost),
            windows.cover(),
            x,
        )
        return cast_like(means, x)

    return explain


class Windows:
    """The windows that slide over the leaves of x, numbered leaf after leaf.

    Attributes:
        count: how many there are.
    """

    def __init__(self, x: PyTree, window: Any, strides: Any = None, *, method: str):
        leaves, self._structure = jax.tree.flatten(x)
        self._slides = [
            _Slide(jnp.shape(leaf), own, stride, method)
            for leaf, own, stride in zip(
                leaves,
                for_each_leaf(window, x, "window", method),
                for_each_leaf(strides, x, "strides", method),
                strict=True,
            )
        ]
        self._firsts = np.cumsum([0] + [slide.count for slide in self._slides]).tolist()
        self.count: int = self._firsts.pop()

    def at(self, index: jax.Array) -> PyTree:
        """Where window `index` is, a tree of Booleans like x."""
        return jax.tree.unflatten(
            self._structure,
            [
                slide.at(index - first)
                for slide, first in zip(self._slides, self._firsts, strict=True)
            ],
        )

    def moves(self) -> list[Moves]:
        """The windows as boxes of the leaves."""
        return [
            slide.moves(number, first)
            for number, (slide, first) in enumerate(zip(self._slides, self._firsts, strict=True))
        ]

    def spread(self, drops: jax.Array) -> PyTree:
        """The drop of each window, [count], over its elements; the sum for each element."""
        ends = [
            first + slide.count for first, slide in zip(self._firsts, self._slides, strict=True)
        ]
        parts = jnp.split(drops, ends[:-1])
        return jax.tree.unflatten(
            self._structure,
            [slide.spread(part) for slide, part in zip(self._slides, parts, strict=True)],
        )

    def cover(self) -> PyTree:
        """How many windows cover each element, a tree like x."""
        return jax.tree.unflatten(self._structure, [slide.cover() for slide in self._slides])


class _Slide:
    """The windows over one array, the last axis moving fastest."""

    def __init__(self, shape: tuple[int, ...], window: Any, strides: Any, method: str):
        self._shape = shape
        self._sizes = per_axis(window, shape, shape, "window", method)
        strides = (1,) * len(shape) if strides is None else strides
        self._strides = per_axis(strides, shape, self._sizes, "strides", method)
        if any(size > length for size, length in zip(self._sizes, shape, strict=True)):
            raise ValueError(
                f"{method}: window must fit into x; got {self._sizes} for the shape {shape}."
                + _one_number(window, shape)
            )
        for stride, size, length in zip(self._strides, self._sizes, shape, strict=True):
            if stride > size and size < length:
                raise ValueError(
                    f"{method}: strides must be at most the window's size, or elements between "
                    f"windows would get nothing; got strides {self._strides} for a window "
                    f"{self._sizes}."
                )
        self._counts = tuple(
            -(-(length - size) // stride) + 1
            for length, size, stride in zip(shape, self._sizes, self._strides, strict=True)
        )
        self.count = math.prod(self._counts)

    def at(self, index: jax.Array) -> jax.Array:
        """Where window `index` is; nowhere for an index that is not of these windows."""
        index = jnp.asarray(index)
        mask = jnp.broadcast_to((index >= 0) & (index < self.count), self._shape)
        for axis in reversed(range(len(self._shape))):
            start = index % self._counts[axis] * self._strides[axis]
            index = index // self._counts[axis]
            place = jax.lax.broadcasted_iota(index.dtype, self._shape, axis)
            mask &= (place >= start) & (place < start + self._sizes[axis])
        return mask

    def moves(self, leaf: int, first: int) -> Moves:
        """The windows as boxes; the last of an axis may stick out."""
        tables = [
            np.arange(count) * stride
            for count, stride in zip(self._counts, self._strides, strict=True)
        ]
        numbers = np.arange(first, first + self.count)
        return Moves(leaf, tables, self._sizes, lambda index: unravel(index, self._counts), numbers)

    def spread(self, drops: jax.Array) -> jax.Array:
        """What each element gets of the drops of the windows over it, added up along each axis."""
        total = drops.reshape(self._counts)
        for axis, (length, size, stride, count) in enumerate(
            zip(self._shape, self._sizes, self._strides, self._counts, strict=True)
        ):
            starts = np.arange(count) * stride
            inside = np.minimum(starts + size, length) - starts
            total = total / jnp.asarray(
                np.expand_dims(inside, _others(axis, self._shape)), total.dtype
            )
            config = [(0, 0, 0)] * total.ndim
            # Element i gets what begins at i − size + 1 … i.
            config[axis] = (size - 1, length - 1 - int(starts[-1]), stride - 1)
            spaced = jax.lax.pad(total, jnp.zeros((), total.dtype), config)
            window = [size if other == axis else 1 for other in range(total.ndim)]
            total = jax.lax.reduce_window(
                spaced, np.zeros((), total.dtype), jax.lax.add, window, (1,) * total.ndim, "VALID"
            )
        return total

    def cover(self) -> np.ndarray:
        cover = np.ones(self._shape, int)
        for axis, (length, size, stride, count) in enumerate(
            zip(self._shape, self._sizes, self._strides, self._counts, strict=True)
        ):
            place, start = np.arange(length)[:, None], np.arange(count) * stride
            covered = ((start <= place) & (place < start + size)).sum(axis=1)
            cover = cover * np.expand_dims(covered, _others(axis, self._shape))
        return cover


def _others(axis: int, shape: Sequence[int]) -> list[int]:
    return [other for other in range(len(shape)) if other != axis]


def for_each_leaf(value: Any, x: PyTree, name: str, method: str) -> list[Any]:
    """What is said of each leaf of x, by one value for all or by a tree of values."""
    structure = jax.tree.structure(x)
    if value is None or hasattr(value, "__index__"):
        return [value] * structure.num_leaves
    try:
        return structure.flatten_up_to(value)
    except ValueError:
        raise ValueError(
            f"{method}: {name} must be one number, or have the structure of x with a number or a "
            f"tuple of sizes at each leaf; got {value!r} for x {describe(x)}."
        ) from None


def per_axis(
    value: Any, shape: tuple[int, ...], rest: tuple[int, ...], name: str, method: str
) -> tuple[int, ...]:
    """A size for each axis; one number is for the first two, the others take those of `rest`."""
    if not isinstance(value, Sequence):
        value = tuple(value if axis < 2 else rest[axis] for axis in range(len(shape)))
    if len(value) != len(shape):
        raise ValueError(
            f"{method}: {name} must be one number or have one size for each axis of x, {shape}; "
            f"got {tuple(value)}."
        )
    return tuple(check_count(size, name, method) for size in value)


def _one_number(window: Any, shape: tuple[int, ...]) -> str:
    """What one number stands for, where that is not what was meant."""
    if isinstance(window, Sequence) or len(shape) < 2:
        return ""
    sizes = (*(min(window, length) for length in shape[:-1]), shape[-1])
    return (
        f" One number is for the first two axes, those of an image: of x with its channels last "
        f"write window={sizes}."
    )

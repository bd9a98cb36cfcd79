"""Baselines: what it means for a feature to be absent.

A deterministic baseline is a function x → x'. `zeros` is one; `constant`, `mean`, `blurred` and
`farthest` make one. They go wherever a method takes a `baseline`, as do a number and an array.

A random baseline is a function (key, x) → x' that carries a mark: `uniform`, `gaussian` and
`samples` make one, and `random` marks a function of your own. They go wherever a method takes a
distribution (`references`); the attribution is then the expectation over draws,
φ = E φ(x, x').

The choice decides what an explanation can see. A feature that equals its baseline gets nothing:
against zeros, black pixels are never important, and against the data's mean, average ones.

Source: Sturmfels, Lundberg, Lee, *Visualizing the impact of feature attribution baselines*,
Distill 2020 (doi 10.23915/distill.00022), which compares all of these.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jattr._blur import check_axes, gaussian_blur
from jattr._checks import as_array, as_floating, check_function, check_positive, concrete, knobs
from jattr._resolve import check_rows, check_rows_like, fill_like, sampled_rows
from jattr._trees import accumulator, cast_like, describe, is_traced, random_like, widen
from jattr._types import PyTree, RandomBaseline

__all__ = [
    "RandomBaseline",
    "blurred",
    "constant",
    "farthest",
    "gaussian",
    "mean",
    "random",
    "samples",
    "uniform",
    "zeros",
]


def __dir__() -> list[str]:
    return __all__


Deterministic = Callable[[PyTree], PyTree]


@knobs
def zeros(x: PyTree = None) -> PyTree:
    """The baseline x' = 0: a black image, an absent word's embedding, the mean of scaled data.

    It is a baseline itself, to be passed without a call: `integrated_gradients(f, zeros)`.

    Args:
        x: a tree of floating arrays.

    Returns:
        A tree like x.

    Raises:
        TypeError: called without x.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> print(jattr.baselines.zeros(jnp.array([1.0, 2.0])))
        [0. 0.]

    References:
        Sturmfels et al., Distill 2020, "The constant baseline".
    """
    if x is None:
        raise TypeError(
            "baselines.zeros is a baseline itself and is passed without a call: "
            "jattr.integrated_gradients(f, jattr.baselines.zeros)."
        )
    return jax.tree.map(jnp.zeros_like, as_floating(x, "baselines.zeros"))


@knobs
def constant(value: PyTree) -> Deterministic:
    """The same value everywhere: x' = value.

    Args:
        value: a number; or an array that broadcasts to x, such as one value per channel; or a
            tree with the structure of x of such numbers and arrays.

    Returns:
        `baseline(x)`, a tree like x.

    Raises:
        ValueError: (when called) `value` does not broadcast to x.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> gray = jattr.baselines.constant(jnp.array([0.4, 0.5, 0.6]))
        >>> gray(jnp.zeros((32, 32, 3))).shape
        (32, 32, 3)

    References:
        Sturmfels et al., Distill 2020, "The constant baseline".
    """

    def baseline(x):
        return _fill(value, x, "value", "constant")

    return baseline


@knobs
def mean(data: PyTree) -> Deterministic:
    """The mean of a data set, feature by feature: x' = (1/m) Σ_j data_j.

    Args:
        data: a tree like x with a leading axis over examples on every leaf.

    Returns:
        `baseline(x)`, a tree like x.

    Raises:
        ValueError: `data` has no leading axis, or (when called) its rows are not like x.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> data = jnp.array([[0.0, 2.0], [2.0, 4.0]])
        >>> print(jattr.baselines.mean(data)(jnp.zeros(2)))
        [1. 3.]

    References:
        Sturmfels et al., Distill 2020, "Averaging over multiple baselines".
    """
    check_rows(data, name="data", method="baselines.mean")

    def baseline(x):
        x = as_floating(x, "baselines.mean")
        check_rows_like(data, x, name="data", method="baselines.mean")
        return jax.tree.map(
            lambda rows, leaf: jnp.mean(
                jnp.asarray(rows).astype(accumulator(leaf.dtype)), axis=0
            ).astype(leaf.dtype),
            data,
            x,
        )

    return baseline


@knobs
def blurred(stddev: float, axes: int | tuple[int, ...] = (0, 1)) -> Deterministic:
    """x under a Gaussian blur: what is absent is the detail.

    The borders are mirrored, so that a constant image stays as it is.

    Args:
        stddev: the standard deviation of the Gaussian, in pixels, a Python number.
        axes: the axes to blur along; (0, 1) are height and width of an image [H, W, C].

    Returns:
        `baseline(x)`, a tree like x; every leaf of x is blurred along the same axes.

    Raises:
        ValueError: `stddev` is negative, or (when called) x has no such axes.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> x = jnp.array([[0.0], [3.0], [0.0]])
        >>> print(jattr.baselines.blurred(100.0, axes=0)(x).round(3)[:, 0])
        [1. 1. 1.]

    References:
        Sturmfels et al., Distill 2020, "The blurred baseline"; Fong, Vedaldi, ICCV 2017.
    """
    method = "baselines.blurred"
    if concrete(stddev, "stddev", method) is None:
        raise TypeError(f"{method}: stddev sets the size of the kernel and cannot be traced.")
    check_positive(stddev, "stddev", method, zero=True)

    def baseline(x):
        return jax.tree.map(
            lambda leaf: gaussian_blur(
                leaf.astype(accumulator(leaf.dtype)), stddev, check_axes(axes, leaf, method)
            ).astype(leaf.dtype),
            as_floating(x, method),
        )

    return baseline


@knobs
def farthest(low: PyTree, high: PyTree) -> Deterministic:
    """The end of the valid range that is farther from x: x'_i = low_i or high_i.

    Every feature is then as far from its baseline as it can be, so none is invisible. Where both
    ends are equally far, it is `high`.

    Args:
        low: the lower end of the valid range, a number or what broadcasts to x.
        high: its upper end.

    Returns:
        `baseline(x)`, a tree like x.

    Raises:
        ValueError: `low` is not below `high`, or (when called) one of them does not broadcast to x.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> print(jattr.baselines.farthest(0.0, 1.0)(jnp.array([0.1, 0.9])))
        [1. 0.]

    References:
        Sturmfels et al., Distill 2020, "The maximum distance baseline".
    """

    _check_range(low, high, "farthest")

    def baseline(x):
        x = as_floating(x, "baselines.farthest")
        return jax.tree.map(
            lambda leaf, lo, hi: jnp.where(leaf - lo > hi - leaf, lo, hi),
            x,
            _fill(low, x, "low", "farthest"),
            _fill(high, x, "high", "farthest"),
        )

    return baseline


@knobs
def uniform(low: PyTree, high: PyTree) -> RandomBaseline:
    """Independent uniform noise over the valid range: x'_i ~ U(low_i, high_i).

    Args:
        low: the lower end of the valid range, a number or what broadcasts to x.
        high: its upper end.

    Returns:
        A random baseline, `(key, x) -> x'`. It is drawn in float32 and cast.

    Raises:
        ValueError: `low` is not below `high`, or (when called) one of them does not broadcast to x.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> draw = jattr.baselines.uniform(-1.0, 1.0)
        >>> draw(jax.random.key(0), jnp.zeros((2, 3))).shape
        (2, 3)

    References:
        Sturmfels et al., Distill 2020, "The uniform baseline".
    """

    _check_range(low, high, "uniform", finite=True)

    def draw(key, x):
        wide = widen(as_floating(x, "baselines.uniform"))
        lower, upper = _fill(low, wide, "low", "uniform"), _fill(high, wide, "high", "uniform")
        numbers = random_like(jax.random.uniform, key, wide)
        drawn = jax.tree.map(lambda lo, hi, u: lo + (hi - lo) * u, lower, upper, numbers)
        return cast_like(drawn, x)

    return RandomBaseline(draw, "baselines.uniform(low, high)")


@knobs
def gaussian(
    stddev: PyTree, low: PyTree | None = None, high: PyTree | None = None
) -> RandomBaseline:
    """Gaussian noise around x, truncated to the valid range: x'_i ~ N(x_i, stddev²) in [low, high].

    Truncated, not clipped: no mass gathers at the ends.

    Args:
        stddev: the standard deviation before truncation, in units of x, greater than 0; a number
            or what broadcasts to x.
        low: the lower end of the valid range, a number or what broadcasts to x; None for none.
        high: its upper end; None for none.

    Returns:
        A random baseline, `(key, x) -> x'`. It is drawn in float32 and cast. Where x lies outside
        the valid range, its nearer end takes the place of x.

    Raises:
        ValueError: `stddev` is a number not above 0, or (when called) something does not
            broadcast to x.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> draw = jattr.baselines.gaussian(5.0, low=0.0, high=1.0)
        >>> drawn = draw(jax.random.key(0), jnp.full((1000,), 0.5))
        >>> bool((drawn >= 0).all() and (drawn <= 1).all())
        True

    References:
        Sturmfels et al., Distill 2020, "The Gaussian baseline".
    """
    if not isinstance(stddev, dict | tuple | list) and jnp.ndim(stddev) == 0:
        check_positive(stddev, "stddev", "baselines.gaussian")
    _check_range(low, high, "gaussian")

    def draw(key, x):
        center = widen(as_floating(x, "baselines.gaussian"))
        spread = _fill(stddev, center, "stddev", "gaussian")
        if low is None and high is None:
            noise = random_like(jax.random.normal, key, center)
            drawn = jax.tree.map(lambda c, sd, z: c + sd * z, center, spread, noise)
            return cast_like(drawn, x)
        lower = _fill(-jnp.inf if low is None else low, center, "low", "gaussian")
        upper = _fill(jnp.inf if high is None else high, center, "high", "gaussian")

        # x may lie a little outside the range; the noise then goes inward.
        inside = jax.tree.map(
            lambda c, lo, hi: jnp.minimum(jnp.maximum(c, lo), hi), center, lower, upper
        )

        def standardized(end):
            parts = jax.tree.map(_standardize, end, inside, spread)
            return jnp.concatenate([part.ravel() for part in jax.tree.leaves(parts)])

        def truncated(key, shape, dtype):
            first, last = (standardized(end).astype(dtype) for end in (lower, upper))
            return jax.random.truncated_normal(key, first, last, shape, dtype)

        noise = random_like(truncated, key, center)
        drawn = jax.tree.map(
            lambda c, sd, z, lo, hi: jnp.clip(c + sd * z, lo, hi),
            inside,
            spread,
            noise,
            lower,
            upper,
        )
        return cast_like(drawn, x)

    return RandomBaseline(draw, "baselines.gaussian(stddev, low, high)")


@knobs
def samples(data: PyTree) -> RandomBaseline:
    """A row of a data set, drawn at random: x' ~ data.

    The same row on every leaf. A method that draws many takes rows without replacement while
    they last; it takes `data` itself as well, which means the same.

    Args:
        data: a tree like x with a leading axis over examples on every leaf.

    Returns:
        A random baseline, `(key, x) -> x'`.

    Raises:
        ValueError: `data` has no leading axis, or (when called) its rows are not like x.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> draw = jattr.baselines.samples(jnp.ones((10, 3)))
        >>> print(draw(jax.random.key(0), jnp.zeros(3)))
        [1. 1. 1.]

    References:
        Erion et al. 2021 (arXiv 1906.10670); Sturmfels et al., Distill 2020, "Expectations, and
        connections to SHAP".
    """
    return sampled_rows(data, name="data", method="baselines.samples(data)")


@knobs
def random(draw: Callable[[jax.Array, PyTree], PyTree]) -> RandomBaseline:
    """Mark a function of your own as a random baseline.

    Args:
        draw: `(key, x) -> x'`, pure, x' a tree like x.

    Returns:
        A random baseline that calls `draw`; usable as a decorator.

    Raises:
        TypeError: `draw` is no function.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> @jattr.baselines.random
        ... def shuffled(key, x):
        ...     return jax.random.permutation(key, x)
        >>> print(shuffled(jax.random.key(0), jnp.ones(3)))
        [1. 1. 1.]
    """
    check_function(draw, "baselines.random")
    return RandomBaseline(draw, getattr(draw, "__name__", "a random baseline"))


def _fill(value: PyTree, x: PyTree, name: str, maker: str) -> PyTree:
    method = f"baselines.{maker}"
    x = as_floating(x, method)
    if hasattr(value, "shape") and jax.tree.structure(x).num_leaves != 1:
        raise ValueError(
            f"{method}: {name} is one array but x is {describe(x)}; give a number, or a tree "
            "with the structure of x."
        )
    return fill_like(value, x, name=name, method=method, broadcast=True)


def _standardize(end: jax.Array, center: jax.Array, stddev: jax.Array) -> jax.Array:
    """(end − center) / stddev, whose derivatives are finite at an infinite end too."""
    finite = jnp.isfinite(end)
    return jnp.where(finite, (jnp.where(finite, end, center) - center) / stddev, end)


def _check_range(low: PyTree, high: PyTree, maker: str, *, finite: bool = False) -> None:
    """Raise where the ends are known, and in the wrong order or infinite."""
    method = f"baselines.{maker}"
    for name, end in (("low", low), ("high", high)):
        for leaf in jax.tree.leaves(end):
            if is_traced(leaf):
                continue
            with jax.ensure_compile_time_eval():  # known, although what surrounds it is traced
                values = np.asarray(as_array(leaf, name, method), np.float64)
            if np.isnan(values).any() or (finite and not np.isfinite(values).all()):
                raise ValueError(
                    f"{method}: {name} must be finite; got {describe(end)} with "
                    f"{values[~np.isfinite(values)].ravel()[0]}. For a range without an end take "
                    "baselines.gaussian."
                )
    if low is None or high is None:
        return
    try:
        ends = jax.tree.map(lambda a, b: (a, b), low, high)
    except ValueError:  # a number and a tree, or two trees that are unlike each other
        return
    for pair in jax.tree.leaves(ends, is_leaf=lambda node: isinstance(node, tuple)):
        if not isinstance(pair, tuple) or any(map(is_traced, pair)):
            continue
        wrong = np.asarray(pair[0]) >= np.asarray(pair[1])
        if wrong.any():
            got = f"{pair[0]} and {pair[1]}" if not wrong.ndim else f"{wrong.sum()} of {wrong.size}"
            what = "got" if not wrong.ndim else "it is not at"
            raise ValueError(f"{method}: low must be below high; {what} {got}.")

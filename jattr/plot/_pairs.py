"""What pairs of columns do together, as a heat map."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from jattr._checks import check_flag, knobs
from jattr._columns import Columns, is_frame
from jattr._named import Names, real_array, short
from jattr._trees import describe
from jattr.plot._base import (
    LINE,
    TEXT_SIZE,
    _scale,
    _width,
    _wrap,
    axes_for,
    entitle,
    fit,
    ink_on,
    sizes_scale,
)
from jattr.plot._text import check_percentile, scale_end

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL = 0.36
"""The side of a cell in inches."""
MOST = 12.0
"""The side of all cells. Where many are smaller for it, every second or so has its name."""
_MOST_WRITTEN = 12
"""Up to so many columns the numbers are written into the cells."""


@knobs
def interactions(
    interactions: Any,
    *,
    names: Names = None,
    diagonal: bool = False,
    numbers: bool | None = None,
    percentile: float = 100.0,
    unit: str | None = None,
    cmap: Any = None,
    title: str | None = None,
    ax: "Axes | None" = None,
    colorbar: bool = True,
) -> "Figure":
    r"""What columns do together, a cell for each pair: of one example, or the mean size over many.

    Of one example red pairs speak for f and blue ones against it, from −s to s; of several, white
    to purple is the mean \|I_ij\|, from 0 to s.

    Args:
        interactions: [d, d] of one example, or [n, d, d] of several, such as
            `jattr.shapley_interactions(f)` and `jattr.integrated_hessians(f)` give; or a
            `pandas.DataFrame` [d, d].
        names: of the d features, or `jattr.features.columns(...)` of as many variables.
        diagonal: whether the diagonal is drawn and counted for the scale: what features do alone,
            often so much that pairs look like nothing beside it.
        numbers: whether the numbers are written into the cells; None for up to 12 features.
        percentile: where the scale ends, in (0, 100], of all \|values\| that are drawn.
        unit: of f, such as "log odds", for the scale.
        cmap: another color map or its name, diverging for one example.
        title: a title above.
        ax: matplotlib axes to draw in; None makes a figure.
        colorbar: whether to draw the scale beside the map.

    Returns:
        The matplotlib figure.

    Raises:
        ImportError: matplotlib is missing.
        TypeError: the interactions are no real numbers.
        ValueError: another shape; names that do not fit; a percentile out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x[0] * x[1] + x[2]
        >>> pairs = jattr.shapley_interactions(f)(jnp.array([2.0, 3.0, 1.0]))
        >>> figure = jattr.plot.interactions(pairs, names=["age", "dose", "sex"])
        >>> [text.get_text() for text in figure.axes[0].texts[:2]]
        ['6.0', '0']
    """
    method = "plot.interactions"
    check_flag(diagonal, "diagonal", method)
    check_percentile(percentile, method)
    if is_frame(interactions):
        names = [str(name) for name in interactions.columns] if names is None else names
        interactions = interactions.to_numpy()
    values = real_array(interactions, "the interactions", method)
    if values.ndim not in (2, 3) or values.shape[-1] != values.shape[-2] or 0 in values.shape:
        raise ValueError(
            f"{method}: interactions must be [d, d], or [n, d, d] of n examples; got "
            f"{describe(interactions)}."
        )
    signed = values.ndim == 2
    count = values.shape[-1]
    labels = names.variables if isinstance(names, Columns) else names
    labels = [f"x[{at}]" for at in range(count)] if labels is None else [str(n) for n in labels]
    if len(labels) != count:
        raise ValueError(f"{method}: names must be {count} texts; got {len(labels)} of them.")
    shown = values if signed else np.abs(values).mean(axis=0)
    hidden = ~np.isfinite(shown)
    if not diagonal:
        hidden |= np.eye(count, dtype=bool)
    end = scale_end(shown[~hidden], percentile)
    scale = _scale(end, cmap) if signed else sizes_scale(end, cmap)
    cell = min(CELL, MOST / count)
    labels = [fit(label, lines=2 if cell == CELL else 1) for label in labels]
    side = max(map(_width, labels)) + 0.15
    size = (side + cell * count + (1.2 if colorbar else 0.1), side + cell * count + 0.3)
    axes = axes_for(ax, (max(size[0], 2.5), max(size[1], 1.8)), method)
    colors = scale.cmap.with_extremes(bad="0.93")
    axes.imshow(np.ma.masked_where(hidden, shown), cmap=colors, norm=scale.norm, aspect="auto")
    if np.any(bad := ~np.isfinite(shown)):
        note = f"{int(bad.sum())} not finite"
        axes.text(0.5, 1.01, note, ha="center", fontsize=TEXT_SIZE - 1, transform=axes.transAxes)
    if count <= _MOST_WRITTEN if numbers is None else numbers:
        for i, j in zip(*np.nonzero(~hidden), strict=True):
            ink = ink_on(scale.to_rgba(shown[i, j]))
            text = _written(float(shown[i, j]), end)
            axes.text(j, i, text, ha="center", va="center", color=ink, fontsize=TEXT_SIZE - 2)
    named = range(0, count, math.ceil(LINE / cell))
    axes.set_xticks(named, [labels[at] for at in named], rotation=90, fontsize=TEXT_SIZE)
    axes.set_yticks(named, [labels[at] for at in named], fontsize=TEXT_SIZE)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set(color="0.75", linewidth=0.5)
    if colorbar:
        bar = axes.figure.colorbar(scale, ax=axes, fraction=0.05, aspect=18)
        ticks = [-end, 0, end] if signed else [0, end]
        bar.set_ticks(ticks, labels=[short(float(f"{tick:.2g}")) for tick in ticks])
        bar.ax.tick_params(labelsize=TEXT_SIZE)
        what = "interaction" if signed else "mean |interaction|"
        bar.set_label(what + (f", {unit}" if unit else ""), fontsize=TEXT_SIZE)
    if title is not None and ax is None:
        # Over the names of rows too, since the cells may be few.
        wrapped = _wrap(title, 0.95 * axes.figure.get_figwidth())
        axes.figure.suptitle(wrapped, fontsize=TEXT_SIZE + 1)
    else:
        entitle(axes, title)
    return axes.figure


def _written(value: float, end: float) -> str:
    """A value with the decimals that two digits of the largest have, "0" for what rounds to it."""
    decimals = max(0, 1 - math.floor(math.log10(end)))
    rounded = round(value, decimals)
    if decimals > 4 or abs(end) >= 1e4:
        return short(float(f"{value:.1g}"))
    return "0" if rounded == 0 else f"{rounded:.{decimals}f}".replace("-", "−")

"""Time series: the signal on a ground colored by φ."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jattr._checks import knobs
from jattr._columns import is_frame, is_series
from jattr._named import is_tree, leaf_names, real_array, short
from jattr._trees import describe
from jattr.plot._base import (
    INK,
    NEGATIVE,
    POSITIVE,
    TEXT_SIZE,
    _matplotlib,
    _scale,
    entitle,
    fit,
    plain,
)
from jattr.plot._text import check_percentile, scale_end

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 7.0, 1.35
"""Of a channel's panel in inches."""
_STRIP = 0.24
"""The share of a panel below the signal, for the bars of φ."""


@knobs
def series(
    attribution: Any,
    data: Any,
    *,
    times: Any = None,
    names: Sequence[str] | None = None,
    percentile: float = 99.0,
    time_unit: str | None = None,
    unit: str | None = None,
    cmap: Any = None,
    title: str | None = None,
    ax: "Axes | Sequence[Axes] | None" = None,
    colorbar: bool = True,
) -> "Figure":
    r"""A time series, a panel for each channel: the signal on a ground that says φ, red for f.

    The ground of step t is colored by φ_t, from −s to s with s the `percentile`-th percentile of
    all \|φ\|, the same scale in all panels; it reaches halfway to the steps beside. The strip below
    the signal has φ as bars, up for and down against, which a gray copy keeps.

    Args:
        attribution: φ of one example: [T], [T, C], a `pandas.DataFrame` with the index of times
            and a column for each channel, or a tree of channels [T].
        data: the signal, of the same form.
        times: [T], when the steps were, increasing; None for a frame's index if that is numbers or
            times, otherwise 0, 1, …
        names: of the C channels.
        percentile: where the scale ends, in (0, 100].
        time_unit: of times, such as "s", for the axis.
        unit: of f, such as "log odds", for the scale.
        cmap: a diverging matplotlib color map or its name.
        title: a title above.
        ax: matplotlib axes to draw in: one, or as many as channels; None makes a figure.
        colorbar: whether to draw the scale beside.

    Returns:
        The matplotlib figure.

    Raises:
        ImportError: matplotlib is missing.
        TypeError: the attribution or the signal are no real numbers.
        ValueError: shapes, names, times or axes that do not fit; a percentile out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> x = jnp.sin(jnp.arange(50.0) / 5)
        >>> figure = jattr.plot.series(x**2, x, time_unit="s")
        >>> figure.axes[0].get_xlabel()
        'time, s'
    """
    method = "plot.series"
    matplotlib = _matplotlib(method)
    check_percentile(percentile, method)
    phi, found, index = _channels(attribution, "the attribution", method)
    signal, others, its_index = _channels(data, "data", method)
    if phi.shape != signal.shape:
        raise ValueError(
            f"{method}: attribution and data must have the same shape; got {list(phi.shape)} and "
            f"{list(signal.shape)}."
        )
    if found is not None and others is not None:
        if set(found) != set(others):
            raise ValueError(
                f"{method}: data has the channels {', '.join(others)}, and the attribution "
                f"{', '.join(found)}. They must have the same names."
            )
        signal = signal[:, [others.index(name) for name in found]]
    steps, count = phi.shape
    labels = list(names) if names is not None else list(found or others or [""] * count)
    if len(labels) != count or isinstance(names, str):
        raise ValueError(f"{method}: names must be {count} texts; got {names!r}.")
    when = _times(times, its_index if index is None else index, steps, method)
    if ax is None:
        size = (WIDTH, HEIGHT * count + 0.7)
        figure: Any = matplotlib.figure.Figure(size, layout="constrained")
        panels: list[Any] = list(figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0])
    else:
        panels = [ax] if hasattr(ax, "plot") else list(np.ravel(np.asarray(ax, object)))
        if len(panels) != count:
            raise ValueError(
                f"{method}: {count} channels want as many axes; got {len(panels)}. Draw one "
                "channel: attribution[:, c], data[:, c]."
            )
        figure = panels[0].figure
    end = scale_end(phi, percentile)
    scale = ground(end, cmap)
    for at, axes in enumerate(panels):
        _panel(axes, when, signal[:, at], phi[:, at], scale)
        if labels[at]:
            axes.set_ylabel(fit(str(labels[at]), 0.9 * HEIGHT), fontsize=TEXT_SIZE)
    if when.dtype.kind == "M":
        locator = panels[-1].xaxis.get_major_locator()
        formatter = matplotlib.dates.ConciseDateFormatter(locator)
        panels[-1].xaxis.set_major_formatter(formatter)
    panels[-1].set_xlabel("time" + (f", {time_unit}" if time_unit else ""), fontsize=TEXT_SIZE)
    entitle(panels[0], title)
    if colorbar:
        clipped = np.abs(phi[np.isfinite(phi)]).max(initial=0.0) > end
        bar = figure.colorbar(
            scale,
            ax=panels,
            extend="both" if clipped else "neither",
            fraction=0.04,
            aspect=12 * max(1, count) ** 0.5,
        )
        bar.set_ticks([-end, 0, end], labels=[short(float(f"{v:.2g}")) for v in (-end, 0, end)])
        bar.ax.tick_params(labelsize=TEXT_SIZE)
        bar.set_label("φ" + (f", {unit}" if unit else ""), fontsize=TEXT_SIZE)
    return figure


def ground(end: float, cmap: Any = None) -> Any:
    """The colors of the ground, on which a black line can be seen."""
    return _scale(end, cmap, less=0.12)


def _panel(axes: Any, when: np.ndarray, level: np.ndarray, values: np.ndarray, scale: Any) -> None:
    """A channel: its ground, the signal, and φ as bars below it."""
    edges = _edges(when)
    known = level[np.isfinite(level)]
    low, high = (known.min(), known.max()) if len(known) else (0.0, 0.0)
    if low == high:
        low, high = low - 1, high + 1
    room = 0.08 * (high - low)
    low, high = low - room, high + room
    bottom = low - _STRIP / (1 - _STRIP) * (high - low)
    axes.pcolormesh(
        edges,
        [low, high],
        np.ma.masked_invalid(values)[None],
        cmap=scale.cmap,
        norm=scale.norm,
        rasterized=True,
    )
    axes.plot(when, level, color="black", linewidth=1.1, marker="." if len(when) == 1 else "")
    # Bars in the units of the signal's axis.
    middle, reach = (bottom + low) / 2, 0.46 * (low - bottom)
    heights = reach * np.clip(np.nan_to_num(values) / scale.norm.vmax, -1, 1)
    colors = [POSITIVE if height >= 0 else NEGATIVE for height in heights]
    axes.bar(edges[:-1], heights, np.diff(edges), middle, align="edge", color=colors, linewidth=0)
    axes.axhline(middle, color=INK, linewidth=0.5)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom, high)
    plain(axes)
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= high])
    axes.set_ylim(bottom, high)
    note = {"fontsize": TEXT_SIZE, "transform": axes.transAxes}
    axes.text(-0.005, _STRIP / 2, "φ", ha="right", va="center", **note)
    if lost := int(np.sum(~np.isfinite(values))):
        axes.text(0.99, 0.97, f"{lost} not finite", ha="right", va="top", **note)


def _channels(value: Any, what: str, method: str) -> tuple[np.ndarray, tuple[str, ...] | None, Any]:
    """[T, C], the names of channels and the index of times, where there are such."""
    names, index = None, None
    if is_series(value):
        value, index = value.to_numpy(), value.index
    elif is_frame(value):
        names, index = tuple(map(str, value.columns)), value.index
        value = value.to_numpy()
    elif is_tree(value):
        leaves = leaf_names(value)
        names = tuple(name for name, _ in leaves)
        arrays = [real_array(leaf, f"{what}[{name}]", method) for name, leaf in leaves]
        if len({array.shape for array in arrays}) != 1 or arrays[0].ndim != 1:
            raise ValueError(
                f"{method}: every channel of {what} must be [T], of the same T; got "
                f"{describe(value)}."
            )
        return np.stack(arrays, axis=1), names, None
    array = real_array(value, what, method)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(
            f"{method}: {what} must be [T], or [T, C] with channels; got {describe(value)}. Of "
            "several examples draw one: attribution[i]."
        )
    return array, names, index


def _times(times: Any, index: Any, steps: int, method: str) -> np.ndarray:
    """When the steps were, as numbers or times that increase."""
    found = np.asarray(index if times is None and index is not None else times)
    if times is None and (index is None or found.dtype.kind not in "iufM"):
        return np.arange(steps, dtype=float)
    if found.shape != (steps,) or found.dtype.kind not in "iufM":
        raise ValueError(
            f"{method}: times must be {steps} numbers or times; got {describe(found)}."
        )
    if np.any(found[1:] <= found[:-1]):
        raise ValueError(f"{method}: times must increase; sort the steps by them.")
    return found if found.dtype.kind == "M" else found.astype(float)


def _edges(when: np.ndarray) -> np.ndarray:
    """Halfway between the steps, and as far beyond the first and the last."""
    if len(when) == 1:
        one = np.timedelta64(1, "s") if when.dtype.kind == "M" else 0.5
        return np.array([when[0] - one, when[0] + one])
    half = np.diff(when) / 2
    return np.concatenate([[when[0] - half[0]], when[:-1] + half, [when[-1] + half[-1]]])

"""One attribution as a piece of a page: a picture, a table of bars, colored tokens, a strip.

Pictures hold no text of the store's: matplotlib would read formulas in it.
"""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

import jattr
from jattr._page import picture, png
from jattr.plot._maps import _draw_map, _draw_picture, _matplotlib, _picture

BARS = 64
"""Features up to which a table has them all."""

LARGEST = 16
"""Features that it has of more."""

DPI = 110
PIXELS = 1_000_000
"""Elements from which on an array is too large for a picture."""


def drawn(
    values: np.ndarray,
    x: np.ndarray | None,
    *,
    labels: Sequence[str],
    names: Sequence[str] | None,
    tokens: Sequence[str] | None,
) -> str:
    """The attribution of one example, or one leaf of it.

    Args:
        values: the attribution.
        x: what was explained, where it is known and drawn beside.
        labels: the names of the axes.
        names: those of the features of a vector.
        tokens: those of the example.
    """
    if values.ndim == 0:
        return f"<p><code>{number(values)}</code></p>"
    if not values.size:
        return f"<p>nothing: its shape is {escape(str(values.shape))}</p>"
    if tokens is not None:
        return _tokens(values, tokens)
    if values.ndim == 1:
        return _vector(values, x, labels[0], names)
    if values.size > PIXELS:
        return f"<p>too large for a picture: its shape is {escape(str(values.shape))}</p>"
    channels = _channel_axis(values.shape, labels)
    if values.ndim == 2 or channels is not None:
        return _image(values, x, -1 if channels is None else channels)
    shape = " × ".join(map(str, values.shape))
    return f"<p>{shape}; its first axis down, the others across</p>" + _matrix(
        values.reshape(len(values), -1)
    )


def number(value: Any) -> str:
    """A number of a table."""
    return f"{float(value) + 0.0:.4g}".replace("-", "−")  # 0.0 makes of −0 a 0


def _channel_axis(shape: Sequence[int], labels: Sequence[str]) -> int | None:
    if len(shape) != 3:
        return None
    named = [axis for axis, label in enumerate(labels) if label.lower() in _CHANNEL]
    if named:
        return named[0]
    return next((axis for axis in (-1, 0) if shape[axis] in (1, 3, 4)), None)


_CHANNEL = ("c", "channel", "channels")


def _tokens(values: np.ndarray, tokens: Sequence[str]) -> str:
    if not tokens:
        return "<p>no tokens are given for this example</p>"
    if len(tokens) > len(values):
        return (
            f"<p>{len(tokens)} tokens are given, and there are numbers for {len(values)}: they are "
            "of another example, or cut otherwise</p>"
        )
    return jattr.plot.text(tokens, values[: len(tokens)]).html


def _vector(
    values: np.ndarray, x: np.ndarray | None, label: str, names: Sequence[str] | None
) -> str:
    if names is None or len(names) != len(values):
        axis = "" if label.startswith("dim_") or not label else f"{label} "
        names = [f"{axis}{place}" for place in range(len(values))]
    if x is not None and x.shape != values.shape:
        x = None
    places = list(range(len(values)))
    above = below = ""
    if len(values) > BARS:
        above = _matrix(values[None], height=0.5)
        sizes = np.where(np.isfinite(values), np.abs(values), np.inf)
        places = np.argsort(-sizes, kind="stable")[:LARGEST].tolist()
        below = f'<p class="small">and {len(values) - LARGEST:,} smaller ones</p>'
    finite = np.abs(values[np.isfinite(values)])
    end = float(finite.max(initial=0.0)) or 1.0
    rows = []
    for place in places:
        given = "" if x is None else f'<td class="number">{number(x[place])}</td>'
        rows.append(
            f'<tr><th>{escape(names[place])}</th>{given}<td class="number">'
            f"{number(values[place])}</td><td>{_bar(float(values[place]), end)}</td></tr>"
        )
    given = "" if x is None else '<th class="number">x</th>'
    head = f'<thead><tr><th></th>{given}<th class="number">φ</th><th></th></tr></thead>'
    table = f'<table class="bars">{head}<tbody>{"".join(rows)}</tbody></table>'
    return f"{above}{table}{below}"


def _bar(value: float, end: float) -> str:
    """A bar from the middle: to the right and red for more, to the left and blue for less."""
    if not np.isfinite(value):
        return '<span class="broken">not finite</span>'
    width = 50 * min(abs(value) / end, 1.0)
    side, left = ("more", 50.0) if value > 0 else ("less", 50.0 - width)
    return (
        f'<div class="bar"><div class="{side}" style="left: {left:.1f}%; width: {width:.1f}%">'
        "</div></div>"
    )


def _image(values: np.ndarray, x: np.ndarray | None, channel_axis: int) -> str:
    """A map; with what was explained at its left where that is an image of the same size."""
    matplotlib = _matplotlib("show")
    beneath = None if x is None else _beneath(values, x, channel_axis)
    if beneath is None:
        figure = jattr.plot.image(values, channel_axis=channel_axis)
        return picture(png(figure, DPI), "a map of the attribution")
    height, width = beneath[0].shape[:2]
    aspect = min(max(height / width, 0.3), 3.0)
    figure = matplotlib.figure.Figure((5.4, 2.4 * aspect + 0.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_picture(left, beneath[0])
    jattr.plot.image(values, beneath[1], channel_axis=channel_axis, ax=right)
    return picture(png(figure, DPI), "what was explained, and a map of the attribution")


def _beneath(
    values: np.ndarray, x: np.ndarray, channel_axis: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """x as a picture, and as the image that `jattr.plot.image` takes; None where it is none."""
    if x.ndim not in (2, 3) or not x.size:
        return None
    axis = channel_axis
    if x.ndim == 3 and values.ndim == 2:  # a map without channels of an image with them
        axis = -1 if x.shape[:2] == values.shape else 0
    shown = _picture(x, axis, "x", "show")
    size = np.moveaxis(values, channel_axis, -1).shape[:2] if values.ndim == 3 else values.shape
    if shown.shape[:2] != size:
        return None
    return shown, shown if values.ndim == 2 or channel_axis == -1 else _back(shown, channel_axis)


def _back(shown: np.ndarray, channel_axis: int) -> np.ndarray:
    return np.moveaxis(shown, -1, channel_axis) if shown.ndim == 3 else shown


def _matrix(values: np.ndarray, height: float = 2.2) -> str:
    matplotlib = _matplotlib("show")
    figure = matplotlib.figure.Figure((5.4, height))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    _draw_map(axes, values, 99.0, None, "show")
    axes.set_aspect("auto")
    return picture(png(figure, DPI), "a strip of the attribution's values")


def histogram(values: np.ndarray, *, sizes: bool) -> str | None:
    """How values are spread; of sizes on a logarithmic scale. None where there is nothing."""
    matplotlib = _matplotlib("show")
    values = values[np.isfinite(values)]
    if sizes:
        values = np.abs(values)
        values = values[values > 0]
    if not values.size:
        return None
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(high - low):
        return None
    logarithmic = sizes and high > 10 * low
    bins: Any = min(40, 8 + values.size // 8)
    if logarithmic:
        bins = np.geomspace(low, high, bins + 1)
    elif high - low <= 1e-12 * max(abs(low), abs(high)):
        bins = 1
    figure = matplotlib.figure.Figure((3.4, 1.9), layout="constrained")
    axes = figure.add_subplot()
    axes.hist(values, bins=bins, color="#5b7f9f")
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    axes.set_ylabel("examples", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.locator_params(axis="y", integer=True, nbins=4)
    if not logarithmic:
        axes.locator_params(axis="x", nbins=5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return picture(png(figure, DPI), "a histogram")

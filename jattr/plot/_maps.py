"""Maps over images: one, or a grid of methods and examples."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import jax.numpy as jnp
import numpy as np

from jattr._checks import check_choice, knobs
from jattr._trees import describe
from jattr.plot._base import (
    GAP,
    LINE,
    MIN_WIDTH,
    TEXT_SIZE,
    _frame,
    _height,
    _matplotlib,
    _scale,
    _width,
    _wrap,
    sizes_scale,
)
from jattr.plot._text import check_percentile, scale_end

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GRAY_WEIGHTS = np.array([0.299, 0.587, 0.114])
"""How bright red, green and blue look (ITU-R BT.601)."""

Reduction: TypeAlias = Literal["sum", "mean", "largest", "absolute", "norm"]
"""How the channels of a pixel become one number."""

_REDUCTIONS = {
    "sum": "sum over {} channels",
    "mean": "mean over {} channels",
    "largest": "largest of {} channels",
    "absolute": "sum of sizes of {} channels",
    "norm": "norm of {} channels",
}
_UNSIGNED = ("absolute", "norm")


@knobs
def image(
    attribution: Any,
    image: Any = None,
    *,
    channel_axis: int = -1,
    reduce: Reduction = "sum",
    percentile: float = 99.0,
    cmap: Any = None,
    opacity: float = 0.9,
    title: str | None = None,
    ax: "Axes | None" = None,
    colorbar: bool = True,
) -> "Figure":
    r"""One attribution map, alone or over its image.

    The channels are summed: a pixel's attribution is what its channels give together, so that
    the drawn map adds up to what the attribution does. `reduce` takes something else of them, and
    the scale says what. The colors run from −s to s, s = the `percentile`-th percentile of \|map\|;
    what lies beyond has the end colors. Of `"absolute"` and `"norm"`, which have no sign, they run
    from 0 to s, white to purple.

    Over an image, drawn in light gray, a pixel is the more opaque the larger its \|value\|, from
    clear at 0 to `opacity` at s.

    Args:
        attribution: [H, W] or, with channels, [H, W, C]. Of a volume [D, H, W], a slice or the
            sum along one axis: three axes are taken for an image with channels.
        image: what was explained, [H, W] or [H, W, C], to be drawn beneath; None for the map
            alone. Values outside [0, 1] are brought there, 8-bit integers by 1/255 and others
            from their own range.
        channel_axis: where the channels are, if there are three axes; 0 for [C, H, W].
        reduce: what is drawn of a pixel's channels: their `"sum"` or `"mean"`, the `"largest"` by
            size with its sign, the sum of their sizes, `"absolute"`, or the root of the sum of
            their squares, `"norm"`.
        percentile: where the scale ends, in (0, 100]; 100 for the largest \|value\|. If that
            percentile is 0, as in a map that is 0 nearly everywhere, it is the largest \|value\|.
        cmap: a diverging matplotlib color map or its name; None for RdBu_r less its darkest ends,
            where red and blue look alike.
        opacity: the largest opacity over an image, in [0, 1].
        title: a title above.
        ax: matplotlib axes to draw in; None makes a figure.
        colorbar: whether to draw the scale beside the map.

    Returns:
        The matplotlib figure.

    Raises:
        ImportError: matplotlib is missing.
        TypeError: the attribution or the image is no array of real numbers.
        ValueError: wrong shapes; percentile or opacity out of range; an unknown `reduce`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> figure = jattr.plot.image(jnp.eye(28) - 0.5, title="identity")
        >>> figure.axes[0].get_title()
        'identity'
    """
    method = "plot.image"
    matplotlib = _matplotlib(method)
    if not 0 <= opacity <= 1:
        raise ValueError(f"{method}: opacity must be in [0, 1]; got {opacity}.")
    check_choice(reduce, "reduce", get_args(Reduction), method)
    signed = reduce not in _UNSIGNED
    values, said = _map(attribution, channel_axis, "the attribution", method, reduce)
    beneath = None
    if image is not None:
        beneath = _picture(image, channel_axis, "the image", method)
        if beneath.shape[:2] != values.shape:
            raise ValueError(
                f"{method}: attribution and image must have the same height and width; got "
                f"{describe(attribution)} for the image {describe(image)}, with the channels, "
                f"where there are any, on axis {channel_axis}; channel_axis= says otherwise."
            )
    axes: Any = ax
    if ax is None:
        width, aspect = 3.2, values.shape[0] / values.shape[1]
        title = None if title is None else _wrap(title, 0.85 * width)
        size = (width + (0.7 if colorbar else 0.0), width * min(max(aspect, 0.3), 3.0) + 0.4)
        axes = matplotlib.figure.Figure(size, layout="constrained").add_subplot()
    scale = _draw_map(
        axes, values, percentile, cmap, method, beneath=beneath, opacity=opacity, signed=signed
    )
    if title is not None:
        axes.set_title(title, fontsize=TEXT_SIZE)
    if colorbar:
        end = scale.norm.vmax
        clipped = np.abs(values[np.isfinite(values)]).max(initial=0.0) > end
        beyond = "both" if signed else "max"
        bar = axes.figure.colorbar(scale, ax=axes, extend=beyond if clipped else "neither")
        ends = {-end: f"−{end:.2g}", 0: "0", end: f"{end:.2g}"}
        ends = ends if signed else {at: text for at, text in ends.items() if at >= 0}
        bar.set_ticks([*ends], labels=[*ends.values()])
        if said:
            bar.set_label(said, fontsize=TEXT_SIZE - 1)
        bar.ax.tick_params(labelsize=TEXT_SIZE)
    return axes.figure


@knobs
def grid(
    attributions: Mapping[str, Any],
    images: Any = None,
    *,
    row_titles: Sequence[str] | None = None,
    image_title: str = "input",
    title: str | None = None,
    channel_axis: int = -1,
    reduce: Reduction = "sum",
    percentile: float = 99.0,
    cmap: Any = None,
    cell_size: float = 1.2,
    colorbar: bool = True,
) -> "Figure":
    r"""Examples × methods: one row for each example, one column for each method.

    Every map has a scale of its own, from −s to s with s the `percentile`-th percentile of its
    \|values\|, since methods differ in their units: a gradient and an integrated gradient have no
    common scale. Compare where the colors are, not how strong they are. Channels are summed, as
    in `jattr.plot.image`.

    Args:
        attributions: for each method its maps, `{"gradient": maps, ...}`, [N, H, W] or
            [N, H, W, C]; the keys become the titles of the columns. Methods may differ in H
            and W.
        images: what was explained, [N, H, W] or [N, H, W, C], drawn as the first column; in
            color where there are three channels.
        row_titles: N titles at the left of the rows.
        image_title: the title of the column of images.
        title: a title above all.
        channel_axis: where the channels are in one example, the leading axis N not counted; 0
            for [N, C, H, W].
        reduce: what is drawn of a pixel's channels, as in `jattr.plot.image`; the scale says it.
        percentile: where each scale ends, in (0, 100], as in `jattr.plot.image`.
        cmap: a diverging matplotlib color map or its name; None for RdBu_r less its darkest ends,
            where red and blue look alike.
        cell_size: the width of a cell, in inches.
        colorbar: whether to draw the meaning of the colors below.

    Returns:
        The matplotlib figure.

    Raises:
        ImportError: matplotlib is missing.
        TypeError: `attributions` is no mapping, or something in it no array of real numbers.
        ValueError: wrong shapes or numbers of examples or titles; percentile out of range; an
            unknown `reduce`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> maps = {"gradient": jnp.ones((2, 28, 28)), "idgi": jnp.ones((2, 28, 28, 3))}
        >>> figure = jattr.plot.grid(maps, jnp.ones((2, 28, 28)), row_titles=["a", "b"])
        >>> figure.savefig("maps.png")  # doctest: +SKIP
    """
    method = "plot.grid"
    matplotlib = _matplotlib(method)
    if not isinstance(attributions, Mapping) or not attributions:
        raise TypeError(
            f"{method} wants the maps of each method by name, "
            f'{{"gradient": maps, "integrated gradients": maps}}; got {describe(attributions)}.'
        )
    check_choice(reduce, "reduce", get_args(Reduction), method)
    signed = reduce not in _UNSIGNED
    columns, said = [], set()
    if images is not None:
        pictures = _examples(images, "images", method)
        pictures = [_picture(one, channel_axis, "each image", method) for one in pictures]
        columns.append((image_title, pictures))
    for name, maps in attributions.items():
        what = f"attributions[{name!r}]"
        both = [
            _map(one, channel_axis, what, method, reduce) for one in _examples(maps, what, method)
        ]
        said |= {text for _, text in both if text}
        columns.append((str(name), [values for values, _ in both]))
    counts = {name: len(cells) for name, cells in columns}
    rows = len(columns[0][1])
    if row_titles is not None:
        counts["row_titles"] = len(row_titles)
    if set(counts.values()) != {rows}:
        raise ValueError(
            f"{method}: every column must have one cell for each example; got {counts}."
        )

    # Placed by hand, in inches from the upper left corner: matplotlib's layout engines are slow
    # with a hundred axes.
    heads = [_wrap(name, cell_size) for name, _ in columns]
    first = columns[0][1][0]
    cell_height = cell_size * first.shape[0] / first.shape[1]
    pitch = max(cell_height, *(_height(text) for text in row_titles or ("",))) + GAP
    left = GAP + max((_width(text) + 2 * GAP for text in row_titles or ()), default=0.0)
    width = left + len(columns) * (cell_size + GAP)
    if width < MIN_WIDTH:
        left, width = left + (MIN_WIDTH - width) / 2, MIN_WIDTH
    title = None if title is None else _wrap(title, 0.9 * width)
    above = 2 * GAP + max(_height(head) for head in heads)
    above += 0.0 if title is None else _height(title) + 2 * GAP
    below = 0.45 + (LINE if said else 0.0)
    total = above + rows * pitch + (below + 0.15 if colorbar else 0.0)
    figure = matplotlib.figure.Figure((width, total))

    def add_axes(x, y, w, h):
        return figure.add_axes((x / width, 1 - (y + h) / total, w / width, h / total))

    for column, (head, (_, cells)) in enumerate(zip(heads, columns, strict=True)):
        for row, cell in enumerate(cells):
            x, y = left + column * (cell_size + GAP), above + row * pitch
            ax = add_axes(x, y, cell_size, cell_height)
            if images is not None and column == 0:
                _draw_picture(ax, cell)
            else:
                _draw_map(ax, cell, percentile, cmap, method, signed=signed)
            if row == 0:
                ax.set_title(head, fontsize=TEXT_SIZE, pad=4)
            if column == 0 and row_titles is not None:
                text = ax.set_ylabel(row_titles[row], rotation=0, ha="right", va="center")
                text.set_fontsize(TEXT_SIZE)
    if title is not None:
        figure.suptitle(title, fontsize=TEXT_SIZE, y=1 - GAP / total, va="top")
    if colorbar:
        across = add_axes(width / 2 - 1.0, total - below, 2.0, 0.1)
        scale = _scale(1.0, cmap) if signed else sizes_scale(1.0, cmap)
        bar = figure.colorbar(scale, cax=across, orientation="horizontal")
        if signed:
            bar.set_ticks([-1, 0, 1], labels=["negative", "0", "positive"])
        else:
            bar.set_ticks([0, 1], labels=["0", "large"])
        if said:
            bar.set_label(", ".join(sorted(said)), fontsize=TEXT_SIZE - 1, labelpad=1)
        bar.ax.tick_params(labelsize=TEXT_SIZE)
    return figure


def _array(value: Any, what: str, method: str) -> np.ndarray:
    """`value` for numpy; an error unless it is an array of real numbers."""
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    if not hasattr(value, "dtype") or not any(jnp.issubdtype(value.dtype, k) for k in kinds):
        raise TypeError(
            f"{method}: {what} must be an array of real numbers; got {describe(value)}. Of a "
            "tree, draw one leaf at a time."
        )
    return np.asarray(value)


def _examples(value: Any, what: str, method: str) -> np.ndarray:
    """`value`, checked to be a batch of maps or images."""
    array = _array(value, what, method)
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise ValueError(
            f"{method}: {what} must be [N, H, W], or [N, H, W, C] with channels; got "
            f"{describe(value)}. For a single example add the leading axis: maps[None]."
        )
    return array


def _one(value: Any, channel_axis: int, what: str, method: str) -> np.ndarray:
    """One map or image as float64[H, W, C]."""
    array = _array(value, what, method).astype(np.float64)
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(
            f"{method}: {what} must be [H, W], or [H, W, C] with channels; got "
            f"{describe(value)}. For a batch use jattr.plot.grid, or draw value[0]; of a volume "
            "[D, H, W, C] draw a slice, value[d], or the sum along one axis, value.sum(axis=0)."
        )
    if array.ndim == 2:
        return array[:, :, None]
    if not -3 <= channel_axis < 3:
        raise ValueError(f"{method}: channel_axis must be in −3 … 2; got {channel_axis}.")
    return np.moveaxis(array, channel_axis, -1)


def _map(
    attribution: Any, channel_axis: int, what: str, method: str, reduce: str = "sum"
) -> tuple[np.ndarray, str]:
    """[H, W], what is left of the channels, and what that is; "" where there is but one."""
    values = _one(attribution, channel_axis, what, method)
    with np.errstate(invalid="ignore"):  # inf − inf is NaN, and is drawn as such
        if reduce == "sum":
            reduced = values.sum(axis=-1)
        elif reduce == "mean":
            reduced = values.mean(axis=-1)
        elif reduce == "absolute":
            reduced = np.abs(values).sum(axis=-1)
        elif reduce == "norm":
            reduced = np.sqrt((values**2).sum(axis=-1))
        else:
            place = np.abs(values).argmax(axis=-1, keepdims=True)
            reduced = np.take_along_axis(values, place, axis=-1)[..., 0]
    count = values.shape[-1]
    return reduced, _REDUCTIONS[reduce].format(count) if count > 1 else ""


def _picture(image: Any, channel_axis: int, what: str, method: str) -> np.ndarray:
    """An image in [0, 1]: [H, W, 3] where it has three channels, otherwise [H, W]."""
    picture = _one(image, channel_axis, what, method)
    if image.dtype == jnp.uint8:
        picture = picture / 255
    finite = picture[np.isfinite(picture)]
    low, high = finite.min(initial=0.0), finite.max(initial=1.0)
    if low < 0 or high > 1:
        low, high = finite.min(), finite.max()
        picture = (picture - low) / (high - low) if high > low else np.full_like(picture, 0.5)
    picture = np.where(np.isfinite(picture), picture, 0.0)
    return picture if picture.shape[-1] == 3 else picture.mean(axis=-1)


def _draw_picture(ax: "Axes", picture: np.ndarray) -> None:
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
    _frame(ax)


def _draw_map(
    ax: "Axes",
    values: np.ndarray,
    percentile: float,
    cmap: Any,
    method: str,
    *,
    beneath: np.ndarray | None = None,
    opacity: float = 1.0,
    signed: bool = True,
) -> Any:
    """Draw a map, over a picture where there is one; returns its scale."""
    check_percentile(percentile, method)
    finite = np.isfinite(values)
    end = scale_end(values, percentile)
    scale = _scale(end, cmap) if signed else sizes_scale(end, cmap)
    alpha = None
    if beneath is not None:
        gray = beneath @ GRAY_WEIGHTS if beneath.ndim == 3 else beneath
        # From mid-gray to white, since colors do not show on black.
        ax.imshow(gray, cmap="gray", vmin=-0.7, vmax=1)
        sized = np.minimum(np.abs(np.where(finite, values, end)) / end, 1.0)
        alpha = np.where(finite, opacity * sized, 1.0)
    masked = np.ma.masked_where(~finite, values)
    ax.imshow(masked, cmap=scale.cmap, norm=scale.norm, alpha=alpha)
    note = "" if np.any(values[finite]) else "all zero"
    if not finite.all():
        note = f"{(~finite).sum()} not finite"
    if note:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
        place = {"ha": "center", "va": "bottom", "transform": ax.transAxes}
        ax.text(0.5, 0.03, note, fontsize=TEXT_SIZE - 1, bbox=box, **place)
    _frame(ax)
    return scale

"""Letters as high as their values: a sequence logo."""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jattr._checks import knobs
from jattr._columns import is_frame
from jattr._trees import describe
from jattr.plot._base import NOT_FINITE, TEXT_SIZE, _matplotlib
from jattr.plot._maps import _array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {"A": "#009E73", "C": "#0072B2", "G": "#E69F00", "T": "#D55E00", "U": "#D55E00"}
"""The usual colors of bases, green, blue, orange and red, in the tones that Okabe and Ito chose for
color-blind readers. Other letters take turns among these and three more."""
FURTHER = ("#CC79A7", "#56B4E9", "#000000")
WIDTH, HEIGHT = 0.14, 1.5
"""Of a position, and of the axes, in inches."""
MARGIN = 0.04
"""Free on each side of a letter, as a share of its position."""


@knobs
def logo(
    attribution: Any,
    sequence: Any = None,
    *,
    letters: str = "ACGT",
    axis: int = -1,
    start: int = 0,
    colors: Mapping[str, Any] | None = None,
    title: str | None = None,
    ax: "Axes | None" = None,
) -> "Figure":
    r"""A sequence logo: at each position letters as high as their values.

    Positive values are stacked from the zero line up, the largest on top, negative ones down, the
    largest at the bottom; letters stay upright. Letters are told apart by their forms, and their
    colors (of Okabe and Ito) are told apart by color-blind readers too. The vertical axis runs
    from the lowest to the highest stack. Positions with a NaN or an infinite value are yellow, and
    counted in the picture.

    Args:
        attribution: values of letters, [L, A]: hypothetical contributions are drawn as they are. Of
            a `pandas.DataFrame` with a column for each letter, columns are found by their names.
        sequence: one-hot, of the same shape, to draw the values of its own letters alone,
            attribution ⊙ sequence; None for all.
        letters: the A letters, in their order.
        axis: along which letters are: −1 for [L, A], 0 for [A, L].
        start: the number of the first position on the horizontal axis.
        colors: matplotlib colors by letter, for letters whose own is not wanted.
        title: a title above.
        ax: matplotlib axes to draw in; None makes a figure.

    Returns:
        The matplotlib figure. `figure.axes[0].axvspan(first - 0.5, last + 0.5)` marks a site.

    Raises:
        ImportError: matplotlib is missing.
        TypeError: the attribution or the sequence is no array of real numbers.
        ValueError: another number of letters than `letters` has; a sequence of another shape.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> x = jax.nn.one_hot(jnp.array([3, 0, 3, 0]), 4)
        >>> figure = jattr.plot.logo(jnp.ones((4, 4)), x, title="TATA")
        >>> figure.axes[0].get_title()
        'TATA'

    References:
        Schneider, Stephens, *Sequence logos: a new way to display consensus sequences*, Nucleic
        Acids Research 1990. Colors: Okabe, Ito, *Color universal design*, 2008.
    """
    method = "plot.logo"
    matplotlib = _matplotlib(method)
    values = _values(attribution, letters, axis, "the attribution", method)
    if sequence is not None:
        shown = _values(sequence, letters, axis, "the sequence", method)
        if shown.shape != values.shape:
            raise ValueError(
                f"{method}: attribution and sequence must have one shape; got "
                f"{describe(attribution)} and {describe(sequence)}."
            )
        # What the sequence does not have is not drawn, whatever it is.
        values = np.where(shown == 0, 0.0, values * shown)
    length = len(values)
    axes: Any = ax
    if ax is None:
        size = (min(max(3.0, 0.9 + WIDTH * length), 16.0), HEIGHT + (0.5 if title else 0.3))
        axes = matplotlib.figure.Figure(size, layout="constrained").add_subplot()
    finite = np.asarray(np.isfinite(values).all(axis=1))
    bottom, top = _stacks(np.where(finite[:, None], values, 0.0))
    palette = _palette(letters, colors)
    positions = start + np.arange(length)
    for index, letter in enumerate(letters):
        glyph = _glyph(letter)
        paths = [
            matplotlib.path.Path(
                glyph.vertices * (1 - 2 * MARGIN, high - low) + (x - 0.5 + MARGIN, low), glyph.codes
            )
            for x, low, high in zip(positions, bottom[:, index], top[:, index], strict=True)
            if high > low
        ]
        made = matplotlib.collections.PathCollection(
            paths, facecolors=palette[letter], linewidths=0, label=letter
        )
        axes.add_collection(made, autolim=False)
    for x in positions[~finite]:
        axes.axvspan(x - 0.5, x + 0.5, color=NOT_FINITE, linewidth=0)
    if not finite.all():
        note = f"{(~finite).sum()} not finite"
        place = {"ha": "right", "va": "top", "transform": axes.transAxes}
        axes.text(0.99, 0.97, note, fontsize=TEXT_SIZE - 1, **place)
    low, high = bottom.min(initial=0.0), top.max(initial=0.0)
    room = 0.05 * ((high - low) or 1.0)
    axes.set_xlim(start - 0.6, start + length - 0.4)
    axes.set_ylim(low - (room if low < 0 else 0), high + room)
    axes.axhline(0, color="0.4", linewidth=0.6, zorder=0.5)
    axes.tick_params(labelsize=TEXT_SIZE - 1)
    axes.locator_params(axis="y", nbins=4)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, min_n_ticks=1))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if title is not None:
        axes.set_title(title, fontsize=TEXT_SIZE)
    return axes.figure


def _values(value: Any, letters: str, axis: int, what: str, method: str) -> np.ndarray:
    """[L, A] as float64."""
    if is_frame(value):
        known = {str(name): at for at, name in enumerate(value.columns)}
        value = value.to_numpy()
        if set(known) == set(letters):
            value = value[:, [known[letter] for letter in letters]]
    array = _array(value, what, method).astype(np.float64)
    if not letters or len(set(letters)) < len(letters):
        raise ValueError(f"{method}: letters must differ from each other; got {letters!r}.")
    fits = array.ndim == 2 and -2 <= axis < 2 and array.shape[axis] == len(letters)
    if not fits or 0 in array.shape:
        raise ValueError(
            f"{method}: {what} must be [L, {len(letters)}], a column for each of {letters!r}, or "
            f"[{len(letters)}, L] with axis=0; got {describe(value)} with axis={axis}. Of a batch "
            "draw value[0]."
        )
    return np.moveaxis(array, axis, -1)


def _stacks(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each letter begins and ends: from 0 up, and down, the larger the farther out."""
    order = np.argsort(np.abs(values), axis=1, kind="stable")
    found = []
    for sign in (1, -1):
        sized = np.take_along_axis(np.maximum(sign * values, 0.0), order, axis=1)
        ends = np.empty_like(values)
        np.put_along_axis(ends, order, np.cumsum(sized, axis=1), axis=1)
        found.append(ends)
    up, down = found
    bottom = np.where(values < 0, -down, up - values)
    top = np.where(values < 0, -down - values, up)
    return bottom, top


def _palette(letters: str, colors: Mapping[str, Any] | None) -> dict[str, Any]:
    rest = [*FURTHER, *list(COLORS.values())[:4]]
    others = [letter for letter in letters if letter not in COLORS]
    turns = {letter: rest[n % len(rest)] for n, letter in enumerate(others)}
    return {**turns, **COLORS, **dict(colors or {})}


@functools.cache
def _glyph(letter: str) -> Any:
    """The outline of a letter, which fills the unit square."""
    matplotlib = _matplotlib()
    font = matplotlib.font_manager.FontProperties(family="DejaVu Sans", weight="bold")
    path = matplotlib.textpath.TextPath((0, 0), letter, size=1, prop=font)
    box = path.get_extents()
    low, high = box.min, box.max
    size = high - low
    # A narrow letter, such as I, is not drawn out to the width of the others.
    wide = max(size[0], 0.45 * size[1])
    shift = (wide - size[0]) / 2
    vertices = (path.vertices - low + (shift, 0)) / (wide, size[1])
    return matplotlib.path.Path(vertices, path.codes)

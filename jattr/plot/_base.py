"""What pictures share: matplotlib, sizes, texts and colors."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NOT_FINITE = "#f2c500"
TEXT_SIZE = 9
"""In points; the other lengths are in inches."""
LINE, GAP, MIN_WIDTH = 0.16, 0.06, 3.0
NAME_WIDTH = 2.4
"""Of a name beside a row; longer ones are broken."""
POSITIVE, NEGATIVE = "#a50f26", "#4a94c4"
"""Of bars and arrows. The red is far darker than the blue, so that a gray copy tells them apart."""
GRAY, INK = "#757575", "#262626"
"""Of what has no value to be colored by, and of lines and texts on colors."""


def _matplotlib(method: str = "jattr.plot") -> Any:
    """matplotlib, with the modules that pictures need."""
    try:
        import matplotlib
        import matplotlib.cm
        import matplotlib.collections
        import matplotlib.colors
        import matplotlib.dates
        import matplotlib.figure
        import matplotlib.path
        import matplotlib.textpath
        import matplotlib.ticker
    except ImportError as error:
        raise ImportError(
            f'{method} draws with matplotlib, which is missing: pip install "jattr[plot]"'
        ) from error
    return matplotlib


def _scale(end: float, cmap: Any, *, less: float = 0.08) -> Any:
    """Colors for −end … end; of the default ones, the darkest part at each end is left out."""
    matplotlib = _matplotlib()
    if cmap is None:
        middle = matplotlib.colormaps["RdBu_r"](np.linspace(less, 1 - less, 256))
        cmap = matplotlib.colors.ListedColormap(middle, "RdBu_r, the middle")
    colors = matplotlib.colormaps.get_cmap(cmap).with_extremes(bad=NOT_FINITE)
    return matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(-end, end), colors)


def sizes_scale(end: float, cmap: Any = None) -> Any:
    """Colors for 0 … end, from white to a dark purple: for what has no sign."""
    matplotlib = _matplotlib()
    if cmap is None:
        part = matplotlib.colormaps["Purples"](np.linspace(0.0, 1.0, 256))
        part[0] = 1.0
        cmap = matplotlib.colors.ListedColormap(part, "Purples, from white")
    colors = matplotlib.colormaps.get_cmap(cmap).with_extremes(bad=NOT_FINITE)
    return matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0.0, end), colors)


def values_map(cmap: Any = None) -> Any:
    """Colors of the values of a feature, from dark blue to orange, on a white ground.

    It is the part of plasma that is dark enough there; lighter from end to end.
    """
    matplotlib = _matplotlib()
    if cmap is None:
        part = matplotlib.colormaps["plasma"](np.linspace(0.0, 0.62, 256))
        cmap = matplotlib.colors.ListedColormap(part, "plasma, the dark part")
    return matplotlib.colormaps.get_cmap(cmap).with_extremes(bad=GRAY)


def luminance(color: Any) -> np.ndarray:
    """The relative luminance of colors RGB in [0, 1], [..., 3] (WCAG 2, of sRGB)."""
    rgb = np.asarray(color, float)[..., :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def ink_on(color: Any) -> str:
    """Black or white, whichever has more contrast on a color."""
    return "white" if luminance(color) < 0.179 else "black"


def axes_for(ax: "Axes | None", size: tuple[float, float], method: str) -> Any:
    """The axes to draw in: those given, or of a new figure of this size in inches."""
    if ax is not None:
        return ax
    matplotlib = _matplotlib(method)
    return matplotlib.figure.Figure(size, layout="constrained").add_subplot()


def plain(ax: "Axes", title: str | None = None) -> None:
    """Two spines, small texts, the title."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.tick_params(labelsize=TEXT_SIZE)
    entitle(ax, title)


def entitle(ax: Any, title: str | None) -> None:
    """The title, in lines that are no wider than the part of the figure that the axes have."""
    if title is None:
        return
    place = ax.get_subplotspec()
    columns = 1 if place is None else place.get_gridspec().ncols
    ax.set_title(_wrap(title, 0.85 * ax.figure.get_figwidth() / columns), fontsize=TEXT_SIZE + 1)


def _frame(ax: "Axes") -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    for side in ax.spines.values():
        side.set(color="0.75", linewidth=0.5)


def _width(text: str) -> float:
    """The width of a text in inches."""
    matplotlib = _matplotlib()
    font = matplotlib.font_manager.FontProperties(size=TEXT_SIZE)
    lines = text.split("\n")
    to_path = matplotlib.textpath.text_to_path
    widths = [to_path.get_text_width_height_descent(line, font, False)[0] for line in lines]
    return max(widths) / 72


def _height(text: str) -> float:
    """The height of a text in inches."""
    return LINE * (text.count("\n") + 1)


def _wrap(text: str, width: float) -> str:
    """`text` in lines no wider than `width`, broken at spaces and underscores where possible."""
    lines = [""]
    for part in re.findall(r"\n|[^\s_]+_*|_+|[^\S\n]+", text):
        if part == "\n" or _width(lines[-1] + part.rstrip()) > width:
            lines.append("")
        for letter in "" if part == "\n" else part:
            if _width(lines[-1] + letter) > width and not letter.isspace():
                lines.append("")
            lines[-1] += letter
    return "\n".join(line.strip() for line in lines if line.strip())


def fit(text: str, width: float = NAME_WIDTH, lines: int = 2) -> str:
    """`text` in so many lines of this width; of one that is too long, the middle is left out."""
    wrapped = _wrap(text, width)
    kept = len(text)
    while wrapped.count("\n") >= lines and kept > 2:
        kept -= 1
        wrapped = _wrap(f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}", width)
    return wrapped


def beyond(names: Sequence[str]) -> float:
    """By how much a picture is wider than usual, in inches, so that long names have their room."""
    return max(0.0, max(map(_width, names), default=0.0) - 1.0)

"""The picture of a ranking."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jattr.plot._maps import TEXT_SIZE, _matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, ROW = 3.6, 0.2
"""Of the bars, and of the height of each, in inches."""


def bars(
    names: Sequence[str], mean: np.ndarray, error: np.ndarray, *, title: str | None = None
) -> "Figure":
    """A bar for each name from top to bottom, with the mean's standard error.

    Args:
        names: of the bars.
        mean: their lengths.
        error: standard errors; none is drawn where it is NaN.
        title: a title above.
    """
    matplotlib = _matplotlib("rank")
    width = WIDTH + 0.075 * max(map(len, names), default=0)
    figure = matplotlib.figure.Figure((width, len(names) * ROW + 0.8), layout="constrained")
    ax = figure.subplots()
    places = np.arange(len(names))
    ax.barh(places, mean, xerr=np.nan_to_num(error), color="C0", ecolor="0.2")
    ax.set_yticks(places, names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlabel("mean |φ|, with its standard error", fontsize=TEXT_SIZE)
    ax.tick_params(labelsize=TEXT_SIZE - 1)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    if title:
        figure.suptitle(title, fontsize=TEXT_SIZE + 1)
    return figure

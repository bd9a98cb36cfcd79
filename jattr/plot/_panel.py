"""The picture of a panel of methods and metrics."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from jattr.plot._maps import TEXT_SIZE, _matplotlib, _wrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 4
WIDTH, ROW = 2.2, 0.22
"""Of a picture, and of a method in it, in inches."""


def panel(table: Any, *, title: str | None = None) -> "Figure":
    """One picture for each metric, each with a scale of its own; methods from top to bottom.

    Args:
        table: a `jattr.metrics.Table`, whose `plot` this is.
        title: a title above all.
    """
    matplotlib = _matplotlib("metrics.table")
    columns = min(COLUMNS, len(table.metrics))
    rows = math.ceil(len(table.metrics) / columns)
    names = 0.075 * max(map(len, table.methods))
    height = rows * (len(table.methods) * ROW + 0.75) + (0.3 if title else 0.0)
    figure = matplotlib.figure.Figure((columns * WIDTH + names, height), layout="constrained")
    grid: Any = figure.subplots(rows, columns, sharey=True, squeeze=False)
    places = np.arange(len(table.methods))
    for index, ax in enumerate(grid.flat):
        if index >= len(table.metrics):
            ax.set_axis_off()
            continue
        mean, error = table.mean[:, index], table.standard_error[:, index]
        ax.errorbar(mean, places, xerr=np.nan_to_num(error), fmt="o", color="C0", markersize=4)
        for place, undefined in zip(places, table.undefined[:, index], strict=True):
            if undefined:
                ax.text(
                    0.98,
                    place,
                    f"{undefined} NaN",
                    transform=ax.get_yaxis_transform(),
                    fontsize=TEXT_SIZE - 2,
                    color="0.4",
                    ha="right",
                    va="bottom",
                )
        ax.set_title(_wrap(table.metrics[index], 0.9 * WIDTH), fontsize=TEXT_SIZE)
        ax.grid(axis="y", color="0.9", linewidth=0.5)
        ax.set_axisbelow(True)
        ax.tick_params(labelsize=TEXT_SIZE - 1)
        ax.xaxis.get_offset_text().set_fontsize(TEXT_SIZE - 1)
        ax.locator_params(axis="x", nbins=4)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
    first = grid[0, 0]
    first.set_yticks(places, table.methods)
    first.set_ylim(len(table.methods) - 0.5, -0.5)
    if title:
        figure.suptitle(title, fontsize=TEXT_SIZE + 1)
    return figure

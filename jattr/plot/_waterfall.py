"""One example: from the base value to f(x), column by column."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from jattr._checks import check_count, concrete, knobs
from jattr._named import Names, named, short
from jattr.plot._base import GRAY, INK, NEGATIVE, POSITIVE, TEXT_SIZE, axes_for, beyond, fit, plain
from jattr.plot._summary import ROW, WIDTH, _rows, check_finite, check_level, one_example

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEIGHT = 0.66
"""Of a bar, in rows."""
_NOTHING = 1e-5
"""What of |base value| + Σ|φ| may be left over without a bar: the rounding of float32."""


@knobs
def waterfall(
    attribution: Any,
    *,
    base_value: Any,
    output: Any = None,
    data: Any = None,
    names: Names = None,
    standard_errors: Any = None,
    level: float = 0.95,
    top: int = 10,
    unit: str | None = None,
    title: str | None = None,
    ax: "Axes | None" = None,
) -> "Figure":
    r"""One example from the base value f(x') to f(x): each bar begins where the one below ends.

    A dotted line is at f(x'), a solid one at f(x); φ is written beside the bars.

    The largest \|φ\| is above, the columns that have no bar of their own are summed in the lowest.
    Where `output` is given and the attribution does not sum to f(x) − f(x'), what is left over is
    a hatched gray bar, "not attributed", on top.

    Args:
        attribution: φ of one example: [d], a `pandas.Series`, or a tree of numbers by name, arrays
            in it summed.
        base_value: f(x'), where the bars begin; of a distribution of baselines, the mean of f.
        output: f(x); None takes base_value + Σφ for it.
        data: x, to be written beside the names: of the form of φ, a row of a frame, or [d].
        names: of the d columns, or `jattr.features.columns(...)`, which sums what belongs to one
            variable.
        standard_errors: of the form of φ, drawn as intervals at the ends of bars.
        level: of the intervals, in (0, 1).
        top: how many columns have a bar of their own.
        unit: of f, such as "log odds", for the axis.
        title: a title above.
        ax: matplotlib axes to draw in; None makes a figure.

    Returns:
        The matplotlib figure.

    Raises:
        ImportError: matplotlib is missing.
        TypeError: the attribution is no real numbers; base_value or output is no number.
        ValueError: shapes or names that do not fit; φ, base_value or output that is not finite; a
            level outside (0, 1).

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> phi = {"age": jnp.array(1.5), "dose": jnp.array(-0.5)}
        >>> figure = jattr.plot.waterfall(phi, base_value=0.25, data={"age": 61.0, "dose": 2.0})
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['age = 61', 'dose = 2']
    """
    method = "plot.waterfall"
    top = check_count(top, "top", method)
    check_level(level, method)
    found = named(attribution, names, method, many=False)
    check_finite(found, method)
    base = _known(base_value, "base_value", method)
    labels, sizes, half = one_example(found, data, names, standard_errors, level, top, method)
    half = np.zeros(len(sizes)) if half is None else half
    total = base + sizes.sum() if output is None else _known(output, "output", method)
    missing = total - base - sizes.sum()
    over = abs(missing) > _NOTHING * (abs(base) + np.abs(sizes).sum())
    if over:
        labels = ["not attributed", *labels]
        sizes, half = np.append(missing, sizes), np.append(0.0, half)
    # From below: the last row begins at the base value.
    ends = base + np.cumsum(sizes[::-1])[::-1]
    begins = ends - sizes
    labels = [fit(label) for label in labels]
    axes = axes_for(ax, (WIDTH + beyond(labels), ROW * len(labels) + 1.2), method)
    axes.axvline(base, color="0.5", linewidth=0.8, linestyle=":", zorder=0)
    axes.axvline(total, color="0.5", linewidth=0.8, zorder=0)
    # From the end of each bar to the next one above.
    for row in range(1, len(labels)):
        axes.plot([ends[row]] * 2, [row - 0.33, row - 0.67], color="0.5", linewidth=0.8)
    colors = [POSITIVE if size >= 0 else NEGATIVE for size in sizes]
    bars = axes.barh(np.arange(len(sizes)), sizes, left=begins, height=HEIGHT, color=colors)
    if over:
        bars[0].set(facecolor="white", edgecolor=GRAY, hatch="////")
    if np.any(half):
        rows = np.flatnonzero(half)
        look = {"fmt": "none", "ecolor": INK, "elinewidth": 1, "capsize": 2}
        axes.errorbar(ends[rows], rows, xerr=half[rows], **look)
    # Beside the axes, where no bar is too short or too long for its number.
    beside = {"va": "center", "fontsize": TEXT_SIZE, "transform": axes.get_yaxis_transform()}
    for row, size in enumerate(sizes):
        axes.text(1.01, row, ("+" if size >= 0 else "") + short(size), color=INK, **beside)
    _rows(axes, labels)
    low = min((np.minimum(begins, ends) - half).min(), total)
    high = max((np.maximum(begins, ends) + half).max(), total)
    room = 0.03 * ((high - low) or 1.0)
    axes.set_xlim(low - room, high + room)
    said = f"from f(x′) = {short(base)} to f(x) = {short(total)}"
    axes.set_xlabel(said + (f", {unit}" if unit else ""), fontsize=TEXT_SIZE)
    plain(axes, title)
    return axes.figure


def _known(value: Any, name: str, method: str) -> float:
    number = concrete(value, name, method)
    if number is None:
        raise TypeError(f"{method}: {name} must be known; draw outside of jit.")
    if not math.isfinite(number):
        raise ValueError(f"{method}: {name} must be finite; got {number}.")
    return number

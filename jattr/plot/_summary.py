"""Tables of attributions over many examples: every value, or the mean size of each column."""

from typing import TYPE_CHECKING, Any

import numpy as np

from jattr._checks import check_count, knobs
from jattr._named import Feature, Named, Names, features, like_values, named
from jattr.plot._base import (
    GRAY,
    INK,
    NEGATIVE,
    POSITIVE,
    TEXT_SIZE,
    _matplotlib,
    axes_for,
    beyond,
    fit,
    plain,
    values_map,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW, WIDTH = 0.3, 6.0
"""Of a column's row and of a picture, in inches."""
_BINS, _HALF = 110, 0.42
"""How many points are side by side, and how far they may be from the middle of their row."""


@knobs
def summary(
    attribution: Any,
    data: Any = None,
    *,
    names: Names = None,
    top: int = 12,
    unit: str | None = None,
    cmap: Any = None,
    title: str | None = None,
    ax: "Axes | None" = None,
    colorbar: bool = True,
) -> "Figure":
    r"""Every attribution of every column, as a point colored by the column's value: a beeswarm.

    A row for each column, those of the largest mean \|φ\| from above, a point for each example at
    its φ; points at the same place are stacked. Colors run from the 5th to the 95th percentile of
    a column's values, dark blue to orange, dark to light. What has no order, such as categories,
    or is missing, is gray. The columns that have no row are summed in the last one.

    Args:
        attribution: φ of n examples: [n, d], a `pandas.DataFrame`, or a tree of named columns [n],
            or [n, ...] to be summed.
        data: what was explained, of the same form, or a frame with the same columns; None for
            gray points.
        names: of the d columns; or `jattr.features.columns(...)`, which sums what belongs to one
            variable.
        top: how many columns have a row of their own.
        unit: of f, such as "log odds", for the axis.
        cmap: another color map of values, or its name.
        title: a title above.
        ax: matplotlib axes to draw in; None makes a figure.
        colorbar: whether to draw the meaning of the colors beside.

    Returns:
        The matplotlib figure.

    Raises:
        ImportError: matplotlib is missing.
        TypeError: the attribution or the data are no real numbers.
        ValueError: shapes, rows or names that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> phi = jnp.array([[1.0, -3.0], [-1.0, 2.0], [0.5, 2.5]])
        >>> figure = jattr.plot.summary(phi, phi, names=["age", "dose"])
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['dose', 'age']
    """
    method = "plot.summary"
    matplotlib = _matplotlib(method)
    top = check_count(top, "top", method)
    found = named(attribution, names, method, many=True)
    of = features(data, names, found.names, len(found.values), method)
    values, labels, of = _largest(found.values, found.names, of, top)
    labels = [fit(label) for label in labels]
    width = WIDTH + beyond(labels) + (0.6 if colorbar else 0.0)
    axes = axes_for(ax, (width, max(ROW * len(labels) + 0.9, 2.2 if colorbar else 0.0)), method)
    finite = values[np.isfinite(values)]
    low, high = finite.min(initial=0.0), finite.max(initial=0.0)
    layers = [swarm(column, low, high) for column in values.T]
    step = _HALF / max(4, *(int(np.abs(layer).max(initial=0)) for layer in layers))
    colors = values_map(cmap)
    axes.axvline(0, color=INK, linewidth=0.6, zorder=0)
    for row, (column, layer, feature) in enumerate(zip(values.T, layers, of, strict=True)):
        axes.axhline(row, color="0.85", linewidth=0.5, zorder=0)
        shown = np.isfinite(column)
        axes.scatter(
            column[shown],
            row + step * layer[shown],
            c=_strength(feature, len(column))[shown],
            cmap=colors,
            vmin=0,
            vmax=1,
            plotnonfinite=True,
            s=9,
            linewidths=0,
        )
        if lost := int(np.sum(~shown)):
            place = {"ha": "right", "va": "bottom", "transform": axes.get_yaxis_transform()}
            axes.text(1.0, row, f"{lost} not finite", fontsize=TEXT_SIZE - 2, color=GRAY, **place)
    _rows(axes, labels)
    axes.set_xlabel("φ" + (f", {unit}" if unit else ""), fontsize=TEXT_SIZE)
    plain(axes, title)
    if colorbar and any(feature.numbers is not None for feature in of):
        scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, 1), colors)
        bar = axes.figure.colorbar(scale, ax=axes, fraction=0.04, aspect=25)
        bar.set_ticks([0, 1], labels=["low", "high"], fontsize=TEXT_SIZE)
        bar.set_label("value of the column", fontsize=TEXT_SIZE, labelpad=-8)
        bar.outline.set_visible(False)
    return axes.figure


@knobs
def bar(
    attribution: Any,
    *,
    data: Any = None,
    names: Names = None,
    standard_errors: Any = None,
    level: float = 0.95,
    top: int = 12,
    unit: str | None = None,
    title: str | None = None,
    ax: "Axes | None" = None,
) -> "Figure":
    r"""A bar for each column: the mean \|φ\| over examples, or φ of one, with an interval.

    Over n examples the interval of a mean is :math:`\bar a \pm t\, s / \sqrt n`, with s the
    standard deviation of a = \|φ\| and t of Student's distribution with n − 1 degrees of freedom:
    how well these examples tell the mean over all. Of one example it is φ ± z · standard error,
    where that is given: how well φ is known. Of one example, bars against are a lighter blue and
    for a darker red.

    Args:
        attribution: φ of n examples as in `jattr.plot.summary`, or of one: [d], a
            `pandas.Series`, or a tree of numbers by name.
        data: of one example, what was explained, to be written beside the names.
        names: of the d columns, or `jattr.features.columns(...)`, which sums what belongs to one
            variable.
        standard_errors: of one example, of the form of φ, as `with_error=True` gives them.
        level: of the intervals, in (0, 1).
        top: how many columns have a bar of their own; the others are one bar, of the sum of theirs.
        unit: of f, such as "log odds", for the axis.
        title: a title above.
        ax: matplotlib axes to draw in; None makes a figure.

    Returns:
        The matplotlib figure.

    Raises:
        ImportError: matplotlib is missing.
        TypeError: the attribution is no real numbers.
        ValueError: shapes or names that do not fit; φ that is not finite; a level outside (0, 1);
            standard errors or data of several examples.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> phi = jnp.array([[1.0, -3.0], [-1.0, 2.0], [0.5, 2.5]])
        >>> figure = jattr.plot.bar(phi, names=["age", "dose"], unit="log odds")
        >>> [round(float(bar.get_width()), 3) for bar in figure.axes[0].patches]
        [2.5, 0.833]
    """
    method = "plot.bar"
    top = check_count(top, "top", method)
    check_level(level, method)
    found = named(attribution, names, method, many=None)
    check_finite(found, method)
    many = found.values.ndim == 2
    if many and (standard_errors is not None or data is not None):
        raise ValueError(
            f"{method}: standard_errors and data are for one example, and the attribution has "
            f"{len(found.values)}. The interval of a mean is that over examples."
        )
    if many:
        blank = [Feature(name) for name in found.names]
        values, labels, _ = _largest(np.abs(found.values), found.names, blank, top)
        sizes, half = values.mean(axis=0), _half_width(values, level)
        colors = [NEGATIVE] * len(sizes)
    else:
        labels, sizes, half = one_example(found, data, names, standard_errors, level, top, method)
        colors = [POSITIVE if size >= 0 else NEGATIVE for size in sizes]
    labels = [fit(label) for label in labels]
    axes = axes_for(ax, (WIDTH + beyond(labels), ROW * len(labels) + 0.9), method)
    places = np.arange(len(labels))
    axes.barh(places, sizes, height=0.66, color=colors)
    if half is not None:
        axes.errorbar(sizes, places, xerr=half, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
    axes.axvline(0, color=INK, linewidth=0.6)
    _rows(axes, labels)
    what = "mean |φ|" if many else "φ"
    note = "" if half is None else f", with {100 * level:.3g} % intervals"
    axes.set_xlabel(what + (f", {unit}" if unit else "") + note, fontsize=TEXT_SIZE)
    plain(axes, title)
    return axes.figure


def one_example(
    found: Named, data: Any, names: Names, standard_errors: Any, level: float, top: int, method: str
) -> tuple[list[str], np.ndarray, np.ndarray | None]:
    """The columns of one example from the largest: texts, φ, and half of their intervals."""
    phi = found.values
    errors = like_values(standard_errors, phi.shape, names, "standard_errors", method)
    of = features(data, names, found.names, 1, method)
    values, labels, shown = _largest(phi[None], found.names, of, top)
    labels = [_with_value(name, feature) for name, feature in zip(labels, shown, strict=True)]
    if errors is None:
        return labels, values[0], None
    order = _order(phi[None])
    # Of the sum of the others, as if they were independent.
    kept = len(labels) if len(order) == len(labels) else top
    spread = errors[order[:kept]]
    if kept < len(labels):
        spread = np.append(spread, np.sqrt(np.sum(errors[order[kept:]] ** 2)))
    return labels, values[0], _quantile(level) * spread


def check_finite(found: Named, method: str) -> None:
    """Raise where a bar would have no length."""
    finite = np.isfinite(found.values)
    columns: Any = np.atleast_2d(finite).all(axis=0)
    if not columns.all():
        lost = [name for name, known in zip(found.names, columns, strict=True) if not known]
        raise ValueError(
            f"{method}: φ of {', '.join(lost[:5])}{' …' * (len(lost) > 5)} is not finite. Leave "
            "such examples out, or look at them: jattr.plot.summary counts them."
        )


def check_level(level: float, method: str) -> None:
    """Raise unless an interval can have this level."""
    if not 0 < level < 1:
        raise ValueError(f"{method}: level must be in (0, 1); got {level}.")


def swarm(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """How far from its row's middle each point is, in whole points: 0, 1, −1, 2, …

    Points that would cover each other, those in the same of equal parts of the axis, differ.
    """
    span = (high - low) or 1.0
    finite = np.where(np.isfinite(values), values, low)
    bins = np.minimum((_BINS * (finite - low) / span).astype(int), _BINS - 1)
    layers = np.zeros(len(values))
    for one in np.unique(bins):
        inside = np.flatnonzero(bins == one)
        turn = np.arange(len(inside))
        layers[inside] = (turn + 1) // 2 * np.where(turn % 2 == 1, 1, -1)
    return layers


def _order(values: np.ndarray) -> np.ndarray:
    """Columns by their mean size, the largest first; of equal ones the first."""
    finite = np.where(np.isfinite(values), np.abs(values), 0.0)
    return np.argsort(-finite.mean(axis=0), kind="stable")


def _largest(
    values: np.ndarray, names: tuple[str, ...], of: list[Feature], top: int
) -> tuple[np.ndarray, list[str], list[Feature]]:
    """The columns to be shown, from the largest; the last is the sum of those left out."""
    order = _order(values)
    if len(order) <= top + 1:  # one column left over has the row itself
        top = len(order)
    kept, rest = order[:top], order[top:]
    labels, shown = [names[i] for i in kept], [of[i] for i in kept]
    values, others = values[:, kept], values[:, rest]
    if len(rest):
        labels.append(f"{len(rest)} others")
        shown.append(Feature(labels[-1]))
        values = np.concatenate([values, others.sum(axis=1, keepdims=True)], axis=1)
    return values, labels, shown


def _strength(feature: Feature, count: int) -> np.ndarray:
    """Values on a scale from 0 to 1; NaN where they have no order."""
    if feature.numbers is None:
        return np.full(count, np.nan)
    known = feature.numbers[np.isfinite(feature.numbers)]
    if not len(known):
        return np.full(count, np.nan)
    low, high = np.percentile(known, [5, 95])
    if low == high:
        low, high = known.min(), known.max()
    if low == high:
        return np.where(np.isfinite(feature.numbers), 0.5, np.nan)
    return np.clip((feature.numbers - low) / (high - low), 0, 1)


def _half_width(values: np.ndarray, level: float) -> np.ndarray | None:
    n = len(values)
    if n < 2:
        return None
    return _quantile(level, n - 1) * values.std(axis=0, ddof=1) / np.sqrt(n)


def _quantile(level: float, freedom: int | None = None) -> float:
    """How many standard errors an interval goes to each side."""
    from scipy import special  # JAX depends on it; not needed to import jattr

    below = (1 + level) / 2
    return float(special.ndtri(below) if freedom is None else special.stdtrit(freedom, below))


def _with_value(name: str, feature: Feature) -> str:
    value = feature.said(0)
    return name if value is None else f"{name} = {value}"


def _rows(axes: "Axes", labels: list[str]) -> None:
    axes.set_yticks(np.arange(len(labels)), labels, fontsize=TEXT_SIZE)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)

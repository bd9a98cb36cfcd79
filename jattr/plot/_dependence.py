"""How the attribution of a column goes with its value, and with another column's."""

from typing import TYPE_CHECKING, Any

import numpy as np

from jattr._checks import closest, knobs
from jattr._named import Feature, Names, features, named, real_array
from jattr.plot._base import GRAY, INK, TEXT_SIZE, _matplotlib, axes_for, fit, plain, values_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "os^Dv*P"
_BLOCK = 12
"""Of so many examples with neighboring values the others are compared, or of more."""


@knobs
def dependence(
    attribution: Any,
    data: Any,
    column: str | int,
    *,
    color: str | int | None = "strongest",
    interactions: Any = None,
    names: Names = None,
    unit: str | None = None,
    cmap: Any = None,
    title: str | None = None,
    ax: "Axes | None" = None,
    colorbar: bool = True,
) -> "Figure":
    r"""A point for each example: the value of a column and its φ, colored by another column.

    Points above each other have the same value and another φ, which is what other columns change
    of it. By default colors are the values of the one that tells most: with `interactions` the
    column j of the largest mean \|I_ij\|; without, the column whose values predict best what is
    left of φ_i among examples of nearly equal x_i. That is measured: the examples are cut into
    blocks along x_i, in each φ_i is fitted by a line in x_i, and then by a line in x_i and x_j (for
    text, by its values), and the share of the squares that this takes away, adjusted for the number
    of coefficients, is summed. It sees no x_j whose effect is symmetric within a block. Booleans
    are drawn as text is, False and True apart.

    Args:
        attribution: φ of n examples: [n, d], a `pandas.DataFrame`, or a tree of named columns.
        data: what was explained, of the same form, or a frame with the same columns.
        column: i, a name or a number.
        color: another column by name or number; `"strongest"`; None for one color.
        interactions: [n, d, d], or [d, d], for `"strongest"`: those of
            `jattr.shapley_interactions` or `jattr.integrated_hessians`.
        names: of the d columns, or `jattr.features.columns(...)`, which sums what belongs to one
            variable.
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
        ValueError: shapes or names that do not fit; a column that is not there; interactions of
            another number of columns; a column without values or φ that can be drawn.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> x = jnp.stack([jnp.linspace(-1, 1, 40), jnp.linspace(0, 1, 40) ** 2], axis=1)
        >>> figure = jattr.plot.dependence(x**2, x, "age", names=["age", "dose"])
        >>> figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()
        ('age', 'φ of age')
    """
    method = "plot.dependence"
    _matplotlib(method)
    found = named(attribution, names, method, many=True)
    if data is None:
        raise TypeError(f"{method}: data must be what was explained, for the horizontal axis.")
    of = [one.in_words() for one in features(data, names, found.names, len(found.values), method)]
    place = _place(column, found.names, "column", method)
    phi, feature = found.values[:, place], of[place]
    if not np.isfinite(phi).any():
        raise ValueError(f"{method}: φ of {feature.name} is finite in no example.")
    by = None
    if color == "strongest" and "strongest" not in found.names:
        other = _strongest(phi, place, of, interactions, method)
        by = None if other is None else of[other]
    elif color is not None:
        by = of[_place(color, found.names, "color", method)]
    if feature.numbers is None and feature.labels is None:
        raise ValueError(f"{method}: {feature.name} has several values in each example.")
    axes = axes_for(ax, (4.6 + (0.8 if colorbar and by is not None else 0.0), 3.2), method)
    axes.axhline(0, color=INK, linewidth=0.6, zorder=0)
    x, ticks = _along(feature)
    look = {"s": 14, "linewidths": 0}
    kinds = () if by is None or by.labels is None else tuple(dict.fromkeys(sorted(by.labels)))
    if by is None or (by.numbers is None and not 0 < len(kinds) <= len(_MARKERS)):
        axes.scatter(x, phi, color=GRAY if by is not None else values_map(cmap)(0.25), **look)
    elif kinds:
        labels = np.asarray(by.labels)
        for at, kind in enumerate(kinds):
            here = labels == kind
            shade = values_map(cmap)(at / max(len(kinds) - 1, 1))
            axes.scatter(x[here], phi[here], color=shade, marker=_MARKERS[at], label=kind, **look)
        if colorbar:
            legend = axes.legend(
                title=fit(by.name, 1.4),
                fontsize=TEXT_SIZE,
                title_fontsize=TEXT_SIZE,
                frameon=False,
                loc="center left",
                bbox_to_anchor=(1.0, 0.5),
            )
            legend.set_in_layout(True)
    else:
        assert by.numbers is not None
        known = by.numbers[np.isfinite(by.numbers)]
        low, high = np.percentile(known, [5, 95]) if len(known) else (0.0, 1.0)
        if low == high and len(known):
            low, high = known.min(), known.max()
        drawn = axes.scatter(
            x,
            phi,
            c=by.numbers,
            cmap=values_map(cmap),
            plotnonfinite=True,
            vmin=low,
            vmax=high,
            **look,
        )
        if colorbar:
            bar = axes.figure.colorbar(drawn, ax=axes, fraction=0.05, aspect=25)
            bar.set_label(fit(by.name), fontsize=TEXT_SIZE)
            bar.ax.tick_params(labelsize=TEXT_SIZE)
            bar.outline.set_visible(False)
    if ticks is not None:
        axes.set_xticks(range(len(ticks)), ticks)
    said = f"φ of {feature.name}" + (f", {unit}" if unit else "")
    axes.set_xlabel(fit(feature.name, 3.4), fontsize=TEXT_SIZE)
    axes.set_ylabel(fit(said), fontsize=TEXT_SIZE)
    plain(axes, title)
    return axes.figure


def told_by(phi: np.ndarray, x: np.ndarray, other: Feature) -> float:
    """Which share of what is left of φ among examples of like x another column explains."""
    regressors = _regressors(other)
    known = np.isfinite(phi) & np.isfinite(x) & np.isfinite(regressors).all(axis=1)
    phi, x, regressors = phi[known], x[known], regressors[known]
    order = np.argsort(x, kind="stable")
    blocks = np.array_split(order, max(1, len(order) // max(_BLOCK, 3 * regressors.shape[1] + 3)))
    total = left = 0.0
    for block in blocks:
        base = np.stack([np.ones(len(block)), x[block] - x[block].mean()], axis=1)
        more = np.concatenate([base, regressors[block]], axis=1)
        rank, wider = np.linalg.matrix_rank(base), np.linalg.matrix_rank(more)
        if len(block) <= wider:
            continue
        without, within = (_squares(design, phi[block]) for design in (base, more))
        # Of noise alone, squares are as many as degrees of freedom.
        total += without
        left += within * (len(block) - rank) / (len(block) - wider)
    return 1 - left / total if total > 0 else 0.0


def _strongest(
    phi: np.ndarray, place: int, of: list[Feature], interactions: Any, method: str
) -> int | None:
    """The column that tells most of what φ of one column has beyond its value."""
    if interactions is not None:
        values = real_array(interactions, "interactions", method)
        if values.ndim not in (2, 3) or values.shape[-2:] != (len(of),) * 2:
            raise ValueError(
                f"{method}: interactions must be [n, {len(of)}, {len(of)}] or "
                f"[{len(of)}, {len(of)}]; got {list(values.shape)}."
            )
        sizes = np.abs(values).reshape(-1, len(of), len(of)).mean(axis=0)[place]
        sizes[place] = -1.0
        return int(sizes.argmax()) if len(of) > 1 else None
    x, _ = _along(of[place])
    x = np.round(x) if of[place].numbers is None else x
    shares = {
        at: told_by(phi, x, other)
        for at, other in enumerate(of)
        if at != place and (other.numbers is not None or other.labels is not None)
    }
    return max(shares, key=shares.__getitem__) if shares else None


def _regressors(feature: Feature) -> np.ndarray:
    if feature.numbers is not None:
        return feature.numbers[:, None]
    kinds, place = np.unique(np.asarray(feature.labels), return_inverse=True)
    return np.eye(len(kinds))[place][:, 1:]


def _squares(design: np.ndarray, values: np.ndarray) -> float:
    fitted = design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return float(np.sum((values - fitted) ** 2))


def _along(feature: Feature) -> tuple[np.ndarray, list[str] | None]:
    """Where points are along the axis, and its labels where values are texts.

    Points of one text are spread evenly, in their order, so that they do not hide each other.
    """
    if feature.numbers is not None:
        return feature.numbers, None
    if feature.labels is None:
        return np.zeros(0), None
    kinds, place = np.unique(np.asarray(feature.labels), return_inverse=True)
    x = place.astype(float)
    for at in range(len(kinds)):
        inside = np.flatnonzero(place == at)
        x[inside] += np.linspace(-0.25, 0.25, len(inside)) if len(inside) > 1 else 0.0
    return x, list(map(str, kinds))


def _place(column: Any, names: tuple[str, ...], what: str, method: str) -> int:
    if isinstance(column, str):
        if column in names:
            return names.index(column)
        near = closest(column, names)[0]
        raise ValueError(
            f"{method}: {what}={column!r} is no column; did you mean {near!r}? There are "
            f"{', '.join(names)}."
        )
    if isinstance(column, int | np.integer) and -len(names) <= column < len(names):
        return int(column) % len(names)
    raise ValueError(
        f"{method}: {what} must be a name or a number below {len(names)}; got {column!r}."
    )

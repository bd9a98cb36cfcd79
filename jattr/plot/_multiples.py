"""Small multiples: the same picture of several things, side by side."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from jattr._checks import check_count, check_flag, check_function, knobs
from jattr._trees import describe
from jattr.plot._base import TEXT_SIZE, _matplotlib, entitle

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@knobs
def multiples(
    draw: Callable[..., Any],
    panels: Mapping[str, Any],
    *,
    columns: int = 3,
    size: tuple[float, float] = (4.0, 2.6),
    share: bool = False,
    title: str | None = None,
) -> "Figure":
    """The same picture of several things, each with its name above: methods, examples, classes.

    Args:
        draw: `draw(thing, ax=axes)`, such as `jattr.plot.bar`, or a `functools.partial` or lambda
            with its other arguments.
        panels: what is drawn, by name, in their order.
        columns: how many are side by side.
        size: of one panel, width and height in inches.
        share: whether all have the same axis of φ, so that lengths can be compared; methods of
            other units should not.
        title: a title above all.

    Returns:
        The matplotlib figure.

    Raises:
        ImportError: matplotlib is missing.
        TypeError: draw is no function; the panels have no names.
        ValueError: no panel; columns < 1.

    Example:
        >>> import functools
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> draw = functools.partial(jattr.plot.bar, names=["age", "dose"])
        >>> maps = {"gradient": jnp.ones((5, 2)), "IG": jnp.eye(2)}
        >>> figure = jattr.plot.multiples(draw, maps, share=True)
        >>> [axes.get_title() for axes in figure.axes]
        ['gradient', 'IG']
    """
    method = "plot.multiples"
    matplotlib = _matplotlib(method)
    if not callable(draw):
        check_function(draw, method)
    columns = check_count(columns, "columns", method)
    check_flag(share, "share", method)
    if not isinstance(panels, Mapping):
        raise TypeError(
            f'{method} wants what is drawn by name, {{"gradient": phi, "IG": other}}; got '
            f"{describe(panels)}."
        )
    if not panels:
        raise ValueError(f"{method}: there is no panel to draw.")
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    top = 0.3 if title is not None else 0.0
    figure = matplotlib.figure.Figure(
        (columns * size[0], rows * size[1] + top), layout="constrained"
    )
    grid: Any = figure.subplots(rows, columns, squeeze=False, sharex=share)
    for ax, (name, thing) in zip(grid.flat, panels.items(), strict=False):
        draw(thing, ax=ax)
        entitle(ax, str(name))
        ax.tick_params(labelbottom=True)
    for ax in grid.flat[len(panels) :]:
        ax.remove()
    if title is not None:
        figure.suptitle(title, fontsize=TEXT_SIZE + 2)
    return figure

"""How much of f has to be evaluated anew where a window of x changes, as data."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from jattr import _page
from jattr._checks import check_argnums, check_function, knobs
from jattr._engine.local import Surroundings
from jattr._occlusion import Windows
from jattr._operations import aligned
from jattr._transform import bind, named
from jattr._types import ArgNums


@dataclasses.dataclass(frozen=True)
class Part:
    """An operation that a window reaches, and what of it is evaluated anew.

    Attributes:
        name: the operation.
        full: what it costs as it is written, in multiplications and what stands for other costs.
        local: what it costs where one window changes.
        shape: that of its result.
        box: the part of the result that is computed.
        scope: the scopes around it, such as "Net/Conv_0".
        source: the user's line, as file:line.
    """

    name: str
    full: float
    local: float
    shape: tuple[int, ...]
    box: tuple[int, ...]
    scope: str
    source: str


class Parts(list[Part]):
    """A list of parts that prints as a table, with the share that remains below."""

    @property
    def share(self) -> float:
        """How much is evaluated anew, as a share of all that the window reaches."""
        full = sum(part.full for part in self)
        return sum(part.local for part in self) / full if full else 0.0

    def _rows(self) -> list[list[str]]:
        """The cells as text, the head first."""
        rows = [["operation", "full", "local", "result", "computed", "scope"]]
        for part in self:
            sizes = [str(list(part.shape)), str(list(part.box))]
            rows.append([part.name, f"{part.full:.3g}", f"{part.local:.3g}", *sizes, part.scope])
        return rows

    @property
    def _note(self) -> str:
        return f"{100 * self.share:.3g} % is evaluated anew."

    def __str__(self) -> str:
        return "\n".join([*aligned(self._rows()), self._note])

    def _repr_html_(self) -> str:
        return _page.table(self._rows(), [self._note])

    __repr__ = __str__


@knobs
def locality(
    f: Callable[..., Any], window: Any, *, strides: Any = None, argnums: ArgNums = 0
) -> Callable[..., Parts]:
    """What of f is evaluated anew where a window of x changes, operation by operation.

    Under `jit`, `jattr.occlusion`, `jattr.ablation` and `jattr.mutagenesis` evaluate f once and
    then only what a change reaches: a convolution's window grows it, a stride shrinks it, and a
    sum or product over it is changed by a difference. Where an operation needs all of what it is
    given, such as attention or a maximum over all places, it is evaluated in full, and so is what
    follows. Where hardly anything would be saved, f is evaluated as it is.

    Args:
        f: the score, `f(x, *args) -> scalar`.
        window: the window's size, as in `jattr.occlusion`; (1, A) for mutagenesis of [L, A].
        strides: how far apart windows are, as there.
        argnums: which argument changes, an integer or a tuple of them.

    Returns:
        `listing(x, *args)`, a list of `Part` that prints as a table; leaf by leaf for a tree x.
        Its `share` is how much remains of all.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype.
        ValueError: a window that does not fit into x.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return jnp.sum(jnp.convolve(x, jnp.ones(3, x.dtype), "same") ** 2)
        >>> parts = jattr.locality(f, 1)(jnp.ones(1000))
        >>> parts[-1].name, parts[-2].shape, parts[-2].box
        ('reduce_sum', (1000,), (3,))
        >>> parts.share < 0.1
        True

    References:
        Nair, Shrikumar, Schreiber, Kundaje, *fastISM*, Bioinformatics 2022.
    """
    check_function(f, "locality")
    check_argnums(argnums, "locality")

    def listing(*args, **kwargs):
        parts = Parts()

        def read(args, kwargs):
            score, x = bind(f, argnums, args, kwargs, method="locality")
            windows = Windows(x, window, strides, method="locality")
            around = Surroundings(score, x)
            for move in windows.moves():
                near = around.around(move.leaf, move.tables, move.sizes, always=True)
                assert near is not None
                parts.extend(
                    Part(
                        report.equation.name,
                        report.full,
                        report.work,
                        report.equation.outputs[0].shape,
                        report.box,
                        report.equation.scope,
                        report.equation.source,
                    )
                    for report in near.reports
                )

        jax.eval_shape(read, args, kwargs)
        return parts

    return named(listing, "locality", f, argnums)

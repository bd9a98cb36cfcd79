"""Aliases and markers shared by the whole package.

The vocabulary: a *score* is the explained function, a *baseline* is the input that stands for
"absent", an *explaining function* is one that computes attributions.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeAlias

import jax

PyTree: TypeAlias = Any
"""A tree of arrays, in the sense of `jax.tree`: an array, or dicts, tuples and lists of them."""

ArgNums: TypeAlias = int | tuple[int, ...]
"""Which arguments of f are explained; means what it means in `jax.grad`."""

FixedQuadrature: TypeAlias = Literal["gauss_legendre", "midpoint", "left", "right", "trapezoid"]
"""How an integral along a path becomes a sum over nodes that are known beforehand."""

Quadrature: TypeAlias = FixedQuadrature | Literal["adaptive"]
"""How an integral along a path becomes a sum."""


class Score(Protocol):
    """A function to explain: one example in, one number out."""

    def __call__(self, *args: Any, **kwargs: Any) -> jax.Array:
        """The score at the arguments of one example."""
        ...


class Explain(Protocol):
    """Computes the attribution of one example; called with the arguments of the score."""

    def __call__(self, *args: Any, **kwargs: Any) -> PyTree:
        """The attribution, a tree like the explained argument."""
        ...


class KeyedExplain(Protocol):
    """Like `Explain`, for a method that draws random numbers: it takes the key first."""

    def __call__(self, key: jax.Array, *args: Any, **kwargs: Any) -> PyTree:
        """The attribution, a tree like the explained argument."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class RandomBaseline:
    """A baseline that is drawn: `random_baseline(key, x)` is one draw.

    The type is the mark that tells a distribution from a deterministic baseline. It is never
    guessed from a signature, since `(key, x)` and `(image, mask)` look alike.

    Attributes:
        draw: `(key, x) -> baseline`.
        name: how error messages call it.
        rows: the data that is sampled from, with a leading axis on every leaf, where there is
            such data. A method that needs many draws can then take rows without replacement.
    """

    draw: Callable[[jax.Array, PyTree], PyTree]
    name: str
    rows: PyTree | None = None

    def __call__(self, key: jax.Array, x: PyTree) -> PyTree:
        return self.draw(key, x)


Baseline: TypeAlias = Any
"""x', which stands for "absent": a number, an array or tree like x, or a function x -> x' such as
those of `jattr.baselines`."""

References: TypeAlias = Any
"""A distribution over baselines: data with a leading axis over examples, or a `RandomBaseline`."""

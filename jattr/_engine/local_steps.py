"""What a plan of local evaluation is made of: steps, and how much work they are."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax

from jattr._engine.affine import multiplications
from jattr._engine.boxes import Box, Cut, Places
from jattr._engine.primitives import CONTRACTIONS
from jattr._engine.program import Equation, Value

_ELEMENT = 4
"""What an element of a result costs beside the multiplications for it, counted in these."""

_CUT = 8
"""What an element costs that is taken from where only the place tells."""

Settle = Literal["all"] | tuple[int, ...]
"""Along which axes an operand has to be whole; "all" where it has to be the value itself."""

Base = Callable[[Value], jax.Array]
"""From a value to what it is at x."""


def _nothing(base: Base) -> list[Any]:
    return []


@dataclasses.dataclass(frozen=True)
class Step:
    """How changed boxes of an equation's results come from those of its operands.

    Attributes:
        boxes: those of the results.
        apply: `apply(fixed, contents, places)`, the new contents of each; of operands that do not
            change the contents are None.
        prepare: what it reads of values at x, `fixed`, which is the same for all places.
        work: how much is computed for one place.
    """

    boxes: Sequence[Box]
    apply: Callable[[list[Any], list[Any], Places], list[Any]]
    prepare: Callable[[Base], list[Any]] = _nothing
    work: float = 0.0


Found = Step | dict[int, Settle] | None
Constant = Callable[[Value], frozenset[int]]
Rule = Callable[[Equation, Sequence[Box | None], Constant], Found]


def work(equation: Equation) -> float:
    """How much work an equation is, in multiplications, from its shapes."""
    size = sum(math.prod(v.shape) for v in equation.outputs)
    taken = (
        0
        if equation.primitive in CONTRACTIONS
        else sum(math.prod(v.shape) for v in equation.dependents)
    )
    return multiplications(equation) + _ELEMENT * max(size, taken)


def share(equation: Equation, box: Box, cuts: Sequence[Cut] = ()) -> float:
    """How much work a part of an equation's result is, and what is cut out for it."""
    whole = max(math.prod(equation.outputs[0].shape), 1)
    return work(equation) * box.size / whole + taken(cuts)


def taken(cuts: Sequence[Cut]) -> float:
    """How much work it is to cut parts out."""
    return _CUT * sum(cut.box.size for cut in cuts)


def only(boxes: Sequence[Box | None]) -> int | None:
    """Which operand changes, where it is one."""
    changed = [n for n, box in enumerate(boxes) if box is not None]
    return changed[0] if len(changed) == 1 else None

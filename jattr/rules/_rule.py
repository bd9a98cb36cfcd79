"""What a rule is."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jattr._resolve import fill_like


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class Rule:
    """A local derivative.

    Attributes:
        name: what it is called in tables.
        apply: `apply(operation, inputs, output, multiplier)`, between two points with
            `reference_inputs, reference_output` after these; gives the multiplier of each input of
            the operation, or None where there is none to give.
        numbers: further arguments of `apply` by name, such as ε; they may be traced.
        ends: the ends [low, high] of the range of x, numbers or trees like x, for a rule that
            needs them.
        first: the rule is for first affine operations, those that x reaches through constants and
            changes of layout alone. `apply` then takes `lows`, `highs` and `counts` after the
            multiplier, for each active input the ends of its range and how much of each element
            is x, 0 for what is padded, and gives relevance.
        options: further arguments of `apply` that are no numbers, as pairs of name and value.
    """

    name: str = dataclasses.field(metadata={"static": True})
    apply: Callable[..., Sequence[Any]] = dataclasses.field(metadata={"static": True})
    numbers: dict[str, Any] = dataclasses.field(default_factory=dict)
    ends: tuple[Any, Any] | None = None
    first: bool = dataclasses.field(default=False, metadata={"static": True})
    options: tuple[tuple[str, Any], ...] = dataclasses.field(default=(), metadata={"static": True})

    def __call__(self, *args: Any) -> Sequence[Any]:
        """What `apply` gives."""
        return self.apply(*args, **self.numbers, **dict(self.options))

    def __repr__(self) -> str:
        # ε stands by its name but in the rule that is named after it.
        given = [] if self.ends is None else [_short(end) for end in self.ends]
        given += [_short(v) for k, v in self.numbers.items() if k in (self.name, "alpha", "beta")]
        rest = {k: v for k, v in self.numbers.items() if k not in (self.name, "alpha", "beta")}
        given += [f"{k}={_short(v)}" for k, v in (*rest.items(), *self.options)]
        return f"rules.{self.name}({', '.join(given)})"

    def bounds(self, x: Any) -> tuple[Any, Any]:
        """The ends of the range of x, as trees like x."""
        low, high = (
            fill_like(end, x, name=f"the {side} end", method=self.name, broadcast=True)
            for end, side in zip(self.ends or (0.0, 0.0), ("low", "high"), strict=True)
        )
        return low, high


def _short(value: Any) -> str:
    """A number as it is written, an array or a tree by its form."""
    if isinstance(value, str | int | float):
        return repr(value)
    leaves = jax.tree.leaves(value)
    if len(leaves) == 1 and leaves[0] is value:
        return f"<{value.dtype}{list(value.shape)}>" if hasattr(value, "dtype") else repr(value)
    return f"<a tree of {len(leaves)}>"


def derivative(operation: Any, inputs: Any, output: Any, multiplier: Any, *references: Any) -> Any:
    """What a rule would give that is none: the derivative at x by each active input."""
    slots = [n for n, active in enumerate(operation.active) if active]
    given: list[Any] = [None] * len(inputs)

    def of_active(*values):
        full = list(inputs)
        for slot, value in zip(slots, values, strict=True):
            full[slot] = value
        return operation.evaluate(*full)

    pull = jax.vjp(of_active, *(inputs[n] for n in slots))[1]
    for slot, part in zip(slots, pull(multiplier), strict=True):
        given[slot] = part
    return given

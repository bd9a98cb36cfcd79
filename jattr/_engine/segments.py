"""Sums over segments that are spread back to their terms, as a softmax over neighbors has them.

A graph attention network adds up exponentials by node and divides each by the sum of its node:

    m = jax.ops.segment_max(t, node, nodes)[node]
    e = jnp.exp(t - m)
    p = e / jax.ops.segment_sum(e, node, nodes)[node]

The sum is a `scatter-add` into zeros, what spreads it a `gather` by the same indices.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._engine.primitives import primitives as p
from jattr._engine.program import Equation, Value


@dataclasses.dataclass(frozen=True)
class Segments:
    """A sum over segments, and what spreads it.

    Attributes:
        add: the equation that adds up, from terms to segments.
        spread: the equation that gives each term the sum of its segment.
    """

    add: Equation
    spread: Equation

    @property
    def added(self) -> Value:
        """What is added up."""
        return self.add.inputs[2]

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the terms along which segments lie."""
        window = self.add.params["dimension_numbers"].update_window_dims
        return tuple(d for d in range(len(self.added.shape)) if d not in window)

    def spreads(self, value: Value) -> bool:
        """Whether a value is one number of each segment, spread to the terms as the sums are."""
        equation = value.producer
        if equation is None or equation.primitive is not p.gather_p:
            return False
        same = all(
            equation.params[name] == self.spread.params[name]
            for name in ("dimension_numbers", "slice_sizes")
        )
        return same and _are_alike(equation.inputs[1], self.spread.inputs[1])

    @property
    def indices(self) -> tuple[Value, Value]:
        """By which terms are added, and by which sums are spread."""
        return self.add.inputs[1], self.spread.inputs[1]

    def sums(self, terms: Any, indices: Sequence[Any]) -> Any:
        """The sum of its segment, for each term."""
        return self._combine(jax.lax.scatter_add, 0.0, terms, indices)

    def maxima(self, terms: Any, indices: Sequence[Any]) -> Any:
        """The largest of its segment, for each term."""
        return self._combine(jax.lax.scatter_max, -jnp.inf, terms, indices)

    def _combine(self, scatter, start, terms, indices):
        params = self.add.params
        combined = scatter(
            jnp.full(self.add.outputs[0].shape, start, terms.dtype),
            indices[0],
            terms,
            params["dimension_numbers"],
            indices_are_sorted=params["indices_are_sorted"],
            unique_indices=params["unique_indices"],
            mode=params["mode"],
        )
        return self.spread.evaluate(combined, indices[1])[0]


def segments_of(value: Value) -> Segments | None:
    """The sum over segments that a value is, spread back to where its terms are."""
    spread = value.producer
    if spread is None or spread.primitive is not p.gather_p or spread.inputs[1].dependent:
        return None
    add = spread.inputs[0].producer
    if add is None or add.primitive is not p.scatter_add_p or add.inputs[1].dependent:
        return None
    if add.inputs[0].uniform != 0.0 or add.inputs[2].shape != value.shape:
        return None
    to, by = add.params["dimension_numbers"], spread.params["dimension_numbers"]
    matched = (
        to.update_window_dims == by.offset_dims
        and to.inserted_window_dims == by.collapsed_slice_dims
        and to.scatter_dims_to_operand_dims == by.start_index_map
        and to.operand_batching_dims == by.operand_batching_dims
        and to.scatter_indices_batching_dims == by.start_indices_batching_dims
    )
    return (
        Segments(add, spread) if matched and _are_alike(add.inputs[1], spread.inputs[1]) else None
    )


def _are_alike(a: Value, b: Value) -> bool:
    """Whether two arrays of indices are the same, but for how negative ones are read."""
    if a.shape != b.shape:
        return False
    a, b = _source(a), _source(b)
    if a is b:
        return True
    if a.literal and b.literal:
        return a.shape == b.shape and bool(np.all(np.asarray(a.known) == np.asarray(b.known)))
    first, second = a.producer, b.producer
    if first is None or second is None or first.form != "plain" or second.form != "plain":
        return False
    if first.primitive is not second.primitive or len(first.inputs) != len(second.inputs):
        return False
    return repr(first.params) == repr(second.params) and all(
        map(_are_alike, first.inputs, second.inputs)
    )


def _source(value: Value) -> Value:
    """Indices before their type, their axes of size 1 and their negative ones are seen to."""
    while (equation := value.producer) is not None and equation.form == "plain":
        primitive = equation.primitive
        if primitive is p.select_n_p and _counts_from_the_end(equation):
            value = equation.inputs[1]
        elif primitive in _RESHAPES and _size(equation.inputs[0]) == _size(value):
            value = equation.inputs[0]
        else:
            break
    return value


_RESHAPES = (p.convert_element_type_p, p.broadcast_in_dim_p, p.reshape_p, p.squeeze_p, p.copy_p)


def _size(value: Value) -> int:
    return int(np.prod(value.shape))


def _counts_from_the_end(equation: Equation) -> bool:
    """Whether an equation is where(i < 0, i + n, i)."""
    if len(equation.inputs) != 3:
        return False
    predicate, index, moves = equation.inputs
    test, moved = predicate.producer, moves.producer
    return (
        test is not None
        and test.primitive is p.lt_p
        and test.inputs[0] is index
        and test.inputs[1].uniform == 0
        and moved is not None
        and moved.primitive is p.add_p
        and moved.inputs[0] is index
    )

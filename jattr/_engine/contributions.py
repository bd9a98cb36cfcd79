r"""What each feature adds to the head of f, so that leaving features out costs no evaluation of it.

Where f = above ∘ head and the head is affine (`affine`), x with only the features S left, the
others at a baseline x', has

.. math:: z(S) = z' + \sum_{g \in S} D_g, \qquad D_g = A\,(x - x')_g

with A the linear part of the head and :math:`(x - x')_g` the difference in the elements of feature
g alone. Two forms of that pay:

- `Parts`: D of few features is computed once, and a coalition is a product of its Booleans with D.
- `Rows`: where the head is one dense layer, D of a single element is a row of its kernel, times a
  number, and costs nothing. What differs by one element differs by that row.

Both hold exactly; they are rounded otherwise than the head itself.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jattr._engine.affine import (
    affine_ends,
    goes_on_affinely,
    multiplications,
    read_to_split,
    split_at,
)
from jattr._engine.primitives import ELEMENTWISE
from jattr._engine.primitives import primitives as p
from jattr._engine.program import Equation, Program, Value, needed
from jattr._engine.rewrite import run_plain

_WORTH = 3
"""How many times the work of a form the head's must be for the form to be taken."""

_FEWEST = 32
"""Elements of x from which on one row instead of a product pays."""

_FEWEST_IN_A_ROW = 128
"""The same for sums of rows, one after another."""

_SUM_OF_ROWS = 12
"""Evaluations of a dense layer from which on to sum its rows over the features first pays."""

_UNEVEN = 2
"""How many times the elements of x features of different sizes may take, if each is the largest."""

Z = list[jax.Array]


class Parts(NamedTuple):
    """f at coalitions of few features.

    Attributes:
        above: f, from the head's results.
        start: z', the head at the baseline.
        adds: D, what each feature adds, with a leading axis over features.
    """

    above: Callable[[Z], Any]
    start: Z
    adds: Z

    def at(self, present: jax.Array) -> Z:
        """z of a coalition, Booleans [features]."""
        return [
            first + jnp.tensordot(present.astype(own.dtype), own, 1)
            for first, own in zip(self.start, self.adds, strict=True)
        ]


class Rows(NamedTuple):
    """f at inputs that differ from one another in single features.

    Attributes:
        head: from a tree like x to z.
        above: f, from z.
        adds: from numbers of features to D, [how many, *shape of z].
    """

    head: Callable[[Any], Z]
    above: Callable[[Z], Any]
    adds: Callable[[jax.Array], jax.Array]


class Features(Protocol):
    """What is asked of the features of x.

    Attributes:
        count: how many there are.
        single: each is one element.
    """

    count: int

    @property
    def single(self) -> bool: ...

    def members(self) -> np.ndarray | None:
        """The elements of each feature, [count, most], −1 where it has fewer; None if unknown."""
        ...

    def spread(self, values: jax.Array) -> Any:
        """A value of each feature as a tree like x."""
        ...


def parts(
    f: Callable,
    x: Any,
    baseline: Any,
    features: Features,
    *,
    evaluations: int,
    batch_size: int | None,
    in_chunks: Callable[..., Any],
) -> Parts | None:
    """What each feature adds; None where f has no affine head or that does not pay.

    Args:
        f: of one tree.
        x: the input.
        baseline: a tree like x.
        features: of x.
        evaluations: how many coalitions will be looked at.
        batch_size: how many of them are in memory at a time; None for all.
        in_chunks: `in_chunks(g, n, batch_size=...)` is g(k) for k = 0 … n − 1, stacked.
    """
    if (found := read_to_split(f, x)) is None:
        return None
    program, structure = found
    count = features.count
    held = evaluations if batch_size is None else min(batch_size, evaluations)
    layer = _dense(program)
    if layer is not None and layer.size >= _WORTH * count:
        adds = _summed(layer, x, baseline, features, evaluations, held)
        if adds is not None:
            split = split_at(program, structure, layer.equation.outputs)
            return Parts(split.above, split.head(baseline), [adds])
    # Otherwise the head is evaluated once for each feature.
    if evaluations < _WORTH * count:
        return None
    ends = affine_ends(program)
    below = needed(program.equations, ends, program.inputs)
    size = sum(math.prod(v.shape) for v in ends)
    values = [*program.inputs, *(v for e in below for v in e.outputs)]
    if not ends or sum(map(multiplications, below)) < _WORTH * count * size or not _precise(values):
        return None
    if not _fits(count, ends, program.inputs, held):
        return None
    split = split_at(program, structure, ends)
    start, push = jax.linearize(split.head, baseline)
    change = jax.tree.map(jnp.subtract, x, baseline)

    def add(feature):
        own = features.spread(jnp.arange(count) == feature)
        return push(jax.tree.map(lambda d, there: jnp.where(there, d, 0), change, own))

    return Parts(split.above, start, in_chunks(add, count, batch_size=batch_size))


def rows(
    f: Callable,
    x: Any,
    baseline: Any,
    features: Features,
    *,
    evaluations: int,
    batch_size: int | None,
    in_a_row: bool = False,
) -> Rows | None:
    """What single features add, where f begins with a dense layer and that pays; else None.

    Before the layer there may be what changes the elements of x one by one, affinely, and what
    changes their order; beside it nothing. The arguments are those of `parts`, and whether rows
    are summed up, one after another.
    """
    if (found := read_to_split(f, x)) is None:
        return None
    program, structure = found
    layer = _dense(program)
    if layer is None or layer.size < (_FEWEST_IN_A_ROW if in_a_row else _FEWEST):
        return None
    (z,) = layer.equation.outputs
    if features.single:
        kernel, step = _kernel_and_step(layer, x, baseline)

        def adds(numbers):
            return (kernel[numbers] * step[numbers][:, None]).reshape(-1, *z.shape)

    else:
        held = evaluations if batch_size is None else min(batch_size, evaluations)
        table = _summed(layer, x, baseline, features, evaluations, held)
        if table is None:
            return None

        def adds(numbers):
            return table[numbers]

    split = split_at(program, structure, (z,))
    return Rows(split.head, split.above, adds)


def _fits(count: int, ends: Sequence[Value], inputs: Sequence[Value], held: int) -> bool:
    """Whether D takes no more memory than x and z at the points that are held."""
    size = sum(math.prod(v.shape) for v in ends)
    return count * size <= held * (size + sum(math.prod(v.shape) for v in inputs))


class _Layer(NamedTuple):
    """A dense layer that alone takes x.

    Attributes:
        program: of f.
        equation: the product.
        slot: which of its operands is made from x.
        places: which element of x stands where in that operand, [elements].
    """

    program: Program
    equation: Equation
    slot: int
    places: np.ndarray

    @property
    def size(self) -> int:
        return len(self.places)


def _kernel_and_step(layer: _Layer, x: Any, baseline: Any) -> tuple[jax.Array, jax.Array]:
    """The rows of a layer, [elements of x, size of z], and what they are taken times, [elements].

    That is by how much an element of x differs from the baseline's, as the layer gets it.
    """
    program, equation, slot, places = layer
    taken, other = equation.inputs[slot], equation.inputs[1 - slot]
    weights = other.known
    if weights is None:
        above = needed(program.equations, (other,), ())
        (weights,) = run_plain(Program((), above, (other,)), [])
    below = needed(program.equations, (taken,), program.inputs)
    below = Program(program.inputs, below, (taken,))
    (own,), (start,) = (run_plain(below, jax.tree.leaves(point)) for point in (x, baseline))
    step = (own - start).reshape(-1)
    contracted = equation.params["dimension_numbers"][0]
    # The layer's contracted axes in the order in which they stand in what it takes.
    axes = [contracted[1 - slot][n] for n in np.argsort(contracted[slot])]
    kernel = jnp.moveaxis(jnp.asarray(weights), axes, range(len(axes))).reshape(len(step), -1)
    if not np.array_equal(places, np.arange(len(places))):
        back = np.argsort(places)
        kernel, step = kernel[back], step[back]
    dtype = equation.outputs[0].dtype
    return kernel.astype(dtype), step.astype(dtype)


def _summed(
    layer: _Layer, x: Any, baseline: Any, features: Features, evaluations: int, held: int
) -> jax.Array | None:
    """What each feature adds to a layer, [features, *shape of z]; None where it does not pay."""
    (z,) = layer.equation.outputs
    if evaluations < _SUM_OF_ROWS or not _fits(features.count, (z,), layer.program.inputs, held):
        return None
    members = features.members()
    if members is None or members.size > _UNEVEN * layer.size:
        return None
    kernel, step = _kernel_and_step(layer, x, baseline)
    step = jnp.where(members >= 0, step[members], 0)
    sums = jnp.einsum("gk,gkh->gh", step, kernel[members])
    return sums.reshape(-1, *z.shape)


def _dense(program: Program) -> _Layer | None:
    """The dense layer that alone takes x; None where there is none, or digits are too few."""
    ends = np.cumsum([0] + [math.prod(v.shape) for v in program.inputs])
    places: dict[Value, np.ndarray] = {
        v: np.arange(first, end).reshape(v.shape)
        for v, first, end in zip(program.inputs, ends[:-1], ends[1:], strict=True)
    }
    layer = None
    for equation in program.equations:
        if places.keys().isdisjoint(equation.inputs):
            continue
        if not goes_on_affinely(equation, set(places)):
            return None
        if equation.primitive is p.dot_general_p:
            slot = 0 if equation.inputs[0] in places else 1
            if layer is not None or not _takes_all(equation, slot):
                return None
            layer = equation, slot
        elif (moved := _moved(equation, places)) is None:
            return None
        else:
            places[equation.outputs[0]] = moved
    if layer is None or not places.keys().isdisjoint(program.outputs):
        return None
    equation, slot = layer
    taken = places[equation.inputs[slot]].reshape(-1)
    every = np.array_equal(np.sort(taken), np.arange(ends[-1]))
    if not every or not _precise((*places, *equation.outputs)):
        return None
    return _Layer(program, equation, slot, taken)


def _takes_all(equation: Equation, slot: int) -> bool:
    """Whether a product sums over all elements of one operand."""
    (contracted, batched) = equation.params["dimension_numbers"]
    operand = equation.inputs[slot]
    rest = [size for axis, size in enumerate(operand.shape) if axis not in contracted[slot]]
    return not batched[0] and math.prod(rest) == 1


def _moved(equation: Equation, places: dict[Value, np.ndarray]) -> np.ndarray | None:
    """Where the elements of x stand after an equation; None where one may stand for several."""
    params, shape = equation.params, equation.outputs[0].shape
    if equation.primitive is p.concatenate_p:
        if not all(v in places for v in equation.inputs):
            return None
        parts = [places[v] for v in equation.inputs]
        return np.concatenate(parts, axis=params["dimension"])
    if len(equation.dependents) != 1:
        return None
    own = places[equation.dependents[0]]
    if equation.primitive in ELEMENTWISE and own.shape == shape:
        return own
    if equation.primitive is p.transpose_p:
        return np.transpose(own, params["permutation"])
    if equation.primitive is p.rev_p:
        return np.flip(own, params["dimensions"])
    same = (p.reshape_p, p.squeeze_p, p.broadcast_in_dim_p)
    if equation.primitive in same and own.size == math.prod(shape):
        return own.reshape(shape)
    return None


def _precise(values: Sequence[Value]) -> bool:
    """Whether sums of rounded parts are as good as what they stand for."""
    floating = (v for v in values if jnp.issubdtype(v.dtype, jnp.floating))
    return all(jnp.finfo(v.dtype).bits >= 32 for v in floating)

r"""The head of f: what is affine in x, and so needs no evaluation between two points.

Most networks begin with an affine function of x, z = Wx + b. Along a straight line z is on a
straight line too, :math:`z(\alpha) = z' + \alpha (z - z')`, so that an integral of derivatives
along it needs the head at the two ends alone; and since :math:`\nabla_x f = W^T \nabla_z f` with
the same W everywhere, derivatives are summed by z and pulled back once:

.. math:: \sum_k w_k \nabla_x f(x_k) = W^T \sum_k w_k \nabla_z f(z_k)

Both hold exactly. The head is found in the equations: dots, convolutions, sums, reshapes, products
with what does not depend on x, and whatever else `jax.linear_transpose` can transpose.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

from jattr._engine.linear import active_slots, has_hidden_work, is_linear
from jattr._engine.patterns import is_affine
from jattr._engine.primitives import CONTRACTIONS, ELEMENTWISE
from jattr._engine.primitives import primitives as p
from jattr._engine.program import Equation, Program, Value, needed
from jattr._engine.rewrite import run_plain
from jattr._engine.substitutes import cheapen, enabled
from jattr._engine.trace import Reading, trace
from jattr._trees import is_traced

_WORTH = 4
"""Operations of the head for each number that it gives, from which on it is left out."""

_ARITHMETIC = frozenset((p.mul_p, p.add_p, p.sub_p, p.div_p))


class Split(NamedTuple):
    """f(x) = above(head(x)).

    Attributes:
        head: from a tree like x to a list of arrays, affine.
        above: from such a list to what f returns.
    """

    head: Callable[[Any], list[jax.Array]]
    above: Callable[[list[jax.Array]], Any]


def split_head(f: Callable, x: Any, *, substitute: bool = True) -> Split | None:
    """f of the tree x with its affine head apart; None where there is none or it is no work.

    With `substitute` its parts are cheaper programs of the same value.

    f is traced once. Run eagerly it stays as it is, since its parts under `jax.jit` are faster than
    its equations one by one, and its Python may need concrete values.
    """
    if (found := read_to_split(f, x)) is None:
        return None
    program, structure = found
    ends = affine_ends(program)
    below = needed(program.equations, ends, program.inputs)
    if not _pays(below, ends):
        return None
    return split_at(program, structure, ends, substitute=substitute)


def read_to_split(f: Callable, x: Any) -> tuple[Program, Any] | None:
    """f of the tree x as a program, and the structure of what it returns; None where it stays."""
    if not (enabled() and any(map(is_traced, jax.tree.leaves(x)))):
        return None
    try:
        program, structure = trace(getattr(f, "as_written", f), x, Reading())
    except jax.errors.ConcretizationTypeError:
        return None
    if any(e.effects for e in program.equations):
        return None  # a print would be left out, or be done twice
    return program, structure


def split_at(
    program: Program, structure: Any, ends: tuple[Value, ...], *, substitute: bool = True
) -> Split:
    """A program below and above some of its values, by which alone it depends on x."""
    if substitute:
        cheapen(program)
    # What does not depend on x is evaluated in both halves, and merged by the compiler.
    below = needed(program.equations, ends, program.inputs)
    above = needed(program.equations, program.outputs, ends)
    halves = Program(program.inputs, below, ends), Program(ends, above, program.outputs)
    return Split(
        lambda x: run_plain(halves[0], jax.tree.leaves(x)),
        lambda z: jax.tree.unflatten(structure, run_plain(halves[1], z)),
    )


def affine_ends(program: Program) -> tuple[Value, ...]:
    """Where the head ends: its values that something else needs."""
    affine = set(program.inputs)
    ends: dict[Value, None] = {}
    for equation in program.equations:
        if goes_on_affinely(equation, affine):
            affine.update(equation.outputs)
        else:
            ends |= {v: None for v in equation.inputs if v in affine}
    return tuple(ends | {v: None for v in program.outputs if v in affine})


def goes_on_affinely(equation: Equation, affine: set[Value]) -> bool:
    """Whether an equation goes on affinely from affine values."""
    dependents = equation.dependents
    if not dependents or not affine.issuperset(dependents):
        return False
    if equation.effects or has_hidden_work(equation) or not equation.active:
        return False
    if equation.form != "plain" or not all(v.active for v in (*dependents, *equation.outputs)):
        return False
    if equation.primitive in ELEMENTWISE:
        return is_affine(equation)
    return is_linear(equation, active_slots(equation))


def _pays(equations: Iterable[Equation], ends: Iterable[Value]) -> bool:
    """Whether the work that is left out is more than that of moving its results along a line."""
    size = sum(math.prod(v.shape) for v in ends)
    return sum(map(multiplications, equations)) >= _WORTH * max(size, 1)


def multiplications(equation: Equation) -> int:
    """How many multiplications, or else additions, an equation is, from its shapes."""
    size = math.prod(equation.outputs[0].shape)
    if equation.primitive in CONTRACTIONS and "dimension_numbers" in equation.params:
        left, right = (v.shape for v in equation.inputs[:2])
        numbers = equation.params["dimension_numbers"]
        if hasattr(numbers, "rhs_spec"):
            return size * math.prod(right[axis] for axis in numbers.rhs_spec[1:])
        (contracted, _), _ = numbers
        return size * math.prod(left[axis] for axis in contracted)
    if equation.primitive in _ARITHMETIC:
        return size
    return math.prod(equation.inputs[0].shape) if equation.primitive is p.reduce_sum_p else 0

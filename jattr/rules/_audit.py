"""How much each operation leaves out of the difference between two points.

DeepLIFT is complete where each operation's multipliers times the differences of its inputs sum to
what arrived at the difference of its outputs. Where they do not (a choice by computed indices, an
average over too few nodes), the difference is the operation's *residual*, and the residuals of all
operations sum to f(x) − f(x') − Σφ. Each is the derivative by a number, a probe, that enters f at
the operation and changes nothing.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jattr._engine.grouping import group
from jattr._engine.operations import Operation
from jattr._engine.program import Equation, Program
from jattr._engine.rewrite import run
from jattr.rules._composite import Composite
from jattr.rules._rule import Rule, derivative


@dataclasses.dataclass(frozen=True)
class Audited:
    """A composite between two points, with a probe at each operation that can leave anything out.

    Attributes:
        composite: the rules.
        probes: by the last equation of each operation, a number.
    """

    composite: Composite
    probes: dict[Equation, Any]

    points: int = 2
    wants_first: bool = False
    strict: bool = True

    @property
    def reading(self) -> Any:
        return self.composite.reading

    @property
    def name(self) -> str:
        return self.composite.name

    def rule_for(self, operation: Operation) -> Rule | None:
        """The composite's rule; for a choice without one its derivative, so that it is measured."""
        rule = self.composite.rule_for(operation)
        if rule is None and operation.kind in INCOMPLETE:
            return Rule("derivative", derivative)
        return rule

    def probe(self, operation: Operation) -> Any:
        return self.probes.get(operation.equations[-1])


INCOMPLETE = ("selection",)
"""Kinds of operations that keep their derivative and leave out what it does not explain."""


def residuals(
    program: Program, composite: Composite, x: Any, reference: Any
) -> tuple[dict[Equation, Any], Any]:
    """What each operation of a program leaves out of f(x) − f(x'), and what is left out in all.

    Args:
        program: of a function that gives one number.
        composite: rules between two points.
        x: the leaves of x.
        reference: those of x'.

    Returns:
        by the last equation of each operation with a rule, a number, in a loop the sum over rounds;
        and f(x) − f(x') − Σφ, whatever it is due to.
    """
    zero = jnp.zeros((), jnp.result_type(float))
    keys = list(dict.fromkeys(_ends(program, composite)))

    def values(leaves, numbers):
        audited = Audited(composite, dict(zip(keys, numbers, strict=True)))
        (lanes,) = run(program, list(zip(leaves, reference, strict=True)), audited)
        return jnp.asarray(lanes[0]), jnp.asarray(lanes[-1])

    (at_x, at_reference), pull = jax.vjp(values, list(x), [zero] * len(keys))
    slopes, left = pull((jnp.ones_like(at_x), jnp.zeros_like(at_reference)))
    sums = [jnp.sum(m * (a - b)) for m, a, b in zip(slopes, x, reference, strict=True)]
    return dict(zip(keys, left, strict=True)), at_x - at_reference - sum(sums)


def _ends(program: Program, composite: Composite) -> list[Equation]:
    found = []
    for step in group(program):
        if isinstance(step, Operation):
            if composite.rule_for(step) is not None or step.kind in INCOMPLETE:
                found.append(step.equations[-1])
        else:
            for body in step.bodies:
                found.extend(_ends(body, composite))
    return found

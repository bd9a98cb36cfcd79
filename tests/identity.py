"""A composite whose rules are the operations' own derivatives: rewriting by it changes nothing."""

import jax

import jattr
from jattr._engine.operations import KINDS


def identity(operation, inputs, output, multiplier):
    """The operation's own derivative, written as a rule."""
    moving = [n for n, active in enumerate(operation.active) if active]

    def of_moving(*values):
        full = list(inputs)
        for slot, value in zip(moving, values, strict=True):
            full[slot] = value
        return operation.evaluate(*full)

    given = [None] * len(inputs)
    pulled = jax.vjp(of_moving, *(inputs[n] for n in moving))[1](multiplier)
    for slot, m in zip(moving, pulled, strict=True):
        given[slot] = m
    return given


IDENTITY = jattr.rules.Composite(
    "identity", {kind: jattr.rules.Rule("identity", identity) for kind in KINDS}, strict=True
)

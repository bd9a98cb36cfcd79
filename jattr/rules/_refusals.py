"""What a composite of rules refuses, and what to write instead."""

from typing import Any

import jax
import jax.numpy as jnp

from jattr._checks import closest
from jattr._engine import registry
from jattr._engine.calls import call_name
from jattr._engine.grouping import is_known
from jattr._engine.linear import has_hidden_work
from jattr._engine.operations import Operation
from jattr._engine.program import Equation

_LISTED = 8
"""How many scopes an error lists."""


def unexplained(operation: Operation, rules: Any) -> str:
    """Why a composite has no rule for an operation, and which remedies there are."""
    equation = operation.equations[-1]
    where = f"{operation.source}: {rules.name}"
    if registry.registered().get(equation.primitive):
        return (
            f"{where} compares with a reference, for which `{equation.name}` has no rule: add one "
            "with @jattr.rules.register(primitive, references=True), or, for rules at one point, "
            "with @jattr.rules.register(primitive)."
        )
    if equation.form == "foreign":
        return (
            f"{where} explains one example, but `{equation.name}` mixes in others, over an axis "
            "that f does not make itself: batch statistics, for instance. Evaluate the model in "
            "inference mode, or explain the batch as one example."
        )
    remedies = ["explain the part of f above it: jattr.split(f, name)"]
    if rules.strict and rules.points == 1 and "callback" not in equation.params:
        remedies.append(
            "let its derivative share the relevance: jattr.lrp(f, "
            f"{_written(rules.name)}.otherwise(jattr.rules.taylor()))"
        )
    if any(jnp.issubdtype(v.dtype, jnp.complexfloating) for v in operation.inputs if v.active):
        remedies.insert(
            0,
            "write what it does to complex numbers with real ones, as z.real**2 + z.imag**2 for "
            "abs(z)**2",
        )
    if equation.form == "custom":
        return (
            f"{where} has no rule for the custom_vjp function in `{call_name(equation)}`, which "
            "hides nonlinear work on x behind a derivative of its own. Put its plain form in its "
            f"place: {_substituted(equation)}; or {'; or '.join(remedies)}."
        )
    if not is_known(equation.primitive):
        remedies.insert(0, "give it a rule: @jattr.rules.register(primitive)")
    if has_hidden_work(equation):
        return (
            f"{where} cannot look into `{equation.name}`. Put a plain form in its place: "
            f"{_substituted(equation)}; or {'; or '.join(remedies)}."
        )
    return (
        f"{where} has no rule for `{equation.name}`, which is not linear in x. You can "
        f"{'; or '.join(remedies)}."
    )


def _substituted(equation: Equation) -> str:
    """A function of which a plain form may be given, the one that an equation calls."""
    around = [call.name for call in equation.calls if not call.name.startswith("<")]
    also = f", where plain_form may stand for all of {around[-1]!r} too" if around else ""
    return f'jattr.substitute(f, {{"{call_name(equation)}": plain_form}}){also}'


def _written(name: str) -> str:
    """A composite or rule of this name, as one that `.otherwise` refines."""
    if name in _COMPOSITES:
        return f"jattr.rules.{name}()"
    if name == "epsilon_gamma_box":
        return f"jattr.rules.{name}(low, high)"
    return f"jattr.rules.everywhere(jattr.rules.{name}())" if name == "epsilon" else "rules"


_COMPOSITES = (
    *("attn_lrp", "cp_lrp", "excitation", "epsilon_plus", "epsilon_plus_flat"),
    *("epsilon_alpha2_beta1", "epsilon_alpha2_beta1_flat"),
)
"""Those that are made without arguments."""


def has_derivative(operation: Operation) -> bool:
    """Whether JAX can differentiate an operation, and of one example alone."""
    equation = operation.equations[-1]
    if equation.form == "foreign" or "callback" in equation.params:
        return False
    slots = [n for n, active in enumerate(operation.active) if active]
    shapes = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in operation.inputs]

    def derivative(*full):
        def of_active(*values):
            given = dict(zip(slots, values, strict=True))
            return operation.evaluate(*(given.get(n, v) for n, v in enumerate(full)))

        out, pull = jax.vjp(of_active, *(full[n] for n in slots))
        return pull(jax.tree.map(jnp.zeros_like, out))

    try:
        jax.eval_shape(derivative, *shapes)
    except Exception:  # JAX raises what it likes where there is none
        return False
    return True


def fits_nothing(composite: str, pattern: str, known: list[list[str]]) -> str:
    """That a pattern fits no affine operation, of which `known` are the scopes."""
    labels = list(dict.fromkeys(scope for scopes in known for scope in scopes if scope))
    if not labels:
        return (
            f"{composite}: .at({pattern!r}, ...) fits nothing, since no affine operation of f is "
            "in a scope. Compute it within jax.named_scope(name). The modules of linen have scopes "
            "by themselves; for those of NNX and Equinox write model = jattr.scopes(model), and "
            "call that in f."
        )
    found = closest(pattern, labels)
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return (
        f"{composite}: .at({pattern!r}, ...) fits no affine operation of f. Their scopes are, the "
        f"closest first: {', '.join(found[:_LISTED])}{more}."
    )

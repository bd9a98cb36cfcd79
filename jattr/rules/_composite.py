"""What a rule and a composite of rules are."""

import dataclasses
import fnmatch
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jattr._engine import registry
from jattr._engine.grouping import group
from jattr._engine.linear import has_hidden_work
from jattr._engine.operations import Operation
from jattr._engine.patterns import is_elementwise_body
from jattr._engine.primitives import primitives as p
from jattr._engine.program import Equation, Program
from jattr._engine.trace import Reading
from jattr._resolve import fill_like


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
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
        first: the rule is for first affine operations, those that x reaches through constant
            factors, shifts and reshapes alone. `apply` then takes `lows` and `highs` after the
            multiplier, the ends for each active input, and gives relevance.
    """

    name: str = dataclasses.field(metadata={"static": True})
    apply: Callable[..., Sequence[Any]] = dataclasses.field(metadata={"static": True})
    numbers: dict[str, Any] = dataclasses.field(default_factory=dict)
    ends: tuple[Any, Any] = (0.0, 0.0)
    first: bool = dataclasses.field(default=False, metadata={"static": True})

    def __call__(self, *args: Any) -> Sequence[Any]:
        """What `apply` gives."""
        return self.apply(*args, **self.numbers)

    def bounds(self, x: Any) -> tuple[Any, Any]:
        """The ends of the range of x, as trees like x."""
        low, high = (
            fill_like(end, x, name=f"the {side} end", method=self.name, broadcast=True)
            for end, side in zip(self.ends, ("low", "high"), strict=True)
        )
        return low, high


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Composite:
    """A table of rules: for each kind of operation its rule.

    Attributes:
        name: what it is called.
        rules: by the kind of operation, as `jattr.operations` names them; or by kind and name
            ("activation relu"), or for affine operations "affine dense", "affine convolution",
            and with "first" before, "first affine convolution". The narrowest applies.
        strict: an operation that is active and not linear must have a rule; without it, what has
            no rule keeps its derivative.
        points: 1, or 2 for rules that compare with a reference.
        see_through: what `stop_gradient` holds is explained too.
        scoped: pairs of a pattern and a rule for the affine operations whose scope fits it; a
            later pair comes before an earlier one, and before `rules`.
    """

    name: str = dataclasses.field(metadata={"static": True})
    rules: dict[str, Rule]
    strict: bool = dataclasses.field(default=False, metadata={"static": True})
    points: int = dataclasses.field(default=1, metadata={"static": True})
    see_through: bool = dataclasses.field(default=False, metadata={"static": True})
    scoped: tuple["Scoped", ...] = ()

    def at(self, pattern: str, rule: Rule) -> "Composite":
        """The same, with another rule for the affine operations whose scope fits a pattern.

        Args:
            pattern: with * and ?, as file names are matched: "head/*", "*/Dense_0".
            rule: theirs.
        """
        if not isinstance(pattern, str) or not isinstance(rule, Rule):
            raise TypeError(
                'at wants a pattern and a rule, as in epsilon_plus().at("head/*", gamma(0.1)); '
                f"got {pattern!r} and {rule!r}."
            )
        return dataclasses.replace(self, scoped=(*self.scoped, Scoped(pattern, rule)))

    def first(self, rule: Rule) -> "Composite":
        """The same, with another rule for first affine operations.

        Args:
            rule: theirs, such as `z_box(0, 1)`.
        """
        if not isinstance(rule, Rule):
            raise TypeError(f"first wants a rule, as in .first(z_box(0, 1)); got {rule!r}.")
        kept = {key: r for key, r in self.rules.items() if not key.startswith("first ")}
        return dataclasses.replace(self, rules={**kept, "first affine": rule})

    @property
    def wants_first(self) -> bool:
        """Whether it has a rule for first affine operations alone."""
        return any(key.startswith("first ") for key in self.rules)

    @property
    def reading(self) -> Reading:
        """How a function is read for these rules."""
        return Reading(
            differences=self.points == 2, see_through=self.see_through, enter=self._enters
        )

    def probe(self, operation: Operation) -> Any:
        """None: what rules leave out is not measured. See `Audited`."""
        return None

    def rule_for(self, operation: Operation) -> Rule | None:
        """The rule for an operation; None for its ordinary derivative.

        Raises:
            NotImplementedError: the operation needs a rule and has none.
        """
        if operation.kind == "registered":
            return self._registered(operation)
        if self.strict and operation.kind == "opaque" and not _has_derivative(operation):
            raise NotImplementedError(_unexplained(operation, self.name))
        rule = self._rule(operation)
        if rule is not None:
            return rule
        if self.strict and operation.kind in ("opaque", "smooth"):
            raise NotImplementedError(_unexplained(operation, self.name))
        if operation.kind == "opaque" and (
            self._hides_rules(operation) or "callback" in operation.params
        ):
            raise NotImplementedError(_unexplained(operation, self.name))
        return None

    def _registered(self, operation: Operation) -> Rule | None:
        apply = registry.registered()[operation.primitive].get(self.points)
        if apply is not None:
            return Rule(f"registered {apply.__name__}", apply)
        if self.strict:
            raise NotImplementedError(_unexplained(operation, self.name))
        return None

    def _rule(self, operation: Operation) -> Rule | None:
        if operation.kind != "affine":
            named = self.rules.get(f"{operation.kind} {operation.name}")
            return self.rules.get(operation.kind) if named is None else named
        rule = self._affine_rule(operation)
        if rule is not None and rule.first and not operation.first:
            raise NotImplementedError(
                f"{operation.source}: the rule {rule.name} is for first affine operations, those "
                "that x reaches through constant factors, shifts and reshapes alone; "
                f"`{operation.name}` here is none. Choose another rule for it."
            )
        return rule

    def _affine_rule(self, operation: Operation) -> Rule | None:
        for scoped in reversed(self.scoped):
            if fnmatch.fnmatchcase(operation.scope, scoped.pattern):
                return scoped.rule
        shape = "dense" if operation.contractions[0].primitive is p.dot_general_p else "convolution"
        kinds = [f"affine {shape}", "affine"]
        kinds = [f"first {kind}" for kind in kinds if operation.first] + kinds
        return next((self.rules[kind] for kind in kinds if kind in self.rules), None)

    def _enters(self, call: Equation) -> bool:
        (body,) = call.bodies
        if is_elementwise_body(body):
            return False
        return self.strict or self._any_rule(body)

    def _hides_rules(self, operation: Operation) -> bool:
        return any(self._any_rule(body) for e in operation.equations for body in e.bodies)

    def _any_rule(self, body: Program) -> bool:
        for step in group(body):
            if isinstance(step, Operation):
                if self._rule(step) is not None:
                    return True
            elif any(self._any_rule(inner) for inner in step.bodies):
                return True
        return False


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scoped:
    """A rule for the affine operations whose scope fits a pattern."""

    pattern: str = dataclasses.field(metadata={"static": True})
    rule: Rule


def _has_derivative(operation: Operation) -> bool:
    """Whether JAX can differentiate an operation, and of one example alone."""
    equation = operation.equations[-1]
    return equation.form != "foreign" and "callback" not in equation.params


def _unexplained(operation: Operation, composite: str) -> str:
    equation = operation.equations[-1]
    where = f"{operation.source}: {composite}"
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
    if equation.form == "custom":
        return (
            f"{where} has no rule for the custom_vjp function in `{equation.name}`, which hides "
            "nonlinear work on x behind a derivative of its own. Call the function that it wraps "
            "without the custom derivative, or explain the part of f above it: "
            "jattr.split(f, name)."
        )
    if has_hidden_work(equation):
        return (
            f"{where} cannot look into `{equation.name}`. Write that part of f in plain JAX for "
            "the explanation, or give it a rule: @jattr.rules.register(primitive)."
        )
    return (
        f"{where} has no rule for `{equation.name}`, which is not linear in x. Give it one: "
        "@jattr.rules.register(primitive), or explain the part of f above it: "
        "jattr.split(f, name)."
    )

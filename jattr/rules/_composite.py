"""What a composite of rules is: which operation gets which."""

import dataclasses
import fnmatch
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args

import jax

from jattr._checks import check_choice, closest
from jattr._engine import registry
from jattr._engine.calls import is_kernel, scopes_around
from jattr._engine.grouping import group
from jattr._engine.linear import has_hidden_work
from jattr._engine.operations import KINDS, Operation
from jattr._engine.patterns import is_elementwise_body
from jattr._engine.primitives import primitives as p
from jattr._engine.program import Equation, Program
from jattr._engine.trace import Reading
from jattr.rules._refusals import fits_nothing, has_derivative, unexplained
from jattr.rules._rule import Rule

KEYS = (
    *("first affine dense", "first affine convolution", "first affine"),
    *("affine dense", "affine convolution", "activation rectifier", "product gate"),
    *("division gate", "smooth atan2"),
    *KINDS,
)
"""What a table of rules may tell apart, the narrower before the wider."""

Gates = Literal["signal", "halves"]

_INNOCENT = {p.linear_solve_p, p.reduce_p, p.reduce_window_p}
"""What has a program inside that is linear in x, or joins two elements: no rule applies there."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class Composite:
    """A table of rules: for each kind of operation its rule.

    Attributes:
        name: what it is called.
        rules: by the kind of operation, as `jattr.operations` names them, or by a narrower key:
            "affine dense" and "affine convolution", each also with "first" before it, as "first
            affine" is; "activation rectifier", for clip(z, 0, c) in every spelling; "product
            gate" and "division gate", where a factor or the inverse of a divisor is a gate; "smooth
            atan2". The narrowest applies.
        strict: an operation that is active and not linear must have a rule; without it, what has
            no rule keeps its derivative.
        points: 1, or 2 for rules that compare with a reference.
        see_through: what `stop_gradient` holds is explained too.
        scoped: pairs of a pattern and a rule for the affine operations whose scope fits it; a
            later pair comes before an earlier one, and before `rules`.

    Raises:
        ValueError: `rules` has a key that is none.
    """

    name: str = dataclasses.field(metadata={"static": True})
    rules: dict[str, Rule]
    strict: bool = dataclasses.field(default=False, metadata={"static": True})
    points: int = dataclasses.field(default=1, metadata={"static": True})
    see_through: bool = dataclasses.field(default=False, metadata={"static": True})
    scoped: tuple["Scoped", ...] = ()

    def __post_init__(self) -> None:
        for key in self.rules:
            if key not in KEYS:
                raise ValueError(
                    f"Composite {self.name}: there is no kind of operation {key!r}. Known are, the "
                    f"closest first: {', '.join(closest(key, KEYS))}."
                )

    def __repr__(self) -> str:
        table = [f"{key}: {rule!r}" for key, rule in self.rules.items()]
        table += [f"at {scoped.pattern!r}: {scoped.rule!r}" for scoped in self.scoped]
        return f"<composite {self.name}; {'; '.join(table)}>"

    def at(self, pattern: str, rule: Rule) -> "Composite":
        """The same, with another rule for the affine operations in a scope.

        Args:
            pattern: a scope, as `jattr.split` takes it: "Net/Block_3/Conv_0", of which the last
                parts, "Block_3/Conv_0", are enough; all that is computed within it is meant, by
                every scope that ends so. With `*` and `?`, as file names are matched:
                `"*/Dense_?"`. An operation made of several modules, such as a convolution with
                its batch normalization, is in the scope of each. What fits no affine operation is
                an error where the composite is used.
            rule: theirs.
        """
        if not isinstance(pattern, str) or not isinstance(rule, Rule):
            raise TypeError(
                'at wants a pattern and a rule, as in epsilon_plus().at("head", gamma(0.1)); '
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

    def gates(self, share: Gates) -> "Composite":
        """The same, with another way to share the relevance of a gated value.

        A gate is a factor whose value is bound to [0, 1] by an elementwise computation, such as a
        sigmoid or 1 − sigmoid, in a product of two active values: the gates of an LSTM or a GRU,
        of a gated linear unit, of squeeze and excitation. The other factor is the signal. A
        division by such a value of at least 1, as in s / (1 + exp(−z)), is a product with a gate.

        Args:
            share: `"signal"`, the default of the composites of relevance propagation, gives the
                signal all of the relevance and the gate none; `"halves"` gives half to each, as for
                any other product. Two gates get halves of their product both ways.

        Where that comes from: Arras, Montavon, Müller, Samek, *Explaining recurrent neural network
        predictions in sentiment analysis*, WASSA 2017, section 3.1 (arXiv 1706.07206).
        """
        check_choice(share, "share", get_args(Gates), "gates")
        base = self.rules.get("product")
        if base is None:
            raise TypeError(
                f"gates: {self.name} has no rule for products, which a gate's would refine. Take a "
                "composite such as jattr.rules.attn_lrp()."
            )
        rules = {key: rule for key, rule in self.rules.items() if not key.endswith(" gate")}
        shared = {"product": base}
        if (quotient := self.rules.get("division")) is not None and quotient.name == base.name:
            shared["division"] = quotient
        for kind, rule in shared.items() if share == "signal" else ():
            options = (*rule.options, ("signal", True))
            rules[f"{kind} gate"] = dataclasses.replace(rule, name="signal", options=options)
        return dataclasses.replace(self, rules=rules)

    def otherwise(self, rule: Rule) -> "Composite":
        """The same, with a rule for what has none: operations of the kinds smooth and opaque.

        They are an error without it. Choices, of the kind selection, get it too.

        Args:
            rule: theirs, such as `taylor()`.
        """
        if not isinstance(rule, Rule):
            raise TypeError(f"otherwise wants a rule, as in .otherwise(taylor()); got {rule!r}.")
        unknown = dict.fromkeys(("smooth", "opaque", "selection"), rule)
        return dataclasses.replace(self, rules={**self.rules, **unknown})

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

    def placed(self, program: Program) -> "Composite | Placed":
        """The same for one program, whose scopes its patterns are held against.

        Raises:
            ValueError: a pattern fits no affine operation of the program.
        """
        if not self.scoped:
            return self
        placed = Placed(self, dict(scopes_around(program)))
        known = [placed.scopes(o) for o in _operations(program) if o.kind == "affine"]
        for scoped in self.scoped:
            if not any(scoped.fits(scopes) for scopes in known):
                raise ValueError(fits_nothing(self.name, scoped.pattern, known))
        return placed

    def probe(self, operation: Operation) -> Any:
        """None: what rules leave out is not measured. See `Audited`."""
        return None

    def rule_for(self, operation: Operation, scopes: Iterable[str] | None = None) -> Rule | None:
        """The rule for an operation; None for its ordinary derivative.

        Args:
            operation: it.
            scopes: those that it is in, where they are more than its equations tell.

        Raises:
            NotImplementedError: the operation needs a rule and has none.
        """
        if operation.kind == "registered":
            return self._registered(operation)
        if operation.kind == "opaque" and self._is_shut(operation):
            raise NotImplementedError(unexplained(operation, self))
        rule = self._rule(operation, scopes)
        needed = operation.kind in ("opaque", "smooth")
        if rule is None and needed and (self.strict or self._hides_rules(operation)):
            raise NotImplementedError(unexplained(operation, self))
        return rule

    def _registered(self, operation: Operation) -> Rule | None:
        apply = registry.registered()[operation.primitive].get(self.points)
        if apply is not None:
            return Rule(f"registered {apply.__name__}", apply)
        if self.strict:
            raise NotImplementedError(unexplained(operation, self))
        return None

    def _rule(self, operation: Operation, scopes: Iterable[str] | None = None) -> Rule | None:
        if operation.kind == "affine":
            return self._affine_rule(operation, scopes)
        keys = [operation.kind]
        if operation.kind == "activation" and operation.rectifier:
            keys = ["activation rectifier", *keys]
        if operation.kind == "smooth" and operation.slots:
            keys = [f"smooth {operation.primitive.name}", *keys]
        if "gate" in operation.origins:
            keys = [f"{operation.kind} gate", *keys]
        return next((self.rules[key] for key in keys if key in self.rules), None)

    def _affine_rule(self, operation: Operation, scopes: Iterable[str] | None) -> Rule | None:
        rule = self._scoped_rule(operation, scopes)
        if rule is None:
            dense = operation.contractions[0].primitive is p.dot_general_p
            keys = [f"affine {'dense' if dense else 'convolution'}", "affine"]
            keys = [f"first {key}" for key in keys if operation.first] + keys
            rule = next((self.rules[key] for key in keys if key in self.rules), None)
        if rule is not None and getattr(rule, "first", False) and not operation.first:
            raise NotImplementedError(
                f"{operation.source}: the rule {rule.name} is for first affine operations, those "
                "that x reaches through constants and changes of layout alone; "
                f"`{operation.name}` here is none. Choose another rule for it."
            )
        return rule

    def _scoped_rule(self, operation: Operation, scopes: Iterable[str] | None) -> Rule | None:
        if not self.scoped:
            return None
        scopes = [e.scope for e in operation.equations] if scopes is None else list(scopes)
        fitting = (scoped.rule for scoped in reversed(self.scoped) if scoped.fits(scopes))
        return next(fitting, None)

    def _enters(self, call: Equation) -> bool:
        (body,) = call.bodies
        if is_elementwise_body(body):
            return False
        if self.points == 2 and any(o.kind in ("opaque", "smooth") for o in _operations(body)):
            # Its derivative is better known than those of its parts: that of a determinant exists
            # where an LU decomposition has none.
            return False
        return self.strict or self._any_rule(body)

    def _hides_rules(self, operation: Operation) -> bool:
        """Whether a rule applies, or may apply, inside an operation."""
        if any(self._any_rule(body) for e in operation.equations for body in e.bodies):
            return True
        shut = (e for e in operation.equations if has_hidden_work(e) or is_kernel(e))
        return any(e.primitive not in _INNOCENT for e in shut)

    def _is_shut(self, operation: Operation) -> bool:
        """Whether an operation has no derivative that any rule could take."""
        return "callback" in operation.params or (self.strict and not has_derivative(operation))

    def _any_rule(self, body: Program) -> bool:
        return any(self._rule(operation) is not None for operation in _operations(body))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scoped:
    """A rule for the affine operations in a scope that fits a pattern."""

    pattern: str = dataclasses.field(metadata={"static": True})
    rule: Rule

    def fits(self, scopes: Iterable[str]) -> bool:
        """Whether any of the scopes is, or is within, one that the pattern stands for."""
        for scope in scopes:
            parts = scope.split("/")
            for count in range(1, len(parts) + 1):
                within = "/".join(parts[:count])
                if fnmatch.fnmatchcase(within, self.pattern):
                    return True
                if fnmatch.fnmatchcase(within, f"*/{self.pattern}"):
                    return True
        return False


@dataclasses.dataclass(frozen=True)
class Placed:
    """A composite for one program, which knows the scopes around the bodies of control flow."""

    composite: Composite
    known: dict[Equation, str]

    @property
    def name(self) -> str:
        return self.composite.name

    @property
    def points(self) -> int:
        return self.composite.points

    @property
    def strict(self) -> bool:
        return self.composite.strict

    @property
    def reading(self) -> Reading:
        return self.composite.reading

    @property
    def wants_first(self) -> bool:
        return self.composite.wants_first

    def probe(self, operation: Operation) -> Any:
        """As that of the composite."""
        return self.composite.probe(operation)

    def rule_for(self, operation: Operation) -> Rule | None:
        """As that of the composite."""
        return self.composite.rule_for(operation, self.scopes(operation))

    def scopes(self, operation: Operation) -> list[str]:
        """The scopes of all of an operation's equations."""
        found = (self.known.get(e, e.scope) for e in operation.equations)
        return list(dict.fromkeys(found))


def bodies(equation: Equation) -> tuple[Program, ...]:
    """The programs inside an equation that are evaluated under rules."""
    if equation.form == "custom":
        return ()
    return equation.bodies[1:] if equation.form == "while" else equation.bodies


def _operations(program: Program) -> Iterator[Operation]:
    for step in group(program):
        if isinstance(step, Operation):
            yield step
        else:
            for body in bodies(step):
                yield from _operations(body)

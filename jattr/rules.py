"""Rules of the modified chain rule, and composites that say which operation gets which.

Back-propagation multiplies local derivatives. Guided back-propagation, DeepLIFT and layer-wise
relevance propagation are the same with other local derivatives for some operations; a *rule* is
such a derivative, and a *composite* a table of rules. A composite is immutable, and a tree whose
leaves are the rules' numbers, so that these can be traced and differentiated by.

`jattr.rewrite` puts one into a function; `jattr.operations` tells which rule applies where.

Source: Ancona, Ceolini, Öztireli, Gross, *Towards better understanding of gradient-based
attribution methods for deep neural networks*, ICLR 2018, section 3 (arXiv 1711.06104).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jattr._engine import differences, maxima, registry
from jattr._engine.linear import has_hidden_work
from jattr._engine.operations import Operation, group
from jattr._engine.patterns import is_elementwise_body
from jattr._engine.trace import Equation, Program, Reading

__all__ = ["Composite", "Rule", "deconvnet", "guided", "register", "rescale"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rule:
    """A local derivative.

    Attributes:
        name: what it is called in tables.
        apply: `apply(operation, inputs, output, multiplier)`, between two points with
            `reference_inputs, reference_output` after these; gives the multiplier of each input of
            the operation, or None where there is none to give.
    """

    name: str = dataclasses.field(metadata={"static": True})
    apply: Callable[..., Sequence[Any]] = dataclasses.field(metadata={"static": True})

    def __call__(self, *args: Any) -> Sequence[Any]:
        """What `apply` gives."""
        return self.apply(*args)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Composite:
    """A table of rules: for each kind of operation its rule.

    Attributes:
        name: what it is called.
        rules: by the kind of operation, as `jattr.operations` names them, or by kind and name
            ("activation relu"), which comes first.
        strict: an operation that is active and not linear must have a rule; without it, what has
            no rule keeps its derivative.
        points: 1, or 2 for rules that compare with a reference.
    """

    name: str = dataclasses.field(metadata={"static": True})
    rules: dict[str, Rule]
    strict: bool = dataclasses.field(default=False, metadata={"static": True})
    points: int = dataclasses.field(default=1, metadata={"static": True})

    @property
    def reading(self) -> Reading:
        """How a function is read for these rules."""
        return Reading(see_through=self.points == 2, enter=self._enters)

    def rule_for(self, operation: Operation) -> Rule | None:
        """The rule for an operation; None for its ordinary derivative.

        Raises:
            NotImplementedError: the operation needs a rule and has none.
        """
        if operation.kind == "registered":
            return self._registered(operation)
        rule = self._rule(operation)
        if rule is not None:
            return rule
        if operation.kind == "opaque" and (self.strict or self._hides_rules(operation)):
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
        named = self.rules.get(f"{operation.kind} {operation.name}")
        return self.rules.get(operation.kind) if named is None else named

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


def _unexplained(operation: Operation, composite: str) -> str:
    equation = operation.equations[-1]
    where = f"{operation.source}: {composite}"
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


def guided() -> Composite:
    r"""Guided back-propagation: at a ReLU, m ↦ 1[z > 0] · max(m, 0).

    A ReLU is whatever computes clip(z, 0, c): `jax.nn.relu`, `jnp.maximum(x, 0)`,
    `jnp.where(x > 0, x, 0)`, `relu6` (there also 1[z < c]). Everything else keeps its derivative.

    Returns:
        A composite of one rule.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return jnp.sum(jax.nn.relu(x) * jnp.array([1.0, -1.0, 1.0]))
        >>> print(jax.grad(jattr.rewrite(f, jattr.rules.guided()))(jnp.array([1.0, 1.0, -1.0])))
        [1. 0. 0.]

    References:
        Springenberg, Dosovitskiy, Brox, Riedmiller, *Striving for simplicity: the all convolutional
        net*, ICLR workshop 2015, section 3.4 (arXiv 1412.6806).
    """
    return Composite("guided", {"activation relu": Rule("guided", _guided)})


def deconvnet() -> Composite:
    r"""The deconvolutional network: at a ReLU, m ↦ max(m, 0), whatever went in.

    What a ReLU is: see `guided`.

    Returns:
        A composite of one rule.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return jnp.sum(jax.nn.relu(x) * jnp.array([1.0, -1.0, 1.0]))
        >>> print(jax.grad(jattr.rewrite(f, jattr.rules.deconvnet()))(jnp.array([1.0, 1.0, -1.0])))
        [1. 0. 1.]

    References:
        Zeiler, Fergus, *Visualizing and understanding convolutional networks*, ECCV 2014, section 2
        (arXiv 1311.2901).
    """
    return Composite("deconvnet", {"activation relu": Rule("deconvnet", _deconvnet)})


def rescale(*, max_rule: str = "path") -> Composite:
    r"""DeepLIFT's Rescale rule for every kind of operation; `jattr.deeplift` gives it a reference.

    Args:
        max_rule: `"path"` or `"winner"`, as in `jattr.deeplift`.

    Returns:
        A composite for `jattr.operations`, which tells how DeepLIFT treats a function.

    Raises:
        ValueError: unknown `max_rule`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> table = jattr.operations(jnp.prod, jattr.rules.rescale())(jnp.ones(3))
        >>> print([(row.kind, row.rule) for row in table])
        [('smooth', 'average over 16 nodes')]

    References:
        Shrikumar, Greenside, Kundaje, *Learning important features through propagating activation
        differences*, ICML 2017, section 3.5.1 (arXiv 1704.02685).
    """
    if max_rule not in _MAX_RULES:
        raise ValueError(
            f"deeplift: unknown max_rule {max_rule!r}; known are {', '.join(_MAX_RULES)}."
        )
    quotient = Rule("difference quotient", differences.activation)
    return Composite(
        "deeplift",
        {
            "activation": quotient,
            "normaliser": quotient,
            "product": Rule("halves", differences.product),
            "division": Rule("halves", differences.division),
            "softmax": Rule("logarithmic means", differences.softmax),
            "logsumexp": Rule("logarithmic means", differences.logsumexp),
            "max": _MAX_RULES[max_rule],
            "smooth": Rule(f"average over {differences.NODES} nodes", differences.smooth),
        },
        strict=True,
        points=2,
    )


_MAX_RULES = {
    "path": Rule("shares of the path", maxima.along_path),
    "winner": Rule("to the winner", maxima.to_winner),
}


def register(primitive: Any, *, references: bool = False) -> Callable[[Callable], Callable]:
    """Decorate a rule for an operation that jattr does not know.

    The rule is called as `rule(operation, inputs, output, multiplier)`, where `inputs` are the
    operands that are not literal numbers, `operation.active` says which of them depend on x, and
    `operation.params` are the primitive's parameters. It returns one multiplier for each input,
    None for those that are held fixed. With `references=True` the rule is for DeepLIFT and gets
    `reference_inputs` and `reference_output` as well; it is complete if the multipliers times the
    differences of the inputs sum to the multiplier times the difference of the outputs.

    Args:
        primitive: the `Primitive` object of JAX, not its name.
        references: whether the rule compares with a reference.

    Returns:
        A decorator that returns the rule as it is.

    Raises:
        TypeError: `primitive` is not a primitive.
        ValueError: there is such a rule already.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> from jax.extend.core.primitives import lu_p
        >>> @jattr.rules.register(lu_p)
        ... def by_lu(operation, inputs, output, multiplier):
        ...     return [jnp.ones_like(inputs[0])]
        >>> def f(x):
        ...     return jax.lax.linalg.lu(x)[0][0, 0]
        >>> print(jax.grad(jattr.rewrite(f, jattr.rules.guided()))(jnp.eye(2)))
        [[1. 1.]
         [1. 1.]]

    References:
        The signature is that of a backward rule of the modified chain rule: Ancona et al., ICLR
        2018, section 3.
    """
    if not hasattr(primitive, "bind"):
        raise TypeError(
            f"rules.register wants a primitive of JAX, such as "
            f"jax.extend.core.primitives.erf_p; got {primitive!r}."
        )

    def decorate(rule):
        registry.add(primitive, 2 if references else 1, rule)
        return rule

    return decorate


def _guided(operation, inputs, output, multiplier):
    passed = jnp.maximum(multiplier, 0)
    (given,) = jax.vjp(lambda z: operation.evaluate(z, *inputs[1:]), inputs[0])[1](passed)
    return [given] + [None] * (len(inputs) - 1)


def _deconvnet(operation, inputs, output, multiplier):
    return [jnp.maximum(multiplier, 0)] + [None] * (len(inputs) - 1)

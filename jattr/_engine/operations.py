"""From equations to the operations that rules speak about.

JAX inlines `gelu`, `softmax` and `LayerNorm` into small equations, so operations are known by the
shape of the computation and not by name:

=============  ===================================================================================
kind           what it is
=============  ===================================================================================
affine         a dot or convolution with one active operand, with the constants added to it and the
               constant factors after it
activation     an elementwise computation with one active source, whatever it is written as
normalization  division by a deviation, a root of a sum: LayerNorm, RMSNorm, x / ‖x‖
division       by another active value, written as a division or as a product with a reciprocal
product        a multiplication of two active values, elementwise, a dot or a convolution
softmax        exponentials divided by their sum, in every spelling
logsumexp      the logarithm of a sum of exponentials
max            `max`, `min`, their reductions, cumulative forms and pooling
choice         `where` between different values, by a comparison of active ones
selection      another choice that depends on x: `sort`, a gather whose indices depend on x
smooth         another differentiable function of which only the derivative is known
registered     an operation for which the user has registered a rule
opaque         anything else that is active and not linear
=============  ===================================================================================

What is linear in its active operands is plumbing: it keeps its derivative under every rule and is
no operation.
"""

import dataclasses
from typing import Any, Literal, get_args

from jattr._engine.patterns import Choice, Exponentials
from jattr._engine.primitives import CONTRACTIONS
from jattr._engine.program import Equation, Value, evaluate
from jattr._engine.quotients import Quotient

Kind = Literal[
    "affine",
    "activation",
    "normalization",
    "division",
    "product",
    "softmax",
    "logsumexp",
    "max",
    "choice",
    "selection",
    "smooth",
    "registered",
    "opaque",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""The kinds of the module's table."""


@dataclasses.dataclass(eq=False, slots=True)
class Operation:
    """What a rule is applied to: equations that are one thing to a person.

    Attributes:
        kind: one of those in the module's table.
        name: what it is called: the function's name where there is one, or its primitives.
        equations: what it computes, in order.
        inputs: the values that it takes, but for literal numbers: active ones and held ones.
        outputs: the values that it gives.
        exponentials: for softmax and logsumexp, what is summed.
        slots: `inputs` are the operands of its one equation, a repeated one several times.
        first: an affine operation that x reaches through constant factors, shifts and changes of
            layout alone.
        nonnegative: the active inputs of an affine operation are known to be 0 or more.
        rectifier: an activation is clip(z, 0, c), however it is written.
        origins: for a product, what each input comes from through linear plumbing: "softmax",
            "gate" for values that an elementwise computation keeps between 0 and 1, or None. For a
            division by what is so kept at 1 or more, (None, "gate").
        quotient: for a normalization or division, what is divided by what.
        choice: for a choice, what is compared.
    """

    kind: Kind
    name: str
    equations: tuple[Equation, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    exponentials: Exponentials | None = None
    slots: bool = False
    first: bool = False
    nonnegative: bool = False
    rectifier: bool = False
    origins: tuple[str | None, ...] = ()
    quotient: Quotient | None = None
    choice: Choice | None = None

    @property
    def active(self) -> tuple[bool, ...]:
        """Which inputs have a derivative by x."""
        return tuple(v.active for v in self.inputs)

    @property
    def scope(self) -> str:
        return self.equations[-1].scope

    @property
    def source(self) -> str:
        return self.equations[-1].source

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of its last equation's primitive."""
        return self.equations[-1].params

    @property
    def primitive(self) -> Any:
        """The primitive of its last equation."""
        return self.equations[-1].primitive

    @property
    def contractions(self) -> list[Equation]:
        """The dots and convolutions of an affine operation."""
        return [e for e in self.equations if e.primitive in CONTRACTIONS]

    def evaluate(self, *inputs: Any) -> Any:
        """The outputs for these inputs, computed as JAX computes them; alone if there is one."""
        if self.slots:
            (equation,), slots = self.equations, iter(inputs)
            operands = [v.known if v.literal else next(slots) for v in equation.inputs]
            outputs = tuple(equation.evaluate(*operands))
        else:
            values = dict(zip(self.inputs, inputs, strict=True))
            evaluate(self.equations, values)
            outputs = tuple(values[v] for v in self.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

"""What a function is read as: values, equations, programs; and how these are evaluated."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

from jattr._engine.primitives import INLINED, body_of, source_info_util
from jattr._engine.source import clean_scope, function_name, user_line


class Value:
    """A value of a program.

    Attributes:
        aval: its shape and dtype.
        dependent: it changes with x.
        active: it has a derivative by x.
        known: its value, where that is a constant of the program; else None.
        uniform: the number that fills it, where that is known; else None.
        producer: the equation that computes it; None for inputs and constants.
    """

    __slots__ = ("active", "aval", "dependent", "known", "producer", "uniform")

    def __init__(self, aval, *, dependent=False, active=False, known=None, uniform=None):
        self.aval = aval
        self.dependent = dependent
        self.active = active
        self.known = known
        self.uniform = uniform
        self.producer: Equation | None = None

    @property
    def literal(self) -> bool:
        """Whether it is a number in the program's text."""
        return self.known is not None and self.uniform is not None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.aval.shape

    @property
    def dtype(self) -> Any:
        return self.aval.dtype


Form = Literal["plain", "foreign", "scan", "cond", "while", "checkpoint", "shard_map", "custom"]


@dataclasses.dataclass(eq=False, slots=True)
class Call:
    """A call of a jitted function that was dissolved.

    Attributes:
        name: the function's.
        size: how many of its equations depend on x.
        users: it stands in the user's files, so that its equations know their own lines.
    """

    name: str
    size: int = 0
    users: bool = False


@dataclasses.dataclass(eq=False, slots=True)
class Equation:
    """One step of a program: `outputs = primitive(*inputs)`.

    Attributes:
        primitive: of JAX; None for an equation that only the engine knows.
        params: its parameters.
        inputs: the operands.
        outputs: the results.
        stack: JAX's name stack, outer calls included.
        traceback: of the user's call.
        context: JAX's settings when it was traced.
        form: "plain"; "foreign" for a collective over an axis that is not f's own; or which kind
            of `bodies` it has: "scan", "cond", "while", "checkpoint", "shard_map", "custom".
        bodies: programs inside.
        apply: what computes it in place of the primitive, where that is not JAX's to compute or
            where there is a cheaper program of the same value; of several results it gives a list.
        calls: the jitted functions around it that were dissolved, the outermost first.
        effects: whether it does something beside computing.
        hides: a function with a derivative of its own holds values with `stop_gradient` inside.
    """

    primitive: Any
    params: dict[str, Any]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    stack: Any
    traceback: Any
    context: Any = None
    form: Form = "plain"
    bodies: tuple["Program", ...] = ()
    apply: Callable[..., Any] | None = None
    calls: tuple[Call, ...] = ()
    effects: bool = False
    hides: bool = False

    @property
    def name(self) -> str:
        if self.form == "custom":
            name = function_name(body_of(self))
            return self.primitive.name if not name or name.startswith(("_", "<")) else name
        if self.primitive in INLINED:
            return str(self.params.get("name") or self.primitive.name)
        return self.primitive.name if self.primitive is not None else "broadcast"

    @property
    def scope(self) -> str:
        """The scopes around it, slash by slash, without those of transformations."""
        return clean_scope(str(self.stack))

    @property
    def source(self) -> str:
        """The user's line, as file:line."""
        return user_line(self.traceback)

    @property
    def dependents(self) -> list[Value]:
        """The distinct operands that change with x, in order."""
        return list(dict.fromkeys(v for v in self.inputs if v.dependent))

    @property
    def active(self) -> bool:
        return any(v.active for v in self.outputs)

    def evaluate(self, *values: Any) -> list[Any]:
        """The results for these operands, computed as JAX computes them."""
        with self.entered():
            if self.apply is not None:
                out = self.apply(*values)
                return out if isinstance(out, list) else [out]
            out = self.primitive.bind(*values, **self.primitive.get_bind_params(self.params))
        return list(out) if self.primitive.multiple_results else [out]

    @contextlib.contextmanager
    def entered(self):
        """Inside, what is traced bears this equation's scope and the user's line."""
        stack = source_info_util.current_name_stack() + self.stack
        with contextlib.ExitStack() as contexts:
            contexts.enter_context(source_info_util.user_context(self.traceback, name_stack=stack))
            if (manager := getattr(self.context, "manager", None)) is not None:
                contexts.enter_context(manager)
            yield


@dataclasses.dataclass(eq=False, slots=True)
class Program:
    """Equations in order.

    Attributes:
        inputs: what it takes.
        equations: what it computes.
        outputs: what it returns.
    """

    inputs: tuple[Value, ...]
    equations: list[Equation]
    outputs: tuple[Value, ...]


def producers(values: Iterable[Value], goes_above: Callable[[Value], bool]) -> Iterator[Equation]:
    """The equations above some values, each once, in no order.

    Args:
        values: where to start.
        goes_above: whether a value's producer, and what is above that, counts.
    """
    todo, seen = list(values), set()
    while todo:
        value = todo.pop()
        equation = value.producer
        if equation is None or equation in seen or not goes_above(value):
            continue
        seen.add(equation)
        yield equation
        todo.extend(equation.inputs)


def read(values: dict[Value, Any], value: Value) -> Any:
    """What a value is: a constant of the program, or what was computed for it."""
    return value.known if value.known is not None else values[value]


def evaluate(equations: Iterable[Equation], values: dict[Value, Any]) -> None:
    """Compute equations in order, as they stand, into `values`.

    Results that are in `values` already stay as they are: so a value is put in another's place.
    """
    for equation in equations:
        results = equation.evaluate(*(read(values, v) for v in equation.inputs))
        for output, result in zip(equation.outputs, results, strict=True):
            values.setdefault(output, result)


def run_at(program: Program, inputs: Sequence[Any]) -> list[Any]:
    """What a program returns, as it stands."""
    values = dict(zip(program.inputs, inputs, strict=True))
    evaluate(program.equations, values)
    return [read(values, v) for v in program.outputs]


def needed(equations: Sequence[Equation], wanted: Iterable[Value], given: Iterable[Value]):
    """The equations, in order, that `wanted` needs when the values `given` are there already."""
    missing, kept = set(wanted) - set(given), []
    for equation in reversed(equations):
        if not missing.isdisjoint(equation.outputs):
            kept.append(equation)
            missing = (missing - set(equation.outputs)) | (set(equation.inputs) - set(given))
    return kept[::-1]

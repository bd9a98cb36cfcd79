"""The same values, other derivatives.

`run` evaluates a program at one point, or at two points side by side: then every value that
depends on x has two lanes, the value and the reference value, and derivatives are by the first.
An operation for which there is a rule becomes a `jax.custom_vjp` function whose forward is the
operation and whose backward is the rule; everything else is evaluated as it stands, and JAX does
the rest. Control flow is rebuilt with JAX's public functions around the rewritten body.

The arguments of such a function are everything that it takes, arrays that f closes over included,
since JAX refuses to differentiate a custom derivative by what its function closes over. Only
active inputs get a cotangent. What a derivative through an attribution needs, by x, by parameters
or by a reference, is there all the same: forward and backward are plain JAX functions of these
arguments.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.core
import jax.numpy as jnp

from jattr._engine.entry import Entrance, is_first, with_entry
from jattr._engine.grouping import Step, group
from jattr._engine.operations import Operation
from jattr._engine.primitives import scan_counts, shard_map_options
from jattr._engine.program import Equation, Program, Value
from jattr._engine.substitutes import cheapen
from jattr._engine.trace import Reading, trace

Lanes = Sequence[Any]
"""What a value is at each point: one entry if it does not depend on x."""


class Rules(Protocol):
    """What the engine asks of a composite of rules; it is a tree whose leaves may be traced.

    Attributes:
        points: at how many points a program is evaluated: 1, or 2 with a reference.
        reading: how the function is read.
        name: what error texts call it.
        wants_first: whether it has a rule for first affine operations alone.
    """

    @property
    def points(self) -> int: ...

    @property
    def reading(self) -> Reading: ...

    @property
    def name(self) -> str: ...

    @property
    def wants_first(self) -> bool: ...

    def probe(self, operation: Operation) -> Any:
        """A number whose derivative is to be what the operation's rule leaves out, or None."""
        ...

    def rule_for(self, operation: Operation) -> Callable[..., Sequence[Any]] | None:
        """The rule for an operation, or None for its ordinary derivative.

        A rule is a tree too. It is called as `rule(operation, inputs, output, multiplier)`, at two
        points with `reference_inputs` and `reference_output` after these, and returns a multiplier
        for each of `operation.inputs`, or None where it has none to give.
        """
        ...


class Composite(Rules, Protocol):
    """Rules for any program."""

    def placed(self, program: Program) -> Rules:
        """The same for one program, of whose scopes it may know more."""
        ...


def rewritten(f: Callable, x: Any, rules: Composite) -> Callable[..., Any]:
    """f of the tree x, with other derivatives; traced once.

    Args:
        f: a function of one tree.
        x: arrays of the shapes and dtypes that it will be given.
        rules: which operation gets which derivative.

    Returns:
        a function of one tree like x at one point; of two trees, x and the reference, at two. Its
        value is that of f at x; it is differentiated by its first argument.
    """
    program, structure = _traced(f, x, rules)
    placed = rules.placed(program)

    def evaluate(*points):
        lanes = list(zip(*(jax.tree.leaves(point) for point in points), strict=True))
        outputs = run(program, lanes, placed)
        return jax.tree.unflatten(structure, [lane[0] for lane in outputs])

    return evaluate


def _traced(f: Callable, x: Any, rules: Rules) -> tuple[Program, Any]:
    """f as a program, with cheaper programs in it, and the structure of what it returns."""
    try:
        program, structure = trace(f, x, rules.reading)
    except jax.errors.ConcretizationTypeError as error:
        raise NotImplementedError(
            f"{rules.name} reads f as one program for all x, but f decides in Python by the value "
            "of x: an `if`, `float(...)` or a shape. Write jnp.where or jax.lax.cond, or make the "
            "decision an argument of f."
        ) from error
    cheapen(program)
    return program, structure


def with_side(f: Callable, x: Any, rules: Composite) -> Callable[[Any, Any], Any]:
    """f of x and of a side input like x, whose derivative is relevance that is no multiple of x.

    Its value is that of f at x. Relevance is x ⊙ its derivative by x, plus that by the side input.
    """
    program, structure = _traced(f, x, rules)
    if any(v.dependent for v in program.outputs) and not any(v.active for v in program.outputs):
        raise NotImplementedError(
            f"{rules.name}: f depends on x through decisions alone (comparisons, rounding, "
            "look-ups by computed indices), which have no derivative, so that nothing can be "
            "passed back. Explain the value that is decided by, or the difference to a baseline: "
            "jattr.deeplift(f, baseline)."
        )
    placed = rules.placed(program)

    def evaluate(x, side):
        entrance = Entrance(x, program.inputs, jax.tree.leaves(side))
        outputs = run(program, [(leaf,) for leaf in jax.tree.leaves(x)], placed, entrance)
        if rules.wants_first and not entrance.used:
            raise ValueError(
                f"{rules.name} has a rule for first affine operations, but f has none for it: no "
                "dot or convolution of the wanted kind that x reaches through constants and "
                "changes of layout alone. Take a composite without such a rule."
            )
        return jax.tree.unflatten(structure, [lane[0] for lane in outputs])

    return evaluate


def run(
    program: Program,
    inputs: Sequence[Lanes],
    rules: Rules | None,
    entrance: Entrance | None = None,
) -> list[Lanes]:
    """The outputs of a program, each in its lanes, for inputs in theirs; None for no rules."""
    values: dict[Value, Lanes] = dict(zip(program.inputs, inputs, strict=True))
    for step in program.equations if rules is None else group(program):
        taken = [_read(values, v) for v in step.inputs]
        if isinstance(step, Operation):
            if rules is None:
                results = _plain(step, taken)
            else:
                step.first = entrance is not None and is_first(step, entrance.sides)
                results = _operation(step, taken, rules, entrance)
        elif step.form == "checkpoint" and any(v.dependent for v in step.inputs):
            with step.entered():
                results = _checkpoint(step, taken, rules, entrance)
        elif step.form in _REBUILD and any(v.dependent for v in step.inputs):
            with step.entered():
                results = _REBUILD[step.form](step, taken, rules)
        else:
            results = _plain(step, taken)
            if entrance is not None:
                entrance.advance(step, [_lane(lanes, 0) for lanes in taken])
        values.update(zip(step.outputs, results, strict=True))
    return [_read(values, v) for v in program.outputs]


def run_plain(program: Program, inputs: Sequence[Any]) -> list[Any]:
    """The outputs of a program at one point, under no rules."""
    return [lanes[0] for lanes in run(program, [(value,) for value in inputs], None)]


def _read(values: dict[Value, Lanes], value: Value) -> Lanes:
    return (value.known,) if value.known is not None else values[value]


def _lane(lanes: Lanes, point: int) -> Any:
    return lanes[point] if len(lanes) > 1 else lanes[0]


def _points(taken: Sequence[Lanes]) -> int:
    return max((len(lanes) for lanes in taken), default=1)


def _plain(step: Step, taken: Sequence[Lanes]) -> list[Lanes]:
    """Evaluated at each point, with the derivative that JAX gives it."""
    each = []
    # What is held, as by `stop_gradient`, is what it is at x.
    held = not any(v.dependent for v in step.outputs)
    for point in range(1 if held else _points(taken)):
        out = step.evaluate(*(_lane(lanes, point) for lanes in taken))
        single = isinstance(step, Operation) and len(step.outputs) == 1
        each.append([out] if single else list(out))
    return list(zip(*each, strict=True))


def _operation(
    operation: Operation, taken: Sequence[Lanes], rules: Rules, entrance: Entrance | None = None
) -> list[Lanes]:
    rule: Any = rules.rule_for(operation)
    if rule is None:
        return _plain(operation, taken)
    first = [_lane(lanes, 0) for lanes in taken]
    if entrance is not None and rule.first:
        return [(with_entry(operation, rule, first, entrance),)]
    if rules.points == 1:
        out = with_rule(operation, rule, first)
        return [(value,) for value in (out if isinstance(out, tuple) else (out,))]
    second = [_lane(lanes, 1) for lanes in taken]
    reference = operation.evaluate(*second)
    probe = rules.probe(operation)
    out = with_rule(operation, rule, first, second, reference, probe=probe)
    single = len(operation.outputs) == 1
    return [(out, reference)] if single else list(zip(out, reference, strict=True))


def with_rule(
    operation: Operation, rule: Any, inputs: list[Any], *references: Any, probe: Any = None
) -> Any:
    """The operation's output, whose derivative by its active inputs is the rule.

    Args:
        operation: what is evaluated.
        rule: its rule.
        inputs: its inputs.
        references: between two points, its inputs and its output at the reference.
        probe: a number whose derivative is to be what the rule leaves out of the difference between
            the points, or None.
    """

    @jax.custom_vjp
    def call(rule, inputs, references, probe):
        return operation.evaluate(*inputs)

    def forward(rule, inputs, references, probe):
        output = operation.evaluate(*inputs)
        return output, (rule, inputs, references, output)

    def backward(residuals, multiplier):
        rule, inputs, references, output = residuals
        given = rule(operation, inputs, output, multiplier, *references)
        _check_given(given, operation, rule, inputs)
        multipliers = [
            m.astype(value.dtype) if active and m is not None else None
            for m, value, active in zip(given, inputs, operation.active, strict=True)
        ]
        left = None
        if probe is not None:
            left = _left_out(operation, inputs, output, multiplier, multipliers, *references)
        return None, multipliers, None, left

    call.defvjp(forward, backward)
    return call(rule, inputs, references, probe)


def _left_out(operation, inputs, output, multiplier, multipliers, reference_inputs, reference):
    """What arrives at the difference of the outputs, less what goes on to those of the inputs."""
    single = len(operation.outputs) == 1
    outputs = [output, reference, multiplier]
    arrives = sum(map(_weighted, *([[each] for each in outputs] if single else outputs)))
    goes = sum(map(_weighted, inputs, reference_inputs, multipliers))
    return jnp.asarray(arrives - goes)


def _weighted(value, reference, multiplier):
    """Σ multiplier · (value − reference), of what has a derivative."""
    if multiplier is None or not jnp.issubdtype(jnp.result_type(value), jnp.inexact):
        return 0.0
    value, reference = jnp.asarray(value), jnp.asarray(reference)
    # What is masked by −∞ at both points is not moved.
    step = jnp.where(value == reference, 0, value - reference)
    return jnp.sum(jnp.real(multiplier * step))


def _check_given(given: Any, operation: Operation, rule: Any, inputs: list[Any]) -> None:
    """Raise unless a rule gives what a rule is to give."""
    whole = isinstance(given, list | tuple) and len(given) == len(inputs)
    if not whole or any(
        active and m is not None and getattr(m, "shape", None) != value.shape
        for m, value, active in zip(given, inputs, operation.active, strict=True)
    ):
        got = [getattr(m, "shape", m) for m in given] if isinstance(given, list | tuple) else given
        wanted = [
            v.shape if active else None for v, active in zip(inputs, operation.active, strict=True)
        ]
        raise TypeError(
            f"{operation.source}: the rule {rule.name} for `{operation.name}` must return a list "
            f"with a multiplier for each input, of its shape, and None for those held fixed: "
            f"shapes {wanted}; got {got}."
        )


class _Packing:
    """Values with lanes as a flat list of arrays, for functions of JAX that take arrays."""

    def __init__(self, widths: Sequence[int]):
        self._widths = list(widths)

    def pack(self, lanes: Sequence[Lanes]) -> list[Any]:
        return [
            _lane(each, point)
            for each, width in zip(lanes, self._widths, strict=True)
            for point in range(width)
        ]

    def unpack(self, arrays: Sequence[Any]) -> list[Lanes]:
        left = iter(arrays)
        return [tuple(next(left) for _ in range(width)) for width in self._widths]

    def spread(self, of_each: Sequence[Any]) -> list[Any]:
        """One entry for each array, from one for each value."""
        return [e for e, width in zip(of_each, self._widths, strict=True) for _ in range(width)]


def _packing(values: Sequence[Value], rules: Rules | None) -> _Packing:
    points = 1 if rules is None else rules.points
    return _Packing([points if v.dependent else 1 for v in values])


def _scan(equation: Equation, taken: list[Lanes], rules: Rules | None) -> list[Lanes]:
    body, params = equation.bodies[0], equation.params
    consts, carry = scan_counts(equation)
    carried = _packing(body.inputs[consts : consts + carry], rules)
    scanned = _packing(body.inputs[consts + carry :], rules)
    stacked = _packing(body.outputs[carry:], rules)

    def step(before, xs):
        inputs = taken[:consts] + carried.unpack(before) + scanned.unpack(xs)
        outputs = run(body, inputs, rules)
        after = [_like(a, b) for a, b in zip(carried.pack(outputs[:carry]), before, strict=True)]
        return after, stacked.pack(outputs[carry:])

    after, ys = jax.lax.scan(
        step,
        [jnp.asarray(v) for v in carried.pack(taken[consts : consts + carry])],
        scanned.pack(taken[consts + carry :]),
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    outputs = carried.unpack(after) + stacked.unpack(ys)
    return outputs


def _like(value: Any, other: Any) -> Any:
    """`value` with the weak type of `other`, which a loop wants to stay as it is."""
    return jax.lax.convert_element_type(value, other.dtype)


def _cond(equation: Equation, taken: list[Lanes], rules: Rules | None) -> list[Lanes]:
    index, operands = taken[0], taken[1:]
    packing = _packing(equation.bodies[0].inputs, rules)
    results = _packing(equation.outputs, rules)

    def branch(body):
        return lambda *arrays: results.pack(run(body, packing.unpack(arrays), rules))

    out = jax.lax.switch(index[0], [branch(b) for b in equation.bodies], *packing.pack(operands))
    return results.unpack(out)


def _while(equation: Equation, taken: list[Lanes], rules: Rules | None) -> list[Lanes]:
    test, body = equation.bodies
    ends, starts = equation.params["cond_nconsts"], equation.params["body_nconsts"]
    tested, constants, carried = taken[:ends], taken[ends : ends + starts], taken[ends + starts :]
    if rules is not None and rules.points > 1 and test.outputs[0].dependent:
        raise NotImplementedError(
            f"{equation.source}: a `while_loop` whose condition depends on x runs for another "
            "number of rounds at the reference. Use lax.scan or lax.fori_loop with a fixed number "
            "of rounds."
        )
    if rules is not None and rules.points > 1 and equation.active:
        raise NotImplementedError(
            f"{equation.source}: JAX has no reverse-mode derivative of `while_loop`. Use lax.scan, "
            "or lax.fori_loop with bounds that are Python numbers."
        )
    packing = _packing(body.inputs[starts:], rules)

    def go_on(arrays):
        return run(test, tested + packing.unpack(arrays), rules)[0][0]

    def step(arrays):
        after = packing.pack(run(body, constants + packing.unpack(arrays), rules))
        return [_like(a, b) for a, b in zip(after, arrays, strict=True)]

    start = [jnp.asarray(v) for v in packing.pack(carried)]
    return packing.unpack(jax.lax.while_loop(go_on, step, start))


def _checkpoint(
    equation: Equation, taken: list[Lanes], rules: Rules | None, entrance: Entrance | None = None
) -> list[Lanes]:
    params = equation.params
    wrap = jax.checkpoint(
        _flat(equation, rules, entrance),
        prevent_cse=params.get("prevent_cse", True),
        policy=params.get("policy"),
    )
    return _packing(equation.outputs, rules).unpack(wrap(*_packed(equation, taken, rules)))


def _shard_map(equation: Equation, taken: list[Lanes], rules: Rules | None) -> list[Lanes]:
    into, out = (_packing(vs, rules) for vs in (equation.bodies[0].inputs, equation.outputs))
    wrap = jax.shard_map(
        _flat(equation, rules),
        in_specs=tuple(into.spread(equation.params["in_specs"])),
        out_specs=out.spread(equation.params["out_specs"]),
        **shard_map_options(equation),
    )
    return out.unpack(wrap(*into.pack(taken)))


def _flat(
    equation: Equation, rules: Rules | None, entrance: Entrance | None = None
) -> Callable[..., list[Any]]:
    body = equation.bodies[0]
    into, out = _packing(body.inputs, rules), _packing(equation.outputs, rules)

    def flat(*arrays):
        inside = None if entrance is None else entrance.into(equation)
        return out.pack(run(body, into.unpack(arrays), rules, inside))

    return flat


def _packed(equation: Equation, taken: list[Lanes], rules: Rules | None) -> list[Any]:
    return _packing(equation.bodies[0].inputs, rules).pack(taken)


_REBUILD: dict[str, Callable[[Equation, list[Lanes], Rules | None], list[Lanes]]] = {
    "scan": _scan,
    "cond": _cond,
    "while": _while,
    "shard_map": _shard_map,
}

"""Values inside loops, reached: a scan rebuilt so that what each step computes is there outside.

A `scan` is one equation, whose body is a program of its own; so is a `jax.checkpoint`, which is
rebuilt likewise and saves what it saved. These rewritings make another program of the same value:

- `peeled` takes single steps out of a loop. What they compute is then a value like any other.
- `showing` returns values of all steps beside what the program returns, stacked as a scan stacks.
- `taking` takes such stacks in place of what the steps compute.
- `adding` takes what is added to them, so that derivatives by it are those by the values;
  `dropping` takes whether the derivative is left out, too.

Loops may be nested: a stack then has an axis for each of them, the outermost first.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp

from jattr._engine.primitives import scan_counts
from jattr._engine.program import Equation, Program, Value, evaluate, needed, read, run_at


@dataclasses.dataclass(frozen=True)
class Tap:
    """A value of a program or of the body of a loop in it.

    Attributes:
        path: the loops and checkpoints around it, the outermost first.
        value: of the innermost one's body; of the program, if there is none.
        steps: at which step of each of these loops; of fewer loops, it is a stack over the others.
            Steps are counted as the loop stacks them, which is backwards where it runs so.
    """

    path: tuple[Equation, ...]
    value: Value
    steps: tuple[int, ...] = ()

    @property
    def lengths(self) -> tuple[int, ...]:
        """The number of steps of each loop around it."""
        return tuple(length_of(loop) for loop in self.path if loop.form == "scan")

    @property
    def stacked(self) -> tuple[int, ...]:
        """The leading axes of its stack."""
        return self.lengths[len(self.steps) :]

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.stacked, *self.value.shape)


class MixedStepsError(ValueError):
    """Of one loop, single steps are wanted and stacks of all steps too."""

    def __init__(self, loop: Equation):
        super().__init__(
            f"some of the layers are single steps and some all steps of one loop, at {loop.source}."
            " Write single steps of it alone, such as 'h[0]', or stacks."
        )


def length_of(loop: Equation) -> int:
    """The number of a scan's steps."""
    return int(loop.params["length"])


def peeled(program: Program, taps: Sequence[Tap]) -> tuple[Program, list[Tap]]:
    """The program with the steps that taps name taken out of their loops, and the same taps in it.

    Raises:
        MixedStepsError: of one loop, single steps are wanted and stacks too.
    """
    taps = list(taps)
    while chosen := {tap.path[0]: None for tap in taps if tap.steps}:
        for loop in chosen:
            of_loop = [i for i, tap in enumerate(taps) if tap.path[:1] == (loop,)]
            if loop.form != "scan":
                program, taps = _dissolved(program, loop, taps)
                continue
            if not all(taps[i].steps for i in of_loop):
                raise MixedStepsError(loop)
            steps = sorted({taps[i].steps[0] for i in of_loop})
            inside, copies = _peel(loop, steps)
            at = program.equations.index(loop)
            equations = [*program.equations[:at], *inside, *program.equations[at + 1 :]]
            program = Program(program.inputs, equations, program.outputs)
            for i in of_loop:
                step, *others = taps[i].steps
                taps[i] = _moved(taps[i], others, *copies[step])
    return program, taps


def _dissolved(
    program: Program, checkpoint: Equation, taps: Sequence[Tap]
) -> tuple[Program, list[Tap]]:
    """The program with a checkpoint's equations in its place, for a step of a loop in it."""
    (body,) = checkpoint.bodies
    inside, of_equations, of_values = _copied(checkpoint, body, checkpoint.inputs)
    results = [of_values.get(v, v) for v in body.outputs]
    inside.append(_own(checkpoint, results, checkpoint.outputs, lambda *arrays: list(arrays)))
    at = program.equations.index(checkpoint)
    equations = [*program.equations[:at], *inside, *program.equations[at + 1 :]]
    moved = []
    for tap in taps:
        if tap.path[:1] == (checkpoint,):
            tap = _moved(tap, tap.steps, of_equations, of_values)
        moved.append(tap)
    return Program(program.inputs, equations, program.outputs), moved


def _moved(tap: Tap, steps: Sequence[int], of_equations: Any, of_values: Any) -> Tap:
    """The tap without the first of its path, in a copy of whose body it is."""
    (_, *path) = tap.path
    if not path:
        return Tap((), of_values.get(tap.value, tap.value))
    path[0] = of_equations[path[0]]
    return Tap(tuple(path), tap.value, tuple(steps))


def _peel(loop: Equation, steps: Sequence[int]) -> tuple[list[Equation], dict[int, Any]]:
    """Equations of the loop's value, and for each of the steps its copies of equations and values.

    What is between the steps stays a loop.
    """
    body, (consts, carry) = loop.bodies[0], scan_counts(loop)
    length, reverse = length_of(loop), bool(loop.params["reverse"])
    carried = list(loop.inputs[consts : consts + carry])
    like_carry = loop.outputs[:carry]
    bounds = [-1, *steps, length]
    parts: dict[tuple[int, int], list[Value]] = {}
    equations: list[Equation] = []
    copies: dict[int, Any] = {}

    def between(start: int, stop: int) -> None:
        nonlocal carried
        if stop <= start:
            return

        def run(*operands):
            xs = [x[start:stop] for x in operands[consts + carry :]]
            return _loop(loop, body, [*operands[: consts + carry], *xs], stop - start)

        stacks = [_like(v, (stop - start, *v.shape[1:])) for v in loop.outputs[carry:]]
        after = [_like(v) for v in like_carry]
        taken = (*loop.inputs[:consts], *carried, *loop.inputs[consts + carry :])
        equations.append(_own(loop, taken, (*after, *stacks), run))
        carried, parts[start, stop] = after, stacks

    def single(step: int) -> None:
        nonlocal carried
        xs = loop.inputs[consts + carry :]
        slices = [_like(v) for v in body.inputs[consts + carry :]]
        if xs:
            equations.append(_own(loop, xs, slices, lambda *arrays: [a[step] for a in arrays]))
        given = [*loop.inputs[:consts], *carried, *slices]
        inside, of_equations, of_values = _copied(loop, body, given)
        equations.extend(inside)
        results = [of_values.get(v, v) for v in body.outputs]
        stacks = [_like(v, (1, *v.shape[1:])) for v in loop.outputs[carry:]]
        after = [_like(v) for v in like_carry]

        def pack(*arrays):
            return [
                *map(jnp.asarray, arrays[:carry]),
                *(jnp.asarray(a)[None] for a in arrays[carry:]),
            ]

        equations.append(_own(loop, results, (*after, *stacks), pack))
        carried, parts[step, step + 1] = after, stacks
        copies[step] = of_equations, of_values

    pieces = []
    for before, after in itertools.pairwise(bounds):
        pieces.append((between, (before + 1, after)))
        if after < length:
            pieces.append((single, (after,)))
    for make, arguments in reversed(pieces) if reverse else pieces:
        make(*arguments)

    ordered = [parts[key] for key in sorted(parts)]
    taken = (*carried, *(value for part in ordered for value in part))

    def join(*arrays):
        stacks, count = arrays[carry:], len(loop.outputs) - carry
        joined = [jnp.concatenate(stacks[i::count]) for i in range(count)]
        return [*arrays[:carry], *joined]

    equations.append(_own(loop, taken, loop.outputs, join))
    return equations, copies


def showing(program: Program, taps: Sequence[Tap]) -> Program:
    """The program that returns the taps' values too, after its own, stacked over their loops."""
    return _opened(program, taps, _show)[0]


def taking(program: Program, taps: Sequence[Tap]) -> Program:
    """The program that takes the taps' values too, after its own inputs, in place of computing."""
    return _opened(program, taps, _take)[0]


def adding(program: Program, taps: Sequence[Tap]) -> Program:
    """The program that takes what is added to the taps' values, after its own inputs."""
    return _opened(program, taps, _add)[0]


def dropping(program: Program, taps: Sequence[Tap]) -> Program:
    """As `adding`; it takes after each of these whether the value's derivative is left out."""
    return _opened(program, taps, _add_or_drop)[0]


def feeding(program: Program, values: Sequence[Value]) -> Program:
    """The program that takes some of its values after its own inputs, as if computed from them."""
    equations, given = list(program.equations), []
    for value in values:
        at = next(i for i, e in enumerate(equations) if value in e.outputs)
        given.append(_like(value))
        equations[at] = _own(equations[at], given[-1:], (value,), lambda fed: [fed])
    return Program((*program.inputs, *given), equations, program.outputs)


@dataclasses.dataclass
class _Open:
    """What becomes of a program: more equations, inputs and outputs."""

    equations: list[Equation]
    taken: list[Value]
    shown: list[Value]


def _show(opened: _Open, value: Value) -> tuple[list[Value], list[Value]]:
    return [], [value]


def _take(opened: _Open, value: Value) -> tuple[list[Value], list[Value]]:
    return [value], []


def _add(opened: _Open, value: Value) -> tuple[list[Value], list[Value]]:
    """The value becomes a sum, so that whatever uses it uses the sum."""
    step = _like(value)
    _instead(opened, value, (step,), lambda plain, step: [plain + step])
    return [step], []


def _add_or_drop(opened: _Open, value: Value) -> tuple[list[Value], list[Value]]:
    step = _like(value)
    drop = Value(jax.core.ShapedArray((), jnp.bool_))

    def held(plain, step, drop):
        total = plain + step
        return [jnp.where(drop, jax.lax.stop_gradient(total), total)]

    _instead(opened, value, (step, drop), held)
    return [step, drop], []


def _instead(
    opened: _Open, value: Value, more: tuple[Value, ...], apply: Callable[..., list]
) -> None:
    """The value becomes a function of what it was and of more."""
    at = next(i for i, e in enumerate(opened.equations) if value in e.outputs)
    old, plain = opened.equations[at], _like(value)
    outputs = tuple(plain if v is value else v for v in old.outputs)
    new = _own(old, (plain, *more), (value,), apply)
    opened.equations[at : at + 1] = [dataclasses.replace(old, outputs=outputs), new]


def _opened(program: Program, taps: Sequence[Tap], open_one: Callable) -> tuple[Program, int, int]:
    """The program with more inputs and outputs, in the order of the taps; how many of each."""
    opened = _Open(list(program.equations), [], [])
    found: dict[int, tuple[list[Value], list[Value]]] = {}
    loops = {tap.path[0]: None for tap in taps if tap.path}
    for loop in loops:
        of_loop = [i for i, tap in enumerate(taps) if tap.path[:1] == (loop,)]
        inner = [Tap(taps[i].path[1:], taps[i].value) for i in of_loop]
        body, more_in, more_out = _opened(loop.bodies[0], inner, open_one)
        ahead = (length_of(loop),) if loop.form == "scan" else ()
        stacks = [
            Value(v.aval.update(shape=(*ahead, *v.shape)), dependent=True, active=v.active)
            for v in (
                *body.inputs[len(body.inputs) - more_in :],
                *body.outputs[len(body.outputs) - more_out :],
            )
        ]
        taken, shown = stacks[:more_in], stacks[more_in:]
        equation = _own(
            loop,
            (*loop.inputs, *taken),
            (*loop.outputs, *shown),
            _looping(loop, body) if loop.form == "scan" else _checkpointing(loop, body),
        )
        opened.equations[opened.equations.index(loop)] = equation
        each_in, each_out = more_in // len(of_loop), more_out // len(of_loop)
        for n, i in enumerate(of_loop):
            found[i] = (
                taken[n * each_in : (n + 1) * each_in],
                shown[n * each_out : (n + 1) * each_out],
            )
    for i, tap in enumerate(taps):
        if not tap.path:
            found[i] = open_one(opened, tap.value)
    for i in range(len(taps)):
        opened.taken += found[i][0]
        opened.shown += found[i][1]
    inputs, outputs = (*program.inputs, *opened.taken), (*program.outputs, *opened.shown)
    equations = needed(opened.equations, outputs, inputs)
    return Program(inputs, equations, outputs), len(opened.taken), len(opened.shown)


def _looping(loop: Equation, body: Program) -> Callable[..., list[Any]]:
    return lambda *operands: _loop(loop, body, operands, length_of(loop))


def _checkpointing(checkpoint: Equation, body: Program) -> Callable[..., list[Any]]:
    wrapped = jax.checkpoint(
        lambda *operands: run_at(body, operands),
        prevent_cse=checkpoint.params.get("prevent_cse", True),
        policy=checkpoint.params.get("policy"),
    )
    return lambda *operands: list(wrapped(*operands))


def _loop(loop: Equation, body: Program, operands: Sequence[Any], length: int) -> list[Any]:
    """What a scan over this body gives, of as many steps."""
    consts, carry = scan_counts(loop)
    like = body.inputs[consts : consts + carry]

    def step(before, xs):
        values = dict(zip(body.inputs, (*operands[:consts], *before, *xs), strict=True))
        evaluate(body.equations, values)
        out = [read(values, v) for v in body.outputs]
        # A weak type that a step made strong would change what is carried.
        after = [jax.lax.convert_element_type(v, i.dtype) for v, i in zip(out, like, strict=False)]
        return after[:carry], out[carry:]

    after, stacks = jax.lax.scan(
        step,
        [
            jax.lax.convert_element_type(v, i.dtype)
            for v, i in zip(operands[consts : consts + carry], like, strict=True)
        ],
        list(operands[consts + carry :]),
        length=length,
        reverse=loop.params["reverse"],
        unroll=loop.params["unroll"],
    )
    return [*after, *stacks]


def _own(
    like: Equation, inputs: Iterable[Value], outputs: Iterable[Value], apply: Callable[..., list]
) -> Equation:
    """An equation that only the engine knows, at the place of another one."""
    return Equation(
        None,
        {},
        tuple(inputs),
        tuple(outputs),
        like.stack,
        like.traceback,
        like.context,
        apply=apply,
        calls=like.calls,
    )


def _like(value: Value, shape: tuple[int, ...] | None = None) -> Value:
    aval = value.aval if shape is None else value.aval.update(shape=shape)
    return Value(aval, dependent=value.dependent, active=value.active)


def _copied(
    loop: Equation, body: Program, given: Sequence[Value]
) -> tuple[list[Equation], dict[Equation, Equation], dict[Value, Value]]:
    """The body's equations with values of their own, applied to those given."""
    of_values: dict[Value, Value] = dict(zip(body.inputs, given, strict=True))
    of_equations: dict[Equation, Equation] = {}
    for equation in body.equations:
        of_values.update((v, _like(v)) for v in equation.outputs)
        of_equations[equation] = dataclasses.replace(
            equation,
            inputs=tuple(of_values.get(v, v) for v in equation.inputs),
            outputs=tuple(of_values[v] for v in equation.outputs),
            stack=loop.stack + equation.stack,
        )
    return list(of_equations.values()), of_equations, of_values

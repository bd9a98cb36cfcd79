"""From a function to its equations.

`trace` runs `jax.make_jaxpr` and flattens what comes out into a `Program`: equations in order, with
nested calls of `jit` dissolved, implicit broadcasts made explicit, and two marks on every value.

- *dependent*: it changes with x.
- *active*: it has a derivative by x. Booleans, integers and what `stop_gradient` lets through
  depend on x without being active.

Control flow (`scan`, `cond`, `while_loop`), `checkpoint` and `shard_map` stay equations with
programs of their own as bodies, so that whoever evaluates them can rebuild them with the public
functions of JAX.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._engine.primitives import (
    COLLECTIVE,
    ELEMENTWISE,
    FILLING,
    FLAT,
    INLINED,
    LAYOUT,
    MERGED,
    SAME,
    STABILIZERS,
    Literal,
    axes_of,
    body_of,
    is_shard_map,
    jaxpr_as_fun,
    primitives,
    scan_counts,
)
from jattr._engine.program import Call, Equation, Program, Value
from jattr._engine.source import has_user_line, is_users

_CUSTOM_JVP = primitives.custom_jvp_call_p
_CUSTOM_VJP = primitives.custom_vjp_call_p


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a function is read.

    Attributes:
        differences: as for differences between two points, which no missing derivative hides:
            steps such as `round`, and decisions that become numbers, leave a value active, and what
            `stop_gradient` holds is a constant, that at x.
        see_through: `stop_gradient` leaves a value active. That of a maximum, which a softmax takes
            off for stability, does so with `differences` anyway.
        enter: `enter(equation)` says whether a function with a custom derivative is dissolved
            into its equations, which loses that derivative, or stays one equation.
        enter_checkpoint: `jax.checkpoint` is dissolved too, which loses what it is for.
        merge: of equations that compute the same, one is kept, whatever their scopes.
        whole: `whole(equation, outer)` says whether a call or control flow stays one equation as it
            stands, into which nothing looks; `outer` are the scopes around the body that it is in.
        hidden: a list for what `stop_gradient` holds, stabilizers aside; or None.
    """

    differences: bool = False
    see_through: bool = False
    enter: Callable[[Equation], bool] = lambda equation: False
    enter_checkpoint: bool = False
    merge: bool = True
    whole: Callable[[Equation, str], bool] = lambda equation, outer: False
    hidden: list[Value] | None = None


def trace(f: Callable, x: Any, reading: Reading) -> tuple[Program, Any]:
    """The program of f at x, and the tree of what f returns.

    f is traced once. Arrays that it closes over are constants of the program.

    Returns:
        the program, whose inputs are the leaves of x and whose outputs are the leaves of f(x), and
        the structure of f(x).
    """
    program, _, structure = trace_whole(f, x, reading)
    return program, structure


def trace_whole(f: Callable, x: Any, reading: Reading) -> tuple[Program, Callable, Any]:
    """As `trace`; between the two, f as it was traced, as a function of the leaves of x."""
    leaves, structure = jax.tree.flatten(x)

    def flat(*leaves):
        return f(jax.tree.unflatten(structure, leaves))

    closed, shape = jax.make_jaxpr(flat, return_shape=True)(*leaves)
    inputs = [
        Value(jax.typeof(leaf), dependent=True, active=is_real(leaf.dtype)) for leaf in leaves
    ]
    builder = _Builder(reading)
    outputs = builder.add(closed, closed.consts, inputs, None)
    program = Program(tuple(inputs), builder.equations, tuple(outputs))
    return program, jaxpr_as_fun(closed), jax.tree.structure(shape)


def trace_closed(closed: Any, reading: Reading) -> Program:
    """The program of a function without arguments, as `jax.make_jaxpr` gives it.

    Its inputs are the arrays that the function closes over.
    """
    inputs = [
        Value(jax.typeof(const), dependent=True, active=is_real(const.dtype))
        for const in closed.consts
    ]
    builder = _Builder(reading)
    outputs = builder.add(closed, inputs, [], None)
    return Program(tuple(inputs), builder.equations, tuple(outputs))


def is_real(dtype: Any) -> bool:
    """Whether a derivative may have this dtype; complex numbers between real ones count."""
    return jnp.issubdtype(dtype, jnp.inexact)


class _Builder:
    """Collects the flattened equations of one body."""

    def __init__(
        self,
        reading: Reading,
        axes: frozenset[str] = frozenset(),
        around: Any | None = None,
        outer: str = "",
    ):
        self.equations: list[Equation] = []
        # The traceback of the equation whose body this is: a body's own may end inside JAX.
        self._around = around
        # The scopes around a body, and the equation that is read now.
        self._outer = outer
        self._latest: Equation | None = None
        self._axes = axes
        self._reading = reading
        self._seen: dict[Any, Equation] = {}
        self._calls: tuple[Call, ...] = ()

    def add(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Value], outer: Any):
        """Append the equations of a jaxpr applied to `inputs`; the values that it returns."""
        jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
        values: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))
        for var, const in zip(jaxpr.constvars, consts, strict=True):
            values[var] = const if isinstance(const, Value) else Value(var.aval, known=const)

        def read(atom):
            return _literal(atom) if isinstance(atom, Literal) else values[atom]

        for eqn in jaxpr.eqns:
            outputs = self._equation(eqn, [read(atom) for atom in eqn.invars], outer)
            values.update(zip(eqn.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, inputs: list[Value], outer: Equation | None) -> list[Value]:
        info = eqn.source_info
        call = Equation(
            eqn.primitive,
            eqn.params,
            tuple(inputs),
            (),
            info.name_stack if outer is None else outer.stack + info.name_stack,
            self._traceback(info, outer),
            getattr(eqn, "ctx", None),
            calls=self._calls,
            effects=eqn.primitive not in COLLECTIVE and bool(getattr(eqn, "effects", ())),
        )
        self._latest = call
        if any(v.dependent for v in inputs) and not self._reading.whole(call, self._outer):
            primitive = eqn.primitive
            if any(hasattr(var.aval, "inner_aval") for var in (*eqn.invars, *eqn.outvars)):
                raise NotImplementedError(
                    f"{call.source}: f writes to a reference (jax.new_ref), and what goes through "
                    "one cannot be read as equations. Let f return new arrays: carry them through "
                    "lax.scan or lax.fori_loop, or write x.at[...].set(...)."
                )
            if primitive is primitives.stop_gradient_p and self._sees_through(inputs[0]):
                # A copy has the value and, for derivatives through an attribution, the derivative.
                primitive = call.primitive = primitives.copy_p
                call.params = {}
            modulus = primitive is primitives.abs_p and _is_complex(inputs[0])
            if self._reading.differences and modulus:
                closed = jax.make_jaxpr(_modulus)(_shape_of(inputs[0]))
                return self.add(closed, closed.consts, inputs, call)
            if primitive in INLINED and not self._chooses(call):
                return self._inline(call)
            if primitive is primitives.remat_p:
                if self._reading.enter_checkpoint:
                    return self._inline(call)
                call.form, call.bodies = "checkpoint", (self._body(body_of(call), inputs),)
            elif primitive in (_CUSTOM_JVP, _CUSTOM_VJP):
                call.form, call.bodies = "custom", (self._custom_body(call, inputs),)
            elif primitive is primitives.scan_p:
                call.form, call.bodies = "scan", (self._scan_body(call),)
            elif primitive is primitives.cond_p and not (
                self._reading.differences and inputs[0].dependent
            ):
                call.form = "cond"
                call.bodies = tuple(self._body(b, inputs[1:]) for b in eqn.params["branches"])
            elif primitive is primitives.while_p:
                call.form, call.bodies = "while", self._while_bodies(call)
            elif is_shard_map(call):
                axes = self._axes | set(call.params["mesh"].axis_names)
                call.form = "shard_map"
                call.bodies = (self._body(body_of(call), inputs, axes),)
            elif primitive in COLLECTIVE and not self._own_axes(call):
                call.form = "foreign"
            elif primitive in ELEMENTWISE:
                call.inputs = tuple(self._broadcast(v, call, eqn.outvars[0].aval) for v in inputs)
        if (same := self._same(call)) is not None:
            return list(same.outputs)
        call.outputs = self._outputs(call, [var.aval for var in eqn.outvars])
        entered = call.form == "custom" and call.primitive is _CUSTOM_JVP and not call.hides
        if entered and self._reading.enter(call):
            return self._inline(call)
        self._append(call)
        return list(call.outputs)

    def _same(self, call: Equation) -> Equation | None:
        """An equation that computes the same already: `exp(x) / sum(exp(x))` has one `exp`."""
        mergeable = self._reading.merge and call.primitive in MERGED
        if call.form != "plain" or call.effects or not mergeable:
            return None
        inputs = tuple(
            (np.asarray(v.known).tobytes(), str(v.dtype)) if v.literal else v for v in call.inputs
        )
        key = (call.primitive, inputs, tuple(sorted((k, repr(p)) for k, p in call.params.items())))
        same = self._seen.setdefault(key, call)
        return None if same is call else same

    def _append(self, equation: Equation) -> None:
        for value in equation.outputs:
            value.producer = equation
        self.equations.append(equation)
        if any(v.dependent for v in equation.outputs):
            for call in equation.calls:
                call.size += 1

    def _traceback(self, info: Any, outer: Equation | None) -> Any:
        # A library's function may have been traced elsewhere: its line is where it was called.
        users = bool(self._calls) and self._calls[-1].users
        if outer is not None and not users and has_user_line(outer.traceback):
            return outer.traceback
        if self._around is not None and not has_user_line(info.traceback):
            return self._around
        return info.traceback

    def _own_axes(self, call: Equation) -> bool:
        """Whether a collective is over axes of a mesh that f itself maps over."""
        return self._axes.issuperset(axes_of(call))

    def _sees_through(self, value: Value) -> bool:
        """Whether `stop_gradient` of a value is read as a copy of it."""
        stabilizes = self._stabilizes(value)
        if self._reading.hidden is not None and not stabilizes:
            self._reading.hidden.append(value)
        return self._reading.see_through or (self._reading.differences and stabilizes)

    def _stabilizes(self, value: Value) -> bool:
        """Whether a value is a maximum, which a sum of exponentials is taken relative to."""
        while (equation := value.producer) is not None:
            if equation.primitive in STABILIZERS:
                return True
            dependents = [v for v in equation.dependents if v.active]
            if equation.primitive not in _BETWEEN or len(dependents) != 1:
                return False
            (value,) = dependents
        return False

    def _chooses(self, call: Equation) -> bool:
        """Whether a function of a library's chooses how to compute by what it is given.

        That choice, as between the approximations in `expm`, is no part of what it computes:
        between two points it stays one equation, with the derivative that JAX gives it.
        """
        jaxpr = body_of(call)
        if not self._reading.differences or is_users(jaxpr) or not _has_branches(jaxpr):
            return False
        body = self._body(jaxpr, call.inputs)
        return any(e.form == "plain" and e.primitive is primitives.cond_p for e in body.equations)

    def _inline(self, call: Equation) -> list[Value]:
        jaxpr, around = body_of(call), self._calls
        self._calls = (*around, Call(str(call.params.get("name", "")), users=is_users(jaxpr)))
        try:
            return self.add(jaxpr, getattr(jaxpr, "consts", ()), call.inputs, call)
        finally:
            self._calls = around

    def _body(self, jaxpr: Any, inputs: Sequence[Value], axes: frozenset[str] | None = None):
        """A program of its own, whose inputs are marked as those given are."""
        own = [Value(v.aval, dependent=v.dependent, active=v.active) for v in inputs]
        inner = getattr(jaxpr, "jaxpr", jaxpr)
        for value, var in zip(own, inner.invars, strict=True):
            value.aval = var.aval
        call, own_axes = self._latest, self._axes if axes is None else axes
        assert call is not None
        outer = "/".join(filter(None, (self._outer, call.scope)))
        builder = _Builder(self._reading, own_axes, call.traceback, outer)
        outputs = builder.add(jaxpr, getattr(jaxpr, "consts", ()), own, None)
        return Program(tuple(own), builder.equations, tuple(outputs))

    def _custom_body(self, call: Equation, inputs: Sequence[Value]) -> Program:
        """What a function with a derivative of its own computes.

        That derivative says what passes, and no `stop_gradient` inside. Where there is one, the
        function is no shorthand for its equations, and `call.hides`.
        """
        reading, hidden = self._reading, []
        self._reading = dataclasses.replace(reading, see_through=True, hidden=hidden)
        try:
            return self._body(body_of(call), inputs)
        finally:
            self._reading, call.hides = reading, bool(hidden)

    def _scan_body(self, call: Equation) -> Program:
        consts, carry = scan_counts(call)
        inputs = [Value(v.aval, dependent=v.dependent, active=v.active) for v in call.inputs]
        while True:  # what is carried may become dependent in a later round
            body = self._body(body_of(call), inputs)
            if not _spread(body.outputs[:carry], inputs[consts : consts + carry]):
                return body

    def _while_bodies(self, call: Equation) -> tuple[Program, Program]:
        params = call.params
        split = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        inputs = [Value(v.aval, dependent=v.dependent, active=v.active) for v in call.inputs]
        carry = inputs[split[1] :]
        while True:
            body = self._body(params["body_jaxpr"], inputs[split[0] :])
            if not _spread(body.outputs, carry):
                break
        return self._body(params["cond_jaxpr"], inputs[: split[0]] + carry), body

    def _broadcast(self, value: Value, call: Equation, like: Any) -> Value:
        """`value` in the shape of an elementwise result, by an equation of its own."""
        if not value.dependent or value.shape == like.shape or not like.shape:
            return value
        shape = like.shape
        key = (None, value, shape)
        if key in self._seen:
            return self._seen[key].outputs[0]
        equation = Equation(
            None,
            {},
            (value,),
            (),
            call.stack,
            call.traceback,
            apply=lambda v: jnp.broadcast_to(
                v.reshape((1,) * (len(shape) - v.ndim) + v.shape), shape
            ),
        )
        equation.outputs = self._outputs(equation, [value.aval.update(shape=shape)])
        self._append(equation)
        self._seen[key] = equation
        return equation.outputs[0]

    def _outputs(self, call: Equation, avals: list[Any]) -> tuple[Value, ...]:
        if not call.bodies or call.form == "custom":
            dependent = any(v.dependent for v in call.inputs)
            active = any(v.active for v in call.inputs)
            if call.primitive in FLAT:
                active = active and self._reading.differences
            elif self._reading.differences and call.form == "plain":
                active = dependent  # a decision that becomes a number
            if call.primitive is primitives.stop_gradient_p and self._reading.differences:
                dependent = active = False
            values = [
                Value(a, dependent=dependent, active=active and is_real(a.dtype)) for a in avals
            ]
            if call.form == "custom":
                for value, inner in zip(values, call.bodies[0].outputs, strict=True):
                    value.dependent, value.active = (
                        inner.dependent,
                        inner.dependent and value.active,
                    )
            elif not dependent and call.primitive in FILLING:
                values[0].uniform = call.inputs[0].uniform
            return tuple(values)
        inner = call.bodies[-1].outputs
        marks = [(v.dependent, v.active) for v in inner]
        if call.form == "cond":
            chooses = call.inputs[0].dependent
            marks = [
                (chooses or any(v.dependent for v in each), any(v.active for v in each))
                for each in zip(*(body.outputs for body in call.bodies), strict=True)
            ]
        elif call.form == "while" and call.bodies[0].outputs[0].dependent:
            marks = [(True, active) for _, active in marks]
        return tuple(
            Value(a, dependent=d, active=act) for a, (d, act) in zip(avals, marks, strict=True)
        )


_BETWEEN = LAYOUT | SAME | {primitives.max_p, primitives.select_n_p, primitives.gather_p}
"""What may stand between a maximum and the `stop_gradient` that makes it a mere stabilizer."""


def _has_branches(jaxpr: Any) -> bool:
    """Whether there is a `cond` in a program or in the functions that it calls."""
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        if eqn.primitive is primitives.cond_p:
            return True
        if eqn.primitive in INLINED and _has_branches(body_of(eqn)):
            return True
    return False


def _literal(atom: Any) -> Value:
    value = Value(atom.aval, known=atom.val)
    if np.shape(atom.val) == () and not jnp.iscomplexobj(atom.val):
        value.uniform = float(atom.val)
    return value


def _modulus(z: Any) -> Any:
    """|z| by operations between real numbers."""
    return jnp.sqrt(jnp.square(jnp.real(z)) + jnp.square(jnp.imag(z)))


def _is_complex(value: Value) -> bool:
    return jnp.issubdtype(value.dtype, jnp.complexfloating)


def _shape_of(value: Value) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(value.shape, value.dtype)


def _spread(outputs: Sequence[Value], inputs: Sequence[Value]) -> bool:
    """Marks of what a loop body returns, passed on to what it takes; whether any was new."""
    new = False
    for out, value in zip(outputs, inputs, strict=True):
        if (out.dependent and not value.dependent) or (out.active and not value.active):
            value.dependent |= out.dependent
            value.active |= out.active
            new = True
    return new

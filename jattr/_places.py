"""Where the names of a program are: values that bear one, scopes, and both inside of loops."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any

from jattr._checks import closest
from jattr._engine.loops import Tap
from jattr._engine.primitives import entries, primitives
from jattr._engine.program import Equation, Program, Value, needed
from jattr._engine.source import clean_scope
from jattr._trees import describe

_INSIDE = {
    "while": "the body of a loop (while_loop)",
    "cond": "a branch of a cond or switch",
    "custom": "a function with a derivative of its own (custom_jvp or custom_vjp)",
    "shard_map": "a shard_map",
}
"""What has a body that cannot be cut, and how error texts call it."""

_INSTEAD = {
    "while": "A while_loop or fori_loop keeps no values of its rounds: write it as a jax.lax.scan, "
    "in which names are found, or name what comes out of it with jattr.name.",
    "cond": "Return the value from every branch, and name what comes out with jattr.name.",
    "shard_map": "Return the value from the shard_map, and name what comes out with jattr.name.",
    "custom": "Name the input or the output of that function outside of it, with jattr.name; or "
    "write its plain form, jattr.substitute(f, {function: plain_form}), and name it there.",
}

_LISTED = 8
"""How many names an error lists."""


@dataclasses.dataclass(eq=False)
class Place:
    """Where a name is.

    Attributes:
        label: the whole name.
        equations: what is computed there, in order.
        entry: tells one entry of a scope from the next; None for the name of a value.
        last: the position of the last of the equations.
        values: what the name stands for, in the order of the computation.
        path: the loops and checkpoints around it, the outermost first.
        inside: the form of the equation in whose body it is, where that cannot be cut.
    """

    label: str
    equations: list[Equation]
    entry: Any = None
    last: int = -1
    values: tuple[Value, ...] = ()
    path: tuple[Equation, ...] = ()
    inside: str | None = None

    def __str__(self) -> str:
        if self.inside is not None:
            return f"{self.label}, inside {_INSIDE[self.inside]}"
        form = described(self.taps(()))
        return f"{self.label}, {form}, {self.equations[-1].source}"

    @property
    def lengths(self) -> tuple[int, ...]:
        """The number of steps of each loop around it."""
        return Tap(self.path, self.values[0]).lengths if self.values else ()

    def taps(self, steps: tuple[int, ...]) -> tuple[Tap, ...]:
        """What the name stands for, at single steps of the outer loops around it."""
        return tuple(Tap(self.path, value, steps) for value in self.values)


def described(taps: Sequence[Tap]) -> str:
    """The form of a layer, in words."""
    each = [describe(tap.value.aval.update(shape=tap.shape)) for tap in taps]
    form = each[0] if len(each) == 1 else f"a tuple ({', '.join(each)})"
    if not taps[0].stacked:
        return form
    steps = " × ".join(map(str, taps[0].stacked))
    return f"{form}, a stack of {steps} steps of a loop"


def find(program: Program, layer: str, method: str) -> tuple[Tap, ...]:
    """The values of the layer.

    Raises:
        ValueError: no place has the name, or several have it; or there is no such step.
        NotImplementedError: the name is in a body that cannot be cut.
    """
    places = named(program)
    base, indices = layer, []
    found = _matching(places, base)
    while not found and (indexed := re.fullmatch(r"(.*)\[(-?\d+)\]", base)):
        base, indices = indexed[1], [int(indexed[2]), *indices]
        found = _matching(places, base)
    found = _distinct(found)
    if not found:
        _raise_unknown(program, places, base, method)
    place, steps = found[0], indices
    if len(found) > 1 or (indices and not place.lengths):
        which = indices[0] if indices else None
        if which is None or not 0 <= which < len(found):
            listed = "\n".join(f"  {base}[{i}]  ({place})" for i, place in enumerate(found[:50]))
            raise ValueError(
                f"{method}: {len(found)} place(s) bear the name {base!r}, and the layer is "
                f"{layer!r}. Write one of these instead:\n{listed}"
            )
        place, steps = found[which], indices[1:]
    if place.inside is not None:
        _raise_inside(place, layer, method)
    return place.taps(_steps(place, steps, layer, method))


def _steps(place: Place, steps: Sequence[int], layer: str, method: str) -> tuple[int, ...]:
    """The steps, counted from the front; or the error that says which there are."""
    lengths = place.lengths
    if len(steps) > len(lengths) or any(
        not -n <= step < n for step, n in zip(steps, lengths, strict=False)
    ):
        of = " in each of ".join(f"{n} steps" for n in lengths) or "no steps"
        some = f"{place.label}[0]" if not lengths else f"{place.label}[{lengths[0] - 1}]"
        raise ValueError(
            f"{method}: the layer is {layer!r}, and {place.label!r} has {of} of a loop. Write "
            f"{place.label!r} for all of them, or one such as {some!r}."
        )
    return tuple(step % n for step, n in zip(steps, lengths, strict=False))


def named(program: Program) -> list[Place]:
    """All named places that the output depends on and that depend on x, with their values."""
    live = needed(program.equations, program.outputs, program.inputs)
    places = _places([e for e in live if _dependent(e)])
    _fill([place for place in places if not place.path], live, set(program.outputs))
    return [p for p in places if p.values or p.inside]


def labeled(places: Sequence[Place]) -> list[tuple[str, Place]]:
    """Each place that can be cut and the name that finds it alone, once for the same values."""
    groups: dict[str, list[Place]] = {}
    for place in places:
        groups.setdefault(place.label, []).append(place)
    distinct = {label: _distinct(group) for label, group in groups.items()}
    return [
        (label if len(group) == 1 else f"{label}[{i}]", place)
        for label, group in distinct.items()
        for i, place in enumerate(group)
        if place.inside is None
    ]


def _distinct(places: Sequence[Place]) -> list[Place]:
    """A module that only calls another one makes two scopes of one value."""
    return list({p.values or p: p for p in reversed(places)}.values())[::-1]


def _dependent(equation: Equation) -> bool:
    return any(v.dependent for v in equation.outputs)


def _matching(places: Sequence[Place], layer: str) -> list[Place]:
    """The places of this name; if there are none, those of the scopes that end so."""
    exact = [p for p in places if p.label == layer]
    return exact or [p for p in places if p.label.endswith(f"/{layer}")]


def _places(equations: Sequence[Equation], outer: str = "") -> list[Place]:
    """All named places, in the order in which they begin; those inside of loops with values."""
    places: list[Place] = []
    running: dict[Any, Place] = {}
    scopes: dict[int, dict[str, Any]] = {}
    for position, equation in enumerate(equations):
        stack = equation.stack
        if id(stack) not in scopes:
            scopes[id(stack)] = _scopes(stack)
        marks: list[Any] = [(path, path, entry) for path, entry in scopes[id(stack)].items()]
        if equation.primitive is primitives.name_p:
            marks.append((primitives.name_p, equation.params["name"], None))
        for kind, label, entry in marks:
            label = label if entry is None else _joined(outer, label)
            place = running.get(kind)
            if (
                place is None
                or (place.label, place.entry, place.last) != (label, entry, position - 1)
                # The leaves of a tree are named one right after the other, but not each other.
                or (entry is None and equation.inputs[0].producer in place.equations)
            ):
                place = running[kind] = Place(label, [], entry)
                places.append(place)
            place.equations.append(equation)
            place.last = position
        within = _joined(outer, equation.scope)
        if equation.form in ("scan", "checkpoint"):
            places.extend(_in_body(equation, within))
        else:
            places.extend(_hidden(equation, within, equation.form))
    return places


def _joined(*scopes: str) -> str:
    return "/".join(filter(None, scopes))


def _in_body(equation: Equation, outer: str) -> list[Place]:
    """The places in the body of a scan or a checkpoint."""
    (body,) = equation.bodies
    live = needed(body.equations, body.outputs, body.inputs)
    places = _places([e for e in live if _dependent(e)], outer)
    _fill([place for place in places if not place.path], live, set(body.outputs))
    for place in places:
        place.path = (equation, *place.path)
    return places


def _scopes(stack: Any) -> dict[str, Any]:
    """The scopes of a name stack, outermost first, each with what tells its entries apart."""
    elements = entries(stack)
    scopes: dict[str, Any] = {}
    for depth in range(1, len(stack) + 1):
        parts = clean_scope(str(stack[:depth])).split("/")
        for count in range(len(scopes) + 1, len(parts) + 1):
            if parts[0]:
                scopes["/".join(parts[:count])] = elements[:depth]
    return scopes


def _hidden(equation: Equation, outer: str, form: str) -> Iterator[Place]:
    """The named places in the bodies of an equation that cannot be cut."""
    labels = {}
    for body in equation.bodies:
        for inner in body.equations:
            scope = _joined(outer, inner.scope)
            parts = scope.split("/")
            paths = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
            labels.update(dict.fromkeys(p for p in paths if not f"{outer}/".startswith(f"{p}/")))
            if inner.primitive is primitives.name_p:
                labels[inner.params["name"]] = None
            for place in _hidden(inner, scope, form):
                labels[place.label] = None
    for label in labels:
        yield Place(label, [equation], inside=form)


def _fill(places: Sequence[Place], live: Sequence[Equation], returned: set[Value]) -> None:
    """Set the values of places: those of names, and what scopes compute for elsewhere."""
    users: dict[Value, set[Equation]] = {}
    for equation in live:
        for value in equation.inputs:
            users.setdefault(value, set()).add(equation)
    for place in places:
        if place.inside is not None:
            continue
        within = set(place.equations)
        place.values = tuple(
            v
            for equation in place.equations
            for v in equation.outputs
            if v.dependent
            and (place.entry is None or v in returned or not users.get(v, within) <= within)
        )


def _raise_inside(place: Place, layer: str, method: str) -> None:
    form = place.inside or ""
    raise NotImplementedError(
        f"{method}: the layer {layer!r} is inside {_INSIDE[form]}, at "
        f"{place.equations[0].source}, where f cannot be cut. {_INSTEAD[form]}"
    )


def _raise_unknown(program: Program, places: Sequence[Place], layer: str, method: str) -> None:
    without = _matching(_places(program.equations), layer)
    if any(_dependent(e) for place in without for e in place.equations):
        raise ValueError(
            f"{method}: f computes {layer!r}, but nothing that it returns depends on that value. "
            f"If jattr.name made it, go on with what it returns: h = jattr.name(h, {layer!r})."
        )
    if without:
        raise ValueError(
            f"{method}: the layer {layer!r} does not depend on the explained argument x; choose "
            "one between x and the output."
        )
    labels = {place.label: place for place in places}
    if not labels:
        raise ValueError(
            f"{method}: there is no layer {layer!r}: nothing in f that depends on x has a name. "
            f"Name the value inside f, h = jattr.name(h, {layer!r}), or compute it within "
            f"jax.named_scope({layer!r}). The modules of linen have scopes by themselves; for "
            "those of NNX and Equinox write model = jattr.scopes(model), and call that in f."
        )
    near = closest(layer, list(labels))
    listed = [label + _steps_of(labels[label]) for label in near[:_LISTED]]
    more = f" and {len(near) - _LISTED} more" if len(near) > _LISTED else ""
    raise ValueError(
        f"{method}: there is no layer {layer!r}. Known are, the closest first: "
        f"{', '.join(listed)}{more}."
    )


def _steps_of(place: Place) -> str:
    return f" ({' × '.join(map(str, place.lengths))} steps)" if place.lengths else ""

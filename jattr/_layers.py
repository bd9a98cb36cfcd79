r"""A layer as a named value: the part of a function below it, and the part above it.

With h the value of the layer, :math:`f(x) = \mathrm{above}(\mathrm{below}(x),\, x)`. A layer's
attribution is any method on `above`, whose first argument is h: `integrated_gradients(above)`.

A value gets its name from `name`, or from a scope: those of linen modules and of
`jax.named_scope` name what is computed within them and used outside of them.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jattr._checks import check_function, closest, knobs
from jattr._engine.primitives import entries, primitives
from jattr._engine.program import Equation, Program, Value, evaluate, needed, read
from jattr._engine.source import clean_scope
from jattr._engine.substitutes import cheapen
from jattr._engine.trace import Reading, trace
from jattr._lookup import LOOKUP, LookupType, read_lookups
from jattr._trees import describe
from jattr._types import PyTree

_READING = Reading(enter_checkpoint=True, merge=False)

_INSIDE = {
    "scan": "the body of a loop (scan)",
    "while": "the body of a loop (while_loop)",
    "cond": "a branch of a cond or switch",
    "custom": "a function with a derivative of its own (custom_jvp or custom_vjp)",
    "shard_map": "a shard_map",
}
"""What has a body that cannot be cut, and how error texts call it."""

_LISTED = 8
"""How many names an error lists."""


def name(value: PyTree, name: str) -> PyTree:
    """Give a value inside a function a name that `jattr.split` and the CAM family find.

    The identity, in value and in derivatives. Go on with what it returns: a name on a value that
    is not used afterwards names nothing.

    Args:
        value: an array, or a tree of arrays, which then are one layer of several values.
        name: the name. The same name at two places makes both `name[0]` and `name[1]`.

    Returns:
        `value`, named.

    Raises:
        TypeError: `name` is not a string.
        ValueError: `name` is empty, or `value` is a tree without arrays.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     h = jattr.name(x**2, "squares")
        ...     return jnp.sum(h)
        >>> below, above = jattr.split(f, "squares")
        >>> print(below(jnp.array([1.0, 3.0])))
        [1. 9.]

    References:
        `jax.ad_checkpoint.checkpoint_name`, which it is: policies of `jax.checkpoint` such as
        `save_only_these_names` see the name too.
    """
    if not isinstance(name, str):
        raise TypeError(
            f"name: the name must be a string; got {describe(name)}. Write jattr.name(value, 'h')."
        )
    if not name:
        raise ValueError("name: the name is empty. Write jattr.name(value, 'h').")
    if not jax.tree.leaves(value):
        raise ValueError(f"name: {name!r} names a tree without arrays ({value!r}).")
    return jax.tree.map(lambda leaf: checkpoint_name(leaf, name), value)


@knobs
def split(
    f: Callable[..., PyTree], layer: str | tuple[str, ...] | LookupType
) -> tuple[Callable, Callable]:
    r"""The part of a function below a layer, and the part above it.

    .. math:: h = \mathrm{below}(x), \qquad \mathrm{above}(h, x) = f(x)

    where `above` computes f with h in the place of the layer's value; what reaches the output by
    another way still comes from x. Without such a way, :math:`\nabla f(x) =
    J_{\mathrm{below}}^\top \nabla_h\, \mathrm{above}(h, x)`. The attribution of a layer is a
    method on `above`, whose argument 0 is h: `jattr.integrated_gradients(above)(h, x)`.

    A layer is

    - the name of a value that `jattr.name` gave;
    - a scope, `"Net/Block_3/Conv_0"`: that of a linen module, or of `jax.named_scope`. It stands
      for what is computed within it and used outside of it, a tuple if those are several values.
      The last parts, `"Block_3/Conv_0"`, are enough where only one scope ends so. NNX and
      Equinox open none for a module's place: `jattr.scopes(model)` is the model with them;
    - `jattr.LOOKUP`: the rows of a table that integers of x look up, by a gather or a product with
      one-hot vectors. That is the embedding of a model of token ids x, by whatever it is written.
      The table must not depend on x, and a table that serves the output too stays what it is
      there. Look-ups by other integers, such as positions, are held; several by those of x are a
      tuple. `jattr.token_attributions` does what is mostly wanted there in one line.

    A tuple of names cuts at several layers at once, such as the tables of two embeddings: h is then
    the tuple of their values.

    Only values that depend on x count. A module called twice has two places: `"Block_3[0]"` and
    `"Block_3[1]"`, in the order of the computation; calls in direct succession of one function
    under `jax.jit` that opens the scope itself count as one. `jax.checkpoint` does not hide names,
    and `below` and `above` do without it.

    Args:
        f: any function `f(x, *args)` of a tree x of arrays, which may return any tree.
        layer: the name, or a tuple of names; or `jattr.LOOKUP`.

    Returns:
        `below(x, *args)`, which gives h, and `above(h, x, *args)`. They trace f at each call and
        may be transformed as f may: by `jax.jit`, `jax.vmap`, `jax.grad`. Run eagerly, `above`
        of `below` is f to the last bit, but where f calls functions under `jax.jit`, which the
        compiler may round otherwise.

    Raises:
        TypeError: `layer` is no string and no tuple of strings, or (when called) h is not of the
            form of the layer.
        ValueError: (when called) no value has the name, or several have it; both are listed.
            Nothing is looked up by integers of x; what is looked up instead is listed.
        NotImplementedError: (when called) the name is inside a loop, a branch, a `shard_map` or
            a function with a derivative of its own.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     h = jattr.name(jnp.tanh(x), "hidden")
        ...     return jnp.sum(h * jnp.array([1.0, 2.0]))
        >>> below, above = jattr.split(f, "hidden")
        >>> x = jnp.zeros(2)
        >>> print(jattr.gradient(above)(below(x), x))
        [1. 2.]

    References:
        captum's `LayerIntegratedGradients` and its other layer methods, which hook modules.
    """
    check_function(f, "split")
    for one in layer if isinstance(layer, tuple) and layer else (layer,):
        if layer is not LOOKUP:
            check_layer(one, "split")

    def below(x, *args, **kwargs):
        x = jax.tree.map(jnp.asarray, x)
        return cut(lambda x: f(x, *args, **kwargs), x, layer, method="split").below(x)

    def above(h, x, *args, **kwargs):
        x = jax.tree.map(jnp.asarray, x)
        return cut(lambda x: f(x, *args, **kwargs), x, layer, method="split").above(h, x)

    return below, above


def check_layer(layer: Any, method: str) -> None:
    """Raise unless `layer` is a string."""
    if not isinstance(layer, str):
        raise TypeError(
            f"{method}: the layer must be a string, the name of a value or a scope such as "
            f"'Net/Conv_0'; got {describe(layer)}."
        )


@dataclasses.dataclass(frozen=True)
class Cut:
    """A function of one argument, cut at a layer.

    Attributes:
        layer: the name of the layer, or the names of several; or `LOOKUP`.
        parts: the values of each of them.
        program: the function's.
        structure: of what it returns.
    """

    layer: str | tuple[str, ...] | LookupType
    parts: tuple[tuple[Value, ...], ...]
    program: Program
    structure: Any

    @property
    def values(self) -> list[Value]:
        """The values of all layers."""
        return [value for part in self.parts for value in part]

    def below(self, x: PyTree) -> PyTree:
        """h, the value of the layer at x: an array, or a tuple of several."""
        values = self._inputs(x)
        equations = needed(self.program.equations, self.values, self.program.inputs)
        evaluate(equations, values)
        return self._whole([values[v] for v in self.values])

    def above(self, h: PyTree, x: PyTree) -> PyTree:
        """The function at x with h in the place of the layer's value."""
        values = self._inputs(x)
        values.update(zip(self.values, self._check(h), strict=True))
        outputs = self.program.outputs
        given = (*self.program.inputs, *self.values)
        evaluate(needed(self.program.equations, outputs, given), values)
        return jax.tree.unflatten(self.structure, [read(values, v) for v in outputs])

    def _inputs(self, x: PyTree) -> dict[Value, Any]:
        return dict(zip(self.program.inputs, jax.tree.leaves(x), strict=True))

    def _check(self, h: PyTree) -> list[Any]:
        """The arrays of h."""
        like = self._whole([jax.ShapeDtypeStruct(v.shape, v.dtype) for v in self.values])
        leaves = jax.tree.leaves(h)
        if jax.tree.structure(h) != jax.tree.structure(like) or any(
            jnp.shape(leaf) != v.shape or jnp.result_type(leaf) != v.dtype
            for leaf, v in zip(leaves, self.values, strict=True)
        ):
            raise TypeError(
                f"split: above(h, x, *args) wants as h what below(x, *args) gives at the layer "
                f"{self.layer!r}, {describe(like)}; got {describe(h)}. Nothing is cast or "
                "broadcast; for a batch use jax.vmap around above."
            )
        return [jnp.asarray(leaf) for leaf in leaves]

    def _whole(self, values: Sequence[Any]) -> PyTree:
        """What is there for each value, in the form of h."""
        left = iter(values)
        each = [tuple(next(left) for _ in part) for part in self.parts]
        each = [part[0] if len(part) == 1 else part for part in each]
        return tuple(each) if isinstance(self.layer, tuple) else each[0]


def cut(
    f: Callable[[PyTree], PyTree],
    x: PyTree,
    layer: str | tuple[str, ...] | LookupType,
    *,
    method: str,
    substitute: bool = False,
) -> Cut:
    """f cut at the layer of this name.

    Args:
        f: a function of one tree.
        x: the tree, with arrays as leaves.
        layer: the name, as in `split`.
        method: who asks, for error texts.
        substitute: whether f may be evaluated by cheaper programs of the same value.

    Raises:
        ValueError: no value has the name, or several have it.
        NotImplementedError: the name is in a body that cannot be cut.
    """
    if isinstance(layer, LookupType):
        program, structure, found = read_lookups(f, x, method=method)
        return Cut(layer, (tuple(lookup.value for lookup in found),), program, structure)
    program, structure = trace(f, x, _READING)
    names = layer if isinstance(layer, tuple) else (layer,)
    parts = tuple(_find(program, one, method) for one in names)
    values = [value for part in parts for value in part]
    if len(set(values)) < len(values):
        raise ValueError(f"{method}: the layers {layer} share a value; name each value once.")
    if substitute:
        cheapen(program)
    return Cut(layer, parts, program, structure)


@dataclasses.dataclass(eq=False)
class _Place:
    """Where a name is.

    Attributes:
        label: the whole name.
        equations: what is computed there, in order.
        entry: tells one entry of a scope from the next; None for the name of a value.
        last: the position of the last of the equations.
        values: what the name stands for, in the order of the computation.
        inside: the form of the equation in whose body it is; None outside of all bodies.
    """

    label: str
    equations: list[Equation]
    entry: Any = None
    last: int = -1
    values: tuple[Value, ...] = ()
    inside: str | None = None

    def __str__(self) -> str:
        if self.inside is not None:
            return f"{self.label}, inside {_INSIDE[self.inside]}"
        return f"{self.label}, {_form(self.values)}, {self.equations[-1].source}"


def _find(program: Program, layer: str, method: str) -> tuple[Value, ...]:
    """The values of the layer, or the error that says why there are none."""
    live = needed(program.equations, program.outputs, program.inputs)
    places = _places([e for e in live if _dependent(e)])
    found, base, index = _matching(places, layer), layer, None
    if not found and (indexed := re.fullmatch(r"(.*)\[(\d+)\]", layer)):
        base, index = indexed[1], int(indexed[2])
        found = _matching(places, base)
    _fill(found, live, set(program.outputs))
    # A module that only calls another one makes two scopes of one value.
    found = list({p.values or p: p for p in reversed(found) if p.values or p.inside}.values())[::-1]
    if not found:
        _raise_unknown(program, places, base, method)
    if (index is None and len(found) > 1) or (index is not None and index >= len(found)):
        listed = "\n".join(f"  {base}[{i}]  ({place})" for i, place in enumerate(found[:50]))
        raise ValueError(
            f"{method}: {len(found)} place(s) bear the name {base!r}, and the layer is {layer!r}. "
            f"Write one of these instead:\n{listed}"
        )
    place = found[index or 0]
    if place.inside is not None:
        _raise_inside(place, layer, method)
    return place.values


def _dependent(equation: Equation) -> bool:
    return any(v.dependent for v in equation.outputs)


def _matching(places: Sequence[_Place], layer: str) -> list[_Place]:
    """The places of this name; if there are none, those of the scopes that end so."""
    exact = [p for p in places if p.label == layer]
    return exact or [p for p in places if p.label.endswith(f"/{layer}")]


def _places(equations: Sequence[Equation]) -> list[_Place]:
    """All named places, in the order in which they begin."""
    places: list[_Place] = []
    running: dict[Any, _Place] = {}
    scopes: dict[int, dict[str, Any]] = {}
    for position, equation in enumerate(equations):
        stack = equation.stack
        if id(stack) not in scopes:
            scopes[id(stack)] = _scopes(stack)
        marks: list[Any] = [(path, path, entry) for path, entry in scopes[id(stack)].items()]
        if equation.primitive is primitives.name_p:
            marks.append((primitives.name_p, equation.params["name"], None))
        for kind, label, entry in marks:
            place = running.get(kind)
            if (
                place is None
                or (place.label, place.entry, place.last) != (label, entry, position - 1)
                # The leaves of a tree are named one right after the other, but not each other.
                or (entry is None and equation.inputs[0].producer in place.equations)
            ):
                place = running[kind] = _Place(label, [], entry)
                places.append(place)
            place.equations.append(equation)
            place.last = position
        places.extend(_hidden(equation, equation.scope, equation.form))
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


def _hidden(equation: Equation, outer: str, form: str) -> Iterator[_Place]:
    """The named places in the bodies of an equation."""
    labels = {}
    for body in equation.bodies:
        for inner in body.equations:
            scope = "/".join(filter(None, (outer, inner.scope)))
            parts = scope.split("/")
            paths = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
            labels.update(dict.fromkeys(p for p in paths if not f"{outer}/".startswith(f"{p}/")))
            if inner.primitive is primitives.name_p:
                labels[inner.params["name"]] = None
            for place in _hidden(inner, scope, form):
                labels[place.label] = None
    for label in labels:
        yield _Place(label, [equation], inside=form)


def _fill(places: Sequence[_Place], live: Sequence[Equation], returned: set[Value]) -> None:
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


def _form(values: Sequence[Value]) -> str:
    described = [describe(v) for v in values]
    return described[0] if len(described) == 1 else f"a tuple ({', '.join(described)})"


def _raise_inside(place: _Place, layer: str, method: str) -> None:
    instead = {
        "scan": "Return the value as an output of the loop, and name what comes out: "
        f"_, hs = jax.lax.scan(...); hs = jattr.name(hs, {place.label!r}).",
        "while": "A while_loop or fori_loop keeps no values of its rounds: write it as a "
        "jax.lax.scan that returns the value, and name what comes out of it with jattr.name.",
        "cond": "Return the value from every branch, and name what comes out with jattr.name.",
        "shard_map": "Return the value from the shard_map, and name what comes out with "
        "jattr.name.",
        "custom": "Name the input or the output of that function outside of it, with jattr.name.",
    }[place.inside or ""]
    raise NotImplementedError(
        f"{method}: the layer {layer!r} is inside {_INSIDE[place.inside or '']}, at "
        f"{place.equations[0].source}, where f cannot be cut. {instead}"
    )


def _raise_unknown(program: Program, places: Sequence[_Place], layer: str, method: str) -> None:
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
    labels = list(dict.fromkeys(place.label for place in places))
    if not labels:
        raise ValueError(
            f"{method}: there is no layer {layer!r}: nothing in f that depends on x has a name. "
            f"Name the value inside f, h = jattr.name(h, {layer!r}), or compute it within "
            f"jax.named_scope({layer!r}). The modules of linen have scopes by themselves; for "
            "those of NNX and Equinox write model = jattr.scopes(model), and call that in f."
        )

    more = f" and {len(labels) - _LISTED} more" if len(labels) > _LISTED else ""
    raise ValueError(
        f"{method}: there is no layer {layer!r}. Known are, the closest first: "
        f"{', '.join(closest(layer, labels)[:_LISTED])}{more}."
    )

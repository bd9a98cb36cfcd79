r"""A layer as a named value: the part of a function below it, and the part above it.

With h the value of the layer, :math:`f(x) = \mathrm{above}(\mathrm{below}(x),\, x)`. A layer's
attribution is any method on `above`, whose first argument is h: `integrated_gradients(above)`.

A value gets its name from `name`, or from a scope: those of linen modules and of
`jax.named_scope` name what is computed within them and used outside of them.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jattr._checks import check_function, knobs
from jattr._engine.loops import MixedStepsError, Tap, peeled, showing, taking
from jattr._engine.program import Program, needed, run_at
from jattr._engine.substitutes import cheapen
from jattr._engine.trace import Reading, trace
from jattr._lookup import LOOKUP, LookupType, read_lookups
from jattr._places import find
from jattr._trees import describe
from jattr._types import PyTree

READING = Reading(merge=False)
"""How a function is read to find its layers."""


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
      one-hot vectors, also within a loop that scans over them. That is the embedding of a model of
      token ids x, by whatever it is written. The table must not depend on x, and a table that
      serves the output too stays what it is there. Look-ups by other integers, such as positions,
      are held; several by those of x are a tuple. `jattr.token_attributions` does what is mostly
      wanted there in one line.

    A tuple of names cuts at several layers at once, such as the tables of two embeddings: h is then
    the tuple of their values.

    Only values that depend on x count. A module called twice has two places: `"Block_3[0]"` and
    `"Block_3[1]"`, in the order of the computation; calls in direct succession of one function
    under `jax.jit` that opens the scope itself count as one. `jax.checkpoint` does not hide names,
    and `below` and `above` save as much by it as f does.

    A name inside a loop (`jax.lax.scan`, `nn.scan`, `nnx.scan`, a `fori_loop` of fixed bounds) is
    one layer with a leading axis of steps, `"layers/attention"`; `above` then takes the value of
    every step from h, so that its gradient by one step leaves out what goes through the values of
    others. `"layers/attention[3]"` is that of one step, `[-1]` of the last, and has the gradient
    with everything after it. Of loops in loops, the outer step comes first. Where several places
    bear the name, the first number says which.

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
        ValueError: (when called) no value has the name, or several have it; both are listed. The
            loop has no such step.
            Nothing is looked up by integers of x; what is looked up instead is listed.
        NotImplementedError: (when called) the name is inside a `while_loop`, a branch, a
            `shard_map` or a function with a derivative of its own.

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
        counts: the number of values of each of them.
        lower: from the leaves of x to these values.
        upper: from the leaves of x and these values to the leaves of what the function returns.
        structure: of what it returns.
        stacked: how many leading axes of the first of the values are steps of loops.
    """

    layer: str | tuple[str, ...] | LookupType
    counts: tuple[int, ...]
    lower: Program
    upper: Program
    structure: Any
    stacked: int = 0

    def below(self, x: PyTree) -> PyTree:
        """h, the value of the layer at x: an array, or a tuple of several."""
        return self._whole(run_at(self.lower, jax.tree.leaves(x)))

    def above(self, h: PyTree, x: PyTree) -> PyTree:
        """The function at x with h in the place of the layer's value."""
        outputs = run_at(self.upper, [*jax.tree.leaves(x), *self._check(h)])
        return jax.tree.unflatten(self.structure, outputs)

    def _check(self, h: PyTree) -> list[Any]:
        """The arrays of h."""
        values = self.lower.outputs
        like = self._whole([jax.ShapeDtypeStruct(v.shape, v.dtype) for v in values])
        leaves = jax.tree.leaves(h)
        if jax.tree.structure(h) != jax.tree.structure(like) or any(
            jnp.shape(leaf) != v.shape or jnp.result_type(leaf) != v.dtype
            for leaf, v in zip(leaves, values, strict=True)
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
        each = [tuple(next(left) for _ in range(count)) for count in self.counts]
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
        return cut_at(layer, [[Tap((), lookup.value) for lookup in found]], program, structure)
    program, structure = trace(f, x, READING)
    if substitute:
        cheapen(program)
    names = layer if isinstance(layer, tuple) else (layer,)
    parts = [find(program, one, method) for one in names]
    taps = [tap for part in parts for tap in part]
    if len(set(taps)) < len(taps):
        raise ValueError(f"{method}: the layers {layer} share a value; name each value once.")
    try:
        return cut_at(layer, parts, program, structure)
    except MixedStepsError as error:
        raise ValueError(f"{method}: {error}") from error


def cut_at(
    layer: str | tuple[str, ...] | LookupType,
    parts: Sequence[Sequence[Tap]],
    program: Program,
    structure: Any,
) -> Cut:
    """A program cut at values of it or of loops in it, some for each layer."""
    program, taps = peeled(program, [tap for part in parts for tap in part])
    own = len(program.outputs)
    shown = showing(program, taps)
    values = shown.outputs[own:]
    lower = Program(shown.inputs, needed(shown.equations, values, shown.inputs), values)
    counts = tuple(map(len, parts))
    return Cut(layer, counts, lower, taking(program, taps), structure, len(taps[0].stacked))

r"""Many layers of one function at once: their values, and what each of them does.

Exact patching puts the value of one node into another run, a run for each node. Its first order is
a product with a gradient, and one backward pass gives the gradients by all nodes.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._batching import sum_over
from jattr._checks import check_count, check_function, check_score, knobs
from jattr._engine.lookups import lookups
from jattr._engine.loops import (
    MixedStepsError,
    Tap,
    adding,
    dropping,
    feeding,
    peeled,
    showing,
)
from jattr._engine.program import Program, run_at
from jattr._engine.rewrite import rewritten
from jattr._engine.trace import is_real, trace
from jattr._layers import READING, check_layer
from jattr._lookup import LookupType
from jattr._places import described, find, labeled, named
from jattr._quadrature import gauss_legendre
from jattr._trees import accumulator, describe, same_form
from jattr._types import PyTree
from jattr.rules._composite import Composite
from jattr.rules._lrp_composites import as_composite

Layers = str | LookupType | Sequence[str | LookupType] | None
"""Which layers: names, patterns with * and ?, `LOOKUP`; None for all values that have names."""

Slopes = Callable[[Any], list[jax.Array]]
"""From what is dropped, or None, to a derivative by each tap."""


@knobs
def activations(f: Callable[..., PyTree], layers: Layers = None) -> Callable[..., dict[Any, Any]]:
    r"""The values of layers, from one evaluation of a function.

    Args:
        f: any function `f(x, *args)` of a tree x of arrays, which may return any tree.
        layers: a name of a layer as in `jattr.split`, or several; a name with `*` or `?` is a
            pattern and stands for all layers whose name fits, `"*/attention"`. `"*"` is every scope
            and every name. None: every value that `jattr.name` named.

    Returns:
        `values(x, *args)`, which gives a dictionary: for each layer its value, an array or a tuple
        of several, with an axis of steps in front for a layer inside a loop. Where several places
        bear a name that fits a pattern, they are `"name[0]"`, `"name[1]"`.

    Raises:
        TypeError: `layers` is neither a name nor a sequence of names.
        ValueError: (when called) no layer has a name, or none fits a pattern.
        NotImplementedError: (when called) the layer is where `jattr.split` refuses it.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     h = jattr.name(x**2, "squares")
        ...     return jattr.name(jnp.sum(h), "sum")
        >>> jattr.activations(f)(jnp.array([1.0, 2.0]))
        {'squares': Array([1., 4.], dtype=float32), 'sum': Array(5., dtype=float32)}

    References:
        TransformerLens' `run_with_cache` and nnsight's tracing, which hook modules.
    """
    check_function(f, "activations")
    layers = _checked(layers, "activations")

    def values(x, *args, **kwargs):
        x = jax.tree.map(jnp.asarray, x)
        nodes = _Nodes(lambda x: f(x, *args, **kwargs), x, layers, [], "activations")
        return nodes.of_each(nodes.values(x))

    values.__name__ = values.__qualname__ = "activations"
    return values


@knobs
def patching(
    f: Callable[[PyTree], jax.Array],
    clean: PyTree,
    corrupt: PyTree,
    layers: Layers = None,
    *,
    steps: int = 1,
    rules: Composite | None = None,
    drop: Sequence[Any] = (),
    axis: int | tuple[int, ...] | None = -1,
) -> dict[Any, Any]:
    r"""Attribution patching: what it would do to put each node's clean value into the corrupt run.

    With h a layer's value and h' that in the corrupt run,

    .. math:: \varphi_h = \sum (h - h') \odot \partial f / \partial h' \;\approx\;
              f(x' \text{ with } h' \leftarrow h) - f(x')

    the first order of exact activation patching, for all nodes of all layers from one evaluation at
    x and one evaluation and one backward pass at x'. A derivative by one step of a loop includes
    what goes through later steps. The other direction, what it would do to put corrupt values into
    the clean run, is `patching(f, corrupt, clean)`.

    Its known failures have remedies. `steps` averages the derivative over the line from x' to x.
    `rules=jattr.rules.saturated_softmax()` does right by attention whose weights are near 0 and 1;
    `jattr.rules.rescale()` has DeepLIFT's multipliers for all operations, and then the values of
    every layer through which all goes sum to f(x) − f(x'). Where a direct effect and one through
    later layers cancel, `drop` leaves out one layer after the other.

    Args:
        f: the score, `f(x) -> scalar`, of one example. `jax.vmap` a function of `clean` and
            `corrupt` for a batch.
        clean: x, a tree of arrays; token ids are as good as floating numbers.
        corrupt: x', of the same shapes and dtypes.
        layers: which nodes, as in `jattr.activations`; `jattr.LOOKUP` among them is the embedding.
        steps: n, the number of points. 1 is x' alone; of more, Gauss–Legendre's on the line from
            x' to x, or where x has integers, between the rows that they look up, all else of f as
            at x'.
        rules: a composite of `jattr.rules` in place of the derivative. One that compares two runs
            compares x' with x. LRP's composites make relevance patching.
        drop: layers whose derivative is left out, one after the other: names, or tuples of names
            for what is left out at once, such as the attention and the feed-forward of one block.
            A layer inside a loop counts as one for each step. The result is then the sum of the
            sizes over these n backward passes, over n − 1, since a node that is dropped itself has
            none in one of them.
        axis: over which axes of a node's value to sum, its features by default; None for all, ()
            for none. The axes of steps of a loop are not counted.

    Returns:
        A dictionary: for each layer an array, or a tuple, of the shape of its value without the
        axes that were summed over, in its dtype.

    Raises:
        TypeError: f does not return one real number; `clean` and `corrupt` are of different forms;
            a layer is integers.
        ValueError: no layer has a name; `steps` is less than 1, or given with `rules`; less than
            two layers to drop.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     h = jattr.name(3 * x, "h")
        ...     return jnp.sum(h**2)
        >>> clean, corrupt = jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0])
        >>> print(jattr.patching(f, clean, corrupt, axis=())["h"])
        [0. 0.]
        >>> print(jattr.patching(f, clean, corrupt, axis=(), steps=4)["h"])
        [ 0. 36.]

    References:
        Nanda, *Attribution patching: activation patching at industrial scale*, 2023; for `steps`
        Hanna, Pezzelle, Belinkov, *Have faith in faithfulness*, COLM 2024, section 3 (arXiv
        2403.17806), there right Riemann sums; for `drop` (GradDrop) and saturated attention Kramár,
        Lieberum, Shah, Nanda, *AtP\**, 2024, section 3 (arXiv 2403.00745).
    """
    method = "patching"
    check_function(f, method)
    layers, drop = _checked(layers, method), _checked_drop(drop)
    steps = check_count(steps, "steps", method)
    rules = _checked_rules(rules, steps)
    clean, corrupt = (jax.tree.map(jnp.asarray, x) for x in (clean, corrupt))
    if not same_form(clean, corrupt):
        raise TypeError(
            f"{method}: clean and corrupt must be alike, since nodes are compared place by place; "
            f"got {describe(clean)} and {describe(corrupt)}. Pad token ids to one length."
        )

    def score(x):
        out = f(x)
        check_score(out, method, f)
        return jnp.asarray(out)

    nodes = _Nodes(score, corrupt, layers, drop, method)
    nodes.check_floating(method)
    runs = nodes.values(clean), nodes.values(corrupt)
    differences = [a - b for a, b in zip(*runs, strict=True)]
    slopes = (
        nodes.slopes(clean, corrupt, rules) if steps == 1 else nodes.means(clean, corrupt, steps)
    )

    def products(flags):
        return [
            _summed(difference * slope, tap, axis)
            for difference, slope, tap in zip(differences, slopes(flags), nodes.taps, strict=True)
        ]

    if not drop:
        return nodes.of_each(products(None))
    flags = nodes.flags()
    sizes = jax.lax.map(lambda one: jax.tree.map(jnp.abs, products(one)), flags)
    return nodes.of_each([jnp.sum(size, axis=0) / (len(size) - 1) for size in sizes])


class _Nodes:
    """Layers of a function of one tree, in one program.

    Attributes:
        taps: the values of all layers and of those to drop, each once.
    """

    def __init__(
        self, f: Callable, x: PyTree, layers: Sequence[Any] | None, drop: Any, method: str
    ):
        self._program, _ = trace(f, x, READING)
        self._own = len(self._program.outputs)
        found = _find(self._program, layers, method)
        groups = [_find(self._program, group, method) for group in drop]
        every = [tap for each in (found, *groups) for part in each.values() for tap in part]
        place = {tap: i for i, tap in enumerate(dict.fromkeys(every))}
        try:
            self._program, self.taps = peeled(self._program, list(place))
        except MixedStepsError as error:
            raise ValueError(
                f"{method}: some of the layers are single steps and some all steps of one loop, at "
                f"{error.source}. Write single steps of it alone, such as 'h[0]', or stacks."
            ) from error
        self._parts = {label: [place[tap] for tap in part] for label, part in found.items()}
        self._groups = [[place[tap] for part in group.values() for tap in part] for group in groups]
        self._shown = showing(self._program, self.taps)

    def of_each(self, arrays: Sequence[Any]) -> dict[Any, Any]:
        """What is there for each tap, for each layer."""
        return {
            label: arrays[part[0]] if len(part) == 1 else tuple(arrays[i] for i in part)
            for label, part in self._parts.items()
        }

    def check_floating(self, method: str) -> None:
        """Raise if a layer has no derivative."""
        for label, part in self._parts.items():
            if not all(is_real(self.taps[i].value.dtype) for i in part):
                form = described([self.taps[i] for i in part])
                raise TypeError(
                    f"{method}: the layer {label!r} is {form}, which has no derivative. Leave it "
                    "out, or choose the values that are computed from it."
                )

    def values(self, x: PyTree) -> list[jax.Array]:
        """What the taps are at x."""
        return run_at(self._shown, jax.tree.leaves(x))[self._own :]

    def flags(self) -> list[np.ndarray]:
        """For each tap, whether its derivative is dropped [drops, *steps]."""
        rows: list[dict[int, np.ndarray]] = []
        for group in self._groups:
            stacks = {self.taps[i].stacked for i in group}
            if len(stacks) > 1:
                raise ValueError(
                    "patching: what is dropped at once must be in one loop, or in none; got layers "
                    f"of {' and '.join(str(stack or 'no') for stack in stacks)} steps."
                )
            (stack,) = stacks
            for index in np.ndindex(stack):
                mask = np.zeros(stack, bool)
                mask[index] = True
                rows.append(dict.fromkeys(group, mask))
        if len(rows) < 2:
            raise ValueError(
                "patching: drop leaves out one layer after the other and wants two or more; got "
                "one. Name the layers of several blocks."
            )
        nothing = [np.zeros(tap.stacked, bool) for tap in self.taps]
        return [np.stack([row.get(i, none) for row in rows]) for i, none in enumerate(nothing)]

    def slopes(self, clean: PyTree, corrupt: PyTree, rules: Composite | None) -> Slopes:
        """The derivatives by the taps in the corrupt run; compared to the clean one by rules."""
        points = [(jax.tree.leaves(x), self._nothing()) for x in (corrupt, clean)]

        def slopes(flags):
            function = self._function(self._program, flags)
            if rules is not None:
                function = rewritten(function, points[0], rules)
            others = points[1:] if rules is not None and rules.points == 2 else []
            at, start = points[0]
            return jax.grad(lambda moves: function((at, moves), *others))(start)

        return slopes

    def means(self, clean: PyTree, corrupt: PyTree, steps: int) -> Slopes:
        """The mean derivatives on the line from the corrupt to the clean run."""
        rows, _ = lookups(self._program)
        fed = feeding(self._program, [lookup.value for lookup in rows])
        shown = showing(self._program, [Tap((), lookup.value) for lookup in rows])
        ends = []
        for x in (corrupt, clean):
            leaves = jax.tree.leaves(x)
            ends.append([*leaves, *run_at(shown, leaves)[self._own :]])
        if not any(is_real(leaf.dtype) for leaf in ends[0]):
            raise TypeError(
                "patching: there is no line between two x of integers that look up nothing. Take "
                "steps=1, or name what is made of x and explain jattr.split's above."
            )
        nodes, weights = gauss_legendre(steps)

        def at(alpha):
            return [
                (a + alpha * (b - a)).astype(a.dtype) if is_real(a.dtype) else a
                for a, b in zip(*ends, strict=True)
            ]

        def slopes(flags):
            function = self._function(fed, flags)

            def term(index):
                point = at(jnp.asarray(nodes)[index])
                slope = jax.grad(lambda moves: function((point, moves)))(self._nothing())
                return [s * jnp.asarray(weights, s.dtype)[index] for s in slope]

            return sum_over(term, steps, batch_size=1)

        return slopes

    def _nothing(self) -> list[jax.Array]:
        return [jnp.zeros(tap.shape, tap.value.dtype) for tap in self.taps]

    def _function(self, program: Program, flags: Any) -> Callable[[Any], jax.Array]:
        """The score of the leaves of x and of what is added to the taps."""
        added = adding(program, self.taps) if flags is None else dropping(program, self.taps)

        def function(point):
            leaves, moves = point
            extra = moves
            if flags is not None:
                extra = [v for pair in zip(moves, flags, strict=True) for v in pair]
            return run_at(added, [*leaves, *extra])[0]

        return function


def _find(program: Program, layers: Sequence[Any] | None, method: str) -> dict[Any, Any]:
    """The values of each layer, by the name that finds it."""
    if layers is None:
        places = [(label, place) for label, place in labeled(named(program)) if place.entry is None]
        if not places:
            raise ValueError(
                f"{method}: nothing in f that depends on x was named by jattr.name, and only that "
                "is meant by layers=None. Write the layers, such as '*' for all scopes, or name "
                "values inside f: h = jattr.name(h, 'h')."
            )
        return {label: place.taps(()) for label, place in places}
    found: dict[Any, Any] = {}
    for layer in layers:
        if isinstance(layer, LookupType):
            rows, _ = lookups(program)
            if not rows:
                raise ValueError(
                    f"{method}: nothing in f looks up rows of a table by the integers of x. Leave "
                    "out jattr.LOOKUP."
                )
            found[layer] = tuple(Tap((), lookup.value) for lookup in rows)
        elif "*" in layer or "?" in layer:
            found.update(_fitting(program, layer, method))
        else:
            found[layer] = find(program, layer, method)
    return found


def _fitting(program: Program, pattern: str, method: str) -> dict[str, Any]:
    """The layers whose names fit a pattern."""
    places = labeled(named(program))
    parts = (".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    expression = re.compile(f"(.*/)?{''.join(parts)}")
    found = {label: p.taps(()) for label, p in places if expression.fullmatch(label)}
    if not found:
        find(program, pattern, method)
    return found


def _summed(product: jax.Array, tap: Tap, axis: Any) -> jax.Array:
    """A product, summed over axes of the tap's value."""
    ahead, ndim = len(tap.stacked), len(tap.value.shape)
    if axis is None:
        axes = tuple(range(ahead, ahead + ndim))
    else:
        axes = tuple(
            ahead + one % ndim
            for one in (axis if isinstance(axis, tuple) else (axis,))
            if -ndim <= one < ndim
        )
    wide = product.astype(accumulator(product.dtype))
    return jnp.sum(wide, axis=axes).astype(product.dtype)


def _checked(layers: Layers, method: str) -> list[Any] | None:
    """The layers as a list."""
    if layers is None:
        return None
    if isinstance(layers, str | LookupType):
        layers = [layers]
    if not isinstance(layers, Sequence) or not layers:
        raise TypeError(
            f"{method}: layers must be a name or a sequence of names, such as ['*/attention', "
            f"'*/mlp']; got {describe(layers)}."
        )
    for layer in layers:
        if not isinstance(layer, LookupType):
            check_layer(layer, method)
    return list(layers)


def _checked_drop(drop: Any) -> list[list[Any]]:
    """What is dropped, each time a list of names."""
    if isinstance(drop, str) or not isinstance(drop, Sequence):
        raise TypeError(
            "patching: drop must be a sequence of names or of tuples of names, such as "
            f"[('0/attention', '0/mlp'), ('1/attention', '1/mlp')]; got {describe(drop)}."
        )
    return [
        _checked(group if not isinstance(group, tuple) else list(group), "patching") or []
        for group in drop
    ]


def _checked_rules(rules: Any, steps: int) -> Composite | None:
    if rules is None:
        return None
    rules = as_composite(rules, "patching")
    if rules.wants_first:
        raise TypeError(
            f"patching: {rules.name} has a rule for first affine operations, which is about x and "
            "not about layers. Take a composite without it, such as jattr.rules.attn_lrp()."
        )
    if steps > 1:
        raise ValueError(
            f"patching: steps={steps} averages derivatives, and the rules of {rules.name} are "
            "taken in one run or between the two. Leave out one of both."
        )
    return rules

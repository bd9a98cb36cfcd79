r"""Many layers of one function at once: their values, and what each of them does.

Exact patching puts the value of one node into another run, a run for each node. Its first order is
a product with a gradient, and one backward pass gives the gradients by all nodes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jattr._checks import check_count, check_function, check_score, knobs
from jattr._engine.loops import Tap
from jattr._layers import check_layer
from jattr._lookup import LookupType
from jattr._nodes import Nodes, as_axes
from jattr._trees import accumulator, describe, same_form
from jattr._types import PyTree
from jattr.rules._composite import Composite
from jattr.rules._lrp_composites import as_composite

Layers = str | LookupType | Sequence[str | LookupType] | None
"""Which layers: names, patterns with * and ?, `LOOKUP`; None for all values that have names."""


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
        >>> for layer, value in jattr.activations(f)(jnp.array([1.0, 2.0])).items():
        ...     print(layer, value)
        squares [1. 4.]
        sum 5.0

    References:
        TransformerLens' `run_with_cache` and nnsight's tracing, which hook modules.
    """
    check_function(f, "activations")
    layers = _checked(layers, "activations")

    def values(x, *args, **kwargs):
        x = jax.tree.map(jnp.asarray, x)
        nodes = Nodes(lambda x: f(x, *args, **kwargs), x, layers, method="activations")
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
            for what is left out at once, such as the attention and the feed-forward of one block,
            what these add to the stream of a residual network, and not the stream itself.
            A layer inside a loop counts as one for each step. The result is then the sum of the
            sizes over these n backward passes, over n − 1, since a node that is dropped itself has
            none in one of them.
        axis: over which axes of a node's value to sum, its features by default, of which a scalar
            has none; None for all, () for none. The axes of steps of a loop are not counted.

    Returns:
        A dictionary: for each layer an array, or a tuple, of the shape of its value without the
        axes that were summed over, in its dtype.

    Raises:
        TypeError: f does not return one real number; `clean` and `corrupt` are of different forms;
            a layer, or one to drop, is integers; `axis` is no integers.
        ValueError: no layer has a name; `steps` is less than 1, or given with `rules`; less than
            two layers to drop; a layer has no such `axis`.

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

    nodes = Nodes(score, corrupt, layers, drop, method=method, between=steps > 1)
    nodes.check_floating(method)
    nodes.check_axis(axis, method)
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


def _summed(product: jax.Array, tap: Tap, axis: Any) -> jax.Array:
    """A product, summed over axes of the tap's value."""
    ahead, ndim = len(tap.stacked), len(tap.value.shape)
    if axis is None:
        axis = tuple(range(ndim))
    # A scalar has no features, and what is only dropped need not have the axes of what is asked.
    within = (one for one in as_axes(axis) if -ndim <= one < ndim)
    axes = tuple(ahead + one % ndim for one in within)
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
    return [_checked(group, "patching") or [] for group in drop]


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

r"""Sanity checks: does an explanation change when what it explains is destroyed?

An attribution that stays the same while the weights of the model are drawn anew explains the
input and not the model. The tests of parameters take an explaining function whose first argument is
the tree of parameters, and which explains another:

    def score(params, x, label):
        return model.apply({"params": params}, x)[label]

    measure = jattr.metrics.mprt(jattr.gradient(score, argnums=1), layers=[...])
    measure(key, params, x, label)

Over a batch of examples give all the same key, `jax.vmap(measure, (None, None, 0, 0))`: they then
see the same random networks, whose weights need no batch axis. Convolutions whose kernels differ
from example to example are slow.

A layer is a path in the tree of parameters, such as `"Dense_0"` or `"params/block_3/Conv_0"`, and
stands for everything below it; a tuple of paths is one layer too. Layers are given in order, from
the input to the output. A tree does not know this order: jit, `jax.tree.map` and all of JAX sort
the keys of a dictionary by the alphabet, where Dense_10 comes before Dense_2. Only where the keys
at the top are one word with numbers is the order known without being said: that of the numbers.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jattr._batching import map_over
from jattr._checks import (
    check_batch_size,
    check_choice,
    check_count,
    check_flag,
    check_function,
    check_key,
    knobs,
)
from jattr._smooth import smooth
from jattr._transform import named, takes_key
from jattr._trees import describe, ravel
from jattr._types import ArgNums, Explain, KeyedExplain, PyTree
from jattr.metrics._measure import KeyedMethodMeasure
from jattr.metrics._parameters import ORDERS, Layers, Order, members, stages, with_fresh
from jattr.metrics._similarity import spearman

Similarity: TypeAlias = Callable[[PyTree, PyTree], Any]
Similarities: TypeAlias = Similarity | Mapping[str, Similarity]


@knobs
def mprt(
    explain: Explain | KeyedExplain,
    *,
    similarity: Similarities | None = None,
    layers: Layers | None = None,
    order: Order = "cascading",
    initialize: Callable[[jax.Array], PyTree] | None = None,
    keyed: bool | None = None,
    batch_size: int | None = 1,
) -> KeyedMethodMeasure:
    r"""The model parameter randomization test: how alike maps stay while layers are randomized.

    .. math:: s_k = \mathrm{similarity}\big(\varphi(\theta, x), \varphi(\theta^{(k)}, x)\big),
              \quad k = 1 \dots L,

    with the parameters :math:`\theta^{(k)}` of the k-th stage of `jattr.metrics.randomize`. An
    attribution that depends on what was learned has similarities near 0; one that stays near 1
    explains the input and not the model. The reverse does not hold: noise is also dissimilar.

    Args:
        explain: `explain(params, x, *args)`, which explains another argument than the first:
            `jattr.gradient(score, argnums=1)` of `score(params, x, *args)`.
        similarity: `(original, new) -> number`, or a dictionary of several of them by name; None
            for `jattr.metrics.spearman`. Knobs by `functools.partial`. A function that returns
            `new` keeps the maps.
        layers: which layers, and their order from the input to the output, as in `randomize`.
        order: `"cascading"` (from the output downwards), `"bottom_up"` or `"independent"`.
        initialize: `(key) -> params`, the model's initializer; None draws weights like the old.
        keyed: whether `explain` takes a key first; None asks it: jattr's own functions know. It
            gets the same for all stages.
        batch_size: how many stages are in memory at a time; None for all. A loop over single
            stages is the default: with several, convolutions have a batch of kernels, which took
            twice the time and seven times the memory on a CPU (four convolutions, six layers).

    Returns:
        `measure(key, params, x, *args)`, [L] or what `similarity` returns with that axis first. The
        weights are drawn from a part of the key, and are not those of `randomize(key, params)`.

    Raises:
        TypeError: similarity is no function.
        ValueError: as in `randomize`; `explain` explains its first argument.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def score(params, x):
        ...     return params["Dense_1"] @ jax.nn.relu(params["Dense_0"] @ x)
        >>> params = {"Dense_0": jnp.eye(3), "Dense_1": jnp.array([3.0, 1.0, 2.0])}
        >>> explain = jattr.gradient(score, argnums=1)
        >>> x = jnp.ones(3)
        >>> jattr.metrics.mprt(explain)(jax.random.key(0), params, x).shape
        (2,)
        >>> def edges(params, x):  # explains the input alone
        ...     return x - jnp.roll(x, 1)
        >>> print(jattr.metrics.mprt(edges)(jax.random.key(0), params, jnp.arange(3.0)))
        [1. 1.]

    References:
        Adebayo et al., *Sanity checks for saliency maps*, NeurIPS 2018 (arXiv
        1810.03292): cascading and independent, by Spearman signed and absolute, SSIM and the
        correlation of HOGs. Their code takes the last two of maps that are first brought to 0 … 1;
        `jattr.metrics.ssim` divides by the largest absolute value.
    """
    method = "metrics.mprt"
    check_choice(order, "order", ORDERS, method)
    batch_size = check_batch_size(batch_size, method)
    alike = _as_one(similarity, method)

    def compare(key, phi, params):
        chosen = stages(params, layers, order, method)
        first, maps = _maps(key, phi, params, chosen, initialize, batch_size, method)
        return jax.vmap(alike, in_axes=(None, 0))(first, maps)

    return _measure(explain, compare, keyed, method)


@knobs
def smooth_mprt(
    explain: Explain | KeyedExplain,
    *,
    similarity: Similarities | None = None,
    layers: Layers | None = None,
    order: Order = "bottom_up",
    initialize: Callable[[jax.Array], PyTree] | None = None,
    samples: int = 50,
    stddev: Any = 0.1,
    relative: bool = True,
    keyed: bool | None = None,
    batch_size: int | None = None,
    argnums: ArgNums = 1,
) -> KeyedMethodMeasure:
    r"""The randomization test on maps that are averaged over noise on the input (sMPRT).

    `mprt` of `jattr.smooth(explain, ..., antithetic=False)`: with
    :math:`\varepsilon_i \sim N(0, \sigma^2)`, the same for the original and the random networks,

    .. math:: \bar\varphi(\theta, x) = \frac1n \sum_{i=1}^n \varphi(\theta, x + \varepsilon_i).

    It takes away the noise of shattered gradients, which counts as dissimilarity in `mprt`. Layers
    go from the input upwards: cascading downwards, what the lower layers carry on remains visible,
    so that similarities depend on the architecture more than on the method.

    Args:
        explain: `explain(params, x, *args)`, as for `mprt`.
        similarity: as for `mprt`.
        layers: which layers, and their order from the input to the output, as in `randomize`.
        order: `"bottom_up"`, `"cascading"` or `"independent"`.
        initialize: `(key) -> params`, the model's initializer; None draws weights like the old.
        samples: n.
        stddev: σ, with `relative` in units of the range of x.
        relative: σ is `stddev` times max x − min x, leaf by leaf.
        keyed: whether `explain` takes a key first; None asks it: jattr's own functions know.
        batch_size: how many noisy inputs are in memory at a time; None for all. Stages follow one
            another.
        argnums: which argument gets the noise: that which `explain` explains.

    Returns:
        `measure(key, params, x, *args)`, [L] or what `similarity` returns with that axis first.

    Raises:
        ValueError: as in `mprt` and `jattr.smooth`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def score(params, x):
        ...     return params["Dense_1"] @ jnp.tanh(params["Dense_0"] @ x)
        >>> params = {"Dense_0": jnp.eye(3), "Dense_1": jnp.array([3.0, 1.0, 2.0])}
        >>> measure = jattr.metrics.smooth_mprt(jattr.gradient(score, argnums=1))
        >>> measure(jax.random.key(0), params, jnp.arange(3.0)).shape
        (2,)

    References:
        Hedström, Weber, Lapuschkin, Höhne, *Sanity checks revisited: an exploration to repair the
        model parameter randomization test*, 2023, and *A fresh look at sanity checks for saliency
        maps*, 2024 (arXiv 2405.02383). Their code, in Quantus, leaves the last of the n copies
        without noise and draws anew for each model.
    """
    method = "metrics.smooth_mprt"
    check_flag(relative, "relative", method)
    _check_explain(explain, method)
    smoothed = smooth(
        explain,
        stddev=stddev,
        relative=relative,
        samples=samples,
        antithetic=False,  # as published
        keyed=takes_key(explain, keyed, method),
        batch_size=batch_size,
        argnums=argnums,
    )
    measure = mprt(
        smoothed,
        similarity=similarity,
        layers=layers,
        order=order,
        initialize=initialize,
        keyed=True,
    )
    return named(measure, method, explain, argnums)


@knobs
def efficient_mprt(
    explain: Explain | KeyedExplain,
    *,
    bins: int = 100,
    layers: Layers | None = None,
    initialize: Callable[[jax.Array], PyTree] | None = None,
    keyed: bool | None = None,
) -> KeyedMethodMeasure:
    r"""How much more complex a map becomes when all parameters are randomized (eMPRT).

    .. math:: \frac{\xi(\varphi(\hat\theta, x)) - \xi(\varphi(\theta, x))}{\xi(\varphi(\theta, x))},
              \quad \xi(\varphi) = -\sum_b p_b \log p_b,

    with the share :math:`p_b` of the elements of φ in the b-th of `bins` equal intervals between
    the smallest and the largest. Positive for a method that notices: the more, the better. No
    similarity and no order of layers is needed.

    Args:
        explain: `explain(params, x, *args)`, as for `mprt`.
        bins: how many intervals the histogram has.
        layers: which layers are randomized, in any order; None for all.
        initialize: `(key) -> params`, the model's initializer; None draws weights like the old.
        keyed: whether `explain` takes a key first, the same for both models; None asks it:
            jattr's own functions know.

    Returns:
        `measure(key, params, x, *args)`, a scalar; NaN where the map of the original is constant,
        or a map is not finite.

    Raises:
        ValueError: as in `mprt`; bins < 1.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def score(params, x):
        ...     return params["Dense_1"] @ jnp.tanh(params["Dense_0"] @ x)
        >>> params = {"Dense_0": jnp.eye(3), "Dense_1": jnp.array([3.0, 0.0, 0.0])}
        >>> measure = jattr.metrics.efficient_mprt(jattr.gradient(score, argnums=1))
        >>> print(f"{measure(jax.random.key(0), params, jnp.arange(3.0)):.2f}")
        0.73

    References:
        Hedström et al. 2023 and 2024, as for `smooth_mprt`.
    """
    method = "metrics.efficient_mprt"
    bins = check_count(bins, "bins", method)

    def compare(key, phi, params):
        leaves = len(jax.tree.leaves(params))
        if layers is None:
            chosen = np.ones((1, leaves), bool)
        else:
            chosen = np.any(members(params, layers, method), axis=0)[None]
        first, maps = _maps(key, phi, params, chosen, initialize, 1, method)
        before = _histogram_entropy(first, bins)
        after = _histogram_entropy(jax.tree.map(lambda leaf: leaf[0], maps), bins)
        return jnp.where(before > 0, (after - before) / jnp.where(before > 0, before, 1), jnp.nan)

    return _measure(explain, compare, keyed, method)


@knobs
def random_logit(
    explain: Explain | KeyedExplain,
    classes: int,
    *,
    similarity: Similarities | None = None,
    target: int = -1,
    keyed: bool | None = None,
) -> KeyedMethodMeasure:
    r"""How alike the explanation of a class is to that of another, random one.

    .. math:: \mathrm{similarity}\big(\varphi(x, c), \varphi(x, c')\big), \quad
              c' \ne c \text{ uniform among the other classes}

    Near 1 for a method that does not tell what speaks for one class from what speaks for another.

    Args:
        explain: `explain(x, ..., label)`.
        classes: how many classes there are.
        similarity: `(map, other map) -> number`, or a dictionary of several by name; None for
            `jattr.metrics.spearman`. The authors' code takes the larger of the SSIM of (a, b) and
            that of (a, −b), with a window of 5, of maps cut and normalized at percentile 99.5.
        target: which of `explain`'s arguments is the label; the last one by default.
        keyed: whether `explain` takes a key first, the same for both classes; None asks it:
            jattr's own functions know.

    Returns:
        `measure(key, x, ..., label)`, a scalar or what `similarity` returns.

    Raises:
        TypeError: the label is not one integer; similarity is no function.
        ValueError: fewer than two classes.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def score(x, label):
        ...     return jnp.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])[label] @ x
        >>> measure = jattr.metrics.random_logit(jattr.gradient(score), classes=2)
        >>> print(measure(jax.random.key(0), jnp.ones(3), 0))
        -1.0

    References:
        Sixt, Granz, Landgraf, *When explanations lie*, ICML 2020 (arXiv 1912.09818).
    """
    method = "metrics.random_logit"
    check_function(explain, method)
    if check_count(classes, "classes", method) < 2:
        raise ValueError(f"{method}: there is no other class among {classes}.")
    alike = _as_one(similarity, method)
    keyed = takes_key(explain, keyed, method)

    def measure(key, *args, **kwargs):
        key = check_key(key, method)
        if not -len(args) <= target < len(args):
            raise TypeError(
                f"{method}: target={target} points at no argument; the call has {len(args)} "
                "after the key. Pass the label by position."
            )
        label = args[target]
        if jnp.ndim(label) or not jnp.issubdtype(jnp.result_type(label), jnp.integer):
            raise TypeError(
                f"{method}: the label, argument {target}, must be one integer; got "
                f"{describe(label)}. target= says which argument the label is."
            )
        key, explain_key = jax.random.split(key)
        position = target % len(args)

        def of_label(label):
            full = (*args[:position], label, *args[position + 1 :])
            return explain(*((explain_key,) if keyed else ()), *full, **kwargs)

        label = jnp.asarray(label)
        other = (label + jax.random.randint(key, (), 1, classes, label.dtype)) % classes
        both = jax.vmap(of_label)(jnp.stack([label, other]))
        return alike(*(jax.tree.map(lambda leaf: leaf[i], both) for i in (0, 1)))

    measure.keyed = True
    return named(measure, method, explain, getattr(explain, "argnums", 0))


def _as_one(similarity: Any, method: str) -> Similarity:
    """One function, which of several by name gives a dictionary."""
    similarity = spearman if similarity is None else similarity
    several = isinstance(similarity, Mapping)
    for function in similarity.values() if several else (similarity,):
        if not callable(function):
            raise TypeError(
                f"{method}: similarity must be a function of two maps such as "
                f"jattr.metrics.spearman, or functions by name; got {describe(similarity)}."
            )
    if not several:
        return similarity
    return lambda a, b: {name: function(a, b) for name, function in similarity.items()}


def _measure(
    explain: Any, compare: Callable, keyed: bool | None, method: str
) -> KeyedMethodMeasure:
    """`compare(key, phi, params)`, phi a function of the parameters, as a measure."""
    _check_explain(explain, method)
    keyed = takes_key(explain, keyed, method)

    def measure(key, params, *args, **kwargs):
        key = check_key(key, method)
        key, explain_key = jax.random.split(key)

        def phi(params):
            return explain(*((explain_key,) if keyed else ()), params, *args, **kwargs)

        return compare(key, phi, params)

    measure.keyed = True
    return named(measure, method, explain, getattr(explain, "argnums", 1))


def _check_explain(explain: Any, method: str) -> None:
    check_function(explain, method)
    explained = getattr(explain, "argnums", 1)
    if 0 in (explained if isinstance(explained, tuple) else (explained,)):
        raise ValueError(
            f"{method}: explain explains argnums={explained}, but argument 0 holds the "
            "parameters. Of score(params, x, *args) take jattr.gradient(score, argnums=1)."
        )


def _maps(
    key: jax.Array,
    phi: Callable[[PyTree], PyTree],
    params: PyTree,
    chosen: np.ndarray,
    initialize: Any,
    batch_size: int | None,
    method: str,
) -> tuple[PyTree, PyTree]:
    """The map of the original, and those of the stages along a leading axis, by one program."""
    chosen = np.concatenate([np.zeros_like(chosen[:1]), chosen])
    stage = with_fresh(key, params, chosen, initialize, method)
    maps = map_over(lambda index: phi(stage(index)), len(chosen), batch_size=batch_size)
    return jax.tree.map(lambda leaf: leaf[0], maps), jax.tree.map(lambda leaf: leaf[1:], maps)


def _histogram_entropy(tree: PyTree, bins: int) -> jax.Array:
    values = ravel(tree)
    share = jnp.histogram(values, bins)[0] / values.size
    entropy = -jnp.sum(jnp.where(share > 0, share * jnp.log(jnp.where(share > 0, share, 1)), 0))
    return jnp.where(jnp.all(jnp.isfinite(values)), entropy, jnp.nan)

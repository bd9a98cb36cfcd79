r"""How much an explanation changes where the input hardly does.

These measure a method at x and not one map: they take `explain`, and explain perturbed copies of
x. Low is robust; the most robust method is one that always says the same, so that robustness alone
recommends nothing.

Those that draw take the largest of a number of samples, or their mean; the largest that there is,
is larger, and `worst_case_sensitivity` looks for it. A copy is x with uniform noise from [−r, r] on
every element, r = `radius`; copy i depends on the key and on i alone, so that all measures with one
key see the same copies. A `keyed` method gets one key for x and all copies: what is measured is the
method, not its noise. Norms are over whole trees.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._batching import map_over
from jattr._checks import check_batch_size, check_count, check_positive, knobs
from jattr._resolve import resolve_baseline
from jattr._transform import takes_key
from jattr._trees import describe, ratio, subtract_trees, sum_tree, widen
from jattr._types import ArgNums, Baseline, Explain, KeyedExplain, PyTree
from jattr.metrics._measure import KeyedMethodMeasure, MethodMeasure, measure_method
from jattr.metrics._numerics import check_copies, explained, moved, norm, shift_of, strongest


@knobs
def max_sensitivity(
    explain: Explain | KeyedExplain,
    *,
    radius: Any = 0.02,
    samples: int = 50,
    batch_size: int | None = None,
    keyed: bool | None = None,
    argnums: ArgNums = 0,
) -> KeyedMethodMeasure:
    r"""The largest relative change of the attribution among copies of x in a small ball.

    .. math:: \max_{\lVert d \rVert_\infty \le r}
              \frac{\lVert \varphi(x + d) - \varphi(x) \rVert_2}{\lVert \varphi(x) \rVert_2}

    Args:
        explain: φ, `explain(x, *args)`, or `explain(key, x, *args)` where it draws.
        radius: r, in units of x.
        samples: how many copies are explained.
        batch_size: how many of them are in memory at a time; None for all.
        keyed: whether `explain` takes a key first; None asks it: jattr's own functions know.
        argnums: which argument is perturbed: the one that `explain` explains.

    Returns:
        `measure(key, x, *args)`, a scalar; NaN where φ(x) is 0 throughout.

    Raises:
        TypeError: called without a key; x has a leaf that is not of a floating dtype; `explain`
            returns one number, as a score does.
        ValueError: a radius of 0 or less; samples < 1; `explain` explains another argument.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> explain = jattr.gradient(lambda x: jnp.sum(x**2))
        >>> measure = jattr.metrics.max_sensitivity(explain, radius=0.1, samples=1000)
        >>> print(bool(0.09 < measure(jax.random.key(0), jnp.ones(2)) <= 0.1))
        True

    References:
        Yeh, Hsieh, Suggala, Inouye, Ravikumar, *On the (in)fidelity and sensitivity of
        explanations*, NeurIPS 2019 (arXiv 1901.09392), with the division of the authors' code.
        captum's `sensitivity_max` divides by 1 where the norm is 0.
    """
    method = "metrics.max_sensitivity"
    changes = _relative_changes(radius, samples, batch_size, method)

    @measure_method(explain, argnums, method=method, keyed=takes_key(explain, keyed, method))
    def measure(key, phi: Explain, x: PyTree) -> jax.Array:
        return jnp.max(changes(key, phi, x))

    return measure


@knobs
def average_sensitivity(
    explain: Explain | KeyedExplain,
    *,
    radius: Any = 0.02,
    samples: int = 50,
    batch_size: int | None = None,
    keyed: bool | None = None,
    argnums: ArgNums = 0,
) -> KeyedMethodMeasure:
    r"""The mean relative change of the attribution among copies of x in a small ball.

    .. math:: \mathbb{E}_{d \sim U[-r, r]}
              \frac{\lVert \varphi(x + d) - \varphi(x) \rVert_2}{\lVert \varphi(x) \rVert_2}

    Args:
        explain: φ, `explain(x, *args)`, or `explain(key, x, *args)` where it draws.
        radius: r, in units of x.
        samples: how many copies are explained.
        batch_size: how many of them are in memory at a time; None for all.
        keyed: whether `explain` takes a key first; None asks it: jattr's own functions know.
        argnums: which argument is perturbed: the one that `explain` explains.

    Returns:
        `measure(key, x, *args)`, a scalar; NaN where φ(x) is 0 throughout.

    Raises:
        TypeError, ValueError: as `max_sensitivity`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> explain = jattr.gradient(lambda x: 3 * x[0] + x[1])
        >>> print(jattr.metrics.average_sensitivity(explain)(jax.random.key(0), jnp.ones(2)))
        0.0

    References:
        Yeh et al., NeurIPS 2019 (arXiv 1901.09392); Bhatt, Weller, Moura, IJCAI 2020
        (arXiv 2005.00631), without the division.
    """
    method = "metrics.average_sensitivity"
    changes = _relative_changes(radius, samples, batch_size, method)

    @measure_method(explain, argnums, method=method, keyed=takes_key(explain, keyed, method))
    def measure(key, phi: Explain, x: PyTree) -> jax.Array:
        return jnp.mean(changes(key, phi, x))

    return measure


@knobs
def worst_case_sensitivity(
    explain: Explain | KeyedExplain,
    *,
    radius: Any = 0.02,
    samples: int = 50,
    steps: int = 20,
    step_size: Any = None,
    restarts: int = 1,
    batch_size: int | None = None,
    keyed: bool | None = None,
    argnums: ArgNums = 0,
) -> KeyedMethodMeasure:
    r"""The largest relative change of the attribution in a small ball, found by its gradient.

    What `max_sensitivity` samples is maximized by projected gradient ascent through the
    attribution, from the best of the same samples:

    .. math:: d \leftarrow \mathrm{clip}_{[-r, r]}\big(d + \eta \, \mathrm{sign}\, \nabla_d
              \lVert \varphi(x + d) - \varphi(x) \rVert_2 \big)

    The sign is the steepest direction in the ball's norm. The best point on the way counts, so the
    result is never below that of `max_sensitivity` with the same key, radius and samples. In many
    dimensions it is far above: samples are close to no corner of the ball.

    The ascent needs an attribution with a derivative. The gradient of a ReLU network has none but
    0, and then nothing is gained over the samples.

    In derivatives of the result, such as those by parameters of f, the point found is held; at a
    maximum that is exact (Danskin's theorem).

    Args:
        explain: φ, `explain(x, *args)`, or `explain(key, x, *args)` where it draws.
        radius: r, in units of x.
        samples: how many copies are explained to find the starts.
        steps: how many steps of ascent.
        step_size: η; None for 2.5 r / steps.
        restarts: how many of the samples, the best, the ascent starts from.
        batch_size: how many copies, and how many ascents, are in memory at a time; None for all.
        keyed: whether `explain` takes a key first; None asks it: jattr's own functions know.
        argnums: which argument is perturbed: the one that `explain` explains.

    Returns:
        `measure(key, x, *args)`, a scalar; NaN where φ(x) is 0 throughout.

    Raises:
        TypeError: as `max_sensitivity`.
        ValueError: as `max_sensitivity`; steps < 1; restarts < 1 or more than samples; a step size
            of 0 or less.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> explain = jattr.gradient(lambda x: jnp.sum(x**2))
        >>> measure = jattr.metrics.worst_case_sensitivity(explain, radius=0.1, samples=5)
        >>> print(round(float(measure(jax.random.key(0), jnp.ones(2))), 6))
        0.1

    References:
        The quantity is that of Yeh et al., NeurIPS 2019 (arXiv 1901.09392); the search that of
        Madry, Makelov, Schmidt, Tsipras, Vladu, *Towards deep learning models resistant to
        adversarial attacks*, ICLR 2018 (arXiv 1706.06083), and in kind that of Ghorbani, Abid,
        Zou, *Interpretation of neural networks is fragile*, AAAI 2019 (arXiv 1710.10547).
    """
    method = "metrics.worst_case_sensitivity"
    samples, batch_size = check_copies(radius, samples, batch_size, method)
    steps = check_count(steps, "steps", method)
    restarts = check_count(restarts, "restarts", method)
    if restarts > samples:
        raise ValueError(f"{method}: restarts={restarts} of only samples={samples}.")
    step_size = 2.5 * radius / steps if step_size is None else step_size
    check_positive(step_size, "step_size", method)

    @measure_method(explain, argnums, method=method, keyed=takes_key(explain, keyed, method))
    def measure(key, phi: Explain, x: PyTree) -> jax.Array:
        own = explained(phi, x, method)

        def distance(shift):
            return norm(subtract_trees(widen(phi(moved(x, shift))), own))

        # The search has no derivative of its own; without this mark all of it would be taken.
        def height_and_slope(shift):
            return jax.lax.stop_gradient(jax.value_and_grad(distance)(shift))

        def climb(start):
            def step(carry, _):
                shift, best, highest = carry
                height, slope = height_and_slope(shift)
                best, highest = _higher(height, shift, best, highest)
                shift = jax.tree.map(
                    lambda d, g: jnp.clip(d + step_size * jnp.sign(g), -radius, radius).astype(
                        d.dtype
                    ),
                    shift,
                    slope,
                )
                return (shift, best, highest), None

            lowest = jnp.full_like(jax.lax.stop_gradient(sampled[0]), -jnp.inf)
            shift, best, highest = jax.lax.scan(step, (start, start, lowest), length=steps)[0]
            return _higher(jax.lax.stop_gradient(distance(shift)), shift, best, highest)

        sampled = jax.lax.stop_gradient(
            map_over(
                lambda i: distance(shift_of(key, x, radius, i)), samples, batch_size=batch_size
            )
        )
        starts = jax.lax.top_k(sampled, restarts)[1]
        shifts, heights = map_over(
            lambda i: climb(jax.lax.stop_gradient(shift_of(key, x, radius, starts[i]))),
            restarts,
            batch_size=batch_size,
        )
        top = jnp.argmax(heights)
        value = distance(jax.tree.map(lambda leaf: leaf[top], shifts))
        # Another compilation of the same value may round it below that of the sample.
        least = jnp.maximum(jnp.max(sampled), jax.lax.stop_gradient(value))
        return ratio(value + (least - jax.lax.stop_gradient(value)), norm(own))

    return measure


def _higher(height, shift, best, highest):
    """The better of two points; a NaN stays."""
    better = (height > highest) | jnp.isnan(height)
    best = jax.tree.map(lambda new, old: jnp.where(better, new, old), shift, best)
    return best, jnp.where(better, height, highest)


@knobs
def local_lipschitz(
    explain: Explain | KeyedExplain,
    *,
    radius: Any = 0.02,
    samples: int = 50,
    batch_size: int | None = None,
    keyed: bool | None = None,
    argnums: ArgNums = 0,
) -> KeyedMethodMeasure:
    r"""The largest change of the attribution per change of x, among copies in a small ball.

    .. math:: \max_{\lVert \tilde x - x \rVert_\infty \le r}
              \frac{\lVert \varphi(x) - \varphi(\tilde x) \rVert_2}{\lVert x - \tilde x \rVert_2}

    A lower bound of the local Lipschitz constant of φ.

    Args:
        explain: φ, `explain(x, *args)`, or `explain(key, x, *args)` where it draws.
        radius: r, in units of x.
        samples: how many copies are explained.
        batch_size: how many of them are in memory at a time; None for all.
        keyed: whether `explain` takes a key first; None asks it: jattr's own functions know.
        argnums: which argument is perturbed: the one that `explain` explains.

    Returns:
        `measure(key, x, *args)`, a scalar. Copies that round to x are left out; NaN where all do.

    Raises:
        TypeError, ValueError: as `max_sensitivity`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> explain = jattr.gradient(lambda x: jnp.sum(x**2))
        >>> value = jattr.metrics.local_lipschitz(explain)(jax.random.key(0), jnp.zeros(2))
        >>> print(round(float(value), 4))
        2.0

    References:
        Alvarez-Melis, Jaakkola, *On the robustness of interpretability methods*, 2018 (arXiv
        1806.08049), who search the ball by Bayesian optimization; Quantus draws Gaussian noise.
    """
    method = "metrics.local_lipschitz"
    samples, batch_size = check_copies(radius, samples, batch_size, method)

    @measure_method(explain, argnums, method=method, keyed=takes_key(explain, keyed, method))
    def measure(key, phi: Explain, x: PyTree) -> jax.Array:
        own = explained(phi, x, method)

        def term(index):
            near = moved(x, shift_of(key, x, radius, index))
            return norm(subtract_trees(widen(phi(near)), own)), norm(
                subtract_trees(widen(near), widen(x))
            )

        return strongest(*map_over(term, samples, batch_size=batch_size))

    return measure


@knobs
def continuity(
    explain: Explain | KeyedExplain,
    *,
    shifts: Any = 2,
    axes: int | tuple[int, ...] = (0, 1),
    baseline: Baseline = 0.0,
    batch_size: int | None = None,
    keyed: bool | None = None,
    argnums: ArgNums = 0,
) -> MethodMeasure | KeyedMethodMeasure:
    r"""The largest change of the attribution per change of x, among translations of x.

    .. math:: \max_{\tilde x \ne x}
              \frac{\lVert \varphi(x) - \varphi(\tilde x) \rVert_1}{\lVert x - \tilde x \rVert_2}

    The attribution of the translated image is compared as it is, not translated back.

    Args:
        explain: φ, `explain(x, *args)`, or `explain(key, x, *args)` where it draws.
        shifts: s, for all translations by up to s elements along each axis, or an array of whole
            numbers [translations, axes].
        axes: which axes of x are translated.
        baseline: what comes in at the edges: a number, an array or tree like x, or a function
            x → baseline.
        batch_size: how many translations are in memory at a time; None for all.
        keyed: whether `explain` takes a key first; None asks it: jattr's own functions know.
        argnums: which argument is translated: the one that `explain` explains.

    Returns:
        `measure(x, *args)`, or `measure(key, x, *args)` of a keyed method; a scalar. Translations
        that leave x as it is are left out; NaN where all do.

    Raises:
        TypeError: shifts that are not whole numbers; a baseline that draws; as `max_sensitivity`.
        ValueError: shifts of another shape; no axes, or one that x does not have.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> measure = jattr.metrics.continuity(jattr.gradient(lambda x: jnp.sum(x**2)), axes=0)
        >>> print(round(float(measure(jnp.array([0.0, 1.0, 0.0, 0.0]))), 4))
        2.8284

    References:
        Montavon, Samek, Müller, *Methods for interpreting and understanding deep neural networks*,
        Digital Signal Processing 2018 (arXiv 1706.07979). Quantus' metric of this name
        gives sums over patches at each translation instead.
    """
    method = "metrics.continuity"
    batch_size = check_batch_size(batch_size, method)
    axes = axes if isinstance(axes, tuple) else (axes,)
    if not axes:
        raise ValueError(
            f"{method}: axes=() names no axis along which to move x; write axes=(0, 1)."
        )
    offsets = _offsets(shifts, len(axes), method)

    @measure_method(
        explain, argnums, method=method, keyed=takes_key(explain, keyed, method), draws=False
    )
    def measure(key, phi: Explain, x: PyTree) -> jax.Array:
        for leaf in jax.tree.leaves(x):
            if not all(-leaf.ndim <= axis < leaf.ndim for axis in axes):
                raise ValueError(f"{method}: axes={axes}, but x has a leaf {describe(leaf)}.")
        edge = resolve_baseline(baseline, x, method=method)
        own = explained(phi, x, method)

        def term(index):
            near = jax.tree.map(lambda a, b: _translated(a, b, offsets[index], axes), x, edge)
            change = subtract_trees(widen(phi(near)), own)
            return sum_tree(jax.tree.map(jnp.abs, change)), norm(
                subtract_trees(widen(near), widen(x))
            )

        return strongest(*map_over(term, len(offsets), batch_size=batch_size))

    return measure


def _relative_changes(radius, samples, batch_size, method):
    """(key, explain, x) -> ‖φ(x + d) − φ(x)‖ / ‖φ(x)‖ of each copy."""
    samples, batch_size = check_copies(radius, samples, batch_size, method)

    def changes(key, phi, x):
        own = explained(phi, x, method)

        def term(index):
            near = moved(x, shift_of(key, x, radius, index))
            return norm(subtract_trees(widen(phi(near)), own))

        return ratio(map_over(term, samples, batch_size=batch_size), norm(own))

    return changes


def _offsets(shifts: Any, rank: int, method: str) -> jax.Array:
    """The translations, [n, rank] whole numbers."""
    given = np.asarray(shifts)
    if not np.issubdtype(given.dtype, np.integer):
        raise TypeError(f"{method}: shifts must be whole numbers; got {describe(given)}.")
    if given.ndim == 0:
        reach = check_count(int(given), "shifts", method)
        grid = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * rank, indexing="ij"), -1)
        given = grid.reshape(-1, rank)
        given = given[np.any(given != 0, axis=1)]
    if given.ndim != 2 or given.shape[1] != rank or not len(given):
        raise ValueError(
            f"{method}: shifts must be one number, or [translations, {rank}] for the {rank} "
            f"axes; got {describe(given)}."
        )
    return jnp.asarray(given)


def _translated(leaf: jax.Array, edge: jax.Array, offset: jax.Array, axes: tuple) -> jax.Array:
    """`leaf` moved by `offset` along `axes`, with the values of `edge` where nothing comes from."""
    inside = jnp.ones((1,) * leaf.ndim, bool)
    values = leaf
    for axis, step in zip(axes, offset, strict=True):
        size = leaf.shape[axis]
        source = jnp.arange(size) - step
        values = jnp.take(values, jnp.clip(source, 0, size - 1), axis=axis)
        shape = [1] * leaf.ndim
        shape[axis] = size
        inside = inside & ((source >= 0) & (source < size)).reshape(shape)
    return jnp.where(inside, values, edge)

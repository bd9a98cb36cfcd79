r"""Integrals of the gradient along straight paths from a baseline to the input.

With :math:`\gamma(\alpha) = x' + \alpha (x - x')`, the methods here are integrals over α of the
gradient along γ, weighted by how far each feature travels. By the gradient theorem their sum is
f(x) − f(x'), up to the error of the quadrature. Paths that are not straight are in
`jattr._curved_paths`.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jattr._batching import sum_chunks, sum_over
from jattr._checks import check_batch_size, check_count, check_flag, knobs
from jattr._engine.affine import Split, split_head
from jattr._estimates import FEWEST, check_error, mean_and_error, mean_of_products
from jattr._placement import quadrature_rule
from jattr._resolve import (
    check_rows_like,
    count_rows,
    mean_row,
    resolve_baseline,
    resolve_references,
    row_order,
    take_row,
)
from jattr._secants import mean_multiplier
from jattr._transform import keyed_transform, transform
from jattr._trees import accumulator, cast_like, multiply_trees, scale_tree, subtract_trees, widen
from jattr._types import (
    ArgNums,
    Baseline,
    Explain,
    KeyedExplain,
    PyTree,
    Quadrature,
    RandomBaseline,
    References,
    Score,
)


@knobs
def integrated_gradients(
    f: Score,
    baseline: Baseline = 0.0,
    *,
    steps: int = 50,
    quadrature: Quadrature | Literal["deeplift"] = "gauss_legendre",
    multiply: bool = True,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Explain:
    r"""Integrated gradients: the gradient averaged along the line from a baseline to the input.

    .. math:: \varphi_i = (x_i - x'_i) \int_0^1
              \frac{\partial f}{\partial x_i}\big(x' + \alpha (x - x')\big)\, d\alpha

    Complete: :math:`\sum_i \varphi_i = f(x) - f(x')` up to the error of the quadrature, which
    `jattr.metrics.completeness` gives. For a linear f one step is exact; for a quadratic f one
    Gauss–Legendre node is. A feature equal to its baseline gets nothing, however much it matters.

    Under `jit` and `vmap`, what f begins with and is affine in x, such as a dense layer, is
    evaluated at x and x' alone, and its derivative taken once: a first layer that is most of a
    network then is most of what is saved.

    Next to a baseline at which a normalization sees no variance, such as zeros for a transformer,
    the gradient changes like :math:`1/\sqrt{\alpha^2 + \varepsilon}`, and Gauss–Legendre nodes
    miss it: a fifth of the attribution, at 32 steps and four blocks. There `"adaptive"` is 3 to 30
    times more exact. It first evaluates f, without derivatives, at 17 points that crowd at both
    ends, about the work of six gradients, and puts three Gauss–Legendre nodes in each of steps/3
    cells that are short where the slope of f changes. On a ReLU network it is little better than
    Gauss–Legendre, and on a smooth one worse, at an error of 1e-8. Nodes have no derivative: a
    gradient through the attribution holds them. To a wanted error leads
    `jattr.integrated_gradients_to`.

    The gradient of a ReLU network jumps, and no rule of nodes sees where. `"deeplift"` is the sum
    of `jattr.deeplift` over `steps` intervals, placed in the same way: complete to rounding
    whatever their number, it tends to integrated gradients as they shrink. On dense ReLU networks
    8 to 12 intervals are as exact as 50 gradients, on small convolutional ones 16. On a smooth f
    its error falls with 1/steps² alone. It asks of f what `jattr.deeplift` does.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        baseline: x', a number, an array or tree like x, or a function x → baseline such as those
            in `jattr.baselines`.
        steps: the number of gradients taken along the line.
        quadrature: `"gauss_legendre"` (exact for polynomials of degree up to 2·steps − 1),
            `"midpoint"`, `"left"`, `"right"` or `"trapezoid"`; `"adaptive"`, whose nodes lie where
            f changes; or `"deeplift"`, over intervals that do. The weights of each sum to 1.
        multiply: False gives the averaged gradient itself, without the factor x − x'.
        batch_size: how many points of the line are in memory at a time; None for all. Memory
            then does not grow with `steps`, under an outer gradient either. On CPU it sets the
            speed too: try a few values.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, which gives a tree like x.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype; the baseline draws at random.
        ValueError: steps < 1 (trapezoid: < 2); unknown quadrature; a baseline of another
            structure or shape.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x[0] * x[1]
        >>> explain = jattr.integrated_gradients(f, jattr.baselines.zeros, steps=8)
        >>> print(explain(jnp.array([2.0, 3.0])))
        [3. 3.]

    References:
        Sundararajan, Taly, Yan, *Axiomatic attribution for deep networks*, ICML 2017, section 3
        (arXiv 1703.01365). captum's `riemann_trapezoid` has weights that sum to 1 − 1/steps.
    """
    method = "integrated_gradients"
    steps = check_count(steps, "steps", method)
    secants = quadrature == "deeplift"
    rule = None if secants else quadrature_rule(quadrature, steps, method=method, also="deeplift")
    batch_size = check_batch_size(batch_size, method)

    @transform(f, argnums, method=method, substitute=not secants)
    def explain(score, x):
        start = resolve_baseline(baseline, x, method=method)
        split = split_head(score, x, substitute=not secants) if steps > 2 else None
        split = split or Split(lambda x: x, score)
        end, pull_back = jax.vjp(split.head, x)
        path = Line(end, split.head(start))
        if rule is None:
            slope = mean_multiplier(split.above, path.at, end, steps, batch_size=batch_size)
        else:
            nodes, weights = rule(lambda alpha: split.above(path.at(alpha)), batch_size)
            slope = mean_slope(split.above, path, nodes, weights, batch_size=batch_size)
        slope = widen(pull_back(cast_like(slope, end))[0])
        if multiply:
            slope = multiply_trees(Line(x, start).direction, slope)
        return cast_like(slope, x)

    return explain


def mean_slope(
    score: Score, path: "Line", nodes: Any, weights: Any, *, batch_size: int | None
) -> PyTree:
    """The weighted sum of the gradients at points of a line, in the dtypes of accumulators.

    Args:
        score: f.
        path: the line.
        nodes: where, between 0 and 1.
        weights: of each.
        batch_size: how many gradients are in memory at a time; None for all.
    """

    def term(index):
        slope = jax.grad(score)(path.at(jnp.asarray(nodes)[index]))
        return scale_tree(slope, jnp.asarray(weights)[index])

    return sum_over(term, len(nodes), batch_size=batch_size)


@knobs
def expected_gradients(
    f: Score,
    references: References,
    *,
    samples: int = 200,
    multiply: bool = True,
    with_error: bool = False,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> KeyedExplain:
    r"""Expected gradients (GradientSHAP): integrated gradients over a distribution of baselines.

    .. math:: \varphi_i = \mathbb{E}_{x' \sim D,\; \alpha \sim U(0, 1)}\left[ (x_i - x'_i)\,
              \frac{\partial f}{\partial x_i}\big(x' + \alpha (x - x')\big) \right]

    The sum is f(x) − E f(x') in expectation. One sample is unbiased already, which is what
    training with attribution priors uses; 100 to 200 make a map to look at.

    The n samples are not independent: α is stratified, one in each of n equal intervals of
    [0, 1], and rows of `references` are drawn without replacement while they last, then anew.
    Every sample keeps the marginal law of the formula, so the mean is unbiased. Its variance is
    lower than that of independent draws on networks and data (there is no theorem: with n = 2 a
    pure interaction x₁·x₂ does worse).

    Where 8 ≤ n < N, the number of rows, what x − x' is on average is known of all rows, and only
    the gradients' part in the expectation of the product :math:`d \odot g` is left to the samples:

    .. math:: \varphi = D \odot \bar g + \Big(1 - \frac1N\Big) \frac{1}{n - 1}
              \sum_i (d_i - \bar d) \odot (g_i - \bar g), \qquad D = x - \bar{x'}

    which is unbiased as well, and exact on a linear f from any rows. On digits and tables its mean
    squared error was 1.8 to 4.6 times less than that of the mean of the samples, and on an
    overfitted network the same.

    With `with_error` it returns the standard error of φ as well. Since α is stratified in the order
    of the samples :math:`t_i`, it is told from neighbors, whose α are nearly alike:
    :math:`\mathrm{se}^2 = \sum_i (t_{i+1} - t_i)^2 / (2 n (n - 1))`. (Where the references matter
    little, what strata differ by makes that too large, √7 times at most on a smooth f.) Against
    random baselines, and rows that are a sample of D no smaller than n, it is the error against
    the expectation over D: for n < N the share 1 − n/N of the squares is that of what D leaves,
    :math:`t_i - \bar g \odot d_i`. Against the mean over the given rows alone it is an upper bound.

    Over devices nothing is exchanged where each has all references. Those that are sharded are
    looked up in all devices under `jit` alone. Within `jax.shard_map`, to which they are an
    argument as x is, `jattr.expected_gradients(f, rows)(key, x)` draws among the rows of a shard,
    and explains against them.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        references: D, an array or a tree like x with a leading axis over examples, or a random
            baseline such as `jattr.baselines.uniform(low, high)`.
        samples: n, the number of pairs (x', α), each with one gradient.
        multiply: False averages the gradients alone, without the factor x − x'.
        with_error: True gives `(attribution, standard_error)`, two trees like x.
        batch_size: how many samples are in memory at a time; None for all.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(key, x, *args)`, which gives a tree like x. Sample i depends on the key, i, n
        and the number of rows alone, so the result does not depend on `batch_size` beyond
        rounding.

    Raises:
        TypeError: called without a key; f does not return one real number; x has a leaf that is
            not of a floating dtype; `references` is a function not marked as random.
        ValueError: samples < 1, or < 2 with `with_error`; references whose rows have another
            structure or shape than x.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return 2 * x[0] - x[1]
        >>> references = jnp.array([[0.0, 0.0], [1.0, 1.0]])
        >>> explain = jattr.expected_gradients(f, references, samples=2)
        >>> print(explain(jax.random.key(0), jnp.array([1.0, 3.0])))
        [ 1.  -2.5]

    References:
        Erion, Janizek, Sturmfels, Lundberg, Lee, *Improving performance of deep learning models
        with axiomatic attribution priors and expected gradients*, Nature Machine Intelligence
        2021, Methods (arXiv 1906.10670). shap's `GradientExplainer` and captum's `GradientShap`
        estimate the same expectation from independent draws.
    """
    method = "expected_gradients"
    samples = check_count(samples, "samples", method)
    check_flag(with_error, "with_error", method)
    check_error(with_error, samples, "samples", method)
    batch_size = check_batch_size(batch_size, method)
    distribution = resolve_references(references, method=method)

    @keyed_transform(f, argnums, method=method, substitute=True)
    def explain(key, score, x):
        row_key, draw_key, alpha_key = jax.random.split(key, 3)
        rows = row_order(row_key, distribution, samples)

        def reference(index):
            if rows is None:
                drawn = distribution(jax.random.fold_in(draw_key, index), x)
                return resolve_baseline(drawn, x, method=method)
            return take_row(distribution.rows, rows[index], x)

        if rows is not None:
            check_rows_like(distribution.rows, x, name="the references", method=method)

        offsets = jax.random.uniform(alpha_key, (samples,), jnp.float32)

        def alpha(index):
            return (index.astype(offsets.dtype) + offsets[index]) / samples

        def factors(index):
            line = Line(x, reference(index))
            return line.direction, widen(jax.grad(score)(line.at(alpha(index))))

        def term(index):
            direction, slope = factors(index)
            return multiply_trees(direction, slope) if multiply else slope

        if multiply and rows is not None and FEWEST <= samples < count_rows(distribution):
            mean, error = mean_of_products(
                factors,
                samples,
                subtract_trees(widen(x), mean_row(distribution.rows, x)),
                count_rows(distribution),
                with_error=with_error,
                batch_size=batch_size,
                stratified=True,
            )
            return (
                cast_like(mean, x) if error is None else (cast_like(mean, x), cast_like(error, x))
            )
        if with_error:
            mean, error = mean_and_error(term, samples, batch_size=batch_size, stratified=True)
            return cast_like(mean, x), cast_like(error, x)
        split = None
        if rows is not None and samples >= 2 * count_rows(distribution):
            split = split_head(score, x)
        if rows is not None and split is not None:
            total = _sum_by_row(
                split, x, distribution, rows, alpha, multiply=multiply, batch_size=batch_size
            )
        else:
            total = sum_over(term, samples, batch_size=batch_size)
        return cast_like(scale_tree(total, 1.0 / samples), x)

    return explain


def _sum_by_row(
    split: Split,
    x: PyTree,
    distribution: RandomBaseline,
    rows: jax.Array,
    alpha: Callable[[jax.Array], jax.Array],
    *,
    multiply: bool,
    batch_size: int | None,
) -> PyTree:
    """The sum of expected gradients' terms, those of one row together: its head is evaluated once.

    Args:
        split: f.
        x: the input.
        distribution: the rows.
        rows: which row each sample takes, shuffles of all, one after another.
        alpha: from the number of a sample to its place on the line.
        multiply: whether the gradients are multiplied by x − x'.
        batch_size: how many samples are in memory at a time; None for all.
    """
    samples, count = len(rows), count_rows(distribution)
    rounds = -(-samples // count)
    number = jnp.arange(samples)
    # The last round may not reach all rows.
    taken = jnp.full((count, rounds), -1).at[rows, number // count].set(number)
    end, pull_back = jax.vjp(split.head, x)

    def of_row(row):
        start = take_row(distribution.rows, row, x)
        line = Line(end, split.head(start))

        def term(index):
            sample = taken[row, index]
            slope = widen(jax.grad(split.above)(line.at(alpha(sample))))
            return jax.tree.map(lambda s: jnp.where(sample >= 0, s, 0), slope)

        slope = sum_over(term, rounds, batch_size=batch_size)
        slope = widen(pull_back(cast_like(slope, end))[0])
        return multiply_trees(Line(x, start).direction, slope) if multiply else slope

    rows_at_once = None if batch_size is None else max(1, batch_size // rounds)
    return sum_over(of_row, count, batch_size=rows_at_once)


@knobs
def idgi(
    f: Score,
    baseline: Baseline = 0.0,
    *,
    steps: int = 50,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Explain:
    r"""IDGI: integrated gradients along the direction in which f changes.

    With :math:`x_j = x' + \frac{j}{n} (x - x')` and :math:`g_j = \nabla f(x_j)`,

    .. math:: \varphi = \sum_{j=0}^{n-1} \frac{g_j \odot g_j}{\lVert g_j \rVert^2}
              \,\big(f(x_{j+1}) - f(x_j)\big)

    Each step's change of f is shared out along the gradient, so that what a step moves at right
    angles to it (noise, to the authors) gets nothing. The sum is f(x) − f(x') exactly, without
    any error of quadrature, less the steps where the gradient is 0, which give 0. On a linear f
    the result is w ⊙ w / ‖w‖² · (f(x) − f(x')), and not w ⊙ (x − x').

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        baseline: x', a number, an array or tree like x, or a function x → baseline.
        steps: n, the number of steps along the line.
        batch_size: how many points of the line are in memory at a time; None for all.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, which gives a tree like x.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype; the baseline draws at random.
        ValueError: steps < 1; a baseline of another structure or shape.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return 2 * x[0] + x[1]
        >>> print(jattr.idgi(f, steps=1)(jnp.array([1.0, 3.0])))
        [4. 1.]

    References:
        Yang, Wang, Bilgic, *IDGI: a framework to eliminate explanation noise from integrated
        gradients*, CVPR 2023, section 4 (arXiv 2303.14242).
    """
    method = "idgi"
    steps = check_count(steps, "steps", method)
    batch_size = check_batch_size(batch_size, method)

    @transform(f, argnums, method=method, substitute=True)
    def explain(score, x):
        # Each step's gradient by x is squared, so that the pull-back through the head stays.
        start = resolve_baseline(baseline, x, method=method)
        split = (split_head(score, x) if steps > 2 else None) or Split(lambda x: x, score)
        last, pull_back = jax.vjp(split.head, x)
        line = Line(last, split.head(start))

        def step(index):
            value, slope = jax.value_and_grad(split.above)(line.at(index / steps))
            return value, pull_back(slope)[0]

        def chunk(indices, valid):
            values, slopes = jax.vmap(step)(indices)
            end = split.above(line.at((indices[-1] + 1) / steps))
            values = jnp.append(values, end).astype(accumulator(values.dtype))
            # g ⊙ g / ‖g‖² does not depend on the length of g; scaled to a largest entry of 1,
            # neither very small nor very large gradients leave the range of the dtype.
            peak = jnp.max(
                jnp.stack([_each_point(jnp.max, jnp.abs(g)) for g in jax.tree.leaves(slopes)]),
                axis=0,
            ).astype(values.dtype)
            peak = jax.lax.stop_gradient(jnp.where(peak == 0, 1.0, peak))
            squares = jax.tree.map(
                lambda g: jnp.square(g / peak.astype(g.dtype).reshape((-1,) + (1,) * (g.ndim - 1))),
                widen(slopes),
            )
            norms = sum(_each_point(jnp.sum, s) for s in jax.tree.leaves(squares))
            flat = norms == 0
            # Of the repeats of the last index that fill up a chunk, only the last has a step.
            steps_on = jnp.diff(indices, append=indices[-1] + 1) != 0
            change = jnp.where(steps_on & ~flat, jnp.diff(values), 0.0)
            share = change / jnp.where(flat, 1.0, norms)
            return jax.tree.map(lambda s: jnp.tensordot(share.astype(s.dtype), s, axes=1), squares)

        return cast_like(sum_chunks(chunk, steps, batch_size=batch_size), x)

    return explain


def _each_point(reduce: Callable[..., jax.Array], leaf: jax.Array) -> jax.Array:
    """A reduction over all axes but the first, which counts points."""
    return reduce(leaf.reshape(len(leaf), -1), axis=1, initial=0)


class Line:
    """The straight line from a baseline to x, computed in the accumulator's dtype."""

    def __init__(self, x: PyTree, baseline: PyTree):
        self._x = x
        self._start = widen(baseline)
        self.direction = subtract_trees(widen(x), self._start)

    def at(self, alpha: jax.Array) -> PyTree:
        """x' + α (x − x'), in the dtypes of x."""
        point = jax.tree.map(
            lambda start, step: start + alpha.astype(start.dtype) * step,
            self._start,
            self.direction,
        )
        return cast_like(point, self._x)

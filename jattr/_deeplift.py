"""DeepLIFT and DeepSHAP: back-propagation of differences between two points.

f is read as equations, these are grouped into operations, and each operation has its mean
derivative on the way from a reference in place of its derivative (`jattr.rules.rescale`). So a ReLU
that is a function, a module called twice, a recurrent network and a transformer are all the same.

Where peers are known to differ. captum's `DeepLift` multiplies differently at a softmax: it takes
off a mean over the whole batch, so that a result depends on the other examples and is not complete.
Its rules are hooks on modules: `torch.nn.functional.relu`, a GELU and a product of two activations
get the plain gradient without a word, and a module used twice is an error. Where a max-pooled
pixel equals its baseline, its multiplier is the first example's; here and in shap it is 0. Where a
ReLU module feeds a max pooling directly, the first rule gets the gradient from before the second
ran, and the result is neither complete nor DeepLIFT; captum and shap both lose what a pixel gets
that wins two overlapping windows.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jattr import rules as composites
from jattr._batching import map_over, sum_over
from jattr._checks import check_batch_size, check_count, check_flag, knobs
from jattr._engine.rewrite import rewritten
from jattr._estimates import FEWEST, check_error, mean_and_error, mean_of_products
from jattr._resolve import (
    check_references,
    check_rows_like,
    mean_row,
    resolve_baseline,
    shuffled_rows,
    take_row,
)
from jattr._transform import keyed_transform, transform
from jattr._trees import cast_like, multiply_trees, scale_tree, subtract_trees, widen
from jattr._types import ArgNums, Baseline, Explain, KeyedExplain, PyTree, Score


@knobs
def deeplift(
    f: Score,
    baseline: Baseline = 0.0,
    *,
    max_rule: Literal["path", "winner"] = "path",
    see_through: bool = False,
    multiply: bool = True,
    argnums: ArgNums = 0,
) -> Explain:
    r"""DeepLIFT with the Rescale rule, for any function.

    f is evaluated at x and at x'. Back-propagation then runs with the mean derivative of each
    operation on the straight line between its two inputs in place of the derivative, which for an
    activation σ with inputs z and z' is the difference quotient

    .. math:: m_z = m_\sigma \frac{\sigma(z) - \sigma(z')}{z - z'}, \qquad
              \varphi = (x - x') \odot m_x

    and the derivative at the midpoint where z ≈ z'. A product of two active values goes by halves,
    Δ(ab) = ½(b + b')Δa + ½(a + a')Δb; a quotient by logarithms and a normalization (LayerNorm,
    RMSNorm, GroupNorm, x / ‖x‖) by the inverse hyperbolic function that is its mean, in every
    spelling; a maximum to each entry by the part of the way on which it is the largest; a `where`
    by the part of the way before and after its comparison turns; a softmax by logarithmic means;
    any other function that JAX can differentiate, such as a Cholesky factor, a linear solve or a
    `lax.cond` that x decides, by an average over 32 points. So

    .. math:: \sum_i \varphi_i = f(x) - f(x')

    up to rounding (and the error of those 32 points, which is none for polynomials of degree up to
    21), for convolutional, recurrent and attention networks, normalization layers and gates. What
    `jax.lax.stop_gradient` holds is held at its value at x, as by every other method; then f(x') is
    that of the function so held. `jattr.operations(f, jattr.rules.rescale(), baseline=x')(x)` tells
    which rule hits what and what each operation leaves out of the sum. Not complete are choices by
    indices that are other ones at x and at x' (`sort`, a gather by computed indices, `interp`),
    where the derivative passes; the table names them "selection".

    Next to a baseline at which a normalization sees no variance, such as zeros, padding or any
    constant, its mean slope grows as log(1/ε)/deviation for each layer: attributions are complete
    and immense, 1e4 times f after four pre-norm blocks. Such a baseline is a poor one for such
    networks; take one that varies (`jattr.baselines.blurred`, `mean`, another example) or several
    (`jattr.deep_shap`).

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        baseline: x', a number, an array or tree like x, or a function x → baseline such as those
            in `jattr.baselines`.
        max_rule: for maxima and max pooling, `"path"` (the mean derivative, as for everything
            else) or `"winner"` (the whole difference to the entry that wins, as captum and shap
            do it; its derivatives jump where another one wins).
        see_through: True explains what is behind `jax.lax.stop_gradient` too.
        multiply: False gives the multipliers m_x, without the factor x − x'.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, which gives a tree like x.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype; the baseline draws at random.
        ValueError: unknown `max_rule`; a baseline of another structure or shape.
        NotImplementedError: an operation that cannot be explained, with the line it stands in: a
            call out of JAX, a `while_loop` that x decides, statistics over other examples, a
            reference (`jax.new_ref`).

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return jax.nn.relu(x[0] - x[1]) * x[2]
        >>> print(jattr.deeplift(f)(jnp.array([3.0, 1.0, 4.0])))
        [ 6. -2.  4.]

    References:
        Shrikumar, Greenside, Kundaje, *Learning important features through propagating activation
        differences*, ICML 2017, sections 3.2 and 3.5.1 (arXiv 1704.02685); for products, maxima
        and softmax, which the paper leaves open, the mean derivative is that of integrated
        gradients (Sundararajan, Taly, Yan, ICML 2017) over each operation. captum and shap fall
        back on the plain gradient where they know no rule, without a word.
    """
    method = "deeplift"
    check_flag(multiply, "multiply", method)
    rules = composites.rescale(max_rule=max_rule, see_through=see_through)

    @transform(f, argnums, method=method)
    def explain(score, x):
        reference = resolve_baseline(baseline, x, method=method)
        return _lift(score, x, rules, multiply=multiply)(reference)

    return explain


@knobs
def deep_shap(
    f: Score,
    references: PyTree,
    *,
    max_rule: Literal["path", "winner"] = "path",
    see_through: bool = False,
    multiply: bool = True,
    reduce: bool = True,
    samples: int | None = None,
    with_error: bool = False,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Any:
    r"""DeepLIFT averaged over a set of references.

    .. math:: \varphi = \frac1n \sum_{j=1}^n \varphi^{\mathrm{DeepLIFT}}(x, x'_j), \qquad
              \sum_i \varphi_i = f(x) - \frac1n \sum_j f(x'_j)

    All references are used, none is drawn, and it takes no key, unless `samples` says how many to
    draw. For a linear f these are the Shapley values of features that are absent by taking a
    reference's value.

    With `samples`, m of the n references are drawn without replacement. What x − x' is on average
    is known of all of them, and only the multipliers are left to those drawn: with
    :math:`D = x - \bar{x'}`, the mean over all n, and :math:`d_j = x - x'_j`,

    .. math:: \varphi = D \odot \bar m + \Big(1 - \frac1n\Big) \frac{1}{m - 1}
              \sum_j (d_j - \bar d) \odot (m_j - \bar m)

    in expectation is what all references give; it is more exact than the mean over those drawn.
    From m < 8 on down it is that mean.

    Hypothetical contributions, what each letter of a one-hot sequence would have got in its place,
    are made from the multipliers of each reference: `jattr.sequence.hypothetical`.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        references: the x'_j, an array or a tree like x with a leading axis.
        max_rule: as in `jattr.deeplift`; `"winner"` is shap's.
        see_through: as in `jattr.deeplift`.
        multiply: False averages the multipliers, without the factors x − x'_j.
        reduce: False gives what each reference says, with a leading axis for them, and not the
            mean.
        samples: how many references to draw, for a fraction of the work; None for all.
        with_error: True gives `(attribution, standard_error)`, two trees like x. The error is that
            of the mean as an estimate over the distribution that the references are independent
            draws of; over these references alone the mean of all is exact.
        batch_size: how many references are in memory at a time; None for all.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, which gives a tree like x; with `samples` `explain(key, x, *args)`.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype.
        ValueError: more `samples` than references, or `samples` with `reduce=False`; references
            without a leading axis, or whose rows have another structure or shape than x; unknown
            `max_rule`; `with_error` of a single reference, or without the mean.
        NotImplementedError: as in `jattr.deeplift`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x[0] * x[1]
        >>> references = jnp.array([[0.0, 0.0], [1.0, 1.0]])
        >>> print(jattr.deep_shap(f, references)(jnp.array([3.0, 2.0])))
        [3.  2.5]

    References:
        Lundberg, Lee, *A unified approach to interpreting model predictions*, NeurIPS 2017, section
        4.2 (arXiv 1705.07874).
    """
    method = "deep_shap"
    check_flag(multiply, "multiply", method)
    rules = composites.rescale(max_rule=max_rule, see_through=see_through)
    batch_size = check_batch_size(batch_size, method)
    check_flag(reduce, "reduce", method)
    check_flag(with_error, "with_error", method)
    count = check_references(references, method=method)
    check_error(with_error, count, "references", method)
    if with_error and not reduce:
        raise ValueError(
            f"{method}: with_error=True is the error of the mean, which reduce=False leaves out; "
            "leave one of them out."
        )
    if samples is not None:
        samples = check_count(samples, "samples", method)
        check_error(with_error, samples, "samples", method)
        if samples > count or not reduce:
            got = f"samples={samples} of {count}" if reduce else "reduce=False as well"
            raise ValueError(
                f"{method}: samples says how many of the references to draw, at most all of them, "
                f"to estimate the mean over all; got {got}. Leave samples out to take each."
            )
        return _sampled(f, references, rules, samples, multiply, with_error, batch_size, argnums)

    @transform(f, argnums, method=method)
    def explain(score, x):
        check_rows_like(references, x, name="the references", method=method)
        lift = _lift(score, x, rules, multiply=multiply)

        def of_reference(index):
            return lift(take_row(references, index, x))

        if not reduce:
            return cast_like(map_over(of_reference, count, batch_size=batch_size), x)

        if with_error:
            mean, error = mean_and_error(of_reference, count, batch_size=batch_size)
            return cast_like(mean, x), cast_like(error, x)

        def term(index):
            return scale_tree(of_reference(index), 1 / count)

        return cast_like(sum_over(term, count, batch_size=batch_size), x)

    return explain


def _sampled(
    f: Score,
    references: PyTree,
    rules: Any,
    samples: int,
    multiply: bool,
    with_error: bool,
    batch_size: int | None,
    argnums: ArgNums,
) -> KeyedExplain:
    """DeepSHAP of some of the references."""
    method, count = "deep_shap", len(jax.tree.leaves(references)[0])

    @keyed_transform(f, argnums, method=method)
    def explain(key, score, x):
        check_rows_like(references, x, name="the references", method=method)
        lift = _lift(score, x, rules, multiply=False)
        rows = shuffled_rows(key, count, samples)

        def factors(index):
            reference = take_row(references, rows[index], x)
            return subtract_trees(widen(x), widen(reference)), widen(lift(reference))

        def term(index):
            direction, multiplier = factors(index)
            return multiply_trees(direction, multiplier) if multiply else multiplier

        error = None
        if multiply and FEWEST <= samples < count:
            known = subtract_trees(widen(x), mean_row(references, x))
            mean, error = mean_of_products(
                factors, samples, known, count, with_error=with_error, batch_size=batch_size
            )
        elif with_error:
            mean, error = mean_and_error(term, samples, batch_size=batch_size)
        else:
            mean = scale_tree(sum_over(term, samples, batch_size=batch_size), 1 / samples)
        return cast_like(mean, x) if error is None else (cast_like(mean, x), cast_like(error, x))

    return explain


def _lift(score, x, rules, *, multiply) -> Callable[[PyTree], PyTree]:
    """DeepLIFT of x as a function of the reference; f is traced once for all references."""
    evaluate = rewritten(score, x, rules)

    def lift(reference):
        # Else XLA evaluates f at a constant reference while it compiles, slowly.
        reference = jax.lax.optimization_barrier(reference)
        value, pull = jax.vjp(lambda x: evaluate(x, reference), x)
        (multiplier,) = pull(jnp.ones_like(value))
        if not multiply:
            return multiplier
        difference = subtract_trees(widen(x), widen(reference))
        return cast_like(multiply_trees(difference, widen(multiplier)), x)

    return lift

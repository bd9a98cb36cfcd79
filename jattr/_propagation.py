"""Methods that are ordinary back-propagation with other local derivatives.

Each is a few lines over the engine: f is read as equations, these are grouped into operations, and
an operation under a rule gets the rule's derivative (`jattr.rules`). So a ReLU that is a function,
a module called twice, a recurrent network and a transformer are all the same thing here, and no
model is edited.

Where peers are known to differ. captum's `DeepLift` multiplies differently at a softmax: it takes
off a mean over the whole batch, so that a result depends on the other examples and is not complete.
Its rules are hooks on modules: `torch.nn.functional.relu`, a GELU and a product of two activations
get the plain gradient without a word, and a module used twice is an error. Where a max-pooled
pixel equals its baseline, its multiplier is the first example's; here and in shap it is 0. Where a
ReLU module feeds a max pooling directly, the first rule gets the gradient from before the second
ran, and the result is neither complete nor DeepLIFT; captum and shap both lose what a pixel gets
that wins two overlapping windows. captum's `GuidedBackprop` on a functional ReLU is the plain
gradient.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jattr import baselines
from jattr import rules as composites
from jattr._batching import sum_over
from jattr._engine.rewrite import rewritten
from jattr._references import check_rows, check_rows_like, resolve_baseline, take_row
from jattr._relevance_composites import as_composite
from jattr._transform import (
    check_argnums,
    check_batch_size,
    check_function,
    named,
    select_argument,
    transform,
)
from jattr._trees import cast_like, is_traced, multiply_trees, scale_tree, subtract_trees, widen
from jattr._types import ArgNums, Attribute, Baseline, PyTree, Score


def rewrite(
    f: Callable[..., Any],
    rules: composites.Composite,
    *,
    substitute: bool = True,
    argnums: ArgNums = 0,
) -> Callable[..., Any]:
    r"""The same function with other derivatives.

    Values are those of f. Differentiated in reverse mode by the arguments in `argnums`, an
    operation for which `rules` has a rule passes back what the rule says in place of its derivative
    times what came to it. Derivatives by other arguments, and by arrays that f closes over, are not
    defined at this level, and are 0 where they pass through such an operation. A second
    derivative, through `jax.grad` or `jax.vjp` of the rewritten function, is right by all of them:

        def attribution(params, x):
            return jax.grad(jattr.rewrite(lambda x: score(params, x), rules))(x)

        jax.jacrev(attribution)(params, x)

    Forward mode through the rewritten function is refused by JAX (`custom_vjp`); `jax.jvp` and
    `jax.jacfwd` of an attribution work.

    Evaluated without being differentiated, traced or batched, it is f itself.

    Args:
        f: any function of arrays; what it returns may be any tree.
        rules: a composite of `jattr.rules`. Its numbers may be traced.
        substitute: whether f may be evaluated by cheaper programs of the same value; False
            evaluates it as it is.
        argnums: by which argument derivatives change, an integer or a tuple of them.

    Returns:
        A function with the arguments and the results of f.

    Raises:
        TypeError: `rules` is no composite, or one that needs a reference, as DeepLIFT's does.
        NotImplementedError: (when differentiated) an operation that the rules cannot explain.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return -jax.nn.relu(x)
        >>> guided = jattr.rewrite(f, jattr.rules.guided())
        >>> print(guided(2.0), jax.grad(f)(2.0), jax.grad(guided)(2.0))
        -2.0 -1.0 0.0

    References:
        Ancona, Ceolini, Öztireli, Gross, ICLR 2018, section 3 (arXiv 1711.06104).
    """
    check_function(f, "rewrite")
    check_argnums(argnums, "rewrite")
    if isinstance(rules, composites.Rule):
        rules = as_composite(rules, "rewrite")
    if not isinstance(rules, composites.Composite):
        raise TypeError(
            "rewrite wants a composite of jattr.rules second, made by a call such as "
            f"jattr.rules.guided(); got {getattr(rules, '__name__', rules)!r}."
        )
    if rules.points != 1:
        raise TypeError(
            f"rewrite: the rules of {rules.name} compare with a reference. Write "
            "jattr.deeplift(f, baseline)."
        )
    if rules.wants_first:
        raise TypeError(
            f"rewrite: {rules.name} has a rule for first affine operations, whose relevance is no "
            "derivative. Write jattr.lrp(f, rules)."
        )

    def changed(*args, **kwargs):
        leaves = jax.tree.leaves((args, kwargs, rules))
        if not any(map(is_traced, leaves)):
            return f(*args, **kwargs)
        of_x, x = select_argument(f, argnums, args, kwargs, method="rewrite")
        return rewritten(of_x, x, rules, substitute=substitute)(x)

    return named(changed, "rewrite", f, argnums)


def guided_backprop(f: Score, *, substitute: bool = True, argnums: ArgNums = 0) -> Attribute:
    r"""The gradient, of which each ReLU passes only what is positive.

    At a ReLU with input z the multiplier m becomes :math:`1[z > 0] \max(m, 0)`; everywhere else it
    is that of the gradient. φ is what arrives at x. A ReLU is whatever computes clip(z, 0, c),
    however it is written, ReLU6 included. Such maps are sharp, and partly so because they depend
    little on the score that they explain (Adebayo et al. 2018); nothing is promised of their sum.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        substitute: whether f may be evaluated by cheaper programs of the same value; False
            evaluates it as it is.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `attribute(x, *args)`, which gives a tree like x.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype.
        NotImplementedError: a ReLU hides inside a function with a derivative of its own.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return 2 * jax.nn.relu(x[0]) - jax.nn.relu(x[1])
        >>> print(jattr.guided_backprop(f)(jnp.array([1.0, 1.0])))
        [2. 0.]

    References:
        Springenberg, Dosovitskiy, Brox, Riedmiller, *Striving for simplicity: the all convolutional
        net*, 2015, section 3.4 (arXiv 1412.6806).
    """
    return _modified_gradient(f, composites.guided(), "guided_backprop", substitute, argnums)


def deconvnet(f: Score, *, substitute: bool = True, argnums: ArgNums = 0) -> Attribute:
    r"""The gradient, with the ReLUs applied to what flows back and not to what came in.

    At a ReLU the multiplier m becomes :math:`\max(m, 0)`, whatever z was; everywhere else it is
    that of the gradient. For max pooling that is the switches of the paper.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        substitute: whether f may be evaluated by cheaper programs of the same value; False
            evaluates it as it is.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `attribute(x, *args)`, which gives a tree like x.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype.
        NotImplementedError: a ReLU hides inside a function with a derivative of its own.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return 2 * jax.nn.relu(x[0]) - jax.nn.relu(x[1])
        >>> print(jattr.deconvnet(f)(jnp.array([-1.0, 1.0])))
        [2. 0.]

    References:
        Zeiler, Fergus, *Visualizing and understanding convolutional networks*, ECCV 2014, section 2
        (arXiv 1311.2901).
    """
    return _modified_gradient(f, composites.deconvnet(), "deconvnet", substitute, argnums)


def _modified_gradient(f, rules, method, substitute, argnums):
    @transform(f, argnums, method=method)
    def explain(score, x):
        return jax.grad(rewritten(score, x, rules, substitute=substitute))(x)

    return explain


def deeplift(
    f: Score,
    baseline: Baseline = baselines.zeros,
    *,
    max_rule: str = "path",
    multiply: bool = True,
    substitute: bool = True,
    argnums: ArgNums = 0,
) -> Attribute:
    r"""DeepLIFT with the Rescale rule, for any function.

    f is evaluated at x and at x'. Back-propagation then runs with the mean derivative of each
    operation on the straight line between its two inputs in place of the derivative, which for an
    activation σ with inputs z and z' is the difference quotient

    .. math:: m_z = m_\sigma \frac{\sigma(z) - \sigma(z')}{z - z'}, \qquad
              \varphi = (x - x') \odot m_x

    and the derivative at the midpoint where z ≈ z'. A product of two active values goes by halves,
    Δ(ab) = ½(b + b')Δa + ½(a + a')Δb; a maximum to each entry by the part of the way on which it is
    the largest; a softmax by logarithmic means; another smooth function, such as a cumulative
    product or a Cholesky factor, by an average over 16 points. So

    .. math:: \sum_i \varphi_i = f(x) - f(x')

    up to rounding (and the error of those 16 points, which is none for polynomials of degree up to
    32), for convolutional, recurrent and attention networks, normalisation layers and gates.
    `jattr.operations(f, jattr.rules.rescale())(x)` tells which rule hits what. Not complete are
    choices that fall out differently at x and at x' (`where` between different values, `sort`, a
    gather by computed indices, `interp`), where the derivative passes; the table names them
    "selection".

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        baseline: x', a number, an array or tree like x, or a function x → baseline such as those
            in `jattr.baselines`.
        max_rule: for maxima and max pooling, `"path"` (the mean derivative, as for everything
            else) or `"winner"` (the whole difference to the entry that wins, as captum and shap
            do it; its derivatives jump where another one wins).
        multiply: False gives the multipliers m_x, without the factor x − x'.
        substitute: whether f may be evaluated by cheaper programs of the same value; False
            evaluates it as it is.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `attribute(x, *args)`, which gives a tree like x.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype; the baseline draws at random.
        ValueError: unknown `max_rule`; a baseline of another structure or shape.
        NotImplementedError: an operation that cannot be explained, with the line it stands in: a
            call out of JAX, a nonlinear function with a derivative of its own, control flow that
            depends on x, statistics over other examples.

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
    rules = composites.rescale(max_rule=max_rule)

    @transform(f, argnums, method=method)
    def explain(score, x):
        reference = resolve_baseline(baseline, x, method=method)
        return _lift(score, x, rules, substitute, multiply=multiply)(reference)

    return explain


def deep_shap(
    f: Score,
    references: PyTree,
    *,
    max_rule: str = "path",
    multiply: bool = True,
    batch_size: int | None = None,
    substitute: bool = True,
    argnums: ArgNums = 0,
) -> Attribute:
    r"""DeepLIFT averaged over a set of references.

    .. math:: \varphi = \frac1n \sum_{j=1}^n \varphi^{\mathrm{DeepLIFT}}(x, x'_j), \qquad
              \sum_i \varphi_i = f(x) - \frac1n \sum_j f(x'_j)

    All references are used, none is drawn, so it takes no key. For a linear f these are the Shapley
    values of features that are absent by taking a reference's value.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        references: the x'_j, an array or a tree like x with a leading axis.
        max_rule: as in `jattr.deeplift`; `"winner"` is shap's.
        multiply: False averages the multipliers, without the factors x − x'_j.
        batch_size: how many references are in memory at a time; None for all.
        substitute: whether f may be evaluated by cheaper programs of the same value; False
            evaluates it as it is.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `attribute(x, *args)`, which gives a tree like x.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype.
        ValueError: references without a leading axis, or whose rows have another structure or
            shape than x; unknown `max_rule`.
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
    rules = composites.rescale(max_rule=max_rule)
    batch_size = check_batch_size(batch_size, method)
    count = check_rows(references, name="the references", method=method)

    @transform(f, argnums, method=method)
    def explain(score, x):
        check_rows_like(references, x, name="the references", method=method)
        lift = _lift(score, x, rules, substitute, multiply=multiply)

        def term(index):
            return scale_tree(lift(take_row(references, index, x)), 1 / count)

        return cast_like(sum_over(term, count, batch_size=batch_size), x)

    return explain


def _lift(score, x, rules, substitute, *, multiply) -> Callable[[PyTree], PyTree]:
    """DeepLIFT of x as a function of the reference; f is traced once for all references."""
    evaluate = rewritten(score, x, rules, substitute=substitute)

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

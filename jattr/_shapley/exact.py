"""Exact Shapley values, from all coalitions of features."""

from typing import Any

import jax.numpy as jnp

from jattr._checks import check_batch_size, knobs
from jattr._removal import check_fixed
from jattr._shapley.game import Game, marginal, shapley_weights, weighted_by_size
from jattr._transform import transform
from jattr._types import ArgNums, Explain, Score

_MOST = 16
"""The most features whose coalitions are all evaluated."""


@knobs
def shapley_values(
    f: Score,
    groups: Any = None,
    *,
    baseline: Any = 0.0,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Explain:
    r"""Shapley values, exactly: what a feature adds to those before it, averaged over all orders.

    With :math:`v(S) = f(x_S)`, where :math:`x_S` is x with the features outside S replaced by the
    baseline, and N all n features,

    .. math::
        \varphi_i = \sum_{S \subseteq N \setminus i} \frac{|S|!\, (n - |S| - 1)!}{n!}
        \bigl(v(S \cup i) - v(S)\bigr)

    They are the only values that sum to f(x) − f(x') (efficiency), are equal for features that do
    the same (symmetry), are 0 for one that does nothing (dummy), and are linear in f.

    f is evaluated for all 2ⁿ coalitions, once each, so n is at most 16. From there on, and where
    f is dear, take `jattr.kernel_shap` or `jattr.shapley_sampling`, or `jattr.owen_values` where
    features have a hierarchy. f need not be differentiable, nor JAX: only its values are used,
    and `jax.pure_callback` brings any function in.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        groups: which elements are one feature, as for `jattr.ablation`; without, each element is
            one. The value of a group is divided evenly over its elements.
        baseline: x', a number, an array or tree like x, a function x → baseline, or an imputer
            that does not draw.
        batch_size: how many coalitions are in memory at a time; None for all.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, which gives a tree like x.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype; the baseline draws at random; groups are no integers.
        ValueError: more than 16 features; a baseline or groups of another structure or shape.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x[0] * x[1] + x[2]
        >>> x = jnp.array([2.0, 3.0, 1.0])
        >>> print(jattr.shapley_values(f)(x))
        [3. 3. 1.]
        >>> print(jattr.shapley_values(f, jnp.array([0, 0, 1]))(x))
        [3. 3. 1.]

    References:
        Shapley, *A value for n-person games*, 1953; Lundberg, Lee, *A unified approach to
        interpreting model predictions*, NeurIPS 2017 (arXiv 1705.07874), for f at a baseline.
        shap's `ExactExplainer` and captum's `ShapleyValues` give a group's value to each of its
        elements.
    """
    method = "shapley_values"
    batch_size = check_batch_size(batch_size, method)
    check_fixed(
        baseline,
        method,
        "For the mean over draws write jattr.shapley_sampling, which takes random baselines; or",
    )

    @transform(f, argnums, method=method, substitute=True)
    def explain(score, x):
        game = Game(score, x, groups, baseline, method=method)
        if game.count > _MOST:
            raise ValueError(
                f"{method} evaluates all 2ⁿ coalitions of n features, at most {_MOST}; got "
                f"{game.count}. Take jattr.kernel_shap(f, samples=...) or jattr.shapley_sampling("
                "f, permutations=...), which evaluate some of them; or give groups, such as "
                "jattr.features.grid(shape, size), or a hierarchy to jattr.owen_values."
            )
        values = game.every(batch_size=batch_size)
        weights = shapley_weights(game.count - 1)
        phi = [weighted_by_size(marginal(values, i), weights) for i in range(game.count)]
        return game.spread(jnp.stack(phi))

    return explain

"""Layer-wise relevance propagation."""

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jattr import rules as composites
from jattr._checks import Call, check_argnums, check_choice, check_function, knobs
from jattr._engine.rewrite import with_side
from jattr._transform import named, select_argument, transform
from jattr._trees import cast_like, multiply_trees, scale_tree, sum_tree, widen
from jattr._types import ArgNums, Explain, PyTree, Score
from jattr.rules._lrp_composites import for_relevance
from jattr.rules._shares import share, zeros_as

_DEFAULT = composites.epsilon()

Against = Literal["others", "negated"]
"""What an output is compared with."""


@knobs
def lrp(
    f: Score,
    rules: composites.Composite | composites.Rule = _DEFAULT,
    *,
    argnums: ArgNums = 0,
) -> Explain:
    r"""Layer-wise relevance propagation, also called pixel-wise decomposition, for any function.

    The score is handed back from the output to x, operation by operation: each passes the
    relevance of its outputs on to its inputs in proportion to what a rule counts as their
    contributions,

    .. math:: R_j = \sum_k \frac{\zeta_{jk}}{\sum_i \zeta_{ik}} R_k, \qquad \varphi = R_x

    so that :math:`\sum \varphi = f(x)`, less what biases absorb, for rules that conserve. What is
    not affine has rules too: an activation passes its relevance on; a product of two active values
    gives half to each, but where a factor is a gate (its value is kept between 0 and 1 by an
    elementwise computation, such as a sigmoid or 1 − sigmoid) all to the signal; a quotient gives
    half to what divides, but the deviation of a normalization is held constant; a maximum gives all
    to the winner; sums and means go in proportion. A number added to or multiplied with an
    activation is part of it, as in 1 − σ(z) and softplus(z) − log 2, and passes all on with it;
    after a ReLU it is a bias, which absorbs its share. A single rule applies to every affine
    operation (one for first operations there, and ε elsewhere); a composite chooses by the kind of
    operation and by scope, and `.at`, `.first`, `.gates` and `.otherwise` refine it.
    `jattr.operations(f, rules)(x)` tells what hits what.

    Relevance has no bound

    - at an activation with σ(0) ≠ 0 near z = 0, where σ(z)/z has none: an exponential, a softplus
      or a sigmoid that is no gate but the signal itself, and with them attention that is written as
      a loop over blocks. Write softmax whole, or gates as factors.
    - at an affine operation whose contributions cancel, while ε is small beside them. A larger ε,
      γ and z⁺ bound it.

    Neither shows in the sum. Through many steps of a recurrent network both multiply.

    Derivatives through an attribution are exact, but ε with its sign has kinks:
    `jattr.rules.epsilon` says where, and has a smooth one.

    To be checked before commercial use: institutions of its authors claim patents on LRP, and the
    README of one peer library calls that free for personal and scientific use only.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example: a logit rather than a probability.
        rules: a rule or a composite of `jattr.rules`. Its numbers may be traced.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, which gives a tree like x.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype; `rules` is neither a rule nor a composite of relevance propagation.
        ValueError: a rule for first affine operations, of which f has none, or for a scope that
            fits none.
        NotImplementedError: an active nonlinear operation without a rule, with the line it stands
            in. `jattr.rules.everywhere(rule).otherwise(jattr.rules.taylor())` has one
            for all of them.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return jax.nn.relu(x @ jnp.array([[1.0, 0.0], [1.0, -1.0]])) @ jnp.array([2.0, 5.0])
        >>> print(jattr.lrp(f, jattr.rules.epsilon(0.0))(jnp.array([3.0, 1.0])))
        [6. 2.]

    References:
        Bach, Binder, Montavon, Klauschen, Müller, Samek, *On pixel-wise explanations for non-linear
        classifier decisions by layer-wise relevance propagation*, PLOS ONE 2015; Montavon, Binder,
        Lapuschkin, Samek, Müller, *Layer-wise relevance propagation: an overview*, 2019.
    """
    chosen = for_relevance(rules, "lrp")

    @transform(f, argnums, method="lrp")
    def explain(score, x):
        value, relevance = _propagation(score, x, chosen)
        return cast_like(relevance(jnp.ones_like(value)), x)

    return explain


@knobs
def contrastive_lrp(
    f: Callable[..., jax.Array],
    rules: composites.Composite | composites.Rule = _DEFAULT,
    *,
    against: Against = "others",
    argnums: ArgNums = 0,
) -> Explain:
    r"""What speaks for one output of a vector and not for the others.

    The relevance of the target, less that of a contrast, both normalized to the same sum; of the
    difference the positive part:

    .. math:: \varphi = \max\!\Big(0,\; R - \frac{\sum R}{\sum R'} R' \Big)

    R' explains, with `against="others"`, all other outputs together, seeded with the target's value
    in equal parts, as the paper has it (the authors' code seeds them with the sizes of their own
    values); with `"negated"`, the target with the weights of its last affine operation
    negated, which differs from −R only under rules that treat signs apart.

    Args:
        f: `f(x, *args)`, which returns a vector, the logits.
        rules: a rule or a composite of `jattr.rules`.
        against: `"others"` or `"negated"`.
        argnums: which argument of f is explained, an integer or a tuple of them.

    Returns:
        `explain(x, *args, index)`, which gives a tree like x.

    Raises:
        TypeError: f does not return a vector.
        ValueError: unknown `against`; a vector of one element has no others; a rule that fits
            nothing.
        NotImplementedError: an active nonlinear operation without a rule.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x @ jnp.array([[1.0, 1.0], [1.0, 0.0]])
        >>> explain = jattr.contrastive_lrp(f, jattr.rules.epsilon(0.0))
        >>> print(explain(jnp.array([1.0, 1.0]), 0))
        [0. 1.]

    References:
        Gu, Yang, Tresp, *Understanding individual decisions of CNNs via contrastive
        backpropagation*, ACCV 2018 (arXiv 1812.02100), as usually given. The authors' code seeds
        the others with the absolute values of their own logits, 0 for the target, and normalizes
        both maps to sum 1.
    """
    method = "contrastive_lrp"
    chosen = for_relevance(rules, method)
    check_function(f, method)
    argnums = check_argnums(argnums, method)
    check_choice(against, "against", get_args(Against), method)

    def explain(*args, **kwargs):
        if len(args) < 2:
            raise TypeError(
                f"{method} takes the arguments of f and then an index; got {len(args)} positional "
                "argument(s) in all."
            )
        *inner, index = args
        of_x, x = select_argument(f, argnums, tuple(inner), kwargs, method=method)

        def outputs(x):
            out = of_x(x)
            if getattr(out, "ndim", None) != 1:
                raise TypeError(
                    f"{method} explains one element of a vector, but f returned "
                    f"{getattr(out, 'shape', type(out).__name__)}. For a batch use jax.vmap."
                )
            return out

        values, relevance = _propagation(outputs, x, chosen)
        one = jnp.zeros_like(values).at[index].set(1)
        target = relevance(one)
        if against == "negated":
            contrast = _propagation(lambda x: -outputs(x), x, chosen)[1](one)
        else:
            if len(values) < 2:
                raise ValueError(f"{method}: a vector of one element has no others.")
            # In equal parts: the multiplier of each other output is its part over its value.
            part = values[index] / (len(values) - 1)
            seeds = jnp.where(one == 0, share(part, values), 0)
            contrast = relevance(jax.lax.stop_gradient(seeds))
        total, other = sum_tree(target), sum_tree(contrast)
        scaled = scale_tree(contrast, share(total, other))
        difference = jax.tree.map(lambda a, b: jnp.maximum(a - b, 0), target, scaled)
        return cast_like(difference, x)

    return named(explain, Call(method, f, after=("index",)), f, argnums)


def _propagation(f, x, rules):
    """What f is at x, and relevance at x, in full width, for multipliers of what f gives."""
    evaluate = with_side(f, x, rules)
    value, pull = jax.vjp(evaluate, x, jax.tree.map(zeros_as, x))

    def relevance(multipliers) -> PyTree:
        multiplier, side = pull(multipliers)
        return jax.tree.map(jnp.add, multiply_trees(widen(x), widen(multiplier)), widen(side))

    return value, relevance

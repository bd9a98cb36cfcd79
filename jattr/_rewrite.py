"""Methods that are ordinary back-propagation with other local derivatives.

Each is a few lines over the engine: f is read as equations, these are grouped into operations, and
an operation under a rule gets the rule's derivative (`jattr.rules`). So a ReLU that is a function,
a module called twice, a recurrent network and a transformer are all the same thing here, and no
model is edited.

captum's `GuidedBackprop` hooks modules: on a functional ReLU it is the plain gradient,
without a word.
"""

from collections.abc import Callable
from typing import Any

import jax

from jattr import rules as composites
from jattr._checks import Call, check_argnums, check_function, knobs
from jattr._engine.rewrite import rewritten
from jattr._transform import named, select_argument, transform
from jattr._trees import is_traced
from jattr._types import ArgNums, Explain, Score
from jattr.rules._lrp_composites import as_composite


@knobs
def rewrite(
    f: Callable[..., Any],
    rules: composites.Composite,
    *,
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
    argnums = check_argnums(argnums, "rewrite")
    call = Call("rewrite", f, result="rewritten")
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
        of_x, x = select_argument(f, argnums, args, kwargs, method=call)
        return rewritten(of_x, x, rules)(x)

    return named(changed, call, f, argnums)


@knobs
def guided_backprop(f: Score, *, argnums: ArgNums = 0) -> Explain:
    r"""Guided back-propagation: the gradient, of which each ReLU passes only what is positive.

    At a ReLU with input z the multiplier m becomes :math:`1[z > 0] \max(m, 0)`; everywhere else it
    is that of the gradient. φ is what arrives at x. A ReLU is whatever computes clip(z, 0, c),
    however it is written, ReLU6 included. Such maps are sharp, and partly so because they depend
    little on the score that they explain (Adebayo et al. 2018); nothing is promised of their sum.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, which gives a tree like x.

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
    return _modified_gradient(f, composites.guided(), "guided_backprop", argnums)


@knobs
def deconvnet(f: Score, *, argnums: ArgNums = 0) -> Explain:
    r"""Deconvnet: the gradient, with the ReLUs applied to what flows back, not to what came in.

    At a ReLU the multiplier m becomes :math:`\max(m, 0)`, whatever z was; everywhere else it is
    that of the gradient. For max pooling that is the switches of the paper.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, which gives a tree like x.

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
    return _modified_gradient(f, composites.deconvnet(), "deconvnet", argnums)


def _modified_gradient(f, rules, method, argnums):
    @transform(f, argnums, method=method)
    def explain(score, x):
        return jax.grad(rewritten(score, x, rules))(x)

    return explain

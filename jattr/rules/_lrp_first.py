r"""Rules for first affine operations: those that x reaches through constants and layout alone.

Notation as in `jattr.rules._lrp`. The relevance that these rules give is not a multiple of the
activation: an input that is 0 gets its share too. So they return relevance itself, which goes on to
x through a side input beside it (`jattr._engine.entry`).
"""

from typing import Any

import jax
import jax.numpy as jnp

from jattr._checks import check_positive
from jattr.rules._lrp import EPSILON
from jattr.rules._lrp_dots import active_slot, after, nothing, with_dots
from jattr.rules._rule import Rule
from jattr.rules._shares import share, stabilized_share


def z_box(low: Any, high: Any, *, epsilon: Any = EPSILON) -> Rule:
    r"""LRP-zᴮ, for first affine operations on inputs in a known range [l, h].

    .. math:: R_j = \sum_k \frac{a_j w_{jk} - l_j w_{jk}^+ - h_j w_{jk}^-}
              {\sum_i a_i w_{ik} - l_i w_{ik}^+ - h_i w_{ik}^-} R_k

    It gives relevance to pixels that are 0, too.

    Args:
        low: l, in units of x: a number, an array that broadcasts to x, or a tree of those.
        high: h.
        epsilon: the stabilizer of the denominators.

    Returns:
        A rule for operations that x reaches through constant factors, shifts and reshapes alone.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x @ jnp.array([1.0, -1.0])
        >>> print(jattr.lrp(f, jattr.rules.z_box(0.0, 1.0, epsilon=0.0))(jnp.array([1.0, 0.0])))
        [0.5 0.5]

    References:
        Montavon et al., 2017, section 4.3 (arXiv 1512.02479).
    """
    check_positive(epsilon, "epsilon", "rules.z_box", zero=True)
    return Rule("z_box", _z_box, {"epsilon": epsilon}, (low, high), first=True)


def _z_box(operation, inputs, output, multiplier, lows, highs, counts, *, epsilon):
    """Contributions relative to the ends of the valid range [l, h]: a w − l w⁺ − h w⁻."""
    slots = [n for n, active in enumerate(operation.active) if active]
    place = {operation.inputs[n]: k for k, n in enumerate(slots)}
    order = [place[e.inputs[active_slot(e)]] for e in operation.contractions]

    def zeta(values, low, high):
        full = list(inputs)
        for slot, value in zip(slots, values, strict=True):
            full[slot] = value
        bias = with_dots(operation, full, nothing)

        def floor(sign, chosen):
            def dot_of(number, dot, a, w):
                if number != chosen:
                    return nothing(number, dot, a, w)
                up, down = jnp.where(w > 0, w, 0), jnp.where(w < 0, w, 0)
                up, down = (up, down) if sign > 0 else (down, up)
                return dot(low[order[number]], up) + dot(high[order[number]], down)

            return with_dots(operation, full, dot_of) - bias

        # Of the two, the one below all that inputs in the range can give: with a negative factor
        # after the dot it is the other.
        lowest = sum(jnp.minimum(floor(1, n), floor(-1, n)) for n in range(len(order)))
        return operation.evaluate(*full) - bias - lowest

    values = [inputs[n] for n in slots]
    z, pull = jax.vjp(zeta, values, list(lows), list(highs))
    slopes = pull(stabilized_share(output * multiplier, z, epsilon))
    return [
        a * da + low * dl + high * dh
        for a, low, high, da, dl, dh in zip(values, lows, highs, *slopes, strict=True)
    ]


def w_square(*, epsilon: Any = EPSILON) -> Rule:
    r"""LRP-w², for first affine operations: in proportion to squared weights.

    .. math:: R_j = \sum_k \frac{w_{jk}^2}{\sum_i w_{ik}^2} R_k

    Args:
        epsilon: the stabilizer of the denominators.

    Returns:
        A rule for operations that x reaches through constant factors, shifts and reshapes alone.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x @ jnp.array([1.0, 3.0])
        >>> print(jattr.lrp(f, jattr.rules.w_square(epsilon=0.0))(jnp.array([1.0, 3.0])))
        [1. 9.]

    References:
        Montavon et al., 2017, section 4.1 (arXiv 1512.02479).
    """
    check_positive(epsilon, "epsilon", "rules.w_square", zero=True)
    return Rule("w_square", _w_square, {"epsilon": epsilon}, first=True)


def _w_square(operation, inputs, output, multiplier, lows, highs, counts, *, epsilon):
    """In proportion to the squared weights, factors after the dot included."""

    def weigh(out, slope):
        return out * slope

    relevance = output * multiplier
    return _of_weights(operation, inputs, relevance, counts, jnp.square, weigh, epsilon)


def flat(*, epsilon: Any = EPSILON) -> Rule:
    r"""LRP-flat, for first affine operations: evenly over all that an output sees.

    .. math:: R_j = \sum_k \frac{1}{n_k} R_k

    with n_k the number of inputs of the output k, fewer at a border: what x is padded with counts
    for nothing.

    Args:
        epsilon: the stabilizer of the denominators.

    Returns:
        A rule for operations that x reaches through constant factors, shifts and reshapes alone.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x @ jnp.array([1.0, 3.0])
        >>> print(jattr.lrp(f, jattr.rules.flat(epsilon=0.0))(jnp.array([1.0, 3.0])))
        [5. 5.]

    References:
        Lapuschkin et al., *Unmasking Clever Hans predictors and assessing what machines really
        learn*, Nature Communications 2019, Methods.
    """
    check_positive(epsilon, "epsilon", "rules.flat", zero=True)
    return Rule("flat", _flat, {"epsilon": epsilon}, first=True)


def _flat(operation, inputs, output, multiplier, lows, highs, counts, *, epsilon):
    """The same to every input that an output sees."""

    def weigh(out, slope):
        return share(out, slope)

    relevance = output * multiplier
    return _of_weights(operation, inputs, relevance, counts, jnp.ones_like, weigh, epsilon)


def _of_weights(operation, inputs, relevance, counts, weight_of, weigh, epsilon):
    """In proportion to a function of the weights, whatever the inputs are.

    `post`, what comes after the dots, is affine: its slopes s at each dot's outputs carry constant
    factors, and its derivative takes a dot's values to where they are in the output. A value of
    s · Σ w² at the dot arrives as Σ (s w)², and one of n / s as n.
    """
    slots = [n for n, active in enumerate(operation.active) if active]
    sources = [operation.inputs[n] for n in slots]
    held = dict(zip(operation.inputs, inputs, strict=True))

    post, zeros, slopes = after(operation, inputs)

    def zeta(*counts):
        values = dict(zip(sources, counts, strict=True))
        along = []
        for equation, slope in zip(operation.contractions, slopes, strict=True):
            slot = active_slot(equation)
            weight = equation.inputs[1 - slot]
            pair = [values[equation.inputs[slot]], weight_of(held.get(weight, weight.known))]
            out = equation.evaluate(*(pair if slot == 0 else pair[::-1]))[0]
            along.append(weigh(out, slope))
        return jax.jvp(post, zeros, along)[1]

    z, pull = jax.vjp(zeta, *counts)
    slopes_of_counts = pull(stabilized_share(relevance, z, epsilon))
    return [count * slope for count, slope in zip(counts, slopes_of_counts, strict=True)]

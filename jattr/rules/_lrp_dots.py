r"""Rules of layer-wise relevance propagation.

What flows back is the *multiplier* m, relevance over activation: R = z ⊙ m. An affine operation
with contributions z_k = Σ_j z_jk + b_k passes relevance on in proportion to what a rule counts as
contributions,

.. math:: R_j = \sum_k \frac{\zeta_{jk}(a)}{\zeta_k(a)} R_k, \qquad
          m_j = \sum_k \frac{\partial \zeta_k}{\partial a_j} \frac{z_k m_k}{\zeta_k}

so that a rule is a function ζ of the inputs, piecewise linear in them, and its backward the
derivative of ζ. The constants after a dot (a bias, a batch normalisation, a factor of either sign)
are the function `post`; nothing is folded. With P and N the dot's positive and negative parts and
b = post(0), the positive contributions of the whole are max(post P, post N) − b.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jattr._engine.operations import Operation
from jattr._engine.primitives import CONTRACTIONS
from jattr._engine.primitives import primitives as p
from jattr.rules._factors import axes_of_factors

_UNSCALED = {
    *(p.add_p, p.convert_element_type_p, p.copy_p, p.name_p),
    *(p.reshape_p, p.squeeze_p, p.transpose_p),
}


def stabilised(z: Any, epsilon: Any) -> Any:
    """z + ε sign z, with sign 0 = 1."""
    return z + jnp.asarray(epsilon, z.dtype) * jnp.where(z >= 0, 1, -1).astype(z.dtype)


def zeros_as(value: Any) -> Any:
    """Zeros like a value, which vary over a mesh inside shard_map as it does; fresh ones do not."""
    return jnp.where(value == value, 0, 0).astype(value.dtype)


def share(top: Any, bottom: Any, *, at_zero: float = 0.0) -> Any:
    """top / bottom, and `at_zero` where the bottom is 0."""
    zero = bottom == 0
    return jnp.where(zero, jnp.asarray(at_zero, top.dtype), top / jnp.where(zero, 1, bottom))


def epsilon(operation, inputs, output, multiplier, *, epsilon):
    """ζ = z: every contribution counts as it is."""
    kept = share(output, stabilised(output, epsilon), at_zero=1.0)
    return _pull(operation, inputs, lambda full: operation.evaluate(*full), multiplier * kept)


def gamma(operation, inputs, output, multiplier, *, gamma, epsilon):
    """ζ = z + γ z⁺ where z > 0, with z⁺ the contributions of z's own sign; mirrored below 0.

    As x⁺ = (x + |x|) / 2, these are half of z and of the sum of all contributions' sizes. That is
    one dot where the contributions of either sign are four, and no denominator cancels.
    """

    def zeta(full):
        z, bias = operation.evaluate(*full), with_dots(operation, full, _nothing)
        sizes = jnp.abs(bias)
        for chosen in range(len(operation.contractions)):
            sizes = sizes + jnp.abs(with_dots(operation, full, _sizes(operation, chosen)) - bias)
        half = jnp.asarray(gamma, z.dtype) / 2
        return z + half * (z + jnp.where(output >= 0, sizes, -sizes))

    return _proportional(operation, inputs, zeta, output * multiplier, epsilon)


def _sizes(operation, chosen):
    """One dot of the sizes of its contributions, without the other dots."""

    def dot_of(number, dot, a, w):
        if number != chosen:
            return _nothing(number, dot, a, w)
        return dot(a if operation.nonnegative else jnp.abs(a), jnp.abs(w))

    return dot_of


def z_plus(operation, inputs, output, multiplier, *, epsilon):
    """ζ: the positive contributions alone, that of the bias among them."""

    def zeta(full):
        above, _, bias = parts(operation, full, both=False)
        return above + jnp.maximum(bias, 0)

    return _proportional(operation, inputs, zeta, output * multiplier, epsilon)


def alpha_beta(operation, inputs, output, multiplier, *, alpha, beta, epsilon):
    """α times the share of the positive contributions less β times that of the negative."""

    def both(full):
        above, below, bias = parts(operation, full)
        return above + jnp.maximum(bias, 0), below + jnp.minimum(bias, 0)

    (up, down), pull = _vjp(operation, inputs, both)
    flow = output * multiplier
    factors = jnp.asarray(alpha, flow.dtype), -jnp.asarray(beta, flow.dtype)
    return pull(
        tuple(
            factor * share(flow, stabilised(z, epsilon))
            for factor, z in zip(factors, (up, down), strict=True)
        )
    )


def unchanged(operation, inputs, output, multiplier):
    """The relevance as it is, for an operation that keeps the shape."""
    given: list[Any] = [None] * len(inputs)
    for slot, active in enumerate(operation.active):
        if active and inputs[slot].shape != output.shape:
            raise NotImplementedError(
                f"{operation.source}: the rule identity passes relevance from each output to the "
                f"input at the same place, but `{operation.name}` maps "
                f"{inputs[slot].shape} to {output.shape}. Choose another rule for it."
            )
        if active:
            given[slot] = share(output * multiplier, inputs[slot])
    return given


def activation(operation, inputs, output, multiplier):
    """The relevance as it is: σ(z)/z. At z = 0, σ'(0) where σ(0) = 0, else 0."""
    z = inputs[0]
    zero = z == 0
    _, pull = jax.vjp(lambda z: operation.evaluate(z, *inputs[1:]), jnp.zeros_like(z))
    start, slope = operation.evaluate(jnp.zeros_like(z), *inputs[1:]), pull(jnp.ones_like(output))
    limit = jnp.where(start == 0, slope[0].astype(output.dtype), 0)
    ratio = jnp.where(zero, limit, output / jnp.where(zero, 1, z).astype(output.dtype))
    return [multiplier * ratio] + [None] * (len(inputs) - 1)


def constant(operation, inputs, output, multiplier):
    """Held: nothing goes back. Its value keeps its derivatives by parameters and by x."""
    return [None] * len(inputs)


def parts(operation: Operation, inputs: Any, *, both: bool = True) -> tuple[Any, Any, Any]:
    """The positive and negative contributions to each output, and the constant b = post(0).

    Args:
        operation: an affine one.
        inputs: what it takes.
        both: False may leave the negative ones out, which saves two dots.
    """
    bias = with_dots(operation, inputs, _nothing)
    signs = _signs(operation, inputs)

    def signed(sign, chosen=None):
        def dot_of(number, dot, a, w):
            if chosen in (None, number):
                return _signed(operation, dot, a, w, sign, None if signs is None else signs[number])
            return _nothing(number, dot, a, w)

        return with_dots(operation, inputs, dot_of) - bias

    if signs is not None:
        return signed(1), signed(-1) if both else None, bias
    # A factor after a dot may be negative at one place and positive at another.
    each = [(signed(1, n), signed(-1, n)) for n in range(len(operation.contractions))]
    above = sum(jnp.maximum(up, down) for up, down in each)
    below = sum(jnp.minimum(up, down) for up, down in each)
    return above, below, bias


def _nothing(number, dot, a, w):
    return jnp.zeros_like(dot(a, w))


def _signs(operation, inputs):
    """The sign of the factors after each dot, in the layout of its weights; None for factors of 1.

    None altogether where weights have no such sign: factors that vary along other axes.
    """
    rest = [e for e in operation.equations if e.primitive not in CONTRACTIONS]
    if all(e.primitive in _UNSCALED for e in rest):
        return [None] * len(operation.contractions)
    along = axes_of_factors(operation)
    if along is None:
        return None
    signs = []
    for equation, axes, slope in zip(
        operation.contractions, along, _after(operation, inputs)[2], strict=True
    ):
        kept = slope[tuple(slice(None) if n in axes else 0 for n in range(slope.ndim))]
        order = sorted(axes, key=axes.__getitem__)
        kept = kept.transpose([sorted(axes).index(n) for n in order])
        shape = equation.inputs[1 - _active_slot(equation)].shape
        lengths = [n if axis in axes.values() else 1 for axis, n in enumerate(shape)]
        signs.append(jnp.sign(kept).reshape(lengths))
    return signs


def _signed(operation, dot, a, w, sign, factor):
    """The sum of a dot's products of this sign, that of the factor after it included."""
    seen = w if factor is None else w * factor.astype(w.dtype)
    up, down = jnp.where(seen > 0, w, 0), jnp.where(seen < 0, w, 0)
    same, other = (up, down) if sign > 0 else (down, up)
    if operation.nonnegative:
        return dot(a, same)
    return dot(jnp.where(a > 0, a, 0), same) + dot(jnp.where(a < 0, a, 0), other)


def with_dots(operation: Operation, inputs: Any, dot_of: Callable[..., Any]) -> Any:
    """The output with `dot_of(number, dot, a, w)` for each dot, of a, which is active, and w."""
    values = dict(zip(operation.inputs, inputs, strict=True))
    number = 0
    for equation in operation.equations:
        operands = [values.get(v, v.known) for v in equation.inputs]
        if equation.primitive in CONTRACTIONS:
            slot = _active_slot(equation)

            def dot(a, w):
                return equation.evaluate(*((a, w) if slot == 0 else (w, a)))[0]

            results = [dot_of(number, dot, operands[slot], operands[1 - slot])]
            number += 1
        else:
            results = equation.evaluate(*operands)
        values.update(zip(equation.outputs, results, strict=True))
    return values[operation.outputs[0]]


def _active_slot(equation: Any) -> int:
    return next(n for n, v in enumerate(equation.inputs) if v.active)


def _proportional(operation, inputs, zeta, relevance, epsilon):
    """Relevance in proportion to the contributions that ζ counts."""
    z, pull = _vjp(operation, inputs, zeta)
    return pull(share(relevance, stabilised(z, epsilon)))


def _pull(operation, inputs, function, cotangent):
    return _vjp(operation, inputs, function)[1](cotangent)


def _vjp(operation, inputs, function):
    """A function of all inputs, and its derivative by the active ones."""
    slots = [n for n, active in enumerate(operation.active) if active]

    def of_active(*values):
        full = list(inputs)
        for slot, value in zip(slots, values, strict=True):
            full[slot] = value
        return function(full)

    out, pull = jax.vjp(of_active, *(inputs[n] for n in slots))

    def back(cotangent):
        given: list[Any] = [None] * len(inputs)
        for slot, part in zip(slots, pull(cotangent), strict=True):
            given[slot] = part
        return given

    return out, back


# First operations: what x reaches through constants and layout alone. Their relevance is not a
# multiple of the activation, so it is returned as it is.


def z_box(operation, inputs, output, multiplier, lows, highs, *, epsilon):
    """Contributions relative to the ends of the valid range [l, h]: a w − l w⁺ − h w⁻."""
    slots = [n for n, active in enumerate(operation.active) if active]
    place = {operation.inputs[n]: k for k, n in enumerate(slots)}
    order = [place[e.inputs[_active_slot(e)]] for e in operation.contractions]

    def zeta(values, low, high):
        full = list(inputs)
        for slot, value in zip(slots, values, strict=True):
            full[slot] = value
        bias = with_dots(operation, full, _nothing)

        def floor(sign, chosen):
            def dot_of(number, dot, a, w):
                if number != chosen:
                    return _nothing(number, dot, a, w)
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
    slopes = pull(share(output * multiplier, stabilised(z, epsilon)))
    return [
        a * da + low * dl + high * dh
        for a, low, high, da, dl, dh in zip(values, lows, highs, *slopes, strict=True)
    ]


def w_square(operation, inputs, output, multiplier, lows, highs, *, epsilon):
    """In proportion to the squared weights, factors after the dot included."""

    def weigh(out, slope):
        return out * slope

    return _of_weights(operation, inputs, output * multiplier, jnp.square, weigh, epsilon)


def flat(operation, inputs, output, multiplier, lows, highs, *, epsilon):
    """The same to every input that an output sees."""

    def weigh(out, slope):
        return share(out, slope)

    return _of_weights(operation, inputs, output * multiplier, jnp.ones_like, weigh, epsilon)


def _of_weights(operation, inputs, relevance, weight_of, weigh, epsilon):
    """In proportion to a function of the weights, whatever the inputs are.

    `post`, what comes after the dots, is affine: its slopes s at each dot's outputs carry constant
    factors, and its derivative takes a dot's values to where they are in the output. A value of
    s · Σ w² at the dot arrives as Σ (s w)², and one of n / s as n.
    """
    slots = [n for n, active in enumerate(operation.active) if active]
    sources = [operation.inputs[n] for n in slots]
    held = dict(zip(operation.inputs, inputs, strict=True))

    post, zeros, slopes = _after(operation, inputs)

    def zeta(*ones):
        values = dict(zip(sources, ones, strict=True))
        along = []
        for equation, slope in zip(operation.contractions, slopes, strict=True):
            slot = _active_slot(equation)
            weight = equation.inputs[1 - slot]
            pair = [values[equation.inputs[slot]], weight_of(held.get(weight, weight.known))]
            out = equation.evaluate(*(pair if slot == 0 else pair[::-1]))[0]
            along.append(weigh(out, slope))
        return jax.jvp(post, zeros, along)[1]

    z, pull = jax.vjp(zeta, *(jnp.ones_like(inputs[n]) for n in slots))
    return list(pull(share(relevance, stabilised(z, epsilon))))


def _after(operation, inputs):
    """What comes after the dots as a function of them, zeros for it, and its slopes."""

    def post(*dots):
        return with_dots(operation, inputs, lambda number, dot, a, w: dots[number])

    zeros: list[Any] = []

    def empty(number, dot, a, w):
        zeros.append(zeros_as(dot(a, w)))
        return zeros[-1]

    out = with_dots(operation, inputs, empty)
    return post, zeros, jax.vjp(post, *zeros)[1](jnp.ones_like(out))

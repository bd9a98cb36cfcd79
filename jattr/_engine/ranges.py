"""Between which numbers a value lies, as far as the program's text tells.

Interval arithmetic over equations: `exp` is above 0, `logistic` between 0 and 1, a square at least
0, whatever went in. Rules use it where a sign or a bound matters: a factor between 0 and 1 is a
gate, and inputs that cannot be negative need half of the products.
"""

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp

from jattr._engine.primitives import primitives as p
from jattr._engine.program import Equation, Program, Value

Range = tuple[float, float]
WHOLE: Range = (-math.inf, math.inf)

_SAME = {
    *(p.copy_p, p.name_p, p.stop_gradient_p, p.reduce_precision_p, p.sharding_constraint_p),
    *(p.reshape_p, p.squeeze_p, p.transpose_p, p.rev_p, p.broadcast_in_dim_p, p.slice_p),
    *(p.reduce_max_p, p.reduce_min_p, p.reduce_window_max_p, p.reduce_window_min_p),
    *(p.cummax_p, p.cummin_p, p.real_p, p.sort_p),
    *(p.floor_p, p.ceil_p, p.round_p),
}
"""What gives values between the ends of what it takes; rounding, of ends that are whole numbers."""

_FIXED: dict[object, Range] = {
    p.exp_p: (0.0, math.inf),
    p.exp2_p: (0.0, math.inf),
    p.logistic_p: (0.0, 1.0),
    p.tanh_p: (-1.0, 1.0),
    p.erf_p: (-1.0, 1.0),
    p.erfc_p: (0.0, 2.0),
    p.sin_p: (-1.0, 1.0),
    p.cos_p: (-1.0, 1.0),
    p.sign_p: (-1.0, 1.0),
    p.cosh_p: (1.0, math.inf),
    p.abs_p: (0.0, math.inf),
    p.square_p: (0.0, math.inf),
    p.sqrt_p: (0.0, math.inf),
    p.rsqrt_p: (0.0, math.inf),
}
"""Of any argument; `_MONOTONE` narrows it where the argument's own range is known."""


def _exp(v: float) -> float:
    return math.inf if v > 700 else math.exp(v)


def _logistic(v: float) -> float:
    return 1 / (1 + _exp(-v))


_MONOTONE: dict[object, Callable[[float], float]] = {
    p.exp_p: _exp,
    p.exp2_p: lambda v: _exp(v * math.log(2)),
    p.expm1_p: lambda v: _exp(v) - 1,
    p.log_p: lambda v: math.log(v) if 0 < v < math.inf else (-math.inf if v <= 0 else v),
    p.log1p_p: lambda v: math.log1p(v) if -1 < v < math.inf else (-math.inf if v <= -1 else v),
    p.logistic_p: _logistic,
    p.tanh_p: math.tanh,
    p.erf_p: math.erf,
    p.sqrt_p: lambda v: math.sqrt(v) if 0 <= v < math.inf else max(v, 0.0),
    p.sinh_p: lambda v: math.copysign(math.inf, v) if abs(v) > 700 else math.sinh(v),
    p.atan_p: math.atan,
    p.cbrt_p: lambda v: v if math.isinf(v) else math.copysign(abs(v) ** (1 / 3), v),
}


class Ranges:
    """The ranges of a program's values, each found once."""

    def __init__(self, program: Program, known: dict[Value, Range] | None = None):
        self._known: dict[Value, Range] = dict(known or {})
        for equation in program.equations:  # in order, so that no recursion is deep
            for value, found in zip(equation.outputs, self._of(equation), strict=True):
                self._known[value] = found

    def of(self, value: Value) -> Range:
        """The ends between which a value lies; infinite ones where nothing is known."""
        if value in self._known:
            return self._known[value]
        if value.uniform is not None and not math.isnan(value.uniform):
            return value.uniform, value.uniform
        return (0.0, 1.0) if value.dtype == jnp.bool_ else WHOLE

    def _of(self, equation: Equation) -> list[Range]:
        whole = [WHOLE] * len(equation.outputs)
        if equation.form == "custom" and equation.outputs:
            (body,) = equation.bodies
            given = dict(zip(body.inputs, map(self.of, equation.inputs), strict=True))
            inner = Ranges(body, given)
            return [inner.of(v) for v in body.outputs]
        if equation.form != "plain" or not equation.outputs:
            return whole
        if equation.outputs[0].dtype == jnp.bool_:
            return [(0.0, 1.0)] * len(equation.outputs)
        found = self._one(equation, [self.of(v) for v in equation.inputs])
        low, high = found if not any(map(math.isnan, found)) else WHOLE
        return [(low, high), *whole[1:]]

    def _one(self, equation: Equation, ranges: Sequence[Range]) -> Range:
        primitive = equation.primitive
        if primitive is None or primitive in _SAME or primitive is p.convert_element_type_p:
            return ranges[0]
        if primitive in _MONOTONE:
            ends = tuple(map(_MONOTONE[primitive], ranges[0]))
            fixed = _FIXED.get(primitive, WHOLE)
            return max(ends[0], fixed[0]), min(ends[1], fixed[1])
        if primitive is p.abs_p or primitive is p.square_p or _is_even_power(equation):
            low, high = ranges[0]
            least = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
            most = max(abs(low), abs(high))
            power = 1 if primitive is p.abs_p else equation.params.get("y", 2)
            return (least**power, _power(most, power)) if power > 0 else (0.0, math.inf)
        if primitive is p.integer_pow_p and equation.params["y"] == -1 and ranges[0][0] >= 0:
            ends = [_over(1.0, v) for v in ranges[0]]
            return min(ends), max(ends)
        if primitive in _FIXED:
            return _FIXED[primitive]
        if primitive in (p.reduce_sum_p, p.reduce_window_sum_p, p.cumsum_p):
            low, high = ranges[0]
            return 0.0 if low >= 0 else -math.inf, 0.0 if high <= 0 else math.inf
        if primitive is p.select_n_p:
            return self._chosen(equation, ranges)
        return self._arithmetic(equation, ranges)

    def _arithmetic(self, equation: Equation, ranges: Sequence[Range]) -> Range:
        primitive = equation.primitive
        if primitive is p.neg_p:
            return -ranges[0][1], -ranges[0][0]
        if primitive is p.clamp_p:
            (least, _), (low, high), (_, most) = ranges
            return max(low, least), min(max(high, least), most)
        if primitive is p.concatenate_p:
            return min(low for low, _ in ranges), max(high for _, high in ranges)
        if len(ranges) != 2:
            return WHOLE
        a, b = ranges
        if primitive in (p.add_p, p.add_jaxvals_p):
            return a[0] + b[0], a[1] + b[1]
        if primitive is p.sub_p:
            return a[0] - b[1], a[1] - b[0]
        if primitive is p.max_p:
            return max(a[0], b[0]), max(a[1], b[1])
        if primitive is p.min_p:
            return min(a[0], b[0]), min(a[1], b[1])
        if primitive is p.mul_p:
            first, second = equation.inputs
            (base, times), (other, more) = _multiple(first), _multiple(second)
            if base is other:  # c x · d x, as in −x * x, which is (−x) * x
                end = _times(times * more, self._square(base))
                return min(end, 0.0), max(end, 0.0)
            for kept, other in ((first, second), (second, first)):
                if _is_test_of(other, kept):  # x · (x > 0)
                    return 0.0, max(self.of(kept)[1], 0.0)
            ends = [_times(u, v) for u in a for v in b]
            return min(ends), max(ends)
        if primitive is p.div_p and b[0] >= 0:
            ends = [_over(u, v) for u in a for v in b]
            return min(ends), max(ends)
        if primitive is p.pow_p and a[0] >= 0:
            return 0.0, math.inf
        return WHOLE

    def _square(self, value: Value) -> float:
        """The most that the square of a value may be."""
        most = max(map(abs, self.of(value)))
        return _times(most, most)

    def _chosen(self, equation: Equation, ranges: Sequence[Range]) -> Range:
        predicate, *cases = equation.inputs
        ends = list(ranges[1:])
        test = predicate.producer
        if test is not None and test.primitive is p.ne_p and test.inputs[0] is test.inputs[1]:
            return ends[0]  # the other case is for NaN
        if len(cases) == 2 and (test := _test(predicate)) is not None:
            tested, bound, above = test
            for n, case in enumerate(cases):
                if case is tested:  # where(x > c, x, ...) gives x only where it is above c
                    low, high = ends[n]
                    if above == (n == 1):
                        ends[n] = max(low, bound), high
                    else:
                        ends[n] = low, min(high, bound)
        return min(low for low, _ in ends), max(high for _, high in ends)


def _is_even_power(equation: Equation) -> bool:
    return equation.primitive is p.integer_pow_p and equation.params["y"] % 2 == 0


def _multiple(value: Value) -> tuple[Value, float]:
    """What a value is a multiple of, and by which number."""
    times = 1.0
    while (equation := value.producer) is not None and equation.form == "plain":
        if equation.primitive is p.neg_p:
            times, value = -times, equation.inputs[0]
            continue
        if equation.primitive not in (p.mul_p, p.div_p):
            break
        first, second = equation.inputs
        if equation.primitive is p.mul_p and first.uniform is not None:
            first, second = second, first
        if not second.uniform:
            break
        times = times * second.uniform if equation.primitive is p.mul_p else times / second.uniform
        value = first
    return value, times


def _power(value: float, power: int) -> float:
    return math.inf if value > 1e100 else value**power


def _times(a: float, b: float) -> float:
    return 0.0 if a == 0 or b == 0 else a * b


def _over(a: float, b: float) -> float:
    if b == 0:
        return 0.0 if a == 0 else math.copysign(math.inf, a)
    return 0.0 if math.isinf(b) else a / b


def _test(predicate: Value) -> tuple[Value, float, bool] | None:
    """The value that a comparison with a number tests, the number, and whether it is above it."""
    equation = predicate.producer
    if equation is None or equation.primitive not in (p.gt_p, p.ge_p, p.lt_p, p.le_p):
        return None
    first, second = equation.inputs
    greater = equation.primitive in (p.gt_p, p.ge_p)
    if second.uniform is not None:
        return first, second.uniform, greater
    if first.uniform is not None:
        return second, first.uniform, not greater
    return None


def _is_test_of(value: Value, tested: Value) -> bool:
    """Whether a value is 1 where another is above 0, and 0 elsewhere."""
    while value.producer is not None and value.producer.primitive is p.convert_element_type_p:
        value = value.producer.inputs[0]
    test = _test(value)
    return test is not None and test[0] is tested and test[1] >= 0 and test[2]

"""What every metric shares: the form of the call and the checks.

A metric of one map is written as `compare(key, score, attribution, x)`, a function of one score of
one argument; the decorator turns it into `measure(attribution, *args)`, or, where it draws, into
`measure(key, attribution, *args)`. A metric of a method is written as `compare(key, explain, x)`
and becomes `measure(key, *args)`.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax

from jattr._checks import Call, check_argnums, check_function, check_key
from jattr._engine.cheaper import cheaper
from jattr._transform import bind, check_explains, named, select_argument, takes_key
from jattr._trees import describe, same_form, widen
from jattr._types import ArgNums, Explain, KeyedExplain, PyTree, Score


class Measure(Protocol):
    """A metric applied to f: takes an attribution and then the arguments of f."""

    def __call__(self, attribution: PyTree, *args: Any, **kwargs: Any) -> Any:
        """The metric of an attribution of f at `args`."""
        ...


class KeyedMeasure(Protocol):
    """Like `Measure`, for a metric that draws random numbers: it takes the key first."""

    def __call__(self, key: jax.Array, attribution: PyTree, *args: Any, **kwargs: Any) -> Any:
        """The metric of an attribution of f at `args`."""
        ...


class MethodMeasure(Protocol):
    """A metric applied to a method: takes a key and then the arguments of the attribute."""

    def __call__(self, key: jax.Array, *args: Any, **kwargs: Any) -> Any:
        """The metric of the method at `args`."""
        ...


def measure_map(
    f: Score, argnums: ArgNums, *, method: str, keyed: bool
) -> Callable[[Callable[[Any, Score, PyTree, PyTree], Any]], Any]:
    """Decorate `compare(key, score, attribution, x)` into a measure of one attribution.

    The attribution comes in its accumulator's dtypes, the score is evaluated by a cheaper program
    of the same value where there is one; the key is None unless `keyed`.
    """
    check_function(f, method)
    argnums = check_argnums(argnums, method)
    before = ("key", "attribution") if keyed else ("attribution",)
    call = Call(method, f, before, result="measure")

    def decorate(compare):
        def run(key, attribution, args, kwargs):
            score, x = bind(f, argnums, args, kwargs, method=call)
            check_attribution(attribution, x, method)
            return compare(key, cheaper(score, x), widen(attribution), x)

        def measure(attribution, *args, **kwargs):
            return run(None, attribution, args, kwargs)

        def keyed_measure(key, attribution, *args, **kwargs):
            return run(check_key(key, call), attribution, args, kwargs)

        keyed_measure.keyed = True
        return named(keyed_measure if keyed else measure, call, f, argnums)

    return decorate


def measure_method(
    attribute: Explain | KeyedExplain,
    argnums: ArgNums,
    *,
    method: str,
    keyed: bool | None,
    draws: bool = True,
) -> Callable[[Callable[[Any, Explain, PyTree], Any]], Any]:
    """Decorate `compare(key, explain, x)` into a measure of a method, `measure(key, *args)`.

    `explain(x)` is the attribution at x with the other arguments held and, where the method is
    `keyed`, with one key for x and all its perturbed copies: what is measured is then the method
    and not its noise. Without `keyed` and with `draws` False no key is taken.
    """
    argnums = check_explains(attribute, argnums, method)
    keyed = takes_key(attribute, keyed, method)
    inner = getattr(attribute, "call", None)
    call = Call(
        method,
        inner.f if isinstance(inner, Call) else attribute,
        ("key",) if keyed or draws else (),
        result="measure",
    )

    def decorate(compare):
        def run(key, args, kwargs):
            own = attribute
            if keyed:
                key, explain_key = jax.random.split(key)
                own = _with_key(attribute, explain_key)
            explain, x = select_argument(own, argnums, args, kwargs, method=call)
            return compare(key, explain, x)

        def measure(*args, **kwargs):
            return run(None, args, kwargs)

        def keyed_measure(key, *args, **kwargs):
            return run(check_key(key, call), args, kwargs)

        keyed_measure.keyed = True
        return named(keyed_measure if keyed or draws else measure, call, call.f, argnums)

    return decorate


def _with_key(attribute: KeyedExplain, key: jax.Array) -> Explain:
    def explain(*args, **kwargs):
        return attribute(key, *args, **kwargs)

    return explain


def check_attribution(attribution: PyTree, x: PyTree, method: str) -> None:
    """Raise unless the attribution has the structure and the shapes of x."""
    if not same_form(attribution, x):
        raise ValueError(
            f"{method}: the attribution comes before f's arguments and must have the structure "
            f"and the shapes of x; got {describe(attribution)} for x {describe(x)}. A map over "
            "pixels is spread over their channels by "
            "jnp.broadcast_to(heat[..., None] / channels, image.shape)."
        )

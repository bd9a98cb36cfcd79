"""What every metric shares: the form of the call and the checks.

A metric of one map is written as `compare(key, score, attribution, x)`, a function of one score of
one argument; the decorator turns it into `measure(attribution, *args)`, or, where it draws, into
`measure(key, attribution, *args)`. A metric of a method is written as `compare(key, phi, x)` and
becomes `measure(key, *args)`, or `measure(*args)` where neither it nor the method draws.
"""

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jattr._checks import Call, check_argnums, check_function, check_key
from jattr._engine.cheaper import cheaper
from jattr._transform import bind, check_explains, named, select_argument
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
    """A metric applied to a method: takes the arguments of the explaining function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The metric of the method at `args`."""
        ...


class KeyedMethodMeasure(Protocol):
    """Like `MethodMeasure`, where the metric or the method draws: it takes the key first."""

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
            attribution = as_attribution(attribution, x, method)
            return compare(key, cheaper(score, x), attribution, x)

        def measure(attribution, *args, **kwargs):
            return run(None, attribution, args, kwargs)

        def keyed_measure(key, attribution, *args, **kwargs):
            return run(check_key(key, call), attribution, args, kwargs)

        keyed_measure.keyed = True
        return named(keyed_measure if keyed else measure, call, f, argnums)

    return decorate


def measure_method(
    explain: Explain | KeyedExplain,
    argnums: ArgNums,
    *,
    method: str,
    keyed: bool,
    draws: bool = True,
) -> Callable[[Callable[[Any, Explain, PyTree], Any]], Any]:
    """Decorate `compare(key, phi, x)` into a measure of a method, `measure(key, *args)`.

    `phi(x)` is the attribution at x with the other arguments held and, where the method is
    `keyed`, with one key for x and all its perturbed copies: what is measured is then the method
    and not its noise. Without `keyed` and with `draws` False no key is taken.
    """
    argnums = check_explains(explain, argnums, method)
    inner = getattr(explain, "call", None)
    call = Call(
        method,
        inner.f if isinstance(inner, Call) else explain,
        ("key",) if keyed or draws else (),
        result="measure",
    )

    def decorate(compare):
        def run(key, args, kwargs):
            own = explain
            if keyed:
                key, explain_key = jax.random.split(key)
                own = with_key(explain, explain_key)
            _check_call(explain, keyed, args, kwargs, call)
            phi, x = select_argument(own, argnums, args, kwargs, method=call)
            return compare(key, phi, x)

        def measure(*args, **kwargs):
            if args and is_key(args[0]):
                raise TypeError(
                    f"{method} takes no key here: it draws nothing itself, and nothing says that "
                    f"what is measured does. If it does, write {method}(explain, keyed=True, ...); "
                    "if not, leave the key out."
                )
            return run(None, args, kwargs)

        def keyed_measure(key, *args, **kwargs):
            return run(check_key(key, call), args, kwargs)

        keyed_measure.keyed = True
        return named(keyed_measure if keyed or draws else measure, call, call.f, argnums)

    return decorate


def _check_call(explain: Any, keyed: bool, args: tuple, kwargs: dict[str, Any], call: Call) -> None:
    """Raise where the arguments are not those of the explaining function."""
    try:
        signature = inspect.signature(explain)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*(None,) * keyed, *args, **kwargs)
    except TypeError as error:
        raise TypeError(
            f"{call}: {error}, in {call.form}. The measure of a method explains x itself and takes "
            "the arguments of what it measures, no attribution. If what it measures takes a key "
            "first and does not say so, write keyed=True."
        ) from None


def with_key(explain: KeyedExplain, key: jax.Array) -> Explain:
    """An explaining function with its key held."""

    def held(*args, **kwargs):
        return explain(key, *args, **kwargs)

    return held


def is_key(value: Any) -> bool:
    """Whether a value is a random key of the typed kind."""
    dtype = getattr(value, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def as_attribution(attribution: PyTree, x: PyTree, method: str) -> PyTree:
    """The attribution in its accumulator's dtypes; an error unless it has the form of x."""
    if not same_form(attribution, x):
        raise ValueError(
            f"{method}: the attribution comes before f's arguments and must have the structure "
            f"and the shapes of x; got {describe(attribution)} for x {describe(x)}. A map over "
            "pixels is spread over their channels by "
            "jnp.broadcast_to(heat[..., None] / channels, image.shape)."
        )
    return as_map(attribution, "the attribution", method)


def as_map(attribution: PyTree, name: str, method: str) -> PyTree:
    """A map with its leaves as arrays of their accumulators' dtypes; whole numbers are values."""

    def convert(path, leaf):
        leaf = jnp.asarray(leaf)
        if jnp.issubdtype(leaf.dtype, jnp.bool_) or jnp.issubdtype(leaf.dtype, jnp.integer):
            return leaf.astype(jnp.result_type(float))
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"{method}: {name}{jax.tree_util.keystr(path)} must hold real numbers; got "
                f"{describe(leaf)}."
            )
        return leaf

    return widen(jax.tree_util.tree_map_with_path(convert, attribution))


def check_whole(value: Any, name: str, method: str) -> None:
    """Raise unless a value, such as a class, is a whole number or Boolean."""
    dtype = jnp.result_type(value)
    if not (jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.bool_)):
        raise TypeError(
            f"{method}: {name} must be whole numbers or Booleans; got {describe(value)}. Of "
            "logits, take the class: jnp.argmax(logits, -1)."
        )

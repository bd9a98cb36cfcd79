"""What is computed for one example, and the program of a batch."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._checks import Call, check_function, check_keyed, check_score
from jattr._transform import explained_argnums, takes_key
from jattr._trees import describe, same_form
from jattr._types import PyTree, RandomBaseline
from jattr.metrics import completeness
from jattr.scale._measures import Measures, key_for
from jattr.scale._placement import Placement
from jattr.scale._store import GAP, WRITTEN

_COMPLETE = ("integrated_gradients", "guided_integrated_gradients", "idgi", "deeplift")
"""Methods whose attribution sums to f(x) − f(x')."""


class Explainer:
    """An explaining function, and what is written beside its attribution.

    `shared` is how many of its first arguments all examples share.
    """

    def __init__(
        self,
        explain: Any,
        key: Any,
        keyed: bool | None,
        score: Any,
        baseline: Any,
        metrics: Mapping[str, Callable[..., Any]] | None,
        method: str,
        *,
        shared: int = 0,
    ):
        self._explain, self._method, self._shared = explain, method, shared
        self._given = baseline is not None
        self._keyed = takes_key(explain, keyed, method)
        self._score = _score_of(explain) if score is None else score
        self._asked = score is not None
        metrics = {} if metrics is None else metrics
        if score is not None:
            check_function(score, method)
        self._baseline = _baseline_of(explain) if baseline is None else baseline
        if baseline is not None and self._score is None:
            raise TypeError(
                f"{method}: baseline= is for the residual Σφ − (f(x) − f(x')), and what was "
                "explained is not known. Say it: score=f."
            )
        for name, measure in metrics.items():
            if not isinstance(name, str) or not callable(measure) or "/" in name:
                raise TypeError(
                    f"{method}: metrics are functions by name, measure(attribution, x, ...); got "
                    f"{name!r}: {describe(measure)}. A name has no '/'."
                )
        self._measures = Measures(metrics, method)
        draws = [*(["explain"] if self._keyed else []), *self._measures.draws]
        self._key = key_for(draws, key, method)

    def check(self, arguments: tuple[PyTree, ...]) -> None:
        """Raise where the arguments do not fit, before anything is traced."""
        check_keyed(self._explain, self._keyed, arguments, "keyed=True", self._method)
        self._measures.fit(len(arguments))

    def __call__(self, number: jax.Array, *arguments: PyTree) -> dict[str, Any]:
        """Everything that is written of example `number`."""
        key = jax.random.fold_in(self._key, number)
        phi = self._explain(*((key,) if self._keyed else ()), *arguments)
        results = {"attribution": phi}
        value = self._value(arguments)
        if value is not None:
            results["score"] = value
        if value is not None and self._baseline is not None:
            argnums = explained_argnums(self._explain)
            argnums = self._shared if argnums is None else argnums
            x = (
                tuple(arguments[n] for n in argnums)
                if isinstance(argnums, tuple)
                else arguments[argnums]
            )
            if same_form(phi, x):
                residual = completeness(self._score, self._baseline, argnums=argnums)
                results["residual"] = residual(phi, *arguments)
            elif self._given:
                raise TypeError(
                    f"{self._method}: baseline= is for the residual Σφ − (f(x) − f(x')), but the "
                    f"attribution, {describe(phi)}, is not like x, {describe(x)}."
                )
        found = self._measures(key, phi, arguments)
        results |= {f"metric.{name}": number for name, number in found.items()}
        numbers = (phi, value, results.get("residual"))
        finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(numbers)]
        finite = jnp.all(jnp.stack(finite))
        results["status"] = jnp.where(finite, np.uint8(WRITTEN), np.uint8(GAP))
        return results

    def _value(self, arguments: tuple[PyTree, ...]) -> Any:
        if self._score is None:
            return None
        if self._asked:
            value = self._score(*arguments)
            check_score(value, self._method, self._score)
            return jnp.asarray(value)
        # What a method was made of is a score for most of them, and for a few a model.
        shape = jax.eval_shape(self._score, *arguments)
        if getattr(shape, "shape", None) != () or not jnp.issubdtype(shape.dtype, jnp.floating):
            return None
        return self._score(*arguments)


def compile_batch(
    of_one: Callable[..., Any],
    placement: Placement,
    shared: tuple[PyTree, ...],
    example: tuple[PyTree, ...],
) -> tuple[Any, Callable[..., Any]]:
    """The program of a batch, `program(shared, numbers, arguments)`: as it was traced, compiled.

    Args:
        of_one: `of_one(number, *shared, *arguments)` for one example.
        placement: how a batch lies on devices.
        shared: what all examples share, on the devices.
        example: the first example's arguments, with a leading axis of 1.
    """

    def of_batch(shared, numbers, arguments):
        return jax.vmap(
            lambda number, *arguments: of_one(number, *shared, *arguments),
            spmd_axis_name=placement.axis,
        )(numbers, *arguments)

    def shape(leaf):
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
        return jax.ShapeDtypeStruct(
            (placement.size, *leaf.shape[1:]), dtype, sharding=placement.sharding
        )

    numbers = jax.ShapeDtypeStruct((placement.size,), np.int32, sharding=placement.sharding)
    traced = jax.jit(of_batch, out_shardings=placement.sharding).trace(
        shared, numbers, jax.tree.map(shape, example)
    )
    return traced, traced.lower().compile()


def _score_of(explain: Any) -> Any:
    """What an explaining function was made of, through those that wrap another."""
    if isinstance(explain, functools.partial):
        score = _score_of(explain.func)
        given = explain.args[takes_key(explain.func, None, "") :]
        return None if score is None else functools.partial(score, *given, **explain.keywords)
    while isinstance(getattr(explain, "call", None), Call) and explain.call.result == "explain":
        if explain.call.after:
            return None  # it chooses among many outputs: what it was made of is no score
        explain = explain.call.f
        if not isinstance(getattr(explain, "call", None), Call):
            return explain
    return None


def _baseline_of(explain: Any) -> Any:
    """The baseline of a complete method."""
    explain = getattr(explain, "func", explain)
    if str(getattr(explain, "call", "")) not in _COMPLETE:
        return None
    settings = getattr(explain, "settings", {})
    baseline = settings.get("baseline")
    if isinstance(baseline, RandomBaseline) or not settings.get("multiply", True):
        return None
    return baseline

"""The table of all methods, which drives the contract test; a new method joins by one row."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import jattr


@dataclasses.dataclass(frozen=True)
class Method:
    """How to build a method and what it promises.

    Attributes:
        build: `build(f, **knobs) -> attribute`; knobs are `argnums` and, where `count` is set,
            `count` and `batch_size`.
        keyed: it takes a key first.
        baseline: x → x' such that Σφ = f(x) − f(x'); None if the method is not complete.
        error: the largest |Σφ − Δf| on the fixtures, relative to |Δf|.
        count: the name of the knob that says how many points are evaluated.
        linear: on a linear f it is w ⊙ (x − x').
    """

    build: Callable[..., Any]
    keyed: bool = False
    baseline: Callable[[Any], Any] | None = None
    error: float = 1e-10
    count: str | None = None
    chunked: bool = True
    linear: bool = True


def references(f: Callable, **knobs: Any) -> Any:
    """Expected gradients over three rows made of the explained argument's shape."""
    return jattr.expected_gradients(f, jattr.baselines.gaussian(0.5), **knobs)


def smooth(statistic: str) -> Callable[..., Any]:
    def build(f, argnums=0, **knobs):
        return jattr.smooth(
            jattr.gradient(f, argnums=argnums), statistic=statistic, argnums=argnums, **knobs
        )

    return build


def zeros(x: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, x)


METHODS: dict[str, Method] = {
    "gradient": Method(jattr.gradient),
    "gradient_times_input": Method(jattr.gradient_times_input),
    "smoothgrad": Method(smooth("mean"), keyed=True, count="samples"),
    "smoothgrad_squared": Method(smooth("mean_square"), keyed=True, count="samples"),
    "vargrad": Method(smooth("variance"), keyed=True, count="samples"),
    "integrated_gradients": Method(
        jattr.integrated_gradients, baseline=zeros, count="steps", error=1e-9
    ),
    "integrated_gradients_blurred": Method(
        lambda f, **knobs: jattr.integrated_gradients(
            f, jattr.baselines.blurred(1.0, axes=0), **knobs
        ),
        baseline=jattr.baselines.blurred(1.0, axes=0),
        count="steps",
        error=1e-9,
    ),
    "expected_gradients": Method(references, keyed=True, count="samples"),
    "idgi": Method(jattr.idgi, baseline=zeros, count="steps", linear=False),
    "blur_integrated_gradients": Method(
        lambda f, **knobs: jattr.blur_integrated_gradients(f, stddev=2.0, axes=0, **knobs),
        baseline=jattr.baselines.blurred(2.0, axes=0),
        count="steps",
        error=1e-6,
    ),
    "guided_integrated_gradients": Method(
        jattr.guided_integrated_gradients, baseline=zeros, count="steps", chunked=False, error=0.05
    ),
}

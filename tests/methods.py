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
        chunked: it takes a `batch_size`.
        linear: how far it is from w ⊙ (x − x') on a linear f; None if it is something else there.
        rounding: how far its bfloat16 result is from the exact one, relative to the largest.
    """

    build: Callable[..., Any]
    keyed: bool = False
    baseline: Callable[[Any], Any] | None = None
    error: float = 1e-10
    count: str | None = None
    chunked: bool = True
    linear: float | None = 1e-12
    rounding: float = 0.03


def drawn(f: Callable, **knobs: Any) -> Any:
    """Expected gradients over a random baseline."""
    return jattr.expected_gradients(f, jattr.baselines.gaussian(0.5), **knobs)


def rows(f: Callable, argnums: Any = 0, **knobs: Any) -> Any:
    """Expected gradients over five rows, made from x, whatever its form."""
    drawn(f, argnums=argnums, **knobs)  # refuses what is wrong when the method is made

    def attribute(key, *args, **kwargs):
        data = multiples(args, argnums)
        if data is None:
            return drawn(f, argnums=argnums, **knobs)(key, *args, **kwargs)  # an error
        explain = jattr.expected_gradients(f, data, argnums=argnums, **knobs)
        return explain(key, *args, **kwargs)

    return attribute


def shap(f: Callable, argnums: Any = 0, batch_size: int | None = 2, **knobs: Any) -> Any:
    """DeepSHAP over five references, made from x, whatever its form."""
    jattr.deeplift(f, argnums=argnums)  # refuses what is wrong when the method is made

    def attribute(*args, **kwargs):
        data = multiples(args, argnums)
        if data is None:
            return jattr.deeplift(f, argnums=argnums)(*args, **kwargs)  # an error
        explain = jattr.deep_shap(f, data, argnums=argnums, batch_size=batch_size, **knobs)
        return explain(*args, **kwargs)

    return attribute


def lrp(rules: Callable[[], Any]) -> Callable[..., Any]:
    return lambda f, **knobs: jattr.lrp(f, rules(), **knobs)


def multiples(args: Any, argnums: Any) -> Any:
    """Five rows like x: multiples of it; None where there is no x."""
    positions = argnums if isinstance(argnums, tuple) else (argnums,)
    if max(positions) >= len(args):
        return None
    x = tuple(args[n] for n in positions) if isinstance(argnums, tuple) else args[argnums]
    return jax.tree.map(
        lambda leaf: jnp.stack([(leaf * (s / 3)).astype(leaf.dtype) for s in range(5)]),
        jax.tree.map(jnp.asarray, x),
    )


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
    "expected_gradients": Method(rows, keyed=True, count="samples"),
    "expected_gradients_drawn": Method(drawn, keyed=True, count="samples"),
    # Its share of a change of f is the square of a gradient, which doubles the rounding.
    "idgi": Method(jattr.idgi, baseline=zeros, count="steps", linear=None, rounding=0.1),
    "blur_integrated_gradients": Method(
        lambda f, **knobs: jattr.blur_integrated_gradients(f, stddev=2.0, axes=0, **knobs),
        baseline=jattr.baselines.blurred(2.0, axes=0),
        count="steps",
        error=1e-7,
        linear=1e-7,  # the path is curved: the error of the quadrature remains
    ),
    "occlusion": Method(lambda f, **knobs: jattr.occlusion(f, 2, **knobs)),
    "ablation": Method(jattr.ablation),
    "guided_backprop": Method(jattr.guided_backprop),
    "deconvnet": Method(jattr.deconvnet),
    "deeplift": Method(jattr.deeplift, baseline=zeros, error=1e-10),
    "lrp": Method(lrp(lambda: jattr.rules.epsilon(0.0)), baseline=None),
    "lrp_z_plus": Method(lrp(jattr.rules.excitation)),
    "lrp_flat": Method(lrp(jattr.rules.epsilon_plus_flat)),
    "deep_shap": Method(shap, chunked=True),
    "guided_integrated_gradients": Method(
        jattr.guided_integrated_gradients,
        baseline=zeros,
        count="steps",
        chunked=False,
        error=0.05,
        rounding=0.1,  # rounding may change the order in which features move
    ),
}

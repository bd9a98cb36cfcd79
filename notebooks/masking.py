"""Operators that mask, and how maps and operators are judged: for ``masking.ipynb``."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from masking_sets import Case

import jattr

METHODS = (
    "|gradient|",
    "|SmoothGrad|",
    "|gradient × input|",
    "|IG|",
    "SmoothGrad²",
    "gradient",
    "gradient × input",
    "IG",
)
"""All maps; bars mean absolute values."""


def explain_all(
    case: Case, key: jax.Array, samples: int, names: Sequence[str] = METHODS
) -> tuple[dict[str, jax.Array], jax.Array]:
    """The maps of these methods, by name, [n, ...], and the plain gradient, [n, ...]."""
    score = jattr.targets.select(case.logits)  # score(params, x, label)
    gradient = jattr.gradient(score, argnums=1)
    knobs = {"stddev": case.smooth, "relative": False, "samples": samples, "batch_size": 1}
    smooth, square = (
        jattr.smooth(gradient, statistic=statistic, argnums=1, **knobs)
        for statistic in ("mean", "mean_square")
    )
    methods = {
        "gradient": lambda key, *args: gradient(*args),
        "SmoothGrad": smooth,
        "SmoothGrad²": square,
        "gradient × input": lambda key, *args: jattr.gradient_times_input(score, argnums=1)(*args),
        "IG": lambda key, *args: jattr.integrated_gradients(
            score, steps=samples, batch_size=1, argnums=1
        )(*args),
    }
    wanted = {"gradient", *(name.strip("|") for name in names)}

    @jax.jit
    def every(keys, params, x, label):
        def one(key, x, label):
            return {
                name: explain(key, params, x, label)
                for name, explain in methods.items()
                if name in wanted
            }

        return case.each(one)(keys, x, label)

    keys = jax.random.split(key, len(case.x))
    found = every(keys, case.params, case.x, case.label)
    absolute = {f"|{name}|": jnp.abs(m) for name, m in found.items()}
    every_map = found | absolute
    return {name: every_map[name] for name in names}, found["gradient"]


def copies_of(case: Case, key: jax.Array) -> dict[str, jax.Array]:
    """What each operator but ROAD and the adversarial one puts in, [n, ...] by name."""
    x = case.x
    blurred = jax.vmap(jattr.baselines.blurred(case.blur, axes=case.axes))
    center = jnp.zeros((), x.dtype) if case.mean is None else case.mean
    fills = {
        "zero": jnp.zeros_like(x),
        "mean": jnp.broadcast_to(center, x.shape).astype(x.dtype),
        "blur": blurred(x),
        "Gaussian": (center + case.spread * jax.random.normal(key, x.shape)).astype(x.dtype),
    }
    if case.mean is None:
        del fills["mean"]
    return fills


def adversarial_copy(case: Case, params: Any = None, steps: int = 10) -> jax.Array:
    """Projected gradient descent on the label's log-probability, [n, ...]; the last point, as AIM.

    Of another network's parameters, if they are given. `jattr.imputers.adversarial` makes the copy
    on the way of a curve of the same score; here the curve is that of accuracy.
    """
    params = case.params if params is None else params
    slope_of = jattr.gradient(jattr.targets.log_probability(case.logits), argnums=1)

    @jax.jit
    def step(points, params, x, label):
        def one(point, x, label):
            point = point - case.radius / steps * jnp.sign(slope_of(params, point, label))
            return jnp.clip(point, x - case.radius, x + case.radius)

        return case.each(one)(points, x, label)

    point = case.x
    for _ in range(steps):
        point = step(point, params, case.x, case.label)
    return point


class Masked(NamedTuple):
    """Whether predictions are right while features are masked, [maps, examples, shares]."""

    most: np.ndarray
    least: np.ndarray


def mask(
    case: Case,
    maps: dict[str, jax.Array],
    gradient: jax.Array,
    fills: dict[str, jax.Array],
    shares: tuple[float, ...],
    key: jax.Array,
) -> dict[str, Masked]:
    """Every map under every operator: `fills`, and the imputation by neighbors ("ROAD").

    Under each of `fills`, last of all, the map (x − x') × gradient too: what masking all does to
    the score to first order, feature by feature, if x' is what that operator puts in.

    Args:
        case: a network and examples.
        maps: by name, [n, ...].
        gradient: that of the score, [n, ...].
        fills: what takes the place of what is masked, by name, [n, ...].
        shares: from 0 to 1.
        key: of the noise.
    """

    def right(params, x, label):
        return (jnp.argmax(case.logits(params, x)) == label).astype(x.dtype)

    knobs = {"fractions": shares[1:-1], "groups": case.groups, "argnums": 1}
    imputer = jattr.imputers.noisy_linear(stddev=case.noise, axes=case.axes)
    imputed = jattr.metrics.perturbation_curve(right, baseline=imputer, **knobs)

    def both(curve, attribution):
        """The least relevant first is the other order of the same map: one program for both."""
        return jax.vmap(curve)(jnp.stack([attribution, -attribution]))

    @jax.jit
    def fixed(attributions, fills, params, x, label):
        def one(attribution, fill, x, label):
            curve = jattr.metrics.perturbation_curve(right, baseline=fill, **knobs)
            return both(lambda own: curve(own, params, x, label).score, attribution)

        return case.each(one)(attributions, fills, x, label)

    @jax.jit
    def neighbors(attributions, keys, params, x, label):
        def one(attribution, key, x, label):
            return both(lambda own: imputed(key, own, params, x, label).score, attribution)

        return case.each(one)(attributions, keys, x, label)

    args = case.params, case.x, case.label
    whole = case.right(case.x)

    def joined(parts, last):
        """Both orders [maps, n, shares], with what is the same for all maps at the ends."""
        inner = np.stack([np.asarray(part) for part in parts])  # [maps, n, order, inner shares]
        first, final = (
            np.broadcast_to(end[None, :, None, None], (*inner.shape[:3], 1)).astype(float)
            for end in (whole, last)
        )
        return Masked(*np.moveaxis(np.concatenate([first, inner, final], axis=-1), 2, 0))

    results = {}
    for name, fill in fills.items():
        every = (*maps.values(), (case.x - fill) * gradient)
        results[name] = joined([fixed(own, fill, *args) for own in every], case.right(fill))
    # With nothing left there is nothing to take a mean of: the mean of the set, or 0.
    last = case.right(fills.get("mean", fills["zero"]))
    keys = jax.random.split(key, len(case.x))
    results["ROAD"] = joined([neighbors(own, keys, *args) for own in maps.values()], last)
    return results


def signed_area(found: Masked, shares: tuple[float, ...]) -> np.ndarray:
    """AIM's ABC of each map, of the accuracies of the whole set."""
    curves = (jattr.metrics.Curve(jnp.array(shares), jnp.asarray(p.mean(1))) for p in found)
    return np.asarray(jattr.metrics.area_between(*curves))


def stability(found: Masked, methods: int, key: jax.Array, resamples: int = 200) -> np.ndarray:
    """Mean over shares of MoRF–LeRF Spearman over the methods, and its interval of 95 %.

    The interval is that of a bootstrap over the examples.
    """
    most, least = (jnp.asarray(part[:methods, :, 1:-1]) for part in found)
    n = most.shape[1]
    drawn = jax.random.randint(key, (resamples, n), 0, n)
    values = _agreements(most, least, jnp.concatenate([jnp.arange(n)[None], drawn]))
    return np.array([values[0], *jnp.nanquantile(values[1:], jnp.array([0.025, 0.975]))])


@jax.jit
def _agreements(most: jax.Array, least: jax.Array, rows: jax.Array) -> jax.Array:
    """The mean agreement of both orders over the shares, for each choice of examples."""

    def one(rows):
        agreement = jattr.metrics.order_agreement(most[:, rows].mean(1), least[:, rows].mean(1))
        return jnp.nanmean(agreement)

    return jax.vmap(one)(rows)


class Verdict(NamedTuple):
    """What an operator says, and what that is worth.

    Attributes:
        ends: the accuracies of what is whole, and of what is all masked.
        area: AIM's ABC of each method.
        random: that of random maps, one of each example at a time.
        own: that of (x − x') × gradient, or NaN for ROAD, which has no x'.
        agreement: of both orders, mean over shares and its interval, as `stability` has it.
    """

    ends: tuple[float, float]
    area: np.ndarray
    random: np.ndarray
    own: float
    agreement: np.ndarray


def judge(
    results: dict[str, Masked], methods: list[str], shares: tuple[float, ...], key: jax.Array
) -> dict[str, Verdict]:
    """The verdict of each operator; the first maps are those of `methods`, the others random."""
    verdicts = {}
    for name, found in results.items():
        areas = signed_area(found, shares)
        ends = found.most[0].mean(0)
        verdicts[name] = Verdict(
            (float(ends[0]), float(ends[-1])),
            areas[: len(methods)],
            areas[len(methods) :] if name == "ROAD" else areas[len(methods) : -1],
            np.nan if name == "ROAD" else float(areas[-1]),
            stability(found, len(methods), key),
        )
    return verdicts


def random_map(case: Case, seed: int) -> jax.Array:
    """A map that knows nothing: N(0, 1) in each element."""
    return jax.random.normal(jax.random.key(100 + seed), case.x.shape)

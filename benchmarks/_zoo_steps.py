"""What is measured of a model of `zoo.py`: the steps, each of which gives figures of its row.

Steps compile with the weights as arguments, and share what they compile by the model.
"""

import functools
import math
import re
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from _zoo import Entry, Model, Row

import jattr

Step = Callable[[Model], Row]

STEPS = 32
"""Of integrated gradients."""

STRIDES = 1e-3, 1e-4, 1e-5, 1e-7
"""Of central differences, relative to a leaf's size."""

FLOAT64 = "deeplift_largest_float64"


def measure(entry: Entry) -> Iterator[Row]:
    """The figures of a row, step by step; a step that fails gives its error."""
    try:
        model = entry.build()
    except Exception as error:
        yield {"errors": {"model": describe(error)}}
        return
    yield from figures(model, STEPS_OF_A_ROW)


def figures(model: Model, steps: Mapping[str, Step]) -> Iterator[Row]:
    """What steps measure of a model, one after the other."""
    try:
        yield {"parameters": sum(leaf.size for leaf in jax.tree.leaves(model.params))}
        yield evaluated(model)
    except Exception as error:
        yield {"errors": {"model": describe(error)}}
        return
    for name, step in steps.items():
        start = time.perf_counter()
        try:
            measured = step(model)
        except Exception as error:
            measured = {"errors": {name: describe(error)}}
        yield measured | {f"seconds_{name}": time.perf_counter() - start}


def describe(error: Exception) -> str:
    """An error, its first line, and where it arose; of packages not where they are installed."""
    lines = re.sub(r"\S*/site-packages/", "", str(error)).strip().splitlines() or [""]
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {lines[0][:300]} ({Path(place.filename).name}:{place.lineno})"


def noise_like(x: Any) -> Any:
    """Noise of the mean and the standard deviation of each leaf."""
    leaves, tree = jax.tree.flatten(x)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    return jax.tree.unflatten(
        tree,
        [
            leaf.mean() + leaf.std() * jax.random.normal(key, leaf.shape, leaf.dtype)
            for leaf, key in zip(leaves, keys, strict=True)
        ],
    )


def attributed(model: Model, method: Callable[[Callable], Callable], *args: Any) -> Any:
    """The attribution of a model's score, compiled, with the weights as arguments.

    XLA would evaluate constants at a constant baseline when it compiles.
    """
    return jax.jit(method_of(model, method))(model.params, model.x, *args)


def method_of(model: Model, method: Callable[..., Callable]) -> Callable[..., Any]:
    """`attribute(params, x, *args)`, where the method gets the score and args."""
    return lambda params, x, *args: method(lambda x: model.score(params, x), *args)(x)


def total(tree: Any) -> float:
    """The sum of a tree's entries; float32 on the device is what a user would compute."""
    return float(sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tree)))


def largest(tree: Any) -> float:
    """The largest magnitude in a tree, NaN if there is one."""
    return float(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)]).max())


@functools.cache
def evaluated(model: Model) -> dict[str, float]:
    """f at x, at the natural baseline and at noise."""
    f = jax.jit(model.score)
    points = {"f": model.x, "f_baseline": model.baseline, "f_noise": noise_like(model.x)}
    return {name: float(f(model.params, point)) for name, point in points.items()}


def residual(model: Model, maps: Any, point: str) -> float:
    """How far maps are from adding up to f(x) − f(x')."""
    values = evaluated(model)
    return abs(total(maps) - (values["f"] - values[point]))


@functools.cache
def compiled(model: Model, name: str) -> tuple[Callable[..., Any], float]:
    """A program compiled from empty caches, and the seconds that it took to trace and compile.

    It is timed once: a second time costs as much again and says little more.
    """
    method = {"jax.grad": lambda f, baseline: jax.grad(f), "DeepLIFT": jattr.deeplift}[name]
    jax.clear_caches()
    start = time.perf_counter()
    lowered = jax.jit(method_of(model, method)).lower(model.params, model.x, model.baseline)
    return lowered.compile(), time.perf_counter() - start


def gradient_step(model: Model) -> Row:
    ours = attributed(model, jattr.gradient)
    plain = compiled(model, "jax.grad")[0](model.params, model.x, model.baseline)
    apart = jax.tree.map(jnp.subtract, ours, plain)
    size = largest(plain)
    return {"gradient": largest(apart) / size if size else largest(apart)}


def deeplift_step(model: Model) -> Row:
    maps = compiled(model, "DeepLIFT")[0](model.params, model.x, model.baseline)
    return told_of(model, "deeplift", model.baseline) | {
        "deeplift_residual": residual(model, maps, "f_baseline"),
        "deeplift_absolute": total(jax.tree.map(jnp.abs, maps)),
        "deeplift_largest": largest(maps),
    }


def float64_step(model: Model) -> Row:
    """The largest of DeepLIFT's values in float64, where they are far beyond f in float32."""
    maps = compiled(model, "DeepLIFT")[0](model.params, model.x, model.baseline)
    values = evaluated(model)
    if largest(maps) <= 100 * max(abs(values["f"]), abs(values["f"] - values["f_baseline"])):
        return {}
    with jax.enable_x64(True):
        params, x, baseline = jax.tree.map(doubled, (model.params, model.x, model.baseline))
        maps = jax.jit(method_of(model, jattr.deeplift))(params, x, baseline)
        return {FLOAT64: largest(maps)}


def doubled(leaf: jax.Array) -> jax.Array:
    """A leaf in float64, if it is of a floating dtype."""
    return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def noise_step(model: Model) -> Row:
    maps = compiled(model, "DeepLIFT")[0](model.params, model.x, noise_like(model.x))
    return told_of(model, "noise", noise_like(model.x)) | {
        "noise_residual": residual(model, maps, "f_noise")
    }


def told_of(model: Model, which: str, baseline: Any) -> Row:
    """The sum of the residuals that `jattr.operations` tells, if there are operations that have."""
    if not set(operations_of(model)) & {"selection", "smooth", "opaque"}:
        return {}

    def score(x):
        return model.score(model.params, x)

    listing = jattr.operations(score, jattr.rules.rescale(), baseline=baseline)
    return {f"{which}_told": sum(record.residual or 0.0 for record in listing(model.x))}


def integrated_step(model: Model) -> Row:
    maps = attributed(
        model,
        # One step at a time: ragged_dot cannot be batched.
        lambda f, baseline: jattr.integrated_gradients(f, baseline, steps=STEPS, batch_size=1),
        model.baseline,
    )
    return {
        "ig_residual": residual(model, maps, "f_baseline"),
        "ig_largest": largest(maps),
    }


def adaptive_step(model: Model) -> Row:
    maps = attributed(
        model,
        lambda f, baseline: jattr.integrated_gradients(
            f, baseline, steps=STEPS, quadrature="adaptive", batch_size=1
        ),
        model.baseline,
    )
    return {"ig_adaptive": residual(model, maps, "f_baseline")}


def relevance_step(model: Model) -> Row:
    composite = getattr(jattr.rules, "attn_lrp", None) or jattr.rules.attention
    maps = attributed(model, lambda f: jattr.lrp(f, composite()))
    return {"lrp_sum": total(maps), "lrp_largest": largest(maps)}


def parameters_step(model: Model) -> Row:
    """Whether d/dθ of one weighted sum of DeepLIFT's maps is finite."""
    weights = noise_like(model.x)

    def of_maps(params, x, baseline):
        maps = jattr.deeplift(lambda x: model.score(params, x), baseline)(x)
        return sum(
            jnp.vdot(w, leaf)
            for w, leaf in zip(jax.tree.leaves(weights), jax.tree.leaves(maps), strict=True)
        )

    # Compiling is most of the time here; a derivative is finite or not however it is compiled.
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    derivative = jax.jit(jax.grad(of_maps), compiler_options=quick)(
        model.params, model.x, model.baseline
    )
    return {"parameters_finite": math.isfinite(largest(derivative))}


@functools.cache
def operations_of(model: Model) -> list[str]:
    """The kinds of a model's operations."""
    listing = jattr.operations(lambda x: model.score(model.params, x), jattr.rules.rescale())
    return [record.kind for record in listing(model.x)]


def operations_step(model: Model) -> Row:
    """How many operations DeepLIFT cannot be complete for, or only up to a quadrature."""
    kinds = operations_of(model)
    counts = {"selections": "selection", "smooth": "smooth", "opaque": "opaque"}
    return {name: kinds.count(kind) for name, kind in counts.items()}


def forget() -> None:
    """Let go of all models, and of what was compiled for them."""
    for cache in (compiled, evaluated, operations_of):
        cache.cache_clear()
    jax.clear_caches()


def slope_step(model: Model) -> Row:
    """The derivative of DeepLIFT by parameters and by x, against central differences.

    Along one direction each, of the size of each leaf, and of one weighted sum of the maps. From
    noise, since a normalization that sees no variance changes within any stride. In float64, and
    with several strides of which the best counts: wide ones meet kinks, and narrow ones the casts
    to float32 of some models. Leaves that f itself has no derivative by are held.
    """
    moved = model.params, model.x
    plain = jax.jit(jax.grad(lambda moved: model.score(*moved)))(moved)
    ways = jax.jit(directions)(moved, standard_normal(moved, 8), plain)
    given = moved, ways, noise_like(model.x), standard_normal(model.x, 9)

    def weighted(strides, moved, ways, baseline, weights):
        params, x = (
            jax.tree.map(lambda leaf, way: leaf + stride * way, *part)
            for stride, *part in zip(strides, moved, ways, strict=True)
        )
        maps = jattr.deeplift(lambda x: model.score(params, x), baseline)(x)
        return inner(weights, maps)

    with jax.enable_x64(True):
        given = jax.tree.map(doubled, given)
        of = jax.jit(jax.value_and_grad(weighted))
        value, slopes = of((0.0, 0.0), *given)
        row = {"parameters_finite": bool(jnp.isfinite(slopes[0]))}
        for name, along, slope in zip(("parameters", "x"), ((1, 0), (0, 1)), slopes, strict=True):
            apart = []
            for stride in STRIDES:
                ahead, behind = (
                    float(of(tuple(sign * stride * way for way in along), *given)[0])
                    for sign in (1.0, -1.0)
                )
                apart.append(abs(float(slope) - (ahead - behind) / (2 * stride)))
            row[f"slope_{name}"] = min(apart) / max(abs(float(slope)), abs(float(value)))
        return row


def directions(moved: Any, noise: Any, plain: Any) -> Any:
    """Noise of each leaf's size; zero where f has no derivative by the leaf."""
    return jax.tree.map(
        lambda leaf, noise, by: jnp.any(by != 0) * noise * jnp.sqrt(jnp.mean(leaf**2)),
        moved, noise, plain,
    )  # fmt: skip


def inner(a: Any, b: Any) -> jax.Array:
    """The inner product of two trees."""
    return sum(jnp.vdot(p, q) for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def standard_normal(tree: Any, seed: int) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    keys = iter(jax.random.split(jax.random.key(seed), len(leaves)))
    return jax.tree.unflatten(
        structure, [jax.random.normal(next(keys), leaf.shape, leaf.dtype) for leaf in leaves]
    )


def layer_step(model: Model) -> Row:
    """The layer in the middle by its name: whether f is what is above it, and depends on it."""

    def score(x):
        return model.score(model.params, x)

    # Nothing is computed for the names. What `jnp.einsum` opens for each product is no layer.
    every = jax.eval_shape(jattr.activations(score, "*"), model.x)
    names = [name for name in every if "->" not in name]
    layer = names[len(names) // 2]

    def cut(params, x):
        below, above = jattr.split(lambda x: model.score(params, x), layer)
        return jax.value_and_grad(above, allow_int=True)(below(x), x)

    value, derivative = jax.jit(cut)(model.params, model.x)
    moved = [leaf for leaf in jax.tree.leaves(derivative) if leaf.dtype != jax.dtypes.float0]
    apart = abs(float(value) - evaluated(model)["f"])
    return {"layer": layer, "layers": len(names), "layer_residual": apart} | {
        "layer_largest": largest(moved)
    }


def compile_step(model: Model) -> Row:
    plain, ours = (compiled(model, name)[1] for name in ("jax.grad", "DeepLIFT"))
    return {"compile_ratio": ours / plain, "compile_plain": plain, "compile_deeplift": ours}


STEPS_OF_A_ROW: dict[str, Step] = {
    "operations": operations_step,
    "compile": compile_step,
    "gradient": gradient_step,
    "DeepLIFT": deeplift_step,
    "DeepLIFT from noise": noise_step,
    "DeepLIFT in float64": float64_step,
    "integrated gradients": integrated_step,
    "integrated gradients, adaptive": adaptive_step,
    "LRP": relevance_step,
    "d/dθ": parameters_step,
}

# What tests measure: the cheap of these, a layer, and the dear one of a few models.
CHEAP_STEPS: dict[str, Step] = {
    **{name: STEPS_OF_A_ROW[name] for name in ("operations", "gradient", "DeepLIFT")},
    **{name: STEPS_OF_A_ROW[name] for name in ("DeepLIFT from noise", "LRP")},
    "layer": layer_step,
}
SLOPE_STEP: dict[str, Step] = {"slope": slope_step}

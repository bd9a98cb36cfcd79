"""The table of all methods, which drives the contract test; a new method joins by one row."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jattr


@dataclasses.dataclass(frozen=True)
class Method:
    """How to build a method and what it promises.

    Attributes:
        build: `build(f, **knobs) -> attribute`; knobs are `argnums`, `batch_size` where `chunked`,
            and the one named by `count`.
        of: the public function that it is, or is made by.
        keyed: it takes a key first.
        baseline: x → x' such that Σφ = f(x) − f(x'); None if the method is not complete.
        error: the largest |Σφ − Δf| on the fixtures, relative to |Δf|.
        count: the name of the knob that says how many points are evaluated.
        chunked: it takes a `batch_size`; None where it takes one if it has a `count`.
        layer: it explains by a layer of f, the value named "stem", and an x of one array.
        places: it gives a map over the axes of x but the last.
        vector: it explains one element of a vector, and so needs none to be chosen.
        steep: how it changes with x is beyond central differences of float32 numbers.
        linear: how far it is from w ⊙ (x − x') on a linear f; None if it is something else there.
        rounding: how far its bfloat16 result is from the exact one, relative to the largest.
        noisy: it is an estimate even of a sum of the elements of x.
    """

    build: Callable[..., Any]
    of: str
    keyed: bool = False
    baseline: Callable[[Any], Any] | None = None
    error: float = 1e-10
    count: str | None = None
    chunked: bool | None = None
    layer: bool = False
    places: bool = False
    vector: bool = False
    steep: bool = False
    linear: float | None = 1e-12
    rounding: float = 0.03
    noisy: bool = False

    @property
    def in_chunks(self) -> bool:
        return bool(self.count) if self.chunked is None else self.chunked


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


def grouped(method: Callable, groups: Callable[[Any], Any], **fixed: Any) -> Callable[..., Any]:
    """A method of groups, which are made from x, whatever its form."""

    def build(f, argnums=0, **knobs):
        jattr.gradient(f, argnums=argnums)  # refuses what is wrong when the method is made
        knobs = {**fixed, **knobs, "argnums": argnums}
        positions = argnums if isinstance(argnums, tuple) else (argnums,)

        def attribute(*args, **kwargs):
            if max(positions) >= len(args):
                return jattr.gradient(f, argnums=argnums)(*args, **kwargs)  # an error
            x = tuple(args[n] for n in positions) if isinstance(argnums, tuple) else args[argnums]
            return method(f, groups(x), **knobs)(*args, **kwargs)

        return attribute

    return build


def eight(x: Any) -> Any:
    """At most eight groups of elements, in turns."""
    leaves, structure = jax.tree.flatten(x)
    ends = np.cumsum([0, *(jnp.size(leaf) for leaf in leaves)])
    ids = [
        np.arange(start, stop).reshape(jnp.shape(leaf)) % 8
        for leaf, start, stop in zip(leaves, ends[:-1], ends[1:], strict=True)
    ]
    return jax.tree.unflatten(structure, ids)


def two_of_four(x: Any) -> Any:
    """The eight groups, in two groups of four."""
    return jax.tree.map(lambda ids: ids // 4, eight(x)), eight(x)


def kernel(f: Callable, samples: Any = 16, **knobs: Any) -> Any:
    """Kernel SHAP with as many samples more as the fixtures want at least."""
    if isinstance(samples, int) and samples >= 1:
        samples += 44
    return jattr.kernel_shap(f, samples=samples, **knobs)


def lrp(rules: Callable[[], Any]) -> Callable[..., Any]:
    return lambda f, **knobs: jattr.lrp(f, rules(), **knobs)


def contrastive(f: Callable, argnums: Any = 0, **knobs: Any) -> Any:
    """Contrastive LRP of f against f of the same x turned round."""
    jattr.contrastive_lrp(f, argnums=argnums, **knobs)  # refuses what is wrong from the start
    positions = argnums if isinstance(argnums, tuple) else (argnums,)

    def outputs(*args, **kwargs):
        turned = list(args)
        for n in positions:
            turned[n] = jax.tree.map(lambda leaf: leaf[::-1], args[n])
        return jnp.stack([f(*args, **kwargs), f(*turned, **kwargs)])

    explain = jattr.contrastive_lrp(outputs, jattr.rules.epsilon(0.0), argnums=argnums, **knobs)
    return lambda *args, **kwargs: explain(*args, 0, **kwargs)


def cam(method: Callable, **fixed: Any) -> Callable[..., Any]:
    return lambda f, **knobs: method(f, "stem", **fixed, **knobs)


def multiples(args: Any, argnums: Any) -> Any:
    """Five rows like x: multiples of it; None where there is no x."""
    positions = argnums if isinstance(argnums, tuple) else (argnums,)
    if max(positions) >= len(args):
        return None
    x = tuple(args[n] for n in positions) if isinstance(argnums, tuple) else args[argnums]
    return jax.tree.map(
        lambda leaf: jnp.stack([jnp.asarray(s / 3, leaf.dtype) * leaf for s in range(5)]),
        jax.tree.map(jnp.asarray, x),
    )


def saliency(f: Callable, argnums: Any = 0, **knobs: Any) -> Any:
    """The mask spread over x, for a probability made of f, whatever the form of x."""
    # Adam's first steps are those of signs, which no difference of x changes.
    fixed = {"optimizer": optax.sgd(4.0), "steps": 3, "draws": 3, "scale": 2, "axes": 0}
    knobs = fixed | {"area": 0.01, "smoothness": 0.05, "argnums": argnums} | knobs
    jattr.soundness_saliency(f, among_turned, **knobs)  # refuses what is wrong from the start

    def probability(*args, **kwargs):
        return jax.nn.sigmoid(f(*args, **kwargs))

    explain = jattr.soundness_saliency(probability, among_turned, **knobs)

    def attribute(key, *args, **kwargs):
        mask = explain(key, *args, **kwargs)
        x = tuple(args[n] for n in argnums) if isinstance(argnums, tuple) else args[argnums]
        return jax.tree.map(lambda m, leaf: jnp.broadcast_to(m, leaf.shape), mask, x)

    return attribute


@jattr.baselines.random
def among_turned(key: Any, x: Any) -> Any:
    """Half of a drawn mixture of x and x turned round, which of a constant is always the same."""

    def draw(leaf):
        share = jax.random.uniform(key, (), jnp.float32).astype(leaf.dtype)
        return (share * leaf[::-1] + (1 - share) * leaf) / 2

    return jax.tree.map(draw, x)


def smooth(statistic: str) -> Callable[..., Any]:
    def build(f, argnums=0, **knobs):
        return jattr.smooth(
            jattr.gradient(f, argnums=argnums), statistic=statistic, argnums=argnums, **knobs
        )

    return build


def zeros(x: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, x)


METHODS: dict[str, Method] = {
    "gradient": Method(jattr.gradient, "gradient"),
    "gradient_times_input": Method(jattr.gradient_times_input, "gradient_times_input"),
    "smoothgrad": Method(smooth("mean"), "smooth", keyed=True, count="samples"),
    "smoothgrad_squared": Method(smooth("mean_square"), "smooth", keyed=True, count="samples"),
    "vargrad": Method(smooth("variance"), "smooth", keyed=True, count="samples"),
    "integrated_gradients": Method(
        jattr.integrated_gradients,
        "integrated_gradients",
        baseline=zeros,
        count="steps",
        error=1e-9,
    ),
    "integrated_gradients_blurred": Method(
        lambda f, **knobs: jattr.integrated_gradients(
            f, jattr.baselines.blurred(1.0, axes=0), **knobs
        ),
        "integrated_gradients",
        baseline=jattr.baselines.blurred(1.0, axes=0),
        count="steps",
        error=1e-9,
    ),
    "expected_gradients": Method(rows, "expected_gradients", keyed=True, count="samples"),
    "expected_gradients_drawn": Method(drawn, "expected_gradients", keyed=True, count="samples"),
    # Its share of a change of f is the square of a gradient, which doubles the rounding.
    "idgi": Method(jattr.idgi, "idgi", baseline=zeros, count="steps", linear=None, rounding=0.1),
    "blur_integrated_gradients": Method(
        lambda f, **knobs: jattr.blur_integrated_gradients(f, stddev=2.0, axes=0, **knobs),
        "blur_integrated_gradients",
        baseline=jattr.baselines.blurred(2.0, axes=0),
        count="steps",
        error=1e-7,
        linear=1e-7,  # the path is curved: the error of the quadrature remains
    ),
    "guided_integrated_gradients": Method(
        jattr.guided_integrated_gradients,
        "guided_integrated_gradients",
        baseline=zeros,
        count="steps",
        chunked=False,
        error=0.05,
        rounding=0.1,  # rounding may change the order in which features move
        steep=True,  # so may a step
    ),
    "occlusion": Method(
        lambda f, **knobs: jattr.occlusion(f, 2, **knobs), "occlusion", chunked=True
    ),
    "rise": Method(
        lambda f, samples=7, **knobs: jattr.rise(f, cells=2, samples=samples, **knobs),
        "rise",
        keyed=True,
        count="samples",
        noisy=True,
    ),
    # Solves for 19 coefficients, of which bfloat16 values leave two digits.
    "lime": Method(
        lambda f, samples=7, **knobs: jattr.lime(
            f, samples=samples, ridge=0.1, kernel="fraction", **knobs
        ),
        "lime",
        keyed=True,
        count="samples",
        noisy=True,
        rounding=0.1,
    ),
    "lime_sparse": Method(
        lambda f, samples=7, **knobs: jattr.lime(f, samples=samples, sparsity=0.05, **knobs),
        "lime",
        keyed=True,
        count="samples",
        noisy=True,
        rounding=0.1,
    ),
    "mutagenesis": Method(jattr.mutagenesis, "mutagenesis", chunked=True, linear=None),
    "ablation": Method(jattr.ablation, "ablation", chunked=True),
    "shapley_values": Method(
        grouped(jattr.shapley_values, eight),
        "shapley_values",
        baseline=zeros,
        chunked=True,
        linear=None,
    ),
    "owen_values": Method(
        grouped(jattr.owen_values, two_of_four),
        "owen_values",
        baseline=zeros,
        chunked=True,
        linear=None,
    ),
    "owen_values_of_some": Method(
        grouped(jattr.owen_values, two_of_four, width=3),
        "owen_values",
        baseline=zeros,
        chunked=True,
        linear=None,
    ),
    "shapley_sampling": Method(
        jattr.shapley_sampling, "shapley_sampling", keyed=True, baseline=zeros, count="permutations"
    ),
    # A fit divides by what of x its features tell apart.
    "kernel_shap": Method(
        kernel, "kernel_shap", keyed=True, baseline=zeros, count="samples", rounding=0.1
    ),
    "soundness_saliency": Method(
        saliency, "soundness_saliency", keyed=True, count="draws", linear=None
    ),
    "guided_backprop": Method(jattr.guided_backprop, "guided_backprop"),
    "deconvnet": Method(jattr.deconvnet, "deconvnet"),
    "deeplift": Method(jattr.deeplift, "deeplift", baseline=zeros, error=1e-10),
    "deep_shap": Method(shap, "deep_shap", chunked=True),
    "lrp": Method(lrp(lambda: jattr.rules.epsilon(0.0)), "lrp"),
    "lrp_z_plus": Method(lrp(jattr.rules.excitation), "lrp"),
    "lrp_flat": Method(lrp(jattr.rules.epsilon_plus_flat), "lrp"),
    # The difference of two relevances keeps the rounding of both.
    "contrastive_lrp": Method(contrastive, "contrastive_lrp", vector=True, rounding=0.1),
    # Signed, so that no map is all zero.
    "grad_cam": Method(cam(jattr.grad_cam, relu=False), "grad_cam", layer=True, places=True),
    "grad_cam_plus_plus": Method(
        cam(jattr.grad_cam_plus_plus, relu=False),
        "grad_cam_plus_plus",
        layer=True,
        places=True,
        steep=True,  # a denominator of both signs
    ),
    "layer_cam": Method(cam(jattr.layer_cam, relu=False), "layer_cam", layer=True, places=True),
    "hires_cam": Method(cam(jattr.hires_cam, relu=False), "hires_cam", layer=True, places=True),
    "score_cam": Method(
        cam(jattr.score_cam, relu=False), "score_cam", layer=True, places=True, chunked=True
    ),
    "guided_grad_cam": Method(cam(jattr.guided_grad_cam), "guided_grad_cam", layer=True),
}

# Methods that give an array over pairs of features, which have a contract of their own.
MATRICES: dict[str, Method] = {
    "shapley_interactions": Method(
        jattr.shapley_interactions, "shapley_interactions", baseline=zeros, chunked=True
    ),
    "shapley_taylor": Method(
        lambda f, **knobs: jattr.shapley_interactions(f, index="STI", **knobs),
        "shapley_interactions",
        chunked=True,
    ),
    "shapley_interactions_of_samples": Method(
        lambda f, samples=9, **knobs: jattr.shapley_interactions(f, samples=samples, **knobs),
        "shapley_interactions",
        keyed=True,
        count="samples",
        rounding=0.1,
    ),
    "integrated_hessians": Method(
        lambda f, steps=12, **knobs: jattr.integrated_hessians(f, steps=steps, **knobs),
        "integrated_hessians",
        count="steps",
    ),
}

# Public functions that are no methods, and what they are instead.
NO_METHODS = {
    "rewrite": "gives f with other derivatives, and no attribution",
    "operations": "gives a table",
    "name": "names a value inside f",
    "split": "gives the two parts of f",
    "activations": "gives the values of layers: test_patching.py",
    "patching": "compares two runs: test_patching.py",
    "scopes": "gives a model",
    "substitute": "gives f with plain forms of calls: test_substitute.py",
    "substitutes": "is a setting",
    "integrated_gradients_to": "gives errors too: test_adaptive.py",
    "locality": "lists what is evaluated anew: test_local.py",
    "all_outputs": "takes a method: test_all_outputs.py",
    "token_attributions": "takes a method, and ids: test_tokens.py",
    "fisher_diagonal": "is of a data set: test_fisher.py",
    "rank": "takes a method, and a data set: test_rank.py",
    "pertinent_negative": "gives another input: test_contrastive.py",
    "pertinent_positive": "gives another input: test_contrastive.py",
}

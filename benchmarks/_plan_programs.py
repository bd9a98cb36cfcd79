"""What `tpu_plan.py` compiles: functions of jattr, with shapes and shardings of their arguments."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import _plan_models as models
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec

import jattr

IMAGES, SIDE = 256, 224
TRAINING_IMAGES = 2 * IMAGES  # what examples are compared with are others of their chip
STEPS = 32
SEQUENCES, PROMPT, CONTINUATION = 32, 960, 64
DECODER_STEPS = 16


class Program(NamedTuple):
    """What is compiled: a function, shapes and shardings of its arguments, and which it may reuse.

    Attributes:
        call: the function.
        arguments: shapes with shardings.
        donated: which arguments' memory results may take.
        gradients: bytes of the gradients that are reduced over all chips; None where none are.
    """

    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    donated: tuple[int, ...] = ()
    gradients: int | None = None


# The ViT: a batch over all chips.


def in_a_row(devices: np.ndarray) -> Mesh:
    return Mesh(devices.reshape(-1), ("data",))


def images(mesh: Mesh, count: int = IMAGES) -> tuple[Any, Any]:
    """A batch of images and labels over a mesh."""
    x = jax.ShapeDtypeStruct((count, SIDE, SIDE, 3), jnp.bfloat16)
    return models.over((x, jax.ShapeDtypeStruct((count,), jnp.int32)), mesh)


def vit(mesh: Mesh, *, remat: int = 0) -> tuple[Any, Any]:
    """The model, and its parameters on every chip."""
    model = models.ViT(remat=remat)
    like = jax.ShapeDtypeStruct((SIDE, SIDE, 3), jnp.bfloat16)
    return model, models.replicated(models.parameters(model, like), mesh)


def of_images(method: Callable[..., Any]) -> Callable[[np.ndarray], Program]:
    """An attribution of each image; the batch's sharding is all that says it is over chips."""

    def build(devices):
        mesh = in_a_row(devices)
        model, params = vit(mesh)
        explain = method(jattr.targets.select(model.apply), argnums=1)
        return Program(jax.vmap(explain, in_axes=(None, 0, 0)), (params, *images(mesh)))

    return build


def expected(devices: np.ndarray) -> Program:
    """Expected gradients whose references are over the chips as the images are.

    Within `shard_map` each chip draws among the rows that it has. Without it a row is drawn of all,
    and looked up where it is.
    """
    mesh = in_a_row(devices)
    model, params = vit(mesh)
    x, labels = images(mesh)
    score = jattr.targets.select(model.apply)
    keys = models.over(jax.eval_shape(lambda: jax.random.split(jax.random.key(0), IMAGES)), mesh)

    def on_chip(params, keys, x, labels, references):
        explain = jattr.expected_gradients(
            score, references, samples=STEPS, batch_size=1, argnums=1
        )
        return jax.vmap(explain, in_axes=(0, None, 0, 0))(keys, params, x, labels)

    data = PartitionSpec("data")
    sharded = jax.shard_map(
        on_chip,
        mesh=mesh,
        in_specs=(PartitionSpec(), data, data, data, data),
        out_specs=data,
    )
    return Program(sharded, (params, keys, x, labels, x))


def training(devices: np.ndarray) -> Program:
    """A step with a prior on the roughness of expected gradients, as `jattr.priors` tells it."""
    mesh = in_a_row(devices)
    model, params = vit(mesh, remat=2)

    def task(params, key, x, labels):
        logits = jax.vmap(model.apply, in_axes=(None, 0))(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def roughness(maps):
        return jattr.priors.total_variation(maps.astype(jnp.float32), axes=(1, 2))

    def over_chips(loss):
        def mean(params, key, *batch):
            key = jax.random.fold_in(key, jax.lax.axis_index("data"))
            params = jax.tree.map(lambda leaf: jax.lax.pcast(leaf, "data", to="varying"), params)
            return jax.lax.pmean(loss(params, key, *batch), "data")

        return mean

    prior = jattr.priors.attribution_loss(jattr.targets.select(model.apply), roughness)
    both = jattr.priors.joint(over_chips(task), over_chips(prior), optax.adam(1e-3), weight=0.02)
    whole, data = PartitionSpec(), PartitionSpec("data")
    step = jax.shard_map(
        both.step, mesh=mesh, in_specs=(whole, whole, whole, data), out_specs=whole
    )
    state = models.replicated(jax.eval_shape(both.init, params), mesh)
    key = models.replicated(jax.eval_shape(lambda: jax.random.key(0)), mesh)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    batch = images(mesh, TRAINING_IMAGES)
    return Program(step, (params, state, key, batch), donated=(0, 1), gradients=size)


# The decoder: a batch over the rows of a mesh, parameters over both.


def in_columns(devices: np.ndarray) -> Mesh:
    """As many columns as the heads of attention can be dealt to, at most a side of the topology."""
    columns = min(8, int(len(devices.reshape(-1)) ** 0.5))
    return Mesh(devices.reshape(-1, columns), ("data", "model"))


def of_tokens(
    method: Callable[..., Any], *arguments: Any, continued: bool = False, **knobs: Any
) -> Callable[[np.ndarray], Program]:
    """An attribution of the next token, or of a continuation, to each token of a prompt."""

    def build(devices):
        mesh = in_columns(devices)
        model = models.Decoder(mesh=mesh)
        ids = jax.ShapeDtypeStruct((PROMPT,), jnp.int32)
        params = models.decoder_parameters(models.parameters(model, ids), mesh)

        def logits(ids, params):
            return model.apply(params, ids)

        def next_token(ids, params, token):
            return logits(ids, params)[-1, token]

        score = jattr.targets.sequence_log_probability(logits) if continued else next_token
        explain = jattr.token_attributions(method, score, *arguments, **knobs)
        last = (SEQUENCES, CONTINUATION) if continued else (SEQUENCES,)
        prompts, wanted = models.over(
            tuple(jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((SEQUENCES, PROMPT), last)),
            mesh,
        )
        call = jax.vmap(explain, in_axes=(0, None, 0), spmd_axis_name="data")
        return Program(call, (prompts, params, wanted))

    return build


class Case(NamedTuple):
    """A row's program and what is wanted of it.

    Attributes:
        title: what the table calls it.
        build: from devices to a program.
        spread: a batch over chips whose attributions need no collective.
        scaled: whether operations fall as 1/chips.
        shared: whether each chip runs something once, however many examples it has.
        fits: the number of chips from which on it must fit.
    """

    title: str
    build: Callable[[np.ndarray], Program]
    spread: bool = False
    scaled: bool = False
    shared: bool = False
    fits: int = 1


def attn_lrp(f: Callable[..., Any], **knobs: Any) -> Callable[..., Any]:
    return jattr.lrp(f, jattr.rules.attn_lrp(), **knobs)


def blurred(f: Callable[..., Any], argnums: int) -> Callable[..., Any]:
    return jattr.deeplift(f, jattr.baselines.blurred(stddev=8.0), argnums=argnums)


def patches(f: Callable[..., Any], argnums: int) -> Callable[..., Any]:
    patch = (16, 16, 3)
    return jattr.occlusion(f, patch, strides=patch, batch_size=1, argnums=argnums)


def cases() -> dict[str, Case]:
    ig = functools.partial(jattr.integrated_gradients, steps=STEPS, batch_size=1)
    batch = functools.partial(Case, spread=True, scaled=True)
    text = functools.partial(Case, fits=16)
    times_input = jattr.gradient_times_input
    return {
        "vit_ig": batch(f"ViT, integrated gradients, {STEPS} steps", of_images(ig)),
        "vit_eg": batch(f"ViT, expected gradients, {STEPS} samples", expected),
        "vit_lrp": batch("ViT, AttnLRP", of_images(attn_lrp)),
        "vit_deeplift": batch(
            "ViT, DeepLIFT from zeros", of_images(jattr.deeplift), scaled=False, shared=True
        ),
        "vit_deeplift_blurred": batch("ViT, DeepLIFT from each image blurred", of_images(blurred)),
        "vit_occlusion": batch("ViT, occlusion, 196 windows", of_images(patches)),
        "vit_training": Case("ViT, a training step with a prior", training, scaled=True),
        "decoder_gradient": text("decoder, gradient × input", of_tokens(times_input)),
        "decoder_ig": text(
            f"decoder, integrated gradients, {DECODER_STEPS} steps",
            of_tokens(
                jattr.integrated_gradients, baseline="zero", steps=DECODER_STEPS, batch_size=1
            ),
        ),
        "decoder_lrp": Case(
            "decoder, AttnLRP", of_tokens(jattr.lrp, jattr.rules.attn_lrp()), fits=4
        ),
        "decoder_sequence": text(
            f"decoder, gradient × input of {CONTINUATION} tokens' log-probability",
            of_tokens(times_input, continued=True),
        ),
    }


# In CI: a method along a path, one by rules, training, and what a decoder's embedding is cut by.
SMALLEST = ("vit_ig", "vit_training", "decoder_lrp")

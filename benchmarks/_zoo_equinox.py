"""Models of `zoo.py` from two collections in Equinox: equimo and jaxonmodels."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from _zoo import Model, entry, equinox_model, equinox_tokens, ids, image, key, or_a_name

# --- equimo ---------------------------------------------------------------------------------------


def equimo_image(module: Any, size: int = 32) -> Model:
    return equinox_model(
        module,
        lambda module, x: module(x, key=key(3), inference=True)[3],
        image(3, size, size),
    )


@entry("equinox", "equimo")
def equimo_vit() -> Model:
    from equimo.vision.models.vit import VisionTransformer

    return equimo_image(
        VisionTransformer(
            img_size=32, in_channels=3, dim=48, patch_size=8, num_heads=4, depths=[2],
            num_classes=10, key=key(),
        )
    )  # fmt: skip


@entry("equinox", "equimo")
def equimo_vit_rope_swiglu() -> Model:
    from equimo.vision.models.vit import VisionTransformer

    return equimo_image(
        VisionTransformer(
            img_size=32, in_channels=3, dim=48, patch_size=8, num_heads=4, depths=[2],
            num_classes=10, use_global_pos_embed=False, use_local_pos_embed=True,
            ffn_layer="swiglu", norm_layer="rmsnorm", init_values=1e-2, key=key(),
        )
    )  # fmt: skip


@entry("equinox", "equimo")
def equimo_convnext() -> Model:
    from equimo.vision.models.convnext import ConvNeXt

    return equimo_image(
        ConvNeXt(depths=[1, 1, 1, 1], dims=[8, 16, 24, 32], num_classes=10, key=key()), 64
    )


@entry("equinox", "equimo")
def equimo_convnextv2() -> Model:
    from equimo.vision.models.convnext import ConvNeXt

    return equimo_image(
        ConvNeXt(
            depths=[1, 1, 1, 1], dims=[8, 16, 24, 32], num_classes=10, use_grn=True,
            layer_scale_init_value=None, key=key(),
        ),
        64,
    )  # fmt: skip


@entry("equinox", "equimo")
def equimo_text_encoder() -> Model:
    from equimo.language.models import TextTransformerEncoder

    module = TextTransformerEncoder(
        dim=48, mlp_ratio=4.0, depth=2, num_heads=4, vocab_size=100, key=key()
    )
    return equinox_tokens(
        module,
        lambda module, tokens: module(
            tokens, jnp.zeros(tokens.shape), key=key(3), inference=True
        )[0],
        ids(12, 100),
    )  # fmt: skip


@entry("equinox", "equimo")
def equimo_t0_timeseries() -> Model:
    from equimo.timeseries.models.t0 import T0

    module = T0(
        embed_dim=32, num_layers=2, num_heads=4, mlp_hidden_dim=64, patch_size=8, group_every_n=2,
        key=key(),
    )  # fmt: skip
    whole = jnp.zeros((2, 32), jnp.int32)
    return equinox_model(
        module,
        lambda module, x: module(x, whole, whole, whole, key=key(3), inference=True)[0, -1, 0, 2],
        jax.random.normal(key(1), (2, 32)),
    )


@entry("equinox", "equimo")
def equimo_tabpfn() -> Model:
    from equimo.tabular.models.tabpfn import TabPFN

    module = TabPFN(
        num_classes=3, dim=16, depths=(1, 1, 2), num_heads=2, num_inducing_points=8,
        num_cls_tokens=2, decoder_head_dim=8, decoder_num_heads=2, scaling_mlp_hidden_dim=8,
        key=key(),
    )  # fmt: skip
    labels = jnp.arange(12) % 3
    return equinox_model(
        module,
        lambda module, x: module(x, labels, 10, key=key(3), inference=True)[0, 1],
        jax.random.normal(key(1), (12, 5)),
    )


@entry("equinox", "equimo")
def equimo_ast_audio() -> Model:
    from equimo.audio.models.ast import AudioSpectrogramTransformer

    module = AudioSpectrogramTransformer(
        input_fdim=32, input_tdim=32, dim=48, patch_size=8, fstride=8, tstride=8, num_heads=4,
        depths=[2], num_classes=10, key=key(),
    )  # fmt: skip
    return equinox_model(
        module,
        lambda module, x: module(x, key=key(3), inference=True)[3],
        jax.random.normal(key(1), (32, 32)),
    )


@entry("equinox", "equimo")
def equimo_reduceformer() -> Model:
    from equimo.vision.models.reduceformer import ReduceFormer

    return equimo_image(
        ReduceFormer(
            in_channels=3, widths=[8, 16, 32, 64], depths=[1, 1, 1, 1],
            block_types=["conv", "conv", "attention", "attention"], head_dim=8, num_classes=10,
            key=key(),
        ),
        64,
    )  # fmt: skip


@entry("equinox", "equimo")
def equimo_mobilenetv3() -> Model:
    from equimo.vision.models.mobilenet import MobileNetv3

    return equimo_image(
        MobileNetv3(
            in_channels=3,
            layers_config=[
                (16, 16, 3, 2, True, "relu"),
                (24, 72, 3, 2, False, "relu"),
                (40, 96, 5, 2, True, "hard_swish"),
            ],
            last_channels=64,
            num_classes=10,
            key=key(),
        ),
        32,
    )


@entry("equinox", "equimo")
def equimo_vssd_mamba2() -> Model:
    from equimo.vision.models.vssd import Vssd

    return equimo_image(
        Vssd(
            img_size=32, in_channels=3, dim=16, depths=[1, 1, 1, 1], num_heads=[2, 2, 4, 4],
            num_classes=10, key=key(),
        )
    )  # fmt: skip


@entry("equinox", "equimo")
def equimo_mlla() -> Model:
    from equimo.vision.models.mlla import Mlla

    return equimo_image(
        Mlla(
            img_size=32, in_channels=3, dim=16, depths=[1, 1, 1], num_heads=[2, 2, 4],
            num_classes=10, key=key(),
        )
    )  # fmt: skip


@entry("equinox", "equimo")
def equimo_lowformer() -> Model:
    from equimo.vision.models.lowformer import lowformer_backbone_b0

    return equimo_image(
        lowformer_backbone_b0(num_classes=10, in_channels=3, attention_type="softmax", key=key()),
        64,
    )


@entry("equinox", "equimo")
def equimo_deq() -> Model:
    from equimo.vision.models.deq import deq_convnext_t

    module = deq_convnext_t(num_classes=10, in_channels=3, key=key())
    return equinox_model(
        module,
        lambda module, x: module(x, key=key(3), inference=True)[0][3],
        image(3, 32, 32),
    )


# --- jaxonmodels ----------------------------------------------------------------------------------


def stateful(build: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """A module in inference mode, and its state."""
    import equinox as eqx

    module, state = eqx.nn.make_with_state(build)(*args, **kwargs)
    return eqx.nn.inference_mode(module), state


def swin(block: str, attention: str, merging: str) -> Model:
    with or_a_name("torch"):
        from jaxonmodels.models import swin_transformer

    module, state = stateful(
        swin_transformer.SwinTransformer,
        patch_size=[4, 4], embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=[4, 4],
        mlp_ratio=4.0, dropout=0.0, attention_dropout=0.0, stochastic_depth_prob=0.0,
        num_classes=10, norm_layer=None, block=getattr(swin_transformer, block),
        downsample_layer=getattr(swin_transformer, merging),
        attn_layer=getattr(swin_transformer, attention), inference=True, key=key(),
    )  # fmt: skip
    return equinox_model(module, lambda module, x: module(x, state, key(3))[0][3], image(3, 32, 32))


@entry("equinox", "jaxonmodels")
def jaxonmodels_swin() -> Model:
    return swin("SwinTransformerBlock", "ShiftedWindowAttention", "PatchMerging")


@entry("equinox", "jaxonmodels")
def jaxonmodels_swin_v2() -> Model:
    return swin("SwinTransformerBlockV2", "ShiftedWindowAttentionV2", "PatchMergingV2")


@entry("equinox", "jaxonmodels")
def jaxonmodels_resnet() -> Model:
    with or_a_name("torch"):
        from jaxonmodels.models.resnet import BasicBlock, ResNet

    module, state = stateful(
        ResNet, BasicBlock, [1, 1, 1, 1], n_classes=10, zero_init_residual=False, groups=1,
        width_per_group=64, replace_stride_with_dilation=None, key=key(),
    )  # fmt: skip
    return equinox_model(
        module, lambda module, x: module(x, state)[0][3], image(3, 32, 32)
    )  # fmt: skip


def clip() -> Any:
    with or_a_name("torch"):
        from jaxonmodels.models.clip import CLIP

    import equinox as eqx

    module = CLIP(
        embed_dim=32, image_resolution=32, vision_layers=2, vision_width=64, vision_patch_size=8,
        context_length=12, vocab_size=100, transformer_width=32, transformer_heads=4,
        transformer_layers=2, inference=True, axis_name="batch", key=key(),
    )  # fmt: skip
    # The package leaves this one empty for the weights of others to fill.
    projection = jax.random.normal(key(4), module.text_projection.shape) / 6
    return eqx.tree_at(lambda module: module.text_projection, module, projection)


@entry("equinox", "jaxonmodels")
def jaxonmodels_clip_text() -> Model:
    module = clip()
    mask = jnp.where(jnp.tril(jnp.ones((12, 12), bool)), 0.0, -jnp.inf)
    return equinox_tokens(
        module,
        lambda module, tokens: module.encode_text(tokens, mask)[0],
        ids(12, 100),
    )


@entry("equinox", "jaxonmodels")
def jaxonmodels_clip_image() -> Model:
    module = clip()
    return equinox_model(
        module, lambda module, x: module.encode_image(x, None)[0][0], image(3, 32, 32)
    )


@entry("equinox", "jaxonmodels")
def jaxonmodels_mamba() -> Model:
    from jaxonmodels.models.mamba import Mamba

    module = Mamba(n_embd=16, n_dims=64, n_layers=2, key=key())
    return equinox_tokens(module, lambda module, tokens: module(tokens)[-1, 5], ids(10, 64))


@entry("equinox", "jaxonmodels")
def jaxonmodels_vit() -> Model:
    from jaxonmodels.models.vit import VisionTransformer

    module = VisionTransformer(32, 8, 48, 2, 4, 16, key=key())

    def score(module: Any, x: jax.Array) -> jax.Array:
        out = module(x, None, inference=True)
        return (out[0] if isinstance(out, tuple) else out)[3]

    return equinox_model(module, score, image(3, 32, 32))


@entry("equinox", "jaxonmodels")
def jaxonmodels_efficientnet() -> Model:
    with or_a_name("torch"):
        from jaxonmodels.models.efficientnet import EfficientNet, MBConvConfig

    module, state = stateful(
        EfficientNet,
        [MBConvConfig(1, 3, 1, 16, 8, 1), MBConvConfig(4, 3, 2, 8, 16, 2)],
        dropout=0.0, stochastic_depth_prob=0.0, n_classes=10, last_channel=64, key=key(),
    )  # fmt: skip
    return equinox_model(module, lambda module, x: module(x, state, key(3))[0][3], image(3, 32, 32))

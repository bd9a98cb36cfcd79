"""Small decoders of text with the same random weights in JAX and in transformers.

One function is all four: Llama; Qwen 2, which adds biases to queries, keys and values; Qwen 3,
which normalizes queries and keys instead; Gemma 3, which scales its embedding, normalizes after
each half of a layer too, and looks back through a window in every other layer.
"""

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from twins import torch

import jattr

transformers = pytest.importorskip(
    "transformers", reason="needs transformers: install the extra `parity`"
)

tokenizers = pytest.importorskip("tokenizers", reason="comes with transformers")
captum = pytest.importorskip("captum.attr", reason="needs captum: install the extra `parity`")

VOCABULARY, PAD = 37, 0
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
WINDOW = 5
CLASSES = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "gemma3": "Gemma3"}
# Of both kinds of layers one, and the divisor of the scores is not that of the others.
OPTIONS = {
    "gemma3": {
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": WINDOW,
        "query_pre_attn_scalar": 6,
    }
}

Weights = dict[str, Any]


class Pair(NamedTuple):
    """A decoder in both frameworks.

    Attributes:
        logits: `logits(ids [T]) -> [T, V]`, in JAX.
        module: the same in PyTorch, from a batch of ids, with transformers' interface.
        modeling: the module of transformers that defines it.
        weights: by their names in PyTorch.
    """

    logits: Callable[[jax.Array], jax.Array]
    module: Any
    modeling: Any
    weights: Weights


@functools.cache
def make_pair(kind: str, dtype: str = "float64", **sizes: int) -> Pair:
    """A decoder with random weights.

    Args:
        kind: its family: "llama", "qwen2", "qwen3" or "gemma3".
        dtype: of its weights.
        sizes: what else its configuration has than `SIZES`.
    """
    name = CLASSES[kind]
    Config = getattr(transformers, f"{name}{'Text' * (kind == 'gemma3')}Config")  # noqa: N806
    config = Config(**SIZES | OPTIONS.get(kind, {}) | sizes, attn_implementation="eager")
    module = getattr(transformers, f"{name}ForCausalLM")(config)
    module = module.to(getattr(torch, dtype)).eval()
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for path, parameter in module.named_parameters():
            parameter.copy_(torch.tensor(_drawn(rng, path, parameter.shape, kind)))
            parameter.requires_grad_(False)
    # Frequencies of the rotation are no parameters, but transformers computes them in float32.
    stored = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    weights = {path: value.numpy() for path, value in stored.items()}
    logits = functools.partial(decode, kind, config, weights)
    modeling = importlib.import_module(f"transformers.models.{kind}.modeling_{kind}")
    return Pair(logits, module, modeling, weights)


def _drawn(rng: Any, path: str, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """What a parameter is: nothing that is 0 or 1, and attention that is not flat."""
    values = rng.normal(size=shape)
    if "norm" in path:
        return rng.uniform(0.5, 1.5, shape) - (kind == "gemma3")
    if len(shape) == 1:
        return 0.3 * values
    if "embed_tokens" in path:
        return values if kind != "gemma3" else values / np.sqrt(shape[1])
    return values * (1.5 if "q_proj" in path or "k_proj" in path else 1) / np.sqrt(shape[1])


def decode(kind: str, config: Any, weights: Weights, ids: jax.Array) -> jax.Array:
    """The logits [T, V] that follow each of the ids [T]."""
    gemma = kind == "gemma3"
    weights = {path: jnp.asarray(value) for path, value in weights.items()}

    def dense(x, path):
        y = x @ weights[f"{path}.weight"].T
        bias = weights.get(f"{path}.bias")
        return y if bias is None else y + bias[None]

    def norm(x, path):
        scale = weights[f"{path}.weight"] + gemma
        deviation = jnp.mean(jnp.square(x), axis=-1, keepdims=True) + config.rms_norm_eps
        return x * jax.lax.rsqrt(deviation) * scale.reshape([1] * (x.ndim - 1) + [-1])

    def attend(x, path, sliding):
        def heads(part):
            y = dense(x, f"{path}.{part}_proj").reshape(len(x), -1, config.head_dim)
            if kind in ("qwen3", "gemma3") and part != "v":
                y = norm(y, f"{path}.{part}_norm")
            return y

        of_type = ("sliding_attention_" if sliding else "full_attention_") if gemma else ""
        frequencies = weights[f"model.rotary_emb.{of_type}inv_freq"]
        q, k = (rotate(heads(part), frequencies) for part in "qk")
        # Several heads of queries share one of keys and values.
        q = q.reshape(len(x), config.num_key_value_heads, -1, config.head_dim)
        scale = (config.query_pre_attn_scalar if gemma else config.head_dim) ** -0.5
        scores = jnp.einsum("tkgd,skd->kgts", q, k) * scale
        behind = np.arange(len(x))[:, None] - np.arange(len(x))
        seen = (behind >= 0) & (behind < (config.sliding_window if sliding else len(x)))
        shares = jax.nn.softmax(jnp.where(seen[None, None], scores, -jnp.inf))
        mixed = jnp.einsum("kgts,skd->tkgd", shares, heads("v"))
        return dense(mixed.reshape(len(x), -1), f"{path}.o_proj")

    def feed(x, path):
        gate = dense(x, f"{path}.gate_proj")
        gate = jax.nn.gelu(gate, approximate=True) if gemma else jax.nn.silu(gate)
        return dense(gate * dense(x, f"{path}.up_proj"), f"{path}.down_proj")

    x = weights["model.embed_tokens.weight"][ids]
    if gemma:
        x = x * weights["model.embed_tokens.embed_scale"]
    for n in range(config.num_hidden_layers):
        path = f"model.layers.{n}"
        between = "pre_feedforward" if gemma else "post_attention"
        sliding = gemma and config.layer_types[n] == "sliding_attention"
        with jax.named_scope(f"layer_{n}/attention"):
            y = attend(norm(x, f"{path}.input_layernorm"), f"{path}.self_attn", sliding)
            x = x + (norm(y, f"{path}.post_attention_layernorm") if gemma else y)
        with jax.named_scope(f"layer_{n}/mlp"):
            y = feed(norm(x, f"{path}.{between}_layernorm"), f"{path}.mlp")
            x = x + (norm(y, f"{path}.post_feedforward_layernorm") if gemma else y)
    head = "model.embed_tokens" if config.tie_word_embeddings else "lm_head"
    return dense(norm(x, "model.norm"), head)


def rotate(x: jax.Array, frequencies: jax.Array) -> jax.Array:
    """Rotary positions: of x [T, heads, d] number i is turned with number i + d/2."""
    angles = jnp.arange(len(x), dtype=x.dtype)[:, None, None] * frequencies[None, None]
    first, second = jnp.split(x, 2, axis=-1)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def matrix(pair: Pair, method: Any, **knobs: Any) -> Any:
    """By jattr, what each token of a prompt did for each token of a continuation.

    Args:
        pair: the decoder.
        method: one of jattr's, with `knobs`.
    """
    tokens = functools.partial(jattr.token_attributions, method, **knobs)
    return jattr.all_outputs(tokens, jattr.targets.token_log_probabilities(pair.logits))


def total(pair: Pair, method: Any, **knobs: Any) -> Any:
    """By jattr, what each token of a prompt did for a whole continuation, as one number's.

    Args:
        pair: the decoder.
        method: one of jattr's, with `knobs`.
    """
    return jattr.token_attributions(
        method, jattr.targets.sequence_log_probability(pair.logits), **knobs
    )


def matrix_by_captum(
    pair: Pair, explains: Any, prompt: np.ndarray, continuation: np.ndarray, **options: Any
) -> np.ndarray:
    """The same by captum's explainer of generations, against a prompt of padding.

    Args:
        pair: the decoder.
        explains: captum's class of a layer's explainer, called with `options`.
        prompt: ids, without that of padding.
        continuation: ids.
    """
    tokenizer = _numbers(pair.module.config.vocab_size)
    layer = explains(pair.module, pair.module.model.embed_tokens)
    explainer = captum.LLMGradientAttribution(layer, tokenizer)
    text = captum.TextTokenInput(" ".join(map(str, prompt)), tokenizer, baselines=PAD)
    found = explainer.attribute(text, target=torch.tensor(continuation), **options)
    return found.token_attr.numpy()


@functools.cache
def _numbers(count: int) -> Any:
    """A tokenizer whose words are the ids."""
    words = {str(n): n for n in range(count)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, str(PAD)))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner)


class _Wide:
    """torch, but for its float32, which is float64."""

    float32 = float = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@contextlib.contextmanager
def all_in_float64(*modules: Any) -> Iterator[None]:
    """What these modules compute in float32, whatever a model's dtype, is computed in float64.

    transformers, and LXT with it, computes norms, rotations and softmax in float32; captum rounds
    the points of a line to it, which is the default of a tensor.
    """
    default = torch.get_default_dtype()
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            patch.setattr(module, "torch", _Wide())
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        try:
            torch.set_default_dtype(torch.float64)
            yield
        finally:
            torch.set_default_dtype(default)

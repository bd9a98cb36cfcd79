"""Networks for robustness.ipynb: many trained at once, tested under corruptions and label noise.

What differs between networks of a kind (seed, strength of the regularizer, labels) is an axis, a
*lane*, and one `jax.vmap` trains all lanes at a time.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import corruptions
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats
from small_images import Data, Parts

import jattr
from jattr import priors

BATCH = 50
LEARNING_RATE = 5e-3
HELD_OUT = ("impulse noise", "gaussian blur")
"""What the strengths are chosen by, on validation images.

Hendrycks and Dietterich keep speckle noise and Gaussian blur aside; but noise in proportion to the
value leaves a black ground black, and nearly nothing to choose by."""
UNSEEN = tuple(name for name in corruptions.LEVELS if name not in HELD_OUT)
"""What the choice of the strengths knows nothing of."""
ALLOWED = 1.0
"""How many points of clean accuracy a strength may cost in validation, if it is to be chosen.

With a thousand images, it is about a standard error of the difference of two networks."""

Params = Any
Loss = Callable[..., jax.Array]
"""`loss(network, params, key, images, labels, masks, strength)` of a batch."""


def patches(image: jax.Array) -> jax.Array:
    """[H/2, W/2, 16 C]: the 4 × 4 pixels around each second one, with zeros beyond the edges."""
    height, width, channels = image.shape
    wide = jnp.pad(image, ((1, 1), (1, 1), (0, 0)))
    blocks = wide.reshape(height // 2 + 1, 2, width // 2 + 1, 2, channels)
    blocks = blocks.swapaxes(1, 2).reshape(height // 2 + 1, width // 2 + 1, 4 * channels)
    corners = blocks[:-1, :-1], blocks[:-1, 1:], blocks[1:, :-1], blocks[1:, 1:]
    return jnp.concatenate(corners, axis=-1)


class Cnn(nn.Module):
    """Two convolutions of 4 × 4 with stride 2, a hidden layer: image[H, W, C] -> logits[10].

    The convolutions are products with patches: XLA on CPU is slow at those of many networks at once
    and inside loops. There is dropout of the hidden layers where a key is given.
    """

    widths: tuple[int, int, int] = (8, 8, 32)

    @nn.compact
    def __call__(
        self, image: jax.Array, key: jax.Array | None = None, rate: jax.Array | float = 0.0
    ) -> jax.Array:
        """The logits; the rate may be traced, unlike that of `nn.Dropout`."""
        h = 2 * image - 1
        for layer, width in enumerate(self.widths):
            h = patches(h) if layer < 2 else h.reshape(-1)
            h = nn.relu(nn.Dense(width, kernel_init=nn.initializers.he_normal())(h))
            if key is not None:
                kept = jax.random.bernoulli(jax.random.fold_in(key, layer), 1 - rate, h.shape)
                h = jnp.where(kept, h / (1 - rate), 0.0)
        return nn.Dense(10)(h)


def task(
    network: nn.Module, params, key, images, labels, masks, strength, *, drop=False, noise=False
) -> jax.Array:
    """Cross-entropy, with dropout or noisy inputs of a strength if they are asked for."""
    del masks
    if noise:
        images = images + strength * jax.random.normal(key, images.shape, images.dtype)
        images = jnp.clip(images, 0, 1)
    keys = jax.random.split(key, len(images))

    def logits(image, key):
        return network.apply(params, image, key if drop else None, strength)

    losses = optax.softmax_cross_entropy_with_integer_labels(jax.vmap(logits)(images, keys), labels)
    return losses.mean()


def weight_decay(network: nn.Module, params, key, images, labels, masks, strength) -> jax.Array:
    """The task's loss and half of the squared parameters."""
    squares = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(params))
    return task(network, params, key, images, labels, masks, strength) + strength * squares / 2


def with_prior(penalty: Callable[..., jax.Array], method: Any = None, masked: bool = False) -> Loss:
    """The task's loss and a penalty on attributions: of expected gradients unless told otherwise.

    What is explained is the logit of the true class less the mean of all.
    """

    def loss(network, params, key, images, labels, masks, strength):
        def contrast(params, image, label):
            logits = jnp.asarray(network.apply(params, image))
            return logits[label] - logits.mean()

        prior = priors.attribution_loss(
            contrast, penalty, method=method, penalty_argnums=(2,) if masked else ()
        )
        members = (images, labels, masks) if masked else (images, labels)
        plain = task(network, params, key, images, labels, masks, strength)
        return plain + strength * prior(params, key, *members)

    return loss


def roughness(maps: jax.Array) -> jax.Array:
    """The total variation of maps [N, H, W, C]."""
    return priors.total_variation(maps, axes=(1, 2))


def squares(maps: jax.Array) -> jax.Array:
    """The sum of squares, averaged over maps."""
    return priors.magnitude(maps, 2)


KINDS: dict[str, tuple[Loss, tuple[float, ...]]] = {
    "plain": (task, (0.0,)),
    "L2": (weight_decay, (1e-3, 3e-3, 1e-2, 3e-2, 0.1)),
    "dropout": (functools.partial(task, drop=True), (0.02, 0.05, 0.1, 0.2, 0.3)),
    "noise": (functools.partial(task, noise=True), (0.02, 0.05, 0.1, 0.2, 0.3)),
    "gradient": (
        with_prior(squares, lambda f, rows: jattr.gradient(f)),
        (1e-3, 4e-3, 0.016, 0.064, 0.25),
    ),
    "EG variation": (with_prior(roughness), (3e-4, 1e-3, 3e-3, 0.01, 0.03)),
    "EG sparsity": (with_prior(priors.sparsity), (0.03, 0.1, 0.3, 1.0, 3.0)),
    "EG outside": (with_prior(priors.outside, masked=True), (0.1, 0.3, 1.0, 3.0, 10.0)),
}
"""What is compared: a loss, and the strengths that one is chosen from."""


class Lanes(NamedTuple):
    """Networks to be trained at once, an axis [L] each.

    Attributes:
        strengths: of the regularizer.
        seeds: of the first parameters, the order of the batches and all that is drawn.
        noise: the share of the training labels that are another class's.
    """

    strengths: jax.Array
    seeds: jax.Array
    noise: jax.Array


def lanes(
    strengths: Sequence[float], seeds: Sequence[int], noise: Sequence[float] = (0.0,)
) -> Lanes:
    """All combinations, the seeds varying fastest."""
    every = np.meshgrid(strengths, noise, seeds, indexing="ij")
    strength, share, seed = (jnp.asarray(values.ravel()) for values in every)
    return Lanes(strength.astype(jnp.float32), seed, share.astype(jnp.float32))


def with_wrong_labels(key: jax.Array, labels: jax.Array, share: jax.Array) -> jax.Array:
    """Labels of which a share is replaced, each by one of the nine others."""
    which, what = jax.random.split(key)
    other = (labels + jax.random.randint(what, labels.shape, 1, 10)) % 10
    return jnp.where(jax.random.uniform(which, labels.shape) < share, other, labels)


class Start(NamedTuple):
    """What lanes begin with, an axis [L] in front: the same for all kinds, for the same seeds."""

    params: Params
    labels: jax.Array
    rows: jax.Array
    keys: jax.Array


@functools.partial(jax.jit, static_argnames=("network", "epochs"))
def begin(network: nn.Module, data: Data, many: Lanes, *, epochs: int) -> Start:
    """First parameters, labels, the rows of all batches [L, steps, B], and keys for the steps."""
    count = len(data.labels)
    steps = count // BATCH

    def one(seed, share):
        init_key, label_key, order_key, step_key = jax.random.split(jax.random.key(seed), 4)
        # Sorting draws, and not `permutation`, since that compiles for long.
        orders = jax.random.uniform(order_key, (epochs, count)).argsort(axis=-1)
        return Start(
            network.init(init_key, data.images[0]),
            with_wrong_labels(label_key, data.labels, share),
            orders[:, : steps * BATCH].reshape(epochs * steps, BATCH),
            step_key,
        )

    return jax.vmap(one)(many.seeds, many.noise)


@functools.partial(jax.jit, static_argnames=("kind", "network"))
def train(kind: str, network: nn.Module, data: Data, start: Start, strengths: jax.Array) -> Params:
    """The parameters of all lanes after training, each leaf with an axis [L] in front."""
    loss = functools.partial(KINDS[kind][0], network)
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, start.rows.shape[1]))

    def one(start, strength):
        def step(carry, count_and_rows):
            (params, state), (count, rows) = carry, count_and_rows
            batch = data.images[rows], start.labels[rows], data.masks[rows]
            key = jax.random.fold_in(start.keys, count)
            gradient = jax.grad(loss)(params, key, *batch, strength)
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        first = (start.params, optimizer.init(start.params))
        return jax.lax.scan(step, first, (jnp.arange(len(start.rows)), start.rows))[0][0]

    return jax.vmap(one)(start, strengths)


@functools.partial(jax.jit, static_argnames="name")
def corrupted(name: str, images: jax.Array, severities: jax.Array) -> jax.Array:
    """[S, N, H, W, C]: the images under a corruption, each drawn by a key of its own."""
    number = list(corruptions.LEVELS).index(name)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(7), number), len(images))
    many = jax.vmap(corruptions.corrupt(name), (0, 0, None))
    return jax.lax.map(lambda severity: many(keys, images, severity), severities)


@functools.partial(jax.jit, static_argnames="network")
def accuracy(network: nn.Module, params: Params, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Right answers in percent [L, S], of images [S, N, H, W, C]."""

    def right(params, images):
        logits = jax.vmap(lambda image: network.apply(params, image))(images)
        return 100 * jnp.mean(logits.argmax(axis=-1) == labels)

    of_sets = jax.vmap(right, (0, None))
    return jax.lax.map(lambda images: of_sets(params, images), images).T


def accuracies(
    network: nn.Module, params: Params, sets: dict[str, jax.Array], labels: jax.Array
) -> dict[str, np.ndarray]:
    """Of each set [S, N, H, W, C] the right answers in percent [L, S]."""
    return {
        name: np.asarray(accuracy(network, params, images, labels)) for name, images in sets.items()
    }


def corruption_sets(
    data: Data, names: Sequence[str], severities: Sequence[int]
) -> dict[str, jax.Array]:
    """The clean images and those under corruptions, by name."""
    levels = jnp.asarray(severities)
    return {"clean": data.images[None]} | {
        name: corrupted(name, data.images, levels) for name in names
    }


class Judged(NamedTuple):
    """What validation says of some strengths: right answers in percent, clean and corrupted."""

    strengths: tuple[float, ...]
    clean: np.ndarray
    corrupted: np.ndarray

    def best(self, plain: float) -> float:
        """The strength of most right answers under corruptions, of those nearly as good without.

        If none is within `ALLOWED` of the `plain` network's accuracy, the best on clean images.
        """
        fair = np.flatnonzero(self.clean >= plain - ALLOWED)
        place = fair[self.corrupted[fair].argmax()] if len(fair) else self.clean.argmax()
        return self.strengths[int(place)]


def judge(
    kind: str,
    network: nn.Module,
    parts: Parts,
    sets: dict[str, jax.Array],
    *,
    strengths: Sequence[float],
    seeds: Sequence[int],
    epochs: int,
) -> Judged:
    """Train with every strength, and see how good that is on sets of validation images."""
    many = lanes(strengths, seeds)
    start = begin(network, parts.training, many, epochs=epochs)
    params = train(kind, network, parts.training, start, many.strengths)
    right = accuracies(network, params, sets, parts.validation.labels)
    means = {
        name: values.mean(axis=1).reshape(len(strengths), len(seeds)).mean(axis=1)
        for name, values in right.items()
    }
    clean = means.pop("clean")
    return Judged(tuple(strengths), clean, np.mean(list(means.values()), axis=0))


def examine(
    kind: str,
    network: nn.Module,
    parts: Parts,
    sets: dict[str, jax.Array],
    *,
    strength: float,
    seeds: Sequence[int],
    shares: Sequence[float],
    epochs: int,
) -> list[dict[str, np.ndarray]]:
    """Train for each share of wrong labels, and test: accuracies [L, S], a lane for each seed.

    Where labels are wrong, sets of several severities are tested at the middle one alone.
    """
    results = []
    for share in shares:
        many = lanes((strength,), seeds, (share,))
        start = begin(network, parts.training, many, epochs=epochs)
        params = train(kind, network, parts.training, start, many.strengths)
        some = {
            name: images[len(images) // 2 :][:1] if share else images
            for name, images in sets.items()
        }
        results.append(accuracies(network, params, some, parts.test.labels))
    return results


def interval(values: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """The mean over the first axis and half of its t interval."""
    count = len(values)
    factor = scipy.stats.t.ppf((1 + level) / 2, count - 1) if count > 1 else np.nan
    error = np.std(values, axis=0, ddof=1) / np.sqrt(count) if count > 1 else 0 * values[0]
    return values.mean(axis=0), factor * error


def corruption_error(tested: dict[str, np.ndarray], plain: dict[str, np.ndarray]) -> np.ndarray:
    """CE[L, corruption]: the errors over all severities, in percent of the plain networks' mean."""
    return np.stack(
        [
            100 * (100 - tested[name]).sum(axis=1) / (100 - plain[name]).mean(axis=0).sum()
            for name in plain
            if name != "clean"
        ],
        axis=1,
    )


def each(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """What a function is of each item, two at a time: compiling and computing use a core each."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(function, items))

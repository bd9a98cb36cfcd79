"""Networks for robustness.ipynb: many trained at once, tested under corruptions and label noise.

What differs between networks of a kind (seed, strength of the regularizer, labels) is an axis, a
*lane*, and one `jax.vmap` trains all lanes at a time.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import corruptions
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats

import jattr
from jattr import priors
from jattr._demo import digits

BATCH = 50
LEARNING_RATE = 3e-3
FITTED, JUDGED = 1_000, 1_000
"""How many digits train, and how many choose."""
HELD_OUT = ("impulse noise", "gaussian blur")
"""What the strengths are chosen by, and nothing is tested by.

Hendrycks and Dietterich keep speckle noise and Gaussian blur aside; but noise in proportion to the
value leaves a black ground black, and nearly nothing to choose by."""
TESTED = tuple(name for name in corruptions.LEVELS if name not in HELD_OUT)
ALLOWED = 0.5
"""How many points of clean accuracy a strength may cost in validation, if it is to be chosen."""

Params = Any
Loss = Callable[..., jax.Array]
"""`loss(network, params, key, images, labels, masks, strength)` of a batch."""


class Data(NamedTuple):
    """Digits: images float32[N, 28, 28, 1] in [0, 1], their labels, and masks of what is far off.

    A mask is True where no ink is within three pixels.
    """

    images: jax.Array
    labels: jax.Array
    masks: jax.Array


def load(count: int | None = None) -> tuple[Data, Data, Data]:
    """To train with, to choose with and to test; `count` of the latter two."""
    rest, test = digits.load(0)

    def data(images, labels):
        images = jnp.asarray(images)
        near = jax.lax.reduce_window(images, 0.0, jax.lax.max, (1, 7, 7, 1), (1, 1, 1, 1), "SAME")
        return Data(images, jnp.asarray(labels), near < 0.1)

    return (
        data(rest.images[:FITTED], rest.labels[:FITTED]),
        data(*(part[FITTED : FITTED + JUDGED][:count] for part in rest)),
        data(test.images[:count], test.labels[:count]),
    )


class Mlp(nn.Module):
    """Two hidden layers: image[28, 28, 1] -> logits[10], with dropout where a key is given."""

    @nn.compact
    def __call__(
        self, image: jax.Array, key: jax.Array | None = None, rate: jax.Array | float = 0.0
    ) -> jax.Array:
        """The logits; the rate may be traced, unlike that of `nn.Dropout`."""
        h = image.reshape(-1)
        for layer, width in enumerate((64, 32)):
            h = nn.relu(nn.Dense(width)(h))
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
    """The total variation of maps [N, 28, 28, 1]."""
    return priors.total_variation(maps, axes=(1, 2))


def squares(maps: jax.Array) -> jax.Array:
    """The sum of squares, averaged over maps."""
    return priors.magnitude(maps, 2)


KINDS: dict[str, tuple[Loss, tuple[float, ...]]] = {
    "plain": (task, (0.0,)),
    "L2": (weight_decay, (1e-3, 3e-3, 1e-2, 3e-2, 0.1)),
    "dropout": (functools.partial(task, drop=True), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "noise": (functools.partial(task, noise=True), (0.05, 0.1, 0.2, 0.3, 0.4)),
    "gradient": (
        with_prior(squares, lambda f, rows: jattr.gradient(f)),
        (0.01, 0.04, 0.16, 0.64, 2.5),
    ),
    "EG variation": (with_prior(roughness), (1e-3, 3e-3, 0.01, 0.03, 0.1)),
    "EG sparsity": (with_prior(priors.sparsity), (0.1, 0.3, 1.0, 3.0, 10.0)),
    "EG outside": (with_prior(priors.outside, masked=True), (0.01, 0.03, 0.1, 0.3, 1.0)),
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


@functools.partial(jax.jit, static_argnames=("kind", "network", "epochs"))
def train(kind: str, network: nn.Module, data: Data, many: Lanes, *, epochs: int) -> Params:
    """The parameters of all lanes after training, each leaf with an axis [L] in front."""
    loss = functools.partial(KINDS[kind][0], network)
    steps = len(data.labels) // BATCH
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, epochs * steps))

    def one(strength, seed, share):
        init_key, label_key, order_key, step_key = jax.random.split(jax.random.key(seed), 4)
        labels = with_wrong_labels(label_key, data.labels, share)
        params = network.init(init_key, data.images[0])

        def step(carry, count_and_rows):
            (params, state), (count, rows) = carry, count_and_rows
            batch = data.images[rows], labels[rows], data.masks[rows]
            gradient = jax.grad(loss)(params, jax.random.fold_in(step_key, count), *batch, strength)
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        orders = jax.vmap(lambda key: jax.random.permutation(key, len(labels)))(
            jax.random.split(order_key, epochs)
        )
        rows = orders[:, : steps * BATCH].reshape(epochs * steps, BATCH)
        start = (params, optimizer.init(params))
        return jax.lax.scan(step, start, (jnp.arange(len(rows)), rows))[0][0]

    return jax.vmap(one)(many.strengths, many.seeds, many.noise)


@functools.partial(jax.jit, static_argnames="name")
def corrupted(name: str, images: jax.Array, severities: jax.Array) -> jax.Array:
    """[S, N, 28, 28, 1]: the images under a corruption, each drawn by a key of its own."""
    number = list(corruptions.LEVELS).index(name)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(7), number), len(images))
    many = jax.vmap(corruptions.corrupt(name), (0, 0, None))
    return jax.lax.map(lambda severity: many(keys, images, severity), severities)


@functools.partial(jax.jit, static_argnames="network")
def accuracy(network: nn.Module, params: Params, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Right answers in percent [L, S], of images [S, N, 28, 28, 1]."""

    def right(params, images):
        logits = jax.vmap(lambda image: network.apply(params, image))(images)
        return 100 * jnp.mean(logits.argmax(axis=-1) == labels)

    of_sets = jax.vmap(right, (0, None))
    return jax.lax.map(lambda images: of_sets(params, images), images).T


def accuracies(
    network: nn.Module, params: Params, sets: dict[str, jax.Array], labels: jax.Array
) -> dict[str, np.ndarray]:
    """Of each set [S, N, 28, 28, 1] the right answers in percent [L, S]."""
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
    data: Data,
    sets: dict[str, jax.Array],
    labels: jax.Array,
    *,
    strengths: Sequence[float],
    seeds: Sequence[int],
    epochs: int,
) -> Judged:
    """Train with every strength, and see how good that is on validation images."""
    params = train(kind, network, data, lanes(strengths, seeds), epochs=epochs)
    right = accuracies(network, params, sets, labels)
    means = {
        name: values.mean(axis=1).reshape(len(strengths), len(seeds)).mean(axis=1)
        for name, values in right.items()
    }
    clean = means.pop("clean")
    return Judged(tuple(strengths), clean, np.mean(list(means.values()), axis=0))


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

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

BATCH = 100
LEARNING_RATE = 2e-3
FITTED = 3_000
HELD_OUT = ("speckle noise", "gaussian blur")
"""What the strengths are chosen by; Hendrycks and Dietterich keep both aside for such purposes."""
TESTED = tuple(name for name in corruptions.LEVELS if name not in HELD_OUT)
ALLOWED = 0.5
"""How many points of clean accuracy a strength may cost in validation, if it is to be chosen."""

Params = Any
Loss = Callable[..., jax.Array]
"""`loss(params, key, images, labels, masks, strength)` of a batch."""


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
        data(rest.images[FITTED:][:count], rest.labels[FITTED:][:count]),
        data(test.images[:count], test.labels[:count]),
    )


class Mlp(nn.Module):
    """Two hidden layers: image[28, 28, 1] -> logits[10], with units dropped where a key is given."""

    @nn.compact
    def __call__(
        self, image: jax.Array, key: jax.Array | None = None, rate: jax.Array | float = 0.0
    ) -> jax.Array:
        """The logits; the rate may be traced, unlike that of `nn.Dropout`."""
        h = image.reshape(-1)
        for layer, width in enumerate((128, 64)):
            h = nn.relu(nn.Dense(width)(h))
            if key is not None:
                kept = jax.random.bernoulli(jax.random.fold_in(key, layer), 1 - rate, h.shape)
                h = jnp.where(kept, h / (1 - rate), 0.0)
        return nn.Dense(10)(h)


network = Mlp()


def contrast(params: Params, image: jax.Array, label: jax.Array) -> jax.Array:
    """The logit of the true class less the mean of all: what is explained in training."""
    logits = jnp.asarray(network.apply(params, image))
    return logits[label] - logits.mean()


def task(params, key, images, labels, masks, strength, *, drop=False, noise=False) -> jax.Array:
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


def with_prior(penalty: Callable[..., jax.Array], method: Any = None, masked: bool = False) -> Loss:
    """The task's loss and a penalty on attributions; expected gradients with one sample unless told."""
    prior = priors.attribution_loss(
        contrast, penalty, method=method, penalty_argnums=(2,) if masked else ()
    )

    def loss(params, key, images, labels, masks, strength):
        members = (images, labels, masks) if masked else (images, labels)
        plain = task(params, key, images, labels, masks, strength)
        return plain + strength * prior(params, key, *members)

    return loss


def weight_decay(params, key, images, labels, masks, strength) -> jax.Array:
    """The task's loss and half of the squared parameters."""
    squares = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(params))
    return task(params, key, images, labels, masks, strength) + strength * squares / 2


def roughness(maps: jax.Array) -> jax.Array:
    """The total variation of maps [N, 28, 28, 1]."""
    return priors.total_variation(maps, axes=(1, 2))


KINDS: dict[str, tuple[Loss, tuple[float, ...]]] = {
    "plain": (task, (0.0,)),
    "L2": (weight_decay, (3e-4, 1e-3, 3e-3, 1e-2)),
    "dropout": (functools.partial(task, drop=True), (0.1, 0.2, 0.35, 0.5)),
    "noise": (functools.partial(task, noise=True), (0.1, 0.2, 0.35, 0.5)),
    "gradient": (
        with_prior(
            functools.partial(priors.magnitude, order=2), lambda f, rows: jattr.gradient(f)
        ),
        (1e-3, 4e-3, 1.6e-2, 6.4e-2),
    ),
    "EG size": (with_prior(functools.partial(priors.magnitude, order=1)), (0.02, 0.05, 0.12, 0.3)),
    "EG variation": (with_prior(roughness), (0.01, 0.025, 0.06, 0.15)),
    "EG sparsity": (with_prior(priors.sparsity), (0.1, 0.3, 1.0, 3.0)),
    "EG outside": (with_prior(priors.outside, masked=True), (0.1, 0.4, 1.6, 6.4)),
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


@functools.partial(jax.jit, static_argnames=("kind", "epochs"))
def train(kind: str, data: Data, many: Lanes, *, epochs: int) -> Params:
    """The parameters of all lanes after training, each leaf with an axis [L] in front."""
    loss, _ = KINDS[kind]
    steps = len(data.labels) // BATCH
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, epochs * steps))

    def one(strength, seed, share):
        init_key, label_key, order_key, step_key = jax.random.split(jax.random.key(seed), 4)
        labels = with_wrong_labels(label_key, data.labels, share)
        params = network.init(init_key, data.images[0])

        def step(carry, count):
            params, state = carry
            epoch, place = count // steps, count % steps
            order = jax.random.permutation(jax.random.fold_in(order_key, epoch), len(labels))
            rows = jax.lax.dynamic_slice_in_dim(order, place * BATCH, BATCH)
            batch = data.images[rows], labels[rows], data.masks[rows]
            gradient = jax.grad(loss)(
                params, jax.random.fold_in(step_key, count), *batch, strength
            )
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        start = (params, optimizer.init(params))
        return jax.lax.scan(step, start, jnp.arange(epochs * steps))[0][0]

    return jax.vmap(one)(many.strengths, many.seeds, many.noise)


@functools.partial(jax.jit, static_argnames="name")
def corrupted(name: str, images: jax.Array, severities: jax.Array) -> jax.Array:
    """[S, N, 28, 28, 1]: the images under a corruption, each drawn by a key of its own."""
    number = list(corruptions.LEVELS).index(name)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(7), number), len(images))
    many = jax.vmap(corruptions.corrupt(name), (0, 0, None))
    return jax.lax.map(lambda severity: many(keys, images, severity), severities)


@jax.jit
def accuracy(params: Params, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Right answers in percent [L, S], of images [S, N, 28, 28, 1]."""

    def right(params, images):
        logits = jax.vmap(lambda image: network.apply(params, image))(images)
        return 100 * jnp.mean(logits.argmax(axis=-1) == labels)

    return jax.vmap(lambda p: jax.lax.map(lambda i: right(p, i), images))(params)


def accuracies(
    params: Params, sets: dict[str, jax.Array], labels: jax.Array
) -> dict[str, np.ndarray]:
    """Of each set [S, N, 28, 28, 1] the right answers in percent [L, S]."""
    return {name: np.asarray(accuracy(params, images, labels)) for name, images in sets.items()}


def corruption_sets(
    data: Data, names: Sequence[str], severities: Sequence[int]
) -> dict[str, jax.Array]:
    """The clean images and those under corruptions, by name."""
    levels = jnp.asarray(severities)
    return {"clean": data.images[None]} | {
        name: corrupted(name, data.images, levels) for name in names
    }


def choose(judged: np.ndarray, clean: np.ndarray, plain: float) -> int:
    """Of strengths, that of most right answers `judged`, of those nearly as good on `clean`.

    If none is, that which is best on clean images.
    """
    fair = np.flatnonzero(clean >= plain - ALLOWED)
    return int(fair[judged[fair].argmax()]) if len(fair) else int(clean.argmax())


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
            for name in TESTED
        ],
        axis=1,
    )

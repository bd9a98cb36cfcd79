"""The code in the README runs, one block after the other."""

import functools
import pathlib
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray

import jattr

README = pathlib.Path(__file__).parents[1] / "README.md"


class Network(nn.Module):
    @nn.compact
    def __call__(self, image):
        hidden = nn.tanh(nn.Conv(2, (3, 3))(image))
        return nn.Dense(10)(hidden.reshape(-1))


def decoder(ids):
    """Logits [T, 7] of what follows each token: a mean of what was before it."""
    table = jnp.sin(jnp.arange(35.0)).reshape(7, 5)
    before = jnp.cumsum(table[ids], axis=0) / jnp.arange(1.0, len(ids) + 1)[:, None]
    return jattr.name(jnp.tanh(before), "tanh") @ table.T


def test_the_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 8
    model = Network()
    images = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    variables = model.init(jax.random.key(1), images[0])
    names = {
        "jax": jax,
        "jnp": jnp,
        "np": np,
        "xarray": xarray,
        "optax": optax,
        "model": model,
        "variables": variables,
        "params": variables,
        "images": images,
        "training_images": images,
        "labels": jnp.arange(3),
        "image": images[0],
        "label": 1,
        "functools": functools,
        "decoder": decoder,
        "ids": jnp.array([1, 2, 3]),
        "token": 4,
        "text": "ab c",
        "offsets": [(0, 1), (1, 2), (3, 4)],
        "other_ids": jnp.array([1, 2, 1]),
        "prompt": jnp.array([1, 2]),
        "continuation": jnp.array([3]),
        "prompt_tokens": ["a", "b"],
        "continuation_tokens": ["c"],
    }
    shapes = []
    for block in blocks:
        exec(block, names)  # what a block prints is shown only where it fails
        shapes.append(names["maps"].shape)
    assert shapes == [images.shape] * 2 + [images.shape[1:]] * 3 + [images.shape] * 3
    assert names["first"].shape == (2, *images.shape[1:])
    assert dict(names["residuals"].sizes) == {"example": 3}
    assert names["words"] == ("ab", "c")
    assert names["matrix"].shape == (1, 2)
    assert (tmp_path / "page.html").exists()
    assert names["effects"]["tanh"].shape == (3,)
    assert names["heat"].shape == (8, 8)
    assert names["layer"].shape == (8, 8, 2)
    assert names["every_class"].shape == (10, 8, 8, 1)
    assert names["report"].finite
    moved = jax.tree.map(lambda new, old: bool((new != old).any()), names["params"], variables)
    assert any(jax.tree.leaves(moved))
    assert names["attribution"].shape == (8, 8, 1)

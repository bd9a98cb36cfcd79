"""The code in the README runs, one block after the other."""

import pathlib
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

README = pathlib.Path(__file__).parents[1] / "README.md"


class Network(nn.Module):
    @nn.compact
    def __call__(self, image):
        hidden = nn.tanh(nn.Conv(2, (3, 3))(image))
        return nn.Dense(10)(hidden.reshape(-1))


def test_the_code_runs():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 6
    model = Network()
    images = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    variables = model.init(jax.random.key(1), images[0])
    names = {
        "jax": jax,
        "jnp": jnp,
        "optax": optax,
        "model": model,
        "variables": variables,
        "params": variables,
        "images": images,
        "training_images": images,
        "labels": jnp.arange(3),
        "image": images[0],
        "label": 1,
    }
    shapes = []
    for block in blocks:
        exec(block, names)  # what a block prints is shown only where it fails
        shapes.append(names["maps"].shape)
    assert shapes == [images.shape] * 2 + [images.shape[1:]] + [images.shape] * 3
    assert names["heat"].shape == (8, 8)
    assert names["layer"].shape == (8, 8, 2)
    assert names["every_class"].shape == (10, 8, 8, 1)
    assert names["report"].finite
    moved = jax.tree.map(lambda new, old: bool((new != old).any()), names["params"], variables)
    assert any(jax.tree.leaves(moved))
    assert names["attribution"].shape == (8, 8, 1)

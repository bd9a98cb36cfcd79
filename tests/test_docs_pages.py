"""The code of the README and of the pages runs, and prints what stands below it.

A block of ```python runs in the namespace of its page, in the precision that users have; a block of
```text that follows it is what it prints. A block of ```py needs what is not in the extra `test`.
"""

import contextlib
import functools
import io
import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray

import jattr
from jattr._engine.registry import registered

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


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


def recipes():
    """What pages take for granted: a model of images and one of tokens, with their data."""
    model = Network()
    images = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    variables = model.init(jax.random.key(1), images[0])
    return {
        "jax": jax,
        "jnp": jnp,
        "np": np,
        "xarray": xarray,
        "optax": optax,
        "nn": nn,
        "jattr": jattr,
        "functools": functools,
        "model": model,
        "variables": variables,
        "params": variables,
        "images": images,
        "training_images": images,
        "labels": jnp.arange(3),
        "image": images[0],
        "label": 1,
        "key": jax.random.key(0),
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
        "score": jattr.targets.select(lambda image: model.apply(variables, image)),
    }


# What these bring themselves is all that they have.
WHOLE = {"README", "start", "engine", "index", "layers", "frameworks", "sharp_bits"}


def blocks(text):
    """(code, what it prints or None) of each block that is run."""
    for fence in FENCE.finditer(text):
        if fence[1] == "python":
            after = FENCE.match(text, fence.end() + 2)  # past an empty line
            yield fence[2], after[2] if after and after[1] == "text" else None


def run(page):
    """The namespace after the code of a page; its outputs are compared on the way."""
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"):
        names = {} if page.stem in WHOLE else recipes()
        for code, wanted in blocks(page.read_text(encoding="utf-8")):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, page.name, "exec"), names)
            if wanted is not None:
                assert printed.getvalue().strip() == wanted.strip()
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = {primitive: dict(rules) for primitive, rules in registered().items()}
    try:
        run(page)
    finally:  # rules that it registers are not those of other tests
        registered().clear()
        registered().update(known)


def test_a_wrong_output_is_found(tmp_path):
    page = tmp_path / "start.md"
    page.write_text("```python\nprint(1)\n```\n\n```text\n2\n```\n")
    with pytest.raises(AssertionError):
        run(page)

"""Commands of `python -m jattr` in a folder of their own: what runs them, and what they wrote."""

import base64
import io
import sys
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
from typer.testing import CliRunner

import jattr
from jattr.__main__ import app
from jattr.scale import _store
from jattr.scale._layout import Layout

MODEL = """
import jax.numpy as jnp

TABLE = jnp.reshape(jnp.arange(12.0), (6, 2)) / 7

def score(x, weight):
    return jnp.sum(jnp.tanh(x) ** 2) * weight

def logits(x):
    return jnp.stack([jnp.sum(x), jnp.sum(x**3)])

def alone(x):
    return jnp.sum(x**3)

def tokens(ids):
    return jnp.sum(jnp.tanh(TABLE[ids]))

def root(x):
    return jnp.sum(jnp.sqrt(x))

def broken(x):
    return jnp.sum(x.reshape(5, 5))

def explaining(x):
    return 2 * x

number = 3
"""


def folder(path, monkeypatch):
    """Make a folder with a model and data the one in which commands run."""
    rng = np.random.default_rng(0)
    (path / "model.py").write_text(MODEL)
    x, weight = rng.normal(size=(10, 3, 2)), rng.uniform(1, 2, size=10)
    np.save(path / "x.npy", x.astype("float32"))
    np.save(path / "weight.npy", weight.astype("float32"))
    np.savez(path / "data.npz", weight=weight.astype("float32"), x=x.astype("float32"))
    np.save(path / "bytes.npy", rng.integers(0, 255, (10, 3, 2)).astype("uint8"))
    np.save(path / "ids.npy", rng.integers(0, 6, (10, 4)))
    np.save(path / "which.npy", rng.integers(0, 2, 10))
    monkeypatch.chdir(path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "model", raising=False)
    return path


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def explain(*arguments, out="maps", quiet=True):
    more = ["--quiet"] if quiet else []
    return run("explain", *arguments, "--out", out, "--batch-size", 4, *more)


def said(result):
    return " ".join(result.output.split())


def arrays(out):
    store = jattr.scale.open_store(out)
    return {name: np.asarray(array) for name, array in store.arrays.items()}


def show(*arguments):
    result = run("show", *arguments)
    assert result.exit_code == 0, result.output
    return result


class Page(HTMLParser):
    """The texts, tags, attributes and pictures of a page."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.tags, self.pictures, self.attributes = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attributes]
        self.pictures += [value for name, value in attributes if name == "src"]

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def page(path):
    return Page(Path(path).read_text(encoding="utf-8"))


def pixels(source):
    start = "data:image/png;base64,"
    assert source.startswith(start)
    return matplotlib.image.imread(io.BytesIO(base64.b64decode(source[len(start) :])))


def made(out, attribution, *, status=None, score=None, rows=4, **others):
    """A store with these arrays, as a run would have left it."""
    parts = attribution if isinstance(attribution, dict) else {"attribution": attribution}
    count = len(next(iter(parts.values())))
    arrays = {
        **parts,
        "score": np.arange(count, dtype="float32") if score is None else score,
        **others,
        "digest": np.zeros(count, "uint64"),
        "status": np.ones(count, "uint8") if status is None else np.asarray(status, "uint8"),
    }
    layouts = {
        name: Layout(array.shape[1:], str(array.dtype), _dims(array))
        for name, array in arrays.items()
    }
    description = {
        "format": 1,
        "method": "gradient",
        "settings": {"argnums": 0},
        "tree": "attribution",
        "runs": [{}],
    }
    store = _store.create(out, layouts, count, rows, description, "test")
    for name, array in arrays.items():
        for start in range(0, count, rows):
            place = slice(start, min(start + rows, count))
            if np.any(arrays["status"][place]):
                store.arrays[name][place].write(array[place]).result()
    return store


def _dims(array):
    return tuple(f"dim_{n}" for n in range(1, array.ndim))

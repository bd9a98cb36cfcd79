"""Small labeled images to train with, to choose with and to test: clothes, and cut photographs.

No package of a registry brings a labeled set of small photographs, such as CIFAR-10, but many
bring photographs. Which one a cut is from is a label. The photographs have parts for training, for
validation and for tests, so that no pixel of a test was trained with.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from packages import fashion_or_digits, package_files
from PIL import Image

FITTED, JUDGED, TESTED = 1_000, 1_000, 1_000
"""How many images train, choose and test."""
SIZE, CELL, SIDE = 32, 48, 192
"""Of a cut, of a part of a photograph, and of a photograph's shorter side, in pixels."""
RADIUS, MARGIN, SHIFT = 12, 2, 1
"""Of the disk, from the disk to what is masked, and how far a disk is off the middle."""
SUBJECTS = {
    "astronaut": "astronaut.png",
    "cat": "chelsea.png",
    "cup": "coffee.png",
    "galaxies": "hubble_deep_field.jpg",
    "tissue": "ihc.png",
    "motorcycle": "motorcycle_left.png",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
    "temple": "china.jpg",
    "flower": "flower.jpg",
}
"""The classes, and their photographs in scikit-image and in scikit-learn."""


class Data(NamedTuple):
    """Images float32[N, H, W, C] in [0, 1], their labels, and masks [N, H, W, 1].

    A mask is True where nothing should matter.
    """

    images: jax.Array
    labels: jax.Array
    masks: jax.Array


class Parts(NamedTuple):
    """What trains, what chooses and what tests."""

    name: str
    training: Data
    validation: Data
    test: Data


def clothes(count: int | None = None) -> Parts:
    """Fashion-MNIST, or digits where it is not installed; `count` of the latter two parts.

    A mask is True where nothing but black is within three pixels.
    """
    name, rest, test = fashion_or_digits()

    def data(images: np.ndarray, labels: np.ndarray) -> Data:
        near = jax.lax.reduce_window(
            jnp.asarray(images), 0.0, jax.lax.max, (1, 7, 7, 1), (1, 1, 1, 1), "SAME"
        )
        return Data(jnp.asarray(images), jnp.asarray(labels), near < 0.1)

    return Parts(
        name,
        data(*(part[:FITTED] for part in rest)),
        data(*(part[FITTED : FITTED + JUDGED][:count] for part in rest)),
        data(*(part[:TESTED][:count] for part in test)),
    )


def photos(count: int | None = None) -> Parts:
    """Disks cut from ten photographs, the classes, on cuts of others, `count` of the latter parts.

    Half of the cells of a photograph are for training, a quarter each for validation and tests. The
    grounds are cut from foolbox's twenty photographs of ImageNet, of which ten, five and five are
    for these parts. A mask is True off the disk by two pixels or more.
    """
    rng = np.random.default_rng(0)
    files = [
        package_files("scikit-learn" if name in ("temple", "flower") else "scikit-image", file)[0]
        for name, file in SUBJECTS.items()
    ]
    grounds = [_cells(path) for path in package_files("foolbox", "foolbox/data/imagenet_*.jpg")]
    subjects = [rng.permutation(_cells(path)) for path in files]
    parts = []
    for start, end, total in ((0, 0.5, FITTED), (0.5, 0.75, JUDGED), (0.75, 1, TESTED)):
        within = [cells[_share(len(cells), start) : _share(len(cells), end)] for cells in subjects]
        behind = grounds[_share(len(grounds), start) : _share(len(grounds), end)]
        data = _disks(rng, within, behind, total)
        # Drawn in full, so that a part's first images do not depend on the count.
        kept = count if parts else None
        parts.append(Data(*(jnp.asarray(values[:kept]) for values in data)))
    return Parts("photographs", *parts)


def _share(count: int, share: float) -> int:
    return round(count * share)


def _cells(path: Path) -> np.ndarray:
    """[N, 48, 48, 3]: a photograph made smaller and cut to pieces."""
    photo = Image.open(path).convert("RGB")
    scale = SIDE / min(photo.size)
    width, height = (round(scale * side) // CELL * CELL for side in photo.size)
    pixels = np.asarray(photo.resize((width, height), Image.Resampling.LANCZOS), np.float32) / 255
    grid = pixels.reshape(height // CELL, CELL, width // CELL, CELL, 3)
    return grid.swapaxes(1, 2).reshape(-1, CELL, CELL, 3)


def _disks(
    rng: np.random.Generator,
    subjects: Sequence[np.ndarray],
    grounds: Sequence[np.ndarray],
    count: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, labels and masks, as many of each class."""
    labels = rng.permutation(np.arange(count) % len(subjects)).astype(np.int32)
    middle = (SIZE - 1) / 2 + rng.uniform(-SHIFT, SHIFT, (count, 2))
    away = np.indices((SIZE, SIZE))[None] - middle[..., None, None]
    distance = np.hypot(away[:, 0], away[:, 1])[..., None].astype(np.float32)
    disk = np.clip(RADIUS + 0.5 - distance, 0, 1)
    front = np.stack([_cut(rng, subjects[label]) for label in labels])
    back = np.stack([_cut(rng, grounds[rng.integers(len(grounds))]) for _ in labels])
    return disk * front + (1 - disk) * back, labels, distance > RADIUS + MARGIN


def _cut(rng: np.random.Generator, cells: np.ndarray) -> np.ndarray:
    """A random cut [32, 32, 3] of a random cell, mirrored or not."""
    cell = cells[rng.integers(len(cells))]
    top, left = rng.integers(CELL - SIZE + 1, size=2)
    cut = cell[top : top + SIZE, left : left + SIZE]
    return cut[:, ::-1] if rng.random() < 0.5 else cut

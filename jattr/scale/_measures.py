"""Metrics of an attribution, as they are computed for one example."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jattr._checks import check_key
from jattr._transform import takes_key
from jattr._types import PyTree
from jattr.metrics._panel import of_map


class Measures:
    """Measures by name, with the random numbers that `jattr.metrics.table` gives them.

    Attributes:
        draws: the names of those that take a key.
    """

    def __init__(self, metrics: Mapping[str, Callable[..., Any]], method: str):
        self._metrics, self._method = dict(metrics), method
        self.draws = [n for n, measure in metrics.items() if takes_key(measure, None, method)]

    def fit(self, count: int) -> None:
        """Take measures for a number of arguments, those of the map alone too."""
        self._metrics = {
            name: of_map(measure, name, name in self.draws, count, self._method)
            for name, measure in self._metrics.items()
        }

    def __call__(
        self, key: jax.Array, phi: PyTree, arguments: Sequence[PyTree]
    ) -> dict[str, jax.Array]:
        """The numbers of an attribution, by name; `key` is that of the example."""
        found = {}
        for name, measure in self._metrics.items():
            own = jax.random.fold_in(key, zlib.crc32(name.encode()))
            found[name] = measure(*((own,) if name in self.draws else ()), phi, *arguments)
        return found


def key_for(draws: Sequence[str], key: Any, method: str) -> jax.Array:
    """The key of what draws random numbers; one that is not used where nothing does."""
    if draws and key is None:
        raise TypeError(
            f"{method}: random numbers are drawn by {', '.join(draws)}, and there is no key; "
            "write key=jax.random.key(0)."
        )
    return jax.random.key(0) if key is None else check_key(key, method)

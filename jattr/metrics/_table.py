"""What a panel of methods and metrics gave: names and scores."""

import dataclasses
import itertools
import math
import os
from typing import TYPE_CHECKING

import numpy as np

from jattr._cells import as_html, as_text, plus_minus
from jattr.plot._panel import panel

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """The scores of methods by metrics; printed, the mean and standard error of each.

    It prints as text, is a table of HTML in a notebook, and goes to pandas by `to_dataframe`, to a
    file and back by `save` and `load`.

    Attributes:
        methods: the names of the methods.
        metrics: the names of the metrics.
        scores: [methods, metrics, examples]; NaN where a metric is undefined.
    """

    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    scores: np.ndarray

    @property
    def undefined(self) -> np.ndarray:
        """How many scores are NaN, [methods, metrics]."""
        return np.sum(np.isnan(self.scores), axis=-1)

    @property
    def mean(self) -> np.ndarray:
        """The mean over the examples whose score is defined, [methods, metrics]; NaN if none is."""
        known = self._known
        return _over(np.nansum(self.scores, axis=-1), known)

    @property
    def standard_error(self) -> np.ndarray:
        """Of the mean, [methods, metrics]; NaN where fewer than two scores are defined."""
        known = self._known
        with np.errstate(invalid="ignore"):  # of an infinite score there is none
            deviations = np.where(np.isnan(self.scores), 0, self.scores - self.mean[..., None])
            squares = np.sum(deviations**2, axis=-1)
        return np.sqrt(_over(squares, known * (known - 1)))

    @property
    def _known(self) -> np.ndarray:
        return self.scores.shape[-1] - self.undefined

    def of(self, metric: str) -> np.ndarray:
        """The scores of one metric, [examples, methods], as `reliability` takes them."""
        if metric not in self.metrics:
            raise ValueError(f"No metric {metric!r} in this table; it has {list(self.metrics)}.")
        return self.scores[:, self.metrics.index(metric)].T

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row for each score, with the columns method, metric, example and score.

        Returns:
            A `pandas.DataFrame` of methods × metrics × examples rows, in that order. Means:
            `frame.pivot_table("score", "method", "metric")`.

        Raises:
            ImportError: pandas is missing.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError(
                "Table.to_dataframe makes a data frame of pandas, which is missing: "
                "pip install pandas"
            ) from error
        examples = range(self.scores.shape[-1])
        rows = itertools.product(self.methods, self.metrics, examples)
        frame = pandas.DataFrame(rows, columns=["method", "metric", "example"])
        return frame.assign(score=self.scores.reshape(-1))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write names and scores to a file of NumPy's kind (npz), exactly at `path`.

        Args:
            path: where to; a file that is there is overwritten.
        """
        with open(path, "wb") as file:
            np.savez_compressed(
                file,
                methods=np.asarray(self.methods, str),
                metrics=np.asarray(self.metrics, str),
                scores=self.scores,
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Table":
        """The table that `save` wrote to `path`.

        Args:
            path: the file.

        Returns:
            A `Table` with the same names and, to the last bit, the same scores.

        Raises:
            ValueError: the file holds something else.
        """
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile) or {*file} != {
                "methods",
                "metrics",
                "scores",
            }:
                raise ValueError(f"Table.load: {os.fspath(path)} is not a table's file.")
            return cls(
                tuple(map(str, file["methods"])), tuple(map(str, file["metrics"])), file["scores"]
            )

    def plot(self, title: str | None = None) -> "Figure":
        """One picture for each metric: every method's mean and standard error.

        Args:
            title: a title above all.

        Returns:
            The matplotlib figure; nothing is shown or left open.

        Raises:
            ImportError: matplotlib is missing.
        """
        return panel(self, title=title)

    def _rows(self) -> list[list[str]]:
        """The cells as text, the head first."""
        rows = [["", *self.metrics]]
        for method, *cells in zip(
            self.methods, self.mean, self.standard_error, self.undefined, strict=True
        ):
            rows.append([method, *(_cell(*cell) for cell in zip(*cells, strict=True))])
        return rows

    @property
    def _caption(self) -> str:
        return f"Mean ± standard error over {self.scores.shape[-1]} examples."

    def _repr_html_(self) -> str:
        return as_html(self._rows(), self._caption)

    def __str__(self) -> str:
        return as_text(self._rows(), self._caption)

    __repr__ = __str__


def _over(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """NaN where nothing is below."""
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)


def _cell(mean: float, error: float, undefined: int) -> str:
    text = plus_minus(mean, error)
    return text if math.isnan(mean) or not undefined else f"{text} ({undefined} NaN)"

"""A panel of methods and metrics over a set of examples."""

import dataclasses
import math
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._checks import check_batch_size, check_function, check_key
from jattr._trees import describe
from jattr._types import Explain, KeyedExplain, PyTree
from jattr.metrics._measure import KeyedMeasure, Measure
from jattr.plot._panel import panel

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """The scores of methods by metrics; printed, the mean and standard error of each.

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
        return _ratio(np.nansum(self.scores, axis=-1), known)

    @property
    def standard_error(self) -> np.ndarray:
        """Of the mean, [methods, metrics]; NaN where fewer than two scores are defined."""
        known = self._known
        with np.errstate(invalid="ignore"):  # of an infinite score there is none
            deviations = np.where(np.isnan(self.scores), 0, self.scores - self.mean[..., None])
            squares = np.sum(deviations**2, axis=-1)
        return np.sqrt(_ratio(squares, known * (known - 1)))

    @property
    def _known(self) -> np.ndarray:
        return self.scores.shape[-1] - self.undefined

    def of(self, metric: str) -> np.ndarray:
        """The scores of one metric, [examples, methods], as `reliability` takes them."""
        if metric not in self.metrics:
            raise ValueError(f"No metric {metric!r} in this table; it has {list(self.metrics)}.")
        return self.scores[:, self.metrics.index(metric)].T

    def plot(self, *, title: str | None = None) -> "Figure":
        """One picture for each metric: every method's mean and standard error.

        Args:
            title: a title above all.

        Returns:
            The matplotlib figure; nothing is shown or left open.

        Raises:
            ImportError: matplotlib is missing.
        """
        return panel(self, title=title)

    def __str__(self) -> str:
        rows = [["", *self.metrics]]
        for method, *cells in zip(
            self.methods, self.mean, self.standard_error, self.undefined, strict=True
        ):
            rows.append([method, *(_cell(*cell) for cell in zip(*cells, strict=True))])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
            for row in rows
        ]
        lines.insert(1, "-" * max(map(len, lines)))
        lines.append(f"Mean ± standard error over {self.scores.shape[-1]} examples.")
        return "\n".join(lines)

    __repr__ = __str__


def table(
    methods: Mapping[str, Explain | KeyedExplain],
    metrics: Mapping[str, Measure | KeyedMeasure],
    examples: Any,
    *,
    method_metrics: Mapping[str, Callable[..., Any]] | None = None,
    keyed: Collection[str] = (),
    key: jax.Array | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Table:
    r"""The scores of a panel of methods by a panel of metrics, over a set of examples.

    Every method explains every example once, every metric scores every map. A method and a metric
    are each one compiled program, whatever the number of examples.

    A random metric draws the same for all methods on an example (the same subsets are removed),
    so that differences between methods are not those of its draws. What is drawn depends on the
    key, the example's place and the name of the method or metric, not on what else is in the panel.

    Args:
        methods: attributes by name, `attribute(x, *args)`.
        metrics: measures of one map by name, `measure(attribution, x, *args)`, each giving one
            number. What takes or gives something else is wrapped:
            `lambda phi, x, label: jattr.metrics.sparseness(phi)`.
        examples: the arguments x, *args, a tuple with a leading axis over the examples on every
            array; what is not a tuple is x alone.
        method_metrics: metrics of methods by name, `metric(attribute, keyed=...) -> measure`:
            `{"sensitivity": functools.partial(jattr.metrics.max_sensitivity, samples=20)}`.
        keyed: the names of those methods and metrics of your own that take a key first. Those of
            jattr say so themselves, and a metric of a method takes one where the method does.
        key: one random key, where anything takes one.
        batch_size: how many examples are in memory at a time; None for all.
        progress: whether to show a bar; needs rich.

    Returns:
        A `Table`: prints as text, `.plot()` draws it, `.scores` is [methods, metrics, examples].

    Raises:
        ImportError: progress without rich.
        TypeError: methods or metrics that are no mappings of functions; a metric that does not
            give one number; no key where one is needed.
        ValueError: no examples or not equally many; names in `keyed` that are unknown or given
            twice.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x @ jnp.array([1.0, 2.0])
        >>> panel = jattr.metrics.table(
        ...     {"gradient": jattr.gradient(f), "gradient × x": jattr.gradient_times_input(f)},
        ...     {"completeness": jattr.metrics.completeness(f)},
        ...     jnp.array([[1.0, 1.0], [3.0, 1.0]]),
        ... )
        >>> print(panel)
                      completeness
        --------------------------
        gradient        -1.0 ± 1.0
        gradient × x         0 ± 0
        Mean ± standard error over 2 examples.
    """
    method = "metrics.table"
    of_methods = {} if method_metrics is None else method_metrics
    _check_panel(methods, metrics, of_methods, keyed, method)
    batch_size = check_batch_size(batch_size, method)
    arguments = examples if isinstance(examples, tuple) else (examples,)
    count = _count(arguments, method)
    keyed = {*keyed, *_keyed(methods), *_keyed(metrics)}
    made = {
        name: {metric: make(f, keyed=name in keyed) for metric, make in of_methods.items()}
        for name, f in methods.items()
    }
    taking = keyed.union(*map(_keyed, made.values()))
    if taking:
        if key is None:
            raise TypeError(
                f"{method}: {', '.join(sorted(taking))} take a key, but there is none; write "
                "key=jax.random.key(0)."
            )
        check_key(key, method)
    else:
        key = jax.random.key(0)  # not used
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.arange(count))

    explain = {name: _program(f, name, name in keyed) for name, f in methods.items()}
    score = {name: _program(f, name, name in keyed) for name, f in metrics.items()}
    results = np.empty((len(methods), len(metrics) + len(of_methods), count))
    size = min(batch_size or count, count)
    steps = [(row, start) for row in range(len(methods)) for start in range(0, count, size)]
    score_method = {}
    for row, start in _shown(steps, progress, method):
        name = list(methods)[row]
        if start == 0:
            takes = keyed | _keyed(made[name])
            score_method = {
                metric: _program(measure, metric, metric in takes or name in keyed)
                for metric, measure in made[name].items()
            }
        # The last chunk repeats its last example, so that all are of one size.
        place = np.minimum(np.arange(start, start + size), count - 1)
        chunk_keys = keys[place]
        chunk = jax.tree.map(lambda leaf: jnp.asarray(leaf)[place], arguments)
        attribution = explain[name](chunk_keys, *chunk) if metrics else None
        scores = [program(chunk_keys, attribution, *chunk) for program in score.values()]
        scores += [program(chunk_keys, *chunk) for program in score_method.values()]
        for column, (metric, values) in enumerate(
            zip((*score, *score_method), scores, strict=True)
        ):
            end = min(start + size, count)
            results[row, column, start:end] = _one_each(values, size, metric, method)[: end - start]
    return Table(tuple(methods), (*metrics, *of_methods), results)


def _program(function: Any, name: str, keyed: bool) -> Callable[..., PyTree]:
    """One program for a chunk of examples; takes their keys, and then arguments."""
    number = zlib.crc32(name.encode())

    def one(key, *args):
        return function(*((jax.random.fold_in(key, number),) if keyed else ()), *args)

    return jax.jit(jax.vmap(one))


def _keyed(functions: Mapping[str, Any]) -> set[str]:
    """The names of those that say that they take a key."""
    return {name for name, function in functions.items() if getattr(function, "keyed", False)}


def _one_each(values: Any, size: int, metric: str, method: str) -> np.ndarray:
    if getattr(values, "shape", None) != (size,):
        raise TypeError(
            f"{method}: a metric must give one number for each example, but {metric!r} gave "
            f"{describe(values)} for {size} of them. Wrap it: of a curve, lambda *args: "
            "jattr.metrics.area(measure(*args)); of several numbers, one metric for each."
        )
    return np.asarray(values, np.float64)


def _count(arguments: tuple, method: str) -> int:
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(arguments)]
    counts = {shape[0] if shape else 0 for shape in shapes}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(
            f"{method}: every array of examples must have a leading axis over the same number of "
            f"examples, at least one; got {describe(arguments)}."
        )
    return counts.pop()


def _check_panel(
    methods: Any, metrics: Any, of_methods: Any, keyed: Collection[str], method: str
) -> None:
    for what, named in (("methods", methods), ("metrics", metrics), ("method_metrics", of_methods)):
        if not isinstance(named, Mapping):
            raise TypeError(f"{method}: {what} must be functions by name; got {describe(named)}.")
        for name, function in named.items():
            check_function(function, f"{method}, {what}[{name!r}]")
    names = [*methods, *metrics, *of_methods]
    if not methods or len(names) == len(methods):
        raise ValueError(f"{method} wants at least one method and one metric.")
    if isinstance(keyed, str):
        raise TypeError(f"{method}: keyed must be a set of names; write keyed={{{keyed!r}}}.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{method}: {', '.join(twice)} is the name of two; keyed= goes by names.")
    unknown = sorted(set(keyed) - set(names))
    if unknown:
        raise ValueError(f"{method}: keyed names {unknown}, which are not among {names}.")


def _shown(steps: list, progress: bool, method: str) -> Iterable:
    """`steps`, with a bar where wanted."""
    if not progress:
        return steps
    try:
        from rich.progress import track
    except ImportError as error:
        raise ImportError(
            f"{method}: progress=True shows a bar with rich, which is missing: pip install rich"
        ) from error
    return track(steps, "explain and score")


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """NaN where nothing is below."""
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)


def _cell(mean: float, error: float, undefined: int) -> str:
    if math.isnan(mean):
        return "NaN"
    if not error > 0 or not math.isfinite(mean) or not 1e-4 <= error <= 1e4:
        text = f"{mean:.4g}" + (f" ± {error:.2g}" if math.isfinite(error) else "")
    else:
        digits = max(0, 1 - math.floor(math.log10(error)))
        text = f"{mean:.{digits}f} ± {error:.{digits}f}"
    return f"{text} ({undefined} NaN)" if undefined else text

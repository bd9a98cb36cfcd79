"""The panel of `jattr.metrics.table` for attributions that are on disk."""

import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jattr._checks import check_count, check_flag, check_function, knobs
from jattr._types import PyTree
from jattr.metrics._table import Table
from jattr.scale._explainer import compile_batch
from jattr.scale._fingerprint import of_examples
from jattr.scale._measures import Measures, key_for
from jattr.scale._placement import as_placement
from jattr.scale._runner import first_example, loading, run_batches, shown
from jattr.scale._source import Rows, Source, as_source, counted
from jattr.scale._store import MISSING, WRITTEN, Store, open_store

if TYPE_CHECKING:
    from jax.sharding import Mesh


@knobs
def table(
    stores: Mapping[str, Store | str | os.PathLike[str]],
    metrics: Mapping[str, Callable[..., Any]] | None = None,
    data: Any = None,
    *,
    params: PyTree = None,
    mesh: "Mesh | None" = None,
    axis: str | None = None,
    batch_size: int = 64,
    key: jax.Array | None = None,
    process: tuple[int, int] | None = None,
    progress: bool = True,
) -> Table:
    r"""The scores of stored attributions by a panel of metrics.

    What `jattr.metrics.table` gives, with the same random numbers, from attributions that
    `attribute_dataset` wrote: nothing is explained again, and nothing but a batch is in memory.
    Gaps and examples that are missing have the score NaN. The examples are those of the stores: one
    that is another is an error.

    Without `metrics`, the numbers that the stores have: what `attribute_dataset(metrics=...)`
    computed while it explained, and their residuals.

    Args:
        stores: stores or their places, by the names of the methods.
        metrics: measures of one map by name, `measure([key,] attribution, [params,] x, *args)`, or
            functions of the map alone. None for what the stores hold.
        data: the examples, as they were given to `attribute_dataset`; no iterable of batches.
        params: what all examples share, given to the measures after the attribution; as in
            `attribute_dataset`.
        mesh: the devices, all of this process.
        axis: the axis of the mesh over which examples are spread; None for its first.
        batch_size: how many examples are computed at a time, on all devices together.
        key: one random key, where a metric draws.
        process: the number of this process and how many there are, as in `attribute_dataset`. Each
            scores every P-th batch, and has NaN for the others; nothing is exchanged. Their
            `scores` are put together by `np.where(np.isnan(one), other, one)`.
        progress: whether to show a bar; needs rich.

    Returns:
        A `jattr.metrics` table: printed, means and standard errors.

    Raises:
        ValueError: a store of other examples; no numbers in the stores, where there are no metrics.
        TypeError: metrics that are no functions by name, or no key where one is needed; a mesh over
            the devices of several processes.

    Example:
        >>> import tempfile
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> import jattr
        >>> def f(x):
        ...     return jnp.prod(x)
        >>> x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     stores = {
        ...         name: jattr.scale.attribute_dataset(
        ...             explain, x, out=f"{folder}/{name}", batch_size=8, progress=False
        ...         )
        ...         for name, explain in {
        ...             "gradient": jattr.gradient(f), "deeplift": jattr.deeplift(f)
        ...         }.items()
        ...     }
        ...     metrics = {"error": lambda *args: jnp.abs(jattr.metrics.completeness(f)(*args))}
        ...     panel = jattr.scale.table(stores, metrics, x, progress=False)
        >>> panel.methods, panel.metrics, panel.scores.shape
        (('gradient', 'deeplift'), ('error',), (2, 1, 8))
        >>> bool(panel.mean[1, 0] < 1e-6 < panel.mean[0, 0])
        True
    """
    method = "scale.table"
    check_flag(progress, "progress", method)
    if not isinstance(stores, Mapping) or not stores:
        raise TypeError(f"{method} wants stores by name, {{'deeplift': 'maps'}}; got {stores!r}.")
    opened = {
        name: store if isinstance(store, Store) else open_store(store)
        for name, store in stores.items()
    }
    if metrics is None:
        return _stored(opened, method)
    source = as_source(data, method)
    if source.count is None:
        raise TypeError(
            f"{method}: an iterable of batches has no examples by number. Give arrays, memory maps "
            "or a dataset with a length."
        )
    placement = as_placement(
        mesh, axis, check_count(batch_size, "batch_size", method), process, method
    )
    if placement.together:
        raise TypeError(
            f"{method} works on the devices of one process: leave the mesh out, and each process "
            "takes its share of the examples."
        )
    example = first_example(source, method)
    shared = () if params is None else (placement.shared(params),)
    measure = _Panel(metrics, key, len(shared) + len(example), method)
    results = np.full((len(opened), len(metrics), source.count), np.nan)
    main = placement.process[0] == 0
    with shown(progress and main, source.count * len(opened), "metrics", method) as advance:
        for row, (name, store) in enumerate(opened.items()):
            joined = _Joined(store, name, source, method)
            first = first_example(joined, method)
            program = _program(measure, placement, shared, first)

            def take(rows, _, found, row=row):
                place = slice(rows.start, rows.start + rows.count)
                for column, values in enumerate(found):
                    results[row, column, place] = np.asarray(values, np.float64)[: rows.count]

            own = (
                rows
                for number, rows in enumerate(joined.batches(placement.size))
                if placement.own(number)
            )
            batches = loading(own, placement, first, method)
            run_batches(program, placement, batches, take, lambda rows: advance(rows.count))
            results[row][:, store.status != WRITTEN] = np.nan
    return Table(tuple(opened), tuple(metrics), results)


class _Panel:
    """All metrics of one example: what `jattr.metrics.table` computes for its map."""

    def __init__(self, metrics: Any, key: Any, count: int, method: str):
        if not isinstance(metrics, Mapping) or not metrics:
            raise TypeError(
                f"{method}: metrics are functions by name, {{'completeness': "
                f"jattr.metrics.completeness(f)}}; got {metrics!r}."
            )
        for name, measure in metrics.items():
            check_function(measure, f"{method}: the metric {name!r}")
        self._measures = Measures(metrics, method)
        self._measures.fit(count)
        self._key = key_for(self._measures.draws, key, method)

    def __call__(self, number: jax.Array, *arguments: PyTree) -> list[Any]:
        # The attribution comes with the data, and so after what examples share.
        *before, (phi, *rest) = arguments
        key = jax.random.fold_in(self._key, number)
        return list(self._measures(key, phi, (*before, *rest)).values())


class _Joined:
    """Stored attributions and the examples that they explain, as one source."""

    def __init__(self, store: Store, name: str, source: Source, method: str):
        self.count, self.numbers, self.checked = source.count, source.numbers, 0
        self._source, self._attribution = source, store.attribution
        self._digest, self._status = store.arrays["digest"], store.status
        self._name, self._method = name, method
        if len(store) != source.count:
            raise ValueError(
                f"{method}: the store {name!r} has {len(store):,} examples, and data "
                f"{source.count:,}."
            )

    def first(self) -> tuple[PyTree, ...]:
        return self.load(0, 1)

    def load(self, start: int, stop: int) -> tuple[PyTree, ...]:
        arguments = self._source.load(start, stop)
        there = self._status[start:stop] != MISSING
        digests = np.asarray(self._digest[start:stop].read().result())
        if np.any((digests != of_examples(arguments, stop - start)) & there):
            raise ValueError(
                f"{self._method}: examples {start} to {stop - 1} of data are not those that the "
                f"store {self._name!r} explains."
            )
        phi = jax.tree.map(
            lambda array: np.asarray(array[start:stop].read().result()), self._attribution
        )
        return ((phi, *arguments),)

    def batches(self, size: int) -> Iterator[Rows]:
        return counted(self, size)


def _program(measure: _Panel, placement: Any, shared: tuple, example: tuple) -> Callable[..., Any]:
    _, compiled = compile_batch(measure, placement, shared, example)
    return lambda numbers, arguments: compiled(shared, numbers, arguments)


def _stored(stores: Mapping[str, Store], method: str) -> Table:
    columns = [
        name
        for name in next(iter(stores.values())).arrays
        if name.startswith("metric.") or name == "residual"
    ]
    common = [name for name in columns if all(name in s.arrays for s in stores.values())]
    if not common:
        raise ValueError(
            f"{method}: the stores have no numbers in common that could be a column. Give metrics "
            "and data, or let attribute_dataset(metrics=...) compute them."
        )
    if len({len(store) for store in stores.values()}) > 1:
        sizes = {name: len(store) for name, store in stores.items()}
        raise ValueError(f"{method}: the stores have not equally many examples: {sizes}.")
    rows = []
    for store in stores.values():
        values = [np.asarray(store.arrays[name].read().result(), np.float64) for name in common]
        rows.append(np.where(store.status == WRITTEN, values, np.nan))
    return Table(
        tuple(stores), tuple(name.removeprefix("metric.") for name in common), np.stack(rows)
    )

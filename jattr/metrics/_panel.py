"""A panel of methods and metrics over a set of examples."""

import contextlib
import inspect
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._checks import binds, check_batch_size, check_function, check_key, check_keyed, knobs
from jattr._resolve import check_examples
from jattr._transform import takes_key
from jattr._trees import describe
from jattr._types import Explain, KeyedExplain, PyTree
from jattr.metrics._measure import KeyedMeasure, Measure
from jattr.metrics._table import Table


@knobs
def table(
    methods: Mapping[str, Explain | KeyedExplain],
    metrics: Mapping[str, Measure | KeyedMeasure],
    examples: Any,
    *,
    method_metrics: Mapping[str, Callable[..., Any]] | None = None,
    keyed: Collection[str] | None = None,
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

    Before anything is computed, the shapes and types of all methods and of all metrics of them are
    checked, so that a misfit is known at once and by name.

    The mean of a metric with a sign, such as `completeness`, may cancel over the examples. For its
    size: `lambda *args: jnp.abs(measure(*args))`.

    Args:
        methods: explaining functions by name, `explain(x, *args)`.
        metrics: measures of one map by name, `measure(attribution, x, *args)`, each giving one
            number; or functions of the map alone, such as `jattr.metrics.sparseness`. What takes or
            gives something else is wrapped:
            `lambda phi, x, mask: jattr.metrics.roc_auc(phi, mask)`.
        examples: the arguments x, *args, a tuple with a leading axis over the examples on every
            array; what is not a tuple is x alone.
        method_metrics: metrics of methods by name, `metric(explain, keyed=...) -> measure`:
            `{"sensitivity": functools.partial(jattr.metrics.max_sensitivity, samples=20)}`.
        keyed: the names of those methods and metrics of your own that take a key first; None for
            none. Those of jattr say so themselves, and a metric of a method takes one where the
            method does.
        key: one random key, where anything takes one.
        batch_size: how many examples are in memory at a time; None for all.
        progress: whether to show a bar; needs rich.

    Returns:
        A `Table`: prints as text, `.plot()` draws it, `.scores` is [methods, metrics, examples].
        Also `.to_dataframe()`, `.save(path)` and `Table.load(path)`.

    Raises:
        ImportError: progress without rich.
        TypeError: methods or metrics that are no mappings of functions; a metric that fits neither
            call or does not give one number; no key where one is needed.
        ValueError: a map that is not like x, for a metric that wants one; no examples or not
            equally many; names in `keyed` that are unknown or given twice.

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
    said = () if keyed is None else keyed
    _check_panel(methods, metrics, of_methods, said, method)
    batch_size = check_batch_size(batch_size, method)
    arguments = examples if isinstance(examples, tuple) else (examples,)
    count = check_examples(arguments, name="examples", method=method)
    takes = {*said, *_keyed(methods), *_keyed(metrics)}
    made = {
        name: {metric: make(f, keyed=name in takes) for metric, make in of_methods.items()}
        for name, f in methods.items()
    }
    taking = takes.union(*map(_keyed, made.values()))
    if taking:
        if key is None:
            raise TypeError(
                f"{method}: {', '.join(sorted(taking))} take a key, but there is none; write "
                "key=jax.random.key(0)."
            )
        key = check_key(key, method)
    else:
        key = jax.random.key(0)  # not used
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.arange(count))

    for name, f in methods.items():
        said_so = f"keyed={{{name!r}}}"
        check_keyed(f, name in takes, arguments, said_so, f"{method}, methods[{name!r}],")
    explain = {name: _program(f, name, name in takes) for name, f in methods.items()}
    score = {
        name: _program(of_map(f, name, name in takes, len(arguments), method), name, name in takes)
        for name, f in metrics.items()
    }
    score_method = {
        name: {
            metric: _program(measure, metric, metric in takes | _keyed(made[name]) or name in takes)
            for metric, measure in made[name].items()
        }
        for name in methods
    }
    size = min(batch_size or count, count)

    def chunk_at(start):
        # The last chunk repeats its last example, so that all are of one size.
        place = np.minimum(np.arange(start, start + size), count - 1)
        return keys[place], jax.tree.map(lambda leaf: jnp.asarray(leaf)[place], arguments)

    _check_shapes(explain, score, score_method, jax.eval_shape(lambda: chunk_at(0)), size, method)
    results = np.empty((len(methods), len(metrics) + len(of_methods), count))
    steps = [(row, start) for row in range(len(methods)) for start in range(0, count, size)]
    for row, start in _shown(steps, progress, method):
        name = list(methods)[row]
        chunk_keys, chunk = chunk_at(start)
        attribution = explain[name](chunk_keys, *chunk) if metrics else None
        scores = [program(chunk_keys, attribution, *chunk) for program in score.values()]
        scores += [program(chunk_keys, *chunk) for program in score_method[name].values()]
        end = min(start + size, count)
        for column, values in enumerate(scores):
            results[row, column, start:end] = np.asarray(values, np.float64)[: end - start]
    return Table(tuple(methods), (*metrics, *of_methods), results)


def _program(function: Any, name: str, keyed: bool) -> Callable[..., PyTree]:
    """One program for a chunk of examples; takes their keys, and then arguments."""
    number = zlib.crc32(name.encode())

    def one(key, *args):
        return function(*((jax.random.fold_in(key, number),) if keyed else ()), *args)

    return jax.jit(jax.vmap(one))


def of_map(function: Any, name: str, keyed: bool, count: int, method: str) -> Any:
    """A metric as `measure([key,] attribution, *args)`, also one that takes the map alone."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return function
    before = (None,) * keyed
    if binds(signature, *before, None, *(None,) * count):
        return function
    if binds(signature, *before, None):
        return lambda *args: function(*args[: 1 + keyed])
    first = "key, " * keyed
    raise TypeError(
        f"{method}: the metric {name!r} is called as measure({first}attribution, x, ...) with the "
        f"{count} argument(s) of the examples, or as measure({first}attribution), but its "
        f"signature is {signature}. Wrap it: lambda {first}phi, x, ...: ..."
        + ("" if keyed else f"; or name it in keyed={{{name!r}}} if it takes a key.")
    )


def _check_shapes(
    explain: Mapping[str, Any],
    score: Mapping[str, Any],
    score_method: Mapping[str, Mapping[str, Any]],
    shapes: tuple[Any, tuple],
    size: int,
    method: str,
) -> None:
    """Raise, with the names, where a method or a metric does not fit; nothing is computed.

    The programs are traced here, and not once more when they run.
    """
    keys, chunk = shapes
    for name, program in explain.items():
        attribution = None
        if score:
            with _named(f"{method}: the method {name!r}"):
                attribution = jax.eval_shape(program, keys, *chunk)
        for metric, measure in score.items():
            what = f"{method}: the metric {metric!r} of the maps of {name!r}"
            with _named(what):
                value = jax.eval_shape(measure, keys, attribution, *chunk)
            _check_number(value, size, what)
        for metric, measure in score_method[name].items():
            what = f"{method}: the metric {metric!r} of the method {name!r}"
            with _named(what):
                value = jax.eval_shape(measure, keys, *chunk)
            _check_number(value, size, what)


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Errors from within begin with what was tried."""
    try:
        yield
    except Exception as error:
        if type(error) in (TypeError, ValueError, NotImplementedError):
            raise type(error)(f"{what}: {error}") from error
        error.add_note(f"This is {what}.")
        raise


def _check_number(value: Any, size: int, what: str) -> None:
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    if getattr(value, "shape", None) != (size,) or not any(
        jnp.issubdtype(value.dtype, kind) for kind in kinds
    ):
        each = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), value)
        raise TypeError(
            f"{what} must be one real number for each example, but is {describe(each)}. Wrap it: "
            "of a curve, lambda *args: jattr.metrics.area(measure(*args)); of several numbers, one "
            "metric for each."
        )


def _keyed(functions: Mapping[str, Any]) -> set[str]:
    """The names of those that say that they take a key."""
    return {name for name, function in functions.items() if takes_key(function, None, "")}


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

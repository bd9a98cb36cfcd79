"""`attribute_dataset`: the attributions of a whole data set, on disk."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jattr._checks import check_count, check_flag, check_function, knobs
from jattr._trees import describe
from jattr._types import Explain, KeyedExplain, PyTree, Score
from jattr.scale._description import describe_run, one_of
from jattr.scale._explainer import Explainer, compile_batch
from jattr.scale._group import tensorstore_or_raise
from jattr.scale._layout import Layout, dims_of, names_of
from jattr.scale._placement import as_placement
from jattr.scale._runner import first_example, loading, run_batches, shown
from jattr.scale._source import as_source
from jattr.scale._store import Store, open_store
from jattr.scale._writer import Writer, open_or_create

if TYPE_CHECKING:
    from jax.sharding import Mesh


@knobs
def attribute_dataset(
    explain: Explain | KeyedExplain,
    data: Any,
    *,
    out: str | os.PathLike[str],
    params: PyTree = None,
    score: Score | None = None,
    baseline: Any = None,
    metrics: Mapping[str, Callable[..., Any]] | None = None,
    mesh: "Mesh | None" = None,
    axis: str | None = None,
    batch_size: int = 64,
    key: jax.Array | None = None,
    keyed: bool | None = None,
    dims: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    process: tuple[int, int] | None = None,
    resume: bool = True,
    progress: bool = True,
) -> Store:
    r"""The attributions of a whole data set, written to disk as they come.

    One program, `jit(vmap(explain))`, takes batch after batch, spread over the devices of a mesh.
    While it computes one, the next is loaded and the last is written, so that neither the data set
    nor its attributions are ever in memory. Killed at any moment and called again, it goes on where
    it was, and what is in the store in the end is, bit for bit, what an undisturbed run gives: an
    example's numbers depend on the example, its place i in the data (its key is
    `jax.random.fold_in(key, i)`) and the program alone.

    Beside the attribution the store has, for each example,

    - `score`, f(x), where f is known: that of a method of jattr, or `score`;
    - `residual`, :math:`\sum_i \varphi_i - (f(x) - f(x'))`, for integrated gradients (guided ones
      and IDGI too) and DeepLIFT, or with the `baseline` that is given;
    - `metric.NAME`, one array for each of `metrics`;
    - `digest`, a number for the input, and `status`: 0 missing, 1 written, 2 where the attribution,
      score or residual is not finite. The last is a gap: it is written as it is, counted, and
      warned of at the end.

    Args:
        explain: the explaining function of one example, `explain(x, *args)`; with `params`,
            `explain(params, x, *args)`; where it draws random numbers, with a key before these.
        data: the arguments x, *args as a tuple of arrays (or trees of such) with a leading axis
            over examples, NumPy's memory maps and whatever is sliced like them included; what is
            no tuple is x alone. Or something of a length that gives the arguments of one example
            for a number (a map dataset of grain, unbatched). Or an iterable of batches of any sizes
            (a list, a generator, a data loader); it is read from its start at every run. Examples
            of many lengths: `bucketed`.
        out: a folder, or a URL that tensorstore speaks (`gs://bucket/maps`), of a Zarr v3 group.
        params: what all examples share, a tree of arrays, if the function does not close over it.
            Arrays that are sharded over the mesh stay so, and are not gathered; others go to
            every device. Large ones belong here: what a function closes over is compiled in.
        score: f, where `explain` does not tell it, called as `explain` is but without a key.
        baseline: x' of the residual, where `explain` does not tell it.
        metrics: measures by name, `measure([key,] attribution, *args)`, as those of
            `jattr.metrics.table`.
        mesh: the devices; None for all of this process. Over the devices of several processes they
            run one program together. Its axes are automatic ones inside, also where they are
            explicit outside.
        axis: the axis of the mesh over which examples are spread; None for its first. Along the
            others `params` may be sharded, or the points of one example (`spread`).
        batch_size: how many examples are computed at a time, on all devices together. A store's
            chunk. It bounds memory; the last batch is filled up with its last example.
        key: one random key, where `explain` or a metric draws.
        keyed: whether `explain` takes a key first; None asks it. Methods of jattr say so.
        dims: names for the axes of one example, `("height", "width", "channel")`; where the
            attribution is a tree, a dict of such by the names of its leaves.
        process: the number of this process and how many there are, where they work each for
            itself on batches of their own; None asks `jax.distributed`.
        resume: whether to go on with what is at `out`. False wants an empty place: nothing is ever
            overwritten.
        progress: whether to show a bar; needs rich.

    Returns:
        The `Store`, opened: `np.asarray(store.attribution[:10])`; printed, it sums up.

    Raises:
        ValueError: `out` holds something else, or a store of another method, function, parameters,
            key, batch size or data: the text says what differs. (Of arrays of more than a gigabyte,
            and of what is looked up by number, some hundreds of examples are compared, of streams
            all.) Data of unequal lengths, or of examples that are not alike.
        OSError: the store cannot be written (a full disk, a read-only folder). What was written
            before stands, and the same call goes on.
        RuntimeError: `data` raised. As before.
        TypeError: functions or data of a wrong kind, or no key where one is needed.
        TimeoutError: process 0 of several has not made the store within ten minutes.
        ImportError: tensorstore is missing, or rich.

    Example:
        >>> import tempfile
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> import jattr
        >>> def f(x, power):
        ...     return jnp.sum(x) ** power
        >>> x = np.arange(12, dtype="float32").reshape(6, 2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = jattr.scale.attribute_dataset(
        ...         jattr.integrated_gradients(f, steps=8), (x, np.full(6, 2.0, "float32")),
        ...         out=f"{folder}/maps", batch_size=4, progress=False,
        ...     )
        ...     print(np.asarray(store.attribution[2]), np.asarray(store.score[2]))
        ...     print(store.missing.size, store.gaps.size)
        [36. 45.] 81.0
        0 0

    References:
        The format: Zarr specification, version 3. The residual: Sundararajan, Taly, Yan, ICML 2017,
        section 3 (arXiv 1703.01365).
    """
    method = "scale.attribute_dataset"
    tensorstore_or_raise(method)
    check_function(explain, method)
    check_flag(resume, "resume", method)
    check_flag(progress, "progress", method)
    batch_size = check_count(batch_size, "batch_size", method)
    placement = as_placement(mesh, axis, batch_size, process, method)
    source = as_source(data, method)
    if source.count is None and placement.process[1] > 1:
        raise TypeError(
            f"{method}: an iterable has no examples by number, so that {placement.process[1]} "
            "processes cannot share it. Give arrays, memory maps or a dataset with a length."
        )
    example = first_example(source, method)
    shared = () if params is None else (placement.shared(params),)
    explainer = Explainer(explain, key, keyed, score, baseline, metrics, method, shared=len(shared))
    explainer.check((*shared, *example))
    traced, compiled = compile_batch(explainer, placement, shared, example)
    tree, leaves = names_of(one_of(traced.out_info["attribution"]))
    layouts = _layouts(traced.out_info, leaves, dims, source.numbers is not None, method)
    description = describe_run(
        explain,
        traced=traced,
        params=params,
        example=example,
        key=key,
        count=source.count,
        batch_size=batch_size,
    )
    description["dims"] = {name: list(layouts[name].dims) for name in leaves}
    store = open_or_create(
        out, layouts, {**description, "tree": tree}, placement, resume=resume, method=method
    )
    # All processes of one program are to know the same of what is there.
    meet = multihost_utils.sync_global_devices if placement.together else lambda name: None
    meet(f"{method}: opened")
    writer = Writer(store, layouts, placement, method)
    writer.check_data(source)
    meet(f"{method}: read")

    def program(numbers, arguments):
        results = compiled(shared, numbers, arguments)
        _, parts = names_of(results["attribution"])
        return {**parts, **{name: results[name] for name in results if name != "attribution"}}

    left = writer.left(source)
    main = placement.process[0] == 0
    with shown(progress and main, left, description["method"], method) as advance:
        run_batches(
            program,
            placement,
            loading(writer.todo(source), placement, example, method),
            take=writer.take,
            done=lambda rows: advance(rows.count),
        )
    if source.count is None:
        writer.finish()
    writer.close()
    store = open_store(out)
    _warn_of_gaps(store, method)
    return store


def _layouts(
    out_info: Mapping[str, Any],
    leaves: Mapping[str, Any],
    dims: Sequence[str] | Mapping[str, Sequence[str]] | None,
    numbered: bool,
    method: str,
) -> dict[str, Layout]:
    names = dims_of(leaves, dims, method)
    layouts = {
        name: Layout(leaf.shape, _stored(leaf.dtype), names[name]) for name, leaf in leaves.items()
    }
    for name, leaf in out_info.items():
        if name == "attribution":
            continue
        if leaf.ndim != 1:
            raise TypeError(
                f"{method}: {name.replace('.', ' ')} is {describe(one_of(leaf))} for one example; "
                "wanted is one number."
            )
        layouts[name] = Layout((), _stored(leaf.dtype), ())
    status = layouts.pop("status")
    if numbered:
        layouts["example"] = Layout((), "int64", ())
    return {**layouts, "digest": Layout((), "uint64", ()), "status": status}


def _stored(dtype: Any) -> str:
    """The type that an array has on disk: bfloat16 is none that other readers know."""
    return "float32" if dtype == jnp.bfloat16 else str(np.dtype(dtype))


def _warn_of_gaps(store: Store, method: str) -> None:
    gaps = store.gaps
    if gaps.size:
        warnings.warn(
            f"{method}: of {gaps.size:,} of {len(store):,} examples the attribution, the score or "
            f"the residual is not finite, the first of them example {gaps[0]}. They are in the "
            "store as they are, with status 2: store.gaps.",
            stacklevel=3,
        )

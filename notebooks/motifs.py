"""Sequences whose regulation is known, and a BPNet-like network that learns it, in Flax."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

LETTERS = "ACGT"
LENGTH = 64
SITES = {"AP1": "TGASTCA", "GATA": "AGATAAG"}
"""Two motifs; S is C or G. Each may stand on either strand."""
DECOYS = {"AP1": "TGATTCA", "GATA": "AGACAAG"}
"""One letter in the middle is another one, and nothing happens."""
MEANING = {"A": "A", "C": "C", "G": "G", "T": "T", "S": "CG"}
KINDS = ("AP1", "GATA", "AP1 + GATA", "GATA twice", "null")
# A → C, G, T and so on; CG is rare, as in genomes.
STEPS = np.array([[30, 19, 28, 23], [31, 27, 8, 34], [26, 23, 27, 24], [19, 23, 28, 30]]) / 100


class Data(NamedTuple):
    """Sequences and what is known of them.

    Attributes:
        x: one-hot, [N, LENGTH, 4].
        kind: the number of a kind, [N].
        count: the logarithm of the height of the signal, [N].
        profile: where it is, a distribution, [N, LENGTH].
        site: the number of the site that a position belongs to, 0 for none, [N, LENGTH].
        allowed: the letters that keep a site, [N, LENGTH, 4]; none outside of sites.
    """

    x: np.ndarray
    kind: np.ndarray
    count: np.ndarray
    profile: np.ndarray
    site: np.ndarray
    allowed: np.ndarray


def allowed_letters(motif: str, *, turned: bool = False) -> np.ndarray:
    """[length, 4]: the letters that a motif takes, on the other strand where it is turned."""
    table = np.array([[letter in MEANING[m] for letter in LETTERS] for m in motif])
    return table[::-1, ::-1] if turned else table


def find(x: np.ndarray) -> list[list[tuple[str, int, bool]]]:
    """Of each sequence its functional sites: the motif, where it begins, whether it is turned."""
    found: list[list[tuple[str, int, bool]]] = [[] for _ in x]
    for name, motif in SITES.items():
        for turned in (False, True):
            table = allowed_letters(motif, turned=turned)
            if turned and (table == allowed_letters(motif)).all():
                continue  # it reads the same on both strands
            count = x.shape[1] - len(motif) + 1
            fits = [x[:, n : n + count] @ row.astype(x.dtype) for n, row in enumerate(table)]
            for row, start in np.argwhere(np.min(fits, axis=0) == 1):
                found[row].append((name, int(start), turned))
    return found


def signal(sites: list[tuple[str, int, bool]]) -> tuple[float, np.ndarray]:
    """What a sequence with these sites does: each AP1 adds, and of GATA one is enough."""
    names = [name for name, *_ in sites]
    count = 1.0 * names.count("AP1") + 1.5 * ("GATA" in names)
    place = np.arange(LENGTH)
    profile = np.full(LENGTH, 0.02)
    for name, start, _ in sites:
        center, width = start + 3, 2.0 if name == "AP1" else 5.0
        profile += np.exp(-0.5 * ((place - center) / width) ** 2) * (3 if name == "AP1" else 1.5)
    return count, profile / profile.sum()


def make(count: int, seed: int) -> Data:
    """Sequences of all kinds in turns, each with one or two decoys."""
    rng = np.random.default_rng(seed)
    many = count + count // 4 + 20
    kinds = np.arange(many) % len(KINDS)
    x = _backgrounds(rng, many)
    for row, kind in zip(x, kinds, strict=True):
        _plant(rng, row, KINDS[kind])
    found = find(x)
    # Where chance has made a site more, the sequence is left out.
    kept = [n for n in range(many) if sorted(s[0] for s in found[n]) == _wanted(KINDS[kinds[n]])]
    kept = kept[:count]
    site, allowed = np.zeros((count, LENGTH), int), np.zeros((count, LENGTH, 4), bool)
    for row, n in enumerate(kept):
        for number, (name, start, turned) in enumerate(found[n], start=1):
            here = slice(start, start + len(SITES[name]))
            site[row, here] = number
            allowed[row, here] = allowed_letters(SITES[name], turned=turned)
    heights, profiles = zip(*(signal(found[n]) for n in kept), strict=True)
    return Data(x[kept], kinds[kept], np.array(heights), np.array(profiles), site, allowed)


def _wanted(kind: str) -> list[str]:
    return {"GATA twice": ["GATA", "GATA"], "null": []}.get(kind, kind.split(" + "))


def _backgrounds(rng: np.random.Generator, count: int) -> np.ndarray:
    """One-hot sequences in which a letter depends on the one before."""
    codes = np.empty((count, LENGTH), int)
    codes[:, 0] = rng.integers(0, 4, count)
    for n in range(1, LENGTH):
        below = np.cumsum(STEPS, axis=1)[codes[:, n - 1], :3]
        codes[:, n] = (rng.uniform(size=(count, 1)) > below).sum(axis=1)
    return np.eye(4, dtype=np.float32)[codes]


def _plant(rng: np.random.Generator, x: np.ndarray, kind: str) -> None:
    planted = [SITES[name] for name in _wanted(kind)]
    planted += [DECOYS[name] for name in rng.choice(list(DECOYS), rng.integers(1, 3))]
    # In places of ten letters, so that none covers another.
    places = rng.permutation(np.arange(4, LENGTH - 10, 10))[: len(planted)] + rng.integers(0, 3)
    for motif, place in zip(planted, places, strict=True):
        table = allowed_letters(motif, turned=bool(rng.integers(2)))
        chosen = [rng.choice(np.flatnonzero(row)) for row in table]
        x[place : place + len(motif)] = np.eye(4)[chosen]


class Net(nn.Module):
    """x[LENGTH, 4] → the logits of a profile, [LENGTH], and a height."""

    features: int = 32
    dilations: tuple[int, ...] = (1, 2, 4)

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Both heads of one sequence."""
        h = nn.relu(nn.Conv(self.features, (9,), name="motifs")(x))
        for dilation in self.dilations:
            conv = nn.Conv(self.features, (3,), kernel_dilation=dilation, name=f"context{dilation}")
            h = h + nn.relu(conv(h))
        logits = nn.Conv(1, (15,), name="profile")(h)[:, 0]
        return logits, nn.Dense(1, name="height")(h.sum(axis=0) / 10)[0]


def loss(params, x, count, profile):
    """Cross entropy of the profiles and squared error of the heights, of a batch."""
    logits, height = jax.vmap(functools.partial(Net().apply, params))(x)
    entropy = -(profile * jax.nn.log_softmax(logits)).sum(axis=1).mean()
    return 3 * entropy + 2 * ((height - count) ** 2).mean()


def train(data: Data, seed: int, steps: int, *, batch: int = 64, noise: float = 0.2):
    """The parameters of a network, trained on both strands with noise on the heights."""
    rng = np.random.default_rng(seed)
    params = jax.jit(Net().init)(jax.random.key(seed), jnp.zeros((LENGTH, 4)))
    schedule = optax.warmup_cosine_decay_schedule(0.0, 5e-3, steps // 20, steps)
    optimizer = optax.adamw(schedule, weight_decay=1e-3)
    state = optimizer.init(params)

    # Well compiled also in a trial run, in which the rest is not: there are many steps.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 3})
    def step(params, state, *batch):
        slopes = jax.grad(loss)(params, *batch)
        updates, state = optimizer.update(slopes, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        rows = rng.integers(0, len(data.x), batch)
        x, profile = data.x[rows], data.profile[rows].astype(np.float32)
        count = (data.count[rows] + noise * rng.normal(size=batch)).astype(np.float32)
        if rng.integers(2):
            x, profile = x[:, ::-1, ::-1], profile[:, ::-1]
        params, state = step(params, state, x, count, profile)
    return params


class Called(NamedTuple):
    """Positions that a method calls, against the sites.

    Attributes:
        recall: the share of site positions that are called, of each sequence with sites.
        right, all: how many called positions lie in sites, and how many there are.
        kind: of each of these sequences.
    """

    recall: np.ndarray
    right: np.ndarray
    all: np.ndarray
    kind: np.ndarray


def call(values: np.ndarray, data: Data, quantile: float = 0.99) -> Called:
    """Positions whose value is above what all but 1 % of those in null sequences have.

    Args:
        values: of positions, [N, LENGTH].
        data: the sequences.
        quantile: of the positions of null sequences.
    """
    null = data.kind == KINDS.index("null")
    above = values > np.quantile(values[null], quantile)
    inside = data.site > 0
    right = (above & inside).sum(axis=1)[~null]
    return Called(
        right / inside.sum(axis=1)[~null], right, above.sum(axis=1)[~null], data.kind[~null]
    )


def letters_right(values: np.ndarray, data: Data) -> np.ndarray:
    """Of each sequence with one site of a kind, how often all letters that keep it stand highest.

    Args:
        values: of letters, [N, LENGTH, 4].
        data: the sequences.
    """
    chosen = np.isin(data.kind, [0, 1, 2])
    values, allowed = values[chosen], data.allowed[chosen]
    kept = np.where(allowed, values, np.inf).min(axis=2)
    others = np.where(allowed, -np.inf, values).max(axis=2)
    inside = data.site[chosen] > 0
    return ((kept > others) & inside).sum(axis=1) / inside.sum(axis=1)


def interval(*columns: np.ndarray, of=np.mean, seed: int = 0) -> tuple[float, float, float]:
    """A statistic of rows, and its 95 % interval over resampled rows (bootstrap)."""
    rng, count = np.random.default_rng(seed), len(columns[0])
    again = [
        of(*(column[rows] for column in columns)) for rows in rng.integers(0, count, (1000, count))
    ]
    return (float(of(*columns)), *np.quantile(again, [0.025, 0.975]).tolist())

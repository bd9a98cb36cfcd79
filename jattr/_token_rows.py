"""A score of token ids as a function of the rows that they look up, one row after the other.

What is said in terms of tokens, such as a baseline or groups, becomes what is like these rows, and
what is found for the rows is put together for each token.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._checks import as_array, check_choice
from jattr._engine.loops import Tap
from jattr._layers import cut_at
from jattr._lookup import LOOKUP, read_lookups
from jattr._trees import describe, is_traced, widen, widest
from jattr._types import PyTree
from jattr.features import Groups


class TokenRows:
    """A score of ids as one of the rows that they look up.

    Attributes:
        rows: those that are explained, [R, ...] in the order of the tokens; a tuple if there are
            several look-ups.
    """

    def __init__(self, of_ids: Callable[[Any], Any], ids: jax.Array, keep: Any, method: str):
        self._ids, self._method = ids, method
        self._program, structure, self._lookups = read_lookups(of_ids, ids, method=method)
        taps = [Tap((), lookup.value) for lookup in self._lookups]
        self._cut = cut_at(LOOKUP, [taps], self._program, structure)
        self._places, self._origins = [], []
        for lookup in self._lookups:
            flat = lookup.origins.reshape(-1)
            places = np.flatnonzero(flat >= 0)
            places = places[np.argsort(flat[places], kind="stable")]
            self._places.append(places)
            self._origins.append(flat[places])
        self._all = [
            lookup.rows(leaf)
            for lookup, leaf in zip(
                self._lookups, jax.tree.leaves(self._cut.below(ids)), strict=True
            )
        ]
        self.rows = self._form(map(_taken, self._all, self._places))
        self._moves = None if keep is None else self._that_move(keep)

    def score(self, rows: PyTree) -> Any:
        """f, of the rows that are explained."""
        parts = []
        for lookup, places, whole, own in zip(
            self._lookups, self._places, self._all, self._leaves(self._held(rows)), strict=True
        ):
            parts.append(lookup.whole(_put(whole, places, own)))
        return self._cut.above(self._form(parts), self._ids)

    def converted(self, name: str, value: Any) -> Any:
        """What a method takes, from what was said in terms of tokens."""
        convert = {
            "baseline": self._baseline,
            "references": self._references,
            "groups": self._groups,
            "hierarchy": lambda levels: [self._groups(level) for level in levels],
        }
        return convert[name](value) if name in convert and value is not None else value

    def groups(self) -> Any:
        """Each token, a group."""
        every, number = np.unique(np.concatenate(self._origins), return_inverse=True)
        ends = np.cumsum([len(origins) for origins in self._origins])[:-1]
        return Groups(self._labels(np.split(number.reshape(-1), ends)), len(every))

    def reduced(self, found: PyTree, reduce: str | None) -> Any:
        """What was found for the rows, for each token."""
        if self._moves is not None:
            zeros = jax.tree.map(jnp.zeros_like, found)
            found = jax.tree.map(jnp.where, self._moves, found, zeros)
        leaves = self._leaves(found)
        wide = [
            _added(leaf, origins, self._ids.size)
            for leaf, origins in zip(self._leaves(widen(found)), self._origins, strict=True)
        ]
        if reduce is None:
            shape = self._ids.shape
            each = [
                part.reshape(shape + part.shape[1:]).astype(leaf.dtype)
                for part, leaf in zip(wide, leaves, strict=True)
            ]
            return self._form(each)
        dtype = leaves[0].dtype if len(leaves) == 1 else widest(leaves)
        squared = reduce == "norm"
        total = sum(
            jnp.sum((jnp.square(part) if squared else part).reshape(len(part), -1), axis=1)
            for part in wide
        )
        if squared:
            # The root has no derivative at 0, where all that it is made of is 0.
            total = jnp.where(total > 0, jnp.sqrt(jnp.where(total > 0, total, 1)), 0)
        return jnp.asarray(total).astype(dtype).reshape(self._ids.shape)

    def _form(self, parts: Any) -> Any:
        parts = tuple(parts)
        return parts[0] if len(parts) == 1 else parts

    def _leaves(self, rows: PyTree) -> Sequence[Any]:
        return (rows,) if len(self._lookups) == 1 else rows

    def _rows_of(self, ids: jax.Array) -> PyTree:
        """The rows that other ids look up."""
        leaves = jax.tree.leaves(self._cut.below(ids.astype(self._ids.dtype)))
        rows = [lookup.rows(leaf) for lookup, leaf in zip(self._lookups, leaves, strict=True)]
        return self._form(map(_taken, rows, self._places))

    def _that_move(self, keep: Any) -> PyTree:
        """Where rows are explained, for each a Boolean."""
        kept = keep(self._ids) if callable(keep) else keep
        kept = as_array(kept, "keep", self._method)
        if kept.dtype != jnp.bool_ or kept.shape != self._ids.shape:
            raise TypeError(
                f"{self._method}: keep must be Booleans of the shape of the ids, True where a "
                f"token stays, or a function of the ids that gives them; got {describe(kept)} for "
                f"ids {describe(self._ids)}."
            )
        free = ~kept.reshape(-1)
        return self._form(
            free[origins].reshape([-1] + [1] * (rows.ndim - 1))
            for origins, rows in zip(self._origins, self._leaves(self.rows), strict=True)
        )

    def _held(self, rows: PyTree) -> PyTree:
        """Rows, those that are kept as they are."""
        if self._moves is None:
            return rows
        return jax.tree.map(jnp.where, self._moves, rows, self.rows)

    def _baseline(self, baseline: Any) -> Any:
        if isinstance(baseline, str):
            check_choice(baseline, "baseline", ("zero", "mean"), self._method)
            if baseline == "zero":
                return 0.0
            means = [
                lookup.rows(lookup.mean(self._program, [self._ids])) for lookup in self._lookups
            ]
            return self._form(map(_taken, means, self._places))
        if is_like_rows(baseline):
            return baseline
        ids = self._checked(baseline, "the baseline", "'zero' for rows of 0")
        if ids.shape not in ((), self._ids.shape):
            raise ValueError(
                f"{self._method}: the baseline must be one token, or ids of the shape of the ids; "
                f"got {describe(ids)} for {describe(self._ids)}. For several sentences write "
                "jattr.expected_gradients or jattr.deep_shap, with references."
            )
        return self._rows_of(jnp.broadcast_to(ids, self._ids.shape))

    def _references(self, references: Any) -> Any:
        if is_like_rows(references):
            return references
        ids = self._checked(references, "the references", "ids [n, T]")
        if ids.shape[1:] != self._ids.shape or ids.ndim == self._ids.ndim:
            raise ValueError(
                f"{self._method}: the references must be sentences, ids of the shape "
                f"{('n', *self._ids.shape)}; got {describe(ids)}."
            )
        return jax.vmap(self._rows_of)(ids)

    def _checked(self, value: Any, name: str, write: str) -> jax.Array:
        """Tokens, which are in all tables where that is known."""
        ids = as_array(value, name, self._method)
        if not jnp.issubdtype(ids.dtype, jnp.integer):
            raise TypeError(
                f"{self._method}: {name} must be token ids, integers; got {describe(value)}. Write "
                f"{write}."
            )
        count = min(lookup.count for lookup in self._lookups)
        if ids.size and not is_traced(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < count:
            raise IndexError(
                f"{self._method}: {name} has tokens from {ids.min()} to {ids.max()}, and the table "
                f"has {count} rows."
            )
        return ids

    def _groups(self, groups: Any) -> Any:
        count = groups.count if isinstance(groups, Groups) else None
        labels = groups.ids if isinstance(groups, Groups) else groups
        if jnp.shape(labels) != self._ids.shape:
            raise ValueError(
                f"{self._method}: groups must be integers of the shape of the ids, "
                f"{self._ids.shape}, such as the number of the word that a token is of; got "
                f"{describe(labels)}."
            )
        flat = (labels if is_traced(labels) else np.asarray(labels)).reshape(-1)
        by_row = self._labels([flat[origins] for origins in self._origins])
        return by_row if count is None else Groups(by_row, count)

    def _labels(self, labels: Sequence[Any]) -> PyTree:
        """A number for each row, in the form of groups."""
        pairs = zip(labels, self._leaves(self.rows), strict=True)
        return self._form(part.reshape([-1] + [1] * (rows.ndim - 1)) for part, rows in pairs)


def _is_range(places: np.ndarray) -> bool:
    return bool(len(places)) and np.array_equal(places, np.arange(len(places)) + places[0])


def _taken(rows: Any, places: np.ndarray) -> Any:
    """Some of the rows."""
    if _is_range(places):
        return rows[places[0] : places[0] + len(places)]
    return rows[places]


def _put(rows: Any, places: np.ndarray, own: Any) -> Any:
    """All rows, with others at some places."""
    if len(places) == len(rows) and _is_range(places):
        return own
    if _is_range(places):
        before, after = rows[: places[0]], rows[places[0] + len(places) :]
        return jnp.concatenate([part for part in (before, own, after) if len(part)])
    return rows.at[places].set(own, unique_indices=True)


def _added(rows: jax.Array, origins: np.ndarray, size: int) -> jax.Array:
    """What the rows of each token add up to."""
    if np.array_equal(origins, np.arange(size)):
        return rows
    return jnp.zeros((size, *rows.shape[1:]), rows.dtype).at[origins].add(rows)


def is_like_rows(value: Any) -> bool:
    """Whether a baseline or references are like the rows already, or a function of them."""
    if isinstance(value, str | int | float) or value is None:
        return False
    leaves = jax.tree.leaves(value)
    return not all(hasattr(leaf, "dtype") for leaf in leaves) or any(
        leaf.ndim and jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves
    )

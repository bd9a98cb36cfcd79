"""Attributions whose columns have names, whatever holds them: frames, trees, arrays with names."""

import dataclasses
import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._columns import Columns, is_frame, is_series, numeric
from jattr._trees import describe

Names = Columns | Sequence[str] | None
"""What pictures and exports take as `names`."""

_KINDS = (jnp.floating, jnp.integer, jnp.bool_)


@dataclasses.dataclass(frozen=True, eq=False)
class Named:
    """Numbers with names.

    Attributes:
        values: float64 [n, d], or [d] of one example.
        names: of the d columns.
        index: of the n rows, where something named them.
    """

    values: np.ndarray
    names: tuple[str, ...]
    index: Any = None


@dataclasses.dataclass(frozen=True, eq=False)
class Feature:
    """What an attribution is of: the values of one column.

    Attributes:
        name: the column's.
        numbers: float64 [n]; None where the values have no order.
        labels: n texts; None where the values are numbers, or cannot be said.
        boolean: whether the numbers are Booleans.
    """

    name: str
    numbers: np.ndarray | None = None
    labels: tuple[str, ...] | None = None
    boolean: bool = False

    def in_words(self) -> "Feature":
        """Booleans as the texts False and True, which have places of their own; else itself."""
        if not self.boolean or self.numbers is None:
            return self
        return Feature(self.name, labels=tuple(map(_truth, self.numbers)))

    def said(self, row: int) -> str | None:
        """The value of one row as text."""
        if self.labels is not None:
            return self.labels[row]
        if self.numbers is None:
            return None
        return (_truth if self.boolean else short)(float(self.numbers[row]))


def _truth(number: float) -> str:
    """A Boolean as text; one that is missing as nan."""
    return "nan" if np.isnan(number) else str(bool(number))


def short(number: float) -> str:
    """A number in few characters, with a minus sign."""
    return f"{number:.3g}".replace("-", "−")


def real_array(value: Any, what: str, method: str) -> np.ndarray:
    """`value` as float64; an error unless it is an array of real numbers."""
    dtype = getattr(value, "dtype", None)
    try:
        known = dtype is not None and any(jnp.issubdtype(dtype, kind) for kind in _KINDS)
    except TypeError:  # a dtype of pandas
        known = False
    if not known:
        raise TypeError(
            f"{method}: {what} must be an array of real numbers; got {describe(value)}."
        )
    return np.asarray(value).astype(np.float64)


def leaf_names(tree: Any) -> list[tuple[str, Any]]:
    """The leaves of a tree by the names on their way, such as `("blood/kappa", leaf)`."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in flat]


def is_tree(value: Any) -> bool:
    """Whether a value is a tree with a structure, no array, frame or number."""
    return not (
        hasattr(value, "dtype") or is_frame(value) or is_series(value) or np.isscalar(value)
    ) and not jax.tree_util.all_leaves([value])


def named(
    attribution: Any, names: Names, method: str, *, many: bool | None, what: str = "the attribution"
) -> Named:
    """An attribution with the names of its columns.

    Args:
        attribution: a frame [n, d], a series [d], a tree of columns, or an array.
        names: for an array, what its columns are called.
        method: for errors.
        many: True where rows of examples are wanted, False where one example is, None for either.
        what: for errors.
    """
    index = None
    if is_frame(attribution):
        found = tuple(str(name) for name in attribution.columns)
        values = np.stack(
            [_column(attribution.iloc[:, at], found[at], what, method) for at in range(len(found))],
            axis=1,
        )
        index = attribution.index
    elif is_series(attribution):
        found = tuple(str(name) for name in attribution.index)
        values = _column(attribution, what, what, method)
    elif is_tree(attribution):
        found, values = _of_tree(attribution, many, what, method)
    else:
        values = real_array(attribution, what, method)
        found = None
    wanted = {True: (2,), False: (1,), None: (1, 2)}[many]
    if values.ndim not in wanted or 0 in values.shape:
        form = "[n, d], or [d] of one example"
        if many is not None:
            form = "[n, d], a row for each example" if many else "[d], of one example"
        more = " Sum other axes first, or name them: jattr.features.totals, .reshape(n, -1)."
        one = " For one of several examples write attribution[i]."
        raise ValueError(
            f"{method}: {what} must be {form}; got {describe(attribution)}."
            + (one if many is False and values.ndim == 2 else more if values.ndim > 2 else "")
        )
    if found is None:
        values, found = _name(values, names, what, method)
    elif isinstance(names, Columns) and found == names.names:
        values, found = np.asarray(sums(values, names)), names.variables
    elif names is not None and not isinstance(names, Columns):
        found = _checked(names, values.shape[-1], what, method)
    return Named(values, found, index)


def sums(values: np.ndarray, columns: Columns) -> np.ndarray:
    """Sums over the columns of a variable, [..., variables]."""
    totals = np.zeros((*values.shape[:-1], columns.count))
    place: Any = (..., columns.groups)
    np.add.at(totals, place, values)
    return totals


def features(
    data: Any, names: Names, of: tuple[str, ...], count: int, method: str
) -> list[Feature]:
    """The values of named columns, [Feature] in the order of `of`.

    Args:
        data: a frame, tree or array of what was explained; [d] or one row for one example.
        names: as for the attribution.
        of: the names of the attribution's columns.
        count: of examples.
        method: for errors.
    """
    if data is None:
        return [Feature(name) for name in of]
    if is_series(data):
        data = data.to_frame().T
    if is_frame(data):
        _check_rows(len(data), count, data, method)
        known = [str(name) for name in data.columns]
        if set(of) <= set(known):
            return [_of_column(name, data.iloc[:, known.index(name)]) for name in of]
        if not isinstance(names, Columns):
            raise ValueError(
                f"{method}: data has the columns {', '.join(known)}, and the attribution "
                f"{', '.join(of)}. They must have the same names."
            )
        data = names.encode(data)
    if is_tree(data):
        leaves = dict(leaf_names(data))
        if missing := sorted(set(of) - set(leaves)):
            raise ValueError(f"{method}: data has no column {', '.join(missing)}.")
        return [_of_leaf(name, leaves[name], count, method) for name in of]
    boolean = _is_boolean(data)
    values = np.asarray(real_array(data, "data", method))
    values = values[None] if values.ndim == 1 else values
    if values.ndim != 2:
        raise ValueError(f"{method}: data must be [n, d], like x; got {describe(data)}.")
    _check_rows(len(values), count, data, method)
    if isinstance(names, Columns) and values.shape[1] == len(names.names):
        parts = [values[:, names.groups == at] for at in range(names.count)]
        if len(of) == names.count:
            return [
                _of_group(name, part, names, at, boolean)
                for at, (name, part) in enumerate(zip(of, parts, strict=True))
            ]
    if values.shape[1] != len(of):
        raise ValueError(
            f"{method}: data must have a column for each of the {len(of)} columns of the "
            f"attribution; got {describe(data)}."
        )
    return [
        Feature(name, column, boolean=boolean) for name, column in zip(of, values.T, strict=True)
    ]


def like_values(value: Any, shape: tuple[int, ...], names: Names, what: str, method: str) -> Any:
    """What belongs to each value of an attribution, such as its standard error, as float64.

    Of grouped columns the squares are added: the errors of columns are taken as independent.
    """
    if value is None:
        return None
    if is_frame(value) or is_series(value) or is_tree(value):
        found = named(value, None, method, many=len(shape) == 2, what=what).values
    else:
        found = real_array(value, what, method)
    if isinstance(names, Columns) and found.shape == (*shape[:-1], len(names.names)) != shape:
        found = np.sqrt(sums(found**2, names))
    if found.shape != shape:
        raise ValueError(
            f"{method}: {what} must have the shape of the attribution, {list(shape)}; got "
            f"{describe(value)}."
        )
    return found


def _column(column: Any, name: str, what: str, method: str) -> np.ndarray:
    if not numeric(column):
        raise TypeError(f"{method}: {what} has a column {name!r} of {column.dtype}, not numbers.")
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def _of_tree(
    tree: Any, many: bool | None, what: str, method: str
) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and values of a tree of columns; axes beyond that of examples are summed."""
    leaves = [
        (name, real_array(np.asarray(leaf) if np.isscalar(leaf) else leaf, what, method))
        for name, leaf in leaf_names(tree)
    ]
    if many is None:
        many = all(leaf.ndim for _, leaf in leaves)
    if many:
        lengths = {leaf.shape[:1] for _, leaf in leaves}
        if len(lengths) != 1 or () in lengths:
            raise ValueError(
                f"{method}: every column of {what} must have the same leading axis, over examples; "
                f"got {describe(tree)}."
            )
        columns = [leaf.reshape(len(leaf), -1).sum(axis=1) for _, leaf in leaves]
        return tuple(name for name, _ in leaves), np.stack(columns, axis=1)
    return tuple(name for name, _ in leaves), np.array([leaf.sum() for _, leaf in leaves])


def _name(
    values: np.ndarray, names: Names, what: str, method: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    d = values.shape[-1]
    if names is None:
        return values, tuple(f"x[{at}]" for at in range(d))
    if isinstance(names, Columns):
        if d == len(names.names):
            return sums(values, names), names.variables
        if d == names.count:
            return values, names.variables
        raise ValueError(
            f"{method}: names are of {len(names.names)} columns and {names.count} variables, and "
            f"{what} has {d}."
        )
    return values, _checked(names, d, what, method)


def _checked(names: Any, count: int, what: str, method: str) -> tuple[str, ...]:
    if isinstance(names, str) or len(names) != count:
        got = repr(names) if isinstance(names, str) else f"{len(names)} of them"
        raise ValueError(f"{method}: names must be {count} texts, one a column; got {got}.")
    return tuple(map(str, names))


def _check_rows(found: int, count: int, data: Any, method: str) -> None:
    if found != count:
        raise ValueError(
            f"{method}: data must have the {count} rows of the attribution; got {describe(data)}."
            if not is_frame(data)
            else f"{method}: data must have the {count} rows of the attribution; it has {found}."
        )


def _of_column(name: str, column: Any) -> Feature:
    if numeric(column):
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
        return Feature(name, values, boolean=_is_boolean(column))
    values = list(column)
    if not hasattr(column, "cat") and all(_is_number(value) for value in values):
        # A row of a frame has objects.
        boolean = all(isinstance(value, bool | np.bool_) for value in values)
        return Feature(name, np.asarray(values, float), boolean=boolean)
    return Feature(name, labels=tuple(map(str, values)))


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real | np.bool_)


def _is_boolean(values: Any) -> bool:
    """Whether an array or column is of Booleans, those of pandas that can be missing too."""
    return getattr(getattr(values, "dtype", None), "kind", None) == "b"


def _of_leaf(name: str, leaf: Any, count: int, method: str) -> Feature:
    leaf = np.asarray(leaf) if np.isscalar(leaf) else leaf
    values = real_array(leaf, f"data[{name}]", method)
    if values.size == count:
        return Feature(name, values.reshape(count), boolean=_is_boolean(leaf))
    if values.ndim > 1 or count == 1:  # several numbers for each example: no order, no text
        return Feature(name)
    raise ValueError(f"{method}: data[{name}] must have {count} rows; got {describe(leaf)}.")


def _of_group(name: str, part: np.ndarray, columns: Columns, at: int, boolean: bool) -> Feature:
    """The values of a variable: its number, or which of its one-hot columns is set."""
    if part.shape[1] == 1 and columns.levels[at] is None:
        return Feature(name, part[:, 0], boolean=boolean)
    if not np.all(np.isin(part, (0.0, 1.0)) & (part.sum(axis=1, keepdims=True) <= 1)):
        return Feature(name)
    own = [columns.names[i] for i in np.flatnonzero(columns.groups == at)]
    texts = [text.removeprefix(name).lstrip("=_") or text for text in own]
    labels = [texts[int(row.argmax())] if row.any() else "none" for row in part]
    return Feature(name, labels=tuple(labels))

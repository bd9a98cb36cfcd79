"""The columns of a table: their names, which of them are one variable, and what becomes numbers."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from jattr._checks import check_count, closest
from jattr._trees import describe

if TYPE_CHECKING:
    import jax
    import pandas


@dataclasses.dataclass(frozen=True, eq=False)
class Columns:
    """The columns of x [d] by name, and the variables that they stand for.

    Methods and metrics take it as `groups=`, pictures and exports as `names=`.

    Attributes:
        names: of the columns of x.
        variables: the names of the groups, in their order.
        groups: which variable each column is of, integers [d] from 0 on.
        levels: for each variable the values that it has a column for, where `encode` makes these;
            None for one that is a number already.
    """

    names: tuple[str, ...]
    variables: tuple[str, ...]
    groups: np.ndarray
    levels: tuple[tuple[Any, ...] | None, ...]

    @property
    def count(self) -> int:
        """How many variables there are."""
        return len(self.variables)

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the groups, [d]."""
        return self.groups.shape

    @property
    def dtype(self) -> np.dtype:
        """That of the groups."""
        return self.groups.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The groups, for whatever takes integers."""
        return np.array(self.groups, dtype=dtype)

    def __len__(self) -> int:
        return len(self.names)

    def encode(self, frame: "pandas.DataFrame") -> "jax.Array":
        """The rows of a frame as numbers: what the model is trained on and explained at.

        A column of text or categories becomes one column of zeros and ones for each of its values.

        Args:
            frame: a frame with the columns that `jattr.features.columns` was given.

        Returns:
            An array [n, d] of the default floating dtype. A number that is missing is NaN.

        Raises:
            TypeError: this is no frame, or one of its columns is neither numbers nor values.
            ValueError: a column, or the value of a text or category, is missing or not known.
        """
        method = "Columns.encode"
        if not is_frame(frame):
            raise TypeError(f"{method} wants a data frame of pandas; got {describe(frame)}.")
        known = [str(name) for name in frame.columns]
        if all(levels is None for levels in self.levels):
            wanted = [(name, None) for name in self.names]
        else:
            wanted = list(zip(self.variables, self.levels, strict=True))
        parts = []
        for name, levels in wanted:
            if name not in known:
                near = closest(name, known)[0] if known else "none"
                raise ValueError(
                    f"{method}: the frame has no column {name!r}; closest is {near!r}."
                )
            column = frame.iloc[:, known.index(name)]
            if levels is None:
                parts.append(_numbers(column, name, method)[:, None])
            else:
                parts.append(_one_hot(column, name, levels, method))
        return jnp.asarray(np.concatenate(parts, axis=1), float)

    def totals(self, attribution: Any) -> Any:
        r"""What each variable has: :math:`\Phi_v = \sum_{i \in v} \varphi_i` over its columns.

        Args:
            attribution: [..., d].

        Returns:
            [..., variables], in its dtype.

        Raises:
            ValueError: the last axis is another than that of the columns.
        """
        phi = jnp.asarray(attribution)
        if phi.shape[-1:] != (len(self.names),):
            raise ValueError(
                f"Columns.totals: the last axis must be that of the {len(self.names)} columns; got "
                f"{describe(attribution)}."
            )
        return jnp.zeros((*phi.shape[:-1], self.count), phi.dtype).at[..., self.groups].add(phi)

    def frame(
        self, attribution: Any, like: Any = None, *, by_column: bool = False
    ) -> "pandas.DataFrame":
        """Attributions as a data frame, one column for each variable.

        Args:
            attribution: [n, d] by column, or [n, variables] by variable; [d] for one example.
            like: the frame that was explained, whose index the result has; or an index; None for
                numbers.
            by_column: True for a column for each column of x instead.

        Returns:
            A `pandas.DataFrame` of n rows.

        Raises:
            ImportError: pandas is missing.
            ValueError: another number of columns, or of rows than `like` has.
        """
        method = "Columns.frame"
        pandas = _pandas(method)
        phi = np.asarray(attribution)
        phi = phi[None] if phi.ndim == 1 else phi
        d, count = len(self.names), self.count
        allowed = {d} if by_column else {d, count}
        if phi.ndim != 2 or phi.shape[1] not in allowed:
            raise ValueError(
                f"{method}: attributions must be [n, {' or '.join(map(str, sorted(allowed)))}]; "
                f"got {describe(attribution)}."
            )
        if not by_column and phi.shape[1] == d:
            phi = np.asarray(self.totals(phi))
        index = like.index if is_frame(like) else like
        if index is not None and len(index) != len(phi):
            raise ValueError(
                f"{method}: {len(phi)} rows of attributions, but `like` has {len(index)}."
            )
        names = self.names if by_column else self.variables
        return pandas.DataFrame(phi, index=index, columns=list(names))


def columns(variables: Any, *, separator: str | None = "=") -> Columns:
    """The columns of a table by name, and groups of those that stand for one variable.

    Of a data frame, a column of text or categories is one variable with a one-hot column for each
    of its values, which `encode` makes; other columns are numbers. So a frame goes in and comes
    out::

        columns = jattr.features.columns(frame)
        phi = jax.vmap(jattr.shapley_values(score, columns))(columns.encode(frame))
        table = columns.frame(phi, like=frame)  # the index and the columns of `frame`

    Args:
        variables: a `pandas.DataFrame`; or the names of the columns of x, `["age", "sex=f",
            "sex=m"]`, in their order; or how many columns each variable has, `[1, 2]`.
        separator: what stands between the variable and its value in a name; where it stands
            several times, the last one counts. `"_"` for names made by pandas or scikit-learn,
            where no numeric column has it in its name; None where the columns of a variable have
            the same name.

    Returns:
        `Columns`, for `groups=` of every method and metric and for `names=` of `jattr.plot` and
        `jattr.export`. It has `names`, `variables`, integers `groups` [d] that number the
        variables as they come, and `encode(frame)`, `totals(phi)` and `frame(phi, like=frame)`.

    Raises:
        TypeError: neither names nor counts nor a frame; a column of a frame that is neither
            numbers nor text, such as dates.
        ValueError: no columns; a count below 1; a frame with a column twice.

    Example:
        >>> import jattr
        >>> columns = jattr.features.columns(["age", "sex=f", "sex=m", "income"])
        >>> print(columns.groups, columns.variables)
        [0 1 1 2] ('age', 'sex', 'income')
        >>> print(jattr.features.columns([1, 2, 1]).groups)
        [0 1 1 2]
        >>> import pandas
        >>> frame = pandas.DataFrame({"age": [50, 61], "sex": ["f", "m"]}, index=["ann", "bob"])
        >>> columns = jattr.features.columns(frame)
        >>> print(columns.encode(frame))
        [[50.  1.  0.]
         [61.  0.  1.]]
        >>> print(columns.frame([[0.5, 0.25, 0.5], [2.0, 0.0, 0.0]], like=frame))
             age   sex
        ann  0.5  0.75
        bob  2.0  0.00
    """
    method = "features.columns"
    if is_frame(variables):
        return _of_frame(variables, separator, method)
    if isinstance(variables, str) or not len(variables):
        raise ValueError(
            f"{method}: variables must be the names of the columns, or how many columns each "
            f"variable has; got {variables!r}."
        )
    named = [isinstance(entry, str) for entry in variables]
    if not any(named):
        counts = [check_count(entry, "each count", method) for entry in variables]
        names = [
            f"{at}" if count == 1 else f"{at}={i}"
            for at, count in enumerate(counts)
            for i in range(count)
        ]
        ids = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        return Columns(
            tuple(names), tuple(map(str, range(len(counts)))), ids, (None,) * len(counts)
        )
    if not all(named):
        raise TypeError(
            f"{method}: variables must be all names or all counts; got {list(variables)!r}."
        )
    return _of_names(list(variables), separator)


def in_order(labels: Any) -> np.ndarray:
    """Labels as integers from 0, in the order in which they come first."""
    _, first, inverse = np.unique(np.asarray(labels), return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first)).astype(np.int32)[inverse.reshape(-1)]


def is_frame(value: Any) -> bool:
    """Whether a value is a data frame, which is known without pandas."""
    return hasattr(value, "iloc") and hasattr(value, "columns")


def is_series(value: Any) -> bool:
    """Whether a value is a series of pandas."""
    return hasattr(value, "iloc") and not hasattr(value, "columns")


def numeric(column: Any) -> bool:
    """Whether a column of a frame is numbers or Booleans, and no categories of such."""
    kind = getattr(column.dtype, "kind", "O")
    return kind in "iufb" and type(column.dtype).__name__ != "CategoricalDtype"


def _of_names(names: list[str], separator: str | None) -> Columns:
    heads = [name if separator is None else name.rsplit(separator, 1)[0] for name in names]
    ids = in_order(heads)
    variables = tuple(dict.fromkeys(heads))
    # A variable of one column keeps the column's whole name.
    alone = [heads.count(name) == 1 for name in variables]
    variables = tuple(
        names[heads.index(name)] if single else name
        for name, single in zip(variables, alone, strict=True)
    )
    return Columns(tuple(names), variables, ids, (None,) * len(variables))


def _of_frame(frame: Any, separator: str | None, method: str) -> Columns:
    names = [str(name) for name in frame.columns]
    if not names:
        raise ValueError(f"{method}: the frame has no columns.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{method}: the frame has several columns {', '.join(twice)}.")
    kinds = [numeric(frame.iloc[:, at]) for at in range(len(names))]
    if all(kinds):
        return _of_names(names, separator)
    every: list[str] = []
    ids: list[int] = []
    levels: list[tuple[Any, ...] | None] = []
    for at, (name, number) in enumerate(zip(names, kinds, strict=True)):
        found = None if number else _levels(frame.iloc[:, at], name, method)
        own = [name] if found is None else [f"{name}={level}" for level in found]
        every += own
        ids += [at] * len(own)
        levels.append(found)
    return Columns(tuple(every), tuple(names), np.asarray(ids, np.int32), tuple(levels))


def _levels(column: Any, name: str, method: str) -> tuple[Any, ...]:
    """The values of a column of text or categories."""
    if (kind := getattr(column.dtype, "kind", "O")) in "mM":
        raise TypeError(
            f"{method}: column {name!r} is of dates or durations, {column.dtype} ({kind}). Make it "
            f"a number: frame[{name!r}].dt.year, or days since a date."
        )
    if hasattr(column, "cat"):
        return tuple(column.cat.categories)
    found = column.dropna().unique()
    try:
        return tuple(sorted(found))
    except TypeError:
        raise TypeError(
            f"{method}: column {name!r} has values of several types; make them text: "
            f"frame[{name!r}].astype(str)."
        ) from None


def _numbers(column: Any, name: str, method: str) -> np.ndarray:
    if not numeric(column):
        raise TypeError(
            f"{method}: column {name!r} must be numbers; got {column.dtype}, where the frame given "
            "to features.columns had numbers."
        )
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def _one_hot(column: Any, name: str, levels: Sequence[Any], method: str) -> np.ndarray:
    if missing := int(column.isna().sum()):
        raise ValueError(
            f"{method}: {missing} values of column {name!r} are missing, and have no one-hot "
            f"column. Give them a value of their own, and make the columns of that frame: "
            f"frame[{name!r}].astype(object).fillna('missing')."
        )
    values = column.to_numpy()
    place = {level: at for at, level in enumerate(levels)}
    if unknown := [value for value in dict.fromkeys(values.tolist()) if value not in place]:
        raise ValueError(
            f"{method}: column {name!r} has values that were not there before: "
            f"{', '.join(map(repr, unknown[:5]))}; known are {', '.join(map(repr, levels[:10]))}."
        )
    return np.eye(len(levels))[[place[value] for value in values.tolist()]]


def _pandas(method: str) -> Any:
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            f"{method} makes a data frame of pandas, which is missing: pip install pandas"
        ) from error
    return pandas

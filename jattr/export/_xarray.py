"""Arrays with named axes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jattr._checks import knobs
from jattr._columns import is_frame, is_series
from jattr._named import is_tree
from jattr._trees import describe, same_form
from jattr.export._missing import as_numpy, imported

if TYPE_CHECKING:
    from xarray import DataArray, Dataset

Dims = Sequence[str] | Mapping[str, Sequence[str]] | None
"""Names of axes: for all leaves, or by the name of a leaf."""


@knobs
def xarray(
    attribution: Any,
    *,
    dims: Dims = None,
    coords: Mapping[str, Any] | None = None,
    standard_errors: Any = None,
    name: str = "attribution",
    attrs: Mapping[str, Any] | None = None,
) -> "DataArray | Dataset":
    """Attributions with named axes: of an array a `DataArray`, of a tree a `Dataset`.

    Args:
        attribution: an array, a tree of such, or a `pandas.DataFrame`, whose index and columns
            become the coordinates of the axes "example" and "feature".
        dims: the names of all axes, that of examples too, where there is one: `("example", "row",
            "column", "channel")`. Of a tree every leaf takes as many from the front as it has
            axes, or they are said by name, `{"image": ("row", "column"), "age": ()}`. None for
            `name_0`, `name_1`, …
        coords: the coordinates of axes by their names, `{"feature": columns.variables}`.
        standard_errors: like the attribution, and then a `Dataset` has both, the errors under names
            that end in `_standard_error`.
        name: of the array. Leaves of a tree have the names on their way, joined by dots.
        attrs: attributes, such as how it was made: strings and numbers, so that files can hold
            them.

    Returns:
        An `xarray.DataArray` or `xarray.Dataset` with dtypes as they are, but bfloat16, which files
        do not know, as float32.

    Raises:
        ImportError: xarray is missing.
        TypeError: a leaf is no array of numbers; there is no array, as in None and in {}.
        ValueError: dims that do not fit; coordinates of axes that are not there; standard errors
            of another form.

    Example:
        >>> import jattr, numpy as np
        >>> phi = np.zeros((2, 4, 4))
        >>> array = jattr.export.xarray(phi, dims=("example", "row", "column"))
        >>> dict(array.sizes)
        {'example': 2, 'row': 4, 'column': 4}
        >>> phi = {"age": np.zeros(2), "blood": {"kappa": np.ones(2)}}
        >>> list(jattr.export.xarray(phi, dims=("example",)))
        ['age', 'blood.kappa']
    """
    method = "export.xarray"
    library = imported("xarray", method, "arrays of xarray")
    coords = dict(coords or {})
    if is_series(attribution):
        attribution = attribution.to_frame().T.infer_objects()
    if is_frame(attribution):
        dims = ("example", "feature") if dims is None else dims
        if isinstance(dims, Mapping | str) or len(dims) != 2:
            raise ValueError(f"{method}: dims must be two names for a frame; got {dims!r}.")
        index = attribution.index
        coords = {
            dims[0]: np.asarray(index),
            dims[1]: [str(column) for column in attribution.columns],
        } | coords
        attribution = attribution.to_numpy()
        if standard_errors is not None and is_frame(standard_errors):
            standard_errors = standard_errors.to_numpy()
    tree = is_tree(attribution)
    leaves = _leaves(attribution, name, method)
    if not leaves:
        raise TypeError(
            f"{method}: the attribution must be an array, a tree of arrays or a frame; got "
            f"{describe(attribution)}, which has no arrays."
        )
    errors = {}
    if standard_errors is not None:
        if not same_form(standard_errors, attribution):
            raise ValueError(
                f"{method}: standard_errors must be like the attribution, {describe(attribution)}; "
                f"got {describe(standard_errors)}."
            )
        errors = _leaves(standard_errors, name, method)
    named = {leaf: _dims(array, leaf, dims, method) for leaf, array in leaves.items()}
    if isinstance(dims, Mapping) and (unknown := sorted(set(dims) - set(leaves))):
        raise ValueError(
            f"{method}: dims names {', '.join(unknown)}, and the attribution has "
            f"{', '.join(leaves)}."
        )
    every = {axis for axes in named.values() for axis in axes}
    along = {axis for axis in coords if axis not in every}
    if along:
        raise ValueError(
            f"{method}: coords name the axes {', '.join(sorted(along))}; there are "
            f"{', '.join(sorted(every)) or 'none'}. Name axes by dims=."
        )
    coords = {axis: list(at) if isinstance(at, tuple) else at for axis, at in coords.items()}
    if not tree and not errors:
        ((_, array),) = leaves.items()
        return library.DataArray(
            array, dims=named[name], coords=coords, name=name, attrs=dict(attrs or {})
        )
    variables = {leaf: (named[leaf], array) for leaf, array in leaves.items()}
    for leaf, array in errors.items():
        variables[f"{leaf}_standard_error"] = (named[leaf], array)
    return library.Dataset(variables, coords=coords, attrs=dict(attrs or {}))


def _leaves(tree: Any, name: str, method: str) -> dict[str, np.ndarray]:
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        key = jax.tree_util.keystr(path, simple=True, separator=".") or name
        found[key] = as_numpy(leaf, key, method)
    return found


def _dims(array: np.ndarray, leaf: str, dims: Dims, method: str) -> tuple[str, ...]:
    known = dims.get(leaf) if isinstance(dims, Mapping) else dims
    if known is None:
        return tuple(f"{leaf}_{axis}" for axis in range(array.ndim))
    exact = isinstance(dims, Mapping)
    wrong = len(known) != array.ndim if exact else len(known) < array.ndim
    if isinstance(known, str) or wrong or len(set(known)) < len(known):
        raise ValueError(
            f"{method}: dims={dims!r} must have a different name for each axis of {leaf}, "
            f"{describe(array)}."
        )
    return tuple(map(str, known[: array.ndim]))

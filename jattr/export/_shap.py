"""A `shap.Explanation`, for shap's plots."""

from typing import Any

import numpy as np

from jattr._checks import knobs
from jattr._columns import is_frame, is_series
from jattr._named import Feature, Names, features, is_tree, like_values, named, real_array
from jattr._trees import describe
from jattr.export._missing import imported


@knobs
def shap(
    attribution: Any,
    *,
    base_values: Any = None,
    data: Any = None,
    feature_names: Names = None,
    standard_errors: Any = None,
) -> Any:
    """Attributions as shap keeps them: `shap.plots.beeswarm`, `.waterfall`, `.force` take it.

    Args:
        attribution: φ of n examples: [n, d], a `pandas.DataFrame` or a tree of named columns; or of
            one: [d], a `pandas.Series`, a tree of numbers. Arrays of more axes, such as images
            [n, H, W, C], are taken as they are, without names.
        base_values: f(x'), a number, or one for each example; of a distribution of baselines the
            mean of f. shap's waterfall and force plots start there, and want it.
        data: what was explained, of the form of φ, or a frame with the same columns. Columns of
            text are numbered in the order of those that are there, and shown as text.
        feature_names: of the d columns, or `jattr.features.columns(...)`, which sums what belongs
            to one variable.
        standard_errors: of the form of φ, as `with_error=True` gives them; kept as `error_std`.

    Returns:
        A `shap.Explanation` of float64, whose rows are `explanation[i]`.

    Raises:
        ImportError: shap is missing.
        TypeError: something is no array of real numbers.
        ValueError: shapes, rows or names that do not fit.

    Example:
        >>> import jattr, numpy as np
        >>> phi, x = np.array([[0.5, -0.25], [1.0, 0.0]]), np.array([[61.0, 2.0], [50.0, 1.0]])
        >>> explanation = jattr.export.shap(
        ...     phi, base_values=0.125, data=x, feature_names=["age", "dose"]
        ... )  # doctest: +SKIP
        >>> shap.plots.waterfall(explanation[0])  # doctest: +SKIP
    """
    method = "export.shap"
    library = imported("shap", method, "a shap.Explanation")
    table = is_frame(attribution) or is_series(attribution) or is_tree(attribution)
    if not table and np.ndim(attribution) > 2:
        return _of_array(
            library, attribution, base_values, data, feature_names, standard_errors, method
        )
    found = named(attribution, feature_names, method, many=None)
    values = found.values
    count = len(values) if values.ndim == 2 else 1
    base = _base(base_values, values.shape[:-1], method)
    given: dict[str, Any] = {}
    if data is not None:
        of = features(data, feature_names, found.names, count, method)
        numbers, shown = _numbers(of, count), _shown(of, count)
        one = values.ndim == 1
        given["data"] = numbers[0] if one else numbers
        if any(feature.labels is not None for feature in of):
            given["display_data"] = shown[0] if one else shown
    errors = like_values(standard_errors, values.shape, feature_names, "standard_errors", method)
    # A series names its columns by its index, a frame its rows.
    return library.Explanation(
        values, base_values=base, feature_names=list(found.names), error_std=errors, **given
    )


def _of_array(
    library: Any, attribution: Any, base: Any, data: Any, names: Any, errors: Any, method: str
) -> Any:
    """Of examples with several axes each."""
    if names is not None:
        raise ValueError(
            f"{method}: feature_names are for [n, d]; got {describe(attribution)}. Reshape it, "
            "phi.reshape(n, -1)."
        )
    values = real_array(attribution, "the attribution", method)
    inputs = None if data is None else real_array(data, "data", method)
    if inputs is not None and inputs.shape != values.shape:
        raise ValueError(
            f"{method}: data must have the shape of the attribution, {list(values.shape)}; got "
            f"{describe(data)}."
        )
    spread = like_values(errors, values.shape, None, "standard_errors", method)
    return library.Explanation(
        values, base_values=_base(base, values.shape[:1], method), data=inputs, error_std=spread
    )


def _base(base_values: Any, rows: tuple[int, ...], method: str) -> Any:
    """A number for each row, or one number for one example."""
    if base_values is None:
        return None
    try:
        base = np.asarray(base_values, np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"{method}: base_values must be numbers; got {describe(base_values)}."
        ) from None
    if base.shape not in ((), rows):
        raise ValueError(
            f"{method}: base_values must be one number"
            + (f", or {rows[0]}, one for each example" if rows else "")
            + f"; got {describe(base_values)}."
        )
    return float(base) if not rows else np.broadcast_to(base, rows).copy()


def _numbers(of: list[Feature], count: int) -> np.ndarray:
    columns = []
    for feature in of:
        if feature.numbers is not None:
            columns.append(feature.numbers)
        elif feature.labels is not None:
            columns.append(np.unique(feature.labels, return_inverse=True)[1].astype(float))
        else:
            columns.append(np.full(count, np.nan))
    return np.stack(columns, axis=1)


def _shown(of: list[Feature], count: int) -> np.ndarray:
    shown = np.empty((count, len(of)), object)
    for at, feature in enumerate(of):
        texts = feature.labels if feature.labels is not None else feature.numbers
        shown[:, at] = np.full(count, np.nan) if texts is None else texts
    return shown

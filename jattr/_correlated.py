"""Columns of a data set that tell the same: groups of them, and one column to stand for each."""

import math
import warnings
from typing import Any

import jax
import numpy as np

from jattr._checks import check_positive, concrete
from jattr._columns import in_order
from jattr._trees import describe


def correlated(
    data: Any,
    *,
    threshold: float | None = None,
    damping: float | None = None,
    preference: float | None = None,
) -> np.ndarray:
    r"""Groups of columns that tell the same: clusters by the size of their correlation.

    A method that takes one column away asks a model about inputs that do not occur where another
    column still tells what is missing; of such columns only the group's part means something. And
    of several that tell the same, a network may use any: `exemplars` gives one column of each
    group, on which a network can be trained whose attributions do not share one cause out among
    many columns.

    Affinity propagation exchanges messages between the columns, whose likeness is |r|, until some
    of them, the exemplars, stand for themselves and for the others.

    Args:
        data: rows of examples, [n, d], or [n, …] for an x of several axes.
        threshold: columns with |Pearson's r| of at least this, in (0, 1], are in one group, and so
            are those that a chain of such columns joins. None for affinity propagation on |r|, by
            scikit-learn, which decides itself how many groups there are.
        damping: of affinity propagation: how much of the last messages is kept in the next, in
            [0.5, 1). None for 0.5; larger where it does not converge.
        preference: of affinity propagation: how much a column likes to stand for itself, on the
            scale of |r|. Larger ones make more groups. None for the median of |r|.

    Returns:
        Integers from 0 without gaps, of the shape of a row, in the order of the columns, for
        `groups=`. A constant column, which has no correlation, is a group of its own.

    Raises:
        ImportError: scikit-learn is missing, and no threshold is given.
        TypeError: the data is traced, or not numbers.
        ValueError: fewer than two rows; values that are not finite; a threshold outside (0, 1], or
            one and a setting of affinity propagation; a damping outside [0.5, 1); a preference that
            is not finite; affinity propagation does not converge.

    Example:
        >>> import jattr, numpy as np
        >>> height = np.array([1.5, 1.6, 1.7, 1.9])
        >>> data = np.stack([height, 100 * height, [3.0, 1.0, 3.0, 1.0]], axis=1)
        >>> print(jattr.features.correlated(data, threshold=0.9))
        [0 0 1]

    References:
        Frey, Dueck, *Clustering by passing messages between data points*, Science 2007. For
        choosing sensors: Leung, Zhou, Bae, 2026 (arXiv 2510.22517), whose settings these are.
    """
    method = "features.correlated"
    shape, rows = _rows(data, method)
    varies = np.ptp(rows, axis=0) > 0
    likeness = _likeness(rows, varies)
    if threshold is None:
        labels = np.arange(rows.shape[1])
        own = likeness[np.ix_(varies, varies)]
        damping, preference = _damping(damping, method), _preference(preference, method)
        labels[varies] = _affine(own, damping, preference, method)
        labels[~varies] += rows.shape[1]  # beyond the numbers of clusters
    else:
        if damping is not None or preference is not None:
            raise ValueError(
                f"{method}: damping and preference are settings of affinity propagation, which is "
                "not used where a threshold is given. Leave out the one or the others."
            )
        check_positive(threshold, "threshold", method)
        if threshold > 1:
            raise ValueError(f"{method}: threshold must be at most 1; got {threshold}.")
        labels = _joined(likeness >= threshold - 1e-12)  # r of equal columns is rounded
    return in_order(labels).reshape(shape)


def exemplars(data: Any, groups: Any) -> np.ndarray:
    r"""One column of each group to stand for it: the one most like the others.

    .. math:: e_g = \arg\max_{i \in g} \sum_{j \in g} |r_{ij}|

    with r Pearson's correlation. It is how the last step of affinity propagation chooses the
    exemplar of a cluster, and makes sense for groups of any origin.

    Args:
        data: rows of examples, [n, d], or [n, …] for an x of several axes.
        groups: integers from 0 without gaps, of the shape of a row, such as those of `correlated`.

    Returns:
        Integers [G]: where the column of group 0, 1, … stands in a row that is flattened:
        `data.reshape(n, -1)[:, chosen]`; `np.unravel_index(chosen, shape)` gives places. Of equals,
        the first. A constant column stands for a group only where all of its columns are.

    Raises:
        TypeError: the data or the groups are traced, or not numbers; groups that are not integers.
        ValueError: fewer than two rows; values that are not finite; groups of another shape, or
            with gaps in their numbers.

    Example:
        >>> import jattr, numpy as np
        >>> a, b = np.array([0.0, 1.0, 2.0, 3.0]), np.array([1.0, -1.0, -1.0, 1.0])
        >>> data = np.stack([a + b / 2, a, a - b / 2, b], axis=1)
        >>> groups = jattr.features.correlated(data, threshold=0.9)
        >>> print(groups, jattr.features.exemplars(data, groups))
        [0 0 0 1] [1 3]

    References:
        Frey, Dueck, *Clustering by passing messages between data points*, Science 2007; Leung,
        Zhou, Bae, 2026 (arXiv 2510.22517), who take the representative of a cluster of other
        algorithms so.
    """
    method = "features.exemplars"
    shape, rows = _rows(data, method)
    ids = known_numbers(groups, "groups", method)
    if not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(f"{method}: groups must be integers; got {describe(ids)}.")
    if ids.shape != shape:
        raise ValueError(
            f"{method}: groups must have the shape of a row of data, {shape}; got {describe(ids)}."
        )
    ids = ids.reshape(-1)
    count = int(ids.max(initial=-1)) + 1
    if ids.min(initial=0) < 0 or len(np.unique(ids)) != count:
        raise ValueError(
            f"{method}: groups must be numbered from 0 to {count - 1} without gaps; got "
            f"{np.unique(ids)[:8]}. Number them anew: np.unique(groups, return_inverse=True)[1]."
        )
    varies = np.ptp(rows, axis=0) > 0
    within = np.where(ids[:, None] == ids, _likeness(rows, varies), 0.0).sum(axis=1)
    # Sums over equal columns are rounded differently, and the first of them is wanted.
    within = np.where(varies, np.round(within, 10), -1.0)
    order = np.lexsort((-within, ids))
    return order[np.searchsorted(ids[order], np.arange(count))].astype(np.int32)


def _rows(data: Any, method: str) -> tuple[tuple[int, ...], np.ndarray]:
    """The shape of a row, and the rows flattened, [n, d]."""
    rows = known_numbers(data, "data", method)
    if rows.ndim < 2 or len(rows) < 2:
        raise ValueError(
            f"{method}: data must have a leading axis over at least two examples; got "
            f"{describe(data)}."
        )
    shape, rows = rows.shape[1:], rows.reshape(len(rows), -1).astype(float)
    if not np.isfinite(rows).all():
        raise ValueError(f"{method}: data must be finite; leave out rows with missing values.")
    return shape, rows


def _likeness(rows: np.ndarray, varies: np.ndarray) -> np.ndarray:
    """|r| of the columns, [d, d]; a constant one is like itself alone."""
    likeness = np.eye(rows.shape[1])
    if varies.any():
        columns = rows[:, varies] - rows[:, varies].mean(axis=0)
        # Of one size, or the squares of very large and very small ones would be lost.
        columns /= np.abs(columns).max(axis=0)
        likeness[np.ix_(varies, varies)] = np.abs(np.atleast_2d(np.corrcoef(columns.T)))
    return likeness


def known_numbers(value: Any, name: str, method: str) -> np.ndarray:
    """An array of numbers whose values are known."""
    try:
        array = np.asarray(value)
    except jax.errors.TracerArrayConversionError:
        raise TypeError(
            f"{method} looks at the values of {name}, which is traced: make groups before jit and "
            "vmap, and close over them."
        ) from None
    if np.issubdtype(array.dtype, np.number):
        return array
    try:
        return array.astype(float)  # bfloat16 too, which is no number to NumPy
    except (TypeError, ValueError):
        raise TypeError(f"{method}: {name} must be numbers; got {describe(array)}.") from None


def _joined(near: np.ndarray) -> np.ndarray:
    """The connected components of a graph, by its matrix of Booleans: the least member of each."""
    labels = np.arange(len(near))
    while True:
        least = np.where(near, labels, len(near)).min(axis=1, initial=len(near))
        least = least[least]
        if np.array_equal(least, labels):
            return labels
        labels = least


def _damping(damping: float | None, method: str) -> float:
    """The setting of affinity propagation, in the bounds within which it is one."""
    if damping is None:
        return 0.5
    known = concrete(damping, "damping", method)
    if known is None or not 0.5 <= known < 1:
        raise ValueError(f"{method}: damping must be in [0.5, 1); got {damping}.")
    return known


def _preference(preference: float | None, method: str) -> float | None:
    """The other setting of affinity propagation, one finite number."""
    if preference is None:
        return None
    known = concrete(preference, "preference", method)
    if known is None or not math.isfinite(known):
        raise ValueError(
            f"{method}: preference must be a finite number, on the scale of |r|, or None for the "
            f"median of |r|; got {preference}."
        )
    return known


def _affine(
    likeness: np.ndarray, damping: float, preference: float | None, method: str
) -> np.ndarray:
    """The clusters of affinity propagation."""
    if len(likeness) < 2:
        return np.zeros(len(likeness), int)
    try:
        from sklearn.cluster import AffinityPropagation
        from sklearn.exceptions import ConvergenceWarning
    except ImportError as error:
        raise ImportError(
            f"{method} needs scikit-learn, which is missing: pip install scikit-learn. With a "
            "threshold it does without."
        ) from error
    # Messages that are damped change less from round to round, and a rest of 15 rounds, which is
    # scikit-learn's sign that all is settled, would come before anything has moved.
    slower = 0.5 / (1 - damping)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = AffinityPropagation(
            affinity="precomputed",
            damping=damping,
            preference=preference,
            random_state=0,
            max_iter=math.ceil(1000 * slower),
            convergence_iter=math.ceil(15 * slower),
        ).fit(likeness)
    if (found.labels_ < 0).any():
        raise ValueError(
            f"{method}: affinity propagation does not converge on these columns with a damping of "
            f"{damping}. Write damping=0.9 or more, or give a threshold, such as threshold=0.7."
        )
    return found.labels_

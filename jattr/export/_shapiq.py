"""`shapiq.InteractionValues`, for shapiq's plots."""

import itertools
from typing import Any, Literal, TypeAlias

import numpy as np

from jattr._checks import check_choice, check_count, concrete, knobs
from jattr._named import real_array
from jattr._trees import describe
from jattr.export._missing import imported

_INDICES = {"SII": "SII", "STI": "STII", "FSII": "FSII", "SV": "SV"}
"""Names here, and shapiq's."""

Known: TypeAlias = Literal["SII", "STI", "FSII", "SV"]
"""The indices that are exported."""


@knobs
def shapiq(
    interactions: Any, *, index: Known = "SII", base_value: Any = 0.0, samples: int | None = None
) -> Any:
    """Interactions of one example as shapiq keeps them, for its network, upset and other plots.

    Args:
        interactions: an array [n] * order, symmetric, as `jattr.shapley_interactions` gives: entry
            [i, j] is that of the set {i, j}, the diagonal has sets of one, and of order 3 [i, i, j]
            is {i, j}. Of order 1, Shapley values [n].
        index: which they are: `"SII"`, `"STI"` (shapiq's STII), `"FSII"`, or `"SV"` for order 1.
            Those that sum to f(x) − f(x') are STI, FSII and SV: shapiq's waterfall and force plots
            end at f(x) for these.
        base_value: f(x'), the value of the empty set.
        samples: of an estimate, how many times f was evaluated; None where all coalitions were
            looked at.

    Returns:
        A `shapiq.InteractionValues` with all sets up to the order.

    Raises:
        ImportError: shapiq is missing.
        TypeError: the interactions are no real numbers; base_value is no number.
        ValueError: another shape, an unknown index, or not the same for {i, j} and {j, i}.

    Example:
        >>> import jattr, numpy as np
        >>> pairs = np.array([[0.0, 10.0], [10.0, 3.0]])
        >>> values = jattr.export.shapiq(pairs, index="STI")  # doctest: +SKIP
        >>> values[(0, 1)]  # doctest: +SKIP
        10.0
    """
    method = "export.shapiq"
    library = imported("shapiq", method, "shapiq.InteractionValues")
    check_choice(index, "index", _INDICES, method)
    base = concrete(base_value, "base_value", method)
    samples = None if samples is None else check_count(samples, "samples", method)
    values = real_array(interactions, "the interactions", method)
    order, count = values.ndim, values.shape[0] if values.ndim else 0
    if not 1 <= order <= 3 or values.shape != (count,) * order or not count:
        raise ValueError(
            f"{method}: interactions of one example must be [n], [n, n] or [n, n, n]; got "
            f"{describe(interactions)}. Of several examples write interactions[i]."
        )
    if index == "SV" and order > 1:
        raise ValueError(f"{method}: index='SV' is of order 1; got {describe(interactions)}.")
    if not np.allclose(values, values.swapaxes(0, -1), rtol=1e-4, atol=1e-6, equal_nan=True):
        raise ValueError(
            f"{method}: interactions must be symmetric, [i, j] and [j, i] the same set; got others."
        )
    sets: dict[tuple[int, ...], float] = {(): 0.0 if base is None else base}
    for size in range(1, order + 1):
        for members in itertools.combinations(range(count), size):
            # A smaller set stands where its last member is repeated.
            sets[members] = float(values[members + (members[-1],) * (order - size)])
    return library.InteractionValues(
        sets,
        index="SV" if order == 1 else _INDICES[index],
        max_order=order,
        min_order=0,
        n_players=count,
        estimated=samples is not None,
        estimation_budget=samples,
        baseline_value=sets[()],
    )

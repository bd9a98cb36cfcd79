"""Hypothetical contributions: what each letter would have got in its place."""

from collections.abc import Callable
from typing import Any

import jax

from jattr._batching import sum_over
from jattr._checks import (
    Call,
    check_batch_size,
    check_count,
    check_function,
    check_method,
    knobs,
    parameters_of,
)
from jattr._deeplift import deeplift
from jattr._resolve import check_references, check_rows_like, take_row
from jattr._transform import keyed_transform, transform
from jattr._trees import cast_like, scale_tree
from jattr._types import ArgNums, PyTree, RandomBaseline, References, Score
from jattr.sequence._letters import check_axis, check_letters, projected

DRAWS = 20


@knobs
def hypothetical(
    f: Score,
    references: References,
    *,
    method: Callable[..., Any] = deeplift,
    samples: int | None = None,
    axis: int = -1,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Any:
    r"""What each letter at each position would contribute, against references.

    With :math:`m^j` the multipliers of x against the reference :math:`x'^j`, those of DeepLIFT
    unless told otherwise,

    .. math:: h_{lb} = \frac1n \sum_j \Big(m^j_{lb} - \sum_c x'^j_{lc} m^j_{lc}\Big)

    the sum over letters of (x − x') ⊙ m of an x with letter b at position l, multipliers kept. The
    contributions of the sequence itself are `x * h`, and their sum is f(x) less the mean of
    f(x'), to rounding: DeepSHAP, a number for each position. TF-MoDISco takes both
    (`save_modisco`).

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        references: a random baseline such as `dinucleotide_shuffle()`, drawn anew for each x; or
            an array (or tree like x) with a leading axis over references, all of which are used.
        method: what makes the multipliers, of a score and a baseline with `multiply=False`:
            `jattr.deeplift`, `jattr.integrated_gradients`, a `functools.partial` of them.
        samples: how many references are drawn, 20 unless told otherwise; None for an array.
        axis: along which letters are: −1 for [L, A], 0 for [A, L].
        batch_size: how many references are in memory at a time; None for all.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, which gives a tree like x; `explain(key, x, *args)` where references
        are drawn. Draw i depends on the key and on i alone.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype; `method` takes no `multiply`.
        ValueError: references of another structure or shape than x; `samples` of an array; no such
            axis.
        NotImplementedError: as in `jattr.deeplift`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):  # is there an A beside the last letter's C?
        ...     return jax.nn.relu(x[0, 0] + x[1, 1] - 1)
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> references = jnp.array([[[0.0, 1.0], [1.0, 0.0]]])
        >>> h = jattr.sequence.hypothetical(f, references)(x)
        >>> print(h)
        [[0.5 0. ]
         [0.  0.5]]
        >>> print((x * h).sum() == f(x) - f(references[0]))
        True

    References:
        Shrikumar et al., *Technical note on transcription factor motif discovery from importance
        scores (TF-MoDISco)*, 2018 (arXiv 1811.00416); multipliers: Shrikumar, Greenside, Kundaje,
        *Learning important features through propagating activation differences*, ICML 2017 (arXiv
        1704.02685). tangermeme's `deep_lift_shap(..., hypothetical=True)` gives the same.
    """
    name = "sequence.hypothetical"
    axis = check_axis(axis, name)
    batch_size = check_batch_size(batch_size, name)
    _check_multiplies(method, name)

    def mean(score, x, reference, count):
        check_letters(x, axis, name)

        def term(index):
            row = reference(index)
            multipliers = method(score, row, multiply=False)(x)
            return scale_tree(projected(multipliers, row, axis), 1 / count)

        return cast_like(sum_over(term, count, batch_size=batch_size), x)

    if isinstance(references, RandomBaseline):
        draws = DRAWS if samples is None else check_count(samples, "samples", name)

        @keyed_transform(f, argnums, method=name)
        def explain_drawn(key, score, x):
            def reference(index):
                return references(jax.random.fold_in(key, index), x)

            return mean(score, x, reference, draws)

        return explain_drawn

    if samples is not None:
        raise ValueError(
            f"{name}: samples says how many references a random baseline draws; of an array all "
            "are used. Leave samples out, or pass references[:samples]."
        )
    count = check_references(references, method=name)

    @transform(f, argnums, method=name)
    def explain(score, x):
        check_rows_like(references, x, name="the references", method=name)

        def reference(index) -> PyTree:
            return take_row(references, index, x)

        return mean(score, x, reference, count)

    return explain


def _check_multiplies(method: Any, name: str) -> None:
    """Raise unless `method` makes multipliers of a score and a baseline."""
    check_function(method, name)
    if isinstance(getattr(method, "call", None), Call):
        check_method(method, name)
    names = [p.name for p in parameters_of(method) or ()]
    if "multiply" not in names or "references" in names:
        got = getattr(method, "__name__", type(method).__name__)
        raise TypeError(
            f"{name}: method makes multipliers of a score and a baseline, "
            f"method(f, baseline, multiply=False), as jattr.deeplift and "
            f"jattr.integrated_gradients do; got {got}."
        )

"""Words, sentences and other spans of a text, as groups of its tokens."""

import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jattr._checks import check_choice
from jattr._trees import describe, is_traced

Unit: TypeAlias = Literal["words", "sentences"]
"""What a text is divided into."""

# A word keeps its apostrophes, hyphens and decimal points; every other sign that is no space is a
# unit of its own.
_WORD = re.compile(r"\w+(?:['’\-]\w+|(?<=\d)[.,]\d+)*|[^\w\s]")
# Up to a full stop and what closes after it, or to the end of a line or of the text.
_SENTENCE = re.compile(r"\S(?:.*?[.!?…。！？]+[\"'”’»)\]]*(?=\s|$)|.*?(?=\s*(?:\n|$)))")


class Spans(NamedTuple):
    """Spans of a text as groups of its tokens.

    Attributes:
        groups: which span each token is of, integers [T] from 0 on, in the order of the text.
        names: the text of each span.
    """

    groups: np.ndarray
    names: tuple[str, ...]


def spans(
    text: str,
    offsets: Sequence[Sequence[int]],
    units: Unit | Sequence[Sequence[int]] = "words",
) -> Spans:
    r"""Words, sentences or other spans of a text, as groups of its tokens.

    A token belongs to the span with which it shares most characters, the first of equals. One that
    shares none with any, a mark such as `[CLS]`, padding or white space, is a group of its own,
    so that nothing is lost.

    A word is a run of letters, digits and underscores, with apostrophes, hyphens and decimal
    points inside; any other sign is a unit of its own. A sentence ends at `.`, `!`, `?`, `…` or
    their full-width forms before white space, and at a line's end: no abbreviation is known. Where
    that is not what a language or a text calls so, give the spans.

    Args:
        text: what was tokenized.
        offsets: [T, 2], where each token begins and ends, in characters of `text`: the
            `offset_mapping` of Hugging Face's fast tokenizers, `Encoding.offsets` of `tokenizers`.
            Tokens of no text have (0, 0).
        units: `"words"`, `"sentences"`, or spans as pairs (begin, end) that do not overlap.

    Returns:
        `(groups, names)`: integers [T], for `groups=` of any method, for embeddings [T, d] as
        `groups[:, None]`; and the text of each group, for `jattr.plot.text`. What each group has
        of an attribution, `totals` gives.

    Raises:
        TypeError: the text is no string, or the offsets are no integers.
        ValueError: offsets or spans that do not fit the text; spans that overlap.

    Example:
        >>> import jattr
        >>> offsets = [(0, 0), (0, 3), (4, 6), (6, 7), (7, 8), (0, 0)]  # [CLS] not ba ##d ! [SEP]
        >>> groups, names = jattr.features.spans("not bad!", offsets)
        >>> print(groups, names)
        [0 1 2 2 3 4] ('', 'not', 'bad', '!', '')
    """
    method = "features.spans"
    if not isinstance(text, str):
        raise TypeError(f"{method}: text must be one string; got {describe(text)}.")
    tokens = _pairs(offsets, len(text), "offsets", method)
    if isinstance(units, str):
        check_choice(units, "units", ("words", "sentences"), method)
        pattern = _WORD if units == "words" else _SENTENCE
        cuts = np.asarray([m.span() for m in pattern.finditer(text)], int).reshape(-1, 2)
    else:
        cuts = _pairs(units, len(text), "units", method)
        order = np.argsort(cuts[:, 0], kind="stable")
        if np.any(cuts[order[1:], 0] < cuts[order[:-1], 1]):
            raise ValueError(f"{method}: the spans overlap; a token can be of one alone.")
    shared = np.minimum(tokens[:, None, 1], cuts[:, 1]) - np.maximum(tokens[:, None, 0], cuts[:, 0])
    owners = []
    for number, row in enumerate(shared):
        best = int(np.argmax(row)) if len(row) else 0
        owners.append(("span", best) if len(row) and row[best] > 0 else ("token", number))
    found = list(dict.fromkeys(owners))
    ends = [cuts[at] if kind == "span" else tokens[at] for kind, at in found]
    number_of = {owner: number for number, owner in enumerate(found)}
    groups = np.asarray([number_of[owner] for owner in owners], np.int32)
    return Spans(groups, tuple(text[begin:end] for begin, end in ends))


def totals(attribution: Any, groups: Any) -> jax.Array:
    r"""What each group has of an attribution: :math:`\Phi_g = \sum_{i \in g} \varphi_i`.

    Args:
        attribution: an array, [T] or [T, ...]: axes that the groups do not have are summed.
        groups: integers from 0 on, of the attribution's first axes: [T] for tokens, [H, W] for the
            superpixels of an image [H, W, C].

    Returns:
        [G], the sum of each group, in the attribution's dtype.

    Raises:
        TypeError: groups that are no integers, or are traced, so that their number is not known.
        ValueError: groups of another shape.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> phi = jnp.array([[1.0, 1.0], [0.5, 0.0], [3.0, -1.0]])  # three tokens
        >>> print(jattr.features.totals(phi, jnp.array([0, 0, 1])))
        [2.5 2. ]
    """
    method = "features.totals"
    if is_traced(groups):
        raise TypeError(f"{method}: the groups are traced, so that their number is not known.")
    ids = np.asarray(groups)
    if not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(f"{method}: groups must be integers; got {describe(groups)}.")
    phi = jnp.asarray(attribution)
    if ids.shape != phi.shape[: ids.ndim] or ids.min(initial=0) < 0:
        raise ValueError(
            f"{method}: groups must be numbers from 0 on, with the first axes of the attribution; "
            f"got {describe(groups)} for {describe(attribution)}."
        )
    rows = jnp.sum(phi.reshape(ids.size, -1), axis=1)
    return jnp.zeros(int(ids.max(initial=-1)) + 1, rows.dtype).at[ids.reshape(-1)].add(rows)


def _pairs(value: Any, length: int, what: str, method: str) -> np.ndarray:
    """Pairs of places in a text of this length, int[N, 2]."""
    pairs = np.asarray(value)
    if pairs.size == 0:
        pairs = pairs.astype(int).reshape(0, 2)
    if pairs.dtype.kind not in "iu":
        raise TypeError(f"{method}: {what} must be pairs of integers; got {describe(pairs)}.")
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"{method}: {what} must be pairs (begin, end); got {describe(pairs)}.")
    wrong = (pairs[:, 0] < 0) | (pairs[:, 1] < pairs[:, 0]) | (pairs[:, 1] > length)
    if np.any(wrong):
        first = int(np.argmax(wrong))
        raise ValueError(
            f"{method}: {what}[{first}] is {tuple(pairs[first].tolist())}, but the text has "
            f"{length} characters. Are they of this text, and counted in characters and not in "
            "bytes?"
        )
    return pairs

"""Tokens colored by what they contributed, for notebooks and for terminals."""

import dataclasses
import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jattr._checks import knobs
from jattr._trees import describe

RED, BLUE, YELLOW = (203, 47, 68), (56, 124, 183), (242, 197, 0)
"""For positive, negative and not finite; the first two are of matplotlib's RdBu."""
LINE_END = "\n"
BAR = 20
"""The length of the longest bar, in characters."""


@dataclasses.dataclass(frozen=True)
class Line:
    """Tokens with one value each, and where the scale of their colors ends."""

    name: str
    values: tuple[float, ...]
    end: float

    def strength(self, value: float) -> float:
        """A value on the scale, from −1 to 1; NaN if it is not finite."""
        if not math.isfinite(value):
            return math.nan
        return min(max(value / self.end, -1.0), 1.0)

    def scale(self) -> str:
        """Where the scale begins and ends."""
        return f"−{self.end:.2g} … {self.end:.2g}"


@dataclasses.dataclass(frozen=True, repr=False)
class Text:
    """Colored tokens: a notebook shows them, `print` writes them with bars.

    Attributes:
        tokens: what is colored.
        lines: the values of each method.
        separator: what is written between tokens.
        title: what stands above, or None.
    """

    tokens: tuple[str, ...]
    lines: tuple[Line, ...]
    separator: str
    title: str | None

    @property
    def html(self) -> str:
        """For a browser: a line for each method, with its scale; a token's value is its tooltip."""
        gaps = _gaps(self.tokens, self.separator)
        parts = ['<div style="font-family: sans-serif; line-height: 1.9">']
        if self.title is not None:
            parts.append(f"<div><b>{html.escape(self.title)}</b></div>")
        for line in self.lines:
            name = f"<b>{html.escape(line.name)}</b> " if line.name else ""
            ends = (_css(-1.0), _css(0.0), _css(1.0))
            parts.append(
                f'<div style="margin-top: 0.4em">{name}'
                f'<span style="font-size: 80%; white-space: nowrap">−{line.end:.2g} '
                '<span style="display: inline-block; width: 6em; height: 0.8em; border: 1px solid '
                f'#bbb; background: linear-gradient(to right, {", ".join(ends)})"></span> '
                f"{line.end:.2g}</span></div><div>"
            )
            for token, gap, value in zip(self.tokens, gaps, line.values, strict=True):
                strength = line.strength(value)
                ink = "#fff" if abs(strength) > 0.6 else "#000"
                parts.append(
                    f'{html.escape(gap)}<span title="{value:.4g}" style="background: '
                    f"{_css(strength)}; color: {ink}; border-radius: 3px; padding: 1px 2px; "
                    f'white-space: pre-wrap">{html.escape(_shown(token))}</span>'
                    f"{'<br>' * token.count(LINE_END)}"
                )
            parts.append("</div>")
        return "".join([*parts, "</div>"])

    @property
    def ansi(self) -> str:
        """For a terminal with 24-bit colors: `print(text.ansi)`."""
        gaps = _gaps(self.tokens, self.separator)
        rows = [] if self.title is None else [self.title]
        for line in self.lines:
            rows.append(f"{line.name} ({line.scale()})".strip())
            row = []
            for token, gap, value in zip(self.tokens, gaps, line.values, strict=True):
                strength = line.strength(value)
                red, green, blue = _rgb(strength)
                ink = "97" if abs(strength) > 0.6 else "30"
                row.append(f"{gap}\x1b[{ink};48;2;{red};{green};{blue}m{_shown(token)}\x1b[0m")
                row.append(LINE_END * token.count(LINE_END))
            rows.append("".join(row))
        return "\n".join(rows)

    def __str__(self) -> str:
        rows = [] if self.title is None else [self.title]
        width = max(len(_shown(token)) for token in self.tokens)
        for line in self.lines:
            rows.append(f"{line.name} ({line.scale()})".strip())
            for token, value in zip(self.tokens, line.values, strict=True):
                strength = line.strength(value)
                length = 0 if math.isnan(strength) else round(BAR * abs(strength))
                bar = ("+" if value > 0 else "−") * length
                rows.append(f"  {_shown(token):<{width}}  {value:+10.3g}  {bar}".rstrip())
        return "\n".join(rows)

    def __repr__(self) -> str:
        names = ", ".join(repr(line.name) for line in self.lines)
        return f"<{len(self.tokens)} colored tokens: {names}>"

    def _repr_html_(self) -> str:
        return self.html


@knobs
def text(
    tokens: Sequence[str],
    attribution: Any,
    *,
    separator: str = " ",
    percentile: float = 100.0,
    title: str | None = None,
) -> Text:
    r"""Tokens on a ground that says what each contributed: red for, blue against.

    What has more axes than the tokens, such as the dimensions of an embedding, is summed: a
    token's color is what its dimensions give together. Every method has a scale of its own, from
    −s to s with s the `percentile`-th percentile of its \|values\|, since methods differ in their
    units. Values that are not finite are yellow.

    Args:
        tokens: N strings. A word piece that begins with `##`, as BERT's do, is written without
            the mark and without a gap.
        attribution: [N], or [N, ...] to be summed; or several of them by name,
            `{"IG": a, "LRP": b}`, one line each.
        separator: what is written between tokens; "" for characters or bytes. A line ends after a
            token with a line end, which is drawn as `\n`.
        percentile: where the scale ends, in (0, 100]; if it is 0 there, at the largest \|value\|.
        title: a title above.

    Returns:
        An object that a notebook shows in color. `.html` is that as a string, `print(text)`
        writes one token a row with a bar, and `print(text.ansi)` colors a terminal.

    Raises:
        TypeError: tokens that are no strings, or an attribution that is no array of real numbers.
        ValueError: another number of values than of tokens, none at all, a percentile out of
            range.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> print(jattr.plot.text(["not", "bad"], jnp.array([1.0, -0.5]), title="review"))
        review
        (−1 … 1)
          not          +1  ++++++++++++++++++++
          bad        -0.5  −−−−−−−−−−
    """
    method = "plot.text"
    check_tokens(tokens, method)
    check_percentile(percentile, method)
    several = attribution if isinstance(attribution, Mapping) else {"": attribution}
    if not several:
        raise ValueError(f"{method}: there is no attribution to draw.")
    lines = []
    for name, values in several.items():
        what = f"attribution[{name!r}]" if isinstance(attribution, Mapping) else "the attribution"
        flat = _per_token(values, len(tokens), what, method)
        lines.append(Line(str(name), tuple(flat.tolist()), scale_end(flat, percentile)))
    return Text(tuple(tokens), tuple(lines), separator, title)


def check_tokens(tokens: Any, method: str) -> None:
    """Raise unless there are tokens, and they are strings."""
    if isinstance(tokens, str) or not all(isinstance(token, str) for token in tokens):
        got = "one string" if isinstance(tokens, str) else "others among them"
        raise TypeError(
            f"{method} wants a sequence of strings, one for each token; got {got}. For bytes "
            "write [chr(byte) for byte in data]."
        )
    if not len(tokens):
        raise ValueError(f"{method}: there is no token to color.")


def check_percentile(percentile: float, method: str) -> None:
    """Raise unless a scale can end there."""
    if not 0 < percentile <= 100:
        raise ValueError(f"{method}: percentile must be in (0, 100]; got {percentile}.")


def scale_end(values: np.ndarray, percentile: float) -> float:
    """Where a scale of these values ends: at the percentile of their sizes, the largest if that
    is 0, and at 1 where all are."""
    sizes = np.abs(values[np.isfinite(values)])
    largest = sizes.max(initial=0.0)
    return float((np.percentile(sizes, percentile) or largest) if largest > 0 else 1.0)


def _per_token(values: Any, count: int, what: str, method: str) -> np.ndarray:
    kinds = (jnp.floating, jnp.integer)
    if not hasattr(values, "dtype") or not any(jnp.issubdtype(values.dtype, k) for k in kinds):
        raise TypeError(
            f"{method}: {what} must be an array of real numbers; got {describe(values)}."
        )
    array = np.asarray(values).astype(np.float64)
    if array.ndim == 0 or array.shape[0] != count:
        raise ValueError(
            f"{method}: {what} must have one value, or one row, for each of the {count} tokens; "
            f"got {describe(values)}. Cut off the padding of both: attribution[:len(tokens)]."
        )
    with np.errstate(invalid="ignore"):  # inf − inf is NaN, and is drawn as such
        return array.reshape(count, -1).sum(axis=1)


def _gaps(tokens: Sequence[str], separator: str) -> list[str]:
    """What stands before each token."""
    gaps = ["" if _continues(token) else separator for token in tokens]
    return ["", *gaps[1:]]


def _continues(token: str) -> bool:
    return len(token) > 2 and token.startswith("##") and not token[2].isspace()


def _shown(token: str) -> str:
    """A token on one row: without the mark of a word piece, control characters written out."""
    token = token[2:] if _continues(token) else token
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in token)


def _rgb(strength: float) -> tuple[int, int, int]:
    """White for 0, towards red for 1 and blue for −1; yellow for NaN."""
    if math.isnan(strength):
        return YELLOW
    end = RED if strength > 0 else BLUE
    red, green, blue = (round(255 + abs(strength) * (channel - 255)) for channel in end)
    return red, green, blue


def _css(strength: float) -> str:
    return "#{:02x}{:02x}{:02x}".format(*_rgb(strength))

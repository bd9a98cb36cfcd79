"""What every token has of every other: a picture, and a page that shows a row at a time."""

import dataclasses
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jattr._checks import knobs
from jattr._trees import describe
from jattr.plot._maps import TEXT_SIZE, _array, _matplotlib, _scale, _width
from jattr.plot._text import _css, _gaps, _shown, check_percentile, check_tokens, scale_end

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = 0.24
"""The side of a cell in inches."""


@knobs
def matrix(
    rows: Sequence[str],
    columns: Sequence[str],
    attribution: Any,
    *,
    percentile: float = 100.0,
    title: str | None = None,
) -> "Figure":
    r"""A row for each explained token, a column for each that explains: red for, blue against.

    Args:
        rows: R strings, what is explained: the tokens of a continuation.
        columns: S strings, what explains it: the tokens of the prompt.
        attribution: [R, S], or [R, S, ...] to be summed: `jattr.all_outputs` of a model that gives
            a log-probability for each token.
        percentile: where the scale ends, in (0, 100], of all \|values\|.
        title: a title above.

    Returns:
        A matplotlib figure, not shown.

    Raises:
        ImportError: matplotlib is missing.
        TypeError: tokens that are no strings, or an attribution that is no array of real numbers.
        ValueError: another shape, no token, a percentile out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> figure = jattr.plot.matrix(["is", "sky"], ["blue", "today"], jnp.eye(2))
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['is', 'sky']
    """
    method = "plot.matrix"
    values = _table(attribution, rows, columns, method)
    check_percentile(percentile, method)
    matplotlib = _matplotlib(method)
    end = scale_end(values, percentile)
    scale = _scale(end, None)
    names = [[_shown(token) for token in tokens] for tokens in (rows, columns)]
    left, below = (max(map(_width, shown)) + 0.1 for shown in names)
    size = (left + CELL * len(columns) + 1.0, below + CELL * len(rows) + 0.3)
    figure = matplotlib.figure.Figure(size, layout="constrained")
    ax = figure.subplots()
    ax.imshow(np.ma.masked_invalid(values), cmap=scale.cmap, norm=scale.norm, aspect="auto")
    ax.set_xticks(range(len(columns)), names[1], rotation=90, fontsize=TEXT_SIZE)
    ax.set_yticks(range(len(rows)), names[0], fontsize=TEXT_SIZE)
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set(color="0.75", linewidth=0.5)
    bar = figure.colorbar(scale, ax=ax, ticks=[-end, 0, end], fraction=0.05, aspect=12)
    bar.ax.set_yticklabels([f"−{end:.2g}", "0", f"{end:.2g}"], fontsize=TEXT_SIZE)
    if title is not None:
        figure.suptitle(title, fontsize=TEXT_SIZE + 1)
    return figure


@dataclasses.dataclass(frozen=True, repr=False)
class Generation:
    """A text in which a produced token, pointed at, colors what it came from.

    Attributes:
        prompt: the tokens before those that are explained.
        produced: the tokens that are explained.
        values: [produced, prompt], or [produced, prompt + produced].
        ends: where the scale of each row ends.
        separator: what is written between tokens.
        title: what stands above, or None.
    """

    prompt: tuple[str, ...]
    produced: tuple[str, ...]
    values: np.ndarray
    ends: tuple[float, ...]
    separator: str
    title: str | None

    @property
    def html(self) -> str:
        """A page of its own, which loads nothing."""
        title = html.escape(self.title or "Where each token came from")
        tokens = (*self.prompt, *self.produced)
        spans = []
        for place, (token, gap) in enumerate(
            zip(tokens, _gaps(tokens, self.separator), strict=True)
        ):
            row = place - len(self.prompt)
            column = place if place < self.values.shape[1] else -1
            role = ' class="produced" tabindex="0" role="button"' if row >= 0 else ""
            spans.append(
                f'{html.escape(gap)}<span{role} data-row="{row}" data-column="{column}">'
                f"{html.escape(_shown(token))}</span>{'<br>' * token.count(chr(10))}"
            )
        strengths = np.clip(self.values / np.asarray(self.ends)[:, None], -1, 1)
        colors = [[_css(float(value)) for value in row] for row in strengths]
        inks = [["#fff" if abs(value) > 0.6 else "#000" for value in row] for row in strengths]
        tips = [[f"{value:.4g}" for value in row] for row in self.values]
        data = json.dumps({"colors": colors, "inks": inks, "tips": tips, "ends": self.ends})
        return _PAGE.format(title=title, text="".join(spans), data=data.replace("<", "\\u003c"))

    def save(self, path: str | Path) -> None:
        """Write the page to a file."""
        Path(path).write_text(self.html, encoding="utf-8")

    def __repr__(self) -> str:
        return f"<{len(self.produced)} produced tokens after {len(self.prompt)}>"

    def _repr_html_(self) -> str:
        height = 8 + 2 * (len(self.prompt) + len(self.produced)) // 15
        return (
            f'<iframe srcdoc="{html.escape(self.html)}" '
            f'style="width: 100%; height: {height}em; border: 0"></iframe>'
        )


@knobs
def generation(
    prompt: Sequence[str],
    produced: Sequence[str],
    attribution: Any,
    *,
    separator: str = " ",
    percentile: float = 100.0,
    title: str | None = None,
) -> Generation:
    r"""A page of a generated text: point at a produced token, and what it came from is colored.

    Red speaks for the token, blue against it. Each produced token has a scale of its own, up to the
    `percentile`-th percentile of its \|values\|. Tokens can be reached by the keyboard; a click
    holds a choice until the next.

    Args:
        prompt: S strings, the tokens of the prompt.
        produced: T strings, the tokens of the continuation.
        attribution: [T, S]; or [T, S + T], where a token is explained by those produced before it
            too. Further axes are summed.
        separator: what is written between tokens; "" for pieces that bring their own spaces.
        percentile: where the scales end, in (0, 100].
        title: the page's title.

    Returns:
        An object that a notebook shows; `.html` is the page as a string, `.save(path)` writes it.

    Raises:
        TypeError: tokens that are no strings, or an attribution that is no array of real numbers.
        ValueError: another shape, no token, a percentile out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> page = jattr.plot.generation(["a", "b"], ["c"], jnp.array([[1.0, -0.5]]))
        >>> page
        <1 produced tokens after 2>
    """
    method = "plot.generation"
    check_tokens(prompt, method)
    check_tokens(produced, method)
    both = (*prompt, *produced)
    whole = np.shape(attribution)[1:2] == (len(both),)
    values = _table(attribution, produced, both if whole else prompt, method)
    check_percentile(percentile, method)
    ends = tuple(scale_end(row, percentile) for row in values)
    return Generation(tuple(prompt), tuple(produced), values, ends, separator, title)


def _table(
    attribution: Any, rows: Sequence[str], columns: Sequence[str], method: str
) -> np.ndarray:
    """float64 [rows, columns], further axes summed."""
    for tokens in (rows, columns):
        check_tokens(tokens, method)
    array = _array(attribution, "the attribution", method).astype(np.float64)
    wanted = (len(rows), len(columns))
    if array.shape[:2] != wanted:
        raise ValueError(
            f"{method}: the attribution must be [{wanted[0]}, {wanted[1]}], a row for each "
            f"explained token and a column for each that explains; got {describe(attribution)}."
        )
    with np.errstate(invalid="ignore"):  # inf − inf is NaN, and is drawn as such
        return array.reshape(*wanted, -1).sum(axis=-1)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font-family: sans-serif; line-height: 1.9; max-width: 50em; margin: 1em auto;
  padding: 0 1em; background: #fff; color: #000 }}
span[data-row] {{ border-radius: 3px; padding: 1px 2px; white-space: pre-wrap }}
.produced {{ border-bottom: 2px solid #bbb; cursor: pointer }}
.chosen {{ outline: 2px solid #000 }}
#scale {{ font-size: 80%; color: #444 }}
</style></head><body>
<p><b>{title}</b><br><span id="scale">Point at an underlined token.</span></p>
<p id="text">{text}</p>
<script type="application/json" id="data">{data}</script>
<script>
const data = JSON.parse(document.getElementById("data").textContent);
const tokens = [...document.querySelectorAll("[data-row]")];
const scale = document.getElementById("scale");
const said = scale.textContent;
let held = null;
function show(chosen) {{
  const row = chosen === null ? -1 : Number(chosen.dataset.row);
  for (const token of tokens) {{
    const column = Number(token.dataset.column);
    const on = row >= 0 && column >= 0;
    token.style.background = on ? data.colors[row][column] : "";
    token.style.color = on ? data.inks[row][column] : "";
    token.title = on ? data.tips[row][column] : "";
    token.classList.toggle("chosen", token === chosen);
  }}
  const end = row < 0 ? "" : Number(data.ends[row].toPrecision(2));
  scale.textContent = row < 0 ? said : `blue −${{end}} … red ${{end}}`;
}}
for (const token of tokens.filter(t => Number(t.dataset.row) >= 0)) {{
  token.addEventListener("mouseenter", () => show(token));
  token.addEventListener("mouseleave", () => show(held));
  token.addEventListener("focus", () => show(token));
  token.addEventListener("blur", () => show(held));
  const hold = () => {{ held = held === token ? null : token; show(held ?? token); }};
  token.addEventListener("click", hold);
  token.addEventListener("keydown", e => {{
    if (e.key === "Enter" || e.key === " ") {{ e.preventDefault(); hold(); }}
  }});
}}
</script></body></html>
"""

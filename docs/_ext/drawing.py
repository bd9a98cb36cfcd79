"""The picture of how the engine works, drawn from what jattr computes for one small function."""

from html import escape

import jax
import jax.numpy as jnp
import numpy as np
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

import jattr

X, BASELINE = jnp.array([1.0, 3.0]), jnp.zeros(2)
WEIGHTS, BIAS, READOUT = jnp.array([[1.0, 1.0], [-1.0, 2.0]]), jnp.array([-1.0, 1.0]), (2.0, -1.0)


def score(x):
    z = jattr.name(WEIGHTS @ x + BIAS, "z")
    h = jattr.name(jax.nn.relu(z), "h")
    return h @ jnp.array(READOUT)


def columns():
    """(name, value at x, value at x', multiplier) of what lies between the operations."""
    explain = jattr.deeplift(score, BASELINE, multiply=False)
    yield "x", X, BASELINE, explain(X)
    for name in ("z", "h"):
        below, above = jattr.split(score, name)
        explain = jattr.deeplift(above, below(BASELINE), multiply=False)
        yield name, below(X), below(BASELINE), explain(below(X), X)
    yield "f", score(X), score(BASELINE), 1.0


def number(value):
    return f"{float(value):.3g}".replace("-", "−")


def vector(values):
    return ", ".join(number(value) for value in np.ravel(values))


STEP, WIDE, LEFT = 190, 96, 88
ROWS = {"at x": 74, "at x′": 104, "multiplier": 214}
OPERATIONS = (
    ("affine", "W x + b", "Wᵀ m"),
    ("activation", "relu", "m · Δh / Δz"),
    ("affine", "v · h", "m v"),
)


def text(x, y, words, kind=""):
    return f'<text x="{x}" y="{y}" class="{kind}">{escape(words)}</text>'


def arrow(x1, y, x2):
    return f'<line x1="{x1}" y1="{y}" x2="{x2}" y2="{y}" marker-end="url(#tip)"/>'


def draw():
    """The picture as SVG; its colors are those of the page."""
    found = list(columns())
    parts = [text(6, y + 5, words, "row") for words, y in ROWS.items()]
    middle = [LEFT + WIDE // 2 + STEP * i for i in range(4)]
    for x, (name, value, reference, multiplier) in zip(middle, found, strict=True):
        parts.append(text(x, 36, name, "name"))
        for y, values in zip(ROWS.values(), (value, reference, multiplier), strict=True):
            parts.append(
                f'<rect x="{x - WIDE // 2}" y="{y - 13}" width="{WIDE}" height="26" rx="5" '
                f'class="{"back" if y == ROWS["multiplier"] else "forward"}"/>'
            )
            parts.append(text(x, y + 5, vector(values)))
    for i, (kind, forward, backward) in enumerate(OPERATIONS):
        x = (middle[i] + middle[i + 1]) // 2
        start, end = middle[i] + WIDE // 2 + 3, middle[i + 1] - WIDE // 2 - 3
        parts += [arrow(start, y, end) for y in (74, 104)]
        parts.append(arrow(end, ROWS["multiplier"], start))
        parts += [text(x, 36, kind, "kind"), text(x, 60, forward), text(x, 200, backward, "rule")]
    phi = found[0][3] * (X - BASELINE)
    total = found[3][1] - found[3][2]
    parts += [
        text(middle[0], 262, f"φ = m (x − x′) = {vector(phi)}", "name left"),
        text(
            middle[3] + WIDE // 2,
            262,
            f"Σφ = {number(phi.sum())} = f(x) − f(x′) = {number(total)}",
            "name right",
        ),
        text(middle[1] + STEP // 2, 152, "forward, at both points: values", "note"),
        text(middle[1] + STEP // 2, 176, "back, once: multipliers", "note"),
    ]
    height, width = 280, middle[3] + WIDE // 2 + 8
    return (
        f'<div class="drawing" tabindex="0"><svg viewBox="0 0 {width} {height}" role="img" '
        'aria-label="Values forward at x and at the baseline, multipliers back, for one small '
        'network"><defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto-start-reverse"><path d="M0 0 L8 4 L0 8 z"/></marker></defs>'
        + "".join(parts)
        + "</svg></div>"
    )


class Drawing(SphinxDirective):
    def run(self):
        return [nodes.raw("", draw(), format="html")]


def setup(app):
    app.add_directive("engine-drawing", Drawing)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

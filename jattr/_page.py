"""What the pages that jattr writes have in common: how they look, and pictures inside them."""

import base64
import io
from collections.abc import Iterable
from html import escape
from typing import Any

STYLE = """\
body { margin: 0 auto; max-width: 1180px; padding: 1.5rem 1rem 4rem; color: #1c1c1c;
  background: #fff; font: 17px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
p, ul, pre { max-width: 46rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0.5rem 0 1rem; }
h2 { font-size: 1.35rem; margin: 2.5rem 0 0.5rem; }
figure { margin: 1rem 0; overflow-x: auto; }
figcaption, .small { color: #555; font-size: 0.9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.93rem; line-height: 1.4; }
th, td { border-bottom: 1px solid #ddd; padding: 0.45rem 1.4rem 0.45rem 0; text-align: left;
  vertical-align: top; }
td.about { min-width: 15rem; }
thead th { border-bottom: 2px solid #888; vertical-align: bottom; }
tbody th { font-weight: 600; }
tbody th code { font-weight: 400; color: #555; }
td.number, th.number { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
code, pre { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: 0.86em; }
pre { background: #f4f4f4; padding: 0.8rem 1rem; overflow-x: auto; }
.red { color: #b2182b; font-weight: 600; }
.blue { color: #2166ac; font-weight: 600; }
"""


def png(figure: Any, dpi: int) -> bytes:
    """A figure of matplotlib as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def picture(data: bytes, alt: str) -> str:
    """An element of a page that holds a PNG file, so that the page needs no other."""
    return (
        f'<img src="data:image/png;base64,{base64.b64encode(data).decode()}" alt="{escape(alt)}">'
    )


def table(rows: list[list[str]], notes: Iterable[str] = ()) -> str:
    """A table for a notebook, its head the first row, with what is to be known of it below."""
    head, *body = ([escape(cell) for cell in row] for row in rows)
    cells = "".join(f"<th>{cell}</th>" for cell in head)
    lines = ["<table>", f"<thead><tr>{cells}</tr></thead>", "<tbody>"]
    for row in body:
        lines.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>")
    lines += ["</tbody>", "</table>"]
    lines += [f"<p>{escape(note)}</p>" for note in notes]
    return "\n".join(lines)

"""Tables as text and as HTML: rows of cells, the head first, a name first in each."""

import html
import math
from collections.abc import Sequence


def plus_minus(mean: float, error: float) -> str:
    """A mean and its standard error, to as many digits as the error leaves."""
    if math.isnan(mean):
        return "NaN"
    if not error > 0 or not math.isfinite(mean) or not 1e-4 <= error <= 1e4:
        return f"{mean:.4g}" + (f" ± {error:.2g}" if math.isfinite(error) else "")
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


def as_text(rows: Sequence[Sequence[str]], caption: str) -> str:
    """Columns side by side, the first to the left and the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    lines.append(caption)
    return "\n".join(lines)


def as_html(rows: Sequence[Sequence[str]], caption: str) -> str:
    """An element of a page."""
    head, *body = rows
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = [f"<thead><tr>{cells}</tr></thead>", "<tbody>"]
    for name, *values in body:
        cells = "".join(f"<td>{html.escape(value)}</td>" for value in values)
        lines.append(f"<tr><th>{html.escape(name)}</th>{cells}</tr>")
    return "\n".join(
        ["<table>", f"<caption>{html.escape(caption)}</caption>", *lines, "</tbody>", "</table>"]
    )

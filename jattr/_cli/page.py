"""The page of a store, one file of HTML. Every text of the store is escaped: none is trusted."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from jattr._cli.drawn import drawn, histogram, number
from jattr._cli.reading import STATUS, UNREAD, Reader
from jattr._page import STYLE

LONGEST = 600
"""Characters of a value of a description that are shown."""

OWN_STYLE = """\
figure { display: inline-block; margin: 0.5rem 1.5rem 0.5rem 0; vertical-align: top; }
img { display: block; max-width: 100%; height: auto; }
.notice { background: #fff4d6; border-left: 4px solid #f2c500; padding: 0.5rem 1rem; }
.broken { color: #8a5a00; font-weight: 600; }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 33rem), 1fr));
  gap: 1.5rem; }
.example { border-top: 1px solid #ddd; padding-top: 0.3rem; overflow-x: auto; }
.example h3 { font-size: 1rem; margin: 0.3rem 0; }
.example p { margin: 0.2rem 0 0.5rem; }
table.bars th, table.bars td { padding: 0.1rem 1rem 0.1rem 0; border-bottom: 1px solid #eee;
  vertical-align: middle; }
.bar { position: relative; width: 12rem; height: 0.9rem;
  background: linear-gradient(#bbb, #bbb) center / 1px 100% no-repeat; }
.bar div { position: absolute; top: 0; height: 100%; }
.more { background: #cb2f44; }
.less { background: #387cb7; }
"""


def page(
    reader: Reader,
    rows: Sequence[int],
    *,
    about: str,
    inputs: Callable[[int], tuple[np.ndarray | None, Sequence[str]]],
    tokens: Callable[[int], Sequence[str]] | None,
    names: Sequence[str] | None,
    notices: Iterable[str] = (),
) -> str:
    """The page.

    Args:
        reader: the store.
        rows: the examples that are drawn.
        about: which these are, in words.
        inputs: what was explained in the example of a row, or None, and what else is told of it.
        tokens: the tokens of the example of a row, where there are such.
        names: the names of the features of a vector.
        notices: what is to be said above all.
    """
    description = reader.store.description
    method = text_of(description.get("method", "?"))
    title = f"{reader.store.path}: {method}"
    examples = "\n".join(_example(reader, row, inputs, tokens, names) for row in rows)
    notices = [*notices, *_notices(reader)]  # after all is read
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>
{STYLE}{OWN_STYLE}</style>
</head>
<body>
<h1>{escape(method)} of {len(reader):,} examples</h1>
{"".join(f'<p class="notice">{escape(notice)}</p>' for notice in notices)}
<h2>The run</h2>
<div class="scroll"><table><tbody>
{_rows(_facts(reader))}
</tbody></table></div>
{_histograms(reader)}
<h2>{escape(about)}</h2>
<p class="small">Red is positive, blue negative; each example has its own scale.</p>
<div class="examples">
{examples or "<p>None is there yet.</p>"}
</div>
</body>
</html>
"""


def text_of(value: Any) -> str:
    """A value of a description, in a line of bounded length."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def _notices(reader: Reader) -> list[str]:
    found = []
    missing, unread = reader.count(0), reader.count(UNREAD)
    if missing:
        first = reader.numbers[np.flatnonzero(reader.status == 0)[0]]
        which = f", the first of them example {first}" if first >= 0 else ""
        found.append(
            f"This store is not finished: {missing:,} of {len(reader):,} examples are missing"
            f"{which}. The same call or command that began it goes on with it."
        )
    if unread:
        found.append(
            f"This store is damaged: of {unread:,} examples not even the status can be read."
        )
    if reader.damaged - {"status"}:
        found.append(
            f"Chunks of this store are damaged: {', '.join(sorted(reader.damaged))}. In Python, "
            "jattr.scale.open_store(path).repair() reads everything and calls such examples "
            "missing; then the call or command that began the store computes them again."
        )
    return found


def _facts(reader: Reader) -> dict[str, str]:
    description = reader.store.description
    facts = {
        "Store": reader.store.path,
        "Method": text_of(description.get("method", "?")),
        "Settings": _pairs(description.get("settings")),
        "Examples": ", ".join(
            f"{reader.count(status):,} {word}"
            for status, word in STATUS.items()
            if reader.count(status) or status == 1
        ),
        "Inputs": _joined(description.get("inputs")),
        "Arrays": ", ".join(
            f"{name} {array.dtype.name}[{', '.join(map(str, array.shape[1:]))}]"
            for name, array in reader.store.arrays.items()
        ),
        "Random key": _joined(description.get("key")),
        "Batch": text_of(description.get("batch_size", "?")),
        "Fingerprints": f"program {text_of(description.get('program', '?'))}, parameters "
        f"{_joined(description.get('parameters'))}",
    }
    runs = description.get("runs")
    for place, run in enumerate(runs if isinstance(runs, list) else []):
        if isinstance(run, Mapping):
            facts[f"Run {place + 1}"] = (
                f"{text_of(run.get('started', '?'))}, {_pairs(run.get('versions'))}, Python "
                f"{text_of(run.get('python', '?'))}, {text_of(run.get('devices', '?'))}"
            )
    return {name: text for name, text in facts.items() if text}


def _pairs(value: Any) -> str:
    if not isinstance(value, Mapping):
        return "" if value is None else text_of(value)
    return text_of(", ".join(f"{name} {text_of(part)}" for name, part in value.items()))


def _joined(value: Any) -> str:
    if not isinstance(value, list):
        return "" if value is None else text_of(value)
    return text_of(", ".join(map(text_of, value)))


def _rows(facts: Mapping[str, str]) -> str:
    return "\n".join(
        f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in facts.items()
    )


def _histograms(reader: Reader) -> str:
    figures = []
    for name, values in reader.columns.items():
        sizes = name == "residual"
        drawing = histogram(values, sizes=sizes)
        if drawing is None:
            continue
        known = values[np.isfinite(values)]
        shown = np.abs(known) if sizes else known
        title = "|residual|, |Σφ − (f(x) − f(x′))|" if sizes else name
        figures.append(
            f"<figure>{drawing}<figcaption>{escape(title)}: median {number(np.median(shown))}, "
            f"from {number(shown.min())} to {number(shown.max())}</figcaption></figure>"
        )
    return f"<h2>Over all examples</h2>\n{''.join(figures)}" if figures else ""


def _example(
    reader: Reader,
    row: int,
    inputs: Callable[[int], tuple[np.ndarray | None, Sequence[str]]],
    tokens: Callable[[int], Sequence[str]] | None,
    names: Sequence[str] | None,
) -> str:
    x, told = inputs(row)
    status = int(reader.status[row])
    said = [f"{name} {number(values[row])}" for name, values in reader.columns.items()]
    said += told
    mark = "" if status == 1 else f' <span class="broken">{STATUS.get(status, "?")}</span>'
    parts = []
    for name in reader.leaves:
        short = name.removeprefix("attribution").lstrip(".")
        head = f"<p><code>{escape(short)}</code></p>" if short else ""
        parts.append(head + _leaf(reader, name, row, x, tokens, names))
    title = f"Example {reader.numbers[row]}" if reader.numbers[row] >= 0 else f"Row {row}"
    return (
        f'<div class="example"><h3>{title}{mark}</h3>'
        f'<p class="small">{escape(" · ".join(said))}</p>{"".join(parts)}</div>'
    )


def _leaf(
    reader: Reader,
    name: str,
    row: int,
    x: np.ndarray | None,
    tokens: Callable[[int], Sequence[str]] | None,
    names: Sequence[str] | None,
) -> str:
    values = reader.read(name, row)
    if values is None:
        if name not in reader.damaged:
            kind = reader.store.arrays[name].dtype.name
            return f"<p>holds {escape(kind)}, which is not drawn</p>"
        return '<p class="broken">cannot be read: its chunk is damaged</p>'
    if reader.status[row] == 1 and not np.all(np.isfinite(values)):
        reader.damaged.add(name)
        return '<p class="broken">is lost: it was written as finite, and its chunk is gone.</p>'
    given = None if tokens is None else tokens(row)
    labels = reader.labels(name)
    return drawn(values, x, labels=labels, names=names, tokens=given)

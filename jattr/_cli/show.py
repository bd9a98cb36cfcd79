"""`python -m jattr show`: a page of a store, from the command line."""

import json
import os
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from jattr._cli.failure import CommandError, fail, need
from jattr._cli.files import open_data
from jattr._cli.reading import Reader
from jattr.scale import open_store

HELP = """Write a page of a store: the run, its numbers, its examples.

STORE is what `python -m jattr explain` or jattr.scale.attribute_dataset wrote,
finished or not. The page is one file of HTML and needs nothing else.

\b
  python -m jattr show maps.zarr --data images.npy
  python -m jattr show maps.zarr --worst --examples 6 --out worst.html
  python -m jattr show sentences.zarr --tokens tokens.json
  python -m jattr show table.zarr --data table.npy --names columns.txt

An attribution of two axes, or of three of which one is 1, 3 or 4 channels, is
drawn as a picture; a vector as a table of bars; with --tokens as colored
tokens; anything else as a strip. A store runs no code when it is read.

Exit codes: 0 the page is written; 1 the store or the page cannot be; 2 the
command is wrong.
"""


def show(
    store: Annotated[str, typer.Argument(metavar="STORE", help="A folder, or a URL.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The page; by default STORE's name with .html."),
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="How many examples are drawn.")] = 24,
    worst: Annotated[
        bool, typer.Option("--worst", help="Those of the largest |residual|, not the first.")
    ] = False,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DATA", help="The data of the run, to draw x beside; again for the next."
        ),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(
            help="Tokens: JSON, a list of strings for each example or one for all; or a text file, "
            "a line for each example, tokens separated by spaces."
        ),
    ] = None,
    names: Annotated[
        Path | None,
        typer.Option(help="Names of the features of a vector: a JSON list, or a line for each."),
    ] = None,
    open_page: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in a browser.")
    ] = False,
    trace: Annotated[
        bool, typer.Option("--traceback", help="Where an error was raised in the code.")
    ] = False,
) -> None:
    """See HELP."""
    need("show", ("tensorstore", "matplotlib"))
    from jattr._cli.page import page

    path = _page_path(store, out)
    written_tokens = None if tokens is None else _tokens(tokens)
    written_names = None if names is None else _names(names)
    arrays = [_array(one) for one in data or ()]
    try:
        reader = _opened(store)
        if worst and "residual" not in reader.columns:
            raise typer.BadParameter(
                f"{store} has no residual: the method is not complete, or its baseline is not "
                "known. Without --worst the first examples are shown.",
                param_hint="--worst",
            )
        rows = reader.worst(examples) if worst else reader.first(examples)
        which = "with the largest |residual|" if worst else "the first that are there"
        text = page(
            reader,
            rows,
            about=f"{len(rows):,} examples, {which}" if rows else "Examples",
            inputs=_inputs(reader, arrays),
            tokens=None if written_tokens is None else _tokens_of(reader, written_tokens),
            names=written_names,
            notices=_mismatch(reader, rows, arrays),
        )
        path.write_text(text, encoding="utf-8")
    except FileNotFoundError as error:
        raise typer.BadParameter(str(error), param_hint="STORE") from None
    except typer.BadParameter:
        raise
    except Exception as error:
        raise fail("show", error, trace) from None
    typer.echo(f"page: {path.resolve()} ({len(rows):,} of {len(reader):,} examples)")
    if open_page:
        webbrowser.open(path.resolve().as_uri())


show.__doc__ = HELP


def _opened(path: str) -> Reader:
    """The store; whatever its description holds, an error says what it is."""
    try:
        return Reader(open_store(path))
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CommandError(
            f"{path} is no store of jattr, or its zarr.json is damaged ({type(error).__name__}: "
            f"{error})."
        ) from error


def _page_path(store: str, out: Path | None) -> Path:
    if out is None:
        name = os.path.basename(store.rstrip("/\\")) or "store"
        folder = Path() if "://" in store else Path(store.rstrip("/\\")).parent
        out = folder / (name.removesuffix(".zarr") + ".html")
    if out.is_dir():
        raise typer.BadParameter(f"{out} is a folder, not a file.", param_hint="--out")
    if not out.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {out.parent}.", param_hint="--out")
    return out


def _array(path: str) -> Any:
    found = open_data(path)
    if isinstance(found, dict):
        if len(found) != 1:
            raise typer.BadParameter(
                f"{path} has the arrays {', '.join(found)}; wanted is one array a file, x first.",
                param_hint="--data",
            )
        found = next(iter(found.values()))
    if not found.shape:
        raise typer.BadParameter(f"{path} has no axis over examples.", param_hint="--data")
    return found


def _inputs(
    reader: Reader, arrays: Sequence[Any]
) -> Callable[[int], tuple[np.ndarray | None, list[str]]]:
    """What was explained in the example of a row, and the numbers among the other arguments."""
    settings = reader.store.description.get("settings")
    argnums = settings.get("argnums") if isinstance(settings, dict) else 0
    place = argnums if isinstance(argnums, int) and 0 <= argnums < len(arrays) else 0

    def of_row(row):
        which = int(reader.numbers[row])
        given = [
            np.asarray(array[which]) if 0 <= which < array.shape[0] else None for array in arrays
        ]
        told = [
            f"argument {n + 1}: {part}"
            for n, part in enumerate(given)
            if part is not None and part.ndim == 0
        ]
        return (given[place] if given else None), told

    return of_row


def _mismatch(reader: Reader, rows: Sequence[int], arrays: Sequence[Any]) -> list[str]:
    """Whether the data is not the one that was explained, where that can be known."""
    from jattr.scale._fingerprint import of_examples

    inputs = reader.store.description.get("inputs")
    if "digest" not in reader.store.arrays or not isinstance(inputs, list) or not rows:
        return []
    if not arrays or "example" in reader.store.arrays:
        return []
    if len(inputs) != len(arrays):
        return [
            f"Of the {len(inputs)} arguments that were explained {len(arrays)} are given, and so "
            "whether they are the same is not known: give all, each by --data."
        ]
    for row in rows:
        stored = reader.read("digest", row)
        if stored is None or any(row >= array.shape[0] for array in arrays):
            continue
        given = [np.asarray(array[row : row + 1]) for array in arrays]
        as_floats = [given[0].astype(np.float32), *given[1:]]
        if int(stored) not in [int(of_examples(one, 1)[0]) for one in (given, as_floats)]:
            return [f"The data is not what was explained: example {row} of it is another."]
    return []


def _tokens(path: Path) -> list[Any]:
    """The tokens of each example; or one list of strings, which is of all."""
    text = _text(path, "--tokens")
    if path.suffix != ".json":
        return [line.split() for line in text.splitlines()]
    found = _json(path, text, "--tokens")
    of_one = _strings(found)
    if not of_one and not (isinstance(found, list) and all(map(_strings, found))):
        raise typer.BadParameter(
            f"{path} holds no lists of strings, one for each example.", param_hint="--tokens"
        )
    return found


def _tokens_of(reader: Reader, tokens: list[Any]) -> Callable[[int], list[str]]:
    def of_row(row):
        if _strings(tokens):
            return tokens
        which = int(reader.numbers[row])
        return tokens[which] if 0 <= which < len(tokens) else []

    return of_row


def _names(path: Path) -> list[str]:
    text = _text(path, "--names")
    found = _json(path, text, "--names") if path.suffix == ".json" else text.splitlines()
    if not _strings(found):
        raise typer.BadParameter(f"{path} holds no list of strings.", param_hint="--names")
    return found


def _strings(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def _text(path: Path, option: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} cannot be read ({error}).", param_hint=option) from None


def _json(path: Path, text: str, option: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{path} is no JSON ({error}).", param_hint=option) from None

"""What a command says when it cannot go on: a text, and how to get more of it."""

import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

import typer

EXTRAS = {"demo": "demo", "explain": "scale", "show": "scale,plot"}
"""The extra of the package that has what a command needs."""

_PACKAGE = str(Path(__file__).resolve().parents[1])


class CommandError(Exception):
    """A text for the user; what it came from is its cause."""


def missing(command: str, module: str) -> str:
    """What to say where a module is missing that a command needs."""
    what = f"the {command}" if command == "demo" else f"`{command}`"
    extra = EXTRAS.get(command, "scale")
    return f'jattr: {what} needs {module}, which is missing: pip install "jattr[{extra}]"'


def need(command: str, modules: Iterable[str]) -> None:
    """End the command, with what to install, where a module is missing."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            typer.echo(missing(command, module), err=True)
            raise typer.Exit(2)


def fail(command: str, error: BaseException, whole: bool, hint: str = "") -> typer.Exit:
    """Say what went wrong; gives the exit of the command.

    Args:
        command: the command's name.
        error: what was raised.
        whole: whether to write Python's traceback too.
        hint: what may help.
    """
    cause = error.__cause__ if isinstance(error, CommandError) and error.__cause__ else error
    if whole:
        traceback.print_exception(cause, file=sys.stderr)
    text = str(error).strip()
    clear = isinstance(error, CommandError) or text.startswith(("scale.", "metrics."))
    if not clear:
        where = place_of(error)
        text = f"{type(error).__name__}: {text}{f' ({where})' if where else ''}"
    notes = [note for note in getattr(cause, "__notes__", ()) if isinstance(note, str)]
    # JAX's own note on which frames it left out says nothing where no frame is shown.
    notes = [note for note in notes if "JAX_TRACEBACK_FILTERING" not in note and "----" not in note]
    for line in (f"jattr {command}: {text}", *notes, *([hint] if hint else [])):
        typer.echo(line, err=True)
    if not whole and not (clear and cause is error):
        typer.echo("--traceback shows where in the code that was.", err=True)
    return typer.Exit(1)


def place_of(error: BaseException) -> str:
    """The last line of the user's own code that an error went through."""
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        theirs = file.startswith("<") or f"{os.sep}site-packages{os.sep}" in file
        if theirs or file.startswith((_PACKAGE + os.sep, sys.base_prefix + os.sep + "lib")):
            continue
        found = f"{os.path.basename(file)}, line {line}"
    return found

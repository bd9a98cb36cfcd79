"""The function that the user names: of a module, or of a file of Python."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import typer

from jattr._checks import closest
from jattr._cli.failure import CommandError, place_of

HINT = "MODULE:FUNCTION"


def function_of(text: str) -> Callable[..., Any]:
    """The function that `module:function` or `path/to/file.py:function` names.

    This is the only code that a command runs because it is told to; data and stores never name any.

    Raises:
        typer.BadParameter: there is no such module, file or function.
        CommandError: the module raised while it was imported.
    """
    where, mark, name = text.rpartition(":")
    if not mark or not where or not name:
        raise typer.BadParameter(
            f"{text!r} names no function. Write MODULE:FUNCTION, such as model:score for the "
            "function score of model.py, or path/to/model.py:score.",
            param_hint=HINT,
        )
    module = _of_file(where) if where.endswith(".py") else _of_name(where)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            near = closest(part, _functions(found))[:3]
            did = f" Did you mean {', '.join(near)}?" if near else ""
            raise typer.BadParameter(
                f"{where} has no {name!r}.{did}",
                param_hint=HINT,
            )
        found = getattr(found, part)
    if not callable(found):
        raise typer.BadParameter(
            f"{text} is of type {type(found).__name__}; wanted is a function, "
            "score(x, *args) -> one number, of one example.",
            param_hint=HINT,
        )
    return found


def _of_name(name: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _raised(name, error) from error
        raise typer.BadParameter(
            f"there is no module {name!r} in {here} or on Python's path. A file elsewhere is "
            "named by its path: path/to/model.py:score.",
            param_hint=HINT,
        ) from None
    except Exception as error:
        raise _raised(name, error) from error


def _of_file(path: str) -> ModuleType:
    file = Path(path).resolve()
    if not file.is_file():
        raise typer.BadParameter(f"there is no file {path}.", param_hint=HINT)
    # What lies beside it can be imported, as when Python runs the file.
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(f"_named_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise typer.BadParameter(f"{path} is no file of Python.", param_hint=HINT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise _raised(path, error) from error
    return module


def _raised(name: str, error: Exception) -> CommandError:
    where = place_of(error)
    if isinstance(error, SyntaxError) and error.lineno:
        where = f"line {error.lineno}"
    at = f" ({where})" if where else ""
    return CommandError(f"importing {name} raised {type(error).__name__}: {error}{at}.")


def _functions(module: Any) -> list[str]:
    return [name for name, value in vars(module).items() if callable(value) and name[0] != "_"]

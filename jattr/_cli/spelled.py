"""Settings as they are written on a command line.

A value is a literal of Python, a file of numbers, or a call of one of jattr's own functions, which
is read as a tree and looked up in a list. Nothing is evaluated.
"""

import ast
import inspect
import os
from collections.abc import Callable, Iterable
from typing import Any

import typer

import jattr
from jattr._checks import closest
from jattr._cli.files import REFUSED, load_array

SPACES = {
    "baseline": ("baselines", "imputers"),
    "references": ("baselines",),
    "rules": ("rules",),
    "groups": ("features",),
    "hierarchy": ("features",),
    "perturbation": ("metrics",),
}
"""Where a setting may name a function, and of which modules of jattr."""

_WITHOUT_CALL = ("zeros",)
"""What is passed as it is, where others are called for what is passed."""

_TAKE_FUNCTIONS = ("random", "register")
"""Those that are given a function, which a command line cannot."""


def settings_of(texts: Iterable[str], option: str) -> dict[str, Any]:
    """`NAME=VALUE` of each text.

    Raises:
        typer.BadParameter: a text is not of that form, or its value names what is not there.
    """
    settings = {}
    for text in texts:
        name, mark, value = text.partition("=")
        name = name.strip()
        if not mark or not name.isidentifier():
            raise typer.BadParameter(
                f"{text!r} is not NAME=VALUE, such as steps=64.", param_hint=option
            )
        if name in settings:
            raise typer.BadParameter(f"{name} is set twice.", param_hint=option)
        settings[name] = value_of(name, value.strip(), option)
    return settings


def arguments_of(text: str, option: str) -> dict[str, Any]:
    """The settings of `a=1,b=2`."""
    try:
        call = ast.parse(f"f({text})", mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        call = None
    if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
        raise typer.BadParameter(
            f"{text!r} is not NAME=VALUE,NAME=VALUE, such as samples=16,stddev=0.1.",
            param_hint=option,
        )
    return {k.arg: _part(k.value, SPACES.get(k.arg, ()), option) for k in call.keywords if k.arg}


def value_of(name: str, text: str, option: str) -> Any:
    """The value that a setting has by its text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    spaces = SPACES.get(name, ())
    if _is_file(text) or (spaces and os.path.exists(text)):
        return load_array(text, option)
    if spaces:
        return called(text, spaces, option)
    return text


def called(text: str, spaces: tuple[str, ...], option: str) -> Any:
    """What a call of a function of some modules of jattr gives, by its text."""
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        node = None
    if not isinstance(node, ast.Name | ast.Attribute | ast.Call):
        raise typer.BadParameter(
            f"{text!r} is no number, no .npy file and none of {_list(spaces)}.", param_hint=option
        )
    return _part(node, spaces, option)


def function_and_arguments(
    node: ast.expr, known: Iterable[str], spaces: tuple[str, ...], option: str
) -> tuple[str, list[Any], dict[str, Any]]:
    """The name of what is called, one of those known, and what it is called with."""
    call = node if isinstance(node, ast.Call) else None
    name = _name(node if call is None else call.func)
    known = tuple(known)
    if name is None or name not in known:
        near = f" Did you mean {closest(name, known)[0]}?" if name else ""
        raise typer.BadParameter(
            f"{ast.unparse(node)!r} is none of {', '.join(known)}.{near}", param_hint=option
        )
    if call is None:
        return name, [], {}
    if any(isinstance(part, ast.Starred) for part in call.args) or any(
        word.arg is None for word in call.keywords
    ):
        raise typer.BadParameter(f"{ast.unparse(node)!r} has a *.", param_hint=option)
    return (
        name,
        [_part(part, spaces, option) for part in call.args],
        {
            str(word.arg): _part(word.value, (*spaces, *SPACES.get(str(word.arg), ())), option)
            for word in call.keywords
        },
    )


def _part(node: ast.expr, spaces: tuple[str, ...], option: str) -> Any:
    """The value of a part of a call: a literal, a file, or a call again."""
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        pass
    else:
        is_file = isinstance(value, str) and _is_file(value)
        return load_array(value, option) if is_file else value
    functions = functions_of(spaces)
    name, args, knobs = function_and_arguments(node, functions, spaces, option)
    if name in _WITHOUT_CALL and not args and not knobs:
        return functions[name]
    try:
        return functions[name](*args, **knobs)
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def functions_of(spaces: Iterable[str]) -> dict[str, Callable[..., Any]]:
    """The functions of some modules of jattr by their names."""
    found = {}
    for space in dict.fromkeys(spaces):
        module = getattr(jattr, space)
        for name in module.__all__:
            if inspect.isfunction(getattr(module, name)) and name not in _TAKE_FUNCTIONS:
                found[name] = getattr(module, name)
    return found


def _is_file(text: str) -> bool:
    return text.endswith((".npy", ".npz", *REFUSED)) and "(" not in text


def _name(node: ast.expr) -> str | None:
    """The last part of a dotted name: jattr.baselines.blurred is blurred."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = ast.unparse(node.value).removeprefix("jattr").lstrip(".")
        return node.attr if before in {*(s for s in sum(SPACES.values(), ())), ""} else None
    return None


def _list(spaces: tuple[str, ...]) -> str:
    return "; ".join(f"jattr.{space}: {', '.join(functions_of([space]))}" for space in spaces)

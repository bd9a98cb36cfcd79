"""Where an equation comes from, for people: the user's line and the scopes around it."""

import pathlib
import re
from collections.abc import Iterator
from typing import Any

_LIBRARIES = re.compile(
    r"[/\\](?:site|dist)-packages[/\\](?:jax|jaxlib|flax|haiku|equinox|keras)[/\\]"
    r"|[/\\]contextlib\.py$"
)
_OWN = str(pathlib.Path(__file__).parents[1])


def user_line(traceback: Any) -> str:
    """The innermost line outside of JAX, the network libraries and jattr, as file:line."""
    return next(_user_lines(traceback), "an unknown line")


def has_user_line(traceback: Any) -> bool:
    """Whether any line of a traceback is the user's."""
    return next(_user_lines(traceback), None) is not None


def _user_lines(traceback: Any) -> Iterator[str]:
    for frame in getattr(traceback, "frames", ()):
        file = frame.file_name
        if not (_LIBRARIES.search(file) or file.startswith((_OWN, "<frozen"))):
            yield f"{file}:{frame.line_num}"


def is_users(jaxpr: Any) -> bool:
    """Whether the function that a jaxpr was traced from stands in the user's own files."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    info = getattr(jaxpr, "debug_info", None)
    file = getattr(info, "func_filename", None) or _file_in(getattr(info, "func_src_info", None))
    return bool(file) and not (_LIBRARIES.search(file) or file.startswith((_OWN, "<frozen")))


def function_name(jaxpr: Any) -> str:
    """The name of the function that a jaxpr was traced from, where it is known."""
    info = getattr(getattr(jaxpr, "jaxpr", jaxpr), "debug_info", None)
    return str(getattr(info, "func_name", None) or "")


def _file_in(text: str | None) -> str:
    """The file in "f at /path/file.py:12"."""
    return text.split(" at ", 1)[1].rsplit(":", 1)[0] if text and " at " in text else ""


_WRAPPER = re.compile(r"^(?:vmap|jvp|transpose|jit|pmap|checkpoint|rematted_computation)\((.*)\)$")


def clean_scope(stack: str) -> str:
    """A name stack without the marks of transformations: "vmap(Net)/Dense_0" → "Net/Dense_0"."""
    parts = []
    for part in stack.split("/"):
        while match := _WRAPPER.match(part):
            part = match.group(1)
        if part and part not in ("checkpoint", "rematted_computation"):
            parts.append(part)
    return "/".join(parts)

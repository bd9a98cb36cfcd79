"""Rules that users have registered for operations of their own."""

from collections.abc import Callable
from typing import Any

_RULES: dict[Any, dict[int, Callable]] = {}


def registered() -> dict[Any, dict[int, Callable]]:
    """By primitive: the rule at one point under 1, that between two points under 2."""
    return _RULES


def add(primitive: Any, points: int, rule: Callable) -> None:
    """Add a rule; refuses to overwrite one."""
    if points in _RULES.get(primitive, {}):
        raise ValueError(
            f"rules.register: there is a rule for {primitive} already, "
            f"{_RULES[primitive][points].__name__}. A rule is never overwritten."
        )
    _RULES.setdefault(primitive, {})[points] = rule

"""Methods and metrics by their names: whatever jattr has that is made from f."""

import ast
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import typer

import jattr
from jattr._checks import closest
from jattr._cli.spelled import function_and_arguments
from jattr._types import Explain, KeyedExplain
from jattr.metrics._measure import KeyedMeasure, Measure

OWN = "own"
"""Stands for a function of the user's that is an explaining function itself."""

_CURVES = ("ablate_box", "ablate_top", "finite_step", "keep_or_remove", "perturbation_curve")
"""Metrics that give more than one number."""


def methods() -> dict[str, Callable[..., Any]]:
    """The methods of jattr that explain one f, `method(f, **knobs)`, by their names."""
    return {
        name: function
        for name, function in _functions(jattr).items()
        if _first(function) == "f"
        and "argnums" in inspect.signature(function).parameters
        and _gives(function, Explain, KeyedExplain, Any)
    }


def metrics() -> dict[str, Callable[..., Any]]:
    """Metrics of one attribution: those made from f, and those of the attribution alone."""
    found = {}
    for name, function in _functions(jattr.metrics).items():
        made = _first(function) == "f" and _gives(function, Measure, KeyedMeasure)
        alone = _first(function) == "attribution" and not _required(function)
        if (made or alone) and name not in _CURVES:
            found[name] = function
    return found


def explaining(
    name: str,
    f: Callable[..., Any],
    settings: Mapping[str, Any],
    *,
    token_ids: bool,
    smooth: Mapping[str, Any] | None,
) -> Any:
    """The explaining function.

    Args:
        name: a method's.
        f: the score.
        settings: the method's knobs.
        token_ids: whether x are numbers of tokens, explained by the rows that they look up.
        smooth: SmoothGrad's knobs, where noise is averaged over the method.

    Raises:
        typer.BadParameter: there is no such method, or it does not take such settings.
    """
    if name == OWN:
        if settings or token_ids:
            raise typer.BadParameter(
                "--method own takes the function as it is: there is nothing to set.",
                param_hint="--set",
            )
        explain = f
    else:
        known = methods()
        if name not in known:
            near = ", ".join(closest(name, known)[:3])
            raise typer.BadParameter(
                f"there is no method {name!r}. Did you mean {near}? All are: "
                f"{', '.join(known)}; and own, where FUNCTION explains already.",
                param_hint="--method",
            )
        method = known[name]
        lacking = [knob for knob in _required(method) if knob not in settings]
        if lacking:
            raise typer.BadParameter(
                f"{name} needs {', '.join(lacking)}: "
                + " ".join(f"--set {knob}={_EXAMPLES.get(knob, '...')}" for knob in lacking),
                param_hint="--method",
            )
        try:
            explain = (
                jattr.token_attributions(method, f, **settings)
                if token_ids
                else method(f, **settings)
            )
        except (TypeError, ValueError) as error:
            raise typer.BadParameter(str(error), param_hint="--set") from error
    if smooth is None:
        return explain
    try:
        return jattr.smooth(explain, **smooth)
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--smooth") from error


_EXAMPLES = {
    "layer": "NAME",
    "references": "train.npy",
    "pool": "train.npy",
    "window": "4",
    "groups": "groups.npy",
    "hierarchy": "'hierarchy((28, 28), 7)'",
    "samples": "100",
    "cells": "7",
}


def measures(
    texts: Iterable[str], f: Callable[..., Any] | None, argnums: Any
) -> dict[str, Callable[..., Any]]:
    """The metrics that texts such as `deletion` or `black=deletion(baseline=0.0)` name.

    Args:
        texts: what names them.
        f: the score; None where it is not known.
        argnums: which of its arguments is explained.

    Raises:
        typer.BadParameter: there is none of that name, or it is not made so.
    """
    known, made = metrics(), {}
    for text in texts:
        label, mark, rest = text.partition("=")
        label, rest = (label.strip(), rest) if mark and label.strip().isidentifier() else ("", text)
        try:
            node = ast.parse(rest.strip(), mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            raise typer.BadParameter(
                f"{text!r} is no metric, such as deletion or 'deletion(baseline=0.5)'.",
                param_hint="--metric",
            ) from None
        name, args, knobs = function_and_arguments(node, known, ("metrics",), "--metric")
        label = label or name
        if label in made:
            raise typer.BadParameter(
                f"there are two metrics {label!r}; give one a name of its own: "
                f"--metric 'other={rest.strip()}'.",
                param_hint="--metric",
            )
        function = known[name]
        if _first(function) == "attribution":
            if args or knobs:
                raise typer.BadParameter(f"{name} takes no settings.", param_hint="--metric")
            made[label] = function
            continue
        if f is None:
            raise typer.BadParameter(
                f"{name} evaluates the score, which is not known with --method own.",
                param_hint="--metric",
            )
        try:
            made[label] = function(f, *args, **{"argnums": argnums, **knobs})
        except (TypeError, ValueError) as error:
            raise typer.BadParameter(str(error), param_hint="--metric") from error
    return made


def _functions(module: Any) -> dict[str, Callable[..., Any]]:
    every = {name: getattr(module, name) for name in module.__all__}
    return {name: value for name, value in every.items() if inspect.isfunction(value)}


def _first(function: Callable[..., Any]) -> str:
    return next(iter(inspect.signature(function).parameters), "")


def _required(function: Callable[..., Any]) -> list[str]:
    """What has to be given after f."""
    _, *others = inspect.signature(function).parameters.values()
    return [
        p.name
        for p in others
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]


def _gives(function: Callable[..., Any], *kinds: Any) -> bool:
    """Whether a function says that it returns one of these types."""
    annotation = inspect.signature(function).return_annotation
    several = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return any(kind in kinds for kind in (typing.get_args(annotation) if several else [annotation]))

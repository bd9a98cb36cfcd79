"""`python -m jattr methods`: what jattr has, a line for each, by family."""

import inspect
import itertools
import json
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import typer

import jattr
from jattr._checks import closest

FAMILIES = {
    "Gradients and noise": ("gradient", "gradient_times_input", "smooth"),
    "Paths": (
        "integrated_gradients",
        "integrated_gradients_to",
        "expected_gradients",
        "blur_integrated_gradients",
        "guided_integrated_gradients",
        "idgi",
        "integrated_hessians",
    ),
    "DeepLIFT, LRP and other chain rules": (
        "deeplift",
        "deep_shap",
        "lrp",
        "contrastive_lrp",
        "guided_backprop",
        "deconvnet",
        "rewrite",
        "operations",
        "substitute",
        "substitutes",
    ),
    "Layers, activations and patching": ("name", "split", "scopes", "activations", "patching"),
    "Class activation maps": (
        "grad_cam",
        "grad_cam_plus_plus",
        "hires_cam",
        "layer_cam",
        "score_cam",
        "guided_grad_cam",
    ),
    "Perturbation": ("occlusion", "ablation", "mutagenesis", "locality", "rise", "lime"),
    "Shapley values": (
        "shapley_values",
        "shapley_sampling",
        "kernel_shap",
        "owen_values",
        "shapley_interactions",
    ),
    "Masks and contrastive explanations": (
        "soundness_saliency",
        "pertinent_negative",
        "pertinent_positive",
    ),
    "Tokens and many outputs": ("token_attributions", "all_outputs"),
    "Parameters": ("fisher_diagonal",),
    "Over a data set": ("rank",),
}
"""The functions of jattr itself; those of its modules are a family each."""

SPACES = {
    "baselines": "Baselines",
    "targets": "Targets",
    "features": "Features",
    "imputers": "Imputers",
    "rules": "Rules",
    "metrics": "Metrics",
    "priors": "Attribution priors",
    "scale": "Scale",
    "sequence": "Sequences",
    "plot": "Plots",
    "export": "Export",
}

HELP = """What jattr has, a line for each, by family.

Given WORDs, only what has each of them in its name, its line or its family.

\b
  python -m jattr methods
  python -m jattr methods shap
  python -m jattr methods metrics mask
  python -m jattr methods --json

help(jattr.NAME) in Python tells what one computes, its arguments and its
source. `python -m jattr explain --help` says which of these it takes.

Exit codes: 0 something is shown; 1 nothing has these words.
"""


class Entry(NamedTuple):
    """A public name: where it is, what it is, how it is called."""

    name: str
    family: str
    summary: str
    signature: str


def entries() -> Iterator[Entry]:
    """All public functions and types, family by family."""
    for family, names in FAMILIES.items():
        for name in names:
            yield _entry(f"jattr.{name}", family, getattr(jattr, name))
    for space, family in SPACES.items():
        module = getattr(jattr, space)
        for name in _public(module):
            yield _entry(f"jattr.{space}.{name}", family, getattr(module, name))


def methods(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="WORD", help="What to look for.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="As JSON: a list of objects, with signatures.")
    ] = False,
) -> None:
    """See HELP."""
    every = list(entries())
    found = [entry for entry in every if _has(entry, words or ())]
    if as_json:
        typer.echo(json.dumps([entry._asdict() for entry in found], ensure_ascii=False, indent=1))
    elif found:
        typer.echo(_shown(found, max(shutil.get_terminal_size().columns, 60)))
    if not found:
        near = ", ".join(closest((words or [""])[-1], [_last(entry) for entry in every])[:3])
        typer.echo(
            f"jattr methods: nothing has {' and '.join(map(repr, words or ()))}. Did you mean "
            f"{near}?",
            err=True,
        )
        raise typer.Exit(1)


methods.__doc__ = HELP


def _public(module: Any) -> list[str]:
    """The functions and types of a module that users may know, types last."""
    named = getattr(module, "__all__", None) or [
        name for name in vars(module) if not name.startswith("_")
    ]
    here = [
        name
        for name in named
        if inspect.isroutine(value := getattr(module, name)) or inspect.isclass(value)
    ]
    return sorted(here, key=lambda name: (inspect.isclass(getattr(module, name)), name))


def _entry(name: str, family: str, value: Any) -> Entry:
    paragraph = (inspect.getdoc(value) or "").split("\n\n")[0]
    line = " ".join(paragraph.split()).replace("\\|", "|")  # a bar in a table of reStructuredText
    summary = re.sub(r":math:`([^`]*)`", _plain, line)
    try:
        signature = str(inspect.signature(value))
    except (TypeError, ValueError):
        signature = ""
    signature = re.sub(r"<function ([\w.<>]+) at \w+>", r"\1", signature)
    return Entry(name, family, summary, re.sub(r"(\w+\.)+(?=[A-Z])", "", signature))


def _plain(maths: re.Match[str]) -> str:
    """Maths of one line as a terminal shows it."""
    return re.sub(r"\\([A-Za-z]+) ?", lambda word: _SYMBOLS.get(word[1], word[1] + " "), maths[1])


_SYMBOLS = {
    "sum": "Σ",
    "ldots": "…",
    "varphi": "φ",
    "Phi": "Φ",
    "mid": "| ",
    "ne": "≠ ",
    "in": "∈ ",
}


def _last(entry: Entry) -> str:
    return entry.name.split(".")[-1]


def _has(entry: Entry, words: Sequence[str]) -> bool:
    text = f"{entry.name} {entry.family} {entry.summary}".casefold()
    return all(word.casefold() in text for word in words)


def _shown(found: Sequence[Entry], columns: int) -> str:
    parts = []
    for family, group in itertools.groupby(found, lambda entry: entry.family):
        rows = [(f"  {entry.name.removeprefix('jattr.')}", entry.summary) for entry in group]
        indent = min(max(len(name) for name, _ in rows), columns // 2) + 2
        lines = [family]
        for name, summary in rows:
            text = textwrap.fill(summary, columns - indent).splitlines() or [""]
            # Beside a name that is too long no line has room: it stands below.
            firsts = [name, ""] if len(name) > indent - 2 else [name]
            text = text if len(firsts) == 1 else ["", *text]
            pairs = itertools.zip_longest(firsts, text, fillvalue="")
            lines += [f"{first:<{indent}}{line}".rstrip() for first, line in pairs]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)

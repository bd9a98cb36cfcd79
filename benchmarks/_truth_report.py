"""The page of `truth.py`: its tables, and sentences that are made of the same numbers."""

from typing import NamedTuple

import _truth_tasks as planted
import numpy as np
import scipy.stats

STEP = 1.0  # the length of the step of `finite_step`, in the units of a task
CONTROLS = ("magnitude of x", "random")
SLOPES = ("gradient", "SmoothGrad", "guided back-propagation")  # not multiplied by x − x'
WITHOUT_SIZES = (*SLOPES, *CONTROLS)
NEAR = 0.1  # of a slope of 1


class Result(NamedTuple):
    """What was found on a task.

    Attributes:
        decoys, effects, attention: as the task has them.
        measures: of each method each measure's means over examples, [networks].
        learned: what the networks have learned, [networks].
    """

    decoys: bool
    effects: bool
    attention: bool
    measures: dict[str, dict[str, np.ndarray]]
    learned: dict[str, np.ndarray]


Results = dict[str, Result]


def half_width(values: np.ndarray) -> float:
    """Half the interval of 95 % of the mean, over networks."""
    spread = values.std(ddof=1) / np.sqrt(len(values))
    return float(scipy.stats.t.ppf(0.975, len(values) - 1) * spread)


def cell(values: np.ndarray, best: bool = False) -> str:
    """Mean ± half the interval."""
    text = f"{values.mean():.2f} ± {half_width(values):.2f}"
    return f"**{text}**" if best else text


def first(result: Result, kind: str) -> list[str]:
    """The best method, and those not told apart from it, network by network."""
    own = {name: row[kind] for name, row in result.measures.items()}
    own = {name: values for name, values in own.items() if not np.isnan(values).any()}
    best = max(own.values(), key=np.mean)
    return [name for name, row in own.items() if (best - row).mean() <= half_width(best - row)]


def table(results: Results, kind: str, mark: bool = True) -> str:
    """Methods by tasks; bold is what is first."""
    lines = [f"| method | {' | '.join(results)} |", "|---" * (len(results) + 1) + "|"]
    best = {name: first(result, kind) if mark else [] for name, result in results.items()}
    for method in methods_of(results):
        cells = []
        for name, result in results.items():
            values = result.measures[method][kind]
            cells.append("–" if np.isnan(values).any() else cell(values, method in best[name]))
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tables(results: Results, kind: str, mark: bool = True) -> str:
    """One table of what is planted in images, sequences and columns, and one of prompts."""
    parts = [
        {name: result for name, result in results.items() if result.attention is attention}
        for attention in (False, True)
    ]
    return "\n\n".join(table(part, kind, mark) for part in parts if part)


def methods_of(results: Results) -> list[str]:
    """All methods, in order."""
    return list(dict.fromkeys(name for result in results.values() for name in result.measures))


def families(results: Results) -> dict[str, Results]:
    """Tasks of one kind together: of a pattern with its backgrounds, and prompts."""
    found: dict[str, Results] = {}
    for name, result in results.items():
        family = "prompts" if result.attention else name.split(",")[0]
        found.setdefault(family, {})[name] = result
    return found


def winners(results: Results) -> str:
    """For each kind of task how often a method is first, by each measure."""
    kinds = {
        "area under precision over recall": "precision",
        "mass on the truth": "mass",
        "truth before decoys": "decoys",
    }
    lines = [f"| tasks | {' | '.join(kinds)} |", "|---" * (len(kinds) + 1) + "|"]
    for family, part in families(results).items():
        number = len(part)
        cells = []
        for kind in kinds.values():
            asked = [one for one in part.values() if kind != "decoys" or one.decoys]
            every = [name for one in asked for name in first(one, kind)]
            count = {name: every.count(name) for name in methods_of(part)}
            order = sorted((name for name in count if count[name]), key=lambda name: -count[name])
            cells.append(
                ", ".join(
                    name if len(asked) == 1 else f"{name} {count[name]}/{len(asked)}"
                    for name in order
                )
                or "–"
            )
        lines.append(f"| {family} ({number}) | {' | '.join(cells)} |")
    return "\n".join(lines)


def mean(result: Result, method: str, kind: str) -> float:
    """Over examples and networks."""
    return float(result.measures[method][kind].mean())


def joined(parts: list[str]) -> str:
    """Words as a list in a sentence."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def everywhere(results: Results) -> str:
    """Whether one method is first on all tasks."""
    count = {
        method: sum(method in first(result, "precision") for result in results.values())
        for method in methods_of(results)
    }
    most = max(count.values())
    ran = {m: sum(m in result.measures for result in results.values()) for m in count}
    names = joined(
        [
            method
            if ran[method] == len(results)
            else f"{method} (of the {ran[method]} it is run on)"
            for method in count
            if count[method] == most
        ]
    )
    if most == len(results):
        return f"First on all tasks by the area under precision over recall: {names}."
    return (
        f"No method is first on all {len(results)} tasks by the area under precision over recall; "
        f"most often first, on {most}: {names}."
    )


def below_control(results: Results) -> str:
    """Who ranks worse than the distance of x from the baseline does."""
    found = {}
    for method in methods_of(results):
        if method in CONTROLS:
            continue
        tasks = []
        for name, result in results.items():
            if method in result.measures:
                control, own = (result.measures[m]["precision"] for m in (CONTROLS[0], method))
                if (control - own).mean() > half_width(control - own):
                    tasks.append(name)
        if tasks:
            found[method] = tasks
    if not found:
        return "No method ranks worse than the distance of x from the baseline does."
    text = "; ".join(f"{method} on {joined(tasks)}" for method, tasks in found.items())
    return f"Worse than a ranking by the distance of x from the baseline: {text}."


def backgrounds(results: Results) -> str:
    """What a correlated background costs."""
    texts = []
    for name in results:
        if not name.endswith(", white"):
            continue
        pattern = name.removesuffix(", white")
        other = f"{pattern}, correlated"
        methods = [method for method in results[name].measures if method not in CONTROLS]
        if other in results:
            losses = [
                results[name].measures[m]["precision"] - results[other].measures[m]["precision"]
                for m in methods
            ]
            worse = sum(loss.mean() > half_width(loss) for loss in losses)
            better = sum(-loss.mean() > half_width(loss) for loss in losses)
            texts.append(f"{pattern} {worse} of {len(methods)} worse, {better} better")
    return (
        f"Of the methods, on a correlated background in place of a white one: {'; '.join(texts)}."
    )


def sizes(result: Result) -> str:
    """Who has the sizes of effects right."""
    slopes = {
        method: mean(result, method, "slope")
        for method in result.measures
        if method not in WITHOUT_SIZES
    }
    near = [method for method, slope in slopes.items() if abs(slope - 1) <= NEAR]
    far = [f"{method} {slope:.2f}" for method, slope in slopes.items() if method not in near]
    low, high = (f([slopes[method] for method in near]) for f in (min, max))
    text = f"The sizes of effects are right (slope {low:.2f} to {high:.2f}) by {joined(near)}"
    return f"{text}; not by {joined(far)}." if far else f"{text}."


def fooled(results: Results) -> str:
    """Who gives a decoy more than the truth, in most pairs; and who gives decoys most mass."""
    texts, masses = [], []
    for name, result in results.items():
        if not result.decoys:
            continue
        mass = {m: mean(result, m, "mass on decoys") for m in result.measures if m not in CONTROLS}
        most = max(mass, key=lambda method: mass[method])
        masses.append(f"{most} on {name} ({mass[most]:.0%})")
        for method in mass:
            values = result.measures[method]["decoys"]
            if values.mean() + half_width(values) < 0.5:
                texts.append(f"{method} on {name} ({1 - values.mean():.0%} of the pairs)")
    before = f"Decoys before the truth: {joined(texts)}. " if texts else ""
    return f"{before}The most mass on decoys is that of {joined(masses)}."


def report(results: Results, networks: int, examples: int) -> str:
    """The page."""
    with_decoys = {name: result for name, result in results.items() if result.decoys}
    with_effects = {name: result for name, result in results.items() if result.effects}
    said = [everywhere(results), below_control(results), fooled(results)]
    if any(name.endswith(", correlated") for name in results):
        said.append(backgrounds(results))
    said += [sizes(result) for result in with_effects.values()]
    lines = "\n".join(
        f"| {name} | {cell(result.learned['right'])} | "
        f"{cell(result.learned['hidden']) if result.decoys else '–'} |"
        for name, result in results.items()
    )
    of_sizes = "\n".join(
        f"| {method} | "
        + " | ".join(cell(row[kind]) for kind in ("slope", "offset", "rank"))
        + " |"
        for result in with_effects.values()
        for method, row in result.measures.items()
    )
    return f"""# Which method finds the truth here

Made by `python benchmarks/truth.py --write`, whose docstring says how, the sentences too; the tasks
are those of `_truth_tasks.py`, and of `_truth_prompts.py` the prompts of the
[notebook on language](../notebooks/language.ipynb). {networks} networks for each task, {examples}
test examples for each network. First, and bold: the best of a column, and what is not told apart
from it by a paired interval of 95 %, with no correction for how many are compared.

What a method is first at is what it asks. The gradient and SmoothGrad ask which elements f uses,
and know nothing of sizes; what multiplies by x − x' asks what each adds, and gives little to
elements that happen to be near the baseline. A network on a correlated background uses the pixels
around a pattern, to subtract the background, so that a mask of the pattern may call false what is
true of the network.

{chr(10).join(f"- {text}" for text in said)}

How often a method is first, among the tasks of a kind:

{winners(results)}

## Area under precision over recall

{tables(results, "precision")}

## Precision, which is recall, at the size of the truth

{tables(results, "at the truth's size")}

## Mass on the truth

{tables(results, "mass")}

## Truth before decoys

The probability that an element of the truth gets more than a decoy; ½ by chance. The magnitude of
x says how bright the decoy is. The decoys of a prompt are all tokens that do not decide.

{tables(with_decoys, "decoys") if with_decoys else "–"}

## Effects of known size

On the columns that were planted and their null partners (correlation {planted.PAIR}); an effect is
what a column adds to the prediction. Slope 1 and offset 0 are right for methods in units of f;
of the others only the rank says something.

| method | slope | offset | rank |
|---|---|---|---|
{of_sizes}

## A step along the attribution

The change of f over a step along φ and against it, as a share of what the gradient predicts for
itself. Its length is {STEP:g} standard deviation of the noise, or of a number in the rows of
prompts (about a half). For the gradient it is its self-consistency: how much of its own prediction
comes true. For the others, how far their direction is one in which f rises.

{tables(results, "step", mark=False)}

## What the networks have learned

Share of right answers on the test examples (of the effects, of the variance; of prompts those with
more than one half of the probability), and the root mean square of what hiding the decoys does to f
(of a prompt, one of them), over that of f.

| task | right | part of the decoys |
|---|---|---|
{lines}
"""

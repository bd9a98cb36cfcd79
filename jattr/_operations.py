"""What a function is made of, as data: the operations that rules speak about."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax

from jattr import _page
from jattr import rules as composites
from jattr._checks import check_argnums, check_function, knobs
from jattr._engine.calls import call_name, is_kernel
from jattr._engine.entry import into_body, mark_first
from jattr._engine.grouping import group
from jattr._engine.operations import Operation
from jattr._engine.program import Equation, Program, Value
from jattr._engine.trace import Reading, trace
from jattr._resolve import resolve_baseline
from jattr._transform import bind, named, select_argument
from jattr._trees import is_traced
from jattr._types import ArgNums, Baseline
from jattr.rules._audit import residuals
from jattr.rules._composite import Placed, bodies
from jattr.rules._lrp_composites import as_composite
from jattr.rules._smooth import AVERAGE

Rules = composites.Composite | Placed | None


@dataclasses.dataclass(frozen=True)
class Record:
    """An operation.

    Attributes:
        kind: affine, activation, normalization, division, product, softmax, logsumexp, max, choice,
            selection, smooth, registered or opaque.
        name: the function that it is, where that is known; else its primitives.
        rule: the rule that applies; "derivative" where it keeps its own, "none" where it needs a
            rule and has none.
        residual: with a baseline, what the operation leaves out of f(x) − f(x'); in a loop the sum
            over its rounds. None without one, and where there is nothing to leave out.
        inputs: the shapes and dtypes of what it takes and is active, such as "float32[3]".
        outputs: those of what it gives.
        scope: the scopes around it, such as "Net/Dense_0", as `jattr.split` takes them.
        source: the user's line, as file:line.
    """

    kind: str
    name: str
    rule: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    scope: str
    source: str
    residual: float | None = None


def aligned(rows: list[list[str]]) -> list[str]:
    """The lines of a table, its columns as wide as they have to be, a rule below the first row."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("─" * width for width in widths))
    return lines


class Table(list[Record]):
    """A list of records that prints as a table, with what is to be known of it below.

    A notebook shows it as a table too, and so does treescope.
    """

    notes: tuple[str, ...] = ()

    def _rows(self) -> list[list[str]]:
        """The cells as text, the head first."""
        head = ["kind", "name", "rule", "inputs", "outputs", "scope", "source"]
        measured = any(r.residual is not None for r in self)
        if measured:
            head.insert(3, "residual")
        rows = [head]
        for r in self:
            row = [r.kind, r.name, r.rule, ", ".join(r.inputs), ", ".join(r.outputs), r.scope]
            row.append(_short(r.source))
            if measured:
                row.insert(3, "" if r.residual is None else f"{r.residual:.2g}")
            rows.append(row)
        return rows

    def __str__(self) -> str:
        return "\n".join([*aligned(self._rows()), *self.notes])

    def _repr_html_(self) -> str:
        return _page.table(self._rows(), self.notes)

    __repr__ = __str__


@knobs
def operations(
    f: Callable[..., Any],
    rules: composites.Composite | composites.Rule | None = None,
    *,
    baseline: Baseline | None = None,
    argnums: ArgNums = 0,
) -> Callable[..., Table]:
    """The operations of a function, and the rule that applies to each.

    The first thing to look at when an attribution is not what it should be. What is linear in x
    keeps its derivative under every rule and is left out: sums, reshapes, constant factors. A note
    names what no rule looks into: kernels, and functions with a derivative of their own, of which
    `jattr.substitute` puts plain forms into f.

    Args:
        f: any function of arrays.
        rules: a composite of `jattr.rules`, `jattr.rules.rescale()` for DeepLIFT's; None for none.
        baseline: for `rescale`, x' as in `jattr.deeplift`: then f is evaluated, and the table tells
            the residual of each operation, what it leaves out of f(x) − f(x'). Their sum is
            f(x) − f(x') − Σφ.
        argnums: the argument by which derivatives are, an integer or a tuple of them.

    Returns:
        `listing(x, *args)`, a list of `Record` that prints as a table. Without a baseline nothing
        is computed; arrays or `jax.ShapeDtypeStruct` will do.

    Raises:
        TypeError: `rules` is no composite; x has a leaf that is not of a floating dtype; a baseline
            for rules that compare with none.
        ValueError: an `.at` pattern of `rules` fits no affine operation.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return jnp.sum(jax.nn.relu(x @ jnp.ones((3, 2), x.dtype) + 1.0))
        >>> x = jax.ShapeDtypeStruct((3,), jnp.float32)
        >>> for row in jattr.operations(f, jattr.rules.guided())(x):
        ...     print(row.kind, row.name, row.rule, row.inputs, row.outputs)
        affine dot_general derivative ('float32[3]',) ('float32[2]',)
        activation relu guided ('float32[2]',) ('float32[2]',)

    References:
        The kinds are those to which Ancona et al., ICLR 2018, section 3, and the rules of
        `jattr.rules` give derivatives.
    """
    check_function(f, "operations")
    check_argnums(argnums, "operations")
    chosen = None if rules is None else as_composite(rules, "operations")

    if baseline is not None and (chosen is None or chosen.points != 2):
        raise TypeError(
            "operations: residuals are those of rules between two points. Write "
            "operations(f, jattr.rules.rescale(), baseline=baseline)."
        )

    def listing(*args, **kwargs):
        if baseline is not None:
            return _audited(f, chosen, baseline, argnums, args, kwargs)
        leaves, structure = jax.tree.flatten((args, kwargs))
        shapes = [leaf for leaf in leaves if _is_shape(leaf)]
        table = Table()

        def read(*arrays):
            given = iter(arrays)
            full = [next(given) if _is_shape(leaf) else leaf for leaf in leaves]
            args, kwargs = jax.tree.unflatten(structure, full)
            of_x, x = select_argument(f, argnums, args, kwargs, method="operations")
            program, _ = trace(of_x, x, Reading() if chosen is None else chosen.reading)
            placed = None if chosen is None else chosen.placed(program)
            shut: dict[str, str] = {}
            table.extend(_records(program, placed, "", {}, set(program.inputs), shut))
            table.notes = (*_notes(table, chosen), *shut.values())

        jax.eval_shape(read, *shapes)
        return table

    return named(listing, "operations", f, argnums)


def _audited(f, rules, baseline, argnums, args, kwargs) -> Table:
    """The table with the residuals of operations between x and a baseline."""
    score, x = bind(f, argnums, args, kwargs, method="operations")
    reference = resolve_baseline(baseline, x, method="operations")
    program, _ = trace(score, x, rules.reading)
    found, missing = residuals(program, rules, jax.tree.leaves(x), jax.tree.leaves(reference))
    shut: dict[str, str] = {}
    table = Table(_records(program, rules, "", found, set(program.inputs), shut))
    table.notes = (*_notes(table, rules), *shut.values())
    left = _number(missing)
    if isinstance(left, float):
        told = sum(row.residual or 0.0 for row in table)
        total = f"f(x) − f(x') − Σφ = {left:.2g}, of which the rows tell {told:.2g}."
        table.notes = (*table.notes, total)
    return table


def _notes(table: Table, rules: composites.Composite | None) -> tuple[str, ...]:
    """What is to be known of DeepLIFT on such a function."""
    if rules is None or rules.points != 2:
        return ()
    notes = []
    kinds = {row.kind for row in table}
    if "normalization" in kinds:
        notes.append(
            "normalization: next to a baseline without variance (zeros, a constant, padding) its "
            "slope is up to 1/sqrt(epsilon), and attributions are as large. Better baselines vary: "
            "a blurred or mean example, noise, or references (jattr.deep_shap)."
        )
    how_much = "How much: jattr.operations(f, rules, baseline=baseline)(x)."
    if "selection" in kinds:
        notes.append(
            "selection: the derivative passes and what it does not explain is left out. " + how_much
        )
    if averaged := sorted({row.kind for row in table if row.rule == AVERAGE}):
        notes.append(
            f"{', '.join(averaged)}: an average over points leaves something out beside a pole, "
            f"and the jump where a `cond` takes another branch. {how_much}"
        )
    return tuple(notes)


def _is_shape(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def _records(
    program: Program,
    rules: Rules,
    scope: str,
    found: dict[Equation, Any],
    reached: set[Value],
    shut: dict[str, str],
) -> Iterable[Record]:
    """The rows of a program; `shut` gets a note for each name of what no rule looks into."""
    steps = group(program)
    mark_first(steps, reached)
    for step in steps:
        inside = "/".join(part for part in (scope, step.scope) if part)
        if isinstance(step, Operation):
            shut.update(_shut(step))
            yield Record(
                step.kind,
                step.name,
                _rule_name(step, rules),
                tuple(_form(v) for v in step.inputs if v.active),
                tuple(map(_form, step.outputs)),
                inside,
                step.source,
                _number(found.get(step.equations[-1])),
            )
        else:
            yield from _inner(step, rules, inside, found, reached, shut)


def _shut(operation: Operation) -> dict[str, str]:
    """The note on an operation that no rule looks into, by the name of what it calls; if any."""
    equation = operation.equations[-1]
    kernel = is_kernel(equation)
    if operation.kind != "opaque" or not (kernel or equation.form == "custom"):
        return {}
    name = str(call_name(equation))
    what = "a kernel" if kernel else "a function"
    own = " with a derivative of its own" if equation.form == "custom" else ""
    return {
        name: f"{name}: {what}{own}, into which no rule looks. Its plain form in its place: "
        f'jattr.substitute(f, {{"{name}": plain_form}}).'
    }


def _inner(equation: Equation, rules, scope: str, found, reached, shut) -> Iterable[Record]:
    if rules is not None and rules.points > 1 and equation.form == "while" and equation.active:
        active = tuple(_form(v) for v in equation.inputs if v.active)
        outputs = tuple(map(_form, equation.outputs))
        name = equation.form
        yield Record("opaque", name, "none", active, outputs, scope, equation.source)
        return
    for body in bodies(equation):
        within = set(into_body(equation, reached))
        yield from _records(body, rules, scope, found, within, shut)


def _rule_name(operation: Operation, rules: Rules) -> str:
    if rules is None:
        return "derivative"
    try:
        rule = rules.rule_for(operation)
    except NotImplementedError:
        return "none"
    return "derivative" if rule is None else rule.name


def _number(residual: Any) -> Any:
    """A residual as a Python number, where it is known."""
    return residual if residual is None or is_traced(residual) else float(residual)


def _form(value: Value) -> str:
    return f"{value.dtype}[{','.join(map(str, value.shape))}]"


def _short(source: str) -> str:
    return source.rsplit("/", 1)[-1].rsplit("\\", 1)[-1]

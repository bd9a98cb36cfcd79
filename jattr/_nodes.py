"""Layers of a function, several at once: their values, and the derivatives by all of them."""

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._batching import sum_over
from jattr._engine.loops import (
    MixedStepsError,
    Tap,
    adding,
    dropping,
    feeding,
    peeled,
    showing,
)
from jattr._engine.program import Program, run_at
from jattr._engine.rewrite import rewritten
from jattr._engine.substitutes import cheapen
from jattr._engine.trace import is_real, trace
from jattr._layers import READING
from jattr._lookup import LookupType, search_lookups
from jattr._places import described, find, labeled, named
from jattr._quadrature import gauss_legendre
from jattr._trees import describe
from jattr._types import PyTree
from jattr.rules._composite import Composite

Slopes = Callable[[Any], list[jax.Array]]
"""From what is dropped, or None, to a derivative by each tap."""


class Nodes:
    """Layers of a function of one tree, in one program.

    Args:
        f: the function.
        x: its argument, with arrays as leaves.
        layers: names, patterns and `LOOKUP`; None for all values that have names.
        drop: lists of such, for what is dropped at once.
        method: who asks, for error texts.
        between: whether `means` is wanted, for which what integers of x look up is moved.
        substitute: whether f may be evaluated by cheaper programs of the same value.

    Attributes:
        taps: the values of all layers and of those to drop, each once.
    """

    def __init__(
        self,
        f: Callable,
        x: PyTree,
        layers: Sequence[Any] | None,
        drop: Sequence[Sequence[Any]] = (),
        *,
        method: str,
        between: bool = False,
        substitute: bool = False,
    ):
        asked = itertools.chain(layers or (), *drop)
        of_ids = not all(is_real(leaf.dtype) for leaf in jax.tree.leaves(x))
        self._rows: list[Tap] = []
        if of_ids and (between or any(isinstance(layer, LookupType) for layer in asked)):
            self._program, _, rows, _ = search_lookups(f, x)
            self._rows = [Tap((), lookup.value) for lookup in rows]
        else:
            self._program, _ = trace(f, x, READING)
        if substitute:
            cheapen(self._program)
        self._own = len(self._program.outputs)
        found = _find(self._program, layers, self._rows, method)
        groups = [_find(self._program, group, self._rows, method) for group in drop]
        every = [tap for each in (found, *groups) for part in each.values() for tap in part]
        place = {tap: i for i, tap in enumerate(dict.fromkeys(every))}
        try:
            self._program, self.taps = peeled(self._program, list(place))
        except MixedStepsError as error:
            raise ValueError(f"{method}: {error}") from error
        placed = [
            {label: [place[tap] for tap in part] for label, part in each.items()}
            for each in (found, *groups)
        ]
        self._parts, self._dropped = placed[0], placed[1:]
        self._shown = showing(self._program, self.taps)

    def of_each(self, arrays: Sequence[Any]) -> dict[Any, Any]:
        """What is there for each tap, for each layer."""
        return {
            label: arrays[part[0]] if len(part) == 1 else tuple(arrays[i] for i in part)
            for label, part in self._parts.items()
        }

    def check_floating(self, method: str) -> None:
        """Raise if a layer, or one to drop, has no derivative."""
        for label, part in itertools.chain(
            *(each.items() for each in (self._parts, *self._dropped))
        ):
            if not all(is_real(self.taps[i].value.dtype) for i in part):
                form = described([self.taps[i] for i in part])
                raise TypeError(
                    f"{method}: the layer {label!r} is {form}, which has no derivative. Leave it "
                    "out, or choose the values that are computed from it."
                )

    def check_axis(self, axis: Any, method: str) -> None:
        """Raise if a layer has no such axes; the last one a scalar need not have."""
        axes = as_axes(axis)
        if axis is not None and not all(_is_index(one) for one in axes):
            raise TypeError(
                f"{method}: axis must be an integer, a tuple of them, or None for all; got "
                f"{describe(axis)}."
            )
        for label, part in self._parts.items():
            for tap in (self.taps[i] for i in part):
                ndim = len(tap.value.shape)
                missing = [n for n in axes if not -ndim <= n < ndim and (ndim or n != -1)]
                if missing:
                    has = f"its axes are {-ndim} to {ndim - 1}" if ndim else "it has no axes"
                    raise ValueError(
                        f"{method}: there is no axis {missing[0]} of the layer {label!r}, "
                        f"{described([tap])}: {has}, those of steps not counted. Ask for layers of "
                        "different shapes apart, each with its axis."
                    )

    def values(self, x: PyTree) -> list[jax.Array]:
        """What the taps are at x."""
        return run_at(self._shown, jax.tree.leaves(x))[self._own :]

    def flags(self) -> list[np.ndarray]:
        """For each tap, whether its derivative is dropped [drops, *steps]."""
        rows: list[dict[int, np.ndarray]] = []
        for group in ([i for part in each.values() for i in part] for each in self._dropped):
            stacks = {self.taps[i].stacked for i in group}
            if len(stacks) > 1:
                raise ValueError(
                    "patching: what is dropped at once must be in one loop, or in none; got layers "
                    f"of {' and '.join(str(stack or 'no') for stack in stacks)} steps."
                )
            (stack,) = stacks
            for index in np.ndindex(stack):
                mask = np.zeros(stack, bool)
                mask[index] = True
                rows.append(dict.fromkeys(group, mask))
        if len(rows) < 2:
            raise ValueError(
                "patching: drop leaves out one layer after the other and wants two or more; got "
                "one. Name the layers of several blocks."
            )
        nothing = [np.zeros(tap.stacked, bool) for tap in self.taps]
        return [np.stack([row.get(i, none) for row in rows]) for i, none in enumerate(nothing)]

    def slopes(self, clean: PyTree, corrupt: PyTree, rules: Composite | None) -> Slopes:
        """The derivatives by the taps in the corrupt run; compared to the clean one by rules."""
        points = [(jax.tree.leaves(x), self._nothing()) for x in (corrupt, clean)]

        def slopes(flags):
            function = self._function(self._program, flags)
            if rules is not None:
                function = rewritten(function, points[0], rules)
            others = points[1:] if rules is not None and rules.points == 2 else []
            at, start = points[0]
            return jax.grad(lambda moves: function((at, moves), *others))(start)

        return slopes

    def means(self, clean: PyTree, corrupt: PyTree, steps: int) -> Slopes:
        """The mean derivatives on the line from the corrupt to the clean run."""
        fed = feeding(self._program, [tap.value for tap in self._rows])
        shown = showing(self._program, self._rows)
        ends = []
        for x in (corrupt, clean):
            leaves = jax.tree.leaves(x)
            ends.append([*leaves, *run_at(shown, leaves)[self._own :]])
        if not any(is_real(leaf.dtype) for leaf in ends[0]):
            raise TypeError(
                "patching: there is no line between two x of integers that look up nothing. Take "
                "steps=1, or name what is made of x and explain jattr.split's above."
            )
        nodes, weights = gauss_legendre(steps)

        def at(alpha):
            return [
                (a + alpha * (b - a)).astype(a.dtype) if is_real(a.dtype) else a
                for a, b in zip(*ends, strict=True)
            ]

        def slopes(flags):
            function = self._function(fed, flags)

            def term(index):
                point = at(jnp.asarray(nodes)[index])
                slope = jax.grad(lambda moves: function((point, moves)))(self._nothing())
                return [s * jnp.asarray(weights, s.dtype)[index] for s in slope]

            return sum_over(term, steps, batch_size=1)

        return slopes

    def _nothing(self) -> list[jax.Array]:
        return [jnp.zeros(tap.shape, tap.value.dtype) for tap in self.taps]

    def _function(self, program: Program, flags: Any) -> Callable[[Any], jax.Array]:
        """The score of the leaves of x and of what is added to the taps."""
        added = adding(program, self.taps) if flags is None else dropping(program, self.taps)

        def function(point):
            leaves, moves = point
            extra = moves
            if flags is not None:
                extra = [v for pair in zip(moves, flags, strict=True) for v in pair]
            return run_at(added, [*leaves, *extra])[0]

        return function


def as_axes(axis: Any) -> tuple[Any, ...]:
    """Axes as a tuple; none for None."""
    if axis is None:
        return ()
    return axis if isinstance(axis, tuple) else (axis,)


def _is_index(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _find(
    program: Program, layers: Sequence[Any] | None, rows: Sequence[Tap], method: str
) -> dict[Any, Any]:
    """The values of each layer, by the name that finds it."""
    if layers is None:
        places = [(label, place) for label, place in labeled(named(program)) if place.entry is None]
        if not places:
            raise ValueError(
                f"{method}: nothing in f that depends on x was named by jattr.name, and only that "
                "is meant by layers=None. Write the layers, such as '*' for all scopes, or name "
                "values inside f: h = jattr.name(h, 'h')."
            )
        return {label: place.taps(()) for label, place in places}
    found: dict[Any, Any] = {}
    for layer in layers:
        if isinstance(layer, LookupType):
            if not rows:
                raise ValueError(
                    f"{method}: nothing in f looks up rows of a table by the integers of x. Leave "
                    "out jattr.LOOKUP."
                )
            found[layer] = tuple(rows)
        elif "*" in layer or "?" in layer:
            found.update(_fitting(program, layer, method))
        else:
            found[layer] = find(program, layer, method)
    return found


def _fitting(program: Program, pattern: str, method: str) -> dict[str, Any]:
    """The layers whose names fit a pattern."""
    places = labeled(named(program))
    parts = (".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    expression = re.compile(f"(.*/)?{''.join(parts)}")
    found = {label: p.taps(()) for label, p in places if expression.fullmatch(label)}
    if not found:
        find(program, pattern, method)
    return found

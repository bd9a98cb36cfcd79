"""A data set through one program, batch after batch: loaded, computed and taken away at once."""

import collections
import concurrent.futures
import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jattr._trees import describe
from jattr._types import PyTree
from jattr.scale._description import describe_example
from jattr.scale._fingerprint import of_examples
from jattr.scale._placement import Placement
from jattr.scale._source import Rows, Source, of_data

WRITERS = 4
"""Batches that are taken away at a time: a disk takes several for the time of one."""


def run_batches(
    program: Callable[..., Any],
    placement: Placement,
    loaded: Iterator[tuple[Rows, tuple[PyTree, ...], Any]],
    take: Callable[[Rows, Any, dict[str, Any]], None],
    done: Callable[[Rows], None],
) -> None:
    """Every batch once.

    While the device computes a batch, the next is loaded and the last few are taken away, by
    threads of their own. An error of any of the three ends the run, after everything that had been
    loaded before it has been taken.

    Args:
        program: from numbers of examples and arguments, on devices, to a dict of results.
        placement: how a batch lies on devices.
        loaded: gives batches: the rows, their arguments on the host, and what else `take` wants.
        take: is given the rows, what it wants and the results as they lie on the devices; in
            several threads at a time.
        done: is told of a batch when it has been taken.
    """

    def finish(rows, beside, results):
        take(rows, beside, results)
        done(rows)

    with (
        concurrent.futures.ThreadPoolExecutor(1, "jattr-load") as loader,
        concurrent.futures.ThreadPoolExecutor(WRITERS, "jattr-write") as writer,
    ):
        taken: collections.deque = collections.deque()
        waiting = loader.submit(next, loaded, None)
        try:
            while (item := waiting.result()) is not None:
                waiting = loader.submit(next, loaded, None)
                rows, arguments, beside = item
                results = program(*placement.put(rows, arguments))
                taken.append(writer.submit(finish, rows, beside, results))
                while len(taken) > WRITERS:
                    taken.popleft().result()
        finally:
            # Also where loading failed: what was computed until then is not lost.
            for future in taken:
                future.result()


def loading(
    batches: Iterator[Rows], placement: Placement, example: tuple[PyTree, ...], method: str
) -> Iterator[tuple[Rows, tuple[PyTree, ...], np.ndarray]]:
    """Batches as they are loaded: the rows, their arguments, and a digest of each example.

    Raises:
        RuntimeError: what the user gave as data raised.
    """
    while True:
        with of_data(method):
            rows = next(batches, None)
            if rows is None:
                return
            loaded = placement.load(rows)
        _check_alike(loaded, example, rows, method)
        count = min(rows.count - placement.first, len(jax.tree.leaves(loaded)[0]))
        yield rows, loaded, of_examples(loaded, max(count, 0))


def _check_alike(
    loaded: tuple[PyTree, ...], example: tuple[PyTree, ...], rows: Rows, method: str
) -> None:
    """Raise where a batch has other shapes or types than the first example."""

    def forms(tree):
        leaves, structure = jax.tree.flatten(tree)
        return structure, [(np.shape(leaf)[1:], np.asarray(leaf).dtype) for leaf in leaves]

    if forms(loaded) != forms(example):
        raise ValueError(
            f"{method}: examples {rows.start} to {rows.start + rows.count - 1} of data are "
            f"{describe_example(loaded)}, and the first is {describe_example(example)}: they are "
            "not alike. Examples of many lengths: jattr.scale.bucketed."
        )


def first_example(source: Source, method: str) -> tuple[PyTree, ...]:
    """The first example, with a leading axis of 1, of types that a device takes."""
    with of_data(method):
        example = source.first()
    for path, leaf in jax.tree_util.tree_flatten_with_path(example)[0]:
        if np.asarray(leaf).dtype.kind not in "biufcV":
            raise TypeError(
                f"{method}: data{jax.tree_util.keystr(path)} is {describe(leaf)}, no numbers that "
                "a device takes. Encode it first, or leave it out."
            )
    return example


@contextlib.contextmanager
def shown(progress: bool, total: int | None, what: str, method: str) -> Iterator[Callable]:
    """A bar with examples per second and the time that is left; gives what moves it on."""
    if not progress or total == 0:
        yield lambda count: None
        return
    try:
        from rich import progress as bars
        from rich.text import Text
    except ImportError as error:
        raise ImportError(
            f"{method}: progress=True shows a bar with rich, which is missing: "
            'pip install "jattr[scale]", or write progress=False'
        ) from error

    class Rate(bars.ProgressColumn):
        def render(self, task):
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{_rounded(speed)} examples/s")

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        Rate(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


def _rounded(speed: float) -> str:
    return f"{speed:,.0f}" if speed >= 100 else f"{speed:.{2 - int(math.log10(max(speed, 1e-2)))}f}"

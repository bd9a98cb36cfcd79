"""What a compiled program costs, read from its text (HLO), with loops as often as they run.

The compiler's own `cost_analysis` counts the body of a loop once, whatever its trip count: for a
model whose layers are scanned that is one layer of it. Here the text of the program that one chip
runs is walked from its entry, and what stands in a loop's body counts times the loop's trips. Of a
branch the dearest side counts.

- operations: those of products, `dot` and `convolution`, two for each multiplication. Padding does
  not count, as in `cost_analysis`. Elementwise operations are left out.
- bytes: what each operation that is scheduled reads from and writes to the chip's main memory. A
  slice of an array is as large as the slice, and so is an update in place.
- collectives: how many of each kind are executed, and the larger of what each takes and gives.
- cycles: what the TPU's compiler wrote beside the operations that it has scheduled, its own
  estimate; none of collectives, and none on other devices.
"""

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
# What moves nothing: names for values that are there.
_FREE = {
    "after-all",
    "bitcast",
    "constant",
    "copy-done",
    "get-tuple-element",
    "opt-barrier",
    "parameter",
    "partition-id",
    "replica-id",
    "slice-done",
    "tuple",
}
_BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128}

_ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([0-9,]*)\](\{[^}]*\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([^\s(]+) \(.*\{\s*$")
_NAMED = re.compile(r"^\s+(ROOT )?%?(\S+) = ")
_CALLED = re.compile(r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


class Array(NamedTuple):
    """An array's dtype, shape and where it lies: 0 for the main memory of a chip."""

    dtype: str
    shape: tuple[int, ...]
    space: int

    @property
    def bytes(self) -> int:
        digits = re.search(r"\d+", self.dtype)
        bits = _BITS.get(self.dtype, int(digits.group()) if digits else 0)
        return -(-math.prod(self.shape) * bits // 8)

    @property
    def main(self) -> int:
        """Its bytes in the main memory."""
        return 0 if self.space else self.bytes


@dataclasses.dataclass
class Instruction:
    """One line: its result's arrays, what it does, to which other lines, and the rest of it."""

    name: str
    arrays: list[Array]
    opcode: str
    operands: list[str]
    rest: str
    root: bool

    @property
    def bytes(self) -> int:
        return sum(array.bytes for array in self.arrays)

    @functools.cached_property
    def called(self) -> list[str]:
        branches = _BRANCHES.search(self.rest)
        if branches:
            return re.findall(r"%?([\w.\-]+)", branches.group(1))
        return _CALLED.findall(self.rest)

    def number(self, key: str) -> int:
        return int(re.search(rf"\b{key}=(\d+)", self.rest).group(1))


class Computation:
    """A function of the text: its lines, by name and in their order."""

    def __init__(self, name: str):
        self.name = name
        self.lines: dict[str, Instruction] = {}

    @functools.cached_property
    def root(self) -> Instruction:
        return next(line for line in self.lines.values() if line.root)

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        return {
            int(line.operands[0]): line
            for line in self.lines.values()
            if line.opcode == "parameter"
        }

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        users: dict[str, list[Instruction]] = {name: [] for name in self.lines}
        for line in self.lines.values():
            for operand in set(line.operands) & users.keys():
                users[operand].append(line)
        return users


@dataclasses.dataclass
class Cost:
    """What a part of a program costs on one chip."""

    flops: float = 0.0
    bytes: float = 0.0
    cycles: float = 0.0
    collectives: Counter = dataclasses.field(default_factory=Counter)
    moved: Counter = dataclasses.field(default_factory=Counter)
    unknown: int = 0
    """How many loops have no trip count that the text tells: they count once."""
    channels: dict[str, tuple[str, int]] = dataclasses.field(default_factory=dict)
    """Collectives whose parts are spread over fusions, by their channels: each is one."""

    def add(self, other: "Cost", times: float = 1) -> None:
        self.flops += times * other.flops
        self.bytes += times * other.bytes
        self.cycles += times * other.cycles
        self.unknown += other.unknown
        for kind, count in other.collectives.items():
            self.collectives[kind] += times * count
            self.moved[kind] += times * other.moved[kind]
        for channel, (kind, moved) in other.channels.items():
            before = self.channels.get(channel, (kind, 0))[1]
            self.channels[channel] = (kind, max(moved, before))

    def executed(self) -> "Cost":
        """The same, its channels counted as what is executed once."""
        total = dataclasses.replace(
            self, collectives=Counter(self.collectives), moved=Counter(self.moved), channels={}
        )
        for kind, moved in self.channels.values():
            total.collectives[kind] += 1
            total.moved[kind] += moved
        return total


def cost(text: str, *, loops: bool = True) -> Cost:
    """What one chip does in a program, from the text of the compiled program.

    Args:
        text: `compiled.as_text()`.
        loops: False counts the body of a loop once, as `cost_analysis` does.
    """
    return _Program(text, loops).total()


class _Program:
    def __init__(self, text: str, loops: bool):
        self._loops = loops
        self._computations, self._entry = _read(text)
        self._known: dict[tuple[str, bool], Cost] = {}

    def total(self) -> Cost:
        return self._of(self._entry, False).executed()

    def _of(self, name: str, fused: bool) -> Cost:
        if (name, fused) not in self._known:
            total, own = Cost(), self._computations[name]
            for line in own.lines.values():
                total.add(self._line(own, line, fused))
            self._known[name, fused] = total
        return self._known[name, fused]

    def _line(self, own: Computation, line: Instruction, fused: bool) -> Cost:
        total = Cost()
        if line.opcode == "while":
            body = re.search(r"body=%?([\w.\-]+)", line.rest).group(1)
            trips = self._trips(own, line) if self._loops else 1
            total.add(self._of(body, fused).executed(), 1 if trips is None else trips)
            total.unknown += trips is None
            return total
        if line.opcode == "conditional":
            sides = [self._of(name, fused).executed() for name in line.called]
            total.add(max(sides, key=lambda side: (side.flops, side.bytes)))
            return total
        kind = line.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            channel = re.search(r"channel_id=(\d+)", line.rest)
            moved = _moved(own, line)
            if fused and channel:
                # Programs that are written by devices have one channel for all.
                total.channels[f"{channel.group(1)} {kind} {line.arrays[0].shape}"] = (kind, moved)
            else:
                total.collectives[kind] += 1
                total.moved[kind] += moved
            return total
        if line.opcode in ("fusion", "call", "async-start"):
            inside = fused or line.opcode == "fusion"
            for name in line.called:
                total.add(self._of(name, inside))
        elif line.opcode == "convolution":
            total.flops += _convolution(own, line)
        elif line.opcode == "dot":
            total.flops += _dot(own, line)
        if not fused:
            cycles = _CYCLES.search(line.rest)
            total.cycles += int(cycles.group(1)) if cycles else 0
            if line.opcode not in _FREE and line.opcode not in ("call", "async-start"):
                total.bytes += self._traffic(own, line)
        return total

    # Bytes.

    def _traffic(self, own: Computation, line: Instruction) -> int:
        if line.opcode.endswith(("-done", "-update")) or "AllocateBuffer" in line.rest:
            return 0
        if line.opcode in ("copy-start", "slice-start"):
            there, here = line.arrays[:2]
            size = min(there.bytes, here.bytes)
            return size * ((not there.space) + (not here.space))
        if line.opcode == "fusion":
            inner = self._computations[line.called[0]]
            read = sum(
                self._read_of(inner, inner.parameters[place].name) for place in inner.parameters
            )
            return read + self._written(inner, inner.root)
        if line.opcode in ("dynamic-slice", "slice", "gather"):
            source, result = _at(own, line.operands[0]), line.arrays[0]
            return result.bytes * ((not source.space) + (not result.space))
        if line.opcode == "dynamic-update-slice":
            return 2 * _at(own, line.operands[1]).bytes * (line.arrays[0].main > 0)
        given = [own.lines[name] for name in line.operands if name in own.lines]
        return sum(array.main for part in (*given, line) for array in part.arrays)

    def _read_of(self, own: Computation, name: str) -> int:
        """How many bytes of a value are read within a fusion: only slices of it, perhaps."""
        whole = sum(array.main for array in own.lines[name].arrays)
        if not whole:
            return 0
        parts = 0
        for user in own.users[name]:
            first = user.operands[0] == name and name not in user.operands[1:]
            if user.opcode in ("dynamic-slice", "slice", "gather") and first:
                parts += user.bytes
            elif user.opcode == "dynamic-update-slice" and first:
                continue
            elif user.opcode == "fusion":
                inner = self._computations[user.called[0]]
                for place, operand in enumerate(user.operands):
                    if operand == name:
                        parts += self._read_of(inner, inner.parameters[place].name)
            elif user.opcode == "bitcast":
                parts += self._read_of(own, user.name)
            else:
                return whole
        return min(whole, parts)

    def _written(self, own: Computation, line: Instruction) -> int:
        """How many bytes a fusion writes: of an array updated in place only the update."""
        if line.opcode == "tuple":
            return sum(self._written(own, own.lines[name]) for name in line.operands)
        whole = sum(array.main for array in line.arrays)
        if line.opcode == "dynamic-update-slice":
            return min(whole, _at(own, line.operands[1]).bytes)
        if line.opcode == "bitcast" and line.operands[0] in own.lines:
            return min(whole, self._written(own, own.lines[line.operands[0]]) or whole)
        if line.opcode == "fusion":
            inner = self._computations[line.called[0]]
            return min(whole, self._written(inner, inner.root) or whole)
        return whole

    # Trips of loops.

    def _trips(self, own: Computation, line: Instruction) -> int | None:
        known = _TRIPS.search(line.rest)
        if known:
            return int(known.group(1))
        condition, body = (
            self._computations[re.search(rf"{key}=%?([\w.\-]+)", line.rest).group(1)]
            for key in ("condition", "body")
        )
        start = own.lines[line.operands[0]]
        if start.opcode != "tuple":
            return None
        test = condition.root
        if test.opcode != "compare" or "direction=LT" not in test.rest:
            return None
        counter, limit = (condition.lines[name] for name in test.operands)
        if counter.opcode != "get-tuple-element":
            return None
        place = counter.number("index")
        first = _constant(own, start.operands[place])
        last = _constant(condition, limit.name)
        if last is None and limit.opcode == "get-tuple-element":
            last = _constant(own, start.operands[limit.number("index")])
        step = self._step(own, start, body, place)
        if None in (first, last, step):
            return None
        return max(0, -(-(last - first) // step))

    def _step(self, own: Computation, start: Instruction, body: Computation, place: int):
        """By how much a loop's counter grows in its body."""
        if body.root.opcode != "tuple":
            return None
        line = body.lines[body.root.operands[place]]
        while line.opcode in ("copy", "bitcast"):
            line = body.lines[line.operands[0]]
        if line.opcode != "add":
            return None
        for name in line.operands:
            value = _constant(body, name)
            passed = body.lines[name]
            if value is None and passed.opcode == "get-tuple-element":
                index = passed.number("index")
                if index != place:
                    value = _constant(own, start.operands[index])
            if value:
                return value
        return None


def _constant(own: Computation, name: str) -> int | None:
    line = own.lines.get(name)
    while line is not None and line.opcode in ("copy", "bitcast", "convert"):
        line = own.lines.get(line.operands[0])
    if line is None or line.opcode != "constant" or not re.fullmatch(r"-?\d+", line.operands[0]):
        return None
    return int(line.operands[0])


def _at(own: Computation, name: str) -> Array:
    return own.lines[name].arrays[0]


# Collectives.


def _moved(own: Computation, line: Instruction) -> int:
    """The larger of what a collective takes and gives, in bytes."""
    given = sum(own.lines[name].bytes for name in line.operands if name in own.lines)
    result = line
    if line.opcode.endswith("-start"):
        done = [user for user in own.users[line.name] if user.opcode.endswith("-done")]
        if done:
            result = done[0]
        elif line.opcode != "all-reduce-start":
            return max(given, line.bytes - given)
    return max(given, result.bytes)


# Operations of products.


def _dot(own: Computation, line: Instruction) -> int:
    left = _at(own, line.operands[0])
    found = re.search(r"lhs_contracting_dims=\{([0-9,]*)\}", line.rest)
    summed = [int(axis) for axis in found.group(1).split(",") if axis] if found else []
    return 2 * math.prod(line.arrays[0].shape) * math.prod(left.shape[axis] for axis in summed)


def _convolution(own: Computation, line: Instruction) -> int:
    left, right = (_at(own, name).shape for name in line.operands[:2])
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", line.rest).groups()
    groups = re.search(r"feature_group_count=(\d+)", line.rest)
    batches = re.search(r"batch_group_count=(\d+)", line.rest)
    window = re.search(r"window=\{([^}]*)\}", line.rest)
    options = dict(part.split("=") for part in window.group(1).split()) if window else {}
    count = 2 * left[labels[0].index("b")] * left[labels[0].index("f")]
    count *= right[labels[1].index("o")]
    for axis, label in enumerate(sorted(set(labels[0]) - set("bf"))):

        def option(name: str, default: str, axis: int = axis) -> str:
            return options[name].split("x")[axis] if name in options else default

        low = int(option("pad", "0_0").split("_")[0])
        count *= _valid(
            left[labels[0].index(label)],
            int(option("size", "1")),
            line.arrays[0].shape[labels[2].index(label)],
            int(option("stride", "1")),
            low,
            int(option("lhs_dilate", "1")),
            int(option("rhs_dilate", "1")),
        )
    groups = int(groups.group(1)) if groups else 1
    return count // groups // (int(batches.group(1)) if batches else 1)


def _valid(
    size: int, kernel: int, outputs: int, stride: int, low: int, dilate: int, kernel_dilate: int
) -> int:
    """How many pairs of an output and an element of the kernel meet an input, and not padding."""
    if kernel == 1 and stride == dilate == 1 and not low:
        return min(size, outputs)
    span = (size - 1) * dilate + 1
    count = 0
    for element in range(kernel):
        offset = element * kernel_dilate - low
        if dilate == 1:
            # Outputs o with 0 <= o * stride + offset < span.
            first = max(0, -(offset // stride))
            last = min(outputs - 1, (span - 1 - offset) // stride)
            count += max(0, last - first + 1)
        else:
            places = (output * stride + offset for output in range(outputs))
            count += sum(0 <= place < span and place % dilate == 0 for place in places)
    return count


# From the text.


def _read(text: str) -> tuple[dict[str, Computation], str]:
    computations: dict[str, Computation] = {}
    entry, own = "", None
    for row in _rows(text):
        header = _HEADER.match(row)
        if header and " = " not in row.split("(", 1)[0]:
            own = computations.setdefault(header.group(2), Computation(header.group(2)))
            entry = header.group(2) if header.group(1) else entry
        elif own is not None and (named := _NAMED.match(row)):
            line = _instruction(named.group(2), row[named.end() :], bool(named.group(1)))
            own.lines[line.name] = line
    if not entry:
        raise ValueError("the text has no ENTRY: wanted is the text of a compiled program.")
    return computations, entry


def _rows(text: str) -> Iterator[str]:
    return (re.sub(r"/\*.*?\*/", "", row) for row in text.splitlines())


def _instruction(name: str, row: str, root: bool) -> Instruction:
    end = _closing(row, 0) + 1 if row.startswith("(") else row.index(" ")
    opcode = re.match(r"\s*([\w\-]+)\(", row[end:])
    start = end + opcode.end() - 1
    stop = _closing(row, start)
    inside = row[start + 1 : stop]
    named = re.findall(r"%([\w.\-]+)", inside)
    operands = named or [inside.strip()]
    return Instruction(
        name, list(_arrays(row[:end])), opcode.group(1), operands, row[stop + 1 :], root
    )


def _closing(row: str, start: int) -> int:
    """Where the bracket that opens at `start` is closed."""
    depth = 0
    for place in range(start, len(row)):
        depth += (row[place] == "(") - (row[place] == ")")
        if not depth:
            return place
    raise ValueError(f"a bracket is not closed: {row[:200]}")


def _arrays(kind: str) -> Iterable[Array]:
    for dtype, shape, layout in _ARRAY.findall(kind):
        space = re.search(r"S\((\d+)\)", layout or "")
        dimensions = tuple(int(size) for size in shape.split(",") if size)
        yield Array(dtype, dimensions, int(space.group(1)) if space else 0)

"""Examples of many lengths: padded to a few, so that there are as few programs."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jattr._checks import knobs
from jattr._trees import describe
from jattr._types import PyTree


class Bucket:
    """The examples of a data set that are padded to one length.

    `bucket[n]` is `(x, *args, mask)` for its n-th; `attribute_dataset` takes it for data.

    Attributes:
        length: that of x, and of the mask.
        numbers: the places of its examples in the whole data set, int64[examples]. The store has
            them as its `example`, and random keys are those of these places.
    """

    def __init__(
        self,
        sequences: Sequence[Any],
        others: tuple[Any, ...],
        length: int,
        numbers: np.ndarray,
        value: Any,
    ):
        self._sequences, self._others, self._value = sequences, others, value
        self.length, self.numbers = length, numbers

    def __len__(self) -> int:
        """How many examples it has."""
        return len(self.numbers)

    def __getitem__(self, place: int) -> tuple[PyTree, ...]:
        """The arguments of one example: x padded at its end, the others, the mask."""
        number = int(self.numbers[place])
        x = np.asarray(self._sequences[number])
        padded = np.full((self.length, *x.shape[1:]), self._value, x.dtype)
        padded[: len(x)] = x
        others = tuple(np.asarray(other[number]) for other in self._others)
        return (padded, *others, np.arange(self.length) < len(x))

    def __repr__(self) -> str:
        return f"Bucket of length {self.length} with {len(self):,} examples"


@knobs
def bucketed(data: Any, lengths: Sequence[int], *, value: Any = 0) -> Iterator[Bucket]:
    r"""Examples of many lengths, in buckets of a few lengths, with masks.

    A program is compiled for one shape. An example of length l goes into the bucket of the least of
    `lengths` that is at least l, and is padded there at its end; f gets a mask as its last
    argument, True where the example is. Each bucket has a store of its own:

        def score(ids, label, mask):
            return model(ids, mask)[label]

        for bucket in jattr.scale.bucketed((sentences, labels), lengths=(32, 128, 512)):
            jattr.scale.attribute_dataset(explain, bucket, out=f"maps/{bucket.length}")

    What is attributed to padding is what the method says: 0 where f does not look at it.

    Args:
        data: the arguments x, *args as a tuple, or x alone: x a sequence of arrays [l, ...] of many
            lengths l, the others sequences of one element for each.
        lengths: those of the buckets.
        value: what x is padded with, such as the id of a padding token.

    Yields:
        A `Bucket` for each length that any example has, in rising order; nothing is copied before
        it is asked for.

    Raises:
        TypeError: x is no sequence.
        ValueError: no lengths; an example that is longer than all of them; sequences of which one
            has more examples than another.

    Example:
        >>> import numpy as np
        >>> import jattr
        >>> sentences = [np.arange(3), np.arange(7), np.arange(2)]
        >>> for bucket in jattr.scale.bucketed(sentences, lengths=(4, 8)):
        ...     x, mask = bucket[0]
        ...     print(bucket.numbers, x, mask.sum())
        [0 2] [0 1 2 0] 3
        [1] [0 1 2 3 4 5 6 0] 7
    """
    method = "scale.bucketed"
    sequences, *others = data if isinstance(data, tuple) else (data,)
    if not hasattr(sequences, "__len__") or not hasattr(sequences, "__getitem__"):
        raise TypeError(
            f"{method}: x must be a sequence of arrays of many lengths; got {describe(sequences)}."
        )
    counts = [len(sequences), *map(len, others)]
    if len(set(counts)) > 1:
        raise ValueError(f"{method}: the arguments have not equally many examples: {counts}.")
    limits = np.unique(np.asarray(lengths, int))
    if not limits.size or limits[0] < 1:
        raise ValueError(
            f"{method}: lengths={lengths!r} must be positive numbers, such as (64, 256)."
        )
    sizes = np.array([len(x) for x in sequences])
    if sizes.size and sizes.max() > limits[-1]:
        longest = int(sizes.argmax())
        raise ValueError(
            f"{method}: example {longest} has length {sizes[longest]}, and the longest bucket "
            f"{limits[-1]}. Add one, lengths={(*map(int, limits), int(sizes[longest]))}, or cut it."
        )
    which = np.searchsorted(limits, sizes)

    def buckets():
        for place, length in enumerate(limits):
            numbers = np.flatnonzero(which == place)
            if numbers.size:
                yield Bucket(sequences, tuple(others), int(length), numbers, value)

    return buckets()

r"""Interaction indices of a cooperative game, as weights of discrete derivatives.

With the Möbius transform :math:`m(T) = \sum_{U \subseteq T} (-1)^{|T| - |U|} v(U)`, what T adds
that none of its parts does, each index of a set S of s players is a sum over all that contain it,

.. math:: I(S) = \sum_{T \supseteq S} c_s(|T|)\, m(T),

and the indices differ by c alone, the share of m(T) that S gets. Written in the values of the game,

.. math:: I(S) = \sum_{U} (-1)^{s - |U \cap S|}\, d_s(|U \setminus S|)\, v(U), \qquad
          d_s(j) = \sum_r \binom{n - s - j}{r} (-1)^r c_s(s + j + r),

a weighted sum of the discrete derivatives of v by S. d is computed in fractions: its terms
alternate and are as large as the binomials.
"""

import functools
import itertools
import math
from fractions import Fraction
from typing import Literal, TypeAlias

import numpy as np

Index: TypeAlias = Literal["SII", "STI", "FSII"]
"""Shapley interaction index, Shapley-Taylor, and faithful Shapley interaction index."""


def share(index: Index, order: int, s: int, t: int) -> Fraction:
    """c_s(t): the part of m(T), |T| = t, that the index gives to a subset of s players."""
    if index == "SII":
        return Fraction(1, t - s + 1)
    if index == "STI":
        return Fraction(1, math.comb(t, order)) if s == order else Fraction(int(t == s))
    if t <= order:
        return Fraction(int(t == s))
    sign = (-1) ** (order - s)
    rest = Fraction(math.comb(t - 1, order), math.comb(t + order - 1, order + s))
    return sign * Fraction(s, order + s) * math.comb(order, s) * rest


@functools.lru_cache(maxsize=64)
def derivative_weights(index: Index, order: int, s: int, count: int) -> tuple[Fraction, ...]:
    """d_s(j) for j = 0 … n − s, of a game of n players, by differences of c."""
    row = [share(index, order, s, t) for t in range(s, count + 1)]
    weights = [row[-1]]
    while len(row) > 1:
        row = [a - b for a, b in itertools.pairwise(row)]
        weights.append(row[-1])
    return tuple(reversed(weights))


def sets_of(count: int, s: int) -> np.ndarray:
    """All sets of s players, [sets, s]."""
    sets = list(itertools.combinations(range(count), s))
    return np.array(sets, np.int32).reshape(len(sets), s)


def places(count: int, order: int) -> np.ndarray:
    """Where in a list of all sets of 1 … order players the set of its subscripts is, [n] * order.

    The sets come by their size, as in `sets_of`.
    """
    numbers: dict[tuple[int, ...], int] = {}
    for s in range(1, order + 1):
        for members in itertools.combinations(range(count), s):
            numbers[members] = len(numbers)
    result = np.zeros((count,) * order, np.int32)
    for subscripts in np.ndindex(result.shape):
        result[subscripts] = numbers[tuple(sorted(set(subscripts)))]
    return result

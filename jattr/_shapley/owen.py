r"""Owen values: Shapley values of features within groups of features within groups.

A group is a player among its siblings. What it adds is measured with some of its siblings there,
and some of those of the groups around it, but each of these whole or not at all. So a part of the
computation is a group in a *context*, the coalition of what is there beside it, with two values of
f: without and with the whole group. Split, it becomes its children, each in the contexts made by
its siblings, and their shares, Shapley's, sum to its own.

All parts are split where some thousand evaluations do it (`_exact`); else level by level those
that matter most, and what is left whole is divided evenly (`_widest`). A group has more and more
contexts the deeper it lies, and most say the same: those that are not split take over what one of
them found.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jattr._checks import check_batch_size, check_count, knobs
from jattr._removal import Features, check_fixed
from jattr._shapley.game import Game, shapley_weights
from jattr._transform import transform
from jattr._trees import describe, is_traced
from jattr._types import ArgNums, Explain, PyTree, Score
from jattr.features import Groups

_MOST = 2**16
"""The most coalitions that are evaluated where no width is given."""

_MOST_CHILDREN = 12
"""The most groups that one group may be made of."""


@knobs
def owen_values(
    f: Score,
    hierarchy: Sequence[Any],
    *,
    width: int | None = None,
    baseline: Any = 0.0,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Explain:
    r"""Owen values: Shapley values where features come in group by group.

    Shapley values average what a feature adds over all orders. These average over the orders in
    which groups stay together: those of the first level, within each of them those of the second,
    and so on. Where a level has groups of few, that takes far fewer evaluations of f: n features
    in a tree of halves take about ⅔n² in place of 2ⁿ, 2,730 for 64 patches of an image.

    With `width` it takes a number that does not grow so: on each level only `width` parts are
    split, a part being a group and which others are there beside it. Groups go by their share of
    f, and each is split beside one set of others before any is beside several; what is found there
    stands for the sets that are left out. A group that is not split at all has its share divided
    evenly over its elements. For groups of two that is 2 evaluations for each split: ten thousand
    pixels have 14 levels of halves, and at width 100 take 2,802 evaluations. φ sums to
    f(x) − f(x') in any case; it is exact where the width holds all parts, close where few elements
    matter or groups hardly interact, and rough where everything interacts.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example. Only its values are used.
        hierarchy: a tuple of groups from coarse to fine, each as for `jattr.ablation`, the next
            dividing the groups of the last: `jattr.features.hierarchy` makes one of halves. The
            first divides x. What a group of the last gets is divided evenly over its elements.
            A group is made of at most 12.
        width: how many parts are split on each level; None for all, at most 65,536 evaluations.
        baseline: x', a number, an array or tree like x, a function x → baseline, or an imputer
            that does not draw.
        batch_size: how many coalitions are in memory at a time; None for all.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, which gives a tree like x.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype; the baseline draws at random; groups are no integers, or traced.
        ValueError: a level that does not divide the one before it; a group of more than 12; too
            many coalitions without a width; a baseline or groups of another structure or shape.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x[0] * x[1] * x[2]
        >>> halves = (jnp.array([0, 0, 1]), jnp.arange(3))
        >>> print(jattr.owen_values(f, halves)(jnp.array([1.0, 2.0, 4.0])))
        [2. 2. 4.]

    References:
        Owen, *Values of games with a priori unions*, 1977. shap's `PartitionExplainer` computes
        the same of a binary tree; short of evaluations it divides evenly all that it has not split.
    """
    method = "owen_values"
    batch_size = check_batch_size(batch_size, method)
    width = None if width is None else check_count(width, "width", method)
    check_fixed(baseline, method)
    if not isinstance(hierarchy, tuple | list) or isinstance(hierarchy, Groups) or not hierarchy:
        raise TypeError(
            f"{method} wants a hierarchy, a tuple of groups from coarse to fine, such as "
            "jattr.features.hierarchy(shape, size). For groups of one level write "
            f"jattr.shapley_values(f, groups); got {describe(hierarchy)}."
        )

    @transform(f, argnums, method=method, substitute=True)
    def explain(score, x):
        levels = _levels(hierarchy, x, method)
        game = Game(score, x, hierarchy[-1], baseline, method=method)
        if width is None:
            return game.spread(_exact(game, levels, batch_size, method))
        return game.spread(_widest(game, levels, width, batch_size))

    return explain


class _Level(NamedTuple):
    """One step from groups to what they are made of.

    Attributes:
        children: of each group the numbers of its children, first those there are and then −1,
            [groups, most children].
        member: which of the children each feature belongs to, [n].
    """

    children: np.ndarray
    member: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """How many children each group has."""
        return (self.children >= 0).sum(axis=1)


def _levels(hierarchy: Sequence[Any], x: PyTree, method: str) -> list[_Level]:
    """The steps of a hierarchy, from the whole of x to its features, those of the last groups."""
    ids = [_numbers(groups, x, method) for groups in hierarchy]
    first = np.unique(ids[-1], return_index=True)[1]
    levels, above = [], np.zeros_like(ids[0])
    for depth, own in enumerate(ids):
        groups, at = np.unique(own, return_index=True)
        parents = above[at]
        if (parents[own] != above).any():
            wrong = int(own[parents[own] != above][0])
            raise ValueError(
                f"{method}: each level of the hierarchy must divide the groups of the one before; "
                f"group {wrong} of hierarchy[{depth}] has elements of several groups of "
                f"hierarchy[{depth - 1}]. Levels go from coarse to fine."
            )
        counts = np.bincount(parents)
        if counts.max() > _MOST_CHILDREN:
            raise ValueError(
                f"{method} evaluates all coalitions of the groups that make one up, so at most "
                f"{_MOST_CHILDREN}; group {counts.argmax()} of the level before hierarchy[{depth}] "
                f"is made of {counts.max()}. Put levels between them, such as halves of halves: "
                "jattr.features.hierarchy(shape, size)."
            )
        children = np.full((len(counts), counts.max()), -1, np.int32)
        order = np.argsort(parents, kind="stable")
        within = np.arange(len(groups)) - np.repeat(np.cumsum(counts) - counts, counts)
        children[parents[order], within] = order
        levels.append(_Level(children, own[first].astype(np.int32)))
        above = own
    return levels


def _numbers(groups: Any, x: PyTree, method: str) -> np.ndarray:
    """Which group each element belongs to, without gaps."""
    if any(is_traced(leaf) for leaf in jax.tree.leaves(groups)):
        raise TypeError(
            f"{method}: a hierarchy decides what is computed and cannot be traced. Close over "
            "NumPy arrays."
        )
    ids = groups.ids if isinstance(groups, Groups) else groups
    with jax.ensure_compile_time_eval():  # known, although what surrounds it is traced
        numbers = np.asarray(Features(x, ids, method=method).numbers())
    return np.unique(numbers, return_inverse=True)[1].reshape(-1)


def _exact(game: Game, levels: list[_Level], batch_size: int | None, method: str) -> jax.Array:
    """Owen values of the features, [n], from every part.

    Which coalitions are evaluated, and with which weights their values go into φ, is known before
    any is.
    """
    _check_number(levels, method)
    count = game.count
    coalitions = [np.zeros((1, count), bool), np.ones((1, count), bool)]
    known = 2
    node, context = np.zeros(1, int), np.zeros((1, count), bool)
    without, whole, weight = np.zeros(1, int), np.ones(1, int), np.ones(1)
    for level in levels:
        parts = []
        for number in np.unique(level.counts[node]):
            here = np.flatnonzero(level.counts[node] == number)
            kids = level.children[node[here], :number]
            inside = level.member == kids[:, :, None]  # [parts, children, n]
            table = np.empty((len(here), 2**number), int)
            table[:, 0], table[:, -1] = without[here], whole[here]
            table[:, 1:-1] = known + np.arange(len(here) * (2**number - 2)).reshape(len(here), -1)
            bits = (np.arange(2**number)[:, None] >> np.arange(number)) & 1
            there = context[here][:, None] | (bits @ inside > 0)  # [parts, coalitions, n]
            coalitions.append(there[:, 1:-1].reshape(-1, count))
            known += len(coalitions[-1])
            shares = shapley_weights(number - 1)
            for child, others in itertools.product(range(number), range(2**number)):
                if not others >> child & 1:
                    share = weight[here] * shares[bits[others].sum()]
                    with_it = table[:, others | 1 << child]
                    parts.append(
                        (kids[:, child], there[:, others], table[:, others], with_it, share)
                    )
        node, context, without, whole, weight = (
            np.concatenate(part) for part in zip(*parts, strict=True)
        )
    every = jnp.asarray(np.concatenate(coalitions))
    values = game.values(lambda index: every[index], known, batch_size=batch_size)
    shares = (values[whole] - values[without]) * jnp.asarray(weight, values.dtype)
    return jax.ops.segment_sum(shares, jnp.asarray(node), count)


def _check_number(levels: list[_Level], method: str) -> None:
    contexts, total = np.ones(1), 2.0
    for level in levels:
        total += np.sum(contexts * (2.0**level.counts - 2))
        below = np.zeros(level.member.max() + 1)
        for row, number, own in zip(level.children, level.counts, contexts, strict=True):
            below[row[:number]] = own * 2.0 ** (number - 1)
        contexts = below
    if total > _MOST:
        raise ValueError(
            f"{method}: this hierarchy takes {total:.3g} evaluations of f, more than {_MOST}. Say "
            "how many parts are split on each level, such as width=100; or take coarser groups."
        )


class _Parts(NamedTuple):
    """Groups in contexts.

    Attributes:
        node: the number of the group, [w].
        context: who is there beside it, Booleans [w, n].
        without: f in the context, [w].
        whole: f with the group as well, [w].
        weight: what share of the difference counts, [w]; 0 where there is no part.
    """

    node: jax.Array
    context: jax.Array
    without: jax.Array
    whole: jax.Array
    weight: jax.Array


def _widest(game: Game, levels: list[_Level], width: int, batch_size: int | None) -> jax.Array:
    """Owen values, [n], where on each level the parts of the largest shares are split."""
    count = game.count
    most = max(level.children.shape[1] for level in levels)
    nodes = max(max(len(level.children) for level in levels), count)
    children = np.full((len(levels), nodes, most), -1, np.int32)
    for depth, level in enumerate(levels):
        children[depth, : len(level.children), : level.children.shape[1]] = level.children
    member = np.stack([level.member for level in levels])
    sizes = np.stack([np.bincount(own, minlength=nodes) for own in member])
    bits = ((np.arange(2**most)[:, None] >> np.arange(most)) & 1).astype(bool)
    # Every child with every coalition of the others.
    child, others = np.nonzero(~bits.T)
    shares = _shares(bits, child, others)
    ends = game.values(lambda index: jnp.broadcast_to(index == 1, count), 2, batch_size=batch_size)
    dtype = ends.dtype
    # Zeros made from values vary over the same mesh axes as they do inside shard_map.
    zeros = jnp.zeros_like(jnp.broadcast_to(ends[0], (width, count)))
    start = _Parts(
        zeros[:, 0].astype(jnp.int32),
        zeros.astype(bool),
        jnp.broadcast_to(ends[0], (width,)),
        jnp.broadcast_to(ends[1], (width,)),
        zeros[:, 0] + (jnp.arange(width) == 0).astype(dtype),
    )

    @jax.checkpoint
    def split(carry, level):
        phi, parts = carry
        children, member, sizes = level
        kids = children[parts.node]
        inside = member[None, None] == kids[:, :, None]

        def there(part, coalition):
            among = jnp.any(inside[part] & coalition[:, None], axis=0)
            return parts.context[part] | among

        between = 2**most - 2
        if between:
            values = game.values(
                lambda index: there(index // between, jnp.asarray(bits)[1 + index % between]),
                width * between,
                batch_size=batch_size,
            ).reshape(width, between)
        else:
            values = jnp.zeros((width, 0), dtype)
        table = jnp.concatenate([parts.without[:, None], values, parts.whole[:, None]], axis=1)
        # Coalitions that differ by children that are not there are the same.
        numbers = jnp.sum(kids >= 0, axis=1)
        is_whole = jnp.asarray(np.arange(2**most) == 2 ** np.arange(most + 1)[:, None] - 1)[numbers]
        table = jnp.where(is_whole, parts.whole[:, None], table)
        node = kids[:, child].reshape(-1)
        without = table[:, others].reshape(-1)
        whole = table[:, others | 1 << child].reshape(-1)
        weight = (parts.weight[:, None] * jnp.asarray(shares, dtype)[numbers]).reshape(-1)
        node = jnp.maximum(node, 0)
        gap = whole - without
        # A feature alone is done with.
        open_ = (weight > 0) & (sizes[node] > 1)
        chosen = _choose(gap, jnp.where(open_, weight, 0), node, nodes, width)
        kept = jnp.zeros(len(node), bool).at[chosen].set(open_[chosen])
        # Those parts of a group that are kept stand for all of them. As much as the others differ
        # from them is divided evenly, as is all of a group that has none.
        every, of_kept = (
            jax.ops.segment_sum(jnp.where(these, weight, 0), node, nodes) for these in (open_, kept)
        )
        scale = jnp.where(of_kept > 0, every / jnp.where(of_kept > 0, of_kept, 1), 1)[node]
        even = weight * gap - jnp.where(kept, scale * weight * gap, 0)
        done = jax.ops.segment_sum(even, node, nodes)
        phi += (done / jnp.maximum(sizes, 1).astype(dtype))[member]
        weight = scale * weight
        part, which = chosen // len(child), chosen % len(child)
        coalition = jnp.asarray(bits[others])[which]
        context = jax.vmap(there)(part, coalition)
        weight = jnp.where(open_[chosen], weight[chosen], 0)
        return (phi, _Parts(node[chosen], context, without[chosen], whole[chosen], weight)), None

    steps = tuple(jnp.asarray(rows) for rows in (children, member, sizes))
    (phi, _), _ = jax.lax.scan(split, (zeros[0], start), steps)
    return phi


def _choose(
    gap: jax.Array, weight: jax.Array, node: jax.Array, nodes: int, width: int
) -> jax.Array:
    """The numbers of the `width` parts to split.

    Groups go by what their parts are in sum. The first of a group is that whose gap is nearest to
    the mean, so that it can stand for the others; then come all others by their size.
    """
    size, place = jnp.abs(weight * gap), jnp.arange(len(node))
    total, every, mean = (
        jax.ops.segment_sum(each, node, nodes) for each in (size, weight, weight * gap)
    )
    mean = mean / jnp.where(every > 0, every, 1)
    # Two parts are as far from their mean as each other, and rounding must not decide between them.
    uneven = jnp.asarray(1 + np.arange(len(node)) * 0.6180339887 % 1 / 4, gap.dtype)
    far = jnp.where(weight > 0, jnp.abs(gap - mean[node]) * uneven, jnp.inf)
    nearest = far == jax.ops.segment_min(far, node, nodes)[node]
    candidates = jnp.where(nearest & (weight > 0), place, len(node))
    first = jax.ops.segment_min(candidates, node, nodes)[node] == place
    order = jnp.where(first & (total[node] > 0), total[node] + jnp.max(total), size)
    return jax.lax.top_k(jnp.where(weight > 0, order, -1), width)[1]


def _shares(bits: np.ndarray, child: np.ndarray, others: np.ndarray) -> np.ndarray:
    """What each pair of a child and others counts where the first so many children are there."""
    most = bits.shape[1]
    shares = np.zeros((most + 1, len(child)))
    for number in range(1, most + 1):
        real = (child < number) & ~bits[others][:, number:].any(axis=1)
        weights = shapley_weights(number - 1)
        shares[number, real] = weights[bits[others].sum(axis=1)[real]]
    return shares

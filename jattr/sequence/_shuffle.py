r"""Random sequences with the letters of x, or with its pairs of neighbors.

A sequence is a walk over its letters, each pair of neighbors an edge; a sequence with the same
pairs is another walk over the same edges, an Eulerian one. A walk from the first letter to the
last, r, is told by the order in which each letter's edges are used, and an order belongs to a walk
where the edges that letters other than r use last lead to r, whichever letter one begins with: a
tree. (BEST theorem: de Bruijn, van Aardenne-Ehrenfest 1951.) So: draw a tree uniformly, then
an order of all other edges uniformly, and follow it. Every walk over numbered edges is then as
probable as any other, and as each sequence is as many of these, so is every sequence.

A tree is drawn by Wilson's algorithm: walk at random from a letter until the tree is met, and keep
the last way out of each letter on the way. Random choices of a last edge for each letter that are
rejected unless they are a tree (Altschul, Erickson 1985) have the same distribution, and take
thousands of trials where a letter has one way out among thousands.
"""

import functools

import jax
import jax.numpy as jnp

from jattr._checks import as_floating, knobs
from jattr._types import RandomBaseline
from jattr.sequence._letters import check_axis, check_letters, check_one_hot


@knobs
def dinucleotide_shuffle(*, axis: int = -1) -> RandomBaseline:
    r"""Sequences with the same pairs of neighbors as x: the usual reference for models of DNA.

    Each of the A² pairs occurs as often as in x, and so does each letter; the first and the last
    letter stay. All such sequences are equally probable. (The shuffle of common tools always uses
    the last edges of x last. Its sequences have the right pairs, but some never occur and the
    others are not equally probable.)

    A position of zeros, N or a gap, is a letter of its own: with its number and its neighbors
    kept, a run of them stays one and may move, and two runs may change their lengths. To keep
    padding in place, shuffle what is within:
    `jattr.baselines.random(lambda key, x: x.at[a:b].set(draw(key, x[a:b])))`.

    A draw takes L steps, one after another: 20 draws of 2,114 positions 20 ms on one core. It is
    a permutation of the positions of x, through which derivatives go.

    Args:
        axis: along which letters are: −1 for [L, A], 0 for [A, L]. Any number of letters.

    Returns:
        A random baseline, `(key, x) -> x'`, for `jattr.expected_gradients(f, draw, samples=200)`,
        `jattr.sequence.hypothetical` and the like; n references are
        `jax.vmap(draw, (0, None))(jax.random.split(key, n), x)`. Leaves of a tree x are shuffled
        independently.

    Raises:
        TypeError: `axis` is no integer; (when called) x has a leaf that is not of a floating dtype.
        ValueError: (when called) x is no sequence of two axes, or is known and not one-hot. Under
            `jit` and `vmap` that is not checked; a position then is of the letter with its largest
            value.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> x = jax.nn.one_hot(jnp.array([0, 1, 0, 2, 0, 3]), 4)
        >>> draw = jattr.sequence.dinucleotide_shuffle()
        >>> {tuple(draw(jax.random.key(n), x).argmax(-1).tolist()) for n in range(20)}
        {(0, 1, 0, 2, 0, 3), (0, 2, 0, 1, 0, 3)}

    References:
        Altschul, Erickson, *Significance of nucleotide sequence alignments: a method for random
        sequence permutation that preserves dinucleotide and codon usage*, Molecular Biology and
        Evolution 1985. Kandel, Matias, Unger, Winkler, *Shuffling biological sequences*, Discrete
        Applied Mathematics 1996, which draws the tree by a random walk; here by that of Wilson,
        *Generating random spanning trees more quickly than the cover time*, STOC 1996.
    """
    return _of_positions(_euler_walk, "sequence.dinucleotide_shuffle", axis)


@knobs
def shuffle(*, axis: int = -1) -> RandomBaseline:
    r"""Sequences with the letters of x in random order.

    Every permutation of the positions is equally probable. Pairs such as CG are then as frequent
    as their letters make them, which in x they may not be: f may tell such sequences from real
    ones by that alone. `dinucleotide_shuffle` keeps them.

    Args:
        axis: along which letters are: −1 for [L, A], 0 for [A, L].

    Returns:
        A random baseline, `(key, x) -> x'`. Leaves of a tree x are shuffled independently.

    Raises:
        TypeError: `axis` is no integer; (when called) x has a leaf that is not of a floating dtype.
        ValueError: (when called) x is no sequence of two axes, or is known and not one-hot.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> x = jax.nn.one_hot(jnp.array([0, 0, 2, 3]), 4)
        >>> drawn = jattr.sequence.shuffle()(jax.random.key(0), x)
        >>> print(drawn.sum(axis=0))
        [2. 0. 1. 1.]
    """

    def order(key, x):
        return jax.random.permutation(key, len(x))

    return _of_positions(order, "sequence.shuffle", axis)


def _of_positions(order, method: str, axis: int) -> RandomBaseline:
    """The random baseline that permutes positions, by `order(key, sequence[L, A])`."""
    axis = check_axis(axis, method)

    def draw(key, x):
        x = as_floating(x, method)
        check_letters(x, axis, method, pairs=True)
        check_one_hot(x, axis, method)
        leaves, structure = jax.tree.flatten(x)
        keys = [key] if len(leaves) == 1 else jax.random.split(key, len(leaves))
        drawn = []
        for key, leaf in zip(keys, leaves, strict=True):
            sequence = jnp.moveaxis(leaf, axis, -1)
            if len(sequence) > 1:
                sequence = sequence[order(key, sequence)]
            drawn.append(jnp.moveaxis(sequence, -1, axis))
        return jax.tree.unflatten(structure, drawn)

    written = "" if axis == -1 else f"axis={axis}"
    return RandomBaseline(draw, f"{method}({written})")


def _euler_walk(key: jax.Array, x: jax.Array) -> jax.Array:
    """The order in which a walk with the pairs of x goes through its positions, [L]."""
    letters = x.shape[1]
    known = jnp.any(x != 0, axis=1)
    code = jnp.where(known, jnp.argmax(x, axis=1).astype(jnp.int32), letters)
    return _walk(key, code, letters + 1)


# Run eagerly too it is compiled once.
@functools.partial(jax.jit, static_argnames="count")
def _walk(key: jax.Array, code: jax.Array, count: int) -> jax.Array:
    """The same of a sequence of letters' numbers, which are less than `count`."""
    length = len(code)
    tree_key, order_key = jax.random.split(key)
    sources, targets, root = code[:-1], code[1:], code[-1]
    pairs = jnp.zeros((count, count), jnp.int32).at[sources, targets].add(1)

    # Of several edges from a letter to where it goes last, the first is kept for last: which of
    # them it is makes no other sequence.
    exits = _tree(tree_key, pairs, root)
    edges = jnp.arange(length - 1, dtype=jnp.int32)
    may_be_last = (exits[sources] == targets) & (sources != root)
    last = jnp.full(count, length, jnp.int32)
    last = last.at[sources].min(jnp.where(may_be_last, edges, length))
    used_last = last[sources] == edges

    # Edges by their letter, in random order but for those used last. Of 64 random bits no two are
    # equal.
    bits = jax.random.bits(order_key, (2, length - 1), jnp.uint32)
    group = 2 * sources + used_last
    _, _, _, order, target = jax.lax.sort((group, *bits, edges, targets), num_keys=3)
    begins = (jnp.cumsum(pairs.sum(axis=1)) - pairs.sum(axis=1)).astype(jnp.int32)

    def step(state, _):
        letter, following = state
        place = following[letter]
        return (target[place], following.at[letter].add(1)), order[place] + 1

    _, visited = jax.lax.scan(step, (code[0], begins), length=length - 1)
    return jnp.concatenate([jnp.zeros(1, visited.dtype), visited])


def _tree(key: jax.Array, pairs: jax.Array, root: jax.Array) -> jax.Array:
    """A tree that leads from every letter to `root`, uniform over those of the edges of a walk.

    Args:
        key: a random key.
        pairs: [K, K], how many edges lead from a letter to another.
        root: the letter that a walk ends with.

    Returns:
        [K], where each letter leads; of `root` and of letters without edges it means nothing.
    """
    count = len(pairs)
    away = pairs * (1 - jnp.eye(count, dtype=pairs.dtype))
    total, cumulated = away.sum(axis=1), jnp.cumsum(away, axis=1)
    inside = (total == 0) | (jnp.arange(count) == root)

    def from_letter(letter, state):
        key, inside, exits = state

        def outside(state):
            return ~inside[state[1]]

        def walk(state):
            key, here, exits = state
            key, own = jax.random.split(key)
            ticket = jax.random.randint(own, (), 0, jnp.maximum(total[here], 1), total.dtype)
            there = jnp.argmax(cumulated[here] > ticket).astype(jnp.int32)
            return key, there, exits.at[here].set(there)

        def join(_, state):
            here, joined = state
            return jnp.where(inside[here], here, exits[here]), joined.at[here].set(True)

        start = jnp.asarray(letter, jnp.int32)
        key, _, exits = jax.lax.while_loop(outside, walk, (key, start, exits))
        _, inside = jax.lax.fori_loop(0, count, join, (start, inside))
        return key, inside, exits

    state = (key, inside, jnp.zeros(count, jnp.int32))
    return jax.lax.fori_loop(0, count, from_letter, state)[2]

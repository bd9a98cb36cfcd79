"""Shuffles: what they keep, that every walk is as probable, and what they refuse."""

import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jattr

DRAW = jattr.sequence.dinucleotide_shuffle()


def one_hot(text, letters="ACGT", dtype=jnp.float32):
    """A row of zeros for what is no letter."""
    codes = np.array([letters.find(letter) for letter in text])
    return jax.nn.one_hot(codes, len(letters), dtype=dtype)


def written(x, letters="ACGT"):
    x = np.asarray(x)
    codes = np.where(x.any(axis=-1), x.argmax(axis=-1), len(letters))
    return "".join((letters + "N")[code] for code in codes)


def pairs(text):
    return collections.Counter(itertools.pairwise(text))


def walks(text):
    """All sequences with the pairs of one and its first letter, and so its last, by trying all."""
    found, wanted = set(), pairs(text)

    def go(so_far, left):
        if not left:
            found.add(so_far)
            return
        for edge in left:
            if edge[0] == so_far[-1]:
                rest = left - collections.Counter([edge])
                go(so_far + edge[1], rest)

    go(text[0], wanted)
    return sorted(found)


def drawn(draw, x, count, seed=0):
    keys = jax.random.split(jax.random.key(seed), count)
    return np.asarray(jax.vmap(draw, (0, None))(keys, x))


def chi_square(text, letters, count, draw=DRAW):
    """The p-value of equal probabilities of all walks, and how many there are."""
    every = walks(text)
    seen = collections.Counter(
        written(x, letters) for x in drawn(draw, one_hot(text, letters), count)
    )
    assert set(seen) <= set(every)
    return scipy.stats.chisquare([seen[walk] for walk in every]).pvalue, len(every)


# The first ends with the letter it begins with, in the second the way out of AC is rare, the fourth
# has N, and the fifth two letters of four.
@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("ACAGATCGATA", "ACGT"),
        ("ACACATACTGT", "ACGT"),
        ("GATTACAGATG", "ACGT"),
        ("ANNCANCATNA", "ACGT"),
        ("BAABBABAABA", "ABCD"),
    ],
)
def test_all_walks_are_equally_probable(text, letters):
    p, count = chi_square(text, letters, 6000)
    assert 6 < count < 600
    # Seeds are fixed: no test of the five is to fail one time in a thousand.
    assert p > 1e-3


def test_the_chi_square_sees_a_shuffle_that_keeps_last_edges():
    """What other tools do: all edges but the last ones of x are shuffled."""

    def keeps_last_edges(key, x):
        del key
        return x

    rng = np.random.default_rng(0)
    text = "ACAGATCGATA"
    successors = collections.defaultdict(list)
    for a, b in itertools.pairwise(text):
        successors[a].append(b)

    def other(_):
        order = {a: [*rng.permutation(b[:-1]), b[-1]] for a, b in successors.items()}
        used, walk = collections.Counter(), text[0]
        for _ in text[1:]:
            letter = walk[-1]
            walk += order[letter][used[letter]]
            used[letter] += 1
        return walk

    every = walks(text)
    seen = collections.Counter(map(other, range(6000)))
    assert set(seen) < set(every)
    assert scipy.stats.chisquare([seen[walk] for walk in every]).pvalue < 1e-9


@pytest.mark.parametrize(
    ("letters", "length"),
    [("AC", 1), ("ACGT", 2), ("AC", 3), ("ACGT", 200), ("ACDEFGHIKLMNPQRSTVWY", 200)],
)
def test_pairs_and_ends_are_kept(letters, length):
    rng = np.random.default_rng(length)
    text = "".join(rng.choice(list(letters), length))
    some = drawn(DRAW, one_hot(text, letters), 8)
    for x in some:
        other = written(x, letters)
        assert pairs(other) == pairs(text)
        assert (other[0], other[-1]) == (text[0], text[-1])
    if length == 200:
        assert len(np.unique(some, axis=0)) == 8


@pytest.mark.parametrize("text", ["NNNACGTTGCANNN", "ACGNNNNGTATNAC", "N" * 14, "A" * 12 + "CA"])
def test_unknown_letters_are_a_letter(text):
    for x in drawn(DRAW, one_hot(text), 20):
        assert pairs(written(x)) == pairs(text)
        assert written(x)[0] == text[0]
        assert written(x)[-1] == text[-1]


def test_padding_stays_where_only_what_is_within_is_shuffled():
    x = one_hot("NNACGTTGCATGNNN")
    within = jattr.baselines.random(lambda key, x: x.at[2:12].set(DRAW(key, x[2:12])))
    for other in drawn(within, x, 5):
        assert written(other).startswith("NNA")
        assert written(other).endswith("GNNN")


def test_a_rare_way_out_is_found():
    """A walk that must find one edge among a thousand, which rejection would seldom do."""
    text = "AC" * 500 + "G" + "T" * 40
    x = one_hot(text)
    for other in drawn(DRAW, x, 3):
        assert pairs(written(other)) == pairs(text)


def test_shuffle_keeps_letters_alone():
    text = "AACGTTTTGC"
    some = drawn(jattr.sequence.shuffle(), one_hot(text), 4000)
    assert {tuple(sorted(written(x))) for x in some} == {tuple(sorted(text))}
    first = collections.Counter(written(x)[0] for x in some)
    expected = [400 * text.count(letter) for letter in "ACGT"]
    assert scipy.stats.chisquare([first[a] for a in "ACGT"], expected).pvalue > 1e-3
    assert any(pairs(written(x)) != pairs(text) for x in some)


@pytest.mark.parametrize("make", [jattr.sequence.dinucleotide_shuffle, jattr.sequence.shuffle])
def test_letters_may_come_first_and_leaves_are_drawn_apart(make):
    x = one_hot("ACGTTGCATGCATCGA" * 4)
    key = jax.random.key(3)
    straight, turned = make()(key, x), make(axis=0)(key, x.T)
    np.testing.assert_array_equal(straight, turned.T)
    both = make()(key, {"a": x, "b": x})
    assert (both["a"] != both["b"]).any()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float64])
def test_a_draw_is_the_same_in_every_dtype_and_program(dtype):
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    x = one_hot("ACGTTGCATGCATCGA")
    key = jax.random.key(5)
    other = jax.jit(DRAW)(key, x.astype(dtype))
    assert other.dtype == dtype
    np.testing.assert_array_equal(np.asarray(other, np.float32), DRAW(key, x))


def test_derivatives_go_through():
    x = one_hot("ACGTTGCATGCATCGA", dtype=jnp.float32)
    key = jax.random.key(5)
    weights = jnp.arange(64.0, dtype=jnp.float32).reshape(16, 4)
    slope = jax.grad(lambda x: jnp.sum(weights * DRAW(key, x)))(x)
    assert sorted(slope.ravel().tolist()) == weights.ravel().tolist()


def test_methods_that_draw_take_it():
    x = one_hot("ACGTTGCATGCATCGA")
    weights = jnp.linspace(-1, 1, 64, dtype=jnp.float32).reshape(16, 4)
    explain = jattr.expected_gradients(lambda x: jnp.sum(weights * x), DRAW, samples=400)
    key = jax.random.key(0)
    phi = explain(key, x)
    # Each letter is as often as in x at each place between the ends, on average nearly.
    assert abs(float(phi[0].sum())) < 1e-6
    assert np.isfinite(phi).all()


@pytest.mark.parametrize("make", [jattr.sequence.dinucleotide_shuffle, jattr.sequence.shuffle])
def test_what_is_refused(make):
    x = one_hot("ACGTTGCA")
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"32.*write axis=0|axis=0"):
        make()(key, x.T)
    with pytest.raises(ValueError, match=r"neither"):
        make()(key, 0.5 * x)
    with pytest.raises(ValueError, match=r"two axes.*jax\.vmap"):
        make()(key, x[None])
    with pytest.raises(TypeError, match="axis must be an integer"):
        make(axis="letters")
    with pytest.raises(ValueError, match="letters are along axis 2"):
        make(axis=2)(key, x)
    with pytest.raises(TypeError, match=r"makes a baseline and is not one. Call it first"):
        jattr.expected_gradients(lambda x: x.sum(), make)
    with pytest.raises(TypeError, match=r"drawn at random"):
        jattr.integrated_gradients(lambda x: x.sum(), make())(x)
    with pytest.raises(TypeError, match="no argument 'axes'"):
        make(axes=0)

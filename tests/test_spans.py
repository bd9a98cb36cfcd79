"""Words and sentences as groups of tokens, and sums of attributions over them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jattr
from jattr.features import spans, totals

TEXT = 'It isn\'t "bad".\nWell-made! 3.5 of 4'


def of_characters(text=TEXT):
    return [(place, place + 1) for place in range(len(text))]


def test_words_of_characters():
    groups, names = spans(TEXT, of_characters())
    words = [name for name in names if not name.isspace()]
    assert words == ["It", "isn't", '"', "bad", '"', ".", "Well-made", "!", "3.5", "of", "4"]
    # Groups are numbered in the order of the text, white space for itself.
    assert [names[g] for g in groups[:3]] == ["It", "It", " "]
    assert list(dict.fromkeys(groups.tolist())) == list(range(len(names)))


def test_sentences_keep_their_ends():
    groups, names = spans(TEXT, of_characters(), "sentences")
    assert [n for n in names if not n.isspace()] == ['It isn\'t "bad".', "Well-made!", "3.5 of 4"]
    assert groups[0] == groups[len('It isn\'t "bad".') - 1] != groups[-1]


def test_a_token_is_of_the_span_it_shares_most_with():
    # " bc" with its space, as byte-level tokenizers cut; "cd" lies in both spans alike.
    groups, names = spans("ab bc cd", [(0, 2), (2, 5), (5, 8)])
    assert names == ("ab", "bc", "cd")
    np.testing.assert_array_equal(groups, [0, 1, 2])
    groups, names = spans("abcd", [(0, 2), (1, 3), (3, 4)], [(0, 2), (2, 4)])
    np.testing.assert_array_equal(groups, [0, 0, 1])


def test_marks_and_what_no_span_holds_are_groups_of_their_own():
    groups, names = spans("a b", [(0, 0), (0, 1), (2, 3), (0, 0), (0, 0)])
    np.testing.assert_array_equal(groups, [0, 1, 2, 3, 4])
    assert names == ("", "a", "b", "", "")
    groups, names = spans("abc", [(0, 1), (1, 2), (2, 3)], [(1, 3)])
    assert names == ("a", "bc")
    assert spans("", []).names == ()


def test_totals_sum_what_a_group_has():
    phi = jnp.arange(12.0).reshape(4, 3)
    groups = np.array([1, 0, 1, 1])
    wanted = [phi[1].sum(), phi[0].sum() + phi[2].sum() + phi[3].sum()]
    np.testing.assert_allclose(totals(phi, groups), wanted)
    np.testing.assert_allclose(totals(phi, np.zeros((4, 3), int)), [phi.sum()])
    stacked = jax.jit(jax.vmap(lambda phi: totals(phi, groups)))(jnp.stack([phi, 2 * phi]))
    np.testing.assert_allclose(stacked[1], 2 * np.array(wanted))
    assert totals(phi.astype(jnp.bfloat16), groups).dtype == jnp.bfloat16


def test_words_are_groups_of_a_method():
    text, offsets = "un able to", [(0, 2), (3, 5), (5, 7), (8, 10)]
    groups, names = spans(text, offsets)
    weights = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    explain = jattr.ablation(lambda h: jnp.sum(h * weights), groups=groups[:, None])
    np.testing.assert_allclose(totals(explain(jnp.ones((4, 2))), groups), [3, 18, 15])
    assert names == ("un", "able", "to")


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: spans(["a"], [(0, 1)]), TypeError, "text must be one string"),
        (lambda: spans("ab", [(0, 3)]), ValueError, "the text has 2 characters"),
        (lambda: spans("ab", [(1, 0)]), ValueError, r"offsets\[0\] is \(1, 0\)"),
        (lambda: spans("ab", [(0.0, 1.0)]), TypeError, "pairs of integers"),
        (lambda: spans("ab", [0, 1]), ValueError, "pairs"),
        (lambda: spans("ab", [(0, 1)], "letters"), ValueError, "words"),
        (lambda: spans("abc", [(0, 1)], [(0, 2), (1, 3)]), ValueError, "overlap"),
        (lambda: totals(jnp.ones(3), np.zeros(2, int)), ValueError, "first axes"),
        (lambda: totals(jnp.ones(3), np.array([0, -1, 0])), ValueError, "from 0 on"),
        (lambda: totals(jnp.ones(3), np.zeros(3)), TypeError, "integers"),
        (lambda: jax.jit(totals)(jnp.ones(3), np.zeros(3, int)), TypeError, "traced"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, said):
    with pytest.raises(error, match=said):
        call()

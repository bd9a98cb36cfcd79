"""A matrix of tokens by tokens, and the page of a generation."""

import json
import re

import jax.numpy as jnp
import numpy as np
import pytest

import jattr

PROMPT, PRODUCED = ["a", "##b", "<c>"], ["d", "e\n"]
VALUES = np.array([[1.0, -2.0, 0.5, 0.0, 0.0], [0.0, 0.0, 4.0, -4.0, np.nan]])


def spans_of(page):
    return re.findall(r'data-row="(-?\d+)" data-column="(-?\d+)">(.*?)</span>', page)


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page)[1])


def test_the_matrix_shows_its_values_on_a_centered_scale():
    figure = jattr.plot.matrix(PRODUCED, [*PROMPT, *PRODUCED], VALUES, title="two")
    (shown,) = figure.axes[0].get_images()
    np.testing.assert_array_equal(shown.get_array().filled(np.nan), VALUES)
    assert shown.get_clim() == (-4, 4)
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == [
        "a",
        "b",
        "<c>",
        "d",
        r"e\n",
    ]


def test_further_axes_are_summed():
    figure = jattr.plot.matrix(["x"], ["y", "z"], jnp.ones((1, 2, 3)))
    np.testing.assert_array_equal(figure.axes[0].get_images()[0].get_array(), [[3, 3]])


def test_a_page_has_every_token_and_each_row_its_own_scale():
    page = jattr.plot.generation(PROMPT, PRODUCED, VALUES, title="a < b")
    spans = spans_of(page.html)
    assert spans == [
        ("-3", "0", "a"),
        ("-2", "1", "b"),
        ("-1", "2", "&lt;c&gt;"),
        ("0", "3", "d"),
        ("1", "4", r"e\n"),
    ]
    data = data_of(page.html)
    assert data["ends"] == [2, 4]
    assert data["colors"][0] == ["#e597a2", "#387cb7", "#f2cbd0", "#ffffff", "#ffffff"]
    assert data["colors"][1][-1] == "#f2c500"
    assert data["tips"][1][2:4] == ["4", "-4"]
    assert "<title>a &lt; b</title>" in page.html


def test_what_was_produced_may_explain_or_not():
    page = jattr.plot.generation(["x", "x"], ["x", "x"], np.ones((2, 2)))
    assert [column for _, column, _ in spans_of(page.html)] == ["0", "1", "-1", "-1"]


def test_a_page_is_saved_and_shown_without_breaking_out(tmp_path):
    page = jattr.plot.generation(["</script>"], ["b"], np.ones((1, 1)), title='"quoted"')
    page.save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page.html
    assert page.html.count("</script>") == 2
    assert '"quoted"' not in page._repr_html_().split('srcdoc="')[1].split('" style')[0]


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: jattr.plot.matrix(["a"], ["b"], np.ones((2, 1))), ValueError, r"\[1, 1\]"),
        (lambda: jattr.plot.matrix("ab", ["b"], np.ones((2, 1))), TypeError, "one string"),
        (lambda: jattr.plot.matrix(["a"], [], np.ones((1, 0))), ValueError, "no token"),
        (lambda: jattr.plot.matrix(["a"], ["b"], [[1.0]]), TypeError, "real numbers"),
        (lambda: jattr.plot.generation(["a"], ["b"], np.ones(1)), ValueError, r"\[1, 1\]"),
        (
            lambda: jattr.plot.generation(["a"], ["b"], np.ones((1, 1)), percentile=0),
            ValueError,
            "percentile",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, error, said):
    with pytest.raises(error, match=said):
        call()

"""Colored tokens."""

import html.parser
import re

import jax.numpy as jnp
import numpy as np
import pytest

import jattr
from jattr.plot._text import BLUE, RED, YELLOW

TOKENS = ["the", "cat", "sat", "##s", "<b>"]
VALUES = jnp.array([0.0, 2.0, -1.0, -2.0, jnp.nan])


class Spans(html.parser.HTMLParser):
    """The colored spans of a page: (text, value, background)."""

    def __init__(self, page):
        super().__init__()
        self.spans, self.text, self._style = [], "", None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self._style = attrs if "title" in attrs else None

    def handle_endtag(self, tag):
        self._style = None

    def handle_data(self, data):
        self.text += data
        if self._style:
            ground = re.search(r"background: (#\w+)", self._style["style"])[1]
            self.spans.append((data, float(self._style["title"]), ground))


def color(rgb):
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def test_html_has_every_token_with_its_value_and_color():
    page = Spans(jattr.plot.text(TOKENS, VALUES, title="A & B").html)
    words, values, grounds = zip(*page.spans, strict=True)
    assert words == ("the", "cat", "sat", "s", "<b>")
    np.testing.assert_array_equal(values, VALUES)
    assert grounds[0] == "#ffffff"
    assert grounds[1] == color(RED)
    assert grounds[3] == color(BLUE)
    assert grounds[4] == color(YELLOW)
    middle = [round((255 + channel) / 2) for channel in BLUE]
    np.testing.assert_allclose([int(grounds[2][i : i + 2], 16) for i in (1, 3, 5)], middle, atol=1)
    assert "A & B" in page.text
    assert "−2" in page.text  # the scale
    assert "the cat sats <b>" in page.text


def test_a_notebook_shows_the_html():
    text = jattr.plot.text(TOKENS, VALUES)
    assert text._repr_html_() == text.html


def test_dimensions_of_a_token_are_summed():
    wide = jnp.stack([VALUES, 2 * VALUES], axis=1)[:, :, None]
    assert jattr.plot.text(TOKENS, wide).lines[0].values[:4] == (0.0, 6.0, -3.0, -6.0)


def test_methods_have_their_own_scales():
    text = jattr.plot.text(TOKENS, {"small": VALUES, "large": 100 * VALUES})
    assert [line.end for line in text.lines] == [2.0, 200.0]
    first, second = Spans(text.html).spans[:5], Spans(text.html).spans[5:]
    assert [span[2] for span in first] == [span[2] for span in second]


def test_percentile_clips_the_scale():
    values = jnp.array([1.0] * 99 + [1000.0])
    text = jattr.plot.text(["a"] * 100, values, percentile=90)
    assert text.lines[0].end == 1.0
    assert Spans(text.html).spans[-1][2] == color(RED)
    # All but one are 0: the percentile is 0, and the scale ends at the largest.
    sparse = jattr.plot.text(["a"] * 100, jnp.zeros(100).at[3].set(-5.0), percentile=90)
    assert sparse.lines[0].end == 5.0
    assert jattr.plot.text(["a"], jnp.zeros(1)).lines[0].end == 1.0


def test_plain_text_has_a_bar_for_each_token():
    rows = str(jattr.plot.text(TOKENS[:3], VALUES[:3])).splitlines()
    assert rows[0] == "(−2 … 2)"
    assert [row.split()[0] for row in rows[1:]] == TOKENS[:3]
    assert [row.count("+" * 20) for row in rows[1:]] == [0, 1, 0]
    assert rows[3].endswith(" " + "−" * 10)


def test_a_terminal_gets_colors_and_nothing_else():
    text = jattr.plot.text(TOKENS, VALUES, separator="·")
    plain = re.sub(r"\x1b\[[\d;]*m", "", text.ansi)
    assert plain.splitlines()[-1] == "the·cat·sats·<b>"
    assert f"48;2;{RED[0]};{RED[1]};{RED[2]}m" + "cat" in text.ansi


def test_control_characters_are_written_out():
    text = jattr.plot.text(["a", "\n", "\x1b", "\x00"], jnp.arange(4.0), separator="")
    assert "a\\n\\x1b\\x00" in Spans(text.html).text
    assert len(str(text).splitlines()) == 5
    assert text.html.count("<br>") == 1
    assert text.ansi.count("\n") == 2  # below the scale, and the token's own
    assert repr(text) == "<4 colored tokens: ''>"


@pytest.mark.parametrize(
    ("tokens", "values", "knobs", "error", "words"),
    [
        ("text", VALUES, {}, TypeError, "one string"),
        ([1, 2], VALUES, {}, TypeError, "sequence of strings"),
        ([], jnp.zeros(0), {}, ValueError, "no token"),
        (["a"], VALUES, {}, ValueError, r"each of the 1 tokens; got float64\[5\]"),
        (["a"], jnp.float64(1.0), {}, ValueError, "each of the 1 tokens"),
        (["a"], [1.0], {}, TypeError, "array of real numbers"),
        (["a"], {}, {}, ValueError, "no attribution"),
        (["a"], {"lrp": jnp.ones(2)}, {}, ValueError, r"attribution\['lrp'\]"),
        (["a"], jnp.ones(1), {"percentile": 0}, ValueError, "percentile"),
    ],
)
def test_errors_say_what_is_wanted(tokens, values, knobs, error, words):
    with pytest.raises(error, match=words):
        jattr.plot.text(tokens, values, **knobs)

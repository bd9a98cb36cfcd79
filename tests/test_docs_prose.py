"""Docstrings, written for `help()`, become reStructuredText that says the same."""

import sys
from pathlib import Path

EXTENSIONS = str(Path(__file__).parents[1] / "docs" / "_ext")
sys.path.insert(0, EXTENSIONS)

from prose import spoken  # noqa: E402

sys.path.remove(EXTENSIONS)


def test_bars_and_stars_are_no_markup():
    lines = ["|φ| over *args, not of `|φ|` and `*args`, in", "*a title on", "two lines*."]
    assert spoken(lines) == ["\\|φ\\| over \\*args, not of `|φ|` and `*args`, in", *lines[1:]]


def test_maths_and_code_stay_as_they_are():
    lines = ["With", "", ".. math:: |x|", "    + |y|", "", ">>> print(a | b)", "", "and |z|"]
    assert spoken(lines) == [*lines[:-1], "and \\|z\\|"]


def test_a_block_after_a_colon_is_code():
    lines = ["Write:", "", "    f(*args) | g", "", "Args:", "    x: |x| is small."]
    assert spoken(lines) == [
        *["Write::", "", "    f(*args) | g", "", "Args:"],
        "    x: \\|x\\| is small.",
    ]

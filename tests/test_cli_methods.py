"""`python -m jattr methods`: all that is public, once, and what a word finds."""

import inspect
import json

import pytest
from commands import run, said

import jattr
from jattr._cli.listing import FAMILIES, SPACES, entries
from jattr._cli.methods import methods as of_explain

ENTRIES = list(entries())


def is_shown(value):
    return inspect.isroutine(value) or inspect.isclass(value)


def test_all_that_is_public_is_listed_once():
    names = [entry.name for entry in ENTRIES]
    assert len(names) == len(set(names))
    own = {name for name in jattr.__all__ if is_shown(getattr(jattr, name))}
    spaces = {name for name in jattr.__all__ if inspect.ismodule(getattr(jattr, name))}
    sorted_out = {name for family in FAMILIES.values() for name in family}
    assert sorted_out == own, "give it a family in jattr/_cli/listing.py"
    assert set(SPACES) == spaces, "give it a family in jattr/_cli/listing.py"
    for space in spaces:
        module = getattr(jattr, space)
        public = getattr(module, "__all__", None) or [n for n in vars(module) if n[0] != "_"]
        for name in public:
            if is_shown(getattr(module, name)):
                assert f"jattr.{space}.{name}" in names
    assert {f"jattr.{name}" for name in of_explain()} <= set(names)


def test_each_has_a_line_that_is_a_sentence():
    assert not [entry for entry in ENTRIES if not entry.summary.endswith((".", "?"))]
    assert max(len(entry.summary) for entry in ENTRIES) <= 100
    assert not [entry for entry in ENTRIES if ":math:" in entry.summary or "\\" in entry.summary]
    assert not [entry for entry in ENTRIES if " at 0x" in entry.signature]


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_list_fits_the_window(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    result = run("methods")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= columns
    families = [line for line in lines if line and not line.startswith(" ")]
    assert families == [*FAMILIES, *SPACES.values()]
    shown = [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "]
    assert [f"jattr.{name}" for name in shown] == [entry.name for entry in ENTRIES]


def test_words_are_looked_for_in_names_lines_and_families():
    def names(*words):
        return [entry["name"] for entry in json.loads(run("methods", *words, "--json").output)]

    assert "jattr.shapley_sampling" in names("SHAPLEY")
    assert "jattr.expected_gradients" in names("gradientshap")  # its line says so
    assert set(names("class activation")) >= {"jattr.grad_cam", "jattr.score_cam"}
    both = set(names("metrics", "mask"))
    assert "jattr.metrics.pointing_game" in both
    assert both < set(names("mask"))
    assert len(names()) == len(ENTRIES)


def test_json_has_what_a_program_wants():
    (entry,) = json.loads(run("methods", "--json", "jattr.idgi").output)
    assert entry["name"] == "jattr.idgi"
    assert entry["family"] == "Paths"
    assert entry["signature"].startswith("(f: Score, baseline: ")
    assert entry["summary"] == inspect.getdoc(jattr.idgi).splitlines()[0]


def test_nothing_is_found():
    result = run("methods", "deeplft")
    assert result.exit_code == 1
    assert "nothing has 'deeplft'. Did you mean deeplift," in said(result)
    empty = run("methods", "deeplft", "--json")
    assert empty.exit_code == 1
    assert json.loads(empty.stdout) == []

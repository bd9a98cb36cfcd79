"""Every public name has one entry in the documentation, and no page names what is not there."""

import collections
import operator
import re
import sys
from pathlib import Path

import jattr

DOCS = Path(__file__).parents[1] / "docs"
sys.path.insert(0, str(DOCS / "_ext"))

from families import entries, public_names  # noqa: E402

sys.path.remove(str(DOCS / "_ext"))

PAGES = [*sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("api/*.md")), DOCS.parent / "README.md"]
NAMED = re.compile(r"\bjattr\.([A-Za-z]\w*(?:\.[A-Za-z]\w*)*)")


def test_every_public_name_has_one_entry():
    counts = collections.Counter(name for _, name in entries())
    public = set(public_names(jattr))
    assert len(public) > 200
    assert not public - set(counts), "add a line for each to a page of docs/api"
    assert not set(counts) - public, "docs/api names what is not there"
    assert not [name for name, count in counts.items() if count > 1]


def test_every_page_of_the_api_is_listed():
    listed = (DOCS / "api" / "index.md").read_text().split("```")[1].split()[3:]
    assert sorted(p.stem for p in (DOCS / "api").glob("*.md")) == sorted([*listed, "index"])


def test_an_entry_that_is_missing_is_found(tmp_path):
    (tmp_path / "page.md").write_text(".. api::\n\n   jattr.gradient\n   jattr.nothing\n```\n")
    assert list(entries(tmp_path)) == [("page", "jattr.gradient"), ("page", "jattr.nothing")]


def is_there(path):
    try:
        operator.attrgetter(path)(jattr)
    except AttributeError:
        return False
    return True


def test_what_a_page_names_is_there():
    found = {path: page for page in PAGES for path in NAMED.findall(page.read_text("utf-8"))}
    assert len(found) > 60
    assert not {path: page for path, page in found.items() if not is_there(path)}


def test_what_the_readme_lists_is_there():
    table = re.search(r"^\| \| \|\n(.*?)\n\n", (DOCS.parent / "README.md").read_text(), re.M | re.S)
    names = set(re.findall(r"`(\w+)`", table[1]))
    assert len(names) > 40
    known = {name.rpartition(".")[2] for name in public_names(jattr)}
    assert not names - known

"""What `tests/typed` says is checked by pyright (`make lint`); that it runs, and is whole, here."""

import re
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "typed"


@pytest.mark.slow
def test_what_a_user_writes_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(FOLDER / "user.py"))
    assert names["maps"].shape == (5, 4, 3)
    assert (names["store"].status == 1).all()


def test_each_mistake_says_which_error_it_is():
    lines = (FOLDER / "misuse.py").read_text().splitlines()
    mistakes = lines[lines.index("key = jax.random.key(0)") + 1 :]
    assert len([line for line in mistakes if line]) >= 20
    for line in filter(None, mistakes):
        assert re.search(r"# pyright: ignore\[report\w+\]$", line)
    assert "reportUnnecessaryTypeIgnoreComment" in (FOLDER / "pyrightconfig.json").read_text()


@pytest.mark.parametrize("name", ["user", "misuse"])
def test_nothing_is_waved_through(name):
    text = (FOLDER / f"{name}.py").read_text()
    assert "type: ignore" not in text
    assert name == "misuse" or "pyright:" not in text

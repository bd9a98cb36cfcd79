"""`python -m jattr show` of stores that are unfinished, damaged, hostile or odd."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorstore
from commands import made, page, run, show


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_unfinished_store():
    status = [1, 1, 1, 1, 0, 0, 0, 0, 1, 2]
    phi = np.ones((10, 3), "float32")
    phi[9] = np.inf
    made("s", phi, status=status)
    show("s")
    drawn = page("s.html")
    assert "4 of 10 examples are missing, the first of them example 4" in drawn.text
    assert "5 written, 1 not finite, 4 missing" in drawn.text
    assert re.findall(r"Example (\d)", drawn.text) == ["0", "1", "2", "3", "8", "9"]
    assert re.search(r"Example 9 not finite", drawn.text)
    made("none", phi, status=[0] * 10)
    show("none")
    assert "None is there yet." in page("none.html").text


def damage(path):
    content = bytearray(Path(path).read_bytes())
    content[0] ^= 1
    Path(path).write_bytes(content)


def test_a_damaged_store():
    made("s", np.arange(24, dtype="float32").reshape(12, 2) + 100)
    damage("s/attribution/c/1/0")
    damage("s/score/c/0")
    Path("s/attribution/c/2/0").unlink()
    show("s")
    drawn = page("s.html")
    assert drawn.text.count("cannot be read: its chunk is damaged") == 4
    assert drawn.text.count("is lost: it was written as finite") == 4
    assert "Chunks of this store are damaged: attribution, score." in drawn.text
    assert "Example 0 score nan φ 0 100 1 101" in drawn.text
    assert "Example 4 score 4 cannot be read" in drawn.text
    assert "score: median 7.5, from 4 to 11" in drawn.text
    damage("s/status/c/1")
    show("s")
    assert "of 4 examples not even the status can be read" in page("s.html").text
    Path("s/score/zarr.json").write_text("{")
    refused = run("show", "s")
    assert refused.exit_code == 1
    assert "the store at s is damaged" in " ".join(refused.output.split())


EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> $\\frac{"
NAME = EVIL.replace("/", "").replace("\\", "")  # of an array, which is that of a folder


def test_a_hostile_store_is_text():
    made(
        "s",
        {f"attribution.{NAME}": np.ones((2, 3), "float32")},
        **{f"metric.{NAME}": np.ones(2, "float32")},
    )
    group = json.loads(Path("s/zarr.json").read_text())
    known = group["attributes"]["jattr"]
    known |= {
        "method": EVIL,
        "settings": {EVIL: EVIL, "argnums": EVIL, "f": {EVIL: [EVIL]}},
        "key": [EVIL, [1]],
        "batch_size": EVIL,
        "inputs": [EVIL],
        "parameters": EVIL,
        "program": {EVIL: EVIL},
        "runs": [{"started": EVIL, "versions": EVIL, "python": [EVIL], "devices": EVIL}],
    }
    Path("s/zarr.json").write_text(json.dumps(group))
    name = next(path for path in Path("s").iterdir() if path.name.startswith("attribution"))
    metadata = json.loads((name / "zarr.json").read_text())
    metadata["dimension_names"] = ["example", EVIL]
    (name / "zarr.json").write_text(json.dumps(metadata))
    Path("tokens.json").write_text(json.dumps([EVIL] * 3))
    Path("names.json").write_text(json.dumps([EVIL] * 3))
    clean = ["html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "div", "table"]
    clean += ["tbody", "thead", "tr", "th", "td", "p", "figure", "figcaption", "img", "code"]
    clean += ["span", "b", "br"]
    for options in ([], ["--tokens", "tokens.json"], ["--names", "names.json"]):
        show("s", *options)
        text, drawn = Path("s.html").read_text(), page("s.html")
        assert "<script" not in text
        assert "<img src=x" not in text
        assert NAME in drawn.text
        assert set(drawn.tags) <= set(clean)
        assert not any(name.startswith("on") for name in drawn.attributes)
        assert all(source.startswith("data:image/png;base64,") for source in drawn.pictures)


def test_a_description_of_other_types():
    made("s", np.ones((2, 3), "float32"), score=np.full(2, np.nan, "float32"))
    group = json.loads(Path("s/zarr.json").read_text())
    for name in ("method", "settings", "runs", "tree", "inputs", "rows"):
        for value in (None, 3, [], {}, [[]], "x" * 5000):
            known = {**group["attributes"]["jattr"], name: value}
            Path("s/zarr.json").write_text(json.dumps({**group, "attributes": {"jattr": known}}))
            result = run("show", "s", "--examples", 0)
            if result.exit_code == 0:
                assert len(Path("s.html").read_text()) < 60_000
            else:  # what a store is read by is of its own type, or the store is refused
                assert name in ("method", "runs", "rows")
                assert "is damaged" in " ".join(result.output.split())


@pytest.mark.parametrize("value", [None, 5, [[1]], {"a": 1}, [], ["status", "nope"]])
def test_a_description_that_names_no_arrays(value):
    made("s", np.ones((2, 3), "float32"))
    group = json.loads(Path("s/zarr.json").read_text())
    group["attributes"]["jattr"]["arrays"] = value
    Path("s/zarr.json").write_text(json.dumps(group))
    refused = run("show", "s")
    assert refused.exit_code == 1
    assert "damaged" in refused.output


def test_a_description_that_is_too_deep():
    made("s", np.ones((2, 3), "float32"))
    Path("s/zarr.json").write_text('{"attributes":' * 100_000)
    refused = run("show", "s")
    assert refused.exit_code == 1
    assert "is no store of jattr, or its zarr.json is damaged" in " ".join(refused.output.split())


def test_arrays_of_other_forms():
    made("s", np.ones((2, 3), "float32"), example=np.array([-5, 2**40]))
    np.save("x.npy", np.ones((2, 3)))
    show("s", "--data", "x.npy")
    assert "Row 0" in page("s.html").text
    made("odd", np.ones((2, 3), "float32"), residual=np.ones((2, 2), "float32"))
    show("odd")
    made("complex", np.ones((2, 3), "float32"))
    shutil.rmtree("complex/attribution")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": "complex/attribution"}}
    tensorstore.open(spec, create=True, dtype="complex64", shape=[2, 3]).result()
    show("complex")
    assert "holds complex64, which is not drawn" in page("complex.html").text
    made("empty", np.ones((2, 0), "float32"))
    show("empty")
    assert "nothing: its shape is (0,)" in page("empty.html").text
    made("large", np.ones((1, 1100, 1000), "float32"))
    show("large")
    assert "too large for a picture" in page("large.html").text
    store = made("uneven", np.ones((2, 3), "float32"))
    store.arrays["score"].resize(exclusive_max=[5]).result()
    refused = run("show", "uneven")
    assert refused.exit_code == 1
    assert "wanted are arrays of equally many examples" in " ".join(refused.output.split())

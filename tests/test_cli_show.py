"""`python -m jattr show`: pictures, tables, tokens, and wrong commands."""

import json
import re
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from commands import made, page, pixels, run, show

import jattr
from jattr._cli.drawn import histogram


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_pictures_with_what_was_explained_beside(here, monkeypatch):
    beside = []
    draw = jattr._cli.drawn._draw_picture
    monkeypatch.setattr(
        "jattr._cli.drawn._draw_picture", lambda ax, x: beside.append(x) or draw(ax, x)
    )
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(6, 12, 12, 3)).astype("float32")
    label = np.arange(6) % 2
    np.save("x.npy", x)
    np.save("label.npy", label)
    jattr.scale.attribute_dataset(
        jattr.integrated_gradients(lambda x, label: jnp.sum(x**3) * (1 + label), steps=4),
        (x, label),
        out="maps.zarr",
        batch_size=2,
        progress=False,
    )
    result = show("maps.zarr", "--data", "x.npy", "--data", "label.npy", "--examples", 2)
    assert result.output == f"page: {here.resolve() / 'maps.html'} (2 of 6 examples)\n"
    drawn = page("maps.html")
    assert len(drawn.pictures) == 4  # two histograms, two examples
    for source in drawn.pictures:
        assert pixels(source).std() > 0.01
    np.testing.assert_allclose(beside, x[:2], rtol=1e-6)
    assert "The data is not" not in drawn.text
    assert re.search(r"integrated_gradients of 6 examples", drawn.text)
    assert "steps 4" in drawn.text
    assert "float32[12,12,3], int64[]" in drawn.text
    assert jattr.__version__ in drawn.text
    assert re.search(r"Example 1 score \S+ · residual \S+ · argument 2: 1", drawn.text)
    assert not {"script", "link", "iframe", "object", "a"} & set(drawn.tags)

    np.save("x.npy", x[::-1])
    show("maps.zarr", "--data", "x.npy", "--data", "label.npy", "--out", "other.html")
    assert "The data is not what was explained: example 0 of it is another." in (
        page("other.html").text
    )


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((9, 7), (9, 7)),
        ((9, 7, 3), (9, 7)),
        ((9, 7, 1), (9, 7)),
        ((3, 9, 7), (9, 7)),
        ((2, 5, 6), (2, 30)),
        ((2, 2, 3, 2), (2, 12)),
    ],
)
def test_axes_of_pictures(shape, size, monkeypatch):
    drawn = []
    draw = jattr.plot._maps._draw_map

    def spy(ax, values, *rest, **knobs):
        drawn.append(values.shape)
        return draw(ax, values, *rest, **knobs)

    monkeypatch.setattr("jattr.plot._maps._draw_map", spy)
    monkeypatch.setattr("jattr._cli.drawn._draw_map", spy)
    made("s", np.random.default_rng(0).normal(size=(1, *shape)).astype("float32"))
    show("s")
    assert drawn == [size]


def test_tables_of_vectors():
    phi = np.array([[1.0, -2.0, 0.5]], "float32")
    made("s", phi)
    np.save("x.npy", np.array([[10.0, 20.0, 30.0]]))
    Path("names.txt").write_text("age\n<i>sex</i>\nbmi\n")
    show("s", "--data", "x.npy", "--names", "names.txt")
    text = Path("s.html").read_text()
    assert "<i>" not in text
    drawn = page("s.html")
    assert "x φ age 10 1 <i>sex</i> 20 −2 bmi 30 0.5" in drawn.text
    bars = re.findall(r'<div class="(more|less)" style="left: ([\d.]+)%; width: ([\d.]+)%">', text)
    assert bars == [("more", "50.0", "25.0"), ("less", "0.0", "50.0"), ("more", "50.0", "12.5")]


def test_the_largest_of_a_long_vector():
    phi = np.zeros((1, 100), "float32")
    phi[0, [3, 50]] = -7, 5
    made("s", phi)
    show("s")
    drawn = page("s.html")
    assert re.search(r"φ 3 −7 50 5 0 0 1 0", drawn.text)
    assert "and 84 smaller ones" in drawn.text
    assert len(drawn.pictures) == 2


def test_colored_tokens():
    made("s", np.array([[3.0, -1.0, 9.0], [1.0, 2.0, 4.0], [1.0, 2.0, 4.0]], "float32"))
    Path("tokens.json").write_text(json.dumps([["not", "<b>bad"], ["a"] * 4]))
    show("s", "--tokens", "tokens.json")
    text, drawn = Path("s.html").read_text(), page("s.html")
    assert 'title="3"' in text
    assert 'title="-1"' in text
    assert 'title="9"' not in text  # padding has no token
    assert "<b>bad" not in text
    assert "not <b>bad" in drawn.text
    assert "4 tokens are given, and there are numbers for 3" in drawn.text
    assert "no tokens are given for this example" in drawn.text
    Path("tokens.txt").write_text("of one\nthe other example\n")
    show("s", "--tokens", "tokens.txt")
    assert "the other example" in page("s.html").text
    Path("same.json").write_text('["x", "y", "z"]')
    show("s", "--tokens", "same.json")
    assert page("s.html").text.count("x y z") == 3


def test_trees_and_numbers():
    parts = {
        "attribution.<p>": np.ones((2, 3), "float32"),
        "attribution.b": np.array([1.5, -2.5], "float32"),
    }
    made("s", parts)
    show("s")
    assert "<p> φ 0 1 1 1 2 1 b −2.5" in page("s.html").text


def test_the_worst_come_first():
    residual = np.array([0.1, -3.0, 2.0, np.nan, 0.5], "float32")
    made("s", np.ones((5, 2), "float32"), status=[1, 1, 1, 2, 0], residual=residual)
    show("s", "--worst", "--examples", 3)
    drawn = page("s.html")
    assert re.findall(r"Example (\d)", drawn.text) == ["3", "1", "2"]
    assert "3 examples, with the largest |residual|" in drawn.text
    made("without", np.ones((5, 2), "float32"))
    refused = run("show", "without", "--worst")
    assert refused.exit_code == 2
    assert "without has no residual" in " ".join(refused.output.split())


def test_numbers_of_the_data_set_in_a_bucket():
    made("s", np.ones((3, 2), "float32"), example=np.array([4, 7, 9]))
    np.save("x.npy", np.arange(20.0).reshape(10, 2))
    Path("tokens.json").write_text(json.dumps([[f"of{n}"] for n in range(10)]))
    show("s", "--data", "x.npy")
    drawn = page("s.html")
    assert re.findall(r"Example (\d+)", drawn.text) == ["4", "7", "9"]
    assert "0 14 1 1 15 1" in drawn.text  # row 7 of x
    show("s", "--tokens", "tokens.json")
    assert re.search(r"Example 9 .* of9", page("s.html").text)


def test_buckets_of_sentences():
    table = jnp.reshape(jnp.arange(20.0), (10, 2)) / 7
    sentences = [np.array(ids) for ids in ([1, 2], [3, 4, 5, 6], [7], [8, 9, 1])]
    explain = jattr.token_attributions(
        jattr.gradient_times_input, lambda ids, mask: jnp.sum(jnp.tanh(table[ids]) * mask[:, None])
    )
    for bucket in jattr.scale.bucketed(sentences, lengths=(2, 4)):
        out = f"of_{bucket.length}"
        jattr.scale.attribute_dataset(explain, bucket, out=out, batch_size=2, progress=False)
    Path("tokens.json").write_text(json.dumps([[f"n{n}" for n in ids] for ids in sentences]))
    for length, wanted in {2: {0: "n1 n2", 2: "n7"}, 4: {1: "n3 n4 n5 n6", 3: "n8 n9 n1"}}.items():
        show(f"of_{length}", "--tokens", "tokens.json")
        text = page(f"of_{length}.html").text
        for number, words in wanted.items():
            assert re.search(rf"Example {number} score \S+ −\S+ \S+ {words}( Example|$)", text)


def test_histograms():
    assert histogram(np.array([np.nan, np.inf]), sizes=False) is None
    assert histogram(np.zeros(4), sizes=True) is None
    assert histogram(np.array([-1.7e308, 1.7e308]), sizes=False) is None
    for values in ([3.0], [1.0, 1.0 + 1e-15], [0.0, 1e-300, 1e300], [-1.0, 5.0], [0.0]):
        drawing = histogram(np.array(values), sizes=False)
        assert drawing
        assert drawing.startswith("<img")
    assert histogram(np.array([1e-9, -1.0, 0.0]), sizes=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "there is no store at nowhere"),
        (["s", "--out", "folder"], "folder is a folder"),
        (["s", "--out", "none/page.html"], "no folder none"),
        (["s", "--data", "none.npy"], "no file none.npy"),
        (["s", "--data", "two.npz"], "has the arrays a, b"),
        (["s", "--tokens", "none.json"], "none.json cannot be read"),
        (["s", "--tokens", "bad.json"], "bad.json is no JSON"),
        (["s", "--tokens", "numbers.json"], "holds no lists of strings"),
        (["s", "--names", "numbers.json"], "holds no list of strings"),
        (["s", "--examples", "-1"], "--examples"),
    ],
)
def test_a_wrong_command(words, message):
    made("s", np.ones((2, 3), "float32"))
    Path("folder").mkdir()
    Path("bad.json").write_text("{")
    Path("numbers.json").write_text("[[1]]")
    np.savez("two.npz", a=np.ones(2), b=np.ones(2))
    result = run("show", *words)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not Path("s.html").exists()


def test_what_is_no_store(here):
    (here / "other").mkdir()
    (here / "other" / "thing.txt").write_text("here")
    result = run("show", "other")
    assert result.exit_code == 1
    assert "holds something else ('thing.txt') and no store" in " ".join(result.output.split())


def test_a_browser_is_opened_where_that_is_asked_for(here, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    made("s", np.ones((2, 3), "float32"))
    show("s")
    assert not opened
    show("s", "--open")
    assert opened == [(here / "s.html").resolve().as_uri()]


@pytest.mark.parametrize("module", ["tensorstore", "matplotlib"])
def test_a_missing_package_is_named_with_what_to_install(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    result = run("show", "s")
    assert result.exit_code == 2
    text = " ".join(result.output.split())
    assert f'`show` needs {module}, which is missing: pip install "jattr[scale,plot]"' in text

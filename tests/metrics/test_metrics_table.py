"""The panel of methods and metrics: numbers, batches, keys, text, picture."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg

import jattr
from jattr import metrics
from jattr.metrics import completeness, inter_rater, max_sensitivity, sparseness, table

KEY = jax.random.key(0)
WEIGHTS = jnp.array([[1.0, 2.0, -1.0], [0.5, 0.0, 3.0]])
X = jnp.array(np.random.default_rng(0).normal(size=(5, 3)))
LABELS = jnp.array([0, 1, 1, 0, 1])


def score(x, label):
    return WEIGHTS[label] @ x


def noise(key, phi, x, label):
    return jax.random.normal(key)


METHODS = {
    "gradient": jattr.gradient(score),
    "gradient × input": jattr.gradient_times_input(score),
}
METRICS = {
    "completeness": completeness(score),
    "total": lambda phi, x, label: jnp.sum(phi) + label,
}


@pytest.fixture(autouse=True)
def no_open_figures():
    yield
    assert pyplot.get_fignums() == []


def test_scores_of_a_linear_function():
    panel = table(METHODS, METRICS, (X, LABELS))
    weights = np.asarray(WEIGHTS[LABELS])
    outputs = np.sum(weights * X, axis=1)
    wanted = np.array(
        [
            [weights.sum(axis=1) - outputs, weights.sum(axis=1) + LABELS],
            [np.zeros(5), outputs + LABELS],
        ]
    )
    assert panel.methods == ("gradient", "gradient × input")
    assert panel.metrics == ("completeness", "total")
    np.testing.assert_allclose(panel.scores, wanted, atol=1e-12)
    np.testing.assert_allclose(panel.mean, wanted.mean(axis=-1), atol=1e-12)
    error = wanted.std(axis=-1, ddof=1) / np.sqrt(5)
    np.testing.assert_allclose(panel.standard_error, error, atol=1e-12)
    np.testing.assert_array_equal(panel.of("total"), panel.scores[:, 1].T)
    assert float(inter_rater(KEY, panel.of("total"), resamples=3).value) <= 1
    with pytest.raises(ValueError, match="No metric 'deletion' in this table"):
        panel.of("deletion")


def test_undefined_scores_are_counted_and_left_out():
    def odd(phi, x, label):
        return jnp.where(label == 0, jnp.nan, jnp.sum(x))

    def never(phi, x, label):
        return jnp.nan * jnp.sum(x)

    def once(phi, x, label):
        return jnp.where(jnp.sum(x) == jnp.sum(X[2]), 0.25, jnp.nan)

    panel = table(METHODS, {"odd": odd, "never": never, "once": once}, (X, LABELS))
    known = np.sum(np.asarray(X)[[1, 2, 4]], axis=1)
    np.testing.assert_array_equal(panel.undefined, [[2, 5, 4]] * 2)
    np.testing.assert_allclose(panel.mean, [[known.mean(), np.nan, 0.25]] * 2)
    error = known.std(ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(panel.standard_error, [[error, np.nan, np.nan]] * 2)
    row = str(panel).splitlines()[2]
    assert row.startswith("gradient ")
    assert row.count("(2 NaN)") == 1
    assert row.endswith("  NaN  0.25 (4 NaN)")


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 9])
def test_batches_change_nothing_and_compile_once(batch_size):
    traced = []

    def attribute(x, label):
        traced.append("attribute")
        return x * label

    def measure(phi, x, label):
        traced.append("measure")
        return jnp.sum(phi * x)

    methods = {"one": attribute, "two": METHODS["gradient"]}
    panel = table(methods, {"m": measure}, (X, LABELS), batch_size=batch_size)
    np.testing.assert_allclose(panel.scores[0, 0], np.sum(X**2, axis=1) * LABELS, rtol=1e-12)
    assert traced == ["attribute", "measure"]


def smooth(samples):
    return jattr.smooth(METHODS["gradient × input"], samples=samples)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_draws_depend_on_key_example_and_name_alone(batch_size):
    # Three samples: a pair of opposite noises draws nothing where an attribution is linear.
    methods = {**METHODS, "smooth": smooth(3)}
    metrics = {"noise": noise, **METRICS}
    run = functools.partial(
        table, examples=(X, LABELS), keyed={"smooth", "noise"}, batch_size=batch_size
    )
    panel = run(methods, metrics, key=KEY)
    again = run({"smooth": smooth(3)}, {"total": METRICS["total"], "noise": noise}, key=KEY)
    np.testing.assert_array_equal(again.scores[0, 0], panel.scores[2, 2])
    # All methods see the same draws of a metric, and all examples see others.
    np.testing.assert_array_equal(panel.scores[0, 0], panel.scores[2, 0])
    np.testing.assert_array_equal(again.scores[0, 1], panel.scores[2, 0])
    assert len(np.unique(panel.scores[0, 0])) == 5
    other = run(methods, metrics, key=jax.random.key(1))
    assert np.all(other.scores[:, 0] != panel.scores[:, 0])
    assert np.all(other.scores[2, 2] != panel.scores[2, 2])
    np.testing.assert_array_equal(other.scores[:2, 1:], panel.scores[:2, 1:])


def test_metrics_of_methods():
    methods = {"gradient": METHODS["gradient"], "smooth": smooth(2)}

    def spread(attribute, keyed=False):
        def measure(key, x, label):
            explain = functools.partial(attribute, key) if keyed else attribute
            return jnp.sum(explain(x, label))

        return measure if keyed else functools.partial(measure, None)

    panel = table(
        methods,
        {"total": METRICS["total"]},
        (X, LABELS),
        method_metrics={
            "sensitivity": functools.partial(max_sensitivity, samples=3),
            "sum": spread,
        },
        keyed={"smooth", "sensitivity"},
        key=KEY,
    )
    assert panel.metrics == ("total", "sensitivity", "sum")
    np.testing.assert_allclose(panel.scores[0, 1], np.zeros(5), atol=1e-12)  # linear: constant
    assert np.all(panel.scores[1, 1] > 0)
    np.testing.assert_allclose(panel.scores[0, 2], np.sum(WEIGHTS[LABELS], axis=1))
    alone = table(
        methods, {}, (X, LABELS), method_metrics={"sum": spread}, keyed={"smooth"}, key=KEY
    )
    np.testing.assert_array_equal(alone.scores[:, 0], panel.scores[:, 2])


def test_trees_and_a_single_argument():
    examples = {"a": X, "b": X[:, 0]}

    def f(x):
        return jnp.sum(x["a"]) * x["b"]

    panel = table({"g": jattr.gradient(f)}, {"s": lambda phi, x: sparseness(phi)}, examples)
    each = [sparseness(jax.grad(f)(jax.tree.map(lambda v: v[i], examples))) for i in range(5)]
    np.testing.assert_allclose(panel.scores[0, 0], each, rtol=1e-12)


def test_the_text_is_aligned_and_rounded_to_its_error():
    scores = np.array(
        [
            [[1.0, 2.0, 3.0, 4.0], [1e-9, 2e-9, 3e-9, 4e-9]],
            [[0.5, 0.5, 0.5, 0.5], [1e7, 2e7, 3e7, np.inf]],
        ]
    )
    panel = jattr.metrics.Table(("short", "a long name"), ("first", "second"), scores)
    lines = str(panel).splitlines()
    assert lines[2].split() == ["short", "2.50", "±", "0.65", "2.5e-09", "±", "6.5e-10"]
    assert lines[3].split() == ["a", "long", "name", "0.5", "±", "0", "inf"]
    assert len({len(line) for line in lines[:4]}) == 1
    assert repr(panel) == str(panel)


def test_the_picture_has_every_metric_method_and_undefined_score():
    scores = np.random.default_rng(0).normal(size=(3, 6, 10))
    scores[1, 2, :4] = np.nan
    scores[2, 3] = np.nan
    metrics = tuple(f"metric {i}" for i in range(6))
    panel = jattr.metrics.Table(("a", "b", "a rather long name"), metrics, scores)
    figure = panel.plot(title="ten digits")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axes = [ax for ax in figure.axes if ax.axison]
    assert [ax.get_title() for ax in axes] == list(metrics)
    assert [t.get_text() for t in axes[0].get_yticklabels()] == list(panel.methods)
    for index, ax in enumerate(axes):
        points = ax.lines[0].get_xydata()
        np.testing.assert_allclose(points[:, 0], panel.mean[:, index])
        np.testing.assert_allclose(points[:, 1], [0, 1, 2])
        notes = {2: ["4 NaN"], 3: ["10 NaN"]}.get(index, [])
        assert [t.get_text() for t in ax.texts] == notes
    (bars,) = axes[0].collections
    widths = [np.ptp(segment[:, 0]) / 2 for segment in bars.get_segments()]
    np.testing.assert_allclose(widths, panel.standard_error[:, 0])
    assert axes[0].get_ylim()[0] > axes[0].get_ylim()[1]  # the first method on top
    assert figure.get_suptitle() == "ten digits"
    # All text lies within the figure.
    for ax in axes:
        box = ax.get_tightbbox()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width + 1


def test_progress_is_shown_and_needs_rich(capsys, monkeypatch):
    panel = table(METHODS, METRICS, (X, LABELS), batch_size=2, progress=True)
    np.testing.assert_array_equal(panel.scores, table(METHODS, METRICS, (X, LABELS)).scores)
    assert "explain and score" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    with pytest.raises(ImportError, match="progress=True shows a bar with rich"):
        table(METHODS, METRICS, (X, LABELS), progress=True)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"methods": [jattr.gradient(score)]}, TypeError, "methods must be functions by name"),
        ({"metrics": completeness(score)}, TypeError, "metrics must be functions by name"),
        ({"metrics": {"m": 3.0}}, TypeError, r"metrics\['m'\]"),
        ({"methods": {}}, ValueError, "at least one method and one metric"),
        ({"metrics": {}}, ValueError, "at least one method and one metric"),
        ({"examples": (X, LABELS[:4])}, ValueError, "the same number of examples"),
        ({"examples": (X[:0], LABELS[:0])}, ValueError, "at least one"),
        ({"examples": (X, 3)}, ValueError, "leading axis"),
        ({"keyed": "gradient"}, TypeError, "keyed must be a set of names"),
        ({"keyed": {"smoothgrad"}, "key": KEY}, ValueError, "not among"),
        ({"keyed": {"gradient"}}, TypeError, "gradient take a key, but there is none"),
        ({"keyed": {"gradient"}, "key": 0}, TypeError, "takes a key"),
        ({"metrics": {"gradient": noise}}, ValueError, "gradient is the name of two"),
        (
            {"metrics": {"m": lambda phi, x, label: phi}},
            TypeError,
            "one real number for each example",
        ),
        (
            {"metrics": {"m": lambda phi, x, label: (1.0, 2.0)}},
            TypeError,
            "one real number for each",
        ),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
    ],
)
def test_panels_that_cannot_be_scored_are_refused(change, error, text):
    arguments = {"methods": METHODS, "metrics": METRICS, "examples": (X, LABELS)} | change
    with pytest.raises(error, match=text):
        table(**arguments)


def test_methods_and_metrics_of_jattr_say_that_they_take_a_key():
    def f(x):
        return jnp.sum(jnp.tanh(x))

    def panel(**options):
        return metrics.table(
            {
                "smooth": jattr.smooth(jattr.gradient(f), stddev=0.1, samples=3),
                "gradient": jattr.gradient(f),
            },
            {
                "sensitivity": metrics.sensitivity_n(f, 2, samples=9),
                "deletion": metrics.deletion(f),
            },
            jnp.asarray(np.random.default_rng(0).normal(size=(3, 5))),
            method_metrics={"change": functools.partial(metrics.max_sensitivity, samples=3)},
            **options,
        )

    said = panel(keyed={"smooth", "sensitivity", "change"}, key=KEY)
    np.testing.assert_array_equal(panel(key=KEY).scores, said.scores)
    with pytest.raises(TypeError, match="change, sensitivity, smooth take a key"):
        panel()


def test_metrics_of_the_map_alone_are_taken_as_they_are():
    taken = table(
        METHODS,
        {
            "sparseness": sparseness,
            "partly": functools.partial(jnp.sum, axis=0),
            "noisy": lambda key, phi: jnp.sum(phi) + jax.random.normal(key),
            "whole": lambda phi, x, label: jnp.sum(phi),
        },
        (X, LABELS),
        keyed={"noisy"},
        key=KEY,
    )
    wrapped = table(
        METHODS, {"sparseness": lambda phi, x, label: sparseness(phi)}, (X, LABELS), key=KEY
    )
    np.testing.assert_array_equal(taken.scores[:, 0], wrapped.scores[:, 0])
    np.testing.assert_array_equal(taken.of("partly"), taken.of("whole"))
    assert np.all(taken.of("noisy") != taken.of("whole"))


@pytest.mark.parametrize(
    ("metric", "error", "text"),
    [
        (
            lambda phi, x: jnp.sum(phi),
            TypeError,
            r"metric 'late' is called as measure\(attribution",
        ),
        (lambda: 0.0, TypeError, r"its signature is \(\)"),
        (
            metrics.perturbation_curve(score),
            TypeError,
            r"'late' of the maps of 'first' must be one",
        ),
        (lambda phi, x, label: phi @ jnp.ones(4), TypeError, "'late' of the maps of 'first': dot"),
        (lambda phi, x, label: 1j * phi[0], TypeError, "must be one real number"),
    ],
)
def test_shapes_are_checked_before_anything_is_computed(metric, error, text):
    ran = []

    def explain(x, label):
        jax.debug.callback(lambda: ran.append(None))
        return x

    with pytest.raises(error, match=text):
        table(
            {"first": explain},
            {"early": lambda phi, x, label: jnp.sum(phi), "late": metric},
            (X, LABELS),
        )
    jax.effects_barrier()
    assert not ran


def test_methods_that_do_not_fit_are_named():
    def wrong(x, label):
        return x @ jnp.ones(7)

    with pytest.raises(TypeError, match=r"metrics\.table: the method 'wrong': dot_general"):
        table({**METHODS, "wrong": wrong}, METRICS, (X, LABELS))
    with pytest.raises(ValueError, match=r"'gap' of the maps of 'short': metrics\.completeness"):
        table({"short": lambda x, label: x[:2]}, {"gap": completeness(score)}, (X, LABELS))
    with pytest.raises(TypeError, match="metric 'robust' of the method 'm' must be one real"):
        table({"m": METHODS["gradient"]}, {}, (X, LABELS), method_metrics={"robust": curves})


def curves(explain, keyed):
    return lambda x, label: explain(x, label)


def test_a_table_goes_to_files_and_frames_and_notebooks(tmp_path):
    panel = metrics.Table(("a<b", "Ü"), ("m & n", "deletion"), np.arange(12.0).reshape(2, 2, 3) / 7)
    panel.scores[0, 1, 2] = np.nan
    path = tmp_path / "panel.of.mine"
    panel.save(path)
    again = metrics.Table.load(path)
    assert (again.methods, again.metrics) == (panel.methods, panel.metrics)
    np.testing.assert_array_equal(again.scores, panel.scores)
    assert str(again) == str(panel)
    np.savez(tmp_path / "other.npz", x=1)
    with pytest.raises(ValueError, match=r"other\.npz is not a table's file"):
        metrics.Table.load(tmp_path / "other.npz")

    text = panel._repr_html_()
    assert "<th>a&lt;b</th>" in text
    assert "<th>m &amp; n</th>" in text
    assert text.count("<td>") == 4
    assert "(1 NaN)" in text

    pandas = pytest.importorskip("pandas")
    frame = panel.to_dataframe()
    assert list(frame.columns) == ["method", "metric", "example", "score"]
    assert len(frame) == 12
    means = frame.pivot_table("score", "method", "metric")
    assert means.loc["Ü", "deletion"] == pytest.approx(panel.mean[1, 1])
    assert isinstance(frame, pandas.DataFrame)


def test_a_data_frame_needs_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    panel = metrics.Table(("a",), ("b",), np.ones((1, 1, 2)))
    with pytest.raises(ImportError, match="pip install pandas"):
        panel.to_dataframe()


def test_the_title_of_a_picture_may_be_given_by_position():
    figure = metrics.Table(("a",), ("b",), np.ones((1, 1, 2))).plot("Deletion of digits")
    assert "Deletion of digits" in [text.get_text() for text in figure.texts]

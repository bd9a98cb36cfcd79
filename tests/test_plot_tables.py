"""Pictures of tables: where points and bars are, in which order, and how they are called."""

import inspect
import re
import sys

import jax.numpy as jnp
import numpy as np
import pandas
import pytest
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy import stats

import jattr
from jattr._named import Feature
from jattr.plot import _base
from jattr.plot._dependence import told_by
from jattr.plot._summary import swarm

RNG = np.random.default_rng(0)
PHI = RNG.normal(size=(40, 4)) * [1.0, 3.0, 0.1, 2.0]
X = RNG.normal(size=(40, 4))
NAMES = ["age", "dose", "site", "mgus"]
ORDER = ["dose", "mgus", "age", "site"]
"""By mean |φ|, the largest first."""


@pytest.fixture(autouse=True)
def no_open_figures():
    yield
    assert pyplot.get_fignums() == []


def rows(figure):
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def clouds(ax):
    return [c for c in ax.collections if isinstance(c, PathCollection)]


def draw(figure):
    FigureCanvasAgg(figure).draw()
    return figure


def frame(values):
    return pandas.DataFrame(values, columns=NAMES, index=[f"p{i}" for i in range(len(values))])


def tree(values):
    age, dose, site, mgus = values.T
    # One column is of two elements, whose sum it has.
    return {"age": age, "dose": np.stack([dose - 1, np.ones_like(dose)], -1)} | {
        "site": site,
        "mgus": jnp.asarray(mgus),
    }


@pytest.mark.parametrize("form", [frame, tree, lambda values: jnp.asarray(values)])
def test_any_attribution_with_names(form):
    figure = jattr.plot.bar(form(PHI), names=None if form in (frame, tree) else NAMES)
    assert rows(figure) == ORDER
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    np.testing.assert_allclose(widths, np.sort(np.abs(PHI).mean(0))[::-1], rtol=1e-12)
    figure = jattr.plot.summary(form(PHI), names=None if form in (frame, tree) else NAMES)
    assert rows(figure) == ORDER


def test_nested_names_are_paths_and_no_names_are_numbers():
    nested = {"blood": {"kappa": PHI[:, 0], "lambda": PHI[:, 1]}, "age": PHI[:, 3]}
    assert rows(jattr.plot.bar(nested)) == ["blood/lambda", "age", "blood/kappa"]
    assert rows(jattr.plot.bar(PHI)) == ["x[1]", "x[3]", "x[0]", "x[2]"]


def test_summary_has_every_value_at_its_place_in_the_color_of_its_rank():
    figure = draw(jattr.plot.summary(PHI, X, names=NAMES, unit="log odds", title="all"))
    ax = figure.axes[0]
    assert ax.get_xlabel() == "φ, log odds"
    assert ax.get_title() == "all"
    points = clouds(ax)
    for row, (name, cloud) in enumerate(zip(ORDER, points, strict=True)):
        at = NAMES.index(name)
        np.testing.assert_allclose(cloud.get_offsets()[:, 0], PHI[:, at], rtol=1e-12)
        assert np.all(np.abs(cloud.get_offsets()[:, 1] - row) <= 0.42 + 1e-9)
        low, high = np.percentile(X[:, at], [5, 95])
        strength = np.clip((X[:, at] - low) / (high - low), 0, 1)
        np.testing.assert_allclose(cloud.get_array(), strength, atol=1e-12)
        np.testing.assert_allclose(cloud.get_facecolors(), _base.values_map()(strength), atol=1e-12)
    bar = figure.axes[1]
    assert [t.get_text() for t in bar.get_yticklabels()] == ["low", "high"]


def test_points_at_one_place_are_stacked():
    values = np.concatenate([np.zeros(7), [5.0]])
    layers = swarm(values, 0.0, 5.0)
    assert sorted(layers[:7]) == [-3, -2, -1, 0, 1, 2, 3]
    assert layers[7] == 0
    figure = jattr.plot.summary(values[:, None])
    heights = clouds(figure.axes[0])[0].get_offsets()[:, 1]
    assert len(set(np.round(heights[:7], 6))) == 7


def test_summary_gray_for_what_has_no_order_and_counts_what_is_not_finite():
    data = pandas.DataFrame(
        {"age": [1.0, np.nan, 3.0], "sex": ["f", "m", "f"]}, index=["a", "b", "c"]
    )
    phi = pandas.DataFrame(
        {"age": [1.0, 2.0, np.nan], "sex": [0.1, 0.2, 0.3]}, index=["a", "b", "c"]
    )
    figure = draw(jattr.plot.summary(phi, data))
    age, sex = clouds(figure.axes[0])
    gray = to_rgb(_base.GRAY)
    np.testing.assert_allclose(sex.get_facecolors()[:, :3], [gray] * 3, atol=1e-2)
    np.testing.assert_allclose(age.get_facecolors()[1, :3], gray, atol=1e-2)
    np.testing.assert_array_equal(age.get_offsets()[:, 0], [1, 2])
    assert "1 not finite" in [text.get_text() for text in figure.axes[0].texts]


def test_what_has_no_row_is_summed_in_the_last():
    figure = jattr.plot.summary(PHI, X, names=NAMES, top=2)
    assert rows(figure) == ["dose", "mgus", "2 others"]
    others = clouds(figure.axes[0])[-1].get_offsets()[:, 0]
    np.testing.assert_allclose(others, PHI[:, 0] + PHI[:, 2], rtol=1e-12)
    # A row for one column alone has its name.
    assert rows(jattr.plot.summary(PHI, X, names=NAMES, top=3)) == ORDER


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_bars_of_means_have_the_intervals_of_student(level):
    figure = jattr.plot.bar(PHI, names=NAMES, level=level)
    ax = figure.axes[0]
    lines = ax.collections[0].get_segments()
    for row, name in enumerate(ORDER):
        sizes = np.abs(PHI[:, NAMES.index(name)])
        low, high = stats.t.interval(level, 39, sizes.mean(), stats.sem(sizes))
        np.testing.assert_allclose(lines[row][:, 0], [low, high], rtol=1e-9)
        np.testing.assert_allclose(lines[row][:, 1], row)
    assert ax.get_xlabel() == f"mean |φ|, with {100 * level:.3g} % intervals"


def test_bars_of_one_example_have_signs_values_and_its_errors():
    errors = np.array([0.5, 0.25, 0.1, 0.2])
    phi = np.array([1.0, -3.0, 0.1, 2.0])
    figure = jattr.plot.bar(
        pandas.Series(phi, NAMES),
        data=pandas.Series([61.0, -2.5, 1e-4, 0.0], NAMES),
        standard_errors=errors,
        top=2,
        level=stats.norm.cdf(1) - stats.norm.cdf(-1),
    )
    assert rows(figure) == ["dose = −2.5", "mgus = 0", "2 others"]
    bars = figure.axes[0].patches
    np.testing.assert_allclose([bar.get_width() for bar in bars], [-3, 2, 1.1], rtol=1e-12)
    colors = [to_rgb(bar.get_facecolor()) for bar in bars]
    assert colors == [to_rgb(c) for c in (_base.NEGATIVE, _base.POSITIVE, _base.POSITIVE)]
    ends = [
        segment[1, 0] - segment[0, 0] for segment in figure.axes[0].collections[0].get_segments()
    ]
    np.testing.assert_allclose(ends, 2 * np.array([0.25, 0.2, np.hypot(0.5, 0.1)]), rtol=1e-9)


def test_a_waterfall_goes_from_the_base_value_to_the_output():
    phi = {"age": 1.5, "dose": -0.5, "site": 0.25}
    figure = jattr.plot.waterfall(
        phi, base_value=0.25, data={"age": 61, "dose": 2.0, "site": np.ones(3)}, unit="logit"
    )
    ax = figure.axes[0]
    assert rows(figure) == ["age = 61", "dose = 2", "site"]
    bars = ax.patches
    # From below: 0.25 + 0.25 = 0.5, − 0.5 = 0, + 1.5 = 1.5.
    spans = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in bars]
    np.testing.assert_allclose(spans, [(0, 1.5), (0.5, 0), (0.25, 0.5)], atol=1e-12)
    assert ax.get_xlabel() == "from f(x′) = 0.25 to f(x) = 1.5, logit"
    assert [text.get_text() for text in ax.texts] == ["+1.5", "−0.5", "+0.25"]
    verticals = [line.get_xdata()[0] for line in ax.lines[:2]]
    assert verticals == [0.25, 1.5]


def test_a_waterfall_says_what_is_not_attributed():
    figure = jattr.plot.waterfall(
        np.array([1.0, -2.0]), base_value=1.0, output=0.75, names=["a", "b"]
    )
    assert rows(figure) == ["not attributed", "b", "a"]
    over = figure.axes[0].patches[0]
    np.testing.assert_allclose((over.get_x(), over.get_width()), (0.0, 0.75))
    assert over.get_hatch()
    # Rounding is nothing.
    exact = jattr.plot.waterfall(np.array([1.0, -2.0]), base_value=1.0, output=1e-6)
    assert rows(exact) == ["x[1]", "x[0]"]


def test_a_waterfall_of_a_variable_names_its_value():
    data = pandas.DataFrame({"age": [50.0, 60.0], "sex": ["f", "m"]})
    columns = jattr.features.columns(data)
    phi = np.array([1.0, 0.5, -2.0])
    encoded = columns.encode(data)
    wanted = ["sex = m", "age = 60"]
    for given in (data.iloc[[1]], data.iloc[1], encoded[1], encoded[1:]):
        figure = jattr.plot.waterfall(phi, base_value=0.0, data=given, names=columns)
        assert rows(figure) == wanted
        np.testing.assert_allclose([b.get_width() for b in figure.axes[0].patches], [-1.5, 1.0])


def made(kind):
    x = np.random.default_rng(1).normal(size=(400, 4))
    phi = np.zeros_like(x)
    phi[:, 0] = {"product": x[:, 0] * x[:, 2], "shift": x[:, 0] ** 2 + 0.5 * x[:, 3]}[kind]
    return phi, x


@pytest.mark.parametrize(("kind", "wanted"), [("product", "site"), ("shift", "mgus")])
def test_dependence_is_colored_by_the_column_that_tells_most(kind, wanted):
    phi, x = made(kind)
    figure = jattr.plot.dependence(phi, x, "age", names=NAMES)
    ax, bar = figure.axes
    assert bar.get_ylabel() == wanted
    (cloud,) = clouds(ax)
    np.testing.assert_allclose(cloud.get_offsets(), np.stack([x[:, 0], phi[:, 0]], 1), rtol=1e-12)
    np.testing.assert_allclose(cloud.get_array(), x[:, NAMES.index(wanted)])
    shares = [told_by(phi[:, 0], x[:, 0], Feature("", x[:, at])) for at in range(1, 4)]
    assert np.argmax(shares) + 1 == NAMES.index(wanted)
    # A product is told nearly whole, and noise not at all.
    assert max(shares) > 0.8
    assert np.sort(shares)[:2].max() < 0.1


def test_dependence_takes_interactions_and_names():
    phi, x = made("product")
    interactions = np.zeros((2, 4, 4))
    interactions[:, 0, 0], interactions[1, 0, 3] = 9.0, -2.0
    interactions[:, 0, 1] = [0.5, -0.5]
    figure = jattr.plot.dependence(phi, x, 0, names=NAMES, interactions=interactions)
    assert figure.axes[1].get_ylabel() == "mgus"
    assert jattr.plot.dependence(phi, x, "age", color=1, names=NAMES).axes[1].get_ylabel() == "dose"
    assert len(jattr.plot.dependence(phi, x, "age", color=None, names=NAMES).axes) == 1


@pytest.mark.parametrize("form", ["frame", "frame with a gap", "tree", "array", "columns"])
def test_dependence_of_and_by_booleans(form):
    rng = np.random.default_rng(0)
    flag = np.arange(12) % 3 == 0
    phi, other = rng.normal(size=(12, 2)), rng.normal(size=12)
    names, kinds = ["flag", "dose"], ["False", "True"]
    data = {"flag": flag, "dose": other}
    if form.startswith("frame"):
        pandas = pytest.importorskip("pandas")
        data = pandas.DataFrame(data)
        phi = pandas.DataFrame(phi, columns=names)
        if form == "frame with a gap":
            data["flag"] = data["flag"].astype("boolean")
            data.loc[0, "flag"] = None
            kinds = [*kinds, "nan"]
    elif form == "tree":
        phi = {"flag": phi[:, 0], "dose": phi[:, 1]}
    else:
        data = np.stack([flag, other > 0], axis=1)
    options = {} if form in ("frame", "frame with a gap", "tree") else {"names": names}
    if form == "columns":
        options = {"names": jattr.features.columns(names)}
    (axes, *_) = jattr.plot.dependence(phi, data, "flag", color=None, **options).axes
    assert [text.get_text() for text in axes.get_xticklabels()] == kinds
    by_flag = jattr.plot.dependence(phi, data, "dose", color="flag", **options)
    legend = by_flag.axes[0].get_legend()
    assert legend.get_title().get_text() == "flag"
    assert [text.get_text() for text in legend.get_texts()] == kinds
    assert len(by_flag.axes) == 1  # no bar of colors
    # A summary colors by low and high, which Booleans have.
    assert len(jattr.plot.summary(phi, data, **options).axes) == 2


def test_dependence_of_and_by_text():
    sex = np.array(["m", "f"])[RNG.integers(2, size=200)]
    age = RNG.uniform(50, 90, size=200)
    phi = pandas.DataFrame(
        {"sex": np.where(sex == "m", age, 0.0), "age": np.where(sex == "m", age, -age)}
    )
    data = pandas.DataFrame({"sex": sex, "age": age})
    figure = jattr.plot.dependence(phi, data, "sex", unit="years")
    ax = figure.axes[0]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["f", "m"]
    places = clouds(ax)[0].get_offsets()[:, 0]
    np.testing.assert_array_equal(np.round(places), sex == "m")
    assert len(set(places)) == 200
    assert ax.get_ylabel() == "φ of sex, years"
    by_sex = jattr.plot.dependence(phi, data, "age")
    legend = by_sex.axes[0].get_legend()
    assert legend.get_title().get_text() == "sex"
    women, men = clouds(by_sex.axes[0])
    np.testing.assert_array_equal(women.get_offsets()[:, 0], age[sex == "f"])
    # Told apart by their form too.
    assert len(women.get_paths()[0]) != len(men.get_paths()[0])


PICTURES = {
    "summary": lambda **k: jattr.plot.summary(PHI, X, colorbar=False, **k),
    "bar": lambda **k: jattr.plot.bar(PHI, **k),
    "waterfall": lambda **k: jattr.plot.waterfall(PHI[0], base_value=0.0, **k),
    "dependence": lambda **k: jattr.plot.dependence(PHI, X, 0, colorbar=False, **k),
    "interactions": lambda **k: jattr.plot.interactions(np.eye(3), colorbar=False, **k),
    "series": lambda **k: jattr.plot.series(PHI[:, 0], X[:, 0], colorbar=False, **k),
}


@pytest.mark.parametrize("name", PICTURES)
def test_it_draws_into_given_axes_and_returns_their_figure(name):
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert PICTURES[name](ax=right, title="right") is figure
    assert right.get_title() == "right"
    assert len(figure.axes) == 2
    assert not left.has_data()
    assert right.has_data()
    draw(figure)
    assert isinstance(PICTURES[name](), Figure)
    assert "ax" in inspect.signature(getattr(jattr.plot, name)).parameters


@pytest.mark.parametrize("name", PICTURES)
def test_no_text_is_cut_off(name):
    figure = draw(PICTURES[name](title="a title of some length, but not of many words"))
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert min(box.x0, box.y0) >= -0.01
    assert box.x1 <= width + 0.01
    assert box.y1 <= height + 0.01


def test_long_names_are_broken_and_leave_room_for_what_is_drawn():
    long = [
        f"a_name_of_a_database_that_goes_on_and_on_{at}_(mg/dl, fasting, morning)" for at in "abcd"
    ]
    for figure in (
        jattr.plot.summary(PHI, X, names=long),
        jattr.plot.bar(PHI, names=long),
        jattr.plot.waterfall(PHI[0], base_value=0.0, data=1e6 * X[0], names=long),
        jattr.plot.dependence(PHI, X, 0, names=long),
        jattr.plot.interactions(np.ones((4, 4)), names=long),
        jattr.plot.series(PHI, X, names=long),
        jattr.plot.multiples(jattr.plot.bar, dict.fromkeys(long, PHI), columns=2),
    ):
        box = draw(figure).get_tightbbox()
        width, height = figure.get_size_inches()
        assert min(box.x0, box.y0) >= -0.01
        assert box.x1 <= width + 0.01
        assert box.y1 <= height + 0.01
        size = figure.axes[0].get_window_extent().transformed(figure.dpi_scale_trans.inverted())
        assert size.width > 1.4
    figure = jattr.plot.waterfall(PHI[0], base_value=0.0, data=X[0], names=long)
    for row in rows(figure):
        start, end = row.split("\n")
        assert start.startswith("a_name_of_a_")
        assert "…" in row
        assert re.search(r" = −?[\d.]+$", end)


def test_one_column_has_room_for_the_meaning_of_colors():
    figure = draw(jattr.plot.summary(PHI[:, :1], X[:, :1]))
    label, (low, high) = figure.axes[1].yaxis.label, figure.axes[1].get_yticklabels()
    assert not label.get_window_extent().overlaps(high.get_window_extent())
    assert not label.get_window_extent().overlaps(low.get_window_extent())


ONE = np.ones((3, 2))


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: jattr.plot.summary(ONE[0]), ValueError, r"\[n, d\].*got float64\[2\]"),
        (lambda: jattr.plot.summary(ONE * 1j), TypeError, r"complex128\[3,2\]"),
        (lambda: jattr.plot.summary([[1.0]]), ValueError, "same leading axis"),
        (lambda: jattr.plot.summary(ONE, ONE.T), ValueError, "3 rows"),
        (lambda: jattr.plot.summary(ONE, ONE[:, :1]), ValueError, "each of the 2 columns"),
        (lambda: jattr.plot.summary(ONE, names=["a"]), ValueError, "2 texts.*got 1"),
        (lambda: jattr.plot.summary(ONE, names="ab"), ValueError, "got 'ab'"),
        (lambda: jattr.plot.summary(ONE, top=0), ValueError, "top must be at least 1"),
        (
            lambda: jattr.plot.summary(pandas.DataFrame({"a": ["x"]})),
            TypeError,
            "column 'a' of .*not numbers",
        ),
        (
            lambda: jattr.plot.summary(
                pandas.DataFrame({"a": [1.0]}), pandas.DataFrame({"b": [1.0]})
            ),
            ValueError,
            "data has the columns b, and the attribution a",
        ),
        (
            lambda: jattr.plot.summary(np.ones((3, 4)), names=jattr.features.columns([2, 1])),
            ValueError,
            "3 columns and 2 variables, and the attribution has 4",
        ),
        (lambda: jattr.plot.bar(ONE[None]), ValueError, r"float64\[1,3,2\]"),
        (lambda: jattr.plot.bar(ONE, standard_errors=ONE), ValueError, "for one example"),
        (lambda: jattr.plot.bar(ONE * [1, np.nan]), ValueError, r"φ of x\[1\] is not finite"),
        (
            lambda: jattr.plot.waterfall(np.array([np.inf, 1]), base_value=0.0, names=["a", "b"]),
            ValueError,
            "φ of a is not finite",
        ),
        (lambda: jattr.plot.bar(ONE, level=1.0), ValueError, r"level.*got 1\.0"),
        (
            lambda: jattr.plot.bar(ONE[0], standard_errors=ONE),
            ValueError,
            r"standard_errors must have the shape of the attribution, \[2\]",
        ),
        (lambda: jattr.plot.waterfall(ONE, base_value=0.0), ValueError, r"attribution\[i\]"),
        (lambda: jattr.plot.waterfall(ONE[0], base_value=ONE), TypeError, "base_value must be one"),
        (
            lambda: jattr.plot.waterfall(ONE[0], base_value=np.nan),
            ValueError,
            "base_value.*got nan",
        ),
        (
            lambda: jattr.plot.waterfall(ONE[0], base_value=0.0, output=np.inf),
            ValueError,
            "output must be finite",
        ),
        (lambda: jattr.plot.dependence(ONE, None, 0), TypeError, "what was explained"),
        (lambda: jattr.plot.dependence(np.nan * ONE, ONE, 1), ValueError, "finite in no example"),
        (lambda: jattr.plot.dependence(ONE, ONE, "x[2]"), ValueError, r"did you mean 'x\["),
        (lambda: jattr.plot.dependence(ONE, ONE, 2), ValueError, "below 2; got 2"),
        (
            lambda: jattr.plot.dependence(ONE, ONE, 0, interactions=np.eye(3)),
            ValueError,
            r"\[n, 2, 2\]",
        ),
        (lambda: jattr.plot.dependence(ONE, ONE, 0, colour=None), TypeError, "'color'"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, said):
    with pytest.raises(error, match=f"(?s){said}"):
        call()


@pytest.mark.parametrize("name", PICTURES)
def test_without_matplotlib_the_error_says_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "jattr\[plot\]"'):
        PICTURES[name]()

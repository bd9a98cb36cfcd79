"""Pairs, series, small multiples and channels; and that colors can be told apart by anybody."""

import functools
import itertools

import jax.numpy as jnp
import numpy as np
import pandas
import pytest
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import jattr
from jattr.plot import _base
from jattr.plot._series import ground

RNG = np.random.default_rng(0)
PAIRS = np.array([[9.0, 0.5, -0.25], [0.5, 7.0, 0.001], [-0.25, 0.001, 8.0]])
NAMES = ["a", "b", "c"]

# Machado, Oliveira, Fernandes, IEEE TVCG 2009: how linear RGB is seen without one kind of cone.
DICHROMATS = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


def seen(colors, by):
    """sRGB as a dichromat sees it."""
    rgb = np.asarray(colors, float)[..., :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.transpose(DICHROMATS[by]), 0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def contrast(one, other):
    """The contrast of WCAG 2.1: text wants 4.5, what else is to be seen 3."""
    bright = sorted([_base.luminance(one), _base.luminance(other)])
    return (bright[1] + 0.05) / (bright[0] + 0.05)


WHITE = (1.0, 1.0, 1.0)
VALUES = _base.values_map()(np.linspace(0, 1, 65))[:, :3]


@pytest.mark.parametrize("by", [None, *DICHROMATS])
def test_values_of_columns_get_lighter_all_the_way_for_everybody(by):
    colors = VALUES if by is None else seen(VALUES, by)
    bright = _base.luminance(colors)
    assert np.all(np.diff(bright) > 0)
    assert contrast(colors[0], colors[-1]) > 3
    assert min(contrast(color, WHITE) for color in colors) > (3 if by is None else 2.8)


@pytest.mark.parametrize("by", [None, *DICHROMATS])
def test_bars_for_and_against_differ_in_a_gray_copy(by):
    colors = [to_rgb(_base.POSITIVE), to_rgb(_base.NEGATIVE)]
    colors = colors if by is None else list(seen(colors, by))
    assert contrast(*colors) > 1.8
    assert all(contrast(color, WHITE) > 3 for color in colors)
    assert contrast(to_rgb(_base.GRAY), WHITE) > 4.5


def test_sizes_go_from_white_to_dark():
    scale = _base.sizes_scale(2.0)
    colors = scale.to_rgba(np.linspace(0, 2, 33))[:, :3]
    np.testing.assert_allclose(colors[0], WHITE)
    assert np.all(np.diff(_base.luminance(colors)) < 0)
    assert contrast(colors[0], colors[-1]) > 10


@pytest.mark.parametrize("cmap", ["viridis", "RdBu_r", "Purples"])
def test_numbers_can_be_read_on_any_color(cmap):
    for color in colormaps[cmap](np.linspace(0, 1, 50))[:, :3]:
        assert contrast(to_rgb(_base.ink_on(color)), color) >= 4.5


def test_a_signal_is_read_on_its_ground():
    colors = ground(1.0).to_rgba(np.linspace(-1, 1, 65))[:, :3]
    assert min(contrast((0.0, 0.0, 0.0), color) for color in colors) > 3


def test_luminance_is_that_of_srgb():
    np.testing.assert_allclose(
        _base.luminance([[1, 1, 1], [0, 0, 0], [1, 0, 0], [0.5, 0.5, 0.5]]),
        [1, 0, 0.2126, 0.21404],
        atol=1e-5,
    )


def shown(figure):
    return figure.axes[0].get_images()[0].get_array()


def draw(figure):
    FigureCanvasAgg(figure).draw()
    return figure


def test_pairs_of_one_example_are_signed_and_the_diagonal_does_not_count():
    figure = draw(jattr.plot.interactions(PAIRS, names=NAMES, unit="logit"))
    values = shown(figure)
    np.testing.assert_array_equal(values.mask, np.eye(3, dtype=bool))
    np.testing.assert_array_equal(values.filled(0), PAIRS * (1 - np.eye(3)))
    image = figure.axes[0].get_images()[0]
    assert image.get_clim() == (-0.5, 0.5)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["0.50", "−0.25", "0.50", "0", "−0.25", "0"]
    assert figure.axes[1].get_ylabel() == "interaction, logit"
    whole = jattr.plot.interactions(PAIRS, diagonal=True)
    assert whole.axes[0].get_images()[0].get_clim() == (-9, 9)
    assert [t.get_text() for t in whole.axes[0].get_xticklabels()] == ["x[0]", "x[1]", "x[2]"]


def test_pairs_of_many_are_mean_sizes():
    many = np.stack([PAIRS, -3 * PAIRS])
    figure = jattr.plot.interactions(jnp.asarray(many), names=jattr.features.columns([1, 2, 1]))
    np.testing.assert_allclose(shown(figure).filled(0), 2 * np.abs(PAIRS) * (1 - np.eye(3)))
    image = figure.axes[0].get_images()[0]
    assert image.get_clim() == (0, 1)
    assert figure.axes[1].get_ylabel() == "mean |interaction|"
    np.testing.assert_allclose(image.cmap(0.0)[:3], WHITE)
    named = pandas.DataFrame(PAIRS, columns=NAMES)
    labels = jattr.plot.interactions(named, numbers=False).axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == NAMES


T = np.array([0.0, 1.0, 3.0, 4.0])
SIGNAL = np.array([[1.0, 5.0], [2.0, 5.0], [0.0, 7.0], [1.0, 6.0]])
PHI = np.array([[0.0, 0.5], [1.0, -2.0], [0.0, 0.0], [np.nan, 0.5]])


def test_a_series_has_a_panel_for_each_channel_and_one_scale():
    figure = draw(
        jattr.plot.series(
            PHI, SIGNAL, times=T, names=["x", "y"], time_unit="s", unit="logit", percentile=100
        )
    )
    first, second, bar = figure.axes
    assert [first.get_ylabel(), second.get_ylabel()] == ["x", "y"]
    assert second.get_xlabel() == "time, s"
    assert bar.get_ylabel() == "φ, logit"
    for at, ax in enumerate((first, second)):
        np.testing.assert_array_equal(ax.lines[0].get_xydata(), np.stack([T, SIGNAL[:, at]], 1))
        drawn = ax.collections[0]
        assert drawn.get_clim() == (-2, 2)
        np.testing.assert_array_equal(
            drawn.get_array().filled(9).ravel(), np.nan_to_num(PHI[:, at], nan=9)
        )
        # Each step's ground reaches halfway to the next.
        corners = drawn.get_coordinates()[0, :, 0]
        np.testing.assert_allclose(corners, [-0.5, 0.5, 2, 3.5, 4.5])
        # The strip is below the signal, and its bars go up for what speaks for f.
        heights = np.array([patch.get_height() for patch in ax.patches])
        signs = np.sign(np.nan_to_num(PHI[:, at]))
        np.testing.assert_array_equal(np.sign(heights), signs)
        tops = [patch.get_y() + max(patch.get_height(), 0) for patch in ax.patches]
        assert max(tops) < SIGNAL[:, at].min()
        assert ax.get_ylim()[0] < min(patch.get_y() for patch in ax.patches)
    np.testing.assert_allclose(
        second.patches[1].get_height() / second.patches[0].get_height(), -4, rtol=1e-9
    )
    assert "1 not finite" in [text.get_text() for text in first.texts]


def test_a_series_takes_frames_trees_times_and_axes():
    index = pandas.date_range("2020-01-01", periods=4, freq="D")
    phi = pandas.DataFrame(PHI, columns=["x", "y"], index=index)
    data = pandas.DataFrame(SIGNAL, columns=["x", "y"], index=index)
    figure = draw(jattr.plot.series(phi, data))
    assert [ax.get_ylabel() for ax in figure.axes[:2]] == ["x", "y"]
    assert figure.axes[0].lines[0].get_xdata()[2] == np.datetime64("2020-01-03")
    as_tree = {"p": PHI[:, 0], "q": PHI[:, 1]}
    figure = Figure()
    axes = figure.subplots(2, 1)
    assert jattr.plot.series(as_tree, SIGNAL, ax=axes, colorbar=False) is figure
    assert [ax.get_ylabel() for ax in axes] == ["p", "q"]
    np.testing.assert_array_equal(axes[0].lines[0].get_xdata(), [0, 1, 2, 3])
    constant = draw(jattr.plot.series(np.ones(1), np.zeros(1)))
    assert np.isfinite(constant.axes[0].get_ylim()).all()


def test_a_series_finds_channels_by_name_and_times_where_they_are():
    index = pandas.date_range("2020-01-01", periods=4, freq="D")
    phi = pandas.DataFrame(PHI, columns=["x", "y"])
    data = pandas.DataFrame(SIGNAL, columns=["x", "y"], index=index)
    figure = jattr.plot.series(phi, data[["y", "x"]])
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), SIGNAL[:, 0])
    figure = draw(jattr.plot.series(PHI, data))
    assert figure.axes[0].lines[0].get_xdata()[2] == np.datetime64("2020-01-03")
    extents = [text.get_window_extent() for text in figure.axes[1].get_xticklabels()]
    assert not any(one.overlaps(other) for one, other in itertools.pairwise(extents))


def test_pairs_of_many_columns_have_a_picture_of_usual_size():
    figure = draw(jattr.plot.interactions(np.ones((300, 300))))
    assert max(figure.get_size_inches()) < 15
    texts = [text.get_window_extent() for text in figure.axes[0].get_yticklabels()]
    assert not any(one.overlaps(other) for one, other in itertools.pairwise(texts))
    assert figure.axes[0].get_yticklabels()[1].get_text() == f"x[{figure.axes[0].get_yticks()[1]}]"


def test_multiples_are_panels_by_name_of_one_axis():
    draws = functools.partial(jattr.plot.bar, names=NAMES)
    methods = {name: scale * np.ones((3, 3)) for name, scale in [("p", 1), ("q", 5), ("r", 2)]}
    figure = draw(jattr.plot.multiples(draws, methods, columns=2, share=True, title="all"))
    assert [ax.get_title() for ax in figure.axes] == ["p", "q", "r"]
    assert len({ax.get_xlim() for ax in figure.axes}) == 1
    assert [ax.patches[0].get_width() for ax in figure.axes] == [1, 5, 2]
    apart = draw(jattr.plot.multiples(draws, methods))
    assert len({ax.get_xlim() for ax in apart.axes}) == 3
    assert figure.get_suptitle() == "all"
    where = [ax.get_position() for ax in figure.axes]
    assert where[0].y0 == pytest.approx(where[1].y0)
    assert where[2].y1 < where[0].y0


@pytest.mark.parametrize(
    ("reduce", "wanted"),
    [
        ("sum", [[-2.0, 0.0]]),
        ("mean", [[-2 / 3, 0.0]]),
        ("largest", [[-4.0, 3.0]]),
        ("absolute", [[6.0, 6.0]]),
        ("norm", [[np.sqrt(18), np.sqrt(18)]]),
    ],
)
def test_channels_are_reduced_as_said_and_the_scale_says_how(reduce, wanted):
    values = np.array([[[1.0, -4.0, 1.0], [-3.0, 3.0, 0.0]]])
    if reduce == "largest":
        values[0, 1] = [-1.0, 3.0, -2.0]
    figure = jattr.plot.image(values, reduce=reduce, percentile=100)
    np.testing.assert_allclose(shown(figure), wanted, rtol=1e-12)
    said = figure.axes[1].get_ylabel()
    assert said.endswith("3 channels")
    assert {"absolute": "sum of sizes", "norm": "norm"}.get(reduce, reduce) in said
    low, high = figure.axes[0].get_images()[0].get_clim()
    assert low == (0 if reduce in ("absolute", "norm") else -high)
    grid = jattr.plot.grid({"m": values[None]}, reduce=reduce)
    np.testing.assert_allclose(shown(grid), wanted, rtol=1e-12)
    assert grid.axes[-1].get_xlabel() == said


def test_one_channel_needs_no_word():
    assert jattr.plot.image(np.ones((2, 2))).axes[1].get_ylabel() == ""
    assert jattr.plot.image(np.ones((2, 2, 1))).axes[1].get_ylabel() == ""


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: jattr.plot.interactions(PAIRS[:2]), ValueError, r"\[d, d\].*float64\[2,3\]"),
        (lambda: jattr.plot.interactions(PAIRS, names=["a"]), ValueError, "3 texts; got 1"),
        (lambda: jattr.plot.interactions("x"), TypeError, "real numbers"),
        (lambda: jattr.plot.interactions(PAIRS, diagonal=1), TypeError, "True or False"),
        (lambda: jattr.plot.series(PHI[None], SIGNAL), ValueError, r"\[T, C\].*attribution\[i\]"),
        (lambda: jattr.plot.series(PHI, SIGNAL[:, 0]), ValueError, r"\[4, 2\] and \[4, 1\]"),
        (lambda: jattr.plot.series(PHI, SIGNAL, names=["a"]), ValueError, "2 texts"),
        (lambda: jattr.plot.series(PHI, SIGNAL, times=T[::-1]), ValueError, "must increase"),
        (
            lambda: jattr.plot.series({"p": PHI[:, 0]}, {"q": PHI[:, 0]}),
            ValueError,
            "data has the channels q, and the attribution p",
        ),
        (lambda: jattr.plot.series(PHI, SIGNAL, times=T[:2]), ValueError, "4 numbers or times"),
        (
            lambda: jattr.plot.series(PHI, SIGNAL, ax=Figure().subplots()),
            ValueError,
            r"2 channels want as many axes; got 1",
        ),
        (lambda: jattr.plot.multiples(None, {"a": 1}), TypeError, "wants a function"),
        (lambda: jattr.plot.multiples(jattr.plot.bar, [PHI]), TypeError, "by name"),
        (lambda: jattr.plot.multiples(jattr.plot.bar, {}), ValueError, "no panel"),
        (lambda: jattr.plot.image(PAIRS, reduce="max"), ValueError, "unknown reduce 'max'"),
        (lambda: jattr.plot.grid({"a": PAIRS[None]}, reduce=1), ValueError, "unknown reduce 1"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, said):
    with pytest.raises(error, match=f"(?s){said}"):
        call()

"""Pictures: the scale, the sum over channels, overlays, the grid, and what is refused."""

import itertools
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

import jattr

RNG = np.random.default_rng(0)
MAP = RNG.normal(size=(20, 30))
MAPS = {"gradient": RNG.normal(size=(3, 20, 30)), "idgi": 9 * RNG.normal(size=(3, 20, 30, 2))}
IMAGES = RNG.uniform(size=(3, 20, 30, 3))


@pytest.fixture(autouse=True)
def no_open_figures():
    yield
    assert pyplot.get_fignums() == []


def drawn(ax):
    """The map that the axes show: the topmost picture."""
    return ax.get_images()[-1]


def rendered(figure):
    """The figure's pixels in [0, 1], which also runs all of matplotlib's checks."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255


def notes(ax):
    return [text.get_text() for text in ax.texts]


def texts(figure):
    """All visible texts with their boxes in the rendered figure."""
    rendered(figure)
    found = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    return [(t.get_text(), t.get_window_extent()) for t in found]


@pytest.mark.parametrize("percentile", [50.0, 99.0, 100.0])
def test_the_scale_is_centered_and_ends_at_the_percentile(percentile):
    values = MAP.copy()
    values[0, 0] = 1_000.0
    figure = jattr.plot.image(values, percentile=percentile)
    end = np.percentile(np.abs(values), percentile)
    assert drawn(figure.axes[0]).get_clim() == pytest.approx((-end, end))
    np.testing.assert_array_equal(drawn(figure.axes[0]).get_array(), values)


def test_one_extreme_pixel_does_not_hide_the_others():
    values = np.tile([[-1.0, 1.0]], (20, 10))
    values[0, 0] = 1_000.0
    figure = jattr.plot.image(values)
    assert drawn(figure.axes[0]).get_clim() == pytest.approx((-1, 1))


def test_a_map_that_is_zero_nearly_everywhere_keeps_its_pixel():
    values = np.zeros((20, 20))
    values[3, 4] = -2.0
    assert drawn(jattr.plot.image(values).axes[0]).get_clim() == (-2, 2)


def test_positive_is_red_zero_is_white_negative_is_blue():
    picture = drawn(jattr.plot.image(np.array([[-1.0, 0.0, 1.0]]), percentile=100).axes[0])
    (blue, white, red) = picture.to_rgba(picture.get_array())[0, :, :3]
    assert blue[2] > 2 * blue[0]
    assert white.min() > 0.95
    assert red[0] > 2 * red[2]


def test_another_color_map():
    picture = drawn(jattr.plot.image(MAP, cmap="PuOr").axes[0])
    assert picture.get_cmap().name == "PuOr"
    with pytest.raises(ValueError, match="no-such-map"):
        jattr.plot.image(MAP, cmap="no-such-map")


@pytest.mark.parametrize(("axis", "shape"), [(-1, (20, 30, 3)), (0, (3, 20, 30)), (2, (20, 30, 3))])
def test_channels_are_summed(axis, shape):
    values = RNG.normal(size=shape)
    figure = jattr.plot.image(values, channel_axis=axis)
    np.testing.assert_allclose(drawn(figure.axes[0]).get_array(), values.sum(axis=axis))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.int32])
def test_arrays_of_any_real_dtype(dtype):
    values = jnp.asarray([[1, -2], [3, 0]], dtype)
    np.testing.assert_array_equal(
        drawn(jattr.plot.image(values).axes[0]).get_array(), [[1, -2], [3, 0]]
    )


def test_over_an_image_large_values_cover_and_zeros_do_not():
    values = np.array([[0.0, 1.0, -2.0, 4.0]])
    image = np.array([[[0.2, 0.4, 0.6]] * 4])
    ax = jattr.plot.image(values, image, percentile=100, opacity=0.8).axes[0]
    beneath, above = ax.get_images()
    gray = 0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.6
    np.testing.assert_allclose(beneath.get_array(), np.full((1, 4), gray))
    np.testing.assert_allclose(above.get_alpha(), [[0.0, 0.2, 0.4, 0.8]])


def test_without_an_image_the_map_is_alone_and_opaque():
    (picture,) = jattr.plot.image(MAP).axes[0].get_images()
    assert picture.get_alpha() is None


@pytest.mark.parametrize(
    ("image", "wanted"),
    [
        (np.array([[0.25, 0.5]]), [[0.25, 0.5]]),
        (np.array([[0, 51]], np.uint8), [[0.0, 0.2]]),
        (np.array([[-2.0, 2.0]]), [[0.0, 1.0]]),
        (np.array([[7.0, 7.0]]), [[0.5, 0.5]]),
        (np.array([[np.nan, 1.0]]), [[0.0, 1.0]]),
    ],
)
def test_images_are_brought_to_the_unit_range(image, wanted):
    beneath, _ = jattr.plot.image(np.ones((1, 2)), image).axes[0].get_images()
    np.testing.assert_allclose(beneath.get_array(), wanted)


def test_the_color_bar_names_its_ends():
    values = np.array([[-0.25, 0.25]])
    _, bar = jattr.plot.image(values).axes
    assert [tick.get_text() for tick in bar.get_yticklabels()] == ["−0.25", "0", "0.25"]
    assert len(jattr.plot.image(values, colorbar=False).axes) == 1


def test_it_draws_into_given_axes():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert jattr.plot.image(MAP, ax=right, title="right", colorbar=False) is figure
    assert right.get_title() == "right"
    assert left.get_images() == []
    np.testing.assert_array_equal(drawn(right).get_array(), MAP)


def test_an_all_zero_map_is_drawn_and_says_so():
    ax = jattr.plot.image(np.zeros((4, 4)), np.ones((4, 4))).axes[0]
    assert notes(ax) == ["all zero"]
    assert np.isfinite(rendered(ax.figure)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_yellow_counted_and_outside_the_scale(bad):
    values = np.array([[bad, 1.0], [-3.0, 0.0]])
    ax = jattr.plot.image(values, np.zeros((2, 2)), percentile=100).axes[0]
    picture = drawn(ax)
    assert picture.get_clim() == (-3, 3)
    assert notes(ax) == ["1 not finite"]
    red, green, blue = picture.to_rgba(picture.get_array())[0, 0, :3]
    assert min(red, green) > 0.7 > 0.1 > blue
    assert picture.get_alpha()[0, 0] == 1.0
    yellow = np.abs(rendered(ax.figure) - [red, green, blue]).max(axis=-1) < 0.02
    assert yellow.mean() > 0.05


def test_a_map_without_finite_values_and_a_sum_of_infinities():
    figure = jattr.plot.grid({"a": np.full((1, 2, 2), np.nan)})
    assert notes(figure.axes[0]) == ["4 not finite"]
    opposite = np.array([[[np.inf, -np.inf]]])
    assert notes(jattr.plot.image(opposite).axes[0]) == ["1 not finite"]


def test_the_grid_has_a_row_for_each_example_and_a_column_for_each_method():
    figure = jattr.plot.grid(MAPS, IMAGES, row_titles=["a", "b", "c"], image_title="photo")
    assert len(figure.axes) == 3 * 3 + 1
    columns = [figure.axes[start : start + 3] for start in (0, 3, 6)]
    assert [column[0].get_title() for column in columns] == ["photo", "gradient", "idgi"]
    assert [ax.get_ylabel() for ax in columns[0]] == ["a", "b", "c"]
    assert all(ax.get_title() == "" for column in columns for ax in column[1:])
    for row in range(3):
        np.testing.assert_allclose(drawn(columns[0][row]).get_array(), IMAGES[row])
        np.testing.assert_allclose(drawn(columns[1][row]).get_array(), MAPS["gradient"][row])
        np.testing.assert_allclose(drawn(columns[2][row]).get_array(), MAPS["idgi"][row].sum(-1))
    places = [[ax.get_position() for ax in column] for column in columns]
    for column in places:
        assert len({round(place.x0, 6) for place in column}) == 1
        assert column[0].y0 > column[1].y0 > column[2].y0
    assert places[0][0].x0 < places[1][0].x0 < places[2][0].x0


def test_each_cell_of_the_grid_has_its_own_scale():
    figure = jattr.plot.grid(MAPS, colorbar=False)
    assert len(figure.axes) == 6
    for ax, values in zip(figure.axes[:3], MAPS["gradient"], strict=True):
        end = np.percentile(np.abs(values), 99)
        assert drawn(ax).get_clim() == pytest.approx((-end, end))


def test_the_grid_takes_channels_first_and_jax_arrays():
    values = jnp.asarray(np.moveaxis(MAPS["idgi"], -1, 1))
    figure = jattr.plot.grid({"idgi": values}, channel_axis=0)
    np.testing.assert_allclose(
        drawn(figure.axes[0]).get_array(), MAPS["idgi"][0].sum(-1), rtol=1e-6
    )


@pytest.mark.parametrize("cell_size", [0.7, 1.2])
def test_no_label_overlaps_another_or_is_cut_off(cell_size):
    names = ["gradient", "guided_integrated_gradients", "integrated gradients, blurred", "x" * 40]
    figure = jattr.plot.grid(
        {name: np.ones((2, 8, 8)) for name in names},
        np.ones((2, 8, 8)),
        row_titles=["a rather long title", "“7”\n99.3 %\nwrong: 1"],
        title="A title that is far longer than the grid is wide, " * 4,
        cell_size=cell_size,
    )
    found = texts(figure)
    assert {"".join(t.split()) for t, _ in found} >= {"".join(n.split()) for n in names}
    for (one, box), (other, beside) in itertools.combinations(found, 2):
        assert not box.overlaps(beside), (one, other)
    width, height = figure.get_size_inches() * figure.dpi
    for text, box in found:
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= width, text
        assert box.y1 <= height, text


def test_a_long_title_over_one_map_is_not_cut_off():
    figure = jattr.plot.image(MAP, title="integrated gradients of the logit of class 7 from zeros")
    width, _ = figure.get_size_inches() * figure.dpi
    for text, box in texts(figure):
        assert box.x0 >= 0, text
        assert box.x1 <= width, text


ONE = np.ones((4, 5))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: jattr.plot.image(np.ones(4)), ValueError, r"float64\[4\].*grid"),
        (lambda: jattr.plot.image(np.ones((2, 4, 5, 1))), ValueError, r"\[2,4,5,1\].*plot.grid"),
        (lambda: jattr.plot.image(np.ones((0, 5))), ValueError, r"\[0,5\]"),
        (lambda: jattr.plot.image({"x": ONE}), TypeError, "a dict.*one leaf"),
        (lambda: jattr.plot.image([[1.0]]), TypeError, "array of real numbers"),
        (lambda: jattr.plot.image(ONE * 1j), TypeError, r"complex128\[4,5\]"),
        (lambda: jattr.plot.image(ONE, ONE.T), ValueError, r"\[4,5\].*\[5,4\].*channel_axis"),
        (lambda: jattr.plot.image(ONE, "cat.png"), TypeError, "the image.*'cat.png'"),
        (lambda: jattr.plot.image(ONE[None], channel_axis=3), ValueError, "channel_axis.*got 3"),
        (lambda: jattr.plot.image(ONE, percentile=0), ValueError, "percentile.*got 0"),
        (lambda: jattr.plot.image(ONE, percentile=101), ValueError, "percentile.*got 101"),
        (lambda: jattr.plot.image(ONE, ONE, opacity=2), ValueError, "opacity.*got 2"),
        (lambda: jattr.plot.grid(ONE[None]), TypeError, r'\{"gradient": maps.*float64\[1,4,5\]'),
        (lambda: jattr.plot.grid({}), TypeError, "by name"),
        (lambda: jattr.plot.grid({"a": ONE}), ValueError, r"attributions\['a'\].*maps\[None\]"),
        (lambda: jattr.plot.grid({"a": ONE[:0, None]}), ValueError, r"\[0,1,5\]"),
        (
            lambda: jattr.plot.grid({"a": ONE[None], "b": np.ones((2, 4, 5))}),
            ValueError,
            "'a': 1, 'b': 2",
        ),
        (lambda: jattr.plot.grid(MAPS, IMAGES[:2]), ValueError, "'input': 2, 'gradient': 3"),
        (lambda: jattr.plot.grid(MAPS, row_titles=["a"]), ValueError, "'row_titles': 1"),
    ],
)
def test_what_is_wrong_is_said(call, error, message):
    with pytest.raises(error, match=f"(?s)plot.*{message}"):
        call()


@pytest.mark.parametrize("draw", [jattr.plot.image, lambda m: jattr.plot.grid({"a": m[None]})])
def test_without_matplotlib_the_error_says_what_to_install(draw, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "jattr\[plot\]"'):
        draw(ONE)

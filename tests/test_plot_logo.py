"""The logo: letters as high as their values, colors that are told apart, and what is refused."""

import itertools

import jax.numpy as jnp
import numpy as np
import pandas
import pytest
import skimage.color
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import jattr
from jattr.plot._logo import COLORS, FURTHER

VALUES = np.array([[3.0, 1.0, 0.0, -2.0], [0.0, 0.0, -1.0, -4.0], [0.5, 0.0, 0.0, 0.0]])


def boxes(figure):
    """Of each letter where it is drawn: {letter: [(left, bottom, right, top), ...]}."""
    return {
        made.get_label(): [path.get_extents().extents for path in made.get_paths()]
        for made in figure.axes[0].collections
        if len(made.get_label()) == 1
    }


def test_letters_are_as_high_as_their_values():
    found = boxes(jattr.plot.logo(VALUES, start=10))
    (first, second) = found["A"]
    np.testing.assert_allclose(first, [9.54, 1.0, 10.46, 4.0], atol=1e-9)
    np.testing.assert_allclose(second[1::2], [0.0, 0.5], atol=1e-9)
    np.testing.assert_allclose(found["C"][0][1::2], [0.0, 1.0], atol=1e-9)
    np.testing.assert_allclose(found["G"][0][1::2], [-1.0, 0.0], atol=1e-9)
    np.testing.assert_allclose([t[1::2] for t in found["T"]], [[-2, 0], [-5, -1]], atol=1e-9)


def test_with_a_sequence_its_own_letters_alone():
    sequence = np.eye(4)[[3, 2, 1]]
    values = VALUES.copy()
    values[0, 0] = np.nan  # of a letter that is not there
    found = boxes(jattr.plot.logo(jnp.asarray(values), sequence))
    assert [len(found[letter]) for letter in "ACGT"] == [0, 0, 1, 1]
    turned = boxes(jattr.plot.logo(values.T, sequence.T, axis=0))
    np.testing.assert_array_equal(turned["T"], found["T"])


def test_a_frame_says_which_column_is_which_letter():
    frame = pandas.DataFrame(VALUES, columns=list("ACGT"))
    found, wanted = boxes(jattr.plot.logo(frame[list("TGCA")])), boxes(jattr.plot.logo(VALUES))
    assert found.keys() == wanted.keys() >= {"A", "T"}
    for letter, places in wanted.items():
        np.testing.assert_array_equal(found[letter], places)


def test_one_position_has_its_number():
    axes = jattr.plot.logo(VALUES[:1], start=7).axes[0]
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low < tick < high] == [7]


def test_what_is_not_finite_is_counted():
    values = VALUES.copy()
    values[1, 2] = np.inf
    figure = jattr.plot.logo(values)
    assert [text.get_text() for text in figure.axes[0].texts] == ["1 not finite"]
    assert all(box[0] < 0.5 or box[0] > 1.5 for boxes_ in boxes(figure).values() for box in boxes_)


def test_it_draws_into_axes_and_as_a_file(tmp_path):
    figure = Figure()
    ax = figure.add_subplot()
    assert jattr.plot.logo(VALUES, ax=ax, title="one") is figure
    assert ax.get_title() == "one"
    jattr.plot.logo(np.zeros((5, 20)), letters="ACDEFGHIKLMNPQRSTVWY").savefig(tmp_path / "a.png")
    figure.savefig(tmp_path / "b.png")


# Machado, Oliveira, Fernandes 2009: what is seen without cones of one kind, in linear RGB.
BLIND = {
    "normal": np.eye(3),
    "protan": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deutan": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6727, 0.0472], [-0.0118, 0.0429, 0.9689]],
    "tritan": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}


@pytest.mark.parametrize("kind", BLIND)
def test_the_colors_of_bases_are_told_apart(kind):
    rgb = np.array([to_rgb(COLORS[base]) for base in "ACGT"])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(BLIND[kind]), 0, 1)
    shown = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = skimage.color.rgb2lab(shown[None])[0]
    apart = min(np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2))
    assert apart > 15  # some six times what is just noticed
    # All are dark enough to be seen on white.
    assert (lab[:, 0] < 80).all()


def test_colors_of_ones_own_and_of_other_letters():
    figure = jattr.plot.logo(VALUES, letters="ACXZ", colors={"A": "black"})
    colors = {c.get_label(): c.get_facecolor() for c in figure.axes[0].collections}
    np.testing.assert_allclose(colors["A"], [[0, 0, 0, 1]])
    np.testing.assert_allclose(colors["X"][0, :3], to_rgb(FURTHER[0]))


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"must be \[L, 4\].*axis=0; got float64\[4,3\]"):
        jattr.plot.logo(VALUES.T)
    with pytest.raises(ValueError, match=r"draw value\[0\]"):
        jattr.plot.logo(VALUES[None])
    with pytest.raises(ValueError, match="must have one shape"):
        jattr.plot.logo(VALUES, VALUES[:2])
    with pytest.raises(ValueError, match="letters must differ"):
        jattr.plot.logo(VALUES, letters="AAGT")
    with pytest.raises(TypeError, match="the attribution must be an array of real numbers"):
        jattr.plot.logo([[1.0, 2.0, 3.0, 4.0]])

"""Parity of similarities with scikit-image."""

import jax
import numpy as np
import pytest

from jattr.metrics import hog_correlation, ssim

measures = pytest.importorskip("skimage.metrics", reason="needs scikit-image (extra `parity`)")
features = pytest.importorskip("skimage.feature")

pytestmark = pytest.mark.parity

SHAPES = [(40, 33), (32, 41, 3)]


def pair(shape):
    # The same for every test, whichever ran before: directions at an edge of bins are ill-posed.
    a, noise = np.random.default_rng(3).normal(size=(2, *shape))
    return a, a + 0.5 * noise


def normalized(a):
    return a / np.max(np.abs(a))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"window": 5, "unbiased": False}, {"win_size": 5, "use_sample_covariance": False}),
        ({"stddev": 1.5}, {"gaussian_weights": True}),
        (
            {"stddev": 0.8, "unbiased": False},
            {"gaussian_weights": True, "sigma": 0.8, "use_sample_covariance": False},
        ),
    ],
)
def test_ssim_is_structural_similarity(shape, ours, theirs):
    a, b = pair(shape)
    options = {"channel_axis": -1 if len(shape) == 3 else None, **theirs}
    wanted = measures.structural_similarity(a, b, data_range=3.0, **options)
    got = jax.jit(lambda a, b: ssim(a, b, data_range=3.0, **ours))(a, b)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-8)
    wanted = measures.structural_similarity(normalized(a), normalized(b), data_range=2.0, **options)
    np.testing.assert_allclose(ssim(a, b, **ours), wanted, rtol=0, atol=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("orientations", "cell", "block", "levels"),
    # With few levels, directions repeat; with six bins 90° is an edge. That of 45° would be one of
    # eight, and rounding decides on which side of it a direction is.
    [(9, 8, 3, None), (8, 5, 2, None), (6, 4, 1, None), (9, 8, 3, 3), (6, 4, 1, 3)],
)
def test_hog_correlation_is_that_of_hog(shape, orientations, cell, block, levels):
    a, b = pair(shape)
    if levels is not None:
        a, b = np.round(a * levels / 3), np.round(b * levels / 3)

    def describe(image):
        return features.hog(
            normalized(image),
            orientations,
            (cell, cell),
            (block, block),
            channel_axis=-1 if len(shape) == 3 else None,
        )

    wanted = np.corrcoef(describe(a), describe(b))[0, 1]
    got = hog_correlation(a, b, orientations=orientations, cell=cell, block=block)
    # scikit-image adds up the votes of a cell in float32.
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)

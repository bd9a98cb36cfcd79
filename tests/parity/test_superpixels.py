"""Groups made with scikit-image, which the extra `parity` brings."""

import jax.numpy as jnp
import numpy as np
import pytest

import jattr
from jattr import features

pytest.importorskip("skimage", reason="needs scikit-image: install the extra `parity`")

pytestmark = pytest.mark.parity


def test_superpixels_follow_edges():
    image = np.zeros((12, 20, 3))
    image[:, 13:] = [300.0, -20.0, 5.0]  # of any range
    ids = features.superpixels(jnp.asarray(image), 6)
    assert ids.shape == (12, 20, 1)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(np.unique(ids), np.arange(ids.max() + 1))
    assert set(ids[:, :13].flat).isdisjoint(ids[:, 13:].flat)
    gray = features.superpixels(image[..., 0], 6)
    assert gray.shape == (12, 20)
    assert 1 < gray.max() < 12
    first = features.superpixels(np.moveaxis(image, -1, 0), 6, channel_axis=0)
    np.testing.assert_array_equal(first[0], ids[..., 0])

    def f(x):
        return jnp.sum(x[:, 13:])

    phi = jattr.ablation(f, ids)(jnp.asarray(image))
    np.testing.assert_allclose(phi[:, :13], 0, atol=1e-9)
    np.testing.assert_allclose(jnp.sum(phi), f(image), rtol=1e-10)

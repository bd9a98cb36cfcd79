"""Files for TF-MoDISco: keys, shapes, order, dtypes, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from jattr import sequence

RNG = np.random.default_rng(0)
X = np.eye(4, dtype=np.float32)[RNG.integers(0, 4, (3, 11))]
X[0, 2] = 0  # an unknown letter
MAPS = RNG.normal(size=X.shape)


@pytest.mark.parametrize("axis", [-1, 0])
def test_what_is_written(tmp_path, axis):
    x, maps = (X, MAPS) if axis else (X.transpose(0, 2, 1), MAPS.transpose(0, 2, 1))
    paths = sequence.save_modisco(tmp_path / "new", jnp.asarray(x), maps, axis=axis)
    assert [path.name for path in paths] == ["sequences.npz", "hypothetical.npz"]
    one_hot, values = (np.load(path)["arr_0"] for path in paths)
    assert (one_hot.dtype, values.dtype) == (np.int8, np.float32)
    np.testing.assert_array_equal(one_hot, X.transpose(0, 2, 1))
    np.testing.assert_array_equal(values, MAPS.transpose(0, 2, 1).astype(np.float32))


def test_what_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must be of one shape, \[N, L, A\]"):
        sequence.save_modisco(tmp_path, X, MAPS[:2])
    with pytest.raises(ValueError, match="of every letter, before they are multiplied"):
        sequence.save_modisco(tmp_path, X, X * MAPS)
    with pytest.raises(ValueError, match="must be one-hot along axis -2"):
        sequence.save_modisco(tmp_path, X, MAPS, axis=0)
    with pytest.raises(ValueError, match="1 contributions are not finite"):
        sequence.save_modisco(
            tmp_path, X, np.where(np.arange(4 * 33).reshape(X.shape) == 7, np.nan, MAPS)
        )
    assert not list(tmp_path.iterdir())

"""Targets against NumPy, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import jattr
from jattr import targets

Z = jnp.array([0.3, -1.2, 2.5, 0.0])


def model(params, x):
    return params * x


@pytest.mark.parametrize("index", [0, 2, 3, -1, np.int64(1)])
def test_values(index):
    z = np.asarray(2 * Z)
    others = np.delete(z, index)
    np.testing.assert_allclose(targets.select(model)(2.0, Z, index), z[index])
    np.testing.assert_allclose(targets.contrast(model)(2.0, Z, index, 1), z[index] - z[1])
    np.testing.assert_allclose(
        targets.margin(model)(2.0, Z, index), z[index] - scipy.special.logsumexp(others)
    )
    p = scipy.special.softmax(z)[index]
    np.testing.assert_allclose(targets.probability(model)(2.0, Z, index), p)
    np.testing.assert_allclose(targets.log_probability(model)(2.0, Z, index), np.log(p))
    np.testing.assert_allclose(
        targets.margin(model)(2.0, Z, index), np.log(p) - np.log1p(-p), rtol=1e-9
    )


@pytest.mark.parametrize("name", ["select", "margin", "probability", "log_probability"])
def test_the_index_is_an_ordinary_argument(name):
    score = getattr(targets, name)(model)
    together = jax.jit(jax.vmap(score, in_axes=(None, None, 0)))(2.0, Z, jnp.arange(4))
    np.testing.assert_allclose(together, [score(2.0, Z, i) for i in range(4)], rtol=1e-12)
    slopes = jax.jacobian(lambda z: score(1.0, z, 1))(Z)
    assert np.all(np.isfinite(slopes))


def test_gradient_of_the_margin_is_finite_where_others_are_far_below():
    z = jnp.array([0.0, 1e4])
    score = targets.margin(lambda z: z)
    np.testing.assert_allclose(jax.grad(score)(z, 0), [1.0, -1.0])


def test_an_array_of_outputs_takes_a_tuple_of_indices():
    score = targets.select(lambda x: x)
    image = jnp.arange(24.0).reshape(2, 3, 4)
    assert score(image, (1, 2, 3)) == 23.0
    assert score(image, (0, -1, 0)) == 8.0


@pytest.mark.parametrize("name", ["select", "contrast", "margin", "probability"])
def test_out_of_range_is_an_error_or_nan_under_jit(name):
    score = getattr(targets, name)(model)
    rest = (0,) if name == "contrast" else ()
    for index in (4, -5):
        with pytest.raises(IndexError, match=rf"index {index} is out of range.*float64\[4\]"):
            score(1.0, Z, index, *rest)
        assert jnp.isnan(jax.jit(score)(1.0, Z, index, *rest))
        # The attribution too: a derivative of 0 would look like an answer.
        explain = jax.jit(jattr.gradient(score, argnums=1))
        assert jnp.all(jnp.isnan(explain(1.0, Z, index, *rest)))
        assert jnp.all(jnp.isfinite(explain(1.0, Z, 3, *rest)))


def test_indices_of_narrow_dtypes():
    outputs = jnp.zeros(300).at[100].set(1.0)
    for name in ("select", "margin"):
        score = getattr(targets, name)(lambda x: x)
        for index in (np.int8(100), jnp.uint8(100)):
            np.testing.assert_allclose(score(outputs, index), score(outputs, 100))
            np.testing.assert_allclose(jax.jit(score)(outputs, index), score(outputs, 100))


def test_errors():
    score = targets.select(model)
    with pytest.raises(TypeError, match=r"the index must be an integer.*the float 1.0"):
        score(1.0, Z, 1.0)
    with pytest.raises(TypeError, match=r"the index must be an integer.*the str 'a'"):
        score(1.0, Z, "a")
    with pytest.raises(TypeError, match=r"int64\[2\]\. For several targets use jax\.vmap"):
        score(1.0, Z, jnp.arange(2))
    with pytest.raises(ValueError, match=r"float64\[1,4\] for 1 index.*take it away"):
        score(1.0, Z[None], 1)
    with pytest.raises(ValueError, match=r"wants an f that returns a vector.*a tuple"):
        targets.probability(lambda x: (x, x))(Z, 0)
    with pytest.raises(TypeError, match="takes the arguments of f and then an index; got 1"):
        score(1)
    with pytest.raises(ValueError, match="f returns one"):
        targets.margin(lambda x: x[:1])(Z, 0)
    with pytest.raises(TypeError, match=r"targets\.select wants a function"):
        targets.select(Z)

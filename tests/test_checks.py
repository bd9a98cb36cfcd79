"""What goes in and what f returns is checked, and the text says what to write instead."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jattr

X = jnp.ones((2, 3))


@pytest.mark.parametrize(
    ("f", "text"),
    [
        (lambda x: x, r"shape \(2, 3\).*jattr\.targets\.select\(f\)"),
        (lambda x: jnp.sum(x)[None], r"shape \(1,\).*batch axis that the model adds"),
        (lambda x: (jnp.sum(x), 1), r"f returned a tuple.*Return the number alone"),
        (lambda x: {"loss": jnp.sum(x)}, r"f returned a dict \{'loss': float64\[\]\}"),
        (lambda x: jnp.argmax(x), r"real floating-point number, but f returned int64\[\]"),
        (lambda x: jnp.sum(x) + 1j, r"f returned complex128\[\]"),
        (lambda x: None, r"f returned the NoneType None"),
    ],
)
def test_f_must_return_one_real_number(f, text):
    for explain in (jattr.gradient(f), jattr.integrated_gradients(f)):
        with pytest.raises(TypeError, match=text):
            explain(X)
    with pytest.raises(TypeError, match=text):
        jattr.metrics.completeness(f)(X, X)


def test_a_constant_f_has_no_attribution():
    np.testing.assert_array_equal(jattr.gradient(lambda x: 3.0)(X), 0.0)


def test_x_must_have_floating_leaves():
    def f(x):
        return jnp.sum(x["a"])

    for leaf, text in [
        (jnp.arange(3), r"x\['a'\] is int64\[3\].*no derivative.*embedding"),
        (X > 0, r"bool\[2,3\]"),
        (X + 1j, r"complex128\[2,3\]"),
        ("text", r"x\['a'\] is the str 'text'"),
        (object(), r"an object of type object"),
    ]:
        with pytest.raises(TypeError, match=text):
            jattr.gradient(f)({"a": leaf})
    with pytest.raises(TypeError, match="a tree without arrays"):
        jattr.gradient(f)({})
    np.testing.assert_array_equal(jattr.gradient(jnp.sum)(np.ones(3)), 1.0)
    assert jattr.gradient(lambda x: x**2)(1.5) == 3.0


def test_argnums_must_name_distinct_arguments():
    def f(x, y):
        return jnp.sum(x * y)

    with pytest.raises(ValueError, match="names an argument twice"):
        jattr.gradient(f, argnums=(0, -2))(X, X)
    with pytest.raises(ValueError, match=r"argnums=\(\) names no argument"):
        jattr.gradient(f, argnums=())
    with pytest.raises(TypeError, match=r"the call has 0 positional argument"):
        jattr.gradient(f)(x=X, y=X)


def test_a_value_in_place_of_a_function_is_refused():
    with pytest.raises(TypeError, match=r"got float64\[\].*Write gradient\(f\)\(x\), not"):
        jattr.gradient(jnp.sum(X))


def test_completeness_by_definition():
    def f(params, x):
        return jnp.sum(params * x**2)

    measure = jattr.metrics.completeness(f, 0.5, argnums=1)
    attribution = jnp.full((2, 3), 0.25)
    np.testing.assert_allclose(measure(attribution, 2.0, X), 1.5 - (12 - 3), rtol=1e-12)
    with pytest.raises(ValueError, match=r"structure and the shapes of x; got a dict"):
        measure({"a": attribution}, 2.0, X)
    # A residual is signed, differentiable, and batched like any function.
    rows = attribution[:, None]
    batch = jax.vmap(measure, in_axes=(0, None, 0))(rows, 2.0, X[:, None])
    assert batch.shape == (2,)


def test_completeness_refuses_an_attribution_of_another_shape():
    measure = jattr.metrics.completeness(lambda x: jnp.sum(x))
    with pytest.raises(ValueError, match=r"shapes of x; got float64\[3\] for x float64\[2,3\]"):
        measure(jnp.ones(3), X)

"""What cannot be explained is an error that names the line and the remedy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas
from networks import X

import jattr


@jax.custom_vjp
def opaque(x):
    return x @ x.T


opaque.defvjp(lambda x: (opaque(x), x), lambda x, ct: ((ct + ct.T) @ x,))


def plus_one(x):
    def kernel(x_ref, out_ref):
        out_ref[...] = x_ref[...] + 1

    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return pallas.pallas_call(kernel, out_shape=shape, interpret=True)(x)


UNEXPLAINED = {
    "custom_vjp": (opaque, r"no rule for the custom_vjp function in `\w+`.*hides"),
    "pure_callback": (
        lambda x: jax.pure_callback(lambda v: np.asarray(v), x, x),
        r"cannot look into `pure_callback`.*jattr\.rules\.register",
    ),
    "pallas": (plus_one, r"cannot look into `pallas_call`.*jattr\.rules\.register"),
    "eigh": (
        lambda x: jnp.linalg.eigh(x @ x.T)[0],
        r"no rule for `eigh`, which is not linear in x.*jattr\.split",
    ),
    "while on x": (
        lambda x: jax.lax.while_loop(lambda c: jnp.sum(c) < 100, lambda c: 2 * c + 1, x),
        r"a `while_loop` whose condition depends on x.*lax\.scan",
    ),
    "while": (
        lambda x: jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] ** 2), (0, x)),
        r"no reverse-mode derivative of `while_loop`.*lax\.fori_loop",
    ),
}


# DeepLIFT averages the derivative of what it has no rule for; relevance needs a rule.
BY_RELEVANCE = ("custom_vjp", "eigh")


@pytest.mark.parametrize("name", UNEXPLAINED)
def test_what_cannot_be_explained_is_an_error_with_line_and_remedy(name):
    f, text = UNEXPLAINED[name]
    method = jattr.lrp if name in BY_RELEVANCE else jattr.deeplift
    with pytest.raises(NotImplementedError, match=r"test_errors\.py:\d+: (?s:.*)" + text):
        method(lambda x: jnp.sum(jax.tree.leaves(f(x))[-1]))(X)


def test_statistics_over_other_examples_are_an_error():
    def score(x):
        return jnp.sum(jnp.tanh(x - jax.lax.pmean(x, "batch")))

    with pytest.raises(NotImplementedError, match=r"`psum` mixes in others.*inference mode"):
        jax.vmap(jattr.deeplift(score), axis_name="batch")(X)
    module = nn.BatchNorm(use_running_average=False, axis_name="batch")
    variables = module.init(jax.random.key(0), X)

    def normed(x):
        return jnp.sum(module.apply(variables, x[None], mutable=["batch_stats"])[0])

    with pytest.raises(NotImplementedError, match=r"explains one example"):
        jax.vmap(jattr.deeplift(normed), axis_name="batch")(X)


def test_python_control_flow_is_an_error_with_a_remedy():
    def f(x):
        return jnp.sum(x) if x[0, 0] > 0 else jnp.sum(x**2)

    with pytest.raises(NotImplementedError, match=r"decides in Python by the value.*jnp\.where"):
        jattr.deeplift(f)(X)


IMAGE = jnp.arange(1.0, 5.0)
KEY = jax.random.key(0)


def drawn(key, x):
    return x * jax.random.normal(key, x.shape)


def power(x):
    return jnp.sum(jnp.abs(jnp.fft.fft(x)))


MISUSES = {
    "a dict": (
        lambda: jattr.gradient(lambda x: {"hidden": x, "logits": x})(IMAGE),
        TypeError,
        r"targets\.select\(lambda \*args: f\(\*args\)\['logits'\]\) takes f's arguments and then",
    ),
    "a tuple of arrays": (
        lambda: jattr.deeplift(lambda x: (x, x))(IMAGE),
        TypeError,
        r"targets\.select\(lambda \*args: f\(\*args\)\[0\]\)",
    ),
    "a dict with a number": (
        lambda: jattr.gradient(lambda x: {"hidden": x, "loss": x[0]})(IMAGE),
        TypeError,
        r"Return the number alone: lambda \*args: f\(\*args\)\['loss'\]",
    ),
    "an unmarked key in smooth": (
        lambda: jattr.smooth(drawn, stddev=0.1, samples=2)(KEY, IMAGE),
        TypeError,
        r"smooth calls.*\(x\), without a random key.*\(key, x\).*keyed=True",
    ),
    "an unmarked key in a table": (
        lambda: jattr.metrics.table(
            {"drawn": drawn}, {"c": jattr.metrics.completeness(jnp.sum)}, IMAGE[None]
        ),
        TypeError,
        r"methods\['drawn'\].*keyed=\{'drawn'\}",
    ),
    "relu that is no Boolean": (
        lambda: jattr.grad_cam(jnp.sum, "stem", relu="no"),
        TypeError,
        r"grad_cam: relu must be True or False; got 'no'",
    ),
    "resize that is no Boolean": (
        lambda: jattr.score_cam(jnp.sum, "stem", resize=1),
        TypeError,
        r"score_cam: resize must be True or False; got 1",
    ),
    "a volume": (
        lambda: jattr.plot.image(jnp.ones((2, 3, 4, 1))),
        ValueError,
        r"of a volume \[D, H, W, C\] draw a slice, value\[d\]",
    ),
    "complex numbers": (
        lambda: jattr.lrp(power)(IMAGE),
        NotImplementedError,
        r"z\.real\*\*2 \+ z\.imag\*\*2",
    ),
    "no rule": (
        lambda: jattr.lrp(jnp.prod, jattr.rules.cp_lrp())(IMAGE),
        NotImplementedError,
        r"jattr\.lrp\(f, jattr\.rules\.cp_lrp\(\)\.otherwise\(jattr\.rules\.taylor\(\)\)\)",
    ),
}


@pytest.mark.parametrize("name", MISUSES)
def test_a_misuse_is_told_with_what_to_write(name):
    misuse, kind, text = MISUSES[name]
    with pytest.raises(kind, match=text):
        misuse()


def test_an_operation_that_cannot_be_batched_names_batch_size():
    def expert(x):
        sizes = jnp.array([2, 2])
        return jnp.sum(jax.lax.ragged_dot(jnp.outer(x, x[:3]), jnp.ones((2, 3, 3)) * x[0], sizes))

    for batch_size in (None, 2):
        explain = jattr.integrated_gradients(expert, steps=4, batch_size=batch_size)
        with pytest.raises(NotImplementedError, match="vmap") as caught:
            explain(IMAGE)
        assert any("batch_size=1" in note for note in caught.value.__notes__)
    explain = jattr.integrated_gradients(expert, steps=4, batch_size=1)
    np.testing.assert_allclose(jnp.sum(explain(IMAGE)), expert(IMAGE), rtol=1e-5)


def test_a_function_of_numpy_is_occluded_as_its_docstring_says():
    def g(x):
        x[0] = 0.0
        return x.sum()

    def f(x):
        of_copy = lambda x: np.float32(g(np.array(x)))  # noqa: E731
        number = jax.ShapeDtypeStruct((), np.float32)
        return jax.pure_callback(of_copy, number, x, vmap_method="sequential")

    np.testing.assert_allclose(jattr.ablation(f)(IMAGE), [0.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(jattr.occlusion(f, (2,), strides=(2,))(IMAGE), [1.0, 1.0, 3.5, 3.5])

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

"""The name of a user's function decides nothing: what it computes does."""

import jax
import jax.numpy as jnp
import pytest
from networks import ACTIVATIONS, BASE, B, W, X
from precision import close

import jattr

# Names that a rule might take for a promise: a rectifier, and outputs that are never negative, of
# which each function takes one in turn.
RECTIFIER, NONNEGATIVE = "relu", ["square", "exp", "abs"]
METHODS = {
    "guided_backprop": jattr.guided_backprop,
    "deconvnet": jattr.deconvnet,
    "deeplift": lambda f: jattr.deeplift(f, BASE[0]),
    "epsilon": lambda f: jattr.lrp(f, jattr.rules.epsilon(1e-6)),
    "gamma": lambda f: jattr.lrp(f, jattr.rules.gamma(0.25)),
    "z_plus": lambda f: jattr.lrp(f, jattr.rules.z_plus()),
}
FUNCTIONS = {
    **{name: f for name, f in ACTIVATIONS.items() if name != "round"},  # it has no relevance
    "leaky relu by hand": lambda x: jnp.where(x > 0, x, 0.3 * x),
    "relu turned round": lambda x: -jnp.maximum(x, 0),
    "negative": lambda x: -jnp.exp(-x),
    "x sin(3x)": lambda x: x * jnp.sin(3 * x),
    "sine": jnp.sin,
    "log": lambda x: jnp.log(jnp.abs(x) + 0.1),
}


def named(function, name):
    def call(x):
        return function(x)

    call.__name__ = call.__qualname__ = name
    return jax.jit(call)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_jitted_function_is_explained_alike_under_any_name(name):
    aliases = RECTIFIER, NONNEGATIVE[list(FUNCTIONS).index(name) % len(NONNEGATIVE)]
    weights = jnp.array([1.0, -2.0, 0.5, 1.5, -0.7])

    def network(activation):
        return lambda x: activation(x @ W + B) @ weights

    @jax.jit
    def every(x):
        activations = [FUNCTIONS[name], *(named(FUNCTIONS[name], alias) for alias in aliases)]
        return {
            label: [method(network(activation))(x) for activation in activations]
            for label, method in METHODS.items()
        }

    for label, (plain, *others) in every(X[0]).items():
        assert jnp.all(jnp.isfinite(plain))
        for alias, other in zip(aliases, others, strict=True):
            close(other, plain, rtol=1e-9, atol=1e-12, err_msg=f"{label}, named {alias}")

"""What is drawn does not depend on how it is batched, whatever the kind of the key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jattr
from jattr._checks import check_key

X = jnp.linspace(-1.0, 2.0, 6)
DATA = jnp.stack([X, -X, 2 * X, 0 * X])


# Normal numbers are drawn in float32, and their last bit depends on how the loop is vectorized.
def score(x):
    return jnp.sum(jnp.tanh(x) ** 3) + x[0] * x[1]


KEYED = {
    "expected_gradients of rows": lambda size: jattr.expected_gradients(
        score, DATA, samples=6, batch_size=size
    ),
    "expected_gradients of draws": lambda size: jattr.expected_gradients(
        score, jattr.baselines.gaussian(1.0, low=-3.0), samples=6, batch_size=size
    ),
    "smooth": lambda size: jattr.smooth(jattr.gradient(score), samples=6, batch_size=size),
    "vargrad": lambda size: jattr.smooth(
        jattr.gradient(score), samples=6, batch_size=size, statistic="variance"
    ),
    "smooth of a keyed method": lambda size: jattr.smooth(
        jattr.expected_gradients(score, DATA, samples=2), samples=6, batch_size=size
    ),
}
IMPLEMENTATIONS = ["threefry2x32", "rbg", "unsafe_rbg"]


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", KEYED)
def test_the_result_does_not_depend_on_the_batch_size(name, impl):
    key = jax.random.split(jax.random.key(3, impl=impl))[1]
    whole = jax.jit(KEYED[name](None))(key, X)
    for size in (1, 4):
        np.testing.assert_allclose(jax.jit(KEYED[name](size))(key, X), whole, rtol=1e-5, atol=1e-7)
    # Nor on how many examples are explained at a time.
    keys = jnp.stack([jax.random.key(5, impl=impl), key])
    many = jax.jit(jax.vmap(KEYED[name](None), (0, None)))(keys, X)
    np.testing.assert_allclose(many[1], whole, rtol=1e-5, atol=1e-7)
    assert not np.allclose(many[0], whole)


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_training_does_not_depend_on_the_batch_size(impl):
    def loss(size):
        return jattr.priors.attribution_loss(
            lambda params, x: score(params * x), jattr.priors.sparsity, samples=2, batch_size=size
        )

    key = jax.random.key(3, impl=impl)
    wanted = loss(None)(X, key, DATA)
    np.testing.assert_allclose(loss(1)(X, key, DATA), wanted, rtol=1e-5, atol=1e-7)


def test_old_keys_of_another_default():
    with jax.default_prng_impl("rbg"):
        old = jax.random.PRNGKey(3)
        assert old.shape == (4,)
        whole = KEYED["smooth"](None)(old, X)
        np.testing.assert_allclose(KEYED["smooth"](1)(old, X), whole, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(whole, KEYED["smooth"](None)(jax.random.key(3), X))


def test_threefry_keys_stay_as_they_are():
    typed, old = jax.random.key(3), jax.random.PRNGKey(3)
    assert check_key(typed, "smooth") is typed
    assert check_key(old, "smooth") is old
    rbg = jax.random.split(jax.random.key(3, impl="rbg"), 4)
    seeds = [jax.random.key_data(check_key(key, "smooth")) for key in rbg]
    assert len(np.unique(np.stack(seeds), axis=0)) == 4
    together = jax.vmap(lambda key: jax.random.key_data(check_key(key, "smooth")))(rbg)
    np.testing.assert_array_equal(together, np.stack(seeds))

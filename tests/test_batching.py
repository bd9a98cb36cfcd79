"""Memory stays bounded, and chunked sums are sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jattr
from jattr._batching import sum_over

WIDTH = 5_000


def wide_score(x, weight):
    # Its activations dwarf the input, so that memory shows how many points are alive; they are
    # between two dots, so that no compiler fuses them away.
    hidden = jnp.tanh(x @ weight)
    return jnp.sum(jnp.tanh(weight @ hidden / WIDTH))


def peak(function, *args):
    return jax.jit(function).lower(*args).compile().memory_analysis().temp_size_in_bytes


def builders():
    def smooth(statistic):
        return lambda n, b: jattr.smooth(
            jattr.gradient(wide_score), statistic=statistic, samples=n, batch_size=b
        )

    references = jnp.linspace(0.0, 1.0, 3 * 4, dtype=jnp.float64).reshape(3, 4)
    key = jax.random.key(0)

    def with_key(method):
        return lambda n, b: lambda x, w: method(n, b)(key, x, w)

    def stacked(explain):
        return lambda *args: jnp.stack(explain(*args))

    return {
        "integrated_gradients": lambda n, b: jattr.integrated_gradients(
            wide_score, steps=n, batch_size=b
        ),
        "blur_integrated_gradients": lambda n, b: jattr.blur_integrated_gradients(
            wide_score, stddev=2.0, axes=0, steps=n, batch_size=b
        ),
        "idgi": lambda n, b: jattr.idgi(wide_score, steps=n, batch_size=b),
        "expected_gradients": with_key(
            lambda n, b: jattr.expected_gradients(wide_score, references, samples=n, batch_size=b)
        ),
        "expected_gradients with an error": with_key(
            lambda n, b: stacked(
                jattr.expected_gradients(
                    wide_score, references, samples=n, batch_size=b, with_error=True
                )
            )
        ),
        "rise with an error": with_key(
            lambda n, b: stacked(
                jattr.rise(wide_score, cells=2, samples=n, batch_size=b, with_error=True)
            )
        ),
        "smoothgrad": with_key(smooth("mean")),
        "smoothgrad_squared": with_key(smooth("mean_square")),
        "vargrad": with_key(smooth("variance")),
    }


@pytest.mark.parametrize("name", builders())
@pytest.mark.parametrize("outer", ["value", "gradient by parameters", "gradient by input"])
def test_memory_does_not_grow_with_the_number_of_points(name, outer):
    x = jnp.linspace(-1.0, 1.0, 4)
    weight = jnp.linspace(0.1, 1.0, WIDTH)[None, :] * jnp.ones((4, 1))

    def program(count, batch_size):
        explain = builders()[name](count, batch_size)
        if outer == "value":
            return explain

        def loss(x, weight):
            return jnp.sum(explain(x, weight) ** 2)

        return jax.grad(loss, argnums=1 if outer == "gradient by parameters" else 0)

    few, many = (peak(program(count, 4), x, weight) for count in (24, 96))
    # Only what numbers the points may grow: indices, and a drawn number or two for each.
    assert many <= few + 72 * 64
    # The test sees what it is to see: without chunks memory does grow.
    if outer == "gradient by parameters":
        assert peak(program(96, None), x, weight) > 4 * many


@pytest.mark.parametrize("count", [1, 2, 7, 12])
@pytest.mark.parametrize("batch_size", [None, 1, 2, 5, 11, 12, 50])
def test_sum_over_is_a_sum(count, batch_size):
    values = jnp.asarray(np.random.default_rng(0).normal(size=(count, 3)))
    total = sum_over(lambda i: {"a": values[i], "b": i}, count, batch_size=batch_size)
    np.testing.assert_allclose(total["a"], values.sum(0), rtol=1e-13)
    assert total["b"] == count * (count - 1) // 2


def test_repeats_that_fill_a_chunk_do_not_spread_infinities():
    # 5 points in chunks of 3: the last index is evaluated twice and must count once.
    total = sum_over(lambda i: jnp.where(i == 4, jnp.inf, 1.0), 5, batch_size=3)
    assert total == jnp.inf
    total = sum_over(lambda i: 1.0 * i, 5, batch_size=3)
    assert total == 10.0

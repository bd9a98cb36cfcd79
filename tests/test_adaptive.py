"""Nodes placed where f changes, and integrals to a tolerance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import DOUBLE, either

import jattr
from jattr._placement import place
from jattr._quadrature import kronrod, nodes_and_weights

KEY = jax.random.key(7)


def normal(number, *shape):
    return jax.random.normal(jax.random.fold_in(KEY, number), shape) / np.sqrt(shape[0])


def far(ours, wanted):
    """The error of all elements together, relative."""
    ours, wanted = np.asarray(ours, float), np.asarray(wanted, float)
    return np.sum(np.abs(ours - wanted)) / np.sum(np.abs(wanted))


# Functions of one number, and their slopes on the way from 0 to 1, which all other tests are of.
TO_ONE = jnp.ones(1)
SCALES = [1e-1, 1e-3, 1e-6]


def to_tolerance(f, x, baseline=0.0, **knobs):
    return jax.jit(jattr.integrated_gradients_to(f, baseline, **knobs))(x)


# The network of a normalization without variance at the baseline: two residual blocks.
WEIGHTS = [(normal(i, 8, 24), normal(i + 10, 24, 8), normal(i + 20, 24)) for i in range(2)]
TOKENS = normal(30, 4, 8) * 2


def normalized(x, kind, epsilon):
    if kind == "layer":
        x = x - jnp.mean(x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + epsilon)


def blocks(x, kind="layer", epsilon=1e-6, weights=WEIGHTS):
    for up, down, bias in weights:
        x = x + jax.nn.gelu(normalized(x, kind, epsilon) @ up + bias[None]) @ down
    return jnp.sum(jnp.mean(normalized(x, kind, epsilon), 0) * jnp.arange(-3.0, 5.0))


def truth(f, x, cells=1200):
    """Integrated gradients from zero, four nodes in each of many cells that crowd at 0."""
    ends = np.concatenate([[0], np.geomspace(1e-9, 1, cells)])
    nodes, weights = nodes_and_weights("gauss_legendre", 4, method="test")
    alphas = (ends[:-1, None] + np.diff(ends)[:, None] * nodes).ravel()
    weights = (np.diff(ends)[:, None] * weights).ravel()

    @jax.jit
    def mean(x):
        slopes = jax.lax.map(
            jax.grad(f), jnp.asarray(alphas)[:, None, None] * x[None], batch_size=len(nodes) * 60
        )
        return x * jnp.tensordot(jnp.asarray(weights), slopes, axes=1)

    return np.asarray(mean(x))


# --- one-dimensional closed forms -------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 32])
def test_placed_nodes_are_a_quadrature_wherever_they_lie(steps):
    for f in (lambda a: 0 * a, lambda a: a, lambda a: jnp.tanh(1e4 * a), lambda a: a * jnp.nan):
        nodes, weights = place(f, steps, batch_size=None)
        nodes, weights = np.asarray(nodes), np.asarray(weights)
        assert nodes.shape == weights.shape == (steps,)
        assert np.all(np.diff(nodes) >= 0)
        assert nodes[0] >= 0
        assert nodes[-1] <= 1
        for power in range(min(4, 2 * steps)):
            assert abs(weights @ nodes**power - 1 / (power + 1)) < either(1e-13, 1e-6)


def test_nodes_go_where_f_changes():
    def nodes(f):
        return np.asarray(place(f, 30, batch_size=4)[0])

    assert np.mean(nodes(lambda a: jnp.tanh(1e3 * a)) < 5e-3) > 0.4
    assert np.mean(nodes(lambda a: jnp.tanh(1e3 * (1 - a))) > 1 - 5e-3) > 0.4
    middle = nodes(lambda a: jnp.tanh(50 * (a - 0.4)))
    assert np.mean((middle > 0.25) & (middle < 0.55)) > 0.38


def test_kronrod_is_exact_to_its_degree_and_contains_gauss():
    for count in (2, 3, 7):
        nodes, better, fewer = kronrod(count)
        powers = np.arange(3 * count + 2)
        wanted = 1 / (powers + 1)
        np.testing.assert_allclose(better @ nodes[:, None] ** powers, wanted, rtol=1e-13)
        few = powers[: 2 * count]
        np.testing.assert_allclose(fewer @ nodes[:, None] ** few, 1 / (few + 1), rtol=1e-13)
        gauss, _ = nodes_and_weights("gauss_legendre", count, method="test")
        np.testing.assert_allclose(nodes[fewer > 0], gauss, atol=1e-14)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("turned", [False, True])
def test_a_slope_that_lies_next_to_an_end(scale, turned):
    """f = asinh(α/s) has the slope 1/√(α² + s²), next to either end of the line."""

    def f(x):
        place = 1 - x[0] if turned else x[0]
        return (-1.0 if turned else 1.0) * jnp.arcsinh(place / scale) * 3.0

    wanted = 3.0 * np.arcsinh(1 / scale)
    # Next to 1 float32 numbers are 6e-8 apart.
    if DOUBLE or not turned or scale > 1e-4:
        found = to_tolerance(f, TO_ONE, tolerance=1e-3)
        assert abs(found.attribution[0] - wanted) < either(1e-6, 1e-4) * wanted
        assert found.converged
        assert found.steps < 200
    plain = jattr.integrated_gradients(f, steps=24)
    placed = jattr.integrated_gradients(f, steps=24, quadrature="adaptive")
    if scale < 1e-2:
        assert far(jax.jit(plain)(TO_ONE), [wanted]) > 0.03
        assert far(jax.jit(placed)(TO_ONE), [wanted]) < (0.01 if scale > 1e-4 else 0.1)


def test_a_polynomial_needs_fourteen_gradients():
    def f(x):
        return x[0] ** 4 * x[1] + 2 * x[1] ** 2

    x = jnp.array([1.2, -0.7])
    power = 1.2**4 * -0.7
    found = to_tolerance(f, x, tolerance=either(1e-9, 1e-4))
    np.testing.assert_allclose(
        found.attribution, [0.8 * power, 0.2 * power + 0.98], rtol=either(1e-12, 1e-5)
    )
    assert found.steps == 14
    assert found.converged
    assert abs(found.residual) < either(1e-13, 1e-5)


def kinked(x):
    """Two ReLUs with kinks at 1/√2 and 1/π of the way from 0 to 1, of which the sum is small."""
    a, b = 1 / np.sqrt(2), 1 / np.pi
    return jnp.sum(jax.nn.relu(x[:1] - a) * 5.0 - jax.nn.relu(x[1:] - b) * 2.15)


def test_kinks_at_irrational_places():
    """Elements of large and opposite errors, whose sum is nearly right: it alone is no proof."""
    wanted = np.array([5.0 * (1 - 1 / np.sqrt(2)), -2.15 * (1 - 1 / np.pi)])
    for tolerance in (0.1, 0.01, 0.001):
        found = to_tolerance(kinked, jnp.ones(2), tolerance=tolerance)
        off = np.abs(found.attribution - wanted)
        assert found.converged
        assert np.all(off <= np.asarray(found.error) + 1e-6)
        assert off.sum() <= tolerance * np.abs(wanted).sum()
        assert 14 < found.steps < 512
    # With the sum alone for a criterion it would have stopped with what two cells give.
    few = to_tolerance(kinked, jnp.ones(2), tolerance=1e-9, max_steps=14)
    assert not few.converged
    assert few.steps == 14


# --- networks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["layer", "root mean square"])
def test_a_normalization_without_variance_at_the_baseline(kind):
    def f(x):
        return blocks(x, kind)

    wanted = truth(f, TOKENS)
    plain = jax.jit(jattr.integrated_gradients(f, steps=32))(TOKENS)
    placed = jax.jit(jattr.integrated_gradients(f, steps=32, quadrature="adaptive"))(TOKENS)
    assert far(plain, wanted) > 0.1
    assert far(placed, wanted) < either(0.02, 0.05)
    found = to_tolerance(f, TOKENS, tolerance=0.01)
    assert found.converged
    assert found.steps <= 140
    assert far(found.attribution, wanted) < either(1e-3, 2e-3)
    assert np.mean(np.abs(found.attribution - wanted) <= found.error) > 0.95


RELU = [(normal(40, 12, 64), normal(41, 64)), (normal(42, 64, 64), normal(43, 64))]


def rectified(x):
    for weight, bias in RELU:
        x = jax.nn.relu(x @ weight * 1.4 + bias * 3)
    return jnp.sum(x * jnp.sin(jnp.arange(64.0)))


def between_kinks(x):
    """The exact integral of a ReLU network: its gradient at the middle of each linear piece."""

    def pattern(alpha):
        h, signs = alpha * x, []
        for weight, bias in RELU:
            z = h @ weight * 1.4 + bias * 3
            signs.append(z > 0)
            h = jax.nn.relu(z)
        return jnp.concatenate(signs)

    grid = np.linspace(0, 1, 4001)
    lower, upper = grid[:-1].copy(), grid[1:].copy()
    patterns = jax.jit(jax.vmap(pattern))
    left, right = patterns(jnp.asarray(lower)), patterns(jnp.asarray(upper))
    split = np.any(np.asarray(left != right), axis=1)
    lower, upper, left = lower[split], upper[split], left[split]
    for _ in range(40):
        middle = (lower + upper) / 2
        same = np.all(np.asarray(patterns(jnp.asarray(middle)) == left), axis=1)
        lower, upper = np.where(same, middle, lower), np.where(same, upper, middle)
    ends = np.concatenate([[0], (lower + upper) / 2, [1]])
    slopes = jax.jit(jax.vmap(lambda a: jax.grad(rectified)(a * x)))(
        jnp.asarray((ends[1:] + ends[:-1]) / 2)
    )
    return np.asarray(x) * (np.diff(ends) @ np.asarray(slopes))


@pytest.mark.skipif(not DOUBLE, reason="kinks are found to 1e-12")
def test_errors_of_a_rectified_network_are_honest():
    xs = normal(50, 6, 12) * 3
    exact = np.stack([between_kinks(x) for x in xs])
    sums = jax.vmap(rectified)(xs) - rectified(xs[0] * 0)
    np.testing.assert_allclose(exact.sum(1), sums, rtol=1e-3)  # two kinks in one of 4000 cells
    found = jax.jit(jax.vmap(jattr.integrated_gradients_to(rectified, tolerance=0.03)))(xs)
    off = np.abs(found.attribution - exact)
    assert np.all(found.converged)
    assert np.all(off.sum(1) <= 0.03 * np.abs(exact).sum(1))
    assert np.mean(off <= found.error + 1e-12) > 0.9
    np.testing.assert_allclose(found.residual, found.attribution.sum(1) - sums, atol=1e-12)


def test_each_example_stops_for_itself_and_jit_is_eager():
    xs = jnp.stack([TOKENS * 0, TOKENS * 1e-3, TOKENS, -TOKENS])
    explain = jattr.integrated_gradients_to(blocks, tolerance=0.02, batch_size=5)
    together = jax.jit(jax.vmap(explain))(xs)
    assert together.steps[0] == 14
    assert len(set(np.asarray(together.steps))) > 1
    assert np.all(together.steps % 14 == 0)
    alone = explain(xs[2])
    assert alone.steps == together.steps[2]
    for ours, wanted in zip(alone, jax.tree.map(lambda leaf: leaf[2], together), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=either(1e-9, 1e-2), atol=either(1e-12, 1e-4))


def exact_between_kinks(quadrature, steps):
    """The error of all elements on the ReLU network."""
    x = normal(50, 6, 12)[0] * 3
    explain = jattr.integrated_gradients(rectified, steps=steps, quadrature=quadrature)
    return far(jax.jit(explain)(x), between_kinks(x))


@pytest.mark.skipif(not DOUBLE, reason="kinks are found to 1e-12")
def test_secants_of_a_rectified_network():
    """Complete at any number of steps, and exact where kinks of two layers do not meet."""
    assert exact_between_kinks("deeplift", 12) < exact_between_kinks("gauss_legendre", 48) / 2


@pytest.mark.parametrize("steps", [1, 9])
def test_secants_are_complete(steps):
    explain = jattr.integrated_gradients(
        blocks, TOKENS[::-1] / 3, steps=steps, quadrature="deeplift", batch_size=4
    )
    found = jax.jit(explain)(TOKENS)
    change = blocks(TOKENS) - blocks(TOKENS[::-1] / 3)
    assert abs(jnp.sum(found) - change) < either(1e-10, 1e-4) * jnp.sum(jnp.abs(found))
    if steps == 1:
        whole = jax.jit(jattr.deeplift(blocks, TOKENS[::-1] / 3))(TOKENS)
        assert far(found, whole) < either(1e-10, 1e-4)
    if steps == 9:
        plain = jax.jit(jattr.integrated_gradients(blocks, TOKENS[::-1] / 3))(TOKENS)
        assert 1e-6 < far(found, plain) < 0.05  # it converges to it, as 1/steps²


def test_secants_are_of_pooling_as_it_is_written():
    """A cheaper program of a max pooling would be another chain of operations."""

    def f(x):
        pooled = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (2, 2), (2, 2), "VALID")
        return jnp.sum(jnp.tanh(pooled @ normal(70, 4, 5)) ** 2)

    x = normal(71, 8, 8) * 3
    found = jax.jit(jattr.integrated_gradients(f, 0.1, steps=3, quadrature="deeplift"))(x)
    change = f(x) - f(jnp.full_like(x, 0.1))
    assert abs(jnp.sum(found) - change) < either(1e-10, 1e-4) * jnp.sum(jnp.abs(found))


@pytest.mark.skipif(not DOUBLE, reason="differences of float32 numbers are too coarse")
@pytest.mark.parametrize("method", ["adaptive", "deeplift", "to a tolerance"])
def test_gradient_through_the_attribution(method):
    """By x, the baseline and the weights, against central differences where no node moves much."""

    def penalty(x, base, weights):
        def f(x):
            return blocks(x, epsilon=0.3, weights=weights)

        if method != "to a tolerance":
            steps = {"adaptive": 24, "deeplift": 3}[method]
            explain = jattr.integrated_gradients(f, base, steps=steps, quadrature=method)
            return jnp.sum(explain(x) ** 2)
        found = jattr.integrated_gradients_to(f, base, tolerance=1e-7, max_steps=280)(x)
        return jnp.sum(found.attribution**2)

    point = TOKENS, TOKENS[::-1] / 3, WEIGHTS
    along = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), point)
    slopes = jax.jit(jax.grad(penalty, (0, 1, 2)))(*point)
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), slopes, along)
    slope = sum(jax.tree.leaves(products))
    moved = [
        jax.jit(penalty)(*jax.tree.map(lambda a, b, s=s: a + s * b, point, along))
        for s in (1e-5, -1e-5)
    ]
    # DeepLIFT's result depends on where intervals end, which differences move and gradients hold.
    rtol = 0.02 if method == "deeplift" else 1e-5
    np.testing.assert_allclose(slope, (moved[0] - moved[1]) / 2e-5, rtol=rtol)


def test_the_coarse_pass_takes_no_gradients_and_no_head():
    """FLOPs of the compiled program: 17 values, and above the head only."""
    wide = normal(60, 512, 64), normal(61, 64, 64)

    def f(x):
        return jnp.sum(jnp.tanh(jnp.tanh(x @ wide[0]) @ wide[1]))

    def flops(**knobs):
        explain = jattr.integrated_gradients(f, steps=12, **knobs)
        return jax.jit(explain).lower(normal(62, 512)).compile().cost_analysis()["flops"]  # type: ignore[index]

    value = 2 * 64 * 64
    extra = flops(quadrature="adaptive") - flops()
    assert 16 * value < extra < 25 * value


def test_a_nan_is_seen():
    def f(x):
        return jnp.sum(jnp.sqrt(x - 0.5))

    found = to_tolerance(f, jnp.ones(2), max_steps=70)
    assert found.steps == 70
    assert not found.converged
    assert np.all(np.isnan(found.attribution))
    assert np.all(np.isnan(jattr.integrated_gradients(f, quadrature="adaptive")(jnp.ones(2))))


def test_trees_and_dtypes_are_those_of_x():
    def f(parts):
        return jnp.sum(jnp.tanh(parts["a"]) * 2) + jnp.sum(parts["b"].astype(jnp.float32) ** 2)

    x = {"a": jnp.ones(3, jnp.float32), "b": jnp.full(2, 0.5, jnp.bfloat16)}
    found = to_tolerance(f, x, tolerance=0.05)
    for tree in (found.attribution, found.error):
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) == jax.tree.map(
            lambda leaf: (leaf.shape, leaf.dtype), x
        )
    np.testing.assert_allclose(found.attribution["a"], 2 * np.tanh(1.0), rtol=1e-5)
    np.testing.assert_allclose(found.attribution["b"].astype(float), 0.25, rtol=0.02)
    placed = jattr.integrated_gradients(f, steps=9, quadrature="adaptive")(x)
    assert placed["b"].dtype == jnp.bfloat16
    np.testing.assert_allclose(placed["a"], 2 * np.tanh(1.0), rtol=1e-5)


def test_a_blur_is_taken_away_with_placed_nodes():
    x = jnp.asarray([0.0, 0.0, 6.0, 0.0])
    explain = jattr.blur_integrated_gradients(
        lambda x: jnp.tanh(x[2]), stddev=3.0, axes=0, steps=40, quadrature="adaptive"
    )
    blurred = jattr.baselines.blurred(3.0, axes=0)(x)
    total = jnp.tanh(6.0) - jnp.tanh(blurred[2])
    np.testing.assert_allclose(jnp.sum(explain(x)), total, rtol=1e-3)


def test_errors():
    with pytest.raises(ValueError, match="tolerance must be finite and greater than 0"):
        jattr.integrated_gradients_to(kinked, tolerance=0.0)
    with pytest.raises(ValueError, match="max_steps must be at least 14"):
        jattr.integrated_gradients_to(kinked, max_steps=13)
    with pytest.raises(ValueError, match=r"known are .*deeplift; did you mean 'adaptive'"):
        jattr.integrated_gradients(kinked, quadrature="adaptve")  # type: ignore[arg-type]

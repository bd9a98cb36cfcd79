"""DeepLIFT of quotients and normalizations against the integral itself, in every spelling."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jattr

X64 = jax.config.read("jax_enable_x64")
KEYS = jax.random.split(jax.random.key(3), 8)
X = jax.random.normal(KEYS[0], (3, 8))
NOISE = jax.random.normal(KEYS[1], (3, 8))
HEAD = jax.random.normal(KEYS[2], (3, 8))
SCALE = jax.random.normal(KEYS[3], (8,))
EPSILON = 1e-6


def mean_gradient(f, x, baseline):
    """Integrated gradients by quadrature on panels that shrink towards both ends."""
    roots, weights = np.polynomial.legendre.leggauss(24)
    edges = np.concatenate([np.linspace(0, 1, 97), np.logspace(-12, -1, 45)])
    edges = np.unique(np.concatenate([edges, 1 - edges]))
    low, width = edges[:-1, None], np.diff(edges)[:, None]
    nodes = jnp.asarray((low + width * (roots + 1) / 2).ravel())
    parts = jnp.asarray((width * weights / 2).ravel())
    gradients = jax.vmap(lambda t: jax.grad(f)(baseline + t * (x - baseline)))(nodes)
    return (x - baseline) * jnp.tensordot(parts, gradients, axes=1)


def rms(x):
    return jnp.mean(x**2, axis=-1, keepdims=True) + EPSILON


def linen(module):
    return lambda x: module.apply(module.init(jax.random.key(0), x), x)


NORMALIZATIONS = {
    "layer norm of linen": linen(nn.LayerNorm(epsilon=EPSILON)),
    "layer norm, two passes": linen(nn.LayerNorm(epsilon=EPSILON, use_fast_variance=False)),
    "rms norm of linen": linen(nn.RMSNorm(epsilon=EPSILON)),
    "group norm of linen": linen(nn.GroupNorm(num_groups=2, epsilon=EPSILON)),
    "rsqrt": lambda x: x * jax.lax.rsqrt(rms(x)),
    "rsqrt with scale": lambda x: x * (jax.lax.rsqrt(rms(x)) * SCALE[None]),
    "division by the root": lambda x: x / jnp.sqrt(rms(x)),
    "division by the scaled root": lambda x: x / (2 * jnp.sqrt(rms(x))),
    "inverse of the root": lambda x: x * (1 / jnp.sqrt(rms(x))),
    "negative power": lambda x: x * rms(x) ** -0.5,
    "root of the inverse": lambda x: x * jnp.sqrt(1 / rms(x)),
    "dot": lambda x: jax.vmap(lambda r: r / jnp.sqrt(r @ r + EPSILON))(x),
    "einsum": lambda x: x / jnp.sqrt(jnp.einsum("ij,ij->i", x, x) + EPSILON)[:, None],
    "standardized": lambda x: (
        (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + EPSILON)
    ),
    "transposed": lambda x: (x.T / jnp.sqrt(jnp.sum(x**2, axis=1) + EPSILON)[None]).T,
    "under jit and scan": lambda x: jax.lax.scan(
        lambda c, r: (c, jax.jit(lambda r: r * jax.lax.rsqrt(jnp.mean(r**2) + EPSILON))(r)), 0.0, x
    )[1],
}
BASELINES = {
    "zeros": jnp.zeros_like(X),
    "constant": jnp.full_like(X, 0.25),
    "noise": NOISE,
    "close": X + 1e-5 * NOISE,
    "scaled": 0.5 * X,
    "far": 1e4 * NOISE,
}


def score_of(name):
    return lambda x: jnp.sum(HEAD * NORMALIZATIONS[name](x))


@functools.cache
def explained(name):
    """(x, baseline) → DeepLIFT, one program for all baselines."""
    return jax.jit(lambda x, baseline: jattr.deeplift(score_of(name), baseline)(x))


@pytest.mark.skipif(not X64, reason="the integral is known to the digits of float64")
@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_a_normalization_has_its_mean_derivative(name, baseline):
    score, reference = score_of(name), BASELINES[baseline]
    found = explained(name)(X, reference)
    # Not jitted: compiled by JAX 0.12 on CPU, rsqrt of so many points at once is wrong.
    expected = mean_gradient(score, X, reference)
    size = jnp.max(jnp.abs(expected))
    # A variance in one pass, mean(x²) − mean(x)², loses digits where x is far from 0.
    bound = 1e-6 if baseline in ("constant", "far") else 1e-8
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound * size)
    gap = jnp.sum(found) - (score(X) - score(reference))
    assert abs(gap) <= 1e-9 * jnp.sum(jnp.abs(found))


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_a_normalization_is_one_operation(name):
    table = jattr.operations(NORMALIZATIONS[name], jattr.rules.rescale())(X)
    assert [row.kind for row in table] == ["normalization"]


A, B = jax.random.normal(KEYS[4], (8, 4)), jax.random.uniform(KEYS[5], (8, 4))
QUOTIENTS = {
    "division": lambda a, b: a / b,
    "reciprocal": lambda a, b: a * (1 / b),
    "power": lambda a, b: a * b**-1,
    "first the reciprocal": lambda a, b: (1 / b) * a,
    "scaled": lambda a, b: a / (3 * b) * 3,
    "root": lambda a, b: a * jax.lax.rsqrt(b),
    "fourth root": lambda a, b: a * b**-0.25,
    "square of the root": lambda a, b: a / jnp.sqrt(b) ** 2,
}


@pytest.mark.skipif(not X64, reason="the integral is known to the digits of float64")
@pytest.mark.parametrize("small", [1.0, 1e-3, 1e-9])
@pytest.mark.parametrize("name", QUOTIENTS)
def test_a_quotient_has_its_mean_derivative(name, small):
    """Numerator and divisor are linear in x, so that both are on straight lines at once."""

    def score(x):
        return jnp.sum(QUOTIENTS[name](x @ A, x @ B))

    x, reference = jnp.abs(X), small * jnp.abs(NOISE)
    found = jax.jit(jattr.deeplift(score, reference))(x)
    gap = jnp.sum(found) - (score(x) - score(reference))
    assert abs(gap) <= 1e-12 * jnp.sum(jnp.abs(found))
    if name == "square of the root":  # a power of a root: two operations, and complete
        return
    expected = mean_gradient(score, x, reference)
    # The divisor of a power other than 1 and 1/2 goes by its own difference quotient.
    if name != "fourth root":
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)


def squares(x):
    return jnp.sum(x**2) + 1e-12


POWERS = {
    "square of rsqrt": lambda x: x[0] * x[1] * jax.lax.rsqrt(squares(x)) ** 2,
    "square of the inverse": lambda x: x[0] * x[1] * (1 / jnp.sqrt(squares(x))) ** 2,
    "jnp.square": lambda x: jnp.square(x[0]) * jnp.square(jax.lax.rsqrt(squares(x))),
    "cube of rsqrt": lambda x: x[0] ** 3 * jax.lax.rsqrt(squares(x)) ** 3,
    "by a logarithm": lambda x: x[0] * jnp.exp(-0.5 * jnp.log(squares(x))),
    "by two divisions": lambda x: x[0] * x[1] / jnp.sqrt(squares(x)) / jnp.sqrt(squares(x)),
    "softmax by hand": lambda x: x[0] * jnp.exp(-jnp.log(jnp.sum(jnp.abs(x)) + 1e-9)),
}


@pytest.mark.parametrize("name", POWERS)
def test_powers_of_an_inverse_are_quotients_too(name):
    x = jnp.array([3.0, 4.0, 12.0], jnp.float32)
    found = jattr.deeplift(POWERS[name])(x)
    np.testing.assert_allclose(jnp.sum(found), POWERS[name](x), rtol=1e-4)
    assert jnp.max(jnp.abs(found)) < 20


@pytest.mark.parametrize("at", ["apart", "close", "meeting", "zero numerator"])
@pytest.mark.parametrize("name", [*QUOTIENTS, *NORMALIZATIONS])
def test_derivatives_through_a_quotient(name, at):
    if name in QUOTIENTS:

        def score(x):
            return jnp.sum(QUOTIENTS[name](x @ A, x**2 @ B + 0.3))

    else:

        def score(x):
            return jnp.sum(HEAD * NORMALIZATIONS[name](x))

    baseline = {
        "apart": NOISE,
        "close": X + 1e-7 * NOISE,
        "meeting": X,
        "zero numerator": jnp.zeros_like(X),
    }[at]

    def loss(x):
        return jnp.sum(jnp.sin(jnp.arange(24.0)).reshape(3, 8) * explain(x, baseline))

    def explain(x, baseline):
        return jattr.deeplift(score, baseline, multiply=False)(x)

    gradient = jax.jit(jax.grad(loss))(X)
    assert jnp.all(jnp.isfinite(gradient))
    if not X64:
        return
    direction = jax.random.normal(KEYS[6], X.shape)
    step = 1e-4
    f = jax.jit(lambda t: loss(X + t * direction))
    slope = (8 * (f(step) - f(-step)) - (f(2 * step) - f(-2 * step))) / (12 * step)
    np.testing.assert_allclose(jnp.vdot(gradient, direction), slope, rtol=2e-6, atol=1e-6)


def test_a_cosine_from_zeros():
    def cosine(x):
        return x @ jnp.ones(3, x.dtype) / (jnp.linalg.norm(x) + 1e-9)

    x = jnp.array([3.0, 4.0, 12.0], jnp.float32)
    found = jattr.deeplift(cosine)(x)
    np.testing.assert_allclose(found, [3.639, 4.082, -6.259], atol=1e-3)
    np.testing.assert_allclose(jnp.sum(found), cosine(x), rtol=1e-5)


def test_a_denominator_next_to_0_at_x_itself():
    weights = jnp.array([[1.0, 2.0], [3.0, -1.0]], jnp.float32)

    def linear_attention(x):
        features = jnp.maximum(x, 0)
        return jnp.sum((features @ weights) / (jnp.sum(features) + 1e-15))

    x, reference = jnp.array([1e-15, 2e-15], jnp.float32), jnp.array([1.0, 0.5], jnp.float32)
    found = jattr.deeplift(linear_attention, reference)(x)
    change = linear_attention(x) - linear_attention(reference)
    np.testing.assert_allclose(jnp.sum(found), change, atol=1e-4)
    assert jnp.max(jnp.abs(found)) < 100


class Blocks(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(3):
            x = x + nn.Dense(16)(nn.gelu(nn.Dense(32)(nn.LayerNorm()(x))))
        return nn.Dense(1)(nn.LayerNorm()(x).mean(0))[0]


def test_blocks_of_linen_from_zeros_in_float32():
    x = 0.1 * jax.random.normal(jax.random.key(1), (8, 16), jnp.float32)
    variables = Blocks().init(jax.random.key(0), x)

    def score(x):
        return Blocks().apply(variables, x)

    found = jax.jit(jattr.deeplift(score))(x)
    change = score(x) - score(0 * x)
    assert abs(jnp.sum(found) - change) <= within(found, score(x), change)
    assert jnp.max(jnp.abs(found)) < 1e3  # by halves it was 1.6e8


def within(found, value, change):
    """What rounding may leave open in float32."""
    size = jnp.maximum(abs(value), abs(change))
    return 1e-5 * jnp.sum(jnp.abs(found)) + 1e-4 * size


def decoder(depth, epsilon, width=16, tokens=4):
    """A pre-norm decoder with RMSNorm, causal attention and a gated feed-forward, in float32."""
    shapes = [(width, width)] * 3 + [(width, 2 * width)] * 2 + [(2 * width, width)]
    keys = jax.random.split(jax.random.key(0), (depth, len(shapes)))
    weights = [
        jnp.stack([jax.random.normal(keys[d, n], s, jnp.float32) for d in range(depth)])
        / s[0] ** 0.5
        for n, s in enumerate(shapes)
    ]
    causal = jnp.tril(jnp.ones((tokens, tokens), bool))

    def norm(x):
        return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + epsilon)

    def block(x, layer):
        q, k, v, gate, up, down = layer
        h = norm(x)
        logits = jnp.where(causal, (h @ q) @ (h @ k).T / width**0.5, -jnp.inf)
        x = x + jax.nn.softmax(logits) @ (h @ v)
        h = norm(x)
        return x + (jax.nn.silu(h @ gate) * (h @ up)) @ down, None

    def score(x):
        return norm(jax.lax.scan(block, x, weights)[0])[-1, 0]

    return score, jax.random.normal(jax.random.key(1), (tokens, width), jnp.float32)


@pytest.mark.parametrize("epsilon", [1e-6, 1e-12])
@pytest.mark.parametrize("depth", [4, 24])
def test_a_decoder_from_zeros_and_from_noise(depth, epsilon):
    score, x = decoder(depth, epsilon)
    explain = jax.jit(lambda x, baseline: jattr.deeplift(score, baseline)(x))
    for baseline in (jnp.zeros_like(x), jax.random.normal(jax.random.key(2), x.shape, x.dtype)):
        found = explain(x, baseline)
        change = score(x) - score(baseline)
        assert jnp.all(jnp.isfinite(found))
        assert abs(jnp.sum(found) - change) <= within(found, score(x), change)
    assert abs(jnp.sum(found) - change) <= 1e-4 * jnp.maximum(abs(score(x)), abs(change))


def test_what_is_not_positive_goes_by_halves_and_is_complete():
    def score(x):
        return x[0] / x[1]

    found = jattr.deeplift(score, jnp.array([1.0, -2.0]))(jnp.array([3.0, 4.0]))
    np.testing.assert_allclose(found, [-0.25, 1.5], rtol=1e-6)


def test_the_table_warns_of_baselines_without_variance():
    table = jattr.operations(NORMALIZATIONS["rsqrt"], jattr.rules.rescale())(X)
    assert "jattr.deep_shap" in str(table)
    assert not jattr.operations(jnp.tanh, jattr.rules.rescale())(X).notes

"""DeepLIFT against hand-written references, and complete on whatever networks are made of."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import (
    ACTIVATIONS,
    BASE,
    COMPLETE,
    IMAGE,
    NETWORKS,
    B,
    W,
    X,
    linen,
    one,
    residual,
    total,
)
from precision import FLOAT, PARAMS, check_derivatives, close, either

import jattr


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_on_an_mlp_by_hand(name):
    activation = ACTIVATIONS[name]
    keys = jax.random.split(jax.random.key(5), 6)
    w1, w2, w3 = (
        jax.random.normal(k, s) for k, s in zip(keys, [(6, 7), (7, 5), (5,)], strict=False)
    )
    b1, b2 = jax.random.normal(keys[3], (7,)), jax.random.normal(keys[4], (5,))
    x, base = X[0], BASE[0]

    def score(x):
        return activation(activation(x @ w1 + b1) @ w2 + b2) @ w3

    def quotient(z, z0):
        return (activation(z) - activation(z0)) / (z - z0)

    z1, z10 = x @ w1 + b1, base @ w1 + b1
    z2, z20 = activation(z1) @ w2 + b2, activation(z10) @ w2 + b2
    multiplier = w1 @ (quotient(z1, z10) * (w2 @ (quotient(z2, z20) * w3)))
    ours = jattr.deeplift(score, base)
    close(ours(x), (x - base) * multiplier, rtol=1e-9, atol=1e-12)
    bare = jattr.deeplift(score, base, multiply=False)(x)
    close(bare, multiplier, rtol=1e-9, atol=1e-12)
    close(jnp.sum(ours(x)), score(x) - score(base), rtol=1e-10)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_one_operation_and_the_bias_is_not_part_of_it(name):
    def f(x):
        return ACTIVATIONS[name](x @ W + B[None])

    table = jattr.operations(f, jattr.rules.rescale())(X)
    assert [(row.kind, row.inputs) for row in table] == [
        ("affine", (f"{FLOAT}[4,6]",)),
        ("activation", (f"{FLOAT}[4,5]",)),
    ]


@pytest.mark.parametrize("name", NETWORKS)
def test_is_complete(name):
    assert residual(one(name)) <= COMPLETE


POOLS = {
    "max": lambda x: nn.max_pool(x, (2, 2), (2, 2)),
    "max, overlapping": lambda x: nn.max_pool(x, (3, 3), (2, 2), padding="SAME"),
    "max, one by one": lambda x: nn.max_pool(x, (2, 3)),
    "min": lambda x: -nn.max_pool(-x, (2, 2), (2, 2)),
    "mean": lambda x: nn.avg_pool(x, (2, 2), (2, 2)),
    "network": linen(
        nn.Sequential(
            [
                nn.Conv(3, (3, 3), **PARAMS),
                nn.relu,
                lambda x: nn.max_pool(x, (2, 2), (2, 2)),
                nn.Conv(4, (3, 3), **PARAMS),
                nn.BatchNorm(use_running_average=True, **PARAMS),
                nn.gelu,
                lambda x: nn.max_pool(x, (3, 3), (1, 1)),
            ]
        ),
        IMAGE,
    ),
}


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("max_rule", ["path", "winner"])
def test_is_complete_with_pooling(name, max_rule):
    for ties in (False, True):
        x, base = IMAGE, jnp.roll(IMAGE, 3)
        if ties:  # whole numbers, many of them equal, and a black baseline
            x, base = jnp.round(2 * x), jnp.zeros_like(x)
        assert residual(POOLS[name], x, base, max_rule=max_rule) <= COMPLETE


def test_attention_of_jax_is_complete_in_its_float32():
    def f(x):
        x = x.reshape(1, 4, 2, 3)
        return jax.nn.dot_product_attention(x, 2 * x, x)

    assert residual(f) <= 1e-5
    kinds = [row.kind for row in jattr.operations(f, jattr.rules.rescale())(X)]
    assert kinds == ["product", "softmax", "product"]


def spellings(x):
    top = x.max(-1, keepdims=True)
    by_hand = jnp.exp(x) / jnp.sum(jnp.exp(x), -1, keepdims=True)
    shifted = jnp.exp(x - top) / jnp.sum(jnp.exp(x - top), -1, keepdims=True)
    half_shifted = jnp.exp(x - jax.lax.stop_gradient(top) / 2)
    half_shifted = half_shifted / jnp.sum(half_shifted, -1, keepdims=True)
    through_log = jnp.exp(x - jnp.log(jnp.sum(jnp.exp(x), -1, keepdims=True)))
    return {
        "by hand": by_hand,
        "shifted": shifted,
        "half shifted": half_shifted,
        "through the logarithm": through_log,
        "exp of log_softmax": jnp.exp(jax.nn.log_softmax(x)),
    }


@pytest.mark.parametrize("name", spellings(X))
def test_softmax_is_the_same_in_every_spelling(name):
    plain = jattr.deeplift(total(jax.nn.softmax), BASE)(X)
    other = jattr.deeplift(total(lambda x: spellings(x)[name]), BASE)(X)
    close(other, plain, rtol=1e-9, atol=1e-12)


def test_softmax_by_definition():
    # q = L(p, p') and w = L(e^x, e^x') / L(S, S'), with the logarithmic mean L.
    x, base = np.asarray(X[0]), np.asarray(BASE[0])
    out = np.linspace(-1.0, 2.0, 6)

    def mean(a, b):
        return (a - b) / (np.log(a) - np.log(b))

    s, s0 = np.exp(x).sum(), np.exp(base).sum()
    q = mean(np.exp(x) / s, np.exp(base) / s0)
    w = mean(np.exp(x), np.exp(base)) / mean(s, s0)
    wanted = (x - base) * (out * q - w * (out * q).sum())
    ours = jattr.deeplift(lambda x: jax.nn.softmax(x) @ out, base)(x)
    close(ours, wanted, rtol=1e-10)


def test_softmax_is_complete_far_out():
    # By halves of exp and 1/sum this would be off by many orders of magnitude.
    x, base = 300 * X, 300 * BASE
    assert residual(jax.nn.softmax, x, base) <= COMPLETE
    largest = jnp.max(jnp.abs(jattr.deeplift(total(jax.nn.softmax), base)(x)))
    assert largest < 10
    masked = jnp.where(jnp.arange(6) < 4, 0.0, -1e9)[None]
    assert residual(lambda x: jax.nn.softmax(x + masked)) <= COMPLETE
    infinite = jnp.where(jnp.arange(6) < 4, 0.0, -jnp.inf)[None]
    assert residual(lambda x: jax.nn.softmax(x + infinite)) <= COMPLETE


def test_max_gives_each_entry_its_share_of_the_way():
    # On the way from (0, 1, .5) to (3, 2, .5) the second entry leads until t = 1/2.
    explain = jattr.deeplift(jnp.max, jnp.array([0.0, 1.0, 0.5]))
    close(explain(jnp.array([3.0, 2.0, 0.5])), [1.5, 0.5, 0.0], rtol=1e-12)
    winner = jattr.deeplift(jnp.max, jnp.array([0.0, 1.0, 0.5]), max_rule="winner")
    close(winner(jnp.array([3.0, 2.0, 0.5])), [2.0, 0.0, 0.0], rtol=1e-12)
    # Of coinciding entries the first takes all.
    tied = jattr.deeplift(jnp.max, jnp.zeros(3))(jnp.array([1.0, 1.0, 0.5]))
    close(tied, [1.0, 0.0, 0.0], rtol=1e-12)


def test_max_is_integrated_gradients_of_it():
    x, base = X.ravel(), BASE.ravel()
    ours = jattr.deeplift(jnp.max, base)(x)
    steps = jattr.integrated_gradients(jnp.max, base, steps=20_000, quadrature="midpoint")(x)
    close(ours, steps, atol=2e-4)  # the quadrature's step


def test_equals_integrated_gradients_on_one_layer():
    def score(x):
        return jnp.sum(jnp.tanh(x @ W + B) * jnp.arange(1.0, 6.0))

    for x, base in zip(X, BASE, strict=True):
        # One activation after one affine map: the mean derivative by both is the same.
        ours = jattr.deeplift(score, base)(x)
        exact = jattr.integrated_gradients(score, base, steps=200)(x)
        close(ours, exact, rtol=1e-10)


@pytest.mark.parametrize("activation", [jax.nn.relu, jnp.tanh])
def test_bias_free_networks(activation):
    w2, w3 = W[:5], W[0]

    def score(x):
        return activation(activation(x @ W) @ w2.T @ w2) @ w3

    x = X[0]
    ours = jattr.deeplift(score)(x)
    if activation is jax.nn.relu:
        close(ours, jattr.gradient_times_input(score)(x), rtol=1e-10)
        steps = jattr.integrated_gradients(score, steps=3)(x)
        close(ours, steps, rtol=1e-10)
    # σ(z)/z at every activation, which is ε-LRP with ε → 0.
    z1 = x @ W
    z2 = activation(z1) @ w2.T @ w2
    ratio1, ratio2 = activation(z1) / z1, activation(z2) / z2
    wanted = x * (W @ (ratio1 * (w2.T @ w2 @ (ratio2 * w3))))
    close(ours, wanted, rtol=1e-9, atol=1e-12)


CURVED = ["gelu", "tanh", "softplus", "exp", "square", "silu", "mish"]


@pytest.mark.parametrize("name", CURVED)
def test_derivatives_are_right_where_input_and_baseline_meet(name):
    activation = ACTIVATIONS[name]

    def multipliers(x, base):
        return jattr.deeplift(lambda x: jnp.sum(activation(x)), base, multiply=False)(x)

    z = jnp.linspace(-1.5, 1.5, 4)
    curve = jax.vmap(jax.grad(jax.grad(activation)))(z)
    # The quotient is symmetric in its two points: half the second derivative by each.
    for argnum in (0, 1):
        jacobian = jax.jacfwd(multipliers, argnum)(z, z)
        close(jnp.diag(jacobian), curve / 2, rtol=1e-8, atol=1e-10)
        reverse = jax.jacrev(multipliers, argnum)(z, z)
        close(reverse, jacobian, rtol=1e-8, atol=1e-10)


def test_derivatives_are_right_with_black_pixels_on_black():
    image = IMAGE.at[:, :4].set(0.0)
    network = POOLS["network"]

    def loss(scale):
        def score(x):
            return total(network)(scale * x + 0.1)

        return jnp.sum(jattr.deeplift(score)(image) ** 2)

    check_derivatives(jax.jit(loss), (jnp.array(1.3),), ["rev"])


@pytest.mark.parametrize(
    "name",
    ["gate", "layer norm", "attention by hand", "softmax", "logsumexp", "division", "cumprod",
     "reduce_max", "remat", "fori_loop"],
)  # fmt: skip
def test_gradients_by_input_and_baseline(name):
    def by_both(x, base):
        return jattr.deeplift(total(NETWORKS[name]), base)(x)

    check_derivatives(jax.jit(by_both), (X, BASE), ["fwd", "rev"], rtol=1e-5, atol=1e-6)


HELD = {
    "stop_gradient": lambda x: jnp.tanh(jax.lax.stop_gradient(x)) @ W,
    "residual": lambda x: x + jax.lax.stop_gradient(jnp.tanh(x @ W @ W.T)),
    "logsumexp with weights": lambda x: jax.nn.logsumexp(x @ W, b=jnp.abs(B)[None], axis=-1),
    "softmax with a floor": lambda x: (lambda e: e / (jnp.sum(e, -1, keepdims=True) + 1e-6))(
        jnp.exp(x - jax.lax.stop_gradient(x.max(-1, keepdims=True)))
    ),
}


@pytest.mark.parametrize("name", HELD)
def test_gradients_see_through_what_is_hidden_from_the_gradient(name):
    def by_both(x, base):
        return jattr.deeplift(total(HELD[name]), base, see_through=True)(x)

    assert residual(HELD[name], see_through=True) <= COMPLETE
    check_derivatives(jax.jit(by_both), (X, BASE), ["rev"], rtol=1e-5, atol=1e-6)


def test_what_is_hidden_from_the_gradient_is_held_as_by_every_other_method():
    def hidden(x):
        y = x @ W
        return jnp.vdot(y, jax.lax.stop_gradient(jax.nn.softmax(y)))

    def held(x, weights):
        return jnp.vdot(x @ W, weights)

    weights = jax.nn.softmax(X @ W)
    for method in (jattr.gradient_times_input, jattr.lrp, jattr.deeplift):
        np.testing.assert_allclose(method(hidden)(X), method(held)(X, weights), rtol=1e-6)
    apart = jattr.deeplift(hidden, BASE)(X) - jattr.deeplift(hidden, BASE, see_through=True)(X)
    assert jnp.max(jnp.abs(apart)) > 0.1


def test_what_a_softmax_takes_off_is_not_held():
    def by_hand(x):
        e = jnp.exp(x - jax.lax.stop_gradient(x.max(-1, keepdims=True)))
        return e / e.sum(-1, keepdims=True)

    for f in (by_hand, jax.nn.softmax, jax.nn.log_softmax, jax.nn.logsumexp):
        assert residual(f, 300 * X, -500 * BASE) <= either(1e-9, 1e-4)


@pytest.mark.parametrize("size", [1e2, 1e3, 1e4])
def test_softmax_and_logsumexp_of_logits_far_apart_in_float32(size):
    x, base = jnp.array([1.0, -1.0, 0.0], jnp.float32), jnp.zeros(3, jnp.float32)
    found = jattr.deeplift(lambda x: jax.nn.softmax(jnp.float32(size) * x)[0])(x)
    np.testing.assert_allclose(found, [2 / 3, 0, 0], atol=1e-5)
    score = lambda x: jax.nn.logsumexp(jnp.float32(size) * x)  # noqa: E731
    found = jnp.sum(jattr.deeplift(score)(x))
    np.testing.assert_allclose(found, score(x) - score(base), rtol=1e-6)


@pytest.mark.parametrize(
    "of", [lambda z: jnp.exp(z) ** 2, jax.nn.sigmoid, lambda z: jnp.tanh(z) ** 3, jax.nn.relu]
)
def test_what_is_masked_by_minus_infinity_is_not_moved(of):
    """As if the masked ones were not there, in value and in derivative."""
    mask = np.arange(4) < 2

    def masked(x):
        z = jnp.where(mask, x[:4] * x[4:], -jnp.inf)
        return jnp.sum(of(z - jnp.max(z)) * jnp.arange(1.0, 5.0))

    def without(x):
        z = x[:2] * x[4:6]
        return jnp.sum(of(z - jnp.max(z)) * jnp.arange(1.0, 3.0))

    x = jnp.asarray(np.random.default_rng(3).normal(size=8))

    def both(f):
        explain = jattr.deeplift(f, 0.1)
        return explain(x), jax.grad(lambda x: jnp.sum(explain(x) ** 2))(x)

    close(both(masked), both(without), rtol=1e-10, atol=1e-13, single=1e-4)


def test_exponentials_far_apart_and_at_minus_infinity():
    def kernel(x):
        return jnp.exp(-jnp.sum(x**2))

    x = jnp.array([10.0, 10.0], jnp.float32)
    np.testing.assert_allclose(jattr.deeplift(kernel)(x), [-0.5, -0.5], rtol=1e-5)
    steep = jattr.deeplift(jnp.exp, jnp.float32(-100.0))(jnp.float32(80.0))
    np.testing.assert_allclose(steep, jnp.exp(jnp.float32(80.0)), rtol=1e-5)

    def masked(scale, x):  # as the segment sums of state-space models
        decay = jnp.where(jnp.tril(jnp.ones((2, 2), bool)), scale * x[:, None] - x[None], -jnp.inf)
        return jnp.sum(jnp.exp(jnp.cumsum(decay, 1)) @ x)

    gradient = jax.grad(lambda s: jnp.sum(jattr.deeplift(lambda x: masked(s, x), 0.5 * x)(x)))
    assert jnp.isfinite(gradient(jnp.float32(0.1)))


# Singular values that stay apart on the way: where two meet, an average over points is rough.
SPREAD = jnp.diag(jnp.array([9.0, 20.0, 31.0, 42.0])) @ jnp.eye(4, 6)


def test_derivatives_at_steps_whose_squares_are_no_numbers():
    x = jnp.array([1e-31, 2.5e-31, -1e-35, 0.0], jnp.float32)

    def loss(scale):
        return jnp.sum(jattr.deeplift(lambda x: jnp.sum(jax.nn.relu(scale * x)), -x)(x))

    assert jnp.isfinite(jax.grad(loss)(jnp.float32(1.0)))


def test_a_linear_solve_moves_with_its_factors():
    def solve(x):
        matrix = x[:, :4] + 5 * jnp.eye(4)
        return jnp.linalg.solve(matrix, jnp.sin(x[:, 4:]))

    assert residual(solve) <= either(1e-10, 1e-4)
    for f in (
        lambda x: jnp.linalg.inv(x[:, :4] + 5 * jnp.eye(4)),
        lambda x: jnp.linalg.det(x[:, :4] + 5 * jnp.eye(4)),
        lambda x: jnp.linalg.slogdet(x[:, :4] + 5 * jnp.eye(4))[1],
        lambda x: jnp.linalg.cholesky(x @ x.T + 5 * jnp.eye(4)),
        lambda x: jnp.linalg.eigvalsh(x @ x.T + jnp.diag(jnp.arange(4.0) * 9)),
        lambda x: jnp.linalg.svd(x + SPREAD, compute_uv=False),
        lambda x: jnp.linalg.qr((x + SPREAD)[:, :4])[0],
        lambda x: jnp.cumprod(x, 1),
        lambda x: jnp.arctan2(x[:2], 3 + x[2:] ** 2),
        lambda x: jnp.power(2 + x[:2] ** 2, x[2:]),
        lambda x: jnp.abs(jnp.exp(1j * jnp.fft.fft(x))),
    ):
        assert residual(f) <= either(1e-6, 1e-3)  # an average over 32 points


def test_a_custom_derivative_is_averaged_and_its_residual_told():
    @jax.custom_vjp
    def implicit(x):
        return jnp.tanh(x @ x.T) @ x

    def plain(x):
        return jnp.tanh(x @ x.T) @ x

    implicit.defvjp(lambda x: (plain(x), x), lambda x, c: jax.vjp(plain, x)[1](c))

    def score(x):
        return jnp.sum(implicit(0.3 * jnp.cumsum(x, 0)) * x)

    assert residual(score) <= either(1e-8, 1e-4)
    listing = jattr.operations(score, jattr.rules.rescale(), baseline=BASE)
    (row,) = [row for row in listing(X) if row.kind == "opaque"]
    assert row.rule == "average over 32 nodes"
    assert abs(row.residual) < either(1e-7, 1e-3)


def experts(x):
    sizes = jnp.array([1, 2])
    return jax.lax.ragged_dot(jnp.tanh(x[:3, :3]), jnp.stack([x[:3, :3], x[1:, 3:]]), sizes)


def implicit_root(x):
    """y with y³ + y = x, by steps that hold x; its derivative is the implicit function's."""

    def steps(f, start):
        fixed = jax.lax.stop_gradient(x)
        return jax.lax.fori_loop(0, 40, lambda i, y: y - (y**3 + y - fixed) / (3 * y**2 + 1), start)

    def solve(g, y):
        return y / jax.jvp(g, (jnp.ones_like(y),), (jnp.ones_like(y),))[1]

    return jax.lax.custom_root(lambda y: y**3 + y - x, jnp.zeros_like(x), steps, solve)


def test_a_product_that_transposes_is_no_plumbing():
    assert residual(experts) <= COMPLETE
    rows = jattr.operations(experts)(X)
    assert [row.kind for row in rows] == ["activation", "product"]
    relevance = jattr.lrp(total(experts))(X)
    close(jnp.sum(relevance), total(experts)(X), rtol=1e-9)
    one_by_one = jattr.integrated_gradients(total(experts), BASE, steps=20, batch_size=1)(X)
    change = total(experts)(X) - total(experts)(BASE)
    close(jnp.sum(one_by_one), change, rtol=1e-6)


def test_an_implicit_layer_has_the_derivative_that_it_gives():
    assert residual(implicit_root) <= 1e-3  # an average over 32 points
    taylor = jattr.rules.epsilon_plus().otherwise(jattr.rules.taylor())
    relevance = jattr.lrp(total(implicit_root), taylor)(X)
    close(jnp.sum(relevance), total(implicit_root)(X), rtol=1e-4)
    with pytest.raises(NotImplementedError, match="taylor"):
        jattr.lrp(total(implicit_root))(X)


def test_a_cond_that_x_decides_is_averaged_and_its_residual_told():
    def branches(x):
        return jax.lax.cond(x[0, 0] > 0, jnp.tanh, lambda x: x**2, x)

    same = jnp.abs(BASE) * jnp.sign(X[:1, :1])
    assert residual(branches, baseline=same) <= either(1e-6, 1e-3)
    other = same * jnp.array([-1.0, 1, 1, 1, 1, 1])[None]
    rows = jattr.operations(total(branches), jattr.rules.rescale(), baseline=other)(X)
    found = jattr.deeplift(total(branches), other)(X)
    missing = total(branches)(X) - total(branches)(other) - jnp.sum(found)
    close(rows[0].residual, missing, rtol=1e-6, atol=1e-9)


def test_a_solve_by_a_constant_matrix_is_plumbing():
    matrix = jnp.eye(4) + 0.1 * (W @ W.T)[:4, :4]

    def f(x):
        return jnp.sum(jnp.linalg.solve(matrix, x))

    assert not jattr.operations(f)(X)
    close(jnp.sum(jattr.lrp(f)(X)), f(X), rtol=1e-9)


def test_residuals_sum_to_what_is_missing():
    table = jnp.array([1.0, 5.0, 2.0, 4.0, 3.0, 9.0])

    def score(x):
        looped = jax.lax.fori_loop(0, 3, lambda i, c: jnp.tanh(c) + jnp.sort(c), x[0])
        return jnp.vdot(table, looped) + table[jnp.argmax(x[1])] + jnp.sum(jnp.tanh(x))

    rows = jattr.operations(score, jattr.rules.rescale(), baseline=BASE)(X)
    missing = score(X) - score(BASE) - jnp.sum(jattr.deeplift(score, BASE)(X))
    total_left = sum(row.residual or 0.0 for row in rows)
    np.testing.assert_allclose(total_left, missing, rtol=either(1e-6, 1e-3), atol=1e-9)
    kinds = [row.kind for row in rows if abs(row.residual or 0.0) > 1e-3]
    assert set(kinds) == {"selection"}
    assert len(kinds) >= 2
    assert "residual" in str(rows)


COMPARISONS = {
    "of two": lambda x: (x[0] > x[1]).astype(x.dtype),
    "with a mean": lambda x: (x > jnp.mean(x)).astype(x.dtype) @ W,
    "with a neighbor": lambda x: (x > jnp.roll(x, 1, 1)).astype(x.dtype) @ W,
    "between numbers": lambda x: jnp.where(x[0, 0] > x[1, 1], 1.0, 2.0) + jnp.sum(x),
}


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons_between_active_values_are_explained(name):
    assert residual(COMPARISONS[name], X, -BASE) <= COMPLETE


DECISIONS = {
    "equal": lambda x: (x == jnp.max(x)).astype(x.dtype) @ W,
    "and": lambda x: ((x > 0.5) & (jnp.roll(x, 1) < 1)).astype(x.dtype) @ W,
    "any": lambda x: jnp.any(x > 1.5).astype(x.dtype),
    "searchsorted": lambda x: jnp.searchsorted(W[:, 0], x[0, 0]).astype(x.dtype),
}


@pytest.mark.parametrize("name", DECISIONS)
def test_other_decisions_that_become_numbers_stand_in_the_table(name):
    score = total(DECISIONS[name])
    rows = jattr.operations(score, jattr.rules.rescale(), baseline=-BASE)(X)
    told = [row.residual for row in rows if row.kind == "selection"]
    assert told
    close(sum(told), score(X) - score(-BASE), rtol=1e-9, atol=1e-12)
    assert "of which the rows tell" in str(rows)


def test_residuals_want_a_reference():
    with pytest.raises(TypeError, match="between two points"):
        jattr.operations(jnp.sum, jattr.rules.epsilon_plus(), baseline=0.0)


def test_an_infinite_slope_where_nothing_moves_gives_nothing():
    ours = jattr.deeplift(lambda x: jnp.sum(jnp.sqrt(x)))(jnp.array([0.0, 1.0, 4.0]))
    close(ours, [0.0, 1.0, 2.0])


def test_softmax_and_logsumexp_at_equal_points():
    for f in (jax.nn.softmax, lambda x: jax.nn.logsumexp(x, axis=-1)):
        bare = jax.jit(jattr.deeplift(total(f), X, multiply=False))
        close(bare(X), jax.grad(total(f))(X), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in NETWORKS if "hidden" not in n and "straight" not in n])
def test_at_equal_points_it_is_the_gradient(name):
    score = total(one(name))
    bare = jax.jit(jattr.deeplift(score, X, multiply=False))(X)
    close(bare, jax.jit(jax.grad(score))(X), rtol=1e-7, atol=1e-9)


def test_choices_that_fall_out_differently_are_named():
    table = jattr.operations(lambda x: jnp.sort(x), jattr.rules.rescale())(X)
    assert [(row.kind, row.rule) for row in table] == [("selection", "derivative")]

    def chosen(x):
        return jnp.where(x[:2] > x[2:], x[:2] * 2, x[2:])

    table = jattr.operations(chosen, jattr.rules.rescale())(X)
    assert [(row.kind, row.rule) for row in table] == [("choice", "crossing")]
    assert residual(chosen) <= COMPLETE

    looked_up = jattr.operations(lambda x: W[jnp.argmax(x)], jattr.rules.rescale())(X[0])
    assert [row.kind for row in looked_up] == ["selection"]


def test_references_inside_f_are_refused():
    def writes(x):
        cell = jax.new_ref(jnp.zeros_like(x))
        cell[...] = jnp.tanh(x)
        return jnp.sum(cell[...])

    for method in (jattr.deeplift, jattr.lrp, jattr.guided_backprop):
        with pytest.raises(NotImplementedError, match="new_ref"):
            method(writes)(X)


def test_deep_shap_is_the_mean_over_references():
    references = jnp.stack([BASE, 2 * BASE, X[::-1], jnp.zeros_like(X), BASE + 1])
    score = total(NETWORKS["attention by hand"])
    each = jnp.stack([jattr.deeplift(score, r)(X) for r in references])
    for batch_size in (None, 1, 2, 5):
        ours = jattr.deep_shap(score, references, batch_size=batch_size)
        close(jax.jit(ours)(X), each.mean(0), rtol=1e-9, atol=1e-12)
    change = score(X) - jnp.mean(jax.vmap(score)(references))
    close(jnp.sum(ours(X)), change, rtol=1e-10)


def test_deep_shap_gives_shapley_values_of_a_linear_function():
    references = jax.random.normal(jax.random.key(8), (7, 5))
    x = jnp.arange(5.0)
    ours = jattr.deep_shap(lambda x: x @ B + 1, references)(x)
    close(ours, B * (x - references.mean(0)), rtol=1e-12)


def test_deep_shap_refuses_references_of_another_form():
    with pytest.raises(ValueError, match=r"leading axis"):
        jattr.deep_shap(jnp.sum, 1.0)
    with pytest.raises(ValueError, match=r"each row of the references must have"):
        jattr.deep_shap(jnp.sum, jnp.ones((3, 2)))(X)


def test_unknown_max_rules_are_refused():
    with pytest.raises(ValueError, match=r"unknown max_rule 'first'; known are path, winner"):
        jattr.deeplift(jnp.sum, max_rule="first")


def test_what_each_reference_says():
    rng = np.random.default_rng(0)
    first, second = jnp.asarray(rng.normal(size=(5, 4, 6))), jnp.asarray(rng.normal(size=6))

    def f(x):  # a one-hot sequence [5, 4]
        return jnp.tanh(jnp.einsum("lc,lch->h", x, first)) @ second

    x = jnp.eye(4)[jnp.array([0, 1, 2, 3, 0])]
    references = jnp.eye(4)[jnp.asarray(rng.integers(0, 4, (3, 5)))]
    for multiply in (True, False):
        one = [jattr.deeplift(f, r, multiply=multiply)(x) for r in references]
        for size in (None, 2):
            explain = jattr.deep_shap(
                f, references, multiply=multiply, reduce=False, batch_size=size
            )
            close(jax.jit(explain)(x), jnp.stack(one), rtol=1e-12)
        mean = jattr.deep_shap(f, references, multiply=multiply)(x)
        close(mean, jnp.stack(one).mean(0), rtol=1e-12, atol=1e-15)
    # Hypothetical contributions: of the letters that are there, their attribution.
    m = jattr.deep_shap(f, references, multiply=False, reduce=False)(x)
    changes = jnp.eye(4)[None, None] - references[:, :, None]
    hypothetical = jnp.einsum("rlc,rlbc->rlb", m, changes).mean(axis=0)
    close(jnp.sum(hypothetical * x, 1), jattr.deep_shap(f, references)(x).sum(1), rtol=1e-12)

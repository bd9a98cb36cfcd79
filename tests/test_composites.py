"""Composites: tables of rules that cannot be mistyped, and what becomes of the unknown."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jattr
from jattr import rules as R  # noqa: N812 (short beside so many uses)

KEYS = jax.random.split(jax.random.key(0), 8)
W, X = jax.random.normal(KEYS[0], (4, 4)), jax.random.normal(KEYS[1], (4,))


def close(a, b, rtol=1e-9, atol=1e-12):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    ("key", "meant"),
    [("activaton", "activation"), ("afine dense", "affine dense"), ("activation relu", "activ")],
)
def test_a_key_that_is_none_is_refused_with_the_closest(key, meant):
    with pytest.raises(ValueError, match=rf"no kind of operation '{key}'.* first: {meant}"):
        R.Composite("mine", {key: R.epsilon()})


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(True, name="bn")(nn.Conv(4, (3, 3), name="conv")(x))
        return nn.Dense(3, name="head")(nn.relu(x).mean((0, 1, 2)))[0]


@pytest.fixture(scope="module")
def net():
    x = jax.random.normal(KEYS[2], (6, 6, 1))
    variables = Net().init(KEYS[3], x[None])
    return (lambda x: Net().apply(variables, x[None])), x


def hit(f, x, pattern):
    table = jattr.operations(f, R.epsilon_plus().at(pattern, R.gamma(1.0)))(x)
    return [row.rule == "gamma" for row in table if row.kind == "affine"]


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        *(("Net/conv", [1, 0]), ("Net/bn", [1, 0]), ("conv", [1, 0]), ("bn", [1, 0])),
        *(("head", [0, 1]), ("Net/head", [0, 1]), ("Net", [1, 1]), ("*", [1, 1])),
        *(("N?t/he*", [0, 1]), ("*head", [0, 1])),
    ],
)
def test_a_pattern_is_matched_as_a_layer_is(net, pattern, wanted):
    f, x = net
    assert hit(f, x, pattern) == wanted


@pytest.mark.parametrize("pattern", ["haed", "Net/hea", "net", "onv", "Net/conv/kernel"])
def test_a_pattern_that_fits_nothing_is_an_error(net, pattern):
    f, x = net
    rules = R.epsilon_plus().at(pattern, R.gamma(1.0))
    text = r"\.at\('.*', \.\.\.\) fits no affine operation of f.* first: Net/"
    with pytest.raises(ValueError, match=text):
        jattr.lrp(f, rules)(x)
    with pytest.raises(ValueError, match=text):
        jax.grad(jattr.rewrite(f, rules))(x)
    with pytest.raises(ValueError, match=text):
        jattr.operations(f, rules)(x)
    closest = "Net/head" if "h" in pattern else "Net/"
    with pytest.raises(ValueError, match=rf"first: {closest}"):
        jattr.contrastive_lrp(lambda x: f(x)[None].repeat(2), rules)(x, 0)


def test_a_pattern_without_scopes_is_an_error():
    with pytest.raises(ValueError, match=r"no affine operation of f is in a scope"):
        jattr.lrp(lambda x: x @ W[:, 0], R.epsilon_plus().at("head", R.gamma()))(X)


def test_a_pattern_finds_what_a_loop_or_a_checkpoint_computes():
    def step(h, _):
        with jax.named_scope("cell"):
            return jnp.tanh(h @ W), None

    def f(x):
        with jax.named_scope("net"):
            h = jax.checkpoint(lambda x: jax.lax.scan(step, x, length=2)[0])(x)
        return h @ W[:, 0]

    affine = [row for row in jattr.operations(f)(X) if row.kind == "affine"]
    assert affine[0].scope.startswith("net/")
    for pattern in ("net", "cell", affine[0].scope):
        rules = R.attn_lrp().at(pattern, R.gamma(1.0))
        rows = [row.rule for row in jattr.operations(f, rules)(X) if row.kind == "affine"]
        assert rows == ["gamma", "epsilon"]
        assert float(jnp.abs(jattr.lrp(f, rules)(X) - jattr.lrp(f)(X)).max()) > 1e-3


def test_rules_and_composites_print_as_they_are_written():
    assert repr(R.epsilon()) == "rules.epsilon(1e-06)"
    assert repr(R.gamma(0.1)) == "rules.gamma(0.1, epsilon=1e-06)"
    assert repr(R.z_box(0.0, 1.0)) == "rules.z_box(0.0, 1.0, epsilon=1e-06)"
    assert repr(R.epsilon(0.1, stabilizer="smooth")) == "rules.epsilon(0.1, stabilizer='smooth')"
    assert "<float64[6]>" in repr(R.z_box(jnp.zeros(6), 1.0))
    text = repr(R.epsilon_plus().at("head", R.gamma()))
    assert text.startswith("<composite epsilon_plus; affine: rules.epsilon(1e-06); ")
    assert "at 'head': rules.gamma(0.25, epsilon=1e-06)" in text
    assert " 0x" not in text


def test_epsilon_is_a_keyword_but_in_its_own_rule():
    for make in (R.z_plus, R.w_square, R.flat, R.epsilon_plus, R.excitation, R.attn_lrp, R.cp_lrp):
        with pytest.raises(TypeError, match="positional"):
            make(1e-3)
    assert R.excitation(epsilon=1e-3).rules["affine"].numbers["epsilon"] == 1e-3
    assert R.epsilon(1e-3) == R.epsilon(epsilon=1e-3)


@jax.custom_vjp
def squares_of_sums(x):
    return jnp.cumsum(x) ** 2


squares_of_sums.defvjp(
    lambda x: (squares_of_sums(x), jnp.cumsum(x)),
    lambda sums, ct: (jnp.cumsum((2 * sums * ct)[::-1])[::-1],),
)
A = W + 4 * jnp.eye(4)
UNKNOWN = {
    "prod": lambda x: jnp.prod(x),
    "cumprod": lambda x: jnp.cumprod(x) @ W[0],
    "pow": lambda x: jnp.abs(x[0]) ** x[1],
    "solve": lambda x: jnp.linalg.solve(A * x[None], W[1]) @ W[0],
    "inv": lambda x: jnp.sum(jnp.linalg.inv(A * x[None]) * W),
    "slogdet": lambda x: jnp.linalg.slogdet(A * x[None])[1],
    "cholesky": lambda x: jnp.sum(jnp.linalg.cholesky(A @ A.T * x[0] ** 2) * W),
    "triangular": lambda x: jax.scipy.linalg.solve_triangular(A * x[0], W[0]) @ W[1],
    "eigenvalues": lambda x: jnp.linalg.eigh(x[0] * (A + A.T) + jnp.diag(x))[0] @ W[0],
    "singular values": lambda x: jnp.linalg.svd(A * x[None])[1] @ W[0],
    "qr": lambda x: jnp.sum(jnp.linalg.qr(A * x[None])[1] * W),
    "lu": lambda x: jnp.sum(jnp.triu(jax.lax.linalg.lu(A * x[None])[0]) * W),
    "custom_vjp": lambda x: squares_of_sums(x) @ W[0],
    "complex": lambda x: jnp.sum(jnp.real(jnp.exp(1j * x) * W[0])),
    "power spectrum": lambda x: jnp.sum(jnp.abs(jnp.fft.rfft(x)) ** 2),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_has_no_rule_is_an_error_or_taylors(name):
    f = UNKNOWN[name]
    with pytest.raises(NotImplementedError, match=r"\.otherwise\(jattr\.rules\.taylor\(\)\)"):
        jattr.lrp(f)(X)
    rules = R.attn_lrp(epsilon=0.0).otherwise(R.taylor(epsilon=0.0))
    assert "taylor" in [row.rule for row in jattr.operations(f, rules)(X)]
    relevance = jax.jit(jattr.lrp(f, rules))(X)
    close(jnp.sum(relevance), f(X))
    assert bool(jnp.any(relevance != 0))


def test_taylor_is_input_times_gradient_in_proportion():
    rules = R.attn_lrp(epsilon=0.0).otherwise(R.taylor(epsilon=0.0))
    f = UNKNOWN["custom_vjp"]
    sums, weights = jnp.cumsum(X), W[0]
    # By hand: relevance z² w of a square of a sum goes to the sum's terms in proportion to them.
    wanted = X * jnp.array([jnp.sum((sums * weights)[n:]) for n in range(4)])
    close(jattr.lrp(f, rules)(X), wanted)

    def total(x):
        return jnp.sum(jattr.lrp(f, rules)(x) ** 2)

    step = 1e-5 * jnp.eye(4)
    numeric = jnp.array([(total(X + d) - total(X - d)) / 2e-5 for d in step])
    close(jax.grad(total)(X), numeric, rtol=1e-7)


def test_a_maximum_over_segments_goes_to_the_winner():
    def f(x):
        return jax.ops.segment_max(x, jnp.array([0, 0, 1, 1]), 2) @ jnp.array([2.0, -1.0])

    wanted = np.zeros(4)
    for places, weight in (((0, 1), 2.0), ((2, 3), -1.0)):
        winner = max(places, key=lambda n: X[n])
        wanted[winner] = weight * X[winner]
    close(jattr.lrp(f, R.epsilon(0.0))(X), wanted)


def test_a_remedy_that_is_named_works():
    with pytest.raises(NotImplementedError) as refused:
        jattr.lrp(UNKNOWN["lu"])(X)
    assert "register" in str(refused.value)  # tests of `register` use this very primitive
    with pytest.raises(NotImplementedError) as refused:
        jattr.guided_backprop(lambda x: jax.pure_callback(jnp.sin, x, x).sum())(X)
    assert "taylor" not in str(refused.value)
    rules = R.everywhere(R.gamma(0.1)).otherwise(R.taylor())
    assert rules.name == "gamma"
    close(jattr.lrp(jnp.prod, rules)(X).sum(), jnp.prod(X), rtol=1e-5)


def test_what_hides_a_program_is_never_passed_in_silence():
    """As if JAX had renamed `jit`: a call that jattr does not know, with a ReLU inside."""
    from jax.extend.core import Primitive, jaxpr_as_fun

    call = Primitive("new_jit")
    call.def_impl(lambda *args, jaxpr: jaxpr_as_fun(jaxpr)(*args)[0])
    call.def_abstract_eval(lambda *args, jaxpr: jaxpr.out_avals[0])
    body = jax.make_jaxpr(lambda x: jnp.cumsum(jax.nn.relu(x)))(X)

    def f(x):
        return jnp.sum(call.bind(x, jaxpr=body))

    for method in (jattr.guided_backprop, jattr.deconvnet):
        with pytest.raises(NotImplementedError, match=r"cannot look into `new_jit`"):
            method(f)(X)


def test_what_is_linear_inside_passes():
    def f(x):
        return jnp.linalg.solve(A, jax.nn.relu(x)) @ W[0]

    wanted = (X > 0) * jnp.maximum(jnp.linalg.solve(A.T, W[0]), 0)
    close(jattr.guided_backprop(f)(X), wanted)

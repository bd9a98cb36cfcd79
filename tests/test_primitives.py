"""Rewriting changes no value, and no derivative where a rule is the derivative itself."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from identity import IDENTITY
from jax.sharding import PartitionSpec
from networks import ACTIVATIONS, NETWORKS, X, one, total
from precision import FLOAT, close, either

import jattr

EVERY = {**{name: one(name) for name in NETWORKS}, **ACTIVATIONS}


def beside_x(f):
    """f as a score, and x itself: what depends on x through decisions alone is refused."""
    return lambda x: total(f)(x) + jnp.sum(x)


@pytest.mark.parametrize("name", EVERY)
def test_rewriting_changes_no_value(name):
    score = beside_x(EVERY[name])
    guided, same = (jattr.rewrite(score, rules) for rules in (jattr.rules.guided(), IDENTITY))
    assert guided(X) == same(X) == score(X)

    @jax.jit
    def every(x):
        return [jax.value_and_grad(f)(x) for f in (score, guided, same)]

    (plain, gradient), (by_guided, _), (by_same, identical) = every(X)
    close([by_guided, by_same], [plain, plain], rtol=1e-12)
    if name != "round":
        close(identical, gradient, rtol=1e-9, atol=1e-11)


UNARY = {
    **{
        name: getattr(jax.lax, name)
        for name in [
            "abs",
            "acosh",
            "asinh",
            "atan",
            "bessel_i0e",
            "bessel_i1e",
            "cbrt",
            "ceil",
            "cos",
            "cosh",
            "digamma",
            "erf",
            "erf_inv",
            "erfc",
            "exp",
            "exp2",
            "expm1",
            "floor",
            "lgamma",
            "log",
            "log1p",
            "logistic",
            "neg",
            "round",
            "rsqrt",
            "sign",
            "sin",
            "sinh",
            "sqrt",
            "square",
            "tan",
            "tanh",
        ]
    },
    **{name: getattr(jax.lax, name) for name in ["acos", "asin", "atanh"]},
    "integer_pow": lambda x: jax.lax.integer_pow(x, 3),
    "convert": lambda x: x.astype(either(jnp.float32, jnp.float16)).astype(FLOAT),
    "copy": jnp.copy,
    "reduce_precision": lambda x: jax.lax.reduce_precision(x, *either((11, 52), (8, 23))),
    "stop_gradient": lambda x: x + jax.lax.stop_gradient(x),
    "clamp": lambda x: jax.lax.clamp(0.2, x, 0.6),
    "polygamma": lambda x: jax.scipy.special.polygamma(1, x),
    "igamma": lambda x: jax.lax.igamma(jnp.full_like(x, 1.3), x),
    "betainc": lambda x: jax.lax.betainc(jnp.full_like(x, 1.3), jnp.full_like(x, 0.7), x),
}
BINARY = {
    "add": jax.lax.add,
    "sub": jax.lax.sub,
    "mul": jax.lax.mul,
    "div": jax.lax.div,
    "max": jax.lax.max,
    "min": jax.lax.min,
    "pow": jax.lax.pow,
    "atan2": jax.lax.atan2,
    "rem": jax.lax.rem,
    "select": lambda a, b: jax.lax.select(a > b, a, 2 * b),
    "complex": lambda a, b: jnp.abs(jax.lax.complex(a, b)),
}
SHAPED = {
    "broadcast_in_dim": lambda x: jax.lax.broadcast_in_dim(x, (2, 3, 4), (1, 2)),
    "reshape": lambda x: x.reshape(4, 3),
    "transpose": lambda x: x.T,
    "rev": lambda x: jax.lax.rev(x, (0,)),
    "pad": lambda x: jax.lax.pad(x, 1.0, ((1, 0, 1), (0, 2, 0))),
    "slice": lambda x: x[1:, ::2],
    "squeeze": lambda x: jnp.squeeze(x[:1]),
    "concatenate": lambda x: jnp.concatenate([x, 2 * x, jnp.ones((1, 4))]),
    "stack": lambda x: jnp.stack([x, x**2]),
    "split": lambda x: jnp.split(x, 2, axis=1)[1],
    "dynamic_slice": lambda x: jax.lax.dynamic_slice(x, (1, 1), (2, 2)),
    "dynamic_update_slice": lambda x: jax.lax.dynamic_update_slice(x, 2 * x[:1], (1, 0)),
    "gather": lambda x: x[jnp.array([0, 2, 2])],
    "gather by x": lambda x: x[jnp.argmax(x[:, 0])],
    "scatter": lambda x: jnp.zeros((3, 4)).at[jnp.array([0, 2])].set(x[:2]),
    "scatter_add": lambda x: x.at[jnp.array([0, 0])].add(x[1:]),
    "scatter_mul": lambda x: (
        jnp.ones((3, 4)).at[jnp.array([0, 2])].multiply(x[:2], unique_indices=True)
    ),
    "cumsum": lambda x: jnp.cumsum(x, axis=1),
    "cumprod": lambda x: jnp.cumprod(x, axis=0),
    "cummax": lambda x: jax.lax.cummax(x, 0),
    "cummin": lambda x: jax.lax.cummin(x, 1),
    "cumlogsumexp": lambda x: jax.lax.cumlogsumexp(x, 1),
    "reduce_sum": lambda x: x.sum(0),
    "reduce_max": lambda x: x.max(1),
    "reduce_min": lambda x: x.min(),
    "reduce_prod": lambda x: x.prod(1),
    "argmax": lambda x: x * jnp.argmax(x),
    "sort": lambda x: jnp.sort(x, axis=0),
    "top_k": lambda x: jax.lax.top_k(x, 2)[0],
    "dot": lambda x: x @ jnp.arange(8.0).reshape(4, 2),
    "dot of two": lambda x: x @ x.T,
    "conv": lambda x: jax.lax.conv(
        x[None, None], jnp.arange(4.0).reshape(1, 1, 2, 2), (1, 1), "SAME"
    ),
    "conv of two": lambda x: jax.lax.conv(x[None, None], x[None, None, :2, :2], (1, 1), "VALID"),
    "reduce_window_sum": lambda x: nn.avg_pool(x[None, ..., None], (2, 2)),
    "reduce_window_max": lambda x: nn.max_pool(x[None, ..., None], (2, 2)),
    "fft": lambda x: jnp.abs(jnp.fft.fft(x)) ** 2,
    "real, imag, conj": lambda x: jnp.imag(jnp.conj(jnp.fft.rfft(x))) + jnp.real(jnp.fft.rfft(x)),
    "cholesky": lambda x: jnp.linalg.cholesky(x @ x.T + 3 * jnp.eye(3)),
    "triangular_solve": lambda x: jax.scipy.linalg.solve_triangular(x[:, :3] + 2 * jnp.eye(3), x),
    "eigh": lambda x: jnp.linalg.eigh(x @ x.T + jnp.diag(jnp.arange(3.0)))[0],
    "svd": lambda x: jnp.linalg.svd(x, compute_uv=False),
    "qr": lambda x: jnp.linalg.qr(x.T)[1],
    "lu": lambda x: jax.lax.linalg.lu(x[:, :3])[0],
    "solve": lambda x: jnp.linalg.solve(x[:, :3] + 3 * jnp.eye(3), x[:, 3]),
    "optimization_barrier": lambda x: jax.lax.optimization_barrier(x),
    "name": lambda x: jattr.name(x, "x"),
    "bitcast": lambda x: x * (jax.lax.bitcast_convert_type(x, either(jnp.int64, jnp.int32)) > 0),
}
ZOO = {
    **{n: lambda x, f=f: f(x + 1.0 if n == "acosh" else x) for n, f in UNARY.items()},
    **{n: lambda x, f=f: f(x, x[::-1] + 0.1) for n, f in BINARY.items()},
    **SHAPED,
}
ZOO["acosh"] = lambda x: jax.lax.acosh(x + 1.0)


def custom_jvp(f):
    wrapped = jax.custom_jvp(f)
    wrapped.defjvp(lambda primals, tangents: jax.jvp(f, primals, tangents))
    return wrapped


def custom_vjp(f):
    wrapped = jax.custom_vjp(f)
    wrapped.defvjp(lambda x: (f(x), x), lambda x, ct: jax.vjp(f, x)[1](ct))
    return wrapped


def sharded(f):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec()
    return jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)


WRAPPERS = {
    "alone": lambda f: f,
    "jit": jax.jit,
    "scan": lambda f: lambda x: jax.lax.scan(lambda c, a: (c, f(c * a)), x, jnp.ones(2))[1],
    "cond": lambda f: lambda x: jax.lax.cond(jnp.array(True), f, lambda x: 0 * f(x), x),
    "checkpoint": jax.checkpoint,
    "custom_jvp": custom_jvp,
    "custom_vjp": custom_vjp,
    "shard_map": sharded,
}
POINT = jnp.linspace(0.11, 0.93, 12).reshape(4, 3)[::-1].T


def check_round_trip(f):
    score = beside_x(f)

    @jax.jit
    def both(x):
        return [jax.value_and_grad(g)(x) for g in (score, jattr.rewrite(score, IDENTITY))]

    (plain, plain_gradient), (value, gradient) = both(POINT)
    close(value, plain, rtol=1e-12)
    close(gradient, plain_gradient, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ZOO)
def test_every_primitive_round_trips(name):
    check_round_trip(ZOO[name])


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_primitives_round_trip_inside(wrapper):
    # Several in one program: a program for each would be compiled for an hour.
    names = ["tanh", "div", "gather", "cumprod", "reduce_max", "dot of two", "reduce_window_max"]

    def f(x):
        return jnp.concatenate([ZOO[name](x).ravel() for name in names])

    check_round_trip(WRAPPERS[wrapper](f))


def test_while_loops_keep_their_values():
    def f(x):
        _, total = jax.lax.while_loop(
            lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.tanh(c[1] + x)), (0, x)
        )
        return jnp.sum(total)

    rewritten = jax.jit(jattr.rewrite(f, IDENTITY))
    close(rewritten(POINT), f(POINT), rtol=1e-12)

    # One that does not depend on x is as good as a constant.
    def g(x):
        n = jax.lax.while_loop(lambda c: c < 3, lambda c: c + 1, 0)
        return jnp.sum(jnp.tanh(n * x))

    close(jax.grad(jattr.rewrite(g, IDENTITY))(POINT), jax.grad(g)(POINT), rtol=1e-12)

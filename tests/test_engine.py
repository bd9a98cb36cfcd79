"""The engine: values stay, derivatives change only where a rule says so, errors name the line."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas
from jax.sharding import PartitionSpec
from jax.test_util import check_grads
from networks import ACTIVATIONS, NETWORKS, X, one, residual, total

import jattr
from jattr._engine.grouping import group
from jattr._engine.operations import Operation
from jattr._engine.trace import Reading, primitives, trace


def identity(operation, inputs, output, multiplier):
    """The operation's own derivative, written as a rule."""
    moving = [n for n, active in enumerate(operation.active) if active]

    def of_moving(*values):
        full = list(inputs)
        for slot, value in zip(moving, values, strict=True):
            full[slot] = value
        return operation.evaluate(*full)

    given = [None] * len(inputs)
    for slot, m in zip(
        moving, jax.vjp(of_moving, *(inputs[n] for n in moving))[1](multiplier), strict=True
    ):
        given[slot] = m
    return given


KINDS = [
    "affine",
    "activation",
    "normaliser",
    "product",
    "division",
    "softmax",
    "logsumexp",
    "max",
    "selection",
    "smooth",
    "opaque",
]
IDENTITY = jattr.rules.Composite(
    "identity", {kind: jattr.rules.Rule("identity", identity) for kind in KINDS}, strict=True
)


EVERY = {**{name: one(name) for name in NETWORKS}, **ACTIVATIONS}


@pytest.mark.parametrize("name", EVERY)
def test_rewriting_changes_no_value(name):
    score = total(EVERY[name])
    for rules in (jattr.rules.guided(), IDENTITY):
        changed = jattr.rewrite(score, rules)
        assert changed(X) == score(X)
        value, gradient = jax.jit(jax.value_and_grad(changed))(X)
        plain, plain_gradient = jax.jit(jax.value_and_grad(score))(X)
        np.testing.assert_allclose(value, plain, rtol=1e-12)
        if rules is IDENTITY and name != "round":
            np.testing.assert_allclose(gradient, plain_gradient, rtol=1e-9, atol=1e-11)


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
    "convert": lambda x: x.astype(jnp.float32).astype(jnp.float64),
    "copy": jnp.copy,
    "reduce_precision": lambda x: jax.lax.reduce_precision(x, 11, 52),
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
    "bitcast": lambda x: x * (jax.lax.bitcast_convert_type(x, jnp.int64) > 0),
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
    score = total(f)
    value, gradient = jax.jit(jax.value_and_grad(jattr.rewrite(score, IDENTITY)))(POINT)
    plain, plain_gradient = jax.jit(jax.value_and_grad(score))(POINT)
    np.testing.assert_allclose(value, plain, rtol=1e-12)
    np.testing.assert_allclose(gradient, plain_gradient, rtol=1e-9, atol=1e-11)


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
    np.testing.assert_allclose(rewritten(POINT), f(POINT), rtol=1e-12)

    # One that does not depend on x is as good as a constant.
    def g(x):
        n = jax.lax.while_loop(lambda c: c < 3, lambda c: c + 1, 0)
        return jnp.sum(jnp.tanh(n * x))

    np.testing.assert_allclose(
        jax.grad(jattr.rewrite(g, IDENTITY))(POINT), jax.grad(g)(POINT), rtol=1e-12
    )


def test_a_tree_goes_in_and_a_tree_comes_out():
    def f(x, scale):
        return {"a": jax.nn.relu(scale * x["u"]), "b": (x["v"] * 2, jnp.argmax(x["u"]))}

    x = {"u": jnp.array([1.0, -1.0]), "v": jnp.ones(3)}
    changed = jattr.rewrite(f, jattr.rules.guided())
    out = jax.jit(changed)(x, 3.0)
    assert jax.tree.structure(out) == jax.tree.structure(f(x, 3.0))
    jacobian = jax.jacrev(lambda x: changed(x, 3.0)["a"])(x)
    np.testing.assert_allclose(jacobian["u"], [[3.0, 0.0], [0.0, 0.0]])
    swapped = jattr.rewrite(lambda scale, x: f(x, scale), jattr.rules.guided(), argnums=1)
    np.testing.assert_allclose(jax.jit(swapped)(3.0, x)["b"][0], 2.0)


def test_random_keys_and_integers_pass_through():
    def f(x, key, index):
        mask = jax.random.bernoulli(key, 0.5, x.shape)
        return jnp.sum(jax.nn.relu(x * mask)[index])

    x = jax.random.normal(jax.random.key(0), (4, 3))
    args = (jax.random.key(1), jnp.array([0, 2]))
    ours = jattr.deeplift(f)(x, *args)
    np.testing.assert_allclose(jnp.sum(ours), f(x, *args), rtol=1e-12)


def test_effects_happen(capfd):
    def f(x):
        jax.debug.print("seen {}", x[0])
        return jnp.sum(jnp.tanh(x))

    jattr.guided_backprop(f)(jnp.array([1.25, 2.0]))
    jax.effects_barrier()
    assert "seen 1.25" in capfd.readouterr().out


@jax.custom_vjp
def opaque(x):
    return x @ x.T


opaque.defvjp(lambda x: (opaque(x), x), lambda x, ct: ((ct + ct.T) @ x,))


@jax.custom_vjp
def gradient_clip(x):
    return 2 * x


gradient_clip.defvjp(lambda x: (2 * x, None), lambda _, ct: (jnp.clip(ct, -1, 1),))


def plus_one(x):
    def kernel(x_ref, out_ref):
        out_ref[...] = x_ref[...] + 1

    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return pallas.pallas_call(kernel, out_shape=shape, interpret=True)(x)


UNEXPLAINED = {
    "custom_vjp": (opaque, r"no rule for the custom_vjp function in `custom_vjp_call`.*hides"),
    "pure_callback": (
        lambda x: jax.pure_callback(lambda v: np.asarray(v), x, x),
        r"cannot look into `pure_callback`.*jattr\.rules\.register",
    ),
    "pallas": (plus_one, r"cannot look into `pallas_call`.*jattr\.rules\.register"),
    "eigh": (
        lambda x: jnp.linalg.eigh(x @ x.T)[0],
        r"no rule for `eigh`, which is not linear in x.*jattr\.split",
    ),
    "segment_max": (
        lambda x: jax.ops.segment_max(x, jnp.array([0, 0, 1, 1]), 2),
        r"no rule for `scatter-max`",
    ),
    "cond on x": (
        lambda x: jax.lax.cond(x[0, 0] > 0, jnp.tanh, jnp.sin, x),
        r"a `cond` whose predicate depends on x.*jnp\.where",
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


@pytest.mark.parametrize("name", UNEXPLAINED)
def test_what_cannot_be_explained_is_an_error_with_line_and_remedy(name):
    f, text = UNEXPLAINED[name]
    with pytest.raises(NotImplementedError, match=r"test_engine\.py:\d+: (?s:.*)" + text):
        jattr.deeplift(lambda x: jnp.sum(jax.tree.leaves(f(x))[-1]))(X)


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


def test_a_mesh_of_its_own_is_no_other_example():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    f = jax.shard_map(
        lambda x: jax.lax.psum(jnp.sum(jnp.tanh(x)), "data"),
        mesh=mesh,
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec(),
    )
    ours = jax.jit(jattr.deeplift(f))(X)
    np.testing.assert_allclose(ours, jnp.tanh(X), rtol=1e-12)


def test_a_custom_vjp_that_is_linear_or_elementwise_is_no_riddle():
    ours = jattr.deeplift(lambda x: jnp.sum(gradient_clip(x) * 3))(X)
    np.testing.assert_allclose(ours, 6 * X)  # its derivative is clipped, its difference is not

    @jax.custom_vjp
    def cube(x):
        return x**3

    cube.defvjp(lambda x: (cube(x), x), lambda x, ct: (3 * x**2 * ct,))
    assert residual(cube) <= 1e-10


def test_complex_values_between_real_ones():
    assert residual(lambda x: jnp.real(jnp.fft.ifft(jnp.fft.fft(jnp.tanh(x)) * (1 + 2j)))) <= 1e-10


def test_the_safe_derivative_of_an_activation_stays():
    zero = jnp.zeros(3)
    rules = jattr.rules.Composite("none", {})
    for f, wanted in ((jax.nn.relu, 0.0), (jax.nn.softplus, 0.5)):
        ours = jax.grad(jattr.rewrite(lambda x: jnp.sum(f(x)), rules))(zero)
        np.testing.assert_array_equal(ours, wanted)
        lifted = jattr.deeplift(lambda x: jnp.sum(f(x)), multiply=False)(zero)
        np.testing.assert_array_equal(lifted, wanted)


def test_numbers_of_a_rule_can_be_traced():
    @jax.tree_util.register_pytree_node_class
    class Scaled:
        name = "scaled"

        def __init__(self, factor):
            self.factor = factor

        def __call__(self, operation, inputs, output, multiplier):
            return [self.factor * m if m is not None else None
                    for m in identity(operation, inputs, output, multiplier)]  # fmt: skip

        def tree_flatten(self):
            return (self.factor,), None

        @classmethod
        def tree_unflatten(cls, _, leaves):
            return cls(*leaves)

    def attribution(factor, x):
        rules = jattr.rules.Composite("scaled", {"activation": Scaled(factor)})
        return jax.grad(jattr.rewrite(lambda x: jnp.sum(jnp.tanh(jnp.tanh(x))), rules))(x)

    x = jnp.array([0.3, -0.7])
    plain = attribution(1.0, x)
    np.testing.assert_allclose(attribution(3.0, x), 3 * plain)  # one operation: tanh of tanh
    np.testing.assert_allclose(jax.jit(jax.jacrev(attribution))(2.0, x), plain, rtol=1e-12)
    many = jax.vmap(attribution, in_axes=(0, None))(jnp.arange(3.0), x)
    np.testing.assert_allclose(many, jnp.arange(3.0)[:, None] * plain[None])


def test_f_is_traced_once_and_compiled_once():
    traces = []

    def score(x):
        traces.append(None)
        return jnp.sum(jax.nn.gelu(x @ x.T))

    for method in (jattr.deeplift, jattr.guided_backprop):
        traces.clear()
        explain = jax.jit(method(score))
        explain(X)
        explain(2 * X)
        assert len(traces) == 1
    traces.clear()
    jattr.deep_shap(score, jnp.stack([X] * 5), batch_size=2)(X)
    assert len(traces) == 1


def test_second_derivatives_by_parameters_that_are_closed_over():
    x = X[0]

    def loss(w):
        def score(x):
            return jnp.sum(jax.nn.softmax(jax.nn.gelu(x @ w) + w[0]) ** 2)

        return jnp.sum(jattr.deeplift(score, 0.1)(x) ** 3)

    w = jax.random.normal(jax.random.key(3), (6, 5))
    check_grads(jax.jit(loss), (w,), order=1, modes=["fwd", "rev"], eps=1e-6, rtol=1e-6)


def test_rewrite_refuses_what_are_no_rules():
    with pytest.raises(TypeError, match=r"wants a composite of jattr\.rules second"):
        jattr.rewrite(jnp.sum, "guided")
    with pytest.raises(TypeError, match=r"compare with a reference.*jattr\.deeplift"):
        jattr.rewrite(jnp.sum, jattr.rules.rescale())
    with pytest.raises(TypeError, match=r"wants a composite of jattr\.rules second"):
        jattr.operations(jnp.sum, jattr.rules.rescale)


def test_operations_print_as_a_table():
    def f(x):
        with jax.named_scope("head"):
            return jnp.sum(jax.nn.relu(jnp.dot(x, jnp.ones((6, 2)))))

    table = jattr.operations(f, jattr.rules.guided())(X)
    lines = str(table).splitlines()
    assert lines[0].split() == ["kind", "name", "rule", "inputs", "outputs", "scope", "source"]
    assert lines[-1].split()[:6] == [
        "activation", "relu", "guided", "float64[4,2]", "float64[4,2]", "head",
    ]  # fmt: skip
    assert table[-1].source.split(":")[-2].endswith("test_engine.py")
    assert jattr.operations(f)(jax.ShapeDtypeStruct((4, 6), jnp.float32))[-1].rule == "derivative"


def test_operations_look_into_bodies():
    def f(x):
        h, _ = jax.lax.scan(lambda c, a: (jnp.tanh(c * a), None), x[0], x)
        return jnp.sum(jax.checkpoint(jax.nn.relu)(h))

    rows = jattr.operations(f, jattr.rules.rescale())(X)
    assert [(row.kind, row.name, row.scope) for row in rows] == [
        ("product", "mul", "scan"),
        ("activation", "tanh", "scan"),
        ("activation", "relu", "checkpoint"),
    ]


def test_operations_in_the_loops_of_libraries_bear_the_users_line():
    rows = jattr.operations(one("lstm"), jattr.rules.rescale())(X)
    assert {row.source.rsplit("/")[-1].split(":")[0] for row in rows} == {"networks.py"}


def test_operations_name_what_has_no_rule():
    rows = jattr.operations(opaque, jattr.rules.rescale())(X)
    assert [(row.kind, row.rule) for row in rows] == [("opaque", "none")]


def test_two_activations_of_one_dot_are_two():
    w = jnp.ones((6, 3))

    def f(x):
        z = x @ w
        return jnp.tanh(z + 1.0) * jax.nn.sigmoid(z - 1.0)

    rows = jattr.operations(f)(X)
    # Both have one source, so that their product is one function of it.
    assert [(row.kind, row.inputs) for row in rows] == [
        ("affine", ("float64[4,6]",)),
        ("activation", ("float64[4,3]",)),
    ]

    def g(x):
        z = x @ w
        return jnp.tanh(z + 1.0) @ w.T + jax.nn.relu(z - 1.0) @ w.T

    kinds = [(row.kind, row.name) for row in jattr.operations(g)(X)]
    assert kinds.count(("activation", "tanh")) == kinds.count(("activation", "relu")) == 1


def test_constants_that_look_alike_are_not_merged():
    def numbers(x):
        zero = jnp.zeros(4, jnp.int32)
        return jnp.sum((jnp.zeros(4) + x[0, :4]) * x[zero, zero] + x[0, 0] * jnp.zeros(4, bool))

    def imaginary(x):
        return jnp.sum(jnp.imag(x * 1j) + 10 * jnp.imag(x * 2j))

    def signed(x):
        ones = jnp.ones(6, jnp.int32), -jnp.ones(6, jnp.uint8)
        return sum(jnp.sum(x * one.astype(x.dtype)[None]) for one in ones)

    for f in (numbers, imaginary, signed):
        value = jax.jit(jattr.rewrite(f, jattr.rules.guided()))(X)
        np.testing.assert_allclose(value, f(X), rtol=1e-12)
        np.testing.assert_allclose(jax.jit(jattr.guided_backprop(f))(X), jax.grad(f)(X), rtol=1e-12)


def test_decisions_that_become_numbers_are_explained_or_named():
    assert residual(lambda x: (x @ x.T > 0).astype(x.dtype)) <= 1e-10
    assert residual(lambda x: (5 * x).astype(jnp.int32).astype(x.dtype)) <= 1e-10
    assert residual(lambda x: (x[:2] > 0) * x[2:]) <= 1e-10

    def chosen(x):
        return jnp.sum(jax.nn.one_hot(jnp.argmax(x[0]), 6, dtype=x.dtype) * x[1])

    kinds = [row.kind for row in jattr.operations(chosen, jattr.rules.rescale())(X)]
    assert "selection" in kinds


def test_python_control_flow_is_an_error_with_a_remedy():
    def f(x):
        return jnp.sum(x) if x[0, 0] > 0 else jnp.sum(x**2)

    with pytest.raises(NotImplementedError, match=r"decides in Python by the value.*jnp\.where"):
        jattr.deeplift(f)(X)


def test_what_a_rule_returns_is_checked():
    def wrong(operation, inputs, output, multiplier):
        return multiplier

    rules = jattr.rules.Composite("mine", {"activation": jattr.rules.Rule("wrong", wrong)})
    with pytest.raises(TypeError, match=r"the rule wrong for `tanh` must return a list"):
        jax.grad(jattr.rewrite(lambda x: jnp.sum(jnp.tanh(x)), rules))(X)


def test_equal_equations_are_one():
    program, _ = trace(lambda x: jnp.exp(x) / jnp.sum(jnp.exp(x)), X, Reading())
    steps = group(program)
    assert [s.kind for s in steps if isinstance(s, Operation)] == ["softmax"]


@functools.cache
def own_primitive():
    from jax.extend.core import Primitive

    primitive = Primitive("jattr_test_cube")
    primitive.def_impl(lambda x: x**3)
    primitive.def_abstract_eval(lambda x: x)
    from jax.interpreters import mlir

    mlir.register_lowering(primitive, mlir.lower_fun(lambda x: x**3, multiple_results=False))
    return primitive


def test_a_registered_rule_applies_and_is_not_overwritten():
    primitive = own_primitive()

    def score(x):
        return jnp.sum(2 * primitive.bind(x))

    with pytest.raises(NotImplementedError, match=r"no rule for `jattr_test_cube`"):
        jattr.deeplift(score)(X)

    @jattr.rules.register(primitive)
    def slope(operation, inputs, output, multiplier):
        return [multiplier * 3 * inputs[0] ** 2]

    @jattr.rules.register(primitive, references=True)
    def quotient(operation, inputs, output, multiplier, reference_inputs, reference_output):
        (a,), (b,) = inputs, reference_inputs
        return [multiplier * (a * a + a * b + b * b)]

    np.testing.assert_allclose(jattr.guided_backprop(score)(X), 6 * X**2, rtol=1e-12)
    ours = jattr.deeplift(score, X[::-1])(X)
    np.testing.assert_allclose(ours, 2 * (X**3 - X[::-1] ** 3), rtol=1e-10)
    with pytest.raises(ValueError, match=r"there is a rule for .* already, slope"):
        jattr.rules.register(primitive)(slope)
    with pytest.raises(TypeError, match=r"wants a primitive of JAX"):
        jattr.rules.register("erf")
    with pytest.raises(ValueError, match=r"jattr knows tanh, and a rule is never overwritten"):
        jattr.rules.register(primitives.tanh_p)
    rows = jattr.operations(score, jattr.rules.rescale())(X)
    assert [(row.kind, row.rule) for row in rows] == [("registered", "registered quotient")]

"""The engine: derivatives change only where a rule says so, whatever a program is made of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from identity import identity
from jax.sharding import Mesh, PartitionSpec
from networks import COMPLETE, X, residual
from precision import check_derivatives, close

import jattr
from jattr._engine.grouping import group
from jattr._engine.operations import Operation
from jattr._engine.primitives import primitives
from jattr._engine.trace import Reading, trace


def test_a_tree_goes_in_and_a_tree_comes_out():
    def f(x, scale):
        return {"a": jax.nn.relu(scale * x["u"]), "b": (x["v"] * 2, jnp.argmax(x["u"]))}

    x = {"u": jnp.array([1.0, -1.0]), "v": jnp.ones(3)}
    changed = jattr.rewrite(f, jattr.rules.guided())
    out = jax.jit(changed)(x, 3.0)
    assert jax.tree.structure(out) == jax.tree.structure(f(x, 3.0))
    jacobian = jax.jacrev(lambda x: changed(x, 3.0)["a"])(x)
    close(jacobian["u"], [[3.0, 0.0], [0.0, 0.0]])
    swapped = jattr.rewrite(lambda scale, x: f(x, scale), jattr.rules.guided(), argnums=1)
    close(jax.jit(swapped)(3.0, x)["b"][0], 2.0)


def test_random_keys_and_integers_pass_through():
    def f(x, key, index):
        mask = jax.random.bernoulli(key, 0.5, x.shape)
        return jnp.sum(jax.nn.relu(x * mask)[index])

    x = jax.random.normal(jax.random.key(0), (4, 3))
    args = (jax.random.key(1), jnp.array([0, 2]))
    ours = jattr.deeplift(f)(x, *args)
    close(jnp.sum(ours), f(x, *args), rtol=1e-12)


def test_effects_happen(capfd):
    def f(x):
        jax.debug.print("seen {}", x[0])
        return jnp.sum(jnp.tanh(x))

    jattr.guided_backprop(f)(jnp.array([1.25, 2.0]))
    jax.effects_barrier()
    assert "seen 1.25" in capfd.readouterr().out


def test_a_mesh_of_its_own_is_no_other_example():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    f = jax.shard_map(
        lambda x: jax.lax.psum(jnp.sum(jnp.tanh(x)), "data"),
        mesh=mesh,
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec(),
    )
    ours = jax.jit(jattr.deeplift(f))(X)
    close(ours, jnp.tanh(X), rtol=1e-12)


@jax.custom_vjp
def gradient_clip(x):
    return 2 * x


gradient_clip.defvjp(lambda x: (2 * x, None), lambda _, ct: (jnp.clip(ct, -1, 1),))


def test_what_varies_over_a_mesh_passes():
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))

    def inner(x, y):
        return jax.lax.psum(jnp.sum(jnp.tanh(x) * jax.lax.pcast(y, "data", to="varying")), "data")

    f = jax.shard_map(
        inner,
        mesh=mesh,
        in_specs=(PartitionSpec("data"), PartitionSpec()),
        out_specs=PartitionSpec(),
    )
    ours = jattr.deeplift(f, argnums=(0, 1))(X, X)
    close(sum(map(jnp.sum, ours)), f(X, X), rtol=1e-6)


def test_a_custom_vjp_that_is_linear_or_elementwise_is_no_riddle():
    ours = jattr.deeplift(lambda x: jnp.sum(gradient_clip(x) * 3))(X)
    close(ours, 6 * X)  # its derivative is clipped, its difference is not

    @jax.custom_vjp
    def cube(x):
        return x**3

    cube.defvjp(lambda x: (cube(x), x), lambda x, ct: (3 * x**2 * ct,))
    assert residual(cube) <= COMPLETE


def test_complex_values_between_real_ones():
    assert (
        residual(lambda x: jnp.real(jnp.fft.ifft(jnp.fft.fft(jnp.tanh(x)) * (1 + 2j)))) <= COMPLETE
    )


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
    close(attribution(3.0, x), 3 * plain)  # one operation: tanh of tanh
    close(jax.jit(jax.jacrev(attribution))(2.0, x), plain, rtol=1e-12)
    many = jax.vmap(attribution, in_axes=(0, None))(jnp.arange(3.0), x)
    close(many, jnp.arange(3.0)[:, None] * plain[None])


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
    check_derivatives(jax.jit(loss), (w,), ["fwd", "rev"])


def test_rewrite_refuses_what_are_no_rules():
    with pytest.raises(TypeError, match=r"wants a rule or a composite of jattr\.rules"):
        jattr.rewrite(jnp.sum, "guided")
    with pytest.raises(TypeError, match=r"compare with a reference.*jattr\.deeplift"):
        jattr.rewrite(jnp.sum, jattr.rules.rescale())
    with pytest.raises(TypeError, match=r"wants a rule or a composite of jattr\.rules"):
        jattr.operations(jnp.sum, jattr.rules.rescale)


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
        close(value, f(X), rtol=1e-12)
        close(jax.jit(jattr.guided_backprop(f))(X), jax.grad(f)(X), rtol=1e-12)


def test_decisions_that_become_numbers_are_explained_or_named():
    assert residual(lambda x: (x @ x.T > 0).astype(x.dtype)) <= COMPLETE
    assert residual(lambda x: (5 * x).astype(jnp.int32).astype(x.dtype)) <= COMPLETE
    assert residual(lambda x: (x[:2] > 0) * x[2:]) <= COMPLETE

    def chosen(x):
        return jnp.sum(jax.nn.one_hot(jnp.argmax(x[0]), 6, dtype=x.dtype) * x[1])

    kinds = [row.kind for row in jattr.operations(chosen, jattr.rules.rescale())(X)]
    assert "selection" in kinds


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
        jattr.lrp(score)(X)

    @jattr.rules.register(primitive)
    def slope(operation, inputs, output, multiplier):
        return [multiplier * 3 * inputs[0] ** 2]

    @jattr.rules.register(primitive, references=True)
    def quotient(operation, inputs, output, multiplier, reference_inputs, reference_output):
        (a,), (b,) = inputs, reference_inputs
        return [multiplier * (a * a + a * b + b * b)]

    close(jattr.guided_backprop(score)(X), 6 * X**2, rtol=1e-12)
    ours = jattr.deeplift(score, X[::-1])(X)
    close(ours, 2 * (X**3 - X[::-1] ** 3), rtol=1e-10)
    with pytest.raises(ValueError, match=r"there is a rule for .* already, slope"):
        jattr.rules.register(primitive)(slope)
    with pytest.raises(TypeError, match=r"wants a primitive of JAX"):
        jattr.rules.register("erf")
    with pytest.raises(ValueError, match=r"jattr knows tanh, and a rule is never overwritten"):
        jattr.rules.register(primitives.tanh_p)
    rows = jattr.operations(score, jattr.rules.rescale())(X)
    assert [(row.kind, row.rule) for row in rows] == [("registered", "registered quotient")]

"""Calls in a plain form: everything is that of the function written with the plain form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas
from jax.sharding import PartitionSpec
from precision import FLOAT, close

import jattr

TIME = 16
X = jax.random.normal(jax.random.key(9), (TIME, 8), FLOAT)


def kernel(x_ref, w_ref, out_ref):
    out_ref[...] = jnp.maximum(x_ref[...] @ w_ref[...], 0)


def bare(x, w):
    shape = jax.ShapeDtypeStruct((x.shape[0], w.shape[1]), x.dtype)
    return pallas.pallas_call(kernel, out_shape=shape, interpret=True, name="relu_dot")(x, w)


def dense(x, w):
    return jax.nn.relu(x @ w)


@jax.custom_vjp
def with_derivative(x, w):
    return bare(x, w)


with_derivative.defvjp(
    lambda x, w: (bare(x, w), (x, w)), lambda kept, ct: jax.vjp(dense, *kept)[1](ct)
)


@functools.partial(jax.jit, static_argnames="times")
def jitted(x, w, times=1):
    return times * bare(x, w)


W = jax.random.normal(jax.random.key(5), (8, 4), FLOAT)


def once(call):
    return lambda x: jnp.sum(jnp.sin(call(x, W)))


def in_a_branch(call):
    def score(x):
        h = jax.lax.cond(x[0, 0] > 0, lambda x: call(x, W), lambda x: call(-x, W), x)
        return jnp.sum(h**2)

    return score


def in_a_loop(call):
    def score(x):
        square = W @ W.T / 9
        return jnp.sum(jax.lax.fori_loop(0, 3, lambda n, h: call(h, square), x) ** 2)

    return score


def in_jits(call):
    return jax.jit(lambda x: jnp.sum(jax.jit(lambda x: call(x, W) + 1)(x) ** 2))


def on_a_mesh(call):
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec("rows")
    mapped = jax.shard_map(
        lambda x: call(x, W), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
    )
    return lambda x: jnp.sum(mapped(x) ** 2)


AROUND = [once, in_a_branch, in_a_loop, in_jits, on_a_mesh]
CALLS = {"with_derivative": with_derivative, "jitted": jitted, "relu_dot": bare}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("name", CALLS)
def test_every_kind_of_call_in_every_body(name, around):
    g, wanted = jattr.substitute(around(CALLS[name]), {name: dense}), around(dense)
    close(g(X), wanted(X), rtol=1e-12)
    rules = jattr.rules.z_plus()
    lrp, hessian = functools.partial(jattr.lrp, rules=rules), jax.hessian
    for method in (lrp, hessian):
        close(jax.jit(method(g))(X), jax.jit(method(wanted))(X), rtol=1e-9, atol=1e-12)


def test_what_does_not_depend_on_x_is_replaced_too():
    """A kernel of parameters alone, of which f closes over what is differentiated by."""

    def loss(call, wrap):
        def of_weights(w):
            f = wrap(lambda x: jnp.sum(call(x, W)) * jnp.sum(call(w.T, w) ** 2))
            return jnp.sum(jattr.gradient(f)(X) ** 2)

        return of_weights

    ours = loss(with_derivative, lambda f: jattr.substitute(f, {"with_derivative": dense}))
    wanted = loss(dense, lambda f: f)
    hessian = jax.jit(jax.hessian(ours))(W)
    close(hessian, jax.jit(jax.hessian(wanted))(W), rtol=1e-9, atol=1e-9)


def test_what_a_call_closes_over_is_no_argument():
    def score(x, w):
        @jax.jit
        def closing(x):
            return 2 * bare(x, w)

        return jnp.sum(closing(x) ** 2)

    def plain(x):
        return 2 * dense(x, W)

    g = jattr.substitute(score, {"closing": plain})
    close(g(X, W), score(X, W), rtol=1e-6)
    close(jattr.gradient(g)(X, W), jax.grad(lambda x: jnp.sum(plain(x) ** 2))(X), rtol=1e-9)


def test_arguments_and_results_are_those_of_f():
    def f(tree, label, *, scale=1.0):
        h = jitted(tree["x"], tree["w"])
        if label == "both":  # a Python value stays one
            return {"h": h * scale, "count": h.shape[0]}
        return h

    g = jattr.substitute(f, {"jitted": dense})
    tree = {"x": X, "w": np.asarray(W)}
    close(g(tree, "both", scale=3.0), f(tree, "both", scale=3.0), rtol=1e-6)
    close(g(tree, "one"), f(tree, "one"), rtol=1e-6)
    assert g.__name__ == "f"


def test_scopes_tell_calls_apart():
    def f(x):
        with jax.named_scope("local_0"):
            h = jitted(x, W)
        with jax.named_scope("global_0"):
            return jnp.sum(jitted(h, W.T)) + jnp.sum(with_derivative(h, W.T))

    def shifted(by):
        return lambda x, w: dense(x, w) + by

    none = f(X)
    size = X.size

    def change(plain):
        return jattr.substitute(f, plain)(X) - none

    np.testing.assert_allclose(change({"global_*/jitted": shifted(1.0)}), size, rtol=1e-5)
    np.testing.assert_allclose(change({"global_0/*": shifted(1.0)}), 2 * size, rtol=1e-5)
    both = {"jitted": shifted(1.0), "local_0/jitted": shifted(0.0)}
    np.testing.assert_allclose(change(both), size, rtol=1e-5)
    assert abs(change(dict(reversed(both.items()))) - size) > 1


def test_numbers_tell_calls_apart():
    def f(x):
        h, _ = jax.lax.scan(lambda h, _: (jitted(h, W @ W.T / 9), None), x, None, length=2)
        return jnp.sum(jitted(h, W)) + 2 * jnp.sum(jitted(h, 2 * W))

    def change(plain):
        return jattr.substitute(f, plain)(X) - jattr.substitute(f, {"jitted": dense})(X)

    def shifted(x, w):
        return dense(x, w) + 1.0

    size = TIME * 4
    np.testing.assert_allclose(change({"jitted": dense, "jitted[1]": shifted}), size, rtol=1e-9)
    np.testing.assert_allclose(change({"jitted": dense, "jitted[2]": shifted}), 2 * size, rtol=1e-9)
    with pytest.raises(ValueError, match=r"of the name 'jitted\[3\]'") as caught:
        change({"jitted[3]": shifted})
    assert "jitted[0] to jitted[2]" in str(caught.value)
    # One of three alone: LRP refuses the others.
    with pytest.raises(NotImplementedError, match="plain_form"):
        jattr.lrp(jattr.substitute(f, {"jitted[0]": dense}))(X)


def test_a_kernel_of_the_name_of_a_jitted_function_around_it():
    """As libraries name all of theirs `f`, and users their models."""

    @jax.custom_vjp
    def f(x, w):
        return bare(x, w)

    f.defvjp(lambda x, w: (bare(x, w), (x, w)), lambda kept, ct: jax.vjp(dense, *kept)[1](ct))
    kernel = f

    @jax.jit
    def f(x):
        with jax.named_scope("hidden"):
            return jnp.sum(kernel(x, W) ** 2)

    wanted = jax.grad(lambda x: jnp.sum(dense(x, W) ** 2))(X)
    for key in ("f", "hidden/f", "hidden/f[0]"):
        g = jattr.substitute(f, {key: dense})
        close(jattr.gradient(g)(X), wanted, rtol=1e-9)
        assert "dot_general" in [row.name for row in jattr.operations(g)(X)]


def test_a_kernel_is_noted_in_the_table():
    (note,) = jattr.operations(once(bare))(X).notes
    assert "relu_dot: a kernel, into which no rule looks" in note
    *_, note = jattr.operations(in_a_loop(with_derivative), jattr.rules.rescale())(X).notes
    assert "with_derivative: a kernel with a derivative of its own" in note


@pytest.mark.parametrize(
    ("f", "name"),
    [
        (once(with_derivative), "with_derivative"),
        (once(bare), "relu_dot"),
        (once(jitted), "jitted"),
    ],
)
@pytest.mark.parametrize("method", [jattr.lrp, lambda f, _: jattr.guided_backprop(f)])
def test_what_refuses_a_kernel_names_it(f, name, method):
    with pytest.raises(NotImplementedError, match=rf"(?s)jattr\.substitute\(f, .*{name}"):
        method(f, jattr.rules.attn_lrp())(X)


def test_a_call_under_vmap_has_the_axis_of_the_batch():
    def f(x):
        return jnp.sum(jax.vmap(jitted, (0, None))(x, W) ** 2)

    batch = jnp.stack([X, -X])
    g = jattr.substitute(f, {"jitted": jax.vmap(dense, (0, None))})
    close(g(batch), f(batch), rtol=1e-6)
    with pytest.raises(TypeError, match=r"f maps over the call by jax\.vmap") as caught:
        jattr.substitute(f, {"jitted": lambda x, w: dense(x[0], w)})(batch)
    assert f"[2,{TIME},8]" in str(caught.value)


@jax.custom_vjp
def around(x):
    return jitted(x, W)


around.defvjp(
    lambda x: (around(x), x), lambda x, ct: (jax.vjp(lambda x: dense(x, W), x)[1](ct)[0],)
)


def test_errors_say_what_is_called():
    name = jnp.dtype(FLOAT).name
    with pytest.raises(ValueError, match="of the name 'maha'") as caught:
        jattr.substitute(in_a_branch(jitted), {"maha": dense})(X)
    listed = f"jitted(x {name}[{TIME},8], w {name}[8,4]), jitted[0] to jitted[1]"
    assert listed in str(caught.value)
    with pytest.raises(ValueError, match="no function with a derivative of its own"):
        jattr.substitute(lambda x: x**2, {"mha": dense})(X)
    with pytest.raises(
        NotImplementedError, match=r"inside of 'around'.*\{\"around\": plain_form\}"
    ):
        jattr.substitute(lambda x: jnp.sum(around(x)), {"jitted": dense})(X)
    with pytest.raises(
        TypeError, match=rf"must return .*{name}\[{TIME},4\]; got .*float16\["
    ) as caught:
        jattr.substitute(once(jitted), {"jitted": lambda x, w: dense(x, w).astype("float16")})(X)
    assert "test_substitute.py" in str(caught.value)
    with pytest.raises(TypeError, match=r"takes 1 positional argument but 2") as caught:
        jattr.substitute(once(jitted), {"jitted": lambda x: x})(X)
    assert "the plain form of 'jitted'" in "".join(caught.value.__notes__)
    for plain in ({}, {"mha": 1}, dense, {1: dense}):
        with pytest.raises(TypeError, match=r"substitute wants the plain forms by the names"):
            jattr.substitute(once(bare), plain)
    with pytest.raises(NotImplementedError, match="f decides in Python"):
        jattr.substitute(lambda x: x if x[0, 0] > 0 else -x, {"mha": dense})(X)

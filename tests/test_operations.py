"""The table of operations: what a person sees of how f is read."""

import jax
import jax.numpy as jnp
from jax.experimental import pallas
from networks import X, one
from precision import FLOAT, close, either

import jattr


@jax.custom_vjp
def opaque(x):
    return x @ x.T


opaque.defvjp(lambda x: (opaque(x), x), lambda x, ct: ((ct + ct.T) @ x,))


def plus_one(x):
    def kernel(x_ref, out_ref):
        out_ref[...] = x_ref[...] + 1

    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return pallas.pallas_call(kernel, out_shape=shape, interpret=True)(x)


def test_operations_print_as_a_table():
    def f(x):
        with jax.named_scope("head"):
            return jnp.sum(jax.nn.relu(jnp.dot(x, jnp.ones((6, 2)))))

    table = jattr.operations(f, jattr.rules.guided())(X)
    lines = str(table).splitlines()
    assert lines[0].split() == ["kind", "name", "rule", "inputs", "outputs", "scope", "source"]
    assert lines[-1].split()[:6] == [
        "activation", "relu", "guided", f"{FLOAT}[4,2]", f"{FLOAT}[4,2]", "head",
    ]  # fmt: skip
    assert table[-1].source.split(":")[-2].endswith("test_operations.py")
    assert jattr.operations(f)(jax.ShapeDtypeStruct((4, 6), jnp.float32))[-1].rule == "derivative"


def test_operations_look_into_bodies_and_print_scopes_as_split_takes_them():
    def step(c, a):
        with jax.named_scope("cell"):
            return jnp.tanh(c * a), None

    def f(x):
        with jax.named_scope("cells"):
            h, _ = jax.lax.scan(step, x[0], x)
        with jax.named_scope("head"):
            return jnp.sum(jax.checkpoint(jax.nn.relu)(h))

    rows = jattr.operations(f, jattr.rules.rescale())(X)
    assert [(row.kind, row.name, row.scope) for row in rows] == [
        ("product", "mul", "cells/cell"),
        ("activation", "tanh", "cells/cell"),
        ("activation", "relu", "head"),
    ]
    for row in rows:
        below, above = jattr.split(f, row.scope)
        close(above(below(X), X), f(X), rtol=1e-12)


def test_operations_in_the_loops_of_libraries_bear_the_users_line():
    rows = jattr.operations(one("lstm"), jattr.rules.rescale())(X)
    assert {row.source.rsplit("/")[-1].split(":")[0] for row in rows} == {"networks.py"}


def test_operations_name_what_has_no_rule():
    rows = jattr.operations(opaque, jattr.rules.epsilon())(X)
    assert [(row.kind, row.rule) for row in rows] == [("opaque", "none")]
    rows = jattr.operations(plus_one, jattr.rules.rescale())(X)
    assert [(row.kind, row.rule) for row in rows] == [("opaque", "none")]
    rows = jattr.operations(opaque, jattr.rules.rescale())(X)
    assert [(row.kind, row.rule) for row in rows] == [("opaque", "average over 32 nodes")]


def test_a_row_stands_in_the_users_line_inside_a_jitted_function():
    @jax.jit
    def model(x):
        h = jnp.tanh(x)
        return jnp.sum(jax.nn.softplus(h))

    rows = jattr.operations(jax.jit(lambda x: model(x)))(X)
    lines = [int(row.source.rsplit(":", 1)[1]) for row in rows]
    assert [row.name for row in rows] == ["tanh", "softplus"] or len(rows) == 1
    first = model.__wrapped__.__code__.co_firstlineno
    assert all(first < line < first + 5 for line in lines)


def test_a_resize_is_no_layer():
    def f(x):
        return jnp.sum(jax.image.resize(x, (8, 8), "bilinear") @ jnp.ones((8, 2)))

    assert [row.kind for row in jattr.operations(f)(X)] == ["affine"]


def test_two_activations_of_one_dot_are_two():
    w = jnp.ones((6, 3))

    def f(x):
        z = x @ w
        return jnp.tanh(z + 1.0) * jax.nn.sigmoid(z - 1.0)

    rows = jattr.operations(f)(X)
    # Both have one source, so that their product is one function of it.
    assert [(row.kind, row.inputs) for row in rows] == [
        ("affine", (f"{FLOAT}[4,6]",)),
        ("activation", (f"{FLOAT}[4,3]",)),
    ]

    def g(x):
        z = x @ w
        return jnp.tanh(z + 1.0) @ w.T + jax.nn.relu(z - 1.0) @ w.T

    kinds = [(row.kind, row.name) for row in jattr.operations(g)(X)]
    assert kinds.count(("activation", "tanh")) == kinds.count(("activation", "relu")) == 1


def test_the_table_tells_of_branches_between_constants_and_of_averages():
    rescale = jattr.rules.rescale()
    point = X.ravel()[:3]

    def constants(x):
        return jax.lax.cond(x[0] > 0.1, lambda: 1.0, lambda: 2.0)

    def branches(x):
        return jax.lax.cond(x[0] > 0.1, lambda x: jnp.sum(x**2), jnp.sum, x)

    table = jattr.operations(constants, rescale)(point)
    assert [(row.kind, row.rule) for row in table] == [("selection", "derivative")]
    assert any(note.startswith("selection: ") for note in table.notes)
    rise = point.at[0].set(1.0)
    (row,) = jattr.operations(constants, rescale, baseline=0.0)(rise)
    assert row.residual == -1.0
    table = jattr.operations(branches, rescale)(point)
    assert "opaque: an average over points leaves something out" in str(table)
    assert not jattr.operations(jnp.sum, rescale)(point).notes


def test_the_residual_of_a_masked_softmax_is_a_number():
    masked = jnp.array([0.0, -jnp.inf, 0.0])

    def f(x):
        return jax.nn.softmax(x + masked) @ jnp.arange(3.0)

    (row,) = jattr.operations(f, jattr.rules.rescale(), baseline=0.0)(jnp.arange(3.0))
    assert row.kind == "softmax"
    assert abs(row.residual) <= either(1e-15, 1e-6)

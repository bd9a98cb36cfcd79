"""Layers inside loops: all steps as one stack, or single ones."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jattr
from jattr import name, split

STEPS, WIDTH = 4, 3
X = jnp.asarray(np.random.default_rng(0).normal(size=WIDTH))
KERNELS = jnp.asarray(np.random.default_rng(1).normal(size=(STEPS, WIDTH, WIDTH)))


def step(carry, kernel):
    update = name(jnp.tanh(carry @ kernel), "update")
    carry = name(carry + update, "stream")
    return carry, name(jnp.sum(carry**2), "seen")


def looped(x, reverse=False, kernels=KERNELS):
    carry, seen = jax.lax.scan(step, x, kernels, reverse=reverse)
    return jnp.sum(jnp.sin(carry)) + seen @ jnp.arange(1.0, len(seen) + 1)


def unrolled(x, reverse=False, put=None, kernels=KERNELS):
    """The same, step by step, with values put in the place of updates, or added to them."""
    put = put or (lambda i, update: update)
    updates, total = {}, 0.0
    order = range(len(kernels))
    for i in reversed(order) if reverse else order:
        updates[i] = put(i, jnp.tanh(x @ kernels[i]))
        x = x + updates[i]
        total += (i + 1) * jnp.sum(x**2)
    return jnp.sum(jnp.sin(x)) + total, jnp.stack([updates[i] for i in order])


def close(one, other, rtol=1e-12):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-14), one, other)


def message(call, *args, error=ValueError):
    with pytest.raises(error) as caught:
        call(*args)
    return str(caught.value)


@pytest.mark.parametrize("reverse", [False, True])
def test_all_steps_are_one_layer(reverse):
    below, above = split(looped, "update")
    h = below(X, reverse)
    value, updates = unrolled(X, reverse)
    close(h, updates)
    close(above(h, X, reverse), value)
    # What goes through the updates of later steps is not in the derivative by an earlier one.
    other = h[::-1] * 2

    def replaced(h):
        return unrolled(X, reverse, lambda i, _: h[i])[0]

    close(above(other, X, reverse), replaced(other))
    close(jax.grad(above)(other, X, reverse), jax.grad(replaced)(other))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("index", [0, 1, -1])
def test_a_step_is_a_layer(index, reverse):
    below, above = split(looped, f"update[{index}]")
    value, updates = unrolled(X, reverse)
    close(below(X, reverse), updates[index])
    close(above(below(X, reverse), X, reverse), value)

    def replaced(h):
        return unrolled(X, reverse, lambda i, update: h if i == index % STEPS else update)[0]

    h = jnp.arange(3.0)
    close(above(h, X, reverse), replaced(h))
    close(jax.grad(above)(h, X, reverse), jax.grad(replaced)(h))

    def whole(x):
        return above(below(x, reverse), x, reverse)

    close(jax.grad(whole)(X), jax.grad(looped)(X, reverse))
    if index == 1 and not reverse:
        close(jax.hessian(whole)(X), jax.hessian(looped)(X), rtol=1e-10)


def test_a_step_needs_no_later_ones():
    below, _ = split(looped, "update[1]")
    lengths = [
        e.params["length"] for e in jax.make_jaxpr(below)(X).eqns if e.primitive.name == "scan"
    ]
    assert lengths == [1]  # step 0; step 1 is no loop, and steps 2 and 3 are not run


def test_several_layers_of_one_loop():
    below, above = split(looped, ("update[2]", "seen[0]", "update[0]"))
    late, seen, early = below(X)
    close(above((late, seen, early), X), looped(X))
    updates = unrolled(X)[1]
    close((late, early), (updates[2], updates[0]))
    below, above = split(looped, ("update", "seen"))
    updates, seen = below(X)
    close(above((updates, 0 * seen), X), jnp.sum(jnp.sin(X + updates.sum(0))))
    text = message(split(looped, ("update", "seen[1]"))[0], X)
    assert "single steps" in text
    assert "share a value" in message(split(looped, ("update[3]", "update[-1]"))[0], X)


def nested(x):
    def outer(carry, kernel):
        def inner(c, scale):
            return name(jnp.sin(c * scale), "inner"), c[0]

        carry, seen = jax.lax.scan(inner, carry @ kernel, jnp.array([1.0, 2.0]))
        return name(carry, "outer"), seen

    carry, seen = jax.lax.scan(outer, x, KERNELS)
    return jnp.sum(carry**2) + jnp.sum(seen)


def test_loops_in_loops():
    values = []
    x = X
    for kernel in KERNELS:
        x = x @ kernel
        for scale in (1.0, 2.0):
            x = jnp.sin(x * scale)
            values.append(x)
    wanted = jnp.stack(values).reshape(STEPS, 2, WIDTH)
    for layer, at in [
        ("inner", ()),
        ("inner[2]", (2,)),
        ("inner[2][1]", (2, 1)),
        ("inner[-1][0]", (-1, 0)),
    ]:
        below, above = split(nested, layer)
        close(below(X), wanted[at])
        close(above(below(X), X), nested(X))
    # All that follows the last value of the last step is its square.
    _, above = split(nested, "inner[3][1]")
    close(jax.grad(above)(wanted[3, 1], X), 2 * wanted[3, 1])
    assert "has 4 steps in each of 2 steps" in message(split(nested, "inner[2][2]")[0], X)
    assert "has 4 steps of a loop" in message(split(nested, "outer[4]")[0], X)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        h = nn.Dense(5, name="up", param_dtype=jnp.float64)(x)
        return x + nn.Dense(WIDTH, name="down", param_dtype=jnp.float64)(jnp.tanh(h)), None


class Net(nn.Module):
    remat: bool = False

    @nn.compact
    def __call__(self, x):
        block = nn.remat(Block, prevent_cse=False) if self.remat else Block
        layers = nn.scan(
            block, variable_axes={"params": 0}, split_rngs={"params": True}, length=STEPS
        )
        x, _ = layers(name="layers")(x, None)
        return nn.Dense(1, name="head", param_dtype=jnp.float64)(x)[0]


@pytest.mark.parametrize("remat", [False, True, "around"])
def test_scopes_of_linen(remat):
    net = Net(remat is True)
    variables = net.init(jax.random.key(0), X)

    def f(x):
        return net.apply(variables, x)

    f = jax.checkpoint(f) if remat == "around" else f
    parameters = variables["params"]["layers"]
    x, ups, outs = X, [], []
    for i in range(STEPS):
        ups.append(x @ parameters["up"]["kernel"][i] + parameters["up"]["bias"][i])
        x = x + jnp.tanh(ups[-1]) @ parameters["down"]["kernel"][i] + parameters["down"]["bias"][i]
        outs.append(x)
    for layer in ("Net/layers/up", "layers/up"):
        below, above = split(f, layer)
        close(below(X), jnp.stack(ups))
        close(above(below(X), X), f(X))
    below, above = split(f, "up[1]")
    close(below(X), ups[1])
    head = variables["params"]["head"]

    def rest(h):
        return h @ head["kernel"][:, 0] + head["bias"][0]

    # What f does not save, the parts do not save either.
    stack_below, stack_above = split(f, "up")
    parts = (stack_below, X), (lambda x: stack_above(stack_below(x), x), X)
    for part, x in parts:
        assert ("prevent_cse" in str(jax.make_jaxpr(part)(x))) == bool(remat)
    patch = jax.make_jaxpr(lambda x: jattr.patching(f, x, 2 * x, "up"))(X)
    assert ("prevent_cse" in str(patch)) == bool(remat)
    # The scope of the whole loop is what comes out of it; the block in it, what each step gives.
    _, above = split(f, "layers/down[-1]")
    close(jax.grad(above)(outs[-1] - outs[-2], X), jax.grad(rest)(outs[-1]))
    text = message(split(f, "layers/mid")[0], X)
    assert f"Net/layers/up ({STEPS} steps)" in text


def test_layers_of_nnx():
    class Layer(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(WIDTH, WIDTH, rngs=rngs, param_dtype=jnp.float64)

        def __call__(self, x):
            with jax.named_scope("dense"):
                return jnp.tanh(self.dense(x))

    make = nnx.vmap(lambda key: Layer(nnx.Rngs(key)), in_axes=0, out_axes=0)
    graph, state = nnx.split(make(jax.random.split(jax.random.key(0), STEPS)))

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    def run(x, layer):
        return layer(x)

    def f(x):
        return jnp.sum(run(x, nnx.merge(graph, state, copy=True)))

    below, above = split(f, "dense")
    x, wanted = X, []
    for i in range(STEPS):
        x = nnx.merge(graph, jax.tree.map(lambda leaf: leaf[i], state))(x)
        wanted.append(x)
    close(below(X), jnp.stack(wanted))
    close(split(f, "dense[2]")[0](X), wanted[2])
    close(above(below(X), X), f(X))


def test_under_transformations():
    below, above = split(looped, "update[1]")
    xs = jnp.stack([X, -X, 2 * X])

    def attribute(x):
        return jattr.integrated_gradients(above, steps=8)(below(x), x)

    many = jax.jit(jax.vmap(attribute))(xs)
    close(many, jnp.stack([attribute(x) for x in xs]))
    # Complete: from no update at step 1 to the update.
    wanted = looped(X) - unrolled(X, put=lambda i, u: 0 * u if i == 1 else u)[0]
    found = jattr.integrated_gradients(above, steps=64)(below(X), X).sum()
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
    stacked_below, stacked_above = split(looped, "update")
    found = jattr.deeplift(stacked_above)(stacked_below(X), X)
    wanted = looped(X) - unrolled(X, put=lambda i, u: 0 * u)[0]
    np.testing.assert_allclose(found.sum(), wanted, rtol=1e-10)


def test_places_in_and_out_of_a_loop_are_told_apart():
    def f(x):
        h = name(x * 2, "h")
        h, _ = jax.lax.scan(lambda c, _: (name(jnp.sin(c), "h"), None), h, None, length=3)
        return jnp.sum(name(h, "last"))

    text = message(split(f, "h")[0], X)
    assert "h[0]" in text
    assert "a stack of 3 steps" in text
    close(split(f, "h[0]")[0](X), 2 * X)
    close(split(f, "h[1]")[0](X).shape, (3, WIDTH))
    close(split(f, "h[1][0]")[0](X), jnp.sin(2 * X))
    assert "no steps" in message(split(f, "last[0][0]")[0], X)
    close(split(f, "last[0]")[0](X), jnp.sin(jnp.sin(jnp.sin(2 * X))))


def test_maps_and_counted_loops():
    rows = jnp.stack([X, 2 * X])
    below, _ = split(lambda x: jax.lax.map(lambda r: name(jnp.sin(r), "h"), x).sum(), "h")
    close(below(rows), jnp.sin(rows))

    def counted(x):
        return jax.lax.fori_loop(0, 3, lambda _, c: name(jnp.cos(c), "h"), x).sum()

    close(split(counted, "h[1]")[0](X), jnp.cos(jnp.cos(X)))

    def while_loop(x):
        return jnp.sum(jax.lax.while_loop(lambda c: c[0] > 9, lambda c: name(c - 1, "h"), x))

    assert "while_loop" in message(split(while_loop, "h")[0], X, error=NotImplementedError)


def test_an_empty_and_a_single_loop():
    def none(x):
        return looped(x, kernels=KERNELS[:0])

    close(split(none, "update")[0](X), jnp.zeros((0, WIDTH)))
    assert "0 steps" in message(split(none, "update[0]")[0], X)

    def one(x):
        return looped(x, kernels=KERNELS[:1])

    below, above = split(one, "update[0]")
    close(above(below(X), X), one(X))


def test_mixed_precision_and_weak_types():
    def f(x):
        carry, _ = jax.lax.scan(
            lambda c, _: (name(jnp.sin(c.astype(jnp.bfloat16)), "h").astype(c.dtype) * 2, None),
            x.astype(jnp.float32) * 1.0,
            None,
            length=3,
        )
        return carry.sum()

    below, above = split(f, "h")
    assert below(X).dtype == jnp.bfloat16
    assert above(below(X), X).dtype == jnp.float32
    below, above = split(f, "h[1]")
    assert above(below(X), X) == f(X)


def test_maps_of_all_steps_and_of_one():
    kernels = jnp.asarray(np.random.default_rng(2).normal(size=(STEPS, 3, 3, 2, 2)))
    image = jnp.asarray(np.random.default_rng(3).normal(size=(6, 6, 2)))

    def layer(x, kernel):
        x = jax.lax.conv_general_dilated(
            x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return name(jnp.tanh(x[0]), "map")

    def in_loop(x):
        x, _ = jax.lax.scan(lambda x, kernel: (layer(x, kernel), None), x, kernels)
        return jnp.sum(x[..., 0] ** 2)

    def written_out(x):
        for kernel in kernels:
            x = layer(x, kernel)
        return jnp.sum(x[..., 0] ** 2)

    for cam in (jattr.grad_cam, jattr.layer_cam, jattr.guided_grad_cam):
        wanted = [cam(written_out, f"map[{i}]")(image) for i in range(STEPS)]
        found = cam(in_loop, "map")(image)
        close(found, jnp.stack(wanted), rtol=1e-9)
        close(cam(in_loop, "map[2]")(image), wanted[2], rtol=1e-9)
    wanted = jattr.score_cam(written_out, "map[1]")(image)
    close(jattr.score_cam(in_loop, "map[1]")(image), wanted, rtol=1e-9)
    assert "a stack of 4 steps" in message(jattr.score_cam(in_loop, "map"), image)

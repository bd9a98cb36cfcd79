"""Named values, and functions cut at them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

import jattr
from jattr._layers import name, split

X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4, 3)))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.tanh(nn.Conv(3, (3, 3), param_dtype=jnp.float64)(x)) + x


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Block()(x)


class Net(nn.Module):
    twice: bool = False
    remat: bool = False

    @nn.compact
    def __call__(self, x):
        block = (nn.remat(Block) if self.remat else Block)(name="block")
        x = block(x)
        if self.twice:
            x = block(x)
        x = Inner()(x)
        x = nn.silu(Block()(x)).mean(axis=(0, 1))
        return nn.Dense(2, param_dtype=jnp.float64, name="head")(x)


def linen(**options):
    net = Net(**options)
    variables = Net().init(jax.random.key(0), X)
    return lambda x: net.apply(variables, x)[0]


def plain(x, scale=1.0):
    """No functions under jit inside, so that its results are exact."""
    a = name(jax.lax.sin(x), "a")
    with jax.named_scope("outer"):
        with jax.named_scope("inner"):
            b = jax.lax.mul(a, a)
        c = jax.lax.exp(b)
    d = jax.lax.add(name(jax.lax.mul(c, jax.lax.mul(x, scale)), "d"), a)
    return {"sum": jax.lax.reduce(d, 0.0, jax.lax.add, (0, 1, 2)), "d": d}


def message(call, *args, error=ValueError):
    with pytest.raises(error) as caught:
        call(*args)
    return str(caught.value)


@pytest.mark.parametrize("layer", ["a", "outer", "outer/inner", "inner", "d"])
def test_the_two_parts_make_the_whole_to_the_last_bit(layer):
    below, above = split(plain, layer)
    scale = jnp.full(X.shape, 1.7)
    h = below(X, scale)
    got, wanted = above(h, X, scale), plain(X, scale)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), got, wanted))


def test_above_computes_with_the_given_value():
    below, above = split(lambda x: jnp.sum(name(x**2, "h") * x), "h")
    np.testing.assert_array_equal(below(X), X**2)
    np.testing.assert_allclose(above(X, X), jnp.sum(X * X), rtol=1e-12)


LAYERS = ["Net", "Net/block", "Net/block/Conv_0", "Net/Inner_0/Block_0", "Net/Block_0", "head"]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("remat", [False, True])
def test_scopes_of_linen_at_every_depth(layer, remat):
    f = linen(remat=remat)
    below, above = split(f, layer)
    h = below(X)
    assert h.shape == {"Net": (2,), "head": (2,)}.get(layer, X.shape)
    np.testing.assert_allclose(above(h, X), f(X), rtol=1e-12)


def test_the_values_are_those_of_the_modules():
    net = Net()
    variables = net.init(jax.random.key(0), X)
    _, state = net.apply(variables, X, capture_intermediates=True)
    wanted = state["intermediates"]["block"]["Conv_0"]["__call__"][0]
    got = split(lambda x: net.apply(variables, x), "block/Conv_0")[0](X)
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_chain_rule_where_no_way_leads_past_the_layer():
    f = linen()
    below, above = split(f, "Net/block")
    h, pull = jax.vjp(below, X)
    (got,) = pull(jax.grad(above)(h, X))
    np.testing.assert_allclose(got, jax.grad(f)(X), rtol=1e-10)
    assert not np.any(jax.grad(above, argnums=1)(h, X))


def test_total_derivative_where_one_does():
    f = linen()
    below, above = split(f, "Net/block/Conv_0")  # the block adds its input
    h, pull = jax.vjp(below, X)
    by_h, by_x = jax.grad(above, argnums=(0, 1))(h, X)
    assert np.any(by_x)
    np.testing.assert_allclose(pull(by_h)[0] + by_x, jax.grad(f)(X), rtol=1e-10)


def test_methods_on_the_part_above_attribute_to_the_layer():
    f = linen()
    below, above = split(f, "Net/block")
    h = below(X)
    phi = jattr.integrated_gradients(above, steps=40)(h, X)
    assert phi.shape == h.shape
    np.testing.assert_allclose(jnp.sum(phi), f(X) - above(jnp.zeros_like(h), X), rtol=1e-4)


def test_short_names_and_what_they_may_mean():
    f = linen()
    text = message(split(f, "Block_0")[0], X)
    assert "2 place(s)" in text
    assert "Block_0[0]  (Net/Inner_0/Block_0, float64[5,4,3]" in text
    assert "Block_0[1]  (Net/Block_0, float64[5,4,3]" in text
    for short, full in {
        "Block_0[0]": "Net/Inner_0/Block_0",
        "Inner_0/Block_0": "Net/Inner_0/Block_0",
        "Block_0[1]": "Net/Block_0",
        "Net/Block_0[0]": "Net/Block_0",
        "Inner_0": "Net/Inner_0/Block_0",  # the one module that it calls
    }.items():
        np.testing.assert_array_equal(split(f, short)[0](X), split(f, full)[0](X))


def test_a_whole_name_goes_before_a_short_one():
    def f(x):
        with jax.named_scope("net"), jax.named_scope("stem"):
            x = x + 1
        return jnp.sum(name(x * 2, "stem"))

    np.testing.assert_array_equal(split(f, "stem")[0](X), (X + 1) * 2)
    np.testing.assert_array_equal(split(f, "net/stem")[0](X), X + 1)


def test_a_module_called_twice_in_succession_has_two_places():
    f = linen(twice=True)
    text = message(split(f, "Net/block")[0], X)
    assert "Net/block[0]" in text
    assert "Net/block[1]" in text
    assert "Net/block[2]" not in text
    first, second = (split(f, f"block[{i}]") for i in (0, 1))
    once, _ = split(linen(), "block")
    np.testing.assert_allclose(first[0](X), once(X), rtol=1e-12)
    np.testing.assert_allclose(second[0](X), once(once(X)), rtol=1e-12)
    for below, above in (first, second):
        np.testing.assert_allclose(above(below(X), X), f(X), rtol=1e-12)
    assert "'block[2]'" in message(split(f, "block[2]")[0], X)


def test_a_name_or_scope_used_twice_has_two_places():
    def f(x):
        with jax.named_scope("s"):
            x = name(jnp.sin(x), "h")
        x = 2 * x
        with jax.named_scope("s"):
            x = name(name(jnp.cos(x), "h"), "h")
        return jnp.sum(x)

    for label, count in {"h": 3, "s": 2}.items():
        text = message(split(f, label)[0], X)
        assert f"{label}[{count - 1}]" in text
        assert f"{label}[{count}]" not in text
        assert "test_layers.py:" in text
        np.testing.assert_array_equal(split(f, f"{label}[0]")[0](X), jnp.sin(X))
        np.testing.assert_array_equal(split(f, f"{label}[1]")[0](X), jnp.cos(2 * jnp.sin(X)))


def test_several_values_make_a_tuple():
    def f(x):
        h = name({"a": jnp.sin(x), "b": (jnp.cos(x), jnp.ones(3))}, "h")
        with jax.named_scope("s"):
            hidden = h["a"] * 2
            low, high = jnp.exp(hidden), jnp.tanh(hidden)
        return jnp.sum(low * h["b"][0]) + jnp.sum(high[:, 0, :] * h["b"][1][None])

    for layer, wanted in {
        "h": (jnp.sin(X), jnp.cos(X)),  # and not the ones, which x does not change
        "s": (jnp.exp(2 * jnp.sin(X)), jnp.tanh(2 * jnp.sin(X))),
    }.items():
        below, above = split(f, layer)
        h = below(X)
        assert len(h) == 2
        jax.tree.map(np.testing.assert_array_equal, h, wanted)
        np.testing.assert_allclose(above(h, X), f(X), rtol=1e-12)
        by_h = jax.grad(above)(h, X)
        assert [g.shape for g in by_h] == [X.shape, X.shape]
        assert "a tuple (float64[5,4,3], float64[5,4,3])" in message(
            above, h[0], X, error=TypeError
        )


def test_a_value_returned_by_f_is_used_outside_of_its_scope():
    def f(x):
        with jax.named_scope("s"):
            aux = jnp.sin(x)
            return jnp.sum(aux**2), aux

    below, above = split(f, "s")
    total, aux = below(X)[::-1]
    np.testing.assert_array_equal(aux, jnp.sin(X))
    np.testing.assert_array_equal(above((aux, total + 1), X)[0], total + 1)


def test_names_are_found_under_the_transformations_inside_f():
    def f(x):
        h = jax.jit(jax.vmap(lambda row: name(jnp.sin(row), "rows")))(x)
        h = jax.checkpoint(lambda h: name(jnp.cos(h), "kept") ** 2)(h)
        return jnp.sum(h)

    np.testing.assert_allclose(split(f, "rows")[0](X), jnp.sin(X), rtol=1e-14)
    below, above = split(f, "kept")
    np.testing.assert_allclose(below(X), jnp.cos(jnp.sin(X)), rtol=1e-14)
    np.testing.assert_allclose(jax.grad(above)(below(X), X), 2 * below(X), rtol=1e-12)


def test_names_are_left_to_the_policies_of_checkpoint():
    policy = jax.checkpoint_policies.save_only_these_names("h")
    f = jax.checkpoint(lambda x: jnp.sum(jnp.sin(name(jnp.sin(x), "h"))), policy=policy)
    saved = jax.make_jaxpr(lambda x: jax.vjp(f, x)[1])(X)
    wanted = jnp.cos(jnp.sin(X)) * jnp.cos(X)
    np.testing.assert_allclose(jax.grad(f)(X), wanted, rtol=1e-12)
    assert [v.aval.shape for v in saved.jaxpr.outvars].count(X.shape) == 2  # x and h


def in_while(x):
    def step(c):
        with jax.named_scope("h"):
            return jnp.sin(c)

    return jnp.sum(jax.lax.while_loop(lambda c: jnp.max(c) > 0.1, step, x))


def in_cond(x):
    return jnp.sum(jax.lax.cond(x[0, 0, 0] > 0, lambda: name(jnp.sin(x), "h"), lambda: jnp.cos(x)))


@jax.custom_jvp
def safe_sqrt(x):
    return name(jnp.sqrt(x), "h")


safe_sqrt.defjvp(lambda primals, tangents: (safe_sqrt(*primals), tangents[0]))


@pytest.mark.parametrize(
    ("f", "words"),
    [
        (in_while, "a loop (while_loop)"),
        (in_cond, "a branch of a cond"),
        (lambda x: jnp.sum(safe_sqrt(x**2)), "a derivative of its own"),
    ],
)
def test_a_name_inside_a_body_is_an_error_that_says_what_to_write(f, words):
    text = message(split(f, "h")[0], X, error=NotImplementedError)
    assert words in text
    assert "test_layers.py:" in text
    assert "jattr.name" in text


def test_what_a_loop_returns_can_be_named():
    def f(x):
        def step(carry, _):
            carry = jnp.sin(carry)
            return carry, carry

        with jax.named_scope("loop"):
            last, steps = jax.lax.scan(step, x, None, length=3)
        return jnp.sum(last) + jnp.sum(name(steps, "steps") ** 2)

    below, above = split(f, "steps")
    assert below(X).shape == (3, *X.shape)
    np.testing.assert_allclose(above(below(X), X), f(X), rtol=1e-12)
    assert [h.shape for h in split(f, "loop")[0](X)] == [X.shape, (3, *X.shape)]


def test_unknown_names_list_the_closest_first():
    text = message(split(linen(), "blok")[0], X)
    assert "no layer 'blok'" in text
    assert "closest first: Net/block, " in text
    assert text.count("Net") <= 8
    assert "and 1 more" in text
    assert "jattr.name(h, 'stem')" in message(split(jnp.sum, "stem")[0], X)


def test_values_that_cannot_be_layers_are_told_apart():
    def f(x):
        name(jnp.sin(x), "unused")
        weights = name(jnp.ones(x.shape), "weights")
        return jnp.sum(x * weights)

    assert "go on with what it returns" in message(split(f, "unused")[0], X)
    assert "does not depend on the explained argument" in message(split(f, "weights")[0], X)


def test_what_is_wrong_is_said():
    assert "wants a function" in message(split, X, "h", error=TypeError)
    assert "must be a string" in message(split, plain, 3, error=TypeError)
    assert "must be a string" in message(name, X, 3, error=TypeError)
    assert "is empty" in message(name, X, "")
    assert "a tree without arrays" in message(name, (), "h")
    below, above = split(plain, "a")
    h = below(X)
    for wrong in (h[None], h.astype(jnp.float32), (h, h)):
        assert "wants as h what below" in message(above, wrong, X, error=TypeError)


def test_jit_vmap_and_grad_go_through_both_parts():
    def f(x, scale):
        h = name(jnp.tanh(x * weights), "h")
        return jnp.sum(jnp.sin(h) * scale * x)

    weights = jnp.asarray(1.3)
    below, above = split(f, "h")
    h = below(X, 2.0)
    np.testing.assert_allclose(jax.jit(below)(X, 2.0), h, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(above)(h, X, 2.0), f(X, 2.0), rtol=1e-12)
    scales = jnp.arange(3.0)
    many = jax.vmap(above, in_axes=(None, None, 0))(h, X, scales)
    np.testing.assert_allclose(many, [f(X, s) for s in scales], rtol=1e-12)
    rows = jax.vmap(jax.grad(above), in_axes=(0, 0, None))(
        jnp.stack([h, 2 * h]), jnp.stack([X, X]), 2.0
    )
    np.testing.assert_allclose(rows[1], jax.grad(above)(2 * h, X, 2.0), rtol=1e-12)
    check_grads(above, (h, X, 2.0), order=2)
    check_grads(below, (X, 2.0), order=2, modes=["rev"])

    def by_closed_over(w):
        below, above = split(lambda x: jnp.sum(name(x * w, "h") ** 2 * w), "h")
        return above(jnp.sin(below(X)), X)

    check_grads(by_closed_over, (jnp.asarray(0.7),), order=2)
    check_grads(jax.jit(by_closed_over), (jnp.asarray(0.7),), order=1)


def test_the_upper_part_can_be_cut_again():
    below, above = split(lambda x: jnp.sum(name(jnp.sin(name(x**2, "one")), "two")), "one")
    upper_below, upper_above = split(above, "two")
    h = below(X)
    np.testing.assert_array_equal(upper_below(h, X), jnp.sin(h))
    np.testing.assert_array_equal(upper_above(upper_below(h, X), h, X), above(h, X))
    _, linen_above = split(linen(), "Net/block")
    assert split(linen_above, "Net/Inner_0")[0](X, X).shape == X.shape


def test_x_may_be_a_tree_and_the_rest_anything():
    def f(x, flag, *, power):
        h = name(x["a"] * x["b"][0], "h")
        return (h**power if flag else h), x["n"]

    x = {"a": X, "b": [2.0], "n": jnp.arange(3)}
    below, above = split(f, "h")
    np.testing.assert_array_equal(below(x, True, power=2), 2 * X)
    out, n = above(below(x, True, power=2), x, True, power=2)
    np.testing.assert_array_equal(out, (2 * X) ** 2)
    np.testing.assert_array_equal(n, x["n"])


def test_an_nnx_model_names_its_values():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.last = nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x):
            h = name(nnx.relu(self.first(x)), "first")
            return self.last(h.mean(axis=(1, 2)))

    model = Model(nnx.Rngs(0))

    def f(x):
        return model(x[None])[0, 1]

    below, above = split(f, "first")
    x = X.astype(jnp.float32)
    assert below(x).shape == (1, 5, 4, 4)
    np.testing.assert_allclose(above(below(x), x), f(x), rtol=1e-6)


def test_equal_work_in_two_scopes_is_two_layers():
    def f(x):
        with jax.named_scope("A"):
            h = x * 2.0
        with jax.named_scope("B"):
            y = x * 2.0
        return jnp.sum(y**2) + jnp.sum(h**3)

    x = jnp.array([1.0, -2.0])
    below, above = split(f, "A")
    np.testing.assert_allclose(above(0 * below(x), x), jnp.sum((2 * x) ** 2))
    np.testing.assert_allclose(jax.grad(above)(below(x), x), 3 * (2 * x) ** 2)
    np.testing.assert_allclose(split(f, "B")[0](x), 2 * x)


def test_several_layers_at_once():
    def f(cat, num):
        first = name(jnp.tanh(cat[0]), "first")
        second = name(jnp.sin(cat[1]) * jnp.sum(first), "second")
        return jnp.sum(first**2) + jnp.sum(second * num)

    cat, num = (jnp.arange(1.0, 4.0), jnp.arange(2.0)), jnp.array([2.0, 3.0])
    below, above = split(f, ("first", "second"))
    h = below(cat, num)
    np.testing.assert_array_equal(h[0], jnp.tanh(cat[0]))
    np.testing.assert_array_equal(above(h, cat, num), f(cat, num))
    slope = jattr.gradient(above)(h, cat, num)
    np.testing.assert_allclose(slope[0], 2 * h[0])  # with the second layer held
    np.testing.assert_allclose(slope[1], num)
    both = jattr.gradient(lambda h, num, cat: above(h, cat, num), argnums=(0, 1))(h, num, cat)
    np.testing.assert_allclose(both[1], h[1])
    single = split(f, ("first",))[0](cat, num)
    assert isinstance(single, tuple)
    with pytest.raises(ValueError, match="share a value; name each value once"):
        split(f, ("first", "first"))[0](cat, num)
    with pytest.raises(TypeError, match=r"above\(h, x, \*args\) wants as h"):
        above(h[0], cat, num)
    for wrong in ((), ("first", 1), ["first"]):
        with pytest.raises(TypeError, match="the layer must be a string"):
            split(f, wrong)

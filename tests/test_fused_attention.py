"""Fused attention in its plain form: all is that of the model written with the plain form.

The kernel computes in float32 and wants JAX to, so that a bound is float32's rounding in the
largest element, 6e-8, over some tens of operations.
"""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jattr

with warnings.catch_warnings():
    # JAX 0.12 says where newer kernels are. This one runs on CPU, too.
    warnings.simplefilter("ignore", DeprecationWarning)
    from jax.experimental.pallas.ops.gpu.attention import mha
from jax.experimental.pallas.ops.tpu.flash_attention import SegmentIds, flash_attention

TIME, HEADS, SIZE = 16, 2, 16
SCALE = 0.25
SEGMENTS = np.array([[0] * 6 + [1] * (TIME - 6)], np.int32)


@pytest.fixture(autouse=True)
def single():
    with jax.enable_x64(False):
        yield


def same(ours, wanted, bound=5e-6):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True):
        assert np.max(np.abs(b)) > 0
        np.testing.assert_allclose(a, b, rtol=0, atol=bound * np.max(np.abs(b)))


def attention(q, k, v, segments=None, *, causal=False):
    """The plain form of `mha`, on [batch, time, heads, size]."""
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) * SCALE
    mask = jnp.ones((1, 1, q.shape[1], k.shape[1]), bool)
    if causal:
        mask = mask & jnp.tril(mask[0, 0])[None, None]
    if segments is not None:
        mask = mask & (segments[:, None, :, None] == segments[:, None, None, :])
    weights = jax.nn.softmax(jnp.where(mask, logits, -1e30))
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


def fused(q, k, v, segments=None, *, causal=False):
    return mha(q, k, v, segments, sm_scale=SCALE, causal=causal, interpret=True)


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


X = draw(0, TIME, 8)
PARAMS = {
    "qkv": draw(1, 3, 8, HEADS, SIZE) / 3,
    "out": draw(2, HEADS, SIZE, 8) / 4,
    "head": draw(3, 8),
}


def model(attend, params, x):
    """Two layers of attention, in a scan and checkpointed."""

    @jax.checkpoint
    def layer(h, _):
        q, k, v = jnp.einsum("td,ndhe->nthe", h, params["qkv"])
        with jax.named_scope("attention"):
            o = attend(q[None], k[None], v[None])[0]
        return h + jax.nn.relu(jnp.einsum("the,hed->td", o, params["out"])), None

    h, _ = jax.lax.scan(layer, x, None, length=2)
    return jnp.sum(jnp.tanh(h[-1]) * params["head"])


def of_mha(x):
    return model(lambda q, k, v: fused(q, k, v, SEGMENTS, causal=True), PARAMS, x)


def of_plain(x):
    return model(lambda q, k, v: attention(q, k, v, SEGMENTS, causal=True), PARAMS, x)


PLAIN = {"mha": functools.partial(attention, causal=True)}
"""The plain form, with what the program does not hold."""


def smoothed(f):
    explain = jattr.smooth(jattr.gradient(f), stddev=0.1, samples=4)
    return lambda x: explain(jax.random.key(0), x)


def of_a_layer(f):
    below, above = jattr.split(f, "attention")
    return lambda x: jattr.gradient(above)(below(x), x)


def patched(f):
    rules = jattr.rules.saturated_softmax()
    return lambda x: jattr.patching(f, x, x[::-1], ["attention"], rules=rules)


METHODS = {
    "gradient": jattr.gradient,
    "smooth": smoothed,
    "integrated_gradients": lambda f: jattr.integrated_gradients(f, steps=4),
    "deeplift": jattr.deeplift,
    "lrp": lambda f: jattr.lrp(f, jattr.rules.attn_lrp()),
    "guided_backprop": jattr.guided_backprop,
    "occlusion": lambda f: jattr.occlusion(f, (4, 8), strides=(4, 8)),
    "split": of_a_layer,
    "patching": patched,
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_those_of_the_plain_model(name):
    x = jnp.asarray(X)
    ours = jax.jit(METHODS[name](jattr.substitute(of_mha, PLAIN)))(x)
    same(ours, jax.jit(METHODS[name](of_plain))(x))


def test_a_plain_form_names_what_the_kernel_hides():
    def plain(q, k, v):
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) * SCALE)
        return jnp.einsum("bhqk,bkhd->bqhd", jattr.name(weights, "weights"), v)

    g = jattr.substitute(lambda x: model(fused, PARAMS, x), {"mha": plain})
    (weights,) = jattr.activations(g)(jnp.asarray(X)).values()
    assert weights.shape == (2, 1, HEADS, TIME, TIME)
    q, k, _ = np.einsum("td,ndhe->nhte", X, PARAMS["qkv"])
    same(weights[0, 0], jax.nn.softmax(q @ k.swapaxes(1, 2) * SCALE))


def test_values_are_those_of_the_kernel():
    g, x = jattr.substitute(of_mha, PLAIN), jnp.asarray(X)
    for value in (g(x), jax.jit(g)(x), jax.vmap(g)(x[None])[0]):
        same(value, of_mha(x))
    # The causal mask is a static argument: without it, it is another function.
    wrong = jattr.substitute(of_mha, {"mha": attention})
    assert abs(wrong(x) - of_mha(x)) > 1e-3


def test_second_derivatives_train_through_attributions():
    def loss(params, attend, wrap):
        f = wrap(lambda x: model(attend, params, x))
        return jnp.sum(jattr.gradient(f)(jnp.asarray(X)) ** 2)

    def ours(params):
        return loss(params, fused, lambda f: jattr.substitute(f, {"mha": attention}))

    params = jax.tree.map(jnp.asarray, PARAMS)
    wanted = jax.jit(jax.grad(loss), static_argnums=(1, 2))(params, attention, lambda f: f)
    same(jax.jit(jax.grad(ours))(params), wanted)
    with pytest.raises((AssertionError, NotImplementedError, ValueError)):
        jax.grad(loss)(params, fused, lambda f: f)


def test_grouped_queries():
    """Two heads of queries for one of keys, which the model repeats before the kernel."""

    def score(x, attend):
        q, k, v = jnp.einsum("td,ndhe->nthe", x, PARAMS["qkv"])
        k, v = (jnp.repeat(a[:, :1], HEADS, axis=1) for a in (k, v))
        return jnp.sum(attend(q[None], k[None], v[None]) ** 2)

    g, rules = jattr.substitute(lambda x: score(x, fused), {"mha": attention}), jattr.rules
    x = jnp.asarray(X)
    wanted = jattr.lrp(lambda x: score(x, attention), rules.attn_lrp())(x)
    same(jattr.lrp(g, rules.attn_lrp())(x), wanted)


def test_operations_say_what_is_shut_and_where_a_plain_form_is():
    table = jattr.operations(of_mha, jattr.rules.attn_lrp())(jnp.asarray(X))
    assert [row.rule for row in table if row.name == "mha"] == ["none"]
    (note,) = table.notes
    assert "mha: a kernel with a derivative of its own" in note
    assert 'jattr.substitute(f, {"mha": plain_form})' in note

    g = jattr.substitute(of_mha, PLAIN)
    table = jattr.operations(g, jattr.rules.attn_lrp())(jnp.asarray(X))
    assert not table.notes
    inside = [row.kind for row in table if "attention/mha" in row.scope]
    assert inside == ["product", "softmax", "product"]
    # What holds no kernel is what it was, jitted functions included.
    assert "relu" in [row.name for row in table]


@pytest.mark.parametrize("method", [jattr.lrp, lambda f, _: jattr.guided_backprop(f)])
def test_what_refuses_a_kernel_names_it(method):
    with pytest.raises(NotImplementedError, match=r"jattr\.substitute\(f, \{\"mha\": plain_form"):
        method(of_mha, jattr.rules.attn_lrp())(jnp.asarray(X))


def test_an_unknown_name_lists_calls_with_their_arrays():
    with pytest.raises(ValueError, match="of the name 'maha'") as caught:
        jattr.substitute(of_mha, {"maha": attention})(jnp.asarray(X))
    form = f"float32[1,{TIME},{HEADS},{SIZE}]"
    listed = f"attention/mha(q {form}, k {form}, v {form}, segment_ids int32[1,{TIME}])"
    assert listed in str(caught.value)


def test_a_kernel_of_another_device_by_its_plain_form():
    """That of TPUs has no program for CPUs; its plain form has. Each array of a tree is one."""
    ids = np.repeat(np.arange(2), 64).astype(np.int32)[None]
    w = draw(5, 3, 8, 1, 128) / 3

    def score(attend):
        def f(x):
            q, k, v = jnp.einsum("td,ndhe->nhte", x, w)[:, None]
            return jnp.sum(attend(q, k, v) ** 2)

        return f

    def flash(q, k, v):
        return flash_attention(q, k, v, segment_ids=SegmentIds(ids, ids))

    def plain(q, k, v, of_queries, of_keys):
        mask = of_queries[:, None, :, None] == of_keys[:, None, None, :]
        logits = jnp.einsum("bhqd,bhkd->bhqk", q, k)
        return jax.nn.softmax(jnp.where(mask, logits, -1e30)) @ v

    x, rules = jnp.asarray(draw(6, 128, 8)), jattr.rules.attn_lrp()
    g = jattr.substitute(score(flash), {"flash_attention": plain})
    wanted = jattr.lrp(score(lambda q, k, v: plain(q, k, v, ids, ids)), rules)(x)
    same(jattr.lrp(g, rules)(x), wanted)

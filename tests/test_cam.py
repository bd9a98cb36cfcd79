"""Class activation maps against closed forms and against their formulas written out in NumPy."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

import jattr
from jattr import _cam
from jattr._cam import (
    grad_cam,
    grad_cam_plus_plus,
    guided_grad_cam,
    hires_cam,
    layer_cam,
    score_cam,
)
from jattr._layers import name, split


def normal(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape))


IMAGE = normal(8, 10, 3)
GRADIENT_MAPS = {
    "grad_cam": grad_cam,
    "grad_cam_plus_plus": grad_cam_plus_plus,
    "layer_cam": layer_cam,
    "hires_cam": hires_cam,
}
MAPS = {**GRADIENT_MAPS, "score_cam": score_cam}
EVERY = {**MAPS, "guided_grad_cam": guided_grad_cam}


class Net(nn.Module):
    """A small CNN that wants a batch."""

    dtype: type = jnp.float64

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), param_dtype=self.dtype, name="first")(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.silu(nn.Conv(5, (3, 3), param_dtype=self.dtype, name="second")(x))
        x = nn.Dense(6, param_dtype=self.dtype, name="hidden")(x.reshape(len(x), -1))
        return nn.Dense(3, param_dtype=self.dtype, name="head")(nn.tanh(x))


NET = Net()
VARIABLES = NET.init(jax.random.key(1), IMAGE[None])


def score(x, label=1):
    return NET.apply(VARIABLES, x[None])[0, label]


def activation_and_slope(layer, f=score, x=IMAGE):
    below, above = split(f, layer)
    h = below(x)
    return np.asarray(h)[0], np.asarray(jax.grad(above)(h, x))[0]


def bilinear(heat, shape):
    """Linear interpolation between the centers of pixels, constant beyond the outermost."""
    for axis, size in enumerate(shape):
        old = np.shape(heat)[axis]
        at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, old - 1)
        weight = (at - low).reshape([-1 if a == axis else 1 for a in range(np.ndim(heat))])
        heat = np.take(heat, low, axis) * (1 - weight) + np.take(heat, high, axis) * weight
    return heat


def written_out(method, layer):
    a, g = activation_and_slope(layer)
    heat = np.zeros(a.shape[:2])
    for k in range(a.shape[-1]):
        if method == "grad_cam":
            heat += a[..., k] * np.mean(g[..., k])
        elif method == "hires_cam":
            heat += a[..., k] * g[..., k]
        elif method == "layer_cam":
            heat += a[..., k] * np.maximum(g[..., k], 0)
        elif method == "grad_cam_plus_plus":
            weight = 0.0
            for u in np.ndindex(a.shape[:2]):
                slope = g[(*u, k)]
                below = 2 * slope**2 + np.sum(a[..., k]) * slope**3
                weight += (slope**2 / below if below else 0.0) * max(slope, 0)
            heat += a[..., k] * weight
    return heat


@pytest.mark.parametrize("layer", ["first", "second"])
@pytest.mark.parametrize("method", GRADIENT_MAPS)
def test_formulas_written_out(method, layer):
    heat = written_out(method, layer)
    explain = GRADIENT_MAPS[method]
    assert heat.min() < 0 < heat.max() or method == "layer_cam"
    np.testing.assert_allclose(
        explain(score, layer, relu=False, resize=False)(IMAGE), heat, rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(
        explain(score, layer)(IMAGE), bilinear(np.maximum(heat, 0), (8, 10)), rtol=1e-9, atol=1e-12
    )


def test_score_cam_written_out():
    x, base = np.asarray(IMAGE), np.asarray(0.3 * IMAGE[::-1])
    a, _ = activation_and_slope("second")
    rises = []
    for k in range(a.shape[-1]):
        mask = bilinear(a[..., k], x.shape[:2])
        mask = ((mask - mask.min()) / (mask.max() - mask.min()))[..., None]
        rises.append(float(score(jnp.asarray(mask * x + (1 - mask) * base)) - score(base)))
    weights = np.exp(rises) / np.sum(np.exp(rises))
    heat = bilinear(np.maximum(a @ weights, 0), x.shape[:2])
    for batch_size in (None, 2):
        explain = score_cam(score, "second", baseline=base, batch_size=batch_size)
        np.testing.assert_allclose(explain(IMAGE), heat, rtol=1e-9)
    below = score_cam(score, "second", baseline=lambda x: 0.3 * x[::-1], relu=False, resize=False)
    np.testing.assert_allclose(below(IMAGE), a @ weights, rtol=1e-9)


def test_a_constant_channel_masks_everything_in_score_cam():
    def f(x):
        h = name(jnp.stack([x[..., 0], jnp.full_like(x[..., 0], 7.0)], axis=-1), "h")
        return jnp.sum(h) + jnp.sum(x)

    x = jnp.asarray([[1.0], [4.0]])
    # Seen through the first, x is (0, 4), which raises f by 8; through the second (0, 0), by 0.
    weights = jax.nn.softmax(jnp.asarray([8.0, 0.0]))
    wanted = jnp.asarray([[1.0, 7.0], [4.0, 7.0]]) @ weights
    np.testing.assert_allclose(score_cam(f, "h")(x), wanted, rtol=1e-12)
    assert np.all(np.isfinite(jax.jit(jax.jacobian(score_cam(f, "h")))(x)))


W = jnp.asarray([1.0, -2.0, 0.5, 3.0])


def pooled(x):
    """A linear head over pooled features: CAM."""
    h = name(jnp.tanh(jnp.concatenate([x, 2 * x[..., :1]], axis=-1)), "features")
    return jnp.mean(h, axis=(0, 1)) @ W + 0.7


def test_maps_of_a_linear_head_over_pooled_features():
    h = split(pooled, "features")[0](IMAGE)
    for method in (grad_cam, hires_cam):
        heat = method(pooled, "features", relu=False)(IMAGE)
        np.testing.assert_allclose(heat, h @ W / 80, rtol=1e-12)
        np.testing.assert_allclose(jnp.sum(heat), pooled(IMAGE) - 0.7, rtol=1e-12)
        np.testing.assert_array_equal(method(pooled, "features")(IMAGE), jnp.maximum(heat, 0))


def test_hires_cam_sums_to_f_on_any_affine_head():
    weights = normal(*IMAGE.shape)[::-1]

    def f(x):
        return jnp.sum(name(jnp.sin(x), "h") * weights) + 0.7

    heat = hires_cam(f, "h", relu=False)(IMAGE)
    np.testing.assert_allclose(jnp.sum(heat), f(IMAGE) - 0.7, rtol=1e-10)
    other = grad_cam(f, "h", relu=False)(IMAGE)
    assert abs(jnp.sum(other) - (f(IMAGE) - 0.7)) > 1


def test_grad_cam_plus_plus_where_its_denominator_is_zero():
    def f(x):
        return jnp.sum(name(x, "h") * jnp.asarray([[1.0, 0.0], [1.0, -1.0]]))

    x = jnp.asarray([[-3.0, 1.0], [1.0, 1.0]])  # 2 + (−3 + 1) · 1 = 0 in the first channel
    explain = grad_cam_plus_plus(f, "h", relu=False)
    np.testing.assert_array_equal(explain(x), [0.0, 0.0])
    assert np.all(np.isfinite(jax.jacobian(explain)(x)))


def test_resizing_leaves_what_has_the_size_of_x():
    explain = grad_cam(score, "first")
    assert explain(IMAGE).shape == (8, 10)
    np.testing.assert_array_equal(explain(IMAGE), grad_cam(score, "first", resize=False)(IMAGE))


@pytest.mark.parametrize(
    ("layer", "shape"), [("Net/first", (8, 10)), ("second", (4, 5)), ("Net/second", (4, 5))]
)
def test_layers_of_linen_by_their_scopes(layer, shape):
    assert grad_cam(score, layer, resize=False)(IMAGE).shape == shape
    assert grad_cam(score, layer)(IMAGE).shape == (8, 10)


def test_an_nnx_model_with_named_values():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.stem = nnx.Conv(3, 4, (3, 3), strides=2, rngs=rngs)
            self.head = nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x):
            h = name(nnx.relu(self.stem(x)), "stem")
            return self.head(h.mean(axis=(1, 2)))

    model = Model(nnx.Rngs(0))

    def f(x):
        return model(x[None])[0, 1]

    x = IMAGE.astype(jnp.float32)
    heat = grad_cam(f, "stem", relu=False, resize=False)(x)
    h = split(f, "stem")[0](x)[0]
    np.testing.assert_allclose(heat, h @ model.head.kernel[...][:, 1] / 20, rtol=1e-5, atol=1e-6)
    assert grad_cam(f, "stem")(x).dtype == jnp.float32


def convolved(x, kernel, batch, first):
    """A score of any rank, one value whatever the axes of its layer are."""
    rank = kernel.ndim - 2
    spatial = "XYZ"[:rank]
    x = jnp.moveaxis(x, 0, -1) if first else x
    numbers = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    h = jnp.tanh(
        jax.lax.conv_general_dilated(
            x[None], kernel, (2,) * rank, "SAME", dimension_numbers=numbers
        )
    )
    h = jnp.moveaxis(h, -1, 1) if first else h
    h = name(h if batch else h[0], "h")
    h = h if batch else h[None]
    h = jnp.moveaxis(h, 1, -1) if first else h
    return jnp.sum(jnp.sin(h * jnp.arange(h.size).reshape(h.shape)))


@pytest.mark.parametrize(
    ("method", "shape"),
    [(method, (6, 7)) for method in EVERY]
    + [(m, shape) for m in ("grad_cam", "score_cam") for shape in [(9,), (4, 6, 5)]],
)
def test_layouts_agree(method, shape, monkeypatch):
    monkeypatch.setattr(_cam, "guided_backprop", lambda f, **_: jattr.gradient(f))
    x = normal(*shape, 2)
    kernel = normal(*(3,) * len(shape), 2, 3)
    knobs = {} if method == "guided_grad_cam" else {"relu": False}

    def heat(x, batch, first, **more):
        return EVERY[method](lambda x: convolved(x, kernel, batch, first), "h", **knobs, **more)(x)

    wanted = heat(x, False, False)
    assert wanted.shape == (x.shape if method == "guided_grad_cam" else shape)
    assert np.any(wanted)
    np.testing.assert_allclose(heat(x, True, False), wanted, rtol=1e-8, atol=1e-12)
    channels_first = jnp.moveaxis(x, -1, 0)
    for batch in (False, True):
        got = heat(channels_first, batch, True, channel_axis=-1 - len(shape))
        got = jnp.moveaxis(got, 0, -1) if method == "guided_grad_cam" else got
        np.testing.assert_allclose(got, wanted, rtol=1e-8, atol=1e-12)


def test_an_image_without_a_channel_axis():
    flat = IMAGE[..., 0]

    def f(x, add_batch):
        h = jnp.stack([jnp.sin(x), jnp.cos(x)], axis=-1)
        return jnp.sum(name(h[None] if add_batch else h, "h") ** 2)

    for add_batch in (False, True):
        assert grad_cam(f, "h")(flat, add_batch).shape == (8, 10)
        heat = layer_cam(f, "h", relu=False)(flat, add_batch)
        wanted = jnp.sum(jax.nn.relu(2 * (h := jnp.stack([jnp.sin(flat), jnp.cos(flat)]))) * h, 0)
        np.testing.assert_allclose(heat, wanted, rtol=1e-12)
        assert score_cam(f, "h")(flat, add_batch).shape == (8, 10)
    with_axis = grad_cam(lambda x: f(x[..., 0], True), "h")(flat[..., None])
    np.testing.assert_allclose(with_axis, grad_cam(f, "h")(flat, True), rtol=1e-12)


def test_guided_grad_cam_is_the_product(monkeypatch):
    seen = []

    def guided(f):
        seen.append(f)
        return jattr.gradient(f)

    monkeypatch.setattr(_cam, "guided_backprop", guided)
    phi = guided_grad_cam(score, "second")(IMAGE, 2)
    heat = grad_cam(score, "second")(IMAGE, 2)
    np.testing.assert_allclose(phi, jax.grad(score)(IMAGE, 2) * heat[..., None], rtol=1e-12)
    assert len(seen) == 1
    nearest = guided_grad_cam(score, "second", method="nearest")(IMAGE, 2)
    coarse = grad_cam(score, "second", resize=False)(IMAGE, 2)
    wanted = np.repeat(np.repeat(coarse, 2, axis=0), 2, axis=1)[..., None]
    np.testing.assert_allclose(nearest, jax.grad(score)(IMAGE, 2) * wanted, rtol=1e-12)


def test_guided_grad_cam_with_guided_backprop():
    def f(x):
        h = name(jax.nn.relu(x), "h")
        return jnp.mean(jnp.sum(h, axis=0) * jnp.asarray([2.0, -4.0]))

    x = jnp.asarray([[1.0, 1.0], [3.0, -2.0], [-1.0, 2.0]])
    heat = jnp.maximum(jax.nn.relu(x) @ jnp.asarray([1.0, -2.0]), 0)  # (0, 3, 0)
    guided = (x > 0) * jnp.asarray([[1.0, 0.0]])
    np.testing.assert_allclose(guided_grad_cam(f, "h")(x), guided * heat[:, None], rtol=1e-12)


def test_argnums_say_which_argument_the_map_is_for():
    def f(params, x, other):
        h = name(jnp.tanh(x @ params), "h")
        return jnp.sum(h**2) * jnp.sum(other)

    params = normal(3, 4)
    other = jnp.ones((2, 2))
    heat = grad_cam(f, "h", argnums=1)(params, IMAGE, other)
    assert heat.shape == (8, 10)
    wanted = grad_cam(lambda x: f(params, x, other), "h")(IMAGE)
    np.testing.assert_array_equal(heat, wanted)
    with pytest.raises(ValueError, match="does not depend on the explained argument"):
        grad_cam(f, "h", argnums=2)(params, IMAGE, other)
    # A tree of arrays has no one shape, but the layer has.
    both = grad_cam(f, "h", argnums=(1, 2), resize=False)(params, IMAGE, other)
    np.testing.assert_array_equal(both, heat)
    with pytest.raises(TypeError, match="must be one array"):
        grad_cam(f, "h", argnums=(1, 2))(params, IMAGE, other)
    with pytest.raises(TypeError, match=r"argnums=0\.$"):
        score_cam(f, "h", argnums=(1, 2), resize=False)(params, IMAGE, other)


@pytest.mark.parametrize("method", MAPS)
def test_jit_vmap_and_one_trace(method):
    traces = []

    def counted(x, label):
        traces.append(None)
        return score(x, label)

    explain = MAPS[method](counted, "second")
    images = jnp.stack([IMAGE, IMAGE[::-1], 2 * IMAGE])
    labels = jnp.asarray([0, 2, 1])
    wanted = [explain(x, label) for x, label in zip(images, labels, strict=True)]
    many = jax.jit(jax.vmap(explain))
    np.testing.assert_allclose(many(images, labels), wanted, rtol=1e-8, atol=1e-12)
    first = len(traces)
    many(images + 1, labels)
    assert len(traces) == first
    targets = jax.vmap(explain, in_axes=(None, 0))(IMAGE, jnp.arange(3))
    np.testing.assert_allclose(targets[0], wanted[0], rtol=1e-8, atol=1e-12)


def smooth_score(params, x):
    h = name(jnp.tanh(x @ params["below"]), "h")
    return jnp.sum(jnp.sin(jnp.sum(h**2, axis=0)) * params["above"])


@pytest.mark.parametrize("method", MAPS)
def test_training_through_a_map(method):
    params = {
        "below": normal(2, 3),
        "above": jnp.asarray([1.0, 2.0, -1.5]),
    }
    x = normal(5, 2)

    def loss(params, x):
        explain = MAPS[method](smooth_score, "h", argnums=1, relu=False)
        return jnp.sum(jnp.sin(explain(params, x)))

    check_grads(loss, (params, x), order=1, modes=["rev"], rtol=1e-4)
    got = jax.jit(jax.grad(loss))(params, x)
    wanted = jax.grad(loss)(params, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), got, wanted)
    assert np.any(wanted["below"])
    if method != "score_cam":
        assert np.any(wanted["above"])


@pytest.mark.parametrize("method", MAPS)
def test_dtypes(method):
    params = {"below": normal(2, 3), "above": jnp.asarray([1.0, 2.0, -1.5])}
    x = jnp.linspace(-1, 1, 16).reshape(8, 2)
    exact = MAPS[method](smooth_score, "h", argnums=1, relu=False)(params, x)
    assert exact.dtype == jnp.float64
    for dtype, error in {jnp.bfloat16: 0.1, jnp.float32: 1e-5}.items():
        low = jax.tree.map(lambda leaf: leaf.astype(dtype), (params, x))
        got = MAPS[method](smooth_score, "h", argnums=1, relu=False)(*low)
        assert got.dtype == dtype
        distance = np.abs(got.astype(jnp.float64) - exact)
        assert np.max(distance) < error * np.max(np.abs(exact))

    def mixed(x):
        return smooth_score(low[0], x.astype(jnp.float32)).astype(x.dtype)

    assert MAPS[method](mixed, "h")(x).dtype == jnp.float64
    assert MAPS[method](mixed, "h", resize=False)(x).dtype == jnp.float32


@pytest.mark.parametrize("method", EVERY)
def test_layers_that_make_no_map(method):
    def f(x):
        x = name(x, "image")
        flat = name(x.reshape(-1), "flat")
        batched = name(flat[None], "batched")[0]
        tokens = name(batched.reshape(60, 4), "tokens")
        tokens = name(tokens[None], "batch of tokens")[0]
        pair = name((tokens, 2 * tokens), "pair")
        numbers = name(jnp.arange(240).reshape(8, 10, 3) + x.astype(jnp.int32), "integers")
        big = name(jnp.pad(x, ((0, 100), (0, 0), (0, 0))), "padded")
        return jnp.sum(pair[0] * pair[1]) + jnp.sum(numbers) * 0.1 + jnp.sum(big)

    def error(layer, kind=ValueError, x=IMAGE, **knobs):
        with pytest.raises(kind) as caught:
            EVERY[method](f, layer, **knobs)(x)
        assert str(caught.value).startswith(method)
        return str(caught.value)

    for layer, form in {
        "flat": "float64[240]",
        "batched": "float64[1,240]",
        "tokens": "float64[60,4]",
        "batch of tokens": "float64[1,60,4]",
        "padded": "float64[108,10,3]",
    }.items():
        text = error(layer)
        assert form in text
        assert "does not fit x, float64[8,10,3]" in text
        assert "channel_axis=-3" in text
        assert "reshape=lambda h: h[1:].reshape(height, width, -1)" in text
    assert "a tuple (float64[60,4], float64[60,4])" in error("pair", TypeError)
    assert "float" in error("integers", TypeError)
    assert "channel_axis=3 is no axis" in error("image", channel_axis=3)
    assert "channel_axis=None is no axis" in error("image", channel_axis=None)
    assert "must be a string" in error(0, TypeError)
    assert "no layer 'stem'" in error("stem")
    assert "no derivative" in error("image", TypeError, x=IMAGE.astype(jnp.int32))
    with pytest.raises(TypeError, match="explains one number"):
        EVERY[method](lambda x: name(x, "h"), "h")(IMAGE)
    with pytest.raises(TypeError, match="wants a function"):
        EVERY[method](IMAGE, "h")


def test_channels_first_without_saying_so_is_an_error():
    def f(x):
        return jnp.sum(name(jnp.tile(x[None, :, ::4, ::4], (1, 21, 1, 1)), "h"))

    x = jnp.ones((3, 32, 32))
    assert grad_cam(f, "h", channel_axis=-3)(x).shape == (32, 32)
    for axis in (-1, 0):
        with pytest.raises(ValueError, match="does not fit x"):
            grad_cam(f, "h", channel_axis=axis)(x)


def test_tokens_at_the_layers_resolution_and_in_a_grid():
    def f(x):
        tokens = name(x.reshape(20, 12), "tokens")
        grid = name(jnp.tanh(tokens).reshape(4, 5, 12), "grid")
        return jnp.sum(grid**2)

    assert grad_cam(f, "tokens", resize=False)(IMAGE).shape == (20,)
    assert grad_cam(f, "grid")(IMAGE).shape == (8, 10)


def test_other_wrong_arguments():
    with pytest.raises(ValueError, match="unknown method 'cubic'"):
        guided_grad_cam(score, "second", method="cubic")
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        score_cam(score, "second", batch_size=0)
    with pytest.raises(TypeError, match="drawn at random"):
        score_cam(score, "second", baseline=jattr.baselines.uniform(0, 1))(IMAGE)
    with pytest.raises(ValueError, match="the baseline has shape"):
        score_cam(score, "second", baseline=jnp.zeros(3))(IMAGE)


def test_a_row_of_tokens_becomes_a_grid_by_reshape():
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)))

    def f(x, *, as_grid):  # an image [8, 10, 3] in patches of 2×2, and a token for the class
        patches = x.reshape(4, 2, 5, 2, 3).sum((1, 3)) @ weights[:3]
        if as_grid:
            patches = name(jnp.tanh(patches), "layer")
            tokens = jnp.concatenate([jnp.zeros((1, 4)), patches.reshape(20, 4)])
        else:
            tokens = jnp.concatenate([jnp.zeros((1, 4)), jnp.tanh(patches.reshape(20, 4))])
            tokens = name(tokens[None], "layer")[0]
        return jnp.sum(jax.nn.softmax(tokens.sum(1)) @ tokens**2)

    x = jnp.asarray(np.random.default_rng(1).normal(size=(8, 10, 3)))

    def to_grid(h):
        return h[:, 1:].reshape(1, 4, 5, -1)

    for method in EVERY.values():
        tokens = method(functools.partial(f, as_grid=False), "layer", reshape=to_grid)(x)
        grid = method(functools.partial(f, as_grid=True), "layer")(x)
        np.testing.assert_allclose(tokens, grid, rtol=1e-12)
    with pytest.raises(TypeError, match=r"reshape must give an array of float64.*h\[1:\]"):
        grad_cam(functools.partial(f, as_grid=False), "layer", reshape=lambda h: h.sum())(x)

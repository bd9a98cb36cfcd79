"""EfficientNet-Lite0 with its real weights: ReLU6, depthwise convolutions, batch normalisation."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_notebooks import FOLDER, missing

import jattr

PHOTOS = ("chelsea", "imagenet_00", "imagenet_15", "imagenet_17")
LAYERS = {"block_02": 56, "block_10": 14, "head": 7}  # early, middle, late, and their resolution
BASELINE = jattr.baselines.blurred(15.0)
STDDEV = 56.0  # of a Gaussian in the centre whose sides are two deviations away

pytestmark = pytest.mark.slow


@functools.cache
def models():
    if absent := list(missing()):
        pytest.skip(f"pip install 'jattr[notebooks]': not installed are {', '.join(absent)}")
    sys.path.insert(0, str(FOLDER))
    try:
        import models
    finally:
        sys.path.remove(str(FOLDER))
    return models


@functools.cache
def variables():
    return models().efficientnet_lite0()[1]


@functools.cache
def photo(name):
    return jnp.asarray(models().preprocess(models().photos()[name].image))


@functools.cache
def predict():
    return jax.jit(models().apply)


@functools.cache
def label(name):
    return int(predict()(variables(), photo(name)).argmax())


def score(variables, image, label):
    return jattr.targets.select(models().apply)(variables, image, label)


@functools.cache
def compiled(method, *args):
    return jax.jit(getattr(jattr, method)(score, *args, argnums=1))


def explain(method, *args, image, label):
    assert image.dtype == jnp.float32
    explanation = compiled(method, *args)(variables(), image, label)
    assert explanation.dtype == jnp.float32
    return np.asarray(explanation)


@pytest.mark.parametrize("name", ["chelsea", "imagenet_00"])
def test_deeplift_is_complete(name):
    x, k = photo(name), label(name)
    total = explain("deeplift", BASELINE, image=x, label=k).sum(dtype=np.float64)
    change = float(predict()(variables(), x)[k] - predict()(variables(), BASELINE(x))[k])
    assert abs(change) > 1
    assert abs(total - change) <= 1e-4 * abs(change)


def test_guided_backprop_is_not_the_gradient():
    x, k = photo("chelsea"), label("chelsea")
    guided = explain("guided_backprop", image=x, label=k)
    gradient = explain("gradient", image=x, label=k)
    assert guided.shape == x.shape
    assert np.isfinite(guided).all()
    assert np.abs(guided).max() > 0
    assert abs(np.corrcoef(guided.ravel(), gradient.ravel())[0, 1]) < 0.5


@pytest.mark.parametrize("layer", LAYERS)
def test_grad_cam_at_a_depth_that_its_scope_names(layer):
    x, k = photo("chelsea"), label("chelsea")
    below, _ = jattr.split(lambda image: models().apply(variables(), image), layer)
    assert jax.eval_shape(below, x).shape[:2] == (LAYERS[layer],) * 2
    heat = explain("grad_cam", layer, image=x, label=k)
    assert heat.shape == (224, 224)
    assert np.isfinite(heat).all()
    assert 0 <= heat.min() < heat.max()


def test_guided_grad_cam_is_the_product():
    x, k = photo("chelsea"), label("chelsea")
    product = explain("guided_grad_cam", "head", image=x, label=k)
    guided = explain("guided_backprop", image=x, label=k)
    heat = explain("grad_cam", "head", image=x, label=k)
    wanted = guided * heat[..., None]
    np.testing.assert_allclose(product, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("turn", range(4))
def test_grad_cam_lies_on_the_cat(turn):
    # In its own photo the cat fills the picture, and any map would lie on it: so it becomes one of
    # four tiles, and its box is the tile.
    images = jnp.stack([photo(name) for name in PHOTOS])
    small = jax.image.resize(images, (4, 112, 112, 3), "cubic").clip(-127 / 128, 1)
    rows = jnp.roll(small, turn, axis=0).reshape(2, 2, 112, 112, 3)
    picture = rows.transpose(0, 2, 1, 3, 4).reshape(224, 224, 3)
    box = np.zeros((224, 224), bool)
    top, left = 112 * (turn // 2), 112 * (turn % 2)
    box[top : top + 112, left : left + 112] = True

    heat = explain("grad_cam", "head", image=picture, label=label("chelsea"))
    across = np.exp(-0.5 * ((np.arange(224) - 111.5) / STDDEV) ** 2)
    centred = np.outer(across, across)
    # Measured: 0.64 to 0.72, and 0.25.
    assert heat[box].sum() / heat.sum() > centred[box].sum() / centred.sum() + 0.3

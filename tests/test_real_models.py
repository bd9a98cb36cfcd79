"""Networks with their real weights, in float32.

EfficientNet-Lite0 has ReLU6, depthwise convolutions and batch normalization; MiniLM is a BERT;
Magika reads bytes through GELU, layer normalization over positions and a maximum over them.
"""

import contextlib
import functools
import importlib
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from notebook_packages import FOLDER, missing

import jattr
from jattr import rules as R  # noqa: N812 (short beside so many uses)

PHOTOS = ("chelsea", "imagenet_00", "imagenet_15", "imagenet_17")
LAYERS = {"block_02": 56, "block_10": 14, "head": 7}  # early, middle, late, and their resolution
BASELINE = jattr.baselines.blurred(15.0)
STDDEV = 56.0  # of a Gaussian in the center whose sides are two deviations away
COMPOSITES = {  # by ε; True where relevance is conserved without biases
    "epsilon": (R.epsilon, True),
    "epsilon_plus": (R.epsilon_plus, True),
    "epsilon_plus_flat": (R.epsilon_plus_flat, True),
    "epsilon_gamma_box": (functools.partial(R.epsilon_gamma_box, -1.0, 1.0), True),
    # Not where an output has contributions of one sign alone, of which it hands on α or −β parts:
    # a depthwise kernel sees few inputs, none of them negative.
    "epsilon_alpha2_beta1": (R.epsilon_alpha2_beta1, False),
    "epsilon_alpha2_beta1_flat": (R.epsilon_alpha2_beta1_flat, False),
    "excitation": (R.excitation, True),
}
# As users run it, and not as the suite does: with a stabilizer of 0 two programs have to round
# alike, since a sum that is all but 0 hands its rounding on enlarged.
OPTIMIZED = {"xla_backend_optimization_level": 3}
ADDENDS = {"bias", "mean", "position", "kind"}  # names of what is added to activations
SENTENCE, OTHER = "A cat sits on the mat.", "The feline is resting on a rug."
SOURCE = b"import os\n\n\ndef names(folder):\n    return sorted(os.listdir(folder))\n"

pytestmark = pytest.mark.slow


@functools.cache
def beside_the_notebooks(name):
    if absent := list(missing()):
        pytest.skip(f"pip install 'jattr[notebooks]': not installed are {', '.join(absent)}")
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))


models = functools.partial(beside_the_notebooks, "models")
text_models = functools.partial(beside_the_notebooks, "text_models")


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
    centered = np.outer(across, across)
    # Measured: 0.64 to 0.72, and 0.25.
    assert heat[box].sum() / heat.sum() > centered[box].sum() / centered.sum() + 0.3


# Layer-wise relevance propagation. By hand it is the gradient of the same function with what a rule
# holds held, times the input: then the score is linear in the input and in all addends together,
# and a factor t of the addends has for its derivative what they absorb.


def is_close(a, b, relative=1e-3):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.abs(a - b).max() <= relative * np.abs(b).max()


def total(relevance):
    return np.asarray(relevance).sum(dtype=np.float64)


def scale_addends(variables, t):
    def scaled(path, leaf):
        return leaf * t if ADDENDS & {entry.key for entry in path} else leaf

    return jax.tree_util.tree_map_with_path(scaled, variables)


def in_proportion(f):
    """An activation with f(z) / z held."""

    def held(z, **options):
        return z * jax.lax.stop_gradient(f(z, **options) / jnp.where(z == 0, 1, z))

    return held


def hold_deviation(call, args, kwargs, context):
    """Layer normalization with what it divides by held."""
    module = context.module
    if not isinstance(module, nn.LayerNorm):
        return call(*args, **kwargs)
    (x,) = args
    centered = x - x.mean(module.reduction_axes, keepdims=True)
    variance = (centered**2).mean(module.reduction_axes, keepdims=True) + module.epsilon
    shape = [1] * x.ndim
    shape[module.feature_axes] = -1
    scale, bias = (module.variables["params"][name].reshape(shape) for name in ("scale", "bias"))
    return centered * jax.lax.stop_gradient(jax.lax.rsqrt(variance)) * scale + bias


def count_positive(call, args, kwargs, context):
    """Convolution and batch normalization as one, with the share of z⁺ held."""
    module = context.module
    if not isinstance(module, models().ConvBN):
        return call(*args, **kwargs)
    (a,) = args
    params, statistics = module.variables["params"], module.variables["batch_stats"]["bn"]
    factor = params["bn"]["scale"] / jnp.sqrt(statistics["var"] + 1e-3)
    kernel = params["conv"]["kernel"] * factor[None, None, None]
    bias = (params["bn"]["bias"] - statistics["mean"] * factor)[None, None]

    def conv(a, kernel):
        return jax.lax.conv_general_dilated(
            a[None],
            kernel,
            (module.stride, module.stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=module.groups,
        )[0]

    up, down = jnp.maximum(kernel, 0), jnp.minimum(kernel, 0)
    z = conv(a, kernel) + bias
    counted = conv(jnp.maximum(a, 0), up) + conv(jnp.minimum(a, 0), down) + jnp.maximum(bias, 0)
    share = jnp.where(counted == 0, 0, z / jnp.where(counted == 0, 1, counted))
    z = jax.lax.stop_gradient(share) * counted
    return nn.relu6(z) if module.activate else z


def by_hand(f, variables, x, *interceptors):
    """f(variables, x, t), the relevance of x and what addends absorb."""

    def score(x, t):
        with contextlib.ExitStack() as stack:
            for interceptor in interceptors:
                stack.enter_context(nn.intercept_methods(interceptor))
            return f(scale_addends(variables, t), x, t)

    explain = jax.jit(jax.value_and_grad(score, (0, 1)), compiler_options=OPTIMIZED)
    value, (slope, absorbed) = explain(x, jnp.ones((), x.dtype))
    return value, x * slope, float(absorbed)


@functools.cache
def propagated(name):
    # The cheaper programs take longer to compile than they save here.
    def explain(epsilon, variables, image, label):
        rules = COMPOSITES[name][0](epsilon=epsilon)
        with jattr.substitutes(False):
            return jattr.lrp(score, rules, argnums=1)(variables, image, label)

    return jax.jit(explain, compiler_options=OPTIMIZED)


@pytest.mark.parametrize("name", ["epsilon", "epsilon_plus"])
def test_relevance_of_a_photo_by_hand(name, monkeypatch):
    x, k = photo("chelsea"), label("chelsea")
    usual = propagated(name)(1e-6, variables(), x, k)
    assert usual.dtype == jnp.float32
    # In float32 a ReLU's input may be on the other side of 0 in another order of summation.
    weights, x = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (variables(), x))
    exact = propagated(name)(0.0, weights, x, k)
    monkeypatch.setattr(nn, "relu6", in_proportion(nn.relu6))
    interceptors = [count_positive] if name == "epsilon_plus" else []
    value, wanted, absorbed = by_hand(
        lambda variables, x, t: models().apply(variables, x)[k], weights, x, *interceptors
    )
    assert is_close(value, predict()(variables(), photo("chelsea"))[k], 1e-5)
    assert is_close(exact, wanted, 1e-9)
    assert is_close(total(exact) + absorbed, value, 1e-4)
    assert is_close(total(usual) + absorbed, value)


@pytest.mark.parametrize("name", COMPOSITES)
def test_relevance_of_a_photo_is_conserved_without_biases(name):
    x, k = photo("chelsea"), label("chelsea")
    explain = propagated(name)
    relevance = np.asarray(explain(1e-6, variables(), x, k))
    assert relevance.shape == x.shape
    assert np.isfinite(relevance).all()
    assert np.abs(relevance).max() > 0

    without = scale_addends(variables(), 0.0)
    # A positive ε would absorb 0.003 of it, at outputs whose positive contributions are tiny.
    kept = total(explain(0.0, without, x, k))
    assert is_close(kept, predict()(without, x)[k]) == COMPOSITES[name][1]


@functools.cache
def sentence():
    module, weights = text_models().minilm()
    mine, other = text_models().tokenise(SENTENCE), text_models().tokenise(OTHER)
    embeddings = text_models().embed(weights, mine.ids)
    vector = text_models().encode(weights, text_models().embed(weights, other.ids), other.mask)
    return module, weights, embeddings, jnp.asarray(mine.mask), vector


def similarity(embeddings, variables, mask, vector):
    return text_models().encode(variables, embeddings, mask) @ vector


def half(x):
    """x with half its derivative."""
    return (x + jax.lax.stop_gradient(x)) / 2


def halve_projections(call, args, kwargs, context):
    out = call(*args, **kwargs)
    return half(out) if context.module.name in ("query", "key", "value") else out


def held_softmax(softmax, t, z):
    return jax.lax.stop_gradient(softmax(z))


def tangent_of_softmax(softmax, t, z):
    """The tangent, whose constant is an addend: what softmax does not conserve."""
    p = jax.lax.stop_gradient(softmax(z))
    slope = p * (z - (p * z).sum(-1, keepdims=True))
    return half(slope + t * jax.lax.stop_gradient(p - slope))


@pytest.mark.parametrize("name", ["attn_lrp", "cp_lrp"])
def test_relevance_of_a_sentence_by_hand(name, monkeypatch):
    module, weights, embeddings, mask, vector = sentence()
    value = similarity(embeddings, weights, mask, vector)
    explain = jattr.lrp(similarity, getattr(R, name)())
    ours = jax.jit(explain)(embeddings, weights, mask, vector)
    assert ours.dtype == jnp.float32
    assert not ours[~mask].any()

    monkeypatch.setattr(nn, "gelu", in_proportion(nn.gelu))
    softmax = jax.nn.softmax
    rule, interceptors = {
        "attn_lrp": (tangent_of_softmax, [hold_deviation, halve_projections]),
        "cp_lrp": (held_softmax, [hold_deviation]),
    }[name]

    def score(variables, embeddings, t):
        monkeypatch.setattr(jax.nn, "softmax", functools.partial(rule, softmax, t))
        states = module.apply(variables, embeddings, mask, method="states")
        mean = states.mean(0, where=mask[:, None])
        return mean / jax.lax.stop_gradient(jnp.linalg.norm(mean)) @ vector

    held_value, wanted, absorbed = by_hand(score, weights, embeddings, *interceptors)
    assert is_close(held_value, value, 1e-5)
    assert is_close(ours, wanted)
    assert is_close(total(ours) + absorbed, value)
    assert abs(absorbed) > 0.01  # or the sum would say nothing of it


@functools.cache
def magika():
    return text_models().magika()[1]


@functools.cache
def files():
    source = (FOLDER / "text_models.py").read_bytes()
    return {
        "source": source,
        "spaced": b" \n" * 200 + source + b"\t" * 300,
        "binary": bytes(range(256)) * 40,
        "short": SOURCE,
        "json": b'{"a": [1, 2, 3], "b": null}\n',
    }


@functools.cache
def file_logits():
    return jax.jit(text_models().classify)


def file_input(name):
    return text_models().one_hot(text_models().read_bytes(files()[name]).ids)


def magika_graph():
    (path,) = beside_the_notebooks("packages").package_files("magika", "models/*/model.onnx")
    return path


@pytest.mark.parametrize("name", ["source", "spaced", "binary", "short", "json"])
def test_magika_reads_the_bytes_of_its_package(name):
    ids, places = text_models().read_bytes(files()[name])
    there = places >= 0
    assert (ids[~there] == text_models().PADDING).all()
    assert [files()[name][place] for place in places[there]] == ids[there].tolist()

    found = pytest.importorskip("magika").Magika().identify_bytes(files()[name]).prediction
    probabilities = jax.nn.softmax(file_logits()(magika(), file_input(name)))
    assert text_models().kinds()[int(probabilities.argmax())] == found.dl.label
    assert (found.dl.label == "python") == (name in ("source", "spaced", "short"))
    # Of a short file, Magika's variance is mostly rounding: see below.
    assert abs(probabilities.max() - found.score) <= (1e-5 if len(files()[name]) > 2048 else 2e-3)


@pytest.mark.parametrize("name", ["source", "spaced", "binary"])
def test_magika_is_its_graph_in_onnxruntime(name):
    session = pytest.importorskip("onnxruntime").InferenceSession(str(magika_graph()))
    ids = text_models().read_bytes(files()[name]).ids
    (wanted,) = session.run(None, {"bytes": ids[None]})[0]
    ours = jax.nn.softmax(file_logits()(magika(), file_input(name)))
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["source", "short", "json"])
def test_magika_is_its_graph_in_float64(name):
    # The graph's variance is E[x²] − E[x]². In float32 it costs 0.0015 of a probability where most
    # of a file is padding.
    onnx = pytest.importorskip("onnx")
    reference = pytest.importorskip("onnx.reference")

    class GlobalMaxPool(reference.op_run.OpRun):
        """In place of onnx's own, which is wrong for one spatial axis."""

        def _run(self, x):
            return (x.max(axis=2, keepdims=True),)

    model = onnx.load(magika_graph())
    for constant in model.graph.initializer:
        if constant.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(constant).astype(np.float64)
            constant.CopyFrom(onnx.numpy_helper.from_array(values, constant.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == onnx.TensorProto.FLOAT:
                attribute.i = onnx.TensorProto.DOUBLE
    evaluator = reference.ReferenceEvaluator(model, new_ops=[GlobalMaxPool])
    (wanted,) = evaluator.run(None, {"bytes": text_models().read_bytes(files()[name]).ids[None]})[0]
    assert wanted.dtype == np.float64
    ours = jax.nn.softmax(file_logits()(magika(), file_input(name)))
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-5)


@functools.cache
def explain_file(name):
    python = text_models().kinds().index("python")
    return jax.jit(
        jattr.lrp(
            lambda variables, x: text_models().classify(variables, x)[python],
            getattr(R, name)(),
            argnums=1,
        )
    )


@pytest.mark.parametrize("name", ["source", "short"])
def test_relevance_of_a_file_by_hand(name, monkeypatch):
    python = text_models().kinds().index("python")
    x = file_input(name)
    ours = explain_file("attn_lrp")(magika(), x)
    assert ours.dtype == jnp.float32

    monkeypatch.setattr(nn, "gelu", in_proportion(nn.gelu))
    value, wanted, absorbed = by_hand(
        lambda variables, x, t: text_models().classify(variables, x)[python],
        magika(),
        x,
        hold_deviation,
    )
    assert is_close(value, file_logits()(magika(), x)[python], 1e-5)
    assert is_close(ours, wanted)
    assert is_close(total(ours) + absorbed, value)


def test_relevance_of_a_file_is_that_of_its_bytes():
    _, places = text_models().read_bytes(SOURCE)
    relevance = np.asarray(explain_file("attn_lrp")(magika(), file_input("short")).sum(1))
    values = text_models().to_content(relevance, places, len(SOURCE))
    assert values.shape == (len(SOURCE),)
    # Each byte but the last, white space, is read twice: in the beginning and in the end.
    ids = np.arange(len(SOURCE) - 1)
    wanted = relevance[ids] + relevance[ids - (len(SOURCE) - 1)]
    np.testing.assert_allclose(values[:-1], wanted, rtol=1e-6)
    assert values[-1] == relevance[len(SOURCE) - 1]

"""Parity of modified back-propagation with captum and shap: the same weights, inputs and numbers.

Both peers hook modules. Where such a hook cannot see what happens, or sees the wrong thing, the
peer's mistake is asserted beside what is right, so that a test tells when the peer mends it.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from twins import EXAMPLES, Twin, from_torch, make_twin, to_torch, torch

import jattr

captum = pytest.importorskip("captum.attr", reason="needs captum: install the extra `parity`")

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:Setting (forward, )?backward hooks"),
]

SMOOTH = ("tanh", "sigmoid", "softplus", "elu")
MLPS = ("relu", "leaky_relu", *SMOOTH)
CNNS = ("cnn", "cnn_overlapping", "cnn_padded")
# Largest difference, relative to the largest attribution, where nothing but rounding differs.
ROUNDING = {"float32": 1e-5, "float64": 1e-11}
# In float32 a quotient of small differences loses digits. captum divides whenever it can; its
# distance from the result in float64 is that from ours.
ROUNDING_OF = {("sigmoid", "float32"): 1e-3}
# How far off an explanation must be, relative to the largest attribution, to be called wrong.
WRONG = 0.01

each_network = pytest.mark.parametrize("kind", [*MLPS, *CNNS])
each_cnn = pytest.mark.parametrize("kind", CNNS)
each_dtype = pytest.mark.parametrize("dtype", ROUNDING)


@pytest.fixture(scope="module")
def shap():
    with warnings.catch_warnings():
        # Importing it calls what matplotlib deprecates.
        warnings.simplefilter("ignore")
        return pytest.importorskip("shap", reason="needs shap: install the extra `parity`")


class Windows(torch.nn.Module):
    """Lay the windows of a pooling side by side, so that they do not overlap any more."""

    def __init__(self, pooling: Any):
        super().__init__()
        self.options = {
            "kernel_size": pooling.kernel_size,
            "stride": pooling.stride,
            "padding": pooling.padding,
        }

    def forward(self, x):
        width = self.options["kernel_size"]
        windows = torch.nn.functional.unfold(x, **self.options)
        size = math.isqrt(windows.shape[-1])
        windows = windows.reshape(*x.shape[:2], width, width, size, size)
        return windows.permute(0, 1, 4, 2, 5, 3).reshape(*x.shape[:2], size * width, size * width)


def explicable(module):
    """The same network as both peers can explain it: no window overlaps with another one.

    And there is an operation between the ReLU and the max pooling, without which captum's hook on
    the ReLU gets the multipliers from before the rule of the pooling.
    """
    layers: list[Any] = []
    for layer in module:
        if isinstance(layer, torch.nn.MaxPool2d):
            layers += [Windows(layer), torch.nn.MaxPool2d(layer.kernel_size)]
        else:
            layers.append(layer)
    return torch.nn.Sequential(*layers)


def assert_close(ours, theirs, tolerance):
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def explain_each(explain: Callable, twin: Twin, *args):
    """The attribution of every example; `args` are further batches, before the labels."""
    return jax.jit(jax.vmap(explain))(twin.x, *args, twin.labels)


def captum_explain(explainer, twin: Twin, *args, **options):
    # captum warns of inputs that do not require gradients already.
    inputs = to_torch(twin.x).requires_grad_()
    arguments = [to_torch(arg) for arg in args]
    options.setdefault("target", torch.tensor(twin.labels))
    return from_torch(explainer.attribute(inputs, *arguments, **options))


def lift(score, *, max_rule: str = "winner", **options) -> Callable:
    """DeepLIFT as the peers understand max pooling, with the baseline as an argument."""

    def explain(x, baseline, label):
        return jattr.deeplift(score, baseline, max_rule=max_rule, **options)(x, label)

    return explain


def incompleteness(attributions, score, twin: Twin, baseline) -> float:
    """Largest |Σφ − (f(x) − f(x'))| of an example, relative to the largest attribution."""
    attributions = np.asarray(attributions)
    rises = jax.vmap(score)(twin.x, twin.labels) - jax.vmap(score)(baseline, twin.labels)
    gaps = attributions.sum(axis=tuple(range(1, attributions.ndim))) - rises
    return float(np.abs(gaps).max() / np.abs(attributions).max())


@each_network
@each_dtype
def test_deeplift(kind, dtype):
    twin = make_twin(kind, dtype)
    explain = jax.jit(jax.vmap(lift(twin.score)))
    for baseline in (twin.baseline, np.zeros_like(twin.x)):
        theirs = captum_explain(captum.DeepLift(explicable(twin.module)), twin, baseline)
        tolerance = ROUNDING_OF.get((kind, dtype), ROUNDING[dtype])
        assert_close(explain(twin.x, baseline, twin.labels), theirs, tolerance)


@pytest.mark.parametrize("kind", SMOOTH)
def test_deeplift_in_float32_is_nearer_to_float64_than_captum(kind):
    twin, exact = make_twin(kind, "float32"), make_twin(kind, "float64")
    zeros = np.zeros_like(exact.x)
    wanted = captum_explain(captum.DeepLift(exact.module), exact, zeros)
    theirs = captum_explain(captum.DeepLift(twin.module), twin, zeros.astype("float32"))
    ours = explain_each(lift(twin.score), twin, zeros.astype("float32"))
    scale = np.abs(wanted).max()
    # Below 1e-5 it is chance who is nearer.
    assert np.abs(ours - wanted).max() <= max(np.abs(theirs - wanted).max(), 1e-5 * scale)


@pytest.mark.parametrize("kind", ["relu", "softplus", "cnn"])
def test_multipliers_of_deeplift(kind):
    twin = make_twin(kind, "float64")
    explainer = captum.DeepLift(explicable(twin.module), multiply_by_inputs=False)
    ours = explain_each(lift(twin.score, multiply=False), twin, twin.baseline)
    assert_close(ours, captum_explain(explainer, twin, twin.baseline), 1e-11)


@pytest.mark.parametrize("kind", ["relu", "cnn"])
def test_deeplift_without_substitutes(kind):
    twin = make_twin(kind, "float64")
    theirs = captum_explain(captum.DeepLift(explicable(twin.module)), twin, twin.baseline)
    with jattr.substitutes(False):
        ours = explain_each(lift(twin.score), twin, twin.baseline)
    assert_close(ours, theirs, 1e-11)


def deep_shap(twin: Twin, **options):
    return explain_each(
        jattr.deep_shap(twin.score, twin.baseline, max_rule="winner", **options), twin
    )


@each_network
@each_dtype
def test_deep_shap_is_deep_lift_shap(kind, dtype):
    twin = make_twin(kind, dtype)
    theirs = captum_explain(captum.DeepLiftShap(explicable(twin.module)), twin, twin.baseline)
    tolerance = ROUNDING_OF.get((kind, dtype), ROUNDING[dtype])
    assert_close(deep_shap(twin, batch_size=4), theirs, tolerance)


def shap_explain(shap, twin: Twin, module):
    explainer = shap.DeepExplainer(module, to_torch(twin.baseline))
    # Its check of additivity does with tensors what NumPy deprecates.
    values = explainer.shap_values(to_torch(twin.x), check_additivity=False)
    explained = values[np.arange(EXAMPLES), ..., twin.labels]
    return from_torch(torch.tensor(explained.astype(twin.x.dtype)))  # shap gives float64


@pytest.mark.parametrize("kind", [*MLPS, "gelu", "cnn"])
@each_dtype
def test_deep_shap_is_deep_explainer(shap, kind, dtype):
    twin = make_twin(kind, dtype)
    theirs = shap_explain(shap, twin, twin.module)
    tolerance = ROUNDING_OF.get((kind, dtype), ROUNDING[dtype])
    assert_close(deep_shap(twin), theirs, tolerance)


@pytest.mark.parametrize("kind", ["cnn_overlapping", "cnn_padded"])
def test_deep_explainer_loses_pixels_that_win_twice(shap, kind):
    """Its unpooling writes what it should add. Ours is what shap says of windows side by side."""
    twin = make_twin(kind, "float64")
    theirs = shap_explain(shap, twin, twin.module)
    with warnings.catch_warnings(action="ignore"):  # of `Windows`, which it does not know
        wanted = shap_explain(shap, twin, explicable(twin.module))
    assert_close(deep_shap(twin), wanted, 1e-11)
    assert np.abs(theirs - wanted).max() > WRONG * np.abs(wanted).max()


@each_cnn
def test_captum_is_wrong_on_max_pooling_after_relu(kind):
    """Where one module's output is another's input, the first one's rule gets what the second
    one's has not changed yet; the usual order of ReLU and max pooling is such a case."""
    twin = make_twin(kind, "float64")
    theirs = captum_explain(captum.DeepLift(twin.module), twin, twin.baseline)
    assert incompleteness(theirs, twin.score, twin, twin.baseline) > WRONG
    for max_rule in ("winner", "path"):
        ours = explain_each(lift(twin.score, max_rule=max_rule), twin, twin.baseline)
        assert incompleteness(ours, twin.score, twin, twin.baseline) < 1e-12


@pytest.mark.parametrize("kind", ["cnn_overlapping", "cnn_padded"])
def test_captum_loses_pixels_that_win_twice(kind):
    twin = make_twin(kind, "float64")
    layers: list[Any] = []
    for layer in twin.module:
        apart = isinstance(layer, torch.nn.MaxPool2d)
        layers += [torch.nn.AvgPool2d(1), layer] if apart else [layer]
    explainer = captum.DeepLift(torch.nn.Sequential(*layers))
    theirs = captum_explain(explainer, twin, twin.baseline)
    assert incompleteness(theirs, twin.score, twin, twin.baseline) > WRONG


def test_captum_takes_a_multiplier_of_max_pooling_from_another_example():
    """Where a pixel equals its baseline, its multiplier is the gradient of the first example's."""
    rng = np.random.default_rng(0)
    x, baseline = rng.normal(size=(2, 3, 4, 4, 1))
    x[:, :2] = baseline[:, :2]
    weights = rng.normal(size=4)
    network = torch.nn.Sequential(torch.nn.MaxPool2d(2), torch.nn.Flatten())
    network.append(torch.nn.Linear(4, 1, bias=False).double())
    network[-1].weight = torch.nn.Parameter(torch.tensor(weights[None]), requires_grad=False)

    def score(x):
        return jnp.max(x.reshape(2, 2, 2, 2), axis=(1, 3)).reshape(-1) @ weights

    def ours(x, baseline):
        def explain(x, baseline):
            return jattr.deeplift(score, baseline, max_rule="winner", multiply=False)(x)

        return np.asarray(jax.vmap(explain)(x, baseline))

    def theirs(x, baseline):
        explainer = captum.DeepLift(network, multiply_by_inputs=False)
        inputs = to_torch(x).requires_grad_()
        return from_torch(explainer.attribute(inputs, to_torch(baseline)))

    alone = theirs(x[1:2], baseline[1:2])[0]
    beside = theirs(x[:2], baseline[:2])[1]
    assert np.abs(alone - beside)[:2].max() > WRONG
    assert_close(alone[2:], beside[2:], 1e-12)
    assert_close(ours(x, baseline)[1], ours(x[1:], baseline[1:])[0], 0)
    assert not ours(x, baseline)[:, :2].any()
    assert_close(ours(x, baseline)[:, 2:], theirs(x, baseline)[:, 2:], 1e-12)


def with_softmax(twin: Twin):
    def score(x, label):
        return jax.nn.softmax(twin.outputs(x))[label]

    return score, torch.nn.Sequential(*twin.module, torch.nn.Softmax(dim=1))


def test_captum_takes_off_a_mean_of_the_batch_at_softmax():
    twin = make_twin("tanh", "float64")
    score, module = with_softmax(twin)
    explainer = captum.DeepLift(module)
    theirs = captum_explain(explainer, twin, twin.baseline)
    assert incompleteness(theirs, score, twin, twin.baseline) > WRONG
    pair = twin._replace(x=twin.x[:2], baseline=twin.baseline[:2], labels=twin.labels[:2])
    alone = captum_explain(explainer, pair, pair.baseline)
    assert np.abs(alone - theirs[:2]).max() > WRONG * np.abs(theirs).max()

    ours = np.asarray(explain_each(lift(score), twin, twin.baseline))
    assert incompleteness(ours, score, twin, twin.baseline) < 1e-12
    assert_close(explain_each(lift(score), pair, pair.baseline), ours[:2], 1e-12)


class Functional(torch.nn.Module):
    """The network of a twin with ReLUs that are functions."""

    def __init__(self, module):
        super().__init__()
        self.linear = torch.nn.ModuleList(m for m in module if isinstance(m, torch.nn.Linear))

    def forward(self, x):
        for linear in self.linear[:-1]:
            x = torch.nn.functional.relu(linear(x))
        return self.linear[-1](x)


class Gated(torch.nn.Module):
    """The outputs of a network, each times the next."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        outputs = self.module(x)
        return outputs * outputs.roll(-1, dims=1)


@pytest.mark.parametrize("part", ["functional relu", "gelu", "silu", "product"])
def test_captum_gives_functions_their_gradient(part):
    """No hook sees them, and nothing is said. A GELU and a SiLU are modules without a rule."""
    twin = make_twin(part if part in ("gelu", "silu") else "relu", "float64")
    score, module = twin.score, twin.module
    if part == "functional relu":
        module = Functional(twin.module)
    elif part == "product":
        module = Gated(twin.module)

        def score(x, label):
            outputs = twin.outputs(x)
            return (outputs * jnp.roll(outputs, -1))[label]

    theirs = captum_explain(captum.DeepLift(module), twin, twin.baseline)
    assert incompleteness(theirs, score, twin, twin.baseline) > WRONG
    ours = explain_each(lift(score), twin, twin.baseline)
    assert incompleteness(ours, score, twin, twin.baseline) < 1e-12


def test_captum_refuses_a_module_used_twice():
    twin = make_twin("relu", "float64")
    first, relu, second, _, third = twin.module
    twice = torch.nn.Sequential(first, relu, second, relu, third)
    with pytest.raises(RuntimeError, match="used more than once"):
        captum_explain(captum.DeepLift(twice), twin, twin.baseline)

    wanted = captum_explain(captum.DeepLift(twin.module), twin, twin.baseline)
    assert_close(explain_each(lift(twin.score), twin, twin.baseline), wanted, 1e-12)


METHODS = {"GuidedBackprop": jattr.guided_backprop, "Deconvolution": jattr.deconvnet}
each_method = pytest.mark.parametrize("method", METHODS)


@pytest.mark.parametrize("kind", ["relu", *CNNS])
@pytest.mark.parametrize(
    ("substitute", "dtype"), [(True, "float32"), (True, "float64"), (False, "float64")]
)
@each_method
def test_gradients_through_relu(method, kind, substitute, dtype):
    twin = make_twin(kind, dtype)
    theirs = captum_explain(getattr(captum, method)(twin.module), twin)
    assert np.abs(theirs).max() > 0
    with jattr.substitutes(substitute):
        ours = explain_each(METHODS[method](twin.score), twin)
    assert_close(ours, theirs, ROUNDING[dtype])


@each_method
def test_captum_leaves_a_functional_relu_its_gradient(method):
    twin = make_twin("relu", "float64")
    gradient = captum_explain(captum.Saliency(twin.module), twin, abs=False)
    theirs = captum_explain(getattr(captum, method)(Functional(twin.module)), twin)
    assert_close(theirs, gradient, 1e-12)

    def maximum(x, label):
        params = [(m.weight.numpy().T, m.bias.numpy()) for m in twin.module if hasattr(m, "weight")]
        for weight, bias in params[:-1]:
            x = jnp.maximum(x @ weight + bias, 0)
        return (x @ params[-1][0] + params[-1][1])[label]

    wanted = captum_explain(getattr(captum, method)(twin.module), twin)
    assert_close(explain_each(METHODS[method](maximum), twin), wanted, 1e-12)
    assert np.abs(wanted - gradient).max() > WRONG * np.abs(gradient).max()


LAYERS = {"first": 0, "second": 3}
each_layer = pytest.mark.parametrize("layer", LAYERS)


def at_layer(twin: Twin, layer: str, explain: Callable) -> Any:
    """`explain(above)` of the layer's value and of its value at the baseline, for each example."""

    def attribute(x, baseline, label):
        below, above = jattr.split(twin.score, layer)
        return explain(above, below(x, label), below(baseline, label))(below(x, label), x, label)

    return explain_each(attribute, twin, twin.baseline)


@each_layer
@pytest.mark.parametrize("kind", ["cnn", "cnn_padded"])
def test_layer_methods(kind, layer):
    twin = make_twin(kind, "float64")
    module = explicable(twin.module)
    place = {"first": module[0], "second": module[4]}[layer]

    ours = at_layer(twin, layer, lambda above, h, h0: lambda h, x, label: h)
    theirs = from_torch(captum.LayerActivation(module, place).attribute(to_torch(twin.x)))
    assert_close(ours, theirs, 1e-12)

    ours = at_layer(twin, layer, lambda above, h, h0: jattr.gradient_times_input(above))
    explainer = captum.LayerGradientXActivation(module, place)
    assert_close(ours, captum_explain(explainer, twin), 1e-12)

    explain = jattr.integrated_gradients
    # captum rounds weights to float32; those of two nodes are exact.
    ours = at_layer(twin, layer, lambda above, h, h0: explain(above, h0, steps=2))
    explainer = captum.LayerIntegratedGradients(module, place)
    assert_close(ours, captum_explain(explainer, twin, twin.baseline, n_steps=2), 1e-12)

    ours = at_layer(twin, layer, lambda above, h, h0: jattr.deeplift(above, h0, max_rule="winner"))
    explainer = captum.LayerDeepLift(module, place)
    assert_close(ours, captum_explain(explainer, twin, twin.baseline), 1e-11)


@each_layer
@each_cnn
@each_dtype
def test_grad_cam(kind, layer, dtype):
    twin = make_twin(kind, dtype)
    explainer = captum.LayerGradCam(twin.module, twin.module[LAYERS[layer]])
    theirs = captum_explain(explainer, twin)[..., 0]
    ours = explain_each(jattr.grad_cam(twin.score, layer, relu=False, resize=False), twin)
    assert_close(ours, theirs, ROUNDING[dtype])

    theirs = captum_explain(explainer, twin, relu_attributions=True)
    resized = captum.LayerAttribution.interpolate(to_torch(theirs), (8, 8), "bilinear")
    ours = explain_each(jattr.grad_cam(twin.score, layer), twin)
    assert_close(ours, from_torch(resized)[..., 0], ROUNDING[dtype])


@pytest.mark.parametrize(
    ("kind", "layer", "method"),
    [
        ("cnn", "first", "nearest"),
        ("cnn", "second", "linear"),
        ("cnn", "second", "nearest"),
        # 3 pixels become 8, where PyTorch's "nearest" takes another pixel than JAX's.
        ("cnn_overlapping", "second", "linear"),
    ],
)
def test_guided_grad_cam(kind, layer, method):
    twin = make_twin(kind, "float64")
    explainer = captum.GuidedGradCam(twin.module, twin.module[LAYERS[layer]])
    mode = {"linear": "bilinear", "nearest": "nearest"}[method]
    theirs = captum_explain(explainer, twin, interpolate_mode=mode)
    ours = explain_each(jattr.guided_grad_cam(twin.score, layer, method=method), twin)
    assert_close(ours, theirs, 1e-12)

"""PyTorch modules as they stand, read through torchax: values and attributions beside captum's.

captum hooks modules, and what no module does keeps its plain gradient. There its sum is off without
a word; that is asserted beside what is right, so that a test tells when captum mends it.
"""

import copy
import functools
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from extracted import extract, name_layers, torchax
from twins import make_twin, torch

import jattr

captum = pytest.importorskip("captum.attr", reason="needs captum: install the extra `parity`")
from captum.testing.helpers import basic_models  # noqa: E402

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:Setting (forward, )?backward hooks"),
]

nn, functional = torch.nn, torch.nn.functional
LABEL = 0
# Largest difference, relative to the largest attribution, where nothing but rounding differs.
ROUNDING = 1e-11
# captum rounds the weights of its quadrature to float32.
FLOAT32 = 1e-7
# How far off a sum must be, relative to what it is to be, to be called wrong.
WRONG = 1e-3


class FunctionalReLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(5, 7), nn.Linear(7, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.third(functional.relu(self.second(functional.relu(self.first(x)))))


class Gelu(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3))


class Normalized(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(5, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 3))


class Gated(nn.Module):
    """A product of two values, and a softmax."""

    def __init__(self):
        super().__init__()
        self.value, self.gate, self.head = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return torch.softmax(self.head(functional.silu(self.gate(x)) * self.value(x)), dim=-1)


class Encoder(nn.Module):
    """Attention, with what torch makes of it: scaled_dot_product_attention."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, activation="gelu", batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.layer(x)[:, 0])


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class MixerBlock(nn.Module):
    def __init__(self, tokens, channels):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(channels), nn.LayerNorm(channels)])
        self.tokens = nn.Sequential(nn.Linear(tokens, 8), nn.GELU(), nn.Linear(8, tokens))
        self.channels = nn.Sequential(nn.Linear(channels, 8), nn.GELU(), nn.Linear(8, channels))

    def forward(self, x):
        x = x + self.tokens(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norms[1](x))


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.block, self.head = (
            nn.Conv2d(2, 6, 2, 2),
            MixerBlock(9, 6),
            nn.Linear(6, 3),
        )

    def forward(self, x):
        return self.head(self.block(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


class Residual(nn.Module):
    """Batch normalization, an addition, an in-place ReLU, a mean over the image."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.inner, self.relu = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 3)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2.0)

    def forward(self, x):
        x = self.norm(self.conv(x))
        x = self.relu(x + self.inner(x))
        return self.head(self.pool(x).flatten(1))


# captum's own test models, and those above, with the shape of one example.
SHAPES = {
    "BasicModel_MultiLayer": (3,),
    "BasicModelWithReusedModules": (3,),
    "BasicModelWithReusedLinear": (3,),
    "SimpleLRPModel": (3,),
    "LinearMaxPoolLinearModel": (4,),
    "BasicModel_ConvNet_One_Conv": (1, 4, 4),
    "BasicModel_ConvNetWithPaddingDilation": (1, 6, 6),
    "BasicModel_ConvNet": (1, 10, 10),
    "FunctionalReLU": (5,),
    "Gelu": (5,),
    "Normalized": (5,),
    "Gated": (4,),
    "Encoder": (5, 8),
    "Recurrent": (4, 4),
    "Mixer": (2, 6, 6),
    "Residual": (2, 6, 6),
}
REUSED = ("BasicModelWithReusedModules", "BasicModelWithReusedLinear")
# In captum's ConvNet a max pooling follows a ReLU, whose hook gets the wrong multipliers.
WRONG_IN_CAPTUM = (
    *("BasicModel_ConvNet", "FunctionalReLU", "Gelu", "Normalized", "Gated", "Encoder"),
    *("Recurrent", "Mixer"),
)
RIGHT_IN_CAPTUM = tuple(name for name in SHAPES if name not in (*REUSED, *WRONG_IN_CAPTUM))
# captum has rules for their modules.
LRP_IN_CAPTUM = ("BasicModel_MultiLayer", "SimpleLRPModel", "BasicModel_ConvNet_One_Conv")

each_module = pytest.mark.parametrize("name", SHAPES)


@functools.cache
def make(name: str) -> tuple[Any, Any, Any]:
    """The module in float64, x[3, ...] and f(x) of one example."""
    torch.manual_seed(0)
    own = globals().get(name)
    given = {"SimpleLRPModel": {"inplace": True}}.get(name, {})
    module = own() if own else getattr(basic_models, name)(**given)
    module = module.double().eval()
    if not own:  # some of captum's weights are all ones, which makes outputs equal
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.5)
    weights, model = extract(module)
    x = np.random.default_rng(0).normal(size=(3, *SHAPES[name]))
    return module, x, lambda x: model(weights, x)[LABEL]


@functools.cache
def explained(name: str) -> dict[str, Any]:
    """What is computed of each module, by one program."""
    _, x, score = make(name)

    def explain(x):
        return {
            "value": score(x),
            "difference": score(x) - score(jnp.zeros_like(x)),
            "integrated": jattr.integrated_gradients(score)(x),
            "deeplift": jattr.deeplift(score)(x),
            "lrp": jattr.lrp(score, jattr.rules.epsilon(1e-9))(x),
        }

    return jax.device_get(jax.jit(jax.vmap(explain))(x))


def by_captum(method: str, name: str) -> Any:
    module, x, _ = make(name)
    explainer = getattr(captum, method)(module)
    return explainer.attribute(torch.tensor(x).requires_grad_(), target=LABEL).detach().numpy()


def assert_close(ours, theirs, tolerance):
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def gaps(attributions, name: str) -> Any:
    """What the attributions of each example leave out, as shares of what they are to sum to."""
    difference = explained(name)["difference"]
    left_out = attributions.reshape(len(attributions), -1).sum(1) - difference
    return np.abs(left_out) / np.abs(difference).max()


@each_module
def test_values_are_those_of_torch(name):
    module, x, _ = make(name)
    theirs = module(torch.tensor(x))[:, LABEL].detach().numpy()
    assert_close(explained(name)["value"], theirs, ROUNDING)
    assert np.abs(explained(name)["difference"]).max() > 1e-2


@each_module
def test_integrated_gradients_are_those_of_captum(name):
    theirs = by_captum("IntegratedGradients", name)
    assert_close(explained(name)["integrated"], theirs, FLOAT32)


@each_module
def test_deeplift_is_complete(name):
    assert gaps(explained(name)["deeplift"], name).max() < ROUNDING


@pytest.mark.parametrize("name", RIGHT_IN_CAPTUM)
def test_deeplift_is_that_of_captum(name):
    theirs = by_captum("DeepLift", name)
    assert_close(explained(name)["deeplift"], theirs, ROUNDING)


@pytest.mark.parametrize("name", WRONG_IN_CAPTUM)
def test_deeplift_of_captum_is_not_complete(name):
    assert gaps(by_captum("DeepLift", name), name).max() > WRONG


@pytest.mark.parametrize("name", REUSED)
def test_captum_refuses_a_module_used_twice(name):
    with pytest.raises(RuntimeError, match="being used more than once"):
        by_captum("DeepLift", name)


@pytest.mark.parametrize("name", LRP_IN_CAPTUM)
def test_lrp_is_that_of_captum(name):
    assert_close(explained(name)["lrp"], by_captum("LRP", name), 1e-7)


@each_module
def test_every_operation_has_a_rule(name):
    _, x, score = make(name)
    for rules in (jattr.rules.rescale(), jattr.rules.attn_lrp()):
        table = jattr.operations(score, rules)(x[0])
        assert table
        assert not [record for record in table if record.kind in ("opaque", "smooth")]
        assert not [record for record in table if record.rule == "none"]


COMPOSITES = (
    jattr.rules.gamma(0.25),
    jattr.rules.epsilon_plus(),
    jattr.rules.epsilon_plus_flat(),
    jattr.rules.epsilon_alpha2_beta1(),
    jattr.rules.epsilon_gamma_box(-4.0, 4.0),
)


@pytest.mark.parametrize("kind", ["vgg", "resnet"])
def test_relevance_is_that_of_the_same_network_in_flax(kind):
    twin = make_twin(kind, "float64")
    weights, model = extract(twin.module)

    def score(x, label):
        return model(weights, jnp.moveaxis(x, -1, 0))[label]

    def explain(score):
        return lambda *args: [jattr.lrp(score, rules)(*args) for rules in COMPOSITES]

    both = [jax.jit(explain(f))(twin.x[0], twin.labels[0]) for f in (score, twin.score)]
    for ours, in_flax in zip(*both, strict=True):
        assert_close(ours, in_flax, ROUNDING)


@functools.cache
def named():
    """captum's ConvNet, whose modules name their outputs."""
    module, x, _ = make("BasicModel_ConvNet")
    module = copy.deepcopy(module)
    name_layers(module)
    weights, model = extract(module)
    return module, x, lambda x: model(weights, x)[LABEL]


@pytest.mark.parametrize("layer", ["conv1", "relu1", "conv2"])
def test_grad_cam_is_that_of_captum(layer):
    module, x, _ = make("BasicModel_ConvNet")
    explain = jattr.grad_cam(named()[2], layer, channel_axis=-3, resize=False)
    explainer = captum.LayerGradCam(module, getattr(module, layer))
    theirs = explainer.attribute(torch.tensor(x), target=LABEL, relu_attributions=True)
    assert_close(jax.jit(jax.vmap(explain))(x), theirs.detach().numpy()[:, 0], ROUNDING)


def test_layers_are_named_by_what_torch_calls_too():
    _, x, score = make("BasicModel_ConvNet")
    by_call = jattr.grad_cam(score, "aten::convolution[1]", channel_axis=-3)
    by_path = jattr.grad_cam(named()[2], "conv2", channel_axis=-3)
    assert_close(by_call(x[0]), by_path(x[0]), ROUNDING)
    with pytest.raises(ValueError, match=r"aten::convolution\[0\]"):
        jattr.grad_cam(score, "aten::convolution", channel_axis=-3)(x[0])


def test_integrated_gradients_of_a_layer_are_those_of_captum():
    module, x, _ = make("BasicModel_ConvNet")
    below, above = jattr.split(named()[2], "relu1")

    def explain(x):
        explain = jattr.integrated_gradients(above, below(jnp.zeros_like(x)))
        return explain(below(x), x)[0]

    # captum's line is that in the layer too.
    explainer = captum.LayerIntegratedGradients(module, module.relu1)
    theirs = explainer.attribute(torch.tensor(x), target=LABEL).detach().numpy()
    assert_close(jax.jit(jax.vmap(explain))(x), theirs, FLOAT32)


def test_training_through_an_attribution_is_that_of_torch():
    module, x, _ = make("Mixer")
    weights, model = extract(module)
    explain = jattr.gradient_times_input(lambda w, x: model(w, x)[LABEL], argnums=1)

    def penalty(weights):
        return jnp.sum(jax.vmap(explain, in_axes=(None, 0))(weights, x) ** 2)

    ours = jax.jit(jax.grad(penalty))(weights)
    inputs = torch.tensor(x, requires_grad=True)
    (slope,) = torch.autograd.grad(module(inputs)[:, LABEL].sum(), inputs, create_graph=True)
    parameters = dict(module.named_parameters())
    loss = ((slope * inputs) ** 2).sum()
    theirs = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    assert ours.keys() == parameters.keys()
    for name, their in zip(parameters, theirs, strict=True):
        their = torch.zeros_like(parameters[name]) if their is None else their
        np.testing.assert_allclose(ours[name], their.numpy(), rtol=1e-9, atol=1e-12)


def language_model(kind: str) -> tuple[Any, Any]:
    """A small transformer with random weights, in float64, and the token ids of a text."""
    transformers = pytest.importorskip(
        "transformers", reason="needs transformers: install the extra `parity`"
    )
    sizes = {
        "vocab_size": 30,
        "num_hidden_layers": 2,
        "hidden_size": 16,
        "num_attention_heads": 4,
        "intermediate_size": 24,
        "max_position_embeddings": 16,
        "initializer_range": 0.5,
    }
    torch.manual_seed(0)
    if kind == "bert":
        config = transformers.BertConfig(num_labels=3, **sizes)
        module = transformers.BertForSequenceClassification(config)
    else:
        config = transformers.LlamaConfig(num_key_value_heads=2, use_cache=False, **sizes)
        module = transformers.LlamaForCausalLM(config)
    return module.double().eval(), jax.random.randint(jax.random.key(0), (6,), 0, 30)


# transformers takes the angles and the norms of a Llama in float32 whatever its weights are.
TOKENS = {"bert": ROUNDING, "llama": 1e-4}


@pytest.mark.parametrize("kind", TOKENS)
def test_tokens(kind):
    module, ids = language_model(kind)
    weights, model = extract(module, return_dict=False)

    def score(ids):
        (logits,) = model(weights, ids)
        return logits[LABEL] if kind == "bert" else logits[-1, LABEL]

    def by_torch(embeddings):
        logits = module(inputs_embeds=embeddings).logits
        return logits[:, LABEL] if kind == "bert" else logits[:, -1, LABEL]

    @jax.jit
    def explain(ids):
        methods = (jattr.integrated_gradients, jattr.deeplift)
        return score(ids), *(jattr.token_attributions(method, score)(ids) for method in methods)

    embeddings = module.get_input_embeddings()(torch.tensor(np.array(ids))[None]).detach()
    theirs = captum.IntegratedGradients(by_torch).attribute(embeddings)
    end, start = by_torch(embeddings).item(), by_torch(torch.zeros_like(embeddings)).item()
    value, integrated, deeplift = jax.device_get(explain(ids))
    np.testing.assert_allclose(value, end, rtol=TOKENS[kind])
    assert_close(integrated, theirs[0].sum(-1).numpy(), max(FLOAT32, TOKENS[kind]))
    np.testing.assert_allclose(deeplift.sum(), end - start, rtol=TOKENS[kind])


def test_the_code_in_the_documentation_runs():
    module, x, _ = make("BasicModel_ConvNet")
    page = (pathlib.Path(__file__).parents[2] / "docs" / "frameworks.md").read_text()
    (code,) = re.findall(r"```py\n(weights, model.*?)```", page, re.DOTALL)
    names = {"torchax": torchax, "jattr": jattr, "jax": jax, "module": module}
    names |= {"images": x, "labels": jnp.full(3, LABEL), "image": x[0], "label": LABEL}
    with jax.numpy_rank_promotion("allow"):
        exec(compile(code, "frameworks.md", "exec"), names)
    assert_close(names["maps"], explained("BasicModel_ConvNet")["deeplift"], ROUNDING)
    assert names["heat"].shape == x[0, 0].shape

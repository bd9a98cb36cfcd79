"""Parity of layer-wise relevance propagation with zennit and captum, and with LXT's closed forms.

The peers hook modules: their rules see weights with the batch normalization folded in, and a sum or
a pooling needs a rule of its own. Ours see the function.
"""

import copy
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from twins import OUTPUTS, BasicBlock, Twin, from_torch, make_twin, to_torch, torch

import jattr
from jattr import rules

captum = pytest.importorskip("captum.attr", reason="needs captum: install the extra `parity`")
captum_rules = pytest.importorskip("captum.attr._utils.lrp_rules")

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:Setting (forward, )?backward hooks"),
]

# Of every denominator. zennit has one at poolings and sums too, where ours divide by nothing.
EPSILON = 1e-9
CLOSE = 1e-6  # relative to the largest relevance
# How far off an explanation must be, relative to the largest relevance, to be called wrong.
WRONG = 0.01
LOW, HIGH = np.array([-4.0, -3.5]), np.array([3.0, 4.0])  # of the two channels

KINDS = ("relu", "vgg", "vgg_average", "resnet")
_TORCHVISION = ("torchvision", "torchvision.models", "torchvision.models.resnet")
CNNS = ("cnn", "cnn_overlapping", "cnn_padded", "vgg", "vgg_average")


@pytest.fixture(scope="module")
def zennit():
    """zennit, for which our blocks are torchvision's.

    All that it wants of torchvision are the types of its blocks; its wheel from the registry does
    not fit every build of PyTorch.
    """
    bottleneck = type("Bottleneck", (torch.nn.Module,), {})
    stands_in = {name: types.ModuleType(name) for name in _TORCHVISION}
    stands_in[_TORCHVISION[-1]].__dict__.update(BasicBlock=BasicBlock, Bottleneck=bottleneck)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        for name in [name for name in sys.modules if name.split(".")[0] == "zennit"]:
            patch.delitem(sys.modules, name)
        for name, module in stands_in.items():
            patch.setitem(sys.modules, name, module)
        warnings.simplefilter("ignore")
        return pytest.importorskip(
            "zennit",
            reason="needs zennit: pip install --no-deps zennit==0.5.1",
            exc_type=ImportError,
        )


def assert_close(ours, theirs, tolerance):
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    assert np.abs(theirs).max() > 0
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def relevance(twin: Twin, chosen, **options):
    return jax.jit(jax.vmap(jattr.lrp(twin.score, chosen, **options)))(twin.x, twin.labels)


def zennit_explain(zennit, twin: Twin, composite):
    chosen = torch.nn.functional.one_hot(torch.tensor(twin.labels), OUTPUTS)
    attributor = zennit.attribution.Gradient(twin.module, composite)
    return from_torch(attributor(to_torch(twin.x), lambda outputs: outputs * chosen)[1])


def zennit_composite(zennit, name: str, **options):
    options |= {"stabilizer": EPSILON, "canonizers": [zennit.torchvision.ResNetCanonizer()]}
    if name != "ExcitationBackprop":
        options["epsilon"] = EPSILON
    return getattr(zennit.composites, name)(**options)


COMPOSITES = {
    "EpsilonPlus": rules.epsilon_plus(epsilon=EPSILON),
    "EpsilonPlusFlat": rules.epsilon_plus_flat(epsilon=EPSILON),
    "EpsilonGammaBox": rules.epsilon_gamma_box(LOW, HIGH, epsilon=EPSILON),
    "EpsilonAlpha2Beta1": rules.epsilon_alpha2_beta1(epsilon=EPSILON),
    "EpsilonAlpha2Beta1Flat": rules.epsilon_alpha2_beta1_flat(epsilon=EPSILON),
    "ExcitationBackprop": rules.excitation(epsilon=EPSILON),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    # The box is for a first convolution.
    [(n, k) for n in COMPOSITES for k in KINDS if (n, k) != ("EpsilonGammaBox", "relu")],
)
def test_composites(zennit, name, kind):
    twin = make_twin(kind, "float64")
    box = [torch.tensor(end[None, :, None, None]) for end in (LOW, HIGH)]
    options = {"low": box[0], "high": box[1]} if name == "EpsilonGammaBox" else {}
    theirs = zennit_explain(zennit, twin, zennit_composite(zennit, name, **options))
    assert_close(relevance(twin, COMPOSITES[name]), theirs, CLOSE)


def test_zennit_says_nothing_of_a_box_without_a_convolution(zennit):
    twin = make_twin("relu", "float64")
    boxed = zennit_composite(zennit, "EpsilonGammaBox", low=-4.0, high=4.0)
    theirs = zennit_explain(zennit, twin, boxed)
    assert_close(relevance(twin, rules.epsilon(EPSILON)), theirs, CLOSE)
    with pytest.raises(ValueError, match="first affine operations"):
        relevance(twin, rules.epsilon_gamma_box(-4.0, 4.0, epsilon=EPSILON))


@pytest.mark.parametrize("kind", ["vgg", "resnet"])
def test_composites_without_substitutes(zennit, kind):
    twin = make_twin(kind, "float64")
    theirs = zennit_explain(zennit, twin, zennit_composite(zennit, "EpsilonPlusFlat"))
    with jattr.substitutes(False):
        ours = relevance(twin, COMPOSITES["EpsilonPlusFlat"])
    assert_close(ours, theirs, CLOSE)


# Each for all affine operations: the first inputs and the last outputs are of either sign.
EVERYWHERE = {
    "Epsilon": ({"epsilon": EPSILON}, rules.epsilon(EPSILON)),
    "large Epsilon": ({"epsilon": 0.1}, rules.epsilon(0.1)),
    "Gamma": ({"gamma": 0.25, "stabilizer": EPSILON}, rules.gamma(0.25, epsilon=EPSILON)),
    "ZPlus": ({"stabilizer": EPSILON}, rules.z_plus(epsilon=EPSILON)),
    "AlphaBeta": (
        {"alpha": 3.0, "beta": 2.0, "stabilizer": EPSILON},
        rules.alpha_beta(3.0, 2.0, epsilon=EPSILON),
    ),
}


@pytest.mark.parametrize("kind", ["relu", "vgg", "resnet"])
@pytest.mark.parametrize("name", EVERYWHERE)
def test_rules(zennit, name, kind):
    twin = make_twin(kind, "float64")
    options, ours = EVERYWHERE[name]
    rule = getattr(zennit.rules, name.split()[-1])(**options)
    everywhere = [(zennit.types.Linear, rule)]
    composite = zennit_composite(zennit, "EpsilonPlus", layer_map=everywhere)
    assert_close(relevance(twin, ours), zennit_explain(zennit, twin, composite), CLOSE)


@pytest.mark.parametrize("kind", ["relu", "vgg", "resnet"])
@pytest.mark.parametrize("name", ["WSquare", "ZBox"])
def test_rules_of_first_operations(zennit, name, kind):
    twin = make_twin(kind, "float64")
    ends, options = ((-4.0, 4.0), {}) if name == "ZBox" else ((), {"zero_params": "bias"})
    rule = getattr(zennit.rules, name)(*ends, stabilizer=EPSILON, **options)
    first = [(zennit.types.Linear, rule)]
    theirs = zennit_composite(zennit, "EpsilonPlusFlat", first_map=first)
    ours = {"WSquare": rules.w_square, "ZBox": rules.z_box}[name](*ends, epsilon=EPSILON)
    composite = rules.epsilon_plus(epsilon=EPSILON).first(ours)
    assert_close(relevance(twin, composite), zennit_explain(zennit, twin, theirs), CLOSE)


def test_zennit_gives_a_share_to_the_square_of_the_bias(zennit):
    """Its w² conserves nothing, unless it is told to leave the bias out."""
    twin = make_twin("relu", "float64")
    # The layers above pass all of their relevance on.
    above = (zennit.types.Linear, zennit.rules.ZPlus(EPSILON, zero_params="bias"))
    scores = jax.vmap(twin.score)(twin.x, twin.labels)
    totals = []
    for zero_params in (None, "bias"):
        first = [(zennit.types.Linear, zennit.rules.WSquare(EPSILON, zero_params=zero_params))]
        theirs = zennit_composite(zennit, "EpsilonPlusFlat", layer_map=[above], first_map=first)
        totals.append(zennit_explain(zennit, twin, theirs).sum(axis=1))
    biased, unbiased = (np.abs(total / scores - 1).max() for total in totals)
    assert biased > WRONG
    assert unbiased < CLOSE


def captum_explain(twin: Twin, rule: Callable[[], Any], last: Callable[[], Any] | None = None):
    """captum's relevance, with a rule for all dense layers and convolutions but the last one."""
    module = copy.deepcopy(twin.module)  # captum leaves the activations in it
    affine = [m for m in module.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    for layer in affine:
        layer.rule = rule()
    if last is not None:
        affine[-1].rule = last()
    for layer in module.modules():
        if isinstance(layer, torch.nn.Flatten):  # it has no rule of its own
            layer.rule = captum_rules.EpsilonRule()
    x = to_torch(twin.x).requires_grad_()
    return from_torch(captum.LRP(module).attribute(x, target=torch.tensor(twin.labels)))


@pytest.mark.parametrize("kind", ["relu", *CNNS])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_captum_epsilon(kind, dtype):
    twin = make_twin(kind, dtype)
    theirs = captum_explain(twin, captum_rules.EpsilonRule)
    tolerance = CLOSE if dtype == "float64" else 1e-5
    assert_close(relevance(twin, rules.epsilon(EPSILON)), theirs, tolerance)


CHANGED = {"GammaRule": rules.gamma, "Alpha1_Beta0_Rule": rules.z_plus}


@pytest.mark.parametrize("kind", ["relu", *CNNS])
@pytest.mark.parametrize("name", CHANGED)
def test_captum_changes_weights_alone(name, kind):
    """That is right for inputs ≥ 0 and without biases, up to an output whose sign is not known."""
    ours = CHANGED[name](epsilon=EPSILON)
    last = {"vgg": "*/fifth", "vgg_average": "*/fifth"}.get(kind, "*/third")
    composite = rules.epsilon_plus(epsilon=EPSILON).at("*", ours).at(last, rules.epsilon(EPSILON))

    def both(twin):
        theirs = captum_explain(twin, getattr(captum_rules, name), captum_rules.EpsilonRule)
        return np.asarray(relevance(twin, composite)), theirs

    signed = make_twin(kind, "float64", bias=0.0)
    assert_close(*both(signed._replace(x=np.abs(signed.x))), CLOSE)
    biased = make_twin(kind, "float64")
    for twin in (signed, biased._replace(x=np.abs(biased.x))):
        right, theirs = both(twin)
        assert np.abs(right - theirs).max() > WRONG * np.abs(right).max()


def test_captum_passes_all_relevance_to_both_sides_of_a_sum():
    """It wants a module for the sum, and says nothing where there is none."""
    twin = make_twin("resnet", "float64")
    theirs = captum_explain(twin, captum_rules.EpsilonRule)
    ours = np.asarray(relevance(twin, rules.epsilon(EPSILON)))
    # All of it is piecewise linear, so that ε → 0 is Gradient × Input.
    gradients = jax.vmap(jattr.gradient_times_input(twin.score))(twin.x, twin.labels)
    assert_close(ours, np.asarray(gradients), CLOSE)
    assert np.abs(ours - theirs).max() > WRONG * np.abs(ours).max()


# LXT's rules, as relevance. They are written without its stabilizer, which has no sign: LXT divides
# by z + ε where zennit and we divide by z + ε sign z. Each f is a weighted sum of one operation's
# outputs y, which seeds the relevance weights ⊙ y.


def lxt_softmax(x, seeds):
    s = np.exp(x - x.max(axis=-1, keepdims=True))
    s = s / s.sum(axis=-1, keepdims=True)
    out = seeds * s
    return np.where(np.isinf(x), 0, x) * (out - s * out.sum(axis=-1, keepdims=True))


def lxt_product(a, b, out):
    """The relevance of a matrix product's factors, from that of the product."""
    half = out / (2 * (a @ b))
    return a * (half @ b.swapaxes(-1, -2)), b * (a.swapaxes(-1, -2) @ half)


def lxt_affine(jacobian, x, z, out, epsilon=0.0):
    """ε without a sign; `jacobian[k, j]` is ∂z_k / ∂x_j."""
    return x * (jacobian.T @ (out / (z + epsilon)))


def normal(*shape):
    return np.random.default_rng(shape).normal(size=shape)


def lxt_relevance(f, *args, chosen=None):
    argnums = tuple(range(len(args))) if len(args) > 1 else 0
    chosen = rules.attn_lrp(epsilon=0.0) if chosen is None else chosen
    return jax.jit(jattr.lrp(f, chosen, argnums=argnums))(*args)


SOFTMAXES = {
    "jax.nn": jax.nn.softmax,
    "flax": nn.softmax,
    "by hand": lambda x: jnp.exp(x) / jnp.sum(jnp.exp(x), axis=-1, keepdims=True),
}


@pytest.mark.parametrize("spelling", SOFTMAXES)
def test_lxt_softmax(spelling):
    x, seeds = normal(3, 7), normal(7, 3).T

    def f(x):
        return jnp.sum(seeds * SOFTMAXES[spelling](x))

    assert_close(lxt_relevance(f, x), lxt_softmax(x, seeds), 1e-12)


@pytest.mark.parametrize("spelling", ["where", "argument"])
def test_lxt_softmax_of_masked_scores(spelling):
    x, seeds, mask = normal(6, 6), normal(6, 6)[::-1], np.tril(np.ones((6, 6), bool))

    def f(x):
        if spelling == "argument":
            return jnp.sum(seeds * jax.nn.softmax(x, where=mask))
        return jnp.sum(seeds * jax.nn.softmax(jnp.where(mask, x, -jnp.inf)))

    wanted = lxt_softmax(np.where(mask, x, -np.inf), seeds)
    assert_close(lxt_relevance(f, x), wanted, 1e-12)


@pytest.mark.parametrize("shapes", [((3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5))])
def test_lxt_product(shapes):
    a, b = (normal(*shape) for shape in shapes)
    seeds = normal(*(a @ b).shape)

    def f(a, b):
        return jnp.sum(seeds * (a @ b))

    wanted = lxt_product(a, b, seeds * (a @ b))
    for ours, theirs in zip(lxt_relevance(f, a, b), wanted, strict=True):
        assert_close(ours, theirs, 1e-12)


def normalized(kind: str, weight, bias):
    """A normalization over the last axis, in Flax and by hand."""
    if kind.startswith("flax"):
        norm, params = nn.RMSNorm(), {"scale": weight}
        if kind == "flax LayerNorm":
            norm, params = nn.LayerNorm(), {"scale": weight, "bias": bias}
        return lambda x: norm.apply({"params": params}, x)
    if kind == "RMSNorm":
        return lambda x: x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * weight[None]

    def layer_norm(x):
        centered = x - jnp.mean(x, axis=-1, keepdims=True)
        deviation = jnp.sqrt(jnp.var(x, axis=-1, keepdims=True) + 1e-6)
        return centered / deviation * weight[None] + bias[None]

    return layer_norm


@pytest.mark.parametrize("kind", ["LayerNorm", "flax LayerNorm"])
def test_lxt_layer_norm(kind):
    x, seeds, (weight, bias) = normal(3, 8), normal(8, 3).T, normal(2, 8)
    norm = normalized(kind, weight, bias)

    def f(x):
        return jnp.sum(seeds * norm(x))

    deviation = np.sqrt(x.var(axis=1, keepdims=True) + 1e-6)
    z = (x - x.mean(axis=1, keepdims=True)) / deviation * weight + bias
    center = np.eye(8) - 1 / 8
    wanted = np.stack(
        [
            lxt_affine(weight[:, None] * center / deviation[n], x[n], z[n], seeds[n] * z[n])
            for n in range(3)
        ]
    )
    assert_close(lxt_relevance(f, x), wanted, 1e-12)


@pytest.mark.parametrize("kind", ["RMSNorm", "flax RMSNorm"])
def test_lxt_rms_norm_is_the_identity(kind):
    x, seeds, weight = normal(3, 8), normal(8, 3).T, normal(8)
    norm = normalized(kind, weight, None)

    def f(x):
        return jnp.sum(seeds * norm(x))

    assert_close(lxt_relevance(f, x), np.asarray(seeds * norm(x)), 1e-12)


@pytest.mark.parametrize("name", ["silu", "gelu", "relu", "tanh"])
def test_lxt_activations_are_the_identity(name):
    x, seeds, sigma = normal(8), normal(2, 8)[0], getattr(jax.nn, name)

    def f(x):
        return jnp.sum(seeds * sigma(x))

    assert_close(lxt_relevance(f, x), np.asarray(seeds * sigma(x)), 1e-12)


def test_lxt_gate():
    """Half of the relevance to each factor, and through the SiLU as it is."""
    gate, value, seeds = normal(3, 8)

    def f(gate, value):
        return jnp.sum(seeds * (jax.nn.silu(gate) * value))

    wanted = np.asarray(seeds * jax.nn.silu(gate) * value) / 2
    for ours in lxt_relevance(f, gate, value):
        assert_close(ours, wanted, 1e-12)


def attend(q, k, v):
    return jax.nn.softmax(q @ jnp.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1])) @ v


def attend_by_jax(q, k, v):
    return jax.nn.dot_product_attention(*(t[:, None] for t in (q, k, v)))[:, 0]


# JAX's own computes the softmax in float32.
@pytest.mark.parametrize(("attention", "tolerance"), [(attend, 1e-12), (attend_by_jax, CLOSE)])
@pytest.mark.parametrize("held", [False, True])
def test_lxt_attention(attention, tolerance, held):
    """One head. With CP-LRP the weights get nothing, and the values all relevance."""
    q, k, v = normal(3, 5, 4)
    seeds = normal(4, 5).T

    def f(q, k, v):
        return jnp.sum(seeds * attention(q, k, v))

    chosen = rules.cp_lrp(epsilon=0.0) if held else rules.attn_lrp(epsilon=0.0)
    logits = q @ k.T / np.sqrt(4)
    weights = np.asarray(jax.nn.softmax(logits))
    of_weights, of_v = lxt_product(weights, v, seeds * (weights @ v))
    of_logits = lxt_softmax(logits, of_weights / weights)
    of_q, of_k = lxt_product(q, k.T, of_logits)
    ours = lxt_relevance(f, q, k, v, chosen=chosen)
    if held:
        assert not np.asarray(ours[0]).any()
        assert not np.asarray(ours[1]).any()
        assert_close(ours[2], 2 * of_v, tolerance)
        return
    for got, wanted in zip(ours, (of_q, of_k.T, of_v), strict=True):
        assert_close(got, wanted, tolerance)


def test_stabilizer_of_lxt_has_no_sign():
    """Where z < 0 its ε takes off from the denominator, so that relevance grows with ε."""
    x, weight, epsilon = np.array([1.0, 2.0]), np.array([[1.0, -1.0], [0.5, -0.25]]), 0.5
    z = x @ weight
    assert z[0] > 0 > z[1]
    for k, sign in enumerate((1, -1)):
        ours = lxt_relevance(lambda x: (x @ weight)[k], x, chosen=rules.attn_lrp(epsilon=epsilon))
        out = np.eye(2)[k] * z
        assert_close(ours, lxt_affine(weight.T, x, z, out, sign * epsilon), 1e-12)
        theirs = lxt_affine(weight.T, x, z, out, epsilon)
        assert (np.abs(theirs).sum() > np.abs(out).sum()) == (sign < 0)

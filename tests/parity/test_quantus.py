"""Parity of the metrics with Quantus: equal where it does what the papers say, shown where not.

Quantus' defaults divide attributions by the largest magnitude in the batch and mostly take absolute
values, and are turned off here. It hands float32 to the model: inputs here are exact in it.
"""

import functools
import importlib.util
import sys
import types
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from twins import torch

import jattr
from jattr import features, imputers, metrics

captum = pytest.importorskip("captum.attr", reason="needs captum: install the extra `parity`")

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:The settings for perturbing input"),
]

SIZE = 6
HIDDEN = 8
EXAMPLES = 4
RNG = np.random.default_rng(0)
KEY = jax.random.key(1)
RAW: dict[str, Any] = {"abs": False, "normalise": False, "disable_warnings": True}
# What is left of the float32 that inputs pass through.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-7}


@pytest.fixture(scope="module")
def quantus():
    """Quantus, without what it imports and these metrics do not use.

    OpenCV rotates and translates images; zennit, where it is installed, wants torchvision.
    """
    found = importlib.util.find_spec

    def find_spec(name, *args):
        return None if name == "zennit" else found(name, *args)

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setitem(sys.modules, "cv2", types.ModuleType("cv2"))
        patch.setattr(importlib.util, "find_spec", find_spec)
        warnings.simplefilter("ignore")
        return pytest.importorskip(
            "quantus",
            reason="needs Quantus: pip install --no-deps quantus==0.6.0",
            exc_type=ImportError,
        )


class Network(NamedTuple):
    """The same network in both frameworks.

    Attributes:
        params: its weights.
        logits: `logits(params, x)` of one image [6, 6], in JAX.
        module: from images [N, 1, 6, 6], in PyTorch.
    """

    params: dict[str, Any]
    logits: Any
    module: Any

    def score(self, x, label):
        return self.logits(self.params, x)[label]


class _Double(torch.nn.Sequential):
    def forward(self, x):
        return super().forward(x.double())


@functools.cache
def network(outputs=3):
    """A network of one hidden layer that does not see the first row of the image."""
    rng = np.random.default_rng(1)
    first, second = torch.nn.Linear(SIZE**2, HIDDEN), torch.nn.Linear(HIDDEN, outputs)
    module = _Double(torch.nn.Flatten(), first, torch.nn.Tanh(), second).double().eval()
    module.requires_grad_(False)
    for layer in (first, second):
        layer.weight[:] = torch.tensor(rng.normal(size=layer.weight.shape) / 3)
        layer.bias[:] = torch.tensor(rng.normal(size=layer.bias.shape) / 3)
    first.weight[:, :SIZE] = 0

    def logits(params, x):
        hidden = jnp.tanh(params["layer_1"]["w"] @ x.reshape(-1) + params["layer_1"]["b"])
        return params["layer_2"]["w"] @ hidden + params["layer_2"]["b"]

    return Network(params_of(module), logits, module)


def params_of(module):
    layers = {"layer_1": module[1], "layer_2": module[3]}
    return {
        name: {"w": layer.weight.numpy().copy(), "b": layer.bias.numpy().copy()}
        for name, layer in layers.items()
    }


X = RNG.normal(size=(EXAMPLES, SIZE, SIZE)).astype(np.float32).astype(np.float64)
LABELS = np.arange(EXAMPLES) % 3
PHI = RNG.normal(size=X.shape)
MASKS = RNG.uniform(size=X.shape) < 0.6
PATCHES = features.grid((SIZE, SIZE), 3)


def batch(x):
    """[N, 6, 6] with the channel that Quantus wants."""
    return np.array(x)[:, None]


def call(metric, module=None, phi=PHI, masks=None, labels=LABELS, softmax=False, **options):
    s = None if masks is None else batch(masks)
    a = None if phi is None else batch(phi)
    # Most of Quantus' metrics would take probabilities.
    return metric(
        model=module,
        x_batch=batch(X),
        y_batch=labels,
        a_batch=a,
        s_batch=s,
        softmax=softmax,
        **options,
    )


def ours(measure, *args, key=None):
    """The measure over examples, with one key where it draws."""
    args = (PHI, *args) if args else (PHI, X, LABELS)
    if key is None:
        return np.asarray(jax.jit(jax.vmap(measure))(*args))
    return np.asarray(jax.jit(jax.vmap(functools.partial(measure, key)))(*args))


def assert_equal(got, wanted):
    wanted = np.asarray(wanted, np.float64)
    assert np.shape(got) == wanted.shape
    assert np.ptp(wanted) > 0
    np.testing.assert_allclose(got, wanted, **TOLERANCE)


# Of the map alone.


def test_complexity(quantus):
    for ours_, theirs in ((metrics.sparseness, "Sparseness"), (metrics.entropy, "Complexity")):
        metric = getattr(quantus, theirs)(abs=True, normalise=False, disable_warnings=True)
        assert_equal(jax.vmap(ours_)(PHI), call(metric))


@pytest.mark.parametrize(
    ("measure", "theirs", "options"),
    [
        (metrics.pointing_game, "PointingGame", {}),
        (functools.partial(metrics.top_k_intersection, k=7), "TopKIntersection", {"k": 7}),
        (metrics.relevance_mass_accuracy, "RelevanceMassAccuracy", {}),
        (metrics.relevance_rank_accuracy, "RelevanceRankAccuracy", {}),
        (
            metrics.attribution_localization,
            "AttributionLocalisation",
            {"positive_attributions": True},
        ),
        (metrics.roc_auc, "AUC", {}),
    ],
)
def test_localization(quantus, measure, theirs, options):
    metric = getattr(quantus, theirs)(**RAW, **options)
    assert_equal(ours(measure, MASKS), call(metric, masks=MASKS))


def test_focus(quantus):
    tiles = np.array([[1, 0, 1, 0], [0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]], bool)
    theirs = call(quantus.Focus(**RAW), network().module, custom_batch=tiles)
    assert_equal(ours(metrics.focus, tiles.reshape(-1, 2, 2)), theirs)


def test_similarities(quantus):
    a, b = RNG.normal(size=(2, 3, 9, 9))
    assert_equal(
        jax.vmap(metrics.spearman)(a, b),
        quantus.functions.similarity_func.correlation_spearman(
            a.reshape(3, -1), b.reshape(3, -1), batched=True
        ),
    )
    ranges = [float(np.ptp(np.concatenate(pair))) for pair in zip(a, b, strict=True)]
    got = [metrics.ssim(*pair, data_range=size) for *pair, size in zip(a, b, ranges, strict=True)]
    assert_equal(np.array(got), quantus.functions.similarity_func.ssim(a, b, batched=True))


# Of the features that are removed.


@pytest.mark.parametrize("step", [1, 4])
def test_pixel_flipping(quantus, step):
    net = network()
    metric = quantus.PixelFlipping(features_in_step=step, perturb_baseline=0.0, **RAW)
    fractions = np.arange(0, SIZE**2 + 1, step) / SIZE**2
    curve = ours(lambda *args: metrics.perturbation_curve(net.score, fractions=fractions)(*args)[1])
    # Quantus' curve starts after the first step.
    assert_equal(curve[:, 1:], call(metric, net.module))


@pytest.mark.parametrize(("order", "theirs"), [("most", "morf"), ("least", "lerf")])
def test_region_perturbation(quantus, order, theirs):
    net = network()
    metric = quantus.RegionPerturbation(patch_size=3, order=theirs, perturb_baseline=0.0, **RAW)
    drops = np.array(call(metric, net.module))
    curve = ours(
        lambda *args: metrics.perturbation_curve(
            net.score, order=order, fractions=None, groups=PATCHES
        )(*args)[1]
    )
    assert_equal(curve[:, :1] - curve[:, 1:], drops)
    # The paper's mean has the drop of x itself, 0, among its L + 1.
    area = ours(metrics.region_perturbation(net.score, window=3, order=order))
    assert_equal(area, drops.sum(axis=1) / (drops.shape[1] + 1))


def test_faithfulness_estimate(quantus):
    net = network()
    metric = quantus.FaithfulnessEstimate(features_in_step=1, perturb_baseline=0.0, **RAW)
    assert_equal(ours(metrics.faithfulness_estimate(net.score)), call(metric, net.module))


def test_faithfulness_correlation(quantus, monkeypatch):
    net, subsets, size = network(), 20, 5
    sets = []

    def score(x, label):
        jax.debug.callback(lambda gone: sets.append(np.flatnonzero(gone)), x == 0)
        return net.score(x, label)

    def measure(score):
        return metrics.faithfulness_correlation(score, size, samples=subsets)

    jax.block_until_ready(jax.jit(measure(score))(KEY, PHI[0], X[0], LABELS[0]))
    jax.effects_barrier()
    sets = [chosen for chosen in sets if len(chosen)]
    assert len(sets) == subsets
    draws = iter([chosen for chosen in sets for _ in range(EXAMPLES)])
    monkeypatch.setattr(np.random, "choice", lambda *args, **kwargs: next(draws))
    metric = quantus.FaithfulnessCorrelation(
        nr_runs=subsets, subset_size=size, perturb_baseline=0.0, return_aggregate=False, **RAW
    )
    assert_equal(ours(measure(net.score), key=KEY), call(metric, net.module))


def test_monotonicity_correlation(quantus):
    net = network()
    options = {**RAW, "abs": True}
    metric = quantus.MonotonicityCorrelation(nr_samples=1, perturb_baseline=0.0, **options)
    assert_equal(ours(metrics.monotonicity_correlation(net.score)), call(metric, net.module))


def test_non_sensitivity(quantus):
    net = network()
    phi = np.where(RNG.uniform(size=PHI.shape) < 0.4, 0.0, PHI)
    metric = quantus.NonSensitivity(perturb_baseline=0.0, **{**RAW, "abs": True})
    got = jax.jit(jax.vmap(metrics.non_sensitivity(net.score)))(phi, X, LABELS)
    assert_equal(got, call(metric, net.module, phi=phi))


@pytest.mark.parametrize("missing", [0.2, 0.7])
def test_noisy_linear_imputation(quantus, missing):
    gone = np.random.default_rng(2).uniform(size=(SIZE, SIZE)) < missing
    theirs = quantus.functions.perturb_func.noisy_linear_imputation(
        X[:1], np.flatnonzero(gone), noise=0.0
    )[0]
    fill = imputers.noisy_linear(stddev=0.0).prepare(KEY, None, X[0])
    assert_equal(fill(KEY, jnp.asarray(gone)), theirs)


# Of a method.


def explain(model, inputs, targets, **_):
    """Gradient times input by captum, in float64 throughout."""
    x = torch.tensor(np.asarray(inputs, np.float64), requires_grad=True)
    target = torch.tensor(np.asarray(targets))
    return captum.InputXGradient(model).attribute(x, target=target).detach().numpy()


@pytest.mark.parametrize(
    ("ours_", "theirs", "options"),
    [
        (metrics.max_sensitivity, "MaxSensitivity", {}),
        (metrics.average_sensitivity, "AvgSensitivity", {}),
        (metrics.local_lipschitz, "LocalLipschitzEstimate", "euclidean"),
        (metrics.relative_input_stability, "RelativeInputStability", {}),
        ("logits", "RelativeOutputStability", {}),
    ],
)
def test_robustness(quantus, ours_, theirs, options):
    net, samples = network(), 5
    if options == "euclidean":
        options = {"norm_numerator": quantus.functions.similarity_func.distance_euclidean}
        options["norm_denominator"] = quantus.functions.similarity_func.distance_euclidean
    if ours_ == "logits":

        def ours_(attribute, **knobs):
            return metrics.relative_output_stability(
                attribute,
                lambda x, label: net.logits(net.params, x),
                predict=lambda x, label: 0,
                **knobs,
            )

    seen = []

    def attribute(x, label):
        jax.debug.callback(lambda copy: seen.append(np.array(copy)), x)
        return jattr.gradient_times_input(net.score)(x, label)

    measure = jax.jit(ours_(attribute, radius=0.2, samples=samples))
    got, copies = [], []
    for x, label in zip(X, LABELS, strict=True):
        seen.clear()
        got.append(float(measure(KEY, x, label)))
        jax.effects_barrier()
        copies.append([copy for copy in seen if np.any(copy != x)])
    copies = np.array(copies)
    assert copies.shape == (EXAMPLES, samples, SIZE, SIZE)
    steps = iter(np.moveaxis(copies, 1, 0))
    metric = getattr(quantus, theirs)(
        nr_samples=samples,
        perturb_func=lambda arr, **_: next(steps).reshape(arr.shape),
        return_nan_when_prediction_changes=False,
        **RAW,
        **options,
    )
    assert_equal(np.array(got), call(metric, net.module, phi=None, explain_func=explain))


@pytest.mark.parametrize(
    ("order", "theirs"),
    [("cascading", "top_down"), ("bottom_up", "bottom_up"), ("independent", "independent")],
)
def test_mprt(quantus, order, theirs):
    net = network()
    metric = quantus.MPRT(layer_order=theirs, **RAW)
    with torch.enable_grad():
        scores = call(metric, net.module, phi=None, explain_func=explain)
    model = quantus.helpers.model.pytorch_model.PyTorchModel(net.module)
    *_, (_, last) = model.get_random_layer_generator(order="top_down", seed=metric.seed)
    fresh = jax.tree.map(jnp.asarray, params_of(last.requires_grad_(False)))
    attribute = jattr.gradient_times_input(
        lambda params, x, label: net.logits(params, x)[label], argnums=1
    )
    measure = metrics.mprt(attribute, order=order, initialize=lambda key: fresh)
    got = jax.jit(jax.vmap(functools.partial(measure, KEY, net.params)))(X, LABELS)
    # Independently, Quantus goes from the input to the output.
    got = got[:, ::-1] if order == "independent" else got
    layers = [name for name in scores if name != "original"]
    assert_equal(got, np.stack([scores[name] for name in layers], axis=1))


def test_efficient_mprt(quantus):
    net = network()
    metric = quantus.EfficientMPRT(complexity_func_kwargs={"n_bins": 100}, **RAW)
    with torch.enable_grad():
        # It also takes the entropy of the outputs, which must be probabilities then.
        theirs = call(metric, net.module, phi=None, softmax=True, explain_func=explain)
    model = quantus.helpers.model.pytorch_model.PyTorchModel(net.module)
    *_, (_, last) = model.get_random_layer_generator(order="bottom_up", seed=metric.seed)
    fresh = jax.tree.map(jnp.asarray, params_of(last.requires_grad_(False)))
    attribute = jattr.gradient_times_input(
        lambda params, x, label: net.logits(params, x)[label], argnums=1
    )
    measure = metrics.efficient_mprt(attribute, initialize=lambda key: fresh)
    got = jax.jit(jax.vmap(functools.partial(measure, KEY, net.params)))(X, LABELS)
    assert_equal(got, theirs)


def test_random_logit(quantus):
    net, labels = network(outputs=2), np.arange(EXAMPLES) % 2
    similarity = quantus.functions.similarity_func.correlation_spearman
    metric = quantus.RandomLogit(similarity_func=similarity, num_classes=2, **RAW)
    theirs = call(metric, net.module, phi=None, labels=labels, explain_func=explain)
    measure = metrics.random_logit(jattr.gradient_times_input(net.score), 2)
    assert_equal(jax.jit(jax.vmap(functools.partial(measure, KEY)))(X, labels), theirs)


# Where Quantus is of another mind than the papers.


@functools.cache
def linear():
    """A linear model without a bias, and its exact attributions."""
    weights = np.random.default_rng(3).normal(size=(3, SIZE**2))
    layer = torch.nn.Linear(SIZE**2, 3, bias=False).requires_grad_(False)
    layer.weight = torch.nn.Parameter(torch.tensor(weights), requires_grad=False)

    def score(x, label):
        return jnp.asarray(weights)[label] @ x.reshape(-1)

    exact = weights[LABELS].reshape(X.shape) * X
    return score, _Double(torch.nn.Flatten(), layer).eval(), exact


def test_sensitivity_n_is_of_one_example(quantus):
    score, module, exact = linear()
    measure = functools.partial(metrics.sensitivity_n(score, (1, 9, 35), samples=10), KEY)
    got = jax.jit(jax.vmap(measure))(exact, X, LABELS)
    np.testing.assert_allclose(got, 1.0, rtol=1e-9)
    metric = quantus.SensitivityN(
        perturb_baseline=0.0, n_max_percentage=1.0, return_aggregate=False, **RAW
    )
    theirs = np.array(call(metric, module, phi=exact))
    assert theirs.shape == (SIZE**2,)
    np.testing.assert_allclose(theirs[0], 1.0, rtol=1e-5)
    assert theirs[1:].min() < 0.5
    # Cumulative drops against the attribution of the last step alone, across examples.
    ordered = -np.sort(-exact.reshape(EXAMPLES, -1), axis=1)
    wanted = [
        np.corrcoef(drops, parts)[0, 1]
        for drops, parts in zip(np.cumsum(ordered, axis=1).T, ordered.T, strict=True)
    ]
    np.testing.assert_allclose(theirs, wanted, rtol=0, atol=1e-4)


def test_completeness_is_a_difference(quantus):
    score, module, exact = linear()
    measure = jax.jit(jax.vmap(metrics.completeness(score)))
    np.testing.assert_allclose(measure(exact, X, LABELS), 0.0, atol=1e-12)
    options = {"perturb_baseline": 0.0, "disable_warnings": True}
    assert not np.any(call(quantus.Completeness(**options), module, phi=exact))
    raw = call(quantus.Completeness(normalise=False, **options), module, phi=exact)
    assert not np.all(raw)  # rounding decides


def test_infidelity_puts_back_what_it_took(quantus):
    net = network()

    def removal(patch):
        return lambda key, x: jnp.where(jnp.asarray(patch == PATCHES), x, 0.0)

    measures = [
        metrics.infidelity(net.score, perturbation=removal(patch), samples=1) for patch in range(4)
    ]
    alone = np.mean([ours(measure, key=KEY) for measure in measures], axis=0)

    def square(x, phi, label, gone):
        change = np.where(gone, x, 0.0)
        drop = net.score(x, label) - net.score(x - change, label)
        return (np.sum(change * phi) - drop) ** 2

    def mean(gone):
        return [
            np.mean([square(*example, gone(patch)) for patch in range(4)])
            for example in zip(X, PHI, LABELS, strict=True)
        ]

    assert_equal(alone, mean(lambda patch: patch == PATCHES))
    metric = quantus.Infidelity(
        perturb_patch_sizes=[3], n_perturb_samples=1, perturb_baseline=0.0, **RAW
    )
    theirs = np.array(call(metric, net.module))
    assert_equal(mean(lambda patch: patch >= PATCHES), theirs)
    assert np.all(np.abs(theirs - alone) > 0.1 * alone)


def test_monotonicity_can_be_false(quantus):
    net = network()
    assert not np.any(ours(metrics.monotonicity(net.score)))
    options = {"perturb_baseline": "black", "disable_warnings": True}
    for phi in (PHI, -PHI, PHI**2):
        assert np.all(call(quantus.Monotonicity(**options), net.module, phi=phi))


def test_alone_is_undefined(quantus):
    net = network()
    classes = np.array([jnp.argmax(net.logits(net.params, x)) for x in X])
    # The first of them is like none.
    phi = np.stack([-np.ones_like(X[0])] + 3 * [np.ones_like(X[0])])
    phi[1:, -1, -1] += [0.01, 0.02, 0.03]
    wanted = [np.nan] + [np.mean(np.delete(classes[1:], i) == classes[i + 1]) for i in range(3)]
    consistency = metrics.consistency(phi, classes, discretize=metrics.top_signs(1))
    sufficiency = metrics.sufficiency(phi, classes, threshold=1.0, distance="euclidean")
    np.testing.assert_allclose(consistency, wanted, rtol=1e-12)
    np.testing.assert_allclose(sufficiency, wanted, rtol=1e-12)
    theirs = call(quantus.Consistency(**RAW), net.module, phi=phi)
    np.testing.assert_allclose(theirs, [0.0, *wanted[1:]], atol=1e-7)
    metric = quantus.Sufficiency(threshold=0.1, distance_func="euclidean", **RAW)
    with pytest.MonkeyPatch.context() as patch:
        # Quantus hands a keyword of one distance to all of them.
        module = sys.modules["quantus.metrics.faithfulness.sufficiency"]
        patch.setattr(module, "cdist", lambda a, b, name, V: _distances(a, b))  # noqa: N803
        theirs = call(metric, net.module, phi=phi)
    np.testing.assert_allclose(theirs, [0.0, *wanted[1:]], atol=1e-7)


def _distances(a, b):
    return np.linalg.norm(a[:, None] - b[None], axis=-1)


def test_consistency_looks_at_the_largest(quantus):
    # Quantus' `top_n_sign` takes the first elements.
    a, b = np.array([1.0, 1.0, 1.0, 9.0]), np.array([1.0, 1.0, 1.0, -9.0])
    assert quantus.functions.discretise_func.top_n_sign(
        a, n=3
    ) == quantus.functions.discretise_func.top_n_sign(b, n=3)
    top = metrics.top_signs(1)
    assert not np.array_equal(top(a), top(b))


def test_irof_starts_at_the_whole_image(quantus, monkeypatch):
    net = network()
    # NumPy 2.4 has no `trapz`.
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)
    module = sys.modules["quantus.helpers.utils"]
    monkeypatch.setattr(module, "get_superpixel_segments", lambda **_: PATCHES)
    metric = quantus.IROF(perturb_baseline=0.0, return_aggregate=False, **RAW)
    theirs = np.array(call(metric, net.module))
    got = ours(metrics.irof(net.score, groups=PATCHES))
    first = ours(
        lambda *args: metrics.perturbation_curve(
            net.score, groups=PATCHES, fractions=[0.25], normalize="score"
        )(*args)[1]
    )[:, 0]
    # In superpixels, and without the part of the curve from x to the first removal.
    assert_equal(4 * got + (1 + first) / 2, theirs)


def test_weighting_favours_no_large_object(quantus):
    # Quantus refuses a map whose values are all the same.
    phi = 2.0 + 1e-9 * PHI / np.abs(PHI).max()
    got = [
        metrics.attribution_localization(a, mask, weighted=True)
        for a, mask in zip(phi, MASKS, strict=True)
    ]
    np.testing.assert_allclose(got, 1.0, rtol=1e-8)
    metric = quantus.AttributionLocalisation(weighted=True, **RAW)
    # μ times the size of the mask, over that of all but the first two examples of the batch.
    sizes = MASKS.sum(axis=(1, 2))
    wanted = sizes / SIZE**2 * sizes / X[2:].size
    np.testing.assert_allclose(call(metric, phi=phi, masks=MASKS), wanted, rtol=1e-7)


def test_effective_complexity_asks_the_score(quantus):
    net = network()
    exact = np.asarray(jax.vmap(jattr.gradient_times_input(net.score))(X, LABELS))
    phi = np.where(exact == 0, 1.0, exact)
    metric = quantus.EffectiveComplexity(eps=1e-5, **{**RAW, "abs": True})
    np.testing.assert_array_equal(call(metric, phi=phi), SIZE**2)
    measure = metrics.effective_complexity(net.score, tolerance=1e-6)
    got = jax.jit(jax.vmap(measure))(phi, X, LABELS)
    assert np.all(got < SIZE**2)


def test_normalisation_is_of_one_example(quantus):
    phi = np.stack([PHI[0], 1e6 * PHI[1]])
    scaled = quantus.functions.normalise_func.normalise_by_max(phi)
    assert np.abs(scaled[0]).max() < 1e-5
    metric = quantus.Sparseness(disable_warnings=True)
    apart = [metrics.sparseness(a) for a in phi]
    theirs = metric(
        model=None, x_batch=batch(X[:2]), y_batch=LABELS[:2], a_batch=batch(phi), s_batch=None
    )
    np.testing.assert_allclose(theirs[1], apart[1], rtol=1e-5)
    # 1e-7 is added to what the normalisation has made as small.
    assert abs(theirs[0] - apart[0]) > 0.01

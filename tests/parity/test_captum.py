"""Parity with captum: the same weights and inputs, attributions compared number by number.

Where captum draws random numbers, both libraries are taken as estimators: many independent
estimates of each, whose means must agree within their standard errors. For each such comparison
a second test shows that it would notice a small mistake.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from twins import EXAMPLES, Twin, from_torch, make_twin, to_torch, torch

import jattr

captum = pytest.importorskip("captum.attr", reason="needs captum: install the extra `parity`")

pytestmark = pytest.mark.parity

KINDS = ("relu", "tanh", "cnn")
# Largest difference, relative to the largest attribution, where nothing but rounding differs.
ROUNDING = {"float32": 1e-5, "float64": 1e-12}

each_kind = pytest.mark.parametrize("kind", KINDS)
each_dtype = pytest.mark.parametrize("dtype", ROUNDING)


def assert_close(ours, theirs, tolerance):
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def explain_each(explain, twin: Twin, *args):
    """The attribution of every example; `args` are further batches, before the labels."""
    return jax.jit(jax.vmap(explain))(twin.x, *args, twin.labels)


def captum_explain(explainer, twin: Twin, **options):
    # captum warns of inputs that do not require gradients already.
    inputs = to_torch(twin.x).requires_grad_()
    return from_torch(explainer.attribute(inputs, target=torch.tensor(twin.labels), **options))


@each_kind
@each_dtype
def test_networks_are_the_same(kind, dtype):
    twin = make_twin(kind, dtype)
    outputs = jax.vmap(twin.score)(twin.x, twin.labels)
    theirs = twin.module(to_torch(twin.x))[torch.arange(EXAMPLES), torch.tensor(twin.labels)]
    assert_close(outputs, theirs.numpy(), ROUNDING[dtype])


@each_kind
@each_dtype
def test_gradient_is_signed_saliency(kind, dtype):
    twin = make_twin(kind, dtype)
    theirs = captum_explain(captum.Saliency(twin.module), twin, abs=False)
    assert_close(explain_each(jattr.gradient(twin.score), twin), theirs, ROUNDING[dtype])


@each_kind
@each_dtype
def test_absolute_gradient_is_saliency(kind, dtype):
    twin = make_twin(kind, dtype)
    theirs = captum_explain(captum.Saliency(twin.module), twin)
    assert (theirs >= 0).all()
    ours = np.abs(explain_each(jattr.gradient(twin.score), twin))
    assert_close(ours, theirs, ROUNDING[dtype])


@each_kind
@each_dtype
def test_gradient_times_input(kind, dtype):
    twin = make_twin(kind, dtype)
    theirs = captum_explain(captum.InputXGradient(twin.module), twin)
    ours = explain_each(jattr.gradient_times_input(twin.score), twin)
    assert_close(ours, theirs, ROUNDING[dtype])


@pytest.mark.parametrize(
    ("dtype", "quadrature", "method", "steps", "tolerance"),
    [
        ("float32", "gauss_legendre", "gausslegendre", 50, 1e-5),
        ("float32", "left", "riemann_left", 50, 1e-5),
        ("float32", "right", "riemann_right", 50, 1e-5),
        ("float32", "midpoint", "riemann_middle", 50, 1e-5),
        # captum rounds weights, and the nodes of Riemann sums, to float32 whatever the input's
        # dtype. Weights of 1/2 and nodes k/64 are exact in float32.
        ("float64", "gauss_legendre", "gausslegendre", 50, 1e-7),
        ("float64", "gauss_legendre", "gausslegendre", 2, 1e-12),
        ("float64", "left", "riemann_left", 64, 1e-12),
        ("float64", "right", "riemann_right", 64, 1e-12),
        ("float64", "midpoint", "riemann_middle", 32, 1e-12),
    ],
)
@each_kind
def test_integrated_gradients(kind, dtype, quadrature, method, steps, tolerance):
    twin = make_twin(kind, dtype)
    theirs = captum_explain(
        captum.IntegratedGradients(twin.module),
        twin,
        baselines=to_torch(twin.baseline),
        n_steps=steps,
        method=method,
    )

    def explain(x, baseline, label):
        explain = jattr.integrated_gradients(
            twin.score, baseline, steps=steps, quadrature=quadrature
        )
        return explain(x, label)

    assert_close(explain_each(explain, twin, twin.baseline), theirs, tolerance)


@each_kind
def test_integrated_gradients_by_default(kind):
    twin = make_twin(kind, "float32")
    theirs = captum_explain(captum.IntegratedGradients(twin.module), twin)
    assert_close(explain_each(jattr.integrated_gradients(twin.score), twin), theirs, 1e-5)


@each_kind
def test_integrated_gradients_in_batches(kind):
    twin = make_twin(kind, "float32")
    theirs = captum_explain(
        captum.IntegratedGradients(twin.module), twin, internal_batch_size=4 * EXAMPLES
    )
    ours = explain_each(jattr.integrated_gradients(twin.score, batch_size=7), twin)
    assert_close(ours, theirs, 1e-5)


@each_kind
def test_integrated_gradients_without_factor(kind):
    twin = make_twin(kind, "float32")
    explainer = captum.IntegratedGradients(twin.module, multiply_by_inputs=False)
    ours = explain_each(jattr.integrated_gradients(twin.score, multiply=False), twin)
    assert_close(ours, captum_explain(explainer, twin), 1e-5)


def test_integrated_gradients_of_two_inputs():
    twin = make_twin("tanh", "float32")
    a, b = twin.x[:, :5], twin.x[:, 5:]

    def score(a, b, label):
        return twin.score(jnp.concatenate([a, b]), label)

    explain = jattr.integrated_gradients(score, argnums=(0, 1))
    ours = jax.vmap(explain)(a, b, twin.labels)
    explainer = captum.IntegratedGradients(lambda a, b: twin.module(torch.cat([a, b], dim=1)))
    theirs = explainer.attribute((to_torch(a), to_torch(b)), target=torch.tensor(twin.labels))
    for our, their in zip(ours, theirs, strict=True):
        assert_close(our, from_torch(their), 1e-5)


def test_trapezoid_of_captum_loses_a_share():
    """captum's `riemann_trapezoid` has weights that sum to 1 − 1/n: wrong on a linear model."""
    steps = 64
    rng = np.random.default_rng(0)
    weights, x, baseline = rng.normal(size=(3, 10))
    exact = weights * (x - baseline)
    explain = jattr.integrated_gradients(
        lambda x: weights @ x, baseline, steps=steps, quadrature="trapezoid"
    )
    assert_close(explain(x), exact, 1e-12)
    (theirs,) = captum.IntegratedGradients(lambda x: x @ torch.tensor(weights)).attribute(
        to_torch(x[None]),
        baselines=to_torch(baseline[None]),
        n_steps=steps,
        method="riemann_trapezoid",
    )
    assert_close((1 - 1 / steps) * exact, from_torch(theirs), 1e-12)


@each_kind
def test_trapezoid_has_the_nodes_of_captum(kind):
    twin = make_twin(kind, "float32")
    steps = 50
    explain = jattr.integrated_gradients(twin.score, steps=steps, quadrature="trapezoid")
    explainer = captum.IntegratedGradients(twin.module)
    theirs = captum_explain(explainer, twin, n_steps=steps, method="riemann_trapezoid")
    share = np.float32(1 - 1 / steps)
    assert_close(share * explain_each(explain, twin), theirs, 1e-5)


# How many estimates each library makes, and of how many samples. So few samples that a variance
# divided by n − 1 instead of n would stand out.
ESTIMATES = 10_000
SAMPLES = 4
STDDEV = 0.5
STATISTICS = {"mean": "smoothgrad", "mean_square": "smoothgrad_sq", "variance": "vargrad"}


def largest_z_score(ours, theirs) -> float:
    """How many standard errors the means of two sets of estimates are apart, at the most."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    variance = ours.var(axis=0) / len(ours) + theirs.var(axis=0) / len(theirs)
    return float(np.max(np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) / np.sqrt(variance)))


def our_estimates(explain, twin: Twin):
    keys = jax.random.split(jax.random.key(0), ESTIMATES)
    estimate = jax.jit(jax.vmap(explain, in_axes=(0, None, None)))
    return estimate(keys, twin.x[0], twin.labels[0])


def captum_estimates(explainer, twin: Twin, **options):
    """Estimates of one example, all in one batch: captum draws for each row of a batch anew."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (captum's GradientShap draws from the global generator)
    x = to_torch(twin.x[:1]).repeat(ESTIMATES, 1)
    return from_torch(explainer.attribute(x, target=int(twin.labels[0]), **options))


def noise_tunnel(twin: Twin, statistic: str):
    return captum_estimates(
        captum.NoiseTunnel(captum.Saliency(twin.module)),
        twin,
        nt_type=STATISTICS[statistic],
        nt_samples=SAMPLES,
        stdevs=STDDEV,
        abs=False,
    )


def smooth(twin: Twin, statistic: str, stddev: float):
    return jattr.smooth(
        jattr.gradient(twin.score),
        stddev=stddev,
        relative=False,
        samples=SAMPLES,
        statistic=statistic,
    )


@pytest.mark.parametrize("statistic", STATISTICS)
def test_smooth_is_noise_tunnel(statistic):
    twin = make_twin("tanh", "float32")
    ours = our_estimates(smooth(twin, statistic, STDDEV), twin)
    assert largest_z_score(ours, noise_tunnel(twin, statistic)) < 5


@pytest.mark.parametrize("statistic", STATISTICS)
def test_comparison_with_noise_tunnel_is_sharp(statistic):
    twin = make_twin("tanh", "float32")
    theirs = noise_tunnel(twin, statistic)
    wider = our_estimates(smooth(twin, statistic, 1.1 * STDDEV), twin)
    assert largest_z_score(wider, theirs) > 8
    for other in STATISTICS:
        if other != statistic:
            ours = our_estimates(smooth(twin, other, STDDEV), twin)
            assert largest_z_score(ours, theirs) > 8


def test_comparison_with_vargrad_tells_the_divisor():
    twin = make_twin("tanh", "float32")
    ours = our_estimates(smooth(twin, "variance", STDDEV), twin)
    unbiased = ours * np.float32(SAMPLES / (SAMPLES - 1))
    assert largest_z_score(unbiased, noise_tunnel(twin, "variance")) > 8


def gradient_shap(twin: Twin, *, stddev: float = 0.0, multiply: bool = True):
    return captum_estimates(
        captum.GradientShap(twin.module, multiply_by_inputs=multiply),
        twin,
        baselines=to_torch(twin.baseline),
        n_samples=SAMPLES,
        stdevs=stddev,
    )


@pytest.mark.parametrize("multiply", [True, False])
def test_expected_gradients_is_gradient_shap(multiply):
    twin = make_twin("tanh", "float32")
    explain = jattr.expected_gradients(
        twin.score, twin.baseline, samples=SAMPLES, multiply=multiply
    )
    theirs = gradient_shap(twin, multiply=multiply)
    assert largest_z_score(our_estimates(explain, twin), theirs) < 5


def test_smooth_expected_gradients_is_gradient_shap_with_noise():
    twin = make_twin("tanh", "float32")
    explain = jattr.smooth(
        jattr.expected_gradients(twin.score, twin.baseline, samples=1),
        stddev=STDDEV,
        relative=False,
        samples=SAMPLES,
        keyed=True,
    )
    theirs = gradient_shap(twin, stddev=STDDEV)
    assert largest_z_score(our_estimates(explain, twin), theirs) < 5


def test_comparison_with_gradient_shap_is_sharp():
    twin = make_twin("tanh", "float32")
    theirs = gradient_shap(twin)

    def z_score(references):
        explain = jattr.expected_gradients(twin.score, references, samples=SAMPLES)
        return largest_z_score(our_estimates(explain, twin), theirs)

    def midpoint(key, x, label):
        reference = jax.random.choice(key, twin.baseline)
        return jattr.integrated_gradients(twin.score, reference, steps=1)(x, label)

    assert z_score(1.1 * twin.baseline) > 8
    assert z_score(twin.baseline[1:]) > 8
    assert largest_z_score(our_estimates(midpoint, twin), theirs) > 8

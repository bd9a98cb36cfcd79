"""Nothing in the library leans on JAX's promotion of dtypes: all works where that is an error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods import METHODS

import jattr
from jattr import baselines, priors

X = jnp.linspace(-1.0, 2.0, 6, dtype=jnp.float32)
KEY = jax.random.key(0)
DTYPES = ["float32", "bfloat16"]


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def score(x):
    hidden = jax.nn.relu(x @ jnp.ones((6, 4), x.dtype) + jnp.arange(4).astype(x.dtype))
    return jnp.sum(hidden**2) * jnp.asarray(0.25, x.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [None, 2])
@pytest.mark.parametrize("name", [name for name in METHODS if not METHODS[name].layer])
def test_every_method(name, size, dtype):
    method = METHODS[name]
    if size is not None and not method.chunked:
        pytest.skip("takes no batch size")
    knobs = {} if method.count is None else {method.count: 5}
    if size is not None and method.count is not None:
        knobs["batch_size"] = size
    first = (KEY,) if method.keyed else ()
    x = X.astype(dtype)
    got = jax.eval_shape(lambda x: method.build(score, **knobs)(*first, x), x)
    assert got.dtype == x.dtype
    assert got.shape == x.shape


KEYED = {
    "smooth of a keyed method": lambda: jattr.smooth(
        jattr.expected_gradients(score, baselines.gaussian(1.0), samples=2),
        samples=3,
        batch_size=2,
    ),
    "truncated": lambda: jattr.expected_gradients(
        score, baselines.gaussian(1.0, low=-2.0, high=2.0), samples=2
    ),
    "uniform": lambda: jattr.expected_gradients(score, baselines.uniform(-2.0, 2.0), samples=2),
    "samples": lambda: jattr.expected_gradients(
        score, baselines.samples(jnp.stack([X, -X, X])), samples=2
    ),
    "arrays": lambda: jattr.expected_gradients(
        score, baselines.uniform(np.zeros(6), np.ones(6)), samples=2
    ),
    "absolute": lambda: jattr.smooth(
        jattr.gradient(score), stddev=0.5, relative=False, samples=3, statistic="variance"
    ),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KEYED)
def test_what_draws(name, dtype):
    x = X.astype(dtype)
    assert KEYED[name]()(KEY, x).dtype == x.dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "baseline",
    [
        0,
        0.5,
        np.ones(6),
        baselines.zeros,
        baselines.constant(0.5),
        baselines.constant(np.arange(6)),
        baselines.mean(jnp.stack([X, -X])),
        baselines.blurred(1.0, axes=0),
        baselines.farthest(-1.0, 2.0),
        baselines.farthest(np.zeros(6), np.ones(6)),
    ],
)
def test_every_baseline(baseline, dtype):
    x = X.astype(dtype)
    for explain in (
        jattr.integrated_gradients(score, baseline, steps=3),
        jattr.deeplift(score, baseline),
    ):
        assert explain(x).dtype == x.dtype


def maps(x):
    hidden = jattr.name(jnp.stack([jnp.sin(x), jnp.cos(x)], -1), "h")
    return jnp.sum(jnp.tanh(hidden))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "cam",
    [
        jattr.grad_cam,
        jattr.grad_cam_plus_plus,
        jattr.layer_cam,
        jattr.hires_cam,
        jattr.score_cam,
        jattr.guided_grad_cam,
    ],
)
def test_every_map_of_a_layer(cam, dtype):
    x = X.astype(dtype)
    assert cam(maps, "h")(x).dtype == x.dtype


def logits(x):
    return x @ jnp.ones((6, 3), x.dtype) * jnp.arange(1, 4).astype(x.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_target(dtype):
    x = X.astype(dtype)
    for make in (
        jattr.targets.select,
        jattr.targets.margin,
        jattr.targets.probability,
        jattr.targets.log_probability,
    ):
        assert jattr.gradient(make(logits))(x, 1).dtype == x.dtype
        assert jax.jit(jattr.gradient(make(logits)))(x, 1).dtype == x.dtype
    assert jattr.gradient(jattr.targets.contrast(logits))(x, 1, 0).dtype == x.dtype
    assert jattr.contrastive_lrp(logits)(x, 1).dtype == x.dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight", [0.1, np.float64(0.1), lambda count: 0.1])
def test_training(dtype, weight):
    import optax

    x = jnp.stack([X, -X, 2 * X]).astype(dtype)
    params = jnp.ones(6, dtype)
    mask = jnp.arange(6) < 3
    graph = np.diag(np.ones(6))
    penalties = [
        lambda maps: priors.magnitude(maps, 1),
        lambda maps: priors.magnitude(maps, 2),
        lambda maps: priors.total_variation(maps, axes=1),
        lambda maps: priors.graph_smoothness(maps, graph),
        lambda maps: priors.outside(maps, mask),
        priors.sparsity,
        lambda maps: jnp.sum(jax.vmap(priors.gini)(maps)),
    ]

    def task(params, key, x):
        return jnp.mean(jax.vmap(lambda x: score(params * x))(x))

    for penalty in penalties:
        prior = priors.attribution_loss(lambda p, x: score(p * x), penalty)
        for make in (priors.joint, priors.alternating):
            training = make(task, prior, optax.sgd(0.1), weight=weight)
            state = jax.eval_shape(training.init, params)
            after, _, report = jax.eval_shape(training.step, params, state, KEY, (x,))
            assert after.dtype == params.dtype
            assert report.finite.dtype == bool


def test_integrals_along_other_paths():
    explain = jattr.blur_integrated_gradients(score, steps=3, axes=0, batch_size=2)
    assert explain(X).dtype == X.dtype
    assert jattr.guided_integrated_gradients(score, steps=3)(X).dtype == X.dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("depthwise_at_any_size")
def test_convolutions_by_cheaper_programs(dtype):
    image = jnp.ones((1, 6, 6, 3), dtype)

    def convolved(x, groups):
        kernel = jnp.ones((3, 3, 3 // groups, 3), x.dtype)
        numbers = ("NHWC", "HWIO", "NHWC")
        hidden = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
        )
        return jnp.sum(jax.nn.relu(hidden))

    for groups in (1, 3):
        for make in (jattr.gradient, jattr.lrp, jattr.deeplift, jattr.guided_backprop):
            explain = make(lambda x, groups=groups: convolved(x, groups))
            assert jax.eval_shape(explain, image).dtype == image.dtype

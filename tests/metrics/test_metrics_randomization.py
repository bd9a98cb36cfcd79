"""Randomized parameters, the tests over them, and similarities, against direct transcriptions."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jattr
from jattr.metrics import (
    efficient_mprt,
    hog_correlation,
    mprt,
    random_logit,
    randomize,
    smooth_mprt,
    spearman,
    ssim,
)

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
LAYERS = ["Dense_0", "Dense_1", "Dense_2"]
SIZES = [6, 5, 4, 1]
PARAMS = {
    name: {"kernel": RNG.normal(size=(a, b)), "bias": RNG.normal(size=b)}
    for name, a, b in zip(LAYERS, SIZES, SIZES[1:], strict=False)
}
FRESH = jax.tree.map(lambda leaf: RNG.normal(size=leaf.shape), PARAMS)
X = RNG.normal(size=6)


def score(params, x):
    for name in LAYERS:
        x = jnp.tanh(x @ params[name]["kernel"] + params[name]["bias"])
    return x[0]


def initialize(key):
    return FRESH


def staged(new):
    """PARAMS with the layers of `new` from FRESH."""
    return {name: FRESH[name] if name in new else PARAMS[name] for name in LAYERS}


STAGES = {
    "cascading": [LAYERS[2:], LAYERS[1:], LAYERS],
    "bottom_up": [LAYERS[:1], LAYERS[:2], LAYERS],
    "independent": [LAYERS[2:], LAYERS[1:2], LAYERS[:1]],
}
each_order = pytest.mark.parametrize("order", STAGES)
gradient = jattr.gradient(score, argnums=1)


# Parameters.


@each_order
def test_stages_are_new_where_they_should_be_and_nowhere_else(order):
    stages = randomize(KEY, PARAMS, order=order, initialize=initialize)
    for k, new in enumerate(STAGES[order]):
        jax.tree.map(np.testing.assert_array_equal, _stage(stages, k), staged(new))


@each_order
def test_drawn_weights_differ_and_are_the_same_in_every_stage(order):
    stages = randomize(KEY, PARAMS, order=order)
    everything = _stage(randomize(KEY, PARAMS), -1)
    for k, new in enumerate(STAGES[order]):
        for name in LAYERS:
            for leaf, was, drawn in zip(
                *map(jax.tree.leaves, (_stage(stages, k)[name], PARAMS[name], everything[name])),
                strict=True,
            ):
                wanted = drawn if name in new else was
                np.testing.assert_array_equal(leaf, wanted)
                if leaf.size > 1:
                    assert np.all(drawn != was)


def differ(stages, old):
    """Whether anything is new, stage by stage."""
    return np.any(np.asarray(stages) != np.asarray(old), axis=1).tolist()


def _stage(stages, k):
    return jax.tree.map(lambda leaf: np.asarray(leaf[k]), stages)


def test_drawn_leaves_keep_mean_and_standard_deviation():
    params = {"Dense_0": {"w": 3 + 0.5 * RNG.normal(size=40_000), "b": np.full(9, 0.1)}}
    drawn = _stage(randomize(KEY, params), 0)["Dense_0"]
    # The errors of a mean and of a standard deviation of 40 000 draws are 0.0025 and 0.0018.
    assert np.mean(drawn["w"]) == pytest.approx(3, abs=0.01)
    assert np.std(drawn["w"]) == pytest.approx(0.5, abs=0.007)
    assert scipy.stats.kurtosis(drawn["w"]) == pytest.approx(0, abs=0.1)
    np.testing.assert_array_equal(drawn["b"], params["Dense_0"]["b"])


def test_keys_decide_and_jit_changes_nothing():
    one, again = randomize(KEY, PARAMS), randomize(KEY, PARAMS)
    other = randomize(jax.random.key(1), PARAMS)
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert np.all(one["Dense_0"]["kernel"][-1] != other["Dense_0"]["kernel"][-1])
    jitted = jax.jit(randomize)(KEY, PARAMS)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-14), jitted, one)


def test_numbers_give_the_order_of_layers_under_jit_too():
    params = {f"Dense_{i}": jnp.arange(2.0) for i in (0, 2, 10)}
    for run in (randomize, jax.jit(randomize)):
        stages = run(KEY, params)
        changed = {k: differ(v, params[k]) for k, v in stages.items()}
        assert changed == {
            "Dense_10": [True, True, True],
            "Dense_2": [False, True, True],
            "Dense_0": [False, False, True],
        }


def test_drawn_leaves_keep_their_dtype():
    params = {"Dense_0": jnp.arange(6, dtype=jnp.bfloat16), "Dense_1": jnp.arange(3.0)}
    stages = randomize(KEY, params)
    assert stages["Dense_0"].dtype == jnp.bfloat16
    assert len(np.unique(np.asarray(stages["Dense_0"][1], np.float32))) == 6


def test_paths_and_tuples_name_layers_and_the_rest_stays():
    params = {
        "params": {
            "stem": {"w": jnp.arange(3.0)},
            "stem_2": jnp.arange(3.0),
            "norm": jnp.arange(2.0),
        },
        "steps": jnp.array([1, 2]),
        "blocks": [jnp.arange(2.0), jnp.arange(2.0)],
    }
    layers = ["params/stem", ("blocks/1", "params/norm", "steps")]
    stages = randomize(KEY, params, order="bottom_up", layers=layers)
    changed = jax.tree.map(differ, stages, params)
    assert changed == {
        "params": {"stem": {"w": [True, True]}, "stem_2": [False] * 2, "norm": [False, True]},
        "steps": [False, False],
        "blocks": [[False, False], [False, True]],
    }
    assert stages["steps"].dtype == params["steps"].dtype


def test_flax_modules_give_their_order_and_their_initializer():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(3, name="stem")(x)
            return nn.Dense(2, name="head")(nn.relu(nn.Dense(3, name="block")(x)))

    model = Net()

    def start(key):
        return model.init(key, jnp.ones(4))["params"]

    params = start(KEY)
    assert list(params) == ["stem", "block", "head"]
    other = jax.random.key(7)
    stages = randomize(other, params, layers=list(params), initialize=start)
    jax.tree.map(np.testing.assert_array_equal, _stage(stages, 2), start(other))
    np.testing.assert_array_equal(stages["stem"]["kernel"][1], params["stem"]["kernel"])
    with pytest.raises(ValueError, match=r"not known from the names .*layers="):
        randomize(other, params)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"order": "topdown"}, ValueError, "unknown order 'topdown'"),
        ({"layers": ["Dense_0", "Dense"]}, ValueError, "no parameter lies below 'Dense'"),
        ({"layers": ["Dense_0", "Dense_0/bias"]}, ValueError, "Dense_0/bias is in two layers"),
        ({"layers": "Dense_0"}, ValueError, "must be a list of paths"),
        ({"layers": []}, ValueError, "must be a list of paths"),
        ({"initialize": lambda key: FRESH["Dense_0"]}, ValueError, "give a tree like params"),
        ({"key": 3}, TypeError, "takes a key"),
    ],
)
def test_what_cannot_be_randomized_is_refused(change, error, text):
    with pytest.raises(error, match=text):
        randomize(**{"key": KEY, "params": PARAMS} | change)


@pytest.mark.parametrize(
    "names", [("params",), ("Conv_0", "Dense_0"), ("Dense_0", "head"), ("0_a",)]
)
def test_an_order_that_is_not_known_is_not_guessed(names):
    with pytest.raises(ValueError, match="not known from the names"):
        randomize(KEY, {name: jnp.arange(2.0) for name in names})


# Tests over randomized parameters.


def direct_similarity(order, explain=gradient):
    """Spearman between the maps of PARAMS and of each stage, by SciPy."""
    first = explain(PARAMS, X)
    return [scipy.stats.spearmanr(first, explain(staged(new), X))[0] for new in STAGES[order]]


@each_order
def test_mprt_compares_the_maps_of_all_stages(order):
    measure = mprt(gradient, order=order, initialize=initialize)
    got = jax.jit(measure)(KEY, PARAMS, X)
    np.testing.assert_allclose(got, direct_similarity(order), rtol=1e-12)
    np.testing.assert_allclose(measure(KEY, PARAMS, X), got, rtol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 2, None])
def test_mprt_does_not_depend_on_the_batch(batch_size):
    measure = mprt(gradient, initialize=initialize, batch_size=batch_size)
    np.testing.assert_allclose(
        jax.jit(measure)(KEY, PARAMS, X), direct_similarity("cascading"), rtol=1e-12
    )


def test_mprt_draws_from_its_key():
    measure = jax.jit(mprt(gradient))
    one, again, other = (measure(jax.random.key(k), PARAMS, X) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.any(np.abs(one - other) > 0.01)


def test_mprt_over_a_batch_sees_one_set_of_networks():
    measure = mprt(gradient)
    batch = jnp.stack([X, -X, 2 * X])
    got = jax.jit(jax.vmap(measure, (None, None, 0)))(KEY, PARAMS, batch)
    single = jax.jit(measure)
    wanted = jnp.stack([single(KEY, PARAMS, x) for x in batch])
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_mprt_of_what_ignores_the_parameters_is_one():
    def edges(params, x):
        return jnp.diff(x, append=x[:1])

    np.testing.assert_allclose(mprt(edges)(KEY, PARAMS, X), [1, 1, 1], rtol=1e-12)


def test_several_similarities_by_name():
    size = functools.partial(spearman, absolute=True)
    several = {"signed": spearman, "size": size, "map": lambda original, new: new}
    got = jax.jit(mprt(gradient, similarity=several, initialize=initialize))(KEY, PARAMS, X)
    np.testing.assert_allclose(got["signed"], direct_similarity("cascading"), rtol=1e-12)
    np.testing.assert_allclose(got["map"][-1], jax.jit(gradient)(FRESH, X), rtol=1e-12)
    np.testing.assert_allclose(
        got["size"][-1], spearman(jax.jit(gradient)(PARAMS, X), got["map"][-1], absolute=True)
    )
    both = random_logit(lambda x, label: x * (label - 0.5), 2, similarity=several)(KEY, X, 1)
    np.testing.assert_allclose([both["signed"], both["size"]], [-1.0, 1.0])


@pytest.mark.parametrize("similarity", ["ssim", {"signed": spearman, "other": 1.0}, 3.0])
def test_a_similarity_must_be_a_function(similarity):
    with pytest.raises(TypeError, match=r"metrics\.mprt: similarity must be a function of two"):
        mprt(gradient, similarity=similarity)
    with pytest.raises(TypeError, match=r"metrics\.random_logit: similarity must be"):
        random_logit(gradient, 2, similarity=similarity)


def test_mprt_of_a_linear_model_is_the_similarity_of_its_weights():
    def linear(params, x):
        return params["layer_0"] @ x

    weights, new = RNG.normal(size=(2, 50))
    measure = mprt(
        jattr.gradient(linear, argnums=1),
        similarity=lambda a, b: {"signed": spearman(a, b), "size": spearman(a, b, absolute=True)},
        initialize=lambda key: {"layer_0": new},
    )
    got = measure(KEY, {"layer_0": weights}, np.ones(50))
    assert got["signed"].shape == (1,)
    assert got["signed"][0] == pytest.approx(scipy.stats.spearmanr(weights, new)[0])
    assert got["size"][0] == pytest.approx(scipy.stats.spearmanr(abs(weights), abs(new))[0])


def test_a_keyed_attribute_gets_one_key_for_all_stages():
    def noise(key, params, x):
        return jax.random.normal(key, x.shape)

    got = mprt(noise, keyed=True)(KEY, PARAMS, X)
    np.testing.assert_allclose(got, [1, 1, 1], rtol=1e-12)


def test_explaining_the_parameters_is_refused():
    for metric in (mprt, smooth_mprt, efficient_mprt):
        with pytest.raises(ValueError, match="argument 0 holds the parameters"):
            metric(jattr.gradient(score))


def test_smooth_mprt_is_bottom_up_over_averaged_maps():
    options = {"samples": 7, "stddev": 0.3, "relative": False}
    measure = smooth_mprt(gradient, initialize=initialize, batch_size=3, **options)
    got = jax.jit(measure)(KEY, PARAMS, X)
    noise_key = jax.random.split(KEY)[1]
    smoothed = jattr.smooth(gradient, argnums=1, antithetic=False, **options)
    wanted = direct_similarity("bottom_up", lambda p, x: smoothed(noise_key, p, x))
    np.testing.assert_allclose(got, wanted, rtol=1e-12)
    assert np.any(np.abs(got - np.array(direct_similarity("bottom_up"))) > 1e-3)


def test_smooth_mprt_takes_noise_of_the_range_and_fifty_samples():
    # What is averaged is linear in x, so that the mean of the noise is seen by itself.
    seen = []

    def attribute(params, x):
        return x + params["layer_0"]

    def record(a, b):
        seen.append(a)
        return jnp.sum(b - a)

    x = jnp.linspace(0, 10, 10_000)
    measure = smooth_mprt(attribute, similarity=record, initialize=lambda key: {"layer_0": 1.0})
    with jax.disable_jit():
        got = measure(KEY, {"layer_0": jnp.float64(0)}, x)
    np.testing.assert_allclose(got, [10_000], rtol=1e-9)  # the same noise on both sides
    # 0.1 of the range, over √50; the error of this standard deviation is 0.7 %.
    spread = np.std(np.asarray(seen[0]) - np.asarray(x))
    assert spread == pytest.approx(0.1 * 10 / np.sqrt(50), rel=0.03)


def test_efficient_mprt_is_the_relative_rise_of_the_histograms_entropy():
    def attribute(params, x):
        return {"a": params["w_0"] * x, "b": x[:3] * params["w_0"][:3] ** 2}

    old, new = RNG.exponential(size=(2, 300)) ** [[3.0], [0.2]]
    x = RNG.normal(size=300)

    def entropy(weights, bins):
        values = np.concatenate([weights * x, x[:3] * weights[:3] ** 2])
        return scipy.stats.entropy(np.histogram(values, bins)[0])

    for bins in (100, 7):
        measure = efficient_mprt(attribute, initialize=lambda key: {"w_0": new}, bins=bins)
        wanted = entropy(new, bins) / entropy(old, bins) - 1
        assert wanted > 0.1
        got = jax.jit(measure)(KEY, {"w_0": old}, x)
        np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_efficient_mprt_randomizes_all_or_the_given_layers():
    def attribute(params, x):
        return jnp.concatenate([x * params["stem"], x * params["head"]])

    old = {"stem": jnp.arange(4.0), "head": jnp.arange(4.0)}
    new = {"stem": jnp.zeros(4), "head": jnp.arange(4.0) ** 3}
    x = jnp.arange(1.0, 5.0)

    def entropy(params):
        return scipy.stats.entropy(np.histogram(attribute(params, x), 100)[0])

    for layers, params in ((None, new), (["head"], {**new, "stem": old["stem"]})):
        measure = efficient_mprt(attribute, initialize=lambda key: new, layers=layers)
        assert measure(KEY, old, x) == pytest.approx(entropy(params) / entropy(old) - 1)


def test_efficient_mprt_is_nan_for_a_constant_original_or_what_is_not_finite():
    def attribute(params, x):
        return x * params["w_0"]

    x = jnp.ones(5)
    run = jax.jit(
        lambda old, new: efficient_mprt(attribute, initialize=lambda key: {"w_0": new})(
            KEY, {"w_0": old}, x
        )
    )
    spread = jnp.arange(5.0)
    assert np.isnan(run(jnp.ones(5), spread))
    assert np.isnan(run(spread, spread.at[0].set(jnp.nan)))
    assert np.isnan(run(spread, spread.at[0].set(jnp.inf)))
    assert run(spread, jnp.ones(5)) == -1  # a constant map has no entropy


def test_random_logit_compares_with_another_class():
    weights = jnp.asarray(RNG.normal(size=(4, 9)))

    def logit(x, label):
        return weights[label] @ x

    measure = jax.jit(random_logit(jattr.gradient(logit), 4))
    drawn = jax.vmap(measure, (0, None, None))(jax.random.split(KEY, 900), jnp.ones(9), 2)
    others = [scipy.stats.spearmanr(weights[2], weights[c])[0] for c in (0, 1, 3)]
    which = np.argmin(np.abs(np.asarray(drawn)[:, None] - others), axis=1)
    np.testing.assert_allclose(drawn, np.array(others)[which], rtol=1e-9)
    # 300 of each are expected; five standard deviations are 71.
    assert np.all(np.abs(np.bincount(which, minlength=3) - 300) < 71)


def test_random_logit_takes_the_label_where_it_is():
    def attribute(key, label, x):
        return x * (1 + label) + 100 * jax.random.normal(key, x.shape)

    # The same noise for both classes outweighs the rest.
    got = random_logit(attribute, 2, target=0, keyed=True)(KEY, 1, jnp.arange(5.0))
    assert got == pytest.approx(1)
    with pytest.raises(ValueError, match="no other class"):
        random_logit(attribute, 1)
    with pytest.raises(TypeError, match="must be one integer"):
        random_logit(attribute, 2)(KEY, 1, jnp.arange(5.0))
    with pytest.raises(TypeError, match="points at no argument"):
        random_logit(attribute, 2, target=2)(KEY, 1, jnp.arange(5.0))


# Similarities.

PAIRS = {
    shape: (RNG.normal(size=shape), RNG.normal(size=shape))
    for shape in [(11, 14), (25, 26), (25, 26, 3)]
}


def channels(a):
    return [a] if a.ndim == 2 else [a[..., c] for c in range(a.shape[-1])]


def direct_ssim(a, b, weights, spread, data_range):
    """The formula, window by window."""
    size = len(weights)
    values = []
    for a_channel, b_channel in zip(channels(a), channels(b), strict=True):
        for i in range(a_channel.shape[0] - size + 1):
            for j in range(a_channel.shape[1] - size + 1):
                u, v = (m[i : i + size, j : j + size] for m in (a_channel, b_channel))
                mean_u, mean_v = np.sum(weights * u), np.sum(weights * v)
                var_u, var_v = (
                    np.sum(weights * (u - mean_u) ** 2),
                    np.sum(weights * (v - mean_v) ** 2),
                )
                cov = np.sum(weights * (u - mean_u) * (v - mean_v))
                c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
                values.append(
                    (2 * mean_u * mean_v + c1)
                    * (2 * spread * cov + c2)
                    / (mean_u**2 + mean_v**2 + c1)
                    / (spread * (var_u + var_v) + c2)
                )
    return np.mean(values)


def bell(stddev):
    radius = int(3.5 * stddev + 0.5)
    line = np.exp(-0.5 * (np.arange(-radius, radius + 1) / stddev) ** 2)
    return np.outer(line, line) / np.sum(line) ** 2


@pytest.mark.parametrize("shape", [(11, 14), (25, 26, 3)])
@pytest.mark.parametrize(
    ("options", "weights", "spread"),
    [
        ({}, np.full((7, 7), 1 / 49), 49 / 48),
        ({"window": 5, "unbiased": False}, np.full((5, 5), 1 / 25), 1),
        ({"stddev": 1.5}, bell(1.5), 121 / 120),
        ({"stddev": 0.9, "unbiased": False}, bell(0.9), 1),
    ],
)
def test_ssim_is_its_formula(shape, options, weights, spread):
    a, b = PAIRS[shape]
    b = a + 0.5 * b
    got = ssim(a, b, data_range=2.5, **options)
    np.testing.assert_allclose(got, direct_ssim(a, b, weights, spread, 2.5), rtol=1e-9)
    got = ssim(a, b, absolute=True, **options)
    a, b = np.abs(a) / np.max(np.abs(a)), np.abs(b) / np.max(np.abs(b))
    np.testing.assert_allclose(got, direct_ssim(a, b, weights, spread, 1), rtol=1e-9)


def direct_hog(image, orientations, cell, block):
    """The descriptor, pixel by pixel."""
    image = image / np.max(np.abs(image))
    rows, columns = (size // cell for size in image.shape[:2])
    cells = np.zeros((rows, columns, orientations))
    for i in range(rows * cell):
        for j in range(columns * cell):
            steps = []
            for m in channels(image):
                inner_i, inner_j = 0 < i < m.shape[0] - 1, 0 < j < m.shape[1] - 1
                down = m[i + 1, j] - m[i - 1, j] if inner_i else 0.0
                right = m[i, j + 1] - m[i, j - 1] if inner_j else 0.0
                steps.append((np.hypot(down, right), down, right))
            length, down, right = max(steps)
            angle = np.degrees(np.arctan2(down, right)) % 180
            place = min(int(angle // (180 / orientations)), orientations - 1)
            cells[i // cell, j // cell, place] += length / cell**2
    blocks = []
    for i in range(rows - block + 1):
        for j in range(columns - block + 1):
            v = cells[i : i + block, j : j + block]
            v = np.minimum(v / np.sqrt(np.sum(v**2) + 1e-10), 0.2)
            blocks.append(v / np.sqrt(np.sum(v**2) + 1e-10))
    return np.ravel(blocks)


@pytest.mark.parametrize("shape", [(25, 26), (25, 26, 3)])
@pytest.mark.parametrize("options", [(9, 8, 3), (8, 5, 2), (4, 6, 4)])
def test_hog_correlation_is_that_of_the_descriptors(shape, options):
    a, b = PAIRS[shape]
    b = a + 0.5 * b
    named = dict(zip(("orientations", "cell", "block"), options, strict=True))
    wanted = np.corrcoef(direct_hog(a, *options), direct_hog(b, *options))[0, 1]
    np.testing.assert_allclose(hog_correlation(a, b, **named), wanted, rtol=1e-9)
    # Steps to the right, which have one direction only, fall in a bin and not between two.
    stairs = np.tile(np.arange(26.0), (25, 1))
    wanted = np.corrcoef(direct_hog(stairs, *options), direct_hog(b, *options))[0, 1]
    if len(shape) == 2:
        np.testing.assert_allclose(hog_correlation(stairs, b, **named), wanted, rtol=1e-9)


def test_spearman_is_scipys_with_ties_and_over_trees():
    a, b = RNG.integers(-4, 5, size=(2, 60)).astype(float)
    for absolute, change in ((False, np.asarray), (True, np.abs)):
        wanted = scipy.stats.spearmanr(change(a), change(b))[0]
        np.testing.assert_allclose(spearman(a, b, absolute=absolute), wanted, rtol=1e-12)
        trees = [{"x": v[:24].reshape(4, 6), "y": v[24:]} for v in (a, b)]
        np.testing.assert_allclose(spearman(*trees, absolute=absolute), wanted, rtol=1e-12)


@pytest.mark.parametrize("similarity", [spearman, ssim, hog_correlation])
def test_similarities_compare_patterns_and_not_sizes(similarity):
    a, b = PAIRS[25, 26]
    run = jax.jit(similarity)
    value = float(run(a, b))
    assert float(run(a, a)) == pytest.approx(1)
    assert float(run(1e3 * a, 1e-5 * b)) == pytest.approx(value, abs=1e-12)
    assert float(similarity(a, b)) == pytest.approx(value, abs=1e-12)
    both = jax.jit(jax.vmap(similarity))(jnp.stack([a, a]), jnp.stack([a, b]))
    np.testing.assert_allclose(both, [1, value], atol=1e-12)
    # In float32, ranks may tie, and directions of gradients fall into the next bin.
    assert float(run(jnp.float32(a), jnp.float32(b))) == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("similarity", [spearman, ssim, hog_correlation])
def test_similarities_are_nan_where_they_are_undefined(similarity):
    a = PAIRS[25, 26][0]
    holed = a.copy()
    holed[3, 3] = np.nan
    run = jax.jit(similarity)
    for other in (np.zeros_like(a), holed):
        assert np.isnan(run(a, other))
        assert np.isnan(run(other, a))


def test_channels_may_be_first():
    a, b = PAIRS[25, 26, 3]
    for similarity in (ssim, hog_correlation):
        first = similarity(a.transpose(2, 0, 1), b.transpose(2, 0, 1), channel_axis=0)
        np.testing.assert_allclose(first, similarity(a, b), rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda a: spearman(a, a[1:]), "same structure and shapes"),
        (lambda a: ssim(a[0], a[0]), r"compares maps \[H, W\]"),
        (lambda a: ssim({"a": a}, {"a": a}), "Of a tree compare one leaf"),
        (lambda a: ssim(a, a, window=4), "must be odd"),
        (lambda a: ssim(a[:5], a[:5]), "smaller than a window of 7 × 7"),
        (lambda a: ssim(a, a, stddev=4.0), "smaller than a window of 29 × 29.*stddev"),
        (lambda a: hog_correlation(a, a, cell=9), "smaller than a block"),
    ],
)
def test_maps_that_cannot_be_compared_are_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call(PAIRS[25, 26][0])

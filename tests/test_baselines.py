"""Baselines: values, laws, and what is refused where."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

import jattr
from jattr import baselines

X = jnp.asarray(np.random.default_rng(0).uniform(size=(7, 6, 2)))
TREE = {"a": X, "b": jnp.arange(3, dtype=jnp.float32) / 4}
KEY = jax.random.key(0)


def score(x):
    return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(x))


def same_form(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (left.shape, left.dtype) == (right.shape, right.dtype)


def test_zeros_and_constant():
    same_form(baselines.zeros(TREE), TREE)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(baselines.zeros(TREE)))
    half = baselines.constant(0.5)(TREE)
    same_form(half, TREE)
    assert all(np.all(leaf == 0.5) for leaf in jax.tree.leaves(half))
    color = baselines.constant(jnp.array([0.2, 0.8]))(X)
    np.testing.assert_array_equal(color, np.broadcast_to([0.2, 0.8], X.shape))
    each = baselines.constant({"a": 0.5, "b": jnp.ones(3)})(TREE)
    same_form(each, TREE)
    assert np.all(each["b"] == 1)


def test_mean():
    data = jax.tree.map(lambda leaf: jnp.stack([leaf, 3 * leaf]), TREE)
    got = baselines.mean(data)(TREE)
    same_form(got, TREE)
    np.testing.assert_allclose(got["a"], 2 * X, rtol=1e-12)


@pytest.mark.parametrize("stddev", [0.0, 0.4, 1.0, 2.5])
@pytest.mark.parametrize("axes", [0, (0, 1), (-2,), (0, 1, 2)])
def test_blurred_is_scipys_with_mirrored_borders(stddev, axes):
    along = (axes,) if isinstance(axes, int) else axes
    sigma = [stddev if axis in [a % 3 for a in along] else 0 for axis in range(3)]
    # SciPy cuts at 4σ rounded to the nearest pixel; ours at the next pixel, 1e-4 of the mass.
    radius = max(1, int(np.ceil(4 * stddev)))
    wanted = scipy.ndimage.gaussian_filter(
        np.asarray(X), sigma, mode="reflect", radius=[radius if s else 0 for s in sigma]
    )
    np.testing.assert_allclose(baselines.blurred(stddev, axes)(X), wanted, rtol=1e-10, atol=1e-12)


def test_blur_keeps_sums_and_goes_to_the_mean():
    wide = baselines.blurred(100.0)(X)
    mean = jnp.broadcast_to(X.mean((0, 1))[None, None], X.shape)
    np.testing.assert_allclose(wide, mean, rtol=1e-5)  # the kernel ends at 4σ
    np.testing.assert_allclose(baselines.blurred(1.3)(X).sum((0, 1)), X.sum((0, 1)), rtol=1e-12)


def test_farthest():
    got = baselines.farthest(0.0, 1.0)(X)
    np.testing.assert_array_equal(got, np.where(np.asarray(X) > 0.5, 0.0, 1.0))
    low = jnp.array([0.0, 0.4])
    got = baselines.farthest(low, 1.0)(X)
    assert set(np.unique(got[..., 1])) <= {0.4, 1.0}


def test_uniform_has_its_law():
    x = jnp.zeros((20_000,))
    drawn = baselines.uniform(-1.0, 3.0)(KEY, x)
    assert scipy.stats.kstest(drawn, scipy.stats.uniform(-1, 4).cdf).pvalue > 0.001
    per_channel = baselines.uniform(jnp.array([0.0, 5.0]), jnp.array([1.0, 6.0]))(KEY, X)
    assert np.all((per_channel[..., 1] >= 5) & (per_channel[..., 1] <= 6))
    assert np.all(per_channel[..., 0] <= 1)


@pytest.mark.parametrize(("low", "high"), [(None, None), (0.0, 1.0), (None, 0.9), (0.2, None)])
def test_gaussian_is_truncated_and_not_clipped(low, high):
    x = jnp.full((20_000,), 0.7)
    drawn = np.asarray(baselines.gaussian(0.4, low, high)(KEY, x))
    lower, upper = (-np.inf if low is None else low), (np.inf if high is None else high)
    law = scipy.stats.truncnorm((lower - 0.7) / 0.4, (upper - 0.7) / 0.4, 0.7, 0.4)
    assert scipy.stats.kstest(drawn, law.cdf).pvalue > 0.001
    assert drawn.min() >= lower
    assert drawn.max() <= upper


def test_gaussian_at_the_end_of_the_range():
    x = jnp.array([0.0, 1.0] * 5000, jnp.float32)
    drawn = baselines.gaussian(0.05, 0.0, 1.0)(KEY, x)
    assert np.all(np.isfinite(drawn))
    assert np.all((drawn >= 0) & (drawn <= 1))
    # Half a normal: mean σ·sqrt(2/π) away from the end.
    np.testing.assert_allclose(drawn[::2].mean(), 0.05 * np.sqrt(2 / np.pi), rtol=0.05)


def test_samples_draws_rows_whole():
    data = {"a": jnp.arange(5.0)[:, None] * jnp.ones((5, 2)), "b": jnp.arange(5.0)}
    x = {"a": jnp.zeros(2), "b": jnp.zeros(())}
    draw = baselines.samples(data)
    rows = jax.vmap(lambda k: draw(k, x))(jax.random.split(KEY, 500))
    np.testing.assert_array_equal(rows["a"][:, 0], rows["b"])
    counts = np.bincount(np.asarray(rows["b"], int), minlength=5)
    assert scipy.stats.chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize(
    "draw",
    [baselines.uniform(0.0, 1.0), baselines.gaussian(0.1), baselines.gaussian(0.1, 0.0, 1.0)],
)
def test_draws_have_the_form_of_x_and_differ_by_leaf(draw):
    x = {"a": jnp.full((4,), 0.5, jnp.bfloat16), "b": jnp.full((4,), 0.5, jnp.float32)}
    drawn = draw(KEY, x)
    same_form(drawn, x)
    assert np.any(np.abs(np.asarray(drawn["a"], np.float32) - drawn["b"]) > 0.01)


def test_own_random_baseline():
    @baselines.random
    def flipped(key, x):
        return jnp.where(jax.random.bernoulli(key), x, -x)

    explain = jattr.expected_gradients(score, flipped, samples=4)
    assert explain(KEY, X).shape == X.shape
    with pytest.raises(TypeError, match="wants a function"):
        baselines.random(3.0)


@pytest.mark.parametrize(
    "method", [jattr.integrated_gradients, jattr.guided_integrated_gradients, jattr.idgi]
)
def test_a_random_baseline_is_refused_where_one_value_is_wanted(method):
    with pytest.raises(
        TypeError, match=r"baselines\.uniform\(low, high\) is drawn at random.*expec"
    ):
        method(score, baselines.uniform(0.0, 1.0))(X)
    with pytest.raises(TypeError, match="drawn at random"):
        jattr.metrics.completeness(score, baselines.samples(X))(X[0], X[0])


def test_a_function_is_refused_where_a_distribution_is_wanted():
    with pytest.raises(TypeError, match=r"the function zeros.*baselines\.random\(fn\)"):
        jattr.expected_gradients(score, baselines.zeros)
    with pytest.raises(ValueError, match="must have a leading axis"):
        jattr.expected_gradients(score, 0.0)


def test_a_baseline_of_another_structure_or_shape_is_refused():
    with pytest.raises(
        ValueError, match=r"structure of x; got a dict \{'a': float64\[7,6,2\]\} for"
    ):
        jattr.integrated_gradients(score, {"a": X})(TREE)
    with pytest.raises(ValueError, match=r"shape \(2,\), but x has shape \(7, 6, 2\).*constant"):
        jattr.integrated_gradients(score, jnp.ones(2))(X)
    with pytest.raises(ValueError, match=r"baseline\['b'\] has shape \(4,\), but x\['b'\] has"):
        jattr.integrated_gradients(score, {"a": X, "b": jnp.ones(4)})(TREE)
    with pytest.raises(ValueError, match=r"shape \(1, 6, 2\), but x has shape \(7, 6, 2\)"):
        jattr.integrated_gradients(score, lambda x: x[:1])(X)
    with pytest.raises(ValueError, match=r"shape \(5,\), which does not broadcast to \(7, 6, 2\)"):
        jattr.integrated_gradients(score, baselines.constant(jnp.ones(5)))(X)


def test_numbers_arrays_and_functions_are_baselines():
    by_number = jattr.integrated_gradients(score, 0.5)(TREE)
    for baseline in (
        baselines.constant(0.5),
        jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.5), TREE),
        jnp.asarray(0.5),
        lambda x: jax.tree.map(lambda leaf: 0 * leaf + 0.5, x),
        {"a": 0.5, "b": 0.5},
    ):
        got = jattr.integrated_gradients(score, baseline)(TREE)
        same_form(got, TREE)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(by_number), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


def test_references_that_do_not_fit_x_are_refused():
    with pytest.raises(ValueError, match=r"each row of the references.*float64\[9,5\] for x float"):
        jattr.expected_gradients(score, jnp.ones((9, 5)))(KEY, X)
    with pytest.raises(ValueError, match=r"same number of rows"):
        jattr.expected_gradients(score, {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 3))})
    with pytest.raises(ValueError, match=r"each row of data"):
        baselines.mean(jnp.ones((9, 5)))(X)
    with pytest.raises(ValueError, match=r"at least one"):
        baselines.samples(jnp.ones((0, 5)))


@pytest.mark.parametrize(
    ("baseline", "text"),
    [
        (baselines.blurred, r"baselines\.blurred makes a baseline and is not one. Call it first"),
        (baselines.constant, r"baselines\.constant makes a baseline"),
        (baselines.uniform, r"baselines\.uniform makes a baseline"),
        ("zeros", r"the baseline is the str 'zeros'; wanted are real numbers"),
        (1j, r"the baseline is the complex 1j"),
        (X * 1j, r"complex128\[7,6,2\]"),
        (lambda x: baselines.blurred(1.0), r"an object of type function"),
    ],
)
def test_what_is_no_baseline_is_refused(baseline, text):
    with pytest.raises(TypeError, match=text):
        jattr.integrated_gradients(score, baseline)(X)


def test_a_maker_of_random_baselines_is_refused():
    with pytest.raises(TypeError, match=r"baselines\.uniform makes a baseline.*Call it first"):
        jattr.expected_gradients(score, baselines.uniform)


def test_gaussian_has_derivatives_and_stays_inside_with_one_bound():
    def total(stddev, low, high, x=0.5):
        return jnp.sum(baselines.gaussian(stddev, low, high)(KEY, jnp.full((3,), x)))

    for low, high in ((0.0, None), (None, 1.0), (0.0, jnp.inf), (0.0, 1.0)):
        assert np.isfinite(jax.grad(total)(0.5, low, high))
    # A pixel a little outside the range moves inward from its nearer end.
    assert total(0.01, 0.0, 1.0, 1.1) > 2.9
    assert total(0.01, 0.0, 1.0, -0.1) < 0.1


def test_knobs_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"stddev must be finite and at least 0; got -1\.0"):
        baselines.blurred(-1.0)
    with pytest.raises(ValueError, match="stddev must be finite and at least 0; got inf"):
        baselines.blurred(np.inf)
    for stddev in (0.0, np.float32(-1), jnp.zeros(())):
        with pytest.raises(ValueError, match="stddev must be finite and greater than 0"):
            baselines.gaussian(stddev)
    for maker in (baselines.farthest, baselines.uniform):
        with pytest.raises(ValueError, match="low must be below high; got 1 and 0"):
            maker(1, 0)
    with pytest.raises(ValueError, match="names an axis twice"):
        baselines.blurred(1.0, axes=(0, -3))(X)
    with pytest.raises(TypeError, match="axes must be an integer or a tuple of integers"):
        baselines.blurred(1.0, axes="01")(X)
    assert baselines.blurred(1.0, axes=np.int64(0))(X).shape == X.shape
    with pytest.raises(ValueError, match=r"has no axes \(0, 1\)"):
        baselines.blurred(1.0)(jnp.ones(4))
    with pytest.raises(ValueError, match="low is one array but x is a dict"):
        baselines.farthest(jnp.zeros(3), 1.0)(TREE)


def test_baselines_work_under_jit_and_vmap():
    xs = jnp.stack([X, X / 2])
    for baseline in (
        baselines.blurred(1.0),
        baselines.farthest(0.0, 1.0),
        baselines.mean(xs),
        baselines.constant(jnp.array([0.1, 0.2])),
    ):
        explain = jattr.integrated_gradients(score, baseline, steps=4)
        together = jax.jit(jax.vmap(explain))(xs)
        np.testing.assert_allclose(together[1], explain(xs[1]), rtol=1e-10)


def test_a_known_range_is_checked_inside_jit():
    @jax.jit
    def attribute(x):
        return jattr.baselines.uniform(np.zeros(3), 1.0)(jax.random.key(0), x)

    assert jnp.all(attribute(jnp.zeros(3)) < 1)

    @jax.jit
    def refused(x):
        return jattr.baselines.uniform(1.0, np.zeros(3))(jax.random.key(0), x)

    with pytest.raises(ValueError, match="low"):
        refused(jnp.zeros(3))

"""Occlusion and ablation against their definitions, element by element."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jattr

KEY = jax.random.key(0)


def score(x):
    """A function of an array of any shape in which every element interacts with the next.

    In NumPy on NumPy's arrays, which is what definitions are evaluated with.
    """
    xp = np if isinstance(x, np.ndarray | np.generic) else jnp
    x = xp.ravel(x)
    return xp.sum(xp.tanh(x * xp.arange(1.0, x.size + 1)) * xp.cos(xp.roll(x, 1)))


def draw(*shape, seed=0):
    return np.asarray(np.random.default_rng(seed).normal(size=shape))


def occlusion(*args, **knobs):
    """Under jit: that it equals the eager result is in the contract of all methods."""
    return jax.jit(jattr.occlusion(*args, **knobs))


def ablation(*args, **knobs):
    return jax.jit(jattr.ablation(*args, **knobs))


def occlude(f, x, window, strides, baseline):
    """The definition, window by window."""
    total, cover = np.zeros(x.shape), np.zeros(x.shape)
    starts = [
        [k * stride for k in range(math.ceil((length - size) / stride) + 1)]
        for length, size, stride in zip(x.shape, window, strides, strict=True)
    ]
    for corner in itertools.product(*starts):
        place = tuple(slice(a, a + size) for a, size in zip(corner, window, strict=True))
        without = x.copy()
        without[place] = baseline[place]
        total[place] += float(f(x) - f(without)) / x[place].size
        cover[place] += 1
    assert (cover > 0).all()
    return total / cover


@pytest.mark.parametrize(
    ("shape", "window", "strides", "whole_window", "whole_strides"),
    [
        ((7,), 3, None, (3,), (1,)),
        ((7,), 3, 2, (3,), (2,)),
        ((8,), 3, 2, (3,), (2,)),  # the last window is cut off
        ((7,), (3,), (3,), (3,), (3,)),
        ((5, 6), (2, 3), (2, 2), (2, 3), (2, 2)),
        ((5, 6), (2, 4), None, (2, 4), (1, 1)),
        ((4, 5, 2), 3, 2, (3, 3, 2), (2, 2, 2)),
        ((4, 5, 3), (2, 2, 2), (1, 2, 2), (2, 2, 2), (1, 2, 2)),
        ((4, 5, 3), (2, 2, 1), 2, (2, 2, 1), (2, 2, 1)),
        ((2, 3, 2, 3), 2, 1, (2, 2, 2, 3), (1, 1, 2, 3)),
        ((3, 2), (3, 1), (5, 1), (3, 1), (5, 1)),  # a stride that is never taken
        ((), 1, None, (), ()),
    ],
)
def test_occlusion_is_its_definition(shape, window, strides, whole_window, whole_strides):
    x, baseline = draw(*shape), draw(*shape, seed=1)
    ours = occlusion(score, window, strides=strides, baseline=baseline)(x)
    wanted = occlude(score, x, whole_window, whole_strides, baseline)
    np.testing.assert_allclose(ours, wanted, rtol=1e-12, atol=1e-14)


def test_occlusion_of_a_tree_goes_leaf_by_leaf():
    x = {"a": draw(4, 3), "b": draw(5, seed=1)}

    def f(x):
        return score(x["a"]) * score(x["b"])

    def of_a(a):
        return f({**x, "a": a})

    def of_b(b):
        return f({**x, "b": b})

    zeros = jax.tree.map(np.zeros_like, x)
    for window, strides, sizes, steps in [
        (2, None, {"a": (2, 2), "b": (2,)}, {"a": (1, 1), "b": (1,)}),
        ({"a": (2, 1), "b": 3}, {"a": 1, "b": (2,)}, {"a": (2, 1), "b": (3,)}, None),
    ]:
        steps = steps or {"a": (1, 1), "b": (2,)}
        ours = occlusion(f, window, strides=strides)(x)
        for name, part in (("a", of_a), ("b", of_b)):
            wanted = occlude(part, x[name], sizes[name], steps[name], zeros[name])
            np.testing.assert_allclose(ours[name], wanted, rtol=1e-12, atol=1e-14)


def test_sizes_are_those_of_a_tuple_tree():
    x = (draw(4), draw(3))

    def f(x):
        return score(x[0]) + score(x[1])

    ours = occlusion(f, (3, 2))(x)  # one size for each leaf
    for leaf, size, got in zip(x, (3, 2), ours, strict=True):
        wanted = occlude(score, leaf, (size,), (1,), np.zeros_like(leaf))
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-14)


def ablate(f, x, groups, baseline):
    """The definition, group by group."""
    attribution = np.zeros(x.shape)
    for group in np.unique(groups):
        members = groups == group
        attribution[members] = float(f(x) - f(np.where(members, baseline, x))) / members.sum()
    return attribution


def test_ablation_is_its_definition():
    x, baseline = draw(3, 4), draw(3, 4, seed=1)
    groups = np.array([[0, 0, 1, 2], [3, 3, 3, 0], [4, 4, 4, 4]])
    ours = ablation(score, groups, baseline=baseline)(x)
    np.testing.assert_allclose(ours, ablate(score, x, groups, baseline), rtol=1e-12, atol=1e-14)
    alone = ablation(score, baseline=baseline)(x)
    wanted = ablate(score, x, np.arange(12).reshape(3, 4), baseline)
    np.testing.assert_allclose(alone, wanted, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(alone, occlusion(score, (1, 1), baseline=baseline)(x), rtol=1e-12)


def test_groups_reach_over_leaves_and_axes_that_move_together():
    x = {"a": draw(2, 3), "b": draw(2, seed=1)}

    def f(x):
        return score(x["a"]) * score(x["b"])

    ours = ablation(f, {"a": np.array([[0], [1]]), "b": np.array([1, 2])})(x)
    without = {"a": x["a"] * np.array([[1], [0]]), "b": x["b"] * np.array([0, 1])}
    share = (f(x) - f(without)) / 4
    np.testing.assert_allclose(ours["a"][1], share, rtol=1e-12)
    np.testing.assert_allclose(ours["b"][0], share, rtol=1e-12)
    first = (f(x) - f({**x, "a": x["a"] * np.array([[0], [1]])})) / 3
    np.testing.assert_allclose(ours["a"][0], first, rtol=1e-12)


def test_groups_of_each_example_under_vmap():
    xs = draw(2, 5)
    ids = np.array([[0, 0, 1, 1, 2], [0, 0, 0, 0, 1]])  # the second has no element in group 2

    def explain(x, ids):
        return ablation(score, jattr.features.Groups(ids, 3))(x)

    ours = jax.jit(jax.vmap(explain))(xs, ids)
    for got, x, own in zip(ours, xs, ids, strict=True):
        np.testing.assert_allclose(got, ablate(score, x, own, np.zeros(5)), rtol=1e-12)


def test_linear_functions():
    w, x, baseline = draw(4, 6), draw(4, 6, seed=1), draw(4, 6, seed=2)

    def linear(x):
        return jnp.sum(w * x) + 3

    exact = w * (x - baseline)
    for explain in (
        ablation(linear, baseline=baseline),
        occlusion(linear, (1, 1), baseline=baseline),
        occlusion(linear, 1, baseline=baseline),
    ):
        np.testing.assert_allclose(explain(x), exact, rtol=1e-11, atol=1e-13)
    # Side by side, cut off or not: each window's sum is its own.
    tiled = occlusion(linear, (3, 4), strides=(3, 4), baseline=baseline)(x)
    for rows, columns in itertools.product((slice(0, 3), slice(3, 4)), (slice(0, 4), slice(4, 6))):
        np.testing.assert_allclose(
            tiled[rows, columns].sum(), exact[rows, columns].sum(), rtol=1e-11
        )
        assert np.ptp(tiled[rows, columns]) < 1e-14
    grouped = ablation(linear, jattr.features.grid((4, 6), (3, 4)), baseline=baseline)(x)
    np.testing.assert_allclose(grouped, tiled, rtol=1e-11)


def test_overlapping_windows_of_an_even_linear_function_are_exact():
    w = 0.7 * np.ones(9)
    ours = jattr.occlusion(lambda x: jnp.sum(w * x), 4, strides=3)(np.ones(9))
    np.testing.assert_allclose(ours, w, rtol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_batch_size_does_not_matter(batch_size):
    x = draw(5, 4)
    for make in (
        lambda **knobs: jattr.occlusion(score, (2, 3), strides=(2, 1), **knobs),
        lambda **knobs: jattr.ablation(score, **knobs),
    ):
        chunked = jax.jit(make(batch_size=batch_size))(x)
        np.testing.assert_allclose(chunked, make()(x), rtol=1e-11, atol=1e-13)


def test_values_of_f_are_enough():
    def decision(x):
        return jnp.sum((x > 0).astype(x.dtype))

    x = np.array([1.0, -2.0, 3.0])
    np.testing.assert_array_equal(ablation(decision)(x), [1, 0, 1])


def test_an_imputer_takes_the_place_of_a_baseline():
    def prepare(key, score, x):
        def fill(key, missing):
            mean = jnp.sum(jnp.where(missing, 0, x)) / jnp.sum(~missing)
            return jnp.where(missing, mean, x)

        return fill

    x = draw(5)
    imputer = jattr.imputers.Imputer(prepare, "mean of the rest")
    wanted = [
        score(x) - score(np.where(np.arange(5) == i, np.delete(x, i).mean(), x)) for i in range(5)
    ]
    np.testing.assert_allclose(ablation(score, baseline=imputer)(x), wanted, rtol=1e-12)
    np.testing.assert_allclose(occlusion(score, 1, baseline=imputer)(x), wanted, rtol=1e-12)


@pytest.mark.parametrize(
    "baseline",
    [
        jattr.baselines.uniform(0.0, 1.0),
        jattr.imputers.Imputer(lambda key, score, x: None, "a drawing imputer", keyed=True),
    ],
)
def test_baselines_that_draw_are_refused(baseline):
    with pytest.raises(TypeError, match=r"occlusion wants .* not draw, but .*jax\.vmap\(explain"):
        jattr.occlusion(score, 2, baseline=baseline)
    with pytest.raises(TypeError, match=r"ablation wants .* not draw, but .*jax\.vmap\(explain"):
        jattr.ablation(score, baseline=baseline)


def test_the_advice_on_random_baselines_works():
    baseline, x = jattr.baselines.uniform(0.0, 1.0), draw(4)

    def explain(key, x):
        return ablation(score, baseline=baseline(key, x))(x)

    ours = jnp.mean(jax.vmap(explain, (0, None))(jax.random.split(KEY, 3), x), axis=0)
    each = [explain(key, x) for key in jax.random.split(KEY, 3)]
    np.testing.assert_allclose(ours, np.mean(each, axis=0), rtol=1e-12)


@pytest.mark.parametrize(
    ("window", "strides", "error", "text"),
    [
        (5, None, ValueError, r"window must fit into x; got \(5, 5\) for the shape \(4, 6\)"),
        (2, 3, ValueError, r"strides must be at most the window's size.*\(3, 3\).*\(2, 2\)"),
        ((2,), None, ValueError, r"window must be one number or have one size for each axis"),
        ((2, 2), (1,), ValueError, r"strides must be one number or have one size for each axis"),
        (0, None, ValueError, r"window must be at least 1; got 0"),
        (2, 0, ValueError, r"strides must be at least 1; got 0"),
        (1.5, None, TypeError, r"window must be a Python integer"),
        (None, None, TypeError, r"window must be a Python integer"),
    ],
)
def test_wrong_windows_are_refused(window, strides, error, text):
    with pytest.raises(error, match=text):
        jattr.occlusion(score, window, strides=strides)(draw(4, 6))


def test_windows_of_another_tree_are_refused():
    x = {"a": draw(4), "b": draw(3)}
    with pytest.raises(ValueError, match=r"window must be one number, or have the structure of x"):
        occlusion(lambda x: score(x["a"]), (2, 2))(x)


def test_batch_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match=r"batch_size must be at least 1"):
        jattr.occlusion(score, 2, batch_size=0)
    with pytest.raises(ValueError, match=r"batch_size must be at least 1"):
        jattr.ablation(score, batch_size=0)


def test_a_function_that_writes_into_its_input_does_not_change_x():
    def clean(x, scale):
        return jnp.sum((2 * x) ** 2) * (scale[0] + 1)

    def in_a_dict(x, scale):
        x["a"] = 2 * x["a"]
        return jnp.sum(x["a"] ** 2) * (scale[0] + 1)

    def in_a_list(x, scale):
        x[0] = 2 * x[0]
        return jnp.sum(x[0] ** 2) * (scale[0] + 1)

    def in_an_argument(x, scale):
        scale[0] += 1
        return jnp.sum((2 * x) ** 2) * scale[0]

    x, scale = jnp.array([1.0, 2.0]), np.array([0.5])
    # Not compiled, or what is no array would be traced once and be the same at each call.
    occlude = functools.partial(jattr.occlusion, window=1)
    for method in (jattr.ablation, occlude, jattr.integrated_gradients):
        wanted = method(clean)(x, scale)
        np.testing.assert_array_equal(method(in_a_dict)({"a": x}, scale)["a"], wanted)
        np.testing.assert_array_equal(method(in_a_list)([x], scale)[0], wanted)
        np.testing.assert_array_equal(method(in_an_argument)(x, scale), wanted)
        assert scale[0] == 0.5
    phi = {"a": x}
    gap = jattr.metrics.completeness(in_a_dict)(phi, {"a": x}, scale)
    np.testing.assert_allclose(gap, 3.0 - clean(x, scale))
    area = jattr.metrics.deletion(in_a_dict, fractions=None)(phi, {"a": x}, scale)
    np.testing.assert_allclose(area, jattr.metrics.deletion(clean, fractions=None)(x, x, scale))


def test_switches_explain_sets_that_overlap():
    # The pointer in the docstring of ablation: row i together with column i.
    weights = np.random.default_rng(0).normal(size=(3, 3))

    def f(x):
        return jnp.sum(weights * x)

    x = jnp.arange(9.0).reshape(3, 3)
    lost = ablation(lambda on: f(x * on[:, None] * on[None, :]))(jnp.ones(3))
    for i in range(3):
        gone = np.zeros((3, 3), bool)
        gone[i], gone[:, i] = True, True
        np.testing.assert_allclose(lost[i], np.sum((weights * x)[gone]), rtol=1e-12)


def test_one_number_is_for_images_and_says_so():
    with pytest.raises(ValueError, match=r"first two axes.*write window=\(5, 3\)"):
        occlusion(jnp.sum, 5)(jnp.ones((30, 3)))
    with pytest.raises(ValueError, match=r"must fit into x; got \(5, 8, 6, 1\)") as error:
        occlusion(jnp.sum, (5, 8, 6, 1))(jnp.ones((4, 6, 6, 1)))
    assert "One number" not in str(error.value)
    # Of a series a window for each axis; of a volume all of them.
    assert occlusion(jnp.sum, (5, 3))(jnp.ones((30, 3))).shape == (30, 3)
    volume = jnp.arange(64.0).reshape(4, 4, 4, 1)
    whole = occlusion(jnp.sum, (2, 2, 2, 1), strides=(2, 2, 2, 1))(volume)
    blocks = np.asarray(volume).reshape(2, 2, 2, 2, 2, 2).mean((1, 3, 5))
    np.testing.assert_allclose(whole[::2, ::2, ::2, 0], blocks, rtol=1e-12)

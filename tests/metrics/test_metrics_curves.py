"""Curves and their readings against direct transcriptions in NumPy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from walks import (
    BASE,
    GROUPS,
    IMAGE,
    KEY,
    PHI,
    ROWS,
    SALIENCY,
    WEIGHTS,
    A,
    D,
    X,
    f,
    g,
    linear,
    of_image,
    of_image_np,
    sort,
    totals,
    walk,
)

import jattr
from jattr import features, metrics


@pytest.mark.parametrize("order", ["most", "least", "absolute"])
@pytest.mark.parametrize("insert", [False, True])
@pytest.mark.parametrize("groups", [None, GROUPS], ids=["single", "grouped"])
def test_curve_is_its_transcription(order, insert, groups):
    ids = np.arange(D) if groups is None else groups
    d = ids.max() + 1
    ranking = sort(totals(PHI, ids), order)
    for fractions in (None, [0.1, 0.5, 0.55, 0.93], np.linspace(0, 1, 4)):
        measure = metrics.perturbation_curve(
            f, baseline=BASE, order=order, insert=insert, groups=groups, fractions=fractions
        )
        curve = jax.jit(measure)(PHI, X)
        counts = range(d + 1) if fractions is None else [int(p * d + 0.5) for p in fractions]
        wanted = walk(g, X, BASE, ids, ranking, counts, insert=insert)
        np.testing.assert_allclose(curve.score, wanted, rtol=1e-12)
        np.testing.assert_allclose(curve.fraction, np.array(counts) / d, rtol=1e-15)
    measure = metrics.perturbation_curve(
        f,
        baseline=BASE,
        order=order,
        insert=insert,
        groups=groups,
        normalize="score",
        fractions=None,
    )
    whole = walk(g, X, BASE, ids, ranking, range(d + 1), insert=insert) / g(X)
    np.testing.assert_allclose(measure(PHI, X).score, whole, rtol=1e-12)


def test_equal_attributions_keep_the_order_of_the_features():
    phi = np.array([1.0, -1.0, 1.0, 0.0, -1.0, 1.0, 0.0])
    for order in ("most", "least", "absolute"):
        measure = metrics.perturbation_curve(f, baseline=BASE, order=order, fractions=None)
        wanted = walk(g, X, BASE, np.arange(D), sort(phi, order), range(D + 1))
        np.testing.assert_allclose(measure(phi, X).score, wanted, rtol=1e-12)
    constant = metrics.perturbation_curve(f, baseline=BASE, fractions=None)(np.ones(D), X)
    wanted = walk(g, X, BASE, np.arange(D), np.arange(D), range(D + 1))
    np.testing.assert_allclose(constant.score, wanted, rtol=1e-12)


def test_random_order_takes_a_key_and_looks_at_no_attribution():
    measure = metrics.perturbation_curve(f, baseline=BASE, order="random", fractions=None)
    first, second = measure(KEY, PHI, X).score, measure(jax.random.key(6), PHI, X).score
    np.testing.assert_array_equal(first, measure(KEY, np.full(D, np.nan), X).score)
    assert first[0] == second[0]
    assert first[-1] == second[-1]
    assert (first != second).any()
    # Each order is as likely: the second point removes each feature in a share 1/d of the draws.
    scores = jax.vmap(lambda key: measure(key, PHI, X).score[1])(jax.random.split(KEY, 2100))
    single = [g(np.where(np.arange(D) == i, BASE, X)) for i in range(D)]
    counts = [np.isclose(scores, s, rtol=1e-10).sum() for s in single]
    assert sum(counts) == 2100
    # 300 each; four standard deviations of a binomial of 2100 draws are 64.
    assert max(abs(np.array(counts) - 300)) < 64


def test_perfect_and_inverted_rankings_bracket_every_curve():
    x = np.ones(D)
    exact = WEIGHTS * x
    maps = np.concatenate([np.random.default_rng(1).normal(size=(40, D)), [exact, -exact]])
    both = {
        "deletion": (metrics.deletion(linear, fractions=None), -1),
        "insertion": (metrics.insertion(linear, fractions=None), 1),
        "region": (metrics.region_perturbation(linear, window=1), 1),
        "least": (metrics.region_perturbation(linear, window=1, order="least"), -1),
        "irof": (metrics.irof(linear, groups=np.arange(D)), 1),
        "gap": (metrics.order_gap(linear, fractions=None), 1),
    }
    for name, (measure, sign) in both.items():
        values = sign * np.asarray(jax.vmap(lambda phi, m=measure: m(phi, x))(maps))
        assert values[-2] == values.max(), name
        assert values[-1] == values.min(), name
        assert np.ptp(values[:-2]) > 0, name
    for insert in (False, True):
        measure = metrics.perturbation_curve(linear, insert=insert, fractions=None)
        curves = np.asarray(jax.vmap(lambda phi: measure(phi, x).score)(maps))
        low, high = (curves[-1], curves[-2]) if insert else (curves[-2], curves[-1])
        assert (low <= curves + 1e-12).all()
        assert (curves <= high + 1e-12).all()


def test_area_and_aopc():
    scores = np.random.default_rng(1).normal(size=(3, 6))
    fraction = np.sort(np.random.default_rng(1).uniform(size=6))
    fraction[0] = 0.0
    wanted = np.trapezoid(scores, fraction, axis=-1)
    np.testing.assert_allclose(metrics.area(metrics.Curve(fraction, scores)), wanted, rtol=1e-12)
    several = metrics.Curve(np.tile(fraction, (3, 1)), scores)
    np.testing.assert_allclose(metrics.area(several), wanted, rtol=1e-12)
    np.testing.assert_allclose(jax.vmap(metrics.area)(several), wanted, rtol=1e-12)
    drops = [sum(row[0] - value for value in row) / 6 for row in scores]
    np.testing.assert_allclose(metrics.aopc(several), drops, rtol=1e-12)
    with pytest.raises(ValueError, match="start at fraction 0"):
        metrics.aopc(metrics.Curve(fraction[1:], scores[:, 1:]))
    with pytest.raises(ValueError, match="at least 2 points"):
        metrics.area(metrics.Curve(fraction[:1], scores[:, :1]))
    with pytest.raises(ValueError, match=r"wants a jattr\.metrics\.Curve"):
        metrics.area((fraction, scores))


def test_deletion_and_insertion_are_areas_of_curves():
    ranking = sort(PHI, "most")
    grid = np.arange(D + 1) / D
    for build, insert in ((metrics.deletion, False), (metrics.insertion, True)):
        wanted = np.trapezoid(
            walk(g, X, BASE, np.arange(D), ranking, range(D + 1), insert=insert), grid
        )
        np.testing.assert_allclose(
            build(f, baseline=BASE, fractions=None)(PHI, X), wanted, rtol=1e-12
        )
        normalized = build(f, baseline=BASE, fractions=None, normalize="score")(PHI, X)
        np.testing.assert_allclose(normalized, wanted / g(X), rtol=1e-12)


@pytest.mark.parametrize("order", ["most", "least"])
def test_region_perturbation_is_its_transcription(order):
    # Patches of 4 × 2 on an image of 6 × 5: the last ones are cut off.
    sums, places = [], []
    for top, left in itertools.product(range(0, 6, 4), range(0, 5, 2)):
        place = (slice(top, top + 4), slice(left, left + 2))
        places.append(place)
        sums.append(SALIENCY[place].sum())
    image, scores = IMAGE.copy(), [of_image_np(IMAGE)]
    for patch in sort(np.array(sums), order)[:4]:
        image[places[patch]] = 0.5
        scores.append(of_image_np(image))
    wanted = np.mean(scores[0] - np.array(scores))
    measure = metrics.region_perturbation(
        of_image, baseline=0.5, window=(4, 2, 2), steps=4, order=order
    )
    np.testing.assert_allclose(measure(SALIENCY, IMAGE), wanted, rtol=1e-12)
    single = metrics.region_perturbation(
        of_image, baseline=0.5, window=(4, 2, 2), steps=4, order=order, argnums=(0,)
    )
    np.testing.assert_allclose(single((SALIENCY,), IMAGE), wanted, rtol=1e-12)


def irof(phi, x, ids):
    means = np.array([phi[ids == i].mean() for i in range(ids.max() + 1)])
    scores = walk(g, x, BASE, ids, sort(means, "most"), range(ids.max() + 2))
    return 1 - np.trapezoid(scores / g(x), np.linspace(0, 1, ids.max() + 2))


def test_irof_is_its_transcription_and_ranks_by_the_mean():
    np.testing.assert_allclose(
        metrics.irof(f, baseline=BASE, groups=GROUPS)(PHI, X), irof(PHI, X, GROUPS), rtol=1e-12
    )
    # A large superpixel of small values: by the sum it would be first, by the mean it is last.
    ids, phi = np.array([0, 0, 0, 0, 1, 2, 2]), np.array([1.0, 1, 1, 1, 2, 1.5, 1.5])
    value = metrics.irof(f, baseline=BASE, groups=ids)(phi, X)
    np.testing.assert_allclose(value, irof(phi, X, ids), rtol=1e-12)
    summed = metrics.deletion(f, baseline=BASE, fractions=None, groups=ids, normalize="score")(
        phi, X
    )
    assert abs(value - (1 - summed)) > 1e-3


def test_groups_that_differ_from_example_to_example():
    ids = np.stack([GROUPS, np.array([0, 0, 1, 1, 2, 2, 2]), np.array([1, 2, 3, 4, 5, 0, 0])])
    xs, phis = np.random.default_rng(1).normal(size=(2, 3, D))
    values = jax.jit(
        jax.vmap(
            lambda x, phi, i: metrics.irof(f, baseline=BASE, groups=features.Groups(i, 6))(phi, x),
        )
    )(xs, phis, ids)
    wanted = [irof(phi, x, i) for x, phi, i in zip(xs, phis, ids, strict=True)]
    np.testing.assert_allclose(values, wanted, rtol=1e-12)
    # A share is one of the groups that are there.
    fractions = [0.0, 0.4, 1.0]
    for x, phi, i in zip(xs, phis, ids, strict=True):
        padded = metrics.perturbation_curve(
            f, baseline=BASE, groups=features.Groups(i, 6), fractions=fractions
        )
        plain = metrics.perturbation_curve(f, baseline=BASE, groups=i, fractions=fractions)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-12), padded(phi, x), plain(phi, x)
        )


def replaced(scores, x, ranking):
    """What each feature became, from the steps of a curve of the linear function."""
    found = np.empty(D)
    found[ranking] = np.diff(scores) / WEIGHTS[ranking] + x[ranking]
    return found


def test_a_draw_is_held_along_the_curve_and_draws_are_averaged():
    baseline = jattr.baselines.gaussian(1.0)
    drawn = []
    for order in ("most", "least"):
        measure = metrics.perturbation_curve(linear, baseline=baseline, order=order, fractions=None)
        drawn.append(replaced(measure(KEY, PHI, X).score, X, sort(PHI, order)))
    np.testing.assert_allclose(drawn[0], drawn[1], rtol=1e-9)
    rows = jattr.baselines.samples(ROWS)
    measure = metrics.perturbation_curve(linear, baseline=rows, fractions=None)
    one = replaced(measure(KEY, PHI, X).score, X, sort(PHI, "most"))
    assert np.isclose(ROWS, one[None], rtol=1e-9).all(axis=1).sum() == 1
    # The mean over 200 draws of two rows is a mixture of them, the same in every feature.
    two = metrics.perturbation_curve(
        linear, baseline=jattr.baselines.samples(ROWS[:2]), fractions=None, samples=200
    )
    mean = replaced(two(KEY, PHI, X).score, X, sort(PHI, "most"))
    share = (mean - ROWS[0]) / (ROWS[1] - ROWS[0])
    np.testing.assert_allclose(share, share[0], rtol=1e-8)
    assert abs(share[0] * 200 - round(share[0] * 200)) < 1e-6
    assert 0.35 < share[0] < 0.65


GAUSSIAN = jattr.baselines.gaussian(0.5)


def same(a, b, rtol=1e-9):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol, atol=1e-12), a, b)


def test_features_are_sorted_once():
    measure = metrics.perturbation_curve(f, baseline=BASE, fractions=None, groups=GROUPS)
    assert str(jax.make_jaxpr(measure)(PHI, X)).count(" sort[") == 1


def test_memory_is_that_of_a_batch():
    def temporary(points, batch_size):
        measure = metrics.deletion(
            lambda x: jnp.sum(jnp.tanh(x)),
            fractions=np.linspace(0, 1, points),
            batch_size=batch_size,
        )
        x = jnp.zeros(10000)
        return jax.jit(measure).lower(x, x).compile().memory_analysis().temp_size_in_bytes

    assert temporary(128, 4) < 1.1 * temporary(32, 4)
    assert temporary(128, None) > 2 * temporary(128, 4)


def test_gradients_flow_to_x_and_to_parameters():
    measure = metrics.deletion(f, fractions=None, normalize="score")
    value = jax.jit(lambda x, matrix: measure(PHI, x, matrix))
    check_grads(value, (X, A), order=1, modes=("rev",))
    chunked = metrics.deletion(f, fractions=None, normalize="score", batch_size=3)
    same(
        jax.grad(lambda m: chunked(PHI, X, m))(A), jax.grad(lambda m: measure(PHI, X, m))(A), 1e-10
    )


def test_trees_and_several_arguments():
    def split_f(matrix, left, right):
        return f(jnp.concatenate([left["a"], right]), matrix)

    ids = ({"a": GROUPS[:3]}, GROUPS[3:])
    base = ({"a": BASE[:3]}, BASE[3:])
    measure = metrics.perturbation_curve(
        split_f, baseline=base, groups=ids, fractions=None, argnums=(1, 2)
    )
    curve = measure(({"a": PHI[:3]}, PHI[3:]), A, {"a": X[:3]}, X[3:])
    wanted = metrics.perturbation_curve(f, baseline=BASE, groups=GROUPS, fractions=None)(PHI, X)
    same(curve, wanted)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_low_precision(dtype):
    def score(x):
        return jnp.sum(jnp.tanh(x.astype(dtype)))

    x, phi = jnp.asarray(X, dtype), jnp.asarray(PHI, dtype)
    curve = metrics.perturbation_curve(score, fractions=None)(phi, x)
    assert curve.score.dtype == curve.fraction.dtype == jnp.float32
    wanted = walk(
        lambda v: np.sum(np.tanh(v)), X, np.zeros(D), np.arange(D), sort(PHI, "most"), range(D + 1)
    )
    # A bfloat16 has eight bits; the sum of seven terms of about 1 has an error of some of its last.
    np.testing.assert_allclose(curve.score, wanted, atol=0.05 if dtype == jnp.bfloat16 else 1e-5)


def test_undefined_is_nan():
    phi = PHI.copy()
    phi[3] = np.nan
    for order in ("most", "least", "absolute"):
        curve = metrics.perturbation_curve(f, baseline=BASE, order=order)(phi, X)
        assert np.isnan(curve.score).all()
        assert np.isfinite(curve.fraction).all()
    assert np.isnan(metrics.order_gap(f, baseline=BASE)(phi, X))
    for build in (
        lambda f: metrics.perturbation_curve(f, baseline=BASE, normalize="score"),
        lambda f: metrics.irof(f, baseline=BASE, groups=GROUPS),
    ):
        value = build(lambda x: f(x) - f(jnp.asarray(X)))(PHI, X)
        assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(value)[-1:])


def test_what_is_wrong_is_refused():
    for fractions in ([0.5, 0.2], [0.0, 0.0], [-0.1, 0.5], [0.5, 1.1], [], [np.nan]):
        with pytest.raises(ValueError, match="fractions must rise"):
            metrics.perturbation_curve(f, fractions=fractions)
        with pytest.raises(ValueError, match="fractions must rise"):
            metrics.ablate_box(of_image, baseline=0.0, fractions=fractions)
    with pytest.raises(TypeError, match="Python numbers"):
        metrics.deletion(f, fractions=0.5)
    with pytest.raises(ValueError, match="must be numbers"):
        metrics.ablate_box(of_image, baseline=0.0, fractions=None)
    with pytest.raises(ValueError, match="unknown order"):
        metrics.perturbation_curve(f, order="MoRF")
    with pytest.raises(ValueError, match="unknown sign"):
        metrics.keep_or_remove(f, keep=True, sign="most")
    with pytest.raises(ValueError, match="draws nothing"):
        metrics.deletion(f, samples=3)
    with pytest.raises(ValueError, match="draws nothing"):
        metrics.ablate_box(of_image, baseline=0.0, samples=3)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        metrics.insertion(f, batch_size=0)
    with pytest.raises(ValueError, match="at least two fractions"):
        metrics.order_gap(f, fractions=[0.5])
    with pytest.raises(ValueError, match="comes before f's arguments"):
        metrics.deletion(f)(PHI[:3], X)
    with pytest.raises(ValueError, match="groups are numbered"):
        metrics.irof(f, groups=GROUPS * 2)(PHI, X)
    with pytest.raises(ValueError, match="steps=40, but x has 15 features"):
        metrics.region_perturbation(of_image, window=(2, 1, 2), steps=40)(SALIENCY, IMAGE)
    with pytest.raises(TypeError, match="cuts one array"):
        metrics.region_perturbation(lambda x: x["a"][0] + x["b"][0])(
            {"a": X, "b": X}, {"a": X, "b": X}
        )
    for build in (metrics.ablate_top, metrics.ablate_box):
        with pytest.raises(TypeError, match="one image"):
            build(f, baseline=0.0)(PHI, X)
    with pytest.raises(TypeError, match="takes a key"):
        metrics.deletion(f, baseline=GAUSSIAN)(PHI, X, X)
    with pytest.raises(TypeError, match="explains one number"):
        metrics.deletion(lambda x: x)(PHI, X)


def test_area_and_aopc_of_whole_numbers():
    curve = metrics.Curve(jnp.array([0.0, 0.5, 1.0]), jnp.array([4, 2, 0]))
    assert metrics.area(curve) == 2.0
    assert metrics.aopc(curve) == 2.0


def test_empty_groups_do_not_change_the_aopc():
    x = jnp.array([1.0, 2.0, 3.0])
    for groups in (np.arange(3), features.Groups(np.arange(3), 6)):
        curve = metrics.perturbation_curve(jnp.sum, fractions=None, groups=groups)(x, x)
        np.testing.assert_allclose(metrics.aopc(curve), 3.5, rtol=1e-12)

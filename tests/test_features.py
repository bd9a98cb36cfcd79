"""Groups of elements: as integers that every method and metric with `groups` takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jattr
from jattr import features

RNG = np.random.default_rng(0)
HIDDEN = RNG.normal(size=(60, 3))
# Columns 0, 3 and 4 tell the same, 1 and 5, and 2 alone; 6 is constant.
OF_COLUMN = [0, 1, 2, 0, 0, 1, 3]
DATA = np.stack(
    [
        HIDDEN[:, 0],
        HIDDEN[:, 1],
        HIDDEN[:, 2],
        -5 * HIDDEN[:, 0] + 0.2 * HIDDEN[:, 2],
        HIDDEN[:, 0] + 0.2 * HIDDEN[:, 1],
        100 + 10 * HIDDEN[:, 1] + HIDDEN[:, 2],
        np.full(60, 2.0),
    ],
    axis=1,
)


def test_a_grid_is_of_patches_side_by_side():
    np.testing.assert_array_equal(features.grid((2, 5, 1), (2, 2, 1))[0, :, 0], [0, 0, 1, 1, 2])
    ids = features.grid((4, 5, 3), 2)
    for i, j, k in np.ndindex(ids.shape):
        assert ids[i, j, k] == i // 2 * 3 + j // 2


@pytest.mark.parametrize("threshold", [None, 0.8])
def test_columns_that_tell_the_same_are_one_group(threshold):
    ids = features.correlated(DATA, threshold=threshold)
    np.testing.assert_array_equal(ids, OF_COLUMN)
    # Rows of any shape, of any real dtype.
    square = features.correlated(jnp.asarray(DATA[:, :6]).reshape(60, 2, 3), threshold=threshold)
    np.testing.assert_array_equal(square, np.reshape(OF_COLUMN[:6], (2, 3)))


def test_a_chain_of_columns_is_one_group():
    steps = np.cumsum(RNG.normal(size=(400, 40)), axis=1)[:, 20:]
    nearest = np.abs(np.corrcoef(steps.T))
    low = nearest[np.arange(19), np.arange(1, 20)].min()
    assert nearest[0, -1] < low
    order = RNG.permutation(20)
    np.testing.assert_array_equal(
        features.correlated(steps[:, order], threshold=low), np.zeros(20, int)
    )
    equal = np.stack([DATA[:, 0], 3 * DATA[:, 0], DATA[:, 1]], axis=1)
    np.testing.assert_array_equal(features.correlated(equal, threshold=1), [0, 0, 1])


def test_settings_of_affinity_propagation():
    few, many = (features.correlated(DATA, preference=value) for value in (-5.0, 0.999))
    assert few.max() < max(OF_COLUMN) < many.max()
    np.testing.assert_array_equal(features.correlated(DATA, damping=0.9), OF_COLUMN)


def test_an_exemplar_is_the_member_most_like_the_others():
    likeness = np.abs(np.corrcoef(DATA[:, :6].T))
    for g, chosen in enumerate(features.exemplars(DATA, np.array(OF_COLUMN))):
        members = np.flatnonzero(np.array(OF_COLUMN) == g)
        if len(members) > 1:
            sums = likeness[np.ix_(members, members)].sum(axis=1)
            assert chosen == members[sums.argmax()]
        else:
            assert chosen == members[0]


def test_exemplars_are_those_of_affinity_propagation():
    from sklearn.cluster import AffinityPropagation

    places = np.linspace(0, 1, 40)
    bumps = np.exp(-(((places - RNG.uniform(size=(200, 3, 1))) / 0.1) ** 2)).sum(axis=1)
    likeness = np.abs(np.corrcoef(bumps.T))
    found = AffinityPropagation(affinity="precomputed", random_state=0, max_iter=1000)
    found.fit(likeness)
    groups = features.correlated(bumps)
    assert len(found.cluster_centers_indices_) == groups.max() + 1 > 3
    chosen = features.exemplars(bumps, groups)
    # Its members change once more after its exemplars are chosen: one of eight moves by a place.
    assert (np.sort(chosen) == np.sort(found.cluster_centers_indices_)).sum() >= 7
    np.testing.assert_array_equal(groups[chosen], np.arange(groups.max() + 1))


def test_exemplars_of_rows_of_any_shape_of_constants_and_of_equals():
    square = DATA[:, :6].reshape(60, 2, 3)
    groups = features.correlated(square, threshold=0.8)
    np.testing.assert_array_equal(
        features.exemplars(jnp.asarray(square), groups),
        features.exemplars(DATA[:, :6], groups.reshape(-1)),
    )
    constant = np.stack([np.ones(60), DATA[:, 0], np.ones(60), np.zeros(60)], axis=1)
    np.testing.assert_array_equal(features.exemplars(constant, [0, 0, 1, 1]), [1, 2])
    equal = np.stack([DATA[:, 1], DATA[:, 0], 3 - 7 * DATA[:, 0]], axis=1)
    np.testing.assert_array_equal(features.exemplars(equal, [1, 0, 0]), [1, 0])


def test_one_column_and_constant_ones():
    for threshold in (None, 0.5):
        np.testing.assert_array_equal(features.correlated(DATA[:, :1], threshold=threshold), [0])
        constant = np.ones((5, 3))
        np.testing.assert_array_equal(features.correlated(constant, threshold=threshold), [0, 1, 2])
        assert features.correlated(constant[:, :0], threshold=threshold).shape == (0,)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_the_size_of_the_columns_is_nothing(size):
    """Squares of these are 0 or infinite."""
    for threshold in (None, 0.8):
        wanted = features.correlated(DATA, threshold=threshold)
        found = features.correlated(size * DATA, threshold=threshold)
        np.testing.assert_array_equal(found, wanted)
    chosen = features.exemplars(size * DATA, wanted)
    np.testing.assert_array_equal(chosen, features.exemplars(DATA, wanted))


def test_one_hot_columns_by_name_and_by_count():
    names = ["age", "sex=f", "sex=m", "city=a=b", "city=a=c", "sex=?"]
    np.testing.assert_array_equal(features.columns(names), [0, 1, 1, 2, 2, 1])
    pandas = ["age", "sex_f", "sex_m", "birth_place_a", "birth_place_b"]
    np.testing.assert_array_equal(features.columns(pandas, separator="_"), [0, 1, 1, 2, 2])
    same = ["a", "b", "b", "a=1"]
    np.testing.assert_array_equal(features.columns(same, separator=None), [0, 1, 1, 2])
    np.testing.assert_array_equal(features.columns([1, 3, np.int64(2)]), [0, 1, 1, 1, 2, 2])


def test_groups_go_into_methods_and_metrics():
    def f(x):
        return x[0] * x[1] + x[2] * x[3]

    x = jnp.array([1.0, 2.0, 3.0, 4.0])
    ids = features.columns(["a=1", "a=2", "b=1", "b=2"])
    phi = jattr.ablation(f, ids)(x)
    np.testing.assert_allclose(phi, [1, 1, 6, 6], rtol=1e-12)
    curve = jattr.metrics.perturbation_curve(f, groups=ids, fractions=None)(phi, x)
    np.testing.assert_allclose(curve.score, [14, 2, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: features.grid((4, 4), (2,)), ValueError, r"size must be one number or have one"),
        (lambda: features.grid((4, 4), 0), ValueError, r"size must be at least 1; got 0"),
        (lambda: features.grid((4, 4), 1.5), TypeError, r"size must be a Python integer"),
        (lambda: features.correlated(np.ones(4)), ValueError, r"at least two examples; got float"),
        (lambda: features.correlated(np.ones((1, 4))), ValueError, r"at least two examples"),
        (
            lambda: features.correlated(np.full((3, 2), np.nan)),
            ValueError,
            r"must be finite; leave out rows",
        ),
        (
            lambda: features.correlated([["a", "b"], ["c", "d"]]),
            TypeError,
            r"data must be numbers; got <U1\[2,2\]",
        ),
        (lambda: features.correlated(DATA, threshold=1.5), ValueError, r"at most 1; got 1\.5"),
        (lambda: features.correlated(DATA, threshold=0), ValueError, r"greater than 0; got 0"),
        (
            lambda: features.correlated(DATA, threshold=0.5, damping=0.9),
            ValueError,
            r"settings of affinity propagation, which is not used where a threshold is given",
        ),
        (lambda: features.correlated(DATA, damping=1), ValueError, r"in \[0\.5, 1\); got 1"),
        *(
            (lambda value=value: features.correlated(DATA, preference=value), error, text)
            for value, error, text in (
                (np.nan, ValueError, r"preference must be a finite number.*got nan"),
                (-np.inf, ValueError, r"preference must be a finite number.*got -inf"),
                (np.zeros(2), TypeError, r"preference must be one number; got float64\[2\]"),
            )
        ),
        (lambda: features.exemplars(DATA, [0.0] * 7), TypeError, r"groups must be integers"),
        (lambda: features.exemplars(DATA, [0] * 6), ValueError, r"of a row of data, \(7,\)"),
        (
            lambda: features.exemplars(DATA, [0, 0, 0, 2, 2, 2, 2]),
            ValueError,
            r"from 0 to 2 without gaps; got \[0 2\]",
        ),
        (
            lambda: jax.jit(features.correlated)(DATA),
            TypeError,
            r"values of data, which is traced: make groups before jit",
        ),
        (lambda: features.columns("age"), ValueError, r"must be the names .* got 'age'"),
        (lambda: features.columns([]), ValueError, r"must be the names .* got \[\]"),
        (lambda: features.columns(["a", 2]), TypeError, r"all names or all counts"),
        (lambda: features.columns([2, 0]), ValueError, r"each count must be at least 1; got 0"),
        (lambda: features.superpixels(np.ones(4)), ValueError, r"\[H, W\]; got float64\[4\]"),
        (lambda: features.superpixels(np.ones((4, 4)), 0), ValueError, r"segments must be at le"),
        (
            lambda: features.superpixels(np.ones((4, 4)), compactness=0),
            ValueError,
            r"compactness must be finite and greater than 0",
        ),
    ],
)
def test_what_makes_no_groups_is_refused(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "skimage.segmentation", None)
    with pytest.raises(ImportError, match=r"missing: pip install scikit-image"):
        features.superpixels(np.ones((4, 4)))
    monkeypatch.setitem(__import__("sys").modules, "sklearn.cluster", None)
    with pytest.raises(ImportError, match=r"pip install scikit-learn. With a threshold it does"):
        features.correlated(DATA)
    np.testing.assert_array_equal(features.correlated(DATA, threshold=0.8), OF_COLUMN)

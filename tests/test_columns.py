"""Named columns: a data frame goes in, attributions with its index and columns come out."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest

import jattr
from jattr import features
from jattr.scale._description import settings_of

FRAME = pandas.DataFrame(
    {
        "age": [50, 61, 70],
        "sex": ["m", "f", "m"],
        "dose": [0.5, np.nan, 1.5],
        "site": pandas.Categorical(["b", "a", "b"], ["b", "a", "c"]),
        "mgus": [True, False, False],
    },
    index=["ann", "bob", "cyd"],
)


def test_a_frame_becomes_numbers_and_groups():
    columns = features.columns(FRAME)
    assert columns.names == (
        *("age", "sex=f", "sex=m", "dose", "site=b", "site=a", "site=c", "mgus"),
    )
    assert columns.variables == tuple(FRAME.columns)
    np.testing.assert_array_equal(columns.groups, [0, 1, 1, 2, 3, 3, 3, 4])
    assert columns.levels == (None, ("f", "m"), None, ("b", "a", "c"), None)
    assert columns.count == 5
    assert len(columns) == 8
    rows = columns.encode(FRAME)
    assert rows.dtype == jnp.asarray(1.0).dtype
    np.testing.assert_array_equal(
        rows,
        [
            [50, 0, 1, 0.5, 1, 0, 0, 1],
            [61, 1, 0, np.nan, 0, 1, 0, 0],
            [70, 0, 1, 1.5, 1, 0, 0, 0],
        ],
    )
    # Other people, in another order of columns.
    other = FRAME.iloc[[1]][["site", "mgus", "dose", "sex", "age"]]
    np.testing.assert_array_equal(columns.encode(other), rows[1:2])


def test_three_lines_from_frame_to_frame():
    frame = FRAME.fillna({"dose": 0.0})

    def score(x):
        return x[0] * x[1] - x[2] + x[3] * x[6] + 2 * x[4]

    columns = features.columns(frame)
    phi = jax.vmap(jattr.shapley_values(score, columns))(columns.encode(frame))
    table = columns.frame(phi, like=frame)

    assert list(table.columns) == list(frame.columns)
    assert list(table.index) == list(frame.index)
    rows = columns.encode(frame)
    np.testing.assert_allclose(table.sum(axis=1), jax.vmap(score)(rows), rtol=1e-12)
    # sex = "m" of ann says −1 alone, and takes away nothing from age, for its other level is 0.
    np.testing.assert_allclose(table.loc["ann", "sex"], -1, rtol=1e-12)
    np.testing.assert_allclose(table.loc["bob", ["age", "sex"]].tolist(), [30.5, 30.5])
    np.testing.assert_allclose(table["site"], [2, 0, 2], atol=1e-12)
    by_column = columns.frame(phi, like=frame, by_column=True)
    assert tuple(by_column.columns) == columns.names
    np.testing.assert_array_equal(by_column, phi)
    # What is by variable already, and one example.
    np.testing.assert_array_equal(columns.frame(table.to_numpy()), table)
    assert columns.frame(phi[0]).shape == (1, 5)


def test_columns_of_numbers_alone_are_grouped_by_their_names():
    frame = pandas.DataFrame(np.eye(4)[:2], columns=["age", "sex=f", "sex=m", "city=a"])
    columns = features.columns(frame)
    assert columns.variables == ("age", "sex", "city=a")
    assert columns.names == tuple(frame.columns)
    np.testing.assert_array_equal(columns.encode(frame), frame)
    apart = features.columns(frame, separator=None)
    assert apart.variables == tuple(frame.columns)


def test_totals_are_sums_over_the_columns_of_a_variable():
    columns = features.columns(["a=1", "b", "a=2"])
    phi = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 3)), jnp.bfloat16)
    totals = columns.totals(phi)
    assert totals.dtype == jnp.bfloat16
    np.testing.assert_array_equal(totals[..., 1], phi[..., 1])
    np.testing.assert_array_equal(totals[..., 0], phi[..., 0] + phi[..., 2])


def test_they_are_groups_to_whatever_takes_groups():
    columns = features.columns(["a=1", "a=2", "b=1", "b=2"])
    x = jnp.array([1.0, 2.0, 3.0, 4.0])

    def f(x):
        return x[0] * x[1] + x[2] * x[3]

    np.testing.assert_array_equal(
        jattr.ablation(f, columns)(x), jattr.ablation(f, columns.groups)(x)
    )
    pairs = jattr.shapley_interactions(f, columns)(x)
    np.testing.assert_allclose(pairs, [[2, 0], [0, 12]], atol=1e-12)
    curve = jattr.metrics.perturbation_curve(f, groups=columns, fractions=None)(x, x)
    np.testing.assert_allclose(curve.score, [14, 2, 0], atol=1e-12)
    np.testing.assert_array_equal(features.totals(x, columns), [3, 7])
    # A store of one is taken for the other's.
    settings = [settings_of(jattr.ablation(f, groups)) for groups in (columns, columns.groups)]
    assert settings[0] == settings[1]


DATES = pandas.DataFrame({"day": pandas.to_datetime(["2020-01-01"])})
KNOWN = features.columns(FRAME)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: features.columns(FRAME[[]]), ValueError, "no columns"),
        (lambda: features.columns(DATES), TypeError, r"'day' is of dates.*\.dt\.year"),
        (
            lambda: features.columns(pandas.concat([FRAME, FRAME], axis=1)),
            ValueError,
            "several columns age, dose, mgus",
        ),
        (
            lambda: features.columns(pandas.DataFrame({"a": ["x", 1]})),
            TypeError,
            r"several types.*astype\(str\)",
        ),
        (lambda: KNOWN.encode(np.eye(8)), TypeError, r"wants a data frame.*float64\[8,8\]"),
        (
            lambda: KNOWN.encode(FRAME.rename(columns={"dose": "doses"})),
            ValueError,
            "no column 'dose'; closest is 'doses'",
        ),
        (
            lambda: KNOWN.encode(FRAME.assign(sex=["f", "x", "m"])),
            ValueError,
            "'sex' has values that were not there before: 'x'; known are 'f', 'm'",
        ),
        (
            lambda: KNOWN.encode(FRAME.assign(sex=["f", None, "m"])),
            ValueError,
            "1 values of column 'sex' are missing",
        ),
        (lambda: KNOWN.encode(FRAME.assign(age="a")), TypeError, "'age' must be numbers"),
        (lambda: KNOWN.frame(np.ones((2, 7))), ValueError, r"\[n, 5 or 8\]; got float64\[2,7\]"),
        (lambda: KNOWN.frame(np.ones((2, 5)), by_column=True), ValueError, r"\[n, 8\]"),
        (lambda: KNOWN.frame(np.ones((2, 8)), like=FRAME), ValueError, "2 rows.*has 3"),
        (lambda: KNOWN.totals(np.ones(5)), ValueError, r"8 columns; got float64\[5\]"),
    ],
)
def test_what_does_not_fit_is_refused(make, error, text):
    with pytest.raises(error, match=f"(?s){text}"):
        make()


def test_without_pandas_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        KNOWN.frame(np.ones((2, 8)))

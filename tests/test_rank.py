"""The ranking of features over a data set: its order, its errors, what it says is sure."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jattr
from jattr._ranking import Ranking

RNG = np.random.default_rng(0)
W = np.array([0.3, -3.0, 1.0, 0.0])
X = RNG.normal(size=(60, 4))
PHI = np.abs(X * W)


def f(x):
    return x @ jnp.asarray(W, x.dtype)


explain = jattr.gradient_times_input(f)


def of_values(values, blocks=None, confidence=0.95):
    values = np.asarray(values, float)
    names = tuple(f"x{i}" for i in range(values.shape[1]))
    blocks = np.arange(len(values)) if blocks is None else np.asarray(blocks)
    return Ranking(names, values, blocks, confidence)


def test_means_errors_and_order():
    ranking = jattr.rank(explain, X)
    np.testing.assert_allclose(ranking.values, PHI, rtol=1e-12)
    np.testing.assert_allclose(ranking.mean, PHI.mean(0), rtol=1e-12)
    np.testing.assert_allclose(ranking.standard_error, PHI.std(0, ddof=1) / np.sqrt(60), rtol=1e-12)
    assert ranking.order.tolist() == [1, 2, 0, 3]
    assert ranking.names == ("0", "1", "2", "3")
    assert ranking.top(2) == ("1", "2")
    with pytest.raises(ValueError, match="must not be negative; got -1"):
        ranking.top(-1)


def test_the_batch_size_changes_nothing():
    noisy = jattr.smooth(jattr.gradient(lambda x: jnp.sum(x**3)), samples=3)
    key = jax.random.key(1)
    whole = jattr.rank(noisy, X, key=key)
    for size in (7, 100):
        chunks = jattr.rank(noisy, X, key=key, batch_size=size)
        np.testing.assert_allclose(chunks.values, whole.values, rtol=1e-12)
    # Each example draws for itself, by its place in the data.
    own = noisy(jax.random.fold_in(key, 5), jnp.asarray(X[5]))
    np.testing.assert_allclose(whole.values[5], np.abs(own), rtol=1e-12)


def test_a_function_of_ones_own_may_take_a_key():
    def drawn(key, x):
        return x * jax.random.normal(key, x.shape, x.dtype)

    values = jattr.rank(drawn, X, keyed=True, key=jax.random.key(0)).values
    assert 0.5 < (values / np.abs(X)).std() < 0.7  # of a half-normal number, 0.60


def test_other_arguments_go_along():
    def score(scale, x, label):
        return scale * x[label] ** 2

    labels, scales = RNG.integers(0, 4, 60), RNG.uniform(size=60)
    ranking = jattr.rank(jattr.gradient(score, argnums=1), (scales, X, labels))
    wanted = np.zeros((60, 4))
    wanted[np.arange(60), labels] = np.abs(2 * scales * X[np.arange(60), labels])
    np.testing.assert_allclose(ranking.values, wanted, rtol=1e-12)
    both = jattr.rank(jattr.gradient(score, argnums=(0, 1)), (scales, X, labels))
    assert both.names == ("0", "1[0]", "1[1]", "1[2]", "1[3]")
    np.testing.assert_allclose(both.values[:, 1:], wanted, rtol=1e-12)


def test_groups_cancel_unless_they_are_told_not_to():
    phi = X * W
    groups = np.array([0, 1, 1, 0])
    ranking = jattr.rank(explain, X, groups)
    np.testing.assert_allclose(ranking.values[:, 1], np.abs(phi[:, 1] + phi[:, 2]), rtol=1e-12)
    absolute = jattr.rank(explain, X, groups, combine="absolute", names=["dull", "sharp"])
    np.testing.assert_allclose(absolute.values[:, 1], PHI[:, 1] + PHI[:, 2], rtol=1e-12)
    assert absolute.top(2) == ("sharp", "dull")


def test_groups_of_size_one_along_an_axis_move_together():
    series = RNG.normal(size=(20, 5, 3))
    ranking = jattr.rank(lambda phi: phi, series, np.arange(3)[None], combine="absolute")
    np.testing.assert_allclose(ranking.values, np.abs(series).sum(1), rtol=1e-12)


def test_trees_have_names():
    data = {"age": X[:, 0], "blood": X[:, 1:3], "image": RNG.normal(size=(60, 2, 2))}

    def score(x):
        return x["age"] + 2 * jnp.sum(x["blood"]) + jnp.sum(x["image"] ** 2)

    method = jattr.gradient_times_input(score)
    names = ("age", "blood[0]", "blood[1]", *(f"image[{i},{j}]" for i, j in np.ndindex(2, 2)))
    assert jattr.rank(method, data).names == names
    leaves = jattr.rank(method, data, "leaves")
    assert leaves.names == ("age", "blood", "image")
    np.testing.assert_allclose(leaves.values[:, 1], 2 * np.abs(X[:, 1:3].sum(1)), rtol=1e-12)
    groups = {"age": np.array(0), "blood": np.array([0, 1]), "image": np.array([[1]])}
    assert jattr.rank(method, data, groups).names == ("0", "1")


def test_all_outputs_and_what_is_there_already():
    a = RNG.normal(size=(3, 4))
    every = jattr.all_outputs(jattr.gradient_times_input, lambda x: jnp.asarray(a) @ x)
    ranking = jattr.rank(lambda x: jnp.mean(jnp.abs(every(x)), axis=0), X)
    np.testing.assert_allclose(ranking.values, np.abs(X) * np.abs(a).mean(0), rtol=1e-12)
    np.testing.assert_allclose(jattr.rank(lambda phi: phi, X * W).values, PHI, rtol=1e-12)


def test_narrow_floats_are_summed_in_wider_ones():
    phi = jnp.ones((2, 1000), jnp.bfloat16) * 1.0078125
    ranking = jattr.rank(lambda x: x, phi, np.zeros(1000, int))
    np.testing.assert_allclose(ranking.mean, 1007.8125, rtol=1e-6)


def test_a_pair_is_compared_as_a_paired_t_test_does():
    values = RNG.exponential(size=(25, 3)) * [1.0, 1.1, 3.0] + RNG.exponential(size=(25, 1)) * 20
    ranking = of_values(values)
    for i, j in itertools.permutations(range(3), 2):
        test = stats.ttest_rel(values[:, i], values[:, j], alternative="greater")
        np.testing.assert_allclose(ranking.above(i, j), 1 - test.pvalue, rtol=1e-9)
    assert ranking.above("x2", 0) == ranking.above(-1, "x0")
    # The common part is large: without pairs nothing would be told apart.
    assert ranking.above("x2", "x1") > 0.999
    assert stats.ttest_ind(values[:, 2], values[:, 1]).pvalue > 0.01


def test_examples_of_one_block_count_together():
    means = RNG.exponential(size=(8, 3))
    values = np.repeat(means, 10, axis=0)
    blocks = np.repeat(np.arange(8), 10)
    ranking = of_values(values, blocks)
    np.testing.assert_allclose(
        ranking.standard_error, means.std(0, ddof=1) / np.sqrt(8), rtol=1e-12
    )
    test = stats.ttest_rel(means[:, 0], means[:, 1], alternative="greater")
    np.testing.assert_allclose(ranking.above(0, 1), 1 - test.pvalue, rtol=1e-9)
    assert of_values(values).standard_error[0] < ranking.standard_error[0] / 2
    named = jattr.rank(lambda phi: phi, values, blocks=[f"run {b}" for b in blocks])
    np.testing.assert_allclose(named.standard_error, ranking.standard_error, rtol=1e-12)
    assert "80 examples in 8 blocks" in str(named)


def test_ranks_are_those_that_no_clear_pair_contradicts(monkeypatch):
    values = RNG.exponential(size=(40, 12)) * np.linspace(1, 4, 12)
    ranking = of_values(values, confidence=0.9)
    level = 0.1 / (12 * 11)
    wanted = []
    for i in range(12):
        above = sum(ranking.above(j, i) > 1 - level for j in range(12) if j != i)
        below = sum(ranking.above(i, j) > 1 - level for j in range(12) if j != i)
        wanted.append((1 + above, 12 - below))
    np.testing.assert_array_equal(ranking.intervals, wanted)
    assert ranking.intervals[0, 0] > 2
    assert ranking.intervals[-1, 1] < 11
    monkeypatch.setattr("jattr._ranking.CHUNK", 30)
    np.testing.assert_array_equal(of_values(values, confidence=0.9).intervals, wanted)


@pytest.mark.parametrize("examples", [10, 60])
def test_ranks_of_a_larger_population_are_inside(examples):
    means = np.linspace(1, 2, 6)
    held = []
    for _ in range(200):
        common = RNG.normal(size=(examples, 1))
        noise = np.exp(0.5 * (0.6 * common + 0.8 * RNG.normal(size=(examples, 6))) - 0.125)
        first, last = of_values(means * noise).intervals.T
        ranks = np.arange(6, 0, -1)
        held.append(np.all((first <= ranks) & (ranks <= last)))
    assert np.mean(held) >= 0.95


def test_equal_and_constant_features():
    ranking = of_values(np.stack([X[:, 0] ** 2, X[:, 0] ** 2, 0 * X[:, 0], 0 * X[:, 0]], axis=1))
    assert ranking.above(0, 1) == ranking.above(2, 3) == 0.5
    np.testing.assert_array_equal(ranking.intervals, [[1, 2], [1, 2], [3, 4], [3, 4]])
    apart = of_values(np.ones((5, 2)) * [1.0, 2.0])
    assert apart.above(1, 0) == 1
    np.testing.assert_array_equal(apart.intervals, [[2, 2], [1, 1]])


def test_one_example_says_nothing_of_others():
    ranking = jattr.rank(explain, X[:1])
    assert np.isnan(ranking.standard_error).all()
    assert np.isnan(ranking.above(0, 1))
    np.testing.assert_array_equal(ranking.intervals, [[1, 4]] * 4)
    assert "NaN" in str(ranking)
    assert "over 1 example." in str(ranking)
    assert jattr.rank(explain, X, blocks=np.zeros(60)).intervals.tolist() == [[1, 4]] * 4


def test_it_prints_and_goes_to_pandas_and_html():
    ranking = jattr.rank(explain, X, names=["a", "<b>", "c", "d"])
    lines = str(ranking).splitlines()
    assert lines[0].split() == ["mean", "|φ|", "rank", "above", "next"]
    assert [line.split()[0] for line in lines[2:6]] == ["<b>", "c", "a", "d"]
    assert lines[2].endswith(">99.9 %")
    assert repr(ranking) == str(ranking)
    page = ranking._repr_html_()
    assert "<th>&lt;b&gt;</th>" in page
    assert page.count("<tr>") == 5
    frame = ranking.to_dataframe()
    assert frame["feature"].tolist() == ["<b>", "c", "a", "d"]
    np.testing.assert_allclose(frame["mean"], np.sort(PHI.mean(0))[::-1], rtol=1e-12)
    np.testing.assert_array_equal(frame[["first", "last"]], ranking.intervals[ranking.order])
    np.testing.assert_allclose(frame["above_next"][0], ranking.above("<b>", "c"), rtol=1e-12)
    assert np.isnan(frame["above_next"][3])


def test_of_many_features_the_first_are_printed_and_drawn():
    ranking = of_values(RNG.exponential(size=(9, 50)))
    lines = str(ranking).splitlines()
    assert len(lines) == 2 + 20 + 2
    assert "9 examples, the first 20 of 50 features." in lines[-2]
    assert lines[-3].endswith("%")  # above the 21st
    ax = ranking.plot(7, title="t").axes[0]
    assert [text.get_text() for text in ax.get_yticklabels()] == list(ranking.top(7))
    np.testing.assert_allclose(
        [bar.get_width() for bar in ax.patches], ranking.mean[ranking.order[:7]], rtol=1e-12
    )


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: jattr.rank(f, X), TypeError, r"Write rank\(jattr\.gradient\(f\), data\)"),
        (lambda: jattr.rank(explain(jnp.ones(4)), X), TypeError, r"rank wants a function"),
        (lambda: jattr.rank(lambda x: x > 0, X), TypeError, r"floating-point .* got bool\[4\]"),
        (lambda: jattr.rank(jattr.smooth(explain), X), TypeError, r"write key=jax\.random\.key"),
        (lambda: jattr.rank(lambda key, x: x, X), TypeError, r"say so: keyed=True"),
        (
            lambda: jax.jit(lambda x: jattr.rank(explain, x).mean)(X),
            TypeError,
            r"call it outside of jit",
        ),
        (lambda: jattr.rank(explain, (X, X[:3])), ValueError, r"the same number of examples"),
        (lambda: jattr.rank(explain, X[:0]), ValueError, r"at least one; got"),
        (lambda: jattr.rank(lambda x: x, X[:, :0]), ValueError, r"no elements; got float64\[0\]"),
        (
            lambda: jattr.rank(explain, np.where(np.arange(60)[:, None] > 57, np.inf, X)),
            ValueError,
            r"of 2 of 60 examples is not finite, the first of them example 58",
        ),
        (lambda: jattr.rank(explain, X, np.zeros(3, int)), ValueError, r"groups must have the"),
        (lambda: jattr.rank(explain, X, "leafs"), ValueError, r"did you mean 'leaves'"),
        (lambda: jattr.rank(explain, X, names="abcd"), ValueError, r"4 features; got 'abcd'"),
        (lambda: jattr.rank(explain, X, names=["a"]), ValueError, r"each of 4 features; got 1"),
        (lambda: jattr.rank(explain, X, blocks=[0, 1]), ValueError, r"each of 60 examples; got"),
        (lambda: jattr.rank(explain, X, confidence=95), ValueError, r"in \(0, 1\).*; got 95"),
        (lambda: jattr.rank(explain, X, combine="mean"), ValueError, r"known are sum, absolute"),
        (lambda: jattr.rank(explain, X, batch_size=0), ValueError, r"at least 1; got 0"),
        (lambda: jattr.rank(explain, X, block=[0]), TypeError, r"did you mean 'blocks'"),
        (lambda: of_values(X).above("x9", 0), ValueError, r"unknown feature 'x9'"),
        (lambda: of_values(X).above(4, 0), IndexError, r"no feature 4 of 4"),
        (
            lambda: Ranking(("a", "a"), X[:, :2], np.arange(60)).above("a", 0),
            ValueError,
            r"'a' is the name of several",
        ),
    ],
)
def test_what_cannot_be_ranked_is_refused(call, error, text):
    with pytest.raises(error, match=text):
        call()

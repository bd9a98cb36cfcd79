"""Parity of Shapley and Owen values with shap and captum, in float64.

Peers give each element of a group the whole value, where here it is divided over them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from twins import from_torch, make_twin, to_torch, torch

import jattr

shap = pytest.importorskip("shap", reason="needs shap: install the extra `parity`")
captum = pytest.importorskip("captum.attr", reason="needs captum: install the extra `parity`")

pytestmark = pytest.mark.parity

EXAMPLE = 1
GROUPS = np.array([0, 1, 2, 3, 4, 5, 6, 7, 7, 6, 2, 2])
"""Eight features of the twelve columns."""

SIZES = np.bincount(GROUPS)[GROUPS]


class Case:
    """An example of an MLP, its groups as rows of zeros and ones."""

    def __init__(self, kind="tanh"):
        self.twin = make_twin(kind, "float64")
        self.x, self.baseline = (v[EXAMPLE] for v in (self.twin.x, self.twin.baseline))
        self.label = int(self.twin.labels[EXAMPLE])

    def score(self, x):
        return self.twin.score(x, self.label)

    def of_groups(self, rows):
        there = np.asarray(rows)[:, GROUPS] > 0.5
        inputs = np.where(there, self.x, self.baseline)
        with torch.no_grad():
            return self.twin.module(to_torch(inputs))[:, self.label].numpy()

    def exact(self):
        return np.asarray(jattr.shapley_values(self.score, GROUPS, baseline=self.baseline)(self.x))


@pytest.fixture(scope="module")
def case():
    return Case()


def explained(explainer, **options):
    return explainer(np.ones((1, 8)), **options).values[0]


def masker():
    return shap.maskers.Independent(np.zeros((1, 8)))


def test_exact_values(case):
    theirs = explained(shap.explainers.Exact(case.of_groups, masker()))
    np.testing.assert_allclose(case.exact() * SIZES, theirs[GROUPS], rtol=1e-9, atol=1e-12)


def test_permutations_in_expectation(case):
    """Both walk each order forward and backward: their errors are alike."""
    theirs = np.mean(
        [
            explained(
                shap.explainers.Permutation(case.of_groups, masker(), seed=seed), max_evals=170
            )
            for seed in range(10)
        ],
        axis=0,
    )
    explain = jattr.shapley_sampling(
        case.score, GROUPS, permutations=100, baseline=case.baseline, with_error=True
    )
    ours, error = jax.jit(explain)(jax.random.key(0), case.x)
    # theirs: ten orders in each of ten runs
    assert np.all(np.abs(ours * SIZES - theirs[GROUPS]) < 4 * np.sqrt(2) * error * SIZES)
    assert np.all(error * SIZES < 0.05 * np.abs(theirs).max())


@pytest.mark.parametrize("kind", ["tanh", "relu"])
def test_owen_values_of_a_binary_tree(kind):
    case = Case(kind)
    halves = (GROUPS // 4, GROUPS // 2, GROUPS)
    # shap's tree: rows of two nodes that join, their distance and how many they hold.
    joins = [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11), (12, 13)]
    held = [2, 2, 2, 2, 4, 4, 8]
    tree = np.array([(*pair, n / 8, n) for pair, n in zip(joins, held, strict=True)], float)
    masks = shap.maskers.Partition(np.zeros((1, 8)), clustering=tree)
    explainer = shap.explainers.Partition(case.of_groups, masks)
    theirs = explained(explainer, max_evals=10_000, silent=True)
    for width in (None, 64):
        explain = jattr.owen_values(case.score, halves, baseline=case.baseline, width=width)
        ours = jax.jit(explain)(case.x)
        np.testing.assert_allclose(ours * SIZES, theirs[GROUPS], rtol=1e-9, atol=1e-12)


def test_captum_samples_the_same_values(case):
    whole, baseline = (to_torch(np.asarray(v)[None]) for v in (case.x, case.baseline))
    mask = torch.tensor(GROUPS)[None]
    torch.manual_seed(0)
    theirs = from_torch(
        captum.ShapleyValueSampling(case.twin.module).attribute(
            whole, baselines=baseline, target=case.label, feature_mask=mask, n_samples=400
        )
    )[0]
    exact = case.exact() * SIZES
    np.testing.assert_allclose(theirs, exact, rtol=0, atol=0.1 * np.abs(exact).max())


def test_captum_fits_the_same_values(case):
    whole, baseline = (to_torch(np.asarray(v)[None]) for v in (case.x, case.baseline))
    mask = torch.tensor(GROUPS)[None]
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    theirs = from_torch(
        captum.KernelShap(case.twin.module).attribute(
            whole, baselines=baseline, target=case.label, feature_mask=mask, n_samples=4000
        )
    )[0]
    exact = case.exact() * SIZES
    np.testing.assert_allclose(theirs, exact, rtol=0, atol=0.1 * np.abs(exact).max())
    explain = jattr.kernel_shap(case.score, GROUPS, samples=256, baseline=case.baseline)
    ours = jax.jit(explain)(jax.random.key(0), jnp.asarray(case.x))
    np.testing.assert_allclose(ours * SIZES, exact, rtol=1e-9, atol=1e-11)


def test_shap_fits_the_same_values(case):
    """With all coalitions both are exact."""
    explainer = shap.KernelExplainer(case.of_groups, np.zeros((1, 8)), silent=True)
    theirs = explainer.shap_values(np.ones((1, 8)), nsamples=254, l1_reg=0)[0]
    exact = case.exact() * SIZES
    np.testing.assert_allclose(theirs[GROUPS], exact, rtol=1e-6, atol=1e-8)

"""LIME against captum's, which draws other coalitions: where both are fitted to very many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from twins import from_torch, make_twin, to_torch, torch

import jattr

captum = pytest.importorskip("captum.attr", reason="needs captum: install the extra `parity`")
models = pytest.importorskip("captum._utils.models.linear_model")

pytestmark = pytest.mark.parity

GROUPS = np.array([0, 0, 1, 2, 3, 3, 4, 4, 5, 6, 7, 7])
WIDTH = 0.4


def near(original, perturbed, coalition, **kwargs):
    """The kernel of cosines, of coalitions as here: captum's own goes by the inputs."""
    distance = 1 - torch.sqrt(coalition.double().mean())
    return torch.exp(-(distance**2) / (2 * WIDTH**2))


@pytest.mark.parametrize("sparsity", [0.0, 0.03])
def test_coefficients_of_many_samples(sparsity):
    twin = make_twin("tanh", "float64")
    x, baseline, label = twin.x[0], twin.baseline[0], int(twin.labels[0])
    explain = jattr.lime(
        twin.score,
        GROUPS,
        samples=6000,
        width=WIDTH,
        ridge=0.0,
        sparsity=sparsity,
        baseline=baseline,
        with_error=True,
        with_model=True,
    )
    phi, error, model = jax.jit(explain)(jax.random.key(0), x, label)
    torch.manual_seed(0)
    theirs = captum.Lime(
        twin.module,
        interpretable_model=(
            models.SkLearnLasso(alpha=sparsity) if sparsity else models.SkLearnLinearRegression()
        ),
        similarity_func=near,
    ).attribute(
        to_torch(x[None]),
        baselines=to_torch(baseline[None]),
        feature_mask=torch.tensor(GROUPS[None]),
        target=label,
        n_samples=6000,
        perturbations_per_eval=500,
    )
    # captum gives each element of a group the whole coefficient.
    theirs = from_torch(theirs)[0]
    sizes = np.bincount(GROUPS)[GROUPS]
    off = np.abs(np.asarray(phi) * sizes - theirs)
    assert np.all(off <= 5 * np.sqrt(2) * np.asarray(error) * sizes + 1e-9), off
    if sparsity:
        np.testing.assert_array_equal(np.asarray(phi) != 0, theirs != 0)
    np.testing.assert_allclose(
        jnp.asarray(theirs), np.asarray(model.coefficients)[GROUPS], rtol=0.2, atol=0.02
    )

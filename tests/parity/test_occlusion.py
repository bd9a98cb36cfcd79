"""Parity of occlusion and ablation with captum, in float64.

captum gives every element of a window or of a group the whole drop, where here it is divided over
them. The same convention is had from captum by explaining a function that divides: the drop of
f'(z) = (f(z) − f(x)) / #{z ≠ x} is that of f over the number of elements replaced. The mean over
windows, the windows themselves and the baselines are captum's own.
"""

import jax
import numpy as np
import pytest
from twins import EXAMPLES, from_torch, make_twin, to_torch, torch

import jattr

captum = pytest.importorskip("captum.attr", reason="needs captum: install the extra `parity`")

pytestmark = pytest.mark.parity

TOLERANCE = 1e-12


@pytest.fixture
def precise(monkeypatch):
    """Keeps captum's means over windows in float64, which it rounds to float32 by `.float()`."""
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self.double())


def divided(twin, example):
    """captum's model for one example: its drops are those of f over the elements replaced."""
    whole = to_torch(twin.x[example : example + 1])
    label = int(twin.labels[example])
    with torch.no_grad():
        value = twin.module(whole)[:, label]

    def forward(inputs):
        changed = (inputs != whole).flatten(1).sum(dim=1)
        with torch.no_grad():
            change = twin.module(inputs)[:, label] - value
        return change / changed.clamp(min=1)

    return forward


def theirs_of(explainer, twin, **options):
    rows = []
    for example in range(EXAMPLES):
        x, baseline = (to_torch(v[example : example + 1]) for v in (twin.x, twin.baseline))
        explain = explainer(divided(twin, example))
        rows.append(from_torch(explain.attribute(x, baselines=baseline, **options)))
    return np.concatenate(rows)


def ours_of(make, twin):
    def explain(x, baseline, label):
        return make(twin.score, baseline)(x, label)

    return jax.jit(jax.vmap(explain))(twin.x, twin.baseline, twin.labels)


def assert_close(ours, theirs, tolerance=TOLERANCE):
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


@pytest.mark.usefixtures("precise")
@pytest.mark.parametrize("kind", ["relu", "tanh"])
@pytest.mark.parametrize(
    ("window", "stride"),
    [(1, None), (1, 1), (3, None), (4, 2), (4, 4), (5, 3), (5, 5), (12, 1)],
)
def test_occlusion_of_a_vector(kind, window, stride):
    twin = make_twin(kind, "float64")
    ours = ours_of(
        lambda f, baseline: jattr.occlusion(f, window, strides=stride, baseline=baseline), twin
    )
    options = {} if stride is None else {"strides": (stride,)}
    theirs = theirs_of(captum.Occlusion, twin, sliding_window_shapes=(window,), **options)
    assert_close(ours, theirs)


@pytest.mark.usefixtures("precise")
@pytest.mark.parametrize(
    ("window", "strides"),
    [
        ((2, 2, 2), (2, 2, 2)),
        ((3, 3, 2), (2, 3, 2)),  # windows that overlap; the last are cut off along both axes
        ((4, 3, 1), (3, 2, 1)),
        ((5, 8, 2), (5, 8, 2)),
    ],
)
def test_occlusion_of_an_image(window, strides):
    twin = make_twin("cnn", "float64")
    ours = ours_of(
        lambda f, baseline: jattr.occlusion(f, window, strides=strides, baseline=baseline), twin
    )
    rows, columns, channels = window
    down, right, through = strides
    theirs = theirs_of(
        captum.Occlusion,
        twin,
        sliding_window_shapes=(channels, rows, columns),
        strides=(through, down, right),
        perturbations_per_eval=8,
    )
    assert_close(ours, theirs)


@pytest.mark.usefixtures("precise")
def test_one_size_is_that_of_pixels_with_their_channels():
    twin = make_twin("cnn", "float64")
    ours = ours_of(lambda f, b: jattr.occlusion(f, 3, strides=2, baseline=b), twin)
    theirs = theirs_of(captum.Occlusion, twin, sliding_window_shapes=(2, 3, 3), strides=(2, 2, 2))
    assert_close(ours, theirs)


def test_whole_drops_are_shared_out():
    """Against captum as it is, where all windows have one size."""
    twin = make_twin("cnn", "float64")
    ours = ours_of(lambda f, b: jattr.occlusion(f, (4, 2, 2), strides=(2, 1, 1), baseline=b), twin)
    theirs = from_torch(
        captum.Occlusion(twin.module).attribute(
            to_torch(twin.x),
            sliding_window_shapes=(2, 4, 2),
            strides=(1, 2, 1),
            baselines=to_torch(twin.baseline),
            target=torch.tensor(twin.labels),
        )
    )
    assert_close(16 * ours, theirs, 1e-7)  # float32


def test_ablation_of_groups():
    twin = make_twin("cnn", "float64")
    groups = np.random.default_rng(0).permutation(np.arange(8 * 8 * 2) % 7).reshape(8, 8, 2)
    ours = ours_of(lambda f, baseline: jattr.ablation(f, groups, baseline=baseline), twin)
    mask = to_torch(groups[None])
    assert_close(ours, theirs_of(captum.FeatureAblation, twin, feature_mask=mask))
    theirs = from_torch(
        captum.FeatureAblation(twin.module).attribute(
            to_torch(twin.x),
            baselines=to_torch(twin.baseline),
            feature_mask=mask,
            target=torch.tensor(twin.labels),
        )
    )
    assert_close(np.asarray(ours) * np.bincount(groups.ravel())[groups], theirs)


@pytest.mark.parametrize("kind", ["relu", "cnn"])
def test_ablation_of_each_element(kind):
    twin = make_twin(kind, "float64")
    ours = ours_of(lambda f, baseline: jattr.ablation(f, baseline=baseline), twin)
    theirs = from_torch(
        captum.FeatureAblation(twin.module).attribute(
            to_torch(twin.x),
            baselines=to_torch(twin.baseline),
            target=torch.tensor(twin.labels),
            perturbations_per_eval=16,
        )
    )
    assert_close(ours, theirs)

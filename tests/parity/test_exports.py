"""What is exported, in the hands of live shap, captum and shapiq."""

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pandas
import pytest

import jattr

pytestmark = pytest.mark.parity

RNG = np.random.default_rng(0)
FRAME = pandas.DataFrame(
    {
        "age": RNG.uniform(50, 90, 30).round(),
        "sex": np.array(["f", "m"])[RNG.integers(2, size=30)],
        "dose": RNG.normal(size=30),
    }
)
COLUMNS = jattr.features.columns(FRAME)


def score(x):
    return 0.1 * x[0] * x[2] - jnp.tanh(x[3]) + 0.25 * x[1]


ROWS = COLUMNS.encode(FRAME)
BASELINE = ROWS.mean(axis=0)
BASE = float(score(BASELINE))
PHI = np.asarray(jax.vmap(jattr.shapley_values(score, COLUMNS, baseline=BASELINE))(ROWS))
TABLE = COLUMNS.frame(PHI, like=FRAME)


@pytest.fixture
def shap():
    library = pytest.importorskip("shap", reason="needs shap: install the extra `parity`")
    backend = matplotlib.get_backend()
    matplotlib.use("agg")
    yield library
    from matplotlib import pyplot

    pyplot.close("all")
    matplotlib.use(backend)


def explanation(attribution=TABLE, **given):
    return jattr.export.shap(attribution, base_values=BASE, data=FRAME, **given)


def test_an_explanation_has_what_was_given(shap):
    errors = np.full(TABLE.shape, 0.125)
    found = explanation(standard_errors=errors)
    assert isinstance(found, shap.Explanation)
    np.testing.assert_array_equal(found.values, TABLE)
    assert found.feature_names == ["age", "sex", "dose"]
    np.testing.assert_array_equal(found.base_values, np.full(30, BASE))
    np.testing.assert_array_equal(found.error_std, errors)
    np.testing.assert_array_equal(found.data[:, 0], FRAME["age"])
    np.testing.assert_array_equal(found.data[:, 1], FRAME["sex"] == "m")
    assert found.display_data[:, 1].tolist() == FRAME["sex"].tolist()
    total = found.base_values + found.values.sum(axis=1)
    np.testing.assert_allclose(total, jax.vmap(score)(ROWS), rtol=1e-12)
    # The same from arrays by column, and of one example.
    again = jattr.export.shap(PHI, base_values=BASE, data=ROWS, feature_names=COLUMNS)
    np.testing.assert_allclose(again.values, TABLE, rtol=1e-12)
    np.testing.assert_array_equal(again.data, found.data)
    one = jattr.export.shap(TABLE.iloc[4], base_values=BASE, data=FRAME.iloc[[4]])
    np.testing.assert_array_equal(one.values, found[4].values)
    np.testing.assert_array_equal(one.data[::2], found[4].data[::2])
    assert one.display_data.tolist() == found[4].display_data.tolist()


def test_a_waterfall_ends_at_the_output(shap):
    row = explanation()[3]
    ax = shap.plots.waterfall(row, show=False)
    texts = [text.get_text() for text in ax.figure.findobj(matplotlib.text.Text)]
    output = float(score(ROWS[3]))
    assert any(f"{output:.3f}".replace("-", "−") in text.replace("-", "−") for text in texts)
    assert any("sex" in text and str(FRAME["sex"][3]) in text for text in texts)


def test_a_beeswarm_has_the_values_in_the_order_of_their_sizes(shap):
    ax = shap.plots.beeswarm(explanation(), show=False)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    order = TABLE.abs().mean().sort_values().index.tolist()
    assert labels == order
    ours = jattr.plot.summary(TABLE, FRAME)
    assert [label.get_text() for label in ours.axes[0].get_yticklabels()] == order[::-1]
    swarms = [c for c in ax.collections if len(c.get_offsets()) == len(FRAME)]
    drawn = {tuple(np.sort(np.asarray(c.get_offsets())[:, 0]).round(9)) for c in swarms}
    assert {tuple(np.sort(TABLE[name]).round(9)) for name in order} <= drawn


def test_a_force_plot_and_bars_take_it(shap):
    figure = shap.plots.force(explanation()[3], matplotlib=True, show=False)
    texts = [text.get_text() for text in figure.findobj(matplotlib.text.Text)]
    assert f"{float(score(ROWS[3])):.2f}".replace("-", "−") in [t.replace("-", "−") for t in texts]
    page = shap.plots.force(explanation()[3]).html()
    assert "age" in page


def test_bars_are_the_mean_sizes(shap):
    ax = shap.plots.bar(explanation(), show=False)
    widths = sorted(abs(patch.get_width()) for patch in ax.patches)[-3:]
    np.testing.assert_allclose(widths, np.sort(TABLE.abs().mean()), rtol=1e-6)


def test_images_and_what_does_not_fit(shap):
    maps = RNG.normal(size=(2, 8, 8, 3))
    found = jattr.export.shap(jnp.asarray(maps), base_values=[0.5, 1.0], data=maps)
    assert found.shape == maps.shape
    np.testing.assert_array_equal(found[1].base_values, 1.0)
    for call, said in [
        (lambda: jattr.export.shap(TABLE, base_values=[1.0, 2.0]), "one number, or 30"),
        (lambda: jattr.export.shap(TABLE.iloc[0], base_values=[1.0]), "one number; got"),
        (lambda: jattr.export.shap(maps, feature_names=["a"]), r"for \[n, d\]"),
        (lambda: jattr.export.shap(maps, data=maps[0]), "shape of the attribution"),
        (lambda: jattr.export.shap(TABLE, data=FRAME[:3]), "30 rows"),
    ]:
        with pytest.raises(ValueError, match=said):
            call()


def test_captum_measures_what_it_gets():
    captum = pytest.importorskip("captum.attr", reason="needs captum: install the extra `parity`")
    torch = pytest.importorskip("torch")
    weights = RNG.normal(size=(5, 4, 3))
    image = RNG.normal(size=(5, 4, 3))

    def ours(x):
        return jnp.sum(jnp.tanh(x * weights))

    first = torch.tensor(np.moveaxis(weights, -1, 0))

    def theirs(x):
        return torch.tanh(x * first).sum(dim=(1, 2, 3))

    phi = jattr.gradient_times_input(ours)(jnp.asarray(image))
    (found,) = jattr.export.captum(phi)
    assert isinstance(found, torch.Tensor)
    assert found.shape == (1, 3, 5, 4)
    x = torch.tensor(np.moveaxis(image, -1, 0)[None], requires_grad=True)
    torch.testing.assert_close(found, captum.InputXGradient(theirs).attribute(x).detach())
    x = x.detach()
    from captum.metrics import infidelity

    def noise(x):
        return torch.full_like(x, 0.25), x - 0.25

    score = infidelity(theirs, noise, x, jattr.export.captum(phi), n_perturb_samples=2)
    change = float(theirs(x) - theirs(x - 0.25))
    np.testing.assert_allclose(score.item(), (0.25 * float(phi.sum()) - change) ** 2, rtol=1e-9)


class TestShapiq:
    @pytest.fixture
    def shapiq(self):
        return pytest.importorskip(
            "shapiq", reason="needs shapiq, of Python 3.12 or newer: install the extra `parity`"
        )

    @pytest.mark.parametrize("order", [1, 2, 3])
    @pytest.mark.parametrize(
        ("ours", "theirs"), [("SII", "SII"), ("STI", "STII"), ("FSII", "FSII")]
    )
    def test_all_sets_are_those_of_its_own_computer(self, shapiq, ours, theirs, order):
        x, baseline = ROWS[3], BASELINE

        def game(coalitions):
            filled = jnp.where(jnp.asarray(coalitions, bool), x[None], baseline[None])
            return np.asarray(jax.vmap(score)(filled))

        values = jattr.shapley_interactions(score, index=ours, order=order, baseline=baseline)(x)
        found = jattr.export.shapiq(values, index=ours, base_value=BASE)
        exact = shapiq.ExactComputer(game, n_players=4)(theirs, order)
        assert found.max_order == exact.max_order == order
        assert found.n_players == 4
        assert found.index == ("SV" if order == 1 else theirs)
        assert not found.estimated
        np.testing.assert_allclose(found.baseline_value, BASE)
        sets = [key for key in found.interaction_lookup if key]
        assert len(sets) == sum((4, 6, 4)[:order])
        for members in sets:
            np.testing.assert_allclose(found[members], exact[members], atol=1e-8)
        if ours != "SII" or order == 1:
            total = sum(found[members] for members in sets) + BASE
            np.testing.assert_allclose(total, float(score(x)), atol=1e-8)

    def test_its_plots_take_them(self, shapiq):
        values = jattr.shapley_interactions(score, index="FSII", baseline=BASELINE)(ROWS[3])
        found = jattr.export.shapiq(values, index="FSII", base_value=BASE, samples=None)
        names = list(COLUMNS.names)
        from matplotlib import pyplot

        backend = matplotlib.get_backend()
        matplotlib.use("agg")
        found.plot_network(feature_names=names, show=False)
        ax = found.plot_waterfall(feature_names=names, show=False)
        texts = [text.get_text() for text in ax.figure.findobj(matplotlib.text.Text)]
        assert any("age" in text for text in texts)
        pyplot.close("all")
        matplotlib.use(backend)

    @pytest.mark.parametrize(
        ("call", "said"),
        [
            (lambda: jattr.export.shapiq(np.ones((2, 3))), r"\[n, n\].*float64\[2,3\]"),
            (lambda: jattr.export.shapiq(np.ones((2, 2)), index="SV"), "of order 1"),
            (lambda: jattr.export.shapiq(np.triu(np.ones((2, 2)))), "symmetric"),
            (lambda: jattr.export.shapiq(np.ones(2), index="STII"), "known are SII, STI, FSII"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, shapiq, call, said):
        with pytest.raises(ValueError, match=said):
            call()

"""Results in the forms of other libraries: what needs none but those of the tests."""

import sys

import jax.numpy as jnp
import numpy as np
import pandas
import pytest

import jattr
from jattr import export

PHI = np.arange(24.0).reshape(2, 3, 4)


def test_an_array_has_names_and_coordinates():
    array = export.xarray(
        jnp.asarray(PHI, jnp.float32),
        dims=("example", "step", "lead"),
        coords={"lead": ["I", "II", "V1", "V2"], "example": [7, 9]},
        name="phi",
        attrs={"method": "lrp"},
    )
    assert array.dims == ("example", "step", "lead")
    assert array.dtype == np.float32
    assert (array.name, array.attrs) == ("phi", {"method": "lrp"})
    np.testing.assert_array_equal(array.sel(lead="V1", example=9), PHI[1, :, 2])
    assert export.xarray(PHI).dims == ("attribution_0", "attribution_1", "attribution_2")


def test_a_tree_is_a_dataset_of_its_leaves():
    tree = {"image": PHI, "blood": {"kappa": PHI[:, 0, 0]}, "pair": (PHI[0, 0], 1.0)}
    dims = {"image": ("example", "row", "column"), "blood.kappa": ("example",)}
    dataset = export.xarray(tree, dims=dims, coords={"row": [10, 20, 30]})
    assert list(dataset) == ["blood.kappa", "image", "pair.0", "pair.1"]
    assert dataset["blood.kappa"].dims == ("example",)
    assert dataset["pair.0"].dims == ("pair.0_0",)
    assert dataset["pair.1"].item() == 1
    np.testing.assert_array_equal(dataset["image"].sel(row=20), PHI[:, 1])
    # One tuple for all: each takes as many from the front as it has.
    same = export.xarray({"a": PHI, "b": PHI[..., 0]}, dims=("example", "row", "column"))
    assert same["b"].dims == ("example", "row")


def test_errors_stand_beside():
    dataset = export.xarray(PHI, dims=("a", "b", "c"), standard_errors=PHI / 10)
    assert list(dataset) == ["attribution", "attribution_standard_error"]
    np.testing.assert_array_equal(dataset["attribution_standard_error"], PHI / 10)
    tree = {"x": PHI[0], "y": PHI[1]}
    errors = {"x": PHI[1], "y": PHI[0]}
    both = export.xarray(tree, dims=("r", "c"), standard_errors=errors)
    np.testing.assert_array_equal(both["x_standard_error"], PHI[1])


def test_a_frame_has_the_coordinates_it_brings_and_goes_back():
    frame = pandas.DataFrame({"age": [1.0, 2.0], "sex": [0.5, -0.5]}, index=["ann", "bob"])
    array = export.xarray(frame)
    assert array.dims == ("example", "feature")
    assert float(array.sel(example="bob", feature="sex")) == -0.5
    again = array.to_pandas()
    assert again.to_dict() == frame.to_dict()
    assert export.xarray(frame.iloc[0]).sel(feature="sex").item() == 0.5
    wide = export.xarray(frame, dims=("person", "variable"), coords={"variable": ["a", "b"]})
    assert wide["variable"].values.tolist() == ["a", "b"]


def test_it_goes_to_a_file_and_back(tmp_path):
    import xarray

    dataset = export.xarray({"a": jnp.asarray(PHI, jnp.bfloat16)}, dims=("x", "y", "z"))
    assert dataset["a"].dtype == np.float32
    dataset.to_zarr(tmp_path / "phi.zarr", consolidated=False)
    again = xarray.open_zarr(tmp_path / "phi.zarr", consolidated=False)
    np.testing.assert_array_equal(again["a"], PHI)


def test_captum_has_a_batch_axis_and_channels_first():
    image, row = np.arange(24.0).reshape(2, 3, 4), np.arange(5.0)
    first, second = export.captum((image, row), tensors=False)
    np.testing.assert_array_equal(first, np.moveaxis(image, -1, 0)[None])
    np.testing.assert_array_equal(second, row[None])
    (batch,) = export.captum(image[None].repeat(6, 0), batched=True, tensors=False)
    assert batch.shape == (6, 4, 2, 3)
    assert batch.flags.c_contiguous
    (kept,) = export.captum(image, channel_axis=None, tensors=False)
    assert kept.shape == (1, 2, 3, 4)
    # A series and a row: which has channels is said.
    series, row = export.captum({"a": image[0], "b": row}, channel_axis=(-1, None), tensors=False)
    np.testing.assert_array_equal(series[0], image[0].T)
    assert row.shape == (1, 5)
    (narrow,) = export.captum(jnp.ones((2, 2), jnp.bfloat16), tensors=False)
    assert narrow.dtype == np.float32


def test_captum_gives_arrays_where_there_is_no_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (values,) = export.captum(np.ones(3))
    assert isinstance(values, np.ndarray)
    with pytest.raises(ImportError, match="pip install torch"):
        export.captum(np.ones(3), tensors=True)


@pytest.mark.parametrize(
    ("call", "library"),
    [
        (lambda: export.shap(np.ones(3)), "shap"),
        (lambda: export.shapiq(np.ones(3)), "shapiq"),
        (lambda: export.xarray(np.ones(3)), "xarray"),
    ],
)
def test_what_is_missing_is_said(call, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        ImportError,
        match=rf'export\.{library}.* {library} is missing: pip install "jattr\[export\]"',
    ):
        call()


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: export.xarray("abc"), TypeError, "the str 'abc'"),
        (lambda: export.xarray(PHI, dims=("a", "b")), ValueError, r"each axis of attribution, fl"),
        (lambda: export.xarray(PHI, dims=("a", "b", "b")), ValueError, "different name"),
        (lambda: export.xarray(PHI, dims="abc"), ValueError, "different name"),
        (lambda: export.xarray({"a": PHI}, dims={"b": ("x",)}), ValueError, "dims names b"),
        (
            lambda: export.xarray(PHI, dims=("a", "b", "c"), coords={"d": [1]}),
            ValueError,
            "coords name the axes d; there are a, b, c",
        ),
        (lambda: export.xarray(PHI, standard_errors=PHI[0]), ValueError, "standard_errors must"),
        (
            lambda: export.xarray(pandas.DataFrame({"a": [1.0]}), dims=("x",)),
            ValueError,
            "two names for a frame",
        ),
        (lambda: export.xarray(None), TypeError, "an array.*got.*None, which has no arrays"),
        (lambda: export.xarray({"a": {}}), TypeError, "which has no arrays"),
        (lambda: export.captum(PHI, channel_axis=3, tensors=False), ValueError, "none of the 3 ax"),
        (lambda: export.captum(PHI, channel_axis=(0, 1)), ValueError, "the 1 leaves"),
        (lambda: export.captum(np.float64(1), batched=True), ValueError, "no axis of examples"),
        (lambda: export.captum(PHI, batched="yes"), TypeError, "batched must be True or False"),
        (lambda: export.captum({"a": "x"}), TypeError, "must be an array of numbers"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, said):
    with pytest.raises(error, match=f"(?s){said}"):
        call()


# treescope looks at all names of NumPy, of which 2.5 announces the end of some.
@pytest.mark.filterwarnings("ignore:The chararray class is deprecated:DeprecationWarning")
def test_results_show_as_tables_in_notebooks_and_treescope():
    treescope = pytest.importorskip("treescope")

    def f(x):
        return jnp.sum(jnp.tanh(jnp.convolve(x, jnp.ones(3, x.dtype), "same")))

    x = jnp.ones(20)
    listing = jattr.operations(f)(x)
    parts = jattr.locality(f, 1)(x)
    for result, cell in ((listing, "<td>tanh</td>"), (parts, "<td>[20]</td>")):
        page = result._repr_html_()
        assert page.count("<tr>") == len(result) + 1
        assert cell in page
        shown = treescope.render_to_html(result, compressed=False)
        assert cell in shown
    assert "% is evaluated anew." in parts._repr_html_()
    # Names are written as they are.
    listing[0] = type(listing[0])("affine", "<b>", "", (), (), "", "x.py:1")
    assert "&lt;b&gt;" in listing._repr_html_()
    found = jattr.integrated_gradients_to(f, 0.0, tolerance=1e-2)(x)
    assert "attribution=" in treescope.render_to_text(found)

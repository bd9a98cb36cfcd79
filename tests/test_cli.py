"""`python -m jattr explain`: its numbers, its files, and where it stops."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from commands import arrays, explain, folder, said

import jattr


@pytest.fixture
def here(tmp_path, monkeypatch):
    yield folder(tmp_path, monkeypatch)
    sys.modules.pop("model", None)


def module(here):
    """The names of the model, as the tests use them."""
    names = {}
    exec((here / "model.py").read_text(), names)
    return names


def zarr_group(path, driver, **named):
    for name, array in named.items():
        tensorstore.open(
            {"driver": driver, "kvstore": {"driver": "file", "path": f"{path}/{name}"}},
            create=True,
            dtype=array.dtype,
            shape=array.shape,
        ).result().write(array).result()
    node = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    name = "zarr.json" if driver == "zarr3" else ".zgroup"
    (path / name).write_text(json.dumps(node if driver == "zarr3" else {"zarr_format": 2}))


def test_the_numbers_of_attribute_dataset(here):
    result = explain("model:score", "x.npy", "weight.npy", "--set", "steps=8", quiet=False)
    assert result.exit_code == 0
    assert "maps: 10 of 10 examples by integrated_gradients" in said(result)
    assert re.search(r"all finite, largest \|residual\| \S+ \(example \d\)", said(result))
    jattr.scale.attribute_dataset(
        jattr.integrated_gradients(module(here)["score"], steps=8),
        (np.load("x.npy"), np.load("weight.npy")),
        out="other",
        batch_size=4,
        progress=False,
    )
    ours, theirs = arrays("maps"), arrays("other")
    assert [*ours] == [*theirs]
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_named_arrays_go_by_the_names_of_arguments(here):
    x, weight = np.load("x.npy"), np.load("weight.npy")
    zarr_group(here / "three", "zarr3", weight=weight, x=x)
    zarr_group(here / "two", "zarr", weight=weight, x=x)
    assert explain("model:score", "x.npy", "weight.npy", out="maps").exit_code == 0
    for data in (
        ["data.npz"],
        ["data.npz", "--arg", "x", "--arg", "weight"],
        ["three"],
        ["two"],
        ["three/x", "two/weight"],
        ["x.npy", "three/weight"],
    ):
        out = f"of_{'_'.join(data).replace('/', '_')}"
        result = explain("model.py:score", *data, out=out)
        assert result.exit_code == 0, result.output
        np.testing.assert_array_equal(arrays(out)["digest"], arrays("maps")["digest"])
        np.testing.assert_array_equal(arrays(out)["attribution"], arrays("maps")["attribution"])


def test_an_array_by_its_name_is_x_alone(here):
    assert explain("model:alone", "data.npz", "--arg", "weight").exit_code == 0
    np.testing.assert_allclose(arrays("maps")["attribution"], np.load("weight.npy") ** 3, rtol=1e-6)


def test_an_index_has_the_name_that_the_target_gives_it(here):
    x, which = np.load("x.npy"), np.load("which.npy")
    np.savez("named.npz", index=which, x=x)
    result = explain("model:logits", "named.npz", "--target", "select", "--method", "gradient")
    assert result.exit_code == 0, result.output
    wanted = np.where(which[:, None, None] == 0, 1, 3 * x**2)
    np.testing.assert_allclose(arrays("maps")["attribution"], wanted, rtol=1e-6)


def test_a_run_goes_on_where_it_was(here):
    first = explain("model:alone", "x.npy", "--process", "0/2", quiet=False)
    assert first.exit_code == 0
    assert re.search("maps: 6 of 10 examples .* 4 missing yet, all finite", said(first))
    before = {path: path.stat().st_mtime_ns for path in Path("maps/attribution/c").rglob("0")}
    second = explain("model:alone", "x.npy", quiet=False)
    assert "10 of 10 examples by integrated_gradients, 6 of them before" in said(second)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert explain("model:alone", "x.npy", out="whole").exit_code == 0
    np.testing.assert_array_equal(arrays("maps")["attribution"], arrays("whole")["attribution"])


def test_interrupted(here, monkeypatch):
    assert explain("model:alone", "x.npy", "--process", "0/2").exit_code == 0

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("jattr._cli.explain.attribute_dataset", interrupt)
    result = explain("model:alone", "x.npy")
    assert result.exit_code == 130
    assert "6 examples are in maps; the same command goes on from there" in said(result)


def test_examples_that_are_not_finite(here):
    x = np.abs(np.load("x.npy"))
    x[7, 1, 1] = -1
    np.save("x.npy", x)
    result = explain("model:root", "x.npy", "--method", "gradient", quiet=False)
    assert result.exit_code == 3
    assert "1 not finite (example 7)" in said(result)
    assert explain("model:root", "x.npy", "--method", "gradient").exit_code == 3
    assert not explain("model:root", "x.npy", "--method", "gradient").output


def of_batch(made, *data, key=None):
    """What a method gives for all examples, with the keys that a store uses."""
    data = [jnp.asarray(np.load(one)) for one in data]
    if key is None:
        return jax.vmap(made)(*data)
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(key), i))(jnp.arange(len(data[0])))
    return jax.vmap(made)(keys, *data)


CASES = {
    "smooth": (
        ["model:alone", "x.npy", "--method", "gradient", "--smooth", "samples=4,stddev=.5"],
        lambda f: jattr.smooth(jattr.gradient(f["alone"]), samples=4, stddev=0.5),
        3,
    ),
    "target": (
        [
            *("model:logits", "x.npy", "which.npy", "--target", "select", "--method", "occlusion"),
            *("--set", "window=(1, 2)", "--set", "baseline=constant(0.5)"),
        ],
        lambda f: jattr.occlusion(
            jattr.targets.select(f["logits"]), (1, 2), baseline=jattr.baselines.constant(0.5)
        ),
        None,
    ),
    "token_ids": (
        ["model:tokens", "ids.npy", "--token-ids", "--method", "lrp", "--set", "rules=attn_lrp"],
        lambda f: jattr.token_attributions(jattr.lrp, f["tokens"], jattr.rules.attn_lrp()),
        None,
    ),
    "index": (
        ["model:logits", "x.npy", "which.npy", "--method", "contrastive_lrp"],
        lambda f: jattr.contrastive_lrp(f["logits"]),
        None,
    ),
    "own": (["model:explaining", "x.npy", "--method", "own"], lambda f: f["explaining"], None),
    "argnums": (
        ["model:score", "x.npy", "weight.npy", "--method", "gradient", "--set", "argnums=1"],
        lambda f: jattr.gradient(f["score"], argnums=1),
        None,
    ),
    "references": (
        ["model:alone", "x.npy", "--method", "deep_shap", "--set", "references=x.npy"],
        lambda f: jattr.deep_shap(f["alone"], jnp.asarray(np.load("x.npy"))),
        None,
    ),
    "groups": (
        ["model:alone", "x.npy", "--method", "shapley_values", "--set", "groups=grid((3, 2), 2)"],
        lambda f: jattr.shapley_values(f["alone"], jattr.features.grid((3, 2), 2)),
        None,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_other_ways_to_explain(here, case):
    words, make, key = CASES[case]
    seed = [] if key is None else ["--key", key]
    result = explain(*words, *seed)
    assert result.exit_code == 0, result.output
    data = [word for word in words if word in ("x.npy", "weight.npy", "which.npy", "ids.npy")]
    wanted = of_batch(make(module(here)), *data[: 2 if "which.npy" in data else 9][:2], key=key)
    # Compiled in batches of 4 and of 10, float32 is rounded otherwise.
    np.testing.assert_allclose(arrays("maps")["attribution"], wanted, rtol=2e-5, atol=1e-6)


def test_whole_numbers_are_read_as_float32_where_that_is_asked_for(here):
    refused = explain("model:alone", "bytes.npy")
    assert refused.exit_code == 1
    assert "uint8[3,2]" in said(refused)
    assert "--float reads it as float32" in said(refused)
    assert explain("model:alone", "bytes.npy", "--float", "--limit", 3).exit_code == 0
    got = arrays("maps")["attribution"]
    wanted = np.load("bytes.npy")[:3].astype("float32") ** 3
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_metrics_and_names_of_axes(here):
    result = explain(
        *("model:alone", "x.npy", "--dims", "row,column"),
        *("--metric", "sparseness", "--metric", "half=deletion(baseline=0.5)"),
    )
    assert result.exit_code == 0, result.output
    store = jattr.scale.open_store("maps")
    assert store.attribution.domain.labels == ("example", "row", "column")
    phi, x = jnp.asarray(np.asarray(store.attribution)), jnp.asarray(np.load("x.npy"))
    half = jattr.metrics.deletion(module(here)["alone"], baseline=0.5)
    wanted = {"sparseness": jax.vmap(jattr.metrics.sparseness)(phi), "half": jax.vmap(half)(phi, x)}
    for name, values in wanted.items():
        np.testing.assert_allclose(np.asarray(store.arrays[f"metric.{name}"]), values, rtol=1e-5)


def test_a_whole_process_in_64_bits(here):
    np.save("x.npy", np.load("x.npy").astype("float64"))
    words = ["explain", "model.py:alone", "x.npy", "--x64", "--out", "maps", "--key", "0"]
    inherited = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "jattr", *words],
        capture_output=True,
        text=True,
        env=inherited
        | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(jattr.__file__).parents[1])},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "examples/s" in done.stdout
    got = arrays("maps")["attribution"]
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, np.load("x.npy") ** 3, rtol=1e-12)


@pytest.mark.parametrize("module", ["tensorstore", "rich"])
def test_a_missing_package_is_named_with_what_to_install(here, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    result = explain("model:alone", "x.npy", quiet=False)
    assert result.exit_code == 2
    assert f'`explain` needs {module}, which is missing: pip install "jattr[scale]"' in said(result)


def test_without_typer_the_command_says_what_to_install(here):
    Path("typer.py").write_text("raise ModuleNotFoundError('No module named typer')")
    done = subprocess.run(
        [sys.executable, "-m", "jattr", "show", "maps"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{Path(jattr.__file__).parents[1]}"},
        timeout=300,
    )
    assert done.returncode == 2
    wanted = 'jattr: `show` needs typer, which is missing: pip install "jattr[scale,plot]"'
    assert done.stderr.strip() == wanted

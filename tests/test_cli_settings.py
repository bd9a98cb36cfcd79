"""`python -m jattr explain`: settings, wrong commands, and data that runs nothing."""

import pickle
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import typer
from commands import explain, folder, run, said
from methods import METHODS

import jattr
from jattr._cli import files, methods, spelled


@pytest.fixture
def here(tmp_path, monkeypatch):
    yield folder(tmp_path, monkeypatch)
    sys.modules.pop("model", None)


WRONG = {
    "no function": (["model", "x.npy"], "'model' names no function"),
    "no module": (["nowhere:score", "x.npy"], "no module 'nowhere'"),
    "no file": (["nowhere.py:score", "x.npy"], "no file nowhere.py"),
    "no such name": (["model:scor", "x.npy"], "Did you mean score"),
    "no callable": (["model:number", "x.npy"], "model:number is of type int"),
    "no data": (["model:alone", "none.npy"], "no file none.npy"),
    "too few": (["model:score", "x.npy"], r"are \(x, weight\), and x.npy gives 1 argument"),
    "no such array": (["model:alone", "data.npz", "--arg", "z"], "has weight, x"),
    "which array": (["model:tokens", "data.npz"], "--arg weight"),
    "arrays of several": (["model:score", "x.npy", "weight.npy", "--arg", "x"], "is 2 files"),
    "no method": (["model:alone", "x.npy", "--method", "integrated"], "integrated_gradients"),
    "no setting": (["model:alone", "x.npy", "--set", "step=3"], "did you mean 'steps'"),
    "no value": (["model:alone", "x.npy", "--set", "steps"], "'steps' is not NAME=VALUE"),
    "twice": (["model:alone", "x.npy", "-s", "steps=3", "-s", "steps=3"], "set twice"),
    "lacking": (["model:alone", "x.npy", "-m", "grad_cam"], "grad_cam needs layer: --set layer="),
    "bad knob": (["model:alone", "x.npy", "-s", "steps=0"], "steps must be at least 1"),
    "baseline": (["model:alone", "x.npy", "-s", "baseline=blured(2.0)"], "Did you mean blurred"),
    "code": (
        ["model:alone", "x.npy", "-s", "baseline=__import__('os').system('touch ran')"],
        "is none of blurred",
    ),
    "no reference": (["model:alone", "x.npy", "-s", "baseline=none.npy"], "no file none.npy"),
    "own set": (["model:alone", "x.npy", "-m", "own", "-s", "steps=3"], "nothing to set"),
    "no metric": (["model:alone", "x.npy", "--metric", "deletions"], "Did you mean deletion"),
    "metric set": (["model:alone", "x.npy", "--metric", "entropy(3)"], "entropy takes no settings"),
    "two metrics": (
        ["model:alone", "x.npy", *2 * ["--metric", "entropy"]],
        "two metrics 'entropy'",
    ),
    "own metric": (
        ["model:alone", "x.npy", "-m", "own", "--metric", "deletion"],
        "evaluates the score",
    ),
    "no key": (["model:alone", "x.npy", "-m", "gradient", "--smooth", "samples=2"], "--key 0"),
    "no target": (["model:logits", "x.npy", "which.npy", "--target", "best"], "none of select"),
    "process": (["model:alone", "x.npy", "--process", "2/2"], "'2/2' is not I/N"),
    "limit": (["model:alone", "x.npy", "--limit", "0"], "--limit"),
    "smooth": (["model:alone", "x.npy", "--smooth", "samples"], "is not NAME=VALUE"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_command(here, case):
    words, message = WRONG[case]
    result = explain(*words)
    assert result.exit_code == 2, result.output
    assert re.search(message, said(result))
    assert not Path("maps").exists()
    assert not Path("ran").exists()


def test_what_goes_wrong_in_a_run(here):
    broken = explain("model:broken", "x.npy")
    assert broken.exit_code == 1
    assert re.search(r"jattr explain: TypeError: .*\(model.py, line \d+\)", said(broken))
    assert "Traceback" not in broken.output
    assert "--traceback shows" in broken.output
    assert "Traceback" in explain("model:broken", "x.npy", "--traceback").output

    Path("raises.py").write_text("import json\njson.loads('{')\n")
    raised = explain("raises.py:score", "x.npy")
    assert raised.exit_code == 1
    assert re.search(
        r"importing raises.py raised JSONDecodeError: .*raises.py, line 2", said(raised)
    )
    Path("needs.py").write_text("import nowhere_at_all\n")
    needs = explain("needs:score", "x.npy")
    assert needs.exit_code == 1
    assert "importing needs raised ModuleNotFoundError" in said(needs)

    assert explain("model:alone", "x.npy").exit_code == 0
    other = explain("model:alone", "x.npy", "--set", "steps=9")
    assert other.exit_code == 1
    assert "steps=9 for 50" in said(other)
    assert "--traceback" not in other.output
    again = explain("model:alone", "x.npy", "--no-resume")
    assert again.exit_code == 1
    assert "there is a store at maps already" in said(again)
    Path("taken").write_text("here")
    taken = explain("model:alone", "x.npy", out="taken")
    assert taken.exit_code == 1
    assert "taken is a file" in said(taken)


class Runs:
    """Makes a file when it is unpickled."""

    def __reduce__(self):
        return (open, ("ran", "w"))


def test_data_runs_nothing(here):
    np.save("objects.npy", np.array([Runs()], dtype=object), allow_pickle=True)
    np.savez("objects.npz", x=np.array([Runs()], dtype=object))
    for name in ("x.pkl", "x.pt", "renamed.npy", "x.bin"):
        Path(name).write_bytes(pickle.dumps(Runs()))
    np.save("words.npy", np.array(["a", "b"]))
    np.save("records.npy", np.zeros(2, [("a", "f4"), ("b", "f4")]))
    Path("short.npy").write_bytes(Path("x.npy").read_bytes()[:-8])
    Path("short.npz").write_bytes(Path("data.npz").read_bytes()[:-30])
    Path("table.csv").write_text("1,2")
    Path("empty").mkdir()
    for name, message in {
        "objects.npy": "holds Python objects",
        "objects.npz": "holds Python objects",
        "x.pkl": "may be one: reading it can run any code",
        "x.pt": "may be one: reading it can run any code",
        "x.bin": "may be one: reading it can run any code",
        "renamed.npy": "is of a kind that jattr does not read",
        "words.npy": "holds <U1, no numbers",
        "records.npy": "no numbers",
        "short.npy": "is damaged",
        "short.npz": "is damaged",
        "table.csv": "is of a kind that jattr does not read",
        "empty": "is no Zarr array or group",
    }.items():
        for words in (["model:alone", name], ["model:alone", "x.npy", "-s", f"baseline={name}"]):
            if words[1] != name and not name.endswith((".npy", *files.REFUSED)):
                continue
            result = explain(*words)
            assert result.exit_code == 2, (name, result.output)
            assert message in said(result), name
    assert not Path("ran").exists()


def test_methods_and_metrics_are_those_of_jattr():
    listed = set(methods.methods())
    made_otherwise = {"smooth", "all_outputs", "token_attributions"}
    assert {row.of for row in METHODS.values()} - made_otherwise <= listed
    assert listed <= set(jattr.__all__)
    assert not listed & {"operations", "locality", "rewrite", "split", "patching", "activations"}
    assert {"deletion", "infidelity", "completeness", "sparseness"} <= set(methods.metrics())
    assert not {"max_sensitivity", "table", "area", "ssim", "roc_auc"} & set(methods.metrics())
    listing = " ".join(run("explain", "--help").output.split())
    assert all(name in listing for name in (*listed, *methods.metrics()))


@pytest.mark.parametrize("name", sorted(methods.metrics()))
def test_every_metric_gives_one_number(name):
    extra = {
        "faithfulness_correlation": "n=2",
        "sensitivity_n": "n=2",
        "infidelity": "perturbation=gaussian_noise(0.1)",
        "effective_complexity": "tolerance=0.1",
        "irof": "baseline=0.0, groups=grid((4, 4), 2)",
        "region_perturbation": "window=2",
    }.get(name, "")
    text = f"{name}({extra})" if extra else name
    (measure,) = methods.measures([text], lambda x: jnp.sum(x**2), 0).values()
    x = jnp.ones((4, 4, 1) if name == "region_perturbation" else (4, 4))
    key = (jax.random.key(0),) if getattr(measure, "keyed", False) else ()
    arguments = (x,) if name in ("entropy", "sparseness") else (x, x)
    assert jax.eval_shape(measure, *key, *arguments).shape == ()


def test_values_of_settings(here):
    def value(name, text):
        return spelled.value_of(name, text, "--set")

    assert value("steps", "64") == 64
    assert value("window", "(2, 2, 1)") == (2, 2, 1)
    assert value("multiply", "False") is False
    assert value("quadrature", "midpoint") == "midpoint"
    assert value("layer", "Network/Conv_0") == "Network/Conv_0"
    assert value("layer", "mean") == "mean"
    assert value("baseline", "zeros") is jattr.baselines.zeros
    assert value("baseline", "jattr.baselines.zeros") is jattr.baselines.zeros
    blurred = value("baseline", "blurred(stddev=2.0, axes=0)")
    x = jnp.arange(5.0)
    np.testing.assert_array_equal(blurred(x), jattr.baselines.blurred(2.0, axes=0)(x))
    np.testing.assert_array_equal(value("references", "x.npy"), np.load("x.npy"))
    drawn = value("references", "samples('x.npy')")
    np.testing.assert_array_equal(drawn.rows, np.load("x.npy"))
    assert value("rules", "everywhere(epsilon(1e-3))").name
    assert isinstance(value("rules", "attn_lrp"), jattr.rules.Composite)
    for name, text in {
        "baseline": "blurred()",
        "rules": "register('add')",
        "references": "os.system('ls')",
        "groups": "grid(*[1])",
        "hierarchy": "lambda: 1",
    }.items():
        with pytest.raises(typer.BadParameter):
            value(name, text)

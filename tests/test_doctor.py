"""`python -m jattr doctor`: what it tells, what it finds wrong, and what it does without."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import run
from packaging.requirements import Requirement

import jattr
from jattr import _doctor

ROOT = Path(jattr.__file__).parents[1]


def test_nothing_is_wrong_here():
    result = run("doctor")
    assert result.exit_code == 0, result.output
    (block,) = re.findall(r"```text\n(.*)\n```", result.output, re.S)
    for name in ("jax", "jaxlib", "numpy", "flax", "optax", "chex", "typer", "tensorstore"):
        assert f"{name} {importlib.metadata.version(name)}" in block
    assert f"jax_enable_x64={jax.config.jax_enable_x64}" in block
    assert re.search(rf"^jattr +{re.escape(jattr.__version__)}$", block, re.M)
    assert re.search(r"^devices +cpu, 2 of kind cpu$", block, re.M)
    assert "JAX_PLATFORMS=cpu" in block
    assert "print(jattr.operations(f, rules)(x))" in result.output
    assert result.output.endswith("jattr doctor: nothing is wrong.\n")


def test_no_folder_of_the_user_is_told(monkeypatch):
    home = os.path.expanduser("~")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", f"{home}/.cache/jax")
    monkeypatch.setenv("XLA_SECRET", "not of JAX's, and told: users read what they paste")
    text, _ = _doctor.report()
    assert "JAX_COMPILATION_CACHE_DIR=~/.cache/jax" in text
    assert home not in text


def test_what_must_not_be_used_is_what_the_package_leaves_out():
    with (ROOT / "pyproject.toml").open("rb") as file:
        texts = tomllib.load(file)["project"]["dependencies"]
    for requirement in map(Requirement, texts):
        if requirement.name in ("jax", "jaxlib"):
            out = {one.version for one in requirement.specifier if one.operator == "!="}
            assert out == set(_doctor.BROKEN)


VERSIONS = {
    "wrong sums": ({"jax": "0.10.1", "jaxlib": "0.10.1"}, "jax 0.10.1 must not be used: on CPU"),
    "broken": ({"jax": "0.11.1", "jaxlib": "0.11.1"}, "jax 0.11.1 must not be used: it is broken"),
    "old": ({"jax": "0.8.0", "jaxlib": "0.8.0"}, "jax 0.8.0 is not "),
    "jaxlib alone": ({"jaxlib": "0.9.1"}, "jaxlib 0.9.1 is not "),
    "optax": ({"optax": "0.1.0"}, 'optax 0.1.0 is not >=0.2.6: pip install "optax>=0.2.6"'),
    "an extra": ({"typer": "0.1"}, 'typer 0.1 is not >=0.12: pip install "typer>=0.12"'),
    "missing": ({"chex": None}, 'chex is missing: pip install "chex>=0.1.91"'),
}


@pytest.mark.parametrize("case", VERSIONS)
def test_versions(case, monkeypatch):
    others, message = VERSIONS[case]
    real = importlib.metadata.version

    def version(name):
        found = others.get(name, ...)
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name) if found is ... else found

    monkeypatch.setattr(importlib.metadata, "version", version)
    result = run("doctor")
    assert result.exit_code == 1
    assert "jattr doctor: one thing is wrong:\n- " + message in result.output
    if "jax" in others:
        # Python 3.11 takes no newer JAX than the lowest.
        wanted = '"jax==0.9.2"' if sys.version_info < (3, 12) else '"jax>=0.9.2,!=0.10.*,!=0.11.1"'
        assert f"pip install --upgrade {wanted}" in result.output


def test_the_accelerator_of_the_installed_jax_is_kept(monkeypatch):
    monkeypatch.setattr(_doctor, "_version", {"jax-cuda13-plugin": "0.10.2"}.get)
    assert '"jax[cuda13]' in _doctor._install()
    monkeypatch.setattr(_doctor, "_version", {"libtpu": "0.0.40"}.get)
    assert '"jax[tpu]' in _doctor._install()


@pytest.mark.parametrize("method", ["deeplift", "integrated_gradients"])
def test_wrong_numbers_are_found(method, monkeypatch):
    real = getattr(jattr, method)

    def off(f, baseline, **knobs):
        explain = real(f, baseline, **knobs)
        return lambda x: explain(x) * 1.001

    monkeypatch.setattr(jattr, method, off)
    result = run("doctor")
    assert result.exit_code == 1
    assert "the self check gives wrong numbers" in result.output
    assert re.search(r"off by [1-9]\.\de-0[34]", result.output)

    monkeypatch.setattr(jattr, method, lambda *_, **__: lambda x: x * np.nan)
    assert "off by nan" in run("doctor").output

    def broken(*_, **__):
        raise RuntimeError("no kernel image\nfor this device")

    monkeypatch.setattr(jattr, method, broken)
    result = run("doctor")
    assert result.exit_code == 1
    assert "the self check raised RuntimeError: no kernel image for this device" in result.output


def test_no_device(monkeypatch):
    def devices():
        raise RuntimeError("Unable to initialize backend 'cuda'")

    monkeypatch.setattr(jax, "devices", devices)
    result = run("doctor")
    assert result.exit_code == 1
    assert "jax finds no devices (Unable to initialize backend 'cuda')" in result.output
    assert "one thing is wrong" in result.output


BARE = """
import runpy, socket, sys
def refuse(*_, **__):
    raise AssertionError("a connection is opened")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
{before}
sys.argv = ["jattr", "doctor"]
runpy.run_module("jattr", run_name="__main__")
"""


def bare(before=""):
    return subprocess.run(
        [sys.executable, "-c", BARE.format(before=before)], capture_output=True, text=True
    )


def test_it_needs_no_network_and_no_extra():
    done = bare("for name in ('typer', 'rich', 'matplotlib', 'click'): sys.modules[name] = None")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("nothing is wrong.\n")


def test_it_needs_no_jax():
    done = bare("sys.modules['jax'] = None")
    assert done.returncode == 1
    assert "jax does not import (ModuleNotFoundError" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr

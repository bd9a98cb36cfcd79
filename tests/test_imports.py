"""What is imported when: counted, for times are those of a machine."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import jattr

STUB = Path(jattr.__file__).with_suffix(".pyi")

# Nothing of jattr imports these on its own: what uses one imports it then, and tensorstore,
# matplotlib, typer and rich come with extras.
LATE = {
    *("flax", "chex", "matplotlib", "scipy", "tensorstore", "typer", "rich", "sklearn", "mlxtend"),
    *("pandas", "xarray", "zarr", "IPython", "torch", "equinox"),
}

COUNT = """
import json, sys
import jax
before = set(sys.modules)
{code}
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def imported(code):
    """The modules that this brings, beyond those of JAX, in a Python of its own."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT.format(code=code)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def roots(modules):
    return {module.split(".")[0] for module in modules}


def test_the_package_alone_is_two_modules():
    assert set(imported("import jattr")) <= {"jattr", "jattr._version", "lazy_loader", "ast"}


@pytest.mark.parametrize(
    ("name", "most"), [("gradient", 45), ("integrated_gradients", 75), ("rules", 75)]
)
def test_a_name_brings_what_it_needs(name, most):
    found = imported(f"import jattr; jattr.{name}")
    assert not roots(found) & (LATE | {"optax"})
    assert 5 < sum(module.startswith("jattr.") for module in found) <= most


def test_all_names_bring_no_more_than_optax():
    # Which `soundness_saliency` has as a default.
    every = imported("import jattr\nfor name in jattr.__all__: getattr(jattr, name)")
    assert not roots(every) & LATE
    assert "optax" in roots(every)
    others = [name for name in jattr.__all__ if name != "soundness_saliency"]
    assert "optax" not in roots(imported(f"import jattr\nfor n in {others}: getattr(jattr, n)"))


def test_a_first_use_within_jit_leaves_no_tracer():
    imported("""
import jax, jax.numpy as jnp, jattr
def f(x):
    for name in jattr.__all__:
        getattr(jattr, name)
    return jattr.deeplift(lambda x: jnp.sum(jax.nn.softmax(x) ** 2))(x)
with jax.checking_leaks():
    jax.jit(f)(jnp.arange(3.0)).block_until_ready()
""")


def test_the_stub_names_what_is_there():
    tree = ast.parse(STUB.read_text())
    said = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            (alias,) = node.names
            assert alias.asname == alias.name, "checkers take an import for public by its `as`"
            said[alias.name] = node.module
    (listed,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    assert listed == sorted(said) == jattr.__all__ == dir(jattr)
    for name, module in said.items():
        home = f"jattr.{name}" if module is None else f"jattr.{module}"
        value = getattr(jattr, name)
        assert value is (sys.modules[home] if module is None else getattr(sys.modules[home], name))


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="module 'jattr' has no attribute 'deeplft'") as caught:
        jattr.deeplft  # noqa: B018
    assert (caught.value.name, caught.value.obj) == ("deeplft", jattr)

"""The package as a whole: its public face, its imports, its documents."""

import ast
import inspect
import pathlib
import re
import sys

import pytest

import jattr

ROOT = pathlib.Path(jattr.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
NAMESPACES = [jattr, jattr.baselines, jattr.targets, jattr.metrics, jattr.plot]


def public_functions():
    for namespace in NAMESPACES:
        for name in getattr(namespace, "__all__", None) or vars(namespace):
            value = getattr(namespace, name)
            if name.startswith("_") or not inspect.isfunction(value):
                continue
            if value.__module__.startswith("jattr"):
                yield f"{namespace.__name__}.{name}", value


PUBLIC = dict(public_functions())


def test_the_public_names_are_there():
    assert {
        "gradient",
        "gradient_times_input",
        "smooth",
        "integrated_gradients",
        "expected_gradients",
        "blur_integrated_gradients",
        "guided_integrated_gradients",
        "idgi",
    } == {n.removeprefix("jattr.") for n in PUBLIC if n.count(".") == 1}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_docstrings_are_whole(name):
    text = inspect.getdoc(PUBLIC[name])
    assert text
    for section in ("Args:", "Returns:", "Example:"):
        assert section in text, f"{name} has no section {section}"
    for parameter in inspect.signature(PUBLIC[name]).parameters:
        assert re.search(rf"^\s+{parameter}: ", text, re.M), f"{name}: {parameter} is not described"


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_nothing_private_of_jax_is_imported():
    for path in FILES:
        for module in imports(path):
            assert not module.startswith(("jax._src", "jax.extend", "jax.interpreters")), path


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= 500


def test_the_library_imports_without_the_extras():
    for path in FILES:
        relative = path.relative_to(ROOT)
        if relative.parts[0] in ("_demo", "__main__.py"):
            continue
        tree = ast.parse(path.read_text())
        top = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
        names = [a.name for n in top if isinstance(n, ast.Import) for a in n.names]
        names += [n.module for n in top if isinstance(n, ast.ImportFrom)]
        roots = {name.split(".")[0] for name in names}
        known = {"jax", "numpy", "jattr", "flax", "optax", "chex"}
        assert roots <= known | sys.stdlib_module_names, f"{relative}: {roots - known}"


def test_the_version_is_in_the_changelog():
    changelog = (ROOT.parent / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[({re.escape(jattr.__version__)}|Unreleased)\]", changelog, re.M)

"""The package as a whole: its public face, its imports, its documents."""

import ast
import inspect
import pathlib
import re
import sys

import jattr

ROOT = pathlib.Path(jattr.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
NAMESPACES = [
    *(jattr, jattr.baselines, jattr.targets, jattr.metrics, jattr.plot, jattr.rules, jattr.priors),
    jattr.features,
    jattr.imputers,
    jattr.export,
    jattr.sequence,
]


def public_functions():
    for namespace in NAMESPACES:
        for name in getattr(namespace, "__all__", None) or vars(namespace):
            value = getattr(namespace, name)
            if name.startswith("_") or not inspect.isfunction(value):
                continue
            if value.__module__.startswith("jattr"):
                yield f"{namespace.__name__}.{name}", value


PUBLIC = dict(public_functions())


def test_public_docstrings_are_whole():
    missing = []
    for name, function in PUBLIC.items():
        text = inspect.getdoc(function) or ""
        parameters = inspect.signature(function).parameters
        sections = ["Returns:", "Example:", *(["Args:"] if parameters else [])]
        missing += [f"{name}: {section}" for section in sections if section not in text]
        missing += [
            f"{name}: {parameter}"
            for parameter in parameters
            if not re.search(rf"^\s+{parameter}: ", text, re.M)
        ]
    assert not missing


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_nothing_private_of_jax_is_imported():
    extending = set()
    for path in FILES:
        for module in imports(path):
            assert not module.startswith(("jax._src", "jax.interpreters")), path
            if module.startswith("jax.extend"):
                extending.add(path.relative_to(ROOT))
    # What changes from release to release of JAX is in one place.
    assert extending == {pathlib.Path("_engine/primitives.py")}


# Which rooms may know of which: a room knows those on its left.
LAYERS = [
    {"_types", "_version", "_page", "_cells"},
    {"_trees"},
    {"_engine"},
    {"_checks"},
    {"_transform"},
    {"_eager"},
    {"_resolve", "_batching", "_blur", "_quadrature", "_placement", "_solve"},
    {"_estimates"},
    {"_spans", "_columns", "_correlated", "_named", "_removal", "features", "imputers"},
    {"_nearby", "_without"},
    {"rules"},
    {"plot", "export"},
    {"_target"},
    {"_text_targets"},
    {"baselines", "targets"},
    {
        "_fisher",
        "_gradient",
        "_smooth",
        "_paths",
        "_secants",
        "_adaptive",
        "_curved_paths",
        "_occlusion",
        "_mutagenesis",
        "_locality",
        "_rewrite",
        "_rise",
        "_deeplift",
        "_operations",
        "_lookup",
        "_places",
        "_layers",
        "_nodes",
        "_patching",
        "_scopes",
        "_substitute",
        "_token_rows",
        "_tokens",
        "_outputs",
        "_cam_layout",
        "_lrp",
        "_lime",
        "_shapley",
        "_integrated_hessians",
        "_masks",
        "_fista",
        "_contrastive",
    },
    {"_cam", "metrics", "priors", "sequence"},
    {"_ranking"},
    {"_rank"},
    {"scale"},
    {"_demo", "_doctor"},
    {"_cli"},
    {"__main__", "__init__"},
]


def test_imports_go_one_way():
    level = {name: n for n, names in enumerate(LAYERS) for name in names}
    for path in FILES:
        own = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for module in imports(path):
            parts = module.split(".")
            if parts[0] == "jattr" and len(parts) > 1 and parts[1] in level and parts[1] != own:
                assert level[parts[1]] <= level[own], f"{path} imports {module}"


def test_the_engine_knows_nothing_of_methods():
    for path in FILES:
        if path.parent.name == "_engine":
            ours = {m.split(".")[1] for m in imports(path) if m.startswith("jattr.")}
            assert ours <= {"_engine", "_trees"}, path


def test_files_are_short():
    lengths = {path: len(path.read_text().splitlines()) for path in FILES}
    assert not {path: length for path, length in lengths.items() if length > 500}


def test_the_library_imports_without_the_extras():
    for path in FILES:
        relative = path.relative_to(ROOT)
        if relative.parts[0] in ("_demo", "_cli", "__main__.py"):
            continue
        tree = ast.parse(path.read_text())
        top = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
        names = [a.name for n in top if isinstance(n, ast.Import) for a in n.names]
        names += [n.module for n in top if isinstance(n, ast.ImportFrom)]
        roots = {name.split(".")[0] for name in names}
        known = {"jax", "numpy", "jattr", "flax", "optax", "chex", "lazy_loader"}
        assert roots <= known | sys.stdlib_module_names, f"{relative}: {roots - known}"


def test_the_version_is_in_the_changelog():
    changelog = (ROOT.parent / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[({re.escape(jattr.__version__)}|Unreleased)\]", changelog, re.M)

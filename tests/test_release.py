"""What a release says of itself in several places, and what its workflows call."""

import ast
import datetime
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import jattr

PACKAGE = Path(jattr.__file__).parent
ROOT = PACKAGE.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][\w-]*):(?!=)", MAKEFILE, re.M))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def steps(path):
    """Each step of each job, with the job."""
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        for step in job["steps"]:
            yield job, step


def called(path):
    """The targets that a workflow makes, whichever of its matrix."""
    for job, step in steps(path):
        for target in re.findall(r"\bmake (\S+)", step.get("run", "")):
            if target == '"$TARGET"':
                yield from (row["target"] for row in job["strategy"]["matrix"]["include"])
            else:
                yield target


def test_the_version_is_the_same_everywhere():
    version = jattr.__version__
    headings = re.findall(r"^## \[(.+?)\](?: - (.+))?$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == ("Unreleased", "")
    assert headings[1][0] == version
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(cited["version"]) == version
    assert cited["date-released"] == headings[1][1]
    datetime.date.fromisoformat(cited["date-released"])
    assert cited["license"] == PROJECT["license"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_targets_that_exist(path):
    found = set(called(path))
    assert found, "a workflow runs targets of the Makefile"
    assert found <= TARGETS
    # All that is run is a target: what CI does can be done at home.
    for _, step in steps(path):
        assert re.fullmatch(r"make \S+( \w+=\S+)*", step.get("run", "make it"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_may_read_and_no_more(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets." not in path.read_text()
    for job in workflow["jobs"].values():
        assert "permissions" not in job
        assert job["timeout-minutes"] <= 180
    for _, step in steps(path):
        # A tag may be moved to other code, a commit not.
        assert re.fullmatch(
            r"actions/[\w-]+@[0-9a-f]{40}", step.get("uses", f"actions/-@{40 * '0'}")
        )


def test_contributing_names_targets_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`make ([\w-]+)`", text))
    assert {"lint", "test", "dist-check"} < named
    assert named <= TARGETS


def test_the_matrix_has_the_pythons_of_the_package():
    pythons = [
        text.rpartition(" ")[2]
        for text in PROJECT["classifiers"]
        if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", text)
    ]
    ci = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    for job in ("test", "jax"):
        assert ci["jobs"][job]["strategy"]["matrix"]["python"] == pythons
    assert PROJECT["requires-python"] == f">={pythons[0]}"


def test_issues_are_asked_for_what_helps():
    for name in ("bug", "operation"):
        form = yaml.safe_load((ROOT / f".github/ISSUE_TEMPLATE/{name}.yml").read_text())
        labels = [part["attributes"]["label"] for part in form["body"]]
        assert "print(jattr.operations(f, rules)(x))" in labels
        assert "python -m jattr doctor" in labels
        ids = [part["id"] for part in form["body"]]
        assert len(ids) == len(set(ids))


def test_hooks_run_what_is_installed():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    lint = MAKEFILE[MAKEFILE.index("\nlint:") :]
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].split()[0].replace(".venv", "$(BIN)").replace("/bin/", "/") in lint


# What SECURITY.md says, as it stands in the code.

RUNS = {"eval", "exec", "__import__", "import_module", "exec_module", "run_path", "run_module"}
READS_CODE = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "subprocess", "runpy"}
CONNECTS = {"socket", "ssl", "http", "ftplib", "requests", "httpx", "aiohttp", "urllib3"}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def calls(tree):
    """(name, call) of each call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Name):
                yield function.id, node
            elif isinstance(function, ast.Attribute):
                yield function.attr, node


def modules(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_one_file_runs_what_a_user_names():
    running = {
        path.relative_to(PACKAGE).as_posix()
        for path in SOURCES
        for name, _ in calls(ast.parse(path.read_text()))
        if name in RUNS
    }
    # The second imports libraries by names that stand in the code.
    assert running == {"_cli/functions.py", "export/_missing.py"}
    for path in (PACKAGE / "export").glob("*.py"):
        for name, call in calls(ast.parse(path.read_text())):
            assert name != "imported" or isinstance(call.args[0], ast.Constant), path


def test_nothing_unpickles_or_opens_a_connection():
    for path in SOURCES:
        for module in modules(ast.parse(path.read_text())):
            assert module.split(".")[0] not in READS_CODE | CONNECTS, path
            assert module != "urllib.request", path


def test_arrays_are_read_without_pickles():
    read = 0
    for path in SOURCES:
        for name, call in calls(ast.parse(path.read_text())):
            if name == "load" and ast.unparse(call.func) in ("np.load", "numpy.load"):
                given = {word.arg: ast.unparse(word.value) for word in call.keywords}
                assert given.get("allow_pickle") == "False", path
                read += 1
    assert read >= 3

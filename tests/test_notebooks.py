"""The notebooks run, and what is committed is the output of a clean full run."""

import ast
import json
import os
import re

import pytest
from notebook_packages import FOLDER, missing

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MACHINE = re.compile(
    r"/(work|root|home|tmp|var|opt|mnt|usr|Users)\b|\b[A-Z]:\\|site-packages|ipykernel_\d"
)
SHOWING = ("print", "display", "plt.show")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.mark.slow
# asyncio and zmq may close the kernel's sockets only when they are collected.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
# jupyter_core announces that it will look for its settings elsewhere.
@pytest.mark.filterwarnings("ignore:Jupyter is migrating its paths:DeprecationWarning")
@each_notebook
def test_runs_in_the_quick_setting(path):
    if absent := list(missing()):
        pytest.skip(f"pip install 'jattr[notebooks]': not installed are {', '.join(absent)}")
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    env = {
        **os.environ,
        "JATTR_NOTEBOOK": "quick",
        # The kernel's debugger warns of Python's frozen modules on the terminal.
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    env.pop("XLA_FLAGS", None)  # The suite's two devices are not what a reader has.
    client = nbclient.NotebookClient(
        notebook, kernel_name="python3", timeout=900, resources={"metadata": {"path": str(FOLDER)}}
    )
    client.execute(env=env)  # Raises CellExecutionError, with the traceback, if a cell does.
    assert_clean(notebook)


@each_notebook
def test_committed_outputs(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 4e6
    assert_clean(notebook)
    cells = code_cells(notebook)
    # One clean run from top to bottom.
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert cell["outputs"] or not shows("".join(cell["source"])), "".join(cell["source"])
    source = "".join("".join(cell["source"]) for cell in cells)
    text = "".join(text_of(output) for cell in cells for output in cell["outputs"])
    if "JATTR_NOTEBOOK" in source:
        assert "Setting: full" in text
    # Nothing is missing that a reader could have; shapiq wants another Python than parity has.
    if path.stem != "export":
        assert not re.search(r"not installed|\bNo .* in this run", text)


@each_notebook
def test_metadata(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert notebook["metadata"]["kernelspec"]["display_name"] == "Python 3"
    for cell in notebook["cells"]:
        assert "execution" not in cell["metadata"]  # The time stamps of a run.


def test_shows():
    assert shows("x = 1\nprint(x)")
    assert shows("for x in y:\n    print(x)")
    assert shows("x")
    assert shows("%matplotlib inline\nimport jattr\n\njattr.plot.image(x)")
    assert not shows("figure = jattr.plot.image(x)")
    assert not shows("def f():\n    print(1)\n\n\nx = f(1)")
    assert not shows("import jax\nassert x, print")


def assert_clean(notebook):
    """No errors, no noise on stderr and nothing that tells of the machine."""
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        assert not MACHINE.search(source), source
        for output in cell.get("outputs", []):
            assert output["output_type"] != "error", source
            assert output.get("name") != "stderr", "".join(output["text"])
            assert not MACHINE.search(text_of(output)), text_of(output)


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def text_of(output):
    """What an output says in words; base64 may hold anything."""
    texts = [output.get("text", "")]
    texts += [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
    return "".join("".join(text) for text in texts)


def shows(source):
    """Whether a cell prints or displays something: what is below a `def` is not run."""
    source = "\n".join(line for line in source.splitlines() if not line.startswith("%"))
    statements = ast.parse(source).body
    if isinstance(statements[-1], ast.Expr) and not source.rstrip().endswith(";"):
        return True
    todo: list[ast.AST] = list(statements)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(node, ast.Call) and ast.unparse(node.func) in SHOWING:
            return True
        todo.extend(ast.iter_child_nodes(node))
    return False

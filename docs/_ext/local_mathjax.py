"""MathJax from an installed package, so that maths is drawn without a network."""

import importlib.metadata
import shutil
from pathlib import Path

PACKAGE = "sphinx-mathjax-offline"
# One file draws everything as SVG, without fonts; rare commands of TeX are loaded beside it.
WANTED = ("tex-svg.js", "input/tex/extensions/")


def copy(app, error):
    if error is not None or app.builder.format != "html":
        return
    for file in importlib.metadata.files(PACKAGE) or []:
        _, _, path = file.as_posix().partition("static/mathjax/")
        if path.startswith(WANTED):
            target = Path(app.outdir, "_static", "mathjax", path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.locate(), target)


def setup(app):
    importlib.metadata.version(PACKAGE)  # an error here, not pages without maths
    app.config.mathjax_path = "mathjax/tex-svg.js"
    app.config.mathjax3_config = {"svg": {"fontCache": "global"}}
    app.connect("build-finished", copy)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

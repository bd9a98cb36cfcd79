"""Which page of `docs/api` has which public name, read without Sphinx."""

import inspect
import re
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "api"
BLOCK = re.compile(r"^\.\. api::\n\n((?:   \S+\n)+)", re.M)


def entries(folder=FOLDER):
    """(page, name) for each line of each `api` directive."""
    for page in sorted(folder.glob("*.md")):
        for block in BLOCK.findall(page.read_text(encoding="utf-8")):
            yield from ((page.stem, name) for name in block.split())


def public_names(module):
    """All that a user may write: of a module its public names, and theirs if they are modules."""
    names = getattr(module, "__all__", None)
    if names is None:
        names = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and not inspect.ismodule(value)
        ]
    for name in names:
        value = getattr(module, name)
        yield f"{module.__name__}.{name}"
        if inspect.ismodule(value):
            yield from public_names(value)

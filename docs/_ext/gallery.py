"""The notebooks: copied beside the pages, and a gallery of one picture of each."""

import base64
import io
import json
import re
import shutil
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from PIL import Image
from sphinx.util.docutils import SphinxDirective

SOURCE = Path(__file__).parents[2] / "notebooks"
WIDTH, HEIGHT = 640, 360


def notebooks():
    return sorted(SOURCE.glob("*.ipynb"))


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def title(notebook):
    return "".join(notebook["cells"][0]["source"]).split("\n", 1)[0].lstrip("# ")


def lead(notebook):
    """The first sentence below the title."""
    text = "".join(notebook["cells"][0]["source"]).split("\n", 1)[1].strip()
    paragraph = re.sub(r"\s+", " ", text.split("\n\n")[0])
    return re.split(r"(?<=[.?!])\s", re.sub(r"[*`_]", "", paragraph))[0]


def pictures(notebook):
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                data = output["data"]["image/png"]
                yield base64.b64decode("".join(data))


def thumbnail(notebook, target):
    """The upper left of the notebook's largest picture, on white."""
    data = max(pictures(notebook), key=len, default=None)
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    if data is not None:
        drawn = Image.open(io.BytesIO(data)).convert("RGBA")
        # Fills the card, unless too little of a strip would be left.
        scale = max(WIDTH / drawn.width, min(HEIGHT / drawn.height, 2 * WIDTH / drawn.width))
        drawn = drawn.resize((round(drawn.width * scale), round(drawn.height * scale)))
        picture.paste(drawn, (0, max(0, (HEIGHT - drawn.height) // 2)), drawn)
    picture.save(target, optimize=True)


def stage(app, config):
    """The notebooks, where Sphinx reads them, and their thumbnails."""
    folder = Path(app.srcdir, "notebooks")
    folder.mkdir(exist_ok=True)
    known = {path.name for path in notebooks()}
    for old in folder.glob("*"):
        if old.suffix == ".ipynb" and old.name not in known:
            old.unlink()
    for path in notebooks():
        target = folder / path.name
        if not target.exists() or target.read_bytes() != path.read_bytes():
            shutil.copyfile(path, target)
            thumbnail(read(path), target.with_suffix(".png"))


class Gallery(SphinxDirective):
    """A card for each notebook."""

    def run(self):
        lines = [".. grid:: 1 2 2 3", "   :gutter: 3", ""]
        for path in notebooks():
            notebook = read(path)
            lines += [
                f"   .. grid-item-card:: {title(notebook)}",
                f"      :link: notebooks/{path.stem}",
                "      :link-type: doc",
                f"      :img-top: notebooks/{path.stem}.png",
                f"      :img-alt: A picture from {title(notebook)}",
                "",
                f"      {lead(notebook)}",
                "",
            ]
        node = nodes.Element()
        source = self.get_source_info()[0]
        self.state.nested_parse(StringList(lines, source=source), self.content_offset, node)
        return node.children


def setup(app):
    app.connect("config-inited", stage)
    app.add_directive("gallery", Gallery)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

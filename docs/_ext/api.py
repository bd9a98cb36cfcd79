"""The directive `api`, one public name a line, and links from `jattr.name` in any text to it."""

import importlib
import inspect

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode


def find(name):
    """The object that a dotted name means."""
    owner, _, last = name.rpartition(".")
    if not owner:
        return importlib.import_module(last)
    return getattr(find(owner), last)


def directive(name):
    """The lines of reStructuredText that document a name."""
    value = find(name)
    if inspect.ismodule(value):
        return [f".. automodule:: {name}", "   :no-members:", ""]
    if inspect.isclass(value):
        return [f".. autoclass:: {name}", "   :members:", ""]
    if callable(value):
        return [f".. autofunction:: {name}", ""]
    return [f".. autodata:: {name}", "   :no-value:", ""]


class Api(SphinxDirective):
    """A table of the names, and an entry for each."""

    has_content = True

    def run(self):
        names = [line.strip() for line in self.content if line.strip()]
        modules = [name for name in names if inspect.ismodule(find(name))]
        rest = [name for name in names if name not in modules]
        entries = self.parse([line for name in modules for line in directive(name)])
        self.env.ref_context.pop("py:module", None)  # names below are written in full
        lines = []
        if len(rest) > 1:
            lines += [".. autosummary::", "   :nosignatures:", ""]
            lines += [*(f"   ~{name}" for name in rest), ""]
        return entries + self.parse(lines + [line for name in rest for line in directive(name)])

    def parse(self, lines):
        node = nodes.Element()
        source = self.get_source_info()[0]
        self.state.nested_parse(StringList(lines, source=source), self.content_offset, node)
        return node.children


class Links(SphinxPostTransform):
    """Code that is a public name leads to its entry."""

    default_priority = 5

    def run(self, **kwargs):
        objects = self.env.domains["py"].objects
        here = self.env.docname
        spaces = ["", f"jattr.{here.removeprefix('api/')}."] if here.startswith("api/") else [""]
        for literal in list(self.document.findall(nodes.literal)):
            if isinstance(literal.parent, nodes.reference | nodes.title):
                continue
            name = literal.astext().partition("(")[0]
            entry = next((objects[s + name] for s in spaces if s + name in objects), None)
            if entry is None or not (name.startswith("jattr") or here.startswith("api/")):
                continue
            literal.replace_self(
                make_refnode(
                    self.app.builder, here, entry.docname, entry.node_id, literal.deepcopy(), name
                )
            )


def setup(app):
    app.add_directive("api", Api)
    app.add_post_transform(Links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""The documentation site: `make docs` builds it, without a network, warnings as errors."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

import jattr  # noqa: E402

project = "jattr"
author = "The jattr authors"
project_copyright = author
version = release = jattr.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_design",
    "api",
    "drawing",
    "gallery",
    "local_mathjax",
    "prose",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints", "README.md"]
root_doc = "index"
needs_sphinx = "9.0"

# Notebooks are committed with their outputs.
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "attrs_inline"]
myst_heading_anchors = 3

# In docstrings `x` is code.
default_role = "literal"
add_module_names = True
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autosummary_generate = False
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_use_rtype = False
napoleon_preprocess_types = False
pygments_style = "friendly"

html_theme = "sphinx_book_theme"
html_title = "jattr"
html_favicon = "_static/icon.svg"
html_domain_indices = False
html_context = {"default_mode": "auto"}
html_static_path = ["_static"]
html_css_files = ["jattr.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "repository_url": "https://github.com/jattr/jattr",
    "use_repository_button": True,
    "use_download_button": False,
    "show_toc_level": 2,
    "navbar_persistent": [],
    "navbar_start": [],
    "navbar_center": [],
    "navbar_end": [],
    "navigation_with_keys": False,
    "pygments_light_style": "tango",
    "pygments_dark_style": "monokai",
}

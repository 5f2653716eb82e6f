"""Configuration of the documentation site (Sphinx, MyST): ``make docs``."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_REPOSITORY / "docs" / "_ext"))

project = "Preread"
author = "the Preread authors"
version = release = tomllib.loads((_REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
language = "en"
# a block without a language is a transcript, not Python
highlight_language = "none"

extensions = [
    "myst_parser",
    "offline",
    "package_index",
    "repository_links",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
# the last two say in the repository and in a release's tar where a page has moved to
exclude_patterns = ["_ext", "reference/api/*/modules.rst", "settings.md", "security.md"]
# The anchors of headings are those that repository browsers make.
myst_heading_anchors = 4
myst_links_external_new_tab = False

# --------------------------------------------------------------------------- API reference

# One page for each of these packages; a new module appears by itself. All others are listed with their first lines.
_PRODUCT = _REPOSITORY / "worker" / "preread"
_IN_DETAIL = {"core", "imaging", "model"}
apidoc_modules = [
    {
        "path": str(_PRODUCT),
        "destination": "reference/api/preread",
        "exclude_patterns": [
            str(_PRODUCT / "__main__.py"),
            *(str(init.parent) for init in _PRODUCT.glob("*/__init__.py") if init.parent.name not in _IN_DETAIL),
        ],
        "separate_modules": False,
        "module_first": True,
        "automodule_options": {"members", "show-inheritance"},
    }
]
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
# A name of the public API has two addresses: `preread` and its own module. Either will do.
suppress_warnings = ["ref.python"]
napoleon_use_ivar = True

# --------------------------------------------------------------------------- HTML

html_theme = "furo"
html_title = f"Preread {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_show_sourcelink = False

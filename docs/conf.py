# ruff: noqa: INP001  # Sphinx reads this file; it is no module of the package.
"""The site: README and the pages of `docs/`, as they are on GitHub, with what the docstrings say.

    sphinx-build -W --keep-going -c docs . docs/_build

The source is the root of the repository, so that one relative link leads to the same page here and there.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from pytest_lora_ckpt import __version__  # noqa: E402

project = "pytest-lora-ckpt"
author = copyright = "The pytest-lora-ckpt developers"  # noqa: A001
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "conftest_examples/*/README.md"]
exclude_patterns = ["docs/navigation.md"]

# Links: to pages and to their headings, by the anchors that GitHub gives them.
myst_heading_anchors = 4
myst_links_external_new_tab = False

# Docstrings are Google's sections; a word in single backticks is code, and a link where it is a name of ours.
default_role = "py:obj"
napoleon_numpy_docstring = False
autodoc_default_options = {"member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_class_signature = "separated"
python_use_unqualified_type_names = True
add_module_names = False

html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
copybutton_exclude = ".linenos, .gp, .go"


def add_navigation(app: Sphinx, name: str, source: list[str]) -> None:
    """Give the first page, which is README, the navigation."""
    if name == root_doc:
        app.env.note_dependency(str(HERE / "navigation.md"))
        source[0] += "\n" + (HERE / "navigation.md").read_text(encoding="utf-8")


def copy_index(app: Sphinx, exception: Exception | None) -> None:
    """Let a server find the first page."""
    if exception is None and app.builder.format == "html":
        shutil.copyfile(app.outdir / "README.html", app.outdir / "index.html")


def setup(app: Sphinx) -> None:
    """Connect the two."""
    app.connect("source-read", add_navigation)
    app.connect("build-finished", copy_index)

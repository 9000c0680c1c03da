"""The site: ``make docs`` builds it of the pages here, the docstrings, the commands and the executed examples.

`L2RFAST_DOCS=small` runs the examples on generated heads of few voxels, as the tests do; without it they run on the
demo's scans.
"""

from __future__ import annotations

import os
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # for `plots` and `commands`

project = "l2rfast"
author = "the l2rfast developers"
copyright = f"2026, {author}"
version = release = metadata.version("l2rfast")

extensions = [
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "plots",
    "sphinx_gallery.gen_gallery",
    "commands",
    "docstrings",
]
exclude_patterns = ["gallery/*"]
smartquotes = False  # of two dashes, as before an option, it makes one
default_role = "code"  # as our docstrings are written
highlight_language = "python"

# Pages are MyST Markdown, mathematics between dollars.
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# Figures are made by code: a page's ``{plot}`` blocks.
plot_formats = [("png", 110)]
plot_html_show_formats = False
plot_html_show_source_link = False
plot_include_source = False
plot_rcparams = {
    "figure.figsize": (8, 3.2),
    "figure.constrained_layout.use": True,
    "image.cmap": "gray",
    "font.size": 9,
}
plot_apply_rcparams = True

sphinx_gallery_conf = {
    "examples_dirs": ["gallery/howto", "gallery/hands_on"],
    "gallery_dirs": ["howto", "hands_on"],
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "capture_repr": (),  # the value of a last line is nothing to show
    "download_all_examples": False,
    "remove_config_comments": True,
    "reset_modules": (),  # one Matplotlib for all
    "show_memory": False,
    "min_reported_time": 3600,  # seconds of the machine that builds are of no use
    "write_computation_times": False,  # and no page of them, which the search would find
    "default_thumb_file": str(Path(__file__).parent / "images" / "overview.png"),
}
os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))

html_theme = "furo"
html_title = "l2rfast"
html_favicon = "static/icon.svg"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}

napoleon_google_docstring = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"


def _to_the_reports(app: Any, path: Path, page: str, content: list[str]) -> None:
    """The README's table, which the landing page includes, links to the reports as files: here they are pages."""
    if path.name == "README.md":
        content[0] = re.sub(r"\[[^]]*\]\(bench/reports/(\w+\.md)\)", r"[](/performance/\1)", content[0])


def setup(app: Any) -> None:
    app.connect("include-read", _to_the_reports)

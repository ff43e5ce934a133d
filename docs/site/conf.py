"""Sphinx: ``nox -s docs`` builds the site from this folder into results/site.

Every warning is an error there, and every reference that is not found is a warning. Nothing is fetched: formulas are
MathML, pictures are drawn from the reference and from the committed results.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

SITE = Path(__file__).parent
sys.path.insert(0, str(SITE / "extensions"))
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import hemspec  # noqa: E402  # the wheel that the session installed

project = "hemspec"
author = "The hemspec developers"
project_copyright = "the hemspec developers, BSD-3-Clause"
version = release = hemspec.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_design",
    "sphinx_copybutton",
    # Ours.
    "docstrings",
    "mathml",
    "pictures",
    "repository",
]
exclude_patterns = ["extensions"]

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"hemspec {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#a34300", "color-brand-content": "#a34300"},
    "dark_css_variables": {"color-brand-primary": "#ff9a4d", "color-brand-content": "#ff9a4d"},
}
highlight_language = "none"  # formulas in docstrings are no Python
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# The docstrings' own conventions: Google's sections, single backticks for references.
default_role = "py:obj"
napoleon_numpy_docstring = False
autodoc_typehints = "none"  # types are said in words, with shapes; their names would be links to other projects
autodoc_member_order = "bysource"

nitpicky = True
# Other projects' names: their inventories would have to be fetched.
nitpick_ignore_regex = [(r"py:.*", r"(keras|torch|tf|jax|optax|nn)\..*")]

linkcheck_anchors = False

"""Sphinx's configuration. `make docs` builds the site into docs/_build; no network is needed."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

import purejax_po

project = "purejax_po"
author = "The purejax_po authors"
version = release = purejax_po.__version__
html_title = "purejax_po"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "reading",  # docs/_ext: fields as tables, docstrings as they are meant
]
exclude_patterns = ["_build", "_ext", "**.ipynb_checkpoints"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebooks hold their outputs
nb_merge_streams = True
myst_links_external_new_tab = False

default_role = "py:obj"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 170
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
add_module_names = False
napoleon_numpy_docstring = False

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
highlight_language = "none"
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
mathjax_path = "mathjax/tex-svg.js"
mathjax3_config = {"svg": {"fontCache": "global"}}

# The pages of the reference and the notebooks are made here, from the package and from notebooks/.
from reference import write_pages

write_pages(HERE / "api")
(HERE / "notebooks").mkdir(exist_ok=True)
for notebook in sorted((HERE.parent / "notebooks").glob("*.ipynb")):
    made = HERE / "notebooks" / notebook.name
    text = notebook.read_text().replace("(../docs/", "(../")
    if not made.exists() or made.read_text() != text:
        made.write_text(text)

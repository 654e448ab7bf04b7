"""The site of the documents: `make docs` builds it into build/site. A warning is an error, such as a dead link.

Sphinx with MyST and Furo, as all three are maintained and run on Python 3.11 to 3.13; MkDocs was last released in 2024.
The source directory is the repository, so that links are the same here and where it is browsed.
"""

project = "sse-demo"
project_copyright = "the contributors of sse-demo"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md"]
exclude_patterns = [".*", "build", "benchmarks", "events", "sse_demo", "static", "staticfiles", "templates", "tests"]
exclude_patterns += ["docs/package.md"]  # what a package index shows

myst_heading_anchors = 4  # as where repositories are browsed: levels of headings that links may lead to

# The lexers know no HAProxy, and no template within a script; what is code is parsed by tests/test_documents.py.
suppress_warnings = ["misc.highlighting_failure"]

html_theme = "furo"
html_title = "sse-demo"
html_copy_source = False
html_show_sphinx = False
html_extra_path = ["site"]  # index.html, which leads to docs/

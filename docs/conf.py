import neoq

project = "neoq"
author = "the neoq authors"
copyright = author
version = release = neoq.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"neoq {release}"
html_copy_source = False

myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
default_role = "code"  # a name between single backticks in a docstring

# No inventory of Python's own documentation is fetched, so names from outside neoq have nowhere to lead;
# nor have the types that are there for type checkers only.
nitpick_ignore_regex = [
    ("py:.*", r"(?!neoq\.).*"),
    (
        "py:class",
        r"neoq\.(backend\.EnqueueMiddleware|batch\.BatchMiddleware|listening\.(AnyHandler|ListenOptions)|record\.JobOptions|clock\.Clock)",
    ),
    (
        "py:class",
        r"neoq\.(record\.Record|held\.(stepwise\.(T|Members)|limit_options\.LimitOptions)|engine\.engine\.Engine)",
    ),
    ("py:class", r"neoq\.(audit\.Keeper|config\.Settings|\w+\.config\.\w+Settings)"),
    ("py:class", r"neoq\.(filter\.(Other)?Filters|tasks\.task\.(R|P|CallOptions|Using))"),
]


def setup(app):
    """Show code of other libraries as Python; tests/test_docs.py runs only what is marked `python`."""
    from pygments.lexers.python import PythonLexer

    app.add_lexer("python-other", PythonLexer)

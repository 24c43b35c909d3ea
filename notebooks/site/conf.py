"""Sphinx's settings for the site. Its sources are the files of the repository, where they are: nothing is copied.

The command that builds the site is in README.md beside this file.
"""

import inspect
import re
from itertools import pairwise
from pathlib import Path

from docutils.nodes import Text, literal
from sphinx.addnodes import pending_xref
from sphinx.ext.napoleon import NumpyDocstring

import swd_dynamics
from swd_dynamics.probe.quantities import QUANTITIES, SETS

ENTRIES = ("Attributes", "Entries", "Parameters", "Returns", "Raises")  # sections of a docstring that list entries
UNDERLINE = re.compile("-{3,}")
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")

project = "swd_dynamics"
root_doc = "notebooks/site/index"
include_patterns = [
    "notebooks/*.ipynb",
    "notebooks/site/**.md",
    "figures/**.md",
    "swd_dynamics/recording/format.md",
    "tests/benchmarks/README.md",
]
exclude_patterns = ["notebooks/site/README.md"]
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx-mathjax-offline",  # formulas are shown without a network
    "cyclopts.sphinx_ext",
]

html_theme = "furo"
html_title = "swd_dynamics"
html_extra_path = ["front"]  # its index.html leads to the first page
html_static_path = ["style"]
html_css_files = ["site.css"]
html_show_copyright = False
smartquotes = False  # "--quick" keeps its two hyphens

nb_execution_mode = "off"  # the notebooks are committed with their outputs
nb_render_markdown_format = "myst"  # outputs in Markdown have formulas
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath", "substitution"]
myst_dmath_double_inline = True
myst_heading_anchors = 3

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say the types
add_module_names = False
napoleon_google_docstring = False
napoleon_custom_sections = [("Attributes", "params_style"), ("Entries", "params_style")]


def public_names() -> str:
    """The names of the package as a table, each with its link and the first line of its docstring."""
    lines = ["| name | |", "|---|---|"]
    for name in swd_dynamics.__all__:
        found = getattr(swd_dynamics, name)
        if not inspect.ismodule(found):
            said = (inspect.getdoc(found) or "").partition("\n")[0].replace("|", "∣")
            said = re.sub(r":\w+:(`[^`]+`)", r"\1", said)  # a role of Sphinx is no role in Markdown
            lines.append(f"| {{py:obj}}`{name} <swd_dynamics.{room_of(name)}.{name}>` | {said} |")
    return "\n".join(lines)


def room_of(name: str) -> str:
    """The folder that announces a name of the package, or the file that defines it."""
    found = {room: getattr(swd_dynamics, room) for room in swd_dynamics.__all__}
    announcing = (room for room, module in found.items() if name in getattr(module, "__all__", ()))
    return next(announcing, getattr(found[name], "__module__", "").removeprefix("swd_dynamics."))


def quantities() -> str:
    """What a probe records, as a table: each quantity and the smallest set that has it."""
    lines = ["| quantity | | set |", "|---|---|---|"]
    for name, quantity in QUANTITIES.items():
        smallest = next(chosen for chosen, members in SETS.items() if name in members)
        lines.append(f"| `{name}` | {quantity.long_name} | {smallest} |")
    return "\n".join(lines)


def picture() -> str:
    """README's first picture with its caption, which is the paragraph after it."""
    start = README.index("[![")
    shown, caption = README[start:].split("\n\n")[:2]
    return f"{shown}\n\n{caption}".replace("](figures/", "](/figures/")


myst_substitutions = {"names": public_names(), "picture": picture(), "quantities": quantities()}


def setup(app):
    app.connect("doctree-read", with_dashes)
    app.connect("doctree-read", with_links)
    app.connect("doctree-read", without_folders)
    app.connect("missing-reference", documented)
    app.connect("autodoc-process-docstring", before_napoleon, priority=400)  # napoleon has 500
    app.connect("autodoc-process-docstring", after_napoleon, priority=600)
    app.connect("autodoc-skip-member", is_field_of_tuple)


def before_napoleon(app, what, name, found, options, lines):
    """Expand the compact sections of a docstring, and leave out that of a table if it is only that of its class."""
    own = "\n".join(lines).strip() != (inspect.getdoc(type(found)) or "").strip()
    lines[:] = expanded(lines) if own or what != "data" else []


def after_napoleon(app, what, name, found, options, lines):
    """Read a property or a table as a class, since napoleon takes the words before its first colon for a type.

    The bars of |x| become bars without a meaning to Sphinx, and the hyphens after the name of an attribute a dash.
    """
    if what in ("property", "data") and any(lines):
        written = expanded(inspect.getdoc(found).split("\n"))
        lines[:] = NumpyDocstring(written, app.config, app, "class", name).lines()
    text = re.sub(r"\|([^|\s][^|\n]*)\|", r"∣\1∣", "\n".join(lines))
    lines[:] = re.sub(r"(\*\*[^*\n]+\*\*.*?) -- ", r"\1 – ", text).split("\n")


def expanded(lines: list[str]) -> list[str]:
    """The lines of a docstring as napoleon expects them.

    An entry ``name : type — text`` becomes two lines, in which stars are stars, unless they enclose one word. Text that
    is not indented ends a section of entries.
    """
    section, written = "", []
    for line, following in pairwise([*lines, ""]):
        if UNDERLINE.fullmatch(following):
            section = line
        elif section in ENTRIES and written[-1] == "" and line[:1].strip():
            section = "Notes"
            written += [section, "-----"]
        if section in ENTRIES and " : " in line:
            end_of_first_line = " : " if section == "Entries" else " — "
            line = re.sub(r"(\*\w+\*)|\*", lambda star: star[1] or r"\*", line)  # noqa: PLW2901
            line = line.replace(end_of_first_line, "\n    ", 1)  # noqa: PLW2901
        written += line.split("\n")
    return written


def with_dashes(app, doctree):
    """Write a dash between the name and the meaning of an argument, where Sphinx writes two hyphens."""
    for text in list(doctree.findall(Text)):
        if text == " -- ":
            text.parent.replace(text, Text(" – "))


def with_links(app, doctree):
    """Link names like ``swd_dynamics.rules.UpdateRule``, which the pages have as plain code, to the reference."""
    for code in list(doctree.findall(literal)):
        name = code.astext()
        if re.fullmatch(r"swd_dynamics(\.\w+)+", name) and not isinstance(code.parent, pending_xref):
            where = {"refdoc": app.env.docname, "refdomain": "py", "reftype": "obj", "reftarget": name}
            code.replace_self(pending_xref("", code.deepcopy(), refexplicit=False, refwarn=False, **where))


def without_folders(app, doctree):
    """Turn a link to a folder of the repository, which GitHub shows and the site does not have, into its text."""
    for link in list(doctree.findall(pending_xref)):
        if link["reftarget"].endswith("/"):
            link.replace_self(link.children)


def documented(app, env, node, shown):
    """Link a name of the package, or of one of its files, to the folder under which it is documented."""
    target = node.get("reftarget", "")
    ending = "." + (target.rpartition(".")[2] if target.startswith("swd_dynamics.") else target)
    found = sorted((name for name in env.domains.python_domain.objects if name.endswith(ending)), key=len)
    if found and node.get("refdomain") == "py":
        python = env.domains.python_domain
        return python.resolve_xref(env, node["refdoc"], app.builder, "obj", found[0], node, shown)


def is_field_of_tuple(app, what, name, found, skip, options):
    """Omit the fields of named tuples, which the docstring of the class describes."""
    return True if type(found).__name__ == "_tuplegetter" else None

"""The documentation site: its pages print what they show, and its reference leaves out no public name."""

import inspect
import re
from importlib import import_module
from unicodedata import normalize

import pytest
import sympy
from matplotlib.testing.compare import compare_images
from site_pages import BLOCK, PAGES, PICTURE, PICTURES, SITE, executed

import swd_dynamics
from swd_dynamics.rules import CATALOG
from swd_dynamics.symbolic import modified_equation, notation
from swd_dynamics.symbolic.names import symbol_text

REFERENCE = "\n".join(page.read_text(encoding="utf-8") for page in sorted((SITE / "reference").glob("*.md")))
DOCUMENTED = [import_module(name) for name in re.findall(r"automodule:: (\S+)\n", REFERENCE)]
SYMBOLS = (SITE / "symbols.md").read_text(encoding="utf-8")
NAMES = [name for names in notation.HYPERPARAMETERS.values() for name in ([names] if isinstance(names, str) else names)]
HYPERPARAMETERS = [symbol_text(name) for name in dict.fromkeys(NAMES)]
EXPANDED = modified_equation(CATALOG["SGDS"](lr=0.1, momentum=0.9, weight_decay=0.1))
ORDERS = [sympy.pretty(step.equation.lhs) for step in EXPANDED.steps]  # "F₀", "m⁽¹⁾" and others
FLOW = ("μ",)  # what the legend of a phase plane shows
BYTES_OF_A_PICTURE = 10  # allowed root mean square of the difference, of 255: fonts are hinted in several ways
README = SITE.parents[1].joinpath("README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_print_and_draw_what_they_show(page, tmp_path):
    """Assert that the blocks of a page run in order in an empty folder, and print and draw what is shown beneath."""
    text = page.read_text(encoding="utf-8")
    assert executed(text, tmp_path) == text
    for drawn in tmp_path.iterdir():
        assert compare_images(str(PICTURES / drawn.name), str(drawn), tol=BYTES_OF_A_PICTURE) is None


def test_every_picture_of_a_page_is_drawn_by_it():
    """Assert that figures/site/ holds the pictures that the pages draw, and no other file."""
    shown = [name for page in PAGES for name in PICTURE.findall(page.read_text(encoding="utf-8"))]
    assert sorted(path.name for path in PICTURES.iterdir()) == sorted(shown)
    assert shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_are_short(page):
    """Assert that a page has code and, without it, at most 300 words, which is one screen."""
    text = page.read_text(encoding="utf-8")
    assert BLOCK.search(text)
    assert len(BLOCK.sub("", text).split()) <= 300


def test_a_wrong_output_is_seen():
    """Assert that an output that the code does not print is replaced, and that a name lives on in the next block."""
    page = "```python\nx = 2\n```\n\nprose\n\n```python\nprint(x)\n```\n\n```text\n3\n```\n"
    assert executed(page) == page.replace("3", "2")


def in_reference(name: str) -> bool:
    """Whether a name is documented: as a folder, as a table, or with the others of the module that announces it."""
    found = getattr(swd_dynamics, name)
    if inspect.ismodule(found):
        return found in DOCUMENTED
    if not callable(found):  # autodoc leaves a table without a docstring of its own out
        return re.search(rf"autodata:: swd_dynamics[.\w]*\.{name}\n", REFERENCE) is not None
    announced = any(name in getattr(module, "__all__", ()) for module in DOCUMENTED)
    return announced or import_module(found.__module__) in DOCUMENTED


@pytest.mark.parametrize("name", swd_dynamics.__all__)
def test_every_public_name_is_in_the_reference(name):
    """Assert that every name that the package announces is on a page of the reference."""
    assert in_reference(name)


def test_a_name_that_is_left_out_is_seen(monkeypatch):
    """Assert that a folder, a table and a function are missed when the page that has them is gone."""
    monkeypatch.setitem(globals(), "DOCUMENTED", [])
    monkeypatch.setitem(globals(), "REFERENCE", "")
    assert not any(map(in_reference, ("rules", "CATALOG", "fixed_point")))


@pytest.mark.parametrize("symbol", [*map(sympy.pretty, notation.SHOWN), *HYPERPARAMETERS, *ORDERS, *FLOW])
def test_every_symbol_is_explained(symbol):
    """Assert that the tables of symbols have every symbol of a derivation or a phase plane, spelt as in a terminal."""
    explained = re.findall(r"^\| ([^|]+) \|", SYMBOLS, flags=re.MULTILINE)
    assert normalize("NFC", symbol).removesuffix("′") in {
        normalize("NFC", each) for row in explained for each in row.split(", ")
    }


def test_names_in_code_can_be_typed():
    """Assert that what the tables of symbols show as code has only characters of a keyboard."""
    names = re.findall("`([^`]+)`", SYMBOLS)
    assert "theta_star" in names
    assert [name for name in names if not name.isascii()] == []


LINKED = sorted(set(re.findall(r"\]\(notebooks/site/(\w+\.md)\)", README)))


@pytest.mark.parametrize("name", LINKED)
def test_pages_that_readme_links_are_plain_markdown(name):
    """Assert that a page that README links has no role, no directive, no empty link and no link to a generated page."""
    text = BLOCK.sub("", (SITE / name).read_text(encoding="utf-8"))
    assert (
        re.findall(r"\{[\w:]+\}`.*?`|^:::.*|^```\{.*|\[\]\(.*?\)|\]\(reference/.*?\)", text, flags=re.MULTILINE) == []
    )


def test_sphinx_numbers_the_notebooks_as_their_files():
    """Assert that the notebooks have the numbers 1, 2, 3, …, because the site counts the files."""
    numbers = [int(path.name[:2]) for path in sorted(SITE.parent.glob("[0-9]*.ipynb"))]
    assert numbers == list(range(1, len(numbers) + 1))

"""The display of each kind of object in a notebook, through a real IPython shell."""

import os

import numpy as np
import pytest
from aggregated_momentum import AggregatedMomentum
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.figure import Figure

import swd_dynamics as sd
from swd_dynamics.errors import InputError
from swd_dynamics.jupyter import show_in, side_by_side
from swd_dynamics.rules import SGD, Cosine, Stable, UpdateRule


@pytest.fixture
def shell():
    made = InteractiveShell()
    show_in(made)
    return made


def shown(shell, thing) -> dict:
    return shell.display_formatter.format(thing)[0]


def verdict():
    return sd.judge("n", "A <claim>", predicted=0.0, measured=2.0, allowed=1.0, why="a reason")


def test_a_rule_is_its_equations(shell):
    """Assert that a rule shows its step in the paper's symbols, and the values of the symbols."""
    said = shown(shell, sd.CATALOG["SGDS"](lr=1e-8, momentum=0.9, weight_decay=0.05))["text/markdown"]
    for part in (r"m' &= \beta m + G", r"R &= \frac{\eta \lambda}{1 - \beta}", r"$\eta = 10^{-8}$", r"$\beta = 0.9$"):
        assert part in said


@pytest.mark.parametrize("direction", [AggregatedMomentum(0.5, 0.9), SGD()])
def test_any_direction_is(shell, direction):
    """Assert that a user's own direction is shown as equations too, with a number or a schedule for lr."""
    for lr in (0.1, lambda k: 0.1 / (k + 1)):
        assert r"\theta' &=" in shown(shell, UpdateRule(lr, direction, Stable(0.2)))["text/markdown"]


@pytest.mark.parametrize(("values", "said"), [([0.1, 0.3], r"0.1 \ldots 0.3"), ([], r"\text{no values}")])
def test_numbers_of_every_weight(shell, values, said):
    """Assert that an array of numbers is shown as its extremes, and an empty array as having no values."""
    assert said in shown(shell, UpdateRule(0.1, SGD(), Stable(np.array(values))))["text/markdown"]


def test_a_rule_that_is_no_formula_is_shown_as_text(shell):
    """Assert that a rule without a formula is shown as text, and that nothing is raised."""

    class Odd(SGD):
        def move(self, memory, step):
            return step.gradient if step.gradient > 0 else 2 * step.gradient

    assert set(shown(shell, UpdateRule(0.1, Odd()))) == {"text/plain"}


def test_a_figure_is_a_picture(shell):
    """Assert that a figure is shown as a picture without pyplot."""
    assert shown(shell, Figure(figsize=(1, 1)))["image/png"].startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("thing", "kind", "said"),
    [
        (verdict(), "text/html", "✗ refuted"),
        (sd.Ledger([verdict()]), "text/html", "A &lt;claim&gt;"),
        (sd.stability_limit(sd.CATALOG["SGD"]()), "text/markdown", "$$"),
        (sd.equations(sd.CATALOG["SGD"]()).steps[0], "text/markdown", "$$"),
        (sd.studies.load("stability"), "text/html", "Source: the Jury conditions"),
        (sd.studies.Outcome(sd.studies.load("stability"), sd.Ledger(), Figure()), "text/html", "<img "),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else None,
)
def test_results_show_themselves(shell, thing, kind, said):
    """Assert that results have a rich form, and for a terminal a plain form that is not the repr of a dataclass."""
    forms = shown(shell, thing)
    assert said in forms[kind]
    assert f"{type(thing).__name__}(" not in forms["text/plain"]


def test_an_input_error_reads_as_a_sentence(shell, capsys):
    """Assert that a wrong value in a cell shows the user's own line and the sentence, and no traceback."""
    shell.run_cell("import swd_dynamics as sd\nsd.CATALOG['SGD'](momentum=1.5)")
    printed = capsys.readouterr().out
    assert "InputError: momentum = 1.5 is not allowed: it must lie in [0, 1)" in printed
    assert "line 2: sd.CATALOG['SGD'](momentum=1.5)" in printed
    assert "Traceback" not in printed and "hyperparameter.py" not in printed


def test_the_users_own_failing_line_is_shown(shell, capsys):
    """Assert that where an error in the user's code becomes a sentence, the line that failed is shown too."""
    shell.run_cell(
        "import torch\nimport swd_dynamics as sd\ndef make(parameters):\n    return torch.optim.SGD(nothing)"
    )
    shell.run_cell("sd.verify(make, sd.CATALOG['SGD']())")
    printed = capsys.readouterr().out
    assert "line 1: sd.verify(make, sd.CATALOG['SGD']())" in printed
    assert "line 4: return torch.optim.SGD(nothing)" in printed


def test_a_line_in_a_file_says_which(shell, capsys, tmp_path):
    """Assert that a user's own file is named, also if its folder's name begins with the package's name."""
    own = tmp_path / "swd_dynamics_experiments" / "mine.py"
    own.parent.mkdir()
    own.write_text("import swd_dynamics as sd\n\n\ndef rule():\n    return sd.CATALOG['SGD'](lr=-1.0)\n")
    shell.run_cell(f"import sys\nsys.path.insert(0, {str(own.parent)!r})\nimport mine\nmine.rule()")
    assert "mine.py, line 5: return sd.CATALOG['SGD'](lr=-1.0)" in capsys.readouterr().out


def test_a_broken_rule_is_shown_as_text(shell, capsys):
    """Assert that a rule with a mistake in its direction is shown as text, without a traceback."""

    class Broken(SGD):
        def move(self, memory, step):
            return nothing  # noqa: F821  # pyright: ignore

    assert set(shown(shell, UpdateRule(0.1, Broken()))) == {"text/plain"}
    assert "NameError" not in capsys.readouterr().err


def test_another_format_for_figures_is_left_alone(shell):
    """Assert that a user who has chosen SVG for figures gets no PNG in addition."""
    shell.display_formatter.formatters["image/svg+xml"].for_type(Figure, lambda figure: "<svg/>")
    assert set(shown(shell, Figure())) == {"image/svg+xml", "text/plain"}


@pytest.mark.slow
def test_it_is_told_to_a_shell_that_runs():
    """Assert that importing the package in a shell registers the displays, and imports nothing heavy."""
    from subprocess import run
    from sys import executable

    code = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
import swd_dynamics as sd, sys
print(*{"torch", "sympy", "matplotlib"} & {*sys.modules})
print(*shell.display_formatter.format(sd.CATALOG["SGD"]())[0])
"""
    heavy, forms = run([executable, "-c", code], check=True, capture_output=True, text=True).stdout.splitlines()
    assert not heavy and "text/markdown" in forms
    assert InputError.__doc__


def coloured(row: str) -> list[str | None]:
    """The decay mode in whose colour each cell of a row is, without the row's name."""
    modes = sd.plots.COLOURS.items()
    return [next((mode for mode, colour in modes if colour in cell), None) for cell in row.split("|")[2:-1]]


def test_rules_side_by_side():
    """Assert that the table has the lines that differ, and a formula that no other rule has in its decay's colour."""
    names = {"L2": "Adam", "decoupled": "AdamW", "stable": "AdamS"}
    said = side_by_side(**{mode: sd.CATALOG[name](lr=0.1, weight_decay=0.2) for mode, name in names.items()}).data
    head, _, gradient, rate, *below = said.splitlines()
    assert [cell.strip() for cell in head.split("|")[2:-1]] == ["**L2**", "**decoupled**", "**stable**"]
    assert coloured(gradient) == ["L2", None, None]
    assert coloured(rate) == ["L2", "decoupled", "stable"]
    assert not any(line.startswith("|") for line in below) and said.count("v'") == 2  # that of R, and its own line
    assert said.count(r"\lambda = 0.2") == 1


def test_rules_side_by_side_with_other_numbers():
    """Assert that each column has its numbers where the rules differ in them."""
    said = side_by_side(small=sd.CATALOG["SGD"](lr=0.1), large=sd.CATALOG["SGD"](lr=0.4)).data
    assert [cell.strip() for cell in said.splitlines()[2].split("|")[2:-1]] == [r"$\eta = 0.1$", r"$\eta = 0.4$"]


def test_rules_side_by_side_in_latex():
    """Assert that each row has a cell for each rule, shared formulas stand below, and the words are those of LaTeX."""
    rules = {"my_rule": sd.CATALOG["SGDW"](lr=0.1), "stable": sd.CATALOG["AdamS"](lr=Cosine(0.1, 10, lr_min=0.01))}
    said = side_by_side(**rules).latex()
    table, *below = said.split("\n\n")
    first, head, line, *rows, last = table.splitlines()
    assert [first, line, last] == [r"\begin{tabular}{lll}", r"\hline", r"\end{tabular}"]
    assert head == r" & my\_rule & stable \\"
    assert all(row.count("&") == 2 and row.endswith(r" \\") for row in rows)
    assert [row.split(" & ")[0] for row in rows] == [
        "$R$",
        r"$\theta'$",
        "$m'$",
        "$v'$",
        r"$\hat{m}$",
        r"$\hat{v}$",
        "",
    ]
    assert below == ["The same in each: $G = g$"]
    assert r"lr\_min=0.01" in rows[-1] and said.isascii() and said.count("$") % 2 == 0


@pytest.mark.slow
def test_latex_where_the_terminal_has_no_greek_letters():
    """Assert that LaTeX and the names of symbols do not depend on the letters that standard output has."""
    from subprocess import run
    from sys import executable

    code = """
import swd_dynamics as sd
from swd_dynamics.symbolic.names import symbol_text
print(sd.side_by_side(one=sd.CATALOG["SGD"](lr=0.5)).latex().splitlines()[-1], symbol_text("beta_1") == "\u03b2\u2081")
"""
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    said = run([executable, "-c", code], check=True, capture_output=True, text=True, env=environment).stdout
    assert said.strip() == r"$\eta = 0.5$ True"


def test_no_rules_side_by_side():
    """Assert that a table of no rules is refused, and one of rules without names."""
    with pytest.raises(InputError):
        side_by_side()
    with pytest.raises(InputError, match="by name"):
        side_by_side(sd.CATALOG["SGD"](lr=0.1))


@pytest.mark.slow
def test_rules_side_by_side_without_ipython():
    """Assert that a terminal shows lines of text, where IPython cannot be imported: R = ηλ and R = ηλ/√⟨v̂⟩."""
    from subprocess import run
    from sys import executable

    code = """
import sys
sys.modules["IPython"] = None
import swd_dynamics as sd
print(sd.side_by_side(**{name: sd.CATALOG[name](lr=0.1, weight_decay=0.2) for name in ("AdamW", "AdamS")}))
"""
    lines = run([executable, "-c", code], check=True, capture_output=True, text=True).stdout.splitlines()
    assert lines[:3] == ["R", "    AdamW  ηλ", "    AdamS  ηλ/√⟨v̂⟩"]
    assert lines.count("    G = g") == 1 and "λ = 0.2" in lines[-1]


def test_rules_side_by_side_in_text_with_other_numbers():
    """Assert that the text gives each rule's numbers where they differ, and a rule's name at each."""
    rules = {"small": sd.CATALOG["SGD"](lr=0.1), "large": sd.CATALOG["SGD"](lr=lambda k: 0.4)}
    assert repr(side_by_side(**rules)).splitlines()[:3] == [
        "numbers",
        "    small  η = 0.1",
        "    large  η = a schedule",
    ]

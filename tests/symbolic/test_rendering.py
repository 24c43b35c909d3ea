"""Derivations as people read them: LaTeX, Markdown in Jupyter, text in a terminal."""

import numpy as np
import pytest
import sympy
from aggregated_momentum import AggregatedMomentum
from symbolic.algebra import eta, g, theta
from symbolic.catalogue import DERIVATIONS, OLD, REPRESENTATIVES, family_of, has, share_derivations

from swd_dynamics.rules import CATALOG, Stable, UpdateRule
from swd_dynamics.symbolic import (
    edge,
    eigenvalues,
    equations,
    equilibrium,
    lettered,
    long_run_decay_rate,
    modified_equation,
    noise_floor,
    notation,
    stationary_covariance,
    stochastic_equation,
)
from swd_dynamics.symbolic.names import symbol_latex

pytestmark = [pytest.mark.slow, share_derivations]  # renders every derivation

RULES = {name: CATALOG[name](lr=0.1, weight_decay=0.05) for name in REPRESENTATIVES}
RULES |= {
    f"{name}, momentum": CATALOG[name](lr=0.1, weight_decay=0.05, momentum=0.9) for name in ("SGD", "SGDW", "SGDS")
}
RULES |= {"SGDS, Nesterov": CATALOG["SGDS"](lr=0.1, weight_decay=0.05, momentum=0.9, nesterov=True)}
RULES |= {"aggregated": UpdateRule(0.1, AggregatedMomentum(0.5, 0.9), Stable(0.05))}
LONG = (*OLD, "RAdam", "AdaBelief")  # families with long formulas
WIDE = {name: rule for name, rule in RULES.items() if name not in CATALOG or family_of(name) in LONG}


# Besides DERIVATIONS, which the next test renders for every rule.
IN_ASCII = (edge, stationary_covariance, noise_floor, stochastic_equation, equilibrium)


@pytest.mark.parametrize("derive", IN_ASCII)
@pytest.mark.parametrize("name", ["SGD", "SGDW", "AdamS"])
def test_other_derivations_are_ascii_too(name, derive):
    """Assert that the LaTeX of a derivation that is not of every rule is ASCII: results, steps and symbols."""
    found = derive(CATALOG[name](lr=0.1, weight_decay=0.05))
    assert found.latex().isascii() and found.latex(steps=True).isascii()
    assert all(symbol_latex(row.symbol).isascii() for row in found.symbols)


def cases(rules):
    """The names of rules and the derivations that these have."""
    return [
        pytest.param(rule, derive, id=f"{name}-{derive.__name__}")
        for name, rule in rules.items()
        for derive in DERIVATIONS
        if has(name, derive)
    ]


@pytest.mark.parametrize(("rule", "derive"), cases(RULES))
def test_every_derivation_of_every_rule(rule, derive):
    """Assert that each derivation is found for each rule, with steps to read, and prints as LaTeX, Markdown, text."""
    found = derive(rule)
    letters = set().union(*(sympy.Tuple(result).free_symbols for result in found.results.values()))
    assert not letters & set(found.values), "a symbol whose number is known is left in the result"
    latex, markdown, text = found.latex(), found._repr_markdown_(), " ".join(str(found).split())
    assert latex in markdown
    assert found.title in markdown and text.startswith(found.title)
    assert len(found.steps) >= 3
    document = found.latex(steps=True)
    assert document.isascii() and latex in document and document.replace(r"\$", "").count("$") % 2 == 0
    in_latex = [step.latex() for step in found.steps]
    assert all(rf"\[ {equation} \]" in document for equation in in_latex)
    assert document.count(r"\item") == len(found.steps) + len(found.assumptions)
    for number, (step, equation) in enumerate(zip(found.steps, in_latex, strict=True), 1):
        assert f"{number}. {step.done}" in markdown and f"{number}. {step.done}" in text
        assert f"$$ {equation} $$" in markdown
    assert all(assumption in markdown and assumption in text for assumption in found.assumptions)
    assert not {"_1_1", "root_", "mask", "square"} & set(text.split()), (
        "a symbol of the derivation's own is in the text"
    )


@pytest.mark.parametrize(("rule", "derive"), cases(WIDE))
def test_no_line_is_wider_than_the_terminal(rule, derive, monkeypatch):
    """Assert that steps, result and assumptions fit the terminal, with numbers and in symbols."""
    numbers, symbols = derive(rule), derive(lettered(rule)[0])
    # Where both have the same steps, as nearly all do, the steps are printed once.
    whole = [symbols] if numbers.steps == symbols.steps else [symbols, numbers]
    for columns in (60, 100):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = "\n".join([*map(str, whole), repr(symbols), repr(numbers)]).splitlines()
        assert max(len(line.replace("\u0307", "").replace("\u0302", "")) for line in lines) <= columns
        steps = (step.text() for each in whole for step in each.steps)
        assert columns < 100 or all(len(text.splitlines()) <= 6 for text in steps)


def test_roots_of_a_cubic_are_named_by_their_polynomial():
    """Assert that three eigenvalues are not printed in radicals, and that each of them is a root of the last step."""
    found = eigenvalues(RULES["aggregated"])
    assert len(found.text().splitlines()) <= 2
    numbers = {symbol: sympy.Rational(str(value)) for symbol, value in found.values.items()} | {notation.curvature: 2}
    polynomial = sympy.Poly(found.steps[-1].equation.args[0].xreplace(numbers), notation.z)
    roots = [complex(root.xreplace(numbers)) for root in found.results["z"]]
    expected = np.roots([complex(coefficient) for coefficient in polynomial.all_coeffs()])
    assert np.allclose(np.sort_complex(roots), np.sort_complex(expected))


def test_latex_of_a_step():
    """Assert that LaTeX has the paper's symbols, primes and means."""
    derivation = equations(CATALOG["AdamS"](lr=eta, betas=(0.9, 0.99), eps=0.0))
    lines = " ".join(step.latex() for step in derivation.steps)
    for part in (r"\theta'", r"m'", r"v'", r"\beta_{1}^{k}", r"\left\langle", r"\eta", r"\hat{m}", r"\hat{v}"):
        assert part in lines


def test_latex_of_a_result():
    """Assert that the flow of gradient descent prints as it is written on paper."""
    assert modified_equation(CATALOG["SGD"](lr=0.1)).latex() == (
        r"\begin{aligned} F_{0} &= - g \\ F_{1} &= \frac{\dot{g}}{2} \end{aligned}"
    )


def test_text_of_a_derivation():
    """Assert that a terminal shows gradient descent with decoupled decay, steps and result, line by line."""
    derivation = equations(CATALOG["SGDW"](lr=0.5, weight_decay=0.25))
    assert str(derivation).splitlines() == [
        "One step: SGD with decoupled decay",
        "==================================",
        "1. The gradient that the direction receives",
        "    G = g",
        "2. The fraction of the weights that the step subtracts",
        "    R = ηλ",
        "3. The step",
        "    θ′ = (1 − R)θ − ηG",
        "Result",
        "    θ′ = 7θ/8 − g/2",
    ]
    assert repr(derivation).splitlines() == [
        "One step: SGD with decoupled decay",
        "    θ′ = 7θ/8 − g/2",
        "3 steps: print this derivation, or see .steps and .symbols",
    ]
    assert repr(derivation.steps) == "\n".join(str(derivation).splitlines()[2:8])


def test_values_say_what_the_symbols_stood_for():
    """Assert that the steps stay in symbols, the result is in numbers, and ``values`` joins the two."""
    derivation = equations(CATALOG["SGDW"](lr=0.5, weight_decay=0.25))
    *_, step = derivation.steps
    assert step.equation.rhs.has(notation.lr)
    assert derivation.value == -g / 2 + theta * sympy.Rational(7, 8)
    assert sorted(derivation.values.values()) == [0.25, 0.5]


def test_rules_are_found_again():
    """Assert that a derivation is kept: numbers that differ share the work of one derivation in symbols."""
    first, second = (modified_equation(CATALOG["AdamS"](lr=lr)) for lr in (0.1, 0.2))
    assert first.steps is second.steps


def test_a_number_with_a_root_is_given_as_a_decimal_too():
    """Assert that R = 1 − z is printed as a decimal too, for the larger root of z² − (1+β−ηλ)z + β; a complex z too."""
    rule = CATALOG["SGD"](lr=0.01, momentum=0.9, weight_decay=0.1)
    found, b = long_run_decay_rate(rule), (1 + 0.9 - 0.001) / 2
    printed = f"{1 - b - (b**2 - 0.9) ** 0.5:.6g}"
    assert found.text().endswith(f" ≈ {printed}") and found.latex().endswith(rf" \approx {printed}")
    b -= 0.01  # at h = 2, half of ηh = 0.02 is subtracted
    above, below = eigenvalues(rule)(h=2).text().splitlines()
    imaginary = f"{(0.9 - b**2) ** 0.5:.6g}"
    assert above.endswith(f" ≈ {b:.6g} + {imaginary}·i") and below.endswith(f" ≈ {b:.6g} − {imaginary}·i")
    assert "≈" not in long_run_decay_rate(CATALOG["SGDS"](lr=0.01, momentum=0.9, weight_decay=0.1)).text()

"""The printer of formulas: its order, its numbers, and that what it prints is what was derived."""

import math
import random

import numpy as np
import pytest
import sympy
from symbolic.algebra import beta, beta_1, epsilon, eta, g, gdot, h, lam, theta, theta_dot, theta_star
from symbolic.catalogue import pairs, rule_of, share_derivations
from symbolic.formula_reader import FormulaReader

import swd_dynamics as sd
from swd_dynamics.errors import InputError
from swd_dynamics.rules import CATALOG
from swd_dynamics.symbolic import lettered, notation, numeric_equation, numeric_linear_map
from swd_dynamics.symbolic.arrange import arranged
from swd_dynamics.symbolic.lines import equation_lines, formula_lines
from swd_dynamics.symbolic.names import symbol_text
from swd_dynamics.symbolic.notation import PerWeight, clip, decayed, maximum, mean
from swd_dynamics.symbolic.printer import latex, text

pytestmark = share_derivations

v = PerWeight("v", positive=True)
z, R, k, G = notation.z, notation.decay_rate, notation.k, notation.total
rate = sympy.Symbol("rate", positive=True)

BY_HAND = {  # how each formula is written on paper
    "1 − β": 1 - beta,
    "−(1 − β)g": (beta - 1) * g,
    "(1 − R)θ − ηG": -eta * G + theta * (1 - R),
    "g + λθ": lam * theta + g,
    "βηλ": lam * eta * beta,
    "√v + ε": epsilon + sympy.sqrt(v),
    "|g| + ε": epsilon + sympy.Abs(g),
    "ηλ/√⟨v⟩": eta * lam / sympy.sqrt(mean(v)),
    "(1 + β)ġ/(2(1 − β)²)": gdot * (beta + 1) / (2 * (beta - 1) ** 2),
    "θ̇ − θ⋆": theta_dot - theta_star,
    "1 − β + 2β²": 2 * beta**2 - beta + 1,
    "(1 + β)/2": beta / 2 + sympy.Rational(1, 2),
    "2·rate·θ": 2 * rate * theta,
    "1 − β₁ᵏ": 1 - decayed(beta_1, k),
    "⟨g²⟩^(3/2)": mean(g**2) ** sympy.Rational(3, 2),
    "max(v, g²)": maximum(v, g**2),
    "(g if g < θ, else 1)": sympy.Piecewise((g, g < theta), (1, True)),
    "2(√g if g < θ, else 1)": 2 * sympy.sqrt(sympy.Piecewise((g, g < theta), (1, True))),
    "−0.5": -sympy.Rational(1, 2),
    "34.5": sympy.Rational(69, 2),
    "34.125": sympy.Rational(273, 8),
    "h + 0.5": h + sympy.Rational(1, 2),
    "h + 1": 1 + h,
    "0.5 + β": beta + sympy.Rational(1, 2),
    "1.8 − 0.1h": sympy.Rational(9, 5) - h / 10,
    "√v + 1": 1 + sympy.sqrt(v),
    "5h/12": 5 * h / 12,
    "0.333333h + 34.125": h / 3 + sympy.Rational(273, 8),
    "⟨g²⟩^(3/2) + 0.1": mean(g**2) ** sympy.Rational(3, 2) + sympy.Rational(1, 10),
    "273.5": sympy.Rational(547, 2),
    "0.995θ − 0.1g": sympy.Rational(199, 200) * theta - g / 10,
    "370.5√v + 3.705e-06": sympy.Rational(741, 2) * sympy.sqrt(v) + sympy.Rational(741, 2 * 10**8),
    "∞": sympy.oo,
}


@pytest.mark.parametrize("said", BY_HAND)
def test_a_formula_is_as_on_paper(said):
    """Assert that a formula is printed as it is written by hand, in whatever order it was made."""
    assert text(BY_HAND[said]) == said


@pytest.mark.parametrize(
    ("said", "expression"),
    [
        ("z² − (1 + β − ηh)z + β", (beta - 1) * (z**2 - (1 + beta - eta * h) * z + beta)),
        ("h(1 − β)", h - beta * h),
        ("1 − ηλ/√⟨v⟩", (sympy.sqrt(mean(v)) - eta * lam) / sympy.sqrt(mean(v))),
    ],
)
def test_the_shortest_form_is_taken(said, expression):
    """Assert that a polynomial in z is monic, and that of several forms the one that is read fastest is printed."""
    matrix = sympy.ImmutableMatrix([[expression]])
    assert text(arranged(expression) if expression.has(z) else arranged(matrix)[0]) == said


@pytest.mark.parametrize(
    ("said", "expression"),
    [
        (r"\left(1 - R\right) \theta - \eta G", -eta * G + theta * (1 - R)),
        (r"\frac{h \theta^{\star}}{h + \lambda}", theta_star * h / (lam + h)),
        (r"\frac{\left(1 + \beta\right) \dot{g}}{\left(1 - \beta\right)^{2}}", gdot * (beta + 1) / (1 - beta) ** 2),
        (r"\frac{1}{\sqrt{\left\langle v \right\rangle}}", 1 / sympy.sqrt(mean(v))),
        (r"\sqrt{v} + 10^{-8}", sympy.sqrt(v) + sympy.Rational(1, 10**8)),
    ],
)  # fmt: skip
def test_latex_has_the_same_order(said, expression):
    """Assert that LaTeX has the order of the text, with the star of θ⋆, and numbers as the user gave them."""
    assert latex(expression) == said


RESULTS = {
    "SGDS": (
        "F₀ = −g/(1 − β) − λθ/(1 − β)\nF₁ = (1 + β)ġ/(2(1 − β)²) + λθ̇/(2(1 − β))",
        "θ = hθ⋆/(h + λ)",
        "h_max = (1 + β)(2 − 2β − ηλ)/(η(1 − β))",
        "z = b ± √(b² − c)\nb = (1 + β − ηh − ηλ/(1 − β))/2\nc = β − βηλ/(1 − β)",
    ),
    "AdamW": (
        "F₀ = −g/(|g| + ε) − λθ\nF₁ = (ε(1 + β₁)(1 − β₂) + 2(β₁ − β₂)|g|)ġ/(2(1 − β₁)(1 − β₂)(|g| + ε)²) + λθ̇/2",
        "θ = hθ⋆/(h + λ(√v + ε))",
        "h_max = (1 + β₁)(2 − ηλ)(√v + ε)/(η(1 − β₁))",
        "z = b ± √(b² − c)\nb = (1 + β₁ − ηλ − ηh(1 − β₁)/(√v + ε))/2\nc = β₁(1 − ηλ)",
    ),
}


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.slow
def test_results_as_on_paper(name):
    """Assert that the results for two rules are printed as they are written by hand."""
    momentum = {"momentum": 0.9} if name == "SGDS" else {}
    rule = lettered(CATALOG[name](weight_decay=0.1, **momentum))[0]
    derivations = sd.modified_equation, sd.fixed_point, sd.stability_limit, sd.eigenvalues
    assert tuple(derive(rule).text(width=100) for derive in derivations) == RESULTS[name]


def test_bias_corrections_have_hats():
    """Assert that m̂ and v̂ are written where AdamS corrects a bias, and are defined before they are used."""
    steps = sd.equations(CATALOG["AdamS"](weight_decay=0.1)).steps
    assert [step.text() for step in steps] == [
        "G = g",
        "m′ = β₁m + (1 − β₁)G",
        "v′ = β₂v + (1 − β₂)G²",
        "m̂ = m′/(1 − β₁ᵏ)",
        "v̂ = v′/(1 − β₂ᵏ)",
        "R = ηλ/√⟨v̂⟩",
        "θ′ = (1 − R)θ − ηm̂/(√v̂ + ε)",
    ]


def test_the_numbers_of_one_result_have_one_form():
    """Assert that b = (1 + β − ηh − ηλ/(1−β))/2 and c = β − βηλ/(1−β) are decimals both, at .1, .9 and .05."""
    found = sd.eigenvalues(CATALOG["SGDS"](lr=0.1, momentum=0.9, weight_decay=0.05))
    assert found.text() == "z = b ± √(b² − c)\nb = 0.925 − 0.05h\nc = 0.855"
    assert "b &= 0.925 - 0.05 h" in found.latex() and "c &= 0.855" in found.latex()


@pytest.mark.parametrize("momentum", [0.5, 0.9])  # the root is real, and complex
def test_a_root_of_numbers_has_its_value(momentum):
    """Assert that R of L2 with momentum has its value: 1 − z for the larger root of z² − (1 + β − ηλ)z + β."""
    rate, decay = 0.1, 0.05
    found = sd.long_run_decay_rate(CATALOG["SGD"](lr=rate, momentum=momentum, weight_decay=decay))
    slow = max(np.roots([1, -(1 + momentum - rate * decay), momentum]), key=abs)
    said = found.text().partition(" ≈ ")[2]
    read = complex(said.replace(" ", "").replace("·", "").replace("−", "-").replace("i", "j"))
    assert abs(read.real - (1 - slow).real) <= 5e-4 * abs(read)  # four digits are printed
    assert abs(abs(read.imag) - abs(slow.imag)) <= 5e-4 * abs(read)
    assert rf"\approx {said.split()[0]}" in found.latex()


def test_eigenvalues_in_numbers_have_values():
    """Assert that z² − z + ¼ + .15 = 0 has z = .5 ± .1·√15·i in numbers: SGDS at η = .1, β = .5, λ = 1 and h = 3."""
    found = sd.eigenvalues(CATALOG["SGDS"](lr=0.1, momentum=0.5, weight_decay=1.0))(h=3)
    assert [line.partition(" ≈ ")[2] for line in found.text().splitlines()] == ["0.5 + 0.387298·i", "0.5 − 0.387298·i"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "derive"), [pair for pair in pairs() if pair[1] is not sd.eigenvalues])
def test_what_is_printed_is_what_was_derived(name, derive):
    """Assert that the printed text of each result, and of each step, has the value of the expression at random numbers.

    The expressions are rounded in double precision only, and a text has integers only: 1e-9 leaves room for
    differences that cancel.
    """
    found = derive(lettered(rule_of(name))[0])
    results = sympy.flatten(found.results.values())
    steps = [side for step in found.steps if isinstance(step.equation, sympy.Eq) for side in step.equation.args]
    generator = random.Random(f"{name} {derive.__name__}")
    for expression in [*results, *(side for side in steps if isinstance(side, sympy.Expr) and not side.is_Matrix)]:
        numbers = {symbol: generator.uniform(0.1, 0.4) for symbol in sorted(expression.free_symbols, key=str)}
        named = {symbol_text(symbol): number for symbol, number in numbers.items()}
        expected = complex(_of_one_weight(expression).subs(numbers).evalf(30))
        if abs(expected.imag) < 1e-20 and not expression.has(z):  # p is printed up to a factor
            read = FormulaReader(text(arranged(expression)), named).value()
            assert math.isclose(read, expected.real, rel_tol=1e-9, abs_tol=1e-12), text(arranged(expression))


def _of_one_weight(expression):
    words = {
        mean: lambda x: x, decayed: lambda b, k: b**k, maximum: sympy.Max,
        clip: lambda x, low, high: sympy.Min(sympy.Max(x, low), high),
    }  # fmt: skip
    for word, law in words.items():
        expression = expression.replace(word, law)
    return expression


def test_lines_are_broken_at_signs():
    """Assert that a formula that is too wide is broken before its outermost signs, and reads the same."""
    said = "θ = g + λθ − (1 + β − ηh)h"
    lines = formula_lines("θ", g + lam * theta - (1 + beta - eta * h) * h, 16)
    assert len(lines) > 1 and max(map(len, lines)) <= 16
    assert " ".join(" ".join(lines).split()).count("−") == 2
    values = dict.fromkeys(("θ", "g", "λ", "β", "η", "h"), 0.25)
    joined = " ".join(" ".join(lines).split()).partition(" = ")[2]
    assert FormulaReader(joined, values).value() == FormulaReader(said.partition(" = ")[2], values).value()


def test_vectors_are_one_equation_for_each_entry():
    """Assert that the linear map of SGD with momentum is printed as two equations."""
    found = sd.linear_map(lettered(CATALOG["SGD"](momentum=0.9))[0])
    assert equation_lines(found.steps[-1].equation, 100) == ["θ′ = (1 − ηh)θ − βηm + ηhθ⋆", "m′ = βm + hθ − hθ⋆"]


def test_numbers_are_given_by_name():
    """Assert that numbers enter a result under the names of the table: hθ⋆/(h + λ) is ⅘ at h = 2, θ⋆ = 1, λ = ½."""
    found = sd.fixed_point(CATALOG["SGDS"](lr=0.1, momentum=0.75, weight_decay=0.5))
    assert found(h=2)(theta_star=1).value == found(h=2.0, theta_star=1).value == sympy.Rational(4, 5)
    assert float(found(h=np.float64(2), theta_star=sympy.Integer(1))) == 0.8
    assert {row.keyword for row in found.symbols} >= {"h", "theta_star"}
    symbols = sd.fixed_point(lettered(CATALOG["SGDS"](momentum=0.75, weight_decay=0.5))[0])
    assert symbols(weight_decay=0.5, h=2, theta_star=1).value == sympy.Rational(4, 5)
    assert symbols(**{"lambda": 0.5, "θ⋆": 1, "h": 2}).value == sympy.Rational(4, 5)


def test_numbers_enter_every_kind_of_result():
    """Assert that numbers enter two flows, a matrix and a tuple of eigenvalues of gradient descent at η = ½."""
    rule = CATALOG["SGDW"](lr=0.5, weight_decay=0.5)
    flow = sd.modified_equation(rule)(g=2, theta=4, theta_dot=1, g_dot=3)
    assert (flow.first, flow.second_in_rates) == (-4, sympy.Rational(7, 4))  # −g − λθ and (ġ + λθ̇)/2
    assert sd.linear_map(rule)(h=1).value[0] == sympy.Rational(1, 4)  # 1 − ηλ − ηh
    assert sd.eigenvalues(rule)(h=1).value == (sympy.Rational(1, 4),)


REFUSED = [{"H": 2}, {"lr": 0.2}, {"h": "2"}, {"h": [1, 2]}, {"h": math.nan}, {"h": True}]


@pytest.mark.parametrize("given", REFUSED, ids=str)
def test_other_names_and_values_are_refused(given):
    """Assert that a name that is no symbol of the result, or a value that is no number, is refused, by its name."""
    found = sd.fixed_point(CATALOG["SGDS"](lr=0.1, weight_decay=0.5))
    with pytest.raises(InputError, match=next(iter(given))):
        found(**given)


def test_numbers_without_a_name_are_refused():
    """Assert that numbers without a name are refused, and shown."""
    with pytest.raises(InputError, match="2, 1"):
        sd.fixed_point(CATALOG["SGDS"](lr=0.1, weight_decay=0.5))(2, 1)


def test_two_symbols_of_one_name_are_refused():
    """Assert that a user's h is not mistaken for the curvature."""
    with pytest.raises(InputError, match="two symbols"):
        sd.fixed_point(CATALOG["SGDW"](weight_decay=sympy.Symbol("h", positive=True)))(h=1)


@pytest.mark.slow
def test_the_table_of_symbols():
    """Assert that every symbol has one row with a meaning, that arrays explain s, and that numbers have their value."""
    rule = CATALOG["AdamS"](lr=np.array([0.1, 0.2]), weight_decay=0.5)
    table = sd.modified_equation(rule).symbols
    rows = {symbol_text(row.symbol): row for row in table}
    assert len(rows) == len(table)
    assert {"θ", "θ̇", "g", "ġ", "G", "R", "η", "s", "β₁", "β₂", "ε", "λ", "m", "v"} <= {*rows}
    assert "learning rate" in rows["s"].meaning and rows["λ"].value == 0.5
    assert all(row.meaning for row in table)
    assert len(repr(table).splitlines()) == len(table._repr_markdown_().splitlines()) - 1 == len(table) + 1


@pytest.mark.parametrize(("name", "bracket"), [("AdamS", ["⟨·⟩"]), ("AdamW", [])])
def test_the_symbols_of_adam(name, bracket):
    """Assert that m̂ and v̂ are told as corrected m and v, and that ⟨·⟩ of √⟨v̂⟩ has a row without a name for a call."""
    found = sd.equations(CATALOG[name](lr=0.1, weight_decay=0.5))
    meanings = {symbol_text(row.symbol): row.meaning for row in found.symbols}
    for entry in "mv":
        corrected = [step.done for step in found.steps if symbol_text(step.equation.lhs) == f"{entry}\u0302"]
        assert corrected == [meanings[f"{entry}\u0302"]] and corrected[0].startswith(f"{entry}, corrected")
    assert [symbol_text(row.symbol) for row in found.symbols if not row.keyword] == bracket
    assert ("⟨·⟩" in meanings) == (r"\langle \cdot \rangle" in found.symbols._repr_markdown_()) == bool(bracket)


def test_an_own_symbol_has_a_meaning():
    """Assert that a user's own hyperparameter is told from the theory's symbols."""
    found = sd.stability_limit(CATALOG["SGD"](lr=sympy.Symbol("rate", positive=True), momentum=sympy.Symbol("g")))
    meanings = {row.symbol: row.meaning for row in found.symbols}
    assert meanings[sympy.Symbol("rate", positive=True)] == meanings[sympy.Symbol("g")] != meanings[g]


def test_numeric_forms_have_short_reprs():
    """Assert that forms in numbers are shown in a line, not as dataclasses."""
    rule = CATALOG["SGD"](lr=0.1, momentum=0.9)
    for made in (numeric_equation(rule), numeric_linear_map(rule)):
        assert "\n" not in repr(made) and "<function" not in repr(made) and len(repr(made)) < 150


def test_a_users_greek_name_is_greek():
    """Assert that beta of the user's and β are the same symbol to a reader, and that the letters make room for it."""
    own = sympy.Symbol("beta", positive=True)
    assert text(own) == "β" and latex(own) == r"\beta"
    _, values = lettered(CATALOG["SGDW"](momentum=0.9, weight_decay=own))
    assert {symbol.name for symbol in values} == {"η", "β₂"}

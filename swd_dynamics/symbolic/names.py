"""The names of symbols and numbers in formulas, as text and as LaTeX."""

import re
from functools import lru_cache
from typing import Any
from unicodedata import normalize

import sympy
from sympy import Symbol
from sympy.core.alphabets import greeks

from swd_dynamics.symbolic.notation import before, in_unicode, shown_name

GREEK = {in_unicode(name): name for name in greeks}  # {"α": "alpha", …}
CAPITALS = {"Γ": "Gamma", "Δ": "Delta", "Σ": "Sigma"}
TEX = {"θ⋆": r"\theta^{\star}", "θ̇": r"\dot{\theta}", "ġ": r"\dot{g}", "Ġ": r"\dot{G}", "Ḟ₀": r"\dot{F}_0"}
TEX |= {"⟨·⟩": r"\langle \cdot \rangle", "‖·‖": r"\| \cdot \|"}
TEX |= {
    "h_max": r"h_{\max}",
    "R∞": r"R_{\infty}",
    "E[G]": r"\operatorname{E}[G]",
    "η_max": r"\eta_{\max}",
    "β₁_product": r"\Pi\beta_1",
    "Πβ₁": r"\Pi\beta_1",
    "Ṁ": r"\dot{M}",
}
TEX |= {"∇⟨H, Σ⟩": r"\nabla \langle H, \Sigma \rangle", "∇S": r"\nabla S", "var G": r"\operatorname{var} G"}
TEX |= {"‖∇S‖": r"\|\nabla S\|", "h_∇S": r"h_{\nabla S}", "L̄": r"\bar{L}"}
TEX |= {"dS/dk due to decay": r"\frac{dS}{dk}\text{ due to decay}"}
TEX |= {"δS": r"\delta S", "ζ_min": r"\zeta_{\min}"}
TEX |= {"‖θ‖": r"\|\theta\|", "‖Δθ‖/‖θ‖": r"\|\Delta\theta\|/\|\theta\|"}
TEX |= {"Var θ": r"\operatorname{Var}\theta", "ΔL": r"\Delta L", "angle": r"\text{angle}", "steps": r"\text{steps}"}
NAMES = {"β₁_product": "Πβ₁"}  # entries of a memory whose names in code are not symbols
HAT = "\u0302"


def symbol_text(symbol: Symbol | str) -> str:
    """The name of a symbol in a formula, with Unicode letters."""
    name = shown_name(symbol)
    stem, prime = name.removesuffix("′"), "′" if name.endswith("′") else ""
    return NAMES.get(stem, stem) + prime


@lru_cache(maxsize=1024)
def symbol_latex(symbol: Symbol | str) -> str:
    r"""The name of a symbol as LaTeX.

    Examples
    --------
    >>> [symbol_latex(name) for name in ("β₁", "m′", "v̂_max", "F₀", "m⁽¹⁾")]
    ['\\beta_{1}', "m'", '\\hat{v}_{max}', 'F_{0}', 'm^{(1)}']
    >>> [symbol_latex(name) for name in ("ηᵢ", "R/ηᵢ", "σ²", "dθ/dk")]
    ['\\eta_{i}', 'R/\\eta_{i}', '\\sigma^{2}', '\\frac{d\\theta}{dk}']
    """
    name = shown_name(symbol)
    if name.endswith("′"):
        return symbol_latex(name[:-1]) + "'"
    if name in TEX:
        return TEX[name]
    if rate := re.fullmatch("d(.+)/d([kt])", name):
        return rf"\frac{{d{symbol_latex(rate[1])}}}{{d{rate[2]}}}"
    if "/" in name:
        return "/".join(map(symbol_latex, name.split("/")))
    if name.endswith("²"):
        return f"{symbol_latex(name[:-1])}^{{2}}"
    name = normalize("NFD", name)  # Unicode has a letter ŝ of its own, and none for m̂
    if HAT in name:
        stem, bar, index = symbol_latex(name.replace(HAT, "")).partition("_")
        return rf"\hat{{{stem}}}{bar}{index}"
    if order := re.fullmatch("(.*)⁽(.)⁾", name):
        return f"{symbol_latex(order[1])}^{{({normalize('NFKC', order[2])})}}"
    letters = "".join({**GREEK, **CAPITALS}.get(letter, letter) for letter in name)
    plain = re.sub("[₀-₉ₖⱼᵢ₊]+", lambda digits: "_" + normalize("NFKC", digits[0]), letters)
    return sympy.latex(Symbol(plain))


def hatted(symbol: Symbol) -> Symbol:
    """The symbol of a bias-corrected entry of the memory: m̂ for m′."""
    stem, bar, rest = shown_name(before(symbol) or symbol).partition("_")
    return type(symbol)(stem + HAT + bar + rest, **symbol.assumptions0)


def corrected_text(hat: Symbol) -> str:
    """What a bias-corrected entry of the memory is, in words.

    Examples
    --------
    >>> corrected_text(hatted(Symbol("m")))
    'm, corrected for its bias towards the initial 0'
    """
    return f"{symbol_text(hat.name.replace(HAT, ''))}, corrected for its bias towards the initial 0"


def number_text(value: Any) -> str:
    """A number as text, to six digits: 0.1, 1e-08."""
    return f"{float(value):.6g}"


def number_latex(value: float) -> str:
    r"""A number to six digits, with a power of ten where it is very large or small.

    Examples
    --------
    >>> [number_latex(value) for value in (0.1, 1e-8, 3.7e-6)]
    ['0.1', '10^{-8}', '3.7 \\cdot 10^{-6}']
    """
    mantissa, _, exponent = f"{value:.6g}".partition("e")
    power = rf"10^{{{int(exponent)}}}" if exponent else ""
    return power if mantissa == "1" and power else r" \cdot ".join(filter(None, (mantissa, power)))


MATH = {"−": "-", "½": r"\tfrac{1}{2}", "²": "^2", "·": r"\cdot", "√": r"\surd", "±": r"\pm", "∞": r"\infty"}
MATH |= {"⟨": r"\langle", "⟩": r"\rangle", "→": r"\to", "′": "'", "ᵏ": "^k", "Π": r"\Pi", "×": r"\times"}
MATH |= {"…": r"\ldots", "‖": r"\|", "ᵀ": r"^\top", "∇": r"\nabla"}
SAID = re.compile(r"[^\W\d_][\u0300-\u036f]?⋆?[₀-₉ₖⱼᵢ₊]*(_max)?′?|[_%#&]|" + "|".join(MATH))


def words_latex(sentence: str) -> str:
    r"""A sentence with symbols in it as LaTeX in ASCII.

    Examples
    --------
    >>> print(words_latex("F₁ with θ̇ = F₀, at z = −1"))
    $F_{1}$ with $\dot{\theta}$ = $F_{0}$, at z = $-$1
    """

    def drawn(match: re.Match) -> str:
        said = match[0]
        if said in MATH:
            return f"${MATH[said]}$"
        if len(said) == 1 and said.isascii():
            return said if said.isalpha() else f"\\{said}"
        return f"${symbol_latex(said)}$"

    return SAID.sub(drawn, sentence)

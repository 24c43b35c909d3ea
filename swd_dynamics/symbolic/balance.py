"""Where noise and decay balance: ‖θ‖ from the variance of the weights as a function of the noise.

Of C weights with the variance Var θ each, ‖θ‖² is C·Var θ. In a layer whose loss does not depend on ‖θ‖ the noise of a
weight has the standard deviation σ = Γ/(√C·‖θ‖). So ‖θ‖² = C·Var θ(σ) is an equation for ‖θ‖.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np
import sympy
from sympy import Rational, Symbol

from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.derivation import DerivationStep, NotDerivable, stated
from swd_dynamics.symbolic.form import one_minus
from swd_dynamics.symbolic.notation import Letter, shown_name
from swd_dynamics.symbolic.tangent import same_at_samples

SIZE, GRADIENT, NORM, SIGMA = notation.layer_size, notation.layer_gradient, notation.layer_norm, notation.noise

# The norms among which a balance is looked for, as logarithms. The balance is then found to the last digit. Two
# balances within a factor of e^¼ = 1.28 would be missed; no rule is known that has two.
NORMS = np.arange(-30.0, 30.0, 0.25)
BISECTIONS = 60  # halvings of ¼ until 64-bit numbers have no more digits: with 40, six digits would be lost

EPS_IS_SMALL = "ε is 0 in the formulas: it is much smaller than what it is added to"
NO_BALANCE = (
    "noise and decay balance at no ‖θ‖ from e⁻³⁰ to e³⁰: without decay the weights grow without end, and where the"
    " decay is too strong every step overshoots"
)
NO_FORMULA = (
    "the equation ‖θ‖² = C·Var θ has no formula for ‖θ‖ here: give numbers to the rule, and shape=… and gradient=…"
)


class root(sympy.Function):
    """The n-th root of a positive expression, kept in one piece: sympy would take the root of each factor by itself."""

    nargs = 2

    @classmethod
    def eval(cls, x, n):
        return sympy.Pow(x, sympy.Rational(1, n)) if x.is_number else None

    def _eval_evalf(self, prec):
        inside, degree = cast(Any, self.args)
        return sympy.Pow(inside, sympy.Rational(1, degree))._eval_evalf(prec)

    def _latex(self, printer, exp=None):
        x, n = self.args
        index = "" if n == 2 else f"[{n}]"
        drawn = rf"\sqrt{index}{{{printer._print(x)}}}"
        return drawn if exp is None else rf"\left({drawn}\right)^{{{exp}}}"


class Motion(NamedTuple):
    """Var θ, 1 − ρ₁ with the correlation ρ₁ of successive weights, and the long-run decay rate R; each depends on σ."""

    variance: Any
    gap: Any
    rate: Any


@dataclass(frozen=True)
class Law:
    """How the weights of a rule move where there is no curvature, as a function of the noise σ.

    Attributes
    ----------
    exact : Motion or None — in formulas; None where they cannot be read
    leading : Motion or None — in formulas, to leading order in the decay
    numbers : callable σ → Motion of floats, or None where a step with this σ is unstable; None without all numbers
    steps : tuple of DerivationStep
    conditions : tuple of str
    """

    exact: Motion | None
    leading: Motion | None
    numbers: Callable[[float], Any] | None
    steps: tuple[DerivationStep, ...]
    conditions: tuple[str, ...]

    @property
    def needs_gradient(self) -> bool:
        """Whether Var θ depends on σ, and so ‖θ‖ on Γ."""
        one, two = map(self.numbers, (1.0, 2.0)) if self.numbers else (None, None)
        return one is None or two is None or one.variance != two.variance


class Balance(NamedTuple):
    """The balance as results by name, and the power of ‖θ‖ to which it is a law."""

    results: dict[str, Any]
    power: Any


def in_leading_order(expression: Any, small: Iterable[Symbol]) -> Any:
    """The term of lowest order of a fraction of polynomials, where the small symbols go to 0 together.

    Examples
    --------
    >>> x, y = sympy.symbols("x y")
    >>> in_leading_order((1 + x) / (x * (2 + x * y)), [x])
    1/(2*x)
    """
    scale = sympy.Dummy("scale")
    scaled = expression.xreplace({symbol: scale * symbol for symbol in small})
    parts = [sympy.Poly(part, scale) for part in sympy.fraction(sympy.together(scaled))]
    above, below = (min(part.terms(), key=lambda term: term[0])[1] for part in parts)
    return one_minus(sympy.factor(above / below))


def power_of(symbol: Symbol, expression: Any) -> Any:
    """The power p of an expression that is c·symbolᵖ, where c does not have the symbol; None for other expressions.

    Examples
    --------
    >>> x, y = sympy.symbols("x y", positive=True)
    >>> power_of(x, y / sympy.sqrt(x)), power_of(x, x + y)
    (-1/2, None)
    """
    slope = symbol * sympy.diff(expression, symbol) / expression
    sample = {each: Rational(2 + i, 3 + i) for i, each in enumerate(sorted(slope.free_symbols, key=str))}
    value = complex(sympy.N(slope.xreplace(sample)))
    power = Rational(round(2 * value.real), 2)
    rest = expression.xreplace({symbol: sympy.S.One}) * symbol**power
    return power if same_at_samples(expression / rest, sympy.S.One) else None


def in_formulas(motion: Motion) -> Balance | None:
    """The balance where Var θ, 1 − ρ₁ and R are powers of σ; None where they are not."""
    powers = [power_of(SIGMA, each) for each in motion]
    if None in powers or powers[0] <= -2:
        return None
    power = 2 + powers[0]
    at_one = [one_minus(sympy.factor(each.xreplace({SIGMA: sympy.S.One}))) for each in motion]
    alone = GRADIENT / sympy.sqrt(SIZE)  # σ·‖θ‖
    base = SIZE * at_one[0] * alone ** powers[0]  # ‖θ‖ to the power

    def put_in(number: Any, of: Any, degree: int) -> Any:
        """The root of this degree of number·σᵒᶠ, with σ in Γ and C."""
        if of == 0:
            return root(one_minus(sympy.factor(number)), degree) if degree > 1 else number
        whole = number**power * alone ** (of * power) * base**-of
        return root(one_minus(sympy.factor(whole)), degree * power)

    gap = put_in(at_one[1], powers[1], 1)
    results = {
        "‖θ‖": root(one_minus(sympy.factor(base)), power),
        "‖Δθ‖/‖θ‖": put_in(2 * at_one[1], powers[1], 2),
        "angle": sympy.acos(1 - gap),
        "steps": put_in(1 / (power * at_one[2]), -powers[2], 1),
    }
    return Balance(results, power)


def in_numbers(motion_at: Callable[[float], Any], size: int, gradient: float) -> Balance:
    """The balance of C weights with this Γ, where a function of σ gives their motion, or None if it is unstable.

    Raises
    ------
    NotDerivable
        If there is none.
    """

    def excess(log_norm: float) -> float:
        """ln ‖θ‖² − ln(C·Var θ) where ‖θ‖ has this logarithm: positive where the decay wins; NaN where unstable."""
        found = motion_at(gradient / np.sqrt(size) / np.exp(log_norm))
        if found is None or not found.variance > 0:
            return np.nan
        return 2 * log_norm - np.log(size * found.variance)

    values = ((log_norm, excess(log_norm)) for log_norm in map(float, NORMS))
    bracket = next(((low, high) for (low, less), (high, more) in pairwise(values) if less < 0 <= more), None)
    if bracket is None:
        raise NotDerivable(NO_BALANCE)
    low, high = bracket
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    found, step = motion_at(gradient / np.sqrt(size) / np.exp(high)), 1e-4
    power = (excess(high + step) - excess(high - step)) / (2 * step)
    results = {
        "‖θ‖": np.exp(high),
        "‖Δθ‖/‖θ‖": np.sqrt(2 * found.gap),
        "angle": np.arccos(1 - found.gap),
        "steps": 1 / (power * found.rate),
    }
    return Balance({name: sympy.Float(float(value), 15) for name, value in results.items()}, power)


def without_eps(motion: Motion) -> tuple[Motion, tuple[str, ...]]:
    """The motion with ε = 0, and what is assumed with that."""
    symbols = set().union(*(sympy.sympify(each).free_symbols for each in motion))
    if not (eps := {symbol: sympy.S.Zero for symbol in symbols if shown_name(symbol) == "ε"}):
        return motion, ()
    return Motion(*(sympy.sympify(each).xreplace(eps) for each in motion)), (EPS_IS_SMALL,)


def balance_steps(power: Any, results: dict[str, Any]) -> tuple[DerivationStep, ...]:
    """The equation of the balance and its solution, as steps."""
    variance = Letter("Var θ")
    return (
        stated("The noise of each of C weights, where ‖g‖ = Γ/‖θ‖", SIGMA, GRADIENT / (sympy.sqrt(SIZE) * NORM)),
        stated("The squares of C weights add up to", NORM**2, SIZE * variance),
        stated(f"With σ put in, this is an equation for ‖θ‖ to the power {power}", NORM, results["‖θ‖"]),
        stated(
            "The length of a step relative to ‖θ‖ is √(2(1 − ρ₁))",
            Letter("‖Δθ‖/‖θ‖"),
            results["‖Δθ‖/‖θ‖"],
        ),
        stated("The angle between successive weights is arccos ρ₁", Letter("angle"), results["angle"]),
        stated(
            f"A step takes the share {power}·R off a small departure of ‖θ‖: 1/({power}R) steps leave 1/e of it",
            Letter("steps"),
            results["steps"],
        ),
    )

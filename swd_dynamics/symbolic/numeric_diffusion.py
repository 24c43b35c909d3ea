"""The stochastic differential equation of a rule in numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy
from numpy.typing import ArrayLike, NDArray
from sympy import Symbol

from swd_dynamics.errors import InputError
from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.derivation import NotDerivable
from swd_dynamics.symbolic.diffusion import Diffusion, diffusion_of
from swd_dynamics.symbolic.letters import exact, lettered
from swd_dynamics.symbolic.linear import READABLE, LinearMap, find_linear_map
from swd_dynamics.symbolic.names import symbol_text
from swd_dynamics.symbolic.noise import positive, refuse_jumps, settled_by_noise
from swd_dynamics.symbolic.notation import PerWeight, cached, shown_name

Array = NDArray[np.float64]
SIGMA = PerWeight("σ", positive=True)  # the noise of each weight, where weights may differ: a mean over σ² is a mean
PARTS = ("pull", "decay", "turn", "lag", "stir", "stir_lag")


@dataclass(frozen=True, repr=False)
class NumericDiffusion:
    """The SDE of a rule in numbers: arrays of shape (n,), or of shape () where all weights have the same number.

    Attributes
    ----------
    lr : float — η of the time t = ηk
    pull, decay : F₀ = −pull·g − decay·θ, and B₀ = pull
    turn, lag : F₁ = turn·ġ + lag·θ̇, with θ̇ = F₀ and ġ = H·θ̇
    stir, stir_lag : B₁v = stir·H(B₀v) + stir_lag·B₀v
    matrix : array, shape (s, s, n or 1) — one step of (θ, memory) where no gradient acts
    response : array, shape (s, n or 1) — what a unit of gradient adds to (θ, memory)

    Examples
    --------
    Gradient descent has F₁ = ġ/2 and B₁ = H/2:

    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> sde = numeric_diffusion(UpdateRule(0.5, SGD()), noise=1.0)
    >>> [float(part) for part in (sde.pull, sde.decay, sde.turn, sde.lag, sde.stir, sde.stir_lag)]
    [1.0, 0.0, 0.5, 0.0, 0.5, 0.0]
    >>> sde.matrix[..., 0].tolist(), sde.response[..., 0].tolist()
    ([[1.0]], [-0.5])
    """

    lr: float
    pull: Array
    decay: Array
    turn: Array
    lag: Array
    stir: Array
    stir_lag: Array
    matrix: Array
    response: Array

    def __repr__(self) -> str:
        return f"The SDE of a rule in numbers, η = {self.lr:g}: {', '.join(PARTS)}, matrix and response"


def numeric_diffusion(
    rule: UpdateRule, noise: ArrayLike, frozen: Mapping[str, ArrayLike] | None = None
) -> NumericDiffusion:
    """The SDE of :func:`~swd_dynamics.symbolic.diffusion.stochastic_equation` in numbers.

    Parameters
    ----------
    rule : UpdateRule — with numbers or arrays for hyperparameters
    noise : number or array, shape (n,)
        The standard deviation σ of the noise in each gradient, which sets a frozen preconditioner: v = σ².
    frozen : mapping of str to number or array, optional
        Entries of the memory that the preconditioner is made of, where they have another value, as ``{"v": 2.0}``.

    Raises
    ------
    InputError
        If a hyperparameter is a symbol, the rule has a schedule, or ``frozen`` names an entry that is not frozen.
    NotDerivable
        If the rule has no SDE, or the value of a frozen entry in noise has no formula, as that of a maximum.

    Examples
    --------
    Adam divides by √v = σ, or by the root of the v that is given:

    >>> from swd_dynamics.rules import CATALOG
    >>> adam = CATALOG["Adam"](lr=0.1, eps=0.0)
    >>> [float(numeric_diffusion(adam, 0.5, frozen).pull) for frozen in (None, {"v": 0.0625})]
    [2.0, 4.0]
    """
    if rule.has_schedule:
        raise InputError("a rule with a schedule has another SDE in each step: give a number for lr")
    letters, values = lettered(rule)
    refuse_jumps(letters)
    found = find_linear_map(letters)
    parts = _small(letters) if len(found.state) <= READABLE else diffusion_of(letters, found, exact(values))
    formulas = [*(getattr(parts, name) for name in PARTS), *found.at_zero_curvature(), *found.response]
    given = {shown_name(name): np.asarray(value, dtype=float) for name, value in (frozen or {}).items()}
    roots, entries = _roots(letters, found, formulas, given)
    formulas = [sympy.sympify(formula).xreplace(roots) for formula in formulas]
    known = {**values, **entries, SIGMA: np.asarray(noise, dtype=float)}
    if unknown := set().union(*(formula.free_symbols for formula in formulas)) - {*known}:
        raise InputError(f"{', '.join(map(str, unknown))} is a symbol: an SDE needs numbers for all hyperparameters")
    numbers = _evaluated(formulas, known)
    size, each = len(found.state), np.broadcast_arrays(*map(np.atleast_1d, numbers[len(PARTS) :]))
    matrix, response = np.array(each[: size**2]).reshape(size, size, -1), np.array(each[size**2 :])
    named = dict(zip(PARTS, numbers, strict=False))
    return NumericDiffusion(lr=float(np.max(rule.lr_at(0))), **named, matrix=matrix, response=response)


@cached
def _small(letters: UpdateRule) -> Diffusion:
    return diffusion_of(letters, find_linear_map(letters), {})


def _roots(
    letters: UpdateRule, found: LinearMap, formulas: list[Any], given: Mapping[str, Array]
) -> tuple[dict[Symbol, Any], dict[Symbol, Array]]:
    """The roots of the frozen preconditioner in σ and in the entries that were given, and the values of the latter."""
    used = {*found.roots} & set().union(*(sympy.sympify(formula).free_symbols for formula in formulas))
    settled = {positive(symbol): value for symbol, value in settled_by_noise(letters).items()}
    entries = {symbol: given[name] for symbol in settled if (name := symbol_text(symbol)) in given}
    if strange := {*given} - {symbol_text(symbol) for symbol in entries}:
        there = ", ".join(map(symbol_text, settled)) or "none"
        raise InputError(f"frozen has {', '.join(sorted(strange))}, but the frozen entries of this rule are: {there}")
    means = {s: value.xreplace({notation.noise: SIGMA}) for s, value in settled.items() if value is not None}
    closed = {
        letter: found.roots[letter].xreplace({s: v for s, v in means.items() if s not in entries}) for letter in used
    }
    unknown: Any = set().union(*(root.free_symbols for root in closed.values())) & {*settled} - {*entries}
    for name in map(symbol_text, unknown):
        raise NotDerivable(f"which value {name} has in noise has no formula: give it, as frozen={{'{name}': …}}")
    return closed, entries


def _evaluated(formulas: list[Any], known: dict[Any, Any]) -> list[Array]:
    # lambdify would read notation.mean as a single number
    plain = [formula.replace(notation.mean, sympy.Function("mean")) for formula in formulas]
    function: Callable = sympy.lambdify([*known], plain, [{"mean": np.mean}, "numpy"], cse=True, dummify=True)
    return [np.asarray(number, dtype=float) for number in function(*known.values())]

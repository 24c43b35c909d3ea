"""How much each update of a run counts in the weights at its end.

With decay the weights are a moving average of updates. Where θ′ = (1 − R)θ − ηu, the update u of step s is in the
weights after T steps with the factor

    w_s = η_s·Π_{j>s}(1 − R_j)

With momentum one gradient passes to several updates, and its share in the weights is a product of linear maps.
"""

from typing import Any, cast

import numpy as np
import sympy
from numpy.typing import NDArray
from sympy import Expr

from swd_dynamics.errors import InputError
from swd_dynamics.rules.decay import Corrected
from swd_dynamics.rules.gate import as_rule
from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.derivation import Derivation, NotDerivable, stated
from swd_dynamics.symbolic.form import one_minus
from swd_dynamics.symbolic.letters import exact, lettered
from swd_dynamics.symbolic.linear import LinearMap, find_linear_map
from swd_dynamics.symbolic.notation import OF_LARGEST, Letter, cached, lr, primed
from swd_dynamics.symbolic.numeric_stability import ByName, by_name
from swd_dynamics.symbolic.symbols import keyword_of

LR_MAX = Letter("η_max", positive=True)
KAPPA = keyword_of(Letter(OF_LARGEST))
SAMPLE = sympy.Rational(1, 10)  # at which it is decided which of two roots is a learning rate


def equal_memory(rule: UpdateRule) -> Derivation:
    """The schedule with which every update counts the same in the final weights.

    Updates of two successive steps count the same if η_s(1 − R(η_{s+1})) = η_{s+1}. Solved for η_{s+1}, this is a
    recursion for the learning rate, which begins at the rule's own η.

    Returns
    -------
    Derivation
        ``η_k``: the learning rate of the step that follows k steps, where the recursion has a closed form. Otherwise
        ``η′``: the learning rate that follows η. The common weight of all updates of a run is the learning rate of the
        last step.

    Raises
    ------
    NotDerivable
        If the decay passes the momentum, as L2 does, so that no single R acts on an update; or if the rule has no
        linear map.

    Notes
    -----
    The weights as a moving average of updates: Wang & Aitchison 2024, 2405.13698. The schedule 1/(1 + ck) for decoupled
    decay: Bergsma et al. 2025, 2505.13738.

    Examples
    --------
    >>> from swd_dynamics.rules import CATALOG
    >>> print(equal_memory(CATALOG["AdamW"](lr=0.5, weight_decay=0.25)).text())
    η_k = 1/(2(1 + k/8))

    Where R does not depend on the learning rate, the schedule is exponential:

    >>> print(equal_memory(CATALOG["SGDIndependent"](lr=0.5, weight_decay=0.25, lr_max=None)).text())
    η_k = (3/4)ᵏ/2
    """
    rule = as_rule(rule)
    letters, values = lettered(rule)
    if isinstance(rule.decay, Corrected):
        values = values | {LR_MAX: rule.decay.lr_max}
    found = find_linear_map(letters)
    rate = _decay_rate(found)
    following = primed(lr)
    kept = lr * (1 - rate.xreplace({lr: following}))
    after = _positive_root(sympy.numer(sympy.together(kept - following)), following)
    steps = [
        *found.steps,
        stated("At h = 0 a step subtracts this share of θ", notation.decay_rate, rate.xreplace(found.roots)),
        stated("The updates of two successive steps count the same", kept.xreplace(found.roots), following),
        stated("Solved for the next learning rate", following, after.xreplace(found.roots)),
    ]
    name, result, done = _closed(after)
    if done:
        steps.append(stated(done, Letter(name, positive=True), result.xreplace(found.roots)))
    derivation = Derivation(
        "The learning rates with which all updates count the same",
        {name: result.xreplace(found.roots)},
        tuple(steps),
        found.conditions,
    )
    return derivation.with_numbers(values, exact(values))


def _decay_rate(found: LinearMap) -> Any:
    """R as a function of η, with η_max where the rule has the ratio κ = η/η_max."""
    matrix: Any = found.at_zero_curvature()
    if any(entry != 0 for entry in matrix[1:, 0]):
        raise NotDerivable("the decay passes the momentum, so that no single R acts on an update: take decoupled decay")
    rate: Any = sympy.factor(1 - matrix[0, 0])
    return rate.xreplace({symbol: lr / LR_MAX for symbol in rate.free_symbols if symbol.name == OF_LARGEST})


def _positive_root(polynomial: Any, unknown: sympy.Symbol) -> Expr:
    """The root that is a learning rate where all symbols are small."""
    for root in sympy.roots(polynomial, unknown):
        if sympy.N(root.xreplace(dict.fromkeys(root.free_symbols, SAMPLE))) > 0:
            return one_minus(sympy.factor(root))
    raise NotDerivable("no learning rate gives successive updates the same weight")


def _closed(after: Expr) -> tuple[str, Expr, str]:
    """The name and the formula of the schedule, and how it was found; the recursion itself where it has none."""
    ratio, gap = (cast(Expr, sympy.cancel(each)) for each in (after / lr, 1 / after - 1 / lr))
    if lr not in ratio.free_symbols:
        return "η_k", lr * ratio**notation.k, "Each learning rate is the one before times the same factor"
    if lr not in gap.free_symbols:
        return "η_k", lr / (1 + lr * gap * notation.k), "1/η grows by the same amount in each step"
    return "η′", after, ""


def gradient_weights(rule: UpdateRule, steps: int, **frozen: Any) -> NDArray:
    """How far each gradient of a run moves the weights at its end, where the loss is flat: w_s = −∂θ_T/∂g_s.

    The linear maps of the steps after s carry the response of step s to the end, w_s = −e₁ᵀ·A_{T−1}⋯A_{s+1}·b_s. For a
    rule without momentum that is η_s·Π_{j>s}(1 − R_j).

    Parameters
    ----------
    rule : UpdateRule
        Its learning rate may be a schedule.
    steps : int
        T, the number of steps.
    **frozen
        The value of each frozen entry of an adaptive direction's memory, as ``v=1.0``.

    Returns
    -------
    array, shape (steps,)

    Raises
    ------
    InputError
        If a frozen entry has no value.
    NotDerivable
        If the step is not linear even with its preconditioner frozen.

    Examples
    --------
    Gradient descent at η = ½ with R = ηλ = ½: each step halves the weights of earlier gradients.

    >>> from swd_dynamics.rules import CATALOG
    >>> gradient_weights(CATALOG["SGDW"](lr=0.5, weight_decay=1.0), steps=3).tolist()
    [0.125, 0.25, 0.5]

    With momentum ½, the last gradient has not passed to later updates:

    >>> gradient_weights(CATALOG["SGD"](lr=0.5, momentum=0.5), steps=3).tolist()
    [0.875, 0.75, 0.5]
    """
    if steps < 1:
        raise InputError(f"steps = {steps} is not allowed: a run has one step at least")
    rule = as_rule(rule)
    letters, values = lettered(rule)
    step = _step_and_response(letters).with_numbers(values)
    rates = np.array([float(rule.lr_at(k)) for k in range(steps)])
    numbers = {"h": 0.0, **frozen, "lr": rates}
    if KAPPA in step.names:
        numbers[KAPPA] = rates / float(cast(Any, rule.decay).lr_max)
    both = step(numbers)
    maps, responses = both[..., :-1], both[..., -1]
    weights, row = np.empty(steps), np.eye(maps.shape[-1])[0]
    for s in reversed(range(steps)):
        weights[s] = -row @ responses[s]
        row = row @ maps[s]
    return weights


@cached
def _step_and_response(letters: UpdateRule) -> ByName:
    """The matrix of a linear map, and as its last column the response to a gradient, as a function of numbers."""
    found = find_linear_map(letters)
    return by_name(found.matrix.row_join(found.response), found)

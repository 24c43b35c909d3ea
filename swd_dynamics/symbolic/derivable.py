"""Which derivations a rule has, and why it does not have the other ones."""

from collections.abc import Callable, Mapping
from typing import Any

from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic.derivation import NotDerivable
from swd_dynamics.symbolic.equilibria import fixed_point
from swd_dynamics.symbolic.linear import linear_map
from swd_dynamics.symbolic.modified import modified_equation
from swd_dynamics.symbolic.noise import stationary_covariance
from swd_dynamics.symbolic.rotation import equilibrium
from swd_dynamics.symbolic.stability import long_run_decay_rate, stability_limit
from swd_dynamics.symbolic.trace import equations

# What can be asked of a rule. The eigenvalues are not here: they are those of the linear map.
ASKED: dict[str, Callable[[Any], Any]] = {
    "equations": equations,
    "modified equation": modified_equation,
    "linear map": linear_map,
    "stability limit": stability_limit,
    "fixed point": fixed_point,
    "long-run decay rate": long_run_decay_rate,
    "noise": stationary_covariance,
    "equilibrium": equilibrium,
}

YES = "yes"


def derivable(rule: UpdateRule) -> dict[str, str]:
    """What can be derived from a rule: for each derivation "yes", or the reason why it has none.

    Returns
    -------
    dict of str to str
        By the names of the derivations, "yes" or the sentence of :class:`NotDerivable`.

    Examples
    --------
    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> from swd_dynamics.rules import L2
    >>> set(derivable(UpdateRule(0.1, SGD(), L2(0.1))).values())
    {'yes'}
    """
    return {name: _answer(derive, rule) for name, derive in ASKED.items()}


def _answer(derive: Callable[[Any], Any], rule: UpdateRule) -> str:
    try:
        derive(rule)
    except NotDerivable as refusal:
        return str(refusal)
    return YES


def derivability_table(rules: Mapping[str, UpdateRule]) -> str:
    """What can be derived from each of several rules, as lines of text: "yes" or the number of a reason below.

    Examples
    --------
    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> print(derivability_table({"SGD": UpdateRule(0.1, SGD())}))
         equations  modified equation  linear map  stability limit  fixed point  long-run decay rate  noise  equilibrium
    SGD  yes        yes                yes         yes              yes          yes                  yes    (1)
    (1) Var θ grows without end: at h = 0 nothing pulls the weights back
    """
    answers = {name: derivable(rule) for name, rule in rules.items()}
    reasons = list(dict.fromkeys(answer for row in answers.values() for answer in row.values() if answer != YES))
    first = max(map(len, answers), default=0)
    lines = ["  ".join([" " * first, *ASKED])]
    for name, row in answers.items():
        cells = [YES if row[each] == YES else f"({reasons.index(row[each]) + 1})" for each in ASKED]
        padded = [cell.ljust(len(each)) for cell, each in zip(cells, ASKED, strict=True)]
        lines.append("  ".join([name.ljust(first), *padded]).rstrip())
    return "\n".join([*lines, *(f"({number}) {reason}" for number, reason in enumerate(reasons, 1))])

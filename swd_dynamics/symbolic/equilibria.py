"""Where a rule comes to rest."""

from typing import Any, cast

import sympy
from sympy import Expr
from sympy.polys.matrices.exceptions import DMNonInvertibleMatrixError

from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.arrange import shortest
from swd_dynamics.symbolic.derivation import Derivation, NotDerivable, stated
from swd_dynamics.symbolic.form import one_minus
from swd_dynamics.symbolic.letters import exact, lettered
from swd_dynamics.symbolic.linear import LinearMap, find_linear_map, with_numbers_if_large

NOISY = (
    "the preconditioner comes from gradient noise much larger than the mean gradient. With exact gradients the weights"
    " rest elsewhere, at modified_equation(rule).rest_point(h=…, theta_star=…)"
)

STEADY = "the steps are stable at this curvature, h < stability_limit(rule), so that the weights come to rest at all"


def fixed_point(rule: UpdateRule) -> Derivation:
    """Where the weights come to rest on f = ½h(θ − θ⋆)², with the preconditioner of an adaptive direction frozen.

    Frozen means that √v comes from gradient noise much larger than the gradient. In full batch v follows g², and an
    adaptive rule comes to rest elsewhere: at ``modified_equation(rule).rest_point(h=…, theta_star=…)``, where
    F₀ is 0.

    Returns
    -------
    Derivation
        ``.value`` is θ at rest. It assumes that the steps are stable: beyond the stability limit they leave it.

    Examples
    --------
    Momentum .5 weakens decoupled decay by the factor 1−β, from λ = 2 to 1:

    >>> from swd_dynamics.rules import CATALOG
    >>> fixed_point(CATALOG["SGDW"](lr=0.1, momentum=0.5, weight_decay=2.0)).value
    h*θ⋆/(h + 1)
    """
    letters, values = lettered(rule)
    found = find_linear_map(letters)
    theta = _in_curvature(_at_rest(found, exact(values)), found.roots)
    identity = sympy.eye(len(found.state))
    balance = sympy.MatMul(identity - found.matrix, sympy.Matrix(found.state), evaluate=False)
    steps = (
        *found.steps,
        stated(
            "At rest, a step leaves the state unchanged",
            balance.xreplace(found.roots),
            found.constant.xreplace(found.roots),
        ),
        stated("Solved for θ", notation.theta, theta),
    )
    conditions = (*found.conditions, STEADY, *([NOISY] if theta.has(*found.roots.values()) else []))
    derivation = Derivation("The fixed point on f = ½h(θ − θ⋆)²", {"θ": theta}, steps, conditions)
    return derivation.with_numbers(values, exact(values))


def _in_curvature(theta: Any, roots: dict) -> Expr:
    """θ as a fraction whose denominator has the leading term h, as in hθ⋆/(h + λ)."""
    above, below = sympy.fraction(sympy.factor(theta))
    polynomial = sympy.Poly(below, notation.curvature)
    lead = polynomial.LC()
    terms = [shortest((c / lead).xreplace(roots)) * notation.curvature**n for (n,), c in polynomial.terms()]
    return one_minus(sympy.factor((above / lead).xreplace(roots)) / sympy.Add(*terms))


def _at_rest(found: LinearMap, known: dict) -> Expr:
    """θ where state = matrix·state + constant, by rational functions: with other expressions elimination has no end."""
    system = (sympy.eye(len(found.state)) - found.matrix).row_join(found.constant)
    domain: Any = with_numbers_if_large(system, known).to_DM(field=True)
    try:
        rest = domain[:, :-1].lu_solve(domain[:, -1:])
    except DMNonInvertibleMatrixError:
        raise NotDerivable(
            "the rule has no single fixed point: some direction of its state stays where it is put"
        ) from None
    return cast(Expr, rest.to_Matrix()[0])

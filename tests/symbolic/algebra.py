"""The theory's symbols as symbols, and equality by algebra."""

import sympy

from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.notation import PerWeight

h, theta, theta_star = notation.curvature, notation.theta, notation.theta_star
g, gdot, theta_dot = notation.gradient, notation.gradient_dot, notation.theta_dot
eta = notation.lr
beta, tau, lam, epsilon = sympy.symbols("beta tau lambda epsilon", positive=True)
beta_0, beta_1, beta_2 = sympy.symbols("beta_0 beta_1 beta_2", positive=True)
root, root_mean = sympy.symbols("root root_mean", positive=True)  # √v and √v̄


def rational(expression):
    """The expression with √v and √v̄ as symbols, so that nothing but a fraction is left."""
    frozen = {PerWeight(name, positive=True) for name in ("v", "v_max")}
    expression = sympy.sympify(expression)
    expression = expression.xreplace({notation.mean(v): root_mean**2 for v in frozen})
    return expression.xreplace(dict.fromkeys(frozen, root**2))


def equal(left, right):
    """Whether two expressions are the same, by algebra: their difference is 0 over one bar."""
    return sympy.cancel(sympy.together(sympy.expand(rational(left) - rational(right)))) == 0

"""The symbols of the theory, equality by algebra, and rules that hypothesis makes up."""

import sympy
from aggregated_momentum import AggregatedMomentum
from hypothesis import strategies as st

from swd_dynamics.rules import L2, SGD, Decoupled, HeavyBall, Nesterov, NoDecay, Stable
from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.notation import PerWeight

h, theta, theta_star = notation.curvature, notation.theta, notation.theta_star
g, gdot, theta_dot = notation.gradient, notation.gradient_dot, notation.theta_dot
eta = notation.lr
beta, tau, lam, epsilon = sympy.symbols("β τ λ ε", positive=True)
beta_0, beta_1, beta_2 = sympy.symbols("β₀ β₁ β₂", positive=True)
root, root_mean = sympy.symbols("root root_mean", positive=True)  # √v and √v̄

momenta = st.floats(0.05, 0.95)
directions = st.one_of(
    st.just(SGD()),
    st.builds(HeavyBall, momenta, st.floats(0, 0.9)),
    st.builds(Nesterov, momenta),
    st.builds(AggregatedMomentum, momenta, momenta),
)
lrs = st.floats(0.01, 0.5)


def decays(highest):
    rates = st.floats(0, highest)
    return st.one_of(st.just(NoDecay()), *(st.builds(decay, rates) for decay in (L2, Decoupled, Stable)))


def rational(expression):
    """The expression with √v and √v̄ as symbols, so that nothing but a fraction is left."""
    frozen = {PerWeight(name, positive=True) for name in ("v", "v_max")}
    expression = sympy.sympify(expression)
    expression = expression.xreplace({notation.mean(v): root_mean**2 for v in frozen})
    return expression.xreplace(dict.fromkeys(frozen, root**2))


def equal(left, right):
    """Whether two expressions are the same, by algebra: their difference is 0 over one bar."""
    return sympy.cancel(sympy.together(sympy.expand(rational(left) - rational(right)))) == 0

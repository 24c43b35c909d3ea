"""The limit if the preconditioner turns over too, compared with the eigenvalues of the whole step."""

import numpy as np
import pytest
import sympy
from scipy.optimize import brentq

from swd_dynamics.errors import InputError
from swd_dynamics.rules import CATALOG
from swd_dynamics.symbolic import NotDerivable, edge, full_limit, numeric_full_limit
from swd_dynamics.symbolic.notation import PerWeight, primed, total

LATE = 10**6  # a step at which no bias correction is left


def smallest_turning(rule, memory, gradient):
    """The least curvature at which the step, linearised at a given memory before it, has the eigenvalue −1."""
    late = rule.start(np.zeros(1))._replace(step=LATE)
    entries = type(late.memory)(*(np.array([entry]) for entry in memory))

    def after(h, x):
        turned = type(entries)(*(entry + change for entry, change in zip(entries, x[1:], strict=True)))
        state = rule(late._replace(theta=x[:1], memory=turned), gradient + h * x[:1])
        return np.concatenate([state.theta, *state.memory])

    def most_negative(h):
        size = 1 + len(entries)
        columns = [(after(h, 1e-6 * e) - after(h, -1e-6 * e)) / 2e-6 for e in np.eye(size)]
        return np.linalg.eigvals(np.array(columns).T).real.min() + 1

    return brentq(most_negative, 1.0, 1e5, xtol=1e-9), after(0.0, np.zeros(1 + len(entries)))[1:]


RULES = {
    "RMSprop-like": CATALOG["Adam"](lr=0.01, betas=(0.0, 0.95), eps=0.0),
    "Adam": CATALOG["Adam"](lr=0.01, betas=(0.9, 0.99), eps=0.0),
    "ε": CATALOG["Adam"](lr=0.01, betas=(0.5, 0.9), eps=0.3),
    "L2": CATALOG["Adam"](lr=0.01, betas=(0.9, 0.99), eps=0.0, weight_decay=3.0),
    "decoupled": CATALOG["AdamW"](lr=0.1, betas=(0.9, 0.99), eps=0.0, weight_decay=2.0),
}


@pytest.mark.parametrize("g", [0.5, 1.0])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.slow
def test_the_whole_step_has_the_eigenvalue_minus_one(rule, g):
    """Assert that at the derived curvature the step with its v has the eigenvalue −1, where m is g and v was 1."""
    found, memory = smallest_turning(rule, (g, 1.0), np.array([g]))
    values = {primed(PerWeight(name, real=True)): float(x) for name, x in zip("mv", memory, strict=True)}
    derived = float(full_limit(rule).subs({total: g, **values}))
    assert found == pytest.approx(derived, rel=1e-5)  # differences over 1e-6
    numeric = numeric_full_limit(rule)(np.full(1, g), tuple(np.array([x]) for x in memory))
    assert 1 / numeric[0] == pytest.approx(derived, rel=1e-12)


def test_adams_factor_in_closed_form():
    """Assert that Adam's limit is 2(1+β₁)√v/((1−β₁)η) over 1 − κgm/v, κ = (1−β₂)/(1+β₂)·(1+β₁)/(1−β₁)."""
    b1, b2 = 0.75, 0.9375  # sums of powers of ½, so that the coefficients are exact
    found = full_limit(CATALOG["Adam"](lr=0.5, betas=(b1, b2), eps=0.0))
    m, v = (primed(PerWeight(name, real=True)) for name in "mv")
    kappa = (1 - sympy.Rational(b2)) / (1 + sympy.Rational(b2)) * 7
    assert sympy.cancel(found - 28 * sympy.sqrt(v) / (1 - kappa * total * m / v)) == 0


@pytest.mark.parametrize("name", ["SGD", "SGDW", "SGDS"])
@pytest.mark.slow
def test_without_a_preconditioner_it_is_the_limit(name):
    """Assert that SGD with momentum and each decay has the limit of its linear map."""
    rule = CATALOG[name](lr=0.5, momentum=0.5, weight_decay=0.25)
    assert full_limit(rule) == edge(rule).results["h_max"]


def test_weights_at_which_v_takes_the_limit_away():
    """Assert that the reciprocal is 0 and then negative where κgm/v is 1 and more: no curvature turns θ over."""
    turned = numeric_full_limit(CATALOG["Adam"](lr=0.5, betas=(0.0, 0.5), eps=0.0))
    one, g = np.ones(2), np.sqrt([3.0, 6.0])
    assert turned(g, (g, one)) == pytest.approx([0.0, -0.25], abs=1e-12)


def test_what_has_no_edge():
    """Assert that a rule whose step does not feel the size of the gradient is refused."""
    with pytest.raises(NotDerivable):
        full_limit(CATALOG["Lion"](lr=0.1))


def test_a_symbol_where_a_number_is_needed():
    """Assert that a symbol is refused in words by the numeric function, and kept by the formula."""
    rule = CATALOG["Adam"](lr=sympy.Symbol("eta0", positive=True), betas=(0.0, 0.5), eps=0.0)
    with pytest.raises(InputError, match="full_limit"):
        numeric_full_limit(rule)
    assert {symbol.name for symbol in full_limit(rule).free_symbols} == {"eta0", "G", "m′", "v′"}

"""The SDE that is derived from a rule: its drift is the modified equation, its diffusion is worked out by hand."""

import numpy as np
import pytest
from symbolic.algebra import beta, equal, eta, g, gdot, h, lam, tau, theta_dot
from symbolic.odd_directions import Averages
from symbolic.quasi_hyperbolic import QuasiHyperbolic

from swd_dynamics.errors import InputError
from swd_dynamics.rules import CATALOG, L2, SGD, Cosine, HeavyBall, Stable, UpdateRule
from swd_dynamics.symbolic import (
    NotDerivable,
    lettered,
    modified_equation,
    numeric_diffusion,
    numeric_equation,
    stochastic_equation,
)

LINEAR = {
    "SGD": CATALOG["SGD"](lr=eta, momentum=beta, weight_decay=lam),
    "SGDW": CATALOG["SGDW"](lr=eta, momentum=beta, weight_decay=lam),
    "SGDS": CATALOG["SGDS"](lr=eta, momentum=beta, weight_decay=lam),
    "Nesterov": CATALOG["SGDW"](lr=eta, momentum=beta, weight_decay=lam, nesterov=True),
    "dampening": UpdateRule(eta, HeavyBall(beta, tau), Stable(lam)),
    "corrected": CATALOG["SGDC"](lr=eta, momentum=beta, weight_decay=lam),
    "quasi-hyperbolic": UpdateRule(eta, QuasiHyperbolic(beta, tau), L2(lam)),
}


@pytest.mark.parametrize("rule", LINEAR.values(), ids=LINEAR)
@pytest.mark.slow
def test_the_drift_is_the_modified_equation(rule):
    """Assert that F₀ and F₁ from the slow root of the map are those of the expansion of the memory, and B₀ = −∂F₀/∂g.

    B₀ is how far a unit of gradient moves a weight in the end, divided by η.
    """
    found, known = stochastic_equation(rule).results, modified_equation(rule)
    assert equal(found["F₀"], known.first)
    with_rates = {theta_dot: known.first, gdot: h * known.first}
    assert equal(found["F₁"].subs(with_rates), known.second_in_rates.subs(with_rates))
    assert equal(found["B₀"], -known.first.diff(g))


def test_the_diffusion_of_gradient_descent():
    """Assert B = 1 + ηh/2: a step keeps σ²η², of which the drift between two steps takes ηh/2 back."""
    found = stochastic_equation(UpdateRule(eta, SGD())).results
    assert equal(found["B₀"], 1) and equal(found["B₁"], h / 2)


@pytest.mark.slow
def test_the_diffusion_of_heavy_ball():
    """Assert B₁ = h(1+β²)/(2(1+β)(1−β)³), worked out by hand from Var θ = ηs²(1+β)/(h(1−β)(2(1+β)−ηh))."""
    found = stochastic_equation(UpdateRule(eta, HeavyBall(beta))).results
    assert equal(found["B₀"], 1 / (1 - beta))
    assert equal(found["B₁"], h * (1 + beta**2) / (2 * (1 + beta) * (1 - beta) ** 3))


@pytest.mark.slow
def test_every_part_has_its_step():
    """Assert that the derivation states both orders of the eigenvalue, of the drift and of the diffusion, in order."""
    derivation = stochastic_equation(CATALOG["SGDW"](lr=0.1, momentum=0.9, weight_decay=0.1))
    parts = ["μ₀", "μ₁", "F₀", "F₁", "B₀", "B₁"]
    stated = [str(getattr(step.equation, "lhs", "")) for step in derivation.steps]
    assert [name for name in stated if name in parts] == parts


@pytest.mark.slow
def test_four_entries_need_numbers():
    """Assert that a rule of four entries has the drift of its modified equation, and refuses symbols besides η."""
    rule = UpdateRule(0.1, Averages((0.9, 0.5, 0.3), (0.5, 0.3, 0.2)), L2(0.2))
    sde, one = numeric_diffusion(rule, 1.0), np.ones(1)
    assert (float(sde.pull), float(sde.decay)) == pytest.approx((1.0, 0.2))
    second = numeric_equation(rule).second
    assert float(sde.turn) == pytest.approx(second(one, one, 0 * one, one, ())[0])
    assert float(sde.lag) == pytest.approx(second(one, one, one, 0 * one, ())[0])
    with pytest.raises(NotDerivable, match="give numbers"):
        stochastic_equation(lettered(rule)[0])


@pytest.mark.slow
def test_a_preconditioner_is_set_by_the_noise_of_each_weight():
    """Assert that Adam's B₀ is 1/σ for each weight, and that AdamS decays all weights by λ/√⟨σ²⟩."""
    sigma = np.array([1.0, 7.0])
    sde = numeric_diffusion(CATALOG["AdamS"](lr=0.1, eps=0.0, weight_decay=0.5), sigma)
    assert sde.pull == pytest.approx(1 / sigma)
    assert float(sde.decay) == pytest.approx(0.5 / 5)


@pytest.mark.parametrize(
    ("rule", "frozen", "error", "said"),
    [
        (CATALOG["AMSGrad"](lr=0.1), None, NotDerivable, "v_max.* in noise has no formula"),
        (CATALOG["Adam"](lr=0.1), {"w": 1.0}, InputError, "frozen has w"),
        (CATALOG["SGD"](lr=Cosine(0.1, 9)), None, InputError, "schedule"),
        (CATALOG["SGD"](lr=eta), None, InputError, "η is a symbol"),
        (CATALOG["Signum"](lr=0.1), None, NotDerivable, "Signum|sign"),
        (CATALOG["SGDCautious"](lr=0.1, weight_decay=0.1), None, NotDerivable, "sign"),
    ],
)
@pytest.mark.slow
def test_what_has_no_numbers(rule, frozen, error, said):
    """Assert that a rule without an SDE in numbers is refused with the reason."""
    with pytest.raises(error, match=said):
        numeric_diffusion(rule, 1.0, frozen)


@pytest.mark.slow
def test_a_maximum_may_be_given():
    """Assert that AMSGrad has an SDE where the largest v is given."""
    assert float(numeric_diffusion(CATALOG["AMSGrad"](lr=0.1, eps=0.0), 1.0, {"v_max": 4.0}).pull) == 0.5

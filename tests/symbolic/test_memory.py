"""How much an update counts in the final weights: by algebra, by the rule itself, and by torch."""

import numpy as np
import pytest
import sympy
import torch
from symbolic.algebra import beta, equal, eta, lam
from tolerances import ROUND_OFF

from swd_dynamics.errors import InputError
from swd_dynamics.rules import CATALOG, Cosine, EqualMemory, Independent, UpdateRule
from swd_dynamics.rules.directions import SGD
from swd_dynamics.symbolic import NotDerivable, equal_memory, gradient_weights, notation

T = 12
SHORT = 4  # steps whose product is multiplied out by algebra
k = notation.k


def schedule_of(name, **arguments):
    """The derived schedule of an entry in symbols, as a function of the step."""
    found = equal_memory(CATALOG[name](lr=eta, weight_decay=lam, **arguments)).value
    return lambda step: found.xreplace({k: sympy.Integer(step)})


@pytest.mark.parametrize(
    ("name", "arguments", "rate"),
    [
        ("SGDW", {"momentum": beta}, lam),
        ("SGDS", {"momentum": beta}, lam / (1 - beta)),
        ("AdamW", {}, lam),
        ("SGD", {}, lam),  # without momentum L2 decays as decoupled decay does
    ],
)
@pytest.mark.slow
def test_the_schedule_telescopes(name, arguments, rate):
    """Assert that η_s·Π(1 − R_j) over the steps j after s is η/(1 + cη(T−1)) for every s of T = 4, with R = cη_j."""
    lr = schedule_of(name, **arguments)
    last = eta / (1 + rate * eta * (SHORT - 1))
    for s in range(SHORT):
        factors = [1 - rate * lr(j) for j in range(s + 1, SHORT)]
        assert sympy.simplify(sympy.Mul(lr(s), *factors) - last) == 0


def test_the_schedule_telescopes_for_every_length():
    """Assert the step of an induction over T: η_k(1 − λη_{k+1}) − η_{k+1} = 0 for a symbol k."""
    lr = equal_memory(CATALOG["SGDW"](lr=eta, weight_decay=lam)).value
    following = lr.xreplace({k: k + 1})
    assert sympy.simplify(lr * (1 - lam * following) - following) == 0


def test_the_class_is_the_derived_schedule():
    """Assert that EqualMemory is the schedule that is derived for decoupled decay."""
    derived = equal_memory(CATALOG["SGDW"](lr=eta, weight_decay=lam)).value
    values = {eta: 0.3, lam: 0.7}
    planned = EqualMemory(0.3, weight_decay=0.7)
    for step in range(T):
        assert float(derived.xreplace(values | {k: sympy.Integer(step)})) == pytest.approx(planned(step), rel=ROUND_OFF)


def test_a_decay_that_ignores_the_learning_rate():
    """Assert that with R = λ in every step the schedule is η(1 − λ)ᵏ."""
    assert equal(equal_memory(UpdateRule(eta, SGD(), Independent(lam))).value, eta * (1 - lam) ** k)


def test_corrected_decay_has_a_recursion():
    """Assert that with R = λη²/η_max the next learning rate solves η(1 − λη′²/η_max) = η′."""
    found = equal_memory(CATALOG["SGDC"](lr=0.5, weight_decay=0.25))
    after = found.results["η′"]
    assert sympy.simplify(sympy.Rational(1, 2) * (1 - after**2 / 2) - after) == 0
    assert 0 < after < 0.5


def test_no_decay_needs_a_constant_learning_rate():
    """Assert that without decay all updates count the same where η is constant."""
    assert equal_memory(CATALOG["SGD"](lr=eta)).value == eta


def test_l2_through_momentum_has_no_such_schedule():
    """Assert that L2 decay with momentum is refused."""
    with pytest.raises(NotDerivable, match="passes the momentum"):
        equal_memory(CATALOG["SGD"](lr=0.1, momentum=0.9, weight_decay=0.1))


RULES = {
    "SGD with L2": ("SGD", {"momentum": 0.6}, {}),
    "Nesterov, stable": ("SGDS", {"momentum": 0.6, "nesterov": True}, {}),
    "corrected": ("SGDC", {"momentum": 0.6, "lr_max": 0.5}, {}),
    "independent": ("SGDIndependent", {"momentum": 0.6, "lr_max": 0.5}, {}),
}


@pytest.mark.parametrize("case", RULES)
@pytest.mark.slow
def test_weights_are_differences_of_two_runs(case):
    """Assert that each weight is the difference of two runs of the rule, which differ in one gradient by 1."""
    name, arguments, frozen = RULES[case]
    rule = CATALOG[name](lr=Cosine(0.5, T, 0.01), weight_decay=0.3, **arguments)
    gradients = np.cos(np.arange(T))
    weights = gradient_weights(rule, T, **frozen)

    def end(stream):
        state = rule.start(2.0)
        for gradient in stream:
            state = rule(state, gradient)
        return state.theta

    for s in range(T):
        assert end(gradients) - end(gradients + (np.arange(T) == s)) == pytest.approx(weights[s], abs=T * ROUND_OFF)


def test_weights_of_torchs_adam_in_large_noise():
    """Assert that AdamW's gradients count as derived with v = 1/4, where β₂ and small perturbations hold v there."""
    steps, weights = 20, []
    for perturbed in (-1, 4):
        theta = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = torch.optim.AdamW([theta], lr=0.1, betas=(0.5, 1 - 2.0**-40), eps=0.0, weight_decay=0.3)
        optimizer.state[theta] = {"step": torch.tensor(2.0**50)}
        optimizer.state[theta] |= {"exp_avg": torch.zeros_like(theta), "exp_avg_sq": torch.full_like(theta, 0.25)}
        for step in range(steps):
            theta.grad = torch.full_like(theta, float(step == perturbed))
            optimizer.step()
        weights.append(theta.item())
    rule = CATALOG["AdamW"](lr=0.1, betas=(0.5, 0.9), eps=0.0, weight_decay=0.3)
    derived = gradient_weights(rule, steps, v=0.25)[4]
    assert weights[0] - weights[1] == pytest.approx(derived, rel=1e-9)  # v changes by 2⁻⁴⁰ ≈ 1e-12 a step


def test_a_frozen_entry_needs_a_value():
    """Assert that a missing v is named, and that a run has at least one step."""
    with pytest.raises(InputError, match="v has no number"):
        gradient_weights(CATALOG["AdamW"](lr=0.1, weight_decay=0.1), 5)
    with pytest.raises(InputError, match="steps = 0"):
        gradient_weights(CATALOG["SGD"](lr=0.1), 0)

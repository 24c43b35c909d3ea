"""The edge of stability, compared with the theory and with runs of the rule itself."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import sympy
from aggregated_momentum import AggregatedMomentum
from symbolic.algebra import beta, beta_1, beta_2, epsilon, equal, eta, lam, root, root_mean

from swd_dynamics.errors import InputError
from swd_dynamics.rules import CATALOG, SGD, Decoupled, Stable, UpdateRule
from swd_dynamics.rules.update import State
from swd_dynamics.symbolic import NotDerivable, edge, numeric_edge

STILL = 1 - 2.0**-40  # a β₂ that keeps v constant
LATE = 10**16  # steps after which the bias correction of this β₂ too is 1
DIVISOR = root + epsilon


def catalogued(name, **arguments):
    return CATALOG[name](lr=eta, weight_decay=lam, **arguments)


# Rule, limit, η_eff and R by pencil: with r the R of the table of decay rates, a the share of G in m′.
CLOSED = [
    pytest.param(UpdateRule(eta, SGD()), 2 / eta, eta, 0, id="SGD"),
    pytest.param(
        catalogued("SGD", momentum=beta), 2 * (1 + beta) / eta - lam, eta / (1 - beta), eta * lam / (1 - beta), id="L2"
    ),
    pytest.param(
        catalogued("SGDW", momentum=beta),
        (1 + beta) * (2 - eta * lam) / eta,
        eta / (1 - beta),
        eta * lam,
        id="decoupled",
    ),
    pytest.param(
        catalogued("SGDS", momentum=beta, nesterov=True),
        (1 + beta) * (2 - eta * lam / (1 - beta)) / (eta * (1 + 2 * beta)),
        eta / (1 - beta),
        eta * lam / (1 - beta),
        id="Nesterov, stable",
    ),
    pytest.param(
        catalogued("RMSprop", alpha=beta_2, eps=epsilon),
        2 * DIVISOR / eta - lam,
        eta / DIVISOR,
        eta * lam / DIVISOR,
        id="RMSprop, L2",
    ),
    pytest.param(
        catalogued("AdamS", betas=(beta_1, beta_2), eps=epsilon),
        (1 + beta_1) * (2 - eta * lam / root_mean) * DIVISOR / (eta * (1 - beta_1)),
        eta / DIVISOR,
        eta * lam / root_mean,
        id="Adam, stable",
    ),
]


@pytest.mark.parametrize(("rule", "limit", "effective_lr", "decay_rate"), CLOSED)
@pytest.mark.slow
def test_limit_and_rates_in_closed_form(rule, limit, effective_lr, decay_rate):
    """Assert that the limit, η_eff and R are those of the theory, and that R/η_eff is their ratio."""
    found = edge(rule).results
    assert equal(found["h_max"], limit)
    assert equal(found["ηᵢ"], effective_lr)
    assert equal(found["R"], decay_rate)
    assert equal(found["R/ηᵢ"], decay_rate / effective_lr)


def momentum(**more):
    return {"lr": 0.1, "weight_decay": 0.3, "momentum": 0.6, **more}


def adam(**more):
    return {"lr": 0.1, "weight_decay": 0.3, "betas": (0.6, STILL), **more}


RULES = {
    **{f"{name}, momentum": CATALOG[name](**momentum()) for name in ("SGD", "SGDW", "SGDS")},
    **{f"{name}, Nesterov": CATALOG[name](**momentum(nesterov=True)) for name in ("SGD", "SGDW", "SGDS")},
    **{name: CATALOG[name](**adam()) for name in ("Adam", "AdamW", "AdamS", "NAdamS")},
    **{f"{name}, momentum": CATALOG[name](**momentum(alpha=STILL)) for name in ("RMSprop", "RMSpropS")},
    "a user's own": UpdateRule(0.1, AggregatedMomentum(0.3, 0.8), Decoupled(0.3)),
}
N = 5


def memory_of(rule: UpdateRule, entries: dict[str, Any]):
    """A memory with these entries, and 0 for the others."""
    rest = rule.direction.rest(np.zeros(N))
    return type(rest)(*(entries.get(name, entry) for name, entry in zip(rest._fields, rest, strict=True)))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.slow
def test_a_step_turns_the_oscillation_over(rule):
    """Assert that with H u = diag(h_max) u a step of the rule changes the sign of (θ, memory), and of nothing else."""
    generator = np.random.default_rng(0)
    v = generator.uniform(0.5, 2.0, N)
    size = 1e-6  # so small that the squared gradients do not change v
    fixed = {"v": v, "mu_product": np.zeros(N)}  # NAdam's product of momenta, after many steps
    memory = memory_of(rule, fixed)
    limit = numeric_edge(rule).limit(np.zeros(N), memory)
    u = generator.standard_normal(N)
    turning = numeric_edge(rule).oscillation(np.zeros(N), memory)
    held = tuple(entry + size * u * turned for entry, turned in zip(memory, turning, strict=True))
    state = State(size * u, type(memory)(*held), LATE)
    after = rule(state, limit * state.theta)
    allowed = 1e-11 * size * float(np.abs(limit).max())  # v loses 2⁻⁴⁰ = 9e-13 of itself
    assert np.abs(after.theta + state.theta).max() <= allowed
    for new, old, mean in zip(after.memory, held, memory, strict=True):
        assert np.abs(new + old - 2 * mean).max() <= allowed + 1e-11 * mean.max()


@pytest.mark.parametrize("name", ["SGDW, momentum", "SGDS, Nesterov", "AdamS", "RMSpropS, momentum", "a user's own"])
@pytest.mark.slow
def test_long_run_rates_of_a_run(name):
    """Assert that with a constant gradient each step is −η_eff·g − R·θ once the momentum is at rest."""
    rule, generator = RULES[name], np.random.default_rng(1)
    numbers, g = numeric_edge(rule), generator.standard_normal(N)
    memory = memory_of(rule, {"v": g**2})
    state = State(generator.standard_normal(N), memory, LATE)
    for _ in range(200):  # .8 to the power of 200 is 4e-20
        before, state = state, rule(state, g)
    rates = numbers.effective_lr(g, memory), numbers.decay_rate(g, memory)
    moved = -rates[0] * g - rates[1] * before.theta
    # v follows g², of which it keeps all but round-off; the steps are as far as 1 at most
    assert np.abs(state.theta - before.theta - moved).max() <= 1e-10


FAST = {"RMSprop": {"alpha": 0.99}}


@pytest.mark.parametrize("name", ["AdamS", "RMSprop", "AdaBelief"])
@pytest.mark.slow
def test_second_moment_feels_the_variance(name):
    """Assert that the second moment of a run with gradients g ± ξ in turn has the mean that the slow equation rests at.

    AdaBelief's second moment follows (G − m′)², in which a part of ξ cancels.
    """
    rule = CATALOG[name](lr=1e-9, weight_decay=0.0, **FAST.get(name, {"betas": (0.9, 0.99)}))
    generator = np.random.default_rng(2)
    g, noise = generator.standard_normal((2, N))
    state = State(np.zeros(N), rule.direction.rest(np.zeros(N)), LATE)
    last = []
    for k in range(4000):  # .99 to the power of 4000 is 3e-18
        state = rule(state, g + (-1) ** k * noise)
        last = [*last[-1:], np.array(state.memory)]
    numbers, memory = numeric_edge(rule), tuple(np.mean(last, axis=0))
    after = numbers.remember(state.theta, g, memory, noise**2)
    assert np.allclose(after, memory, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_derivation_shows_its_steps():
    """Assert that the slow flow, what decay does to the sharpness, and the variance are among the steps."""
    found = edge(catalogued("SGDS", momentum=beta))
    shown = [str(step.equation.lhs) for step in found.steps if isinstance(step.equation, sympy.Equality)]
    assert {"dθ/dk", "dS/dk due to decay", "σ²", "E[G]"} <= {*shown}
    assert r"\nabla S" in found.latex(steps=True)
    assert found(lr=0.1, momentum=0.5, weight_decay=0.0).results["h_max"] == 30


class Delayed(NamedTuple):
    m: Any
    old: Any


class OldGradient:
    """Gradient descent with the gradient of the step before: z² − z + ηh = 0, so that z leaves the circle at ηh = 1."""

    def rest(self, theta):
        return Delayed(0 * theta, 0 * theta)

    def remember(self, memory, step):
        return Delayed(step.gradient, memory.m)

    def move(self, memory, step):
        return memory.old

    def effective_lr(self, memory, step):
        return step.lr


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (CATALOG["Lion"](lr=0.1), "jumps"),
        (CATALOG["Muon"](lr=0.1), "orthogonalises"),
        (UpdateRule(0.1, OldGradient(), Stable(0.1)), "not −1"),
    ],
    ids=["sign", "Muon", "complex eigenvalue"],
)
@pytest.mark.slow
def test_rules_without_an_edge(rule, said):
    """Assert that a rule whose step has no slope, or that loses stability without a change of sign, is refused."""
    with pytest.raises(NotDerivable, match=said):
        edge(rule)


def test_numbers_need_numbers():
    """Assert that a symbol or a schedule is refused where numbers are needed."""
    with pytest.raises(InputError, match="η is a symbol"):
        numeric_edge(CATALOG["SGD"](lr=eta))
    with pytest.raises(InputError, match="schedule"):
        numeric_edge(CATALOG["SGD"](lr=lambda k: 0.1))


@pytest.mark.parametrize("name", ["SGD", "SGDS", "AdamS"])
@pytest.mark.slow
def test_names_of_the_edge_as_latex(name):
    """Assert that LaTeX is ASCII with no name in raw letters, and that every name of the steps has its meaning."""
    found = edge(CATALOG[name](lr=0.1, weight_decay=0.05))
    document = found.latex(steps=True)
    assert document.isascii() and found.latex().isascii() and all(step.latex().isascii() for step in found.steps)
    assert r"\eta_{i} &=" in document and r"R/\eta_{i} &=" in document and r"\frac{d\theta}{dk} &=" in document
    assert not any(raw in document for raw in ("dtheta", "etai", "sigma2", " eta "))
    meanings = {str(row.symbol): row.meaning for row in found.symbols}
    assert {"ηᵢ", "H", "Σ", "S", "R∞"} <= {*meanings} and ("σ²" in meanings) == ("σ²" in str(found.steps))
    assert len(meanings) == len(found.symbols)


def test_two_decay_rates_have_two_names():
    """Assert that a step with L2, which has R = 0 in the step and ηλ/(1−β) in the long run, does not call both R."""
    found = edge(CATALOG["SGD"](lr=eta, weight_decay=lam, momentum=beta))
    rates = {str(step.equation.lhs): step.equation.rhs for step in found.steps if step.equation.is_Relational}
    assert rates["R"] == 0 and equal(rates["R∞"], eta * lam / (1 - beta))

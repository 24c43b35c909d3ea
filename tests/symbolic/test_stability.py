"""Stability limits and long-run decay, compared with the theory and with runs of the rule."""

from math import sqrt

import pytest
import sympy
from aggregated_momentum import AggregatedMomentum
from hypothesis import given, settings
from hypothesis import strategies as st
from symbolic.algebra import (
    beta,
    beta_0,
    beta_1,
    beta_2,
    decays,
    directions,
    epsilon,
    equal,
    eta,
    lam,
    lrs,
    momenta,
    root,
    root_mean,
    tau,
)
from symbolic.quasi_hyperbolic import QuasiHyperbolic
from tolerances import RADICALS, THREE_DIGITS, round_off

from swd_dynamics.rules import (
    CATALOG,
    L2,
    SGD,
    Adam,
    Decoupled,
    HeavyBall,
    Stable,
    UpdateRule,
)
from swd_dynamics.symbolic import NotDerivable, lettered, long_run_decay_rate, notation, stability_limit

EIGHT_DECADES = 1e8  # what a run must shrink or grow by to be called stable or unstable: no transient does that
law = settings(max_examples=15, deadline=None, derandomize=True)
ADAM = {"betas": (beta_1, beta_2), "eps": epsilon}

aggregated = st.builds(AggregatedMomentum, momenta, momenta)


def catalogued(name, **arguments):
    return CATALOG[name](lr=eta, weight_decay=lam, **arguments)


SGD_LIMITS = [
    pytest.param(UpdateRule(eta, SGD()), 2 / eta, id="SGD"),
    pytest.param(catalogued("SGD"), 2 / eta - lam, id="SGD, L2"),
    pytest.param(catalogued("SGDW"), (2 - eta * lam) / eta, id="SGD, decoupled"),
    pytest.param(UpdateRule(eta, HeavyBall(beta)), 2 * (1 + beta) / eta, id="heavy ball"),
    pytest.param(catalogued("SGD", momentum=beta), 2 * (1 + beta) / eta - lam, id="heavy ball, L2"),
    pytest.param(catalogued("SGDW", momentum=beta), (1 + beta) * (2 - eta * lam) / eta, id="heavy ball, decoupled"),
    pytest.param(
        catalogued("SGDS", momentum=beta), (1 + beta) * (2 - eta * lam / (1 - beta)) / eta, id="heavy ball, stable"
    ),
    pytest.param(
        catalogued("SGD", momentum=beta, dampening=tau), 2 * (1 + beta) / (eta * (1 - tau)) - lam, id="dampened, L2"
    ),
    pytest.param(
        catalogued("SGDW", momentum=beta, dampening=tau),
        (1 + beta) * (2 - eta * lam) / (eta * (1 - tau)),
        id="dampened, decoupled",
    ),
    pytest.param(
        catalogued("SGDS", momentum=beta, dampening=tau),
        (1 + beta) * (2 - eta * lam * (1 - tau) / (1 - beta)) / (eta * (1 - tau)),
        id="dampened, stable",
    ),
    pytest.param(
        catalogued("SGDW", momentum=beta, nesterov=True),
        (1 + beta) * (2 - eta * lam) / (eta * (1 + 2 * beta)),
        id="Nesterov, decoupled",
    ),
    pytest.param(
        catalogued("SGDS", momentum=beta, nesterov=True),
        (1 + beta) * (2 - eta * lam / (1 - beta)) / (eta * (1 + 2 * beta)),
        id="Nesterov, stable",
    ),
]


@pytest.mark.parametrize(("rule", "stated"), SGD_LIMITS)
@pytest.mark.slow
def test_stability_limits_of_the_sgd_family(rule, stated):
    """Assert that the derived stability limit is the theory's."""
    assert equal(stability_limit(rule).value, stated)


@pytest.mark.parametrize("family", ["Adam", "AMSGrad"])
@pytest.mark.slow
def test_stability_limits_of_frozen_adam(family):
    """Assert that ηh/(√v+ε) < (1+β₁)(2−r)/(1−β₁) with r = ηλ or ηλ/√v̄, and for L2 with h+λ in the place of h."""
    unit = (root + epsilon) * (1 + beta_1) / (eta * (1 - beta_1))
    limits = {"": 2 * unit - lam, "W": unit * (2 - eta * lam), "S": unit * (2 - eta * lam / root_mean)}
    for decay, stated in limits.items():
        assert equal(stability_limit(catalogued(family + decay, **ADAM)).value, stated)


@pytest.mark.slow
def test_thirty_eight():
    """Assert that Adam with β₁ = .9 and no decay is stable up to ηh/√v = 38."""
    limit = stability_limit(UpdateRule(eta, Adam((0.9, 0.999), eps=0.0))).value
    assert equal(limit * eta / root, 38)


@pytest.mark.slow
def test_adams_has_a_boundary_of_its_own():
    """Assert that no curvature is left to AdamS where ηλ = 2√v̄."""
    limit = stability_limit(catalogued("AdamS", **ADAM)).value
    assert equal(limit.subs(lam, 2 * sympy.sqrt(notation.mean(notation.PerWeight("v", positive=True))) / eta), 0)


@pytest.mark.parametrize("by_numbers", [True, False])
@pytest.mark.slow
def test_a_boundary_at_a_negative_curvature_says_so(by_numbers):
    """Assert that the step with h = −(1 − β + βηλ)/(βη(1 − ν)) says so, and the one of z = −1 does not."""
    rule = UpdateRule(0.1, QuasiHyperbolic(0.75, 0.5), Stable(0.5))
    *_, real, pair = stability_limit(rule if by_numbers else lettered(rule)[0]).steps
    assert pair.equation.rhs.subs(dict.fromkeys(pair.equation.rhs.free_symbols, 0.5)) < 0
    assert "h > 0" in pair.done and "h > 0" not in real.done


def test_decay_that_is_unstable_by_itself():
    """Assert that a rule whose decay alone passes its limit is said to be stable at no curvature."""
    with pytest.raises(NotDerivable, match="unstable at every small curvature"):
        stability_limit(CATALOG["SGDW"](lr=0.1, momentum=0.9, weight_decay=30.0))


def test_long_run_decay_of_l2_momentum():
    """Assert that R is 1 − the larger root of z² − (1+β−ηλ)z + β, and tends to ηλ/(1−β) as λ vanishes."""
    rate = long_run_decay_rate(catalogued("SGD", momentum=beta)).value
    z = 1 - rate
    assert equal(z**2 - (1 + beta - eta * lam) * z + beta, 0)
    other = beta / z
    assert float((z - other).subs({beta: 0.9, eta: 0.01, lam: 0.1})) > 0
    nine = {beta: sympy.Rational(9, 10)}
    assert equal(rate.diff(lam).subs(nine).subs(lam, 0), 10 * eta)


def test_long_run_decay_of_l2_momentum_by_numbers():
    """Assert the 1.11e-2 of the theory, and 1.0e-3 on the first step; and SGDS's 1.00e-2 from the first step on."""
    arguments = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}
    assert float(long_run_decay_rate(CATALOG["SGD"](**arguments)).value) == pytest.approx(1.11e-2, rel=THREE_DIGITS)
    assert long_run_decay_rate(CATALOG["SGDS"](**arguments)).value == sympy.Rational(1, 100)
    for name, rate in {"SGD": 0.001, "SGDS": 0.01}.items():
        rule = CATALOG[name](**arguments)
        assert abs(rule(rule.start(1.0), 0.0).theta - (1 - rate)) <= round_off(1, [1.0])


@pytest.mark.parametrize(("momentum", "printed"), [(0.9, 2.6e-3), (0.99, 2.5e-5)])
def test_where_l2_momentum_starts_to_oscillate(momentum, printed):
    """Assert that R is real below ηλ = (1−√β)² and complex above it, with an envelope of √β a step."""
    edge = (1 - sqrt(momentum)) ** 2
    assert edge == pytest.approx(printed, rel=20 * THREE_DIGITS)  # printed with two digits
    below, above = (
        complex(long_run_decay_rate(CATALOG["SGD"](lr=1.0, momentum=momentum, weight_decay=share * edge)).value)
        for share in (0.99, 1.01)
    )
    assert below.imag == 0 < below.real
    assert above.imag != 0
    assert abs(1 - above) == pytest.approx(sqrt(momentum), rel=RADICALS)


RATES = [
    pytest.param(catalogued("SGDW", momentum=beta), eta * lam, id="SGDW"),
    pytest.param(catalogued("SGDS", momentum=beta, dampening=tau), eta * lam * (1 - tau) / (1 - beta), id="SGDS"),
    pytest.param(catalogued("SGDS", momentum=beta, nesterov=True), eta * lam / (1 - beta), id="SGDS, Nesterov"),
    pytest.param(catalogued("AdamW", **ADAM), eta * lam, id="AdamW"),
    pytest.param(catalogued("AdamS", **ADAM), eta * lam / root_mean, id="AdamS"),
    pytest.param(catalogued("AMSGradS", **ADAM), eta * lam / root_mean, id="AMSGradS"),
    pytest.param(catalogued("AdaiS", betas=(beta_0, beta_2), eps=epsilon), eta * lam, id="AdaiS"),
]


@pytest.mark.parametrize(("rule", "stated"), RATES)
def test_stated_decay_rates(rule, stated):
    """Assert that decoupled and stable decay take off in the long run what they state."""
    assert equal(long_run_decay_rate(rule).value, stated)


def test_the_slow_root_is_found_among_symbols_of_ones_own():
    """Assert that the root near 1 is told from the momentum's, β = .99, when λ is called something else."""
    mine, own_lr = sympy.symbols("w e", positive=True)
    assert equal(long_run_decay_rate(UpdateRule(own_lr, HeavyBall(0.99), Decoupled(mine))).value, own_lr * mine)


@pytest.mark.slow
@settings(law, max_examples=5)
@given(direction=aggregated, lr=lrs, rate=st.floats(0.001, 0.01))
def test_long_run_decay_of_l2_measured(direction, lr, rate):
    """Assert that in a long run of the rule without gradients θ shrinks by R a step, for a direction held out.

    λ is small enough that the root near 1 is real and the largest, and the run long enough to forget the others.
    """
    rule = UpdateRule(lr, direction, L2(rate * (1 - max(direction.beta_1, direction.beta_2)) ** 2))
    state = rule.start(1.0)
    for _ in range(1500):
        before, state = state, rule(state, 0.0)
    measured = 1 - state.theta / before.theta
    assert measured == pytest.approx(complex(long_run_decay_rate(rule).value).real, abs=RADICALS)


def survives(step, state):
    """Whether a run shrinks by eight decades before it grows by as many; ``step`` maps a tuple of θ and memory."""
    for _ in range(200_000):
        state = step(state)
        size = max(abs(entry) for entry in state)
        if size < 1 / EIGHT_DECADES or size > EIGHT_DECADES:
            return size < 1
    raise AssertionError("neither shrinks nor grows")


def on_a_quadratic(rule, curvature):
    """The rule's step on ½hθ², of θ and its memory in one tuple, past the first step."""
    kind = type(rule.direction.rest(0.0))

    def step(entries):
        state = rule.start(entries[0])._replace(memory=kind(*entries[1:]), step=1)
        state = rule(state, curvature * state.theta)
        return (state.theta, *state.memory)

    return step


@law
@given(rule=st.builds(UpdateRule, st.floats(0.05, 0.5), directions, decays(0.05)))
@pytest.mark.slow
def test_the_limit_separates_survival_from_blow_up(rule):
    """Assert that the rule itself survives at .99 times the derived limit, and blows up at 1.01 times it."""
    limit = float(stability_limit(rule).value)
    start = (1.0, *rule.direction.rest(1.0))
    assert survives(on_a_quadratic(rule, 0.99 * limit), start)
    assert not survives(on_a_quadratic(rule, 1.01 * limit), start)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "AdamS"])
@pytest.mark.slow
def test_the_limit_of_frozen_adam_separates_too(name):
    """Assert the same for Adam with its preconditioner held still, in a loop written out by hand."""
    lr, beta1, eps, rate, v, v_bar = 0.1, 0.9, 0.01, 0.05, 0.25, 0.09
    derived = stability_limit(CATALOG[name](lr=lr, betas=(beta1, 0.99), eps=eps, weight_decay=rate)).value
    letter = notation.PerWeight("v", positive=True)
    limit = float(derived.xreplace({notation.mean(letter): sympy.Float(v_bar)}).xreplace({letter: sympy.Float(v)}))
    l2, taken = (rate, 0) if name == "Adam" else (0, lr * rate / (sqrt(v_bar) if name == "AdamS" else 1))

    def at(curvature):
        def step(state):
            theta, m = state
            m = beta1 * m + (1 - beta1) * (curvature + l2) * theta
            return (1 - taken) * theta - lr * m / (sqrt(v) + eps), m

        return step

    assert survives(at(0.99 * limit), (1.0, 0.0))
    assert not survives(at(1.01 * limit), (1.0, 0.0))


@pytest.mark.slow
def test_a_limit_in_symbols_is_the_limit_in_numbers():
    """Assert that putting numbers into the limit derived in symbols gives the limit derived from the numbers."""
    direction = AggregatedMomentum(0.5, 0.9)
    for decay in (L2, Decoupled, Stable):
        numbers = stability_limit(UpdateRule(0.1, direction, decay(0.05)))
        letters = stability_limit(UpdateRule(eta, AggregatedMomentum(beta_1, beta_2), decay(lam)))
        values = {eta: "0.1", beta_1: "0.5", beta_2: "0.9", lam: "0.05"}
        values = {letter: sympy.Rational(number) for letter, number in values.items()}
        assert equal(letters.value.subs(values), numbers.value)

"""The modified equation compared with the rule's own iterates: the error of F₀ is of order 1, of F₀ + ηF₁ of order 2.

The problem has three coupled weights, f = ½θᵀAθ + ¼Σθ⁴, and stays away from g = 0; means are true means.
The run starts on the slow manifold, a million steps on, where bias corrections are 1.
"""

from itertools import accumulate, repeat

import numpy as np
import pytest
import sympy
from aggregated_momentum import AggregatedMomentum
from scipy.integrate import solve_ivp
from symbolic.algebra import g, gdot, theta, theta_dot
from tolerances import SLOPE, SOLVER, round_off

from swd_dynamics.rules import CATALOG, L2, Adai, Adam, Decoupled, HeavyBall, Nesterov, Stable, UpdateRule
from swd_dynamics.symbolic import lettered, modified_equation, numeric_equation

TIME = 0.25
STEPS = (200, 400, 800, 1600, 3200)
LATE = 10**6
COUPLING = np.array([[1.0, 0.2, 0.0], [0.2, 0.8, -0.1], [0.0, -0.1, 1.2]])
START = np.array([1.2, 0.9, 1.5])
RATE = 0.2

RULES = [
    *(UpdateRule(0.1, AggregatedMomentum(0.5, 0.8), decay(RATE)) for decay in (L2, Decoupled, Stable)),
    *(UpdateRule(0.1, HeavyBall(0.7, 0.2), decay(RATE)) for decay in (L2, Decoupled, Stable)),
    UpdateRule(0.1, Nesterov(0.7), Stable(RATE)),
    *(UpdateRule(0.1, Adam((0.6, 0.8), 0.1), decay(RATE)) for decay in (L2, Decoupled, Stable)),
    *(UpdateRule(0.1, Adai((0.3, 0.7)), decay(RATE)) for decay in (L2, Stable)),
    CATALOG["AMSGradS"](lr=0.1, betas=(0.6, 0.8), eps=0.1, weight_decay=RATE),
]


def gradient(point):
    return COUPLING @ point + point**3


def curvature_times(point, vector):
    return COUPLING @ vector + 3 * point**2 * vector


class Numbers:
    """A derived modified equation as functions of numbers."""

    def __init__(self, rule):
        self.rule = rule
        self.equation = modified_equation(rule)
        self.values = {s: float(value) for s, value in lettered(rule)[1].items()}
        self.held = 2 * np.max(
            gradient(START) ** 2
        )  # a maximum of v that is never reached again, so that it is constant

    def of(self, expression):
        standing = list(self.equation.constants)
        arguments = [theta, g, gdot, *standing, *self.values]
        function = sympy.lambdify(arguments, expression, [{"mean": np.mean}, "numpy"])
        numbers = [*repeat(self.held, len(standing)), *self.values.values()]
        return lambda at, rate: function(at, gradient(at), curvature_times(at, rate), *numbers) + 0 * at

    def flow(self, eta, share):
        """dθ/dt = F₀ + share·ηF₁."""
        first, second = self.of(self.equation.first), self.of(self.equation.second)

        def field(_, at):
            slow = first(at, at)
            return slow + share * eta * second(at, slow) if share else slow

        return field

    def iterates(self, eta):
        """The rule's θ after TIME, its memory started on M₀ + ηM₁ of a step before the first."""
        first = self.of(self.equation.first)
        before = START - eta * first(START, START)
        rate = first(before, before)
        flow = self.equation.first
        entries = (m0 + eta * m1.xreplace({theta_dot: flow}) for m0, m1 in self.equation.memory.values())
        rule = UpdateRule(eta, self.rule.direction, self.rule.decay)
        memory = type(rule.direction.rest(0.0))(*(self.of(entry)(before, rate) for entry in entries))
        start = rule.start(START)._replace(memory=memory, step=LATE)
        *_, last = accumulate(
            range(round(TIME / eta)), lambda state, _: rule(state, gradient(state.theta)), initial=start
        )
        return last.theta


def solved(field):
    return solve_ivp(field, (0, TIME), START, "DOP853", rtol=SOLVER, atol=SOLVER).y[:, -1]


def order(numbers, iterates, share):
    """The slope of log |iterates − flow| against log η, over four halvings, and the smallest distance."""
    distances = [np.linalg.norm(last - solved(numbers.flow(eta, share))) for eta, last in iterates.items()]
    return np.polyfit(np.log([*iterates]), np.log(distances), 1)[0], min(distances)


every_rule = pytest.mark.parametrize(
    "rule", RULES, ids=lambda rule: f"{type(rule.direction).__name__}, {type(rule.decay).__name__}"
)


@pytest.mark.slow
@every_rule
def test_orders_one_and_two(rule):
    """Assert that the error of F₀ is of order 1 and that of F₀ + ηF₁ of order 2, unlike that of F₀ + 1.1ηF₁."""
    numbers = Numbers(rule)
    iterates = {TIME / steps: numbers.iterates(TIME / steps) for steps in STEPS}
    first, _ = order(numbers, iterates, 0.0)
    second, closest = order(numbers, iterates, 1.0)
    mutant, _ = order(numbers, iterates, 1.1)
    assert closest > 1000 * SOLVER
    assert abs(first - 1) <= SLOPE
    assert abs(second - 2) <= SLOPE
    assert abs(mutant - 2) > SLOPE


@every_rule
@pytest.mark.slow
def test_numeric_equation_is_the_symbolic_one(rule):
    """Assert that the compiled flow is the derived expressions with numbers put in, and so is its memory at η = 0."""
    numbers, numeric = Numbers(rule), numeric_equation(rule)
    standing = [np.full(3, numbers.held)] * len(numbers.equation.constants)
    total = gradient(START)
    flow = numeric.first(START, total, standing)
    assert np.linalg.norm(flow - numbers.of(numbers.equation.first)(START, START)) <= round_off(1, flow)
    turn = curvature_times(START, flow)
    second = numeric.second(START, total, flow, turn, standing)
    assert np.linalg.norm(second - numbers.of(numbers.equation.second)(START, flow)) <= round_off(1, second)
    standing_still = numeric.starting(START, total, flow, turn, 0.0)
    for (name, (resting, _)), found in zip(numbers.equation.memory.items(), standing_still, strict=True):
        if name not in numbers.equation.constants:
            assert np.linalg.norm(found - numbers.of(resting)(START, flow)) <= round_off(1, found)

"""Which derivations the hard directions have, what they give, and what a refusal says."""

import numpy as np
import pytest
import sympy
from symbolic.algebra import equal, g, gdot, h
from symbolic.catalogue import has, share_derivations
from symbolic.hard_directions import (
    HARD,
    Adagrad,
    Adamax,
    CenteredRMSprop,
    Lion,
    MatmulFree,
    Muon,
    Rprop,
    Saturated,
    Signum,
)
from symbolic.odd_directions import RMSprop

from swd_dynamics.arithmetic import mean, sqrt
from swd_dynamics.errors import InputError
from swd_dynamics.rules import CATALOG, SGD, Adam, Decoupled, Stable, UpdateRule
from swd_dynamics.symbolic import (
    NotDerivable,
    derivability_table,
    derivable,
    equations,
    fixed_point,
    lettered,
    linear_map,
    long_run_decay_rate,
    modified_equation,
    notation,
    stability_limit,
)
from swd_dynamics.symbolic.derivable import ASKED, YES
from swd_dynamics.symbolic.derivation import LONGEST
from swd_dynamics.symbolic.size import expanded_terms, written
from swd_dynamics.symbolic.tangent import SMOOTH

pytestmark = share_derivations

R = sympy.Rational
v = notation.PerWeight("v", positive=True)
ALL = [each for each in ASKED if each != "equilibrium"]
LINEAR = ["linear map", "stability limit", "fixed point", "long-run decay rate", "noise"]

# What each hard direction does not have. "Flow" in a refusal names order "state", which follows the memory.
LACKS = {
    "Lion": LINEAR,
    "Signum": LINEAR,
    "Muon": ALL,
    "Muon of numbers": ALL,
    "Adagrad": ["modified equation"],
    "Rprop": ["modified equation", *LINEAR],
    "ASGD": ALL,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HARD)
def test_what_hard_directions_have(name):
    """Assert that a hard direction lacks the derivations listed above, each with a sentence, and no others."""
    found = derivable(UpdateRule(0.1, HARD[name]))
    assert found.pop("equilibrium") != YES  # these rules have no decay
    assert [each for each, answer in found.items() if answer != YES] == LACKS.get(name, [])
    assert all(len(answer.split()) > 10 for answer in found.values() if answer != YES)


@pytest.mark.slow
@pytest.mark.parametrize("name", CATALOG)
def test_the_catalogue_answers_everything(name):
    """Assert that every entry has each derivation but those that are declared, and a whole sentence for those."""
    answers = derivable(CATALOG[name](weight_decay=0.1))
    assert {what: answer == YES for what, answer in answers.items()} == {
        what: has(name, derive) for what, derive in ASKED.items()
    }
    assert all(len(answer.split()) > 9 for answer in answers.values() if answer != YES)


def test_adagrad_that_slows_has_no_derivation():
    """Assert that a move that depends on the number of the step is refused, without advice on bias corrections."""
    answers = derivable(CATALOG["Adagrad"](lr_decay=0.1))
    assert all("depends on the step number" in answer and "bias" not in answer for answer in answers.values())


def test_a_power_of_beta_should_be_decayed():
    """Assert that a bias correction with a power is refused with the word that a derivation knows."""

    class Corrected(SGD):
        def move(self, memory, step):
            return step.gradient / (1 - 0.5**step.k)

    with pytest.raises(NotDerivable, match="write a bias correction as"):
        equations(UpdateRule(0.1, Corrected()))


@pytest.mark.slow
def test_the_table_numbers_the_reasons():
    """Assert that a table has a row for each rule and each different reason once, below the rows."""
    decay = Decoupled(0.1)
    table = derivability_table({"SGD": UpdateRule(0.1, SGD(), decay), "Signum": UpdateRule(0.1, Signum(), decay)})
    _, sgd, signum, *reasons = table.splitlines()
    assert sgd.split() == ["SGD", *[YES] * len(ASKED)]
    assert signum.split() == ["Signum", YES, YES, *["(1)"] * len(LINEAR), YES]
    assert [reason[:3] for reason in reasons] == ["(1)"]


SLOPES = [  # of each smooth sign at 0, and the limit of Lion's linear map: h < limit of the linear Lion / slope
    pytest.param(Lion(eps=0.04, kind=1), 5, id="x/√(x² + ε)"),
    pytest.param(Lion(eps=0.5, kind=2), 2, id="tanh(x/ε)"),
]


@pytest.mark.parametrize(("direction", "slope"), SLOPES)
@pytest.mark.slow
def test_a_smooth_sign_is_linearised(direction, slope):
    """Assert that a smooth Lion is stable below its limit and unstable above it, with the sign's slope at 0."""
    found = stability_limit(UpdateRule(0.1, direction))
    assert SMOOTH in found.assumptions
    limit = float(found.value)
    for share, is_stable in ((0.98, True), (1.02, False)):
        matrix = np.array([[1 - 0.1 * slope * 0.1 * share * limit, -0.1 * slope * 0.9], [0.01 * share * limit, 0.99]])
        assert (abs(np.linalg.eigvals(matrix)).max() < 1) == is_stable


@pytest.mark.slow
def test_a_linearised_step_is_the_steps_own_tangent():
    """Assert that the linear map of a smooth Lion with decay is what the rule itself does to a tiny θ and m."""
    rule = UpdateRule(0.1, Lion(kind=1), Decoupled(0.5))
    matrix = linear_map(rule)(h=2.0).value
    kind = type(rule.direction.rest(0.0))
    tiny = 1e-6
    for column, unit in enumerate(np.eye(3) * tiny):
        state = rule.start(float(unit[0]))._replace(memory=kind(*map(float, unit[1:])), step=1)
        after = rule(state, 2.0 * state.theta)
        slopes = np.array([after.theta, *after.memory]) / tiny
        assert slopes == pytest.approx(np.array(matrix[:, column], dtype=float).ravel(), rel=1e-6, abs=1e-9)


@pytest.mark.slow
def test_a_linear_step_does_not_say_that_it_is_linearised():
    """Assert that Adam with a frozen preconditioner, which is linear, has no such assumption."""
    assert SMOOTH not in stability_limit(UpdateRule(0.1, Adam())).assumptions


@pytest.mark.slow
def test_saturated_momentum():
    """Assert that m/(1 + m²) has the limit of the momentum itself, 2(1+β)/(η(1−β)), and the flow −g/(1 + g²)."""
    rule = UpdateRule(0.1, Saturated(0.5))
    assert stability_limit(rule).value == 60
    assert equal(modified_equation(rule).first, -g / (1 + g**2))


@pytest.mark.slow
def test_centred_rmsprop_is_linearised_with_its_mean_at_rest():
    """Assert that the limit of centred RMSprop with stable decay has √v for √(v − a²), and that its flow is refused.

    With exact gradients v − a² is 0, so that λ·η_eff is infinite.
    """
    rule = UpdateRule(0.1, CenteredRMSprop(momentum=0.5, eps=0.01), Stable(0.1))
    root, root_mean = sympy.sqrt(v), sympy.sqrt(notation.mean(v))
    limit = 15 * (root + R(1, 100)) * (2 - R(1, 50) / root_mean)
    found = stability_limit(rule)
    assert sympy.simplify(found.value - limit) == 0
    with pytest.raises(NotDerivable, match="infinite"):
        modified_equation(rule)


@pytest.mark.slow
def test_a_maximum_that_fades():
    """Assert that Adamax follows −g/(|g| + ε), and says that the maximum is the new value; with u frozen h < 38u/η."""
    rule = UpdateRule(0.1, Adamax())
    equation = modified_equation(rule)
    assert equal(equation.first, -g / (sympy.Abs(g) + R(1, 10**8)))
    assert any("maximum is the new value" in each for each in equation.assumptions)
    assert stability_limit(rule).value == 380 * v


@pytest.mark.slow
def test_the_flow_of_a_smooth_sign():
    """Assert F₁ of tanh by hand: (½ + lag)·sech²(g/ε)·ġ/ε, where the lag of c behind g is β₁/(1 − β₂)."""
    eps, lag = R(1, 2), R(9, 10) / R(1, 100)
    second = modified_equation(UpdateRule(0.1, Lion(eps=0.5, kind=2))).second
    expected = (R(1, 2) + lag) * gdot * sympy.sech(g / eps) ** 2 / eps
    at = {g: R(1, 3), gdot: 1}
    assert abs(sympy.N((second - expected).subs(at), 30)) < 1e-20


REFUSED = [
    pytest.param(UpdateRule(0.1, Adagrad()), modified_equation, "order='state'", id="accumulated squares"),
    pytest.param(
        UpdateRule(0.1, Rprop()), modified_equation, r"1\.2\d* in every step.*order='state'", id="growing steps"
    ),
    pytest.param(UpdateRule(0.1, Lion()), stability_limit, "sign.*jumps", id="sign"),
    pytest.param(UpdateRule(0.1, Muon()), equations, str(LONGEST), id="Newton–Schulz of matrices"),
    pytest.param(UpdateRule(0.1, MatmulFree()), fixed_point, str(LONGEST), id="Newton–Schulz of numbers"),
]


@pytest.mark.parametrize(("rule", "derive", "said"), REFUSED)
def test_refusals_say_why(rule, derive, said):
    """Assert that a refusal names its reason, from numbers and from symbols but where only the number shows it."""
    with pytest.raises(NotDerivable, match=said):
        derive(rule)


def test_a_direction_that_refuses_symbols_is_not_derivable():
    """Assert that an InputError of a direction becomes a NotDerivable that repeats its words."""

    class Shapes(SGD):
        def move(self, memory, step):
            raise InputError("this direction looks at shapes")

    assert set(derivable(UpdateRule(0.1, Shapes())).values()) != {YES}
    with pytest.raises(NotDerivable, match="looks at shapes"):
        long_run_decay_rate(UpdateRule(0.1, Shapes()))


@pytest.mark.slow
def test_a_mean_of_inverse_roots_stays_a_mean():
    """Assert that ⟨1/(√v + ε)⟩ in R is not taken for 1/(√v + ε) of each weight when the result is written shortly."""

    class Inverse(Adam):
        def effective_lr(self, memory, step):
            return step.lr * mean(1 / (sqrt(memory.v) + self.eps))

    theta = fixed_point(UpdateRule(0.1, Inverse(eps=0.01), Stable(0.1))).value
    inverse = notation.mean(1 / (sympy.sqrt(v) + R(1, 100)))
    expected = h * notation.theta_star / (h + R(1, 10) * (sympy.sqrt(v) + R(1, 100)) * inverse)
    assert sympy.simplify(theta - expected) == 0


@pytest.mark.slow
def test_a_long_memory_behind_roots():
    """Assert that RMSprop with momentum, whose F₁ once had hundreds of terms, has the limit 2(1+β)(√v+ε)/η."""
    limit = stability_limit(lettered(UpdateRule(0.1, RMSprop(0.9, 0.5, 0.1)))[0]).value
    at = {symbol: R(1, 2) for symbol in limit.free_symbols - {v}} | {v: R(1, 4)}
    assert limit.subs(at) == 6


def test_counts_do_not_walk_over_what_is_repeated():
    """Assert that a formula of 3⁶⁰ parts is counted up to where counting stops, and a deep one to its end."""
    x = deep = sympy.Symbol("x")
    for _ in range(60):
        x = sympy.Function("f")(x, x, x)
    for _ in range(3000):
        deep = sympy.Function("f")(deep)
    assert written(x) == 10**9
    assert written(deep) == 3001
    assert expanded_terms((sympy.Symbol("a") + 1) ** 200) == 10**9

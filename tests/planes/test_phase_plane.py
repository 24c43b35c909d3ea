"""Phase planes against closed forms, and their courses against torch."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from tolerances import ROUND_OFF, SOLVED

import swd_dynamics as sd
from swd_dynamics.flows import Flow
from swd_dynamics.planes import phase_plane
from swd_dynamics.rules import CATALOG, SGD, Decoupled, HeavyBall, UpdateRule
from swd_dynamics.rules.schedule import StepDecay
from swd_dynamics.symbolic import notation

EPS = np.finfo(float).eps

# Newton's method ends within round-off of a regular zero; the fields here are a few units large and steep.
PLACE = 1e-12

# Central differences with a stencil of ∛eps: the truncation and the round-off are both about eps^⅔ = 4e-11.
DIFFERENCES = 1e-9

# Derived Jacobians of two dimensions: a dozen operations, and the square root for two near eigenvalues costs digits.
DERIVED = 1e-11

# Where a field touches zero, the field is below the search's threshold, 1e-7 of its speed, within √1e-7 of the zero.
DEGENERATE = 3.2e-4

# The orbits of a figure, relative: a solver's tolerance of 1e-8 a step, over some hundred steps.
ORBIT = 1e-5

MU = 1.5
LR, BETA, DECAY = 0.05, 0.8, 0.5
D = 1 - BETA
H = np.array([3.0, 1.0])
OPTIMUM = np.array([1.0, -0.8])
PULL = {"SGD": DECAY, "SGDW": D * DECAY, "SGDS": DECAY}  # p of the fixed point hθ⋆/(h + p)


def gradient(theta):
    return H * (theta - OPTIMUM)


def hvp(theta, vector):
    return H * vector


def catalogued(name):
    return CATALOG[name](lr=LR, momentum=BETA, weight_decay=DECAY)


def one_weight(theta):
    return 3.0 * (theta - 1.0)


FIELDS = {  # field, window, fixed points with their kind and eigenvalues
    "saddle": (lambda x, y: (x, -2 * y), (-2, 2), [((0, 0), "saddle", (-2, 1))]),
    "centre": (lambda x, y: (y, -4 * x), (-2, 2), [((0, 0), "centre", (-2j, 2j))]),
    "focus": (lambda x, y: (-x + 3 * y, -3 * x - y), (-2, 2), [((0, 0), "stable focus", (-1 - 3j, -1 + 3j))]),
    "node": (lambda x, y: (-x + y, -y), (-2, 2), [((0, 0), "stable node", (-1, -1))]),
    "van der Pol": (
        lambda x, y: (y, MU * (1 - x * x) * y - x),
        (-3, 3),
        [((0, 0), "unstable focus", (MU / 2 - 1j * np.sqrt(1 - MU**2 / 4), MU / 2 + 1j * np.sqrt(1 - MU**2 / 4)))],
    ),
    "pendulum": (
        lambda x, y: (y, -np.sin(x)),
        (-4, 4),
        [((-np.pi, 0), "saddle", (-1, 1)), ((0, 0), "centre", (-1j, 1j)), ((np.pi, 0), "saddle", (-1, 1))],
    ),
    "circle and parabola": (
        lambda x, y: (x * x + y * y - 1.25, y - x * x),  # at y + y² = 1.25
        (-2, 2),
        [((s * np.sqrt((np.sqrt(6) - 1) / 2), (np.sqrt(6) - 1) / 2), None, None) for s in (-1, 1)],
    ),
}


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.slow
def test_known_fixed_points(name):
    """Assert that all fixed points are found at their place, with their eigenvalues and kind."""
    field, window, known = FIELDS[name]
    found = phase_plane(field, x=window, y=window).fixed_points
    assert len(found) == len(known)
    for point, (place, kind, eigenvalues) in zip(found, known, strict=True):
        assert np.abs(point.point - place).max() <= PLACE
        assert point.multipliers is None
        if kind:
            assert point.kind == kind
            assert np.abs(point.eigenvalues - eigenvalues).max() <= (DIFFERENCES if name != "node" else ORBIT)


@pytest.mark.parametrize(
    "field",
    [lambda x, y: (x * x, -y), lambda x, y: (y - x * x, y), lambda x, y: (-(x**3), -(y**3))],
    ids=["one touches zero", "they touch", "triple zeros"],
)
@pytest.mark.slow
def test_degenerate_fixed_points(field):
    """Assert that a fixed point at which a component does not change sign is found, and is degenerate."""
    (point,) = phase_plane(field).fixed_points
    assert point.kind == "degenerate"
    assert np.abs(point.point).max() <= DEGENERATE


SMALL = 1e-6
FAST = {
    "a function": (lambda x, y: (-np.sin(x / SMALL), -np.sin(y / SMALL)), {}),
    "a rule": (UpdateRule(LR, SGD()), {"gradient": lambda theta: np.sin(theta / SMALL)}),
}


@pytest.mark.parametrize("name", FAST)
def test_a_field_that_varies_on_the_scale_of_a_small_window(name):
    """Assert that −sin(10⁶x) is stable at 0, with the rate −10⁶, in a window of that size."""
    of, given = FAST[name]
    (point,) = phase_plane(of, **given, x=(-SMALL, SMALL), y=(-SMALL, SMALL)).fixed_points
    assert point.kind == "stable node"
    assert np.abs(point.eigenvalues * SMALL + 1).max() <= DIFFERENCES


@pytest.mark.slow
def test_a_small_window_far_from_the_origin():
    """Assert that at 10⁸ the rates are found in a window of 2, where a number is known to 10⁻⁸ only."""
    window = (1e8 - 1, 1e8 + 1)
    (point,) = phase_plane(lambda x, y: (1e8 - x, 2e8 - 2 * y), x=window, y=window).fixed_points
    assert point.kind == "stable node"
    assert np.abs(point.eigenvalues - (-2, -1)).max() <= 1e-4  # 1e-8 over a step of ∛(eps·1e8) = 3e-3, and twice that


STEEP = np.array([1e8, 1.0])


@pytest.mark.parametrize(
    ("of", "given"),
    [
        (lambda x, y: (-1e8 * x, -y), {}),
        (UpdateRule(1e-9, SGD()), {"gradient": lambda theta: STEEP * theta}),
        (
            UpdateRule(1e-9, SGD()),
            {"gradient": lambda theta: STEEP * theta, "hvp": lambda theta, vector: STEEP * vector},
        ),
    ],
    ids=["a function", "a rule", "a rule with hvp"],
)
@pytest.mark.slow
def test_components_of_very_different_size(of, given):
    """Assert that rates of 10⁸ and 1 have one fixed point, a stable node with these rates, and no line of them."""
    plane = phase_plane(of, **given)
    assert plane.fixed_lines == ()
    (point,) = plane.fixed_points
    assert point.kind == "stable node"
    assert np.abs(point.eigenvalues / (-1e8, -1) - 1).max() <= DIFFERENCES


@pytest.mark.slow
def test_a_near_miss_is_no_fixed_point():
    """Assert that nullclines that pass each other at a hundred-thousandth of the usual speed do not meet."""
    assert phase_plane(lambda x, y: (y - x * x, y + 1e-5)).fixed_points == ()


@pytest.mark.slow
def test_a_kink_has_no_linearisation():
    """Assert that at a fixed point on a kink no eigenvalues are given."""
    (point,) = phase_plane(lambda x, y: (-abs(x) + 0.5 * y, -y + 0.1 * x)).fixed_points
    assert point.kind == "no linearisation"
    assert np.isnan(point.eigenvalues).all()
    assert "kink" in point.described()


@pytest.mark.slow
def test_fixed_points_that_are_not_isolated():
    """Assert that a circle of fixed points is found as lines, with their rate, apart from an isolated point."""
    plane = phase_plane(lambda x, y: (x * (1 - x * x - y * y), y * (1 - x * x - y * y)))
    (origin,) = plane.fixed_points
    assert (origin.kind, np.abs(origin.point).max() <= PLACE) == ("unstable node", True)
    assert plane.fixed_lines
    for line in plane.fixed_lines:
        assert np.abs(np.hypot(*line.points.T) - 1).max() <= PLACE
        assert np.abs(line.rates + 2).max() <= DIFFERENCES
        assert line.kind == "attracting"


@pytest.mark.slow
def test_a_flat_direction_of_a_loss():
    """Assert that a loss with a valley, ½(θ₁+θ₂−1)², has one line of fixed points and no isolated fixed point."""
    rule = CATALOG["SGD"](lr=LR, momentum=BETA)
    plane = phase_plane(rule, lambda theta: np.full(2, theta.sum() - 1))
    assert plane.fixed_points == ()
    (line,) = plane.fixed_lines
    assert np.abs(line.points.sum(axis=1) - 1).max() <= PLACE
    assert np.abs(line.rates + 2 / D).max() <= DIFFERENCES / D
    assert "a line of fixed points" in plane.summary


@pytest.mark.slow
def test_at_rest_everywhere():
    """Assert that a field of zeros is at rest everywhere, and a component of zeros gives a line of fixed points."""
    plane = phase_plane(lambda x, y: (0, 0))
    assert plane.summary == "at rest everywhere"
    assert plane.fixed_points == plane.fixed_lines == ()
    half = phase_plane(lambda x, y: (0, -y))
    assert half.fixed_lines[0].kind == "attracting"
    assert any("dx/dt is zero everywhere" in note for note in half.notes)


@pytest.mark.slow
def test_where_the_field_is_not_defined():
    """Assert that a field that raises or is NaN somewhere is shown elsewhere, and a note says how much is missing."""

    def field(x, y):
        if y < 0:
            raise ZeroDivisionError
        return np.sqrt(x) - 0.5, 1 - y

    plane = phase_plane(field, start=(1, 0.5), t=3.0)
    (point,) = plane.fixed_points
    assert np.abs(point.point - (0.25, 1)).max() <= PLACE
    assert any("not defined on 7" in note for note in plane.notes)  # three quarters
    assert np.isfinite(plane.orbits[0]).all()


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", PULL)
@pytest.mark.slow
def test_rules_rest_where_theory_says(name, order):
    """Assert that with each decay the flow rests at hθ⋆/(h + λ) or hθ⋆/(h + λ(1−β)), with the known rates."""
    flow = Flow(catalogued(name), gradient, hvp, order)
    (point,) = phase_plane(flow).fixed_points
    assert np.abs(point.point - H * OPTIMUM / (H + PULL[name])).max() <= PLACE
    first = -(H + PULL[name]) / D
    lag = {"SGD": (1 + BETA) * (H + DECAY), "SGDW": (1 + BETA) * H + D**2 * DECAY, "SGDS": (1 + BETA) * H + D * DECAY}
    rates = first if order == 1 else first + LR * lag[name] * first / (2 * D**2)
    assert np.abs(point.eigenvalues - np.sort(rates)).max() <= DERIVED * np.abs(rates).max()
    assert point.kind == "stable node"


@pytest.mark.parametrize("name", PULL)
@pytest.mark.slow
def test_rules_rest_at_their_derived_fixed_point(name):
    """Assert that plane and algebra agree on the fixed point, also on a loss with coupled weights."""
    hessian = np.array([[2.0, 0.5], [0.5, 1.0]])
    rule = catalogued(name)
    (point,) = phase_plane(rule, lambda theta: hessian @ (theta - OPTIMUM)).fixed_points
    rest = sd.fixed_point(rule).value
    h, vectors = np.linalg.eigh(hessian)
    along = [
        float(rest.subs({notation.curvature: curvature, notation.theta_star: optimum}))
        for curvature, optimum in zip(h, vectors.T @ OPTIMUM, strict=True)
    ]
    assert np.abs(point.point - vectors @ along).max() <= PLACE


@pytest.mark.parametrize("order", [1, 2, "state"])
@pytest.mark.parametrize("name", PULL)
@pytest.mark.slow
def test_multipliers_are_those_of_the_step(name, order):
    """Assert that z solves z² − (1 − R + β − ηh)z + β(1 − R) = 0; for L2 with h + λ in place of h, and R = 0."""
    rate = {"SGD": 0.0, "SGDW": LR * DECAY, "SGDS": LR * DECAY / D}[name]
    h = H + (DECAY if name == "SGD" else 0)
    known = [np.roots([1, -(1 - rate + BETA - LR * each), BETA * (1 - rate)]) for each in h]
    if order == "state":
        flow, known = Flow(catalogued(name), one_weight, order="state"), known[:1]
    else:
        flow = Flow(catalogued(name), gradient, hvp, order)
    (point,) = phase_plane(flow, y=(-5, 5)).fixed_points
    expected = np.sort_complex(np.concatenate(known).astype(complex))
    assert np.abs(np.sort_complex(point.multipliers) - expected).max() <= DIFFERENCES
    assert point.steps_settle
    if order == "state":
        assert np.abs(point.eigenvalues - (expected - 1) / LR).max() <= DIFFERENCES / LR


@pytest.mark.slow
def test_a_stable_flow_of_unstable_steps():
    """Assert that past the stability limit the flow still settles and the steps do not."""
    h = np.array([41.0, 1.0])  # the limit of gradient descent is 2/η = 40
    (point,) = phase_plane(UpdateRule(LR, SGD()), lambda theta: h * theta).fixed_points
    assert (point.kind, point.steps_settle) == ("stable node", False)
    assert "steps leave, |z| = 1.05" in point.described()


@pytest.mark.slow
def test_groups():
    """Assert that weights with their own learning rate and decay have their own rates and multipliers."""
    rule = UpdateRule(np.array([0.05, 0.02]), HeavyBall(BETA), Decoupled(np.array([0.0, 0.3])))
    (point,) = phase_plane(rule, gradient).fixed_points
    pull, share = D * np.array([0.0, 0.3]), np.array([1.0, 0.4])
    assert np.abs(point.point - H * OPTIMUM / (H + pull)).max() <= PLACE
    assert np.abs(point.eigenvalues - np.sort(-share * (H + pull) / D)).max() <= DIFFERENCES / D
    known = [
        np.roots([1, -(1 - lr * decay + BETA - lr * h), BETA * (1 - lr * decay)])
        for lr, decay, h in zip((0.05, 0.02), (0.0, 0.3), H, strict=True)
    ]
    expected = np.sort_complex(np.concatenate(known).astype(complex))
    assert np.abs(np.sort_complex(point.multipliers) - expected).max() <= DIFFERENCES


def stays_on_the_kink():
    """The fixed point of AdamS: the first weight where λ|θ| = rms(g), the second at its optimum, where g is 0."""
    return np.array([H[0] / (H[0] + np.sqrt(2) * DECAY), -0.3])


@pytest.mark.parametrize(
    ("name", "optimum", "rest"),
    [
        ("Adam", OPTIMUM, H * OPTIMUM / (H + DECAY)),
        ("AdamW", OPTIMUM, OPTIMUM),
        ("AdamS", np.array([1.0, -0.3]), stays_on_the_kink()),
        ("AdaiS", OPTIMUM, H * OPTIMUM / (H + DECAY)),
    ],
)
@pytest.mark.slow
def test_adaptive_rules_rest_on_their_kinks(name, optimum, rest):
    """Assert that a fixed point is found where the flow changes within 1e-8 of a weight, and that it is stable."""
    plane = phase_plane(CATALOG[name](lr=LR, weight_decay=DECAY), lambda theta: H * (theta - optimum))
    (point,) = plane.fixed_points
    assert np.abs(point.point - rest).max() <= SOLVED  # ε shifts it by as much
    assert point.kind == "stable node"
    assert point.multipliers is None


@pytest.mark.slow
def test_a_fixed_point_where_an_orbit_ends():
    """Assert that the minimum (1, 1) of ½(θ₁θ₂ − 1)² is found, where both nullclines of AdamW lie within 1e-8."""

    def valley(theta):
        return (theta[0] * theta[1] - 1) * theta[::-1]

    rule = CATALOG["AdamW"](lr=0.02, weight_decay=0.3)
    plane = phase_plane(rule, valley, start=(1.6, 1.4), steps=1000, nodes=16)
    assert np.abs(plane.orbits[0][-1] - 1).max() <= ORBIT
    (point,) = (point for point in plane.fixed_points if np.abs(point.point - 1).max() <= 1e-6)  # λ shifts it by ελ
    assert point.kind == "stable node"


@pytest.mark.slow
def test_a_maximum_that_attracts_only_below_epsilon():
    """Assert that AdamS has a saddle at the maximum of (θ₁² − 1)² + 5θ₂², and stable nodes at its two minima."""

    def double_well(theta):
        return np.array([4 * theta[0] * (theta[0] ** 2 - 1), 10 * theta[1]])

    rule = CATALOG["AdamS"](lr=0.02, weight_decay=0.1)
    points = phase_plane(rule, double_well).fixed_points
    assert [(point.kind, point.hidden) for point in points] == [
        ("stable node", False), ("saddle", True), ("stable node", False),
    ]  # fmt: skip
    around = [Flow(rule, double_well).field(np.array([x, 0.0]))[0] for x in (-1e-3, 1e-3)]
    assert around[0] < 0 < around[1] and "only very close" in points[1].described()


@pytest.mark.slow
def test_the_usual_window_contains_the_starts():
    """Assert that a start outside (−2, 2) widens the usual window, and that a window that is given stays."""
    plane = phase_plane(lambda x, y: (-x, -y), start=[(2.6, 1.4), (0.0, -5.0)], t=0.1, nodes=8)
    assert plane.x[0] == -2 and plane.x[-1] > 2.6 and plane.y[0] < -5 and plane.y[-1] == 2
    given = phase_plane(lambda x, y: (-x, -y), x=(-1, 1), start=(2.6, 1.4), t=0.1, nodes=8)
    assert (given.x[0], given.x[-1], given.y[-1]) == (-1, 1, 2)


@pytest.mark.slow
def test_what_is_held_is_said():
    """Assert that one note mentions the maximum of AMSGrad, which is constant in the flow, and Adam's notes do not."""
    notes = {
        name: phase_plane(CATALOG[name](lr=LR, weight_decay=DECAY), gradient, start=(1, 1), steps=3).notes
        for name in ("AMSGradW", "AdamW")
    }
    assert ["maximum" in note for note in notes["AMSGradW"]] == [True, False, False, False]
    assert len(notes["AdamW"]) == 3 and not any("maximum" in note for note in notes["AdamW"])


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (CATALOG["AdamW"](lr=LR, weight_decay=DECAY), ["ε = 1e-08", "there may be more", "Adam is not linear"]),
        (CATALOG["AdamW"](lr=LR, weight_decay=DECAY, eps=1.0), ["Adam is not linear"]),  # μ = −h/ε = −h
        (CATALOG["SGD"](lr=LR, weight_decay=DECAY), []),
        (CATALOG["SGD"](lr=StepDecay(LR, 5, 0.5), weight_decay=DECAY), ["lr is a schedule"]),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_unexpected_eigenvalues_are_explained(rule, said):
    """Assert that a note says where ε sets an eigenvalue, and why |z| is unknown, and that SGD needs no note."""
    notes = phase_plane(rule, gradient).notes
    assert len(notes) == len(said) and all(part in note for part, note in zip(said, notes, strict=True))


@pytest.mark.slow
def test_several_wells():
    """Assert that the plane of weight and momentum of a double well has two foci and a saddle, each at its place."""
    flow = Flow(CATALOG["SGDS"](lr=0.02, momentum=0.9), lambda theta: theta**3 - theta, order="state")
    points = phase_plane(flow, y=(-3, 3)).fixed_points
    assert [point.kind for point in points] == ["stable focus", "saddle", "stable focus"]
    assert np.abs([point.point - (x, 0) for point, x in zip(points, (-1, 0, 1), strict=True)]).max() <= PLACE
    assert [point.steps_settle for point in points] == [True, False, True]


@pytest.mark.slow
def test_iterates_are_torch_steps():
    """Assert that the iterates are the steps that torch's SGD takes from the same start."""
    theta = torch.tensor([-1.5, 1.5], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([theta], lr=LR, momentum=BETA, weight_decay=DECAY)
    path = [theta.detach().numpy().copy()]
    for _ in range(30):
        theta.grad = torch.tensor(gradient(theta.detach().numpy()))
        optimizer.step()
        path.append(theta.detach().numpy().copy())
    plane = phase_plane(catalogued("SGD"), gradient, start=(-1.5, 1.5), steps=30)
    (run,) = plane.iterates
    assert (run.name, run.decay) == ("L2", "L2")
    assert np.abs(run.paths[0] - path).max() <= 30 * ROUND_OFF


@pytest.mark.slow
def test_iterates_by_name():
    """Assert that the steps of several rules come by name, from every start, each with its decay mode."""
    rules = {"plain": CATALOG["SGD"](lr=LR), "AdamW": CATALOG["AdamW"](lr=LR)}
    plane = phase_plane(Flow(rules["plain"], gradient), start=[(1, 1), (0, 1)], t=0.5, iterates_of=rules, nodes=12)
    assert [(run.name, run.decay) for run in plane.iterates] == [("plain", "none"), ("AdamW", "decoupled")]
    for run in plane.iterates:
        assert [path.shape for path in run.paths] == [(11, 2)] * 2
        assert [path[0].tolist() for path in run.paths] == [[1, 1], [0, 1]]


@pytest.mark.slow
def test_a_decay_that_is_not_in_the_table_is_unknown():
    """Assert that the iterates of a user's own decay mode are not called "none"."""

    @dataclass(frozen=True)
    class Independent:
        """R = λ, whatever the learning rate."""

        weight_decay: float

        def added_gradient(self, theta):
            return 0

        def decay_rate(self, step):
            return self.weight_decay

    rules = {"own": UpdateRule(LR, SGD(), Independent(0.1)), "off": UpdateRule(LR, SGD(), Independent(0.0))}
    plane = phase_plane(UpdateRule(LR, SGD()), gradient, start=(1, 1), steps=1, iterates_of=rules, nodes=12)
    assert [run.decay for run in plane.iterates] == ["unknown", "none"]


@pytest.mark.slow
def test_momentum_can_be_given():
    """Assert that on the plane of weight and momentum the steps begin with the momentum given."""
    flow = Flow(catalogued("SGDS"), one_weight, order="state")
    plane = phase_plane(flow, start=(0.0, 2.0), steps=1, nodes=12)
    momentum = BETA * 2 + one_weight(0.0)
    assert np.abs(plane.iterates[0].paths[0][1] - (-LR * momentum, momentum)).max() <= ROUND_OFF * 4


@pytest.mark.slow
def test_orbits():
    """Assert that the orbit of a centre closes after its period, and that an orbit that diverges ends far outside."""
    (orbit,) = phase_plane(lambda x, y: (y, -x), start=(1, 0), t=2 * np.pi).orbits
    assert np.abs(orbit[-1] - (1, 0)).max() <= ORBIT
    assert np.abs(np.hypot(*orbit.T) - 1).max() <= ORBIT
    (orbit,) = phase_plane(lambda x, y: (x * x, -y), start=(1, 1), t=5).orbits  # its pole is at t = 1
    assert np.isfinite(orbit).all()
    assert orbit[-1, 0] > 8


SPECTRUM = np.linspace(1.0, 30.0, 30)


@pytest.mark.parametrize("n", [5, 30])
@pytest.mark.slow
def test_slice_along_leading_directions(n):
    """Assert that the leading slice through a fixed point has the known curvatures and rates."""
    generator = np.random.default_rng(3)
    vectors = np.linalg.qr(generator.normal(size=(n, n)))[0]
    h = SPECTRUM[-n:]
    hessian = vectors * h @ vectors.T
    rest = generator.normal(size=n)
    rule = CATALOG["SGD"](lr=0.01, momentum=BETA)
    plane = phase_plane(
        rule,
        lambda theta: hessian @ (theta - rest),
        hvp=lambda theta, vector: hessian @ vector,
        origin=rest,
        directions="leading",
        start=(1.0, 1.0),
        steps=5,
        nodes=12,
    )
    (point,) = plane.fixed_points
    assert point.whole
    assert np.abs(point.point).max() <= PLACE
    assert np.abs(point.eigenvalues + h[[-1, -2]] / D).max() <= SOLVED * 30 / D
    assert plane.left_out <= SOLVED
    first = plane.iterates[0].paths[0][1]
    assert np.abs(first - (1 - 0.01 * h[[-1, -2]])).max() <= SOLVED
    assert plane.labels[0] == "a, along eigenvector 1 of the Hessian, h = 30"
    assert plane.alike


def test_slice_along_given_directions():
    """Assert that a slice shows the projected field, the share left out, and a zero of the projection only as such."""
    h, rest = np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.0, 1.0])
    plane = phase_plane(
        UpdateRule(0.1, SGD()),
        lambda theta: h * (theta - rest),
        origin=np.zeros(3),
        directions=[(2.0, 0.0, 0.0), (1.0, 1.0, 0.0)],
        start=(1.0, 1.0),
        steps=4,
        nodes=14,
    )
    (point,) = plane.fixed_points
    assert np.abs(point.point).max() <= PLACE
    assert not point.whole
    assert "at rest in this slice only" in str(plane)
    assert np.abs(point.eigenvalues - (-2, -1)).max() <= DIFFERENCES
    a, b = np.meshgrid(plane.x, plane.y)
    assert np.abs(plane.field - np.array([-a, -2 * b])).max() <= 8 * EPS
    inner = np.ix_(range(1, 13, 4), range(1, 13, 4))
    assert plane.left_out == pytest.approx(np.median(3 / np.sqrt(a**2 + 4 * b**2 + 9)[inner]), rel=8 * EPS)
    assert len(plane.notes) == 1 and f"{plane.left_out:.0%}" in plane.notes[0]
    path = np.array([(0.9**k, 0.8**k) for k in range(5)])
    assert np.abs(plane.iterates[0].paths[0] - path).max() <= ROUND_OFF * 4


@pytest.mark.slow
def test_text():
    """Assert that a plane can be read without being drawn."""
    said = str(phase_plane(catalogued("SGDS"), gradient))
    assert "one fixed point found, stable node" in said
    assert "stable node at (0.857143, −0.533333); eigenvalues μ = −17.5, −7.5; steps settle" in said

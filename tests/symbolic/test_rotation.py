"""The equilibrium of normalised layers: the theory's values, laws known in closed form, and layers that are run."""

import numpy as np
import pytest
import sympy
from symbolic.algebra import beta, beta_1, beta_2, eta, lam

from swd_dynamics.errors import InputError
from swd_dynamics.rules import CATALOG, L2, SGD, Adam, Decoupled, HeavyBall, Muon, NoDecay, Stable, UpdateRule
from swd_dynamics.symbolic import NotDerivable, equilibrium, lettered, notation
from swd_dynamics.symbolic.balance import power_of
from swd_dynamics.symbolic.correlation import correlations
from swd_dynamics.symbolic.orthogonal import momentum_weights, orthogonalised
from swd_dynamics.symbolic.signs import SIGN

C, gamma = notation.layer_size, notation.layer_gradient
THEORY = {  # norm and angle of the theory for C = 512, Γ = 3, to six digits
    "SGD": ({"lr": 0.02, "momentum": 0.9, "weight_decay": 0.05}, 2.05990, 0.032444),
    "SGDW": ({"lr": 0.02, "momentum": 0.9, "weight_decay": 0.05}, 3.65467, 0.010262),
    "SGDS": ({"lr": 0.02, "momentum": 0.9, "weight_decay": 0.005}, 3.65467, 0.010262),
    "Adam": ({"lr": 0.001, "betas": (0.9, 0.99), "weight_decay": 0.02}, 1.19280, 0.004352),
    "AdamW": ({"lr": 0.002, "weight_decay": 0.5}, 1.00742, 0.010262),
    "AdamS": ({"lr": 0.002, "weight_decay": 0.02}, 1.50080, 0.006905),
}


@pytest.mark.parametrize("name", THEORY)
@pytest.mark.slow
def test_values_of_the_theory(name):
    """Assert the norms of the theory, and its angles √(2(1 − ρ₁)), in all printed digits."""
    arguments, norm, angle = THEORY[name]
    found = equilibrium(CATALOG[name](**arguments), shape=512, gradient=3.0).results
    assert float(found["‖θ‖"]) == pytest.approx(norm, abs=6e-6)
    assert float(found["‖Δθ‖/‖θ‖"]) == pytest.approx(angle, abs=6e-7)


LION = [((0.9, 0.99), 1.0, 0.144704, 0.006841), ((0.95, 0.98), 0.3, 0.308955, 0.003223)]


@pytest.mark.parametrize(("betas", "decay", "norm", "angle"), LION)
def test_lion_of_the_theory(betas, decay, norm, angle):
    """Assert the rms and the angle of a weight under Lion in the theory."""
    found = equilibrium(CATALOG["LionW"](lr=1e-3, betas=betas, weight_decay=decay), shape=1).results
    assert float(found["‖θ‖"]) == pytest.approx(norm, abs=6e-7)
    assert float(found["angle"]) == pytest.approx(angle, abs=6e-7)


def same(found, known) -> bool:
    """Whether two expressions with roots are equal at sample values."""
    at = {symbol: sympy.Rational(3 + i, 13) for i, symbol in enumerate(sorted(known.free_symbols, key=str))}
    return abs(sympy.N((found - known).xreplace(at), 30)) < 1e-25


@pytest.mark.slow
def test_laws_in_closed_form():
    """Assert the laws of the theory in symbols: exact for SGD with L2 and for AdamW, cube roots for Adam and AdamS."""
    sgd = equilibrium(UpdateRule(eta, HeavyBall(beta), L2(lam))).results
    assert same(sgd["‖θ‖"] ** 4, gamma**2 * eta * (1 + beta) / (lam * (1 - beta) * (2 * (1 + beta) - eta * lam)))
    assert same(sgd["‖Δθ‖/‖θ‖"] ** 2, 2 * eta * lam / (1 + beta))
    assert same(sgd["steps"], (1 - beta) / (4 * eta * lam))
    adam = {"lr": eta, "betas": (beta_1, beta_2), "eps": 0.0, "weight_decay": lam}
    adamw, a = equilibrium(CATALOG["AdamW"](**adam)).results, 1 - eta * lam
    size = eta**2 * C * (1 - beta_1) / (1 + beta_1)
    assert same(adamw["‖θ‖"] ** 2, size * (1 + a * beta_1) / ((1 - a**2) * (1 - a * beta_1)))
    for name in ("Adam", "AdamS"):
        found = equilibrium(CATALOG[name](**adam)).results
        assert same(found["‖θ‖"] ** 3, eta * gamma * sympy.sqrt(C) / (2 * lam))
        rate = eta * lam * sympy.sqrt(C) / gamma * found["‖θ‖"]
        assert same(found["‖Δθ‖/‖θ‖"] ** 2, 2 * rate * (1 - beta_1) / (1 + beta_1))
        assert same(found["steps"], 1 / (3 * rate))


@pytest.mark.parametrize("name", ["SGDW", "AdamW", "AdamS", "LionS"])
@pytest.mark.slow
def test_formulas_and_numbers_meet_where_the_decay_is_weak(name):
    """Assert that the formula in C and Γ, put into numbers, differs from the numbers by the order of the decay rate."""
    momentum = {"momentum": 0.5} if name.startswith("SGD") else {"betas": (0.5, 0.6)}
    rule = CATALOG[name](lr=0.01, weight_decay=1e-4, **momentum)
    formulas = equilibrium(rule).results
    for named, value in equilibrium(rule, shape=(8, 8), gradient=2.0).results.items():
        assert float(formulas[named].subs({C: 64, gamma: 2})) == pytest.approx(float(value), rel=1e-3)


def simulated(rule, shape, strength, start, steps):
    """The root mean square of ‖θ‖ and of ‖Δθ‖/‖θ‖ of layers with gradients of norm Γ/‖θ‖ perpendicular to θ."""
    generator = np.random.default_rng(0)
    theta = generator.standard_normal(shape)
    inner = tuple(range(theta.ndim - (2 if theta.ndim == 2 and rule.direction.__class__ is Muon else 1), theta.ndim))
    state = rule.start(theta * start / np.sqrt((theta**2).sum(inner, keepdims=True)))
    norms, moves = [], []
    for k in range(steps):
        theta = state.theta
        square = (theta**2).sum(inner, keepdims=True)
        noise = generator.standard_normal(shape)
        noise -= theta * (theta * noise).sum(inner, keepdims=True) / square
        noise *= strength / np.sqrt(square * (noise**2).sum(inner, keepdims=True))
        state = rule(state, noise)
        if 4 * k >= steps:
            norms.append(square.mean())
            moves.append((((state.theta - theta) ** 2).sum(inner, keepdims=True) / square).mean())
    return np.sqrt(np.mean(norms)), np.sqrt(np.mean(moves))


LAYERS = {
    "SGD with Nesterov": CATALOG["SGD"](lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.05),
    "SGDS": CATALOG["SGDS"](lr=0.02, momentum=0.9, weight_decay=0.02),
    "AdamW": CATALOG["AdamW"](lr=0.01, betas=(0.9, 0.99), weight_decay=0.5),
    "AdamS": CATALOG["AdamS"](lr=0.01, betas=(0.9, 0.99), weight_decay=0.02),
    "AdaBelief": CATALOG["AdaBelief"](lr=0.01, betas=(0.9, 0.99), weight_decay=0.02),
    "Adam with preconditioned decay": CATALOG["AdamPreconditioned"](lr=0.01, betas=(0.9, 0.99), weight_decay=0.02),
    "LionS": CATALOG["LionS"](lr=0.001, weight_decay=0.02),
    "Lion with L2, R near 1 − β₂": CATALOG["Lion"](lr=0.001, weight_decay=0.02),
    "SignumW": CATALOG["SignumW"](lr=0.005, weight_decay=1.0),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.slow
def test_layers_in_noise(name):
    """Assert ‖θ‖ and ‖Δθ‖/‖θ‖ of 8 layers with 512 weights. The sampling error of a norm is .2 %, v fluctuates by 10 %.

    L2 inside a sign is linear only to first order, which explains 1 % where R is as large as here.
    """
    rule = LAYERS[name]
    norm, move, _, _ = map(float, equilibrium(rule, shape=512, gradient=3.0).results.values())
    found = simulated(rule, (8, 512), 3.0, norm, 4000)
    assert found == pytest.approx((norm, move), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arguments"), [("MuonW", {"nesterov": False}), ("MuonS", {}), ("Muon", {})])
def test_matrices_in_noise(name, arguments):
    """Assert ‖W‖ and ‖ΔW‖/‖W‖ of one matrix under Muon. A norm fluctuates by 4 %, 20 times independently: by 1 %."""
    rule = CATALOG[name](lr=0.05, momentum=0.9, weight_decay=0.2 if name == "MuonW" else 0.02, **arguments)
    norm, move, _, _ = map(float, equilibrium(rule, shape=(16, 24), gradient=3.0).results.values())
    found = simulated(rule, (16, 24), 3.0, norm, 3000)
    assert found == pytest.approx((norm, move), rel=0.03)


@pytest.mark.slow
def test_orthogonal_matrices_by_singular_values():
    """Assert c(ρ) of a Newton–Schulz iteration that converges against that of U·Vᵀ from singular values."""
    exact = Muon(ns_coefficients=(1.5, -0.5, 0.0), ns_steps=25, coarse=False)
    output = orthogonalised(exact, (16, 16))
    generator, nodes = np.random.default_rng(1), np.array([0.1, 0.5, 0.9])

    def polar(x):
        u, _, v = np.linalg.svd(x)
        return u @ v

    pairs = generator.standard_normal((600, 2, 16, 16))
    known = [
        np.mean(polar(pairs[:, 0]) * polar(rho * pairs[:, 0] + np.sqrt(1 - rho**2) * pairs[:, 1])) for rho in nodes
    ]
    assert 16 * output.square == pytest.approx(1, abs=0.003)
    # both are means of 256 or more matrices with 256 weights: .4 % of 1, and .3 % from the polynomial between nodes
    assert output.correlation(nodes) == pytest.approx(np.array(known) * 16, abs=0.007)


def test_what_the_momentum_of_muon_is_made_of():
    """Assert that u of Nesterov's momentum is (1−β²)g + (1−β)β²g₁ + (1−β)β³g₂ + …, where gⱼ is j steps old."""
    weights = momentum_weights(Muon(0.75))
    assert weights[:3] == pytest.approx([1 - 0.75**2, 0.25 * 0.75**2, 0.25 * 0.75**3], rel=1e-12)


def test_correlation_of_signs():
    """Assert (2/π)·arcsin ρ against signs of random numbers, and the correlations of a moving average."""
    first, second = np.random.default_rng(0).standard_normal((2, 400_000))
    signs = np.sign(first) * np.sign(0.6 * first + 0.8 * second)
    assert SIGN.correlation(np.array([0.6])) == pytest.approx(signs.mean(), abs=0.006)  # 4 times 1/√400,000
    assert correlations(np.array([1.0, 1.0, 1.0]))[:3] == pytest.approx([1, 2 / 3, 1 / 3])


@pytest.mark.parametrize("name", ["SGDS", "AdamW", "AdamS"])
@pytest.mark.slow
def test_how_long_it_takes(name):
    """Assert that a departure of ‖θ‖ from its equilibrium falls to 1/e in the number of steps that is derived.

    The variance of the weights, whose noise it sets itself, is followed without any sampling.
    """
    rule = CATALOG[name](lr=0.01, weight_decay=0.01, **({"momentum": 0.5} if name == "SGDS" else {"betas": (0.5, 0.9)}))
    found = equilibrium(rule, shape=64, gradient=2.0).results
    norm, steps = float(found["‖θ‖"]), float(found["steps"])
    start, b = 1.001 * norm, 0.5
    square, cross, memory = start**2 / 64, 0.0, 0.0
    for k in range(round(steps)):
        sigma = 2.0 / (64 * np.sqrt(square))
        gain, weight = (0.01, 1.0) if name == "SGDS" else (0.01 / sigma, 1 - b)
        rate = {"SGDS": 0.01 * 0.01 / (1 - b), "AdamW": 1e-4, "AdamS": 1e-4 / sigma}[name]
        moved, crossed = b**2 * memory + weight**2 * sigma**2, b * cross
        square = (1 - rate) ** 2 * square - 2 * (1 - rate) * gain * crossed + gain**2 * moved
        cross, memory = (1 - rate) * crossed - gain * moved, moved
        if k == 20:  # the memory has begun: from here on its departure is measured
            first, begun = np.sqrt(64 * square) / norm - 1, k
    share = (np.sqrt(64 * square) / norm - 1) / first
    assert share == pytest.approx(np.exp(-(round(steps) - 1 - begun) / steps), rel=0.02)


REFUSED = [
    pytest.param(UpdateRule(0.1, HeavyBall(0.9)), {}, "grows without end", id="no decay"),
    pytest.param(CATALOG["AdamCautious"](weight_decay=0.1), {}, "depends on a sign", id="cautious"),
    pytest.param(CATALOG["LionW"](weight_decay=0.0), {"shape": 8}, "grows without end", id="a sign without decay"),
    pytest.param(CATALOG["AMSGradW"](weight_decay=0.1), {}, "v_max", id="a maximum"),
    pytest.param(CATALOG["Adagrad"](weight_decay=0.1), {}, "which value v has", id="a sum"),
    pytest.param(CATALOG["MuonW"](weight_decay=0.1), {"shape": 8}, r"shape=\(rows, columns\)", id="no matrix"),
    pytest.param(lettered(CATALOG["LionW"](weight_decay=0.1))[0], {}, "give a number for β₁ and β₂", id="symbols"),
    pytest.param(CATALOG["SGDW"](lr=3.0, weight_decay=1.0), {}, "overshoot", id="too strong"),
    pytest.param(CATALOG["Adafactor"](weight_decay=0.1), {"shape": (8, 8)}, "shapes of tensors", id="another matrix"),
]


@pytest.mark.parametrize(("rule", "arguments", "said"), REFUSED)
def test_refusals_say_why(rule, arguments, said):
    """Assert that a rule without an equilibrium, or without a formula for it, is refused with its reason."""
    with pytest.raises(NotDerivable, match=said):
        equilibrium(rule, **arguments)


IMPOSSIBLE = [*({"shape": shape} for shape in (0, 2.5, (), True)), *({"gradient": norm} for norm in (0.0, -1))]


@pytest.mark.parametrize("arguments", IMPOSSIBLE)
def test_impossible_layers(arguments):
    """Assert that a shape that is no shape and a gradient that is not positive are refused."""
    with pytest.raises(InputError):
        equilibrium(CATALOG["SGDW"](lr=0.1, weight_decay=0.1), **arguments)


@pytest.mark.slow
def test_eps_counts_in_numbers():
    """Assert that an ε as large as √v shortens ‖θ‖ in numbers, and that formulas say that they leave ε out."""
    without, with_eps = (
        equilibrium(UpdateRule(0.01, Adam(eps=eps), Decoupled(0.1)), shape=64, gradient=1.0) for eps in (0.0, 0.1)
    )
    assert float(with_eps) < 0.7 * float(without)
    assert any("ε is 0" in each for each in equilibrium(UpdateRule(0.01, Adam(), Stable(0.1))).assumptions)


def test_powers_are_found():
    """Assert that a power is found only where an expression is one."""
    x, y = sympy.symbols("x y", positive=True)
    assert power_of(x, 3 * y / x**2) == -2
    assert power_of(x, sympy.sqrt(x) * (1 + y)) == sympy.Rational(1, 2)
    assert power_of(x, x**3 + y) is None


def test_gradient_descent_without_decay_is_refused_in_numbers():
    """Assert that a rule without any decay is refused whatever is given."""
    with pytest.raises(NotDerivable):
        equilibrium(UpdateRule(0.1, SGD(), NoDecay()), shape=4, gradient=1.0)

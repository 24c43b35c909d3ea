"""The study of the equilibrium in noise: the laws of its instruments, and that it sees a wrong law."""

import numpy as np
import pytest
import torch
from lion_pytorch import Lion

from swd_dynamics.rules import CATALOG
from swd_dynamics.studies import equilibrium
from swd_dynamics.studies.equilibrium import MUON, WALKERS, Norms, normalised_methods
from swd_dynamics.studies.normalised_layers import ScheduledLayer, cosine, follow_cosine, learn
from swd_dynamics.studies.random_walks import (
    SIDE,
    WEIGHTS,
    SignOptimizer,
    Walker,
    fluctuation_factor,
    kept_correlation,
    layer,
    matrix,
)
from swd_dynamics.symbolic import NotDerivable
from swd_dynamics.symbolic import equilibrium as derived_equilibrium

# What has no derived equilibrium, and why.
GROWS = "a maximum and a sum of squares grow"
UNKNOWN = {
    **dict.fromkeys(("AMSGrad", "AMSGradW", "AMSGradS", "Adagrad", "AdagradW", "AdagradS"), GROWS),
    **dict.fromkeys(("Adamax", "AdamaxW", "AdamaxS"), GROWS),
    **dict.fromkeys(("SGDCautious", "AdamCautious"), "the decay rate depends on a sign"),
    **dict.fromkeys(("Rprop", "RpropW", "RpropS"), "comes to rest"),
    **dict.fromkeys(("ASGD", "ASGDW", "ASGDS"), "depends on the step number"),
    **dict.fromkeys(("ScheduleFreeSGD", "ScheduleFreeSGDW", "ScheduleFreeSGDS"), "has no rest point"),
    **dict.fromkeys(("ScheduleFreeAdam", "ScheduleFreeAdamW", "ScheduleFreeAdamS"), "has no rest point"),
    **dict.fromkeys(("Adafactor", "AdafactorW", "AdafactorS"), "looks at the shapes of tensors"),
}
# Derived, but no real optimizer decays so: stable decay exists for SGD, Adam and Adai alone.
NOT_MEASURED = {
    *("RMSpropS", "AdadeltaS", "NAdamS", "RAdamS", "SignumS", "LionS", "MuonS"),
    *("AdaBelief", "AdaBeliefW", "AdaBeliefS", "AdaiW", "Muon"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_rules_without_an_equilibrium_say_why(name):
    """Assert that the rules whose state grows, jumps or never repeats are refused, each with its reason."""
    with pytest.raises(NotDerivable) as told:
        derived_equilibrium(CATALOG[name](lr=1e-3, weight_decay=0.1), shape=WEIGHTS, gradient=3.0)
    assert UNKNOWN[name] in " ".join(str(told.value).split())


def test_every_rule_is_measured_or_known_not_to_be():
    """Assert that each entry of the catalogue is measured in noise, has no equilibrium, or has no real optimizer."""
    measured = {walker.name for walkers in WALKERS.values() for walker in walkers} | {"MuonW"}
    assert measured | {*UNKNOWN} | NOT_MEASURED == {*CATALOG}
    assert not measured & ({*UNKNOWN} | NOT_MEASURED)


@pytest.mark.slow
def test_layers_of_gradient_descent():
    """Assert ‖θ‖⁴ = η²Γ²/(2R − R²) and ‖Δθ‖² = 2R‖θ‖² for gradient descent with decoupled decay, R = ηλ."""
    norm = (0.1**2 * 9 / (2 * 0.01 - 0.01**2)) ** 0.25

    def make(parameters):
        return torch.optim.SGD(parameters, lr=0.1)

    class Decayed(torch.optim.SGD):
        def step(self, closure=None):
            with torch.no_grad():
                for weight in self.param_groups[0]["params"]:
                    weight.mul_(0.99)
            return super().step(closure)

    found = layer(lambda parameters: Decayed(parameters, lr=0.1), (4, WEIGHTS), 3.0, norm, 1000, seed=0)
    assert found == pytest.approx((norm, np.sqrt(2 * 0.01)), rel=0.005)
    assert layer(make, (4, WEIGHTS), 3.0, norm, 1000, seed=0)[0] > 1.2 * norm  # without decay the weights grow


def test_gradients_of_layers_are_those_of_a_loss():
    """Assert that a step of SGD is along the gradient that autograd gives of Γ·⟨ξ, θ⟩/(√C·‖θ‖), with the same ξ."""
    seen = []

    class Looks(torch.optim.SGD):
        def step(self, closure=None):
            seen.append([weight.clone() for weight in (self.param_groups[0]["params"][0], self.grad)])
            return super().step(closure)

        @property
        def grad(self):
            return self.param_groups[0]["params"][0].grad

    layer(lambda parameters: Looks(parameters, lr=0.1), (2, 8), 3.0, 1.0, 1, seed=5, forget=0.0)
    generator = torch.Generator().manual_seed(5)
    torch.randn(2, 8, generator=generator)  # the start
    theta = seen[0][0].detach().requires_grad_()
    noise = torch.randn(2, 8, generator=generator)
    (3.0 / 8**0.5 * ((noise * theta).sum(-1) / theta.norm(dim=-1)).sum()).backward()
    torch.testing.assert_close(seen[0][1], theta.grad)


def test_l2_by_hand_is_torchs():
    """Assert that λθ added by hand gives the run of torch's own L2."""
    own = layer(Walker("SGD", {"lr": 0.1, "weight_decay": 0.05}).optimizer, (2, 8), 3.0, 1.0, 50, seed=0)
    by_hand = layer(Walker("SGD", {"lr": 0.1, "weight_decay": 0.0}).optimizer, (2, 8), 3.0, 1.0, 50, 0, joined=0.05)
    assert by_hand == pytest.approx(own, rel=1e-6)


@pytest.mark.slow
def test_a_matrix_of_random_signs():
    """Assert that signs without momentum give ‖W‖² = η²n/(1 − a²), the sum of independent moves, a = 1 − ηλ."""
    norm = 0.01 * SIDE / np.sqrt(1 - 0.99**2)
    walker = Walker("SignumW", {"lr": 0.01, "momentum": 0.0, "weight_decay": 1.0})
    assert matrix(walker.optimizer, norm, 2000)[0] == pytest.approx(norm, rel=0.05)  # 1024 weights, 14 memories


def test_the_sign_optimizer_is_lion():
    """Assert that it takes the steps of lion_pytorch, to round-off."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(50, generator=generator, dtype=torch.float64)
    ours, theirs = (start.clone().requires_grad_() for _ in range(2))
    optimizers = [kind([w], lr=0.01, weight_decay=0.5) for kind, w in ((SignOptimizer, ours), (Lion, theirs))]
    for _ in range(30):
        gradient = torch.randn(50, generator=generator, dtype=torch.float64)
        for weight, optimizer in zip((ours, theirs), optimizers, strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("betas", [(0.0, 0.98), (0.9, 0.98)])
@pytest.mark.slow
def test_the_fluctuation_of_v_by_sampling(betas):
    """Assert E m²/v of running means of Gaussian numbers, sampled, against the closed form, to the next order."""
    random = np.random.default_rng(0)
    m, v, found = np.zeros(40_000), np.ones(40_000), []
    for k in range(400):
        gradient = random.standard_normal(40_000)
        m = betas[0] * m + (1 - betas[0]) * gradient
        v = betas[1] * v + (1 - betas[1]) * gradient**2
        if k >= 250 and k % 10 == 0:
            found.append(np.mean(m**2 / v))
    ratio = np.mean(found) / ((1 - betas[0]) / (1 + betas[0]))
    # 600,000 numbers scatter by .2 %; the next order in 1 − β₂ is about .04 %
    assert np.sqrt(ratio) == pytest.approx(fluctuation_factor(betas), abs=0.003)
    assert fluctuation_factor(betas) < 0.994


def test_moves_as_correlated_as_the_momentum():
    """Assert the law that is refuted in closed form: S = 1 without momentum, and (1 + aβ)/(1 − aβ) with it."""
    a = 1 - MUON["lr"] * MUON["weight_decay"]
    one = MUON["lr"] * np.sqrt(SIDE / (1 - a * a))
    assert kept_correlation(CATALOG["MuonW"](momentum=0.0, **MUON)) == pytest.approx(one)
    plain = CATALOG["MuonW"](momentum=0.9, nesterov=False, **MUON)
    assert kept_correlation(plain) == pytest.approx(one * np.sqrt((1 + 0.9 * a) / (1 - 0.9 * a)))


def test_wrong_norms_are_refuted():
    """Assert that norms are refuted that are all 3 % off, and so is a power of Γ that is .02 off."""
    x, derived = np.array([1.0, 100.0]), np.array([[1.0, 10.0], [0.1, 0.1]])
    right = Norms("AdamS", "stable", x, derived, derived)
    assert all(verdict.passed for verdict in equilibrium._of_method(right))
    longer, step, power = equilibrium._of_method(right._replace(measured=1.03 * derived))
    assert (longer.passed, step.passed, power.passed) == (False, False, True)
    *_, power = equilibrium._of_method(right._replace(measured=derived * x**0.02))
    assert not power.passed


def test_one_optimizer_that_is_off_refutes_its_kind():
    """Assert that the farthest optimizer decides, and is named."""
    one = np.array([1.0, 0.1])
    near, far = (Norms(name, "L2", np.array([3.0]), one, share * one) for name, share in (("A", 0.999), ("B", 1.02)))
    assert all(verdict.passed for verdict in equilibrium._of_walks("SGD", [near, near]))
    norm, step = equilibrium._of_walks("SGD", [near, far, near])
    assert not norm.passed and not step.passed
    assert "farthest: B" in norm.claim


def test_every_mode_is_measured():
    """Assert that SGD and Adam are measured with each decay."""
    assert [(m.name, m.mode) for m in normalised_methods()] == [
        *(("SGD", "L2"), ("SGDW", "decoupled"), ("SGDS", "stable")),
        *(("Adam", "L2"), ("AdamW", "decoupled"), ("AdamS", "stable")),
    ]


@pytest.mark.parametrize("normalised", ["weights", "rows", "outputs"])
def test_the_gradient_of_a_normalised_layer_is_perpendicular(normalised):
    """Assert that without decay each step of SGD only lengthens θ, by ‖θ′‖² = ‖θ‖² + ‖Δθ‖², however normalised."""
    walker = Walker("SGD", {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0})
    course = learn(walker, 20, normalised=normalised)
    if normalised == "rows":
        assert (np.diff(course.norm) > 0).all()
        return
    grown = course.norm[:-1] * (1 + course.step[:-1])
    assert course.norm[1:] == pytest.approx(grown, rel=1e-5)  # float32


@pytest.mark.slow
def test_the_law_with_the_current_lr_lags():
    """Assert that the derived norm under a cosine is that of η at k, and that a lag ends above it."""
    walker = Walker("AdamW", {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 1.0})
    found = follow_cosine(walker, 200)
    assert found.law_norm[100] / found.law_norm[0] == pytest.approx(cosine(200)(100) ** 0.5, rel=0.01)  # ∝ √η
    assert found.law_step[100] / found.law_step[0] == pytest.approx(cosine(200)(100) ** 0.5, rel=0.01)
    assert found.lagging[-1] > 5 * found.law_norm[-1]
    assert found.slowness[-1] > 100


def test_a_norm_that_does_not_lag_is_refuted():
    """Assert that the verdicts on a schedule tell a lag of 20 % from the derived lag."""
    steps = 1000
    ones, slow = np.ones(steps), np.where(np.arange(steps) < 700, 0.05, 2.0)
    law = np.where(np.arange(steps) < 700, 1.0, 0.5)
    right = ScheduledLayer(ones, ones, law, ones, ones, slow)
    assert all(verdict.passed for verdict in equilibrium._of_schedule(right))
    names = [verdict.name for verdict in equilibrium._of_schedule(right._replace(norm=1.2 * law)) if not verdict.passed]
    assert "cosine, norm" in names and "cosine, lag" in names

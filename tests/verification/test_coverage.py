"""What verify puts an optimizer through: faults that need large numbers, other shapes, a large R or many steps."""

import numpy as np
import pytest
import torch
import xarray

from swd_dynamics.crosscheck import replay
from swd_dynamics.optim import AdaiS
from swd_dynamics.rules import CATALOG, HeavyBall, NoDecay, UpdateRule
from swd_dynamics.verification import NEAR_RULES, verify
from swd_dynamics.verification.coverage import decay_rates

pytestmark = pytest.mark.slow  # verifies many optimizers

ARGUMENTS = {"lr": 0.01, "weight_decay": 0.1}
RULE = CATALOG["AdamW"](**ARGUMENTS)


class Faulty(torch.optim.AdamW):
    """AdamW with a fault that acts in some steps only."""

    def __init__(self, params, fault):
        super().__init__(params, **ARGUMENTS)
        self.fault, self.count = fault, 0

    @torch.no_grad()
    def step(self, closure=None):
        self.count += 1
        decays = [group["weight_decay"] for group in self.param_groups]
        for group in self.param_groups:
            self.before(group, group["params"])
        super().step()
        for group, decay in zip(self.param_groups, decays, strict=True):
            group["weight_decay"] = decay
            self.after(group["params"])

    def before(self, group, params):
        if self.fault == "R at most .5":
            group["weight_decay"] = min(group["weight_decay"], 0.5 / group["lr"])
        for p in params:
            if self.fault == "gradients at most 1000":
                p.grad.clamp_(-1000, 1000)
            if self.fault == "matrices and vectors decay" and p.ndim >= 3:
                p.div_(1 - group["lr"] * group["weight_decay"])
            if self.fault == "late" and self.count > 200:
                p.grad.mul_(1.1)

    def after(self, params):
        for p in params:
            if self.fault == "weights at most 10":
                p.clamp_(-10, 10)
            if self.fault == "norms at most 20":
                p.mul_(min(1.0, 20 / max(float(p.norm()), 1e-9)))
            if self.fault == "no tensor empty" and p.numel() == 0:
                raise ValueError("empty")
            if self.fault == "four dimensions at most 3" and p.ndim > 3:
                raise ValueError("too many dimensions")


@pytest.mark.parametrize(
    ("fault", "step"),
    [
        ("R at most .5", 1),
        ("gradients at most 1000", 49),  # the first stretch of 16 steps with gradients of 1000 begins here
        ("matrices and vectors decay", 1),
        ("weights at most 10", 1),
        ("norms at most 20", 1),
    ],
)
def test_faults_of_large_numbers_and_other_shapes_are_found(fault, step):
    """Assert that a fault that small weights, gradients, rates and few dimensions do not show is refuted."""
    verdict = verify(lambda params: Faulty(params, fault), RULE)
    assert verdict.status == "refuted" and verdict.first_departure >= step
    assert verdict.evidence["departure"].keys() == verdict.evidence["allowed"].keys()
    first, second, _ = (
        bool((verdict.evidence["departure"][name] > verdict.evidence["allowed"][name]).any())
        for name in verdict.evidence["departure"]
    )
    assert not first and not second


def test_a_late_fault_needs_more_steps_and_is_said_to():
    """Assert that a fault from step 201 on is not seen in 200 steps, and is found in 1200 at its first step."""
    verdict = verify(lambda params: Faulty(params, "late"), RULE)
    assert verdict.passed and verdict.evidence["exercised"].steps == 200
    assert "steps=1204" in verdict.why  # .999^1204 = .3
    longer = verify(lambda params: Faulty(params, "late"), RULE, steps=1200)
    assert (longer.status, longer.first_departure) == ("refuted", 201)


def test_what_was_exercised():
    """Assert that weights, gradients, dimensions and rates reach beyond what libraries clip, clamp and cap."""
    seen = verify(lambda params: Faulty(params, ""), RULE).evidence["exercised"]
    assert seen.theta > 100 and seen.gradient > 1e4 and seen.dimensions == 4
    assert 0.5 < seen.decay_rate <= 1


@pytest.mark.parametrize("fault", ["no tensor empty", "four dimensions at most 3"])
def test_who_cannot_take_a_shape_is_judged_by_the_others(fault):
    """Assert that an optimizer that raises with an empty or a 4-D tensor is confirmed, and that the error is said."""
    verdict = verify(lambda params: Faulty(params, fault), RULE, steps=20)
    assert verdict.passed and "ValueError" in verdict.why


def test_rates_of_a_rule():
    """Assert that R is ηλ/√v̄ of AdamS with v̄ = 1 and then (1 + .5)/1.5 · 4 …, and ηλ where decay joins the gradient."""
    rule = CATALOG["AdamS"](lr=0.5, betas=(0.5, 0.5), weight_decay=0.25)
    gradients = np.array([[1.0, 1.0], [2.0, 2.0]])
    # v after the second step: .5·.5·1 + .5·4 = 2.25, divided by 1 − .25 = 3
    np.testing.assert_allclose(decay_rates(rule, gradients), [0.125, 0.125 / np.sqrt(3)], rtol=1e-15)
    assert decay_rates(CATALOG["SGD"](lr=0.5, weight_decay=0.25), gradients).tolist() == [0.125, 0.125]
    assert decay_rates(UpdateRule(0.5, HeavyBall(0.5), NoDecay()), gradients).tolist() == [0, 0]


class LowerBound(torch.optim.Adam):
    """Adam that divides by max(√v̂, ε)."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                kept = self.state[p] or self.state[p].update(k=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
                kept = self.state[p]
                kept["k"] += 1
                kept["m"].mul_(beta1).add_(p.grad, alpha=1 - beta1)
                kept["v"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                root = (kept["v"] / (1 - beta2 ** kept["k"])).sqrt().clamp(min=group["eps"])
                p.sub_(group["lr"] * kept["m"] / (1 - beta1 ** kept["k"]) / root)


def test_a_lower_bound_is_not_the_absence_of_eps():
    """Assert that max(√v̂, ε) is named, since some √v̂ are below ε, and that "there is no ε" is not said."""
    verdict = verify(lambda params: LowerBound(params, lr=0.01), CATALOG["Adam"](lr=0.01))
    assert (verdict.status, verdict.cause) == ("refuted", NEAR_RULES["eps-maximum"].cause)


@pytest.mark.parametrize("lr", [1e-300, 1e-18])
def test_where_nothing_moves_nothing_is_confirmed(lr):
    """Assert that steps below round-off make the verdict inconclusive, whatever optimizer and rule are."""
    verdict = verify(lambda params: torch.optim.SGD(params, lr=lr, maximize=True), CATALOG["AdamS"](lr=lr), steps=20)
    assert (verdict.status, verdict.first_departure) == ("inconclusive", None)


def test_where_only_decay_moves_the_weights_nothing_is_confirmed():
    """Assert that ascent for descent is not confirmed because η is too small for gradients, and ηλ is not for decay."""
    arguments = {"lr": 1e-25, "weight_decay": 1e24}
    verdict = verify(lambda p: torch.optim.SGD(p, maximize=True, **arguments), CATALOG["SGDW"](**arguments), steps=20)
    assert verdict.status == "inconclusive"


@pytest.mark.parametrize("lr", [1e-6, 1e-3])
def test_small_steps_are_still_confirmed(lr):
    """Assert that steps that are small, and far above round-off, are judged."""
    arguments = {"lr": lr, "weight_decay": 0.1}
    assert verify(lambda params: torch.optim.AdamW(params, **arguments), CATALOG["AdamW"](**arguments), steps=20).passed


@pytest.mark.parametrize("eps", [1e-8, 1e-12, 1e-15])
def test_the_round_off_of_the_rule_is_no_fault_of_the_optimizer(eps):
    """Assert that AdaiS is confirmed where its rule, which forms 1 − (1 − ε), has lost most of its digits."""
    arguments = {**ARGUMENTS, "eps": eps}
    assert verify(lambda params: AdaiS(params, **arguments), CATALOG["AdaiS"](**arguments)).passed


def test_a_decay_that_cannot_be_seen_is_said_so():
    """Assert that a λ whose R is below round-off in every scenario is reported as not tested."""

    def ungrouped(params):
        return torch.optim.AdamW([p.requires_grad_() for p in params], lr=0.01, weight_decay=1e-17)

    verdict = verify(ungrouped, CATALOG["AdamW"](lr=0.01, weight_decay=1e-17), steps=20)
    assert verdict.passed and "too small to be seen" in verdict.why
    assert verdict.evidence["exercised"].decay_rate < 1e-18


def recording(lrs, weights):
    """The recording of gradient descent with these learning rates, shape (steps, 1 or weights)."""
    gradients = np.random.default_rng(0).normal(size=(len(lrs), weights))
    theta = np.concatenate([np.zeros((1, weights)), -np.cumsum(np.asarray(lrs) * gradients, axis=0)])
    return xarray.Dataset({"theta": (("iterate", "weight"), theta), "gradient": (("step", "weight"), gradients)})


def test_replay_says_what_one_constant_rate_cannot_show():
    """Assert that groups and schedules are said to be untested where there is one group or a constant η."""
    both, groups = np.array([0.5, 0.25]), np.array([[0.5, 0.25]])
    plain = replay(CATALOG["SGD"](lr=0.5), recording([[0.5], [0.5]], 2))
    scheduled = replay(CATALOG["SGD"](lr=lambda k: both[k]), recording(both[:, None], 2))
    grouped = replay(CATALOG["SGD"](lr=groups[0]), recording(np.repeat(groups, 2, axis=0), 2))
    mixed = replay(CATALOG["SGD"](lr=lambda k: groups[0] / (k + 1)), recording(groups / [[1], [2]], 2))
    verdicts = [plain, scheduled, grouped, mixed]
    assert all(verdict.passed for verdict in verdicts)
    assert [("groups" in v.why, "schedules" in v.why) for v in verdicts] == [
        (True, True),
        (True, False),
        (False, True),
        (False, False),
    ]

"""Weight decay translated between optimizers: closed forms, a real run, and what cannot be translated."""

import math

import numpy as np
import pytest
import torch
import xarray
from aggregated_momentum import AggregatedMomentum
from hypothesis import given
from hypothesis import strategies as st

from swd_dynamics.crosscheck import equivalent_weight_decay
from swd_dynamics.errors import InputError
from swd_dynamics.optim import AdamS
from swd_dynamics.probe import record
from swd_dynamics.rules import CATALOG, Adam, NoDecay, Stable, UpdateRule
from swd_dynamics.rules.schedule import Cosine
from swd_dynamics.tasks import tanh_network

# A handful of products and a root, or a sum of as many steps as here: relative.
ROUND_OFF = 1e-14
# The same with AdamS's own v̄, which it may keep by a recursion of its own.
OWN_MEAN = 1e-12

MOMENTUM = {"momentum": 0.9, "dampening": 0.5}
positive = st.floats(1e-6, 1e3)


def rule(name, lr=0.01, weight_decay=0.1, **direction):
    return CATALOG[name](lr=lr, weight_decay=weight_decay, **direction)


# From, to, v̄ and what λ is multiplied by, for η of .01 and .02.
CLOSED_FORMS = {
    "AdamW to AdamS": (rule("AdamW"), rule("AdamS"), 4e-4, 0.02),
    "AdamW to AdamS of another η": (rule("AdamW"), rule("AdamS", lr=0.02), 4e-4, 0.02 / 2),
    "AdamS to AdamW": (rule("AdamS"), rule("AdamW"), 4e-4, 1 / 0.02),
    "AMSGradW to AMSGradS": (rule("AMSGradW"), rule("AMSGradS"), 4e-4, 0.02),
    "SGDW to SGDS": (rule("SGDW", **MOMENTUM), rule("SGDS", **MOMENTUM), None, (1 - 0.9) / (1 - 0.5)),
    "SGDW to SGD with L2": (rule("SGDW", **MOMENTUM), rule("SGD", **MOMENTUM), None, (1 - 0.9) / (1 - 0.5)),
    "SGDS to SGD with L2": (rule("SGDS", momentum=0.9), rule("SGD", momentum=0.9), None, 1.0),
    "Nesterov to plain": (rule("SGDS", momentum=0.9, nesterov=True), rule("SGDS"), None, 1 / (1 - 0.9)),
    "AdaiS to AdamW": (rule("AdaiS"), rule("AdamW"), None, 1.0),
    "SGDS to AdamS": (rule("SGDS", momentum=0.9), rule("AdamS"), 4e-4, 0.02 / (1 - 0.9)),
}


@pytest.mark.parametrize("case", CLOSED_FORMS)
def test_closed_forms(case):
    """Assert that λ is multiplied by the ratio of the two decay rates at equal λ, as worked out by hand."""
    from_, to, second_moment, factor = CLOSED_FORMS[case]
    found = equivalent_weight_decay(from_, to, second_moment)
    assert found.weight_decay == pytest.approx(0.1 * factor, rel=ROUND_OFF)
    assert found.time_scale == 1 / found.decay_rate


def test_the_decay_rate_is_that_of_the_rule_given():
    """Assert that R is λη for decoupled decay and λη/√v̄ for stable decay, whatever λ the other rule has."""
    for weight_decay in (0.0, 0.5):
        other = rule("AdamS", weight_decay=weight_decay)
        assert equivalent_weight_decay(rule("AdamW"), other, 4e-4).decay_rate == pytest.approx(1e-3, rel=ROUND_OFF)
    stable = equivalent_weight_decay(rule("AdamS"), rule("AdamW"), 4e-4)
    assert stable.decay_rate == pytest.approx(1e-3 / 0.02, rel=ROUND_OFF)


@given(
    names=st.tuples(*[st.sampled_from(["SGDW", "SGDS", "Adam", "AdamW", "AdamS", "AMSGradS"])] * 2),
    moments=st.lists(positive, min_size=1, max_size=5),
    weight_decay=positive,
    lr=positive,
)
@pytest.mark.slow
def test_there_and_back(names, moments, weight_decay, lr):
    """Assert that a translation to itself changes nothing, and that one there and back ends where it began."""
    here, there = rule(names[0], lr, weight_decay), rule(names[1])
    assert equivalent_weight_decay(here, here, moments).weight_decay == pytest.approx(weight_decay, rel=ROUND_OFF)
    out = equivalent_weight_decay(here, there, moments)
    back = equivalent_weight_decay(rule(names[1], weight_decay=out.weight_decay), here, moments)
    assert back.weight_decay == pytest.approx(weight_decay, rel=ROUND_OFF)
    assert back.decay_rate == pytest.approx(out.decay_rate, rel=ROUND_OFF)


def test_rates_are_averaged_not_moments():
    """Assert that v̄ of each step counts by the rate it gives: ⟨1/√v̄⟩ of 1 and 1/16 is (1 + 4)/2."""
    found = equivalent_weight_decay(rule("AdamW"), rule("AdamS"), np.array([1.0, 1 / 16]))
    assert found.weight_decay == pytest.approx(0.1 / 2.5, rel=ROUND_OFF)


def test_a_schedule_is_averaged_over_the_steps():
    """Assert that a cosine counts at the steps that v̄ is given for: against a constant η, its mean."""
    cosine = Cosine(0.01, steps=4)
    found = equivalent_weight_decay(rule("SGDW", lr=cosine), rule("SGDS"), np.ones(4))
    mean = 0.01 * sum(0.5 * (1 + math.cos(math.pi * k / 4)) for k in range(4)) / 4
    assert found.decay_rate == pytest.approx(0.1 * mean, rel=ROUND_OFF)
    assert found.weight_decay == pytest.approx(0.1 * mean / 0.01, rel=ROUND_OFF)


def test_a_direction_of_ones_own():
    """Assert that a user's own direction is translated by its own effective learning rate, here 6η."""
    own = UpdateRule(0.01, AggregatedMomentum(0.5, 0.9), Stable(0.1))
    assert equivalent_weight_decay(own, rule("SGDW")).weight_decay == pytest.approx(0.6, rel=ROUND_OFF)


# Real runs


def recorded(kind, steps=60, scheduled=False, groups=False, **arguments):
    task = tanh_network((8,), samples=100, batch_size=20)
    weights = list(task.model.parameters())
    given = [{"params": weights[:1], "lr": 0.0}, {"params": weights[1:]}] if groups else weights
    optimizer = kind(given, **arguments)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if scheduled else None
    return record(optimizer, task.loss, steps, scheduler=scheduler)


def fed(recording, **arguments):
    """Sum of the decay rates that a real AdamS publishes when it is given the recorded gradients and η by hand."""
    weights, total = torch.nn.Parameter(torch.tensor(recording.theta.values[0])), 0.0
    optimizer = AdamS([weights], **arguments)
    for gradient, lr in zip(recording.gradient.values, recording.lr.values[:, 0], strict=True):
        optimizer.param_groups[0]["lr"] = float(lr)
        weights.grad = torch.tensor(gradient)
        optimizer.step()
        total += float(optimizer.param_groups[0]["decay_rate"])
    return total


@pytest.mark.slow
@pytest.mark.parametrize("scheduled", [False, True])
def test_adams_takes_off_what_adamw_took(scheduled):
    """Assert that AdamS, fed the gradients of a recorded AdamW run with λ translated, has the same sum of R."""
    recording = recorded(torch.optim.AdamW, scheduled=scheduled, lr=0.01, weight_decay=0.5)
    lr = Cosine(0.01, steps=60) if scheduled else 0.01
    found = equivalent_weight_decay(rule("AdamW", lr, 0.5), rule("AdamS", lr), recording)
    total = recording.decay_rate.values.sum()
    assert total == pytest.approx(60 * found.decay_rate, rel=ROUND_OFF)
    assert fed(recording, lr=0.01, weight_decay=found.weight_decay) == pytest.approx(total, rel=OWN_MEAN)
    assert fed(recording, lr=0.01, weight_decay=0.5) > 2 * total  # for the test to tell them apart


@pytest.mark.slow
def test_a_group_that_stands_still_tells_no_second_moment():
    """Assert that v̄ is read from the groups that have a learning rate."""
    moving = recorded(torch.optim.AdamW, groups=True, lr=0.01, weight_decay=0.1)
    second_moment = (moving.lr / moving.effective_lr).values[:, 1] ** 2
    both = [equivalent_weight_decay(rule("AdamW"), rule("AdamS"), given) for given in (moving, second_moment)]
    assert both[0].weight_decay == pytest.approx(both[1].weight_decay, rel=ROUND_OFF)


def test_a_step_without_learning_rate_does_not_count():
    """Assert that a warm-up from η = 0 is averaged over the steps that were taken, by their own numbers."""
    recording = recorded(torch.optim.AdamW, steps=6, lr=0.01, weight_decay=0.1)
    warm = recording.assign(lr=recording.lr * (recording.step > 1), effective_lr=recording.effective_lr.where(
        recording.step > 1, 0.0))  # fmt: skip
    found = equivalent_weight_decay(rule("AdamW", lambda k: 0.01 * k), rule("SGDW"), warm)
    assert found.decay_rate == pytest.approx(0.1 * 0.01 * (1 + 2 + 3 + 4 + 5) / 5, rel=ROUND_OFF)


def test_a_recorded_step_stands_for_those_before_it():
    """Assert that rows count by their steps: with R ∝ k + 1, rows at step 1, 2 and 10 that stand for 1, 1 and 8."""
    recording = made(lr=0.1).isel(step=[0, 0, 0]).assign_coords(step=[1, 2, 10])
    found = equivalent_weight_decay(rule("SGDW", lambda k: 0.01 * (k + 1)), rule("SGDS"), recording)
    assert found.decay_rate == pytest.approx(0.1 * 0.01 * (1 + 2 + 8 * 10) / 10, rel=ROUND_OFF)


@pytest.mark.parametrize("lr", [0.01, 3e-4])
@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.slow
def test_a_recorded_schedule_is_that_of_the_rules(lr, groups):
    """Assert that where η changed R is λ times the recorded η, whatever number the rule has, and so for ``to``."""
    recording = recorded(torch.optim.AdamW, scheduled=True, groups=groups, lr=0.01, weight_decay=0.5)
    cosine = [0.005 * (1 + math.cos(math.pi * k / 60)) for k in range(60)]
    found = equivalent_weight_decay(rule("AdamW", lr, 0.5), rule("AdamW", lr / 2), recording)
    assert found.decay_rate == pytest.approx(0.5 * np.mean(cosine), rel=1e-12)  # torch's recursion for the cosine
    assert found.weight_decay == pytest.approx(2 * 0.5, rel=ROUND_OFF)  # half the η
    written_out = equivalent_weight_decay(rule("AdamW", cosine.__getitem__, 0.5), rule("AdamW", 0.01), recording)
    assert written_out.weight_decay == pytest.approx(0.5 * np.mean(cosine) / 0.01, rel=1e-12)  # a constant η of ``to``


@pytest.mark.slow
def test_groups_with_schedules_of_their_own_are_refused():
    """Assert that one number as η is refused where η changed otherwise in each group, and a function is taken."""
    recording = recorded(torch.optim.AdamW, groups=True, scheduled=True, lr=0.01, weight_decay=0.5)
    recording["lr"][:, 0] = np.linspace(0.001, 0.002, 60)
    with pytest.raises(InputError, match=r"lr = 0.01, .* its 2 groups: give the η of one group as a function"):
        equivalent_weight_decay(rule("AdamW", weight_decay=0.5), rule("AdamW"), recording)
    lr = recording.lr.values[:, 1].tolist().__getitem__
    found = equivalent_weight_decay(rule("AdamW", lr, 0.5), rule("AdamW", lr), recording)
    assert found.weight_decay == pytest.approx(0.5, rel=ROUND_OFF)


# What cannot be translated


def made(optimizer="AdamW", effective_lr=1.0, lr=0.01, **attrs):
    data = {"lr": (("step", "group"), [[lr]] * 2), "effective_lr": (("step", "group"), [[lr], [effective_lr]])}
    return xarray.Dataset(data, {"step": [1, 2]}).assign_attrs(optimizer=optimizer, **attrs)


class Foreign:
    """A decay that is no dataclass."""

    added_gradient, decay_rate = NoDecay().added_gradient, NoDecay().decay_rate


PER_WEIGHT = {"lr": np.array([0.1, 0.2])}
REFUSED = {
    "v̄ not given": (rule("AdamW"), rule("AdamS"), None, "to = .* needs v̄.* give a recording"),
    "λ as given": (rule("AdamW"), rule("AdamS", weight_decay=0.25), None, r"to = .*weight_decay=0\.25\).* needs v̄"),
    "v̄ of SGD": (rule("AdamW"), rule("AdamS"), made("SGD"), "whether a recording of SGD has it is unknown"),
    "v̄ of Adai": (rule("AdamS"), rule("AdamW"), made("AdaiS"), "from_ = .* a recording of AdaiS has it is unknown"),
    "v̄ of another": (rule("AdamW"), rule("AdamS"), made("Lion"), "a recording of Lion has it is unknown"),
    "v̄ unknown": (rule("AdamW"), rule("AdamS"), made(effective_lr=math.nan), "unknown or 0 in 1 of the recorded steps"),
    "v̄ recorded as 0": (rule("AdamW"), rule("AdamS"), made(effective_lr=math.inf), "unknown or 0 in 1 of"),
    "v̄ is 0": (rule("AdamW"), rule("AdamS"), 0.0, r"v̄ = 0.0 is not allowed: it must lie in \(0, inf\)"),
    "v̄ is NaN": (rule("AdamW"), rule("AdamS"), [1.0, math.nan], "v̄ = nan is not allowed"),
    "v̄ is a word": (rule("AdamW"), rule("AdamS"), "much", "v̄ = 'much' is not a number"),
    "v̄ for each weight": (rule("AdamW"), rule("AdamS"), np.ones((2, 2)), r"v̄ has shape \(2, 2\)"),
    "no v̄": (rule("AdamW"), rule("AdamS"), [], r"v̄ has shape \(0,\)"),
    "no step": (rule("AdamW"), rule("AdamS"), made(lr=0.0), "holds no step with η > 0"),
    "no η_eff": (rule("AdamW"), rule("AdamS"), made().drop_vars("effective_lr"), "lacks effective_lr"),
    "from no decay": (UpdateRule(0.1, Adam()), rule("AdamS"), 1.0, "from_ = .* decay rate 0"),
    "from λ = 0": (rule("SGDW", weight_decay=0.0), rule("SGDS"), None, "from_ = .* decay rate 0"),
    "to no decay": (rule("AdamS"), UpdateRule(0.1, Adam()), 1.0, "to = .* has no λ: its decay"),
    "to a foreign decay": (rule("AdamS"), UpdateRule(0.1, Adam(), Foreign()), 1.0, "to = .* has no λ"),
    "from a class": (CATALOG["AdamW"], rule("AdamS"), 1.0, "from_ = .* brackets"),
    "to a class": (rule("AdamW"), CATALOG["AdamS"], 1.0, "to = .* brackets"),
    "a schedule": (rule("SGDW", Cosine(0.1, 10)), rule("SGDS"), None, "from_ has a schedule, .* give a recording"),
    "η for each weight": (
        rule("SGDW", **PER_WEIGHT),
        rule("SGDS"),
        None,
        "lr of from_ = 0.1, … .2 numbers. .*: for a sch",
    ),
    "λ for each weight": (rule("SGDW"), rule("SGDS", weight_decay=PER_WEIGHT["lr"]), None, "weight_decay of to"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_translated_is_refused(case):
    """Assert that what has no equivalent is an InputError that names the side and the reason."""
    from_, to, statistics, said = REFUSED[case]
    with pytest.raises(InputError, match=said):
        equivalent_weight_decay(from_, to, statistics)


@pytest.mark.parametrize(
    ("kind", "given", "from_", "said"),
    [
        (torch.optim.AdamW, {}, rule("AdamW", lr=1.0), "lr = 1, but the recorded AdamW has lr = 0.01"),
        (torch.optim.AdamW, {}, rule("AdamW", weight_decay=0.5), "weight_decay = 0.5, but .* has weight_decay = 0.1"),
        (torch.optim.AdamW, {}, rule("Adam"), "has L2 decay, but .* AdamW, which has decoupled decay"),
        (torch.optim.Adam, {}, rule("AdamW"), "has decoupled decay, but .* Adam, which has L2 decay"),
        (torch.optim.SGD, {}, rule("SGDW"), "has decoupled decay, but .* SGD, which has L2 decay"),
        (torch.optim.AdamW, {"groups": True}, rule("AdamW", lr=1.0), "has lr = 0 or 0.01"),
    ],
)
def test_a_recording_of_another_run_is_refused(kind, given, from_, said):
    """Assert that a rule whose η, λ or kind of decay is not that of the recorded run is refused, with both."""
    recording = recorded(kind, steps=2, lr=0.01, weight_decay=0.1, **given)
    with pytest.raises(InputError, match=said):
        equivalent_weight_decay(from_, rule("AdamS" if kind is not torch.optim.SGD else "SGDS"), recording)


@pytest.mark.parametrize(
    ("kind", "given", "from_"),
    [
        (torch.optim.Adam, {"decoupled_weight_decay": True}, rule("AdamW")),
        (torch.optim.AdamW, {"scheduled": True}, rule("AdamW", Cosine(0.01, steps=2))),
        (torch.optim.AdamW, {"amsgrad": True}, rule("AMSGradW")),
        (torch.optim.AdamW, {}, rule("SGDW", lr=0.1, weight_decay=0.5)),  # only v̄ comes from this recording
    ],
)
def test_a_recording_of_the_same_run_is_taken(kind, given, from_):
    """Assert that R is λη where the run has the numbers of the rule, or is needed for v̄ alone."""
    recording = recorded(kind, steps=2, lr=0.01, weight_decay=0.1, **given)
    mean = np.mean([from_.lr_at(k) for k in range(2)]) * from_.weight_decay
    found = equivalent_weight_decay(from_, rule("AdamS"), recording)
    assert found.decay_rate == pytest.approx(mean, rel=ROUND_OFF)


def test_what_is_not_needed_is_not_asked_for():
    """Assert that between rules without v̄ a recording of any optimizer gives the steps of a schedule."""
    recording = made("SGD", effective_lr=math.nan)
    found = equivalent_weight_decay(rule("SGDW", lambda k: 0.1 * (k + 1)), rule("SGDS"), recording)
    assert found.decay_rate == pytest.approx(0.1 * 0.15, rel=ROUND_OFF)


def test_the_gain_of_a_recorded_rmsprop_counts_once():
    """Assert that v̄ of a recorded RMSprop with momentum is the mean of torch's own ``square_avg``."""
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = torch.optim.RMSprop([weight], lr=0.01, momentum=0.9, weight_decay=0.1)
    v = []

    def loss(k):
        if k:
            v.append(float(optimizer.state[weight]["square_avg"].mean()))
        return (weight * weight).sum()

    recorded = record(optimizer, loss, steps=5)
    v.append(float(optimizer.state[weight]["square_avg"].mean()))
    found = equivalent_weight_decay(rule("SGDW"), rule("AdamS"), recorded)
    assert found.weight_decay == pytest.approx(0.1 / np.mean(1 / np.sqrt(v)), rel=OWN_MEAN)


@pytest.mark.parametrize(
    "name",
    ["RAdam", "Adagrad", "Adadelta", "Adamax", "AdaBelief", "Signum", "Lion", "Muon", "Adafactor", "Rprop", "ASGD"],
)
def test_rules_whose_rate_v_does_not_give(name):
    """Assert that stable decay is refused where v̄ does not give η_eff, and that decoupled decay is translated."""
    with pytest.raises(InputError, match="only its decoupled decay"):
        equivalent_weight_decay(rule("AdamW"), rule(f"{name}S"), 4e-4)
    assert equivalent_weight_decay(rule("AdamW"), rule(f"{name}W"), 4e-4).weight_decay == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["RMSprop", "NAdam", "ScheduleFreeAdam"])
def test_other_rules_with_a_second_moment(name):
    """Assert that AdamW is translated to other rules that divide by √v̂ as to AdamS."""
    found = equivalent_weight_decay(rule("AdamW"), rule(f"{name}S"), 4e-4)
    assert found.weight_decay == pytest.approx(0.1 * 0.02, rel=ROUND_OFF)

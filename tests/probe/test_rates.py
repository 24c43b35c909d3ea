"""R and η_eff: read where an optimizer publishes them, derived for torch's own, unknown elsewhere."""

import json
import math
import warnings

import numpy as np
import pytest
import torch

from swd_dynamics.optim import AdamS
from swd_dynamics.probe import Probe, record
from swd_dynamics.tensors.known import KNOWN, Known

EXACT_FORMULA = 1e-14  # relative difference of a float64 formula evaluated in another order

AMSGRAD = {"lr": 1e-2, "weight_decay": 0.1, "amsgrad": True}


class Publishing(torch.optim.Optimizer):
    """Gradient descent that publishes what a test wants it to publish."""

    def __init__(self, parameters, lr, told):
        super().__init__(parameters, {"lr": lr})
        self.told = told

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in (parameter for parameter in group["params"] if parameter.grad is not None):
                parameter.mul_(1 - 0.25 * group["lr"]).sub_(group["lr"] * parameter.grad)
            group.update(self.told)


class Still(torch.optim.Optimizer):
    """Moves no weight, and needs no η."""

    def step(self, closure=None):
        pass


class Moving(torch.optim.SGD):
    """torch's SGD, whose step moves a weight by 1 even if the weight has no gradient."""

    moves = True

    @torch.no_grad()
    def step(self, closure=None):
        super().step()
        if self.moves:
            self.param_groups[0]["params"][0].add_(1)


class Unheard(torch.optim.RMSprop):
    """A subclass, which the table does not know."""


@pytest.fixture
def moving(monkeypatch):
    """A weight and its optimizer of the class Moving, with the rates of torch's SGD."""
    monkeypatch.setitem(KNOWN, f"{__name__}.Moving", KNOWN["torch.optim.sgd.SGD"])
    weight = vector(1.0)
    return weight, Moving([weight], lr=0.1)


def one_step(optimizer, weight, gradient=1.0):
    with Probe(optimizer, trajectory=True, quantities="dynamics") as probe:
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
    return probe.dataset()


def vector(*values):
    return torch.nn.Parameter(torch.tensor(values, dtype=torch.float64))


def test_published_rates_are_read():
    """Assert that the rates that an optimizer publishes in its groups are recorded bit for bit."""
    weight = vector(1.0, 2.0)
    run = one_step(Publishing([weight], 0.1, {"decay_rate": 0.1 / 3, "effective_lr": 0.7}), weight)
    assert run.decay_rate.item() == run.decay_rate_max.item() == 0.1 / 3
    assert run.effective_lr.item() == 0.7
    assert run.decay_ratio.item() == (0.1 / 3) / 0.7
    assert "decay_unknown_because" not in run.attrs


def test_what_is_published_is_no_argument():
    """Assert that rates published before the probe came are not arguments of the optimizer."""
    weight = vector(1.0)
    optimizer = Publishing([weight], 0.1, {"decay_rate": 0.1, "effective_lr": 0.7})
    optimizer.step()
    assert json.loads(one_step(optimizer, weight).attrs["optimizer_arguments"]) == [{"lr": 0.1}]


@pytest.mark.parametrize(
    "told", [{"decay_rate": None, "effective_lr": 1.0}, {"effective_lr": 1.0}, {"decay_rate": 0.1}]
)
def test_half_published_rates_are_unknown(told):
    """Assert that a missing or meaningless publication gives NaN and a reason, and the other rate is recorded."""
    weight = vector(1.0)
    run = one_step(Publishing([weight], 0.1, told), weight)
    assert math.isnan(run.decay_ratio.item())
    for name in ("decay_rate", "effective_lr"):
        assert run[name].item() == pytest.approx(told.get(name) or math.nan, nan_ok=True)
    assert "publishes" in run.attrs["decay_unknown_because"]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_unknown_optimizer_has_unknown_decay(network, weight_decay):
    """Assert that R of an optimizer that is not in the table is NaN with a reason, and everything else is recorded."""
    net = network()
    run = record(Unheard(net.parameters(), weight_decay=weight_decay), net.loss, 3, quantities="dynamics")
    for name in ("decay_rate", "decay_rate_weight", "decay_rate_min", "decay_rate_std", "decay_ratio", "effective_lr"):
        assert np.isnan(run[name]).all(), name
    assert "Unheard is neither" in run.attrs["decay_unknown_because"]
    assert np.isfinite(run.state_square_avg).all()


@pytest.mark.parametrize(("quantities", "count"), [("default", 1), (["loss", "theta_norm"], 0), (["decay_rate"], 1)])
def test_unknown_rates_are_told_once(network, quantities, count):
    """Assert that one warning names the attribute and the audit, if R or η_eff is recorded and cannot be known."""
    net = network()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        record(Unheard(net.parameters(), weight_decay=0.1), net.loss, 3, quantities=quantities)
    assert len(caught) == count
    assert all(word in str(each.message) for each in caught for word in ("decay_unknown_because", "audit", "Unheard"))


def test_l2_under_adam_is_told_how_to_have_its_rate(network):
    """Assert that a probe of Adam with L2 warns at the user's line that R is NaN, and says which quantities have it."""
    net = network()
    adam = torch.optim.Adam(net.parameters(), weight_decay=0.1)
    with pytest.warns(RuntimeWarning, match="^decay_rate of the recording is NaN, .* quantities='dynamics'") as said:
        record(adam, net.loss, 3, trajectory=False)
    assert [each.filename for each in said] == [__file__]  # though torch calls the probe in the step
    record(
        torch.optim.Adam(net.parameters()), net.loss, 3, trajectory=False
    )  # without decay R = 0; warnings are errors in tests


def test_known_rates_need_no_warning(network, capsys):
    """Assert that torch's own AdamW and SGD, whose R is known, give no warning."""
    for kind in (torch.optim.AdamW, torch.optim.SGD):
        net = network()
        record(kind(net.parameters(), lr=0.01, weight_decay=0.1), net.loss, 3)  # warnings are errors in tests
    assert not capsys.readouterr().err


def test_a_subclass_is_not_taken_for_its_parent():
    """Assert that R of a subclass of torch's AdamW, which may do anything, is unknown."""
    weight = vector(1.0)
    assert one_step(type("Mine", (torch.optim.AdamW,), {})([weight]), weight).attrs["decay_unknown_because"]


@pytest.mark.parametrize("extra", [{}, {"amsgrad": True}, {"maximize": True}])
@pytest.mark.parametrize("by_adam", [False, True])
@pytest.mark.slow
def test_decoupled_decay_is_stated(network, extra, by_adam):
    """Assert that AdamW, under both names in torch, has exactly R = ηλ for every weight and step."""
    net = network()
    kind, more = (torch.optim.Adam, {"decoupled_weight_decay": True}) if by_adam else (torch.optim.AdamW, {})
    run = record(kind(net.parameters(), lr=1e-2, weight_decay=0.3, **extra, **more), net.loss, 5, quantities="dynamics")
    assert (run.decay_rate == 1e-2 * 0.3).all()
    assert (run.decay_rate_weight == 1e-2 * 0.3).all()
    assert (run.decay_rate_std == 0).all()


@pytest.mark.parametrize(
    ("extra", "effective"),
    [({}, 0.1), ({"momentum": 0.5}, 0.2), ({"momentum": 0.5, "dampening": 0.25}, 0.15)],
)
def test_effective_learning_rate_of_sgd(extra, effective):
    """Assert that η_eff of SGD is η(1−τ)/(1−β)."""
    weight = vector(1.0)
    run = one_step(torch.optim.SGD([weight], lr=0.1, weight_decay=0.5, **extra), weight)
    assert run.effective_lr.item() == pytest.approx(effective, rel=EXACT_FORMULA)
    assert run.decay_rate.item() == 0.1 * 0.5  # in the first step, for every momentum
    assert run.decay_ratio.item() == pytest.approx(0.05 / effective, rel=EXACT_FORMULA)


def test_momentum_without_limit_has_no_effective_learning_rate():
    """Assert that η_eff is unknown for β = 1, with a reason."""
    weight = vector(1.0)
    run = one_step(torch.optim.SGD([weight], lr=0.1, momentum=1.0), weight)
    assert math.isnan(run.effective_lr.item())
    assert "momentum = 1.0" in run.attrs["decay_unknown_because"]


@pytest.mark.parametrize("arguments", [{}, AMSGRAD])
def test_effective_learning_rate_of_adam_averages_over_all_groups(network, arguments):
    """Assert that η_eff = η/√v̄ with one v̄ of all groups, each corrected by its own β₂."""
    net = network()
    adam = torch.optim.Adam(net.groups(lr=0.5, betas=(0.8, 0.6)), **arguments)
    run = record(adam, net.loss, 4)
    key = "state_max_exp_avg_sq" if arguments else "state_exp_avg_sq"
    correction = np.where(run.weight_group == 0, 1 - 0.999**4, 1 - 0.6**4)
    second_moment = (run[key].values[-1] / correction).mean()
    np.testing.assert_allclose(run.effective_lr[-1], run.lr[-1] / np.sqrt(second_moment), rtol=EXACT_FORMULA)


def test_vanishing_gradients_have_infinite_effective_learning_rate():
    """Assert that η_eff is infinite and R/η_eff is 0 at v̄ = 0, without an error."""
    weight = vector(0.0)
    run = one_step(torch.optim.AdamW([weight]), weight, gradient=0.0)
    assert run.effective_lr.item() == math.inf
    assert run.decay_ratio.item() == 0


def test_two_groups_decay_each_in_its_own_way(network):
    """Assert that each group has its own η and λ, and the spread of R shows both groups."""
    net = network()
    sgd = torch.optim.SGD(net.groups(lr=0.2, weight_decay=0.0), lr=0.1, weight_decay=0.5)
    run = record(sgd, net.loss, 3, quantities="dynamics")
    np.testing.assert_array_equal(run.lr, [[0.1, 0.2]] * 3)
    np.testing.assert_array_equal(run.decay_rate_weight[0], np.where(run.weight_group == 0, 0.05, 0.0))
    assert (run.decay_rate_min == 0).all() and (run.decay_rate_max == 0.05).all()
    np.testing.assert_allclose(run.decay_rate, run.decay_rate_weight.mean("weight"), rtol=EXACT_FORMULA)
    np.testing.assert_allclose(run.decay_rate_std, run.decay_rate_weight.std("weight"), rtol=EXACT_FORMULA)
    ratio = run.decay_rate_weight / run.effective_lr.isel(group=run.weight_group)
    np.testing.assert_allclose(run.decay_ratio, ratio.mean("weight"), rtol=EXACT_FORMULA)


def test_parameters_that_sit_out_do_not_decay():
    """Assert that a parameter without a gradient has R = 0 and is not in the mean of R."""
    moving, still = vector(1.0), vector(2.0, 3.0)
    for optimizer in (
        torch.optim.AdamW([moving, still], lr=0.1, weight_decay=0.5),
        torch.optim.SGD([moving, still], lr=0.1, momentum=0.9, weight_decay=0.5),
        Publishing([moving, still], 0.1, {"decay_rate": 0.05, "effective_lr": 0.1}),
    ):
        run = one_step(optimizer, moving)
        np.testing.assert_array_equal(run.decay_rate_weight, [[0.05, 0, 0]])
        assert run.decay_rate.item() == run.decay_rate_min.item() == 0.05


def test_a_parameter_that_moves_without_gradient_is_unknown(moving):
    """Assert that R of a parameter that moved without a gradient is unknown."""
    _, sgd = moving
    with Probe(sgd, trajectory=True) as probe:
        sgd.step()
    run = probe.dataset()
    assert np.isnan(run.decay_rate_weight).all()
    assert "parameter_0 moved without a gradient" in run.attrs["decay_unknown_because"]


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_reason_stays(tmp_path, where, moving):
    """Assert that the reason for an unknown R stays when later rows have none."""
    moved, sgd = moving
    with Probe(sgd, None if where == "memory" else tmp_path / "run") as probe:
        sgd.step()
        probe.flush()
        sgd.moves = False
        moved.grad = torch.ones_like(moved)
        sgd.step()
    reasons = json.loads(probe.dataset().attrs["decay_unknown_because"])
    assert reasons == ["parameter_0 moved without a gradient"]


def test_one_reason_for_all_steps():
    """Assert that an optimizer that publishes a new tensor in every step has one reason, not many."""
    weight = vector(1.0)
    optimizer = Publishing([weight], 0.1, {"effective_lr": 0.1})
    with Probe(optimizer) as probe:
        for k in range(3):
            optimizer.told["decay_rate"] = torch.full((2,), float(k))
            weight.grad = torch.ones_like(weight)
            optimizer.step()
    assert len(json.loads(probe.dataset().attrs["decay_unknown_because"])) == 1


def test_a_step_of_nobody_subtracts_nothing():
    """Assert that R of a step in which no parameter had a gradient is 0."""
    sgd = torch.optim.SGD([vector(1.0)], lr=0.1, weight_decay=0.1)
    with Probe(sgd, quantities="dynamics") as probe:
        sgd.step()
    run = probe.dataset()
    assert (run.decay_rate == 0).all() and (run.decay_rate_max == 0).all()


def test_what_another_optimizer_published_is_not_believed():
    """Assert that rates that an AdamS has left do not count for the AdamW that loads its state."""
    weight = vector(1.0, 2.0)
    weight.grad = torch.ones_like(weight)
    old = AdamS([weight], lr=0.1, weight_decay=0.1)
    old.step()
    new = torch.optim.AdamW([weight])
    new.load_state_dict(old.state_dict())
    new.param_groups[0]["lr"] = 0.02
    assert one_step(new, weight).decay_rate.item() == 0.02 * 0.1


@pytest.mark.parametrize("trajectory", [False, True])
def test_a_hyperparameter_that_is_called_decay_rate(trajectory):
    """Assert that Adafactor's decay_rate is an argument, not R, and its lr = None an unknown η."""
    weight, told = vector(1.0), {"lr": None, "decay_rate": -0.8}
    optimizer = Still([weight], told)
    with Probe(optimizer, trajectory=trajectory) as probe:
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    run = probe.dataset()
    assert probe.failure is None and np.isnan(run.decay_rate).all()
    assert np.isnan(run.lr).all()
    assert json.loads(run.attrs["optimizer_arguments"]) == [told]


def test_what_was_published_before_the_step_is_not_believed():
    """Assert that R and η_eff that a step leaves as they were are unknown, and stay in the group."""
    weight = vector(1.0)
    optimizer = Publishing([weight], 0.1, {})
    left = {"decay_rate": 0.25, "effective_lr": 0.5}
    optimizer.param_groups[0].update(left)
    run = one_step(optimizer, weight)
    assert np.isnan(run.decay_rate).all() and np.isnan(run.effective_lr).all()
    assert "in this step" in run.attrs["decay_unknown_because"]
    for name, value in left.items():
        assert optimizer.param_groups[0][name] is value


@pytest.mark.parametrize("kind", [float, np.float64, int, torch.tensor])
def test_the_same_rate_published_again_is_believed(kind):
    """Assert that an optimizer that publishes the same object in every step is believed."""
    weight = vector(1.0)
    optimizer = Publishing([weight], 0.1, {"decay_rate": kind(1), "effective_lr": kind(3)})
    with Probe(optimizer) as probe:
        for _ in range(3):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
    np.testing.assert_array_equal(probe.dataset().decay_rate, [1, 1, 1])
    np.testing.assert_array_equal(probe.dataset().effective_lr.values.ravel(), [3, 3, 3])


def test_a_rate_written_in_place_is_believed():
    """Assert that an optimizer that publishes by filling its own tensors is believed."""

    class Filling(Publishing):
        def step(self, closure=None):
            super().step()
            self.rate.fill_(0.25)

    weight = vector(1.0)
    optimizer = Filling([weight], 0.1, {})
    optimizer.rate = torch.tensor(0.125)
    optimizer.param_groups[0].update(decay_rate=optimizer.rate, effective_lr=torch.tensor(1.0))
    assert one_step(optimizer, weight).decay_rate.item() == 0.25


@pytest.mark.parametrize("registered", ["before", "after"])
def test_a_schedule_inside_the_step(registered):
    """Assert that lr, R and η_eff are those the step used if a hook after it sets the next lr."""
    weight = vector(1.0)
    optimizer = torch.optim.SGD([weight], lr=1.0, weight_decay=0.25)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, float)
    probe = Probe(optimizer)
    if registered == "before":
        optimizer.register_step_post_hook(lambda *_: schedule.step())
    with probe:
        if registered == "after":
            optimizer.register_step_post_hook(lambda *_: schedule.step())
        for _ in range(3):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
    run = probe.dataset()
    np.testing.assert_array_equal(run.lr.values.ravel(), [0, 1, 2])
    np.testing.assert_array_equal(run.effective_lr.values.ravel(), [0, 1, 2])
    np.testing.assert_array_equal(run.decay_rate, [0, 0.25, 0.5])


def test_a_schedule_in_the_step_of_a_known_class(monkeypatch):
    """Assert that R and η_eff are those the step used if the step itself sets the next lr."""

    class Scheduled(torch.optim.SGD):
        def step(self, closure=None):
            super().step()
            self.param_groups[0]["lr"] += 1

    monkeypatch.setitem(KNOWN, f"{__name__}.{Scheduled.__qualname__}", KNOWN["torch.optim.sgd.SGD"])
    weight = vector(1.0)
    optimizer = Scheduled([weight], lr=1.0, weight_decay=0.25)
    with Probe(optimizer) as probe:
        for _ in range(2):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
    np.testing.assert_array_equal(probe.dataset().effective_lr.values.ravel(), [1, 2])
    np.testing.assert_array_equal(probe.dataset().decay_rate, [0.25, 0.5])


def test_another_optimizer_is_one_entry(monkeypatch):
    """Assert that one entry teaches the probe a subclass of RMSprop: η_eff = η/(√v̄(1 − β)), R = 0."""
    entry = Known(
        second_moments=("square_avg",),
        beta2=lambda group: 0.0,
        divides=True,
        gain=lambda group: 1 / (1 - group["momentum"]),
        is_decoupled=lambda group: False,
    )
    weight = vector(1.0, 2.0)
    optimizer = Unheard([weight], lr=0.1, momentum=0.5)
    assert "decay_unknown_because" in one_step(optimizer, weight).attrs
    monkeypatch.setitem(KNOWN, f"{__name__}.Unheard", entry)
    run = one_step(optimizer, weight, gradient=3.0)
    v = optimizer.state[weight]["square_avg"].mean().item()
    assert run.effective_lr.item() == pytest.approx(0.2 / math.sqrt(v), rel=EXACT_FORMULA)
    assert run.decay_rate.item() == 0
    assert "decay_unknown_because" not in run.attrs

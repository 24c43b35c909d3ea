"""A step that calls the step of its base class is one step, although torch calls its hooks at both."""

import contextlib

import numpy as np
import pytest
import torch

from swd_dynamics.probe import Probe, steps
from swd_dynamics.probe.steps import StepHooks

LR = 1.75  # with the loss θ²/2 the gradient is θ, and a step gives 2(2θ − 1.75θ) = θ/2
LR_OF_CLOSURE = 0.875  # the closure is evaluated at 2θ: a step gives 2(2θ − .875·2θ) = θ/2
THETA = [64.0, 32.0, 16.0]
UPDATE = [32.0, 16.0, 8.0]  # the inner steps are 112, 56, 28


class Refused(Exception):
    """The error that a step raises."""


def classes():
    """Gradient descent, and a subclass that doubles the weight before and after the step.

    They are made here, because torch marks a class once it has an object.
    """

    class Descent(torch.optim.Optimizer):
        refusals = 0  # the number of next steps that raise

        def __init__(self, parameters, lr=LR):
            super().__init__(parameters, {"lr": lr})

        def step(self, closure=None):
            loss = None if closure is None else closure()
            if self.refusals:
                self.refusals -= 1
                raise Refused
            for parameter in self.param_groups[0]["params"]:
                parameter.data.sub_(self.param_groups[0]["lr"] * parameter.grad)
            return loss

    class Doubled(Descent):
        def inner_step(self, closure):
            return super().step(closure)

        def step(self, closure=None):
            (parameter,) = self.param_groups[0]["params"]
            parameter.data.mul_(2)
            loss = self.inner_step(closure)
            parameter.data.mul_(2)
            return loss

    return Descent, Doubled


def weight():
    return torch.nn.Parameter(torch.tensor([64.0], dtype=torch.float64))


def nested(lr=LR):
    """An optimizer in whose step torch calls each hook twice."""
    base, derived = classes()
    base([weight()])
    return derived([weight()], lr)


def loss_of(optimizer):
    optimizer.zero_grad()
    loss = optimizer.param_groups[0]["params"][0].square().sum() / 2
    loss.backward()
    return loss


def train(optimizer, steps):
    for _ in range(steps):
        loss_of(optimizer)
        optimizer.step()


@pytest.fixture(params=["memory", "disk"])
def probe_of(request, tmp_path):
    """Makes a probe that records in memory or in a run folder."""
    where = () if request.param == "memory" else (tmp_path / "run",)
    return lambda optimizer, **options: Probe(optimizer, *where, **options)


def values(probe, name):
    return probe.dataset()[name].values.ravel().tolist()


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_hooks_are_called_once(depth):
    """Assert that torch calls its hooks at every level, and the probe's at the outermost only."""
    kind, _ = classes()
    for _ in range(depth - 1):
        kind([weight()])
        kind = type("Named", (kind,), {"step": lambda self, base=kind: base.step(self)})
    optimizer, calls, of_torch = kind([weight()]), [], []
    optimizer.register_step_pre_hook(lambda *_: of_torch.append("before"))
    optimizer.register_step_post_hook(lambda *_: of_torch.append("after"))
    once = StepHooks(optimizer, lambda *_: calls.append("before"), lambda *_: calls.append("after"))
    train(optimizer, 2)
    once.remove()
    train(optimizer, 1)
    assert calls == ["before", "after"] * 2
    assert of_torch == (["before"] * depth + ["after"] * depth) * 3


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.slow
def test_a_nested_step_is_one_row(probe_of, when):
    """Assert that steps have no gaps, and the weights and the loss of the outermost step."""
    optimizer = nested()
    with probe_of(optimizer) as probe:
        for _ in THETA:
            loss = loss_of(optimizer).item()
            if when == "before":
                probe.observe(loss=loss)
            optimizer.step()
            if when == "after":
                probe.observe(loss=loss)
    assert values(probe, "step") == [1, 2, 3]
    assert values(probe, "theta_norm") == values(probe, "gradient_norm") == THETA
    assert values(probe, "update_norm") == UPDATE
    assert values(probe, "loss") == [2048, 512, 128]


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.slow
def test_a_closure_of_a_nested_step(probe_of, observed):
    """Assert that gradient and loss are those of the closure, which the inner step calls."""
    optimizer = nested(LR_OF_CLOSURE)

    def closure():
        loss = loss_of(optimizer)
        if observed:
            probe.observe(loss=loss)
        return loss

    with probe_of(optimizer) as probe:
        for _ in THETA:
            optimizer.step(closure)
    assert values(probe, "step") == [1, 2, 3]
    assert values(probe, "theta_norm") == THETA
    assert values(probe, "update_norm") == UPDATE
    assert values(probe, "gradient_norm") == [128, 64, 32]
    assert values(probe, "loss") == [8192, 2048, 512]


def test_every_nth_nested_step(tmp_path):
    """Assert that every second nested step is measured, and the parameters after it are kept."""
    optimizer = nested()
    with Probe(optimizer, tmp_path / "run", every=2, snapshots=4) as probe:
        train(optimizer, 5)
    assert values(probe, "step") == [2, 4]
    assert values(probe, "theta_norm") == [32, 8]
    assert [file.name for file in (tmp_path / "run" / "snapshots").iterdir()] == ["step-0000000004.safetensors"]


def test_steps_begin_to_be_nested(probe_of):
    """Assert that a run has no gap when the first object of the base class is made during it."""
    base, derived = classes()
    optimizer = derived([weight()])
    with probe_of(optimizer) as probe:
        train(optimizer, 2)
        base([weight()])
        train(optimizer, 1)
    assert values(probe, "step") == [1, 2, 3]
    assert values(probe, "update_norm") == UPDATE


@pytest.mark.slow
def test_an_inner_step_that_raised(probe_of):
    """Assert that a step that repeats its inner step, because that raised, is one row."""
    base, derived = classes()
    base([weight()])

    class Again(derived):
        def inner_step(self, closure):
            with contextlib.suppress(Refused):
                return super().inner_step(closure)
            return super().inner_step(closure)

    optimizer = Again([weight()])
    with probe_of(optimizer) as probe:
        for refusals in (0, 1, 0):
            optimizer.refusals = refusals
            train(optimizer, 1)
    assert values(probe, "step") == [1, 2, 3]
    assert values(probe, "theta_norm") == THETA
    assert values(probe, "update_norm") == UPDATE


def test_an_inner_step_given_up(probe_of):
    """Assert that a step that continues after its inner step raised is one row, like the next."""
    base, derived = classes()
    base([weight()])

    class Without(derived):
        def inner_step(self, closure):
            with contextlib.suppress(Refused):
                super().inner_step(closure)

    optimizer = Without([weight()])
    with probe_of(optimizer) as probe:
        for refusals in (0, 1, 0):
            optimizer.refusals = refusals
            train(optimizer, 1)
    assert values(probe, "step") == [1, 2, 3]
    assert values(probe, "theta_norm") == [64, 32, 128]  # the second step only doubles, twice
    assert values(probe, "update_norm") == [32, 96, 64]


@pytest.mark.parametrize("where", ["in the handler", "later"])
@pytest.mark.slow
def test_a_nested_step_that_raised(probe_of, where):
    """Assert that the step after a nested step that raised is a new one, while its error is
    handled.
    """
    optimizer = nested()
    with probe_of(optimizer) as probe:
        train(optimizer, 1)
        optimizer.refusals = 1
        try:
            train(optimizer, 1)
        except Refused:
            if where == "in the handler":
                train(optimizer, 1)
        train(optimizer, 2)
    started = [64, 64, 32, 16] if where == "in the handler" else [64, 64, 32]  # doubles 32
    assert values(probe, "theta_norm") == started
    assert values(probe, "update_norm") == [theta / 2 for theta in started]


@pytest.mark.slow
def test_a_step_that_a_method_of_the_optimizer_takes_again(probe_of):
    """Assert that a step that another method of the optimizer repeats is a new step."""
    _, derived = classes()

    class Fitted(derived):
        def fit(self):
            with contextlib.suppress(Refused):
                train(self, 1)
            train(self, 2)

    optimizer = Fitted([weight()])
    with probe_of(optimizer) as probe:
        optimizer.refusals = 1
        optimizer.fit()
    assert values(probe, "theta_norm") == [128, 64]  # the refused step doubled 64
    assert values(probe, "update_norm") == [64, 32]


def test_a_step_inside_the_step_of_another_optimizer(probe_of):
    """Assert that two steps inside another optimizer's step are two rows, also after one raised."""
    base, _ = classes()
    optimizer = base([weight()], lr=0.5)

    class Twice(torch.optim.Optimizer):
        def step(self):
            train(optimizer, 2)

    outer = Twice(optimizer.param_groups, {})
    with probe_of(optimizer) as probe:
        optimizer.refusals = 1
        with pytest.raises(Refused):
            outer.step()
        outer.step()
        outer.step()
    assert values(probe, "theta_norm") == [64, 32, 16, 8]
    assert np.diff(values(probe, "step")).tolist() == [1, 1, 1]


@pytest.mark.slow
def test_nested_steps_under_a_scaler_and_a_scheduler(probe_of):
    """Assert that a step wrapped by a scaler and a scheduler is one row, a skipped one none."""
    optimizer = nested()
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with probe_of(optimizer) as probe:
        for factor in (1.0, float("inf"), 1.0, 1.0):
            optimizer.zero_grad()
            scaler.scale(optimizer.param_groups[0]["params"][0].square().sum() * factor / 2).backward()
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
    assert values(probe, "step") == [1, 2, 3]
    assert values(probe, "theta_norm") == values(probe, "gradient_norm") == THETA
    assert values(probe, "update_norm") == UPDATE


@pytest.mark.slow
def test_a_probe_attached_in_a_nested_step(probe_of):
    """Assert that a step is not a row if the probe is attached during the step."""
    optimizer = nested(LR_OF_CLOSURE)
    probe = probe_of(optimizer)

    def attaching():
        probe.attach()
        return loss_of(optimizer)

    optimizer.step(attaching)
    optimizer.step(lambda: loss_of(optimizer))
    probe.detach()
    assert values(probe, "step") == [1]
    assert values(probe, "theta_norm") == [32]


def test_only_after_a_step_that_raised_the_stack_is_searched(probe_of, monkeypatch):
    """Assert that only the step after a step that raised searches the stack, and only once."""
    searches = []
    monkeypatch.setattr(steps, "_is_inside_step", lambda *_: searches.append(None))
    kind, _ = classes()
    optimizer = kind([weight()], lr=0.5)
    with probe_of(optimizer):
        train(optimizer, 3)
        assert not searches
        optimizer.refusals = 1
        with pytest.raises(Refused):
            train(optimizer, 1)
        train(optimizer, 3)
    assert len(searches) == 1


def test_a_hook_that_raised():
    """Assert that no hook follows a step before which a hook raised, even if the error is caught."""
    base, derived = classes()
    base([weight()])
    calls = []

    def refuse(*_):
        calls.append("before")
        raise Refused

    class Hooking(derived):
        def inner_step(self, closure):
            StepHooks(self, refuse, lambda *_: calls.append("after"))
            with contextlib.suppress(Refused):
                return super().inner_step(closure)

    train(Hooking([weight()]), 1)
    assert calls == ["before"]

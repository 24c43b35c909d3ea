"""WithDecay: real optimizers with the other decay modes, against the rules step by step."""

import numpy as np
import pytest
import torch

from swd_dynamics import optim
from swd_dynamics.crosscheck import replay
from swd_dynamics.errors import InputError
from swd_dynamics.optim import OPTIMIZERS, WithDecay
from swd_dynamics.probe import record
from swd_dynamics.rules import CATALOG, Cosine
from swd_dynamics.tables import UnknownName

NAMES = ("SGDIndependent", "SGDC", "SGDCautious", "AdamIndependent", "AdamC", "AdamCautious", "AdamPreconditioned")
ARGUMENTS = {"lr": 0.1, "weight_decay": 0.3}
STEPS = 30


def weights():
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(3, 2, dtype=torch.float64)), torch.nn.Parameter(torch.randn(4).double())]


def loss_of(parameters):
    """A quadratic with noise, so that steps go towards 0 and away from 0."""
    noise = torch.Generator().manual_seed(1)

    def loss(k):
        draws = [torch.randn(p.shape, generator=noise, dtype=p.dtype) for p in parameters]
        return sum(((p - 0.5) ** 2 / 2 + p * draw).sum() for p, draw in zip(parameters, draws, strict=True))

    return loss


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_steps_are_those_of_the_rule(name):
    """Assert that the real optimizer takes the steps of the catalogue's rule under a schedule, with the same R."""
    parameters = weights()
    more = {"lr_max": 0.1} if "C" in name[3:5] or "Ind" in name else {}
    more = {} if "Cautious" in name else more
    optimizer = OPTIMIZERS[name](parameters, **ARGUMENTS)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    recording = record(optimizer, loss_of(parameters), STEPS, scheduler=cosine)
    rule = CATALOG[name](lr=Cosine(0.1, STEPS), weight_decay=0.3, **more)
    assert replay(rule, recording).passed
    assert not replay(CATALOG[name](lr=Cosine(0.1, STEPS), weight_decay=0.31, **more), recording).passed
    theta, state = recording.theta.values, rule.start(recording.theta.values[0])
    for k, gradient in enumerate(recording.gradient.values):
        parts = rule.parts(state._replace(theta=theta[k]), gradient)
        state = parts.state
        seen = float(recording.decay_rate.values[k])
        assert seen == pytest.approx(float(np.mean(parts.decay_rate)), rel=1e-9)
        own = float(np.max(rule.direction.effective_lr(parts.memory, parts.step)))
        assert float(recording.effective_lr.values[k].max()) == pytest.approx(own, rel=1e-9)


def test_a_saved_state_is_taken_up():
    """Assert that a training goes on from a state_dict as if it had not been interrupted."""

    def trained(steps, start=None, state=None):
        parameters = weights()
        for parameter, value in zip(parameters, start or parameters, strict=True):
            parameter.data.copy_(value)
        optimizer = OPTIMIZERS["AdamCautious"](parameters, **ARGUMENTS)
        if state:
            optimizer.load_state_dict(state)
        for _ in range(steps):
            optimizer.zero_grad()
            sum(((p - 0.5) ** 2).sum() for p in parameters).backward()
            optimizer.step()
        return [p.detach().clone() for p in parameters], optimizer.state_dict()

    whole, _ = trained(10)
    resumed, _ = trained(6, *trained(4))
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_groups_and_parameters_without_gradient():
    """Assert that each group has its own λ, also a group added later, and that no gradient means no step."""
    one, two, idle = (torch.nn.Parameter(torch.ones(1)) for _ in range(3))
    optimizer = WithDecay(torch.optim.SGD([one], lr=0.5), "decoupled", weight_decay=0.5)
    optimizer.add_param_group({"params": [two, idle], "weight_decay": 1.0})
    one.grad = two.grad = torch.zeros(1)
    optimizer.step()
    assert [one.item(), two.item(), idle.item()] == [0.75, 0.5, 1.0]
    assert [group["decay_rate"] for group in optimizer.param_groups] == [0.25, 0.5]


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda p: WithDecay(torch.optim.SGD(p, weight_decay=0.1), "cautious"), "weight_decay = 0.1 of its own"),
        (lambda p: WithDecay(torch.optim.SGD(p), "corrected"), "needs lr_max"),
        (lambda p: WithDecay(torch.optim.SGD(p), "stable"), "SGDS"),
        (lambda p: WithDecay(torch.optim.SGD(p), "cautious", weight_decay=-1.0), "weight_decay"),
        (lambda p: WithDecay(p, "cautious"), "not a torch optimizer"),
    ],
)
def test_bad_input(make, error):
    """Assert that what cannot be meant is refused with what to do."""
    with pytest.raises(InputError, match=error):
        make([torch.nn.Parameter(torch.ones(1))])


def test_unknown_decay_and_no_second_moment():
    """Assert that an unknown decay is refused, and preconditioned decay without a second moment at its first step."""
    parameter = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(UnknownName):
        WithDecay(torch.optim.SGD([parameter]), "cautions")
    optimizer = WithDecay(torch.optim.SGD([parameter]), "preconditioned")
    parameter.grad = torch.ones(1)
    with pytest.raises(InputError, match="second moment"):
        optimizer.step()


def test_a_decay_that_grows_weights_is_told_once():
    """Assert that R > 2 of a weight without gradient is warned of, once."""
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = WithDecay(torch.optim.Adam([parameter], lr=0.1, eps=1e-8), "preconditioned", weight_decay=0.1)
    with pytest.warns(RuntimeWarning, match="R is above 2 for 1 weights") as told:
        for _ in range(2):
            parameter.grad = torch.tensor([1.0, 0.0])
            optimizer.step()
    assert len(told) == 1


@pytest.mark.parametrize("name", ["AdamC", "SGDIndependent", "AdamCautious"])
def test_a_scheduled_run_replays_by_its_name(name):
    """Assert that the largest learning rate is read from the recording, and not guessed from the schedule."""
    parameters = weights()
    optimizer = OPTIMIZERS[name](parameters, **ARGUMENTS)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=STEPS)
    assert replay(name, record(optimizer, loss_of(parameters), STEPS, scheduler=warm_up)).passed


def test_the_other_optimizers_are_imported_by_name():
    """Assert that every name of OPTIMIZERS is one of swd_dynamics.optim, and that another name is not."""
    assert all(getattr(optim, name) is made for name, made in OPTIMIZERS.items())
    with pytest.raises(AttributeError, match="AdamX"):
        _ = optim.AdamX

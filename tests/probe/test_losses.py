"""The loss of a step, observed or returned by the step's closure, and the gradient in a closure."""

import contextlib
import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch

from swd_dynamics.errors import InputError
from swd_dynamics.probe import Probe, record
from swd_dynamics.probe.losses import as_number


@pytest.fixture(params=["memory", "disk"])
def path(request, tmp_path):
    """Where the recording is kept; None is memory."""
    return None if request.param == "memory" else tmp_path / "run"


class Fails(torch.optim.SGD):
    """Gradient descent whose step raises at its end when a test wants it to."""

    fails = False

    def step(self, closure=None):
        super().step(closure)
        if self.fails:
            raise ValueError("once")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("every", [1, 2])
def test_a_loss_belongs_to_its_step(network, path, when, every):
    """Assert that a loss observed before or after its step is in its row, and a missing one NaN."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    losses = []
    with Probe(optimizer, path, every=every) as probe:
        for k in range(6):
            optimizer.zero_grad()
            loss = net.loss()
            loss.backward()
            if when == "before" and k != 3:
                probe.observe(loss=loss)
            optimizer.step()
            if when == "after" and k != 3:
                probe.observe(loss=loss.item())
            losses.append(loss.item())
    losses[3] = math.nan
    np.testing.assert_array_equal(probe.dataset().loss, losses[every - 1 :: every])


def test_a_loss_must_be_one_number(network):
    """Assert that a loss that is not one number is refused, and the message names its shape."""
    said = r"one number, not a tensor of shape \(2,\)"
    with Probe(torch.optim.SGD(network().parameters())) as probe, pytest.raises(InputError, match=said):
        probe.observe(loss=torch.ones(2))


@pytest.mark.parametrize("by_name", [False, True])
def test_a_closure_gives_gradient_and_loss(network, by_name):
    """Assert that with a closure the gradient and the loss are those at θ before the step."""
    net, closed = network(), network()
    plain = record(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), net.loss, 5)
    optimizer = torch.optim.SGD(closed.parameters(), lr=0.1, momentum=0.9)

    def closure():
        optimizer.zero_grad()
        loss = closed.loss()
        loss.backward()
        return loss

    with Probe(optimizer, trajectory=True) as probe:
        for _ in range(5):
            _ = optimizer.step(closure=closure) if by_name else optimizer.step(closure)
    run = probe.dataset()
    for name in plain:
        np.testing.assert_array_equal(run[name], plain[name])


def test_the_first_call_of_a_closure_counts(path):
    """Assert that the first gradient and loss are recorded if a closure is called many times."""
    weight = torch.nn.Parameter(torch.tensor([3.0], dtype=torch.float64))
    lbfgs = torch.optim.LBFGS([weight])

    def closure():
        lbfgs.zero_grad()
        loss = weight.square().sum() / 2
        loss.backward()
        return loss

    with Probe(lbfgs, path, trajectory=True) as probe:
        lbfgs.step(closure)
    run = probe.dataset()
    assert run.gradient.item() == run.gradient_norm.item() == 3
    assert run.loss.item() == 4.5


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.LBFGS])
def test_a_loss_observed_in_a_closure(path, make):
    """Assert that a loss observed in a closure belongs to its step, and the first of several counts."""
    weight = torch.nn.Parameter(torch.tensor([3.0], dtype=torch.float64))
    optimizer = make([weight], lr=0.5)
    probe = Probe(optimizer, path)

    def closure():
        optimizer.zero_grad()
        loss = weight.square().sum() / 2
        loss.backward()
        probe.observe(loss=loss)
        return loss

    with probe:
        for _ in range(3):
            optimizer.step(closure)
    losses = probe.dataset().loss.values
    assert losses[0] == 4.5
    assert (np.diff(losses) <= 0).all() and len(losses) == 3
    if make is torch.optim.SGD:
        np.testing.assert_array_equal(losses, [4.5, 4.5 / 4, 4.5 / 16])


def test_a_loss_after_a_step_that_raised(network, path):
    """Assert that after a step that raised, the next loss is recorded with its own step."""
    net = network()
    optimizer = Fails(net.parameters(), lr=0.1)
    with Probe(optimizer, path) as probe:
        for k in range(4):
            optimizer.fails = k == 1
            optimizer.zero_grad()
            net.loss().backward()
            probe.observe(loss=float(k))
            with contextlib.suppress(ValueError):
                optimizer.step()
    assert probe.dataset().loss.values[-2:].tolist() == [2, 3]


def test_a_closures_loss_before_its_step_raised(path):
    """Assert that the loss that a closure gave before its step raised is not in the next row."""
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = Fails([weight], lr=0.0)

    def closure():
        weight.grad = torch.ones_like(weight)
        return torch.tensor(100.0 if optimizer.fails else 1.0)

    with Probe(optimizer, path) as probe:
        for optimizer.fails in (True, False):
            with contextlib.suppress(ValueError):
                optimizer.step(closure)
    assert probe.dataset().loss.values.tolist() == [1]


def test_a_second_loss_has_no_row(network, path):
    """Assert that the loss of a step that a scaler did not call does not change the row before."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with Probe(optimizer, path) as probe:
        for k in range(4):
            net.loss().backward()
            if k != 2:
                optimizer.step()
            probe.observe(loss=float(k))
    np.testing.assert_array_equal(probe.dataset().loss, [0, 1, 3])


@pytest.mark.parametrize("skipped", [1, 2])
@pytest.mark.parametrize("every", [1, 2])
def test_losses_after_steps_of_which_a_scaler_skips_the_first(path, skipped, every):
    """Assert that losses observed after their steps are in their rows if the first had no step.

    With f = Σθ² and η = .1 each step multiplies θ by .8: the losses are 3·.64ᵏ.
    """
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    sgd, losses = torch.optim.SGD([weight], lr=0.1), []
    with Probe(sgd, path, every=every) as probe:
        for k in range(6):
            sgd.zero_grad()
            loss = weight.square().sum()
            loss.backward()
            if k >= skipped:
                sgd.step()
                losses.append(3 * 0.64 ** (k - skipped))
            probe.observe(loss=loss)
    run = probe.dataset()
    np.testing.assert_allclose(run.loss, losses[every - 1 :: every], rtol=1e-14)
    assert "loss_unknown_because" not in run.attrs


def test_losses_before_steps_of_which_a_scaler_skips_the_first(path):
    """Assert that losses observed before their steps stay there if the first had no step."""
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    sgd = torch.optim.SGD([weight], lr=0.1)
    with Probe(sgd, path) as probe:
        for k in range(4):
            sgd.zero_grad()
            loss = weight.square().sum()
            probe.observe(loss=loss)
            loss.backward()
            if k > 0:
                sgd.step()
    np.testing.assert_allclose(probe.dataset().loss, [3, 3 * 0.64, 3 * 0.64**2], rtol=1e-14)


@pytest.mark.slow
def test_a_number_that_may_be_the_next_steps_is_said(path):
    """Assert that numbers observed after steps, of which the first was skipped, are called unsure."""
    weight = torch.nn.Parameter(torch.ones(1))
    sgd = torch.optim.SGD([weight], lr=0.1)
    reasons = []
    for of in (None, "last"):
        with Probe(sgd, path and path / str(of)) as probe:
            for k in range(3):
                weight.grad = torch.ones(1)
                if k > 0:
                    sgd.step()
                probe.observe(loss=float(k), of=of)
        run = probe.dataset()
        reasons.append("loss_unknown_because" in run.attrs)
    assert reasons == [True, False]
    assert run.loss.values.tolist() == [1, 2]


@pytest.mark.parametrize(("observed", "missing"), [([], 3), ([0], 2), ([0, 1, 2], 0)])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_forgotten_loss_is_said(network, path, observed, missing, when):
    """Assert that a run notes how many of its rows have no loss, and nothing if all have one."""
    net = network()
    sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    with Probe(sgd, path) as probe:
        for k in range(3):
            if when == "before" and k in observed:
                probe.observe(loss=math.nan, of="next")
            net.train(sgd, 1)
            if when == "after" and k in observed:
                probe.observe(loss=math.nan, of="last")
    why = probe.dataset().attrs.get("loss_unknown_because", "")
    assert (f"{missing} of 3 rows" in why) == (missing > 0)


def observed_before_each_step(counts):
    """The messages of a run with so many observed losses before each step."""
    weight = torch.nn.Parameter(torch.ones(1))
    sgd = torch.optim.SGD([weight], lr=0.1)
    with warnings.catch_warnings(record=True, action="always") as said, Probe(sgd) as probe:
        for count in counts:
            weight.grad = torch.ones(1)
            for _ in range(count):
                probe.observe(loss=1.0)
            sgd.step()
    return said


def test_losses_that_are_overwritten_are_said_once():
    """Assert that gradient accumulation warns once, at the user's line, but not what a scaler skips now and then."""
    (said,) = observed_before_each_step([2, 2, 2, 2])
    assert "last" in str(said.message) and said.filename == __file__
    assert observed_before_each_step([4, 1, 1, 2, 1]) == []


@pytest.mark.parametrize("every", [1, 5])
def test_the_loss_says_that_it_was_forgotten(network, path, every):
    """Assert that the recorded loss itself says why it is NaN, without a warning, and a known quantity nothing."""
    net = network()
    sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    with warnings.catch_warnings(action="error"), Probe(sgd, path, every=every) as probe:
        net.train(sgd, 10)
    run = probe.dataset()
    assert f"{10 // every} of {10 // every} rows" in run.loss.attrs["unknown_because"]
    assert "unknown_because" not in run.lr.attrs


@pytest.mark.parametrize(("when", "kept"), [("before", 2.0), ("after", 1.0)])
def test_which_of_several_losses_counts(path, when, kept):
    """Assert that of several losses the last before a step counts, or the first after the step."""
    weight = torch.nn.Parameter(torch.ones(1))
    sgd = torch.optim.SGD([weight], lr=0.1)
    with Probe(sgd, path) as probe:
        for _ in range(3):
            weight.grad = torch.ones(1)
            for loss in (1.0, 2.0) if when == "before" else ():
                probe.observe(loss=loss)
            sgd.step()
            for loss in (1.0, 2.0) if when == "after" else ():
                probe.observe(loss=loss)
    assert probe.dataset().loss.values.tolist() == [kept] * 3


@pytest.mark.parametrize(
    "loss",
    [
        0.5,
        np.float32(0.5),
        np.array(0.5),
        np.array([0.5]),
        np.array([[0.5]], np.float16),
        torch.tensor([[0.5]], dtype=torch.bfloat16),
        Fraction(1, 2),
    ],
)
def test_one_number_in_any_form(loss):
    """Assert that a loss may be any object that holds one real number."""
    assert as_number(loss) == 0.5


@pytest.mark.parametrize(
    "loss",
    [
        "0.5",
        b"0.5",
        "nan",
        None,
        True,
        np.True_,
        0.5 + 0j,
        np.complex128(0.5),
        np.array([0.5 + 1j]),
        np.array("0.5"),
        np.array([0.5], object),
        np.ones(2),
        [0.5],
        torch.tensor(0.5 + 1j),
        torch.tensor(True),
        torch.empty(0),
        10**400,
    ],
)
def test_what_is_not_one_number_is_refused(loss):
    """Assert that a text, a complex number, a truth value and several numbers are no loss."""
    with pytest.raises(InputError, match="one number"):
        as_number(loss)

"""The probe records what the optimizer did, and nothing the optimizer does depends on it."""

import json
import math

import numpy as np
import pytest
import torch

from swd_dynamics.errors import InputError
from swd_dynamics.probe import Probe, record

SAME_ARITHMETIC = (
    1e-12  # torch's loop, foreach and fused kernels differ in rounding; float64, ten steps of a small network
)
NORM = 1e-14  # the same float64 norm summed in another order

OPTIMIZERS = {
    "SGD": lambda groups, **more: torch.optim.SGD(groups, lr=0.1, weight_decay=0.1, **more),
    "SGD nesterov": lambda groups, **more: torch.optim.SGD(
        groups, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1, **more
    ),
    "Adam amsgrad": lambda groups, **more: torch.optim.Adam(groups, lr=0.1, amsgrad=True, weight_decay=0.1, **more),
    "AdamW": lambda groups, **more: torch.optim.AdamW(groups, lr=0.1, **more),
}
each_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
STATE = {"SGD nesterov": {"momentum_buffer"}, "Adam amsgrad": {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step"}}


@each_optimizer
def test_recording_leaves_training_as_it_is(network, make):
    """Assert that a run with a probe is bitwise the run without."""
    bare, watched = network(), network()
    optimizer = make(watched.groups(lr=0.03))
    with Probe(optimizer, trajectory=True):
        recorded = watched.train(optimizer, 10)
    other = make(bare.groups(lr=0.03))
    assert torch.equal(recorded, bare.train(other, 10))
    assert optimizer.state_dict()["param_groups"] == other.state_dict()["param_groups"]


@each_optimizer
def test_weights_gradients_and_norms(network, make):
    """Assert that θ, g and the norms are those of the network, θ one row longer than the steps."""
    net = network()
    before = torch.cat([parameter.detach().reshape(-1) for parameter in net.parameters()]).clone()
    optimizer = make(net.groups(lr=0.03))
    with Probe(optimizer, model=net, trajectory=True) as probe:
        after = net.train(optimizer, 10)
    run = probe.dataset()
    gradient = torch.cat([parameter.grad.reshape(-1) for parameter in net.parameters()])
    assert dict(run.sizes) == {"step": 10, "iterate": 11, "weight": 26, "parameter": 4, "group": 2}
    assert run.theta.dtype == np.float64
    np.testing.assert_array_equal(run.theta[0], before)
    np.testing.assert_array_equal(run.theta[-1], after)
    np.testing.assert_array_equal(run.gradient[-1], gradient)
    np.testing.assert_allclose(run.theta_norm, np.linalg.norm(run.theta[:-1], axis=1), rtol=NORM)
    np.testing.assert_allclose(run.gradient_norm, np.linalg.norm(run.gradient, axis=1), rtol=NORM)
    np.testing.assert_allclose(run.update_norm, np.linalg.norm(np.diff(run.theta, axis=0), axis=1), rtol=NORM)
    assert json.loads(run.attrs["parameter_names"]) == ["first.weight", "first.bias", "last.weight", "last.bias"]
    np.testing.assert_array_equal(np.bincount(run.weight_parameter), [12, 4, 8, 2])
    np.testing.assert_array_equal(run.parameter_group, [0, 0, 1, 1])


@pytest.mark.parametrize("name", STATE)
def test_optimizer_state_is_recorded(network, name):
    """Assert that every tensor of the optimizer's state is there under its own name, as it is after the step."""
    net = network()
    optimizer = OPTIMIZERS[name](net.parameters())
    run = record(optimizer, net.loss, 4)
    assert {str(key).removeprefix("state_") for key in run if str(key).startswith("state_")} == STATE[name] | {"step"}
    for key in STATE[name] - {"step"}:
        held = torch.cat([optimizer.state[parameter][key].reshape(-1) for parameter in net.parameters()])
        np.testing.assert_array_equal(run[f"state_{key}"][-1], held)
    if "step" in STATE[name]:
        np.testing.assert_array_equal(run.state_step, [[k] * 4 for k in (1, 2, 3, 4)])


def test_state_of_another_shape_is_named_as_left_out(network):
    """Assert that state which is not shaped like the weights is left out and that the recording says which."""
    net = network()
    run = record(torch.optim.NAdam(net.parameters()), net.loss, 2)
    assert json.loads(run.attrs["state_not_recorded"]) == ["mu_product"]


def test_state_without_a_name_is_left_out():
    """Assert that state whose key cannot name a variable is left out, and that the rest is recorded."""

    class Odd(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            state = self.state[self.param_groups[0]["params"][0]]
            state |= {name: torch.ones(2) for name in ("fine", 3, "not fine")}

    weight = torch.nn.Parameter(torch.ones(2))
    run = record(Odd([weight], lr=0.1), lambda k: weight.sum(), 2)
    assert json.loads(run.attrs["state_not_recorded"]) == ["3", "not fine"]
    assert (run.state_fine == 1).all()


def test_state_that_is_gone_is_nan(network):
    """Assert that a piece of the state that the optimizer has dropped is NaN, not what it was before."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    with Probe(optimizer, trajectory=True) as probe:
        net.train(optimizer, 1)
        optimizer.state.clear()
        optimizer.param_groups[0]["momentum"] = 0.0
        net.train(optimizer, 1)
    found = np.isfinite(probe.dataset().state_momentum_buffer)
    np.testing.assert_array_equal(found.all("weight"), [True, False])
    np.testing.assert_array_equal(found.any("weight"), [True, False])


def test_facts_are_noted_during_a_run(network):
    """Assert that a fact is refused before and after a run, which stays finished."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    probe = Probe(optimizer)
    with pytest.raises(InputError, match="not attached"):
        probe.note(task="noise")
    with probe:
        probe.note(task="noise")
    with pytest.raises(InputError, match="not attached"):
        probe.note(task="another")
    attributes = probe.dataset().attrs
    assert (attributes["task"], attributes["status"]) == ("noise", "finished")


@each_optimizer
@pytest.mark.parametrize("variant", ["foreach", "fused"])
def test_variants_record_the_same(network, make, variant):
    """Assert that torch's foreach and fused implementations give the recording of the plain loop, round-off apart."""
    runs = []
    for more in ({"foreach": False}, {variant: True}):
        net = network()
        runs.append(record(make(net.groups(lr=0.03), **more), net.loss, 10))
    plain, other = runs
    assert set(plain) == set(other)
    for name in plain:
        np.testing.assert_allclose(
            other[name], plain[name], rtol=SAME_ARITHMETIC, atol=SAME_ARITHMETIC, err_msg=str(name)
        )


def test_scalars_alone(network):
    """Assert that without a trajectory the scalars are the same and nothing grows with the number of weights."""
    runs = []
    for trajectory in (True, False):
        net = network()
        runs.append(
            record(
                OPTIMIZERS["Adam amsgrad"](net.groups(lr=0.03)),
                net.loss,
                4,
                trajectory=trajectory,
                quantities="dynamics",
            )
        )
    full, scalars = runs
    assert "weight" not in scalars.dims and "iterate" not in scalars.dims
    for name in scalars:
        np.testing.assert_array_equal(scalars[name], full[name])


@pytest.mark.parametrize(("dtype", "recorded"), [(torch.float32, np.float32), (torch.bfloat16, np.float32)])
def test_precision_is_kept(network, dtype, recorded):
    """Assert that float32 is recorded as it is and bfloat16 widened, which loses nothing."""
    net = network(dtype=dtype)
    run = record(torch.optim.AdamW(net.parameters()), net.loss, 2)
    assert run.theta.dtype == run.gradient.dtype == run.state_exp_avg.dtype == recorded
    held = torch.cat([parameter.detach().reshape(-1) for parameter in net.parameters()])
    np.testing.assert_array_equal(run.theta[-1], held.float())
    assert run.attrs["dtype"] == str(dtype).removeprefix("torch.")


def test_parameters_without_gradient_are_flagged(network):
    """Assert that a missing gradient is recorded as zeros with a flag, and missing state as NaN."""
    net = network()
    for parameter in net.first.parameters():
        parameter.requires_grad_(False)
    run = record(torch.optim.Adam(net.parameters()), net.loss, 3)
    np.testing.assert_array_equal(run.had_gradient, [[False, False, True, True]] * 3)
    frozen = (run.weight_parameter < 2).values
    assert (run.gradient.values[:, frozen] == 0).all()
    assert np.isnan(run.state_exp_avg.values[:, frozen]).all()
    assert np.isnan(run.state_step.values[:, :2]).all()
    assert not np.isnan(run.state_exp_avg.values[:, ~frozen]).any()


def test_detach_takes_everything_away(network):
    """Assert that after detach no hook is left, the optimizer goes on as before, and the recording stays."""
    net, bare = network(), network()
    optimizer, other = (torch.optim.AdamW(one.parameters()) for one in (net, bare))
    probe = Probe(optimizer).attach()
    net.train(optimizer, 3)
    probe.detach()
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    assert torch.equal(net.train(optimizer, 4), bare.train(other, 7))
    assert probe.dataset().sizes["step"] == 3


def test_error_in_training_takes_the_hooks_away(network):
    """Assert that leaving the context by an error detaches the probe."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters())
    with pytest.raises(ZeroDivisionError), Probe(optimizer):
        _ = 1 / 0
    assert not optimizer._optimizer_step_pre_hooks


def test_dataset_may_be_asked_for_at_any_time(network):
    """Assert that a recording can be read before, during and after the run."""
    net = network()
    optimizer = torch.optim.Adam(net.parameters())
    probe = Probe(optimizer, trajectory=True)
    assert probe.dataset().sizes == {"step": 0, "iterate": 1, "weight": 26, "parameter": 4, "group": 1}
    with probe:
        for steps in (1, 2, 3):
            net.train(optimizer, 1)
            assert probe.dataset().sizes["step"] == steps
    np.testing.assert_array_equal(probe.dataset().step, [1, 2, 3])
    np.testing.assert_array_equal(probe.dataset().iterate, [0, 1, 2, 3])


@pytest.mark.parametrize("when", ["before", "after"])
def test_loss_is_that_of_the_step(network, when):
    """Assert that a loss noted before or after its step is filed under it, and a missing one is NaN."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    losses = []
    with Probe(optimizer) as probe:
        for k in range(4):
            optimizer.zero_grad()
            loss = net.loss()
            loss.backward()
            if when == "before" and k != 2:
                probe.observe(loss=loss)
            optimizer.step()
            if when == "after" and k != 2:
                probe.observe(loss=loss.item())
            losses.append(loss.item())
    losses[2] = math.nan
    np.testing.assert_array_equal(probe.dataset().loss, losses)


def test_loss_must_be_one_number(network):
    """Assert that a loss which is not a number is refused in words."""
    probe = Probe(torch.optim.SGD(network().parameters()))
    with pytest.raises(InputError, match=r"one number, not a tensor of shape \(2,\)"):
        probe.observe(loss=torch.ones(2))


@pytest.mark.parametrize("by_name", [False, True])
def test_closure_gives_gradient_and_loss(network, by_name):
    """Assert that with a closure the gradient and loss are those at θ before the step, not those left from the last."""
    runs = []
    for closed in (False, True):
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        if not closed:
            runs.append(record(optimizer, net.loss, 5))
            continue

        def closure(optimizer=optimizer, net=net):
            optimizer.zero_grad()
            loss = net.loss()
            loss.backward()
            return loss

        with Probe(optimizer, trajectory=True) as probe:
            for _ in range(5):
                _ = optimizer.step(closure=closure) if by_name else optimizer.step(closure)
        runs.append(probe.dataset())
    for name in runs[0]:
        np.testing.assert_array_equal(runs[1][name], runs[0][name])


def test_lbfgs_gradient_is_the_one_before_the_step():
    """Assert that of an optimizer that evaluates its closure many times, the first gradient is kept."""
    weight = torch.nn.Parameter(torch.tensor([3.0], dtype=torch.float64))
    lbfgs = torch.optim.LBFGS([weight])

    def closure():
        lbfgs.zero_grad()
        loss = weight.square().sum() / 2
        loss.backward()
        return loss

    with Probe(lbfgs, trajectory=True) as probe:
        lbfgs.step(closure)
    assert probe.dataset().gradient.item() == 3
    assert probe.dataset().loss.item() == 4.5


def test_schedule_is_seen(network):
    """Assert that each step's learning rate is the one it was taken with."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    run = record(optimizer, net.loss, 5, scheduler=scheduler)
    np.testing.assert_array_equal(run.lr[:, 0], [0.5, 0.5, 0.25, 0.25, 0.125])
    np.testing.assert_array_equal(run.effective_lr, run.lr)


def test_weights_changed_between_steps_are_noticed(network):
    """Assert that a step records how many weights changed before it without a step."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with Probe(optimizer, trajectory=True) as probe:
        net.train(optimizer, 2)
        net.last.bias.data.add_(1)
        net.train(optimizer, 1)
    np.testing.assert_array_equal(probe.dataset().changed_outside, [0, 0, 2])


def test_scaled_gradients_are_recorded_unscaled(network):
    """Assert that a gradient scaler in a fused optimizer leaves the recording as it is, and a void step shows."""
    net, plain = network(), network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with Probe(optimizer, trajectory=True) as probe:
        for factor in (1.0, math.inf, 1.0):
            optimizer.zero_grad()
            scaler.scale(net.loss() * factor).backward()
            scaler.step(optimizer)
            scaler.update()
    run = probe.dataset()
    usual = record(
        torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1, fused=True), plain.loss, 2
    )
    np.testing.assert_array_equal(run.had_gradient.values[:, 0], [True, False, True])
    assert run.update_norm[1] == 0
    for name in ("gradient", "decay_rate", "state_momentum_buffer"):
        np.testing.assert_allclose(run[name].values[[0, 2]], usual[name], rtol=SAME_ARITHMETIC)


def test_memory_is_bounded(network):
    """Assert that a trajectory too large is refused before training where that is known, else before it grows."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(InputError, match=r"26 weights = 26 values .*= 25: trajectory=False"):
        Probe(optimizer, trajectory=True, max_trajectory_values=25).attach()
    with pytest.raises(InputError, match="trajectory=False"):
        record(optimizer, net.loss, 3, max_trajectory_values=52)
    with Probe(optimizer, trajectory=True, max_trajectory_values=52) as probe:
        net.train(optimizer, 2)
        with pytest.warns(RuntimeWarning, match="trajectory=False"):
            net.train(optimizer, 1)
    assert probe.dataset().sizes["step"] == 2
    assert record(optimizer, net.loss, 3, max_trajectory_values=0, trajectory=False).sizes["step"] == 3


def test_bad_input_is_refused_in_words(network):
    """Assert that what cannot be recorded is named: no optimizer, the wrong model, complex weights, new parameters."""
    net = network()
    optimizer = torch.optim.SGD(net.first.parameters(), lr=0.1)
    with pytest.raises(InputError, match="not to Network"):
        Probe(net)
    with pytest.raises(InputError, match="the model Linear has none"):
        Probe(optimizer, model=net.last)
    with pytest.raises(InputError, match="parameter 0 is complex"):
        Probe(torch.optim.SGD([torch.nn.Parameter(torch.ones(1, dtype=torch.complex64))]))
    with Probe(optimizer) as probe:
        with pytest.raises(InputError, match="attached already"):
            probe.attach()
        optimizer.add_param_group({"params": net.last.parameters()})
        with pytest.warns(RuntimeWarning, match="attach a new probe"):
            optimizer.step()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@each_optimizer
def test_cuda_records_as_the_cpu_does(network, make):
    """Assert that a recording made on a CUDA device is the CPU's, round-off apart, and names the device."""
    runs = []
    for device in ("cpu", "cuda"):
        net = network(device=device)
        runs.append(record(make(net.groups(lr=0.03)), net.loss, 10))
    on_cpu, on_cuda = runs
    assert on_cuda.attrs["device"] == "cuda"
    assert on_cuda.attrs["device_name"] == torch.cuda.get_device_name()
    for name in on_cpu:
        np.testing.assert_allclose(
            on_cuda[name], on_cpu[name], rtol=SAME_ARITHMETIC, atol=SAME_ARITHMETIC, err_msg=str(name)
        )

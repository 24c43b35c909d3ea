"""The probe records what the optimizer did, and the training does not depend on the probe."""

import json
import warnings

import numpy as np
import pytest
import torch

from swd_dynamics.errors import InputError
from swd_dynamics.probe import Probe, record

# Relative difference in float64 after ten steps of a small network: torch's loop, foreach and fused
# kernels round differently.
SAME_ARITHMETIC = 1e-12
NORM = 1e-14  # relative difference of a float64 norm whose terms are added in another order

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
    """Assert that a run with a probe is bit for bit the run without a probe."""
    bare, watched = network(), network()
    optimizer = make(watched.groups(lr=0.03))
    with Probe(optimizer, trajectory=True):
        recorded = watched.train(optimizer, 10)
    other = make(bare.groups(lr=0.03))
    assert torch.equal(recorded, bare.train(other, 10))
    assert optimizer.state_dict()["param_groups"] == other.state_dict()["param_groups"]


@each_optimizer
def test_weights_gradients_and_norms(network, make):
    """Assert that θ, g and the norms are the network's, and θ has one row more than g."""
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
    """Assert that every tensor of the optimizer's state is recorded under its own name."""
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
    """Assert that state of another shape than the weights is left out and named."""
    net = network()
    run = record(torch.optim.NAdam(net.parameters()), net.loss, 2)
    assert json.loads(run.attrs["state_not_recorded"]) == ["mu_product"]


def test_state_without_a_name_is_left_out():
    """Assert that state whose key cannot name a variable is left out, and other state is not."""

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
    """Assert that a piece of the state that the optimizer has dropped is NaN."""
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


@each_optimizer
@pytest.mark.parametrize("variant", ["foreach", "fused"])
@pytest.mark.slow
def test_variants_record_the_same(network, make, variant):
    """Assert that torch's foreach and fused implementations give the plain loop's recording."""
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
    """Assert that without a trajectory no variable has the number of weights, and others are the
    same.
    """
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
    """Assert that float32 is recorded as it is, and bfloat16 as float32, which loses nothing."""
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
    """Assert that after detach no hook is left, training goes as before, and the rows stay."""
    net, bare = network(), network()
    optimizer, other = (torch.optim.AdamW(one.parameters()) for one in (net, bare))
    probe = Probe(optimizer).attach()
    net.train(optimizer, 3)
    probe.detach()
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    assert torch.equal(net.train(optimizer, 4), bare.train(other, 7))
    assert probe.dataset().sizes["step"] == 3


def test_error_in_training_takes_the_hooks_away(network):
    """Assert that an error in the training detaches the probe."""
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
    with pytest.warns(RuntimeWarning, match="not attached"):
        before = probe.dataset()
    assert before.sizes == {"step": 0, "iterate": 1, "weight": 26, "parameter": 4, "group": 1}
    with probe:
        for steps in (1, 2, 3):
            net.train(optimizer, 1)
            assert probe.dataset().sizes["step"] == steps
    np.testing.assert_array_equal(probe.dataset().step, [1, 2, 3])
    np.testing.assert_array_equal(probe.dataset().iterate, [0, 1, 2, 3])


@pytest.mark.parametrize("where", ["memory", "run"])
def test_a_probe_says_what_it_does(network, tmp_path, where):
    """Assert that a probe shows its optimizer, its place, its last step, and whether it is attached."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    path = None if where == "memory" else tmp_path / where
    probe = Probe(optimizer, path)
    said = [repr(probe)]
    with probe:
        net.loss().backward()
        optimizer.step()
        said.append(repr(probe))
    said.append(str(probe))
    place = path or "memory"
    wanted = [(0, "not attached"), (1, "attached"), (1, "not attached")]
    assert said == [f"<Probe of AdamW: recording in {place}, last step {step}, {status}>" for step, status in wanted]


def test_schedule_is_seen(network):
    """Assert that the recorded learning rate of each step is the one that the step used."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    run = record(optimizer, net.loss, 5, scheduler=scheduler)
    np.testing.assert_array_equal(run.lr[:, 0], [0.5, 0.5, 0.25, 0.25, 0.125])
    np.testing.assert_array_equal(run.effective_lr, run.lr)


def test_weights_changed_between_steps_are_noticed(network):
    """Assert that the number of weights that changed between two steps is recorded."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with Probe(optimizer, trajectory=True) as probe:
        net.train(optimizer, 2)
        net.last.bias.data.add_(1)
        net.train(optimizer, 1)
    np.testing.assert_array_equal(probe.dataset().changed_outside, [0, 0, 2])


def test_memory_is_bounded(network):
    """Assert that a trajectory that is too large is refused, before training if its size is known."""
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


def test_a_probe_that_was_never_attached_says_so(network):
    """Assert that before the first attachment a loss is refused and a dataset warns, but not after the detachment."""
    net = network()
    probe = Probe(torch.optim.SGD(net.parameters(), lr=0.1))
    said = r"not attached.*with Probe.*probe\.attach\(\)"
    with pytest.raises(InputError, match=said):
        probe.observe(loss=1.0)
    with pytest.warns(RuntimeWarning, match=said):
        assert probe.dataset().sizes["step"] == 0
    probe.attach()
    net.train(probe.optimizer, 1)
    probe.detach()
    probe.observe(loss=1.0)
    with warnings.catch_warnings(action="error"):
        assert probe.dataset().sizes["step"] == 1


def test_bad_input_is_refused_in_words(network):
    """Assert that messages name a model, another model's parameters, complex and new weights."""
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
    """Assert that a recording on a CUDA device is the CPU's up to round-off, and names the device."""
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

"""The probe with a run folder: what it writes and when, and that the training stays the same."""

import json
import math

import numpy as np
import pytest
import torch
from no_waiting import never_waits

from swd_dynamics.errors import InputError
from swd_dynamics.optim import AdamS
from swd_dynamics.probe import Probe
from swd_dynamics.recording.reader import open_recording
from swd_dynamics.recording.snapshots import load_snapshot, snapshots

# Relative difference in float64 after a few steps of a small network: torch's fused and plain
# kernels round differently.
SAME_ARITHMETIC = 1e-12

OPTIMIZERS = {
    "SGD": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.1),
    "AdamW": lambda groups: torch.optim.AdamW(groups, lr=0.1),
    "AdamS": lambda groups: AdamS(groups, lr=0.1, weight_decay=0.1),
}
each_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


class Unknown(torch.optim.Optimizer):
    """Sign descent, which the probe does not know."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(group["lr"] * parameter.grad.sign())


def described(path):
    return json.loads((path / "run.json").read_text())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run"


@each_optimizer
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.slow
def test_recording_leaves_training_as_it_is(network, path, make, every):
    """Assert that a run with a probe is bit for bit the run without a probe."""
    bare, watched = network(), network()
    optimizer = make(watched.groups(lr=0.03))
    with Probe(optimizer, path, model=watched, every=every, snapshots=4):
        recorded = watched.train(optimizer, 10)
    assert torch.equal(recorded, bare.train(make(bare.groups(lr=0.03)), 10))


def test_recording_is_labelled(network, path):
    """Assert that the recording names its parameters, what made it, and its status."""
    net = network()
    optimizer = torch.optim.AdamW(net.groups(lr=0.03))
    with Probe(optimizer, path, model=net, seed=7, data="noise") as probe:
        net.train(optimizer, 3)
        assert described(path)["status"] == "running"
    run = open_recording(path)
    assert dict(run.sizes) == {"step": 3, "group": 2, "parameter": 4}
    np.testing.assert_array_equal(run.step, [1, 2, 3])
    assert run.parameter.values.tolist() == ["first.weight", "first.bias", "last.weight", "last.bias"]
    assert run.parameter_group.values.tolist() == [0, 0, 1, 1]
    assert run.attrs["status"] == "finished" and run.attrs["seed"] == 7 and run.attrs["model"] == "Network"
    assert run.attrs["weights"] == 26 and run.attrs["optimizer"] == "AdamW"
    assert "(first): Linear(in_features=3, out_features=4, bias=True)" in run.attrs["model_summary"]
    assert probe.failure is None


@pytest.mark.slow
def test_hooks_are_taken_away(network, path):
    """Assert that after detach no hook is left, and attach continues the run at the right step."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    probe = Probe(optimizer, path).attach()
    with pytest.raises(InputError, match="attached already"):
        probe.attach()
    net.train(optimizer, 3)
    probe.detach()
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    net.train(optimizer, 2)
    with probe:
        net.train(optimizer, 2)
    np.testing.assert_array_equal(probe.dataset().step, [1, 2, 3, 6, 7])


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@pytest.mark.slow
def test_every_nth_step(network, path, tmp_path, name):
    """Assert that every n-th row is the same as when all steps are recorded, also for R of L2."""
    runs = []
    for every, where in ((1, path), (4, tmp_path / "fourth")):
        net = network()
        optimizer = OPTIMIZERS[name](net.parameters())
        with Probe(optimizer, where, every=every) as probe:
            net.train(optimizer, 10)
        runs.append(probe.dataset())
    every_one, every_fourth = runs
    np.testing.assert_array_equal(every_fourth.step, [4, 8])
    for variable in every_fourth.data_vars:
        np.testing.assert_array_equal(every_fourth[variable], every_one[variable].sel(step=[4, 8]), err_msg=variable)


@pytest.mark.slow
def test_memory(network, path, tmp_path):
    """Assert that the smallest set keeps no copy of the parameters, the default one, the largest
    two.
    """
    for name, copies in {"minimal": 0, "default": 1, "dynamics": 2}.items():
        net = network()
        optimizer = torch.optim.AdamW(net.parameters())
        with Probe(optimizer, tmp_path / name, quantities=name) as probe:
            net.train(optimizer, 1)
        measured = probe._instruments.measurement
        held = [copy for copy in (measured.theta, measured.start) if copy is not None]
        assert len(held) == copies


def test_very_small_and_very_large_numbers(path):
    """Assert that norms are right even if their squares are out of float32's range."""
    weight = torch.nn.Parameter(torch.tensor([1e20, 1e20]))
    sgd = torch.optim.SGD([weight], lr=1e-30, momentum=0.5)
    with Probe(sgd, path) as probe:
        weight.grad = torch.tensor([3e-25, 4e-25])
        sgd.step()
    run = probe.dataset()
    for name, expected in {"theta_norm": 2**0.5 * 1e20, "gradient_norm": 5e-25, "momentum_norm": 5e-25}.items():
        assert run[name].item() == pytest.approx(expected, rel=1e-6), name  # float32


def test_two_parameters_of_one_name_are_refused(network, path):
    """Assert that two parameters with the same name are refused."""
    model = torch.nn.Module()
    model.parameter_0 = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(InputError, match="two parameters are called parameter_0"):
        Probe(torch.optim.SGD([torch.nn.Parameter(torch.ones(1)), model.parameter_0]), path, model=model)


def test_snapshots(network, path):
    """Assert that the parameters after every n-th step are kept, bit for bit, by name."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    with Probe(optimizer, path, model=net, snapshots=2):
        for _ in range(4):
            net.train(optimizer, 1)
    assert list(snapshots(path)) == [2, 4]
    kept = load_snapshot(path, 4)
    for name, parameter in net.named_parameters():
        np.testing.assert_array_equal(kept[name], parameter.detach())


def test_unknown_optimizer(network, path):
    """Assert that R of an optimizer that publishes nothing is unknown at every level, with a
    reason.
    """
    net = network()
    optimizer = Unknown(net.parameters())
    with Probe(optimizer, path, quantities="dynamics") as probe:
        net.train(optimizer, 3)
    run = probe.dataset()
    for name in ("decay_rate", "decay_ratio", "decay_fraction", "effective_lr", "v_bar", "momentum_norm"):
        assert np.isnan(run[name]).all(), name
    assert np.isfinite(run.update_norm).all()
    assert "Unknown is neither an optimizer that is known" in run.attrs["decay_unknown_because"]


@pytest.mark.slow
def test_l2_of_adam_is_known_to_the_largest_set_only(network, path, tmp_path):
    """Assert that R of Adam's L2 is unknown by default, and the reason names the set that has it."""
    for name, is_known in {"default": False, "dynamics": True}.items():
        net = network()
        optimizer = torch.optim.Adam(net.parameters(), weight_decay=0.1)
        with Probe(optimizer, tmp_path / name, quantities=name) as probe:
            net.train(optimizer, 3)
        run = probe.dataset()
        assert np.isfinite(run.decay_rate).all() == is_known
        assert ("dynamics" in run.attrs.get("decay_unknown_because", "")) != is_known


def test_parameters_without_gradient(network, path):
    """Assert that a frozen layer has no gradient, no update and no decay."""
    net = network()
    for parameter in net.first.parameters():
        parameter.requires_grad_(False)
    optimizer = torch.optim.AdamW(net.groups(), lr=0.1, weight_decay=0.5)
    with Probe(optimizer, path) as probe:
        net.train(optimizer, 3)
    run = probe.dataset()
    for name in ("gradient_norm", "update_norm", "momentum_norm", "decay_rate"):
        assert (run[f"{name}_group"][:, 0] == 0).all(), name
    np.testing.assert_allclose(run.decay_rate, 0.05, rtol=SAME_ARITHMETIC)
    np.testing.assert_array_equal(run.update_norm, run.update_norm_group[:, 1])
    np.testing.assert_array_equal(run.v_mean, run.v_mean_group[:, 1])


def test_sparse_gradients(path):
    """Assert that a sparse gradient counts as 0 where it has no entry."""
    table = torch.nn.Embedding(5, 2, sparse=True)
    optimizer = torch.optim.SparseAdam(table.parameters())
    with Probe(optimizer, path) as probe:
        table(torch.tensor([1, 1, 3])).sum().backward()
        optimizer.step()
    assert probe.dataset().gradient_norm.item() == pytest.approx(math.sqrt(2 * 4 + 2 * 1))
    assert probe.dataset().update_sparsity.item() == pytest.approx(0.6)


def test_numbers_that_are_none(network, path):
    """Assert that a run that diverges is recorded to its end."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e200)
    with Probe(optimizer, path) as probe:
        net.train(optimizer, 5)
    run = probe.dataset()
    assert probe.failure is None and run.sizes["step"] == 5
    assert np.isfinite(run.theta_norm[0]) and not np.isfinite(run.theta_norm[-1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@each_optimizer
def test_cuda_never_waits_and_records_as_the_cpu_does(network, path, tmp_path, make):
    """Assert that no step waits for the device, and the recording is the CPU's up to round-off."""
    runs = []
    for device in ("cpu", "cuda"):
        net = network(device=device)
        optimizer = make(net.groups(lr=0.03))
        with Probe(optimizer, tmp_path / device, model=net, quantities="dynamics") as probe:
            net.train(optimizer, 2)
            with never_waits(device):
                for _ in range(8):
                    optimizer.zero_grad()
                    loss = net.loss()
                    loss.backward()
                    probe.observe(loss=loss)
                    optimizer.step()
        assert probe.failure is None
        runs.append(probe.dataset())
    on_cpu, on_cuda = runs
    assert on_cuda.attrs["device"] == "cuda"
    for name in on_cpu.data_vars:
        # The deviation of equal rates is the root of a difference that is 0 up to round-off.
        near = np.sqrt(SAME_ARITHMETIC) if str(name).startswith("decay_rate_std") else SAME_ARITHMETIC
        np.testing.assert_allclose(on_cuda[name], on_cpu[name], rtol=SAME_ARITHMETIC, atol=near, err_msg=str(name))

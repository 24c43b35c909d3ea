"""The streaming probe: what it writes, when, and that the training is as it was."""

import contextlib
import json
import math

import numpy as np
import pytest
import torch

from swd_dynamics.errors import InputError
from swd_dynamics.optim import AdamS
from swd_dynamics.probe import Probe, buffer
from swd_dynamics.recording.reader import open_recording
from swd_dynamics.recording.snapshots import load_snapshot, snapshots

SAME_ARITHMETIC = 1e-12  # torch's fused and plain kernels differ in rounding; float64, a few steps of a small network

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
def test_recording_leaves_training_as_it_is(network, path, make, every):
    """Assert that a run with a probe is bitwise the run without."""
    bare, watched = network(), network()
    optimizer = make(watched.groups(lr=0.03))
    with Probe(optimizer, path, model=watched, every=every, snapshots=4):
        recorded = watched.train(optimizer, 10)
    assert torch.equal(recorded, bare.train(make(bare.groups(lr=0.03)), 10))


def test_recording_is_labelled(network, path):
    """Assert that the recording names its parameters, says what made it, and that the run is finished."""
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


def test_hooks_are_taken_away(network, path):
    """Assert that after detach no hook is left, and that attach goes on with the run at the right step."""
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
def test_every_nth_step(network, path, tmp_path, name):
    """Assert that every n-th row is the row that is recorded when all steps are, L2's decay rate included."""
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


def test_rows_are_written_when_the_buffer_is_full_or_old(network, path, monkeypatch):
    """Assert that rows are on disk, while the run goes on, when the ring is full, and when they have waited long."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    with Probe(optimizer, path, quantities="minimal") as probe:
        net.train(optimizer, 3)
        assert open_recording(path).sizes["step"] == 0
        monkeypatch.setattr(buffer, "SECONDS", 0.0)
        net.train(optimizer, 1)
        assert open_recording(path).sizes["step"] == 3
        monkeypatch.setattr(buffer, "SECONDS", 1e9)
        net.train(optimizer, probe._buffer.rows + 1)
        assert open_recording(path).sizes["step"] == 3 + probe._buffer.rows
        assert probe.dataset().sizes["step"] == 5 + probe._buffer.rows
    np.testing.assert_array_equal(open_recording(path).step, np.arange(1, 6 + probe._buffer.rows))


def test_tensors_stay_where_they_are_until_the_buffer_is_taken():
    """Assert that tensors and numbers come back in their places, a later change of a tensor left out."""
    rows = buffer.Buffer({"norm": 2, "loss": 1}, torch.device("cpu"))
    norm = torch.tensor(2.0)
    rows.put(4, {"norm": [norm, 3.0], "loss": [math.nan]})
    rows.amend("loss", torch.tensor([0.5]))
    norm.add_(1)
    rows.put(5, {"norm": [None, norm]})
    steps, columns = rows.take()
    np.testing.assert_array_equal(steps, [4, 5])
    np.testing.assert_array_equal(columns["norm"], [[2, 3], [math.nan, 3]])
    np.testing.assert_array_equal(columns["loss"], [[0.5], [math.nan]])
    assert rows.filled == 0
    rows.put(6, {"norm": [1.0, 1.0]})  # a row that held tensors before
    np.testing.assert_array_equal(rows.take()[1]["norm"], [[1, 1]])


def test_memory(network, path, tmp_path):
    """Assert that no copy of the parameters is held for the smallest set, one by default, two for the largest."""
    for name, copies in {"minimal": 0, "default": 1, "dynamics": 2}.items():
        net = network()
        optimizer = torch.optim.AdamW(net.parameters())
        with Probe(optimizer, tmp_path / name, quantities=name) as probe:
            net.train(optimizer, 1)
        measured = probe._instruments.measurement
        held = [copy for copy in (measured.theta, measured.start) if copy is not None]
        assert len(held) == copies


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("every", [1, 2])
def test_loss_is_that_of_the_step(network, path, when, every):
    """Assert that a loss noted before or after its step is filed under it, and a missing one is NaN."""
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


def test_loss_must_be_one_number(network, path):
    """Assert that a loss which is not a number is refused in words."""
    with pytest.raises(InputError, match=r"one number, not a tensor of shape \(2,\)"):
        Probe(torch.optim.SGD(network().parameters()), path).observe(loss=torch.ones(2))


def test_closure_gives_gradient_and_loss(network, path):
    """Assert that of a closure that is called many times the first gradient and loss are kept."""
    weight = torch.nn.Parameter(torch.tensor([3.0], dtype=torch.float64))
    lbfgs = torch.optim.LBFGS([weight])

    def closure():
        lbfgs.zero_grad()
        loss = weight.square().sum() / 2
        loss.backward()
        return loss

    with Probe(lbfgs, path) as probe:
        lbfgs.step(closure)
    assert probe.dataset().gradient_norm.item() == 3
    assert probe.dataset().loss.item() == 4.5


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.LBFGS])
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_loss_observed_in_a_closure(path, where, make):
    """Assert that a loss noted in a closure is that of the step which calls it, of several evaluations the first."""
    weight = torch.nn.Parameter(torch.tensor([3.0], dtype=torch.float64))
    optimizer = make([weight], lr=0.5)
    probe = Probe(optimizer, path) if where == "disk" else Probe(optimizer)

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


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_step_that_raised_keeps_no_later_loss(network, path, where):
    """Assert that after a step which raised, and which the training survived, the next loss is filed as usual."""

    class Fails(Unknown):
        @torch.no_grad()
        def step(self, closure=None):
            if self.fails:
                raise ValueError("once")

    net = network()
    optimizer = Fails(net.parameters())
    with Probe(optimizer, path) if where == "disk" else Probe(optimizer) as probe:
        for k in range(4):
            optimizer.fails = k == 1
            optimizer.zero_grad()
            net.loss().backward()
            probe.observe(loss=float(k))
            with contextlib.suppress(ValueError):
                optimizer.step()
    assert probe.dataset().loss.values[-2:].tolist() == [2, 3]


def test_a_step_that_raised_keeps_no_loss_of_its_closure(path):
    """Assert that the loss which a closure gave before its step raised is not that of the next step."""

    class Fails(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            if self.fails:
                raise ValueError("once")

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


def test_a_second_loss_is_of_no_row(network, path):
    """Assert that the loss of a step which a scaler did not take, noted after it, leaves the step before as it is."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with Probe(optimizer, path) as probe:
        for k in range(4):
            net.loss().backward()
            if k != 2:
                optimizer.step()
            probe.observe(loss=float(k))
    np.testing.assert_array_equal(probe.dataset().loss, [0, 1, 3])


def test_very_small_and_very_large_numbers(path):
    """Assert that norms are right where their squares leave float32."""
    weight = torch.nn.Parameter(torch.tensor([1e20, 1e20]))
    sgd = torch.optim.SGD([weight], lr=1e-30, momentum=0.5)
    with Probe(sgd, path) as probe:
        weight.grad = torch.tensor([3e-25, 4e-25])
        sgd.step()
    run = probe.dataset()
    for name, expected in {"theta_norm": 2**0.5 * 1e20, "gradient_norm": 5e-25, "momentum_norm": 5e-25}.items():
        assert run[name].item() == pytest.approx(expected, rel=1e-6), name  # of float32 numbers


def test_a_wrapped_optimizer_is_unwrapped(network, path):
    """Assert that of an optimizer wrapped as Accelerate and Fabric do, the one inside is recorded."""

    class Wrapper(torch.optim.Optimizer):
        def __init__(self, optimizer):
            self.optimizer = optimizer

    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    with Probe(Wrapper(optimizer), path) as probe:
        net.train(optimizer, 1)
    assert np.isfinite(probe.dataset().decay_rate).all()
    assert Probe(Wrapper(optimizer)).optimizer is optimizer


def test_two_parameters_of_one_name_are_refused(network, path):
    """Assert that a parameter of the model which is called as one from elsewhere would be is refused."""
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
    """Assert that the decay of an optimizer that says nothing of it is unknown, everywhere, with the reason."""
    net = network()
    optimizer = Unknown(net.parameters())
    with Probe(optimizer, path, quantities="dynamics") as probe:
        net.train(optimizer, 3)
    run = probe.dataset()
    for name in ("decay_rate", "decay_ratio", "decay_fraction", "effective_lr", "v_bar", "momentum_norm"):
        assert np.isnan(run[name]).all(), name
    assert np.isfinite(run.update_norm).all()
    assert "Unknown is neither torch's" in run.attrs["decay_unknown_because"]


def test_l2_of_adam_is_known_to_the_largest_set_only(network, path, tmp_path):
    """Assert that R of Adam's L2, which differs from weight to weight, is unknown by default and says what knows it."""
    for name, is_known in {"default": False, "dynamics": True}.items():
        net = network()
        optimizer = torch.optim.Adam(net.parameters(), weight_decay=0.1)
        with Probe(optimizer, tmp_path / name, quantities=name) as probe:
            net.train(optimizer, 3)
        run = probe.dataset()
        assert np.isfinite(run.decay_rate).all() == is_known
        assert ("dynamics" in run.attrs.get("decay_unknown_because", "")) != is_known


def test_parameters_without_gradient(network, path):
    """Assert that a frozen layer counts as left alone: no gradient, no update, no decay."""
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
    """Assert that a sparse gradient counts with zeros where it has nothing."""
    table = torch.nn.Embedding(5, 2, sparse=True)
    optimizer = torch.optim.SparseAdam(table.parameters())
    with Probe(optimizer, path) as probe:
        table(torch.tensor([1, 1, 3])).sum().backward()
        optimizer.step()
    assert probe.dataset().gradient_norm.item() == pytest.approx(math.sqrt(2 * 4 + 2 * 1))
    assert probe.dataset().update_sparsity.item() == pytest.approx(0.6)


def test_numbers_that_are_none(network, path):
    """Assert that a run that diverges is recorded as it is, and goes on."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e200)
    with Probe(optimizer, path) as probe:
        net.train(optimizer, 5)
    run = probe.dataset()
    assert probe.failure is None and run.sizes["step"] == 5
    assert np.isfinite(run.theta_norm[0]) and not np.isfinite(run.theta_norm[-1])


def test_scaled_gradients(network, path, tmp_path):
    """Assert that a gradient scaler leaves the recording as it is, and that a skipped step has Δθ = 0 and R = 0."""
    runs = []
    for scaled in (False, True):
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1, fused=True)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        with Probe(optimizer, tmp_path / str(scaled)) as probe:
            for factor in (1.0, math.inf, 1.0) if scaled else (1.0, 1.0):
                optimizer.zero_grad()
                scaler.scale(net.loss() * factor).backward()
                scaler.step(optimizer)
                scaler.update()
        runs.append(probe.dataset())
    plain, scaled = runs
    for name in ("update_norm", "decay_rate", "gradient_norm"):
        assert scaled[name][1] == 0, name
    for name in ("gradient_norm", "decay_rate", "cos_gradient_momentum", "momentum_norm", "rotation"):
        np.testing.assert_allclose(scaled[name][[0, 2]], plain[name], rtol=SAME_ARITHMETIC, err_msg=name)


def test_scaler_that_skips_the_call(network, path):
    """Assert that a step which a scaler never hands to the optimizer is no step."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), foreach=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with Probe(optimizer, path) as probe:
        for factor in (1.0, math.inf, 1.0):
            optimizer.zero_grad()
            scaler.scale(net.loss() * factor).backward()
            scaler.step(optimizer)
            scaler.update()
    np.testing.assert_array_equal(probe.dataset().step, [1, 2])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@each_optimizer
def test_cuda_never_waits_and_records_as_the_cpu_does(network, path, tmp_path, make):
    """Assert that no step waits for the device, and the recording is the CPU's, round-off apart."""
    runs = []
    for device in ("cpu", "cuda"):
        net = network(device=device)
        optimizer = make(net.groups(lr=0.03))
        with Probe(optimizer, tmp_path / device, model=net, quantities="dynamics") as probe:
            net.train(optimizer, 2)
            torch.cuda.set_sync_debug_mode("error" if device == "cuda" else "default")
            try:
                for _ in range(8):
                    optimizer.zero_grad()
                    loss = net.loss()
                    loss.backward()
                    probe.observe(loss=loss)
                    optimizer.step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        assert probe.failure is None
        runs.append(probe.dataset())
    on_cpu, on_cuda = runs
    assert on_cuda.attrs["device"] == "cuda"
    for name in on_cpu.data_vars:
        np.testing.assert_allclose(
            on_cuda[name], on_cpu[name], rtol=SAME_ARITHMETIC, atol=SAME_ARITHMETIC, err_msg=str(name)
        )

"""The engines of a sweep: each gives what a loop over torch's optimizers gives."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from small_sweeps import LINE, NETWORK, deadly
from torch.nn.utils import parameters_to_vector

from swd_dynamics.errors import InputError
from swd_dynamics.optim import OPTIMIZERS
from swd_dynamics.sweeping import sweep
from swd_dynamics.tasks import classification, quadratic

NAMES = ["SGD", "SGDW", "SGDS", "Adam", "AdamW", "AdamS", "AMSGrad", "AMSGradS", "AdaiS"]
STEPS = 8
GRID = {"lr": [0.003, 0.03], "weight_decay": [0.0, 0.1]}
NOISY = partial(quadratic, spectrum=(1.0, 3.0, 0.1), start=(1.0, -2.0, 0.5), noise=0.3)
TASKS = {"network": NETWORK, "noisy quadratic": NOISY}
# Of two ways of computing the same steps in float64. Adam divides by √v, so that the round-off of a gradient near 0
# counts as much as that of a large gradient; 1e-15 was seen for the numbers of whole networks.
ROUND_OFF = 1e-11


@pytest.fixture(scope="module")
def cluster():
    """The address of a Dask cluster with two workers, and the cluster."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as started:
        yield started


def by_hand(make_task, name, arguments, seed, cosine):
    """What a plain loop over a torch optimizer comes to."""
    task = make_task(seed=seed)
    optimizer = OPTIMIZERS[name](task.model.parameters(), **arguments)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS) if cosine else None
    for step in range(STEPS):
        optimizer.zero_grad()
        task.loss(step).backward()
        optimizer.step()
        if schedule:
            schedule.step()
    parameters = list(task.model.parameters())
    gradient = parameters_to_vector(torch.autograd.grad(task.full_loss(task.model), parameters))
    return {
        "train_loss": task.full_loss(task.model).item(),
        "test_error": task.test_error(task.model).item() if task.test_error else np.nan,
        "gradient_norm": gradient.norm().item(),
        "weight_norm": parameters_to_vector(parameters).norm().item(),
    }


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("task", [pytest.param(name, marks=[pytest.mark.slow] * (name == "network")) for name in TASKS])
@pytest.mark.slow
def test_vmap_is_a_loop_over_optimizers(task, schedule):
    """Assert that vmap gives, in every cell, what a loop over the torch optimizer gives, to round-off."""
    found = sweep(TASKS[task], NAMES, GRID, steps=STEPS, seeds=[0, 3], schedule=schedule, engine="vmap")
    for name in NAMES:
        for lr in GRID["lr"]:
            for decay in GRID["weight_decay"]:
                for seed in (0, 3):
                    cell = found.sel(optimizer=name, lr=lr, weight_decay=decay, seed=seed)
                    arguments = {"lr": lr, "weight_decay": decay}
                    wanted = by_hand(TASKS[task], name, arguments, seed, schedule == "cosine")
                    for quantity, value in wanted.items():
                        np.testing.assert_allclose(cell[quantity], value, rtol=ROUND_OFF, err_msg=f"{name} {quantity}")


@pytest.mark.parametrize("name", ["SGDS", "AdamS", "AMSGradS", "AdaiS"])
@pytest.mark.slow
def test_a_decay_beyond_two(name):
    """Assert that where R > 2, and where all gradients are 0, vmap does what the optimizer does."""
    at_rest = partial(quadratic, (1.0, 3.0), optimum=1.0, start=1.0)
    for task, arguments in ((NOISY, {"lr": 0.1, "weight_decay": 90.0}), (at_rest, {"lr": 0.1, "weight_decay": 0.5})):
        found = sweep(task, [name], {key: [value] for key, value in arguments.items()}, steps=STEPS, engine="vmap")
        if found.diverged_at.isnull().all():
            wanted = by_hand(task, name, arguments, 0, cosine=False)
            np.testing.assert_allclose(found.weight_norm.item(), wanted["weight_norm"], rtol=ROUND_OFF)
    assert name not in ("AdamS", "AMSGradS") or found.weight_norm.item() == np.sqrt(2)  # no decay while v̄ = 0


@pytest.fixture(scope="module")
def with_a_wild_cell():
    """Sweeps the quadratic with a learning rate at which it diverges, and one that torch refuses."""

    def swept(engine, **more):
        grid = {"lr": [0.003, 1e9, -1.0], "weight_decay": [0.0, 0.1]}
        return sweep(NOISY, NAMES, grid, steps=STEPS, seeds=2, schedule="cosine", engine=engine, **more)

    return swept, swept("vmap")


def assert_same(found, expected, rtol=ROUND_OFF):
    assert set(found.data_vars) == set(expected.data_vars)
    for name in expected.data_vars:
        np.testing.assert_allclose(found[name], expected[name], rtol=rtol, atol=1e-300, err_msg=name)
    assert found.failed == expected.failed


@pytest.mark.slow
def test_processes_and_vmap_agree(with_a_wild_cell):
    """Assert that every quantity of every cell is the same from processes as from vmap, diverged and failed too."""
    swept, expected = with_a_wild_cell
    assert_same(swept("processes", jobs=2), expected)


@pytest.mark.slow
def test_dask_and_vmap_agree(with_a_wild_cell, cluster):
    """Assert that every quantity of every cell is the same from a Dask cluster as from vmap."""
    swept, expected = with_a_wild_cell
    found = swept("dask", scheduler=cluster.scheduler_address)
    assert found.engine == "dask"
    assert_same(found, expected)


@pytest.mark.slow
def test_a_wild_cell_harms_no_other(with_a_wild_cell):
    """Assert that diverged cells say their step, failed ones their reason, and the others are as without them."""
    _, found = with_a_wild_cell
    alone = sweep(NOISY, NAMES, {**GRID, "lr": [0.003]}, steps=STEPS, seeds=2, schedule="cosine", engine="vmap")
    for name in found.data_vars:
        np.testing.assert_allclose(found[name].sel(lr=[0.003]), alone[name], rtol=ROUND_OFF)
    sgd = found.sel(optimizer="SGD", lr=1e9, weight_decay=0.1)
    assert (sgd.diverged_at == 2).all() and sgd.weight_norm.isnull().all()
    refused = found.sel(lr=-1.0)
    reasons = json.loads(found.failed)
    assert len(reasons) == refused.test_error.size and all("-1" in reason for reason in reasons.values())
    assert all(refused[name].isnull().all() for name in found.data_vars)


@pytest.mark.parametrize("lr", [2.5, 25.0])
@pytest.mark.slow
def test_the_step_of_divergence(lr):
    """Assert that gradient descent on ½θ² diverges at the first step whose loss is above 10⁶ times the first loss."""
    found = sweep(LINE, ["SGD"], {"lr": [lr, 0.5]}, steps=60, engine="vmap")
    growth = (1 - lr) ** 2  # of the loss in a step
    first = 1 + int(np.floor(np.log(1e6) / np.log(growth))) + 1
    assert found.diverged_at.values[0, :, 0].tolist()[0] == first
    assert found.diverged_at.isnull().values[0, 1, 0] and found.train_loss.values[0, 1, 0] == 0.5 * 0.5**120


def test_closed_form_on_the_quadratic():
    """Assert that gradient descent with decay on ½θ² multiplies θ by 1 − η − ηλ in each step."""
    grid = {"lr": [0.25, 0.5], "weight_decay": [0.0, 0.5]}
    found = sweep(LINE, ["SGD", "SGDW", "SGDS"], grid, steps=6, evaluations=6, engine="vmap")
    for lr in grid["lr"]:
        for decay in grid["weight_decay"]:
            cell = found.sel(lr=lr, weight_decay=decay, seed=0)
            theta = (1 - lr - lr * decay) ** np.arange(1, 7)
            expected = np.tile(theta**2 / 2, (3, 1))
            np.testing.assert_allclose(cell.train_loss_curve, expected, rtol=1e-14)
            np.testing.assert_allclose(cell.weight_norm, np.abs(theta[-1]), rtol=1e-14)
            rate = np.array([np.nan if decay else 0.0, lr * decay, lr * decay])  # of L2 there is none
            np.testing.assert_allclose(cell.decay_rate, rate)
            np.testing.assert_allclose(cell.effective_lr, lr)


@pytest.mark.slow
def test_other_axes():
    """Assert that arguments other than lr and weight decay may be axes: momentum, and pairs such as betas."""
    found = sweep(LINE, ["SGD"], {"momentum": [0.0, 0.5], "lr": [0.25]}, steps=2, engine="vmap")
    # θ₁ = ¾; θ₂ = ¾ − ¼·(¾ + β·1)
    np.testing.assert_allclose(found.weight_norm.values[0, :, 0, 0], [9 / 16, 7 / 16], rtol=1e-15)
    betas = [(0.9, 0.99), (0.5, 0.9)]
    for given in (betas, [list(pair) for pair in betas], np.array(betas)):
        found = sweep(NETWORK, ["Adam"], {"betas": given}, steps=STEPS, engine="vmap")
        assert found.betas.values.tolist() == [str(pair) for pair in betas]
        for i, pair in enumerate(betas):
            wanted = by_hand(NETWORK, "Adam", {"betas": pair}, 0, cosine=False)
            np.testing.assert_allclose(found.train_loss.values[0, i, 0], wanted["train_loss"], rtol=ROUND_OFF)


def test_an_argument_that_only_the_rule_refuses():
    """Assert that vmap trains a cell by the real optimizer if the rule refuses its arguments and torch does not."""
    found = sweep(LINE, ["SGD"], {"momentum": [0.5, 1.0], "lr": [0.25]}, steps=2, engine="vmap")
    np.testing.assert_allclose(found.weight_norm.values[0, :, 0, 0], [7 / 16, 5 / 16], rtol=1e-15)
    assert found.failed == "{}"


@pytest.mark.slow
def test_a_foreign_optimizer_is_trained_in_processes():
    """Assert that an optimizer without a rule is trained by processes, and gives what a loop over it gives."""
    found = sweep(LINE, [torch.optim.NAdam], {"lr": [0.1]}, steps=5)
    assert found.engine == "processes"
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = torch.optim.NAdam([weight], lr=0.1)
    for _ in range(5):
        weight.grad = weight.detach().clone()
        optimizer.step()
    assert found.weight_norm.item() == abs(weight.item())


def labelled(model, seed=0):
    data = torch.ones(4, 2, dtype=torch.float64), torch.tensor([0, 1, 0, 1])
    return classification(model.double(), data, seed=seed)


@pytest.mark.parametrize(
    ("task", "optimizer", "reason"),
    [
        (LINE, torch.optim.NAdam, "no rule for NAdam"),
        (LINE, ("SGD", {"maximize": True}), "maximize"),
        (partial(deadly, "nothing"), "SGD", "DrawnLoss"),
        (partial(labelled, torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))), "SGD", "buffers"),
        (partial(labelled, torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout())), "SGD", "random"),
        (partial(labelled, torch.nn.Sequential(torch.nn.Linear(2, 2).requires_grad_(False))), "SGD", "not trained"),
    ],
    ids=["no rule", "argument", "loss", "buffers", "dropout", "frozen"],
)
def test_vmap_is_refused_with_the_reason(task, optimizer, reason):
    """Assert that what vmap cannot train is refused with the reason if vmap is asked for."""
    with pytest.raises(InputError, match=reason):
        sweep(task, [optimizer], {"lr": [0.1]}, steps=2, engine="vmap")


@pytest.mark.slow
def test_a_killed_process_costs_nothing(tmp_path):
    """Assert that a cell whose process is killed is trained again, with the same result."""
    (tmp_path / "armed").touch()
    found = sweep(partial(deadly, tmp_path / "armed"), ["SGD"], GRID, steps=STEPS, seeds=2, engine="processes", jobs=2)
    assert not (tmp_path / "armed").exists()
    assert_same(found, sweep(NETWORK, ["SGD"], GRID, steps=STEPS, seeds=2, engine="vmap"))


@pytest.mark.slow
def test_a_killed_dask_worker_costs_nothing(tmp_path, cluster):
    """Assert that all cells arrive although a worker of the cluster is killed in mid-sweep."""
    (tmp_path / "armed").touch()
    before = {worker.pid for worker in cluster.workers.values()}
    task = partial(deadly, Path(tmp_path / "armed"))
    address = cluster.scheduler_address
    found = sweep(task, ["SGD"], GRID, steps=STEPS, seeds=2, engine="dask", scheduler=address)
    assert not (tmp_path / "armed").exists()
    assert {worker.pid for worker in cluster.workers.values()} != before
    assert_same(found, sweep(NETWORK, ["SGD"], GRID, steps=STEPS, seeds=2, engine="vmap"))


@pytest.mark.slow
def test_no_scheduler_answers(monkeypatch):
    """Assert that a wrong address of a scheduler is told in a sentence."""
    pytest.importorskip("distributed")
    monkeypatch.setattr("swd_dynamics.sweeping.cluster.TIMEOUT", 0.5)
    with pytest.raises(InputError, match="no Dask scheduler answers"):
        sweep(LINE, ["SGD"], {"lr": [0.1]}, steps=2, engine="dask", scheduler="tcp://127.0.0.1:1")

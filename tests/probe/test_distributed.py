"""A recording of two processes (DDP, fully_shard) equals that of one, and no probe delays a
process.
"""

import json

import numpy as np
import pytest
import torch

from swd_dynamics.errors import InputError
from swd_dynamics.probe import Probe
from swd_dynamics.recording.reader import open_recording

if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
    pytest.skip("torch is built without distributed, or without gloo", allow_module_level=True)

from optim.distributed_worker import WORLD
from probe import distributed_probe_worker
from probe.distributed_probe_worker import (
    AGREEING,
    ALONE,
    BARE,
    BROKEN,
    CASES,
    COUNTED,
    GATHERED,
    HALF,
    IN_MEMORY,
    LATE,
    ON_ITS_OWN,
    RESUMED,
    STEPS,
    UNFOLLOWED,
    WRONG,
    Case,
    train,
)
from two_processes import seen_by_each

pytestmark = pytest.mark.slow  # two processes start and train

# Relative difference after 12 float64 steps, whose gradients are summed in halves: an eps or two in
# each step. Sparsity, cosines and angles lose one or two digits more.
SUMMED_IN_HALVES = 1e-12
# An angle's sine and a standard deviation are roots of a difference of squares. Where the
# difference is 0, as for a single weight, √eps is left.
ROOT_OF_EPS = 1e-7
# A norm over one of two shards, or with replicas counted twice, is wrong by more than this.
WRONG_SUM = 0.05
# Quantities that are made from sums over the weights, so that they are unknown without a shard.
OF_ALL_SHARDS = (
    "theta_norm",
    "gradient_norm",
    "update_norm",
    "momentum_norm",
    "cos_theta_update",
    "rotation",
    "distance",
)


def named(cases):
    return pytest.mark.parametrize("case", cases, ids=" | ".join)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two processes saw, and the folder that they wrote to."""
    folder = tmp_path_factory.mktemp("distributed")
    return folder, seen_by_each(distributed_probe_worker.__file__, folder)


@pytest.fixture(scope="module")
def recorded(found):
    """The recording of a case."""
    folder, _ = found
    return lambda case, *below: open_recording(folder.joinpath("runs", str(CASES.index(case)), *below))


@pytest.fixture(scope="module")
def seen(found):
    """What a process saw in a case."""
    tables = [{Case(*case): result for case, result in ranks["cases"]} for ranks in found[1]]
    return lambda case, rank=0: tables[rank][case]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The recording of the same training in this process, on whole batches."""
    made = {}

    def recording(optimizer):
        if optimizer not in made:
            path = tmp_path_factory.mktemp("alone") / "run"
            train(Case(optimizer, None), path)
            made[optimizer] = open_recording(path)
        return made[optimizer]

    return recording


def assert_same(run, expected, names=None):
    for name in names or expected:
        allowed = ROOT_OF_EPS if str(name).startswith(("rotation", "decay_rate_std")) else SUMMED_IN_HALVES
        np.testing.assert_allclose(run[name], expected[name], rtol=SUMMED_IN_HALVES, atol=allowed, err_msg=str(name))


@named(AGREEING)
def test_two_processes_record_as_one(recorded, seen, alone, case):
    """Assert that every quantity at every level equals that of one process on the whole batch."""
    run, expected = recorded(case), alone(case.optimizer)
    np.testing.assert_array_equal(run.step, np.arange(1, STEPS + 1))
    assert run.attrs["status"] == "finished" and run.attrs["processes"] == WORLD
    assert "incomplete_because" not in run.attrs
    for name in ("weights", "parameter_shapes"):
        assert run.attrs[name] == expected.attrs[name]
    assert_same(run, expected)
    assert all(np.isfinite(expected[name]).all() for name in (*OF_ALL_SHARDS, "loss", "decay_rate"))


@named(GATHERED)
def test_quantities_are_those_of_the_whole_tensors(recorded, seen, case):
    """Assert that norms, cosines and v̄ are numpy's for the gathered weights, gradients and states."""
    run, whole = recorded(case), {key: np.array(values) for key, values in seen(case).items() if key != "failure"}
    before, after, g = whole["theta"][:-1], whole["theta"][1:], whole["gradient"]
    update, m, v, count = after - before, whole["exp_avg"][1:], whole["exp_avg_sq"][1:], whole["step"][1:]
    norms = {name: np.linalg.norm(x, axis=1) for name, x in {"θ": before, "g": g, "Δθ": update, "m": m}.items()}
    with np.errstate(invalid="ignore"):
        v_hat = np.where(count > 0, v / (1 - 0.999**count), 0)
    expected = {
        "theta_norm": norms["θ"],
        "gradient_norm": norms["g"],
        "update_norm": norms["Δθ"],
        "momentum_norm": norms["m"],
        "cos_theta_update": (before * update).sum(1) / norms["θ"] / norms["Δθ"],
        "cos_gradient_momentum": (g * m).sum(1) / norms["g"] / norms["m"],
        "v_bar": v_hat.sum(1) / (count > 0).sum(1),
        "update_sparsity": (update == 0).mean(1),
        "distance": np.linalg.norm(after - whole["theta"][0], axis=1),
    }
    assert_same(run, expected)


@named(WRONG)
def test_a_wrong_sum_would_show(recorded, alone, case):
    """Assert that negative control: norms are wrong if replicas count twice, or only the writer's
    shards.
    """
    ratio = recorded(case).theta_norm / alone(case.optimizer).theta_norm
    assert (np.abs(ratio - 1) > WRONG_SUM).all()


@named(ALONE + BROKEN)
def test_training_goes_on_as_without_a_probe(seen, case):
    """Assert that whatever happens to a probe, the weights are bit for bit those without a probe."""
    (bare,) = (other for other in BARE if other.layout == case.layout)
    for rank in range(WORLD):
        assert seen(case, rank)["weights"] == seen(bare, rank)["weights"]
    assert seen(case)["polls"] == 0  # the end did not wait


@named(ALONE)
def test_probe_on_one_process_only(recorded, alone, case):
    """Assert that a probe on rank 0 only does not know the others' loss and what needs their
    shards.
    """
    run, expected = recorded(case), alone(case.optimizer)
    assert run.attrs["status"] == "finished" and run.sizes["step"] == STEPS
    assert json.loads(run.attrs["incomplete_because"]) == ["process 1: no probe was attached with this path"]
    assert np.isfinite(run.loss).all() and (run.loss != expected.loss).all()
    if case.layout == "DDP":
        return assert_same(run, expected, set(expected.data_vars) - {"loss"})
    sharded = np.array([case.layout == "FSDP" or name.startswith("first") for name in run.parameter.values])
    for name in OF_ALL_SHARDS:
        assert run[name].isnull().all() and run[f"{name}_parameter"][:, sharded].isnull().all(), name
        assert_same(run.isel(parameter=~sharded), expected.isel(parameter=~sharded), [f"{name}_parameter"])
    return assert_same(run, expected, ["lr", "decay_rate", "decay_rate_group", "decay_rate_parameter"])


@named([case for case in BROKEN if case.what.endswith("on rank 1")])
def test_a_probe_that_ends_early_elsewhere(recorded, seen, alone, case):
    """Assert that after a probe on rank 1 fails or detaches, values that need it are NaN, with a
    reason.
    """
    run, expected = recorded(case), alone(case.optimizer)
    reason = "OutOfLuckError()" if "raises" in case.what else "OSError: no such luck"
    assert run.attrs["status"] == "finished" and run.sizes["step"] == STEPS and seen(case)["failure"] is None
    (sentence,) = json.loads(run.attrs["incomplete_because"])
    assert sentence == f"process 1: the recording there failed: {reason}"
    reached = HALF if "raises" in case.what else HALF - 1  # the last row was not sent
    assert_same(run.isel(step=slice(reached)), expected.isel(step=slice(reached)))
    if case.layout == "DDP":
        assert_same(run, expected, set(expected.data_vars) - {"loss"})
    else:
        assert run.theta_norm[HALF:].isnull().all() and run.momentum_norm_parameter[HALF:].isnull().all()
        assert_same(run, expected, ["decay_rate", "lr"])


@named([case for case in BROKEN if case.what in ("fails on rank 0", "store breaks")])
def test_a_probe_that_fails_on_the_writer(recorded, seen, case):
    """Assert that if the writer's probe fails, no row is dropped, and the other probe ends, too."""
    run = recorded(case)
    assert run.sizes["step"] == HALF and np.isfinite(run.lr).all()
    assert run.attrs["status"] == "failed: OSError: no such luck"
    assert seen(case)["failure"] == "OSError: no such luck"
    assert ("has ended its recording" in seen(case, 1)["failure"]) == (case.what != "store breaks")


def test_a_probe_that_comes_late(recorded, alone):
    """Assert that rows before a late shard are unknown, except for Σv, which AdamS keeps for all
    shards.
    """
    run, expected = recorded(LATE), alone(LATE.optimizer)
    late = [name for name in expected.data_vars if name not in ("loss",) and not name.startswith("distance")]
    assert_same(run.isel(step=slice(HALF, None)), expected.isel(step=slice(HALF, None)), late)
    for name in OF_ALL_SHARDS:
        assert run[name][:HALF].isnull().all(), name
    known = ["v_bar", "v_mean", "v_mean_parameter", "decay_rate", "decay_ratio", "effective_lr", "lr"]
    assert_same(run, expected, known)


def test_resumed_recording(recorded, alone):
    """Assert that a sharded run is resumed, and its distance is unknown from then on, with a
    reason.
    """
    run, expected = recorded(RESUMED), alone(RESUMED.optimizer)
    np.testing.assert_array_equal(run.step, expected.step)
    assert_same(run, expected, [name for name in expected.data_vars if not name.startswith("distance")])
    assert_same(run.isel(step=slice(HALF)), expected.isel(step=slice(HALF)), ["distance"])
    assert run.distance[HALF:].isnull().all() and "sharded" in run.attrs["distance_unknown_because"]


def test_l2_of_adam_is_not_followed(recorded, alone):
    """Assert that R of Adam's L2, which one process follows, is unknown for shards, with a reason."""
    run = recorded(UNFOLLOWED)
    assert run.decay_rate.isnull().all() and np.isfinite(alone(UNFOLLOWED.optimizer).decay_rate).all()
    assert "not followed where parameters are sharded" in run.attrs["decay_unknown_because"]
    assert np.isfinite(run.update_norm).all()


def test_recordings_of_one_process_each(recorded, alone):
    """Assert that with distributed=False each process writes its own run, with the loss of its
    half.
    """
    one, other = (recorded(ON_ITS_OWN, str(rank)) for rank in range(WORLD))
    expected = alone(ON_ITS_OWN.optimizer)
    for run in (one, other):
        assert run.attrs["status"] == "finished" and run.attrs["processes"] == 1
        assert_same(run, expected, set(expected.data_vars) - {"loss"})
    np.testing.assert_allclose((one.loss + other.loss) / 2, expected.loss, rtol=SUMMED_IN_HALVES)
    assert (one.loss != other.loss).all()


@named(COUNTED)
def test_a_probe_adds_no_collective(seen, case):
    """Assert that steps have as many collectives with a probe as without, apart from the first two."""
    for rank in range(WORLD):
        counts = seen(case, rank)["collectives"]
        assert counts[HALF // 2 : HALF] == counts[HALF + HALF // 2 :]
    assert (max(counts) > 0) == (case.layout != "DDP")


def test_only_one_process_touches_the_disk(found):
    """Assert that only rank 0 opens, makes and removes files in a common run folder."""
    one, other = (ranks["touched"] for ranks in found[1])
    assert len(one) > len(AGREEING) and not other


def test_what_cannot_be_met_is_refused_in_words(found):
    """Assert that single recordings, snapshots and a trajectory of sharded parameters are refused."""
    one, other = (ranks["refusals"] for ranks in found[1])
    assert one[:3] == other[:3]
    for said, words in zip(one, ("distributed=False", "snapshots = 2", "trajectory = True"), strict=False):
        assert words in said
    assert "no run in" in one[3] and "process 0 keeps the recording" in other[3]


def test_two_processes_record_in_memory(seen, alone):
    """Assert that without a run folder rank 0 has the recording of all processes."""
    expected = alone(IN_MEMORY.optimizer)
    assert seen(IN_MEMORY)["failure"] is None
    assert_same(seen(IN_MEMORY)["dataset"], expected, list(expected))


def test_a_flattened_parameter_is_refused(tmp_path):
    """Assert that a parameter of FullyShardedDataParallel, which hides its shards, is refused."""
    from torch.distributed.fsdp._common_utils import _set_fsdp_flattened

    weight = torch.nn.Parameter(torch.ones(2))
    _set_fsdp_flattened(weight)  # as torch marks it
    with pytest.raises(InputError, match="flattened by FullyShardedDataParallel"):
        Probe(torch.optim.SGD([weight], lr=0.1), tmp_path / "run")

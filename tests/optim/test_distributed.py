"""Two processes against one: data in halves (DDP), and weights, too (fully_shard), must train the same network."""

from functools import cache

import numpy as np
import pytest
import torch
from optim import distributed_worker
from optim.distributed_worker import AGREEING, HALF, RESUMED, RESUMING, STEPS, WRONG, Case, train
from two_processes import seen_by_each

# 8 float64 steps of weights of order 1 whose gradients are summed in halves: an eps or two in each step, and room for
# the order in which another machine sums.
SUMMED_IN_HALVES = 1e-13
# Weights in bfloat16, of at most 4, whose gradients are halved, rounded and added: a unit in the last place or two.
HALF_PRECISION = 4 * 2.0**-7
# Such weights round to other shares of R: by a hundredth of a unit in the last place in the norm of some hundred.
ROUNDED_RATE = 1e-3
# A v̄ that is wrong by a tenth moves the weights by more than this within the steps.
WRONG_MEAN = 1e-3

pytestmark = [
    pytest.mark.slow,  # two processes start and train
    pytest.mark.skipif(
        not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
        reason="torch is built without distributed, or without gloo",
    ),
]


def named(cases):
    return pytest.mark.parametrize("case", cases, ids=" | ".join)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each of two processes found in every case."""
    found = seen_by_each(distributed_worker.__file__, tmp_path_factory.mktemp("distributed"))
    return [{Case(*case): result for case, result in ranks} for ranks in found]


@cache
def alone(name, what):
    """The same training in this process, on whole batches."""
    return train(Case(name, None, what))


def differences(result, expected):
    """The largest of the weights', and the largest relative one of the decay rates'."""
    weights, rates = (np.array(result[key]) - expected[key] for key in ("weights", "decay_rate"))
    return np.abs(weights).max(), np.abs(rates / expected["decay_rate"]).max()


@named(AGREEING)
def test_two_processes_train_as_one(results, case):
    """Assert that weights and decay rates are those of one process, and bit for bit the same on both of two."""
    one, other = (found[case] for found in results)
    assert one == other
    expected = alone(case.optimizer, "plain" if case.what == "without sums" else case.what)
    assert max(differences(one, expected)) < SUMMED_IN_HALVES


@named(HALF)
def test_half_precision_in_two_processes(results, case):
    """Assert that bfloat16 weights, and R as rounding left it, are those of one process, also after v was edited."""
    one, other = (found[case] for found in results)
    assert one == other
    expected = alone(case.optimizer, case.what)
    assert np.abs(np.array(one["weights"]) - expected["weights"]).max() <= HALF_PRECISION
    assert np.abs(np.array(one["decay_rate"]) - expected["decay_rate"]).max() <= ROUNDED_RATE


@named(RESUMING)
def test_a_distributed_checkpoint_goes_on(results, case):
    """Assert that a second training goes on from torch's distributed checkpoint bit for bit as the first one does.

    torch prepares an optimizer for it by a step without gradient and learning rate, in which no weight may move.
    """
    for found in results:
        assert found[case]["unmoved"]
        for key in ("weights", "decay_rate"):
            assert found[case][key] == found[Case(case.optimizer, "FSDP")][key]
    saved = results[0][case]["saved"]
    assert ("exp_avg_sq_sum" in saved) == (not case.optimizer.startswith("SGDS"))
    assert results[1][case]["saved"] == ([] if RESUMED[case.what] else saved)


@named(WRONG)
def test_a_wrong_mean_would_show(results, case):
    """Assert that the weights go elsewhere with a v̄ of the shards here only, or one that counts replicas twice."""
    assert differences(results[0][case], alone(case.optimizer, "plain"))[0] > WRONG_MEAN


@named([case for case in AGREEING if case.what == "plain"])
def test_collectives_of_a_step(results, case):
    """Assert that a step takes one collective for all groups, and none where every process has all weights."""
    has_shards = case.layout in ("FSDP", "HSDP 1x2") and not case.optimizer.startswith("SGDS")
    assert results[0][case]["collectives"] == int(has_shards)


def test_the_cases_are_what_they_say():
    """Assert that skipping, clipping and the maximum of AMSGrad each change the training."""
    plain = alone("AdamS", "plain")
    assert len(plain["decay_rate"]) == STEPS
    for name, what in (("AdamS", "skipping"), ("AdamS", "clipped"), ("AMSGradS", "plain")):
        assert min(differences(alone(name, what), plain)) > WRONG_MEAN

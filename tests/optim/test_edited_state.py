"""S, the sum behind v̄, follows v: through edits, loading, sharing, checkpoints and squares that overflow."""

import copy
import math

import pytest
import torch
import torch.distributed.checkpoint as dcp
from optimizer_runs import OPTIMIZERS, ROUND_OFF, take_steps, weights

from swd_dynamics.optim import AdaiS, AdamS
from swd_dynamics.optim.second_moment import SUM

with_mean = pytest.mark.parametrize("name", ["AdamS", "AdamS AMSGrad", "AdaiS"])
# A float32 v holds the sum over it to this.
FLOAT32 = 1e-6


def v_key(optimizer):
    return "max_exp_avg_sq" if optimizer.defaults.get("amsgrad") else "exp_avg_sq"


def apart(optimizer):
    """The largest relative difference of an S from the sum over its v."""
    key, differences = v_key(optimizer), []
    for state in optimizer.state.values():
        exact = state[key].double().sum().item()
        differences.append(abs(float(state[SUM]) / exact - 1))
    return max(differences)


def zeroed(state, key):
    for name in ("step", "exp_avg", "exp_avg_sq", key):
        state[name].zero_()


def zeroed_with_all(state, key):
    for tensor in state.values():
        tensor.zero_()


def replaced(state, key):
    for name in ("exp_avg_sq", key):
        state[name] = torch.zeros_like(state[name])


def halved(state, key):
    state[key].mul_(0.5)


def without_sum(state, key):
    del state[SUM]


def other_sum(state, key):
    state[SUM].mul_(3)


def number_of_an_older_version(state, key):
    state[SUM] = float(state[SUM])


EDITS = [zeroed, zeroed_with_all, replaced, halved, without_sum, other_sum, number_of_an_older_version]


@pytest.mark.parametrize("edit", EDITS)
@with_mean
def test_the_sum_follows_an_edited_state(name, edit):
    """Assert that after an edit of the state S is the sum of v, for a parameter that steps and one that skips."""
    tensors = weights(4, 3)
    optimizer = OPTIMIZERS[name](tensors)
    take_steps(optimizer, tensors, 20)
    for state in optimizer.state.values():
        edit(state, v_key(optimizer))
    take_steps(optimizer, tensors[:1], 1, first=20)
    assert apart(optimizer) < ROUND_OFF
    tensors[1].grad = None
    optimizer.state[tensors[1]][v_key(optimizer)].mul_(0.5)
    take_steps(optimizer, tensors[:1], 1, first=21)
    assert apart(optimizer) < ROUND_OFF


def test_a_reset_state_decays_as_a_new_one():
    """Assert that R = λη/√v̄ = .01 for g = .1 after the state of a run with g = 10 was set to zero."""
    (theta,) = weights(4)
    optimizer = AdamS([theta], lr=0.01, weight_decay=0.1)
    for gradient in [10.0] * 100 + [0.1]:
        theta.grad = torch.full_like(theta, gradient)
        if gradient < 1:
            zeroed(optimizer.state[theta], "exp_avg_sq")
        optimizer.step()
    assert optimizer.param_groups[0]["decay_rate"] == pytest.approx(0.01, rel=ROUND_OFF)


def test_an_edit_of_a_half_precision_state_is_seen():
    """Assert that a bfloat16 v that was halved halves v̄, though rounding alone may take it further from S."""
    (theta,) = weights(4, dtype=torch.bfloat16)
    optimizer = AdamS([theta], lr=0.01, betas=(0.9, 0.999))
    theta.grad = torch.ones_like(theta)
    optimizer.step()
    before = float(optimizer.state[theta][SUM])
    optimizer.state[theta]["exp_avg_sq"].mul_(0.5)
    theta.grad = torch.zeros_like(theta)
    optimizer.step()
    assert float(optimizer.state[theta][SUM]) == pytest.approx(0.999 * before / 2, rel=torch.finfo(torch.bfloat16).eps)


@pytest.mark.slow
def test_rounding_is_no_edit():
    """Assert that S keeps its digits through a checkpoint where v has lost them: g is 1, then 2⁻⁵, in bfloat16."""
    (theta,) = weights(1, dtype=torch.bfloat16)
    optimizer = AdamS([theta], lr=0.0)
    exact = 0.0
    for step in range(3000):
        gradient = 1.0 if step < 500 else 2.0**-5
        theta.grad = torch.full_like(theta, gradient)
        if step == 2500:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        optimizer.step()
        exact = 0.999 * exact + 0.001 * gradient**2
    state = optimizer.state[theta]
    assert float(state["exp_avg_sq"]) > 2 * exact
    assert float(state[SUM]) == pytest.approx(exact, rel=3000 * torch.finfo(torch.float64).eps)


@with_mean
def test_two_optimizers_may_share_a_state(name):
    """Assert that S stays the sum of v where a state is loaded without a copy and both optimizers go on with it."""
    mine, theirs = weights(4, 3), weights(4, 3)
    one, other = OPTIMIZERS[name](mine), OPTIMIZERS[name](theirs)
    take_steps(one, mine, 5)
    other.load_state_dict(one.state_dict())
    for step in range(10):
        take_steps(one, mine, 1, first=step)
        take_steps(other, theirs, 1, first=step + 50)
        assert max(apart(one), apart(other)) < ROUND_OFF


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # torch's own, of its checkpoints
@with_mean
def test_a_raw_distributed_checkpoint_goes_on(name, tmp_path):
    """Assert that torch.distributed.checkpoint saves and loads a plain state_dict, S included."""
    mine, theirs = weights(4, 3), weights(4, 3)
    one, other = OPTIMIZERS[name](mine), OPTIMIZERS[name](theirs)
    take_steps(one, mine, 30)
    dcp.save({"optimizer": one.state_dict()}, checkpoint_id=tmp_path, no_dist=True)
    take_steps(other, theirs, 1, first=70)
    state = other.state_dict()
    dcp.load({"optimizer": state}, checkpoint_id=tmp_path, no_dist=True)
    other.load_state_dict(state)
    take_steps(one, mine, 1, first=30)
    take_steps(other, theirs, 1, first=30)
    assert other.param_groups[0]["effective_lr"] == one.param_groups[0]["effective_lr"]
    assert other.param_groups[0]["decay_rate"] == one.param_groups[0]["decay_rate"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.slow
def test_a_loud_gradient_does_not_end_the_decay(dtype):
    """Assert that R = λη/√v̄ comes back to .001 after one finite gradient whose squares overflow float32."""
    (theta,) = weights(4, dtype=dtype)
    optimizer = AdamS([theta], lr=0.01, betas=(0.9, 0.9), weight_decay=0.1)
    for step in range(1500):
        theta.grad = torch.full_like(theta, 1e19 if step == 0 else 1.0)
        optimizer.step()
    group = optimizer.param_groups[0]
    assert group["weight_decay"] * group["effective_lr"] == pytest.approx(1e-3, rel=FLOAT32)


def test_a_sum_that_is_infinite_heals():
    """Assert that an S that overflowed in an older version is replaced by the sum of v when it is loaded."""
    (theta,) = weights(4, dtype=torch.float32)
    optimizer = AdamS([theta])
    take_steps(optimizer, [theta], 3)
    optimizer.state[theta][SUM] = math.inf
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    take_steps(optimizer, [theta], 1, first=3)
    assert apart(optimizer) < FLOAT32


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.slow
def test_adais_in_half_precision_is_adais(dtype, foreach):
    """Assert that weights in half precision end where float64 ones do, within the rounding of 200 steps.

    In float16 the squares of these gradients are 0, and in bfloat16 a second moment of β₂ = .99 stalls.
    """
    ends = []
    for each in (dtype, torch.float64):
        theta = torch.zeros(2, dtype=each, requires_grad=True)
        optimizer = AdaiS([theta], lr=1.0, foreach=foreach)
        for step in range(200):
            theta.grad = torch.tensor([2.0**-10, 2.0**-9], dtype=each) * (1 if step < 100 else -1)
            optimizer.step()
        ends.append(theta.detach().double())
    # Each step rounds weights of at most .2 by half a unit in the last place, up or down.
    assert (ends[0] - ends[1]).abs().max() < 0.2 * torch.finfo(dtype).eps / 2 * math.sqrt(200)
    assert optimizer.state[theta]["exp_avg"].dtype == torch.float64


def test_adais_takes_a_half_precision_checkpoint():
    """Assert that moments of an older version in bfloat16 are loaded as float32."""
    (theta,) = weights(3, dtype=torch.bfloat16)
    optimizer = AdaiS([theta])
    take_steps(optimizer, [theta], 2)
    saved = copy.deepcopy(optimizer.state_dict())
    for key in ("exp_avg", "exp_avg_sq"):
        saved["state"][0][key] = saved["state"][0][key].bfloat16()
    optimizer.load_state_dict(saved)
    take_steps(optimizer, [theta], 1)
    assert {optimizer.state[theta][key].dtype for key in ("exp_avg", "exp_avg_sq", "exp_avg_weight")} == {torch.float32}


@pytest.mark.parametrize("rate", [2.0**-10, 2.0**-6, 0.3, 1.5])
@pytest.mark.parametrize(("name", "effective_lr"), [("SGDS", 1.0), ("AdamS", 0.2), ("AdamS AMSGrad", 0.2)])
def test_the_published_rate_is_what_rounding_left(name, effective_lr, rate):
    """Assert that R of bfloat16 weights whose gradient is 0 is 1 − ‖θ after‖/‖θ before‖: 0 where 1 − R rounds to 1."""
    tensors = [torch.ones(3, dtype=torch.bfloat16).requires_grad_(), *weights((50, 3), dtype=torch.bfloat16)]
    (other,) = weights(51)  # a quarter of all weights have |g| = 1: √v̄ is .5
    groups = [{"params": tensors, "weight_decay": rate / effective_lr}, {"params": [other], "weight_decay": 0.0}]
    optimizer = OPTIMIZERS[name](groups, lr=0.1)
    for tensor in tensors:
        tensor.grad = torch.zeros_like(tensor)
    other.grad = torch.ones_like(other)
    before = torch.cat([tensor.detach().flatten().double() for tensor in tensors])
    optimizer.step()
    after = torch.cat([tensor.detach().flatten().double() for tensor in tensors])
    taken = 1 - math.copysign(float(after.norm() / before.norm()), 1 - rate)
    group = optimizer.param_groups[0]
    assert group["effective_lr"] == pytest.approx(effective_lr, rel=ROUND_OFF)
    assert group["decay_rate"] == pytest.approx(taken, abs=ROUND_OFF)
    assert group["decay_rate"] == (0 if rate < 2**-9 else pytest.approx(rate, abs=torch.finfo(torch.bfloat16).eps))


@pytest.mark.slow
def test_the_published_rates_of_a_half_precision_run():
    """Assert that the product of 1 − R over a bfloat16 run is what became of the weights, where the steps cancel."""
    torch.manual_seed(0)
    theta = torch.ones(2000, dtype=torch.bfloat16, requires_grad=True)
    optimizer, left, asked = AdamS([theta], lr=1e-2, weight_decay=0.1), 1.0, 1.0
    for _ in range(1000):
        theta.grad = torch.randn(2000).bfloat16()
        optimizer.step()
        group = optimizer.param_groups[0]
        left *= 1 - group["decay_rate"]
        asked *= 1 - group["weight_decay"] * group["effective_lr"]
    assert left == pytest.approx(theta.detach().double().mean().item(), abs=0.1)
    assert asked < 0.4

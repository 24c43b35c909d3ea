"""What an optimizer can be led into: odd dtypes, hooks, refused steps, and checkpoints of another kind."""

import copy
import math

import pytest
import torch
from optimizer_runs import OPTIMIZERS, ROUND_OFF, largest_difference, take_steps, weights

from swd_dynamics.errors import InputError
from swd_dynamics.optim import SGDS, AdaiS, AdamS
from swd_dynamics.optim.second_moment import SUM, sums_of_squares

every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


@pytest.fixture
def bfloat16_by_default():
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("make", [AdamS, AdaiS])
@pytest.mark.slow
def test_steps_are_counted_past_256(make, bfloat16_by_default):
    """Assert that a step count goes on where bfloat16, torch's default dtype here, has no more whole numbers."""
    theta = torch.zeros(2, dtype=torch.float32, requires_grad=True)
    theta.grad = torch.ones_like(theta)
    optimizer = make([theta])
    for _ in range(300):
        optimizer.step()
    assert optimizer.state[theta]["step"] == 300


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.slow
def test_adais_corrects_its_bias_in_half_precision(foreach):
    """Assert that in bfloat16 the weight of the first moment follows 1 − (1 − ε)ᵏ, through a checkpoint as well."""
    strong, weak = (torch.zeros(4, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
    optimizer = AdaiS([strong, weak], lr=1e-3, foreach=foreach)
    strong.grad, weak.grad = torch.ones_like(strong), torch.full_like(weak, 1e-3)  # β₁ = 1 − ε for the weak one
    for k in range(2000):
        if k == 1000:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        optimizer.step()
    weight = optimizer.state[weak]["exp_avg_weight"]
    assert weight.dtype == torch.float32
    assert torch.allclose(weight, torch.tensor(1 - (1 - 1e-3) ** 2000), rtol=1e-3)


def test_a_hook_may_change_what_is_loaded():
    """Assert that sums go to the parameters to which a hook for loading sends the state."""
    first, second = weights(2, 2)
    optimizer = AdamS([first, second])
    for tensor, gradient in ((first, 1.0), (second, 3.0)):
        tensor.grad = torch.full_like(tensor, gradient)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    other = AdamS(weights(2, 2))

    def swapped(_, given):
        return given | {"state": {0: given["state"][1], 1: given["state"][0]}}

    other.register_load_state_dict_pre_hook(swapped)
    other.load_state_dict(saved)
    for state in other.state.values():
        assert float(state[SUM]) == pytest.approx(float(state["exp_avg_sq"].sum()), rel=ROUND_OFF)


def refused(optimizer, tensors):
    """A step that a gradient scaler refuses."""
    for tensor in tensors:
        tensor.grad = torch.ones_like(tensor)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(1.0), torch.tensor(1.0)
    optimizer.step()
    del optimizer.grad_scale, optimizer.found_inf


def test_a_parameter_whose_first_step_was_refused_does_not_count():
    """Assert that a v of no steps at all, of torch's AdamW after a refused step, is left out of v̄."""
    first, second = tensors = weights(3, 3)
    adamw = torch.optim.AdamW(tensors, fused=True)
    refused(adamw, tensors)
    optimizer = AdamS(tensors, lr=0.1, fused=True)
    optimizer.load_state_dict(
        copy.deepcopy(adamw.state_dict()) | {"param_groups": optimizer.state_dict()["param_groups"]}
    )
    first.grad, second.grad = torch.full_like(first, 2.0), None
    optimizer.step()
    assert optimizer.param_groups[0]["effective_lr"] == pytest.approx(0.1 / 2, rel=ROUND_OFF)


@every_optimizer
def test_a_refused_first_step_publishes(make):
    """Assert that a step that was refused took nothing off, and says so though none went before it."""
    tensors = weights(3)
    optimizer = make(tensors)
    start = tensors[0].detach().clone()
    refused(optimizer, tensors)
    assert torch.equal(tensors[0], start)
    assert optimizer.param_groups[0]["decay_rate"] == 0
    assert math.isnan(optimizer.param_groups[0]["effective_lr"])


@pytest.mark.parametrize("strange", [math.nan, math.inf])
@every_optimizer
def test_a_gradient_that_is_not_finite_stays_where_it_is(make, strange):
    """Assert that it spoils the weight it belongs to and no other."""
    sick, healthy = weights(3, 4)
    optimizer = make([sick, healthy])
    for step in range(3):
        sick.grad = torch.tensor([strange if step == 0 else 1.0, 1.0, 1.0], dtype=torch.float64)
        healthy.grad = torch.ones_like(healthy)
        optimizer.step()
    assert healthy.isfinite().all()
    assert sick[1:].isfinite().all()


def test_a_checkpoint_cannot_bring_a_kernel_that_is_refused():
    """Assert that loading fused=True, or a momentum out of range, is refused as giving it is."""
    (theta,) = weights(64, dtype=torch.float32)
    torchs = torch.optim.SGD([theta], lr=0.1, fused=True)
    half = theta.detach().bfloat16().requires_grad_()
    probe = half.detach().clone().requires_grad_()
    probe.grad = torch.ones_like(probe)
    torch.optim.SGD([probe], lr=1.0, fused=True).step()
    if torch.equal(probe, half):  # torch's kernel leaves the weights where they are
        with pytest.raises(InputError, match="fused=True is not allowed here"):
            SGDS([half]).load_state_dict(torchs.state_dict())
    with pytest.raises(InputError, match=r"momentum = 1\.0 is not allowed"):
        SGDS(weights(64)).load_state_dict(torch.optim.SGD([theta], momentum=1.0).state_dict())


def test_a_count_that_is_a_plain_number():
    """Assert that a checkpoint from before torch 1.12, which counted steps in whole numbers, is read."""
    mine, theirs = weights(3), weights(3)
    optimizer, other = AdamS(mine), AdamS(theirs)
    take_steps(optimizer, mine, 3)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["step"] = 3
    other.load_state_dict(saved)
    with torch.no_grad():
        theirs[0].copy_(mine[0])
    take_steps(optimizer, mine, 2, first=3)
    take_steps(other, theirs, 2, first=3)
    assert largest_difference(mine, theirs) == 0


def test_scaled_gradients_may_be_huge():
    """Assert that a scale under which Σg² leaves float32 does not reach v̄."""
    assert sums_of_squares([torch.full((9,), 1e20)]).item() == pytest.approx(9e40, rel=1e-6)


@pytest.mark.parametrize("shape", [(2,), (1, 2)])
def test_a_learning_rate_of_several_numbers_is_refused(shape):
    """Assert that a tensor for the learning rate must hold one number."""
    with pytest.raises(InputError, match="must hold one number"):
        AdamS(weights(2), lr=torch.ones(shape))


@every_optimizer
def test_a_tensor_for_the_weight_decay(make):
    """Assert that λ given as a tensor on the CPU is taken as its number, and that floats are published."""
    tensors, others = weights(4, 3), weights(4, 3)
    plain, by_tensor = make(tensors, weight_decay=0.25), make(others, weight_decay=torch.tensor(0.25))
    take_steps(plain, tensors, 3)
    take_steps(by_tensor, others, 3)
    assert largest_difference(tensors, others) == 0
    published = [by_tensor.param_groups[0][key] for key in ("decay_rate", "effective_lr")]
    assert [type(value) for value in published] == [float, float]
    assert published[0] == plain.param_groups[0]["decay_rate"]


@pytest.mark.parametrize(("name", "value"), [("lr", -1.0), ("weight_decay", math.nan), ("lr", torch.tensor(-1.0))])
@every_optimizer
def test_arguments_set_later_are_checked(make, name, value):
    """Assert that an argument set out of its range between two steps is refused before a weight has moved."""
    tensors = weights(4)
    optimizer = make(tensors)
    take_steps(optimizer, tensors, 2)
    before = tensors[0].detach().clone()
    right, optimizer.param_groups[0][name] = optimizer.param_groups[0][name], value
    with pytest.raises(InputError):
        optimizer.step()
    assert torch.equal(tensors[0], before)
    optimizer.param_groups[0][name] = right
    optimizer.step()
    assert not torch.equal(tensors[0], before)


@every_optimizer
def test_a_refused_load_loads_nothing(make):
    """Assert that arguments, weights and state are as they were where loading was refused."""
    tensors = weights(4)
    optimizer = make(tensors)
    take_steps(optimizer, tensors, 2)
    before = copy.deepcopy(optimizer.state_dict())
    wrong = copy.deepcopy(before)
    wrong["param_groups"][0]["lr"] = -1.0
    for state in wrong["state"].values():
        for tensor in state.values():
            tensor.zero_()
    with pytest.raises(InputError):
        optimizer.load_state_dict(wrong)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for kept, state in zip(after["state"].values(), before["state"].values(), strict=True):
        assert all(torch.equal(kept[key], state[key]) for key in state)


def test_nothing_of_torchs_stays_in_a_group():
    """Assert that arguments of torch's optimizers that mean nothing here are dropped."""
    tensors = weights(4)
    adamw = torch.optim.AdamW(tensors)
    take_steps(adamw, tensors, 2)
    optimizer = AdamS(weights(4), weight_decay=0.01)  # AdamW's default
    optimizer.load_state_dict(copy.deepcopy(adamw.state_dict()))
    assert set(optimizer.param_groups[0]) == {"params", *optimizer.defaults}
    assert set(optimizer.defaults) == set(AdamS(weights(4)).defaults)
    wrong = copy.deepcopy(adamw.state_dict())
    wrong["param_groups"][0]["differentiable"] = True
    with pytest.raises(InputError):
        optimizer.load_state_dict(wrong)


def test_a_warning_tells_of_the_decay_of_torchs_checkpoint():
    """Assert that a λ that torch's checkpoint changes is told, and that a checkpoint of AdamS itself is silent."""
    adamw, optimizer = torch.optim.AdamW(weights(4), weight_decay=0.1), AdamS(weights(4), weight_decay=1e-3)
    with pytest.warns(UserWarning, match="weight_decay"):
        optimizer.load_state_dict(adamw.state_dict())
    assert optimizer.param_groups[0]["weight_decay"] == 0.1
    AdamS(weights(4), weight_decay=1e-3).load_state_dict(optimizer.state_dict())


@every_optimizer
def test_no_empty_state_is_left(make):
    """Assert that refused, failed and idle steps leave no entry in the state; nor does SGD without momentum."""
    dense, sparse = weights(3, 3)
    optimizer = make([dense, sparse])
    refused(optimizer, [dense, sparse])
    sparse.grad = torch.ones_like(sparse).to_sparse()
    with pytest.raises(RuntimeError):
        optimizer.step()
    assert not optimizer.state
    sparse.grad = None
    optimizer.step()
    assert all(optimizer.state.values())
    assert len(optimizer.state) == (0 if isinstance(optimizer, SGDS) and not optimizer.defaults["momentum"] else 1)


@pytest.mark.parametrize("name", ["SGDS", "SGDS plain", "AdamS", "AdamS AMSGrad"])
def test_fused_state_in_another_memory_order(name):
    """Assert that a state loaded in another order of memory than the weights' is taken by the right weights."""
    ends = []
    for kernel in ({"fused": True}, {"foreach": False}):
        (theta,) = weights((2, 3, 4, 5))
        theta = theta.detach().to(memory_format=torch.channels_last).requires_grad_()
        optimizer = OPTIMIZERS[name]([theta], **kernel)
        take_steps(optimizer, [theta], 3)
        saved = copy.deepcopy(optimizer.state_dict())
        for state in saved["state"].values():
            state.update({key: value.contiguous() for key, value in state.items()})
        optimizer.load_state_dict(saved)
        take_steps(optimizer, [theta], 3, first=3)
        ends.append(theta)
    assert largest_difference(ends[:1], ends[1:]) < ROUND_OFF

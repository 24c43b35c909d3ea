"""What the optimizers promise: torch's manners, stable decay, and the two floats they publish."""

import copy
import math

import pytest
import torch
from optimizer_runs import OPTIMIZERS, ROUND_OFF, largest_difference, take_steps, weights

from swd_dynamics.errors import InputError
from swd_dynamics.optim import SGDS, AdaiS, AdamS

every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


@every_optimizer
def test_skips_a_parameter_without_gradient(make):
    """Assert that a parameter without gradient keeps its weights and gets no state."""
    with_gradient, without = weights(3, 2)
    before = without.detach().clone()
    optimizer = make([with_gradient, without])
    take_steps(optimizer, [with_gradient], 3)
    assert torch.equal(without, before)
    assert not optimizer.state.get(without)


@pytest.mark.parametrize("make", [OPTIMIZERS["AdamS"], OPTIMIZERS["AdaiS"]], ids=["AdamS", "AdaiS"])
def test_a_skipped_step_keeps_its_second_moment_in_the_mean(make):
    """Assert that v̄ counts the v̂, by its own step count, of a parameter whose gradient is missing in this step."""
    first, second = weights(3, 2)
    optimizer = make([first, second])
    take_steps(optimizer, [first, second], 2)
    second.grad, held = None, second.detach().clone()
    take_steps(optimizer, [first], 1, first=2)
    assert torch.equal(second, held)
    assert optimizer.state[first]["step"] == 3
    assert optimizer.state[second]["step"] == 2
    beta2 = optimizer.defaults["betas"][1]
    pairs = [(optimizer.state[parameter], parameter) for parameter in (first, second)]
    v_hat = torch.cat([state["exp_avg_sq"] / (1 - beta2 ** float(state["step"])) for state, _ in pairs])
    if isinstance(optimizer, AdamS):
        assert abs(optimizer.param_groups[0]["effective_lr"] - 0.1 / v_hat.mean().sqrt().item()) < ROUND_OFF


@every_optimizer
def test_groups_split_the_parameters_not_the_method(make):
    """Assert that the same arguments in one group, and in two, give the same weights: v̄ is one mean over all."""
    together, apart = weights(5, 2), weights(5, 2)
    take_steps(make(together), together, 20)
    take_steps(make([{"params": apart[:1]}, {"params": apart[1:]}]), apart, 20)
    assert largest_difference(together, apart) < ROUND_OFF


@every_optimizer
def test_each_group_has_its_own_lr(make):
    """Assert that half the learning rate halves η_eff, the decay rate and the first step of that group only."""
    fast, slow = weights(4, 4)
    start_fast, start_slow = fast.detach().clone(), slow.detach().clone()
    optimizer = make([{"params": [fast]}, {"params": [slow], "lr": 0.05}])
    fast.grad, slow.grad = torch.ones_like(fast), torch.ones_like(slow)
    optimizer.step()
    one, other = optimizer.param_groups
    assert one["effective_lr"] == pytest.approx(2 * other["effective_lr"], rel=ROUND_OFF)
    assert one["decay_rate"] == pytest.approx(2 * other["decay_rate"], rel=ROUND_OFF)
    moved_fast = (1 - one["decay_rate"]) * start_fast - fast.detach()
    moved_slow = (1 - other["decay_rate"]) * start_slow - slow.detach()
    assert torch.allclose(moved_fast, 2 * moved_slow, rtol=0, atol=ROUND_OFF)


@every_optimizer
def test_a_group_without_decay(make):
    """Assert that λ = 0 in one group makes R = 0 there, and leaves the other group's η_eff the same."""
    tensors = weights(4, 3)
    optimizer = make([{"params": tensors[:1]}, {"params": tensors[1:], "weight_decay": 0.0}])
    take_steps(optimizer, tensors, 2)
    one, other = optimizer.param_groups
    assert one["decay_rate"] > 0
    assert other["decay_rate"] == 0
    assert one["effective_lr"] == other["effective_lr"]


def test_publishes_the_effective_lr_of_each_family():
    """Assert that η_eff is η(1 − τ)/(1 − β), η, η/√v̄ and η, and that R is λ times it, in floats."""
    expected = {
        SGDS: ({"momentum": 0.9, "dampening": 0.5}, 0.1 * 0.5 / (1 - 0.9)),
        AdamS: ({}, 0.1 / math.sqrt(2.5)),  # v̂ = g² = (1, 4) at the first step
        AdaiS: ({}, 0.1),
    }
    for optimizer_class, (arguments, effective_lr) in expected.items():
        (theta,) = weights(2)
        optimizer = optimizer_class([theta], lr=0.1, weight_decay=0.2, **arguments)
        theta.grad = torch.tensor([1.0, -2.0], dtype=torch.float64)
        optimizer.step()
        (group,) = optimizer.param_groups
        assert type(group["effective_lr"]) is float
        assert type(group["decay_rate"]) is float
        assert group["effective_lr"] == pytest.approx(effective_lr, rel=ROUND_OFF)
        assert group["decay_rate"] == pytest.approx(0.2 * effective_lr, rel=ROUND_OFF)


def test_without_momentum_dampening_does_nothing():
    """Assert that with momentum 0 the step is (1 − ηλ)θ − ηg whatever the dampening, and leaves no buffer."""
    (theta,) = weights(3)
    start = theta.detach().clone()
    optimizer = SGDS([theta], lr=0.1, dampening=0.5, weight_decay=0.2)
    theta.grad = torch.ones_like(theta)
    optimizer.step()
    assert torch.allclose(theta.detach(), (1 - 0.1 * 0.2) * start - 0.1, rtol=0, atol=ROUND_OFF)
    assert not optimizer.state[theta]
    assert optimizer.param_groups[0]["effective_lr"] == 0.1


@pytest.mark.parametrize(
    ("ours", "torchs"),
    [
        (SGDS, torch.optim.SGD),
        (lambda p, **other: SGDS(p, momentum=0.9, dampening=0.3, **other), None),
        (lambda p, **other: SGDS(p, momentum=0.9, nesterov=True, **other), None),
        (AdamS, torch.optim.Adam),
        (
            lambda p, **other: AdamS(p, amsgrad=True, **other),
            lambda p, **other: torch.optim.Adam(p, amsgrad=True, **other),
        ),
    ],
    ids=["SGD", "heavy ball", "Nesterov", "Adam", "AMSGrad"],
)
@pytest.mark.parametrize("maximize", [False, True])
def test_without_decay_it_is_torchs(ours, torchs, maximize):
    """Assert that λ = 0 gives the weights and the state keys of torch's own optimizer, climbing or descending."""
    mine, reference = weights(4, 3), weights(4, 3)
    optimizer = ours(mine, lr=0.01, weight_decay=0, maximize=maximize)
    arguments = {name: optimizer.defaults[name] for name in ("momentum", "dampening", "nesterov") if torchs is None}
    other = (torchs or torch.optim.SGD)(reference, lr=0.01, weight_decay=0, maximize=maximize, **arguments)
    take_steps(optimizer, mine, 50)
    take_steps(other, reference, 50)
    assert largest_difference(mine, reference) < ROUND_OFF
    assert set(optimizer.state[mine[0]]) - {"exp_avg_sq_sum"} == set(other.state[reference[0]])


def test_state_keys_of_adais():
    """Assert that AdaiS remembers its step count, two moments, the sum behind v̄ and the weight of the first moment."""
    tensors = weights(3)
    optimizer = AdaiS(tensors)
    take_steps(optimizer, tensors, 1)
    assert set(optimizer.state[tensors[0]]) == {
        "step",
        "exp_avg",
        "exp_avg_sq",
        "exp_avg_sq_sum",
        "exp_avg_weight",
    }


@every_optimizer
def test_state_dict_round_trip_mid_run(make):
    """Assert that an optimizer restored from a state_dict goes on bit for bit as the one it was taken from."""
    tensors = weights(4, 3)
    optimizer = make(tensors)
    take_steps(optimizer, tensors, 5)
    copies = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    restored = make(copies, lr=1.0)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    take_steps(optimizer, tensors, 5, first=5)
    take_steps(restored, copies, 5, first=5)
    assert largest_difference(tensors, copies) == 0
    assert restored.param_groups[0]["decay_rate"] == optimizer.param_groups[0]["decay_rate"]


@pytest.mark.parametrize(
    ("ours", "torchs", "arguments"),
    [
        (SGDS, torch.optim.SGD, {"momentum": 0.9}),
        (AdamS, torch.optim.AdamW, {}),
        (AdamS, torch.optim.Adam, {}),
        (AdamS, torch.optim.AdamW, {"amsgrad": True}),
    ],
)
@pytest.mark.parametrize("fused", [False, True])
def test_goes_on_from_a_checkpoint_of_torchs_own(ours, torchs, arguments, fused):
    """Assert that a state_dict of torch's optimizer loads in mid-run, and that v̄ is that of the v it brings."""
    tensors = weights((4, 3), 5)
    other = torchs(tensors, lr=0.01, weight_decay=0.0, fused=fused, **arguments)
    take_steps(other, tensors, 5)
    copies = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    optimizer = ours(copies, weight_decay=0.0, fused=fused)
    optimizer.load_state_dict(copy.deepcopy(other.state_dict()))
    take_steps(other, tensors, 5, first=5)
    take_steps(optimizer, copies, 5, first=5)
    assert largest_difference(tensors, copies) < ROUND_OFF
    if ours is AdamS:
        key = "max_exp_avg_sq" if arguments else "exp_avg_sq"
        v = torch.cat([state[key].flatten() for state in optimizer.state.values()]) / (1 - 0.999**10)
        assert optimizer.param_groups[0]["effective_lr"] == pytest.approx(0.01 / v.mean().sqrt().item(), rel=ROUND_OFF)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@every_optimizer
def test_a_checkpoint_in_another_dtype(make, dtype):
    """Assert that a float64 run goes on in lower precision with the same η_eff: v̄ does not lose its digits."""
    tensors = weights((4, 3), 5)
    optimizer = make(tensors)
    take_steps(optimizer, tensors, 5)
    low = [tensor.detach().to(dtype).requires_grad_() for tensor in tensors]
    restored = make(low)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for parameter in (*tensors, *low):
        parameter.grad = torch.ones_like(parameter)  # a number of every dtype
    optimizer.step()
    restored.step()
    rates = [each.param_groups[0]["effective_lr"] for each in (optimizer, restored)]
    low_v = isinstance(optimizer, AdamS) and optimizer.defaults["amsgrad"]  # its maximum is read from v itself
    assert rates[1] == pytest.approx(rates[0], rel=torch.finfo(dtype).eps if low_v else ROUND_OFF)
    assert all(tensor.dtype == dtype and tensor.isfinite().all() for tensor in low)


@every_optimizer
def test_named_parameters_and_groups_added_later(make):
    """Assert that named parameters are taken, and that a group added in mid-run is trained from its own first step."""
    first, second = weights(4, 3)
    optimizer = make([("first", first)])
    take_steps(optimizer, [first], 2)
    optimizer.add_param_group({"params": [("second", second)], "weight_decay": 0.0})
    start = second.detach().clone()
    take_steps(optimizer, [first, second], 2, first=2)
    assert not torch.equal(second, start)
    assert optimizer.param_groups[1]["decay_rate"] == 0
    assert "step" not in optimizer.state[second] or optimizer.state[second]["step"] == 2


@every_optimizer
def test_a_tensor_for_a_learning_rate(make):
    """Assert that a learning rate given as a tensor, and changed in place, is taken as the number it holds."""
    tensors, others = weights(4, 3), weights(4, 3)
    lr = torch.tensor(0.1, dtype=torch.float64)
    plain, by_tensor = make(tensors), make(others, lr=lr)
    for step in range(4):
        take_steps(plain, tensors, 1, first=step)
        take_steps(by_tensor, others, 1, first=step)
        plain.param_groups[0]["lr"] *= 0.5
        lr *= 0.5
    assert largest_difference(tensors, others) < ROUND_OFF


@every_optimizer
def test_clipped_gradients_count_as_clipped(make):
    """Assert that clipping before the step is clipping: the step sees the small gradient, and v̄ does."""
    clipped, small = weights(4), weights(4)
    one, other = make(clipped), make(small)
    clipped[0].grad = torch.full((4,), 50.0, dtype=torch.float64)
    torch.nn.utils.clip_grad_norm_(clipped, max_norm=2.0, error_if_nonfinite=True)
    small[0].grad = clipped[0].grad.clone()
    assert small[0].grad.norm() < 2.001
    one.step()
    other.step()
    assert largest_difference(clipped, small) == 0


@every_optimizer
def test_closure_and_scheduler(make):
    """Assert that a closure's loss is returned, its gradient used, and a scheduler's learning rate obeyed."""
    (theta,) = weights(3)
    optimizer = make([theta])
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)

    def closure():
        optimizer.zero_grad()
        loss = (theta**2).sum()
        loss.backward()
        return loss

    before = (theta.detach() ** 2).sum()
    assert torch.equal(optimizer.step(closure).detach(), before)
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.05
    assert (theta.detach() ** 2).sum() < before


@every_optimizer
def test_step_hooks_run(make):
    """Assert that torch's step hooks fire around each step, so that a recorder can attach."""
    tensors, seen = weights(2), []
    optimizer = make(tensors)
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    take_steps(optimizer, tensors, 1)
    assert seen == ["before", "after"]


@every_optimizer
def test_zero_gradients_give_no_nan(make):
    """Assert that gradients that are all zero leave finite weights, and that a later gradient is taken as usual."""
    (theta,) = weights(3)
    optimizer = make([theta])
    for gradient in (0.0, 0.0, 1.0):
        theta.grad = torch.full_like(theta, gradient)
        optimizer.step()
        assert theta.isfinite().all()
        assert math.isfinite(optimizer.param_groups[0]["decay_rate"])
        assert optimizer.param_groups[0]["effective_lr"] > 0


@every_optimizer
def test_no_gradient_at_all(make):
    """Assert that a step in which no parameter has a gradient changes nothing and still publishes."""
    (theta,) = weights(3)
    start = theta.detach().clone()
    optimizer = make([theta])
    optimizer.step()
    assert torch.equal(theta, start)
    assert math.isfinite(optimizer.param_groups[0]["decay_rate"])


@every_optimizer
def test_sparse_and_complex_are_refused(make):
    """Assert that a sparse gradient and a complex parameter are refused before any weight has moved."""
    dense, sparse = weights(3, 3)
    start = dense.detach().clone()
    optimizer = make([dense, sparse])
    dense.grad, sparse.grad = torch.ones_like(dense), torch.ones_like(sparse).to_sparse()
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        optimizer.step()
    assert torch.equal(dense, start)
    number = torch.ones(2, dtype=torch.complex128, requires_grad=True)
    optimizer = make([number])
    number.grad = torch.ones_like(number)
    with pytest.raises(RuntimeError, match="does not support complex parameters"):
        optimizer.step()


@pytest.mark.parametrize(
    ("optimizer_class", "arguments", "message"),
    [
        (SGDS, {"lr": -0.1}, r"lr = -0.1 is not allowed: it must lie in \[0, inf\)"),
        (SGDS, {"lr": math.nan}, r"lr = nan is not allowed"),
        (SGDS, {"lr": math.inf}, r"lr = inf is not allowed"),
        (SGDS, {"lr": "fast"}, r"lr = 'fast' is not a number"),
        (SGDS, {"momentum": 1}, r"momentum = 1 is not allowed: it must lie in \[0, 1\)"),
        (SGDS, {"momentum": 0.9, "dampening": 1}, r"dampening = 1 is not allowed"),
        (SGDS, {"weight_decay": -0.1}, r"weight_decay = -0.1 is not allowed: it must lie in \[0, inf\)"),
        (SGDS, {"nesterov": True}, "nesterov needs momentum"),
        (SGDS, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "nesterov needs momentum"),
        (AdamS, {"betas": (0.9, 1.0)}, r"betas\[1\] = 1.0 is not allowed: it must lie in \[0, 1\)"),
        (AdamS, {"betas": (-0.1, 0.9)}, r"betas\[0\] = -0.1 is not allowed"),
        (AdamS, {"betas": 0.9}, r"betas = 0.9 is not allowed: it must be a pair"),
        (AdamS, {"eps": -1}, r"eps = -1 is not allowed"),
        (AdamS, {"weight_decay": math.nan}, r"weight_decay = nan is not allowed"),
        (AdaiS, {"betas": (0.0, 0.9)}, r"betas\[0\] = 0.0 is not allowed: it must lie in \(0, inf\)"),
        (AdaiS, {"eps": 0}, r"eps = 0 is not allowed: it must lie in \(0, 1\)"),
        (AdaiS, {"lr": -1}, r"lr = -1 is not allowed"),
    ],
)
def test_bad_arguments_are_refused(optimizer_class, arguments, message):
    """Assert that an argument out of range is refused with its value and range, as a default and in a group."""
    with pytest.raises(InputError, match=message):
        optimizer_class(weights(2), **arguments)
    with pytest.raises(ValueError, match=message):
        optimizer_class([{"params": weights(2), **arguments}])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@every_optimizer
def test_the_same_on_a_gpu(make):
    """Assert that 20 float64 steps on a CUDA device are those on the CPU."""
    here, there = weights(5, 2), weights(5, 2, device="cuda")
    take_steps(make(here), here, 20)
    take_steps(make(there), there, 20)
    assert largest_difference(here, [tensor.cpu() for tensor in there]) < ROUND_OFF

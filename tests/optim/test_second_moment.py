"""v̄ by recursion: against sums over v, over many steps, in low precision, at gradients that vanish."""

import math

import pytest
import torch
from optimizer_runs import ROUND_OFF, take_steps, weights

from swd_dynamics.errors import InputError
from swd_dynamics.optim import AdaiS, AdamS
from swd_dynamics.optim.adams import limited
from swd_dynamics.optim.parts import Scaling
from swd_dynamics.optim.second_moment import LONGEST_DOT, ROW, SUM, _advance, sums_of_squares

# A float32 sum over a hundred thousand squares, in the order in which the processor takes them.
FLOAT32_SUM = 1e-5
# A hundred thousand roundings of either sign, each to half an eps of float64.
MANY = math.sqrt(1e5) * torch.finfo(torch.float64).eps


def mean_of_v_hat(optimizer):
    """v̄ the long way, from every stored v and its own count of steps."""
    total, count = 0.0, 0
    for group in optimizer.param_groups:
        key = "max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"
        for parameter in group["params"]:
            if state := optimizer.state.get(parameter):
                total += float(state[key].double().sum()) / (1 - group["betas"][1] ** float(state["step"]))
                count += parameter.numel()
    return total / count


@pytest.mark.parametrize("amsgrad", [False, True])
def test_the_recursion_is_the_mean_of_v(amsgrad):
    """Assert that v̄ is the mean over all stored v̂, with skipped steps and a β₂ of its own in each group."""
    first, second, third = tensors = weights((4, 3), 5, 2)
    groups = [{"params": [first]}, {"params": [second, third], "betas": (0.9, 0.9)}]
    optimizer = AdamS(groups, lr=0.1, amsgrad=amsgrad)
    for step in range(30):
        take_steps(optimizer, tensors, 1, first=step)
        expected = 0.1 / math.sqrt(mean_of_v_hat(optimizer))
        assert optimizer.param_groups[0]["effective_lr"] == pytest.approx(expected, rel=ROUND_OFF)
        second.grad = None
        optimizer.step()  # skipped by one of them
        third.grad = None
        optimizer.step()


def test_one_recursion_for_all_would_be_wrong():
    """Assert that parameters that skip steps make one global recursion wrong by far more than round-off."""
    tensors = weights(4, 4)
    second = tensors[1]
    optimizer, together = AdamS(tensors, lr=0.1, betas=(0.9, 0.9)), 0.0
    for step in range(10):
        take_steps(optimizer, tensors, 1, first=step)
        second.grad = None if step % 2 else second.grad
        squares = torch.cat([p.grad for p in tensors if p.grad is not None]).square().mean().item()
        together = 0.9 * together + 0.1 * squares
        second.grad = None
        optimizer.step()
    exact = (0.1 / optimizer.param_groups[0]["effective_lr"]) ** 2
    assert abs(together / (1 - 0.9**10) / exact - 1) > 1e-3


@pytest.mark.parametrize("count", [0, 1, 1000, LONGEST_DOT + 1, 40 * LONGEST_DOT + ROW - 1])
@pytest.mark.slow
def test_float32_sums_do_not_lose_their_digits(count):
    """Assert that Σg² of a large float32 tensor is summed in rows that keep it right."""
    gradient = torch.randn(count, generator=torch.Generator().manual_seed(0))
    exact = gradient.double().square().sum().item()
    assert sums_of_squares([gradient]).item() == pytest.approx(exact, rel=FLOAT32_SUM)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_sums_of_squares_of_any_layout(dtype):
    """Assert that Σg² is that of the float64 gradient, also where the memory is not in order or not contiguous."""
    gradient = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    for laid_out in (gradient, gradient.to(memory_format=torch.channels_last), gradient.transpose(0, 3)[::2]):
        exact = laid_out.double().square().sum().item()
        assert sums_of_squares([laid_out]).item() == pytest.approx(exact, rel=FLOAT32_SUM)


@pytest.mark.slow
def test_a_hundred_thousand_steps():
    """Assert that v̄ is right after many steps with |g| = 1, while a bfloat16 v is 20 % off after two thousand."""
    theta = torch.zeros(1, dtype=torch.bfloat16, requires_grad=True)
    theta.grad = torch.ones(1, dtype=torch.bfloat16)
    optimizer = AdamS([theta], lr=0.0, foreach=False)
    for _ in range(2000):
        optimizer.step()
    assert abs(float(optimizer.state[theta]["exp_avg_sq"]) - 1) > 0.2
    (part,), squares = optimizer._parts(optimizer.param_groups[0], []), torch.ones(1, dtype=torch.float64)
    for _ in range(10**5 - 2000):
        _advance(part, squares, Scaling())
    assert abs(optimizer.state[theta][SUM] / (1 - 0.999**10**5) - 1) < MANY


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-160, 1e-12])
def test_vanishing_gradients_lose_nothing(scale):
    """Assert that under zero or tiny gradients AdamS takes no decay and loses nothing, and goes on afterwards."""
    (theta,) = weights(50)
    start = theta.detach().clone()
    optimizer = AdamS([theta], lr=1e-3, weight_decay=1e-2)
    for _ in range(5):
        theta.grad = torch.full_like(theta, scale)
        optimizer.step()
        assert optimizer.param_groups[0]["decay_rate"] == 0
        assert optimizer.param_groups[0]["effective_lr"] > 1e6
    assert (theta.detach() - start).abs().max() <= 5 * 1e-3 * (1 + ROUND_OFF)  # Adam's own steps of η at most
    take_steps(optimizer, [theta], 3)
    assert 0 < optimizer.param_groups[0]["decay_rate"] < 1
    assert theta.isfinite().all()


@pytest.mark.parametrize(
    ("rate", "v_mean", "cap", "expected"),
    [
        (1.5, 1.0, None, 1.5),
        (2.0, 1.0, None, 2.0),
        (2.1, 1.0, None, 0.0),
        (math.inf, 0.0, None, 0.0),
        (math.nan, 0.0, None, 0.0),
        (math.nan, math.nan, None, 0.0),
        (0.0, math.inf, None, 0.0),
        (2.1, 1.0, 0.1, 0.1),
        (0.05, 1.0, 0.1, 0.05),
        (2.1, 1.0, math.inf, 2.1),
        (math.inf, 0.0, 0.1, 0.0),
        (math.nan, 0.0, math.inf, 0.0),
    ],
)
def test_where_the_decay_ends(rate, v_mean, cap, expected):
    """Assert what is taken where the formula is too large, infinite or undefined: the same as number and as tensor."""
    assert limited(rate, v_mean, cap) == expected
    assert limited(torch.tensor(rate), torch.tensor(v_mean), cap).item() == torch.tensor(expected).item()


def test_the_default_is_the_papers_wherever_that_is_stable():
    """Assert that up to R = 2 the default takes what an uncapped AdamS takes, and that the cap is one."""
    runs = {}
    for cap in (None, math.inf, 0.5):
        (theta,) = weights(20)
        optimizer = AdamS([theta], lr=0.1, weight_decay=1.0, max_decay_rate=cap)
        rates = []
        for gradient in (1.0, 0.3, 0.1, 0.05):
            theta.grad = torch.full_like(theta, gradient)
            optimizer.state.clear()  # so that v̄ is g²
            optimizer.step()
            rates.append(optimizer.param_groups[0]["decay_rate"])
        runs[cap] = rates
    assert runs[math.inf] == pytest.approx([0.1, 1 / 3, 1.0, 2.0], rel=ROUND_OFF)
    assert runs[None] == runs[math.inf]
    assert runs[0.5] == [min(rate, 0.5) for rate in runs[math.inf]]


@pytest.mark.parametrize("cap", [0, -1, math.nan, "half"])
def test_a_cap_out_of_range_is_refused(cap):
    """Assert that the largest decay rate must be a positive number, infinity allowed."""
    with pytest.raises(InputError, match="max_decay_rate"):
        AdamS(weights(2), max_decay_rate=cap)


def test_a_gradient_that_is_not_a_number_stays_with_its_parameter():
    """Assert that a NaN gradient spoils its own parameter and shows in η_eff, and that decay does not spread it."""
    sick, healthy = weights(3, 4)
    optimizer = AdamS([sick, healthy], lr=0.1, weight_decay=0.1)
    sick.grad, healthy.grad = torch.full_like(sick, math.nan), torch.ones_like(healthy)
    optimizer.step()
    assert sick.isnan().all()
    assert healthy.isfinite().all()
    assert math.isnan(optimizer.param_groups[0]["effective_lr"])


def test_the_step_that_lays_out_a_checkpoint():
    """Assert that lr = 0 and zero gradients, as torch's distributed checkpoints start a state, leave θ as it is."""
    for make in (AdamS, AdaiS):
        (theta,) = weights(3)
        start = theta.detach().clone()
        optimizer = make([theta], lr=0.0, weight_decay=0.1)
        theta.grad = torch.zeros_like(theta)
        optimizer.step()
        assert torch.equal(theta, start)

"""AdaiS: adaptive inertia with stable weight decay."""

# pyright: reportPrivateImportUsage=false
# torch's own optimizers are built on its foreach functions, which are private by name only.

import math
from typing import Any

import torch
from torch import Tensor

from swd_dynamics.checks import check, check_pair
from swd_dynamics.optim.decay import shrink
from swd_dynamics.optim.moments import start_at_zero
from swd_dynamics.optim.optimizer import StableDecayOptimizer
from swd_dynamics.optim.parts import Part, Scaling, readable
from swd_dynamics.optim.second_moment import mark, next_mean_second_moment, sum_dtype
from swd_dynamics.tensors.sharding import local

NAMES = ("exp_avg", "exp_avg_sq", "exp_avg_weight")


class AdaiS(StableDecayOptimizer):
    """Adaptive inertia with stable weight decay: the momentum of each weight adapts, the learning rate does not.

    ::

        v ← β₂v + (1 − β₂)g²,  v̂ = v/(1 − β₂ᵏ)
        β₁ = clip(1 − β₀v̂/v̄, 0, 1 − ε)          per weight
        m ← β₁m + (1 − β₁)g
        η_eff = η,  R = λη
        θ ← (1 − R)θ − ηm/(1 − Πβ₁)

    v̄ is the mean of v̂ over all weights of all parameters of all groups, also where they are sharded over processes; Πβ₁
    is the product over the steps.

    Parameters
    ----------
    params : iterable of torch.Tensor, of (name, tensor) pairs, or of parameter groups
    lr : float or Tensor
        η ≥ 0.
    betas : tuple of two floats
        β₀ > 0 and β₂ in [0, 1).
    eps : float
        ε in (0, 1): β₁ stays this far below 1.
    weight_decay : float
        λ ≥ 0.
    maximize : bool
        Climb the loss instead of descending it; the decay still shrinks the weights.
    foreach : bool, optional
        Whether the arithmetic goes over all parameters at once. On an accelerator this takes fewer kernels, and two
        more copies of the gradients while the step runs. By default True on an accelerator, and False on the CPU.
    capturable : bool
        Whether the step counts live on the device, so that a CUDA graph can hold the step.

    Raises
    ------
    InputError
        If an argument is outside its range.

    Notes
    -----
    While v̄ = 0 (every gradient so far was zero), and where v̄ is not a number, v̂/v̄ is taken as 0, which makes
    β₁ = 1 − ε. R = λη does not depend on v̄, so the decay goes on.

    ``betas[0]`` is not a momentum: give OneCycleLR and CyclicLR ``cycle_momentum=False``, or they overwrite it.

    A parameter without gradient skips the step. If it ever had a gradient, its v̂, with its own count of steps, stays in
    v̄; else it has no v̂ and does not count.

    State of a parameter: ``step`` (k), ``exp_avg`` (m), ``exp_avg_sq`` (v), ``exp_avg_weight`` (1 − Πβ₁ per weight) and
    ``exp_avg_sq_sum`` (the sum of v over its weights, one float64 number). That is three numbers for each weight, half
    as much again as Adam: β₁ differs from weight to weight, and so does its product. The three are in float32 at least:
    in half precision they could not change by a fraction as small as ε, and v would underflow. A step rounds to half
    precision once, decay and gradient together.

    Source: Xie, Sato & Sugiyama 2020, 2011.11152; Xie et al. 2022, 2006.15815.

    Examples
    --------
    At the first step m = (1 − β₁)g and 1 − Πβ₁ = 1 − β₁, a step of gradient descent: θ ← (1 − .25·.5)θ − .25θ.

    >>> theta = torch.tensor([2.0, -2.0], requires_grad=True)
    >>> optimizer = AdaiS([theta], lr=0.25, betas=(0.5, 0.75), weight_decay=0.5)
    >>> (theta**2 / 2).sum().backward()
    >>> optimizer.step()
    >>> theta.tolist(), optimizer.param_groups[0]["decay_rate"]
    ([1.25, -1.25], 0.125)
    """

    wide = NAMES

    def __init__(
        self,
        params,
        lr: float | Tensor = 1e-3,
        betas=(0.1, 0.99),
        eps=1e-3,
        weight_decay: float = 0,
        *,
        maximize=False,
        foreach: bool | None = None,
        capturable=False,
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    def check_group(self, group: dict[str, Any]) -> None:
        """Refuse arguments outside their range."""
        check("lr", group["lr"], "[0, inf)")
        check_pair("betas", group["betas"], ("(0, inf)", "[0, 1)"))
        check("eps", group["eps"], "(0, 1)")
        check("weight_decay", group["weight_decay"], "[0, inf)")

    def update(self, parts: list[Part], scaling: Scaling) -> None:
        """Take the step: first compute v̄, then update all weights."""
        for part in parts:
            start_at_zero(part, NAMES, wide=True)
        idle = self.idle()
        v_mean = next_mean_second_moment(parts, idle, scaling, self._marks)
        if isinstance(v_mean, Tensor):
            v_mean = torch.where(v_mean > 0, v_mean, torch.inf)
        elif not v_mean > 0:
            v_mean = math.inf  # v̂/v̄ = 0, also where v̄ is not a number
        for group in self.param_groups:
            lr = readable(group["lr"])
            self.publish(group, lr, readable(group["weight_decay"]) * lr)
        for part in parts:
            for piece in pieces(part):
                descend(piece, v_mean)
        mark(parts + idle, self._marks)


def pieces(part: Part) -> list[Part]:
    """The parameters that go through the arithmetic together: all of them, or each alone."""
    together = part.group["foreach"]
    if together or (together is None and part.parameters[0].device.type != "cpu"):
        return [part]
    return [part.subset([i]) for i in range(len(part.parameters))]


def descend(part: Part, v_mean: float | Tensor) -> None:
    """The step of some parameters, given v̄ of all parameters."""
    (beta0, beta2), lr = part.group["betas"], part.group["effective_lr"]
    v_mean = v_mean.to(part.parameters[0].device) if isinstance(v_mean, Tensor) else v_mean
    steps, m, v, weights = (part.state(name) for name in ("step", *NAMES))
    gradients = list(torch._foreach_neg(part.gradients)) if part.group["maximize"] else part.gradients
    gradients = [gradient.to(moment.dtype) for gradient, moment in zip(gradients, m, strict=True)]
    thetas = [parameter.to(moment.dtype) for parameter, moment in zip(part.parameters, m, strict=True)]

    torch._foreach_add_(steps, 1)
    torch._foreach_mul_(v, beta2)
    torch._foreach_addcmul_(v, gradients, gradients, value=1 - beta2)

    # 1 − β₁ = clip(β₀v̂/v̄, ε, 1), never by subtraction: in float32 1 − .999 has lost four digits.
    fresh = list(torch._foreach_mul(v, beta0))
    means: list[Any] = [_bias_correction(beta2, step) * v_mean for step in steps]
    torch._foreach_div_(fresh, means)
    torch._foreach_clamp_min_(fresh, part.group["eps"])
    torch._foreach_clamp_max_(fresh, 1)

    torch._foreach_lerp_(m, gradients, fresh)
    rest = list(torch._foreach_neg(weights))
    torch._foreach_add_(rest, 1)
    torch._foreach_addcmul_(weights, rest, fresh)

    shrink(thetas, part.group["decay_rate"])
    if isinstance(lr, Tensor):
        corrections = torch._foreach_div(weights, lr)
        torch._foreach_addcdiv_(thetas, m, corrections, value=-1)
    else:
        torch._foreach_addcdiv_(thetas, m, weights, value=-lr)
    if any(theta is not parameter for theta, parameter in zip(thetas, part.parameters, strict=True)):
        # Rounds to half precision. There is no such operation for DTensors, but for the tensors in them.
        torch._foreach_copy_([local(parameter) for parameter in part.parameters], [local(theta) for theta in thetas])


def _bias_correction(beta2: float, step: Tensor) -> float | Tensor:
    """1 − β₂ᵏ: with a tensor for k in v̄'s precision, since 1 − .99ᵏ in the count's float32 is 1e-7 off."""
    count = readable(step)
    return 1 - beta2 ** (count.to(sum_dtype(count)) if isinstance(count, Tensor) else count)

"""AdamS: Adam with stable weight decay."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from swd_dynamics.checks import check, check_pair
from swd_dynamics.errors import InputError
from swd_dynamics.optim.decay import is_zero, shrink_apart
from swd_dynamics.optim.layout import in_same_order
from swd_dynamics.optim.moments import start_at_zero
from swd_dynamics.optim.optimizer import StableDecayOptimizer, on_accelerator
from swd_dynamics.optim.parts import Part, Scaling, readable
from swd_dynamics.optim.second_moment import mark, next_mean_second_moment

NAMES = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


class AdamS(StableDecayOptimizer):
    """Adam with stable weight decay.

    ::

        m ← β₁m + (1 − β₁)g,  v ← β₂v + (1 − β₂)g²
        m̂ = m/(1 − β₁ᵏ),  v̂ = v/(1 − β₂ᵏ)
        η_eff = η/√v̄,  R = λη_eff
        θ ← (1 − R)θ − η m̂/(√v̂ + ε)

    v̄ is the mean of v̂ over all weights of all parameters of all groups, also where they are sharded over processes
    (``fully_shard``). AMSGrad puts the largest v so far in the place of v, before the bias correction; v̄ is then the
    mean of that.

    As v̄ → 0, R grows without bound. From R = 2 on, the decay no longer shrinks the weights: they change sign and grow.
    By default a step with R > 2 has no decay at all, and a step with R ≤ 2 has the paper's decay.

    Parameters
    ----------
    params : iterable of torch.Tensor, of (name, tensor) pairs, or of parameter groups
    lr : float or Tensor
        η ≥ 0; a tensor if a compiled or captured step is to follow a schedule.
    betas : tuple of two floats
        β₁ and β₂, each in [0, 1).
    eps : float
        ε ≥ 0, outside the root; η_eff does not contain it.
    weight_decay : float
        λ ≥ 0. It is not AdamW's λ: see :func:`swd_dynamics.equivalent_weight_decay`.
    amsgrad : bool
        Whether the largest v so far takes the place of v. This costs a pass over v in every step.
    max_decay_rate : float, optional
        An upper limit of R: R = min(λη_eff, max_decay_rate) in every step, also where λη_eff > 2. Infinity gives the
        paper's formula. While v̄ = 0 (every gradient so far was zero) there is no decay, whatever the limit.
    maximize : bool
        Climb the loss instead of descending it; the decay still shrinks the weights.
    foreach, capturable, fused : bool, optional
        Which of torch's kernels for AdamW to use, as in torch.optim.AdamW.

    Raises
    ------
    InputError
        If an argument is outside its range.

    Notes
    -----
    Another optimizer is called AdamS too: Zhang, Wang & Chen 2025, 2505.16363, which divides the momentum by
    √(β₂m² + (1 − β₂)g²) and has decoupled decay. The one here is AdamW with stable decay instead of decoupled decay.

    The weights of other processes count in v̄ if the parameters are DTensors, as ``fully_shard`` and tensor parallelism
    make them. FSDP1, ZeroRedundancyOptimizer and pipeline stages have plain tensors: there v̄ would be the mean over the
    weights of one process.

    After a gradient that is not finite, v̄ is not finite any more: from then on there is no decay, and η_eff shows why.
    A finite gradient does not have this effect, however large it is, except with AMSGrad, whose maximum may overflow.

    A checkpoint of torch.optim.AdamW contains AdamW's λ, in its groups: set AdamS's own λ after loading it. A warning
    says so where the two differ.

    A parameter without gradient skips the step. If it ever had a gradient, its v̂, with its own count of steps, stays in
    v̄; else it has no v̂ and does not count.

    State of a parameter: ``step`` (k), ``exp_avg`` (m), ``exp_avg_sq`` (v), with AMSGrad ``max_exp_avg_sq``, as
    torch.optim.AdamW's, whose ``state_dict`` can be loaded; and ``exp_avg_sq_sum``, the sum of v over the parameter's
    weights, one float64 number. The sum follows v where the state is edited, loaded or shared; an edit through
    ``.data`` is not noticed.

    Source: Xie, Sato & Sugiyama 2020, 2011.11152; Kingma & Ba 2015, 1412.6980; Reddi, Kale & Kumar 2018, 1904.09237.

    Examples
    --------
    At the first step m̂ = g and v̂ = g². Here g = ±2, so that √v̄ = 2, R = .5·.5/2 = .125 and θ ← ±((1 − .125)·2 − .5).

    >>> theta = torch.tensor([2.0, -2.0], requires_grad=True)
    >>> optimizer = AdamS([theta], lr=0.5, eps=0, weight_decay=0.5)
    >>> (theta**2 / 2).sum().backward()
    >>> optimizer.step()
    >>> theta.tolist(), optimizer.param_groups[0]["decay_rate"]
    ([1.25, -1.25], 0.125)
    """

    def __init__(
        self,
        params,
        lr: float | Tensor = 1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=1e-4,
        amsgrad=False,
        *,
        max_decay_rate: float | None = None,
        maximize=False,
        foreach: bool | None = None,
        capturable=False,
        fused: bool | None = None,
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "max_decay_rate": max_decay_rate,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def check_group(self, group: dict[str, Any]) -> None:
        """Refuse arguments outside their range."""
        check("lr", group["lr"], "[0, inf)")
        check_pair("betas", group["betas"], ("[0, 1)", "[0, 1)"))
        check("eps", group["eps"], "[0, inf)")
        check("weight_decay", group["weight_decay"], "[0, inf)")
        if group["max_decay_rate"] is not None:
            check("max_decay_rate", group["max_decay_rate"], "(0, inf]")
        if group["foreach"] and on_accelerator(group["lr"]) and not group["capturable"]:
            raise InputError("foreach=True takes a tensor on an accelerator for lr with capturable=True only: add that")

    def update(self, parts: list[Part], scaling: Scaling) -> None:
        """Take the step: compute v̄, then the decay rate of each group, then run torch's kernel."""
        for part in parts:
            start_at_zero(part, NAMES if part.group["amsgrad"] else NAMES[:2])
        idle = self.idle()
        v_mean = next_mean_second_moment(parts, idle, scaling, self._marks)
        for group in self.param_groups:
            effective_lr = _effective_lr(readable(group["lr"]), v_mean)
            self.publish(group, effective_lr, _decay_rate(group, effective_lr, v_mean, scaling))
        alone = [shrinks_alone(part) for part in parts]
        in_kernel = [0.0 if apart else part.group["decay_rate"] for part, apart in zip(parts, alone, strict=True)]
        shrink_apart([part for part, apart in zip(parts, alone, strict=True) if apart])
        for part, rate in zip(parts, in_kernel, strict=True):
            descend(part, rate, scaling)
        mark(parts + idle, self._marks)


def shrinks_alone(part: Part) -> bool:
    """Whether the decay is a multiplication before torch's kernel.

    The kernel takes no tensor for λ, and in half precision only the fused one rounds decay and step together.
    """
    return isinstance(part.group["decay_rate"], Tensor) or (part.in_half_precision and not part.group["fused"])


def descend(part: Part, decay_rate: float, scaling: Scaling) -> None:
    """torch's own step of AdamW, with R for its ηλ."""
    part = in_same_order(part, NAMES)
    group, lr = part.group, readable(part.group["lr"])
    adamw(
        part.parameters,
        part.gradients,
        part.state("exp_avg"),
        part.state("exp_avg_sq"),
        part.state("max_exp_avg_sq") if group["amsgrad"] else [],
        part.state("step"),
        foreach=group["foreach"],
        capturable=group["capturable"] and not part.on_host,  # compiling a step sets True for the CPU, too
        fused=group["fused"],
        grad_scale=scaling.scale,
        found_inf=scaling.found_inf,
        amsgrad=group["amsgrad"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=lr,
        weight_decay=decay_rate / lr if decay_rate else 0.0,
        eps=group["eps"],
        maximize=group["maximize"],
    )


def _decay_rate(group: dict[str, Any], effective_lr: Any, v_mean: Any, scaling: Scaling) -> Any:
    """R of a group: 0 without decay, and where the gradient scaler refuses the step."""
    weight_decay = readable(group["weight_decay"])
    if is_zero(weight_decay):
        return 0.0
    rate = limited(weight_decay * effective_lr, v_mean, group["max_decay_rate"])
    return scaling.unless_refused(rate, otherwise=0.0)


def _effective_lr(lr: float | Tensor, v_mean: float | Tensor) -> float | Tensor:
    """η/√v̄: ∞ at v̄ = 0."""
    if isinstance(v_mean, Tensor):
        return lr / v_mean.sqrt()
    return lr / math.sqrt(v_mean) if v_mean > 0 else math.inf * (1 - v_mean)


def limited(rate: float | Tensor, v_mean: float | Tensor, cap: float | None) -> float | Tensor:
    """The decay rate of a step: R where v̄ > 0 and R ≤ 2, else 0; with a cap, min(R, cap) where v̄ > 0, else 0.

    Examples
    --------
    >>> limited(1.5, v_mean=1.0, cap=None), limited(2.5, v_mean=1.0, cap=None), limited(2.5, v_mean=1.0, cap=0.25)
    (1.5, 0.0, 0.25)
    """
    if isinstance(rate, Tensor):
        rate = torch.where(rate <= 2, rate, 0.0) if cap is None else rate.clamp(max=cap)
        return torch.where(torch.as_tensor(v_mean > 0), rate, 0.0)
    if not v_mean > 0:
        return 0.0
    return min(rate, cap) if cap is not None else rate if rate <= 2 else 0.0

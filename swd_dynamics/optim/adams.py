"""AdamS: Adam with stable weight decay."""

from math import sqrt
from typing import Any

import torch
from torch import Tensor

from swd_dynamics.hyperparameter import check, check_pair
from swd_dynamics.optim.optimizer import StableDecayOptimizer, loss_gradient, mean_over_weights


class AdamS(StableDecayOptimizer):
    """Adam with stable weight decay.

    ::

        m ← β₁m + (1 − β₁)g,  v ← β₂v + (1 − β₂)g²
        m̂ = m/(1 − β₁ᵏ),  v̂ = v/(1 − β₂ᵏ)
        η_eff = η/√v̄,  R = λη_eff
        θ ← (1 − R)θ − η m̂/(√v̂ + ε)

    v̄ is the mean of v̂ over all weights of all parameters of all groups. AMSGrad puts the largest v so far in the place
    of v, before the bias correction; v̄ is then the mean of that.

    Parameters
    ----------
    params : iterable of torch.Tensor, of (name, tensor) pairs, or of parameter groups
    lr : float
        η > 0.
    betas : tuple of two floats
        β₁ and β₂, each in [0, 1).
    eps : float
        ε ≥ 0, outside the root, and no part of η_eff.
    weight_decay : float
        λ ≥ 0.
    amsgrad : bool
        Whether v̂ remembers the largest v.
    maximize : bool
        Climb the loss instead of descending it; the decay still shrinks the weights.

    Raises
    ------
    InputError
        If an argument is outside its range.

    Notes
    -----
    While v̄ = 0 (every gradient so far was zero) there is no signal to measure a step by: η_eff is set to 0, so that
    R = 0 and no decay is taken. As v̄ → 0 otherwise, R grows without bound, and the decay itself diverges where R > 2.

    A parameter without gradient skips the step; if it ever had one, its v̂, with its own count of steps, stays in v̄. One
    that never had a gradient has no v̂ and is not counted.

    State of a parameter: ``step`` (k), ``exp_avg`` (m), ``exp_avg_sq`` (v), with AMSGrad ``max_exp_avg_sq``. After each
    step every parameter group holds the floats ``decay_rate`` (R) and ``effective_lr`` (η_eff).

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
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=1e-4,
        amsgrad=False,
        *,
        maximize=False,
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check_group(self, group: dict[str, Any]) -> None:
        """Refuse arguments outside their range."""
        check("lr", group["lr"], "(0, inf)")
        check_pair("betas", group["betas"], ("[0, 1)", "[0, 1)"))
        check("eps", group["eps"], "[0, inf)")
        check("weight_decay", group["weight_decay"], "[0, inf)")

    def update(self, work: list[tuple[dict[str, Any], list[Tensor]]]) -> None:
        """Take the step: first all moments, then their mean, then all weights."""
        for group, parameters in work:
            for parameter in parameters:
                self._remember(parameter, group)
        v_mean = mean_over_weights(self._v_hat(parameter, group) for parameter, group in self.remembered())
        for group, parameters in work:
            self.publish(group, 0.0 if v_mean == 0 else group["lr"] / sqrt(v_mean))
            for parameter in parameters:
                self._move(parameter, group)

    def _remember(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient, state, (beta1, beta2) = loss_gradient(parameter, group), self.state[parameter], group["betas"]
        if not state:
            names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")[: 3 if group["amsgrad"] else 2]
            state["step"] = torch.tensor(0.0)
            state.update({name: torch.zeros_like(parameter, memory_format=torch.preserve_format) for name in names})
        state["step"] += 1
        state["exp_avg"].mul_(beta1).add_(gradient, alpha=1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        if group["amsgrad"]:
            torch.maximum(state["max_exp_avg_sq"], state["exp_avg_sq"], out=state["max_exp_avg_sq"])

    def _v_hat(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[parameter]
        v = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
        return v / (1 - group["betas"][1] ** float(state["step"]))

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        lr = float(group["lr"]) / (1 - group["betas"][0] ** float(state["step"]))
        scale = self._v_hat(parameter, group).sqrt_().add_(group["eps"])
        parameter.mul_(1 - group["decay_rate"]).addcdiv_(state["exp_avg"], scale, value=-lr)

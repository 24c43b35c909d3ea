"""AdaiS: adaptive inertia with stable weight decay."""

from typing import Any

import torch
from torch import Tensor

from swd_dynamics.hyperparameter import check, check_pair
from swd_dynamics.optim.optimizer import StableDecayOptimizer, loss_gradient, mean_over_weights


class AdaiS(StableDecayOptimizer):
    """Adaptive inertia with stable weight decay: the momentum of each weight adapts, the learning rate does not.

    ::

        v ← β₂v + (1 − β₂)g²,  v̂ = v/(1 − β₂ᵏ)
        β₁ = clip(1 − β₀v̂/v̄, 0, 1 − ε)          per weight
        m ← β₁m + (1 − β₁)g
        η_eff = η,  R = λη
        θ ← (1 − R)θ − ηm/(1 − Πβ₁)

    v̄ is the mean of v̂ over all weights of all parameters of all groups, Πβ₁ the product over the steps.

    Parameters
    ----------
    params : iterable of torch.Tensor, of (name, tensor) pairs, or of parameter groups
    lr : float
        η > 0.
    betas : tuple of two floats
        β₀ > 0 and β₂ in [0, 1).
    eps : float
        ε in (0, 1): β₁ stays this far below 1.
    weight_decay : float
        λ ≥ 0.
    maximize : bool
        Climb the loss instead of descending it; the decay still shrinks the weights.

    Raises
    ------
    InputError
        If an argument is outside its range.

    Notes
    -----
    While v̄ = 0 (every gradient so far was zero) v̂/v̄ is taken as 0, which makes β₁ = 1 − ε. R = λη does not depend on
    v̄, and is taken also then.

    A parameter without gradient skips the step; if it ever had one, its v̂, with its own count of steps, stays in v̄. One
    that never had a gradient has no v̂ and is not counted.

    State of a parameter: ``step`` (k), ``exp_avg`` (m), ``exp_avg_sq`` (v), ``beta1_prod`` (Πβ₁ per weight). After each
    step every parameter group holds the floats ``decay_rate`` (R) and ``effective_lr`` (η_eff).

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

    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.1, 0.99),
        eps=1e-3,
        weight_decay: float = 0,
        *,
        maximize=False,
    ):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, defaults)

    def check_group(self, group: dict[str, Any]) -> None:
        """Refuse arguments outside their range."""
        check("lr", group["lr"], "(0, inf)")
        check_pair("betas", group["betas"], ("(0, inf)", "[0, 1)"))
        check("eps", group["eps"], "(0, 1)")
        check("weight_decay", group["weight_decay"], "[0, inf)")

    def update(self, work: list[tuple[dict[str, Any], list[Tensor]]]) -> None:
        """Take the step: first all second moments, then their mean, then all weights."""
        for group, parameters in work:
            for parameter in parameters:
                self._remember(parameter, group)
        v_mean = mean_over_weights(self._v_hat(parameter, group) for parameter, group in self.remembered())
        for group, parameters in work:
            self.publish(group, group["lr"])
            for parameter in parameters:
                self._move(parameter, group, v_mean)

    def _remember(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient, state, beta2 = loss_gradient(parameter, group), self.state[parameter], group["betas"][1]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["beta1_prod"] = torch.ones_like(parameter, memory_format=torch.preserve_format)
        state["step"] += 1
        state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)

    def _v_hat(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[parameter]
        return state["exp_avg_sq"] / (1 - group["betas"][1] ** float(state["step"]))

    def _move(self, parameter: Tensor, group: dict[str, Any], v_mean: float) -> None:
        gradient, state = loss_gradient(parameter, group), self.state[parameter]
        share = self._v_hat(parameter, group) / (v_mean if v_mean != 0 else 1.0)
        beta1 = (1 - group["betas"][0] * share).clamp_(0, 1 - group["eps"])
        state["beta1_prod"].mul_(beta1)
        state["exp_avg"].mul_(beta1).addcmul_(1 - beta1, gradient)
        step = state["exp_avg"] / (1 - state["beta1_prod"])
        parameter.mul_(1 - group["decay_rate"]).add_(step, alpha=-float(group["lr"]))

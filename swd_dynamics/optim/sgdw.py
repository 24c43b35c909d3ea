"""SGDW: stochastic gradient descent with decoupled weight decay, which torch does not have."""

from typing import Any

from swd_dynamics.optim.sgd import SGDFamily


class SGDW(SGDFamily):
    """Stochastic gradient descent with decoupled weight decay: R = λη, whatever the momentum.

    With momentum β > 0, dampening τ and m₁ = g₁ (torch's first momentum, undamped)::

        m ← βm + (1 − τ)g
        θ ← (1 − λη)θ − ηm           (Nesterov: g + βm for m)

    SGDW and SGDS are one method with λ in two units: SGDS with λ(1 − β)/(1 − τ) takes the steps of
    SGDW with λ.

    Parameters
    ----------
    params, lr, momentum, dampening, weight_decay, nesterov, maximize, foreach, fused
        As those of :class:`~swd_dynamics.optim.SGDS`, except for the unit of λ.

    Raises
    ------
    InputError
        If an argument is outside its range.

    Notes
    -----
    State of a parameter: ``momentum_buffer`` (m), with momentum only, as that of torch.optim.SGD.

    Source: Loshchilov & Hutter 2019, 1711.05101, algorithm 1; momentum as in torch.optim.SGD.

    Examples
    --------
    On f = ½θ² from θ = 1: m = 1, R = .25·.5, θ ← (1 − .125)·1 − .25·1.

    >>> import torch
    >>> theta = torch.ones(1, requires_grad=True)
    >>> optimizer = SGDW([theta], lr=0.25, momentum=0.5, weight_decay=0.5)
    >>> (theta**2 / 2).sum().backward()
    >>> optimizer.step()
    >>> theta.item(), optimizer.param_groups[0]["decay_rate"]
    (0.625, 0.125)
    """

    def decay_ratio(self, group: dict[str, Any]) -> float:
        """R/η_eff = λη/η_eff, which is λ(1 − β)/(1 − τ) with momentum, and λ without."""
        if not group["momentum"]:
            return group["weight_decay"]
        return group["weight_decay"] * (1 - group["momentum"]) / (1 - group["dampening"])

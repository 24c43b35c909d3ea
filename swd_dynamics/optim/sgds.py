"""SGDS: stochastic gradient descent with stable weight decay."""

from typing import Any

from swd_dynamics.optim.sgd import SGDFamily


class SGDS(SGDFamily):
    """Stochastic gradient descent with stable weight decay.

    With momentum β > 0, dampening τ and m₁ = g₁ (torch's first momentum, undamped)::

        m ← βm + (1 − τ)g
        η_eff = η(1 − τ)/(1 − β),  R = λη_eff
        θ ← (1 − R)θ − ηm            (Nesterov: g + βm for m)

    With momentum 0 dampening does nothing in torch: η_eff = η and θ ← (1 − ηλ)θ − ηg. (The authors'
    file has R = ηλ(1 − τ) there.)

    Parameters
    ----------
    params : iterable of torch.Tensor, of (name, tensor) pairs, or of parameter groups
    lr : float or Tensor
        η ≥ 0.
    momentum : float
        β in [0, 1).
    dampening : float
        τ in [0, 1).
    weight_decay : float
        λ ≥ 0.
    nesterov : bool
        Nesterov's momentum; it needs momentum > 0 and dampening = 0.
    maximize : bool
        Climb the loss instead of descending it; the decay still shrinks the weights.
    foreach, fused : bool, optional
        Which of torch's kernels for SGD to use, as in torch.optim.SGD. The decay is a multiplication
        before the kernel; with momentum 0 the kernel does both.

    Raises
    ------
    InputError
        If an argument is outside its range.

    Notes
    -----
    State of a parameter: ``momentum_buffer`` (m), with momentum only. It is that of torch.optim.SGD,
    whose ``state_dict`` can be loaded.

    Source: Xie, Sato & Sugiyama 2020, 2011.11152; momentum as in torch.optim.SGD.

    Examples
    --------
    On f = ½θ² from θ = 1: m = 1, R = .25·.5/(1 − .5) = .25, θ ← (1 − .25)·1 − .25·1.

    >>> import torch
    >>> theta = torch.ones(1, requires_grad=True)
    >>> optimizer = SGDS([theta], lr=0.25, momentum=0.5, weight_decay=0.5)
    >>> (theta**2 / 2).sum().backward()
    >>> optimizer.step()
    >>> theta.item(), optimizer.param_groups[0]["decay_rate"]
    (0.5, 0.25)
    """

    def decay_ratio(self, group: dict[str, Any]) -> float:
        """R/η_eff = λ."""
        return group["weight_decay"]

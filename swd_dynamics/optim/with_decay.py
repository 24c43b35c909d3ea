"""Any torch optimizer with another weight decay, which is applied beside its step."""

import math
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from swd_dynamics.checks import check, check_one
from swd_dynamics.errors import InputError
from swd_dynamics.tables import Table

# Optimizers whose step, without weight decay, depends on gradients alone.
READ_NO_WEIGHTS = {
    torch.optim.SGD,
    *(torch.optim.Adam, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax),
    *(torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adadelta),
}
BUILT_IN = {"stable": "SGDS, AdamS and AdaiS have stable decay", "L2": "torch's own weight_decay of SGD and Adam is L2"}


class WithDecay(torch.optim.Optimizer):
    """A torch optimizer whose steps are followed by a decay: θ ← θ − ηu − Rθ, where θ − ηu is the optimizer's step.

    ==================  ============================================================
    decay               R of a weight
    ==================  ============================================================
    ``decoupled``       λη
    ``independent``     λη/η_max, or λ if there is no ``lr_max``
    ``corrected``       λη²/η_max
    ``cautious``        λη if the step does not move the weight away from 0, else 0
    ``preconditioned``  λη/(√v̂ + ε), with v̂ and ε of Adam; a warning tells of R > 2
    ==================  ============================================================

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Its own weight decay must be 0. From now on it is stepped through this optimizer only. Learning-rate schedulers,
        ``state_dict`` and ``zero_grad`` are those of this optimizer.
    decay : str
        A name of the table.
    weight_decay : float
        λ ≥ 0; a parameter group may have another one, in ``param_groups``.
    lr_max : float, optional
        η_max > 0, the largest learning rate of the schedule. Corrected decay needs it. Without it R of independent
        decay is λ in every step, whatever the schedule is: the weights decay on where the learning rate has fallen to
        0, and λ is the fraction that a step removes, so that usual values of it, as 0.1, are far too large.

    Raises
    ------
    InputError
        If the decay is unknown, a number is outside its range, corrected decay has no ``lr_max``, the optimizer has a
        weight decay of its own, or it keeps no second moment for preconditioned decay.

    Notes
    -----
    After each step ``group["decay_rate"]`` is the mean of R over the weights of the group that took the step, and
    ``group["effective_lr"]`` is η_eff: η(1 − τ)/(1 − β) for SGD, η/√v̄ for an optimizer with Adam's state, and NaN
    otherwise. In half precision R is not what rounding leaves of it.

    Source: independent: Wortsman et al. 2023, 2309.14322; corrected: Defazio 2025, 2506.02285; cautious: Chen et al.
    2025, 2510.12402; preconditioned: Hwang 2024, 2405.12807.

    Examples
    --------
    On f = ½θ² the gradient moves weights towards 0, so that cautious decay takes λη = ¼ of the weight besides:

    >>> theta = torch.ones(1, requires_grad=True)
    >>> optimizer = WithDecay(torch.optim.SGD([theta], lr=0.5), "cautious", weight_decay=0.5)
    >>> (theta**2 / 2).sum().backward()
    >>> optimizer.step()
    >>> theta.item(), optimizer.param_groups[0]["decay_rate"]
    (0.25, 0.25)
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        decay: str = "decoupled",
        weight_decay: float = 1e-2,
        lr_max: float | None = None,
    ):
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise InputError(f"optimizer = {optimizer!r} is not a torch optimizer: give one, as torch.optim.SGD(…)")
        if decay in BUILT_IN:
            raise InputError(f"decay = {decay!r} needs no WithDecay: {BUILT_IN[decay]}")
        self._decay_rate = RATES[decay]
        check_one("weight_decay", weight_decay)
        check_one("lr_max", lr_max)
        check("weight_decay", weight_decay, "[0, inf)")
        if lr_max is None and decay == "corrected":
            raise InputError("corrected decay needs lr_max, the largest learning rate of the schedule: give lr_max")
        if lr_max is not None:
            check("lr_max", lr_max, "(0, inf)")
        self.inner, self.decay, self._has_warned = optimizer, decay, False
        groups = [{**_without_own_decay(group), "weight_decay": weight_decay} for group in optimizer.param_groups]
        super().__init__(groups, {**optimizer.defaults, "weight_decay": weight_decay, "lr_max": lr_max})
        self.state = optimizer.state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, to the inner optimizer too; it decays with its own ``weight_decay`` if it has one."""
        super().add_param_group(param_group)
        if len(self.param_groups) > len(self.inner.param_groups):
            own = {"weight_decay", "lr_max"}
            added = {name: value for name, value in self.param_groups[-1].items() if name not in own}
            self.inner.add_param_group(added | ({"weight_decay": 0.0} if "weight_decay" in self.inner.defaults else {}))

    @torch._disable_dynamo  # pyright: ignore[reportPrivateImportUsage]
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of this optimizer; that of the inner optimizer is a part of it."""
        super().load_state_dict(state_dict)
        self.inner.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take a step of the inner optimizer, and then the decay of the weights before it.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the loss and its gradients; its loss is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group, inner in zip(self.param_groups, self.inner.param_groups, strict=True):
            inner.update({name: group[name] for name in inner if name not in ("params", "weight_decay")})
        moving = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        before = {parameter: parameter.clone() for parameters in moving for parameter in parameters}
        moves = self._moves(before)
        for group, parameters in zip(self.param_groups, moving, strict=True):
            rates = [self._decay_rate(group, self.state[p], before[p], moves[p]) for p in parameters]
            self._watch(rates)
            for parameter, rate in zip(parameters, rates, strict=True):
                parameter.copy_(before[parameter] - moves[parameter] - rate * before[parameter])
            group["decay_rate"] = _mean(rates, parameters)
            group["effective_lr"] = self._effective_lr(group)
        return loss

    def _watch(self, rates: list[Any]) -> None:
        """Warn once of weights that a decay of R > 2 makes larger."""
        too_large = sum(int((rate > 2).sum()) for rate in rates if isinstance(rate, Tensor))
        if too_large and not self._has_warned:
            self._has_warned = True
            said = (
                f"R is above 2 for {too_large} weights, which this decay makes larger in every step: their gradients"
                " are nearly 0, so that η/(√v̂ + ε) is large. Take a smaller λ, or a larger eps of the optimizer"
            )
            try:
                warnings.warn(said, RuntimeWarning, stacklevel=3)
            except RuntimeWarning:  # where warnings are errors, a training does not end by one
                print(said, file=sys.stderr)

    def _moves(self, before: dict[Tensor, Tensor]) -> dict[Tensor, Tensor]:
        """What a step of the inner optimizer subtracts from each parameter, ηu.

        An optimizer that does not read the weights takes the step from 0, where no digit of it is lost.
        """
        reads_none = type(self.inner) in READ_NO_WEIGHTS
        try:
            for parameter in before if reads_none else ():
                parameter.zero_()
            self.inner.step()
            return {p: -p if reads_none else theta - p for p, theta in before.items()}
        finally:
            for parameter, theta in before.items():
                parameter.copy_(theta)

    def _effective_lr(self, group: dict[str, Any]) -> float:
        if isinstance(self.inner, torch.optim.SGD):
            momentum = group["momentum"]
            return float(group["lr"] * (1 - group["dampening"]) / (1 - momentum) if momentum else group["lr"])
        v_hats = list(self._second_moments())
        count = sum(v_hat.numel() for v_hat in v_hats)
        return (
            float(group["lr"]) / math.sqrt(sum(float(v_hat.sum()) for v_hat in v_hats) / count) if count else math.nan
        )

    def _second_moments(self) -> Iterator[Tensor]:
        for group in self.param_groups:
            for parameter in group["params"]:
                if {"exp_avg_sq", "step"} <= set(self.state.get(parameter, ())):
                    yield _v_hat(group, self.state[parameter])


def _without_own_decay(group: dict[str, Any]) -> dict[str, Any]:
    if group.get("weight_decay", 0) != 0:
        raise InputError(
            f"the optimizer has weight_decay = {group['weight_decay']} of its own: give it weight_decay=0, and the"
            " λ of the other decay to WithDecay"
        )
    return {name: value for name, value in group.items() if name != "weight_decay"}


def _mean(rates: list[Any], weights: list[Tensor]) -> float:
    """The mean over weights of rates that are numbers or tensors."""
    count = sum(parameter.numel() for parameter in weights)
    total = sum(float((rate + torch.zeros_like(p)).sum()) for rate, p in zip(rates, weights, strict=True))
    return total / count if count else 0.0


def _v_hat(group: dict[str, Any], state: dict[str, Any]) -> Tensor:
    return state["exp_avg_sq"] / (1 - group["betas"][1] ** float(state["step"]))


def _decoupled(group: dict[str, Any], state: dict[str, Any], before: Tensor, move: Tensor) -> Any:
    return group["weight_decay"] * group["lr"]


def _independent(group: dict[str, Any], state: dict[str, Any], before: Tensor, move: Tensor) -> Any:
    return group["weight_decay"] * (1.0 if group["lr_max"] is None else group["lr"] / group["lr_max"])


def _corrected(group: dict[str, Any], state: dict[str, Any], before: Tensor, move: Tensor) -> Any:
    return group["weight_decay"] * group["lr"] ** 2 / group["lr_max"]


def _cautious(group: dict[str, Any], state: dict[str, Any], before: Tensor, move: Tensor) -> Tensor:
    return group["weight_decay"] * group["lr"] * (before * move >= 0).to(before.dtype)


def _preconditioned(group: dict[str, Any], state: dict[str, Any], before: Tensor, move: Tensor) -> Tensor:
    if not {"exp_avg_sq", "step"} <= set(state):
        raise InputError("preconditioned decay needs Adam's second moment, and this optimizer does not keep one")
    return group["weight_decay"] * group["lr"] / (_v_hat(group, state).sqrt() + group["eps"])


# R of one parameter, from its group, its state, its weights before the step, and what the inner step subtracts.
RATES: Table[Callable[[dict[str, Any], dict[str, Any], Tensor, Tensor], Any]] = Table(
    "decay",
    decoupled=_decoupled,
    independent=_independent,
    corrected=_corrected,
    cautious=_cautious,
    preconditioned=_preconditioned,
)

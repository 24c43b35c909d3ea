"""What all optimizers of this folder share: the interface of a torch optimizer, and the decay itself."""

# pyright: reportPrivateImportUsage=false
# torch's own optimizers are built on its foreach functions, which are private by name only.

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from swd_dynamics.errors import InputError
from swd_dynamics.optim.moments import at_least_float32
from swd_dynamics.optim.parts import Part, Scaling, readable
from swd_dynamics.optim.second_moment import SUM, Marks, exact
from swd_dynamics.tensors.sharding import local, sum_over_shards


class StableDecayOptimizer(torch.optim.Optimizer, ABC):
    """A torch optimizer whose decay is a multiplication of the weights: θ ← (1 − R)θ − η·(step).

    After each step, every parameter group holds

    * ``group["decay_rate"]``: R, the fraction by which the decay shrank the weights in this step;
    * ``group["effective_lr"]``: η_eff, the distance by which a unit of gradient moves a weight in the end.

    Both are floats where all parameters are on the CPU. Elsewhere they may be tensors of shape (), because
    reading a number would hold up the device. In half precision rounding may take more or less than λη_eff, or nothing:
    R is then what it took. Where decay and step are rounded together, as one sum, R is λη_eff: in AdaiS, in SGD without
    momentum, and in torch's fused AdamW on the CPU. A parameter without gradient skips the step: neither its
    weights nor its state change.

    A new member gives two methods:

    1. ``check_group(group)`` refuses arguments outside their range, and parameters that do not suit the
       arguments, with an :class:`~swd_dynamics.errors.InputError`.
    2. ``update(parts, scaling)`` takes the step, and calls :meth:`publish` once for every group.
    """

    wide: tuple[str, ...] = ()  # state with a number for each weight, in float32 at least

    def __init__(self, params: Any, defaults: dict[str, Any]):
        self._marks: Marks = {}
        super().__init__(params, defaults)

    @abstractmethod
    def check_group(self, group: dict[str, Any]) -> None: ...

    @abstractmethod
    def update(self, parts: list[Part], scaling: Scaling) -> None: ...

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether the step takes scaled gradients, as torch's fused kernels do; ``torch.amp.GradScaler`` asks."""
        return all(group.get("fused") for group in self.param_groups)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group; arguments that it does not name are the optimizer's defaults.

        Raises
        ------
        InputError
            If an argument is outside its range, or does not suit the parameters; the group is not added.
        """
        super().add_param_group(param_group)
        try:
            self._check(self.param_groups[-1])
        except InputError:
            self.param_groups.pop()
            raise

    def _check(self, group: dict[str, Any]) -> None:
        if group.get("fused") and group.get("foreach"):
            raise InputError("fused and foreach cannot both be True: choose one of torch's kernels")
        if isinstance(group["lr"], Tensor) and group["lr"].numel() != 1:
            raise InputError(f"lr has the shape {tuple(group['lr'].shape)}: a tensor for it must hold one number")
        self.check_group(group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read groups that lack some arguments, too: those of an older version, or of one of torch's optimizers."""
        super().__setstate__(state)
        self._marks = {}
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
        for kept in self.state.values():
            if "step" in kept and not isinstance(kept["step"], Tensor):
                kept["step"] = torch.tensor(float(kept["step"]))

    @torch._disable_dynamo
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state: of this optimizer, of torch's own of the same family, or of one of another dtype.

        torch casts everything that it loads to the parameter's dtype. Not so here: the sums from which v̄ is
        computed stay in float64, and the moments of AdaiS in float32 at least.

        Raises
        ------
        InputError
            If an argument that was loaded is outside its range, or does not suit the parameters.
        """
        seen: list[dict[str, Any]] = []  # the state as the user's hooks for loading have changed it
        watch = self.register_load_state_dict_pre_hook(lambda _, given: seen.append(given))
        try:
            super().load_state_dict(state_dict)
        finally:
            watch.remove()
        self._restore(seen[-1])
        for group in self.param_groups:
            self._check(group)

    def _restore(self, state_dict: dict[str, Any]) -> None:
        """Restore the digits of the pieces of state that torch has cast."""
        saved = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        own = chain.from_iterable(group["params"] for group in self.param_groups)
        for name, parameter in zip(saved, own, strict=True):
            kept = state_dict["state"].get(name, {})
            if isinstance(kept.get(SUM), Tensor):
                self.state[parameter][SUM] = kept[SUM].to(parameter.device)
            for key in set(self.wide) & set(kept):
                self.state[parameter][key] = kept[key].to(parameter.device, at_least_float32(parameter))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the loss and its gradients; it runs before the step, and its loss is returned.

        Raises
        ------
        RuntimeError
            If a gradient is sparse or complex; then nothing has changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._check_graph_capture()
        parts = [part for group in self.param_groups for part in self._parts(group)]
        scaling = Scaling.of(self)
        if not scaling.on_host:
            self.update(parts, scaling)
        elif not scaling.found_inf:
            self.update(parts, scaling._replace(found_inf=None))
        else:
            for group in self.param_groups:
                group["decay_rate"] = 0.0
                group.setdefault("effective_lr", math.nan)
        return loss

    def publish(self, group: dict[str, Any], effective_lr: Any, decay_rate: Any) -> None:
        """Write η_eff and R into the parameter group."""
        group["effective_lr"], group["decay_rate"] = effective_lr, decay_rate

    def idle(self) -> list[Part]:
        """The parameters that have no gradient and so skip this step, but have taken a step before."""
        return [
            Part(group, [parameter], [], [self.state[parameter]])
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is None and self.state.get(parameter)
        ]

    def _parts(self, group: dict[str, Any]) -> list[Part]:
        """The parameters of a group that have a gradient, in one part for each device."""
        parts: dict[torch.device, Part] = {}
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is None:
                continue
            if gradient.is_sparse:
                raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")
            if gradient.is_complex():
                raise RuntimeError(f"{type(self).__name__} does not support complex parameters")
            part = parts.get(parameter.device) or parts.setdefault(parameter.device, Part(group, [], [], []))
            part.parameters.append(parameter)
            part.gradients.append(gradient)
            part.states.append(self.state[parameter])
        return list(parts.values())

    def _check_graph_capture(self) -> None:
        """Let torch warn or refuse where a step is captured into a CUDA graph without ``capturable``."""
        for name in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):
            if hasattr(self, name):
                return getattr(self, name)()


def shrink_apart(parts: list[Part]) -> None:
    """θ ← (1 − R)θ, apart from the step. In half precision R becomes what rounding has left of it.

    That is 1 − ‖θ‖/‖θ before‖ over the weights of the group that take the step. Rounding may leave nothing: bfloat16
    has no number between 1 and 1 − 2⁻⁸.
    """
    rounded = [part for part in parts if part.in_half_precision and not is_zero(part.group["decay_rate"])]
    before = [_squared_norms(part) for part in rounded]
    for part in parts:
        shrink(part.parameters, part.group["decay_rate"])
    if not rounded:
        return
    after = [_squared_norms(part) for part in rounded]
    sums = sum_over_shards(before + after, 2 * [part.parameters for part in rounded])
    totals = [(part.group, sums[i].sum(), sums[i + len(rounded)].sum()) for i, part in enumerate(rounded)]
    for group in {id(group): group for group, _, _ in totals}.values():
        old, new = (sum(total[i] for total in totals if total[0] is group) for i in (1, 2))
        group["decay_rate"] = readable(_left(group["decay_rate"], old, new))


def _left(decay_rate: Any, old: Any, new: Any) -> Tensor:
    """What rounding has left of R, from ‖θ‖² before and after; R itself where the weights are zero or not finite."""
    wanted = torch.as_tensor(decay_rate, dtype=old.dtype).to(old.device, non_blocking=True)
    left = 1 - torch.copysign((new / old).sqrt(), 1 - wanted)
    return torch.where(left.isfinite(), left, wanted)


def _squared_norms(part: Part) -> Tensor:
    weights = [local(parameter) for parameter in part.parameters]
    return torch.stack(torch._foreach_norm(weights, 2, dtype=exact(weights[0]))).square()


def is_zero(decay_rate: Any) -> bool:
    """Whether R is the number 0. A tensor is not read."""
    return not isinstance(decay_rate, Tensor) and decay_rate == 0


def shrink(parameters: list[Tensor], decay_rate: Any) -> None:
    """θ ← (1 − R)θ on one device, by a number or a tensor of shape ().

    Examples
    --------
    >>> theta = torch.tensor([4.0, 8.0])
    >>> shrink([theta], 0.25)
    >>> theta
    tensor([3., 6.])
    """
    weights = [local(parameter) for parameter in parameters]
    if is_zero(decay_rate):
        return
    if not isinstance(decay_rate, Tensor):
        torch._foreach_mul_(weights, 1 - decay_rate)
        return
    decay_rate = decay_rate.to(weights[0].device)
    precise = [theta for theta in weights if theta.element_size() >= 4]
    if precise:
        torch._foreach_mul_(precise, 1 - decay_rate)
    for theta in weights:
        if theta.element_size() < 4:  # rounded to half precision, 1 − R would be 1; R itself keeps its digits
            theta.addcmul_(theta, -decay_rate)

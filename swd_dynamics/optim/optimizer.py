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
from swd_dynamics.optim.moments import WEIGHT, kept_dtype
from swd_dynamics.optim.parts import Part, Scaling
from swd_dynamics.optim.second_moment import SUM
from swd_dynamics.tensors.sharding import local


class StableDecayOptimizer(torch.optim.Optimizer, ABC):
    """A torch optimizer whose decay is a multiplication of the weights: θ ← (1 − R)θ − η·(step).

    After each step, every parameter group holds

    * ``group["decay_rate"]``: R, the fraction by which the decay shrank the weights in this step;
    * ``group["effective_lr"]``: η_eff, the distance by which a unit of gradient moves a weight in the end.

    Both are floats where all parameters are on the CPU. Elsewhere they may be tensors of shape (), because
    reading a number would hold up the device. A parameter without gradient skips the step: neither its
    weights nor its state change.

    A new member gives two methods:

    1. ``check_group(group)`` refuses arguments outside their range, and parameters that do not suit the
       arguments, with an :class:`~swd_dynamics.errors.InputError`.
    2. ``update(parts, scaling)`` takes the step, and calls :meth:`publish` once for every group.
    """

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
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
        for kept in self.state.values():
            if "step" in kept and not isinstance(kept["step"], Tensor):
                kept["step"] = torch.tensor(float(kept["step"]))

    @torch._disable_dynamo
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state: of this optimizer, of torch's own of the same family, or of one of another dtype.

        torch casts everything that it loads to the parameter's dtype. Two pieces of state keep their own:
        the sums from which v̄ is computed stay in float64, and the weights of AdaiS's first moment in
        float32 at least.

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
                self.state[parameter][SUM] = kept[SUM].to(parameter.device, copy=True)
            if WEIGHT in kept:
                dtype = kept_dtype(parameter, WEIGHT)
                self.state[parameter][WEIGHT] = kept[WEIGHT].to(parameter.device, dtype, copy=True)

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
        """Let torch warn or refuse where a step is captured into a CUDA graph without ``capturable``.

        A graph can hold every step of an optimizer that has no such argument, as torch's SGD.
        """
        if "capturable" not in self.defaults:
            return
        for name in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):
            if hasattr(self, name):
                return getattr(self, name)()


def readable(value: Any) -> Any:
    """A number if the tensor is on the CPU and the step is not compiled; else the tensor itself.

    Examples
    --------
    >>> readable(torch.tensor(0.5))
    0.5
    """
    if isinstance(value, Tensor) and value.device.type == "cpu" and not torch.compiler.is_compiling():
        return value.item()
    return value


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

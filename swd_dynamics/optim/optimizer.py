"""What all optimizers of this folder share: the interface of a torch optimizer."""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import _device_dtype_check_for_fused

from swd_dynamics.checks import check_one
from swd_dynamics.errors import InputError
from swd_dynamics.optim.layout import why_not_fused
from swd_dynamics.optim.moments import as_count, at_least_float32
from swd_dynamics.optim.parts import Part, Scaling
from swd_dynamics.optim.second_moment import SUM, Marks

# Arguments in the groups of torch's Adam, AdamW and SGD that mean nothing here.
TORCHS_OWN = {"differentiable", "decoupled_weight_decay"}


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
        self._accepted: dict[int, list[Any]] = {}  # the arguments of each group that were checked last
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
        if group.get("differentiable"):
            raise InputError(
                "differentiable=True is not allowed: these steps cannot be differentiated; set it to False"
            )
        for name in self.defaults:
            _check_tensors(name, group[name])
        self.check_group(group)
        for parameter in group["params"] if group.get("fused") else []:
            if reason := why_not_fused(parameter):
                raise InputError(f"fused=True is not allowed here: {reason}; omit fused, or take foreach=True")

    def _check_again(self) -> None:
        """Refuse arguments that were set out of their range since the last step, before anything moves.

        What lies on an accelerator is not read.
        """
        for i, group in enumerate(self.param_groups):
            values = [0.0 if on_accelerator(group[name]) else group[name] for name in self.defaults]
            accepted = self._accepted.get(i, [])
            if len(values) == len(accepted) and all(map(_same, values, accepted)):
                continue
            self._check({**group, **dict(zip(self.defaults, values, strict=True))})
            self._accepted[i] = values

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read groups that lack some arguments, too: those of an older version, or of one of torch's optimizers."""
        super().__setstate__(state)
        self._marks, self._accepted = {}, {}
        self.defaults.pop("differentiable", None)  # torch adds this default
        for group in self.param_groups:
            for name in TORCHS_OWN & set(group):
                if not (name == "differentiable" and group[name]):  # that is refused
                    del group[name]
            for name, value in self.defaults.items():
                group.setdefault(name, value)
            for parameter in group["params"]:
                kept = self.state.get(parameter, {})
                if "step" in kept:
                    kept["step"] = as_count(kept["step"], parameter, group)

    @torch._disable_dynamo  # pyright: ignore[reportPrivateImportUsage]
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state: of this optimizer, of torch's own of the same family, or of one of another dtype.

        torch casts everything that it loads to the parameter's dtype. Not so here: the sums from which v̄ is
        computed stay in float64, and the moments of AdaiS in float32 at least. A warning tells of a λ that a checkpoint
        of torch's optimizer sets, because stable decay multiplies λ by η_eff.

        Raises
        ------
        InputError
            If an argument that was loaded is outside its range, or does not suit the parameters; then the
            optimizer is as it was.
        """
        before = self.state, self.param_groups
        seen: list[dict[str, Any]] = []  # the state as the user's hooks for loading have changed it
        hooks = (
            self.register_load_state_dict_pre_hook(lambda _, given: seen.append(given)),
            self.register_load_state_dict_post_hook(lambda _: self._settle(seen[-1]), prepend=True),
        )
        try:
            super().load_state_dict(state_dict)
        except Exception:
            self.state, self.param_groups = before
            raise
        finally:
            for hook in hooks:
                hook.remove()
        self._tell_of_other_decay(seen[-1]["param_groups"], before[1])

    def _tell_of_other_decay(self, loaded: list[dict[str, Any]], before: list[dict[str, Any]]) -> None:
        """Warn of the first λ that a checkpoint of torch's optimizer has changed."""
        for group, own in zip(loaded, before, strict=True):
            is_torchs = TORCHS_OWN & set(group)  # groups of this package have no such arguments
            if is_torchs and group.get("weight_decay", 0) != own["weight_decay"]:
                warnings.warn(
                    f"the loaded state is of one of torch's optimizers, and has set weight_decay to"
                    f" {group['weight_decay']:g} in place of {own['weight_decay']:g}. {type(self).__name__} multiplies"
                    " λ by η_eff: set weight_decay in param_groups to the λ that you want (equivalent_weight_decay"
                    " translates)",
                    UserWarning,
                    stacklevel=3,
                )
                return

    def _settle(self, state_dict: dict[str, Any]) -> None:
        """Restore the digits of the pieces of state that torch has cast, and refuse arguments out of range."""
        saved = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        own = chain.from_iterable(group["params"] for group in self.param_groups)
        for name, parameter in zip(saved, own, strict=True):
            kept = state_dict["state"].get(name, {})
            if isinstance(kept.get(SUM), Tensor):
                self.state[parameter][SUM] = kept[SUM].to(parameter.device)
            for key in set(self.wide) & set(kept):
                self.state[parameter][key] = kept[key].to(parameter.device, at_least_float32(parameter))
        for group in self.param_groups:
            self._check(group)

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
        if not torch.compiler.is_compiling():
            self._check_again()
        new: list[tuple[Tensor, dict[str, Any]]] = []
        parts = [part for group in self.param_groups for part in self._parts(group, new)]
        scaling = Scaling.of(self)
        if scaling.on_host and scaling.found_inf:
            for group in self.param_groups:
                group["decay_rate"] = 0.0
                group.setdefault("effective_lr", math.nan)
            return loss
        self.update(parts, scaling._replace(found_inf=None) if scaling.on_host else scaling)
        self.state.update((parameter, state) for parameter, state in new if state)
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

    def _parts(self, group: dict[str, Any], new: list[tuple[Tensor, dict[str, Any]]]) -> list[Part]:
        """The parameters of a group that have a gradient, in one part for each device.

        Those without state yet are appended to ``new``, each with the dict that may become its state.
        """
        parts: dict[torch.device, Part] = {}
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is None:
                continue
            if gradient.layout != torch.strided:
                raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")
            if gradient.is_complex():
                raise RuntimeError(f"{type(self).__name__} does not support complex parameters")
            part = parts.get(parameter.device)
            if part is None:
                part = parts[parameter.device] = Part(group, [], [], [])
                if group.get("fused"):
                    _device_dtype_check_for_fused(parameter)
            part.parameters.append(parameter)
            part.gradients.append(gradient)
            state = self.state.get(parameter)
            if state is None:
                new.append((parameter, state := {}))
            part.states.append(state)
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


def _check_tensors(name: str, value: Any) -> None:
    """Refuse lists, and tensors where a step needs Python numbers; lr and weight_decay may be tensors of one number."""
    if name != "betas":
        check_one(name, value)
    for each in value if isinstance(value, tuple | list) else (value,):
        if isinstance(each, Tensor) and name not in ("lr", "weight_decay"):
            raise InputError(
                f"{name} = {value} contains a tensor: give Python numbers; only lr and weight_decay may be one"
            )
        if isinstance(each, Tensor) and each.numel() != 1:
            raise InputError(f"{name} has the shape {tuple(each.shape)}: a tensor for it must hold one number")


def on_accelerator(value: Any) -> bool:
    """Whether reading a value would make the host wait."""
    return isinstance(value, Tensor) and value.device.type != "cpu"


def _same(value: Any, other: Any) -> bool:
    """Whether an argument is what it was; a tensor counts as changed, since its number may be."""
    return not isinstance(value, Tensor) and not isinstance(other, Tensor) and bool(value == other)

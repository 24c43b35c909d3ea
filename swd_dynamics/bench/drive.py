"""A real optimizer driven by gradients that were fixed beforehand, and what it did with them.

No loss is trained: the gradients do not depend on the weights, so that a step shows the optimizer and nothing else.
"""

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import cos, pi
from typing import Any

import numpy as np
import torch
import xarray
from torch import Tensor

from swd_dynamics.errors import InputError
from swd_dynamics.tensors.groups import arguments
from swd_dynamics.tensors.weights import Layout, layout_of

Factory = Callable[[Iterable], torch.optim.Optimizer]
Shape = tuple[int, ...]

LOUDNESS = (1.0, 30.0, 0.01, 3.0, 0.3, 100.0)  # of the gradients, one stretch of steps after another
SPREAD = 1e-5  # of the quietest weight against the loudest: ε shows where gradients are small
HUGE = 1e150  # a weight beyond this has diverged: its square is about to leave the finite numbers
ZEROS = 0.1  # the share of gradients that are 0 exactly, after the first step


@dataclass(frozen=True)
class Scenario:
    """What an optimizer is put through.

    name : str
    shapes : tuple — for each parameter group, the shapes of its tensors
    lr, weight_decay : tuple of float — for each group, a power of 2 that multiplies the optimizer's own
    loudness : float — multiplies all gradients
    scheduled : bool — whether the learning rates change from step to step
    same_tensors : bool — whether gradients are written into the same tensors again, or come in new ones
    """

    name: str
    shapes: tuple[tuple[Shape, ...], ...]
    lr: tuple[float, ...] = (1.0,)
    weight_decay: tuple[float, ...] = (1.0,)
    loudness: float = 1.0
    scheduled: bool = False
    same_tensors: bool = False

    def in_one_group(self) -> "Scenario":
        """The same tensors in one group, for an optimizer that takes no groups."""
        together = (sum(self.shapes, ()),)
        return replace(self, name=f"{self.name}, in one group", shapes=together, lr=(1.0,), weight_decay=(1.0,))

    def schedule(self, step: int) -> float:
        """What the learning rates are multiplied by, in the step that follows ``step`` steps."""
        return 0.6 + 0.4 * cos(2 * pi * step / 13) if self.scheduled else 1.0


SCENARIOS = (
    Scenario("one group", (((4, 3), (5,), ()),)),
    Scenario("two groups on a schedule", (((4, 3),), ((5,), ())), (1.0, 2.0), (1.0, 0.5), 0.01, True, True),
)


def gradient_stream(shapes: Iterable[Shape], steps: int, seed: int = 0, loudness: float = 1.0) -> np.ndarray:
    """Gradients of every kind: loud and quiet, of one sign and of changing sign, with zeros, and a silent tensor.

    Parameters
    ----------
    shapes : iterable of tuple
        Of the tensors, two at least. The second falls silent for a while; the first step has no zeros.

    Returns
    -------
    array, shape (steps, n), float64

    Examples
    --------
    >>> stream = gradient_stream([(2, 2), (3,)], steps=12)
    >>> stream.shape, bool((stream[0] != 0).all()), bool((stream[4:6, 4:] == 0).all())
    ((12, 7), True, True)
    """
    sizes = [int(np.prod(shape)) for shape in shapes]
    n, random = sum(sizes), np.random.default_rng(seed)
    loud = np.array(LOUDNESS)[np.arange(steps) // max(2, steps // len(LOUDNESS)) % len(LOUDNESS)]
    drift, quietness = random.normal(size=n), random.permutation(np.geomspace(SPREAD, 1, n))
    stream = loudness * loud[:, None] * quietness * (random.normal(size=(steps, n)) + drift)
    stream[1:][random.random((steps - 1, n)) < ZEROS] = 0.0
    silent = slice(steps // 3, steps // 3 + min(10, max(1, steps // 6)))
    stream[silent, sizes[0] : sizes[0] + sizes[1]] = 0.0
    return stream


def drive(factory: Factory, scenario: Scenario, steps: int, seed: int = 0) -> xarray.Dataset:
    """Put an optimizer through a scenario, in float64, and record every step.

    Where the factory takes no parameter groups, all tensors are in one.

    Parameters
    ----------
    factory : callable
        Takes parameters, or parameter groups, and returns a torch optimizer over them.
    scenario : Scenario
    steps : int
    seed : int
        Of the first weights and of the gradients.

    Returns
    -------
    xarray.Dataset
        ``theta`` (iterate, weight) and ``gradient`` (step, weight), with the coordinates of a
        :class:`~swd_dynamics.probe.recorder.Probe`'s; ``lr_factor`` (step, weight) and ``weight_decay_factor``
        (weight), what the optimizer's own were multiplied by. In ``attrs``: ``optimizer``, ``scenario``, ``ungrouped``
        (1 if the factory takes no groups), ``raised`` (what a step raised, which ended the run, or nothing),
        ``diverged_at_step`` (−1: never), where it ended, and, as JSON, ``optimizer_arguments`` (those of the first
        group, before the first step) and ``in_lower_precision`` (what the optimizer keeps with fewer digits than the
        weights have, with its type).

    Raises
    ------
    InputError
        If the factory fails, returns no torch optimizer over the tensors it was given, or splits them into groups.

    Examples
    --------
    >>> recording = drive(torch.optim.SGD, SCENARIOS[0], steps=3)
    >>> recording.theta.shape, recording.gradient.shape, recording.attrs["diverged_at_step"]
    ((4, 18), (3, 18), -1)
    """
    made, optimizer = _made(factory, scenario, seed)
    layout, own = layout_of(optimizer), arguments(optimizer.param_groups[0])
    gradients = gradient_stream([tensor.shape for tensor in layout.parameters], steps, seed, made.loudness)
    theta, raised = [layout.flat(layout.parameters)], ""
    try:
        for _ in _steps(optimizer, layout, made, gradients):
            theta.append(layout.flat(layout.parameters))
            if has_diverged(theta[-1]):
                break
    except (Exception, SystemExit) as error:  # whatever a foreign optimizer raises is what happened, no crash of ours
        raised = f"step {len(theta)} raised {type(error).__name__}: {error}"
    return _dataset(layout, made, np.array(theta), gradients).assign_attrs(
        optimizer=type(optimizer).__qualname__,
        scenario=made.name,
        ungrouped=int(len(made.shapes) < len(scenario.shapes)),
        raised=raised,
        diverged_at_step=len(theta) - 1 if has_diverged(theta[-1]) else -1,
        optimizer_arguments=json.dumps(own),
        in_lower_precision=json.dumps(_in_lower_precision(optimizer)),
    )


def has_diverged(theta: np.ndarray) -> bool:
    """Whether a weight is not finite, or so large that its square is not."""
    return not bool((np.abs(theta) < HUGE).all())


def _in_lower_precision(optimizer: torch.optim.Optimizer) -> dict[str, str]:
    """An η in a tensor, and state of the shape of its weights, with fewer digits than float64; and their types."""
    lr = optimizer.param_groups[0].get("lr")
    kept = {"lr": lr} if isinstance(lr, Tensor) else {}
    for tensor, state in optimizer.state.items():
        if isinstance(state, dict) and isinstance(tensor, Tensor) and tensor.ndim:  # a step count has no dimensions
            kept |= {f"state {name!r}": value for name, value in state.items() if _has_shape(value, tensor.shape)}
    short = {name: value for name, value in kept.items() if value.dtype != torch.bool and value.element_size() < 8}
    return {name: str(value.dtype).removeprefix("torch.") for name, value in short.items()}


def _has_shape(value: Any, shape: torch.Size) -> bool:
    return isinstance(value, Tensor) and value.shape == shape


def default_arguments(factory: Factory) -> dict[str, Any]:
    """The arguments of an optimizer's parameter group, its defaults among them.

    Examples
    --------
    >>> default_arguments(torch.optim.SGD)["lr"]
    0.001
    """
    return arguments(_made(factory, SCENARIOS[0], seed=0)[1].param_groups[0])


class SecondGradient(RuntimeError):
    """An optimizer asked for more than one gradient a step, which gradients fixed beforehand cannot give."""


def _steps(optimizer, layout: Layout, scenario: Scenario, gradients: np.ndarray) -> Iterator[None]:
    """Take one step after another; what is handed back is that one was taken."""
    rates = [float(group["lr"]) if _is_number(group.get("lr")) else None for group in optimizer.param_groups]
    needs_closure = _needs_closure(optimizer)
    for k, gradient in enumerate(gradients):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            _set_lr(group, rate, scenario.schedule(k))
        _set_gradients(layout.parameters, gradient, scenario.same_tensors)
        if needs_closure:
            optimizer.step(_one_loss())
        else:
            optimizer.step()
        yield


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)


def _set_lr(group: dict, rate: float | None, factor: float) -> None:
    if rate is None:
        return
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate * factor)
    else:
        group["lr"] = rate * factor


def _set_gradients(tensors: Sequence[Tensor], gradient: np.ndarray, same_tensors: bool) -> None:
    pieces = torch.from_numpy(gradient.copy()).split([tensor.numel() for tensor in tensors])
    for tensor, piece in zip(tensors, pieces, strict=True):
        if same_tensors and tensor.grad is not None:
            tensor.grad.detach().copy_(piece.reshape(tensor.shape))
        else:
            tensor.grad = piece.reshape(tensor.shape).clone()


def _needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    taken = inspect.signature(optimizer.step).parameters.get("closure")
    return taken is not None and taken.default is inspect.Parameter.empty


def _one_loss() -> Callable[[], Tensor]:
    """A closure that can be called once: its gradient is there already."""
    losses = iter([torch.zeros((), dtype=torch.float64)])

    def closure() -> Tensor:
        for loss in losses:
            return loss
        raise SecondGradient("the optimizer asks for more than one gradient a step; the gradients here are fixed")

    return closure


def _made(factory: Factory, scenario: Scenario, seed: int) -> tuple[Scenario, torch.optim.Optimizer]:
    """The optimizer, and what of the scenario it can be put through."""
    if not callable(factory):
        given = f"an {type(factory).__name__}" if hasattr(factory, "param_groups") else repr(factory)
        raise InputError(f"factory = {given} is not callable: give a function of parameters, as torch.optim.SGD is")
    tensors = _tensors(scenario, seed)
    plain = _over(factory, [tensor for group in tensors for tensor in group])
    first = plain.param_groups[0]
    own = {name: float(first[name]) for name in ("lr", "weight_decay") if _is_number(first.get(name))}
    if len(tensors) == 1:
        return _as_far_as(scenario, own), plain
    factors = {"lr": scenario.lr, "weight_decay": scenario.weight_decay}
    groups = [{"params": some} | {name: own[name] * factors[name][i] for name in own} for i, some in enumerate(tensors)]
    try:
        return _as_far_as(scenario, own), _over(factory, groups)
    except InputError:
        return _as_far_as(scenario.in_one_group(), own), plain


def _as_far_as(scenario: Scenario, own: dict[str, float]) -> Scenario:
    """The scenario without what the optimizer's groups have no place for."""
    alike = (1.0,) * len(scenario.shapes)
    without_lr = {} if "lr" in own else {"lr": alike, "scheduled": False}
    return replace(scenario, **without_lr, **({} if "weight_decay" in own else {"weight_decay": alike}))


def _tensors(scenario: Scenario, seed: int) -> list[list[Tensor]]:
    """Weights of order 1, group by group."""
    random = np.random.default_rng([seed, 1])
    return [
        [torch.from_numpy(np.asarray(random.normal(size=shape))).requires_grad_() for shape in group]
        for group in scenario.shapes
    ]


def _over(factory: Factory, given: list) -> torch.optim.Optimizer:
    """The factory's optimizer over the tensors or groups given."""
    groups = [each["params"] for each in given] if isinstance(given[0], dict) else [given]
    try:
        optimizer = factory(given)
    except (Exception, SystemExit) as error:  # a factory may fail in any way
        raise InputError(f"the factory failed to make an optimizer: {type(error).__name__}: {error}") from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(f"the factory must return a torch.optim.Optimizer, not {optimizer!r}")
    wanted, taken = _identities(groups), _identities([group["params"] for group in optimizer.param_groups])
    if sorted(chain(*wanted)) != sorted(chain(*taken)):
        raise InputError("the factory's optimizer does not train the parameters that the factory was given")
    if wanted != taken:
        raise InputError(
            "the factory splits its parameters into groups of its own, or puts them in another order, so that one rule"
            " does not fit them; give a factory that passes them on, as lambda params: AdamW(params, lr=0.01)"
        )
    return optimizer


def _identities(groups: Iterable[Iterable[Tensor]]) -> list[list[int]]:
    return [[*map(id, group)] for group in groups]


def _dataset(layout: Layout, scenario: Scenario, theta: np.ndarray, gradients: np.ndarray) -> xarray.Dataset:
    steps, group = len(theta) - 1, np.repeat(layout.groups, layout.sizes)
    schedule = np.array([scenario.schedule(k) for k in range(steps)])
    return xarray.Dataset(
        {
            "theta": (("iterate", "weight"), theta),
            "gradient": (("step", "weight"), gradients[:steps]),
            "lr_factor": (("step", "weight"), schedule[:, None] * np.array(scenario.lr)[group]),
            "weight_decay_factor": ("weight", np.array(scenario.weight_decay)[group]),
        },
        {"step": np.arange(1, steps + 1), "iterate": np.arange(steps + 1), **layout.coordinates()},
    )

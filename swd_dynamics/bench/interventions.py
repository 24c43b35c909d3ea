"""A test bench for torch optimizers: the same stream of gradients again and again, whatever the weights do.

Nothing is known of the optimizer but that it takes parameters and gradients and that its groups hold ``lr`` and
``weight_decay``, as torch's do.
"""

import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from swd_dynamics.errors import InputError

Shapes = Sequence[tuple[int, ...]]
SHAPES: Sequence[Shapes] = (((6, 4), (8,)), ((6, 4), (4, 2)))  # the second for optimizers that take matrices only

# The course of every run, in steps. Gradients fall to a tenth at DROP, η to a half at HALVED.
DROP, HALVED, END = 240, 480, 640
WINDOW = 120  # before DROP, HALVED and END, in which rates are averaged: whole periods of 2, 3, 4, 5, 6, 8, 10 or 12
STEERED = 60 + 10  # before the end of a window impulses are given: a momentum of .9 spreads them around the middle
PARTS = 16  # of the weights, pushed one after another: few gradients are 0 at a time, so that their norm stays
FOLLOWED = 200  # steps for which an impulse is followed: a momentum of .98 has given off all but 2 % of it by then
STEPS = END + FOLLOWED - STEERED

SCALES = (0.1, 10.0)  # of the gradients, spread evenly in the logarithm over the weights
SEED = 0  # of the stream, and of optimizers that draw random numbers

Action = Callable[[Optimizer, list[Parameter]], None]  # something done to a run before a step


class Course(NamedTuple):
    """The weights of one run, or the difference of two: ``before`` and ``after`` each step, shape (steps, n)."""

    before: NDArray
    after: NDArray

    def minus(self, other: "Course") -> "Course":
        """How far this run is from another, as long as both last."""
        steps = min(len(self.before), len(other.before))
        with np.errstate(all="ignore"):  # of a run that diverged
            return Course(*(mine[:steps] - theirs[:steps] for mine, theirs in zip(self, other, strict=True)))


@dataclass(frozen=True)
class Bench:
    """An optimizer to be made again and again, and what it is driven with.

    factory : callable (parameters, **changed arguments) → Optimizer
    shapes : of the parameters
    lr, decay : float — factors for η and λ as the factory sets them
    """

    factory: Callable[..., Optimizer]
    shapes: Shapes
    lr: float = 1.0
    decay: float = 1.0

    @cached_property
    def sizes(self) -> list[int]:
        """The number of weights of each parameter."""
        return [int(np.prod(shape)) for shape in self.shapes]

    @cached_property
    def stream(self) -> tuple[NDArray, NDArray]:
        """A start and the gradients."""
        return gradient_stream(sum(self.sizes))

    @cached_property
    def stated(self) -> list[dict[str, float]]:
        """η and every λ of each group, as the factory sets them."""
        groups = self.factory(self.parameters(self.stream[0])).param_groups
        if any(group.get("lr", 0.0) is None for group in groups):
            raise InputError(f"lr = None in a group of {_name(self.factory)}: an audit halves lr; make it a number")
        return [
            {key: float(value) for key, value in group.items() if key == "lr" or names_decay(key, value)}
            for group in groups
        ]

    @cached_property
    def stated_of_weights(self) -> tuple[NDArray, NDArray]:
        """η and λ of each weight, by its group; NaN where the group has none."""
        parameters = self.parameters(self.stream[0])
        groups = self.factory(parameters).param_groups
        group_of = {id(parameter): i for i, group in enumerate(groups) for parameter in group["params"]}
        stated = [self.stated[group_of.get(id(parameter), 0)] for parameter in parameters]
        pairs = [(group.get("lr", np.nan), decay_of(group)) for group in stated]
        lr, decay = np.repeat(np.array(pairs), self.sizes, axis=0).T
        return lr, decay

    @property
    def has_decay(self) -> bool:
        """Whether there is a λ other than 0."""
        return any(np.nan_to_num(decay_of(group)) for group in self.stated)

    def times(self, *, lr: float = 1.0, decay: float = 1.0) -> "Bench":
        """The same with η and λ multiplied."""
        return replace(self, lr=lr, decay=decay)

    def parameters(self, theta: NDArray) -> list[Parameter]:
        """θ as parameters of the shapes."""
        parts = torch.from_numpy(theta).split(self.sizes)
        return [Parameter(part.clone().reshape(shape)) for part, shape in zip(parts, self.shapes, strict=True)]

    def build(self, parameters: list[Parameter]) -> Optimizer:
        """The optimizer, its η and λ multiplied: by arguments where the factory takes them, and in its groups."""
        factors = {"lr": self.lr, "weight_decay": self.decay}
        named, first = _named_arguments(self.factory), self.stated[0]
        changed = {name: first[name] * factors[name] for name in factors if name in first and factors[name] != 1}
        optimizer = self.factory(parameters, **{name: value for name, value in changed.items() if name in named})
        for group, stated in zip(optimizer.param_groups, self.stated, strict=True):
            for key, value in stated.items():
                factor = factors["lr" if key == "lr" else "weight_decay"]
                if factor != 1:
                    group[key] = value * factor
        return optimizer

    def run(
        self,
        steps: int = STEPS,
        *,
        move: NDArray | float = 0.0,
        push: Mapping[int, NDArray] | None = None,
        actions: Mapping[int, Action] | None = None,
    ) -> Course:
        """One run: θ moved before the optimizer is made, gradients pushed at steps, and actions before steps."""
        gradients = self.stream[1][:steps].copy()
        for k, impulse in (push or {}).items():
            gradients[k] += impulse
        parameters = self.parameters(self.stream[0] + move)
        parts = torch.from_numpy(gradients).split(self.sizes, dim=1)
        pulls = [part.reshape(steps, *shape).unbind() for part, shape in zip(parts, self.shapes, strict=True)]
        name = _name(self.factory)
        with same_random_numbers():
            with _told(f"{name} cannot be made from parameters alone"):
                optimizer = self.build(parameters)
            return _drive(name, optimizer, parameters, pulls, {HALVED: halve_lr, **(actions or {})})

    def without_decay(self, optimizer: Optimizer, _: list[Parameter]) -> None:
        """Action: every λ to 0."""
        for group, stated in zip(optimizer.param_groups, self.stated, strict=True):
            group.update(dict.fromkeys(stated.keys() - {"lr"}, 0.0))


def bench_for(factory: Callable[..., Optimizer]) -> Bench:
    """A bench with the first shapes of parameters that the optimizer can be made with and takes two steps on.

    Raises
    ------
    InputError
        If there are none, or the factory is no function.
    """
    if not callable(factory):
        raise InputError(
            f"an audit makes the optimizer itself: give a class or a function of the parameters, as"
            f" functools.partial(torch.optim.SGD, lr=0.1), not a finished {type(factory).__name__}"
        )
    reasons = []
    for shapes in SHAPES:
        bench = Bench(factory, shapes)
        try:
            bench.run(2)
        except InputError as error:
            reasons.append(error)
        else:
            return bench
    raise reasons[0]


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Errors of a third party's code, whatever they are, as InputError."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{what}: {type(error).__name__}: {' '.join(str(error).split())}") from error


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """The same random numbers for all runs, of torch, numpy and Python; the caller's own go on afterwards."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (what third parties draw from)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        random.seed(SEED)
        np.random.seed(SEED)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def one_thread() -> None:
    """Let torch use one thread in this process: on a bench a second one waits more than it works."""
    torch.set_num_threads(1)


def gradient_scales(n: int) -> NDArray:
    """The scale of each weight's gradients, spread evenly in the logarithm and shuffled."""
    return np.random.default_rng(SEED).permutation(np.geomspace(*SCALES, n))


def impulses(n: int) -> dict[int, NDArray]:
    """Step and scale: at PARTS steps of each window, each for another part of the weights."""
    part, scales = np.arange(n) % PARTS, gradient_scales(n)
    falls = {DROP: 1.0, HALVED: 0.1, END: 0.1}
    return {end - STEERED + i: fall * scales * (part == i) for end, fall in falls.items() for i in range(PARTS)}


def gradient_stream(n: int) -> tuple[NDArray, NDArray]:
    """A start, shape (n,), |θ| from .1 to .3, and gradients, shape (STEPS, n), of mean 0, and 0 where impulses are."""
    generator = np.random.default_rng(SEED + 2)
    theta = generator.uniform(0.1, 0.3, n) * generator.choice([-1.0, 1.0], n)
    gradients = generator.standard_normal((STEPS, n)) * gradient_scales(n)
    gradients[DROP:] /= 10
    for k, impulse in impulses(n).items():
        gradients[k, impulse != 0] = 0.0
    return theta, gradients


def names_decay(name: str, value: Any) -> bool:
    """Whether an entry of a parameter group is a strength of weight decay, as libraries call it.

    Examples
    --------
    >>> names_decay("weight_decay", 0.1), names_decay("adamw_wd", 0.1), names_decay("weight_decouple", True)
    (True, True, False)
    """
    number = isinstance(value, int | float | Tensor) and not isinstance(value, bool)
    return number and (name.startswith("weight_decay") or name == "wd" or name.endswith("_wd"))


def decay_of(stated: Mapping[str, float]) -> float:
    """λ of a group: the first that is not 0, if there is one, and NaN if it has none."""
    decays = [value for key, value in stated.items() if key != "lr"]
    return next(filter(None, decays), decays[0] if decays else np.nan)


def halve_lr(optimizer: Optimizer, _: list[Parameter]) -> None:
    """Action: η to a half, in the groups, as a scheduler does."""
    for group in optimizer.param_groups:
        if "lr" in group:
            group["lr"] = group["lr"] / 2


def moved_by(change: list[Parameter]) -> Action:
    """Action: the weights moved by so much."""

    @torch.no_grad()
    def act(_, parameters: list[Parameter]) -> None:
        for parameter, part in zip(parameters, change, strict=True):
            parameter.add_(part)

    return act


def multiplied_by(factors: list[Parameter]) -> Action:
    """Action: every weight times its factor."""

    @torch.no_grad()
    def act(_, parameters: list[Parameter]) -> None:
        for parameter, factor in zip(parameters, factors, strict=True):
            parameter.mul_(factor)

    return act


def coarse_state(optimizer: Optimizer, parameters: list[Parameter]) -> set[str]:
    """The types of what it remembers of each weight that hold fewer digits than the weight."""
    found = set()
    for parameter in parameters:
        kept = optimizer.state.get(parameter, {})
        for value in kept.values() if isinstance(kept, Mapping) else ():
            if isinstance(value, Tensor) and value.numel() == parameter.numel() and _is_coarse(value, parameter):
                found.add(str(value.dtype).removeprefix("torch."))
    return found


def _is_coarse(kept: Tensor, parameter: Parameter) -> bool:
    if kept.is_floating_point():
        return kept.element_size() < parameter.element_size()
    return kept.dtype in (torch.int8, torch.uint8)


def _drive(name: str, optimizer: Optimizer, parameters, pulls, actions: Mapping[int, Action]) -> Course:
    before, after = [], []
    for k, gradients in enumerate(zip(*pulls, strict=True)):
        if k in actions:
            actions[k](optimizer, parameters)
        before.append(after[-1] if after and k not in actions else _flat(parameters))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        with _told(f"{name} fails at step {k + 1}" if k else f"{name} takes no step with gradients alone"):
            optimizer.step()
        after.append(_flat(parameters))
    return Course(np.array(before), np.array(after))


def _flat(parameters: list[Parameter]) -> NDArray:
    return torch.cat([parameter.detach().reshape(-1) for parameter in parameters]).numpy()


def _name(factory: Callable) -> str:
    return getattr(getattr(factory, "func", factory), "__name__", repr(factory))


def _named_arguments(factory: Callable) -> set[str]:
    try:
        return set(inspect.signature(factory).parameters)
    except (TypeError, ValueError):
        return set()

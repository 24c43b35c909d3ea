"""Interventions on a driven optimizer: repeated runs that differ in η, λ, the start, a gradient or the weights.

Nothing is assumed of the optimizer, except that it takes parameters and gradients, and that its parameter groups hold
``lr`` and ``weight_decay`` as torch's do.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from swd_dynamics.bench.drive import (
    Action,
    Factory,
    Shape,
    drive,
    make,
    parameters_of,
    same_random_numbers,
    sizes_of,
)
from swd_dynamics.bench.settings import decay_of, numbers_of
from swd_dynamics.bench.streams import HALVED, steady_gradients
from swd_dynamics.errors import InputError

MIXED: Sequence[Shape] = ((6, 4), (8,))
MATRICES: Sequence[Shape] = ((6, 4), (4, 2))  # for optimizers that take nothing but matrices


@dataclass(frozen=True)
class Given:
    """What an optimizer is made from.

    shapes : of the parameters
    grouped : bool
        Whether matrices and vectors come in groups of their own, with an entry ``use_muon`` that is true for matrices.
    dtype : of the parameters and their gradients
    """

    shapes: Sequence[Shape]
    grouped: bool = False
    dtype: torch.dtype = torch.float64

    def to_optimizer(self, parameters: list[Parameter]) -> list[Any]:
        """The parameters as a list, or as a list of parameter groups.

        Examples
        --------
        >>> weights = [Parameter(torch.ones(shape)) for shape in MIXED]
        >>> [group["use_muon"] for group in Given(MIXED, grouped=True).to_optimizer(weights)]
        [True, False]
        """
        if not self.grouped:
            return parameters
        parts = [[p for p in parameters if (p.ndim > 1) is is_matrix] for is_matrix in (True, False)]
        return [{"params": part, "use_muon": is_matrix} for part, is_matrix in zip(parts, (True, False), strict=True)]

    @property
    def words(self) -> str:
        """What is unusual about it; nothing of a matrix and a vector in a list, in float64.

        Examples
        --------
        >>> Given(MATRICES, dtype=torch.float32).words
        'matrices alone in float32'
        """
        said = "matrices alone" if self.shapes == MATRICES else ""
        if self.grouped:
            said = "parameter groups with use_muon=True for a matrix and False for a vector"
        if self.dtype is torch.float64:
            return said
        return f"{said or 'parameters'} in {str(self.dtype).removeprefix('torch.')}"


# In the order in which they are tried. An optimizer that takes the first gets the first.
FORMS = tuple(
    Given(shapes, grouped, dtype)
    for dtype in (torch.float64, torch.float32)
    for shapes, grouped in ((MIXED, False), (MATRICES, False), (MIXED, True))
)


class Track(NamedTuple):
    """The weights of one run ``before`` and ``after`` each step, or the difference of two runs; shape (steps, n)."""

    before: NDArray
    after: NDArray

    def minus(self, other: "Track") -> "Track":
        """The difference to another run, over the steps that both runs have."""
        steps = min(len(self.before), len(other.before))
        with np.errstate(all="ignore"):  # of a run that diverged
            return Track(*(mine[:steps] - theirs[:steps] for mine, theirs in zip(self, other, strict=True)))


@dataclass(frozen=True)
class Bench:
    """A factory whose optimizer is made again for each run, and the numbers that its parameter groups state.

    factory : callable (parameters, **changed arguments) → Optimizer
    given : what the factory is given
    stated : for each group, η and every λ as the factory sets them
    group_of : the group of each parameter
    lr, decay : float — factors of η and λ
    pace : int — multiplies all numbers of steps
    """

    factory: Factory
    given: Given
    stated: Sequence[Mapping[str, float]]
    group_of: Sequence[int]
    lr: float = 1.0
    decay: float = 1.0
    pace: int = 1

    @property
    def shapes(self) -> Sequence[Shape]:
        """The shapes of the parameters."""
        return self.given.shapes

    @cached_property
    def sizes(self) -> list[int]:
        """The number of weights of each parameter."""
        return sizes_of(self.shapes)

    @cached_property
    def stream(self) -> tuple[NDArray, NDArray]:
        """The start and the gradients of every run."""
        return steady_gradients(sum(self.sizes), self.pace)

    @property
    def stated_of_weights(self) -> tuple[NDArray, NDArray]:
        """η and λ of each weight's group, each of shape (n,); NaN where the group has none."""
        pairs = np.array([(group.get("lr", np.nan), decay_of(group)) for group in self.stated])
        lr, decay = pairs[np.repeat(self.group_of, self.sizes)].T
        return lr, decay

    @property
    def has_decay(self) -> bool:
        """Whether there is a λ other than 0."""
        return any(np.nan_to_num(decay_of(group)) for group in self.stated)

    def groups(self) -> Sequence[Mapping[str, Any]]:
        """The parameter groups of the optimizer, with all of its arguments."""
        with same_random_numbers():
            return self.build(parameters_of(self.stream[0], self.shapes, self.given.dtype)).param_groups

    def times(self, *, lr: float = 1.0, decay: float = 1.0) -> "Bench":
        """The same bench with η and λ multiplied."""
        return replace(self, lr=lr, decay=decay)

    def build(self, parameters: list[Parameter]) -> Optimizer:
        """The optimizer with η and λ multiplied: by arguments that the factory takes, and in the parameter groups."""
        arguments = _named_arguments(self.factory) & {"lr", "weight_decay"}
        first = self._changed(self.stated[0])
        named = {name: first[name] for name in first if name in arguments}
        optimizer = make(self.factory, self.given.to_optimizer(parameters), **named)
        for group, numbers in zip(optimizer.param_groups, self.stated, strict=True):
            group.update(self._changed(numbers))
        if callable(train := getattr(optimizer, "train", None)):  # schedule-free optimizers must be told
            train()
        return optimizer

    def _changed(self, numbers: Mapping[str, float]) -> dict[str, float]:
        factors = {name: self.lr if name == "lr" else self.decay for name in numbers}
        return {name: numbers[name] * factors[name] for name in numbers if factors[name] != 1}

    def run(
        self,
        steps: int | None = None,
        *,
        move: NDArray | float = 0.0,
        push: Mapping[int, NDArray] | None = None,
        actions: Mapping[int, Action] | None = None,
    ) -> Track:
        """One run.

        steps : all of the stream, or fewer
        move : added to θ before the optimizer is made
        push : for some steps, what is added to the gradient
        actions : done before some steps; without an action of its own, η is halved before step pace·HALVED
        """
        theta, gradients = self.stream
        gradients = gradients[:steps].copy()
        for k, impulse in (push or {}).items():
            gradients[k] += impulse
        parameters = parameters_of(theta + move, self.shapes, self.given.dtype)
        action_before = {self.pace * HALVED: halve_lr, **(actions or {})}.get
        with same_random_numbers():
            optimizer = self.build(parameters)
            before, after = zip(*drive(optimizer, parameters, gradients, action_before), strict=True)
        return Track(np.array(before), np.array(after))

    def without_decay(self, optimizer: Optimizer, _: Sequence[Parameter]) -> None:
        """Action: set every λ to 0."""
        for group, numbers in zip(optimizer.param_groups, self.stated, strict=True):
            group.update(dict.fromkeys(numbers.keys() - {"lr"}, 0.0))


def bench_for(factory: Factory, pace: int = 1) -> Bench:
    """A bench with the first of FORMS with which the optimizer can be made and takes two steps.

    All forms but the first must also move a weight. The forms are a matrix and a vector, matrices alone, and a group of
    matrices and a group of vectors with an entry ``use_muon``; in float64, and if none of them will do, in float32.

    Raises
    ------
    InputError
        If the optimizer takes no steps with any, has lr = None, or the factory is not a function. The reason is that of
        the first form with which the optimizer can be made, or else of the first form.
    """
    made: list[InputError] = []
    unmade: list[InputError] = []
    for given in FORMS:
        reasons = unmade
        try:
            bench = replace(_bench(factory, given), pace=pace)
            reasons = made
            run = bench.run(2)
            if given is FORMS[0] or not np.array_equal(run.before[0], run.after[-1]):
                return bench
        except InputError as error:
            reasons.append(error)
    raise next(iter(made + unmade))


def _bench(factory: Factory, given: Given) -> Bench:
    parameters = parameters_of(np.ones(sum(sizes_of(given.shapes))), given.shapes, given.dtype)
    with same_random_numbers():
        groups = make(factory, given.to_optimizer(parameters)).param_groups
    if any(group.get("lr", 0.0) is None for group in groups):
        raise InputError("lr = None in a parameter group: an audit halves lr; make it a number")
    group_of = {id(parameter): i for i, group in enumerate(groups) for parameter in group["params"]}
    of_parameters = [group_of.get(id(parameter), 0) for parameter in parameters]
    return Bench(factory, given, [numbers_of(group) for group in groups], of_parameters)


def _named_arguments(factory: Factory) -> set[str]:
    """The arguments that a factory takes by name, with those that a partial hands on as ``**settings``."""
    bound = set(factory.keywords) if isinstance(factory, partial) else set()
    try:
        return bound | set(inspect.signature(factory).parameters)
    except (TypeError, ValueError):
        return bound


def lr_set_to(lrs: Sequence[float | None]) -> Action:
    """Action: set η of each group, in a tensor of the same type where it is a tensor. None changes nothing."""

    def act(optimizer: Optimizer, _) -> None:
        for group, lr in zip(optimizer.param_groups, lrs, strict=True):
            if lr is not None:
                old = group["lr"]
                group["lr"] = torch.full_like(old, lr) if isinstance(old, Tensor) else lr

    return act


def halve_lr(optimizer: Optimizer, _) -> None:
    """Action: halve η in the groups, as a scheduler does."""
    for group in optimizer.param_groups:
        if "lr" in group:
            group["lr"] = group["lr"] / 2


def moved_by(change: Sequence[Tensor]) -> Action:
    """Action: add a change to the weights, given as one tensor for each parameter."""

    @torch.no_grad()
    def act(_, parameters: Sequence[Parameter]) -> None:
        for parameter, part in zip(parameters, change, strict=True):
            parameter.add_(part)

    return act


def set_to(theta: Sequence[Tensor]) -> Action:
    """Action: set the weights, given as one tensor for each parameter."""

    @torch.no_grad()
    def act(_, parameters: Sequence[Parameter]) -> None:
        for parameter, value in zip(parameters, theta, strict=True):
            parameter.copy_(value)

    return act


def multiplied_by(factors: Sequence[Tensor]) -> Action:
    """Action: multiply every weight by its factor, given as one tensor for each parameter."""

    @torch.no_grad()
    def act(_, parameters: Sequence[Parameter]) -> None:
        for parameter, factor in zip(parameters, factors, strict=True):
            parameter.mul_(factor)

    return act


def shrunk_where_smaller(rates: Sequence[Tensor], late: bool) -> Action:
    """Action before each step and after the last: cautious decay of the step just taken, by hand.

    Let θ′ be the weights after that step and u = θ − θ′. Where θ·u ≥ 0, Rθ is subtracted. θ is the weight before the
    step, or after the step if ``late``. At its first call the action only looks at the weights.

    Examples
    --------
    >>> weight = Parameter(torch.tensor([4.0, 4.0]))
    >>> decay = shrunk_where_smaller([torch.tensor([0.25, 0.25])], late=False)
    >>> decay(None, [weight])
    >>> weight.data = torch.tensor([3.0, 5.0])  # a step makes the first weight smaller
    >>> decay(None, [weight])
    >>> weight.tolist()
    [2.0, 5.0]
    """
    kept: list[Tensor] = []

    @torch.no_grad()
    def act(_, parameters: Sequence[Parameter]) -> None:
        for parameter, before, rate in zip(parameters, kept, rates, strict=False):
            theta = parameter.clone() if late else before
            parameter.sub_(rate * theta * (theta * (before - parameter) >= 0))
        kept[:] = [parameter.detach().clone() for parameter in parameters]

    return act

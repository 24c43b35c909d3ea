"""What an optimizer is put through when its steps are compared with a rule, and the recording of what it did."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import accumulate, chain, pairwise
from math import cos, pi, prod
from typing import Any

import numpy as np
import torch
import xarray
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from swd_dynamics.bench.drive import (
    Factory,
    ForeignError,
    Shape,
    drive,
    make,
    parameters_of,
    same_random_numbers,
    sizes_of,
    weights_of,
)
from swd_dynamics.bench.interventions import lr_set_to
from swd_dynamics.bench.settings import coarse_state, is_coarse, numbers_of, type_of
from swd_dynamics.bench.streams import LARGE_SIZES, NEGLIGIBLE, SIZES, SMALLEST, varied_gradients
from swd_dynamics.errors import InputError
from swd_dynamics.tensors.groups import arguments
from swd_dynamics.tensors.weights import layout_of

HUGE = 1e150  # a weight beyond this has diverged: its square is close to 1e308, the largest finite number


@dataclass(frozen=True)
class Scenario:
    """Tensors, parameter groups and gradients that an optimizer is driven with.

    Attributes
    ----------
    name : str
        What the scenario does, in words that can follow "with".
    shapes : tuple — for each parameter group, the shapes of its tensors
    lr, weight_decay : tuple of float — for each group, a power of 2 that multiplies the optimizer's own number
    scale : float — multiplies all gradients
    start : float — multiplies the first weights, which are of order 1
    sizes, smallest : of the gradients, see :func:`~swd_dynamics.bench.streams.varied_gradients`
    scheduled : bool — whether the learning rates change from step to step
    same_tensors : bool — whether gradients are written into the same tensors again, or come in new tensors
    """

    name: str
    shapes: tuple[tuple[Shape, ...], ...]
    lr: tuple[float, ...] = (1.0,)
    weight_decay: tuple[float, ...] = (1.0,)
    scale: float = 1.0
    scheduled: bool = False
    same_tensors: bool = False
    start: float = 1.0
    sizes: tuple[float, ...] = SIZES
    smallest: float = SMALLEST

    @property
    def all_shapes(self) -> tuple[Shape, ...]:
        """The shapes of the tensors of all groups."""
        return sum(self.shapes, ())

    def in_one_group(self) -> "Scenario":
        """The same tensors in one group, for an optimizer that takes no groups."""
        name = f"{self.name}, but all tensors in one group"
        return replace(self, name=name, shapes=(self.all_shapes,), lr=(1.0,), weight_decay=(1.0,))

    def of_matrices(self) -> "Scenario":
        """The same weights in matrices, for an optimizer that takes nothing else."""
        shapes = tuple(tuple(map(_matrix, group)) for group in self.shapes)
        return replace(self, name=f"{self.name}, all in matrices", shapes=shapes)

    def without_empty_tensors(self) -> "Scenario":
        """The same scenario for an optimizer that cannot take a tensor without weights."""
        shapes = tuple(tuple(shape for shape in group if 0 not in shape) for group in self.shapes)
        return replace(self, name=f"{self.name}, no tensor empty", shapes=shapes)

    def gradients(self, steps: int, seed: int) -> NDArray:
        """The gradients of all weights, shape (steps, n)."""
        return varied_gradients(self.all_shapes, steps, seed, self.scale, self.sizes, self.smallest)

    def schedule(self, k: int) -> float:
        """The factor of the learning rates in the step that follows ``k`` steps."""
        return 0.6 + 0.4 * cos(2 * pi * k / 13) if self.scheduled else 1.0


def _matrix(shape: Shape) -> Shape:
    """The shape of a matrix with as many weights: one column for a vector, else as many as the last dimension has."""
    return (prod(shape[:-1]), shape[-1]) if len(shape) > 1 else (prod(shape), 1)


SCENARIOS = (
    Scenario("one parameter group at constant η", (((4, 3), (5,), ()),)),
    Scenario(
        "two parameter groups with η on a schedule",
        (((4, 3),), ((5,), ())),
        (1.0, 2.0),
        (1.0, 0.5),
        scale=0.01,
        scheduled=True,
        same_tensors=True,
    ),
)
# Weights beyond any clamp or norm that a library sets, gradients beyond any clipping, and other shapes of tensors.
LARGE = Scenario(
    "large weights and gradients in tensors of 0 to 4 dimensions",
    (((2, 3, 2), (5,), (0,)), ((2, 2, 1, 2), ())),
    (1.0, 1.0),
    (1.0, 1.0),
    start=100.0,
    sizes=LARGE_SIZES,
    smallest=NEGLIGIBLE,
)

# For types with few digits: weights so small that steps are not lost to rounding, and gradients whose squares float16
# can hold. With gradients a hundred times as small, Adam's v would be 0 there.
MODERATE = tuple(replace(each, start=0.1, scale=1.0, sizes=(1.0, 10.0, 0.3, 3.0), smallest=0.1) for each in SCENARIOS)


def run_scenario(
    factory: Factory, scenario: Scenario, steps: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> xarray.Dataset:
    """Put an optimizer through a scenario, in float64, and record every step.

    If the factory takes no parameter groups, all tensors are in one group. If it takes matrices only, all tensors are
    matrices.

    Parameters
    ----------
    factory : callable
        Takes parameters, or parameter groups, and returns a torch optimizer over them.
    scenario : Scenario
    steps : int
    seed : int
        Seed of the first weights and of the gradients.
    dtype : torch.dtype
        Of the weights and the gradients. In another type than float64 the optimizer's state is recorded too.

    Returns
    -------
    xarray.Dataset
        ``theta`` (iterate, weight) and ``gradient`` (step, weight), with the coordinates of a recorded run;
        ``lr_factor`` (step, weight) and ``weight_decay_factor`` (weight), which multiply the optimizer's own numbers;
        ``weight_dimensions`` (weight), how many dimensions the tensor of a weight has; ``state_…`` (step, weight), if
        it is recorded.
        In ``attrs``: ``optimizer``, ``scenario``, ``dimensions`` (of the tensor that has the
        most), ``ungrouped`` (1 if the factory takes no groups), ``matrices`` (1 if it takes
        matrices only), ``parameter_shapes`` (JSON), ``raised`` (the
        error that ended the run, or nothing), ``diverged_at_step`` (−1: never), where the run ended; as JSON
        ``optimizer_arguments`` (a list over the groups, before the first step) and ``in_lower_precision`` (η and
        state that the optimizer keeps with fewer digits than the weights have, and their types).

    Raises
    ------
    InputError
        If the factory fails, returns no torch optimizer over the tensors it was given, or splits them into groups.

    Examples
    --------
    >>> import torch
    >>> recording = run_scenario(torch.optim.SGD, SCENARIOS[0], steps=3)
    >>> recording.theta.shape, recording.gradient.shape, recording.attrs["diverged_at_step"]
    ((4, 18), (3, 18), -1)
    """
    asked, scenario = scenario, _with_possible_shapes(factory, scenario)
    parameters = _parameters(scenario, seed, dtype)
    gradients = torch.from_numpy(scenario.gradients(steps, seed)).to(dtype).double().numpy()
    states: list[dict[str, NDArray]] = []
    with same_random_numbers():
        possible, optimizer = _prepared(factory, scenario, parameters)
        theta, raised = [weights_of(parameters)], ""
        own = [arguments(group) for group in optimizer.param_groups]
        lrs = [numbers_of(group).get("lr") for group in optimizer.param_groups]

        def scheduled(k: int):
            factor = possible.schedule(k)
            return lr_set_to([None if lr is None else lr * factor for lr in lrs])

        options = {"same_tensors": scenario.same_tensors, "closures": True}
        try:
            for _, after in drive(optimizer, parameters, gradients, scheduled, **options):
                theta.append(after)
                states += [] if dtype is torch.float64 else [_state(optimizer, parameters)]
                if has_diverged(after):
                    break
        except ForeignError as error:  # an error of the optimizer ends the run: it is a result
            raised = str(error)
    recording = _dataset(optimizer, possible, np.array(theta), gradients).assign(_states(states))
    return recording.assign_attrs(
        optimizer=type(optimizer).__qualname__,
        scenario=possible.name,
        dimensions=max(parameter.ndim for parameter in parameters),
        ungrouped=int(len(possible.shapes) < len(scenario.shapes)),
        matrices=int(scenario != asked),
        parameter_shapes=json.dumps(scenario.all_shapes),
        raised=raised,
        diverged_at_step=len(theta) - 1 if has_diverged(theta[-1]) else -1,
        optimizer_arguments=json.dumps(own),
        in_lower_precision=json.dumps(_in_lower_precision(optimizer, parameters)),
    )


def default_arguments(factory: Factory) -> dict[str, Any]:
    """The arguments of the first parameter group of a factory's optimizer, its defaults among them.

    Examples
    --------
    >>> import torch
    >>> default_arguments(torch.optim.SGD)["lr"]
    0.001
    """
    scenario = _with_possible_shapes(factory, SCENARIOS[0])
    return arguments(make(factory, _parameters(scenario, seed=0)).param_groups[0])


def has_diverged(theta: NDArray) -> bool:
    """Whether a weight is not finite, or so large that its square is not finite."""
    return not bool((np.abs(theta) < HUGE).all())


def _with_possible_shapes(factory: Factory, scenario: Scenario) -> Scenario:
    """The scenario; in matrices if only so the optimizer can be made."""
    with same_random_numbers():
        try:
            make(factory, _parameters(scenario, seed=0))
        except ForeignError as error:
            try:
                make(factory, _parameters(scenario.of_matrices(), seed=0))
            except ForeignError:
                raise error from error.__cause__  # which is in the user's code
            return scenario.of_matrices()
    return scenario


def _state(optimizer: Optimizer, parameters: list[Parameter]) -> dict[str, NDArray]:
    """The state that an optimizer keeps for each weight of all parameters, each of shape (n,)."""
    of_each = [optimizer.state.get(parameter, {}) for parameter in parameters]
    pairs = [*zip(of_each, parameters, strict=True)]

    def is_kept(name: str) -> bool:
        return all(isinstance(state.get(name), Tensor) and state[name].shape == p.shape for state, p in pairs)

    names = [name for name in of_each[0] if name != "step" and is_kept(name)]
    return {name: weights_of([state[name] for state in of_each]) for name in names}


def _states(states: list[dict[str, NDArray]]) -> dict[str, Any]:
    """The variables ``state_…`` of what is kept after every step."""
    names = set(states[0]).intersection(*states[1:]) if states else set()
    return {f"state_{name}": (("step", "weight"), np.array([state[name] for state in states])) for name in names}


def _parameters(scenario: Scenario, seed: int, dtype: torch.dtype = torch.float64) -> list[Parameter]:
    """Weights of order ``scenario.start``."""
    shapes = scenario.all_shapes
    start = scenario.start * np.random.default_rng([seed, 1]).normal(size=sum(sizes_of(shapes)))
    return parameters_of(start, shapes, dtype)


def _prepared(factory: Factory, scenario: Scenario, parameters: list[Parameter]) -> tuple[Scenario, Optimizer]:
    """The optimizer, and the scenario without what the optimizer has no place for: groups, η or λ."""
    plain = _over(factory, [parameters], parameters)
    own = numbers_of(plain.param_groups[0])
    ends = [0, *accumulate(map(len, scenario.shapes))]
    tensors = [parameters[start:end] for start, end in pairwise(ends)]
    factors = {"lr": scenario.lr, "weight_decay": scenario.weight_decay}
    groups = [
        {"params": some} | {name: own[name] * factors[name][i] for name in factors if name in own}
        for i, some in enumerate(tensors)
    ]
    try:
        optimizer = plain if len(groups) == 1 else _over(factory, tensors, groups)
    except InputError:
        scenario, optimizer = scenario.in_one_group(), plain
    alike = (1.0,) * len(scenario.shapes)
    if "lr" not in own:
        scenario = replace(scenario, lr=alike, scheduled=False)
    return scenario if "weight_decay" in own else replace(scenario, weight_decay=alike), optimizer


def _over(factory: Factory, tensors: list[list[Parameter]], given: list) -> Optimizer:
    """The factory's optimizer over these groups of tensors, in this order."""
    optimizer = make(factory, given)
    wanted = _identities(tensors)
    taken = _identities(group["params"] for group in optimizer.param_groups)
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


def _in_lower_precision(optimizer: Optimizer, parameters: list[Parameter]) -> dict[str, str]:
    lr = optimizer.param_groups[0].get("lr")
    found = {"lr": type_of(lr)} if isinstance(lr, Tensor) and is_coarse(lr, parameters[0]) else {}
    state = coarse_state(optimizer, parameters)
    return found | {f"state {name!r}": kind for name, kind in state.items()}


def _dataset(optimizer: Optimizer, scenario: Scenario, theta: NDArray, gradients: NDArray) -> xarray.Dataset:
    layout, steps = layout_of(optimizer), len(theta) - 1
    group = np.repeat(layout.groups, layout.sizes)
    schedule = np.array([scenario.schedule(k) for k in range(steps)])
    return xarray.Dataset(
        {
            "theta": (("iterate", "weight"), theta),
            "gradient": (("step", "weight"), gradients[:steps]),
            "lr_factor": (("step", "weight"), schedule[:, None] * np.array(scenario.lr)[group]),
            "weight_decay_factor": ("weight", np.array(scenario.weight_decay)[group]),
            "weight_dimensions": ("weight", np.repeat([len(shape) for shape in scenario.all_shapes], layout.sizes)),
        },
        {"step": np.arange(1, steps + 1), "iterate": np.arange(steps + 1), **layout.coordinates()},
    )

"""Numbers of the parameter groups that an optimizer adapts by itself, and whether its weight decay follows them."""

from itertools import product

import numpy as np
from numpy.typing import NDArray

from swd_dynamics.bench.drive import Action, parameters_of
from swd_dynamics.bench.interventions import Bench, Track, moved_by, multiplied_by
from swd_dynamics.bench.settings import names_decay, real_number

ALIKE = 0.01  # relative difference of a number and R/ηλ, which is measured with the round-off of a small R


def adapted_numbers(bench: Bench, steps: int, factor: float) -> dict[str, NDArray]:
    """The real numbers of the first group, except η and λ, that change in a run: before each step, shape (steps,).

    A number that does not change is among them if it is ``factor``, the R/ηλ of the first step, and not 1.
    """
    seen: list[dict[str, float]] = []

    def look(optimizer, _) -> None:
        group = optimizer.param_groups[0]
        named = {name: real_number(group[name]) for name in group if name != "lr" and not names_decay(name)}
        seen.append({name: value for name, value in named.items() if value is not None})

    bench.run(steps, actions=dict.fromkeys(range(steps), look))
    names = set(seen[0]).intersection(*seen)
    courses = {name: np.array([numbers[name] for numbers in seen]) for name in sorted(names)}
    is_factor = abs(factor - 1) > ALIKE
    return {
        name: course
        for name, course in courses.items()
        if np.ptp(course) > 0 or (is_factor and abs(course[0] - factor) <= ALIKE * abs(factor))
    }


def shrunk_by_number(bench: Bench, base: Track, rates: NDArray, course: NDArray) -> NDArray:
    """The largest distance of each weight from ``base`` if R is ``rates`` times a number, shape (n,).

    After each step Rθ is subtracted, with θ before or after the step, and the number before or after the step: the
    best of the four. Nothing is changed before a step, because the numbers may depend on the weights.
    """
    found = []
    for theta, late in product((base.before, None), (0, 1)):
        decay_rates = np.outer(course[late : len(course) - 1 + late], rates)
        found.append(_distance(bench, base, decay_rates, theta))
    return min(found, key=lambda distance: float(np.max(distance)))


def _distance(bench: Bench, base: Track, decay_rates: NDArray, theta: NDArray | None) -> NDArray:
    actions: dict[int, Action] = {}
    for k, rate in enumerate(decay_rates):
        if theta is None:
            actions[k + 1] = multiplied_by(parameters_of(1 - rate, bench.shapes))
        else:
            actions[k + 1] = moved_by(parameters_of(-rate * theta[k], bench.shapes))
    run = bench.run(len(decay_rates) + 1, actions=actions).minus(base)
    return np.abs(run.before[1:]).max(axis=0)

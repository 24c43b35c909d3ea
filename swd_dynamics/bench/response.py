"""How a torch optimizer responds to a change of its weights and of its gradients, measured as a black box.

All runs get the same gradients, whatever their weights are. So two runs differ only by what was changed: the start, a
gradient, η or λ. The differences are returned as arrays; :mod:`swd_dynamics.auditing` says what they mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from swd_dynamics.bench.adapted import adapted_numbers, shrunk_by_number
from swd_dynamics.bench.drive import SEED, Action, Factory, Shape, parameters_of
from swd_dynamics.bench.impulses import ImpulseResponse, impulse_response
from swd_dynamics.bench.interventions import (
    Bench,
    Track,
    bench_for,
    moved_by,
    multiplied_by,
    set_to,
    shrunk_where_smaller,
)
from swd_dynamics.bench.precision import sizes_for, unit_round_off
from swd_dynamics.bench.settings import coarse_state
from swd_dynamics.bench.streams import DROP, END, HALVED

# All numbers of steps below are multiplied by the pace of a measurement, except the periods of WINDOW.
RENEWED: Sequence[int] = (300, 490)  # where θ is perturbed again, since the first perturbation may have died out
BRIEF = 100  # steps of the runs that are compared with the base run at its beginning only
COMPARED = slice(40, BRIEF)  # steps of brief runs that are compared: .9^40 = 1.5 % of a momentum's start is left
UNDONE = 120  # the step before which a perturbation is undone
AFTERWARDS = 60  # steps for which the effect of an undone perturbation is followed: .9^60 = .2 % of it come later
ENOUGH = 10  # steps of a window that must be readable for a rate
RESTING = (
    0.1  # the least share of steps and weights, with and without decay, that cautious decay has; it has half of each
)
FADED = 0.1  # the fraction of the weights that may be unreadable in a window: they are left out of its median
# The fraction of δ below which a perturbation has died out: round-off of weights of order 1, in float64, is 1e-6 of
# such a perturbation, 1e-5 of a decay rate of .1.
READABLE = 1e-6
ROUNDINGS = 8.0  # in a step: the round-off of a decay rate is this many units of the largest weight, divided by δ
WINDOW = 120  # steps over which rates are averaged: whole periods of 2, 3, 4, 5, 6, 8, 10 or 12 steps
WINDOWS = {
    "settled": slice(DROP - WINDOW, DROP),
    "gradients / 10": slice(HALVED - WINDOW, HALVED),
    "lr / 2": slice(END - WINDOW, END),
}


class Echo(NamedTuple):
    """What remains of a perturbation that is undone, with λ set to 0 from then on; divided by the perturbation.

    left : array, shape (n,) — in the end: minus what the optimizer's state still subtracted
    subtracted : array, shape (n,) — by the last step before the perturbation was undone
    """

    left: NDArray
    subtracted: NDArray


@dataclass(frozen=True)
class MeasuredResponse:
    """What an optimizer did, and the differences of runs in which something was changed; n weights.

    Attributes
    ----------
    name : str — the optimizer's class
    shapes : tuples — of its parameters
    given : str — what is unusual about the parameters that it was made from, or nothing
    lr, weight_decay : array, shape (n,) — of each weight's group; NaN where the group has none
    coarse : tuple of str — the types of its state that hold fewer digits than the weights
    pace : int — multiplies all numbers of steps
    unit : float — the unit round-off of its weights: 2⁻⁵³, or more if it rounds them to a shorter type
    size : float — of δ in each weight
    held : bool
        Whether θ + δ was set again before each step, because δ dies out within the windows in which rates are measured.
    ascends : bool — whether the steps follow the gradient upwards
    base : Track — the base run, in which nothing was changed
    moved, halved, other : Track
        The base run subtracted from the runs that start at θ + δ, at θ + δ/2, and at θ + δ with other signs. The
        last two are brief.
    control : Track or None
        As ``moved``, with λ = 0 in both runs; None where the optimizer has no λ.
    displaced : Track or None — the run with λ = 0 subtracted from the base run
    joined : Track or None
        A brief run with λ = 0 gets gradients g + λθ (g − λθ if it ascends), with the θ of the base run, which is
        subtracted from it. The difference is 0 for L2.
    shrunk : array, shape (2, n), or None
        In two brief runs with λ = 0 the weights are multiplied by 1 − ηλ, before each step or after each step: the
        largest distances from the base run. One of them is 0 for decoupled decay.
    masked : pairs of c and an array, shape (n,)
        As ``shrunk``, with R = cηλ of those weights alone that a step makes smaller, θ being the weight before or
        after the step; none where all weights decay in nearly all steps, or nearly none do.
    followed : dict
        As ``shrunk``, shape (n,), with R = ηλx and a number x of the parameter groups that the optimizer adapts; over
        the names of such numbers.
    half_lr, half_decay : Track or None — as ``moved``, with η or λ halved in both runs; brief
    echo, control_echo : Echo — the control with λ = 0 throughout
    impulses : ImpulseResponse — how far a unit of gradient moves each weight in the end, with λ = 0
    """

    name: str
    shapes: Sequence[Shape]
    given: str
    lr: NDArray
    weight_decay: NDArray
    coarse: tuple[str, ...]
    pace: int
    unit: float
    size: float
    held: bool
    ascends: bool
    base: Track
    moved: Track
    halved: Track
    other: Track
    control: Track | None
    displaced: Track | None
    joined: Track | None
    shrunk: NDArray | None
    masked: list[tuple[float, NDArray]]
    followed: dict[str, NDArray]
    half_lr: Track | None
    half_decay: Track | None
    echo: Echo
    control_echo: Echo | None
    impulses: ImpulseResponse

    @property
    def readable(self) -> float:
        """The smallest perturbation whose change in a step can be read."""
        return readable_of(self.size, self.unit)

    @property
    def noise(self) -> float:
        """A decay rate below this is round-off."""
        finite = np.abs(self.base.before[np.isfinite(self.base.before)])
        return ROUNDINGS * self.unit * float(finite.max(initial=0.0)) / self.size

    def windows(self) -> dict[str, slice]:
        """The steps of each later phase over which rates are averaged."""
        return {name: times(window, self.pace) for name, window in WINDOWS.items()}

    def compared(self) -> slice:
        """The steps of brief runs that are compared."""
        return times(COMPARED, self.pace)


def readable_of(size: float, unit: float) -> float:
    """The smallest perturbation whose change in a step can be read, of a δ of this size in weights of order 1."""
    return max(READABLE * size, READABLE**-0.5 * unit)


def times(steps: slice, pace: int) -> slice:
    """A range of steps with its ends multiplied."""
    return slice(pace * steps.start, pace * steps.stop)


def measure_response(factory: Factory, pace: int = 1) -> MeasuredResponse:
    """Run an optimizer a dozen times on one stream of gradients, each time with something changed.

    The gradients are those of :func:`~swd_dynamics.bench.streams.steady_gradients`: they fall to a tenth at step DROP,
    and η to a half at step HALVED. A changed η or λ is given to the factory if it takes an argument of that name, and
    is set in the parameter groups in any case.

    Parameters
    ----------
    factory : callable (parameters, **changed arguments) → torch.optim.Optimizer
        A class, or ``functools.partial`` of a class; a function of the parameters alone is enough.
    pace : int
        Multiplies all numbers of steps, for an optimizer with a long memory.

    Raises
    ------
    InputError
        If the optimizer cannot be made, or takes no step with gradients alone.

    Examples
    --------
    SGD subtracts ηλ = ½·½ of a perturbation in the first step, and a unit of gradient moves a weight by η:

    >>> import torch
    >>> from functools import partial
    >>> response = measure_response(partial(torch.optim.SGD, lr=0.5, weight_decay=0.5))
    >>> bool(np.allclose(response.moved.after[0] / response.moved.before[0], 0.75))
    True
    >>> bool(np.allclose(response.impulses.effective_lr[0], 0.5))
    True
    """
    bench = bench_for(factory, pace)
    free, (lr, decay) = bench.times(decay=0.0), bench.stated_of_weights
    names, coarse = set(), set()

    def look(optimizer, parameters) -> None:
        names.add(type(optimizer).__name__)
        coarse.update(coarse_state(optimizer, parameters).values())

    base = bench.run(actions={BRIEF: look})
    undecayed = free.run() if bench.has_decay else None
    unit = _unit(base, undecayed)
    sizes = sizes_for(unit)
    signs = np.random.default_rng(SEED + 1).choice([-1.0, 1.0], size=(2, sum(bench.sizes)))
    move, other = (Perturbation(sizes.move * sign) for sign in signs)
    moved = move.followed(bench, base)
    held = _dies_out(moved, pace, readable_of(sizes.move, unit))
    if held:
        move, other = replace(move, held=True), replace(other, held=True)
        moved = move.followed(bench, base)
    control = move.followed(free, undecayed) if undecayed else None
    unperturbed = bench.run(pace * (UNDONE + AFTERWARDS), actions={pace * UNDONE: bench.without_decay})
    impulses = impulse_response(free, undecayed or base, sizes, unit)
    ascends = bool(np.mean(impulses.effective_lr[0] < 0) > 0.5)
    return MeasuredResponse(
        name=names.pop(),
        shapes=bench.shapes,
        given=bench.given.words,
        lr=lr,
        weight_decay=decay,
        coarse=tuple(sorted(coarse)),
        pace=pace,
        unit=unit,
        size=sizes.move,
        held=held,
        ascends=ascends,
        base=base,
        moved=moved,
        halved=replace(move, change=move.change / 2).followed(bench, base, BRIEF),
        other=other.followed(bench, base, BRIEF),
        control=control,
        displaced=base.minus(undecayed) if undecayed else None,
        joined=_joined(free, base, (-1.0 if ascends else 1.0) * np.nan_to_num(decay)) if undecayed else None,
        shrunk=_shrunk(free, base, 1 - lr * np.nan_to_num(decay)) if undecayed else None,
        masked=_masked(free, base, moved, lr * np.nan_to_num(decay)) if undecayed else [],
        followed=_followed(bench, free, base, moved, lr * np.nan_to_num(decay)) if undecayed else {},
        half_lr=move.followed_briefly(bench.times(lr=0.5)) if np.isfinite(lr).all() else None,
        half_decay=move.followed_briefly(bench.times(decay=0.5)) if bench.has_decay else None,
        echo=_echo(bench, base, unperturbed, move, moved),
        control_echo=_echo(free, undecayed, undecayed, move, control) if undecayed and control else None,
        impulses=impulses,
    )


@dataclass(frozen=True)
class Perturbation:
    """What is added to θ, shape (n,): at the start and at a few later steps, or ``held`` at every step."""

    change: NDArray
    held: bool = False

    def followed(self, bench: Bench, base: Track, steps: int | None = None) -> Track:
        """The run from θ + δ, with ``base`` subtracted; ``steps`` are multiplied by the pace."""
        steps = len(base.before) if steps is None else bench.pace * steps
        return bench.run(steps, move=self.change, actions=self.actions(bench, base, steps)).minus(base)

    def followed_briefly(self, bench: Bench) -> Track:
        """The brief run from θ + δ, with this bench's own base run subtracted."""
        return self.followed(bench, bench.run(bench.pace * BRIEF), BRIEF)

    def actions(self, bench: Bench, base: Track, steps: int) -> dict[int, Action]:
        """What perturbs θ again in a run of so many steps; η is halved at step HALVED in any case."""
        if not self.held:
            again = moved_by(parameters_of(self.change, bench.shapes))
            return dict.fromkeys((bench.pace * k for k in RENEWED), again)
        theta = base.before + self.change
        renewed = (k for k in range(1, steps) if k != bench.pace * HALVED)
        return {k: set_to(parameters_of(theta[k], bench.shapes)) for k in renewed}


def _unit(*runs: Track | None) -> float:
    """The unit round-off of the weights that were moved."""
    kept = []
    for run in runs:
        if run is not None:
            kept.append(run.after[:, np.any(run.after != run.before[0], axis=0)].reshape(-1))
    return unit_round_off(np.concatenate(kept))


def _dies_out(moved: Track, pace: int, readable: float) -> bool:
    """Whether the perturbations of many weights die out before rates can be read in every window."""
    if not (np.abs(moved.before[0]) > readable).all():
        return False
    ends = [pace * (window.start + ENOUGH) for window in WINDOWS.values()]
    faded = np.mean(~(np.abs(moved.before[ends]) > readable), axis=1)
    return bool(np.max(faded) > FADED)


def _joined(bench: Bench, base: Track, decay: NDArray) -> Track:
    """The brief run with λθ added to the gradients, with ``base`` subtracted."""
    steps = bench.pace * BRIEF
    with np.errstate(over="ignore"):  # of a run that diverged
        push = decay * base.before[:steps]
    return bench.run(steps, push=dict(enumerate(push))).minus(base)


def _shrunk(bench: Bench, base: Track, factors: NDArray) -> NDArray:
    """The largest distances from ``base`` if weights are multiplied by factors, before or after each step."""
    steps = bench.pace * BRIEF
    actions = dict.fromkeys(range(steps), multiplied_by(parameters_of(factors, bench.shapes)))
    before_steps = bench.run(steps, actions=actions).minus(base).after
    del actions[0]
    after_steps = bench.run(steps, actions=actions).minus(base).before[1:]
    return np.array([np.abs(before_steps).max(axis=0), np.abs(after_steps).max(axis=0)])


def _followed(bench: Bench, free: Bench, base: Track, moved: Track, rates: NDArray) -> dict[str, NDArray]:
    """The largest distances from ``base`` if R = ηλx follows a number x that the optimizer adapts."""
    with np.errstate(all="ignore"):
        factor = float(np.nanmedian((1 - moved.after[0] / moved.before[0]) / rates))
    numbers = adapted_numbers(bench, bench.pace * BRIEF, factor)
    return {name: shrunk_by_number(free, base, rates, course) for name, course in numbers.items()}


def _masked(bench: Bench, base: Track, moved: Track, rates: NDArray) -> list[tuple[float, NDArray]]:
    """c and the largest distances from ``base`` if R = cηλ where a step makes a weight smaller.

    c is read from the steps in which a perturbation shrinks by more than a tenth of the most.
    """
    steps = bench.pace * BRIEF
    with np.errstate(all="ignore"):
        units = (1 - moved.after[:steps] / moved.before[:steps]) / rates
    known = units[np.isfinite(units)]
    acts = known > 0.1 * np.percentile(known, 99) if len(known) else np.zeros(0, dtype=bool)
    if not len(known) or not RESTING < np.mean(acts) < 1 - RESTING:
        return []
    factor = float(np.median(known[acts]))
    found = []
    for late in (False, True):
        act = shrunk_where_smaller(parameters_of(factor * rates, bench.shapes), late)
        run = bench.run(steps + 1, actions=dict.fromkeys(range(steps + 1), act)).minus(base)
        found.append((factor, np.abs(run.before[1:]).max(axis=0)))
    return found


def _echo(bench: Bench, base: Track, unperturbed: Track, move: Perturbation, moved: Track) -> Echo:
    """A run whose perturbation is undone, compared with the run ``unperturbed``; until then it is as in ``moved``."""
    end, steps = bench.pace * UNDONE, bench.pace * (UNDONE + AFTERWARDS)
    remembered = moved.after[end - 1]
    subtracted = moved.before[end - 1] - remembered
    undone = moved_by(parameters_of(-remembered, bench.shapes))

    def undo(optimizer, parameters) -> None:
        bench.without_decay(optimizer, parameters)
        undone(optimizer, parameters)

    until = move.actions(bench, base, end)
    heard = bench.run(steps, move=move.change, actions=until | {end: undo}).minus(unperturbed)
    with np.errstate(all="ignore"):
        return Echo(heard.after[-1] / remembered, subtracted / remembered)

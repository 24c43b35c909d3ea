"""How a torch optimizer responds to a change of its weights and of its gradients, measured as a black box.

All runs get the same gradients, whatever their weights are. So two runs differ only by what was changed: the start, a
gradient, η or λ. The differences are returned as arrays; :mod:`swd_dynamics.auditing` says what they mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from swd_dynamics.bench.drive import SEED, Action, Factory, Shape, parameters_of
from swd_dynamics.bench.interventions import Bench, Track, bench_for, moved_by, multiplied_by
from swd_dynamics.bench.settings import coarse_state
from swd_dynamics.bench.streams import DROP, END, FOLLOWED, HALVED, LEAD, PARTS, STEPS, impulses

# δ, a perturbation of θ, which is .1 to .3 at first. Ten times as much would show that a step is curved in θ; a tenth
# would lose a digit of δ′/δ to round-off.
PERTURBATION = 1e-4
RENEWED: Sequence[int] = (
    300,
    490,
)  # steps at which θ is perturbed again, since the first perturbation may have died out
BRIEF = 100  # steps of the runs that are compared with the base run at its beginning only
COMPARED = slice(40, BRIEF)  # steps of brief runs that are compared: .9^40 = 1.5 % of a momentum's start is left
UNDONE = 120  # the step before which a perturbation is undone
AFTERWARDS = 60  # steps for which the effect of an undone perturbation is followed: .9^60 = .2 % of it come later
IMPULSE = 1e-4  # in units of the gradients' scale: moves second moments by 1e-8; half as much doubles the round-off
LARGE_IMPULSE = 1e-2  # large enough for state of 8 bits to change
# The largest factor, in a tenth of the steps followed, by which a tail that an exponential describes shrinks. It is
# .82 for a momentum of .99. A tail that shrinks less is a drift.
SLOWEST = 0.8
ROUNDING = 1e-12  # a change of a weight that is round-off, with weights that grow to 30: 30·eps = 7e-15, many times
WINDOW = 120  # steps over which rates are averaged: whole periods of 2, 3, 4, 5, 6, 8, 10 or 12 steps
WINDOWS = {
    "settled": slice(DROP - WINDOW, DROP),
    "gradients / 10": slice(HALVED - WINDOW, HALVED),
    "lr / 2": slice(END - WINDOW, END),
}


class Echo(NamedTuple):
    """What remains of a perturbation that is undone, with λ set to 0 from then on; in units of the perturbation.

    left : array, shape (n,) — in the end: minus what the optimizer's memory still subtracted
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
    lr, weight_decay : array, shape (n,) — of each weight's group; NaN where the group has none
    coarse : tuple of str — the types of its state that hold fewer digits than the weights
    base : Track — the base run, in which nothing was changed
    moved, halved, other : Track
        The base run subtracted from the runs that start at θ + δ, at θ + δ/2, and at θ + δ with other signs. The
        last two are brief.
    control : Track or None
        As ``moved``, with λ = 0 in both runs; None where the optimizer has no λ.
    displaced : Track or None — the run with λ = 0 subtracted from the base run
    joined : Track or None
        A brief run with λ = 0 gets gradients g + λθ, with the θ of the base run, which is subtracted from it. The
        difference is 0 for L2.
    shrunk : array, shape (2, n), or None
        In two brief runs with λ = 0 the weights are multiplied by 1 − ηλ, before each step or after each step: the
        largest distances from the base run. One of them is 0 for decoupled decay.
    half_lr, half_decay : Track or None — as ``moved``, with η or λ halved in both runs; brief
    echo, control_echo : Echo — the control with λ = 0 throughout
    effective_lr : array, shape (phases, n)
        How far a unit of gradient moves each weight in the end, with λ = 0.
    hard_pushed : array, shape (n,) — the same in the first phase, from impulses a hundred times as large
    unfinished : array, shape (phases, n) — the share of ``effective_lr`` that comes after the steps followed
    """

    name: str
    shapes: Sequence[Shape]
    lr: NDArray
    weight_decay: NDArray
    coarse: tuple[str, ...]
    base: Track
    moved: Track
    halved: Track
    other: Track
    control: Track | None
    displaced: Track | None
    joined: Track | None
    shrunk: NDArray | None
    half_lr: Track | None
    half_decay: Track | None
    echo: Echo
    control_echo: Echo | None
    effective_lr: NDArray
    hard_pushed: NDArray
    unfinished: NDArray


def measure_response(factory: Factory) -> MeasuredResponse:
    """Run an optimizer a dozen times on one stream of gradients, each time with something changed.

    The gradients are those of :func:`~swd_dynamics.bench.streams.steady_gradients`: they fall to a tenth at step DROP,
    and η to a half at step HALVED. A changed η or λ is given to the factory if it takes an argument of that name, and
    is set in the parameter groups in any case.

    Parameters
    ----------
    factory : callable (parameters, **changed arguments) → torch.optim.Optimizer
        A class, or ``functools.partial`` of a class; a function of the parameters alone is enough.

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
    >>> bool(np.allclose(response.effective_lr[0], 0.5))
    True
    """
    bench = bench_for(factory)
    signs = np.random.default_rng(SEED + 1).choice([-1.0, 1.0], size=(2, sum(bench.sizes)))
    move, other = PERTURBATION * signs
    free, (lr, decay) = bench.times(decay=0.0), bench.stated_of_weights
    names, coarse = set(), set()

    def look(optimizer, parameters) -> None:
        names.add(type(optimizer).__name__)
        coarse.update(coarse_state(optimizer, parameters).values())

    base = bench.run(actions={BRIEF: look})
    undecayed = free.run() if bench.has_decay else None
    moved = _moved(bench, base, move)
    control = _moved(free, undecayed, move) if undecayed else None
    unperturbed = bench.run(UNDONE + AFTERWARDS, actions={UNDONE: bench.without_decay})
    effective_lr, unfinished = _effective_lrs(free, undecayed or base)
    return MeasuredResponse(
        name=names.pop(),
        shapes=bench.shapes,
        lr=lr,
        weight_decay=decay,
        coarse=tuple(sorted(coarse)),
        base=base,
        moved=moved,
        halved=_moved(bench, base, move / 2, BRIEF),
        other=_moved(bench, base, other, BRIEF),
        control=control,
        displaced=base.minus(undecayed) if undecayed else None,
        joined=_joined(free, base, np.nan_to_num(decay)) if undecayed else None,
        shrunk=_shrunk(free, base, 1 - lr * np.nan_to_num(decay)) if undecayed else None,
        half_lr=_moved_briefly(bench.times(lr=0.5), move) if np.isfinite(lr).all() else None,
        half_decay=_moved_briefly(bench.times(decay=0.5), move) if bench.has_decay else None,
        echo=_echo(bench, unperturbed, move, moved),
        control_echo=_echo(free, undecayed, move, control) if undecayed and control else None,
        effective_lr=effective_lr,
        hard_pushed=_effective_lr(free, undecayed or base, DROP, LARGE_IMPULSE)[0],
        unfinished=unfinished,
    )


def _moved(bench: Bench, base: Track, move: NDArray, steps: int = STEPS) -> Track:
    """The run from θ + δ, with ``base`` subtracted."""
    again = dict.fromkeys(RENEWED, moved_by(parameters_of(move, bench.shapes)))
    return bench.run(steps, move=move, actions=again).minus(base)


def _moved_briefly(bench: Bench, move: NDArray) -> Track:
    """The brief run from θ + δ, with this bench's own base run subtracted."""
    return _moved(bench, bench.run(BRIEF), move, BRIEF)


def _joined(bench: Bench, base: Track, decay: NDArray) -> Track:
    """The brief run with λθ added to the gradients, with ``base`` subtracted."""
    with np.errstate(over="ignore"):  # of a run that diverged
        push = decay * base.before[:BRIEF]
    return bench.run(BRIEF, push=dict(enumerate(push))).minus(base)


def _shrunk(bench: Bench, base: Track, factors: NDArray) -> NDArray:
    """The largest distances from ``base`` if weights are multiplied by factors, before or after each step."""
    actions = dict.fromkeys(range(BRIEF), multiplied_by(parameters_of(factors, bench.shapes)))
    before_steps = bench.run(BRIEF, actions=actions).minus(base).after
    del actions[0]
    after_steps = bench.run(BRIEF, actions=actions).minus(base).before[1:]
    return np.array([np.abs(before_steps).max(axis=0), np.abs(after_steps).max(axis=0)])


def _echo(bench: Bench, unperturbed: Track, move: NDArray, moved: Track) -> Echo:
    """A run whose perturbation is undone, compared with the run ``unperturbed``."""
    remembered = moved.after[UNDONE - 1]
    subtracted = moved.before[UNDONE - 1] - remembered
    undone = moved_by(parameters_of(-remembered, bench.shapes))

    def undo(optimizer, parameters) -> None:
        bench.without_decay(optimizer, parameters)
        undone(optimizer, parameters)

    heard = bench.run(UNDONE + AFTERWARDS, move=move, actions={UNDONE: undo}).minus(unperturbed)
    with np.errstate(all="ignore"):
        return Echo(heard.after[-1] / remembered, subtracted / remembered)


def _effective_lrs(bench: Bench, base: Track) -> tuple[NDArray, NDArray]:
    """η_eff of each phase and weight, and its share that comes later. The second phase is followed with constant η."""
    constant = {HALVED: lambda *_: None}
    steady = bench.run(HALVED - LEAD + PARTS + FOLLOWED, actions=constant)
    found = [
        _effective_lr(bench, base, DROP),
        _effective_lr(bench, steady, HALVED, actions=constant),
        _effective_lr(bench, base, END),
    ]
    total, missing = zip(*found, strict=True)
    return np.array(total), np.array(missing)


def _effective_lr(
    bench: Bench,
    base: Track,
    end: int,
    strength: float = IMPULSE,
    actions: Mapping[int, Action] | None = None,
) -> tuple[NDArray, NDArray]:
    """η_eff of each weight in the phase that ends at step ``end``, and its share that comes after the steps followed.

    The later share is that of an exponential tail, which goes on to shrink as it did in the last tenth of the steps.
    """
    start, tenth = end - LEAD, FOLLOWED // 10
    all_impulses = impulses(sum(bench.sizes))
    push = {k: strength * all_impulses[k] for k in range(start, start + PARTS)}
    shift = -bench.run(start + FOLLOWED, push=push, actions=actions).minus(base).after
    late, later = shift[-1 - tenth] - shift[-1 - 2 * tenth], shift[-1] - shift[-1 - tenth]
    with np.errstate(all="ignore"):
        ratio = np.minimum(np.abs(later / late), SLOWEST)
        missing = np.abs(later / shift[-1]) * ratio / (1 - ratio)
        effective_lr = shift[-1] / sum(push.values())
    return effective_lr, np.where(np.abs(later) > ROUNDING, missing, 0.0)

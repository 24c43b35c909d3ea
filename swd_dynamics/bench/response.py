"""How a torch optimizer responds to a change of its weights and of its gradients, measured as a black box.

Runs that are given the same gradients, whatever their weights, can differ only by what was changed: the start, one
gradient, η or λ. The differences are returned as arrays; what they mean is said elsewhere.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from swd_dynamics.bench.interventions import (
    DROP,
    END,
    FOLLOWED,
    HALVED,
    PARTS,
    SEED,
    STEERED,
    STEPS,
    WINDOW,
    Action,
    Bench,
    Course,
    Shapes,
    bench_for,
    coarse_state,
    impulses,
    moved_by,
    multiplied_by,
)

MOVED = 1e-4  # δ: small beside θ, which is .1 to .3 at first; large beside round-off
FRESH: tuple[int, ...] = (300, 490)  # steps at which a change of θ is made anew: the one before may have died out
BRIEF = 100  # steps of the runs that are only compared with the first
COMPARED = slice(40, BRIEF)  # when a momentum of .9 has settled to 4 %, in both alike
TAKEN_BACK, LISTENED = 120, 60  # when a change of θ is undone, and for how long what it left behind is followed
PUSHED = 1e-4  # an impulse, in units of the weight's gradient scale
SLOWEST = 0.8  # in a tenth of the steps followed: the tail of a momentum of .99; what drifts is no tail
ROUNDING = 1e-12  # of weights that grow to 30: what an impulse of 1e-4 moves is not seen below
HARD = 1e-2  # one that a state of 8 bits feels too
PHASES = {"settled": DROP, "gradients / 10": HALVED, "lr / 2": END}  # and where each ends
WINDOWS = {name: slice(end - WINDOW, end) for name, end in PHASES.items()}


class Echo(NamedTuple):
    """A change of θ is undone, and λ set to 0: what comes after, in units of the change, shape (n,).

    left : in the end; what the memory still took off, with its sign turned
    taken_off : by the last step before
    """

    left: NDArray
    taken_off: NDArray


@dataclass(frozen=True)
class Response:
    """What an optimizer did, and how runs with something changed differ from it; n weights.

    Attributes
    ----------
    name : str — the optimizer's class
    shapes : tuples — of its parameters
    lr, weight_decay : array, shape (n,) — those of each weight's group; NaN where the group has none
    coarse : tuple of str — types of its state that hold fewer digits than the weights
    base : Course — the run itself
    moved, halved, other : Course, difference
        To the run from θ + δ; θ + δ/2; and θ + δ with other signs. The last two are brief.
    control : Course, difference, or None
        As ``moved``, both runs with λ = 0; None where the optimizer has no λ.
    displaced : Course, difference, or None — the run from the one with λ = 0
    joined : Course, difference, or None
        To the run itself, of one with λ = 0 whose gradients have λθ added, θ that of the run; brief. 0 for L2.
    shrunk : array, shape (2, n), or None
        The largest distance from the run itself of one with λ = 0 whose weights are multiplied by 1 − ηλ before, or
        after, every step; brief. One of them is 0 for decoupled decay.
    half_lr, half_decay : Course, difference, or None — as ``moved``, with η or λ halved; brief
    echo, control_echo : Echo — the latter with λ = 0 throughout
    effective_lr : array, shape (phases, n)
        How far a unit of gradient moves each weight in the end, λ = 0.
    hard_pushed : array, shape (n,) — the same in the first phase, from impulses a hundred times as large
    unfinished : array, shape (phases, n) — the share of it that is missing when it is followed no further
    """

    name: str
    shapes: Shapes
    lr: NDArray
    weight_decay: NDArray
    coarse: tuple[str, ...]
    base: Course
    moved: Course
    halved: Course
    other: Course
    control: Course | None
    displaced: Course | None
    joined: Course | None
    shrunk: NDArray | None
    half_lr: Course | None
    half_decay: Course | None
    echo: Echo
    control_echo: Echo | None
    effective_lr: NDArray
    hard_pushed: NDArray
    unfinished: NDArray


def measure_response(factory: Callable[..., torch.optim.Optimizer]) -> Response:
    """Run an optimizer a dozen times on one stream of gradients, each time with something else changed.

    The stream has mean zero and scales two orders of magnitude apart; gradients fall to a tenth at DROP, η to a half at
    HALVED. Where an impulse is given the gradient is 0: so it does not change second moments to first order. Another η
    or λ is given to the factory if it takes an argument of that name, and is set in the groups in any case.

    Parameters
    ----------
    factory : callable (parameters, **changed arguments) → torch.optim.Optimizer
        A class, or ``functools.partial`` of one; a function of the parameters alone will do.

    Raises
    ------
    InputError
        If the optimizer cannot be made, or takes no step with gradients alone.

    Examples
    --------
    Of a change SGD takes ηλ = ½·½ off in its first step, and a unit of gradient moves a weight by η:

    >>> from functools import partial
    >>> response = measure_response(partial(torch.optim.SGD, lr=0.5, weight_decay=0.5))
    >>> bool(np.allclose(response.moved.after[0] / response.moved.before[0], 0.75))
    True
    >>> bool(np.allclose(response.effective_lr[0], 0.5))
    True
    """
    bench = bench_for(factory)
    move, other = MOVED * np.random.default_rng(SEED + 1).choice([-1.0, 1.0], size=(2, sum(bench.sizes)))
    free, (lr, decay) = bench.times(decay=0.0), bench.stated_of_weights
    coarse = set()
    base = bench.run(actions={BRIEF: lambda *made: coarse.update(coarse_state(*made))})
    undecayed = free.run() if bench.has_decay else None
    moved, control = _moved(bench, base, move), _moved(free, undecayed, move) if undecayed else None
    quiet = bench.run(TAKEN_BACK + LISTENED, actions={TAKEN_BACK: bench.without_decay})
    effective_lr, unfinished = _effective_lrs(free, undecayed or base)
    return Response(
        name=type(bench.build(bench.parameters(bench.stream[0]))).__name__,
        shapes=tuple(bench.shapes),
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
        half_lr=_moved_anew(bench.times(lr=0.5), move) if np.isfinite(lr).all() else None,
        half_decay=_moved_anew(bench.times(decay=0.5), move) if bench.has_decay else None,
        echo=_echo(bench, quiet, move, moved),
        control_echo=_echo(free, undecayed, move, control) if undecayed and control else None,
        effective_lr=effective_lr,
        hard_pushed=_effective_lr(free, undecayed or base, DROP, HARD)[0],
        unfinished=unfinished,
    )


def _moved(bench: Bench, base: Course, move: NDArray, steps: int = STEPS) -> Course:
    """How far a run from θ + δ is from ``base``."""
    again = dict.fromkeys(FRESH, moved_by(bench.parameters(move)))
    return bench.run(steps, move=move, actions=again).minus(base)


def _moved_anew(bench: Bench, move: NDArray) -> Course:
    """The same, brief, with the base run that belongs to it."""
    return _moved(bench, bench.run(BRIEF), move, BRIEF)


def _joined(bench: Bench, base: Course, decay: NDArray) -> Course:
    """How far λθ added to the gradients leads from ``base``."""
    with np.errstate(over="ignore"):  # of a run that diverged
        push = decay * base.before[:BRIEF]
    return bench.run(BRIEF, push=dict(enumerate(push))).minus(base)


def _shrunk(bench: Bench, base: Course, factors: NDArray) -> NDArray:
    """How far decay by hand, before or after each step, leads from ``base``."""
    actions = dict.fromkeys(range(BRIEF), multiplied_by(bench.parameters(factors)))
    first = bench.run(BRIEF, actions=actions).minus(base).after
    del actions[0]
    then = bench.run(BRIEF, actions=actions).minus(base).before[1:]
    return np.array([np.abs(first).max(axis=0), np.abs(then).max(axis=0)])


def _echo(bench: Bench, quiet: Course, move: NDArray, moved: Course) -> Echo:
    """A change of θ taken back: a run in which it was, against one in which it never was."""
    remembered = moved.after[TAKEN_BACK - 1]
    taken_off = moved.before[TAKEN_BACK - 1] - remembered
    undone = moved_by(bench.parameters(-remembered))

    def undo(optimizer, parameters) -> None:
        bench.without_decay(optimizer, parameters)
        undone(optimizer, parameters)

    heard = bench.run(TAKEN_BACK + LISTENED, move=move, actions={TAKEN_BACK: undo}).minus(quiet)
    with np.errstate(all="ignore"):
        return Echo(heard.after[-1] / remembered, taken_off / remembered)


def _effective_lrs(bench: Bench, base: Course) -> tuple[NDArray, NDArray]:
    """η_eff of each phase and weight, and the missing share; the impulse before HALVED in runs in which η stays."""
    constant = {HALVED: lambda *_: None}
    steady = bench.run(HALVED - STEERED + PARTS + FOLLOWED, actions=constant)
    found = [
        _effective_lr(bench, base, DROP),
        _effective_lr(bench, steady, HALVED, actions=constant),
        _effective_lr(bench, base, END),
    ]
    total, missing = zip(*found, strict=True)
    return np.array(total), np.array(missing)


def _effective_lr(
    bench: Bench, base: Course, end: int, strength: float = PUSHED, actions: Mapping[int, Action] | None = None
) -> tuple[NDArray, NDArray]:
    """η_eff of each weight in the phase with this end, and the share of it that comes later than it was followed."""
    start, tenth = end - STEERED, FOLLOWED // 10
    push = {k: strength * impulse for k, impulse in impulses(sum(bench.sizes)).items() if start <= k < end}
    shift = -bench.run(start + FOLLOWED, push=push, actions=actions).minus(base).after
    late, later = shift[-1 - tenth] - shift[-1 - 2 * tenth], shift[-1] - shift[-1 - tenth]
    with np.errstate(all="ignore"):
        ratio = np.minimum(np.abs(later / late), SLOWEST)
        missing = np.abs(later / shift[-1]) * ratio / (1 - ratio)  # a tail that falls as fast as it did
        return shift[-1] / sum(push.values()), np.where(np.abs(later) > ROUNDING, missing, 0.0)

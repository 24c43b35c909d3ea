"""Courses on a phase plane: the orbits of the flow, and the steps that an optimizer takes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import RK45, Radau

from swd_dynamics.errors import InputError
from swd_dynamics.flows.flow import LATE, Flow
from swd_dynamics.planes.slices import Slice
from swd_dynamics.rules.decay import mode_of
from swd_dynamics.rules.gate import as_rule
from swd_dynamics.rules.update import State, UpdateRule

Array = NDArray[np.float64]
FAR = 2.0  # windows from the centre, where an orbit ends; with 1, orbits that come back would end in the margin
ORBIT_POINTS = 300  # least number of points on an orbit; with half of them a drawn circle shows its corners
MOST_POINTS = 3000  # an orbit that needs more has run into a kink, and ends there; doubled, it would take twice as long
TOLERANCE = 1e-8  # relative, of one step of an orbit's solver: far below the width of a line


@dataclass(frozen=True)
class Iterates:
    """The steps of a rule.

    Attributes
    ----------
    name : str
    decay : str — the decay mode, a name of :data:`~swd_dynamics.rules.DECAYS`; ``"unknown"`` for any other decay
    paths : tuple of array, shape (steps + 1, 2) — one from each start; NaN or infinite after a run diverged

    Examples
    --------
    On f = ½(θ₁² + θ₂²) steps of η = ½ halve the weights:

    >>> from swd_dynamics.planes import phase_plane
    >>> from swd_dynamics.rules import SGD
    >>> (taken,) = phase_plane(UpdateRule(0.5, SGD()), lambda theta: theta, start=(1, -1), steps=2).iterates
    >>> taken.decay, taken.paths[0].tolist()
    ('none', [[1.0, -1.0], [0.5, -0.5], [0.25, -0.25]])
    """

    name: str
    decay: str
    paths: tuple[Array, ...]


def orbit(plane: Slice, start: Array, duration: float, window: Array) -> Array:
    """The flow from a point of the plane, solved in all dimensions and then projected, shape (m, 2).

    The orbit ends when the time is up, far outside the window, or where the field is not defined.
    """
    where, centre, size = plane.embedded(start), window.mean(axis=0), window[1] - window[0]
    solver = Radau if len(where) == 2 else RK45  # Radau suits stiff fields, and RK45 many dimensions
    points = [start]

    def field(_, at):
        value = plane.whole(at)
        if not np.isfinite(value).all():
            raise FloatingPointError("the field is not defined here")
        return value

    try:
        absolute = TOLERANCE * float(size.min())
        stepping = solver(field, 0.0, where, duration, duration / ORBIT_POINTS, TOLERANCE, absolute)
        while stepping.status == "running" and len(points) < MOST_POINTS:
            stepping.step()
            points.append(plane.projected(stepping.y))
            if (np.abs(points[-1] - centre) > FAR * size).any():
                break
    except FloatingPointError:
        pass
    return np.array(points)


def iterates(
    plane: Slice,
    flow: Flow | None,
    rules: Mapping[str, UpdateRule] | None,
    starts: Array,
    steps: int,
) -> tuple[Iterates, ...]:
    """The steps of each rule from each start; of the flow's own rule if no rules are given."""
    if rules and flow is None:
        raise InputError("iterates need a gradient, and a function (x, y) → (u, v) has none: give a Flow")
    if flow is None or not len(starts):
        return ()
    mode = decay_mode(flow.rule)
    named = rules or {flow.rule.name if mode == "unknown" else mode: flow.rule}
    if not isinstance(named, Mapping):
        raise InputError(f"iterates_of = {named!r} is not allowed: give rules by name, as {{'stable': a rule}}")
    for name, rule in named.items():
        as_rule(rule, f"iterates_of[{name!r}]")
    found = []
    for name, rule in named.items():
        paths = tuple(_steps(plane, flow, rule, start, steps) for start in starts)
        found.append(Iterates(name, decay_mode(rule), paths))
    return tuple(found)


def decay_mode(rule: UpdateRule) -> str:
    """The decay mode of a rule: a name of :data:`~swd_dynamics.rules.DECAYS`, or ``"unknown"``; ``"none"`` if λ = 0.

    Examples
    --------
    >>> from swd_dynamics.rules import CATALOG
    >>> decay_mode(CATALOG["AdamS"](weight_decay=0.5)), decay_mode(CATALOG["AdamS"](weight_decay=0.0))
    ('stable', 'none')
    """
    if not np.any(np.asarray(getattr(rule.decay, "weight_decay", 1.0))):
        return "none"
    return mode_of(rule.decay) or "unknown"


def _steps(plane: Slice, flow: Flow, rule: UpdateRule, start: Array, steps: int) -> Array:
    where = plane.embedded(start)
    with_memory = flow.order == "state"
    state = flow.state_at(where, LATE) if with_memory else rule.start(where)
    points = [start]
    with np.errstate(all="ignore"):
        for _ in range(steps):
            state: State = rule(state, flow.gradient(state.theta))
            where = np.concatenate([state.theta, *state.memory]) if with_memory else state.theta
            points.append(plane.projected(where))
    return np.array(points)

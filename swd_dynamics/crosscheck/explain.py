"""The laws of norm and rotation on a recorded run: what η, λ and gradients predict for each parameter, and the run."""

import json
from dataclasses import dataclass, field
from itertools import pairwise
from os import PathLike
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from swd_dynamics.crosscheck.course import SMALL, Course
from swd_dynamics.crosscheck.recorded_rule import groups_of, named_rule, spans_of
from swd_dynamics.errors import InputError
from swd_dynamics.recording import open_recording
from swd_dynamics.rules.catalog import CATALOG
from swd_dynamics.rules.decay import mode_of
from swd_dynamics.rules.gate import as_entry
from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic import NotDerivable, equilibrium

if TYPE_CHECKING:
    import xarray

NEEDED = ("lr", "theta_norm_parameter", "gradient_norm_parameter", "rotation_parameter")
WINDOWS = 12  # of a run, in each of which the law is evaluated; doubled, explaining takes twice as long
FEW = 24  # recorded steps: a shorter run has no windows over which a norm of gradients could be averaged
LINE = 100  # columns of what is printed
LARGEST = 6  # parameters that are explained: those with the most weights
NOISE = "The law is that of noise: it does not hold for full batches, whose gradients hardly change from step to step."
# The smallest R that changes some weight of a type, where decay is rounded apart from the step (half a unit in the last
# place of a weight just below a power of two).
LEAST_RATE = {"bfloat16": 2.0**-9, "float16": 2.0**-12, "float32": 2.0**-25}


@dataclass(frozen=True)
class Explained:
    """The laws on the curves of one run; ``print`` shows law and run for each parameter, and what follows.

    Attributes
    ----------
    optimizer : str — the name of the rule
    mode : str — its decay mode
    courses : tuple of Course
    notes : tuple of str — how much of the start is left, whether rounding takes the decay, and what a smaller η will do
    omitted : int — the number of smaller parameters that are not among the courses

    Examples
    --------
    >>> print(Explained("SGDW", "decoupled", (), ("R is 0 at the end.",)))
    SGDW: norm and rotation per step, by law and as recorded
    (root mean squares over the last of 12 windows, or over the window of the step that a row names)
    parameter  ‖θ‖ law   seen      angle law  seen
    R is 0 at the end.
    """

    optimizer: str
    mode: str
    courses: tuple[Course, ...] = field(repr=False)
    notes: tuple[str, ...] = field(repr=False)
    omitted: int = 0

    def __str__(self) -> str:
        names = [course.parameter for course in self.courses]
        width = max(map(len, ("parameter", *names)))
        lines = [f"{'parameter':{width}}  ‖θ‖ law   seen      angle law  seen"]
        for course in self.courses:
            head = f"{course.parameter:{width}}  {_row(course)}   "
            said = wrap(_remark(course), LINE - len(head), break_on_hyphens=False)
            lines += [f"{head if i == 0 else ' ' * len(head)}{line}" for i, line in enumerate(said)]
        lines += [f"{self.omitted} smaller parameters are not shown."] if self.omitted else []
        title = f"{self.optimizer}: norm and rotation per step, by law and as recorded"
        notes = [line for note in self.notes for line in wrap(note, LINE, break_on_hyphens=False)]
        when = (
            f"(root mean squares over the last of {WINDOWS} windows, or over the window of the step that a row names)"
        )
        return "\n".join([title, when, *lines, *notes])


def _remark(course: Course) -> str:
    """What is said of a parameter, and of which step its numbers are where no window is judged."""
    if course.shown is None or course.shown == course.judged:
        return course.said
    return f"{course.said}; the numbers are those of step {course.steps[course.shown]:.0f}"


def _row(course: Course) -> str:
    """Norm and angle, by law and as recorded, in the window that is shown; without any law, as recorded at the end."""
    i = -1 if course.shown is None else course.shown
    law = np.nan if course.shown is None else 1.0
    numbers = law * course.norm_law[i], course.norm[i], law * course.angle_law[i], course.angle[i]
    cells = [f"{value:<8.3g}" if np.isfinite(value) else "–       " for value in numbers]
    return f"{cells[0]}  {cells[1]}  {cells[2]}   {cells[3]}"


def explain(recording: "xarray.Dataset | str | PathLike", name: str | None = None) -> Explained:
    """Compare a recorded run with the laws of its optimizer: norm, rotation, memory, and what rounding takes.

    Parameters
    ----------
    recording : xarray.Dataset or path
        Of any run, or its folder, with norms and rotation for each parameter: the probe's default.
    name : str, optional
        The rule by name; by default the one with the name of the recorded optimizer.

    Returns
    -------
    Explained

    Raises
    ------
    InputError
        If the recording has too few steps before it ends or diverges, or lacks norms or rotation, or no rule has the
        optimizer's name.

    Notes
    -----
    The law is :func:`swd_dynamics.symbolic.equilibrium`, with the η, λ and shape of each parameter and with the product
    ‖g‖·‖θ‖ that was recorded. It assumes that the loss does not depend on ‖θ‖, as before a normalisation, and that the
    gradients of different steps are independent; for other parameters it says where noise alone would bring them.

    Examples
    --------
    A hundred weights in pure noise come to the law:

    >>> import torch
    >>> from swd_dynamics.optim import SGDW
    >>> from swd_dynamics.probe import record
    >>> draws = torch.Generator().manual_seed(0)
    >>> weight = torch.nn.Parameter(torch.zeros(100, dtype=torch.float64))
    >>> sgdw = SGDW([weight], lr=0.1, weight_decay=0.1)
    >>> run = record(sgdw, lambda k: weight @ torch.randn(100, generator=draws, dtype=torch.float64), steps=2000)
    >>> explain(run).courses[0].said
    'at its equilibrium'
    """
    recording = open_recording(recording) if isinstance(recording, str | PathLike) else recording
    _check(recording)
    recording, ended = _finite_part(recording)
    read_as = [] if name is None else _read_as(recording, as_entry(name).name)
    name = _entry_name(recording) if name is None else name
    rules = [named_rule(name, arguments) for arguments in groups_of(recording)]
    shapes = [tuple(shape) for shape in json.loads(recording.attrs["parameter_shapes"])]
    order = np.argsort([-np.prod(shape) for shape in shapes], kind="stable")[:LARGEST]
    courses = tuple(_course(recording, rules, int(i), shapes[i]) for i in sorted(order))
    mode = mode_of(rules[0].decay) or "unknown"
    notes = *read_as, NOISE, *ended, *_notes(recording, rules, courses)
    return Explained(name, mode, courses, notes, omitted=len(shapes) - len(courses))


def _check(recording: "xarray.Dataset") -> None:
    missing = [name for name in NEEDED if name not in recording]
    if missing or "parameter_shapes" not in recording.attrs:
        lacks = ", ".join(missing) or "the attribute parameter_shapes"
        raise InputError(f"the recording lacks {lacks}: record with the probe's default quantities")
    if recording.sizes["step"] < FEW:
        raise InputError(f"the recording has {recording.sizes['step']} recorded steps: explain needs {FEW} or more")


def _finite_part(recording: "xarray.Dataset") -> "tuple[xarray.Dataset, list[str]]":
    """The rows up to the last with finite norms of all parameters, and a sentence on the others if there are any."""
    finite = np.asarray(np.isfinite(recording["theta_norm_parameter"].values).all(axis=1))
    rows = int(np.nonzero(finite)[0].max(initial=-1)) + 1
    if rows == len(finite):
        return recording, []
    from_step = f"‖θ‖ is not finite from step {recording['step'].values[rows]} on"
    if rows < FEW:
        raise InputError(f"{from_step}, after {rows} recorded steps: explain needs {FEW} or more with a finite ‖θ‖")
    return recording.isel(step=slice(rows)), [f"{from_step}, and the windows end before."]


def _read_as(recording: "xarray.Dataset", name: str) -> list[str]:
    """That another optimizer made the run, whose λ is read as that of the rule; nothing if the two are the same."""
    recorded = _recorded_name(recording)
    return [] if recorded in ("", name) else [f"The run was recorded with {recorded}. Its λ is read as {name}'s."]


def _entry_name(recording: "xarray.Dataset") -> str:
    """The entry of the catalogue that the recorded optimizer is."""
    name = _recorded_name(recording)
    if name not in CATALOG:
        raise InputError(
            f"no rule has the name of the recorded optimizer, {name}: give the name of its rule, for example with"
            ' --as AdamW (in Python: explain(recording, "AdamW"))'
        )
    return name


def _recorded_name(recording: "xarray.Dataset") -> str:
    """The name of the recorded optimizer, as in the catalogue if its rule is there."""
    name = str(recording.attrs.get("optimizer", ""))
    groups = groups_of(recording)
    if name in ("Adam", "AdamW", "AdamS") and any(group.get("amsgrad") for group in groups):
        name = name.replace("Adam", "AMSGrad")
    if any(group.get("decoupled_weight_decay") for group in groups) and f"{name}W" in CATALOG:
        name = f"{name}W"
    return "MuonW" if name == "Muon" else name


def _course(recording: "xarray.Dataset", rules: list[UpdateRule], i: int, shape: tuple[int, ...]) -> Course:
    """One parameter in windows."""
    group = int(recording["parameter_group"].values[i])
    norm, gradient, angle = (np.asarray(recording[name].values[:, i], float) for name in NEEDED[1:])
    lr = np.asarray(recording["lr"].values[:, group], float)
    edges = np.linspace(0, len(norm), WINDOWS + 1).astype(int)
    windows = [slice(*pair) for pair in pairwise(edges)]
    courses = norm, angle, gradient * norm
    norms, angles, gammas = (np.array([_rms(course[w]) for w in windows]) for course in courses)
    steps, lrs = (np.array([values[w].mean() for w in windows]) for values in (recording["step"].values, lr))
    laws, unknown = [], ""
    for gamma, eta in zip(gammas, lrs, strict=True):
        law, reason = _law(rules[group], float(eta), shape, float(gamma))
        laws.append(law)
        unknown = reason  # that of the last window: a warm-up from 0 has no law in the first one
    norm_law, angle_law, time = np.array(laws).T
    name = str(recording["parameter"].values[i])
    shares = lrs / lr.max() if lr.max() > 0 else np.ones(len(lrs))
    return Course(name, shape, steps, norms, norm_law, angles, angle_law, time, unknown, shares)


def _rms(values: NDArray) -> float:
    known = values[~np.isnan(values)]
    with np.errstate(over="ignore"):  # of a run that diverges; the mean is then infinite, and there is no law
        return float(np.sqrt(np.mean(known**2))) if known.size else np.nan


def _law(rule: UpdateRule, lr: float, shape: tuple[int, ...], gamma: float) -> tuple[tuple[float, float, float], str]:
    """Norm, angle and time of the equilibrium at this η, or NaN and the reason why there is none."""
    none = (np.nan, np.nan, np.nan)
    if np.ndim(rule.weight_decay) == 0 and rule.weight_decay == 0:
        return none, "λ = 0 in this group: no equilibrium"
    if not (lr > 0 and gamma > 0 and np.isfinite(gamma)):
        return none, "no law: η or the gradient is 0, or not finite"
    changed = UpdateRule(lr, rule.direction, rule.decay)
    try:
        found: dict[str, Any] = equilibrium(changed, shape=shape or 1, gradient=gamma).results
    except NotDerivable as refusal:
        return none, f"no law: {str(refusal).split('.')[0]}"
    return (float(found["‖θ‖"]), float(found["angle"]), float(found["steps"])), ""


def _notes(recording: "xarray.Dataset", rules: list[UpdateRule], courses: tuple[Course, ...]) -> list[str]:
    rate, where = _decay_rates(recording)
    notes = [_start_left(rate, spans_of(recording), where)] if rate.any() else []
    notes.append(_rounding(recording, rate, mode_of(rules[0].decay) or "unknown"))
    known = [course for course in courses if not course.unknown]
    notes += [_fallen(course) for course in known if course.is_out_of_reach][:1]
    return notes + ([_foreseen(recording, rules, known)] if known else [])


def _start_left(rate: NDArray, spans: NDArray, where: str) -> str:
    """How much of the start the decay has left, and how long the weights remember with the last R."""
    if not np.isfinite(rate).all():
        return "R is not recorded, so how much of the start is left is unknown."
    if rate.max() > 1:
        return f"R is up to {rate.max():.2g}{where}: where R is above 1, decay alone takes a weight beyond 0."
    start = (
        f"Of the start Π(1 − R) = {float(np.exp(spans @ np.log1p(-np.minimum(rate, 1 - 1e-12)))):.2g} is left{where}."
    )
    if rate[-1] == 0:
        return f"{start} R is 0 at the end."
    memory = f"with this R the memory is {1 / rate[-1]:.3g} steps, in which decay alone leaves 1/e of a weight"
    return f"{start} R is {rate[-1]:.2g} at the end: {memory}."


def _fallen(course: Course) -> str:
    """That the law does not reach to the end of a schedule, and where the figure's line of it ends."""
    ends = f"ends at step {course.steps[course.last_with_law - 1]:.0f}" if course.last_with_law else "is not drawn"
    share = f"{100 * course.shares[-1]:.1g} %"
    return f"η has fallen to {share} of its largest value: the law of so small an η says nothing, and its line {ends}."


def _decay_rates(recording: "xarray.Dataset") -> tuple[NDArray, str]:
    """R of each recorded step; where groups differ, of the one that decays most, because no weight has their mean."""
    if "decay_rate" not in recording:
        return np.full(1, np.nan), ""
    groups = recording.get("decay_rate_group", recording["decay_rate"].expand_dims("group", -1))
    rates = np.asarray(groups.values, float)
    if not np.isfinite(rates).all() or (rates == rates[:, :1]).all():
        return np.asarray(recording["decay_rate"].values, float), ""
    return rates[:, rates.sum(axis=0).argmax()], " in the group with the largest R"


def _foreseen(recording: "xarray.Dataset", rules: list[UpdateRule], known: list[Course]) -> str:
    """The equilibrium with a tenth of the last η, of the first parameter that follows the law.

    None is said if no parameter follows it, or at the end of a schedule to 0.
    """
    course = next((course for course in known if course.follows), known[0])
    i = recording["parameter"].values.tolist().index(course.parameter)
    group = int(recording["parameter_group"].values[i])
    lr = np.asarray(recording["lr"].values[:, group], float)
    if lr[-1] <= SMALL * lr.max():
        return "η is nearly 0 at the end, so that nothing is foreseen for a smaller one."
    if not course.follows:
        early = all(course.is_too_early for course in known)
        why = "the run is too short for an equilibrium" if early else "no parameter was found at its equilibrium"
        return f"Nothing is foreseen for a smaller η, because {why}."
    late = recording.isel(step=slice(-FEW, None))
    norm, gradient = (np.asarray(late[name].values[:, i], float) for name in NEEDED[1:3])
    (norm, angle, time), _ = _law(rules[group], lr[-1] / 10, course.shape, _rms(norm * gradient))
    change = f"‖θ‖ → {norm:.3g}, angle → {angle:.2g}, in about {time:.0f} steps"
    return f"With a tenth of the last η the equilibrium of {course.parameter} is {change}."


def _rounding(recording: "xarray.Dataset", rate: NDArray, mode: str) -> str:
    """What rounding does to the largest R of the run: a schedule that ends at 0 has a small one at its end."""
    dtype, most = str(recording.attrs.get("dtype", "")), float(np.max(rate))
    least = next((value for name, value in LEAST_RATE.items() if name in dtype), 0.0)
    if not np.isfinite(most) or most <= 0:
        return "R is 0 in all steps." if most == 0 else "Whether rounding takes the decay is unknown."
    if mode == "L2":
        return "λθ joins the gradient, so that the decay is not rounded apart from the step."
    if most >= least:
        return f"Rounding to {dtype or 'the type of the weights'} does not take the decay."
    if any(group.get("fused") for group in groups_of(recording)):
        return (
            f"R is below {least:.2g}: rounded to {dtype}, the decay is kept where steps survive rounding (fused=True)."
        )
    return (
        f"R is below {least:.2g}: rounded to {dtype} apart from the step, the decay is lost; keep weights in float32."
    )

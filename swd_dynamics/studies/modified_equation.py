"""Study: the derived flows follow real optimizers to first and second order, where L2 and stable decay part."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from swd_dynamics.crosscheck import convergence_order
from swd_dynamics.flows import Flow
from swd_dynamics.optim import OPTIMIZERS
from swd_dynamics.plots import COLOURS, LABELS, MARKERS, MUTED, house_style
from swd_dynamics.rules import CATALOG, State, UpdateRule
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.symbolic import modified_equation, notation, numeric_equation
from swd_dynamics.tasks import Task, quadratic, tanh_network
from swd_dynamics.verdict import Verdict, judge, must_be_refuted

CLAIM = (
    "The derived flow F₀ + ηF₁ follows torch's SGD and Adam to second order under each decay;"
    " behind momentum L2 then decays (1+β)/(1−β) times as strongly as stable decay at that order."
)
SOURCE = "theory of this project (heavy ball with decay); Cattaneo et al. 2023, arXiv 2309.00079 (Adam)"

MOMENTUM, DECAY = 0.9, 0.05
SPECTRUM = np.array([1.0, 1.4, 0.7, 1.2, 0.9])
MODES = {"SGD": "L2", "SGDW": "decoupled", "SGDS": "stable", "Adam": "L2", "AdamW": "decoupled", "AdamS": "stable"}
BETAS = (0.8, 0.9)  # a memory of ten steps, so that affordable learning rates are asymptotic
PARTING = (0.5, 0.8, 0.9, 0.95)
MEMORY_NAMES = {"m": "exp_avg", "v": "exp_avg_sq"}  # torch's names for Adam's memory


@dataclass(frozen=True)
class Problem:
    """Where orders are read.

    task : Task — its weights are the start
    gradient, hvp : callable — of the full loss, for the flow
    largest_lr_and_time : dict of family to (η, t) — the largest learning rate, and the time covered
    allowed : dict of order to float — how far a slope may lie from it
    solver : dict — arguments of the solver
    """

    task: Task
    gradient: Callable
    hvp: Callable
    largest_lr_and_time: dict[str, tuple[float, float]]
    allowed: dict[int | str, float]
    solver: dict

    def order(self, name: str, flow: Flow, iterates: Callable) -> Verdict:
        """The order at which a flow follows the real optimizer of that name."""
        lr, t = self.largest_lr_and_time["SGD" if name.startswith("SGD") else "Adam"]
        lrs = [lr / 2**i for i in range(5)]
        verdict = convergence_order(
            flow, self.task.theta, t=t, lrs=lrs, allowed=self.allowed[flow.order], iterates=iterates, **self.solver
        )
        said = f"The order-{flow.order} flow of {name} follows torch on the {self.task.name}"
        return replace(verdict, name=f"{name}, order {flow.order}, {self.task.name}", claim=said)


@dataclass
class Evidence:
    """Distances by problem, entry and order, and the measured ratio of second-order coefficients by β."""

    orders: dict[tuple[str, str, int], dict] = field(default_factory=dict)
    parting: dict[float, float] = field(default_factory=dict)


def smooth_problem(device: str) -> Problem:
    """A quadratic, its derivatives in closed form, at learning rates that are asymptotic."""
    task = quadratic(SPECTRUM, start=(1.0, 1.2, 1.4, 1.1, 1.3), device=device)
    derivatives = (lambda theta: SPECTRUM * theta, lambda theta, vector: SPECTRUM * vector)
    largest_lr_and_time = {"SGD": (5e-4, 0.05), "Adam": (2e-3, 0.4)}
    return Problem(task, *derivatives, largest_lr_and_time, {1: 0.05, 2: 0.05}, {"tolerance": 1e-12})


def digits_problem(setting: Setting) -> Problem:
    """The tanh network on digits, where affordable learning rates are not asymptotic.

    An independent implementation, run before this one, read slopes of 1.02–1.23 and 1.83–1.94 at t = 2: the band.
    """
    task = tanh_network((16,), samples=100 if setting.quick else 500, device=setting.device)
    largest_lr_and_time = {"SGD": (0.005, 0.2) if setting.quick else (0.01, 2.0)}
    solver = {"method": "DOP853", "tolerance": 1e-8}
    return Problem(task, task.gradient, task.hvp, largest_lr_and_time, {1: 0.25, 2: 0.2}, solver)


def measure(setting: Setting) -> Findings:
    """Orders on a quadratic and on the digits network, the parting of L2 and stable decay on both, and a mutant."""
    evidence, verdicts = Evidence(), []
    smooth, digits = smooth_problem(setting.device), digits_problem(setting)
    for name in setting.track(MODES, "modified-equation on a quadratic"):
        verdicts += _orders(evidence, smooth, name)
    for name in setting.track([n for n in MODES if n.startswith("SGD")], "modified-equation on the network"):
        verdicts += _orders(evidence, digits, name)
    for momentum in setting.track(PARTING, "parting of L2 and stable decay"):
        verdicts.append(_parting(evidence, momentum, setting.device))
    return Findings([*verdicts, _parting_on_network(digits.task)], evidence)


def rule(name: str, lr: float = 1e-3) -> UpdateRule:
    """The catalogue's rule with the arguments of this study."""
    arguments = {"momentum": MOMENTUM} if name.startswith("SGD") else {"betas": BETAS}
    return CATALOG[name](lr=lr, weight_decay=DECAY, **arguments)


def real_iterates(task: Task, name: str) -> Callable:
    """The iterates of the real optimizer of that name on a task; each learning rate is run once, for both orders."""
    runs: dict[tuple[float, int], np.ndarray] = {}

    def iterates(the_rule: UpdateRule, state: State, gradient, steps: int) -> np.ndarray:
        key = (the_rule.lr, steps)
        if key not in runs:
            runs[key] = real_run(task, name, the_rule, state, steps)
        return runs[key]

    return iterates


def real_run(task: Task, name: str, the_rule: UpdateRule, state: State, steps: int) -> np.ndarray:
    """θ of the real optimizer of that name from a given state, shape (steps + 1, n)."""
    fresh = task.fresh()
    fresh.set_theta(state.theta)
    direction, decay = cast(Any, the_rule.direction), cast(Any, the_rule.decay)
    arguments = {"lr": the_rule.lr, "weight_decay": decay.weight_decay, **asdict(direction)}
    optimizer = OPTIMIZERS[name](fresh.model.parameters(), **arguments)
    _preset(fresh, optimizer, state.memory._asdict())
    theta = [fresh.theta]
    for k in range(steps):
        optimizer.zero_grad()
        fresh.loss(k).backward()
        optimizer.step()
        theta.append(fresh.theta)
    return np.array(theta)


def _preset(task: Task, optimizer, memory: dict[str, np.ndarray]) -> None:
    """Put the memory into torch's state, late, so that bias corrections are gone."""
    at = 0
    for p in task.model.parameters():
        part = {key: torch.tensor(v[at : at + p.numel()]).view_as(p).to(p) for key, v in memory.items()}
        if "v" in part:
            late = {"step": torch.tensor(1e7, dtype=torch.float32)}
            optimizer.state[p] = late | {MEMORY_NAMES[key]: value for key, value in part.items()}
        else:
            optimizer.state[p] = {"momentum_buffer": part["m"]}
        at += p.numel()


def _orders(evidence: Evidence, problem: Problem, name: str) -> list[Verdict]:
    iterates, verdicts = real_iterates(problem.task, name), []
    for order in (1, 2):
        flow = Flow(rule(name), problem.gradient, problem.hvp, order)
        verdicts.append(problem.order(name, flow, iterates))
        evidence.orders[problem.task.name, name, order] = verdicts[-1].evidence
    if (name, problem.task.name) == ("SGDS", "quadratic"):
        verdicts.append(_mutant(problem, iterates))
    return verdicts


def _mutant(problem: Problem, iterates: Callable) -> Verdict:
    """The second-order term a tenth too large."""
    right = numeric_equation(rule("SGDS"))
    wrong = replace(right, second=lambda *where: 1.1 * right.second(*where))
    verdict = problem.order("SGDS", Flow(rule("SGDS"), problem.gradient, problem.hvp, 2, equation=wrong), iterates)
    claim = "F₁ times 1.1 follows SGDS to second order"
    return must_be_refuted("control: F₁ off by 10 %", replace(verdict, claim=claim))


def _second_coefficient(name: str, momentum: float, device: str) -> float:
    """c of d ln θ/dt = F₀/θ + c·η, from real runs on a flat loss: extrapolated to η = 0 from two learning rates."""

    def at(lr: float) -> float:
        task = quadratic((0.0,), device=device)
        the_rule = CATALOG[name](lr=lr, momentum=momentum, weight_decay=DECAY)
        state = Flow(the_rule, task.gradient, task.hvp, 2).starting_state(task.theta)
        steps = 400
        theta = real_run(task, name, the_rule, state, steps)
        first = numeric_equation(the_rule).first(np.ones(1), np.zeros(1), ())[0]
        return (np.log(theta[-1, 0] / theta[0, 0]) / (lr * steps) - first) / lr

    lr = 0.02 * (1 - momentum) ** 2 / DECAY  # well below (1−√β)²/λ, where L2's momentum begins to oscillate
    return 2 * at(lr / 2) - at(lr)


def _predicted_ratio(momentum: float) -> float:
    """The ratio of the two coefficients of θ̇ in F₁, as derived; a test holds it against (1+β)/(1−β)."""
    f = [modified_equation(CATALOG[n](lr=1e-3, momentum=momentum, weight_decay=DECAY)) for n in ("SGD", "SGDS")]
    rate = [cast(Any, e.second_in_rates.coeff(notation.theta_dot)) for e in f]
    return float(rate[0] / rate[1])


def _parting(evidence: Evidence, momentum: float, device: str) -> Verdict:
    predicted = _predicted_ratio(momentum)
    l2, stable = (_second_coefficient(name, momentum, device) for name in ("SGD", "SGDS"))
    evidence.parting[momentum] = l2 / stable
    return judge(
        f"parting at β = {momentum}",
        f"At second order L2 decays {predicted:.3g} times as strongly as stable decay (β = {momentum}, flat loss)",
        predicted=predicted,
        measured=l2 / stable,
        allowed=0.02 * predicted,
        why="two learning rates extrapolated to 0 leave an error of order η², here below 2 %",
    )


def _parting_on_network(task: Task) -> Verdict:
    """The way from a stable to an L2 run at the same η against the way between their second-order flows."""
    lr, steps = 1e-3, 200
    runs, flows = [], []
    for name in ("SGD", "SGDS"):
        flow = Flow(rule(name, lr), task.gradient, task.hvp, 2)
        flows.append(flow.solve(task.theta, steps=steps, method="DOP853", tolerance=1e-10).theta[-1])
        runs.append(real_run(task, name, flow.rule, flow.starting_state(task.theta), steps)[-1])
    real, predicted = runs[0] - runs[1], flows[0] - flows[1]
    return judge(
        "parting on the network",
        "On the network L2 and stable decay part as their second-order flows say (component along the prediction)",
        predicted=1.0,
        measured=float(real @ predicted / (predicted @ predicted)),
        allowed=0.1,
        why=f"the next order is smaller by about η/(1−β)² = {lr / (1 - MOMENTUM) ** 2:.2g}"
        " times a curvature of order 1",
    )


def draw(evidence: Evidence) -> Figure:
    """Distance of flow and iterates over η for both problems, and the ratio at which L2 and stable decay part."""
    with house_style():
        figure = Figure(figsize=(11.5, 4.4))
        panels = figure.subplots(1, 3)
        problems = sorted({key[0] for key in evidence.orders}, key=lambda name: name != "quadratic")
        for axes, problem in zip(panels, problems, strict=False):
            _draw_orders(axes, problem, evidence)
        panels[0].set_ylabel("largest distance ‖θₖ − θ(ηk)‖, torch run to flow")
        _draw_parting(panels[2], evidence.parting)
        figure.suptitle(
            "The derived flows follow torch to the order they claim; at second order L2 and stable decay part"
        )
    return figure


def _draw_orders(axes, problem: str, evidence: Evidence) -> None:
    dodge = {"L2": 0.94, "decoupled": 1.0, "stable": 1.06}  # they lie on one another: a little aside shows all
    for (where, name, order), seen in evidence.orders.items():
        if where == problem and name.startswith("SGD"):
            mode = MODES[name]
            look = {"color": COLOURS[mode], "markerfacecolor": COLOURS[mode] if order == 2 else "white"}
            label = LABELS[mode] if order == 2 else None
            axes.loglog(seen["lr"] * dodge[mode], seen["error"], MARKERS[mode], label=label, **look)
    for order in (1, 2):
        seen = evidence.orders[problem, "SGDS", order]
        guide = seen["error"][-1] * (seen["lr"] / seen["lr"][-1]) ** order
        axes.loglog(seen["lr"], guide, color=MUTED, linewidth=1, zorder=0)
        said, at, place = (
            ("flow F₀: slope 1", 1, {"xytext": (-12, 12), "ha": "right"})
            if order == 1
            else ("flow F₀ + ηF₁: slope 2", 3, {"xytext": (10, -16), "ha": "left"})
        )
        axes.annotate(
            said, (seen["lr"][at], guide[at]), textcoords="offset points", color="#444444", fontsize=9, **place
        )
    axes.set_xticks(seen["lr"], [f"{lr:.2g}" for lr in seen["lr"]])
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    axes.set(
        xlabel="learning rate η (decays drawn 6 % apart)",
        title=f"heavy ball on the {problem}",
        ylim=(low, high * 6),
    )
    axes.legend(title="decay", loc="upper left", ncols=3, columnspacing=1, handletextpad=0.2)


def _draw_parting(axes, ratios: dict[float, float]) -> None:
    beta = np.linspace(0.4, 0.96, 57)
    axes.semilogy(beta, [_predicted_ratio(float(b)) for b in beta], color="black", label="derived")
    axes.semilogy(list(ratios), list(ratios.values()), "o", color="black", markerfacecolor="white", label="torch runs")
    axes.set_yticks((2, 5, 10, 20, 50), ("2", "5", "10", "20", "50"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set(
        xlabel="momentum β", ylabel="ratio of decay rates at second order", title="a flat loss: L2 over stable decay"
    )
    axes.legend(loc="upper left")


STUDY = Study("modified-equation", CLAIM, SOURCE, measure, draw)

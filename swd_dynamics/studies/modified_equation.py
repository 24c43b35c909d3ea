"""Study: the derived flows follow real optimizers to first and second order; L2 and stable decay differ at second."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from matplotlib.figure import Figure

from swd_dynamics.crosscheck import convergence_order
from swd_dynamics.flows import Flow
from swd_dynamics.plots import COLOURS, LABELS, MUTED, house_style, measured
from swd_dynamics.rules import CATALOG, State, UpdateRule
from swd_dynamics.studies.judging import judge_relative
from swd_dynamics.studies.methods import Method, family
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.studies.training import begin_late, train
from swd_dynamics.symbolic import modified_equation, notation, numeric_equation
from swd_dynamics.tasks import Task, quadratic, tanh_network
from swd_dynamics.verdict import Verdict, judge, must_be_refuted

CLAIM = (
    "The derived flow F₀ + ηF₁ follows torch's SGD and Adam to second order with each kind of decay. "
    "With momentum, L2 and stable decay have the same F₀, but the decay in F₁ is (1+β)/(1−β) times as strong with L2."
)
SOURCE = "theory of this project (heavy ball with decay); Cattaneo et al. 2023, arXiv 2309.00079 (Adam)"
CAPTION = (
    "Left: how far torch's runs are from two derived flows, dθ/dt = F₀ (open) and dθ/dt = F₀ + ηF₁ (filled), as the"
    " largest Euclidean distance ‖θ_k − θ(ηk)‖ of all steps, with β = 0.9 and λ = 0.05, up to the time ηk = 2 (0.2 in"
    " the short form). Each run starts with the momentum that belongs to the flow. The points of the three decays"
    " nearly coincide, so those of L2 and stable decay are moved sideways by 7 %: all three of a group belong to the η"
    " of its middle. At the larger η the next power of η adds to the distance, so that the points leave the grey"
    " lines. Right: the decay in F₁ of L2 divided by that of stable decay on a flat loss, whose gradient is 0. F₁"
    " is multiplied by η, so the difference of the runs is small where η is small.\n\n"
    "If the runs start from m = 0, both distances fall only like η (measured on the network of the short form, with η"
    " up to 0.005). A verdict's order is the slope at the smallest η, extrapolated from all η. Also tested, but not"
    " drawn: SGD on a quadratic, and Adam with β = (0.8, 0.9). With torch's β₂ = 0.999 the flow F₀ + ηF₁ of Adam is no"
    " good model of the first thousands of steps, as the study two-limits shows."
)

MOMENTUM, DECAY = 0.9, 0.05
SPECTRUM = np.array([1.0, 1.4, 0.7, 1.2, 0.9])
BETAS = (0.8, 0.9)  # v̂ averages over ten steps, so that affordable learning rates are asymptotic
SGD_METHODS = family("SGD", lr=1e-3, momentum=MOMENTUM, weight_decay=DECAY)
ADAM_METHODS = family("Adam", lr=1e-3, betas=BETAS, weight_decay=DECAY)
PARTING = (0.5, 0.8, 0.9, 0.95)  # values of β at which L2 and stable decay are compared


@dataclass(frozen=True)
class Problem:
    """A task on which orders are measured.

    task : Task — its weights are the start
    gradient, hvp : callable — of the full loss, for the flow
    largest_lr_and_time : dict of "SGD" or "Adam" to (η, t) — the largest learning rate, and the time covered
    allowed : dict of order to float — the largest |slope − order|
    solver : dict — arguments of the solver
    """

    task: Task
    gradient: Callable
    hvp: Callable
    largest_lr_and_time: dict[str, tuple[float, float]]
    allowed: dict[int | str, float]
    solver: dict

    def order(self, method: Method, flow: Flow, iterates: Callable) -> Verdict:
        """The order at which a flow follows the real optimizer of a method."""
        lr, t = self.largest_lr_and_time["SGD" if method in SGD_METHODS else "Adam"]
        lrs = [lr / 2**i for i in range(5)]
        verdict = convergence_order(
            flow, self.task.theta, t=t, lrs=lrs, allowed=self.allowed[flow.order], iterates=iterates, **self.solver
        )
        where = f"{method.name}, order {flow.order}, {self.task.name}"
        flow_name = "F₀" if flow.order == 1 else "F₀ + ηF₁"
        said = f"The flow {flow_name} of {method.name} follows torch on the {self.task.name} to order {flow.order}"
        return replace(verdict, name=where, claim=said)


@dataclass
class FlowErrors:
    """The distances from torch's runs to the flows, and the ratio of second-order decays of L2 and stable decay.

    orders : dict of (problem, method, order) to dict — the arrays of convergence_order
    parting : dict of β to float — the ratio measured
    """

    orders: dict[tuple[str, str, int], dict] = field(default_factory=dict)
    parting: dict[float, float] = field(default_factory=dict)


def smooth_problem(setting: Setting) -> Problem:
    """A quadratic, its derivatives in closed form, at learning rates that are asymptotic."""
    task = quadratic(SPECTRUM, start=(1.0, 1.2, 1.4, 1.1, 1.3), device=setting.device)
    derivatives = (lambda theta: SPECTRUM * theta, lambda theta, vector: SPECTRUM * vector)
    times = (0.025, 0.2) if setting.quick else (0.05, 0.4)
    largest_lr_and_time = {"SGD": (5e-4, times[0]), "Adam": (2e-3, times[1])}
    return Problem(task, *derivatives, largest_lr_and_time, {1: 0.05, 2: 0.05}, {"tolerance": 1e-12})


def digits_problem(setting: Setting) -> Problem:
    """The tanh network on digits, at learning rates at which the next order is still up to a fifth of the distance."""
    task = tanh_network((16,), samples=100 if setting.quick else 500, device=setting.device)
    largest_lr_and_time = {"SGD": (0.005, 0.2) if setting.quick else (0.01, 2.0)}
    solver = {"method": "DOP853", "tolerance": 1e-8}
    return Problem(task, task.gradient, task.hvp, largest_lr_and_time, {1: 0.05, 2: 0.05}, solver)


def measure(setting: Setting) -> Findings:
    """Orders on a quadratic and on a network, and the difference of L2 and stable decay on both."""
    errors, verdicts = FlowErrors(), []
    smooth, digits = smooth_problem(setting), digits_problem(setting)
    for method in setting.track(SGD_METHODS + ADAM_METHODS, "modified-equation on a quadratic"):
        verdicts += _orders(errors, smooth, method)
    for method in setting.track(SGD_METHODS, "modified-equation on the network"):
        verdicts += _orders(errors, digits, method)
    for momentum in setting.track(PARTING, "difference of L2 and stable decay"):
        verdicts.append(_parting(errors, momentum, setting.device))
    return Findings([*verdicts, _parting_on_network(digits.task)], errors)


def real_iterates(task: Task, method: Method) -> Callable:
    """The iterates of a real optimizer on a task; each learning rate is run once, for both orders."""
    runs: dict[tuple[float, int], np.ndarray] = {}

    def iterates(rule: UpdateRule, state: State, gradient, steps: int) -> np.ndarray:
        key = (rule.lr, steps)
        if key not in runs:
            runs[key] = real_run(task, method, rule.lr, state, steps)
        return runs[key]

    return iterates


def real_run(task: Task, method: Method, lr: float, state: State, steps: int) -> np.ndarray:
    """θ of the real optimizer from a given state, shape (steps + 1, n)."""
    fresh = task.fresh()
    fresh.set_theta(state.theta)
    optimizer = method.optimizer(fresh.model.parameters(), lr=lr)
    begin_late(optimizer, state.memory._asdict())
    start = fresh.theta
    return np.array([start, *(fresh.theta for _ in train(optimizer, fresh.loss, steps))])


def _orders(errors: FlowErrors, problem: Problem, method: Method) -> list[Verdict]:
    iterates, verdicts = real_iterates(problem.task, method), []
    for order in (1, 2):
        flow = Flow(method.rule(), problem.gradient, problem.hvp, order)
        verdicts.append(problem.order(method, flow, iterates))
        errors.orders[problem.task.name, method.name, order] = verdicts[-1].evidence
    if (method.name, problem.task.name) == ("SGDS", "quadratic"):
        verdicts.append(_control(problem, method, iterates))
    return verdicts


def _control(problem: Problem, method: Method, iterates: Callable) -> Verdict:
    """The negative control: the second-order term a tenth too large."""
    right = numeric_equation(method.rule())
    wrong = replace(right, second=lambda *where: 1.1 * right.second(*where))
    flow = Flow(method.rule(), problem.gradient, problem.hvp, 2, equation=wrong)
    false = replace(
        problem.order(method, flow, iterates),
        claim="The flow F₀ + 1.1·ηF₁ of SGDS follows torch on the quadratic to order 2",
    )
    return must_be_refuted("control: F₁ off by 10 %", false)


def _second_coefficient(name: str, momentum: float, device: str) -> float:
    """c of d ln θ/dt = F₀/θ + c·η, from real runs on a flat loss: extrapolated to η = 0 from two learning rates."""
    method = Method(name, {"momentum": momentum, "weight_decay": DECAY})

    def at(lr: float) -> float:
        task, rule, steps = quadratic((0.0,), device=device), method.rule(lr=lr), 400
        state = Flow(rule, task.gradient, task.hvp, 2).starting_state(task.theta)
        theta = real_run(task, method, lr, state, steps)
        first = numeric_equation(rule).first(np.ones(1), np.zeros(1), ())[0]
        return (np.log(theta[-1, 0] / theta[0, 0]) / (lr * steps) - first) / lr

    lr = 0.02 * (1 - momentum) ** 2 / DECAY  # well below (1−√β)²/λ, where L2's momentum begins to oscillate
    return 2 * at(lr / 2) - at(lr)


def _predicted_ratio(momentum: float) -> float:
    """The ratio of the two coefficients of θ̇ in F₁, as derived; a test compares it with (1+β)/(1−β)."""
    f = [modified_equation(CATALOG[n](lr=1e-3, momentum=momentum, weight_decay=DECAY)) for n in ("SGD", "SGDS")]
    rate = [cast(Any, e.second_in_rates.coeff(notation.theta_dot)) for e in f]
    return float(rate[0] / rate[1])


def _parting(errors: FlowErrors, momentum: float, device: str) -> Verdict:
    predicted = _predicted_ratio(momentum)
    l2, stable = (_second_coefficient(name, momentum, device) for name in ("SGD", "SGDS"))
    errors.parting[momentum] = l2 / stable
    claim = f"On a flat loss the decay in F₁ is {predicted:.3g} times as strong with L2 as with stable, β = {momentum}"
    why = "the extrapolation from two learning rates to 0 has an error of order η², here below 2 %"
    return judge_relative(f"parting at β = {momentum}", claim, predicted, l2 / stable, 0.02, why)


def _parting_on_network(task: Task) -> Verdict:
    """The difference of an L2 and a stable run, compared with the difference of their second-order flows."""
    lr, steps = 1e-3, 200
    runs, flows = [], []
    for method in SGD_METHODS:
        if method.mode in ("L2", "stable"):
            flow = Flow(method.rule(lr=lr), task.gradient, task.hvp, 2)
            flows.append(flow.solve(task.theta, steps=steps, method="DOP853", tolerance=1e-10).theta[-1])
            runs.append(real_run(task, method, lr, flow.starting_state(task.theta), steps)[-1])
    real, predicted = runs[0] - runs[1], flows[0] - flows[1]
    return judge(
        "parting on the network",
        "On the network L2 and stable decay differ as their flows F₀ + ηF₁ do (component along the prediction)",
        predicted=1.0,
        measured=float(real @ predicted / (predicted @ predicted)),
        allowed=0.1,
        why=f"the next order is smaller by about the factor η/(1−β)² = {lr / (1 - MOMENTUM) ** 2:.2g}"
        ", times a curvature of order 1",
    )


# For each order: the learning rate at which the guide line has its label, and the label.
GUIDES = {
    1: (1, {"text": "open: flow dθ/dt = F₀\nerror ∝ η", "xytext": (-8, 14), "ha": "right"}),
    2: (2, {"text": "filled: flow\ndθ/dt = F₀ + ηF₁\nerror ∝ η²", "xytext": (16, -16), "ha": "left"}),
}
SHOWN = 0.9  # the momentum at which the ratio is marked


def draw(errors: FlowErrors) -> Figure:
    """How far the network's runs are from the flows, over η, and the ratio of L2's and stable decay's terms in F₁."""
    times = f"{errors.parting[SHOWN]:.0f}"
    with house_style():
        figure = Figure(figsize=(7.8, 4.2))
        orders, parting = figure.subplots(1, 2)
        _draw_orders(orders, errors)
        _draw_parting(parting, errors.parting, times)
        figure.suptitle(
            "Runs follow the flow dθ/dt = F₀ + ηF₁ to second order with each kind of decay.\n"
            f"L2 and stable decay share F₀, but decay in F₁ is {times} times as strong with L2 (β = {SHOWN:g})",
            x=0.01,
            ha="left",
        )
    return figure


def _draw_orders(axes, errors: FlowErrors) -> None:
    (network,) = {key[0] for key in errors.orders} - {"quadratic"}
    dodge = {"L2": 0.93, "decoupled": 1.0, "stable": 1.07}  # their points coincide: drawn side by side, all show
    for method in SGD_METHODS:
        for order in (1, 2):
            mode, seen = method.mode, errors.orders[network, method.name, order]
            look = measured(mode, markerfacecolor=COLOURS[mode] if order == 2 else "white")
            axes.loglog(
                seen["lr"] * dodge[mode], seen["error"], **look | {"label": LABELS[mode] if order == 2 else None}
            )
    for order in (1, 2):
        seen = errors.orders[network, "SGDS", order]
        guide = seen["error"][-1] * (seen["lr"] / seen["lr"][-1]) ** order
        axes.loglog(seen["lr"], guide, color=MUTED, linewidth=1, zorder=0)
        at, place = GUIDES[order]
        axes.annotate(xy=(seen["lr"][at], guide[at]), textcoords="offset points", color="#444444", **place)
    axes.set_xticks(seen["lr"], [f"{lr:.2g}" for lr in seen["lr"]])
    axes.minorticks_off()
    axes.set(xlabel="learning rate η (points moved sideways by ± 7 %)", ylabel="largest distance ‖θₖ − θ(ηk)‖")
    axes.set_title(f"SGD with β = {MOMENTUM:g}, tanh network on digits")
    axes.legend(loc="lower right", handletextpad=0.2)


def _draw_parting(axes, ratios: dict[float, float], times: str) -> None:
    beta = np.linspace(0.4, 0.96, 57)
    axes.semilogy(beta, [_predicted_ratio(float(b)) for b in beta], color="black", label="derived: (1+β)/(1−β)")
    axes.semilogy(list(ratios), list(ratios.values()), "o", color="black", markerfacecolor="white", label="torch runs")
    axes.annotate(
        f"{times} times", (SHOWN, ratios[SHOWN]), (-10, 4), textcoords="offset points", ha="right", fontweight="bold"
    )
    axes.set_yticks((2, 5, 10, 20, 50), ("2", "5", "10", "20", "50"))
    axes.minorticks_off()
    axes.set(
        xlabel="momentum β",
        ylabel="decay in F₁: L2 / stable decay",
        title="SGD with momentum, gradient 0",
    )
    axes.legend(loc="upper left")


STUDY = Study("modified-equation", CLAIM, SOURCE, measure, draw, CAPTION)

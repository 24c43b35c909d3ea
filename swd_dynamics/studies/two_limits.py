"""Study: which continuous model of Adam holds, the modified equation or the flow of weights and memory, and where."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter

from swd_dynamics.flows import grid
from swd_dynamics.flows.batched import Field, Solver, by_differences
from swd_dynamics.flows.flow import AFTER_SEEDING
from swd_dynamics.plots import house_style
from swd_dynamics.rules import UpdateRule
from swd_dynamics.studies.methods import Method, family
from swd_dynamics.studies.quartic_loss import COUPLING, CUBIC, START, gradient, hvp
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.symbolic import numeric_edge, numeric_steps
from swd_dynamics.verdict import Verdict, judge, must_be_refuted

CLAIM = (
    "The flow of Adam's weights and memory together follows torch with an error of order η where β is fixed and where 1"
    " − β is proportional to η. The modified equation F₀ + ηF₁ has an error of order η² where β is fixed, but no order"
    " where 1 − β is proportional to η. At torch's default β₂ = 0.999, over a time of 0.5, it is the worse of the two"
    " in runs of 64 steps and more, and up to two memories of v worse even than F₀. That the memory is shorter than the"
    " run does not suffice. Which flow is nearer follows from the flows alone."
)
SOURCE = "theory of this project; Cattaneo et al. 2023, 2309.00079 (β fixed); Ma, Wu & E 2020, 2009.06125 (1 − β ∝ η)"
CAPTION = (
    "Runs of AdamW without noise, on a smooth loss of four weights, up to the time ηk = 0.512, in which the"
    " gradients fall by about half. An error is the largest distance ‖θ_k − θ(ηk)‖ at four times. The memory is"
    " Adam's m and v, which F₀ + ηF₁ does not have. m remembers 1/(1 − β₁) steps, and v 1/(1 − β₂). Left: the colours"
    " are measured, and the black line is derived without a run. Its two branches enclose a sliver near β₂ = β₁,"
    " where the two memories nearly cancel in F₁, so that F₀ + ηF₁ is nearer up to the largest η. Below the dashed"
    " line the memory of v is longer than the run. Right: measured errors, joined by lines. Either the numbers of"
    " steps are fixed (filled), or the times η/(1 − β₁) and η/(1 − β₂), so that 1 − β is proportional to η (hollow)."
    " No flow here holds at the edge of stability.\n\n"
    "For the black line both flows are compared with the flow of weights and memory to eighth order in the step. In"
    " long runs of torch's AdamW, which come to that edge, the largest eigenvalue of the preconditioned Hessian ends,"
    " in the mean, within 12 % of the derived limit, while in the flow of weights and memory it ends at up to 925"
    " times the limit, because v of the flow decays. Also tested, but not drawn: the flow F₀, Adam with L2 and with"
    " stable decay in both limits, and β₁ = 0.5. The tolerances of the map, of the edge and of the default β, the"
    " eighth order, and the two memories of v up to which F₀ + ηF₁ is worse than F₀, were set after pilot runs. The"
    " claim was narrowed after the measurement: it had spoken of every β and every η that was run."
)

DECAY = 0.1
TIME, TIMES = 0.512, 4  # ηk at the end, at which no weight has come near its minimum; and where errors are measured
AT_TIMES = TIME * np.arange(1, TIMES + 1) / TIMES
FEWEST = 8  # steps of the shortest run
SHORT = {"fixed": 256, "proportional": 64}  # steps from which the short form of the study measures an order
BETA1 = (0.5, 0.9)
DEFAULT = (0.9, 0.999)
# 1 − β₂ on the map, in the short form and in full: at the first few the errors cross at learning rates that are run.
GAPS = [0.001, 0.01, 0.06, 0.25], [3e-4, 1e-3, 3e-3, 0.01, 0.02, 0.035, 0.05, 0.065, 0.08, 0.1, 0.13, 0.18, 0.25, 0.4]
FIXED = (0.8, 0.9)  # β in the limit in which memory is fast
MEMORY = (0.04, 0.2)  # η/(1 − β) in the limit in which memory is part of the state, in units of time
METHODS = {method.mode: method for method in family("Adam", weight_decay=DECAY)}
MODELS = {1: "F₀", 2: "F₀ + ηF₁", "state": "weights and memory"}
# The colours are those of the map, which are the colours of no decay mode: light and dark violet and olive.
MODEL_LOOKS = {2: ("#542788", "^"), "state": ("#7A7300", "o")}
WHICH = LinearSegmentedColormap.from_list("which", ["#3B3800", "#A39C2A", "#F7F7F7", "#9A86C4", "#2D004B"])
BELOW: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.19), "ncols": 2, "fontsize": 7.5}
GUIDE, STATE = np.array([5e-4, 0.12]), "weights\nand memory\nnearer"  # the ends of the dashed line, in 1 − β₂; a label
DIVERGED: dict[str, Any] = {"facecolor": "white", "edgecolor": "black", "hatch": "xxxx", "linewidth": 0}
TERMS = 8  # of the flow that stands for torch's runs: at β₁ = 0.5, four were too few near β₂ = β₁
SLOPE = 0.05  # allowed of an order: the next powers of η, of which the extrapolation leaves some percent
BOUNDARY = 0.05  # relative, of η: two errors that are each off by 1 % move the crossing of two lines by about 3 %
NEARER = 0.05  # share of the cells: on the boundary itself, the nearer model is decided by the last percent
LONG = 64  # steps: in shorter runs, the whole run is the start of Adam's memory
TIMES_NEARER = 0.2
LONG_RUN = 3000  # steps: thirty memories of v, in which v of the flow falls by e⁻²⁵
IN_RUNS = "In a long run the largest eigenvalue comes to the derived limit"
AT_EDGE = 0.15  # v falls between bursts of the oscillation, so that the eigenvalue swings between half and 1.1 limits


class Map(NamedTuple):
    """Errors over η and β₂ at one β₁, shape (η, β₂).

    errors : dict of model to array — distance of torch's runs from the flow
    predicted : dict of model to array — distance of the second-order flow of weights and memory from the flow
    """

    beta1: float
    lrs: np.ndarray
    gaps: np.ndarray
    errors: dict[Any, np.ndarray]
    predicted: dict[Any, np.ndarray]

    def crossings(self, found: dict[Any, np.ndarray]) -> np.ndarray:
        """For each β₂ the largest η at which both models have the same error; NaN where there is none."""
        ratio = np.log(found["state"] / found[2])
        return np.array([_crossing(np.log(self.lrs), column) for column in ratio.T])


class AtEdge(NamedTuple):
    """The largest eigenvalue of the Hessian in units of the limit, in torch's runs and in the flow at their end."""

    lr: float
    run: float
    flow: float


def torch_runs(method: Method, betas: list[tuple[float, float]], lr: float, steps: int, kept: list[int]) -> np.ndarray:
    """θ of torch's runs after the numbers of steps to keep, shape (cells, kept, 4).

    Every pair of β is a parameter group with weights of its own.
    """
    theta = torch.as_tensor(np.tile(START, (len(betas), 1)))
    slope, groups = torch.zeros_like(theta), []
    for weights, gradients, pair in zip(theta, slope, betas, strict=True):
        parameter = torch.nn.Parameter(weights)
        parameter.grad = gradients
        groups.append({"params": [parameter], "betas": pair})
    optimizer, found = method.optimizer(groups, lr=lr), []
    for k in range(1, steps + 1):
        slope.copy_(gradient(theta))
        optimizer.step()
        if k in kept:
            found.append(theta.numpy().copy())
    return np.array(found).swapaxes(0, 1)


def errors_of(real: np.ndarray, flows: dict[Any, np.ndarray]) -> dict[Any, np.ndarray]:
    """The largest distance at the times that are measured, for each model; infinite if the flow diverged.

    The last two axes of the arguments are times and weights.
    """
    found = {model: np.linalg.norm(real - flow, axis=-1).max(axis=-1) for model, flow in flows.items()}
    return {model: np.where(np.isnan(error), np.inf, error) for model, error in found.items()}


def quarters(steps: int) -> list[int]:
    return [steps * i // TIMES for i in range(1, TIMES + 1)]  # at AT_TIMES


def flows_of(rule: Callable[..., UpdateRule], over: dict[str, Any]) -> dict[Any, np.ndarray]:
    """θ by each model, for every cell of a grid."""
    orders: tuple[Any, ...] = tuple(MODELS)
    return {o: grid(rule, gradient, START, over, at_times=AT_TIMES, order=o, hvp=hvp).theta.values for o in orders}


def finer_state(rule: UpdateRule, cells: int) -> np.ndarray:
    """θ by the flow of weights and memory to order TERMS in the step, shape (cells, times, 4).

    The flow that a map z → z + Δz follows exactly is dz/dk = log(1 + Δ)z = Δz − ½Δ²z + ⅓Δ³z − …, where Δ²z, Δ³z, …
    are the higher differences of the next steps. The flow of order "state" is the first term.
    """
    steps, lr = numeric_steps(rule), np.broadcast_to(np.asarray(rule.lr), (cells, 1))
    size, weights = START.size, _weights_of_changes()

    def fields(rows: Any) -> Field:
        step, eta = steps(rows), lr[rows]

        def slope(t, z):
            k, total = t / eta + 1 + AFTER_SEEDING, np.zeros_like(z)
            for i, weight in enumerate(weights):
                theta, *memory = np.split(z, z.shape[1] // size, axis=1)
                after = np.concatenate(step(theta, gradient(theta), memory, k + i), axis=1)
                total, z = total + weight * (after - z), after
            return total / eta

        return Field(slope, lambda t, z: by_differences(slope, t, z))

    theta = np.tile(START, (cells, 1))
    start = np.concatenate([theta, *rule.start(theta).memory], axis=1)
    return Solver(fields, AT_TIMES, np.ones_like(start), 1e-9).solve(start).z[..., :size]


def _weights_of_changes() -> np.ndarray:
    """The factors of the changes by the next TERMS steps in Δ − ½Δ² + ⅓Δ³ − …: 3/2 and −1/2 for two terms."""
    total, power = np.zeros(TERMS), np.ones(1)
    for j in range(1, TERMS + 1):
        total[:j] += (-1) ** (j + 1) / j * power
        power = np.convolve(power, [-1.0, 1.0])
    return total


def measure(setting: Setting) -> Findings:
    """Maps of the errors over η and β₂, the errors along both limits, and runs that come to the edge of stability."""
    maps = [measure_map(beta1, setting) for beta1 in setting.track(BETA1, "two-limits: maps")]
    limits = {mode: along_limits(method, setting) for mode, method in METHODS.items()}
    edges = [at_the_edge(lr) for lr in setting.track((0.01,) if setting.quick else (0.01, 0.003), "two-limits: edge")]
    verdicts = [*_of_orders(limits), *(v for each in maps for v in _of_map(each)), *_of_default(maps[-1])]
    return Findings(
        [*verdicts, _edge("edge: run", IN_RUNS, [e.run for e in edges]), *_controls(limits, maps, edges)],
        (maps[-1], limits["decoupled"]),
    )


def measure_map(beta1: float, setting: Setting) -> Map:
    """The errors of each model at one β₁, over η and β₂."""
    method, gaps = METHODS["decoupled"], np.array(GAPS[not setting.quick])
    counts = FEWEST * 2 ** np.arange(7 if setting.quick else 11)
    lrs, betas = TIME / counts, [(beta1, float(1 - gap)) for gap in gaps]
    real = np.array([torch_runs(method, betas, TIME / n, n, quarters(n)) for n in counts.tolist()])
    flows = flows_of(method.rule, {"lr": lrs, "betas": betas})
    columns = np.repeat(lrs, len(gaps))[:, None], np.tile(1 - gaps, len(lrs))[:, None]
    best = finer_state(method.rule(lr=columns[0], betas=(beta1, columns[1])), len(columns[0]))
    return Map(beta1, lrs, gaps, errors_of(real, flows), errors_of(best.reshape(real.shape), flows))


def along_limits(method: Method, setting: Setting) -> dict[str, tuple[np.ndarray, dict[Any, np.ndarray]]]:
    """η, and the error of each model over η, in the limit of fixed β and in that of 1 − β proportional to η."""
    found = {}
    betas: dict[str, Callable[[Any], tuple]] = {
        "fixed": lambda lr: FIXED,
        "proportional": lambda lr: tuple(1 - lr / memory for memory in MEMORY),
    }
    for limit, pair in betas.items():
        counts = (SHORT[limit] if setting.quick else 32) * 2 ** np.arange(3 if setting.quick else 7)
        lrs = TIME / counts
        real = [torch_runs(method, [pair(TIME / n)], TIME / n, n, quarters(n))[0] for n in counts.tolist()]
        flows = flows_of(lambda lr, pair=pair: method.rule(lr=lr, betas=pair(lr)), {"lr": lrs})
        found[limit] = lrs, errors_of(np.array(real), flows)
    return found


def at_the_edge(lr: float) -> AtEdge:
    """A long run: the mean over its last third, and the flow of weights and memory at its end."""
    method, betas, steps = METHODS["decoupled"], (0.9, 0.99), LONG_RUN
    edge = numeric_edge(method.rule(lr=lr, betas=betas))

    def eigenvalue(theta: np.ndarray, v: np.ndarray) -> float:
        limit = edge.limit(theta, (np.zeros_like(theta), v))
        hessian = COUPLING + np.diag(3 * CUBIC * theta**2)
        return float(np.linalg.eigvalsh(hessian / np.sqrt(np.outer(limit, limit)))[-1])

    late = list(range(steps - steps // 3, steps + 1, 50))
    seen = [eigenvalue(theta, v) for theta, v in torch_v(method, betas, lr, steps, late)]
    flow = grid(
        lambda lr: method.rule(lr=lr, betas=betas), gradient, START, {"lr": [lr]}, at_steps=steps, order="state"
    )
    return AtEdge(lr, float(np.mean(seen)), eigenvalue(flow.theta.values.ravel(), flow.v.values.ravel()))


def torch_v(method: Method, betas: tuple[float, float], lr: float, steps: int, kept: list[int]) -> list:
    """θ and v of torch's run after the numbers of steps to keep."""
    parameter = torch.nn.Parameter(torch.as_tensor(START.copy()))
    optimizer, found = method.optimizer([parameter], lr=lr, betas=betas), []
    for k in range(1, steps + 1):
        parameter.grad = gradient(parameter.detach())
        optimizer.step()
        if k in kept:
            found.append((parameter.detach().numpy().copy(), optimizer.state[parameter]["exp_avg_sq"].numpy().copy()))
    return found


def _crossing(x: np.ndarray, y: np.ndarray) -> float:
    """e to the power of the first x, in the order given, at which y becomes positive by a line between two points."""
    after = np.flatnonzero((y[1:] > 0) & (y[:-1] <= 0))
    if len(after) == 0:
        return float("nan")
    i = int(after[-1])
    return float(np.exp(x[i] - y[i] * (x[i + 1] - x[i]) / (y[i + 1] - y[i])))


def order_of(lrs: np.ndarray, errors: np.ndarray) -> float:
    """The slope of an error over η at η → 0: of the last two halvings, extrapolated."""
    before, last = np.log2(errors[-3:-1] / errors[-2:])
    return float(2 * last - before)


def _of_orders(limits: dict[str, dict]) -> Iterator[Verdict]:
    for mode, found in limits.items():
        yield _order(f"{mode}: F₀ + ηF₁, β fixed", mode, found["fixed"], 2, 2.0)
        yield _order(f"{mode}: weights and memory, β fixed", mode, found["fixed"], "state", 1.0)
        yield _order(f"{mode}: weights and memory, 1 − β ∝ η", mode, found["proportional"], "state", 1.0)


def _order(name: str, mode: str, found: tuple[np.ndarray, dict], model: Any, order: float) -> Verdict:
    where = "β is fixed" if "fixed" in name else "1 − β is proportional to η"
    claim = f"{METHODS[mode].name}'s flow of {MODELS[model]} has an error of order {order:g} where {where}"
    why = "the next powers of η, after an extrapolation from the last two halvings"
    measured = order_of(found[0], found[1][model])
    return judge(name, claim, predicted=order, measured=measured, allowed=SLOPE, why=why)


def _of_map(found: Map) -> Iterator[Verdict]:
    measured, predicted = found.crossings(found.errors), found.crossings(found.predicted)
    ratios = (measured / predicted)[np.isfinite(measured)]
    yield judge(
        f"β₁ = {found.beta1}: boundary",
        "At the predicted η both models have the same error in torch's runs, at each β₂",
        predicted=1.0,
        measured=float(ratios[np.argmax(np.abs(np.log(ratios)))]),
        allowed=BOUNDARY,
        why="measured/predicted where it is farthest from 1; the flow that stands for the runs is off by a percent",
    )
    nearer = found.predicted["state"] < found.predicted[2]
    yield _nearer(f"β₁ = {found.beta1}: nearer model", "The nearer model is the predicted one", found, nearer)


def _nearer(name: str, claim: str, found: Map, predicted: np.ndarray) -> Verdict:
    right = np.mean((found.errors["state"] < found.errors[2]) == predicted)
    why = "the share of all η and β₂ in which it is; on the boundary itself the last percent of an error decides"
    return judge(name, claim, predicted=1.0, measured=float(right), allowed=NEARER, why=why)


def _of_default(found: Map) -> Iterator[Verdict]:
    default = {
        model: errors[:, np.isclose(found.gaps, 1 - DEFAULT[1])].ravel() for model, errors in found.errors.items()
    }
    long, early = found.lrs <= TIME / LONG, found.lrs * 2 / (1 - DEFAULT[1]) >= TIME
    yield judge(
        "default β: F₁ makes it worse",
        f"At β = {DEFAULT} a run of up to {2 / (1 - DEFAULT[1]):.0f} steps is nearer to the flow F₀ than to F₀ + ηF₁",
        predicted=0.0,
        measured=float((default[1] / default[2])[early].max()),
        allowed=1.0,
        why="the largest ratio of the two errors in runs of up to two memories of v; at 1 they are equal",
    )
    yield judge(
        "default β: weights and memory",
        f"At β = {DEFAULT} a run is five times nearer to the flow of weights and memory than to F₀ or F₀ + ηF₁",
        predicted=0.0,
        measured=float((default["state"] / np.fmin(default[1], default[2]))[long].max()),
        allowed=TIMES_NEARER,
        why=f"the largest ratio of the two errors in runs of at least {LONG} steps",
    )


def _edge(name: str, claim: str, values: list[float]) -> Verdict:
    why = "the worst of all η, in units of the limit; v falls between bursts, and the eigenvalue swings about its mean"
    worst = max(values, key=lambda value: abs(value - 1))
    return judge(name, claim, predicted=1.0, measured=worst, allowed=AT_EDGE, why=why)


def _controls(limits: dict[str, dict], maps: list[Map], edges: list[AtEdge]) -> Iterator[Verdict]:
    """The negative controls: each model in the limit of the other, too simple a criterion, and a flow's edge."""
    found = limits["decoupled"]
    false = _order("1 − β ∝ η", "decoupled", found["proportional"], 2, 2.0)
    yield must_be_refuted("control: F₀ + ηF₁ where 1 − β ∝ η", false)
    second = _order("fixed", "decoupled", found["fixed"], "state", 2.0)
    yield must_be_refuted("control: weights and memory of order 2", second)
    claim = "F₀ + ηF₁ is the nearer model where the memory of v is shorter than the run"
    false = _nearer("", claim, maps[-1], maps[-1].gaps * TIME < maps[-1].lrs[:, None])
    yield must_be_refuted("control: memory shorter than the run", false)
    claim = "In the flow of weights and memory the largest eigenvalue comes to the limit too"
    yield must_be_refuted("control: edge of the flow", _edge("", claim, [e.flow for e in edges]))


def draw(data: tuple[Map, dict[str, tuple[np.ndarray, dict]]]) -> Figure:
    """Which model is nearer over η and β₂, and the errors of both along both limits."""
    found, limits = data
    with house_style():
        figure = Figure(figsize=(8.2, 4.6))
        where, along = figure.subplots(1, 2)
        _draw_map(figure, where, found)
        _draw_limits(along, limits)
        figure.suptitle(
            f"At β₂ = 0.999, up to the time ηk = {TIME:.1f}, AdamW is nearer to the flow of weights and memory\n"
            "than to F₀ + ηF₁, the flow of the weights alone, which needs memory far shorter than the run",
            x=0.01,
            ha="left",
        )
    return figure


def _draw_map(figure: Figure, axes: Any, found: Map) -> None:
    ratio = found.errors["state"] / found.errors[2]
    shown = np.log10(np.where(ratio > 0, ratio, np.nan)).T  # 0 where F₀ + ηF₁ diverged: there the background is seen
    mesh = axes.pcolormesh(found.lrs, found.gaps, shown, cmap=WHICH, vmin=-4.5, vmax=4.5, rasterized=True)
    axes.patch.set(**DIVERGED)
    axes.contour(found.lrs, found.gaps, np.log(found.predicted["state"] / found.predicted[2]).T, [0], colors="black")
    axes.plot([], [], color="black", label="equal errors, predicted")
    axes.loglog(TIME * GUIDE, GUIDE, "--", color="black", linewidth=1, label="memory of v as long as the run")
    axes.add_patch(Rectangle((0, 0), 0, 0, **DIVERGED, label="F₀ + ηF₁ diverged"))
    for x, y, said, size in (0.04, 0.92, "F₀ + ηF₁\nnearer", 8.5), (0.04, 0.45, STATE, 8.5), (0.62, 0.97, STATE, 7):
        axes.text(x, y, said, transform=axes.transAxes, fontsize=size, fontweight="bold", va="top")
    axes.plot(1e-3, 1 - DEFAULT[1], "*", color="black", markersize=11)
    axes.text(1.4e-3, 1 - DEFAULT[1], "torch's default", va="center", fontsize=8.5)
    axes.set(xlabel="learning rate η", ylabel="1 − β₂", title=f"AdamW, β₁ = {found.beta1}: which flow is nearer?")
    axes.legend(**BELOW, handlelength=1.6, columnspacing=1)
    bar = figure.colorbar(mesh, ax=axes, pad=0.03, label="error: weights and memory / F₀ + ηF₁")
    bar.set_ticks([-4, -2, 0, 2, 4], labels=["10⁻⁴", "10⁻²", "1", "100", "10⁴"])
    bar.ax.yaxis.set_label_position("left")  # away from the next panel's label


def _draw_limits(axes: Any, limits: dict[str, tuple[np.ndarray, dict]]) -> None:
    steps = "m, v remember {:.0f}, {:.0f} steps".format(*(1 / (1 - beta) for beta in FIXED))
    times = "m, v remember ηk = {}, {}"
    looks = {"fixed": ("-", "full", steps), "proportional": ("--", "none", times.format(*MEMORY))}
    for model in MODEL_LOOKS:
        look = {"color": MODEL_LOOKS[model][0], "marker": MODEL_LOOKS[model][1], "linewidth": 1}
        axes.plot([], [], label=MODELS[model], **look)
        for (lrs, errors), (line, fill, _) in ((limits[limit], looks[limit]) for limit in looks):
            axes.loglog(lrs, errors[model], linestyle=line, fillstyle=fill, **look)
    for line, fill, label in looks.values():
        axes.plot([], [], "o", color="black", linestyle=line, fillstyle=fill, linewidth=1, label=label)
    axes.set_xticks([1e-3, 1e-2])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="learning rate η", ylabel="error: distance of run from flow", title="AdamW: two ways to let η → 0")
    axes.legend(**BELOW, handlelength=1.6, columnspacing=1)


STUDY = Study("two-limits", CLAIM, SOURCE, measure, draw, CAPTION)

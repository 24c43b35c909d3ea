"""Study: how far noisy gradients scatter the weights around a minimum, from the rule of the optimizer to its limit."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from swd_dynamics.bench.scatter import scatter_in_noise
from swd_dynamics.flows import SDE
from swd_dynamics.plots import LABELS, MUTED, house_style, measured, theory
from swd_dynamics.rules import CATALOG, UpdateRule
from swd_dynamics.studies.judging import farthest, judge_relative
from swd_dynamics.studies.methods import Method, family
from swd_dynamics.studies.noisy_runs import Quartic, Regression, diabetes, quartic
from swd_dynamics.studies.study import Findings, Setting, Study
from swd_dynamics.symbolic import stability_limit
from swd_dynamics.symbolic.numeric_noise import moments_in_noise, numeric_covariance
from swd_dynamics.verdict import Verdict, judge, must_be_refuted

CLAIM = (
    "Around a minimum the variance of weights that train with noisy gradients is the solution of the Lyapunov equation"
    " of the optimizer's step, decay included. Under SGD it diverges at the derived stability limit. Under Adam it does"
    " not: the scatter raises the second moment, which shortens the steps, so that Adam trains on at curvatures beyond"
    " the limit that its noise alone would set."
)
SOURCE = (
    "the Lyapunov equation of the derived linear map; for SGD in continuous time, without the limit, Mandt, Hoffman &"
    " Blei 2017 (1704.04289) and Li, Tai & E 2019 (1811.01558)"
)
CAPTION = (
    "The loss is ½hθ² for each weight, and every gradient has fresh Gaussian noise of variance σ² = 1. The vertical"
    " axis is the mean extra loss ½h·Var θ divided by ¼η_eff·σ², its value for small steps without decay. Points are"
    " torch runs of many copies of a weight, averaged over time. η = 0.1 and β = 0.9; λ = 0.1 for SGD and 1 for Adam,"
    " with β₂ = 0.99. Left: the solid lines and the dashed blue line are the derived law; the dotted green line is the"
    " usual SDE, of first order, with stable decay, which has no limit. At small curvature too it lies 1/0.53 times as"
    " high as the law, the solid green line, because R = λη/(1−β) = 0.1 is as large as 1−β. So the weights forget as"
    " quickly as the"
    " momentum, and (1−β)/(R + 1−β), about half, of the SDE's variance is left; the SDE assumes R ≪ 1−β. Right: the"
    " dash-dotted lines are the law with the second moment of the noise alone, v = σ². With v = σ² = 1 AdamW and AdamS"
    " are the same rule, so that the blue line is drawn broad, under the green one. For the solid lines v is σ²"
    " + E[G²], where G is the gradient without noise that the scatter itself makes. Also tested, but not drawn: the"
    " correlation of successive weights; a linear regression on scikit-learn's diabetes data with minibatches of 16"
    " that are drawn with replacement, whose noise has the covariance of the data at the minimum; and the loss θ²/2 +"
    " θ⁴/4, where paths of the derived SDE are compared with torch runs.\n\n"
    "What is allowed for Adam and for the regression, and the size of the noise on θ⁴/4, were set after pilot runs."
)

SHARES = {False: (0.002, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99), True: (0.002, 0.05, 0.5, 0.95)}  # of the limit, SGD
BEYOND = {False: (0.003, 0.02, 0.1, 0.3, 0.6, 0.9, 1.5, 3.0), True: (0.9, 2.0)}  # of the limit at v = σ², Adam
SGD: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}
ADAM: dict[str, Any] = {"lr": 0.1, "betas": (0.9, 0.99), "weight_decay": 1.0}
ERRORS = 4.0  # standard errors: the largest of 16 numbers is beyond them by chance in one of a thousand studies
REGRESSION: dict[str, Any] = {"lr": 0.02, "momentum": 0.5, "weight_decay": 0.5}
QUARTIC: dict[str, Any] = {"lr": 0.02, "momentum": 0.5, "weight_decay": 0.2}
# The relative errors allowed. v fluctuates by 10 % at β₂ = .99, and with it the steps. In the regression the noise
# depends on the weights: at a distance from the minimum the residuals of the data are larger by the share of the extra
# loss in the loss, which is 1 %.
ALLOWED = {"Adam": 0.05, "floor": 0.05, "directions": 0.15}


class Scatter(NamedTuple):
    """Var θ and 1 − ρ₁ of one method over the curvature, derived and measured with standard errors; shape (2, h) each.

    ``frozen`` is the derived Var θ with v = σ², shape (h,), NaN beyond the limit.
    """

    name: str
    mode: str
    lr_eff: float
    curvature: NDArray
    limit: float
    derived: NDArray
    measured: NDArray
    errors: NDArray
    frozen: NDArray

    @property
    def share(self) -> NDArray:
        return self.curvature / self.limit


def noisy_methods() -> list[Method]:
    """The methods of the left panel; the last is Nesterov's."""
    return [*family("SGD", **SGD), Method("SGDW", SGD | {"nesterov": True})]


def measure(setting: Setting) -> Findings:
    """Train weights in noise with every method, a linear regression in minibatches, and weights on θ⁴/4."""
    sgd = [scatter_of_sgd(method, setting) for method in setting.track(noisy_methods(), "noise under SGD")]
    adam = [scatter_of_adam(method, setting) for method in setting.track(family("Adam", **ADAM), "noise under Adam")]
    verdicts = [verdict for each in sgd for verdict in _of_sgd(each)]
    verdicts += [_of_adam(each) for each in adam]
    regressions = [diabetes(method, setting) for method in family("SGD", **REGRESSION)]
    verdicts += [verdict for each in regressions for verdict in _of_regression(each)]
    curved = quartic(Method("SGDS", QUARTIC), setting)
    verdicts.append(_of_quartic(curved, *curved.paths, "paths of the SDE"))
    verdicts += _controls({each.name: each for each in (*sgd[:3], *adam)}, regressions, curved)
    return Findings(verdicts, (sgd, adam))


# Weights on a quadratic, in Gaussian noise


def scatter_of_sgd(method: Method, setting: Setting) -> Scatter:
    """The law and the runs of a method of the SGD family, all curvatures in one tensor."""
    limit, law = float(stability_limit(method.rule())), numeric_covariance(method.rule())
    curvature = limit * np.array(SHARES[setting.quick])
    derived = np.array(law(curvature, 1.0))
    copies, steps = (400, 600) if setting.quick else (2000, 3000)
    seen, errors = scatter_in_noise(method.optimizer, curvature, copies, steps)
    lr_eff = SGD["lr"] / (1 - SGD["momentum"])
    name = method.name + ", Nesterov" * bool(method.arguments.get("nesterov"))
    return Scatter(name, method.mode, lr_eff, curvature, limit, derived, seen, errors, derived[0])


def scatter_of_adam(method: Method, setting: Setting) -> Scatter:
    """The law and the runs of a method of the Adam family. AdamS has one v̄ for a tensor: a run for each curvature."""
    limit = float(stability_limit(method.rule())(v=1).value)
    curvature = limit * np.array(BEYOND[setting.quick])
    derived, frozen = laws_of_adam(method.rule(), curvature)
    copies, steps, forget = (500, 1000, 0.5) if setting.quick else (1000, 4000, 0.25)  # v comes to rest in 400 steps
    tensors = np.split(curvature, len(curvature)) if method.mode == "stable" else [curvature]
    runs = [scatter_in_noise(method.optimizer, each, copies, steps, forget=forget) for each in tensors]
    seen, errors = (np.concatenate(part, axis=1) for part in zip(*runs, strict=True))
    return Scatter(method.name, method.mode, method.arguments["lr"], curvature, limit, derived, seen, errors, frozen)


def laws_of_adam(rule: UpdateRule, curvature: NDArray) -> tuple[NDArray, NDArray]:
    """Var θ and 1 − ρ₁ with the v of noise and scatter, shape (2, h), and Var θ with v = σ², NaN beyond the limit."""
    law = numeric_covariance(rule)
    alone = law(curvature, 1.0)[0]
    return np.array(law(curvature, moments_in_noise(rule, curvature))), np.where(alone > 0, alone, np.nan)


# Verdicts


def _of_sgd(found: Scatter) -> Iterator[Verdict]:
    off = (found.measured - found.derived) / found.errors
    for i, what in enumerate(("variance", "correlation")):
        claim = f"Under {found.name} the {what} of the weights is the derived one at every curvature"
        why = "the number is the largest difference in standard errors, of up to eight curvatures"
        worst = farthest(off[i], 0.0)
        yield judge(f"{found.name}: {what}", claim, predicted=0.0, measured=worst, allowed=ERRORS, why=why)


def _of_adam(found: Scatter) -> Verdict:
    name = found.name + " with L2" * (found.mode == "L2")
    claim = f"Under {name} the variance is the derived one with v = σ² + E[G²], below and beyond the limit"
    return _worst(found.name, claim, found.measured[0] / found.derived[0], ALLOWED["Adam"], "v fluctuates by 10 %")


def _worst(name: str, claim: str, ratios: NDArray, allowed: float, why: str) -> Verdict:
    why = f"the number is measured/derived where it is farthest from 1; {why}"
    return judge_relative(name, claim, 1.0, farthest(ratios, 1.0), allowed, why)


def _of_regression(found: Regression) -> Iterator[Verdict]:
    why = "the noise of minibatches depends on the weights, which adds 1 %, and sampling, 4 % of a variance"
    derived, seen = (float(found.curvature @ each) / 2 for each in (found.variance, found.measured))
    claim = f"The extra loss of a linear regression under {found.name} follows from the covariance of its gradients"
    yield judge_relative(f"regression, {found.name}: extra loss", claim, derived, seen, ALLOWED["floor"], why)
    claim = f"So do the variances in all {len(found.curvature)} directions of its Hessian"
    ratios = found.measured / found.variance
    yield _worst(f"regression, {found.name}: directions", claim, ratios, ALLOWED["directions"], why)


def _of_quartic(found: Quartic, predicted: float, error: float, of: str) -> Verdict:
    claim = f"On θ²/2 + θ⁴/4 the mean of θ² under SGDS is that of {of}"
    allowed, why = 3 * float(np.hypot(found.runs[1], error)), "three standard errors of the two ensembles"
    return judge("θ⁴", claim, predicted=predicted, measured=found.runs[0], allowed=allowed, why=why)


def _controls(found: dict[str, Scatter], regressions: list[Regression], curved: Quartic) -> Iterator[Verdict]:
    """The negative controls: laws with a wrong assumption, and of another optimizer."""
    stable, adam = found["SGDS"], found["AdamW"]
    gap = stable.lr_eff * (stable.curvature + SGD["weight_decay"])
    is_below = np.isfinite(adam.frozen)
    wrong = {
        "plain SDE": (
            "The variance under SGDS is that of the SDE of first order at every curvature",
            stable.measured[0] / plain_variance(stable),
        ),
        "SGDW as SGDS": (
            "The variance under SGDW is that derived for SGDS with the same λ, at the same share of the limit",
            found["SGDW"].measured[0] / stable.derived[0],
        ),
        "momentum is η_eff alone": (
            "Successive weights under SGDS are as correlated as without momentum at the same η_eff",
            stable.measured[1] / gap,
        ),
        "v of noise alone": (
            "The variance under AdamW is that with v = σ² at every curvature below the limit",
            (adam.measured[0] / adam.frozen)[is_below],
        ),
        "noise in all directions alike": (
            "The variances of the regression follow from the mean variance of its gradients",
            regressions[-1].measured / regressions[-1].alike,
        ),
    }
    allowed, why = ALLOWED["directions"], "as for the regression"
    for name, (claim, ratios) in wrong.items():
        yield must_be_refuted(f"control: {name}", _worst(name, claim, ratios, allowed, why))
    false = _of_quartic(curved, curved.quadratic, 0.0, "the quadratic θ²/2")
    yield must_be_refuted("control: θ⁴ is left out", false)


def plain_variance(found: Scatter) -> NDArray:
    """Var θ of the SDE of first order of SGDS, for each curvature."""
    sde = SDE(CATALOG["SGDS"](**SGD), lambda theta: found.curvature * theta, noise=1.0)
    return np.diag(sde.stationary_covariance(np.zeros(len(found.curvature))))


# The figure


def draw(data: tuple[list[Scatter], list[Scatter]]) -> Figure:
    """The extra loss over the curvature, for SGD up to the limit and for Adam beyond it."""
    sgd, adam = data
    with house_style():
        figure = Figure(figsize=(9.0, 4.4))
        left, right = figure.subplots(1, 2, sharex=True, sharey=True)
        _draw_sgd(left, sgd)
        _draw_adam(right, adam)
        figure.suptitle(
            "Noise scatters the weights without bound at SGD's stability limit, but not at Adam's,\n"
            "whose second moment v grows with the scatter and shortens the steps",
            x=0.01,
            ha="left",
        )
    return figure


def extra_loss(found: Scatter, variance: NDArray) -> NDArray:
    """½h·Var θ in units of ¼η_eff·σ²."""
    return found.curvature * variance / (found.lr_eff / 2)


def _draw_sgd(axes: Axes, found: list[Scatter]) -> None:
    for each in found:
        is_nesterov = "Nesterov" in each.name
        law = numeric_covariance(CATALOG[each.name.split(",")[0]](**SGD, nesterov=is_nesterov))
        share = 1 / (1 + np.exp(-np.linspace(-6.4, 7.0, 200)))  # dense near 0 and near the limit
        on_line = each._replace(curvature=share * each.limit)
        line = extra_loss(on_line, law(on_line.curvature, 1.0)[0])
        look: dict[str, Any] = {"markerfacecolor": "white"} if is_nesterov else {}
        axes.plot(share, line, **theory(each.mode, label=None, linestyle="--" if is_nesterov else "-", linewidth=1.3))
        label = LABELS[each.mode] + ", Nesterov (dashed)" * is_nesterov
        axes.plot(each.share, extra_loss(each, each.measured[0]), **{**measured(each.mode, label=label), **look})
    stable = next(each for each in found if each.mode == "stable")
    share = np.geomspace(0.0015, 1, 60)
    on_line = stable._replace(curvature=share * stable.limit)
    plain = extra_loss(on_line, plain_variance(on_line))
    axes.plot(share, plain, **theory("stable", label="stable, first-order SDE", linestyle=":", linewidth=1.3))
    axes.axvline(1, color=MUTED, linewidth=1)
    axes.text(1.08, 1.3, "stability\nlimit", color="#666666", va="bottom")
    axes.set(xscale="log", yscale="log", title="SGD with momentum 0.9", xlabel="curvature / stability limit")
    unit = r"extra loss, in units of $\frac{1}{4}\,\eta_\mathrm{eff}\,\sigma^2$"
    axes.set_ylabel(f"{unit}\n(1: its value for small steps, no decay)")
    axes.legend(handles=[*_lines_and_points(), *axes.get_legend_handles_labels()[0]], loc="upper left")


def _draw_adam(axes: Axes, found: list[Scatter]) -> None:
    for each in found:
        share = np.sort(np.append(np.geomspace(0.002, 4, 120), 1 - np.geomspace(1e-3, 0.1, 40)))
        on_line = each._replace(curvature=share * each.limit)
        derived, frozen = laws_of_adam(CATALOG[each.name](**ADAM), on_line.curvature)
        axes.plot(share, extra_loss(on_line, derived[0]), **theory(each.mode, label=None))
        width = 5 if each.mode == "decoupled" else 2  # the green line lies on the blue one
        dashes = tuple(length / width for length in (10, 3, 2, 3))
        look = {"linestyle": (0, dashes), "linewidth": width, "alpha": 0.5 if width > 2 else 1}
        axes.plot(share, extra_loss(on_line, frozen), **theory(each.mode, label=None, **look))
        axes.plot(each.share, extra_loss(each, each.measured[0]), **measured(each.mode, label=LABELS[each.mode]))
    axes.plot([], [], "-.", color=MUTED, label="derived for v = σ² (noise alone)")
    axes.axvline(1, color=MUTED, linewidth=1)
    axes.set(title="Adam", xlabel="curvature / stability limit with v = σ²", xlim=(0.0015, 5), ylim=(0.1, 1500))
    axes.set_xticks((0.01, 0.1, 1), ("0.01", "0.1", "1"))
    axes.legend(handles=[*_lines_and_points(), *axes.get_legend_handles_labels()[0]], loc="upper left")


def _lines_and_points() -> list[Line2D]:
    """What a line and a point mean, in the keys of both panels."""
    looks: dict[str, dict[str, Any]] = {"derived": {"linestyle": "-"}, "torch": {"linestyle": "none", "marker": "o"}}
    return [Line2D([], [], color=MUTED, label=said, **look) for said, look in looks.items()]


STUDY = Study("stationary-noise", CLAIM, SOURCE, measure, draw, CAPTION)

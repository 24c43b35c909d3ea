"""Runs whose learning rate falls tenfold and whose loss grows tenfold, and the rates of a rule along them."""

import numpy as np
import torch
from numpy.typing import NDArray
from xarray import Dataset

from swd_dynamics.probe import record
from swd_dynamics.rules import State, UpdateRule
from swd_dynamics.studies.judging import judge_curve, judge_relative
from swd_dynamics.studies.methods import Method, family
from swd_dynamics.tasks import Task
from swd_dynamics.verdict import Verdict, must_be_refuted

FACTOR = 10.0  # after a third of the run η is divided by it; after two thirds the loss is multiplied by it
DROPS = {"independent": FACTOR, "corrected": FACTOR**2}  # the factor by which R drops when η drops by FACTOR
ROUND_OFF = 1e-12  # relative: R and η_eff are a few products of float64 numbers, v̄ is a mean over a thousand


def run_with_changes(task: Task, method: Method, third: int, factor: float = FACTOR) -> Dataset:
    """A recorded run: η falls tenfold after a third of it, and the loss grows by ``factor`` after two thirds."""
    task = task.fresh()
    optimizer = method.optimizer(task.model.parameters())
    drop = torch.optim.lr_scheduler.MultiStepLR(optimizer, [third], 1 / FACTOR)

    def loss(k: int) -> torch.Tensor:
        return task.loss(k) * (factor if k >= 2 * third else 1.0)

    return record(optimizer, loss, 3 * third, scheduler=drop, data=task.name)


def changing(method: Method, third: int) -> UpdateRule:
    """The rule of a method, with the learning rate falling tenfold after a third of the run."""
    return method.rule(lr=lambda step: method.arguments["lr"] / (1 if step < third else FACTOR))


def stated_rates(rule: UpdateRule, recording: Dataset) -> tuple[NDArray, NDArray]:
    """R and η_eff of the rule's own steps from the recorded weights and gradients. Shape (steps,)."""
    rates, lrs, memory = [], [], rule.direction.rest(recording.theta.values[0])
    for k, gradient in enumerate(recording.gradient.values):
        parts = rule.parts(State(recording.theta.values[k], memory, k), gradient)
        memory = parts.memory
        rates.append(parts.decay_rate)
        lrs.append(rule.direction.effective_lr(memory, parts.step))
    return np.array(rates, float), np.array(lrs, float)


def other_decays(task: Task, third: int, **arguments) -> list[Verdict]:
    """Adam with the other decay modes, by its arguments: the mean R over the weights, and how R follows η."""
    rates, verdicts, lr = {}, [], arguments["lr"]
    methods = family("Adam", ("independent", "corrected"), **arguments, lr_max=lr)
    for method in methods + family("Adam", ("cautious", "preconditioned"), **arguments):
        recording = run_with_changes(task, method, third)
        by_rule, _ = stated_rates(changing(method, third), recording)
        rates[method.mode] = recording.decay_rate.values
        claim = f"The mean R of {method.name} over the weights is the rule's at every step"
        foreseen = by_rule.reshape(len(by_rule), -1).mean(axis=1)
        verdicts.append(judge_curve(f"{method.name}: R", claim, foreseen, rates[method.mode], ROUND_OFF, "round-off"))
    dropped = {mode: rate[third - 1] / rate[third] for mode, rate in rates.items() if mode in DROPS}
    for mode, factor in dropped.items():
        claim = f"When η drops by the factor {FACTOR:g}, R of {mode} decay drops by the factor {DROPS[mode]:g}"
        name = f"{mode} decay: η / {FACTOR:g}"
        verdicts.append(judge_relative(name, claim, DROPS[mode], factor, ROUND_OFF, "round-off"))
    wrong = judge_relative("", "R of corrected decay is proportional to η", FACTOR, dropped["corrected"], ROUND_OFF, "")
    claim, why = "In noise cautious decay acts on half of the weights", "relative .3, for the pull towards the minimum"
    most = np.where(np.arange(3 * third) < third, lr, lr / FACTOR) * arguments["weight_decay"]
    share = (rates["cautious"] / most)[third // 2 :].mean()  # the weights walk to the minimum before
    return [
        *verdicts,
        must_be_refuted("control: corrected R ∝ η", wrong),
        judge_relative("AdamCautious: share", claim, 0.5, share, 0.3, why),
    ]

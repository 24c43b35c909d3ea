# %% [markdown]
# # Your own optimizer: write its step, and the rest follows
#
# **You have an optimizer that no package knows. What can you find out about it before you train anything?**
#
# About 14 minutes, without the exercises. You should have read notebook 02, or know what a first-order flow is.

# %%
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import sympy
import torch
from IPython.display import display

import swd_dynamics as sd
from swd_dynamics.symbolic.derivation import stated
from swd_dynamics.symbolic.notation import theta_dot

# %% [markdown]
# ## Write it down
#
# Quasi-hyperbolic momentum (QHM; Ma & Yarats, arXiv 1810.06801) mixes the newest gradient with an average of all
# gradients: a step is (1 − ν)·gradient + ν·average. To write an optimizer, write a class with four methods:
#
# * `rest`: the state before the first step,
# * `remember`: the state after a gradient has arrived,
# * `move`: what is multiplied by the learning rate and subtracted from the weights,
# * `effective_lr`: how far one unit of gradient moves a weight in the end, counting all later steps.
#
# The class uses only arithmetic, so it works on numbers, arrays, tensors and symbols.


# %%
class Average(NamedTuple):
    m: Any


@dataclass(frozen=True)
class QHM:
    momentum: Any
    nu: Any

    def rest(self, theta):
        return Average(0 * theta)

    def remember(self, memory, step):
        return Average(self.momentum * memory.m + (1 - self.momentum) * step.gradient)

    def move(self, memory, step):
        return (1 - self.nu) * step.gradient + self.nu * memory.m

    def effective_lr(self, memory, step):
        return step.lr  # an average passes a gradient on whole, only later


# %% [markdown]
# A rule is this direction with a learning rate and a kind of decay. Nothing has to be registered or inherited.

# %%
mixture = {"momentum": 0.9, "nu": 0.7}
rule = sd.UpdateRule(0.1, QHM(**mixture), sd.rules.Stable(0.05))
rule

# %% [markdown]
# ## Derive what it does
#
# **Predict.** If the steps are small, the average is close to the newest gradient. So does ν matter for small steps?
# Write down the velocity F₀ that you expect, with g for the gradient.

# %%
guess = None  # for example "−νg − λθ"

# %%
beta, nu, lam = sympy.symbols("beta nu lambda", positive=True)
rules = {"L2": sd.UpdateRule(0.1, QHM(beta, nu), sd.rules.L2(lam))}
rules["stable"] = sd.UpdateRule(0.1, QHM(beta, nu), sd.rules.Stable(lam))
flows = {mode: sd.modified_equation(each) for mode, each in rules.items()}

print("your answer:", guess)
display(*(stated(mode, sympy.Symbol("F_0"), sympy.simplify(each.first)) for mode, each in flows.items()))

# %% [markdown]
# With small steps QHM is gradient descent: ν and β are gone. L2 and stable decay agree. This agreement
# is a check of `effective_lr`, because stable decay uses it and L2 does not.
#
# **Predict.** Larger steps change the decay. The coefficient of this change is 19 times as large for L2 as for stable
# decay, with momentum 0.9, because L2 decay passes through the momentum (notebook 02). In QHM a part 1 − ν of each
# gradient does not pass through the momentum. For ν = 0.7, is the factor larger or smaller than 19?

# %%
guess = None  # a number

# %%
decay = {mode: sympy.cancel(each.second_in_rates.diff(theta_dot) / lam) for mode, each in flows.items()}
factor = sympy.factor(decay["L2"] / decay["stable"])
derived = factor.subs({beta: mixture["momentum"], nu: mixture["nu"]})
print(f"your answer: {guess}, derived for {mixture}: {float(derived):.3g}")
stated("L2 divided by stable decay", sympy.Symbol("factor"), factor)

# %% [markdown]
# ## Run it
#
# The same class takes steps with numbers. Set the gradient to zero, and measure how much faster a weight decays than
# F₀ says, divided by ηλ. The lines are derived, and the points come from running the class.


# %% jupyter={"source_hidden": true} tags=["hide-input"]
# Measure the excess, and draw.
def excess(rule, steps=300):
    """How much faster than F₀ = −λθ weights without gradients decay, divided by F₀ and by ηλ."""
    state = rule.start(np.ones(len(shown)))
    for _ in range(steps):
        before, state = state.theta, rule(state, 0.0)
    lam = rule.decay.weight_decay
    return (-np.log(state.theta / before) / (rule.lr * lam) - 1) / (rule.lr * lam)


mixtures, shown = np.linspace(0, 1, 51), np.linspace(0, 1, 11)
formulas = {mode: sympy.lambdify([beta, nu], decay[mode]) for mode in decay}


def draw(figure, momentum):
    lines = {mode: (mixtures, formula(momentum, mixtures) + 0 * mixtures) for mode, formula in formulas.items()}
    points = {}
    for mode, kind in {"L2": sd.rules.L2(0.1), "stable": sd.rules.Stable(0.1)}.items():
        points[mode] = shown, excess(sd.UpdateRule(1e-4, QHM(momentum, shown), kind))  # each weight has its own ν
    title = f"A larger ν adds decay to L2, but not to stable decay (β = {momentum:.2g})"
    labels = {"xlabel": "ν, the fraction of the average in a step", "ylabel": "excess decay, divided by ηλ"}
    sd.plots.lines_and_points(lines, points, title=title, figure=figure, ylim=(0, 20), **labels)
    return partial(draw, figure)  # a move changes this figure


# %%
sd.plots.Sliders(draw, momentum=(0.1, 0.95, mixture["momentum"]))

# %% [markdown]
# The decay of L2 is a part of G, so a fraction ν of it passes through the average. At ν = 1 the factor is 19 again.
#
# ## Is your torch optimizer this rule?
#
# You train with a torch optimizer, not with the rule. The folded cell has QHM as an ordinary `torch.optim.Optimizer`.
# `verify` gives both the same large and small gradients, and compares every step.


# %% jupyter={"source_hidden": true} tags=["hide-input"]
# QHM for torch.
class TorchQHM(torch.optim.Optimizer):
    def __init__(self, params, lr, momentum=0.9, nu=0.7, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "nu": nu, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            lr, momentum, nu, weight_decay = (group[name] for name in ("lr", "momentum", "nu", "weight_decay"))
            for p in (p for p in group["params"] if p.grad is not None):
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                m.lerp_(p.grad, 1 - momentum)
                p.mul_(1 - lr * weight_decay)
                p.sub_(lr * ((1 - nu) * p.grad + nu * m))


# %%
sd.verify(partial(TorchQHM, lr=rule.lr, weight_decay=rule.decay.weight_decay, **mixture), rule)

# %% [markdown]
# So the formulas above describe the optimizer that you train with, as far as `verify` tested it. Notebook 05 shows what
# `verify` says about an optimizer with a mistake.
#
# ## Exercises
#
# **1.** At which curvature does QHM with L2 or stable decay become unstable? Guess whether ν raises or lowers the
# limit. (`sd.stability_limit`, notebook 07.)
#
# <details><summary>Solution</summary>
#
# It raises the limit. The average changes less from step to step than the newest gradient does.
#
# ```python
# for share in (0.0, 0.7, 1.0):
#     rule = sd.UpdateRule(0.1, QHM(0.9, share), sd.rules.Stable(0.05))
#     print(f"ν = {share}: {float(sd.stability_limit(rule).value):.4g}")
# ```
#
# </details>

# %% [markdown]
# **2.** Give QHM a wrong `effective_lr`, that of SGD with momentum, lr / (1 − momentum). Which derivation tells you?
#
# <details><summary>Solution</summary>
#
# The fixed point tells you. Stable decay must come to rest where L2 comes to rest, and now it does not.
#
# ```python
# class Wrong(QHM):
#     def effective_lr(self, memory, step):
#         return step.lr / (1 - self.momentum)
#
# for direction in (QHM(0.9, 0.7), Wrong(0.9, 0.7)):
#     for decay_kind in (sd.rules.L2(1), sd.rules.Stable(1)):
#         print(type(direction).__name__, sd.fixed_point(sd.UpdateRule(0.1, direction, decay_kind)).value, sep=": ")
# ```
#
# </details>

# %% [markdown]
# **3.** Let the step be the sign of QHM's step. With ν = 1 this is Signum, and with a smaller ν it is Lion, with β₁ =
# νβ and β₂ = β. `np.sign` does not work on symbols, and the package says so if you try. What is F₀ with the function
# `sign` of `swd_dynamics.arithmetic`?
#
# <details><summary>Solution</summary>
#
# F₀ is −sign(g) − λθ. At g = 0 it jumps, so the derivation assumes that g is not 0.
#
# ```python
# from swd_dynamics.arithmetic import sign
#
# class SignQHM(QHM):
#     def move(self, memory, step):
#         return sign(super().move(memory, step))
#
# sympy.expand(sd.modified_equation(sd.UpdateRule(0.1, SignQHM(beta, nu), sd.rules.Stable(lam))).first)
# ```
#
# </details>

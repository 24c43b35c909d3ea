# %% [markdown]
# # What kind of decay is it? Perturb the weights, and look
#
# **I have an optimizer, but no formula. Is its weight decay L2, decoupled or stable?**
#
# About 10 minutes, without the exercises. You should know the three kinds of decay (notebook 01).

# %%
from functools import partial

import numpy as np
import torch
from matplotlib.figure import Figure

import swd_dynamics as sd

torch.set_num_threads(1)

# %% [markdown]
# ## The experiment
#
# `audit` does not read the optimizer's code. It runs the optimizer twice on the same prepared gradients, the second
# time with slightly perturbed weights. Weight decay makes the perturbation smaller. **R** is the fraction of it that
# one step removes.
#
# `audit` also perturbs one gradient, and measures how far one unit of gradient moves a weight in the end. This is the
# effective learning rate **η_eff**, here one number for all weights. It repeats both after the gradients have fallen to
# a tenth, and again after the learning rate η was halved. Then the two ratios decide:
#
# * R/ηλ is always 1 if the decay is **decoupled**.
# * R/η_eff is constant, at λ and for all weights, if the decay is **stable**.
#
# ## AdamW
#
# Adam divides its step by the size of the gradients.
#
# **Predict.** For AdamW: by which factor does η_eff change when the gradients fall to a tenth? R? R/η_eff?

# %%
guess = None  # for example: "η_eff 1, R 10, R/η_eff 10"

# %%
settings = {"lr": 0.01, "weight_decay": 0.01, "betas": (0.9, 0.95)}
audits = {"decoupled": sd.audit(partial(torch.optim.AdamW, **settings))}
print("your answer:", guess)
audits["decoupled"]

# %% [markdown]
# Each row is a part of the run. The columns 5 % and 95 % show how much R differs between the weights: not at all here.
# When the gradients fall to a tenth, η_eff is ten times as large, but R does not change, and so R/η_eff falls to a
# tenth. It is not stable. R/ηλ is 1 in all rows, so the decay is decoupled.
#
# ## AdamS
#
# **Predict.** By which factor does R of AdamS change when the gradients fall to a tenth? And when η is halved?

# %%
guess = None  # for example: "1 and ½"

# %%
audits["stable"] = sd.audit(partial(sd.optim.AdamS, **settings))
print("your answer:", guess)
audits["stable"]

# %% [markdown]
# R follows η_eff: it becomes about ten times as large, and then half as large. So R/η_eff is constant and R/ηλ moves,
# the other way round than for AdamW.
#
# Why is R/η_eff not 0.01, but 4 to 5 % less in all rows? R is exact, it is λη/√v̄. But the measured η_eff is a little
# too large. It is measured at one step, in which the weight's own gradient is set to 0, so v is smaller there. And v
# scatters from step to step, in the same way in every audit. Both errors shrink with 1 − β₂: in the row "settled"
# R/η_eff is 8 % below λ with β₂ = 0.9, 1.5 % with 0.99 and 0.8 % with 0.999.
#
# Why do we take β₂ = 0.95? Its memory of 20 steps is short. With torch's default of 0.999, v would still be forgetting
# the large gradients when `audit` measures, and η_eff would be only 1.4 times as large, not ten times.
#
# ## L2
#
# Adam with L2 decay adds λθ to the gradient, before it divides by the size of the gradients.
#
# **Predict.** Some weights have large gradients and some have small ones. Which weights decay faster?

# %%
guess = None  # "those with large gradients" or "those with small gradients"

# %%
audits["L2"] = sd.audit(partial(torch.optim.Adam, **settings))
print("your answer:", guess)
audits["L2"]

# %% [markdown]
# In the first row R is almost 0, because the first step of Adam is the sign of the gradient, which a small perturbation
# does not change. In the row "settled" R/ηλ is 0.99, as if the decay were decoupled, but only because the median weight
# has gradients of about size 1, and Adam divides by 1. In the row "gradients / 10" R/ηλ is 9.6, so the decay is not
# decoupled.
#
# R/η_eff is 3.2 to 3.3 λ in the last three rows. R is about λ times a weight's own ηᵢ (notebook 01), so the ηᵢ of the
# median weight is about R/λ, which is 0.0099 in the row "settled". But the column η_eff has one number for all weights,
# (mean of ηᵢ⁻²)^−½, to which the weights with the largest gradients contribute most. In the same row it is 0.0031.
#
# The weights with small gradients decay faster, because Adam divides the decay, too, by their size. The 95 % column is
# more than fifty times the 5 % column. In the median R/η_eff hardly moves, but each weight has its own R, so no single
# number describes this decay. Above the table `audit` says how it recognised L2: add λθ to the gradients by hand and
# switch the decay off, and the steps are the same.
#
# ## Over the steps
#
# Points are the R of the median weight. The shaded area contains 90 % of the weights under L2. (Under the other two
# kinds all weights have the same R.) The lines are λη_eff: R has to be there if the decay is stable.


# %% jupyter={"source_hidden": true} tags=["hide-input"]
# Draw.
def draw_course(axes):
    steps = np.arange(1, 641)
    for mode, audit in audits.items():
        median, low, high = (audit.course[name][:640] for name in ("median", "low", "high"))
        axes.plot(steps[4::12], median[4::12], **sd.plots.measured(mode, markersize=4))
        if mode == "L2":
            axes.fill_between(
                steps[4:],
                low[4:],
                high[4:],
                color=sd.plots.COLOURS[mode],
                alpha=0.15,
                linewidth=0,
                label="L2: 90 % of the weights",
            )
    for name, end in {"settled": 240, "gradients / 10": 480, "lr / 2": 640}.items():
        stable = settings["weight_decay"] * audits["stable"].rows[name][3]  # λ times η_eff
        label = "λη$_{eff}$" if name == "settled" else None
        axes.plot([end - 120, end], [stable, stable], **sd.plots.theory("stable", label=label))
    unit = settings["lr"] * settings["weight_decay"]  # R of decoupled decay
    for step, what in ((240, "gradients / 10"), (480, "learning rate / 2")):
        axes.axvline(step, color=sd.plots.MUTED, linestyle="--", zorder=0)
        axes.text(step + 5, 200 * unit, what, color="#555555")
    ends = 0.05 * unit, 400 * unit
    axes.set(xlabel="step k (from step 5)", ylabel="R of a step", yscale="log", ylim=ends)
    points = {mode: audit.course["median"][4:640:12] for mode, audit in audits.items()}
    hidden = {mode: np.sum(~((rates >= ends[0]) & (rates <= ends[1]))) for mode, rates in points.items()}
    said = ", ".join(f"{count} points of {mode}" for mode, count in hidden.items() if count)
    axes.set_title(f"Not on this axis, or not known: {said}" * bool(said), fontsize=9)


def course_figure():
    with sd.plots.house_style():
        figure = Figure(figsize=(7.6, 4.4))
        draw_course(figure.subplots())
        figure.legend(loc="outside lower center", ncols=3)
        follow = " and ".join(mode for mode, audit in audits.items() if audit.kind == "stable") or "no"
        figure.suptitle(f"Only {follow} decay follows λη$_{{eff}}$ with all weights")
    return figure


# %%
course_figure()

# %% [markdown]
# Stable decay follows λη_eff: up by ten when the gradients fall, and down to one half with the learning rate. Decoupled
# decay follows only the learning rate. Under L2 the median moves with η_eff, but the weights differ. (At the dips
# `audit` perturbed the weights again, and the momentum needs a few steps to contain the perturbation.)
#
# Try it on your own optimizer: `sd.audit(partial(MyOptimizer, lr=…, weight_decay=…))`, or in a terminal
# `swd-dynamics audit my_module:MyOptimizer --args lr=0.01,weight_decay=0.1`.
#
# ## Exercises
#
# **1.** What kind of decay does `torch.optim.SGD` have with momentum 0.9, and what kind without momentum? Guess, ask
# `audit`, and read its reasons.
#
# <details><summary>Solution</summary>
#
# With momentum it is L2: perturb the weights for one step and undo it, and the effect lasts about 9 steps, because
# the momentum remembers it. Without momentum there is nothing between the gradient and the weight, and all three kinds
# are the same.
#
# ```python
# for momentum in (0.9, 0.0):
#     found = sd.audit(partial(torch.optim.SGD, momentum=momentum, lr=0.01, weight_decay=0.1))
#     print(found.kind, *found.reasons, sep="\n    ")
# ```
#
# </details>

# %% [markdown]
# **2.** `torch.optim.NAdam` has an option `decoupled_weight_decay`. Does it do what its name says?
#
# <details><summary>Solution</summary>
#
# It does. Without the option the decay is L2.
#
# ```python
# for decoupled in (False, True):
#     nadam = partial(torch.optim.NAdam, lr=0.01, weight_decay=0.01, decoupled_weight_decay=decoupled)
#     print(decoupled, sd.audit(nadam).kind)
# ```
#
# </details>

# %% [markdown]
# **3.** Notebook 05 has a mistake in AdamS: a v̄ for each tensor in place of one for all weights. Change AdamS in this
# way. Is its decay still stable?
#
# <details><summary>Solution</summary>
#
# It is none of the three kinds ("other"), because the tensors decay at different rates: R is 3.6e-05 on one and
# 2.08e-05 on the other. A step of the class below is a step of AdamS for each tensor alone. (`audit` sets λ to 0 in a
# second run, as an argument of the class. A function such as `lambda p: EachTensorAlone(p, **settings)` takes no such
# argument, and the inner optimizers keep their λ. Then `audit` says that the decay remains with λ = 0.)
#
# ```python
# class EachTensorAlone(torch.optim.Optimizer):
#     def __init__(self, params, **settings):
#         super().__init__(params, settings)
#         self.each = [sd.optim.AdamS([p], **settings) for group in self.param_groups for p in group["params"]]
#
#     def step(self, closure=None):
#         for optimizer in self.each:
#             optimizer.param_groups[0]["lr"] = self.param_groups[0]["lr"]
#             optimizer.step()
#
# found = sd.audit(partial(EachTensorAlone, **settings))
# assert found.kind == "other"
# print(found.kind, *found.reasons, sep="\n    ")
# ```
#
# </details>

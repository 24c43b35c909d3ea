# %% [markdown]
# # Is my optimizer right? A mistake that the loss does not show
#
# **Does my optimizer do what its paper says?**
#
# About 15 minutes, without the exercises. You need torch, and you should know Adam.
#
# An optimizer with a mistake still trains, because training tolerates many mistakes. So the loss is a poor test. Here
# an optimizer is written from a paper. It looks right and trains well, and one line finds its mistake.

# %%
from functools import partial

import numpy as np
import torch

import swd_dynamics as sd

torch.set_num_threads(1)

# %% [markdown]
# ## From the paper
#
# AdamS is Adam with stable weight decay (Xie, Sato & Sugiyama, arXiv 2011.11152). In its step, η is the learning
# rate, λ is torch's `weight_decay`, and R is the fraction of the weights that the decay removes. Angle brackets are a
# mean over all weights. The mean of the bias-corrected v is called v̄.

# %%
settings = {"lr": 1e-2, "weight_decay": 1e-3}
rule = sd.CATALOG["AdamS"](**settings)
rule

# %% [markdown]
# The same in torch. The folded cell has what every Adam has, the settings and the two running means m and v, and there
# is no mistake in it. `moments` returns both for one tensor, bias-corrected. This is the step:


# %% jupyter={"source_hidden": true} tags=["hide-input"]
# What every Adam has.
class Moments(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-4):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def moments(self, p, group):
        """The running means of the gradient and of its square, bias-corrected."""
        state, (beta1, beta2) = self.state[p], group["betas"]
        if not state:
            state.update(k=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
        state["k"] += 1
        state["m"].mul_(beta1).add_(p.grad, alpha=1 - beta1)
        state["v"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
        return state["m"] / (1 - beta1 ** state["k"]), state["v"] / (1 - beta2 ** state["k"])


# %%
class MyAdamS(Moments):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                m, v = self.moments(p, group)
                p.mul_(1 - group["lr"] * group["weight_decay"] / v.mean().sqrt())
                p.sub_(group["lr"] * m / (v.sqrt() + group["eps"]))


# %% [markdown]
# **Predict.** Compare it with the formulas, line by line. Where is the mistake?

# %%
guess = None  # a sentence

# %% [markdown]
# ## It trains
#
# A small network on handwritten digits, once with this optimizer and once with the package's own AdamS:


# %%
def trained(make):
    task = sd.tasks.tanh_network(batch_size=50, seed=0)
    return sd.record(make(task.model.parameters(), **settings), task.loss, 200, quantities=["loss"], trajectory=False)


runs = {"MyAdamS": trained(MyAdamS), "the package's AdamS": trained(sd.optim.AdamS)}
sd.plots.recording(runs, "loss", title="One of the two has a mistake")

# %% [markdown]
# Both learn (the points of the two runs are at different steps). In this run the optimizer with the mistake even has
# the lower loss. Nobody would look for a mistake here.
#
# ## One line
#
# `verify` takes a function that makes the optimizer, and the rule. No network is trained. The optimizer gets prepared
# gradients, large and small, with zeros among them: first in one parameter group, then in two groups with different
# settings and a schedule, then with large weights and tensors of different dimensions. Every step is compared with the
# rule.

# %%
verdict = sd.verify(partial(MyAdamS, **settings), rule)
print("your answer:", guess)
verdict

# %% [markdown]
# `MyAdamS` computes a v̄ for each tensor, by `v.mean()` in the loop over the parameters. In the rule the mean is over
# **all** weights of the model, so that all of them shrink at the same rate. A test with a single tensor would never
# have found this.
#
# How can `verify` name the cause? It has a list of common mistakes (`sd.verification.NEAR_RULES`). It changes the rule
# by each mistake, then by pairs of them. It names a cause only if the changed rule takes *every* step of the optimizer.
#
# ## Repair it
#
# All second moments have to be there before the first weight moves. So the repaired `step` goes over the parameters
# twice:


# %%
class Repaired(Moments):
    @torch.no_grad()
    def step(self, closure=None):
        moments = [(p, group, *self.moments(p, group)) for group in self.param_groups for p in group["params"]]
        v_bar = torch.cat([v.flatten() for _, _, _, v in moments]).mean()
        for p, group, m, v in moments:
            p.mul_(1 - group["lr"] * group["weight_decay"] / v_bar.sqrt())
            p.sub_(group["lr"] * m / (v.sqrt() + group["eps"]))


sd.verify(partial(Repaired, **settings), rule)

# %% [markdown]
# ## How small a mistake is found?
#
# Suppose that the λ of torch's AdamW is wrong by a small fraction of itself, for example by a millionth.
#
# **Predict.** The numbers have 64 bits, about 16 decimal digits. What is the smallest relative error of λ that
# `verify` finds?

# %%
guess = None  # for example 1e-6


# %% jupyter={"source_hidden": true} tags=["hide-input"]
# Measure and draw.
def times_rounding(wrong_by):
    """The largest error of AdamW with a wrong λ, as a multiple of what rounding can explain."""
    right = {"lr": 0.01, "weight_decay": 0.1}
    factory = partial(torch.optim.AdamW, **right | {"weight_decay": right["weight_decay"] * (1 + wrong_by)})
    return sd.verify(factory, sd.CATALOG["AdamW"](**right), steps=60).measured


def draw_errors():
    wrong_by = 10.0 ** np.arange(-15, 0)
    times = np.array([times_rounding(error) for error in wrong_by])
    points = {"decoupled": (wrong_by, times)}
    labels = {"xlabel": "relative error of λ", "ylabel": "largest error, times\nwhat rounding can explain"}
    scales = {"xscale": "log", "yscale": "log"}
    smallest = np.log10(wrong_by[times > 1].min())
    title = f"verify finds a relative error of 10$^{{{smallest:.0f}}}$ in λ"
    figure = sd.plots.lines_and_points({}, points, title=title, **labels, **scales)
    figure.axes[0].axhline(1, color=sd.plots.MUTED)
    figure.axes[0].text(1e-8, 3, "limit: what rounding can explain", color="#555555")
    return figure


# %%
print("your answer:", guess)
draw_errors()

# %% [markdown]
# Each step is compared from the optimizer's own weights, so errors do not add up. And one scenario has an R above ½, so
# that even a tiny error of λ changes the weights by more than rounding.
#
# ## What "confirmed" means
#
# With these gradients and these settings, in 64-bit numbers, the optimizer took every step as the rule says, apart
# from rounding. What was never tried cannot be found:

# %%
sd.verify(partial(torch.optim.Adam, lr=0.01), sd.CATALOG["AdamS"](lr=0.01, weight_decay=0.0))

# %% [markdown]
# Adam is not AdamS, but without weight decay nobody can tell them apart, and the verdict says so. It also says nothing
# about training in 32 bits or on a GPU, about saving and loading, or about whether the paper is right.
#
# ## Exercises
#
# **1.** Break `Repaired` in another way: omit the bias correction of v. What does `verify` say?
#
# <details><summary>Solution</summary>
#
# It names the mistake. `moments` returns v after the correction, and the multiplication reverts the correction.
#
# ```python
# class Hasty(Repaired):
#     def moments(self, p, group):
#         m, v = super().moments(p, group)
#         return m, v * (1 - group["betas"][1] ** self.state[p]["k"])
#
# verdict = sd.verify(partial(Hasty, **settings), rule)
# assert "bias correction of v" in verdict.cause
# ```
#
# </details>

# %% [markdown]
# **2.** Suppose that the mean over each tensor was meant, because it needs only one pass. Does `MyAdamS` have another
# mistake? (`verify` takes `allow=` with a name from `NEAR_RULES`.)
#
# <details><summary>Solution</summary>
#
# It has no other mistake. With that line of the rule changed, every step is confirmed.
#
# ```python
# print([name for name in sd.verification.NEAR_RULES if "mean" in name])
# verdict = sd.verify(partial(MyAdamS, **settings), rule, allow="mean-of-tensor")
# assert verdict.passed
# ```
#
# </details>

# %% [markdown]
# **3.** torch's SGD has an option `dampening`, which multiplies each new gradient in the momentum by 1 − dampening.
# Compare it, with dampening 0.9, with the rule SGD. At which step do they first differ? Guess first.
#
# <details><summary>Solution</summary>
#
# They first differ at the second step, because torch does not dampen the first gradient. A test of one step would have
# passed.
#
# ```python
# same = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}
# verdict = sd.verify(partial(torch.optim.SGD, dampening=0.9, **same), sd.CATALOG["SGD"](**same))
# print(verdict.cause, verdict.first_departure)
# ```
#
# </details>

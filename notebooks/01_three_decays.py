# %% [markdown]
# # Three decays
#
# **Weight decay is one word. Is it one thing?**
#
# L2 regularisation, decoupled decay (AdamW) and stable decay (SGDS, AdamS; Xie, Sato & Sugiyama, arXiv 2011.11152)
# all shrink the weights. Here each of them is written down, run, and held against what the algebra says. You need no
# more than Python and the chain rule; every formula below was printed by the package from the code that takes the
# steps.

# %%
import inspect

import numpy as np

import swd_dynamics as sd

# %% [markdown]
# ## One step, three places for the decay
#
# A step sees a gradient, remembers something of it, and moves the weights. Weight decay can enter where the gradient
# is seen, or where the weights are moved. Three optimizers with the same momentum, and the same `weight_decay`:

# %%
settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
rules = {"L2": sd.CATALOG["SGD"](**settings), "decoupled": sd.CATALOG["SGDW"](**settings)}
rules["stable"] = sd.CATALOG["SGDS"](**settings)

rules["L2"]

# %%
rules["decoupled"]

# %%
rules["stable"]

# %% [markdown]
# Read them line by line: G is the gradient that the optimizer sees, m what it remembers (its momentum), R the share
# of the weights that a step takes off, and a prime marks what is there after the step.
#
# Only two lines differ. L2 puts the decay into G, and momentum passes it on. Decoupled and stable decay have it in R,
# past the momentum: one takes off the learning rate times `weight_decay`, the other the **effective** learning rate
# times `weight_decay`, that is, how far a unit of gradient moves a weight in the end, when momentum has summed it up.
#
# In the code this is all there is to it, and the formulas above are what this code does when it is given symbols:

# %%
for decay in (sd.rules.L2, sd.rules.Decoupled, sd.rules.Stable):
    print(inspect.getsource(decay.added_gradient), inspect.getsource(decay.decay_rate), sep="")

# %% [markdown]
# ## How fast do the weights shrink?
#
# Let the gradient be zero, so that nothing but decay acts, and take 400 steps from a weight of 1. The lines are not
# fitted: they are what follows from the rule by algebra. Here for decoupled decay: on a parabola with curvature h and
# minimum θ*, a step multiplies what is left to go by a root z of a polynomial, and without curvature R is 1 − z.

# %%
sd.long_run_decay_rate(sd.symbolic.lettered(rules["decoupled"])[0])


# %%
def weights(rule, steps=400):
    """A weight that feels decay alone, from 1."""
    state, course = rule.start(1.0), [1.0]
    for _ in range(steps):
        state = rule(state, 0.0)
        course.append(state.theta)
    return np.array(course)


def draw_decay(figure, lr, momentum, weight_decay):
    axes, steps = figure.subplots(), np.arange(401)
    for mode, name in {"L2": "SGD", "decoupled": "SGDW", "stable": "SGDS"}.items():
        rule = sd.CATALOG[name](lr=lr, momentum=momentum, weight_decay=weight_decay)
        rate = 1 - abs(1 - complex(sd.long_run_decay_rate(rule).value))  # complex where θ swings as it decays
        shown = slice(5 * list(sd.plots.COLOURS).index(mode), None, 20)
        axes.plot(steps, (1 - rate) ** steps, **sd.plots.theory(mode))
        axes.plot(steps[shown], weights(rule)[shown], **sd.plots.measured(mode))
    axes.set(xlabel="step k", ylabel="weight θ, without gradients", yscale="log", ylim=(1e-2, 1.3))
    axes.legend()
    figure.suptitle(f"Three decays of one λ = {weight_decay:g}, behind momentum {momentum:g}")


sd.plots.Sliders(
    draw_decay,
    lr=(0.02, 0.2, 0.1),
    momentum=(0.1, max(0.9, settings["momentum"]), settings["momentum"]),
    weight_decay=(0.001, 0.013, 0.01),
)

# %% [markdown]
# On this axis a constant rate is a straight line. L2 has to fill its momentum first, then it falls at the rate of its
# line. With the same `weight_decay` decoupled decay is ten times weaker than stable decay. Momentum makes ten steps
# out of every gradient, and L2 decay goes through it like a gradient; decoupled decay goes past it. Where a kernel
# runs, move the momentum: the gap follows it. Stable decay has, to first order, the strength that decay through
# momentum has, without going through it; what is left between their lines is a subject of notebook 02.
#
# ## Which of them is stable?
#
# With the learning rate and the gradients, the strength of decay will change along a run, and so it should: what
# matters is its balance with the gradients. The paper calls a decay **stable** if R is in a constant ratio to the
# effective learning rate. In L2's formula R is 0, since nothing is taken off the weights directly: its decay comes
# through m. So from here on R is what a step takes off in effect, and for the other two it is the R of their formula.
# To measure it for any of the three, take two runs with the same gradients that start a little apart: R is the share
# of their distance that a step takes off.


# %%
def ratio(rule, gradients, apart=1e-6):
    """R/η_eff of every step and weight."""
    here, there = rule.start(np.ones(2)), rule.start(np.ones(2) + apart)
    course = []
    for g in gradients:
        before = there.theta - here.theta
        parts = rule.parts(here, g)
        here, there = parts.state, rule(there, g)
        decay_rate = 1 - (there.theta - here.theta) / before
        course.append(decay_rate / rule.direction.effective_lr(parts.memory, parts.step))
    return np.array(course)


def draw_course(axes, names, gradients, **settings):
    steps, shown = np.arange(1, len(gradients) + 1), slice(None, None, 8)
    for mode, name in zip(("L2", "decoupled", "stable"), names, strict=True):
        course = ratio(sd.CATALOG[name](weight_decay=0.01, **settings), gradients)
        axes.plot(steps[shown], course[shown, 0], **sd.plots.measured(mode, markersize=4))
        axes.plot(steps[shown], course[shown, 1], **sd.plots.measured(mode, markersize=4, label=None))
    axes.axhline(0.01, color=sd.plots.MUTED, zorder=0)
    axes.text(405, 0.0105, "λ", va="bottom", color="#555555")
    axes.axvline(200, color=sd.plots.MUTED, linestyle="--", zorder=0)
    axes.set(xlabel="step k", yscale="log", ylim=(1e-4, 1))


def draw_ratio(figure, momentum, drop):
    left, right = figure.subplots(1, 2, sharey=True)
    noise = np.random.default_rng(0).normal(size=(400, 2)) * [1, 0.1]  # the second weight feels a tenth
    schedule = sd.rules.StepDecay(0.1, step_size=200, gamma=1 / drop)
    draw_course(left, ("SGD", "SGDW", "SGDS"), noise, lr=schedule, momentum=momentum)
    quieter = np.where(np.arange(400)[:, None] < 200, noise, noise / drop)
    draw_course(right, ("Adam", "AdamW", "AdamS"), quieter, lr=1e-3, betas=(momentum, 0.98))
    left.set(ylabel="R/η$_{eff}$", title=f"momentum; η falls to 1/{drop:g}")
    right.set(title=f"Adam; the gradients fall to 1/{drop:g}")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle("Only stable decay keeps R/η$_{eff}$ at λ")


sd.plots.Sliders(
    draw_ratio, size=(8.6, 4.4), momentum=(0.1, max(0.9, settings["momentum"]), settings["momentum"]), drop=(1, 20, 10)
)

# %% [markdown]
# * **Momentum** (left): L2 starts at a tenth, because its first step finds no momentum yet, and settles a little
#   above λ; where, depends on η, for it is the momentum of older, larger weights that it lives on. Decoupled decay is
#   constant too, at λ(1 − momentum): by the definition it is stable, and SGDW and SGDS are one method in two units of
#   λ. It is Adam that parts the two.
# * **Adam** (right): L2 decays the two weights at different rates, and the one with the *small* gradients harder.
#   Decoupled decay takes off the same share as ever when the gradients fall, while Adam then moves the weights ten
#   times further for a unit of gradient: their balance is gone. Stable decay follows, and at one rate for both
#   weights; here are the two formulas that say why:

# %%
sd.CATALOG["AdamW"](lr=0.001, weight_decay=0.01)

# %%
sd.CATALOG["AdamS"](lr=0.001, weight_decay=0.01)

# %% [markdown]
# Here v is a running mean of G², k counts the steps, ε keeps the division from zero, and angle brackets are a mean
# over all weights. AdamW's R does not know how large the gradients are, while Adam's step divides each weight's
# gradient by its size, the root of v; AdamS divides its decay by one such size for all weights. Notebook 04 records
# this in real training.
#
# A wrong number is refused in a sentence, at the line where you typed it:

# %% tags=["raises-exception"]
sd.CATALOG["SGDS"](lr=0.1, momentum=0.9, weight_decay=-0.01)

# %% [markdown]
# ## Exercises
#
# **1.** How many times weaker than stable decay is decoupled decay behind momentum ½, and behind .99? Find it from
# the formula, without a run.
#
# <details><summary>Solution</summary>
#
# 2 times and 100 times: the ratio of the long-run decay rates, stable to decoupled, is 1/(1 − momentum), exactly.
#
# ```python
# for momentum in (0.5, 0.99):
#     stable, decoupled = (
#         sd.long_run_decay_rate(sd.CATALOG[name](lr=0.1, momentum=momentum, weight_decay=0.01)).value
#         for name in ("SGDS", "SGDW")
#     )
#     print(momentum, stable / decoupled)
# ```
#
# </details>

# %% [markdown]
# **2.** Without momentum, are the three one and the same? Compare their steps as formulas.
#
# <details><summary>Solution</summary>
#
# Yes: all three take the same step, so that "weight decay" was one thing as long as nobody used momentum, or divided
# steps as Adam does.
#
# ```python
# rules = [sd.CATALOG[name](lr=0.1, weight_decay=0.01) for name in ("SGD", "SGDW", "SGDS")]
# steps = [sd.equations(rule).value.expand() for rule in rules]
# assert steps[0] == steps[1] == steps[2]
# steps[0]
# ```
#
# </details>

# %% [markdown]
# **3.** You tuned `weight_decay=0.01` with SGDW and momentum .9, and want to change to SGDS. Which `weight_decay`
# does the same?
#
# <details><summary>Solution</summary>
#
# A tenth of it; `equivalent_weight_decay` finds the λ with which two rules take off the same share of the weights.
#
# ```python
# sgdw, sgds = (sd.CATALOG[name](**settings) for name in ("SGDW", "SGDS"))
# same = sd.equivalent_weight_decay(sgdw, sgds)
# assert abs(same.weight_decay - 0.001) < 1e-12
# same
# ```
#
# </details>

# %% [markdown]
# # The edge of stability: what if the minimum is too curved?
#
# **The minimum is too curved for the learning rate. Where does training go, and what does weight decay change?**
#
# About 15 minutes, without the exercises. Read notebook 07 first: it derives the largest stable curvature.

# %%
from functools import partial

import numpy as np
from IPython.display import display

import swd_dynamics as sd
from swd_dynamics.studies import central_flow as study
from swd_dynamics.studies.methods import Method

# %% [markdown]
# ## Two weights
#
# The loss is f(x, y) = ½(1 + y)x² + 0.1(y − 3.5)². It is smallest at x = 0, y = 3.5. The curvature along x is 1 + y,
# so it is 4.5 at the minimum. We train with gradient descent:

# %%
LR = 0.5  # the numbers in the text are for 0.5; the same happens for 0.47 ≤ LR ≤ 0.51 (exercise 1 goes beyond)


def gradient(theta):
    x, y = theta
    return np.array([(1 + y) * x, x**2 / 2 + 0.2 * (y - 3.5)])


def run(rule, start=(0.05, 2.0), steps=600):
    """x and y over the steps."""
    state, course = rule.start(np.array(start)), [np.array(start)]
    for _ in range(steps):
        state = rule(state, gradient(state.theta))
        course.append(state.theta)
    return np.array(course).T


rule = sd.CATALOG["SGD"](lr=LR)
print("largest stable curvature:", sd.stability_limit(rule).value)

# %% [markdown]
# The minimum needs a curvature of 4.5, and only 4 is stable.
#
# **Predict.** The run starts at y = 2, where the curvature is 3. Does it blow up, does it stop, or what else
# happens? What is the curvature after 600 steps?

# %%
guess = None  # for example: "it blows up", or a number

# %%
x, y = run(rule)
print("your answer:", guess)
print(f"after 600 steps: curvature {1 + y[-1]:.4f}, signs of x in the last steps: {np.sign(x[-4:])}")

# %% [markdown]
# It does not blow up, and it never rests. The curvature comes to 4 and stays there, while x jumps from side to side.
# This is the **edge of stability** (Cohen et al. 2021, arXiv 2103.00065).
#
# ## Why it stays
#
# At first x is tiny, and the curvature rises past 4 until the jumps have grown. Then they act on y. The gradient
# along y is x²/2 + 0.2(y − 3.5), so a large x² pushes y down, and with y the curvature. If the curvature is below 4,
# the jumps become smaller, and y rises. If it is above 4, the jumps become larger, and y falls. Both balance at
# curvature 4, where y = 3 and x² holds y still. The run swings about this balance, and the slope of 0.2(y − 3.5)
# damps the swing.
#
# **Predict.** Which size of x holds y still at y = 3?

# %%
guess = None  # solve x²/2 + 0.2·(3 − 3.5) = 0

# %%
print("your answer:", guess, "  in the run:", abs(x[-1]).round(4))

# %% [markdown]
# A **central flow** is this reasoning for any optimizer and any loss (Cohen et al. 2024, arXiv 2410.24206). The
# weights have a slow mean and an oscillation with the variance σ². The oscillation adds ½σ²∇S to the gradient, where
# S is the sharpness, that is, the largest curvature. And σ² is just so large that S stays at its limit. The package
# derives all this from the rule of the optimizer, with its weight decay. These are four of its steps. H is the
# Hessian, Σ the covariance of the oscillation, E[G] the mean of the gradient, and ⟨ , ⟩ the scalar product:

# %%
limit, mean_gradient, _, _, motion, _, size, ends_from = sd.edge(sd.CATALOG.SGDS(lr=LR, weight_decay=0.01)).steps[4:]
display(limit, mean_gradient, motion, size)

# %% [markdown]
# In our example S is 1 + y, so ∇S = (0, 1). At y = 3 and λ = 0 the last formula gives σ² = 2 · 0.1 = 0.2, which is
# the x² that holds y still.
#
# ## Now with decay
#
# Weight decay pulls y towards 0, and does a part of the work of the oscillation.
#
# **Predict.** At y = 3 the loss pulls y up with 0.2 · 0.5 = 0.1, and decay pulls it down with λy. From which λ on is
# nothing left for the oscillation?

# %%
guess = None  # solve 0.1 = 3λ


# %%
def enough(weight_decay):
    """The λ that would end the oscillation, derived at the edge of a flow with another λ."""
    flow = sd.CentralFlow(sd.CATALOG["SGDS"](lr=LR, weight_decay=weight_decay), gradient)
    return flow.solve((0.0, 2.9), steps=60).lifting_decay[-1]  # starts below the edge and ends at it


print("your answer:", guess, "  derived:", enough(0.0).round(4))
ends_from

# %% [markdown]
# ηᵢ is the effective learning rate of one weight, here η, and with stable decay R/ηᵢ is λ. The number is how fast the
# loss raises S, divided by how fast decay of strength 1 lowers S. It is a little too small, because decay also lowers
# the limit, to 4 − λ. The edge is then at y = 3 − λ, which gives 0.1 + 0.2λ = λ(3 − λ). Asked again at the edge of a
# flow with this decay, the package agrees:

# %% jupyter={"source_hidden": true} tags=["hide-input"]
# Ask again, four times.
ends = 0.0
for _ in range(4):
    ends = enough(ends)
print(f"the oscillation ends from λ = {ends:.4f} on")

# %% [markdown]
# Move λ past this number, and watch the run come to rest below the edge. ("Stable" in the legend is the kind of
# decay, and "measured" is a run of the rule.)


# %% jupyter={"source_hidden": true} tags=["hide-input"]
# Run and draw.
def draw_run(figure, weight_decay):
    decayed = sd.CATALOG["SGDS"](lr=LR, weight_decay=weight_decay)
    x, y = run(decayed)
    steps, limit = np.arange(len(y)), float(sd.stability_limit(decayed).value)
    oscillates = 1 + y[-1] > limit - 1e-3 or abs(x[-1]) > 0.01
    at_edge = "oscillates at the edge" if oscillates else "rests below the edge"
    sd.plots.lines_and_points(
        {"stable": (steps[[0, -1]], [limit, limit])},
        {"stable": (steps[::4], 1 + y[::4])},
        title=f"With λ = {weight_decay:.3g} the run {at_edge} (derived: up to {ends:.3g})",
        xlabel="step k",
        ylabel="curvature 1 + y (line: its limit)",
        figure=figure,
        ylim=(2.8, 4.8),
    )
    return partial(draw_run, figure)


# %%
sd.plots.Sliders(draw_run, weight_decay=(0.0, 0.06, 0.02))

# %% [markdown]
# ## A network
#
# The same happens to a network of 433 weights: layers of 8, 16, 16 and 1 units with SiLU between them. It learns
# 50 random outputs from random inputs, in full batches, with half the mean squared error as its loss, and SGDS
# (η = 0.165, Nesterov's momentum 0.5). We begin below the edge, after `EARLY` = 370 slow steps of gradient descent
# (η = `SLOW` = 0.05). The flow has `SETTLED` = 60 steps to reach the edge. Then we follow 150 steps, in which the loss
# falls. The figure has the mean variance of the oscillation: the line is the flow's, the points are torch runs.
#
# **Predict.** From a λ of about 0.03 on the oscillation ends. With half as much decay, is the oscillation smaller than
# without decay?

# %%
guess = None  # smaller, as large, or larger

# %% jupyter={"source_hidden": true} tags=["hide-input"]
# The network, its runs and their flows.
task = study.regression()
slope = study.regression_gradient()
for _ in range(study.EARLY):
    task.set_theta(task.theta - study.SLOW * slope(task.theta))


def followed(weight_decay, steps=150):
    """The variance of the oscillation, from the flow and in a torch run, and the flow."""
    method = Method("SGDS", study.NESTEROV | {"weight_decay": weight_decay})
    flow = sd.CentralFlow(method.rule(), slope, directions=2)  # at most two directions oscillate here
    solution = flow.solve(task.theta, study.SETTLED + steps)
    start = study.on_the_way(flow, solution, study.SETTLED)
    real = study.real_run(task, method, study.NESTEROV["lr"], start, steps + 1)
    return solution.variance[study.SETTLED + 1 :], study.slow_mean(real)[1], solution


# %% jupyter={"source_hidden": true} tags=["hide-input"]
# Draw.
strengths = np.array([0.0, 0.008, 0.016, 0.024, 0.032])
predicted, seen, flows = zip(*map(followed, strengths), strict=True)
lines = {"stable": (strengths, [each.mean() for each in predicted])}
points = {"stable": (strengths, [each.mean() for each in seen])}
times = points["stable"][1][2] / points["stable"][1][0]
title = f"With λ = {strengths[2]:.3g} the mean square of the oscillation is {times:.2g} times that without decay"
print("your answer:", guess)
sd.plots.lines_and_points(
    lines, points, title=title, xlabel="R/η$_{eff}$, here λ", ylabel="mean square of the oscillation"
)

# %% [markdown]
# Weak decay makes the oscillation *larger*. Decay keeps the loss from falling, and so the gradient, which pushes
# towards larger curvature, stays large. The gradient at the end shows it:

# %% jupyter={"source_hidden": true} tags=["hide-input"]
# The gradients.
for strength, solution in zip(strengths, flows, strict=True):
    print(f"λ = {strength:.3f}: ‖g‖ = {np.linalg.norm(slope(solution.theta[-1])):.3f} after 150 steps")

# %% [markdown]
# Only strong decay takes over the work of the oscillation and ends it. (At the last point the flow has a small
# oscillation, which the run has no time to build up.) How much larger weak decay makes the oscillation depends on the
# time. In the last 50 of 600 steps σ² is 0.00004 without decay, because the gradient has nearly vanished, and 0.0024
# with λ = 0.016.
#
# ## Exercises
#
# **1.** Train the two weights with larger learning rates, such as 0.55, 0.56 and 0.6. Does the balance at the edge
# hold?
#
# <details><summary>Solution</summary>
#
# Up to η = 5/9 = 0.556. Let δσ² and δS be small deviations of σ² and S from their balance. A step multiplies x by
# 1 − ηS = −(1 + ηδS), and so adds 2ησ²δS to δσ². It adds −η(δσ²/2 + 0.2δS) to y, and so to δS. Together, a step
# multiplies (δσ², δS) by the matrix [[1, 2ησ²], [−η/2, 1 − 0.2η]]. Its eigenvalues z are the roots of
# (z − 1)(z − 1 + 0.2η) + η²σ² = 0. They are complex here, and their product |z|² is 1 − 0.2η + η²σ², so the swing fades
# if ησ² < 0.2. At the edge y = 2/η − 1, and there σ² = 0.4(3.5 − y).
#
# `numeric_oscillation` has these roots for any rule with one learning rate. `roots` takes the curvature of the loss
# along y, which is 0.2, the slope of S along y, which is 1, the fourth derivative of the loss along x, which is 0, and
# σ². `CentralFlow` does not ask: it takes the oscillation as settled.
#
# ```python
# for lr in (0.5, 0.55, 0.56, 0.6):
#     plain = sd.CATALOG["SGD"](lr=lr)
#     variance = 0.4 * (4.5 - 2 / lr)
#     step = sd.symbolic.numeric_oscillation(plain)
#     growth = step.roots([0.2], [1.0], fourth_derivative=0.0, variance=variance).growth
#     x, y = run(plain, steps=4000)
#     last = 1 + y[-200:]
#     print(f"η = {lr}: growth {growth:+.4f} per step, curvature {last.min():.3f} to {last.max():.3f}")
#     print(f"    limit {2 / lr:.3f}")
# ```
#
# </details>

# %% [markdown]
# **2.** Is the mean of the loss at the edge larger than the loss at the slow mean of the weights? Compute both.
#
# <details><summary>Solution</summary>
#
# It is larger by ½Sσ², here ½ · 4 · 0.2. `CentralFlow(…, loss=…)` predicts the mean.
#
# ```python
# def loss(theta):
#     x, y = theta
#     return (1 + y) * x**2 / 2 + 0.1 * (y - 3.5) ** 2
#
#
# x, y = run(rule, steps=2000)
# solution = sd.CentralFlow(rule, gradient, loss=loss).solve((0.0, 2.9), steps=200)
# print(loss([x, y])[-100:].mean(), solution.loss[-1], loss(solution.theta[-1]))
# ```
#
# </details>

# %% [markdown]
# **3.** Adam has an edge too. Which formula does `sd.edge` give for its limit, and what is curved there?
#
# <details><summary>Solution</summary>
#
# The limit is on the Hessian divided by √v of each weight, and 38 = 2(1 + β₁)/(1 − β₁) replaces 2 at β₁ = 0.9.
#
# ```python
# display(sd.edge(sd.CATALOG["AdamW"](lr=0.001, weight_decay=0.1)))
# ```
#
# </details>

# %% [markdown]
# # When training blows up: does decay help?
#
# **How curved may the loss be before training blows up, and does weight decay help?**
#
# About 14 minutes, without the exercises. Read notebook 01 first. You need eigenvalues.

# %%
from functools import partial

import numpy as np
import sympy
from IPython.display import display

import swd_dynamics as sd

# %% [markdown]
# ## One weight on a parabola
#
# Near a minimum θ⋆ the loss is ½h(θ − θ⋆)², where h is the curvature. Its gradient is h(θ − θ⋆). So gradient descent
# with learning rate η multiplies the distance from the minimum by 1 − ηh in each step.
#
# **Predict.** With η = 0.1, above which curvature does the distance grow from step to step?

# %%
guess = None  # a number

# %%
print("your answer:", guess, "  derived:", sd.stability_limit(sd.CATALOG["SGD"](lr=0.1)).value)

# %% [markdown]
# At this curvature the factor 1 − ηh is −1, so the weight jumps from side to side. Above it, each jump is larger than
# the one before. (For Adam such a limit assumes a constant √v. `sd.stability_limit(…).assumptions` says so, as for
# every derivation.)
#
# ## With momentum
#
# With momentum, two numbers change in a step: the weight and its momentum m. A step multiplies them by a matrix.
# Training is stable if both eigenvalues z of that matrix are inside the unit circle, |z| < 1. Here are the matrix and
# the polynomial whose roots are the eigenvalues, for stable weight decay (SGDS):

# %%
settings = {"lr": 0.1, "momentum": 0.9}
rule = sd.CATALOG["SGDS"](**settings, weight_decay=0.1)
matrix, polynomial, at_1, at_minus_1, as_a_pair = sd.stability_limit(rule).steps[-5:]
display(matrix, polynomial)

# %% [markdown]
# A root can leave the unit circle in three ways: at z = 1, as one of a pair of complex roots, or at z = −1. **Jury's
# conditions** say at which curvature each of them happens: where an expression becomes 0. The first two expressions are
# positive at every curvature, so the third way decides:

# %%
display(at_1, as_a_pair, at_minus_1)

# %% [markdown]
# ## L2 or stable decay?
#
# Stable decay subtracts the fraction R = ηλ/(1 − β) of the weights in each step. L2 with the same λ follows the same
# curve if steps are small (notebook 02). It removes as much in the long run only if ηλ is much smaller than (1 − β)².
# Without decay the limit is 2(1 + β)/η = 38.
#
# **Predict.** Let λ be 1 for both, so R = 1. That is far more than anyone would use, so that the effect is easy to see.
# Does decay raise the limit or lower it? Which limit is lower, that of L2 or that of stable decay?

# %%
guess = None  # for example: "L2 30, stable 35"


# %%
def with_decay(mode, R):  # λ is the same for both modes: the one with which stable decay subtracts R
    name = {"L2": "SGD", "stable": "SGDS"}[mode]
    return sd.CATALOG[name](**settings, weight_decay=R * (1 - settings["momentum"]) / settings["lr"])


def limit(mode, R):
    return float(sd.stability_limit(with_decay(mode, R)).value)


print("your answer:", guess)
for mode in ("L2", "stable"):
    print(f"{mode}: the limit is {limit(mode, 1):.3g}")

# %% [markdown]
# Both lower the limit: L2 by 1, from 38 to 37, but stable decay by 19, to one half. With the same λ, stable decay costs
# (1 + β)/(1 − β) = 19 times as much stability.
#
# Momentum explains the factor. Stable decay subtracts λη_eff, and the 10 in η_eff = η/(1 − β) is how much momentum adds
# up when all gradients have the same sign. At the limit the weight jumps from side to side. There the signs alternate,
# and momentum divides by 1 + β = 1.9. L2 decay passes through the momentum, so it acts only with ηλ/(1 + β). Stable
# decay does not pass through it, so it acts in full.
#
# ## Blow it up
#
# Each point is the size of one weight after a step, for each kind of decay and without decay. ("Measured" in the
# legend means that a run of the rule gave it, and "stable" is the kind of decay, also where it blows up.) Here the
# curvature is between the limits of L2 and of stable decay. If a kernel runs, find the curvature at which each row of
# points starts to rise, and compare it with the derived limits in the title.


# %% jupyter={"source_hidden": true} tags=["hide-input"]
# Run and draw.
SCALE = {"yscale": "log", "ylim": (1e-4, 1e4)}
no_decay = limit("L2", 0)
between = (3 * limit("stable", 1) + limit("L2", 1)) / 4  # here only the run with stable decay grows


def derived_limit(rule):
    """The limit as a function of η, β and λ, from the formulas; a slider moves faster with it."""
    symbolic, numbers = sd.symbolic.lettered(rule)
    return sympy.lambdify(list(numbers), sd.stability_limit(symbolic).value)


names, any_numbers = {"L2": "SGD", "stable": "SGDS"}, {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.1}
formulas = {mode: derived_limit(sd.CATALOG[name](**settings | any_numbers)) for mode, name in names.items()}


def sizes(rule, h, steps=80):
    """The size of a weight over the steps, on a parabola of curvature h."""
    state, course = rule.start(1.0), [1.0]
    for _ in range(steps):
        state = rule(state, h * state.theta)
        course.append(abs(state.theta))
    return np.array(course)


def draw_course(figure, curvature, R):
    rules = {"none": with_decay("L2", 0)} | {mode: with_decay(mode, R) for mode in ("L2", "stable")}
    points = {mode: (np.arange(81), sizes(rule, curvature)) for mode, rule in rules.items()}
    derived = ", ".join(
        f"{mode} {formula(settings['lr'], settings['momentum'], rules[mode].decay.weight_decay):.3g}"
        for mode, formula in formulas.items()
    )
    labels = {"xlabel": "step k", "ylabel": f"|θ| at curvature {curvature:.3g}"}
    title = f"Limits: without decay {no_decay:.3g}, {derived}"
    sd.plots.lines_and_points({}, points, title=title, figure=figure, **labels, **SCALE)
    return partial(draw_course, figure)  # a move changes this figure


# %%
sd.plots.Sliders(draw_course, curvature=(no_decay / 4, 1.05 * no_decay, between), R=(0.0, 1.5, 1.0))

# %% [markdown]
# ## At every strength
#
# Now each kind of decay is run at 421 curvatures, 300 steps each. A point is the first curvature at which the weight
# still grows in the last third of the run. The lines are the derived limits.


# %% jupyter={"source_hidden": true} tags=["hide-input"]
# Find the curvature at which runs blow up.
def edge(rule, h, steps=300):
    """The first of the curvatures h at which a run from θ = 1 is larger in its last third than in the one before."""
    state, sizes = rule.start(np.ones_like(h)), []
    with np.errstate(all="ignore"):  # a run that blows up may overflow
        for _ in range(steps):
            state = rule(state, h * state.theta)
            sizes.append(abs(state.theta))
    before, after = (np.max(sizes[start : start + steps // 3], axis=0) for start in (steps // 3, 2 * steps // 3))
    return h[np.argmin((after <= before) & np.isfinite(after))]


# %%
strengths, shown = np.linspace(0, 1.95, 14), np.linspace(0.1, 1.9, 10)
curvatures = np.linspace(0, 1.1 * no_decay, 421)
lines, found = {}, {}
for mode in ("L2", "stable"):
    lines[mode] = strengths, [limit(mode, R) for R in strengths]
    found[mode] = shown, [edge(with_decay(mode, R), curvatures) for R in shown]

times = (no_decay - limit("stable", 1)) / (no_decay - limit("L2", 1))
more = f"{times:.3g} times as much" if times > 1.005 else "as much"
title = f"With the same λ, stable decay costs {more} stability as L2"
labels = {"xlabel": "R = ηλ/(1 − β), what stable decay subtracts in a step", "ylabel": "largest stable curvature h"}
sd.plots.lines_and_points(lines, found, title=title, **labels)

# %% [markdown]
# Does this matter in training? With the common settings η = 0.1, λ = 0.0005 and β = 0.9, R = ηλ/(1 − β) is 0.0005. Then
# even stable decay lowers the limit by only R/2 of itself, one part in 4000, and you may choose the kind of decay for
# other reasons. Decoupled decay (SGDW) at the same R is the same method as stable decay here (notebook 02, exercise 3),
# so it has the same line.
#
# ## Exercises
#
# **1.** Nesterov's momentum is said to be the more careful one. Is its limit without decay larger or smaller than 38?
#
# <details><summary>Solution</summary>
#
# It is much smaller, 13.6. The newest gradient has nearly twice the weight in a step, and it is the newest gradient
# that carries the weight to the other side.
#
# ```python
# nesterov = sd.stability_limit(sd.CATALOG["SGD"](lr=0.1, momentum=0.9, nesterov=True))
# assert abs(nesterov.value - 3.8 / 0.28) < 1e-9
# ```
#
# </details>

# %% [markdown]
# **2.** Without decay, which momentum gives the largest limit? Find it from the formula 2(1 + β)/η, then ask a run at
# β = 0.99.
#
# <details><summary>Solution</summary>
#
# The limit grows with β up to twice that of gradient descent, 4/η = 40. The run agrees.
#
# ```python
# rule = sd.CATALOG["SGD"](lr=0.1, momentum=0.99)
# print(edge(rule, np.linspace(0, 42, 421), steps=900), sd.stability_limit(rule).value)
# ```
#
# </details>

# %% [markdown]
# **3.** A real loss is not a parabola. Take log cosh θ, whose gradient tanh θ is never larger than 1, with η = 2.5 and
# no momentum. The curvature at the minimum is 1 and the limit is 2/η = 0.8. What do the weights do?
#
# <details><summary>Solution</summary>
#
# They do not go to infinity. They jump from side to side at a fixed distance, because far from the minimum the
# gradient stops growing. The limit tells where a minimum stops attracting the steps, not where they go then.
#
# ```python
# rule = sd.CATALOG["SGD"](lr=2.5)
# state = rule.start(0.1)
# for _ in range(100):
#     state = rule(state, np.tanh(state.theta))
# print(state.theta, rule(state, np.tanh(state.theta)).theta)
# ```
#
# </details>

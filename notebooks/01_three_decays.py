# %% [markdown]
# # Three decays
#
# **Weight decay is one word. Is it one thing?**
#
# About 12 minutes, without the exercises. You need Python, and an idea of what momentum does. L2 regularisation,
# decoupled decay (AdamW) and stable decay (SGDS, AdamS; Xie, Sato & Sugiyama, arXiv 2011.11152) all shrink the weights.
# You will compare their formulas, predict how they differ, and look. The package prints every formula from the code
# that takes the steps.

# %%
from functools import partial

import numpy as np
import sympy

import swd_dynamics as sd

# %% [markdown]
# ## One step, three places for the decay
#
# A step gets a gradient, updates the momentum, and moves the weights. Three optimizers have the same learning rate, the
# same momentum and the same `weight_decay`. What differs between them is in colour:

# %%
settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
names = {"L2": "SGD", "decoupled": "SGDW", "stable": "SGDS"}
rules = {mode: sd.CATALOG[name](**settings) for mode, name in names.items()}
sd.side_by_side(**rules)

# %% [markdown]
# θ is a weight, g the gradient of the loss, m the momentum, and R the fraction of the weights that a step removes. A
# prime marks a value after the step. The learning rate is η, the momentum coefficient is β, and λ is `weight_decay`.
#
# L2 decay is a part of the gradient G, so it passes through the momentum. It shrinks the weights, although its formula
# has R = 0, so its R is measured: start two runs a tiny distance apart, with the same gradients. R is the fraction of
# this distance that a step removes. Decoupled and stable decay do not pass through the momentum: they remove the
# fraction R of the weights directly, and the test gives the R of their formulas. Decoupled decay multiplies λ by the
# learning rate η. Stable decay multiplies λ by the **effective learning rate** η_eff, which is how far a gradient of 1
# moves a weight in the end. Momentum adds up every gradient 1 + β + β² + … = 1/(1−β) times, so here η_eff = η/(1−β).
#
# ## How fast do the weights shrink?
#
# Set the gradient to zero, so that only decay acts, and start from a weight of 1.
#
# **Predict.** Momentum is 0.9 and λ is the same for all three. How many times as fast as decoupled decay is stable
# decay? And is L2 closer to decoupled or to stable decay?

# %%
guess = None  # for example "5 times, L2 is closer to decoupled"

# %% [markdown]
# The lines below are derived from the formulas: with momentum, a weight that only decays is multiplied by 1 − R in each
# step, in the long run, and the package finds this R. The points are 400 steps of each optimizer. (The drawing is in
# the folded cell.)


# %% jupyter={"source_hidden": true} tags=["hide-input"]
def derived_rate(rule):
    """The long-run decay rate as a function of η, β and λ, from the formulas."""
    symbolic, numbers = sd.symbolic.lettered(rule)
    return sympy.lambdify(list(numbers), sd.long_run_decay_rate(symbolic).value)


def weights(rule, steps):
    """A weight without gradients, from 1."""
    state, course = rule.start(1.0), [1.0]
    for _ in range(steps):
        state = rule(state, 0.0)
        course.append(state.theta)
    return np.array(course)


any_numbers = {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.1}
rates = {mode: derived_rate(sd.CATALOG[name](**settings | any_numbers)) for mode, name in names.items()}
steps = np.arange(401)


def draw_decay(figure, momentum, weight_decay):
    lines, points = {}, {}
    for i, (mode, name) in enumerate(names.items()):
        values, shown = settings | {"momentum": momentum, "weight_decay": weight_decay}, slice(5 * i, None, 20)
        rule = sd.CATALOG[name](**values)
        rate = 1 - abs(1 - rates[mode](rule.lr + 0j, momentum, weight_decay))  # complex where the weight oscillates
        lines[mode] = steps, (1 - rate) ** steps
        points[mode] = steps[shown], weights(rule, 400)[shown]
    title = f"With momentum {momentum:.2g}, stable decay is {1 / (1 - momentum):.3g} times as fast as decoupled decay"
    labels = {"xlabel": "step k", "ylabel": "weight θ, without gradients", "yscale": "log", "ylim": (0.01, 1.3)}
    sd.plots.lines_and_points(lines, points, title=title, figure=figure, **labels)
    return partial(draw_decay, figure)  # a move changes this figure


# %%
print("your answer:", guess)
beta, lam = settings["momentum"], settings["weight_decay"]
sd.plots.Sliders(
    draw_decay, momentum=(min(0.1, beta), max(0.9, beta), beta), weight_decay=(lam / 10, 1.3 * lam or 0.01, lam)
)

# %% [markdown]
# On this axis a constant rate is a straight line. Stable decay is ten times as fast as decoupled decay, because 1/(1 −
# 0.9) = 10. L2 is close to stable decay: it first has to fill its momentum, and then its R is 0.0111, where stable
# decay has 0.01. The line of L2 has this rate from the start, so the points run parallel to it, 11 steps later. (L2 is
# that close only if ηλ is much smaller than (1 − β)². With ηλ above (1 − √β)², about 0.0026 here, the weight oscillates
# under L2, and its swings shrink like √β in each step, whatever λ is.) If a kernel runs, move the momentum: the gap
# between stable and decoupled decay follows it. So the same λ means different strengths. With SGD that is a matter of
# units, because you could give SGDW ten times the λ. With Adam it is not.
#
# ## What happens when the gradients change?
#
# Adam divides each step by the size of the recent gradients. Here are its three kinds of decay:

# %%
adam = {"lr": 0.001, "betas": (0.9, 0.95), "weight_decay": 0.01}
sd.side_by_side(**{name: sd.CATALOG[name](**adam) for name in ("Adam", "AdamW", "AdamS")})

# %% [markdown]
# v is a running mean of G², k counts the steps, ε prevents a division by zero, and angle brackets are a mean over all
# weights. We write v̄ for the mean of v̂. A gradient of 1 moves weight i by ηᵢ = η/√v̂ᵢ in the end. For the whole model
# the paper chooses one number, η_eff = η/√v̄. It is a mean of the ηᵢ, (mean of ηᵢ⁻²)^−½, and need not be the ηᵢ of any
# weight: those of the two weights below are about 0.7 and 7 times as large.
#
# If the gradients become ten times smaller, η_eff becomes ten times larger: a gradient of 1 now moves each weight ten
# times as far. The paper calls a decay **stable** if R keeps a constant ratio to η_eff, for all weights alike. AdamS
# has this by its formula, where R/η_eff is λ. What do the other two do?
#
# The figure has the measured R of all three: the fraction of a tiny distance that a step removes.
#
# **Predict.** Two weights are trained. The gradients of the second one are ten times smaller. After step 60 all
# gradients fall to a tenth. Does R/η_eff of decoupled decay then rise, fall or stay? And which of the two weights does
# L2 decay faster?

# %%
guess = None  # for example "it rises, the first"


# %% jupyter={"source_hidden": true} tags=["hide-input"]
def ratio(rule, gradients, apart=1e-6, own=False):
    """R/η_eff of every step and weight; with ``own`` R/ηᵢ."""
    effective_lr_of = rule.direction.effective_lr_by_weight if own else rule.direction.effective_lr
    state, effective_lr = rule.start(np.add.outer([0, apart], np.ones(2))), []  # the two runs, side by side
    weights = [state.theta]
    for g in gradients:
        parts = rule.parts(state, g)
        state = parts.state
        weights.append(state.theta)
        effective_lr.append(np.broadcast_to(effective_lr_of(parts.memory, parts.step), (2, 2))[0])
    distance = np.diff(weights, axis=1)[:, 0]
    return (1 - distance[1:] / distance[:-1]) / effective_lr


noise = np.random.default_rng(0).normal(size=(240, 2))


def draw_ratio(figure, fall, smaller):
    gradients, points = noise / [1, smaller], {}
    shown = slice(5, None, 6), slice(8, None, 6)  # the second weight's points are drawn between those of the first
    gradients[60:] /= fall
    for mode, name in zip(names, ("Adam", "AdamW", "AdamS"), strict=True):
        ratios = ratio(sd.CATALOG[name](**adam), gradients)
        points[mode] = [(np.arange(1, len(noise) + 1)[at], ratios[at, i]) for i, at in enumerate(shown)]
    lam = adam["weight_decay"]
    near = lam / 1.3, 1.3 * lam + 1e-6  # nine points in ten: √v̄ scatters
    both = {mode: np.concatenate([r for _, r in each]) for mode, each in points.items()}
    kept = [mode for mode, r in both.items() if np.mean((r > near[0] - 1e-6) & (r < near[1])) > 0.9]
    only = "with every kind of decay" if len(kept) == 3 else f"only with {' and '.join(kept)} decay"
    stays = f"R/η$_{{eff}}$ stays at λ {only if kept else 'with no kind of decay'}"
    title = f"With one η$_{{eff}}$ for both weights, {stays}"
    labels = {
        "xlabel": f"step k; after step 60 the gradients are {fall} times smaller",
        "ylabel": "R/η$_{eff}$ (open points: second weight)",
    }
    scale = {"yscale": "log", "ylim": (lam / 50, 100 * lam)} if lam else {}
    first, second = ({mode: each[i] for mode, each in points.items()} for i in (0, 1))
    sd.plots.lines_and_points({}, first, title=title, figure=figure, **labels, **scale)
    open_markers = [line for line in figure.axes[0].lines if line.get_gid() == "second"]
    for i, (mode, course) in enumerate(second.items()):
        if open_markers:
            open_markers[i].set_data(*course)
        else:
            style = sd.plots.measured(mode, markerfacecolor="white", label="_", gid="second")
            figure.axes[0].plot(*course, **style)
    return partial(draw_ratio, figure)


def draw_ratio_and_lambda(figure, **values):
    move = draw_ratio(figure, **values)
    figure.axes[0].axhline(adam["weight_decay"], color=sd.plots.MUTED, zorder=0)
    figure.axes[0].text(1, adam["weight_decay"], " λ", va="center", transform=figure.axes[0].get_yaxis_transform())
    return move


# %%
print("your answer:", guess)
sd.plots.Sliders(draw_ratio_and_lambda, fall=(1, 20, 10), smaller=(1, 20, 10))

# %% [markdown]
# * **L2** has two rows of points: it decays the two weights at different rates, and the weight with the *small*
#   gradients decays faster, because Adam divides the decay by the size of that weight's own gradients. Neither row is
#   at λ. After step 60 the upper row falls, because λθ is now as large as the small gradients, so Adam divides the
#   decay also by its own size. If a kernel runs, set `smaller` to 1, and the two rows become one.
# * **Decoupled** decay always removes the same fraction R = ηλ. But after step 60 a gradient of 1 moves the weights
#   ten times as far, so compared with what a unit of gradient does, its decay becomes ten times weaker. This takes
#   about 130 steps, because v forgets the large gradients slowly (β₂ = 0.95).
# * **Stable** decay stays at λ, for both weights. Its formula says why: R is λ·η_eff.
#
# Why do decoupled decay and the lower row of L2 both begin near 0.7 λ? The sizes of the gradients are 1 and 0.1, so √v̄
# is about √((1² + 0.1²)/2) = 0.7. Decoupled decay has R/η_eff = λ√v̄. L2 has about λ√v̄/√v, and √v is 1 in its lower
# row.
#
# Compared with each weight's *own* ηᵢ, it is L2 that is near λ:


# %% jupyter={"source_hidden": true} tags=["hide-input"]
gradients = noise / [1, 10]
gradients[60:] /= 10
for name in ("Adam", "AdamS"):
    relative = ratio(sd.CATALOG[name](**adam), gradients, own=True) / adam["weight_decay"]
    early, late = np.median(relative[:60], axis=0), np.median(relative[-100:], axis=0)
    print(f"{name}: R/(ηᵢλ) of the two weights {early.round(2)} up to step 60, {late.round(2)} in the last 100 steps")

# %% [markdown]
# L2 has R ≈ λ·ηᵢ while λθ is small compared with a weight's gradients, as it is up to step 60. AdamS removes the same
# fraction of both weights, although the second one has a ten times larger ηᵢ. So "stable" is a word about one η_eff for
# the whole model.
#
# Compared with the *updates*, it is AdamW's decay that stays. Adam's updates stay nearly as large when all gradients
# become smaller, because it divides by their size:


# %% jupyter={"source_hidden": true} tags=["hide-input"]
def decay_per_update(rule, fall):
    """The mean of |Rθ| divided by the mean of |update|, over the last 100 steps and both weights."""
    gradients, sizes, state = noise / [1, 10], [], rule.start(np.ones(2))
    gradients[60:] /= fall
    for g in gradients:
        parts = rule.parts(state, g)
        sizes.append((np.mean(abs(parts.decay_rate * state.theta)), np.mean(abs(rule.lr * parts.move))))
        state = parts.state
    decay, update = np.mean(sizes[-100:], axis=0)
    return decay / update


for name in ("AdamW", "AdamS"):
    kept, fallen = (decay_per_update(sd.CATALOG[name](**adam), fall) for fall in (1, 10))
    print(f"{name}: decay divided by update {kept:.2g}, and {fallen:.2g} if the gradients fall to a tenth")

# %% [markdown]
# The decay of AdamW keeps its share of the change of the weights, and that of AdamS becomes ten times as large.
#
# So weight decay is three things, and `weight_decay=0.01` means something else in each of them. Notebook 04 records R
# and η_eff in real training.
#
# ## Exercises
#
# **1.** How many times weaker than stable decay is decoupled decay with momentum 0.5, and with 0.99? Find the answer
# from the formulas, without a run.
#
# <details><summary>Solution</summary>
#
# 2 times and 100 times: the ratio of the long-run decay rates, stable to decoupled, is exactly 1/(1 − momentum).
#
# ```python
# for momentum in (0.5, 0.99):
#     stable, decoupled = (
#         sd.long_run_decay_rate(sd.CATALOG[name](**settings | {"momentum": momentum})).value
#         for name in ("SGDS", "SGDW")
#     )
#     print(momentum, stable / decoupled)
# ```
#
# </details>

# %% [markdown]
# **2.** Are the three kinds the same without momentum? Compare their steps as formulas.
#
# <details><summary>Solution</summary>
#
# Yes, all three take the same step. Weight decay was one thing as long as nobody used momentum, or divided steps as
# Adam does.
#
# ```python
# plain = [sd.CATALOG[name](**settings | {"momentum": 0}) for name in names.values()]
# expanded = [sd.equations(rule).value.expand() for rule in plain]
# assert expanded[0] == expanded[1] == expanded[2]
# expanded[0]
# ```
#
# </details>

# %% [markdown]
# **3.** You tuned `weight_decay=0.01` for SGDW with momentum 0.9, and you change to SGDS. Which `weight_decay` has the
# same effect?
#
# <details><summary>Solution</summary>
#
# A tenth of it. `equivalent_weight_decay` finds the λ with which two rules remove the same fraction of the weights.
#
# ```python
# same = sd.equivalent_weight_decay(rules["decoupled"], rules["stable"])
# assert abs(same.weight_decay - (1 - beta) * lam) < 1e-12
# same
# ```
#
# </details>

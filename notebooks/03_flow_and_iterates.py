# %% [markdown]
# # The flow and the steps
#
# **Is an optimizer a curve?**
#
# About 15 minutes, without the exercises. You need Python, gradients, eigenvalues, and an idea of what momentum does.
# ([Words](site/words.md) explains node, saddle and focus.) If the steps of an optimizer are small, the weights seem to
# glide along a curve. This curve is called a flow, and the package derives it from the optimizer. You will measure how
# closely the steps follow it.

# %%
from dataclasses import replace
from functools import partial

import numpy as np
from matplotlib.figure import Figure
from scipy.linalg import expm
from scipy.spatial import KDTree

import swd_dynamics as sd

# %% [markdown]
# ## Two weights and a valley
#
# The smallest deep network has two weights in a row, and it has to learn that their product is 1. All such pairs are
# equally good, so the loss has a valley, and weight decay chooses a place in it. We need the gradient, and the product
# of the Hessian with a vector:


# %%
def gradient(theta):
    return (theta[0] * theta[1] - 1) * theta[::-1]


def hvp(theta, vector):
    return theta[::-1] * (theta[::-1] @ vector) + (theta[0] * theta[1] - 1) * vector[::-1]


# %% [markdown]
# Three optimizers differ only in their kind of weight decay: L2, decoupled and stable.


# %%
def three_decays(lr):
    names = {"L2": "SGD", "decoupled": "SGDW", "stable": "SGDS"}
    return {mode: sd.CATALOG[name](lr=lr, momentum=0.9, weight_decay=0.3) for mode, name in names.items()}


# %% [markdown]
# ## Small steps lie on the curve
#
# **Predict.** Stable decay starts at (2.6, 1.4) with η = 0.0002 and takes 20,000 steps along a curve, its flow. L2 and
# decoupled decay do the same. Which of the two will stay on the curve of stable decay?

# %%
guess = None  # "L2", "decoupled", "both" or "neither"

# %% [markdown]
# The package divides a step by η and lets η go to zero:

# %%
print("your answer:", guess)
start, rules = (2.6, 1.4), three_decays(lr=0.0002)
print(*(f"{mode:10} F₀ = {sd.modified_equation(rule).first}" for mode, rule in rules.items()), sep="\n")

# %% [markdown]
# F₀ is a velocity at every point of the plane: a flow dθ/dt = F₀, in a time t that grows by η in each step. It does not
# contain the learning rate. In the figure, circles mark the points where the flow rests: it ends at a *node*, and it
# passes a *saddle*. On a pink curve one of the two weights does not change. μ are the eigenvalues of the flow, and |z|
# is the factor by which a step of the stable rule multiplies a small deviation in the long run.


# %% jupyter={"source_hidden": true} tags=["hide-input"]
# Draw the steps, the flow of decoupled decay, and the distances in the titles.
def with_its_rule(figure):
    """Say in the legend whose flow and whose |z| it has."""
    for text in figure.legends[0].get_texts():
        said = text.get_text().replace("steps settle", "steps of stable decay\nsettle")
        said = said.replace("steps leave", "steps of stable decay\nleave")
        text.set_text("the flow of stable decay" if said == "the flow" else said)
    return figure


def draw_small_steps(plane, rules):
    runs = {run.name: run.paths[0] for run in plane.iterates}
    ways = {mode: sd.Flow(rule, gradient).solve(start, len(runs[mode]) - 1).theta for mode, rule in rules.items()}
    away = max(KDTree(ways[mode]).query(runs[mode])[0].max() for mode in rules)  # from the nearest point of the flow
    sparse = [replace(run, paths=(run.paths[0][:: len(run.paths[0]) // 500 or 1],)) for run in plane.iterates]
    title = f"η = {rules['stable'].lr:g}: no step is further than {away:.1g} from the curve of its flow"
    figure = sd.plots.phase_plane(replace(plane, iterates=tuple(sparse)), title=title)
    style = {"color": "black", "linestyle": ":", "linewidth": 1.4, "zorder": 6}
    (line,) = figure.axes[0].plot(*ways["decoupled"].T, **style, label="the flow of decoupled decay")
    (legend,) = figure.legends
    handles = [*legend.legend_handles, line]
    legend.remove()
    with sd.plots.house_style():
        figure.legend(handles=handles, loc="outside right upper", labelspacing=0.8)
    return with_its_rule(figure)


def draw_large_steps(plane, rules):
    ends = {run.name: run.paths[0][-1] for run in plane.iterates}
    apart = np.hypot(*(ends["L2"] - ends["stable"]))
    how = f"but end {apart:.2g} apart" if apart > 0.1 else "and end at the same place"
    title = f"η = {rules['L2'].lr:g}: L2 and stable decay have the same flow, {how}"
    return with_its_rule(sd.plots.phase_plane(plane, title=title))


# %%
flow = sd.Flow(rules["stable"], gradient)
plane = sd.planes.phase_plane(flow, x=(-0.3, 2.8), y=(-0.5, 2), start=start, t=4, iterates_of=rules)
draw_small_steps(plane, rules)

# %% [markdown]
# L2 (under the diamonds) and stable decay have the same F₀. Both follow the black curve down the wall, round a sharp
# bend, and slowly along the valley, where only decay still acts. Decoupled decay follows its own curve (dotted) and,
# with a tenth of the decay, is still on its way.
#
# ## Larger steps leave it
#
# Now the learning rate is 100 times larger.
#
# **Predict.** Do L2 and stable decay, which have the same flow, still end in the same minimum?

# %%
guess = None  # True or False

# %%
print("your answer:", guess)
rules = three_decays(lr=0.02)
flow = sd.Flow(rules["stable"], gradient, hvp)
plane = sd.planes.phase_plane(flow, x=(-1.5, 3), y=(-1.5, 2.5), start=start, steps=300, iterates_of=rules)
draw_large_steps(plane, rules)

# %% [markdown]
# None of them makes the bend: they shoot across the valley. Stable decay turns round in front of the saddle and ends
# where its flow ends. L2 passes the saddle and ends in the *other* minimum.
#
# The learning rate 0.02 was chosen to show this. For η from 0.019 to 0.024 the two end in different minima, for smaller
# and larger η (up to 0.04) in the same one.
#
# ## What the plane of the weights does not show
#
# In the second picture the path of decoupled decay crosses itself. A curve of a flow never does that, because the place
# determines the direction. But the direction of an optimizer also depends on its momentum. So look at one weight *and
# its momentum*, on the loss f = θ²/2. Arrows show where a step goes. The change in a step, divided by η, is the
# velocity of a second kind of flow, of the weight and its memory, which depends on η. The black line is this flow from
# (−1, 0), and the points are steps.


# %% jupyter={"source_hidden": true} tags=["hide-input"]
low, high = np.array([-1.2, -3]), np.array([1.2, 3])
grid = np.array(np.meshgrid(*np.linspace(low, high, 14).T))


def speed(rule, theta, m):
    """(θ′ − θ, m′ − m)/η: where a step goes, on f = θ²/2. (It is not the first step, which sets m = g.)"""
    state = rule.start(theta)
    after = rule(state._replace(memory=state.memory._replace(m=m), step=1), theta)
    return np.array([after.theta - theta, after.memory.m - m]) / rule.lr


def path(rule, steps):
    state, places = rule.start(-1.0), [(-1.0, 0.0)]
    for _ in range(steps):
        state = rule(state, state.theta)
        places.append((state.theta, state.memory.m))
    return np.clip(places, 2 * low, 2 * high).T


def draw_weight(figure, lr, momentum):
    rule = sd.CATALOG["SGD"](lr=lr, momentum=momentum)
    matrix = np.stack([speed(rule, *np.eye(2)[i]) for i in (0, 1)], axis=1)
    arrows = speed(rule, *grid) / (high - low)[:, None, None]
    arrows /= np.hypot(*arrows)
    curves = {
        "the flow": (expm(np.multiply.outer(np.linspace(0, 50 * lr, 200), matrix)) @ [-1, 0]).T,
        "50 steps": path(rule, 50),
    }
    curves["slow manifold, nearly: m = g/(1 − β)"] = np.array([[-1.2, 1.2], [-1.2, 1.2] / (1 - np.float64(momentum))])
    if not figure.axes:
        axes = figure.subplots()
        axes.quiver(*grid, *arrows, color="#bbbbbb", pivot="middle", scale=30, width=0.003)
        looks = ({"color": "black"}, sd.plots.measured("none"), {"color": sd.plots.MUTED, "linestyle": "--"})
        for (label, curve), look in zip(curves.items(), looks, strict=True):
            axes.plot(*curve, **look | {"label": label})
        axes.set(xlabel="weight θ", ylabel="momentum m", xlim=(-1.2, 1.2), ylim=(-3, 3))
        axes.grid(False)
        figure.legend(loc="outside lower center", ncols=3)
    axes = figure.axes[0]
    axes.collections[0].set_UVC(*arrows)
    for line, curve in zip(axes.lines, curves.values(), strict=True):
        line.set_data(*curve)
    kind = sd.planes.fixed_points.kind(np.linalg.eigvals(matrix), accuracy=1e-9)
    figure.suptitle(f"A {kind} at η = {lr:.2g}, momentum {momentum:.2g}")
    return partial(draw_weight, figure)  # a move changes this figure


# %%
sd.plots.Sliders(draw_weight, lr=(0.03, 4, 0.1, "log"), momentum=(0.1, 0.95, 0.9))

# %% [markdown]
# This is a *focus*: the weight swings through its minimum and back. The steps leave the flow at once, because a step is
# straight, while the flow turns by η·Im μ = 0.3 radians in the same time. So a step multiplies the distance to the
# minimum by |z| = 0.949, and the flow by exp(η·Re μ) = 0.905. With less momentum or a smaller learning rate it becomes
# a *node*: m first moves to the dashed line, where βm + g = m, and then both go to the minimum along this line. The
# line is nearly the **slow manifold**, on which the weight alone determines the direction. This is why the small steps
# of the first picture followed their curve. If no kernel runs, this is what the sliders would show:

# %% jupyter={"source_hidden": true} tags=["hide-input"]
for lr, momentum in [(0.1, 0.9), (0.1, 0.4), (0.001, 0.9), (4, 0.9)]:
    state_flow = sd.Flow(sd.CATALOG["SGD"](lr=lr, momentum=momentum), lambda theta: theta, order="state")
    (rest,) = sd.planes.phase_plane(state_flow, nodes=8).fixed_points
    print(f"η = {lr:<6} momentum {momentum}: {rest.kind}, {rest.described()}")

# %% [markdown]
# At η = 4 the flow goes to the minimum, but the steps jump from side to side, each time 1.5 times *further* away.
#
# ## How close is close?
#
# We return to the flow of the weights. Halve η repeatedly, and measure the largest distance between the steps and the
# flow. If the flow is right to first order, the distance falls like η. The package also derives the next term, F₁,
# which accounts for the lag of the momentum and the bend of the flow within a step. The runs start with the momentum
# that belongs to the flow. From m = 0 the distances to both flows fall only like η.
#
# **Predict.** With dθ/dt = F₀ + ηF₁, by which factor does the distance fall when η is halved?

# %%
guess = None  # a number

# %%
rule = three_decays(lr=0.0001)["stable"]
lrs = [rule.lr / 2**i for i in range(6)]
verdicts = [
    sd.convergence_order(sd.Flow(rule, gradient, hvp, order), start, t=0.05, lrs=lrs, name=f"order {order}")
    for order in (1, 2)
]
print("your answer:", guess)
sd.Ledger(verdicts)

# %% [markdown]
# The measured exponents are 1 and 2, so with F₁ each halving divides the distance by 4:


# %% jupyter={"source_hidden": true} tags=["hide-input"]
def order_figure():
    with sd.plots.house_style():
        figure = Figure(figsize=(7.2, 3.8))
        axes = figure.subplots()
        for order, (name, verdict) in enumerate(zip(("F₀", "F₀ + ηF₁"), verdicts, strict=True), 1):
            error, face = verdict.evidence["error"], "white" if order == 1 else sd.plots.COLOURS["stable"]
            points = sd.plots.measured("stable", markerfacecolor=face, label=f"{name}: slope {verdict.measured:.2f}")
            axes.loglog(lrs, error[-1] * (np.array(lrs) / lrs[-1]) ** order, **sd.plots.theory("stable", label=None))
            axes.loglog(lrs, error, **points)
        axes.set(xlabel="learning rate η (lines: slopes 1 and 2)", ylabel="largest distance, steps to flow")
        axes.legend()
        passed = all(verdict.passed for verdict in verdicts)
        claim = "The distance falls like η for the flow F₀, and like η² for F₀ + ηF₁"
        figure.suptitle(claim if passed else "The derived flows are not as close as they claim to be")
    return figure


order_figure()

# %% [markdown]
# So, is an optimizer a curve? With small steps and settled momentum it stays near one. With large steps it is what it
# always was: a map.
#
# ## Exercises
#
# **1.** On the floor of the valley at (2, ½), near the bend, the walls have curvature 4.25. Up to which learning rate
# is a weight there, with momentum 0.9, a node and not a focus?
#
# <details><summary>Solution</summary>
#
# Up to (1 − √momentum)² divided by the curvature, about 0.0006, because there the two eigenvalues μ are equal. The
# first picture was below this learning rate, and the second picture was far above it.
#
# ```python
# def kind(lr):
#     flow = sd.Flow(sd.CATALOG["SGD"](lr=lr, momentum=0.9), lambda theta: 4.25 * theta, order="state")
#     return sd.planes.phase_plane(flow, nodes=8).fixed_points[0].kind
#
#
# largest = max(lr for lr in np.geomspace(1e-4, 1e-1, 200) if kind(lr) == "stable node")
# assert abs(largest / ((1 - np.sqrt(0.9)) ** 2 / 4.25) - 1) < 0.05
# largest
# ```
#
# </details>

# %% [markdown]
# **2.** Is a wrong flow found out? Make F₁ a tenth too large, and measure its order again.
#
# <details><summary>Solution</summary>
#
# A `Flow` accepts another equation. The error that remains is of order η, and the slope shows it.
#
# ```python
# right = sd.symbolic.numeric_equation(rule)
# wrong = replace(right, second=lambda *where: 1.1 * right.second(*where))
# second = sd.Flow(rule, gradient, hvp, order=2, equation=wrong)
# verdict = sd.convergence_order(second, start, t=0.05, lrs=lrs)
# assert verdict.status == "refuted"
# verdict
# ```
#
# </details>

# %% [markdown]
# **3.** Did the long steps or the momentum carry L2 into the other minimum? Remove the momentum, and make η ten times
# larger, so that a gradient of 1 moves a weight as far as before.
#
# <details><summary>Solution</summary>
#
# The momentum did. Without it the first step jumps across the valley, but then the run goes along the valley and ends
# where the flow ends.
#
# ```python
# plain = {"L2": sd.CATALOG["SGD"](lr=0.2, weight_decay=0.3)}
# flow = sd.Flow(plain["L2"], gradient)
# plane = sd.planes.phase_plane(flow, x=(-1.5, 3), y=(-1.5, 2.5), start=start, steps=300, iterates_of=plain)
# assert (plane.iterates[0].paths[0][-1] > 0).all()
# sd.plots.phase_plane(plane, title="Without momentum")
# ```
#
# </details>

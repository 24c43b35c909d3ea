# %% [markdown]
# # The flow and the steps
#
# **Is an optimizer a curve?**
#
# Take small steps and the weights seem to glide. The curve that they glide along is called a flow, and it can be
# derived from the optimizer. Here you see when the steps follow it, where they leave it, and how to tell the two
# apart with a number. You need Python, gradients, and an idea of what momentum does.

# %%
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

import swd_dynamics as sd

# %% [markdown]
# ## Two weights and a valley
#
# The smallest deep network has two weights in a row, and here it has one thing to learn: their product should be 1.
# All pairs with that product are equally good, so that the loss has a valley, and weight decay chooses a place in it.
# We need the gradient, and the product of the Hessian with a vector:


# %%
def gradient(theta):
    return (theta[0] * theta[1] - 1) * theta[::-1]


def hvp(theta, vector):
    return theta[::-1] * (theta[::-1] @ vector) + (theta[0] * theta[1] - 1) * vector[::-1]


def three_decays(lr):
    names = {"L2": "SGD", "decoupled": "SGDW", "stable": "SGDS"}
    return {mode: sd.CATALOG[name](lr=lr, momentum=0.9, weight_decay=0.3) for mode, name in names.items()}


start = (2.6, 1.4)

# %% [markdown]
# Which way does such an optimizer go, if its steps are very small? Divide what a step does by the learning rate, and
# let the learning rate go to zero. Momentum has settled by then: it holds G, the gradient that the optimizer sees,
# many times over.

# %%
equation = sd.modified_equation(three_decays(0.0002)["stable"])
equation.steps[4]

# %%
equation.steps[6]

# %% [markdown]
# This is a speed at every point of the plane: a flow, in the time t that a step moves on by η. The learning rate
# itself is gone from it. With our numbers put in, and for all three decays:

# %%
flows = {mode: sd.modified_equation(rule) for mode, rule in three_decays(0.0002).items()}
print(*(f"{mode:10} F₀ = {flows[mode].first}" for mode in flows), sep="\n")

# %% [markdown]
# L2 and stable decay have one and the same flow. Decoupled decay has another one, in which momentum .9 makes ten
# gradients of one, but leaves the decay as it is.
#
# ## Small steps lie on the curve
#
# Grey are the streamlines of the flow of stable decay, black is the curve from our start, points are the real steps
# of the three optimizers, one in forty of them.

# %%
rules = three_decays(lr=0.0002)
flow = sd.Flow(rules["stable"], gradient, hvp)
plane = sd.planes.phase_plane(flow, x=(-0.3, 2.8), y=(-0.5, 2), start=start, t=4, iterates_of=rules)
shown = [replace(run, paths=(run.paths[0][::40],)) for run in plane.iterates]
sd.plots.phase_plane(replace(plane, iterates=tuple(shown)), title="η = .0002: the steps are a curve")

# %% [markdown]
# Down the wall, a sharp bend, then slowly along the valley, where only decay still acts. L2 and stable decay go along
# the black curve. Decoupled decay goes along a curve too, its own, and is on its way to another place.
#
# ## Larger steps leave it
#
# The same three optimizers, the same start, and a learning rate 100 times larger. The flow is the same, because there
# is no η in it.

# %%
rules = three_decays(lr=0.02)
flow = sd.Flow(rules["stable"], gradient, hvp)
plane = sd.planes.phase_plane(flow, x=(-1.5, 3), y=(-1.5, 2.5), start=start, steps=300, iterates_of=rules)
sd.plots.phase_plane(plane, title="η = .02: the steps miss the bend, and part")

# %% [markdown]
# None of them makes the bend. They shoot across the valley, each a little differently, and then go to three different
# places: stable decay turns round in front of the saddle and ends where its flow ends, L2 passes the saddle and ends
# in the *other* minimum, decoupled decay swings back to its own. Two optimizers with one flow end in different
# minima. (At η = .018 all three end on their own side, at .025 L2 and stable decay both cross: where a run ends is
# settled by little.) Nothing has diverged. In words, for the two flows:

# %%
planes = {mode: sd.planes.phase_plane(sd.Flow(rules[mode], gradient, hvp)) for mode in ("stable", "decoupled")}
print(*(f"{mode} decay, {plane}" for mode, plane in planes.items()), sep="\n\n")

# %% [markdown]
# At a node the flow comes to rest: each eigenvalue μ is negative, and says how fast. At a saddle one of them is
# positive, and the flow drives away. The steps have a number of their own: |z| is what a step multiplies a small
# deviation by in the long run, and where it is below 1, steps settle, too.
#
# ## What the plane of the weights cannot show
#
# In the second picture the track of decoupled decay crosses itself. A curve of a flow never does: where you are says
# where you go. But an optimizer goes on differently from the same weights when it remembers something else. So let us
# look at one weight *and its momentum*, on a wall of curvature 1. In this plane a point says all there is to know:


# %%
def plane_of_a_weight(lr, momentum, **more):
    """The plane of a weight and its momentum on f = θ²/2."""
    flow = sd.Flow(sd.CATALOG["SGD"](lr=lr, momentum=momentum), lambda theta: theta, order="state")
    return sd.planes.phase_plane(flow, x=(-1.2, 1.2), y=(-3, 3), nodes=21, **more)


def draw_weight(figure, lr, momentum):
    plane = plane_of_a_weight(lr, momentum, start=(-1, 0), steps=50)
    kind = plane.fixed_points[0].kind
    sd.plots.phase_plane(plane, figure=figure, title=f"A {kind} at η = {lr:.2g}, momentum {momentum:.2g}")


sd.plots.Sliders(draw_weight, size=(8.6, 4.6), lr=(0.03, 4, 0.1, "log"), momentum=(0.1, 0.95, 0.9))

# %% [markdown]
# A *focus*: the weight swings through its minimum and back, which no curve on a line can do. (The steps swing wider
# than this flow says; it, too, is right to order η only.) With less momentum it becomes a *node*: from the start m
# falls at once towards the dashed line, where it is what the gradient makes of it, and then both glide home side by
# side. That line is (nearly) the **slow manifold**. On it momentum is no longer a thing of its own, and the flow of
# the weight alone tells everything. Where no kernel runs, here is what the sliders would show:

# %%
lines = []
for lr, momentum in [(0.1, 0.9), (0.1, 0.6), (0.1, 0.4), (0.1, 0.2), (0.001, 0.9), (4, 0.9)]:
    (rest,) = plane_of_a_weight(lr, momentum).fixed_points
    lines.append(f"η = {lr:<6} momentum {momentum}: {rest.kind}, {rest.described()}")
print(*lines, sep="\n")

# %% [markdown]
# A smaller learning rate makes a node of it as well: the slower the weight, the sooner momentum is in its place. So
# the steps of the first picture followed their curve, and those of the second, on a steep wall, did not.
#
# The last line is worth a second look. At η = 4 the flow calls it a stable node and glides home, while the steps jump
# from side to side, in the end each time 1.5 times *further* out.
#
# ## How close is close?
#
# "Small enough" can be measured. Halve η again and again, and look at the largest distance between the steps and the
# flow. If the flow is right, it falls like η. The package also derives the next term, F₁, which knows how momentum
# lags behind and how the flow bends within a step. With F₁ the distance should fall like η².

# %%
equation.steps[-1]

# %%
rule = three_decays(lr=0.0001)["stable"]
lrs = [0.0001 / 2**i for i in range(6)]
verdicts = [
    sd.convergence_order(sd.Flow(rule, gradient, hvp, order), start, t=0.05, lrs=lrs, name=f"order {order}")
    for order in (1, 2)
]
sd.Ledger(verdicts)

# %% [markdown]
# "Measured" is the order that the rows of points below show, extrapolated to small η. For this the steps must begin on
# the slow manifold, or what you measure is how momentum gets there. A flow knows the right momentum for a start; an
# optimizer begins at rest, with zero:

# %%
manifold = sd.Flow(rule, gradient, hvp).starting_state(start)
print("on the slow manifold", manifold.memory)
print("from rest           ", rule.start(manifold.theta).memory)


# %%
def from_rest(rule, state, gradient, steps):
    return sd.crosscheck.rule_iterates(rule, rule.start(state.theta), gradient, steps)


second = sd.Flow(rule, gradient, hvp, order=2)
at_rest = sd.convergence_order(second, start, t=0.05, lrs=lrs, iterates=from_rest, name="from rest")
sd.Ledger([at_rest])

# %% [markdown]
# Refuted, and rightly so: what a run loses while its momentum fills is of order η, and no F₁ brings it back. All
# three rows together:


# %%
def draw_orders(axes):
    for order, (name, verdict) in enumerate(zip(("F₀", "F₀ + ηF₁"), verdicts, strict=True), 1):
        error, face = verdict.evidence["error"], "white" if order == 1 else sd.plots.COLOURS["stable"]
        points = sd.plots.measured("stable", markerfacecolor=face, label=f"{name}: slope {verdict.measured:.2f}")
        axes.loglog(lrs, error[-1] * (np.array(lrs) / lrs[-1]) ** order, **sd.plots.theory("stable", label=None))
        axes.loglog(lrs, error, **points)
    label = f"F₀ + ηF₁, momentum from rest: slope {at_rest.measured:.2f}"
    axes.loglog(lrs, at_rest.evidence["error"], "x", color=sd.plots.MUTED, label=label)
    axes.set(xlabel="learning rate η (lines: slopes 1 and 2)", ylabel="largest distance, steps to flow")
    axes.legend()


def order_figure():
    with sd.plots.house_style():
        figure = Figure()
        draw_orders(figure.subplots())
        figure.suptitle("The derived flows are as close as they claim to be")
    return figure


order_figure()

# %% [markdown]
# ## Where L2 and stable decay part
#
# To first order the two are one flow. To second they are not. Here is F₁ with our numbers, in the rates at which the
# gradient and the weights change:

# %%
print(*(f"{mode:10} F₁ = {flows[mode].second_in_rates}" for mode in flows), sep="\n")

# %% [markdown]
# At momentum .9 the decay of L2 weighs 57/2 in F₁ and that of stable decay 3/2, 19 times less: L2 decay goes through
# the momentum with the gradient. On the slow manifold this is the first thing by which the two part when η grows.
# From rest, as in the pictures above, something comes before it: L2 decay must first fill the momentum, stable decay
# need not.
#
# ## Too large
#
# A learning rate 15 times larger than in the second picture:

# %%
rules = three_decays(lr=0.3)
both = [sd.Flow(rules["L2"], gradient, hvp, order) for order in (1, 2)]
ends = {f"flow of L2, order {flow.order}": flow.solve(start, steps=300).theta[-1] for flow in both}
plane = sd.planes.phase_plane(both[0], start=start, steps=300, iterates_of=rules)
ends |= {f"steps, {run.name}": run.paths[0][-1] for run in plane.iterates}
print(*(f"{name:24} end at {end.round(2)}" for name, end in ends.items()), sep="\n")
print("L2 near", plane.fixed_points[-1].place(), "has", plane.fixed_points[-1].described())

# %% [markdown]
# The steps of L2 have left all bounds (it is no threshold: at η = .35 they end in a minimum), the others have landed
# in the minimum on the other side, and the flows know nothing of it: they end where they always end. F₀ cannot know,
# for there is no η in it; F₁ does not see it here either. Nor do |z| and the package's `stability_limit` tell: they
# speak of a small deviation from a minimum, and there steps of this size would settle. Of a run that starts far away
# only its own steps tell.
#
# Where a loss falls faster and faster, as −¼θ⁴ does, a flow is at infinity after a finite time. Then you get no numbers
# that look like a result, but a sentence:

# %% tags=["raises-exception"]
no_floor = sd.Flow(rules["L2"], lambda theta: -(theta**3))
no_floor.solve([1.0, 0.1], steps=100)

# %% [markdown]
# So, is an optimizer a curve? On the slow manifold and to order η it is the curve F₀, to order η² the curve F₀ + ηF₁.
# Off it, it is a curve in a larger space, that of the weights and what it remembers. And with large steps it is what
# it always was: a map.
#
# ## Exercises
#
# **1.** On the floor of the valley at (2, ½), near the bend, its walls have curvature 4.25. Up to which learning rate
# is a weight there, with momentum .9, a node and not a focus?
#
# <details><summary>Solution</summary>
#
# Up to (1 − √momentum)² divided by the curvature, about .0006: there the two eigenvalues μ meet. The first picture
# was below it, the second far above.
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
# **2.** Does a wrong flow get caught? Make F₁ a tenth too large, and measure its order again.
#
# <details><summary>Solution</summary>
#
# A `Flow` takes another equation to integrate. What is left of the error is then of order η, and the slope tells.
#
# ```python
# right = sd.symbolic.numeric_equation(three_decays(0.0001)["stable"])
# wrong = replace(right, second=lambda *where: 1.1 * right.second(*where))
# verdict = sd.convergence_order(replace(second, equation=wrong), start, t=0.05, lrs=lrs)
# assert verdict.status == "refuted"
# verdict
# ```
#
# </details>

# %% [markdown]
# **3.** Is it the long steps or the momentum that carried L2 into the other minimum? Take the momentum away, and make
# η ten times larger, so that a unit of gradient moves a weight as far as before.
#
# <details><summary>Solution</summary>
#
# The momentum: without it the first step jumps across the valley, but then the run goes along it and ends where the
# flow ends.
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

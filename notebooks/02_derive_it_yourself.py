# %% [markdown]
# # Derive it yourself
#
# **What follows from an optimizer's step by algebra alone, and can you do it for your own?**
#
# A step is a line or two of arithmetic. From it follow the curve that the weights take, how strong the decay really
# is, and the curvature at which training blows up. Here this is derived for stable decay (SGDS), one step after
# another, and each result is held against runs. Then you write an optimizer that the package has never seen.

# %%
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import sympy
import torch
from IPython.display import Math, display
from matplotlib.figure import Figure

import swd_dynamics as sd

# %% [markdown]
# ## Code that takes letters
#
# A rule is called with a state and a gradient, and gives the next state. It uses nothing but arithmetic, so it does
# not mind what it is given. Here is the first step of SGDS, once for numbers and once for symbols:

# %%
rule = sd.CATALOG["SGDS"](lr=0.1, momentum=0.9, weight_decay=0.05)
print(rule(rule.start(1.0), 2.0).theta)

theta, g = sympy.symbols("theta g")
display(rule(rule.start(theta), g).theta)

# %% [markdown]
# The rule's own numbers can be letters too: `lettered` makes them so, and says which letter stands for which number.
# Then the step is a formula. In it G is the gradient that the optimizer sees, m its momentum, R the share of the
# weights that is taken off, and a prime marks what is there after the step.

# %%
stable, numbers = sd.symbolic.lettered(rule)
eta, beta, lam = numbers
print(numbers)
sd.equations(stable)

# %% [markdown]
# ## From steps to a curve
#
# If the steps are small, their points lie on a curve, and a curve has a differential equation. Let time be t = ηk for
# step k. The equation that the points follow, up to errors of order η², is called the **modified equation**. Its
# derivation starts from the four lines above and has six more steps; here they are, one at a time.

# %%
flow = sd.modified_equation(stable)
flow.steps[4]

# %% [markdown]
# **The slow manifold.** Weights move little in a step, so for the momentum the gradient nearly stands still. Then m
# comes to rest: the rest point is where m′ and m are the same. In the limit of small steps the memory is a function
# of where the weights are.

# %%
flow.steps[5]

# %% [markdown]
# **The lag.** The gradient does not quite stand still. Here m is the momentum that the step uses, m′ above, with the
# newest gradient in it already. It is made of gradients that are on average β/(1−β) steps old, so it is what its rest
# point was that long ago. The dot is a rate of change, d/dt, and the minus says: behind.

# %%
flow.steps[6]

# %%
flow.steps[7]

# %% [markdown]
# Put the memory into the step, and divide by η. With the rest point it is a velocity, the **first-order flow**. With
# the lag it gets a part of order η, U₁. That would be the whole second order if a flow were straight, but it bends:

# %%
flow.steps[8]

# %% [markdown]
# **Half the turn.** A step is straight: one velocity from its start to its end. A flow changes its velocity on the
# way, so that its mean over the step is off by half of that change. To end where the step ends, the flow must set out
# with this half taken off:

# %%
flow.steps[9]

# %% [markdown]
# That is all. The loss took no part in it: whoever evaluates the equation puts in the gradient g and its rate of
# change along the flow. Where G is g and more, as with L2, it is taken apart in the end.
#
# ## The same flow, almost
#
# Now the same derivation for L2, decoupled and stable decay, in this order, results only. These rules are given the
# letters in the place of numbers.

# %%
names = {"L2": "SGD", "decoupled": "SGDW", "stable": "SGDS"}
letters = {mode: sd.CATALOG[name](lr=eta, momentum=beta, weight_decay=lam) for mode, name in names.items()}
flows = {mode: sd.modified_equation(each) for mode, each in letters.items()}
for mode, each in flows.items():
    print(mode)
    display(Math(each.latex()))

# %% [markdown]
# L2 and stable decay have one and the same first-order flow, F₀: as the steps get small, nobody can tell the two
# apart. Decoupled decay is another flow. At second order, in F₁, compare what stands before λθ̇, the decay's own
# part:


# %%
def second_order_decay(derived):
    """What stands before ηλθ̇ in a modified equation."""
    velocity = next(s for s in derived.second_in_rates.free_symbols if s.name == "θ̇")
    return derived.second_in_rates.diff(velocity) / lam


coefficients = {mode: second_order_decay(each) for mode, each in flows.items()}
display(coefficients["L2"], coefficients["stable"])

factor = coefficients["L2"] / coefficients["stable"]
print(f"L2 over stable, at momentum {numbers[beta]:g}: {float(factor.subs(numbers)):.3g}")
print("the difference of their F₀:", sympy.simplify(flows["L2"].first - flows["stable"].first))

# %% [markdown]
# L2 has (1+β)/(1−β) times the coefficient of stable decay. The reason is in the steps above: L2 decay is a part of G,
# so the lag of the memory acts on it; stable decay goes past the memory, and only half the turn is left. Is it true?
# Let the gradient be zero and measure at which rate a weight decays; what it has beyond F₀, as a share of F₀ and in
# units of ηλ, is this coefficient.


# %%
def beyond_first_order(rule, steps=600):
    """How much faster than its first-order flow a weight without gradients decays, in units of ηλ."""
    state = rule.start(1.0)
    for _ in range(steps):
        before, state = state.theta, rule(state, 0.0)
    rate = -np.log(state.theta / before) / rule.lr
    first = -sd.symbolic.numeric_equation(rule).first(np.ones(1), np.zeros(1), ())[0]
    return (rate / first - 1) / (rule.lr * rule.decay.weight_decay)


with sd.plots.house_style():
    figure = Figure(figsize=(7.2, 4.0))
    axes, momenta, shown = figure.subplots(), np.linspace(0, 0.96, 97), np.linspace(0.05, 0.95, 10)
    for mode, name in names.items():
        rules = [sd.CATALOG[name](lr=1e-4, momentum=b, weight_decay=0.1) for b in shown]
        axes.plot(momenta, [coefficients[mode].subs(beta, b) for b in momenta], **sd.plots.theory(mode))
        axes.plot(shown, [beyond_first_order(rule) for rule in rules], **sd.plots.measured(mode))
    axes.set(xlabel="momentum β", ylabel="decay of second order, in units of ηλ", yscale="log")
    axes.legend()
    figure.suptitle("Decay through momentum is much stronger at second order")
display(figure)

# %% [markdown]
# The lines are the derived coefficients, the points come from runs. Without momentum there is no lag, and the three
# meet at one half: half the turn is all there is.
#
# And with a loss? Halve η again and again over the same time t. The distance between the steps and a flow that is
# right to first order goes as η¹, to second order as η². The table has these exponents, derived and measured. Its
# last row follows the steps of L2 with the F₁ of stable decay: one coefficient is off, and an order is lost.

# %%
target = np.array([1.0, -2.0, 0.5])


def gradient(theta):  # of the sum of log cosh(θ − target)
    return np.tanh(theta - target)


def hvp(theta, vector):  # its Hessian times a vector
    return vector / np.cosh(theta - target) ** 2


def tested(mode):
    return sd.CATALOG[names[mode]](lr=1e-3, momentum=0.9, weight_decay=0.5)


def order_of(flow, claim, lr=5e-4, t=0.1, **more):
    lrs = [lr / 2**halvings for halvings in range(5)]
    return replace(sd.convergence_order(flow, [2.0, 1.0, -1.0], t=t, lrs=lrs, **more), claim=claim)


verdicts = [
    order_of(sd.Flow(tested(mode), gradient, hvp, order=n), f"{mode}: steps and flow of order {n}")
    for mode in names
    for n in (1, 2)
]
own, other = sd.symbolic.numeric_equation(tested("L2")), sd.symbolic.numeric_equation(tested("stable"))
mixed = sd.Flow(tested("L2"), gradient, hvp, order=2, equation=replace(own, second=other.second))
sd.Ledger([*verdicts, order_of(mixed, "L2, with stable's F₁: only order 1 is left", expected=1)])

# %% [markdown]
# ## When does it blow up?
#
# Near a minimum the loss is a parabola with curvature h, and there the gradient is linear in θ. A step is linear too:
# a constant, which says where the minimum is, and a matrix.

# %%
limit = sd.stability_limit(stable)
limit.steps[4]

# %%
limit.steps[5]

# %% [markdown]
# A distance from the minimum is multiplied by the roots z of this polynomial, step after step. All of them within the
# unit circle: it dies out. One of them outside: it grows, and training blows up. As the curvature rises from a stable
# value, a root can leave the circle at three places only. These are **Jury's conditions**:

# %%
display(*limit.steps[6:])

# %% [markdown]
# At z = 1 nothing leaves: the expression is zero at no positive h. Nor does a complex pair. What remains is z = −1,
# where the weights jump from side to side, further each time. So the limit of SGDS is the expression in the middle.
# It falls to zero where the decay alone takes off twice the weights, R = 2.
#
# Do runs know of it? Take the parabola at 421 curvatures at once, and look for the first at which a run still grows:


# %%
def edge(rule, h, steps=300):
    """The first of the curvatures h at which a run from θ = 1 is larger in its last third than in the one before."""
    state, sizes = rule.start(np.ones_like(h)), []
    with np.errstate(all="ignore"):  # what blows up may overflow
        for _ in range(steps):
            state = rule(state, h * state.theta)
            sizes.append(abs(state.theta))
    before, after = (np.max(sizes[start : start + steps // 3], axis=0) for start in (steps // 3, 2 * steps // 3))
    return h[np.argmin((after <= before) & np.isfinite(after))]


letters["none"] = sd.CATALOG["SGD"](lr=eta, momentum=beta)
limits = {mode: sympy.lambdify([eta, beta, lam], sd.stability_limit(each).value) for mode, each in letters.items()}


def draw_limit(figure, lr, weight_decay):
    axes, momenta, shown = figure.subplots(), np.linspace(0, 0.98, 99), np.linspace(0.05, 0.95, 10)
    for mode, name in names.items():
        rules = [sd.CATALOG[name](lr=lr, momentum=b, weight_decay=weight_decay) for b in shown]
        found = [edge(rule, np.linspace(0, 4.2 / lr, 421)) for rule in rules]
        axes.plot(momenta, np.maximum(limits[mode](lr, momenta, weight_decay), 0), **sd.plots.theory(mode))
        axes.plot(shown, found, **sd.plots.measured(mode))
    axes.plot(momenta, limits["none"](lr, momenta, 0), **sd.plots.theory("none"))
    axes.set(xlabel="momentum β", ylabel="largest stable curvature h", ylim=(-0.1 / lr, 4.2 / lr))
    figure.legend(loc="outside lower center", ncols=4)
    figure.suptitle(f"Decay lowers the curvature that a run survives (η = {lr:.3g}, λ = {weight_decay:.3g})")


sd.plots.Sliders(draw_limit, lr=(0.02, 0.5, 0.1, "log"), weight_decay=(0.01, 4, 2, "log"))

# %% [markdown]
# Momentum close to 1 about doubles the curvature that L2 and decoupled decay survive. Under stable decay the limit
# bends down again, because what the decay takes off grows with the momentum. For this to be seen, λ is much larger
# here than anyone would train with. Where a kernel runs, move it down, and the lines close up.
#
# ## Your own
#
# Now an optimizer that is not in the package: quasi-hyperbolic momentum (QHM; Ma & Yarats, arXiv 1810.06801). Its
# step is a mixture of the gradient, with weight 1−ν, and of an average of gradients, with weight ν. An optimizer is
# any class with four methods. `effective_lr` is how far a unit of gradient moves a weight in the end; an average
# passes it on whole, if late, so here it is the learning rate.


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
        return step.lr


mine = sd.UpdateRule(0.1, QHM(momentum=0.9, nu=0.7), sd.rules.Stable(0.05))
display(mine)

# %% [markdown]
# Nothing is registered, nothing inherited, and all of the above works on it. First the modified equation, with L2 and
# with stable decay:

# %%
nu = sympy.Symbol("nu", positive=True)
my_letters = {
    "L2": sd.UpdateRule(eta, QHM(beta, nu), sd.rules.L2(lam)),
    "stable": sd.UpdateRule(eta, QHM(beta, nu), sd.rules.Stable(lam)),
}
my_flows = {mode: sd.modified_equation(each) for mode, each in my_letters.items()}
for mode, each in my_flows.items():
    print(mode)
    display(Math(each.latex()))

print("the difference of their F₀:", sympy.simplify(my_flows["L2"].first - my_flows["stable"].first))
factor = second_order_decay(my_flows["L2"]) / second_order_decay(my_flows["stable"])
print(f"L2 over stable, at momentum .9 and ν = .7: {float(factor.subs({beta: 0.9, nu: 0.7})):.3g}")

# %% [markdown]
# To first order ν drops out, as νg + (1−ν)g is g: there QHM is gradient descent. That L2 and stable decay agree is a
# check of `effective_lr`: a wrong one would have told them apart. At second order L2 decays more strongly, here too.
#
# What is ν good for, then? This is the curvature at which a root leaves at z = −1, and next to it are real runs:

# %%
my_limits = {mode: sd.stability_limit(each) for mode, each in my_letters.items()}
my_limits["stable"].steps[-2]

# %%
with sd.plots.house_style():
    figure = Figure(figsize=(7.2, 4.0))
    axes, nus, shown = figure.subplots(), np.linspace(0, 1, 101), np.linspace(0.05, 0.95, 10)
    for mode, decay in {"L2": sd.rules.L2(5.0), "stable": sd.rules.Stable(5.0)}.items():
        line = sympy.lambdify([eta, beta, lam, nu], my_limits[mode].value)
        found = [edge(sd.UpdateRule(0.1, QHM(0.9, share), decay), np.geomspace(5, 1000, 801)) for share in shown]
        axes.plot(nus, line(0.1, 0.9, 5.0, nus), **sd.plots.theory(mode))
        axes.plot(shown, found, **sd.plots.measured(mode))
    axes.set(xlabel="ν, the share of the average in a step", ylabel="largest stable curvature h", yscale="log")
    axes.set(yticks=[20, 50, 100, 200], yticklabels=["20", "50", "100", "200"])
    axes.minorticks_off()
    axes.legend()
    figure.suptitle("The more of the average is in a step, the more curvature QHM survives")
display(figure)

# %% [markdown]
# Under stable decay the limit at ν = 1 is 19 times that of gradient descent, at ν = 0, and most of the rise is at the
# end. The points come from running the class, the lines from reading it.
#
# Two checks more. Does the flow of second order follow the steps? And is the class what you train with? `verify`
# drives a torch optimizer with loud and quiet gradients and holds every step against the rule:


# %%
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


followed = order_of(sd.Flow(mine, gradient, hvp, order=2), "QHM: steps and flow of order 2", lr=0.01, t=2)
same = sd.verify(lambda params: TorchQHM(params, lr=0.1, weight_decay=0.05), mine)
sd.Ledger([followed, same])

# %% [markdown]
# ## Where algebra cannot follow
#
# Not every step is a formula. Take the sign of the momentum: numpy's `sign` does not know symbols. What cannot be
# derived is refused, with the reason:


# %% tags=["raises-exception"]
class SignMomentum(QHM):
    def move(self, memory, step):
        return np.sign(memory.m)


sign = sd.UpdateRule(0.1, SignMomentum(0.9, 0.7), sd.rules.Stable(0.05))
sd.modified_equation(sign)

# %% [markdown]
# It is still a rule and takes steps, so that `replay` and `verify` can hold runs against it. Only what needs letters
# is out of reach.

# %%
print(sign(sign.start(np.array([1.0, -2.0])), np.array([0.5, 0.1])).theta)

# %% [markdown]
# ## Exercises
#
# **1.** Nesterov's momentum is `sd.CATALOG["SGD"](…, nesterov=True)`. By which factor does L2 decay more than stable
# decay at second order there? Guess first: more or less than 19, at momentum .9?
#
# <details><summary>Solution</summary>
#
# A little less, 17.2: the newest gradient has more weight in a step, and the lag is shorter.
#
# ```python
# both = [sd.CATALOG[name](lr=eta, momentum=beta, weight_decay=lam, nesterov=True) for name in ("SGD", "SGDS")]
# one, other = (second_order_decay(sd.modified_equation(each)) for each in both)
# print((one / other).subs(beta, 0.9))
# sympy.factor(one / other)
# ```
#
# </details>

# %% [markdown]
# **2.** Give QHM a wrong `effective_lr`, that of heavy ball, lr / (1 − momentum). Which derivation tells you?
#
# <details><summary>Solution</summary>
#
# The fixed point: stable decay must rest where L2 rests, and does not.
#
# ```python
# class Wrong(QHM):
#     def effective_lr(self, memory, step):
#         return step.lr / (1 - self.momentum)
#
# for direction in (QHM(beta, nu), Wrong(beta, nu)):
#     for decay in (sd.rules.L2(lam), sd.rules.Stable(lam)):
#         print(type(direction).__name__, sd.fixed_point(sd.UpdateRule(eta, direction, decay)).value, sep=": ")
# ```
#
# </details>

# %% [markdown]
# **3.** Make the sign derivable, with the word `sign` of `swd_dynamics.arithmetic`. What is its first-order flow?
#
# <details><summary>Solution</summary>
#
# The momentum comes to rest at g, and the flow is minus the sign of g, and minus λθ, the decay. Where g changes its
# sign the flow jumps, so the derivation assumes that g is not 0.
#
# ```python
# from swd_dynamics.arithmetic import sign
#
# class OwnSign(QHM):
#     def move(self, memory, step):
#         return sign(memory.m)
#
# sd.modified_equation(sd.UpdateRule(eta, OwnSign(beta, nu), sd.rules.Stable(lam))).first
# ```
#
# </details>

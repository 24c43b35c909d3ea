# %% [markdown]
# # Derive it yourself: which kinds of decay follow the same curve?
#
# **Two optimizers follow the same curve if their steps are small. What makes them differ if the steps are larger?**
#
# About 12 minutes, without the exercises. You need derivatives, and you should have seen momentum before. Have paper at
# hand: several cells ask you to predict a result before you look at it.

# %%
from functools import partial

import numpy as np
import sympy
from IPython.display import display

import swd_dynamics as sd
from swd_dynamics.symbolic.derivation import stated
from swd_dynamics.symbolic.notation import theta_dot

# %% [markdown]
# ## A step, as formulas
#
# A rule is code that takes one step. It uses only arithmetic, so it also works on symbols, and the package can print
# the step as formulas. This is stable decay with momentum (SGDS; Xie, Sato & Sugiyama, arXiv 2011.11152):

# %%
rule = sd.CATALOG["SGDS"](lr=0.1, momentum=0.9, weight_decay=0.05)
rule

# %% [markdown]
# Here g is the gradient of the loss, m the momentum, and R the fraction of the weights that one step removes. The
# learning rate is η, the momentum coefficient is β, and λ is `weight_decay`. A prime marks a value after the step.
#
# ## What small steps do
#
# If the steps are small, the weights seem to glide along a curve. Let time be t = ηk at step k. Then the curve has a
# differential equation, dθ/dt = F₀ + ηF₁, which is called the **modified equation**. The package derives it from the
# formulas above in several steps. You will look at six of them. (To try other numbers, keep `momentum` above 0.
# Without momentum there is no m and no lag, so the next cell finds fewer steps than names and stops with an error.)

# %%
flow = sd.modified_equation(rule)
at_rest, lag, first, from_lag, turn, second = flow.steps[4:]

# %% [markdown]
# **Predict.** Suppose that G is constant. Then the momentum settles where m′ = m. Solve m = βm + G for m.

# %%
guess = None  # write your answer in place of None, for example "βG"

# %%
print("your answer:", guess)
at_rest

# %% [markdown]
# Such a result holds only under some assumptions. Every derivation lists its own, in `flow.assumptions`.
#
# Put this m into the step and divide by η. The result is a velocity, F₀:

# %%
first

# %% [markdown]
# **Predict.** L2 regularisation has R = 0 and G = g + λθ. Decoupled decay has R = ηλ and G = g. Write down F₀ for
# both. Which two of the three kinds of decay have the same F₀?

# %%
guess = None  # two of "L2", "decoupled", "stable"

# %%
beta, lam = sympy.symbols("beta lambda", positive=True)
names = {"L2": "SGD", "decoupled": "SGDW", "stable": "SGDS"}
rules = {mode: sd.CATALOG[name](lr=0.1, momentum=beta, weight_decay=lam) for mode, name in names.items()}
flows = {mode: sd.modified_equation(each) for mode, each in rules.items()}

print("your answer:", guess)
display(*(stated(mode, sympy.Symbol("F_0"), each.first) for mode, each in flows.items()))

# %% [markdown]
# L2 and stable decay have the same F₀, so with small enough steps both follow the same curve. Decoupled decay has
# another F₀, because its decay is not multiplied by 1/(1 − β).
#
# ## What larger steps add
#
# G is not quite constant. The momentum contains old gradients, on average β/(1 − β) steps old, so it lags behind G.
# This adds a term to m. A dot marks a rate of change, d/dt:

# %%
lag

# %% [markdown]
# There is a second correction. A step is straight, but a curve turns during the step, and half of that turn has to be
# subtracted. U₁ is what the lag adds to the velocity, Ḟ₀ is the turn, and F₁ = U₁ − ½Ḟ₀:

# %%
display(from_lag, turn, second)

# %% [markdown]
# **Predict.** In this F₁ the term with λθ̇ is the decay. In L2 the decay is a part of G, so for L2 replace Ġ by
# ġ + λθ̇, and omit the old term with λθ̇. Divide the coefficient of λθ̇ in L2 by that in stable decay. What is this
# factor at β = 0.9?

# %%
guess = None  # a number

# %%
decay = {mode: sympy.cancel(each.second_in_rates.diff(theta_dot) / lam) for mode, each in flows.items()}
factor = sympy.factor(decay["L2"] / decay["stable"])
print(f"your answer: {guess}, derived: {float(factor.subs(beta, 0.9)):.3g}")
stated("L2 divided by stable decay", sympy.Symbol("factor"), factor)

# %% [markdown]
# L2 decay passes through the momentum, so it lags as the gradients do. Stable decay does not pass through the
# momentum, so only the turn is left.
#
# ## Do real steps agree?
#
# Set the gradient to zero, so that only decay acts. Run each rule and measure how much faster the weight decays than F₀
# says, as a fraction of F₀. This excess, divided by ηλ, should be the coefficient of λθ̇ in F₁.


# %% jupyter={"source_hidden": true} tags=["hide-input"]
# Measure the excess, and draw.
def excess(rule, first, steps=200):
    """How much faster than F₀ = −first·θ weights without gradients decay, divided by F₀ and by ηλ."""
    state = rule.start(np.ones(len(shown)))
    for _ in range(steps):
        before, state = state.theta, rule(state, 0.0)
    rate = -np.log(state.theta / before) / rule.lr
    return (rate / first - 1) / (rule.lr * rule.decay.weight_decay)


momenta, shown = np.linspace(0, 0.96, 97), np.linspace(0.05, 0.95, 10)
lines = {mode: (momenta, [float(decay[mode].subs(beta, b)) for b in momenta]) for mode in names}


def draw(figure, lr, strength=0.1):
    points = {}
    for mode, name in names.items():
        rule = sd.CATALOG[name](lr=lr, momentum=shown, weight_decay=strength)  # each weight has its own momentum
        points[mode] = shown, excess(rule, first=strength if mode == "decoupled" else strength / (1 - shown))
    title = f"With momentum, F₁ adds more decay to L2 than to stable decay (η = {lr:.3g})"
    labels = {"xlabel": "momentum β", "ylabel": "excess decay, divided by ηλ"}
    sd.plots.lines_and_points(lines, points, title=title, figure=figure, yscale="log", ylim=(0.3, 2000), **labels)
    return partial(draw, figure)  # a move changes this figure


# %%
sd.plots.Sliders(draw, lr=(1e-4, 5e-3, 1e-4, "log"))

# %% [markdown]
# The lines were derived, and the points come from runs. At β = 0.9 the lines of L2 and of stable decay are a factor of
# 19 apart. Without momentum nothing lags, and the three kinds of decay meet at ½, because only the turn is left. If a
# kernel runs, move the learning rate up: the points of L2 leave their line first, at the largest momentum. With η =
# 0.005 they are 1.4 % above it at β = 0.75, 4 % at β = 0.85 and 80 % at β = 0.95. The points of the other two kinds of
# decay stay within 1 %.
#
# ## Exercises
#
# **1.** Nesterov's momentum is `sd.CATALOG["SGD"](…, nesterov=True)`. Is the factor larger or smaller than 19 there,
# at β = 0.9? Guess first.
#
# <details><summary>Solution</summary>
#
# It is a little smaller, 17.2. The newest gradient has more weight in a step, so the momentum lags less.
#
# ```python
# l2, stable = (sd.CATALOG[name](lr=0.1, momentum=beta, weight_decay=lam, nesterov=True) for name in ("SGD", "SGDS"))
# ratio = [sd.modified_equation(each).second_in_rates.diff(theta_dot) for each in (l2, stable)]
# print(sympy.cancel(ratio[0] / ratio[1]).subs(beta, 0.9))
# ```
#
# </details>

# %% [markdown]
# **2.** At which momentum is the factor 3?
#
# <details><summary>Solution</summary>
#
# At β = ½, because (1 + ½)/(1 − ½) = 3.
#
# ```python
# assert sympy.solve(factor - 3, beta) == [sympy.Rational(1, 2)]
# ```
#
# </details>

# %% [markdown]
# **3.** Choose the λ of decoupled decay so that its F₀ is that of stable decay. Does its F₁ then agree, too?
#
# <details><summary>Solution</summary>
#
# With λ/(1 − β) it does. With momentum these are one method, and only the unit of λ differs. With Adam they are two
# methods (notebook 01).
#
# ```python
# same = sd.modified_equation(sd.CATALOG["SGDW"](lr=0.1, momentum=beta, weight_decay=lam / (1 - beta)))
# assert sympy.simplify(same.first - flows["stable"].first) == 0
# assert sympy.simplify(same.second - flows["stable"].second) == 0
# ```
#
# </details>

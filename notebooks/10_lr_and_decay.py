# %% [markdown]
# # Learning rate and weight decay: tune one, or both?
#
# **I have found a good `weight_decay`. Now I change the learning rate. Must I search again?**
#
# About 14 minutes, without the exercises. You should know the three kinds of decay (notebook 01).

# %%
import numpy as np
import torch

import swd_dynamics as sd
from swd_dynamics.tasks.digits import digits, held_out

torch.set_num_threads(1)

# %% [markdown]
# ## A sweep of your own network
#
# A **task** is a network, its training data and its test data. `sd.sweep` asks for a function that makes the task from
# a seed, because it trains from several seeds. Replace the network and the data below by your own.

# %%
training, test = ((torch.tensor(images), torch.tensor(labels)) for images, labels in (digits(200), held_out(200)))


def task(seed):
    torch.manual_seed(seed)
    network = torch.nn.Sequential(torch.nn.Linear(64, 24), torch.nn.ReLU(), torch.nn.Linear(24, 10)).double()
    return sd.tasks.classification(network, training, test, batch_size=50, seed=seed)


# %% [markdown]
# `sweep` trains at every point of a grid. Small networks like this one are trained all at once, which is several times
# faster than one by one. The result is an `xarray.Dataset`. With `path="sweep"` every finished run is safe on disk, and
# the same call continues an interrupted sweep.
#
# **Predict.** On a map of the test error over η and λ, the good points form a valley. Which way does it run for SGDW
# (decoupled decay, R = ηλ): along a constant λ, or along a constant product ηλ?

# %%
guess = None  # for example: "constant product"

# %%
grid = {
    "lr": [0.01, 0.03, 0.1, 0.3],
    "weight_decay": [0.001, 0.003, 0.01, 0.03, 0.1, 0.3],
}
optimizers = {name: (name, {"momentum": 0.9}) for name in ("SGD", "SGDW", "SGDS")}
found = sd.sweep(task, optimizers, grid, seeds=3, steps=300)
print("your answer:", guess)
sd.plots.sweep_map(found)

# %% [markdown]
# White dots mark the best λ for each η, and a star marks the best point. For SGDW the product of λ and η at the dots
# is:

# %% jupyter={"source_hidden": true} tags=["hide-input"]
# The best λ and the slope.
valley = found.test_error.mean("seed").sel(optimizer="SGDW").idxmin("weight_decay")
slope = np.polyfit(np.log(valley.lr), np.log(valley), 1)[0]
print("best λ:", valley.values, " best ηλ:", (valley.lr * valley).values.round(4))
print(f"where η grows tenfold, the best λ is multiplied by {10**slope:.2g} (slope {slope:.2g})")

# %% [markdown]
# So the valley runs along neither, but nearer to a constant product. Constant λ would have the slope 0, and constant
# ηλ the slope −1. Four dots from three seeds do not fix the slope well. The study `lr-decay-coupling`, with eight seeds
# and a network of its own, finds −0.85 ± 0.27 (95 %) for SGDW and −1.01 ± 0.07 for AdamW if η is constant. **So with
# a constant η yes, search again:** if you make η ten times as large, try a λ that is four to ten times smaller. But if
# η falls to 0 along a cosine, the study finds only −0.13 ± 0.15 (95 %) for SGDW, so that the old λ stays nearly right.
#
# Why two answers? Decay does two things. It makes the weights *forget*: after so many steps they keep the share
# (1 − R)^steps of their start, which depends on the product ηλ. And it sets the *rest point*, where decay balances the
# gradient of the loss. That is λθ = −g/(1 − β) for SGDW, without η. The map of SGDS shows both. At λ = 0.3 every run
# has forgotten its start (R · 300 steps is 9 or more), and the error is about 0.33 at every η. At the dots R · 300 is
# only 0.9 to 3, and there the forgetting counts. With a falling η the slopes of the study are nearer to that of a
# constant rest point (undecided for AdamS), although R is proportional to η there, too. Why is not shown here.
#
# Here too much decay costs more than too little. Where the grid has both, ten times the best λ raises the error of SGD
# and SGDS by 14 to 56 %, and a tenth of it by only 3 to 9 %. At η = 0.3 a hundred times the best λ about doubles it.
#
# The map of SGDW is the map of SGDS, moved to ten times the λ. With momentum β = 0.9 the effective learning rate is
# η_eff = η/(1 − β) = 10η. Stable decay subtracts λη_eff·θ from the weights, and decoupled decay λη·θ. So SGDS with λ is
# SGDW with 10λ, run by run:

# %%
stable = found.test_error.sel(optimizer="SGDS", weight_decay=[0.001, 0.003, 0.01, 0.03])
decoupled = found.test_error.sel(optimizer="SGDW", weight_decay=[0.01, 0.03, 0.1, 0.3])
print("largest difference of the test errors:", float(abs(stable.values - decoupled.values).max()))

# %% [markdown]
# The map of SGDS goes on to larger λ, so it also tells that at η = 0.01, where the dot of SGDW is at the end of its
# grid, a larger λ would not be better.
#
# ## Adam
#
# For Adam η_eff is η/√v̄, where √v̄ is the typical size of a gradient. It differs from network to network, and it falls
# during training. First Adam (L2) and AdamS:

# %%
grid = {"lr": [0.001, 0.003, 0.01, 0.03], "weight_decay": [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3]}
adam = sd.sweep(task, ["Adam", "AdamS"], grid, seeds=3, steps=300)
sd.plots.sweep_map(adam)

# %% jupyter={"source_hidden": true} tags=["hide-input"]
# √v̄ of AdamS.
row = adam.sel(optimizer="AdamS", lr=0.01)
best = float(row.test_error.mean("seed").idxmin("weight_decay"))
v_bar_root = float((row.lr / row.effective_lr).sel(weight_decay=best).mean())
print(f"AdamS at η = 0.01: best λ {best:.2g}, and there √v̄ = {v_bar_root:.2g} at the end of the run")

# %% [markdown]
# **Predict.** Stable decay has R = λη/√v̄, and decoupled decay R = λη. Which λ does AdamW need at η = 0.01?

# %%
guess = None  # a number

# %%
larger = {"lr": grid["lr"], "weight_decay": [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]}
adamw = sd.sweep(task, ["AdamW"], larger, seeds=3, steps=300)
print("your answer:", guess)
sd.plots.sweep_map(adamw)

# %% [markdown]
# √v̄ says 0.01/0.0051 ≈ 2, which lies between two points of the grid. The best is 1, a little less than 2, because
# √v̄ was larger earlier in the run (0.018 in step 10). So AdamW needs a hundred times the λ of AdamS, and at η =
# 0.03, where √v̄ is 0.003, three hundred times (0.3 and 0.001). This is why one `weight_decay` cannot be good for
# both. The default of torch's AdamW is 0.01, and the default of this package's AdamS is 0.0001.
#
# A dot is the smallest number in its row, also where a row is flat. At η = 0.001 the errors of AdamW up to λ = 1
# differ by 0.001 and have standard errors of 0.002, so that this dot says nothing. And the grid of AdamS ends at 0.3
# for a reason: with λ = 1 and η = 0.03 it would subtract more than twice the weights (R > 2). In such a step AdamS
# omits the decay.
#
# Which of them is best? Three seeds give a mean and its standard error for the star of each map:

# %% jupyter={"source_hidden": true} tags=["hide-input"]
# The stars.
for name, sweep in (("Adam", adam), ("AdamW", adamw), ("AdamS", adam)):
    errors = sweep.test_error.sel(optimizer=name)
    best = errors.mean("seed").argmin(["lr", "weight_decay"])
    star = errors.isel(best)
    print(f"{name:5}  {float(star.mean()):.3f} ± {float(star.std(ddof=1)) / len(star) ** 0.5:.3f}")

# %% [markdown]
# The differences are hardly larger than the errors of the means. A star is also the *luckiest* of 28 points, so its
# error is too small. To compare optimizers, tune them with some seeds and measure them with others: the study
# `optimizer-table` does this (`swd-dynamics reproduce optimizer-table`).
#
# ## Exercises
#
# **1.** `found`, `adam` and `adamw` also contain R/η_eff of the last step, as `decay_ratio`. For which optimizers is
# it λ at every point of the grid? Look before you compute.
#
# <details><summary>Solution</summary>
#
# For SGDS and AdamS, whose decay is stable. For SGDW it is λ(1 − β), and for AdamW λ√v̄, which differs from run to run.
# L2 subtracts nothing from the weights itself, so the sweep has no R for it.
#
# ```python
# for sweep in (found, adam, adamw):
#     relative = sweep.decay_ratio / sweep.weight_decay
#     for name in sweep.optimizer.values:
#         if name in ("SGD", "Adam"):
#             continue
#         values = relative.sel(optimizer=name)
#         print(f"{name}: R/(η_eff·λ) from {float(values.min()):.3g} to {float(values.max()):.3g}")
# ```
#
# </details>

# %% [markdown]
# **2.** Train AdamS with `schedule="cosine"`, which lets η fall to 0. Does the best λ still fall where η grows?
#
# <details><summary>Solution</summary>
#
# Hardly. At η = 0.03 a λ of 0.003 or 0.01 is now best, and with constant η it was 0.001. At η = 0.01 it is 0.01 in
# both. With the smallest η the run is too short: nearly every λ has a larger error than before.
#
# ```python
# falling = sd.sweep(task, {"AdamS": "AdamS"}, grid, seeds=3, steps=300, schedule="cosine")
# sd.plots.sweep_map(falling)
# ```
#
# </details>

# %% [markdown]
# **3.** Give the sweep a folder with `path="sweep"`, interrupt it (the black square above), and run the cell again.
#
# <details><summary>Solution</summary>
#
# The second call trains only what is missing. A third call trains nothing.
#
# ```python
# for attempt in range(2):
#     again = sd.sweep(task, ["AdamS"], {"lr": [0.01, 0.03]}, seeds=3, steps=100, path="sweep", progress=True)
# ```
#
# </details>

# %% [markdown]
# # Learning rate and weight decay: tune one, or both?
#
# **I have found a good `weight_decay`. Now I change the learning rate. Must I search again?**
#
# About 13 minutes, without the exercises. You should know the three kinds of decay (notebook 01).

# %%
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
# White dots mark the best λ for each η, and a star marks the best point. A stable λ of .01
# is good for every η from .03 to .3, but the best λ is smaller where η is larger. For L2 and stable decay the valley is
# steep on its right: with ten times too much decay the error doubles.
#
# The map of SGDW is the map of SGDS, moved to ten times the λ. With momentum β = .9 the effective learning rate is
# η_eff = η/(1 − β) = 10η. Stable decay subtracts λη_eff·θ from the weights, and decoupled decay λη·θ. So SGDS with λ is
# SGDW with 10λ, run by run:

# %%
stable = found.test_error.sel(optimizer="SGDS", weight_decay=[0.001, 0.003, 0.01, 0.03])
decoupled = found.test_error.sel(optimizer="SGDW", weight_decay=[0.01, 0.03, 0.1, 0.3])
print("largest difference of the test errors:", float(abs(stable.values - decoupled.values).max()))

# %% [markdown]
# ## Adam
#
# For Adam η_eff is η/√v̄, where √v̄ is the typical size of a gradient. It differs from network to network, and it falls
# during training. So nobody knows beforehand by how much the map of AdamW is moved against that of AdamS.
#
# **Predict.** At the end of a run √v̄ is about .01 here. With η = .01 the best λ of AdamS is .01. Which λ does AdamW
# need?

# %%
guess = None  # for example: 0.1

# %%
grid = {
    "lr": [0.001, 0.003, 0.01, 0.03],
    "weight_decay": [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0],
}
adam = sd.sweep(task, ["Adam", "AdamW", "AdamS"], grid, seeds=3, steps=300)
print("your answer:", guess)
sd.plots.sweep_map(adam)

# %% [markdown]
# AdamW needs a λ that is a hundred times as large, as √v̄ says, or more: its map ends at 1. This is why one
# `weight_decay` cannot be good for both: torch's default for AdamW is .01, and the default for AdamS is .0001.
#
# Which of them is best? Three seeds give a mean and its standard error for the star of each map:

# %%
for name in adam.optimizer.values:
    errors = adam.test_error.sel(optimizer=name)
    best = errors.mean("seed").argmin(["lr", "weight_decay"])
    star = errors.isel(best)
    print(f"{name:5}  {float(star.mean()):.3f} ± {float(star.std(ddof=1)) / len(star) ** 0.5:.3f}")

# %% [markdown]
# The differences are hardly larger than the errors of the means. A star is also the *luckiest* of 32 points, so its
# error is too small. To compare optimizers, tune them with some seeds and measure them with others: the study
# `optimizer-table` does this (`swd-dynamics reproduce optimizer-table`).
#
# ## Exercises
#
# **1.** `found` and `adam` also contain R/η_eff of the last step, as `decay_ratio`. For which optimizers is it λ at
# every point of the grid? Look before you compute.
#
# <details><summary>Solution</summary>
#
# For SGDS and AdamS, whose decay is stable. For SGDW it is λ(1 − β), and for AdamW λ√v̄, which differs from run to run.
# L2 subtracts nothing from the weights itself, so the sweep has no R for it.
#
# ```python
# for sweep in (found, adam):
#     relative = sweep.decay_ratio / sweep.weight_decay
#     for name in sweep.optimizer.values[1:]:
#         values = relative.sel(optimizer=name)
#         print(f"{name}: R/(η_eff·λ) from {float(values.min()):.3g} to {float(values.max()):.3g}")
# ```
#
# </details>

# %% [markdown]
# **2.** Train with `schedule="cosine"`, which lets η fall to 0. Is a long valley still there?
#
# <details><summary>Solution</summary>
#
# It is, at nearly the same place, and the largest η has become better.
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

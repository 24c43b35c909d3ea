# %% [markdown]
# # Record your training: see what the decay really did
#
# **What did my optimizer really do to the weights?**
#
# About 15 minutes, without the exercises. You need to know a training loop in torch.
#
# A loss curve does not show weight decay. Here a probe is put around an ordinary training loop. At every step it
# writes down which fraction of the weights the decay removed, and how far the gradients moved the weights.

# %%
from tempfile import TemporaryDirectory

import numpy as np
import torch
from sklearn.datasets import load_digits

import swd_dynamics as sd

torch.set_num_threads(1)  # the network is small

# %% [markdown]
# ## A loop of your own
#
# The network has one hidden layer and reads handwritten digits (folded cell: `network`, and `batch_loss` at step k).
# In the loop only one line belongs to the package: `probe.observe` notes the loss. The learning rate falls to a tenth
# after half of the 1500 steps.


# %% jupyter={"source_hidden": true} tags=["hide-input"]
# The data, the network and its loss.
pixels, digit = load_digits(return_X_y=True)
images, labels = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(digit)


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))


def batch_loss(model, k):
    batch = torch.randperm(len(images), generator=torch.Generator().manual_seed(k))[:50]
    return torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])


# %%
folder = TemporaryDirectory()  # yours would be a folder that stays
model = network()
settings = {"lr": 3e-3, "weight_decay": 0.3}
optimizer = torch.optim.AdamW(model.parameters(), **settings)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=750, gamma=0.1)

with sd.Probe(optimizer, folder.name, model=model, snapshots=100) as probe:
    for k in range(1500):
        optimizer.zero_grad()
        loss = batch_loss(model, k)
        probe.observe(loss=loss)
        loss.backward()
        optimizer.step()
        schedule.step()

# %% [markdown]
# The probe changes nothing about the training. With Lightning or the Hugging Face Trainer the loop is not yours, and
# a callback does the same: `sd.probe.lightning_callback("run")` or `sd.probe.trainer_callback("run")`.
#
# The recording is an xarray dataset. It has each quantity by step, and most of them also by parameter group and by
# parameter:

# %%
run = sd.open_recording(folder.name)
run.drop_attrs(deep=False)  # run.attrs has the arguments, the versions, the device and the commit

# %% [markdown]
# ## Three quantities
#
# * `decay_rate` is R, the fraction of the weights that the decay removes in a step.
# * `effective_lr` is η_eff, how far one unit of gradient moves a weight. Adam divides its step by the size of the
#   gradients, so for Adam η_eff is η/√v̄, where v̄ is the mean of v, Adam's running average of the squared gradients.
# * `decay_ratio` is R/η_eff: the decay compared with the effect of one unit of gradient. (Adam's actual updates hardly
#   depend on the size of the gradients. Notebook 01 compares the decay with them, too.)
#
# **Predict.** The learning rate falls to a tenth at step 750. Which of the three quantities falls to a tenth there?
# And away from step 750: which of the three still change?

# %%
guess = None  # for example: "all three fall; none of them changes otherwise"

# %%
print("your answer:", guess)
title = "R follows the learning rate, but R/η$_{eff}$ drifts (AdamW)"
sd.plots.recording(run, "decay_rate", "effective_lr", "decay_ratio", title=title)

# %% [markdown]
# (Small dots are the steps, and triangles make them visible.) R and η_eff fall to a tenth, so their ratio does not show
# the drop. But η_eff also changes on its own: it falls while the gradients grow in the first hundred steps, and rises
# as they shrink. R does not follow. So the ratio drifts, by a factor of 1.8. The formulas of AdamW say why:

# %%
rule = sd.crosscheck.recorded_rule("AdamW", run)
rule

# %% [markdown]
# R = ηλ contains the learning rate but not v. So R/η_eff is λ√v̄: it is as large as the gradients are. Notebook 08
# repairs this with AdamS.
#
# ## Can you trust these numbers?
#
# Some pixels are blank in all images. No gradient ever reaches their weights, so only decay changes them. The probe
# kept all weights at every hundredth step (`snapshots=100`), so you can look at them.
#
# **Predict.** η is 0.003 for 750 steps and 0.0003 for another 750, and λ is 0.3. Each step multiplies these weights by
# 1 − ηλ. Which fraction of them is left in the end?

# %%
guess = None  # a number between 0 and 1

# %%
blank = pixels.max(axis=0) == 0
start, end = network()[0].weight.detach().numpy(), sd.recording.load_snapshot(folder.name, 1500)["0.weight"]

print("your answer:         ", guess)
print(f"left of the weights:  {np.linalg.norm(end[:, blank]) / np.linalg.norm(start[:, blank]):.6f}")
print(f"left by the recorded R: {float((1 - run.decay_rate).prod()):.6f}")

# %% [markdown]
# They differ by 2 parts in 100 000, which is rounding. torch trains in 32-bit numbers, and the one next to 1 − ηλ is
# larger than it by 3 parts in 10⁸ while η is 0.003. That happens 750 times.
#
# ## Which rule did it follow?
#
# `sd.record` runs a short loop for you and keeps every weight and every gradient in memory. Then `replay` gives the
# recorded gradients to a rule and compares each of its steps with the step that torch took.

# %%
model = network()
optimizer = torch.optim.AdamW(model.parameters(), **settings)
short = sd.record(optimizer, lambda k: batch_loss(model, k), steps=200, model=model)
sd.replay(sd.crosscheck.recorded_rule("AdamW", short), short)

# %% [markdown]
# All steps agree, apart from rounding. So the formulas above are what torch really does. Would another rule have
# passed? This is Adam, with the same numbers and L2 decay:

# %%
sd.replay(sd.crosscheck.recorded_rule("Adam", short), short)

# %% [markdown]
# ## Exercises
#
# **1.** Many people do not decay the biases. Record a run with two parameter groups, with λ = 0.3 for the weights and
# 0 for the biases. What is R of each group, and what is R of the whole network?
#
# <details><summary>Solution</summary>
#
# It is 0.0009 and 0. For the whole network it is the mean over all weights, a little less than in the first group.
#
# ```python
# model = network()
# biases = [model[0].bias, model[2].bias]
# groups = [{"params": [model[0].weight, model[2].weight]}, {"params": biases, "weight_decay": 0}]
# optimizer = torch.optim.AdamW(groups, lr=3e-3, weight_decay=0.3)
# two_groups = sd.record(optimizer, lambda k: batch_loss(model, k), 50, path=TemporaryDirectory().name, model=model)
# print(two_groups.decay_rate_group[-1].values, float(two_groups.decay_rate[-1]))
# ```
#
# </details>

# %% [markdown]
# **2.** Watch a run while it trains. A recording can be opened while it is written, also from another notebook, or
# with `swd-dynamics show FOLDER` in a terminal. Train in a thread, and count the steps that you can read.
#
# <details><summary>Solution</summary>
#
# Rows arrive in blocks, after two seconds or about a thousand steps. A row that you have read stays, even if the
# training is killed.
#
# ```python
# import threading
# import time
#
# model, live = network(), TemporaryDirectory()
# optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
# arguments = {"steps": 1500, "path": live.name, "model": model}
# training = threading.Thread(target=sd.record, args=(optimizer, lambda k: batch_loss(model, k)), kwargs=arguments)
# training.start()
# seen = []
# while training.is_alive():
#     time.sleep(0.1)
#     try:
#         seen.append(sd.open_recording(live.name).sizes["step"])
#     except sd.InputError:
#         pass  # the folder is still empty
# assert seen == sorted(seen)
# ```
#
# </details>

# %% [markdown]
# **3.** A run that blows up is a result, too. Take η = 10 and λ = 0.3. By which factor do the weights grow in a step?
# Predict it, then record.
#
# <details><summary>Solution</summary>
#
# R is ηλ = 3, and a step multiplies the weights by 1 − R = −2. So their norm doubles until the loss overflows.
# `sd.record` stops there and says so.
#
# ```python
# model = network()
# optimizer = torch.optim.AdamW(model.parameters(), lr=10, weight_decay=0.3)
# wild = sd.record(optimizer, lambda k: batch_loss(model, k), steps=500, trajectory=False)
# print(f"growth {float(wild.theta_norm[-1] / wild.theta_norm[-2].values):.3f} a step")
# print(f"diverged after {wild.attrs['diverged_at_step']} steps")
# ```
#
# </details>

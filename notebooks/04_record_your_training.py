# %% [markdown]
# # Record your training
#
# **What did my optimizer really do to the weights?**
#
# A loss curve does not tell. Here a probe goes around an ordinary torch loop and writes down, step by step, how much
# of the weights the decay took off and how far a gradient moved them. Then AdamS takes AdamW's place, is watched
# while it trains, and a recorded run is held against the formulas, to the last digits.

# %%
import threading
import time
from tempfile import TemporaryDirectory

import numpy as np
import torch
from sklearn.datasets import load_digits

import swd_dynamics as sd

torch.set_num_threads(1)  # the network is small

# %% [markdown]
# ## A loop of your own
#
# Nothing here is the package's but one line: `probe.observe` says which loss a step belongs to. The learning rate
# falls to a tenth halfway.

# %%
pixels, digit = load_digits(return_X_y=True)
images, labels = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(digit)


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))


def batch_loss(model, k):
    batch = torch.randperm(len(images), generator=torch.Generator().manual_seed(k))[:50]
    return torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])


def train(model, optimizer, probe, steps=1500):
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=750, gamma=0.1)
    for k in range(steps):
        optimizer.zero_grad()
        loss = batch_loss(model, k)
        probe.observe(loss=loss)
        loss.backward()
        optimizer.step()
        schedule.step()


# %% [markdown]
# The probe is put around the loop with the optimizer and a folder. It changes nothing about the training; the model
# only gives the weights their names.

# %%
adamw_folder = TemporaryDirectory()  # yours would be a folder that stays
model = network()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.3)
with sd.Probe(optimizer, adamw_folder.name, model=model, snapshots=100) as probe:
    train(model, optimizer, probe)

adamw = sd.open_recording(adamw_folder.name)
adamw.drop_attrs(deep=False)  # adamw.attrs has what made the run: arguments, versions, device, commit

# %% [markdown]
# An xarray dataset: each quantity by step, most of them also by parameter group and by parameter. Values stay on the
# disk until they are used. With Lightning or the Hugging Face Trainer the loop is not yours; a callback,
# `sd.probe.lightning_callback("run")` or `sd.probe.trainer_callback("run")`, does the same there.
#
# ## What AdamW did

# %%
title = "AdamW's decay follows the learning rate; R/η$_{eff}$ drifts"
sd.plots.recording(adamw, "decay_rate", "effective_lr", "decay_ratio", title=title)

# %% [markdown]
# R, the share of the weights that a step takes off, is constant but for the drop of the learning rate. How far a unit
# of gradient moves a weight, η_eff, drops with it, but it also moves on its own: it falls while the gradients grow in
# the first hundred steps, and then rises as they get smaller. So the balance of the two, R/η_eff, moves: by a factor
# of 1.8 along this run. The drop of the learning rate is not seen in it. The rule, with this run's numbers, says why:

# %%
rules = {name: sd.crosscheck.recorded_rule(name, adamw) for name in ("AdamW", "AdamS")}
rules["AdamW"]

# %% [markdown]
# R knows only η, the learning rate, and λ, the strength of the decay (torch's `weight_decay`), while the step is
# divided by the size of the gradients, which v remembers, Adam's running mean of their squares. With v̄, the mean of
# the bias-corrected v over all weights, η_eff is η/√v̄, and the ratio is λ√v̄.
#
# ## Is it true?
#
# R and η_eff of AdamW were not measured: the probe reads them off the optimizer's settings and its v. For R there is
# a witness. Some pixels are blank in all images; no gradient ever reaches their weights, so that nothing but decay
# moves them. The probe has kept all weights at every hundredth step (`snapshots=100`), and so we can look how much of
# these is left.

# %%
blank = pixels.max(axis=0) == 0


def left_of_untouched(folder):
    """The share of the untouched weights that is left, by step."""
    kept = {step: sd.recording.load_snapshot(folder, step)["0.weight"] for step in sd.recording.snapshots(folder)}
    start = network()[0].weight.detach().numpy()
    return {step: np.linalg.norm(weight[:, blank]) / np.linalg.norm(start[:, blank]) for step, weight in kept.items()}


def left_by(decay_rate):
    """The share of a weight that decay alone leaves, by step."""
    return (1 - decay_rate).cumprod("step")


print(f"left of the weights of {blank.sum()} blank pixels: {left_of_untouched(adamw_folder.name)[1500]:.6f}")
print(f"what R leaves in as many steps: {left_by(adamw.decay_rate)[-1]:.6f}")

# %% [markdown]
# ## AdamS in its place: with which λ?
#
# AdamS divides its decay by √v̄, as the step is divided by √v; then R/η_eff is λ. If it takes over AdamW's λ of 0.3,
# how much does its decay take off? The recorded η_eff predicts it. Where a kernel runs, move λ until both leave the
# same.

# %%
effective_lr = adamw.effective_lr.sel(group=0)


def draw_left(figure, weight_decay):
    axes, left, left_s = figure.subplots(), left_by(adamw.decay_rate), left_by(weight_decay * effective_lr)
    snapshots = left_of_untouched(adamw_folder.name)
    axes.plot(adamw.step, left, **sd.plots.theory("decoupled", label="AdamW, by its R"))
    axes.plot(snapshots.keys(), snapshots.values(), **sd.plots.measured("decoupled", label="AdamW, untouched weights"))
    axes.plot(adamw.step, left_s, **sd.plots.theory("stable", label=f"AdamS, λ = {weight_decay:.2g}, predicted"))
    axes.set(xlabel="step k", ylabel="share of a weight that decay leaves", ylim=(-0.03, 1.03))
    figure.legend(loc="outside lower center", ncols=3)
    figure.suptitle(f"AdamW's decay leaves {left[-1]:.0%} of a weight, AdamS's would leave {left_s[-1]:.0%}")


sd.plots.Sliders(draw_left, weight_decay=(1e-4, 1, 0.3, "log"))

# %% [markdown]
# With the same λ AdamS would erase the weights within some dozen steps: λ is the same letter, in other units. The
# package finds the λ that does the same:

# %%
same = sd.equivalent_weight_decay(rules["AdamW"], rules["AdamS"], adamw)
print(f"λ of AdamS: {same.weight_decay:.2e}, mean R: {same.decay_rate:.2e}")

# %% [markdown]
# About a hundred times less. The prediction takes the gradients of AdamW's run for those of a run that is yet to
# come; so let us see.
#
# ## Watch it while it trains
#
# A recording can be opened while it is being written, here or in another process: another notebook, or a terminal
# with `swd-dynamics show` and the folder. Below the loop trains in a thread, and the cell looks at its folder ten
# times a second.

# %%
adams_folder = TemporaryDirectory()
model = network()
optimizer = sd.optim.AdamS(model.parameters(), lr=3e-3, weight_decay=same.weight_decay)
seen = []
with sd.Probe(optimizer, adams_folder.name, model=model, snapshots=100) as probe:
    training = threading.Thread(target=train, args=(model, optimizer, probe))
    training.start()
    while training.is_alive():
        seen.append(sd.open_recording(adams_folder.name).sizes["step"])
        time.sleep(0.1)

adams = sd.open_recording(adams_folder.name)
print(f"{len(seen)} looks saw up to {max(seen)} steps, never fewer than before: {seen == sorted(seen)}")
print(f"now there are {adams.sizes['step']}, and the run is {adams.attrs['status']}")

# %% [markdown]
# Rows come in blocks, after two seconds or about a thousand steps. A row that was seen stays, even if the training is
# killed the next moment; `sd.Probe(…, resume=True)` goes on with the run.
#
# ## AdamW against AdamS


# %%
def draw_both():
    title = "Nearly the same loss and decay; only AdamS keeps R/η$_{eff}$ at its λ"
    figure = sd.plots.recording({"AdamW": adamw, "AdamS": adams}, "loss", "decay_rate", "decay_ratio", title=title)
    ratio = figure.axes[-1]
    ratio.plot(adamw.step, 0.3 * np.sqrt(adamw.v_bar), **sd.plots.theory("decoupled", label="λ√v̄, λ = 0.3", zorder=3))
    lam = same.weight_decay
    ratio.plot(adams.step, lam + 0 * adams.step, **sd.plots.theory("stable", label=f"λ = {lam:.4f}", zorder=3))
    ratio.legend(handles=ratio.lines[-2:], loc="upper right", frameon=False)
    return figure


draw_both()

# %%
for name, run, folder in (("AdamW", adamw, adamw_folder), ("AdamS", adams, adams_folder)):
    left, untouched = left_by(run.decay_rate)[-1], left_of_untouched(folder.name)[1500]
    print(f"{name}: mean R {run.decay_rate.mean():.2e} leaves {left:.4f}; left of untouched weights: {untouched:.4f}")

# %% [markdown]
# In the end the two have taken off nearly the same, but not at the same time. R of AdamW knows only the schedule, and
# so its balance with the gradients drifts. R of AdamS goes with η_eff, up and down, and the balance stays.
#
# ## Which rule did it follow?
#
# With `sd.record` and no folder everything is kept in memory: every weight, every gradient. Then a rule can be held
# against the run: it is fed the recorded gradients, and each of its steps must arrive where torch arrived.

# %%
model = network()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.3)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=100, gamma=0.1)
short = sd.record(optimizer, lambda k: batch_loss(model, k), steps=200, scheduler=schedule, model=model)
sd.replay(sd.crosscheck.recorded_rule("AdamW", short), short)

# %% [markdown]
# The departures are counted in round-off, and all steps agree within it. Would another rule have passed? Adam with
# the same numbers, its decay in the gradient:

# %%
sd.replay(sd.crosscheck.recorded_rule("Adam", short), short)

# %% [markdown]
# ## When it diverges
#
# A run that blows up is a result, too. `sd.record` stops and says after which step a weight or the loss was not
# finite any more. With η = 10 and λ = 0.3 R is 3, and a step multiplies the weights by 1 − R = −2:

# %%
model = network()
optimizer = torch.optim.AdamW(model.parameters(), lr=10, weight_decay=0.3)
wild = sd.record(optimizer, lambda k: batch_loss(model, k), steps=500, trajectory=False)

growth = float(wild.theta_norm[-1] / wild.theta_norm[-2].values)
print(f"diverged after {wild.attrs['diverged_at_step']} steps; R = {wild.decay_rate[-1]:g}, growth {growth:.3f} a step")
print("the weights are still finite:", all(bool(weight.isfinite().all()) for weight in model.parameters()))

# %% [markdown]
# The weights double at every step, until the loss, in which two layers are multiplied, overflows.
#
# ## Exercises
#
# **1.** Many people spare the biases from decay. Record a run with two parameter groups, λ = 0.3 for the weights and
# 0 for the biases. What is R of each group, and what is R of all?
#
# <details><summary>Solution</summary>
#
# 0.0009 and 0; of all it is the mean over the weights, a little less than that of the first group.
#
# ```python
# model = network()
# biases = [model[0].bias, model[2].bias]
# groups = [{"params": [model[0].weight, model[2].weight]}, {"params": biases, "weight_decay": 0}]
# optimizer = torch.optim.AdamW(groups, lr=3e-3, weight_decay=0.3)
# folder = TemporaryDirectory()
# run = sd.record(optimizer, lambda k: batch_loss(model, k), 50, path=folder.name, model=model)
# print(run.decay_rate_group[-1].values, float(run.decay_rate[-1]))
# ```
#
# </details>

# %% [markdown]
# **2.** Somebody multiplies the loss by 10. Adam takes the same steps as before. What does AdamW's R/η_eff do, and
# AdamS's?
#
# <details><summary>Solution</summary>
#
# AdamW's is ten times larger: √v̄ is. That of AdamS stays at λ, which means that its R is about a tenth.
#
# ```python
# ratios = {}
# for kind, decay in ((torch.optim.AdamW, 0.3), (sd.optim.AdamS, same.weight_decay)):
#     for scale in (1, 10):
#         model = network()
#         optimizer = kind(model.parameters(), lr=3e-3, weight_decay=decay)
#         run = sd.record(optimizer, lambda k: scale * batch_loss(model, k), 50, trajectory=False)
#         print(kind.__name__, scale, float(run.decay_rate[-1]), float(run.decay_ratio[-1]))
# ```
#
# </details>

# %% [markdown]
# **3.** Train AdamS with AdamW's λ of 0.3 after all, for 200 steps. What does the loss say?
#
# <details><summary>Solution</summary>
#
# It stays at the logarithm of 10, that of guessing: a step takes off a ninth of the weights and more, and nothing can
# be learned against that.
#
# ```python
# model = network()
# optimizer = sd.optim.AdamS(model.parameters(), lr=3e-3, weight_decay=0.3)
# run = sd.record(optimizer, lambda k: batch_loss(model, k), 200, trajectory=False)
# assert abs(float(run.loss[-50:].mean()) - np.log(10)) < 0.05
# sd.plots.recording(run, "loss", "decay_rate")
# ```
#
# </details>

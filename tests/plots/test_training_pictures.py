"""The pictures of the studies that train or replay, drawn from small data made by hand.

After a change that is meant to be seen, draw the pictures again and look at each of them::

    python -m pytest tests/plots/test_training_pictures.py --mpl-generate-path=tests/plots/baseline
"""

import numpy as np
import pytest
import xarray
from tolerances import PICTURE

from swd_dynamics.crosscheck import EquivalentDecay
from swd_dynamics.studies import drop_in, gpu, transformer, update_rules

DPI = 45  # dots per inch, so that a file is smaller than 40 kB
compared = pytest.mark.mpl_image_compare(style="default", tolerance=PICTURE, savefig_kwargs={"dpi": DPI})
STEPS = np.arange(1, 41)


@compared
@pytest.mark.slow
def test_drop_in():
    """Assert that decay rates and norms of five runs are drawn, with the factor between two rates."""
    translated = 5e-4 * (1 + STEPS / 20)
    rates = dict(zip(drop_in.NAMES, (1e-3, translated, 0.05, translated / 3, 0.0), strict=True))
    rising = np.geomspace(5, 8, drop_in.CHECKPOINTS)
    norms = dict(zip(drop_in.NAMES, (rising, rising**0.98, 9 - rising, rising**1.05, rising**1.1), strict=True))
    runs = {}
    for name, rate in rates.items():
        twice = np.tile(rate + 0 * STEPS, (2, 1))  # two seeds
        norm = np.array([0.95, 1.05])[:, None] * norms[name]
        runs[name] = drop_in.WatchedRun(twice, twice, twice, norm, norm)
    return drop_in.draw((runs, EquivalentDecay(2e-3, 1e-3)))


@compared
@pytest.mark.slow
def test_transformer():
    """Assert that the warm-up is marked, and the factor by which AdamW's ratio changes after it."""
    root, planned = 2.0 - np.sin(STEPS / 10), 1e-3 + 0 * STEPS  # √v̄ and η
    runs, watched = {}, STEPS[1::2]
    for name, weight_decay in {"AdamW": 0.1, "AdamS": 0.2}.items():
        rate = weight_decay * planned / (root if name == "AdamS" else 1)
        variables = {"decay_rate": ("step", rate), "decay_ratio": ("step", rate * root / planned)}
        in_weights = np.array([rate[watched - 1]] * 3).T  # of three tensors
        runs[name] = transformer.RecordedRun(
            weight_decay, 1234, 1000, xarray.Dataset(variables, {"step": STEPS}), planned, root**2, watched, in_weights,
            0 * in_weights,
        )  # fmt: skip
    return transformer.draw(runs)


@compared
@pytest.mark.slow
def test_update_rules():
    """Assert that each run has a point for its own rule and grey marks for others, and the gap between has a number."""
    rules, tasks = list(update_rules.METHODS), ("quadratic", "network-minibatch")
    runs = [f"{name}, {task}" for task in tasks for name in update_rules.RECORDED]
    errors = 1e9 * 10.0 ** np.add.outer(np.arange(len(runs)) % 4, np.arange(len(rules)) % 3)
    for i, run in enumerate(runs):
        errors[i, rules.index(run.split(",")[0])] = 0.01 * (1 + i)
    return update_rules.draw(update_rules.Pairings(runs, rules, errors))


@compared
@pytest.mark.slow
def test_gpu():
    """Assert that right rules, wrong rules and the smallest error of λ are drawn for each arithmetic."""
    right, wrong, errors = {}, {}, {}
    for i, arithmetic in enumerate(gpu.ROWS):
        for j, name in enumerate(("SGD", "AdamW", "AdamS")):
            right[arithmetic, name, "network"] = 0.01 * (1 + j) * 3**i
        wrong |= {(arithmetic, name): np.array([10.0, 1e3]) * 10.0 ** (3 - i) for name in gpu.WRONG}
        errors |= {(arithmetic, name): 1e-9 * 50.0**i for name in gpu.SHOWN}
    return gpu.draw(gpu.Found(right, wrong, errors, "Card 1"))

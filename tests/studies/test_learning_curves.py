"""The study of learning curves: its verdicts on made-up curves, and its figure."""

import numpy as np
import pytest
import xarray

from swd_dynamics.studies.learning_curves import DIRECTIONS, ROUND_OFF, SCHEDULES, Curves, draw, judge_curves
from swd_dynamics.studies.tuning import Contestant, Tuned

SEEDS, STEPS = 8, np.arange(10, 301, 10)


def made(errors=(), losses=(), off=0.0):
    """Curves that fall to given errors and losses; SGDW has those of SGDS, times 1 + off."""
    drawn = np.random.default_rng(0)
    errors, losses = dict(errors), dict(losses)

    def tuned(label):
        label_ = "SGDS" if label == "SGDW" else label
        noise = 1 + 0.01 * np.random.default_rng(len(label_) + ord(label_[-1])).normal(size=(SEEDS, 1))
        shape = 1 + 4 * np.exp(-STEPS / 50)
        error = errors.get(label_, 0.10) * shape * noise
        loss = losses.get(label_, 0.05) * shape * noise * (1 + off * (label == "SGDW"))
        runs = xarray.Dataset(
            {"test_error_curve": (("seed", "step"), error), "train_loss_curve": (("seed", "step"), loss)},
            {"step": STEPS},
        ).assign(train_loss=("seed", loss[:, -1]))
        return Tuned(Contestant(label, label, (0.1,), (0.0,)), np.zeros((3, 3)), 100 * error[:, -1], runs)

    labels = [label for labels in DIRECTIONS.values() for label in labels]
    untranslated = drawn.uniform(0.5, 1.0, (SEEDS, len(STEPS)))
    return [Curves(schedule, {label: tuned(label) for label in labels}, untranslated) for schedule in SCHEDULES]


def statuses(found):
    return {verdict.name: verdict.status for verdict in judge_curves(found)}


def test_better_stable_decay_is_confirmed():
    """Assert that curves that end a tenth lower are found to, for SGD and for Adam and each schedule."""
    found = statuses(made(errors={"SGDS": 0.09, "AdamS": 0.09}))
    names = [
        f"{schedule}: {pair}" for schedule in SCHEDULES for pair in ("SGDS < SGD", "AdamS < Adam", "AdamS < AdamW")
    ]
    assert {found[name] for name in names} == {"confirmed"}


def test_worse_stable_decay_is_refuted():
    """Assert that curves that end a tenth higher refute the claim."""
    found = statuses(made(errors={"SGDS": 0.11, "AdamS": 0.11}))
    assert found["step: SGDS < SGD"] == found["cosine: AdamS < AdamW"] == "refuted"


def test_a_smaller_training_loss_is_seen():
    """Assert that an AdamS that fits better, or worse, than Adam is told apart."""
    assert statuses(made(losses={"AdamS": 0.04}))["cosine: AdamS fits no better"] == "refuted"
    assert statuses(made(losses={"AdamS": 0.06}))["cosine: AdamS fits no better"] == "confirmed"


def test_another_sgdw_is_refuted():
    """Assert that an SGDW that is off by twice what rounding explains is refuted, and by half of it is not."""
    assert statuses(made(off=2 * ROUND_OFF))["step: SGDW is SGDS"] == "refuted"
    assert statuses(made(off=0.5 * ROUND_OFF))["step: SGDW is SGDS"] == "confirmed"


@pytest.mark.slow
def test_the_figure_has_a_column_for_each_optimizer_and_schedule():
    """Assert that errors and losses have a panel for each optimizer and schedule, with a logarithmic axis."""
    figure = draw(made())
    assert len(figure.axes) == 2 * len(DIRECTIONS) * len(SCHEDULES)
    assert all(axes.get_yscale() == "log" for axes in figure.axes)

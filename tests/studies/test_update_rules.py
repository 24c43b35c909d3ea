"""The update-rules study in small: the right rule replays, every other departs."""

import pytest
import torch

from swd_dynamics.crosscheck import replay
from swd_dynamics.studies.update_rules import LOUD, Pairings, _authors, _mutant, draw, rule, run
from swd_dynamics.tasks import quadratic

NAMES = ["SGD", "SGDS", "Adam", "AdamS"]


@pytest.fixture(scope="module")
def recordings():
    """Forty steps of some real optimizers on a noisy quadratic."""
    task = quadratic((1.0, 3.0, 0.1), start=(1.0, -2.0, 0.5), noise=0.1)
    return {name: run(task, name, 40) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_only_the_right_rule_replays(recordings, name):
    """Assert that a recorded run is replayed by its own rule, and loudly not by the others."""
    measured = {other: replay(rule(other), recordings[name]).measured for other in NAMES}
    assert measured.pop(name) <= 1
    assert min(measured.values()) >= LOUD


def test_the_mutant_is_refuted(recordings):
    """Assert that a decay that is off by a millionth is refuted."""
    assert _mutant(quadratic((1.0,)), recordings["AdamS"]).passed


def test_the_authors_trajectories_replay():
    """Assert that all seven trajectories of the authors' optimizers are replayed."""
    verdicts = _authors()
    assert len(verdicts) == 7
    assert all(v.passed for v in verdicts)


def test_the_figure_marks_what_agrees(recordings):
    """Assert that the figure has a mark where a departure is within round-off, and only there."""
    departure = [[replay(rule(other), recordings[name]).measured for other in NAMES] for name in NAMES]
    figure = draw(Pairings(NAMES, NAMES, torch.tensor(departure).clamp(min=1e-3).numpy()))
    assert sum(text.get_text() == "=" for text in figure.axes[0].texts) == len(NAMES)

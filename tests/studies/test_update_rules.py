"""The study of the update rules: the right rule replays a run, and every other rule misses it by far."""

import pytest

from swd_dynamics.crosscheck import replay
from swd_dynamics.optim import OPTIMIZERS
from swd_dynamics.studies.methods import names_of
from swd_dynamics.studies.update_rules import FAR, METHODS, RECORDED, _authors, run_of
from swd_dynamics.tasks import quadratic

NAMES = ["SGD", "SGDS", "Adam", "AdamS"]


@pytest.fixture(scope="module")
def recordings():
    """Forty steps of some real optimizers on a noisy quadratic."""
    task = quadratic((1.0, 3.0, 0.1), start=(1.0, -2.0, 0.5), noise=0.1)
    return {name: run_of(task, METHODS[name], 40) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_only_the_right_rule_replays(recordings, name):
    """Assert that a recorded run is replayed by its own rule, and loudly not by the others."""
    measured = {other: replay(METHODS[other].rule(), recordings[name], causes=False).measured for other in NAMES}
    assert measured.pop(name) <= 1
    assert min(measured.values()) >= FAR


def test_every_rule_is_compared():
    """Assert that the study has every rule of the paper's directions, and a run of each real optimizer but a twin.

    The rules of the other directions are compared with their optimizers in tests/rules and tests/verification.
    """
    assert set(METHODS) == {name for family in ("SGD", "Adam", "AMSGrad", "Adai") for name in names_of(family)}
    assert set(RECORDED) == set(OPTIMIZERS) & set(METHODS) - {"SGDW"}


@pytest.mark.slow
def test_the_authors_trajectories_replay():
    """Assert that all seven trajectories of the authors' optimizers are replayed."""
    verdicts = _authors()
    assert len(verdicts) == 7
    assert all(v.passed for v in verdicts)

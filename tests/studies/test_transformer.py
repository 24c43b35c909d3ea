"""The study of the decay rate along a transformer's training: its verdicts pass, and its tests can fail."""

import numpy as np
import pytest
import torch

from swd_dynamics.studies import Setting, load, transformer

# A step in float64 is right to 1e-16 of a weight; R, of 1e-3 of it, loses three digits, and some rounding is left over.
SEEN = 1e-11
# Adam's recursion in two orders of evaluation, in float64, over ten steps.
ROUND_OFF = 1e-14

pytestmark = pytest.mark.slow  # the study is measured in its quick form


@pytest.fixture(scope="module")
def findings():
    return load("transformer").measure(Setting(quick=True))


@pytest.fixture
def watched():
    """Ten steps of torch's AdamW in float64 on two tensors with gradients of our own, and their witness."""
    random = torch.Generator().manual_seed(0)
    shapes = ((3, 4), (5,))
    weights = [torch.nn.Parameter(torch.randn(s, generator=random, dtype=torch.float64)) for s in shapes]
    optimizer = torch.optim.AdamW(weights, lr=1e-2, betas=transformer.BETAS, weight_decay=0.1)
    witness, moments = transformer.Witness(optimizer, every=5), []
    for k in range(1, 11):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=random, dtype=torch.float64)
        optimizer.step()
        v = torch.cat([optimizer.state[weight]["exp_avg_sq"].flatten() for weight in weights])
        moments.append(v.mean().item() / (1 - transformer.BETAS[1] ** k))
    return witness, np.array(moments)


def refuted(courses):
    return {verdict.name for verdict in transformer.verdicts(*courses) if verdict.status != "confirmed"}


def test_verdicts_pass(findings):
    """Assert that every claim of the study is confirmed, under a name of its own that fits the ledger."""
    names = [verdict.name for verdict in findings.verdicts]
    assert [verdict.name for verdict in findings.verdicts if not verdict.passed] == []
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= 34


def test_mutants_are_refuted(findings):
    """Assert that a constant ratio of AdamW, AdamS at λη and AdamW's R in AdamS's weights fail, and by far."""
    mutants = [verdict for verdict in findings.verdicts if verdict.name.startswith("mutant")]
    assert [verdict.measured for verdict in mutants] == ["refuted"] * 3


def test_figure_draws(findings, tmp_path):
    """Assert that the figure has its two panels, tells the two optimizers apart, and can be written."""
    figure = load("transformer").draw(findings.data)
    figure.savefig(tmp_path / "transformer.png")
    assert len(figure.axes) == 2
    (legend,) = figure.legends
    assert len({line.get_color() for line in legend.get_lines()}) == 2


def test_the_two_runs_meet_the_same_task(findings):
    """Assert that both runs start from the same loss, and that each learns."""
    adamw, adams = (course.recorded.loss.values for course in findings.data.values())
    assert adamw[0] == adams[0]
    assert adamw[-1] < adamw[0] - 1 and adams[-1] < adams[0] - 1


def test_second_moments_that_are_off_are_refuted(findings):
    """Assert that v̄ off by 1e-4 in the end is found in both runs."""
    drift = 1 + 1e-4 * np.linspace(0, 1, len(findings.data["AdamW"].v_bar))
    drifting = [course._replace(v_bar=course.v_bar * drift) for course in findings.data.values()]
    assert refuted(drifting) == {"AdamW: R/η_eff is λ√v̄", "AdamS: η_eff is η/√v̄"}


def test_another_learning_rate_is_refuted(findings):
    """Assert that a schedule off by 1e-4 is found wherever η stands."""
    others = [course._replace(planned=course.planned * (1 + 1e-4)) for course in findings.data.values()]
    assert refuted(others) == {"AdamW: R is λη", "AdamS: η_eff is η/√v̄"}


@pytest.mark.parametrize("name", transformer.MODES)
def test_one_tensor_that_decays_otherwise_is_refuted(findings, name):
    """Assert that a single tensor that does not decay at all is found among the others."""
    seen = findings.data[name]
    idle = np.where(np.arange(seen.by_weights.shape[1]) == 3, 0.0, seen.by_weights)
    changed = findings.data | {name: seen._replace(by_weights=idle)}
    assert refuted(changed.values()) == {f"{name}: R in the weights"}


def test_a_ratio_that_hardly_moves_is_refuted(findings):
    """Assert that AdamW's ratio would not pass as moving if it moved by a third."""
    adamw, adams = findings.data.values()
    tame = np.geomspace(1, 4 / 3, len(adamw.ratio)) * adamw.ratio.mean()
    recorded = adamw.recorded.assign(decay_ratio=("step", tame))
    assert "AdamW: R/η_eff moves" in refuted([adamw._replace(recorded=recorded), adams])


def test_the_witness_sees_the_decay_of_adamw(watched):
    """Assert that R seen in float64 weights is ηλ, of each tensor at each n-th step."""
    seen = np.array(watched[0].seen)
    assert seen.shape == (2, 2, 2)
    np.testing.assert_allclose(seen[:, :, 0], 1e-2 * 0.1, rtol=SEEN)


def test_the_witness_has_adams_second_moment(watched):
    """Assert that v̄ from the squares of the gradients is the mean of what torch's Adam keeps."""
    witness, moments = watched
    ours = transformer.second_moment(np.array(witness.squares) / 17)
    np.testing.assert_allclose(ours, moments, rtol=ROUND_OFF)

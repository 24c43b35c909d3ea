"""Every study, measured once in its short form: its claims, its negative controls and its figure."""

from functools import cache

import numpy as np
import pytest

from swd_dynamics.crosscheck import EquivalentDecay
from swd_dynamics.plots import write_figure
from swd_dynamics.studies import MODULES, Setting, drop_in, load, transformer, update_rules
from swd_dynamics.studies.reproduce import committed_ledger, read_ledger
from swd_dynamics.studies.stability import DIRECTIONS
from swd_dynamics.verdict import WIDTH, Ledger

pytestmark = pytest.mark.slow  # measures all studies in their short form

MODES = ("none", "L2", "decoupled", "stable")  # of the decay that the study stability compares
COMMITTED = read_ledger(committed_ledger())
PANELS = {
    "update-rules": 2,
    "decay-rate": 2,
    "fixed-points": 2,
    "modified-equation": 2,
    "two-limits": 3,
    "stability": 2,
    "dead-weights": 2,
    "stability-chart": 8,
    "drop-in": 2,
    "transformer": 1,
    "gpu": 2,
    "lr-decay-coupling": 4,
    "gradient-norm": 2,
    "end-of-training": 2,
    "width": 2,
    "optimizer-table": 1,
    "sgd-generalization": 2,  # in the short form no gap is certain, so none has a panel of its own
    "learning-curves": 8,
    "batch-size": 3,
    "lost-decay": 2,
    "memory-of-updates": 2,
    "central-flow": 2,
    "settled-oscillation": 2,
    "sharpness-under-schedules": 2,
    "edge-of-stability": 2,
    "equilibrium": 2,
    "stationary-noise": 2,
}


def of(name):
    """Marks a test of one study, so that it runs in the process that has measured this study."""
    return pytest.mark.xdist_group(name)


every_study = pytest.mark.parametrize("name", [pytest.param(name, marks=of(name)) for name in MODULES])


@pytest.fixture(scope="session")
def measured():
    """The findings of the study of a given name."""
    return cache(lambda name: load(name).measure(Setting(quick=True)))


@pytest.fixture(scope="session")
def drawn(measured):
    """The figure of the study of a given name."""
    return cache(lambda name: load(name).draw(measured(name).data))


def depends_on_seeds(verdict):
    """Whether the status of a verdict may differ in the short form, which has fewer seeds and shorter runs."""
    return verdict.seeds is not None


@every_study
def test_every_claim_is_confirmed_or_declared(measured, name):
    """Assert that every claim that the seeds cannot change is confirmed, or declared as refuted by the study."""
    verdicts = [verdict for verdict in measured(name).verdicts if not depends_on_seeds(verdict)]
    assert {verdict.name for verdict in verdicts if not verdict.passed} == {
        verdict.name for verdict in verdicts if verdict.name in load(name).not_confirmed
    }


@every_study
def test_every_verdict_has_a_name_of_its_own(measured, name):
    """Assert that no two verdicts of the study have one name, and that all of them fit the ledger."""
    verdicts = measured(name).verdicts
    assert len({verdict.name for verdict in verdicts}) == len(verdicts)
    assert max(map(len, str(Ledger(verdicts)).splitlines())) <= WIDTH


@every_study
def test_the_verdicts_are_the_committed_ones(measured, name):
    """Assert that the short form has the verdicts of the committed ledger, and the statuses that no seed can change."""
    committed = COMMITTED[name]
    assert {verdict.name for verdict in measured(name).verdicts} == set(committed)
    exact = [verdict for verdict in measured(name).verdicts if not depends_on_seeds(verdict)]
    assert {verdict.name: verdict.status for verdict in exact} == {v.name: committed[v.name] for v in exact}


@every_study
def test_findings_that_are_not_confirmed_are_declared(name):
    """Assert that the study declares the verdicts that the committed ledger refutes or leaves open, and no others."""
    open_or_refuted = {verdict for verdict, status in COMMITTED[name].items() if status != "confirmed"}
    assert open_or_refuted == load(name).not_confirmed


@every_study
def test_the_negative_controls_fail(measured, name):
    """Assert that the study has false claims among its verdicts, and that the same tests refute them."""
    controls = [verdict for verdict in measured(name).verdicts if verdict.predicted == "must fail"]
    assert controls
    assert all(verdict.name.startswith("control: ") for verdict in controls)
    assert {verdict.measured for verdict in controls} == {"failed"}


@every_study
def test_the_figure_draws(drawn, name, tmp_path):
    """Assert that the figure has its panels and a title, and that it can be written."""
    figure = drawn(name)
    assert len(figure.axes) == PANELS[name]
    assert figure.get_suptitle() or figure.legends[0].get_title().get_text()
    assert all(path.stat().st_size > 10_000 for path in write_figure(figure, tmp_path / name))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=of(name)) for name in ("fixed-points", "modified-equation", "stability")]
)
def test_axes_are_named(drawn, name):
    """Assert that every panel has a name below and on the left."""
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in drawn(name).axes)


@pytest.mark.parametrize(
    ("name", "optimizers"),
    [pytest.param(name, optimizers, marks=of(name)) for name, optimizers in (("drop-in", 3), ("transformer", 2))],
)
def test_colours_tell_the_optimizers_apart(drawn, name, optimizers):
    """Assert that the legend has a colour for each optimizer."""
    (legend,) = filter(None, [*drawn(name).legends, *(axes.get_legend() for axes in drawn(name).axes)])
    assert len({line.get_color() for line in legend.get_lines()}) == optimizers


@of("update-rules")
def test_update_rules_draws_right_and_wrong_rules(measured, drawn):
    """Assert that each run has one point within rounding, its own rule's, and that all others are far off."""
    pairings = measured("update-rules").data
    lines = [line for axes in drawn("update-rules").axes for line in axes.get_lines() if line.get_marker() != "None"]
    wrong = np.concatenate([line.get_xdata() for line in lines if line.get_marker() == "|"])
    right = np.concatenate([line.get_xdata() for line in lines if line.get_marker() != "|"])
    assert len(right) == len(pairings.runs) and (right <= 1).all()
    # Each run has a wrong rule less than there are rules, and AdaiS on both tasks another one less, because of AdaiW.
    assert len(wrong) == len(pairings.runs) * (len(pairings.rules) - 1) - 2 and (wrong >= update_rules.FAR).all()


@of("decay-rate")
def test_decay_rate_is_drawn_over_decades(drawn):
    """Assert that R/η_eff has a logarithmic axis in both panels."""
    assert all(axes.get_yscale() == "log" for axes in drawn("decay-rate").axes)


@of("fixed-points")
def test_fixed_points_differ(measured):
    """Assert that decoupled decay, weakened by momentum, leaves every weight of the quadratic larger than L2 does."""
    rests = {verdict.name: verdict.evidence.get("measured") for verdict in measured("fixed-points").verdicts}
    assert (np.abs(rests["SGDW: quadratic"]) > np.abs(rests["SGD: quadratic"])).all()


@of("stability")
def test_stability_measures_every_method(measured):
    """Assert that each direction is measured with each place for the decay."""
    names = {v.name for v in measured("stability").verdicts}
    assert all(any(name.startswith(direction) for name in names) for direction in DIRECTIONS)
    assert sum(name.split(",")[0] in DIRECTIONS for name in names) == len(DIRECTIONS) * len(MODES)


@of("stability")
def test_stability_has_runs_that_diverged_and_that_survived(measured):
    """Assert that the grid of each decay holds runs of both kinds."""
    heavy, _ = measured("stability").data
    assert all(0 < b.survived.mean() < 1 for b in heavy.values())


@pytest.fixture
def exchanged(measured):
    return measured("drop-in")


@of("drop-in")
def test_three_witnesses_agree(exchanged):
    """Assert that R as published, as seen in weights without gradient and by the rule are one."""
    for name, seen in exchanged.data[0].items():
        np.testing.assert_allclose(seen.outside, seen.by_rule, rtol=drop_in.ROUND_OFF)
        assert np.isnan(seen.published).all() == (name == "AdamW")
        if name != "AdamW":
            np.testing.assert_allclose(seen.published, seen.by_rule, rtol=drop_in.ROUND_OFF)


@of("drop-in")
@pytest.mark.parametrize(("off", "passes"), [(1.1, True), (1.3, False)])
def test_a_wrong_translation_is_refuted(exchanged, off, passes):
    """Assert that a prediction three tenths off fails where the translation's own departs by less than a tenth."""
    runs, found = exchanged.data
    wrong = EquivalentDecay(found.weight_decay, found.decay_rate * off)
    about_rate = [
        v for v in drop_in.judge_exchange(runs, wrong) if v.name in ("AdamS: decay rate", "AdamS: time scale")
    ]
    assert [verdict.passed for verdict in about_rate] == [passes, passes]


@of("drop-in")
def test_a_rate_that_does_not_follow_the_moments_is_refuted(exchanged):
    """Assert that R off 1/√v̄ by a millionth in the end, and a λη that moves as little, are refuted."""
    runs, found = exchanged.data
    drift = 1 + 1e-6 * np.linspace(0, 1, runs["AdamS"].outside.shape[1])
    drifting = {name: seen._replace(outside=seen.outside * drift) for name, seen in runs.items()}
    refuted = {verdict.name for verdict in drop_in.judge_exchange(drifting, found) if verdict.status == "refuted"}
    assert refuted == {"AdamW: R is constant", "AdamS: R changes as 1/√v̄"}


@pytest.fixture
def trained(measured):
    return measured("transformer")


def refuted(runs):
    return {verdict.name for verdict in transformer.judge_definitions(*runs) if verdict.status != "confirmed"}


@of("transformer")
def test_the_two_runs_meet_the_same_task(trained):
    """Assert that both runs start from the same loss, and that each learns."""
    adamw, adams = (run.recorded.loss.values for run in trained.data.values())
    assert adamw[0] == adams[0]
    assert adamw[-1] < adamw[0] - 1 and adams[-1] < adams[0] - 1


@of("transformer")
def test_second_moments_that_are_off_are_refuted(trained):
    """Assert that v̄ off by 1e-4 in the end is found in both runs."""
    drift = 1 + 1e-4 * np.linspace(0, 1, len(trained.data["AdamW"].v_bar))
    drifting = [run._replace(v_bar=run.v_bar * drift) for run in trained.data.values()]
    assert refuted(drifting) == {"AdamW: R/η_eff is λ√v̄", "AdamS: η_eff is η/√v̄"}


@of("transformer")
def test_another_learning_rate_is_refuted(trained):
    """Assert that a schedule off by 1e-4 is found wherever η stands."""
    others = [run._replace(planned=run.planned * (1 + 1e-4)) for run in trained.data.values()]
    assert refuted(others) == {"AdamW: R is λη", "AdamS: η_eff is η/√v̄"}


@of("transformer")
@pytest.mark.parametrize("name", transformer.METHODS)
def test_one_tensor_that_decays_otherwise_is_refuted(trained, name):
    """Assert that a single tensor that does not decay at all is found among the others."""
    seen = trained.data[name]
    idle = np.where(np.arange(seen.by_weights.shape[1]) == 3, 0.0, seen.by_weights)
    changed = trained.data | {name: seen._replace(by_weights=idle)}
    assert refuted(changed.values()) == {f"{name}: R in the weights"}


@of("transformer")
def test_a_ratio_that_hardly_moves_is_refuted(trained):
    """Assert that AdamW's ratio would not pass as moving if it moved by a third."""
    adamw, adams = trained.data.values()
    tame = np.geomspace(1, 4 / 3, len(adamw.ratio)) * adamw.ratio.mean()
    recorded = adamw.recorded.assign(decay_ratio=("step", tame))
    assert "AdamW: R/η_eff changes" in refuted([adamw._replace(recorded=recorded), adams])

"""The study of the valley of best λ: its predictions are the known ones, and its measurement finds planted slopes."""

import numpy as np
import pytest

from swd_dynamics.studies.lr_decay_coupling import CONSTANT, EXPONENTS, ErrorMap, draw, judge_slopes, predicted_slope

LRS, DECAYS = 10.0 ** np.arange(-2, 0.1, 0.5), 10.0 ** np.arange(-4, -0.9, 0.5)
SEEDS = 4


def planted(slope, spread=0.0, moments=(0.0, 0.0)):
    """A map whose error is a parabola in log λ around a line of a given slope; its seeds are shifted by a spread."""
    x, y = np.log10(LRS)[:, None, None], np.log10(DECAYS)[:, None]
    seeds = spread * np.linspace(-1, 1, SEEDS)
    error = 10 + (y + 2.5 - slope * (x + 1) - seeds * x) ** 2
    log_v = moments[0] * np.log(LRS)[:, None, None] + moments[1] * np.log(DECAYS)[:, None] + 0 * error
    return ErrorMap(LRS, DECAYS, error, np.ones_like(error), log_v)


@pytest.mark.parametrize("name", ["SGD", "SGDW", "SGDS", "Adam", "AdamW", "AdamS"])
@pytest.mark.slow
def test_with_a_constant_v_the_slopes_are_those_of_the_definitions(name):
    """Assert that R·steps is constant along slope −1 and the rest point along slope 0, with every decay."""
    assert predicted_slope(name, "memory") == pytest.approx(-1.0, abs=1e-6)
    assert predicted_slope(name, "rest point") == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "invariant", "slope"),
    [
        ("AdamW", "memory", -1.0),  # R = ηλ
        ("AdamW", "rest point", 0.2 / 1.1),  # λ√v, with √v ∝ η^−.2·λ^.1
        ("AdamS", "memory", -1.2 / 0.9),  # ηλ/√v
        ("AdamS", "rest point", 0.0),  # λ
        ("Adam", "memory", -1.2 / 0.9),  # ηλ/√v, to first order
        ("Adam", "rest point", 0.0),  # λ
    ],
)
@pytest.mark.slow
def test_the_second_moment_enters_the_slopes(name, invariant, slope):
    """Assert that where v ∝ η^−.4·λ^.2 the slopes are those of the table of R and of the rest points."""
    assert predicted_slope(name, invariant, (-0.4, 0.2)) == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize("slope", [-1.0, -0.5, 0.0])
def test_a_planted_slope_is_found(slope):
    """Assert that the valley of a map of parabolas has the slope that was put in, without spread."""
    np.testing.assert_allclose(planted(slope).slopes, slope, atol=1e-9)


def test_the_spread_over_seeds_is_found():
    """Assert that the pseudo-values of seeds whose slopes differ have the spread of these slopes."""
    np.testing.assert_allclose(np.sort(planted(-0.5, 0.1).slopes), -0.5 + 0.1 * np.linspace(-1, 1, SEEDS), atol=1e-9)


@pytest.mark.parametrize(
    ("slope", "statuses"), [(-1.0, ["refuted", "confirmed", "refuted"]), (0.0, ["confirmed", "refuted", "confirmed"])]
)
@pytest.mark.slow
def test_the_invariants_are_told_apart(slope, statuses):
    """Assert that a map with the slope of one invariant confirms this one, also as nearer, and refutes the other."""
    assert [verdict.status for verdict in judge_slopes("SGD", "cosine", planted(slope, 0.01))] == statuses


def test_an_invariant_is_undecided_where_the_seeds_differ_much():
    """Assert that seeds with very different slopes decide nothing, and that the verdict says how many would."""
    verdicts = judge_slopes("SGD", "cosine", planted(-0.5, 2.0))
    assert {verdict.status for verdict in verdicts} == {"inconclusive"}
    assert all("would" in verdict.cause for verdict in verdicts)


@pytest.mark.parametrize(
    ("falling", "constant", "said"),
    [
        (0.0, -1.0, ["the best λ of AdamW does not fall as 1/η", "it falls as 1/η"]),
        (0.0, -0.7, ["it does not fall as 1/η (slope −0.70 ± 0.00"]),
        (-1.0, 0.0, ["the best λ of AdamW falls as 1/η", "it does not fall as 1/η"]),
    ],
)
@pytest.mark.slow
def test_the_title_follows_the_result(falling, constant, said):
    """Assert that the title claims of the best λ no more than the verdicts do."""
    maps = {(name, "cosine"): planted(falling) for name in EXPONENTS}
    title = draw(maps | {(name, "constant"): planted(constant) for name in CONSTANT}).get_suptitle()
    assert all(words in title for words in said)


@pytest.mark.slow
def test_the_title_says_what_is_not_decided():
    """Assert that the title decides nothing where seeds differ too much to say how the best λ depends on η."""
    maps = {(name, "cosine"): planted(-0.1, 2.0 if name == "AdamW" else 0.0) for name in EXPONENTS}
    title = draw(maps | {(name, "constant"): planted(-1.0) for name in CONSTANT}).get_suptitle()
    assert "may fall as 1/η or not" in title


def test_planted_moments_are_found():
    """Assert that the powers of η and λ in v are those that were put in."""
    assert planted(-1.0, moments=(-0.4, 0.2)).moments == pytest.approx((-0.4, 0.2), abs=1e-9)

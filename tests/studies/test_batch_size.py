"""The study of the batch size: the derived exponents, the two λ of a curve, the jackknife, and verdicts on laws."""

import numpy as np
import pytest

from swd_dynamics.studies import batch_size
from swd_dynamics.studies.batch_size import BATCHES, HARM, Scan, draw, exponents, harmless, jackknife, judge_exponents
from swd_dynamics.verdict import NOTHING

SEEDS = 12


@pytest.mark.parametrize(("name", "memory", "rest"), [("AdamW", "1", "p"), ("AdamS", "1 - p", "0")])
@pytest.mark.slow
def test_the_derived_exponents(name, memory, rest):
    """Assert the exponents by hand: R·steps ∝ λ/B or λB^(p−1), and R/η_eff ∝ λB^(−p) or λ."""
    assert {key: str(value) for key, value in exponents(name).items()} == {"memory": memory, "rest point": rest}


def scan(name, x, p, spread=0.05):
    """Made-up runs whose best λ is ∝ Bˣ, and whose √v̄ is ∝ B⁻ᵖ, for curves that are parabolas in log λ."""
    drawn = np.random.default_rng(3)
    decays, sizes = np.array(batch_size.WEIGHT_DECAYS[name]), np.array(BATCHES)
    best = np.sqrt(decays[0] * decays[-1]) * (sizes / np.sqrt(sizes[0] * sizes[-1])) ** x
    curves = 10 + (np.log(decays) - np.log(best)[:, None]) ** 2
    errors = curves[..., None] + spread * drawn.normal(size=(len(sizes), len(decays), SEEDS))
    return Scan(name, errors, (sizes**-p)[:, None] * np.exp(0.01 * drawn.normal(size=(len(sizes), SEEDS))))


@pytest.mark.parametrize("kind", ["best", "largest harmless"])
def test_a_law_is_measured(kind):
    """Assert that the exponent of either λ is that of the curves, within a tenth."""
    assert scan("AdamW", x=0.6, p=0.5).slope(kind) == pytest.approx(0.6, abs=0.1)
    assert scan("AdamW", x=0.6, p=0.3).noise == pytest.approx(0.3, abs=0.01)


def test_the_largest_harmless_decay():
    """Assert that it lies one HARM above the smallest error on the right, and is unknown where nothing harms."""
    decays = np.geomspace(0.01, 100, 401)
    assert harmless(decays, np.log(decays) ** 2) == pytest.approx(np.exp(np.sqrt(HARM)), rel=1e-3)
    assert np.isnan(harmless(decays, np.zeros(401)))


@pytest.mark.slow
def test_a_best_decay_outside_of_the_grid_decides_nothing():
    """Assert that curves that fall to the end of the grid leave the verdicts on the best λ open, with the reason."""
    falling = scan("AdamW", 0.5, 0.5)
    steep = np.linspace(0, 100, len(falling.decays))[:, None]
    falling.errors[-1] = steep  # at the largest batch size the smallest λ is the best one
    verdicts = {v.name: v for v in judge_exponents({"AdamW": falling, "AdamS": scan("AdamS", 0.0, 0.5)})}
    assert verdicts["AdamW, best λ: memory"].status == "inconclusive"
    assert "outside of the grid" in verdicts["AdamW, best λ: memory"].cause
    assert verdicts["AdamW, best λ: memory"].measured == NOTHING
    assert "nan" not in verdicts["AdamW, best λ: memory"].why
    assert draw({"AdamW": falling, "AdamS": scan("AdamS", 0.0, 0.5)}).axes


def test_the_jackknife_has_the_spread_of_a_slope():
    """Assert that the standard error by the jackknife is that of slopes of many repetitions, within a factor of 1.5."""
    one = scan("AdamW", 0.5, 0.5, spread=0.3)
    values = jackknife((one,), lambda s: s.slope("largest harmless"))
    drawn = np.random.default_rng(5)
    clean = scan("AdamW", 0.5, 0.5, spread=0.0)
    again = [
        clean._replace(errors=clean.errors + 0.3 * drawn.normal(size=clean.errors.shape)).slope("largest harmless")
        for _ in range(200)
    ]
    assert 1 / 1.5 < values.std(ddof=1) / np.sqrt(SEEDS) / np.std(again) < 1.5


def statuses(adamw, adams):
    return {v.name: v.status for v in judge_exponents({"AdamW": adamw, "AdamS": adams})}


@pytest.mark.slow
def test_runs_that_keep_the_memory():
    """Assert that runs with the exponents of the memory, 1 and ½, confirm it and refute the rest point."""
    found = statuses(scan("AdamW", 1.0, 0.5), scan("AdamS", 0.5, 0.5))
    for kind in ("best", "largest harmless"):
        for name in ("AdamW", "AdamS"):
            assert found[f"{name}, {kind} λ: memory"] == "confirmed"
            assert found[f"{name}, {kind} λ: rest point"] == "refuted"
        assert found[f"AdamW − AdamS, {kind} λ"] == "confirmed"
    assert found["noise: √v̄ ∝ 1/√B"] == "confirmed"
    assert found["control: fewer at larger B"] == "confirmed"


def test_runs_that_keep_the_rest_point():
    """Assert that runs with the exponents of the rest point, ½ and 0, confirm it and refute the memory."""
    found = statuses(scan("AdamW", 0.5, 0.5), scan("AdamS", 0.0, 0.5))
    for name in ("AdamW", "AdamS"):
        assert found[f"{name}, largest harmless λ: rest point"] == "confirmed"
        assert found[f"{name}, largest harmless λ: memory"] == "refuted"


def test_the_figure_has_both_optimizers():
    """Assert that there is a panel for each optimizer and one for both, and that the title has both exponents."""
    scans = {"AdamW": scan("AdamW", 1.0, 0.5), "AdamS": scan("AdamS", 0.5, 0.5)}
    figure = draw(scans)
    assert len(figure.axes) == 3
    for each in scans.values():
        assert f"{each.slope('largest harmless'):.2f} ±" in figure.get_suptitle()

"""The study of the width: it finds how planted optima move, and what it costs to keep a number."""

import numpy as np
import pytest

from swd_dynamics.studies.width import WAYS, WidthMaps, draw, judge_ways

WIDTHS = [10, 100, 1000]
LRS = 10.0 ** np.arange(-3, -0.9, 0.5)
DECAYS = {"AdamW": 10.0 ** np.arange(-1, 1.1, 0.5), "AdamS": 10.0 ** np.arange(-4, -1.4, 0.5)}


def planted(by_decay):
    """Maps whose best η falls as width^−¼ and whose best λ changes with a given power of the width."""
    n = np.log10(WIDTHS)[:, None, None, None]
    x, seeds = np.log10(LRS)[:, None, None], 0.01 * np.arange(3)

    def error(decays, middle):
        y = np.log10(decays)[:, None]
        return 5 + seeds + 9 * (x + 1.5 + (n - 1) / 4) ** 2 + 9 * (y - middle - by_decay * (n - 1)) ** 2

    root_v = np.array(WIDTHS)[:, None] ** -np.array([0.4, 0.5, 0.6])
    return WidthMaps(
        WIDTHS, LRS, DECAYS, {"AdamW": error(DECAYS["AdamW"], -0.5), "AdamS": error(DECAYS["AdamS"], -3.0)}, root_v
    )


@pytest.mark.parametrize("by_decay", [0.0, 0.25])
def test_planted_powers_are_found(by_decay):
    """Assert that the power of the width in the best λ is the planted one, and that in ηλ it is smaller by ¼."""
    maps = planted(by_decay)
    powers = {name: maps.exponents(way) for name, way in WAYS.items()}
    np.testing.assert_allclose(powers["AdamW, λ"], by_decay, atol=1e-9)
    np.testing.assert_allclose(powers["AdamW, ηλ"], by_decay - 0.25, atol=1e-9)
    np.testing.assert_allclose(powers["AdamS, λ"], by_decay, atol=1e-9)


@pytest.mark.parametrize(("by_decay", "stays"), [(0.0, "AdamW, λ"), (0.25, "AdamW, ηλ")])
def test_keeping_what_stays_costs_least(by_decay, stays):
    """Assert that keeping the number that moves least leads to the smallest error at the largest width."""
    maps = planted(by_decay)
    cost = {name: maps.kept(WAYS[name])[-1].mean() for name in ("AdamW, λ", "AdamW, ηλ")}
    assert cost.pop(stays) == pytest.approx(5.01, abs=1e-9)  # the smallest error there is, in the mean of the seeds
    assert min(cost.values()) > 6


@pytest.mark.parametrize(("by_decay", "times"), [(0.5, "10.0"), (0.0, "1.0")])
@pytest.mark.slow
def test_the_title_follows_the_result(by_decay, times):
    """Assert that the title has the factors of the best λ and of 1/√v̄, and what the verdicts say."""
    title = draw(planted(by_decay)).get_suptitle()
    assert f"λ of AdamW is {times} times as large, and 1/√v̄ 10.0 times" in title
    assert ("again: λ of AdamW refuted" in title) == (by_decay == 0.5)


@pytest.mark.slow
def test_the_title_says_that_nothing_is_decided():
    """Assert that where the seeds differ much, the title does not say which number can be kept."""
    maps = planted(0.25)
    noise = 5.0 * np.random.default_rng(0).normal(size=maps.error["AdamW"].shape)
    noise_s = 5.0 * np.random.default_rng(1).normal(size=maps.error["AdamS"].shape)
    error = {"AdamW": maps.error["AdamW"] + noise, "AdamS": maps.error["AdamS"] + noise_s}
    noisy = maps._replace(error=error)
    statuses = {verdict.status for verdict in judge_ways(noisy) if verdict.name.endswith(" kept")}
    assert ("is not decided" in draw(noisy).get_suptitle()) == (statuses == {"inconclusive"})


def test_a_number_that_moves_is_refuted():
    """Assert that a best λ that grows as the root of the width is not called constant."""
    status = {verdict.name: verdict.status for verdict in judge_ways(planted(0.5))}
    assert status["AdamW, λ stays"] == status["AdamS, λ stays"] == "refuted"
    assert status["AdamW: λ as 1/√v̄"] == "confirmed"
    assert status["AdamW, λ kept"] == status["AdamS, λ kept"] == "refuted"


@pytest.mark.parametrize(("scatter", "passes"), [(0.1, True), (5.0, False)])
def test_the_control_needs_few_points_of_scatter(scatter, passes):
    """Assert that a planted cost of two points is found where seeds differ by .1 points, and missed where by five."""
    maps = planted(0.25)
    noise = scatter * np.random.default_rng(0).normal(size=maps.error["AdamW"].shape)
    maps = maps._replace(error=maps.error | {"AdamW": maps.error["AdamW"] + noise})
    (control,) = [verdict for verdict in judge_ways(maps) if verdict.name.startswith("control: ")]
    assert control.passed == passes

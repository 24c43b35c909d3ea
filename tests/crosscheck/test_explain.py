"""Recorded runs held against the laws of norm and rotation."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from swd_dynamics.crosscheck import explain
from swd_dynamics.errors import InputError
from swd_dynamics.optim import SGDW
from swd_dynamics.plots import explained
from swd_dynamics.probe import record


def noisy_run(make, steps=1500, sizes=(40,), **arguments):
    """A run in pure noise: the gradients do not depend on the weights."""
    draws = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.zeros(n, dtype=torch.float64)) for n in sizes]

    def loss(k):
        return sum(w @ torch.randn(len(w), generator=draws, dtype=torch.float64) for w in weights)

    return record(make(weights), loss, steps, **arguments)


@pytest.mark.slow
def test_noise_alone_brings_a_weight_to_its_law():
    """Assert that law and run agree with √(nη/(λ(2 − ηλ))), the norm of n weights of plain SGD in unit noise."""
    lr, decay, n = 0.1, 0.2, 40
    found = explain(noisy_run(lambda w: SGDW(w, lr=lr, weight_decay=decay), sizes=(n,)))
    (course,) = found.courses
    expected = math.sqrt(n * lr / (decay * (2 - lr * decay)))
    assert course.norm_law[-1] == pytest.approx(expected, rel=0.1)  # Γ is measured as ‖g‖·‖θ‖, over 125 steps
    assert course.norm[-1] == pytest.approx(expected, rel=0.15)
    assert course.said == "at its equilibrium"
    # The law has ‖g‖ = Γ/‖θ‖, so that ‖θ‖⁴ is what relaxes, four times as fast as the weights.
    assert course.time[-1] == pytest.approx(1 / (4 * lr * decay), rel=0.02)


@pytest.mark.slow
def test_a_run_that_is_too_short_is_not_there_yet():
    """Assert that weights far from their norm are said to be under way, with the steps that the way takes."""
    found = explain(noisy_run(lambda w: SGDW(w, lr=0.1, weight_decay=0.001), steps=60))
    assert "too early" in found.courses[0].said
    assert any("the memory is 1e+04 steps" in note for note in found.notes)


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 5])
def test_each_recorded_step_stands_for_those_before_it(every):
    """Assert that (1 − R)ᵏ of the start is said to be left after k steps, however many of them were recorded."""
    sparse = {"trajectory": False, "every": every}
    run = noisy_run(lambda w: SGDW(w, lr=0.1, weight_decay=0.03), steps=300, **sparse)
    for cut, steps in ((run, 300), (run.isel(step=slice(-24, None)), 24 * every)):
        assert any(f"Π(1 − R) = {0.997**steps:.2g} is left" in note for note in explain(cut).notes)


@pytest.mark.slow
def test_groups_are_not_averaged():
    """Assert that beside a group without decay the other one loses as much of its start as alone."""

    def make(weights):
        return SGDW([{"params": [weights[0]], "weight_decay": 0.0}, {"params": [weights[1]]}], lr=0.1, weight_decay=0.1)

    found = explain(noisy_run(make, steps=100, sizes=(40, 20)))
    assert any(f"{0.99**100:.2g} is left in the group with the largest R" in note for note in found.notes)


@pytest.mark.slow
def test_a_smaller_lr_is_foreseen():
    """Assert that law and forecast are AdamW's closed form for n weights, exact in a = 1 − ηλ; Γ has no part in it."""

    def norm(lr, decay=0.5, beta=0.9, n=40):
        a, step = 1 - lr * decay, lr * math.sqrt(n * (1 - beta) / (1 + beta))
        return step * math.sqrt((1 + a * beta) / ((1 - a * a) * (1 - a * beta)))

    found = explain(noisy_run(lambda w: torch.optim.AdamW(w, lr=0.01, weight_decay=0.5), steps=300))
    assert found.courses[0].norm_law[-1] == pytest.approx(norm(0.01), rel=1e-6)  # ε = 1e-8
    assert f"‖θ‖ → {norm(0.001):.3g}" in found.notes[-1]


@pytest.mark.slow
def test_the_forecast_is_of_a_parameter_that_has_a_law():
    """Assert that where the first parameter does not decay the forecast is made for the second, with its own η."""

    def make(weights):
        first, second = weights
        return SGDW(
            [{"params": [first], "weight_decay": 0.0, "lr": 0.5}, {"params": [second]}], lr=0.1, weight_decay=0.2
        )

    found = explain(noisy_run(make, steps=300, sizes=(40, 20)))
    assert found.courses[0].unknown and not found.courses[1].unknown
    assert found.courses[1].parameter in found.notes[-1]
    norm = found.courses[1].norm_law[-1] / math.sqrt(math.sqrt(10))  # ‖θ‖⁴ ∝ η
    # The forecast takes Γ from the last 24 steps, one correlation time, in which the norm of 20 weights varies by .16.
    assert float(found.notes[-1].split("→ ")[1].split(",")[0]) == pytest.approx(norm, rel=0.2)


def test_what_has_no_law_says_why():
    """Assert that without decay there is no law, with the reason, and that the figure is still drawn."""
    found = explain(noisy_run(lambda w: torch.optim.SGD(w, lr=0.1), steps=30))
    assert "λ = 0 in this group: no equilibrium" in str(found) and np.isnan(found.courses[0].norm_law).all()
    assert len(explained(found).axes) == 2


@pytest.mark.slow
def test_bad_recordings():
    """Assert that a run without a rule, a short run, and a recording without norms are refused with what to do."""

    class Other(torch.optim.SGD):
        pass

    run = noisy_run(lambda w: Other(w, lr=0.1, weight_decay=0.1), steps=30)
    with pytest.raises(InputError, match=r"Other.*--as AdamW.*explain\(recording, \"AdamW\"\)"):
        explain(run)
    assert explain(run, "SGD").optimizer == "SGD"
    with pytest.raises(InputError, match="needs 24"):
        explain(run.isel(step=slice(5)))
    with pytest.raises(InputError, match="theta_norm_parameter"):
        explain(run.drop_vars("theta_norm_parameter"))


def scheduled_run(factors, steps=400, decay=0.1):
    """A run of SGDW in noise whose equilibrium takes 1/(4ηλ) = 25 steps at the largest η, if λ is 0.1."""

    def make(weights):
        return SGDW(weights, lr=0.1, weight_decay=decay)

    draws = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(40, dtype=torch.float64))
    optimizer = make([weight])
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: factors(k / steps))
    noise = lambda k: weight @ torch.randn(40, generator=draws, dtype=torch.float64)  # noqa: E731
    return record(optimizer, noise, steps, scheduler=scheduler, trajectory=False)


@pytest.mark.parametrize("factors", [lambda x: 1 - x, lambda x: 0.5 + 0.5 * math.cos(math.pi * x)])
@pytest.mark.slow
def test_a_schedule_that_falls_to_0_is_not_too_early(factors):
    """Assert that after a schedule to 0 the law of the last η is said once to say nothing, and is not drawn there.

    The row then has the numbers of the last window with a law and names its step, but noise is not called off its law.
    """
    found = explain(scheduled_run(factors))
    assert "too early" not in str(found) and str(found).count("says nothing") == 1
    (course,) = found.courses
    assert course.judged is None and "off" not in course.said
    _, law, seen, *_ = str(found).splitlines()[3].split()
    assert float(law) == pytest.approx(course.norm_law[course.shown], rel=0.005)
    assert float(seen) == pytest.approx(course.norm[course.shown], rel=0.005)
    table = " ".join(str(found).split()).partition("The law is that of noise")[0]
    assert course.shown == course.last_with_law - 1 and f"step {course.steps[course.shown]:.0f}" in table
    law, seen = explained(found).axes[0].lines
    assert len(law.get_xdata()) == course.last_with_law < len(seen.get_xdata()) == len(course.steps)
    small = np.array([factors(k / 400) for k in course.steps]) <= 0.01  # of the largest η, which is the first
    assert not small[: course.last_with_law].any()


@pytest.mark.parametrize("factors", [lambda x: 1 - x, lambda x: 0.5 + 0.5 * math.cos(math.pi * x)])
@pytest.mark.slow
def test_a_short_run_on_a_schedule_to_0_is_too_early(factors):
    """Assert that 300 steps are too few for an equilibrium of 2500 steps at the largest η, and the row has numbers."""
    found = explain(scheduled_run(factors, steps=300, decay=0.001))
    (course,) = found.courses
    assert course.said.startswith("too early") and course.shown >= course.last_with_law - 1
    is_last = course.shown == len(course.steps) - 1
    assert is_last or f"step {course.steps[course.shown]:.0f}" in " ".join(str(found).split())
    largest = next(int(word) for word in course.said.split() if word.isdigit())
    assert largest == pytest.approx(2500, rel=0.01)
    assert "–" not in " ".join(str(found).splitlines()[3:5])


@pytest.mark.slow
def test_a_last_window_without_a_law_leaves_the_verdict_to_an_earlier_one():
    """Assert that where η is 0 at the end the last steady window is judged, and table and remark say which it is."""
    found = explain(scheduled_run(lambda x: float(x < 0.8)))
    (course,) = found.courses
    assert course.unknown and course.judged is not None and course.steps[course.judged] < 320
    assert course.said.startswith(f"at step {course.steps[course.judged]:.0f}: at its equilibrium")
    row = next(line for line in str(found).splitlines() if line.startswith(course.parameter)).split()
    assert float(row[1]) == pytest.approx(course.norm_law[course.judged], rel=0.005)
    assert float(row[2]) == pytest.approx(course.norm[course.judged], rel=0.005)


def diverged(run, row):
    """A run whose weights are not finite from a row on."""
    names = ("theta_norm_parameter", "gradient_norm_parameter", "rotation_parameter")
    return run.assign({name: run[name].where(run["step"] <= row) for name in names})


@pytest.mark.slow
def test_a_run_that_diverges_is_judged_by_the_steps_before():
    """Assert that the finite steps alone make laws and notes, that the first other step is said, and 24 are needed."""
    run = scheduled_run(lambda x: 1.0)
    found, before = explain(diverged(run, 350)), explain(run.isel(step=slice(350)))
    assert found.courses[0].said == before.courses[0].said == "at its equilibrium"
    assert np.array_equal(found.courses[0].norm_law, before.courses[0].norm_law)
    assert sum("from step 351 on" in note for note in found.notes) == 1 and "step 351" not in str(before)
    with pytest.raises(InputError, match="not finite from step 24 on, after 23 recorded steps: explain needs 24"):
        explain(diverged(run, 23))


@pytest.mark.slow
def test_a_decay_rate_above_1_leaves_no_memory():
    """Assert that with R above 1 neither a rest of the start nor a memory is given, and that R is."""
    notes = explain(noisy_run(lambda w: SGDW(w, lr=0.1, weight_decay=15.0), steps=30)).notes
    assert any("R is up to 1.5" in note for note in notes) and not any("memory" in note for note in notes)


@pytest.mark.slow
def test_what_is_printed_fits_a_terminal():
    """Assert that no line has more than 100 columns, and that a long remark goes on under its own column."""
    found = explain(noisy_run(lambda w: SGDW(w, lr=0.1, weight_decay=0.1), steps=200))
    far = found.courses[0]._replace(norm=9 * found.courses[0].norm)
    lines = str(replace(found, courses=(far,))).splitlines()
    assert max(map(len, lines)) <= 100
    at = lines[3].index("norm off")
    assert lines[4][:at].isspace() and lines[4][at] != " "


@pytest.mark.slow
def test_a_schedule_that_falls_a_little_keeps_its_law():
    """Assert that half the η, whose equilibrium takes 50 of 400 steps, is judged by its law."""
    assert "fallen" not in explain(scheduled_run(lambda x: 1 - 0.5 * (x > 0.5))).courses[0].said


@pytest.mark.slow
def test_what_is_omitted_is_counted():
    """Assert that table and figure say how many of eight parameters they do not show, and figure remarks are inside."""
    found = explain(noisy_run(lambda w: SGDW(w, lr=0.1, weight_decay=0.1), steps=30, sizes=(2,) * 8))
    assert "2 smaller parameters are not shown" in str(found)
    figure = explained(found)
    assert "4 largest of 8" in figure.get_suptitle()
    figure.draw_without_rendering()
    for axes in figure.axes[::2]:
        inside = axes.get_window_extent()
        (remark,) = axes.texts
        assert inside.contains(*remark.get_window_extent().min) and inside.contains(*remark.get_window_extent().max)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda w: torch.optim.AdamW(w, lr=1e-3, weight_decay=0.1), "the decay is lost; keep weights in float32"),
        (lambda w: torch.optim.AdamW(w, lr=1e-3, weight_decay=0.1, fused=True), "kept where steps survive rounding"),
        (lambda w: torch.optim.SGD(w, lr=1e-3, weight_decay=0.1), "λθ joins the gradient"),
    ],
)
@pytest.mark.slow
def test_what_rounding_takes_depends_on_the_kernel(make, said):
    """Assert that R = 1e-4 in bfloat16 is lost apart from the step, not with a fused kernel, and not in L2."""
    run = noisy_run(make, steps=30).assign_attrs(dtype="bfloat16")
    assert any(said in note for note in explain(run).notes)


def far_from_noise(steps, decay):
    """A run whose weight descends to a minimum far from 0, so that its norm is not that of noise."""
    weight = torch.nn.Parameter(torch.zeros(40, dtype=torch.float64))
    return record(SGDW([weight], lr=0.1, weight_decay=decay), lambda k: (weight - 3).square().sum() / 2, steps)


@pytest.mark.parametrize(("steps", "decay", "why"), [(200, 0.5, "equilibrium"), (30, 0.001, "short")])
@pytest.mark.slow
def test_nothing_is_foreseen_of_a_run_that_is_off_its_law(steps, decay, why):
    """Assert that no norm is foreseen if no parameter follows the law, or if the run is too short for it."""
    found = explain(far_from_noise(steps, decay))
    (course,) = found.courses
    assert not course.follows and course.is_too_early == (why == "short")
    assert "→" not in found.notes[-1] and why in found.notes[-1]


@pytest.mark.slow
def test_another_optimizers_run_is_said_to_be_so():
    """Assert that the notes name the recorded optimizer where the rule has another name, and only there."""
    run = far_from_noise(30, 0.1)
    assert [note for note in explain(run, "SGDS").notes if "SGDW" in note and "SGDS" in note]
    assert not [note for note in (*explain(run, "SGDW").notes, *explain(run).notes) if "SGDW" in note]

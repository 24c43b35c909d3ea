"""The summary of a recording as text."""

import numpy as np
import pytest
import xarray

from swd_dynamics.probe.quantities import QUANTITIES
from swd_dynamics.recording.summary import BLOCKS, SECTIONS, UNKNOWN, course_of_loss, sparkline, summary


@pytest.mark.parametrize("count", [1, 5, 32, 33, 1000])
def test_a_sparkline_is_no_longer_than_its_width(count):
    """Assert that a course has at most as many letters as its width, from lowest to highest."""
    drawn = sparkline(np.arange(count))
    assert len(drawn) == min(count, 32)
    assert list(drawn) == sorted(drawn, key=BLOCKS.index)
    assert drawn[0] == BLOCKS[0] and (count == 1 or drawn[-1] == BLOCKS[-1])


@pytest.mark.parametrize("strange", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_a_dot(strange):
    """Assert that steps without a finite value are dots, and do not change the other letters."""
    assert sparkline(np.array([0.0, strange, 1.0])) == BLOCKS[0] + UNKNOWN + BLOCKS[-1]
    assert sparkline(np.array([strange])) == UNKNOWN


def test_round_off_is_no_course():
    """Assert that a quantity that changes by round-off only is drawn as constant."""
    assert sparkline(np.array([0.1, 0.1 * (1 + 1e-15), 0.1])) == 3 * BLOCKS[0]


def test_each_group_has_its_line():
    """Assert that a quantity of two groups has a line for each, and one of single weights none."""
    variables = {"lr": (("step", "group"), [[1.0, 2.0], [3.0, 4.0]]), "theta": (("iterate", "weight"), np.ones((3, 5)))}
    lines = summary(xarray.Dataset(variables, {"step": [10, 20]}, {"parameter_names": '["a", "b"]'})).splitlines()
    assert lines[0] == "an unknown optimizer, steps 10 to 20 (2 rows)"
    assert lines[1] == "parameter names: a, b"
    rows = [line.split()[:3] for line in lines if line.startswith("lr[")]
    assert rows == [["lr[0]", "1", "3"], ["lr[1]", "2", "4"]]


def test_a_recording_without_steps():
    """Assert that the summary of a run without steps says that there are none."""
    assert "no steps yet" in summary(xarray.Dataset({"loss": ("step", np.empty(0))}, {"step": np.empty(0, int)}))


def rows_of(**courses):
    """The row of each quantity in the summary of a run, by its name."""
    steps = np.arange(1, 1 + len(next(iter(courses.values()))))
    variables = {name: ("step", np.asarray(values, float)) for name, values in courses.items()}
    lines = summary(xarray.Dataset(variables, {"step": steps})).splitlines()
    return {line.split()[0]: line for line in lines if line}


def test_a_loss_that_was_forgotten_is_not_observed():
    """Assert that a loss without any value is said not to be observed, and how to observe it."""
    row = rows_of(loss=[np.nan] * 3, lr=[1.0, 2.0, 3.0])["loss"]
    assert "not observed" in row and "observe(loss=" in row and "nan" not in row


def test_quantities_without_a_value_are_listed_and_not_drawn():
    """Assert that quantities that are unknown in every step have no row of NaN, and are named in a list."""
    rows = rows_of(loss=[1.0, 2.0], v_mean=[np.nan] * 2, v_bar=[np.nan] * 2)
    assert rows["without"].endswith(": v_mean, v_bar") and not {"v_mean", "v_bar"} & set(rows)


def test_every_quantity_has_a_section():
    """Assert that every quantity of a probe that has one number a step or group is in exactly one section."""
    shown = [quantity.name for quantity in QUANTITIES.values() if {"step", "group"} & set(quantity.levels)]
    listed = [name for names in SECTIONS.values() for name in names]
    assert len(listed) == len(set(listed)) and set(shown) <= set(listed)
    assert set(listed) - set(shown) == {"changed_outside"}


def test_each_meaning_is_said_once_in_the_order_of_the_rows():
    """Assert that rows are sorted by section, that their meanings follow in the same order, and that lines fit."""
    steps = np.array([1, 2])
    names = ["mine", "sharpness", "decay_rate", "theta_norm", "loss"]
    variables = {name: ("step", [1.0, 2.0], {"long_name": f"meaning of {name} " * 9}) for name in names}
    variables["decay_rate_group"] = ("step", "group"), np.ones((2, 2)), variables["decay_rate"][2]
    lines = summary(xarray.Dataset(variables, {"step": steps, "group": [0, 1]})).splitlines()
    where = lines.index("what the quantities mean")
    rows = [line.split()[0] for line in lines[:where] if line.split("[")[0].split(" ")[0] in variables and "  " in line]
    assert rows == [
        "loss",
        "theta_norm",
        "decay_rate",
        "decay_rate_group[0]",
        "decay_rate_group[1]",
        "sharpness",
        "mine",
    ]
    told = [line.split()[0] for line in lines[where + 1 :] if line[0] != " "]
    assert told == ["loss", "theta_norm", "decay_rate", "sharpness", "mine"]
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("norms", "step"), [([1.0, 9.0, np.inf, np.nan], 30), ([1.0, np.nan, 2.0], None), ([1.0], None)]
)
def test_weights_that_are_not_finite_are_told(norms, step):
    """Assert that the first step is given from which the weights are never finite again, if there is one."""
    steps = 10 * np.arange(1, 1 + len(norms))
    lines = summary(xarray.Dataset({"theta_norm": ("step", norms)}, {"step": steps})).splitlines()
    said = [line for line in lines if line.startswith("‖θ‖ is not finite")]
    assert bool(said) == (step is not None) and all(f"step {step} on" in line for line in said)


def test_decades_are_drawn_on_a_logarithmic_scale():
    """Assert that equal ratios are equal heights where values span decades, and equal differences where not."""
    rows = rows_of(fast=10.0 ** -np.arange(8), slow=np.arange(8.0, 0, -1), signed=[-1e3, *range(7)])
    drawn = {name: row.split(maxsplit=5)[5] for name, row in rows.items() if name in ("fast", "slow", "signed")}
    assert drawn["fast"] == BLOCKS[::-1] + " (log)"
    assert drawn["slow"] == BLOCKS[::-1]
    assert drawn["signed"] == BLOCKS[0] + BLOCKS[-1] * 7


def test_a_constant_course_is_a_word():
    """Assert that a quantity whose shown digits do not change is called constant."""
    rows = rows_of(lr=[0.1, 0.1, 0.1 + 1e-9], loss=[0.1, 0.1, 0.2])
    assert rows["lr"].endswith("constant") and not rows["loss"].endswith("constant")


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([2.0, 60.0, 40.0], ["grew", "2 to 40", "60 at step 20"]),
        ([2.0, 3.0], ["grew", "2 to 3"]),
        ([2.0, 60.0, 1.0], ["fell", "2 to 1", "60 at step 20"]),
        ([2.0, 2.5, 1.0], ["fell", "2 to 1"]),
        ([2.0, np.nan, 1.0], ["fell", "2 to 1"]),
        ([2.0, 1.0, np.nan, np.inf], ["fell", "2 to 1", "no finite value from step 30 on"]),
        ([2.0], []),
        ([np.nan, np.nan], []),
    ],
)
def test_the_course_of_a_loss_in_words(losses, words):
    """Assert that growth, fall and a peak of more than twice the start are said, with the peak's step."""
    said = course_of_loss(10 * np.arange(1, 1 + len(losses)), np.array(losses))
    assert [word for word in words if word not in said] == [] and bool(said) == bool(words)
    assert ("largest" in said) == any("at step" in word for word in words)
    assert ("finite" in said) == any("finite" in word for word in words)

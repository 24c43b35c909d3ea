"""Nullclines of components whose zeros are known in closed form."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swd_dynamics.planes import phase_plane
from swd_dynamics.planes.nullclines import nullcline

# A vertex is bracketed to 6 eps of a coordinate of at most 4, and the component is computed to a few eps.
VERTEX = 64 * np.finfo(float).eps

# Near a zero without a change of sign a component is quadratic: its smallest value is right to eps, its place to √eps.
TOUCHED = 4 * np.sqrt(np.finfo(float).eps)

MU = 1.5
LOW, HIGH = -2.0, 2.0


def lines_of(component, nodes=41):
    """The first component's nullcline and the width of a cell."""
    plane = phase_plane(lambda x, y: (component(x, y), 1.0), x=(LOW, HIGH), y=(LOW, HIGH), nodes=nodes)
    return plane.nullclines[0], plane.x[2] - plane.x[1]


def pieces(*curves):
    """The points of known curves that lie in the window."""
    points = np.concatenate([np.column_stack(np.broadcast_arrays(*curve)) for curve in curves])
    return points[(np.abs(points) <= HIGH).all(axis=1)]


S = np.linspace(LOW, HIGH, 1001)
TURN = np.linspace(0, 2 * np.pi, 1001)
KNOWN = {  # component, length of its gradient at a point, the curves, how many
    "line": (lambda x, y: x - 0.3 * y + 0.1, lambda x, y: 1.0, pieces((0.3 * S - 0.1, S)), 1),
    "an axis": (lambda x, y: y, lambda x, y: 1.0, pieces((S, 0.0)), 1),
    "circle": (lambda x, y: x * x + y * y - 1, np.hypot, pieces((np.cos(TURN), np.sin(TURN))), 1),
    "van der Pol": (
        lambda x, y: MU * (1 - x * x) * y - x,
        lambda x, y: np.hypot(2 * MU * x * y + 1, MU * (1 - x * x)),
        pieces((S, S / (MU * (1 - S * S) + 1e-300))),
        3,
    ),
    "two axes": (lambda x, y: x * y, lambda x, y: np.hypot(x, y) + 1e-300, pieces((S, 0.0), (0.0, S)), 2),
    "kink": (
        lambda x, y: abs(x) - 0.3 * y,
        lambda x, y: 1.0,
        pieces((0.15 * S + 0.3, S / 2 + 1), (-0.15 * S - 0.3, S / 2 + 1)),
        1,
    ),
    "steep": (lambda x, y: (x - 0.1) / (abs(x - 0.1) + 1e-8), lambda x, y: 1.0, pieces((0.1, S)), 1),
    "closer than a cell": (lambda x, y: x * x - 1e-4, lambda x, y: 0.02, pieces((0.01, S), (-0.01, S)), 2),
    "a thin strip aslant": (
        lambda x, y: (x + 0.3 * y) ** 2 - 1e-4,
        lambda x, y: 0.02,
        pieces((0.01 - 0.3 * S, S), (-0.01 - 0.3 * S, S)),
        2,
    ),
    "undefined on one side": (lambda x, y: np.sqrt(x) - 0.5, lambda x, y: 1.0, pieces((0.25, S)), 1),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_nullclines(name):
    """Assert that every vertex lies on the known curve, and that no part of the curve is missing or in pieces."""
    component, slope, curve, count = KNOWN[name]
    found, cell = lines_of(component)
    points = np.concatenate(found.lines)
    if name != "steep":  # at a distance of 1e-16 from its zero, its value is 1e-8; the distance is asserted below
        assert max(abs(component(x, y)) / slope(x, y) for x, y in points) <= VERTEX
    apart = np.linalg.norm(points[:, None] - curve, axis=2)
    assert apart.min(axis=1).max() <= cell  # where the known curve is steep, its points are sparse
    assert apart.min(axis=0).max() <= np.sqrt(2) * cell
    assert len(found.lines) == count
    assert not found.breaks
    assert not found.flat.any()


def test_a_closed_curve_closes():
    """Assert that a closed nullcline ends where it began."""
    (circle,) = lines_of(KNOWN["circle"][0])[0].lines
    assert (circle[0] == circle[-1]).all()


@settings(max_examples=40, deadline=None)
@given(st.floats(0, np.pi), st.floats(-1.5, 1.5))
@pytest.mark.slow
def test_any_line_is_found_whole(angle, offset):
    """Assert that any straight line through the middle of the window is found as one curve from border to border."""
    normal = np.array([np.cos(angle), np.sin(angle)])
    found, _ = lines_of(lambda x, y: normal[0] * x + normal[1] * y - offset, nodes=12)
    (line,) = found.lines
    assert np.abs(line @ normal - offset).max() <= VERTEX
    assert np.abs(np.abs(line[[0, -1]]).max(axis=1) - HIGH).max() <= VERTEX


@pytest.mark.parametrize(
    ("component", "off"),
    [
        (lambda x, y: x * x, lambda points: points[:, 0]),
        (lambda x, y: -((x - y) ** 2), lambda points: points[:, 0] - points[:, 1]),
        (lambda x, y: abs(x - 0.1), lambda points: points[:, 0] - 0.1),
        (lambda x, y: (x * x + y * y - 1) ** 2, lambda points: np.hypot(*points.T) - 1),
    ],
    ids=["x²", "aslant", "|x|", "circle"],
)
def test_a_nullcline_that_only_touches(component, off):
    """Assert that zeros without a change of sign are found, all along."""
    found, cell = lines_of(component)
    (line,) = found.lines
    assert np.abs(off(line)).max() <= TOUCHED
    assert np.linalg.norm(np.diff(line, axis=0), axis=1).max() <= np.sqrt(2) * cell
    ends = line[[0, -1]]
    at_border = np.abs(ends).max(axis=1) >= HIGH - cell
    assert at_border.all() or np.linalg.norm(ends[0] - ends[1]) <= 2 * cell


def test_a_near_miss_is_no_zero():
    """Assert that a component that comes as near to zero as a ten-thousandth of its values nearby has no nullcline."""
    assert lines_of(lambda x, y: x * x + 1e-6)[0].lines == ()


@pytest.mark.parametrize("component", [lambda x, y: np.sign(x), lambda x, y: 1 / x], ids=["jump", "pole"])
def test_a_change_of_sign_without_a_zero(component):
    """Assert that a jump and a pole are breaks at their place, and not nullclines."""
    found, _ = lines_of(component)
    assert found.lines == ()
    (broken,) = found.breaks
    assert np.abs(broken[:, 0]).max() <= VERTEX
    assert np.ptp(broken[:, 1]) == HIGH - LOW


def test_zero_everywhere_and_in_a_region():
    """Assert that a component that is zero on a region has that region, and no line in it."""
    everywhere, _ = lines_of(lambda x, y: 0.0)
    assert everywhere.everywhere
    region, cell = lines_of(lambda x, y: max(x, 0.0))
    assert not region.everywhere
    assert abs(region.flat.mean() - 0.5) <= cell / (HIGH - LOW)
    assert everywhere.lines == region.lines == ()


def test_round_off_is_zero():
    """Assert that a component that consists of round-off counts as zero, and gives no tangle of nullclines."""
    found, _ = lines_of(lambda x, y: (x + y) - y - x)
    assert found.everywhere


def test_a_saddle_of_the_component_is_joined_by_its_values():
    """Assert that two branches of a hyperbola in one cell are not joined to each other."""
    at = np.array([-1.0, 1.0])
    values = at * at[:, None]
    found = nullcline(lambda x, y: x * y - 0.01, at, at, values - 0.01, 0.0)
    assert sorted(float(np.sign(line.sum())) for line in found.lines) == [-1.0, 1.0]

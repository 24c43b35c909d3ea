"""The critical step, compared with losses whose first rise is known in closed form."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swd_dynamics.probe.critical import FACTOR, PASSES, TOLERANCE, critical_step

FEW = 5  # values of the loss, with a guess within a tenth


def counted(loss, start=1.0):
    """The critical step, and the number of values that were taken."""
    seen = []

    def called(s):
        seen.append(s)
        return loss(s)

    return critical_step(called, start), len(seen)


@given(root=st.floats(0.02, 1e4), scale=st.floats(1e-3, 1e3), level=st.floats(-3, 3))
@pytest.mark.slow
def test_quadratics(root, scale, level):
    """Assert that on a quadratic c + a·s(s − s_c) the critical step is s_c, from a start of 1."""
    found = critical_step(lambda s: level + scale * s * (s - root) / root)
    # The differences of the loss lose the digits that the level takes, at steps down to 1/FACTOR².
    assert found == pytest.approx(root, rel=1e-9 * (1 + abs(level) / scale) * FACTOR**2)


@pytest.mark.parametrize("start", [0.91, 1.0, 1.09])
def test_few_values(start):
    """Assert that from a guess within a tenth a loss with a third and fourth power takes five values."""
    # L(s) = L(0) at s = 1, because 1 + 0.2 = 0.8 + 0.4.
    found, count = counted(lambda s: 2 - s - 0.2 * s**2 + 0.8 * s**3 + 0.4 * s**4, start)
    assert (found, count <= FEW) == (pytest.approx(1, rel=TOLERANCE), True)


@pytest.mark.parametrize("beyond", [math.nan, math.inf, 7.0])
def test_jump(beyond):
    """Assert that a loss that jumps, also to NaN or ∞, is critical at the jump."""
    found, count = counted(lambda s: 1 - s if s < 3.3 else beyond)
    assert found == pytest.approx(3.3, rel=TOLERANCE)
    assert count < PASSES


@pytest.mark.parametrize(
    "loss, value",
    [
        (lambda s: s + s * s, 0.0),
        (lambda s: 5.0, 0.0),
        (lambda s: -s, math.inf),
        (lambda s: math.exp(-s), math.inf),
        (lambda s: math.nan, math.nan),
    ],
)
def test_limits(loss, value):
    """Assert that a rising or constant loss has 0, a falling one ∞, and an unknown one NaN."""
    assert critical_step(loss) == pytest.approx(value, nan_ok=True)


GRID = 2.0**-20  # a loss of 1 is rounded to multiples of this


def rounded(change):
    return lambda s: 1 + round(change(s) / GRID) * GRID


@given(root=st.floats(0.02, 1e4), start=st.floats(1e-3, 1e4))
@pytest.mark.slow
def test_rounded_quadratics(root, start):
    """Assert that a rounded loss that falls by 1000 roundings has its critical step, from any start."""
    found = critical_step(rounded(lambda s: 4000 * GRID * s * (s - root) / root**2), start, rounding=GRID)
    # Half a rounding moves the zero by 1/8000, and the secant's two points are TOLERANCE near to each other or more.
    assert found == pytest.approx(root, rel=2 * TOLERANCE)


@pytest.mark.parametrize(
    "change, value",
    [
        (lambda s: 0.0, math.nan),
        (lambda s: GRID * s * (s - 1) / 3, math.nan),
        (lambda s: 1e-3 * GRID * s, 0.0),
        (lambda s: GRID * s * (s + 1e5) / 1e6, 0.0),
        (lambda s: -1e-3 * GRID * s, math.inf),
    ],
    ids=["constant", "hidden fall", "line", "rise", "fall"],
)
def test_rounded_limits(change, value):
    """Assert that a fall that rounding hides gives NaN, and that slow rises and falls give 0 and ∞ all the same."""
    assert critical_step(rounded(change), rounding=2 * GRID) == pytest.approx(value, nan_ok=True)

"""The gates for numbers: what passes a gate, and what a refusal says."""

import numpy as np
import pytest
import sympy
import torch

from swd_dynamics.checks import check, whole_number
from swd_dynamics.errors import InputError
from swd_dynamics.rules import UpdateRule
from swd_dynamics.rules.directions import sgd_family


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3)], ids=repr)
def test_whole_numbers_pass(value):
    """Assert that a whole number of any integer type passes, at both ends of its range, and becomes a Python int."""
    for least, most in ((0, None), (3, None), (0, 3)):
        number = whole_number("steps", value, least, most)
        assert number == 3 and type(number) is int


@pytest.mark.parametrize("value", [True, np.True_, 3.0, np.float64(3), "3", None, [3], 3.5, float("nan")], ids=repr)
def test_what_is_not_a_whole_number_is_refused(value):
    """Assert that a bool, a text and a float are refused with the value seen, even a float equal to a whole number."""
    with pytest.raises(InputError) as caught:
        whole_number("steps", value)
    assert str(caught.value) == f"steps = {value!r} is not allowed: it must be a whole number ≥ 0"


@pytest.mark.parametrize(
    ("value", "allowed", "said"),
    [
        (0, {"least": 1}, "n = 0 is not allowed: it must be a whole number ≥ 1"),
        (np.int64(-1), {}, "n = -1 is not allowed: it must be a whole number ≥ 0"),
        (9, {"least": 2, "most": 8}, "n = 9 is not allowed: it must be a whole number from 2 to 8"),
    ],
)
def test_a_whole_number_out_of_range(value, allowed, said):
    """Assert that a whole number outside its range is refused with the range."""
    with pytest.raises(InputError) as caught:
        whole_number("n", value, **allowed)
    assert str(caught.value) == said


SYMBOL = sympy.Symbol("a", positive=True)
OUTSIDE = [
    sympy.Rational(3, 2),
    sympy.Integer(-1),
    sympy.sqrt(2),
    sympy.oo,
    sympy.nan,
    sympy.I,
    sympy.zoo,
    -SYMBOL,
    1 + SYMBOL,
    sympy.Symbol("b", negative=True),
    sympy.Symbol("i", imaginary=True),
]


@pytest.mark.parametrize("value", OUTSIDE, ids=str)
def test_sympys_numbers_are_numbers(value):
    """Assert that a sympy number outside of [0, 1) is refused, and an expression that sympy knows to lie outside."""
    with pytest.raises(InputError) as caught:
        check("momentum", value, "[0, 1)")
    assert f"momentum = {value}" in str(caught.value).replace("Rational(3, 2)", "3/2")


@pytest.mark.parametrize(
    "value", [sympy.Rational(1, 2), sympy.Integer(0), sympy.sqrt(2) / 2, SYMBOL, 1 - SYMBOL], ids=str
)
def test_sympys_numbers_inside_pass(value):
    """Assert that a sympy number inside of [0, 1) passes, and an expression that may lie there."""
    check("momentum", value, "[0, 1)")


def test_a_momentum_of_sympys_zero_is_no_momentum():
    """Assert that sympy's 0 is torch's momentum=0: gradient descent."""
    assert sgd_family(momentum=sympy.Integer(0)) == sgd_family()
    with pytest.raises(InputError):
        UpdateRule(sympy.Integer(-1), sgd_family())

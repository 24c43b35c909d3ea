"""The gates for numbers: what passes a gate, and what a refusal says."""

import numpy as np
import pytest
import torch

from swd_dynamics.checks import whole_number
from swd_dynamics.errors import InputError


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

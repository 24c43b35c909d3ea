"""The rounding by which the study of lost decay predicts, against torch's own types."""

import numpy as np
import pytest
import torch

from swd_dynamics.studies import lost_decay


@pytest.mark.parametrize(("name", "dtype"), lost_decay.TYPES.items())
def test_rounding_is_torchs(name, dtype):
    """Assert that numbers are rounded as torch rounds them, ties included."""
    values = np.float32(np.linspace(0.3, 3.0, 5001))
    ties = (lost_decay.mantissas(name)[:-1] + lost_decay.mantissas(name)[1:]) / 2
    both = np.concatenate([values, np.float32(ties)]).astype(float)
    np.testing.assert_array_equal(lost_decay.to_digits(both, name), torch.tensor(both).to(dtype).double().numpy())


def test_another_prediction_is_refuted():
    """Assert that the R of the foreach kernel is not that of a single rounding: the study can tell them apart."""
    single, foreach = (lost_decay.one_step("bfloat16", kernel, "cpu") for kernel in ("single-tensor", "foreach"))
    assert np.abs(single.measured - foreach.predicted).max() > 1e-3

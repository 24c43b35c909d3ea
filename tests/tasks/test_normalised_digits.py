"""The network on digits whose first layer is normalised."""

import pytest
import torch

from swd_dynamics.errors import InputError
from swd_dynamics.tasks.normalised_digits import NORMALISED, normalised_digits


@pytest.mark.parametrize("normalised", NORMALISED)
def test_longer_weights_have_the_same_loss(normalised):
    """Assert that the loss does not depend on the length of the weights, or of each row where rows are normalised."""
    theta, loss = normalised_digits(normalised)
    factors = torch.linspace(1, 3, len(theta))[:, None] if normalised == "rows" else torch.tensor(3.0)
    with torch.no_grad():
        first = loss(0)
    longer, again = normalised_digits(normalised)  # the same minibatches
    with torch.no_grad():
        longer.mul_(factors)
        assert again(0).item() == pytest.approx(first.item(), rel=1e-6)
    assert not torch.equal(theta, longer)


def test_an_unknown_normalisation_is_refused():
    """Assert that another name is refused."""
    with pytest.raises(InputError, match="batches"):
        normalised_digits("batches")

"""The study of exchanging AdamW and AdamS: its witnesses agree, and its tests can fail."""

import numpy as np

from swd_dynamics.studies import drop_in
from swd_dynamics.tasks.digits import digits, held_out

# Relative to the largest pixel: means and deviations of a thousand numbers, subtracted and divided by.
ROUND_OFF = 1e-12


def test_the_test_is_held_out():
    """Assert that the test has the images that training has not, measured by training's means and deviations."""
    (first, labels), (rest, others) = digits(drop_in.TRAINED_ON), held_out(drop_in.TRAINED_ON)
    everything, all_labels = digits(1797)
    assert np.array_equal(np.concatenate([labels, others]), all_labels)
    varies = first.std(axis=0) > 0
    again = (everything - everything[:1000].mean(axis=0))[:, varies] / everything[:1000].std(axis=0)[varies]
    np.testing.assert_allclose(np.concatenate([first, rest])[:, varies], again, atol=ROUND_OFF * np.abs(again).max())
    assert not rest[:, ~varies].any()


def test_weights_of_blank_pixels_are_there():
    """Assert that the witness from outside has weights: pixels that are blank in every image trained on."""
    blank = drop_in.blank_pixels()
    assert len(blank) >= 1
    assert not digits(drop_in.TRAINED_ON)[0][:, blank].any()

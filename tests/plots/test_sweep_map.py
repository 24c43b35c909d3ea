"""The map of a sweep."""

import numpy as np
import pytest

import swd_dynamics as sd
from swd_dynamics.errors import InputError
from swd_dynamics.plots import sweep_map


@pytest.fixture(scope="module")
def found():
    """Gradient descent that diverges at the largest learning rate."""
    return sd.sweep(
        "quadratic", ["SGD", "SGDW"], {"lr": [0.1, 0.3, 2.0], "weight_decay": [0.0, 0.1]}, steps=30, seeds=2
    )


def marked(axes, marker):
    return {
        tuple(map(float, point)) for line in axes.lines if line.get_marker() == marker for point in line.get_xydata()
    }


@pytest.mark.slow
def test_the_star_is_the_best_point(found):
    """Assert that the star of a panel stands where numpy finds the smallest mean over the seeds."""
    for axes, name in zip(sweep_map(found, "train_loss").axes, found.optimizer.values, strict=False):
        values = found.train_loss.sel(optimizer=name).mean("seed").transpose("lr", "weight_decay").values
        row, column = np.unravel_index(np.nanargmin(values), values.shape)
        assert marked(axes, "*") == {(column, row)}


@pytest.mark.slow
def test_diverged_cells_are_crossed(found):
    """Assert that crosses stand where runs diverged, and nowhere else."""
    figure = sweep_map(found, "train_loss")
    rows, columns = np.nonzero(found.diverged_at.sel(optimizer="SGD", seed=0).notnull().values)
    assert len(rows) and marked(figure.axes[0], "x") == set(zip(columns, rows, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantity": "test_eror"}, "test_error"),
        ({"quantity": "train_loss_curve"}, "train_loss"),
        ({"x": "momentum"}, "'momentum' is not an argument"),
        ({"x": "lr"}, "'lr' is not an argument"),
    ],
)
def test_what_cannot_be_drawn_is_refused(found, arguments, message):
    """Assert that an unknown quantity or axis is refused, and that the message lists the known ones."""
    with pytest.raises(InputError, match=message):
        sweep_map(found, **arguments)


def test_a_third_argument_must_be_chosen():
    """Assert that a sweep over a third argument is refused until one of its values is chosen."""
    found = sd.sweep("quadratic", ["SGD"], {"lr": [0.1], "weight_decay": [0.1], "momentum": [0.0, 0.5]}, steps=2)
    with pytest.raises(InputError, match="choose one value of momentum"):
        sweep_map(found, "train_loss")
    assert sweep_map(found.sel(momentum=0.5), "train_loss").axes[0].get_title("left").startswith("SGD: best")

"""Tasks from any network and any labelled data."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from swd_dynamics.errors import InputError
from swd_dynamics.tasks import DrawnLoss, character_transformer, classification, convolutional_network, tanh_network
from swd_dynamics.tasks.classification import SAMPLES_AT_ONCE
from swd_dynamics.tasks.digits import digits, held_out


def line(inputs=2, classes=3):
    return torch.nn.Linear(inputs, classes, dtype=torch.float64)


def data(samples, seed=0):
    random = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, 2, generator=random, dtype=torch.float64)
    return inputs, torch.randint(3, (samples,), generator=random)


def test_the_loss_and_the_error_are_those_of_numpy():
    """Assert that the full loss and the test error are those that numpy computes, also in several pieces."""
    training, test = data(2 * SAMPLES_AT_ONCE + 1), data(SAMPLES_AT_ONCE + 1, seed=1)
    task = classification(line(), training, test)
    weight, bias = (parameter.detach().numpy() for parameter in task.model.parameters())
    scores = training[0].numpy() @ weight.T + bias
    right = scores[np.arange(len(scores)), training[1].numpy()]
    np.testing.assert_allclose(task.loss(0).item(), np.mean(np.log(np.exp(scores).sum(axis=1)) - right), rtol=1e-12)
    named = (test[0].numpy() @ weight.T + bias).argmax(axis=1)
    assert task.test_error(task.model).item() == pytest.approx(np.mean(named != test[1].numpy()))


def test_batches_are_a_function_of_seed_and_step():
    """Assert that two tasks with a seed have the same batches, and that seeds and steps have their own."""
    first, again, other = (classification(line(), data(40), batch_size=8, seed=seed).batch_loss for seed in (0, 0, 1))
    assert torch.equal(first.draw(3)[0], again.draw(3)[0])
    assert not torch.equal(first.draw(3)[0], first.draw(4)[0])
    assert not torch.equal(first.draw(3)[0], other.draw(3)[0])


@pytest.mark.parametrize(
    "make",
    [
        tanh_network,
        lambda: convolutional_network(channels=(2, 2), hidden=4, samples=40, batch_size=8),
        lambda: character_transformer(width=8, layers=1, heads=2, length=8, windows=4, batch_size=2),
    ],
    ids=["network", "convolution", "transformer"],
)
@pytest.mark.slow
def test_the_loss_of_a_step_is_that_of_its_batch(make):
    """Assert that the loss of a step is the loss on the data that are drawn for it, and a test error is a number."""
    task = make()
    assert isinstance(task.batch_loss, DrawnLoss)
    assert task.loss(2).item() == task.batch_loss.loss(task.model, *task.batch_loss.draw(2)).item()
    assert 0 < task.test_error(task.model).item() < 10


def test_the_test_images_are_those_after_the_training_images():
    """Assert that a network which is scikit-learn's nearest neighbour has its error as test error."""
    neighbour = KNeighborsClassifier(1).fit(*digits(300))

    class Neighbour(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def forward(self, images):
            return torch.tensor(neighbour.predict_proba(images.numpy()))

    assert tanh_network(samples=300).test_error(Neighbour()).item() == pytest.approx(
        1 - neighbour.score(*held_out(300))
    )


def test_all_images_in_training_leave_no_test_error():
    """Assert that a task that trains on every image has no test error."""
    assert tanh_network(hidden=(2,), samples=1797).test_error is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"training": (torch.ones(3, 2), torch.ones(2))}, "3 inputs and 2 labels"),
        ({"training": torch.ones(3, 2)}, "must be a pair"),
        ({"test": (torch.ones(0, 2), torch.ones(0))}, "0 inputs"),
        ({"batch_size": 41}, "batch_size = 41"),
        ({"batch_size": 2.0}, "batch_size = 2.0"),
        ({"seed": -1, "batch_size": 2}, "seed = -1"),
    ],
)
def test_data_that_do_not_fit_are_refused(wrong, message):
    """Assert that data that do not fit are refused with the numbers seen."""
    arguments = {"model": line(), "training": data(40)} | wrong
    with pytest.raises(InputError, match=message):
        classification(**arguments).loss(0)

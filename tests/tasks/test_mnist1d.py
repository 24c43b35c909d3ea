"""The task mnist1d: its series against the package's own, its split, its arguments, and what it leaves untouched."""

import random
import sys
from functools import partial

import numpy as np
import pytest
import torch

from swd_dynamics.errors import InputError
from swd_dynamics.tasks import mnist1d
from swd_dynamics.tasks.digits import tanh_layers
from swd_dynamics.tasks.seeds import generator

data = pytest.importorskip("mnist1d.data", reason="the package mnist1d is not installed")

pytestmark = pytest.mark.slow  # the package takes four seconds to make its data

tiny = partial(mnist1d, hidden=(3,), samples=20, batch_size=5)


@pytest.fixture(scope="module")
def series():
    """The package's own data; its seed is put into the global generators, whose states are put back."""
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    yield data.make_dataset(data.get_dataset_args())
    random.setstate(of_python)
    np.random.set_state(of_numpy)  # noqa: NPY002


def cross_entropy(scores, labels):
    """Mean of log Σ exp(score) − score of the label, in numpy."""
    return np.mean(np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(labels)), labels])


def scores(task, inputs):
    """The scores of the network, by products in numpy."""
    first, shift, second, more = (weight.detach().numpy() for weight in task.model.parameters())
    return np.tanh(inputs @ first.T + shift) @ second.T + more


def test_the_loss_is_that_of_the_packages_series(series):
    """Assert that the full loss is the cross-entropy on the package's first series, by numpy."""
    task = tiny()
    expected = cross_entropy(scores(task, series["x"][:20]), series["y"][:20])
    assert task.full_loss(task.model).item() == pytest.approx(expected, rel=1e-12)


def test_the_test_error_is_that_of_the_packages_test(series):
    """Assert that the test error counts wrong classes among the package's 1000 test series."""
    task = tiny()
    wrong = scores(task, series["x_test"]).argmax(axis=1) != series["y_test"]
    assert task.test_error(task.model).item() == wrong.mean()
    assert len(wrong) == 1000


def test_the_start_is_that_of_a_tanh_network():
    """Assert that the initial weights are drawn as those of every tanh network here, from the task's seed."""
    weights = tanh_layers((40, 3, 10), generator(4)).state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in tiny(seed=4).model.state_dict().items())


def test_the_global_generators_are_left_alone():
    """Assert that generating the series changes neither Python's nor numpy's global random numbers."""
    from swd_dynamics.tasks.mnist1d import _series

    _series.cache_clear()
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    tiny()
    assert random.getstate() == of_python
    assert np.array_equal(np.random.get_state()[1], of_numpy[1])  # noqa: NPY002


@pytest.mark.parametrize("arguments", [{"samples": 4001}, {"samples": 0}, {"batch_size": 21}, {"hidden": (0,)}])
def test_arguments_out_of_range(arguments):
    """Assert that sizes that the data do not have are refused."""
    with pytest.raises(InputError):
        tiny(**arguments)


def test_without_the_package(monkeypatch):
    """Assert that without the package the message names the extra that installs it."""
    from swd_dynamics.tasks.mnist1d import _series

    _series.cache_clear()
    monkeypatch.setitem(sys.modules, "mnist1d.data", None)
    with pytest.raises(InputError, match=r"swd-dynamics\[data\]"):
        tiny()

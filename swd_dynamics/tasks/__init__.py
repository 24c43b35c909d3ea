"""The tasks: models to train, with losses whose every batch is a function of the seed and the step."""

from swd_dynamics.tables import Table, preset
from swd_dynamics.tasks.cifar10 import cifar10
from swd_dynamics.tasks.classification import classification
from swd_dynamics.tasks.digits import logistic_regression, tanh_network
from swd_dynamics.tasks.images import convolutional_network
from swd_dynamics.tasks.mnist1d import mnist1d
from swd_dynamics.tasks.quadratic import quadratic
from swd_dynamics.tasks.task import DrawnLoss, Task
from swd_dynamics.tasks.text import character_transformer

ABOUT = """The tasks by name. Each is a function that makes a :class:`Task`: a model to train and its loss.

TASKS["network"](seed=0, device="cpu"), or TASKS.network(seed=0); seed and device have these defaults.
"""

TASKS = Table(
    "task",
    ABOUT,
    **{
        "quadratic": preset(quadratic, spectrum=(1.0, 3.0, 0.1), optimum=(0.0, 0.0, 0.0), start=(1.0, -2.0, 0.5)),
        "logistic": logistic_regression,
        "network": tanh_network,
        "network-minibatch": preset(tanh_network, batch_size=50),
        "mnist1d": mnist1d,
        "convolution": convolutional_network,
        "transformer": character_transformer,
    },
)

__all__ = [
    "TASKS",
    "DrawnLoss",
    "Task",
    "character_transformer",
    "cifar10",
    "classification",
    "convolutional_network",
    "logistic_regression",
    "mnist1d",
    "quadratic",
    "tanh_network",
]

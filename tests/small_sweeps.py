"""Tasks for the tests of sweeps, in a module that other processes can import."""

import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

from swd_dynamics.tasks import DrawnLoss, quadratic, tanh_network

LINE = partial(quadratic, spectrum=(1.0,), start=(1.0,))  # f = ½θ² from θ = 1
NETWORK = partial(tanh_network, hidden=(5,), samples=60, batch_size=20)


def counted(file, seed):
    """The line, with a letter in a file for every training that begins. It is trained in processes."""

    def loss(model, step):
        if step == 0:
            with open(file, "a") as log:
                log.write("x")
        return task.full_loss(model)

    task = LINE(seed=seed)
    return replace(task, batch_loss=loss)


def deadly(file, seed):
    """The network; the process that is the first to reach step 3 is killed, and removes the file before."""

    def loss(model, step):
        if step == 3 and Path(file).exists():
            Path(file).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return task.batch_loss(model, step)

    task = NETWORK(seed=seed)
    return replace(task, batch_loss=loss)


def interrupted(after, seed):
    """The noisy line; Ctrl-C is pressed when a batch is drawn for this many more times than the list is long."""

    def draw(step):
        if after:
            after.pop()
            if not after:
                raise KeyboardInterrupt
        return task.batch_loss.draw(step)

    task = quadratic((1.0,), noise=0.1, seed=seed)
    return replace(task, batch_loss=DrawnLoss(draw, task.batch_loss.loss))

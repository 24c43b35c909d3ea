"""Callbacks for PyTorch Lightning and the Hugging Face Trainer, neither of which is imported before it is asked for.

A loop of one's own needs none: ``with Probe(optimizer, "run"):`` around it, or ``attach()`` and ``detach()``.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from swd_dynamics.errors import InputError
from swd_dynamics.probe.probe import Probe
from swd_dynamics.tensors.groups import steps_before
from swd_dynamics.tensors.weights import unwrapped


def lightning_callback(path: str | os.PathLike, **options: Any) -> Any:
    """A Lightning callback that records the run.

    ``Trainer(callbacks=[lightning_callback("run")])`` records from the first step of ``fit`` to its end: "finished",
    "interrupted" by Ctrl-C, or "failed: …". With ``resume=True`` and ``fit(…, ckpt_path=…)`` it goes on with the run.

    The loss is what ``training_step`` returned, for accumulated gradients the mean over their batches. (If an epoch
    ends on fewer batches than are accumulated, Lightning divides their gradient by the full number all the same: of
    that step ‖g‖ is smaller, the loss is not.) Under manual optimization Lightning does not know which loss belongs to
    which step: it is that of the closure, if ``step`` is given one, and else NaN.

    Parameters
    ----------
    path : str or path
        The run folder; of several optimizers each has one in it, ``optimizer_0``, ``optimizer_1``, …
    **options
        Of :class:`~swd_dynamics.probe.probe.Probe`. ``model`` is the LightningModule unless given.

    Returns
    -------
    lightning.pytorch.Callback
        Its ``probes`` are those of the last run.

    Raises
    ------
    InputError
        If neither ``lightning`` nor ``pytorch_lightning`` is installed.

    Examples
    --------
    With a LightningModule and its data (and Lightning installed):

    >>> from lightning.pytorch import Trainer  # doctest: +SKIP
    >>> callback = lightning_callback("run", snapshots=1000)  # doctest: +SKIP
    >>> Trainer(max_epochs=1, callbacks=[callback]).fit(module, batches)  # doctest: +SKIP
    >>> swd_dynamics.open_recording("run").decay_ratio  # doctest: +SKIP
    """
    imported_first = sorted(("lightning.pytorch", "pytorch_lightning"), key=lambda name: name not in sys.modules)
    return _made(_LightningHooks, _module("lightning", *imported_first).Callback, path, options)


def trainer_callback(path: str | os.PathLike, **options: Any) -> Any:
    """A callback of the Hugging Face Trainer that records the run.

    ``Trainer(…, callbacks=[trainer_callback("run")])`` records every training of that trainer. With ``resume=True`` and
    ``train(resume_from_checkpoint=…)`` it goes on with the run.

    The loss is what the trainer's ``training_step`` returned, summed over the batches of accumulated gradients: the
    number that the trainer itself averages for its logs, of every step, not rounded, and NaN where it is NaN.

    A Trainer does not tell its callbacks when training fails. The run's status then stays "running", and its last two
    seconds may be missing, until the next training with this callback ends it as "interrupted". To have it end well::

        with trainer_callback("run") as callback:
            Trainer(…, callbacks=[callback]).train()

    Parameters
    ----------
    path : str or path
        The run folder.
    **options
        Of :class:`~swd_dynamics.probe.probe.Probe`. ``model`` is that of the trainer unless given.

    Returns
    -------
    transformers.TrainerCallback
        Its ``probes`` has the probe of the last run.

    Raises
    ------
    InputError
        If ``transformers`` is not installed.

    Examples
    --------
    With a model, its data and arguments for the Trainer (and transformers installed):

    >>> from transformers import Trainer  # doctest: +SKIP
    >>> callback = trainer_callback("run", snapshots=1000)  # doctest: +SKIP
    >>> Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()  # doctest: +SKIP
    >>> swd_dynamics.open_recording("run").decay_ratio  # doctest: +SKIP
    """
    return _made(_TrainerHooks, _module("transformers accelerate", "transformers").TrainerCallback, path, options)


class _Run:
    """The probes of a run that a framework drives, from its beginning to its end."""

    def __init__(self, path: str | os.PathLike, options: dict[str, Any]):
        self.path, self.options = Path(path), options
        self.probes: list[Any] = []
        self._ending = ExitStack()

    def _begin(self, optimizers: Sequence[torch.optim.Optimizer], model: torch.nn.Module | None, steps: int) -> None:
        self._end(KeyboardInterrupt())  # a run that was begun and never ended
        if not optimizers:
            raise InputError("the trainer has no optimizer: there is nothing to record, leave this callback away")
        self.probes = []
        for k, wrapped in enumerate(optimizers):
            optimizer = unwrapped(wrapped)
            path = self.path if len(optimizers) == 1 else self.path / f"optimizer_{k}"
            uncounted = len(optimizers) == 1 and steps > 0 and steps_before(optimizer) <= 0
            known = {"model": model, "step": steps if uncounted else None}
            self.probes.append(self._ending.enter_context(Probe(optimizer, path, **known | self.options)))

    def _end(self, error: BaseException | None = None) -> None:
        self._ending.__exit__(None if error is None else type(error), error, None)


class _LightningHooks(_Run):
    """What Lightning calls, in this order for a batch: start, before zero_grad, before backward, (the step,) end."""

    _backwards = _steps = 0
    _losses: tuple = ()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._begin(trainer.optimizers, pl_module, trainer.global_step)  # the checkpoint is loaded by now

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._backwards, self._steps = 0, self.probes[0].steps

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        self._losses = ()

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: torch.Tensor) -> None:
        self._backwards += 1

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not pl_module.automatic_optimization or self._backwards != 1:
            return  # a closure called again and again (LBFGS): the probe has seen its first loss, this is its last
        self._losses += (outputs["loss"],)  # Lightning has divided it by the number of accumulated batches
        if self.probes[0].steps > self._steps:
            share = trainer.accumulate_grad_batches / len(self._losses)
            self.probes[0].observe(loss=sum(self._losses) * share)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._end(exception)


class _TrainerHooks(_Run):
    """What the Trainer calls."""

    _loss: torch.Tensor | float = 0.0

    def __enter__(self) -> "_TrainerHooks":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _) -> None:
        self._end(error)

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self._begin([given["optimizer"]], given["model"], state.global_step)
        trainer = _calling(import_module("transformers").Trainer)
        if trainer is not None:  # else the losses stay unknown
            self._watch(trainer)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_) -> None:
        self._loss = 0.0

    def on_train_end(self, args: Any, state: Any, control: Any, **_) -> None:
        self._end()

    def _watch(self, trainer: Any) -> None:
        """Note what ``training_step`` returns, until the run ends: no callback is told the loss of every step."""
        training_step = trainer.training_step

        def noted(*args: Any, **kwargs: Any) -> torch.Tensor:
            loss = training_step(*args, **kwargs)
            self._loss = self._loss + loss
            self.probes[0].observe(loss=self._loss)
            return loss

        trainer.training_step = noted
        self._ending.callback(setattr, trainer, "training_step", training_step)


def _made(hooks: type[_Run], base: type, path: str | os.PathLike, options: dict[str, Any]) -> Any:
    return type(f"Probe{base.__name__}", (hooks, base), {})(path, options)


def _module(distribution: str, *names: str) -> ModuleType:
    """The first of some modules that is installed."""
    for name in names:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if str(error.name).partition(".")[0] != name.partition(".")[0]:
                raise  # it is there, and something that it needs is not
    raise InputError(f"this callback needs {' or '.join(names)}, which is not installed: pip install {distribution}")


def _calling(kind: type) -> Any:
    """The object of a kind in whose method this is called, if any: a Trainer does not hand itself to its callbacks."""
    frame = sys._getframe()
    while frame is not None and not isinstance(frame.f_locals.get("self"), kind):
        frame = frame.f_back
    return frame and frame.f_locals["self"]

"""Callbacks for PyTorch Lightning and the Hugging Face Trainer, imported only when used.

Your own training loop needs no callback: write ``with Probe(optimizer, "run"):`` around it, or call
``attach()`` before and ``detach()`` after it.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from swd_dynamics.checks import as_path
from swd_dynamics.errors import InputError
from swd_dynamics.probe.probe import Probe
from swd_dynamics.tables import listed
from swd_dynamics.tensors.groups import steps_before
from swd_dynamics.tensors.weights import unwrapped


def lightning_callback(path: str | os.PathLike, **options: Any) -> Any:
    """A Lightning callback that records the run.

    ``Trainer(callbacks=[lightning_callback("run")])`` records from the first step of ``fit`` to its
    end. The status is then "finished", "interrupted" (by Ctrl-C), or "failed: …". With
    ``resume=True`` and ``fit(…, ckpt_path=…)`` the recording continues.

    The loss is what ``training_step`` returned. For accumulated gradients it is the mean over their
    batches. If an epoch ends with fewer batches than are accumulated, Lightning still divides their
    gradient by the full number: ‖g‖ of that step is smaller, but its loss is not. Under manual
    optimization Lightning does not say which loss belongs to which step: the loss is that of the
    closure if ``step`` is given a closure, and NaN otherwise.

    A second ``fit`` with the same callback has new optimizers, and a run folder of its own, whose
    name ends in ``_2``, unless ``resume=True``.

    Parameters
    ----------
    path : str or path
        The run folder. Several optimizers have a folder each in it: ``optimizer_0``,
        ``optimizer_1``, …
    **options
        The arguments of :class:`~swd_dynamics.probe.probe.Probe` from ``model`` on: ``quantities``, ``every``,
        ``snapshots``, ``resume``, … By default ``model`` is the
        LightningModule.

    Returns
    -------
    lightning.pytorch.Callback
        Its ``probes`` are the probes of the last run.

    Raises
    ------
    InputError
        If neither ``lightning`` nor ``pytorch_lightning`` is installed, or a probe has no such argument.

    Examples
    --------
    With a LightningModule and its data (and Lightning installed):

    >>> from lightning.pytorch import Trainer  # doctest: +SKIP
    >>> callback = lightning_callback("run", snapshots=1000)  # doctest: +SKIP
    >>> Trainer(max_epochs=1, callbacks=[callback]).fit(module, batches)  # doctest: +SKIP
    >>> swd_dynamics.open_recording("run").decay_ratio  # doctest: +SKIP
    """
    _check_options(options)
    names = ("lightning.pytorch", "pytorch_lightning")
    imported_first = sorted(names, key=lambda name: name not in sys.modules)
    return _made(_LightningHooks, _module("lightning", *imported_first).Callback, path, options)


def trainer_callback(path: str | os.PathLike, **options: Any) -> Any:
    """A callback of the Hugging Face Trainer that records the run.

    ``Trainer(…, callbacks=[trainer_callback("run")])`` records every training of that trainer. With
    ``resume=True`` and ``train(resume_from_checkpoint=…)`` the recording continues. It also goes on
    with the same optimizer in a second ``train``, or in the next try of ``auto_find_batch_size``;
    with another optimizer, as ``model_init`` makes it, a training has a run folder of its own, whose
    name ends in ``_2``, ``_3``, …

    The loss is what the trainer's ``training_step`` returned, summed over the batches of
    accumulated gradients. It is the number that the trainer averages for its logs, but for every
    step and not rounded, and it is NaN where the trainer's number is NaN.

    A Trainer does not tell its callbacks that training failed. Then the run's status stays
    "running", and its last two seconds may be missing, until the next training with this callback
    ends the run as "interrupted". A ``with`` block ends the run at once::

        with trainer_callback("run") as callback:
            Trainer(…, callbacks=[callback]).train()

    Parameters
    ----------
    path : str or path
        The run folder.
    **options
        The arguments of :class:`~swd_dynamics.probe.probe.Probe` from ``model`` on: ``quantities``, ``every``,
        ``snapshots``, ``resume``, … By default ``model`` is the
        trainer's.

    Returns
    -------
    transformers.TrainerCallback
        Its ``probes`` holds the probe of the last run.

    Raises
    ------
    InputError
        If ``transformers`` is not installed, or a probe has no such argument.

    Examples
    --------
    With a model and the Trainer's arguments (and transformers installed):

    >>> from transformers import Trainer  # doctest: +SKIP
    >>> callback = trainer_callback("run", snapshots=1000)  # doctest: +SKIP
    >>> trainer = Trainer(model, arguments, callbacks=[callback])  # doctest: +SKIP
    >>> trainer.train()  # doctest: +SKIP
    >>> swd_dynamics.open_recording("run").decay_ratio  # doctest: +SKIP
    """
    _check_options(options)
    transformers = _module("transformers accelerate", "transformers")
    return _made(_TrainerHooks, transformers.TrainerCallback, path, options)


class _Run:
    """The probes of a run that a framework drives, from its beginning to its end."""

    def __init__(self, path: str | os.PathLike, options: dict[str, Any]):
        self.path, self.options = as_path("path", path), options
        self.probes: list[Any] = []
        self._folders = 0  # the number of folders that were recorded into
        self._ending = ExitStack()

    def _begin(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        model: torch.nn.Module | None,
        steps: int,
    ) -> None:
        self._end(KeyboardInterrupt())  # an earlier run that has not ended
        if not optimizers:
            raise InputError("the trainer has no optimizer to record: omit this callback")
        inner, before = [unwrapped(optimizer) for optimizer in optimizers], self.probes
        goes_on = bool(before) and all(
            probe.optimizer is optimizer for probe, optimizer in zip(before, inner, strict=False)
        )
        self._folders += not goes_on
        self.probes = []
        for k, optimizer in enumerate(inner):
            uncounted = len(inner) == 1 and steps > 0 and steps_before(optimizer) <= 0
            known: dict[str, Any] = {"model": model, "step": steps if uncounted else None}
            if goes_on and not steps:
                # A retry, or a second training, which a Trainer counts from 0.
                known["step"] = before[k].steps
            options = known | self.options
            if goes_on:
                options["resume"] = True
            probe = Probe(optimizer, self._folder(k, len(inner)), **options)
            self.probes.append(self._ending.enter_context(probe))

    def _folder(self, k: int, optimizers: int) -> Path:
        """The folder of an optimizer; trainings with other optimizers have folders of their own."""
        is_first = self._folders == 1 or self.options.get("resume", False)
        path = self.path if is_first else Path(f"{self.path}_{self._folders}")
        return path if optimizers == 1 else path / f"optimizer_{k}"

    def _end(self, error: BaseException | None = None) -> None:
        self._ending.__exit__(None if error is None else type(error), error, None)


class _LightningHooks(_Run):
    """What Lightning calls: batch start, before zero_grad, before backward, (step,) batch end."""

    _backwards = _steps = 0
    _losses: tuple = ()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        # The checkpoint is loaded by now.
        self._begin(trainer.optimizers, pl_module, trainer.global_step)

    def on_train_batch_start(
        self,
        trainer: Any,
        pl_module: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._backwards, self._steps = 0, self.probes[0].steps

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self._losses = ()

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: torch.Tensor) -> None:
        self._backwards += 1

    def on_train_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if not pl_module.automatic_optimization or self._backwards != 1:
            # LBFGS calls its closure several times. The probe has seen the first loss already,
            # which is the loss of the step; this one is the last.
            return
        self._losses += (outputs["loss"],)  # Lightning has divided it by accumulate_grad_batches
        if self.probes[0].steps > self._steps:
            share = trainer.accumulate_grad_batches / len(self._losses)
            self.probes[0].observe(loss=sum(self._losses) * share)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._end(exception)


class _TrainerHooks(_Run):
    """What the Hugging Face Trainer calls."""

    _loss: torch.Tensor | float = 0.0

    def __enter__(self) -> "_TrainerHooks":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _) -> None:
        self._end(error)

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self._begin([given["optimizer"]], given["model"], state.global_step)
        trainer = _calling(import_module("transformers").Trainer)
        if trainer is not None:  # otherwise the losses stay unknown
            self._watch(trainer)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_) -> None:
        self._loss = 0.0

    def on_train_end(self, args: Any, state: Any, control: Any, **_) -> None:
        self._end()

    def _watch(self, trainer: Any) -> None:
        """Observe what ``training_step`` returns: no callback gets the loss of each step."""
        training_step = trainer.training_step
        self.probes[0]._losses.warns = False  # of several losses before a step, the last is the sum of all

        def noted(*args: Any, **kwargs: Any) -> torch.Tensor:
            loss = training_step(*args, **kwargs)
            self._loss = self._loss + loss
            self.probes[0].observe(loss=self._loss)
            return loss

        trainer.training_step = noted
        self._ending.callback(setattr, trainer, "training_step", training_step)


def _check_options(options: dict[str, Any]) -> None:
    """Refuse a name that is no argument of a probe before the training, which would end at its first step."""
    known = [name for name in signature(Probe).parameters if name not in ("optimizer", "path")]
    for name in options:
        if name not in known:
            raise InputError(f"a callback has no argument {name}; it has path, {listed(name, known)}")


def _made(hooks: type[_Run], base: type, path: str | os.PathLike, options: dict[str, Any]) -> Any:
    return type(f"Probe{base.__name__}", (hooks, base), {})(path, options)


def _module(distribution: str, *names: str) -> ModuleType:
    """The first of these modules that is installed."""
    for name in names:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if str(error.name).partition(".")[0] != name.partition(".")[0]:
                raise  # the module is installed, but a module that it imports is not
    wanted = " or ".join(names)
    raise InputError(f"this callback needs {wanted}: pip install {distribution}")


def _calling(kind: type) -> Any:
    """The object of this class whose method calls this function, or None.

    The stack is searched because a Trainer does not give itself to its callbacks.
    """
    frame = sys._getframe()
    while frame is not None and not isinstance(frame.f_locals.get("self"), kind):
        frame = frame.f_back
    return frame and frame.f_locals["self"]

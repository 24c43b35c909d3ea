"""The methods that studies compare: each is a rule, for the theory, and a real optimizer, for the runs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from swd_dynamics.optim import OPTIMIZERS
from swd_dynamics.rules import CATALOG, UpdateRule
from swd_dynamics.rules.decay import DECAYS, mode_of


@dataclass(frozen=True)
class Method:
    """A rule and a real optimizer that are made from the same arguments.

    Attributes
    ----------
    name : str — as in CATALOG and in OPTIMIZERS
    arguments : dict — the arguments of both, by torch's names

    Examples
    --------
    >>> sgdw = Method("SGDW", {"lr": 0.5, "momentum": 0.75, "weight_decay": 0.25})
    >>> sgdw.mode, sgdw.rule(lr=0.125).lr
    ('decoupled', 0.125)
    >>> sgdw.optimizer([torch.ones(1, requires_grad=True)]).param_groups[0]["weight_decay"]
    0.25
    """

    name: str
    arguments: dict[str, Any] = field(hash=False)

    @property
    def mode(self) -> str:
        """The decay mode, as DECAYS names it: "none" if λ = 0, where all modes are the same."""
        if self.arguments.get("weight_decay") == 0:
            return "none"
        return mode_of(CATALOG[self.name].decay) or "unknown"

    def rule(self, **changed) -> UpdateRule:
        """The rule, with some arguments changed."""
        return CATALOG[self.name](**(self.arguments | changed))

    def optimizer(self, parameters, **changed) -> torch.optim.Optimizer:
        """The real optimizer of some parameters, with some arguments changed."""
        return OPTIMIZERS[self.name](parameters, **(self.arguments | changed))


THREE = ("L2", "decoupled", "stable")  # the decay modes that the paper compares


def names_of(direction: str, modes: Sequence[str] = THREE) -> list[str]:
    """The names in CATALOG of a direction with each of some decay modes.

    Examples
    --------
    >>> names_of("Adai")
    ['Adai', 'AdaiW', 'AdaiS']
    """
    names = (direction + DECAYS[mode].suffix for mode in modes)
    return [name for name in names if name in CATALOG]


def family(direction: str, modes: Sequence[str] = THREE, **arguments) -> list[Method]:
    """The methods with one direction and each of some decay modes, all with the same arguments.

    A decay mode is omitted if no real optimizer has it.

    Examples
    --------
    >>> [(method.name, method.mode) for method in family("Adam", weight_decay=0.5)]
    [('Adam', 'L2'), ('AdamW', 'decoupled'), ('AdamS', 'stable')]
    """
    return [Method(name, arguments) for name in names_of(direction, modes) if name in OPTIMIZERS]

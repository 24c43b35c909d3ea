"""Which derivations the entries of the catalogue lack, in one place; and the entries that stand for the others.

A derivation of every entry takes a minute: slow laws run over one entry of each family.
"""

from collections.abc import Callable
from typing import Any

import pytest

from swd_dynamics.rules import CATALOG, UpdateRule
from swd_dynamics.symbolic import (
    eigenvalues,
    equations,
    equilibrium,
    fixed_point,
    linear_map,
    long_run_decay_rate,
    modified_equation,
    stability_limit,
    stationary_covariance,
)

# Derivations are kept, so files that ask for those of the whole catalogue run in the same process.
share_derivations = pytest.mark.xdist_group("derivations of the catalogue")

OF_THE_MAP = (linear_map, eigenvalues, stability_limit, fixed_point, long_run_decay_rate)
DERIVATIONS = (equations, modified_equation, *OF_THE_MAP)
IN_NOISE = (stationary_covariance, equilibrium)

# By entries and by families. All others have every derivation.
LACKS: dict[str, tuple[Callable[..., Any], ...]] = {
    "AMSGrad": (equilibrium,),  # a maximum grows in noise
    "Adamax": (equilibrium,),
    "Adagrad": (modified_equation, equilibrium),  # a sum has no rest point
    "SGDCautious": (*OF_THE_MAP, *IN_NOISE),  # the sign of θ·u jumps where the step would be linear
    "AdamCautious": (*OF_THE_MAP, *IN_NOISE),
    "Signum": (*OF_THE_MAP, stationary_covariance),  # a sign jumps where the step would be linear
    "Lion": (*OF_THE_MAP, stationary_covariance),
    "Rprop": (modified_equation, *OF_THE_MAP, *IN_NOISE),  # the step sizes grow while the gradient is steady
    "ScheduleFreeSGD": (modified_equation, *OF_THE_MAP, *IN_NOISE),  # the sum of the weights has no rest point
    "ScheduleFreeAdam": (modified_equation, *OF_THE_MAP, *IN_NOISE),
    "Muon": (*DERIVATIONS, *IN_NOISE),  # looks at shapes
    "Adafactor": (*DERIVATIONS, *IN_NOISE),  # depend on the number of the step
    "ASGD": (*DERIVATIONS, *IN_NOISE),
}


def family_of(name: str) -> str:
    """The name of an entry without that of its decay; another name as it is."""
    return name.removesuffix(CATALOG[name].decay.suffix or "") if name in CATALOG else name


# Families of which every entry is tested.
OLD = ("SGD", "Adam", "AMSGrad", "Adai")
# With stable decay, whose derivation has all that the others have, and a mean over weights.
REPRESENTATIVES = tuple(name for name in CATALOG if family_of(name) in OLD or name == f"{family_of(name)}S")


def has(name: str, derive: Callable[..., Any]) -> bool:
    """Whether an entry has a derivation."""
    return derive not in (*LACKS.get(name, ()), *LACKS.get(family_of(name), ()))


def pairs(names: tuple[str, ...] = REPRESENTATIVES) -> list[tuple[str, Callable[..., Any]]]:
    """Entries and the derivations that they have."""
    return [(name, derive) for name in names for derive in DERIVATIONS if has(name, derive)]


def rule_of(name: str, **arguments: Any) -> UpdateRule:
    """An entry's rule with decay, and with momentum for SGD."""
    return CATALOG[name](weight_decay=0.1, **({"momentum": 0.9} if name.startswith("SGD") else {}), **arguments)

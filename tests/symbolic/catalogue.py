"""Which derivations the entries of the catalogue lack, in one place; and the entries that stand for the others.

A derivation of every entry takes a minute: slow laws run over one entry of each family.
"""

from collections.abc import Callable
from typing import Any

from swd_dynamics.rules import CATALOG, UpdateRule
from swd_dynamics.symbolic import (
    eigenvalues,
    equations,
    fixed_point,
    linear_map,
    long_run_decay_rate,
    modified_equation,
    stability_limit,
)

OF_THE_MAP = (linear_map, eigenvalues, stability_limit, fixed_point, long_run_decay_rate)
DERIVATIONS = (equations, modified_equation, *OF_THE_MAP)

# By entries and by families. All others have every derivation.
LACKS: dict[str, tuple[Callable[..., Any], ...]] = {
    "Adagrad": (modified_equation,),  # a sum has no rest point
    "SGDCautious": OF_THE_MAP,  # the sign of θ·u jumps where the step would be linear
    "AdamCautious": OF_THE_MAP,
    "Signum": OF_THE_MAP,  # a sign jumps where the step would be linear
    "Lion": OF_THE_MAP,
    "Rprop": (modified_equation, *OF_THE_MAP),  # the step sizes grow while the gradient is steady
    "ScheduleFreeSGD": (modified_equation, *OF_THE_MAP),  # the sum of the weights of an average has no rest point
    "ScheduleFreeAdam": (modified_equation, *OF_THE_MAP),
    "Muon": DERIVATIONS,  # looks at shapes
    "Adafactor": DERIVATIONS,  # depend on the number of the step
    "ASGD": DERIVATIONS,
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

"""The usual optimizers by name, with torch's argument names: every direction times every place for the decay."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import Parameter, Signature, signature
from typing import Any

from swd_dynamics.errors import InputError
from swd_dynamics.rules.decay import DECAYS, Decay
from swd_dynamics.rules.direction import Direction
from swd_dynamics.rules.directions import Adai, Adam, AMSGrad, sgd_family
from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.tables import Table


@dataclass(frozen=True)
class Entry:
    """A named optimizer: call it with torch's arguments to get its :class:`UpdateRule`.

    Examples
    --------
    >>> CATALOG["AdamS"](lr=1e-3, weight_decay=1e-4).decay
    Stable(weight_decay=0.0001)
    """

    family: Callable[..., Direction]
    decay: Callable[[Any], Decay]
    weight_decay: float

    def __call__(self, lr: Any = 1e-3, *, weight_decay: Any = None, **direction) -> UpdateRule:
        strength = self.weight_decay if weight_decay is None else weight_decay
        try:
            chosen = self.family(**direction)
        except TypeError:
            allowed = list(self.__signature__.parameters)
            unknown = ", ".join(name for name in direction if name not in allowed)
            if not unknown:
                raise
            raise InputError(f"there is no argument {unknown} here; there are {', '.join(allowed)}") from None
        return UpdateRule(lr, chosen, self.decay(strength))

    @property
    def __signature__(self) -> Signature:
        """The arguments of a call, for tools that ask."""
        direction = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in signature(self.family).parameters.values()]
        lr = Parameter("lr", Parameter.POSITIONAL_OR_KEYWORD, default=1e-3)
        return Signature([lr, Parameter("weight_decay", Parameter.KEYWORD_ONLY, default=self.weight_decay), *direction])


FAMILIES: dict[str, Callable[..., Direction]] = {
    "SGD": sgd_family,
    "Adam": Adam,
    "AMSGrad": AMSGrad,
    "Adai": Adai,
}

# The default weight decays that are not 0: torch's for decoupled decay, the authors' (2011.11152) for stable decay.
WEIGHT_DECAYS = {
    "AdamW": 1e-2,
    "AdamS": 1e-4,
    "AMSGradW": 1e-2,
    "AMSGradS": 1e-4,
}


def _entries() -> Iterator[tuple[str, Entry]]:
    for family, direction in FAMILIES.items():
        for decay in DECAYS.values():
            if decay.suffix is not None:
                name = family + decay.suffix
                yield name, Entry(direction, decay, WEIGHT_DECAYS.get(name, 0.0))


CATALOG = Table("optimizer", **dict(_entries()))

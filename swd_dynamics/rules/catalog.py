"""The usual optimizers by name, with torch's argument names: each is a direction times a place for the decay."""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter, Signature, signature
from typing import Any

from swd_dynamics.errors import InputError
from swd_dynamics.rules.decay import L2, Decay, Decoupled, Stable
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
        rate = self.weight_decay if weight_decay is None else weight_decay
        try:
            chosen = self.family(**direction)
        except TypeError:
            allowed = list(self.__signature__.parameters)
            unknown = ", ".join(name for name in direction if name not in allowed)
            if not unknown:
                raise
            raise InputError(f"there is no argument {unknown} here; there are {', '.join(allowed)}") from None
        return UpdateRule(lr, chosen, self.decay(rate))

    @property
    def __signature__(self) -> Signature:
        """What it can be called with, for tools that ask."""
        direction = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in signature(self.family).parameters.values()]
        lr = Parameter("lr", Parameter.POSITIONAL_OR_KEYWORD, default=1e-3)
        return Signature([lr, Parameter("weight_decay", Parameter.KEYWORD_ONLY, default=self.weight_decay), *direction])


# The default weight decays are torch's, and for the stable modes the authors' (2011.11152).
CATALOG = Table(
    "optimizer",
    SGD=Entry(sgd_family, L2, 0.0),
    SGDW=Entry(sgd_family, Decoupled, 0.0),
    SGDS=Entry(sgd_family, Stable, 0.0),
    Adam=Entry(Adam, L2, 0.0),
    AdamW=Entry(Adam, Decoupled, 1e-2),
    AdamS=Entry(Adam, Stable, 1e-4),
    AMSGrad=Entry(AMSGrad, L2, 0.0),
    AMSGradW=Entry(AMSGrad, Decoupled, 1e-2),
    AMSGradS=Entry(AMSGrad, Stable, 1e-4),
    Adai=Entry(Adai, L2, 0.0),
    AdaiW=Entry(Adai, Decoupled, 0.0),
    AdaiS=Entry(Adai, Stable, 0.0),
)

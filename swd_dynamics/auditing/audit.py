"""What kind of weight decay does an optimizer have? Measured, without looking inside."""

from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from swd_dynamics.auditing.features import seen_in
from swd_dynamics.auditing.kind import Kind, Phase, Seen, kind_of, quantiles

if TYPE_CHECKING:
    from swd_dynamics.bench.response import Response

COLUMNS = ("R", "5 %", "95 %", "η_eff", "R/η_eff", "R/ηλ")


@dataclass(frozen=True)
class Audit:
    """The weight decay of an optimizer, as its runs showed it.

    Attributes
    ----------
    name : str — the optimizer's class
    kind : "none", "L2", "decoupled", "stable" or "other"
    evidence : tuple of str — why, in words
    seen : Seen — the numbers behind it
    course : dict — R over the steps: ``median``, ``low``, ``high`` (5 and 95 % of the weights), shape (steps,)

    Examples
    --------
    SGD adds λθ to the gradient: R = ηλ, η_eff = η and R/η_eff = λ = ¼, here after η was halved to ¼.

    >>> import torch
    >>> from functools import partial
    >>> found = audit(partial(torch.optim.SGD, lr=0.5, weight_decay=0.25))
    >>> found.kind, [round(value, 6) for value in found.rows["lr / 2"]]
    ('L2', [0.0625, 0.0625, 0.0625, 0.25, 0.25, 1.0])
    """

    name: str
    kind: Kind
    evidence: tuple[str, ...]
    seen: Seen = field(repr=False)
    course: dict[str, NDArray] = field(repr=False, compare=False)

    @property
    def rows(self) -> dict[str, tuple[float, ...]]:
        """For each phase: R in the median, of the 5th and 95th percentile of weights; η_eff, R/η_eff, R/ηλ."""
        return {name: self._row(phase) for name, phase in self.seen.phases.items()}

    def _row(self, phase: Phase) -> tuple[float, ...]:
        with np.errstate(all="ignore"):
            rate, isotropic = phase.typical, phase.isotropic
            low, high = quantiles(phase.decay_rate[None])[1:, 0]
            return tuple(map(float, (rate, low, high, isotropic, rate / isotropic, phase.unit)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; what is unknown is None."""
        phases = {
            name: {column: _plain(value) for column, value in zip(COLUMNS, row, strict=True)}
            for name, row in self.rows.items()
        }
        numbers = ("lr", "weight_decay", "delay", "memory", "lr_exponent", "decay_exponent", "mismatch", "coupling")
        return {
            "name": self.name,
            "kind": self.kind,
            "evidence": list(self.evidence),
            **{number: _plain(getattr(self.seen, number)) for number in numbers},
            "phases": phases,
        }

    def __str__(self) -> str:
        seen = self.seen
        lines = [f"{self.name}: {self.kind} (lr = {seen.lr:g}, weight_decay = {seen.weight_decay:g})"]
        lines += [f"    {line}" for line in self.evidence]
        lines += ["", f"    {'':16}" + "".join(f"{column:>11}" for column in COLUMNS)]
        lines += [f"    {name:16}" + "".join(f"{_short(v):>11}" for v in row) for name, row in self.rows.items()]
        return "\n".join([*lines, "", *(f"    {line}" for line in self._numbers())])

    __repr__ = __str__

    def _numbers(self) -> list[str]:
        seen = self.seen
        control = max(float(np.nanmax(np.abs(p.control), initial=0.0)) for p in seen.phases.values())
        powers = f"{_power('η', seen.lr_exponent)} {_power('λ', seen.decay_exponent)}"
        return [
            f"R ∝ {powers}; a change of θ is remembered for {_short(seen.delay)} steps",
            f"δ against δ/2: {seen.mismatch:.1g}; other signs of δ: {seen.coupling:.1g};"
            f" largest response with λ = 0: {control:.1g}",
        ]

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{column}</th>" for column in ("", *COLUMNS))
        body = "".join(
            f"<tr><td>{name}</td>" + "".join(f"<td>{_short(value)}</td>" for value in row) + "</tr>"
            for name, row in self.rows.items()
        )
        said = "".join(f"<li>{escape(line)}</li>" for line in (*self.evidence, *self._numbers()))
        title = f"<b>{escape(self.name)}: {self.kind}</b> (lr = {self.seen.lr:g}, λ = {self.seen.weight_decay:g})"
        return f"{title}<ul>{said}</ul><table><tr>{head}</tr>{body}</table>"


def audit(factory: Callable[..., Any]) -> Audit:
    """Find out what kind of weight decay an optimizer has, from its behaviour alone.

    With the gradients held fixed, runs from θ and θ + δ differ by what decay leaves of δ: δ ← (1 − R)δ, per weight. A
    run with λ = 0 is the control, since some optimizers scale their steps with ‖θ‖. An impulse added to one gradient
    and followed to its end gives η_eff; a change δ that is taken back gives the memory of L2. Then the gradients fall
    to a tenth, and η to a half.

    Parameters
    ----------
    factory : callable (parameters, **changed arguments) → torch.optim.Optimizer
        Best a class with its arguments, as ``functools.partial(AdamW, lr=1e-2, weight_decay=0.1)``. A function of the
        parameters alone will do, if the optimizer reads ``lr`` and ``weight_decay`` from its parameter groups.

    Returns
    -------
    Audit
        :func:`~swd_dynamics.auditing.kind.kind_of` says what the kinds are. Printed, it is a table. A run that
        diverges is a result.

    Raises
    ------
    InputError
        If the optimizer cannot be made, takes no step with gradients alone, or fails at a later one.

    Notes
    -----
    Where a step divides by a norm of the gradients, η_eff is that of the 16 steps at which impulses are given, with one
    gradient in 16 set to 0; R is that of 120 steps. Their ratio carries the scatter of the norm.

    Source: the definition of stable decay, Xie, Sato & Sugiyama 2020, 2011.11152; the measurement: derived here.

    Examples
    --------
    >>> import torch
    >>> from functools import partial
    >>> found = audit(partial(torch.optim.SGD, lr=0.5, weight_decay=0.0625))
    >>> found.kind, round(found.rows["settled"][0], 9)
    ('decoupled', 0.03125)
    """
    from swd_dynamics.bench.response import measure_response

    return interpreted(measure_response(factory))


def interpreted(response: "Response") -> Audit:
    """What a measured response says."""
    seen, course = seen_in(response)
    kind, evidence = kind_of(seen)
    return Audit(response.name, kind, evidence, seen, course)


def _plain(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None


def _power(letter: str, exponent: float) -> str:
    return letter if _short(exponent) == "1" else f"{letter}^{_short(exponent)}"


def _short(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else "–"

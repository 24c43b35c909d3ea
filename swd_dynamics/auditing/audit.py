"""The audit of an optimizer: what kind of weight decay it has and how much, measured as a black box."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from html import escape
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from swd_dynamics.auditing.features import SAME_RATE, AuditFeatures, Phase, quantiles
from swd_dynamics.auditing.kind import NO_POWER, Kind, kind_of, needs_longer_runs, states_duration
from swd_dynamics.auditing.precision import InType, in_type
from swd_dynamics.auditing.reading import features_of

if TYPE_CHECKING:
    from swd_dynamics.bench.response import MeasuredResponse

SLOWER = 4  # times as many steps in all runs, so that a momentum of .99 ends; with twice as many it does not
WIDTH = 100  # columns of the notes below the table
LEGEND = (
    "R: the fraction of a perturbation of the weights that one step removes (median, 5th and 95th percentile of the"
    " weights). η_eff: how far a unit of gradient moves a weight in the end, as one number for all weights,"
    " (mean of ηᵢ⁻²)^−½."
)
ADAPTING = (
    "In the last two rows the optimizer's state is still adapting to the smaller gradients, because η_eff/η differs"
    " between them. There {what} would change further in a longer run. The powers of η and λ are measured in other"
    " runs."
)
STEADY = 0.05  # relative difference of η_eff/η of two phases with the same gradients: less is scatter
RATE_COLUMNS = ("R", "5 %", "95 %", "η_eff", "R/η_eff", "R/ηλ")


@dataclass(frozen=True)
class Audit:
    """The kind of an optimizer's weight decay, the reasons for it, and its rates.

    Attributes
    ----------
    name : str — the optimizer's class
    kind : str — one of :data:`swd_dynamics.auditing.kind.KINDS`, for example "L2", "decoupled" or "other"
    reasons : tuple of str — why the decay is of this kind, and remarks
    features : AuditFeatures — the numbers from which the kind follows
    course : dict — R over the steps: ``median``, ``low``, ``high`` (5 and 95 % of the weights), shape (steps,)
    in_type : InType or None — what is left of the decay in the type that was asked for

    Examples
    --------
    Without momentum all kinds of decay are the same in SGD: R = ηλ, η_eff = η and R/η_eff = λ = ¼, here after η was
    halved to ¼.

    >>> import torch
    >>> from functools import partial
    >>> found = audit(partial(torch.optim.SGD, lr=0.5, weight_decay=0.25))
    >>> found.kind, [round(value, 6) for value in found.rows["lr / 2"]]
    ('all the same', [0.0625, 0.0625, 0.0625, 0.25, 0.25, 1.0])
    """

    name: str
    kind: Kind
    reasons: tuple[str, ...]
    features: AuditFeatures = field(repr=False)
    course: dict[str, NDArray] = field(repr=False, compare=False)
    in_type: InType | None = None

    @property
    def rows(self) -> dict[str, tuple[float, ...]]:
        """For each phase: the median, 5th and 95th percentile of R over the weights; η_eff, R/η_eff and R/ηλ."""
        return {name: self._row(phase) for name, phase in self.features.phases.items()}

    def _row(self, phase: Phase) -> tuple[float, ...]:
        with np.errstate(all="ignore"):
            rate, isotropic = phase.typical, phase.isotropic
            low, high = quantiles(phase.decay_rate[None])[1:, 0]
            return tuple(map(float, (rate, low, high, isotropic, rate / isotropic, phase.unit)))

    @property
    def _is_adapting(self) -> bool:
        """Whether the optimizer's state still changes after the gradients became smaller: only η differs between."""
        if not {"gradients / 10", "lr / 2"} <= self.features.phases.keys():
            return False
        before, after = (self.features.phases[name] for name in ("gradients / 10", "lr / 2"))
        with np.errstate(all="ignore"):
            return bool(abs(quantiles((after.gains / before.gains)[None])[0, 0] - 1) > STEADY)

    @property
    def _adapts(self) -> str:
        """What changes while the state adapts: R does not if R or R/ηλ is the same before and after."""
        before, after = (self.features.phases[name] for name in ("gradients / 10", "lr / 2"))
        ratios = np.array([after.unit / before.unit, after.typical / before.typical])
        return "η_eff and R/η_eff" if (np.abs(ratios - 1) <= SAME_RATE).any() else "R and η_eff"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; what is unknown is None."""
        phases = {
            name: {column: _plain(value) for column, value in zip(RATE_COLUMNS, row, strict=True)}
            for name, row in self.rows.items()
        }
        numbers = ("lr", "weight_decay", "delay", "memory", "lr_exponent", "decay_exponent", "mismatch", "coupling")
        return {
            "name": self.name,
            "kind": self.kind,
            "reasons": list(self.reasons),
            **{number: _plain(getattr(self.features, number)) for number in numbers},
            "phases": phases,
            **({"in_type": self.in_type.to_dict()} if self.in_type else {}),
        }

    def __str__(self) -> str:
        features = self.features
        lines = [f"{self.name}: {self.kind} (lr = {features.lr:g}, weight_decay = {features.weight_decay:g})"]
        lines += [f"    {line}" for line in self.reasons]
        if features.weight_decay == 0:
            return "\n".join(lines)
        lines += ["", f"    {'':16}" + "".join(f"{column:>11}" for column in RATE_COLUMNS)]
        lines += [f"    {name:16}" + "".join(f"{short(v):>11}" for v in row) for name, row in self.rows.items()]
        notes = [fill(line, WIDTH, initial_indent="    ", subsequent_indent="    ") for line in self._numbers()]
        return "\n".join([*lines, "", *notes]).rstrip()

    __repr__ = __str__

    def _numbers(self) -> list[str]:
        """What the columns mean, what else was measured, and how exact it is; nothing where decay is switched off."""
        features = self.features
        if features.weight_decay == 0:
            return []
        said = [LEGEND, *([ADAPTING.format(what=self._adapts)] if self._is_adapting else [])]
        exponents = {"η": features.lr_exponent, "λ": features.decay_exponent}
        powers = [_power(symbol, exponent) for symbol, exponent in exponents.items()]
        without = [symbol for symbol, exponent in exponents.items() if abs(exponent) < NO_POWER]
        if without:
            said.append(f"R does not depend on {' or '.join(without)}.")
        if any(powers):
            if self.kind == "other" and features.keeps_first_lr:
                powers[0] = "the η that the optimizer was built with"
            said.append(f"R is proportional to {' and to '.join(filter(None, powers))}.")
        if states_duration(features):
            said.append(f"The effect of a perturbation lasts {short(features.delay)} steps after it was undone.")
        controls = [np.abs(phase.control) for phase in features.phases.values()]
        control = max(float(np.nanmax(each, initial=0.0)) for each in controls)
        said.append(
            f"Checks: with half the perturbation R differs by {features.mismatch:.1g} of itself, with other signs by"
            f" {features.coupling:.1g}; with λ = 0 a perturbation changes by at most {control:.1g} of itself in a step."
        )
        return said

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{column}</th>" for column in ("", *RATE_COLUMNS))
        body = "".join(
            f"<tr><td>{name}</td>" + "".join(f"<td>{short(value)}</td>" for value in row) + "</tr>"
            for name, row in self.rows.items()
        )
        said = "".join(f"<li>{escape(line)}</li>" for line in (*self.reasons, *self._numbers()))
        numbers = f"(lr = {self.features.lr:g}, λ = {self.features.weight_decay:g})"
        title = f"<b>{escape(self.name)}: {self.kind}</b> {numbers}"
        table = f"<table><tr>{head}</tr>{body}</table>" if self.features.weight_decay else ""
        return f"{title}<ul>{said}</ul>{table}"


def audit(factory: Callable[..., Any], *, dtype: Any = None, **arguments: Any) -> Audit:
    """Find out what kind of weight decay an optimizer has, from its behaviour alone.

    All runs get the same gradients. Two runs start from θ and from θ + δ. In each step decay shrinks their difference,
    δ ← (1 − R)δ, for each weight. A run with λ = 0 is the control, because some optimizers scale their steps with
    ‖θ‖.
    A δ that dies out within a few steps is renewed before each step. An impulse, added to one gradient, shows η_eff:
    its effect on the weights is followed until it ends, in longer runs if need be. A perturbation δ that is undone
    shows the memory of L2. Changes are larger where the weights are found to be rounded to float32 or less.
    Where a small impulse is lost to rounding, or is not answered in proportion, strong impulses are given up and down.
    The optimizer gets a matrix and a vector in float64. If it cannot be made from them or takes no step, it gets
    matrices alone, then groups with an entry ``use_muon``, then all of these in float32; the reasons say so.
    These measurements are repeated with gradients ten times smaller, and then with η halved.

    Parameters
    ----------
    factory : callable (parameters, **changed arguments) → torch.optim.Optimizer
        Preferably the optimizer's class, with its arguments as below or by :func:`functools.partial`. A function of
        the parameters alone is enough, if the optimizer reads ``lr`` and ``weight_decay`` from its parameter groups.
    dtype : torch.dtype or str, optional
        "bfloat16", "float16", "float32" or "float64". The optimizer then runs in weights and gradients of this type as
        well, with decay and without, and the last reason says what is left of the decay, why, and what to do. The kind
        and the rates are still those in float64, because rounding hides the perturbations that show them.
    **arguments
        Arguments of the optimizer, as ``lr=1e-2, weight_decay=0.1``.

    Returns
    -------
    Audit
        The kinds are defined in :func:`~swd_dynamics.auditing.kind.kind_of`. ``print`` shows the result as a table. A
        diverging run raises no error; the result reports it.

    Raises
    ------
    InputError
        If the optimizer cannot be made, takes no step with gradients alone, or fails at a later step; if ``dtype`` is
        none of the four.

    Notes
    -----
    For an optimizer that divides its step by a norm of the gradients, η_eff is measured at the 16 steps that get
    impulses, in which one gradient in 16 is set to 0, and R is measured over 120 steps. The norm differs between these
    steps, so that R/η_eff scatters as the norm does.

    Source: the definition of stable decay, Xie, Sato & Sugiyama 2020, 2011.11152; the measurement: derived here.

    Examples
    --------
    >>> import torch
    >>> found = audit(torch.optim.SGD, lr=0.5, weight_decay=0.0625)
    >>> found.kind, round(found.rows["settled"][0], 9)
    ('all the same', 0.03125)

    In bfloat16, θ(1 − R) is rounded to θ where R is below half a unit in the last place, 2⁻⁹:

    >>> adamw = dict(lr=0.01, weight_decay=0.01, foreach=False)
    >>> audit(torch.optim.AdamW, dtype="bfloat16", **adamw).in_type.verdict
    'lost'
    """
    from swd_dynamics.bench.drive import with_arguments
    from swd_dynamics.bench.interventions import bench_for
    from swd_dynamics.tensors.rounding import dtype_of

    wanted, factory = None if dtype is None else dtype_of(dtype), with_arguments(factory, arguments)
    found = _audited(factory)
    if wanted is None:
        return found
    rate = float(found.rows["settled"][0])
    left = in_type(bench_for(factory), wanted, rate, joins_gradient=found.kind == "L2")
    return replace(found, reasons=(*found.reasons, left.words), in_type=left)


def _audited(factory: Callable[..., Any]) -> Audit:
    """The audit by the optimizer's response, in longer runs if need be."""
    from swd_dynamics.bench.impulses import ends_in
    from swd_dynamics.bench.interventions import bench_for
    from swd_dynamics.bench.response import measure_response

    response = measure_response(factory)
    found = interpreted(response)
    if not needs_longer_runs(found.features):
        return found
    if not ends_in(bench_for(factory, SLOWER).times(decay=0.0), response.impulses.push, response.unit):
        return found
    longer = interpreted(measure_response(factory, SLOWER))
    return found if longer.features.unfollowed else longer


def interpreted(response: "MeasuredResponse") -> Audit:
    """The audit that a measured response gives."""
    features, course = features_of(response)
    kind, reasons = kind_of(features)
    return Audit(response.name, kind, reasons, features, course)


def short(value: float | None) -> str:
    """A number with three digits; "–" if it is unknown."""
    return "–" if value is None or not np.isfinite(value) else f"{value:.3g}"


def _plain(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None


def _power(symbol: str, exponent: float) -> str:
    """A power of η or λ; nothing if its exponent is 0 or unknown."""
    if not abs(exponent) >= NO_POWER:
        return ""
    return symbol if short(exponent) == "1" else f"{symbol}^{short(exponent)}"

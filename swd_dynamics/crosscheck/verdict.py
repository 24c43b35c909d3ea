"""A claim held against a measurement."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from html import escape
from math import isfinite, isnan
from typing import Any, Literal

Status = Literal["confirmed", "refuted", "inconclusive"]
MARKS = {"confirmed": "✓", "refuted": "✗", "inconclusive": "?"}


@dataclass(frozen=True)
class Verdict:
    """What was claimed, predicted and measured, how far apart the two may be and why, and what follows.

    Attributes
    ----------
    name : str — short, unique within its study
    claim : str — one sentence that could be false
    predicted, measured : float or str
    allowed : float — how far ``measured`` may lie from ``predicted``, fixed before measuring
    why : str — why that much is allowed
    status : "confirmed", "refuted" or "inconclusive"
    first_departure : int or None — of a replay, the first step at which rule and record part
    cause : str or None — where one is known
    evidence : dict — the arrays behind ``measured``, for a figure
    """

    name: str
    claim: str
    predicted: Any
    measured: Any
    allowed: Any
    why: str
    status: Status
    first_departure: int | None = None
    cause: str | None = None
    evidence: dict = field(default_factory=dict, repr=False, compare=False)

    @property
    def passed(self) -> bool:
        """Whether the claim was confirmed."""
        return self.status == "confirmed"

    def record(self) -> dict:
        """The verdict as plain values, for JSON."""
        return {key: value for key, value in asdict(self).items() if key != "evidence"}

    def __str__(self) -> str:
        mark = MARKS[self.status]
        said = f"{mark} {self.status}: {self.claim}\n    predicted {_short(self.predicted)}"
        said += f", measured {_short(self.measured)}, allowed {_short(self.allowed)} ({self.why})"
        if self.first_departure is not None:
            said += f"\n    first departure at step {self.first_departure}"
        return said + (f"\n    cause: {self.cause}" if self.cause else "")

    def _repr_html_(self) -> str:
        return ledger_html([self])


def judge(name: str, claim: str, *, predicted: float, measured: float, allowed: float, why: str, **more) -> Verdict:
    """Confirmed if ``measured`` lies within ``allowed`` of ``predicted``; inconclusive if nothing finite was measured.

    Examples
    --------
    >>> judge("half", "A half is .5", predicted=0.5, measured=0.5, allowed=0.0, why="it is exact").status
    'confirmed'
    """
    status: Status = "inconclusive" if not isfinite(measured) else "refuted"
    if isfinite(measured) and abs(measured - predicted) <= allowed:
        status = "confirmed"
    return Verdict(name, claim, float(predicted), float(measured), float(allowed), why, status, **more)


def judge_at_least(name: str, claim: str, *, least: float, measured: float, why: str, **more) -> Verdict:
    """Confirmed if ``measured`` is ``least`` or more; inconclusive if it is not a number (an infinity is one here).

    Examples
    --------
    >>> judge_at_least("loud", "A wrong pairing departs", least=10.0, measured=5.0, why="ten times round-off").status
    'refuted'
    """
    status: Status = "inconclusive" if isnan(measured) else "confirmed" if measured >= least else "refuted"
    return Verdict(name, claim, f">= {least:g}", float(measured), "any more", why, status, **more)


def must_be_refuted(name: str, mutant: Verdict) -> Verdict:
    """The check of a check: confirmed if the same test refutes a claim that is known to be wrong."""
    return Verdict(
        name=name,
        claim=f"The same test refutes what is wrong: {mutant.claim[:1].lower()}{mutant.claim[1:]}",
        predicted="refuted",
        measured=mutant.status,
        allowed=mutant.allowed,
        why=f"measured {_short(mutant.measured)}"
        f" where {_short(mutant.predicted)} ± {_short(mutant.allowed)} would pass",
        status="confirmed" if mutant.status == "refuted" else "refuted",
        first_departure=mutant.first_departure,
        evidence=mutant.evidence,
    )


def ledger_text(verdicts: Iterable[Verdict], width: int = 118) -> str:
    """A table of verdicts for a terminal."""
    rows = [f"{'':2}{'verdict':34}{'predicted':>13}{'measured':>13}{'allowed':>11}  claim"]
    for v in verdicts:
        numbers = f"{_short(v.predicted):>13}{_short(v.measured):>13}{_short(v.allowed):>11}"
        row = f"{MARKS[v.status]} {v.name:34}{numbers}  {v.claim}"
        rows.append(row if len(row) <= width else row[: width - 1] + "…")
    return "\n".join(rows)


def ledger_html(verdicts: Iterable[Verdict]) -> str:
    """A table of verdicts for Jupyter: the status in words and a mark, the colour only beside them."""
    colours = {"confirmed": "#00674f", "refuted": "#b03a00", "inconclusive": "#555555"}
    head = "".join(f"<th>{title}</th>" for title in ("status", "claim", "predicted", "measured", "allowed", "why"))
    rows = []
    for v in verdicts:
        cells = [v.claim, _short(v.predicted), _short(v.measured), _short(v.allowed), v.why]
        body = "".join(f"<td style='text-align:left'>{escape(cell)}</td>" for cell in cells)
        rows.append(f"<tr><td style='color:{colours[v.status]}'>{MARKS[v.status]} {v.status}</td>{body}</tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _short(value) -> str:
    return f"{value:.4g}" if isinstance(value, float | int) else str(value)

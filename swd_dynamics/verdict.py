"""A claim held against a measurement."""

from dataclasses import asdict, dataclass, field
from html import escape
from math import isfinite, isnan
from typing import Any, Literal

Status = Literal["confirmed", "refuted", "inconclusive"]
STATUS_MARKS = {"confirmed": "✓", "refuted": "✗", "inconclusive": "?"}
STATUS_COLOURS = {"confirmed": "#00805f", "refuted": "#c24000", "inconclusive": "#777777"}  # read on white and on black
COLUMNS = ("claim", "predicted", "measured", "allowed", "why")


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

    Examples
    --------
    >>> print(judge("half", "A half is .5", predicted=0.5, measured=0.5, allowed=0.0, why="it is exact"))
    ✓ confirmed: A half is .5
        predicted 0.5, measured 0.5, allowed 0 (it is exact)
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
        mark = STATUS_MARKS[self.status]
        said = f"{mark} {self.status}: {self.claim}\n    predicted {_short(self.predicted)}"
        said += f", measured {_short(self.measured)}, allowed {_short(self.allowed)} ({self.why})"
        if self.first_departure is not None:
            said += f"\n    first departure at step {self.first_departure}"
        return said + (f"\n    cause: {self.cause}" if self.cause else "")

    __repr__ = __str__

    def _repr_html_(self) -> str:
        said = "" if self.first_departure is None else f"<p>First departure at step {self.first_departure}.</p>"
        return Ledger([self])._repr_html_() + said


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
    """The check of a check: confirmed if the same test refutes a claim that is known to be wrong.

    Examples
    --------
    >>> wrong = judge("third", "A half is 1/3", predicted=1 / 3, measured=0.5, allowed=0.0, why="it is exact")
    >>> wrong.status, must_be_refuted("mutant", wrong).status
    ('refuted', 'confirmed')
    """
    return Verdict(
        name=name,
        claim=f"The same test refutes what is wrong: {mutant.claim}",
        predicted="refuted",
        measured=mutant.status,
        allowed=mutant.allowed,
        why=f"measured {_short(mutant.measured)}"
        f" where {_short(mutant.predicted)} ± {_short(mutant.allowed)} would pass",
        status="confirmed" if mutant.status == "refuted" else "refuted",
        first_departure=mutant.first_departure,
        evidence=mutant.evidence,
    )


class Ledger(tuple[Verdict, ...]):
    """Verdicts as a table, in a terminal and in Jupyter.

    Examples
    --------
    >>> ledger = Ledger([judge("half", "A half is .5", predicted=0.5, measured=0.5, allowed=0.0, why="it is exact")])
    >>> print(ledger)
      verdict                               predicted     measured    allowed  claim
    ✓ half                                        0.5          0.5          0  A half is .5
    >>> ledger.counts
    '1 confirmed'
    """

    __slots__ = ()
    WIDTH = 118

    @property
    def counts(self) -> str:
        """How many verdicts have each status, in words; those that there are none of are left out."""
        counted = {status: sum(verdict.status == status for verdict in self) for status in STATUS_MARKS}
        return ", ".join(f"{count} {status}" for status, count in counted.items() if count) or "no verdicts"

    def __str__(self) -> str:
        rows = [f"{'':2}{'verdict':34}{'predicted':>13}{'measured':>13}{'allowed':>11}  claim"]
        for v in self:
            numbers = f"{_short(v.predicted):>13}{_short(v.measured):>13}{_short(v.allowed):>11}"
            row = f"{STATUS_MARKS[v.status]} {v.name:34}{numbers}  {v.claim}"
            rows.append(row if len(row) <= self.WIDTH else row[: self.WIDTH - 1] + "…")
        return "\n".join(rows)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The status in words and a mark, the colour only beside them."""
        head = "".join(f"<th style='text-align:left'>{title}</th>" for title in ("status", *COLUMNS))
        return f"<table><tr>{head}</tr>{''.join(map(_html_row, self))}</table>"


def _html_row(verdict: Verdict) -> str:
    claim, *cells = [escape(_short(getattr(verdict, column))) for column in COLUMNS]
    cells[-1] += f"; <b>cause:</b> {escape(verdict.cause)}" if verdict.cause else ""
    claim = f"<b>{escape(verdict.name)}</b><br>{claim}"  # a name tells apart what is claimed of several optimizers
    body = "".join(f"<td style='text-align:left'>{cell}</td>" for cell in (claim, *cells))
    said = f"{STATUS_MARKS[verdict.status]} {verdict.status}"
    style = f"text-align:left; white-space:nowrap; color:{STATUS_COLOURS[verdict.status]}"
    return f"<tr><td style='{style}'>{said}</td>{body}</tr>"


def _short(value) -> str:
    return f"{value:.4g}" if isinstance(value, float | int) else str(value)

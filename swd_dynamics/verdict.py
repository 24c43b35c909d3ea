"""A claim compared with a measurement."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from html import escape
from math import isfinite, isnan
from textwrap import fill, wrap
from typing import Any, Literal

Status = Literal["confirmed", "refuted", "inconclusive"]
STATUS_MARKS = {"confirmed": "✓", "refuted": "✗", "inconclusive": "?"}
STATUS_COLOURS = {"confirmed": "#00805f", "refuted": "#c24000", "inconclusive": "#777777"}  # read on white and on black
WIDTH = 100  # columns that words fill before they go on in the next line
LIMIT = "(limit: 1)"  # in the reason of a verdict whose measured value is an error divided by the largest allowed error
MUST_FAIL = "must fail"  # the prediction of a negative control
NOTHING = "–"  # where there is no number
COLUMNS = ("claim", "predicted", "measured", "allowed", "why")


@dataclass(frozen=True)
class Verdict:
    """A claim, the prediction, the measurement, the difference allowed and why, and the outcome.

    Attributes
    ----------
    name : str — short, and unique within its study
    claim : str — one sentence that could be false
    predicted, measured : float or str
    allowed : float — the largest allowed |measured − predicted|, chosen before the measurement
    why : str — the reason for this allowance
    status : "confirmed", "refuted" or "inconclusive"
    first_departure : int or None — of a replay, the first step (from 1) in which rule and recording differ
    cause : str or None — the reason for the difference, where it is known
    evidence : dict — the arrays from which ``measured`` was computed, for a figure
    seeds : int or None — of a statistical verdict, the number of seeds; with another number the status can be another
    near_rules : tuple of str — the names of the near rules that are the cause, which ``verify`` takes as ``allow``

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
    seeds: int | None = None
    near_rules: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the claim was confirmed."""
        return self.status == "confirmed"

    def record(self) -> dict:
        """The verdict as plain values, for JSON."""
        return {key: value for key, value in asdict(self).items() if key not in ("evidence", "near_rules")}

    @property
    def cause_and_names(self) -> str:
        """The cause in words, and the names under which ``verify`` allows it."""
        names = f" (allow: {' and '.join(self.near_rules)})" if self.near_rules else ""
        return f"{self.cause or ''}{names}"

    def __str__(self) -> str:
        numbers = [f"{name} {_short(getattr(self, name))}" for name in ("predicted", "measured", "allowed")]
        says_it = self.allowed == NOTHING or LIMIT in self.why  # a reason that has the numbers in it
        reason = f"{self.why}." if says_it else f"{', '.join(numbers)} ({self.why})"
        lines = [f"    {reason}"]
        if self.first_departure is not None:
            lines.append(f"    first wrong step: {self.first_departure}")
        if self.cause:  # first where there is no result, because the numbers then mean little
            lines.insert(0 if self.status == "inconclusive" else len(lines), f"    cause: {self.cause_and_names}")
        lines.insert(0, f"{STATUS_MARKS[self.status]} {self.status}: {self.claim}")
        return "\n".join(fill(line, WIDTH, subsequent_indent="    ", break_on_hyphens=False) for line in lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        said = "" if self.first_departure is None else f"<p>First wrong step: {self.first_departure}.</p>"
        return Ledger([self])._repr_html_() + said


def judge(name: str, claim: str, *, predicted: float, measured: float, allowed: float, why: str, **more) -> Verdict:
    """The verdict on a number: confirmed if |measured − predicted| ≤ allowed, else refuted.

    A measurement that is infinite or not a number makes the verdict inconclusive.

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
    """The verdict on a lower bound: confirmed if measured ≥ least, else refuted.

    Infinity counts as a number here. A measurement that is not a number makes the verdict inconclusive.

    Examples
    --------
    >>> said = {"claim": "A wrong rule is ten times round-off away", "why": "an order of magnitude"}
    >>> judge_at_least("wrong rule", least=10.0, measured=5.0, **said).status
    'refuted'
    """
    status: Status = "confirmed" if measured >= least else "refuted"
    if isnan(measured):
        status = "inconclusive"
    return Verdict(name, claim, f">= {least:g}", float(measured), "any more", why, status, **more)


def must_be_refuted(name: str, false: Verdict) -> Verdict:
    """The verdict on a negative control: confirmed if a claim that is known to be false was refuted.

    Examples
    --------
    >>> wrong = judge("third", "A half is 1/3", predicted=1 / 3, measured=0.5, allowed=0.0, why="it is exact")
    >>> print(must_be_refuted("control", wrong).claim)
    A false claim must fail. “A half is 1/3” failed, as it should (0.5 instead of 0.3333)
    """
    measured = _short(false.measured)
    limit = f"at most {_short(false.allowed)}" if false.predicted == 0 else _short(false.predicted)
    limit = limit.removeprefix(">= ") if isinstance(false.predicted, str) else limit
    has_failed = false.status == "refuted"
    outcome = "failed, as it should" if has_failed else f"is {false.status}, but should have failed"
    passes = f"{_short(false.predicted)} ± {_short(false.allowed)}"
    return Verdict(
        name=name,
        claim=f"A false claim must fail. “{false.claim}” {outcome} ({measured} instead of {limit})",
        predicted=MUST_FAIL,
        measured="failed" if has_failed else false.status,
        allowed=NOTHING,
        why=f"the false claim would pass with {passes.removesuffix(' ± any more')}",
        status="confirmed" if has_failed else "refuted",
        first_departure=false.first_departure,
        evidence=false.evidence,
    )


class Ledger(tuple[Verdict, ...]):
    """Verdicts as a table, in a terminal and in Jupyter.

    In a terminal each verdict is a row of numbers, with its claim below.

    Examples
    --------
    >>> half = judge("half", "A half is .5", predicted=0.5, measured=0.5, allowed=0.0, why="it is exact")
    >>> ledger = Ledger([half])
    >>> print(ledger)
      verdict  predicted  measured  allowed
    ✓ half           0.5       0.5        0
        A half is .5
    >>> ledger.counts
    '1 confirmed'
    """

    __slots__ = ()

    @property
    def counts(self) -> str:
        """The number of verdicts of each status, in words; a status without verdicts is omitted."""
        counted = Counter(verdict.status for verdict in self)
        said = [f"{counted[status]} {status}" for status in STATUS_MARKS if counted[status]]
        return ", ".join(said) or "no verdicts"

    def __str__(self) -> str:
        rows = [("predicted", "measured", "allowed")]
        rows += [(_short(v.predicted), _short(v.measured), _short(v.allowed)) for v in self]
        widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
        head, *numbers = ["".join(f"{cell:>{wide}}" for cell, wide in zip(row, widths, strict=True)) for row in rows]
        most = WIDTH - 2 - sum(widths)  # columns that are left for the names
        wide = max([len("verdict"), *(min(len(v.name), most) for v in self)])
        lines = [f"  {'verdict':{wide}}{head}"]
        for v, row in zip(self, numbers, strict=True):
            name = wrap(v.name, most) or [""]
            name[-1] = f"{name[-1]:{wide}}{row}"
            lines.append("\n  ".join([f"{STATUS_MARKS[v.status]} {name[0]}", *name[1:]]))
            lines.append(fill(v.claim, WIDTH, initial_indent="    ", subsequent_indent="    "))
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """A table. The status is a mark and a word, so that it can be read without colours."""
        head = "".join(f"<th style='text-align:left'>{title}</th>" for title in ("status", *COLUMNS))
        return f"<table><tr>{head}</tr>{''.join(map(_html_row, self))}</table>"


def _html_row(verdict: Verdict) -> str:
    claim, *cells = [escape(_short(getattr(verdict, column))) for column in COLUMNS]
    cells[-1] += f"; <b>cause:</b> {escape(verdict.cause_and_names)}" if verdict.cause else ""
    claim = f"<b>{escape(verdict.name)}</b><br>{claim}"  # verdicts on several optimizers may share a claim
    body = "".join(f"<td style='text-align:left'>{cell}</td>" for cell in (claim, *cells))
    said = f"{STATUS_MARKS[verdict.status]} {verdict.status}"
    style = f"text-align:left; white-space:nowrap; color:{STATUS_COLOURS[verdict.status]}"
    return f"<tr><td style='{style}'>{said}</td>{body}</tr>"


def _short(value) -> str:
    return f"{value:.4g}" if isinstance(value, float | int) else str(value)

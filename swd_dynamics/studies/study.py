"""A study: one claim of the theory, made falsifiable."""

from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from html import escape
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from swd_dynamics.plots.style import figure_png
from swd_dynamics.tasks.task import check_placement
from swd_dynamics.verdict import Ledger, Verdict

SHORT_FORM = (
    "The numbers in claims and captions are those of the full form of a study. The short form has fewer and shorter"
    " runs, so that its own numbers, in figures and verdicts, can differ."
)
PARAGRAPH = "\n\n"  # in a caption: what comes before it says how the figure is read


@dataclass(frozen=True)
class Setting:
    """The setting of a run of a study.

    quick : bool — fewer and shorter runs; the same claims
    device : str — where training runs, as torch names it
    progress : bool — whether to show a bar on standard error

    Examples
    --------
    >>> Setting(quick=True)
    Setting(quick=True, device='cpu', progress=False)
    """

    quick: bool = False
    device: str = "cpu"
    progress: bool = False

    def track(self, items: Iterable, what: str) -> Iterator:
        """The items, with a progress bar if one is wanted."""
        yield from tqdm(list(items), desc=what, disable=not self.progress, leave=False)


class Findings(NamedTuple):
    """The findings of a study: its verdicts, and the data of its figure.

    Examples
    --------
    >>> Findings(verdicts=[], data=None).verdicts
    []
    """

    verdicts: list[Verdict]
    data: Any


@dataclass(frozen=True)
class Outcome:
    """The outcome of a study: its claim, its figure and its verdicts.

    Attributes
    ----------
    study : Study
    ledger : Ledger — the verdicts
    figure : Figure
    quick : bool — whether the study ran in its short form, whose numbers may differ from those of the committed figures

    Examples
    --------
    >>> from swd_dynamics.studies import load
    >>> outcome = Outcome(load("stability"), Ledger(), Figure())
    >>> outcome.ledger.counts
    'no verdicts'
    """

    study: "Study"
    ledger: Ledger
    figure: Figure = field(repr=False)
    quick: bool = False

    @property
    def counts(self) -> str:
        """The number of verdicts of each status, and the form of the study.

        Examples
        --------
        >>> from swd_dynamics.studies import load
        >>> Outcome(load("stability"), Ledger(), Figure(), quick=True).counts
        'no verdicts (short form)'
        """
        return self.ledger.counts + " (short form)" * self.quick

    def __str__(self) -> str:
        return f"{self.study}\n{self.counts}\n{self.ledger}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        picture = b64encode(figure_png(self.figure)).decode()
        image = f'<img alt="figure of {self.study.name}" src="data:image/png;base64,{picture}"/>'
        said = [*self.study.caption.split(PARAGRAPH), SHORT_FORM * self.quick]
        below = "".join(f"<p>{escape(part)}</p>" for part in said if part)
        return f"{self.study._repr_html_()}<p>{self.counts}</p>{image}{below}{self.ledger._repr_html_()}"


@dataclass(frozen=True)
class Study:
    """One claim with its source; ``measure`` derives, simulates, records and compares, ``draw`` shows it.

    Attributes
    ----------
    name : str — as on the command line
    claim : str — one sentence that could be false
    source : str — where the claim is made
    measure : callable (Setting) → Findings
    draw : callable (data) → Figure — one claim, one figure
    caption : str — how the figure is read; after a PARAGRAPH what else was tested, and what the study does not show;
        empty where the claim says it all
    not_confirmed : frozenset of str — the names of the verdicts that the full form refutes or leaves undecided. They
        are findings too: published, and named here so that none of them is overlooked.

    Examples
    --------
    >>> from swd_dynamics.studies import load
    >>> print(load("stability"))  # doctest: +NORMALIZE_WHITESPACE
    stability: A run survives up to the curvature that the linear map of its step allows, decay included, and no
    further. So with momentum L2 allows larger learning rates than stable decay with the same λ and the same rest
    point.
        source: the Jury conditions (Jury 1964) of the derived linear map; stable decay as in arXiv 2011.11152
    """

    name: str
    claim: str
    source: str
    measure: Callable[[Setting], Findings]
    draw: Callable[[Any], Figure]
    caption: str = ""
    not_confirmed: frozenset[str] = frozenset()

    def run(self, *, quick: bool = True, device: str = "cpu", progress: bool = True) -> Outcome:
        """Run the study. Most studies take less than a minute in the short form, and some minutes in full.

        Parameters
        ----------
        quick, device, progress
            As in :class:`Setting`.

        Raises
        ------
        InputError
            If the device is not there.
        """
        check_placement(device, torch.float64)
        findings = self.measure(Setting(quick=quick, device=device, progress=progress))
        return Outcome(self, Ledger(findings.verdicts), self.draw(findings.data), quick)

    def __str__(self) -> str:
        return f"{self.name}: {self.claim}\n    source: {self.source}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<b>{escape(self.name)}</b>: {escape(self.claim)}<br><i>Source: {escape(self.source)}</i>"

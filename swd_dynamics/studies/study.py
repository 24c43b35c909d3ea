"""A study: one claim of the theory, made falsifiable."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from tqdm.auto import tqdm

from swd_dynamics.crosscheck import Verdict


@dataclass(frozen=True)
class Setting:
    """How a study is run.

    quick : bool — fewer and shorter runs; the same claims
    device : str — where training runs, as torch names it
    progress : bool — whether to show a bar on standard error
    """

    quick: bool = False
    device: str = "cpu"
    progress: bool = False

    def track(self, items: Iterable, what: str) -> Iterator:
        """The items, with a progress bar if one is wanted."""
        yield from tqdm(list(items), desc=what, disable=not self.progress, leave=False)


class Findings(NamedTuple):
    """What a study found: its verdicts, and whatever its figure is drawn from."""

    verdicts: list[Verdict]
    data: Any


@dataclass(frozen=True)
class Study:
    """One claim with its source; ``measure`` derives, simulates, records and compares, ``draw`` shows it.

    Attributes
    ----------
    name : str — as on the command line
    claim : str — one sentence that could be false
    source : str — where it is made
    measure : callable (Setting) → Findings
    draw : callable (data) → Figure — one claim, one figure
    """

    name: str
    claim: str
    source: str
    measure: Callable[[Setting], Findings]
    draw: Callable[[Any], Figure]

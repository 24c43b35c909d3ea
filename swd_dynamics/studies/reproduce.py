"""Run studies, print their verdicts, and hold the statuses against the committed ledger."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from swd_dynamics import studies
from swd_dynamics.crosscheck import Verdict
from swd_dynamics.errors import InputError
from swd_dynamics.plots import write_figure
from swd_dynamics.studies.study import Setting

LEDGER = "verdicts.json"


@dataclass
class Reproduction:
    """What running studies gave.

    Attributes
    ----------
    verdicts : dict of study name to list of Verdict
    departures : list of str — verdicts whose status is not the committed one, each as a sentence
    written : list of Path — figures and the ledger
    """

    verdicts: dict[str, list[Verdict]] = field(default_factory=dict)
    departures: list[str] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)


def reproduce(names: Iterable[str] = (), *, setting: Setting, out: Path, announce=print) -> Reproduction:
    """Run studies one after another; what is done is written before the next one starts.

    Parameters
    ----------
    names : iterable of str — all studies if empty
    setting : Setting
    out : Path — folder for PNG and SVG figures and ``verdicts.json``
    announce : callable (study, verdicts) — called after each study

    Raises
    ------
    UnknownName
        Before anything is run, if one of the names is no study.
    InputError
        If nothing can be written to ``out``.
    """
    chosen = [studies.load(name) for name in names or studies.MODULES]
    committed = read_ledger(committed_ledger())
    result = Reproduction()
    _writable(out)
    ledger = _stored(out / LEDGER)  # studies that are not run again keep their verdicts
    for study in chosen:
        findings = study.measure(setting)
        result.verdicts[study.name] = findings.verdicts
        result.written += write_figure(study.draw(findings.data), out / study.name)
        result.departures += departures(study.name, findings.verdicts, committed)
        announce(study, findings.verdicts)
        ledger[study.name] = [verdict.record() for verdict in findings.verdicts]
        _write_ledger(out / LEDGER, ledger)
    result.written.append(out / LEDGER)
    return result


def departures(study: str, verdicts: list[Verdict], committed: dict[str, dict[str, str]]) -> list[str]:
    """Where the statuses of a study differ from the committed ones, each a sentence; none if nothing is committed."""
    known = committed.get(study)
    if known is None:
        return []
    return [
        f"{study}: '{v.name}' is {v.status}, committed as {known.get(v.name, 'nothing')}"
        for v in verdicts
        if known.get(v.name) != v.status
    ]


def committed_ledger() -> Path:
    """The ledger that came with the package: beside this file in an installed one, in figures/ in a checkout."""
    installed = Path(__file__).with_name(LEDGER)
    return installed if installed.exists() else Path(__file__).parents[2] / "figures" / LEDGER


def read_ledger(path: Path) -> dict[str, dict[str, str]]:
    """Status by study and verdict; empty where there is no such file.

    Raises
    ------
    InputError
        If the file is no ledger.
    """
    return {study: {v["name"]: v["status"] for v in verdicts} for study, verdicts in _stored(path).items()}


def _stored(path: Path) -> dict[str, list[dict]]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))["studies"]
        return {
            name: [{**v, "name": v["name"], "status": v["status"]} for v in found] for name, found in content.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is no ledger of verdicts ({type(error).__name__}: {error}); remove it, or give another --out"
        ) from None


def _write_ledger(path: Path, ledger: dict[str, list[dict]]) -> None:
    story = {name: ledger[name] for name in [*studies.MODULES, *ledger] if name in ledger}  # in the order of the story
    temporary = path.with_suffix(".tmp")
    content = {"format": 1, "studies": story}
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"nothing can be written to {out}: {error.strerror}; give another folder with --out") from None

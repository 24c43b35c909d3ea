"""Run studies, print their verdicts, and compare the statuses with the committed ledger."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from swd_dynamics import studies
from swd_dynamics.errors import InputError
from swd_dynamics.plots import write_figure
from swd_dynamics.studies.page import WRITTEN, page
from swd_dynamics.studies.study import Setting
from swd_dynamics.verdict import Verdict

LEDGER, PAGE = "verdicts.json", "README.md"


@dataclass
class Reproduction:
    """The results of running studies.

    Attributes
    ----------
    verdicts : dict of study name to list of Verdict
    changed : list of str — the verdicts whose status is not the committed one, as sentences; of the short form without
        those that depend on the number of seeds, which is smaller there
    written : list of Path — figures, the ledger and the page
    """

    verdicts: dict[str, list[Verdict]] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)


def reproduce(names: Iterable[str] = (), *, setting: Setting, out: Path, announce=print) -> Reproduction:
    """Run studies one after another; the results of each are written before the next one starts.

    Parameters
    ----------
    names : iterable of str — all studies if empty
    setting : Setting
    out : Path — folder for PNG and SVG figures, ``verdicts.json`` and the page ``README.md`` that shows them
    announce : callable (study, verdicts) — called after each study

    Raises
    ------
    UnknownName
        Before anything is run, if a name is not that of a study.
    InputError
        If nothing can be written to ``out``, or its ``README.md`` was not written here.
    """
    chosen = [studies.load(name) for name in names or studies.MODULES]
    committed = read_ledger(committed_ledger())
    result = Reproduction()
    _writable(out)
    _ours(out / PAGE)
    ledger = _stored(out / LEDGER)  # a study that does not run now keeps its verdicts
    for study in chosen:
        findings = study.measure(setting)
        result.verdicts[study.name] = findings.verdicts
        result.written += write_figure(study.draw(findings.data), out / study.name)
        comparable = [v for v in findings.verdicts if v.seeds is None or not setting.quick]
        result.changed += changed_statuses(study.name, comparable, committed)
        announce(study, findings.verdicts)
        _enter(ledger, study.name, findings.verdicts, setting)
        _write(out / LEDGER, json.dumps(ledger, indent=1, ensure_ascii=False) + "\n")
        write_page(out)
    result.written += [out / LEDGER, out / PAGE]
    return result


def changed_statuses(study: str, verdicts: list[Verdict], committed: dict[str, dict[str, str]]) -> list[str]:
    """The verdicts of a study whose status is not the committed one, as sentences; none if nothing is committed."""
    known = committed.get(study)
    if known is None:
        return []
    return [
        f"{study}: '{v.name}' is {v.status}, committed as {known.get(v.name, 'nothing')}"
        for v in verdicts
        if known.get(v.name) != v.status
    ]


def write_page(folder: Path) -> None:
    """Write the page of a folder from the ledger and the figures in it; nothing is run.

    Raises
    ------
    InputError
        If the folder's ledger cannot be read, or its ``README.md`` was not written here.
    """
    _ours(folder / PAGE)
    _write(folder / PAGE, page(_stored(folder / LEDGER), folder))


def committed_ledger() -> Path:
    """The ledger of the package: in this folder if the package is installed, in figures/ in a checkout."""
    installed = Path(__file__).with_name(LEDGER)
    return installed if installed.exists() else Path(__file__).parents[2] / "figures" / LEDGER


def read_ledger(path: Path) -> dict[str, dict[str, str]]:
    """Status by study and verdict; empty where there is no such file.

    Raises
    ------
    InputError
        If the file is not a ledger.
    """
    return {study: {v["name"]: v["status"] for v in verdicts} for study, verdicts in _stored(path)["studies"].items()}


def _stored(path: Path) -> dict:
    """A ledger from disk, or a new one: the verdicts of each study, which ran in short form, and which on a GPU."""
    if not path.exists():
        return {"format": 1, "quick": [], "cards": {}, "studies": {}}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        verdicts = {
            name: [{**v, "name": v["name"], "status": v["status"]} for v in found]
            for name, found in content["studies"].items()
        }
        cards = {name: str(card) for name, card in content.get("cards", {}).items()}
        return {"format": 1, "quick": list(content.get("quick", [])), "cards": cards, "studies": verdicts}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not a ledger of verdicts ({type(error).__name__}: {error}); remove it, or give another --out"
        ) from None


def _enter(ledger: dict, study: str, verdicts: list[Verdict], setting: Setting) -> None:
    """Replace a study's verdicts; the studies stay in the order of MODULES."""
    found = ledger["studies"] | {study: [verdict.record() for verdict in verdicts]}
    ledger["studies"] = {name: found[name] for name in [*studies.MODULES, *found] if name in found}
    is_quick = {name: name in ledger["quick"] for name in found} | {study: setting.quick}
    ledger["quick"] = [name for name in ledger["studies"] if is_quick[name]]
    cards = {name: card for name, card in ledger["cards"].items() if name != study}
    ledger["cards"] = cards | ({study: _card(setting.device)} if _card(setting.device) else {})


def _card(device: str) -> str | None:
    """The name of a GPU; None for the CPU."""
    kind = torch.device(device).type
    return torch.cuda.get_device_name(device) if kind == "cuda" else None if kind == "cpu" else kind


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _ours(readme: Path) -> None:
    """Refuse to write over a README.md that was not written here."""
    if readme.exists() and not readme.read_bytes().startswith(WRITTEN.encode()):
        raise InputError(f"{readme} was not written by reproduce and would be lost; move it, or give another --out")


def _writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"nothing can be written to {out}: {error.strerror}; give another folder with --out") from None

"""An atlas of weight decay: every optimizer of a package, audited or listed with the reason why not."""

import csv
import inspect
import json
import math
import multiprocessing
import operator
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from io import StringIO
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any

from swd_dynamics.auditing.audit import audit
from swd_dynamics.auditing.kind import KINDS
from swd_dynamics.bench.named import imported
from swd_dynamics.errors import InputError

ARGUMENTS = {"lr": 1e-2, "weight_decay": 0.1}  # given where a constructor names them; the rest are its defaults
PHASES = ("first step", "settled", "gradients / 10", "lr / 2")
NOT_AUDITED = "not audited"


@dataclass(frozen=True)
class Entry:
    """One optimizer: what the audit found, :meth:`Audit.to_dict`, or why there is none."""

    name: str
    found: dict[str, Any] | None
    reason: str = ""

    @property
    def own_nominal(self) -> float:
        """ηλ as its parameter groups have them; NaN where unknown."""
        numbers = [(self.found or {}).get(name) for name in ("lr", "weight_decay")]
        return math.prod(math.nan if number is None else number for number in numbers)

    @property
    def kind(self) -> str:
        """The kind of its decay, or "not audited"."""
        return self.found["kind"] if self.found else NOT_AUDITED

    def rate(self, phase: str) -> float:
        """R in the median over the weights; NaN where unknown."""
        value = self.found["phases"][phase]["R"] if self.found else None
        return float("nan") if value is None else value

    def row(self) -> dict[str, Any]:
        """The entry as one line of a table."""
        found = self.found or {}
        phases = found.get("phases", {})
        rates = {f"R, {name}": phases.get(name, {}).get("R") for name in PHASES}
        settled = phases.get("settled", {})
        wide = {f"settled {column}": settled.get(column) for column in ("5 %", "95 %", "η_eff", "R/η_eff", "R/ηλ")}
        numbers = {name: found.get(name) for name in ("lr", "weight_decay", "delay", "lr_exponent", "decay_exponent")}
        said = self.reason or "; ".join(found.get("evidence", ()))
        return {"optimizer": self.name, "kind": self.kind, **rates, **wide, **numbers, "evidence": said}


@dataclass(frozen=True)
class Atlas:
    """All optimizers of a package, sorted by kind and name, and what they were audited with.

    ``interrupted`` says whether some are missing because the user stopped it.
    """

    package: str
    versions: dict[str, str]
    entries: tuple[Entry, ...]
    interrupted: bool = False

    @property
    def stem(self) -> str:
        """What the files are called, without their endings."""
        return self.package.replace(".", "-")

    @property
    def title(self) -> str:
        """What was found, with which arguments."""
        arguments = f"η = {ARGUMENTS['lr']:g}, λ = {ARGUMENTS['weight_decay']:g} where a constructor takes them"
        return f"Weight decay in {self.package} ({arguments}):\n{self.counts}"

    @property
    def counts(self) -> str:
        """How many optimizers are of each kind."""
        counted = {kind: sum(entry.kind == kind for entry in self.entries) for kind in (*KINDS, NOT_AUDITED)}
        return ", ".join(f"{count} {kind}" for kind, count in counted.items() if count)

    @property
    def audited(self) -> bool:
        """Whether any optimizer was audited, so that there is something to keep."""
        return any(entry.found for entry in self.entries)

    @property
    def nominal(self) -> float:
        """ηλ."""
        return ARGUMENTS["lr"] * ARGUMENTS["weight_decay"]

    def __str__(self) -> str:
        lines = [f"{'':26}{'kind':13}" + "".join(f"{phase:>16}" for phase in PHASES) + "    R/η_eff  why"]
        for entry in self.entries:
            row = entry.row()
            rates = "".join(f"{_short(entry.rate(phase)):>16}" for phase in PHASES)
            lines.append(
                f"{entry.name:26}{entry.kind:13}{rates}{_short(row['settled R/η_eff']):>11}  {row['evidence']}"
            )
        return "\n".join([*lines, f"{self.package}: {self.counts}"])

    def write(self, folder: Path) -> list[Path]:
        """Write the table as CSV, and everything as JSON, named after the package; return where."""
        folder.mkdir(parents=True, exist_ok=True)
        table, full = (folder / f"{self.stem}{ending}" for ending in (".csv", ".json"))
        rows = [{**entry.row(), "versions": _stated(self.versions)} for entry in self.entries]
        with table.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        entries = [{"name": e.name, "kind": e.kind, "reason": e.reason, "audit": e.found} for e in self.entries]
        whole = {"package": self.package, "arguments": ARGUMENTS, "versions": self.versions, "optimizers": entries}
        full.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return [table, full]


def atlas(package: str = "torch.optim", *, jobs: int = 2, limit: float = 20.0, progress: bool = False) -> Atlas:
    """Audit every optimizer of a package: those it names and that can be made with their default arguments.

    η is .01 and λ .1 where a constructor has ``lr`` and ``weight_decay``. Each optimizer runs in a process of its own,
    so that one that hangs, or takes the process down, is a line of the atlas like the others. Importing a package runs
    its code. A script that calls this needs no ``if __name__ == "__main__":``, for no process runs the script again;
    so what the script itself defines cannot be audited here.

    Parameters
    ----------
    package : str
        A module that names its optimizers, as ``torch.optim`` or ``pytorch_optimizer``; also one in the current
        directory.
    jobs : int
        Processes at a time, 1 or more.
    limit : float
        Seconds an optimizer may take, more than 0.
    progress : bool
        Whether to show a bar.

    Returns
    -------
    Atlas
        None is dropped: those that cannot be audited have the reason. After an interrupt, with what was done so far.

    Raises
    ------
    InputError
        If the package cannot be imported or names no optimizer, or ``jobs`` or ``limit`` is out of range.
    """
    from tqdm.auto import tqdm

    _check(jobs, limit)
    names = optimizers_of(package)
    done: dict[str, Entry] = {}
    interrupted = False
    with tqdm(total=len(names), desc=package, disable=not progress) as bar:
        try:
            for entry in _audited(package, names, jobs, limit):
                done[entry.name] = entry
                bar.set_postfix_str(entry.name)
                bar.update()
        except KeyboardInterrupt:
            interrupted = True
    found = [done.get(name, Entry(name, None, "interrupted before its turn")) for name in names]
    order = {kind: i for i, kind in enumerate((*KINDS, NOT_AUDITED))}
    entries = sorted(found, key=lambda entry: (order[entry.kind], entry.name.lower()))
    return Atlas(package, _versions(package), tuple(entries), interrupted)


def _check(jobs: int, limit: float) -> None:
    try:
        enough = operator.index(jobs) >= 1
    except TypeError:
        enough = False
    if not enough:
        raise InputError(f"jobs = {jobs!r} is not allowed: it must be a whole number, 1 or more")
    if not isinstance(limit, int | float) or not 0 < limit < math.inf:
        raise InputError(f"limit = {limit!r} is not allowed: it must be seconds, more than 0 and finite")


def optimizers_of(package: str) -> list[str]:
    """The names under which a module has torch optimizers.

    Examples
    --------
    >>> optimizers_of("torch.optim")[:3]
    ['ASGD', 'Adadelta', 'Adafactor']
    """
    names = sorted(name for name, value in vars(imported(package)).items() if _is_optimizer(value))
    if not names:
        raise InputError(f"{package} names no torch optimizer: give a module that does, as torch.optim")
    return names


def _is_optimizer(value: Any) -> bool:
    if not isinstance(value, type) or inspect.isabstract(value):
        return False
    return any((base.__module__, base.__name__) == ("torch.optim.optimizer", "Optimizer") for base in value.__mro__[1:])


def _audited(package: str, names: Sequence[str], jobs: int, limit: float) -> Iterator[Entry]:
    """The entries, as they are done; whatever still runs when the caller stops is ended."""
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":  # import once, not in every process; torch's first optimizer imports torch._dynamo
        context.set_forkserver_preload(["swd_dynamics.bench.response", "torch._dynamo", package])
    waiting, running = list(reversed(names)), {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop()
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(theirs, package, name), daemon=True)
                with _empty_main():
                    process.start()
                theirs.close()
                running[ours] = (name, process, time.monotonic() + limit)
            soonest = min(deadline for _, _, deadline in running.values())
            ready = wait(list(running), timeout=max(0.0, soonest - time.monotonic()))
            late = [pipe for pipe, (_, _, deadline) in running.items() if time.monotonic() > deadline]
            for pipe in {*ready, *late}:
                name, process, _ = running.pop(pipe)
                entry = _received(pipe, name) if pipe in ready else Entry(name, None, f"took more than {limit:g} s")
                _end(process)
                yield entry
    finally:
        for _, process, _ in running.values():
            _end(process)


@contextmanager
def _empty_main() -> Iterator[None]:
    """A ``__main__`` without a file: where it has one, multiprocessing runs the caller's script again in every process.

    Nothing of it is needed there, and without a guard it would start processes in its turn.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _received(pipe: Any, name: str) -> Entry:
    try:
        return pipe.recv()
    except EOFError:
        return Entry(name, None, "its process ended without an answer")


def _end(process: Any) -> None:
    process.kill()
    process.join()


def _work(pipe: Connection, package: str, name: str) -> None:
    """In a process of its own: audit one optimizer, whatever it prints or warns of."""
    from swd_dynamics.bench.interventions import one_thread

    one_thread()
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        try:
            kind = getattr(imported(package), name)
            named = inspect.signature(kind).parameters
            given = {argument: value for argument, value in ARGUMENTS.items() if argument in named}
            entry = Entry(name, audit(partial(kind, **given)).to_dict())
        except (Exception, SystemExit) as error:  # a third party's, whatever it is
            said = str(error) if isinstance(error, Exception) else f"{type(error).__name__}: {error}"
            entry = Entry(name, None, " ".join(said.split())[:300])
    pipe.send(entry)


def _versions(package: str) -> dict[str, str]:
    root = package.partition(".")[0]
    found = {}
    for distribution in dict.fromkeys(["swd-dynamics", "torch", "numpy", *packages_distributions().get(root, ())]):
        try:
            found[distribution] = version(distribution)
        except PackageNotFoundError:
            found[distribution] = "unknown"
    return found


def _stated(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _short(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3g}"

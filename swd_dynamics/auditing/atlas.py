"""An atlas of weight decay: each optimizer of a package is audited, or listed with the reason why it cannot be."""

import csv
import inspect
import json
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from io import StringIO
from pathlib import Path
from textwrap import shorten, wrap
from typing import Any

from swd_dynamics.auditing.audit import audit, short
from swd_dynamics.auditing.features import NONLINEAR
from swd_dynamics.auditing.kind import KINDS
from swd_dynamics.auditing.robustness import bfloat16_in_words, robustness, spike_in_words
from swd_dynamics.bench.named import imported
from swd_dynamics.checks import whole_number
from swd_dynamics.errors import InputError

# Where a constructor takes them; all others are its defaults. The last two are of vectors in Muon and its relatives.
ARGUMENTS = {"lr": 1e-2, "weight_decay": 0.1, "adamw_lr": 1e-2, "adamw_wd": 0.1}
PHASES = ("first step", "settled", "gradients / 10", "lr / 2")
SETTLED, FALLEN, SLOW = PHASES[1:]
NOT_AUDITED = "not audited"
DISTINCT = tuple(kind for kind in KINDS if kind != "all the same")  # kinds that exclude each other
NOMINAL = 0.02  # relative: how far R may be from ηλ; with half or twice as much no optimizer in figures/atlas changes
# The decay of torch.optim's optimizers by torch's documentation; None without decay. Others may bear the same name.
TORCH_KINDS: dict[str, str | None] = {
    **dict.fromkeys(("adadelta", "adagrad", "adam", "adamax", "asgd", "nadam", "radam", "rmsprop", "sgd"), "L2"),
    **dict.fromkeys(("adafactor", "adamw", "muon"), "decoupled"),
}
COLUMNS = 100  # of the table in a terminal
NAMED = 5  # optimizers that a claim names; with twice as many it would not fit into two lines
DECOUPLED_NAMES = ("AdamW", "SGDW")  # a name with one of these in it says that the decay is decoupled


@dataclass(frozen=True)
class AtlasEntry:
    """One optimizer: what its audit found, or the reason why it was not audited.

    ``found`` is :meth:`Audit.to_dict` with the two entries of :func:`~swd_dynamics.auditing.robustness.robustness`.
    ``seconds`` is how long a processor took, or the limit that was exceeded.
    """

    name: str
    found: dict[str, Any] | None
    reason: str = ""
    seconds: float = 0.0

    @property
    def kind(self) -> str:
        """The kind of its decay, or "not audited"."""
        return self.found["kind"] if self.found else NOT_AUDITED

    @property
    def reasons(self) -> str:
        """Why it has this kind, or why it was not audited."""
        return self.reason or "; ".join((self.found or {}).get("reasons", ()))

    @property
    def bfloat16(self) -> str:
        """Whether its decay survives in bfloat16: "kept", "lost", "partly" with the share that is left, or "–"."""
        return bfloat16_in_words((self.found or {}).get("bfloat16", {}))

    @property
    def spike(self) -> str:
        """The largest step after gradients that were a thousand times too large, and how long it took to recover."""
        return spike_in_words((self.found or {}).get("spike", {}))

    @property
    def nominal(self) -> float:
        """ηλ of its parameter groups; NaN where one of the two is unknown."""
        numbers = [(self.found or {}).get(name) for name in ("lr", "weight_decay")]
        return math.prod(math.nan if number is None else number for number in numbers)

    @property
    def named(self) -> str | None:
        """The kind of decay that its name says, or None.

        A name says what the optimizer of that name in torch.optim does, or that an AdamW or SGDW decouples.

        Examples
        --------
        >>> [AtlasEntry(name, None).named for name in ("NAdam", "StableAdamW", "Lion")]
        ['L2', 'decoupled', None]
        """
        of_torch = TORCH_KINDS.get(self.name.lower())
        return of_torch or ("decoupled" if any(part in self.name for part in DECOUPLED_NAMES) else None)

    @property
    def differs_from_name(self) -> bool:
        """Whether the kind that was found is not the kind that its name says.

        No name is wrong about an optimizer in which all kinds coincide.
        """
        return self.named is not None and self.kind in DISTINCT and self.kind != self.named

    @property
    def contradicts_name(self) -> bool:
        """Whether it differs from its name, and the numbers are enough to say so.

        They are not enough if the kind is "other" and R could not be measured, or the name says "decoupled" and R is
        ηλ in all phases but one.
        """
        nearly = self.kind == "other" and self.named == "decoupled" and self._nominal_phases >= len(PHASES) - 1
        return self.differs_from_name and self.measured and not nearly

    @property
    def measured(self) -> bool:
        """Whether the audit found a kind, or at least an R that is known, not 0, and the same for half a perturbation.

        Of kind "other" are also the optimizers in which R could not be measured.
        """
        if not self.found or self.kind != "other":
            return self.found is not None
        rates = [phase["R"] for phase in self.found["phases"].values()]
        return None not in rates and any(rates) and (self.found.get("mismatch") or 0) <= NONLINEAR

    @property
    def decays_by_nominal(self) -> bool:
        """Whether R = ηλ, before and after the gradients fall to a tenth, for nine weights in ten before."""
        return self._is_nominal(SETTLED) and abs(self.ratio(FALLEN) - 1) <= NOMINAL

    @property
    def _nominal_phases(self) -> int:
        return sum(map(self._is_nominal, self.found["phases"])) if self.found else 0

    def _is_nominal(self, phase: str) -> bool:
        """Whether R = ηλ in a phase, for nine weights in ten."""
        return all(abs(self.ratio(phase, column) - 1) <= NOMINAL for column in ("5 %", "R", "95 %"))

    def ratio(self, phase: str, column: str = "R") -> float:
        """R/ηλ with the phase's η: the median over the weights, or another column; NaN where it is unknown."""
        value = self.found["phases"][phase].get(column) if self.found else None
        nominal = self.nominal / 2 if phase == SLOW else self.nominal
        return math.nan if value is None or not nominal else value / nominal

    def line(self) -> str:
        """The entry as one line for a terminal."""
        if not self.found:
            why = self.reason.rpartition("gradients alone: ")[2]
            return f"{self.name:22}{self.kind:15}  {shorten(why, COLUMNS - 39, placeholder='…')}"
        seen = [*(self.ratio(SETTLED, column) for column in ("R", "5 %", "95 %")), self.ratio(FALLEN)]
        remark = f" name says {self.named}" if self.contradicts_name else ""
        numbers = "".join(f"{short(ratio):>9}" for ratio in seen)
        return f"{self.name:22}{self.kind:15}{numbers}{self.bfloat16.partition(' ')[0]:>7}{remark}"

    def row(self) -> dict[str, Any]:
        """The entry as one line of a table."""
        found = self.found or {}
        phases = found.get("phases", {})
        rates = {f"R, {name}": phases.get(name, {}).get("R") for name in PHASES}
        settled = phases.get("settled", {})
        columns = ("5 %", "95 %", "η_eff", "R/η_eff", "R/ηλ")
        spread = {f"settled {column}": settled.get(column) for column in columns}
        names = ("lr", "weight_decay", "delay", "lr_exponent", "decay_exponent")
        numbers = {name: found.get(name) for name in names}
        kept, spike = found.get("bfloat16", {}), found.get("spike", {})
        more = {"bfloat16": self.bfloat16, "kept, R = 2^-11": kept.get("weak"), "kept, R = 2^-6": kept.get("strong")}
        more |= {f"spike {name}": spike.get(name) for name in ("peak", "lowest", "recovery", "followed")}
        entry = {"optimizer": self.name, "kind": self.kind}
        last = {"seconds": self.seconds, "reasons": self.reasons}
        return {**entry, **rates, **spread, **numbers, **more, **last}


@dataclass(frozen=True)
class Atlas:
    """All optimizers of a package, sorted by kind and name.

    ``versions`` are those of the libraries. ``interrupted`` says whether the user stopped the atlas, so that some
    optimizers were not audited.
    """

    package: str
    versions: dict[str, str]
    entries: tuple[AtlasEntry, ...]
    interrupted: bool = False

    @property
    def stem(self) -> str:
        """The name of the files, without their endings."""
        return self.package.replace(".", "-")

    @property
    def claim(self) -> str:
        """What the audits found, in one sentence: which names mislead, and how many optimizers have R ≠ ηλ."""
        wrong = [entry.name for entry in self.entries if entry.contradicts_name]
        decays = [entry for entry in self.entries if entry.measured and entry.nominal > 0]
        others = sum(not entry.decays_by_nominal for entry in decays)
        names = " and ".join(filter(None, (", ".join(wrong[:-1]), *wrong[-1:])))
        if len(wrong) > NAMED:
            names = f"{len(wrong)} optimizers"
        do, their = ("does", "its name says") if len(wrong) == 1 else ("do", "their names say")
        said = f"{names} {do} not decay as {their},\nand" if wrong else "no optimizer contradicts its name,\nbut"
        counted = (
            f"the decay rate R is not ηλ in {others} of the {len(decays)} optimizers whose decay could be measured"
        )
        return f"{self.package}: {said} {counted}"

    @property
    def arguments(self) -> str:
        """The arguments of the audits."""
        return f"η = {ARGUMENTS['lr']:g}, λ = {ARGUMENTS['weight_decay']:g} where a constructor takes them"

    @property
    def counts(self) -> str:
        """The number of optimizers of each kind."""
        counted = Counter(entry.kind for entry in self.entries)
        return ", ".join(f"{count} {kind}" for kind, count in counted.items())

    @property
    def bfloat16_counts(self) -> str:
        """The number of optimizers that keep weak decay in bfloat16, that lose it, and so on."""
        words = {"–": "unknown or without decay", "fails": "fail in bfloat16"}
        counted = Counter(entry.bfloat16.partition(" ")[0] for entry in self.entries if entry.found)
        return ", ".join(f"{count} {words.get(word, word)}" for word, count in counted.most_common())

    @property
    def audited(self) -> bool:
        """Whether any optimizer was audited, so that the atlas is worth a file."""
        return any(entry.found for entry in self.entries)

    def __str__(self) -> str:
        head = ("R/ηλ", "5 %", "95 %", "later")
        lines = [f"{'':22}{'kind':15}" + "".join(f"{name:>9}" for name in head) + f"{'bf16':>7}"]
        lines += [entry.line() for entry in self.entries]
        lines.append("R/ηλ: median and range over the weights; later: median after the gradients fell to a tenth;")
        lines.append("bf16: whether decay with R = 2⁻¹¹ is kept where weights are bfloat16")
        return "\n".join([*lines, *wrap(f"{self.claim}.", COLUMNS), *wrap(f"By kind: {self.counts}", COLUMNS)])

    def write(self, folder: Path) -> list[Path]:
        """Write the table as CSV, and everything as JSON, named after the package; return the two paths."""
        folder.mkdir(parents=True, exist_ok=True)
        table, full = (folder / f"{self.stem}{ending}" for ending in (".csv", ".json"))
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        rows = [{**entry.row(), "versions": versions} for entry in self.entries]
        with table.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        entries = [
            {"name": e.name, "kind": e.kind, "reason": e.reason, "seconds": e.seconds, "audit": e.found}
            for e in self.entries
        ]
        whole = {
            "package": self.package,
            "arguments": ARGUMENTS,
            "versions": self.versions,
            "optimizers": entries,
        }
        full.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return [table, full]


def read_atlas(path: Path) -> Atlas:
    """The atlas that :meth:`Atlas.write` wrote as JSON.

    Raises
    ------
    InputError
        If the file is not an atlas.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        names = ("name", "audit", "reason", "seconds")
        entries = tuple(AtlasEntry(*(each[name] for name in names)) for each in stored["optimizers"])
        return Atlas(stored["package"], stored["versions"], entries)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not an atlas ({type(error).__name__}: {error}); remove it") from None


def atlas(package: str = "torch.optim", *, jobs: int = 2, limit: float = 20.0, progress: bool = False) -> Atlas:
    """Audit every optimizer of a package that the package names and that can be made with its default arguments.

    η is .01 and λ .1 where a constructor has ``lr`` and ``weight_decay``. Importing a package runs its code. Each
    optimizer runs in a process of its own: if it hangs, or takes the process down, it becomes an entry with a reason.
    A script needs no ``if __name__ == "__main__":``, because no process runs the script again. So optimizers that the
    script itself defines cannot be audited here.

    Parameters
    ----------
    package : str
        A module that names its optimizers, as ``torch.optim`` or ``pytorch_optimizer``; also a module in the current
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
        With every optimizer: those that cannot be audited have the reason. After an interrupt (Ctrl-C) it has what
        was done so far.

    Raises
    ------
    InputError
        If the package cannot be imported or names no optimizer, or ``jobs`` or ``limit`` is out of range.
    """
    from tqdm.auto import tqdm

    jobs = whole_number("jobs", jobs, least=1)
    if not isinstance(limit, int | float) or not 0 < limit < math.inf:
        raise InputError(f"limit = {limit!r} is not allowed: it must be seconds, more than 0 and finite")
    names = optimizers_of(package)
    done: dict[str, AtlasEntry] = {}
    interrupted = False
    with tqdm(total=len(names), desc=package, disable=not progress) as bar:
        try:
            for entry in _audited(package, names, jobs, limit):
                done[entry.name] = entry
                bar.set_postfix_str(entry.name)
                bar.update()
        except KeyboardInterrupt:
            interrupted = True
    found = [done.get(name, AtlasEntry(name, None, "interrupted before its turn")) for name in names]
    order = {kind: i for i, kind in enumerate((*KINDS, NOT_AUDITED))}
    entries = sorted(found, key=lambda entry: (order[entry.kind], entry.name.lower()))
    return Atlas(package, _versions(package), tuple(entries), interrupted)


def optimizers_of(package: str) -> list[str]:
    """The names under which a module has torch optimizers, or optimizers derived from a copy of torch's base class.

    Names that a module makes only when they are asked for are found if they are in its ``__all__``.

    Examples
    --------
    >>> optimizers_of("torch.optim")[:3]
    ['ASGD', 'Adadelta', 'Adafactor']
    """
    module = imported(package)
    listed = {*vars(module), *filter(partial(hasattr, module), getattr(module, "__all__", ()))}
    names = sorted(name for name in listed if _is_optimizer(getattr(module, name)))
    if not names:
        raise InputError(f"{package} contains no torch optimizer: give a module that does, for example torch.optim")
    return names


def _is_optimizer(value: Any) -> bool:
    if not isinstance(value, type) or inspect.isabstract(value):
        return False
    derived = "Optimizer" in [base.__name__ for base in value.__mro__[1:]]
    return derived and all(hasattr(value, method) for method in ("step", "zero_grad", "add_param_group"))


def _audited(package: str, names: Sequence[str], jobs: int, limit: float) -> Iterator[AtlasEntry]:
    """The entries, as they are done."""
    from swd_dynamics.bench.processes import in_processes

    preload = ["swd_dynamics.bench.response", "torch._dynamo", package]  # torch's first optimizer imports the second
    audit_one = partial(_audit_quietly, package)
    for outcome in in_processes(audit_one, names, jobs=jobs, limit=limit, preload=preload, fresh=True):
        yield AtlasEntry(outcome.work, outcome.result, outcome.reason[:300], round(outcome.seconds, 1))


def _audit_quietly(package: str, name: str) -> dict[str, Any]:
    """Audit one optimizer, whatever it prints or warns of."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        made = getattr(imported(package), name)
        taken = inspect.signature(made).parameters
        given = {argument: value for argument, value in ARGUMENTS.items() if argument in taken}
        factory = partial(made, **given)
        found = audit(factory).to_dict()
        return found | robustness(factory, found["phases"][SETTLED]["R"])


def _versions(package: str) -> dict[str, str]:
    root = package.partition(".")[0]
    found = {}
    for distribution in dict.fromkeys(["swd-dynamics", "torch", "numpy", *packages_distributions().get(root, ())]):
        try:
            found[distribution] = version(distribution)
        except PackageNotFoundError:
            found[distribution] = "unknown"
    return found

"""The page of a folder of atlases: what each package's names promise, what was measured, and every optimizer."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from swd_dynamics.auditing.atlas import (
    DISTINCT,
    FALLEN,
    NOMINAL,
    NOT_AUDITED,
    PHASES,
    SETTLED,
    Atlas,
    AtlasEntry,
    read_atlas,
)
from swd_dynamics.auditing.audit import short
from swd_dynamics.auditing.features import NONLINEAR
from swd_dynamics.auditing.robustness import KEPT, LOST
from swd_dynamics.bench.low_precision import SHRINKAGE, WEAK
from swd_dynamics.bench.spikes import SPIKE_FACTOR, WITHIN
from swd_dynamics.errors import InputError
from swd_dynamics.studies.atlas_remarks import ATLAS_REMARKS
from swd_dynamics.studies.page import as_markdown

PAGE = "README.md"
WRITTEN = "<!-- Written by swd-dynamics atlas from the JSON files in this folder: what is changed by hand is lost. -->"
INTRODUCTION = f"""\
Which optimizers of a package decay differently from what their names and arguments say? Each optimizer is run as a
black box. Its weights are perturbed, and the decay rate R is the fraction of the perturbation that one step removes.

- Most users expect **R = ηλ**, with η for `lr` and λ for `weight_decay`, as in AdamW. The pictures show the optimizers
  in which R/ηλ is not 1, and those whose name says another kind. R counts as ηλ if it differs by at most {NOMINAL:.0%}
  for nine weights in ten when the run has settled, and for the median weight after the gradients fell to a tenth.
  Optimizers with R = ηλ or with R/ηλ below 0.0001 are counted below the picture and stand only in the tables.
- **A name** says a kind of decay if torch.optim has an optimizer of that name (then it is the kind in torch's
  documentation), or if AdamW or SGDW is part of the name, which says *decoupled*. A contradiction is not a mistake,
  because two methods can have the same name. But a λ that was tuned for one of them does not fit the other.
- **Not called a contradiction** is an optimizer of kind *other* whose R could not be measured, for example because
  half the perturbation has an R that differs by more than {NONLINEAR:.0%}. Nor is an optimizer of kind *other* whose
  name says *decoupled*, if R is within {NOMINAL:.0%} of ηλ for nine weights in ten in all phases but one. The phases
  are {", ".join(PHASES)}.
- **L2**: the decay is added to the gradient, so that R differs from weight to weight in adaptive optimizers.
  **Decoupled**: R is ηλ, or a multiple of it, for every weight. **Stable**: R is proportional to the effective learning
  rate. **Independent**: R is λ, or λη/η₀ with the first η as η₀, so that the size of η does not matter. **Corrected**:
  R falls with η² in a run. **Cautious**: R is ηλ, but only of the weights that the step itself makes smaller.
  **Preconditioned**: R of each weight is λ times the η_eff of that weight, and the decay is not added to the gradient.
  **All the same**: the optimizer has neither momentum nor a preconditioner, so that L2, decoupled and stable
  decay coincide. **Other**: none of these in every phase, or R could not be measured.
- **bfloat16**: is the decay still there if the weights are bfloat16? λ is set so that R = 2⁻¹¹. A bfloat16 changes by
  2⁻⁹ of itself or more, or not at all, so that a weight that is multiplied by 1 − R and then rounded keeps its old
  value: such decay is *lost*, whatever the number of steps. It is *kept* where decay and update are added before they
  are rounded, as in L2 and in fused kernels, or where a copy of the weights has more digits. The share that is left is
  measured: it is the difference that decay makes to the weights after {SHRINKAGE[WEAK]} steps, in bfloat16 compared
  with the difference in full precision; *kept* is {KEPT:.0%} or more, *lost* {LOST:.0%} or less. The CSV file has the
  share for R = 2⁻⁶, which is above the limit, too.
- **spike**: the gradients of one step are {SPIKE_FACTOR:g} times as large, with λ = 0. The first number is the largest
  step from then on, compared with the same step without the spike. The second is the number of steps until step sizes
  are within a factor of {WITHIN:g} of usual, and stay there. After a spike Adam's steps are too *small* for long.
- **s**: seconds of one processor for the measurements of this optimizer.
- Each optimizer has the default arguments of its package except η and λ. With other arguments it may be of another
  kind."""
HEAD = ("optimizer", "R/ηλ", "after the gradients fell to a tenth", "bfloat16", "spike", "s", "why")
MISNAMED_HEAD = ("optimizer", "its name says", "measured", *HEAD[1:])


def write_atlas_page(folder: Path) -> Path:
    """Write the page of all atlases whose JSON files are in a folder; nothing is audited.

    Raises
    ------
    InputError
        If the folder has a ``README.md`` that was not written here.
    """
    check_atlas_page(folder)
    (folder / PAGE).write_text(atlas_page(folder), encoding="utf-8")
    return folder / PAGE


def check_atlas_page(folder: Path) -> None:
    """Refuse to write over a README.md that was not written here."""
    path = folder / PAGE
    if path.exists() and not path.read_bytes().startswith(WRITTEN.encode()):
        raise InputError(f"{path} was not written by atlas and would be lost; move it, or give another --out")


def atlas_page(folder: Path) -> str:
    """The page as GitHub's Markdown, made from the JSON files and the pictures in the folder alone."""
    parts = [WRITTEN, "# The atlas of weight decay", INTRODUCTION]
    atlases = sorted(_atlases(folder), key=lambda found: (len(found.entries), found.package))
    for found in atlases:
        parts += _section(found, folder)
    parts += _namesakes(atlases)
    return "\n\n".join(parts) + "\n"


def _atlases(folder: Path) -> Iterator[Atlas]:
    """The atlases in a folder, which may have other JSON files, too."""
    for path in folder.glob("*.json"):
        with suppress(InputError):
            yield read_atlas(path)


def _section(found: Atlas, folder: Path) -> list[str]:
    versions = ", ".join(f"{name} {number}" for name, number in found.versions.items())
    misnamed = [entry for entry in found.entries if entry.contradicts_name]
    parts = [f"## {as_markdown(found.package)}", f"**{as_markdown(found.claim)}.**", *_picture(found, folder)]
    if misnamed:
        parts += ["Optimizers that do not decay as their names say:", _table(MISNAMED_HEAD, map(_misnamed, misnamed))]
    if doubtful := [entry.name for entry in found.entries if entry.differs_from_name and not entry.contradicts_name]:
        why = "because R could not be measured, or is ηλ in all phases but one"
        parts += [f"Of kind *other*, but not called a contradiction, {why}: {as_markdown(', '.join(doubtful))}."]
    if remarks := [f"- {remark.text}" for remark in ATLAS_REMARKS.get(found.package, ()) if remark.holds(found)]:
        parts += ["What is surprising:", "\n".join(remarks)]
    parts += [f"Decay with R = 2⁻¹¹ in bfloat16: {found.bfloat16_counts}."]
    parts += [f"All optimizers by kind: {found.counts}. Audited with {found.arguments}; {as_markdown(versions)}."]
    for kind in dict.fromkeys(entry.kind for entry in found.entries):
        own = [entry for entry in found.entries if entry.kind == kind]
        parts += [f"<details>\n<summary>{as_markdown(kind)}: {len(own)}</summary>", _listed(kind, own), "</details>"]
    files = [f"[{ending}]({quote(found.stem)}.{ending.lower()})" for ending in ("CSV", "JSON")]
    return [*parts, f"All numbers: {', '.join(files)}."]


def _namesakes(atlases: list[Atlas]) -> list[str]:
    """A table of the names under which two packages have optimizers with different kinds of decay."""
    by_name: dict[str, dict[str, AtlasEntry]] = {}
    for found in atlases:
        for entry in found.entries:
            if entry.kind in DISTINCT and entry.kind != "other":
                by_name.setdefault(entry.name.lower(), {})[found.package] = entry
    rows = []
    for entries in by_name.values():
        if len({entry.kind for entry in entries.values()}) > 1:
            kinds = (f"{entry.kind} ({short(entry.ratio(SETTLED))})" for entry in entries.values())
            rows.append(
                (next(iter(entries.values())).name, "; ".join(map(": ".join, zip(entries, kinds, strict=True))))
            )
    if not rows:
        return []
    said = (
        "These optimizers have one name and different decay in two packages, with R/ηλ in brackets. A λ that was tuned"
        " with the one does not fit the other:"
    )
    return ["## One name, two kinds of decay", said, _table(("optimizer", "kind of decay"), sorted(rows, key=str))]


def _picture(found: Atlas, folder: Path) -> list[str]:
    """The picture as a link to its SVG; nothing without a file."""
    stem = quote(found.stem)
    there = (folder / f"{found.stem}.png").exists()
    return [f"[![{as_markdown(found.claim)}]({stem}.png)]({stem}.svg)"] * there


def _listed(kind: str, entries: list[AtlasEntry]) -> str:
    if kind == NOT_AUDITED:
        return _table(("optimizer", "why"), ((entry.name, entry.reasons) for entry in entries))
    return _table(HEAD, ((entry.name, *_numbers(entry)) for entry in entries))


def _misnamed(entry: AtlasEntry) -> tuple[str, ...]:
    return (entry.name, str(entry.named), entry.kind, *_numbers(entry))


def _numbers(entry: AtlasEntry) -> tuple[str, ...]:
    ratios = (short(entry.ratio(SETTLED)), short(entry.ratio(FALLEN)))
    return (*ratios, entry.bfloat16, entry.spike, f"{entry.seconds:.1f}", entry.reasons)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *(tuple(map(as_markdown, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

"""The page of a folder of figures: each study's claim, picture and verdicts, and the command that makes them again."""

import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from swd_dynamics import studies
from swd_dynamics.plots import COLOURS, LABELS, MARKERS
from swd_dynamics.studies.headlines import HEADLINES
from swd_dynamics.studies.study import PARAGRAPH, SHORT_FORM
from swd_dynamics.verdict import MUST_FAIL, STATUS_MARKS

WRITTEN = "<!-- Written by swd-dynamics reproduce from verdicts.json: what is changed by hand is lost. -->"
QUICK = "figures/quick"  # the folder of the short form on the command line; that of the full form is figures
HEAD = ("status", "claim", "predicted", "measured", "allowed", "why")
COLOUR_WORDS = {"#D55E00": "orange", "#0072B2": "blue", "#009E73": "green"}
SHAPES = {"s": "■", "^": "▲", "D": "◆"}
ALL_SYMBOLS, MACHINE = Path("notebooks/site/symbols.md"), "machine.json"
SYMBOLS = (
    "Symbols: θ are the weights, g is the gradient of the loss without decay, η the learning rate (`lr`), λ the"
    " strength of the decay (`weight_decay`), β the momentum. v̄ is the mean of Adam's second moment v̂ over all"
    " weights. R is the fraction of the weights that one step subtracts, and η_eff is the effective learning rate,"
    " η/√v̄ for Adam and η/(1−β) for SGD with momentum. h and θ⋆ are the curvature and the minimum of a quadratic loss."
    " The flow dθ/dt = F₀ + ηF₁ is the continuous model of the steps, and a flat loss has the gradient 0."
)
FULL_FORM = " Nothing on this page is from the short form of a study (`--quick`), which has fewer and shorter runs."
ANY = "any such"  # where a prediction is a bound: what is allowed
MORE = "What else was tested, and what was set after pilot runs"
# What each of these studies draws in grey, in the figures of this version.
GREY = {
    "update-rules": "the other rules",
    "stability": "runs that diverge with both decays",
    "drop-in": "controls",
    "gpu": "controls",
}
# What to know before looking at a figure that was made on a GPU machine, by an earlier version.
BEFORE_OLDER = {
    "transformer": (
        "The factor in the title of this figure is that after the warm-up, which is to the left of the dashed line: the"
        " first 10 of 200 steps, and with the larger model the first 20 of 400. The line of AdamW also falls during the"
        " warm-up, so that all of it spans a larger factor."
    )
}
ATLAS_MARKS = " In the atlas ◀ brown is a decay of none of these kinds."


def page(ledger: dict, folder: Path) -> str:
    """The page as GitHub's Markdown, made from the ledger and the figures in the folder alone.

    Parameters
    ----------
    ledger : dict — as in verdicts.json; its studies' verdicts by name, and the names of those that ran in short form
    folder : Path — where the figures are

    Examples
    --------
    >>> known = {"name": "half", "claim": "A half is .5", "predicted": 0.5, "measured": 0.5, "status": "confirmed"}
    >>> text = page({"studies": {"stability": [known]}}, Path("elsewhere/figures"))
    >>> [line for line in text.splitlines() if line.startswith(("## ", "**O", "swd-dynamics"))]
    ['## stability', '**Outcome:** 1 verdict: ✓ 1 confirmed.', 'swd-dynamics reproduce stability']
    """
    found = ledger["studies"]
    known = [name for name in studies.MODULES if name in found or _figure(folder, name, "")]
    opening = _opening(found, folder, bool(ledger.get("quick")))
    parts = [WRITTEN, "# What the studies found", opening, *_contents(ledger)]
    for name in [*known, *(name for name in found if name not in studies.MODULES)]:
        card = ledger.get("cards", {}).get(name)
        parts += _section(name, found.get(name, []), folder, name in ledger.get("quick", []), card)
    return "\n\n".join([*parts, *_atlas(folder)]) + "\n"


def _opening(found: dict[str, list[dict]], folder: Path, short: bool) -> str:
    everything = [verdict for verdicts in found.values() for verdict in verdicts]
    above = _place(folder).split("/")[0]
    forms = f"\n\n{SHORT_FORM}" if short else FULL_FORM
    drawn = [mode for mode in COLOURS if COLOURS[mode] in COLOUR_WORDS]
    modes = "; ".join(f"{SHAPES[MARKERS[mode]]} {COLOUR_WORDS[COLOURS[mode]]}, {LABELS[mode]}" for mode in drawn)
    return (
        "Each study tests one claim of the theory that could be false. A consequence of the claim is derived, real"
        " torch runs are measured, and the allowed difference is fixed before the measurement or, where the caption or"
        " the table says so, after pilot runs. Each study also has negative controls: false claims, which must fail the"
        " same test. Where a caption names no other seeds, its pilot runs may have had the seeds of the study. This"
        f" folder holds the figures and the [ledger](verdicts.json) of **{_counts(everything)}**. A prediction such as"
        " “more than 0” allows any number on that side.\n\n"
        f"{SYMBOLS}{_symbols_page(folder)}\n\n"
        f"In the figures: {modes}. A line is theory and a point is a measurement, unless the panel or the caption says"
        " otherwise: some lines are measured, and some join measured points."
        f"{_grey_marks(found, folder)}{ATLAS_MARKS * any((folder / 'atlas').glob('*.png'))}"
        " Click a figure to open it as SVG. To make a figure and its verdicts again, run"
        f" the command below it in the folder that contains {as_markdown(above)}/."
        f"{_made_earlier(folder)}{forms}"
    )


def _grey_marks(found: Iterable[str], folder: Path) -> str:
    """What grey marks are, in the studies of the page; nothing for the older figures of a GPU machine."""
    by_meaning: dict[str, list[str]] = {}
    for name in [] if _is_older(folder) else GREY:
        if name in found:
            by_meaning.setdefault(GREY[name], []).append(name)
    said = [f"{meaning} ({', '.join(names)})" for meaning, names in by_meaning.items()]
    return f" Grey marks are {', '.join(said[:-1])}{' and ' * (len(said) > 1)}{said[-1]}." if said else ""


def _is_older(folder: Path) -> bool:
    """Whether the folder's figures were made on a GPU machine: they are not drawn again when its page is written."""
    return (folder / MACHINE).is_file()


def _contents(ledger: dict) -> list[str]:
    """A table of the studies that the ledger has, if there are several: a link, what was found, the verdicts."""
    found = ledger["studies"]
    names = [name for name in studies.MODULES if name in found]
    rows = [("study", f"what {'the full form' if ledger.get('quick') else 'it'} found", "verdicts"), ("---",) * 3]
    for name in names:
        said = as_markdown(HEADLINES.get(name) or studies.load(name).claim)
        rows.append((f"[{name}](#{name})", said, _marks(found[name])))
    return [_rows(rows)] if len(names) > 1 else []


def _symbols_page(folder: Path) -> str:
    """A link to the page of all symbols, if a folder above has it."""
    for above in Path(os.path.abspath(folder)).parents:
        if (above / ALL_SYMBOLS).is_file():
            return f" [All symbols]({quote(Path(os.path.relpath(above / ALL_SYMBOLS, folder)).as_posix())})."
    return ""


def _made_earlier(folder: Path) -> str:
    """The origin of a folder's figures, where the folder has the description of a GPU machine."""
    said = (
        f"\n\nThe figures and verdicts of this folder were made on [a GPU machine]({MACHINE}) by an earlier version of"
        " this toolkit. The claims on this page are newer, so figures can differ from them in words, marks and panels."
    )
    return said * _is_older(folder)


def _section(name: str, verdicts: list[dict], folder: Path, quick: bool, card: str | None) -> list[str]:
    """The paragraphs of one study; only those of the ledger if this version does not have the study."""
    study = studies.load(name) if name in studies.MODULES else None
    claim = ["This version has no such study."]
    if study:
        claim = [f"**Claim tested:** {as_markdown(study.claim)}", f"Source: {_cited(study.source)}."]
    how = f"{', in the short form' if quick else ''}{f', trained on an {as_markdown(card)}' if card else ''}"
    parts = [f"## {as_markdown(name)}", *claim, f"**Outcome:** {_counts(verdicts)}{how}."]
    older = _is_older(folder)  # then the caption is of another version of the figure
    parts += [as_markdown(BEFORE_OLDER[name])] if older and name in BEFORE_OLDER else []
    parts += _figure(folder, name, study.claim if study else name)
    shown, _, more = (study.caption if study and not older else "").partition(PARAGRAPH)
    parts += [as_markdown(shown)] if shown else []
    parts += _newer_caption(folder, name) if older and study and study.caption else []
    parts += _larger(folder, name)
    parts += _not_confirmed(verdicts)
    parts += _folded(MORE, as_markdown(more)) if more else []
    parts += _folded("The verdicts", _table(verdicts)) if verdicts else []
    if study:
        place, default = _place(folder), QUICK if quick else "figures"
        there = ["--device", "cuda"] * (card is not None)
        parts.append(_command("reproduce", name, *["--quick"] * quick, *there, *["--out", place] * (place != default)))
    return parts


def _newer_caption(folder: Path, name: str) -> list[str]:
    """A link to the study on the page of the folder above, if that folder has its figure."""
    if not (folder / ".." / f"{name}.png").is_file():
        return []
    return [f"What the axes and marks of the newer figure mean: [caption of {name}](../README.md#{name})."]


def _folded(title: str, text: str) -> list[str]:
    return [f"<details>\n<summary>{title}</summary>", text, "</details>"]


def _larger(folder: Path, name: str) -> list[str]:
    """A link to the same study with a larger model, where the folder has one in a folder with the study's name."""
    if not (folder / name / f"{name}.png").is_file():
        return []
    within = [quote(f"{name}/{file}") for file in (f"{name}.png", "verdicts.json")]
    links = f"[figure]({within[0]}), [verdicts]({within[1]})"
    return [f"The same study with a larger model: {links}."]


def _atlas(folder: Path) -> list[str]:
    """The atlas of optimizers, if the folder has one. Its files have the package's name, with - for the dots."""
    stems = sorted(path.stem for path in (folder / "atlas").glob("*.png"))
    place = f"{_place(folder)}/atlas"
    parts = ["## The atlas", "The atlas measures which kind of weight decay the optimizers of a package have."]
    if (folder / "atlas" / "README.md").exists():
        parts.append("[Its page](atlas/README.md) says how, and lists every optimizer with the reason for its kind.")
    for stem in stems:
        package = stem.replace("-", ".")
        parts += [f"### {as_markdown(package)}", *_figure(folder, f"atlas/{stem}", f"weight decay in {package}")]
        parts.append(_command("atlas", "--package", package, *["--out", place] * (place != "figures/atlas")))
    return parts if stems else []


def _figure(folder: Path, stem: str, caption: str) -> list[str]:
    """The picture as a link to its SVG; nothing without a file."""
    there = [quote(stem + kind) for kind in (".png", ".svg") if (folder / (stem + kind)).exists()]
    return [f"[![{as_markdown(caption)}]({there[0]})]({there[-1]})"] if there else []


def _counts(verdicts: Sequence[dict]) -> str:
    counted = sorted(Counter(v["status"] for v in verdicts).items())
    controls = Counter(v["status"] for v in verdicts if v.get("predicted") == MUST_FAIL)
    said = {status: f" ({controls[status]} of them controls)" * (status in controls) for status, _ in counted}
    each = ", ".join(f"{STATUS_MARKS.get(status, '?')} {count} {status}{said[status]}" for status, count in counted)
    return f"{len(verdicts)} verdict{'s' * (len(verdicts) != 1)}" + f": {each}" * bool(verdicts)


def _marks(verdicts: Sequence[dict]) -> str:
    """The number of verdicts of each status, by its mark."""
    counted = sorted(Counter(v["status"] for v in verdicts).items())
    return " ".join(f"{STATUS_MARKS.get(status, '?')}&nbsp;{count}" for status, count in counted)


def _not_confirmed(verdicts: Iterable[dict]) -> list[str]:
    """The verdicts that were not confirmed, as a list that is always shown."""
    lines = []
    for v in verdicts:
        if v["status"] != "confirmed":
            more = {"first wrong step": v.get("first_departure"), "cause:": v.get("cause")}
            numbers = dict(zip(HEAD[2:5], _numbers(v), strict=True))
            said = [f"{word} {number}" for word, number in numbers.items() if number != ANY]
            said += [f"{word} {_cell(value)}" for word, value in more.items() if value is not None]
            lines.append(f"- {_status(v)} {_claim(v)}: {', '.join(said)}")
    return ["\n".join(lines)] if lines else []


def _table(verdicts: Iterable[dict]) -> str:
    rows = [HEAD, ("---",) * len(HEAD)]
    rows += [(_status(v), _claim(v), *_numbers(v), _cell(v.get("why"))) for v in verdicts]
    return _rows(rows)


def _rows(rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _status(verdict: dict) -> str:
    status = str(verdict["status"])
    return f"{STATUS_MARKS.get(status, '?')}&nbsp;{as_markdown(status)}"


def _claim(verdict: dict) -> str:
    return f"**{as_markdown(verdict['name'])}**: {_cell(verdict.get('claim'))}"


def _numbers(verdict: dict) -> list[str]:
    """What was predicted, measured and allowed, as texts of cells; a bound as “more than 0” or “at least 10”."""
    predicted, *others = (_cell(verdict.get(column)) for column in HEAD[2:5])
    bound = re.fullmatch(r"(>=?) (.+)", predicted)
    words = {">": "more than", ">=": "at least"}
    return [f"{words[bound[1]]} {bound[2]}" if bound else predicted, *(ANY if v == "any more" else v for v in others)]


def _cell(value) -> str:
    if isinstance(value, float | int):
        return f"{value:.4g}".replace("nan", "NaN").replace("inf", "∞")
    return "–" if value is None else as_markdown(str(value))


def as_markdown(text: str) -> str:
    """Words as Markdown that shows them unchanged: without HTML, emphasis, or the end of a cell or a line."""
    text = re.sub(r"([\\`*|\[\]~$_])", r"\\\1", " ".join(text.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _cited(source: str) -> str:
    return re.sub(r"\b(\d{4}\.\d{5})\b", r"[\1](https://arxiv.org/abs/\1)", as_markdown(source))


def _command(*words: str) -> str:
    return f"```bash\n{shlex.join(('swd-dynamics', *words))}\n```"


def _place(folder: Path) -> str:
    """The folder's name in a command. It is not the path on this machine, so that the folder can be moved."""
    path = Path(os.path.abspath(folder))
    return QUICK if path.parts[-2:] == tuple(QUICK.split("/")) else path.name

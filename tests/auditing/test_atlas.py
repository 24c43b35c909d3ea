"""The atlas: every optimizer of a package is in it, whatever the optimizer does to its process."""

import csv
import json
import subprocess
import sys
from itertools import chain

import pytest

from swd_dynamics import audit
from swd_dynamics.__main__ import main
from swd_dynamics.auditing import atlas as atlas_module
from swd_dynamics.auditing.atlas import PHASES, Atlas, AtlasEntry, atlas, optimizers_of, read_atlas
from swd_dynamics.errors import InputError
from swd_dynamics.plots.atlas import draw_atlas

TORCH = {
    "none": {"Rprop"},
    "L2": {"Adadelta", "Adagrad", "Adam", "Adamax", "NAdam", "RAdam", "RMSprop"},
    "decoupled": {"Adafactor", "AdamW", "Muon"},
    "all the same": {"ASGD", "SGD"},
    "not audited": {"LBFGS", "SparseAdam"},
}


AUDITED = {
    "kind": "decoupled",
    "phases": {phase: {"R": 1e-3, "5 %": 1e-3, "95 %": 1e-3} for phase in PHASES},
    "lr": 0.01,
    "weight_decay": 0.1,
    "reasons": ["done before"],
}


@pytest.fixture(scope="module")
def torch_atlas():
    return atlas("torch.optim", limit=120.0)  # more than the default, for a busy machine


@pytest.mark.slow
def test_kinds_of_torch(torch_atlas):
    """Assert that each of torch's optimizers, with its default arguments, is of the kind its documentation says."""
    newer = set(optimizers_of("torch.optim")) - set().union(*TORCH.values())
    found = {kind: {e.name for e in torch_atlas.entries if e.kind == kind} - newer for kind in TORCH}
    assert found == {kind: names & set(optimizers_of("torch.optim")) for kind, names in TORCH.items()}
    reasons = {entry.name: entry.reason for entry in torch_atlas.entries if entry.reason}
    assert "closure" in reasons["LBFGS"] and "dense gradients" in reasons["SparseAdam"]


@pytest.mark.slow
def test_files_hold_everything(torch_atlas, tmp_path):
    """Assert that CSV and JSON have a line for every optimizer, with the versions, and no NaN."""
    table, full = torch_atlas.write(tmp_path / "new")
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert [row["optimizer"] for row in rows] == [entry.name for entry in torch_atlas.entries]
    assert all("torch 2" in row["versions"] for row in rows)
    data = json.loads(full.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert {"torch", "swd-dynamics"} <= set(data["versions"]) and len(data["optimizers"]) == len(rows)
    adamw = next(row for row in rows if row["optimizer"] == "AdamW")
    assert (adamw["kind"], adamw["R, settled"], adamw["R, lr / 2"]) == ("decoupled", "0.001", "0.0005")


@pytest.mark.slow
def test_the_stored_atlas_is_the_atlas(torch_atlas, tmp_path):
    """Assert that the JSON file holds every entry as it was."""
    _, full = torch_atlas.write(tmp_path)
    assert read_atlas(full) == torch_atlas


@pytest.mark.parametrize("content", ["{}", "[]", "no JSON", '{"optimizers": [{}]}'])
def test_another_json_file_is_no_atlas(content, tmp_path):
    """Assert that a file that is not an atlas is refused."""
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"other\.json is not an atlas"):
        read_atlas(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "limit", "kind", "reason"),
    [
        ("HalfDecay", 60.0, "decoupled", ""),
        ("NeedsMore", 60.0, "not audited", "horizon"),
        ("Crashes", 60.0, "not audited", "without an answer"),
        ("Hangs", 2.0, "not audited", "more than 2 s"),
    ],
)
def test_an_optimizer_cannot_harm_the_others(name, limit, kind, reason, monkeypatch):
    """Assert that an optimizer that hangs, kills its process or cannot be made becomes an entry with a reason."""
    monkeypatch.setattr(atlas_module, "optimizers_of", lambda package: [name])
    (entry,) = atlas("odd_optimizers", limit=limit).entries
    assert entry.kind == kind and reason in entry.reason


@pytest.mark.slow
def test_an_interrupt_keeps_what_was_done(monkeypatch, tmp_path, capsys):
    """Assert that after Ctrl-C the files hold what was done, name the rest, and the exit code is 130."""

    def interrupted(*_):
        yield AtlasEntry("SGD", AUDITED)
        raise KeyboardInterrupt

    monkeypatch.setattr(atlas_module, "_audited", interrupted)
    assert main(["atlas", "--out", str(tmp_path)]) == 130
    lines = (tmp_path / "torch-optim.csv").read_text(encoding="utf-8").splitlines()
    reasons = {row["optimizer"]: row["reasons"] for row in csv.DictReader(lines)}
    assert reasons.pop("SGD") == "done before"
    assert set(reasons.values()) == {"interrupted before its turn"}
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv", ".json", ".png", ".svg", ".md"}
    capsys.readouterr()


@pytest.mark.parametrize("interrupted", [True, False])
@pytest.mark.slow
def test_nothing_is_written_over_by_nothing(interrupted, monkeypatch, tmp_path, capsys):
    """Assert that where no optimizer was audited, interrupted at once or not, the files of an older run stay."""

    def none(*_):
        if interrupted:
            raise KeyboardInterrupt
        yield AtlasEntry("SGD", None, "could not")

    old = tmp_path / "torch-optim.csv"
    old.write_text("older")
    monkeypatch.setattr(atlas_module, "_audited", none)
    assert main(["atlas", "--out", str(tmp_path)]) == (130 if interrupted else 0)
    assert [path.name for path in tmp_path.iterdir()] == [old.name] and old.read_text() == "older"
    assert "nothing is written" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--jobs", "0"], "jobs = 0 is not allowed"),
        (["--limit", "0"], "limit = 0.0 is not allowed"),
        (["--limit", "nan"], "limit = nan is not allowed"),
        (["--limit", "inf"], "limit = inf is not allowed"),
        (["--out", "file"], "file is not a folder"),
        (["--out", "file/below"], "file is not a folder"),
        (["--out", "."], "README.md was not written by atlas"),
        (["--package", ""], "cannot be imported: ValueError"),
        (["--package", ".mine"], ".mine cannot be imported: TypeError"),
        (["--package", "breaks_here"], "breaks_here cannot be imported: ZeroDivisionError"),
        (["--package", "leaves_here"], "leaves_here cannot be imported: SystemExit"),
    ],
)
def test_mistakes_are_said_before_the_work(arguments, said, monkeypatch, tmp_path, capsys):
    """Assert that a user's mistake is one line and exit code 2, and that no optimizer is audited first."""
    monkeypatch.setattr(atlas_module, "_audited", lambda *_: pytest.fail("the work has begun"))
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.chdir(tmp_path)
    there = {"breaks_here.py": "1 / 0", "leaves_here.py": "raise SystemExit(0)", "file": "", "README.md": "mine"}
    for name, text in there.items():
        (tmp_path / name).write_text(text)
    assert main(["atlas", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error


LITTLE = """
import torch

class Refuses(torch.optim.SGD):
    def __init__(self, params):
        raise SystemExit("not today")
"""
UNGUARDED = """
from swd_dynamics.auditing.atlas import atlas
(entry,) = atlas("little_here", limit=60.0).entries
print(entry.name, entry.kind, entry.reason)
"""


@pytest.mark.slow
def test_a_script_needs_no_guard(tmp_path):
    """Assert that a script without a guard is run once, and that a package in its folder is found in every process."""
    (tmp_path / "little_here.py").write_text(LITTLE)
    (tmp_path / "script.py").write_text(UNGUARDED)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Refuses not audited") and "not today" in done.stdout
    assert done.stdout.count("\n") == 1


LAZY = """
__all__ = ["Mine", "Listed", "Optimizer", "helper", "gone"]

class Optimizer:  # a copy of torch's, as some libraries carry
    def __init__(self, params, lr=0.01, weight_decay=0.1):
        self.param_groups = [{"params": list(params), "lr": lr, "weight_decay": weight_decay}]
        self.state = {}

    def zero_grad(self): ...
    def add_param_group(self, group): ...
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.data -= group["lr"] * (p.grad + group["weight_decay"] * p.data)

class Mine(Optimizer): ...
class Helper: ...
helper = Helper()

def __getattr__(name):
    if name == "Listed":
        return type("Listed", (Optimizer,), {})
    raise AttributeError(name)
"""


@pytest.mark.slow
def test_copies_of_the_base_class_and_late_names_are_found(tmp_path, monkeypatch):
    """Assert that optimizers derived from a copy of torch's base class are found, also if made on demand."""
    (tmp_path / "lazy_here.py").write_text(LAZY)
    monkeypatch.syspath_prepend(tmp_path)
    assert optimizers_of("lazy_here") == ["Listed", "Mine"]
    assert audit(sys.modules["lazy_here"].Mine).kind == "all the same"


def rated(name, kind="decoupled", *, low=1.0, settled=1.0, high=1.0, fallen=1.0, weight_decay=0.1):
    """An entry with R/ηλ as given."""
    phases = {"settled": {"5 %": low * 1e-3, "R": settled * 1e-3, "95 %": high * 1e-3}}
    phases["gradients / 10"] = {"R": fallen * 1e-3}
    return AtlasEntry(name, AUDITED | {"kind": kind, "phases": phases, "weight_decay": weight_decay})


@pytest.mark.parametrize(
    ("name", "kind", "wrong"),
    [
        ("RAdam", "decoupled", True),  # torch's adds λθ to the gradient
        ("AdaMax", "L2", False),  # as torch's Adamax
        ("FlashAdamW", "decoupled", False),
        ("FlashAdamW", "none", True),
        ("SGD", "all the same", False),  # a kind that excludes no other
        ("Lion", "other", False),  # the name says nothing
    ],
)
def test_a_name_that_says_another_kind(name, kind, wrong):
    """Assert that a name is wrong if torch's optimizer of that name, or the W in it, says another kind of decay."""
    assert rated(name, kind).contradicts_name is wrong


PHASE_RATES = dict(zip(PHASES, (1e-3, 1e-3, 1e-3, 5e-4), strict=True))  # R = ηλ, with half the η in the last phase


@pytest.mark.parametrize(
    ("name", "kind", "changed", "mismatch", "contradicts"),
    [
        ("MyAdamW", "other", {"settled": 0.9e-3, "first step": 0.9e-3}, 0.0, True),
        ("MyAdamW", "other", {"settled": 0.9e-3}, 0.0, False),  # R = ηλ in three phases of four
        ("MyAdamW", "other", {"lr / 2": 1e-3}, 0.0, False),  # R does not follow η, and all else is ηλ
        ("MyAdamW", "L2", {"settled": 0.9e-3}, 0.0, True),  # the kind is known
        ("Adam", "other", {"settled": 0.9e-3}, 0.0, True),  # R = ηλ is not what the name says
        ("Adam", "other", {"settled": 0.9e-3}, 0.06, False),  # half a perturbation has another R
        ("Adam", "L2", {"settled": 0.9e-3}, 0.06, False),  # as the name says
        ("Adam", "other", {"settled": None}, 0.0, False),  # R is unknown
        ("Adam", "other", dict.fromkeys(PHASES, 0.0), 0.0, False),  # nothing was measured
    ],
)
def test_what_is_not_enough_for_a_contradiction(name, kind, changed, mismatch, contradicts):
    """Assert that a name is not contradicted where R could not be measured, or a W's R is ηλ in all phases but one."""
    phases = {phase: dict.fromkeys(("R", "5 %", "95 %"), rate) for phase, rate in (PHASE_RATES | changed).items()}
    entry = AtlasEntry(name, AUDITED | {"kind": kind, "phases": phases, "mismatch": mismatch})
    assert entry.contradicts_name is contradicts
    assert entry.differs_from_name is (kind != entry.named)


def test_an_optimizer_that_was_not_audited_contradicts_nothing():
    """Assert that nothing is said about an optimizer without an audit."""
    entry = AtlasEntry("AdamW", None, "could not be made")
    assert not entry.contradicts_name and not entry.decays_by_nominal


@pytest.mark.parametrize(
    ("changed", "same"),
    [({}, True), ({"low": 0.9}, False), ({"high": 1.1}, False), ({"settled": 0.9}, False), ({"fallen": 1.1}, False)],
)
def test_decay_by_the_arguments(changed, same):
    """Assert that R is ηλ only if it is so for nearly all weights, and also after the gradients changed."""
    assert rated("Mine", **changed).decays_by_nominal is same


def test_the_claim_counts():
    """Assert that the claim names the optimizers with a wrong name, and counts those with R ≠ ηλ that have a λ."""
    entries = (rated("RAdam"), rated("Twice", settled=2.0), rated("Without", weight_decay=None), rated("Right"))
    claim = Atlas("mine", {}, entries).claim
    assert "RAdam does" in claim and "1 of the 3" in claim
    unknown = rated("Unknown", "other", settled=2.0)
    unknown.found["mismatch"] = 1.0
    assert "1 of the 3" in Atlas("mine", {}, (*entries, unknown)).claim
    assert "no optimizer contradicts" in Atlas("mine", {}, entries[1:]).claim
    many = tuple(rated(f"{i}AdamW", "L2") for i in range(6))
    assert "6 optimizers do" in Atlas("mine", {}, many).claim


def test_the_table_fits_a_terminal():
    """Assert that each optimizer has one line of at most 100 columns, with its name's kind where that is wrong."""
    long = "Long takes no step with gradients alone: " + "too long " * 30
    text = str(Atlas("mine", {}, (rated("RAdam"), rated("Twice", settled=2.0), AtlasEntry("Long", None, long))))
    assert max(map(len, text.splitlines())) <= 100
    rows = {line.split()[0]: line for line in text.splitlines()[1:4]}
    assert "name says L2" in rows["RAdam"] and rows["Twice"].split()[1:] == ["decoupled", "2", "1", "1", "1", "–"]
    assert "too long" in rows["Long"]


def test_only_what_differs_is_drawn():
    """Assert that the figure has the rows with R ≠ ηλ and those with a wrong name, and counts all others."""
    differ = [rated("Twice", settled=2.0), rated("RAdam"), rated("New", "a new kind", low=0.5)]
    others = [rated("Right"), rated("Slow", settled=1e-6), rated("Without", weight_decay=None), AtlasEntry("No", None)]
    figure = draw_atlas([*differ, *others], "A claim")
    (axes,) = figure.axes
    assert {label.get_text() for label in axes.get_yticklabels()} == {entry.name for entry in differ}
    words = " ".join(text.get_text() for text in axes.texts)
    assert "decoupled, not L2" in words and "a new kind: 1" in words
    note = figure.legends[0].get_title().get_text()
    drawn, *rest = note.split("\n")
    omitted = " ".join(rest)
    assert "within 2 %" in omitted
    assert "2 with R ≠ ηλ" in drawn and "1 with R = ηλ" in drawn  # RAdam's kind is not the one its name says
    assert all(said in omitted for said in ("1 with R = ηλ", "1 with R <", "1 without weight_decay", "1 not audited"))


def test_headings_count_rows_and_the_table():
    """Assert that a heading says how many optimizers of its kind the table has, and that an unknown R is not drawn."""
    unknown = rated("Unknown", "other", settled=2.0)
    unknown.found["mismatch"] = 1.0
    entries = [rated("Twice", settled=2.0), rated("Right"), rated("Odd", "other", settled=2.0), unknown]
    figure = draw_atlas(entries, "A claim")
    words = {text.get_text() for text in figure.axes[0].texts}
    assert {"decoupled: 1 of 2 in the table", "other: 1 of 2 in the table"} <= words
    assert "1 whose R could not be measured" in figure.legends[0].get_title().get_text()


def test_a_large_atlas_has_two_panels():
    """Assert that many rows are drawn in two panels, with each row in one of them; and no row, in none."""
    entries = [rated(f"{kind}{i}", kind, settled=2.0) for kind in ("L2", "other", "stable") for i in range(8)]
    named = [[label.get_text() for label in axes.get_yticklabels()] for axes in draw_atlas(entries, "A claim").axes]
    assert len(named) == 2 and sorted(chain(*named)) == sorted(entry.name for entry in entries)
    assert draw_atlas([rated("Right")], "A claim").axes == []


@pytest.mark.parametrize(
    ("package", "message"), [("nowhere_at_all", "cannot be imported"), ("json", "contains no torch optimizer")]
)
def test_a_wrong_package_is_refused(package, message):
    """Assert that a package that is not there, or has no optimizers, is refused."""
    with pytest.raises(InputError, match=message):
        optimizers_of(package)

"""The atlas: every optimizer of a package is in it, whatever the optimizer does to its process."""

import csv
import json
import subprocess
import sys
from dataclasses import replace

import pytest

from swd_dynamics.__main__ import main
from swd_dynamics.auditing import atlas as atlas_module
from swd_dynamics.auditing.atlas import PHASES, Atlas, AtlasEntry, atlas, optimizers_of
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
    "phases": {phase: {"R": 1e-3} for phase in PHASES},
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
def test_figure_names_everyone(torch_atlas):
    """Assert that every optimizer has its line in the figure, and every kind that occurs its heading."""
    figure = draw_atlas(torch_atlas.entries, torch_atlas.title, torch_atlas.nominal)
    axes = figure.axes[0]
    assert {label.get_text() for label in axes.get_yticklabels()} == {entry.name for entry in torch_atlas.entries}
    texts = {text.get_text() for text in axes.texts}
    assert {"L2", "decoupled", "no decay", "not audited"} <= texts


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
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv", ".json", ".png", ".svg"}
    capsys.readouterr()


@pytest.mark.parametrize("interrupted", [True, False])
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
    for name, text in (("breaks_here.py", "1 / 0"), ("leaves_here.py", "raise SystemExit(0)"), ("file", "")):
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


def test_an_optimizer_with_another_nominal_rate_is_marked():
    """Assert that its name has an asterisk that the legend explains, and that there is no note without an asterisk."""
    alike = AtlasEntry("Alike", AUDITED)
    other = replace(alike, name="Other", found=AUDITED | {"lr": 1e-3})
    unknown = replace(alike, name="Unknown", found=AUDITED | {"weight_decay": None})
    found = Atlas("mine", {}, (alike, other, unknown))
    figure = draw_atlas(found.entries, found.title, found.nominal)
    assert {label.get_text() for label in figure.axes[0].get_yticklabels()} == {"Alike", "Other*", "Unknown"}
    assert any("another ηλ" in text.get_text() for text in figure.legends[0].get_texts())
    plain = draw_atlas((alike, unknown), found.title, found.nominal)
    assert not any("ηλ" in text.get_text() for text in plain.legends[0].get_texts())
    assert "where a constructor takes them" in found.title and found.counts in found.title


@pytest.mark.parametrize(
    ("package", "message"), [("nowhere_at_all", "cannot be imported"), ("json", "contains no torch optimizer")]
)
def test_a_wrong_package_is_refused(package, message):
    """Assert that a package that is not there, or has no optimizers, is refused."""
    with pytest.raises(InputError, match=message):
        optimizers_of(package)

"""The atlas: every optimizer of a package is in it, whatever it does to the one who runs it."""

import csv
import json

import pytest

from swd_dynamics.__main__ import main
from swd_dynamics.crosscheck import atlas as atlas_module
from swd_dynamics.crosscheck.atlas import Entry, atlas, optimizers_of
from swd_dynamics.errors import InputError
from swd_dynamics.plots.atlas import draw_atlas

TORCH = {
    "none": {"Rprop"},
    "L2": {"Adadelta", "Adagrad", "Adam", "Adamax", "NAdam", "RAdam", "RMSprop"},
    "decoupled": {"ASGD", "Adafactor", "AdamW", "Muon", "SGD"},
    "not audited": {"LBFGS", "SparseAdam"},
}


@pytest.fixture(scope="module")
def torch_atlas():
    return atlas("torch.optim")


def test_kinds_of_torch(torch_atlas):
    """Assert that each of torch's optimizers, with its default arguments, is of the kind its documentation says."""
    newer = set(optimizers_of("torch.optim")) - set().union(*TORCH.values())
    found = {kind: {e.name for e in torch_atlas.entries if e.kind == kind} - newer for kind in TORCH}
    assert found == {kind: names & set(optimizers_of("torch.optim")) for kind, names in TORCH.items()}
    reasons = {entry.name: entry.reason for entry in torch_atlas.entries if entry.reason}
    assert "closure" in reasons["LBFGS"] and "dense gradients" in reasons["SparseAdam"]


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


def test_figure_names_everyone(torch_atlas):
    """Assert that every optimizer has its line in the figure, and every kind that occurs its heading."""
    figure = draw_atlas(torch_atlas.entries, torch_atlas.title, torch_atlas.nominal)
    axes = figure.axes[0]
    assert {label.get_text() for label in axes.get_yticklabels()} == {entry.name for entry in torch_atlas.entries}
    texts = {text.get_text() for text in axes.texts}
    assert {"L2", "decoupled", "no decay", "not audited"} <= texts


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
    """Assert that one that hangs, kills its process or cannot be made is a line with a reason, as one that works is."""
    monkeypatch.setattr(atlas_module, "optimizers_of", lambda package: [name])
    (entry,) = atlas("odd_optimizers", limit=limit).entries
    assert entry.kind == kind and reason in entry.reason


def test_an_interrupt_keeps_what_was_done(monkeypatch, tmp_path, capsys):
    """Assert that after Ctrl-C the files hold what was done, name the rest, and the exit code is 130."""

    def interrupted(*_):
        yield Entry("SGD", None, "done before")
        raise KeyboardInterrupt

    monkeypatch.setattr(atlas_module, "_audited", interrupted)
    assert main(["atlas", "--out", str(tmp_path)]) == 130
    lines = (tmp_path / "torch-optim.csv").read_text(encoding="utf-8").splitlines()
    reasons = {row["optimizer"]: row["evidence"] for row in csv.DictReader(lines)}
    assert reasons.pop("SGD") == "done before"
    assert set(reasons.values()) == {"interrupted before its turn"}
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv", ".json", ".png", ".svg"}
    capsys.readouterr()


@pytest.mark.parametrize(
    ("package", "message"), [("nowhere_at_all", "cannot be imported"), ("json", "names no torch optimizer")]
)
def test_a_wrong_package_is_refused(package, message):
    """Assert that a package that is not there, or has no optimizers, is refused."""
    with pytest.raises(InputError, match=message):
        optimizers_of(package)

"""Reproducing: the ledger is written as studies end, and held against the committed one."""

import json
from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from swd_dynamics import studies
from swd_dynamics.errors import InputError
from swd_dynamics.studies import Findings, Setting, Study
from swd_dynamics.studies import reproduce as module
from swd_dynamics.studies.reproduce import changed_statuses, read_ledger, reproduce
from swd_dynamics.tables import UnknownName
from swd_dynamics.verdict import judge


def study(name, measured=1.0):
    def measure(setting):
        if measured is None:
            raise KeyboardInterrupt
        verdict = judge("one", "It is one", predicted=1.0, measured=measured, allowed=0.1, why="a tenth is near")
        return Findings([verdict], None)

    return Study(name, "A claim.", "a source", measure, lambda data: Figure())


@pytest.fixture
def two_studies(monkeypatch, tmp_path):
    """Two small studies, the first of them committed as confirmed."""
    made = {"first": study("first"), "second": study("second", 2.0)}
    monkeypatch.setattr(studies, "MODULES", dict.fromkeys(made))
    monkeypatch.setattr(studies, "load", lambda name: made[name])
    committed = tmp_path / "committed.json"
    content = {"format": 1, "studies": {"first": [{"name": "one", "status": "confirmed"}]}}
    committed.write_text(json.dumps(content))
    monkeypatch.setattr(module, "committed_ledger", lambda: committed)
    return made


def quietly(names, out, quick=False):
    return reproduce(names, setting=Setting(quick=quick), out=out, announce=lambda *_: None)


def sections(folder):
    """The page of a folder, by its headings."""
    parts = (folder / "README.md").read_text(encoding="utf-8").split("\n## ")
    return dict(part.split("\n", 1) for part in parts[1:])


def test_all_is_written(two_studies, tmp_path):
    """Assert that every study leaves PNG, SVG, its verdicts and the page, and that agreement is no departure."""
    result = quietly([], tmp_path / "out")
    assert {path.name for path in result.written} == {path.name for path in (tmp_path / "out").iterdir()}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "first.png", "first.svg", "second.png", "second.svg", "verdicts.json", "README.md"
    }  # fmt: skip
    assert result.changed == []
    assert read_ledger(tmp_path / "out" / "verdicts.json") == {
        "first": {"one": "confirmed"},
        "second": {"one": "refuted"},
    }


def test_running_one_study_keeps_the_verdicts_of_the_others(two_studies, tmp_path):
    """Assert that a ledger on disk and its page are brought up to date, not replaced."""
    quietly([], tmp_path)
    two_studies["second"] = study("second", 1.0)
    quietly(["second"], tmp_path)
    assert read_ledger(tmp_path / "verdicts.json") == {"first": {"one": "confirmed"}, "second": {"one": "confirmed"}}
    assert all("1 verdict: ✓ 1 confirmed" in sections(tmp_path)[name] for name in ("first", "second"))


def test_the_short_form_is_remembered(two_studies, tmp_path):
    """Assert that the page says of each study by itself whether it ran in short form last."""
    quietly([], tmp_path, quick=True)
    quietly(["first"], tmp_path)
    shown = sections(tmp_path)
    assert {name: (" --quick" in text, "short form" in text) for name, text in shown.items()} == {
        "first": (False, False), "second": (True, True)
    }  # fmt: skip


def test_a_page_of_someone_else_is_not_lost(two_studies, tmp_path):
    """Assert that a README.md that was not written here is refused before anything is run, and kept."""
    (tmp_path / "README.md").write_text("# Mine")
    with pytest.raises(InputError, match="was not written by reproduce"):
        quietly([], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"committed.json", "README.md"}
    assert (tmp_path / "README.md").read_text() == "# Mine"


@pytest.mark.parametrize(("measured", "status"), [(2.0, "refuted"), (float("nan"), "inconclusive")])
def test_a_changed_status_is_a_departure(two_studies, tmp_path, measured, status):
    """Assert that a verdict that is not what is committed is named, with both statuses."""
    two_studies["first"] = study("first", measured)
    assert quietly(["first"], tmp_path).changed == [f"first: 'one' is {status}, committed as confirmed"]


@pytest.mark.parametrize("quick", [True, False])
def test_fewer_seeds_are_no_departure(two_studies, tmp_path, quick):
    """Assert that a status that depends on the number of seeds is compared in the full form alone."""
    undecided = replace(two_studies["first"].measure(Setting()).verdicts[0], status="inconclusive", seeds=3)
    two_studies["first"] = replace(two_studies["first"], measure=lambda setting: Findings([undecided], None))
    assert bool(quietly(["first"], tmp_path, quick).changed) is not quick


def test_a_new_verdict_is_a_departure():
    """Assert that a verdict that the committed ledger lacks is named."""
    verdicts = study("first").measure(Setting()).verdicts
    assert changed_statuses("first", verdicts, {"first": {}}) == ["first: 'one' is confirmed, committed as nothing"]


def test_interrupted_work_keeps_what_is_done(two_studies, tmp_path):
    """Assert that a study that is interrupted costs no verdict of those before it, and that the page shows them."""
    two_studies["second"] = study("second", None)
    with pytest.raises(KeyboardInterrupt):
        quietly([], tmp_path / "out")
    assert read_ledger(tmp_path / "out" / "verdicts.json") == {"first": {"one": "confirmed"}}
    assert list(sections(tmp_path / "out")) == ["first"]


def test_figures_are_the_same_bytes_from_run_to_run(two_studies, tmp_path):
    """Assert that drawing the same data twice gives the same files, the page among them, wherever they are."""
    written = [[path.read_bytes() for path in quietly(["first"], tmp_path / run / "out").written] for run in "ab"]
    assert written[0] == written[1]


def test_bad_input(two_studies, tmp_path):
    """Assert that an unusable folder and a broken ledger are refused before anything is run."""
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="nothing can be written to"):
        quietly([], tmp_path / "file")
    (tmp_path / "broken.json").write_text("[1]")
    with pytest.raises(InputError, match="is not a ledger of verdicts"):
        read_ledger(tmp_path / "broken.json")


def test_an_unknown_study_lists_the_known():
    """Assert that a wrong name is refused with the known ones, nearest first."""
    with pytest.raises(UnknownName, match="known: stability"):
        studies.load("stabilty")

"""Verdicts: what confirms, refutes and leaves open, and how they show themselves."""

import json
import math
from dataclasses import replace

import pytest

from swd_dynamics.verdict import LIMIT, Ledger, judge, judge_at_least, must_be_refuted


@pytest.mark.parametrize(
    ("measured", "status"),
    [(1.0, "confirmed"), (1.1, "confirmed"), (1.11, "refuted"), (math.nan, "inconclusive"), (math.inf, "inconclusive")],
)
def test_judge(measured, status):
    """Assert that a measurement inside the allowed confirms, outside refutes, and none leaves the claim open."""
    verdict = judge("name", "A claim", predicted=1.0, measured=measured, allowed=0.1000001, why="a reason")
    assert verdict.status == status
    assert verdict.passed == (status == "confirmed")


@pytest.mark.parametrize(("measured", "status"), [(5.0, "confirmed"), (4.9, "refuted"), (math.nan, "inconclusive")])
def test_judge_at_least(measured, status):
    """Assert that a lower bound confirms from itself on."""
    assert judge_at_least("name", "A claim", least=5.0, measured=measured, why="a reason").status == status


def test_a_control_that_passes_is_a_refutation():
    """Assert that the verdict on a negative control is confirmed only if the false claim was refuted."""
    verdicts = [judge("n", "A claim", predicted=0.0, measured=m, allowed=1.0, why="r") for m in (0.0, 2.0, math.nan)]
    assert [must_be_refuted("control", v).status for v in verdicts] == ["refuted", "confirmed", "refuted"]


def test_a_control_says_what_happened():
    """Assert that a control names the false claim, what was measured and what it would have had to be."""
    off = judge("n", "A half is 1/3", predicted=0.25, measured=0.5, allowed=0.125, why="r")
    beyond = judge("n", "It is exact", predicted=0.0, measured=64.0, allowed=1.0, why="r")
    below = judge_at_least("n", "It is large", least=16.0, measured=4.0, why="r")
    found = [must_be_refuted("control", verdict) for verdict in (off, beyond, below)]
    assert [(v.predicted, v.measured) for v in found] == [("must fail", "failed")] * 3
    wanted = [("A half is 1/3", "0.5", "0.25"), ("It is exact", "64", "at most 1"), ("It is large", "4", "16")]
    assert all(word in v.claim for v, words in zip(found, wanted, strict=True) for word in words)


def test_an_error_in_units_of_its_limit_is_a_sentence():
    """Assert that numbers that the reason has in it are not said twice, and that all lines fit into 100 columns."""
    why = f"Largest error: 64 times what rounding can explain {LIMIT}"
    verdict = judge("n", "word " * 40, predicted=0.0, measured=64.0, allowed=1.0, why=why, first_departure=3)
    assert str(verdict).count("64") == 1 and "3" in str(verdict).splitlines()[-1]
    assert max(map(len, str(verdict).splitlines())) <= 100


@pytest.mark.parametrize("name", ["", "short", "n" * 150, " ".join(["name"] * 40)])
@pytest.mark.parametrize("value", [1e-9, ">= 1000000", "must fail"])
def test_rows_stay_in_their_columns(name, value):
    """Assert that numbers end where their headings end, whatever the name and the value are, within 100 columns."""
    row = judge(name, "A claim", predicted=1.0, measured=1e-9, allowed=0.1, why="a reason")
    verdicts = [replace(row, predicted=value), judge("b", "A claim", predicted=1.0, measured=1.0, allowed=0.1, why="")]
    head, *lines = str(Ledger(verdicts)).splitlines()
    rows = [line for line in lines if line.endswith("0.1")]
    assert len(rows) == 2 and {len(line) for line in rows} == {len(head)}
    assert max(map(len, lines)) <= 100


def test_forms():
    """Assert that a verdict says claim, numbers, reason and status in text, in HTML, escaped, and as JSON."""
    verdict = judge("name", "A <claim>", predicted=1.0, measured=2.0, allowed=0.1, why="a reason")
    for form in (str(verdict), str(Ledger([verdict])), Ledger([verdict])._repr_html_()):
        assert "2" in form and "✗" in form
    assert "&lt;claim&gt;" in Ledger([verdict])._repr_html_()
    assert "refuted" in verdict._repr_html_()
    assert json.loads(json.dumps(verdict.record()))["status"] == "refuted"


def test_a_claim_is_told_whole():
    """Assert that the ledger prints every word of a long claim, below its row, in at most 100 columns."""
    claim = " ".join(f"word{i}" for i in range(60))
    ledger = Ledger([judge("n" * 43, claim, predicted=1.0, measured=1e-9, allowed=0.1, why="a reason")])
    head, row, *told = str(ledger).splitlines()
    assert " ".join(" ".join(told).split()) == claim
    assert len(head) == len(row)
    assert max(map(len, (row, *told))) <= 100

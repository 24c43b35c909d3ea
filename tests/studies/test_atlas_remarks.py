"""The remarks of the atlas's page: each is about optimizers that there are, and speaks of what was measured."""

from dataclasses import replace
from pathlib import Path

import pytest

from swd_dynamics.auditing.atlas import Atlas, AtlasEntry, read_atlas
from swd_dynamics.studies.atlas_page import atlas_page
from swd_dynamics.studies.atlas_remarks import ATLAS_REMARKS, Remark

FOLDER = Path(__file__).parents[2] / "figures" / "atlas"
ALL = [(package, remark) for package, remarks in ATLAS_REMARKS.items() for remark in remarks]


@pytest.mark.parametrize(("package", "remark"), ALL, ids=[remark.text[:30] for _, remark in ALL])
def test_remarks_hold_in_the_committed_atlas(package, remark):
    """Assert that every remark agrees with the measurements of the committed atlas, and stands on its page."""
    assert remark.holds(read_atlas(FOLDER / f"{package.replace('.', '-')}.json"))
    assert remark.text in atlas_page(FOLDER)


def test_a_remark_that_no_longer_holds_is_left_out():
    """Assert that a remark needs each of its kinds and words, and optimizers of its names."""
    lost = AtlasEntry("A", {"kind": "decoupled", "bfloat16": {"weak": 0.0, "strong": 1.0}})
    found = Atlas("mine", {}, (lost,))
    remark = Remark("", {"A": "decoupled"}, {"A": "lost"})
    assert remark.holds(found)
    for changed in ({"kinds": {"A": "L2"}}, {"bfloat16": {"A": "kept"}}, {"kinds": {"B": "L2"}}):
        assert not replace(remark, **changed).holds(found)

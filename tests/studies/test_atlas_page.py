"""The page of the atlases: the committed one, and what it makes of a folder's files."""

import re
from pathlib import Path

import pytest

from swd_dynamics.auditing.atlas import PHASES, Atlas, AtlasEntry
from swd_dynamics.errors import InputError
from swd_dynamics.studies.atlas_page import WRITTEN, atlas_page, write_atlas_page

FOLDER = Path(__file__).parents[2] / "figures" / "atlas"
AGAIN = (
    "make it again: python -c 'from pathlib import Path; from swd_dynamics.studies.atlas_page import write_atlas_page;"
    ' write_atlas_page(Path("figures/atlas"))\''
)


def test_the_committed_page_is_of_the_committed_files():
    """Assert that figures/atlas/README.md is what the atlas command would write for the files beside it."""
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == atlas_page(FOLDER), AGAIN


def test_links_lead_somewhere():
    """Assert that every link of the committed page leads to a file, and that every picture is shown."""
    targets = set(re.findall(r"\]\(([^)]+)\)", (FOLDER / "README.md").read_text(encoding="utf-8")))
    assert targets == {path.name for path in FOLDER.iterdir()} - {"README.md"}


@pytest.fixture
def folder(tmp_path):
    """A folder with an atlas of one optimizer that was audited and one that was not, and with another JSON file."""
    phases = {phase: {"R": rate} for phase, rate in (("settled", 2e-3), ("gradients / 10", 3e-3))}
    found = {"kind": "L2", "phases": phases, "lr": 0.01, "weight_decay": 0.1, "reasons": ["a|b", "c"]}
    found |= {"bfloat16": {"weak": 0.99}, "spike": {"peak": 7.8, "recovery": None, "followed": 240}}
    entries = (AtlasEntry("MyAdamW", found, seconds=1.5), AtlasEntry("Other", None, "cannot be made"))
    Atlas("mine", {"torch": "2"}, entries).write(tmp_path)
    (tmp_path / "package.json").write_text("{}")
    return tmp_path


def test_every_optimizer_is_listed(folder):
    """Assert that each optimizer is in a table, with numbers and reasons, and above it where its name is wrong."""
    text = write_atlas_page(folder).read_text(encoding="utf-8")
    assert "| MyAdamW | decoupled | L2 | 2 | 3 | kept | 7.8×, > 240 steps | 1.5 | a\\|b; c |" in text
    assert "| MyAdamW | 2 | 3 | kept | 7.8×, > 240 steps | 1.5 | a\\|b; c |" in text
    assert "| Other | cannot be made |" in text


def test_namesakes_of_another_kind_are_listed(folder):
    """Assert that an optimizer is listed if two packages have the name with other kinds of decay, and only then."""
    assert "One name" not in atlas_page(folder)
    phases = {phase: {"R": 1e-3} for phase in PHASES}
    found = {"kind": "decoupled", "phases": phases, "lr": 0.01, "weight_decay": 0.1, "reasons": []}
    same = (
        AtlasEntry("Alike", found),
        AtlasEntry("MyADAMW", found),
        AtlasEntry("Simple", found | {"kind": "all the same"}),
    )
    Atlas("yours", {}, same).write(folder)
    Atlas("theirs", {}, (AtlasEntry("Alike", found), AtlasEntry("Simple", found))).write(folder)
    text = atlas_page(folder)
    assert "| MyAdamW | mine: L2 (2); yours: decoupled (1) |" in text
    assert "| Alike | mine" not in text and "| Simple | theirs: " not in text


def test_a_page_of_the_users_own_stays(folder):
    """Assert that a README.md that the atlas did not write is not written over, and that its own is."""
    assert write_atlas_page(folder).read_bytes().startswith(WRITTEN.encode())
    write_atlas_page(folder)
    (folder / "README.md").write_text("mine")
    with pytest.raises(InputError, match="would be lost"):
        write_atlas_page(folder)
    assert (folder / "README.md").read_text() == "mine"

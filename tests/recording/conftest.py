"""For the tests of recordings: runs that are closed at the end of a test."""

import pytest
from written_runs import MADE_BY, SIZES, VARIABLES

from swd_dynamics.recording import RunFolder


@pytest.fixture
def begin(tmp_path):
    """Begins runs in tmp_path/run and closes them at the end."""
    begun = []

    def create(folder=tmp_path / "run", how=RunFolder.create, variables=VARIABLES, made_by=MADE_BY, sizes=SIZES):
        begun.append(how(folder, variables, made_by, sizes))
        return begun[-1]

    yield create
    for run in begun:
        run.close()

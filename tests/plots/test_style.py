"""The figure style: every decay mode has a look of its own."""

import pytest

from swd_dynamics.plots import COLOURS, LABELS, MARKERS, MUTED
from swd_dynamics.plots.style import LOOKS
from swd_dynamics.rules import DECAYS


def test_every_decay_mode_has_a_look():
    """Assert that the looks are those of the modes in DECAYS, in their order, and of the unknown mode."""
    assert list(LOOKS) == [*DECAYS, "unknown"]
    assert list(COLOURS) == list(MARKERS) == list(LABELS) == list(DECAYS)


@pytest.mark.parametrize("member", ["colour", "marker", "label"])
def test_looks_differ(member):
    """Assert that no two modes share a colour, a marker or a label, and that none has the colour of guides."""
    members = [getattr(look, member) for look in LOOKS.values()]
    assert len({*members, MUTED}) == len(LOOKS) + 1

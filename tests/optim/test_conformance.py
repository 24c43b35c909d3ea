"""The optimizers against the authors' trajectories, their own rules, torch's optimizers and float64."""

import numpy as np
import pytest
import torch
from optim.by_design import DIFFERENT, TORCH
from optim.conformance import TABLE, flat, rows

from swd_dynamics import optim

# Agreement with values printed to 15 digits, after up to 100 steps of round-off.
PRINTED = 1e-13


def table(which):
    """The rows of one of the tables in the documentation."""
    paragraphs = [text for text in TABLE.read_text(encoding="utf-8").split("\n\n") if text.startswith("|")]
    return [line.strip("| ").split(" | ") for line in paragraphs[which].splitlines()[2:]]


@pytest.mark.parametrize("row", rows(), ids=lambda row: " | ".join(row.name))
@pytest.mark.slow
def test_is_what_it_should_be(row):
    """Assert that the difference is within what is allowed."""
    assert row.measure() <= row.allowed


def test_the_table_lists_what_is_tested():
    """Assert that the table in the documentation has these comparisons and no others, and none exceeded."""
    entries = table(0)
    assert [(*entry[:3], entry[4]) for entry in entries] == [row.name for row in rows()]
    for entry, row in zip(entries, rows(), strict=True):
        assert float(entry[3].removesuffix(row.unit)) <= row.allowed


@pytest.mark.parametrize("difference", DIFFERENT, ids=lambda each: each.what)
def test_is_different_by_design(difference):
    """Assert what comes of it with this package's optimizer, and with torch's where its version is the table's."""
    torchs, ours = difference.measured()
    assert ours == difference.outcomes[1]
    assert torchs == difference.outcomes[0] or not torch.__version__.startswith(TORCH)


def test_the_table_lists_every_difference():
    """Assert that the table in the documentation has these differences and no others."""
    assert table(1) == [[each.what, *each.outcomes, each.why] for each in DIFFERENT]


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        (
            "AdamS",
            {},
            {
                2: (0.979946019392986, -1.97988759048464, 0.479977563999566),
                100: (0.223308697380118, -1.09414834975667, -0.00391627328353006),
            },
        ),
        (
            "SGDS",
            {"momentum": 0.9},
            {
                2: (0.969121, -1.823922, 0.497552),
                100: (-0.00268720306243615, 0.00449918530936056, 0.164941965787327),
            },
        ),
    ],
)
def test_three_weights_on_a_quadratic(name, arguments, expected):
    """Assert that the weights on ½θᵀdiag(1, 3, .1)θ are those computed independently after 2 and after 100 steps."""
    theta = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    curvature = torch.tensor([1.0, 3.0, 0.1], dtype=torch.float64)
    optimizer = getattr(optim, name)([theta], lr=0.01, weight_decay=0.01, **arguments)
    for step in range(1, 101):
        theta.grad = curvature * theta.detach()
        optimizer.step()
        if step in expected:
            assert np.abs(flat([theta]) - expected[step]).max() < PRINTED

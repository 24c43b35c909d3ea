"""The study of the final gradient: its law is that of the definitions, and a law that is off is refuted."""

import numpy as np
import pytest

from swd_dynamics.studies.gradient_norm import FinalGradients, _law, held_share

V = np.array([1.0, 4.0])


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("SGD", 0.5),
        ("SGDW", 0.05),  # λ(1−β) at β = .9
        ("SGDS", 0.5),
        ("Adam", 0.5),
        ("AdamW", 0.5 * np.sqrt(V)),
        ("AdamS", 0.5 * np.sqrt(V / 2.5)),  # the mean of V is 2.5
    ],
)
def test_the_share_that_is_held_is_that_of_the_definitions(name, share):
    """Assert that −∇L/θ at rest is λ, λ(1−β), λ√v or λ√v/√v̄, as the table of R and η_eff says."""
    np.testing.assert_allclose(held_share(name, 0.5, v=V, mean=2.5), share, rtol=1e-12)


def ends(off):
    """Two runs at rest whose gradients are off the law by a factor, and one that is far from rest."""
    law = np.array([[1.0, 2.0, 3.0]])
    return FinalGradients(np.ones(1), law * [off, off, 50.0], law, np.array([[4.0, 5.0, 0.1]]), np.ones((1, 3)))


@pytest.mark.parametrize(
    ("off", "status"), [(1.0, "confirmed"), (1.04, "confirmed"), (1.06, "refuted"), (0.9, "refuted")]
)
def test_a_law_that_is_off_is_refuted(off, status):
    """Assert that gradients a twentieth off the law are refuted, and that runs that do not rest do not count."""
    assert _law("SGD", ends(off)).status == status


def test_without_a_run_at_rest_nothing_is_decided():
    """Assert that the law is undecided where no run has come to rest."""
    assert _law("SGD", ends(1.0)._replace(memory=np.zeros((1, 3)))).status == "inconclusive"

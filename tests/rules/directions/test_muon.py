"""Muon: torch's own steps, its rounding to bfloat16, and orthogonal matrices by singular values."""

from functools import partial

import numpy as np
import pytest
import torch
from tolerances import round_off

from swd_dynamics.crosscheck import replay
from swd_dynamics.errors import InputError
from swd_dynamics.optim import OPTIMIZERS
from swd_dynamics.probe import record
from swd_dynamics.rules import CATALOG, Muon, Stable, UpdateRule
from swd_dynamics.symbolic import NotDerivable, equations
from swd_dynamics.verification import verify

pytestmark = pytest.mark.skipif("MuonW" not in OPTIMIZERS, reason="torch has Muon since version 2.9")

ARGUMENTS = {"lr": 0.01, "weight_decay": 0.05}
CUBIC = (1.5, -0.5, 0.0)  # Newton and Schulz's own polynomial, whose limit is UVᵀ
CASES = [
    {},
    {"nesterov": False},
    {"momentum": 0.0},
    {"adjust_lr_fn": "original", "momentum": 0.5},
    {"adjust_lr_fn": "match_rms_adamw"},
    {"ns_steps": 3, "ns_coefficients": (2.0, -1.5, 0.5)},
    {"eps": 1.0},
]


@pytest.mark.parametrize("own", CASES, ids=str)
@pytest.mark.slow
def test_takes_torchs_steps(own):
    """Assert that torch's Muon takes the rule's steps to float64 round-off, its rounding to bfloat16 included."""
    verdict = verify(partial(torch.optim.Muon, **own, **ARGUMENTS), CATALOG["MuonW"](**own, **ARGUMENTS), steps=24)
    assert verdict.status == "confirmed", str(verdict)
    assert "matrices only" in verdict.why


@pytest.mark.slow
def test_wrong_numbers_and_the_wrong_decay_are_seen():
    """Assert that L2 for decoupled decay is named, and that steps that are not rounded are refuted."""
    factory = partial(torch.optim.Muon, **ARGUMENTS)
    verdict = verify(factory, CATALOG["Muon"](**ARGUMENTS), steps=8)
    assert verdict.cause == "weight decay is decoupled: R = ηλ; this is MuonW"
    assert verify(factory, CATALOG["MuonW"](coarse=False, **ARGUMENTS), steps=8).status == "refuted"


@pytest.mark.slow
def test_a_name_stands_for_torchs_defaults():
    """Assert that the name alone takes the optimizer's own numbers, None and three coefficients among them."""
    assert verify(torch.optim.Muon, "MuonW", steps=8).passed


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.slow
def test_replays_a_recorded_run(dtype):
    """Assert that a training run with two groups of matrices and a learning rate that halves replays by name."""
    random = torch.Generator().manual_seed(0)
    tall, wide = (torch.randn(shape, generator=random, dtype=dtype, requires_grad=True) for shape in ((6, 3), (2, 5)))
    optimizer = torch.optim.Muon([{"params": [tall]}, {"params": [wide], "lr": 0.1, "weight_decay": 0.0}])
    halving = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5)

    def loss(k):
        if k:
            halving.step()
        return (tall @ torch.ones(3, 2, dtype=dtype) @ wide - 1).square().sum()

    recording = record(optimizer, loss, steps=10, trajectory=True)
    assert replay("MuonW", recording).passed
    assert not replay("MuonS", recording, causes=False).passed


def test_the_same_in_numpy_and_in_torch():
    """Assert that the rule steps several matrices alike in numpy and in torch, under stable decay too."""
    generator = np.random.default_rng(3)
    theta, gradient = ([generator.normal(size=shape) for shape in ((4, 3), (2, 5))] for _ in range(2))
    rule = UpdateRule(0.1, Muon(), Stable(0.5))
    ours = rule(rule.start(theta), gradient).theta
    theirs = rule(rule.start(list(map(torch.from_numpy, theta))), list(map(torch.from_numpy, gradient))).theta
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(one - other.numpy()).max() <= round_off(1, [1.0])


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_many_exact_steps_reach_the_orthogonal_factor(shape):
    """Assert that with Newton and Schulz's own polynomial, not rounded, O(u) is the UVᵀ of numpy's SVD."""
    u = np.random.default_rng(0).normal(size=shape)
    direction = Muon(0.0, nesterov=False, ns_coefficients=CUBIC, ns_steps=60, coarse=False)
    rule = UpdateRule(0.1, direction)
    left, _, right = np.linalg.svd(u, full_matrices=False)
    scale = np.sqrt(max(1, shape[0] / shape[1]))
    move = rule.parts(rule.start(0 * u), u).move
    assert np.abs(move - scale * left @ right).max() <= round_off(60, [1.0])


@pytest.mark.slow
def test_stable_decay_rests_at_the_norm_of_l2():
    """Assert that under a constant G, W rests at ‖W‖ = ‖G‖/λ; its largest singular value is then ‖G‖/(λ√r)."""
    gradient = np.diag([3.0, 1.0, 2.0])
    direction = Muon(0.5, ns_coefficients=CUBIC, ns_steps=40, coarse=False)
    rule = UpdateRule(0.1, direction, Stable(2.0))
    state = rule.start(np.eye(3))
    for _ in range(1000):
        state = rule(state, gradient)
    assert np.linalg.norm(state.theta) == pytest.approx(np.linalg.norm(gradient) / 2, rel=1e-12)
    assert np.linalg.norm(state.theta, 2) == pytest.approx(np.linalg.norm(gradient) / (2 * np.sqrt(3)), rel=1e-12)


def moves(u):
    """The rule's move for a gradient, and torch's, without momentum."""
    rule = UpdateRule(1.0, Muon(0.0, nesterov=False))
    parameter = torch.zeros(u.shape, dtype=torch.float64, requires_grad=True)
    parameter.grad = torch.from_numpy(u.copy())
    torch.optim.Muon([parameter], lr=1.0, momentum=0.0, nesterov=False, weight_decay=0.0).step()
    return rule.parts(rule.start(0 * u), u).move, -parameter.detach().numpy()


@pytest.mark.parametrize(("shape", "matrices", "allowed"), [((6, 6), 60, 0.0), ((6, 3), 60, 0.0), ((16, 16), 20, 0.02)])
def test_rounding_in_small_and_in_larger_matrices(shape, matrices, allowed):
    """Assert that all entries are torch's up to 6 rows and columns, and that those of larger matrices are near."""
    generator = np.random.default_rng(5)
    pairs = [moves(generator.normal(size=shape)) for _ in range(matrices)]
    assert max(np.abs(ours - theirs).max() for ours, theirs in pairs) <= allowed


def test_what_muon_refuses():
    """Assert that a vector, a formula, and arguments out of range are refused with what is allowed."""
    rule = UpdateRule(0.1, Muon())
    with pytest.raises(InputError, match=r"orthogonalises matrices, not shape \(3,\)"):
        rule(rule.start(np.ones(3)), np.ones(3))
    with pytest.raises(NotDerivable, match="all weights of its matrix"):
        equations(rule)
    with pytest.raises(InputError, match="'original' or 'match_rms_adamw'"):
        Muon(adjust_lr_fn="rms")
    with pytest.raises(InputError, match="three numbers"):
        Muon(ns_coefficients=(1.0, 2.0))

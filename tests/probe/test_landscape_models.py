"""The landscape of models as they are trained: with attention, groups, dropout, compiled code and half precision."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from swd_dynamics.errors import InputError
from swd_dynamics.probe import Landscape, Probe, record
from swd_dynamics.probe.quantities import SETS
from swd_dynamics.recording import load_snapshot

FINE = 1e-6  # tolerance of the search for eigenvalues
EXACT = 1e-10  # relative error of an eigenvalue, tolerance² and a few dozen operations in float64
OWN = [name for name in SETS["landscape"] if name not in SETS["default"]]
H = torch.tensor([9.0, 4.0, 1.0], dtype=torch.float64)


def weights(*values):
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def recorded(optimizer, loss, steps=1, quantities=OWN, **settings):
    landscape = Landscape(loss, **{"tolerance": FINE, "k": 1} | settings)
    return record(optimizer, lambda _: loss(), steps, quantities=quantities, landscape=landscape, trajectory=False)


def fused(query, key, value):
    return scaled_dot_product_attention(query, key, value, is_causal=True)


def by_hand(query, key, value):
    scores = query @ key.mT / query.shape[-1] ** 0.5
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(later, -torch.inf).softmax(-1) @ value


def attention_loss(attend, projection, x):
    """A loss of causal attention whose query, key and value are x·W."""
    query, key, value = (x @ projection.view(3, 2, 2)[:, None, None]).unbind(0)
    return (attend(query, key, value) - x.roll(1, -2)).square().mean()


@pytest.mark.slow
def test_attention():
    """Assert that with fused attention sharpness and slope are those of attention that is written out."""
    generator = torch.Generator().manual_seed(0)
    start, x = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((12,), (2, 1, 5, 2)))

    def sharpness(at):
        dense = torch.autograd.functional.hessian(lambda w: attention_loss(by_hand, w, x), at)
        return np.linalg.eigvalsh(dense)[-1]

    theta, settings = nn.Parameter(start.clone()), torch.backends.cuda.flash_sdp_enabled()
    run = recorded(torch.optim.SGD([theta], lr=0.01), lambda: attention_loss(fused, theta, x))
    assert run.sharpness.item() == pytest.approx(sharpness(start), rel=1e-9)
    step = 1e-4  # the error of the difference falls as its square
    rise = (sharpness(start * (1 + step)) - sharpness(start * (1 - step))) / (2 * step)
    # Only the first eigenvalue is sought, so that the direction u alone is left out of θ.
    direction, slope = leading(start, x), along_itself(start, x, sharpness)
    assert run.sharpness_along_theta.item() == pytest.approx(rise - float(direction @ start) * slope, rel=1e-4)
    assert torch.backends.cuda.flash_sdp_enabled() == settings


def leading(at, x):
    dense = torch.autograd.functional.hessian(lambda w: attention_loss(by_hand, w, x), at)
    return torch.linalg.eigh(dense).eigenvectors[:, -1]


def along_itself(at, x, sharpness):
    step, direction = 1e-4, leading(at, x)
    return (sharpness(at + step * direction) - sharpness(at - step * direction)) / (2 * step)


def test_learning_rates_of_groups():
    """Assert that with groups the edge is where η̄ times the sharpness is 2, and that the critical sharpness agrees."""
    for lr, is_stable in ((0.9, True), (1.1, False)):
        # The largest of ηh is that of the second weight, ¼·4·lr·2 = 2·lr.
        thetas = weights(1.0), weights(1.0, 1.0)
        groups = [{"params": [thetas[0]], "lr": 0.1 * lr}, {"params": [thetas[1]], "lr": 0.5 * lr}]
        run = recorded(torch.optim.SGD(groups), lambda both=thetas: (H * torch.cat(both) ** 2).sum() / 2, 3)
        mean = (0.1 + 2 * 0.5) * lr / 3
        np.testing.assert_allclose(run.sharpness, [0.5 * lr * 4 / mean] * 3, rtol=EXACT)
        assert (mean * run.sharpness[-1] < 2) == is_stable
    # At last the second weight has grown, so that the curvature along Δθ is nearly the sharpness.
    assert 0.8 < run.critical_sharpness[-1] / run.sharpness[-1] <= 1


def test_epsilons_of_groups():
    """Assert that D has the ε of each weight's group."""
    thetas, eps = (weights(1.0), weights(1.0, 1.0)), (8.0, 0.25)
    groups = [{"params": [theta], "eps": each} for theta, each in zip(thetas, eps, strict=True)]
    run = recorded(torch.optim.AdamW(groups, lr=0.01), lambda: (H * torch.cat(thetas) ** 2).sum() / 2)
    # After a step √v̂ = |g| = h.
    assert run.sharpness.item() == pytest.approx(max(9 / (9 + 8), 4 / (4 + 0.25)), rel=EXACT)


def test_decays_of_groups():
    """Assert that R̄ times ⟨θ, ∇S⟩ is what decay takes from the sharpness, where a group does not decay."""
    x, y, z = weights(0.0), weights(1.5), weights(2.0)

    def loss():  # S = 9 + 2y + z at x = 0
        return ((9 + 2 * y + z) * x**2 / 2 + y**2 + z**2 / 2).sum()

    groups = [{"params": [x, y], "weight_decay": 0.1}, {"params": [z], "weight_decay": 0.0}]
    run = recorded(torch.optim.AdamW(groups, lr=0.01, eps=1.0), loss, quantities=[*OWN, "decay_rate"])
    taken = 0.01 * 0.1 * 2 * 1.5  # D of x is ε = 1
    assert run.decay_rate.item() * run.sharpness_along_theta.item() == pytest.approx(taken, rel=EXACT)


def test_learning_rates_and_the_slope():
    """Assert that η̄ times ⟨−g, ∇S⟩ is what the gradients add to the sharpness in a small step of each group."""
    x, y, z = weights(0.0), weights(1.5), weights(2.0)

    def loss():
        return ((9 + 2 * y + z) * x**2 / 2 + y**2 + z**2 / 2).sum()

    groups = [{"params": [x, y], "lr": 1e-3}, {"params": [z], "lr": 5e-3}]
    run = recorded(torch.optim.SGD(groups), loss, quantities=[*OWN, "lr"])
    mean = (2 * 1e-3 + 5e-3) / 3
    # The sharpness is (η of x / η̄)·(9 + 2y + z).
    added = -(1e-3 * 2 * 3 + 5e-3 * 2) * 1e-3 / mean
    assert mean * run.sharpness_along_descent.item() == pytest.approx(added, rel=EXACT)


def test_frozen_weights():
    """Assert that weights that do not require a gradient take no part, from the step on in which they are frozen."""
    frozen, theta = weights(1.0), weights(1.0, 1.0)
    frozen.requires_grad_(False)
    optimizer = torch.optim.SGD([frozen, theta], lr=0.01, weight_decay=0.1)
    run = recorded(optimizer, lambda: (H * torch.cat([frozen, theta]) ** 2).sum() / 2)
    assert run.sharpness.item() == pytest.approx(4, rel=EXACT)
    assert run.critical_step.notnull().all()
    thawed = recorded(torch.optim.SGD([theta.requires_grad_()], lr=0.01), lambda: (H[1:] * theta**2).sum() / 2)
    assert thawed.sharpness.item() == pytest.approx(4, rel=EXACT)


def noisy_network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 1))
    return model.double(), torch.randn(16, 4, dtype=torch.float64)


def gradients(model):
    return np.concatenate([np.ravel(parameter.grad) for parameter in model.parameters()])


def trained_noisily(quantities, accumulate=1, compiled=None):
    """The state of a network after some steps in training mode, a random number after them, and the recording."""
    model, x = noisy_network()
    called = torch.compile(model, backend=compiled) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    landscape = Landscape(lambda: called(x).square().mean(), k=1) if quantities else None
    with Probe(optimizer, quantities=quantities or "minimal", landscape=landscape) as probe:
        for _ in range(3):
            optimizer.zero_grad()
            for part in x.chunk(accumulate):
                called(part).square().mean().div(accumulate).backward()
            before = gradients(model).copy()
            optimizer.step()
            assert np.array_equal(before, gradients(model))
    return model.state_dict(), torch.rand(1), probe.dataset()


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.slow
def test_dropout_and_batch_norm(accumulate):
    """Assert that in training mode weights, gradients, running statistics and random numbers stay bit for bit."""
    plain, drawn, _ = trained_noisily(None, accumulate)
    seen, also_drawn, run = trained_noisily(OWN, accumulate)
    assert all(torch.equal(plain[name], seen[name]) for name in plain) and torch.equal(drawn, also_drawn)
    assert np.isfinite(run.sharpness.values).all() and np.isfinite(run.critical_step.values).all()


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # of torch.compile
@pytest.mark.slow  # compiles a model
def test_compiled_model():
    """Assert that a compiled model has the landscape of the model from which it was compiled."""
    names = ["sharpness", "sharpness_along_theta", "critical_step"]
    _, _, plain = trained_noisily(names)
    _, _, compiled = trained_noisily(names, compiled="aot_eager")
    # Only the compiled training differs, in the last digits; the search's tolerance is 1e-4 of an eigenvector.
    for name in names:
        np.testing.assert_allclose(compiled[name], plain[name], rtol=1e-3)


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # of torch.compile
@pytest.mark.slow  # compiles a step
def test_compiled_step():
    """Assert that the landscape is measured around the steps of a compiled optimizer."""
    theta = weights(1.0, 1.0, 1.0)
    optimizer = torch.optim.SGD([theta], lr=0.01)
    step = torch.compile(optimizer.step, backend="eager")
    with Probe(optimizer, quantities=OWN, landscape=Landscape(lambda: (H * theta**2).sum() / 2, k=1)) as probe:
        (H * theta**2).sum().div(2).backward()
        step()
    assert probe.dataset().sharpness.item() == pytest.approx(9, rel=EXACT)


@pytest.mark.parametrize("level, is_seen", [(1.0, True), (1e5, True), (1e8, False)])
def test_single_precision(level, is_seen):
    """Assert that in float32 the critical step is right where the loss can show it, and NaN where it cannot."""
    h = torch.tensor([9.0, 4.0, 1.0])
    theta = nn.Parameter(torch.ones(3))
    run = recorded(
        torch.optim.SGD([theta], lr=1e-6), lambda: level + (h * theta**2).sum() / 2, quantities=["critical_step"]
    )
    # s_c = 2·Σ(hθ)²/(η·Σh³θ²). On the way there the loss falls by 6 at most, and 1e5 is rounded to 0.008, 1e8 to 8.
    expected = 2e6 * 98 / (729 + 64 + 1)
    assert run.critical_step.item() == pytest.approx(expected if is_seen else np.nan, rel=0.01, nan_ok=True)


def test_half_precision():
    """Assert that bfloat16 weights have a sharpness by a coarse tolerance, and that the critical step is refused."""
    theta = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer, loss = torch.optim.SGD([theta], lr=2**-6), lambda: (H.to(theta) * theta**2).sum() / 2
    with pytest.raises(InputError, match="bfloat16"):
        recorded(optimizer, loss, quantities=["sharpness"])
    with pytest.raises(InputError, match="critical"):
        recorded(optimizer, loss, quantities=["critical_step"], tolerance=0.1)
    run = recorded(optimizer, loss, quantities=["sharpness"], tolerance=0.1)
    assert run.sharpness.item() == pytest.approx(9, rel=0.01)


def test_snapshots_and_resume(tmp_path):
    """Assert that a snapshot has the weights after its step, and that a run is not resumed with another k."""
    theta = weights(1.0, 1.0, 1.0)
    optimizer = torch.optim.SGD([theta], lr=0.1)

    def go_on(k):
        landscape = Landscape(lambda: (H * theta**2).sum() / 2, k=k)
        record(
            optimizer, lambda _: (H * theta**2).sum() / 2, 2, path=tmp_path / "run", quantities=OWN, trajectory=False,
            landscape=landscape, snapshots=2, resume=True, step=0 if theta[0] == 1 else 2,
        )  # fmt: skip

    go_on(2)
    (kept,) = load_snapshot(tmp_path / "run", 2).values()
    assert np.array_equal(kept, theta.detach().numpy())
    with pytest.raises(InputError, match="eigenvalue"):
        go_on(3)

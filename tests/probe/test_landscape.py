"""Sharpness, its slope and the critical step in a recording, compared with closed forms and derived limits."""

import numpy as np
import pytest
import torch

from swd_dynamics.errors import InputError
from swd_dynamics.optim import OPTIMIZERS, SGDS, AdaiS, AdamS
from swd_dynamics.probe import Landscape, Probe, record
from swd_dynamics.probe.quantities import QUANTITIES, SETS
from swd_dynamics.recording import open_recording
from swd_dynamics.rules import CATALOG
from swd_dynamics.studies.central_flow import regression
from swd_dynamics.symbolic import stability_limit
from swd_dynamics.symbolic.notation import PerWeight
from swd_dynamics.tasks import tanh_network

FINE = 1e-6  # tolerance of the search for eigenvalues
EXACT = 1e-10  # relative error of an eigenvalue, tolerance² and a few dozen operations in float64
OWN = [name for name in SETS["landscape"] if name not in SETS["default"]]
LIKE = {"SGDW": {}, "AdamW": {"eps": 0.0}}  # D is √v̂ + ε, and v = 1 stands for it
H = torch.tensor([9.0, 4.0, 1.0], dtype=torch.float64)


def weights(*values):
    return torch.nn.Parameter(torch.tensor(values, dtype=torch.float64))


def quadratic(theta):
    return lambda: (H * theta**2).sum() / 2


def recorded(optimizer, loss, steps=1, quantities=OWN, **settings):
    landscape = Landscape(loss, **{"tolerance": FINE, "k": 2} | settings)
    return record(optimizer, lambda _: loss(), steps, quantities=quantities, landscape=landscape, trajectory=False)


def test_sgd_on_a_quadratic():
    """Assert that the eigenvalues are those of the Hessian, and that their slope is 0."""
    theta = weights(1.0, 1.0, 1.0)
    run = recorded(torch.optim.SGD([theta], lr=0.1, momentum=0.5), quadratic(theta), 3)
    np.testing.assert_allclose(run.hessian_eigenvalues, [[9, 4]] * 3, rtol=EXACT)
    np.testing.assert_allclose(run.sharpness, [9] * 3, rtol=EXACT)
    assert run.hessian_eigenvalues.dims == ("step", "eigenvalue")
    assert (run.sharpness_along_theta == 0).all() and (run.sharpness_along_descent == 0).all()


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, AdamS])
def test_preconditioned_quadratic(kind):
    """Assert that the sharpness at the weights before a step is that of D⁻¹H with the D of this step."""
    theta = weights(1.0, -2.0, 0.5)
    optimizer = kind([theta], lr=0.1, betas=(0.9, 0.5), eps=0.25, weight_decay=0.1)
    run = recorded(optimizer, quadratic(theta), 4)
    state = optimizer.state[theta]
    divisor = (state["exp_avg_sq"] / (1 - 0.5**4)).sqrt() + 0.25
    np.testing.assert_allclose(run.hessian_eigenvalues[-1], sorted(H / divisor)[:0:-1], rtol=EXACT)


@pytest.mark.parametrize("name", ["SGD", "SGDW", "momentum"])
def test_critical_sharpness(name):
    """Assert that the critical sharpness is 2/η_c with η_c = −2η·gᵀΔθ/ΔθᵀHΔθ, where Δθ is the whole step."""
    theta, decay = weights(1.0, -2.0, 0.5), 0.1 if name == "SGDW" else 0.0
    optimizer = torch.optim.SGD([theta], lr=0.01, momentum=0.9 * (name == "momentum"), weight_decay=decay)
    run = record(
        optimizer, lambda _: quadratic(theta)(), 5, trajectory=True, quantities=["lr", *OWN],
        landscape=Landscape(quadratic(theta), k=1),
    )  # fmt: skip
    before, steps = run.theta.values[:-1], np.diff(run.theta.values, axis=0)
    h = H.numpy()
    multiple = -2 * (h * before * steps).sum(1) / (h * steps**2).sum(1)
    np.testing.assert_allclose(run.critical_step, multiple, rtol=1e-9)
    np.testing.assert_allclose(run.critical_sharpness, 2 / (0.01 * multiple), rtol=1e-9)


def quartic(theta):
    """½(9 + 2y)x² + ½·4y² + y³/6 + z²/2: at x = 0 the Hessian is diag(9 + 2y, 4 + y, 1)."""
    x, y, z = theta
    return (9 + 2 * y) * x**2 / 2 + 2 * y**2 + y**3 / 6 + z**2 / 2


def test_slope_of_sgd():
    """Assert ⟨θ, ∇S⟩ = 2y, ⟨−g, ∇S⟩ = −2(4y + y²/2) and their ratio, where S = 9 + 2y."""
    y = 1.5
    theta = weights(0.0, y, 1.0)
    run = recorded(torch.optim.SGD([theta], lr=0.01, momentum=0.5, weight_decay=0.1), lambda: quartic(theta))
    assert run.sharpness.item() == pytest.approx(9 + 2 * y, rel=EXACT)
    assert run.sharpness_along_theta.item() == pytest.approx(2 * y, rel=EXACT)
    assert run.sharpness_along_descent.item() == pytest.approx(-2 * (4 * y + y**2 / 2), rel=EXACT)
    assert run.lifting_decay.item() == pytest.approx(-(4 + y / 2), rel=EXACT)


def test_slope_of_adam():
    """Assert that with Adam S is divided by D of its weight, and −g is multiplied by √v̄/D of its own weight."""
    theta, y, eps = weights(0.0, 1.5, 1.0), 1.5, 0.5
    optimizer = torch.optim.AdamW([theta], lr=0.01, eps=eps, weight_decay=0.0)
    # The first step has v̂ = g². Its x has g = 0, so that D = ε there, and S = (9 + 2y)/ε.
    run = recorded(optimizer, lambda: quartic(theta))
    g = np.array([0.0, 4 * y + y**2 / 2, 1.0])
    slope = 2 / eps
    assert run.sharpness.item() == pytest.approx((9 + 2 * y) / eps, rel=EXACT)
    assert run.sharpness_along_theta.item() == pytest.approx(slope * y, rel=EXACT)
    expected = -np.sqrt(np.mean(g**2)) * slope * g[1] / (g[1] + eps)
    assert run.sharpness_along_descent.item() == pytest.approx(expected, rel=EXACT)


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("SGDW", {"lr": 0.25, "weight_decay": 0.005, "momentum": 0.5}),
        ("AdamW", {"lr": 5e-4, "weight_decay": 0.2, "betas": (0.0, 0.95)}),
    ],
)
@pytest.mark.slow
def test_edge_of_stability(name, arguments):
    """Assert that a full-batch run at the edge has the sharpness of the derived limit, with its decay."""
    task = regression()
    optimizer = OPTIMIZERS[name](task.model.parameters(), **arguments)
    names = ["sharpness", "critical_sharpness"]
    run = recorded(optimizer, lambda: task.loss(0), 800, names, every=8, k=1, tolerance=1e-2)
    v = PerWeight("v", positive=True)
    # With v = 1 this is the limit of the eigenvalues of D⁻¹H.
    limit = float(stability_limit(CATALOG[name](**arguments | LIKE[name])).value.subs(v, 1))
    late = run.sharpness.values[639::8]
    # The oscillation swings about its settled size, and a second direction overshoots its limit.
    assert late.mean() == pytest.approx(limit, rel=0.05)
    # The critical sharpness is a mean of eigenvalues: near the largest only while that oscillates, which SGDW does in
    # bursts here, and Adam all the time.
    assert run.critical_sharpness.values[7] < 0.5 * run.sharpness.values[7]
    if name == "AdamW":
        assert 0.75 < np.median(run.critical_sharpness.values[639::8]) / limit < 1.1


def test_without_what_oscillates():
    """Assert that the parts of g and θ along a direction as sharp as S do not count, and all others do."""
    theta = weights(1.0, 0.0, 0.0)  # S = 6x² is along x, and falls fast as the oscillation in x shrinks

    def loss():
        x, y, z = theta
        return x**4 / 2 + y**2 + z**2

    run = recorded(torch.optim.SGD([theta], lr=0.01), loss)
    assert run.sharpness.item() == pytest.approx(6, rel=EXACT)
    assert abs(run.sharpness_along_theta.item()) < EXACT
    assert abs(run.sharpness_along_descent.item()) < EXACT


def test_weight_without_a_step():
    """Assert that a weight without a gradient, whose D is ∞, takes no part in the sharpness and its slope."""
    theta, idle = weights(0.0, 1.5, 1.0), weights(7.0)
    optimizer = torch.optim.AdamW([theta, idle], lr=0.01, eps=0.5, weight_decay=0.0)
    run = recorded(optimizer, lambda: quartic(theta))
    assert run.sharpness_along_theta.item() == pytest.approx(2 * 1.5 / 0.5, rel=EXACT)


def trained(make, landscape, steps=6):
    task = tanh_network((4,), samples=50)
    optimizer = make(task.model.parameters())
    options = {"landscape": landscape(task), "quantities": "landscape"} if landscape else {}
    run = record(optimizer, task.loss, steps, trajectory=False, model=task.model, **options)
    return task.theta, run


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, lr=0.01),
        lambda p: SGDS(p, lr=0.1, momentum=0.9, weight_decay=0.1),
        lambda p: AdaiS(p, lr=0.1, weight_decay=0.1),
    ],
    ids=["AdamW", "SGDS", "AdaiS"],
)
@pytest.mark.slow
def test_training_is_the_same(make):
    """Assert that training is bit for bit the same with all measurements, and so are torch's random numbers."""
    torch.manual_seed(0)
    plain, _ = trained(make, None)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    seen, run = trained(make, lambda task: Landscape(lambda: task.loss(0)))
    assert np.array_equal(plain, seen)
    assert torch.equal(torch.rand(1), drawn)
    assert np.isfinite(run.sharpness.values).all()


@pytest.mark.slow
def test_every_nth_step(tmp_path):
    """Assert that every third step is measured, and that the others have NaN, also in a run folder."""
    task = tanh_network((4,), samples=50)
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.1)
    landscape = Landscape(lambda: task.loss(0), every=3, k=2)
    record(
        optimizer, task.loss, 7, path=tmp_path / "run", quantities=["loss", *OWN], landscape=landscape, trajectory=False
    )
    found = open_recording(tmp_path / "run")
    for name in OWN:
        finite = np.isfinite(found[name].values.reshape(7, -1)).all(1)
        assert finite.tolist() == [False, False, True, False, False, True, False]
    # the row of step 3 has the curvature at the weights before step 3, as it has the loss there
    task = tanh_network((4,), samples=50)
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.1)
    for k in range(2):
        optimizer.zero_grad()
        task.loss(k).backward()
        optimizer.step()
    dense = np.linalg.eigvalsh(task.hessian(task.theta))[::-1][:2]
    np.testing.assert_allclose(found.hessian_eigenvalues[2], dense, rtol=1e-6)  # the search's tolerance is 1e-4


@pytest.mark.slow
def test_resumed(tmp_path):
    """Assert that a recording with a landscape is resumed with the same number of eigenvalues."""
    theta = weights(1.0, 1.0, 1.0)
    optimizer, options = torch.optim.SGD([theta], lr=0.01), {"quantities": OWN, "path": tmp_path / "run"}
    for steps in (2, 4):
        landscape = Landscape(quadratic(theta), k=2)
        record(
            optimizer, lambda _: quadratic(theta)(), 2, landscape=landscape, trajectory=False,
            resume=True, step=steps - 2, **options,
        )  # fmt: skip
    assert open_recording(tmp_path / "run").hessian_eigenvalues.shape == (4, 2)


def test_critical_step_of_any_optimizer():
    """Assert that the critical step needs no preconditioner: it is there for optimizers that are not known."""

    class Halving(torch.optim.Optimizer):
        def __init__(self, parameters):
            super().__init__(parameters, {"lr": 0.5})

        def step(self, closure=None):
            for parameter in self.param_groups[0]["params"]:
                parameter.data.mul_(0.5)

    theta = weights(1.0, 1.0, 1.0)
    run = recorded(Halving([theta]), quadratic(theta), 2, quantities=["critical_step"])
    np.testing.assert_allclose(run.critical_step, [4, 4], rtol=EXACT)
    with pytest.raises(InputError, match="Halving"):
        recorded(Halving([theta]), quadratic(theta), 2)


def test_no_step_and_ascent():
    """Assert that a step of length 0 has no critical step, and that one uphill has 0 and an infinite curvature."""
    theta = weights(1.0, 1.0, 1.0)
    run = recorded(torch.optim.SGD([theta], lr=0.0), quadratic(theta))
    assert run.critical_step.isnull().all()
    run = recorded(
        torch.optim.SGD([theta], lr=0.1, maximize=True),
        quadratic(theta),
        quantities=["critical_step", "critical_sharpness"],
    )
    assert (run.critical_step.item(), run.critical_sharpness.item()) == (0, np.inf)


def test_failing_loss():
    """Assert that a loss that fails at other weights ends the recording, but not the training, whose weights stay."""
    theta = weights(1.0, 1.0, 1.0)

    def loss():
        raise RuntimeError("out of memory")

    optimizer = torch.optim.SGD([theta], lr=0.1)
    probe = Probe(optimizer, quantities=["loss", "critical_step"], landscape=Landscape(loss))
    with pytest.warns(RuntimeWarning, match="out of memory"), probe:
        quadratic(theta)().backward()
        optimizer.step()
    np.testing.assert_allclose(theta.detach(), 1 - 0.1 * H, rtol=EXACT)


def test_refused_arguments():
    """Assert that quantities without a loss, a loss without quantities, and wrong settings are refused."""
    theta = weights(1.0, 1.0, 1.0)
    optimizer, landscape = torch.optim.SGD([theta], lr=0.1), Landscape(quadratic(theta))
    for arguments in (
        {"quantities": ["sharpness"]},
        {"quantities": "landscape"},
        {"quantities": "default", "landscape": landscape},
        {"quantities": "landscape", "landscape": Landscape(quadratic(theta), k=4)},
        {"quantities": "landscape", "landscape": quadratic(theta)},
    ):
        with pytest.raises(InputError):
            Probe(optimizer, **arguments)
    for settings in ({"every": 0}, {"k": 0}, {"loss": 3.0}):
        with pytest.raises(InputError):
            Landscape(**{"loss": quadratic(theta)} | settings)


def test_long_names():
    """Assert that every quantity of the landscape says what it is, and is in no other set."""
    others = {name for chosen in ("minimal", "default", "dynamics") for name in SETS[chosen]}
    assert all(QUANTITIES[name].long_name for name in OWN) and not others & set(OWN)

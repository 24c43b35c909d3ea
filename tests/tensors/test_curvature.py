"""The largest eigenvalues of the Hessian, compared with dense Hessians and closed forms."""

import contextlib
import copy

import numpy as np
import pytest
import torch

from swd_dynamics.errors import InputError
from swd_dynamics.optim import SGDS, AdaiS, AdamS
from swd_dynamics.tasks import tanh_network
from swd_dynamics.tensors import Curvature, preconditioner_of
from swd_dynamics.tensors.eigenpairs import top_eigenpairs

# Tolerance of the solver. Its square, divided by a relative gap of 1e-2 or more, is below DENSE.
FINE = 1e-6
# Difference of an iterated eigenvalue from the dense Hessian's, relative to the largest eigenvalue.
DENSE = 1e-8
EXACT = 1e-12  # relative error of a few dozen operations in float64 on numbers from 1 to 100
SINGLE = 1e-5  # relative error of a few dozen operations in float32, whose eps is 1.2e-7


@pytest.fixture(scope="module")
def task():
    """The digits network 64-8-10 with 610 weights, after some steps: its Hessian has negative
    eigenvalues.
    """
    task = tanh_network((8,), samples=200)
    train(task, torch.optim.SGD(task.model.parameters(), lr=0.1, momentum=0.9), 20)
    return task


def train(task, optimizer, steps):
    for k in range(steps):
        optimizer.zero_grad()
        task.loss(k).backward()
        optimizer.step()


def quadratic(spectrum, dtype=torch.float64):
    """A parameter, and ½ Σ hᵢθᵢ², whose Hessian is diag(h)."""
    theta = torch.nn.Parameter(torch.ones(len(spectrum), dtype=dtype))
    h = torch.tensor(spectrum, dtype=dtype)
    return theta, lambda: (h * theta**2).sum() / 2


def rotated(spectrum):
    """The same with eigenvectors in general position."""
    theta = torch.nn.Parameter(torch.ones(len(spectrum), dtype=torch.float64))
    generator = torch.Generator().manual_seed(1)
    axes = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), generator=generator, dtype=torch.float64))[0]
    hessian = axes @ torch.diag(torch.tensor(spectrum, dtype=torch.float64)) @ axes.T
    return theta, lambda: theta @ hessian @ theta / 2


def largest(hessian, k):
    return np.linalg.eigvalsh(hessian)[::-1][:k]


@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.slow
def test_equals_the_dense_hessian(task, k):
    """Assert that the k largest eigenvalues are those of the digits network's dense Hessian."""
    expected = largest(task.hessian(task.theta), k)
    found = Curvature(lambda: task.loss(0), task.model.parameters(), k, tolerance=FINE).eigenvalues()
    np.testing.assert_allclose(found, expected, rtol=0, atol=DENSE * expected[0])


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (torch.optim.Adam, {"amsgrad": True}),
        (torch.optim.AdamW, {"eps": 1e-4}),
        (AdamS, {}),
        (AdamS, {"amsgrad": True}),
    ],
)
@pytest.mark.slow
def test_equals_the_dense_preconditioned_hessian(kind, arguments):
    """Assert that with an optimizer like Adam they are those of the dense D⁻¹H, with D from its
    state.
    """
    task = tanh_network((8,), samples=200, batch_size=50)
    optimizer = kind(task.model.parameters(), lr=0.01, **arguments)
    train(task, optimizer, 20)
    key = "max_exp_avg_sq" if arguments.get("amsgrad") else "exp_avg_sq"
    v = torch.cat([optimizer.state[parameter][key].reshape(-1) for parameter in task.model.parameters()])
    d = np.sqrt(v.numpy() / (1 - 0.999**20)) + arguments.get("eps", 1e-8)
    expected = np.sort(np.linalg.eigvals(task.hessian(task.theta) / d[:, None]).real)[::-1][:3]
    curvature = Curvature(
        lambda: task.full_loss(task.model), task.model.parameters(), optimizer=optimizer, tolerance=FINE
    )
    np.testing.assert_allclose(curvature.eigenvalues(), expected, rtol=0, atol=DENSE * expected[0])


@pytest.mark.parametrize("make", [quadratic, rotated])
@pytest.mark.parametrize(
    "spectrum",
    [
        [5.0, 5.0, 5.0, *[1.0] * 30],  # equal
        [5.0, 5.0 - 1e-6, 5.0 - 2e-6, *np.linspace(-1, 1, 50)],  # close
        [2.0, 0.0, -1.0, *np.linspace(-9, -8, 60)],  # the largest eigenvalues are not the largest in modulus
        [-1.0, -1.0, -2.0, -3.0],  # none is positive
        [0.0] * 5,
        [3.0, 2.0, 1.0],  # as many as there are weights
    ],
)
def test_known_spectrum(make, spectrum):
    """Assert that equal, close, negative and zero eigenvalues of a quadratic are all found."""
    theta, loss = make(spectrum)
    curvature = Curvature(loss, [theta], 3, tolerance=FINE)
    for _ in ("cold", "warm", "warm"):
        found = curvature.eigenvalues()
        np.testing.assert_allclose(found, sorted(spectrum)[::-1][:3], rtol=0, atol=DENSE * np.abs(spectrum).max())


@pytest.mark.slow
def test_residuals_and_vectors(task):
    """Assert that the eigenvectors are orthonormal, and the residuals are ‖Hv − λv‖."""
    found = Curvature(lambda: task.loss(0), task.model.parameters()).spectrum()
    vectors, hessian = found.vectors.numpy(), task.hessian(task.theta)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(3), rtol=0, atol=EXACT)
    true = np.linalg.norm(vectors @ hessian - found.values.numpy()[:, None] * vectors, axis=1)
    np.testing.assert_allclose(found.residuals, true, rtol=0, atol=EXACT)
    assert found.converged.all()


@pytest.mark.slow
def test_warm_start_takes_fewer_products(task):
    """Assert that each later point of a run takes fewer products than a cold start."""
    moving = task.fresh()
    optimizer = torch.optim.SGD(moving.model.parameters(), lr=0.05)
    warm = Curvature(lambda: moving.loss(0), moving.model.parameters())
    warm.spectrum()
    for _ in range(3):
        train(moving, optimizer, 5)
        cold = Curvature(lambda: moving.loss(0), moving.model.parameters()).spectrum()
        found = warm.spectrum()
        assert found.products < cold.products
        gap = (found.values - cold.values).abs().max()
        assert gap <= 2 * warm.tolerance * cold.values[0]


def test_products_are_counted():
    """Assert that the reported number of products is the real one, and within the limit."""
    calls = []

    def product(vector):
        calls.append(vector)
        return vector * torch.linspace(-1, 1, 40, dtype=torch.float64)

    start = torch.randn(2, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = top_eigenpairs(product, start, FINE, max_products=1000)
    assert found.products == len(calls) < 1000
    assert top_eigenpairs(product, start, FINE, max_products=9).products == 9


@pytest.mark.slow
def test_subspace_is_cut_back():
    """Assert that a spectrum without gaps is found, although the subspace is cut on the way."""
    spectrum = np.linspace(0, 1, 300)
    theta, loss = rotated(spectrum)
    found = Curvature(loss, [theta], 2, tolerance=FINE, max_products=2000).spectrum()
    assert found.products > 2 + 24
    np.testing.assert_allclose(found.values, spectrum[::-1][:2], rtol=0, atol=DENSE)


def test_an_eigenvalue_that_overtakes_from_elsewhere_is_found():
    """Assert that an orthogonal direction is found when its eigenvalue becomes the largest."""
    theta = torch.nn.Parameter(torch.ones(50, dtype=torch.float64))
    h = torch.linspace(0, 1, 50, dtype=torch.float64)
    h[:3] = torch.tensor([5.0, 4.0, 3.0])
    curvature = Curvature(lambda: (h * theta**2).sum() / 2, [theta])
    curvature.eigenvalues()
    h[20] = 10.0
    np.testing.assert_allclose(curvature.eigenvalues(), [10, 5, 4], rtol=curvature.tolerance)


def test_not_converged_is_nan():
    """Assert that an eigenvalue is NaN, with a lower bound, until the allowed products suffice."""
    spectrum = np.linspace(0, 1, 100) ** 2
    theta, loss = rotated(spectrum)
    curvature = Curvature(loss, [theta], 2, max_products=12)
    first = curvature.spectrum()
    assert not first.converged.any()
    assert (first.values.numpy() <= spectrum[::-1][:2]).all()
    assert curvature.eigenvalues().isnan().any()
    curvature.max_products = 200
    np.testing.assert_allclose(curvature.eigenvalues(), spectrum[::-1][:2], rtol=0, atol=curvature.tolerance)


@pytest.mark.slow
def test_the_same_every_time(task):
    """Assert that two equal objects give equal numbers, and a second call the same eigenvalues."""
    pair = [Curvature(lambda: task.loss(0), task.model.parameters(), tolerance=FINE) for _ in range(2)]
    first, second = ([curvature.eigenvalues() for _ in range(2)] for curvature in pair)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    np.testing.assert_allclose(first[1], first[0], rtol=0, atol=DENSE * float(first[0][0]))


def test_training_is_left_as_it_is(network):
    """Assert that weights, gradients and random states do not change, even if the loss has dropout."""
    net = network()
    net.loss().backward()
    parameters = list(net.parameters())
    before = copy.deepcopy([(p.detach(), p.grad, p.requires_grad) for p in parameters])
    state = torch.get_rng_state()
    with torch.no_grad():  # the eigenvalues need a graph even here
        Curvature(lambda: net.loss() + torch.dropout(net.first.weight, 0.5, True).square().sum(), parameters).spectrum()
    assert torch.equal(torch.get_rng_state(), state)
    for parameter, (theta, gradient, requires) in zip(parameters, before, strict=True):
        assert torch.equal(parameter, theta)
        assert torch.equal(parameter.grad, gradient)
        assert parameter.requires_grad == requires


@pytest.mark.slow
def test_frozen_parameters_are_left_out(task):
    """Assert that the Hessian is that of the parameters that require a gradient at that time."""
    moved = task.fresh()
    first, *others = moved.model.parameters()
    curvature = Curvature(lambda: moved.loss(0), moved.model.parameters(), tolerance=FINE)
    hessian = task.hessian(task.theta)
    np.testing.assert_allclose(curvature.eigenvalues(), largest(hessian, 3), rtol=DENSE)
    first.requires_grad_(False)
    size = first.numel()
    np.testing.assert_allclose(curvature.eigenvalues(), largest(hessian[size:, size:], 3), rtol=DENSE)
    assert others[0].requires_grad and not first.requires_grad


def test_parameters_without_part_in_the_loss():
    """Assert that weights that are unused or enter linearly add zeros to the spectrum."""
    theta, loss = quadratic([3.0, -1.0])
    unused, linear = (torch.nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2))
    found = Curvature(lambda: loss() + linear.sum(), [unused, theta, linear], 5, tolerance=FINE).eigenvalues()
    np.testing.assert_allclose(found, [3, 0, 0, 0, 0], rtol=0, atol=EXACT)
    assert Curvature(linear.sum, [linear], 2).eigenvalues().tolist() == [0, 0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_nan(bad):
    """Assert that a loss or Hessian that is not finite gives NaN, and the next point its
    eigenvalues.
    """
    theta, loss = quadratic([3.0, 2.0, 1.0])
    factor = torch.ones((), dtype=torch.float64)
    scaled = Curvature(lambda: factor * loss(), [theta], 2)
    shifted = Curvature(lambda: loss() + (factor - 1), [theta], 2)
    for curvature in (scaled, shifted):
        for value, expected in ((1.0, [3, 2]), (bad, [np.nan] * 2), (1.0, [3, 2])):
            factor.fill_(value)
            np.testing.assert_allclose(curvature.eigenvalues(), expected, rtol=EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_dtypes(dtype):
    """Assert that eigenvalues are float64 for parameters of any dtype, and as exact as its
    products.
    """
    theta, loss = quadratic([8.0, 4.0, 2.0, *[0.5] * 20], dtype)
    eps = torch.finfo(dtype).eps
    found = Curvature(loss, [theta], 2, tolerance=max(SINGLE, 10 * eps)).eigenvalues()
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, [8, 4], rtol=max(SINGLE, 10 * eps))


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, AdamS])
def test_preconditioner_closed_form(kind):
    """Assert that D is √v̂ + ε with the closed form of v̂.

    After gradients 3 and 4 with β₂ = ½, v̂ = (9/4 + 16/2)/(3/4); with AMSGrad after 4 and 0,
    8/(3/4).
    """
    for amsgrad, gradients, held in ((False, (3.0, 4.0), 10.25), (True, (4.0, 0.0), 8.0)):
        weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
        optimizer = kind([weight], lr=0.1, betas=(0.9, 0.5), eps=0.25, amsgrad=amsgrad)
        for gradient in gradients:
            weight.grad = torch.full_like(weight, gradient)
            optimizer.step()
        d = preconditioner_of(optimizer)
        np.testing.assert_allclose(d, [(held / 0.75) ** 0.5 + 0.25] * 2, rtol=EXACT)


def test_preconditioner_of_parameters_in_another_order():
    """Assert that D has the given order, each group's own ε, and ∞ where no step was taken."""
    a, b, c = (torch.nn.Parameter(torch.ones(n)) for n in (1, 2, 1))
    adam = torch.optim.Adam([{"params": [a], "eps": 1.0}, {"params": [b, c], "eps": 2.0}])
    assert preconditioner_of(adam).isnan().all()
    a.grad, b.grad = torch.full((1,), 4.0), torch.full((2,), 8.0)
    adam.step()
    np.testing.assert_allclose(preconditioner_of(adam, [b, c, a]), [10, 10, np.inf, 5], rtol=SINGLE)


def test_weights_that_do_not_move_have_no_curvature():
    """Assert that D⁻¹H is NaN before Adam's first step, and later leaves out weights without a
    step.
    """
    theta, loss = quadratic([3.0, 3.0])
    still, other = quadratic([50.0])
    adam = torch.optim.Adam([still, theta], eps=0.5)
    curvature = Curvature(lambda: loss() + other(), [still, theta], 2, optimizer=adam, tolerance=FINE)
    assert curvature.eigenvalues().isnan().all()
    theta.grad = torch.ones_like(theta)
    adam.step()
    np.testing.assert_allclose(curvature.eigenvalues(), [2, 2], rtol=EXACT)


@pytest.mark.parametrize("kind", [torch.optim.SGD, SGDS, AdaiS])
def test_isotropic_optimizers_leave_the_hessian_as_it_is(kind):
    """Assert that an optimizer with one learning rate for all weights has no D, and H is used."""
    theta, loss = quadratic([3.0, 2.0, 1.0])
    optimizer = kind([theta], lr=0.1)
    assert preconditioner_of(optimizer) is None
    np.testing.assert_allclose(Curvature(loss, [theta], 1, optimizer=optimizer).eigenvalues(), [3], rtol=EXACT)


class Subclass(torch.optim.Adam):
    """A subclass, which may do anything."""


@pytest.mark.parametrize("kind", [torch.optim.LBFGS, torch.optim.RAdam, Subclass])
def test_an_unknown_optimizer_is_refused(kind):
    """Assert that an optimizer whose D is not known is refused by name."""
    theta, loss = quadratic([3.0, 2.0, 1.0])
    with pytest.raises(InputError, match=rf"{kind.__name__} is not known: .*Adam, AdamW, .*AdamS"):
        Curvature(loss, [theta], optimizer=kind([theta]))


def test_bad_input_is_refused():
    """Assert that bad input is refused with the value seen."""
    theta, loss = quadratic([3.0, 2.0, 1.0])
    single = torch.nn.Parameter(torch.ones(3))
    cases = [
        ({"k": 0}, "k = 0 .* whole number ≥ 1"),
        ({"k": 1.5}, "k = 1.5"),
        ({"k": 4}, "k = 4 is more than the 3 weights"),
        ({"tolerance": 0}, "tolerance = 0"),
        ({"tolerance": 1e-16}, "tolerance = 1e-16 is finer .* 2.2e-15"),
        ({"max_products": 2}, "max_products = 2 .* ≥ 3"),
        ({"max_products": 2.5}, "max_products = 2.5"),
        ({"seed": -1}, "seed = -1"),
        ({"k": 4, "max_products": 3}, "k = 4 is more than the 3 weights"),
        ({"parameters": []}, "none of the 0 parameters requires a gradient"),
        ({"parameters": [theta.detach()]}, "none of the 1 parameters requires a gradient"),
        ({"parameters": torch.nn.Linear(2, 1)}, "parameters = Linear .* model.parameters()"),
        ({"parameters": torch.nn.Linear(2, 1).named_parameters()}, "parameter 0 is a tuple"),
        ({"parameters": {"weight": theta}}, "parameter 0 is a str"),
        ({"parameters": 3}, "parameters = int"),
        ({"loss": theta.sum()}, "loss = Tensor .* a function"),
        ({"parameters": [theta, single]}, "parameter 1 is a Parameter of torch.float32"),
        ({"optimizer": torch.optim.Adam([single])}, "parameter 0 does not belong to the Adam"),
    ]
    for arguments, message in cases:
        with pytest.raises(InputError, match=message):
            Curvature(**{"loss": loss, "parameters": [theta], **arguments})


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda theta: theta.detach().sum(), "does not depend on the parameters"),
        (lambda theta: theta**2, r"a tensor of shape \(3,\)"),
        (lambda theta: 1.0, "the loss is 1.0"),
    ],
)
def test_a_bad_loss_is_refused(loss, message):
    """Assert that a loss that is not one number, or has no graph, is refused."""
    theta, _ = quadratic([3.0, 2.0, 1.0])
    with pytest.raises(InputError, match=message):
        Curvature(lambda: loss(theta), [theta]).eigenvalues()


def test_a_second_call_at_the_same_point_is_short():
    """Assert that a second call at the same point takes fewer products, despite the noise."""
    theta, loss = rotated([*np.linspace(0, 1, 100), 4.0, 6.0, 9.0])
    curvature = Curvature(loss, [theta])
    cold, again = curvature.spectrum(), curvature.spectrum()
    assert again.products < cold.products


# Ten eigenvalues closer to each other than a short search can tell apart, and forty far below.
CLUSTER = [*(1 + 0.001 * i for i in range(10)), *[0.1] * 40]
PAIRS = [1.0, 1.0, 2.0, 2.0, 3.0, 3.001, 3.002, 3.003, *np.linspace(-0.5, 0.5, 200)]
REPEATED = [*[1.0] * 6, *[0.999] * 3, *[0.1] * 100, *[0.0] * 20]


@pytest.mark.slow
@pytest.mark.parametrize(("spectrum", "k"), [(CLUSTER, 4), (PAIRS, 3), (REPEATED, 8)])
def test_no_eigenvalue_of_a_tight_cluster_is_skipped(spectrum, k):
    """Assert that from each of 40 starts the k largest eigenvalues are found, and none in between
    is skipped. Without the final check 2 to 100 % of the starts skip one.
    """
    for seed in range(40):
        theta, loss = quadratic(spectrum)
        curvature = Curvature(loss, [theta], k, seed=seed)
        atol = curvature.tolerance * max(spectrum)
        found = curvature.eigenvalues()
        np.testing.assert_allclose(found, sorted(spectrum)[::-1][:k], rtol=0, atol=atol)


@pytest.mark.slow
def test_no_eigenvalue_is_skipped_when_their_order_changes():
    """Assert that the eigenvalues are found again at each point of a run that shuffles a cluster.

    When only the last eigenvectors are followed, a third of these points skip an eigenvalue.
    """
    rng = np.random.default_rng(0)
    spectrum = np.array(CLUSTER)
    theta, h = torch.nn.Parameter(torch.ones(50, dtype=torch.float64)), torch.from_numpy(spectrum)
    curvature = Curvature(lambda: (h * theta**2).sum() / 2, [theta], 4)
    for _ in range(40):
        found = curvature.eigenvalues()
        np.testing.assert_allclose(found, np.sort(spectrum)[::-1][:4], rtol=0, atol=1.1e-4)
        spectrum[:10] = rng.permutation(spectrum[:10])


def test_a_check_that_does_not_end_is_nan():
    """Assert that eigenvalues are NaN if the products suffice for the search, but not for the
    final check.
    """
    theta, loss = quadratic(CLUSTER)
    needed = Curvature(loss, [theta], 4).spectrum().products
    assert Curvature(loss, [theta], 4, max_products=needed + 1).eigenvalues().isfinite().all()
    assert Curvature(loss, [theta], 4, max_products=needed - 2).eigenvalues().isnan().all()


def test_tied_weights_count_once():
    """Assert that a parameter that is listed twice, and one given without a list, is one block."""
    theta, loss = quadratic([1.0, 4.0, 9.0])
    for parameters in ([theta, theta], theta, iter([theta])):
        np.testing.assert_allclose(Curvature(loss, parameters).eigenvalues(), [9, 4, 1], rtol=EXACT)
    adam = torch.optim.Adam([theta], eps=1.0)
    theta.grad = torch.ones_like(theta)
    adam.step()  # D = |g| + ε = 2
    found = Curvature(loss, [theta, theta], 1, optimizer=adam).eigenvalues()
    np.testing.assert_allclose(found, [4.5], rtol=EXACT)


def test_parameters_that_the_loss_does_not_use_are_refused():
    """Assert that parameters without any part in the loss, and copies of parameters, are refused."""
    theta, loss = quadratic([1.0, 4.0, 9.0])
    other = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    for parameters in ([other], list(theta), [other, *theta], [theta, theta * 1]):
        with pytest.raises(InputError):
            Curvature(loss, parameters, 1).eigenvalues()


@pytest.mark.parametrize(
    ("dtype", "unit", "rtol"),
    [
        (torch.float32, 1e-24, SINGLE),
        (torch.float32, 1e-34, SINGLE),
        (torch.float32, 1e30, SINGLE),
        (torch.float64, 1e-250, DENSE),
        (torch.float64, 1e250, DENSE),
    ],
)
def test_tiny_and_huge_curvature(dtype, unit, rtol):
    """Assert that eigenvalues whose squares underflow or overflow are found like others."""
    h = unit * torch.tensor([5.0, 3.0, 1.0, *[0.1] * 30], dtype=torch.float64)
    theta = torch.nn.Parameter(torch.ones(33, dtype=dtype))
    curvature = Curvature(lambda: (h.to(dtype) * theta**2).sum() / 2, [theta], 2, tolerance=SINGLE)
    for _ in ("cold", "warm"):
        np.testing.assert_allclose(curvature.eigenvalues() / unit, [5, 3], rtol=rtol)


@pytest.mark.parametrize(
    ("dtype", "unit", "tolerance"),
    [(torch.float32, 1e-43, 1e-3), (torch.float16, 1e-6, 0.02)],
)
def test_curvature_that_underflows_is_nan(dtype, unit, tolerance):
    """Assert that eigenvalues of which the dtype holds less than the tolerance are NaN."""
    h = (unit * torch.tensor([5.0, 3.0, 1.0, *[0.1] * 30])).to(dtype)
    theta = torch.nn.Parameter(torch.ones(33, dtype=dtype))
    curvature = Curvature(lambda: (h * theta**2).sum() / 2, [theta], 2, tolerance=tolerance)
    assert curvature.eigenvalues().isnan().all()


@pytest.mark.parametrize(
    "around",
    [
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        torch.inference_mode,
        torch.no_grad,
        lambda: torch.device("meta"),
    ],
    ids=["autocast", "inference mode", "no_grad", "default device"],
)
@pytest.mark.slow
def test_what_is_on_around_changes_nothing(around):
    """Assert that the eigenvalues in autocast and other contexts are those outside of them."""
    task = tanh_network((8,), samples=200, dtype=torch.float32)
    found = []
    for context in (contextlib.nullcontext, around):
        curvature = Curvature(lambda: task.loss(0), task.model.parameters())
        with context():
            found += [curvature.eigenvalues(), curvature.eigenvalues()]
    np.testing.assert_array_equal(found[2:], found[:2])


@pytest.mark.slow
def test_products_that_are_not_symmetric_are_not_believed():
    """Assert that a loss in bfloat16 gives what its rounding allows, and NaN for finer tolerances."""
    task = tanh_network((8,), samples=200, dtype=torch.float32)
    expected = largest(task.hessian(task.theta), 3)

    def rounded():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return task.loss(0)

    found = Curvature(rounded, task.model.parameters(), max_products=200).spectrum()
    assert not found.converged.any()
    coarse = 10 * torch.finfo(torch.bfloat16).eps
    np.testing.assert_allclose(found.values, expected, rtol=coarse)
    vectors = found.vectors.double().numpy()
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(3), rtol=0, atol=SINGLE)
    found = Curvature(rounded, task.model.parameters(), tolerance=coarse).eigenvalues()
    np.testing.assert_allclose(found, expected, rtol=coarse)

"""Many flows at once: each is the flow that is solved alone, right to the solver's error, and harms no other."""

from itertools import product

import numpy as np
import pytest
from scipy.linalg import expm

from swd_dynamics.errors import InputError
from swd_dynamics.flows import Flow, grid
from swd_dynamics.rules import CATALOG, Cosine

H = np.array([[1.0, 0.3, 0.0], [0.3, 2.0, 0.1], [0.0, 0.1, 0.5]])
START = np.array([1.0, -2.0, 1.5])
POINTS = [0, 7, 30, 100]
# Global error of a hundred steps of the optimizer at the default tolerance of 1e-9 for a step of the solver.
SOLVED = 1e-7


def gradient(theta):
    return theta @ H + 0.1 * np.sin(theta)


def hvp(theta, vectors):
    return vectors @ H + 0.1 * np.cos(theta) * vectors


@pytest.mark.parametrize("lr", [[0.01, 0.1], [0.01, 0.1, 1.0]], ids=["explicit", "with stiff rows"])
@pytest.mark.slow
def test_linear_flows_are_matrix_exponentials(lr):
    """Assert that SGDW's flow on a quadratic is exp(−(H/(1−β) + λ)t)θ₀ at every point of the grid and each start."""
    starts = np.array([START, 2 * START, -START[::-1]])
    over = {"lr": lr, "weight_decay": [0.0, 0.2], "momentum": [0.5, 0.95]}
    found = grid(CATALOG["SGDW"], lambda theta: theta @ H, starts, over, at_steps=POINTS, hvp=lambda _, v: v @ H)
    assert found.theta.dims == ("lr", "weight_decay", "momentum", "start", "step", "weight")
    for cell in product(*map(range, found.theta.shape[:3])):
        eta, decay, beta = (values[i] for values, i in zip(over.values(), cell, strict=True))
        for j, k in enumerate(POINTS):
            exact = starts @ expm(-(H / (1 - beta) + decay * np.eye(3)) * eta * k)
            np.testing.assert_allclose(found.theta.values[cell][:, j], exact, atol=SOLVED)
    assert np.isnan(found.diverged_at).all()


@pytest.mark.parametrize("order", [1, 2, "state"])
@pytest.mark.parametrize("name", ["SGDS", "AdamW", "AdamS"])
@pytest.mark.slow
def test_each_cell_is_the_flow_solved_alone(name, order):
    """Assert that a cell is what Flow.solve finds with LSODA at 1e-12 for its arguments, means over weights too."""
    more = {"momentum": [0.5, 0.9]} if name == "SGDS" else {"betas": [(0.8, 0.9), (0.9, 0.99)]}
    over = {"lr": [0.003, 0.005], "weight_decay": [0.01, 0.3], **more}
    found = grid(CATALOG[name], gradient, START, over, at_steps=POINTS, order=order, hvp=hvp)
    for cell in [(0, 0, 0), (1, 0, 1), (1, 1, 0)]:
        arguments = {key: values[i] for (key, values), i in zip(over.items(), cell, strict=True)}
        flow = Flow(CATALOG[name](**arguments), gradient, hvp, order)
        alone = flow.solve(START, steps=100, method="LSODA", tolerance=1e-12)
        np.testing.assert_allclose(found.theta.values[cell], alone.theta[POINTS], atol=SOLVED)
    names = {"SGDS": ["m"]}.get(name, ["m", "v"]) if order == "state" else []
    assert [*found.data_vars] == ["theta", *names, "diverged_at", "solver_steps"]


@pytest.mark.slow
def test_times_are_steps_of_another_length():
    """Assert that the flow at time t is the flow after t/η steps, for each η."""
    over = {"lr": [0.01, 0.02]}
    in_time = grid(CATALOG["AdamW"], gradient, START, over, at_times=[0.1, 0.4], order="state")
    in_steps = grid(CATALOG["AdamW"], gradient, START, over, at_steps=[5, 10, 20, 40], order="state")
    np.testing.assert_allclose(in_time.theta[0], in_steps.theta[0].sel(step=[10, 40]), atol=SOLVED)
    np.testing.assert_allclose(in_time.theta[1], in_steps.theta[1].sel(step=[5, 20]), atol=SOLVED)


@pytest.mark.slow
def test_a_flow_that_diverges_harms_no_other():
    """Assert that θ̇ = θ³ − λθ is NaN from its pole on where λ = 0, and the closed form where λ is large."""
    over = {"lr": [0.1], "weight_decay": [0.0, 4.0]}
    found = grid(CATALOG["SGDW"], lambda theta: -(theta**3), [1.0], over, at_times=[0.25, 0.4, 0.75, 1.0])
    pole, decaying = found.theta.values[0, :, :, 0]
    np.testing.assert_allclose(pole[:2], (1 - 2 * found.time.values[:2]) ** -0.5, rtol=SOLVED)
    assert np.isnan(pole[2:]).all()
    # For w = θ⁻²: ẇ = 2λw − 2.
    exact = ((1 - 0.25) * np.exp(8 * found.time.values) + 0.25) ** -0.5
    np.testing.assert_allclose(decaying, exact, rtol=SOLVED)
    assert float(found.diverged_at[0, 0]) == pytest.approx(0.5, abs=1e-6)
    assert np.isnan(found.diverged_at[0, 1])


@pytest.mark.slow
def test_stiff_rows_are_solved():
    """Assert that a flow 10⁷ times as fast as the others comes to rest, and that no row needs thousands of steps."""
    fast = np.array([1e7, 1.0, 1.0])
    over = {"lr": [0.001, 0.1]}
    found = grid(CATALOG["SGD"], lambda t: fast * t, START, over, at_steps=[100], hvp=lambda _, v: fast * v)
    assert np.abs(found.theta[..., 0]).max() < 1e-12
    expected = START[1:] * np.exp(-100 * found.lr.values[:, None])
    np.testing.assert_allclose(found.theta.values[:, 0, 1:], expected, atol=SOLVED)
    assert found.solver_steps.max() < 1000


def test_a_gradient_that_mixes_points_is_refused():
    """Assert that a gradient that is not one of many points is refused, also where its shape is right."""
    square = np.eye(3) + 0.1 * np.arange(9).reshape(3, 3)
    for wrong in (lambda theta: square @ theta, lambda theta: theta * np.sum(theta), lambda theta: theta[0]):
        with pytest.raises(InputError, match=r"numpy\.vectorize"):
            grid(CATALOG["SGD"], wrong, START, {"lr": [0.1, 0.2, 0.3]}, at_steps=10)
    vectorized = np.vectorize(lambda theta: H @ theta, signature="(n)->(n)")
    found = grid(CATALOG["SGD"], vectorized, START, {"lr": [0.1]}, at_steps=10)
    np.testing.assert_allclose(found.theta[0, 0], expm(-H) @ START, atol=SOLVED)


@pytest.mark.parametrize(
    "wrong",
    [
        {"over": {}},
        {"over": {"step": [1.0]}},
        {"over": {"lr": ["a"]}},
        {"over": {"lr": [0.1], "nonsense": [1.0]}},
        {"at_steps": None},
        {"at_times": [1.0]},
        {"at_steps": [3, 2]},
        {"theta0": [np.nan]},
        {"rule": lambda lr: CATALOG["SGD"](Cosine(0.1, 10))},
        {"rule": CATALOG["AMSGrad"]},
        {"rule": lambda lr: 3},
        {"rule": CATALOG["SGD"](0.1)},
        {"rule": "SGD"},
        {"order": 2},
    ],
    ids=" ".join,
)
@pytest.mark.slow
def test_wrong_arguments_are_refused(wrong):
    """Assert that an argument that is not allowed is an InputError."""
    right = {"rule": CATALOG["SGD"], "gradient": lambda t: t, "theta0": [1.0], "over": {"lr": [0.1]}, "at_steps": [10]}
    with pytest.raises(InputError):
        grid(**right | wrong)

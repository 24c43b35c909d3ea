"""The study of the two limits: its loss, its finer flow and its crossings, compared with independent values."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from scipy.optimize import approx_fprime

from swd_dynamics.plots import COLOURS
from swd_dynamics.rules import CATALOG
from swd_dynamics.studies import quartic_loss, two_limits
from swd_dynamics.studies.quartic_loss import START, gradient, hvp
from swd_dynamics.studies.two_limits import (
    METHODS,
    TIME,
    _crossing,
    _weights_of_changes,
    errors_of,
    finer_state,
    flows_of,
    order_of,
    quarters,
    torch_runs,
)


def test_products_are_derivatives_of_the_gradient():
    """Assert that hvp is the derivative of the gradient along a vector, by central differences."""
    vector, reach = np.array([[1.0, -2.0, 0.5, 3.0]]), 1e-6
    ends = [gradient(START[None] + sign * reach * vector) for sign in (1, -1)]
    np.testing.assert_allclose(hvp(START[None], vector), (ends[0] - ends[1]) / (2 * reach), rtol=1e-8)


def test_the_gradient_is_a_gradient():
    """Assert that the gradient belongs to ½θᵀHθ + ¼c·Σθ⁴, as an array and as a tensor."""

    def loss(theta):
        return theta @ quartic_loss.COUPLING @ theta / 2 + quartic_loss.CUBIC * (theta**4).sum() / 4

    np.testing.assert_allclose(gradient(START), approx_fprime(START, loss), rtol=1e-6)
    np.testing.assert_allclose(gradient(torch.as_tensor(START)).numpy(), gradient(START), rtol=1e-15)


def test_groups_are_runs_of_their_own():
    """Assert that every group of one optimizer takes the steps of the rule with its own β."""
    betas = [(0.9, 0.999), (0.5, 0.8)]
    found = torch_runs(METHODS["decoupled"], betas, 0.01, 8, [4, 8])
    for pair, run in zip(betas, found, strict=True):
        rule = CATALOG["AdamW"](0.01, betas=pair, weight_decay=two_limits.DECAY)
        state = rule.start(START)
        for k in range(8):
            state = rule(state, gradient(state.theta))
            if k in (3, 7):
                np.testing.assert_allclose(run[k // 4], state.theta, rtol=1e-14)


def test_weights_of_changes_are_a_logarithm():
    """Assert that the sum over the next steps of z → βz is log β·z, to the order of the terms."""
    weights = _weights_of_changes()
    for gap in (0.2, 0.1):
        beta = 1 - gap
        total = sum(w * (beta ** (i + 1) - beta**i) for i, w in enumerate(weights))
        assert abs(total - np.log(beta)) == pytest.approx(
            gap ** (two_limits.TERMS + 1) / (two_limits.TERMS + 1), rel=0.3
        )


@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.8, 0.999)])
@pytest.mark.slow
def test_the_finer_flow_stands_for_the_runs(betas):
    """Assert that the finer flow is ten times nearer to a run than the flow of weights and memory."""
    method, lr = METHODS["decoupled"], TIME / 128
    real = torch_runs(method, [betas], lr, 128, quarters(128))[0]
    finer = finer_state(method.rule(lr=np.array([[lr]]), betas=betas), 1)[0]
    flow = flows_of(method.rule, {"lr": [lr], "betas": [betas]})["state"][0, 0]
    errors = errors_of(real, {"finer": finer, "state": flow})
    assert errors["finer"] < errors["state"] / 10


def test_crossing_and_order():
    """Assert that the crossing of a line is found on a logarithmic axis, and the order of η² + 5η³ is 2."""
    x = np.log([1.0, 0.1, 0.01])
    assert _crossing(x, np.array([-1.0, 1.0, 2.0])) == pytest.approx(10**-0.5)
    assert np.isnan(_crossing(x, np.array([-1.0, -0.5, -0.1])))
    lrs = 2.0 ** -np.arange(4, 10)
    assert order_of(lrs, lrs**2 + 5 * lrs**3) == pytest.approx(2, abs=0.01)


def test_the_colours_of_the_models_are_those_of_no_decay():
    """Assert that no model, and no end of the map, has a colour that means a kind of decay everywhere else."""
    of_decays = [to_rgb(colour) for colour in COLOURS.values()]
    used = [*(to_rgb(colour) for colour, _ in two_limits.MODEL_LOOKS.values()), *two_limits.WHICH([0.0, 1.0])[:, :3]]
    distances = np.linalg.norm(np.array(used)[:, None] - np.array(of_decays), axis=-1)
    assert distances[1:].min() > 0.25  # the first is the grey of F₀

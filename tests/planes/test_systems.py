"""The contract of a system, asserted for every system."""

import ast
from pathlib import Path

import numpy as np
import pytest

import swd_dynamics
from swd_dynamics.flows import Flow
from swd_dynamics.planes.systems import DERIVED, DIFFERENCES, PlainField, StateField, WeightsField
from swd_dynamics.rules import CATALOG, Decoupled, HeavyBall, UpdateRule

PACKAGE = Path(swd_dynamics.__file__).parent
HESSIAN = np.array([[2.0, 0.5], [0.5, 1.0]])
HEAVY_BALL = CATALOG["SGDS"](lr=0.05, momentum=0.8, weight_decay=0.5)
GROUPS = UpdateRule(np.array([0.05, 0.02]), HeavyBall(0.8), Decoupled(np.array([0.0, 0.3])))
AMSGRAD = CATALOG["AMSGradW"](lr=0.05, weight_decay=0.5)
START = np.array([1.0, -0.5])


def gradient(theta):
    """Of a quartic loss, so that the Hessian changes from place to place."""
    return HESSIAN[: len(theta), : len(theta)] @ theta + theta**3


def hvp(theta, vector):
    return HESSIAN[: len(theta), : len(theta)] @ vector + 3 * theta**2 * vector


def weights(rule, order=1, product: object = hvp):
    return WeightsField(Flow(rule, gradient, product, order), START)  # pyright: ignore


SYSTEMS = {
    "plain": PlainField(lambda x, y: (y, np.sin(x) - y)),
    "order 1": weights(HEAVY_BALL),
    "order 1, without hvp": weights(HEAVY_BALL, product=None),
    "order 2": weights(HEAVY_BALL, order=2),
    "groups": weights(GROUPS),
    "a maximum that is constant": weights(AMSGRAD),
    "state": StateField(Flow(HEAVY_BALL, gradient, hvp, "state")),
    "state, without hvp": StateField(Flow(HEAVY_BALL, gradient, order="state")),
}

# Both derivatives can be differences, right to 1e-10 of a field of up to some ten units.
NEAR = 1e-8


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("place", [(0.0, 0.0), (0.3, -0.7)], ids=str)
@pytest.mark.slow
def test_contract(name, place):
    """Assert that all members have their types, and that the tangent is the derivative of the field."""
    system, at = SYSTEMS[name], np.array(place)
    assert [type(label) for label in system.labels] == [str, str]
    assert [type(member) for member in (system.alike, system.what, system.notes)] == [bool, str, tuple]
    assert system.accuracy in (DERIVED, DIFFERENCES)
    assert system.field(at).shape == (2,)
    multipliers = system.multipliers(at)
    assert multipliers is None or multipliers.dtype == complex
    h, along = 1e-5, np.array([0.6, -0.8])
    known = (system.field(at + h * along) - system.field(at - h * along)) / (2 * h)
    jacobian = np.column_stack([system.tangent(at, unit) for unit in np.eye(2)])
    assert np.abs(system.tangent(at, along) - known).max() <= NEAR * np.abs(known).max()
    assert np.abs(jacobian @ along - known).max() <= NEAR * np.abs(known).max()


@pytest.mark.slow
def test_no_private_member_of_flow_is_used():
    """Assert that no file of the package except flow.py reads a private member of Flow."""
    private = {name for name in vars(Flow) if name.startswith("_") and not name.startswith("__")}
    assert private
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in private:
                found.append((path.name, getattr(node.value, "id", None)))
    assert ("flow.py", "self") in found
    assert [(file, owner) for file, owner in found if owner != "self"] == []

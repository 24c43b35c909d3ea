"""Every public function that takes a rule, a gradient or an optimizer answers a slip with a sentence."""

from functools import partial
from inspect import Parameter, signature

import numpy as np
import pytest
import torch
import xarray

import swd_dynamics as sd
from swd_dynamics.crosscheck import rule_iterates
from swd_dynamics.errors import InputError
from swd_dynamics.optim import OPTIMIZERS, WithDecay
from swd_dynamics.probe import lightning_callback, trainer_callback
from swd_dynamics.rules import CATALOG, SGD, Stable, UpdateRule, as_rule
from swd_dynamics.symbolic import numeric_linear_map

RULE = CATALOG["SGD"](lr=0.125, weight_decay=0.5)
WEIGHT = torch.nn.Parameter(torch.ones(1))


def gradient(theta):
    return 3.0 * theta


def torch_gradient(theta):
    """The same gradient by torch's automatic differentiation, with a graph behind the tensor it returns."""
    weights = torch.from_numpy(theta).requires_grad_()
    (found,) = torch.autograd.grad((1.5 * weights**2).sum(), weights, create_graph=True)
    return found


def recording():
    made = {"theta": (("iterate", "weight"), [[1.0], [0.5]]), "gradient": (("step", "weight"), [[1.0]])}
    return xarray.Dataset(made)


TAKERS = {
    "equations": sd.equations,
    "modified_equation": sd.modified_equation,
    "fixed_point": sd.fixed_point,
    "stability_limit": sd.stability_limit,
    "long_run_decay_rate": sd.long_run_decay_rate,
    "linear_map": sd.linear_map,
    "eigenvalues": sd.eigenvalues,
    "stationary_covariance": sd.stationary_covariance,
    "noise_floor": sd.noise_floor,
    "stochastic_equation": sd.stochastic_equation,
    "equilibrium": sd.equilibrium,
    "lettered": sd.lettered,
    "numeric_equation": sd.numeric_equation,
    "numeric_linear_map": numeric_linear_map,
    "Flow": lambda rule: sd.Flow(rule, gradient),
    "SDE": lambda rule: sd.SDE(rule, gradient, 1.0),
    "phase_plane": lambda rule: sd.phase_plane(rule, gradient),
    "iterates_of": lambda rule: sd.phase_plane(RULE, gradient, start=(1, 1), steps=1, iterates_of={"a": rule}),
    "rule_iterates": lambda rule: rule_iterates(rule, RULE.start(np.ones(1)), gradient, 1),
    "equivalent_weight_decay": lambda rule: sd.equivalent_weight_decay(rule, RULE),
    "equivalent_weight_decay to": lambda rule: sd.equivalent_weight_decay(RULE, rule),
}
SLIPS = {
    "a name": "SGD",
    "no brackets": CATALOG["SGD"],
    "an unknown name": "LBFGS",
    "a direction": SGD(),
    "a decay": Stable(0.5),
    "a recording": recording(),
    "an optimizer": torch.optim.SGD([WEIGHT], lr=0.1),
    "None": None,
}


def error_of(taker, slip):
    """The class of the error that a call ends with; None if it returns."""
    try:
        taker(slip)
    except Exception as error:
        return type(error)
    return None


@pytest.mark.parametrize("taker", TAKERS.values(), ids=TAKERS)
def test_what_is_not_a_rule(taker):
    """Assert that whatever stands in the place of a rule is an InputError, never an error of Python's."""
    errors = {name: error_of(taker, slip) for name, slip in SLIPS.items()}
    assert {name: error for name, error in errors.items() if error is None or not issubclass(error, InputError)} == {}


@pytest.mark.parametrize("slip", ["SGD", CATALOG["SGD"], torch.optim.SGD, torch.optim.SGD([WEIGHT], lr=0.1)], ids=str)
def test_the_call_to_write_is_named(slip):
    """Assert that the message of a likely slip has the call that was meant."""
    with pytest.raises(InputError) as caught:
        as_rule(slip)
    assert 'CATALOG["SGD"](lr=' in str(caught.value)


def test_a_rule_is_taken_as_it_is():
    """Assert that the gate gives back the very rule."""
    assert as_rule(RULE) is RULE


def test_a_name_is_replayed_with_the_recordings_numbers():
    """Assert that a name or an entry in the place of a replayed rule gets η and λ of the recording, and no defaults."""
    weight = torch.nn.Parameter(torch.tensor([4.0]))
    recorded = sd.record(torch.optim.SGD([weight], lr=0.25, weight_decay=0.5), lambda k: weight.sum(), 3)
    assert sd.replay("SGD", recorded).passed and sd.replay(CATALOG["SGD"], recorded).passed
    assert not sd.replay(CATALOG["SGD"](), recorded).passed


@pytest.mark.slow
def test_a_name_is_verified_with_the_optimizers_numbers():
    """Assert that a name or an entry in the place of a verified rule gets the numbers of the optimizer."""
    for rule in ("SGD", CATALOG["SGD"]):
        assert sd.verify(torch.optim.SGD, rule, steps=3, lr=0.25, weight_decay=0.5).passed
    assert not sd.verify(torch.optim.SGD, "SGDW", steps=3, lr=0.25, momentum=0.5, weight_decay=0.5).passed


@pytest.mark.slow
def test_arguments_are_those_of_the_optimizer():
    """Assert that an audit with arguments is the audit of the class with these arguments."""
    given = sd.audit(torch.optim.SGD, lr=0.5, weight_decay=0.25)
    bound = sd.audit(partial(torch.optim.SGD, lr=0.5, weight_decay=0.25))
    assert given.features.lr == 0.5 and given.features.weight_decay == 0.25
    assert given.to_dict() == bound.to_dict()


OTHER_ORDERS = {
    "replay": lambda: sd.replay(recording(), RULE),  # pyright: ignore[reportArgumentType]
    "verify": lambda: sd.verify(RULE, torch.optim.SGD),  # pyright: ignore[reportArgumentType]
    "verify a finished optimizer": lambda: sd.verify(torch.optim.SGD([WEIGHT], lr=0.1), RULE),
    "verify it with arguments": lambda: sd.verify(torch.optim.SGD([WEIGHT], lr=0.1), RULE, lr=0.1),
    "verify an optimizer as itself": lambda: sd.verify(torch.optim.SGD, torch.optim.SGD),  # pyright: ignore[reportArgumentType]
    "audit a finished optimizer": lambda: sd.audit(torch.optim.SGD([WEIGHT], lr=0.1), lr=0.1),
    "audit a rule": lambda: sd.audit(RULE),
    "audit an entry": lambda: sd.audit(CATALOG["SGD"]),
    "audit a name": lambda: sd.audit("SGD", lr=0.1),  # pyright: ignore[reportArgumentType]
    "audit with a wrong argument": lambda: sd.audit(torch.optim.SGD, learning_rate=0.1),
    "Flow without a gradient": lambda: sd.Flow(RULE),
    "Flow": lambda: sd.Flow(gradient, RULE),  # pyright: ignore[reportArgumentType]
    "phase_plane": lambda: sd.phase_plane(gradient, RULE),  # pyright: ignore[reportArgumentType]
    "phase_plane of a rule alone": lambda: sd.phase_plane(RULE),
    "convergence_order of a rule": lambda: sd.convergence_order(RULE, [1.0], t=1.0, lrs=[2.0**-k for k in range(5)]),  # pyright: ignore[reportArgumentType]
    "recorded_rule": lambda: sd.recorded_rule(recording(), "SGD"),  # pyright: ignore[reportArgumentType]
    "torch's order of arguments": lambda: CATALOG["SGD"]([WEIGHT], lr=0.1),
    "record a model": lambda: sd.record(torch.nn.Linear(1, 1), lambda k: WEIGHT.sum(), 3),
    "Probe of a class": lambda: sd.Probe(torch.optim.SGD),
    "a probe's model in the place of its path": lambda: sd.Probe(
        torch.optim.SGD([WEIGHT], lr=0.1), torch.nn.Linear(1, 1)
    ),
    "open_recording of no path": lambda: sd.open_recording(None),
    "a rule's step from weights": lambda: RULE(np.ones(1), np.ones(1)),
    "record": lambda: sd.record(lambda k: WEIGHT.sum(), torch.optim.SGD([WEIGHT], lr=0.1), 3),  # pyright: ignore[reportArgumentType]
}


@pytest.mark.parametrize("call", OTHER_ORDERS.values(), ids=OTHER_ORDERS)
def test_arguments_in_another_order(call):
    """Assert that exchanged or forgotten arguments are an InputError."""
    with pytest.raises(InputError):
        call()


@pytest.mark.parametrize("order", [1, 2, "state"])
@pytest.mark.slow
def test_a_gradient_may_return_a_tensor(order):
    """Assert that a flow is the same to the last bit, whether numpy or torch computes 3θ."""
    exact = sd.Flow(RULE, gradient, lambda theta, vector: 3.0 * vector, order)
    product = sd.Flow(RULE, torch_gradient, lambda theta, vector: 3.0 * torch.from_numpy(vector), order)
    start = np.array([1.0, -2.0])
    assert np.array_equal(product.solve(start, steps=4).theta, exact.solve(start, steps=4).theta)


@pytest.mark.slow
def test_a_start_may_be_a_tensor():
    """Assert that weights may be given as a tensor that requires a gradient, in a flow and on a plane."""
    start, flow = torch.tensor([1.0, -2.0], requires_grad=True), sd.Flow(RULE, gradient)
    assert np.array_equal(flow.solve(start, 3).theta, flow.solve([1.0, -2.0], steps=3).theta)
    assert flow.field(start).tolist() == [-3.5, 7.0]
    (orbit,) = sd.phase_plane(RULE, gradient, start=start, steps=1).orbits
    assert orbit[0].tolist() == [1.0, -2.0]


def test_a_tensor_of_another_type_is_taken():
    """Assert that a gradient in half precision becomes float64."""
    flow = sd.Flow(RULE, lambda theta: torch.from_numpy(theta).bfloat16())
    assert flow.field([1.0]).dtype == np.float64


@pytest.mark.slow
def test_a_plane_of_a_torch_gradient():
    """Assert that a phase plane of a torch gradient has numpy's fixed point: 0, where both μ are −(3 + λ)."""
    (point,) = sd.phase_plane(RULE, torch_gradient, start=(1, 1), steps=2, nodes=12).fixed_points
    assert np.allclose(point.eigenvalues, -3.5)

    def turning(x, y):
        return torch.tensor(y, requires_grad=True), torch.tensor(-x)

    (centre,) = sd.phase_plane(turning, nodes=12).fixed_points
    assert centre.kind == "centre"


@pytest.mark.slow
def test_the_order_of_a_torch_gradient():
    """Assert that the order of a flow is found with a torch gradient too, and iterates are arrays."""
    flow = sd.Flow(UpdateRule(0.1, SGD()), torch_gradient)
    assert sd.convergence_order(flow, [1.0], t=1.0, lrs=[2.0**-k for k in range(4, 9)]).passed
    path = rule_iterates(RULE, RULE.start(np.array([8.0])), torch_gradient, 1)
    assert path.tolist() == [[8.0], [8.0 - 0.125 * (3 + 0.5) * 8.0]]


@pytest.mark.parametrize(
    "needs_a_tensor",
    [torch.sin, lambda theta: theta.square(), torch.func.grad(lambda theta: (theta**2).sum()), torch.nn.Linear(1, 1)],
)
@pytest.mark.parametrize("call", [lambda f: f.field([1.0]), lambda f: f.solve([1.0], steps=1)])
def test_a_gradient_that_needs_a_tensor(needs_a_tensor, call):
    """Assert that the message says what the gradient is called with, and that the original error is its cause."""
    with pytest.raises(InputError, match="numpy array") as caught:
        call(sd.Flow(RULE, needs_a_tensor))
    assert isinstance(caught.value.__cause__, TypeError | AttributeError | ValueError | RuntimeError)


@pytest.mark.parametrize("answer", [None, "text", {}])
def test_a_gradient_without_numbers(answer):
    """Assert that an answer that is not made of numbers is refused."""
    with pytest.raises(InputError, match="returned"):
        sd.Flow(RULE, lambda theta: answer).field([1.0])


def test_a_gradient_may_be_undefined_somewhere():
    """Assert that a ValueError of the user's own function reaches the user as it is."""

    def undefined(theta):
        raise ValueError("not defined here")

    with pytest.raises(ValueError, match="not defined here") as caught:
        sd.Flow(RULE, undefined).field([1.0])
    assert not isinstance(caught.value, InputError)


def test_record_has_the_arguments_of_a_probe():
    """Assert that record names every argument of Probe, with the same default except for the trajectory."""
    own, probes = signature(sd.record).parameters, signature(sd.Probe).parameters
    assert all(each.kind is not Parameter.VAR_KEYWORD for each in own.values())
    differ = {name for name, each in probes.items() if name not in own or own[name].default != each.default}
    assert differ == {"trajectory"}


@pytest.mark.parametrize("make", [lightning_callback, trainer_callback])
def test_a_callbacks_arguments_are_checked_when_it_is_made(make):
    """Assert that a misspelt argument is refused, nearest name first, before a framework is needed or trains."""
    with pytest.raises(InputError, match="path, snapshots, "):
        make("run", snapshot=10)


@pytest.mark.parametrize("name", ["gradient_weights", "equal_memory", "numeric_stability"])
def test_a_name_of_a_room_is_found_from_the_top(name):
    """Assert that a public name of a folder, asked for at the top, is said to be in that folder."""
    assert hasattr(sd.symbolic, name)
    with pytest.raises(AttributeError, match=f"'{name}': it is in swd_dynamics.symbolic$"):
        getattr(sd, name)
    with pytest.raises(AttributeError, match="it has fixed_point"):
        sd.fixed_points  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_signatures_can_be_read():
    """Assert that no signature shows what numpy's ArrayLike stands for, which is several lines long."""
    for door in (sd.phase_plane, sd.Flow.solve, sd.convergence_order, sd.equivalent_weight_decay, sd.TASKS.quadratic):
        assert "_SupportsArray" not in str(signature(door))


@pytest.mark.parametrize(
    "call",
    [
        lambda probe: probe.observe(torch.ones(())),
        lambda probe: probe.observe(losss=torch.ones(())),
        lambda probe: probe.observe(),
        lambda probe: probe.observe(loss=1.0, step=3),
    ],
)
def test_a_loss_without_its_name(call):
    """Assert that a loss observed by place, or by another name, is refused with the call to write."""
    with sd.Probe(torch.optim.SGD([WEIGHT], lr=0.1)) as probe, pytest.raises(InputError, match=r"observe\(loss=loss\)"):
        call(probe)


@pytest.mark.parametrize("name", ["SGDS", "SGDW", "AdamS", "AdaiS"])
@pytest.mark.parametrize("argument", ["lr", "weight_decay"])
@pytest.mark.parametrize("value", [[0.1], (0.1,), np.array([0.1])], ids=repr)
def test_several_numbers_for_one(name, argument, value):
    """Assert that a list, a tuple or an array in place of a number is refused when the optimizer is made."""
    for groups in ([WEIGHT], [{"params": [WEIGHT], argument: value}]):
        given = {argument: value} if groups == [WEIGHT] else {}
        with pytest.raises(InputError, match=f"{argument} = .* must be one number"):
            OPTIMIZERS[name](groups, **given)


@pytest.mark.parametrize("argument", ["weight_decay", "lr_max"])
def test_several_numbers_for_another_decay(argument):
    """Assert that WithDecay refuses a list in place of a number when it is made."""
    with pytest.raises(InputError, match=f"{argument} = .* must be one number"):
        WithDecay(torch.optim.SGD([WEIGHT], lr=0.1), decay="cautious", **{"weight_decay": 0.1, argument: [0.1]})

"""verify and replay with RMSprop, Adagrad, Adadelta, Adamax, NAdam, RAdam and AdaBelief, and with mistakes in them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_optimizer import AdaBelief

from swd_dynamics.crosscheck import replay
from swd_dynamics.optim import OPTIMIZERS
from swd_dynamics.probe import record
from swd_dynamics.rules import CATALOG
from swd_dynamics.tasks import quadratic
from swd_dynamics.verification import NEAR_RULES, verify

KERNELS = {"single": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
GIVEN = {"lr": 0.01, "weight_decay": 0.05}
BETAS = {"betas": (0.5, 0.9), "eps": 1e-2}
ARGUMENTS = {
    "RMSprop": [{}, {"momentum": 0.9, "alpha": 0.9}, {"centered": True, "momentum": 0.5, "eps": 1e-2}],
    "Adagrad": [{}, {"lr_decay": 0.1, "initial_accumulator_value": 0.1}],
    "Adadelta": [{}, {"rho": 0.5}],
    "Adamax": [{}, BETAS],
    "NAdam": [{}, BETAS | {"momentum_decay": 0.1}],
    "NAdamW": [{}, BETAS],
    "RAdam": [{}, BETAS],
    "RAdamW": [{}, BETAS],
}
RUNS = [
    (name, kernel, arguments)
    for name, cases in ARGUMENTS.items()
    for kernel in KERNELS
    for arguments in cases
    if kernel != "fused" or name == "Adagrad"
]


@pytest.fixture(scope="module", autouse=True)
def double():
    """float64 as torch's default dtype, in which NAdam keeps the product of its momenta."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("name", "kernel", "arguments"), RUNS, ids=str)
def test_no_torch_optimizer_is_accused(name, kernel, arguments):
    """Assert that every real optimizer takes the steps of its rule, with every kernel it has."""
    arguments = GIVEN | arguments
    verdict = verify(
        lambda params: OPTIMIZERS[name](params, **arguments, **KERNELS[kernel]), CATALOG[name](**arguments), steps=20
    )
    assert (verdict.status, verdict.cause) == ("confirmed", None)


@pytest.mark.parametrize("name", ["AdaBelief", "AdaBeliefW"])
def test_adabelief_of_a_library(name):
    """Assert that a library's AdaBelief takes the steps of the rule, with L2 and with decoupled decay."""
    verdict = verify(
        lambda params: AdaBelief(params, weight_decouple=name.endswith("W"), **GIVEN), CATALOG[name](**GIVEN), steps=20
    )
    assert (verdict.status, verdict.cause) == ("confirmed", None)


def powers(low, high):
    """Powers of ten between two exponents."""
    return st.floats(low, high).map(lambda exponent: 10**exponent)


shares = st.one_of(st.sampled_from([0.9, 0.99, 0.999]), st.floats(1e-3, 0.999))
EPS = {"eps": powers(-8, -1)}
OWN = {
    "RMSprop": {"alpha": shares, "momentum": st.one_of(st.just(0.0), shares), **EPS},
    "Adagrad": {"lr_decay": st.floats(0, 1), "initial_accumulator_value": st.floats(0, 2), **EPS},
    "Adadelta": {"rho": shares, **EPS},
    "Adamax": {"betas": st.tuples(shares, shares), **EPS},
    "NAdam": {"betas": st.tuples(shares, shares), "momentum_decay": st.floats(0, 1), **EPS},
    "RAdam": {"betas": st.tuples(shares, st.floats(0.7, 0.9999)), **EPS},
}


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from(list(OWN)), powers(-5, 0), powers(-5, 0), st.integers(0, 2**31))
def test_no_hyperparameters_are_accused(data, name, lr, weight_decay, seed):
    """Assert that whatever the hyperparameters and the gradients, no optimizer of torch is accused."""
    arguments = {"lr": lr, "weight_decay": weight_decay, **data.draw(st.fixed_dictionaries(OWN[name]))}
    verdict = verify(
        lambda params: OPTIMIZERS[name](params, **arguments), CATALOG[name](**arguments), steps=8, seed=seed
    )
    assert verdict.passed, str(verdict)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_replay_of_torch(name):
    """Assert that a recording of every real optimizer is replayed by its rule, with the recorded numbers."""
    task = quadratic((1.0, 3.0, 0.1), noise=0.1)
    arguments = GIVEN | ARGUMENTS[name][-1]
    recording = record(OPTIMIZERS[name](task.model.parameters(), **arguments), task.loss, 30)
    verdict = replay(name, recording)
    assert verdict.passed, str(verdict)


class Written(torch.optim.Optimizer):
    """An optimizer whose step of one parameter is a function of the state, the gradient, and the number of the step."""

    def __init__(self, params, move, **defaults):
        super().__init__(params, {"weight_decay": 0.0, **defaults})
        self.move = move

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["step"] = state.get("step", 0) + 1
                gradient = parameter.grad + group["weight_decay"] * parameter
                parameter.sub_(self.move(group, state, gradient))


def tensorflow_rmsprop(group, state, gradient, *, first=0.0, inside=True):
    """RMSprop as TensorFlow writes it: ε inside the root, η inside the momentum."""
    v = state.setdefault("v", torch.full_like(gradient, first)).mul_(0.9).addcmul_(gradient, gradient, value=0.1)
    root = (v + group["eps"]).sqrt() if inside else v.sqrt() + group["eps"]
    buffer = state.setdefault("m", torch.zeros_like(gradient))
    buffer.mul_(group["momentum"]).add_(group["lr"] * gradient / root)
    return buffer


def adagrad_inside(group, state, gradient):
    """Adagrad with ε inside the root."""
    v = state.setdefault("v", torch.zeros_like(gradient)).addcmul_(gradient, gradient)
    return group["lr"] * gradient / (v + group["eps"]).sqrt()


def adam_means(state, gradient, beta1, beta2, second):
    """Adam's means with the bias corrected; ``second`` is averaged in the second."""
    m = state.setdefault("m", torch.zeros_like(gradient))
    m.mul_(beta1).add_(gradient, alpha=1 - beta1)
    v = state.setdefault("v", torch.zeros_like(gradient))
    v.mul_(beta2).add_(second(m), alpha=1 - beta2)
    return m / (1 - beta1 ** state["step"]), v / (1 - beta2 ** state["step"])


def belief_without_eps(group, state, gradient):
    """AdaBelief whose ε is only added to the root."""
    m, s = adam_means(state, gradient, *group["betas"], lambda m: (gradient - m).square())
    return group["lr"] * m / (s.sqrt() + group["eps"])


def rectified_from_4(group, state, gradient):
    """RAdam that uses v from ρ > 4 on, as the paper does."""
    (beta1, beta2), k = group["betas"], state["step"]
    m, v = adam_means(state, gradient, beta1, beta2, lambda m: gradient.square())
    most = 2 / (1 - beta2) - 1
    terms = most - 2 * k * beta2**k / (1 - beta2**k)
    if terms <= 4:
        return group["lr"] * m
    rectifier = ((terms - 4) * (terms - 2) * most / ((most - 4) * (most - 2) * terms)) ** 0.5
    return group["lr"] * rectifier * m / (v.sqrt() + group["eps"] / (1 - beta2**k) ** 0.5)


def adamax_in_step(group, state, gradient):
    """Adamax whose ε is added to the largest |g|."""
    (beta1, beta2), k = group["betas"], state["step"]
    m = state.setdefault("m", torch.zeros_like(gradient)).mul_(beta1).add_(gradient, alpha=1 - beta1)
    u = torch.maximum(beta2 * state.get("u", torch.zeros_like(gradient)), gradient.abs())
    state["u"] = u
    return group["lr"] * m / (1 - beta1**k) / (u + group["eps"])


def nadam_without_schedule(group, state, gradient):
    """NAdam whose momentum is β₁ in every step."""
    (beta1, beta2), k = group["betas"], state["step"]
    m, v = adam_means(state, gradient, beta1, beta2, lambda m: gradient.square())
    ahead = beta1 * m * (1 - beta1**k) / (1 - beta1 ** (k + 1)) + (1 - beta1) * gradient / (1 - beta1**k)
    return group["lr"] * ahead / (v.sqrt() + group["eps"])


RMS = {"lr": 0.01, "weight_decay": 0.05, "eps": 1e-2, "momentum": 0.0}
ADAM = {"lr": 0.01, "weight_decay": 0.05, "betas": (0.9, 0.999), "eps": 1e-3}
MISTAKES = {
    "RMSprop, ε inside": ("RMSprop", RMS, tensorflow_rmsprop, "eps-inside"),
    "RMSprop, v from 1": (
        "RMSprop", RMS, lambda *a: tensorflow_rmsprop(*a, first=1.0, inside=False), "v-from-1",
    ),
    "RMSprop, η in the momentum": (
        "RMSprop", RMS | {"momentum": 0.9}, lambda *a: tensorflow_rmsprop(*a, inside=False), "lr-in-momentum",
    ),
    "Adagrad, ε inside": ("Adagrad", {"lr": 0.01, "weight_decay": 0.05, "eps": 1e-2}, adagrad_inside, "eps-inside"),
    "AdaBelief, ε not in s": ("AdaBelief", ADAM, belief_without_eps, "eps-not-in-s"),
    "RAdam, from 4": ("RAdam", ADAM, rectified_from_4, "rectified-from-4"),
    "Adamax, ε in the step": ("Adamax", ADAM, adamax_in_step, "eps-in-step"),
    "NAdam, no schedule": ("NAdam", ADAM, nadam_without_schedule, "no-momentum-schedule"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "move", "near"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named(name, arguments, move, near):
    """Assert that an optimizer with one line written otherwise is refuted, and that the line is named."""
    more = {"alpha": 0.9} if name == "RMSprop" else {}
    verdict = verify(lambda params: Written(params, move, **arguments), CATALOG[name](**arguments, **more), steps=20)
    assert (verdict.status, verdict.cause) == ("refuted", NEAR_RULES[near].cause)


@pytest.mark.parametrize("name", ["NAdam", "NAdamW"])
@pytest.mark.slow
def test_float32_in_nadam_is_named(name):
    """Assert that with float32 as the default dtype the product of NAdam's momenta is found, and can be allowed."""
    torch.set_default_dtype(torch.float32)
    try:
        verdict, allowed = (
            verify(lambda params: OPTIMIZERS[name](params, **GIVEN), CATALOG[name](**GIVEN), steps=20, allow=allow)
            for allow in ((), "product-in-float32")
        )
    finally:
        torch.set_default_dtype(torch.float64)
    assert (verdict.status, verdict.cause) == ("refuted", NEAR_RULES["product-in-float32"].cause)
    assert allowed.passed

"""verify: correct optimizers pass, faulty optimizers are found, and only the right cause is named."""

import json
import math
import subprocess
import sys
from functools import partial
from importlib.metadata import version

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from verification import faulty_optimizers

from swd_dynamics.bench.scenarios import SCENARIOS
from swd_dynamics.crosscheck.variants import AdamVariant, MomentumVariant
from swd_dynamics.errors import InputError
from swd_dynamics.optim import OPTIMIZERS
from swd_dynamics.rules import CATALOG, Adai, Adam, AMSGrad, HeavyBall, Nesterov, NoDecay, UpdateRule
from swd_dynamics.rules.directions import sgd_family
from swd_dynamics.tables import UnknownName
from swd_dynamics.verification import NEAR_RULES, verify

KERNELS = {"single": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
FAMILIES = {
    "SGD": [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.9, "dampening": 0.3},
        {"dampening": 0.5},
    ],
    "Ada": [{}, {"betas": (0.5, 0.9), "eps": 1e-2}],
}
# The other families are verified in test_adaptive.py, and beside their rules in tests/rules/directions.
SGD_TO_ADAI = [name for name in OPTIMIZERS if CATALOG[name].family in (sgd_family, Adam, AMSGrad, Adai)]
COUNTERPARTS = [
    (name, kernel, arguments)
    for name in SGD_TO_ADAI
    for kernel in KERNELS
    for arguments in FAMILIES["SGD" if name.startswith("SGD") else "Ada"]
    if (name, kernel) != ("AdaiS", "fused")  # there is none
    if not (name.startswith("SGDS") and arguments == {"dampening": 0.5})  # as the rule: dampening needs momentum
]
PAPERS = {"max_decay_rate": math.inf}  # AdamS omits a decay that would flip the weights; the paper does not


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kernel", "arguments"), COUNTERPARTS, ids=str)
def test_no_counterpart_is_accused(name, kernel, arguments):
    """Assert that every real optimizer of the catalogue takes the steps of its rule, with every kernel it has."""
    arguments = {"lr": 0.01, "weight_decay": 0.05, **arguments}
    verdict = verify(
        lambda params: OPTIMIZERS[name](params, **arguments, **KERNELS[kernel]), CATALOG[name](**arguments), steps=20
    )
    assert (verdict.status, verdict.first_departure, verdict.cause) == ("confirmed", None, None)


# Not between 0 and 1e-3: a mean that keeps 1e-12 of what it held keeps mostly its rounding.
betas = st.one_of(st.sampled_from([0.0, 1e-3, 0.9, 0.99, 0.999, 0.9999]), st.floats(1e-3, 0.9999))


def powers(low, high):
    """Powers of ten between two exponents."""
    return st.floats(low, high).map(lambda exponent: 10**exponent)


@st.composite
def any_counterpart(draw):
    """A real optimizer with a kernel, and arguments over the whole range that people use, and beyond."""
    name = draw(st.sampled_from(SGD_TO_ADAI))
    arguments = {"lr": draw(powers(-5, 1)), "weight_decay": draw(st.one_of(st.just(0.0), powers(-5, 1)))}
    if name.startswith("SGD"):
        arguments["momentum"] = draw(st.one_of(st.just(0.0), st.floats(0.01, 0.9999)))
        if arguments["momentum"] and draw(st.booleans()):
            arguments["nesterov"] = True
        elif arguments["momentum"]:
            arguments["dampening"] = draw(st.floats(0, 0.99))
    else:
        first, eps = (st.floats(0.01, 2), powers(-5, -1)) if name == "AdaiS" else (betas, powers(-12, -1))
        arguments |= {"betas": (draw(first), draw(betas)), "eps": draw(eps)}
    kernel = draw(st.sampled_from(["single", "foreach"] if name == "AdaiS" else list(KERNELS)))
    return name, kernel, arguments


@pytest.mark.slow
@settings(max_examples=250, deadline=None)
@given(any_counterpart(), st.integers(0, 2**31))
def test_no_hyperparameters_make_a_correct_optimizer_look_wrong(counterpart, seed):
    """Assert that whatever the hyperparameters and the gradients, no correct optimizer is accused."""
    name, kernel, arguments = counterpart
    papers = PAPERS if name in ("AdamS", "AMSGradS") else {}
    verdict = verify(
        lambda params: OPTIMIZERS[name](params, **arguments, **KERNELS[kernel], **papers),
        CATALOG[name](**arguments),
        steps=8,
        seed=seed,
    )
    assert verdict.passed, str(verdict)


ADAM = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1}
SGD = {"lr": 0.01, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}


def faulty(rule, fault):
    """An optimizer of our own, and the rule that it ought to follow."""
    if rule.startswith("Adam"):
        return lambda p: faulty_optimizers.Adam(p, **ADAM, stable=rule == "AdamS", fault=fault), CATALOG[rule](**ADAM)
    return lambda p: faulty_optimizers.SGDS(p, **SGD, stable=rule == "SGDS", fault=fault), CATALOG[rule](**SGD)


@pytest.mark.parametrize("rule", ["AdamW", "AdamS", "SGDS", "SGDW"])
@pytest.mark.slow
def test_without_a_fault_they_pass(rule):
    """Assert that the optimizers written out for these tests are correct until a fault is put in."""
    assert verify(*faulty(rule, "")).passed


MUTANTS = [
    ("AdamW", "eps inside", "eps-inside", 1),
    ("AdamW", "decay after", "decay-after", 1),
    ("AdamW", "not times lr", "decay-without-lr", 1),
    ("AdamW", "L2", "L2", 1),
    ("AdamW", "no correction", "no-correction", 1),
    ("AdamW", "no correction of m", "no-correction-of-m", 1),
    ("AdamW", "v corrected in place", "v-corrected-in-place", 2),
    ("AdamW", "first group", "decay-of-first-group", 1),
    ("AdamW", "first lr", "decay-by-first-lr", 2),
    ("AdamW", "default lr", "decay-by-default-lr", 1),
    ("AdamW", "one rate", "decay-at-one-rate", 1),
    ("AdamW", "no decay of vectors", "no-decay-of-vectors", 1),
    ("AdamW", "other sign", "decay-grows", 1),
    ("AdamW", "betas swapped in corrections", "betas-swapped-in-corrections", 1),
    ("AdamW", "one count", "count-of-all-tensors", 1),
    ("AdamW", "one count in a group", "count-of-a-groups-tensors", 1),
    ("AdamW", "default lr in both", "default-lr", 1),
    ("AdamS", "other sign", "decay-grows", 1),
    ("AdamS", "one count", "count-of-all-tensors", 1),
    ("AdamS", "first lr", "decay-by-first-lr", 2),
    ("AdamS", "no decay of vectors", "no-decay-of-vectors", 1),
    ("AdamS", "eps inside", "eps-inside", 1),
    ("AdamS", "eps on v_bar", "eps-on-mean-root", 1),
    ("AdamS", "eps in v_bar", "eps-in-mean-root", 1),
    ("AdamS", "decay after", "decay-after", 1),
    ("AdamS", "not times lr", "decay-without-lr", 1),
    ("AdamS", "L2", "L2", 1),
    ("AdamS", "decoupled", "decoupled", 1),
    ("AdamS", "no correction of v", "no-correction-of-v", 1),
    ("AdamS", "v corrected in place", "v-corrected-in-place", 2),
    ("AdamS", "v_bar of each tensor", "mean-of-tensor", 1),
    ("AdamS", "v_bar a mean of means", "mean-of-means", 1),
    ("SGDS", "average", "momentum-average", 1),
    ("SGDS", "first dampened", "first-gradient-dampened", 1),
    ("SGDS", "undampened decay", "decay-undampened", 1),
    ("SGDS", "lr in momentum", "lr-in-momentum", 2),
    ("SGDS", "decay after", "decay-after", 1),
    ("SGDS", "not times lr", "decay-without-lr", 1),
    ("SGDS", "decoupled", "decoupled", 1),
    ("SGDW", "constant", "decay-constant", 1),
]


@pytest.mark.parametrize(("rule", "fault", "cause", "step"), MUTANTS, ids=str)
@pytest.mark.slow
def test_a_fault_is_found_and_named(rule, fault, cause, step):
    """Assert that a fault is refuted at the step where it begins to act, and that its cause is named."""
    verdict = verify(*faulty(rule, fault), steps=60)
    assert (verdict.status, verdict.first_departure) == ("refuted", step)
    assert verdict.near_rules == (cause,) and verdict.cause.startswith(NEAR_RULES[cause].cause)


@pytest.mark.parametrize(("made", "rule", "entry"), [("AdamW", "Adam", "AdamW"), ("SGDW", "SGDS", "SGDW")])
@pytest.mark.slow
def test_the_rule_with_the_decay_that_was_found_is_named(made, rule, entry):
    """Assert that where only the decay differs the cause names the entry of the catalogue with that decay."""
    momentum = {"momentum": 0.9} if "SGD" in made else {}
    arguments = {"lr": 0.1, "weight_decay": 0.1, **momentum}
    verdict = verify(OPTIMIZERS[made], CATALOG[rule](**arguments), steps=20, **arguments)
    assert verdict.near_rules == ("decoupled",) and verdict.cause.endswith(entry)
    fault = verify(*faulty("AdamS", "no correction of v"), steps=20)
    assert fault.cause == NEAR_RULES["no-correction-of-v"].cause


STRANGE = ["betas swapped", "gradient clipped", "single precision", "state in single precision",
           "every step counted twice", "weight decay off by a thousandth",
           "eps doubled"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "fault"), [(rule, fault) for rule in ("AdamW", "AdamS") for fault in STRANGE] + [("SGDS", "gradient kept")]
)
def test_a_fault_that_is_in_no_list_has_no_cause(rule, fault):
    """Assert that a fault that is in no list is found, and has the cause "unknown"."""
    verdict = verify(*faulty(rule, fault))
    assert (verdict.status, verdict.cause) == ("refuted", "unknown")
    assert "audit may name it" in verdict.why


@pytest.mark.slow
def test_the_first_wrong_step_has_a_scenario_and_a_group():
    """Assert that a fault of the second group alone is placed in its scenario and in its group."""
    verdict = verify(*faulty("AdamW", "first group"))
    assert f"The first wrong step is step 1 with {SCENARIOS[1].name}, in parameter group 2" in verdict.why


MOMENTUM = {"lr": 0.01, "momentum": 0.9}
OWN_NUMBERS = [
    ("AdamW", ADAM | {"lr": 1e-3}, ADAM, "the optimizer's lr is 0.001, but the rule's is 0.01"),
    ("AdamW", ADAM | {"weight_decay": 0.0}, ADAM, "the optimizer's weight_decay is 0.0, but the rule's is 0.1"),
    (
        "AdamS",
        ADAM | {"betas": (0.9, 0.999)},
        ADAM,
        "the optimizer's betas are (0.9, 0.999), but the rule's are (0.9, 0.99)",
    ),
    ("Adam", ADAM | {"eps": 1e-3}, ADAM, "the optimizer's eps is 0.001, but the rule's is 1e-08"),
    ("SGD", {"lr": 0.01}, MOMENTUM, "the optimizer's momentum is 0, but the rule's is 0.9"),
    ("SGD", MOMENTUM, {"lr": 0.01}, "the optimizer's momentum is 0.9, but the rule's is 0.0"),
    ("SGD", MOMENTUM | {"dampening": 0.5}, MOMENTUM, "the optimizer's dampening is 0.5, but the rule's is 0.0"),
    ("SGD", MOMENTUM | {"nesterov": True}, MOMENTUM, "the optimizer's nesterov is True, but the rule's is False"),
    (
        "SGD",
        {"lr": 0.1, "momentum": 0.8},
        MOMENTUM,
        "the optimizer's lr is 0.1, but the rule's is 0.01, and the optimizer's momentum is 0.8, but the rule's is 0.9",
    ),
]


@pytest.mark.parametrize(("name", "own", "rules", "cause"), OWN_NUMBERS, ids=str)
@pytest.mark.slow
def test_other_numbers_are_named(name, own, rules, cause):
    """Assert that an optimizer made with other numbers than its rule is told which they are."""
    verdict = verify(lambda params: OPTIMIZERS[name](params, **own), CATALOG[name](**rules), steps=20)
    assert (verdict.status, verdict.cause) == ("refuted", cause)


@pytest.mark.slow
def test_other_numbers_are_no_cause_where_they_do_not_explain():
    """Assert that numbers that differ in addition to another fault are mentioned, and are not the cause."""
    factory, _ = faulty("AdamW", "eps inside")
    verdict = verify(factory, CATALOG["AdamW"](**ADAM | {"lr": 0.1}), steps=20)
    assert (verdict.status, verdict.cause) == ("refuted", "unknown")
    assert "The optimizer's lr is 0.01, but the rule's is 0.1. This alone does not explain" in verdict.why


@pytest.mark.slow
def test_numbers_that_are_the_rules_are_not_mentioned():
    """Assert that nothing is said of numbers, nor of precision, where there is nothing to say."""
    factory, rule = faulty("AdamW", "eps inside")
    verdict = verify(factory, rule, steps=20)
    assert "optimizer's" not in verdict.why and lower_precision(verdict) == {}


def lower_precision(verdict):
    """What the optimizer kept with fewer digits than the weights, and its types."""
    return json.loads(verdict.evidence["recording"][SCENARIOS[0].name].attrs["in_lower_precision"])


@pytest.mark.slow
def test_what_has_fewer_digits_than_the_weights_is_said():
    """Assert that η and moments in float32 are mentioned; and that an η of float32 is the cause where it explains."""
    single = verify(*faulty("AdamW", "state in single precision"), steps=20)
    assert lower_precision(single) == dict.fromkeys(["state 'm'", "state 'v'", "state 'v_hat'"], "float32")
    assert "state 'm' is float32" in single.why and "state 'v' is float32" in single.why
    sgd = verify(lambda params: torch.optim.SGD(params, lr=torch.tensor(0.01)), CATALOG["SGD"](lr=0.01), steps=20)
    assert sgd.cause == "the optimizer's lr is 0.01 rounded to float32"
    # torch's Adam computes its bias corrections with such an η in float32 as well
    adam = verify(lambda params: torch.optim.Adam(params, lr=torch.tensor(0.01)), CATALOG["Adam"](lr=0.01), steps=20)
    assert adam.cause == "unknown" and lower_precision(adam) == {"lr": "float32"}


@pytest.mark.slow
def test_two_faults_are_both_named():
    """Assert that two faults that only together explain the steps are named together."""
    verdict = verify(*faulty("AdamS", "v corrected in place, eps on v_bar"))
    assert verdict.cause == "; and ".join(NEAR_RULES[key].cause for key in ("v-corrected-in-place", "eps-on-mean-root"))


@pytest.mark.slow
def test_what_is_allowed_is_no_fault():
    """Assert that a known difference can be allowed, and that what remains is found where it begins."""
    factory, rule = faulty("AdamS", "eps on v_bar")
    assert verify(factory, rule, allow="eps-on-mean-root").passed
    both, _ = faulty("AdamS", "v corrected in place, eps on v_bar")
    verdict = verify(both, rule, allow=["eps-on-mean-root"])
    assert (verdict.first_departure, verdict.cause) == (2, NEAR_RULES["v-corrected-in-place"].cause)


@pytest.mark.slow
def test_causes_that_are_one_map_are_all_named():
    """Assert that both causes are named where they are one map: with β₁ = 0 the moment m needs no correction."""
    arguments = ADAM | {"betas": (0.0, 0.99)}
    verdict = verify(
        lambda p: faulty_optimizers.Adam(p, **arguments, fault="no correction of v"), CATALOG["AdamW"](**arguments)
    )
    causes = [NEAR_RULES[key].cause for key in ("no-correction", "no-correction-of-v")]
    assert verdict.cause == ", or the same here: ".join(causes)


@pytest.mark.parametrize(
    ("direction", "variant"),
    [
        (Adam((0.8, 0.95), 1e-3), AdamVariant),
        (AMSGrad((0.8, 0.9)), AdamVariant),
        (HeavyBall(0.9, 0.3), MomentumVariant),
        (Nesterov(0.9), MomentumVariant),
    ],
    ids=str,
)
def test_a_variant_with_nothing_changed_is_the_direction(direction, variant):
    """Assert that, bit for bit, the near rules differ from the rule in the changed line only."""
    rules = [
        UpdateRule(0.1, each, CATALOG["AdamS"](weight_decay=0.1).decay) for each in (direction, variant.of(direction))
    ]
    states = [rule.start(np.ones(3)) for rule in rules]
    for gradient in np.random.default_rng(0).normal(size=(20, 3)):
        states = [rule(state, gradient) for rule, state in zip(rules, states, strict=True)]
        assert np.array_equal(states[0].theta, states[1].theta)


class TakesNoGroups(torch.optim.SGD):
    """A class that must have tensors."""

    def __init__(self, params, **arguments):
        super().__init__([param.requires_grad_() for param in params], **arguments)


def test_an_optimizer_may_take_no_groups():
    """Assert that an optimizer without groups is verified all the same, and that the verdict says so."""
    verdict = verify(lambda params: TakesNoGroups(params, lr=0.1), CATALOG["SGD"](lr=0.1), steps=20)
    assert verdict.passed
    driven = verdict.evidence["recording"]
    assert [recording.attrs["ungrouped"] for recording in driven.values()] == [0, 1, 1]
    assert "takes no parameter groups" in verdict.why
    assert "weight decay is 0" in verdict.why


class NeedsClosure(torch.optim.SGD):
    """SGD that asks for the gradient a number of times."""

    times = 1

    def step(self, closure):
        for _ in range(self.times):
            closure()
        return super().step()


class NeedsTwo(NeedsClosure):
    times = 2


class Breaks(torch.optim.SGD):
    error = ArithmeticError("out of memory")

    def step(self, closure=None):
        raise self.error


class Exits(Breaks):
    error = SystemExit(0)


class BreaksLater(Breaks):
    count = 0

    def step(self, closure=None):
        self.count += 1
        return torch.optim.SGD.step(self) if self.count < 3 else super().step()


def leave(params):
    """A factory that ends the process."""
    raise SystemExit(0)


def by_dimension(*matrices):
    """A factory that makes groups of its own: matrices, and biases without decay."""

    def factory(params):
        params = list(params)
        groups = [[p for p in params if (p.ndim > 1) == matrix] for matrix in matrices]
        return torch.optim.AdamW([{"params": group} for group in groups])

    return factory


def test_an_optimizer_that_needs_a_closure():
    """Assert that it gets one gradient a step, and that the verdict is inconclusive if it asks for more."""
    rule = CATALOG["SGD"](lr=0.1)
    assert verify(lambda params: NeedsClosure(params, lr=0.1), rule, steps=20).passed
    verdict = verify(lambda params: NeedsTwo(params, lr=0.1), rule, steps=20)
    assert verdict.status == "inconclusive"
    assert "more than one gradient a step" in verdict.cause


def test_an_optimizer_that_raises_is_inconclusive():
    """Assert that its error is the cause of an inconclusive verdict, with the step."""
    cases = {
        Breaks: "Breaks takes no step with gradients alone: ArithmeticError: out of memory",
        Exits: "Exits takes no step with gradients alone: SystemExit: 0",
        BreaksLater: "BreaksLater fails at step 3: ArithmeticError: out of memory",
    }
    for kind, cause in cases.items():
        verdict = verify(partial(kind, lr=0.1), CATALOG["SGD"](lr=0.1), steps=20)
        assert (verdict.status, verdict.cause) == ("inconclusive", cause)
        assert " ".join(str(verdict).split()).index(cause) < str(verdict).index("compared")
        compared = kind is BreaksLater
        assert ("Largest error" in verdict.why) == compared and math.isnan(verdict.measured) != compared
        assert "weight decay" not in str(verdict)


def test_wrong_steps_before_an_error_are_told_with_it():
    """Assert that an optimizer that is wrong and then raises is refuted, and that the verdict has its error."""
    verdict = verify(partial(BreaksLater, lr=0.1), CATALOG["SGD"](lr=0.2), steps=20)
    assert verdict.status == "refuted" and "out of memory" in verdict.why


def test_whole_numbers_of_any_type_will_do():
    """Assert that steps and seed may be numpy's integers."""
    rule = CATALOG["SGD"](lr=0.1)
    assert verify(lambda p: torch.optim.SGD(p, lr=0.1), rule, steps=np.int64(20), seed=np.uint8(3)).passed


@pytest.mark.slow
def test_a_run_that_diverges_is_compared_up_to_there():
    """Assert that an optimizer may diverge together with its rule, but not alone."""
    wild = {"lr": 1e3, "weight_decay": 1e3}
    together = verify(lambda params: torch.optim.SGD(params, **wild), CATALOG["SGD"](**wild))
    assert together.passed and "diverged at step" in together.why
    assert together.evidence["recording"][SCENARIOS[0].name].attrs["diverged_at_step"] > 0
    alone = verify(lambda params: torch.optim.SGD(params, lr=math.nan), CATALOG["SGD"](lr=1.0))
    assert (alone.status, alone.first_departure, alone.measured) == ("refuted", 1, math.inf)


def test_a_second_moment_that_is_zero_is_no_accusation():
    """Assert that 0/0 is not a departure if both torch and the rule have it."""
    nothing_kept = {"lr": 0.1, "betas": (0.9, 0.0), "eps": 0.0}
    assert verify(lambda params: torch.optim.Adam(params, **nothing_kept), CATALOG["Adam"](**nothing_kept)).passed


@pytest.mark.slow
def test_a_guard_of_our_own_is_named():
    """Assert that AdamS omits a decay rate above 2, which the paper does not, and that this is named."""
    arguments = {"lr": 0.1, "weight_decay": 1.0}
    verdict = verify(lambda params: OPTIMIZERS["AdamS"](params, **arguments), CATALOG["AdamS"](**arguments))
    assert verdict.cause == NEAR_RULES["decay-up-to-2"].cause


@pytest.mark.parametrize(
    ("factory", "rule", "options", "said"),
    [
        (3, CATALOG["SGD"](), {}, "factory = 3 is not callable"),
        (torch.nn.Linear(2, 1), "SGD", {}, "is a model .* lambda params"),
        (lambda params: 3, CATALOG["SGD"](), {}, "must return a torch.optim.Optimizer, not 3"),
        (lambda params: torch.optim.SGD(params, lr=-1), CATALOG["SGD"](), {}, "cannot be made .* ValueError"),
        (lambda params: torch.optim.SGD([torch.ones(1)]), CATALOG["SGD"](), {}, "does not train the parameters"),
        (torch.optim.SGD, torch.optim.SGD, {}, "not a rule"),
        (torch.optim.SGD, CATALOG["SGD"](lr=lambda k: 0.1), {}, "lr = .* is not one number"),
        (torch.optim.SGD, CATALOG["SGD"](weight_decay=np.ones(3)), {}, "weight_decay = .* is not one number"),
        (leave, CATALOG["SGD"](), {}, "cannot be made .* SystemExit"),
        (by_dimension(True, False), CATALOG["AdamW"](), {}, "splits its parameters into groups of its own"),
        (by_dimension(False, True), CATALOG["AdamW"](), {}, "splits its parameters into groups of its own"),
        (torch.optim.SGD, CATALOG["SGD"](), {"steps": 1}, "steps = 1 is not allowed"),
        (torch.optim.SGD, CATALOG["SGD"](), {"steps": 20.0}, "steps = 20.0 is not allowed"),
        (torch.optim.SGD, CATALOG["SGD"](), {"steps": 100_001}, "steps = 100001 is not allowed: .* from 2 to 100000"),
        (torch.optim.SGD, CATALOG["SGD"](), {"seed": -1}, "seed = -1 is not allowed"),
        (torch.optim.SGD, CATALOG["SGD"](), {"allow": "eps-inside"}, "has no place in"),
    ],
)
@pytest.mark.slow
def test_mistakes_are_said(factory, rule, options, said):
    """Assert that input which cannot be verified is refused with the reason."""
    with pytest.raises(InputError, match=said):
        verify(factory, rule, **options)


def test_an_unknown_near_rule_lists_the_known():
    """Assert that a wrong name for an allowed near rule is answered with those of the direction, the nearest first."""
    with pytest.raises(
        UnknownName, match="unknown near rule 'eps-insid'; those of Adam with stable decay are eps-inside, "
    ) as refused:
        verify(torch.optim.Adam, CATALOG["AdamS"](), allow="eps-insid")
    assert "eps-on-mean-root" in str(refused.value) and "nesterov" not in str(refused.value)
    with pytest.raises(UnknownName, match="those of HeavyBall with decoupled decay are ") as refused:
        verify(torch.optim.SGD, CATALOG["SGDW"](momentum=0.9), allow="eps-insid")
    assert "nesterov" in str(refused.value) and "eps" not in str(refused.value).partition("are ")[2]


@pytest.mark.slow
def test_the_name_that_allows_a_cause_is_shown():
    """Assert that the names for ``allow`` are printed beside the cause, and that the verdict then passes."""
    factory, rule = faulty("AdamS", "v corrected in place, eps on v_bar")
    verdict = verify(factory, rule)
    assert verdict.near_rules == ("v-corrected-in-place", "eps-on-mean-root")
    shown = " ".join(str(verdict).split())
    assert "(allow: v-corrected-in-place and eps-on-mean-root)" in shown
    assert "(allow: v-corrected-in-place and eps-on-mean-root)" in verdict._repr_html_()
    assert verify(factory, rule, allow=verdict.near_rules).passed
    assert verify(*faulty("AdamS", ""), steps=20).near_rules == ()


@pytest.mark.parametrize(("fault", "only_groups"), [("half of default lr", True), ("eps doubled", False)])
@pytest.mark.slow
def test_a_fault_with_groups_alone_is_placed(fault, only_groups):
    """Assert that where one group at constant η is right and two groups are not, the reader is sent to the groups."""
    verdict = verify(*faulty("AdamW", fault), steps=20)
    assert (verdict.status, verdict.cause) == ("refuted", "unknown")
    assert ("right with one group at constant η" in verdict.why) == only_groups


@pytest.mark.slow
def test_a_rule_without_decay():
    """Assert that a rule without decay is compared with optimizers without and with decay."""
    rule = UpdateRule(0.1, HeavyBall(0.9), NoDecay())
    assert verify(lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9), rule, steps=20).passed
    decays = verify(lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.1), rule, steps=20)
    assert (decays.status, decays.cause) == ("refuted", "unknown")


@pytest.mark.slow
def test_crosscheck_is_there_without_torch():
    """Assert that importing verify does not import torch."""
    code = "from swd_dynamics.verification import verify; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.slow
def test_the_peers_adams_passes():
    """Assert that pytorch_optimizer's AdamS from version 4 on departs by its ε in η_eff alone."""
    peers = pytest.importorskip("pytorch_optimizer")
    if int(version("pytorch_optimizer").partition(".")[0]) < 4:
        pytest.skip("pytorch_optimizer is older than version 4")
    arguments = {"lr": 1e-2, "weight_decay": 1e-2}

    def factory(params):
        return peers.AdamS(params, **arguments)

    assert verify(factory, CATALOG["AdamS"](**arguments)).cause == NEAR_RULES["eps-on-mean-root"].cause
    assert verify(factory, CATALOG["AdamS"](**arguments), allow="eps-on-mean-root").passed


OLD = ["pytorch_optimizer==3.11.0", "torch_optimizer==0.3.0", "pytorch-ranger==0.1.1"]
FOUND_OUT = {
    "pytorch_optimizer": ("AdamS", {"lr": 1e-2, "weight_decay": 1e-2}, "eps-on-mean-root", 2, "v-corrected-in-place"),
    "torch_optimizer": ("SGDW", {"lr": 1e-2, "momentum": 0.9, "weight_decay": 1e-2}, (), 1, "decay-constant"),
}
LOOK = """
import importlib, json, sys
folder, cases = json.loads(sys.argv[1])
sys.path.insert(0, folder)
from swd_dynamics import CATALOG, verify
found = {}
for module, (name, arguments, allow, *_) in cases.items():
    made = getattr(importlib.import_module(module), name)
    verdict = verify(lambda params: made(params, **arguments), CATALOG[name](**arguments), allow=allow)
    found[module] = [verdict.status, verdict.first_departure, verdict.cause]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What verify finds in old releases of two libraries, installed apart and loaded in a process of their own."""
    folder = str(tmp_path_factory.mktemp("old"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, *OLD]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip("pip did not come to an end in two minutes")
    if done.returncode != 0:
        pytest.skip(f"pip cannot install {', '.join(OLD)}: {done.stderr.strip().splitlines()[-1:]}")
    command = [sys.executable, "-c", LOOK, json.dumps([folder, FOUND_OUT])]
    looked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert looked.returncode == 0, looked.stderr
    return json.loads(looked.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("module", FOUND_OUT)
def test_old_releases_are_found_out(found, module):
    """Assert that AdamS of pytorch_optimizer 3.11.0 and SGDW of torch_optimizer 0.3.0 are refuted for what they do."""
    *_, step, cause = FOUND_OUT[module]
    assert found[module] == ["refuted", step, NEAR_RULES[cause].cause]

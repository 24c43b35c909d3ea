"""What a sweep refuses."""

import pytest
import torch
from small_sweeps import LINE

from swd_dynamics.errors import InputError
from swd_dynamics.sweeping import sweep
from swd_dynamics.sweeping.plan import planned

GOOD = {"task": LINE, "optimizers": ["SGD"], "grid": {"lr": [0.1]}, "steps": 2}

BAD = {
    "unknown task": ({"task": "mnist"}, "unknown task 'mnist'; known: "),
    "no task": ({"task": 3}, "task = 3 is not allowed: give a name in TASKS"),
    "task without seed": ({"task": lambda: None}, "the task cannot be made by task.seed=0.: TypeError"),
    "task of another kind": ({"task": lambda seed: "mnist"}, "returned 'mnist': it must return a swd_dynamics.tasks"),
    "unknown optimizer": ({"optimizers": ["SDG"]}, "no optimizer SDG by name; there are SGD"),
    "no optimizer": ({"optimizers": []}, "optimizers is empty: give at least one"),
    "number of optimizers": ({"optimizers": 3}, "optimizers = 3 is not allowed: give names in a list"),
    "optimizer is a number": ({"optimizers": [3]}, "optimizer '3' = 3 is not allowed: give a name"),
    "two of a name": ({"optimizers": ["SGD", torch.optim.SGD]}, "two of them have the same name"),
    "arguments are a word": ({"optimizers": {"mine": ("SGD", "Adam")}}, "'mine' = .* is not allowed: give a name"),
    "three in a tuple": ({"optimizers": {"mine": ("SGD", {}, {})}}, "'mine' = .* is not allowed: give a name"),
    "not an optimizer": ({"optimizers": {"mine": lambda p, lr: 3}}, "mine made 3: it must make a torch.optim"),
    "unknown argument": ({"grid": {"betas": [0.9]}}, "SGD cannot be made with .* unexpected keyword"),
    "first value": ({"grid": {"lr": [-1]}}, "SGD cannot be made with .*learning rate"),
    "no grid": ({"grid": {}}, "grid = {} is not allowed: give arguments and their values"),
    "list as grid": ({"grid": [0.1]}, "grid = .* is not allowed: give arguments and their values"),
    "no values": ({"grid": {"lr": []}}, "give at least one value, each once"),
    "value twice": ({"grid": {"lr": [0.1, 0.1]}}, "give at least one value, each once"),
    "dimension": ({"grid": {"lr": [0.1], "seed": [1, 2]}}, "grid cannot have 'seed'"),
    "no steps": ({"steps": 0}, "steps = 0 is not allowed: it must be a whole number ≥ 1"),
    "half a step": ({"steps": 1.5}, "steps = 1.5 is not allowed"),
    "no seeds": ({"seeds": []}, "seeds = .* is not allowed: give at least one seed, each once"),
    "0 seeds": ({"seeds": 0}, "seeds = 0 is not allowed"),
    "seed twice": ({"seeds": [1, 1]}, "give at least one seed, each once"),
    "seed is a word": ({"seeds": "ab"}, "seed = 'a' is not allowed: it must be a whole number"),
    "unknown schedule": ({"schedule": "cosin"}, "unknown schedule 'cosin'; known: cosine"),
    "schedule is a number": ({"schedule": 1.0}, "schedule = 1.0 is not allowed: give a name, or a function"),
    "schedule returns a number": ({"schedule": lambda steps: 1.0}, "it must return a function of the step"),
    "schedule begins at 0": ({"schedule": lambda steps: lambda k: 0.0}, "must lie in .0, inf"),
    "no evaluations": ({"evaluations": 0}, "evaluations = 0 is not allowed"),
    "unknown engine": ({"engine": "threads"}, "unknown engine 'threads'; known: "),
    "no jobs": ({"jobs": 0}, "jobs = 0 is not allowed"),
    "path is a number": ({"path": 3}, "path = 3 is not allowed"),
    "scheduler of another engine": ({"scheduler": "tcp://host:1"}, 'is for engine = "dask"'),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case):
    """Assert that each argument is checked before anything is trained, and that the message says what is allowed."""
    changed, message = BAD[case]
    with pytest.raises(InputError, match=message):
        sweep(**{**GOOD, **changed})


def test_cells_are_in_the_order_of_the_result():
    """Assert that the number of a cell is its place in the result, whatever the axes."""
    plan = planned(LINE, ["SGD", "Adam"], {"lr": [0.1, 0.2, 0.3], "weight_decay": [0, 1]}, seeds=[5, 7], steps=3)
    assert [cell.number for cell in plan.cells] == list(range(24)) and plan.shape == (2, 3, 2, 2)
    assert plan.cells[-3] == (21, 1, (0.3, 0), 7)


def test_optimizers_with_arguments_have_names_that_tell_them_apart():
    """Assert that an optimizer with arguments of its own is named by them, and by the reader's word in a mapping."""
    given = ["SGD", ("SGD", {"momentum": 0.5}), torch.optim.NAdam]
    labels = [candidate.label for candidate in planned(LINE, given, {"lr": [0.1]}, steps=1).candidates]
    assert labels == ["SGD", "SGD(momentum=0.5)", "NAdam"]
    (only,) = planned(LINE, {"heavy ball": ("SGD", {"momentum": 0.5})}, {"lr": [0.1]}, steps=1).candidates
    assert only.label == "heavy ball"


def test_evaluations_are_at_equal_distances_and_end_with_the_run():
    """Assert that the last evaluation is after the last step, and that there are never more than steps."""
    assert planned(**{**GOOD, "steps": 25}, evaluations=4).evaluated == (7, 13, 19, 25)
    assert planned(**{**GOOD, "steps": 3}, evaluations=10).evaluated == (1, 2, 3)

"""``swd-dynamics verify``: a class by name, its arguments as literals, and a verdict."""

import sys

import pytest

from swd_dynamics.__main__ import main
from swd_dynamics.bench.named import literal_arguments, named_class
from swd_dynamics.crosscheck import named_rule
from swd_dynamics.errors import InputError
from swd_dynamics.rules import CATALOG, SGD, AMSGrad
from swd_dynamics.verification import NEAR_RULES

MINE = """
import torch

class Mine(torch.optim.AdamW):
    def __init__(self, params, lr=0.02, scale=1.0, **arguments):
        super().__init__(params, lr=lr * scale, **arguments)

class Late(torch.optim.SGD):
    def step(self, closure=None):
        raise ValueError("not yet")

class Exits(torch.optim.SGD):
    def step(self, closure=None):
        raise SystemExit(0)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current directory with modules of one's own; the path as it was, afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    for name, text in (("mine_alone", MINE), ("exits", "raise SystemExit(0)"), ("fails", "1 / 0")):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("torch.optim:AdamW --as AdamW", 0, "✓ confirmed"),
        ("torch.optim:AdamW --as AdamW --args lr=1e-2,betas=(.8,.95),weight_decay=0.1,foreach=True", 0, "lr=0.01"),
        ("torch.optim:Adam --as AMSGrad --args amsgrad=True,lr=0.01", 0, "weight decay is 0"),
        ("torch.optim:SGD --as SGDS --args lr=0.1,momentum=.9,weight_decay=0.1", 1, NEAR_RULES["L2"].cause),
        ("mine_alone:Mine --as AdamW", 0, "lr=0.02"),
        ("mine_alone:Mine --as AdamW --args lr=0.01,scale=2.0", 1, "optimizer's lr is 0.02, but the rule's is 0.01"),
        ("mine_alone:Exits --as SGD --args lr=.1", 2, "Exits takes no step with gradients alone: SystemExit: 0"),
        ("mine_alone:Late --as SGD", 2, "Late takes no step with gradients alone: ValueError: not yet"),
    ],
)
@pytest.mark.slow
def test_an_optimizer_is_verified_by_name(command, code, said, here, capsys):
    """Assert that exit code and verdict tell whether a class, with arguments or its defaults, follows a rule."""
    assert main(["verify", *command.split(), "--steps", "20"]) == code
    assert said in capsys.readouterr().out


def test_steps_are_counted_as_they_are_asked_for(capsys):
    """Assert that the steps of each scenario are said, and the option that gives more: .999^1204 = .3."""
    assert main(["verify", "torch.optim:AdamW", "--as", "AdamW", "--steps", "20"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "20 + 20 + 10 steps in 3 scenarios" in said and "after the first 20 of a scenario" in said
    assert "--steps 1204" in said


@pytest.mark.slow
def test_a_known_difference_may_be_allowed(capsys):
    """Assert that --allow changes the rule: a decay of torch's AdamW that comes after the step is not there."""
    command = ["verify", "torch.optim:AdamW", "--as", "AdamW", "--steps", "20", "--allow"]
    assert main([*command, "decay-after"]) == 1
    assert main([*command, "decay-afer"]) == 2
    assert "those of Adam with decoupled decay are decay-after, " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("torch.optim:AdamW --as AdamX", "unknown optimizer 'AdamX'; known: Adam"),
        ("torch.optim:SGD --as LAMB", "no rule for LAMB"),
        ("torch.optim:SGD --as MuonW", "Muon orthogonalises matrices, not shape"),
        ("torch.optim --as AdamW", "give MODULE:CLASS"),
        ("torch.optim:AdmW --as AdamW", "torch.optim has no class 'AdmW'; it has AdamW"),
        ("no_such_module:A --as AdamW", "no_such_module cannot be imported: ModuleNotFoundError"),
        ("exits:A --as AdamW", "exits cannot be imported: SystemExit"),
        ("fails:A --as AdamW", "fails cannot be imported: ZeroDivisionError"),
        ("fractions:Fraction --as AdamW", "Fraction cannot be made from parameters alone"),
        ("torch.optim:AdamW --as AdamW --args momentum=0.9", "TypeError"),
        ("torch.optim:AdamW --as AdamW --args lr=abs(1)", "lr in arguments 'lr=abs(1)': give name=value"),
        ("torch.optim:AdamW --as AdamW --args betas=(1,2)", "Invalid beta"),
        ("torch.optim:Adafactor --as AdamW", "the optimizer's eps is (None, 0.001), which the rule AdamW cannot take"),
        ("torch.optim:AdamW --as AdamW --steps 1", "steps = 1 is not allowed"),
        ("torch.optim:AdamW --as AdamW --steps 1000000000000", "it must be a whole number from 2 to 100000"),
        ("torch.optim:AdamW --as AdamW --seed -1", "seed = -1 is not allowed"),
    ],
)
@pytest.mark.slow
def test_mistakes_are_one_line_and_exit_code_2(command, said, here, capsys):
    """Assert that a user's mistake is told in one line, with exit code 2."""
    assert main(["verify", *command.split()]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (None, {}),
        ("", {}),
        (" lr = 1e-2 , ", {"lr": 0.01}),
        ("betas=(.9,.99),name='a,b=c'", {"betas": (0.9, 0.99), "name": "a,b=c"}),
        ("a=-1,b=[1, 2],c={'x': None}", {"a": -1, "b": [1, 2], "c": {"x": None}}),
    ],
)
def test_arguments_are_literals(text, values):
    """Assert that what stands in a call as a literal is read as it stands."""
    assert literal_arguments(text) == values


@pytest.mark.parametrize(
    "text",
    ["1e-2", "lr=", "lr=x", "lr=1e-2 weight_decay=1", "lr=1,lr=2", "**{'lr': 1}", "lr=__import__('os').getcwd()",
     "lr=1)(b=2", "lr=1) + arguments(b=2", "lr=(lambda: 1)()", "lr=f'{1}'", "lr=1\x00", "lr=" + "(" * 300 + ")" * 300],
)  # fmt: skip
def test_nothing_else_is_read_let_alone_evaluated(text):
    """Assert that names, calls, formatted strings and half sentences are refused."""
    with pytest.raises(InputError, match="give name=value"):
        literal_arguments(text)


def test_a_class_is_found_by_name(here):
    """Assert that a class in the current directory is found, and that an object that is not a class is refused."""
    assert named_class("mine_alone:Mine").__name__ == "Mine"
    with pytest.raises(InputError, match="has no class 'torch'"):
        named_class("mine_alone:torch")


def test_a_rule_takes_what_it_knows():
    """Assert that a rule takes the arguments it has, needs lr, and has no decay where there is none."""
    assert named_rule("SGD", {"lr": 1.0, "fused": True, "betas": (0.9, 0.99)}) == CATALOG["SGD"](lr=1.0)
    rule = named_rule("AMSGradS", {"lr": 1.0, "betas": [0.5, 0.75], "weight_decay": 2.0})
    assert (rule.direction, rule.decay) == (AMSGrad((0.5, 0.75)), CATALOG["AdamS"](weight_decay=2.0).decay)
    assert isinstance(named_rule("SGDS", {"lr": 1}).direction, SGD)
    with pytest.raises(InputError, match="the optimizer's lr is None"):
        named_rule("SGD", {"lr": None})

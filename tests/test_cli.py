"""The command line: what a user types, what comes back, and how mistakes read."""

import errno
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import Annotated, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
import xarray
from matplotlib.figure import Figure

from swd_dynamics.__main__ import main
from swd_dynamics.cli import app
from swd_dynamics.cli.claims import DERIVATIONS, derive
from swd_dynamics.cli.recordings import record
from swd_dynamics.cli.sweeps import _grid, sweep
from swd_dynamics.crosscheck import recorded_rule
from swd_dynamics.errors import InputError
from swd_dynamics.optim import OPTIMIZERS
from swd_dynamics.probe import Probe
from swd_dynamics.probe.quantities import SETS
from swd_dynamics.recording import open_recording
from swd_dynamics.recording.format import read_committed
from swd_dynamics.rules import CATALOG
from swd_dynamics.rules.schedule import SCHEDULES
from swd_dynamics.studies import MODULES, Findings, stability
from swd_dynamics.sweeping import ENGINES
from swd_dynamics.sweeping.plan import FACTORS
from swd_dynamics.tasks import TASKS

SAME_FORMULA = 1e-15  # a product and a quotient by the same number, in float64

SAME_EIGENVALUE = 1e-7  # the search's tolerance of 1e-4, squared, and the distance to the next eigenvalue


def contents(folder):
    """Every file of a folder, with its bytes."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A short AdamW run on disk."""
    run = tmp_path_factory.mktemp("runs") / "adamw"
    command = [
        "record",
        "--optimizer",
        "AdamW",
        "--task",
        "quadratic",
        "--steps",
        "30",
        "--out",
        str(run),
        "--trajectory",
    ]
    assert main([*command, "--weight-decay", "0.1", "--lr", "0.05"]) == 0
    return run


def test_studies_lists_what_each_found(capsys):
    """Assert that every study is listed, in their order, with whole sentences in lines that fit a terminal."""
    assert main(["studies"]) == 0
    lines = capsys.readouterr().out.splitlines()
    starts = [i for i, line in enumerate(lines) if not line.startswith(" ")]
    assert [lines[i].split()[0] for i in starts] == list(MODULES)
    assert all(lines[i - 1].endswith(".") for i in [*starts[1:], len(lines)])
    assert max(map(len, lines)) <= 100


@pytest.mark.slow
def test_a_recorded_run_replays_as_itself_only(recorded, capsys):
    """Assert that record and replay agree on the right rule, and exit with 1 on a wrong one."""
    assert main(["replay", str(recorded), "--as", "AdamW"]) == 0
    assert main(["replay", str(recorded), "--as", "AdamS"]) == 1
    said = capsys.readouterr().out
    assert "weight decay is 0" not in said
    assert "Decoupled(weight_decay=0.1)" in said and "Stable(weight_decay=0.1)" in said
    assert "✓ confirmed" in said and "✗ refuted" in said and "first wrong step: 1" in said


@pytest.mark.slow
def test_a_recording_is_shown_drawn_and_exported(recorded, tmp_path, capsys):
    """Assert that show, plot and export take a recording, and that what they write is there."""
    assert main(["show", str(recorded)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("AdamW, steps 1 to 30 (30 rows)")
    assert "decay_rate" in said and "█" in said
    figure = tmp_path / "figure"
    assert main(["plot", str(recorded), "--quantity", "decay_rate", "--quantity", "loss", "--out", str(figure)]) == 0
    assert main(["plot", str(recorded), "--out", str(tmp_path / "usual")]) == 0
    assert figure.with_suffix(".png").stat().st_size > 10_000
    assert main(["export", str(recorded), "--to", str(tmp_path / "run.csv")]) == 0
    assert len((tmp_path / "run.csv").read_text().splitlines()) == 31


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["show", "nowhere"], "nowhere"),
        (["plot", "RUN", "--quantity", "decayrate"], "unknown quantity 'decayrate'; known: decay_rate"),
        (["plot", "RUN", "--quantity", "R"], "R is recorded as decay_rate"),
        (["plot", "RUN", "--quantity", "‖θ‖"], "recorded as theta_norm"),
        (["plot", "RUN", "--quantity", "theta"], "theta has the dimensions"),
        (["export", "RUN", "--to", "run.txt"], r".nc or .csv"),
    ],
)
@pytest.mark.slow
def test_mistakes_with_recordings_are_said(recorded, command, message, capsys):
    """Assert that a missing run, an unknown quantity and an unknown format are told in a sentence, with exit code 2."""
    assert main([str(recorded) if word == "RUN" else word for word in command]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("quantity", "said"), [("loss", "observe(loss="), ("v_bar", "does not have it")])
def test_what_has_no_value_is_not_drawn(quantity, said, tmp_path, capsys, monkeypatch):
    """Assert that a picture without any value in it is refused, with the reason."""
    monkeypatch.chdir(tmp_path)
    weight = torch.nn.Parameter(torch.ones(2))
    sgd = torch.optim.SGD([weight], lr=0.1)
    with Probe(sgd, "run"):
        for _ in range(3):
            weight.grad = torch.ones(2)
            sgd.step()
    assert main(["plot", "run", "--quantity", quantity]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
def test_a_run_that_grows_is_said_to_grow(tmp_path, capsys):
    """Assert that a run that stays finite, but ends with a larger loss than it began with, says so with the numbers."""
    run = tmp_path / "run"
    command = f"record --optimizer SGD --task network --steps 20 --lr 1000 --out {run}"
    assert main(command.split()) == 0
    said, losses = capsys.readouterr().out, open_recording(run)["loss"].values
    assert losses[-1] > losses[0]
    assert "grew" in said and f"{losses[-1]:.4g}" in said and f"at step {1 + losses.argmax()}" in said


@pytest.mark.slow
def test_a_run_without_decay_says_so(tmp_path, capsys):
    """Assert that a replay that cannot tell the decays apart, for want of any, says so."""
    run = str(tmp_path / "run")
    assert (
        main(["record", "--optimizer", "SGD", "--task", "quadratic", "--steps", "5", "--out", run, "--trajectory"]) == 0
    )
    assert main(["replay", run, "--as", "SGDS"]) == 0
    assert "weight decay is 0" in capsys.readouterr().out


@pytest.mark.slow
def test_a_diverging_run_is_a_result(tmp_path, capsys):
    """Assert that a run that blows up is recorded, and said to have diverged at its step."""
    command = ["record", "--optimizer", "SGD", "--task", "quadratic", "--steps", "400", "--lr", "1e3", "--trajectory"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    assert "diverged at step" in capsys.readouterr().out
    assert main(["replay", str(tmp_path / "run"), "--as", "SGD"]) == 2
    assert "diverged" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["equations", "modified-equation", "fixed-point", "linear-map", "eigenvalues",
                                  "stability-limit", "long-run-decay-rate"])  # fmt: skip
@pytest.mark.slow
def test_derive_shows_steps_and_latex(what, capsys):
    """Assert that every derivation prints its steps, or its formula as LaTeX."""
    assert main(["derive", "SGDS", "--what", what, "--nesterov"]) == 0
    assert "1. " in capsys.readouterr().out
    assert main(["derive", "SGDS", "--what", what, "--latex"]) == 0
    assert "\\" in capsys.readouterr().out


@pytest.mark.slow
def test_derive_writes_a_whole_derivation_as_latex(capsys):
    """Assert that --latex --steps lists all steps and assumptions, and has the result that --latex prints alone."""
    assert main(["derive", "SGDS", "--what", "fixed-point", "--latex", "--steps"]) == 0
    whole = capsys.readouterr().out
    assert main(["derive", "SGDS", "--what", "fixed-point", "--latex"]) == 0
    result = capsys.readouterr().out.strip()
    assert main(["derive", "SGDS", "--what", "fixed-point"]) == 0
    listed = [line for line in capsys.readouterr().out.splitlines() if line[0].isdigit() or line.startswith("- ")]
    assert result in whole and whole.count(r"\item") == len(listed)


GIVEN = {
    "SGD --what stability-limit --lr 0.1 --weight-decay 0.5 --momentum 0": "h_max = 19.5",  # 2/η − λ
    "SGD --what stability-limit --weight-decay 0.5 --momentum 0": "h_max = (2 − η/2)/η",
    "SGDS --what long-run-decay-rate --lr 0.5 --momentum 0.75": "R = 2λ",  # ηλ/(1 − β)
    "SGDW --what fixed-point --lr 0.1 --weight-decay 0.5 --momentum 0.75": "θ = hθ⋆/(h + 0.125)",  # λ(1 − β)
    "AdamS --what long-run-decay-rate --betas 0.5 0.75 --eps 1e-4": "R = ηλ/√⟨v⟩",
    "SGDW fixed_point --lr 0.1 --weight-decay 0.5 --momentum 0.75": "θ = hθ⋆/(h + 0.125)",  # without --what
    "AdamW --what fixed-point --eps 1e-8": "θ = hθ⋆/(h + λ(√v + 1e-08))",
}


@pytest.mark.parametrize("command", GIVEN)
@pytest.mark.slow
def test_derive_with_numbers(command, capsys):
    """Assert that arguments that are given are numbers in the result, and that the others are symbols."""
    assert main(["derive", *command.split()]) == 0
    assert f"Result\n    {GIVEN[command]}\n" in capsys.readouterr().out


HELP = [
    (record, "optimizer", OPTIMIZERS),
    (record, "task", TASKS),
    (record, "schedule", SCHEDULES),
    (record, "quantities", SETS),
    (derive, "what", DERIVATIONS),
    (sweep, "optimizers", OPTIMIZERS),
    (sweep, "task", TASKS),
    (sweep, "schedule", FACTORS),
    (sweep, "engine", ENGINES),
]


@pytest.mark.parametrize(("command", "argument", "table"), HELP, ids=[f"{c.__name__} {name}" for c, name, _ in HELP])
def test_help_lists_the_table(command, argument, table):
    """Assert that the help of an argument that takes a name lists every name of its table."""
    (said,) = re.findall(rf"^    {argument}\n((?:     .*\n)+)", command.__doc__, flags=re.MULTILINE)
    assert set(table) <= set(re.findall(r"[\w-]+", said))


COMMANDS = [name for name in app if not name.startswith("-")]


def example_of(name):
    """The example in a command's help."""
    documented = app[name].default_command.__doc__
    (example,) = re.findall(r"^ +swd-dynamics (.*)\n", documented, flags=re.MULTILINE)
    return example


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example(name):
    """Assert that the help of every command has one example, which calls that command."""
    called, _, _ = app.parse_args(example_of(name))
    assert called is app[name].default_command and example_of(name).split()[0] == name


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_told_in_sentences(name):
    """Assert that every argument of every command is described by words that begin a sentence and end it."""
    section = app[name].default_command.__doc__.partition("----------\n")[2]
    told = re.findall(r"^    (\w+)\n((?:(?:     .*)?\n)+)", section, flags=re.MULTILINE)
    hints = get_type_hints(app[name].default_command)
    assert {argument for argument, _ in told} == set(hints) - {"return"}
    for argument, words in told:
        assert words.strip()[0].isupper() and words.strip()[-1] == ".", argument


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_example_and_options(name, capsys, monkeypatch):
    """Assert that what --help prints has the example and the description of every argument, each to its last word."""
    monkeypatch.setenv("COLUMNS", "100")
    assert main([name, "--help"]) == 0
    printed = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    section = app[name].default_command.__doc__.partition("----------\n")[2]
    told = re.findall(r"^    \w+\n((?:(?:     .*)?\n)+)", section, flags=re.MULTILINE)
    assert f"swd-dynamics {example_of(name)}" in printed
    assert [words for words in told if " ".join(words.split()) not in printed] == []


@pytest.mark.slow
def test_examples_run(tmp_path, monkeypatch, capsys):
    """Assert that the examples of the commands about recordings and rules run, one after another."""
    monkeypatch.chdir(tmp_path)
    for name in ("studies", "derive", "verify", "audit", "sweep"):
        assert main(shlex.split(example_of(name))) == 0, capsys.readouterr().err
    run = shlex.split(example_of("record"))
    run[run.index("--steps") + 1] = "20"  # the same in less time
    assert main([*run, "--trajectory"]) == 0
    for name in ("replay", "show", "plot", "export"):
        assert main(shlex.split(example_of(name))) == 0, capsys.readouterr().err
    assert {path.suffix for path in tmp_path.iterdir()} == {"", ".png", ".svg", ".csv"}


@pytest.mark.slow
def test_long_examples_run(tmp_path, monkeypatch, capsys):
    """Assert that the examples of reproduce and atlas run and write their files.

    One measurement of the study is made, and an atlas of one optimizer. tests/studies/test_every_study.py measures the
    whole study, and tests/auditing/test_atlas.py makes the atlas of all of torch's optimizers.
    """
    monkeypatch.chdir(tmp_path)
    study = replace(stability.STUDY, measure=one_measurement, draw=lambda _: Figure())
    monkeypatch.setattr("swd_dynamics.studies.load", lambda name: {"stability": study}[name])
    monkeypatch.setattr("swd_dynamics.auditing.atlas.optimizers_of", lambda package: ["SGD"])
    for name, more in {"reproduce": [], "atlas": ["--limit", "300"]}.items():  # s, for a busy machine
        assert main([*shlex.split(example_of(name)), *more]) == 0, capsys.readouterr().err
    ledger = json.loads((tmp_path / "figures/quick/verdicts.json").read_text())
    assert [verdict["status"] for verdict in ledger["studies"]["stability"]] == ["confirmed"]
    assert (tmp_path / "figures/quick/README.md").exists() and (tmp_path / "atlas/torch-optim.csv").exists()


def one_measurement(setting):
    """One of the verdicts of the study ``stability``, in the short form that its example asks for."""
    assert setting.quick
    return Findings([stability.vanishing_gradients(setting)], None)


@pytest.mark.slow
def test_sgdw_is_recorded_and_replays_as_itself(tmp_path, capsys):
    """Assert that SGD with decoupled decay, which torch does not have, can be recorded, and replays with its own λ."""
    run = str(tmp_path / "run")
    numbers = ["--momentum", "0.9", "--weight-decay", "0.1", "--lr", "0.05"]
    command = f"record --optimizer SGDW --task quadratic --steps 30 --trajectory --out {run}".split()
    assert main([*command, *numbers]) == 0
    assert main(["replay", run, "--as", "SGDW"]) == 0
    assert "Decoupled(weight_decay=0.1)" in capsys.readouterr().out
    assert main(["replay", run, "--as", "SGDS"]) == 1


@pytest.mark.slow
def test_the_landscape_is_recorded_in_every_nth_step(tmp_path):
    """Assert that record measures the sharpness of a quadratic, which is known, in every third step only."""
    run = tmp_path / "run"
    command = (
        f"record --optimizer SGD --task quadratic --steps 7 --quantities landscape --landscape-every 3 --out {run}"
    )
    assert main(command.split()) == 0
    sharpness = open_recording(run)["sharpness"].dropna("step")
    assert sharpness["step"].values.tolist() == [3, 6]
    np.testing.assert_allclose(sharpness, 3.0, rtol=SAME_EIGENVALUE)


@pytest.mark.parametrize("name", ["sgds", "SGDS", "Sgds"])
@pytest.mark.slow
def test_a_rule_is_found_in_any_case(name, capsys):
    """Assert that the capitals of a rule's name do not matter on the command line."""
    assert main(["derive", name, "stability-limit", "--lr", "0.1"]) == 0
    written = capsys.readouterr().out
    main(["derive", "SGDS", "stability-limit", "--lr", "0.1"])
    assert capsys.readouterr().out == written


@pytest.mark.slow
def test_a_real_optimizer_and_a_task_are_found_in_any_case(tmp_path):
    """Assert that capitals do not matter to record and sweep, and that a recording has the table's names."""
    run, found = tmp_path / "run", tmp_path / "sweep"
    assert main(f"record --optimizer adamw --task Network-MiniBatch --steps 2 --out {run}".split()) == 0
    attrs = open_recording(run).attrs
    assert attrs["optimizer"] == "AdamW" and json.loads(attrs["data"])["task"] == "network-minibatch"
    assert main(f"sweep Quadratic --optimizers sgds,ADAMW --grid lr=0.1 --steps 2 --to {found}".split()) == 0


MISTAKES = {
    "derive LBFGS": "LBFGS is not a rule",
    "derive AdamZ": "unknown optimizer 'AdamZ'; known: Adam",
    "derive AdamS --what limit": "unknown derivation 'limit'",
    "derive AdamS --nesterov": "AdamS has no --nesterov",
    "derive Adam --momentum 0.9 --dampening 0.5": "Adam has no --momentum, --dampening",
    "derive SGDS --dampening 0.5 --nesterov": "nesterov needs",
    "derive SGDS --momentum 1.5": "momentum = 1.5",
    "derive --nope": "--nope",
    "reproduce stabilty": "unknown study 'stabilty'; known: stability",
    "reproduce stability --device tpu": "tpu",
    "replay nowhere --as AdamW": "nowhere",
    "replay nowhere --as Sophia": "no rule for Sophia",
    "replay nowhere --as AdamX": "unknown optimizer 'AdamX'",
    "record --optimizer Adam --task mnist --steps 3 --out x": "unknown task 'mnist'",
    "record --optimizer Lion --task network --steps 3 --out x": "no optimizer Lion",
    "record --optimizer Adam --task quadratic --steps 0 --out x": "steps",
    "record --optimizer Adam --task quadratic --steps many --out x": "many",
    "record --optimizer Adam --task quadratic --steps 3 --out x --lr -1": "-1",
    "record --optimizer Adam --task quadratic --steps 3 --out x --momentum .9": "momentum",
    "record --optimizer SGDS --task quadratic --steps 3 --out x --momentum 1.5": "1.5",
    "record --optimizer Adam --task quadratic --steps 3 --out x --empty-betas": "--empty-betas",
    "record --optimizer Adam --task quadratic --steps 3 --out x --schedule cosin": "unknown schedule 'cosin'",
    "record --optimizer Adam --task quadratic --steps 3 --out x --gamma 0.5": "gamma",
    "record --optimizer Adam --task quadratic --steps 3 --out x --schedule step": "step_size",
    "record --optimizer Adam --task quadratic --steps 3 --out x --every 0": "every = 0",
    "record --optimizer Adam --task quadratic --steps 3 --out x --every 2 --trajectory": "every = 2",
    "record --optimizer Adam --task quadratic --steps 3 --out x --quantities all": "unknown quantity 'all'",
    "record --optimizer Adam --task quadratic --steps 3 --out x --quantities loss,sharpnes": "quantity 'sharpnes'",
    "record --optimizer Adam --task quadratic --steps 3 --out x --quantities sharpness --landscape-every 0": "= 0",
    "record --optimizer Adam --task quadratic --steps 3 --out x --quantities landscape --landscape-every 1.5": "1.5",
    "record --optimizer Adam --task quadratic --steps 3 --out x --landscape-every 2": "--quantities landscape",
    "record --optimizer Rprop --task quadratic --steps 3 --out x --quantities sharpness": "Rprop",
    "record --optimizer Adam --task quadratic --steps 3 --out /dev/null/x": "cannot make a run",
    "record --optimizer Adam --task quadratic --steps 2.9 --out x": "2.9",
    "record --optimizer Adam --task quadratic --steps 1e3 --out x": "1e3",
    f"record --optimizer Adam --task quadratic --steps {10**30} --out x": "steps",
    "record --optimizer Adam --task quadratic --steps 3 --out x --seed 1.5": "1.5",
    "record --optimizer Adam --task quadratic --steps 3 --out x --warmup -3": "warmup = -3",
    "record --optimizer SGD --task quadratic --steps 3 --out x --schedule step --step-size 1.5": "1.5",
    f"record --optimizer Adam --task quadratic --steps 3 --out {'x' * 300}": "too long",
    f"show {'x' * 300}": "no run",
    f"plot {'x' * 300} --quantity loss": "no run",
    f"export {'x' * 300} --to run.csv": "no run",
    f"replay {'x' * 300} --as Adam": "no run",
    f"atlas --out {'x' * 300}": "too long",
    "atlas --jobs 1.5": "1.5",
    "verify torch.optim:SGD --as SGD --steps 10.5": "10.5",
    "nonsense": "nonsense",
    "derive": "swd-dynamics derive --help",
    "record --optimizer Adam": "swd-dynamics record --help",
    "sweep mnist --optimizers SGD --grid lr=1 --steps 3 --to x": "unknown task 'mnist'",
    "sweep quadratic --optimizers SGD,SDG --grid lr=1 --steps 3 --to x": "no optimizer SDG",
    "sweep quadratic --optimizers SGD,SGD --grid lr=1 --steps 3 --to x": "SGD",
    "sweep quadratic --optimizers SGD --grid lr --steps 3 --to x": "--grid lr: give an argument and its values",
    "sweep quadratic --optimizers SGD --grid lr= --steps 3 --to x": "--grid lr=: give an argument and its values",
    "sweep quadratic --optimizers SGD --grid lr=1 --grid lr=2 --steps 3 --to x": "each argument once",
    "sweep quadratic --optimizers SGD --grid lr=1e-3:1 --steps 3 --to x": "a range is low:high:count",
    "sweep quadratic --optimizers SGD --grid lr=1:1e-3:4 --steps 3 --to x": "a range is low:high:count",
    "sweep quadratic --optimizers SGD --grid lr=1e-3:1:1.5 --steps 3 --to x": "a range is low:high:count",
    "sweep quadratic --optimizers SGD --grid lr=0:1:3 --steps 3 --to x": "a range is low:high:count",
    "sweep quadratic --optimizers SGD --grid lr=exit() --steps 3 --to x": "--grid lr=exit(): the values must be",
    "sweep quadratic --optimizers SGD --grid lr=1],a=[2 --steps 3 --to x": "the values must be",
    "sweep quadratic --optimizers SGD --grid lr=-1 --steps 3 --to x": "SGD cannot be made with {'lr': -1}",
    "sweep quadratic --optimizers SGD --grid beta=1 --steps 3 --to x": "SGD cannot be made with {'beta': 1}",
    "sweep quadratic --optimizers SGD --grid wd=1 --steps 3 --to x": "it takes lr, momentum, dampening, weight_decay,",
    "sweep quadratic --optimizers SGD --grid lr=1 --steps 0 --to x": "steps = 0",
    "sweep quadratic --optimizers SGD --grid lr=1 --steps 3 --seeds 0 --to x": "seeds = 0",
    "sweep quadratic --optimizers SGD --grid lr=1 --steps 3 --engine gpu --to x": "unknown engine 'gpu'",
    "sweep quadratic --optimizers SGD --grid lr=1 --steps 3 --schedule cosin --to x": "unknown schedule 'cosin'",
    "sweep quadratic --optimizers SGD --grid lr=1 --steps 3 --jobs 0 --to x": "jobs = 0",
    "sweep quadratic --optimizers SGD --grid lr=1 --steps 3 --scheduler tcp://a:1 --to x": "scheduler = 'tcp://a:1'",
    "sweep quadratic --optimizers SGD --grid lr=1 --steps 3 --to x --nc x.csv": "must end in .nc",
    "sweep quadratic --optimizers SGD --grid lr=1 --steps 3 --to /dev/null/x": "cannot make a run",
    f"sweep quadratic --optimizers SGD --grid lr=1 --steps 3 --to {'x' * 300}": "too long",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(command, capsys, tmp_path, monkeypatch):
    """Assert that a user's mistake is one line on standard error, exit code 2, and leaves nothing behind."""
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("swd-dynamics: ") and MISTAKES[command] in captured.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("out", ["", "file/figure", "x" * 300, "figure.pdf"])
@pytest.mark.slow
def test_a_figure_that_cannot_be_written_is_one_line(recorded, out, tmp_path, capsys, monkeypatch):
    """Assert that an impossible path of a figure is one line, exit code 2, and leaves nothing behind."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["plot", str(recorded), "--quantity", "loss", "--out", out]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.parametrize(
    ("command", "written"),
    [("plot RUN --quantity loss --out new.png", ["new.png", "new.svg"]), ("export RUN --to new.csv", ["new.csv"])],
)
@pytest.mark.slow
def test_files_are_overwritten_only_on_request(recorded, command, written, tmp_path, capsys, monkeypatch):
    """Assert that plot and export refuse files that exist, by name, and write them with --overwrite."""
    monkeypatch.chdir(tmp_path)
    arguments = [str(recorded) if word == "RUN" else word for word in command.split()]
    (tmp_path / written[-1]).write_text("precious")
    assert main(arguments) == 2
    assert written[-1] in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == written[-1:]
    assert (tmp_path / written[-1]).read_text() == "precious"
    assert main([*arguments, "--overwrite"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == written
    assert (tmp_path / written[-1]).stat().st_size > 1000


def test_whole_numbers_are_read_as_they_were_typed():
    """Assert that no command lets cyclopts round: every whole number has the strict converter."""
    for name in (name for name in app if not name.startswith("-")):
        hints = get_type_hints(app[name].default_command, include_extras=True)
        hints.pop("return")
        bare = [hint for hint in hints.values() if get_origin(hint) is not Annotated]
        assert not any(hint is int or int in get_args(hint) for hint in bare), name


@pytest.mark.parametrize("reason", [PermissionError(errno.EACCES, "Permission denied", "run"), OSError("disk")])
def test_what_the_system_refuses_is_one_line(reason, capsys, monkeypatch):
    """Assert that an error of the operating system in any command is one line and exit code 2."""

    def refuses(*_):
        raise reason

    monkeypatch.setattr("swd_dynamics.recording.open_recording", refuses)
    assert main(["show", "run"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(reason.strerror or reason) in said


def test_nothing_is_overwritten(recorded, capsys):
    """Assert that record refuses a folder that exists, and leaves it as it is."""
    before = contents(recorded)
    assert main(["record", "--optimizer", "SGD", "--task", "quadratic", "--steps", "3", "--out", str(recorded)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert contents(recorded) == before


@pytest.mark.parametrize("file", ["run.json", "scalars.zarr/theta/zarr.json", "snapshots/step-0000000000.safetensors"])
def test_a_damaged_recording_is_one_clear_line(recorded, tmp_path, capsys, file):
    """Assert that a recording with a truncated file is refused in one line."""
    shutil.copytree(recorded, tmp_path / "run")
    damaged = tmp_path / "run" / file
    damaged.write_bytes(damaged.read_bytes()[:-20])
    assert main(["replay", str(tmp_path / "run"), "--as", "AdamW"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_replay_says_what_a_run_without_weights_lacks(tmp_path, capsys):
    """Assert that a run recorded without its weights is not replayed, and that the way to do it is said."""
    run = str(tmp_path / "run")
    assert main(["record", "--optimizer", "SGD", "--task", "quadratic", "--steps", "5", "--out", run]) == 0
    assert main(["replay", run, "--as", "SGD"]) == 2
    assert "lacks theta and gradient" in capsys.readouterr().err


def two_groups_without_weights(path):
    """A run of AdamW with and without decay in its two groups, whose weights are not recorded."""
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    groups = [{"params": [weight], "weight_decay": each} for weight, each in zip(weights, (0.1, 0.0), strict=True)]
    adamw = torch.optim.AdamW(groups, lr=0.01)
    with Probe(adamw, path=path) as probe:
        for _ in range(30):
            loss = sum(weight.square().sum() for weight in weights)
            adamw.zero_grad()
            loss.backward()
            probe.observe(loss=loss)
            adamw.step()


@pytest.mark.slow
def test_two_groups_without_weights_are_one_line(tmp_path, capsys):
    """Assert that replay of two groups without recorded weights is refused, and that every other command runs."""
    run = str(tmp_path / "two")
    two_groups_without_weights(run)
    assert main(["replay", run, "--as", "AdamW"]) == 2
    assert "trajectory=True" in capsys.readouterr().err
    for name in ("AdamW", CATALOG["AdamW"]):
        with pytest.raises(InputError, match="weight_group"):
            recorded_rule(name, open_recording(run))
    others = (["show"], ["plot"], ["explain"], ["export", "--to", str(tmp_path / "two.csv")])
    assert [main([command, run, *options]) for command, *options in others] == [0] * 4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--schedule step --step-size 2 --gamma 0.5", [0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.0625, 0.0625]),
        ("--schedule cosine --lr-min 0.1", [0.1 + 0.2 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]),
        ("--warmup 4", [*(0.5 * (1 / 3 + k / 6) for k in range(4)), *[0.5] * 4]),
    ],
)
@pytest.mark.slow
def test_schedules(tmp_path, options, expected):
    """Assert that the recorded learning rate is the schedule's formula."""
    run = tmp_path / "run"
    command = f"record --optimizer SGD --task quadratic --steps 8 --lr 0.5 --out {run} {options}"
    assert main(command.split()) == 0
    np.testing.assert_allclose(open_recording(run)["lr"][:, 0], expected, rtol=SAME_FORMULA)


@pytest.fixture
def heard_sigint():
    """Where tests run in the background a shell has SIGINT ignored, and a process inherits that; not one begun here."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("heard_sigint")
def test_ctrl_c_closes_the_run(tmp_path):
    """Assert that a run stopped by Ctrl-C has its rows, says that it was interrupted, and exits as shells expect."""
    run = tmp_path / "run"
    command = f"record --optimizer SGD --task network --steps 1000000 --lr 1e-6 --out {run}".split()
    with subprocess.Popen([sys.executable, "-m", "swd_dynamics", *command], stderr=subprocess.PIPE) as process:
        while not (run / "scalars.zarr" / "loss" / "c.0").exists():  # the first rows are there after two seconds
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert "step/s" in process.stderr.read().decode()
    assert process.returncode == 130
    recording = open_recording(run)
    assert recording.attrs["status"] == "interrupted"
    np.testing.assert_array_equal(recording["step"], np.arange(1, recording.sizes["step"] + 1))
    assert np.isfinite(recording["loss"]).all()


@pytest.mark.slow
def test_as_a_program():
    """Assert that python -m swd_dynamics gives help with every command, and exit codes that a shell sees."""
    command = [sys.executable, "-m", "swd_dynamics"]
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    assert all(name in helped for name in ("studies", "reproduce", "derive", "record", "replay"))
    failed = subprocess.run([*command, "derive", "AdamZ"], capture_output=True, text=True, check=False)
    assert failed.returncode == 2 and "Traceback" not in failed.stderr


PRINTING = ("derive", "SGD", "--what", "equations")  # the quickest command that prints lines: it does not import torch


@pytest.mark.slow
def test_a_reader_may_stop_reading():
    """Assert that output into a pipe that is closed, as by head, ends without a traceback."""
    command = [sys.executable, "-m", "swd_dynamics", *PRINTING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.slow
@pytest.mark.parametrize(
    ("closed", "code", "said"),
    [(">&-", 0, b""), (">&- 2>&-", 0, b""), ("<&- >/dev/null", 0, b""), (">/dev/full", 2, b"No space left on device")],
)
def test_what_is_printed_may_go_nowhere(closed, code, said):
    """Assert that a closed stream is like /dev/null, and a full disk behind it one line."""
    command = f"{sys.executable} -m swd_dynamics {' '.join(PRINTING)} {closed}"
    ended = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, check=False)
    assert ended.returncode == code
    assert said in ended.stderr and ended.stderr.count(b"\n") == bool(said)


@pytest.mark.slow
def test_letters_that_cannot_be_encoded_are_printed():
    """Assert that formulas are printed where the encoding has no Greek letters, each as its code."""
    command = [sys.executable, "-m", "swd_dynamics", *PRINTING]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    printed = subprocess.run(command, capture_output=True, env=environment, check=True).stdout
    assert rb"\u03b8" in printed  # θ


@pytest.mark.slow
def test_a_name_with_dots_names_its_own_figure(recorded, tmp_path):
    """Assert that figures of runs whose names differ after a dot do not overwrite one another."""
    for rate in ("0.01", "0.02"):
        shutil.copytree(recorded, tmp_path / f"lr{rate}")
        assert main(["plot", str(tmp_path / f"lr{rate}"), "--quantity", "loss"]) == 0
    assert {file.name for file in tmp_path.glob("*.png")} == {"lr0.01-loss.png", "lr0.02-loss.png"}


def test_a_recording_that_failed_is_exit_code_1(tmp_path, capsys, monkeypatch):
    """Assert that a run whose rows the disk did not take says so, and exits with 1."""
    from swd_dynamics.recording.writer import RunFolder

    def fails(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(RunFolder, "append", fails)
    command = ["record", "--optimizer", "SGD", "--task", "quadratic", "--steps", "3", "--out", str(tmp_path / "run")]
    assert main(command) == 1
    assert "the run is not completely recorded: failed: OSError: no space left" in capsys.readouterr().out


SWEEP = "sweep quadratic --optimizers SGD,AdamS --grid lr=1e-2:1e4:4 --grid weight-decay=0,0.1 --steps 40 --seeds 2"


@pytest.mark.slow
def test_a_sweep_ends_with_a_table(tmp_path, capsys):
    """Assert that a sweep prints the best point and the diverged runs of each optimizer, and writes all as netCDF."""
    assert main([*SWEEP.split(), "--to", str(tmp_path / "sweep"), "--nc", str(tmp_path / "sweep.nc")]) == 0
    found = xarray.open_dataset(tmp_path / "sweep.nc", engine="h5netcdf")
    assert found.lr.values.tolist() == [0.01, 1.0, 100.0, 10000.0]
    captured = capsys.readouterr()
    heads, sgd, adams, written, _ = captured.out.splitlines()
    assert heads.split() == ["train", "loss", "diverged", "failed", "best", "point"]
    # h = 3 and η = 1 multiply θ₂ by −2 in a step; with η = 0.01 it shrinks, most slowly without decay.
    loss = sum(h * theta**2 * (1 - 0.01 * h) ** 80 for h, theta in zip((1, 3, 0.1), (1, -2, 0.5), strict=True)) / 2
    assert float(sgd.split()[1]) == pytest.approx(min(loss, found.train_loss[0, 0].values.min()), rel=5e-4)
    assert int(sgd.split()[4]) == int(found.diverged_at[0].notnull().sum()) >= 8
    assert adams.startswith("AdamS") and "16 of 16" not in written and "32 of 32 runs, trained by vmap" in written
    assert main([*SWEEP.split(), "--to", str(tmp_path / "sweep")]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == [heads, sgd, adams]


@pytest.mark.slow
def test_optimizers_with_the_same_numbers_are_told(tmp_path, capsys):
    """Assert that SGDW and SGDS without momentum are said to be one method, but not with momentum."""
    command = ["sweep", "quadratic", "--optimizers", "SGDW,SGDS", "--grid", "lr=0.01", "--grid", "weight-decay=0.1"]
    assert main([*command, "--steps", "9", "--to", str(tmp_path / "plain")]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "same numbers" in line]
    assert len(said) == 1 and said[0].startswith("SGDW and SGDS ") and "one method" in said[0]
    assert main([*command, "--grid", "momentum=0.5", "--steps", "9", "--to", str(tmp_path / "heavy")]) == 0
    assert "same numbers" not in capsys.readouterr().out


def test_weight_decay_has_a_short_name(capsys):
    """Assert that --wd is --weight-decay."""
    printed = []
    for option in ("--wd", "--weight-decay"):
        assert main(["derive", "SGD", "fixed-point", option, "0.25"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != ""


def test_failed_runs_of_a_sweep_are_told(tmp_path, capsys):
    """Assert that the table counts failed runs and says why they failed, and what there is no best point of."""
    command = (
        f"sweep quadratic --optimizers SGDS --grid momentum=0.5,2 --grid lr=1e9 --steps 9 --to {tmp_path / 'sweep'}"
    )
    assert main(command.split()) == 0
    _, sgds, reason, _ = capsys.readouterr().out.splitlines()
    assert sgds.split() == ["SGDS", "none", "1", "1"]
    assert reason.startswith("    failed: ") and "momentum" in reason


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ("lr=1e-3:1:4", {"lr": [0.001, 0.01, 0.1, 1.0]}),
        ("weight-decay=0,1e-4", {"weight_decay": [0, 1e-4]}),
        ("betas=(0.9,0.99),(.8,.9)", {"betas": [(0.9, 0.99), (0.8, 0.9)]}),
        ("nesterov=True,False", {"nesterov": [True, False]}),
    ],
)
def test_the_grid_of_a_sweep(given, values):
    """Assert that values with commas are literals, and that a range has its ends and equal ratios."""
    assert _grid([given]) == values


@pytest.mark.slow
@pytest.mark.usefixtures("heard_sigint")
def test_ctrl_c_keeps_what_a_sweep_has_done(tmp_path, capsys):
    """Assert that Ctrl-C ends a sweep with exit code 130 and no traceback, and that the same command goes on."""
    folder = tmp_path / "sweep"
    command = f"sweep quadratic --optimizers SGD,Adam,AdamS --grid lr=1e-3:1e-2:3 --to {folder} --steps".split()
    command = [sys.executable, "-m", "swd_dynamics", *command, "2000", "--engine", "processes", "--jobs", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0) as process:
        while not (folder / "scalars.zarr" / "zarr.json").exists() or not read_committed(folder)[0]:
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all processes
        said, bar = process.stdout.read().decode(), process.stderr.read().decode()
    assert process.returncode == 130 and "Traceback" not in bar and "cell" in bar
    done = read_committed(folder)[0]
    assert f"{done} of 9 runs" in said and "The same command trains the runs that are missing" in said
    assert main(command[3:]) == 0
    assert capsys.readouterr().out.count("9 of 9 runs") == 1

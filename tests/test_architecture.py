"""The house: floors without circles, light imports, rooms and files of a bounded size, every figure with its study."""

import ast
import doctest
import json
import subprocess
import sys
import tomllib
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import numpy as np
import pytest

import swd_dynamics
from swd_dynamics import studies
from swd_dynamics.arithmetic import OPAQUE
from swd_dynamics.optim import OPTIMIZERS
from swd_dynamics.plots import style
from swd_dynamics.recording.writer import RunFolder
from swd_dynamics.rules import CATALOG, DECAYS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "swd_dynamics"
PYTHON_FILES = sorted(PACKAGE.rglob("*.py"))
LARGEST_ROOM = 1 / 5  # of all lines of code: at twice that much a room would hold more things than its name says
GROWING = "studies"  # a file for each claim, on which no other room depends: this room grows with the claims


# Names of public functions and classes that several modules define, because each is one thing to its reader.
SHARED_NAMES = {
    *("measure", "draw"),  # of every study
    *OPAQUE,  # words of arithmetic, and the functions of sympy that stand for them
    "descend",  # the step of each optimizer
    "phase_plane",  # computed in planes, drawn in plots
}


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout


@pytest.mark.slow
def test_floors():
    """Assert that every import contract of pyproject.toml holds: imports go only downwards."""
    from importlinter.api import read_configuration
    from importlinter.application.use_cases import lint_imports
    from importlinter.configuration import configure

    configure()
    assert len(read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"]) >= 8
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=None)


def circle_of(package: str) -> list[str]:
    """The modules of one circle of imports, those inside functions included; empty where there is none."""
    graph = grimp.build_graph(package, exclude_type_checking_imports=True, cache_dir=None)
    imported = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        TopologicalSorter(imported).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@pytest.mark.slow
def test_no_circle_of_imports():
    """Assert that no module of the package imports another that imports it, by whatever way, even when it is called."""
    assert circle_of("swd_dynamics") == []


@pytest.mark.parametrize(
    ("condition", "is_circle"),
    [("def called():", True), ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:", False)],
)
def test_a_circle_would_be_found(condition, is_circle, tmp_path, monkeypatch):
    """Assert that a circle that a function closes is found, and that an import for type checkers alone closes none."""
    package = tmp_path / f"circular_{is_circle}"
    package.mkdir()
    package.joinpath("__init__.py").touch()
    package.joinpath("first.py").write_text(f"from {package.name} import second\n")
    package.joinpath("second.py").write_text(f"{condition}\n    from {package.name} import first\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert (set(circle_of(package.name)) == {f"{package.name}.first", f"{package.name}.second"}) == is_circle


@pytest.mark.parametrize("module", ["swd_dynamics", "swd_dynamics.cli", "swd_dynamics.__main__"])
@pytest.mark.slow
def test_import_is_light(module):
    """Assert that importing the package or its command line imports none of the heavy libraries."""
    heavy = {"torch", "sympy", "matplotlib", "scipy", "numpy", "xarray", "sklearn"}
    loaded = run(f"import {module}, sys; print(*sys.modules)").split()
    assert heavy.isdisjoint(loaded)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["show RUN", "plot RUN --quantity loss", "export RUN --to RUN.csv"])
def test_recordings_are_read_without_torch(command, tmp_path):
    """Assert that a recording is shown, plotted and exported in a process that does not import torch."""
    folder = tmp_path / "run"
    with RunFolder.create(folder, {"loss": (("step",), "float64", "training loss")}, {}) as recording:
        recording.append({"step": np.array([1, 2]), "loss": np.array([2.0, 1.0])})
    arguments = [word.replace("RUN", str(folder)) for word in command.split()]
    said = run(f"import sys; from swd_dynamics.__main__ import main; print(main({arguments}), 'torch' in sys.modules)")
    assert said.splitlines()[-1] == "0 False"


def test_every_public_name_is_there():
    """Assert that every name the package announces can be had, and shows in dir()."""
    assert [name for name in swd_dynamics.__all__ if getattr(swd_dynamics, name, None) is None] == []
    assert set(swd_dynamics.__all__) <= set(dir(swd_dynamics))


def public_functions_and_classes():
    """Of every public folder; its tables and constants are not callable."""
    for folder in swd_dynamics.__all__:
        module = getattr(swd_dynamics, folder)
        for name in getattr(module, "__all__", ()):
            if callable(found := getattr(module, name)):
                yield f"{folder}.{name}", found


def has_an_example(found) -> bool:
    examples = (found.__doc__ or "").partition("Examples\n")[2]
    return bool(doctest.DocTestParser().get_examples(examples))


def test_every_public_name_has_an_example():
    """Assert that every public function and class has an example in its docstring."""
    found = dict(public_functions_and_classes())
    assert len(found) > 100
    assert [name for name, each in found.items() if not has_an_example(each)] == []


def test_an_unknown_public_name_lists_the_known():
    """Assert that a wrong name is an AttributeError that says which names there are."""
    with pytest.raises(AttributeError, match="CATALOG"):
        _ = swd_dynamics.CATALOGUE


def test_every_real_optimizer_has_its_rule():
    """Assert that what can be recorded by name can be replayed by name."""
    assert set(OPTIMIZERS) <= set(CATALOG)


def test_every_decay_mode_has_its_style():
    """Assert that each decay mode, and nothing else, has a colour, a marker and a label."""
    assert set(style.COLOURS) == set(style.MARKERS) == set(style.LABELS) == set(DECAYS)


def test_every_figure_has_its_study():
    """Assert that figures/ holds a PNG and an SVG of every study, and of nothing else."""
    drawn = {path.name for path in (ROOT / "figures").glob("*.[ps][nv]g")}
    assert drawn == {f"{name}.{kind}" for name in studies.MODULES for kind in ("png", "svg")}


def test_the_committed_ledger_covers_every_study():
    """Assert that the committed ledger has verdicts of every study, and a negative control in each."""
    ledger = json.loads((ROOT / "figures" / "verdicts.json").read_text(encoding="utf-8"))["studies"]
    assert set(ledger) == set(studies.MODULES)
    for name, verdicts in ledger.items():
        assert len({v["name"] for v in verdicts}) == len(verdicts), f"{name}: two verdicts of one name"
        assert any(v["predicted"] == "must fail" and v["status"] == "confirmed" for v in verdicts), (
            f"{name}: no control"
        )


def test_files_stay_small():
    """Assert that no file passes 400 lines, and that every one says what it is for."""
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PYTHON_FILES}
    assert len(texts) > 200
    assert [name for name, text in texts.items() if len(text.splitlines()) > 400] == []
    assert [name for name, text in texts.items() if not text.startswith('"""')] == []


@pytest.mark.slow
def test_one_name_one_thing():
    """Assert that no public function or class has the name of another one; commands are named like what they call."""
    homes = Counter(
        node.name
        for path in PYTHON_FILES
        if path.parent.name != "cli"
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    )
    assert {name for name, count in homes.items() if count > 1} <= SHARED_NAMES


def lines_of_code(path: Path) -> int:
    """The lines on which code begins; a docstring counts as one line, a comment or an empty line as none."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return len({node.lineno for node in nodes if isinstance(node, ast.stmt | ast.expr)})


@pytest.mark.slow
def test_no_room_is_too_large():
    """Assert that no room but that of the studies holds more than a fifth of the package's lines of code."""
    sizes = Counter()
    for path in PYTHON_FILES:
        room, *rest = path.relative_to(PACKAGE).parts
        sizes[room if rest else "ground"] += lines_of_code(path)
    shares = {room: size / sizes.total() for room, size in sizes.items()}
    assert {room for room, share in shares.items() if share > LARGEST_ROOM} <= {GROWING}


def test_everything_needed_is_declared():
    """Assert that the constraints pin every dependency that pyproject.toml names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    named = [*project["dependencies"], *extras["test"], *extras["notebook"], *extras["docs"]]
    pinned = {line.split("==")[0].lower() for line in (ROOT / "tests" / "constraints.txt").read_text().splitlines()}
    assert {name.split(">=")[0].lower() for name in named if not name.startswith("swd-dynamics[")} <= pinned

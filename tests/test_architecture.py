"""The house: floors, light imports, and every figure with its study."""

import doctest
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import swd_dynamics
from swd_dynamics import studies
from swd_dynamics.optim import OPTIMIZERS
from swd_dynamics.rules import CATALOG

ROOT = Path(__file__).parents[1]
PYTHON_FILES = sorted((ROOT / "swd_dynamics").rglob("*.py"))


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout


def test_floors():
    """Assert that every import contract of pyproject.toml holds: imports go only downwards."""
    from importlinter.api import read_configuration
    from importlinter.application.use_cases import lint_imports
    from importlinter.configuration import configure

    configure()
    assert len(read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"]) >= 6
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=None)


@pytest.mark.parametrize("module", ["swd_dynamics", "swd_dynamics.cli", "swd_dynamics.__main__"])
def test_import_is_light(module):
    """Assert that importing the package or its command line imports none of the heavy libraries."""
    heavy = {"torch", "sympy", "matplotlib", "scipy", "numpy", "xarray", "sklearn"}
    loaded = run(f"import {module}, sys; print(*sys.modules)").split()
    assert heavy.isdisjoint(loaded)


@pytest.mark.parametrize("name", swd_dynamics.__all__)
def test_every_public_name_is_there(name):
    """Assert that every name the package announces can be had, and shows in dir()."""
    assert getattr(swd_dynamics, name) is not None
    assert name in dir(swd_dynamics)


def public_functions_and_classes():
    """Of every public folder; its tables and constants are not callable."""
    for folder in swd_dynamics.__all__:
        module = getattr(swd_dynamics, folder)
        for name in getattr(module, "__all__", ()):
            if callable(found := getattr(module, name)):
                yield pytest.param(found, id=f"{folder}.{name}")


@pytest.mark.parametrize("found", list(public_functions_and_classes()))
def test_every_public_name_has_an_example(found):
    """Assert that every public function and class has an example in its docstring."""
    examples = (found.__doc__ or "").partition("Examples\n")[2]
    assert doctest.DocTestParser().get_examples(examples), f"{found.__qualname__}: its docstring has no example"


def test_an_unknown_public_name_lists_the_known():
    """Assert that a wrong name is an AttributeError that says which names there are."""
    with pytest.raises(AttributeError, match="CATALOG"):
        _ = swd_dynamics.CATALOGUE


def test_every_real_optimizer_has_its_rule():
    """Assert that what can be recorded by name can be replayed by name."""
    assert set(OPTIMIZERS) <= set(CATALOG)


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
        assert any(v["predicted"] == "refuted" and v["status"] == "confirmed" for v in verdicts), f"{name}: no control"


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_stay_small(path):
    """Assert that no file passes 400 lines, and that every one says what it is for."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    assert text.startswith('"""')


def test_everything_needed_is_declared():
    """Assert that the constraints pin every dependency that pyproject.toml names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    named = [*project["dependencies"], *extras["test"], *extras["notebook"]]
    pinned = {line.split("==")[0].lower() for line in (ROOT / ".ci" / "constraints.txt").read_text().splitlines()}
    assert {name.split(">=")[0].lower() for name in named if not name.startswith("swd-dynamics[")} <= pinned

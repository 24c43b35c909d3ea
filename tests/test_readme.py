"""README promises only what runs: its examples are executed and their output compared."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from swd_dynamics.cli import app

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n+```text\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = re.findall(r"^(swd-dynamics (?!reproduce)[^#\n]*)", README, flags=re.MULTILINE)


@pytest.mark.parametrize(("code", "output"), EXAMPLES)
def test_examples_print_what_they_say(code, output, tmp_path, monkeypatch):
    """Assert that an example of README prints the output shown beneath it."""
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue().strip() == output.strip()


def test_there_are_examples():
    """Assert that README shows at least three examples with their output, and commands."""
    assert len(EXAMPLES) >= 3
    assert len(COMMANDS) >= 4


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command):
    """Assert that every command line of README is one that the program takes."""
    app.parse_args(shlex.split(command)[1:], exit_on_error=False, print_error=False)


def test_links_lead_somewhere():
    """Assert that every relative link of README leads to a file or folder."""
    root = Path(__file__).parents[1]
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", prose):
        assert (root / target).exists(), target

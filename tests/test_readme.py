"""README promises only what runs: its examples are executed and their output compared."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from swd_dynamics.__main__ import main

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n+```text\n(.*?)```", README, flags=re.DOTALL)
SESSIONS = re.findall(r"```bash\n(swd-dynamics.*?)```\n+(?:```\n(.*?)```)?", README, flags=re.DOTALL)


@pytest.mark.parametrize(("code", "output"), EXAMPLES)
def test_examples_print_what_they_say(code, output, tmp_path, monkeypatch):
    """Assert that an example of README prints the output shown beneath it."""
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue().strip() == output.strip()


def test_there_are_examples():
    """Assert that README shows at least three examples with their output, and two blocks of commands."""
    assert len(EXAMPLES) >= 3
    assert len(SESSIONS) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("commands", "output"), SESSIONS, ids=["audit", "record"])
def test_commands_do_what_they_say(commands, output, tmp_path, monkeypatch, capsys):
    """Assert that the command lines of a block run one after another, and print what is shown beneath them."""
    monkeypatch.chdir(tmp_path)
    refuted = ("replay run --as AdamW",)  # the run was AdamS's
    for line in commands.strip().splitlines():
        command = line.partition("#")[0].strip()
        said = main(shlex.split(command)[1:])
        assert said == int(command.endswith(refuted)), (command, capsys.readouterr().err)
    assert output.strip() in capsys.readouterr().out


def test_links_lead_somewhere():
    """Assert that every relative link of README leads to a file or folder."""
    root = Path(__file__).parents[1]
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", prose):
        assert (root / target).exists(), target

"""README promises only what runs: its blocks are run in order in one folder, and their output is compared."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
from matplotlib.testing.compare import compare_images

from swd_dynamics.__main__ import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|bash)\n(.*?)```\n+(?:```(?:text)?\n(.*?)```)?", README, flags=re.DOTALL)
LEFT_OUT = re.compile(r"^…\n", flags=re.MULTILINE)  # in an output that is shown: any number of lines
REFUTED = ("replay run --as AdamW",)  # commands that exit with 1; the run was that of AdamS
BYTES_OF_A_PICTURE = 10  # allowed root mean square of the difference, of 255: fonts are hinted in several ways


def _is_to_run(block: tuple[str, str, str]) -> bool:
    """Whether the tests run a block; they do not install packages or reproduce the studies again."""
    language, code, _ = block
    return language == "python" or code.startswith("swd-dynamics")


def _printed_by(language: str, code: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if language == "python":
            exec(compile(code, "README.md", "exec"), {})
            return printed.getvalue()
        for line in code.strip().splitlines():
            command = line.partition("#")[0].strip()
            said = main(shlex.split(command)[1:])
            assert said == int(command.endswith(REFUTED)), command
    return printed.getvalue()


def _files(folder: Path) -> dict[Path, int]:
    """The files in a folder, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def _runs_as_shown(language: str, code: str, output: str) -> None:
    printed = _printed_by(language, code)
    if language == "python" or output:  # blocks of several commands show none
        assert is_shown(printed, output), printed


def is_shown(printed: str, shown: str) -> bool:
    """Whether an output is what was printed, to the last letter, except for lines that … says are left out.

    Spaces at the end of a line, which pandas prints, do not count.
    """
    printed, shown = (re.sub(" +\n", "\n", text) for text in (printed, shown))
    pieces = map(re.escape, LEFT_OUT.split(shown))
    return re.fullmatch("(?:.*\n)+".join(pieces), printed) is not None


@pytest.mark.parametrize(
    ("shown", "same"),
    [("a\nb\nc\n", True), ("a\n…\n", True), ("a\n…\nc\n", True), ("a\n", False), ("a\n…\nb\n", False), ("", False)],
)
def test_lines_are_left_out_only_where_it_is_said(shown, same):
    """Assert that an output without … must be whole, and that one with … begins and ends as it is shown."""
    assert is_shown("a\nb\nc\n", shown) == same


@pytest.mark.slow
def test_blocks_run_in_order_and_again(tmp_path, monkeypatch):
    """Assert that all blocks run in one folder and print what README shows, and again those that write into it."""
    monkeypatch.chdir(tmp_path)
    writing = []
    for block in filter(_is_to_run, BLOCKS):
        before = _files(tmp_path)
        _runs_as_shown(*block)
        writing += [block] * (_files(tmp_path) != before)
    assert writing
    for block in writing:  # the others find nothing of their own in the folder
        _runs_as_shown(*block)
    drawn, shown = tmp_path / "flow.png", ROOT / "figures" / "readme" / "flow.png"
    assert compare_images(str(shown), str(drawn), tol=BYTES_OF_A_PICTURE) is None


def test_there_are_examples():
    """Assert that README shows at least five programs with their output, and three blocks of commands."""
    languages = [(language, bool(output)) for language, _, output in filter(_is_to_run, BLOCKS)]
    assert languages.count(("python", True)) >= 5
    assert len([language for language, _ in languages if language == "bash"]) == 3


def test_links_lead_somewhere():
    """Assert that every relative link of README leads to a file or folder."""
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", prose):
        assert (ROOT / target).exists(), target

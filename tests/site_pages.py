"""The short pages of the documentation site: their blocks are executed, and the outputs written beneath them.

``python tests/site_pages.py`` executes all pages and writes their outputs; ``… derive`` only that page.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from swd_dynamics.__main__ import main as command_line

SITE = Path(__file__).parents[1] / "notebooks" / "site"
PAGES = [
    SITE / f"{name}.md" for name in ("derive", "derivable", "noise", "edge", "record", "check", "precision", "train")
]
# A block of code, and the output beneath it where something is printed.
BLOCK = re.compile(r"```(python|bash)\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", flags=re.DOTALL)
PICTURES = SITE.parents[1] / "figures" / "site"  # those that the blocks of a page draw
PICTURE = re.compile(r"\]\(/figures/site/([^)]*)\)")


def executed(page: str, pictures: Path | None = None) -> str:
    """The text of a page with what its blocks print: they run in order, in one namespace and one empty folder.

    The pictures that the page shows, and that its blocks have drawn there, are copied to the folder ``pictures``.
    """
    names: dict[str, Any] = {"__name__": "page"}

    def block(match: re.Match) -> str:
        language, code, shown = match.groups()
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            run_block(language, code, names)
        output = "" if shown is None else f"\n```text\n{printed.getvalue()}```\n"
        return f"```{language}\n{code}```\n{output}"

    with TemporaryDirectory() as folder, contextlib.chdir(folder):
        text = BLOCK.sub(block, page)
        for name in PICTURE.findall(page) if pictures else ():
            shutil.copy(name, pictures / name)
    return text


def run_block(language: str, code: str, names: dict[str, Any]) -> None:
    """Run Python in the namespace, or lines of the command line, each of which must succeed."""
    if language == "python":
        exec(compile(code, "page", "exec"), names)
        return
    for line in code.splitlines():
        program, *arguments = shlex.split(line)
        assert program == "swd-dynamics", line
        assert command_line(arguments) == 0, line


def main(chosen: Sequence[str]) -> None:
    for page in PAGES:
        if not chosen or page.stem in chosen:
            page.write_text(executed(page.read_text(encoding="utf-8"), PICTURES), encoding="utf-8")
            print(f"wrote {page}", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(sys.argv[1:])

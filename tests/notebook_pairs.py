"""The notebooks, each a pair: a percent script, which people edit, and the executed notebook, which people read.

``python tests/notebook_pairs.py`` executes all scripts and writes the notebooks; ``… 01 03`` only those.

The libraries of notebooks are imported where they are used: that takes longer than most tests, and every process that
shares the tests imports this file.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbformat import NotebookNode

FOLDER = Path(__file__).parents[1] / "notebooks"
SCRIPTS = sorted(FOLDER.glob("[0-9]*.py"))
WIDGET = "application/vnd.jupyter.widget-view+json"
KERNEL = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
PATIENCE = 300  # seconds for a cell on a busy machine
WORDS_A_MINUTE = 180  # of a text with formulas; a novel is read at 250
SECONDS_A_LINE = 20  # of code that has to be understood
FOLDED = re.compile(r"<details>.*?</details>", flags=re.DOTALL)
SOLUTION = re.compile(r"<details>.*?```python\n(.*?)```.*?</details>", flags=re.DOTALL)


def executed(script: Path, more: Sequence[str] = ()) -> NotebookNode:
    """The notebook of a script with the outputs of its cells, and of ``more`` cells after them."""
    import jupytext
    import nbformat
    from nbclient import NotebookClient

    notebook = jupytext.read(script)
    notebook.cells += [nbformat.v4.new_code_cell(source) for source in more]
    with TemporaryDirectory() as folder:  # whatever a notebook writes goes there
        resources = {"metadata": {"path": folder}}
        client = NotebookClient(notebook, timeout=PATIENCE, kernel_name="python3", resources=resources)
        client.record_timing = False
        client.execute()
    return tidied(notebook, script.stem)


def tidied(notebook: NotebookNode, name: str) -> NotebookNode:
    """The same without what changes from run to run, and with pictures in the place of live widgets."""
    import nbformat

    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{name}-{number}"
        if cell.cell_type == "code":
            cell.outputs = _joined([_still(output) for output in cell.outputs if not _only_live(output)])
    return notebook


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """With what was printed between two displays in one piece: into how many it comes depends on the clock."""
    joined: list[NotebookNode] = []
    for output in outputs:
        if joined and output.output_type == "stream" and output.get("name") == joined[-1].get("name"):
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _only_live(output: NotebookNode) -> bool:
    """Whether it is a widget without a picture: a progress bar."""
    return WIDGET in output.get("data", {}) and "image/png" not in output.data


def _still(output: NotebookNode) -> NotebookNode:
    if WIDGET in output.get("data", {}):
        output.data = {kind: value for kind, value in output.data.items() if kind in ("image/png", "text/plain")}
    return output


def solutions(notebook: NotebookNode) -> list[str]:
    """The code of the folded solutions, in their order."""
    return [code for cell in notebook.cells if cell.cell_type == "markdown" for code in SOLUTION.findall(cell.source)]


def minutes(notebook: NotebookNode) -> int:
    """How long a reader takes for the text and the code, without imports, folded cells and the exercises' solutions."""
    prose = [FOLDED.sub("", cell.source) for cell in notebook.cells if cell.cell_type == "markdown"]
    shown = [cell.source for cell in notebook.cells if cell.cell_type == "code" and not is_folded(cell)]
    lines = [line for source in shown for line in source.splitlines() if _is_read(line)]
    return ceil(len(" ".join(prose).split()) / WORDS_A_MINUTE + len(lines) * SECONDS_A_LINE / 60)


def is_folded(cell: NotebookNode) -> bool:
    """Whether Jupyter shows only the outputs of a cell: the drawing code."""
    return bool(cell.metadata.get("jupyter", {}).get("source_hidden"))


def _is_read(line: str) -> bool:
    """Whether a line is more than an import, a comment or a bracket."""
    return any(map(str.isalpha, line)) and not re.match(r"\s*(#|import |from )", line)


def main(chosen: Sequence[str]) -> None:
    import nbformat

    for script in SCRIPTS:
        if not chosen or script.stem[:2] in chosen:
            written = script.with_suffix(".ipynb")
            notebook = executed(script)
            nbformat.write(notebook, written)
            print(f"wrote {written}, {written.stat().st_size // 1000} kB, {minutes(notebook)} minutes", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

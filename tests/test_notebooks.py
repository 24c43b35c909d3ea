"""Every notebook runs, its solutions too, and what is committed is what it gives."""

import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from notebook_pairs import FOLDER, SCRIPTS, executed, is_folded, minutes, solutions

NAMES = ["01_three_decays", "02_derive_it_yourself", "03_flow_and_iterates", "04_record_your_training",
         "05_is_my_optimizer_right", "06_your_own_optimizer", "07_when_training_blows_up",
         "08_from_adamw_to_adams", "09_what_kind_of_decay",
         "10_lr_and_decay", "11_edge_of_stability"]  # fmt: skip
LONGEST = 15  # minutes of a notebook: with twice as many, it is put off
LARGEST = 1_500_000  # bytes of an executed notebook: what a page loads without a wait
TAG = re.compile(r"<[^>]*>")  # with the pictures in them
NUMBER = re.compile(r"[-−+]?\d[\d.]*(e[-+]?\d+)?")  # its last digits differ between processors

notebooks = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)


def committed(script):
    import nbformat  # takes longer than most tests here

    return nbformat.read(script.with_suffix(".ipynb"), as_version=4)


def form(cell) -> tuple:
    """What a cell is and gives: its source, tags and fold, and the kinds and words of each output, without numbers."""
    tags = tuple(cell.metadata.get("tags", ()))
    return cell.cell_type, cell.source, tags, is_folded(cell), tuple(map(_form, cell.get("outputs", ())))


def _form(output) -> tuple:
    data = output.get("data", {})
    words = [output.get(key, "") for key in ("name", "ename", "text")] + output.get("traceback", [])
    words += [TAG.sub(" ", data.get(kind, "")) for kind in ("text/plain", "text/markdown", "text/latex", "text/html")]
    return output.output_type, tuple(sorted(data)), " ".join(NUMBER.sub("#", " ".join(words)).split())


def test_all_are_there():
    """Assert that the eleven notebooks are there, each as a script and as an executed notebook."""
    assert [script.stem for script in SCRIPTS] == NAMES
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", [pytest.param(script, id=script.stem, marks=pytest.mark.xdist_group(script.stem)) for script in SCRIPTS]
)
def test_it_runs_and_is_committed_as_it_runs(script):
    """Assert that all cells and all solutions run, and that the committed notebook has these cells and outputs."""
    expected = committed(script)
    solved = solutions(expected)
    fresh = executed(script, solved)
    assert [form(cell) for cell in fresh.cells[: -len(solved)]] == [form(cell) for cell in expected.cells]
    for cell in fresh.cells:
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr", output.text
            assert output.output_type != "error" or "raises-exception" in cell.metadata.get("tags", [])


@notebooks
@pytest.mark.slow
def test_it_reads_well_without_a_kernel(script):
    """Assert that it opens with its question, shows a figure or two and the sliders' picture, and has no live part."""
    cells = committed(script).cells
    assert cells[0].source.startswith("# ") and "?" in cells[0].source
    kinds = [kind for cell in cells for output in cell.get("outputs", []) for kind in output.get("data", {})]
    assert 1 <= kinds.count("image/png") <= 4
    assert not any("widget" in kind for kind in kinds)
    assert script.with_suffix(".ipynb").stat().st_size < LARGEST


def test_minutes_are_those_of_what_is_read():
    """Assert that 180 words or 3 lines of code take a minute, and that solutions, imports and folds take no time."""
    import nbformat

    text = "word " * 180 + "<details>" + "word " * 1800 + "</details>"
    shown = nbformat.v4.new_code_cell("import numpy as np\n\n# why\na = [\n    1,\n]\nb = a\nc = b")
    folded = nbformat.v4.new_code_cell("a = 1\n" * 100, metadata={"jupyter": {"source_hidden": True}})
    read = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text), shown, folded])
    assert minutes(read) == 2


@notebooks
def test_its_time_is_true_and_short(script):
    """Assert that the first cell and the README's table give the minutes that are counted, at most 15."""
    notebook = committed(script)
    counted = minutes(notebook)
    (row,) = (line for line in (FOLDER / "README.md").read_text().splitlines() if f"({script.stem}.ipynb)" in line)
    assert f" {counted} minutes" in notebook.cells[0].source
    assert row.endswith(f"| {counted} |")
    assert counted <= LONGEST


@notebooks
def test_it_asks_before_it_answers(script):
    """Assert that each question for a prediction is followed by a cell in which the reader writes an answer."""
    cells = committed(script).cells
    asked = [i for i, cell in enumerate(cells) if "**Predict.**" in cell.source]
    assert asked
    assert all(cells[i + 1].source.startswith("guess = None  # ") for i in asked)


@notebooks
def test_its_formulas_are_the_packages(script):
    """Assert that no formula is typed by hand: only outputs hold LaTeX."""
    assert not [cell.source for cell in committed(script).cells if cell.cell_type == "markdown" and "$" in cell.source]


@notebooks
def test_it_ends_with_three_exercises(script):
    """Assert that three exercises with folded solutions stand at the end, each with code that is run."""
    assert len(solutions(committed(script))) == 3
    assert committed(script).cells[-1].source.count("<details>") >= 1


@pytest.fixture
def changed(monkeypatch):
    """Run a notebook's script with a setting changed; gives its names and the titles of its figures."""

    def run(name, old, new):
        (script,) = (script for script in SCRIPTS if script.stem.startswith(name))
        source = script.read_text()
        assert source.count(old) == 1  # the setting is named in one place
        titles: list[str] = []
        monkeypatch.setattr(Figure, "suptitle", lambda self, text, **_: titles.append(text))
        names: dict = {"__name__": script.stem}
        exec(compile(source.replace(old, new), script.name, "exec"), names)
        return names, titles

    return run


@pytest.mark.parametrize(
    ("momentum", "nesterov"),
    [pytest.param(0.5, False, marks=pytest.mark.slow), pytest.param(0.95, False, marks=pytest.mark.slow), (0.9, True)],
)
@pytest.mark.slow
def test_the_limits_of_another_momentum_are_in_the_titles(changed, momentum, nesterov):
    """Assert that the titles of 07 follow the momentum: Jury's limits by hand, at η = 0.1 and R = 1."""
    _, titles = changed("07", '"momentum": 0.9}', f'"momentum": {momentum}, "nesterov": {nesterov}}}')
    times_as_large = 1 + 2 * momentum if nesterov else 1  # at z = −1 a step is this times as large
    no_decay = 2 * (1 + momentum) / 0.1 / times_as_large
    l2 = no_decay - (1 - momentum) / 0.1  # λ less
    limits = [float(number) for number in re.findall(r"[\d.]+", titles[0].replace("L2", ""))]
    assert limits == pytest.approx([no_decay, l2, no_decay / 2], rel=0.01)
    (times,) = re.findall(r"costs ([\d.]+) times", titles[1])
    assert float(times) == pytest.approx((1 + momentum) / (1 - momentum) / times_as_large, rel=0.01)


@pytest.mark.slow
def test_the_rate_of_nesterovs_momentum_is_its_own(changed):
    """Assert that the lines in the first figure of 01 follow Nesterov's momentum: the eigenvalues of a step by hand."""
    names, _ = changed("01", '0.9, "weight_decay": 0.01}\nnames', '0.9, "weight_decay": 0.01, "nesterov": True}\nnames')
    lr, beta, lam = 0.1, 0.9, 0.01
    step = [[1 - lr * lam * (1 + beta), -lr * beta**2], [lam, beta]]  # of θ and m
    slowest = np.abs(np.linalg.eigvals(step)).max()
    assert abs(1 - names["rates"]["L2"](lr + 0j, beta, lam)) == pytest.approx(slowest, rel=1e-12)


@pytest.mark.parametrize("weight_decay", [0.002, 0.1])
@pytest.mark.slow
def test_the_line_of_another_weight_decay_is_at_it(changed, weight_decay):
    """Assert that the line at λ in the second figure of 01 follows λ."""
    names, _ = changed("01", '(0.9, 0.95), "weight_decay": 0.01', f'(0.9, 0.95), "weight_decay": {weight_decay}')
    figure = Figure()
    names["draw_ratio_and_lambda"](figure, fall=10, smaller=10)
    assert np.all(np.array(figure.axes[0].lines[-1].get_ydata()) == weight_decay)


@pytest.mark.slow
def test_the_factor_of_another_weight_decay_is_printed(changed, capsys):
    """Assert that 08 prints how many times smaller λ of AdamS is: the mean of R against that of η_eff."""
    names, _ = changed("08", "lam = 0.3", "lam = 0.05")
    run = names["adamw"]
    (printed,) = re.findall(r"(\d+) times smaller", capsys.readouterr().out)
    lr = np.where(run.step.values <= 750, 3e-3, 3e-4)
    factor = (lr / np.sqrt(run.v_bar.values)).sum() / lr.sum()  # R is ηλ of AdamW, and λη/√v̄ of AdamS
    assert float(printed) == pytest.approx(factor, rel=0.02)

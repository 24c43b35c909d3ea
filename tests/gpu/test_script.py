"""The script for a machine with a GPU, rehearsed on the CPU in miniature."""

import json
import runpy
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch
from gpu import tests as gpu_tests
from gpu.tables import page

from swd_dynamics.studies import transformer
from swd_dynamics.studies.reference_runs import ReferenceRun, read

ROOT = Path(__file__).parents[2]


def script(*arguments):
    """Run the script in the root of the repository."""
    command = [sys.executable, str(ROOT / ".ci" / "gpu"), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


# The script starts one stage that runs beside others and one that runs alone. Each of the other stages is run in this
# process: a process of its own would import torch and the package once more, which takes longer than most stages.
STARTED, RUN_HERE = ("machine", "optimizers"), ("tests", "recordings", "studies", "transformer", "probe")


def run_here(stage, folder):
    """Run a stage's module as a program, in this process."""
    arguments = [stage, str(folder), "--device", "cpu", "--miniature"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        patch.setattr(transformer, "FULL", transformer.FULL)  # the stage of this name sets it
        try:
            runpy.run_path(str(ROOT / "tests" / "gpu" / f"{stage}.py"), run_name="__main__")
        except SystemExit as ended:
            assert not ended.code


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The folder of results of a rehearsal of all stages."""
    folder, precision = tmp_path_factory.mktemp("results"), torch.get_float32_matmul_precision()
    done = script("--out", folder, "--device", "cpu", "--miniature", "--stages", ",".join(STARTED))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for stage in RUN_HERE:
        run_here(stage, folder)
    torch.set_float32_matmul_precision(precision)
    return folder


def test_no_stage_is_forgotten():
    """Assert that the stages of the rehearsal are all that the script has, and that each has a module."""
    limits = runpy.run_path(str(ROOT / ".ci" / "gpu"))["LIMITS"]
    assert {*STARTED, *RUN_HERE} == set(limits)
    assert all((ROOT / "tests" / "gpu" / f"{stage}.py").exists() for stage in limits)


@pytest.mark.slow
def test_every_stage_leaves_its_file(results):
    """Assert that each stage has written its file, and that they are no more than a machine may send back."""
    names = {"machine.json", "tests.xml", "runs.nc", "optimizers.json", "probe.json", "studies.tar.gz"}
    assert {path.name for path in results.iterdir()} == names | {"transformer.tar.gz"}
    assert all(path.stat().st_size < 16 * 2**20 for path in results.iterdir())


@pytest.mark.slow
def test_the_files_say_what_was_done(results):
    """Assert that recordings, benchmarks and studies can be read, and the tests were found."""
    recording = read(results / "runs.nc", ReferenceRun("AdamW", "network", "bfloat16", "fused").key)
    assert recording.theta.shape == (51, 85) and recording.state_exp_avg.shape == (50, 85)
    steps = json.loads((results / "optimizers.json").read_text())
    assert all(row["finite"] for table in steps["tables"] for row in table["rows"])
    cost = json.loads((results / "probe.json").read_text())
    assert all(run["default"]["ratio"] > 0 for run in cost["runs"])
    with tarfile.open(results / "studies.tar.gz") as tar:
        assert {"README.md", "verdicts.json", "transformer.png"} <= set(tar.getnames())
    assert int(ET.parse(results / "tests.xml").getroot()[0].attrib["tests"]) > 0


def test_every_test_that_needs_a_gpu_is_found():
    """Assert that the stage takes each file with a mark, and no other."""
    names = {Path(file).name for file in gpu_tests.files()}
    assert {"test_kernels.py", "test_optimizers.py", "test_replay.py", "test_run_folder.py", "test_probe.py"} <= names
    assert "test_script.py" not in names


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_gpu_one_sentence_says_so(tmp_path):
    """Assert that nothing runs, and nothing is written, where torch sees no CUDA device."""
    done = script("--out", tmp_path / "results")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "cuda" in done.stderr
    assert not (tmp_path / "results").exists()


def test_the_committed_page_is_that_of_the_committed_numbers():
    """Assert that figures/gpu/benchmarks.md is made from the files beside it."""
    folder = ROOT / "figures" / "gpu"
    assert (folder / "benchmarks.md").read_text() == "\n".join(page(folder)) + "\n"

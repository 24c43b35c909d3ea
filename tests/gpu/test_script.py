"""The script for a machine with a GPU, rehearsed on the CPU in miniature."""

import json
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch
from gpu import tests as gpu_tests
from gpu.tables import page

from swd_dynamics.studies.reference_runs import ReferenceRun, read

ROOT = Path(__file__).parents[2]


def script(*arguments):
    """Run the script in the root of the repository."""
    command = [sys.executable, str(ROOT / ".ci" / "gpu"), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The folder of results of a rehearsal of all stages."""
    folder = tmp_path_factory.mktemp("results")
    done = script("--out", folder, "--device", "cpu", "--miniature")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


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

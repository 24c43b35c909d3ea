"""For all tests: one thread in each process, and in each process that a test starts.

The tasks of the tests are so small that a second thread waits more than it works, and the tests themselves run in
several processes, one for each core.
"""

import gc
import os
import sys

os.environ["OMP_NUM_THREADS"] = "1"  # torch's and numpy's libraries read this when they are imported

import hypothesis
import pytest
import torch
from small_network import Network

# Compiled files are kept, as Python does by default, even where the environment forbids it: to compile the tests anew
# takes each process of pytest ten seconds, and the package each of the many processes that tests start half a second.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# An example may take any time: on a shared machine a slow one says nothing of the code.
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Benchmarks run in one process, since they would slow one another."""
    if config.option.benchmark_only:
        config.option.numprocesses = 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """All tests of a file run in the same process, but those with the mark ``xdist_group`` wherever their group does.

    The parts of a file that take longest are such groups, so that no process waits for the other in the end.
    """
    from xdist.scheduler import LoadGroupScheduling

    class ByGroupOrFile(LoadGroupScheduling):
        def _split_scope(self, nodeid):
            return super()._split_scope(nodeid).partition("::")[0]

    return ByGroupOrFile(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Where several processes share the tests, the long ones are handed out first, and the short ones fill the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish():
    """What all tests have imported stays: to search it for garbage again and again took a tenth of the time or more."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def network():
    """Makes the same network every time it is called."""
    return Network

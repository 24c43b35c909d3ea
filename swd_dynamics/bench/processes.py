"""A pool of processes that can be killed: each does one piece of work after another, within a time limit.

Work that hangs, or takes its process down, costs its own result and nothing else.
"""

import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from math import inf
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any

from swd_dynamics.bench.drive import one_thread
from swd_dynamics.errors import InputError

ENDED = "its process ended without an answer"  # the reason where a process died or was killed from outside


@dataclass(frozen=True)
class Done:
    """What became of one piece of work: its ``result``, or None and the ``reason`` why there is no result.

    ``seconds`` are those of the processor, so that other programs do not count; ``limit`` where that was exceeded.
    """

    work: Any
    result: Any = None
    reason: str = ""
    seconds: float = 0.0


def in_processes(
    function: Callable[[Any], Any],
    works: Sequence[Any],
    *,
    jobs: int,
    limit: float = inf,
    preload: Sequence[str] = (),
    fresh: bool = False,
) -> Iterator[Done]:
    """Call a function on each piece of work in other processes; yield the outcomes as they come.

    A script that calls this needs no ``if __name__ == "__main__":``, because no process runs the script again. So the
    function must be importable from a module other than the script. When the caller stops, running work is killed.

    Parameters
    ----------
    function : callable
        It can be pickled, and so can its argument and its result.
    jobs : int
        Processes at a time.
    limit : float
        Seconds that a piece of work may take. A process whose work takes longer is killed.
    preload : sequence of str
        Modules that are imported once, before the first process, where the system can fork.
    fresh : bool
        Whether each piece of work has a process of its own, so that nothing is left of the work before it.

    Examples
    --------
    >>> from math import sqrt
    >>> [outcome.result for outcome in in_processes(sqrt, [4.0, 9.0], jobs=1)]
    [2.0, 3.0]
    """
    context = _context(preload)
    waiting, idle = list(reversed(works)), []
    running: dict[Connection, tuple[_Worker, Any, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                worker = idle.pop() if idle else _Worker(context, function)
                work = waiting.pop()
                worker.begin(work)
                running[worker.pipe] = (worker, work, time.monotonic() + limit)
            soonest = min(deadline for _, _, deadline in running.values()) - time.monotonic()
            ready = wait(list(running), timeout=None if soonest == inf else max(0.0, soonest))
            now = time.monotonic()
            late = [pipe for pipe, (_, _, deadline) in running.items() if now > deadline]
            for pipe in {*ready, *late}:
                worker, work, _ = running.pop(pipe)
                late_outcome = Done(work, reason=f"took more than {limit:g} s", seconds=limit)
                outcome = worker.outcome(work) if pipe in ready else late_outcome
                if fresh or pipe not in ready or outcome.reason == ENDED:
                    worker.kill()
                else:
                    idle.append(worker)
                yield outcome
    finally:
        for worker in (*idle, *(worker for worker, _, _ in running.values())):
            worker.kill()


class _Worker:
    """A process that calls a function on one piece of work after another."""

    def __init__(self, context: Any, function: Callable):
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        with _empty_main():
            self.process.start()
        theirs.close()

    def begin(self, work: Any) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # of a process that died: its outcome says so
            self.pipe.send(work)

    def outcome(self, work: Any) -> Done:
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionResetError):
            return Done(work, reason=ENDED)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _context(preload: Sequence[str]) -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *preload])
    return context


@contextmanager
def _empty_main() -> Iterator[None]:
    """A ``__main__`` without a file. If it had a file, every process would run the caller's script again.

    The processes need nothing of the script, and a script without a guard would start processes in its turn.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _serve(pipe: Connection, function: Callable) -> None:
    """In the process: send what the function returns or raises, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes, and the caller kills this one
    one_thread()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the caller has ended
        while True:
            pipe.send(_called(function, pipe.recv()))


def _called(function: Callable, work: Any) -> Done:
    begun = time.process_time()
    try:
        done = Done(work, function(work))
    except (Exception, SystemExit) as error:  # an error of foreign code is a result
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        done = Done(work, reason=f"{kind}{' '.join(str(error).split())}")
    return replace(done, seconds=time.process_time() - begun)

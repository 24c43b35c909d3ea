"""A pool of processes that can be killed: one process for each piece of work, ended when its time is over.

Work that hangs, or takes its process down, costs its own result and nothing else.
"""

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any

from swd_dynamics.bench.drive import one_thread
from swd_dynamics.errors import InputError


@dataclass(frozen=True)
class Done:
    """What became of one piece of work: its ``result``, or None and the ``reason`` why there is no result."""

    work: Any
    result: Any = None
    reason: str = ""


def in_processes(
    function: Callable[[Any], Any],
    works: Sequence[Any],
    *,
    jobs: int,
    limit: float,
    preload: Sequence[str] = (),
) -> Iterator[Done]:
    """Call a function on each piece of work, each call in a process of its own; yield the outcomes as they come.

    A script that calls this needs no ``if __name__ == "__main__":``, because no process runs the script again. So the
    function must be importable from a module other than the script. When the caller stops, running work is killed.

    Parameters
    ----------
    function : callable
        Importable by name; its argument and its result can be pickled.
    jobs : int
        Processes at a time.
    limit : float
        Seconds that a piece of work may take.
    preload : sequence of str
        Modules that are imported once, before the first process, where the system can fork.

    Examples
    --------
    >>> from math import sqrt
    >>> [outcome.result for outcome in in_processes(sqrt, [4.0, 9.0], jobs=1, limit=60.0)]
    [2.0, 3.0]
    """
    context = _context(preload)
    waiting, running = list(reversed(works)), {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                pipe, process = _started(context, function, waiting[-1])
                running[pipe] = (waiting.pop(), process, time.monotonic() + limit)
            soonest = min(deadline for _, _, deadline in running.values())
            ready = wait(list(running), timeout=max(0.0, soonest - time.monotonic()))
            now = time.monotonic()
            late = [pipe for pipe, (_, _, deadline) in running.items() if now > deadline]
            for pipe in {*ready, *late}:
                work, process, _ = running.pop(pipe)
                timed_out = Done(work, reason=f"took more than {limit:g} s")
                outcome = _received(pipe, work) if pipe in ready else timed_out
                _kill(process)
                yield outcome
    finally:
        for _, process, _ in running.values():
            _kill(process)


def _context(preload: Sequence[str]) -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *preload])
    return context


def _started(context: Any, function: Callable, work: Any) -> tuple[Connection, Any]:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(theirs, function, work), daemon=True)
    with _empty_main():
        process.start()
    theirs.close()
    return ours, process


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


def _call(pipe: Connection, function: Callable, work: Any) -> None:
    """In the process: send what the function returns or raises."""
    one_thread()
    try:
        outcome = Done(work, function(work))
    except (Exception, SystemExit) as error:  # an error of foreign code is a result
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        outcome = Done(work, reason=f"{kind}{' '.join(str(error).split())}")
    pipe.send(outcome)


def _received(pipe: Connection, work: Any) -> Done:
    try:
        return pipe.recv()
    except EOFError:
        return Done(work, reason="its process ended without an answer")


def _kill(process: Any) -> None:
    process.kill()
    process.join()

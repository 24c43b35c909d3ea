"""The cells of a sweep in several processes, each with one torch thread."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cloudpickle

from swd_dynamics.bench.processes import ENDED, in_processes
from swd_dynamics.sweeping.outcome import Outcomes, failed
from swd_dynamics.sweeping.plan import Cell, Plan
from swd_dynamics.sweeping.training import train_cell

TRIES = 3  # of a cell whose process was killed; with one more, a cell that takes all memory stops a sweep for longer


@dataclass(frozen=True)
class SentPlan:
    """A plan on its way to another process, with the functions of a notebook or a script in it.

    It is unpickled only in processes that this process has started.
    """

    content: bytes

    @classmethod
    def of(cls, plan: Plan) -> "SentPlan":
        return cls(cloudpickle.dumps(plan))

    def train(self, number: int) -> Outcomes:
        """Train the cell of the plan that has this number."""
        plan = _received(self.content)
        return train_cell(plan, plan.cells[number])


@lru_cache(maxsize=1)
def _received(content: bytes) -> Plan:
    return cloudpickle.loads(content)


def train_in_processes(plan: Plan, cells: Sequence[Cell], jobs: int | None = None) -> Iterator[Outcomes]:
    """Train cells one by one in so many processes, by default one for each core.

    A cell whose process is killed is trained again.
    """
    train = SentPlan.of(plan).train
    tries: Counter[int] = Counter()
    waiting = [cell.number for cell in cells]
    while waiting:
        again = []
        for done in in_processes(train, waiting, jobs=jobs or os.cpu_count() or 1, preload=[__name__]):
            cell = done.work
            tries[cell] += 1
            if done.result is not None:
                yield done.result
            elif done.reason == ENDED and tries[cell] < TRIES:
                again.append(cell)
            else:
                yield failed(cell, len(plan.evaluated), done.reason)
        waiting = again

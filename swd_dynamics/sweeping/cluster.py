"""The cells of a sweep on a Dask cluster."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from swd_dynamics.bench.drive import one_thread
from swd_dynamics.errors import InputError
from swd_dynamics.sweeping.outcome import Outcomes, failed
from swd_dynamics.sweeping.plan import Cell, Plan
from swd_dynamics.sweeping.workers import SentPlan

TIMEOUT = (
    10  # seconds until a scheduler must answer; slow networks need some, and a wrong address is noticed after them
)


def train_on_cluster(
    plan: Plan, cells: Sequence[Cell], jobs: int | None = None, scheduler: str | None = None
) -> Iterator[Outcomes]:
    """Train cells one by one on the workers of a cluster.

    Dask trains a cell again whose worker dies.

    Parameters
    ----------
    jobs : int, optional
        Workers of the cluster that is started on this machine, by default one for each core.
    scheduler : str, optional
        The address of a cluster that is running, as "tcp://host:8786". Its workers need this package.

    Raises
    ------
    InputError
        If dask.distributed is not installed, or no scheduler answers.
    """
    try:
        import distributed
    except ImportError:
        raise InputError('the engine "dask" needs dask.distributed: pip install "swd-dynamics[cluster]"') from None
    with ExitStack() as closing:
        client = closing.enter_context(_client(distributed, jobs, scheduler, closing))
        train = SentPlan.of(plan)
        futures = {client.submit(_train, train, cell, pure=False): cell for cell in cells}
        for future in distributed.as_completed(futures):
            cell = futures[future]
            if future.status == "finished":
                yield future.result()
            else:
                reason = " ".join(str(future.exception()).split())[:300]
                yield failed(cell.number, len(plan.evaluated), reason)
            future.release()


def _train(plan: SentPlan, cell: Cell) -> Outcomes:
    one_thread()
    return plan.train(cell)


def _client(distributed: Any, jobs: int | None, scheduler: str | None, closing: ExitStack) -> Any:
    if scheduler is None:
        cluster = distributed.LocalCluster(n_workers=jobs, threads_per_worker=1, dashboard_address=None)
        scheduler = closing.enter_context(cluster).scheduler_address
    try:
        return distributed.Client(scheduler, timeout=TIMEOUT)
    except (OSError, ValueError) as error:
        raise InputError(f"scheduler = {scheduler!r}: no Dask scheduler answers there ({error})") from None

"""The cells of a sweep on a Dask cluster."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from swd_dynamics.bench.drive import one_thread
from swd_dynamics.errors import InputError
from swd_dynamics.sweeping.outcome import Outcomes, failed
from swd_dynamics.sweeping.plan import Cell, Plan
from swd_dynamics.sweeping.workers import SentPlan

# Seconds within which a scheduler must answer. A slow network needs some, and a wrong address is noticed after them.
TIMEOUT = 10


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
        sent = client.submit(SentPlan, SentPlan.of(plan).content, pure=False)  # once, and not with every cell
        futures = {client.submit(_train, sent, cell.number, pure=False): cell for cell in cells}
        for future in distributed.as_completed(futures):
            if future.status == "finished":
                yield future.result()
            else:
                yield failed(futures[future].number, len(plan.evaluated), _reason(distributed, future))
            future.release()


def _train(plan: SentPlan, number: int) -> Outcomes:
    one_thread()
    return plan.train(number)


def _reason(distributed: Any, future: Any) -> str:
    """Why a cell has no outcome; an error where that is not the cell's fault, since then no cell has one."""
    if future.status != "error":
        raise InputError("the Dask scheduler is gone. A sweep with a path is resumed by the same call")
    error = future.exception()
    said = " ".join(str(error).split())[:300]
    if isinstance(error, distributed.KilledWorker):
        return said
    raise InputError(f"the workers of the Dask cluster cannot train: {type(error).__name__}: {said}") from error


def _client(distributed: Any, jobs: int | None, scheduler: str | None, closing: ExitStack) -> Any:
    if scheduler is None:
        cluster = distributed.LocalCluster(n_workers=jobs, threads_per_worker=1, dashboard_address=None)
        scheduler = closing.enter_context(cluster).scheduler_address
    try:
        return distributed.Client(scheduler, timeout=TIMEOUT)
    except (OSError, ValueError) as error:
        raise InputError(f"scheduler = {scheduler!r}: no Dask scheduler answers there ({error})") from None

"""Tiles of a stored Gram matrix on a Dask cluster: workers compute, this process writes.

Workers need no disk in common. The signals travel once; when every worker that had them has died, they travel again.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from numpy.typing import NDArray

from hilbertnet import __version__
from hilbertnet.kernels.gram import ConvKernel
from hilbertnet.kernels.grid import Grid, Place
from hilbertnet.kernels.jobs import GramJob, compute_tile
from hilbertnet.kernels.runners import Run, Tiles
from hilbertnet.progress import announce

__all__ = ["cluster_runner"]

_TIMEOUT = 5.0  # seconds for a scheduler to answer
_DEATHS = 3  # how often a tile may be lost with its workers
_KEPT = "finished tiles are kept, and the same command goes on from there"


@contextmanager
def cluster_runner(job: GramJob, cluster: Any, workers: int | None) -> Iterator[Run]:
    """Connect to a cluster, or start one here, for as long as the block lasts.

    Parameters
    ----------
    job
        What to compute.
    cluster
        ``"local"``, the address of a scheduler, or a ``distributed.Client``, which is left open.
    workers
        Processes of a local cluster, or ``None`` for one for each core.

    Raises
    ------
    ValueError
        If distributed is not installed, the scheduler does not answer, or workers do not start on this machine.
    """
    distributed = _distributed()
    with ExitStack() as stack:
        if isinstance(cluster, distributed.Client):
            client = cluster
        elif cluster == "local":
            client = stack.enter_context(_local_client(distributed, workers))
        else:
            _check_scheduler(distributed, cluster)
            client = stack.enter_context(distributed.Client(cluster, timeout=_TIMEOUT, set_as_default=False))
        yield lambda grid, places: _Spread(client, job, grid).tiles(places)


def _distributed() -> Any:
    try:
        import distributed
    except ImportError:
        raise ValueError("cluster: dask is needed for one; install hilbertnet[cluster]") from None
    return distributed


@contextmanager
def _local_client(distributed: Any, workers: int | None) -> Iterator[Any]:
    with _local_cluster(distributed, workers) as local, distributed.Client(local, set_as_default=False) as client:
        yield client


def _local_cluster(distributed: Any, workers: int | None) -> Any:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        return distributed.LocalCluster(
            n_workers=workers or cores,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,  # what a worker's death means is said here
            env={"NUMBA_NUM_THREADS": "1"},  # Dask itself sees to OMP and MKL
        )
    except (RuntimeError, OSError, TimeoutError) as error:
        cause: BaseException = error
        while cause.__cause__ or cause.__context__:
            cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
        raise ValueError(f"cluster: workers do not start on this machine ({error}: {cause!r})") from None


def _check_scheduler(distributed: Any, address: Any) -> None:
    """Knock before a client is made: one whose scheduler is not there goes on trying in the background."""
    if not isinstance(address, str):
        raise ValueError(f"cluster: expected 'local', an address or a distributed.Client, got {address!r}")

    async def knock() -> None:
        options = distributed.Security().get_connection_args("client")
        # its own timeout ends when somebody listens, even somebody who never says a word
        found = await asyncio.wait_for(distributed.comm.connect(address, timeout=_TIMEOUT, **options), 2 * _TIMEOUT)
        await found.close()

    try:
        with ThreadPoolExecutor(1) as thread:  # a notebook's own thread has a loop already
            thread.submit(asyncio.run, knock()).result()
    except Exception as error:
        raise ValueError(f"cluster: no Dask scheduler answers at {address!r} ({error or 'no answer'})") from None


class _Spread:
    """Tiles of one job on a client's workers."""

    def __init__(self, client: Any, job: GramJob, grid: Grid) -> None:
        self._client, self._job, self._grid = client, job, grid
        self._signals: tuple[Any, ...] = ()
        self._losses: Counter[Place] = Counter()

    def tiles(self, places: Sequence[Place]) -> Tiles:
        """Tiles as they come; some more than the workers have threads are on their way at any time."""
        from distributed import as_completed

        waiting, finished = deque(places), as_completed(loop=self._client.loop)
        running: dict[Any, Place] = {}
        try:
            while waiting or running:
                for future, place in self._submit_some(waiting, len(running)):
                    running[future] = place
                    finished.add(future)
                place = running.pop(future := next(finished))
                tile = self._result(future, place)
                if tile is None:
                    waiting.appendleft(place)
                else:
                    yield place, tile
        finally:
            with suppress(OSError, CancelledError):
                if self._client.status == "running":
                    self._client.cancel([*running, *self._signals])

    def _submit_some(self, waiting: deque[Place], running: int) -> list[tuple[Any, Place]]:
        """As many more tiles as make two for each thread of the workers that there are now."""
        try:
            room = 2 * max(1, sum(self._client.nthreads().values())) - running
            places = [waiting.popleft() for _ in range(min(len(waiting), room))]
            return [(self._submit(place), place) for place in places]
        except (OSError, CancelledError):
            raise self._gone() from None

    def _gone(self) -> ValueError:
        return ValueError(f"cluster: the scheduler is gone; {_KEPT}")

    def _submit(self, place: Place) -> Any:
        """One tile on its way; the signals go first, and again when all workers that had them have died."""
        if not self._signals or any(signals.status != "finished" for signals in self._signals):
            self._signals = self._send()
        job, grid = self._job, self._grid
        diagonal = grid.symmetric and place.row == place.column
        return self._client.submit(
            _compute,
            __version__,
            (job.kernel, job.kinds, job.dtype, job.budget(grid.side), str(job.x.device)),
            self._signals[0],
            self._signals[-1],
            grid.row_slice(place.row),
            None if diagonal else grid.column_slice(place.column),
            pure=False,
        )

    def _send(self) -> tuple[Any, ...]:
        if not self._client.nthreads():
            announce("the cluster has no workers; waiting for one")
        self._client.wait_for_workers(1)
        arrays = [signals.cpu().numpy() for signals in (self._job.x, self._job.y) if signals is not None]
        return tuple(self._client.scatter(array, broadcast=True, hash=False) for array in arrays)

    def _result(self, future: Any, place: Place) -> dict[str, NDArray[Any]] | None:
        """The tile, or ``None`` if it was lost with the workers that had what it needs."""
        from distributed import KilledWorker

        try:
            found: dict[str, NDArray[Any]] = future.result()
        except CancelledError:
            if self._client.status != "running":
                raise self._gone() from None
            self._losses[place] += 1
            if self._losses[place] > _DEATHS:
                raise self._died(place) from None
            return None
        except KilledWorker:
            raise self._died(place) from None
        return found

    def _died(self, place: Place) -> ValueError:
        return ValueError(
            f"cluster: workers died again and again at tile ({place.row}, {place.column}), perhaps for want of memory: "
            f"choose smaller tiles, a smaller budget or fewer workers; {_KEPT}"
        )


def _compute(
    version: str,
    how: tuple[ConvKernel, tuple[str, ...], torch.dtype, int | None, str],
    x: NDArray[Any],
    y: NDArray[Any],
    rows: slice,
    columns: slice | None,
) -> dict[str, NDArray[Any]]:
    """On a worker: the tile of these rows and columns; without columns, the symmetric one of the rows."""
    if version != __version__:
        raise ValueError(f"cluster: a worker has hilbertnet {__version__}, this process {version}")
    kernel, kinds, dtype, memory, device = how
    # copied: what came through the network cannot be written to, and torch warns of such arrays
    left = torch.from_numpy(x[rows].copy()).to(device)
    right = None if columns is None else torch.from_numpy(y[columns].copy()).to(device)
    return compute_tile(kernel, kinds, left, right, dtype, memory)

"""Who computes the tiles of a stored Gram matrix: this process, its threads, a cluster, or one job of many.

A tile is a function of the architecture, the kind, the dtype and its signals alone, so it does not matter who computes
it, and one that is computed twice is the same. `compute_gram` is the door.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, closing, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from hilbertnet.kernels.disk import check_room
from hilbertnet.kernels.gram import ConvKernel
from hilbertnet.kernels.grid import Grid, Place
from hilbertnet.kernels.jobs import GramJob, StorePlan
from hilbertnet.kernels.store import GramStore
from hilbertnet.progress import LONG, Progress, announce, track
from hilbertnet.signals import is_count

__all__ = ["Run", "Tiles", "compute_gram", "plan_gram", "read_part"]

Tiles = Generator[tuple[Place, dict[str, NDArray[Any]]], None, None]
"""Tiles as they are finished, in any order."""

Run = Callable[[Grid, Sequence[Place]], Tiles]
"""Computes the tiles at these places."""


def compute_gram(
    store: str | os.PathLike[str],
    kernel: ConvKernel,
    X: Any,
    Y: Any = None,
    *,
    kinds: Sequence[str] | None = None,
    dtype: torch.dtype = torch.float64,
    memory: int | float | str | None = None,
    tile: int | None = None,
    workers: int | None = None,
    cluster: Any = None,
    part: str | None = None,
    arrays: Mapping[str, NDArray[Any]] | None = None,
    attributes: Mapping[str, Any] | None = None,
    progress: Progress = None,
) -> GramStore:
    """Compute the tiles of a Gram matrix that a store does not have yet.

    Tiles that are done are compared with their checksums, and the damaged ones computed again. Stopped at any moment,
    the same call goes on from there. Several processes may call it at once, with the same `part` or others.

    Parameters
    ----------
    store
        The folder, such as ``"K.zarr"``; made if it does not exist.
    kernel
        The kernel.
    X, Y
        Signals, n and m of them; without `Y`, the symmetric matrix of `X`, half of which is computed and kept.
    kinds
        ``("ckn",)``, ``("ntk",)`` or ``("ckn", "ntk")``, for the price of the second; default the kind of `kernel`.
    dtype
        Of the computation and the result.
    memory
        Budget for everything but the signals, in bytes or as ``"2GB"``; of each worker process, with a `cluster`.
    tile
        Rows and columns of a tile; default what takes about 10 seconds, or that of the store if it exists.
    workers
        Tiles computed at once: threads of this process (default 1; a tile may use every core by itself), or processes
        of a local cluster (default one for each core).
    cluster
        ``None``, ``"local"`` for worker processes on this machine, the address of a Dask scheduler, or a
        ``distributed.Client``. Workers need this version of the package, but no disk. (A script that asks for
        ``"local"`` needs an ``if __name__ == "__main__"``.)
    part
        ``"3/16"``: only every 16th tile, from the third; for the jobs of a batch queue.
    arrays, attributes
        What a new store keeps beside, such as labels: arrays by name, and JSON.
    progress
        ``None`` (a bar on a terminal), ``True``, ``False`` or a callable of (done, total), in tiles.

    Returns
    -------
    GramStore
        The store; `complete` unless tiles of other parts are missing.

    Raises
    ------
    ValueError
        If an argument is not what is expected, the store is of something else, the disk has no room, or the scheduler
        cannot be reached: the store is then as it was. If the workers of a cluster die again and again: finished tiles
        are kept.
    OSError
        If a tile cannot be written; those before it are kept.
    """
    first, parts = read_part(part)
    threads = _check_workers(workers, cluster)
    job = GramJob.make(kernel, X, Y, kinds=kinds, dtype=dtype, memory=memory, workers=threads)
    path = Path(store)
    found = _existing(path)
    plan = job.plan(tile, found)
    mine = list(islice(plan.grid.places(), first, None, parts))
    if found is not None and not (mine := _unfinished(found, mine, progress)):
        return found
    store_bytes = plan.disk_bytes if found is None else found.bytes_of(len(mine))
    check_room(path, store_bytes, f"the tiles of {path}")
    if plan.seconds * len(mine) > LONG * plan.grid.count:
        announce(str(plan))
    with _runner(job, cluster, workers) as run:  # a cluster that cannot be reached is found out before a store is made
        if found is None:
            identity = job.identity | {"tile": plan.grid.side}
            found = GramStore.create(path, identity, arrays=arrays, attributes=attributes)
            found.check(job.identity if tile is None else identity)  # another process may have been faster
            mine = _unfinished(found, islice(found.grid.places(), first, None, parts), progress)
        with found.writing(), closing(run(found.grid, mine)) as tiles:
            for place, matrices in track(tiles, progress, label="Tiles", total=len(mine)):
                found.write(place, matrices)
    return found


def plan_gram(
    kernel: ConvKernel,
    X: Any,
    Y: Any = None,
    *,
    store: str | os.PathLike[str] | None = None,
    kinds: Sequence[str] | None = None,
    dtype: torch.dtype = torch.float64,
    memory: int | float | str | None = None,
    tile: int | None = None,
) -> StorePlan:
    """What `compute_gram` would cost, and how much of it a store has already; nothing is computed or written.

    Parameters and errors are those of `compute_gram`.
    """
    job = GramJob.make(kernel, X, Y, kinds=kinds, dtype=dtype, memory=memory)
    return job.plan(tile, None if store is None else _existing(Path(store)))


def read_part(text: str | None) -> tuple[int, int]:
    """The first tile and the step from one to the next of a part such as ``"3/16"``; ``None`` is all.

    Raises
    ------
    ValueError
        If `text` is no such part.
    """
    if text is None:
        return 0, 1
    found = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text) if isinstance(text, str) else None
    which, parts = map(int, found.groups()) if found else (0, 0)
    if not 1 <= which <= parts:
        raise ValueError(f"part: expected i/n with i from 1 to n, such as 3/16, got {text!r}")
    return which - 1, parts


def _check_workers(workers: int | None, cluster: Any) -> int:
    """How many tiles this process computes at once."""
    if workers is None:
        return 1
    if not is_count(workers):
        raise ValueError(f"workers: expected a whole number of at least 1, got {workers!r}")
    if cluster is not None and cluster != "local":
        raise ValueError(f"workers: a running cluster has its own, got {workers}")
    return workers if cluster is None else 1


def _existing(path: Path) -> GramStore | None:
    if path.is_dir() and not any(path.iterdir()):
        return None
    return GramStore.open(path) if os.path.lexists(path) else None


def _unfinished(store: GramStore, places: Iterator[Place] | Sequence[Place], progress: Progress) -> list[Place]:
    """Those of `places` whose tiles are missing or damaged."""
    places, done = list(places), store.done()
    bar = False if callable(progress) else progress  # a callable counts the tiles that are computed
    damaged = set(store.damaged(done.intersection(places), progress=bar))
    if damaged:
        announce(f"{store.path}: {len(damaged):,} damaged tiles are computed again")
    return [place for place in places if place not in done or place in damaged]


def _runner(job: GramJob, cluster: Any, workers: int | None) -> AbstractContextManager[Run]:
    if cluster is not None:
        from hilbertnet.kernels.cluster import cluster_runner

        return cluster_runner(job, cluster, workers)
    if workers is None or workers == 1:
        return nullcontext(lambda grid, places: ((place, job.tile(grid, place)) for place in places))
    return nullcontext(lambda grid, places: _threads(job, grid, places, workers))


def _threads(job: GramJob, grid: Grid, places: Sequence[Place], workers: int) -> Tiles:
    """Tiles on threads, no more of them finished or at work than there are threads."""
    pool, waiting = ThreadPoolExecutor(workers), iter(places)
    try:
        running: dict[Future[dict[str, NDArray[Any]]], Place] = {}
        while True:
            for place in islice(waiting, workers - len(running)):
                running[pool.submit(job.tile, grid, place)] = place
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        pool.shutdown(cancel_futures=True)

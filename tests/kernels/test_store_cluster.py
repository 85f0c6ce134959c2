"""Stored Gram matrices computed by the workers of a Dask cluster, some of which are killed."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings

import distributed
import numpy as np
import pytest
import torch

from hilbertnet.kernels import ConvKernel, cluster
from hilbertnet.kernels.runners import compute_gram

KERNEL = ConvKernel("3 exp(0.6) gauss2 | 2 arccos1 -")


def images(n=17, seed=0):
    return np.random.RandomState(seed).rand(n, 1, 6, 6)


def tiles_of(store):
    return {str(file.relative_to(store.path)): file.read_bytes() for file in store.path.glob("*/c/*/*")}


def straight(folder, x, y=None, **options):
    return tiles_of(compute_gram(folder / "straight.zarr", KERNEL, x, y, progress=False, **options))


# --- a scheduler that does not answer


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:{free}", "{silent}", "nonsense", "", "foo://host:1", 8786])
@pytest.mark.parametrize("exists", [False, True])
def test_a_scheduler_that_does_not_answer(address, exists, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_TIMEOUT", 0.3)
    if exists:
        kept = tiles_of(compute_gram(tmp_path / "K.zarr", KERNEL, images(), tile=4, part="1/2", progress=False))
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, but nobody listens
        names = {"free": free.getsockname()[1], "silent": f"tcp://127.0.0.1:{silent.getsockname()[1]}"}
        place = address.format(**names) if isinstance(address, str) else address
        began = time.monotonic()
        with pytest.raises(ValueError, match="^cluster: (no Dask scheduler answers at|expected 'local')"):
            compute_gram(tmp_path / "K.zarr", KERNEL, images(), tile=4, cluster=place, progress=False)
    assert time.monotonic() - began < 5
    if exists:
        store = compute_gram(tmp_path / "K.zarr", KERNEL, images(), part="1/2", progress=False)
        assert tiles_of(store) == kept
    else:
        assert list(tmp_path.iterdir()) == []


def test_without_dask(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(ValueError, match=r"^cluster: dask is needed for one; install hilbertnet\[cluster\]"):
        compute_gram(tmp_path / "K.zarr", KERNEL, images(), cluster="local", progress=False)
    assert list(tmp_path.iterdir()) == []


# --- workers in this process: a scheduler and threads


@pytest.fixture(scope="module")
def client():
    with (
        warnings.catch_warnings(action="ignore"),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None, protocol="tcp", host="127.0.0.1"
        ) as local,
        distributed.Client(local, set_as_default=False) as client,
    ):
        yield client


@pytest.mark.parametrize("y", [None, images(9, seed=1)], ids=["symmetric", "two sets"])
def test_an_address_and_a_client_make_the_same_bytes(y, client, tmp_path):
    expected = straight(tmp_path, images(), y, kinds=("ckn", "ntk"), tile=4)
    for name, where in {"address": client.scheduler.address, "client": client}.items():
        store = compute_gram(
            tmp_path / f"{name}.zarr", KERNEL, images(), y, kinds=("ckn", "ntk"), tile=4, cluster=where, progress=False
        )
        assert tiles_of(store) == expected
    assert client.status == "running"
    assert client.scheduler_info(n_workers=-1)["workers"].keys()


def test_a_cluster_goes_on_where_threads_stopped(client, tmp_path):
    steps = []
    compute_gram(tmp_path / "K.zarr", KERNEL, images(), tile=4, part="1/2", progress=False)
    store = compute_gram(
        tmp_path / "K.zarr", KERNEL, images(), cluster=client, progress=lambda *step: steps.append(step)
    )
    assert steps == [(k, 7) for k in range(1, 8)]
    assert tiles_of(store) == straight(tmp_path, images(), tile=4)


def test_few_tiles_are_on_their_way_at_once(client, tmp_path, monkeypatch):
    submit, seen, done = client.submit, [], []
    monkeypatch.setattr(client, "submit", lambda *a, **k: seen.append(len(done)) or submit(*a, **k))
    compute_gram(tmp_path / "K.zarr", KERNEL, images(), tile=2, cluster=client, progress=lambda k, _: done.append(k))
    assert len(seen) == 45
    assert all(sent - finished <= 4 for sent, finished in enumerate(seen))  # two for each thread


def test_an_error_on_a_worker_is_the_users(client, tmp_path):
    with pytest.raises(ValueError, match="^matrices: .*not finite in float32"):
        compute_gram(
            tmp_path / "K.zarr",
            ConvKernel("1 linear -"),
            np.full((4, 1, 2, 2), 1e25),
            dtype=torch.float32,
            cluster=client,
            progress=False,
        )


def test_a_worker_of_another_version_is_refused(client, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "__version__", "9.9")
    sent = cluster._compute
    assert sent.__globals__["__version__"] == "9.9"
    with pytest.raises(ValueError, match=r"^cluster: a worker has hilbertnet 9.9, this process 1\.0"):
        sent("1.0", None, None, None, None, None)


# --- workers that are processes of this machine


@pytest.fixture(scope="module")
def processes():
    """Skips where worker processes do not start, as in some containers; found out in a process of its own, and here."""
    try:
        subprocess.run([sys.executable, "-c", PROBE], check=True, capture_output=True, text=True, timeout=120)
        with cluster._local_client(distributed, 1) as client:
            assert client.submit(abs, -1).result(60) == 1
    except subprocess.CalledProcessError as error:
        pytest.skip(f"Dask starts no processes here: {(error.stderr.strip() or 'no message').splitlines()[-1]}")
    except (subprocess.TimeoutExpired, TimeoutError, ValueError) as error:
        pytest.skip(f"Dask starts no processes here: {error}")


PROBE = """
from hilbertnet.kernels.cluster import _distributed, _local_client
if __name__ == "__main__":
    with _local_client(_distributed(), 1) as client:
        assert client.submit(abs, -1).result(60) == 1
"""

# slow disks, ports in use and what dies unheard with a worker are Dask's warnings, not this package's
of_processes = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("processes")]


def marked(test):
    for mark in of_processes:
        test = mark(test)
    return test


def test_workers_that_do_not_start(tmp_path, monkeypatch):
    def broken(**_):
        try:
            raise OSError(30, "Read-only file system")
        except OSError as error:
            raise RuntimeError("Nanny failed to start.") from error

    monkeypatch.setattr(distributed, "LocalCluster", broken)
    with pytest.raises(ValueError, match=r"^cluster: workers do not start on this machine \(Nanny .*Read-only file"):
        compute_gram(tmp_path / "K.zarr", KERNEL, images(), cluster="local", progress=False)
    assert list(tmp_path.iterdir()) == []


class Killer:
    """Kills workers of a local cluster once some tiles are done."""

    def __init__(self, moments, every):
        self.moments, self.every, self.killed = list(moments), every, 0

    def __call__(self, done, total):
        if self.moments and done >= self.moments[0]:
            self.moments.pop(0)
            pids = [child.pid for child in children()]
            for pid in pids if self.every else pids[:1]:
                os.kill(pid, signal.SIGKILL)
                self.killed += 1


def children():
    """The worker processes of this one."""
    import psutil  # distributed needs it

    return [
        child
        for child in psutil.Process().children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline()) and "resource_tracker" not in " ".join(child.cmdline())
    ]


@marked
@pytest.mark.parametrize("every", [False, True], ids=["one", "all"])
def test_workers_that_are_killed_change_nothing(every, tmp_path):
    """The one tile that each was at is computed again; the signals travel again when nobody has them any more."""
    x, killer = images(60), Killer([5, 30], every)
    store = compute_gram(tmp_path / "K.zarr", KERNEL, x, tile=4, cluster="local", workers=2, progress=killer)
    assert killer.killed == (4 if every else 2)
    assert tiles_of(store) == straight(tmp_path, x, tile=4)


@marked
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_that_die_again_and_again_are_given_up(workers, tmp_path, monkeypatch):
    """As if one tile took more memory than there is; alone, a worker takes the signals with it each time."""
    computed = cluster._compute

    def dies(*arguments):
        if arguments[-2].start == 8:
            os._exit(1)
        return computed(*arguments)

    monkeypatch.setattr(cluster, "_compute", dies)
    with pytest.raises(ValueError, match=r"^cluster: workers died again and again at tile \("):
        compute_gram(tmp_path / "K.zarr", KERNEL, images(), tile=4, cluster="local", workers=workers, progress=False)
    monkeypatch.undo()
    store = compute_gram(tmp_path / "K.zarr", KERNEL, images(), progress=False)
    assert tiles_of(store) == straight(tmp_path, images(), tile=4)


@marked
def test_a_scheduler_that_goes_away(tmp_path):
    """Finished tiles are kept, and threads go on from there."""
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as local:
        closing = threading.Thread(target=local.close)
        with pytest.raises(ValueError, match="^cluster: the scheduler is gone"):
            compute_gram(
                tmp_path / "K.zarr",
                KERNEL,
                images(60),
                tile=4,
                cluster=local.scheduler_address,
                progress=lambda done, total: closing.start() if done == 5 else time.sleep(0.05),
            )
        closing.join()
    store = compute_gram(tmp_path / "K.zarr", KERNEL, images(60), progress=False)
    assert tiles_of(store) == straight(tmp_path, images(60), tile=4)

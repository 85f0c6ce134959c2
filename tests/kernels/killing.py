"""Processes that fill a store and are killed: a script, so that the parent forks before any thread is there.

``python killing.py kill FOLDER EXAMPLES KILLS SEED`` kills a writer again and again; ``... together FOLDER EXAMPLES``
lets several write at once. Both print what they found as JSON.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

from hilbertnet.kernels import ConvKernel
from hilbertnet.kernels.runners import compute_gram
from hilbertnet.kernels.store import GramStore


def tiles_of(folder):
    """The bytes of every file under the matrices, temporary ones too."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in Path(folder).glob("*/c/*/*")}


def written(folder):
    """Which files the finished tiles are (those of both kinds), and when they were written."""
    store = GramStore.open(folder) if folder.exists() else None
    files = [store.file(kind, place) for place in store.done() for kind in store.kinds] if store else []
    return {str(file): (stat.st_ino, stat.st_mtime_ns) for file in files for stat in (file.stat(),)}


def start(path, examples, part=None):
    """A process that fills the store."""
    pid = os.fork()
    if pid == 0:
        x = np.random.RandomState(0).rand(examples, 1, 6, 6)
        kernel = ConvKernel("3 exp(0.6) gauss2 | 2 arccos1 -")
        compute_gram(path, kernel, x, kinds=("ckn", "ntk"), tile=4, part=part, progress=False)
        os._exit(0)
    return pid


def ended_well(pid):
    return os.waitpid(pid, 0)[1] == 0


def wait(pid, path, files):
    """Until the store has so many files, or the process has ended."""
    while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if sum(1 for file in path.glob("*/c/*/*") if not file.name.endswith(".part")) >= files:
            return
        time.sleep(0.001)


def kill(folder, examples, kills, seed):
    path, straight, rng = folder / "K.zarr", folder / "straight.zarr", random.Random(seed)
    assert ended_well(start(straight, examples))
    whole = len(written(straight))
    began = time.monotonic()
    assert ended_well(start(straight, examples))
    rest = time.monotonic() - began  # when nothing is left to do: loading code, checking tiles
    kept, killed, progress = {}, 0, []
    for number in range(kills):
        pid = start(path, examples)
        if number % 5 == 4:
            time.sleep(rng.uniform(0, rest))  # early too, before a tile is done
        else:  # by what it has done, since its speed depends on the machine
            wait(pid, path, len(kept) + rng.randint(1, max(1, 2 * (whole - len(kept)) // (kills + 1 - number))))
            time.sleep(rng.uniform(0, 0.01))
        os.kill(pid, signal.SIGKILL)
        killed += not ended_well(pid)
        now = written(path)
        assert kept.items() <= now.items(), "a finished tile was lost or written again"
        kept = now
        progress.append(len(kept))
        if path.exists():
            assert GramStore.open(path).damaged() == []
    assert ended_well(start(path, examples))
    assert kept.items() <= written(path).items(), "a finished tile was written again"
    assert tiles_of(path) == tiles_of(straight)
    return {"killed": killed, "progress": progress, "files": len(written(path))}


def together(folder, examples):
    """Two with the same tiles, one with half of them, and one that is killed; then one alone."""
    path, straight = folder / "K.zarr", folder / "straight.zarr"
    assert ended_well(start(straight, examples))
    pids = [start(path, examples, part) for part in (None, None, "2/2", None)]
    time.sleep(0.2)
    os.kill(pids[3], signal.SIGKILL)
    assert [ended_well(pid) for pid in pids[:3]] == [True] * 3
    ended_well(pids[3])
    with GramStore.open(path).writing():  # alone: what the killed one left is removed
        assert tiles_of(path) == tiles_of(straight)
    return {"files": len(written(path))}


if __name__ == "__main__":
    torch.set_num_threads(1)
    name, where, *numbers = sys.argv[1:]
    print(json.dumps({"kill": kill, "together": together}[name](Path(where), *map(int, numbers))))

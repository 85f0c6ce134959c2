"""Stored Gram matrices computed by threads, in parts, and by processes that are killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hilbertnet.kernels import ConvKernel, runners
from hilbertnet.kernels.grid import Place
from hilbertnet.kernels.runners import compute_gram, plan_gram, read_part
from hilbertnet.kernels.store import GramStore

KERNEL = ConvKernel("3 exp(0.6) gauss2 | 2 arccos1 -")


def images(n=17, seed=0):
    return np.random.RandomState(seed).rand(n, 1, 6, 6)


def tiles_of(store):
    """The bytes of every file under the matrices, temporary ones too."""
    folder = Path(store.path if isinstance(store, GramStore) else store)
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.glob("*/c/*/*")}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return tiles_of(compute_gram(tmp_path_factory.mktemp("plain") / "K.zarr", KERNEL, images(), tile=4, progress=False))


# --- runners


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_threads_make_the_same_bytes(workers, plain, tmp_path):
    store = compute_gram(tmp_path / "K.zarr", KERNEL, images(), tile=4, workers=workers, progress=False)
    assert tiles_of(store) == plain


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_parts_in_any_order_make_the_same_bytes(order, plain, tmp_path):
    for count, which in enumerate(order):
        assert len(tiles_of(tmp_path / "K.zarr")) == 5 * count
        store = compute_gram(tmp_path / "K.zarr", KERNEL, images(), tile=4, part=f"{which}/3", progress=False)
        assert store.complete == (count == 2)
    assert tiles_of(store) == plain


def test_parts_may_change_their_number(plain, tmp_path):
    steps = []
    compute_gram(tmp_path / "K.zarr", KERNEL, images(), tile=4, part="2/3", progress=False)
    store = compute_gram(tmp_path / "K.zarr", KERNEL, images(), part="1/1", progress=lambda *step: steps.append(step))
    assert steps == [(k, 10) for k in range(1, 11)]
    assert tiles_of(store) == plain


def test_more_parts_than_tiles(tmp_path):
    store = compute_gram(tmp_path / "K.zarr", KERNEL, images(3), part="9/9", progress=False)
    assert store.missing() == [Place(0, 0)]


def test_a_finished_store_computes_nothing(tmp_path, monkeypatch):
    compute_gram(tmp_path / "K.zarr", KERNEL, images(), tile=4, progress=False)
    monkeypatch.setattr(ConvKernel, "gram", lambda *_, **__: pytest.fail("computed"))
    assert compute_gram(tmp_path / "K.zarr", KERNEL, images(), progress=False).complete


def test_tensors_and_lists_are_the_same_data(tmp_path):
    compute_gram(tmp_path / "K.zarr", KERNEL, images(5), part="1/2", progress=False)
    compute_gram(tmp_path / "K.zarr", KERNEL, torch.from_numpy(images(5)), progress=False)
    assert compute_gram(tmp_path / "K.zarr", KERNEL, images(5).tolist(), progress=False).complete


def test_numbers_that_overflow_in_single_precision_are_refused(tmp_path):
    with pytest.raises(ValueError, match="^X: expected finite numbers, got inf"):
        compute_gram(tmp_path / "K.zarr", KERNEL, 1e300 * images(5), dtype=torch.float32, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_a_tile_stops_the_threads_and_keeps_what_is_done(plain, tmp_path, monkeypatch):
    gram, calls = ConvKernel.gram, []

    def breaks(self, x, *arguments, **options):
        calls.append(len(x))
        if len(calls) == 6:
            raise RuntimeError("sixth")
        return gram(self, x, *arguments, **options)

    monkeypatch.setattr(ConvKernel, "gram", breaks)
    with pytest.raises(RuntimeError, match="sixth"):
        compute_gram(tmp_path / "K.zarr", KERNEL, images(), tile=4, workers=2, progress=False)
    monkeypatch.undo()
    kept = tiles_of(tmp_path / "K.zarr")
    assert 0 < len(kept) < 8
    assert kept.items() <= plain.items()
    assert tiles_of(compute_gram(tmp_path / "K.zarr", KERNEL, images(), progress=False)) == plain


def test_interrupted_between_tiles(plain, tmp_path):
    def interrupt(done, total):
        assert total == 15
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute_gram(tmp_path / "K.zarr", KERNEL, images(), tile=4, progress=interrupt)
    assert len(tiles_of(tmp_path / "K.zarr")) == 4
    assert tiles_of(compute_gram(tmp_path / "K.zarr", KERNEL, images(), progress=False)) == plain


# --- cost


def test_a_plan_writes_nothing_and_counts_what_is_done(tmp_path):
    plan = plan_gram(KERNEL, images(), store=tmp_path / "K.zarr", tile=4)
    assert list(tmp_path.iterdir()) == []
    assert (plan.grid.count, plan.done, plan.pairs) == (15, 0, 17 * 18 // 2 + 5 * 17)
    assert plan.seconds > 0
    assert "15 tiles of 4 x 4" in str(plan)
    store = compute_gram(tmp_path / "K.zarr", KERNEL, images(), tile=4, part="1/3", progress=False)
    plan = plan_gram(KERNEL, images(), store=store.path)
    assert (plan.grid.side, plan.done) == (4, 5)
    assert plan.seconds_left == pytest.approx(plan.seconds * 2 / 3)
    assert "5 of them done" in str(plan)
    assert plan.disk_bytes == sum(-(-len(raw) // 4096) * 4096 for raw in tiles_of(store).values()) * 3


@pytest.mark.parametrize(("rows", "columns", "side"), [(7, None, 3), (7, 5, 3), (6, 6, 2)])
def test_pairs_are_those_of_the_tiles(rows, columns, side):
    plan = plan_gram(KERNEL, images(rows), None if columns is None else images(columns, 1), tile=side)
    pairs = 0
    for place in plan.grid.places():
        r, c = plan.grid.shape(place)
        pairs += r * (r + 1) // 2 + r if columns is None and place.row == place.column else r * c + r + c
    assert plan.pairs == pairs


def test_the_side_follows_the_time_of_a_pair_and_the_budget(monkeypatch):
    x = images(3000)
    fast, tight = plan_gram(KERNEL, x), plan_gram(KERNEL, x, memory="40MB")
    side = fast.grid.side
    assert side in (32, 64, 128, 256, 512, 1024)
    assert side in (32, 1024) or (2 * side) ** 2 * fast.pair_seconds > 1
    assert tight.grid.side <= 512
    assert tight.tile_bytes <= 40e6
    monkeypatch.setattr("hilbertnet.kernels.jobs._TILE_SECONDS", 0.0)
    assert plan_gram(KERNEL, x).grid.side == 32


def test_a_long_computation_says_its_cost_first(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(runners, "LONG", 0.0)
    compute_gram(tmp_path / "K.zarr", KERNEL, images(5), progress=False)
    assert "pairs of signals" in caplog.text


def test_the_budget_of_a_tile_is_shared_by_threads(tmp_path, monkeypatch):
    budgets, gram = set(), ConvKernel.gram

    def remember(self, *arguments, memory, **options):
        budgets.add(memory)
        return gram(self, *arguments, memory=memory, **options)

    monkeypatch.setattr(ConvKernel, "gram", remember)
    compute_gram(tmp_path / "K.zarr", KERNEL, images(), tile=4, workers=2, memory="8MB", progress=False)
    assert budgets == {4_000_000 - 4 * 4 * 8}


# --- refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": images() * np.nan}, "^X: expected finite numbers"),
        ({"Y": images()[:, :, :5]}, "^Y: expected shape"),
        ({"kernel": "3 exp(0.6) -"}, "^kernel: expected a ConvKernel, got str"),
        ({"kinds": ("ckn", "rf")}, "^kinds: expected some of"),
        ({"kinds": ()}, "^kinds: expected some of"),
        ({"kernel": ConvKernel("3 arccos0 -"), "kinds": ("ntk",)}, "^kind: the tangent kernel needs a finite"),
        ({"dtype": torch.float16}, "^dtype: expected torch.float32 or torch.float64"),
        ({"tile": 0}, "^tile: expected a whole number of at least 1, got 0"),
        ({"tile": True}, "^tile: "),
        ({"tile": 2.0}, "^tile: "),
        ({"memory": "lots"}, "^memory: "),
        ({"memory": "20kB"}, "^memory: expected at least"),
        ({"memory": 100, "tile": 8}, "^memory: tiles of 8 x 8 need more than 512 bytes"),
        ({"workers": 0}, "^workers: "),
        ({"workers": 2, "cluster": "tcp://127.0.0.1:1"}, "^workers: a running cluster has its own"),
        ({"part": "0/3"}, "^part: expected i/n"),
    ],
)
def test_bad_arguments_leave_no_store(change, message, tmp_path):
    arguments = {"kernel": KERNEL, "X": images(), "progress": False} | change
    with pytest.raises(ValueError, match=message):
        compute_gram(tmp_path / "K.zarr", **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["4/3", "0/3", "3", "/", "a/b", "-1/3", "1/0", "", "1/2/3", 3, "1.5/2"])
def test_parts_that_are_none(text):
    with pytest.raises(ValueError, match="^part: expected i/n with i from 1 to n"):
        read_part(text)


def test_parts():
    assert read_part(None) == (0, 1)
    assert read_part("3/16") == (2, 16)
    assert read_part(" 16 / 16 ") == (15, 16)


# --- a full disk


def test_too_small_a_disk_is_found_out_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 20_000})())
    with pytest.raises(ValueError, match=r"^store: the tiles of .* need 61.4 kB of disk, 20 kB are free there"):
        compute_gram(tmp_path / "K.zarr", KERNEL, images(), tile=4, progress=False)
    assert list(tmp_path.iterdir()) == []


FULL = """
import resource, sys
import numpy as np
from hilbertnet.kernels import ConvKernel
from hilbertnet.kernels.runners import compute_gram

sys.modules["shutil"].disk_usage = lambda _: type("Usage", (), {"free": 10**12})()  # full only when it is written to
x = np.random.RandomState(0).rand(80, 1, 6, 6)
try:
    compute_gram(sys.argv[1], ConvKernel("3 exp(0.6) gauss2 | 2 arccos1 -"), x, tile=16, progress=False)
except OSError as error:
    print(error.strerror)
    sys.exit(3)
"""


@pytest.mark.slow
def test_a_disk_that_fills_up_keeps_what_is_done(tmp_path):
    """A small tmpfs, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a tmpfs")
    try:
        fill = [sys.executable, "-c", FULL, disk / "K.zarr"]
        done = subprocess.run(fill, check=False, capture_output=True, text=True)
        assert done.returncode == 3, done.stderr
        store = GramStore.open(disk / "K.zarr")
        kept = len(store.done())
        assert 0 < kept < 15
        assert f"{kept} of 15 tiles are kept, the others need " in done.stdout
        assert store.damaged() == []
        assert not list(disk.rglob("*.part"))
        before = tiles_of(store)
        subprocess.run(["mount", "-o", "remount,size=1m", disk], check=True)
        again = subprocess.run(fill, check=False, capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
        x = np.random.RandomState(0).rand(80, 1, 6, 6)
        straight = compute_gram(tmp_path / "K.zarr", KERNEL, x, tile=16, progress=False)
        assert before.items() <= tiles_of(straight).items()
        assert tiles_of(disk / "K.zarr") == tiles_of(straight)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_write_that_fails_says_what_is_kept(plain, tmp_path, monkeypatch):
    write, calls = GramStore._write_chunk, []

    def fails(self, file, numbers):
        calls.append(file)
        if len(calls) == 4:
            raise OSError(28, "No space left on device", str(file))
        write(self, file, numbers)

    monkeypatch.setattr(GramStore, "_write_chunk", fails)
    with pytest.raises(OSError, match=r"3 of 15 tiles are kept, the others need 49.2 kB; make room") as caught:
        compute_gram(tmp_path / "K.zarr", KERNEL, images(), tile=4, progress=False)
    assert caught.value.errno == 28
    assert caught.value.filename == str(tmp_path / "K.zarr")
    monkeypatch.undo()
    assert tiles_of(compute_gram(tmp_path / "K.zarr", KERNEL, images(), progress=False)) == plain


# --- killed, and several at once


def run(*arguments):
    script = Path(__file__).with_name("killing.py")
    done = subprocess.run([sys.executable, script, *map(str, arguments)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
@pytest.mark.parametrize(
    ("examples", "kills", "seed"),
    [(40, 3, 0), (150, 20, 1), (150, 20, 2), (150, 20, 3)],
)
def test_killed_at_random_moments(examples, kills, seed, tmp_path):
    """Nothing that was finished is lost or computed again, nothing is damaged, and the bytes are the same."""
    found = run("kill", tmp_path, examples, kills, seed)
    assert found["killed"] >= kills // 2
    bands = -(-examples // 4)
    assert found["files"] == bands * (bands + 1)  # two kinds
    assert len(set(found["progress"])) > kills // 4  # they were killed at work
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".zarr") == ["K.zarr", "straight.zarr"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_processes_at_the_same_store_do_not_harm_each_other(tmp_path):
    assert run("together", tmp_path, 40)["files"] == 110

"""Gram matrices of data sets in stores: `gram_store` and ``hilbertnet gram --out K.zarr``."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import zarr

from hilbertnet.data import load
from hilbertnet.experiments.gram import GramSettings, gram_store
from hilbertnet.kernels import ConvKernel
from hilbertnet.kernels.store import GramStore
from hilbertnet.kernels.stored import open_gram

TEXT = "3 arccos1 - | 3 exp(0.6) gauss2"


def test_a_store_is_the_matrix_with_what_is_known_of_it(few, tmp_path):
    settings = GramSettings(str(few), kernel=TEXT, kind="both")
    kernel, store = gram_store(settings, tmp_path / "K.zarr", tile=5, progress=False)
    data = load(few)
    assert kernel.arch == ConvKernel(TEXT).arch
    for kind in ("ckn", "ntk"):
        expected = ConvKernel(TEXT, kind).gram(data.x)
        np.testing.assert_allclose(open_gram(tmp_path / "K.zarr", kind).to_array(), expected, rtol=1e-7)
    np.testing.assert_array_equal(store.array("y"), data.y)
    np.testing.assert_array_equal(store.array("examples"), np.arange(12))
    attributes = store.attributes()
    assert tuple(attributes["class_names"]) == data.class_names == ("=c", "a, b", "d", "ω")
    record = attributes["record"]
    assert (record["kind"], record["kernel"], record["data"]) == ("both", kernel.arch.to_dict(), data.to_dict())
    assert [path.name for path in tmp_path.iterdir()] == ["K.zarr"]
    assert sorted(name for name, _ in zarr.open_group(str(store.path), mode="r").members()) == [
        "ckn",
        "examples",
        "ntk",
        "y",
    ]


def test_single_precision_and_preprocessing_as_in_a_file(few, tmp_path):
    settings = GramSettings(str(few), kernel=TEXT, dtype="float32", preprocessing="contrast", examples=8, seed=1)
    _, store = gram_store(settings, tmp_path / "K.zarr", tile=3, progress=False)
    gram = open_gram(store.path)
    from hilbertnet.experiments import gram_file

    gram_file(settings, tmp_path / "g.npz", progress=False)
    with np.load(tmp_path / "g.npz") as file:
        assert file["gram"].dtype == gram.to_array().dtype == np.float32
        np.testing.assert_allclose(gram.to_array(), file["gram"], rtol=1e-5)
        np.testing.assert_array_equal(store.array("examples"), file["examples"])


# --- the command


def test_a_plan_in_parts_and_at_last_whole(few, tmp_path, monkeypatch, hilbertnet):
    monkeypatch.chdir(tmp_path)
    command = ["gram", few, "--kernel", TEXT, "--out", "K.zarr"]
    code, out, err = hilbertnet(*command, "--tile", 5, "--plan")
    assert (code, err) == (0, "")
    assert out.startswith(f"kernel: ckn {TEXT}\nGram matrix 12 x 12: ")
    for words in ("pairs of signals", "seconds", "of memory for a tile", "on disk", "6 tiles of 5 x 5\n"):
        assert words in out
    assert list(tmp_path.iterdir()) == []
    code, out, err = hilbertnet(*command, "--tile", 5, "--part", "2/2")
    assert (code, err) == (0, "")
    assert out == f"kernel: ckn {TEXT}\nGram matrix 12 x 12, 3 of 6 tiles: K.zarr\n"
    assert "6 tiles of 5 x 5, 3 of them done" in hilbertnet(*command, "--plan")[1]
    code, out, err = hilbertnet(*command, "--workers", 2)
    assert (code, err) == (0, "")
    assert out == f"kernel: ckn {TEXT}\nGram matrix 12 x 12: K.zarr\n"
    np.testing.assert_allclose(open_gram("K.zarr").to_array(), ConvKernel(TEXT).gram(load(few).x), rtol=1e-12)
    assert GramStore.open("K.zarr").attributes()["record"]["kind"] == "ckn"


BAD = [
    (["--tile", "0"], "tile: expected a whole number of at least 1, got 0"),
    (["--part", "3/2"], "part: expected i/n"),
    (["--workers", "0"], "workers: expected a whole number of at least 1, got 0"),
    (["--cluster", "nowhere"], "cluster: no Dask scheduler answers at 'nowhere'"),
    (["--kind", "bth"], "kind: expected 'ckn' or 'ntk', got 'bth'"),
    (["--kind", "both", "--kernel", "3 arccos0 -"], "kind: the tangent kernel needs a finite"),
    (["--memory", "1kB"], "memory: "),
    (["--out", "file.zarr"], "store: file.zarr is no store of Gram matrices"),
    (["--out", "g.npz", "--tile", "8"], "tile: only a store, such as --out K.zarr, is computed in tiles of its own"),
    (["--out", "g.npz", "--cluster", "local"], "cluster: only a store"),
    (["--out", "g.npz", "--kind", "both"], "kind: both matrices are kept in a store"),
    (["--out", "g.npz", "--kind", "both", "--plan"], "kind: both matrices are kept in a store"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_message_and_no_store(arguments, message, few, tmp_path, monkeypatch, hilbertnet):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.zarr").write_text("older")
    code, out, err = hilbertnet("gram", few, "--out", "K.zarr", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"hilbertnet: {message}")
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file.zarr"]
    assert (tmp_path / "file.zarr").read_text() == "older"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["--kernel", "3 exp(0.6) -"], "architecture"),
        (["--kind", "both"], "kinds"),
        (["--dtype", "float32"], "dtype"),
        (["--examples", "11"], "shape, data"),
        (["--preprocess", "contrast"], "data"),
        (["--tile", "4"], "tile"),
    ],
)
def test_a_store_of_something_else_is_refused(arguments, name, few, tmp_path, monkeypatch, hilbertnet):
    monkeypatch.chdir(tmp_path)
    command = ["gram", few, "--kernel", TEXT, "--out", "K.zarr"]
    assert hilbertnet(*command, "--tile", 5, "--part", "1/2")[0] == 0
    kept = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    for more in ([], ["--plan"]):
        code, out, err = hilbertnet(*command, *arguments, *more)
        assert (code, out) == (2, "")
        assert err.startswith(f"hilbertnet: store: K.zarr was made for other {name} (")
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == kept


def test_without_zarr(few, tmp_path, monkeypatch, hilbertnet):
    monkeypatch.setitem(sys.modules, "zarr", None)
    code, _, err = hilbertnet("gram", few, "--kernel", TEXT, "--out", tmp_path / "K.zarr")
    assert (code, err) == (2, "hilbertnet: store: zarr is needed to write one; install hilbertnet[cluster]\n")
    assert list(tmp_path.iterdir()) == []


def test_interrupted_it_says_what_is_kept(few, tmp_path, monkeypatch, hilbertnet):
    write, calls = GramStore.write, []

    def interrupted(self, place, matrices):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(place)
        write(self, place, matrices)

    monkeypatch.setattr(GramStore, "write", interrupted)
    code, out, err = hilbertnet("gram", few, "--kernel", TEXT, "--out", tmp_path / "K.zarr", "--tile", 5)
    assert (code, out) == (130, "")
    assert err == (
        f"hilbertnet: interrupted; {tmp_path / 'K.zarr'} keeps 2 of 6 tiles, and the same command goes on from there\n"
    )


@pytest.mark.slow
def test_ctrl_c_leaves_a_store_that_goes_on(tmp_path):
    command = [sys.executable, "-m", "hilbertnet", "gram", "digits", "--examples", "200", "--tile", "8"]
    process = subprocess.Popen([*command, "--out", "K.zarr"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + 60
    while not list(tmp_path.glob("K.zarr/ckn/c/3/[0-9]*")) and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from there" in error
    kept = len(GramStore.open(tmp_path / "K.zarr").done())
    assert 0 < kept < 325
    subprocess.run([*command, "--out", "K.zarr"], cwd=tmp_path, check=True, capture_output=True)
    subprocess.run([*command, "--out", "S.zarr"], cwd=tmp_path, check=True, capture_output=True)
    found, straight = ({f.relative_to(r): f.read_bytes() for f in r.glob("ckn/c/*/*")} for r in tmp_path.glob("*.zarr"))
    assert found == straight
    assert len(found) == 325

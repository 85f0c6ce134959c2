"""A Gram matrix read from its store, against the same one in memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from hilbertnet.kernels import ConvKernel, stored
from hilbertnet.kernels.gram_like import GramLike, as_gram_like
from hilbertnet.kernels.runners import compute_gram
from hilbertnet.kernels.store import FORMAT, GramStore
from hilbertnet.kernels.stored import StoredGram, open_gram

KERNEL = ConvKernel("3 exp(0.6) gauss2 | 2 arccos1 -")
SHAPES = {"symmetric": (13, None), "wide": (6, 13), "tall": (13, 6)}


def images(n, seed):
    return torch.from_numpy(np.random.RandomState(seed).rand(n, 1, 6, 6))


@pytest.fixture(scope="module", params=[(name, dtype) for name in SHAPES for dtype in (torch.float64, torch.float32)])
def pair(request, tmp_path_factory):
    """A matrix on disk and the same numbers in memory."""
    name, dtype = request.param
    n, m = SHAPES[name]
    x, y = images(n, 0), None if m is None else images(m, 1)
    store = compute_gram(tmp_path_factory.mktemp(name) / "K.zarr", KERNEL, x, y, tile=4, dtype=dtype, progress=False)
    gram = open_gram(store.path)
    dense = torch.from_numpy(gram.to_array())
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(dense, KERNEL.gram(x, y, dtype=dtype), rtol=tolerance, atol=0)
    return gram, dense


@pytest.fixture(scope="module")
def square(tmp_path_factory):
    path = tmp_path_factory.mktemp("square") / "K.zarr"
    return open_gram(compute_gram(path, KERNEL, images(13, 0), tile=4, progress=False).path)


def test_shape_and_dtype(pair):
    gram, dense = pair
    assert gram.shape == tuple(dense.shape)
    assert gram.dtype == dense.dtype


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_products(pair, dtype):
    gram, dense = pair
    V = torch.randn(gram.shape[1], 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    found = gram.matmul(V)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, dense.double() @ V.double(), rtol=1e-12, atol=1e-12)
    assert gram.matmul(V[:, :0]).shape == (gram.shape[0], 0)


def test_a_product_reads_every_stored_tile_once(square, monkeypatch):
    read, seen = GramStore.read, []
    monkeypatch.setattr(GramStore, "read", lambda self, kind, place: seen.append(place) or read(self, kind, place))
    square.matmul(torch.ones(13, 2, dtype=torch.float64))
    assert seen == list(square.store.grid.places())


def test_columns(pair):
    gram, dense = pair
    m = gram.shape[1]
    for index in ([m - 1, 0, 5, 5, 3], [2], [], list(range(m))):
        picked = torch.tensor(index, dtype=torch.int64)
        found = gram.columns(picked)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, dense[:, picked].double(), rtol=0, atol=0)


def test_blocks_are_those_of_the_matrix(pair):
    gram, dense = pair
    n, m = gram.shape
    slices = [
        slice(None),
        slice(0, 1),
        slice(3, 5),
        slice(4, 8),
        slice(2, -1),
        slice(5, 2),
        slice(-3, None),
        slice(1, 99),
    ]
    for rows in slices:
        for columns in slices:
            torch.testing.assert_close(gram[rows, columns], dense[rows, columns], rtol=0, atol=0)
    assert gram.block().shape == (n, m)


@pytest.mark.parametrize("rows", [1, 3, 4, 6, 9, 100])
def test_bands_of_rows_are_all_of_it_within_the_budget(pair, rows):
    gram, dense = pair
    budget = rows * gram.shape[1] * gram.store.dtype.itemsize
    bands = list(gram.rows(memory=budget))
    assert all(band.numel() * band.element_size() <= budget for _, band in bands)
    assert [i for where, _ in bands for i in range(where.start, where.stop)] == list(range(gram.shape[0]))
    torch.testing.assert_close(torch.cat([band for _, band in bands]), dense, rtol=0, atol=0)


def test_the_diagonal(pair):
    gram, dense = pair
    if gram.symmetric:
        torch.testing.assert_close(gram.diagonal(), dense.diagonal().double(), rtol=0, atol=0)
    else:
        with pytest.raises(ValueError, match="^diagonal: expected the symmetric matrix"):
            gram.diagonal()


def test_as_an_array_of_numpy(pair):
    gram, dense = pair
    np.testing.assert_array_equal(np.asarray(gram), dense.numpy())
    assert np.asarray(gram, dtype=np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="^copy: "):
        np.asarray(gram, copy=False)


def test_solvers_take_it(square):
    assert isinstance(square, GramLike)
    assert as_gram_like(square) is square


# --- refused


def test_a_matrix_that_does_not_fit_is_never_loaded_whole(square, monkeypatch):
    needed = 13 * 13 * 8
    assert square.to_array(memory=needed).shape == (13, 13)
    with pytest.raises(ValueError, match=r"^memory: .* needs 1.35 kB, the budget is 1.35 kB"):
        square.to_array(memory=needed - 1)
    monkeypatch.setattr(stored, "available_memory", lambda: needed - 1)
    for call in (square.to_array, square.block, lambda: np.asarray(square), lambda: square[:, :]):
        with pytest.raises(ValueError, match=r"^memory: .* this machine has 1.35 kB; read it in blocks"):
            call()
    assert square.block(slice(12)).shape == (12, 13)
    assert len(list(square.rows(memory=needed - 1))) == 2


def test_what_this_machine_has_is_known():
    found = stored.available_memory()
    assert found is None or 2**20 < found < 2**50


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda g: g.matmul(torch.ones(12, 1)),
            r"^V: expected a tensor of real numbers, shape \(13, k\), got .*\(12, 1\)",
        ),
        (lambda g: g.matmul(torch.ones(13)), "^V: "),
        (lambda g: g.matmul(torch.ones(13, 1, dtype=torch.int64)), "^V: .*int64"),
        (lambda g: g.matmul(torch.ones(13, 1, dtype=torch.complex64)), "^V: .*complex"),
        (lambda g: g.matmul(np.ones((13, 1))), "^V: .*ndarray"),
        (lambda g: g.columns(torch.tensor([13])), "^index: expected 0 to 12, got 13 to 13"),
        (lambda g: g.columns(torch.tensor([0, -1])), "^index: expected 0 to 12, got -1 to 0"),
        (lambda g: g.columns(torch.tensor([0.5])), "^index: expected a tensor of int64"),
        (lambda g: g.columns([0]), "^index: expected a tensor of int64"),
        (lambda g: g[3], "^index: expected two slices"),
        (lambda g: g[0, 1], "^index: expected two slices"),
        (lambda g: g.block(slice(0, 9, 2)), "^rows: expected a slice without a step"),
        (lambda g: g.block(columns=slice(0.5, 3)), "^columns: expected a slice of whole numbers"),
        (lambda g: list(g.rows(memory=103)), "^memory: expected at least 104 bytes for one row, got 103 bytes"),
        (lambda g: list(g.rows(memory="lots")), "^memory: "),
        (lambda g: StoredGram(g.store, "ntk"), "^kind: .* keeps ckn, got 'ntk'"),
    ],
)
def test_bad_arguments_are_named(call, message, square):
    with pytest.raises(ValueError, match=message):
        call(square)


def test_a_store_of_both_kinds_asks_which(tmp_path):
    compute_gram(tmp_path / "K.zarr", KERNEL, images(3, 0), kinds=("ntk", "ckn"), progress=False)
    with pytest.raises(ValueError, match="^kind: .* keeps ckn and ntk; say which"):
        open_gram(tmp_path / "K.zarr")


def test_an_unfinished_matrix_is_not_read(tmp_path):
    store = compute_gram(tmp_path / "K.zarr", KERNEL, images(13, 0), tile=4, part="1/2", progress=False)
    gram = open_gram(store.path)
    index = torch.tensor([0])
    for call in (
        gram.diagonal,
        gram.block,
        gram.to_array,
        lambda: gram.matmul(torch.ones(13, 1)),
        lambda: gram.columns(index),
        lambda: next(gram.rows()),
    ):
        with pytest.raises(ValueError, match="^store: 5 of 10 tiles of .* are missing"):
            call()
    compute_gram(tmp_path / "K.zarr", KERNEL, images(13, 0), progress=False)
    assert gram.columns(index).shape == (13, 1)


# --- memory

PEAK = """
import resource, sys
import torch
from hilbertnet.kernels.stored import open_gram

torch.set_num_threads(1)
gram = open_gram(sys.argv[1])
V = torch.ones(gram.shape[1], 2, dtype=torch.float64)
gram.columns(torch.tensor([0]))
torch.ones(512, 512, dtype=torch.float64) @ V[:512]  # libraries take their own memory
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
product = gram.matmul(V)
total = sum(float(band.sum(dtype=torch.float64)) for _, band in gram.rows(memory="16MB"))
assert abs(float(product[:, 0].sum()) - total) < 1e-9 * total, (product[:, 0].sum(), total)
gram.columns(torch.arange(0, gram.shape[1], gram.shape[1] // 16))
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="bytes of ru_maxrss are Linux's")
def test_reading_takes_memory_for_tiles_not_for_the_matrix(tmp_path):
    n, side = 12_000, 512
    identity = {"format": FORMAT, "version": "x", "architecture": {}, "kinds": ["ckn"], "dtype": "float64"}
    identity |= {"shape": [n, n], "symmetric": True, "data": ["x", None], "tile": side}
    store = GramStore.create(tmp_path / "K.zarr", identity)
    rng = np.random.RandomState(0)
    for place in store.grid.places():
        tile = rng.rand(*store.grid.shape(place))
        store.write(place, {"ckn": (tile + tile.T) / 2 if place.row == place.column else tile})
    done = subprocess.run([sys.executable, "-c", PEAK, str(store.path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 8 * n**2 / 10  # the matrix is 1.15 GB, a tile 2.1 MB, a band of rows 16 MB

"""What is on disk of a stored Gram matrix: the format, its identity, and damage found."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
import zarr

from hilbertnet.kernels import ConvKernel
from hilbertnet.kernels.disk import lock
from hilbertnet.kernels.grid import Grid, Place
from hilbertnet.kernels.runners import compute_gram
from hilbertnet.kernels.store import GramStore
from hilbertnet.kernels.stored import open_gram

TEXT = "3 exp(0.6) gauss2 | 2 arccos1 -"
KERNEL = ConvKernel(TEXT)


def images(n=11, seed=0, shape=(1, 6, 6)):
    return np.random.RandomState(seed).rand(n, *shape)


def stored(folder, x=None, y=None, *, kernel=KERNEL, tile=4, **options):
    x = images() if x is None else x
    return compute_gram(folder / "K.zarr", kernel, x, y, tile=tile, progress=False, **options)


def contents(folder):
    """Every file's bytes, and when it was written."""
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished.path, tmp_path / "K.zarr")
    return GramStore.open(tmp_path / "K.zarr")


# --- the format


@pytest.mark.parametrize("tile", [1, 3, 4, 11, 64])
def test_a_store_has_the_numbers_of_the_kernel(tile, tmp_path):
    store = stored(tmp_path, tile=tile)
    down = -(-11 // tile)
    assert store.complete
    assert store.grid.count == down * (down + 1) // 2
    found = open_gram(store.path).to_array()
    np.testing.assert_allclose(found, KERNEL.gram(images()), rtol=1e-12)
    np.testing.assert_array_equal(found, found.T)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_both_kinds_of_two_sets_of_signals(dtype, tmp_path):
    x, y = images(7), images(5, seed=1)
    store = stored(tmp_path, x, y, kinds=("ckn", "ntk"), dtype=dtype, tile=3)
    assert store.grid.count == 3 * 2
    for kind, expected in zip(("ckn", "ntk"), KERNEL.gram_pair(x, y, dtype=dtype), strict=True):
        matrix = open_gram(store.path, kind)
        assert (matrix.shape, matrix.dtype, matrix.symmetric) == ((7, 5), dtype, False)
        np.testing.assert_allclose(matrix.to_array(), expected, rtol=1e-12 if dtype == torch.float64 else 1e-5)


def test_another_program_reads_it_as_zarr(finished):
    group = zarr.open_group(str(finished.path), mode="r")
    assert [name for name, _ in group.members()] == ["ckn"]
    array, expected = group["ckn"], KERNEL.gram(images())
    assert (array.shape, array.chunks, array.dtype) == ((11, 11), (4, 4), np.float64)
    found = array[...]
    below = np.array([[row // 4 > column // 4 for column in range(11)] for row in range(11)])
    np.testing.assert_allclose(found[~below], expected[~below], rtol=1e-12)
    assert np.isnan(found[below]).all()
    assert array.nchunks_initialized == finished.grid.count == 6


def test_half_of_a_symmetric_matrix_is_on_disk(finished, tmp_path):
    whole = stored(tmp_path, images(), images())
    size = {store.path: len([p for p in store.path.rglob("*") if p.is_file()]) for store in (finished, whole)}
    assert size[whole.path] - size[finished.path] == 9 - 6
    assert whole.bytes_of(whole.grid.count) == 9 * 4096
    files = [whole.file("ckn", place) for place in whole.grid.places()]
    assert {file.stat().st_size for file in files} == {whole.chunk_bytes} == {4 * 4 * 8 + 4}


def test_what_is_kept_beside(tmp_path):
    arrays = {"y": np.array([2, 0, 1]), "names": np.arange(4.0)}
    store = stored(tmp_path, arrays=arrays, attributes={"record": {"seed": 3, "ω": "é"}})
    again = GramStore.open(store.path)
    assert again.attributes() == {"record": {"seed": 3, "ω": "é"}}
    for name, values in arrays.items():
        np.testing.assert_array_equal(again.array(name), values)
        np.testing.assert_array_equal(zarr.open_group(str(store.path), mode="r")[name][...], values)
    with pytest.raises(ValueError, match="^name: .* keeps no array 'z'"):
        again.array("z")


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("side", [1, 3, 5, 7])
def test_tiles_cover_the_matrix_once(symmetric, side):
    grid = Grid(7, 7 if symmetric else 5, symmetric, side)
    covered = np.zeros((grid.rows, grid.columns), int)
    for place in grid.places():
        block = covered[grid.row_slice(place.row), grid.column_slice(place.column)]
        assert block.shape == grid.shape(place)
        block += 1
    upper = np.triu(np.ones_like(covered)) if symmetric else np.ones_like(covered)
    assert (covered[upper == 1] == 1).all()
    assert covered.max() == 1
    assert len(list(grid.places())) == grid.count


# --- identity


OTHERS = {
    "architecture": {"kernel": ConvKernel("3 exp(0.5) gauss2 | 2 arccos1 -")},
    "kinds": {"kernel": ConvKernel(TEXT, "ntk")},
    "data": {"x": images(seed=1)},
    "shape": {"x": images(10)},
    "symmetric": {"y": images()},
    "dtype": {"dtype": torch.float32},
    "tile": {"tile": 5},
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_store_of_something_else_is_refused_untouched(name, copied):
    before = contents(copied.path)
    with pytest.raises(ValueError, match=rf"^store: .*K\.zarr was made for other .*\b{name}\b"):
        stored(copied.path.parent, **OTHERS[name])
    assert contents(copied.path) == before


@pytest.mark.parametrize(("name", "value"), [("version", "0.0.1"), ("format", 2)])
def test_a_store_of_another_version_is_refused_untouched(name, value, copied):
    file = copied.path / "zarr.json"
    content = json.loads(file.read_text())
    content["attributes"]["hilbertnet"][name] = value
    file.write_text(json.dumps(content))
    before = contents(copied.path)
    with pytest.raises(ValueError, match=f"^store: .*{name}.*{value}"):
        stored(copied.path.parent)
    assert contents(copied.path) == before


def test_the_side_of_a_tile_is_that_of_the_store_unless_said(copied):
    again = stored(copied.path.parent, tile=None)
    assert again.grid.side == 4


def test_architectures_that_differ_in_their_conventions_only(copied):
    arch = type(KERNEL.arch).parse(TEXT, boundary="circular")
    with pytest.raises(ValueError, match="other architecture .*circular"):
        stored(copied.path.parent, kernel=ConvKernel(arch))


DAMAGED = {
    "no JSON": lambda root: (root / "zarr.json").write_text("{"),
    "another group": lambda root: (root / "zarr.json").write_text('{"attributes": {"a": 1}}'),
    "no attributes": lambda root: (root / "zarr.json").write_text('{"attributes": 3}'),
    "a list": lambda root: (root / "zarr.json").write_text("[]"),
    "no metadata": lambda root: (root / "zarr.json").unlink(),
    "bytes": lambda root: (root / "zarr.json").write_bytes(b"\xff\xfe\x00"),
    "half an identity": lambda root: (root / "zarr.json").write_text('{"attributes": {"hilbertnet": {"format": 1}}}'),
    "no array": lambda root: shutil.rmtree(root / "ckn"),
    "another array": lambda root: (root / "ckn" / "zarr.json").write_text('{"shape": [11, 12]}'),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_metadata_that_are_damaged_are_refused_untouched(how, copied):
    DAMAGED[how](copied.path)
    before = contents(copied.path)
    for call in (lambda: open_gram(copied.path), lambda: stored(copied.path.parent)):
        with pytest.raises(ValueError, match=r"^store: .*K\.zarr"):
            call()
    assert contents(copied.path) == before


@pytest.mark.parametrize("tile", [0, -3, "8", 2.0, True, None])
def test_an_identity_of_impossible_tiles_is_refused(tile, copied):
    content = json.loads((copied.path / "zarr.json").read_text())
    content["attributes"]["hilbertnet"]["tile"] = tile
    (copied.path / "zarr.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="^store: .*zarr.json is damaged"):
        GramStore.open(copied.path)


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(ValueError, match="^store: .* no such folder"):
        open_gram(tmp_path / "none.zarr")
    (tmp_path / "K.zarr").write_text("a file")
    with pytest.raises(ValueError, match=r"^store: .*K\.zarr is no store"):
        stored(tmp_path)
    assert (tmp_path / "K.zarr").read_text() == "a file"


def test_an_empty_folder_becomes_a_store(tmp_path):
    (tmp_path / "K.zarr").mkdir()
    assert stored(tmp_path).complete
    assert [path.name for path in tmp_path.iterdir()] == ["K.zarr"]


# --- damage


def flip(file):
    raw = bytearray(file.read_bytes())
    raw[37] ^= 16
    file.write_bytes(raw)


def flip_checksum(file):
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)


HURT = {
    "flipped": flip,
    "flipped checksum": flip_checksum,
    "truncated": lambda file: os.truncate(file, 40),
    "empty": lambda file: os.truncate(file, 0),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"x"),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "missing": lambda file: file.unlink(),
    "a whole band missing": lambda file: shutil.rmtree(file.parent),
}


@pytest.mark.parametrize("how", HURT)
def test_a_damaged_tile_is_found_and_computed_again(how, copied, caplog):
    before = contents(copied.path)
    hurt = copied.file("ckn", Place(1, 2))
    HURT[how](hurt)
    with pytest.raises(ValueError, match=r"^store: .*(damaged|missing)"):
        open_gram(copied.path).matmul(torch.ones(11, 1, dtype=torch.float64))
    steps = []
    again = compute_gram(copied.path, KERNEL, images(), progress=lambda *step: steps.append(step))
    assert again.complete
    assert not again.damaged()
    after = contents(copied.path)
    assert {p: raw for p, (raw, _) in after.items()} == {p: raw for p, (raw, _) in before.items()}
    assert len(steps) == (2 if how == "a whole band missing" else 1)
    assert hurt in {p for p in after if after[p][1] != before[p][1]}  # written anew ...
    assert all(after[p][1] == before[p][1] for p in after if p.parent != hurt.parent)  # ... and nothing else


def test_a_flipped_byte_is_found_by_other_programs_too(copied):
    flip(copied.file("ckn", Place(0, 1)))
    with pytest.raises(ValueError, match="checksum do not match"):
        zarr.open_group(str(copied.path), mode="r")["ckn"][...]


def test_damaged_tiles_are_listed(copied):
    assert copied.damaged() == []
    for place in (Place(2, 2), Place(0, 1)):
        flip(copied.file("ckn", place))
    assert copied.damaged() == [Place(0, 1), Place(2, 2)]
    assert copied.damaged([Place(0, 0), Place(2, 2)]) == [Place(2, 2)]
    assert copied.complete  # the files are there: only reading them tells


def test_every_bit_of_a_tile_is_checked(copied):
    file = copied.file("ckn", Place(0, 0))
    whole = file.read_bytes()
    for position in range(len(whole)):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ (1 << position % 8)]) + whole[position + 1 :])
        assert copied.damaged([Place(0, 0)]) == [Place(0, 0)], position


def test_a_tile_of_one_kind_only_is_not_done(tmp_path):
    store = stored(tmp_path, kinds=("ckn", "ntk"))
    store.file("ntk", Place(0, 2)).unlink()
    assert store.missing() == [Place(0, 2)]
    assert not store.complete


def test_files_of_others_in_the_folder_are_left_alone(copied):
    for name in ("notes.txt", "7", "2.bak"):
        (copied.path / "ckn" / "c" / "2" / name).write_text("mine")
    assert copied.complete
    stored(copied.path.parent)
    assert (copied.path / "ckn" / "c" / "2" / "notes.txt").read_text() == "mine"


def test_numbers_that_are_not_finite_are_refused(copied):
    tile = np.ones((4, 4))
    tile[1, 2] = np.inf
    before = contents(copied.path)
    with pytest.raises(ValueError, match="^matrices: .*not finite in float64"):
        copied.write(Place(0, 1), {"ckn": tile})
    with pytest.raises(ValueError, match=r"^matrices: expected shape \(4, 3\)"):
        copied.write(Place(0, 2), {"ckn": np.ones((4, 4))})
    assert contents(copied.path) == before


# --- several writers


def test_what_a_killed_writer_left_is_removed_by_one_who_is_alone(copied):
    left = copied.path / "ckn" / "c" / "1" / ".2.abc.part"
    left.write_bytes(b"half a til")
    assert copied.complete
    with (copied.path / "zarr.json").open("r+b") as other:
        assert lock(other, alone=False)
        with copied.writing():
            assert left.exists()  # another may be writing it
    with copied.writing():
        assert not left.exists()


def test_a_store_made_meanwhile_by_another_is_opened(copied):
    before = contents(copied.path)
    other = GramStore.create(copied.path, copied.identity | {"data": ["other", None]}, arrays={"z": np.ones(2)})
    assert other.identity == copied.identity
    assert contents(copied.path) == before

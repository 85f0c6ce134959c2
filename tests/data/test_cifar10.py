"""CIFAR-10: the real one where it is at hand, and batches and archives broken in every way."""

import io
import tarfile

import numpy as np
import pytest

from hilbertnet.data import IncompleteDataWarning, load

FOLDER = "cifar-10-batches-bin"
ARCHIVE = "cifar-10-binary.tar.gz"


def load_small(message=r"50 of the 50,000 official training images and 10 of the 10,000 official test images"):
    with pytest.warns(IncompleteDataWarning, match=message) as caught:
        data = load("cifar10")
    assert len(caught) == 1
    return data


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::hilbertnet.data.IncompleteDataWarning")
def test_the_real_one(data_folder):
    data = load("cifar10")
    if data.found["train"] != 50_000:
        pytest.skip("the folder holds fewer than the official images")
    assert data.x.shape == (50_000, 3, 32, 32)
    assert data.x.dtype == np.float32
    mean = data.x.mean((0, 2, 3), dtype=np.float64)
    assert mean * 255 == pytest.approx([125.30691805, 122.95039414, 113.86538318], abs=1e-4)
    deviation = [data.x[:, i].std(dtype=np.float64) for i in range(3)]
    assert deviation == pytest.approx([0.24703, 0.24349, 0.26159], abs=1e-5)
    assert np.bincount(data.y).tolist() == [5000] * 10
    assert data.y[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert data.test_y[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert data.class_names[data.y[0]] == "frog"


@pytest.mark.parametrize("place", [".", FOLDER])
def test_few_but_whole_records_are_taken_with_one_warning(small, place):
    small.write_cifar(small.folder / place)
    data = load_small()
    assert "50 of 50,000 3-channel images of 32 x 32 and 10 of 10,000 official test images" in str(data)
    records = small.cifar["data_batch_2.bin"]
    assert np.array_equal(data.x[10:20], records[:, 1:].reshape(10, 3, 32, 32).astype(np.float32) / np.float32(255))
    assert data.y.tolist() == list(range(10)) * 5
    assert data.to_dict()["found"] == {"train": 50, "test": 10}


def test_the_last_batches_may_be_missing_and_the_names_too(small):
    folder = small.write_cifar()
    for name in ("data_batch_4.bin", "data_batch_5.bin", "batches.meta.txt"):
        (folder / name).unlink()
    assert load_small("30 of the 50,000 official training").class_names[3] == "cat"


@pytest.mark.parametrize("name", ["data_batch_1.bin", "data_batch_3.bin", "test_batch.bin"])
def test_a_missing_batch_is_named(small, name):
    (small.write_cifar() / name).unlink()
    with pytest.raises(ValueError, match=rf"{FOLDER}/{name}: not found beside"):
        load("cifar10")


BROKEN = {
    "empty": (b"", "expected 1 to 10,000 records of 3,073 bytes, got no record"),
    "cut in the first record": (bytes(100), "cut inside a record: 100 bytes are no multiple of 3,073"),
    "cut in the last record": (bytes(10 * 3073 - 1), "cut inside a record"),
    "one byte more": (bytes(10 * 3073 + 1), "cut inside a record"),
    "too long": (bytes(10_001 * 3073), "got more than 10,000 records"),
    "mislabelled": (bytes(3073) + b"\x0a" + bytes(3072), "expected labels 0 to 9, got 10 in record 1"),
}


@pytest.mark.parametrize("name", ["data_batch_5.bin", "test_batch.bin"])
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_batch_is_refused_by_name(small, kind, name):
    content, message = BROKEN[kind]
    (small.write_cifar() / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{FOLDER}/{name}: .*{message}"):
        load("cifar10")


@pytest.mark.parametrize("content", [b"", b"cat\ndog\n", b"\xff\xfe\x00", b"dog\n" * 10])
def test_other_names_are_refused_by_name(small, content):
    (small.write_cifar() / "batches.meta.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"batches\.meta\.txt: expected the names airplane"):
        load("cifar10")


def pack(small, members=None):
    """The archive in the folder of data sets; `members` are more (TarInfo, content)."""
    path = small.folder / ARCHIVE
    with tarfile.open(path, "w:gz") as archive:
        for name, records in small.cifar.items():
            item = tarfile.TarInfo(f"{FOLDER}/{name}")
            item.size = records.nbytes
            archive.addfile(item, io.BytesIO(records.tobytes()))
        for item, content in members or []:
            item.size = len(content)
            archive.addfile(item, io.BytesIO(content))
    return path


def link(name, target):
    item = tarfile.TarInfo(name)
    item.type, item.linkname = tarfile.SYMTYPE, target
    return item


def test_an_archive_is_read_and_writes_nothing(small):
    harm = [(tarfile.TarInfo(name), b"harm") for name in ("../evil", "/tmp/evil.bin", f"{FOLDER}/../../evil")]
    pack(small, [*harm, (link(f"{FOLDER}/more", "/etc/passwd"), b"")])
    before = sorted(small.folder.parent.rglob("*"))
    data = load_small(rf"official test images in .*{ARCHIVE}")
    assert sorted(small.folder.parent.rglob("*")) == before
    assert data.found == {"train": 50, "test": 10}


def test_a_link_inside_an_archive_is_not_a_batch(small):
    del small.cifar["test_batch.bin"]
    pack(small, [(link(f"{FOLDER}/test_batch.bin", "/etc/passwd"), b"")])
    with pytest.raises(ValueError, match=rf"{ARCHIVE}/test_batch\.bin: not found"):
        load("cifar10")


@pytest.mark.parametrize("share", [0, 0.0001, 0.2, 0.5, 0.99, 0.99999])
def test_a_cut_archive_is_refused_by_name(small, share):
    path = pack(small)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=rf"{ARCHIVE}: .* cut or corrupted"):
        load("cifar10")


def test_a_corrupted_archive_is_refused_by_name(small):
    path = pack(small)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{ARCHIVE}: .* cut or corrupted"):
        load("cifar10")


def test_a_cut_batch_inside_an_archive_is_refused_by_name(small):
    small.cifar["data_batch_2.bin"] = small.cifar["data_batch_2.bin"].ravel()[:-7]
    pack(small)
    with pytest.raises(ValueError, match=rf"{ARCHIVE}/data_batch_2\.bin: cut inside a record"):
        load("cifar10")


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9, 0.999])
def test_a_flipped_byte_inside_an_archive_is_refused_by_name(small, place):
    path = pack(small)
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{ARCHIVE}.*: "):
        load("cifar10")


def test_a_page_instead_of_an_archive_is_refused_by_name(small):
    (small.folder / ARCHIVE).write_text("<!DOCTYPE html><html>Not found</html>")
    with pytest.raises(ValueError, match=rf"{ARCHIVE}: an archive that is cut or corrupted"):
        load("cifar10")

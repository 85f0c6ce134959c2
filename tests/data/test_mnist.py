"""MNIST: the real one where it is at hand, and files broken in every way."""

import gzip
import hashlib
import struct

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from layouts import idx_bytes

from hilbertnet.data import IncompleteDataWarning, load
from hilbertnet.data.mnist import read_idx

SMALL = "20 of the 60,000 official training images and 10 of the 10,000 official test images"
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def load_small():
    with pytest.warns(IncompleteDataWarning, match=SMALL) as caught:
        data = load("mnist")
    assert len(caught) == 1
    return data


def test_the_real_one(data_folder):
    data = load("mnist")
    assert str(data) == "mnist: 60,000 grey images of 28 x 28 and 10,000 official test images, 10 classes"
    assert data.x.shape == (60_000, 1, 28, 28)
    assert data.x.dtype == data.test_x.dtype == np.float32
    assert data.x.min() == data.test_x.min() == 0
    assert data.x.max() == data.test_x.max() == 1
    assert data.x.mean(dtype=np.float64) == pytest.approx(0.1306604763, abs=1e-8)
    assert data.x.std(dtype=np.float64) == pytest.approx(0.3081078082, abs=1e-7)
    assert data.y[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.test_y[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert np.bincount(data.y).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    again = idx_bytes((data.x[:, 0] * 255).round())
    assert hashlib.md5(again, usedforsecurity=False).hexdigest() == "6bbc9ace898e44ae57da46a324031adb"
    assert data.to_dict()["found"] == data.to_dict()["official"] == {"train": 60_000, "test": 10_000}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", [".", "mnist"])
def test_few_but_whole_records_are_taken_with_one_warning(small, zipped, place):
    small.write_mnist(small.folder / place, zipped)
    data = load_small()
    assert np.array_equal(data.x[:, 0], small.mnist[IMAGES].astype(np.float32) / np.float32(255))
    assert data.y.tolist() == small.mnist[LABELS].tolist()
    assert data.test_x.shape == (10, 1, 28, 28)
    assert data.to_dict() == {
        "name": "mnist",
        "kind": "images",
        "shape": [1, 28, 28],
        "classes": list("0123456789"),
        "found": {"train": 20, "test": 10},
        "official": {"train": 60_000, "test": 10_000},
    }
    assert "20 of 60,000 grey images of 28 x 28 and 10 of 10,000 official test images" in str(data)


def test_a_raw_file_may_have_the_name_of_a_gzipped_one(small):
    folder = small.write_mnist()
    (folder / f"{LABELS}.gz").write_bytes(idx_bytes(small.mnist[LABELS]))
    assert load_small().y.tolist() == small.mnist[LABELS].tolist()


@pytest.mark.parametrize("name", [f"{s}-{k}" for s in ("train", "t10k") for k in ("images-idx3", "labels-idx1")])
def test_a_missing_file_is_named(small, name):
    folder = small.write_mnist()
    (folder / f"{name}-ubyte.gz").unlink()
    with pytest.raises(ValueError, match=rf"{name}-ubyte\.gz: not found beside"):
        load("mnist")


def header(*numbers):
    return struct.pack(f">{len(numbers)}I", *numbers)


PIXELS = bytes(784)
BROKEN_IMAGES = {
    "empty": (b"", "cut inside its header"),
    "half a header": (header(0x803, 20, 28)[:9], "cut inside its header"),
    "wrong magic": (header(0x801, 20, 28, 28) + 20 * PIXELS, "expected the magic number 2051 of an idx file, got 2049"),
    "floats": (header(0xD03, 20, 28, 28) + 80 * PIXELS, "expected the magic number 2051"),
    "little endian": (struct.pack("<4I", 0x803, 20, 28, 28) + 20 * PIXELS, "magic number"),
    "a page": (b"<!DOCTYPE html><html>Not found</html>", "magic number"),
    "other size": (header(0x803, 20, 32, 32) + bytes(20 * 1024), "expected images of 28 x 28, got 32 x 32"),
    "no image": (header(0x803, 0, 28, 28), "expected 1 to 60,000 records, its header says 0"),
    "terabytes": (header(0x803, 2**32 - 1, 28, 28), "its header says 4,294,967,295"),
    "terabytes of pixels": (header(0x803, 20, 2**32 - 1, 2**32 - 1), "expected images of 28 x 28"),
    "cut in a record": (
        header(0x803, 20, 28, 28) + bytes(784 * 7 + 5),
        "says 20 records, it holds 7 and a part of one",
    ),
    "cut between records": (header(0x803, 20, 28, 28) + bytes(784 * 7), "says 20 records, it holds 7$"),
    "too long": (header(0x803, 20, 28, 28) + bytes(784 * 20 + 1), "says 20 records, it holds more"),
    "fewer images than labels": (header(0x803, 19, 28, 28) + 19 * PIXELS, "19 images, but 20 labels in .*labels"),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", BROKEN_IMAGES)
def test_broken_images_are_refused_by_name(small, kind, zipped):
    content, message = BROKEN_IMAGES[kind]
    folder = small.write_mnist(zipped=zipped)
    name = f"{IMAGES}.gz" if zipped else IMAGES
    (folder / name).write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(ValueError, match=rf"{name}: .*{message}"):
        load("mnist")


@pytest.mark.parametrize("label", [10, 255])
def test_labels_out_of_range_are_refused_by_name(small, label):
    small.mnist[LABELS][3] = label
    small.write_mnist()
    with pytest.raises(ValueError, match=rf"{LABELS}\.gz: expected labels 0 to 9, got {label} at index 3"):
        load("mnist")


@pytest.mark.parametrize("share", [0.001, 0.01, 0.3, 0.5, 0.9, 0.999])
def test_a_gzip_cut_anywhere_is_refused_by_name(small, share):
    path = small.write_mnist() / f"{IMAGES}.gz"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=rf"{IMAGES}\.gz: .*cut"):
        load("mnist")


def test_a_gzip_whose_sum_is_wrong_is_refused_by_name(small):
    path = small.write_mnist() / f"{IMAGES}.gz"
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{IMAGES}\.gz: a gzip file that is cut or corrupted \(CRC"):
        load("mnist")


def test_what_follows_a_gzip_is_refused_by_name(small):
    path = small.write_mnist() / f"{IMAGES}.gz"
    path.write_bytes(path.read_bytes() + b"and then some")
    with pytest.raises(ValueError, match=rf"{IMAGES}\.gz: "):
        load("mnist")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("idx") / "fuzzed-idx3-ubyte"


GOOD = idx_bytes(np.arange(3 * 784).reshape(3, 28, 28) % 251)
GOOD_GZ = gzip.compress(GOOD, mtime=0)


def read_or_refuse(path, content):
    """What was read, or ``None`` if it was refused by name."""
    path.write_bytes(content)
    try:
        return read_idx(path, (28, 28), 60_000)
    except ValueError as error:
        message = str(error)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.binary(max_size=40))
@example(b"", b"\x1f\x8b")
@example(b"\x1f\x8b\x08\x00", b"")
def test_noise_is_refused(scratch, start, end):
    assert read_or_refuse(scratch, start + end) is None
    assert read_or_refuse(scratch, gzip.compress(start + end)) is None


@settings(max_examples=200, deadline=None)
@given(st.tuples(*[st.integers(0, 2**32 - 1)] * 4))
def test_a_fuzzed_header_is_refused(scratch, numbers):
    content = header(*numbers) + GOOD[16:]
    found = read_or_refuse(scratch, content)
    assert (found is None) == (content != GOOD)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(GOOD_GZ) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_does_no_harm(scratch, place, change):
    content = bytearray(GOOD_GZ)
    content[place] ^= change
    found = read_or_refuse(scratch, bytes(content))
    if found is not None:  # the change was in the gzip header's time or system
        assert found.tobytes() == GOOD[16:]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.booleans())
def test_a_cut_file_is_refused(scratch, end, zipped):
    assert read_or_refuse(scratch, gzip.compress(GOOD[:end]) if zipped else GOOD[:end]) is None

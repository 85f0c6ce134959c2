"""Broken input of every kind, through the command line: one error that names the file, and nothing left behind."""

import gzip
import io
import os
import signal
import struct
import sys
import tarfile
import warnings
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hilbertnet.experiments import FitSettings, fit_run

SMALL = ["--filters", "4,8", "--patches", "500"]
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
MNIST = [f"{stem}-{kind}" for stem in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]
IMAGES, LABELS, TEST_IMAGES, TEST_LABELS = MNIST


# --- sound inputs, as files by name


def pixels_of(n, *shape):
    """Two kinds of noise that are easily told apart."""
    x = np.random.RandomState(0).randint(0, 256, (n, *shape)).astype(np.uint8)
    x[1::2] //= 8
    return x


def idx(records, magic=None, sizes=None):
    records = np.asarray(records, np.uint8)
    magic = 0x800 + records.ndim if magic is None else magic
    return struct.pack(f">{1 + records.ndim}I", magic, *(sizes or records.shape)) + records.tobytes()


def mnist(**changed):
    """The four files of a small MNIST: gzipped, or as they are where a name has no suffix."""
    records = {
        IMAGES: pixels_of(20, 28, 28),
        LABELS: np.arange(20) % 2,
        TEST_IMAGES: pixels_of(6, 28, 28),
        TEST_LABELS: np.arange(6) % 2,
    }
    files = {f"{name}.gz": gzip.compress(idx(content), mtime=0) for name, content in records.items()}
    for name, content in changed.items():
        del files[f"{name}.gz"]
        files[name if changed_raw(content) else f"{name}.gz"] = content
    return files


def changed_raw(content):
    return content[:2] != b"\x1f\x8b"


def cifar_records(n=4):
    records = np.random.RandomState(0).randint(0, 256, (n, 3073)).astype(np.uint8)
    records[:, 0] = np.arange(n) % 10
    return records


def cifar(**changed):
    """The files of a small CIFAR-10; ``None`` removes one."""
    files = {name: cifar_records().tobytes() for name in ("data_batch_1.bin", "data_batch_2.bin", "test_batch.bin")}
    files["batches.meta.txt"] = "\n".join(NAMES).encode() + b"\n\n"
    files |= {f"{name}.bin" if name != "meta" else "batches.meta.txt": content for name, content in changed.items()}
    return {name: content for name, content in files.items() if content is not None}


def cifar_archive(**changed):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in cifar(**changed).items():
            item = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            item.size = len(content)
            archive.addfile(item, io.BytesIO(content))
    return packed.getvalue()


def npy(array, **changed):
    """One array in the .npy format, or with a header that lies."""
    content = io.BytesIO()
    if not changed:
        np.lib.format.write_array(content, array, allow_pickle=True)
        return content.getvalue()
    header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(content, header | changed)
    return content.getvalue() + array.tobytes()


X, Y = pixels_of(20, 8, 8), np.arange(20) % 2


def npz(members=None, **arrays):
    """An .npz file of x and y, of others, or of raw members."""
    packed = io.BytesIO()
    arrays = {"x": X, "y": Y} | arrays
    contents = {name: npy(value) for name, value in arrays.items() if value is not None} | (members or {})
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in contents.items():
            archive.writestr(f"{name}.npy", content)
    return packed.getvalue()


def picture(pixels=None, kind="PNG", **options):
    content = io.BytesIO()
    Image.fromarray(X[0] if pixels is None else pixels).save(content, format=kind, **options)
    return content.getvalue()


def photos(**changed):
    """Two classes of six pictures by name; a slash is written as two underscores, ``None`` removes one."""
    files = {f"{'ab'[i % 2]}/{i:02}.png": picture(X[i]) for i in range(12)}
    files |= {name.replace("__", "/").replace("_png", ".png"): content for name, content in changed.items()}
    return {name: content for name, content in files.items() if content is not None}


# --- what is broken: where it is written, what is named


class Broken:
    """A case: how to write it into a folder (the argument DATA comes back), and words that the error must have."""

    def __init__(self, name, write, words, commands=("fit", "predict", "gram"), run="small"):
        self.name, self.write, self.commands, self.run = name, write, commands, run
        self.words = (words,) if isinstance(words, str) else words


CASES = []


def case(name, words, commands=("fit", "predict", "gram"), run="small"):
    """Register a function that writes a case."""

    def register(write):
        CASES.append(Broken(name, write, words, commands, run))
        return write

    return register


def write_files(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def in_files(kind, name, files, words, commands=("fit", "predict", "gram")):
    """A case of MNIST or CIFAR-10 in the folder that HILBERTNET_DATA names."""

    @case(f"{kind}-{name}", words, commands, run=kind)
    def write(folder):
        write_files(folder / "home", files)
        return kind


def in_npz(name, content, words="data.npz", commands=("fit", "predict", "gram")):
    """A case of an .npz file."""

    @case(f"npz-{name}", words, commands)
    def write(folder):
        (folder / "data.npz").write_bytes(content)
        return folder / "data.npz"


def in_fasta(name, content, words="data.fasta", commands=("fit", "predict", "gram")):
    """A case of a FASTA file."""

    @case(f"fasta-{name}", words, commands, run="letters")
    def write(folder):
        (folder / "data.fasta").write_bytes(content)
        return folder / "data.fasta"


def in_photos(name, files, words, commands=("fit", "predict", "gram")):
    """A case of a folder of pictures."""

    @case(f"folder-{name}", words, commands)
    def write(folder):
        return write_files(folder / "photos", files)


NO_TEST = ("fit", "gram")  # which need the training part alone, or before the test part
LOAD = ("fit", "predict", "gram")

# idx
raw = idx(pixels_of(20, 28, 28))
in_files("mnist", "magic", mnist(**{IMAGES: idx(pixels_of(20, 28, 28), magic=0x801)}), (IMAGES, "magic"))
in_files("mnist", "magic-of-floats", mnist(**{IMAGES: idx(pixels_of(20, 28, 28), magic=0xD03)}), (IMAGES, "magic"))
in_files("mnist", "little-endian", mnist(**{IMAGES: b"\x03\x08\0\0" + raw[4:]}), (IMAGES, "magic"))
for size in (0, 19, 21, 60_000, 60_001, 2**31, 2**32 - 1):
    lying = idx(pixels_of(20, 28, 28), sizes=(size, 28, 28))
    in_files("mnist", f"{size}-images", mnist(**{IMAGES: lying}), IMAGES)
    in_files("mnist", f"{size}-images-gz", mnist(**{IMAGES: gzip.compress(lying)}), IMAGES)
for shape in ((20, 27, 28), (20, 0, 0), (20, 2**32 - 1, 2**32 - 1), (20, 14, 56)):
    lying = idx(pixels_of(20, 28, 28), sizes=shape)
    in_files("mnist", f"{shape[1]}x{shape[2]}", mnist(**{IMAGES: lying}), IMAGES)
for label in (10, 255):
    in_files("mnist", f"label-{label}", mnist(**{LABELS: idx([*([0, 1] * 9), 0, label])}), (LABELS, str(label)))
in_files("mnist", "test-label-10", mnist(**{TEST_LABELS: idx([0, 1, 0, 1, 0, 10])}), (TEST_LABELS, "10"))
in_files("mnist", "fewer-labels", mnist(**{LABELS: idx(np.arange(19) % 2)}), (IMAGES, LABELS))
in_files("mnist", "swapped", mnist(**{LABELS: raw}), (LABELS, "magic"))
in_files("mnist", "empty", mnist(**{IMAGES: b""}), (IMAGES, "cut inside its header"))
for end in (1, 3, 4, 15, 16, 17, len(raw) - 1):
    in_files("mnist", f"cut-at-{end}", mnist(**{IMAGES: raw[:end]}), IMAGES)
in_files("mnist", "more-bytes", mnist(**{IMAGES: raw + b"\0"}), IMAGES)
in_files("mnist", "a-page", mnist(**{IMAGES: b"<!DOCTYPE html><html>404</html>"}), (IMAGES, "magic"))
zipped = gzip.compress(raw, mtime=0)
for share in (0.01, 0.2, 0.5, 0.9, 0.9999):
    in_files("mnist", f"gz-cut-{share}", mnist(**{IMAGES: zipped[: max(3, int(share * len(zipped)))]}), IMAGES)
for place in (12, 100, len(zipped) // 2, len(zipped) - 7, len(zipped) - 1):
    flipped = bytearray(zipped)
    flipped[place] ^= 0x10
    in_files("mnist", f"gz-flipped-{place}", mnist(**{IMAGES: bytes(flipped)}), IMAGES)
in_files("mnist", "gz-of-gz", mnist(**{IMAGES: gzip.compress(zipped)}), (IMAGES, "magic"))
bomb = gzip.compress(idx(np.zeros((20, 28, 28), np.uint8)) + bytes(2**26))
in_files("mnist", "gz-bomb", mnist(**{IMAGES: bomb}), (IMAGES, "holds more"))
in_files("mnist", "missing", {name: content for name, content in mnist().items() if IMAGES not in name}, IMAGES)


@case("mnist-a-folder-for-a-file", IMAGES, run="mnist")
def _(folder):
    files = mnist()
    del files[f"{IMAGES}.gz"]
    (write_files(folder / "home", files) / f"{IMAGES}.gz").mkdir()
    return "mnist"


@case("mnist-a-pipe-for-a-file", IMAGES, run="mnist")
def _(folder):
    files = mnist()
    del files[f"{IMAGES}.gz"]
    os.mkfifo(write_files(folder / "home", files) / f"{IMAGES}.gz")
    return "mnist"


@case("mnist-HILBERTNET_DATA-is-a-file", "HILBERTNET_DATA", run="mnist")
def _(folder):
    (folder / "home").write_bytes(b"no folder")
    return "mnist"


@case("mnist-HILBERTNET_DATA-is-nothing", "HILBERTNET_DATA", run="mnist")
def _(folder):
    return "mnist"


# CIFAR-10
one = cifar_records().tobytes()
for end in (1, 3072, 3074, len(one) - 1):
    in_files("cifar10", f"cut-at-{end}", cifar(data_batch_1=one[:end]), ("data_batch_1.bin", "cut inside a record"))
in_files("cifar10", "test-cut", cifar(test_batch=one[:-5]), ("test_batch.bin", "cut inside a record"))
in_files("cifar10", "empty-batch", cifar(data_batch_2=b""), ("data_batch_2.bin", "no record"))
in_files("cifar10", "label-10", cifar(data_batch_2=b"\n" + one[1:]), ("data_batch_2.bin", "got 10 in record 0"))
in_files("cifar10", "label-255", cifar(test_batch=one[:3073] + b"\xff" + one[3074:]), ("test_batch.bin", "255"))
in_files("cifar10", "no-test", cifar(test_batch=None), "test_batch.bin")
in_files("cifar10", "gap", cifar(data_batch_1=None), "data_batch_1.bin")
in_files("cifar10", "other-names", cifar(meta=b"cat\ndog\n"), "batches.meta.txt")
in_files("cifar10", "names-of-noise", cifar(meta=bytes(range(256))), "batches.meta.txt")
in_files("cifar10", "no-names", cifar(meta=b""), "batches.meta.txt")
archive = cifar_archive()
TAR = "cifar-10-binary.tar.gz"
for share in (0.001, 0.3, 0.8, 0.9999):
    in_files("cifar10", f"tar-cut-{share}", {TAR: archive[: int(share * len(archive))]}, TAR)
for place in (20, len(archive) // 2, len(archive) - 6):
    flipped = bytearray(archive)
    flipped[place] ^= 0x10
    in_files("cifar10", f"tar-flipped-{place}", {TAR: bytes(flipped)}, TAR)
in_files("cifar10", "tar-of-noise", {TAR: gzip.compress(bytes(range(256)) * 40)}, TAR)
in_files("cifar10", "tar-of-nothing", {TAR: cifar_archive(data_batch_1=None, data_batch_2=None)}, TAR)
in_files("cifar10", "tar-a-page", {TAR: b"<html>404</html>"}, TAR)
in_files("cifar10", "tar-empty", {TAR: b""}, TAR)
in_files("cifar10", "tar-cut-batch", {TAR: cifar_archive(data_batch_1=one[:-1])}, (TAR, "data_batch_1.bin"))
in_files("cifar10", "tar-label", {TAR: cifar_archive(test_batch=b"\x0b" + one[1:])}, (TAR, "test_batch.bin"))

# .npz
in_npz("empty", b"")
in_npz("text", b"no zip file\n")
in_npz("end-alone", b"PK\x05\x06" + bytes(18), ("data.npz", "x"))
in_npz("an-npy", npy(X))
in_npz("a-gzip", gzip.compress(npz()))
for share in (0.1, 0.5, 0.9, 0.999):
    in_npz(f"cut-{share}", npz()[: int(share * len(npz()))])
in_npz("no-x", npz(x=None), ("data.npz", "x"))
in_npz("no-y", npz(y=None), ("data.npz", "y"), NO_TEST)
in_npz("both-spellings", npz(x_train=X), ("data.npz", "x_train"))
in_npz("test-labels-alone", npz(y_test=Y), ("data.npz", "x_test"))
in_npz("test-images-alone", npz(x_test=X), ("data.npz", "x_test"), NO_TEST)
in_npz("fewer-labels", npz(y=Y[:-1]), ("data.npz", "y"))
in_npz("no-images", npz(x=X[:0], y=Y[:0]), ("data.npz: x", "shape (0, 8, 8)"))
in_npz("one-axis", npz(x=X.reshape(20, 64)[:, 0]), ("data.npz: x", "shape (20,)"))
in_npz("rows-not-finite", npz(x=np.full((20, 3), np.inf)), ("data.npz: x", "finite"))
in_npz("rows-of-words", npz(x=np.full((20, 3), "word")), ("data.npz: x", "expected numbers"))
in_npz("five-axes", npz(x=X[:, None, None]), "data.npz: x")
in_npz("a-number", npz(x=np.float64(1)), "data.npz: x")
in_npz("labels-in-two-columns", npz(y=np.eye(2)[Y]), "data.npz: y")
in_npz("other-test-shape", npz(x_test=X[:, :7], y_test=Y), ("data.npz", "test_x"), NO_TEST)
in_npz("words-and-numbers", npz(x_test=X, y_test=np.array(["a", "b"])[Y]), ("data.npz", "y_test"), NO_TEST)
for name, value in (("nan", np.nan), ("infinity", np.inf), ("negative", -0.25), ("above-one", 1.5)):
    real = X / 255
    real[3, 2, 1] = value
    in_npz(f"pixel-{name}", npz(x=real), "data.npz: x")
in_npz("pixel-256", npz(x=X.astype(np.int64) + 256), "data.npz: x")
in_npz("pixel-minus-one", npz(x=X.astype(np.int16) - 1), "data.npz: x")
in_npz("complex", npz(x=X + 1j), "data.npz: x")
in_npz("dates", npz(x=X.astype("M8[s]")), "data.npz: x")
in_npz("label-nan", npz(y=np.where(Y, np.nan, 0.0)), "data.npz: y")
in_npz("label-half", npz(y=Y / 2), "data.npz: y")
in_npz("label-1e300", npz(y=Y * 1e300), "data.npz: y")
in_npz("label-complex", npz(y=Y * 1j), "data.npz: y")
in_npz("label-dates", npz(y=Y.astype("M8[s]")), "data.npz: y")
in_npz("x-of-objects", npz(x=X.astype(object)), ("data.npz: x", "objects"))
in_npz("y-of-objects", npz(y=np.array(["a", None] * 10, object)), ("data.npz: y", "objects"))
records = np.zeros(20, [("a", object), ("b", int)])
in_npz("y-of-records-of-objects", npz(y=records), "data.npz: y")
in_npz("y-of-records", npz(y=np.zeros(20, [("a", int), ("b", int)])), "data.npz: y")
raw_points = np.where(Y, 0x7FFFFFFF, 97).astype(np.uint32)
in_npz("label-no-letter", npz(y=raw_points.view("<U1")), ("data.npz", "y"))
in_npz("label-surrogate", npz(y=np.where(Y, 0xD800, 97).astype(np.uint32).view("<U1")), ("data.npz", "y"), ("fit",))
for shape in ((10**6, 10**3, 10**3), (2**62, 8, 8), (2**63, 2, 2), (20, 8, 9), (20, 8), (20, -8, -8), (0, 8, 8)):
    lying = npy(X, shape=shape)
    in_npz(f"header-{'x'.join(map(str, shape))}", npz({"x": lying}, x=None), "data.npz: x")
in_npz("header-of-objects", npz({"x": npy(X, descr="|O")}, x=None), ("data.npz: x", "objects"))
in_npz("header-of-void", npz({"x": npy(X, descr="|V0")}, x=None), "data.npz: x")
in_npz("header-of-huge-items", npz({"x": npy(X, descr="<U268435456")}, x=None), "data.npz: x")
in_npz("header-nested", npz({"x": b"\x93NUMPY\x01\0\xff\xff" + b"(" * 65535}, x=None), "data.npz: x")
in_npz("header-4-GB", npz({"x": b"\x93NUMPY\x02\0\xff\xff\xff\xff" + b" " * 100}, x=None), "data.npz: x")
in_npz("header-of-code", npz({"x": npy(X).replace(b"False", b"exit()")}, x=None), "data.npz: x")
in_npz("header-of-noise", npz({"x": bytes(range(256)) * 2}, x=None), "data.npz: x")
in_npz("empty-member", npz({"x": b""}, x=None), "data.npz: x")


def lying_zip(field, value):
    """Sizes in the central directory that are not the members'."""
    content = bytearray(npz())
    start = content.index(b"PK\x01\x02")
    struct.pack_into("<I", content, start + field, value)
    return bytes(content)


in_npz("zip-size", lying_zip(24, 2**31), "data.npz: x")
in_npz("zip-packed-size", lying_zip(20, 5), "data.npz: x")
in_npz("zip-method", lying_zip(10, 99), "data.npz: x")
in_npz("zip-encrypted", lying_zip(8, 1), "data.npz: x")
in_npz("zip-offset", lying_zip(42, 2**30), "data.npz: x")
in_npz("one-class", npz(y=0 * Y), ("data.npz", "class"), ("fit",))
in_npz("a-class-with-one-image", npz(y=np.arange(20) // 19), ("class with one", "1"), ("fit",))
in_npz("all-black", npz(x=0 * X), "data.npz", ("fit",))
in_npz("smaller-than-a-patch", npz(x=X[:, :2, :2]), "filters", ("fit",))


@case("npz-a-pipe", "data.npz")
def _(folder):
    os.mkfifo(folder / "data.npz")
    return folder / "data.npz"


@case("npz-a-link-to-nothing", "data.npz")
def _(folder):
    (folder / "data.npz").symlink_to("nothing")
    return folder / "data.npz"


@case("npz-a-link-to-itself", "data.npz")
def _(folder):
    (folder / "data.npz").symlink_to("data.npz")
    return folder / "data.npz"


@case("nothing", "DATA")
def _(folder):
    return folder / "nothing"


@case("a-name-of-two-lines", "DATA")
def _(folder):
    return folder / "two\nlines"


@case("a-name-that-is-too-long", "DATA")
def _(folder):
    return folder / ("x" * 5000)


# folders
noise = np.random.RandomState(1).randint(0, 256, (24, 24, 3)).astype(np.uint8)
in_photos("text", photos(a__00_png=b"no image\n"), "00.png: expected an image")
in_photos("empty-file", photos(a__00_png=b""), "00.png: expected an image")
in_photos("an-npy", photos(a__00_png=npy(X)), "00.png: expected an image")
in_photos("svg", photos(a__00_png=b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "00.png: expected an image")
in_photos(
    "postscript", photos(a__00_png=b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"), "00.png: expected an im"
)
for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
    whole = picture(noise, kind)
    for share in (0.1, 0.6):
        in_photos(
            f"{kind.lower()}-cut-{share}", {"a/0.png": whole[: int(share * len(whole))], "b/0.png": whole}, "a/0.png"
        )
flipped = bytearray(picture(noise))
flipped[len(flipped) // 2] ^= 0x10
in_photos("png-flipped", {"a/0.png": bytes(flipped), "b/0.png": picture(noise)}, "a/0.png")


def huge_png(side):
    """A header of many pixels, with none of them."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


for side in (0, 9_000, 100_000, 2**31 - 1):
    in_photos(f"png-of-{side}", photos(a__00_png=huge_png(side)), "00.png: expected an image")
in_photos("sizes-that-differ", photos(b__11_png=picture(X[0, :7])), ("11.png of 7 x 8", "00.png of 8 x 8"))
in_photos("no-class", {}, "photos")
in_photos("class-without-images", photos() | {"c/.hidden": b""}, ("photos/c", "none"))
in_photos("one-class", {f"a/{i}.png": picture(X[i]) for i in range(6)}, ("class",), ("fit",))
in_photos("a-class-with-one-image", photos(c__0_png=picture()), ("class with one", "c"), ("fit",))
in_photos("one-image", {"a/0.png": picture()}, "a", ("fit",))
in_photos("nested", photos() | {"a/deeper/0.png": picture()}, "a/deeper")
in_photos("images-without-class", {f"{i}.png": picture(X[i]) for i in range(6)}, "0.png", ("fit", "gram"))
in_photos("an-image-beside-classes", photos() | {"0.png": picture()}, "0.png")
in_photos("all-black", {f"{c}/{i}.png": picture(0 * X[0]) for c in "ab" for i in range(6)}, "photos", ("fit",))
in_photos("32-bits", photos(a__00_png=picture(X[0].astype(np.int32), "TIFF")), "00.png: expected an image")
in_photos("a-name-of-two-lines", photos() | {"a/two\nlines.png": b"no image"}, "two\ufffdlines.png")
in_photos("a-class-of-two-lines", photos() | {"two\nlines/0.png": b"no image"}, "two\ufffdlines")
in_photos("an-escape", photos() | {"a/\x1b[31mred.png": b"no image"}, "\ufffd[31mred.png")
in_photos("one-text-twice", photos() | {"\u00e9/0.png": picture(), "e\u0301/0.png": picture()}, "same text")


def in_odd_photos(name, words, commands=("fit", "predict", "gram")):
    """A case of a folder to which something is done."""

    def decorate(change):
        @case(f"folder-{name}", words, commands)
        def write(folder):
            place = write_files(folder / "photos", photos())
            change(place)
            return place

        return write

    return decorate


@in_odd_photos("link-to-itself", "photos/c")
def _(place):
    (place / "c").symlink_to("c")


@in_odd_photos("link-to-parent", "photos/c")
def _(place):
    (place / "c").symlink_to("..")


@in_odd_photos("link-to-the-folder", "photos/c")
def _(place):
    (place / "c").symlink_to(place)


@in_odd_photos("class-links-to-itself-inside", "photos/a/c")
def _(place):
    (place / "a" / "c").symlink_to(place / "a")


@in_odd_photos("link-to-nothing", "photos/c")
def _(place):
    (place / "c").symlink_to("nothing")


@in_odd_photos("image-links-to-nothing", "photos/a/x.png")
def _(place):
    (place / "a" / "x.png").symlink_to("nothing.png")


@in_odd_photos("image-links-to-a-device", "photos/a/x.png")
def _(place):
    (place / "a" / "x.png").symlink_to("/dev/zero")


@in_odd_photos("pipe-among-classes", "photos/pipe")
def _(place):
    os.mkfifo(place / "pipe")


@in_odd_photos("pipe-among-images", "photos/a/pipe.png")
def _(place):
    os.mkfifo(place / "a" / "pipe.png")


@in_odd_photos("image-links-to-a-pipe", "photos/a/x.png")
def _(place):
    os.mkfifo(place.parent / "pipe")
    (place / "a" / "x.png").symlink_to(place.parent / "pipe")


@in_odd_photos("class-without-permission", "photos/b")
def _(place):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (place / "b").chmod(0)


@in_odd_photos("image-without-permission", "00.png")
def _(place):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (place / "a" / "00.png").chmod(0)


@in_odd_photos("broken-name-that-is-no-text", "caf\ufffd.png")
def _(place):
    try:
        Path(os.fsdecode(os.fsencode(place) + b"/a/caf\xe9.png")).write_bytes(b"no image")
    except OSError:
        pytest.skip("this file system takes only names that are text")


# FASTA
letters = "".join(f">s{i} class={'ab'[i % 2]}\n{'ACGT'[i % 4] * 3}TTACGGA\n" for i in range(20)).encode()
in_fasta("empty", b"")
in_fasta("text", b"no sequence\n", ("data.fasta, line 1", "'>'"))
in_fasta("a-number", letters + b">last class=a\nAC1T\n", ("data.fasta, line 42", "'1'"))
in_fasta("no-letters", letters + b">last class=a\n", ("data.fasta, line 41", "sequence"))
in_fasta("no-name", letters + b">\nACGT\n", ("data.fasta, line 41", "name"))
in_fasta("noise", bytes(range(256)))
in_fasta("a-gzip-cut", gzip.compress(letters)[:-9])
in_fasta("a-gap", letters + b">last class=a\nAC-T\n", ("sequence 20 (last)", "'-'"))
in_fasta("one-without-class", letters + b">last\nACGT\n", ("label", "sequence 20 (last)"))
in_fasta("no-classes", letters.replace(b"class=", b""), ("label", "data.fasta"), NO_TEST)
in_fasta("longer-than-the-run", b">one\n" + b"ACGT" * 9, ("data.fasta", "at most 10 letters", "36"), ("predict",))

# --- the command line


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Finished runs for predict, by what they are for."""
    folder = tmp_path_factory.mktemp("runs")
    made = {}

    def run(kind):
        if kind == "letters" and kind not in made:
            (folder / "letters.fasta").write_bytes(letters)
            settings = FitSettings(str(folder / "letters.fasta"), "3 exp(0.6) global", filters=(4,), patches=500)
            fit_run(settings, folder / kind, progress=False)
            made[kind] = folder / kind
        if kind not in made:
            shape = {"small": (8, 8), "mnist": (28, 28), "cifar10": (3, 32, 32)}[kind]
            np.savez(folder / f"{kind}.npz", x=pixels_of(8, *shape), y=np.arange(8) % 2)
            settings = FitSettings(str(folder / f"{kind}.npz"), filters=(4, 8), patches=500)
            fit_run(settings, folder / kind, progress=False)
            made[kind] = folder / kind
        return made[kind]

    return run


@contextmanager
def no_longer_than(seconds):
    """What hangs is stopped."""

    def stop(*_):
        raise TimeoutError("hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Call the command line in an empty folder: exit code, output, errors, and what is new below `tmp_path`."""
    from hilbertnet import cli

    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("HILBERTNET_DATA", str(tmp_path / "in" / "home"))
    for folder in ("in", "here"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hilbertnet", *map(str, arguments)])
        before = everything(tmp_path)
        capsys.readouterr()
        with warnings.catch_warnings(action="default"), no_longer_than(60), pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        after = everything(tmp_path)
        assert {path: after.get(path) for path in before} == before  # inputs are as they were
        return stopped.value.code or 0, out, err, sorted(after.keys() - before.keys())

    return run


def everything(folder):
    """Files and folders below one, without following links."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in folders + files:
            path = os.path.join(place, name)
            state = os.lstat(path)
            found[path] = (state.st_mode, state.st_ino, 0 if name in folders else state.st_size)
    return found


def command_of(command, data, runs, kind):
    if command == "fit":
        layers = ["--architecture", "3 exp(0.6) - | 3 exp(0.6) global"] if kind == "letters" else []
        return ["fit", data, *SMALL, *layers]
    if command == "predict":
        return ["predict", runs(kind), data, "--out", "p.csv"]
    return ["gram", data, "--kernel", "3 exp(0.6) gauss4"]


def check_refusal(found):
    """Exit code 2, one message, nothing new."""
    code, out, err, new = found
    assert code == 2, err or out
    messages = [line for line in err.splitlines() if not line.startswith("hilbertnet: warning: ")]
    assert len(messages) == 1, err
    assert messages[0].startswith("hilbertnet: ")
    assert "Traceback" not in err
    assert len(messages[0]) < 6000
    assert messages[0].isprintable()
    assert new == []
    return messages[0]


@pytest.mark.parametrize(
    ("broken", "command"),
    [pytest.param(broken, command, id=f"{command}-{broken.name}") for broken in CASES for command in broken.commands],
)
def test_a_broken_input_is_one_error_that_names_it(broken, command, tmp_path, call, runs):
    data = broken.write(tmp_path / "in")
    arguments = command_of(command, data, runs, broken.run)
    message = check_refusal(call(*arguments))
    for words in broken.words:
        assert words in message


# the first batch is refused before any row, so this holds with standard output too
@pytest.mark.parametrize("name", ["folder-text", "npz-five-axes", "fasta-a-number", "mnist-magic", "cifar10-label-10"])
def test_a_broken_input_makes_no_row(name, tmp_path, call, runs):
    broken = next(one_case for one_case in CASES if one_case.name == name)
    data = broken.write(tmp_path / "in")
    found = call("predict", runs(broken.run), data)
    check_refusal(found)
    assert "score" not in found[1] or found[1].count("\n") == 1  # the names of columns at most


def test_sound_inputs_are_taken(tmp_path, call, runs):
    """What is broken above is sound until it is broken."""
    write_files(tmp_path / "in" / "home", mnist() | cifar())
    (tmp_path / "in" / "data.npz").write_bytes(npz())
    write_files(tmp_path / "in" / "photos", photos())
    (tmp_path / "in" / "data.fasta").write_bytes(letters)
    places = {"mnist": "mnist", "cifar10": "cifar10", "small": tmp_path / "in" / "data.npz"}
    others = [("small", tmp_path / "in" / "photos"), ("letters", tmp_path / "in" / "data.fasta")]
    for kind, data in [*places.items(), *others]:
        for command in ("fit", "predict", "gram") if kind in ("small", "letters") else ("predict", "gram"):
            code, _, err, new = call(*command_of(command, data, runs, kind))
            assert code == 0, err
            assert new
            for path in new:
                if os.path.isfile(path):
                    os.unlink(path)


# --- noise


def damaged(content, rng):
    """Flip, cut or insert some bytes."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        place = rng.randint(len(content)) if rng.rand() < 0.5 else rng.randint(min(len(content), 120))
        what = rng.randint(4)
        if what == 0:
            content[place] ^= 1 << rng.randint(8)
        elif what == 1:
            content[place] = rng.randint(256)
        elif what == 2:
            content[place:place] = rng.bytes(rng.randint(1, 9))
        elif len(content) > 1:
            del content[place : place + (rng.randint(1, 9) if rng.rand() < 0.7 else len(content))]
        content = content or bytearray(1)
    return bytes(content)


def fuzz_idx(rng, folder):
    name = MNIST[rng.randint(4)]
    files = mnist()
    files[f"{name}.gz"] = damaged(files[f"{name}.gz"], rng)
    write_files(folder / "home", files)
    return "mnist", "mnist"


def fuzz_raw_idx(rng, folder):
    name = MNIST[rng.randint(4)]
    files = mnist()
    files[name] = damaged(gzip.decompress(files.pop(f"{name}.gz")), rng)
    write_files(folder / "home", files)
    return "mnist", "mnist"


def fuzz_cifar(rng, folder):
    files = cifar()
    name = sorted(files)[rng.randint(len(files))]
    files[name] = damaged(files[name], rng)
    write_files(folder / "home", files)
    return "cifar10", "cifar10"


def fuzz_npz(rng, folder):
    (folder / "data.npz").write_bytes(damaged(npz(), rng))
    return folder / "data.npz", "small"


def fuzz_members(rng, folder):
    """The arrays are damaged, and their sums are right."""
    name, array = (("x", X), ("y", Y), ("y", np.array(["a", "b"])[Y]))[rng.randint(3)]
    (folder / "data.npz").write_bytes(npz({name: damaged(npy(array), rng)}, **{name: None}))
    return folder / "data.npz", "small"


def fuzz_pictures(rng, folder):
    files = {f"{'ab'[i % 2]}/{i}": picture(X[i], "PNG") for i in range(6)}
    kind = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "PPM", "TGA", "WEBP")[rng.randint(8)]
    name = sorted(files)[rng.randint(len(files))]
    files[name] = damaged(picture(X[0], kind), rng)
    return write_files(folder / "photos", files), "small"


FUZZ = [fuzz_idx, fuzz_raw_idx, fuzz_cifar, fuzz_npz, fuzz_members, fuzz_pictures]


def check_fuzzed(fuzz, seed, command, tmp_path, call, runs):
    folder = tmp_path / "in"
    data, kind = fuzz(np.random.RandomState(seed), folder)
    found = call(*command_of(command, data, runs, kind))
    if found[0] == 0:
        assert "Traceback" not in found[2]
    else:
        check_refusal(found)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("fuzz", FUZZ, ids=lambda fuzz: fuzz.__name__)
def test_noise_is_refused_or_does_no_harm(fuzz, seed, tmp_path, call, runs):
    """By the commands in turn: loading is what they share."""
    command = "predict" if seed % 3 == 0 else "gram" if seed % 3 == 1 else "fit"
    check_fuzzed(fuzz, seed, command, tmp_path, call, runs)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 300))
@pytest.mark.parametrize("fuzz", FUZZ, ids=lambda fuzz: fuzz.__name__)
def test_much_noise_is_refused_or_does_no_harm(fuzz, seed, tmp_path, call, runs):
    check_fuzzed(fuzz, seed, ("fit", "predict", "gram")[seed % 3], tmp_path, call, runs)

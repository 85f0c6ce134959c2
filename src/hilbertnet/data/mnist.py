"""MNIST from its four official idx files, as they are or gzipped."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hilbertnet.data.dataset import Dataset, as_unit, printable, warn_if_incomplete
from hilbertnet.data.files import RemoteFile, data_folders, fetch, open_unzipped

__all__ = ["load_mnist", "read_idx"]

_MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
_MD5 = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
_OFFICIAL = {"train": 60_000, "test": 10_000}
_STEM = {"train": "train", "test": "t10k"}
_SIDE = 28
_UNSIGNED_BYTES = 8  # the third byte of the magic number of an idx file; the fourth is its number of axes


def load_mnist() -> Dataset:
    """MNIST: 60,000 training and 10,000 test images of 28 x 28.

    Raises
    ------
    ValueError
        If a file is missing, cut or corrupted, or cannot be downloaded.
    """
    files = _local_files() or _downloaded_files()
    train_x, train_y = _read_part(files, "train")
    test_x, test_y = _read_part(files, "test")
    names = tuple(map(str, range(10)))
    place = printable(files["train-images-idx3-ubyte"].parent)
    return warn_if_incomplete(Dataset("mnist", train_x, train_y, names, test_x, test_y, _OFFICIAL), place)


def _local_files() -> dict[str, Path] | None:
    """The four files in the first folder that has one of them; ``None`` if no folder has."""
    for folder in data_folders("mnist"):
        found = {}
        for name in _MD5:
            paths = [path for path in (folder / f"{name}.gz", folder / name) if path.is_file()]
            if paths:
                found[name] = paths[0]
        if found:
            missing = [name for name in _MD5 if name not in found]
            if missing:
                raise ValueError(f"{printable(folder / missing[0])}.gz: not found beside the other files of MNIST")
            return found
    return None


def _downloaded_files() -> dict[str, Path]:
    return {
        name: fetch(RemoteFile(f"{name}.gz", tuple(f"{mirror}{name}.gz" for mirror in _MIRRORS), md5), "mnist")
        for name, md5 in _MD5.items()
    }


def _read_part(files: dict[str, Path], part: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    stem, most = _STEM[part], _OFFICIAL[part]
    images = files[f"{stem}-images-idx3-ubyte"]
    labels = files[f"{stem}-labels-idx1-ubyte"]
    x = read_idx(images, (_SIDE, _SIDE), most)
    y = read_idx(labels, (), most)
    if len(x) != len(y):
        raise ValueError(f"{printable(images)}: {len(x):,} images, but {len(y):,} labels in {printable(labels)}")
    if y.max() > 9:
        first = int(np.argmax(y > 9))
        raise ValueError(f"{printable(labels)}: expected labels 0 to 9, got {y[first]} at index {first}")
    return as_unit(x[:, None]), y.astype(np.int64)


def read_idx(path: Path, record: tuple[int, ...], most: int) -> NDArray[np.uint8]:
    """Records of an idx file of unsigned bytes, gzipped or not.

    Parameters
    ----------
    path
        The file.
    record
        Expected shape of one record: ``(28, 28)`` for images, ``()`` for labels.
    most
        The largest number of records to accept: the header is not trusted with memory.

    Returns
    -------
    array
        Shape (n, *record).

    Raises
    ------
    ValueError
        If the header is not what is expected, or the file holds less or more than its header says.
    """
    size = math.prod(record)
    with open_unzipped(path) as stream:
        count = _read_header(stream.read(8 + 4 * len(record)), path, record, most)
        content = stream.read(count * size + 1)  # one byte more: to meet the end, where gzip checks its sum
    if len(content) != count * size:
        held = f"{len(content) // size:,}" + (" and a part of one" if len(content) % size else "")
        held = "more" if len(content) > count * size else held
        raise ValueError(f"{printable(path)}: its header says {count:,} records, it holds {held}")
    return np.frombuffer(content, np.uint8).reshape(count, *record)


def _read_header(header: bytes, path: Path, record: tuple[int, ...], most: int) -> int:
    axes = 1 + len(record)
    name = printable(path)
    if len(header) < 4 + 4 * axes:
        raise ValueError(f"{name}: cut inside its header")
    magic, count, *shape = struct.unpack(f">{1 + axes}I", header)
    expected = 256 * _UNSIGNED_BYTES + axes
    if magic != expected:
        raise ValueError(f"{name}: expected the magic number {expected} of an idx file, got {magic}")
    if tuple(shape) != record:
        raise ValueError(f"{name}: expected images of {' x '.join(map(str, record))}, got {shape[0]} x {shape[1]}")
    if not 1 <= count <= most:
        raise ValueError(f"{name}: expected 1 to {most:,} records, its header says {count:,}")
    return count

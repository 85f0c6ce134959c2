"""CIFAR-10 from its official binary layout: a folder of batches, or the archive they are published in."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hilbertnet.data.dataset import Dataset, as_unit, printable, warn_if_incomplete
from hilbertnet.data.files import RemoteFile, data_folders, fetch, open_unzipped

__all__ = ["load_cifar10"]

_FOLDER = "cifar-10-batches-bin"
_ARCHIVE = RemoteFile(
    "cifar-10-binary.tar.gz",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
    "c32a1d4ab5d03f1284b67883e8d87530",
)
_TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
_TEST = "test_batch.bin"
_META = "batches.meta.txt"
_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_IMAGE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32  # one byte for the label, then the red, green and blue planes
_BATCH = 10_000
_OFFICIAL = {"train": 50_000, "test": 10_000}


def load_cifar10() -> Dataset:
    """CIFAR-10: 50,000 training and 10,000 test images of 32 x 32 in colour.

    Raises
    ------
    ValueError
        If a file is missing, cut or corrupted, or the archive cannot be downloaded.
    """
    place, files = _local_files() or _unpacked(fetch(_ARCHIVE, "cifar10"))
    _check_names(files.pop(_META, None), f"{place}/{_META}")
    batches = [_records(files[name], f"{place}/{name}") for name in _present(files, place)]
    (train_x, train_y), (test_x, test_y) = _images(batches[:-1]), _images(batches[-1:])
    return warn_if_incomplete(Dataset("cifar10", train_x, train_y, _NAMES, test_x, test_y, _OFFICIAL), place)


def _present(files: dict[str, bytes], place: str) -> list[str]:
    """Batches in order, the test last. Fewer training batches are sound data; a gap between them is not."""
    train = [name for name in _TRAIN if name in files]
    wanted = [*_TRAIN[: max(len(train), 1)], _TEST]
    for name in wanted:
        if name not in files:
            raise ValueError(f"{place}/{name}: not found beside the other files of CIFAR-10")
    return wanted


def _local_files() -> tuple[str, dict[str, bytes]] | None:
    """Place and content of the files that HILBERTNET_DATA leads to; ``None`` if it leads to none."""
    folders = data_folders(_FOLDER)
    for folder in folders:
        paths = {name: folder / name for name in (*_TRAIN, _TEST, _META) if (folder / name).is_file()}
        if paths.keys() - {_META}:
            return printable(folder), {name: _read_file(path) for name, path in paths.items()}
    for folder in folders:
        if (folder / _ARCHIVE.name).is_file():
            return _unpacked(folder / _ARCHIVE.name)
    return None


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_BATCH * _RECORD + 1)  # a longer file is refused for being longer: no need to read on


def _unpacked(path: Path) -> tuple[str, dict[str, bytes]]:
    """Place and content of the batches inside the archive, in memory: nothing is written, so no name can do harm."""
    wanted = {f"{_FOLDER}/{name}": name for name in (*_TRAIN, _TEST, _META)}
    files = {}
    try:
        with open_unzipped(path) as unzipped:
            with tarfile.open(fileobj=unzipped, mode="r|") as archive:
                for member in archive:
                    name = wanted.get(member.name.removeprefix("./"))
                    stream = archive.extractfile(member) if name and member.isreg() else None
                    if name and stream:
                        files[name] = stream.read(_BATCH * _RECORD + 1)
            while unzipped.read(2**20):  # to the end, where gzip checks its sum
                pass
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{printable(path)}: an archive that is cut or corrupted ({printable(error)})") from None
    return printable(path), files


def _check_names(content: bytes | None, place: str) -> None:
    if content is None:
        return
    names = tuple(content.decode("utf-8", "replace").split())
    if names != _NAMES:
        raise ValueError(f"{place}: expected the names {', '.join(_NAMES)}, got {printable(', '.join(names))[:200]!r}")


def _records(content: bytes, place: str) -> NDArray[np.uint8]:
    """Records (n, 3073) of one batch, checked."""
    if not 0 < len(content) <= _BATCH * _RECORD:
        size = "no record" if not content else f"more than {_BATCH:,} records"
        raise ValueError(f"{place}: expected 1 to {_BATCH:,} records of {_RECORD:,} bytes, got {size}")
    if len(content) % _RECORD:
        raise ValueError(f"{place}: cut inside a record: {len(content):,} bytes are no multiple of {_RECORD:,}")
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    wrong = np.flatnonzero(records[:, 0] >= len(_NAMES))
    if len(wrong):
        raise ValueError(f"{place}: expected labels 0 to 9, got {records[wrong[0], 0]} in record {wrong[0]}")
    return records


def _images(batches: list[NDArray[np.uint8]]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    x = np.empty((sum(map(len, batches)), *_IMAGE), np.float32)
    y = np.concatenate([records[:, 0] for records in batches]).astype(np.int64)
    start = 0
    for records in batches:
        x[start : start + len(records)] = as_unit(records[:, 1:]).reshape(-1, *_IMAGE)
        start += len(records)
    return x, y

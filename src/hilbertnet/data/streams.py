"""Examples to predict on, batch by batch, with or without labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hilbertnet.data.archive import load_part
from hilbertnet.data.dataset import printable
from hilbertnet.data.fasta import read_records
from hilbertnet.data.folder import check_same_size, decode, list_pictures, stack, title
from hilbertnet.data.memory import check_fits
from hilbertnet.data.reading import Reading
from hilbertnet.data.sources import SOURCES, check_same, kind_of_path, unknown_source

__all__ = ["Batch", "Stream", "stream"]


class Batch(NamedTuple):
    """Consecutive examples of a `Stream`; the arrays are the caller's own.

    Parameters
    ----------
    names
        What each example is called, on one line each: its place in the data, from 0, its file, relative to the folder,
        or the first word of its header.
    x
        Images (n, channels, height, width), float32 in [0, 1], or signals (n, channels, length).
    labels
        The names of their classes, or ``None`` where these are not known.
    """

    names: list[str]
    x: NDArray[np.float32]
    labels: list[str] | None


@dataclass(frozen=True, eq=False)
class Stream:
    """Examples that come batch by batch, as often as they are asked for.

    Parameters
    ----------
    name
        What the user called them.
    total
        How many examples there are.
    shape
        Of each example: channels, and height and width or length.
    classes
        The names of classes that occur, in the order of their labels; empty if there are no labels.
    read
        The examples from one place to another, which is not included.
    """

    name: str
    total: int
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    read: Callable[[int, int], Batch] = field(repr=False)

    @property
    def labelled(self) -> bool:
        """Whether the classes of the examples are known."""
        return bool(self.classes)

    def batches(self, size: int = 256) -> Iterator[Batch]:
        """All examples in order, `size` at a time; the last batch may be smaller.

        Parameters
        ----------
        size
            How many examples a batch has.

        Raises
        ------
        ValueError
            If `size` is no positive whole number, or a batch is larger than the machine's memory; and, with the batch
            that it is in, if a file of a folder is no image or does not have the shape of the others.
        """
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"size: expected a positive whole number of examples for each batch, got {size!r}")
        check_fits((min(size, self.total), *self.shape), printable(self.name), "take smaller batches, or resize images")
        return (self.read(start, min(start + size, self.total)) for start in range(0, self.total, size))


def stream(
    source: str | os.PathLike[str],
    *,
    part: str | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    axes: int | None = None,
    label: str | None = None,
    alphabet: str | None = None,
    length: int | None = None,
) -> Stream:
    """The examples that `source` names, to predict on.

    Parameters
    ----------
    source
        As for `load`; but a folder may also have its images directly inside, an ``.npz`` file may lack y or y_test, and
        no header of a FASTA file need name a class: then there are no labels. The files of a folder are listed at once
        and decoded with their batch, so that a batch is all that is ever in memory.
    part
        ``"test"`` for the official test set, ``"train"`` for all but that, or ``None`` for the official test set where
        there is one, else everything. Folders and FASTA files have no official test set.
    size
        Height and width to resize the images of a folder to, by default those of its first image, which the others
        must then have; other images must have that size.
    channels
        1 for grey and 3 for colour images of a folder, by default what its first image is: where that is coloured, grey
        images are taken as coloured; where it is grey, a coloured one is refused. Other images must have that number.
    axes, label, alphabet, length
        As for `load`.

    Raises
    ------
    ValueError
        If there is no such source or part, or its files are missing, cut, corrupted or not as they should be; the
        message names the file.

    Warns
    -----
    IncompleteDataWarning
        If the files are sound but hold fewer examples than the official ones.
    """
    reading = Reading(size=size, channels=channels, axes=axes, label=label, alphabet=alphabet, length=length)
    reading.check()
    if part not in (None, "train", "test"):
        raise ValueError(f"part: expected 'train' or 'test', got {printable(part)!r}")
    name = os.fspath(source)
    if name not in SOURCES:
        if os.path.isdir(name) or os.path.isfile(name):
            return _from_path(Path(name), part, reading)
        raise unknown_source(name)
    reading.only_for(name, "size", "channels")
    data = SOURCES[name]()  # called from here, so that a warning has the line of the caller, as with `load`
    check_same(data.name, data.x.shape, reading)
    if part == "train" or (part is None and data.test_x is None):
        return _from_arrays(data.name, data.x, data.y, data.class_names)
    if data.test_x is None:
        raise _no_test_set(data.name)
    return _from_arrays(data.name, data.test_x, data.test_y, data.class_names)


def _from_path(path: Path, part: str | None, reading: Reading) -> Stream:
    kind = kind_of_path(path, reading)
    if kind == "archive":
        x, y = load_part(path, part, reading.axes)
        check_same(path.name, x.shape, reading)
        return _from_arrays(path.name, x, y)
    if part == "test":
        raise _no_test_set(title(path))
    return _from_records(path, reading) if kind == "fasta" else _from_folder(path, reading.size, reading.channels)


def _from_records(path: Path, reading: Reading) -> Stream:
    found = read_records(path, reading)
    length = reading.length or found.longest

    def read(start: int, stop: int) -> Batch:
        names = [printable(name) for name in found.names[start:stop]]
        labels = None if found.labels is None else list(found.labels[start:stop])
        return Batch(names, found.encoded(start, stop, length), labels)

    classes = tuple(sorted(set(found.labels or ())))
    return Stream(found.name, len(found.texts), (len(found.alphabet.symbols), length), classes, read)


def _no_test_set(name: str) -> ValueError:
    return ValueError(f"part: {printable(name)} has no official test set, got 'test'")


def _from_arrays(name: str, x: NDArray[np.float32], y: NDArray | None, class_names: Sequence[str] = ()) -> Stream:
    """Examples in memory. A batch is a copy of its slice: what is done to it in place is not done to the data."""
    found, codes = (np.array([]), None) if y is None else np.unique(y, return_inverse=True)
    classes = tuple(class_names[label] if class_names else str(label) for label in found.tolist())

    def read(start: int, stop: int) -> Batch:
        labels = None if codes is None else [classes[code] for code in codes[start:stop]]
        return Batch([str(i) for i in range(start, stop)], x[start:stop].copy(), labels)

    return Stream(name, len(x), x.shape[1:], classes, read)


def _from_folder(path: Path, size: tuple[int, int] | None, channels: int | None) -> Stream:
    listed = list_pictures(path)
    files = [os.fspath(file.relative_to(path)) for _, file in listed]  # lighter than paths, of which there may be many
    labels = [label for label, _ in listed if label is not None] or None
    if size is not None and channels is not None:
        shape: tuple[int, int, int] = (channels, *size)
    else:
        height, width, found = decode(path / files[0], size).shape
        shape = (channels or found, height, width)
    pictures = _Pictures(path, files, labels, size, channels, shape)
    return Stream(title(path), len(files), shape, tuple(dict.fromkeys(labels or ())), pictures.read)


@dataclass(frozen=True, eq=False)
class _Pictures:
    """The files of a folder, of which a batch is decoded when it comes."""

    folder: Path
    files: list[str]
    labels: list[str] | None
    size: tuple[int, int] | None  # as asked for, and so is the number of channels
    channels: int | None
    shape: tuple[int, int, int]

    def read(self, start: int, stop: int) -> Batch:
        names = [printable(Path(file).as_posix()) for file in self.files[start:stop]]
        pictures = [self._decode(self.folder / file) for file in self.files[start:stop]]
        labels = None if self.labels is None else self.labels[start:stop]
        return Batch(names, stack(pictures, self.shape[0]), labels)

    def _decode(self, file: Path) -> NDArray[Any]:
        picture = decode(file, self.size)
        first = self.folder / self.files[0]
        check_same_size(self.folder, first, self.shape[1:], file, picture.shape[:2])
        if self.channels is None and picture.shape[2] > self.shape[0]:
            raise ValueError(
                f"{printable(self.folder)}: expected grey images, as the first is, {printable(first)}, got "
                f"{printable(file)} in colour; give channels, 1 to take all as grey or 3 to take all as coloured"
            )
        return picture

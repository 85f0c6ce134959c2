"""Data sets by name, by folder and by file: images, signals, sequences or rows, with labels."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from hilbertnet.data.archive import load_npz
from hilbertnet.data.cifar10 import load_cifar10
from hilbertnet.data.dataset import Dataset, printable
from hilbertnet.data.fasta import is_fasta, load_fasta
from hilbertnet.data.folder import load_folder
from hilbertnet.data.mnist import load_mnist
from hilbertnet.data.reading import Reading
from hilbertnet.text import nearest

__all__ = ["SOURCES", "check_same", "kind_of_path", "load", "unknown_source"]


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = (bunch.images[:, None] / 16).astype(np.float32)
    return Dataset("digits", x, bunch.target, tuple(map(str, range(10))))


SOURCES: dict[str, Callable[[], Dataset]] = {"digits": _digits, "mnist": load_mnist, "cifar10": load_cifar10}


def load(
    source: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    axes: int | None = None,
    label: str | None = None,
    alphabet: str | None = None,
    length: int | None = None,
) -> Dataset:
    r"""The data set that `source` names.

    Parameters
    ----------
    source
        ``"digits"`` (scikit-learn's, needs no download), ``"mnist"``, ``"cifar10"``; a folder with one sub-folder of
        images for each class; an ``.npz`` file with x and y; a FASTA file, or a folder with one for each class. A
        folder that has the name of a data set is written ``"./mnist"``. The files of MNIST and CIFAR-10 are looked for
        in the folder that the environment variable HILBERTNET_DATA names, and else downloaded, once, into the user's
        cache folder.
    size
        Height and width to resize the images of a folder to; other images must have that size.
    channels
        1 for grey and 3 for colour images of a folder; other images must have that number.
    axes
        1 reads an ``.npz`` file with three axes as signals (n, channels, length), and not as grey images.
    label
        A regular expression that finds the class of a sequence in its FASTA header: what its group matches, or all of
        it, such as ``r"\b([a-g])\.\d+"``. Default: ``class=NAME`` or ``label=NAME``.
    alphabet
        Of the sequences: ``"dna"``, ``"rna"``, ``"protein"``, or letters, such as ``"ACGT"``, with those for an unknown
        one ``"ACGT+N"``. Default: what they look like.
    length
        Letters to cut or pad sequences to. Default: those of the longest.

    Raises
    ------
    ValueError
        If there is no such data set, or its files are missing, cut, corrupted or not as they should be; the message
        names the file.

    Warns
    -----
    IncompleteDataWarning
        If the files are sound but hold fewer examples than the official ones.
    """
    reading = Reading(size=size, channels=channels, axes=axes, label=label, alphabet=alphabet, length=length)
    reading.check()
    name = os.fspath(source)
    if name in SOURCES:
        reading.only_for(name, "size", "channels")
        data = SOURCES[name]()
    elif os.path.isdir(name) or os.path.isfile(name):
        return _from_path(Path(name), reading)
    else:
        raise unknown_source(name)
    check_same(data.name, data.x.shape, reading)
    return data


def _from_path(path: Path, reading: Reading) -> Dataset:
    kind = kind_of_path(path, reading)
    if kind == "fasta":
        return load_fasta(path, reading)
    if kind == "folder":
        return load_folder(path, size=reading.size, channels=reading.channels)
    data = load_npz(path, reading.axes)
    check_same(data.name, data.x.shape, reading)
    return data


def kind_of_path(path: Path, reading: Reading) -> Literal["fasta", "folder", "archive"]:
    """What a file or a folder is taken for.

    Raises
    ------
    ValueError
        If something is asked for that means nothing there.
    """
    if is_fasta(path):
        reading.only_for(printable(path), "label", "alphabet", "length")
        return "fasta"
    if path.is_dir():
        reading.only_for(printable(path), "size", "channels")
        return "folder"
    reading.only_for(printable(path), "size", "channels", "axes")
    return "archive"


def unknown_source(name: str) -> ValueError:
    """The error for a name that is none of a data set, a file or a folder."""
    return ValueError(
        f"DATA: expected one of {', '.join(SOURCES)}, a folder with one sub-folder of images for each class, a FASTA "
        f"file, or an .npz file, got {printable(name)!r}{nearest(name, SOURCES)}"
    )


def check_same(name: str, shape: tuple[int, ...], reading: Reading) -> None:
    """Refuse a wish for images that those of a source that is no folder do not meet."""
    channels, *space = shape[1:]
    if reading.size is not None and reading.size != tuple(space):
        height, width = reading.size
        raise ValueError(
            f"size: only a folder of images is resized; {printable(name)} has {' x '.join(map(str, space))}, "
            f"got {height} x {width}"
        )
    if reading.channels is not None and reading.channels != channels:
        raise ValueError(
            f"channels: only a folder of images is converted; {printable(name)} has {channels}, got {reading.channels}"
        )

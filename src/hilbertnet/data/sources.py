"""Data sets by name, by folder and by file, as images in [0, 1] with labels."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hilbertnet.data.archive import load_npz
from hilbertnet.data.cifar10 import load_cifar10
from hilbertnet.data.dataset import Dataset, printable
from hilbertnet.data.folder import load_folder
from hilbertnet.data.mnist import load_mnist
from hilbertnet.text import nearest

__all__ = ["SOURCES", "check_same", "check_wish", "load"]


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = (bunch.images[:, None] / 16).astype(np.float32)
    return Dataset("digits", x, bunch.target, tuple(map(str, range(10))))


SOURCES: dict[str, Callable[[], Dataset]] = {"digits": _digits, "mnist": load_mnist, "cifar10": load_cifar10}


def load(
    source: str | os.PathLike[str], *, size: tuple[int, int] | None = None, channels: int | None = None
) -> Dataset:
    """The data set that `source` names.

    Parameters
    ----------
    source
        ``"digits"`` (scikit-learn's, needs no download), ``"mnist"``, ``"cifar10"``, a folder with one sub-folder of
        images for each class, or an ``.npz`` file with x and y. A folder that has the name of a data set is written
        ``"./mnist"``. The files of MNIST and CIFAR-10 are looked for in the folder that the environment variable
        HILBERTNET_DATA names, and else downloaded, once, into the user's cache folder.
    size
        Height and width to resize the images of a folder to; other sources must have that size.
    channels
        1 for grey and 3 for colour images of a folder; other sources must have that number.

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
    check_wish(size, channels)
    name = os.fspath(source)
    if name in SOURCES:
        data = SOURCES[name]()
    elif os.path.isdir(name):
        return load_folder(Path(name), size=size, channels=channels)
    elif os.path.isfile(name):
        data = load_npz(Path(name))
    else:
        raise ValueError(
            f"DATA: expected one of {', '.join(SOURCES)}, a folder with one sub-folder of images for each class, or an "
            f".npz file, got {printable(name)!r}{nearest(name, SOURCES)}"
        )
    check_same(data.name, data.x.shape, size, channels)
    return data


def check_wish(size: tuple[int, int] | None, channels: int | None) -> None:
    """Refuse a size that is not two positive whole numbers, and channels that are not 1 or 3."""
    if size is not None and not (len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)):
        raise ValueError(f"size: expected height and width, two positive whole numbers, got {size!r}")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels: expected 1 (grey) or 3 (colour), got {channels!r}")


def check_same(name: str, shape: tuple[int, ...], size: tuple[int, int] | None, channels: int | None) -> None:
    """Refuse a wish that images (n, channels, height, width) of a source that is no folder do not meet."""
    _, found, height, width = shape
    if size is not None and tuple(size) != (height, width):
        raise ValueError(
            f"size: only a folder of images is resized; {printable(name)} has {height} x {width}, "
            f"got {size[0]} x {size[1]}"
        )
    if channels is not None and channels != found:
        raise ValueError(
            f"channels: only a folder of images is converted; {printable(name)} has {found}, got {channels}"
        )

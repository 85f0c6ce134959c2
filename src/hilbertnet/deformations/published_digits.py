"""The published files of Infinite MNIST, or what takes their place: which components and tangent images are used."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hilbertnet.data.dataset import printable
from hilbertnet.data.files import VARIABLE, data_folders
from hilbertnet.deformations.components import COUNT, made_fields

__all__ = ["FIELDS_FILE", "TANGENTS_FILE", "Components", "check_finite", "choose_components", "published_files"]

FIELDS_FILE = "fields_float_1522x28x28.bin"
TANGENTS_FILE = "tangVec_float_60000x28x28.bin"
FOLDER = "infimnist"


class Components(NamedTuple):
    """What digits are deformed with.

    Parameters
    ----------
    origin
        ``"published"``, ``"given"`` or ``"made here"``.
    fields
        Displacement components (m, height, width).
    tangents
        Tangent images (n, 2, height, width), or ``None`` if they are made from the images.
    source
        What the tangent images are called in messages: their file or argument.
    """

    origin: str
    fields: NDArray[np.float32]
    tangents: NDArray[np.float32] | None
    source: Any


def choose_components(
    shape: tuple[int, int, int],
    seed: int,
    fields: Any = None,
    tangents: Any = None,
    *,
    folder: str | os.PathLike[str] | None = None,
    published: bool | None = None,
) -> Components:
    """The published files, the caller's own, or those made here.

    Parameters
    ----------
    shape
        Number, height and width of the training digits.
    seed
        Of components made here.
    fields, tangents, folder, published
        As for `InfiniteMNIST`.

    Raises
    ------
    ValueError
        If a file or array is not as it should be. The numbers of a file of tangent images are not read here.
    """
    count, height, width = shape
    origin = "made here" if fields is None and tangents is None else "given"
    found = None if published is False else published_files(folder)
    if published and found is None:
        raise ValueError(
            f"published: expected {FIELDS_FILE} and {TANGENTS_FILE} in the sub-folder {FOLDER} of the folder that "
            f"{VARIABLE} names, or in folder=, found neither; published=False makes components instead"
        )
    if found is not None:
        origin, (fields, tangents) = "published", found
    drawn = made_fields(height, width, seed) if fields is None else _numbers("fields", fields, (COUNT, height, width))
    check_finite(drawn, fields if isinstance(fields, str | os.PathLike) else "fields")
    if tangents is None:
        return Components(origin, drawn, None, None)
    held = _numbers("tangents", tangents, (count, 2, height, width))
    if isinstance(tangents, str | os.PathLike):
        return Components(origin, drawn, held, tangents)
    check_finite(held, "tangents")
    return Components(origin, drawn, held, "tangents")


def published_files(folder: str | os.PathLike[str] | None = None) -> tuple[Path, Path] | None:
    """Where the published components and tangent images are, or ``None`` if neither file is there.

    Parameters
    ----------
    folder
        Where to look; default ``infimnist`` in the folder that HILBERTNET_DATA names, then that folder itself.

    Raises
    ------
    ValueError
        If `folder` holds neither, or one of the two is there without the other.
    """
    folders = data_folders(FOLDER) if folder is None else [Path(folder)]
    for place in folders:
        paths = (place / FIELDS_FILE, place / TANGENTS_FILE)
        missing = [path for path in paths if not path.is_file()]
        if len(missing) == 1:
            raise ValueError(f"{printable(missing[0])}: not found beside the other file of Infinite MNIST")
        if not missing:
            return paths
    if folder is not None:
        raise ValueError(f"folder: expected {FIELDS_FILE} and {TANGENTS_FILE} in {printable(folder)}, found neither")
    return None


def _map_file(path: str | os.PathLike[str], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A file of little-endian float32 numbers as an array of `shape`, mapped: pages are read when they are used.

    Raises
    ------
    ValueError
        If there is no such file, or it has another size; the message names it.
    """
    path = Path(path)
    wanted = 4 * math.prod(shape)
    try:
        found = path.stat().st_size
        if found == wanted:
            return np.memmap(path, np.dtype("<f4"), "r", shape=shape)
    except OSError as error:
        raise ValueError(f"{printable(path)}: expected a file of float32 numbers ({error.strerror})") from None
    sizes = " x ".join(f"{size}" for size in shape)
    raise ValueError(
        f"{printable(path)}: expected {wanted:,} bytes, {sizes} numbers of float32, the file has {found:,}"
    )


def check_finite(values: NDArray, name: Any, numbers: NDArray | None = None) -> None:
    """Refuse NaN and infinity in `values` (n, ...); `numbers` are what its rows are called, by default their places."""
    good = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if not good.all():
        row = int(np.argmin(good))
        number = row if numbers is None else int(numbers[row])
        raise ValueError(f"{printable(name)}: expected finite numbers, got NaN or infinity in number {number}")


def _numbers(name: str, values: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A file's numbers, mapped, or an array's, of which there may be any number of components from 2 on."""
    if isinstance(values, str | os.PathLike):
        return _map_file(values, shape)
    array = np.asarray(values.cpu() if isinstance(values, Tensor) else values)
    wanted = ("m", *shape[1:]) if name == "fields" else shape
    right = array.shape[1:] == shape[1:] and (len(array) >= 2 if name == "fields" else len(array) == shape[0])
    if array.dtype.kind not in "fiu" or array.ndim != len(shape) or not right:
        expected = ", ".join(map(str, wanted)) + (") with m of at least 2" if name == "fields" else ")")
        raise ValueError(f"{name}: expected numbers of shape ({expected}, got shape {array.shape}, dtype {array.dtype}")
    return array.astype(np.float32, copy=False)

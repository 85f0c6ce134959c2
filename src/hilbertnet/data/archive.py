"""An ``.npz`` file with x and y, read without trusting it."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from hilbertnet.data.dataset import Dataset, as_unit, printable
from hilbertnet.data.memory import check_fits

__all__ = ["load_npz", "load_part"]

_MOST_DEFLATED = 1032  # deflate never packs better than this
_MOST_CHANNELS = 4  # that a picture has, where the channels come last
_AXES: dict[int | None, tuple[int, ...]] = {None: (2, 3, 4), 1: (2, 3), 2: (3, 4)}  # of an array
_SPELLINGS = {"x": ("x", "x_train"), "y": ("y", "y_train")}


def load_npz(path: Path, axes: int | None = None) -> Dataset:
    """Signals ``x`` and labels ``y`` of an ``.npz`` file, and its official test set, ``x_test`` and ``y_test``, if any.

    ``x_train`` and ``y_train`` do as well. Images are (n, height, width), (n, channels, height, width) or
    (n, height, width, channels): four axes are read as (n, height, width, channels) if the last has at most 4 entries
    and fewer than the second; otherwise as (n, channels, height, width). Whole numbers are pixels 0..255; real numbers
    are pixels in [0, 1]. Rows (n, features) and, with ``axes=1``, signals (n, channels, length) are finite numbers as
    they are. Labels are whole numbers or text, shape (n,); classes are in sorted order.

    Parameters
    ----------
    path
        The file.
    axes
        1 for signals, 2 for images; default by the number of axes.

    Raises
    ------
    ValueError
        If the file is no zip file, is cut or corrupted, holds objects, lacks x or y, or they are not as above.
    """
    with _open(path) as archive:
        members = _members(archive)
        keys = _keys(members.keys(), path)
        arrays = {role: _read(archive, members[key], f"{printable(path)}: {key}") for role, key in keys.items()}
    places = {role: f"{printable(path)}: {key}" for role, key in keys.items()}
    x = as_signals(arrays["x"], places["x"], axes)
    labels = {role: _as_labels(arrays[role], places[role]) for role in ("y", "y_test") if role in arrays}
    if len({found.dtype.kind for found in labels.values()}) > 1:
        raise ValueError(f"{printable(path)}: expected y and y_test both as whole numbers or both as text")
    classes = np.unique(np.concatenate(list(labels.values())))
    names = tuple(map(str, classes.tolist()))
    y = {role: np.searchsorted(classes, found).astype(np.int64) for role, found in labels.items()}
    test_x = as_signals(arrays["x_test"], places["x_test"], axes) if "x_test" in arrays else None
    try:
        return Dataset(path.name, x, y["y"], names, test_x, y.get("y_test"))
    except ValueError as error:
        raise ValueError(f"{printable(path)}: {error}") from None


def load_part(path: Path, part: str | None, axes: int | None = None) -> tuple[NDArray[np.float32], NDArray | None]:
    """Signals of one part of an ``.npz`` file, and their labels if the file has them; the other part is not read.

    Parameters
    ----------
    path
        The file, as `load_npz` reads it, with or without ``y`` and ``y_test``.
    part
        ``"train"`` for ``x``, ``"test"`` for ``x_test``, or ``None`` for ``x_test`` where there is one, else ``x``.
    axes
        As for `load_npz`.

    Returns
    -------
    x
        Images (n, channels, height, width), float32 in [0, 1], or signals (n, channels, length).
    y
        Labels as whole numbers or text, shape (n,), or ``None``.

    Raises
    ------
    ValueError
        If the file has no such part, or is not as `load_npz` wants it.
    """
    with _open(path) as archive:
        members = _members(archive)
        x_key, y_key = _keys_of_part(members.keys(), part, path)
        x = as_signals(*_read_member(archive, members, x_key, path), axes)
        if y_key is None:
            return x, None
        y = _as_labels(*_read_member(archive, members, y_key, path))
    if len(x) != len(y):
        raise ValueError(
            f"{printable(path)}: {y_key}: expected {len(x)} labels, one for each example, got shape {y.shape}"
        )
    return x, y


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except Exception as error:  # zipfile raises many kinds on a broken file, struct.error among them
        raise ValueError(
            f"{printable(path)}: expected an .npz file, which is a zip file ({printable(error)})"
        ) from None


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    return {item.filename.removesuffix(".npy"): item for item in archive.infolist()}


def _keys_of_part(names: Collection[str], part: str | None, path: Path) -> tuple[str, str | None]:
    """Keys of the images of a part and of their labels, ``None`` if they have none."""
    if "y_test" in names and "x_test" not in names:
        raise ValueError(f"{printable(path)}: expected x_test beside y_test, got {_listed(names)}")
    if part == "test" and "x_test" not in names:
        raise ValueError(
            f"part: {printable(path)} has no official test set, got 'test'; expected x_test, got {_listed(names)}"
        )
    if part == "test" or (part is None and "x_test" in names):
        return "x_test", "y_test" if "y_test" in names else None
    labelled = any(name in names for name in _SPELLINGS["y"])
    return _key(names, "x", path), _key(names, "y", path) if labelled else None


def _key(names: Collection[str], role: str, path: Path) -> str:
    """The one key of the file that plays a role."""
    spellings = _SPELLINGS[role]
    present = [name for name in spellings if name in names]
    if len(present) != 1:
        got = "both" if present else _listed(names)
        raise ValueError(f"{printable(path)}: expected one of {' and '.join(spellings)}, got {got}")
    return present[0]


def _listed(names: Collection[str]) -> str:
    return printable(", ".join(sorted(names)))[:200] or "nothing"


def _keys(names: Collection[str], path: Path) -> dict[str, str]:
    """Which key of the file plays which role."""
    keys = {role: _key(names, role, path) for role in _SPELLINGS}
    tests = [name for name in ("x_test", "y_test") if name in names]
    if len(tests) == 1:
        raise ValueError(f"{printable(path)}: expected both of x_test and y_test or neither, got {tests[0]}")
    return keys | {name: name for name in tests}


def _read_member(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], key: str, path: Path
) -> tuple[NDArray, str]:
    """One array, and where it is, for messages."""
    place = f"{printable(path)}: {key}"
    return _read(archive, members[key], place), place


def _read(archive: zipfile.ZipFile, item: zipfile.ZipInfo, place: str) -> NDArray:
    """One array, whose header must agree with the size of the member before anything of that size is allocated."""
    try:
        with archive.open(item) as stream:
            shape, dtype = _read_header(stream)
            room = item.file_size - stream.tell()
        if dtype.hasobject:
            raise ValueError("an array of objects, which could run code")
        if dtype.itemsize * math.prod(shape) != room or item.file_size > 1024 + _MOST_DEFLATED * item.compress_size:
            raise ValueError(f"a header of shape {shape} and {dtype} that does not agree with the size of the file")
        check_fits((room,), "the array", "too much to load")
        with archive.open(item) as stream:
            return npy.read_array(stream, allow_pickle=False)
    except Exception as error:  # so do the parsers of zip members and of npy headers
        reason = printable(" ".join(str(error).split()))[:300] or type(error).__name__
        raise ValueError(f"{place}: expected an array of numbers, got {reason}") from None


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = npy.read_magic(stream)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"an array in format version {version[0]}.{version[1]}")
    shape, _, dtype = read(stream)
    return shape, dtype


def as_signals(array: NDArray, place: str, axes: int | None) -> NDArray[np.float32]:
    """Images (n, channels, height, width), float32 in [0, 1], or signals (n, channels, length), as `load_npz` reads."""
    if 0 in array.shape or array.ndim not in _AXES[axes]:
        expected = {
            None: "images (n, height, width), (n, channels, height, width) or (n, height, width, channels), or rows "
            "(n, features)",
            1: "signals (n, channels, length) or rows (n, features), as axes is 1",
            2: "images (n, height, width), (n, channels, height, width) or (n, height, width, channels)",
        }
        raise ValueError(f"{place}: expected {expected[axes]}, got shape {array.shape}")
    if array.ndim == 2 or axes == 1:
        return _as_finite(array.reshape(*array.shape[:2], -1), place)
    advice = "; divide pixels by 255"
    if array.ndim == 3:
        array = array[:, None]
        advice += "" if axes == 2 else ", or say that axes is 1, as of signals (n, channels, length)"
    elif array.shape[3] <= _MOST_CHANNELS and array.shape[3] < array.shape[1]:
        array = array.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(_as_unit(array, place, advice))


def _as_finite(array: NDArray, place: str) -> NDArray[np.float32]:
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{place}: expected numbers, got {array.dtype}")
    with np.errstate(over="ignore"):  # found out on the next line
        found = array.astype(np.float32)
    if not np.isfinite(found).all():
        raise ValueError(f"{place}: expected finite numbers, as float32 has them, got others")
    return found


def _as_unit(array: NDArray, place: str, advice: str) -> NDArray[np.float32]:
    if array.dtype.kind == "b":
        return array.astype(np.float32)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{place}: expected numbers, got {array.dtype}")
    low, high = array.min(), array.max()
    if array.dtype.kind == "f":
        if not (low >= 0 and high <= 1):  # false for NaN too
            raise ValueError(f"{place}: expected real numbers in [0, 1], got {low:g} to {high:g}{advice}")
        return array.astype(np.float32)
    if low < 0 or high > 255:
        raise ValueError(f"{place}: expected whole numbers 0 to 255, got {low} to {high}")
    return as_unit(array.astype(np.uint8))


def _as_labels(array: NDArray, place: str) -> NDArray:
    """Labels (n,) as whole numbers or text."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{place}: expected labels (n,), got shape {array.shape}")
    if array.dtype.kind == "U":
        codes = np.ascontiguousarray(array).view(array.dtype.str[0] + "u4")
        if ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any():
            raise ValueError(f"{place}: expected labels as text, got codes that are no letters of any script")
        return array
    if array.dtype.kind == "S":
        return np.char.decode(array, "utf-8", "replace")
    if array.dtype.kind in "iubf":
        with np.errstate(invalid="ignore"):  # of what is no whole number, found out on the next line
            whole = array.astype(np.int64)
        if (whole == array).all():
            return whole
    raise ValueError(f"{place}: expected labels as whole numbers or text, got {array.dtype}")

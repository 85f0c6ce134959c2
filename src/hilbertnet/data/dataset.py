"""What every loader returns: images in [0, 1], labels, the names of classes, and how many there should have been."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Dataset", "IncompleteDataWarning"]


class IncompleteDataWarning(UserWarning):
    """A file is sound but holds fewer examples than the official one."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with labels.

    Parameters
    ----------
    name
        What the user called it.
    x
        Images (n, channels, height, width), float32 in [0, 1].
    y
        Labels, shape (n,). With `class_names`, the label of example i is ``class_names[y[i]]``.
    class_names
        What the classes are called, in the order of their labels; empty if they have no names.
    test_x
        Images of the official test set (m, channels, height, width), or ``None`` if there is no official split.
    test_y
        Their labels, shape (m,).
    official
        How many examples the official parts have, by ``"train"`` and ``"test"``; empty where nothing is official.

    Raises
    ------
    ValueError
        If shapes do not agree, or only one of `test_x` and `test_y` is given.
    """

    name: str
    x: NDArray[np.float32]
    y: NDArray
    class_names: tuple[str, ...] = ()
    test_x: NDArray[np.float32] | None = None
    test_y: NDArray | None = None
    official: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_part("x", self.x, "y", self.y)
        if (self.test_x is None) != (self.test_y is None):
            raise ValueError("test_x, test_y: expected both or neither")
        if self.test_x is not None and self.test_y is not None:
            _check_part("test_x", self.test_x, "test_y", self.test_y)
            if self.test_x.shape[1:] != self.x.shape[1:]:
                raise ValueError(f"test_x: expected shape (m, *{self.x.shape[1:]}), got {self.test_x.shape}")

    def __str__(self) -> str:
        _, channels, height, width = self.x.shape
        colour = "grey" if channels == 1 else f"{channels}-channel"
        test = "" if self.test_x is None else f" and {self._count('test')} official test images"
        classes = len(self.class_names) or len(np.unique(self.y))
        images = f"{self._count('train')} {colour} images of {height} x {width}{test}"
        return f"{printable(self.name)}: {images}, {classes} {'class' if classes == 1 else 'classes'}"

    def _count(self, part: str) -> str:
        found = self.found[part]
        official = self.official.get(part, found)
        return f"{found:,}" if found == official else f"{found:,} of {official:,}"

    @property
    def found(self) -> dict[str, int]:
        """How many examples there are, by ``"train"`` and, where there is an official test set, ``"test"``."""
        return {"train": len(self.x)} | ({} if self.test_x is None else {"test": len(self.test_x)})

    def to_dict(self) -> dict[str, Any]:
        """What a record says of the data, for JSON: name, shape, classes, examples found and their official number."""
        return {
            "name": self.name,
            "shape": list(self.x.shape[1:]),
            "classes": list(self.class_names) or [str(label) for label in np.unique(self.y)],
            "found": self.found,
            "official": dict(self.official),
        }


def _check_part(x_name: str, x: NDArray, y_name: str, y: NDArray) -> None:
    if x.ndim != 4 or 0 in x.shape:
        raise ValueError(f"{x_name}: expected images (n, channels, height, width), got shape {x.shape}")
    if y.shape != (len(x),):
        raise ValueError(f"{y_name}: expected {len(x)} labels, one for each image, got shape {y.shape}")


def warn_if_incomplete(data: Dataset, place: str) -> Dataset:
    """Return `data`, with one warning if it has fewer examples than the official data set."""
    words = {"train": "training", "test": "test"}
    short = [
        f"{data.found[part]:,} of the {number:,} official {words[part]} images"
        for part, number in data.official.items()
        if data.found.get(part, number) < number
    ]
    if short:
        # the frame that called `load`: this function, the loader, `load`, then the user
        warnings.warn(f"{data.name}: {' and '.join(short)} in {place}", IncompleteDataWarning, stacklevel=4)
    return data


def as_unit(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Bytes 0..255 as float32 in [0, 1], without a copy beside the result."""
    unit = pixels.astype(np.float32)
    unit /= 255
    return unit


_JOINERS = "\u200c\u200d"  # invisible, but part of words of some scripts and of many emoji


def printable(text: object) -> str:
    """`text` on one line that every terminal and encoding takes: what cannot be printed becomes U+FFFD."""
    return "".join(letter if letter.isprintable() or letter in _JOINERS else "\ufffd" for letter in str(text))

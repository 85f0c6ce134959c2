"""What every loader returns: signals with labels, the names of classes, and how many there should have been."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hilbertnet.data.sequences import Alphabet

__all__ = ["DEFORMABLE", "Dataset", "IncompleteDataWarning", "Kind"]

Kind = Literal["images", "signals", "sequences", "rows"]
DEFORMABLE: tuple[Kind, ...] = ("images", "signals")
"""Whose positions can be moved a little."""


class IncompleteDataWarning(UserWarning):
    """A file is sound but holds fewer examples than the official one."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images, signals, sequences or rows, with labels.

    Parameters
    ----------
    name
        What the user called it.
    x
        Images (n, channels, height, width), float32 in [0, 1]; or signals (n, channels, length), float32: sequences are
        one-hot letters, zero past their ends, and rows of a table signals of one position.
    y
        Labels, shape (n,). With `class_names`, the label of example i is ``class_names[y[i]]``.
    class_names
        What the classes are called, in the order of their labels; empty if they have no names.
    test_x
        Signals of the official test set, of the shape of those in `x`, or ``None`` if there is no official split.
    test_y
        Their labels, shape (m,).
    official
        How many examples the official parts have, by ``"train"`` and ``"test"``; empty where nothing is official.
    alphabet
        What sequences are made of; ``None`` for anything else.
    names
        What each example of `x` is called; empty if they have no names but their places.

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
    alphabet: Alphabet | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_part("x", self.x, "y", self.y)
        if (self.test_x is None) != (self.test_y is None):
            raise ValueError("test_x, test_y: expected both or neither")
        if self.test_x is not None and self.test_y is not None:
            _check_part("test_x", self.test_x, "test_y", self.test_y)
            if self.test_x.shape[1:] != self.x.shape[1:]:
                raise ValueError(f"test_x: expected shape (m, *{self.x.shape[1:]}), got {self.test_x.shape}")
        if self.alphabet is not None and (self.x.ndim != 3 or self.x.shape[1] != len(self.alphabet.symbols)):
            letters = len(self.alphabet.symbols)
            raise ValueError(f"x: expected sequences (n, {letters}, length), got shape {self.x.shape}")
        if self.names and len(self.names) != len(self.x):
            raise ValueError(f"names: expected {len(self.x)}, one for each example, got {len(self.names)}")

    def __str__(self) -> str:
        test = "" if self.test_x is None else f" and {self._count('test')} official test {self.kind}"
        classes = len(self.class_names) or len(np.unique(self.y))
        examples = f"{self._count('train')} {_SAID[self.kind](self)}{test}"
        return f"{printable(self.name)}: {examples}, {classes} {'class' if classes == 1 else 'classes'}"

    def _count(self, part: str) -> str:
        found = self.found[part]
        official = self.official.get(part, found)
        return f"{found:,}" if found == official else f"{found:,} of {official:,}"

    @property
    def kind(self) -> Kind:
        """``"images"``, ``"sequences"`` of letters, ``"rows"`` of one position, or other ``"signals"``."""
        if self.x.ndim == 4:
            return "images"
        if self.alphabet is not None:
            return "sequences"
        return "rows" if self.x.shape[2] == 1 else "signals"

    @property
    def found(self) -> dict[str, int]:
        """How many examples there are, by ``"train"`` and, where there is an official test set, ``"test"``."""
        return {"train": len(self.x)} | ({} if self.test_x is None else {"test": len(self.test_x)})

    def to_dict(self) -> dict[str, Any]:
        """What a record says of the data, for JSON: name, kind, shape, classes, examples found, their official number.

        Sequences have an alphabet too, as `hilbertnet.data.sequences.parse_alphabet` reads it.
        """
        return {
            "name": self.name,
            "kind": self.kind,
            "shape": list(self.x.shape[1:]),
            "classes": list(self.class_names) or [str(label) for label in np.unique(self.y)],
            "found": self.found,
            "official": dict(self.official),
            **({} if self.alphabet is None else {"alphabet": str(self.alphabet)}),
        }


def _said_images(data: Dataset) -> str:
    _, channels, height, width = data.x.shape
    return f"{'grey' if channels == 1 else f'{channels}-channel'} images of {height} x {width}"


def _said_sequences(data: Dataset) -> str:
    return f"sequences of {data.x.shape[1]} letters on {data.x.shape[2]:,} positions"


def _said_signals(data: Dataset) -> str:
    return f"{data.x.shape[1]}-channel signals of {data.x.shape[2]:,} positions"


def _said_rows(data: Dataset) -> str:
    return f"rows of {data.x.shape[1]:,} numbers"


_SAID = {"images": _said_images, "sequences": _said_sequences, "signals": _said_signals, "rows": _said_rows}


def _check_part(x_name: str, x: NDArray, y_name: str, y: NDArray) -> None:
    if x.ndim not in (3, 4) or 0 in x.shape:
        raise ValueError(
            f"{x_name}: expected images (n, channels, height, width) or signals (n, channels, length), "
            f"got shape {x.shape}"
        )
    if y.shape != (len(x),):
        raise ValueError(f"{y_name}: expected {len(x)} labels, one for each example, got shape {y.shape}")


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

"""Data sets by name, as images in [0, 1] with labels, and seeded stratified splits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hilbertnet.text import nearest

__all__ = ["SOURCES", "Dataset", "load", "split"]


@dataclass(frozen=True)
class Dataset:
    """Images with labels.

    Parameters
    ----------
    name
        What the user called it.
    x
        Images (n, channels, height, width), float32 in [0, 1].
    y
        Labels, shape (n,).
    """

    name: str
    x: NDArray[np.float32]
    y: NDArray

    def __str__(self) -> str:
        n, channels, height, width = self.x.shape
        colour = "grey" if channels == 1 else f"{channels}-channel"
        return f"{self.name}: {n:,} {colour} images of {height} x {width}, {len(np.unique(self.y))} classes"


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return Dataset("digits", (bunch.images[:, None] / 16).astype(np.float32), bunch.target)


SOURCES = {"digits": _digits}


def load(name: str) -> Dataset:
    """The data set called `name`; ``"digits"``, scikit-learn's, needs no download.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if name not in SOURCES:
        raise ValueError(f"DATA: expected one of {', '.join(SOURCES)}, got {name!r}{nearest(name, SOURCES)}")
    return SOURCES[name]()


def split(
    y: NDArray, held_out: float, seed: int, train: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of training and held-out examples, stratified by class.

    Parameters
    ----------
    y
        Labels, shape (n,).
    held_out
        Share of examples held out, in (0, 1).
    seed
        Of the split.
    train
        Keep only so many training examples.

    Raises
    ------
    ValueError
        If a class has too few examples, or there are fewer training examples than `train`.
    """
    from sklearn.model_selection import train_test_split

    if not 0 < held_out < 1:
        raise ValueError(f"held-out: expected a share in (0, 1), got {held_out!r}")
    _, counts = np.unique(y, return_counts=True)
    rest = len(y) - round(len(y) * held_out)
    if counts.min() < 2:
        raise ValueError("y: expected at least two examples of every class, got a class with one")
    if train is not None and not len(counts) <= train <= rest:
        raise ValueError(f"train: expected {len(counts)} (one for each class) to {rest} examples, got {train}")
    first, second = train_test_split(np.arange(len(y)), test_size=held_out, stratify=y, random_state=seed)
    if train is not None and train < len(first):
        first, _ = train_test_split(first, train_size=train, stratify=y[first], random_state=seed)
    return first, second

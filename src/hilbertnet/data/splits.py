"""Seeded splits, stratified by class, and what a record needs to make them again."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilbertnet.data.dataset import Dataset, printable

__all__ = ["Partition", "partition", "split", "subset"]


def split(
    y: NDArray,
    held_out: float,
    seed: int,
    train: int | None = None,
    *,
    stratified: bool = True,
    class_names: Sequence[str] = (),
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of training and held-out examples.

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
    stratified
        Keep the proportions of the classes, and every class on both sides.
    class_names
        What the classes are called, for messages.

    Raises
    ------
    ValueError
        If a class has too few examples, or there are fewer training examples than `train`.
    """
    _check_seed(seed)
    if not 0 < held_out < 1:
        raise ValueError(f"held-out: expected a share in (0, 1), got {held_out!r}")
    classes, counts = np.unique(y, return_counts=True)
    if counts.min() < 2:
        name = _class_name(classes[counts.argmin()], class_names)
        raise ValueError(f"y: expected at least two examples of every class, got a class with one: {name}")
    outside = math.ceil(len(y) * held_out)
    rest = len(y) - outside
    if stratified and min(outside, rest) < len(classes):
        raise ValueError(
            f"held-out: expected a share that leaves each of {len(classes)} classes an example on both sides, "
            f"got {held_out!r} of {len(y)} examples"
        )
    _check_train(train, len(classes), rest)
    first, second = _draw(y, rest, seed, stratified, share=held_out)
    if train is not None and train < rest:
        first = first[subset(y[first], train, seed, stratified=stratified)]
    return first, second


def subset(y: NDArray, train: int, seed: int, *, stratified: bool = True) -> NDArray[np.int64]:
    """Indices of `train` examples, in the proportions of the classes and with at least one of each.

    Parameters
    ----------
    y
        Labels, shape (n,).
    train
        How many examples to keep.
    seed
        Of the choice.
    stratified
        Whether to keep the proportions; if not, examples are drawn whatever their class.

    Raises
    ------
    ValueError
        If there are fewer examples than `train`, or more classes.
    """
    _check_seed(seed)
    _check_train(train, len(np.unique(y)), len(y))
    return np.arange(len(y)) if train == len(y) else _draw(y, train, seed, stratified)[0]


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed: expected a whole number from 0 to {2**32 - 1}, got {seed}")


def _check_train(train: int | None, classes: int, rest: int) -> None:
    if train is not None and not classes <= train <= rest:
        raise ValueError(f"train: expected {classes} (one for each class) to {rest} examples, got {train}")


def _class_name(label: Any, class_names: Sequence[str]) -> str:
    return printable(class_names[label] if class_names else label)


def _draw(
    y: NDArray, size: int, seed: int, stratified: bool, share: float | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`size` indices and the others. scikit-learn draws them; where it would lose a small class, `_draw_each` does."""
    from sklearn.model_selection import train_test_split

    everything = np.arange(len(y))
    counts = np.unique(y, return_counts=True)[1]
    if not stratified:
        first, second = train_test_split(everything, train_size=size, random_state=seed)
        return first, second
    if min(size, len(y) - size) >= len(counts) and counts.min() > 1:
        sizes = {"train_size": size} if share is None else {"test_size": share}
        first, second = train_test_split(everything, **sizes, stratify=y, random_state=seed)
        whole = [first] if share is None else [first, second]
        if all(len(np.unique(y[part])) == len(counts) for part in whole):
            return first, second
    return _draw_each(y, size, seed, both=share is not None)


def _draw_each(y: NDArray, size: int, seed: int, both: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """As near to the proportions as at least one example of each class inside (and outside, for `both`) allows."""
    _, labels, counts = np.unique(y, return_inverse=True, return_counts=True)
    most = counts - int(both)
    taken = np.ones_like(counts)
    while taken.sum() < size:
        lack = np.where(taken < most, size * counts / len(y) - taken, -np.inf)
        taken[lack.argmax()] += 1
    rng = np.random.RandomState(seed)
    inside = np.zeros(len(y), bool)
    for label, number in enumerate(taken):
        inside[rng.permutation(np.flatnonzero(labels == label))[:number]] = True
    return rng.permutation(np.flatnonzero(inside)), rng.permutation(np.flatnonzero(~inside))


@dataclass(frozen=True, eq=False)
class Partition:
    """Which examples of a data set are for training and which for the test.

    Parameters
    ----------
    data
        The data set.
    kind
        ``"official"``: the test examples are ``data.test_x``; ``"stratified"`` or ``"random"``: both are parts of
        ``data.x``.
    train
        Indices into ``data.x`` of the training examples.
    test
        Indices of the test examples, into ``data.test_x`` if official, else into ``data.x``.
    seed
        Of the split, and of the choice of fewer training examples.
    held_out
        Share held out, or ``None`` if official.
    """

    data: Dataset
    kind: str
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    seed: int
    held_out: float | None

    @property
    def train_x(self) -> NDArray[np.float32]:
        """Training images; not a copy when they are all of the data set's."""
        return _take(self.data.x, self.train)

    @property
    def train_y(self) -> NDArray:
        """Labels of the training images."""
        return _take(self.data.y, self.train)

    @property
    def test_x(self) -> NDArray[np.float32]:
        """Test images; not a copy when they are the official ones."""
        official = self.data.test_x if self.kind == "official" else None
        return _take(self.data.x if official is None else official, self.test)

    @property
    def test_y(self) -> NDArray:
        """Labels of the test images."""
        official = self.data.test_y if self.kind == "official" else None
        return _take(self.data.y if official is None else official, self.test)

    def to_dict(self) -> dict[str, Any]:
        """What a record says of the split, for JSON; the digests tell whether a split made again is the same."""
        return {
            "kind": self.kind,
            "seed": self.seed,
            "held_out": self.held_out,
            "train": len(self.train),
            "test": len(self.test),
            "train_sha256": _digest(self.train),
            "test_sha256": _digest(self.test),
        }


def _take(values: NDArray, indices: NDArray[np.int64]) -> NDArray:
    whole = len(indices) == len(values) and np.array_equal(indices, np.arange(len(values)))
    return values if whole else values[indices]


def _digest(indices: NDArray[np.int64]) -> str:
    return hashlib.sha256(np.ascontiguousarray(indices, dtype="<i8").tobytes()).hexdigest()


def partition(
    data: Dataset,
    *,
    held_out: float | None = None,
    seed: int = 0,
    train: int | None = None,
    stratified: bool = True,
) -> Partition:
    """The official split of a data set where there is one, else a seeded one.

    Parameters
    ----------
    data
        The data set.
    held_out
        Share of ``data.x`` to hold out. ``None`` means the official split, or a third where there is none; a number
        leaves the official test set alone and splits the training set.
    seed
        Of the split, and of the choice of fewer training examples.
    train
        Keep only so many training examples.
    stratified
        Keep the proportions of the classes.

    Raises
    ------
    ValueError
        If a class has too few examples, or there are fewer training examples than `train`.
    """
    if held_out is None and data.test_x is not None:
        kept = np.arange(len(data.x)) if train is None else subset(data.y, train, seed, stratified=stratified)
        return Partition(data, "official", kept, np.arange(len(data.test_x)), seed, None)
    share = 1 / 3 if held_out is None else held_out
    first, second = split(data.y, share, seed, train, stratified=stratified, class_names=data.class_names)
    return Partition(data, "stratified" if stratified else "random", first, second, seed, share)

"""What the predictions of a run say: counts, rates of each class, the most frequent confusions."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilbertnet.data.dataset import printable
from hilbertnet.metrics import accuracy_interval
from hilbertnet.report.words import clean, percent

__all__ = ["class_rows", "confusion_rows", "read_counts"]

_COLUMNS = ["example", "label", "prediction"]


def read_counts(path: Path, classes: Sequence[str], examples: int | None) -> tuple[NDArray[np.int64], list[str]]:
    """How often each class was taken for each, from ``predictions.csv``.

    Parameters
    ----------
    path
        The file.
    classes
        Classes in the order to show; others that occur come after them.
    examples
        How many predictions there must be, if that is known.

    Returns
    -------
    counts, classes
        Whole numbers of shape (k, k), rows by label and columns by prediction, and the k classes.

    Raises
    ------
    ValueError
        If the file is not one of predictions, or is not whole.
    OSError
        If it cannot be read.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        if header[:3] != _COLUMNS:
            raise ValueError(f"{path}: expected columns {','.join(_COLUMNS)},..., got {','.join(header[:3])!r}")
        pairs = [(row[1], row[2]) for row in rows if len(row) >= 3]
    if examples is not None and len(pairs) != examples:
        raise ValueError(f"{path}: expected {examples:,} predictions, as the record says, got {len(pairs):,}")
    known = list(dict.fromkeys(classes))
    # the file has the names as a terminal prints them
    spelled = {printable(name): name for name in reversed(known)} | {name: name for name in known}
    pairs = [(spelled.get(label, label), spelled.get(found, found)) for label, found in pairs]
    names = [*known, *sorted({name for pair in pairs for name in pair} - set(known))]
    numbers = {name: number for number, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)), np.int64)
    for label, prediction in pairs:
        counts[numbers[label], numbers[prediction]] += 1
    return counts, names


def class_rows(counts: NDArray[np.int64], classes: Sequence[str]) -> list[dict[str, Any]]:
    """One row for each class: examples, recall with its interval, precision, and what it is most often taken for."""
    rows = []
    for number, name in enumerate(classes):
        row, predicted = counts[number], int(counts[:, number].sum())
        n, right = int(row.sum()), int(row[number])
        wrong = np.where(np.arange(len(row)) == number, 0, row)
        rate = accuracy_interval(np.arange(n) < right, np.ones(n, bool)) if n else None
        rows.append(
            {
                "name": clean(name),
                "examples": n,
                "recall": percent(rate.value, 1) if rate else "–",
                "interval": f"{100 * rate.low:.1f} to {100 * rate.high:.1f}" if rate else "–",
                "precision": percent(right / predicted, 1) if predicted else "–",
                "taken_for": clean(classes[int(wrong.argmax())]) if wrong.any() else None,
                "times": int(wrong.max()),
            }
        )
    return rows


def confusion_rows(counts: NDArray[np.int64], classes: Sequence[str], most: int = 10) -> list[dict[str, Any]]:
    """The most frequent mistakes: label, prediction, how often, and which share of the label's examples."""
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    places = [np.unravel_index(place, wrong.shape) for place in order]
    return [
        {
            "label": clean(classes[label]),
            "prediction": clean(classes[prediction]),
            "count": int(wrong[label, prediction]),
            "share": percent(wrong[label, prediction] / counts[label].sum(), 1),
        }
        for label, prediction in places
        if wrong[label, prediction]
    ]

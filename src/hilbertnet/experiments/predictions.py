"""Predictions as a table: what a run leaves for its test examples, and what ``hilbertnet predict`` streams."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from typing import Any, TextIO

from numpy.typing import NDArray

from hilbertnet.data.dataset import printable

__all__ = ["PredictionWriter"]


class PredictionWriter:
    """Writes CSV: example, label (empty where it is not known), prediction, and the scores.

    Parameters
    ----------
    file
        Open for text, with ``newline=""``.
    classes
        Of the model. Two classes have one score, that of the second.
    """

    def __init__(self, file: TextIO, classes: NDArray) -> None:
        self._writer = csv.writer(file, lineterminator="\n")
        scored = classes[1:] if len(classes) == 2 else classes
        self._writer.writerow(["example", "label", "prediction", *(f"score_{printable(name)}" for name in scored)])

    def write(self, examples: Iterable[Any], labels: Iterable[Any] | None, predicted: NDArray, scores: NDArray) -> None:
        """Rows of a batch; `scores` has shape (n, classes), or (n, 1) for two classes."""
        known = [""] * len(predicted) if labels is None else labels
        for example, label, found, row in zip(examples, known, predicted, scores, strict=True):
            words = (printable(word) for word in (example, label, found))
            self._writer.writerow([*words, *(f"{score:.6g}" for score in row)])

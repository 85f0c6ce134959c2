"""What a report shows of examples, kept in the run folder: worst mistakes, and training images of every class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hilbertnet.data import Partition
from hilbertnet.losses import decide
from hilbertnet.records import save_tensors

__all__ = ["margins", "save_pictures"]

_MISTAKES, _SAMPLES = 48, 64
_BYTES = 2**22  # of each kind
_LETTERS = 60  # of a sequence


def margins(scores: NDArray, true: NDArray[np.int64]) -> NDArray[np.float64]:
    """Score of the true class less the highest of the others: negative for a mistake.

    Parameters
    ----------
    scores
        Shape (n, classes), or (n, 1) for two classes: the score of the second.
    true
        Numbers of the true classes, shape (n,); -1 for a class that has no score, whose margin is minus the highest.
    """
    both = np.concatenate([-scores, scores], axis=1) / 2 if scores.shape[1] == 1 else scores
    both = both.astype(np.float64)
    rows = np.arange(len(both))
    own = np.where(true >= 0, both[rows, true], 0.0)
    both[rows[true >= 0], true[true >= 0]] = -np.inf
    return own - both.max(axis=1)


def save_pictures(path: Path, parts: Partition, classes: NDArray, labels: NDArray, scores: NDArray, seed: int) -> None:
    """Write up to 48 worst mistakes on the test examples and up to 64 training examples: images as bytes.

    Of sequences the names and the first letters are kept, of other examples only their places.

    Parameters
    ----------
    path
        The file.
    parts
        The examples.
    classes
        The sorted classes, in the order of `scores`.
    labels
        The test examples' classes, shape (n,).
    scores
        Of the test examples, shape (n, classes), or (n, 1) for two classes.
    seed
        Of the choice of training examples.
    """
    true = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
    margin = margins(scores, np.where(classes[true] == labels, true, -1))
    predicted = classes[decide(torch.from_numpy(scores)).numpy()]
    most = max(1, _BYTES // int(np.prod(parts.data.x.shape[1:])))
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(margin[wrong], kind="stable")][: min(_MISTAKES, most)]
    kept = np.sort(_samples(parts.train_y, min(_SAMPLES, most), seed))
    mistakes = [
        {
            "example": int(parts.test[i]),
            "label": str(labels[i]),
            "prediction": str(predicted[i]),
            "margin": -float(margin[i]),
            **_spelled(parts, int(i)),
        }
        for i in wrong
    ]
    names = parts.data.class_names
    samples = [
        {"example": int(parts.train[i]), "label": str(names[parts.train_y[i]] if names else parts.train_y[i])}
        for i in kept
    ]
    images = {"mistakes": parts.test_x[wrong], "samples": parts.train_x[kept]} if parts.data.kind == "images" else {}
    tensors = {name: torch.from_numpy(_bytes(x)) for name, x in images.items() if len(x)}
    header: dict[str, Any] = {"kind": "Pictures", "mistakes": mistakes, "samples": samples}
    save_tensors(path, tensors, header)


def _spelled(parts: Partition, i: int) -> dict[str, str]:
    """The name and the first letters of a test sequence."""
    data = parts.data
    if data.alphabet is None or parts.kind == "official":
        return {}
    letters = data.alphabet.decode(parts.test_x[i, :, : _LETTERS + 1])
    shown = letters if len(letters) <= _LETTERS else f"{letters[:_LETTERS]}…"
    return {"name": data.names[parts.test[i]], "letters": shown}


def _samples(y: NDArray, count: int, seed: int) -> NDArray[np.int64]:
    """As many of each class as of any other, where there are enough."""
    classes = np.unique(y)
    rng = np.random.RandomState(seed)
    if count < len(classes):
        return rng.choice(len(y), min(count, len(y)), replace=False)
    each = [rng.permutation(np.flatnonzero(y == label))[: count // len(classes)] for label in classes]
    return np.concatenate(each)


def _bytes(x: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(x * 255).astype(np.uint8)

"""What a fitted run says of other examples, batch by batch."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from hilbertnet.data import Stream, stream
from hilbertnet.data.dataset import printable
from hilbertnet.experiments.predictions import PredictionWriter
from hilbertnet.experiments.run_model import FittedRun
from hilbertnet.losses import decide
from hilbertnet.metrics import Interval, accuracy_interval
from hilbertnet.progress import Progress, track
from hilbertnet.records import RunFolder

__all__ = ["Predicted", "predict_run"]

_BATCH = 256


@dataclass(frozen=True)
class Predicted:
    """What became of the examples.

    Parameters
    ----------
    counts
        How many were predicted as each class, by its name.
    accuracy
        Over the examples that have a label, or ``None`` if none has a label that the model knows.
    strangers
        Labels that the model does not know; they count as mistakes.
    seen
        Whether the run was fitted on part of these examples, so that the accuracy says little.
    """

    counts: dict[str, int]
    accuracy: Interval | None
    strangers: tuple[str, ...]
    seen: bool


def predict_run(
    folder: Path,
    source: str | os.PathLike[str],
    file: TextIO,
    *,
    part: str | None = None,
    resize: bool = False,
    device: str = "cpu",
    progress: Progress = None,
) -> Predicted:
    """Write predictions and scores of all examples as CSV, as they come.

    Parameters
    ----------
    folder
        A finished run.
    source
        Examples: what `hilbertnet.data.stream` takes, labelled or not. They get the run's preprocessing.
    file
        Open for text, with ``newline=""``.
    part
        ``"train"`` or ``"test"`` of a data set with an official test set; default the test set where there is one.
    resize
        Resize the images of a folder to the size of the run's, and cut sequences that are longer than the run's, as is
        done anyway if the run's were.
    device
        Where to compute.
    progress
        ``None`` (a bar on a terminal), ``True``, ``False`` or a callable of (done, total).

    Raises
    ------
    ValueError
        If there is no finished run, or the examples are not what it was fitted on: size or channels.
    """
    from hilbertnet.estimators import load_classifier

    record = _read(RunFolder(folder))
    run = FittedRun(RunFolder(folder), load_classifier(RunFolder(folder).checkpoint_path, device=device))
    model, examples = run.classifier, _open(run, source, part, resize)
    writer, tally = PredictionWriter(file, model.classes_), _Tally({str(name) for name in model.classes_})
    batches = examples.batches(_BATCH)
    for batch in track(batches, progress, label="predictions", total=-(-examples.total // _BATCH)):
        scores = model.decision_function(torch.from_numpy(batch.x)).cpu()
        columns = scores[:, None] if scores.ndim == 1 else scores
        predicted = model.classes_[decide(columns).numpy()]
        writer.write(batch.names, batch.labels, predicted, columns.numpy())
        tally.add(batch.labels, [str(name) for name in predicted])
    return tally.result(_seen(record, source, part))


def _read(run: RunFolder) -> dict[str, Any]:
    record = run.read_record()
    lacking = [name for name in ("settings", "data") if not isinstance(record.get(name), dict)]
    if lacking or "data" not in record["settings"] or "found" not in record["data"]:
        raise ValueError(f"{run.record_path}: expected the record of a run, with its settings and data")
    return record


def _open(run: FittedRun, source: str | os.PathLike[str], part: str | None, resize: bool) -> Stream:
    examples = stream(source, part=part, **asdict(run.reading_of(source, fit=resize)))
    shape = run.classifier.signal_shape_
    if examples.shape != shape:
        wanted, got = (" x ".join(map(str, one)) for one in (shape, examples.shape))
        what = "images of {} (channels, height, width)" if len(shape) == 3 else "signals of {} (channels, length)"
        advice = "; --resize makes images of a folder fit" if os.path.isdir(source) else ""
        raise ValueError(
            f"{printable(source)}: expected {what.format(wanted)}, which {run.folder.path} was fitted on, got {got}"
            f"{advice}"
        )
    return examples


class _Tally:
    def __init__(self, classes: set[str]) -> None:
        self.classes = classes
        self.counts: Counter[str] = Counter()
        self.labels: list[str] = []
        self.predicted: list[str] = []

    def add(self, labels: list[str] | None, predicted: list[str]) -> None:
        self.counts.update(predicted)
        if labels is not None:
            self.labels += labels
            self.predicted += predicted

    def result(self, seen: bool) -> Predicted:
        strangers = tuple(sorted(set(self.labels) - self.classes))
        known = set(self.labels) & self.classes
        accuracy = accuracy_interval(np.array(self.labels), np.array(self.predicted)) if known else None
        return Predicted(dict(self.counts.most_common()), accuracy, strangers, seen)


def _seen(record: dict[str, Any], source: str | os.PathLike[str], part: str | None) -> bool:
    """Whether `source` is what the run was fitted on, and not an official test set that it left alone."""
    known = record["settings"]["data"]
    same = os.fspath(source) == known or (
        os.path.exists(source) and os.path.realpath(source) == os.path.realpath(known)
    )
    return same and (part == "train" or "test" not in record["data"]["found"])

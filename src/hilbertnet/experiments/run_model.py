"""A finished run's model as a function of preprocessed images, and the run's own data as that function takes them."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hilbertnet.data import Dataset, Partition, load, partition
from hilbertnet.data.dataset import printable
from hilbertnet.data.fasta import is_fasta, read_records
from hilbertnet.data.reading import Reading
from hilbertnet.data.sources import SOURCES
from hilbertnet.experiments.fit import labels_of
from hilbertnet.networks import CKN
from hilbertnet.records import RunFolder
from hilbertnet.solvers.linear import LinearHead

if TYPE_CHECKING:
    from hilbertnet.estimators import CKNClassifier, RegularizedClassifier

__all__ = ["Decision", "FittedRun", "RunModel", "class_numbers", "open_run", "read_run"]


@dataclass(frozen=True)
class FittedRun:
    """A finished run: its folder, and what it fitted."""

    folder: RunFolder
    classifier: CKNClassifier | RegularizedClassifier

    @cached_property
    def record(self) -> dict[str, Any]:
        """What it left beside the model."""
        return self.folder.read_record()

    @property
    def settings(self) -> dict[str, Any]:
        """Those of its record."""
        return self.record["settings"]

    def load(self, source: str | None = None, asked: Reading | None = None) -> Dataset:
        """A data set, by default the run's own; others are read as `reading_of` says where nothing else is asked for.

        Raises
        ------
        ValueError
            If there is no such data set, its sequences are longer than the run's, or it is asked how the run's own are
            to be read.
        """
        if source is None:
            for name, value in asdict(asked or Reading()).items():
                if value is not None:
                    raise ValueError(f"{name}: only beside DATA, as a run's own are read as before, got {value!r}")
            return load(self.settings["data"], **asdict(Reading.of(self.settings)))
        return load(source, **asdict((asked or Reading()).over(self.reading_of(source))))

    def reading_of(self, source: str | os.PathLike[str], *, fit: bool = False) -> Reading:
        """How other data are read so that they suit the model: images of its channels, sequences of its letters.

        Parameters
        ----------
        source
            What `hilbertnet.data.load` or `hilbertnet.data.stream` takes.
        fit
            Whether the images of a folder are resized and longer sequences cut, as is done anyway if the run's were.

        Raises
        ------
        ValueError
            If they are sequences and the run's are not, or are longer than the run's and not to be cut.
        """
        kept, path = Reading.of(self.settings), Path(source)
        if os.fspath(source) in SOURCES or not (os.path.isdir(path) or os.path.isfile(path)):
            return Reading()
        channels, *space = self.classifier.signal_shape_
        if is_fasta(path):
            return self._reading_of_sequences(path, None if fit or kept.length else space[0])
        if not path.is_dir():
            return Reading(axes=1 if len(space) == 1 else None)
        size = (space[0], space[-1]) if fit or kept.size else None
        return Reading(size=size, channels=channels if channels in (1, 3) else None)

    def _reading_of_sequences(self, path: Path, most: int | None) -> Reading:
        """Sequences of the run's letters; longer ones than `most` are refused."""
        fitted = self.record["data"]
        kind = fitted.get("kind", "images")
        if kind != "sequences":
            raise ValueError(f"{printable(path)}: expected {kind}, as {self.folder.path} was fitted on, got sequences")
        label = None if path.is_dir() else Reading.of(self.settings).label
        own = Reading(label=label, alphabet=fitted.get("alphabet"))
        longest = 0 if most is None else read_records(path, own).longest
        if most is not None and longest > most:
            raise ValueError(
                f"{printable(path)}: expected sequences of at most {most:,} letters, as {self.folder.path} was fitted "
                f"on, got one of {longest:,}; --resize cuts what is longer"
            )
        return Reading(label=own.label, alphabet=own.alphabet, length=self.classifier.signal_shape_[1])

    def partition(self, data: Dataset) -> Partition:
        """The run's own data, split as the run split them."""
        kept = self.settings
        return partition(data, held_out=kept["held_out"], seed=kept["seed"], train=kept["train"])


def open_run(folder: Path, *, device: str = "cpu", argument: str = "run") -> FittedRun:
    """What ``hilbertnet fit`` left in a folder.

    Parameters
    ----------
    folder
        Of the run.
    device
        Where the model is to be.
    argument
        What the folder is called in the error.

    Raises
    ------
    ValueError
        If there is no finished run.
    """
    from hilbertnet.estimators import load_classifier

    run = RunFolder(folder)
    if not run.finished:
        raise ValueError(f"{argument}: {folder} is no finished run")
    return FittedRun(run, load_classifier(run.checkpoint_path, device=device))


class Decision(nn.Module):
    """The decision values of a convolutional kernel network and its linear head, of preprocessed images.

    Parameters
    ----------
    network, head
        Of the model.
    """

    def __init__(self, network: CKN, head: LinearHead) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(self, x: Tensor) -> Tensor:
        """Shape (n, outputs)."""
        return self.head.scores(self.network(x).flatten(1))


@dataclass(frozen=True)
class RunModel:
    """What a run fitted, and what it was fitted to.

    Parameters
    ----------
    net
        From preprocessed images to decision values (n, outputs), in eval mode.
    kernel
        The same where it is linear on the features of a kernel network, whose norms are known; else ``None``.
    outputs
        What the outputs are called.
    preprocessing
        Text form, or ``None``.
    train, train_y, test, test_y
        Preprocessed images with numbers of classes; of the held-out ones those chosen.
    places
        Of the chosen held-out examples in the data set.
    """

    net: nn.Module
    kernel: Decision | None
    outputs: tuple[str, ...]
    preprocessing: str | None
    train: Tensor
    train_y: Tensor
    test: Tensor
    test_y: Tensor
    places: NDArray[np.int64]


def read_run(folder: Path, *, examples: int, seed: int = 0, device: str = "cpu") -> RunModel:
    """The model of a finished run with its own data.

    Parameters
    ----------
    folder
        What ``hilbertnet fit`` left.
    examples
        How many held-out ones, at most.
    seed
        Of their choice.
    device
        Where the model and the data are to be.

    Raises
    ------
    ValueError
        If there is no finished run, its data cannot be had, or no held-out example has a class of the model.
    """
    from hilbertnet.estimators import CKNClassifier

    run = open_run(folder, device=device)
    model, data = run.classifier, run.load()
    parts = run.partition(data)
    chosen = np.random.RandomState(seed).permutation(len(parts.test_x))[:examples]
    labels = class_numbers(model.classes_, labels_of(data, parts.test_y[chosen]))
    chosen, labels = chosen[(labels >= 0).numpy()], labels[labels >= 0]
    if not len(chosen):
        raise ValueError(f"run: no held-out example of {data.name} has a class that {folder} was fitted to")
    kernel = Decision(model.network_, model.head_) if isinstance(model, CKNClassifier) else None
    net = model.module_ if kernel is None else kernel

    def prepared(x: NDArray) -> Tensor:
        signals, dtype = torch.from_numpy(x), _dtype(net)
        steps = getattr(model, "preprocessing_", None)
        return (signals if steps is None else steps(signals.to(dtype))).to(device, dtype)

    steps = getattr(model, "preprocessing_", None)
    return RunModel(
        net=net.eval(),
        kernel=kernel,
        outputs=_names(model.classes_, net, prepared(parts.test_x[chosen[:1]])),
        preprocessing=None if steps is None else str(steps),
        train=prepared(parts.train_x),
        train_y=class_numbers(model.classes_, labels_of(data, parts.train_y)).to(device),
        test=prepared(parts.test_x[chosen]),
        test_y=labels.to(device),
        places=parts.test[chosen],
    )


def _dtype(net: nn.Module) -> torch.dtype:
    found = (tensor.dtype for tensor in [*net.parameters(), *net.buffers()] if tensor.is_floating_point())
    return next(found, torch.float32)


def class_numbers(classes: NDArray, labels: NDArray) -> Tensor:
    """Places of labels among a model's classes, which are the same if they read the same; -1 for others."""
    known = {str(name): number for number, name in enumerate(classes)}
    found, places = np.unique(labels, return_inverse=True)
    return torch.from_numpy(np.array([known.get(str(name), -1) for name in found], np.int64)[places])


@torch.no_grad()
def _names(classes: NDArray, net: nn.Module, one: Tensor) -> tuple[str, ...]:
    names = [str(name) for name in classes]
    values = net.eval()(one)
    single = values.ndim == 1 or values.shape[1] == 1
    return (f"{names[1]} against {names[0]}",) if single else tuple(names)

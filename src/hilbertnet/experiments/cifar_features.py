"""CIFAR-10 features: convolutional kernel networks, unsupervised and supervised, beside a plain network of their shape.

Training images are the first of the 50,000; the last 10,000 are a test set that no choice looks at, beside the official
test images that are at hand. A fifth of the training images is held out to choose lambda, epoch and learning rate.
"""

from __future__ import annotations

import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hilbertnet.architecture.presets import read_architecture
from hilbertnet.data import Augmentation, Dataset, Preprocessing, load
from hilbertnet.estimators import CKNClassifier
from hilbertnet.experiments.experiment import Experiment, Records, Run, Unfinished, against, markdown
from hilbertnet.losses import decide
from hilbertnet.metrics import Interval, accuracy_interval
from hilbertnet.networks import PlainCNN, ckn_like
from hilbertnet.progress import Progress, format_seconds
from hilbertnet.records import (
    atomic_path,
    digest,
    finite,
    load_tensors,
    save_tensors,
    settings_of,
)
from hilbertnet.solvers.linear import validation_folds
from hilbertnet.training import DivergedError, Epoch, Recipe, evaluate, train

__all__ = ["EXPERIMENT", "CifarRun", "table"]

_TEST = 10_000  # of the training images, the last
_HELD_OUT = 0.2
_PLAIN = "plain network"


@dataclass(frozen=True)
class CifarRun(Run):
    """One row of the table.

    Parameters
    ----------
    name, device
        See `Run`.
    architecture
        Text form or preset.
    train
        How many of the first training images.
    filters
        Of each layer; ``None`` for those of the preset.
    model
        ``"ckn"``, or ``"cnn"`` for the plain network of the same shape.
    training
        ``"unsupervised"`` or ``"supervised"``.
    patches
        Clustered in each layer.
    preprocessing
        Text form.
    epochs, batch_size, augmentation
        Of supervised training.
    rates
        Learning rates to choose from.
    published
        The published accuracy in percent, or ``None``.
    seed
        Of all that is random.
    """

    architecture: str
    train: int
    filters: tuple[int, ...] | None = None
    model: str = "ckn"
    training: str = "unsupervised"
    patches: int = 200_000
    preprocessing: str = "whiten"
    epochs: int = 30
    batch_size: int = 128
    augmentation: str | None = None
    rates: tuple[float, ...] = (0.01,)
    published: float | None = None
    seed: int = 0

    def run(self, folder: Path, progress: Progress = None) -> dict[str, Any]:
        """Fit, choose, test once, and leave the checkpoint in `folder`; the record is returned."""
        data, started = load("cifar10"), time.perf_counter()
        most = len(data.x) - _TEST
        if self.train > most:
            raise ValueError(f"train: expected at most {most:,}, all but the last {_TEST:,} images, got {self.train:,}")
        x, y = data.x[: self.train], data.y[: self.train]
        unfinished = Unfinished(folder, {**settings_of(self), "x": digest(x), "y": digest(y)})
        candidates = (_Plain if self.model == "cnn" else _Kernel)(self, x, y, len(data.class_names), unfinished)
        chosen, found = _choose(candidates, self.rates if self._trained else self.rates[:1], progress)
        with atomic_path(folder / "model.safetensors") as temporary:
            shutil.copyfile(chosen, temporary)
        tests = {}
        for name, (images, labels) in _parts(data).items():
            values = torch.from_numpy(candidates.scores(chosen, images))
            interval = accuracy_interval(labels, decide(values).numpy())
            tests[name] = {"examples": len(values), **interval._asdict()}
        return {
            "settings": settings_of(self),
            "protocol": (
                f"first {self.train:,} training images; {_HELD_OUT:.0%} of them held out to choose lambda, epoch and "
                f"learning rate; tested once on the last {_TEST:,} training images and the official test images at hand"
            ),
            "data": data.to_dict(),
            "test": tests,
            **found,
            **unfinished.costs(started, self.device),
        }

    @property
    def _trained(self) -> bool:
        return self.model == "cnn" or self.training == "supervised"


# --- candidates: a model for each learning rate


@dataclass(frozen=True)
class _Candidates(ABC):
    """Models of a run, one for each learning rate, each finished one with a file of its own."""

    run: CifarRun
    x: NDArray[np.float32]
    y: NDArray
    classes: int
    unfinished: Unfinished

    def file(self, rate: float) -> Path:
        """Where the model of a finished candidate is."""
        return self.unfinished.path(f"candidate-{rate}", ".safetensors")

    def checkpoint(self, rate: float) -> Path:
        """What an interrupted candidate goes on from."""
        return self.unfinished.path(f"{rate:g}", ".safetensors")

    @abstractmethod
    def fit(self, rate: float, progress: Progress) -> dict[str, Any]:
        """Fit and save a model; return what the record says of it, for JSON."""

    @abstractmethod
    def scores(self, file: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Decision values of a saved model."""


def _choose(candidates: _Candidates, rates: Sequence[float], progress: Progress) -> tuple[Path, dict[str, Any]]:
    """The model of the rate that is best on held-out images, and what became of all of them."""

    def fit(rate: float) -> dict[str, Any]:
        try:
            return candidates.fit(rate, progress)
        except DivergedError as error:
            return {"diverged": str(error)}

    said = {rate: candidates.unfinished.part(f"candidate-{rate}", partial(fit, rate)) for rate in rates}
    finished = [rate for rate in rates if "diverged" not in said[rate]]
    if not finished:
        raise ValueError(f"rates: expected one that does not diverge, got {rates}: {said[rates[-1]]['diverged']}")
    best = max(finished, key=lambda rate: said[rate]["validation_accuracy"])
    common = ("features", "history")
    rows = [{"rate": rate, **{key: found[key] for key in found if key not in common}} for rate, found in said.items()]
    of_best = {key: said[best][key] for key in ("validation_accuracy", *common)}
    return candidates.file(best), {**of_best, "candidates": rows}


class _Kernel(_Candidates):
    def fit(self, rate: float, progress: Progress) -> dict[str, Any]:
        run = self.run
        model = CKNClassifier(
            run.architecture,
            run.filters,
            preprocessing=run.preprocessing,
            patches=run.patches,
            validation=_HELD_OUT,
            training=run.training,  # type: ignore[arg-type]
            epochs=run.epochs,
            learning_rate=rate,
            batch_size=run.batch_size,
            augmentation=run.augmentation,
            checkpoint=self.checkpoint(rate),
            random_state=run.seed,
            device=run.device,
            progress=progress,
        ).fit(self.x, self.y)
        model.save(self.file(rate))
        return {
            "validation_accuracy": max(point.accuracy for point in model.validation_curve_),
            "lambda": model.alpha_,
            "features": model.head_.weight.shape[1],
            "history": _as_json(model.history_),
        }

    def scores(self, file: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return CKNClassifier.load(file, device=self.run.device).decision_function(images)


class _Plain(_Candidates):
    def fit(self, rate: float, progress: Progress) -> dict[str, Any]:
        run = self.run
        x, y = self._images, torch.from_numpy(self.y)
        (held,) = validation_folds(y, _HELD_OUT, torch.Generator().manual_seed(run.seed))
        model = self._network()
        optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=5e-4)
        history = train(
            model,
            (x[~held], y[~held]),
            (x[held], y[held]),
            optimizer,
            Recipe(run.epochs, run.batch_size, run.seed, clip=1.0),
            schedule=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, run.epochs),
            augment=None if run.augmentation is None else Augmentation.parse(run.augmentation),
            checkpoint=self.checkpoint(rate),
            progress=progress,
        )
        save_tensors(self.file(rate), model.state_dict(), {"kind": _PLAIN, **asdict(run)})
        return {
            "validation_accuracy": evaluate(model, (x[held], y[held]))[1],
            "features": model.head.in_features,
            "history": _as_json(history),
        }

    def scores(self, file: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
        model = self._network()
        model.load_state_dict(load_tensors(file, _PLAIN)[0])
        return _decisions(model.eval(), torch.from_numpy(self._whiten(images)))

    @cached_property
    def _whiten(self) -> Preprocessing:
        return Preprocessing.parse(self.run.preprocessing).fit(self.x)

    @cached_property
    def _images(self) -> torch.Tensor:
        return torch.from_numpy(self._whiten(self.x))

    def _network(self) -> PlainCNN:
        """The plain network; a CKN is indifferent to the scale of its input, this one gets its mean and deviation."""
        x = self._images
        _, channels, height, width = x.shape
        mean, std = x.mean((0, 2, 3)).tolist(), x.std((0, 2, 3)).tolist()
        arch, preset_filters = read_architecture(self.run.architecture, (height, width))
        filters = self.run.filters or preset_filters
        assert filters is not None
        options: dict[str, Any] = {"space": (height, width), "mean": mean, "std": std, "generator": self.run.seed}
        return ckn_like(arch, channels, filters, self.classes, **options).to(self.run.device)


def _as_json(history: Sequence[Epoch]) -> list[dict[str, Any]]:
    return [finite(asdict(epoch)) for epoch in history]


def _parts(data: Dataset) -> dict[str, tuple[NDArray[np.float32], NDArray]]:
    """Images and labels of the two test sets."""
    assert data.test_x is not None
    assert data.test_y is not None
    return {"last": (data.x[-_TEST:], data.y[-_TEST:]), "official": (data.test_x, data.test_y)}


@torch.no_grad()
def _decisions(model: torch.nn.Module, x: torch.Tensor) -> NDArray[np.float32]:
    device = next(model.parameters()).device
    return torch.cat([model(part.to(device)).cpu() for part in x.split(512)]).numpy()


# --- the table


def table(records: Records) -> str:
    """The table of finished runs, in Markdown; where a published figure is missed by more than 1.5 points, it says so.

    Parameters
    ----------
    records
        By name of the run.
    """
    rows = [["run", "training images", "features", "held out", "last 10,000", "official test", "published", "time"]]
    for name, record in records.items():
        settings, tests = record["settings"], record["test"]
        rows.append(
            [
                name,
                f"{settings['train']:,}",
                f"{record['features']:,}",
                f"{100 * record['validation_accuracy']:.2f}%",
                *(_accuracy(tests[part]) for part in ("last", "official")),
                _published(settings["published"], tests["last"]["value"]),
                format_seconds(record["seconds"]),
            ]
        )
    return markdown(rows)


def _accuracy(test: dict[str, Any]) -> str:
    return f"{Interval(test['value'], test['low'], test['high'])} of {test['examples']:,}"


def _published(figure: float | None, value: float) -> str:
    return "" if figure is None else f"{figure:.1f}% {against(figure, value)}"


EXPERIMENT = Experiment(CifarRun, table)
